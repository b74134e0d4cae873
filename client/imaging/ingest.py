"""A hospital's folder into its store: receive, clean, store; what cannot be proven clean is counted and left out.

Cleaning runs in worker processes, because decoders are C code that may crash: a study that takes its worker down is
tried once more alone, and then held back. Storing stays in this process, in the order of the folder.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from client.imaging.deid import clean, example_keys
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, pseudonym
from client.imaging.receive import RawStudy, scan
from client.imaging.record import CleanStudy
from client.imaging.store import Store
from federation.errors import DeidError, StoreError

Progress = Callable[[int, int], None]
_CHUNK = 16
_POOL_FROM = 256  # fewer studies are cleaned faster here than workers start
_COMMIT_EVERY = 256


@dataclass(frozen=True)
class IngestCounts:
    """What became of a folder. Every report row is accepted, already there, or quarantined."""

    accepted: int
    """Examples stored now."""
    already: int
    """Examples that were in the store before."""
    quarantined: Mapping[str, int]
    """Reason -> studies and unusable files held back."""
    rejected: int
    """Files that are neither DICOM, nor picture, nor report."""
    unreported: int
    """Usable images that no report row is about."""
    items: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Opaque id of a quarantined study -> reason."""


def ingest(
    folder: Path, store: Store, profile: DeidProfile, keys: SiteKeys, *,
    progress: Progress | None = None, workers: int | None = None,
) -> IngestCounts:  # fmt: skip
    """De-identify a folder into a store. Ingesting the same folder again adds nothing.

    Args:
        progress: called with studies done and studies in all.
        workers: processes; None takes one per core for a large folder and none for a small one, 1 works right here.

    Raises: DataError folder-absent, folder-empty; DeidError pairing before anything is stored; StoreError.
    """
    if (store.profile_digest, store.key_id) != (profile.digest, keys.key_id):
        raise StoreError(
            "store-mismatch",
            "the store was made with another profile or another site secret",
            hint="use the profile and secret of the store, or make a new store",
        )
    intake = scan(folder, profile)
    total, done = intake.study_count, 0
    accepted = already = 0
    reasons = intake.unusable
    items: dict[str, str] = {}
    with store.batch():
        for raw, outcome in _outcomes(intake.studies(), store, profile, keys, workers=_workers(workers, total)):
            added, reason = _stored(outcome, store)
            accepted += added
            item = pseudonym(keys.scan, raw.source)[:16]
            if reason is None:
                already += len(raw.conversations) - added
                store.unhold(item)
            else:
                reasons[reason] += 1
                items[item] = reason
                store.hold(item, reason)
            done += 1
            if progress is not None:
                progress(done, total)
            if done % _COMMIT_EVERY == 0:
                store.checkpoint()
    return IngestCounts(accepted, already, dict(sorted(reasons.items())), intake.rejected, intake.unreported, items)


Outcome = CleanStudy | str | None
"""A clean study, the reason for its quarantine, or None for one whose examples are all in the store."""


def _stored(outcome: Outcome, store: Store) -> tuple[int, str | None]:
    if outcome is None:
        return 0, None
    if isinstance(outcome, str):
        return 0, outcome
    try:
        return store.add(outcome), None
    except DeidError as error:
        return 0, error.code


def _outcomes(
    studies: Iterator[RawStudy], store: Store, profile: DeidProfile, keys: SiteKeys, *, workers: int
) -> Iterator[tuple[RawStudy, Outcome]]:
    """Studies beside their outcomes, in order. Not more than a few chunks are in memory at a time."""
    if workers <= 1:
        for raw in studies:
            yield raw, None if _is_stored(raw, store, keys) else _cleaned(raw, profile, keys)
        return
    pool = _pool(workers)
    running: deque[_Chunk] = deque()

    def submit(studies: list[RawStudy]) -> _Chunk:
        news = [raw for raw in studies if not _is_stored(raw, store, keys)]
        return _Chunk(studies, news, pool.submit(_clean_all, news, profile, keys) if news else None)

    try:
        while True:
            while len(running) < 2 * workers and (some := list(islice(studies, _CHUNK))):
                running.append(submit(some))
            if not running:
                return
            chunk = running.popleft()
            try:
                answers = chunk.future.result() if chunk.future is not None else []
            except BrokenProcessPool:
                answers = [_cleaned_alone(raw, profile, keys) for raw in chunk.news]
                pool.shutdown(cancel_futures=True)
                pool = _pool(workers)
                running = deque(submit(other.studies) for other in running)
            found = dict(zip(map(id, chunk.news), answers, strict=True))
            yield from ((raw, found.get(id(raw))) for raw in chunk.studies)
    finally:
        pool.shutdown(cancel_futures=True)


class _Chunk(NamedTuple):
    """Studies on their way through the pool; `news` are those that are not in the store yet."""

    studies: list[RawStudy]
    news: list[RawStudy]
    future: Future[list[Outcome]] | None


def _is_stored(raw: RawStudy, store: Store, keys: SiteKeys) -> bool:
    if raw.code is not None:
        return False
    try:
        wanted = example_keys(raw, keys)
    except DeidError:
        return False
    return bool(wanted) and all(store.has(key) for key in wanted)


def _cleaned(raw: RawStudy, profile: DeidProfile, keys: SiteKeys) -> Outcome:
    """Only the code of a refusal goes on: no exception, and so no traceback, leaves a worker."""
    try:
        return clean(raw, profile, keys)
    except DeidError as error:
        return error.code


def _clean_all(chunk: Sequence[RawStudy], profile: DeidProfile, keys: SiteKeys) -> list[Outcome]:
    return [_cleaned(raw, profile, keys) for raw in chunk]


def _cleaned_alone(raw: RawStudy, profile: DeidProfile, keys: SiteKeys) -> Outcome:
    """In a process of its own: if that dies too, this study is the one that kills decoders."""
    with _pool(1) as pool:
        try:
            return pool.submit(_cleaned, raw, profile, keys).result()
        except BrokenProcessPool:
            return "decode-failed"


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _workers(asked: int | None, total: int) -> int:
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if total >= _POOL_FROM else 1
