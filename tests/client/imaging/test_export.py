import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from client.imaging.export import ExportCounts, _decoded, export
from client.imaging.header_path import clean_native
from client.imaging.ocr import Reader
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DataError, StoreError

Make = Callable[..., FileDataset]
WORDS = (b"quixano", b"alonso", b"mrn-0", b"acc0000", b"1.2.3.4", b"toboso", b"carrasco", b"19500607", b"20190304")


@pytest.fixture
def run(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Callable[[Path], ExportCounts]:
    return lambda folder: export(folder, tmp_path / "out", profile, keys, tmp_path / "spool", workers=0)


def outputs(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_names_and_bytes_of_an_export_are_pseudonyms_only(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], keys: SiteKeys, make_chest: Make
) -> None:
    hidden = make_chest(1)
    hidden.preamble = b"Quixano^Alonso".ljust(128, b"\0")
    block = hidden.private_block(0x0029, "TOBOSO", create=True)
    block.add_new(1, "LO", "Quixano^Alonso")
    hidden.add_new(0x60003000, "OW", b"Quixano^")
    values = np.frombuffer(hidden.PixelData, "<u2") | (np.arange(64 * 64, dtype="<u2") << 12)
    hidden.PixelData = values.tobytes() + b"Quixano^Alonso"
    hidden.save_as(hospital / "pacs/1/IM0001", enforce_file_format=True)
    counts = run(hospital)

    assert counts == ExportCounts(3, 0, {}, 0)
    for path in outputs(tmp_path):
        patient, study, name = path.relative_to(tmp_path / "out").parts
        data = path.read_bytes()
        assert not [word for word in WORDS if word in data.lower() or word.decode() in str(path).lower()]
        assert data[:128] == bytes(128)
        made = dcmread(path)
        assert (patient, study, name) == (made.PatientID, made.StudyInstanceUID, made.SOPInstanceUID + ".dcm")
        assert made.PatientIdentityRemoved == "YES" and len(made.DeidentificationMethodCodeSequence) == 3
        assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
        assert int(pixel_array(made).max()) < 4096 and len(made.PixelData) == 64 * 64 * 2
    assert not (tmp_path / "spool").exists()


def test_clean_pixels_and_technical_attributes_stay_as_they_are(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], keys: SiteKeys, make_chest: Make
) -> None:
    run(hospital)
    original = make_chest(2)
    made = dcmread(tmp_path / "out" / keys.patient_key("", "MRN-000002") / keys.new_uid("1.2.3.4.2")
                   / f"{keys.new_uid('1.2.3.4.2.1')}.dcm")  # fmt: skip

    assert made.PixelData == original.PixelData
    for keyword in ("Rows", "Columns", "BitsStored", "WindowCenter", "WindowWidth", "PhotometricInterpretation",
                    "Modality", "ViewPosition", "BodyPartExamined", "SOPClassUID", "PatientSex"):  # fmt: skip
        assert made[keyword].value == original[keyword].value


def test_references_between_files_stay_intact(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make
) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3.4.1.1"
    second = make_chest(1, SOPInstanceUID="1.2.3.4.1.2", ReferencedImageSequence=Sequence([item]))
    second.save_as(hospital / "pacs/1/IM2", enforce_file_format=True)
    run(hospital)
    made = [dcmread(path) for path in outputs(tmp_path)]
    [reference] = [one.ReferencedImageSequence[0] for one in made if "ReferencedImageSequence" in one]

    assert reference.ReferencedSOPInstanceUID in {one.SOPInstanceUID for one in made if one is not reference}


def test_compressed_pixels_are_written_plain_and_unchanged(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], keys: SiteKeys, make_chest: Make
) -> None:
    packed = make_chest(1)
    plain = packed.PixelData
    packed.compress(RLELossless, generate_instance_uid=False)
    packed.save_as(hospital / "pacs/1/IM0001", enforce_file_format=True)

    assert run(hospital).written == 3
    [folder] = (tmp_path / "out" / keys.patient_key("", "MRN-000001")).iterdir()
    [made] = [dcmread(path) for path in folder.iterdir()]
    assert made.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and made.PixelData == plain


def test_what_cannot_be_proven_clean_is_not_written(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make
) -> None:
    make_chest(1, BurnedInAnnotation="YES").save_as(hospital / "pacs/1/IM0001", enforce_file_format=True)
    make_chest(2, PatientID="").save_as(hospital / "pacs/2/IM0001", enforce_file_format=True)
    (hospital / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (hospital / "notes.txt").write_text("Alonso Quixano")
    counts = run(hospital)

    assert (counts.written, counts.rejected, len(outputs(tmp_path))) == (1, 2, 1)
    assert counts.quarantined == {"burned-in": 1, "no-patient-id": 1}


def written_on(chest: FileDataset, text: str) -> np.ndarray:
    """Give its frames a body, and a line of text as bright as can be; where the ink is, (rows, columns)."""
    y, x = np.mgrid[: chest.Rows, : chest.Columns] / chest.Rows - 0.5
    shade = 30 + 130 * (np.hypot(x, y) < 0.45) - 90 * (np.hypot(np.abs(x) - 0.17, y) < 0.14)
    body = 12 * (shade + np.random.default_rng(5).normal(0, 6, shade.shape)).clip(0, 255) + 300
    ink = Image.new("L", (chest.Columns, chest.Rows), 0)
    ImageDraw.Draw(ink).text((8, 6), text, fill=255, font=ImageFont.load_default(20))
    there = np.asarray(ink) > 60
    chest.PixelData = np.where(there, 4095, body).astype("<u2").tobytes() * int(chest.get("NumberOfFrames", 1))
    return there


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("announced", ["YES", "NO", None])
def test_text_in_the_pixels_is_covered_and_all_other_pixels_stay(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, reader: Reader, profile: DeidProfile,
    photometric: str, announced: str | None,
) -> None:  # fmt: skip
    chest = make_chest(1, size=384, PhotometricInterpretation=photometric)
    there = written_on(chest, "QUIXANO 19500607")
    if announced:
        chest.BurnedInAnnotation = announced
    (tmp_path / "in").mkdir()
    chest.save_as(tmp_path / "in" / "IM1", enforce_file_format=True)

    assert run(tmp_path / "in").written == 1
    made = dcmread(outputs(tmp_path)[0])
    before, after = pixel_array(chest), pixel_array(made)
    changed = before != after
    rows, columns = np.nonzero(there)
    assert changed[there].mean() > 0.99 and not changed[rows.max() + 40 :].any()
    assert not changed[:, columns.max() + 60 :].any() and len(np.unique(after[changed])) == 1
    dark = after[changed][0]
    assert (after >= dark).all() if photometric == "MONOCHROME2" else (after <= dark).all()
    assert made.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence][-1] == "113101"
    assert not any(picture.blanked_share for picture in render(made, profile, reader))


def test_text_in_colour_is_covered_in_every_plane(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make
) -> None:
    chest = make_chest(1, size=320, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=1,
                       BitsAllocated=8, BitsStored=8, HighBit=7, WindowCenter=None, WindowWidth=None)  # fmt: skip
    ink = Image.new("RGB", (320, 320), (40, 60, 80))
    ImageDraw.Draw(ink).text((12, 12), "QUIXANO 19500607", fill=(255, 240, 0), font=ImageFont.load_default(22))
    values = np.asarray(ink)
    chest.PixelData = np.moveaxis(values, 2, 0).tobytes()
    (tmp_path / "in").mkdir()
    chest.save_as(tmp_path / "in" / "IM1", enforce_file_format=True)

    assert run(tmp_path / "in").written == 1
    assert (pixel_array(dcmread(outputs(tmp_path)[0])) == (40, 60, 80)).all()


def test_text_in_several_frames_holds_the_object_back(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make
) -> None:
    chest = make_chest(1, size=384, NumberOfFrames=2, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")
    written_on(chest, "QUIXANO 19500607")
    (tmp_path / "in").mkdir()
    chest.save_as(tmp_path / "in" / "IM1", enforce_file_format=True)

    assert run(tmp_path / "in").quarantined == {"burned-in": 1}
    assert not outputs(tmp_path)


def test_an_export_goes_on_and_never_overwrites(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, keys: SiteKeys
) -> None:
    run(hospital)
    before = set(outputs(tmp_path))
    make_chest(3, WindowWidth="100").save_as(hospital / "pacs/3/IM0001", enforce_file_format=True)
    [first] = (tmp_path / "out" / keys.patient_key("", "MRN-000001")).rglob("*.dcm")
    first.unlink()

    assert run(hospital) == ExportCounts(1, 1, {"duplicate-differs": 1}, 0)
    assert set(outputs(tmp_path)) == before


def test_an_export_into_other_files_or_into_its_source_is_refused(
    hospital: Path, tmp_path: Path, profile: DeidProfile, keys: SiteKeys, run: Callable[[Path], ExportCounts]
) -> None:
    with pytest.raises(DataError) as overlap:
        export(hospital, hospital / "out", profile, keys, tmp_path / "spool", workers=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(StoreError) as exists:
        run(hospital)

    assert (overlap.value.code, exists.value.code) == ("folder-overlap", "output-exists")


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written_is_one_error(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(StoreError) as refused:
        run(hospital)
    assert refused.value.code == "no-permission"


def test_both_ways_of_writing_give_one_file(
    tmp_path: Path, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    path = tmp_path / "one.dcm"
    make_chest().save_as(path, enforce_file_format=True)
    native = clean_native(path.read_bytes(), profile, keys)
    assert native is not None
    fast, slow = b"".join(native), _decoded(dcmread(path), profile, keys)

    assert fast == slow
