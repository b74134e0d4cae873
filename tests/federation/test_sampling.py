import math

import numpy as np
import pytest

from federation.errors import PlanError, StoreError
from federation.privacy.keystream import KeyStream
from federation.privacy.sampling import PoissonSampling

KEY = bytes(range(32))
PATIENTS = [f"{i:032x}" for i in range(200)]


def drawn(rate, draws, patients=PATIENTS):
    """(draws, patients) of zeros and ones."""
    sampling, stream = PoissonSampling(rate), KeyStream(KEY)
    number = {patient: i for i, patient in enumerate(patients)}
    coins = np.zeros((draws, len(patients)))
    for row in coins:
        row[[number[patient] for patient in sampling.draw(patients, stream)]] = 1.0
    return coins


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_every_patient_is_drawn_at_the_sampling_rate(rate):
    draws = 2000
    counts = drawn(rate, draws).sum(axis=0)

    # Each count is binomial. Chi-square over 200 patients exceeds 290 with probability 3e-5.
    assert ((counts - draws * rate) ** 2 / (draws * rate * (1 - rate))).sum() < 290


def test_the_number_drawn_varies_as_independent_coins_do():
    sizes = drawn(0.2, 2000).sum(axis=1)

    # Variance n q (1 - q) = 32; its relative standard error is sqrt(2 / 2000). A fixed batch would have variance 0.
    assert abs(sizes.var() / 32 - 1) < 5 * math.sqrt(2 / 2000)


def test_patients_are_drawn_independently_of_each_other_and_of_other_steps():
    coins = drawn(0.5, 2000, PATIENTS[:20]) - 0.5
    together = coins.T @ coins / 2000 * 4
    next_step = coins[:-1].T @ coins[1:] / 1999 * 4

    assert np.abs(together - np.eye(20)).max() < 5.5 / math.sqrt(2000)
    assert np.abs(next_step).max() < 5.5 / math.sqrt(2000)


def test_everybody_is_drawn_in_order_at_rate_one():
    assert PoissonSampling(1.0).draw(PATIENTS, KeyStream(KEY)) == PATIENTS


def test_an_empty_cohort_draws_nobody():
    assert PoissonSampling(0.5).draw([], KeyStream(KEY)) == []


def test_an_empty_draw_is_an_ordinary_result():
    assert PoissonSampling(1e-12).draw(PATIENTS, KeyStream(KEY)) == []


def test_a_patient_listed_twice_is_refused():
    with pytest.raises(StoreError) as refusal:
        PoissonSampling(0.5).draw([*PATIENTS, PATIENTS[0]], KeyStream(KEY))

    assert refusal.value.code == "store-damaged"
    assert PATIENTS[0] not in str(refusal.value)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.0000001, math.inf, math.nan])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(PlanError, match="sampling rate"):
        PoissonSampling(rate)
