"""A file of decisions that only grows: canonical JSON lines, each with its number and the SHA-256 of the one before."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from federation import canonical, durable
from federation.canonical import Value

_FIRST = "0" * 64
Link = tuple[int, str, bytes]


def links(text: bytes) -> Iterator[Link]:
    """The lines of a file: each with its number, and the SHA-256 that it has to name."""
    before = _FIRST
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        yield number, before, line
        before = hashlib.sha256(line).hexdigest()


def append(
    path: Path, decisions: Sequence[Mapping[str, Value]], verify: Callable[[], object],
    dump: Callable[[Mapping[str, Value]], bytes] = canonical.dump,
) -> list[Link]:  # fmt: skip
    """Add decisions, all or none, behind lines that `verify` approves of, under a lock; returns what was added.

    After a return they survive a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(path.with_name(path.name + ".lock")):
        verify()
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for decision in decisions:
            before = hashlib.sha256(lines[-1]).hexdigest() if lines else _FIRST
            lines.append(dump({"seq": len(lines) + 1, "prev": before, **decision}) + b"\n")
        durable.write(path, lines)
        path.chmod(0o600)
        return list(links(b"".join(lines)))[-len(decisions) :]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
