"""De-identification against pydicom alone, on the same files in one run: `wardround sim bench deid`.

The header path is reading a file of 1 MB, cleaning its header and writing it: pydicom's share of the same work is
reading, visiting every element and writing. The full path is what ingest does with a file, the search for burned-in
text included. All in one process, in turns file by file, and in seconds of its processor, so that other work on the
machine does not count.
"""

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydicom
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from client.imaging.deid import clean
from client.imaging.header_path import clean_native
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawImage, RawStudy
from client.imaging.reports import RawTurn
from sim.memory import peak_mb

_SIDE = 724  # 724 x 724 values of 16 bits: 1 MB
_WARM_UP = 2


def bench(*, files: int = 60, full: int = 6, repeats: int = 3) -> dict[str, Any]:
    """What `wardround sim bench deid --json` prints. `full`: how many of the files go the full path."""
    profile, keys = DeidProfile.shipped(), SiteKeys.from_secret(bytes(range(32)))
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths = [_write(folder / f"{number}.dcm", number) for number in range(files)]
        target = folder / "out"
        ours: list[float] = []
        theirs: list[float] = []
        for turn in range(repeats):
            for number, path in enumerate(paths):
                header = partial(_header_path, path, target, profile, keys)
                both = [(ours, header), (theirs, partial(_pydicom, path, target))]
                for taken, work in both if (turn + number) % 2 else both[::-1]:
                    taken.append(_cpu_s(work))
        skip = _WARM_UP * 2
        header_s, pydicom_s = sum(ours[skip:]) / len(ours[skip:]), sum(theirs[skip:]) / len(theirs[skip:])
        clean(_study(paths[0], 0), profile, keys)  # opens the networks
        studies = [_study(path, number) for number, path in enumerate(paths[:full])]
        whole = [_cpu_s(partial(clean, study, profile, keys)) for study in studies]
        size = paths[0].stat().st_size
    figures = {
        "header_files_per_s": round(1 / header_s, 1),
        "header_ratio_to_pydicom": round(pydicom_s / header_s, 3),
        "full_files_per_s": round(1 / median(whole), 2),
        "peak_rss_mb": peak_mb(),
    }
    rows = [
        {"path": "pydicom read, walk, write", "files": len(theirs), "cpu_ms": round(1e3 * pydicom_s, 3)},
        {"path": "header: read, clean, write", "files": len(ours), "cpu_ms": round(1e3 * header_s, 3)},
        {"path": "full: header, pixels, search for text", "files": full, "cpu_ms": round(1e3 * median(whole), 1)},
    ]
    machine = {"python": platform.python_version(), "system": platform.system(), "numpy": np.__version__}
    machine |= {"pydicom": pydicom.__version__, "file_bytes": str(size)}
    return {"bench": "deid", "machine": machine, "figures": figures, "rows": rows}


def _header_path(path: Path, target: Path, profile: DeidProfile, keys: SiteKeys) -> None:
    parts = clean_native(path.read_bytes(), profile, keys)
    if parts is None:
        raise RuntimeError("the bench's own file does not go the header path")
    with target.open("wb") as file:
        file.writelines(parts)


def _pydicom(path: Path, target: Path) -> None:
    dataset = dcmread(path)
    for element in dataset.iterall():
        element.value  # noqa: B018  (reading converts it)
    dcmwrite(target, dataset)


def _study(path: Path, number: int) -> RawStudy:
    image = RawImage(path, "dicom", f"1.2.3.{number}.1", "", f"mrn-{number:06d}")
    return RawStudy((image,), ((RawTurn("Is there pneumonia?", "No."),),), "bench", False, frozenset())


def _write(path: Path, number: int) -> Path:
    """A radiograph with the header of a real one: some 90 elements, a private block, nested references."""
    rng = np.random.default_rng(number)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, f"1.2.3.{number}.1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"1.2.3.{number}", f"1.2.3.{number}.0"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = "Hollenstein^Mathilda", f"MRN-{number:06d}", "19500607"
    ds.PatientSex, ds.PatientAge, ds.Modality, ds.BodyPartExamined = "F", "069Y", "CR", "CHEST"
    for name in ("Study", "Series", "Acquisition", "Content"):
        setattr(ds, f"{name}Date", "20190304")
        setattr(ds, f"{name}Time", "143000")
    for keyword in (
        "AccessionNumber", "StudyID", "StationName", "SeriesDescription", "StudyDescription", "ProtocolName",
        "InstitutionName", "InstitutionalDepartmentName", "ManufacturerModelName", "DeviceSerialNumber",
        "SoftwareVersions", "PatientComments", "ImageComments", "InstitutionAddress", "RequestingService", "PlateID",
        "CassetteID", "DetectorID", "RequestedProcedureDescription", "PerformedProcedureStepDescription",
        "AdditionalPatientHistory", "Occupation", "PatientAddress", "PerformedProcedureStepID", "TimezoneOffsetFromUTC",
    ):  # fmt: skip
        setattr(ds, keyword, "Some words")
    for keyword in ("ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName", "RequestingPhysician"):
        setattr(ds, keyword, "Prendergast^A^^Dr.")
    ds.Manufacturer, ds.ViewPosition, ds.ImageType = "SIEMENS", "PA", ["ORIGINAL", "PRIMARY"]
    ds.KVP, ds.Exposure, ds.ExposureTime, ds.XRayTubeCurrent = "117", "3", "12", "250"
    ds.ImagerPixelSpacing, ds.PatientOrientation = ["0.143", "0.143"], ["L", "F"]
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = "2048", "4096", "1", "0"
    ds.FrameOfReferenceUID, ds.SeriesNumber, ds.InstanceNumber = f"1.2.3.{number}.9", 1, 1
    reference = Dataset()
    reference.ReferencedSOPClassUID = ComputedRadiographyImageStorage
    reference.ReferencedSOPInstanceUID = f"1.2.3.{number}.7"
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = "A24-0031", "S1"
    ds.ReferencedImageSequence, ds.RequestAttributesSequence = Sequence([reference]), Sequence([request])
    block = ds.private_block(0x0009, "VENDOR 1.0", create=True)
    for element in range(1, 20):
        block.add_new(element, "LO", "Hollenstein Mathilda")
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows = ds.Columns = _SIDE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    shade = np.linspace(300, 3700, _SIDE)[None, :] + rng.normal(0, 40, (_SIDE, _SIDE))
    ds.PixelData = shade.clip(0, 4095).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(path, ds, enforce_file_format=True)
    return path


def _cpu_s(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
