"""An update as integers modulo 2^8, 2^16 or 2^32, and a sum of them as a mean. docs/spec/secagg-1.md, section 5.

Where the sites share the noise they have whole numbers already, of one `unit`, and nothing is scaled or rounded here.

Scales follow from public numbers only: a bound per matrix, and the weights of the round's sites. Rounding and clipping
come after a site's own noise, so they cost no privacy.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from federation import canonical
from federation.adapter import NAME, AdapterUpdate
from federation.canonical import Value
from federation.errors import FormatError, ProtocolError
from federation.messages import SITE_ID
from federation.plan import SECURE_SITES_MIN
from federation.privacy.keystream import KeyStream
from federation.secagg.masks import Vector

assert sys.byteorder == "little"  # vectors are read where they lie

SITES_MIN, SITES_MAX = SECURE_SITES_MIN, 128  # more, and a bundle would not fit into a message's header
WEIGHT_MAX = 255
DECLARED_MAX = 100_000_000  # patients of one site
BYTE_SITES_MAX = 12  # in 8 bits; with more, rounding would be a twentieth of the variance of the mean
CLIPPED_MAX = 100  # of 10 000: more is not told
BLOCK = 32_768  # numbers at a time: everything between float and integer stays in the cache
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Encoding:
    """How one round's updates become integers: public, equal at all sites, part of what every site signs.

    `weights` may name sites that are not in the round after all; scales are made from those that are.
    """

    bits: int  # 8, 16 or 32
    shapes: Shapes  # of the trained matrices
    bounds: Mapping[str, float]  # c_j: a coordinate beyond is clipped, and counted
    weights: Mapping[str, int]  # with a unit: what each site's sum is divided by
    unit: float | None = None  # of the whole numbers that the sites add up, where they share the noise

    def __post_init__(self) -> None:
        weight_max = WEIGHT_MAX if self.unit is None else DECLARED_MAX
        good = (
            self.bits in (8, 16, 32)
            and (self.bits > 8 or len(self.weights) <= BYTE_SITES_MAX)
            and (self.unit is None or (self.bits == 32 and self.unit != 0 and math.isfinite(self.unit)))
            and bool(self.shapes)
            and set(self.bounds) == (set(self.shapes) if self.unit is None else set())
            and all(0 < bound < math.inf for bound in self.bounds.values())
            and all(type(weight) is int and 1 <= weight <= weight_max for weight in self.weights.values())
            and all(SITE_ID.fullmatch(site) for site in self.weights)
            and all(NAME.fullmatch(name) for name in self.shapes)
        )
        if not good:
            raise _refused("an encoding with an impossible ring, bound or weight")

    def value(self) -> dict[str, Value]:
        """What travels in the `ready` question; the shapes are those of the adapter that everybody has."""
        scales: dict[str, Value] = {
            "bounds": {name: canonical.decimal(bound) for name, bound in self.bounds.items()},
        }
        if self.unit is not None:
            scales = {"unit": canonical.decimal(self.unit)}
        return {"bits": self.bits, "weights": dict(self.weights), **scales}

    @staticmethod
    def from_value(value: Value, shapes: Shapes) -> "Encoding":
        match value:
            case {"bits": 8 | 16 | 32 as bits, "bounds": dict(bounds), "weights": dict(weights), **rest} if not rest:
                numbers = {name: canonical.number(bound) for name, bound in bounds.items()}
                encoding = Encoding(bits, dict(shapes), numbers, weights)
            case {"bits": 32, "unit": unit, "weights": dict(weights), **rest} if not rest:
                encoding = Encoding(32, dict(shapes), {}, weights, canonical.number(unit))
            case _:
                raise _refused("an encoding is not in its agreed form")
        if canonical.dump(encoding.value()) != canonical.dump(value):
            raise _refused("an encoding is not in its agreed form")
        return encoding

    @cached_property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def count_words(self) -> int:
        """Words that are 1 at every site: a sum that was unmasked wrongly has the right count with chance 2^−64."""
        return 64 // self.bits

    @property
    def length(self) -> int:
        """Words of a vector: the numbers, the count words, the clip counter."""
        return self.size + self.count_words + 1

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger]":
        return np.dtype(f"<u{self.bits // 8}")

    def factor(self, name: str, sites: Sequence[str], survivors: Sequence[str]) -> float:
        """What turns the survivors' sum into their mean."""
        weight = sum(self.weights[site] for site in survivors)
        return 1 / (self.scale(name, sites) * weight) if self.unit is None else self.unit / weight

    def scale(self, name: str, sites: Sequence[str]) -> float:
        """s_j. Guarantees: whatever the sites hold, Σ |q| ≤ W·c_j·s_j + n < 2^(bits−1): the sum cannot wrap."""
        if not SITES_MIN <= len(sites) <= SITES_MAX or not set(sites) <= set(self.weights):
            raise _refused("a round with too few or too many sites, or one without a weight")
        room = 2.0 ** (self.bits - 1) * (1 - 2.0**-10) - 1 - len(sites)
        return room / (sum(self.weights[site] for site in sites) * self.bounds[name])


@dataclass(frozen=True)
class Decoded:
    mean: AdapterUpdate
    clipped: int  # coordinates in 10 000, added up over the survivors


def encode(
    update: AdapterUpdate, encoding: Encoding, *, site_id: str, sites: Sequence[str], rounding: KeyStream
) -> Vector:
    """The integers of one site's update, its count words and its clip counter; not masked yet.

    | update | result |
    |---|---|
    | a coordinate beyond its bound | clipped, and counted |
    | NaN or infinity | FormatError `update-not-finite` |
    """
    vector = np.empty(encoding.length, encoding.dtype)
    weight = encoding.weights[site_id]
    convert = _to_nearest if encoding.bits == 32 else _by_chance
    start = clipped = 0
    if update.shapes != {name: tuple(shape) for name, shape in sorted(encoding.shapes.items())}:
        raise FormatError("update-shape", "an update holds other matrices than the round's", hint="compare the plans")
    for name, array in update.arrays.items():
        flat = array.reshape(-1)
        factor = weight * encoding.scale(name, sites)
        out = vector[start : start + flat.size]
        clipped += convert(flat, out, factor, factor * encoding.bounds[name], rounding)
        start += flat.size
    vector[start:-1] = 1
    counted_most = CLIPPED_MAX if encoding.bits > 8 else 255 // len(sites)  # so that the sum has room
    vector[-1] = min(counted_most, -(-clipped * 10_000 // encoding.size))
    return vector


def whole(words: Vector, encoding: Encoding, *, sites: Sequence[str]) -> Vector:
    """The vector of a site's whole numbers, which have their share of the noise; not masked yet.

    `sites` are those of the round; all must be in the encoding: how many may collude was counted there.

    The clip counter stays 0: nothing is clipped, and what single numbers are like is not for anybody to know.
    """
    if not set(sites) <= set(encoding.weights):
        raise _refused("a round with a site that has no weight")
    if encoding.unit is None or words.shape != (encoding.size,) or words.dtype != encoding.dtype:
        raise FormatError("update-shape", "a share does not fit the round's encoding", hint="compare the plans")
    ends = np.array([*[1] * encoding.count_words, 0], encoding.dtype)
    return np.concatenate([words, ends])


def decode(total: Vector, encoding: Encoding, *, sites: Sequence[str], survivors: Sequence[str]) -> Decoded:
    """The weighted mean of the survivors' updates: integers first, one multiplication per number at the end.

    Guarantees: equal sums give equal bits on every machine. Raises: ProtocolError `secagg-mask-residue`.
    """
    counts = total[encoding.size : -1]
    if total.size != encoding.length or not (counts == len(survivors)).all():
        raise ProtocolError(
            "secagg-mask-residue",
            "the unmasked sum does not count its sites: a mask is left in it, or a site lied",
            hint="the round is discarded; if it happens again, leave out sites until it does not",
        )
    signed = total.view(f"<i{encoding.bits // 8}")
    arrays, start = {}, 0
    for name, shape in sorted(encoding.shapes.items()):
        here = signed[start : start + math.prod(shape)]
        out = np.empty(here.size, np.float32)
        factor = encoding.factor(name, sites, survivors)
        if encoding.bits < 32:
            np.multiply(here, np.float32(factor), out=out)
        else:
            for at in range(0, here.size, BLOCK):
                out[at : at + BLOCK] = here[at : at + BLOCK] * factor
        out.flags.writeable = False
        arrays[name] = out.reshape(shape)
        start += here.size
    return Decoded(AdapterUpdate(arrays), int(total[-1]))


def _by_chance(flat: "np.ndarray", out: Vector, factor: float, limit: float, rounding: KeyStream) -> int:
    """float32 and stochastic rounding: floor(y + (k + ½)/256), k a byte of the keystream."""
    signed = out.view(f"<i{out.itemsize}")
    y, dither = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    clipped = 0
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        here, chance = y[: part.size], dither[: part.size]
        with np.errstate(over="ignore"):  # what becomes infinite here is beyond every bound, and clipped
            np.multiply(part, np.float32(factor), out=here)
        clipped += _clip(here, limit, part)
        np.multiply(np.frombuffer(rounding.bytes(part.size), np.uint8), np.float32(1 / 256), out=chance)
        np.add(chance, np.float32(1 / 512), out=chance)
        np.add(here, chance, out=here)
        np.floor(here, out=here)
        np.copyto(signed[start : start + BLOCK], here, casting="unsafe")
    return clipped


def _to_nearest(flat: "np.ndarray", out: Vector, factor: float, limit: float, rounding: KeyStream) -> int:
    """float64, rounded to nearest."""
    signed = out.view("<i4")
    y = np.empty(BLOCK, np.float64)
    clipped = 0
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        here = y[: part.size]
        np.multiply(part, np.float64(factor), out=here)  # a plain float would be multiplied in float32
        clipped += _clip(here, limit, part)
        np.rint(here, out=here)
        np.copyto(signed[start : start + BLOCK], here, casting="unsafe")
    return clipped


def _clip(numbers: "np.ndarray", limit: float, made_of: "np.ndarray") -> int:
    """Clip in place to ± limit; how many were beyond."""
    high, low = float(numbers.max()), float(numbers.min())
    if -limit <= low and high <= limit:
        return 0
    if not np.isfinite(made_of).all():
        raise FormatError("update-not-finite", "an update holds NaN or infinity", hint="lower the learning rate")
    beyond = int(np.count_nonzero(np.abs(numbers) > limit))
    np.clip(numbers, -limit, limit, out=numbers)
    return beyond


def _refused(reason: str) -> FormatError:
    return FormatError("secagg-not-canonical", reason, hint="coordinator and site must run the same version")
