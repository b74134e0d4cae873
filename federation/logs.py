"""A log for machines: one JSON object per line, in a file that rotates by size. No value of a patient, no traceback."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from federation.errors import printable

MAX_BYTES = 8 * 2**20
KEEP = 5
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class JsonLog:
    """Appends lines; safe to call from several threads. A log that cannot be written never stops the work."""

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        also: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._path, self._max_bytes, self._keep, self._now, self._also = path, max_bytes, keep, now, also
        self._lock = threading.Lock()
        self.failed = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)

    def __call__(self, event: str, **fields: object) -> None:
        time = self._now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        line = json.dumps({"time": time, "event": event, **fields}, ensure_ascii=True)
        with self._lock:
            try:
                self._rotate(len(line) + 1)
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(descriptor, line.encode("ascii") + b"\n")
                finally:
                    os.close(descriptor)
            except OSError:
                self.failed += 1
        self._also(line)

    def child_line(self, child: str, text: str) -> None:
        """What a child process says, without tracebacks: those quote code and values, and help only a debugger."""
        text = COLOUR.sub("", text)
        if text and not text.startswith((" ", "\t", "Traceback")):
            self("child-says", child=child, text=printable(text[:500]))

    def _rotate(self, size: int) -> None:
        if not self._path.exists() or self._path.stat().st_size + size <= self._max_bytes:
            return
        for number in range(self._keep - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                os.replace(older, self._path.with_name(f"{self._path.name}.{number + 1}"))
        os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a log, which may not be there yet."""
    return (event for _, event in events_after(path, 0))


def events_after(path: Path, after: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every whole line behind this offset, with the offset behind it.

    A killed process, or a loss of power, may have left half a line before another one: what cannot be read is passed
    over.
    """
    try:
        with path.open("rb") as file:
            file.seek(after)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                after += len(line)
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                yield after, event
    except FileNotFoundError:
        return
