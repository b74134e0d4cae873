"""Segmented palettes, unfolded. PS3.3 section C.7.9.2 writes a palette as segments: numbers one by one, a line from the
last number to a new one, and earlier segments once more. Behind them anything can stand that no reader draws, so an
export has the plain table that they mean, and nothing else."""

from typing import Any

import numpy as np
import numpy.typing as npt

_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2
_AGAIN_MAX = 64  # indirect segments, which may repeat each other without an end
_Numbers = npt.NDArray[Any]


def unfolded(segments: bytes, entries: int, bits: int) -> bytes:
    """The table of `entries` numbers of 8 or 16 bits; both are little-endian.

    Edge cases: what is left when the table is full is not read; of a segment that is longer, the beginning counts.

    Raises: ValueError for segments that the standard does not have, that end early, or that leave the table unfilled;
    and for indirect ones of 16 bits, whose offsets some readers count in bytes and others in numbers.
    """
    kind = np.dtype(np.uint8 if bits == 8 else "<u2")
    numbers = np.frombuffer(segments[: len(segments) // kind.itemsize * kind.itemsize], dtype=kind)
    table: list[int] = []
    _unfold(numbers, 0, len(numbers), entries, table, [_AGAIN_MAX])
    if len(table) < entries:
        raise ValueError("a palette that its segments do not fill")
    return np.array(table[:entries], dtype=kind).tobytes()


def _unfold(numbers: _Numbers, at: int, segments: int, entries: int, table: list[int], again: list[int]) -> None:
    """Read so many segments from a place on, until the table is full or the numbers end (a zero may fill them up)."""
    for _ in range(segments):
        if len(table) >= entries or at + 1 >= len(numbers):
            return
        kind, length = int(numbers[at]), int(numbers[at + 1])
        at += 2
        if kind == _DISCRETE:
            table.extend(map(int, numbers[at : at + length]))
            at += length
        elif kind == _LINEAR and table and at < len(numbers):
            last, to = table[-1], int(numbers[at])
            table.extend(round(last + (to - last) * step / length) for step in range(1, length + 1))
            at += 1
        elif kind == _INDIRECT and table and again[0] and numbers.itemsize == 1 and at + 4 <= len(numbers):
            again[0] -= 1
            back = int.from_bytes(numbers[at : at + 4].tobytes(), "little")
            _unfold(numbers, back, length, entries, table, again)
            at += 4
        else:
            raise ValueError("a segment that no palette has, or that readers read differently")
