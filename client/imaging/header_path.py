"""The fast way through a header: what the rules drop is never parsed, and the pixels are never copied by pydicom.

An uncompressed little-endian object is cut at its elements by their tags and lengths only (PS3.5 section 7.1). Elements
that the profile drops whatever they hold are left out; the rest, a few kilobytes, goes through `clean_dataset` as
always, so both ways decide by one engine and give the same object. Any other object takes the ordinary way, and so does
one that cannot be cut: with an element in implicit form among explicit ones, or VR UN of undefined length, whose items
pydicom reads in the form that they show.
"""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.charset import convert_encodings
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_data_element, write_dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.imaging.dataset import clean_dataset
from client.imaging.header import border, refusal
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys

IMPLEMENTATION_UID = UID("2.25.205906213327206428341839142518160302147")  # of a random UUID, PS3.5 section B.2
VERSION_NAME = "WARDROUND_1"
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_PIXEL_DATA, _TRANSFER_SYNTAX = 0x7FE00010, 0x00020010
_UNDEFINED = 0xFFFFFFFF
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "Rows", "Columns", "BitsStored", "BitsAllocated")
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PADDED = {"UI": b"\0"} | dict.fromkeys(("AE", "AS", "CS", "DA", "DT", "IS", "DS", "LO", "PN", "SH", "TM"), b" ")
"""VRs of short text, and what makes their length even. PS3.5 section 6.2."""


def clean_native(data: bytes, profile: DeidProfile, keys: SiteKeys) -> tuple[bytes, memoryview] | None:
    """(all up to the pixels, the pixels) of a de-identified file; None for an object that has to go the ordinary way.

    Guarantees: preamble of zeros, file meta made from nothing, the elements that `clean_dataset` leaves of the object,
    explicit little-endian; the pixels as they are but for the bits above BitsStored, which are cleared, and bytes
    past the declared end, which are gone. Text drawn into the pixels is not looked for: that is `render`'s work.

    Raises: DeidError as `clean_dataset`; truncated when the pixels end early.
    """
    with border("malformed", "the object does not parse"):
        try:
            found = _cut(data, profile)
        except (ValueError, struct.error):  # pydicom reads more than this
            found = None
        if found is None:
            return None
        kept, implicit, pixels = found
        header = read_dataset(BytesIO(kept), implicit, True)
        header.set_original_encoding(implicit, True)
        clean = clean_dataset(header, profile, keys)
        if not all(keyword in clean for keyword in _NEEDED):
            return None
        if "PhotometricInterpretation" in header and "PhotometricInterpretation" not in clean:
            return None
        allocated = int(clean.BitsAllocated)
        if allocated not in (8, 16) or str(clean.get("PhotometricInterpretation", "")) == "YBR_FULL_422":
            return None
        size = int(clean.Rows) * int(clean.Columns) * int(clean.get("NumberOfFrames", 1) or 1)
        size *= int(clean.get("SamplesPerPixel", 1) or 1) * allocated // 8
        if len(pixels) < size:
            raise refusal("truncated", "fewer pixel bytes than declared")
        words = np.frombuffer(pixels[:size], dtype="<u2" if allocated == 16 else np.uint8)
        if int(clean.BitsStored) < allocated:
            words = _cleared(words, int(clean.BitsStored), bool(clean.get("PixelRepresentation", 0)))
        if size % 2:
            words = np.append(words, np.zeros(1, dtype=words.dtype))
        return _written(clean, implicit, size + size % 2), words.data.cast("B")


def _cleared(words: npt.NDArray[Any], stored: int, signed: bool) -> npt.NDArray[Any]:
    """Bits above BitsStored as they should be: zero, or the sign repeated. Old overlays stood there."""
    if not signed:
        return np.asarray(words & words.dtype.type((1 << stored) - 1))
    shift = words.dtype.itemsize * 8 - stored
    return np.asarray(((words << shift).view(f"<i{words.dtype.itemsize}") >> shift).view(words.dtype))


def _written(clean: Dataset, implicit: bool, pixel_bytes: int) -> bytes:
    """Preamble, file meta, the header, and the head of the pixel element. PS3.10 section 7.1, PS3.5 section 7.1.2."""
    uids = {2: clean.SOPClassUID, 3: clean.SOPInstanceUID, 0x10: ExplicitVRLittleEndian, 0x12: IMPLEMENTATION_UID}
    meta = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    meta += b"".join(_short(2 << 16 | element, "UI", uid.encode("ascii")) for element, uid in uids.items())
    meta += _short(0x00020013, "SH", VERSION_NAME.encode("ascii"))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    buffer.write(b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta)
    if implicit:  # VRs may depend on other elements there
        write_dataset(buffer, clean)
    else:
        encodings = convert_encodings("ISO_IR 192")
        for tag in sorted(clean.keys()):
            if (plain := _plainly(clean.get_item(tag))) is not None:
                buffer.write(plain)
            else:
                write_data_element(buffer, clean[tag], encodings)
    vr = b"OB" if int(clean.BitsAllocated) == 8 else b"OW"
    buffer.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, pixel_bytes))
    return bytes(buffer.getvalue())


def _plainly(element: DataElement | RawDataElement) -> bytes | None:
    """An element that nobody has parsed as it was read, and short text as it stands; None for all others."""
    if isinstance(element, RawDataElement):
        if element.value is None or element.VR is None or element.VR.encode("ascii") in _LONG:
            return None
        return _short(int(element.tag), element.VR, element.value)
    if element.VR not in _PADDED:
        return None
    value = element.value
    words = [] if value is None else list(value) if isinstance(value, MultiValue | list) else [value]
    if not all(isinstance(word, str) and type(word) in (str, UID) for word in words):
        return None
    return _short(int(element.tag), str(element.VR), "\\".join(words).encode("utf-8"))


def _short(tag: int, vr: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += _PADDED.get(vr, b" ")
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode("ascii"), len(value)) + value


def _cut(data: bytes, profile: DeidProfile) -> tuple[bytes, bool, memoryview] | None:
    """(the bytes of the elements that may stay, whether they are implicit VR, the pixels), or None."""
    if data[128:132] != b"DICM" or data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        return None
    start = 144 + int.from_bytes(data[140:144], "little")
    if start > len(data):
        raise refusal("truncated", "the file ends early")
    meta = {tag: data[value:end] for tag, _, value, end in _elements(data[:start], 144, False, 100)}
    syntax = meta.get(_TRANSFER_SYNTAX, b"").strip(b" \0").decode("latin-1")
    if syntax not in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        return None
    implicit = syntax == ImplicitVRLittleEndian
    wanted = profile.asked_tags
    view = memoryview(data)
    kept: list[memoryview] = []
    for tag, begin, value, end in _elements(data, start, implicit, profile.limits.elements):
        if end > len(data):
            raise refusal("truncated", "the file ends early")
        if tag == _PIXEL_DATA:
            return b"".join(kept), implicit, view[value:end]
        if tag in wanted:
            kept.append(view[begin:end])
    return None


def _elements(data: bytes, at: int, implicit: bool, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(tag, start, start of the value, end) of each element at the top, none of them read."""
    for _ in range(most):
        if at + 8 > len(data):
            return
        tag, value, length = _head(data, at, implicit)
        end = _end_of_sequence(data, value, implicit, 0) if length == _UNDEFINED else value + length
        yield tag, at, value, end
        at = end
    raise refusal("limit-size", "the object has more elements than the limit")


def _head(data: bytes, at: int, implicit: bool) -> tuple[int, int, int]:
    """(tag, start of the value, length) of the element that starts at `at`."""
    group, element = struct.unpack_from("<HH", data, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, at + 8, struct.unpack_from("<I", data, at + 4)[0]
    vr = data[at + 4 : at + 6]
    if vr in _LONG:
        length = struct.unpack_from("<I", data, at + 8)[0]
        if vr == b"UN" and length == _UNDEFINED:  # implicit within, PS3.5 section 6.2.2
            raise ValueError("VR UN of undefined length")
        return tag, at + 12, length
    if not vr.isalpha() or not vr.isupper():
        raise ValueError("no VR")
    return tag, at + 8, struct.unpack_from("<H", data, at + 6)[0]


def _end_of_sequence(data: bytes, at: int, implicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends. PS3.5 section 7.5.2."""
    if depth > 2 * 12:
        raise refusal("limit-nesting", "sequences are nested deeper than the limit")
    while True:
        tag, value, length = _head(data, at, implicit)
        if tag in (_SEQUENCE_END, _ITEM_END):
            return value
        if length == _UNDEFINED:
            at = _end_of_sequence(data, value, implicit, depth + 1)
        else:
            at = value + length
