"""The updates of one round, kept until all are there: for rules that compare them before they add them.

In memory up to a limit that does not grow with the number of sites; what comes after lies in a file without a name in
the run's folder, which is gone when the round is, or the process. Never used where updates are masked: then no single
update exists here.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Self

import numpy as np

from federation import durable
from federation.adapter import AdapterUpdate, Array

HELD_BYTES = 192 * 2**20

Updates = Iterable[tuple[AdapterUpdate, int]]  # each with its weight


class Held:
    """Updates with their weights, in the order of arrival, to be gone through as often as needed."""

    def __init__(self, folder: Path, *, memory_bytes: int = HELD_BYTES) -> None:
        self._folder, self._room = folder, memory_bytes
        self._file: IO[bytes] | None = None
        self._places: list[AdapterUpdate | tuple[int, dict[str, tuple[int, ...]]]] = []
        self.weights: list[int] = []
        self.norms: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._places.clear()
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, updates: Updates) -> Self:
        for update, weight in updates:
            self.weights.append(weight)
            self.norms.append(update.norm())
            if 4 * update.size <= self._room:
                self._room -= 4 * update.size
                self._places.append(update)
            else:
                self._places.append((self._write(update), update.shapes))
            del update
        return self

    def update(self, index: int) -> AdapterUpdate:
        place = self._places[index]
        if isinstance(place, AdapterUpdate):
            return place
        start, shapes = place
        data = self._read(start, 4 * sum(math.prod(shape) for shape in shapes.values()))
        arrays, at = {}, 0
        for name, shape in shapes.items():
            arrays[name] = np.frombuffer(data, np.float32, math.prod(shape), at).reshape(shape)
            at += arrays[name].nbytes
        return AdapterUpdate(arrays)

    def updates(self) -> Iterator[AdapterUpdate]:
        return (self.update(index) for index in range(len(self)))

    def names(self) -> list[str]:
        return list(self.update(0).arrays)

    def matrix(self, name: str) -> Array:
        """This matrix of every update, (sites, numbers): memory for one matrix, not for all."""
        return np.stack([self._matrix(index, name) for index in range(len(self))])

    def _matrix(self, index: int, name: str) -> Array:
        place = self._places[index]
        if isinstance(place, AdapterUpdate):
            return place.arrays[name].reshape(-1)
        start, shapes = place
        before = sum(math.prod(shape) for other, shape in shapes.items() if other < name)  # names are sorted
        return np.frombuffer(self._read(start + 4 * before, 4 * math.prod(shapes[name])), np.float32)

    def _write(self, update: AdapterUpdate) -> int:
        with durable.disk_full_is_ours():
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)
            start = self._file.seek(0, 2)
            for array in update.arrays.values():
                self._file.write(array.reshape(-1).view(np.uint8).data)
            self._file.flush()
        return start

    def _read(self, start: int, size: int) -> bytes:
        assert self._file is not None
        self._file.seek(start)
        return self._file.read(size)
