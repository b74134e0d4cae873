"""The folder of a base model, without any library of models: its digest, and single weights out of safetensors files.

A base is known by one number over all its files, so that "the same model" means the same bytes at every site. The
coordinator reads weights only to start A from them (`a_init = "svd"`); it never runs the model.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from federation.errors import ModelError

CHECKPOINT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
HEAD_BYTES_MAX = 100 * 2**20  # the limit of the safetensors library


def base_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint folder: over the sorted list of its files' names and SHA-256s. 64 hex characters."""
    if not folder.is_dir():
        raise ModelError(
            "model-absent", "the folder of the base model does not exist", hint="set [model] path to a local checkpoint"
        )
    names = sorted({path.name for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)})
    if "config.json" not in names:
        raise ModelError(
            "model-absent", "the folder holds no model (no config.json)", hint="set [model] path to a local checkpoint"
        )
    listing = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            listing.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return listing.hexdigest()


class BaseWeights:
    """The weights of a checkpoint, found by the names that the adapter's layers have."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, tuple[Path, int, Mapping[str, Any]]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            for name, start, entry in _entries(path):
                self._where[name] = (path, start, entry)

    def of(self, layer: str) -> npt.NDArray[np.float32]:
        """The weight of this linear layer, (outputs, inputs).

        Models and files name a layer alike but for what stands before (`model.language_model.layers.0.…` and
        `language_model.model.layers.0.…`): the file's name with the same words in front of the same numbered rest.
        Raises: ModelError `model-unreadable` if there is none, or more than one.
        """
        wanted = f"{layer}.weight"
        found = [name for name in self._where if name == wanted] or [
            name for name in self._where if _words(name) == _words(wanted)
        ]
        if len(found) != 1:
            raise ModelError(
                "model-unreadable",
                "the base model's files do not name the weight of an adapted layer",
                hint="start A with a_init = orthonormal, which needs no weights",
            )
        path, start, entry = self._where[found[0]]
        return _read(path, start, entry)


def _words(name: str) -> tuple[tuple[str, ...], str]:
    """What stands before a layer's number (or before its own name), as words in no order and without "model"; the rest
    as it is."""
    parts = name.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return tuple(sorted({*parts[:numbered]} - {"model"})), ".".join(parts[numbered:])


def _entries(path: Path) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """Name, where the numbers of the file begin, and what its head says of each array."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= HEAD_BYTES_MAX:
                raise ValueError
            head = json.loads(file.read(size))
        for name, entry in head.items():
            if name != "__metadata__":
                yield name, 8 + size, entry
    except (OSError, ValueError, AttributeError, RecursionError):
        raise _unreadable() from None


def _read(path: Path, start: int, entry: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """One matrix as float32; bfloat16 is its upper half."""
    kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
    try:
        first, end = entry["data_offsets"]
        with path.open("rb") as file:
            file.seek(start + first)
            raw = np.frombuffer(file.read(end - first), kinds[entry["dtype"]]).reshape(entry["shape"])
    except (OSError, KeyError, TypeError, ValueError):
        raise _unreadable() from None
    if raw.ndim != 2:
        raise _unreadable()
    if entry["dtype"] == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def _unreadable() -> ModelError:
    return ModelError(
        "model-unreadable",
        "a weight of the base model cannot be read",
        hint="a_init = svd needs float32, float16 or bfloat16 safetensors; quantised files have no such weights",
    )
