"""What is held back, by opaque ids that only the source itself can turn into files and rows again.

The store keeps no name of a file: an id is a keyed pseudonym of where the item lies. Whoever has to repair it reads the
source once more, as an ingest lists it, and writes down which of its files and rows have these ids. An export, which
keeps nothing, writes the same table while it runs, if it is asked to.
"""

import csv
import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, pseudonym
from client.imaging.receive import Intake, RawStudy, scan
from client.imaging.scratch import scratch
from client.imaging.sources import Source
from client.imaging.store import Store
from client.imaging.workers import WorkLimits
from federation import durable
from federation.errors import DataError, StoreError

COLUMNS = ("item", "reason", "file", "row")
Line = tuple[str, str, str, int | str]


def file_item(name: str, keys: SiteKeys) -> str:
    """The id of a file or archive, by its name in the source."""
    return pseudonym(keys.scan, "file", name)[:16]


def row_items(raw: RawStudy, keys: SiteKeys) -> tuple[str, str]:
    """The two ids of a row: by its place alone, since its repair may change what it names, and with what it names."""
    return pseudonym(keys.scan, raw.source)[:16], pseudonym(keys.scan, raw.source, raw.about)[:16]


def source_item(source: Source, keys: SiteKeys) -> str:
    """The id of a source, by where it lies on this machine."""
    return pseudonym(keys.scan, "source", str(source.origin))[:16]


@dataclass(frozen=True)
class FoundCounts:
    items: int
    """Held items that lie in the source."""
    lines: int
    """Lines about them in the file: a row, and each image that it is about."""
    elsewhere: int
    """Held items, of those that were asked for, that lie in another source or are there no more."""


def find(
    folder: Path, target: Path, store: Store, profile: DeidProfile, keys: SiteKeys, spool: Path, *,
    apart: Collection[Path] = (), only: Collection[str] = (), workers: int = 0,
    listing: Callable[[int, int], None] | None = None,
) -> FoundCounts:  # fmt: skip
    """Write which files and rows of a source are held back, as a table of `COLUMNS`, into the new file `target`.

    Guarantees: the table, which names files of patients, is readable by its owner only, outside of the source, the
    store, the spool and the folders `apart`; it is there whole or not at all; without an item there is none.

    Raises: DataError folder-absent, folder-empty, folder-unreadable, folder-overlap; StoreError output-exists.
    """
    require_new(target)
    with scratch(spool) as place:
        source = Source(folder, profile.limits, place)
        require_outside(target, (source.origin, source.top, store.folder, spool, *apart))
        intake = scan(
            source, profile, place, workers=workers, limits=WorkLimits(), progress=listing, every_row=False
        )  # fmt: skip
        counted: Counter[str] = Counter()
        with closing(intake), new_table(target) as write:
            for line in _lines(intake, store, keys):
                if not only or line[0] in only:
                    counted[line[0]] += 1
                    write(line)
    asked = len(set(only)) if only else sum(store.held().values())
    return FoundCounts(len(counted), counted.total(), asked - len(counted))


def _lines(intake: Intake, store: Store, keys: SiteKeys) -> Iterator[Line]:
    for image in intake.unnamed():
        yield from _about(file_item(image.name, keys), store, [(image.name, "")])
    for name, _, _ in intake.refused():
        yield from _about(file_item(name, keys), store, [(name, "")])
    for raw in intake.studies():
        images = [(image.name, "") for image in raw.images]
        for item in row_items(raw, keys):
            yield from _about(item, store, [*raw.rows, *images])


def _about(item: str, store: Store, places: Iterable[tuple[str, int | str]]) -> Iterator[Line]:
    for held in store.held_like(item):
        if held.item == item:
            yield from ((item, held.reason, file, row) for file, row in places)


@contextmanager
def new_table(target: Path) -> Iterator[Callable[[Line], None]]:
    """Takes the lines of a table of `COLUMNS`; at the end `target` is there, whole and for its owner only, unless there
    was no line or an error."""
    lines = 0
    with _nameless(target.parent) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)

        def write(line: Line) -> None:
            nonlocal lines
            table.writerow(line)
            lines += 1

        yield write
        if lines:
            _keep(file, target)


def require_new(target: Path) -> None:
    """Raises: StoreError output-exists; DataError folder-absent. Asked before the work begins."""
    if os.path.lexists(target):
        raise _there()
    if not target.parent.is_dir():
        raise DataError(
            "folder-absent", "there is no folder to write the table into", hint="name a file in a folder that is there"
        )


def _there() -> StoreError:
    return StoreError("output-exists", "there is a file of this name", hint="name a new file for the table")


def require_outside(target: Path, folders: Iterable[Path]) -> None:
    """Outside of what an ingest would read, and of what is no place for names of patients' files. Raises: DataError
    folder-overlap."""
    real = Path(os.path.realpath(target.parent)) / target.name
    if any(Path(os.path.realpath(folder)) in real.parents for folder in folders):
        raise DataError(
            "folder-overlap",
            "the table would lie in the source, in the output, or in a folder of the site's own",
            hint="name a file elsewhere, in a folder that only you can read",
        )


@contextmanager
def _nameless(folder: Path) -> Iterator[TextIO]:
    """A new file that nobody sees and that goes by itself, unless it is kept. File names that are no UTF-8 stay as they
    are."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in durable.NOT_ALLOWED:
            raise StoreError(
                "no-permission", "no permission to write the table there", hint="name a file in a folder of your own"
            ) from None
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise StoreError(
                "output-failed",
                "the table cannot be written there: this disk knows no private files",
                hint="name a file on a disk of this machine",
            ) from None
        raise
    with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file


def _keep(file: TextIO, target: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    try:
        # With a folder's descriptor Python calls linkat(2), which follows the link in /proc; without it, link(2).
        os.link(f"/proc/self/fd/{file.fileno()}", target, src_dir_fd=file.fileno())
    except FileExistsError:
        raise _there() from None
    durable.sync_folder(target.parent)
