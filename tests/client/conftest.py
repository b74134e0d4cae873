"""A hospital's site without keys, as most tests of its commands need it, and files for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

SITE = """
[site]
id = "toboso"
[data]
store = "store"
secret = "secret"
declared_patients = 100
[policy]
epsilon_max = 8.0
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "site.toml").write_text(SITE)
    (folder / "secret").write_bytes(bytes(range(32)))
    (folder / "secret").chmod(0o600)
    return folder


@pytest.fixture
def image() -> Callable[..., FileDataset]:
    """Makes the small radiograph of patient MRN-`number`, with other attributes as named."""

    def made(number: int, **changes: str) -> FileDataset:
        dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
        dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.3.4.{number}.1"
        dataset.StudyInstanceUID, dataset.AccessionNumber = f"1.2.3.4.{number}", f"ACC000{number}"
        dataset.PatientID, dataset.PatientName, dataset.Modality = f"MRN-{number}", "Quixano^Alonso", "CR"
        dataset.Rows = dataset.Columns = 32
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = np.arange(1024, dtype=np.uint8).tobytes()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        return dataset

    return made
