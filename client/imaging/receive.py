"""A hospital's folder as a stream of `RawStudy`: every report row beside the images it is about.

The folder is read twice. First everything is listed in an index in memory (file names, a few header fields, the place
of each report row; no pixels, no text), so that a row that names a missing image stops the work before anything is
stored, and a person with two birth dates is seen. Then the studies stream, in an order that depends on the names in
the folder only.
"""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.imaging.header import border, class_code, kind_of, open_file, read
from client.imaging.identifiers import name_words
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import normal_id
from client.imaging.reports import RawTurn, ReportRow, csv_row, csv_rows, json_row, json_rows
from federation.errors import DataError, DeidError

_STAFF = (
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "RequestingPhysician",
    "NameOfPhysiciansReadingStudy", "ConsultingPhysicianName",
)  # fmt: skip
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "IssuerOfPatientID",
    "PatientBirthDate", "PatientSex", "ImageType", "ImagePositionPatient", "ImageOrientationPatient", *_STAFF,
)  # fmt: skip
_SCHEMA = """
CREATE TABLE image (id INTEGER PRIMARY KEY, path TEXT UNIQUE, kind TEXT, code TEXT, sop TEXT, study TEXT,
                    accession TEXT, issuer TEXT, patient TEXT, birth TEXT, sex TEXT, position REAL, localizer INTEGER,
                    named INTEGER DEFAULT 0);
CREATE TABLE row (id INTEGER PRIMARY KEY, file TEXT, number INTEGER, start INTEGER, length INTEGER, images TEXT,
                  code TEXT, patient TEXT);
"""


@dataclass(frozen=True, repr=False)
class RawImage:
    """One file and whose it is, as the file (or, for a picture, the report row) says."""

    path: Path
    kind: str
    instance: str
    """SOP instance UID; for a picture its place in the folder, which is used for keyed pseudonyms only."""
    issuer: str
    patient_id: str
    code: str | None = None
    """Why the file cannot be used, if that is known already."""

    def __repr__(self) -> str:
        return "<RawImage: hidden>"


@dataclass(frozen=True, repr=False)
class RawStudy:
    """Images of one study and every conversation about exactly these images. Full of patient data: never printed."""

    images: tuple[RawImage, ...]
    conversations: tuple[tuple[RawTurn, ...], ...]
    source: str
    """Where it came from, for the opaque id of a quarantined item."""
    sampled: bool
    """Joined by study or accession number: a volume may be thinned out. Images named one by one are all kept."""
    staff: frozenset[str]
    """Words of the names of staff in all headers of the folder."""
    code: str | None = None
    """Why the study cannot be used, if that is known already."""

    def __repr__(self) -> str:
        return "<RawStudy: hidden>"


def studies(folder: Path, profile: DeidProfile | None = None) -> Iterator[RawStudy]:
    """All studies of a folder, pixels unread. See `scan` for what is raised before the first one."""
    yield from scan(folder, profile or DeidProfile.shipped()).studies()


def scan(folder: Path, profile: DeidProfile) -> "Intake":
    """List a folder. Links are not followed; content decides what a file is, except that reports end in .jsonl or .csv.

    Raises: DataError folder-absent, folder-empty; DeidError pairing for a row that names an image that is not there.
    """
    if not folder.is_dir():
        raise DataError(
            "folder-absent", "the site's folder is not there", hint="check the path of the folder to ingest"
        )
    intake = Intake(folder, profile)
    intake.list_images()
    intake.list_rows()
    if not intake.image_count or not intake.row_count:
        raise DataError(
            "folder-empty",
            "the folder has no image" if not intake.image_count else "the folder has no report row",
            hint="put DICOM files and a .jsonl or .csv file with reports into it",
        )
    return intake


class Intake:
    """The index of one folder. Everything in it stays in memory and is gone with the object."""

    def __init__(self, folder: Path, profile: DeidProfile) -> None:
        self._folder, self._profile = folder, profile
        self._staff: set[str] = set()
        self._reports: list[str] = []
        self._index = sqlite3.connect(":memory:", isolation_level=None)
        self._index.executescript("PRAGMA temp_store=MEMORY;" + _SCHEMA)
        self.rejected = 0
        """Files that are neither DICOM nor picture nor report."""

    @property
    def image_count(self) -> int:
        return int(self._one("SELECT count(*) FROM image WHERE code IS NOT 'not-dicom'"))

    @property
    def row_count(self) -> int:
        return int(self._one("SELECT count(*) FROM row"))

    @property
    def study_count(self) -> int:
        grouped = self._one("SELECT count(DISTINCT images) FROM row WHERE images IS NOT NULL")
        return int(grouped) + int(self._one("SELECT count(*) FROM row WHERE images IS NULL"))

    @property
    def unreported(self) -> int:
        """Usable images that no report row is about: they are not stored."""
        return int(self._one("SELECT count(*) FROM image WHERE named = 0 AND code IS NULL"))

    @property
    def unusable(self) -> Counter[str]:
        """Reasons of the unusable files that no row names (those with a row end with their study)."""
        rows = self._index.execute(
            "SELECT code, count(*) FROM image WHERE named = 0 AND code != 'not-dicom' GROUP BY code"
        )
        return Counter(dict(rows.fetchall()))

    def list_images(self) -> None:
        for relative in _walk(self._folder):
            path = self._folder / relative
            if relative.casefold().endswith((".jsonl", ".csv")):
                self._reports.append(relative)
                continue
            try:
                kind = kind_of(path)
            except (OSError, DeidError):
                kind = "other"
            if kind == "other":
                self.rejected += 1
                self._add_image(relative, "other", {"code": "not-dicom"})
            elif kind == "picture":
                self._add_image(relative, "picture", {})
            else:
                self._add_image(relative, "dicom", self._header(path))
        self._index.execute("CREATE INDEX image_sop ON image (sop)")
        self._index.execute("CREATE INDEX image_study ON image (study)")
        self._index.execute("CREATE INDEX image_accession ON image (accession)")
        self._mark_conflicts()
        self._mark_duplicates()

    def list_rows(self) -> None:
        for relative in self._reports:
            path = self._folder / relative
            with open_file(path) as file:
                rows = json_rows(file) if relative.casefold().endswith(".jsonl") else csv_rows(file)
                for number, start, length, row in rows:
                    self._add_row(relative, number, start, length, row)
        self._index.execute("UPDATE image SET named = 1 WHERE id IN (SELECT value FROM row, json_each(row.images))")

    def studies(self) -> Iterator[RawStudy]:
        """Rows about the same images are one study; so are their conversations, in the order of the rows."""
        staff = frozenset(self._staff)
        groups = self._index.execute(
            "SELECT images, min(id), group_concat(id) FROM row GROUP BY coalesce(images, 'row ' || id) ORDER BY min(id)"
        )
        for images, _, ids in groups:
            numbers = sorted(int(number) for number in ids.split(","))
            rows = [self._row(number) for number in numbers]
            codes = [row["code"] for row in rows if row["code"]]
            found = [self._image(number, rows[0]["patient"]) for number in json.loads(images or "[]")]
            conversations = [row["turns"] for row in rows]
            pictured = {normal_id(row["patient"]) for row in rows if row["patient"]}
            if len(pictured) > 1 or len({(image.issuer, image.patient_id) for image in found}) > 1:
                codes.append("pairing")
            first = rows[0]
            yield RawStudy(
                images=tuple(found),
                conversations=tuple(conversations),
                source=f"{first['file']}\x1f{first['number']}",
                sampled=first["sampled"],
                staff=staff,
                code=codes[0] if codes else None,
            )

    def _header(self, path: Path) -> dict[str, Any]:
        try:
            with border("malformed", "a header field does not convert"):
                return self._facts(read(path, self._profile.limits, pixels=False, tags=_TAGS))
        except DeidError as error:
            return {"code": error.code}

    def _facts(self, dataset: Any) -> dict[str, Any]:
        for keyword in _STAFF:
            self._staff |= {word for word in name_words(str(dataset.get(keyword, "") or "")) if len(word) > 2}
        text = {keyword: str(dataset.get(keyword, "") or "") for keyword in _TAGS[:8]}
        return {
            "code": class_code(text["SOPClassUID"], self._profile) or _identity_code(text["PatientID"]),
            "sop": text["SOPInstanceUID"],
            "study": text["StudyInstanceUID"],
            "accession": text["AccessionNumber"].strip(" \0"),
            "issuer": normal_id(text["IssuerOfPatientID"] or self._profile.default_issuer),
            "patient": normal_id(text["PatientID"]),
            "birth": text["PatientBirthDate"].strip(" \0"),
            "sex": text["PatientSex"].strip(" \0").upper(),
            "position": _position(dataset),
            "localizer": int("LOCALIZER" in [str(word).upper() for word in dataset.get("ImageType") or []]),
        }

    def _add_image(self, path: str, kind: str, facts: Mapping[str, Any]) -> None:
        keys = ("code", "sop", "study", "accession", "issuer", "patient", "birth", "sex", "position", "localizer")
        self._index.execute(
            f"INSERT INTO image (path, kind, {', '.join(keys)}) VALUES (?, ?, {', '.join('?' * len(keys))})",
            (path, kind, *(facts.get(key) for key in keys)),
        )

    def _mark_conflicts(self) -> None:
        """One id with two birth dates or sexes may be two people; with and without an issuer, one person twice."""
        self._index.execute(
            """UPDATE image SET code = 'patient-conflict'
               WHERE code IS NULL AND kind = 'dicom' AND (issuer, patient) IN (
                 SELECT issuer, patient FROM image WHERE kind = 'dicom' AND code IS NULL GROUP BY issuer, patient
                 HAVING count(DISTINCT nullif(birth, '')) > 1 OR count(DISTINCT nullif(sex, '')) > 1)"""
        )
        self._index.execute(
            """UPDATE image SET code = 'patient-conflict' WHERE code IS NULL AND kind = 'dicom' AND patient IN (
                 SELECT patient FROM image WHERE kind = 'dicom' GROUP BY patient
                 HAVING min(issuer) = '' AND max(issuer) != '')"""
        )

    def _mark_duplicates(self) -> None:
        """Copies of one instance are one image; two contents under one instance UID are not to be trusted."""
        twice = "SELECT sop FROM image WHERE kind = 'dicom' AND sop != '' GROUP BY sop HAVING count(*) > 1"
        for (sop,) in self._index.execute(twice).fetchall():
            paths = self._index.execute("SELECT path FROM image WHERE sop = ? ORDER BY path", (sop,)).fetchall()
            first = self._folder / paths[0][0]
            if not all(_same_bytes(first, self._folder / path) for (path,) in paths[1:]):
                self._index.execute("UPDATE image SET code = 'duplicate-differs' WHERE sop = ?", (sop,))

    def _add_row(self, file: str, number: int, start: int, length: int, row: ReportRow | None) -> None:
        images: list[int] = []
        code: str | None = "report-format"
        patient = ""
        if row is not None:
            images, code = self._paired(row, file, number)
            patient = row.patient_id
        self._index.execute(
            "INSERT INTO row (file, number, start, length, images, code, patient) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (file, number, start, length, json.dumps(images) if images else None, code, patient),
        )

    def _paired(self, row: ReportRow, file: str, number: int) -> tuple[list[int], str | None]:
        """The images a row is about, and why it cannot be used. A name that leads nowhere stops everything."""
        if row.key == "path":
            images = []
            for name in row.values:
                found = self._index.execute("SELECT id, kind FROM image WHERE path = ?", (name,)).fetchone()
                if found is None:
                    raise _missing(file, number)
                images.append(found)
            pictures = [kind == "picture" for _, kind in images]
            if any(pictures) and not row.patient_id:
                return [identity for identity, _ in images], "no-patient-id"
            if any(pictures) != all(pictures) or (row.patient_id and not any(pictures)):
                return [identity for identity, _ in images], "report-format"
            return [identity for identity, _ in images], None
        column = {"sop_instance_uid": "sop", "study_instance_uid": "study", "accession_number": "accession"}[row.key]
        found = self._index.execute(
            "SELECT min(id), study, issuer, patient, localizer FROM image "
            f"WHERE {column} = ? GROUP BY sop ORDER BY position, min(path)",
            (row.values[0],),
        ).fetchall()
        if not found:
            if self._one("SELECT count(*) FROM image WHERE kind = 'dicom' AND sop IS NULL"):
                return [], "pairing"  # it may be one of the files whose header could not be read
            raise _missing(file, number)
        several = (
            len({(issuer, patient) for _, _, issuer, patient, _ in found}) > 1
            or len({study for _, study, *_ in found}) > 1
        )
        images = [image for image, *_, localizer in found if not localizer] or [image for image, *_ in found]
        return images, "pairing" if several or row.patient_id else None

    def _row(self, identity: int) -> dict[str, Any]:
        file, number, start, length, code, patient = self._index.execute(
            "SELECT file, number, start, length, code, patient FROM row WHERE id = ?", (identity,)
        ).fetchone()
        turns: tuple[RawTurn, ...] = ()
        sampled = False
        if code is None:
            with open_file(self._folder / file) as report:
                header = report.readline() if file.casefold().endswith(".csv") else b""
                report.seek(start)
                data = report.read(length)
            row = json_row(data) if not header else csv_row(header, data)
            if row is None:
                code = "report-format"
            else:
                turns, sampled = row.turns, row.key in ("study_instance_uid", "accession_number")
        return {"file": file, "number": number, "code": code, "patient": patient, "turns": turns, "sampled": sampled}

    def _image(self, identity: int, pictured: str) -> RawImage:
        path, kind, code, sop, issuer, patient = self._index.execute(
            "SELECT path, kind, code, sop, issuer, patient FROM image WHERE id = ?", (identity,)
        ).fetchone()
        if kind == "picture":
            sop, issuer, patient = path, normal_id(self._profile.default_issuer), normal_id(pictured)
        return RawImage(self._folder / path, kind, sop or "", issuer or "", patient or "", code)

    def _one(self, query: str) -> Any:
        return self._index.execute(query).fetchone()[0]


def _missing(file: str, number: int) -> DeidError:
    kind = "jsonl" if file.casefold().endswith(".jsonl") else "csv"
    return DeidError(
        "pairing",
        f"row {number} of a .{kind} report file names an image that is not in the folder",
        hint="copy the missing image into the folder, or remove the row; nothing was stored",
    )


def _walk(folder: Path) -> Iterator[str]:
    """Relative paths of all regular files, sorted, links left aside."""
    for place, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix()


def _identity_code(patient_id: str) -> str | None:
    return None if normal_id(patient_id) else "no-patient-id"


def _position(dataset: Any) -> float | None:
    """Where a slice lies along the normal of its plane, in mm. PS3.3 C.7.6.2.1.1. Never the instance number."""
    try:
        along, down = dataset.ImageOrientationPatient[:3], dataset.ImageOrientationPatient[3:6]
        at = [float(value) for value in dataset.ImagePositionPatient]
        r, c = [float(value) for value in along], [float(value) for value in down]
        normal = (r[1] * c[2] - r[2] * c[1], r[2] * c[0] - r[0] * c[2], r[0] * c[1] - r[1] * c[0])
        return sum(a * b for a, b in zip(at, normal, strict=True))
    except (AttributeError, TypeError, ValueError, IndexError):
        return None


def _same_bytes(one: Path, other: Path) -> bool:
    with open_file(one) as first, open_file(other) as second:
        while True:
            a, b = first.read(1 << 20), second.read(1 << 20)
            if a != b:
                return False
            if not a:
                return True
