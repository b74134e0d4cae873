"""PS3.15 Annex E on a whole dataset: every element, at every depth, by the rules of profile.toml; the rest is dropped.

`clean_dataset` is the core of a DICOM export, and the training record copies its fields from what it returns, so that
a header is cleaned by one engine only.
"""

import re
import struct
from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import format_number_as_ds

from client.imaging.header import converted, refusal
from client.imaging.mandatory import DATED, EMPTIED, PAIRS
from client.imaging.palettes import unfolded
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, normal_id, pseudonym

# Attributes of type 2 (must exist, may be empty) and type 1 in the modules of the image classes we accept (PS3.3).
_TYPE_2 = frozenset(
    "PatientName PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID "
    "SeriesNumber InstanceNumber AcquisitionDate AcquisitionTime ContentDate ContentTime ContentCreatorName".split()
)
_PIXEL_DATA, _WAVES, _WAVE_PADDING = 0x7FE00010, 0x54001010, 0x5400100A
_TABLE_DATA = frozenset({"OB", "OW", "OB or OW", "US or OW", "US or SS or OW", "US or SS"})
_NUMBER = r" *[+-]?(?:[0-9]{1,9}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][+-]?[0-9]{1,3})? *"
"""A number in words. Ten digits before the point are a record or telephone number, and no quantity of an image."""
_NUMBER_TEXT = re.compile(_NUMBER)
_NUMBER_BYTES = re.compile(rf"{_NUMBER}(?:\\{_NUMBER})*".encode())
_ORDER_NUMBER = r" *[+-]?0*[0-9]{1,5}(?:\.0*)? *"
"""A number that only says which comes first. With six digits and more it may be a record number, a date or a time."""
_IN_ORDER = frozenset({"SeriesNumber", "AcquisitionNumber", "InstanceNumber"})
_ORDER_TEXT, _ORDER_BYTES = re.compile(_ORDER_NUMBER), re.compile(_ORDER_NUMBER.encode())
_DECIMAL_MAX = 16  # characters of a DS, PS3.5 section 6.2
_SIZES = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8}
_CODES = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_LETTER = r"(?:[\t\r\n -~]|[\xc3-\xdf][\x80-\xbf]|[\xe3-\xed\xef][\x80-\xbf]{2})".encode("latin-1")
"""One letter in ASCII or, of two or three bytes, in UTF-8."""
_LETTERS = re.compile(rb"(?=[^\0]{6})" + _LETTER + rb"++[ \0]*")
_RUN_BYTES = 24  # of text in a table that are a line of it
_LINE_BYTES_MAX, _PRINTABLE_MAX = 512, 0.5  # 37 % of all bytes are printable: of 24, all once in 10^10
_RUN = re.compile(_LETTER + b"{%d,4096}+" % (_RUN_BYTES // 3))
_BETWEEN_WORDS, _IN_WORDS, _IS_LETTER, _IS_DIGIT, _IS_SIGN, _IS_ODD, _IS_PRINTABLE = (
    np.array([bool(re.match(pattern, bytes([byte]))) for byte in range(256)])
    for pattern in (
        rb"[\s\x80-\xff]", rb"[0-9A-Za-z\s\x80-\xff]", rb"[A-Za-z\x80-\xff]", rb"[0-9]", rb"[\s^,;:=/_@.'()-]",
        rb"[!\"#$%&*+<>?\[\\\]`{|}~]", rb"[ -~]",
    )
)  # fmt: skip
_FLOAT_TEXT = re.compile(
    rb"[A-Za-z0-9 ^=.,'-]{6,}[ \0]*|[\t\r\n -~]{12,}[ \0]*|[\0-\xff]*[A-Za-z0-9^=.'-]{16}[\0-\xff]*"
)
"""Narrower than `_LETTERS`: every byte of a fraction may by chance be a sign, and eight of them make one number."""
_LARGEST = 1e15  # no quantity of an image is larger, or smaller than its inverse: eight letters read as a number are
DUMMIES: dict[str, object] = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "DS": "0", "IS": "0", "AS": "000Y", "CS": "REMOVED",
    "PN": "REMOVED", "LO": "REMOVED", "SH": "REMOVED", "ST": "REMOVED", "LT": "REMOVED", "UT": "REMOVED",
    "UC": "REMOVED", "AE": "REMOVED", "UR": "",
}  # fmt: skip
_BY_VALUE = frozenset({"X/Z/U*", "K", "U", "D"})  # actions that need to know what the element holds
_CODE_VALUE = 0x00080100
_WHO_ELSE = ("PatientName", "PatientBirthDate", "PatientSex")  # a digitiser may give all its patients one study
_TAGS = {
    "SpecificCharacterSet": 0x00080005, "PatientID": 0x00100020, "PatientIdentityRemoved": 0x00120062,
    "DeidentificationMethod": 0x00120063, "DeidentificationMethodCodeSequence": 0x00120064,
    "LongitudinalTemporalInformationModified": 0x00280303,
}  # fmt: skip
_VITAL = (0x00281052, 0x00281053, 0x3004000E)  # rescale and dose scaling: without them the pixels mean something else
_TABLES = {0x00283006: 0x00283002, 0x00281201: 0x00281101, 0x00281202: 0x00281102, 0x00281203: 0x00281103}
"""Data of a look-up table or palette -> its descriptor."""
_SEGMENTED = {0x00281221: 0x00281201, 0x00281222: 0x00281202, 0x00281223: 0x00281203}
"""Segments of a palette -> the plain table that an export has in their place."""
_PAIRS = {Tag(partner): Tag(needed) for partner, needed in PAIRS.items()}


def clean_dataset(dataset: Dataset, profile: DeidProfile, keys: SiteKeys) -> Dataset:
    """A new dataset with what the profile lets stay. File meta is left out: an export builds it from nothing.

    Guarantees: nothing that no rule names is copied, at any depth; private groups, curves, overlays, signatures,
    group lengths and padding never are. UIDs map alike in every object of the site, registered ones stay. Dates move
    back by one secret number of days per patient, and times become zero. An age over 89 becomes 90.

    | the file | the copy |
    |---|---|
    | no PatientID | a pseudonym per study, name, birth date and sex: two who differ in one are never made one |
    | pixels inside a sequence (icons) | dropped |
    | palettes in segments | as plain tables; malformed if the segments do not say one |
    | palettes, look-up tables and waveforms longer than they say, or with text in them | cut to their length; dropped |
    | more numbers than the dictionary allows, letters in their place | dropped; malformed if the pixels need them |
    | series, acquisition or instance number of six digits and more | dropped: it may be a record number or a date |

    Raises: DeidError limit-nesting, limit-size, malformed.
    """
    patient_key = _patient_key(dataset, profile, keys)
    walk = _Walk(profile, keys, patient_key)
    out = walk.clean(dataset, depth=0)
    moved = "MODIFIED" if "113107" in profile.codes else "REMOVED"
    for keyword, vr, value in (
        ("SpecificCharacterSet", "CS", "ISO_IR 192"), ("PatientID", "LO", patient_key),
        ("PatientIdentityRemoved", "CS", "YES"), ("LongitudinalTemporalInformationModified", "CS", moved),
        ("DeidentificationMethod", "LO", "Wardround profile " + profile.digest[:16]),
        ("DeidentificationMethodCodeSequence", "SQ", Sequence([method_code(*code) for code in profile.codes.items()])),
    ):  # fmt: skip
        out.add(DataElement(_TAGS[keyword], vr, value))
    return out


def _patient_key(dataset: Dataset, profile: DeidProfile, keys: SiteKeys) -> str:
    patient_id = str(dataset.get("PatientID", "") or "")
    if normal_id(patient_id):
        issuer = str(dataset.get("IssuerOfPatientID", "") or "") or profile.default_issuer
        return keys.patient_key(issuer, patient_id)
    study = str(dataset.get("StudyInstanceUID", "") or "") or str(dataset.get("SOPInstanceUID", "") or "")
    who = (normal_id(str(dataset.get(keyword, "") or "")) for keyword in _WHO_ELSE)
    return pseudonym(keys.patient, "no patient id", study, *who)


class _Walk:
    """One pass over one object: counts elements and depth while it copies."""

    def __init__(self, profile: DeidProfile, keys: SiteKeys, patient_key: str) -> None:
        self.profile, self.keys, self.patient_key = profile, keys, patient_key
        self.elements = 0
        self.stacks: dict[str, str] = {}

    def clean(self, dataset: Dataset, *, depth: int) -> Dataset:
        if depth > self.profile.limits.nesting:
            raise refusal("limit-nesting", "sequences are nested deeper than the limit")
        out = Dataset()
        for tag in sorted(dataset.keys()):
            self.elements += 1
            if self.elements > self.profile.limits.elements:
                raise refusal("limit-size", "the object has more elements than the limit")
            if not _refused_group(tag) and not (depth and tag == _PIXEL_DATA):
                self._element(dataset, tag, out, depth)
        tags = out.keys()
        for partner, needed in _PAIRS.items():
            if partner in tags and needed not in tags:
                del out[partner]
        for segments in _SEGMENTED.keys() & tags:
            _unfold(out, segments, swapped=dataset.original_encoding[1] is False)
        for data, descriptor in _TABLES.items():
            if data in tags:
                _cut_table(out, data, descriptor)
        if _WAVES in tags or _WAVE_PADDING in tags:
            _cut_waves(out)
        if _CODE_VALUE in tags:
            _rederive_meaning(out)
        if any(tag not in tags and tag in dataset and list(_values(dataset[tag])) for tag in _VITAL):
            raise refusal("malformed", "a number that the pixels need is none")
        return out

    def _element(self, dataset: Dataset, tag: BaseTag, out: Dataset, depth: int) -> None:
        name, keyword, vr = _known(tag)
        action = self.profile.actions.get(name)
        if keyword in EMPTIED:
            out[tag] = DataElement(tag, vr, Sequence([]) if vr == "SQ" else None)
            return
        if keyword == "StackID" and keyword in self.profile.allow:
            self._number_stack(dataset[tag], out)
            return
        if keyword in DATED:
            action = "D"
        if action is None:
            if keyword in self.profile.allow:
                unread = dataset.get_item(tag)
                if isinstance(unread, RawDataElement) and _may_stay_unread(unread, keyword, vr, self.profile):
                    out[tag] = unread
                elif (element := converted(dataset, tag)) is not None:
                    self._allowed(element, keyword, out, depth)
            elif keyword in self.profile.dummies:
                out[tag] = DataElement(tag, vr, DUMMIES[vr])
            return
        if keyword in self.profile.keep:
            if (kept := _kept(dataset[tag], keyword, self.profile)) is not None:
                out[tag] = kept
            return
        if name in self.profile.shifted and "113107" in self.profile.codes and action != "X":
            self._shift(dataset[tag], keyword, out)
            return
        if action == "D" and vr in DUMMIES:
            out[tag] = DataElement(tag, vr, DUMMIES[vr])
        elif action in _BY_VALUE:
            self._act(action, dataset[tag], keyword, out, depth)
        elif "Z" in action and keyword in _TYPE_2:
            out[tag] = DataElement(tag, vr, None)
        # X, and every compound on an attribute that a valid object can do without: not even parsed

    def _act(self, action: str, element: DataElement, keyword: str, out: Dataset, depth: int) -> None:
        if action == "X/Z/U*":
            self._sequence(element, out, depth)
        elif action == "K":
            self._allowed(element, keyword, out, depth)
        elif action == "U":
            values = [self._uid(str(value), keyword) for value in _values(element)]
            if values:
                out[element.tag] = DataElement(element.tag, "UI", values if len(values) > 1 else values[0])
        elif action == "D":
            self._dummy(element, out)

    def _allowed(self, element: DataElement, keyword: str, out: Dataset, depth: int) -> None:
        vr = _vr(element)
        if vr == "SQ":
            self._sequence(element, out, depth)
        elif keyword == "ImageType":
            words = [word for word in _words(element) if word in self.profile.terms["ImageType"]]
            if words:
                out[element.tag] = DataElement(element.tag, "CS", words)
        elif keyword == "Manufacturer":
            if name := _manufacturer(_words(element), self.profile):
                out[element.tag] = DataElement(element.tag, "LO", name)
        elif _value_may_stay(element, keyword, vr, self.profile):
            out[element.tag] = DataElement(element.tag, vr, _decimals(element) if vr in ("DS", "IS") else element.value)
        elif keyword in _TYPE_2:
            out[element.tag] = DataElement(element.tag, vr, None)

    def _sequence(self, element: DataElement, out: Dataset, depth: int) -> None:
        if element.VR != "SQ" or not isinstance(element.value, Sequence):
            return
        items = [item for item in (self.clean(item, depth=depth + 1) for item in element.value) if len(item)]
        if items:
            out[element.tag] = DataElement(element.tag, "SQ", Sequence(items))

    def _number_stack(self, element: DataElement, out: Dataset) -> None:
        """Stacks in the order in which the object names them, for their names are free words, and a dimension may count
        the places in each (PS3.3 C.7.6.16.2.2)."""
        if name := " ".join(_words(element)):
            out[element.tag] = DataElement(element.tag, "SH", self.stacks.setdefault(name, str(len(self.stacks) + 1)))

    def _uid(self, uid: str, keyword: str) -> str:
        if uid in UID_dictionary:
            return uid
        return self.keys.new_uid(uid, within=self.patient_key if keyword.endswith("FrameOfReferenceUID") else "")

    def _dummy(self, element: DataElement, out: Dataset) -> None:
        vr = _vr(element)
        if vr == "UI":
            out[element.tag] = DataElement(element.tag, "UI", self.keys.new_uid(str(element.value)))
        elif vr in DUMMIES:
            out[element.tag] = DataElement(element.tag, vr, DUMMIES[vr])

    def _shift(self, element: DataElement, keyword: str, out: Dataset) -> None:
        vr = _vr(element)
        days = self.keys.days_back(self.patient_key)
        if vr == "TM":
            out[element.tag] = DataElement(element.tag, "TM", "000000")
        elif vr in ("DA", "DT"):
            moved = [shifted for value in _values(element) if (shifted := _moved(str(value), days))]
            suffix = "000000" if vr == "DT" else ""
            if moved:
                out[element.tag] = DataElement(element.tag, vr, [day + suffix for day in moved])
            elif keyword in _TYPE_2:
                out[element.tag] = DataElement(element.tag, vr, None)
            elif keyword in DATED:
                self._dummy(element, out)


def _refused_group(tag: BaseTag) -> bool:
    group = tag.group
    if tag.is_private or tag.element == 0 or group in (0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC):
        return True
    return group & 0xFF00 in (0x5000, 0x6000)


@lru_cache(maxsize=8192)
def _known(tag: BaseTag) -> tuple[str, str, str]:
    """(eight hex digits, keyword, VR of the dictionary) of a tag; empty where the dictionary does not know it."""
    keyword = keyword_for_tag(tag)
    return f"{tag:08x}", keyword, dictionary_VR(tag) if keyword else ""


def _may_stay_unread(element: RawDataElement, keyword: str, vr: str, profile: DeidProfile) -> bool:
    """Whether the bytes of an element that nobody has parsed yet may be copied as they are: numbers of the VR that the
    dictionary says, in number form, and listed words. Everything else is parsed first; the answer is never wider."""
    value = element.value
    if not value or element.is_implicit_VR or not element.is_little_endian or element.VR != vr:
        return False
    if vr in _SIZES:
        count, rest = divmod(len(value), _SIZES[vr])
        return not rest and count <= _most_values(int(element.tag)) and _are_numbers(value, vr)
    if vr in ("DS", "IS"):
        words = value.split(b"\\")
        short = max(len(word.strip()) for word in words) <= _DECIMAL_MAX
        pattern = _ORDER_BYTES if keyword in _IN_ORDER else _NUMBER_BYTES
        return short and len(words) <= _most_values(int(element.tag)) and pattern.fullmatch(value) is not None
    if vr == "CS" and keyword in profile.terms and keyword != "ImageType":
        terms = value.decode("latin-1").split("\\")
        return all(term.strip(" \0").upper() in profile.terms[keyword] for term in terms)
    return False


def _value_may_stay(element: DataElement, keyword: str, vr: str, profile: DeidProfile) -> bool:
    terms = profile.terms.get(keyword)
    if terms is not None:
        words = _words(element)
        return bool(words) and all(word in terms for word in words)
    values = list(_values(element))
    if len(values) > _most_values(int(element.tag)):
        return False
    if vr == "AT":  # of private attributes nothing is left to point to
        return all(isinstance(value, int) and keyword_for_tag(value) for value in values)
    if vr in _CODES:
        try:
            return _are_numbers(struct.pack(f"<{len(values)}{_CODES[vr]}", *values), vr)
        except (struct.error, OverflowError):
            return False
    if vr in ("DS", "IS"):
        pattern = _ORDER_TEXT if keyword in _IN_ORDER else _NUMBER_TEXT
        return all(pattern.fullmatch(str(value)) for value in values)
    if vr == "UI":
        return all(str(value) in UID_dictionary for value in values)
    if vr in _TABLE_DATA:
        return int(element.tag) in (*_TABLES, *_SEGMENTED, _PIXEL_DATA, _WAVES, _WAVE_PADDING)
    return keyword == "CodeValue"  # checked against the code dictionary with its scheme, below


def _are_numbers(data: bytes, vr: str) -> bool:
    """Whether little-endian bytes are numbers, and not letters in their place."""
    if vr in ("FL", "FD"):
        count = len(data) // struct.calcsize(_CODES[vr])
        sizes = [abs(number) for number in struct.unpack(f"<{count}{_CODES[vr]}", data)]
        fit = all(not size or 1 / _LARGEST < size < _LARGEST for size in sizes)
        return fit and _FLOAT_TEXT.fullmatch(data) is None
    return _LETTERS.fullmatch(data) is None


@lru_cache(maxsize=8192)
def _most_values(tag: int) -> int:
    """The greatest number of values that the dictionary allows an attribute (VM, PS3.6 section 5)."""
    most = dictionary_VM(tag).rpartition("-")[2]
    return int(most) if most.isdigit() else 1 << 31


def _decimals(element: DataElement) -> list[str] | None:
    """Numbers in as many characters as the VR has; some devices write every digit of a double."""
    texts = [str(value).strip() for value in _values(element)]
    return [text if len(text) <= _DECIMAL_MAX else format_number_as_ds(float(text)) for text in texts] or None


def _unfold(item: Dataset, segments: int, *, swapped: bool) -> None:
    """A plain table in the place of a segmented one; one that is there already counts. `swapped`: the words of both are
    big-endian, as pydicom leaves them."""
    data, descriptor = _SEGMENTED[segments], _TABLES[_SEGMENTED[segments]]
    value = item[segments].value
    del item[segments]
    if data in item or descriptor not in item:
        return
    try:
        entries, _, bits = (int(number) for number in item[descriptor].value)
        table = unfolded(_swapped(value) if swapped else value, entries or 65536, bits)
    except (TypeError, ValueError):
        raise refusal("malformed", "a segmented palette does not unfold") from None
    table += b"\0" * (len(table) % 2)
    item[data] = DataElement(data, "OW", _swapped(table) if swapped else table)


def _swapped(words: bytes) -> bytes:
    return np.frombuffer(words, "<u2").astype(">u2").tobytes()


def _cut_table(item: Dataset, data: int, descriptor: int) -> None:
    """A table with as many entries as its descriptor says (PS3.3 C.11.1.1); it goes without one, or with text in it."""
    try:
        count, _, bits = (int(number) for number in item[descriptor].value)
    except (KeyError, TypeError, ValueError):
        del item[data]
        return
    value = item[data].value
    entries = count or 65536
    if isinstance(value, bytes):
        size = entries * (2 if bits > 8 or len(value) >= 2 * entries else 1)
        item[data].value = packed = value[: size + size % 2]
    elif isinstance(value, MultiValue | list):
        item[data].value = words = list(value)[:entries]
        packed = b"".join((int(word) & 0xFFFF).to_bytes(2, "little") for word in words)
    else:
        return
    if _holds_text(packed):
        del item[data]


def _holds_text(data: bytes) -> bool:
    """Whether a table or samples are text, or carry a line of it. Not found: text of less than `_RUN_BYTES` beside real
    entries, or without a blank among entries that are mostly letters; in UTF-16, or in an old double-byte character
    set."""
    if _LETTERS.fullmatch(data):
        return len(data) < _RUN_BYTES or not any(_is_ramp(data, form) for form in ("u1", "<u2", ">u2"))
    printable = int(_IS_PRINTABLE[np.frombuffer(data, np.uint8)].sum())
    for run in (found[0] for found in _RUN.finditer(data) if len(found[0]) >= _RUN_BYTES):
        if _has_words(run, alone=printable - len(run) <= _PRINTABLE_MAX * (len(data) - len(run))):
            return True
    return False


def _is_ramp(data: bytes, form: str) -> bool:
    entries = np.frombuffer(data[: len(data) // 2 * 2], form)
    return bool((entries[1:] >= entries[:-1]).all() or (entries[1:] <= entries[:-1]).all())


def _has_words(run: bytes, *, alone: bool) -> bool:
    """Whether somewhere in a run of letters there are words, and the bytes go up and down as in words: all of them, and
    those at even and at odd places too, for one of the two is smooth in numbers of 16 bits. `alone`: the other bytes
    are no letters in the main. Where they are, blanks tell words from noise, and other signs do not."""
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(run, np.uint8), _RUN_BYTES)
    found = _is_spaced(windows)
    if alone and len(run) <= _LINE_BYTES_MAX:
        found |= _is_parted(windows)
    for places in (windows, windows[:, ::2], windows[:, 1::2]):
        found &= _turns(places) >= 0.25
    return bool(found.any())


def _is_spaced(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Blanks, and few signs."""
    return np.asarray(_BETWEEN_WORDS[rows].any(1) & (_IN_WORDS[rows].mean(1) >= 0.8))


def _is_parted(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Letters with digits or with the signs of names, dates and addresses (`SMITH^JOHN^19580412`), none of the signs
    that lie between them in ASCII, which numbers that are near each other run through, and stretches of each: two
    channels in turn change from letter to digit all the time."""
    letters, digits, signs = _IS_LETTER[rows], _IS_DIGIT[rows], _IS_SIGN[rows]
    kinds = letters + 2 * digits.astype(np.uint8)
    changes = (np.diff(kinds, axis=1) != 0).sum(1)
    mixed = (letters.sum(1) >= 4) & ((digits.sum(1) >= 4) | (signs.sum(1) >= 2))
    return np.asarray(
        mixed & ~_IS_ODD[rows].any(1) & ((letters | digits).mean(1) >= 0.7) & (changes >= 2) & (changes <= 14)
    )


def _turns(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The share of a row's inner values at which it turns from up to down, or back."""
    steps = np.sign(np.diff(rows.astype(np.int16)))
    return np.asarray((steps[:, 1:] * steps[:, :-1] < 0).mean(1))


def _cut_waves(group: Dataset) -> None:
    """As many samples as the group declares (PS3.3 C.10.9.1), and padding of one; nothing where no size is declared,
    or where the samples hold text."""
    sizes = [group.get(name) for name in ("NumberOfWaveformChannels", "NumberOfWaveformSamples")]
    bits = group.get("WaveformBitsAllocated")
    data = bytes(group[_WAVES].value or b"") if _WAVES in group else b""
    if bits not in (8, 16, 32) or not all(isinstance(size, int) and size > 0 for size in sizes):
        data = b""
    size = sizes[0] * sizes[1] * bits // 8 if data else 0
    if len(data) < size:
        raise refusal("truncated", "fewer samples than declared")
    if not data or _holds_text(data[:size]):
        for tag in (_WAVES, _WAVE_PADDING):
            group.pop(tag, None)
        return
    group[_WAVES].value = data[:size] + b"\0" * (size % 2)
    if _WAVE_PADDING in group:
        group[_WAVE_PADDING].value = bytes(group[_WAVE_PADDING].value or b"")[: bits // 8].ljust(
            max(bits // 8, 2), b"\0"
        )


def _rederive_meaning(item: Dataset) -> None:
    """Keep a code only if PS3.16 knows it, with the meaning from the dictionary instead of the file."""
    meaning = _meaning(str(item.get("CodingSchemeDesignator", "")), str(item.CodeValue))
    if meaning:
        item.CodeMeaning = meaning
        return
    for keyword in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning"):
        if keyword in item:
            del item[keyword]


def _kept(element: DataElement, keyword: str, profile: DeidProfile) -> DataElement | None:
    if keyword == "PatientAge":
        years = age_years(str(element.value or ""))
        return None if years is None else DataElement(element.tag, "AS", f"{years:03d}Y")
    words = [word for word in _words(element) if word in profile.terms.get(keyword, frozenset())]
    return DataElement(element.tag, _vr(element), words[0] if words else None)


def age_years(text: str) -> int | None:
    """An age string (PS3.5 VR AS) as whole years; 90 stands for 90 and more, and None for what is no age."""
    match = re.fullmatch(r"(\d{3})([DWMY])", text.strip(" \0"))
    if match is None:
        return None
    per_year = {"D": 365, "W": 52, "M": 12, "Y": 1}[match[2]]
    return min(int(match[1]) // per_year, 90)


def _manufacturer(words: list[str], profile: DeidProfile) -> str:
    """The listed maker whose name starts the value (`SIEMENS Healthineers` -> SIEMENS, `G.E. Medical` -> GE), else
    nothing."""
    value = " ".join(words).replace(".", "")
    return next((name for name in sorted(profile.terms["Manufacturer"]) if re.match(rf"{name}(?![^\W_])", value)), "")


def _moved(text: str, days: int) -> str:
    match = re.match(r"(\d{4})\.?(\d{2})\.?(\d{2})", text.strip(" \0"))
    if match is None:
        return ""
    try:
        return (date(int(match[1]), int(match[2]), int(match[3])) - timedelta(days=days)).strftime("%Y%m%d")
    except (ValueError, OverflowError):
        return ""


def method_code(value: str, meaning: str) -> Dataset:
    """One item of DeidentificationMethodCodeSequence. PS3.16 CID 7050."""
    item = Dataset()
    for tag, vr, text in ((_CODE_VALUE, "SH", value), (0x00080102, "SH", "DCM"), (0x00080104, "LO", meaning)):
        item.add(DataElement(tag, vr, text))
    return item


_LEADS = {
    f"5.6.3-9-{number}": f"Lead {name}"
    for number, name in [
        (1, "I"), (2, "II"), (61, "III"), (62, "aVR"), (63, "aVL"), (64, "aVF"),
        *((number, f"V{number - 2}") for number in range(3, 9)),
    ]
}  # fmt: skip


@cache
def _meaning(scheme: str, value: str) -> str:
    """The meaning that PS3.16 gives a code, or nothing. SNOMED's old codes (SRT) have those of the new ones, and the
    leads of an electrocardiogram keep the codes of SCP-ECG (EN 1064) that CID 3001 had until 2009."""
    if scheme == "SCPECG":
        return _LEADS.get(value, "")
    from pydicom.sr._concepts_dict import concepts  # half a second to load; most headers carry no code
    from pydicom.sr._snomed_dict import mapping

    if scheme == "SRT":
        scheme, value = "SCT", mapping["SRT"].get(value, "")
    named: dict[str, dict[str, tuple[str, list[int]]]] = concepts.get(scheme, {})  # type: ignore[assignment]
    return next((codes[value][0][:64] for codes in named.values() if value in codes), "")


def _vr(element: DataElement) -> str:
    """The VR of the dictionary, not the file's: a file may call anything by any name."""
    known = tag_for_keyword(element.keyword) is not None
    vr = dictionary_VR(element.tag) if known else str(element.VR)
    return str(element.VR) if " or " in vr else vr


def _values(element: DataElement) -> Iterable[object]:
    value = element.value
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    while values and values[-1] in (None, ""):  # `1\` is one value, with a separator too many
        values.pop()
    return values


def _words(element: DataElement) -> list[str]:
    return [str(value).strip(" \0").upper() for value in _values(element)]
