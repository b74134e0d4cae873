"""Who comes to a pretended hospital, with what, when and in front of which device; and what identifiers are planted.

One patient's visits share one disease: in a second study most findings stay, some change their size, a few are new.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

import numpy as np

from sim.anatomy import CLINICAL, SIDES, SIZES, ZONES, Finding
from sim.identifiers import Person, Staff, pick
from sim.leaks import Plant
from sim.sites import Hospital, Scanner


@dataclass
class Plants:
    """Collects what is planted; returns the value, so that it is collected where it is written."""

    values: set[Plant] = field(default_factory=set)

    def __call__(self, kind: str, value: str) -> str:
        self.values.add(Plant(kind, value))
        return value


@dataclass(frozen=True)
class Study:
    """One visit: everything that its files have in common."""

    number: int
    uid: str
    series_uids: tuple[str, str]
    """Radiographs, CT."""
    frame_uid: str
    accession: str
    study_id: str
    moment: datetime
    previous: date | None
    findings: tuple[Finding, ...]
    radiologist: str
    operator: str


@dataclass(frozen=True)
class Shot:
    """One picture of a study and the device that took it."""

    scanner: Scanner
    serial: str
    view: str
    """PA, AP, LATERAL or CT."""
    number: int
    burned_in: bool = False


def number_of(text: str) -> int:
    """A number that a text always gives: a seed of its own for each hospital."""
    return zlib.crc32(text.encode())


def new_uid(rng: np.random.Generator) -> str:
    """A UID under the root for UUIDs, PS3.5 B.2, from the generator."""
    high, low = (int(word) for word in rng.integers(1 << 62, size=2))
    return f"2.25.{(high << 62) | low}"


def plant_person(person: Person, plant: Plants) -> None:
    """Collect what every file and report of this patient may carry."""
    groups = (*(person.ideographic or ()), *(person.phonetic or ()))
    for name in (person.family, person.given, person.maiden_name, *groups):
        plant("name", name)
    for value in (person.patient_id, person.other_id, person.insurance_id):
        plant("id", value)
    plant("phone", person.phone)
    plant("address", person.address)
    plant("date", person.birth.strftime("%Y%m%d"))


def studies_of(hospital: Hospital, staff: Staff, rng: np.random.Generator, plant: Plants) -> Iterator[Study]:
    """One visit, or two within a month."""
    count = 2 if rng.random() < hospital.second_study_share else 1
    findings = _first_findings(hospital, rng)
    moment = datetime(2025, 1, 1, 7) + timedelta(seconds=int(rng.integers(500 * 86400)))
    previous = None
    for number in range(1, count + 1):
        yield new_study(staff, rng, plant, number=number, moment=moment, previous=previous, findings=findings)
        previous = moment.date()
        moment += timedelta(days=int(rng.integers(2, 30)), minutes=int(rng.integers(600)))
        findings = _later_findings(findings, hospital, rng)


def new_study(
    staff: Staff,
    rng: np.random.Generator,
    plant: Plants,
    *,
    number: int,
    moment: datetime,
    previous: date | None,
    findings: tuple[Finding, ...],
) -> Study:
    """A visit with its own numbers and UIDs."""
    plant("date", moment.strftime("%Y%m%d"))
    return Study(
        number=number,
        uid=plant("uid", new_uid(rng)),
        series_uids=(new_uid(rng), new_uid(rng)),
        frame_uid=new_uid(rng),
        accession=plant("id", f"ACC{int(rng.integers(10**8, 10**9))}"),
        study_id=plant("id", f"ST{int(rng.integers(10**6, 10**7))}"),
        moment=moment,
        previous=previous,
        findings=findings,
        radiologist=pick(staff.radiologists, rng),
        operator=pick(staff.operators, rng),
    )


def shots_of(hospital: Hospital, rng: np.random.Generator) -> list[Shot]:
    """The pictures of one study: PA or AP, perhaps a lateral view, perhaps one CT slice."""
    device = int(rng.integers(len(hospital.scanners)))
    scanner, serial = hospital.scanners[device], serial_of(hospital, device)
    view = "AP" if rng.random() < hospital.ap_share else "PA"
    shots = [Shot(scanner, serial, view, 1, bool(rng.random() < hospital.burned_in_share))]
    if rng.random() < hospital.lateral_share and view == "PA":
        shots.append(Shot(scanner, serial, "LATERAL", 2))
    if rng.random() < hospital.ct_share:
        shots.append(Shot(scanner, serial, "CT", 3))
    return shots


def serial_of(hospital: Hospital, device: int) -> str:
    return f"SN{number_of(f'{hospital.site_id}/{device}'):010d}"


def _first_findings(hospital: Hospital, rng: np.random.Generator) -> tuple[Finding, ...]:
    drawn = [(_finding(name, hospital, rng), rng.random() < hospital.prevalence.of(name)) for name in CLINICAL]
    return tuple(finding for finding, present in drawn if present)


def _later_findings(findings: tuple[Finding, ...], hospital: Hospital, rng: np.random.Generator) -> tuple[Finding, ...]:
    had = {finding.name: finding for finding in findings}
    later = []
    for name in CLINICAL:
        new, chance, step = _finding(name, hospital, rng), rng.random(), int(rng.integers(-1, 2))
        if name == "cardiomegaly" and name in had:
            later.append(had[name])
        elif name in had and chance < 0.8:
            later.append(replace(had[name], size=SIZES[min(max(SIZES.index(had[name].size) + step, 0), 2)]))
        elif name not in had and chance < 0.3 * hospital.prevalence.of(name):
            later.append(new)
    return tuple(later)


def _finding(name: str, hospital: Hospital, rng: np.random.Generator) -> Finding:
    shares = np.asarray(hospital.sizes) / sum(hospital.sizes)
    size, side, zone = SIZES[int(rng.choice(3, p=shares))], pick(SIDES, rng), pick(ZONES, rng)
    return Finding(
        name, side="" if name == "cardiomegaly" else side, zone=zone if name == "consolidation" else "", size=size
    )
