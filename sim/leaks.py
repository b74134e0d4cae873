"""The truth about a pretended hospital, and a search for planted identifiers in any bytes.

A plant is looked for as it is written and in capitals and small letters, in UTF-8, UTF-16 and the single-byte character
sets, in base64 at all three alignments, and in decoded text without regard to case and accents.
"""

import base64
import gzip
import io
import json
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from federation.errors import FormatError
from sim.anatomy import Finding

VERSION = "wardround-truth/1"


@dataclass(frozen=True)
class Plant:
    """One identifier that was written into the hospital's folder. `kind`: name, id, uid, date, phone, staff, ..."""

    kind: str
    value: str


@dataclass(frozen=True)
class StudyTruth:
    """What one study shows, whatever its report says."""

    study_uid: str
    images: tuple[str, ...]
    findings: tuple[Finding, ...]
    source: str
    """`jsonl` or `csv`: where the report lies."""
    burned_in: bool = False
    """A name is drawn into the pixels of at least one picture."""


@dataclass(frozen=True)
class PatientTruth:
    patient_id: str
    plants: tuple[Plant, ...]
    studies: tuple[StudyTruth, ...]


@dataclass(frozen=True)
class Truth:
    """All that was planted and drawn at one hospital. `shared` plants (staff, letterhead) belong to no one patient."""

    site_id: str
    shared: tuple[Plant, ...]
    patients: tuple[PatientTruth, ...]

    def plants(self) -> list[Plant]:
        """Every plant once, sorted."""
        own = {plant for patient in self.patients for plant in patient.plants}
        return sorted(own | set(self.shared), key=lambda plant: (plant.kind, plant.value))

    def dump(self, path: Path) -> None:
        text = json.dumps({"format": VERSION, **asdict(self)}, ensure_ascii=False, indent=1, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Truth":
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.get("format") != VERSION:
            raise FormatError("not-canonical", "not a truth file of this version", hint="write the phantoms again")
        return Truth(
            site_id=raw["site_id"],
            shared=tuple(Plant(**plant) for plant in raw["shared"]),
            patients=tuple(
                PatientTruth(
                    patient_id=patient["patient_id"],
                    plants=tuple(Plant(**plant) for plant in patient["plants"]),
                    studies=tuple(
                        StudyTruth(
                            study_uid=study["study_uid"],
                            images=tuple(study["images"]),
                            findings=tuple(Finding(**finding) for finding in study["findings"]),
                            source=study["source"],
                            burned_in=study["burned_in"],
                        )
                        for study in patient["studies"]
                    ),
                )
                for patient in raw["patients"]
            ),
        )


@dataclass(frozen=True)
class Leak:
    """A plant found. `how`: name (of a file or folder), bytes, text, inflated or high-bits."""

    file: str
    how: str
    kind: str
    value: str


def plain(text: str) -> str:
    """Text without accents and capitals: how decoded strings and plants are compared."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter)).casefold()


class Needles:
    """Many byte patterns, found in one pass over each buffer.

    Each pattern is known by its last six bytes; a table over hashes of the last four throws nearly all positions out
    before Python looks at them. Patterns shorter than six bytes are left out: they would turn up by chance.
    """

    ANCHOR = 6

    def __init__(self, patterns: Iterable[tuple[bytes, Plant]]) -> None:
        self._plants: dict[bytes, list[Plant]] = {}
        for pattern, plant in patterns:
            if len(pattern) >= self.ANCHOR:
                self._plants.setdefault(pattern, []).append(plant)
        self._lengths: dict[bytes, list[int]] = {}
        for pattern in self._plants:
            lengths = self._lengths.setdefault(pattern[-self.ANCHOR :], [])
            if len(pattern) not in lengths:
                lengths.append(len(pattern))
        self._table = np.zeros(1 << 22, dtype=bool)
        for anchor in self._lengths:
            self._table[_hashes(np.frombuffer(anchor[-4:], dtype=np.uint8))] = True

    def find(self, haystack: bytes) -> set[Plant]:
        """The plants that occur. Dates, ages and phone numbers count only where no longer number or word holds them."""
        found: set[Plant] = set()
        block = 1 << 22
        for start in range(0, max(len(haystack) - 3, 0), block):
            words = _hashes(np.frombuffer(haystack, dtype=np.uint8)[start : start + block + 3])
            for position in np.flatnonzero(self._table[words]).tolist():
                end = start + position + 4
                for length in self._lengths.get(haystack[max(end - self.ANCHOR, 0) : end], ()):
                    pattern = haystack[max(end - length, 0) : end]
                    for plant in self._plants.get(pattern, ()):
                        if plant not in found and _stands_alone(haystack, end - length, end, plant):
                            found.add(plant)
        return found


def _hashes(data: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """A 22-bit hash of the four bytes at each position."""
    wide = data.astype(np.uint32)
    words = wide[:-3] | wide[1:-2] << 8 | wide[2:-1] << 16 | wide[3:] << 24
    return np.asarray((words * np.uint32(2654435761)) >> np.uint32(10), dtype=np.uint32)


def _stands_alone(haystack: bytes, start: int, end: int, plant: Plant) -> bool:
    if plant.kind not in ("date", "age", "phone"):
        return True
    before, after = haystack[start - 1 : start] if start else b"", haystack[end : end + 1]
    if plant.kind == "date" and plant.value.isdigit() and haystack[end : end + 6].isdigit():
        return not before.isalnum()  # a date-time: YYYYMMDDHHMMSS
    return not before.isalnum() and not after.isalnum()


def byte_needles(plants: Sequence[Plant]) -> Needles:
    """Patterns for raw bytes: UTF-8, UTF-16, single-byte character sets, base64."""
    return Needles((pattern, plant) for plant in plants for pattern in _encodings(plant.value))


def text_needles(plants: Sequence[Plant]) -> Needles:
    """Patterns for decoded text that went through `plain`."""
    return Needles((plain(plant.value).encode(), plant) for plant in plants)


def _encodings(value: str) -> set[bytes]:
    patterns: set[bytes] = set()
    for text in (value, value.upper(), value.lower()):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be", "iso8859-1", "iso8859-2"):
            try:
                patterns.add(text.encode(encoding))
            except UnicodeEncodeError:
                continue
    return patterns | _base64_forms(value.encode())


def _base64_forms(data: bytes) -> set[bytes]:
    """What base64 of a longer text must contain, wherever in it the value stands (three alignments)."""
    forms = set()
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + data)
        first = (offset * 8 + 5) // 6
        forms.add(encoded[first : (offset + len(data)) * 8 // 6])
    return forms


def hidden_streams(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What a file that is no DICOM file holds and its raw bytes do not show: (`text` or `inflated`, content)."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        yield "inflated", _png_texts(data)
    elif data.startswith(b"\x1f\x8b"):
        yield "inflated", gzip.decompress(data)
    elif data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield "inflated", archive.read(name)
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return
        yield "text", plain(text).encode()
        for line in text.splitlines() if "\\u" in text else ():
            try:
                yield "text", plain("\n".join(_strings(json.loads(line)))).encode()
            except ValueError:
                continue


def _png_texts(data: bytes) -> bytes:
    """The contents of compressed text and profile chunks (PNG 11.3.3); plain ones are found as raw bytes."""
    texts, start = [], 8
    while start + 8 <= len(data):
        length, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            body = data[start + 8 : start + 8 + length]
            for offset in range(len(body)):
                if body[offset] == 0x78:  # a zlib stream may begin here
                    try:
                        texts.append(zlib.decompressobj().decompress(body[offset:]))
                    except zlib.error:
                        continue
        start += length + 12
    return b"\0".join(texts)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield str(name)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
