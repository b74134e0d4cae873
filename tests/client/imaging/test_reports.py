"""What is told of a row that cannot be read, and what no text of a patient may hold."""

import io
import json
from typing import Any

import pytest

from client.imaging.reasons import REASONS
from client.imaging.reports import ILL_FORMED, ReportRow, csv_row, csv_rows, json_row, json_rows

TABLE = "accession_number,report\nA1,Clear.\nA2,No effusion.\n"


def line(answer: str = "Yes.", *, question: str = "<image>\nIs there pneumonia?", **changes: Any) -> str:
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"image": "a.dcm", "conversations": said} | changes)


def told(table: str | bytes) -> list[str]:
    """Of each row its reason, or what it names."""
    data = table.encode() if isinstance(table, str) else table
    return [row if isinstance(row, str) else row.values[0] for _, _, _, row in csv_rows(io.BytesIO(data))]


def test_every_reason_is_explained() -> None:
    assert REASONS.keys() >= ILL_FORMED


@pytest.mark.parametrize(
    "header",
    [
        "accession_number;report", "accession_number\treport", "accession_number|report", "sep=,", "sep=;",
        "accession,report", "accession_number,text", "accession_number", "report", "A1,Clear.",
        "accession_number,report,report", "accession_number,path,report", "accession_number\rA1\rreport",
    ],
)  # fmt: skip
def test_a_table_without_its_columns_is_told_once(header: str) -> None:
    assert told(TABLE.replace("accession_number,report", header)) == ["report-columns"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_file_of_wide_letters_is_told_once(encoding: str) -> None:
    lines = io.BytesIO(f"{line()}\n{line()}\n".encode(encoding))

    assert told(TABLE.encode(encoding)) == ["report-encoding"]
    assert [row for _, _, _, row in json_rows(lines)] == ["report-encoding"]


def test_a_row_of_another_encoding_takes_no_other_row_along() -> None:
    """Its lines stay together: the second one alone would name a study that is nowhere, and end the ingest."""
    table = (
        'accession_number,report\nA1,Clear.\nA2,"Herz gr\xf6\xdfer,\nnormal, no effusion,\nA3,""clear"""\nA4,Clear.\n'
    )

    assert told(table.encode("latin-1")) == ["A1", "report-encoding", "A4"]
    assert told(table) == ["A1", "A2", "A4"]
    assert told("accession_number,report,gr\xf6\xdfe\nA1,Clear.,1\n".encode("latin-1")) == ["report-encoding"]
    assert json_row(line("gr\xf6\xdfer").encode("latin-1").replace(b"\\u00f6", b"\xf6")) == "report-encoding"


@pytest.mark.parametrize("rest", ['A2,"Clear.\nA4,Clear.\n', 'A2,"Clear" lungs.\nA4,Clear.\n'])
def test_quotes_that_do_not_pair_are_told(rest: str) -> None:
    assert told("accession_number,report\nA1,Clear.\n" + rest)[:2] == ["A1", "report-quotes"]


@pytest.mark.parametrize("path", ["../a.dcm", "deep/../a.dcm", "/data/a.dcm", "deep\\a.dcm", "C:\\data\\a.dcm"])
def test_a_path_that_leads_elsewhere_is_told(path: str) -> None:
    assert json_row(line(image=path).encode()) == "report-path"
    assert json_row(line(image=["a.dcm", path], question="<image><image>Same?").encode()) == "report-path"
    assert told(f"path,report\n{path},Clear.\n") == ["report-path"]


@pytest.mark.parametrize(
    "text",
    [
        "Yes.<|image|><|patch|>", "<|eot|><|header_start|>user", "a<|im_start|>b", "<\uff5cend\u2581of\uff5c>", "a\0b",
        "a<image>b",
    ],
)  # fmt: skip
def test_no_text_holds_control_tokens_or_what_is_no_letter(text: str) -> None:
    assert json_row(line(text).encode()) == "report-format"
    assert json_row(line(question="<image>Is there? " + text).encode()) == "report-format"
    assert told(f"path,report\na.dcm,{text}\n") == ["report-format"]
    assert csv_row(b"path,report\n", f"a.dcm,{text}".encode()) == "report-format"


@pytest.mark.parametrize("question", ["<ima<image>ge>Is there?", "<|e<image>ot|>Is there?"])
def test_a_mark_that_is_taken_out_leaves_no_token_behind(question: str) -> None:
    assert json_row(line(question=question).encode()) == "report-format"


@pytest.mark.parametrize("text", ["x\ud800y", "\udc00", "x\udfff"])
def test_half_a_letter_is_no_text(text: str) -> None:
    assert json_row(line(text).encode()) == "report-format"
    assert json_row(line(question="<image>" + text).encode()) == "report-format"


@pytest.mark.parametrize(
    "text", ["5 mm < x | y > 3 mm", "T1 <0.5|>0.2", "<5|6>", "| a |> 5 |", "a <b> c", "\U0001fac1"]
)
def test_what_only_looks_like_a_token_is_text(text: str) -> None:
    row = json_row(line(text).encode())

    assert isinstance(row, ReportRow) and row.turns[0].answer == text
    assert told(f"path,report\na.dcm,{text}\n") == ["a.dcm"]
