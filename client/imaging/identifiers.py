"""What a header says about who the patient is: everything that must not turn up in the words we keep."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date

from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from client.imaging.header import converted, refusal
from client.imaging.profile import Limits

UNDECODED = "\ufffd"
"""What decoding leaves in the place of bytes that the declared character set does not have."""
_ID_KEYWORDS = frozenset(
    "PatientID OtherPatientIDs AccessionNumber StudyID IssuerOfPatientID PatientTelephoneNumbers "
    "DeviceSerialNumber StationName PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest "
    "RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID AdmissionID MedicalRecordLocator "
    "ReferringPhysicianTelephoneNumbers PatientInsurancePlanCodeSequence IssuerOfAdmissionID PersonTelephoneNumbers "
    "InsurancePlanIdentification ServiceEpisodeID DetectorID CassetteID PlateID GantryID".split()
)
_PLACE_KEYWORDS = frozenset(
    "InstitutionName InstitutionAddress InstitutionalDepartmentName PatientAddress ReferringPhysicianAddress "
    "CountryOfResidence RegionOfResidence CurrentPatientLocation PatientInstitutionResidence RequestingService "
    "PersonAddress".split()
)
_NAME_KEYWORDS = frozenset({"PatientMotherBirthName", "PatientBirthName", "OtherPatientNames"})
_WHOSE_KEYWORDS = frozenset({"PatientID", "IssuerOfPatientID"})
_OWN_NAMES = _NAME_KEYWORDS | {"PatientName"}
_SPLIT = re.compile(r"[\^=\s,.;/()\\_]+")
UNSPACED = (  # letters of Thai to Burmese, Khmer, Han, kana and Hangul, for a class of characters
    "\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u318f\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7ff"
    "\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff"
)
_UNSPACED_LETTER = re.compile(rf"[{UNSPACED}]")
_HIRAGANA = {katakana: katakana - 0x60 for katakana in range(0x30A1, 0x30F7)}
_KATAKANA = {hiragana: katakana for katakana, hiragana in _HIRAGANA.items()}


@dataclass(frozen=True, repr=False)
class Identifiers:
    """Folded for comparison (`fold`): names as single words, ids without punctuation, dates as YYYYMMDD. `spelled` has
    each name, id and place with its own characters, beside its kind (`spelled.needles`)."""

    names: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    dates: frozenset[date] = frozenset()
    uids: frozenset[str] = frozenset()
    spelled: frozenset[tuple[str, str]] = frozenset()

    def __repr__(self) -> str:
        return "<Identifiers: hidden>"

    def plus(self, other: "Identifiers") -> "Identifiers":
        return Identifiers(
            self.names | other.names, self.ids | other.ids, self.places | other.places,
            self.dates | other.dates, self.uids | other.uids, self.spelled | other.spelled,
        )  # fmt: skip


def collect(dataset: Dataset, limits: Limits) -> Identifiers:
    """All identifiers of a header, at any depth: person names of every group, ids, places, dates and own UIDs.

    Raises: DeidError limit-nesting; charset when a name, a place or a patient id does not decode as declared.
    """
    names: set[str] = set()
    ids: set[str] = set()
    places: set[str] = set()
    dates: set[date] = set()
    uids: set[str] = set()
    spelled: set[tuple[str, str]] = set()
    for element in _elements(dataset, limits, 0):
        keyword, vr = keyword_for_tag(element.tag), str(element.VR)
        for text in _texts(element):
            if UNDECODED in text and (vr == "PN" or keyword in _PLACE_KEYWORDS or keyword in _WHOSE_KEYWORDS):
                raise refusal("charset", "a name or patient id does not decode in the declared character set")
            if vr == "PN" or keyword in _NAME_KEYWORDS:
                names.update(name_words(text))
                spelled.update(("name", form) for form in _readings(text))
            elif keyword in _ID_KEYWORDS:
                ids.add(fold_id(text))
                spelled.add(("id", text))
                if not any(character.isdigit() for character in text) and keyword in ("PatientID", "OtherPatientIDs"):
                    names.update(word for word in name_words(text) if len(word) > 3)
            elif keyword in _PLACE_KEYWORDS:
                places.add(" ".join(fold(text).split()))
                spelled.update(("place", form) for form in _readings(text))
            elif vr in ("DA", "DT"):
                if (day := parse_day(text)) is not None:
                    dates.add(day)
            elif vr == "UI" and text not in UID_dictionary:
                uids.add(text)
    return Identifiers(
        frozenset(names), frozenset(ids - {""}), frozenset(places - {""}), frozenset(dates), frozenset(uids - {""}),
        frozenset(spelled),
    )  # fmt: skip


def own_names(dataset: Dataset) -> frozenset[str]:
    """The words of the patient's own names at the top of the header, folded."""
    elements = [converted(dataset, Tag(keyword)) for keyword in _OWN_NAMES if keyword in dataset]
    texts = [text for element in elements if element is not None for text in _texts(element)]
    return frozenset(word for text in texts for word in name_words(text))


def name_words(text: str) -> set[str]:
    """The words of a person name in all its groups, folded; a hyphenated word counts whole and in parts, a name of
    several words (`de la Cruz`) also as one. So do family and given name in an unspaced script, where each may be one
    letter; kana count as hiragana and as katakana.

    >>> sorted(name_words("Meyer-Lühr^Anna"))
    ['anna', 'luehr', 'luhr', 'meyer', 'meyerluehr', 'meyerluhr']
    >>> sorted(name_words("王^明"))
    ['明王', '王明']
    """
    words: set[str] = set()
    for form in _readings(text):
        for word in _SPLIT.split(form):
            for part in {word, *word.split("-")}:
                words.update(_letters(folded) for folded in (fold(part), fold(_german(part))))
        for group in form.split("="):
            components = group.split("^")
            words.update(_letters(fold(each)) for each in components if re.search(r"\s", each.strip()))
            if is_unspaced(group):
                family, given = (_letters(fold(each)) for each in (*components, "")[:2])
                words |= {family + given, given + family}
    words |= {word.translate(kana) for word in words for kana in (_HIRAGANA, _KATAKANA)}
    return {word for word in words if len(word) >= 2} - _TITLES


def _letters(folded: str) -> str:
    return re.sub(r"[\W\d_]", "", folded)


_TITLES = frozenset(
    "dr prof mr mrs ms md phd sir jr sr ii iii iv van von de der den del da di la le el al bin mc st".split()
)


def fold(text: str) -> str:
    """Without case, accents, strokes and compatibility forms, so that MÜLLER and Muller, Łoś and los are one."""
    if text.isascii():
        return text.lower()
    spread = unicodedata.normalize("NFKD", text)
    bare = "".join(letter for letter in spread if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", bare.casefold().translate(_STROKED))  # Hangul in syllables again


_STROKED = str.maketrans(  # letters that Unicode does not take apart
    {"đ": "d", "ð": "d", "ħ": "h", "ı": "i", "ł": "l", "ø": "o", "ŧ": "t", "æ": "ae", "œ": "oe", "þ": "th"}
)


def fold_id(text: str) -> str:
    """An identifier's letters and digits only: `AB-12 34` and `ab1234` are one."""
    return re.sub(r"[\W_]", "", fold(text))


def parse_day(text: str) -> date | None:
    match = re.match(r"(\d{4})[.]?(\d{2})[.]?(\d{2})", text.strip(" \0"))
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def is_unspaced(word: str) -> bool:
    """Whether a word has letters of a script in which no blank need stand before and behind a name."""
    return _UNSPACED_LETTER.search(word) is not None


def _german(text: str) -> str:
    for letter, pair in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("Ä", "Ae"), ("Ö", "Oe"), ("Ü", "Ue"), ("ø", "oe")):
        text = text.replace(letter, pair)
    return text


def _readings(text: str) -> Iterator[str]:
    """The text, and what it says when undeclared UTF-8 was read as Latin-1, as some devices write it."""
    yield text
    if not text.isascii():
        try:
            yield text.encode("latin-1").decode("utf-8")
        except UnicodeError:
            return


def _elements(dataset: Dataset, limits: Limits, depth: int) -> Iterator[DataElement]:
    if depth > limits.nesting:
        raise refusal("limit-nesting", "sequences are nested deeper than the limit")
    for tag in sorted(dataset.keys()):
        if tag.is_private or (element := converted(dataset, tag)) is None:
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _elements(item, limits, depth + 1)


def _texts(element: DataElement) -> Iterable[str]:
    value = element.value
    if element.VR == "SQ" or value is None or isinstance(value, bytes):
        return []
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(item).strip(" \0") for item in values]
