"""`wardround site receive`: take objects in, and ingest each study once it has come to rest.

Raw data lives in the spool only. A study that was stored or held back is removed there at once; one whose report is
not there yet waits, and is tried again when the report files change. A report file that is being written counts when it
has come to rest, as a study does. While somebody else writes to the store, or no worker process starts, what has come
to rest waits: the archive goes on sending.
"""

import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from threading import Event

from client.imaging.ingest import IngestCounts, Withdrawn, ingest
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.report_listed import NOBODY, Listed
from client.imaging.scratch import private
from client.imaging.spool import Spool
from client.imaging.steady import SteadyClock
from client.imaging.storage_scp import Door, provider
from client.imaging.store import Store
from federation.errors import DataError, StoreError

_LOOK_EVERY_S = 1.0
_DAY_S = 86_400.0
_PASSING = {"store-busy": 0.0, "no-worker": 60.0}
"""What waiting may cure, and how long until the next try: starting workers on a machine without memory takes more."""


Mark = tuple[int, int, int]
"""What changes when a file is written or replaced: inode, size, time."""


class ReportFiles:
    """The report files, of which those count that nobody has touched for `quiet_s`: of one that is still being copied
    the last report would be stored in part, and its image removed."""

    def __init__(self, folder: Path, quiet_s: float) -> None:
        self._folder, self._quiet_s = folder, quiet_s
        self._since: dict[Path, tuple[Mark, float]] = {}

    def rested(self) -> dict[Path, Mark]:
        """Looks again. The site's clock may jump, and a copy may keep an old time: what counts is what was seen."""
        now_s = time.monotonic()
        since: dict[Path, tuple[Mark, float]] = {}
        for path, mark in _marks(self._folder):
            before = self._since.get(path)
            since[path] = before if before is not None and before[0] == mark else (mark, now_s)
        self._since = since
        return {path: mark for path, (mark, began_s) in since.items() if now_s - began_s >= self._quiet_s}


def _marks(folder: Path) -> Iterator[tuple[Path, Mark]]:
    for path in sorted(folder.rglob("*")):
        try:
            found = path.lstat()
        except FileNotFoundError:  # moved or removed a moment ago
            continue
        if stat.S_ISREG(found.st_mode):
            yield path, (found.st_ino, found.st_size, found.st_mtime_ns)


def receive(
    door: Door, spool: Spool, store: Store, reports: Path, profile: DeidProfile, keys: SiteKeys, *,
    quiet_s: float, keep_days: float, stop: Event, workers: int | None = None,
    started: Callable[[int], None] = lambda port: None,
    told: Callable[[IngestCounts], None] = lambda counts: None,
    expired: Callable[[int], None] = lambda count: None,
    busy: Callable[[str], None] = lambda code: None,
    now_s: Callable[[], float] = time.time,
    withdrawn: Callable[[], Withdrawn] = frozenset, listed: Listed = NOBODY,
) -> None:  # fmt: skip
    """Serve until `stop` is set, then end in order: no new callers, one last look at what has come to rest.

    Guarantees: an object that was acknowledged is ingested, also after a kill and a new start. No raw file is left of
    what was ingested or held back; what waits for a report is removed after `keep_days`, by a clock that has run
    steadily for a day, and at the next look if its patient is withdrawn.

    Args:
        started: called with the port; `told` with the counts of every batch; `expired` with images removed unreported;
            `busy` when a batch begins to wait, with the code of what it waits for.

    Raises: DataError receiver; StoreError; but not store-busy and no-worker.
    """
    private(reports)
    files, clock = ReportFiles(reports, quiet_s), SteadyClock(spool.clock)
    seen: Mapping[Path, Mark] = {}
    gone: Withdrawn = frozenset()
    waits, rests_until_s = "", 0.0
    with provider(door, spool, profile) as running:
        started(running.port)
        while not stop.wait(_LOOK_EVERY_S):
            if time.monotonic() < rests_until_s:
                continue
            there, now_gone = files.rested(), withdrawn()
            again = there != seen or now_gone != gone
            waited = waits
            waits = _look(
                spool, store, reports, there, profile, keys, listed, now_s(), quiet_s, again, workers, told,
                withdrawn,
            )  # fmt: skip
            if waits and waits != waited:
                busy(waits)
            rests_until_s = time.monotonic() + _PASSING.get(waits, 0.0)
            seen, gone = there, now_gone
            if clock.is_steady(now_s()) and (late := spool.expire(now_s(), keep_days * _DAY_S)):
                expired(late)
    _look(
        spool, store, reports, files.rested(), profile, keys, listed, now_s(), quiet_s, False, workers, told, withdrawn
    )


def _look(
    spool: Spool, store: Store, reports: Path, rested: Collection[Path], profile: DeidProfile, keys: SiteKeys,
    listed: Listed, now_s: float, quiet_s: float, again: bool, workers: int | None,
    told: Callable[[IngestCounts], None], withdrawn: Callable[[], Withdrawn],
) -> str:  # fmt: skip
    """Ingest all that came to rest. The code of what passes, if something was in the way: then the batch stays."""
    if not spool.begin(now_s, quiet_s=quiet_s, again=again):
        return ""
    leftover: list[Path] = []
    try:
        counts = ingest(
            spool.batch, store, profile, keys, workers=workers, reports=reports, every_row=False,
            leftover=leftover.append, rested=rested, listed=listed, withdrawn=withdrawn,
        )  # fmt: skip
    except (StoreError, DataError) as error:
        if error.code in _PASSING:
            return error.code
        raise
    spool.end(leftover)
    if counts.accepted or counts.quarantined or counts.erased:
        told(counts)
    return ""
