import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset

from client.imaging import deid
from client.imaging.deid import clean, example_keys
from client.imaging.ocr import shipped
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawImage, RawStudy
from client.imaging.record import CleanStudy
from client.imaging.reports import RawTurn
from federation.errors import DeidError

Make = Callable[..., FileDataset]
UNDECODED_ID = Dataset()
UNDECODED_ID.PatientID = "K-\ufffd1"


def raw(path: Path, answer: str = "Yes.", *, patient_id: str = "MRN-000001", issuer: str = "", **more: Any) -> RawStudy:
    image = RawImage(path, more.pop("kind", "dicom"), "1.2.3.4.1.1", issuer, patient_id)
    turns = (RawTurn("Is there pneumonia?", answer),)
    return RawStudy((image,), (turns,), "reports.jsonl\x1f1", False, frozenset(), **more)


@pytest.fixture
def cleaned(make_chest: Make, tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Callable[..., CleanStudy]:
    def make(answer: str = "Yes.", **changes: Any) -> CleanStudy:
        make_chest(**changes).save_as(tmp_path / "x", enforce_file_format=True)
        return clean(raw(tmp_path / "x", answer), profile, keys)

    return make


def test_the_training_record_keeps_little(cleaned: Callable[..., CleanStudy], keys: SiteKeys) -> None:
    study = cleaned(PixelSpacing=[0.143, 0.143], KVP="120")
    (picture,) = study.pictures
    fields = picture.fields

    assert study.patient_key == keys.patient_key("", "MRN-000001")
    assert (study.sex, study.age_years) == ("F", 68)
    assert (fields.modality, fields.body_part, fields.view, fields.manufacturer) == ("CR", "CHEST", "PA", "SIEMENS")
    assert (fields.pixel_spacing_mm, fields.kvp, fields.window, picture.rows) == (0.143, 120.0, "voi", 64)


def test_a_spacing_of_one_number_is_a_spacing(cleaned: Callable[..., CleanStudy]) -> None:
    assert cleaned(PixelSpacing="0.143").pictures[0].fields.pixel_spacing_mm == 0.143


def test_no_planted_identifier_reaches_the_record(cleaned: Callable[..., CleanStudy]) -> None:
    study = cleaned(
        "Alonso Quixanoa (MRN-000001, ACC0000001), born 7 June 1950, seen on 03/04/2019 at Toboso General Hospital by "
        "Dr. Sanson Carrasco. Small left effusion."
    )
    everything = repr([vars(study), [vars(picture) for picture in study.pictures], vars(study.examples[0].turns[0])])

    for planted in ("quixano", "alonso", "mrn", "acc0", "1950", "2019", "toboso", "carrasco", "sanson", "1.2.3.4"):
        assert planted not in everything.casefold()
    assert "Small left effusion." in study.examples[0].turns[0].answer


def test_the_same_input_gives_the_same_record(cleaned: Callable[..., CleanStudy]) -> None:
    assert cleaned() == cleaned()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"}, "class-refused"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "class-refused"),
        ({"SOPClassUID": "1.2.3.4"}, "class-unknown"),
        ({"PatientID": "someone-else"}, "patient-conflict"),
        ({"PixelData": None}, "class-refused"),
        ({"SpecificCharacterSet": "ISO_IR 192", "OtherPatientIDsSequence": [UNDECODED_ID]}, "charset"),
    ],
)
def test_what_cannot_be_proven_clean_is_refused(
    cleaned: Callable[..., CleanStudy], changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(DeidError) as refused:
        cleaned(**changes)

    assert refused.value.code == code
    for planted in ("Quixano", "MRN", "1.2.3.4"):
        assert planted not in str(refused.value) + refused.value.hint


@pytest.mark.parametrize("keyword", ["KVP", "SliceThickness", "PixelSpacing", "ImagerPixelSpacing"])
@pytest.mark.parametrize(
    ("number", "stays"),
    [
        ("52207", False), ("0052207", False), ("5.2207e4", False), ("8240917", False), ("8240917.25", False),
        ("19610822", False), ("22081961", False), ("610822", False), ("20180130", False),
        ("52208", True), ("52207.5", True), ("5220", True), ("19610823", True), ("0.5", True),
    ],
)  # fmt: skip
def test_a_number_with_the_digits_of_an_id_or_a_date_holds_the_study_back(
    cleaned: Callable[..., CleanStudy], keyword: str, number: str, stays: bool
) -> None:
    value = [number, number] if "Spacing" in keyword else number
    stated = {"AccessionNumber": "T-52207", "OtherPatientIDs": "NH 8240917", "PatientBirthDate": "19610822"}
    dates = {"StudyDate": "20190304", "SeriesDate": "20180130"}
    changes = {**stated, **dates, keyword: value}
    if stays:
        (picture,) = cleaned(**changes).pictures
        numbers = (picture.fields.kvp, picture.fields.slice_thickness_mm, picture.fields.pixel_spacing_mm)
        assert float(number) in numbers
        return

    with pytest.raises(DeidError) as refused:
        cleaned(**changes)

    assert refused.value.code == "residual-identifier" and number not in str(refused.value) + refused.value.hint


def test_a_name_that_scrubbing_misses_is_caught_by_the_residual_scan(
    cleaned: Callable[..., CleanStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deid, "scrub", lambda text, *_: text)

    with pytest.raises(DeidError) as refused:
        cleaned("Alonso Quixanoa is well")

    assert refused.value.code == "residual-identifier" and "quixano" not in str(refused.value)


def test_images_of_two_patients_and_of_none_are_refused(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> None:
    one = raw(tmp_path / "x")
    both = RawStudy(
        (*one.images, *raw(tmp_path / "x", patient_id="2").images), one.conversations, "", False, frozenset()
    )

    for study, code in ((both, "pairing"), (raw(tmp_path / "x", patient_id=" "), "no-patient-id")):
        with pytest.raises(DeidError) as refused:
            clean(study, profile, keys)
        assert refused.value.code == code


def test_a_picture_takes_its_patient_from_its_row(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> None:
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20).astype(np.uint8)).save(tmp_path / "x.png")
    study = clean(
        raw(tmp_path / "x.png", "Case person7 is clear.", patient_id="Person7", kind="picture"), profile, keys
    )

    assert study.patient_key == keys.patient_key("", "person7")
    assert "person7" not in study.examples[0].turns[0].answer


def test_keys_of_examples_are_known_before_pixels_are_read(
    cleaned: Callable[..., CleanStudy], tmp_path: Path, keys: SiteKeys
) -> None:
    study = cleaned()

    assert example_keys(raw(tmp_path / "gone"), keys) == [study.examples[0].example_key]
    assert example_keys(raw(tmp_path / "gone", "No."), keys) != example_keys(raw(tmp_path / "gone"), keys)


def test_a_picture_that_training_could_not_use_is_held_back(cleaned: Callable[..., CleanStudy]) -> None:
    with pytest.raises(DeidError) as refused:
        cleaned(Rows=2, Columns=2048)

    assert refused.value.code == "picture-unfit"


def test_without_the_detector_no_picture_is_kept(
    cleaned: Callable[..., CleanStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    shipped.cache_clear()

    with pytest.raises(DeidError) as refused:
        cleaned()
    assert refused.value.code == "ocr-missing"


def test_the_share_that_was_blanked_is_kept_beside_the_picture(cleaned: Callable[..., CleanStudy]) -> None:
    assert cleaned().pictures[0].fields.blanked_share == 0.0
