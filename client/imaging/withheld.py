"""What a person took out of a store after looking at it: which examples, so that no ingest brings them back.

A leak that is seen is often in the picture, and then in every example that shows the picture. So pictures are suspect,
and an example goes when one of its pictures is. A device that burns a name into one picture does so into the next: of a
group of devices that is held, what comes later is held, too. Only keys are remembered, and groups, which name nobody.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from client.imaging.record import CleanPicture, PictureFields
from federation.errors import StoreError

REASONS = {"leak": "leak-found", "unclear": "unclear"}
"""Why a person held an example back -> the reason under which it is counted."""
TABLE = """
CREATE TABLE IF NOT EXISTS withheld (
  example_key TEXT NOT NULL, picture_key TEXT NOT NULL, reason TEXT NOT NULL, device TEXT NOT NULL,
  PRIMARY KEY (example_key, picture_key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS withheld_picture ON withheld (picture_key);
CREATE TABLE IF NOT EXISTS withheld_device (device TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
"""
DEVICE = (
    "json_array(json_extract(p.fields, '$.manufacturer'), json_extract(p.fields, '$.modality'), "
    "json_extract(p.fields, '$.source_rows'), json_extract(p.fields, '$.source_columns'))"
)
"""The device group of picture `p`: manufacturer, modality, rows and columns of the source picture."""
_TEMPORARY = """
CREATE TEMP TABLE IF NOT EXISTS suspect (picture_key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS touched (patient_key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_DEVICES = "SELECT device FROM withheld JOIN suspect USING (picture_key)"
_SHOWS_A_SUSPECT = (
    "FROM touched t CROSS JOIN example e ON e.patient_key = t.patient_key CROSS JOIN json_each(e.pictures) j "
    "CROSS JOIN suspect s ON s.picture_key = j.value CROSS JOIN picture p ON p.picture_key = s.picture_key"
)  # CROSS JOIN: from the few to the many, in this order


class Reach(NamedTuple):
    """How much a hold takes, or would take, out of a data set."""

    examples: int
    pictures: int
    patients: int
    """Of whom nothing is left."""


@dataclass(frozen=True)
class Withheld:
    """One example that was taken out."""

    example_key: str
    reason: str
    device: str


@dataclass(frozen=True, repr=False)
class KeptOut:
    """What a person took out: nobody shall get it as a file, either."""

    pictures: Mapping[str, str] = field(default_factory=dict)
    """Key -> reason."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """Device group, as JSON -> reason: whatever comes of it."""


def kept_out(index: sqlite3.Connection) -> KeptOut:
    """For an export, which has the same pictures under other names."""
    pictures = index.execute("SELECT picture_key, min(reason) FROM withheld GROUP BY 1").fetchall()
    return KeptOut(dict(pictures), dict(groups(index)))


def reach(index: sqlite3.Connection, keys: Sequence[str], *, group: bool) -> Reach:
    """What `withhold` would take. The index is left as it is."""
    _suspect(index, keys, group=group)
    [(examples,)] = index.execute(f"SELECT count(DISTINCT e.example_key) {_SHOWS_A_SUSPECT}")
    [(pictures,)] = index.execute("SELECT count(*) FROM suspect")
    [(left,)] = index.execute(
        "SELECT count(DISTINCT t.patient_key) FROM touched t CROSS JOIN example x ON x.patient_key = t.patient_key "
        f"WHERE x.example_key NOT IN (SELECT e.example_key {_SHOWS_A_SUSPECT})"
    )
    [(touched,)] = index.execute("SELECT count(*) FROM touched")
    return Reach(examples, pictures, touched - left)


def withhold(index: sqlite3.Connection, keys: Sequence[str], reason: str, *, group: bool) -> tuple[Reach, list[str]]:
    """Move examples from the data set to what is remembered. Returns also the pictures that no example shows now."""
    _suspect(index, keys, group=group)
    index.execute(
        f"INSERT OR REPLACE INTO withheld SELECT e.example_key, p.picture_key, ?, {DEVICE} {_SHOWS_A_SUSPECT}",
        (reason,),
    )
    if group:
        index.execute(f"INSERT OR REPLACE INTO withheld_device SELECT DISTINCT {DEVICE}, ? FROM suspect s "
                      "CROSS JOIN picture p ON p.picture_key = s.picture_key", (reason,))  # fmt: skip
        index.executemany(
            "INSERT OR REPLACE INTO withheld_device SELECT DISTINCT device, ? FROM withheld WHERE example_key = ?",
            [(reason, key) for key in keys],
        )
    examples = index.execute("DELETE FROM example WHERE example_key IN (SELECT example_key FROM withheld)").rowcount
    unshown = (
        "FROM picture WHERE patient_key IN (SELECT patient_key FROM touched) AND NOT EXISTS (SELECT 1 FROM example e, "
        "json_each(e.pictures) j WHERE e.patient_key = picture.patient_key AND j.value = picture.picture_key)"
    )
    pictures = [key for (key,) in index.execute(f"SELECT picture_key {unshown}").fetchall()]
    index.execute(f"DELETE {unshown}")
    patients = index.execute(
        "DELETE FROM patient WHERE patient_key IN (SELECT patient_key FROM touched) "
        "AND NOT EXISTS (SELECT 1 FROM example e WHERE e.patient_key = patient.patient_key)"
    ).rowcount
    return Reach(examples, len(pictures), patients), pictures


def forget(index: sqlite3.Connection, keys: Sequence[str], *, group: bool) -> int:
    """Let an ingest bring back these examples, and those that were taken with them. Returns how many.

    Raises: StoreError group-held when a picture of them is of a group that is held: the group goes free as a whole.
    """
    _begin(index)
    for key in keys:
        index.execute("INSERT OR IGNORE INTO suspect SELECT picture_key FROM withheld WHERE example_key = ?", (key,))
    if group:
        index.execute(f"INSERT OR IGNORE INTO suspect SELECT picture_key FROM withheld WHERE device IN ({_DEVICES})")
        index.execute(f"DELETE FROM withheld_device WHERE device IN ({_DEVICES})")
    elif index.execute(f"SELECT 1 FROM withheld_device WHERE device IN ({_DEVICES}) LIMIT 1").fetchone():
        raise StoreError(
            "group-held",
            "the device group of such an example is held",
            hint="undo the hold of the group, with --group; then hold again what shall stay out",
        )
    [(count,)] = index.execute("SELECT count(DISTINCT example_key) FROM withheld JOIN suspect USING (picture_key)")
    index.execute(
        "DELETE FROM withheld WHERE example_key IN (SELECT example_key FROM withheld JOIN suspect USING (picture_key))"
    )
    return int(count)


def joins(index: sqlite3.Connection, example_keys: Sequence[str], pictures: Sequence[CleanPicture]) -> str | None:
    """The reason of the first of these pictures that is held back, by itself or with its group; new examples that show
    it are then held as it is."""
    for picture in pictures:
        found = index.execute(
            "SELECT reason, device FROM withheld WHERE picture_key = ? UNION ALL "
            "SELECT reason, device FROM withheld_device WHERE device = ? LIMIT 1",
            (picture.picture_key, device_of(picture.fields)),
        ).fetchone()
        if found is not None:
            rows = [(example_key, picture.picture_key, *found) for example_key in example_keys]
            index.executemany("INSERT OR IGNORE INTO withheld VALUES (?, ?, ?, ?)", rows)
            return str(found[0])
    return None


def reason_of(index: sqlite3.Connection, example_key: str) -> str | None:
    found = index.execute("SELECT reason FROM withheld WHERE example_key = ? LIMIT 1", (example_key,)).fetchone()
    return None if found is None else str(found[0])


def everything(index: sqlite3.Connection) -> Iterator[Withheld]:
    """What is held back, in the order of its keys."""
    for row in index.execute("SELECT example_key, min(reason), min(device) FROM withheld GROUP BY 1 ORDER BY 1"):
        yield Withheld(*row)


def groups(index: sqlite3.Connection) -> list[tuple[str, str]]:
    """The device groups that are held, and why."""
    return index.execute("SELECT device, reason FROM withheld_device ORDER BY device").fetchall()


def device_of(fields: PictureFields) -> str:
    """The device group of a picture, as `DEVICE` gives it."""
    group = (fields.manufacturer, fields.modality, fields.source_rows, fields.source_columns)
    return json.dumps(group, ensure_ascii=False, separators=(",", ":"))


def device_words(device: str) -> str:
    """A device group as people name it.

    >>> device_words('["SIEMENS","CT",512,512]')
    'SIEMENS CT 512 × 512'
    """
    manufacturer, modality, rows, columns = json.loads(device)
    return " ".join(filter(None, (manufacturer, modality or "picture", f"{columns} × {rows}")))


def _suspect(index: sqlite3.Connection, keys: Sequence[str], *, group: bool) -> None:
    """`suspect` becomes the pictures of these examples, or of their device groups; `touched` their patients."""
    _begin(index)
    for key in keys:
        index.execute(
            "INSERT OR IGNORE INTO suspect SELECT j.value FROM example e, json_each(e.pictures) j "
            "WHERE e.example_key = ?", (key,),
        )  # fmt: skip
    if group:
        marks = ", ".join("?" * len(keys))
        index.execute(
            f"INSERT OR IGNORE INTO suspect SELECT p.picture_key FROM picture p WHERE {DEVICE} IN "
            f"(SELECT {DEVICE} FROM suspect s CROSS JOIN picture p ON p.picture_key = s.picture_key "
            f"UNION SELECT device FROM withheld WHERE example_key IN ({marks}))", tuple(keys),
        )  # fmt: skip
    index.execute(
        "INSERT OR IGNORE INTO touched SELECT p.patient_key FROM suspect s "
        "CROSS JOIN picture p ON p.picture_key = s.picture_key"
    )


def _begin(index: sqlite3.Connection) -> None:
    for statement in _TEMPORARY.split(";"):
        index.execute(statement)  # one by one: executescript would commit what is under way
    index.execute("DELETE FROM suspect")
    index.execute("DELETE FROM touched")
