import math

import numpy as np
import pytest

from federation.errors import BudgetError, PlanError
from federation.privacy.accounting import Event
from federation.privacy.clipping import AutoS, BoundedSum, FlatClipping
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling

KEY = bytes(range(32))
MECHANISM = Mechanism(PoissonSampling(0.1), FlatClipping(0.5), noise_multiplier=2.0)


def test_the_noise_is_the_multiplier_times_the_sensitivity():
    size = 200_000
    noisy = MECHANISM.add_noise(BoundedSum(np.full(size, 7.0, dtype=np.float64), 0.5), KeyStream(KEY))
    noise = noisy.total.astype(np.float64) - 7.0

    assert noisy.noise_std == MECHANISM.noise_std == 1.0
    assert noisy.total.dtype == np.float32
    assert abs(noise.mean()) < 5 / math.sqrt(size)
    assert abs(noise.var() - 1.0) < 5 * math.sqrt(2 / size)


def test_an_empty_draw_is_noised_like_any_other():
    noisy = MECHANISM.add_noise(BoundedSum(np.zeros(50_000, dtype=np.float64), 0.5), KeyStream(KEY))

    assert noisy.total.all()
    assert abs(noisy.total.std() - 1.0) < 5 * math.sqrt(0.5 / 50_000)


def test_the_bounded_sum_itself_is_left_as_it_was():
    bounded = BoundedSum(np.zeros(10, dtype=np.float64), 0.5)
    MECHANISM.add_noise(bounded, KeyStream(KEY))

    assert not bounded.total.any()


def test_one_patient_is_not_visible_beyond_the_claim():
    # Worst case: neighbours at distance 0.5, full batch. The likelihood ratio test on the noisy sums of one step has
    # P(false alarm) + P(missed) = 2 Phi(-0.5 / (2 * 1.0)): the Gaussian mechanism with noise multiplier 2, no worse.
    stream, trials = KeyStream(KEY), 5_000
    here, away = (
        np.array([MECHANISM.add_noise(BoundedSum(np.array([x]), 0.5), stream).total[0] for _ in range(trials)])
        for x in (0.5, 0.0)
    )
    errors = (here < 0.25).mean() + (away >= 0.25).mean()

    assert abs(errors - math.erfc(0.25 / math.sqrt(2))) < 5 * math.sqrt(0.5 / trials)


def test_a_sum_with_another_bound_is_refused():
    with pytest.raises(BudgetError) as refusal:
        MECHANISM.add_noise(BoundedSum(np.zeros(3, dtype=np.float64), 0.25), KeyStream(KEY))

    assert refusal.value.code == "budget-event"


def test_the_event_is_what_the_mechanism_does():
    assert MECHANISM.event(30) == Event(0.1, 2.0, 30, sensitivity_rule="flat clipping at 0.5")
    assert Mechanism(PoissonSampling(1.0), AutoS(), 0.2).event(1).sensitivity_rule.startswith("auto-s")


@pytest.mark.parametrize("noise_multiplier", [0.0, 0.1999, 1e4 + 1, math.inf, math.nan])
def test_noise_that_the_accountant_cannot_account_for_is_refused_at_once(noise_multiplier):
    with pytest.raises(BudgetError, match="noise multiplier"):
        Mechanism(PoissonSampling(0.1), AutoS(), noise_multiplier)


def test_the_mean_divides_by_a_public_constant():
    noisy = MECHANISM.add_noise(BoundedSum(np.zeros(10, dtype=np.float64), 0.5), KeyStream(KEY))

    assert MECHANISM.divisor(5000) == 500.0
    assert np.array_equal(noisy.mean(500.0), noisy.total / np.float32(500.0))
    assert noisy.mean(500.0).dtype == np.float32
    with pytest.raises(PlanError):
        MECHANISM.divisor(0)


def test_a_noisy_sum_shows_nothing():
    noisy = MECHANISM.add_noise(BoundedSum(np.zeros(10, dtype=np.float64), 0.5), KeyStream(KEY))

    assert repr(noisy) == "<NoisySum: hidden>"
