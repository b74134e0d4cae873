"""What only a hospital can know: who works there, how its places are called, and whose records were joined.

Three files beside site.toml, all optional: `staff` and `places` are text, a name a line; `patients` is a table of older
ids of the same people. They are data, not rules: a new nurse voids no store. An error names a line by its number, and
never what stands there.
"""

import csv
import hashlib
import re
import stat
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from client.imaging.identifiers import UNDECODED, fold, is_unspaced, name_words
from client.imaging.joined import ANY, Join, Joined, JoinError
from client.imaging.pseudonyms import SiteKeys, normal_id, pseudonym
from client.imaging.report_listed import Listed
from client.imaging.vocabulary import listed_words, vocabulary
from federation.errors import DataError, SettingsError, StoreError

_BYTES_MAX = 64 * 2**20
_NAMES_MAX = 200_000
_JOINS_MAX = 500_000
_LINE_LETTERS_MAX = 200
_NO_NAME = re.compile(r"[\d@;\t|<>{}\[\]#]")
_NO_LETTER = re.compile(rf"[\0-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff{UNDECODED}]")
_COLUMNS = (["old_id", "current_id"], ["current_id", "old_id"])


class Named(Protocol):
    """The names of the files, as `[data]` of site.toml has them."""

    @property
    def staff(self) -> str | None: ...
    @property
    def places(self) -> str | None: ...
    @property
    def patients(self) -> str | None: ...


class _Patients(Protocol):
    def has_patient(self, patient_key: str) -> bool: ...


@dataclass(frozen=True)
class Entries:
    """How long a list is, and the SHA-256 of what counts in it. Comments, order and blank lines do not."""

    count: int
    sha256: str


@dataclass(frozen=True, repr=False)
class SiteLists:
    """The lists of a site, as the rest of this room needs them."""

    listed: Listed = field(default_factory=Listed)
    joined: Joined = field(default_factory=Joined)
    entries: Mapping[str, Entries] = field(default_factory=dict)
    """`staff`, `places`, `patients`: those that the site has."""

    def __repr__(self) -> str:
        return "<SiteLists: hidden>"

    @classmethod
    def read(cls, folder: Path, names: Named) -> "SiteLists":
        """Raises: SettingsError settings-absent for a file that cannot be read; DataError site-list for what is in it,
        with the number of the line."""
        entries: dict[str, Entries] = {}
        staff, places, joins = list[str](), list[str](), list[Join]()
        if names.staff is not None:
            staff = read_names(_text(folder / names.staff, "staff"), "staff", _why_no_name)
            entries["staff"] = _entries(map(_squeezed, staff))
        if names.places is not None:
            places = read_names(_text(folder / names.places, "places"), "places", _why_no_place)
            entries["places"] = _entries(map(_squeezed, places))
        if names.patients is not None:
            joins = read_joins(_text(folder / names.patients, "patients"))
            entries["patients"] = _entries("\x1f".join(join[1:]) for join in joins)
        return cls(Listed.of(staff, places), _joined(joins), entries)

    def attested(self, keys: SiteKeys) -> dict[str, dict[str, int | str]]:
        """For each list its length and a keyed digest: the same list has the same, and nobody without the secret can
        try names on it."""
        return {
            name: {"entries": one.count, "digest": pseudonym(keys.scan, "list", name, one.sha256)}
            for name, one in sorted(self.entries.items())
        }


def require_joined(store: _Patients, keys: SiteKeys, issuers: Collection[str]) -> None:
    """No id that counts as another one is a patient of its own in the store: one person would be two there.

    Args:
        issuers: those under which the old ids are looked for.

    Raises: StoreError store-joined.
    """
    for issuer in sorted({normal_id(each) for each in issuers}):
        for old in keys.joined.old_ids(issuer):
            if store.has_patient(keys.unjoined_key(issuer, old)):
                raise StoreError(
                    "store-joined",
                    "the store holds patients under ids that the table of joined records counts as others",
                    hint="name a new folder in data.store and ingest again; in this one a person would count as two",
                )


def read_names(text: str, which: str, why_not: Callable[[str], str | None]) -> list[str]:
    """The lines that are names. Raises: DataError site-list."""
    names = list[str]()
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        name = unicodedata.normalize("NFC", line.strip())
        if not name or name.startswith("#"):
            continue
        why = _why_no_line(name) or why_not(name)
        if why is not None:
            raise _wrong(which, why, number)
        names.append(name)
        if len(names) > _NAMES_MAX:
            raise _wrong(which, f"has more than {_NAMES_MAX} names")
    return names


def read_joins(text: str) -> list[Join]:
    """The rows of a table of joined records. Raises: DataError site-list."""
    rows = _csv_rows(text)
    _, header = next(rows, (1, []))
    columns = [cell.strip().casefold() for cell in header]
    if [column for column in columns if column != "issuer"] not in _COLUMNS or columns.count("issuer") > 1:
        raise _wrong("patients", "has another header than old_id,current_id (and issuer, if you need it)", 1)
    joins = list[Join]()
    for number, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            raise _wrong("patients", "has not as many cells as the header", number)
        row = {column: cell for column, cell in zip(columns, cells, strict=True)}
        for cell in cells:
            if (why := _why_no_line(cell)) is not None:
                raise _wrong("patients", why, number)
        join = Join(number, normal_id(row.get("issuer", ANY)), normal_id(row["old_id"]), normal_id(row["current_id"]))
        if not join.old or not join.current:
            raise _wrong("patients", "has no id in one of its cells", number)
        joins.append(join)
        if len(joins) > _JOINS_MAX:
            raise _wrong("patients", f"has more than {_JOINS_MAX} rows")
    return joins


def _csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows beside the number of the line where each begins."""
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    reader = csv.reader(lines, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error:
            raise _wrong("patients", "has a quote that is not closed, or cannot be read as CSV", begins) from None
        if cells is None:
            return
        yield begins, cells


def _joined(joins: Iterable[Join]) -> Joined:
    try:
        return Joined.of(joins)
    except JoinError as error:
        raise _wrong("patients", error.message, error.line) from None


def _text(path: Path, which: str) -> str:
    """Raises: SettingsError settings-absent; DataError site-list for what is too large, or not UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise IsADirectoryError
        with open(path, "rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except (OSError, ValueError):
        raise SettingsError(
            "settings-absent",
            f"the file that data.{which} names cannot be read",
            hint=f"put the file there, for this user to read, or remove data.{which} from site.toml",
        ) from None
    if len(data) > _BYTES_MAX:
        raise _wrong(which, f"has more than {_BYTES_MAX >> 20} MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(which, "is not UTF-8 text", len(re.split(rb"\r\n|\r|\n", data[: error.start]))) from None


def _why_no_line(line: str) -> str | None:
    if len(line) > _LINE_LETTERS_MAX:
        return f"has more than {_LINE_LETTERS_MAX} letters"
    if _NO_LETTER.search(line):
        return "has a character that is no letter"
    return None


def _why_no_name(name: str) -> str | None:
    """Why a line names nobody. What is plain beyond doubt would go from all reports."""
    if _NO_NAME.search(name):
        return "has more than a name: a digit, or a sign that no name has"
    if any(is_unspaced(word) for word in name_words(name)):
        return None
    words = {word for part in re.split(r"[\s,.^=/()_-]+", name) for word in name_words(part)}
    if not words:
        return "has no word of two letters or more"
    names = listed_words("names")
    if all(len(word) > 2 and word in vocabulary() and word not in names for word in words):
        return "has plain words only, which are in nobody's name as far as the vocabulary knows"
    return None


def _why_no_place(place: str) -> str | None:
    if not re.search(r"[^\W\d_]{2}", fold(place)):
        return "has no word of two letters or more"
    return "has a comment behind the name" if re.search(r"\s#\s", place) else None


def _squeezed(name: str) -> str:
    return " ".join(name.split())


def _entries(lines: Iterable[str]) -> Entries:
    ordered = sorted(set(lines))
    return Entries(len(ordered), hashlib.sha256("\n".join(ordered).encode("utf-8", "surrogatepass")).hexdigest())


def _wrong(which: str, why: str, line: int | None = None) -> DataError:
    subject = f"the file of data.{which}" if line is None else f"line {line} of the file of data.{which}"
    return DataError("site-list", f"{subject} {why}", hint=_HINTS[which])


_HINTS = {
    "staff": "one name a line, family and given, as UTF-8, at most 200 letters; a comment is a line that begins with #",
    "places": "one place a line, as UTF-8, at most 200 letters; a comment is a line that begins with #",
    "patients": "UTF-8 with commas: old_id,current_id and if need be issuer; one row for each older id",
}
