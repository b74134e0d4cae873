"""Received objects on their way to the store: raw patient data, under random names, for as short as it can be.

    <spool>/received/parts/            what is coming in just now
    <spool>/received/new/<study>/      acknowledged; a study rests until nothing came for a while
    <spool>/received/batch/            under ingest
    <spool>/received/waiting/<study>/  ingested before its report was there; removed after some days
    <spool>/received/clock             since when the site's clock has run steadily

A study's folder is named by the keyed pseudonym of its UID. Folders are 0700, files 0600.
"""

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from client.imaging.header import border, read, refusal
from client.imaging.profile import Limits
from client.imaging.pseudonyms import SiteKeys, pseudonym
from client.imaging.scratch import is_held, private
from federation import durable
from federation.errors import StoreError

_PLACES = ("parts", "new", "batch", "waiting")


class Spool:
    """The folder of received objects. One receiver at a time (a file lock, until `close` or the end of the process);
    `accept` may be called by several threads.

    Raises: StoreError store-busy when another receiver has the folder.
    """

    def __init__(self, folder: Path, limits: Limits, keys: SiteKeys) -> None:
        self._limits, self._keys = limits, keys
        root = folder / "received"
        self.parts, self._new, self.batch, self._waiting = (root / name for name in _PLACES)
        for place in (self.parts, self._new, self.batch, self._waiting):
            private(place)
        for place in (folder, root):  # an earlier version left these two open to others
            place.chmod(0o700)
        self._lock = _locked(root / "lock")
        self.clock = root / "clock"
        self._begun: list[Path] = []
        self.forget_parts()
        for study in self.batch.iterdir():  # the last receiver was killed in the middle of an ingest
            self._move(study, self._new)

    def close(self) -> None:
        """Let another receiver have the folder."""
        os.close(self._lock)

    def accept(self, part: Path) -> None:
        """Take over a file that has come whole. After a return it survives a power cut, and `part` is gone.

        Raises: DeidError for what is no DICOM object with a study; OSError when the disk is full.
        """
        try:
            with border("malformed", "the object does not parse"):
                header = read(
                    part, self._limits, pixels=False, tags=("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID")
                )
                study = str(header.get("StudyInstanceUID", "") or "")
            if not study:
                raise refusal("malformed", "the object names no study")
            folder = self._new / pseudonym(self._keys.uid, study)
            part.chmod(0o600)
            with open(part, "rb") as file:
                os.fsync(file.fileno())
            while True:
                folder.mkdir(exist_ok=True, mode=0o700)
                try:
                    os.rename(part, folder / f"{secrets.token_hex(16)}.dcm")
                    break
                except FileNotFoundError:  # the folder has just moved into a batch
                    if not part.exists():
                        raise
            durable.sync_folder(folder)
            durable.sync_folder(self._new)
        finally:
            part.unlink(missing_ok=True)

    def begin(self, now_s: float, *, quiet_s: float, again: bool) -> int:
        """Move the studies that have come to rest into the batch folder; with `again` those that wait too.

        Returns: how many studies the batch has.
        """
        for study in list(self._new.iterdir()):
            if now_s - _newest(study, now_s) >= quiet_s:
                self._move(study, self.batch)
                if (self._waiting / study.name).exists():
                    self._move(self._waiting / study.name, self.batch)
        if again:
            for study in list(self._waiting.iterdir()):
                self._move(study, self.batch)
        self._begun = list(self.batch.iterdir())
        return len(self._begun)

    def end(self, leftover: list[Path]) -> None:
        """Remove what `begin` counted, now ingested or held back; images that no report is about wait for one."""
        for path in leftover:
            place = self._waiting / path.parent.name
            place.mkdir(exist_ok=True, mode=0o700)
            os.rename(path, place / path.name)
        for study in self._begun:
            shutil.rmtree(study)
        self._begun = []

    def expire(self, now_s: float, keep_s: float) -> int:
        """Remove images that have waited too long for a report. Returns how many. Ask only by a steady clock."""
        gone = 0
        for study in list(self._waiting.iterdir()):
            _newest(study, now_s)  # nothing came in the future
            for path in list(study.iterdir()):
                if now_s - path.stat().st_mtime > keep_s:
                    path.unlink()
                    gone += 1
            if not any(study.iterdir()):
                study.rmdir()
        return gone

    def files(self) -> Iterator[Path]:
        """Every raw file that is here now."""
        for place in (self.parts, self._new, self.batch, self._waiting):
            yield from (path for path in place.rglob("*") if path.is_file())

    def forget_parts(self) -> None:
        """Objects that never came whole: nobody was told that they are here."""
        for path in self.parts.iterdir():
            path.unlink(missing_ok=True)

    def _move(self, study: Path, place: Path) -> None:
        target = place / study.name
        if not target.exists():
            os.rename(study, target)
            return
        for path in study.iterdir():
            os.rename(path, target / path.name)
        study.rmdir()


def raw_times(folder: Path) -> list[float]:
    """When each raw object in this spool came; asks without a lock, so some may be gone by now."""
    found = []
    for name in _PLACES:
        for path in (folder / "received" / name).rglob("*"):
            with suppress(FileNotFoundError):
                if stat.S_ISREG((seen := path.lstat()).st_mode):
                    found.append(seen.st_mtime)
    return found


def has_receiver(folder: Path) -> bool:
    """Whether a `site receive` has this spool now."""
    return is_held(folder / "received" / "lock")


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            "store-busy",
            "another receiver has the folder of received objects",
            hint="one `site receive` per folder: stop the other one, or give this one another --dir",
        ) from None
    return descriptor


def _newest(study: Path, now_s: float) -> float:
    """When the last object came. One that came while the clock was ahead came now, or it would rest until then."""
    newest = 0.0
    for path in study.iterdir():
        came = path.stat().st_mtime
        if came > now_s:
            os.utime(path, (now_s, now_s))
        newest = max(newest, min(came, now_s))
    return newest
