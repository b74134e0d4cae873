"""The one place that opens a DICOM file: limits first, then pydicom, and nothing of the file in any message.

pydicom's exceptions, warnings and log lines print values. `border` lets none of them out: it turns every exception
into a DeidError with a code, and keeps warnings and log records of the decoding libraries to itself.
"""

import codecs
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

from pydicom import dcmread
from pydicom._uid_dict import UID_dictionary
from pydicom.charset import convert_encodings, python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from client.imaging.profile import DeidProfile, Limits
from federation.errors import DeidError

Kind = Literal["dicom", "picture", "other"]
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_PREAMBLE_BYTES = 132
_META_LENGTH_END = _PREAMBLE_BYTES + 12  # the group length element, PS3.10 section 7.1
_META_BYTES_MAX = 1 << 16
_INFLATED_ANYWAY = 16 << 20  # bytes: a mask or a black frame shrinks a thousandfold, and is no bomb
LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "PIL")
_NAMES = ("SOPClassUID", "SOPInstanceUID")
_HINTS = {
    "not-dicom": "remove the file from the folder, or leave it: it is not read",
    "limit-size": "export the object in smaller parts, or leave it out",
    "limit-nesting": "ask the vendor: no public object nests this deep",
    "site-refused": "rules.toml of this site refuses it: leave such objects out of the folder",
    "class-refused": "only images are accepted; reports belong into a .jsonl or .csv file",
}


@contextmanager
def border(code: str, message: str) -> Iterator[None]:
    """Run code that touches raw data. Any exception becomes `DeidError(code)`; its text is dropped, unread."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DeidError:
        raise
    except (MemoryError, KeyboardInterrupt):
        raise
    except RecursionError:
        raise refusal("limit-nesting", "sequences are nested too deep") from None
    except EOFError:
        raise refusal("truncated", "the file ends early") from None
    except Exception:
        raise refusal(code, message) from None
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def refusal(code: str, message: str) -> DeidError:
    """A quarantine reason with its standard hint."""
    return DeidError(code, message, hint=_HINTS.get(code, "see the code in docs/errors.md"))


def kind_of(path: Path) -> Kind:
    """What the content says the file is; the name is not asked. DICOM without a preamble starts at group 2 or 8."""
    with open_file(path) as file:
        return _kind(file.read(_PREAMBLE_BYTES))


def _kind(head: bytes) -> Kind:
    if head[128:132] == b"DICM":
        return "dicom"
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        return "picture"
    if len(head) >= 16 and head[:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0 and head[2] < 0x80:
        return "dicom"
    return "other"


def open_file(path: Path) -> BinaryIO:
    """Open a regular file; a link in its place is refused, and a pipe that nobody writes to is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal("not-dicom", "not a regular file")
    return os.fdopen(descriptor, "rb")


def read(path: Path, limits: Limits, *, pixels: bool, tags: Sequence[str] | None = None) -> FileDataset:
    """Parse a file. Requires a class, an instance UID and a transfer syntax; reads pixel data only if asked.

    Edge cases: a class or an instance UID that only the file meta states is the object's (PS3.10 section 7.1 makes
    them the same); the transfer syntax of an object without file meta is the one that its first elements show.

    Raises: DeidError with not-dicom, limit-size, limit-nesting, truncated, malformed, class-refused, syntax-unknown
    or charset.
    """
    with border("malformed", "the object does not parse"), open_file(path) as file:
        return parse(file, limits, pixels=pixels, tags=tags)


def parse(file: BinaryIO, limits: Limits, *, pixels: bool, tags: Sequence[str] | None = None) -> FileDataset:
    """As `read`, of a file that is open already or in memory.

    Raises: DeidError as `read`.
    """
    with border("malformed", "the object does not parse"):
        if file.seek(0, os.SEEK_END) > limits.file_bytes:
            raise refusal("limit-size", "the file is larger than the limit")
        file.seek(0)
        head = file.read(_META_LENGTH_END)
        file.seek(0)
        if _kind(head) != "dicom":
            raise refusal("not-dicom", "the file holds no DICOM object")
        source = _inflated(file, head, limits)
        wanted: list[str | int] | None = [*tags, "SpecificCharacterSet"] if tags is not None else None
        dataset = dcmread(source, stop_before_pixels=not pixels, specific_tags=wanted, force=True)  # type: ignore[arg-type]
        if pixels or not all(dataset.get(keyword) for keyword in _NAMES):
            source.seek(0)
            _require_whole(dataset if pixels else dcmread(source, force=True), source)
        _require(dataset)
        return dataset


def converted(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """An element of a dataset; None for a number that cannot be read: of a wrong length, or, in implicit VR, of a kind
    that another attribute tells which is not there (PS3.5 section A.1). A sequence that cannot be read still raises:
    what is in it may say what the pixels mean."""
    try:
        return dataset[tag]
    except (AttributeError, NotImplementedError, OverflowError, TypeError, ValueError, struct.error):
        if dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ":
            raise
        return None


def class_code(class_uid: str, profile: DeidProfile) -> str | None:
    """None for an accepted image class; `site-refused` for one that the site's own rules refuse, `class-refused` for
    one of the standard's others, else `class-unknown`."""
    uid = class_uid.strip(" \0")
    if uid in profile.refused_classes:
        return "site-refused"
    if uid in profile.image_classes:
        return None
    return "class-refused" if uid in UID_dictionary else "class-unknown"


def modality_code(dataset: Dataset, profile: DeidProfile) -> str | None:
    """`site-refused` for an object of a modality that the site's own rules refuse, and for one that states none: nobody
    can say what it is. Where the rules refuse none, None."""
    if not profile.refused_modalities:
        return None
    stated = dataset.get("Modality", None) or ""
    words = {word.strip(" \0").upper() for word in ([stated] if isinstance(stated, str) else map(str, stated))} - {""}
    return "site-refused" if not words or words & profile.refused_modalities else None


def _require(dataset: FileDataset) -> None:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if str(meta.get("MediaStorageSOPClassUID", "")) == _MEDIA_DIRECTORY:
        raise refusal("class-refused", "a media directory, not an image")
    for keyword in _NAMES:
        if not str(dataset.get(keyword, "") or "") and (stated := str(meta.get("MediaStorage" + keyword, "") or "")):
            setattr(dataset, keyword, stated)
    if not str(dataset.get("SOPClassUID", "") or "") or not str(dataset.get("SOPInstanceUID", "") or ""):
        code = "malformed" if len(dataset) or len(meta) else "truncated"
        raise refusal(code, "the object has no SOP class or instance UID")
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        dataset.file_meta = meta
    if not meta.TransferSyntaxUID.is_transfer_syntax:
        raise refusal("syntax-unknown", "the transfer syntax is not one of the standard's")
    charset = dataset.get("SpecificCharacterSet", None) or []
    declared = [charset] if isinstance(charset, str) else list(charset)
    if any(name and not _is_understood(name) for name in declared):
        raise refusal("charset", "the declared character set is not one of the standard's")


def _is_understood(charset: str) -> bool:
    """A name of the standard, or one misspelt (`iso_ir 100`, `ISO-IR 100`) that pydicom reads as it was meant."""
    meant = re.sub(r"^ISO[ _-]IR[ _-]?", "ISO_IR ", charset.strip().upper())
    if charset in python_encoding or meant not in python_encoding:
        return charset in python_encoding
    return codecs.lookup(convert_encodings(charset)[0]) == codecs.lookup(python_encoding[meant])


def _require_whole(dataset: FileDataset, source: BinaryIO) -> None:
    """The last element ends with the file: pydicom takes a header that was cut off in the middle for a short one. (Of
    pixels, the decoder counts the bytes.) A rest of an object is not taken for one that only its file meta names."""
    if "PixelData" in dataset:
        return
    elements = [dataset.get_item(tag) for tag in dataset.keys()]
    if not elements:
        raise refusal("truncated", "the file ends early")
    last = max(elements, key=lambda each: each.value_tell if isinstance(each, RawDataElement) else each.file_tell or 0)
    if isinstance(last, RawDataElement) or last.is_empty:  # an empty sequence, say, is none any more
        tell, length = (last.file_tell or 0, 0) if isinstance(last, DataElement) else (last.value_tell, last.length)
        end = source.seek(tell + length)
        if end > source.seek(0, os.SEEK_END) or (source.seek(end) and source.read().strip(b"\0")):
            raise refusal("truncated", "the file ends early")


def _inflated(file: BinaryIO, head: bytes, limits: Limits) -> BinaryIO:
    """A deflated object inflated within bounds, every other one as it is. pydicom would inflate without bound."""
    is_measured = head[132:136] == b"\x02\x00\x00\x00"
    meta_end = _META_LENGTH_END + int.from_bytes(head[140:144], "little") if is_measured else _META_BYTES_MAX
    meta_bytes = file.read(min(meta_end, _META_BYTES_MAX))
    named = DeflatedExplicitVRLittleEndian.encode() in meta_bytes
    meta = dcmread(BytesIO(meta_bytes), force=True).file_meta if named and is_measured else FileMetaDataset()
    if named and not is_measured:
        raise refusal("malformed", "a deflated object does not say where its file meta ends")
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file
    packed = file.read()
    bound = min(limits.inflated_bytes, max(limits.inflated_ratio * len(packed), _INFLATED_ANYWAY))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(packed, bound + 1)
    if len(data) > bound:
        raise refusal("limit-size", "the deflated object inflates past the limit")
    if not inflater.eof:
        raise refusal("truncated", "the deflated object ends early")
    plain = FileMetaDataset()
    plain.update(meta)
    plain.TransferSyntaxUID = ExplicitVRLittleEndian
    return BytesIO(_part10(plain) + data)


def _part10(meta: FileMetaDataset) -> bytes:
    buffer = BytesIO()
    only_meta = Dataset()
    only_meta.file_meta = meta
    only_meta.save_as(buffer, enforce_file_format=False)
    return b"\0" * 128 + b"DICM" + buffer.getvalue().removeprefix(b"\0" * 128 + b"DICM")
