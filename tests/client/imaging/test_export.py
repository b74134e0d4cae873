import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from client.imaging.export import ExportCounts, _decoded, _exported, export
from client.imaging.header_path import clean_native
from client.imaging.ingest import ingest
from client.imaging.ocr import Reader
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawImage, object_code
from client.imaging.store import Store
from client.imaging.withheld import KeptOut
from federation.errors import DataError, StoreError

Make = Callable[..., FileDataset]
Save = Callable[[FileDataset, Path], Path]
WORDS = (b"quixano", b"alonso", b"mrn-0", b"acc0000", b"1.2.3.4", b"toboso", b"carrasco", b"19500607", b"20190304")


@pytest.fixture
def run(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Callable[[Path], ExportCounts]:
    return lambda folder: export(folder, tmp_path / "out", profile, keys, tmp_path / "spool", workers=0)


def part(**attributes: Any) -> Dataset:
    """An item of a sequence."""
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


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
    assert not [place for place in (tmp_path / "out").rglob("*") if place.stat().st_mode & 0o077]
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

    assert (counts.written, counts.rejected, len(outputs(tmp_path))) == (2, 2, 2)
    assert counts.quarantined == {"burned-in": 1}


def test_files_without_a_patient_id_have_a_pseudonym_per_study(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save
) -> None:
    for number in (1, 2):
        for image in (1, 2):
            one = make_chest(number, PatientID="", SOPInstanceUID=f"1.2.3.4.{number}.{image}")
            save(one, tmp_path / "in" / f"{number}{image}")

    assert run(tmp_path / "in") == ExportCounts(4, 0, {}, 0)
    made = [dcmread(path) for path in outputs(tmp_path)]
    assert len({one.PatientID for one in made}) == len({one.StudyInstanceUID for one in made}) == 2
    assert len({(one.PatientID, one.StudyInstanceUID) for one in made}) == 2


@pytest.mark.parametrize("patient_id", ["MRN-1", ""])
def test_several_contents_under_one_instance_uid_are_all_written_apart(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save, keys: SiteKeys, patient_id: str
) -> None:
    """Both may be the right one. The first keeps its name; without an id nothing says that they are of one person."""
    for name, width in (("a", "100"), ("b", "200"), ("c", "200")):
        save(make_chest(1, WindowWidth=width, PatientID=patient_id), tmp_path / "in" / name)

    assert run(tmp_path / "in") == ExportCounts(2, 1, {}, 0)
    made = {str(one.WindowWidth): one for one in map(dcmread, outputs(tmp_path))}
    assert made["100"].SOPInstanceUID == keys.new_uid("1.2.3.4.1.1") != made["200"].SOPInstanceUID
    assert made["200"].file_meta.MediaStorageSOPInstanceUID == made["200"].SOPInstanceUID
    assert (made["100"].PatientID == made["200"].PatientID) == bool(patient_id)
    assert run(tmp_path / "in") == ExportCounts(0, 3, {}, 0)


def test_a_header_without_its_pixels_is_written_as_a_header(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save
) -> None:
    save(make_chest(1, PixelData=None, StudyInstanceUID=None), tmp_path / "in" / "1")

    assert run(tmp_path / "in").written == 1
    [path] = outputs(tmp_path)
    made = dcmread(path)
    assert made.Rows == 64 and "PixelData" not in made and made.StudyInstanceUID.startswith("2.25.")
    assert not [word for word in WORDS if word in path.read_bytes().lower()]


def test_radiotherapy_and_segmentations_are_written_without_their_words_and_never_trained_on(
    tmp_path: Path,
    run: Callable[[Path], ExportCounts],
    make_chest: Make,
    save: Save,
    keys: SiteKeys,
    profile: DeidProfile,
) -> None:
    contour = part(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=2, ContourData=[1.5, 2, 3, 4, 5, 6.25])
    structures = make_chest(
        1, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", Modality="RTSTRUCT", PixelData=None,
        StructureSetLabel="Quixano plan", StructureSetDate="20190304", ReferencedFrameOfReferenceSequence=Sequence([
            part(FrameOfReferenceUID="1.2.3.4.77", RTReferencedStudySequence=Sequence([
                part(ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1", ReferencedSOPInstanceUID="1.2.3.4.1")]))]),
        StructureSetROISequence=Sequence([part(ROINumber=7, ROIName="PTV Quixano", ROIDescription="dr Carrasco")]),
        ROIContourSequence=Sequence([part(ReferencedROINumber=7, ContourSequence=Sequence([contour]))]),
        RTROIObservationsSequence=Sequence([part(ObservationNumber=1, RTROIInterpretedType="ALONSO"),
                                            part(ObservationNumber=2, RTROIInterpretedType="PTV")]),
    )  # fmt: skip
    dose = make_chest(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2", Modality="RTDOSE", BitsAllocated=32,
                      BitsStored=32, HighBit=31, NumberOfFrames=3, DoseUnits="GY", DoseComment="Quixano",
                      DoseGridScaling="1e-6", GridFrameOffsetVector=[0, 2.5, 5])  # fmt: skip
    grid = np.arange(3 * 64 * 64, dtype="<u4") * 100_000
    dose.PixelData = grid.tobytes() + b"Quixano^Alonso"
    segments = make_chest(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG", BitsAllocated=1, BitsStored=1,
                          HighBit=0, NumberOfFrames=2, SegmentationType="BINARY", ContentLabel="QUIXANO",
                          SegmentSequence=Sequence([part(SegmentNumber=1, SegmentLabel="Quixano")]))  # fmt: skip
    y, x = np.mgrid[:64, :64]
    oval = np.hypot(x - 30, 2 * (y - 28)) < 20
    segments.PixelData = np.packbits([oval, oval.T], bitorder="little").tobytes()
    for number, one in enumerate((structures, dose, segments)):
        save(one, tmp_path / "in" / str(number))

    assert run(tmp_path / "in") == ExportCounts(3, 0, {}, 0)
    made = {one.Modality: one for one in map(dcmread, outputs(tmp_path))}
    assert not [word for path in outputs(tmp_path) for word in WORDS if word in path.read_bytes().lower()]
    frame = made["RTSTRUCT"].ReferencedFrameOfReferenceSequence[0]
    assert frame.RTReferencedStudySequence[0].ReferencedSOPInstanceUID == made["RTSTRUCT"].StudyInstanceUID
    assert made["RTSTRUCT"].ROIContourSequence[0].ContourSequence[0].ContourData == [1.5, 2, 3, 4, 5, 6.25]
    assert [one.get("RTROIInterpretedType") for one in made["RTSTRUCT"].RTROIObservationsSequence] == [None, "PTV"]
    assert (pixel_array(made["RTDOSE"]).ravel() == grid).all() and made["RTDOSE"].GridFrameOffsetVector == [0, 2.5, 5]
    assert made["SEG"].SegmentSequence[0].SegmentNumber == 1 and made["SEG"].PixelData == segments.PixelData
    assert made["SEG"].ContentLabel == made["SEG"].SegmentSequence[0].SegmentLabel == "REMOVED"
    assert {object_code(one.SOPClassUID, profile) for one in made.values()} == {"class-refused"}


@pytest.mark.parametrize("big_endian", [False, True])
def test_waveforms_and_presentation_states_are_written_without_their_words(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save, big_endian: bool
) -> None:
    samples = np.arange(-6, 6, dtype="<i2").reshape(6, 2)
    spare = np.where(samples[:, :1] > 0, samples, samples & 0x0FFF)  # twelve bits of sixteen, and an overlay above
    stored = (spare | 0x7000).astype(">i2" if big_endian else "<i2")
    lead = part(ChannelSourceSequence=Sequence([part(
        CodeValue="5.6.3-9-62", CodingSchemeDesignator="SCPECG", CodeMeaning="Quixano")]),
        ChannelLabel="Alonso", ChannelSensitivity="1.25", WaveformBitsStored=12)  # fmt: skip
    group = part(NumberOfWaveformChannels=2, NumberOfWaveformSamples=6, SamplingFrequency="500",
                 WaveformOriginality="ORIGINAL", MultiplexGroupLabel="Quixano", WaveformBitsAllocated=16,
                 WaveformSampleInterpretation="SS", ChannelDefinitionSequence=Sequence([lead, lead]))  # fmt: skip
    group.add_new("WaveformData", "OW", stored.tobytes() + b"Quixano^Alonso")
    beats = make_chest(1, SOPClassUID="1.2.840.10008.5.1.4.1.1.9.1.1", Modality="ECG", PixelData=None,
                       WaveformSequence=Sequence([group]),
                       WaveformAnnotationSequence=Sequence([part(UnformattedTextValue="Quixano")]))  # fmt: skip
    table = part(WindowCenter="40", WindowWidth="400", WindowCenterWidthExplanation="Quixano")
    beats.add_new("WaveformPaddingValue", "OB", b"Quixano^")  # where there is no waveform
    beats.add_new("WaveformData", "OB", b"Quixano^")
    state = make_chest(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", Modality="PR", PixelData=None,
                       ContentLabel="QUIXANO", ContentDescription="of Alonso", SoftcopyVOILUTSequence=Sequence([table]),
                       GraphicAnnotationSequence=Sequence([part(TextObjectSequence=Sequence([
                           part(UnformattedTextValue="Quixano")]))]))  # fmt: skip
    for number, one in enumerate((beats, state)):
        if big_endian:
            one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            one.set_original_encoding(False, False)
        save(one, tmp_path / "in" / str(number))

    assert run(tmp_path / "in") == ExportCounts(2, 0, {}, 0)
    made = {one.Modality: one for one in map(dcmread, outputs(tmp_path))}
    assert not [word for path in outputs(tmp_path) for word in WORDS if word in path.read_bytes().lower()]
    [written] = made["ECG"].WaveformSequence
    assert (np.frombuffer(written.WaveformData, "<i2").reshape(6, 2) == samples).all()
    assert written.ChannelDefinitionSequence[0].ChannelSourceSequence[0].CodeMeaning == "Lead aVR"
    assert made["PR"].SoftcopyVOILUTSequence[0].WindowCenter == 40 and made["PR"].ContentLabel == "REMOVED"


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


@pytest.mark.parametrize(
    ("finds", "ends"), [(2, ExportCounts(1, 0, {}, 0)), (9, ExportCounts(0, 0, {"burned-in": 1}, 0))]
)
def test_what_stands_out_only_beside_covered_text_is_covered_too_or_holds_the_file_back(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save,
    monkeypatch: pytest.MonkeyPatch, finds: int, ends: ExportCounts,
) -> None:  # fmt: skip
    chest = make_chest(1, size=64)
    save(chest, tmp_path / "in" / "1")
    looks = iter(range(finds))

    def one_more_row(*_: object) -> object:
        row = next(looks, None)
        return None if row is None else (np.arange(64)[:, None].repeat(64, 1) == row, (60, 60))

    monkeypatch.setattr("client.imaging.export.cover", one_more_row)

    assert run(tmp_path / "in") == ends
    for path in outputs(tmp_path):
        before, after = pixel_array(chest), pixel_array(dcmread(path))
        assert (after[:2] == before[60, 60]).all() and (after[2:] == before[2:]).all()


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


@pytest.mark.parametrize("frame", [0, 15, 29])
def test_text_in_some_frames_is_covered_in_all(
    tmp_path: Path, run: Callable[[Path], ExportCounts], make_chest: Make, save: Save, frame: int
) -> None:
    chest = make_chest(1, size=384, NumberOfFrames=30, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.3")
    written_on(chest, "")
    clean = chest.PixelData
    size = len(clean) // 30
    first = written_on(chest, "QUIXANO 19500607")
    text = chest.PixelData[:size]
    moved = np.roll(np.frombuffer(text, "<u2").reshape(384, 384), 100, axis=0).tobytes()
    frames = [clean[:size]] * 30
    frames[frame], frames[3] = text, moved
    chest.PixelData = b"".join(frames)
    save(chest, tmp_path / "in" / "1")

    assert run(tmp_path / "in").written == 1
    after = pixel_array(dcmread(outputs(tmp_path)[0]))
    dark = after[0][first][0]
    assert (after[:, first] == dark).mean() > 0.99
    assert (after[:, np.roll(first, 100, axis=0)] == dark).mean() > 0.99
    assert (after[:, 200:] == pixel_array(chest)[:, 200:]).all()


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


def test_a_refused_export_removes_nothing(hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts]) -> None:
    """Somebody types `~` for the output."""
    (tmp_path / "out/Downloads").mkdir(parents=True)
    (tmp_path / "out/Downloads/iso.part").touch()
    with pytest.raises(StoreError) as exists:
        run(hospital)

    assert exists.value.code == "output-exists" and (tmp_path / "out/Downloads/iso.part").exists()


def test_an_export_removes_what_a_killed_one_has_left_and_no_other_part(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts]
) -> None:
    run(hospital)
    [whole, *_] = outputs(tmp_path)
    left = whole.with_name(whole.name + ".part")
    left.touch()
    other, folder = whole.with_name("thesis.part"), whole.with_name("x.part")
    other.touch()
    folder.mkdir()

    assert run(hospital).already == 3
    assert not left.exists() and other.exists() and folder.exists()


def test_an_export_of_the_folder_that_its_spool_lies_in_is_refused(
    hospital: Path, tmp_path: Path, profile: DeidProfile, keys: SiteKeys
) -> None:
    """What is unpacked there would be read a second time."""
    with pytest.raises(DataError) as overlap:
        export(hospital, tmp_path / "out", profile, keys, hospital / "site" / "spool", workers=0)

    assert overlap.value.code == "folder-overlap"


@pytest.mark.parametrize(
    ("kind", "code"),
    [("file", "output-exists"), ("dangling", "output-exists"), ("loop", "output-exists"), ("long", "output-failed")],
)
def test_an_output_that_is_no_folder_is_said_to_be_none(
    kind: str, code: str, hospital: Path, tmp_path: Path, profile: DeidProfile, keys: SiteKeys
) -> None:
    target = tmp_path / ("n" * 300 if kind == "long" else kind)
    if kind == "file":
        target.touch()
    elif kind != "long":
        target.symlink_to(target if kind == "loop" else tmp_path / "nowhere")
    with pytest.raises(StoreError) as refused:
        export(hospital, target, profile, keys, tmp_path / "spool", workers=0)

    assert refused.value.code == code


def test_a_file_in_the_place_of_a_folder_ends_the_export(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts], keys: SiteKeys
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / keys.patient_key("", "MRN-000001")).touch()
    with pytest.raises(StoreError) as refused:
        run(hospital)

    assert refused.value.code == "output-exists"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EIO, "Input/output error"), "output-failed"),
        (StoreError("disk-full", "the disk is full", hint="free some space"), "disk-full"),
    ],
)
def test_what_hinders_the_output_is_no_fault_of_a_file(
    error: Exception, code: str, tmp_path: Path, profile: DeidProfile, keys: SiteKeys, make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def hindered(*_: object) -> str:
        raise error

    path = tmp_path / "one.dcm"
    make_chest().save_as(path, enforce_file_format=True)
    monkeypatch.setattr("client.imaging.export._put", hindered)
    outcome = _exported(profile, keys, tmp_path, KeptOut(), RawImage(path, "dicom", "1.2.3", "", "MRN-000001"))

    assert isinstance(outcome, StoreError) and outcome.code == code


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written_is_one_error(
    hospital: Path, tmp_path: Path, run: Callable[[Path], ExportCounts]
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(StoreError) as refused:
        run(hospital)
    assert refused.value.code == "no-permission"


@pytest.mark.parametrize("patient_id", ["MRN-1", ""])
def test_both_ways_of_writing_give_one_file(
    tmp_path: Path, make_chest: Make, profile: DeidProfile, keys: SiteKeys, patient_id: str
) -> None:
    path = tmp_path / "one.dcm"
    make_chest(PatientID=patient_id).save_as(path, enforce_file_format=True)
    native = clean_native(path.read_bytes(), profile, keys)
    assert native is not None
    fast, slow = b"".join(native), _decoded(dcmread(path), "", profile, keys)

    assert fast == slow


@pytest.mark.parametrize("group", [False, True])
def test_what_a_person_took_out_of_the_store_is_in_no_export(
    hospital: Path, store: Store, tmp_path: Path, profile: DeidProfile, keys: SiteKeys, make_chest: Make, save: Save,
    group: bool,
) -> None:  # fmt: skip
    """Patients 1 to 3 have a device in common, 4 has another size; 5 comes after the hold."""
    save(make_chest(4, size=80), hospital / "pacs" / "4" / "IM0001")
    ingest(hospital, store, profile, keys, workers=0)
    example = store.examples(store.patients()[0])[0]
    taken = store.withhold([example.example_key], "unclear", group=group)
    save(make_chest(5), hospital / "pacs" / "5" / "IM0001")

    counts = export(
        hospital, tmp_path / "out", profile, keys, tmp_path / "spool", workers=0, kept_out=store.kept_out()
    )  # fmt: skip
    assert taken.pictures == (3 if group else 1)
    assert (counts.written, counts.quarantined) == ((1, {"unclear": 4}) if group else (4, {"unclear": 1}))
    out = {dcmread(path).PatientID for path in (tmp_path / "out").rglob("*.dcm")}
    assert keys.patient_key("", "MRN-000004") in out
    assert (keys.patient_key("", "MRN-000005") in out) is not group
    assert len(out & set(store.patients())) == (0 if group else 2)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_segmented_palette_is_written_as_the_table_that_it_means(
    run: Callable[[Path], ExportCounts], tmp_path: Path, make_chest: Make, save: Save, syntax: Any
) -> None:
    dataset = make_chest(1)
    order = "<" if syntax.is_little_endian else ">"
    indices = (np.arange(64 * 64) % 5).astype("u1")
    dataset.PixelData, dataset.PhotometricInterpretation = indices.tobytes(), "PALETTE COLOR"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    del dataset.WindowCenter, dataset.WindowWidth
    for colour, last in (("Red", 40000), ("Green", 60000), ("Blue", 20000)):
        segments = np.array([0, 1, 0, 1, 4, last, 0, 7], f"{order}u2").tobytes() + b"QuixanoAlonso1"
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [5, 0, 16])
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", segments)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.set_original_encoding(False, syntax.is_little_endian)
    save(dataset, tmp_path / "in" / "one")

    assert run(tmp_path / "in") == ExportCounts(1, 0, {}, 0)
    [path] = outputs(tmp_path)
    out = dcmread(path)
    assert b"QuixanoAlonso" not in path.read_bytes() and "SegmentedRedPaletteColorLookupTableData" not in out
    assert np.frombuffer(out.RedPaletteColorLookupTableData, "<u2").tolist() == [0, 10000, 20000, 30000, 40000]
    assert np.frombuffer(out.GreenPaletteColorLookupTableData, "<u2").tolist() == [0, 15000, 30000, 45000, 60000]
    assert pixel_array(out).tobytes() == indices.tobytes()


def test_a_colour_palette_is_written_without_who_made_it(run: Callable[[Path], ExportCounts], tmp_path: Path) -> None:
    shipped_with_pydicom = Path(pydicom.__file__).parent / "data/palettes"
    counts = run(shipped_with_pydicom)

    assert counts.written == 8 and not counts.quarantined
    for path in outputs(tmp_path):
        out = dcmread(path)
        assert out.SOPClassUID == "1.2.840.10008.5.1.4.39.1" and "PixelMed" not in str(out)
        assert len(out.RedPaletteColorLookupTableData) == 256 and out.RedPaletteColorLookupTableDescriptor == [
            256,
            0,
            8,
        ]
        assert out.ContentLabel == "REMOVED" and not out.ContentCreatorName


@pytest.mark.parametrize("stated", ["HSV", "ARGB", "QUIXANO"])
def test_pixels_of_a_colour_space_that_is_none_are_not_written(
    run: Callable[[Path], ExportCounts], tmp_path: Path, make_chest: Make, save: Save, stated: str
) -> None:
    save(make_chest(1, PhotometricInterpretation=stated), tmp_path / "in" / "one")
    packed = make_chest(2)
    packed.compress(RLELossless)
    packed.PhotometricInterpretation = stated
    save(packed, tmp_path / "in" / "two")

    counts = run(tmp_path / "in")
    assert counts.written == 0 and sum(counts.quarantined.values()) == 2
