"""What the operating system says about a site's folders, as errors with a hint."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from federation import durable
from federation.errors import StoreError

_MISPLACED = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_FULL = StoreError("disk-full", "the disk is full", hint="free some space, then start again")


@contextmanager
def guarded() -> Iterator[None]:
    """What the operating system says about folders, as errors with a hint."""
    try:
        yield
    except OSError as error:
        if error.errno in durable.DISK_FULL:
            raise _FULL from None
        if error.errno in durable.NOT_ALLOWED:
            raise StoreError(
                "no-permission",
                "no permission to write in the site's folder",
                hint="run as the user who owns it; every file of a site belongs to one user",
            ) from None
        if error.errno in _MISPLACED:
            raise StoreError(
                "output-failed",
                f"a folder of the site cannot be used: {os.strerror(error.errno).lower()}",
                hint="look whether store and reports in site.toml, spool, state and attestations are folders",
            ) from None
        raise
    except sqlite3.OperationalError as error:  # the index of a source, in the spool
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise _FULL from None
        raise
