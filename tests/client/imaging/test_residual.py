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
TERMS = DeidProfile.shipped().terms


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


def test_dark_pixels_are_no_record_number() -> None:
    dataset, header = original(), Dataset()
    dataset.PatientID, header.PixelData = "4829134711", "4829134711".encode("utf-16-le")
    found = collect(dataset, DeidProfile.shipped().limits)

    assert residue_in(header, b"head" + header.PixelData, found, TERMS) is None
    assert residue_in(header, header.PixelData + b"head" + header.PixelData, found, TERMS) == "id"


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
    header.PixelData = words

    assert residue_in(header, words + words, found, TERMS) == kind
    assert residue_in(header, b"head" + words, found, TERMS) is None


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
