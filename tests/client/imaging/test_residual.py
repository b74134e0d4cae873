from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from pydicom import config
from pydicom.dataset import Dataset

from client.imaging.identifiers import collect
from client.imaging.profile import DeidProfile
from client.imaging.residual import residue_in


def original() -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.PatientID = "Quixano^Alonso=山田^太郎", "MRN-004711"
    dataset.StudyDate, dataset.StudyInstanceUID = "20190304", "1.2.3.4.5"
    dataset.InstitutionName = "Toboso General Hospital"
    return dataset


FOUND = collect(original(), DeidProfile.shipped().limits)
TERMS, LIMITS = DeidProfile.shipped().terms, DeidProfile.shipped().limits


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("PatientComments", "seen by Alonso again", "name"),
        ("PatientComments", "QUIXANO", "name"),
        ("PatientComments", "山田", "name"),
        ("PatientComments", "患者山田様", "name"),
        ("PatientComments", "mrn 004711, mrn004711", "id"),
        ("PatientComments", "at Toboso general hospital", "place"),
        ("PatientComments", "on 20190304", "date"),
        ("SeriesInstanceUID", "1.2.3.4.5", "uid"),
        ("PatientComments", "nothing to see", None),
    ],
)
def test_an_identifier_in_any_decoded_value_is_found(keyword: str, value: str, kind: str | None) -> None:
    header, item = Dataset(), Dataset()
    setattr(item, keyword, value)
    header.ReferencedImageSequence = [item]

    assert residue_in(header, b"", FOUND, TERMS) == kind


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_an_identifier_in_the_raw_bytes_is_found_in_its_encodings(encoding: str) -> None:
    data = b"\x00" * 99 + "QuixanO".encode(encoding) + b"\x01" * 99

    assert residue_in(Dataset(), data, FOUND, TERMS) == "name"
    assert residue_in(Dataset(), b"\x00" * 99 + "Zuixano".encode(encoding), FOUND, TERMS) is None


def test_words_of_the_closed_lists_are_no_hit_for_a_patient_of_that_name() -> None:
    dataset = Dataset()
    dataset.PatientName = "Chest^Siemens"
    found = collect(dataset, DeidProfile.shipped().limits)
    header = Dataset()
    header.BodyPartExamined, header.Manufacturer = "CHEST", "SIEMENS"

    assert residue_in(header, b"", found, TERMS) is None


def test_a_patient_may_be_called_like_a_word_that_we_write_ourselves() -> None:
    dataset, header = Dataset(), Dataset()
    dataset.PatientName, dataset.AccessionNumber, dataset.StationName = "Patient^Philips", "000000", "REMOVED"
    found = collect(dataset, DeidProfile.shipped().limits)
    header.Manufacturer, header.StudyTime, header.SeriesNumber = "PHILIPS", "000000", "1"
    header.DeidentificationMethod, header.StructureSetLabel = "Retain Patient Characteristics Option", "REMOVED"
    data = b"PHILIPS Retain Patient Characteristics Option REMOVED"

    assert residue_in(header, data, found, TERMS) is None
    assert residue_in(header, data + b" philips", found, TERMS) == "name"


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("SeriesNumber", "44721", "id"), ("KVP", "44721.0", "id"), ("KVP", "12345678", "id"),
        ("KVP", "1.2345678e7", "id"), ("KVP", "-12345678.5", "id"), ("ExposureInuAs", "0044721", "id"),
        ("KVP", "19500607.143", "date"), ("KVP", "20190304", "date"), ("KVP", "7061950", "date"),
        ("ExposureInuAs", "190304", "date"), ("DVHMinimumDose", "06071950", "date"),
        ("KVP", "44721.5", None), ("KVP", "4472", None), ("ExposureInuAs", "44722", None), ("KVP", "1e30", None),
    ],
)  # fmt: skip
def test_a_number_with_the_digits_of_a_date_or_an_id_is_found(keyword: str, value: str, kind: str | None) -> None:
    """A quantity with a fraction must have the digits of a whole date or a long id: there are thousands in a table."""
    dataset, header = original(), Dataset()
    dataset.PatientID, dataset.AccessionNumber, dataset.PatientBirthDate = "MRN 0012345678", "A44721", "19500607"
    setattr(header, keyword, value)

    assert residue_in(header, b"", collect(dataset, DeidProfile.shipped().limits), TERMS) == kind


def test_a_binary_number_can_be_an_id_and_a_sample_of_two_bytes_is_none() -> None:
    dataset, header, samples = original(), Dataset(), Dataset()
    dataset.PatientID = "44721"
    found = collect(dataset, DeidProfile.shipped().limits)
    header.DimensionIndexValues, samples.LargestImagePixelValue = [1, 44721], 44721
    samples["LargestImagePixelValue"].VR = "US"

    assert residue_in(header, b"", found, TERMS) == "id"
    assert residue_in(samples, b"", found, TERMS) is None


@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("length", [5, 6, 8, 10])
def test_dark_pixels_are_no_record_number(length: int, kind: str) -> None:
    """Grey values from 48 to 57 are digits, in one byte as in two."""
    grey = np.random.default_rng(length).integers(48, 58, 1 << 18).astype(kind)
    dataset, header = original(), Dataset()
    dataset.PatientID = "".join(map(chr, grey[5000 : 5000 + length]))
    header.PixelData = grey.tobytes()

    assert residue_in(header, b"head" + header.PixelData, collect(dataset, LIMITS), TERMS) is None


def carriers() -> dict[str, Callable[[bytes], Dataset]]:
    """What has bytes that are numbers: each with a text in the midst of them."""
    soft = np.random.default_rng(3).normal(0, 2, 1 << 16) + 90 + 60 * np.sin(np.arange(1 << 16) / 70)

    def pixels(text: bytes) -> Dataset:
        dataset = Dataset()
        grey = soft.astype(np.uint8).tobytes()
        dataset.PixelData = grey[:9001] + text + grey[9001 + len(text) :]
        return dataset

    def table(text: bytes, vr: str = "OW") -> Dataset:
        dataset, item = Dataset(), Dataset()
        grey = (np.arange(256, dtype="<u2") * 250).tobytes()
        data = grey[:100] + text + grey[100 + len(text) :]
        item.add_new("LUTData", vr, np.frombuffer(data, "<u2").tolist() if vr == "US" else data)
        dataset.VOILUTSequence = [item]
        return dataset

    def waves(text: bytes) -> Dataset:
        dataset, item = Dataset(), Dataset()
        beat = (np.sin(np.arange(400) / 7) * 500).astype("<i2").tobytes()
        item.add_new("WaveformData", "OW", beat[:201] + text + beat[201 + len(text) :])
        dataset.WaveformSequence = [item]
        return dataset

    return {"pixels": pixels, "table": table, "words": partial(table, vr="US"), "waves": waves}


@pytest.mark.parametrize("carrier", carriers())
@pytest.mark.parametrize(
    ("keyword", "value", "written", "kind"),
    [
        ("PatientID", "TB-80215-47", "TB-80215-47", "id"), ("PatientID", "TB-80215-47", "tb8021547", "id"),
        ("PatientID", "312.884.609", "312.884.609", "id"), ("PatientID", "5120/99317", "5120/99317", "id"),
        ("PatientID", "CD 7718204", "CD 7718204", "id"), ("PatientID", "CD 7718204", "7718204", "id"),
        ("PatientID", "604413", "604413", "id"), ("AccessionNumber", "60441", "60441", "id"),
        ("PatientName", "Wöhler^Käthe", "Wöhler", "name"), ("PatientName", "Wöhler^Käthe", "WÖHLER", "name"),
        ("PatientName", "Wöhler^Käthe", "woehler", "name"), ("PatientName", "Wöhler^Käthe", "Käthe Wöhler", "name"),
        ("PatientName", "Ibáñez^Óscar", "IBÁÑEZ, ÓSCAR", "name"), ("PatientName", "Сидорова^Анна", "Сидорова", "name"),
        ("PatientName", "Сидорова^Анна", "СИДОРОВА", "name"), ("PatientName", "D'Arcy-Hume^Ann", "D'Arcy-Hume", "name"),
        ("PatientName", "Rae^Kim", "Rae^Kim", "name"),
        ("PatientBirthDate", "19570913", "19570913", "date"), ("PatientBirthDate", "19570913", "13.09.1957", "date"),
        ("PatientBirthDate", "19570913", "09/13/1957", "date"), ("PatientBirthDate", "19570913", "1957-09-13", "date"),
        ("PatientBirthDate", "19570913", "13 Sep 1957", "date"), ("PatientBirthDate", "19570913", "13.09.57", "date"),
        ("PatientBirthDate", "19570913", "1957-09-14", None), ("PatientID", "604413", "604414", None),
    ],
)  # fmt: skip
def test_an_identifier_in_bytes_that_are_numbers_is_found_as_it_can_stand_there(
    keyword: str, value: str, written: str, kind: str | None, carrier: str
) -> None:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    setattr(dataset, keyword, value)
    found = collect(dataset, LIMITS)
    for encoding in ("utf-8", "latin-1", "iso8859-5", "utf-16-le", "utf-16-be"):
        try:
            text = written.encode(encoding)
        except UnicodeError:
            continue
        header = carriers()[carrier](text)
        with config.disable_value_validation():
            assert residue_in(header, b"head" + header.get("PixelData", b""), found, TERMS) == kind, encoding


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("PT: Lee", "name"), ("lee^kim", "name"), ("MRN 44721", "id"), ("id=A44", "id"), ("DOB 1950-06-07", "date"),
        ("DOB 07.06.1950,", "date"), ("born 06/07/1950", "date"), ("DOB 19500607", "date"), ("DOB 07061950", "date"),
        ("fleece", None), ("sleek or leek", None), ("144721", None), ("2.25.44721.19500607.1", None),
        ("44721.5 119500607", None), ("DOB 1950-07-08", None), ("1950-06.07", None),
    ],
)  # fmt: skip
def test_a_short_word_or_a_date_is_found_where_it_stands_alone(text: str, kind: str | None, encoding: str) -> None:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = "Lee", "19500607", "44721"
    dataset.AccessionNumber = "A-44"
    found, header = collect(dataset, DeidProfile.shipped().limits), Dataset()
    words = b"\1\2\0\0" + text.encode(encoding) + b"\0\0\3\4"
    header.PixelData = b"\0" * 64

    assert residue_in(header, words + header.PixelData, found, TERMS) == kind


@pytest.mark.parametrize("text", ["PT: Lee", "lee^kim", "id=A44", "DOB 1950-07-08"])
def test_a_short_word_in_pixels_may_be_one_by_chance(text: str) -> None:
    dataset, header = Dataset(), Dataset()
    dataset.PatientName, dataset.PatientBirthDate, dataset.AccessionNumber = "Lee", "19500607", "A-44"
    header.PixelData = b"\1\2\0\0" + text.encode() + b"\0\0\3\4"

    assert residue_in(header, b"head" + header.PixelData, collect(dataset, LIMITS), TERMS) is None


def test_a_name_of_two_ideographs_is_found_before_the_pixels() -> None:
    dataset, header = Dataset(), Dataset()
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", "Wang^Ming=王^明"
    dataset.OtherPatientNames = "王明"
    found = collect(dataset, DeidProfile.shipped().limits)
    header.PixelData = "王明".encode("gb18030")

    assert residue_in(header, header.PixelData + b"\1\2" + header.PixelData, found, TERMS) == "name"
    assert residue_in(header, b"head" + header.PixelData, found, TERMS) is None


def test_a_short_word_of_our_own_is_no_hit() -> None:
    dataset, header = Dataset(), Dataset()
    dataset.PatientName, dataset.PatientBirthDate = "Head^Yes", "19000101"
    found = collect(dataset, DeidProfile.shipped().limits)
    with config.disable_value_validation():
        header.BodyPartExamined, header.PatientIdentityRemoved, header.ContentDate = "head", "YES", "19000101"
    data = b"\4\0head\4\0YES \x08\x0019000101"

    assert residue_in(header, data, found, TERMS) is None
    assert residue_in(header, data + b" YES", found, TERMS) == "name"
    assert residue_in(header, data + b" 01.01.1900", found, TERMS) == "date"
