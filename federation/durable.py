"""A file that is either the old one or the new one, whatever happens in between."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from federation.errors import StoreError

Buffer = bytes | memoryview


def write(path: Path, pieces: Iterable[Buffer]) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory.

    Guarantees: after a return the bytes survive a power cut; after a crash at any moment `path` holds what it
    held before or all of the new bytes. What a crash leaves behind ends in `.part` and is never read.
    """
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb", buffering=0) as file:
            for piece in pieces:
                _write_all(file.fileno(), piece)
            os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError("disk-full", "the disk is full", hint="free some space, then start again") from None
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, piece: Buffer) -> None:
    view = memoryview(piece)
    while len(view):
        view = view[os.write(descriptor, view) :]
