"""Optimisers that see noisy mean gradients only. All of this is post-processing: it can spend no privacy.

A vector is float32, one-dimensional, all trained parameters in one row. An optimiser keeps its own moments and is
made anew for every run. `step` returns new parameters and leaves its arguments as they are.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from federation.errors import FormatError, PlanError

Vector: TypeAlias = NDArray[np.float32]


@dataclass
class Sgd:
    """Gradient descent with heavy-ball momentum: velocity = momentum * velocity + gradient."""

    learning_rate: float
    momentum: float = 0.9
    velocity: Vector | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0.0, "the learning rate is not positive")
        _require(0.0 <= self.momentum < 1.0, "momentum is not in [0, 1)")

    def step(self, parameters: Vector, mean_gradient: Vector) -> Vector:
        _require_same_form(parameters, mean_gradient)
        velocity = np.zeros_like(parameters) if self.velocity is None else self.velocity
        self.velocity = np.float32(self.momentum) * velocity + mean_gradient
        return parameters - np.float32(self.learning_rate) * self.velocity


@dataclass
class Adam:
    """Adam, Kingma & Ba 2015, Algorithm 1. Under DP noise prefer `DpAdamBC`."""

    learning_rate: float
    first_decay: float = 0.9
    second_decay: float = 0.999
    adam_eps: float = 1e-8
    steps: int = 0
    first: Vector | None = field(default=None, repr=False)
    second: Vector | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _require(self.adam_eps > 0.0, "adam_eps is not positive")
        _require_decays(self.learning_rate, self.first_decay, self.second_decay)

    def step(self, parameters: Vector, mean_gradient: Vector) -> Vector:
        _require_same_form(parameters, mean_gradient)
        self.steps += 1
        self.first = _decayed(self.first, mean_gradient, self.first_decay)
        self.second = _decayed(self.second, mean_gradient * mean_gradient, self.second_decay)
        scale = np.sqrt(self.second / np.float32(1.0 - self.second_decay**self.steps))
        scale += np.float32(self.adam_eps)
        rate = self.learning_rate / (1.0 - self.first_decay**self.steps)
        moved: Vector = parameters - np.float32(rate) * self.first / scale
        return moved


@dataclass
class DpAdamBC:
    """Adam with the noise's own variance taken out of the second moment. Tang, Shpilevskiy, Lécuyer 2023 (DP-AdamBC).

    The second moment of a noisy gradient is E[g²] + noise_std². Under DP the second term is by far the larger, the same
    for every coordinate, and turns Adam into SGD. It is public, so it can be subtracted:

        parameters - learning_rate * m̂ / sqrt(max(v̂ - noise_std², variance_floor))

    Args:
        noise_std: of one coordinate of the mean gradient: noise_multiplier * sensitivity / divisor.
        variance_floor: the least denominator, squared; a public constant. `None`: a tenth of noise_std², and at least
            1e-12. v̂ is itself noisy, so a floor far below noise_std² makes single coordinates jump in early steps.
    """

    learning_rate: float
    noise_std: float
    variance_floor: float | None = None
    first_decay: float = 0.9
    second_decay: float = 0.999
    steps: int = 0
    first: Vector | None = field(default=None, repr=False)
    second: Vector | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _require(0.0 <= self.noise_std < float("inf"), "the noise scale is not a finite, non-negative number")
        _require_decays(self.learning_rate, self.first_decay, self.second_decay)
        if self.variance_floor is None:
            self.variance_floor = max(0.1 * self.noise_std**2, 1e-12)
        _require(self.variance_floor > 0.0, "the variance floor is not positive")

    def step(self, parameters: Vector, mean_gradient: Vector) -> Vector:
        _require_same_form(parameters, mean_gradient)
        self.steps += 1
        self.first = _decayed(self.first, mean_gradient, self.first_decay)
        self.second = _decayed(self.second, mean_gradient * mean_gradient, self.second_decay)
        variance = self.second / np.float32(1.0 - self.second_decay**self.steps)
        variance -= np.float32(self.noise_std**2)
        np.maximum(variance, np.float32(self.variance_floor), out=variance)
        rate = self.learning_rate / (1.0 - self.first_decay**self.steps)
        moved: Vector = parameters - np.float32(rate) * self.first / np.sqrt(variance)
        return moved


def _decayed(moment: Vector | None, value: Vector, decay: float) -> Vector:
    share = np.float32(1.0 - decay) * value
    return share if moment is None else np.float32(decay) * moment + share


def _require_same_form(parameters: Vector, gradient: Vector) -> None:
    if (
        parameters.ndim != 1
        or parameters.shape != gradient.shape
        or {parameters.dtype, gradient.dtype} != {np.dtype(np.float32)}
    ):
        raise FormatError(
            "update-shape",
            "parameters and gradient are not two float32 vectors of one length",
            hint="flatten both in the same order",
        )


def _require_decays(learning_rate: float, first_decay: float, second_decay: float) -> None:
    _require(learning_rate > 0.0, "the learning rate is not positive")
    _require(0.0 <= first_decay < 1.0 and 0.0 <= second_decay < 1.0, "a decay is not in [0, 1)")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise PlanError("plan-value", message, hint="see [training] in the plan")
