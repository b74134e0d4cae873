"""A LoRA adapter, and the difference between two of them, as named float32 arrays.

Names are PEFT's state-dict names (`….q_proj.lora_A.weight`); the product B·A is what is added to a frozen weight.
Both values are immutable and know their canonical bytes (docs/spec/adapter-1.md), so a digest means one adapter.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from federation import canonical
from federation.errors import FormatError, ModelError

Array = npt.NDArray[np.float32]
Factor = Literal["A", "B"]

MAGIC = b"WRADPT1\n"
ALIGNMENT = 64  # the numbers start at a multiple of this, so that numpy can read them where they lie
NAME = re.compile(r"[A-Za-z0-9_.\-]{1,240}\.lora_([AB])\.weight")


@lru_cache(maxsize=8192)  # a model's names are asked about again and again
def factor(name: str) -> Factor:
    """Which of the two matrices of a LoRA pair this name means: "A" (rank × inputs) or "B" (outputs × rank)."""
    match = NAME.fullmatch(name)
    if match is None:
        raise ModelError(
            "adapter-shape", "a name is not that of a LoRA matrix", hint="names end in .lora_A.weight or .lora_B.weight"
        )
    return "A" if match[1] == "A" else "B"


class _Matrices:
    """What an adapter and an update have in common: named matrices in one order, that of their sorted names."""

    kind: ClassVar[str]
    __slots__ = ("_head", "_norm", "arrays")
    arrays: Mapping[str, Array]
    _head: bytes | None  # what cannot change is worked out once
    _norm: float | None

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        """Takes over read-only arrays as they are; a writable array is copied, so nobody can change it afterwards."""
        object.__setattr__(
            self, "arrays", MappingProxyType({name: _frozen(arrays[name], name) for name in sorted(arrays)})
        )
        object.__setattr__(self, "_head", None)
        object.__setattr__(self, "_norm", None)

    @classmethod
    def read(cls, head: bytes, arrays: Mapping[str, Array]) -> Self:
        """For codec.load only, which has checked the head and made these read-only arrays by it."""
        value = cls.__new__(cls)
        object.__setattr__(value, "arrays", MappingProxyType(dict(arrays)))
        object.__setattr__(value, "_head", head)
        object.__setattr__(value, "_norm", None)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self.arrays),)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self.arrays)} arrays, {self.size} numbers>"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def factors(self) -> frozenset[Factor]:
        """Which factors are in it: {"A", "B"}, {"A"} or {"B"}."""
        return frozenset(map(factor, self.arrays))

    @property
    def size(self) -> int:
        """How many numbers."""
        return sum(array.size for array in self.arrays.values())

    def part(self, factors: frozenset[Factor]) -> Self:
        """Only the matrices of these factors; the arrays are shared, not copied."""
        return type(self)({name: array for name, array in self.arrays.items() if factor(name) in factors})

    def flatten(self) -> Array:
        """All numbers as one vector, matrices in the order of their sorted names, rows first. A copy."""
        return np.concatenate([np.empty(0, np.float32), *(array.reshape(-1) for array in self.arrays.values())])

    def unflatten(self, vector: Array) -> Self:
        """The opposite of `flatten`: the same names and shapes with the numbers of `vector`."""
        if vector.shape != (self.size,) or vector.dtype != np.float32:
            raise _misfit("a vector does not have the adapter's size and type")
        arrays, start, vector = {}, 0, _read_only(vector)
        for name, array in self.arrays.items():
            arrays[name] = vector[start : start + array.size].reshape(array.shape)
            start += array.size
        return type(self)(arrays)

    def norm(self) -> float:
        """L2 norm over all numbers; inf or NaN exactly when a number is inf or NaN, or when the squares overflow."""
        if self._norm is not None:
            return self._norm
        with np.errstate(over="ignore", invalid="ignore"):
            norm = math.sqrt(sum(_square(array) for array in self.arrays.values()))
        object.__setattr__(self, "_norm", norm)
        return norm

    def is_finite(self) -> bool:
        """Whether no number is NaN or infinite."""
        return all(bool(np.isfinite(array).all()) for array in self.arrays.values())

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The canonical bytes in order, without copying the numbers: head, one piece per matrix, checksum."""
        head = self.head()
        total = checksum(head)
        yield head
        for array in self.arrays.values():
            total += checksum_of_numbers(array)
            yield array.reshape(-1).view(np.uint8).data
        yield (total % 2**64).to_bytes(8, "little")

    def head(self) -> bytes:
        """Magic, length and the padded list of names and shapes: all bytes before the first number."""
        if self._head is not None:
            return self._head
        listed = [[name, list(array.shape)] for name, array in self.arrays.items()]
        text = canonical.dump({"arrays": listed, "kind": self.kind})
        text += b" " * (-(len(MAGIC) + 8 + len(text)) % ALIGNMENT)
        head = MAGIC + len(text).to_bytes(8, "little") + text
        object.__setattr__(self, "_head", head)
        return head

    def digest(self) -> str:
        """SHA-256 over the canonical bytes, 64 hexadecimal characters."""
        sha256 = hashlib.sha256()
        for piece in self.pieces():
            sha256.update(piece)
        return sha256.hexdigest()


class Adapter(_Matrices):
    """The LoRA matrices that a base model is run with."""

    kind = "adapter"
    __slots__ = ()

    def plus(self, update: "AdapterUpdate") -> "Adapter":
        """This adapter moved by `update`. Matrices that the update does not hold rest: the same arrays, bit for bit."""
        if any(self.shapes.get(name) != shape for name, shape in update.shapes.items()):
            raise _misfit("an update does not fit the adapter")
        moved = {name: _read_only(self.arrays[name] + array) for name, array in update.arrays.items()}
        return Adapter({**self.arrays, **moved})

    def cut(self, rank: int) -> "Adapter":
        """Its first components: the first rows of every A, the first columns of every B. At full rank: itself.

        After a round of `stack` the components are ordered by what they contribute, so these are the best of that rank.
        """
        shapes = at_rank(self.shapes, rank)
        if shapes == self.shapes:
            return self
        return Adapter({name: array[tuple(map(slice, shapes[name]))] for name, array in self.arrays.items()})

    def minus(self, start: "Adapter") -> "AdapterUpdate":
        """The update that leads from `start` to this adapter."""
        if self.shapes != start.shapes:
            raise _misfit("two adapters do not have the same shapes")
        return AdapterUpdate({name: _read_only(array - start.arrays[name]) for name, array in self.arrays.items()})


class AdapterUpdate(_Matrices):
    """Adapter after minus adapter before, of the factors that were trained; the others are absent, not zero."""

    kind = "update"
    __slots__ = ()

    def scale(self, by: float) -> "AdapterUpdate":
        return AdapterUpdate({name: _read_only(array * np.float32(by)) for name, array in self.arrays.items()})


def at_rank(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the same adapter with another rank: A is rank × inputs, B is outputs × rank."""
    return {name: (rank, at[1]) if factor(name) == "A" else (at[0], rank) for name, at in shapes.items()}


def rank_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The rank that all its matrices have; 0 if they differ, or there is none."""
    ranks = {at[0] if factor(name) == "A" else at[1] for name, at in shapes.items()}
    return ranks.pop() if len(ranks) == 1 else 0


def check_update(
    update: AdapterUpdate, *, shapes: Mapping[str, tuple[int, ...]], factors: frozenset[Factor], max_rms: float
) -> None:
    """Refuse an update that may not enter a sum: a site asks this before it releases one, the coordinator on receipt.

    `update-shape`: other names or shapes than those of the trained factors; a factor that rests; nothing broadcasts.
    `update-not-finite`: a NaN or an infinity. `update-norm`: a root mean square above `max_rms`.
    """
    if update.shapes != {name: tuple(shape) for name, shape in shapes.items() if factor(name) in factors}:
        raise FormatError(
            "update-shape",
            "an update holds other matrices than those trained",
            hint="base model, targets and method must be those of the plan",
        )
    norm = update.norm()
    if not math.isfinite(norm) and not update.is_finite():  # a finite sum of squares is proof in one pass
        raise FormatError(
            "update-not-finite",
            "an update holds NaN or infinity",
            hint="lower the learning rate, then look at the data",
        )
    if not norm <= max_rms * math.sqrt(update.size):
        raise FormatError(
            "update-norm", "an update is larger than the plan allows", hint="lower the learning rate of the plan"
        )


def initial_adapter(shapes: Mapping[str, tuple[int, ...]], *, a_init: str, seed: int) -> Adapter:
    """The first adapter of a run: B is zero, so B·A is zero and the model starts as its base.

    A has orthonormal rows ("orthonormal": QR of a Gaussian matrix, signs fixed by a positive diagonal of R) or PEFT's
    default start ("kaiming": uniform within ±1/√inputs). Each matrix has its own stream, named by seed and name: adding
    a target moves no other start. No data enters. docs/spec/adapter-1.md, section 5.
    """
    return Adapter({name: _start(name, shape, a_init=a_init, seed=seed) for name, shape in shapes.items()})


def _start(name: str, shape: tuple[int, ...], *, a_init: str, seed: int) -> Array:
    if factor(name) == "B":
        return _read_only(np.zeros(shape, np.float32))
    rank, inputs = shape
    stream = stream_of(name, seed)
    if a_init == "kaiming":
        return _read_only(stream.uniform(-1.0, 1.0, shape).astype(np.float32) / np.float32(math.sqrt(inputs)))
    if a_init != "orthonormal" or rank > inputs:
        raise ModelError("adapter-shape", "A cannot be started this way", hint="lower the rank, or use a_init kaiming")
    q, r = np.linalg.qr(stream.standard_normal((inputs, rank)))
    return _read_only((q * np.where(np.diag(r) < 0, -1.0, 1.0)).T.astype(np.float32, order="C"))


def stream_of(name: str, seed: int) -> np.random.Generator:
    """Public random numbers for the start of one matrix."""
    words = np.frombuffer(hashlib.sha256(name.encode("ascii")).digest(), "<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *map(int, words)])))


def checksum(data: bytes) -> int:
    """The sum of the little-endian 64-bit words (the last one filled with zeros), before it is taken modulo 2**64.

    A change of one byte moves the sum by d·256^k with 0 < |d| < 256, which is never 0 modulo 2**64: it is always seen.
    This finds torn and flipped files at the speed of memory; against intent there is the SHA-256 that names the bytes.
    """
    data += bytes(-len(data) % 8)
    return int(np.frombuffer(data, "<u8").sum(dtype=np.uint64))


def checksum_of_numbers(array: Array) -> int:
    """`checksum` of a matrix, as if it began at a word's start: sums over matrices of any size can be added."""
    flat = array.reshape(-1)
    if not flat.size % 2:
        return int(np.add.reduce(flat.view("<u8")))
    return int(np.add.reduce(flat[:-1].view("<u8"))) + int(flat[-1:].view("<u4")[0])


def _frozen(array: Array, name: str) -> Array:
    which = factor(name)
    if array.dtype != np.dtype("<f4") or array.ndim != 2 or array.size == 0:
        raise _misfit(f"a matrix {which} is not a two-dimensional float32 array")
    if array.flags.writeable or not array.flags.c_contiguous:
        return _read_only(np.array(array, order="C"))
    return array


def _read_only(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _square(array: Array) -> float:
    flat = array.reshape(-1)
    return float(flat.dot(flat))


def _misfit(reason: str) -> ModelError:
    return ModelError("adapter-shape", reason, hint="base model, rank and targets must be those of the plan")
