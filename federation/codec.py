"""Adapter and update as bytes, and back: one encoding per value, the rest refused. Spec: docs/spec/adapter-1.md."""

import math
from typing import overload

import numpy as np

from federation import canonical
from federation.adapter import ALIGNMENT, MAGIC, NAME, Adapter, AdapterUpdate, Array, checksum, checksum_of_numbers
from federation.errors import FormatError

HEAD_BYTES_MAX = 16 * 2**20
KINDS: dict[str, type[Adapter] | type[AdapterUpdate]] = {"adapter": Adapter, "update": AdapterUpdate}


def dump(value: Adapter | AdapterUpdate) -> bytes:
    """The canonical bytes; their SHA-256 is `value.digest()`."""
    return b"".join(value.pieces())


def load(data: bytes) -> Adapter | AdapterUpdate:
    """The value whose canonical bytes are exactly `data`. Its arrays are read-only views into `data`: no copies.

    Guarantees: `dump(load(data)) == data`. Every change of a single byte, every truncation and every byte after the end
    raises FormatError `not-canonical`. NaN and infinity are carried as they are: whether an update is acceptable is
    decided by who receives it.
    """
    start = len(MAGIC) + 8
    if len(data) < start + 8 or data[: len(MAGIC)] != MAGIC:
        raise _refused("not an adapter/1 file")
    size = int.from_bytes(data[len(MAGIC) : start], "little")
    if size > HEAD_BYTES_MAX or (start + size) % ALIGNMENT or start + size > len(data) - 8:
        raise _refused("the head has an impossible length")
    kind, shapes = _read_head(data[start : start + size])

    arrays: dict[str, Array] = {}
    here = start + size
    for name, shape in shapes.items():
        count = math.prod(shape)
        if here + 4 * count > len(data) - 8:
            raise _refused("bytes are missing")
        arrays[name] = np.frombuffer(data, "<f4", count, here).reshape(shape)
        here += 4 * count
    if here != len(data) - 8:
        raise _refused("bytes after the last array")

    value = KINDS[kind](arrays)
    head = data[: start + size]
    if value.head() != head:
        raise _refused("the head is not in its canonical form")
    total = checksum(head) + sum(checksum_of_numbers(array) for array in arrays.values())
    if (total % 2**64).to_bytes(8, "little") != data[here:]:
        raise _refused("the checksum differs")
    return value


@overload
def load_as(kind: type[Adapter], data: bytes) -> Adapter: ...
@overload
def load_as(kind: type[AdapterUpdate], data: bytes) -> AdapterUpdate: ...
def load_as(kind: type[Adapter] | type[AdapterUpdate], data: bytes) -> Adapter | AdapterUpdate:
    """`load`, and refuse the other kind of value."""
    value = load(data)
    if not isinstance(value, kind):
        raise _refused("an adapter where an update belongs, or the other way round")
    return value


def _read_head(text: bytes) -> tuple[str, dict[str, tuple[int, int]]]:
    """Kind and shapes, in the order of the bytes; the caller compares the whole head with its canonical form."""
    head = canonical.load(text.rstrip(b" "))
    match head:
        case {"arrays": list(listed), "kind": str(kind), **rest} if not rest and kind in KINDS:
            pass
        case _:
            raise _refused("the head does not say what follows")
    shapes: dict[str, tuple[int, int]] = {}
    for item in listed:
        match item:
            case [str(name), [int(rows), int(columns)]] if rows > 0 and columns > 0 and NAME.fullmatch(name):
                shapes[name] = (int(rows), int(columns))  # true would be an int
            case _:
                raise _refused("the head lists an array with no possible name or shape")
    return kind, shapes


def _refused(reason: str) -> FormatError:
    return FormatError("not-canonical", reason, hint="the bytes were damaged on the way, or written by another version")
