"""Report rows: conversation JSONL and CSV, read strictly; of a row in any other form there is only the reason why.

A row comes with its place in the file, so that the text need not be kept: it is read again when its turn comes. A file
that cannot be read as a whole, because of its encoding or its columns, is one row with that reason.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

DESCRIBE = "Describe the findings."
"""The question that a CSV report answers."""
_LINE_BYTES_MAX = 1 << 20
_MARK = "<image>"
_UNSAYABLE = re.compile(f"\0|[\ud800-\udfff]|<[|\uff5c][^<>\n]{{1,100}}[|\uff5c]>|{_MARK}")
"""NUL; half a letter, which JSON can spell and no database takes; control tokens of models, which a text of a patient
has no use for and a training might obey; the mark of a picture where none is meant."""
_UNDECODED = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8, as `surrogateescape` keeps them
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BLANK = b', "\t\r\n'
_CSV_KEYS = ("path", "sop_instance_uid", "study_instance_uid", "accession_number")
ILL_FORMED = frozenset({"report-format", "report-encoding", "report-columns", "report-quotes", "report-path"})
"""Why a row cannot be read."""


@dataclass(frozen=True, repr=False)
class RawTurn:
    question: str
    answer: str

    def __repr__(self) -> str:
        return "<RawTurn: hidden>"


@dataclass(frozen=True, repr=False)
class ReportRow:
    """One report row as written: what it names, and what was said."""

    key: str
    values: tuple[str, ...]
    turns: tuple[RawTurn, ...]
    patient_id: str = ""


Row = ReportRow | str
"""A row, or the word of `ILL_FORMED` that says why there is none."""


def json_rows(file: BinaryIO) -> Iterator[tuple[int, int, int, Row]]:
    start = 0
    for number, line in enumerate(file, 1):
        if number == 1 and _is_wide(line):
            yield number, start, len(line), "report-encoding"
            return
        if line.strip():
            yield number, start, len(line), json_row(line) if len(line) <= _LINE_BYTES_MAX else "report-format"
        start += len(line)


def json_row(line: bytes) -> Row:
    """One line of conversation JSONL, in the one form."""
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        return "report-encoding"
    except (ValueError, RecursionError):
        return "report-format"
    if not isinstance(row, dict) or not row.keys() <= {"id", "image", "conversations", "patient_id"}:
        return "report-format"
    names = [row.get("image")] if isinstance(row.get("image"), str) else row.get("image")
    patient_id = row.get("patient_id", "")
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        return "report-format"
    turns = _turns(row.get("conversations"), len(names))
    if turns is None or not isinstance(patient_id, str) or _UNSAYABLE.search(patient_id):
        return "report-format"
    paths = [path for name in names if (path := _inside(name)) is not None]
    return ReportRow("path", tuple(paths), turns, patient_id) if len(paths) == len(names) else "report-path"


def _turns(conversation: object, image_count: int) -> tuple[RawTurn, ...] | None:
    """Turns alternate, human first, and hold one `<image>` per image."""
    if not isinstance(conversation, list) or not conversation or len(conversation) % 2:
        return None
    for position, said in enumerate(conversation):
        if not isinstance(said, dict) or said.keys() != {"from", "value"} or not isinstance(said["value"], str):
            return None
        if said["from"] != ("human", "gpt")[position % 2] or (position % 2 and _MARK in said["value"]):
            return None
    if sum(said["value"].count(_MARK) for said in conversation) != image_count:
        return None
    texts = [said["value"].replace(_MARK, "").strip() for said in conversation]
    if not all(texts) or any(map(_UNSAYABLE.search, texts)):  # asked last: taking out a mark may join a token
        return None
    return tuple(RawTurn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True))


def csv_rows(file: BinaryIO) -> Iterator[tuple[int, int, int, Row]]:
    """Rows of a table. Rows without a letter, as Excel leaves them at the end, are none. What the reader takes in one
    piece and cannot read, such as all rows after a quote that nobody closes, counts as one ill-formed row per line."""
    header = file.readline(_LINE_BYTES_MAX)
    columns = _csv_header(header)
    if isinstance(columns, str):
        if header:
            yield 1, 0, len(header), columns
        return
    lines = _Lines(file)
    number, start = 1, len(header)
    row: Row
    while True:
        lines.taken = []
        try:
            cells = next(csv.reader(lines, strict=True), None)
        except csv.Error:
            rows, row = lines.taken, "report-quotes"
        else:
            if cells is None:
                return
            rows, row = [b"".join(lines.taken)], _cells_row(columns, cells)
        for data in rows:
            number += 1
            if data.strip(_BLANK):
                yield number, start, len(data), row
            start += len(data)


class _Lines:
    """Lines of a file as text for the csv reader, keeping the bytes of those it took. What is no UTF-8 goes through:
    where a row ends does not depend on it."""

    def __init__(self, lines: Iterator[bytes] | BinaryIO) -> None:
        self._lines = iter(lines)
        self.taken: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line.decode("utf-8", "surrogateescape")


def csv_row(header: bytes, data: bytes) -> Row:
    columns = _csv_header(header)
    if isinstance(columns, str):
        return columns
    try:
        cells = next(csv.reader(_Lines(iter(data.splitlines(keepends=True))), strict=True), [])
    except csv.Error:
        return "report-quotes"
    return _cells_row(columns, cells)


def _csv_header(line: bytes) -> list[str] | str:
    """The columns, if there is `report` and exactly one column that names images; `patient_id` may stand beside."""
    if _is_wide(line):
        return "report-encoding"
    try:
        columns = [cell.strip().casefold() for cell in next(csv.reader([line.decode("utf-8-sig")]), [])]
    except UnicodeDecodeError:
        return "report-encoding"
    except csv.Error:
        return "report-columns"
    named = [column for column in columns if column in _CSV_KEYS]
    if len(set(columns)) != len(columns) or "report" not in columns or len(named) != 1:
        return "report-columns"
    return columns


def _cells_row(columns: Sequence[str], cells: Sequence[str]) -> Row:
    if any(map(_UNDECODED.search, cells)):
        return "report-encoding"
    if len(cells) != len(columns):
        return "report-format"
    row = dict(zip(columns, cells, strict=True))
    key = next(column for column in columns if column in _CSV_KEYS)
    value, report, patient_id = (row.get(column, "").strip() for column in (key, "report", "patient_id"))
    if not value or not report or any(map(_UNSAYABLE.search, (value, report, patient_id))):
        return "report-format"
    if key == "path":
        inside = _inside(value)
        if inside is None:
            return "report-path"
        value = inside
    return ReportRow(key, (value,), (RawTurn(DESCRIBE, report),), patient_id)


def _is_wide(line: bytes) -> bool:
    """Whether a file that begins so is UTF-16 or UTF-32: a table and a line of JSON begin with plain letters."""
    return line.startswith(_BYTE_ORDER_MARKS) or b"\0" in line[:4]


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "\0" not in name


def _inside(name: str) -> str | None:
    """A relative path that stays inside the folder, in the form of the index, or None."""
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts or "\\" in name else str(path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)
