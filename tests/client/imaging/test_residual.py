import pytest
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


@pytest.mark.parametrize(("value", "kind"), [("20190304", "date"), ("48291734", "id"), ("150", None)])
def test_a_number_with_the_digits_of_a_date_or_an_id_is_found(value: str, kind: str | None) -> None:
    dataset, header = original(), Dataset()
    dataset.PatientID = "48291734"
    header.SeriesNumber, header.ExposureTime = value, "1"

    assert residue_in(header, b"", collect(dataset, DeidProfile.shipped().limits), TERMS) == kind


def test_dark_pixels_are_no_record_number() -> None:
    dataset, header = original(), Dataset()
    dataset.PatientID, header.PixelData = "4829134711", "4829134711".encode("utf-16-le")
    found = collect(dataset, DeidProfile.shipped().limits)

    assert residue_in(header, b"head" + header.PixelData, found, TERMS) is None
    assert residue_in(header, header.PixelData + b"head" + header.PixelData, found, TERMS) == "id"
