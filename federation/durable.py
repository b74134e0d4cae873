"""Bytes that survive a power cut: a file that is replaced whole, and a slot that is written in place."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from federation.errors import StoreError

Buffer = bytes | memoryview
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the operating system says when there is no room, and when this user may not."""
PIECES_MOST = 1024  # Linux takes so many at once


def write(path: Path, pieces: Iterable[Buffer]) -> None:
    """Temporary file in the same directory, fsync, rename, fsync of the directory.

    Guarantees: after a return the bytes survive a power cut; after a crash at any moment `path` holds what it
    held before or all of the new bytes. What a crash leaves behind ends in `.part` and is never read.
    """
    part = path.with_name(path.name + ".part")
    with disk_full_is_ours(), open(part, "wb", buffering=0) as file:
        write_all(file.fileno(), pieces)
        os.fsync(file.fileno())
        os.replace(part, path)
        sync_folder(path.parent)


def overwrite(path: Path, pieces: Iterable[Buffer]) -> None:
    """Write into the blocks that the file already has: for large bytes that prove themselves whole, as messages do.

    Guarantees: after a return the bytes survive a power cut. After a crash the file may hold neither the old bytes nor
    the new ones, so its reader must be able to tell. Half the time of `write` where the size stays the same.
    """
    new = not path.exists()
    with disk_full_is_ours():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            write_all(descriptor, pieces)
            os.ftruncate(descriptor, os.lseek(descriptor, 0, os.SEEK_CUR))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_full_is_ours() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StoreError("disk-full", "the disk is full", hint="free some space, then start again") from None
        raise


def write_all(descriptor: int, pieces: Iterable[Buffer]) -> None:
    left = [memoryview(piece) for piece in pieces if len(piece)]
    while left:
        written = os.writev(descriptor, left[:PIECES_MOST])
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]
