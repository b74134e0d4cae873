"""What a site says about its held-out patients: a noisy score histogram per question, and one sum that sharpens it.

A question is asked of many patients. Its first answer is the positive one, and a case's score is the log-odds that the
model gives to it. One release has three parts, each with a share of the same noise (`SHARES`):

    locate   where the scores are: a histogram of all of them in 64 fixed bins; a curve (`Axis`) is fitted to it
    count    positive and negative cases in `BINS` bins of equal mass along that axis, parted at even odds as well
    sharpen  one sum of influences, which corrects the AUROC of the counts to first order (von Mises 1947)

The AUROC is a mean of F(score) over the positive cases, F the share of negative cases below. With F estimated from the
counts, the sum asks for the rest: each positive case adds F(score) minus its mean, each negative case the like, both
cut off where a single patient would weigh too much. Few coarse bins alone cost 0.02 and more of bias, many fine ones
as much in noise; together with the sum the error halves. `server/private_figures.py` makes figures of it.

Guarantee: the whole release is one step of the given mechanism with sampling rate 1, so its cost is
`mechanism.event(1)`. The unit is one patient with all cases of all questions. Adaptive releases of Gaussian noise with
shares s of one budget compose to exactly that budget (Dong, Roth & Su 2022, Theorem 4 and Corollary 2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from federation.errors import BudgetError
from federation.privacy.clipping import BoundedSum
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism

Floats = NDArray[np.float64]

RANGE, CELLS, BINS = 8.0, 64, 6  # log-odds beyond the range count at its ends
SHARES = {"locate": 0.15, "count": 0.4, "sharpen": 0.45}  # of the budget, that is of 1 / noise_std^2
BROAD = (0.1, 0.0, 3.5)  # a curve that is part of every axis: none maps all scores to one place, whatever the noise
CUT = 0.35  # the largest influence that enters the sum, in units of the rarer answer's share
_GRID = np.linspace(-RANGE, RANGE, CELLS + 1)
STEPS = 200  # along the axis, for what has no closed form
_ENDS = np.linspace(0.0, 1.0, STEPS + 1)


@dataclass(frozen=True, repr=False, eq=False)
class Answers:
    """The scored cases of one question at one site, never to leave it: (cases,) each."""

    patients: NDArray[np.int64]  # whose case it is: any numbers, equal for one patient in all questions
    log_odds: Floats
    positive: NDArray[np.bool_]

    def __repr__(self) -> str:
        return "<Answers: hidden>"


@dataclass(frozen=True)
class Axis:
    """Where a question's scores lie: one or two normal curves (weight, mean, standard deviation) of noisy counts.

    A broad curve is always mixed in: an axis that was fitted to noise still tells scores apart.
    """

    curves: tuple[tuple[float, float, float], ...]

    def place(self, log_odds: Floats) -> Floats:
        """Each score as a number in [0, 1], about evenly spread."""
        weight, middle, breadth = BROAD
        parts = [(1.0 - weight) * w * _normal_below((log_odds - mean) / std) for w, mean, std in self.curves]
        place: Floats = np.sum([*parts, weight * _normal_below((log_odds - middle) / breadth)], axis=0)
        return place

    def edges(self) -> Floats:
        """The inner edges of the bins: equal masses, and even odds, where a model that has to say one answer turns."""
        return np.sort(np.append(np.arange(1, BINS) / BINS, self.place(np.zeros(1))))


@dataclass(frozen=True)
class Histogram:
    """What leaves the site about one question: all of it noisy, rounded, and bound to its axis."""

    axis: Axis
    positive: tuple[float, ...]
    negative: tuple[float, ...]
    influence: float

    @property
    def counts(self) -> Floats:
        """(2, bins): positive cases, negative cases."""
        return np.array([self.positive, self.negative])


@dataclass(frozen=True, eq=False)
class Curves:
    """What noisy counts say about one question; with leading axes, about many repetitions of it."""

    mass: Floats  # (…, 2, steps): shares of positive and negative cases at each step of the axis
    totals: Floats  # (…, 2)
    auroc: Floats  # (…)
    influences: Floats  # (…, 2, steps): within [-1, 1], of a positive and a negative case there
    unit: Floats  # (…): one unit of the influence sum, as AUROC


def release(
    answers: Sequence[Answers], mechanism: Mechanism, stream: Callable[[str], KeyStream]
) -> tuple[Histogram, ...]:
    """The noisy histograms of these questions: one step of `mechanism`, whose sampling rate and clipping norm are 1.

    Guarantees:
        Adding or removing one patient, with all their cases of all questions, changes the three sums together by at
        most 1 (L2): each part's share of a patient's vector has at most the root of its share of the budget.

    | edge case                                       | result                                               |
    |-------------------------------------------------|------------------------------------------------------|
    | a patient with several cases of one question    | each counts its part: together one case              |
    | a patient who was not asked some question       | counts in the others as always                       |
    | a question that nobody was asked; no patient    | noise alone                                          |
    | a score that is not a number                    | the case is left out; infinite ones are at the ends  |
    | a mechanism with another rate or norm           | refused (`budget-event`): the charge would be wrong  |
    """
    if mechanism.sampling.sampling_rate != 1.0 or mechanism.clipping.sensitivity != 1.0:
        raise BudgetError(
            "budget-event", "histograms are one step at sampling rate 1 and norm 1", hint="report this as a bug"
        )
    usable = [_usable(answer) for answer in answers]
    cells = [np.digitize(answer.log_odds, _GRID[1:-1]) for answer in usable]
    located = _noisy("locate", usable, cells, [np.ones(len(cell)) for cell in cells], CELLS, mechanism, stream)
    axes = [fit_axis(row, noise_std(mechanism.noise_std, "locate", len(answers))) for row in located]

    places = [axis.place(answer.log_odds) for axis, answer in zip(axes, usable, strict=True)]
    width = BINS + 1
    bins = [
        np.digitize(place, axis.edges()) + np.where(answer.positive, 0, width)
        for axis, answer, place in zip(axes, usable, places, strict=True)
    ]
    counted = _noisy("count", usable, bins, [np.ones(len(bin_)) for bin_ in bins], 2 * width, mechanism, stream)
    counted = np.round(counted, 2)

    weights, nowhere = [], []
    for axis, answer, place, row in zip(axes, usable, places, counted, strict=True):
        curves = curves_of(axis, row.reshape(2, width), noise_std(mechanism.noise_std, "count", len(answers)))
        steps = np.minimum((place * STEPS).astype(np.int64), STEPS - 1)
        weights.append(np.where(answer.positive, curves.influences[0, steps], curves.influences[1, steps]))
        nowhere.append(np.zeros(len(place), dtype=np.int64))
    sharpened = np.round(_noisy("sharpen", usable, nowhere, weights, 1, mechanism, stream)[:, 0], 4)
    return tuple(
        Histogram(axis, tuple(row[:width].tolist()), tuple(row[width:].tolist()), float(influence))
        for axis, row, influence in zip(axes, counted, sharpened, strict=True)
    )


def noise_std(mechanism_noise_std: float, part: str, questions: int) -> float:
    """Standard deviation of the noise in every number of one part, in cases."""
    return mechanism_noise_std * math.sqrt(questions / SHARES[part])


def curves_of(axis: Axis, counts: Floats, noise: float) -> Curves:
    """Smooth curves through noisy counts, (…, 2, bins). The site and whoever reads its answer get the same ones.

    One of `_rises` is fitted to the counts of each answer, by least squares; what it leaves is shrunk towards zero
    (James & Stein 1961), so it counts only as far as it stands out of the noise. Straight lines through the counts
    themselves would be flatter than the truth: noise in an empty bin is never below zero.
    """
    knots = np.concatenate([[0.0], axis.edges(), [1.0]])
    rises = _rises()
    shapes = np.diff([np.interp(knots, _ENDS, rise) for rise in rises], axis=-1)
    lengths = np.linalg.norm(shapes, axis=-1)
    amplitudes = np.maximum(counts @ (shapes / lengths[:, None]).T, 0.0)
    best = amplitudes.argmax(axis=-1)  # (…, 2)
    height = np.take_along_axis(amplitudes, best[..., None], axis=-1) / lengths[best][..., None]
    fitted = height * shapes[best]
    rest = counts - fitted
    beside = (rest**2).sum(axis=-1, keepdims=True)
    freedom = counts.shape[-1] - 3  # of the rest: height, place and slope are fitted
    shrunk = fitted + rest * np.maximum(0.0, 1.0 - freedom * noise**2 / np.maximum(beside, 1e-9))
    totals = np.maximum(shrunk.sum(axis=-1), noise)
    kept = np.maximum(shrunk, 0.0) + 0.05 * noise * shapes[best]  # no bin is empty
    within = np.digitize((np.arange(STEPS) + 0.5) / STEPS, knots[1:-1])
    mass = np.diff(rises[best], axis=-1) * (kept / np.maximum(shapes[best], 1e-12))[..., within]
    mass /= mass.sum(axis=-1, keepdims=True)
    middle = np.cumsum(mass, axis=-1) - mass / 2
    unit = CUT / totals.min(axis=-1)
    cuts = unit[..., None, None] * totals[..., None]
    there = np.stack([middle[..., 1, :], 1.0 - middle[..., 0, :]], axis=-2)
    influences = np.clip(there - _centre(there, mass, cuts), -cuts, cuts) / cuts
    return Curves(mass, totals, (mass[..., 0, :] * middle[..., 1, :]).sum(axis=-1), influences, unit)


def fit_axis(noisy: Floats, noise: float) -> Axis:
    """The normal curve that fits a noisy histogram best, and a second one if what is left stands out of the noise.

    There are more places for a narrow curve than for a broad one, so the best of them gets more out of noise alone: by
    the expected maximum of so many normals, which is taken off before they are compared.
    """
    shapes, parameters = _shapes()
    luck = noise * np.sqrt(2.0 * np.log([2.0 + 2.0 * RANGE / std for _, std in parameters]))
    curves: list[tuple[float, float, float]] = []
    rest = noisy.copy()
    for threshold in (0.0, 5.0 * noise):
        amplitudes = shapes @ rest
        best = int(np.argmax(amplitudes - luck))
        if curves and amplitudes[best] < threshold:
            break
        mean, std = parameters[best]
        height = max(float(amplitudes[best]), 1e-9)
        mass = height * float(shapes[best].sum())
        curves.append((mass, mean, std))
        rest -= height * shapes[best]
    total = sum(mass for mass, _, _ in curves)
    return Axis(tuple((round(mass / total, 4), mean, std) for mass, mean, std in curves))


def _noisy(
    part: str,
    answers: Sequence[Answers],
    cells: Sequence[NDArray[np.int64]],
    weights: Sequence[Floats],
    width: int,
    mechanism: Mechanism,
    stream: Callable[[str], KeyStream],
) -> Floats:
    """Sums of weights per question and cell with noise, in cases: (questions, width).

    One row per patient and one column per question and cell, at most 1 long before its share; the mechanism's own rule
    clips what rounding, or a caller's mistake, would leave longer.
    """
    scale = math.sqrt(SHARES[part] / max(1, len(answers)))
    names = sorted({int(name) for answer in answers for name in answer.patients})
    rows = np.zeros((len(names), len(answers) * width))
    for question, (answer, cell, weight) in enumerate(zip(answers, cells, weights, strict=True)):
        row = np.searchsorted(names, answer.patients)
        cases = np.bincount(row, minlength=len(names))
        np.add.at(rows, (row, question * width + cell), scale * np.clip(weight, -1.0, 1.0) / cases[row])
    bound = math.sqrt(SHARES[part])
    factors = mechanism.clipping.factors(np.linalg.norm(rows, axis=1) / bound)
    total = (rows * factors[:, None]).sum(axis=0)
    noisy = mechanism.add_noise(BoundedSum(total, mechanism.clipping.sensitivity), stream(part))
    return noisy.total.astype(np.float64).reshape(len(answers), width) / scale


def _usable(answer: Answers) -> Answers:
    """Without cases whose score is not a number, and with all scores within the range."""
    kept = ~np.isnan(answer.log_odds)
    return Answers(answer.patients[kept], np.clip(answer.log_odds[kept], -RANGE, RANGE), answer.positive[kept])


def _centre(there: Floats, mass: Floats, cuts: Floats) -> Floats:
    """What to take off so that the cut influences have mean 0: bisection. (…, 2, 1)"""
    low, high = np.full_like(cuts, -1.0), np.full_like(cuts, 2.0)
    for _ in range(24):
        middle = (low + high) / 2
        above = (mass * np.clip(there - middle, -cuts, cuts)).sum(axis=-1, keepdims=True) > 0.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return (low + high) / 2


@lru_cache(maxsize=1)
def _shapes() -> tuple[Floats, tuple[tuple[float, float], ...]]:
    """Normal curves as histograms of length 1, with the mean and standard deviation of each."""
    parameters = [(mean / 4, std) for mean in range(-30, 31) for std in (0.15, 0.25, 0.4, 0.6, 0.9, 1.3, 2.0, 3.0)]
    ends = _GRID.copy()
    ends[0], ends[-1] = -1e6, 1e6  # scores beyond the range count at its ends
    shapes = np.stack([np.diff(_normal_below((ends - mean) / std)) for mean, std in parameters])
    return shapes / np.linalg.norm(shapes, axis=1, keepdims=True), tuple(parameters)


@lru_cache(maxsize=1)
def _rises() -> Floats:
    """Shares of one answer's cases below each step of an axis, (curves, steps + 1): normal curves, were the axis one.

    A little of an even spread is in each: none says that a score cannot be.
    """
    normal = NormalDist()
    z = np.array([normal.inv_cdf(min(max(end, 1e-9), 1.0 - 1e-9)) for end in _ENDS.tolist()])
    curves = [
        _normal_below((z - 0.15 * mean) * slope)
        for slope in (0.4, 0.55, 0.75, 1.0, 1.35, 1.8, 2.5)
        for mean in range(-20, 21)
    ]
    rises: Floats = 0.98 * np.array(curves) + 0.02 * _ENDS
    rises[:, 0], rises[:, -1] = 0.0, 1.0
    return rises


def _normal_below(z: Floats) -> Floats:
    return np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in z.tolist()])
