"""The clean store of a site: pictures as files, everything else in one SQLite index. Format docs/spec/store-1.md.

A picture is written, synced and renamed before the row that names it is committed: a crash leaves a picture without a
row, which the next writer removes, and never a row without a picture. One file per picture makes withdrawal simple.
"""

import fcntl
import hashlib
import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from client.imaging import withheld
from client.imaging.png import decode_png
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.withheld import KeptOut, Reach
from federation import durable
from federation.errors import DeidError, StoreError

__all__ = ["Picture", "PictureFields", "Store", "StoredExample", "Turn"]

FORMAT = "wardround-store/1"
_KEY = re.compile(r"[0-9a-f]{32}")
_LOCK_TRIES, _LOCK_PAUSE_S = 50, 0.1
_HELD = "item, reason, kind, modality, since"
_DECISION = {*_HELD.split(", "), "source"}
_PIECES = {"images", "attestations", "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "store.json.part"}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS patient (patient_key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS picture (
  picture_key TEXT PRIMARY KEY, patient_key TEXT NOT NULL REFERENCES patient, sha256 TEXT NOT NULL,
  rows INTEGER NOT NULL, columns INTEGER NOT NULL, fields TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS example (
  example_key TEXT PRIMARY KEY, patient_key TEXT NOT NULL REFERENCES patient, study_key TEXT NOT NULL,
  pictures TEXT NOT NULL, turns TEXT NOT NULL, sex TEXT NOT NULL, age_years INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decision (
  item TEXT PRIMARY KEY, reason TEXT NOT NULL, kind TEXT NOT NULL, modality TEXT NOT NULL, since TEXT NOT NULL,
  source TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS picture_patient ON picture (patient_key);
CREATE INDEX IF NOT EXISTS example_patient ON example (patient_key);
"""


@dataclass(frozen=True, repr=False)
class Picture:
    """A stored picture; the file is opened when its pixels are asked for."""

    picture_key: str
    rows: int
    columns: int
    fields: PictureFields
    sha256: str = field(compare=False)
    path: Path = field(compare=False)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """uint8 (rows, columns). Raises StoreError store-damaged when the file is not the one that was stored."""
        try:
            return decode_png(self.png())
        except ValueError:
            raise _damaged("a picture is not of the store's format") from None

    def png(self) -> bytes:
        """The file as it is. Raises StoreError store-damaged when it is not the one that was stored."""
        try:
            data = self.path.read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise _damaged("a picture is missing or is not the one that was stored")
        return data

    def __repr__(self) -> str:
        return "<Picture: hidden>"


@dataclass(frozen=True, repr=False)
class StoredExample:
    """One training item of exactly one patient: a conversation about its pictures."""

    example_key: str
    patient_key: str
    images: tuple[Picture, ...]
    turns: tuple[Turn, ...]
    modality: str
    view: str
    sex: str = ""
    age_years: int | None = None

    def __repr__(self) -> str:
        return "<StoredExample: hidden>"


@dataclass(frozen=True)
class Held:
    """One item in quarantine. What it is called and where it lies, only its source knows."""

    item: str
    reason: str
    kind: str
    """`row`: a report row with its images; `file`; `archive`."""
    modality: str
    """A word of the profile's list, or empty."""
    since: str
    """The UTC minute in which it was first held back for this reason."""


class Store:
    """Patients, their examples and pictures. One writer at a time (a file lock); readers need no lock."""

    def __init__(self, folder: Path, index: sqlite3.Connection, profile_digest: str, key_id: str) -> None:
        self.folder = folder
        self.profile_digest = profile_digest
        self.key_id = key_id
        self._index = index
        self._lock: int | None = None
        self._unsynced: list[Path] = []
        self._digest: tuple[tuple[int, int], str] | None = None
        self._log_has_erased = False

    @classmethod
    def create(cls, folder: Path, *, profile_digest: str, key_id: str) -> "Store":
        """A new, empty store; one that was killed while it was made is gone on with, since store.json comes last.

        Raises StoreError output-exists when the folder holds anything else.
        """
        head = {"format": FORMAT, "key_id": key_id, "profile_digest": profile_digest}
        with _guarded_disk():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not _is_unfinished(folder):
                raise StoreError(
                    "output-exists", "the folder of the new store is not empty", hint="choose another folder"
                )
            folder.chmod(0o700)
            (folder / "images").mkdir(exist_ok=True, mode=0o700)
            (folder / "attestations").mkdir(exist_ok=True, mode=0o700)
            index = _connect(folder)
            index.executescript(_SCHEMA + withheld.TABLE)
            index.close()
            _write(folder / "store.json", (json.dumps(head, sort_keys=True) + "\n").encode(), sync=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """An existing store. Raises StoreError store-damaged, store-version, no-permission."""
        try:
            with _guarded_disk():
                head = json.loads((folder / "store.json").read_text(encoding="utf-8"))
            version, profile_digest, key_id = head["format"], head["profile_digest"], head["key_id"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise _damaged("the folder holds no readable store.json") from None
        if version != FORMAT:
            raise StoreError("store-version", f"the store is not {FORMAT}", hint="ingest the folder into a new store")
        if not (folder / "index.sqlite").is_file():
            raise _damaged("the index of the store is missing")
        try:
            with _guarded_disk():
                index = _connect(folder)
                columns = {name for _, name, *_ in index.execute("PRAGMA table_info(decision)")}
                tables = {name for (name,) in index.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        except sqlite3.Error:
            raise _damaged("the index of the store does not open") from None
        if columns != _DECISION or not tables.issuperset(("withheld", "withheld_device")):
            index.close()
            raise _damaged("the index of the store has no list of what is held back") if not columns else StoreError(
                "store-version",
                "the store was made by an earlier version of Wardround",
                hint="name a new folder in data.store and ingest again",
            )  # fmt: skip
        return cls(folder, index, str(profile_digest), str(key_id))

    def close(self) -> None:
        self._index.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<Store>"

    # reading

    def patients(self) -> list[str]:
        """All patient keys, sorted."""
        return [key for (key,) in self._ask("SELECT patient_key FROM patient ORDER BY patient_key")]

    def examples(self, patient_key: str) -> list[StoredExample]:
        """The examples of one patient, sorted by key; none for an unknown patient."""
        pictures = {picture.picture_key: picture for picture in self._pictures(patient_key)}
        rows = self._ask(
            "SELECT example_key, pictures, turns, sex, age_years FROM example "
            "WHERE patient_key = ? ORDER BY example_key",
            patient_key,
        )
        try:
            return [self._example(patient_key, row, pictures) for row in rows]
        except (KeyError, ValueError, TypeError):
            raise _damaged("a row of the index does not read") from None

    def picture(self, picture_key: str) -> Picture | None:
        """One picture by its key."""
        owners = self._ask("SELECT patient_key FROM picture WHERE picture_key = ?", picture_key)
        found = self._pictures(owners[0][0]) if owners else []
        return next((one for one in found if one.picture_key == picture_key), None)

    def has_patient(self, patient_key: str) -> bool:
        return bool(self._ask("SELECT 1 FROM patient WHERE patient_key = ?", patient_key))

    def present(self, patient_keys: Collection[str]) -> list[str]:
        """Those of these patients who are in the store, sorted."""
        return [key for key in sorted(patient_keys) if self.has_patient(key)]

    def rows(self, query: str, *values: object) -> list[Any]:
        """Rows of the index for a page that a person looks at; the query reads only."""
        return self._ask(query, *values)

    def count(self) -> int:
        """How many examples there are."""
        return int(self._ask("SELECT count(*) FROM example")[0][0])

    def has(self, example_key: str) -> bool:
        return bool(self._ask("SELECT 1 FROM example WHERE example_key = ?", example_key))

    def held(self) -> Counter[str]:
        """Quarantined items by reason, the examples that a person took out among them."""
        items = Counter[str](dict(self._ask("SELECT reason, count(*) FROM decision GROUP BY reason")))
        items.update(dict(self._ask("SELECT reason, count(DISTINCT example_key) FROM withheld GROUP BY reason")))
        return items

    def withheld(self) -> Iterator[withheld.Withheld]:
        """The examples that a person took out, in the order of their keys."""
        return withheld.everything(self._index)

    def withheld_groups(self) -> list[tuple[str, str]]:
        """The device groups that a person took out, as JSON, and why: what comes of them is held, too."""
        return withheld.groups(self._index)

    def kept_out(self) -> KeptOut:
        """What a person took out, for an export."""
        return withheld.kept_out(self._index)

    def withheld_reason(self, example_key: str) -> str | None:
        """Why a person took this example out; None if nobody did."""
        return withheld.reason_of(self._index, example_key)

    def keys_like(self, beginning: str) -> list[str]:
        """The examples, there or taken out, whose key begins so; two at most."""
        return [key for (key,) in self._ask(
            "SELECT example_key FROM example WHERE example_key >= ?1 AND example_key < ?1 || 'g' UNION "
            "SELECT example_key FROM withheld WHERE example_key >= ?1 AND example_key < ?1 || 'g' LIMIT 2",
            beginning,
        )]  # fmt: skip

    def reach(self, example_key: str, *, group: bool) -> Reach:
        """What `withhold` of this example would take out."""
        return withheld.reach(self._index, [example_key], group=group)

    def held_items(self, *, reason: str = "", after: str = "", most: int) -> list[Held]:
        """The next quarantined items behind the id `after`, in the order of their ids."""
        wanted = " AND reason = ?" if reason else ""
        rows = self._ask(
            f"SELECT {_HELD} FROM decision WHERE item > ?{wanted} ORDER BY item LIMIT ?",
            after, *([reason] if reason else []), most,
        )  # fmt: skip
        return [Held(*row) for row in rows]

    def held_like(self, start: str) -> list[Held]:
        """The items whose id begins so, two at most: enough to see whether it is one."""
        rows = self._ask(
            f"SELECT {_HELD} FROM decision WHERE item >= ? AND item < ? ORDER BY item LIMIT 2", start, start + "g"
        )
        return [Held(*row) for row in rows]

    def digest(self) -> str:
        """SHA-256 over all examples and pictures; the order in which they came does not change it.

        It is computed again only after somebody, here or in another process, has written to the index.
        """
        mark = self.mark()
        if self._digest is None or self._digest[0] != mark:
            self._digest = (mark, self._computed_digest())
        return self._digest[1]

    def take_digest(self, digest: str) -> None:
        """Take over what another connection has computed since somebody wrote last."""
        self._digest = (self.mark(), digest)

    def mark(self) -> tuple[int, int]:
        """Another one after somebody, here or in another process, has written to the index."""
        (version,) = self._ask("PRAGMA data_version")[0]
        return int(version), self._index.total_changes

    def _computed_digest(self) -> str:
        total = hashlib.sha256(FORMAT.encode() + b"\n" + self.profile_digest.encode() + b"\n")
        for table, order in (("picture", "picture_key"), ("example", "example_key")):
            for row in self._index.execute(f"SELECT * FROM {table} ORDER BY {order}"):
                total.update(json.dumps([table, *row], separators=(",", ":")).encode() + b"\n")
        return total.hexdigest()

    # writing

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Many writes under one lock and one commit at the end; an error or a crash undoes what is not committed. What
        was erased in between goes from the log of the index, too.

        Raises StoreError store-busy when somebody else writes; or, at the end, when somebody reads for so long that the
        log keeps what was erased.
        """
        if self._lock is not None:
            yield
            return
        with _guarded_disk():
            self._lock = _locked(self.folder / "lock")
        try:
            with _guarded_disk():
                if os.fstat(self._lock).st_size:  # the last writer did not end well
                    self._sweep()
                else:
                    os.write(self._lock, b"writing\n")
                    os.fsync(self._lock)
                self._index.execute("DELETE FROM noted")
                self._index.execute("BEGIN IMMEDIATE")
                try:
                    yield
                except BaseException:
                    self._undo()
                    raise
                self._commit()
                os.ftruncate(self._lock, 0)
        finally:
            os.close(self._lock)
            self._lock = None
        if self._log_has_erased:
            self._truncate_log()

    def checkpoint(self) -> None:
        """Inside a batch: make what came so far durable and go on."""
        self._commit()
        self._index.execute("BEGIN IMMEDIATE")

    def add(self, clean: CleanStudy) -> int:
        """Store a study; returns how many of its examples were new. What is there already is left as it is, and what
        the study holds twice (equal rows, copies of an image) is stored once.

        Raises: DeidError duplicate-differs when a picture of the same instance was stored with other pixels; leak-found
        and unclear when a person has taken out one of the pictures, or its device group.
        """
        if clean.profile_digest != self.profile_digest:
            raise StoreError(
                "store-version", "the study was cleaned under another profile", hint="ingest into a new store"
            )
        with self.batch():
            new = {example.example_key: example for example in clean.examples if not self.has(example.example_key)}
            pictures = {picture.picture_key: picture for picture in clean.pictures}
            refused = withheld.joins(self._index, list(new), list(pictures.values())) if new else None
            if new and refused is None:
                self._insert(clean, new, pictures)
        if refused is not None:
            raise DeidError(
                refused,
                "a person took a picture of this study out of the data set",
                hint="repair the source, then wardround site hold --undo, and ingest again",
            )
        return len(new)

    def _insert(self, clean: CleanStudy, new: dict[str, CleanExample], pictures: dict[str, CleanPicture]) -> None:
        fresh = [picture for picture in pictures.values() if self._is_new(picture)]
        self._index.execute("INSERT OR IGNORE INTO patient VALUES (?)", (clean.patient_key,))
        for picture in fresh:
            self._put(picture, clean.patient_key)
        keys = json.dumps(list(pictures))
        for key, example in new.items():
            turns = json.dumps([[turn.question, turn.answer] for turn in example.turns], ensure_ascii=False)
            self._index.execute(
                "INSERT INTO example VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, clean.patient_key, clean.study_key, keys, turns, clean.sex, clean.age_years),
            )

    def hold(self, item: str, reason: str, *, kind: str = "row", modality: str = "", source: str = "") -> None:
        """Note that an item, by its opaque id, is in quarantine and why. Held again for the same reason, it keeps its
        first minute. `source` is the opaque id of where it lies, for `forget_others`."""
        since = time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())
        with self.batch():
            self._index.execute(
                "INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (item) DO UPDATE SET "
                "since = CASE WHEN reason = excluded.reason THEN since ELSE excluded.since END, "
                "reason = excluded.reason, kind = excluded.kind, modality = excluded.modality, "
                "source = excluded.source",
                (item, reason, kind, modality, since, source),
            )
            self._index.execute("INSERT OR IGNORE INTO noted VALUES (?)", (item,))

    def unhold(self, item: str) -> None:
        """The item was accepted after all."""
        with self.batch():
            self._index.execute("DELETE FROM decision WHERE item = ?", (item,))

    def forget_others(self, source: str) -> None:
        """At the end of a batch that has seen all of a source: of this source, only what the batch held stays held."""
        with self.batch():
            self._index.execute(
                "DELETE FROM decision WHERE source = ? AND item NOT IN (SELECT item FROM noted)", (source,)
            )

    def discard(self, items: Sequence[str] | None, *, reason: str = "") -> Counter[str]:
        """Take these items off the list, or all that are held for a reason, or all. Returns how many by reason."""
        gone: Counter[str] = Counter()
        with self.batch():
            if items is None:
                wanted, values = ("WHERE reason = ?", (reason,)) if reason else ("", ())
                counted = f"SELECT reason, count(*) FROM decision {wanted} GROUP BY reason"
                gone.update(dict(self._index.execute(counted, values).fetchall()))
                self._index.execute(f"DELETE FROM decision {wanted}", values)
            for item in items or ():
                found = self._index.execute("DELETE FROM decision WHERE item = ? RETURNING reason", (item,)).fetchall()
                gone.update(held for (held,) in found)
        return gone

    def erase(self, *patient_keys: str) -> int:
        """Withdraw patients: rows, then pictures, then the write-ahead log. Returns how many examples there were.

        A crash in between leaves pictures without rows, which the next writer removes. Inside a batch the log follows
        at its end. Raises StoreError store-busy as `batch` does.
        """
        gone = 0
        with self.batch():
            for key in patient_keys:
                pictures = [picture.path for picture in self._pictures(key)]
                gone += self._index.execute("DELETE FROM example WHERE patient_key = ?", (key,)).rowcount
                self._index.execute("DELETE FROM picture WHERE patient_key = ?", (key,))
                self._index.execute("DELETE FROM patient WHERE patient_key = ?", (key,))
                self.checkpoint()
                for path in pictures:
                    path.unlink(missing_ok=True)
            self._log_has_erased = True
        return gone

    def withhold(self, example_keys: Sequence[str], reason: str, *, group: bool = False) -> Reach:
        """Take out what a person found wanting, with every example that shows one of its pictures, or with `group` a
        picture of one of its device groups; remember keys and groups, so that `add` refuses them. In the order of
        `erase`.

        Doing it again changes nothing. Raises StoreError store-busy as `batch` does.
        """
        with self.batch():
            taken, pictures = withheld.withhold(self._index, example_keys, reason, group=group)
            self.checkpoint()
            for key in pictures:
                self._path(key).unlink(missing_ok=True)
            self._log_has_erased = True
        return taken

    def forget_withheld(self, example_keys: Sequence[str], *, group: bool = False) -> int:
        """Let an ingest bring back examples that were taken out. Returns how many. Raises StoreError group-held."""
        with self.batch():
            return withheld.forget(self._index, example_keys, group=group)

    def _truncate_log(self) -> None:
        """SQLite waits for readers as long as for a lock, and then only says in its answer that it gave up."""
        busy, *_ = self._index.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                "store-busy",
                "another process uses the store: what was erased is still in the log of its index",
                hint="end the other processes of this site, then do the same again",
            )
        self._log_has_erased = False

    def _is_new(self, picture: CleanPicture) -> bool:
        known = self._ask("SELECT sha256 FROM picture WHERE picture_key = ?", picture.picture_key)
        if known and known[0][0] != hashlib.sha256(picture.png).hexdigest():
            raise DeidError(
                "duplicate-differs",
                "the same instance was stored before with other pixels",
                hint="find out which of the two is right; if it is the new one, ingest everything into a new store",
            )
        return not known

    def _put(self, picture: CleanPicture, patient_key: str) -> None:
        path = self._path(picture.picture_key)
        path.parent.parent.mkdir(exist_ok=True, mode=0o700)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        _write(path, picture.png, sync=False)
        self._unsynced.append(path)
        self._index.execute(
            "INSERT INTO picture VALUES (?, ?, ?, ?, ?, ?)",
            (
                picture.picture_key, patient_key, hashlib.sha256(picture.png).hexdigest(), picture.rows,
                picture.columns, json.dumps(asdict(picture.fields), sort_keys=True),
            ),
        )  # fmt: skip

    def _commit(self) -> None:
        """Pictures reach the disk first, then the rows that name them."""
        for path in self._unsynced:
            _sync(path)
        for folder in {parent for path in self._unsynced for parent in (path.parent, path.parent.parent)}:
            _sync(folder)
        self._unsynced.clear()
        self._index.execute("COMMIT")

    def _undo(self) -> None:
        """Rows since the last commit go; their pictures stay for the sweep of the next writer."""
        self._unsynced.clear()
        if self._index.in_transaction:
            self._index.execute("ROLLBACK")

    def _sweep(self) -> None:
        """Remove pictures that no row names, and half-written files; one folder's names in memory at a time."""
        for place, _, names in os.walk(self.folder / "images"):
            prefix = "".join(Path(place).relative_to(self.folder / "images").parts)
            rows = self._ask(
                "SELECT picture_key FROM picture WHERE picture_key >= ? AND picture_key < ?", prefix, prefix + "g"
            ) if names else []  # fmt: skip
            known = {key for (key,) in rows}
            for name in names:
                if not name.endswith(".png") or name[:-4] not in known:
                    Path(place, name).unlink(missing_ok=True)

    def _pictures(self, patient_key: str) -> list[Picture]:
        rows = self._ask(
            "SELECT picture_key, rows, columns, fields, sha256 FROM picture WHERE patient_key = ?", patient_key
        )
        try:
            return [
                Picture(key, tall, wide, PictureFields(**json.loads(fields)), sha256, self._path(key))
                for key, tall, wide, fields, sha256 in rows
            ]
        except (ValueError, TypeError):
            raise _damaged("a row of the index does not read") from None

    def _example(self, patient_key: str, row: Any, pictures: dict[str, Picture]) -> StoredExample:
        key, names, turns, sex, age = row
        images = tuple(pictures[name] for name in json.loads(names))
        return StoredExample(
            key, patient_key, images, tuple(Turn(question, answer) for question, answer in json.loads(turns)),
            images[0].fields.modality, images[0].fields.view, sex, age,
        )  # fmt: skip

    def _path(self, picture_key: str) -> Path:
        if _KEY.fullmatch(picture_key) is None:
            raise _damaged("a picture key has the wrong form")
        return self.folder / "images" / picture_key[:2] / picture_key[2:4] / f"{picture_key}.png"

    def _ask(self, query: str, *values: object) -> list[Any]:
        try:
            return self._index.execute(query, values).fetchall()
        except sqlite3.DatabaseError:
            raise _damaged("the index of the store does not read") from None


def _is_unfinished(folder: Path) -> bool:
    """Nothing there, or only the empty pieces of a store that never had a writer: a writer leaves `lock`."""
    here = {path.name for path in folder.iterdir()}
    return here <= _PIECES and not any(
        any((folder / name).iterdir()) for name in ("images", "attestations") if name in here
    )


def _connect(folder: Path) -> sqlite3.Connection:
    path = folder / "index.sqlite"
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite's own files take this mode over
    index = sqlite3.connect(path, isolation_level=None, timeout=30)
    index.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA secure_delete=ON; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;"
        "CREATE TEMP TABLE noted (item TEXT PRIMARY KEY) WITHOUT ROWID;"  # what a batch has held back
    )
    return index


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    temporary = path.with_name(path.name + ".part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(temporary, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
    os.close(descriptor)
    raise StoreError(
        "store-busy", "another process is writing to the store", hint="wait until it has ended, then start again"
    )


@contextmanager
def _guarded_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in durable.DISK_FULL:
            raise _full() from None
        if error.errno in durable.NOT_ALLOWED:
            raise StoreError(
                "no-permission",
                "no permission to write to the store",
                hint="run as the user who owns the store, and check that its disk is writable",
            ) from None
        raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise _full() from None
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            raise StoreError(
                "no-permission",
                "no permission to write to the index of the store",
                hint="run as the user who owns the store, and check that its disk is writable",
            ) from None
        raise


def _full() -> StoreError:
    return StoreError("disk-full", "the disk of the store is full", hint="free some space and ingest again")


def _damaged(message: str) -> StoreError:
    return StoreError("store-damaged", message, hint="restore the store from a backup, or ingest into a new one")
