import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from client.imaging.ingest import ingest
from client.imaging.png import encode_png
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.report_text import scrub
from client.imaging.store import Store
from federation.errors import DataError, DeidError, StoreError

Make = Callable[..., FileDataset]


def test_a_hospital_ends_in_its_store(hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys) -> None:
    steps: list[tuple[int, int]] = []
    counts = ingest(hospital, store, profile, keys, progress=lambda done, total: steps.append((done, total)))

    assert (counts.accepted, counts.already, counts.quarantined, counts.rejected, counts.unreported) == (3, 0, {}, 0, 0)
    assert steps == [(1, 3), (2, 3), (3, 3)] and len(store.patients()) == 3
    (example,) = store.examples(keys.patient_key("", "MRN-000001"))
    assert [turn.answer for turn in example.turns] == [
        "No.",
        "FINDINGS: [NAME] has a small left effusion, 12 mm. Seen on [DATE].",
    ]
    assert example.images[0].pixels().shape == (64, 64)


def test_no_byte_of_the_store_holds_an_identifier(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    ingest(hospital, store, profile, keys)
    planted = [
        b"quixano",
        b"alonso",
        b"mrn-",
        b"acc0000",
        b"1.2.3.4",
        b"toboso",
        b"carrasco",
        b"19500607",
        b"2019",
        b"pacs",
    ]

    for path in store.folder.rglob("*"):
        content = path.read_bytes().lower() if path.is_file() and path.suffix != ".png" else b""
        for word in planted:
            assert word not in content and word.decode() not in str(path.relative_to(store.folder)).lower()


def test_ingesting_twice_adds_nothing(hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys) -> None:
    ingest(hospital, store, profile, keys)
    before = store.digest()
    counts = ingest(hospital, store, profile, keys)

    assert (counts.accepted, counts.already) == (0, 3) and store.digest() == before


def test_what_is_said_many_times_of_one_study_is_scrubbed_once(
    tmp_path: Path,
    store: Store,
    profile: DeidProfile,
    keys: SiteKeys,
    make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table that was filled by copying down took 10 ms for each of its rows, and the study its time limit."""
    scrubbed: list[str] = []

    def counted(text: str, *rest: Any) -> str:
        scrubbed.append(text)
        return scrub(text, *rest)

    monkeypatch.setattr("client.imaging.deid.scrub", counted)
    folder = tmp_path / "hospital"
    folder.mkdir()
    make_chest(1).save_as(folder / "a.dcm", enforce_file_format=True)
    (folder / "r.csv").write_text("path,report\n" + "a.dcm,Clear lungs.\na.dcm,No effusion.\n" * 500)
    counts = ingest(folder, store, profile, keys, workers=0)

    assert (counts.accepted, counts.already, counts.quarantined) == (2, 998, {})
    assert sorted(scrubbed) == ["Clear lungs.", "Describe the findings.", "No effusion."]


@pytest.mark.parametrize("twice", ["row", "table", "image", "copy"])
def test_what_a_folder_says_twice_is_stored_once(
    tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make, twice: str
) -> None:
    folder = tmp_path / "hospital"
    folder.mkdir()
    for name in ("a.dcm", "b.dcm"):
        make_chest(1).save_as(folder / name, enforce_file_format=True)
    make_chest(2).save_as(folder / "c.dcm", enforce_file_format=True)
    table = "path,report\n" + "a.dcm,Clear lungs.\n" * (2 if twice == "row" else 1) + "c.dcm,Clear lungs.\n"
    if twice in ("row", "table"):
        (folder / "r.csv").write_text(table)
    if twice == "table":
        (folder / "r (copy).csv").write_text(table)
    if twice in ("image", "copy"):
        names = ["a.dcm", "a.dcm" if twice == "image" else "b.dcm"]
        said = [{"from": "human", "value": "<image><image>Compare."}, {"from": "gpt", "value": "Clear lungs."}]
        (folder / "r.jsonl").write_text(json.dumps({"image": names, "conversations": said}))
    counts = ingest(folder, store, profile, keys)

    assert (counts.accepted, counts.already) == {"row": (2, 1), "table": (2, 2)}.get(twice, (1, 0))
    (example,) = store.examples(keys.patient_key("", "MRN-000001"))
    assert counts.quarantined == {} and len(example.images) == 1
    assert ingest(folder, store, profile, keys).accepted == 0


def test_workers_give_the_same_store(
    hospital: Path, tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    other = Store.create(tmp_path / "other", profile_digest=profile.digest, key_id=keys.key_id)
    ingest(hospital, store, profile, keys, workers=0)
    ingest(hospital, other, profile, keys, workers=2)

    assert store.digest() == other.digest()


def test_bad_files_are_counted_by_reason_and_the_rest_goes_on(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    make_chest(2, PatientID="").save_as(hospital / "pacs/2/IM0001", enforce_file_format=True)
    (hospital / "pacs/cut").write_bytes((hospital / "pacs/1/IM0001").read_bytes()[:300])
    (hospital / "README").write_text("hello")
    counts = ingest(hospital, store, profile, keys)

    assert counts.accepted == 2 and counts.rejected == 1
    assert counts.quarantined["no-patient-id"] == 1 and sum(counts.quarantined.values()) == 2
    assert store.held() == counts.quarantined == {"no-patient-id": 1, "truncated": 1}


@pytest.mark.parametrize("beside", [[], ["IM0001"]])
@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("x", b"", "not-dicom"), ("x", b"%PDF-1.4", "not-dicom"), ("x.png", b"", "not-dicom"),
        ("x", 300, "truncated"), ("x", "class", "class-unknown"),
    ],
)  # fmt: skip
def test_a_row_that_names_a_damaged_file_is_held_back_for_that(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make, beside: list[str], name: str,
    content: Any, code: str,
) -> None:  # fmt: skip
    whole = (hospital / "pacs/1/IM0001").read_bytes()
    if content == "class":
        make_chest(9, SOPClassUID="1.2.3", PatientID="").save_as(hospital / "pacs/1" / name)
    else:
        (hospital / "pacs/1" / name).write_bytes(whole[:content] if content == 300 else content)
    names = [f"pacs/1/{each}" for each in [name, *beside]]
    said = [{"from": "human", "value": "<image>" * len(names) + "Q?"}, {"from": "gpt", "value": "Clear lungs."}]
    more = {"patient_id": "K-1"} if name == "x.png" else {}
    (hospital / "r.jsonl").write_text(json.dumps({"image": names, "conversations": said} | more))

    assert ingest(hospital, store, profile, keys).quarantined == {code: 1}


def test_an_item_that_was_repaired_leaves_quarantine(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    image = hospital / "pacs/2/IM0001"
    good = image.read_bytes()
    make_chest(2, PatientID="").save_as(image, enforce_file_format=True)
    ingest(hospital, store, profile, keys)
    image.write_bytes(good)
    counts = ingest(hospital, store, profile, keys)

    assert (counts.accepted, counts.already) == (1, 2) and store.held() == {}


@pytest.mark.parametrize("first", ["", "accession_number,report"])
def test_a_row_that_was_repaired_leaves_quarantine(
    tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make, first: str
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    make_chest(1).save_as(folder / "a", enforce_file_format=True)
    make_chest(1, PatientID="MRN-X", SOPInstanceUID="1.2.3.9").save_as(folder / "b", enforce_file_format=True)
    wrong = "ACC0000001,Clear lungs." if first else "path,report\nb,"
    (folder / "r.csv").write_text(f"{first}\n{wrong}\n".lstrip())
    ingest(folder, store, profile, keys)
    assert sum(store.held().values()) == 1 and set(store.held()) <= {"pairing", "report-format"}
    (folder / "r.csv").write_text("path,report\na,Clear lungs.\n")

    assert ingest(folder, store, profile, keys).accepted == 1 and store.held() == {}


def test_a_clean_row_settles_nothing_of_another_folder(
    tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    for number, changes in ((1, {"PatientID": ""}), (2, {})):
        folder = tmp_path / f"export-{number}"
        folder.mkdir()
        make_chest(number, **changes).save_as(folder / "a", enforce_file_format=True)
        (folder / "r.csv").write_text(f"accession_number,report\nACC000000{number},Clear lungs.\n")
        ingest(folder, store, profile, keys)

    assert store.count() == 1 and store.held() == {"no-patient-id": 1}


def test_a_row_without_its_image_stops_before_anything_is_stored(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    (hospital / "pacs/3/IM0001").unlink()

    with pytest.raises(DeidError) as refused:
        ingest(hospital, store, profile, keys)
    assert refused.value.code == "pairing" and store.patients() == [] and store.held() == {}


def test_a_store_of_another_profile_or_secret_is_refused(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    for wrong in ((DeidProfile.shipped(longest_side=32), keys), (profile, SiteKeys.from_secret(b"y" * 32))):
        with pytest.raises(StoreError) as refused:
            ingest(hospital, store, *wrong)
        assert refused.value.code == "store-mismatch"


def test_an_ingest_killed_at_any_write_ends_with_the_same_store_when_it_is_started_again(
    hospital: Path, tmp_path: Path, profile: DeidProfile, keys: SiteKeys, store: Store, make_chest: Make
) -> None:
    make_chest(2, PatientID="").save_as(hospital / "pacs/2/IM0001", enforce_file_format=True)
    ingest(hospital, store, profile, keys)
    killed = 0
    for step in range(1, 40, 3):
        folder = tmp_path / f"killed-{step}" / "store"
        status = _in_a_child(lambda place=folder, last=step: _ingest_and_die(hospital, place, profile, keys, last))  # type: ignore[misc]
        killed += status == -signal.SIGKILL
        with Store.open(folder) if (folder / "store.json").exists() else _fresh(folder, profile, keys) as again:
            ingest(hospital, again, profile, keys)
            named = sum(len(again.examples(patient)[0].images) for patient in again.patients())

            assert again.digest() == store.digest() and again.held() == store.held()
            assert len(list((folder / "images").rglob("*"))) == len(list((store.folder / "images").rglob("*")))
            assert named == 2 and not (folder.parent / "spool").exists()
    assert killed >= 5


def _fresh(folder: Path, profile: DeidProfile, keys: SiteKeys) -> Store:
    shutil.rmtree(folder, ignore_errors=True)
    return Store.create(folder, profile_digest=profile.digest, key_id=keys.key_id)


def _ingest_and_die(hospital: Path, folder: Path, profile: DeidProfile, keys: SiteKeys, last: int) -> None:
    """Ingest, and be killed in place of the write number `last`: a sync, a rename, or the end of a study."""
    writes = count(1)

    def or_die(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            if next(writes) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return instead

    os.fsync, os.replace = or_die(os.fsync), or_die(os.replace)  # type: ignore[assignment]
    with _fresh(folder, profile, keys) as store:
        ingest(hospital, store, profile, keys, workers=0, progress=or_die(lambda done, total: store.checkpoint()))


def _in_a_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def test_a_zip_and_a_folder_give_the_same_store(
    hospital: Path, tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in sorted(hospital.rglob("*")):
            archive.write(path, path.relative_to(hospital))
    with _fresh(tmp_path / "other" / "store", profile, keys) as other:
        ingest(tmp_path / "export.zip", other, profile, keys)
        ingest(hospital, store, profile, keys)

        assert other.digest() == store.digest() and not (tmp_path / "other" / "spool").exists()


def test_reports_may_lie_elsewhere_and_wait_for_their_images(
    hospital: Path, tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    (hospital / "reports.jsonl").unlink()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/a.csv").write_text(
        "accession_number,report\nACC0000001,FINDINGS: Clear lungs.\nACC0000009,FINDINGS: Clear lungs.\n"
    )
    left: list[Path] = []
    counts = ingest(hospital, store, profile, keys, reports=tmp_path / "reports", every_row=False, leftover=left.append)

    assert (counts.accepted, counts.waiting, counts.unreported) == (1, 1, 2)
    assert [path.parent.name for path in left] == ["2", "3"]


def test_a_store_inside_the_folder_is_refused(hospital: Path, profile: DeidProfile, keys: SiteKeys) -> None:
    with _fresh(hospital / "site" / "store", profile, keys) as store, pytest.raises(DataError) as refused:
        ingest(hospital, store, profile, keys)
    assert refused.value.code == "folder-overlap"


def test_who_is_withdrawn_does_not_come_back_by_a_header_a_picture_or_a_default_issuer(
    tmp_path: Path, hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    (hospital / "p.png").write_bytes(encode_png(np.full((64, 64), 90, np.uint8)))
    said = [{"from": "human", "value": "<image>Q?"}, {"from": "gpt", "value": "Clear lungs."}]
    (hospital / "p.jsonl").write_text(json.dumps({"image": "p.png", "conversations": said, "patient_id": "K-1"}))
    gone = {keys.patient_key("", name) for name in ("MRN-000001", "K-1")}
    counts = ingest(hospital, store, profile, keys, withdrawn=lambda: gone)
    assert (counts.accepted, counts.quarantined) == (2, {"withdrawn": 2}) and store.held() == {"withdrawn": 2}

    north = replace(profile, default_issuer="NORTH")
    other = Store.create(tmp_path / "other", profile_digest=north.digest, key_id=keys.key_id)
    assert ingest(hospital, other, north, keys, withdrawn=lambda: gone).quarantined == {"withdrawn": 2}
    assert ingest(hospital, store, profile, keys).accepted == 2 and store.held() == {}


def test_who_is_withdrawn_is_asked_when_nobody_else_can_write_and_once_more_when_others_can(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.store._LOCK_TRIES", 1)
    asked = []

    def withdrawn() -> frozenset[str]:
        try:
            with Store.open(store.folder) as another:
                another.erase(keys.patient_key("", "MRN-000009"))
            asked.append("free")
        except StoreError as error:
            asked.append(error.code)
        return frozenset()

    ingest(hospital, store, profile, keys, withdrawn=withdrawn)
    assert set(asked[:-1]) == {"store-busy"} and asked[-1] == "free"


def test_an_item_keeps_the_minute_in_which_it_was_first_held(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    make_chest(2, PatientID="").save_as(hospital / "pacs/2/IM0001", enforce_file_format=True)
    for year in (2026, 2027):
        monkeypatch.setattr("time.gmtime", lambda year=year: (year, 1, 2, 3, 4, 5, 0, 1, 0))
        ingest(hospital, store, profile, keys)
        (held,) = store.held_items(most=9)
        assert (held.since, held.reason, held.modality) == ("2026-01-02T03:04Z", "no-patient-id", "CR")
    make_chest(2, SOPClassUID="1.2.3").save_as(hospital / "pacs/2/IM0001")
    ingest(hospital, store, profile, keys)

    assert [(held.since[:4], held.reason) for held in store.held_items(most=9)] == [("2027", "class-unknown")]


def test_a_modality_that_is_no_listed_word_is_not_kept(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    make_chest(2, PatientID="", Modality="QUIXANO").save_as(hospital / "pacs/2/IM0001", enforce_file_format=True)
    ingest(hospital, store, profile, keys)

    assert [held.modality for held in store.held_items(most=9)] == [""]
