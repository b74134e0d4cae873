"""Gaussian noise: Box-Muller in float64 on a keystream.

Not defended: the output is float32, so it lies on a grid, and it is made in a time that varies a little. The published
attacks on floating-point Gaussians (Mironov 2012; Jin et al. 2022) need single noisy outputs in full precision; a site
releases the rounded result of many noisy steps.
"""

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
