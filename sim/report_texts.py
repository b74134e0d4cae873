"""Reports that say what a picture shows, in the manner of three kinds of department, with identifiers woven in.

Every finding is named with its place and size, every absent one is denied. The clinical part stands under FINDINGS and
IMPRESSION in all three manners; letterhead, greetings, earlier dates, phone calls and signatures lie around it and
inside it, as they do in real reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from sim.anatomy import CLINICAL, Finding
from sim.identifiers import Person, Staff, pick

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True)
class Occasion:
    """What a report's letterhead knows of its study."""

    person: Person
    staff: Staff
    radiologist: str
    day: date
    clock: str
    previous: date | None
    accession: str
    views: str
    """For instance `PA`, `AP portable`, `PA and lateral`."""
    with_ct: bool


def date_text(day: date, style: str) -> str:
    """A date as this kind of report writes it."""
    if style == "structured":
        return f"{day.day} {MONTHS[day.month - 1]} {day.year}"
    if style == "telegram":
        return day.strftime("%d/%m/%Y")
    return day.strftime("%d.%m.%Y")


def write_report(style: str, findings: Sequence[Finding], occasion: Occasion, rng: np.random.Generator) -> str:
    """The whole report as the department would file it. `style` is structured, sentences or telegram."""
    return {"structured": _structured, "sentences": _sentences, "telegram": _telegram}[style](findings, occasion, rng)


def _structured(findings: Sequence[Finding], occasion: Occasion, rng: np.random.Generator) -> str:
    person, staff = occasion.person, occasion.staff
    said = {name: _phrase(name, findings) for name in CLINICAL}
    lines = [
        f"{staff.institution}, {staff.department}",
        f"PATIENT: {person.family}, {person.given}   MRN: {person.patient_id}   ACCESSION: {occasion.accession}",
        f"REFERRED BY: Dr. {person.referrer}",
        f"EXAMINATION: Chest radiograph {occasion.views}, {date_text(occasion.day, 'structured')}",
        f"HISTORY: {_age_words(occasion)} with cough and dyspnoea.",
        "FINDINGS:",
        f"Lungs: {_capital(said['consolidation'])}.",
        f"Pleura: {_capital(said['effusion'])}. {_capital(said['pneumothorax'])}.",
        f"Heart: {_capital(said['cardiomegaly'])}.",
    ]
    if occasion.with_ct:
        lines.append("CT: Axial CT image reviewed.")
    if occasion.previous and rng.random() < 0.7:
        lines.append(f"Compared with {date_text(occasion.previous, 'structured')}.")
    lines += ["IMPRESSION:", *_numbered([_phrase(finding.name, findings) for finding in findings])]
    if findings and rng.random() < 0.3:
        lines.append(f"Discussed with Dr. {person.referrer} by phone ({person.phone}) at {occasion.clock}.")
    lines.append(f"SIGNED: Dr. {occasion.radiologist}, {date_text(occasion.day, 'structured')} {occasion.clock}")
    return "\n".join(lines)


def _sentences(findings: Sequence[Finding], occasion: Occasion, rng: np.random.Generator) -> str:
    person, staff = occasion.person, occasion.staff
    title = "Mrs" if person.sex == "F" else "Mr"
    day = date_text(occasion.day, "sentences")
    clinical = []
    for name in CLINICAL:
        present = _find(name, findings)
        if present is None:
            clinical.append(pick(_DENIED_SENTENCES[name], rng))
        else:
            clinical.append(pick(("There is {}.", "We see {}."), rng).format(_with_article(_phrase(name, findings))))
    if occasion.with_ct:
        clinical.append("An axial CT image was reviewed.")
    if occasion.previous and rng.random() < 0.7:
        clinical.append(f"Compared with the film of {date_text(occasion.previous, 'sentences')}.")
    if rng.random() < 0.2:
        clinical.append(f"{title} {person.family} was informed.")
    summary = ", ".join(_phrase(finding.name, findings) for finding in findings) or "normal chest radiograph"
    return (
        f"{staff.institution}, {staff.address}. Dear Dr. {person.referrer}, thank you for referring "
        f"{title} {person.given} {person.family}, born {date_text(person.birth, 'sentences')}, "
        f"MRN {person.patient_id}, {_age_words(occasion)}, seen on {day}. Telephone {person.phone}.\n"
        f"Findings: {' '.join(clinical)}\n"
        f"Impression: {_capital(summary)}.\n"
        f"Kind regards, Dr. {occasion.radiologist}, {day}"
    )


def _telegram(findings: Sequence[Finding], occasion: Occasion, rng: np.random.Generator) -> str:
    person = occasion.person
    clinical = []
    for name in CLINICAL:
        present = _find(name, findings)
        if present is None:
            clinical.append({"cardiomegaly": "heart normal size, no cardiomegaly"}.get(name, _phrase(name, findings)))
        else:
            where = " ".join(word for word in (present.side, present.zone and f"{present.zone} zone") if word)
            noun = "pleural effusion" if name == "effusion" else name
            clinical.append(f"{noun}{' ' + where if where else ''}, {present.size}")
    if occasion.with_ct:
        clinical.append("axial CT image reviewed")
    if occasion.previous:
        clinical.append(f"compared with {date_text(occasion.previous, 'telegram')}")
    summary = ", ".join(_phrase(finding.name, findings) for finding in findings) or "no acute finding"
    call = f" d/w Dr. {person.referrer} {person.phone} at {occasion.clock}." if findings and rng.random() < 0.4 else ""
    return (
        f"CXR {occasion.views} {date_text(occasion.day, 'telegram')} {occasion.clock}. {person.family.upper()} "
        f"{person.given.upper()}, {person.patient_id}, {_age_words(occasion)}.\n"
        f"Findings: {'. '.join(clinical)}.\n"
        f"Impression: {summary}.{call}\n"
        f"Dr. {occasion.radiologist}"
    )


_DENIED_SENTENCES = {
    "consolidation": ("There is no consolidation.", "No consolidation is seen."),
    "effusion": ("There is no pleural effusion.", "No pleural effusion is seen."),
    "cardiomegaly": ("The heart is of normal size, no cardiomegaly.", "There is no cardiomegaly."),
    "pneumothorax": ("There is no pneumothorax.", "No pneumothorax is seen."),
}


def _find(name: str, findings: Sequence[Finding]) -> Finding | None:
    return next((finding for finding in findings if finding.name == name), None)


def _phrase(name: str, findings: Sequence[Finding]) -> str:
    """`small left pleural effusion`, or its denial."""
    finding = _find(name, findings)
    noun = "pleural effusion" if name == "effusion" else name
    if finding is None:
        return f"no {noun}"
    if finding.zone:
        return f"{finding.size} {noun} in the {finding.side} {finding.zone} zone"
    return " ".join(word for word in (finding.size, finding.side, noun) if word)


def _with_article(phrase: str) -> str:
    return phrase if "cardiomegaly" in phrase or "consolidation" in phrase else f"a {phrase}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _numbered(phrases: Sequence[str]) -> list[str]:
    if not phrases:
        return ["1. Normal chest radiograph."]
    return [f"{number}. {_capital(phrase)}." for number, phrase in enumerate(phrases, start=1)]


def _age_words(occasion: Occasion) -> str:
    return f"{occasion.person.age_on(occasion.day)}-year-old {'woman' if occasion.person.sex == 'F' else 'man'}"
