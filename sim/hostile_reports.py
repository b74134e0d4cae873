"""Reports that try to keep their identifiers: names misspelt, shouted or small, dates in words, all kinds of numbers.

Every report has a clinical part whose words must survive, and plants that must not. What the header of the study says
about the patient is given beside it; other people, places and numbers stand only in the text. Names are put together
from syllables, fresh for every seed, so that no list can know them.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TypeVar

import numpy as np

from client.imaging.identifiers import Identifiers, fold, fold_id, name_words
from client.imaging.report_known import residue
from client.imaging.report_sections import sections
from client.imaging.report_text import scrub
from federation.errors import DeidError
from sim.identifiers import pick
from sim.report_texts import MONTHS

T = TypeVar("T")
_STARTS = "Bran Cal Dre Eli Fen Gor Hal Ing Jor Kel Lan Mor Nev Oth Pel Quil Ros Sten Tor Ulv Ver Wex Yal Zor".split()
_MIDDLES = "ta ve li do ra ne mi so ku be tho dri cha fo lo".split()
_ENDS = "nek lund mark vik sen ström dale worth ova ski dottir bach quez rian wood fell".split()
_WORD_NAMES = ("Long", "White", "Brown", "Young", "Rose", "May", "Hill", "Stone", "Field", "Marsh", "Wood", "King")
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
_ONES += "seventeen eighteen nineteen".split()
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth twenty-first twenty-second twenty-third twenty-fourth "
    "twenty-fifth twenty-sixth twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

CLINICAL = (
    "There is a small left pleural effusion with adjacent atelectasis.",
    "No pneumothorax is seen.",
    "The heart is mildly enlarged, cardiothoracic ratio 0.56.",
    "A 4 x 5 mm nodule in the right upper lobe is unchanged.",
    "Mild degenerative changes of the thoracic spine at T8-T9.",
    "The mediastinal contours are normal.",
    "Patchy consolidation in the lingula, consistent with pneumonia.",
    "Kerley B lines and cephalization suggest mild pulmonary edema.",
    "The endotracheal tube ends 3.5 cm above the carina.",
    "Status post median sternotomy with intact wires.",
    "Old healed fractures of the left 5th and 6th ribs.",
    "Calcified granuloma in the left lower lobe, 1.2 cm.",
    "Surgical clips in the right axilla.",
    "The osseous structures are grossly intact.",
    "Bilateral hilar lymphadenopathy, 12 mm in short axis.",
    "Blunting of the right costophrenic angle.",
    "Hounsfield units of the lesion measure 35 before and 90 after contrast.",
    "No evidence of acute cardiopulmonary disease.",
    "Swan-Ganz catheter, Foley catheter and Harrington rods in place.",
    "Ghon complex, calcified; Hampton hump and Westermark sign are absent.",
    "White matter is not assessed; short axis node of 9 mm.",
    "Reviewed by the team; per protocol a lateral view was performed.",
)


@dataclass(frozen=True)
class HostileReport:
    """One report, what must go, what must stay, and what the study's header knows."""

    text: str
    planted: tuple[str, ...]
    clinical: tuple[str, ...]
    """Sentences that stand in the text as they are here."""
    names: tuple[str, ...]
    ids: tuple[str, ...]
    places: tuple[str, ...]
    dates: tuple[date, ...]
    staff: tuple[str, ...]


def hostile_report(rng: np.random.Generator) -> HostileReport:
    """One report with three to seven plants between its clinical sentences."""
    family, given = fresh_name(rng), fresh_name(rng)
    doctor, other, town = fresh_name(rng), fresh_name(rng), fresh_name(rng)
    seen = date(1995, 1, 1) + timedelta(days=int(rng.integers(10500)))
    born = seen - timedelta(days=int(rng.integers(7000, 36000)))
    patient_id, accession = f"MRN-{int(rng.integers(10**6, 9 * 10**6))}", f"A{int(rng.integers(10**7, 9 * 10**7))}"
    hospital = f"{town} General Hospital"
    makers: list[Callable[[], tuple[str, Sequence[str]]]] = [
        lambda: _of_patient(family, given, rng),
        lambda: _of_doctor(doctor, rng),
        lambda: _of_other(other, rng),
        lambda: _of_date(seen if rng.random() < 0.6 else seen - timedelta(days=int(rng.integers(20, 900))), rng),
        lambda: _of_date(born, rng),
        lambda: _of_id(patient_id, accession, rng),
        lambda: _of_contact(rng),
        lambda: _of_place(town, hospital, rng),
        lambda: _of_age(rng),
    ]
    chosen = rng.permutation(len(makers))[: int(rng.integers(3, 8))]
    said = [makers[int(index)]() for index in chosen]
    clinical = [CLINICAL[int(index)] for index in rng.permutation(len(CLINICAL))[: int(rng.integers(5, 9))]]
    lines: list[str] = list(clinical)
    for sentence, _ in said:
        lines.insert(int(rng.integers(len(lines) + 1)), sentence)
    half = len(lines) // 2 + 1
    body = f"FINDINGS: {' '.join(lines[:half])}\nIMPRESSION: {' '.join(lines[half:])}"
    if rng.random() < 0.25:
        body = " ".join(lines)
    elif rng.random() < 0.5:
        body = (
            f"{hospital}\nPATIENT: {family}, {given}  MRN {patient_id}\nHISTORY: cough.\n{body}\nSIGNED: Dr. {doctor}"
        )
    known_staff = (doctor,) if rng.random() < 0.5 else ()
    return HostileReport(
        text=body,
        planted=tuple(plant for _, plants in said for plant in plants),
        clinical=tuple(clinical),
        names=(family, given), ids=(patient_id, accession), places=(hospital,), dates=(seen, born), staff=known_staff,
    )  # fmt: skip


def fresh_name(rng: np.random.Generator) -> str:
    """A family name that no list has; one in twelve is a plain word, as names are."""
    if rng.random() < 1 / 12:
        return pick(_WORD_NAMES, rng)
    middle = pick(_MIDDLES, rng) if rng.random() < 0.6 else ""
    return pick(_STARTS, rng) + middle + pick(_ENDS, rng)


def misspelt(name: str, rng: np.random.Generator) -> str:
    """One slip of a typist or of a text recogniser."""
    at = int(rng.integers(1, len(name) - 1))
    kind = int(rng.integers(4))
    if kind == 0:
        return name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if kind == 1:
        return name[:at] + name[at + 1 :]
    if kind == 2:
        return name[:at] + name[at] + name[at:]
    for letter, like in (("o", "0"), ("l", "1"), ("i", "1"), ("e", "c"), ("s", "5")):
        if letter in name[1:]:
            return name[0] + name[1:].replace(letter, like, 1)
    return name[:at] + "x" + name[at + 1 :]


def _of_patient(family: str, given: str, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    if family in _WORD_NAMES:
        return f"Mr. {family} tolerated the procedure well.", [f"Mr. {family}"]
    wrong = misspelt(family, rng)
    return pick_of(
        rng,
        (f"Mrs. {family} was informed.", [family]),
        (f"{given} {family} tolerated the procedure well.", [given, family]),
        (f"Images of {family.upper()}, {given.upper()} reviewed.", [family.upper(), given.upper()]),
        (f"Results were given to {family.lower()} by phone.", [family.lower()]),
        (f"{wrong} will return for follow-up.", [wrong]),
        (f"{given[0]}. {family} has no symptoms.", [family]),
        (f"Note for {family}-{given}: repeat in six weeks.", [family, given]),
    )


def _of_doctor(name: str, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    if name in _WORD_NAMES:
        return f"Discussed with Dr. {name}.", [f"Dr. {name}"]
    return pick_of(
        rng,
        (f"Discussed with Dr. {name} at the time of reading.", [name]),
        (f"Findings were called to {name}, RN.", [name]),
        (f"Read by {name} MD.", [name]),
        (f"Dictated by: {name.upper()}.", [name.upper()]),
        (f"Seen and agreed, Prof. {name}.", [name]),
        (f"dr {name.lower()} was notified.", [name.lower()]),
        (f"dictated by {name[0].lower()}. {name.lower()} md", [name.lower()]),
        (f"{name.lower()}, j - consultant radiologist", [name.lower()]),
        (f"Cc: Prof. Dr. med. {name}.", [name]),
        (f"Per nurse practitioner {name}, the line was advanced.", [name]),
        (f"O'{name} was called.", [name]),
    )


def _of_other(name: str, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    if name in _WORD_NAMES:
        return f"Her husband Mr. {name} was present.", [f"Mr. {name}"]
    return pick_of(
        rng,
        (f"The daughter, Ms. {name}, was present.", [name]),
        (f"Compared with the study of {name} Clinic.", [name]),
        (f"The technologist {name} repeated the view.", [name]),
        (f"Radiographer: T. {name}.", [name]),
        (f"The patient's husband, {name}, reports cough.", [name]),
        (f"pt name {name.lower()}.", [name.lower()]),
    )


def _of_date(day: date, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    month, ordinal = MONTHS[day.month - 1], _ORDINALS[day.day - 1]
    text = pick_of(
        rng,
        f"{day:%d/%m/%Y}", f"{day:%m/%d/%y}", f"{day:%Y-%m-%d}", f"{day:%d.%m.%Y}", f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}", f"{day:%d%b%Y}".upper(), f"{day.day}-{month[:3]}-{day:%y}",
        f"the {ordinal} of {month}", f"{month} {ordinal}, {day.year}", f"{month} {day.year}", f"{day:%Y%m%d}",
        f"the {ordinal} of {month} {_year_words(day.year)}", f"{month} {day.day}th", f"{day.month}/{day.day}",
        f"{month} '{day:%y}", f"Tuesday {day.day}/{day.month}", f"{day:%d.%m.%y}", f"{month} of {day.year}",
    )  # fmt: skip
    return pick((f"Compared with {text}.", f"Unchanged since {text}.", f"Prior study from {text} reviewed."), rng), [
        text
    ]


def _year_words(year: int) -> str:
    if year >= 2000:
        return f"two thousand and {_below_hundred(year - 2000)}" if year > 2000 else "two thousand"
    return f"nineteen {_below_hundred(year - 1900)}"


def _below_hundred(number: int) -> str:
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10 - 2] + (f"-{_ONES[number % 10]}" if number % 10 else "")


def _of_id(patient_id: str, accession: str, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    number = patient_id.removeprefix("MRN-")
    return pick_of(
        rng,
        (f"MRN {number}.", [number]),
        (f"See accession {accession}.", [accession]),
        (f"Filed under {patient_id}.", [number]),
        (f"Case {number[:3]} {number[3:]} was reviewed.", [f"{number[:3]} {number[3:]}"]),
        (f"(#{number})", [number]),
        ("SSN 078-05-1120 on file.", ["078-05-1120"]),
        ("Implant serial no. SN48-22913-X.", ["SN48-22913-X"]),
        (f"NHS {number[:3]} {number[3:6]} 5919.", [f"{number[:3]} {number[3:6]} 5919"]),
        (f"Hosp No. {patient_id.lower()}.", [number]),
    )


def _of_contact(rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    a, b = int(rng.integers(200, 999)), int(rng.integers(1000, 9999))
    text = pick_of(
        rng,
        f"({a}) 555-{b}", f"{a}.555.{b}", f"+44 20 7946 {b}", f"{a}-555-{b}", f"pager {b}", f"ext. {b}", f"0{a} 55{b}",
        f"reading{b}@rad.example.org", f"https://pacs.example.org/view?id={b}", f"www.example.org/{b}",
        f"10.0.{a % 250}.17", f"07700 900{a}", f"555-{b}", f"1-800-555-{b}",
    )  # fmt: skip
    return f"Call back on {text} if needed.", [text.removeprefix("pager ").removeprefix("ext. ")]


def _of_place(town: str, hospital: str, rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    other = fresh_name(rng) + "ton"
    return pick_of(
        rng,
        (f"Transferred from {hospital}.", [hospital]),
        (f"Outside films from St. {other} Infirmary.", [f"{other} Infirmary"]),
        (f"Lives at 14 {other} Street.", [f"14 {other} Street"]),
        (f"Referred by the {other} Medical Center.", [other]),
        (f"Seen at the university hospital of {other}.", [other]),
        (f"Lives at 22B {other} Road, NW1 6XE.", [f"22B {other} Road", "NW1 6XE"]),
        (f"Lives at 9 rue {other}, 75018 Paris.", [other]),
    )


def _of_age(rng: np.random.Generator) -> tuple[str, Sequence[str]]:
    age = int(rng.integers(90, 104))
    text = pick_of(rng, f"{age}-year-old", f"{age} yo", f"{age} years", f"aged {age}", f"{age}F", _age_words(age))
    return f"This is a {text} patient." if "aged" not in text else f"The patient is {text}.", [text]


def _age_words(age: int) -> str:
    return f"ninety-{_ONES[age - 90]}-year-old" if 90 < age < 100 else f"{age} y/o"


def pick_of(rng: np.random.Generator, *options: T) -> T:
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True)
class ReportFigures:
    """What scrubbing made of many hostile reports."""

    recall: float
    """Plants that are gone, of those in reports that were kept."""
    clinical_kept: float
    """Words of the clinical sentences that are still there."""
    clean: int
    """Kept reports without any plant."""
    kept: int
    quarantined: int


def measure(reports: int, seed: int) -> ReportFigures:
    """Scrub fresh hostile reports as `deid.clean` does, and count."""
    gone = planted = words = survived = clean = kept = quarantined = 0
    for index in range(reports):
        report = hostile_report(np.random.default_rng([seed, index]))
        known = Identifiers(
            names=frozenset(word for name in report.names for word in name_words(name)),
            ids=frozenset(fold_id(each) for each in report.ids),
            places=frozenset(" ".join(fold(place).split()) for place in report.places),
            dates=frozenset(report.dates),
        )
        staff = frozenset(word for name in report.staff for word in name_words(name))
        try:
            out = scrub(sections(report.text), known, staff)
        except DeidError:
            quarantined += 1
            continue
        if residue(out, known) is not None:
            quarantined += 1
            continue
        kept += 1
        left = [plant for plant in report.planted if re.search(rf"(?<!\w){re.escape(plant)}(?![\w+])", out)]
        planted, gone, clean = planted + len(report.planted), gone + len(report.planted) - len(left), clean + (not left)
        present = Counter(_WORDS.findall(out))
        wanted = [word for sentence in report.clinical for word in _WORDS.findall(sentence)]
        words, survived = words + len(wanted), survived + sum(present[word] > 0 for word in wanted)
    return ReportFigures(gone / max(planted, 1), survived / max(words, 1), clean, kept, quarantined)


_WORDS = re.compile(r"[A-Za-z0-9.-]+")
