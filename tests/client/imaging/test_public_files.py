"""All DICOM files in pydicom's own package, through reader, header, pixels and text search. Nothing is fetched."""

from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data.data_manager import DATA_ROOT

from client.imaging.dataset import clean_dataset
from client.imaging.export import export
from client.imaging.header import border, class_code, kind_of, read
from client.imaging.identifiers import collect
from client.imaging.ocr import Reader
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DeidError

NO_PICTURES = ("class-refused", "class-unknown", "not-dicom")


def outcome(path: Path, profile: DeidProfile, keys: SiteKeys, reader: Reader) -> str:
    try:
        if kind_of(path) != "dicom":
            return "not-dicom"
        dataset = read(path, profile.limits, pixels=True)
        if (code := class_code(str(dataset.SOPClassUID), profile)) is not None:
            return code
        with border("malformed", "a header field does not convert"):
            collect(dataset, profile.limits)
            clean_dataset(dataset, profile, keys)
        render(dataset, profile, reader)
        return "clean"
    except DeidError as error:
        return error.code


@pytest.mark.slow
def test_every_public_file_is_cleaned_or_refused_for_a_listed_reason(
    profile: DeidProfile, keys: SiteKeys, reader: Reader
) -> None:
    files = sorted(path for path in (Path(DATA_ROOT) / "test_files").rglob("*") if path.is_file())
    found = Counter(outcome(path, profile, keys, reader) for path in files)

    assert len(files) > 150 and set(found) <= DeidError.codes | {"clean"}
    pictures = sum(found.values()) - sum(found[code] for code in (*NO_PICTURES, "malformed"))  # malformed: no class
    assert found["clean"] >= 0.9 * pictures


@pytest.mark.slow
def test_an_export_writes_most_public_files(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> None:
    """Not written: structured reports, an ECG, broken streams, a page of text, objects without any class."""
    counts = export(Path(DATA_ROOT) / "test_files", tmp_path / "out", profile, keys, tmp_path / "spool", workers=2)
    objects = counts.written + counts.already + sum(counts.quarantined.values())

    assert set(counts.quarantined) <= DeidError.codes
    assert counts.written + counts.already >= 0.92 * (objects - counts.quarantined["malformed"])
    made = [dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    assert len(made) == counts.written == len({one.SOPInstanceUID for one in made})
    assert all(one.PatientIdentityRemoved == "YES" for one in made)
