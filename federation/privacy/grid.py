"""Gradients on a grid of whole numbers, so that sites can add them, and their shares of the noise, without rounding.

A unit is the clipping's sensitivity / 2^bits. Each patient's scaled gradient is cut to whole units towards zero: no
coordinate grows, so its length does not either, and the sensitivity of the sum is 2^bits units, exactly. (Rounding the
sum of a site instead would move it by up to sqrt(numbers) units more.)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from federation.errors import FormatError

FEWEST_BITS = 10
BITS_ABOVE_ROOT = 6  # a gradient as long as the bound, spread over all numbers, has 64 units in each


@dataclass(frozen=True, repr=False, eq=False)
class WholeSum:
    """A sum over patients, in units. Adding or removing one patient moves it by at most 2^bits (L2 norm). int64."""

    total: NDArray[np.int64]
    bits: int

    def __repr__(self) -> str:
        return "<WholeSum: hidden>"


def grid_bits(numbers: int) -> int:
    """How fine the grid is for an adapter of so many numbers: cutting costs about a hundredth of a gradient's length.

    >>> grid_bits(100), grid_bits(40_000), grid_bits(13_000_000)
    (10, 14, 18)
    """
    return max(FEWEST_BITS, BITS_ABOVE_ROOT + ((numbers - 1).bit_length() + 1) // 2)


def whole(gradient: ArrayLike, factor: float, *, sensitivity: float, bits: int) -> NDArray[np.int64]:
    """One patient's gradient, scaled by its clipping factor, in whole units.

    Guarantees: its L2 norm is at most 2^bits, counted in integers, however the factor and the products were rounded.

    | gradient                              | result                                          |
    |---------------------------------------|-------------------------------------------------|
    | factor 0: its norm is not finite      | zeros; it is not multiplied, 0 * inf is NaN     |
    | a coordinate below a unit             | 0                                               |
    | longer than the bound by a rounding   | shortened by a millionth until it is not        |
    | longer by more: not this factor's     | refused                                         |
    """
    numbers = np.array(gradient, dtype=np.float64)
    if factor == 0.0:
        return np.zeros(numbers.shape, np.int64)
    numbers *= factor / sensitivity * 2.0**bits
    for _ in range(16):
        np.trunc(numbers, out=numbers)
        if float(numbers @ numbers) <= 4.0**bits:  # sums of squares of whole numbers below 2^53: exact
            return numbers.astype(np.int64)
        numbers *= 1 - 2.0**-20
    raise FormatError("update-not-finite", "a gradient is longer than its bound", hint="clip it by the plan's own rule")
