"""The de-identification rules as data: reads profile.toml, and makes it again from the table of the standard.

`python -m client.imaging.profile TABLE.json > client/imaging/profile.toml` takes Table E.1-1 of DICOM PS3.15 as a JSON
file, keeps the part of profile.toml that people wrote (everything above `[actions]`) and rewrites the actions.
The reader is strict: an unknown key, action or keyword is an error, so a typing mistake cannot loosen a rule.
"""

import hashlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydicom.datadict import tag_for_keyword

from client.imaging.mandatory import DATED, EMPTIED
from federation import strict_toml
from federation.errors import SettingsError

FORMAT = "wardround-profile/1"
ACTIONS = frozenset({"X", "Z", "D", "U", "K", "X/D", "X/Z", "X/Z/D", "Z/D", "X/Z/U*"})
_SHIPPED = Path(__file__).with_name("profile.toml")
_GENERATED_MARK = "\n[actions]\n"
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What one file may cost before it is held back."""

    file_bytes: int
    inflated_bytes: int
    inflated_ratio: int
    elements: int
    nesting: int
    frames: int
    frame_pixels: int
    picture_side_min: int
    """Pixels; image processors refuse what is smaller than their patch."""
    picture_ratio_max: int
    """Longest side over shortest; some image processors refuse more than 200."""


@dataclass(frozen=True)
class Rendering:
    """How stored values become 8-bit pictures."""

    longest_side: int
    frames_per_object: int
    """Of a multi-frame object: the first, the last, and evenly spaced ones between."""
    pictures_per_study: int
    """Of a study joined by its UID or accession number: evenly spaced through the volume."""
    ct_windows: tuple[str, ...]
    """One picture per window named here."""
    windows_hu: Mapping[str, tuple[float, float]]
    """Name -> centre and width in Hounsfield units."""


@dataclass(frozen=True)
class TextRules:
    """How report text is scrubbed besides the rules that cannot be changed."""

    tagger: str
    """Folder of a site's own model that marks names (`tagger.py`), or empty."""
    tagger_sha256: str


@dataclass(frozen=True)
class Loosening:
    """One attribute more that stays, and the person at the site who answers for it. Nothing here is about a patient."""

    __pydantic_config__ = strict_toml.STRICT
    keep: str
    by: str
    on: str
    because: str


@dataclass(frozen=True)
class SiteChanges:
    """What a site's own rules change of the shipped ones, for people; the other fields of the profile do it."""

    tightened: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    exceptions: tuple[Loosening, ...] = ()


@dataclass(frozen=True, repr=False)
class DeidProfile:
    """Everything the engine needs to decide. Equal profiles have equal digests, and nothing else changes them."""

    edition: str
    table_sha256: str
    default_issuer: str
    """Counts as the issuer of every patient id that names none."""
    codes: Mapping[str, str]
    """What is claimed: CID 7050 codes and their meanings."""
    image_classes: frozenset[str]
    object_classes: frozenset[str]
    """Without pictures to train on: only an export takes them."""
    limits: Limits
    rendering: Rendering
    text: TextRules
    allow: frozenset[str]
    """Keywords of attributes outside the table that may stay, if their value passes the check of its VR."""
    dummies: frozenset[str]
    """Keywords of free words outside the table that a valid object has to have."""
    terms: Mapping[str, frozenset[str]]
    """Keyword -> the only words that may stay in it."""
    keep: frozenset[str]
    """Rows of the table that a claimed option keeps (113108: sex and age)."""
    shifted: frozenset[str]
    """Rows whose dates move with the patient (113107), as eight hex digits."""
    actions: Mapping[str, str]
    """Tag as eight hex digits -> action of the Basic Profile."""
    digest: str
    refused_modalities: frozenset[str] = frozenset()
    """Of which this site takes no object, nor one that states no modality."""
    refused_classes: frozenset[str] = frozenset()
    """Of which this site takes no object, though the engine could clean it."""
    site: SiteChanges = field(default_factory=SiteChanges)

    def __repr__(self) -> str:
        return f"<DeidProfile {self.digest[:16]}>"

    @cached_property
    def asked_tags(self) -> frozenset[int]:
        """Tags of which something may stay, or which say whose the object is: everything else is dropped unread."""
        whose = ("PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SOPInstanceUID", "SpecificCharacterSet",
                 "PatientName", "PatientBirthDate", "PatientSex")  # fmt: skip
        named = (
            tag_for_keyword(keyword) for keyword in (*self.allow, *self.dummies, *self.keep, *whose, *EMPTIED, *DATED)
        )
        acted = (int(tag, 16) for tag, action in self.actions.items() if action != "X")
        return frozenset(tag for tag in (*named, *acted) if tag is not None and tag >> 16 > 0x0002)

    def for_exports(self) -> "DeidProfile":
        """The same rules, with the objects that only an export takes among the accepted classes."""
        return replace(self, image_classes=self.image_classes | self.object_classes)

    @classmethod
    def shipped(cls, **rendering: Any) -> "DeidProfile":
        """The profile in this folder. Keyword arguments replace fields of `Rendering`, such as `longest_side`."""
        return load(_SHIPPED.read_text(encoding="utf-8"), rendering=rendering)


def load(text: str, *, rendering: Mapping[str, Any] | None = None) -> DeidProfile:
    """Read a profile. Raises SettingsError naming the key, never a value."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise _wrong("the file", "is not TOML") from None
    known = {"format", "edition", "table_sha256", "default_issuer", "codes", "classes", "limits", "rendering"}
    known |= {"text", "windows_hu", "allow", "dummies", "keep", "terms", "shifted", "actions"}
    for key in document:
        if key not in known:
            raise SettingsError("settings-unknown-key", f"the profile has no key {key}", hint="see profile.toml")
    for key in sorted(known - document.keys()):
        raise _wrong(key, "is missing")
    if document["format"] != FORMAT:
        raise _wrong("format", f"is not {FORMAT}")
    if document["classes"].keys() != {"images", "objects"}:
        raise _wrong("classes", "has other keys than images and objects")
    unknown = set(document["actions"].values()) - ACTIONS
    if unknown:
        raise _wrong("actions", "has an action the engine does not know")
    windows = {name: (float(pair[0]), float(pair[1])) for name, pair in document["windows_hu"].items()}
    drawn = dict(document["rendering"]) | dict(rendering or {})
    drawn["ct_windows"] = tuple(drawn.get("ct_windows", ()))
    if not set(drawn["ct_windows"]) <= windows.keys():
        raise _wrong("ct_windows", "names a window that [windows_hu] does not have")
    canonical = json.dumps(document | {"rendering": drawn}, sort_keys=True, separators=(",", ":"))
    return DeidProfile(
        edition=document["edition"],
        table_sha256=document["table_sha256"],
        default_issuer=document["default_issuer"],
        codes=dict(document["codes"]),
        image_classes=frozenset(document["classes"]["images"]),
        object_classes=frozenset(document["classes"]["objects"]),
        limits=_record(Limits, document["limits"]),
        rendering=_record(Rendering, drawn | {"windows_hu": windows}),
        text=_record(TextRules, document["text"]),
        allow=frozenset(document["allow"]),
        dummies=frozenset(document["dummies"]),
        terms={keyword: frozenset(words) for keyword, words in document["terms"].items()},
        keep=frozenset(document["keep"]),
        shifted=frozenset(document["shifted"]),
        actions=dict(document["actions"]),
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def generate(table: Mapping[str, Any], table_sha256: str, written: str) -> str:
    """The text of profile.toml: the part `written` by people with a new edition line, and the actions of `table`.

    Patterns of the table (private, 50xx, 60xx) are not listed: the engine refuses those groups whole.
    """
    rows = {row["id"].lower(): row for row in table["rows"] if re.fullmatch(r"[0-9A-Fa-f]{8}", row["id"])}
    head = written.partition(_GENERATED_MARK)[0]
    head = re.sub(r"(?m)^edition = .*$", f"edition = {json.dumps(table['edition'])}", head)
    head = re.sub(r"(?m)^table_sha256 = .*$", f'table_sha256 = "{table_sha256}"', head)
    shifted = ", ".join(f'"{tag}"' for tag, row in sorted(rows.items()) if row.get("rtnLongModifDatesOpt") == "C")
    head = re.sub(r"(?m)^shifted = .*$", f"shifted = [{shifted}]", head)
    lines = [_action_line(tag, row) for tag, row in sorted(rows.items())]
    return head + _GENERATED_MARK + "\n".join(lines) + "\n"


def _action_line(tag: str, row: Mapping[str, Any]) -> str:
    return f'"{tag}" = "{row["basicProfile"]}"' + (f"  # {row['keyword']}" if row["keyword"] else "")


def _record(kind: type[T], values: Mapping[str, Any]) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    for key in sorted(names ^ values.keys()):
        raise _wrong(key, "is missing" if key in names else "is not a key of the profile")
    return kind(**values)


def _wrong(key: str, what: str) -> SettingsError:
    return SettingsError("settings-value", f"profile: {key} {what}", hint="compare with the shipped profile.toml")


def main(arguments: list[str]) -> int:
    table = Path(arguments[0]).read_bytes()
    written = _SHIPPED.read_text(encoding="utf-8")
    sys.stdout.write(generate(json.loads(table), hashlib.sha256(table).hexdigest(), written))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
