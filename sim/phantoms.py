"""Writes the folders of pretended hospitals: real DICOM files, reports, planted identifiers, and the truth about them.

Each vendor of `sim.sites` writes its files in its own way: bit depth, polarity, windows, transfer syntax, private
groups, and places where identifiers hide (preamble, file meta, nested sequences, overlays, unused high bits, comments,
file names). Everything follows from the seed, byte for byte, whatever the number of workers.

    python -m sim.phantoms four OUT_DIR --patients 60
    python -m sim.phantoms wrap MANIFEST.csv IMAGES_DIR OUT_DIR --question "Is there pneumonia?" --positive pneumonia

`wrap` puts ordinary pictures through the same door: it writes them as the CR files of pretended hospitals. The truth
goes to OUT_DIR-truth/, outside every hospital.
"""

import argparse
import csv
import io
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from federation.errors import DataError, FedError, StoreError
from sim.anatomy import draw_chest, draw_ct_slice
from sim.identifiers import TOWNS, Person, Staff, make_person, make_staff
from sim.leaks import Leak, PatientTruth, Plant, StudyTruth, Truth, byte_needles, hidden_streams, plain, text_needles
from sim.report_files import Row, conversation, conversation_row, report_of, write_index_page, write_report_files
from sim.sites import FOUR, Hospital, Prevalence, Scanner, four_hospitals
from sim.visits import Plants, Shot, Study, new_study, new_uid, number_of, plant_person, serial_of, shots_of, studies_of

Picture = NDArray[np.float32]
Progress = Callable[[int, int], None]

SYNTAXES: dict[str, UID] = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "jpeg": JPEGBaseline8Bit,
}
_ENCODERS = {"rle": "pylibjpeg", "jpeg-ls": "pyjpegls", "jpeg-2000": "pylibjpeg"}
_SHARED_KINDS = frozenset({"staff", "place", "device"})


# --- a hospital's folder --------------------------------------------------------------------------------------------


def write_hospital(
    hospital: Hospital,
    folder: Path,
    *,
    seed: int = 0,
    truth: Path | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Truth:
    """Write one hospital's folder; return, and write to `truth` if given, what was planted and drawn.

    Guarantees: the same hospital and seed give the same bytes for any number of workers. The truth file may not lie
    inside the folder. `progress` is called with (patients done, patients in all). More than one worker needs a main
    module that can be imported (the `spawn` start method).
    """
    _need_room(folder, truth)
    written: list[_Written] = []
    for one in _all_patients(hospital, folder, seed, workers):
        written.append(one)
        if progress is not None:
            progress(len(written), hospital.patients)
    _write_reports(hospital, folder, written, seed)
    return _finish(hospital.site_id, written, truth)


@dataclass(frozen=True)
class _Written:
    """What one patient adds to the hospital's report files and truth."""

    person: Person
    plants: frozenset[Plant]
    studies: tuple[StudyTruth, ...]
    rows: tuple[Row, ...]
    csv_rows: tuple[tuple[str, str], ...] = ()


def _all_patients(hospital: Hospital, folder: Path, seed: int, workers: int) -> Iterator[_Written]:
    jobs = [(hospital, folder, seed, index) for index in range(hospital.patients)]
    if workers <= 1 or len(jobs) < 16:
        yield from map(_write_patient, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_patient, jobs, chunksize=8)


def _write_patient(job: tuple[Hospital, Path, int, int]) -> _Written:
    hospital, folder, seed, index = job
    rng, artist = np.random.default_rng([seed, number_of(hospital.site_id), 2, index]).spawn(2)
    staff, plant = _staff(hospital, seed), Plants()
    person = make_person(index, staff, rng, character_set=hospital.character_set)
    plant_person(person, plant)
    rows: list[Row] = []
    csv_rows, studies = [], []
    for study in studies_of(hospital, staff, rng, plant):
        shots, images = shots_of(hospital, rng), []
        for shot in shots:
            dataset = _header(hospital, staff, person, study, shot, rng, plant)
            if shot.view == "CT":
                _add_ct(dataset, study, artist)
            else:
                _add_radiograph(dataset, _draw(study, shot, person, rng, artist), shot, person)
            images.append(_file_name(hospital.layout, index, person, study, shot, dataset, rng))
            _save(dataset, folder / images[-1])
        report = report_of(hospital, staff, person, study, shots, rng, plant)
        in_csv = bool(rng.random() < hospital.csv_share)
        if in_csv:
            csv_rows.append((study.uid, report))
        else:
            row = conversation(images, study, report, rng)
            rows.append({"id": f"{person.patient_id}-{study.accession}", **row} if hospital.layout == "export" else row)
        source, burned_in = "csv" if in_csv else "jsonl", any(shot.burned_in for shot in shots)
        studies.append(StudyTruth(study.uid, tuple(images), study.findings, source, burned_in))
    return _Written(person, frozenset(plant.values), tuple(studies), tuple(rows), tuple(csv_rows))


def _staff(hospital: Hospital, seed: int) -> Staff:
    return make_staff(hospital.kind, hospital.town, np.random.default_rng([seed, number_of(hospital.site_id), 0]))


def _write_reports(hospital: Hospital, folder: Path, written: Sequence[_Written], seed: int) -> None:
    rng = np.random.default_rng([seed, number_of(hospital.site_id), 1])
    rows = [row for one in written for row in one.rows]
    csv_rows = [row for one in written for row in one.csv_rows]
    write_report_files(folder, rows, csv_rows, rng, ascii_only=hospital.layout == "flat")
    if hospital.layout == "export":
        write_index_page(folder, _staff(hospital, seed), [one.person for one in written])


def _need_room(folder: Path, truth: Path | None) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise StoreError("output-exists", "the phantom folder is not empty", hint="name a new folder")
    if truth is not None and folder.resolve() in truth.resolve().parents:
        raise StoreError("output-exists", "the truth would lie inside the hospital", hint="put it beside the folder")
    folder.mkdir(parents=True, exist_ok=True)


def _finish(site_id: str, written: Sequence[_Written], path: Path | None) -> Truth:
    """Plants of staff, letterhead and devices belong to the hospital, all others to the patient."""
    shared = {plant for one in written for plant in one.plants if plant.kind in _SHARED_KINDS}
    patients = tuple(
        PatientTruth(one.person.patient_id, _in_order(one.plants - shared), one.studies) for one in written
    )
    truth = Truth(site_id, _in_order(shared), patients)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        truth.dump(path)
    return truth


def _in_order(plants: set[Plant] | frozenset[Plant]) -> tuple[Plant, ...]:
    return tuple(sorted(plants, key=lambda plant: (plant.kind, plant.value)))


# --- file names and files -------------------------------------------------------------------------------------------


def _file_name(
    layout: str,
    index: int,
    person: Person,
    study: Study,
    shot: Shot,
    dataset: Dataset,
    rng: np.random.Generator,
) -> str:
    """A path inside the hospital's folder, as archives, viewers and export discs name things."""
    if layout == "numbered":
        return f"DICOM/PA{index:06d}/ST{study.number:06d}/SE{shot.number:06d}/IM000001"
    if layout == "uid":
        return f"{study.uid}/{dataset.SOPInstanceUID}.dcm"
    if layout == "export":
        who = f"{person.family}_{person.given}_{person.patient_id}".upper()
        return f"{study.moment:%Y/%m}/{who}/{study.moment:%Y%m%d}.{shot.number}.dcm"
    return f"{int(rng.integers(1 << 48)):012x}" + (".dcm" if rng.random() < 0.5 else "")


def _save(dataset: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, dataset, enforce_file_format=True, overwrite=False)


# --- what every file says about the patient, the visit and the device -----------------------------------------------


def _header(
    hospital: Hospital,
    staff: Staff,
    person: Person,
    study: Study,
    shot: Shot,
    rng: np.random.Generator,
    plant: Plants,
) -> Dataset:
    """All but the picture: PS3.3 C.7.1 to C.7.5, the vendor's private block, the vendor's quirks."""
    ds, scanner = Dataset(), shot.scanner
    sop_class = {"CR": ComputedRadiographyImageStorage, "DX": DigitalXRayImageStorageForPresentation}[scanner.modality]
    if hospital.character_set:
        ds.SpecificCharacterSet = hospital.character_set
    ds.SOPClassUID = CTImageStorage if shot.view == "CT" else sop_class
    ds.SOPInstanceUID = plant("uid", new_uid(rng))
    ds.Modality = "CT" if shot.view == "CT" else scanner.modality
    _add_patient(ds, hospital, staff, person, study, plant)
    _add_study(ds, staff, person, study, plant)
    ds.SeriesInstanceUID = plant("uid", study.series_uids[shot.view == "CT"])
    ds.SeriesNumber, ds.InstanceNumber = (2, 1) if shot.view == "CT" else (1, shot.number)
    ds.SeriesDescription = f"Chest {shot.view}"
    ds.ProtocolName = "Chest routine"
    ds.OperatorsName = f"{plant('staff', study.operator)}^T"
    ds.Manufacturer, ds.ManufacturerModelName = scanner.vendor, scanner.model
    ds.DeviceSerialNumber = plant("device", shot.serial)
    ds.StationName = plant("device", f"RAD{shot.serial[-8:]}")
    ds.SoftwareVersions = "4.1.7"
    ds.FrameOfReferenceUID = plant("uid", study.frame_uid)
    ds.BodyPartExamined = "CHEST"
    _add_private_block(ds, scanner, staff, person, study)
    _add_quirks(ds, scanner, staff, person, plant)
    ds.file_meta = _file_meta(ds, scanner, plant("place", staff.ae_title))
    return ds


def _file_meta(ds: Dataset, scanner: Scanner, ae_title: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"2.25.{number_of(scanner.vendor)}")
    meta.ImplementationVersionName = scanner.vendor.upper().replace(" ", "_")[:16]
    meta.SourceApplicationEntityTitle = ae_title
    return meta


def _add_patient(ds: Dataset, hospital: Hospital, staff: Staff, person: Person, study: Study, plant: Plants) -> None:
    ds.PatientName = person.name_groups
    ds.PatientID = person.patient_id
    if hospital.issuer:
        ds.IssuerOfPatientID = plant("place", staff.issuer)
    ds.PatientBirthDate = person.birth.strftime("%Y%m%d")
    ds.PatientSex = person.sex
    ds.PatientAge = f"{person.age_on(study.moment.date()):03d}Y"
    ds.OtherPatientIDsSequence = [_item(PatientID=person.other_id, TypeOfPatientID="TEXT")]
    ds.PatientBirthName = f"{person.maiden_name}^{person.given}"
    ds.PatientAddress = f"{person.address}, {staff.town}"
    ds.PatientTelephoneNumbers = person.phone
    ds.PatientInsurancePlanCodeSequence = [
        _item(CodeValue=person.insurance_id, CodingSchemeDesignator="99INSURER", CodeMeaning="Insurance number")
    ]


def _add_study(ds: Dataset, staff: Staff, person: Person, study: Study, plant: Plants) -> None:
    day, clock = study.moment.strftime("%Y%m%d"), study.moment.strftime("%H%M%S")
    ds.StudyInstanceUID, ds.StudyID, ds.AccessionNumber = study.uid, study.study_id, study.accession
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", day)
        setattr(ds, f"{name}Time", clock)
    ds.AcquisitionDateTime = f"{day}{clock}.000000"
    ds.StudyDescription = "Chest radiograph"
    ds.ReferringPhysicianName = f"{plant('staff', person.referrer)}^A^^Dr."
    ds.NameOfPhysiciansReadingStudy = f"{plant('staff', study.radiologist)}^B^^Dr."
    ds.InstitutionName = plant("place", staff.institution)
    ds.InstitutionalDepartmentName = plant("place", staff.department)
    ds.InstitutionAddress = f"{plant('place', staff.address)}, {plant('place', staff.town)}"
    ds.RequestAttributesSequence = [
        _item(
            RequestedProcedureID=study.accession,
            RequestedProcedureDescription="Chest radiograph",
            ScheduledProcedureStepID=study.study_id,
            ReasonForTheRequestedProcedure=f"Cough, asked by Dr. {person.referrer}",
        )
    ]
    ds.PerformedProcedureStepStartDate, ds.PerformedProcedureStepStartTime = day, clock
    ds.PerformedProcedureStepID = study.study_id


def _add_private_block(ds: Dataset, scanner: Scanner, staff: Staff, person: Person, study: Study) -> None:
    """A vendor's own group: PS3.5 section 7.8. Names, numbers and dates of the patient, again, and in a sequence."""
    group = 0x0009 + 2 * (number_of(scanner.vendor) % 12)
    block = ds.private_block(group, f"{scanner.vendor[:20].upper()} 1.0", create=True)
    block.add_new(0x01, "LO", person.patient_id)
    block.add_new(0x02, "PN", person.name_groups)
    block.add_new(0x03, "DA", study.moment.strftime("%Y%m%d"))
    block.add_new(0x04, "UI", study.uid)
    block.add_new(0x05, "DS", "0.71")
    inner = _item(ReferringPhysicianName=f"{person.referrer}^A", PatientComments=f"{person.given} {person.family}")
    inner.private_block(group, "INNER 1.0", create=True).add_new(0x01, "LT", f"{person.address} {person.phone}")
    block.add_new(0x06, "SQ", [inner])
    if "utf16" in scanner.quirks:
        blob = f"{person.family};{person.given};{person.patient_id}".encode("utf-16-le")
        block.add_new(0x07, "OB", blob + b"\0" * (len(blob) % 2))


def _add_quirks(ds: Dataset, scanner: Scanner, staff: Staff, person: Person, plant: Plants) -> None:
    """Places outside the usual ones where this vendor lets identifiers stand."""
    who = f"{person.given} {person.family}, {person.patient_id}"
    if "comments" in scanner.quirks:
        ds.ImageComments = f"Repeat film of {who}, call {person.phone}"
        ds.PatientComments = f"Lives at {person.address}"
    if "preamble" in scanner.quirks:
        text = f"{person.patient_id} {person.phone}".encode("ascii")
        ds.preamble = text + b"\0" * (128 - len(text))
    if "nested" in scanner.quirks:
        before = _item(PatientName=f"{person.maiden_name}^{person.given}", PatientID=person.other_id)
        ds.OriginalAttributesSequence = [
            _item(
                ModifiedAttributesSequence=[before],
                AttributeModificationDateTime=ds.AcquisitionDateTime,
                ModifyingSystem="RIS",
                SourceOfPreviousValues=plant("place", staff.institution),
                ReasonForTheAttributeModification="COERCE",
            )
        ]
        ds.ReferringPhysicianIdentificationSequence = [
            _item(
                PersonIdentificationCodeSequence=[
                    _item(CodeValue="7", CodingSchemeDesignator="99STAFF", CodeMeaning=f"Dr. {person.referrer}")
                ],
                InstitutionName=staff.institution,
                PersonTelephoneNumbers=plant("place", staff.phone),
            )
        ]


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


# --- pictures -------------------------------------------------------------------------------------------------------


def _draw(study: Study, shot: Shot, person: Person, rng: np.random.Generator, artist: np.random.Generator) -> Picture:
    low, high = shot.scanner.sides_px
    rows, columns = (int(rng.integers(low // 16, high // 16 + 1)) * 16 for _ in range(2))
    image = draw_chest(study.findings, artist, rows=rows, columns=columns, view=shot.view, style=shot.scanner.style)
    return _burn_in(image, person) if shot.burned_in else image


def _burn_in(image: Picture, person: Person) -> Picture:
    ink = _lettering(f"{person.family} {person.given}  {person.patient_id}", image.shape[0], image.shape[1])
    return np.where(ink, np.float32(1.0), image)


def _lettering(text: str, rows: int, columns: int) -> NDArray[np.bool_]:
    """White text in the upper left corner, True where there is ink."""
    canvas = Image.new("L", (columns, rows), 0)
    ImageDraw.Draw(canvas).text((6, 6), text, fill=255)
    return np.asarray(canvas) > 127


def _add_radiograph(ds: Dataset, image: Picture, shot: Shot, person: Person) -> None:
    """CR and DX image modules: PS3.3 C.8.1.2, C.8.11. The picture shown by the file's own windows is `image`."""
    scanner = shot.scanner
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.ViewPosition = "LL" if shot.view == "LATERAL" else shot.view
    ds.PatientOrientation = ["P", "F"] if shot.view == "LATERAL" else ["L", "F"]
    ds.KVP, ds.Exposure = "117", "3"
    ds.ImagerPixelSpacing = [f"{scanner.spacing_mm}", f"{scanner.spacing_mm}"]
    if scanner.modality == "DX":
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1
        ds.PresentationLUTShape = "INVERSE" if scanner.photometric == "MONOCHROME1" else "IDENTITY"
        ds.ImageLaterality = "U"
        ds.AcquisitionContextSequence = []
    if shot.burned_in:
        ds.BurnedInAnnotation = "YES"
    elif scanner.modality == "DX":
        ds.BurnedInAnnotation = "NO"
    stored = _stored_values(ds, image, scanner)
    if "overlay" in scanner.quirks:
        _add_overlay(ds, person, image.shape[0], image.shape[1])
    if "high-bits" in scanner.quirks:
        stored = _fill_high_bits(stored, person.patient_id)
    _add_pixels(ds, stored, scanner.bits_stored, scanner.photometric, scanner.syntax)


def _stored_values(ds: Dataset, image: Picture, scanner: Scanner) -> NDArray[np.uint16]:
    """Values whose way through modality LUT and VOI LUT (PS3.3 C.11.1, C.11.2) ends at the picture; sets those LUTs."""
    top = (1 << scanner.bits_stored) - 1
    shown = 1 - image if scanner.photometric == "MONOCHROME1" else image
    low, high = (0, top) if scanner.window == "none" else (round(0.04 * top), round(0.92 * top))
    slope, intercept = scanner.rescale or (1.0, 0.0)
    if scanner.rescale:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = f"{slope}", f"{intercept}", "US"
    if scanner.window == "lut":
        low, high = 1000, 5095
        stored = low + (high - low) * shown**1.4
        curve = np.linspace(0, 1, high - low + 1) ** (1 / 1.4)
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [len(curve), low, 16])
        table.LUTExplanation = "CHEST"
        table.add_new("LUTData", "OW", np.round(curve * 65535).astype("<u2").tobytes())
        ds.VOILUTSequence = [table]
    elif scanner.window == "sigmoid":
        centre, width = top / 2, 0.35 * top
        safe = np.clip(shown, 0.01, 0.99)
        stored = centre + width / 4 * np.log(safe / (1 - safe))
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = f"{centre:.1f}", f"{width:.1f}", "SIGMOID"
    else:
        stored = low + (high - low) * shown
    if scanner.window in ("single", "several"):
        first, last = slope * low + intercept, slope * high + intercept
        centres, widths = [f"{(first + last + 1) / 2:.2f}"], [f"{last - first + 1:.2f}"]
        if scanner.window == "several":
            centres.append(f"{(first + last) / 2:.2f}")
            widths.append(f"{(last - first) * 0.6:.2f}")
            ds.WindowCenterWidthExplanation = ["NORMAL", "HARDER"]
        ds.WindowCenter, ds.WindowWidth = centres, widths
    result = np.clip(np.round(stored), 0, top).astype(np.uint16)
    if scanner.padding:
        value = top if scanner.photometric == "MONOCHROME1" else 0
        result = np.pad(result[8:-8, 8:-8], 8, constant_values=value)
        ds.add_new("PixelPaddingValue", "US", value)
    return result


def _add_overlay(ds: Dataset, person: Person, rows: int, columns: int) -> None:
    """A graphic overlay with the patient's name drawn in it: PS3.3 C.9.2."""
    bits = np.packbits(_lettering(f"{person.family} {person.patient_id}", rows, columns), bitorder="little").tobytes()
    ds.add_new(0x60000010, "US", rows)
    ds.add_new(0x60000011, "US", columns)
    ds.add_new(0x60000022, "LO", f"Name {person.given} {person.family}")
    ds.add_new(0x60000040, "CS", "G")
    ds.add_new(0x60000050, "SS", [1, 1])
    ds.add_new(0x60000100, "US", 1)
    ds.add_new(0x60000102, "US", 0)
    ds.add_new(0x60001500, "LO", person.patient_id)
    ds.add_new(0x60003000, "OW", bits + b"\0" * (len(bits) % 2))


def _fill_high_bits(stored: NDArray[np.uint16], text: str) -> NDArray[np.uint16]:
    """Text in the four bits above BitsStored 12, two pixels a byte, high half first."""
    data = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint16)
    halves = np.stack([data >> 4, data & 15], axis=1).ravel()
    flat = stored.ravel().copy()
    flat[: len(halves)] |= halves << 12
    return flat.reshape(stored.shape)


def _add_ct(ds: Dataset, study: Study, artist: np.random.Generator) -> None:
    """One axial slice, PS3.3 C.8.2.1: Hounsfield units by RescaleIntercept -1024, two windows."""
    hounsfield = draw_ct_slice(study.findings, artist, rows=256, columns=256)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientPosition = "HFS"
    ds.PatientOrientation = ["L", "P"]
    ds.ImagePositionPatient = ["-180", "-180", "-112.5"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing = ["1.40625", "1.40625"]
    ds.SliceThickness, ds.KVP = "5", "120"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "-1024", "HU"
    ds.WindowCenter, ds.WindowWidth = ["-600", "40"], ["1500", "400"]
    ds.WindowCenterWidthExplanation = ["LUNG", "MEDIASTINUM"]
    stored = np.clip(np.round(hounsfield + 1024), 0, 4095).astype(np.uint16)
    _add_pixels(ds, stored, 12, "MONOCHROME2", "explicit")


def _add_pixels(ds: Dataset, stored: NDArray[np.uint16], bits: int, photometric: str, syntax: str) -> None:
    """Image Pixel module (PS3.3 C.7.6.3), encoded in the transfer syntax."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, photometric, 0
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 8 if bits <= 8 else 16
    ds.BitsStored, ds.HighBit = bits, bits - 1
    data = stored.astype("<u2" if bits > 8 else np.uint8).tobytes()
    word = "OW" if bits > 8 or syntax == "implicit" else "OB"
    ds.add_new("PixelData", word, data + b"\0" * (len(data) % 2))
    if syntax in _ENCODERS:
        ds.compress(SYNTAXES[syntax], encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    elif syntax == "jpeg":
        _compress_jpeg(ds, stored.astype(np.uint8))
    ds.file_meta.TransferSyntaxUID = SYNTAXES[syntax]


def _compress_jpeg(ds: Dataset, pixels: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92)
    ds.add_new("PixelData", "OB", encapsulate([buffer.getvalue()]))
    ds["PixelData"].is_undefined_length = True
    ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", "ISO_10918_1"
    ds.LossyImageCompressionRatio = f"{pixels.size / len(buffer.getvalue()):.2f}"


# --- ordinary pictures in the same form -----------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureRow:
    """One ordinary picture (8-bit grey PNG or JPEG), whose it is, and one closed question with its answer."""

    path: Path
    site: str
    patient_id: str
    question: str
    answer: str


_WRAPPERS = tuple(
    Scanner(vendor, model, "CR", 8, photometric, syntax, window="none", quirks=quirks)
    for vendor, model, photometric, syntax, quirks in (
        ("Portex", "Bedside Mini", "MONOCHROME2", "explicit", ("comments",)),
        ("ZENITH RADIOGRAPHY", "Model D", "MONOCHROME1", "deflated", ("overlay",)),
        ("AURUM IMAGING", "Aurum CR-1", "MONOCHROME1", "jpeg-ls", ("nested", "utf16")),
        ("Helixa Medical Systems", "Clarity 100", "MONOCHROME2", "rle", ("preamble",)),
    )
)


def write_from_pictures(
    rows: Sequence[PictureRow],
    folder: Path,
    *,
    seed: int = 0,
    truth_folder: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Truth]:
    """Write each site's pictures as `<folder>/<site>/`: CR files with planted identifiers, and one conversation each.

    Guarantees: a row's patient_id is planted like any other identifier (as a second ID), and one patient keeps one
    PatientID over all pictures. Grey values are stored exactly. Truth goes to `<truth_folder>/<site>.json`.
    """
    result: dict[str, Truth] = {}
    done = 0
    for number, site in enumerate(sorted({row.site for row in rows})):
        mine = [row for row in rows if row.site == site]
        truth = None if truth_folder is None else truth_folder / f"{site}.json"
        _need_room(folder / site, truth)
        hospital = _wrapping_hospital(site, number)
        written = []
        for index, patient in enumerate(sorted({row.patient_id for row in mine})):
            theirs = sorted((row for row in mine if row.patient_id == patient), key=lambda row: row.path.name)
            written.append(_wrap_patient(hospital, folder / site, seed, index, patient, theirs))
            done += len(theirs)
            if progress is not None:
                progress(done, len(rows))
        _write_reports(hospital, folder / site, written, seed)
        result[site] = _finish(site, written, truth)
    return result


def _wrapping_hospital(site: str, number: int) -> Hospital:
    layout = ("numbered", "uid", "export", "flat")[number % 4]
    town = TOWNS[(len(FOUR) + number) % len(TOWNS)]
    scanner = _WRAPPERS[number % len(_WRAPPERS)]
    charset = ("ISO_IR 100", "ISO_IR 192", "", "ISO_IR 101")[number % 4]
    nobody = Prevalence(0.0, 0.0, 0.0, 0.0)
    return Hospital(site, "Hospital", town, 0, nobody, (scanner,), "structured", character_set=charset, layout=layout)


def _wrap_patient(
    hospital: Hospital, folder: Path, seed: int, index: int, patient: str, pictures: Sequence[PictureRow]
) -> _Written:
    rng = np.random.default_rng([seed, number_of(hospital.site_id), 2, index])
    staff, plant = _staff(hospital, seed), Plants()
    person = make_person(index, staff, rng, character_set=hospital.character_set, youngest=1, oldest=90)
    plant_person(person, plant)
    moment = datetime(2025, 1, 1, 7) + timedelta(seconds=int(rng.integers(500 * 86400)))
    rows, studies = [], []
    for number, picture in enumerate(pictures, start=1):
        study = new_study(staff, rng, plant, number=number, moment=moment, previous=None, findings=())
        moment += timedelta(days=int(rng.integers(1, 20)), seconds=int(rng.integers(36000)))
        shot = Shot(hospital.scanners[0], serial_of(hospital, 0), "AP", 1)
        dataset = _header(hospital, staff, person, study, shot, rng, plant)
        dataset.OtherPatientIDsSequence.append(_item(PatientID=plant("id", patient), TypeOfPatientID="TEXT"))
        _add_radiograph(dataset, _load_picture(picture.path), shot, person)
        name = _file_name(hospital.layout, index, person, study, shot, dataset, rng)
        _save(dataset, folder / name)
        rows.append(conversation_row([name], [(picture.question, picture.answer)]))
        studies.append(StudyTruth(study.uid, (name,), (), "jsonl"))
    return _Written(person, frozenset(plant.values), tuple(studies), tuple(rows))


def _load_picture(path: Path) -> Picture:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    except OSError:
        raise DataError("folder-absent", "a picture of the manifest cannot be read", hint="check the folder") from None


# --- looking for leaks ----------------------------------------------------------------------------------------------


def find_leaks(folder: Path, truth: Truth) -> list[Leak]:
    """Every plant of `truth` in any file or name below `folder`, once per file.

    Looks at names; raw bytes (UTF-8, UTF-16, single-byte sets, base64); decoded text without case and accents (DICOM
    elements at any depth, JSON strings with escapes, plain text); inflated streams (deflated DICOM, gzip, zip,
    compressed PNG text); and the bits above BitsStored. Text drawn into pixels is not read.
    """
    plants = truth.plants()
    raw, text = byte_needles(plants), text_needles(plants)
    leaks = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        found: dict[Plant, str] = dict.fromkeys(text.find(plain(name).encode()), "name")
        found |= {plant: "bytes" for plant in raw.find(data)}
        for how, content in _hidden_streams(data):
            needles = text if how == "text" else raw
            found |= {plant: how for plant in needles.find(content) if plant not in found}
        leaks += [Leak(name, how, plant.kind, plant.value) for plant, how in found.items()]
    return sorted(leaks, key=lambda leak: (leak.file, leak.kind, leak.value))


def _hidden_streams(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What one file holds that its raw bytes do not show: (`text`, `inflated` or `high-bits`, content)."""
    if data[128:132] != b"DICM":
        yield from hidden_streams(data)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(io.BytesIO(data))
            elements = [*dataset.file_meta, *dataset.iterall()]
            values = [element.value for element in elements if element.tag != 0x7FE00010 and element.VR != "SQ"]
        except (InvalidDicomError, AttributeError, NotImplementedError, ValueError, OSError):
            return
    yield "text", plain("\n".join(str(value) for value in values if not isinstance(value, bytes))).encode()
    if dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        yield "inflated", b"\0".join(value for value in values if isinstance(value, bytes))
    native = not UID(dataset.file_meta.get("TransferSyntaxUID", "")).is_compressed
    if native and dataset.get("BitsAllocated") == 16 and dataset.get("BitsStored", 16) <= 12:
        words = np.frombuffer(dataset.get("PixelData", b""), dtype="<u2")
        halves = (words[: len(words) // 2 * 2] >> 12).astype(np.uint8)
        yield "high-bits", (halves[0::2] << 4 | halves[1::2]).tobytes()


# --- the small command ----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """`four` writes the demo's hospitals; `wrap` wraps the pictures that a manifest lists."""
    parser = argparse.ArgumentParser(prog="python -m sim.phantoms", description="write pretended hospitals")
    commands = parser.add_subparsers(dest="command", required=True)
    four = commands.add_parser("four", help="the four hospitals of the demo")
    four.add_argument("out", type=Path)
    four.add_argument("--patients", type=int)
    four.add_argument("--workers", type=int, default=2)
    wrap = commands.add_parser("wrap", help="ordinary pictures as the CR files of pretended hospitals")
    wrap.add_argument("manifest", type=Path)
    wrap.add_argument("images", type=Path)
    wrap.add_argument("out", type=Path)
    wrap.add_argument("--question", required=True)
    wrap.add_argument("--positive", required=True, help="the label whose answer is Yes; all others are No")
    for command in (four, wrap):
        command.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    truth = asked.out.with_name(asked.out.name + "-truth")
    try:
        if asked.command == "four":
            for hospital in four_hospitals(asked.patients):
                site, path = asked.out / hospital.site_id, truth / f"{hospital.site_id}.json"
                write_hospital(hospital, site, seed=asked.seed, truth=path, workers=asked.workers)
                print(f"{hospital.site_id}: {hospital.patients} patients", file=sys.stderr)
        else:
            rows = read_manifest(asked.manifest, asked.images, question=asked.question, positive=asked.positive)
            for site in write_from_pictures(rows, asked.out, seed=asked.seed, truth_folder=truth):
                print(f"{site}: {sum(row.site == site for row in rows)} pictures", file=sys.stderr)
    except FedError as error:
        print(f"wardround: error: {error}\nwardround: hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    return 0


def read_manifest(manifest: Path, images: Path, *, question: str, positive: str) -> list[PictureRow]:
    """Rows of a CSV with the columns image, site, patient_id, label; the answer is Yes where label is `positive`.

    A picture is looked for at `images/<image>`, then at `images/<file name of image>`.
    """
    rows = []
    try:
        with manifest.open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines):
                path = images / line["image"]
                path = path if path.exists() else images / Path(line["image"]).name
                answer = "Yes." if line["label"] == positive else "No."
                rows.append(PictureRow(path, line["site"], line["patient_id"], question, answer))
    except (OSError, KeyError):
        raise DataError(
            "folder-absent", "the manifest cannot be read", hint="CSV with the columns image, site, patient_id, label"
        ) from None
    return rows


if __name__ == "__main__":
    sys.exit(main())
