import math

import numpy as np
import pytest

from federation.errors import FormatError, PlanError
from federation.privacy.optimizer import Adam, DpAdamBC, Sgd


def vector(*values):
    return np.array(values, dtype=np.float32)


def minimised(optimizer, steps=400):
    """|x - (3, -2)| after so many steps on half its square."""
    x, target = vector(0.0, 0.0), vector(3.0, -2.0)
    for _ in range(steps):
        x = optimizer.step(x, x - target)
    return float(np.abs(x - target).max())


@pytest.mark.parametrize("optimizer", [Sgd(0.05), Sgd(0.1, momentum=0.0), Adam(0.05), DpAdamBC(0.05, 0.0)])
def test_every_optimizer_finds_a_minimum(optimizer):
    assert minimised(optimizer) < 0.05


def test_momentum_accumulates_gradients():
    optimizer = Sgd(0.5, momentum=0.5)
    x = optimizer.step(vector(0.0), vector(1.0))
    x = optimizer.step(x, vector(1.0))

    assert x.tolist() == [-0.5 - 0.5 * 1.5]


def test_adam_follows_its_algorithm():
    optimizer, x, gradients = Adam(0.1), vector(1.0), [0.5, -2.0, 1.0]
    m = v = 0.0
    expected = 1.0
    for t, g in enumerate(gradients, start=1):
        x = optimizer.step(x, vector(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)

    assert x[0] == pytest.approx(expected, rel=1e-5)


def test_dp_adam_takes_the_variance_of_the_noise_out():
    noise_std, signal = 0.1, 0.5
    optimizer = DpAdamBC(1.0, noise_std, variance_floor=1e-9, first_decay=0.0)
    gradient = math.sqrt(signal**2 + noise_std**2)  # its square is what signal and noise have on average
    x = optimizer.step(vector(0.0), vector(gradient))

    assert x[0] == pytest.approx(-gradient / signal, rel=1e-5)


def test_the_floor_bounds_the_step_of_a_coordinate_that_is_only_noise():
    optimizer = DpAdamBC(1.0, 0.1, variance_floor=0.04, first_decay=0.0)

    assert optimizer.step(vector(0.0), vector(0.05))[0] == pytest.approx(-0.05 / 0.2)


def test_the_default_floor_is_a_tenth_of_the_noise():
    assert DpAdamBC(1.0, 0.1).variance_floor == pytest.approx(1e-3)
    assert DpAdamBC(1.0, 0.0).variance_floor == 1e-12


def test_without_noise_dp_adam_is_adam():
    rng = np.random.default_rng(0)
    plain, corrected = Adam(0.01, adam_eps=1e-12), DpAdamBC(0.01, 0.0, variance_floor=1e-24)
    x = y = rng.normal(size=50).astype(np.float32)
    for _ in range(20):
        gradient = rng.normal(size=50).astype(np.float32)
        x, y = plain.step(x, gradient), corrected.step(y, gradient)

    assert np.allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: Sgd(0.1), lambda: Adam(0.1), lambda: DpAdamBC(0.1, 0.01)])
def test_a_step_leaves_its_arguments_alone_and_stays_float32(make):
    optimizer, x, gradient = make(), vector(1.0, 2.0), vector(0.5, 0.0)
    moved = optimizer.step(optimizer.step(x, gradient), gradient)

    assert x.tolist() == [1.0, 2.0] and gradient.tolist() == [0.5, 0.0]
    assert moved.dtype == np.float32
    assert "array" not in repr(optimizer)


@pytest.mark.parametrize("make", [lambda: Sgd(0.1), lambda: Adam(0.1), lambda: DpAdamBC(0.1, 0.01)])
@pytest.mark.parametrize(
    ("parameters", "gradient"),
    [
        (vector(1.0), vector(1.0, 2.0)),
        (vector(1.0), np.array([1.0])),
        (np.ones((2, 2), np.float32), np.ones((2, 2), np.float32)),
    ],
)
def test_vectors_of_another_form_are_refused(make, parameters, gradient):
    with pytest.raises(FormatError, match="one length"):
        make().step(parameters, gradient)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sgd(0.0),
        lambda: Sgd(0.1, momentum=1.0),
        lambda: Adam(-1.0),
        lambda: Adam(0.1, adam_eps=0.0),
        lambda: Adam(0.1, second_decay=1.0),
        lambda: DpAdamBC(0.1, -1.0),
        lambda: DpAdamBC(0.1, math.nan),
        lambda: DpAdamBC(0.1, 0.1, variance_floor=0.0),
        lambda: DpAdamBC(math.nan, 0.1),
    ],
)
def test_settings_that_make_no_optimizer_are_refused(make):
    with pytest.raises(PlanError):
        make()
