"""Phantom hospitals: valid files, true reports, planted identifiers that the leak search finds."""

import base64
import csv
import gzip
import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from federation.errors import StoreError
from sim.leaks import Plant, Truth
from sim.phantoms import PictureRow, find_leaks, main, write_from_pictures, write_hospital
from sim.sites import FOUR, OPEN_QUESTION, QUESTIONS, SCANNERS, Hospital

Written = dict[str, tuple[Hospital, Path, Truth]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The four hospitals, small, with more of everything rare."""
    out = tmp_path_factory.mktemp("sites")
    result = {}
    for hospital in FOUR:
        busy = replace(hospital, patients=14, second_study_share=0.3, csv_share=hospital.csv_share * 3)
        busy = replace(busy, ct_share=busy.ct_share * 5, burned_in_share=busy.burned_in_share * 5)
        folder, truth = out / "sites" / busy.site_id, out / "truth" / f"{busy.site_id}.json"
        result[busy.site_id] = (busy, folder, write_hospital(busy, folder, seed=3, truth=truth))
    return result


def images(truth: Truth) -> list[str]:
    return [name for patient in truth.patients for study in patient.studies for name in study.images]


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "reports.jsonl").read_text(encoding="utf-8").splitlines()]


def shown(dataset: FileDataset) -> np.ndarray:
    """The picture as a viewer shows it, in [0, 1], through the file's own tables."""
    values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float64)
    values = values.max() - values if dataset.PhotometricInterpretation == "MONOCHROME1" else values
    return (values - values.min()) / (values.max() - values.min())


def test_every_planted_identifier_is_found_in_the_untouched_folder(written: Written) -> None:
    for _, folder, truth in written.values():
        found = {Plant(leak.kind, leak.value) for leak in find_leaks(folder, truth)}

        assert found == set(truth.plants())


def test_every_patient_has_its_own_name_numbers_dates_and_uids_planted(written: Written) -> None:
    for _, _, truth in written.values():
        for patient in truth.patients:
            kinds = {plant.kind for plant in patient.plants}

            assert kinds >= {"name", "id", "date", "uid", "phone", "address"}
        assert {plant.kind for plant in truth.shared} == {"staff", "place", "device"}


def test_all_files_are_read_without_a_warning_and_belong_to_one_patient(written: Written) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for hospital, folder, truth in written.values():
            for patient in truth.patients:
                for study in patient.studies:
                    for name in study.images:
                        dataset = dcmread(folder / name)

                        assert str(dataset) and dataset.pixel_array.ndim == 2
                        assert dataset.PatientID == patient.patient_id
                        assert dataset.StudyInstanceUID == study.study_uid
                        assert dataset.get("SpecificCharacterSet", "") == hospital.character_set


def test_bright_is_dense_in_every_file_whatever_its_polarity_and_window(written: Written) -> None:
    for _, folder, truth in written.values():
        for name in images(truth):
            dataset = dcmread(folder / name)
            if dataset.Modality == "CT" or dataset.get("BurnedInAnnotation") == "YES":
                continue
            picture = shown(dataset)
            rows, columns = picture.shape
            belly = picture[int(rows * 0.88) : -16, columns // 3 : -columns // 3].mean()
            air = picture[16 : rows // 10, : columns // 12].mean()

            assert belly > air + 0.2


def test_vendors_differ_in_syntax_depth_polarity_and_window(written: Written) -> None:
    datasets = [dcmread(folder / name) for _, folder, truth in written.values() for name in images(truth)]

    assert len({dataset.file_meta.TransferSyntaxUID for dataset in datasets}) == 7
    assert {dataset.BitsStored for dataset in datasets} == {8, 10, 12, 14, 16}
    assert {dataset.Modality for dataset in datasets} == {"CR", "DX", "CT"}
    assert any("VOILUTSequence" in dataset for dataset in datasets)
    assert any(dataset.get("VOILUTFunction") == "SIGMOID" for dataset in datasets)
    assert any("PixelPaddingValue" in dataset for dataset in datasets)
    assert any((0x6000, 0x3000) in dataset for dataset in datasets)
    assert all(any(element.tag.is_private for element in dataset) for dataset in datasets)


def test_each_row_asks_four_closed_questions_and_one_open_one(written: Written) -> None:
    orders = set()
    for _, folder, truth in written.values():
        present = {s.images: {f.name for f in s.findings} for p in truth.patients for s in p.studies}
        for row in rows_of(folder):
            names = row["image"] if isinstance(row["image"], list) else [row["image"]]
            turns = row["conversations"]
            assert isinstance(turns, list)
            first = turns[0]["value"]
            asked = [turn["value"].replace("<image>\n", "") for turn in turns[::2]]
            answers = dict(zip(asked, (turn["value"] for turn in turns[1::2]), strict=True))
            orders.add(tuple(asked))

            assert first.startswith("<image>\n" * len(names)) and first.count("<image>") == len(names)
            assert [turn["from"] for turn in turns] == ["human", "gpt"] * 5
            assert set(asked) == {*QUESTIONS.values(), OPEN_QUESTION}
            for name, question in QUESTIONS.items():
                assert answers[question] == ("Yes." if name in present[tuple(names)] else "No.")
                assert name in answers[OPEN_QUESTION].lower()
            assert "findings" in answers[OPEN_QUESTION].lower() and "impression" in answers[OPEN_QUESTION].lower()
    assert len(orders) > 10


def test_a_report_names_each_finding_with_its_side_and_size(written: Written) -> None:
    for _, folder, truth in written.values():
        by_images = {s.images: s for p in truth.patients for s in p.studies}
        for row in rows_of(folder):
            names = row["image"] if isinstance(row["image"], list) else [row["image"]]
            turns = row["conversations"]
            assert isinstance(turns, list)
            report = max((turn["value"] for turn in turns), key=len)
            for finding in by_images[tuple(names)].findings:
                lines = report.lower()[report.lower().index("findings") :]

                assert finding.size in lines and finding.side in lines and finding.zone in lines


def test_csv_reports_are_of_further_studies_and_join_by_study(written: Written) -> None:
    _, folder, truth = written["regional"]
    with (folder / "reports.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    expected = {s.study_uid for p in truth.patients for s in p.studies if s.source == "csv"}

    assert {row["study_instance_uid"] for row in rows} == expected and expected
    assert len(rows) + len(rows_of(folder)) == sum(len(p.studies) for p in truth.patients)


def test_a_second_study_keeps_most_of_the_disease(tmp_path: Path) -> None:
    hospital = replace(
        FOUR[3], patients=24, second_study_share=1.0, scanners=(replace(SCANNERS["zenith-8"], sides_px=(64, 64)),)
    )
    truth = write_hospital(hospital, tmp_path / "site", seed=1)
    pairs = [tuple({f.name for f in s.findings} for s in p.studies) for p in truth.patients]
    kept = sum(len(first & second) for first, second in pairs)

    assert all(len(pair) == 2 for pair in pairs)
    assert kept > 0.6 * sum(len(first) for first, _ in pairs)
    assert any(first != second for first, second in pairs)


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    hospital = replace(FOUR[2], patients=16, scanners=(replace(SCANNERS["portex"], sides_px=(64, 96)),))

    def digest(name: str, seed: int, workers: int) -> str:
        folder = tmp_path / name / "site"
        write_hospital(hospital, folder, seed=seed, truth=tmp_path / name / "truth.json", workers=workers)
        total = hashlib.sha256()
        for path in sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()):
            total.update(path.relative_to(tmp_path / name).as_posix().encode() + path.read_bytes())
        return total.hexdigest()

    assert digest("one", 5, 1) == digest("two", 5, 2)
    assert digest("three", 6, 1) != digest("four", 5, 1)


def test_the_truth_survives_writing_and_reading(written: Written, tmp_path: Path) -> None:
    truth = written["emergency"][2]
    truth.dump(tmp_path / "truth.json")

    assert Truth.load(tmp_path / "truth.json") == truth


def test_a_used_folder_and_a_truth_inside_the_hospital_are_refused(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for folder, truth in ((tmp_path / "used", None), (tmp_path / "new", tmp_path / "new" / "truth.json")):
        with pytest.raises(StoreError):
            write_hospital(replace(FOUR[3], patients=1), folder, truth=truth)


@pytest.mark.parametrize(
    ("how", "hide"),
    [
        ("bytes", lambda name: f"report of {name.upper()} today".encode()),
        ("bytes", lambda name: f"x{name}".encode("utf-16-le")),
        ("bytes", lambda name: base64.b64encode(f"a patient: {name}, again".encode())),
        ("text", lambda name: json.dumps({"a": ["ÜBER " + name.replace("e", "é")]}).encode()),
        ("inflated", lambda name: gzip.compress(f"deep inside: {name}".encode())),
    ],
)
def test_one_name_hidden_in_a_clean_folder_is_found(
    written: Written, tmp_path: Path, how: str, hide: Callable[[str], bytes]
) -> None:
    truth = written["emergency"][2]
    name = min((plant.value for plant in truth.plants() if plant.kind == "name" and "e" in plant.value), key=len)
    (tmp_path / "clean.txt").write_text("no consolidation, no pleural effusion, the heart is of normal size")
    assert find_leaks(tmp_path, truth) == []

    (tmp_path / "hidden.bin").write_bytes(hide(name))

    assert {(leak.file, leak.how, leak.value) for leak in find_leaks(tmp_path, truth)} == {("hidden.bin", how, name)}


def test_a_name_in_a_file_name_or_in_the_text_of_a_png_is_found(written: Written, tmp_path: Path) -> None:
    truth = written["emergency"][2]
    patient = truth.patients[0].patient_id
    info = PngInfo()
    info.add_text("note", f"of {patient}", zip=True)
    Image.new("L", (64, 64)).save(tmp_path / "a.png", pnginfo=info)
    (tmp_path / f"x_{patient.lower()}.txt").touch()

    assert {leak.how for leak in find_leaks(tmp_path, truth) if leak.value == patient} == {"inflated", "name"}


def test_pictures_of_random_noise_hold_no_leak(written: Written, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")

    assert all(find_leaks(tmp_path, truth) == [] for _, _, truth in written.values())


def test_ordinary_pictures_become_cr_files_with_the_same_grey_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = []
    for number in range(12):
        path = tmp_path / f"film{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 51), dtype=np.uint8)).save(path)
        site, patient = "abcd"[number % 4], f"person-{number % 4}-{number // 8}"
        rows.append(PictureRow(path, site, patient, "Is there pneumonia?", "Yes." if number % 2 else "No."))
    truths = write_from_pictures(rows, tmp_path / "out", truth_folder=tmp_path / "truth")

    assert sorted(truths) == ["a", "b", "c", "d"]
    for site, truth in truths.items():
        found = {Plant(leak.kind, leak.value) for leak in find_leaks(tmp_path / "out" / site, truth)}
        wrapped = [dcmread(tmp_path / "out" / site / name) for name in images(truth)]
        sources = [np.asarray(Image.open(row.path)).tolist() for row in rows if row.site == site]
        inverted = [dataset.PhotometricInterpretation == "MONOCHROME1" for dataset in wrapped]
        pictures = [255 - d.pixel_array if i else d.pixel_array for d, i in zip(wrapped, inverted, strict=True)]

        assert found == set(truth.plants()) and any(plant.value.startswith("person-") for plant in found)
        assert sorted(picture.tolist() for picture in pictures) == sorted(sources)
        assert len({dataset.PatientID for dataset in wrapped}) == len(truth.patients) == 2
        assert len(rows_of(tmp_path / "out" / site)) == 3


def test_the_wrap_command_reads_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (32, 32), 90).save(tmp_path / "images" / "one.jpg")
    (tmp_path / "m.csv").write_text("image,site,patient_id,label\nimages/one.jpg,hospital-a,kid-000001,pneumonia\n")
    arguments = ["wrap", str(tmp_path / "m.csv"), str(tmp_path / "images"), str(tmp_path / "out")]
    status = main([*arguments, "--question", "Is there pneumonia?", "--positive", "pneumonia"])
    again = main([*arguments, "--question", "Is there pneumonia?", "--positive", "pneumonia"])

    assert (status, again) == (0, 17) and "output-exists" not in capsys.readouterr().out
    assert rows_of(tmp_path / "out" / "hospital-a")[0]["conversations"] == [
        {"from": "human", "value": "<image>\nIs there pneumonia?"},
        {"from": "gpt", "value": "Yes."},
    ]
    assert Truth.load(tmp_path / "out-truth" / "hospital-a.json").site_id == "hospital-a"
