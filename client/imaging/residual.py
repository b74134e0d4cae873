"""The last gate of an export: every byte that would be written, searched for what the original said about the patient.

The engine removes by rules; this search does not know them. It takes the identifiers of the original header and looks
for them in every decoded value and, where a chance hit is out of the question, in the raw bytes in several encodings.
"""

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from client.imaging.identifiers import Identifiers, fold, fold_id, name_words

_TOKEN = re.compile(r"[^\W_]+")
_RAW_BYTES_MIN, _RAW_DIGITS_MIN, _RAW_LETTERS_MIN = 6, 8, 3
_CLOSED_LISTS = frozenset({"CS", "AS"})  # words that profile.toml lists, whoever has such a name
_OUR_OWN = frozenset({"DeidentificationMethod", "DeidentificationMethodCodeSequence", "Manufacturer", "CodeMeaning"})
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "gb18030", "euc-kr", "iso2022_jp")


def residue_in(header: Dataset, data: bytes, found: Identifiers) -> str | None:
    """What kind of identifier is left in an output (`name`, `id`, `place`, `date`, `uid`), or None. Never which one.

    Args:
        header: the output as decoded again from `data`.
        data: every byte of the output.
        found: the identifiers of the original.
    """
    for text in _texts(header):
        if (kind := _in_text(text, found)) is not None:
            return kind
    return _in_bytes(data, found)


def _in_text(text: str, found: Identifiers) -> str | None:
    if text in found.uids:
        return "uid"
    folded = fold(text)
    tokens = {fold_id(token) for token in _TOKEN.findall(folded)} | {fold_id(text)}
    if any(len(word) >= 3 or not word.isascii() for word in found.names & (tokens | name_words(text))):
        return "name"
    if tokens & {word for word in found.ids if len(word) >= 3}:
        return "id"
    if any(len(place) >= 4 and place in " ".join(folded.split()) for place in found.places):
        return "place"
    if any(day.strftime("%Y%m%d") in text for day in found.dates):
        return "date"
    return None


def _in_bytes(data: bytes, found: Identifiers) -> str | None:
    lowered = data.lower()
    for kind, words in (("uid", found.uids), ("id", found.ids), ("name", found.names), ("place", found.places)):
        for word in words:
            if any(needle in lowered for needle in _needles(word)):
                return kind
    return None


def _needles(word: str) -> Iterator[bytes]:
    """The word in the encodings that a header may have, if it is too long and too varied to turn up in pixels."""
    if len(set(word)) < _RAW_LETTERS_MIN:
        return
    least = _RAW_DIGITS_MIN if word.isdigit() else _RAW_BYTES_MIN
    for encoding in _ENCODINGS:
        try:
            needle = word.lower().encode(encoding)
        except UnicodeError:
            continue
        if len(needle) >= least:
            yield needle


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset:
        if element.keyword in _OUR_OWN or element.VR in _CLOSED_LISTS:
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif not isinstance(element.value, bytes) and element.value is not None:
            value = element.value
            values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
            yield from (str(one) for one in values if not isinstance(one, int | float))
