from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from client.imaging.dataset import age_years, clean_dataset
from client.imaging.header import border, read
from client.imaging.identifiers import collect
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from federation.errors import DeidError

Make = Callable[..., FileDataset]
PLANTED = "Planted^Name"


def nested(depth: int, value: str = PLANTED) -> Dataset:
    item = Dataset()
    item.PatientName = value
    item.ReferencedSOPInstanceUID = "1.2.3.99"
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    if depth:
        item.ReferencedImageSequence = Sequence([nested(depth - 1, value)])
    return item


def test_every_row_of_the_table_is_gone_at_the_top_and_nested(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    from pydicom.datadict import dictionary_VR

    text_vrs = {"LO", "SH", "ST", "LT", "UT", "PN", "UC", "AE"}
    inner, outer = Dataset(), make_chest()
    for tag in profile.actions:
        try:
            vr = dictionary_VR(int(tag, 16))
        except KeyError:
            vr = "LO"  # newer than the dictionary
        if vr in text_vrs:
            inner.add_new(int(tag, 16), vr, "PLANTED")
            outer.add_new(int(tag, 16), vr, "PLANTED")
    outer.ReferencedImageSequence = Sequence([inner])
    clean = clean_dataset(outer, profile, keys)

    assert "PLANTED" not in str(clean)


def test_what_no_rule_names_is_dropped(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    dataset = make_chest(AdditionalPatientHistory="x", PatientComments="x", ContrastBolusAgent="PLANTED")
    dataset.add_new(0x00091001, "LO", "PLANTED")
    dataset.add_new(0x60003000, "OW", b"PLANTED ")
    dataset.add_new(0x60000022, "LO", "PLANTED")
    dataset.add_new(0x50003000, "OW", b"PLANTED ")
    dataset.add_new(0xFFFCFFFC, "OB", b"PLANTED ")
    dataset.add_new(0x00189999, "UN", b"PLANTED ")
    clean = clean_dataset(dataset, profile, keys)

    assert "PLANTED" not in str(clean)
    assert not [tag for tag in clean.keys() if Tag(tag).is_private]


def test_references_between_kept_objects_stay_intact(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    target = clean_dataset(make_chest(1, SOPInstanceUID="1.2.3.99"), profile, keys)
    source = clean_dataset(make_chest(2, ReferencedImageSequence=Sequence([nested(3)])), profile, keys)
    deep = source.ReferencedImageSequence[0].ReferencedImageSequence[0]

    assert deep.ReferencedSOPInstanceUID == target.SOPInstanceUID
    assert deep.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert PLANTED not in str(source)


def test_dates_of_one_patient_move_together_and_birth_dates_go(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    from datetime import datetime

    clean = clean_dataset(make_chest(AcquisitionDate="20190314"), profile, keys)
    moved = [datetime.strptime(str(value), "%Y%m%d") for value in (clean.StudyDate, clean.AcquisitionDate)]

    assert (moved[1] - moved[0]).days == 10 and moved[0].year < 2019
    assert clean.StudyTime == "000000" and not clean.PatientBirthDate and not clean.PatientName
    assert clean.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("BodyPartExamined", "QUIXANO"), ("ImageType", ["ORIGINAL", "QUIXANO"]), ("ViewPosition", "QUIXANO"),
        ("Manufacturer", "Quixano Instruments"), ("PatientSex", "QUIXANO"),
    ],
)  # fmt: skip
def test_words_outside_the_closed_lists_do_not_stay(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, keyword: str, value: Any
) -> None:
    clean = clean_dataset(make_chest(**{keyword: value}), profile, keys)

    assert "quixano" not in str(clean).casefold()


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("Manufacturer", "G.E. Medical Systems", "GE"), ("Manufacturer", "TOSHIBA_MEC", "TOSHIBA"),
        ("Manufacturer", "GEORGE", None), ("ImagedNucleus", "H", "H"),
        ("SequenceVariant", ["SK", "TOF"], ["SK", "TOF"]),
    ],
)  # fmt: skip
def test_words_stay_as_devices_write_them(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, keyword: str, value: Any, kept: Any
) -> None:
    assert clean_dataset(make_chest(**{keyword: value}), profile, keys).get(keyword) == kept


def test_a_code_keeps_the_meaning_of_the_dictionary_not_of_the_file(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    known, private = Dataset(), Dataset()
    known.CodeValue, known.CodingSchemeDesignator, known.CodeMeaning = "51185008", "SCT", "PLANTED"
    private.CodeValue, private.CodingSchemeDesignator, private.CodeMeaning = "PLANTED", "99ABC", "PLANTED"
    clean = clean_dataset(make_chest(AnatomicRegionSequence=Sequence([known, private])), profile, keys)

    assert "PLANTED" not in str(clean)
    assert [item.CodeValue for item in clean.AnatomicRegionSequence] == ["51185008"]


def test_sequences_that_nest_too_deep_are_refused(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    with pytest.raises(DeidError) as refused:
        clean_dataset(make_chest(ReferencedImageSequence=Sequence([nested(20)])), profile, keys)

    assert refused.value.code == "limit-nesting"
    assert PLANTED not in str(refused.value)


@pytest.mark.parametrize(("text", "years"), [("045Y", 45), ("093Y", 90), ("018M", 1), ("quix", None), ("", None)])
def test_an_age_over_89_becomes_90(text: str, years: int | None) -> None:
    assert age_years(text) == years


def test_two_patients_without_an_id_stay_two(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    one = clean_dataset(make_chest(1, PatientID=""), profile, keys)
    again = clean_dataset(make_chest(1, PatientID=None), profile, keys)
    other = clean_dataset(make_chest(2, PatientID=" "), profile, keys)

    assert one.PatientID == again.PatientID != other.PatientID


@pytest.mark.parametrize("keyword", ["PatientName", "PatientBirthDate", "PatientSex"])
def test_two_patients_without_an_id_stay_two_in_one_study(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, keyword: str
) -> None:
    def patient(**changes: str | None) -> str:
        return str(clean_dataset(make_chest(1, PatientID="", **changes), profile, keys).PatientID)

    other = {"PatientName": "Smith^Mary", "PatientBirthDate": "19801212", "PatientSex": "M"}[keyword]
    assert len({patient(), patient(**{keyword: other}), patient(**{keyword: ""})}) == 3
    assert patient(**{keyword: None}) == patient(**{keyword: ""})
    assert patient() == patient(PatientName="QUIXANOA^alonso ", SOPInstanceUID="1.2.3.4.1.9")


def test_pixels_and_icons_inside_sequences_are_dropped(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    icon = nested(0)
    icon.add_new(0x7FE00010, "OB", b"PLANTED ")
    icon.Rows = icon.Columns = 2
    dataset = make_chest(ReferencedImageSequence=Sequence([icon]), IconImageSequence=Sequence([icon]))
    clean = clean_dataset(dataset, profile, keys)

    assert "IconImageSequence" not in clean and "PixelData" not in clean.ReferencedImageSequence[0]


def test_what_looks_registered_but_is_not_is_mapped(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    clean = clean_dataset(make_chest(FrameOfReferenceUID="1.2.840.10008.5.482913"), profile, keys)

    assert "482913" not in str(clean)


def test_nothing_hides_behind_the_end_of_a_palette(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    dataset = make_chest()
    dataset.add_new("RedPaletteColorLookupTableDescriptor", "US", [4, 0, 16])
    dataset.add_new("RedPaletteColorLookupTableData", "OW", b"\1\0\2\0\3\0\4\0PLANTED ")
    dataset.add_new("GreenPaletteColorLookupTableData", "OW", b"PLANTED ")
    dataset.add_new("BluePaletteColorLookupTableDescriptor", "US", [4, 0, 16])
    dataset.add_new("BluePaletteColorLookupTableData", "OW", b"PLANTED ")
    clean = clean_dataset(dataset, profile, keys)

    assert clean.RedPaletteColorLookupTableData == b"\1\0\2\0\3\0\4\0"
    assert "GreenPaletteColorLookupTableData" not in clean and "BluePaletteColorLookupTableData" not in clean


NOTE = b"PT: KIM LEE\r\nDOB 1950-06-07 MRN 44721\r\nWard 3B"
GRAYS = np.arange(256, dtype="<u2")


def looked_up(table: bytes, bits: int, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(table) // (1 + (bits > 8)) % 65536, 0, bits])
    words = np.frombuffer(table, "<u2").tolist() if vr == "US" else table
    item.add_new("LUTData", vr, words)
    return item


def samples(data: bytes) -> Dataset:
    group = Dataset()
    group.NumberOfWaveformChannels, group.WaveformBitsAllocated = 1, 16
    group.NumberOfWaveformSamples = len(data) // 2
    group.add_new("WaveformData", "OW", data)
    return group


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize(
    "table",
    [
        NOTE, GRAYS.tobytes() + NOTE, NOTE + GRAYS.tobytes(), NOTE.ljust(512, b"\0"),
        np.frombuffer(NOTE, ">u2").astype("<u2").tobytes(), GRAYS.tobytes() + "患者王明，科隆市立医院".encode(),
        GRAYS.tobytes() + "Jürgen Müller, Köln, 1. März".encode() + b"\0\0",
    ],
)  # fmt: skip
def test_a_line_of_text_costs_the_table_or_the_samples(
    table: bytes, vr: str, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    table += b"\0" * (len(table) % 2)
    dataset = make_chest(
        VOILUTSequence=Sequence([looked_up(table, 16, vr)]), WaveformSequence=Sequence([samples(table)])
    )
    clean = clean_dataset(dataset, profile, keys)

    assert "LUTData" not in clean.VOILUTSequence[0] and "WaveformData" not in clean.WaveformSequence[0]


@pytest.mark.parametrize("around", ["words", "letters", "beats"])
@pytest.mark.parametrize(
    "line",
    [
        "HARTWELL^OSKAR^19470226^MRN9083315", "Hartwell^Oskar^Emil^^Dr^19470226^M", "OSKAR_HARTWELL_OF_SOUTHBAY_1947",
        "Patient:HARTWELL,OSKAR;DOB:26.02.1947;ID:90833", "90833-260247-004-71-B3-SOUTH-ICU",
        "oskar.hartwell@southbay-clinic.example.org", "HARTWELLOSKAR19470226MRN9083315",
        "PID=90833/NAME=HARTWELL,OSKAR",
    ],
)  # fmt: skip
def test_a_line_without_blanks_costs_the_table_or_the_samples(
    line: str, around: str, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    beats = (np.sin(np.arange(400) / 7) * 500).astype("<i2").tobytes()
    ground = {"words": (GRAYS * 250).tobytes(), "letters": bytes(range(256)) * 2, "beats": beats}[around]
    table = ground[:101] + line.encode() + ground[101 + len(line) :]
    dataset = make_chest(VOILUTSequence=Sequence([looked_up(table, 16)]), WaveformSequence=Sequence([samples(table)]))
    clean = clean_dataset(dataset, profile, keys)

    assert "LUTData" not in clean.VOILUTSequence[0] and "WaveformData" not in clean.WaveformSequence[0]


def curves() -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Curves of look-up tables and palettes from 0 to 1."""
    made: dict[str, np.ndarray[Any, np.dtype[np.float64]]] = {}
    for size in (64, 256, 4096, 65536):
        x = np.linspace(0, 1, size)
        cube, hue = np.arange(size) // 6 % 6 / 5, 0.5 + 0.5 * np.sin(8 * np.pi * x)
        window, steps = np.clip(3 * x - 1, 0, 1), np.floor(20 * x) / 20
        shapes = (x, 1 - x, x**0.45, x**2.2, 1 / (1 + np.exp(5 - 10 * x)), window, steps, 0 * x, cube, hue)
        made |= {f"{size}-{number}": shape for number, shape in enumerate(shapes)}
    return made


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_ramp_is_no_text(bits: int, make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    """Entries of 8 bits run through all letters, and words of 16 bits have letters in both bytes: ` `, `!!`, `""`."""
    top = (1 << bits) - 1
    for curve in curves().values():
        for least in (0, 0x20, 0x2020):
            entries = np.round(min(least, top) + curve * (top - min(least, top))).astype(np.int64)
            forms = [entries.astype("<u2"), entries.astype(">u2"), (entries * (top + 2) % 65536).astype("<u2")]
            forms += [entries.astype("u1")] if bits == 8 else []
            for table in (form.tobytes() for form in forms):
                dataset = make_chest(
                    VOILUTSequence=Sequence([looked_up(table, 8 if len(table) == entries.size else 16)])
                )
                assert clean_dataset(dataset, profile, keys).VOILUTSequence[0].LUTData == table


@pytest.mark.parametrize("bits", [8, 16])
def test_a_ramp_of_letters_only_is_no_text(bits: int, make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    up = np.arange(0x20, 0x60, dtype=np.uint8)
    for entries in (up, up[::-1]):
        table = (entries if bits == 8 else entries * np.uint16(257)).tobytes()
        dataset = make_chest(VOILUTSequence=Sequence([looked_up(table, bits)]))

        assert clean_dataset(dataset, profile, keys).VOILUTSequence[0].LUTData == table


@pytest.mark.parametrize(("size", "around"), [(200, 0), (8000, 0), (6000, 16384), (4000, 20000), (1000, 24000)])
def test_samples_of_many_channels_are_no_text(
    size: int, around: int, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    """Interleaved channels jump from sample to sample, and a shifted zero makes letters of the upper bytes."""
    random, time = np.random.default_rng(size), np.arange(5000)
    beats = [np.sin(time / random.uniform(5, 80)) + random.normal(0, 0.05, 5000) for _ in range(12)]
    data = (np.stack(beats, 1) * size + around).astype("<i2").tobytes()
    clean = clean_dataset(make_chest(WaveformSequence=Sequence([samples(data)])), profile, keys)

    assert clean.WaveformSequence[0].WaveformData == data


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("KVP", "DS", "1956-03-12"), ("ExposureTime", "IS", "555-1234"), ("KVP", "DS", "1\\2"),
        ("KVP", "DS", "+4915112345"),
        ("AcquisitionMatrix", "US", [0x4F44, 0x5E45, 0x4E41, 0x454E]), ("BitsStored", "US", [12, 12]),
        ("SmallestImagePixelValue", "OB", b"PLANTED "), ("SpiralPitchFactor", "FD", 1.2345e200),
        ("VolumeToTableMappingMatrix", "FD", list(np.frombuffer(b"QUIXANOAALONSO^A", "<f8"))),
        ("VolumeToTableMappingMatrix", "FD", list(np.frombuffer(b"QUIXANO[ALONSO^A", "<f8"))),
        ("VolumeToTableMappingMatrix", "FD", [1.5, *np.frombuffer(b"QUIXANOAALONSO^A", "<f8")]),
        ("TableOfYBreakPoints", "FD", float(np.frombuffer(b"QUIXANOA", "<f8")[0])),
        ("FrameIncrementPointer", "AT", 0x4F445E45),
        ("DimensionIndexValues", "UL", list(np.frombuffer("王明李 ab".encode(), "<u4"))),
        ("DimensionIndexValues", "UL", list(np.frombuffer(b"LEE\r\nKIM", "<u4"))),
    ],
)  # fmt: skip
def test_letters_and_too_many_values_are_no_numbers(
    keyword: str, vr: str, value: object, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    dataset = make_chest()
    with config.disable_value_validation():
        if vr in ("DS", "IS"):
            raw = str(value).encode()
            dataset[keyword] = RawDataElement(Tag(keyword), vr, len(raw), raw, 0, False, True)
        else:
            dataset.add_new(keyword, vr, value)
    with border("malformed", ""):
        clean = clean_dataset(dataset, profile, keys)

    assert keyword not in clean or not clean[keyword].value


def test_a_number_that_cannot_be_read_costs_itself_only(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys, tmp_path: Path
) -> None:
    """In implicit VR nothing tells whether the least value is signed where the pixels are not described, and nothing
    how a look-up table without a descriptor is stored."""
    inner, lookup = Dataset(), Dataset()
    inner.add_new("SmallestImagePixelValue", "US", 7)
    inner.ReferencedSOPInstanceUID = "1.2.3.4.9"
    lookup.add_new("LUTData", "OW", b"\1\0\2\0")
    dataset = make_chest(ReferencedImageSequence=Sequence([inner]), VOILUTSequence=Sequence([lookup]))
    del dataset.PixelRepresentation
    dataset.add_new("LargestImagePixelValue", "US", 4000)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "x", enforce_file_format=True)
    with border("malformed", ""):
        found = collect(read(tmp_path / "x", profile.limits, pixels=True), profile.limits)
        clean = clean_dataset(read(tmp_path / "x", profile.limits, pixels=True), profile, keys)

    assert found.ids == {"mrn000001", "acc0000001"} and "1.2.3.4.9" in found.uids
    assert clean.ReferencedImageSequence[0].ReferencedSOPInstanceUID == keys.new_uid("1.2.3.4.9")
    assert clean.WindowCenter == 2048 and not {"LargestImagePixelValue", "VOILUTSequence"} & set(clean.dir())


def test_a_number_longer_than_its_vr_is_shortened_not_lost(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    with config.disable_value_validation():
        dataset = make_chest(PixelSpacing=["0.70312500000000011", "0.5"])
    clean = clean_dataset(dataset, profile, keys)

    assert clean.PixelSpacing == [0.703125, 0.5]


@pytest.mark.parametrize("keyword", ["SeriesNumber", "AcquisitionNumber", "InstanceNumber"])
@pytest.mark.parametrize("is_read", [True, False])
def test_a_number_that_only_orders_is_no_longer_than_one(
    keyword: str, is_read: bool, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    """Six digits may be a date or a time, seven a record number."""
    for text, stays in (
        ("7", True), ("30501", True), ("000000000012", True), ("-1", True), ("143000", False), ("07061950", False),
        ("1234567", False), ("190304.5", False),
    ):  # fmt: skip
        dataset = make_chest()
        dataset[keyword] = RawDataElement(Tag(keyword), "IS", len(text), text.encode(), 0, not is_read, True)
        with border("malformed", ""):
            clean = clean_dataset(dataset, profile, keys)

            assert str(clean.get(keyword, "") or "") == (text if stays else "")
        assert keyword in clean or keyword == "AcquisitionNumber"


def test_a_separator_too_many_costs_no_number_and_a_bad_rescale_the_object(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    def with_slope(raw: bytes) -> FileDataset:
        dataset = make_chest()
        dataset["RescaleSlope"] = RawDataElement(Tag("RescaleSlope"), "DS", len(raw), raw, 0, False, True)
        return dataset

    assert clean_dataset(with_slope(b"0.5\\"), profile, keys).RescaleSlope == 0.5
    with pytest.raises(DeidError) as refused, border("decode-failed", ""):
        clean_dataset(with_slope(b"12,5"), profile, keys)
    assert refused.value.code == "malformed"


def test_the_objects_of_one_patient_share_their_frame_of_reference(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    item = Dataset()
    item.ReferencedFrameOfReferenceUID = "1.2.3.77"
    image = make_chest(FrameOfReferenceUID="1.2.3.77")
    plan = make_chest(StudyInstanceUID="1.2.3.99", StructureSetROISequence=Sequence([item]))
    other = make_chest(2, FrameOfReferenceUID="1.2.3.77")
    one, two, three = (clean_dataset(each, profile, keys) for each in (image, plan, other))

    assert one.FrameOfReferenceUID == two.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    assert one.FrameOfReferenceUID != three.FrameOfReferenceUID


@pytest.mark.parametrize(
    ("sequence", "keyword", "value"),
    [
        ("", "EnergyWindowVector", [1, 1, 2]), ("", "RTImagePosition", [-200, 150]),
        ("", "ImagePlanePixelSpacing", [0.4, 0.4]), ("", "HeartRate", 60), ("", "SpectrallySelectedSuppression", "FAT"),
        ("RotationInformationSequence", "AngularStep", 3), ("MRTimingAndRelatedParametersSequence", "FlipAngle", 90),
        ("RealWorldValueMappingSequence", "RealWorldValueSlope", 1.5), ("MaskSubtractionSequence", "TIDOffset", 1),
        ("SequenceOfUltrasoundRegions", "PixelComponentDataType", 1), ("ExposureSequence", "MetersetExposure", 5),
    ],
)  # fmt: skip
def test_numbers_and_listed_words_that_a_reader_needs_stay(
    sequence: str, keyword: str, value: object, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    item, dataset = Dataset(), make_chest()
    setattr(item if sequence else dataset, keyword, value)
    if sequence:
        setattr(dataset, sequence, Sequence([item]))
    clean = clean_dataset(dataset, profile, keys)

    assert (clean[sequence][0] if sequence else clean)[keyword].value == value


def test_an_old_snomed_code_has_the_meaning_of_the_new_one(
    make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-111A1", "SRT", "PLANTED"
    clean = clean_dataset(make_chest(RadionuclideCodeSequence=Sequence([code])), profile, keys)

    assert "PLANTED" not in str(clean) and "Fluorine" in clean.RadionuclideCodeSequence[0].CodeMeaning


@pytest.mark.parametrize(
    "keyword",
    ["ContentDescription", "PositionReferenceIndicator", "OperatorsName", "ROIName", "ROIInterpreter",
     "TreatmentMachineName", "ReviewerName", "AcquisitionContextSequence"],
)  # fmt: skip
@pytest.mark.parametrize("depth", [0, 1])
def test_what_a_valid_object_must_state_is_there_and_empty(
    keyword: str, depth: int, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    item, told = Dataset(), Dataset()
    told.TextValue = PLANTED
    setattr(item, keyword, Sequence([told]) if keyword.endswith("Sequence") else PLANTED)
    dataset = make_chest(SegmentSequence=Sequence([item])) if depth else make_chest(**{keyword: item[keyword].value})
    clean = clean_dataset(dataset, profile, keys)
    place = clean.SegmentSequence[0] if depth else clean

    assert keyword in place and place[keyword].is_empty
    assert keyword not in clean_dataset(make_chest(), profile, keys)


@pytest.mark.parametrize("day", ["20190304", "no day", ""])
def test_when_a_presentation_was_made_moves_or_is_a_dummy(
    day: str, make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    with config.disable_value_validation():
        dataset = make_chest(PresentationCreationDate=day, PresentationCreationTime="121314")
        clean = clean_dataset(dataset, profile, keys)

    assert clean.PresentationCreationTime == "000000"
    assert clean.PresentationCreationDate == (clean.StudyDate if day == "20190304" else "19000101")


@pytest.mark.parametrize("told", [{"TrackingID": PLANTED}, {}])
def test_a_tracking_uid_goes_with_its_words(
    told: dict[str, str], make_chest: Make, profile: DeidProfile, keys: SiteKeys
) -> None:
    clean = clean_dataset(make_chest(TrackingUID="1.2.3", **told), profile, keys)

    assert "TrackingUID" not in clean and "TrackingID" not in clean


def test_stacks_are_numbered_and_a_place_in_none_goes(make_chest: Make, profile: DeidProfile, keys: SiteKeys) -> None:
    frames = []
    for name in (PLANTED, "7731904", PLANTED + " ", ""):
        content, frame = Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = name, 3
        frame.FrameContentSequence = Sequence([content])
        frames.append(frame)
    clean = clean_dataset(make_chest(PerFrameFunctionalGroupsSequence=Sequence(frames)), profile, keys)
    made = [frame.FrameContentSequence[0] for frame in clean.PerFrameFunctionalGroupsSequence[:3]]

    assert [content.StackID for content in made] == ["1", "2", "1"]
    assert [content.InStackPositionNumber for content in made] == [3, 3, 3]
    assert len(clean.PerFrameFunctionalGroupsSequence) == 3
