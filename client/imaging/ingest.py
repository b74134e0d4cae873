"""A hospital's folder into its store: receive, clean, store; what cannot be proven clean is counted and left out.

Cleaning runs in worker processes, because decoders are C code that may crash or hang (workers.py). Storing stays in
this process, in the order of the folder, so that the store does not depend on the number of workers.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client.imaging.deid import clean, example_keys
from client.imaging.held import file_item, row_items, source_item
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, normal_id
from client.imaging.receive import Intake, RawStudy, scan
from client.imaging.record import CleanStudy
from client.imaging.report_listed import NOBODY, Listed
from client.imaging.reports import ILL_FORMED
from client.imaging.scratch import scratch
from client.imaging.site_lists import require_joined
from client.imaging.sources import Source
from client.imaging.store import Store
from client.imaging.withheld import REASONS
from client.imaging.workers import WorkLimits, cores, each
from federation.errors import DataError, DeidError, StoreError

Progress = Callable[[int, int], None]
_POOL_FROM = 256  # fewer studies are cleaned faster here than workers start
_COMMIT_EVERY = 256
_CHUNK = 4
Withdrawn = Collection[str]
"""Keys of patients who have been withdrawn."""
_ROW_ITSELF = frozenset({"pairing", *ILL_FORMED})


def _nobody() -> Withdrawn:
    return frozenset()


@dataclass(frozen=True)
class IngestCounts:
    """What became of a folder. Every report row is accepted, already there, waiting, or in something quarantined: a
    study, or a table that cannot be read at all. Rows behind a quote that nobody closes are quarantined line by line.
    """

    accepted: int
    """Examples stored now."""
    already: int
    """Examples that were in the store before, or that an equal row of the folder gave."""
    quarantined: Mapping[str, int]
    """Reason -> studies, files and archives held back."""
    rejected: int
    """Files that are neither DICOM, nor picture, nor report."""
    unreported: int
    """Usable images that no report row is about."""
    waiting: int = 0
    """Report rows whose images are not there yet; only of a source that allows it."""
    erased: int = 0
    """Examples of withdrawn patients that were taken out of the store again, of this folder or of before."""


def ingest(
    folder: Path, store: Store, profile: DeidProfile, keys: SiteKeys, *,
    progress: Progress | None = None, listing: Progress | None = None, workers: int | None = None,
    limits: WorkLimits | None = None, reports: Path | None = None, every_row: bool = True,
    leftover: Callable[[Path], None] | None = None, rested: Collection[Path] | None = None,
    withdrawn: Callable[[], Withdrawn] = _nobody,
    listed: Listed = NOBODY,
) -> IngestCounts:  # fmt: skip
    """De-identify a folder, a DICOMDIR's folder or a zip into a store. Doing it again adds nothing.

    Guarantees: killed at any moment and started again, it ends with the same store as if it had never been stopped.
    Memory does not grow with the folder. Raw data is copied to the scratch folder beside the store only, and removed.
    When it returns nobody is in the store whom `withdrawn` named until then; whoever is withdrawn after the last look
    finds the store free for erasing.

    Args:
        progress: called with studies done and studies in all; `listing` the same for the files of the first look.
        workers: processes; None takes one per core for a large folder and none for a small one, 0 works right here.
        reports: a folder of report files that lie elsewhere; with `rested`, these of them and no others.
        every_row: a row whose image is not there stops everything; otherwise it is counted as waiting.
        leftover: called with every usable image that no row is about.
        withdrawn: says who has been; asked before a study is stored, with every commit, and at the end.
        listed: the site's own names and places; its joined records are in `keys`.

    Raises: DataError folder-absent, folder-unreadable, folder-overlap, folder-empty; DeidError archive-refused, and
    pairing before anything is stored; StoreError.
    """
    require_match(store, profile, keys)
    limits = limits or WorkLimits()
    with scratch(store.folder.parent / "spool") as place:
        source = Source(folder, profile.limits, place, reports=reports, rested=rested)
        require_apart(source.top, store.folder)
        intake = scan(
            source, profile, place, workers=_workers(workers, source), limits=limits, progress=listing,
            every_row=every_row, joined=keys.joined,
        )  # fmt: skip
        try:
            require_joined(store, keys, intake.issuers)
            return _stored_all(
                intake, source, store, profile, keys, listed, progress=progress, workers=workers, limits=limits,
                leftover=leftover, withdrawn=withdrawn, whole=every_row,
            )  # fmt: skip
        finally:
            intake.close()


def require_match(store: Store, profile: DeidProfile, keys: SiteKeys) -> None:
    """Raises StoreError store-mismatch for a store of other rules or another secret: one person would be two in it."""
    if (store.profile_digest, store.key_id) != (profile.digest, keys.key_id):
        raise StoreError(
            "store-mismatch",
            "the store was made with another profile or another site secret",
            hint="use the profile and secret of the store, or make a new store",
        )


def is_withdrawn(gone: Withdrawn, keys: SiteKeys, profile: DeidProfile, issuer: str, patient_id: str) -> bool:
    return bool(gone) and any(key in gone for key in patient_keys(keys, profile, issuer, patient_id))


def patient_keys(keys: SiteKeys, profile: DeidProfile, issuer: str, patient_id: str) -> set[str]:
    """The keys by which this id may have been withdrawn: perhaps before the site had a default issuer, or before its
    record was joined with another."""
    if not patient_id:
        return set()
    issuers = {issuer, ""} if issuer == normal_id(profile.default_issuer) else {issuer}
    return {key for each in issuers for key in keys.person_keys(each, patient_id)}


def require_apart(one: Path, other: Path) -> None:
    """Raises DataError folder-overlap when one folder lies in the other: what we write would be read again."""
    first, second = (Path(os.path.realpath(folder)) for folder in (one, other))  # takes a link to itself, as it is
    if first == second or first in second.parents or second in first.parents:
        raise DataError(
            "folder-overlap",
            "the folder to read, the folder to write, or one of the site's own lie in one another",
            hint="keep what is read apart from the output, and from the site's own folder",
        )


def _stored_all(
    intake: Intake, source: Source, store: Store, profile: DeidProfile, keys: SiteKeys, listed: Listed, *,
    progress: Progress | None, workers: int | None, limits: WorkLimits, leftover: Callable[[Path], None] | None,
    withdrawn: Callable[[], Withdrawn], whole: bool,
) -> IngestCounts:  # fmt: skip
    total = intake.study_count
    accepted = already = 0
    origin = source_item(source, keys) if whole else ""  # what was received lies nowhere any more
    outcomes = each(
        partial(_cleaned, profile, keys, listed), _marked(intake.studies(), store, keys),
        failed=_reason, workers=_count(workers, total), limits=limits, chunk=_CHUNK, files=_file_count,
    )  # fmt: skip
    with closing(outcomes), store.batch():
        intake.withhold(partial(is_withdrawn, withdrawn(), keys, profile))
        erased = _erased(store, withdrawn())  # who was recorded, when a kill or another writer kept them in the store
        reasons = intake.unusable + source.refused
        _settle_files(intake, source, store, keys, origin, leftover)
        for done, ((raw, _), outcome) in enumerate(outcomes, 1):
            added, reason = _stored(outcome, store, withdrawn())
            reason = reason or _taken_out(raw, store, keys)
            accepted += added
            _settle(raw, reason, store, keys, origin)
            if reason is None:
                already += len(raw.rows) - added
            else:
                reasons[reason] += 1
            if progress is not None:
                progress(done, total)
            if done % _COMMIT_EVERY == 0:
                erased += _erased(store, withdrawn())
                store.checkpoint()
        if whole:  # a folder or archive that could not be read is held itself, in place of what lies in it
            store.forget_others(origin)
        erased += _erased(store, withdrawn())
    while store.present(gone := withdrawn()):  # by somebody who waited for the lock in vain
        erased += _erased(store, gone)
    return IngestCounts(
        accepted, already, dict(sorted(reasons.items())), intake.rejected, intake.unreported, intake.waiting, erased
    )


def _erased(store: Store, gone: Withdrawn) -> int:
    """Takes out who has been withdrawn; how many examples there were."""
    found = store.present(gone)
    return store.erase(*found) if found else 0


def _settle_files(
    intake: Intake, source: Source, store: Store, keys: SiteKeys, origin: str,
    leftover: Callable[[Path], None] | None,
) -> None:  # fmt: skip
    """Files that no row names, and what could not be read at all."""
    for image in intake.unnamed():
        item = file_item(image.name, keys)
        if image.code is not None:
            store.hold(item, image.code, kind="file", modality=image.modality, source=origin)
            continue
        store.unhold(item)
        if leftover is not None:
            leftover(image.path)
    for name in source.archives():
        store.unhold(file_item(name, keys))
    for name, kind, code in intake.refused():
        store.hold(file_item(name, keys), code, kind=kind, source=origin)


def _settle(raw: RawStudy, reason: str | None, store: Store, keys: SiteKeys, origin: str) -> None:
    """A row that is wrong itself is known by its place alone, since its repair may change what it names. What a person
    took out the store remembers by its examples."""
    place, item = row_items(raw, keys)
    held = None if reason is None or reason in REASONS.values() else place if reason in _ROW_ITSELF else item
    for other in {place, item} - {held}:
        store.unhold(other)
    if held is not None and reason is not None:
        kinds = {image.modality for image in raw.images}
        store.hold(held, reason, modality=kinds.pop() if len(kinds) == 1 else "", source=origin)


Outcome = CleanStudy | str | None
"""A clean study, the reason for its quarantine, or None for one whose examples the store all knows."""


def _stored(outcome: Outcome, store: Store, gone: Withdrawn) -> tuple[int, str | None]:
    if outcome is None:
        return 0, None
    if isinstance(outcome, str):
        return 0, outcome
    if outcome.patient_key in gone:
        return 0, "withdrawn"
    try:
        return store.add(outcome), None
    except DeidError as error:
        return 0, error.code


def _marked(studies: Iterator[RawStudy], store: Store, keys: SiteKeys) -> Iterator[tuple[RawStudy, bool]]:
    """Studies, and whether all of their examples are in the store, or were taken out of it by a person."""
    for raw in studies:
        yield raw, _is_stored(raw, store, keys)


def _is_stored(raw: RawStudy, store: Store, keys: SiteKeys) -> bool:
    if raw.code is not None:
        return False
    try:
        wanted = example_keys(raw, keys)
    except DeidError:
        return False
    return bool(wanted) and all(store.has(key) or store.withheld_reason(key) is not None for key in wanted)


def _taken_out(raw: RawStudy, store: Store, keys: SiteKeys) -> str | None:
    """Why a person took out what the row is about, if one did."""
    if raw.code is not None:
        return None
    try:
        return next(filter(None, map(store.withheld_reason, example_keys(raw, keys))), None)
    except DeidError:
        return None


def _cleaned(profile: DeidProfile, keys: SiteKeys, listed: Listed, marked: tuple[RawStudy, bool]) -> Outcome:
    """Only the code of a refusal goes on: no exception, and so no traceback, leaves a worker."""
    raw, is_stored = marked
    if is_stored:
        return None
    try:
        return clean(raw, profile, keys, listed=listed)
    except DeidError as error:
        return error.code
    except OSError:
        return "unreadable"


def _file_count(marked: tuple[RawStudy, bool]) -> int:
    return len(marked[0].images)


def _reason(code: str) -> Outcome:
    return code


def _workers(asked: int | None, source: Source) -> int:
    return asked if asked is not None else _count(None, sum(1 for _ in source.names()))


def _count(asked: int | None, total: int) -> int:
    if asked is not None:
        return asked
    return cores() if total >= _POOL_FROM else 0
