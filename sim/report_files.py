"""The report files of a pretended hospital: one conversation per study, or a CSV of reports, and a disc's index page.

The forms are those that a site's ingest reads: conversation JSONL with one `<image>` mark per picture, and CSV
with the columns study_instance_uid and report.
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim.anatomy import CLINICAL
from sim.identifiers import Person, Staff
from sim.report_texts import Occasion, date_text, write_report
from sim.sites import OPEN_QUESTION, QUESTIONS, Hospital
from sim.visits import Plants, Shot, Study

Row = dict[str, object]


def report_of(
    hospital: Hospital,
    staff: Staff,
    person: Person,
    study: Study,
    shots: Sequence[Shot],
    rng: np.random.Generator,
    plant: Plants,
) -> str:
    """The report of one study in the hospital's manner; collects what it plants."""
    views = {"PA": "PA", "AP": "AP portable"}[shots[0].view]
    occasion = Occasion(
        person=person,
        staff=staff,
        radiologist=plant("staff", study.radiologist),
        day=study.moment.date(),
        clock=study.moment.strftime("%H:%M"),
        previous=study.previous,
        accession=study.accession,
        views=views + (" and lateral" if any(shot.view == "LATERAL" for shot in shots) else ""),
        with_ct=any(shot.view == "CT" for shot in shots),
    )
    plant("date", date_text(occasion.day, hospital.report_style))
    if hospital.report_style == "sentences":
        plant("date", date_text(person.birth, "sentences"))
    if person.age_on(occasion.day) >= 90:
        plant("age", f"{person.age_on(occasion.day)}-year-old")
    return write_report(hospital.report_style, study.findings, occasion, rng)


def conversation(images: Sequence[str], study: Study, report: str, rng: np.random.Generator) -> Row:
    """A row of the JSONL: the closed questions in random order, the open one at a random place among them."""
    present = {finding.name for finding in study.findings}
    closed = [(QUESTIONS[name], "Yes." if name in present else "No.") for name in CLINICAL]
    turns = [closed[int(index)] for index in rng.permutation(len(closed))]
    turns.insert(int(rng.integers(len(turns) + 1)), (OPEN_QUESTION, report))
    return conversation_row(images, turns)


def conversation_row(images: Sequence[str], turns: Sequence[tuple[str, str]]) -> Row:
    """Turns of (question, answer) about these images."""
    conversation = []
    for number, (question, answer) in enumerate(turns):
        marks = "<image>\n" * len(images) if number == 0 else ""
        conversation += [{"from": "human", "value": marks + question}, {"from": "gpt", "value": answer}]
    return {"image": images[0] if len(images) == 1 else list(images), "conversations": conversation}


def write_report_files(
    folder: Path,
    rows: Sequence[Row],
    csv_rows: Sequence[tuple[str, str]],
    rng: np.random.Generator,
    *,
    ascii_only: bool = False,
) -> None:
    """`reports.jsonl` in random order, and `reports.csv` where there are rows for it."""
    order = rng.permutation(len(rows)).tolist()
    lines = [json.dumps(rows[index], ensure_ascii=ascii_only) + "\n" for index in order]
    (folder / "reports.jsonl").write_text("".join(lines), encoding="utf-8", newline="")
    if csv_rows:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerows([("study_instance_uid", "report"), *csv_rows])
        (folder / "reports.csv").write_text(buffer.getvalue(), encoding="utf-8", newline="")


def write_index_page(folder: Path, staff: Staff, people: Sequence[Person]) -> None:
    """The viewer page that export software puts on a disc: names beside the images, and no image itself."""
    items = "".join(f"<li>{person.family}, {person.given} ({person.patient_id})</li>\n" for person in people)
    page = f"<html><title>{staff.institution}</title><ul>\n{items}</ul></html>\n"
    (folder / "INDEX.HTM").write_text(page, encoding="utf-8", newline="")
