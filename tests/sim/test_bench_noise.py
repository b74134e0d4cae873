"""The bench of shared noise goes through real rounds, and compares like with like."""

import numpy as np
import pytest

from federation.privacy.accounting import Event, SharedNoise, epsilon
from sim import bench_noise
from sim.bench_noise import Way


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench_noise, "STEPS", 2)
    bench_noise._noise_multiplier.cache_clear()
    yield
    bench_noise._noise_multiplier.cache_clear()


def test_a_cell_is_a_whole_run_and_its_figure_a_share_of_right_answers(monkeypatch):
    monkeypatch.setattr(bench_noise, "EPSILONS", (8.0,))
    measured = bench_noise.bench(seeds=1, ways=(Way("shared, 4 honest", 4), Way("trusted", pooled=True)))

    assert set(measured["figures"]) == {
        "epsilon 8, shared, 4 honest", "epsilon 8, trusted", "epsilon none, trusted",
    }  # fmt: skip
    assert all(0.4 < value < 1.0 for value in measured["figures"].values())


def test_every_way_has_the_least_noise_for_its_epsilon():
    for way in (Way("own"), Way("shared, 6 honest", 6)):
        shared = None if way.honest_sites is None else SharedNoise(6, 10)
        noise = way.noise_multiplier(3.0)
        less, enough = (
            epsilon([Event(0.5, noise - change, 2, "", shared=shared)], bench_noise.DELTA) for change in (0.002, 0)
        )

        assert enough <= 3.0 < less


def test_patients_and_examined_are_made_alike_and_follow_from_the_seed():
    patients, examined = bench_noise.cases(3)

    assert patients.shape == (640, 101) and len(examined) == 4000
    np.testing.assert_array_equal(patients, bench_noise.cases(3)[0])
    assert 0.4 < examined[:, -1].mean() < 0.6 and not (bench_noise.cases(4)[0] == patients).all()


def test_the_gradient_is_that_of_the_logistic_loss():
    patients, _ = bench_noise.cases(0)
    point = np.full(100, 0.03, np.float32)
    step = np.zeros(100, np.float32)
    step[7] = 1e-2
    numbers, answers = patients[:5, :100].astype("f8"), patients[:5, 100]

    def loss(at):
        return np.log1p(np.exp(-np.where(answers > 0, 1, -1) * (numbers @ at)))

    slope = (loss(point + step) - loss(point - step)) / 2e-2
    np.testing.assert_allclose(bench_noise.logistic(point, patients[:5])[:, 7], slope, rtol=1e-3, atol=1e-4)
