"""A hospital's folder as a stream of `RawStudy`: every report row beside the images it is about.

The folder is read twice. First everything is listed in an index (file names, a few header fields, the place of each
report row; no pixels, no text), so that a row that names a missing image stops the work before anything is stored, and
a person with two birth dates is seen. Then the studies stream, in an order that depends on the folder's names only.

The index holds identifiers. It is in memory while it is small; a larger one spills into a file without a name in the
scratch folder, which the operating system frees with the process, however that ends.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from client.imaging.header import border, class_code, kind_of, modality_code, open_file, read
from client.imaging.identifiers import UNDECODED, name_words, parse_day
from client.imaging.joined import Joined
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import normal_id
from client.imaging.reports import RawTurn, ReportRow, Row, csv_row, csv_rows, json_row, json_rows
from client.imaging.scratch import scratch
from client.imaging.sources import Source, is_media_directory
from client.imaging.workers import WorkLimits, each
from federation.errors import DataError, DeidError

_STAFF = (
    "ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "RequestingPhysician",
    "NameOfPhysiciansReadingStudy", "ConsultingPhysicianName",
)  # fmt: skip
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "IssuerOfPatientID",
    "PatientBirthDate", "PatientSex", "Modality", "ImageType", "ImagePositionPatient", "ImageOrientationPatient",
    "NumberOfFrames", *_STAFF,
)  # fmt: skip
_STRUCTURED_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_ENCAPSULATED = "1.2.840.10008.5.1.4.1.1.104."
_INDEX_MEMORY_KB = 64 * 1024
_BESIDE = ("._", "~$")  # not reports but notes about a file of the same name
_SCHEMA = """
CREATE TABLE image (id INTEGER PRIMARY KEY, path BLOB UNIQUE, kind TEXT, code TEXT, sop TEXT, study TEXT,
                    accession TEXT, issuer TEXT, patient TEXT, birth TEXT, sex TEXT, position REAL, localizer INTEGER,
                    frames INTEGER, modality TEXT, vague INTEGER, named INTEGER DEFAULT 0, twin TEXT DEFAULT '');
CREATE TABLE refused (path BLOB, kind TEXT, code TEXT);
CREATE TABLE row (id INTEGER PRIMARY KEY, file BLOB, number INTEGER, start INTEGER, length INTEGER, images TEXT,
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
    """Of joined records the current one."""
    code: str | None = None
    """Why the file cannot be used, if that is known already."""
    twin: str = ""
    """A digest of the content, if a file before this one has its instance UID and another content."""
    frames: int = 1
    modality: str = ""
    """If it is a word of the profile's list."""
    name: str = ""
    """Of the file in its source."""

    def __repr__(self) -> str:
        return "<RawImage: hidden>"


@dataclass(frozen=True, repr=False)
class RawStudy:
    """Images of one study and every conversation about exactly these images. Full of patient data: never printed."""

    images: tuple[RawImage, ...]
    conversations: tuple[tuple[RawTurn, ...], ...]
    """Equal ones once: what they say is the same, and cleaning it takes time."""
    source: str
    """Where it came from, for the opaque id of a quarantined item."""
    sampled: bool
    """Joined by study or accession number: a volume may be thinned out. Images named one by one are all kept."""
    staff: frozenset[str]
    """Words of the names of staff in all headers of the folder."""
    code: str | None = None
    """Why the study cannot be used, if that is known already."""
    about: str = ""
    """What its first row names: a row in the same place of another folder is another item of the quarantine."""
    rows: tuple[tuple[str, int], ...] = ()
    """All rows about these images: name of the report file, number."""

    def __repr__(self) -> str:
        return "<RawStudy: hidden>"


def studies(folder: Path, profile: DeidProfile | None = None) -> Iterator[RawStudy]:
    """All studies of a folder, pixels unread. See `scan` for what is raised before the first one."""
    with scratch(Path(tempfile.gettempdir()) / f"wardround-{os.getuid()}") as place:
        rules = profile or DeidProfile.shipped()
        yield from scan(Source(folder, rules.limits, place), rules, place).studies()


def scan(
    source: Source, profile: DeidProfile, place: Path, *,
    workers: int = 0, limits: WorkLimits | None = None, progress: Callable[[int, int], None] | None = None,
    every_row: bool = True, joined: Joined | None = None,
) -> "Intake":  # fmt: skip
    """List a source. Content decides what a file is, except that reports end in .jsonl or .csv (and do not begin with
    `._` or `~$`, as what macOS and Excel write beside a file does).

    Args:
        place: the scratch folder for the index.
        every_row: a row whose image is not there stops the work; otherwise it is left for another time.
        joined: which ids count as others.

    Raises: DataError folder-empty, folder-unreadable; DeidError pairing for a row that names an image that is not
    there.
    """
    intake = Intake(source, profile, place, every_row=every_row, joined=joined or Joined())
    intake.list_images(workers, limits or WorkLimits(), progress)
    intake.list_rows()
    if every_row and (not intake.image_count or not intake.row_count):
        raise source.lacks(
            "report row" if intake.image_count else "image",
            hint="put DICOM files and a .jsonl or .csv file with reports into it",
        )
    return intake


class _Listed(NamedTuple):
    """What the first look at a file says: its kind, a few header fields, and words of the names of staff."""

    kind: str
    facts: dict[str, Any]
    staff: frozenset[str] = frozenset()


class Intake:
    """The index of one source. Full of identifiers; it goes with the object."""

    def __init__(
        self, source: Source, profile: DeidProfile, place: Path, *, every_row: bool, joined: Joined
    ) -> None:  # fmt: skip
        self._source, self._profile, self._every_row, self._joined = source, profile, every_row, joined
        self._is_withdrawn: Callable[[str, str], bool] = lambda issuer, patient_id: False
        self._staff: set[str] = set()
        self._reports: list[str] = []
        self._index = _nameless_index(place)
        self._index.executescript(_SCHEMA)
        self._index.execute("BEGIN")  # never committed: pages reach the file only when the memory is full
        self.rejected = 0
        """Files that are neither DICOM nor picture nor report; a DICOMDIR counts too."""
        self.waiting = 0
        """Report rows whose images are not there yet."""

    def close(self) -> None:
        self._index.close()

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
    def issuers(self) -> frozenset[str]:
        """Those that images name, in normal form; the default one for those that name none."""
        found = self._index.execute("SELECT DISTINCT issuer FROM image WHERE issuer IS NOT NULL")
        return frozenset(issuer for (issuer,) in found)

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

    def list_images(self, workers: int, limits: WorkLimits, progress: Callable[[int, int], None] | None) -> None:
        total = sum(1 for _ in self._source.names()) if progress is not None else 0
        look = each(
            partial(_looked_at, self._profile), self._named_paths(),
            failed=_unlisted, workers=workers, limits=limits, chunk=32,
        )  # fmt: skip
        with closing(look):
            for done, ((name, _), listed) in enumerate(look, 1):
                if listed.kind == "other":
                    self.rejected += listed.facts["code"] == "not-dicom"
                self._staff |= listed.staff
                self._add_image(name, listed.kind, listed.facts)
                if progress is not None:
                    progress(done + len(self._reports), total)
        self._index.execute("CREATE INDEX image_sop ON image (sop)")
        self._index.execute("CREATE INDEX image_study ON image (study)")
        self._index.execute("CREATE INDEX image_accession ON image (accession)")
        self._index.execute("CREATE INDEX image_patient ON image (patient)")
        self._mark_conflicts()
        self._mark_duplicates()

    def withhold(self, is_withdrawn: Callable[[str, str], bool]) -> None:
        """From now on the images of these patients (issuer, patient id; as in `RawImage`) cannot be used."""
        self._is_withdrawn = is_withdrawn
        people = self._index.execute("SELECT DISTINCT issuer, patient FROM image WHERE patient != ''").fetchall()
        self._index.executemany(
            "UPDATE image SET code = 'withdrawn' WHERE issuer = ? AND patient = ?",
            [person for person in people if is_withdrawn(*person)],
        )

    def _named_paths(self) -> Iterator[tuple[str, Path]]:
        self._source.on_refusal = self._add_refused
        for name in self._source.names():
            if name.casefold().endswith((".jsonl", ".csv")) and not name.rpartition("/")[2].startswith(_BESIDE):
                self._reports.append(name)
            else:
                yield name, self._source.at(name)
        self._source.on_refusal = lambda name, kind, code: None

    def list_rows(self) -> None:
        for name in self._reports:
            with _report_file(self._source.at(name)) as file:
                rows = json_rows(file) if name.casefold().endswith(".jsonl") else csv_rows(file)
                for number, start, length, row in rows:
                    self._add_row(name, number, start, length, row)
        self._index.execute("UPDATE image SET named = 1 WHERE id IN (SELECT value FROM row, json_each(row.images))")

    def images(self) -> Iterator[RawImage]:
        """Every DICOM object and picture, without regard to reports."""
        wanted = "SELECT id FROM image WHERE code IS NOT 'not-dicom' ORDER BY id"
        for (identity,) in self._index.execute(wanted):
            yield self._image(identity, "")

    def unnamed(self) -> Iterator[RawImage]:
        """Files that no row names; `code` says why one is unusable."""
        for (identity,) in self._index.execute("SELECT id FROM image WHERE named = 0 AND code IS NOT 'not-dicom'"):
            yield self._image(identity, "")

    def refused(self) -> Iterator[tuple[str, str, str]]:
        """What could not be read at all: its name, `archive` or `file`, the reason."""
        for path, kind, code in self._index.execute("SELECT path, kind, code FROM refused"):
            yield os.fsdecode(path), kind, code

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
            codes += [image.code for image in found if image.code and not image.patient_id]  # before pairing
            pictured = {self._pictured(row["patient"]) for row in rows if row["patient"]}
            if len(pictured) > 1 or len({(image.issuer, image.patient_id) for image in found}) > 1:
                codes.append("pairing")
            first = rows[0]
            yield RawStudy(
                images=tuple(found),
                conversations=tuple(dict.fromkeys(row["turns"] for row in rows)),
                source=f"{first['file']}\x1f{first['number']}",
                about=first["about"],
                rows=tuple((row["file"], row["number"]) for row in rows),
                sampled=first["sampled"],
                staff=staff,
                code=codes[0] if codes else None,
            )

    def _add_image(self, path: str, kind: str, facts: Mapping[str, Any]) -> None:
        keys = ("code", "sop", "study", "accession", "issuer", "patient", "birth", "sex", "position", "localizer",
                "frames", "modality", "vague")  # fmt: skip
        if stated := facts.get("patient"):
            vague = self._joined.is_vague(facts["issuer"], stated)
            facts = {**facts, "patient": self._joined.current(facts["issuer"], stated), "vague": vague}
        self._index.execute(
            f"INSERT INTO image (path, kind, {', '.join(keys)}) VALUES (?, ?, {', '.join('?' * len(keys))})",
            (os.fsencode(path), kind, *(facts.get(key) for key in keys)),
        )

    def _add_refused(self, path: str, kind: str, code: str) -> None:
        self._index.execute("INSERT INTO refused VALUES (?, ?, ?)", (os.fsencode(path), kind, code))

    def _mark_conflicts(self) -> None:
        """One id with two birth dates or sexes may be two people; with and without an issuer, one person twice;
        and of a join that names no issuer, nobody knows whose ids it is about where two issuers have them."""
        self._index.execute(
            """UPDATE image SET code = 'patient-conflict'
               WHERE code IS NULL AND kind = 'dicom' AND (issuer, patient) IN (
                 SELECT issuer, patient FROM image WHERE kind = 'dicom' AND code IS NULL GROUP BY issuer, patient
                 HAVING count(DISTINCT nullif(birth, '')) > 1 OR count(DISTINCT nullif(sex, '')) > 1)"""
        )
        self._index.execute(
            """UPDATE image SET code = 'patient-conflict' WHERE code IS NULL AND kind = 'dicom' AND patient IN (
                 SELECT patient FROM image WHERE kind = 'dicom' GROUP BY patient
                 HAVING (min(issuer) = '' AND max(issuer) != '') OR (max(vague) AND count(DISTINCT issuer) > 1))"""
        )

    def _mark_duplicates(self) -> None:
        """Copies of one instance are one image; two contents under one instance UID are not to be trusted."""
        twice = "SELECT sop FROM image WHERE kind = 'dicom' AND sop != '' GROUP BY sop HAVING count(*) > 1"
        for (sop,) in self._index.execute(twice).fetchall():
            paths = self._index.execute("SELECT id, path FROM image WHERE sop = ? ORDER BY path", (sop,)).fetchall()
            contents = {identity: _content(self._source.at(os.fsdecode(path))) for identity, path in paths}
            first = contents[paths[0][0]]
            if len(set(contents.values())) == 1:
                continue
            self._index.execute(
                """UPDATE image SET code = 'duplicate-differs'
                   WHERE sop = ? AND (code IS NULL OR code = 'no-patient-id')""",
                (sop,),
            )
            self._index.executemany(
                "UPDATE image SET twin = ? WHERE id = ?",
                [(content, identity) for identity, content in contents.items() if content != first],
            )

    def _add_row(self, file: str, number: int, start: int, length: int, row: Row) -> None:
        images: list[int] = []
        code: str | None = None
        patient = ""
        if isinstance(row, str):
            code = row
        else:
            try:
                images, code = self._paired(row, file, number)
            except DeidError:
                if self._every_row:
                    raise
                self.waiting += 1
                return
            patient = row.patient_id
        self._index.execute(
            "INSERT INTO row (file, number, start, length, images, code, patient) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (os.fsencode(file), number, start, length, json.dumps(images) if images else None, code, patient),
        )

    def _paired(self, row: ReportRow, file: str, number: int) -> tuple[list[int], str | None]:
        """The images a row is about, and why it cannot be used. A name that leads nowhere stops everything."""
        if row.key == "path":
            known = [image for name in row.values if (image := self._by_path(name, file)) is not None]
            if len(known) < len(row.values):
                raise _missing(file, number, self._source.refused["unreadable"])
            identities, pictures = [identity for identity, _ in known], [kind == "picture" for _, kind in known]
            if any(kind == "other" for _, kind in known):
                return identities, None  # the file itself has the reason
            if any(pictures) and (code := _identity_code(row.patient_id, "")) is not None:
                return identities, code
            if any(pictures) != all(pictures) or (row.patient_id and not any(pictures)):
                return identities, "report-format"
            return identities, None
        column = {"sop_instance_uid": "sop", "study_instance_uid": "study", "accession_number": "accession"}[row.key]
        found = self._index.execute(
            "SELECT min(id), study, issuer, patient, localizer FROM image "
            f"WHERE {column} = ? GROUP BY sop ORDER BY position, min(path)",
            (row.values[0],),
        ).fetchall()
        if not found:
            if self._one("SELECT count(*) FROM image WHERE kind = 'dicom' AND sop IS NULL"):
                return [], "pairing"  # it may be one of the files whose header could not be read
            raise _missing(file, number, self._source.refused["unreadable"])
        several = (
            len({(issuer, patient) for _, _, issuer, patient, _ in found}) > 1
            or len({study for _, study, *_ in found}) > 1
        )
        images = [image for image, *_, localizer in found if not localizer] or [image for image, *_ in found]
        return images, "pairing" if several or row.patient_id else None

    def _by_path(self, name: str, file: str) -> tuple[int, str] | None:
        """The image of this name in the source, or else beside the report file: an export is often one folder deep."""
        beside = file.rpartition("/")[0]
        for path in (name, f"{beside}/{name}") if beside else (name,):
            try:
                wanted = os.fsencode(path)
            except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and no file name has
                return None
            found = self._index.execute("SELECT id, kind FROM image WHERE path = ?", (wanted,)).fetchone()
            if found is not None:
                return int(found[0]), str(found[1])
        return None

    def _row(self, identity: int) -> dict[str, Any]:
        file, number, start, length, code, patient = self._index.execute(
            "SELECT file, number, start, length, code, patient FROM row WHERE id = ?", (identity,)
        ).fetchone()
        turns: tuple[RawTurn, ...] = ()
        sampled, about = False, ""
        file = os.fsdecode(file)
        if code is None:
            with _report_file(self._source.at(file)) as report:
                header = report.readline() if file.casefold().endswith(".csv") else b""
                report.seek(start)
                data = report.read(length)
            row = json_row(data) if not header else csv_row(header, data)
            if isinstance(row, str):
                code = row
            else:
                turns, sampled = row.turns, row.key in ("study_instance_uid", "accession_number")
                about = "\x1f".join((row.key, *row.values))
        return {
            "file": file, "number": number, "code": code, "patient": patient, "turns": turns, "sampled": sampled,
            "about": about,
        }  # fmt: skip

    def _image(self, identity: int, pictured: str) -> RawImage:
        path, kind, code, sop, issuer, patient, twin, frames, modality = self._index.execute(
            "SELECT path, kind, code, sop, issuer, patient, twin, frames, modality FROM image WHERE id = ?", (identity,)
        ).fetchone()
        path = os.fsdecode(path)
        if kind == "picture":
            sop, issuer, patient = path, normal_id(self._profile.default_issuer), self._pictured(pictured)
            if patient and self._is_withdrawn(issuer, patient):
                code = "withdrawn"
        return RawImage(
            self._source.at(path), kind, sop or "", issuer or "", patient or "", code, twin, frames or 1,
            modality or "", path,
        )  # fmt: skip

    def _pictured(self, stated: str) -> str:
        """Whose a picture is by the id in its row."""
        return self._joined.current(normal_id(self._profile.default_issuer), normal_id(stated))

    def _one(self, query: str) -> Any:
        return self._index.execute(query).fetchone()[0]


def _missing(file: str, number: int, unreadable: int) -> DeidError:
    kind = "jsonl" if file.casefold().endswith(".jsonl") else "csv"
    where = "in the folder, or may not be read" if unreadable else "in the folder"
    return DeidError(
        "pairing",
        f"row {number} of a .{kind} report file names an image that is not {where}",
        hint="copy the missing image into the folder, or remove the row; nothing was stored",
    )


def _report_file(path: Path) -> BinaryIO:
    """Raises: DataError folder-unreadable; without its reports a folder would be ingested in part."""
    try:
        return open_file(path)
    except OSError:
        raise DataError(
            "folder-unreadable", "a report file cannot be read", hint="run as a user who may read the whole folder"
        ) from None


def _looked_at(profile: DeidProfile, named: tuple[str, Path]) -> _Listed:
    """The first look at a file, in a worker."""
    _, path = named
    try:
        kind = kind_of(path)
    except PermissionError:
        return _unlisted("unreadable")
    except (OSError, DeidError):
        kind = "other"
    if kind == "picture":
        return _Listed("picture", {})
    try:
        if kind == "other" or _is_directory(path):
            return _unlisted("not-dicom")
        with border("malformed", "a header field does not convert"):
            return _facts(read(path, profile.limits, pixels=False, tags=_TAGS), profile)
    except DeidError as error:
        return _Listed("dicom", {"code": error.code})
    except PermissionError:
        return _unlisted("unreadable")


def _unlisted(code: str) -> _Listed:
    return _Listed("other" if code in ("not-dicom", "unreadable") else "dicom", {"code": code})


def _is_directory(path: Path) -> bool:
    with open_file(path) as file:
        return is_media_directory(file.read(1024))


def _facts(dataset: Any, profile: DeidProfile) -> _Listed:
    staff = {word for keyword in _STAFF for word in name_words(str(dataset.get(keyword, "") or "")) if len(word) > 2}
    text = {keyword: str(dataset.get(keyword, "") or "") for keyword in _TAGS[:8]}
    modality = str(dataset.get("Modality", "") or "").strip(" \0").upper()
    facts = {
        "code": object_code(text["SOPClassUID"], profile)
        or modality_code(dataset, profile)
        or _identity_code(text["PatientID"], text["IssuerOfPatientID"]),
        "sop": text["SOPInstanceUID"],
        "study": text["StudyInstanceUID"],
        "accession": text["AccessionNumber"].strip(" \0"),
        "issuer": normal_id(text["IssuerOfPatientID"] or profile.default_issuer),
        "patient": normal_id(text["PatientID"]),
        "birth": str(parse_day(text["PatientBirthDate"]) or text["PatientBirthDate"].strip(" \0")),
        "sex": text["PatientSex"].strip(" \0").upper(),
        "position": _position(dataset),
        "frames": _frames(dataset),
        "modality": modality if modality in profile.terms["Modality"] else "",
        "localizer": int("LOCALIZER" in [str(word).upper() for word in dataset.get("ImageType") or []]),
    }
    return _Listed("dicom", facts, frozenset(staff))


def object_code(class_uid: str, profile: DeidProfile) -> str | None:
    """Why objects of this class are refused, or None. Documents have reasons of their own, as people ask for them."""
    code = class_code(class_uid, profile)
    if code == "class-refused" and class_uid.startswith(_STRUCTURED_REPORTS):
        return "structured-report"
    if code == "class-refused" and class_uid.startswith(_ENCAPSULATED):
        return "encapsulated-document"
    return code


def _nameless_index(place: Path) -> sqlite3.Connection:
    path = place / "index"
    index = sqlite3.connect(path, isolation_level=None)
    index.executescript(
        f"PRAGMA journal_mode=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-{_INDEX_MEMORY_KB};"
        "PRAGMA temp_store=MEMORY; CREATE TABLE here (a);"
    )
    path.unlink()
    return index


def _identity_code(patient_id: str, issuer: str) -> str | None:
    """Why this is nobody's id. Letters that do not decode all become one: two ids would be one person."""
    if UNDECODED in patient_id + issuer:
        return "charset"
    return None if normal_id(patient_id) else "no-patient-id"


def _frames(dataset: Any) -> int:
    """As the header says, within reason; 1 where it says nothing that is a number."""
    try:
        return min(max(int(dataset.get("NumberOfFrames", 1) or 1), 1), 1 << 31)
    except (TypeError, ValueError):
        return 1


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


def _content(path: Path) -> str:
    """SHA-256 of a file; a file that cannot be read is like no other."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (OSError, DeidError):
        return secrets.token_hex(32)
