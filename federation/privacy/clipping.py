"""Two rules that bound how far one patient can move a sum of gradients, and the sum that carries the bound.

A rule turns the L2 norms of whole per-patient gradients (over all trained parameters together, after the mean over the
patient's images) into factors. The caller multiplies and adds; it REPLACES a gradient whose norm is not finite by
zeros, because a factor of 0 alone would leave 0 * inf = NaN in the sum.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.errors import FormatError, PlanError


@dataclass(frozen=True)
class FlatClipping:
    """Gradients longer than C are shortened to C; the others stay as they are. Abadi et al. 2016, Algorithm 1.

    Guarantees: factor * norm <= clipping_norm for every norm, up to one rounding of the product.

    | norm of a patient's gradient | factor          |
    |------------------------------|-----------------|
    | 0                            | 1 (sum moves 0) |
    | up to C                      | 1               |
    | above C                      | C / norm        |
    | near the largest float64     | 0: see `exact`  |
    | NaN, inf, negative           | 0               |
    """

    clipping_norm: float

    def __post_init__(self) -> None:
        _require_positive(self.clipping_norm, "the clipping norm")

    @property
    def sensitivity(self) -> float:
        return self.clipping_norm

    @property
    def rule(self) -> str:
        """How the sensitivity comes about, as the ledger records it."""
        return f"flat clipping at {self.clipping_norm!r}"

    def factors(self, norms: ArrayLike) -> NDArray[np.float64]:
        norms, usable = _usable(norms)
        return exact(np.where(usable, self.clipping_norm / np.maximum(norms, self.clipping_norm), 0.0))


@dataclass(frozen=True)
class AutoS:
    """Every gradient is scaled to nearly the length R, so there is no threshold to tune. Bu et al. 2023, AUTO-S.

    Guarantees: factor * norm = radius * norm / (norm + gamma) < radius for every norm, up to one rounding.

    | norm of a patient's gradient | factor                    |
    |------------------------------|---------------------------|
    | 0                            | R / gamma (sum moves 0)   |
    | any finite                   | R / (norm + gamma)        |
    | near the largest float64     | 0: see `exact`            |
    | NaN, inf, negative           | 0                         |
    """

    radius: float = 1.0
    gamma: float = 0.01

    def __post_init__(self) -> None:
        _require_positive(self.radius, "the AUTO-S radius")
        _require_positive(self.gamma, "the AUTO-S gamma")

    @property
    def sensitivity(self) -> float:
        return self.radius

    @property
    def rule(self) -> str:
        """How the sensitivity comes about, as the ledger records it."""
        return f"auto-s with radius {self.radius!r}, gamma {self.gamma!r}"

    def factors(self, norms: ArrayLike) -> NDArray[np.float64]:
        norms, usable = _usable(norms)
        return exact(np.where(usable, self.radius / (norms + self.gamma), 0.0))


def clipping_rule(name: str, norm: float) -> FlatClipping | AutoS:
    """The rule that a plan names: "flat" at the norm C, "auto-s" with the radius R."""
    return FlatClipping(norm) if name == "flat" else AutoS(radius=norm)


@dataclass(frozen=True, repr=False, eq=False)
class BoundedSum:
    """A sum over patients. Adding or removing one patient moves it by at most `sensitivity` (L2 norm).

    Of patients only client/training/train.py and privacy/histograms.py make one. It is a sum, not a mean: a divisor
    taken from the drawn patients would have no such bound. It is float64: in float32 the sum of many patients would be
    rounded by more than the claim allows, and differently with one patient less. Nobody drawn: zeros.
    """

    total: NDArray[np.float64]
    sensitivity: float

    def __post_init__(self) -> None:
        if self.total.ndim != 1 or self.total.dtype != np.float64:
            raise FormatError("update-shape", "a sum is one float64 vector", hint="flatten the gradients first")
        _require_positive(self.sensitivity, "the sensitivity")

    def __repr__(self) -> str:
        return "<BoundedSum: hidden>"


def _usable(norms: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    norms = np.asarray(norms, dtype=np.float64)
    usable = np.isfinite(norms) & (norms >= 0.0)
    return np.where(usable, norms, 0.0), usable


def exact(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """A factor below the normal numbers has lost digits, and may be too large by more than a rounding: 0 instead."""
    return np.where(factors >= np.finfo(np.float64).tiny, factors, 0.0)


def _require_positive(value: float, name: str) -> None:
    if not 0.0 < value < float("inf"):
        raise PlanError("plan-value", f"{name} is not a positive, finite number", hint="set a number such as 1.0")
