"""Averages of updates, and the rules that keep one wrong site from deciding them.

Wrong updates between hospitals are mostly bugs: another preprocessing, a label turned round, a learning rate. A plain
mean follows a single one of them anywhere; any bound repairs that. All rules but `none` need every update in the clear
at once (held.py), so none of them goes with secure aggregation.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.adapter import AdapterUpdate, Array
from federation.errors import QuorumError
from federation.privacy.clipping import exact
from server.held import Held, Updates

FEWEST: Mapping[str, int] = {"trimmed-mean": 3, "multi-krum": 5}  # updates that a rule needs; the others need one
WRONG_SHARE = 5  # trimmed-mean and multi-krum withstand a fifth of the sites being wrong, and at least one


def weighted_mean(updates: Updates, folder: Path | None = None) -> AdapterUpdate:
    """Σ weight · update / Σ weight, in float32, added in the order of arrival and dropped.

    Raises: QuorumError if there is none.
    """
    weights: list[int] = []

    def coefficients() -> Iterable[tuple[AdapterUpdate, float]]:
        for update, weight in updates:
            weights.append(weight)
            yield update, weight
            del update  # before the next one is received

    total = _sum(coefficients())
    return _divided(total, sum(weights))


def median_norm(updates: Updates, folder: Path) -> AdapterUpdate:
    """The weighted mean of the updates, each scaled down to the median of their L2 norms if it is longer.

    With fewer than half of the sites wrong, a wrong one moves the mean by at most its weight times a right one's norm.
    """
    with Held(folder).take(updates) as held:
        factors = clip_factors(held.norms)
        scaled = zip(held.updates(), (w * f for w, f in zip(held.weights, factors, strict=True)), strict=True)
        return _divided(_sum(scaled), sum(held.weights))


def clip_factors(norms: Sequence[float]) -> npt.NDArray[np.float64]:
    """What each update is multiplied by: 1, or median / norm if that is less; 0 where it is too small to be exact."""
    lengths = np.array(norms, np.float64)
    median = float(np.median(lengths)) if norms else 0.0
    factors: npt.NDArray[np.float64] = np.divide(median, lengths, out=np.ones_like(lengths), where=lengths > median)
    return exact(factors)


def trimmed_mean(updates: Updates, folder: Path) -> AdapterUpdate:
    """For every number, the weighted mean of what is left without the largest and smallest fifth of the sites' values.

    Yin et al. 2018. Bounds every coordinate by right ones. Hospitals that differ from the others are trimmed too.
    """
    with Held(folder).take(updates) as held:
        away = wrong_sites(len(held), fewest=FEWEST["trimmed-mean"])
        weights = np.array(held.weights, np.float32)
        mean: dict[str, Array] = {}
        shapes = held.update(0).shapes
        for name, shape in shapes.items():
            values = held.matrix(name)
            order = np.argsort(values, axis=0, kind="stable")[away : len(held) - away]
            kept = weights[order]
            mean[name] = ((np.take_along_axis(values, order, 0) * kept).sum(0) / kept.sum(0)).reshape(shape)
    return AdapterUpdate(mean)


def multi_krum(updates: Updates, folder: Path) -> AdapterUpdate:
    """The weighted mean without the fifth of the updates that lies farthest from its neighbours.

    Blanchard et al. 2017, multi-Krum: an update's score is the sum of squared distances to its n - f - 2 nearest
    others; the f with the highest scores are left out.
    """
    with Held(folder).take(updates) as held:
        away = wrong_sites(len(held), fewest=FEWEST["multi-krum"])
        products = np.zeros((len(held), len(held)))
        for name in held.names():
            values = held.matrix(name).astype(np.float64)
            products += values @ values.T
        squares = np.diag(products)
        distances = np.sort(squares[:, None] + squares[None, :] - 2 * products, axis=1)  # the first is its own, 0
        scores = distances[:, 1 : len(held) - away - 1].sum(axis=1)
        chosen = sorted(np.argsort(scores, kind="stable")[: len(held) - away].tolist())
        return weighted_mean((held.update(index), held.weights[index]) for index in chosen)


Rule = Callable[[Updates, Path], AdapterUpdate]
RULES: Mapping[str, Rule] = {
    "none": weighted_mean,
    "median-norm": median_norm,
    "trimmed-mean": trimmed_mean,
    "multi-krum": multi_krum,
}


def wrong_sites(sites: int, *, fewest: int) -> int:
    """How many of so many sites a rule may leave out, at each end. Raises: QuorumError below its fewest."""
    if sites < fewest:
        raise QuorumError(
            "quorum-answers",
            f"this rule against wrong updates needs {fewest} updates",
            hint="raise the quorum, or take robust = median-norm",
        )
    return max(1, min(sites // WRONG_SHARE, (sites - 3) // 2 if fewest == 5 else (sites - 1) // 2))


def _sum(items: Iterable[tuple[AdapterUpdate, float]]) -> dict[str, Array]:
    """Σ coefficient · update; each update is gone before the next one is asked for."""
    total: dict[str, Array] = {}
    for update, coefficient in items:
        for name, array in update.arrays.items():
            if name in total:
                total[name] += array if coefficient == 1 else array * np.float32(coefficient)
            else:
                total[name] = array * np.float32(coefficient)
            del array
        del update
    return total


def _divided(total: dict[str, Array], by: int) -> AdapterUpdate:
    if not total:
        raise QuorumError("quorum-answers", "no update to average", hint="see why the sites' answers were left out")
    for array in total.values():
        array /= np.float32(by)
        array.flags.writeable = False
    return AdapterUpdate(total)
