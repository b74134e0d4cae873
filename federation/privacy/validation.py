"""Whether a candidate is worse than what it came from, as one noisy number about a site's held-out patients.

A patient's score under an adapter is the mean over their cases of 1 − (p − y)², p the probability that the model gives
to the positive answer and y whether it is true: Brier's quadratic score (1950), proper, from 0 to 1. A patient adds the
difference of two such scores, cut off at `CUT`: what one round can honestly change is small, and the noise shrinks with
the cut. The sum is divided by a public number, never by how many were examined.

Guarantee: a release is one step of the given mechanism with sampling rate 1. The unit is one patient with all cases of
all questions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from federation.errors import BudgetError
from federation.privacy.clipping import BoundedSum
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism

CUT = 0.25  # the largest difference of one patient that enters the sum
_FAR = 40.0  # log-odds: beyond it a probability is 0 or 1


def release(
    before: Sequence[Answers], after: Sequence[Answers], mechanism: Mechanism, stream: KeyStream, *, divisor: float
) -> float:
    """The noisy mean change of the score from one adapter to the other; the same cases in the same order in both.

    Guarantees:
        Adding or removing one patient changes the sum, in units of `CUT`, by at most 1.

    | edge case                                   | result                                                    |
    |---------------------------------------------|-----------------------------------------------------------|
    | nobody held out, no question asked          | noise alone                                               |
    | a score that is not a number                | the case has changed nothing                              |
    | a mechanism with another rate or norm       | refused (`budget-event`): the charge would be wrong       |
    """
    if mechanism.sampling.sampling_rate != 1.0 or mechanism.clipping.sensitivity != 1.0:
        raise BudgetError(
            "budget-event", "a look is one step at sampling rate 1 and norm 1", hint="report this as a bug"
        )
    changes = np.concatenate([[], *(_score(two) - _score(one) for one, two in zip(before, after, strict=True))])
    patients = np.concatenate([np.empty(0, np.int64), *(answers.patients for answers in after)])
    _, row = np.unique(patients, return_inverse=True)
    mean = np.bincount(row, weights=np.nan_to_num(changes)) / np.maximum(np.bincount(row), 1)
    bounded = BoundedSum(np.array([np.clip(mean / CUT, -1.0, 1.0).sum()]), mechanism.clipping.sensitivity)
    noisy = mechanism.add_noise(bounded, stream).total[0]
    return round(CUT * float(noisy) / divisor, 5)


def noise_std(noise_multiplier: float, divisor: float) -> float:
    """Standard deviation of the noise in what `release` tells."""
    return CUT * noise_multiplier / divisor


def _score(answers: Answers) -> NDArray[np.float64]:
    probability = 1.0 / (1.0 + np.exp(-np.clip(answers.log_odds, -_FAR, _FAR)))
    score: NDArray[np.float64] = 1.0 - (probability - answers.positive) ** 2
    return score
