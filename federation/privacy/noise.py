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


def gaussian(size: int, *, noise_std: float, stream: KeyStream) -> NDArray[np.float32]:
    """`size` independent normals of mean 0 and standard deviation `noise_std`, float32. Box & Muller 1958.

    Guarantees:
        Drawn in float64, rounded once. The radius uses 64 bits, so |z| reaches 9.4 standard deviations; what is missing
        beyond has probability below 1e-20 a coordinate. Memory beside the result is constant.

    | edge case             | result               |
    |-----------------------|----------------------|
    | size 0                | an empty array       |
    | noise_std 0           | zeros                |
    | negative, NaN, inf    | refused              |
    """
    if not 0.0 <= noise_std < float("inf"):
        raise FormatError("noise-stream", "noise needs a finite, non-negative scale", hint="check the noise multiplier")
    noise = np.empty(size, dtype=np.float32)
    for start in range(0, size, _BLOCK):
        block = noise[start : start + _BLOCK]
        pairs = (block.size + 1) // 2
        radius = stream.words(pairs).astype(np.float64)
        radius += 1.0  # (0, 2^64]: the logarithm below is finite
        radius *= 2.0**-64
        np.log(radius, out=radius)
        radius *= -2.0 * noise_std * noise_std
        np.sqrt(radius, out=radius)
        angle = stream.uniform(pairs)
        angle *= 2.0 * np.pi
        block[:pairs] = radius * np.cos(angle)
        block[pairs:] = (radius * np.sin(angle))[: block.size - pairs]
    return noise
