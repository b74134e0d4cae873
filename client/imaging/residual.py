"""The last gate of an export: every byte that would be written, searched for what the original said about the patient.

The engine removes by rules; this search does not know them. It takes the identifiers of the original header and looks
for them in every decoded value, in every number and in the raw bytes: before the pixels where a chance hit is out of
the question, in pixels, tables and samples wherever `chance` finds that they did not spell it by themselves.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from client.imaging.chance import Words
from client.imaging.dataset import DUMMIES
from client.imaging.identifiers import Identifiers, fold, fold_id, is_unspaced, name_words
from client.imaging.spelled import needles

_TOKEN, _DIGITS = re.compile(r"[^\W_]+"), re.compile(r"[0-9]{5,}")
_RAW_BYTES_MIN, _RAW_DIGITS_MIN, _RAW_LETTERS_MIN = 6, 8, 3
_HEAD_BYTES_MIN, _HEAD_DIGITS_MIN = 4, 5  # where no pixels are
_BORDER = rb"[\0\s,:;=^\\/'\"()-]"
_WORD = re.compile(rb"(?:^|(?<=" + _BORDER + rb"))[0-9a-z]{3,}(?=$|" + _BORDER + rb")")
_DAY = re.compile(rb"(?<![0-9.])(?:\d{8}|\d{4}([-/.])\d\d\1\d\d|\d\d([-/.])\d\d\2\d{4})(?![0-9])")
_WIDE = re.compile(rb"(?:[ -~]\0){5,}[ -~]")
_CLOSED_LISTS = frozenset({"CS", "AS"})  # words that profile.toml lists, whoever has such a name
_OUR_OWN = frozenset({"DeidentificationMethod", "LongitudinalTemporalInformationModified", "PatientIdentityRemoved"})
_OUR_OWN |= {"CodeMeaning", "CodeValue"}
_OUR_UIDS = "2.25."  # random digits, in which a date may turn up by chance
_DUMMIES = frozenset(str(value) for value in DUMMIES.values())
_TABLE_MIN = 4  # words of two bytes
_NO_QUANTITIES = frozenset({"US", "SS", "AT"})  # two bytes, thousands in a table; tags
_WHOLE_MIN, _FRACTION_MIN, _LARGEST = 10**4, 10**6, 10**18
"""From which size on a number may be someone's. One dose histogram has thousands of volumes with a fraction."""
_LONG_DAYS = ("%Y%m%d", "%d%m%Y", "%m%d%Y")
_DAY_FORMS = (*_LONG_DAYS, "%y%m%d", "%d%m%y", "%m%d%y")
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "gb18030", "euc-kr", "iso2022_jp")


def residue_in(header: Dataset, data: bytes, found: Identifiers, terms: Mapping[str, frozenset[str]]) -> str | None:
    """What kind of identifier is left in an output (`name`, `id`, `place`, `date`, `uid`), or None. Never which one.

    Args:
        header: the output as decoded again from `data`.
        data: every byte of the output.
        found: the identifiers of the original.
        terms: the profile's words by keyword. A patient may be called like one of them, or like a word of our own
            (`Philips`, `Patient`): it may stand in the bytes as often as we wrote it, and not once more.
    """
    ours = [str(element.value) for element in getattr(header, "file_meta", None) or [] if element.VR == "SH"]
    numbers = _numbers(found)
    for element, value in _values(header):
        if isinstance(value, int | float):
            if element.VR not in _NO_QUANTITIES and (kind := numbers.get(_whole(value))) is not None:
                return kind
            continue
        text = str(value)
        if element.keyword in _OUR_OWN or text in _DUMMIES or text.upper() in terms.get(element.keyword, ()):
            ours.append(text)
        elif element.VR not in _CLOSED_LISTS and (kind := _in_text(text, found)) is not None:
            return kind
    forms = needles(found)
    head_bytes = len(data) - len(header.get("PixelData", b""))
    if (kind := _in_bytes(data, head_bytes, found, forms, "\\".join(ours).encode("utf-8").lower())) is not None:
        return kind
    words = Words(forms)
    return next((kind for stretch in _stretches(header) if (kind := words.kind_in(stretch)) is not None), None)


def residue_in_numbers(numbers: Iterable[float], found: Identifiers) -> str | None:
    """What kind of identifier one of the numbers spells (`id`, `date`), or None. The rules are those of an export."""
    known = _numbers(found)
    return next((kind for number in numbers if (kind := known.get(_whole(number))) is not None), None)


def _numbers(found: Identifiers) -> dict[str, str]:
    """The patient's ids and dates as the digits that a number would have, without leading zeros, beside their kind."""
    ids = {run.lstrip("0"): "id" for word in found.ids for run in _DIGITS.findall(word)}
    return ids | {day.strftime(form).lstrip("0"): "date" for day in found.dates for form in _DAY_FORMS}


def _whole(number: float) -> str:
    """The digits before the point; 0 for a number that is too short to be anyone's."""
    size = abs(number)
    if not _WHOLE_MIN <= size < _LARGEST or (size < _FRACTION_MIN and size != int(size)):
        return "0"
    return str(int(size))


def _in_text(text: str, found: Identifiers) -> str | None:
    if text in found.uids:
        return "uid"
    folded = fold(text)
    tokens = {fold_id(token) for token in _TOKEN.findall(folded)} | {fold_id(text)}
    if any(len(word) >= 3 or not word.isascii() for word in found.names & (tokens | name_words(text))):
        return "name"
    if any(word in fold_id(text) for word in filter(is_unspaced, found.names)):
        return "name"
    if tokens & {word for word in found.ids if len(word) >= 3}:
        return "id"
    if any(len(place) >= 4 and place in " ".join(folded.split()) for place in found.places):
        return "place"
    if not text.startswith(_OUR_UIDS) and any(day.strftime("%Y%m%d") in text for day in found.dates):
        return "date"
    return None


def _in_bytes(data: bytes, head_bytes: int, found: Identifiers, forms: Mapping[bytes, str], ours: bytes) -> str | None:
    """Before the pixels, where text lies between lengths and tags: dates and short words must stand alone there."""
    head = data[:head_bytes].lower()
    for kind, words in (("uid", found.uids), ("id", found.ids), ("name", found.names), ("place", found.places)):
        for word in words:
            for needle in _needles(word):
                if needle in head and head.count(needle) > ours.count(needle):
                    return kind
    for needle, kind in forms.items():
        if kind != "date" and len(needle) >= _RAW_BYTES_MIN and not needle.replace(b"\0", b"").isdigit():
            if needle in head and head.count(needle) > ours.count(needle):
                return kind
    return _alone(b" ".join([head, *(run[::2] for run in _WIDE.findall(head))]), found, ours)


def _stretches(dataset: Dataset) -> Iterator[bytes]:
    """The bytes of pixels, tables and samples, at any depth."""
    for element in dataset:
        value = element.value
        if element.VR == "SQ":
            for item in value:
                yield from _stretches(item)
        elif isinstance(value, bytes):
            yield value
        elif element.VR in _NO_QUANTITIES and isinstance(value, MultiValue | list) and len(value) >= _TABLE_MIN:
            yield b"".join((int(word) & 0xFFFF).to_bytes(2, "little") for word in value)


def _alone(head: bytes, found: Identifiers, ours: bytes) -> str | None:
    """An id, a name or a date that stands in the bytes as a word, and not because we wrote it."""
    words = Counter(_WORD.findall(head)) - Counter(_WORD.findall(ours))
    said = {word.decode("ascii") for word in words if not word.isdigit() or len(word) >= _HEAD_DIGITS_MIN}
    if said & found.ids:
        return "id"
    if said & found.names:
        return "name"
    days = Counter(day[0] for day in _DAY.finditer(head)) - Counter(day[0] for day in _DAY.finditer(ours))
    written = {re.sub(rb"\D", b"", day).decode("ascii") for day in days}
    return "date" if any(day.strftime(form) in written for day in found.dates for form in _LONG_DAYS) else None


def _needles(word: str) -> set[bytes]:
    """The word in the encodings that a header may have, if it is too long and too varied to turn up in pixels; beyond
    ASCII, where a name has two letters, in what comes before them."""
    needles: set[bytes] = set()
    letters_min, bytes_min = (_RAW_LETTERS_MIN, _RAW_BYTES_MIN) if word.isascii() else (2, _HEAD_BYTES_MIN)
    if len(set(word)) < letters_min or (word.isdigit() and len(word) < _RAW_DIGITS_MIN):
        return needles
    for encoding in _ENCODINGS:
        try:
            needle = word.lower().encode(encoding).lower()
        except UnicodeError:
            continue
        if len(needle) >= bytes_min:
            needles.add(needle)
    return needles


def _values(dataset: Dataset) -> Iterator[tuple[DataElement, object]]:
    """Every element that is not bytes beside each of its values, at any depth."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _values(item)
        elif not isinstance(element.value, bytes) and element.value is not None:
            value = element.value
            for one in list(value) if isinstance(value, MultiValue | list | tuple) else [value]:
                yield element, one
