"""A site's own rules of de-identification, `wardround-rules/1`: what a hospital changes of the shipped profile.

A site may tighten as it likes, within what leaves a valid object. To loosen is an exception with a name, a day and a
reason, and only numbers and listed words can be vouched for: a text, a date, a UID or a name cannot stay by any rule
that this file can hold, since the engine checks the value as it checks every other one. See docs/spec/rules-1.md.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_is_retired, dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword

from client.imaging.mandatory import MANDATORY
from client.imaging.profile import DeidProfile, Limits, Loosening, SiteChanges
from federation import canonical, strict_toml
from federation.canonical import Value
from federation.errors import SettingsError, printable

FORMAT = "wardround-rules/1"
_DATES, _CHARACTERISTICS = "113107", "113108"  # options of CID 7050
_PERSON_MOST, _REASON_LEAST, _REASON_MOST = 100, 10, 500
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS"})
_FIRST_OBJECT_GROUP = 0x0008  # below it are commands, file meta and directories
_STAYING = frozenset({"K", "U", "X/Z/U*"})  # actions of the table that leave something of the element
_HIGHER_IS_STRICTER = frozenset({"picture_side_min"})
_TAGGER_FILES = ("model.onnx", "tokenizer.json", "config.json")
VOUCHED: Mapping[str, frozenset[str]] = {
    "PatientSexNeutered": frozenset({"ALTERED", "UNALTERED"}),
    "PatientSize": frozenset(),
    "PatientWeight": frozenset(),
    "PregnancyStatus": frozenset(),
    "SmokingStatus": frozenset({"YES", "NO", "UNKNOWN"}),
}
"""Rows of PS3.15 Table E.1-1 that option 113108 keeps: with a number in them, or one of these words (PS3.3)."""
_MODALITIES = frozenset(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DG DMS DOC DR DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG "
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SC SEG SM SMR SR SRF STAIN TEXTUREMAP TG US "
    "VA XA XAPROTOCOL XC".split()
)
"""Defined terms of PS3.3 section C.7.3.1.1.1, and the vendors' SC, DR and RG."""
Limit = Annotated[int, Field(ge=1, le=2**53 - 1)]


@dataclass(frozen=True)
class Tighten:
    """[tighten]: what does not stay, or is not taken, here."""

    __pydantic_config__ = strict_toml.STRICT
    drop: tuple[str, ...] = ()
    refuse_modalities: tuple[str, ...] = ()
    refuse_classes: tuple[str, ...] = ()
    dates: Literal["shifted", "removed"] = "shifted"


@dataclass(frozen=True)
class LimitsFile:
    """[limits]: as in profile.toml, and never looser."""

    __pydantic_config__ = strict_toml.STRICT
    file_bytes: Limit | None = None
    inflated_bytes: Limit | None = None
    inflated_ratio: Limit | None = None
    elements: Limit | None = None
    nesting: Limit | None = None
    frames: Limit | None = None
    frame_pixels: Limit | None = None
    picture_side_min: Limit | None = None
    picture_ratio_max: Limit | None = None


@dataclass(frozen=True)
class RenderingFile:
    """[rendering]: how pictures to train on are made."""

    __pydantic_config__ = strict_toml.STRICT
    longest_side: Annotated[int, Field(ge=64, le=4096)] | None = None
    frames_per_object: Annotated[int, Field(ge=1, le=64)] | None = None
    pictures_per_study: Annotated[int, Field(ge=1, le=256)] | None = None
    ct_windows: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)] | None = None


@dataclass(frozen=True)
class TextFile:
    """[text]: a site's own model that marks names in reports. It masks besides all else."""

    __pydantic_config__ = strict_toml.STRICT
    tagger: Annotated[str, Field(pattern=r"^[^\x00]{1,400}$")]
    tagger_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class SiteRules:
    """The whole file."""

    __pydantic_config__ = strict_toml.STRICT
    format: Literal["wardround-rules/1"]
    default_issuer: Annotated[str, Field(pattern=r"^[^\\\x00-\x1f\x7f]{0,64}$")] = ""  # PS3.5 section 6.2, VR LO
    tighten: Tighten = field(default_factory=Tighten)
    limits: LimitsFile = field(default_factory=LimitsFile)
    rendering: RenderingFile = field(default_factory=RenderingFile)
    text: TextFile | None = None
    loosen: tuple[Loosening, ...] = ()


def load_rules(path: Path) -> SiteRules:
    """The rules in this file. Raises: SettingsError, with the key's name and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise SettingsError(
            "settings-absent", "the file that data.rules names cannot be read",
            hint="put it into the site's folder; without data.rules in site.toml the shipped rules are in force",
        ) from None  # fmt: skip
    except UnicodeDecodeError:
        raise _wrong("the file is not UTF-8 text", "save it as UTF-8") from None
    return parse_rules(text)


def parse_rules(text: str) -> SiteRules:
    return strict_toml.parse(SiteRules, text, _refuse)


def under(rules: SiteRules, shipped: DeidProfile, folder: Path) -> DeidProfile:
    """The shipped profile as this site's rules change it; names of files count from the site's folder.

    Guarantees: of a text, a date, a UID or a name nothing stays that does not stay under `shipped`. The digest is that
    of `shipped` while nothing that is done to an object or a text differs, and equal rules have equal digests. It does
    not cover who vouches for an exception and why, nor where the tagger lies: these change no output.

    | the rules | the profile |
    |---|---|
    | drop what is dropped anyway, or a name | the same |
    | drop an attribute of type 2 | it is there, empty |
    | drop sex and age, loosen nothing of the table | 113108 is not claimed |
    | drop age | the training record works none out from dates either |

    Raises: SettingsError.
    """
    profile = replace(shipped, default_issuer=rules.default_issuer.strip() or shipped.default_issuer)
    if profile.default_issuer != shipped.default_issuer:
        profile = _noted(profile, adjusted=["default issuer"])
    steps: tuple[Callable[[DeidProfile, SiteRules], DeidProfile], ...] = (
        _dropped, _refusing, _dated, _limited, _rendered, _loosened, _claimed,
    )  # fmt: skip
    for step in steps:
        profile = step(profile, rules)
    if rules.text is not None:
        profile = _tagged(profile, rules.text, folder)
    before, after = _effect(shipped), _effect(profile)
    return profile if before == after else replace(profile, digest=canonical.digest({"format": FORMAT, **after}))


def _dropped(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    for keyword in sorted(set(rules.tighten.drop)):
        tag = _tag("tighten.drop", keyword, (*profile.allow, *profile.keep))
        if keyword in MANDATORY:
            raise _wrong(
                f"tighten.drop: {keyword} may not be dropped, an object needs it",
                "to keep such objects out altogether, name their class in tighten.refuse_classes",
            )
        action = profile.actions.get(tag)
        if action == "U":
            raise _wrong(
                f"tighten.drop: {keyword} is a UID, and none of the original stays",
                "remove it from the list: references between files need the pseudonym in its place",
            )
        if keyword in profile.allow | profile.keep or action in _STAYING or tag in profile.shifted:
            # Z leaves an attribute of type 2 empty and drops any other
            actions = {**profile.actions, tag: "Z"} if action is None or action in _STAYING else profile.actions
            profile = replace(
                profile, allow=profile.allow - {keyword}, keep=profile.keep - {keyword}, actions=actions,
                shifted=profile.shifted - {tag},
            )  # fmt: skip
            profile = _noted(profile, tightened=[f"drop {keyword}"])
    return profile


def _refusing(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    modalities, classes = frozenset(rules.tighten.refuse_modalities), frozenset(rules.tighten.refuse_classes)
    known = {*_MODALITIES, *profile.terms["Modality"]}
    for word in sorted(modalities - known):
        raise _wrong(
            f"tighten.refuse_modalities: {_shown(word)} is no modality of the standard",
            f"the nearest is {_nearest(word.upper(), known)}; they are written in capitals",
        )
    taken = profile.image_classes | profile.object_classes
    for uid in sorted(classes - taken):
        if "Storage" not in UID_dictionary.get(uid, ("",))[0]:
            raise _wrong(
                f"tighten.refuse_classes: {_shown(uid)} is no SOP class that holds objects",
                "copy the UID from PS3.6 table A-1, or from [classes] of the shipped profile.toml",
            )
    return _noted(
        replace(
            profile, refused_modalities=modalities, refused_classes=classes & taken,
            image_classes=profile.image_classes - classes, object_classes=profile.object_classes - classes,
        ),
        tightened=[
            *(f"refuse modality {word}" for word in sorted(modalities)),
            *(f"refuse class {uid}" for uid in sorted(classes & taken)),
        ],
    )  # fmt: skip


def _dated(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    if rules.tighten.dates == "shifted":
        return profile
    codes = {code: meaning for code, meaning in profile.codes.items() if code != _DATES}
    return _noted(replace(profile, codes=codes, shifted=frozenset()), tightened=["dates removed"])


def _limited(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    shipped, wanted = asdict(profile.limits), {}
    for name, value in asdict(rules.limits).items():
        if value is None or value == shipped[name]:
            continue
        if (value > shipped[name]) != (name in _HIGHER_IS_STRICTER):
            lower, side = ("raised", "above") if name in _HIGHER_IS_STRICTER else ("lowered", "below")
            raise _wrong(
                f"limits.{name} = {value} is looser than the shipped {shipped[name]}",
                f"a site's limit can only be {lower}: give a number {side} it, or remove the line",
            )
        wanted[name] = value
    limits: Limits = replace(profile.limits, **wanted)
    return _noted(
        replace(profile, limits=limits), tightened=[f"limit {name} {value}" for name, value in sorted(wanted.items())]
    )


def _rendered(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    asked, shipped = rules.rendering, profile.rendering
    wanted = {each.name: getattr(asked, each.name) for each in fields(asked)}
    wanted = {name: value for name, value in wanted.items() if value not in (None, getattr(shipped, name))}
    windows = wanted.get("ct_windows", ())
    for name in windows:
        if name not in shipped.windows_hu:
            raise _wrong(
                f"rendering.ct_windows: there is no window {_shown(name)}",
                f"the windows are {', '.join(sorted(shipped.windows_hu))}",
            )
    if len(set(windows)) < len(windows):
        raise _wrong("rendering.ct_windows names a window twice", "name each window once")
    return _noted(
        replace(profile, rendering=replace(shipped, **wanted)),
        adjusted=[f"rendering {name}" for name in sorted(wanted)],
    )


def _loosened(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    seen: set[str] = set()
    for each in rules.loosen:
        _require_answered(each)
        if each.keep in seen:
            raise _wrong(f"loosen: {each.keep} has two tables", "one person answers for one attribute: remove one")
        seen.add(each.keep)
        tag = _tag("loosen", each.keep, {*VOUCHED, *profile.allow})
        if each.keep in rules.tighten.drop:
            raise _wrong(f"loosen: {each.keep} stands in tighten.drop as well", "remove it from one of them")
        if each.keep in profile.allow | profile.keep:
            raise _wrong(f"loosen: {each.keep} stays already", "remove the table: it needs no exception")
        if each.keep in VOUCHED:
            words = {each.keep: VOUCHED[each.keep]} if VOUCHED[each.keep] else {}
            profile = replace(profile, actions={**profile.actions, tag: "K"}, terms={**profile.terms, **words})
        else:
            _require_number(each.keep, tag, profile)
            profile = replace(profile, allow=profile.allow | {each.keep})
    return _noted(profile, exceptions=sorted(rules.loosen, key=lambda each: each.keep))


def _require_number(keyword: str, tag: str, profile: DeidProfile) -> None:
    """A number of the standard that the table does not name: what can be checked by its form."""
    hint = f"what may be loosened: {', '.join(sorted(VOUCHED))}, and numbers that Table E.1-1 does not name"
    if tag in profile.actions:
        raise _wrong(f"loosen: {keyword} is in Table E.1-1 of PS3.15, and nobody can vouch for it", hint)
    vr = dictionary_VR(int(tag, 16))
    if vr not in _NUMBERS:
        raise _wrong(f"loosen: {keyword} holds no plain number (VR {vr}): its values cannot be checked", hint)
    if int(tag, 16) >> 16 < _FIRST_OBJECT_GROUP or dictionary_is_retired(int(tag, 16)):
        raise _wrong(f"loosen: {keyword} is retired, or no attribute of an object", hint)


def _require_answered(loosening: Loosening) -> None:
    """An exception names a person, a real day, and a reason that says something."""
    for name, text, least, most in (
        ("by", loosening.by, 2, _PERSON_MOST), ("because", loosening.because, _REASON_LEAST, _REASON_MOST),
    ):  # fmt: skip
        says = least <= len(text.strip()) and len(text) <= most and re.search(r"[^\W\d_]", text) is not None
        if not says or not text.isprintable():
            raise _wrong(
                f"loosen.{name}: this is no {'name' if name == 'by' else 'reason'}",
                f"write {least} to {most} plain letters on one line: it is kept with every batch",
            )
    try:
        day = date.fromisoformat(loosening.on).isoformat()
    except ValueError:
        day = ""
    if day != loosening.on:
        raise _wrong("loosen.on: this is no day", 'write the day as "2026-11-23", in quotes')


def _claimed(profile: DeidProfile, rules: SiteRules) -> DeidProfile:
    """Option 113108 is claimed while something of the table stays by it (PS3.15 E.3.8)."""
    if profile.keep or any(each.keep in VOUCHED for each in rules.loosen):
        return profile
    return replace(profile, codes={code: text for code, text in profile.codes.items() if code != _CHARACTERISTICS})


def _tagged(profile: DeidProfile, text: TextFile, folder: Path) -> DeidProfile:
    """Looked at here: a worker that cannot open it would hold every study back without saying why."""
    place = (folder / text.tagger).absolute()
    missing = [name for name in _TAGGER_FILES if not (place / name).is_file()]
    if missing:
        raise _wrong(f"text.tagger: {missing[0]} is not in this folder", f"it holds {', '.join(_TAGGER_FILES)}")
    try:
        with (place / _TAGGER_FILES[0]).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        raise _wrong("text.tagger: model.onnx cannot be read", "run as a user who may read it") from None
    if found != text.tagger_sha256:
        raise _wrong("text.tagger_sha256: model.onnx has another SHA-256", "compare with whoever gave you the model")
    rules = replace(profile.text, tagger=str(place), tagger_sha256=found)
    return _noted(replace(profile, text=rules), tightened=[f"tagger {found[:16]}"])


def _noted(
    profile: DeidProfile, *, tightened: Iterable[str] = (), adjusted: Iterable[str] = (),
    exceptions: Iterable[Loosening] = (),
) -> DeidProfile:  # fmt: skip
    was = profile.site
    site = SiteChanges((*was.tightened, *tightened), (*was.adjusted, *adjusted), (*was.exceptions, *exceptions))
    return replace(profile, site=site)


def _effect(profile: DeidProfile) -> dict[str, Value]:
    """All of a profile that decides about an output."""
    text = replace(profile.text, tagger="")  # its SHA-256 says which it is
    of = {each.name: getattr(profile, each.name) for each in fields(profile) if each.name not in ("digest", "site")}
    return {name: _plain(value) for name, value in (of | {"text": text}).items()}


def _plain(value: object) -> Value:
    match value:
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items()}
        case frozenset():
            return sorted(str(one) for one in value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case float():
            return canonical.decimal(value)
        case str() | bool() | int():
            return value
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    raise TypeError(type(value).__name__)


def _tag(where: str, keyword: str, near: Iterable[str]) -> str:
    """The tag of a keyword of the standard as eight hex digits. Raises SettingsError with the nearest of `near`."""
    tag = tag_for_keyword(keyword) if keyword in keyword_dict else None
    if tag is None:
        raise _wrong(f"{where}: {_shown(keyword)} is no keyword of the standard", _meant(keyword, near))
    return f"{tag:08x}"


def _meant(keyword: str, near: Iterable[str]) -> str:
    """A hint for a keyword that is none: a tag in its place, or a slip of the pen."""
    digits = re.sub(r"[^0-9A-Fa-f]", "", keyword)
    if len(digits) == 8 and (known := keyword_for_tag(int(digits, 16))):
        return f"write the keyword in place of the tag: {known}"
    found = difflib.get_close_matches(keyword, sorted(near), n=1)
    return (
        f"the nearest is {found[0]}; capitals count" if found else "keywords are those of PS3.6, such as PatientWeight"
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)[0]


def _shown(text: str) -> str:
    return printable(text[:80])


def _wrong(message: str, hint: str) -> SettingsError:
    return SettingsError("settings-value", f"data.rules: {message}", hint=hint)


def _refuse(kind: str, message: str, hint: str) -> SettingsError:
    """The tables of `[[loosen]]` are counted from one, as people do."""
    message = re.sub(r"\bloosen\.([0-9]+)", lambda found: f"loosen {int(found[1]) + 1}", message)
    hint = re.sub(r"\bloosen\.[0-9]+\.", "loosen.", hint)
    if "or a date" in message:
        hint = 'write a day in quotes: on = "2026-11-23"'
    if "valid array" in message:
        hint = "begin each exception with [[loosen]]" if message.startswith("loosen") else 'write a list: ["…", "…"]'
    hint = {"add format": f'add format = "{FORMAT}"'}.get(hint, hint).replace(
        "documentation", "spec, docs/spec/rules-1.md"
    )
    return SettingsError(
        "settings-unknown-key" if kind == "unknown-key" else "settings-value", f"data.rules: {message}", hint=hint
    )
