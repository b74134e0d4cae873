import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from client.imaging import ingest as ingesting
from client.imaging.ingest import ingest
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receive import RawStudy
from client.imaging.store import Store
from federation.errors import DeidError, StoreError

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


def test_workers_give_the_same_store(
    hospital: Path, tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    other = Store.create(tmp_path / "other", profile_digest=profile.digest, key_id=keys.key_id)
    ingest(hospital, store, profile, keys, workers=1)
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
    assert store.held() == {"no-patient-id": 1} and len(counts.items) == 1


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


def _dies(raw: RawStudy, profile: DeidProfile, keys: SiteKeys) -> None:
    os._exit(9)


def test_a_study_that_kills_its_worker_is_held_back(
    hospital: Path, profile: DeidProfile, keys: SiteKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw, *_) = ingesting.scan(hospital, profile).studies()
    monkeypatch.setattr(ingesting, "_cleaned", _dies)

    assert ingesting._cleaned_alone(replace(raw), profile, keys) == "decode-failed"
