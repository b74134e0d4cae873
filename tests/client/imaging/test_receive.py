import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset

from client.imaging.profile import DeidProfile
from client.imaging.receive import Intake, RawStudy, scan, studies
from client.imaging.sources import Source
from federation.errors import DataError, DeidError

Make = Callable[..., FileDataset]


def row(image: Any = "a.dcm", **changes: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": "<image>\nIs there pneumonia?"}, {"from": "gpt", "value": "Yes."}]
    return {"image": image, "conversations": said} | changes


@pytest.fixture
def folder(tmp_path: Path, make_chest: Make) -> Path:
    """Two images of patient 1 in one study, one of patient 2, no reports yet."""
    site = tmp_path / "site"
    (site / "deep" / "er").mkdir(parents=True)
    make_chest(1).save_as(site / "a.dcm", enforce_file_format=True)
    make_chest(1, SOPInstanceUID="1.2.3.4.1.2").save_as(site / "deep/er/IM2", enforce_file_format=True)
    make_chest(2).save_as(site / "c", enforce_file_format=True)
    return site


def rows(folder: Path, *written: dict[str, Any] | str) -> None:
    lines = [line if isinstance(line, str) else json.dumps(line) for line in written]
    (folder / "reports.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(folder: Path, text: str) -> None:
    (folder / "reports.csv").write_text(text, encoding="utf-8")


def listed(folder: Path, place: Path) -> Intake:
    profile = DeidProfile.shipped()
    return scan(Source(folder, profile.limits, place), profile, place)


def codes(folder: Path) -> list[str | None]:
    return [study.code for study in studies(folder)]


def test_a_row_becomes_a_study_with_all_its_turns(folder: Path) -> None:
    said = row()["conversations"] + [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Left."}]
    rows(folder, row(conversations=said, id="secret-17"))
    (study,) = studies(folder)

    assert [(turn.question, turn.answer) for turn in study.conversations[0]] == [
        ("Is there pneumonia?", "Yes."),
        ("Where?", "Left."),
    ]
    assert study.images[0].path == folder / "a.dcm" and study.code is None
    assert "secret" not in repr(study) and "Is there" not in repr(study.conversations)


def test_rows_about_the_same_images_are_one_study(folder: Path) -> None:
    other = [{"from": "human", "value": "<image>Is there pneumonia?"}, {"from": "gpt", "value": "No."}]
    rows(folder, row("./a.dcm"), row("c"), row("a.dcm", conversations=other), row("a.dcm"))
    found = list(studies(folder))

    assert [len(study.conversations) for study in found] == [2, 1]  # equal ones once
    assert [[number for _, number in study.rows] for study in found] == [[1, 3, 4], [2]]


def test_a_list_of_images_needs_as_many_image_marks(folder: Path) -> None:
    two = [{"from": "human", "value": "<image><image> Compare."}, {"from": "gpt", "value": "Same."}]
    rows(folder, row(["a.dcm", "deep/er/IM2"], conversations=two), row(["a.dcm", "c"]))

    assert codes(folder) == [None, "report-format"]


@pytest.mark.parametrize(
    "bad",
    [
        "{", "[]", "null", '{"image": "a.dcm"}', json.dumps(row(extra=1)), json.dumps(row(conversations=[])),
        json.dumps(row(conversations=row()["conversations"][::-1])),
        json.dumps(row(conversations=row()["conversations"][:1])), json.dumps(row(patient_id=7)), json.dumps(row(3)),
        json.dumps(row([])), '{"image": "a.dcm", "image": "c", "conversations": []}', json.dumps(row(patient_id="x")),
        json.dumps(row(conversations=[{"from": "human", "value": "no mark"}, {"from": "gpt", "value": "y"}])),
        json.dumps(row(conversations=[{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": " "}])),
        "[" * 5000, json.dumps(row(patient_id="K-\ud8001")),
    ],
)  # fmt: skip
def test_a_row_in_any_other_form_is_held_back_and_the_next_one_is_read(folder: Path, bad: str) -> None:
    rows(folder, bad, row("c"))

    assert codes(folder) == ["report-format", None]


def test_a_row_of_bad_utf8_is_held_back(folder: Path) -> None:
    (folder / "r.jsonl").write_bytes(b'{"image": "\xff"}\n' + json.dumps(row()).encode())

    assert codes(folder) == ["report-encoding", None]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "uid"])
def test_a_row_that_names_a_missing_image_stops_everything(folder: Path, kind: str) -> None:
    if kind == "jsonl":
        rows(folder, row(), row("quixano-missing.dcm"))
    elif kind == "csv":
        table(folder, "path,report\na.dcm,Clear.\nquixano-missing.dcm,Clear.\n")
    else:
        table(folder, "sop_instance_uid,report\n1.2.3.4.1.1,Clear.\n9.9.9,Clear.\n")

    with pytest.raises(DeidError) as refused:
        next(studies(folder))
    assert refused.value.code == "pairing" and "row " in str(refused.value)
    assert "quixano" not in str(refused.value) and "9.9.9" not in str(refused.value)


def test_a_uid_without_a_match_is_held_back_when_a_file_could_not_be_read(folder: Path) -> None:
    (folder / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00")
    table(folder, "sop_instance_uid,report\n1.2.3.4.1.1,Clear.\n9.9.9,Clear.\n")

    assert codes(folder) == [None, "pairing"]


@pytest.mark.parametrize(
    ("column", "value", "images"),
    [
        ("path", "deep/er/IM2", 1), ("sop_instance_uid", "1.2.3.4.1.2", 1), ("study_instance_uid", "1.2.3.4.1", 2),
        ("accession_number", "ACC0000001", 2),
    ],
)  # fmt: skip
def test_a_table_joins_by_any_of_its_four_keys(folder: Path, column: str, value: str, images: int) -> None:
    table(folder, f'\ufeffReport,{column}\n"Clear, ""normal"",\nno effusion.",{value}\n\nSecond.,{value}\n')
    (study,) = studies(folder)

    assert len(study.images) == images
    assert [turns[0].answer for turns in study.conversations] == ['Clear, "normal",\nno effusion.', "Second."]
    assert study.conversations[0][0].question == "Describe the findings."


@pytest.mark.parametrize("header", ["path,accession_number,report", "path,text", "report", "report,report,path"])
def test_a_table_with_other_columns_is_held_back(folder: Path, header: str) -> None:
    table(folder, header + "\na.dcm,x,y\n")

    assert codes(folder) == ["report-columns"]


def test_rows_behind_a_quote_that_nobody_closes_are_all_counted(folder: Path) -> None:
    table(folder, 'path,report\na.dcm,Clear.\na.dcm,"Clear.\n' + "c,Clear.\n" * 30)

    assert codes(folder) == [None] + ["report-quotes"] * 31


def test_a_field_of_several_lines_is_one_row(folder: Path) -> None:
    table(folder, 'path,report\na.dcm,"FINDINGS:\n\nClear.\r\n"\nc,"Cle"ar.\nc,Clear.\n')

    assert codes(folder) == [None, "report-quotes", None]


def test_rows_and_tables_without_a_letter_are_none(folder: Path) -> None:
    table(folder, 'path,report\r\na.dcm,Clear.\r\n,\r\n,,\r\n"",""\r\n   \r\n\t\r\n\r\nc,Clear.\r\n,')
    (folder / "empty.csv").touch()
    (folder / "deep" / "._reports.csv").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    (folder / "._r.jsonl").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")

    assert codes(folder) == [None, None]


def test_an_accession_number_of_two_patients_is_held_back(folder: Path, make_chest: Make) -> None:
    make_chest(3, AccessionNumber="ACC0000001").save_as(folder / "d", enforce_file_format=True)
    table(folder, "accession_number,report\nACC0000001,Clear.\n")

    assert codes(folder) == ["pairing"]


def test_one_id_with_two_birth_dates_or_sexes_is_held_back(folder: Path, make_chest: Make) -> None:
    make_chest(5, PatientID=" mrn-000002", PatientBirthDate="19990101").save_as(folder / "d", enforce_file_format=True)
    rows(folder, row("a.dcm"), row("c"), row("d"))
    found = [study.images[0].code for study in studies(folder)]

    assert found == [None, "patient-conflict", "patient-conflict"]


@pytest.mark.parametrize("charset", ["ISO_IR 192", "GB18030"])
@pytest.mark.parametrize("keyword", ["PatientID", "IssuerOfPatientID"])
def test_an_id_that_does_not_decode_is_nobodys(folder: Path, make_chest: Make, charset: str, keyword: str) -> None:
    """Both would read as one and the same id."""
    for name, letter in (("a.dcm", b"\xc4"), ("c", b"\xff")):
        make_chest(1, SpecificCharacterSet=charset, **{keyword: "Z123456"}).save_as(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"Z123456", letter + b"123456"))
    rows(folder, row("a.dcm"), row("c"))

    assert [study.images[0].code for study in studies(folder)] == ["charset", "charset"]


def test_the_id_of_a_picture_that_does_not_decode_is_nobodys(folder: Path) -> None:
    (folder / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    rows(folder, row("p.png", patient_id="K-\ufffd1"), row("p.png", patient_id=" "))

    assert codes(folder) == ["charset"]


def test_one_birth_date_in_two_spellings_is_no_conflict(folder: Path, make_chest: Make) -> None:
    again = make_chest(2, SOPInstanceUID="1.7")
    again["PatientBirthDate"] = DataElement("PatientBirthDate", "DA", "1950.06.07", validation_mode=config.IGNORE)
    again.save_as(folder / "d", enforce_file_format=True)
    rows(folder, row("c"), row("d"))

    assert [study.images[0].code for study in studies(folder)] == [None, None]


def test_one_id_with_and_without_an_issuer_is_held_back_until_the_site_names_a_default(
    folder: Path, make_chest: Make
) -> None:
    from client.imaging import profile as profiles

    make_chest(2, SOPInstanceUID="1.7", IssuerOfPatientID="HOSP").save_as(folder / "d", enforce_file_format=True)
    rows(folder, row("c"), row("d"))
    text = Path(profiles.__file__).with_name("profile.toml").read_text(encoding="utf-8")
    named = profiles.load(text.replace('default_issuer = ""', 'default_issuer = "hosp"'))

    assert [study.images[0].code for study in studies(folder)] == ["patient-conflict"] * 2
    assert [study.images[0].code for study in studies(folder, named)] == [None, None]


def test_copies_are_one_image_and_two_contents_of_one_instance_are_not_trusted(folder: Path, make_chest: Make) -> None:
    (folder / "copy").write_bytes((folder / "a.dcm").read_bytes())
    make_chest(2, WindowCenter="7").save_as(folder / "other", enforce_file_format=True)
    table(folder, "sop_instance_uid,report\n1.2.3.4.1.1,Clear.\n1.2.3.4.2.1,Clear.\n")
    first, second = studies(folder)

    assert (len(first.images), first.images[0].code) == (1, None)
    assert second.images[0].code == "duplicate-differs"


def test_links_are_not_followed(folder: Path, tmp_path: Path, make_chest: Make) -> None:
    make_chest(9).save_as(tmp_path / "outside.dcm", enforce_file_format=True)
    (folder / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    (folder / "linked").symlink_to(tmp_path)
    rows(folder, row())
    intake = listed(folder, tmp_path)

    assert intake.image_count == 3
    rows(folder, row("link.dcm"))
    with pytest.raises(DeidError):
        listed(folder, tmp_path)


def test_content_decides_what_a_file_is(folder: Path, tmp_path: Path) -> None:
    (folder / "fake.dcm").write_bytes(b"not an image at all")
    (folder / "notes.txt").write_text("Alonso Quixano")
    rows(folder, row(), row("fake.dcm"))
    intake = listed(folder, tmp_path)
    found = list(intake.studies())

    assert intake.rejected == 2 and intake.unreported == 2
    assert [study.images[0].code for study in found] == [None, "not-dicom"]


def test_a_folder_without_images_or_reports_and_an_absent_one_say_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place, code in (
        (tmp_path / "empty", "folder-empty"),
        (folder, "folder-empty"),
        (tmp_path / "no", "folder-absent"),
    ):
        with pytest.raises(DataError) as refused:
            next(studies(place))
        assert refused.value.code == code and str(place) not in str(refused.value)


def test_the_slices_of_a_volume_are_in_the_order_of_their_positions(tmp_path: Path, make_chest: Make) -> None:
    site = tmp_path / "ct"
    site.mkdir()
    for number, z in enumerate((30, -10, 10, 0, 20)):
        slice_ = make_chest(
            1, SOPInstanceUID=f"1.2.9.{number}", ImagePositionPatient=[0, 0, z], InstanceNumber=number,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER" if z == 20 else "AXIAL"],
        )  # fmt: skip
        slice_.save_as(site / f"{number}.dcm", enforce_file_format=True)
    table(site, "study_instance_uid,report\n1.2.3.4.1,Clear.\n")
    (study,) = studies(site)

    assert [image.path.stem for image in study.images] == ["1", "3", "2", "0"] and study.sampled


def test_the_order_of_studies_depends_on_names_only(folder: Path) -> None:
    rows(folder, row("c"), row("a.dcm"))

    def order(found: list[RawStudy]) -> list[str]:
        return [study.source for study in found]

    assert order(list(studies(folder))) == order(list(studies(folder)))


def test_documents_are_refused_with_reasons_of_their_own(folder: Path, make_chest: Make) -> None:
    report, pdf = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.104.1"
    make_chest(1, SOPClassUID=report).save_as(folder / "a.dcm", enforce_file_format=True)
    make_chest(2, SOPClassUID=pdf).save_as(folder / "c", enforce_file_format=True)
    rows(folder, row(), row("c"))

    assert [study.images[0].code for study in studies(folder)] == ["structured-report", "encapsulated-document"]


def test_a_row_may_name_its_image_from_the_report_files_own_folder(folder: Path) -> None:
    (folder / "deep" / "reports.jsonl").write_text(json.dumps(row("er/IM2")) + "\n", encoding="utf-8")
    (study,) = studies(folder)

    assert study.images[0].path == folder / "deep/er/IM2"


def test_a_file_name_that_is_no_text_does_no_harm(folder: Path, make_chest: Make) -> None:
    make_chest(7).save_as(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"), enforce_file_format=True)
    table(folder, "sop_instance_uid,report\n1.2.3.4.7.1,FINDINGS: Clear lungs.\n")
    (study,) = studies(folder)

    assert study.images[0].path.read_bytes()[128:132] == b"DICM"


def test_a_media_directory_is_no_image_and_no_quarantine(folder: Path, tmp_path: Path, make_chest: Make) -> None:
    listing = (
        (folder / "a.dcm").read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.1\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0")
    )
    (folder / "DICOMDIR").write_bytes(listing)
    rows(folder, row())
    intake = listed(folder, tmp_path)

    assert intake.rejected == 1 and intake.unusable == {} and intake.image_count == 3
    assert [study.code for study in studies(folder / "DICOMDIR")] == [None]
