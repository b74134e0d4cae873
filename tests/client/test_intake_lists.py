"""A site's own lists through the commands: names and places of no header, and people with two record numbers."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from client.imaging.pseudonyms import SiteKeys
from client.imaging.store import Store
from sim.wardround import call

SITE = """
[site]
id = "toboso"
[data]
store = "{store}"
secret = "secret"
declared_patients = 100
{lists}
[policy]
epsilon_max = 8.0
[receive]
callers = ["PACS1"]
quiet_s = 1
"""
KEYS = SiteKeys.from_secret(bytes(range(32)))
SECRETS = ("Kvothe", "Quixano", "MRN", "Toboso", "1.2.3.4", "Traceback")
Run = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("client.intake", "client.imaging.export"):
        monkeypatch.setattr(f"{module}.cores", lambda: 0)


@pytest.fixture
def site(tmp_path: Path) -> Write:
    """Makes the site's folder anew around its store, with these lists."""

    def write(store: str = "store", **lists: str) -> Path:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        for name, text in lists.items():
            (folder / f"{name}.list").write_text(text)
            (folder / f"{name}.list").chmod(0o600)
        named = "\n".join(f'{name} = "{name}.list"' for name in lists)
        (folder / "site.toml").write_text(SITE.format(store=store, lists=named))
        (folder / "secret").write_bytes(bytes(range(32)))
        (folder / "secret").chmod(0o600)
        return folder

    return write


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path) -> tuple[int, str, str]:
        status = call(["site", *map(str, words), "--dir", str(tmp_path / "site")])
        out, err = capfd.readouterr()
        assert not [word for word in SECRETS if word in out + err]
        return status, out, err

    return typed


def radiograph(number: int, **changes: str) -> FileDataset:
    dataset = FileDataset("", Dataset(), file_meta=FileMetaDataset(), preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", f"1.2.3.4.{number}.1"
    dataset.StudyInstanceUID, dataset.AccessionNumber = f"1.2.3.4.{number}", f"ACC000{number}"
    dataset.PatientID, dataset.PatientName, dataset.Modality = f"MRN-{number}", "Quixano^Alonso", "CR"
    dataset.StudyDate, dataset.PatientBirthDate = "20190304", "19500607"
    dataset.Rows = dataset.Columns = 32
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = np.full(1024, 10 * number, dtype=np.uint8).tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.fixture
def export(tmp_path: Path) -> Write:
    """A folder of these images, with a row for each."""

    def write(*images: FileDataset, said: str = "FINDINGS: Clear lungs.", asked: str = "Describe it.") -> Path:
        folder = tmp_path / "export"
        folder.mkdir(exist_ok=True)
        rows = []
        for image in images:
            name = str(image.SOPInstanceUID)
            image.save_as(folder / name, enforce_file_format=True)
            turns = [{"from": "human", "value": "<image>\n" + asked}, {"from": "gpt", "value": said}]
            rows.append(json.dumps({"image": name, "conversations": turns}))
        (folder / "reports.jsonl").write_text("\n".join(rows))
        return folder

    return write


def texts(folder: Path, store: str = "store") -> list[str]:
    with Store.open(folder / store) as opened:
        turns = [each for key in opened.patients() for one in opened.examples(key) for each in one.turns]
        return [text for turn in turns for text in (turn.question, turn.answer)]


def patients(folder: Path, store: str = "store") -> list[str]:
    with Store.open(folder / store) as opened:
        return opened.patients()


def attestation(folder: Path) -> Any:
    [path] = (folder / "attestations").iterdir()
    return json.loads(path.read_text())


def test_staff_and_places_go_from_questions_and_answers_and_are_attested(site: Write, export: Write, run: Run) -> None:
    said = "FINDINGS: A long scar, no hope of better films, says Hope Long. shown to kvothe in the north\nwing."
    source = export(radiograph(1), said=said, asked="Did kvothe see a rose on Rose Ward?")
    folder = site(staff="# all\nKvothe, Ana\nHope Long\n", places="North Wing\nRose\n")

    assert run("ingest", source)[0] == 0
    question, answer = texts(folder)
    assert question == "Did [NAME] see a rose on [PLACE]?"
    assert answer.endswith("A long scar, no hope of better films, says [NAME]. shown to [NAME] in the [PLACE].")
    lists = attestation(folder / "store")["lists"]
    assert {name: one["entries"] for name, one in lists.items()} == {"staff": 2, "places": 2}
    assert len(lists["staff"]["digest"]) == 32


def test_without_lists_the_same_report_keeps_those_words(site: Write, export: Write, run: Run) -> None:
    source = export(radiograph(1), said="FINDINGS: No kvothe effusion.")
    folder = site()

    assert run("ingest", source)[0] == 0
    assert "No kvothe effusion." in texts(folder)[1] and attestation(folder / "store")["lists"] == {}


def test_what_scrubbing_misses_is_held_back(
    site: Write, export: Write, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = export(radiograph(1), said="FINDINGS: No kvothe effusion.")
    site(staff="Kvothe\n")
    monkeypatch.setattr("client.imaging.report_listed.Listed.spans", lambda self, text: [])

    status, _, err = run("ingest", source)
    assert status == 19 and "no study could be proven clean" in err
    assert "residual-identifier" in run("quarantine")[1]


def test_a_new_nurse_does_not_void_the_store(site: Write, export: Write, run: Run) -> None:
    source = export(radiograph(1))
    site(staff="Kvothe\n")
    assert run("ingest", source)[0] == 0
    site(staff="Kvothe\nOlalla\n")

    status, out, _ = run("ingest", source)
    assert status == 0 and "already      1" in out


def test_joined_records_are_one_person_in_the_store_and_both_ids_go_from_text(
    site: Write, export: Write, run: Run
) -> None:
    images = [radiograph(number) for number in (1, 2, 3)]
    source = export(*images, said="FINDINGS: Clear for mrn-1. Clear for MRN 2. Clear for M R N 3.")
    folder = site(patients="old_id,current_id\nMRN-1,MRN-2\nmrn-2 ,MRN-3\n")

    assert run("ingest", source)[0] == 0
    assert patients(folder) == [KEYS.patient_key("", "MRN-3")]
    assert all(text.endswith("Clear for [ID]. Clear for [ID]. Clear for [ID].") for text in texts(folder)[1::2])


def test_the_same_joined_study_twice_adds_nothing(site: Write, export: Write, run: Run) -> None:
    source = export(radiograph(1), radiograph(2))
    site(patients="old_id,current_id\nMRN-1,MRN-2\n")
    run("ingest", source)

    assert "accepted     0\nalready      2" in run("ingest", source)[1]


def test_joined_records_of_two_birth_dates_are_held_back(site: Write, export: Write, run: Run) -> None:
    source = export(radiograph(1), radiograph(2, PatientBirthDate="19600101"), radiograph(3))
    folder = site(patients="old_id,current_id\nMRN-1,MRN-2\n")

    assert "patient-conflict       2" in run("ingest", source)[1]
    assert patients(folder) == [KEYS.patient_key("", "MRN-3")]


def test_a_join_without_an_issuer_holds_within_any_and_is_held_back_between_two(
    site: Write, export: Write, run: Run
) -> None:
    north = [radiograph(1, IssuerOfPatientID="North"), radiograph(2, IssuerOfPatientID="NORTH")]
    folder = site(patients="old_id,current_id\nMRN-1,MRN-2\n")
    assert run("ingest", export(*north))[0] == 0
    assert patients(folder) == [KEYS.patient_key("north", "MRN-2")]

    south = radiograph(3, IssuerOfPatientID="South", PatientID="MRN-2")
    site("other", patients="old_id,current_id\nMRN-1,MRN-2\n")
    assert run("ingest", export(*north, south))[0] == 19
    site("third", patients="old_id,current_id,issuer\nMRN-1,MRN-2,north\n")
    assert run("ingest", export(*north, south))[0] == 0
    assert len(patients(folder, "third")) == 2


def test_a_picture_named_by_an_older_id_is_of_the_same_person(site: Write, export: Write, run: Run) -> None:
    from PIL import Image

    source = export(radiograph(2), said="FINDINGS: Clear.")
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((64, 64), 40 + len(name), dtype=np.uint8)).save(source / name)
    said = [{"from": "human", "value": "<image>\nDescribe it."}, {"from": "gpt", "value": "FINDINGS: mrn 2, mrn 1."}]
    rows = [{"image": "a.png", "patient_id": each, "conversations": said} for each in ("MRN-1", "MRN-2")]
    (source / "more.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = site(patients="old_id,current_id\nMRN-1,MRN-2\n")

    status, out, _ = run("ingest", source)
    assert status == 0 and "quarantined  0" in out
    assert patients(folder) == [KEYS.patient_key("", "MRN-2")] and "[ID]" in texts(folder)[-1]


@pytest.mark.parametrize("issuer", ["", "North"])
def test_a_store_that_holds_an_older_id_as_a_person_is_left_as_it_is(
    site: Write, export: Write, run: Run, issuer: str
) -> None:
    changes = {"IssuerOfPatientID": issuer} if issuer else {}
    folder = site()
    run("ingest", export(radiograph(1, **changes)))
    before = patients(folder)
    site(patients="old_id,current_id\nMRN-1,MRN-2\n")

    status, _, err = run("ingest", export(radiograph(1, **changes), radiograph(2, **changes)))
    assert status == 17 and "counts as others" in err and "hint: name a new folder in data.store" in err
    assert patients(folder) == before
    if not issuer:
        assert run("receive", "--port", "0")[0] == 17


def test_an_export_of_joined_records_has_one_pseudonym_and_one_shift(
    site: Write, export: Write, run: Run, tmp_path: Path
) -> None:
    source = export(radiograph(1), radiograph(2), radiograph(3))
    folder = site(patients="old_id,current_id\nMRN-1,MRN-2\n")

    assert run("deidentify", source, tmp_path / "out")[0] == 0
    written = [dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    joined = [one for one in written if one.PatientID == KEYS.patient_key("", "MRN-2")]
    assert len(written) == 3 and len(joined) == 2 and len({one.StudyDate for one in joined}) == 1
    assert attestation(folder / "state")["lists"]["patients"]["entries"] == 1


def test_an_export_does_not_go_on_with_other_joined_records_or_another_secret(
    site: Write, export: Write, run: Run, tmp_path: Path
) -> None:
    source, target = export(radiograph(1), radiograph(2), radiograph(3)), tmp_path / "out"
    folder = site(patients="old_id,current_id\nMRN-9,MRN-3\n")
    assert run("deidentify", source, target)[0] == run("deidentify", source, target)[0] == 0
    files = sorted(target.rglob("*.dcm"))
    (folder / "patients.list").write_text("old_id,current_id\n\nMRN-9,MRN-3\n")
    assert run("deidentify", source, target)[0] == 0

    (folder / "patients.list").write_text("old_id,current_id\nMRN-9,MRN-3\nMRN-1,MRN-2\n")
    status, out, err = run("deidentify", source, target)
    assert (status, out) == (17, "") and "begun with other joined records" in err and "name a new folder" in err
    (folder / "patients.list").write_text("old_id,current_id\nMRN-9,MRN-3\n")
    (folder / "secret").write_bytes(bytes(32))
    assert "begun with another site secret" in run("deidentify", source, target)[2]
    assert sorted(path for path in target.rglob("*") if path.is_file()) == files
    assert run("deidentify", source, tmp_path / "new")[0] == 0
    assert len(list((folder / "state" / "exports").iterdir())) == 2


def test_another_site_does_not_go_on_with_an_export(site: Write, export: Write, run: Run, tmp_path: Path) -> None:
    source, folder = export(radiograph(1)), site()
    run("deidentify", source, tmp_path / "out")
    shutil.rmtree(folder / "state")

    status, _, err = run("deidentify", source, tmp_path / "out")
    assert status == 17 and "not begun there by this site" in err and len(list((tmp_path / "out").iterdir())) == 1


def test_an_older_id_left_in_an_export_holds_the_file_back(
    site: Write, export: Write, run: Run, tmp_path: Path
) -> None:
    image = radiograph(2)
    image.KVP = "4711471"
    folder = site(patients="old_id,current_id\n4711471,MRN-2\n")

    run("deidentify", export(image), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.dcm")) and folder.is_dir()


@pytest.mark.parametrize(
    ("lists", "status", "says"),
    [
        ({"staff": "Kvothe\npleural effusion\n"}, 19, "line 2 of the file of data.staff has plain words only"),
        ({"places": "Q\n"}, 19, "line 1 of the file of data.places has no word"),
        ({"patients": "old_id,current_id\nMRN-1,MRN-2\nMRN-2,MRN-1\n"}, 19, "line 3 of the file of data.patients"),
    ],
)
@pytest.mark.parametrize("command", ["ingest", "deidentify", "receive"])
def test_a_wrong_list_ends_every_command_before_anything_is_made(
    site: Write, export: Write, run: Run, tmp_path: Path, lists: dict[str, str], status: int, says: str, command: str
) -> None:
    folder = site(**lists)
    source = export(radiograph(1))
    words = {"ingest": [source], "deidentify": [source, tmp_path / "out"], "receive": ["--port", "0"]}[command]

    ended, out, err = run(command, *words)
    assert ended == status and out == "" and says in err and err.count("wardround: hint: ") == 1
    assert not (folder / "store").exists() and not (tmp_path / "out").exists()


def test_a_list_that_is_not_there_is_named_by_its_key(site: Write, export: Write, run: Run) -> None:
    folder = site(staff="Kvothe\n")
    (folder / "staff.list").unlink()

    status, _, err = run("ingest", export(radiograph(1)))
    assert status == 11 and "the file that data.staff names cannot be read" in err


def test_what_is_received_meets_the_lists_too(site: Write, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pynetdicom import AE
    from pynetdicom.sop_class import ComputedRadiographyImageStorage  # type: ignore[attr-defined]

    import client.imaging.receiver as receiver
    from federation.supervise import free_port

    folder = site(staff="Kvothe\n", patients="old_id,current_id\nMRN-1,MRN-2\n")
    (folder / "reports").mkdir()
    (folder / "reports" / "a.csv").write_text("accession_number,report\nACC0001,FINDINGS: shown to kvothe (mrn 2).\n")
    stopped, stops, port = list[int](), list[Any](), free_port()
    monkeypatch.setattr("client.intake._stopped_by_signals", lambda stop: stops.append(stop) or threading.Lock())
    serve = receiver.receive

    def receive(*words: Any, **more: Any) -> None:
        def send(actual: int) -> None:
            ae = AE(ae_title="PACS1")
            ae.add_requested_context(ComputedRadiographyImageStorage)
            association = ae.associate("127.0.0.1", actual, ae_title="WARDROUND")
            stopped.append(association.send_c_store(radiograph(1)).Status)
            association.release()

        told = more["told"]
        serve(
            *words,
            **more
            | {
                "started": lambda actual: threading.Thread(target=send, args=(actual,)).start(),
                "told": lambda counts: (told(counts), stops[0].set()),
            },
        )

    monkeypatch.setattr(receiver, "receive", receive)

    assert run("receive", "--port", str(port))[0] == 0 and stopped == [0]
    assert texts(folder)[1].endswith("shown to [NAME] ([ID]).") and patients(folder) == [KEYS.patient_key("", "MRN-2")]
