"""DICOM in, DICOM out: PS3.15-conformant files for people who need files, under names made of pseudonyms only.

An object's pixels are searched for text as for a training record. Then its header is cleaned, its pixels are written as
plain values without a spare bit, text that was found is covered in all frames, and every byte of the result is searched
for the patient's identifiers. A file that is there is whole and has passed.

More is written than is trained on: segmentations, radiotherapy objects, waveforms, presentation states, palettes,
images of which only the header is left; files without a patient id, under a pseudonym of study, name, birth date and
sex; and of several contents under one instance UID each one, the first under the UID's pseudonym and the others under
their own.
"""

import errno
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from client.imaging import jpeg12
from client.imaging.burned_in import Mask, flagged
from client.imaging.dataset import method_code
from client.imaging.deid import clean_dataset, joined_ids, picture_fields, picture_key, require_usable
from client.imaging.header import border, open_file, parse, refusal
from client.imaging.header_path import IMPLEMENTATION_UID, VERSION_NAME, clean_native
from client.imaging.held import file_item, new_table, require_new, require_outside
from client.imaging.identifiers import collect
from client.imaging.ingest import Withdrawn, is_withdrawn, require_apart
from client.imaging.ocr import shipped
from client.imaging.pixels import cover, picture_names
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, normal_id, pseudonym
from client.imaging.receive import RawImage, scan
from client.imaging.residual import residue_in
from client.imaging.scratch import scratch
from client.imaging.sources import Source
from client.imaging.withheld import KeptOut, device_of
from client.imaging.workers import WorkLimits, cores, each
from federation import durable
from federation.errors import DeidError, StoreError

Progress = Callable[[int, int], None]
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)
CLEAN_PIXELS = ("113101", "Clean Pixel Data Option")  # CID 7050: claimed of a file whose pixels had text
_WRITTEN, _THERE = "written", "there"
_WRITTEN_ALL_THE_SAME = (None, "no-patient-id", "duplicate-differs")  # reasons that concern a training record only
_WORTH_MAX = 10
NOTHING = KeptOut()
_COVERINGS_MAX = 3
_LEFT = re.compile(r"[0-9a-f]{32}/[0-9.]+/[0-9.]+\.dcm\.part")  # what a killed run leaves of a file (durable.write)
_NO_NAMELESS_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@dataclass(frozen=True)
class ExportCounts:
    """What became of the files."""

    written: int
    already: int
    """Files that an earlier run has written, byte for byte the same."""
    quarantined: Mapping[str, int]
    rejected: int
    """Files that are no DICOM object: pictures, reports, others."""


def export(
    folder: Path, target: Path, profile: DeidProfile, keys: SiteKeys, spool: Path, *,
    listing: Progress | None = None, progress: Progress | None = None, workers: int | None = None,
    limits: WorkLimits | None = None, withdrawn: Withdrawn = frozenset(),
    kept_out: KeptOut = NOTHING, begin: Callable[[bool], None] = lambda goes_on: None,
    apart: Collection[Path] = (), held: Path | None = None,
) -> ExportCounts:  # fmt: skip
    """Write the clean form of every object of a folder, a DICOMDIR's folder or a zip below `target`.

    Guarantees: a file below `target` is `<patient>/<study>/<instance>.dcm`, all pseudonyms; it appears whole, after it
    has passed the residual scan, or not at all; its UIDs are those that every other export of this site gives. Nothing
    else is written there. Killed and started again, it goes on. Nothing is written of the patients `withdrawn`,
    and of pictures and device groups that a person took out of the store (`kept_out`).

    Args:
        begin: told, before anything is written or removed, whether `target` holds files of an earlier run, which this
            one goes on with; may refuse.
        apart: folders of the site's own, in which nothing is written.
        held: a new file for a table of what was held back (`held.COLUMNS`), which names files of patients; outside of
            source, output, spool and `apart`, whole or not at all.

    Raises: DataError folder-absent, folder-empty, folder-unreadable, folder-overlap, no-worker; StoreError
    output-exists, output-failed, disk-full, no-permission.
    """
    limits = limits or WorkLimits()
    hands = cores() if workers is None else workers
    reasons: dict[str, int] = {}
    done_with = {_WRITTEN: 0, _THERE: 0}
    profile = profile.for_exports()
    if held is not None:
        require_new(held)
    for own in (spool, *apart):
        require_apart(target, own)
    with scratch(spool) as place, ExitStack() as stack:
        source = Source(folder, profile.limits, place)
        require_apart(source.top, target)
        if place not in source.top.parents:  # an unpacked zip lies there
            require_apart(source.top, spool)
        if held is not None:
            require_outside(held, (source.origin, source.top, target, spool, *apart))
        _claim(target, begin)
        write = stack.enter_context(new_table(held)) if held is not None else lambda line: None
        intake = scan(
            source, profile, place, workers=hands, limits=limits, progress=listing, every_row=False, joined=keys.joined
        )  # fmt: skip
        with closing(intake):
            intake.withhold(partial(is_withdrawn, withdrawn, keys, profile))
            reasons |= source.refused
            for name, _, code in intake.refused():
                write((file_item(name, keys), code, name, ""))
            total = intake.image_count
            if not total:
                raise source.lacks("image", hint="give the folder with the DICOM files")
            outcomes = each(
                partial(_exported, profile, keys, target, kept_out), intake.images(),
                failed=str, workers=hands, limits=limits, files=_worth,
            )  # fmt: skip
            pictures = 0
            with closing(outcomes):
                for done, (image, outcome) in enumerate(outcomes, 1):
                    if isinstance(outcome, StoreError):
                        raise outcome
                    if outcome in done_with:
                        done_with[outcome] += 1
                    elif image.kind == "picture":
                        pictures += 1
                    else:
                        reasons[outcome] = reasons.get(outcome, 0) + 1
                        write((file_item(image.name, keys), outcome, image.name, ""))
                    if progress is not None:
                        progress(done, total)
        rejected = intake.rejected + pictures
    return ExportCounts(done_with[_WRITTEN], done_with[_THERE], dict(sorted(reasons.items())), rejected)


class CleanFile(NamedTuple):
    """A de-identified DICOM file and its place. Only `clean_file` makes one."""

    name: str
    data: bytes


def clean_file(image: RawImage, profile: DeidProfile, keys: SiteKeys) -> CleanFile:
    """The PS3.15-conformant form of one file.

    Guarantees: preamble of zeros; file meta built from nothing; pixels uncompressed (a compressed stream can carry
    comments), as long as declared, without bits above BitsStored; none of the original's identifiers in any byte; no
    text in the pixels that a search of the written file finds. Pixels that carry none are those of the original.

    Raises: DeidError with the reason for quarantine.
    """
    with border("malformed", "a header field does not convert"):
        with open_file(image.path) as file:
            whole = file.read(profile.limits.file_bytes + 1)
        dataset = parse(BytesIO(whole), profile.limits, pixels=True)
        require_usable(dataset, image, profile, keys)
        found = collect(dataset, profile.limits).plus(joined_ids(image, keys))
    where = _text_in(whole, profile) if "PixelData" in dataset else None
    native = None
    if "PixelData" in dataset and not image.twin:
        native = clean_native(whole, profile, keys)
    data = _decoded(dataset, image.twin, profile, keys) if native is None else b"".join(native)
    if where is not None:
        data = _covered(data, *where, profile)
    with border("malformed", "the object cannot be written"):
        again = dcmread(BytesIO(data))
        if (kind := residue_in(again, data, found, profile.terms)) is not None:
            raise refusal("residual-identifier", f"a {kind} of the original is still in the output")
        return CleanFile(f"{again.PatientID}/{again.StudyInstanceUID}/{again.SOPInstanceUID}.dcm", data)


def _text_in(whole: bytes, profile: DeidProfile) -> tuple[Mask, tuple[int, int]] | None:
    """Where the pixels carry text, and what can cover it (`cover`). Parses anew: decoding changes a dataset."""
    with border("malformed", "a header field does not convert"):
        dataset = parse(BytesIO(whole), profile.limits, pixels=True)
        where = cover(dataset, profile, shipped())
        if where is None and flagged(dataset):
            raise refusal("burned-in", "the header announces text in the pixels, and none was found")
        return where


def _decoded(dataset: FileDataset, twin: str, profile: DeidProfile, keys: SiteKeys) -> bytes:
    """What does not lie in the file as plain little-endian values: decoded, turned round, and written by pydicom."""
    with border("malformed", "a header field does not convert"):
        out = clean_dataset(dataset, profile, keys)
        if twin:
            out.SOPInstanceUID = keys.new_uid(str(dataset.SOPInstanceUID), within=twin)
            if not normal_id(str(dataset.get("PatientID", "") or "")):  # nothing says that both are of one person
                out.PatientID = pseudonym(keys.patient, "no patient id", twin)
        if "StudyInstanceUID" not in out:  # a valid object has one
            out.StudyInstanceUID = keys.new_uid(out.SOPInstanceUID, within="no study")
        if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian:
            _swap(out)
        for group in out.get("WaveformSequence") or []:
            if "WaveformData" not in group:
                raise refusal("malformed", "a waveform has no samples")
            _clear_spare_bits(group)
    if "PixelData" in dataset:
        with border("decode-failed", "the pixel data do not decode"):
            _write_pixels(dataset, out, profile)
    with border("malformed", "the object cannot be written"):
        return _encoded(out)


def _covered(data: bytes, mask: Mask, dark: tuple[int, int], profile: DeidProfile) -> bytes:
    """The same file with the text under `mask` covered, and that said (PS3.15 E.3.1). It is searched again as it is
    written: what stands out only now, beside what was covered, is covered too.

    Raises: DeidError burned-in if the last search still finds text.
    """
    with border("malformed", "the object cannot be written"):
        made = dcmread(BytesIO(data))
        if made.BitsAllocated == 1:
            raise refusal("burned-in", "text is burned into pixels of one bit")
        made.BurnedInAnnotation = "NO"
        made.DeidentificationMethodCodeSequence.append(method_code(*CLEAN_PIXELS))
    for _ in range(_COVERINGS_MAX):
        with border("malformed", "the object cannot be written"):
            _blacken(made, mask, dark)
            data = _encoded(made)
        left = cover(dcmread(BytesIO(data)), profile, shipped())
        if left is None:
            return data
        mask = mask | left[0]
    raise refusal("burned-in", "text is left in the pixels after blanking")


def _blacken(made: FileDataset, mask: Mask, dark: tuple[int, int]) -> None:
    """A dark value of its own over the masked pixels of all frames."""
    samples = int(made.get("SamplesPerPixel", 1) or 1)
    frames = int(made.get("NumberOfFrames", 1) or 1)
    values = np.frombuffer(made.PixelData, f"<u{int(made.BitsAllocated) // 8}")[: frames * mask.size * samples].copy()
    if samples > 1 and not int(made.get("PlanarConfiguration", 0) or 0):
        planes = np.moveaxis(values.reshape(frames, *mask.shape, samples), -1, 1)
    else:
        planes = values.reshape(frames, samples, *mask.shape)
    planes[:, :, mask] = planes[0, :, dark[0], dark[1], None]
    _set_pixels(made, values.tobytes(), "OW")


def _exported(
    profile: DeidProfile, keys: SiteKeys, target: Path, kept_out: KeptOut, image: RawImage
) -> str | StoreError:
    """In a worker: write one file; what happened, as a word, or as the error that ends the export."""
    if image.code not in _WRITTEN_ALL_THE_SAME or image.kind != "dicom":
        return image.code or "not-dicom"
    if (reason := _taken_out(image, profile, keys, kept_out)) is not None:
        return reason
    try:
        made = clean_file(image, profile, keys)
        if (reason := _of_a_held_device(made, kept_out)) is not None:
            return reason
    except DeidError as error:
        return error.code
    except OSError:
        return "unreadable"
    try:
        return _put(target / made.name, made.data)
    except StoreError as error:
        return error
    except OSError as error:
        return _stopped(error)


def _taken_out(image: RawImage, profile: DeidProfile, keys: SiteKeys, kept_out: KeptOut) -> str | None:
    """Why a person took a picture of this object out of the store."""
    if not kept_out.pictures or not normal_id(image.patient_id):
        return None
    patient = keys.patient_key(image.issuer, image.patient_id)
    names = picture_names(image.frames, profile.rendering)
    found = (kept_out.pictures.get(picture_key(image, patient, *name, keys)) for name in names)
    return next(filter(None, found), None)


def _of_a_held_device(made: CleanFile, kept_out: KeptOut) -> str | None:
    """Why a person took out what comes of the device."""
    if not kept_out.devices:
        return None
    header = dcmread(BytesIO(made.data), stop_before_pixels=True)
    size = {"source_rows": header.get("Rows"), "source_columns": header.get("Columns")}
    return kept_out.devices.get(device_of(replace(picture_fields(header), **size)))


def _stopped(error: OSError) -> StoreError:
    """Why nothing more can be written."""
    if error.errno in durable.DISK_FULL:
        return StoreError(
            "disk-full", "the disk of the output is full", hint="free some space and run the same command again"
        )
    if error.errno in durable.NOT_ALLOWED:
        return StoreError(
            "no-permission", "no permission to write the output", hint="choose a folder that you may write to"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
        return StoreError(
            "output-exists",
            "the output folder, or one below it, is no folder: a file or a broken link has its name",
            hint="name a new folder for the export",
        )
    return StoreError(
        "output-failed",
        f"the output cannot be written: {os.strerror(error.errno or errno.EIO).lower()}",
        hint="choose another folder, or repair its disk, and run the same command again",
    )


def _worth(image: RawImage) -> int:
    """How many usual files the search of a large one, or of one with many frames, may take as long as."""
    try:
        size_bytes = image.path.stat().st_size
    except OSError:
        size_bytes = 0
    return 1 + min(max(size_bytes >> 20, image.frames // 4), _WORTH_MAX)


def _put(path: Path, data: bytes) -> str:
    """Write without a temporary name: the file is linked into place when it is whole (open(2), O_TMPFILE)."""
    if path.exists():
        return _THERE if path.read_bytes() == data else "duplicate-differs"
    for folder in (path.parent.parent, path.parent):  # with `parents`, those above would not be private
        folder.mkdir(exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_NAMELESS_FILES:
            raise
        durable.write(path, [data])  # its `.part` file, if a kill leaves one, is removed by the next run
        return _WRITTEN
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # With a folder's descriptor Python calls linkat(2), which follows the link in /proc; without it, link(2).
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)
    except FileExistsError:
        return _THERE if path.read_bytes() == data else "duplicate-differs"
    finally:
        os.close(descriptor)
    durable.sync_folder(path.parent)
    return _WRITTEN


def _claim(target: Path, begin: Callable[[bool], None]) -> None:
    """The output folder is new, empty, or one of ours to go on with."""
    try:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = os.listdir(target)
    except OSError as error:
        raise _stopped(error) from None
    if any(len(name) != 32 or set(name) - set("0123456789abcdef") for name in names):
        raise StoreError(
            "output-exists", "the output folder holds other files", hint="name a new folder for the export"
        )
    begin(bool(names))
    for place, _, files in os.walk(target):  # follows no link
        for left in (Path(place, name) for name in files if name.endswith(".part")):
            if _LEFT.fullmatch(left.relative_to(target).as_posix()) and not left.is_symlink():
                left.unlink(missing_ok=True)


def _write_pixels(dataset: FileDataset, out: Dataset, profile: DeidProfile) -> None:
    """Plain little-endian values of all frames, in the colours that the decoder gives."""
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    size_bytes = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("SamplesPerPixel", 1) or 1) * frames
    if size_bytes * max(1, allocated // 8) > profile.limits.inflated_bytes:
        raise refusal("limit-size", "the frames are larger than the limit")
    if dataset.file_meta.TransferSyntaxUID.is_compressed and dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        if dataset.file_meta.TransferSyntaxUID in _LOSSY:  # the loss stays when the compression goes, PS3.3 C.7.6.1.1.5
            out.LossyImageCompression = "01"
        _decompress(dataset)
        for keyword in ("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"):
            if keyword in dataset:
                setattr(out, keyword, getattr(dataset, keyword))
        stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    stated = str(dataset.get("PhotometricInterpretation", "") or "")
    if stated and str(out.get("PhotometricInterpretation", "")) not in profile.terms["PhotometricInterpretation"]:
        raise refusal("malformed", "the pixels are of a colour space that the standard does not have any more")
    if allocated == 1:
        length = (size_bytes + 7) // 8
        data = bytearray(dataset.PixelData[:length])
        if size_bytes % 8:
            data[-1] &= (1 << size_bytes % 8) - 1
        _set_pixels(out, bytes(data), "OB")
        return
    halved = str(dataset.get("PhotometricInterpretation", "")) == "YBR_FULL_422"
    if halved:  # two pixels share their colours, PS3.3 C.7.6.3.1.2: as the decoder gives them
        values = np.asarray(pixel_array(dataset, raw=False))
        out.PhotometricInterpretation, out.PlanarConfiguration = "RGB", 0
    else:
        values = _stored_values(dataset, size_bytes, allocated)
    _set_pixels(out, _without_high_bits(values, stored, bool(dataset.get("PixelRepresentation", 0))), "OW")


def _decompress(dataset: FileDataset) -> None:
    if jpeg12.is_coded(dataset):
        jpeg12.unpack(dataset)
        return
    try:
        dataset.decompress(as_rgb=True, generate_instance_uid=False)
    except ValueError:
        # Where a JPEG 2000 stream and its header disagree about the sign, pydicom 3.0 corrects the array in place, and
        # that of its first decoder is read-only.
        dataset.decompress(as_rgb=True, generate_instance_uid=False, decoding_plugin="pylibjpeg")


def _stored_values(dataset: FileDataset, count: int, allocated: int) -> npt.NDArray[Any]:
    order = ">" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<"
    kind = np.dtype(f"{order if allocated > 8 else '|'}u{allocated // 8}")
    data = dataset.PixelData
    if order == ">" and allocated == 8 and dataset["PixelData"].VR == "OW":
        data = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    return np.frombuffer(data, kind, count=count)


def _without_high_bits(values: npt.NDArray[Any], stored: int, signed: bool) -> bytes:
    """Bits above BitsStored can hold an old overlay. They become zero, or copies of the value's sign."""
    width = values.dtype.itemsize * 8
    plain = values.astype(f"<u{values.dtype.itemsize}")
    if stored < width:
        if signed:
            shift = width - stored
            plain = ((plain << shift).view(f"<i{values.dtype.itemsize}") >> shift).view(plain.dtype)
        else:
            plain = plain & plain.dtype.type((1 << stored) - 1)
    return plain.tobytes()


def _clear_spare_bits(group: Dataset) -> None:
    """Of every channel of a waveform, as of pixels."""
    count, bits = int(group.NumberOfWaveformChannels), int(group.WaveformBitsAllocated)
    size = count * int(group.NumberOfWaveformSamples)
    signed = str(group.get("WaveformSampleInterpretation", "SS")).startswith("S")
    samples = np.frombuffer(group.WaveformData, f"<u{bits // 8}", count=size).reshape(-1, count).copy()
    for at, channel in enumerate((group.get("ChannelDefinitionSequence") or [])[:count]):
        stored = int(channel.get("WaveformBitsStored", bits) or bits)
        clear = _without_high_bits(samples[:, at], min(max(stored, 1), bits), signed)
        samples[:, at] = np.frombuffer(clear, samples.dtype)
    group.WaveformData = samples.tobytes() + b"\0" * (samples.nbytes % 2)


def _set_pixels(out: Dataset, data: bytes, vr: str) -> None:
    if "PixelData" in out:
        del out["PixelData"]
    out.add_new("PixelData", "OB" if int(out.BitsAllocated) <= 8 else vr, data + b"\0" * (len(data) % 2))


def _swap(out: Dataset) -> None:
    """Tables of 16-bit words out of a big-endian file; pydicom leaves their bytes as they lie."""
    for element in out:
        if element.VR == "SQ":
            for item in element.value:
                _swap(item)
        elif element.VR == "OW" and isinstance(element.value, bytes) and element.keyword != "PixelData":
            element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()


def _encoded(out: Dataset) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = out.SOPClassUID
    meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = VERSION_NAME
    whole = FileDataset("", out, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=False, is_little_endian=True)
    buffer = BytesIO()
    dcmwrite(buffer, whole, enforce_file_format=True)
    return buffer.getvalue()
