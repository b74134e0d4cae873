"""Figures from noisy histograms: AUROC, sensitivity, specificity, kappa, accuracy; their intervals know the noise.

All of this is post-processing of what a site has released (federation/privacy/histograms.py). An interval is the 95 %
percentile of a parametric bootstrap that repeats the release: patients drawn from the estimated curves, fresh noise of
the stated size on counts and sum, the same estimate (Efron & Tibshirani 1993, §6.5). It covers both the patients that
were not asked and the noise; for the exact value of those who were asked it is therefore a little wide.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.privacy.histograms import BINS, STEPS, Axis, Curves, Histogram, curves_of, noise_std

Floats = NDArray[np.float64]
METRICS = ("auroc", "sensitivity", "specificity", "kappa", "accuracy")
RESAMPLES_MOST = 300
Z95 = 1.959963984540054
ERROR_MOST = 0.1
"""Standard error of an AUROC above which the figures of a question say more about the noise than about the model."""


def figures(
    histograms: Mapping[str, Histogram],
    *,
    noise_multiplier: float,
    bootstrap: int,
    minimum_count: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Every figure per question, and their mean over the questions, each as {value, ci95, n: null}; `n` is private.

    A question with fewer than `minimum_count` cases of one answer, or fewer than the noise can tell from none, is
    withheld, and so is one whose AUROC has a standard error above `ERROR_MOST`; both decisions use noisy counts alone.
    """
    counted = noise_std(noise_multiplier, "count", len(histograms))
    sharpened = noise_std(noise_multiplier, "sharpen", len(histograms))
    questions: dict[str, Any] = {}
    errors: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for text, histogram in sorted(histograms.items()):
        curves = curves_of(histogram.axis, histogram.counts, counted)
        least = max(float(minimum_count), 2.0 * counted)
        if histogram.counts.sum(axis=1).min() < least:
            questions[text] = dict.fromkeys(METRICS, _withheld())
            continue
        values = estimate(histogram.axis, histogram.counts, np.array(histogram.influence), curves)
        spread = _errors(histogram.axis, curves, counted, sharpened, min(bootstrap, RESAMPLES_MOST), rng)
        if np.std(spread["auroc"]) > ERROR_MOST:
            questions[text] = dict.fromkeys(METRICS, _withheld())
            continue
        questions[text] = {name: mean_of([{"value": float(values[name])}], spread[name]) for name in METRICS}
        for name in METRICS:
            errors[name].append(spread[name])
    macro = {
        name: mean_of(
            [row[name] for row in questions.values() if row[name]["value"] is not None],
            np.mean(errors[name], axis=0) if errors[name] else np.zeros(0),
        )
        for name in METRICS
    }
    return {"questions": questions, "macro": macro}


def over_sites(sites: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
    """The weighted mean of several sites' macro figures; their intervals combined as independent errors.

    Each end by itself: at an AUROC of 1 an interval reaches down only, and half of its length is not how far.
    """
    macro = {}
    for name in METRICS:
        there = [(site["macro"][name], w) for site, w in zip(sites, weights, strict=True)]
        known = [(figure, w) for figure, w in there if figure["value"] is not None and figure["ci95"] is not None]
        total = sum(w for _, w in known)
        if not known or total <= 0.0:
            macro[name] = _withheld()
            continue
        value = sum(w * figure["value"] for figure, w in known) / total
        down, up = (
            math.sqrt(sum((w / total * (f["ci95"][end] - f["value"])) ** 2 for f, w in known)) for end in (0, 1)
        )
        macro[name] = {"value": value, "ci95": _within(name, value - down, value + up), "n": None}
    return macro


def precision(figure: Mapping[str, Any]) -> float:
    """One over the variance that an interval stands for; 0 for a figure without one."""
    if figure["ci95"] is None:
        return 0.0
    farther = max(abs(float(end) - float(figure["value"])) for end in figure["ci95"])  # the other may be cut off at 1
    std = max(1e-6, farther) / Z95
    return 1.0 / std**2


def estimate(histogram_axis: Axis, counts: Floats, influence: Floats, curves: Curves) -> dict[str, Floats]:
    """The figures from noisy numbers, of one question or, with leading axes, of many repetitions: (…) each."""
    turn = int(np.searchsorted(histogram_axis.edges(), histogram_axis.place(np.zeros(1))[0])) + 1  # even odds
    kept = np.maximum(counts, 0.0)
    missed, hit = kept[..., 0, :turn].sum(axis=-1), kept[..., 0, turn:].sum(axis=-1)
    right, false_alarm = kept[..., 1, :turn].sum(axis=-1), kept[..., 1, turn:].sum(axis=-1)
    total = np.maximum(hit + missed + right + false_alarm, 1e-9)
    agree, said, true = (hit + right) / total, (hit + false_alarm) / total, (hit + missed) / total
    chance = said * true + (1 - said) * (1 - true)
    return {
        "auroc": np.clip(curves.auroc + curves.unit * influence, 0.0, 1.0),
        "sensitivity": hit / np.maximum(hit + missed, 1e-9),
        "specificity": right / np.maximum(right + false_alarm, 1e-9),
        "kappa": (agree - chance) / np.maximum(1 - chance, 1e-9),
        "accuracy": agree,
    }


def _errors(
    axis: Axis, curves: Curves, counted: float, sharpened: float, draws: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """How far the estimate would be off if the curves were the truth: (draws,) of each figure."""
    bins = np.digitize((np.arange(STEPS) + 0.5) / STEPS, axis.edges())
    into = np.eye(BINS + 1)[bins]  # (steps, bins)
    truth = estimate(axis, curves.totals[:, None] * (curves.mass @ into), np.zeros(()), curves)
    cases = np.stack(
        [
            rng.multinomial(max(1, round(float(total))), mass / mass.sum(), size=draws)
            for total, mass in zip(curves.totals, curves.mass, strict=True)
        ],
        axis=1,
    )  # (draws, 2, steps)
    counts = cases @ into
    counts = counts + rng.normal(scale=counted, size=counts.shape)
    again = curves_of(axis, counts, counted)
    influence = (cases * again.influences).sum(axis=(1, 2)) + rng.normal(scale=sharpened, size=draws)
    found = estimate(axis, counts, influence, again)
    unsure = 1.0 + 2.0 * counted / float(curves.totals.min())  # of how many cases the rarer answer has
    return {name: unsure * (found[name] - truth[name]) for name in METRICS}


def mean_of(rows: Sequence[Mapping[str, Any]], errors: Floats) -> dict[str, Any]:
    """The mean of some figures; the interval turns the errors of the bootstrap around it."""
    if not rows:
        return _withheld()
    value = float(np.mean([row["value"] for row in rows]))
    if not len(errors):
        return {"value": value, "ci95": None, "n": None}
    low, high = np.percentile(errors, [2.5, 97.5])
    return {"value": value, "ci95": [max(-1.0, value - float(high)), min(1.0, value - float(low))], "n": None}


def _within(name: str, low: float, high: float) -> list[float]:
    return [max(-1.0 if name == "kappa" else 0.0, low), min(1.0, high)]


def _withheld() -> dict[str, Any]:
    return {"value": None, "ci95": None, "n": None, "withheld": "too few cases for the noise"}
