"""Report rows: conversation JSONL and CSV, read strictly; a row in any other form is None and ends in quarantine.

A row comes with its place in the file, so that the text need not be kept: it is read again when its turn comes.
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
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a letter, which JSON can spell and no database takes
_BLANK = b', "\t\r\n'
_CSV_KEYS = ("path", "sop_instance_uid", "study_instance_uid", "accession_number")


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


def json_rows(file: BinaryIO) -> Iterator[tuple[int, int, int, ReportRow | None]]:
    start = 0
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, start, len(line), json_row(line) if len(line) <= _LINE_BYTES_MAX else None
        start += len(line)


def json_row(line: bytes) -> ReportRow | None:
    """One line of conversation JSONL, or None for anything but the one form."""
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not row.keys() <= {"id", "image", "conversations", "patient_id"}:
        return None
    names = [row.get("image")] if isinstance(row.get("image"), str) else row.get("image")
    patient_id = row.get("patient_id", "")
    if not isinstance(names, list) or not names or not isinstance(patient_id, str) or _SURROGATE.search(patient_id):
        return None
    paths = [_inside(name) for name in names]
    turns = _turns(row.get("conversations"), len(names))
    if turns is None or any(path is None for path in paths):
        return None
    return ReportRow("path", tuple(path for path in paths if path), turns, patient_id)


def _turns(conversation: object, image_count: int) -> tuple[RawTurn, ...] | None:
    """Turns alternate, human first, and hold one `<image>` per image."""
    if not isinstance(conversation, list) or not conversation or len(conversation) % 2:
        return None
    for position, said in enumerate(conversation):
        if not isinstance(said, dict) or said.keys() != {"from", "value"} or not isinstance(said["value"], str):
            return None
        if said["from"] != ("human", "gpt")[position % 2] or (position % 2 and "<image>" in said["value"]):
            return None
    if sum(said["value"].count("<image>") for said in conversation) != image_count:
        return None
    texts = [said["value"].replace("<image>", "").strip() for said in conversation]
    turns = tuple(RawTurn(question, answer) for question, answer in zip(texts[::2], texts[1::2], strict=True))
    return turns if all(turn.question and turn.answer for turn in turns) else None


def csv_rows(file: BinaryIO) -> Iterator[tuple[int, int, int, ReportRow | None]]:
    """Rows of a table. Rows without a letter, as Excel leaves them at the end, are none. What the reader takes in one
    piece and cannot read, such as all rows after a quote that nobody closes, counts as one ill-formed row per line."""
    header = file.readline(_LINE_BYTES_MAX)
    columns = _csv_header(header)
    if columns is None:
        if header:
            yield 1, 0, len(header), None
        return
    lines = _Lines(file)
    number, start = 1, len(header)
    while True:
        lines.taken = []
        try:
            cells = next(csv.reader(lines, strict=True), None)
            rows = [b"".join(lines.taken)]
        except (csv.Error, UnicodeDecodeError):
            cells, rows = [], lines.taken
        if cells is None:
            return
        for data in rows:
            number += 1
            if data.strip(_BLANK):
                yield number, start, len(data), _cells_row(columns, cells)
            start += len(data)


class _Lines:
    """Lines of a file as text for the csv reader, keeping the bytes of those it took."""

    def __init__(self, lines: Iterator[bytes] | BinaryIO) -> None:
        self._lines = iter(lines)
        self.taken: list[bytes] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.taken.append(line)
        return line.decode("utf-8")


def csv_row(header: bytes, data: bytes) -> ReportRow | None:
    try:
        cells = next(csv.reader(_Lines(iter(data.splitlines(keepends=True))), strict=True), [])
    except (csv.Error, UnicodeDecodeError):
        return None
    return _cells_row(_csv_header(header) or [], cells)


def _csv_header(line: bytes) -> list[str] | None:
    """The columns, if there is `report` and exactly one column that names images; `patient_id` may stand beside."""
    try:
        columns = [cell.strip().casefold() for cell in next(csv.reader([line.decode("utf-8-sig")]), [])]
    except (csv.Error, UnicodeDecodeError):
        return None
    named = [column for column in columns if column in _CSV_KEYS]
    if len(set(columns)) != len(columns) or "report" not in columns or len(named) != 1:
        return None
    return columns


def _cells_row(columns: Sequence[str], cells: Sequence[str]) -> ReportRow | None:
    if len(cells) != len(columns):
        return None
    row = dict(zip(columns, cells, strict=True))
    key = next(column for column in columns if column in _CSV_KEYS)
    value: str | None = row[key].strip()
    if key == "path":
        value = _inside(value or "")
    if not value or not row["report"].strip():
        return None
    return ReportRow(key, (value,), (RawTurn(DESCRIBE, row["report"].strip()),), row.get("patient_id", "").strip())


def _inside(name: object) -> str | None:
    """A relative path that stays inside the folder, in the form of the index, or None."""
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return None
    path = PurePosixPath(name)
    return None if path.is_absolute() or ".." in path.parts else str(path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)
