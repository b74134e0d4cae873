"""Small real hospitals: DICOM files written by pydicom, with identifiers planted in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client.imaging.ocr import Reader, shipped
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.store import Store

CR = "1.2.840.10008.5.1.4.1.1.1"


@pytest.fixture(scope="session")
def profile() -> DeidProfile:
    return DeidProfile.shipped()


@pytest.fixture(scope="session")
def reader() -> Reader:
    return shipped()


@pytest.fixture(scope="session")
def keys() -> SiteKeys:
    return SiteKeys.from_secret(bytes(range(32)))


@pytest.fixture
def store(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Store:
    return Store.create(tmp_path / "store", profile_digest=profile.digest, key_id=keys.key_id)


def chest(number: int = 1, *, size: int = 64, **changes: Any) -> FileDataset:
    """A radiograph of patient `number`. Changes set attributes; None removes one."""
    meta = FileMetaDataset()
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CR
    dataset.SOPInstanceUID = f"1.2.3.4.{number}.1"
    dataset.StudyInstanceUID = f"1.2.3.4.{number}"
    dataset.SeriesInstanceUID = f"1.2.3.4.{number}.0"
    dataset.PatientName = f"Quixano{chr(96 + number % 26)}^Alonso"
    dataset.PatientID = f"MRN-{number:06d}"
    dataset.PatientBirthDate = "19500607"
    dataset.PatientSex = "F"
    dataset.StudyDate = "20190304"
    dataset.StudyTime = "143000"
    dataset.AccessionNumber = f"ACC{number:07d}"
    dataset.ReferringPhysicianName = "Carrasco^Sanson^^Dr"
    dataset.InstitutionName = "Toboso General Hospital"
    dataset.Modality = "CR"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.Manufacturer = "SIEMENS Healthineers"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    rng = np.random.default_rng(number)
    ramp = np.linspace(200, 3800, size)[None, :] + rng.normal(0, 20, (size, size))
    dataset.PixelData = np.clip(ramp, 0, 4095).astype("<u2").tobytes()
    dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def save(dataset: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(name="save")
def save_fixture() -> Callable[[FileDataset, Path], Path]:
    return save


def row(image: str | list[str], *turns: tuple[str, str], **more: Any) -> str:
    """A line of conversation JSONL. Without turns: one closed question."""
    names = [image] if isinstance(image, str) else image
    said = []
    for at, (question, answer) in enumerate(turns or [("Is there pneumonia?", "Yes.")]):
        said += [
            {"from": "human", "value": "<image>\n" * (len(names) if at == 0 else 0) + question},
            {"from": "gpt", "value": answer},
        ]
    return json.dumps({"image": image, "conversations": said, **more}) + "\n"


@pytest.fixture
def make_chest() -> Callable[..., FileDataset]:
    return chest


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Three patients with a radiograph, a closed question and a report each."""
    folder = tmp_path / "hospital"
    lines = []
    for number in (1, 2, 3):
        save(chest(number), folder / "pacs" / f"{number}" / "IM0001")
        report = f"FINDINGS: Mr. Quixano{chr(96 + number)} has a small left effusion, 12 mm. Seen on 03/04/2019."
        lines.append(row(f"pacs/{number}/IM0001", ("Is there pneumonia?", "No."), ("Describe the findings.", report)))
    (folder / "reports.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
