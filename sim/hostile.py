"""DICOM objects made to leak: an identifier in every attribute that can hold one, at the top and inside sequences.

Every plant is unique and names its place, so that a leak tells where it came from. `hostile_object` covers the rows of
Table E.1-1, all other attributes of the dictionary that hold text, dates or UIDs, unknown tags, private blocks,
overlays, curves, icons, padding, preamble and file meta; `odd_files` are broken, truncated, mislabelled or larger than
they look.
"""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import dcmwrite
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

_SEQUENCES = (
    "IconImageSequence", "OriginalAttributesSequence", "RequestAttributesSequence", "ReferencedImageSequence",
    "SharedFunctionalGroupsSequence", "PersonIdentificationCodeSequence",
)  # fmt: skip
_TEXT_VRS = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "PN", "AE", "CS", "UR"})
_NEEDED = frozenset({
    0x00080005, 0x00080016, 0x00080018, 0x0020000D, 0x0020000E, 0x00100020, 0x00080060, 0x7FE00010, 0x00280010,
    0x00280011, 0x00280002, 0x00280004, 0x00280100, 0x00280101, 0x00280102, 0x00280103,
})  # fmt: skip
"""Attributes that keep the object an image of one patient; their own plants are in `_image`."""


@dataclass(frozen=True)
class Hostile:
    """One object as a file, and what was planted in it."""

    name: str
    data: bytes
    planted: tuple[str, ...]


def hostile_objects(seed: int) -> Iterator[Hostile]:
    """The same plants at the top, nested under a kept sequence and three deep, in explicit and implicit VR."""
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        for depth in (0, 1, 3):
            yield hostile_object(seed, depth, syntax)


def hostile_object(seed: int, depth: int, syntax: UID) -> Hostile:
    """One radiograph with every plant `depth` sequences below the top."""
    rng = np.random.default_rng([seed, depth])
    mark = "".join("QXZJVK"[int(at)] for at in rng.integers(6, size=4))
    dataset, planted = _image(mark, rng)
    full = _full(mark, planted)
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([full])
        full = outer
    for element in full:
        if element.tag not in dataset or element.tag not in _NEEDED:
            dataset[element.tag] = element
    name = f"{mark.lower()}-{depth}-{'implicit' if syntax.is_implicit_VR else 'explicit'}"
    return Hostile(name, _file(dataset, syntax, f"{mark}PREAMBLE".encode()), (*planted, f"{mark}PREAMBLE"))


def small_objects(seed: int) -> Iterator[bytes]:
    """Valid radiographs of a kilobyte, to be mutated: a name, a date, a nested reference, a private block."""
    for at, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)):
        dataset, _ = _image("SMAL", np.random.default_rng([seed, at]))
        inner = Dataset()
        inner.ReferencedSOPClassUID, inner.ReferencedSOPInstanceUID = ComputedRadiographyImageStorage, "1.2.826.5"
        dataset.PatientName, dataset.StudyDate, dataset.WindowCenter = "SMAL^PRIVATE", "20190304", "2048"
        dataset.WindowWidth, dataset.ImageType, dataset.KVP = "4096", ["ORIGINAL", "PRIMARY"], "117"
        dataset.ReferencedImageSequence = Sequence([inner])
        dataset["ReferencedImageSequence"].is_undefined_length = at == 0
        dataset.private_block(0x0011, "SMAL", create=True).add_new(1, "LO", "SMAL^PRIVATE")
        yield _file(dataset, syntax, b"")


def _full(mark: str, planted: list[str]) -> Dataset:
    """A dataset with a plant in every attribute of the dictionary that can hold one, and in what no dictionary has."""
    full = Dataset()
    for tag, (vr, *_, keyword) in DicomDictionary.items():
        if tag in _NEEDED or tag >> 16 in (0x0000, 0x0002, 0x0004, 0xFFFE) or not keyword or tag & 0xFFFF == 0:
            continue
        if (value := _plant(vr, tag, mark)) is None:
            continue
        full.add_new(tag, vr, value)
        planted.append(value)
    inner = Dataset()
    inner.PatientName = f"{mark}^INSEQUENCE"
    planted += [f"{mark}^INSEQUENCE", f"{mark}ICON", f"{mark}PRIVATE", f"{mark}UNKNOWN", f"{mark}OVERLAY"]
    inner.add_new(0x7FE00010, "OB", f"{mark}ICON ".encode())
    for keyword in _SEQUENCES:
        setattr(full, keyword, Sequence([inner]))
    block = full.private_block(0x0011, f"{mark}PRIVATE", create=True)
    block.add_new(1, "LT", f"{mark}PRIVATE")
    block.add_new(2, "SQ", Sequence([inner]))
    for tag in (0x00189998, 0x30109998, 0x00109998):
        full.add_new(tag, "UN", f"{mark}UNKNOWN ".encode())
    for tag, vr in ((0x60003000, "OW"), (0x601E3000, "OW"), (0x50003000, "OW"), (0xFFFCFFFC, "OB")):
        full.add_new(tag, vr, f"{mark}OVERLAY ".encode())
    full.add_new(0x60000022, "LO", f"{mark}OVERLAY")
    return full


def _plant(vr: str, tag: int, mark: str) -> str | None:
    if vr in _TEXT_VRS:
        return f"{mark}{tag:08X}"
    if vr == "UI":
        return f"1.2.826.{tag}"
    if vr == "DA":
        return f"1{tag % 800 + 100:03d}0{tag % 9 + 1}1{tag % 9 + 1}"
    if vr == "DT":
        return f"1{tag % 800 + 100:03d}0{tag % 9 + 1}2{tag % 8 + 1}112233"
    return None


def _image(mark: str, rng: np.random.Generator) -> tuple[FileDataset, list[str]]:
    """A small radiograph: an identified patient, and text in the bits above BitsStored."""
    number = int(rng.integers(10**6, 10**7))
    planted = [f"{mark}-{number}", f"1.2.826.9.{number}.1", f"1.2.826.9.{number}.2", f"1.2.826.9.{number}.3"]
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.Modality, dataset.PatientID = ComputedRadiographyImageStorage, "CR", planted[0]
    dataset.SOPInstanceUID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = planted[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Rows = dataset.Columns = 16
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    values = rng.integers(0, 4096, 256).astype("<u2")
    dataset.PixelData = (values | 0xA000).tobytes() + f"{mark}TRAILING ".encode()
    dataset["PixelData"].VR = "OW"
    return dataset, [*planted, f"{mark}TRAILING"]


def _file(dataset: FileDataset, syntax: UID, preamble: bytes) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.SourceApplicationEntityTitle = preamble.decode()[:16]
    dataset.preamble = preamble.ljust(128, b"\0")
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def odd_files(seed: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of files that are not what they say. None may pass, stop a run, or take long."""
    good = hostile_object(seed, 0, ExplicitVRLittleEndian).data
    meta_end = 144 + int.from_bytes(good[140:144], "little")
    yield "empty", b""
    yield "text", b"patient list\n" * 40
    yield "preamble-only", good[:132]
    yield "cut-in-meta", good[:180]
    yield "cut-in-header", good[: meta_end + 300]
    yield "cut-in-pixels", good[:-300]
    yield "length-overrun", good[:meta_end] + b"\x08\x00\x16\x00UI\xff\xff" + good[meta_end + 8 :]
    yield "no-vr", good[:meta_end] + b"\x08\x00\x16\x00??\x02\x00" + good[meta_end + 8 :]
    yield "unknown-syntax", good.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0", 1)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = _file(_image("BOMB", np.random.default_rng(seed))[0], DeflatedExplicitVRLittleEndian, b"")
    start = 144 + int.from_bytes(head[140:144], "little")
    blank = b"\x09\x00\x10\x10LO\x00\xff" + b" " * 0xFF00
    yield "deflate-bomb", head[:start] + bomb.compress(blank * 2000) + bomb.flush()
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    yield "deep-nesting", good[:meta_end] + deep * 300
    many = b"".join(b"\x09\x00" + number.to_bytes(2, "little") + b"LO\0\0" for number in range(0x1000, 0xFFFF))
    yield "endless-elements", good[:meta_end] + many * 4
