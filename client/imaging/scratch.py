"""A place for raw patient data that must exist for a while: unpacked archives, received objects, the index of a folder.

The folder is 0700 and goes when its work ends. What a killed process left behind is removed by the next one.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "work-"


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """An empty folder of our own below `parent`, removed at the end whatever happens.

    Guarantees: 0700; a folder of a process that is gone is removed here first, one of a living process is left alone.
    """
    private(parent)
    sweep(parent)
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        _remove_if_empty(parent)


def private(folder: Path) -> None:
    """Make a folder, if it is not there, and those above it that are missing: each 0700, which `parents=True` gives to
    the last one only."""
    if not folder.parent.exists():
        private(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o700)


def sweep(parent: Path) -> None:
    """Remove the folders that no living process holds."""
    for folder in parent.glob(_PREFIX + "*"):
        try:
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def left_over(parent: Path) -> bool:
    """Whether a process that is gone left something here, which `sweep` would remove."""
    return any(not is_held(folder / "lock") for folder in parent.glob(_PREFIX + "*"))


def is_held(lock: Path) -> bool:
    """Whether a living process holds this lock file."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass
