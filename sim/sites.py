"""The pretended hospitals: who they are, how they differ, and how the patients of one pool are shared out.

Hospitals differ as real ones do: in what their patients have, in scanners and how these write a file, in how a report
is written, and in how many patients there are. The closed questions are the same words everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from federation.errors import SettingsError
from sim.anatomy import CLINICAL, Style
from sim.identifiers import TOWNS

QUESTIONS: dict[str, str] = {
    "consolidation": "Is there consolidation?",
    "effusion": "Is there an effusion?",
    "cardiomegaly": "Is there cardiomegaly?",
    "pneumothorax": "Is there a pneumothorax?",
}
OPEN_QUESTION = "Describe the findings."


@dataclass(frozen=True)
class Prevalence:
    """The share of patients that have each finding."""

    consolidation: float
    effusion: float
    cardiomegaly: float
    pneumothorax: float

    def of(self, finding: str) -> float:
        return float(getattr(self, finding))


@dataclass(frozen=True)
class Scanner:
    """A device and the way its vendor writes a file."""

    vendor: str
    model: str
    modality: str = "DX"
    """CR or DX."""
    bits_stored: int = 12
    """8 is stored in 8 bits, 10 to 16 in 16."""
    photometric: str = "MONOCHROME2"
    syntax: str = "explicit"
    """implicit, explicit, deflated, rle, jpeg-ls, jpeg-2000, or jpeg (baseline: lossy, 8 bits only)."""
    window: str = "single"
    """single, several, lut (VOI LUT sequence), sigmoid, or none."""
    rescale: tuple[float, float] | None = None
    """RescaleSlope and RescaleIntercept where the device writes them."""
    padding: bool = False
    """A border of PixelPaddingValue around the picture."""
    sides_px: tuple[int, int] = (256, 320)
    """Rows and columns lie between these."""
    spacing_mm: float = 1.2
    style: Style = Style()
    quirks: tuple[str, ...] = ()
    """Other places where this vendor lets identifiers hide: overlay, high-bits, preamble, utf16, nested, comments."""


@dataclass(frozen=True)
class Hospital:
    """One pretended hospital. `town` is part of its made-up name; it is planted, never a site_id."""

    site_id: str
    kind: str
    town: str
    patients: int
    prevalence: Prevalence
    scanners: tuple[Scanner, ...]
    report_style: str
    """structured, sentences or telegram."""
    sizes: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """Shares of small, moderate and large findings."""
    ap_share: float = 0.1
    lateral_share: float = 0.1
    """Share of the PA studies that have a lateral view too."""
    ct_share: float = 0.0
    """Share of studies with one CT slice beside the radiograph."""
    second_study_share: float = 0.1
    csv_share: float = 0.0
    """Share of studies whose report lies in a CSV file, not among the conversations."""
    burned_in_share: float = 0.0
    """Share of radiographs with the patient's name drawn into the pixels (and BurnedInAnnotation YES)."""
    character_set: str = ""
    """Defined term of SpecificCharacterSet; "" for the default repertoire."""
    issuer: bool = False
    """Whether files carry IssuerOfPatientID."""
    layout: str = "numbered"
    """numbered (DICOM/PA000001/…, no extension), uid, export (dated folders with names), or flat."""


# Devices of four vendors that do not exist. Every encoding that pydicom can write losslessly occurs at least once.
SCANNERS: dict[str, Scanner] = {
    "aurum": Scanner(
        "AURUM IMAGING", "Aurum DX-7", bits_stored=12, syntax="jpeg-ls", window="several", spacing_mm=1.12,
        style=Style(gamma=1.0, contrast=1.05, noise=0.015), quirks=("nested", "utf16"),
    ),
    "aurum-old": Scanner(
        "AURUM IMAGING", "Aurum CR-2", modality="CR", bits_stored=10, photometric="MONOCHROME1", syntax="implicit",
        spacing_mm=1.37, style=Style(gamma=1.15, contrast=0.95, noise=0.025), quirks=("preamble",),
    ),
    "helixa": Scanner(
        "Helixa Medical Systems", "Clarity 400", bits_stored=16, photometric="MONOCHROME1", syntax="explicit",
        window="lut", spacing_mm=1.25, style=Style(gamma=0.9, contrast=0.9, brightness=0.04, noise=0.02),
        quirks=("comments", "nested"),
    ),
    "helixa-dose": Scanner(
        "Helixa Medical Systems", "Clarity 250", bits_stored=14, syntax="jpeg-2000", window="sigmoid",
        spacing_mm=1.25, sides_px=(256, 288), style=Style(gamma=1.05, contrast=0.88, noise=0.02),
    ),
    "portex": Scanner(
        "Portex", "Bedside One", modality="CR", bits_stored=12, syntax="rle", rescale=(0.5, -64.0), spacing_mm=1.48,
        style=Style(gamma=1.25, contrast=0.85, brightness=0.05, noise=0.04, tilt_degrees=4.0, collimation=0.05),
        quirks=("comments",),
    ),
    "portex-mini": Scanner(
        "Portex", "Bedside Mini", modality="CR", bits_stored=8, syntax="jpeg", window="none", spacing_mm=1.5,
        sides_px=(256, 288), style=Style(gamma=1.2, contrast=0.8, noise=0.045, tilt_degrees=4.0),
    ),
    "zenith": Scanner(
        "ZENITH RADIOGRAPHY", "Model C", modality="CR", bits_stored=12, syntax="explicit", padding=True,
        spacing_mm=1.4, style=Style(gamma=0.8, contrast=1.2, brightness=-0.03, noise=0.03),
        quirks=("overlay", "high-bits"),
    ),
    "zenith-8": Scanner(
        "ZENITH RADIOGRAPHY", "Model D", modality="CR", bits_stored=8, photometric="MONOCHROME1", syntax="deflated",
        spacing_mm=1.4, sides_px=(256, 288), style=Style(gamma=0.85, contrast=1.1, noise=0.03),
    ),
}  # fmt: skip


def _devices(*names: str) -> tuple[Scanner, ...]:
    return tuple(SCANNERS[name] for name in names)


FOUR: tuple[Hospital, ...] = (
    Hospital(
        "university", "University Hospital", "Brennholm", 740, Prevalence(0.32, 0.37, 0.22, 0.21),
        _devices("aurum", "aurum", "helixa"), "structured", sizes=(0.4, 0.35, 0.25), ap_share=0.1, lateral_share=0.14,
        ct_share=0.04, second_study_share=0.14, character_set="ISO_IR 192", issuer=True, layout="uid",
    ),
    Hospital(
        "regional", "Regional Hospital", "Ostermarch", 480, Prevalence(0.36, 0.25, 0.46, 0.05),
        _devices("helixa-dose", "aurum-old"), "sentences", ap_share=0.12, lateral_share=0.12, ct_share=0.03,
        second_study_share=0.1, csv_share=0.12, character_set="ISO_IR 100", layout="numbered",
    ),
    Hospital(
        "emergency", "Emergency Department", "Kestrelby", 330, Prevalence(0.25, 0.12, 0.11, 0.40),
        _devices("portex", "portex", "portex-mini"), "telegram", sizes=(0.2, 0.4, 0.4), ap_share=1.0, lateral_share=0.0,
        second_study_share=0.08, burned_in_share=0.02, layout="export",
    ),
    Hospital(
        "rural", "Clinic", "Dunmarrow", 150, Prevalence(0.37, 0.17, 0.39, 0.01),
        _devices("zenith", "zenith-8"), "sentences", sizes=(0.15, 0.4, 0.45), ap_share=0.0, lateral_share=0.06,
        second_study_share=0.04, character_set="ISO_IR 101", layout="flat",
    ),
)  # fmt: skip


def four_hospitals(patients: int | None = None) -> tuple[Hospital, ...]:
    """University and regional hospital, emergency department, rural clinic: 1700 patients, or as many as asked.

    Every hospital has at least one patient, and some finding that it hardly ever sees and another sees often.
    """
    if patients is None:
        return FOUR
    counts = _share(patients, [hospital.patients for hospital in FOUR])
    return tuple(replace(hospital, patients=count) for hospital, count in zip(FOUR, counts, strict=True))


def hospitals(count: int, patients: int | None = None, seed: int = 0) -> tuple[Hospital, ...]:
    """Any number of hospitals: uneven sizes, Dirichlet prevalence, each with its own devices, layout and report style.

    Without `patients` there are 120 patients per hospital on average. The same seed gives the same hospitals.
    """
    if count < 1:
        raise SettingsError("settings-value", "a federation needs at least one site", hint="ask for one site or more")
    rng = np.random.default_rng([seed, 0x5173])
    uneven = rng.dirichlet(np.full(count, 3.0)) + 0.3 / count
    sizes = _share(120 * count if patients is None else patients, uneven.tolist())
    return tuple(_some_hospital(number, sizes[number - 1], rng) for number in range(1, count + 1))


def _some_hospital(number: int, patients: int, rng: np.random.Generator) -> Hospital:
    shares = np.clip(rng.dirichlet(np.full(len(CLINICAL), 2.0)) * 1.1, 0.02, 0.6)
    names = sorted(SCANNERS)
    chosen = [names[int(index)] for index in rng.choice(len(names), size=2, replace=False)]
    kind, ap_share, lateral_share = (
        ("General Hospital", 0.15, 0.12),
        ("University Hospital", 0.1, 0.15),
        ("Emergency Department", 1.0, 0.0),
        ("Clinic", 0.0, 0.05),
    )[int(rng.integers(4))]
    serial = "" if number <= len(TOWNS) else chr(ord("a") + (number // len(TOWNS)) % 26)
    return Hospital(
        site_id=f"hospital-{number:02d}",
        kind=kind,
        town=TOWNS[(number - 1) % len(TOWNS)] + serial,
        patients=patients,
        prevalence=Prevalence(*(round(float(share), 3) for share in shares)),
        scanners=_devices(*chosen),
        report_style=("structured", "sentences", "telegram")[int(rng.integers(3))],
        ap_share=ap_share,
        lateral_share=lateral_share,
        ct_share=(0.0, 0.04)[int(rng.integers(2))],
        csv_share=(0.0, 0.1)[int(rng.integers(2))],
        character_set=("", "ISO_IR 100", "ISO_IR 101", "ISO_IR 192")[int(rng.integers(4))],
        issuer=bool(rng.integers(2)),
        layout=("numbered", "uid", "export", "flat")[int(rng.integers(4))],
    )


def _share(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights (largest remainder), none below one, that add up to `total`."""
    if total < len(weights):
        raise SettingsError(
            "settings-value", "fewer patients than sites", hint=f"ask for at least {len(weights)} patients"
        )
    exact = np.asarray(weights, dtype=np.float64) / float(np.sum(weights)) * total
    counts = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - counts), kind="stable")[: total - int(counts.sum())]:
        counts[index] += 1
    while counts.min() < 1:
        counts[counts.argmin()] += 1
        counts[counts.argmax()] -= 1
    return [int(count) for count in counts]


def dirichlet_partition(
    labels: Sequence[int] | NDArray[np.integer], sites: int, alpha: float, rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Share patients (one label each) over sites, label by label, in Dirichlet(alpha) parts: Hsu et al. 2019, 3.

    Guarantees: every patient is at exactly one site; small alpha gives sites that hardly share a label. A site may get
    nobody. Indices are sorted.
    """
    if sites < 1 or not alpha > 0:
        raise SettingsError(
            "settings-value", "a partition needs one site or more and a positive alpha", hint="try alpha = 0.5"
        )
    values = np.asarray(labels)
    parts: list[list[NDArray[np.intp]]] = [[] for _ in range(sites)]
    for label in np.unique(values):
        members = rng.permutation(np.flatnonzero(values == label))
        cuts = (np.cumsum(rng.dirichlet(np.full(sites, alpha)))[:-1] * len(members)).round().astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate([np.empty(0, np.intp), *part])) for part in parts]


def by_site_partition(site_of: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """The patients of each site where the data say so: indices by site, sites in alphabetical order."""
    names = np.asarray(site_of, dtype=object)
    return {site: np.flatnonzero(names == site) for site in sorted(set(site_of))}
