"""Shamir's secret sharing of 32-byte secrets over the prime 2^521 − 1. Shamir 1979; docs/spec/secagg-1.md, section 2.

A secret is the value at 0 of a random polynomial; whoever has `threshold` points of it has the secret, and with one
point fewer every secret remains equally possible.
"""

from collections.abc import Mapping, Sequence

from federation.errors import FormatError
from federation.privacy.keystream import KeyStream

PRIME = 2**521 - 1
SHARE_BYTES = 66
SECRET_BYTES = 32


def split(secret: bytes, *, threshold: int, count: int, stream: KeyStream) -> list[int]:
    """The shares with the indices 1 … count, in that order."""
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= count:
        raise _refused()
    coefficients = [int.from_bytes(secret, "big"), *(_element(stream) for _ in range(threshold - 1))]
    return [_value(coefficients, index) for index in range(1, count + 1)]


def value_at(shares: Mapping[int, int], index: int) -> int:
    """What the polynomial through these shares is at another index. Lagrange's formula."""
    return dot(lagrange(tuple(shares), index), tuple(shares.values()))


def lagrange(indices: Sequence[int], at: int) -> list[int]:
    """The factor of each share; the same for all secrets that are shared over these indices."""
    factors = []
    for index in indices:
        above, below = 1, 1
        for other in indices:
            if other != index:
                above, below = above * (at - other), below * (index - other)
        factors.append(above * pow(below, -1, PRIME) % PRIME)
    return factors


def dot(factors: Sequence[int], shares: Sequence[int]) -> int:
    return sum(factor * share for factor, share in zip(factors, shares, strict=True)) % PRIME


def consistent(shares: Mapping[int, int], *, threshold: int, stream: KeyStream) -> bool:
    """Whether these points lie on one polynomial of degree < threshold; a false yes has the chance 2^−521.

    A random word of the dual code: Σ f(x)·y / Π(x − x'), deg f < points − threshold, is 0 for every such polynomial.
    """
    indices = tuple(shares)
    dual = [_element(stream) for _ in range(len(indices) - threshold)]
    total = 0
    for index in indices:
        below = 1
        for other in indices:
            below *= index - other or 1
        total += _value(dual, index) * shares[index] % PRIME * pow(below, -1, PRIME)
    return total % PRIME == 0


def to_bytes(share: int) -> bytes:
    return share.to_bytes(SHARE_BYTES, "big")


def from_bytes(data: bytes) -> int:
    """Raises: FormatError `secagg-out-of-range` for anything that `to_bytes` would not write."""
    share = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or share >= PRIME:
        raise FormatError("secagg-out-of-range", "a share is out of range", hint="leave the site that sent it out")
    return share


def _element(stream: KeyStream) -> int:
    """Uniform below the prime: 521 bits, drawn again in the one case that is the prime itself."""
    while True:
        drawn = int.from_bytes(stream.bytes(SHARE_BYTES), "big") & PRIME
        if drawn != PRIME:
            return drawn


def _value(coefficients: Sequence[int], index: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = total * index + coefficient
    return total % PRIME


def _refused() -> FormatError:
    return FormatError("secagg-out-of-range", "a secret that cannot be shared", hint="32 bytes, a threshold within n")
