"""The training record: what is left of a study once it is clean. What is not copied here cannot leak.

These values hold no pydicom object and no path: a picture is 8-bit PNG bytes, a report is scrubbed text, and a
person is a keyed pseudonym. Only `deid.clean` makes a `CleanStudy`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, repr=False)
class Turn:
    """One scrubbed question and its scrubbed answer."""

    question: str
    answer: str

    def __repr__(self) -> str:
        return "<Turn: hidden>"


@dataclass(frozen=True)
class PictureFields:
    """The fields kept beside a picture. Words come from the closed lists of profile.toml, the rest are numbers."""

    modality: str = ""
    body_part: str = ""
    view: str = ""
    laterality: str = ""
    manufacturer: str = ""
    window: str = ""
    frame: int | None = None
    source_rows: int = 0
    source_columns: int = 0
    pixel_spacing_mm: float | None = None
    slice_thickness_mm: float | None = None
    kvp: float | None = None
    blanked_share: float = 0.0
    """How much of the picture was blanked: text, and what lies outside of ultrasound regions."""


@dataclass(frozen=True, repr=False)
class CleanPicture:
    """One 8-bit grey picture as PNG bytes without metadata chunks."""

    picture_key: str
    png: bytes
    rows: int
    columns: int
    fields: PictureFields

    def __repr__(self) -> str:
        return "<CleanPicture: hidden>"


@dataclass(frozen=True, repr=False)
class CleanExample:
    """One conversation about all pictures of the study."""

    example_key: str
    turns: tuple[Turn, ...]

    def __repr__(self) -> str:
        return "<CleanExample: hidden>"


@dataclass(frozen=True, repr=False)
class CleanStudy:
    """Pictures of exactly one patient and every conversation about them, de-identified.

    Guarantees: made by `deid.clean` only, after the residual scan found none of this patient's identifiers.
    """

    patient_key: str
    study_key: str
    pictures: tuple[CleanPicture, ...]
    examples: tuple[CleanExample, ...]
    sex: str = ""
    age_years: int | None = None
    profile_digest: str = field(default="")

    def __repr__(self) -> str:
        return "<CleanStudy: hidden>"
