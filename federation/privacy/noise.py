"""Gaussian noise, on real numbers and on whole ones, from a keystream.

Not defended: the output of `gaussian` is float32, so it lies on a grid, and both are made in a time that varies a
little. The published attacks on floating-point Gaussians (Mironov 2012; Jin et al. 2022) need single noisy outputs in
full precision; a site releases the rounded result of many noisy steps.
"""

import math

import numpy as np
from numpy.typing import NDArray

from federation.errors import FormatError
from federation.privacy.keystream import KeyStream

_BLOCK = 1 << 16  # normals made at a time: the float64 intermediates stay inside the cache


def gaussian(mean: NDArray[np.float64], *, noise_std: float, stream: KeyStream) -> NDArray[np.float32]:
    """Independent normals around each number of `mean`, with standard deviation `noise_std`. Box & Muller 1958.

    Guarantees:
        Drawn and added in float64, then rounded to float32, once. The radius uses 64 bits, so |z| reaches 9.4 standard
        deviations; what is missing beyond has probability below 1e-20 a coordinate. Memory beside it is constant.

    | edge case             | result               |
    |-----------------------|----------------------|
    | an empty mean         | an empty array       |
    | noise_std 0           | the mean, rounded    |
    | negative, NaN, inf    | refused              |
    """
    if not 0.0 <= noise_std < float("inf"):
        raise FormatError("noise-stream", "noise needs a finite, non-negative scale", hint="check the noise multiplier")
    noisy = np.empty(mean.size, dtype=np.float32)
    for start in range(0, mean.size, _BLOCK):
        block, centre = noisy[start : start + _BLOCK], mean[start : start + _BLOCK]
        pairs = (block.size + 1) // 2
        radius = stream.words(pairs).astype(np.float64)
        radius += 1.0  # (0, 2^64]: the logarithm below is finite
        radius *= 2.0**-64
        np.log(radius, out=radius)
        radius *= -2.0 * noise_std * noise_std
        np.sqrt(radius, out=radius)
        angle = stream.uniform(pairs)
        angle *= 2.0 * np.pi
        block[:pairs] = radius * np.cos(angle) + centre[:pairs]
        block[pairs:] = (radius * np.sin(angle))[: block.size - pairs] + centre[pairs:]
    return noisy


def discrete_gaussian(size: int, *, variance: float, stream: KeyStream) -> NDArray[np.int64]:
    """Independent whole numbers, each x with probability ∝ exp(-x² / (2 · variance)).

    Canonne, Kamath & Steinke 2020, algorithm 3: a discrete Laplace number y of scale t = floor(sqrt(variance)) + 1 is
    kept with probability exp(-(|y| - variance/t)² / (2 · variance)), three times in four, and otherwise drawn anew.

    Guarantees:
        In float64, with 64 random bits for the size of y and 53 for whether it is kept: out to eight standard
        deviations every probability is right to about 1e-9 of itself. Not by exact fractions, as the paper does it:
        a large adapter would take minutes. A whole number has no last digits that could tell more.

    | edge case                        | result         |
    |----------------------------------|----------------|
    | size 0                           | an empty array |
    | variance below 1, NaN, inf       | refused        |
    """
    if not 1.0 <= variance < 2.0**62:
        raise FormatError(
            "noise-stream", "whole noise needs a variance of 1 or more", hint="check the noise multiplier"
        )
    numbers = np.empty(size, np.int64)
    scale, done = math.floor(math.sqrt(variance)) + 1.0, 0
    while done < size:
        tried = min(_BLOCK, (size - done) * 4 // 3 + 64)
        words = stream.words(tried)
        magnitude = np.floor(-scale * np.log((words.astype(np.float64) + 1.0) * 2.0**-64))  # in (0, 1]: it is finite
        # A discrete Laplace number has a magnitude and a sign, and no negative zero.
        negative = stream.words(tried) >> np.uint64(63) == 1
        chance = np.exp(-((magnitude - variance / scale) ** 2) / (2.0 * variance))
        kept = (stream.uniform(tried) < chance) & ~(negative & (magnitude == 0.0))
        good = np.where(negative, -magnitude, magnitude)[kept][: size - done]
        numbers[done : done + good.size] = good.astype(np.int64)
        done += good.size
    return numbers
