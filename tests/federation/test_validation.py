"""The noisy change of a score: what one patient can move, what it estimates, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.consent import PrivacyTerms
from federation.errors import BudgetError, FormatError
from federation.evaluation import Validation, validation_from
from federation.privacy import validation
from federation.privacy.clipping import FlatClipping
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling

QUIET = Mechanism(PoissonSampling(1.0), FlatClipping(1.0), 0.2)


class Silent(Mechanism):
    """Without noise, to see the sum itself."""

    def add_noise(self, bounded, stream):
        assert abs(bounded.total).max() <= 1e6
        return type("Sum", (), {"total": bounded.total})()


def change(before, after, mechanism=QUIET, *, divisor=100.0, key=b"k" * 32):
    return validation.release(before, after, mechanism, KeyStream(key), divisor=divisor)


def exact(before, after):
    return change(before, after, Silent(QUIET.sampling, QUIET.clipping, QUIET.noise_multiplier))


def answers(log_odds, positive=None, patients=None):
    scores = np.asarray(log_odds, dtype=float)
    patients = np.arange(len(scores)) if patients is None else np.asarray(patients)
    positive = np.ones(len(scores), bool) if positive is None else np.asarray(positive)
    return Answers(patients, scores, positive)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), questions=st.integers(1, 3))
def test_one_patient_more_or_less_moves_the_sum_by_one_cut_at_most(seed, questions):
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 8, 20)

    def made():
        return [Answers(patients, rng.normal(0, 20, 20), positive) for positive in rng.random((questions, 20)) < 0.5]

    before, after = made(), made()
    kept = patients != 3
    without = [
        [Answers(a.patients[kept], a.log_odds[kept], a.positive[kept]) for a in both] for both in (before, after)
    ]
    after = [Answers(a.patients, a.log_odds, b.positive) for a, b in zip(after, before, strict=True)]
    without[1] = [Answers(a.patients, a.log_odds, b.positive) for a, b in zip(without[1], without[0], strict=True)]

    assert abs(exact(before, after) - exact(*without)) <= validation.CUT / 100.0 + 1e-5  # rounded to 1e-5


def test_it_is_the_mean_change_of_the_quadratic_score_over_the_declared_number():
    before, after = answers([0.0] * 50), answers([0.2] * 50)
    probability = 1 / (1 + np.exp(-0.2))

    assert exact([before], [after]) == pytest.approx(50 / 100 * (0.25 - (1 - probability) ** 2), abs=1e-5)
    assert exact([after], [before]) == -exact([before], [after])


def test_a_patient_with_many_cases_counts_once_and_no_further_than_the_cut():
    before, after = answers([-9.0] * 10, patients=[4] * 10), answers([9.0] * 10, patients=[4] * 10)

    assert exact([before] * 3, [after] * 3) == validation.CUT / 100


def test_a_score_that_is_not_a_number_has_changed_nothing():
    assert exact([answers([np.nan, 0.0])], [answers([0.0, np.inf])]) == exact([answers([0.0])], [answers([np.inf])])


def test_the_noise_is_as_promised_and_there_even_if_nobody_was_held_out():
    told = np.array([change([], [], key=number.to_bytes(32, "big")) for number in range(400)])

    assert told.std() == pytest.approx(validation.noise_std(0.2, 100.0), rel=0.12) and abs(told.mean()) < 1e-4


@pytest.mark.parametrize(
    "mechanism",
    [Mechanism(PoissonSampling(0.5), FlatClipping(1.0), 1.0), Mechanism(PoissonSampling(1.0), FlatClipping(2.0), 1.0)],
)
def test_a_mechanism_of_another_price_is_refused(mechanism):
    with pytest.raises(BudgetError) as caught:
        change([], [], mechanism)
    assert caught.value.code == "budget-event"


def test_what_a_site_says_travels_and_nothing_else_does():
    made = Validation(PrivacyTerms(2.0, 1.0, 1e-4, 0.5, 0.5), -0.01234)

    assert validation_from(made.body()) == made
    for body in ({}, made.body() | {"more": "1"}, made.body() | {"change": "nan"}, made.body() | {"change": "1e2"}):
        with pytest.raises(FormatError):
            validation_from(body)
