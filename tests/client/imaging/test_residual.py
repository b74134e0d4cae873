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


@pytest.mark.parametrize(
    ("keyword", "value", "kind"),
    [
        ("PatientComments", "seen by Alonso again", "name"),
        ("PatientComments", "QUIXANO", "name"),
        ("PatientComments", "山田", "name"),
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

    assert residue_in(header, b"", FOUND) == kind


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_an_identifier_in_the_raw_bytes_is_found_in_its_encodings(encoding: str) -> None:
    data = b"\x00" * 99 + "QuixanO".encode(encoding) + b"\x01" * 99

    assert residue_in(Dataset(), data, FOUND) == "name"
    assert residue_in(Dataset(), b"\x00" * 99 + "Zuixano".encode(encoding), FOUND) is None


def test_words_of_the_closed_lists_are_no_hit_for_a_patient_of_that_name() -> None:
    dataset = Dataset()
    dataset.PatientName = "Chest^Siemens"
    found = collect(dataset, DeidProfile.shipped().limits)
    header = Dataset()
    header.BodyPartExamined, header.Manufacturer = "CHEST", "SIEMENS"

    assert residue_in(header, b"", found) is None
