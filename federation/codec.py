"""Adapter and update as bytes, and back: one encoding per value, the rest refused. Spec: docs/spec/adapter-1.md."""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import overload

import numpy as np

from federation import canonical, durable
from federation.adapter import ALIGNMENT, MAGIC, NAME, Adapter, AdapterUpdate, Array, checksum, checksum_of_numbers
from federation.errors import FormatError

HEAD_BYTES_MAX = 16 * 2**20
KINDS: dict[str, type[Adapter] | type[AdapterUpdate]] = {"adapter": Adapter, "update": AdapterUpdate}


def dump(value: Adapter | AdapterUpdate) -> bytes:
    """The canonical bytes; their SHA-256 is `value.digest()`."""
    return b"".join(value.pieces())


def load(*pieces: durable.Buffer) -> Adapter | AdapterUpdate:
    """The value whose canonical bytes are exactly these, in one piece or several that follow each other.

    Its arrays are read-only views into the pieces: a copy is made only of a matrix that lies across two of them.

    Guarantees: `dump(load(data)) == data`, however it is cut. Every change of a single byte, every truncation and every
    byte after the end raises FormatError `not-canonical`. NaN and infinity are carried as they are: whether an update
    is acceptable is decided by who receives it.
    """
    reader = _Reader(pieces)
    start = bytes(reader.take(len(MAGIC) + 8))
    if start[: len(MAGIC)] != MAGIC:
        raise _refused("not an adapter/1 file")
    size = int.from_bytes(start[len(MAGIC) :], "little")
    if size > HEAD_BYTES_MAX or (len(start) + size) % ALIGNMENT:
        raise _refused("the head has an impossible length")
    text = bytes(reader.take(size))
    kind, shapes = _read_head(text)

    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        arrays[name] = np.frombuffer(reader.take(4 * shape[0] * shape[1]), np.float32).reshape(shape)
    written = bytes(reader.take(8))
    if reader.left:
        raise _refused("bytes after the last array")

    value = KINDS[kind].read(start + text, arrays)
    total = checksum(start + text) + sum(checksum_of_numbers(array) for array in value.arrays.values())
    if (total % 2**64).to_bytes(8, "little") != written:
        raise _refused("the checksum differs")
    return value


class _Reader:
    """Bytes in pieces, taken from the front."""

    def __init__(self, pieces: tuple[durable.Buffer, ...]) -> None:
        self._pieces = [memoryview(piece).toreadonly().cast("B") for piece in reversed(pieces)]  # the next one is last
        self.left = sum(len(piece) for piece in self._pieces)

    def take(self, count: int) -> memoryview:
        """Raises: FormatError if there are not so many."""
        if count > self.left:
            raise _refused("bytes are missing")
        self.left -= count
        parts: list[memoryview] = []
        while count:
            piece = self._pieces.pop()
            parts.append(piece[:count])
            if len(piece) > count:
                self._pieces.append(piece[count:])
            count -= len(parts[-1])
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


@overload
def load_as(kind: type[Adapter], *pieces: durable.Buffer) -> Adapter: ...
@overload
def load_as(kind: type[AdapterUpdate], *pieces: durable.Buffer) -> AdapterUpdate: ...
def load_as(kind: type[Adapter] | type[AdapterUpdate], *pieces: durable.Buffer) -> Adapter | AdapterUpdate:
    """`load`, and refuse the other kind of value."""
    value = load(*pieces)
    if not isinstance(value, kind):
        raise _refused("an adapter where an update belongs, or the other way round")
    return value


@lru_cache(maxsize=4)  # a run's updates have one head, its adapters another
def _read_head(text: bytes) -> tuple[str, Mapping[str, tuple[int, int]]]:
    """Kind and shapes, in the order of the bytes. Refuses a head that `head()` would not write."""
    bare = text.rstrip(b" ")
    if len(text) - len(bare) >= ALIGNMENT:
        raise _refused("the head is not in its canonical form")
    head = canonical.load(bare)
    match head:
        case {"arrays": list(listed), "kind": str(kind), **rest} if not rest and kind in KINDS:
            pass
        case _:
            raise _refused("the head does not say what follows")
    shapes: dict[str, tuple[int, int]] = {}
    for item in listed:
        match item:
            case [str(name), [int(rows), int(columns)]] if rows > 0 and columns > 0 and NAME.fullmatch(name):
                shapes[name] = (rows, columns)
            case _:
                raise _refused("the head lists an array with no possible name or shape")
    numbers = {type(number) for shape in shapes.values() for number in shape}
    if list(shapes) != sorted(shapes) or len(shapes) != len(listed) or not numbers <= {int}:  # true is an integer
        raise _refused("the head is not in its canonical form")
    return kind, MappingProxyType(shapes)


def _refused(reason: str) -> FormatError:
    return FormatError("not-canonical", reason, hint="the bytes were damaged on the way, or written by another version")
