"""`wardround site receive`: take objects in, and ingest each study once it has come to rest.

Raw data lives in the spool only. A study that was stored or held back is removed there at once; one whose report is
not there yet waits, and is tried again when the report files change. While somebody else writes to the store, what has
come to rest waits.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event

from client.imaging.ingest import IngestCounts, ingest
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.spool import Spool
from client.imaging.storage_scp import Door, provider
from client.imaging.store import Store
from federation.errors import StoreError

_LOOK_EVERY_S = 1.0
_DAY_S = 86_400.0


def receive(
    door: Door, spool: Spool, store: Store, reports: Path, profile: DeidProfile, keys: SiteKeys, *,
    quiet_s: float, keep_days: float, stop: Event, workers: int | None = None,
    started: Callable[[int], None] = lambda port: None,
    told: Callable[[IngestCounts], None] = lambda counts: None,
    expired: Callable[[int], None] = lambda count: None,
    busy: Callable[[], None] = lambda: None,
    now_s: Callable[[], float] = time.time,
) -> None:  # fmt: skip
    """Serve until `stop` is set, then end in order: no new callers, one last look at what has come to rest.

    Guarantees: an object that was acknowledged is ingested, also after a kill and a new start. No raw file is left of
    what was ingested or held back; what waits for a report is removed after `keep_days`.

    Args:
        started: called with the port; `told` with the counts of every batch; `expired` with images removed unreported;
            `busy` when a batch begins to wait for another writer of the store.

    Raises: DataError receiver; StoreError, but not store-busy.
    """
    reports.mkdir(parents=True, exist_ok=True, mode=0o700)
    seen: Mapping[str, tuple[int, int]] = {}
    waits = False
    with provider(door, spool, profile) as running:
        started(running.port)
        while not stop.wait(_LOOK_EVERY_S):
            there = _signature(reports)
            waited = waits
            waits = not _look(spool, store, reports, profile, keys, now_s(), quiet_s, there != seen, workers, told)
            if waits and not waited:
                busy()
            seen = there
            if gone := spool.expire(now_s(), keep_days * _DAY_S):
                expired(gone)
    _look(spool, store, reports, profile, keys, now_s(), quiet_s, False, workers, told)


def _look(
    spool: Spool, store: Store, reports: Path, profile: DeidProfile, keys: SiteKeys, now_s: float, quiet_s: float,
    again: bool, workers: int | None, told: Callable[[IngestCounts], None],
) -> bool:  # fmt: skip
    """Whether all that came to rest was ingested; if another process writes to the store, the batch stays for later."""
    if not spool.begin(now_s, quiet_s=quiet_s, again=again):
        return True
    leftover: list[Path] = []
    try:
        counts = ingest(
            spool.batch, store, profile, keys, workers=workers, reports=reports, every_row=False,
            leftover=leftover.append,
        )  # fmt: skip
    except StoreError as error:
        if error.code == "store-busy":
            return False
        raise
    spool.end(leftover)
    if counts.accepted or counts.quarantined:
        told(counts)
    return True


def _signature(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir()) if path.is_file()
    }
