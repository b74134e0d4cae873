"""Made-up people and places for phantoms: no list here was taken from real persons.

Family and given names have at least six letters, so that a leak found by searching bytes is not an accident,
and none is a word of a radiology report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

FAMILY_NAMES: dict[str, tuple[str, ...]] = {
    # By what the character set of the file can write: PS3.3 C.12.1.1.2.
    "": (
        "Hollenstein", "Vandermolen", "Ashgrovic", "Bremmerton", "Calloway", "Dunsmuir", "Eskildsen", "Fotheringay",
        "Greenhalgh", "Hathersage", "Ibbotson", "Jernigan", "Kettlewell", "Lindqvistad", "Mactavish", "Nethercott",
        "Oakeshott", "Pemberley", "Quartermaine", "Ravenscroft", "Satterthwaite", "Thistlewood", "Underhillen",
        "Vasquelle", "Wintersgill", "Yarborough", "Zetterholm", "Abernathie", "Birtwhistle", "Cholmondley", "Drakeford",
        "Ellingworth", "Farquharson", "Gathercole", "Hinchcliffe", "Isherwood", "Jessamine", "Kirkbride", "Longstaffe",
        "Mondragore", "Northcote", "Osterhagen", "Postlethwaite", "Rotherham", "Silverthorne", "Tremayne", "Uppingham",
        "Venkatraman", "Whitlocke", "Okonkwo", "Adebayor", "Mbekwelu", "Chatterji", "Raghunath", "Siriwardene",
        "Al-Haddadi", "Ben-Yosefi", "D'Alembray", "O'Shaughness", "Van-der-Elst",
    ),
    "ISO_IR 100": (
        "Müllerstedt", "Schönhuber", "Lefèvrier", "Gonçalvesa", "Åkerblomé", "Sørensby", "Núñezal", "Großmannt",
    ),
    "ISO_IR 101": ("Łukasiewski", "Dvořákov", "Szczęsnyk", "Kovářova", "Jabłońska", "Horváthné"),
    "ISO_IR 192": ("Müllerstedt", "Łukasiewski", "Papadópoulos", "Παπαδάκηςος", "Ковалевская", "Sørensby"),
}  # fmt: skip

GIVEN_NAMES: dict[str, tuple[str, ...]] = {
    "F": (
        "Mathilda", "Henrietta", "Rosalind", "Marguerite", "Ottoline", "Philippa", "Seraphina", "Theodora", "Winifred",
        "Annelise", "Beatrix", "Clementine", "Dorothea", "Evangeline", "Florentina", "Gwendolyn", "Ingeborg",
        "Josephine", "Katarzyna", "Leocadia", "Oluwaseun", "Padmavati", "Shirinbanu", "Yevgenia",
    ),
    "M": (
        "Alasdair", "Bartholomew", "Cornelius", "Demetrios", "Ebenezer", "Ferdinand", "Gottfried", "Horatio",
        "Ignatius", "Jeremiah", "Leopold", "Maximilian", "Nathaniel", "Octavian", "Peregrine", "Reginald", "Sebastian",
        "Thaddeus", "Valentin", "Wolfgang", "Emmanuel", "Chukwuemeka", "Raghavendra", "Mahmoudreza",
    ),
}  # fmt: skip

# Name groups of a Japanese patient: alphabetic, ideographic, phonetic (PS3.5 H.3); family and given name of each.
JAPANESE_NAMES: tuple[tuple[tuple[str, str], tuple[str, str], tuple[str, str]], ...] = (
    (("Yamadano", "Tarouji"), ("山田野", "太郎次"), ("やまだの", "たろうじ")),
    (("Kobayakawa", "Hanakoto"), ("小早川", "花子都"), ("こばやかわ", "はなこと")),
    (("Takahashio", "Kenichirou"), ("高橋尾", "健一郎"), ("たかはしお", "けんいちろう")),
)

DOCTORS: tuple[str, ...] = (
    "Marchbanks", "Tollemache", "Prendergast", "Wolstenholme", "Featherstone", "Okwudili", "Szymborski", "Lachapelle",
    "Ranganathan", "Ostrowicki", "Haverstock", "Castelnuovo", "Brandvold", "Mukherjeen", "Delacroixe", "Nakagawara",
    "Papastergiou", "Steinbrenner", "Villanuevas", "Youngblood", "Zimmerwald", "Abdulrahmani", "Gallagherty",
    "Thorvaldsen",
)  # fmt: skip

STREETS: tuple[str, ...] = (
    "Lavender Crescent", "Foxglove Terrace", "Millrace Avenue", "Harbourmaster Row", "Quarryman Street",
    "Bellfounder Way", "Cooperage Yard", "Saltmarsh Drive", "Orchardgate Road", "Tanneries Passage",
)  # fmt: skip

TOWNS: tuple[str, ...] = (
    "Brennholm", "Ostermarch", "Kestrelby", "Dunmarrow", "Velminster", "Aldersquay", "Thornwick", "Marlhaven",
    "Eddersfjord", "Pellwarden", "Quillbridge", "Ravensmoor", "Stannerfeld", "Umberleigh", "Wexcombery", "Yarrowdene",
    "Zellenburgh", "Castlewarren", "Grimmerdale", "Hollinshead",
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """A made-up patient."""

    family: str
    given: str
    sex: str
    birth: date
    patient_id: str
    other_id: str
    insurance_id: str
    phone: str
    address: str
    maiden_name: str
    referrer: str
    ideographic: tuple[str, str] | None = None
    phonetic: tuple[str, str] | None = None

    @property
    def name_groups(self) -> str:
        """The value of PatientName: PS3.5 section 6.2, VR PN."""
        groups = [(self.family, self.given), self.ideographic, self.phonetic]
        return "=".join(f"{group[0]}^{group[1]}" for group in groups if group)

    def age_on(self, day: date) -> int:
        return day.year - self.birth.year - ((day.month, day.day) < (self.birth.month, self.birth.day))


@dataclass(frozen=True)
class Staff:
    """A hospital's letterhead and the people who sign: the same for all its patients."""

    town: str
    institution: str
    department: str
    address: str
    phone: str
    radiologists: tuple[str, ...]
    operators: tuple[str, ...]
    referrers: tuple[str, ...]
    ae_title: str
    issuer: str


def make_staff(kind: str, town: str, rng: np.random.Generator) -> Staff:
    """The letterhead of a hospital of some kind (`University Hospital`, `Clinic`, ...) in a made-up town."""
    names = [DOCTORS[int(index)] for index in rng.permutation(len(DOCTORS))]
    return Staff(
        town=town,
        institution=f"{town} {kind}",
        department=f"{town} Diagnostic Imaging",
        address=f"{int(rng.integers(1, 90))} {town} Infirmary Road",
        phone=_phone(rng),
        radiologists=tuple(names[:3]),
        operators=tuple(names[3:6]),
        referrers=tuple(names[6:14]),
        ae_title=f"{town.upper()[:11]}_PACS",
        issuer=f"{town.upper()}-MPI",
    )


def make_person(
    index: int, staff: Staff, rng: np.random.Generator, *, character_set: str, oldest: int = 97, youngest: int = 18
) -> Person:
    """The hospital's patient number `index`; two numbers never share a patient_id."""
    sex = "FM"[int(rng.integers(2))]
    families = FAMILY_NAMES[""]
    if character_set and rng.random() < 0.3:
        families = FAMILY_NAMES[character_set]
    family, given = pick(families, rng), pick(GIVEN_NAMES[sex], rng)
    ideographic = phonetic = None
    if character_set == "ISO_IR 192" and rng.random() < 0.04:
        (family, given), ideographic, phonetic = JAPANESE_NAMES[int(rng.integers(len(JAPANESE_NAMES)))]
    number = 4_000_000 + index * 7919 + int(rng.integers(7919))
    days = int(rng.integers(int(youngest * 365.25) + 1, int(oldest * 365.25)))
    return Person(
        family=family,
        given=given,
        sex=sex,
        birth=date(2025, 1, 1) - timedelta(days=days),
        patient_id=f"{staff.town[:3].upper()}-{number}",
        other_id=f"NHI{int(rng.integers(10**8, 10**9))}",
        insurance_id=f"INS-{int(rng.integers(10**8, 10**9))}",
        phone=_phone(rng),
        address=f"{int(rng.integers(1, 190))} {pick(STREETS, rng)}",
        maiden_name=pick(FAMILY_NAMES[""], rng) + "sen",
        referrer=pick(staff.referrers, rng),
        ideographic=ideographic,
        phonetic=phonetic,
    )


def pick(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _phone(rng: np.random.Generator) -> str:
    return f"555-{int(rng.integers(10**3, 10**4))}-{int(rng.integers(10**3, 10**4))}"
