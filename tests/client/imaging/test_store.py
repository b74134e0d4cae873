import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.imaging.png import encode_png
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.store import Store, _locked
from federation.errors import DeidError, StoreError


def study(number: int, profile: DeidProfile, *, patient: int | None = None, shade: int = 0) -> CleanStudy:
    pixels = np.full((8, 9), shade + number, dtype=np.uint8)
    picture = CleanPicture(f"{number:032x}", encode_png(pixels), 8, 9, PictureFields(modality="CR", view="PA"))
    example = CleanExample(f"{number + 1000:032x}", (Turn("Is there pneumonia?", "Yes."), Turn("Where?", "Left.")))
    patient_key = f"{number if patient is None else patient:032x}"
    return CleanStudy(patient_key, "s", (picture,), (example,), "F", 61, profile.digest)


def files(store: Store) -> list[Path]:
    return sorted(path for path in (store.folder / "images").rglob("*") if path.is_file())


def test_what_was_stored_comes_back_in_order(store: Store, profile: DeidProfile) -> None:
    for number in (3, 1, 2):
        store.add(study(number, profile, patient=number % 2))
    first, second = store.examples(f"{1:032x}")

    assert store.patients() == [f"{0:032x}", f"{1:032x}"] and store.count() == 3
    assert first.example_key < second.example_key
    assert first.turns[1] == Turn("Where?", "Left.") and (first.modality, first.view) == ("CR", "PA")
    assert np.array_equal(first.images[0].pixels(), np.full((8, 9), 1, dtype=np.uint8))
    assert store.examples("f" * 32) == []


def test_adding_twice_adds_nothing(store: Store, profile: DeidProfile) -> None:
    assert store.add(study(1, profile)) == 1
    before = store.digest()

    assert store.add(study(1, profile)) == 0 and store.digest() == before


def test_what_a_study_holds_twice_is_stored_once(store: Store, profile: DeidProfile) -> None:
    one = study(1, profile)
    twice = replace(one, examples=one.examples * 2, pictures=one.pictures * 2)

    assert store.add(twice) == 1
    (example,) = store.examples(one.patient_key)
    assert len(example.images) == 1 and len(files(store)) == 1


def test_the_digest_does_not_depend_on_the_order_of_rows(tmp_path: Path, profile: DeidProfile) -> None:
    digests = set()
    for name, order in (("a", (1, 2, 3)), ("b", (3, 1, 2))):
        store = Store.create(tmp_path / name, profile_digest=profile.digest, key_id="k")
        for number in order:
            store.add(study(number, profile))
        digests.add(store.digest())
    store.add(study(4, profile))

    assert len(digests) == 1 and store.digest() not in digests


def test_other_pixels_of_the_same_instance_are_refused(store: Store, profile: DeidProfile) -> None:
    store.add(study(1, profile))
    other = study(1, profile, shade=50)
    other = replace(other, examples=(replace(other.examples[0], example_key="e" * 32),))

    with pytest.raises(DeidError) as refused:
        store.add(other)
    assert refused.value.code == "duplicate-differs" and store.count() == 1


def test_a_withdrawn_patient_leaves_no_byte(store: Store, profile: DeidProfile) -> None:
    marked = study(1, profile)
    marked = replace(marked, examples=(replace(marked.examples[0], turns=(Turn("q", "planted-answer"),)),))
    store.add(marked)
    store.add(study(2, profile))

    assert store.erase(marked.patient_key) == 1
    assert store.patients() == [f"{2:032x}"] and len(files(store)) == 1
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert b"planted-answer" not in path.read_bytes() and marked.patient_key.encode() not in path.read_bytes()


def test_a_picture_that_came_while_erasing_waited_goes_too(
    store: Store, profile: DeidProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Store.open(store.folder)

    def locked(path: Path) -> int:
        monkeypatch.undo()
        other.add(study(1, profile))
        return _locked(path)

    monkeypatch.setattr("client.imaging.store._locked", locked)

    assert store.erase(f"{1:032x}") == 1 and files(store) == []


def test_erasing_says_when_a_reader_keeps_the_log(store: Store, profile: DeidProfile) -> None:
    store.add(study(1, profile))
    store._index.execute("PRAGMA busy_timeout=20")
    with Store.open(store.folder) as reader:
        reader._index.execute("BEGIN")
        reader.count()
        with pytest.raises(StoreError) as refused:
            store.erase(f"{1:032x}")
    assert refused.value.code == "store-busy"
    assert store.erase(f"{1:032x}") == 0
    assert not [path for path in store.folder.iterdir() if path.is_file() and b"pneumonia" in path.read_bytes()]


def test_folders_and_files_are_for_the_owner_only(store: Store, profile: DeidProfile) -> None:
    store.add(study(1, profile))

    for path in [store.folder, *store.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path.name


def test_a_batch_that_fails_leaves_no_row_and_the_next_writer_removes_its_pictures(
    store: Store, profile: DeidProfile
) -> None:
    store.add(study(1, profile))
    with pytest.raises(RuntimeError), store.batch():
        store.add(study(2, profile))
        raise RuntimeError

    assert store.patients() == [f"{1:032x}"] and len(files(store)) == 2
    again = Store.open(store.folder)
    again.add(study(3, profile))
    assert len(files(again)) == 2 and again.count() == 2


def test_a_checkpoint_survives_a_failure_after_it(store: Store, profile: DeidProfile) -> None:
    with pytest.raises(RuntimeError), store.batch():
        store.add(study(1, profile))
        store.checkpoint()
        store.add(study(2, profile))
        raise RuntimeError

    assert store.count() == 1


def test_a_reader_sees_nothing_of_an_open_batch(store: Store, profile: DeidProfile) -> None:
    reader = Store.open(store.folder)
    with store.batch():
        store.add(study(1, profile))

        assert reader.patients() == []
    assert len(reader.patients()) == 1


@pytest.mark.parametrize("damage", [b"", b"other bytes", None])
def test_a_changed_or_missing_picture_is_found_when_read(
    store: Store, profile: DeidProfile, damage: bytes | None
) -> None:
    store.add(study(1, profile))
    (path,) = files(store)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)

    with pytest.raises(StoreError) as refused:
        store.examples(f"{1:032x}")[0].images[0].pixels()
    assert refused.value.code == "store-damaged" and str(path) not in str(refused.value)


def test_a_damaged_head_or_index_and_another_version_are_refused(store: Store) -> None:
    head = store.folder / "store.json"
    good = head.read_text()
    for text, code in (
        ("", "store-damaged"), ("[" * 300_000, "store-damaged"), ("[]", "store-damaged"), ("{}", "store-damaged"),
        (good.replace("store/1", "store/2"), "store-version"),
    ):  # fmt: skip
        head.write_text(text)
        with pytest.raises(StoreError) as refused:
            Store.open(store.folder)
        assert refused.value.code == code
    head.write_text(good)
    store.close()
    (store.folder / "index.sqlite").write_bytes(os.urandom(4096))

    with pytest.raises(StoreError) as refused:
        Store.open(store.folder)
    assert refused.value.code == "store-damaged"


def test_a_store_with_the_list_of_an_earlier_version_is_refused(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.folder / "index.sqlite") as index:
        index.executescript("DROP TABLE decision; CREATE TABLE decision (item TEXT PRIMARY KEY, reason TEXT NOT NULL)")

    with pytest.raises(StoreError) as refused:
        Store.open(store.folder)
    assert refused.value.code == "store-version" and "earlier version" in str(refused.value)


def test_a_new_store_needs_an_empty_folder(store: Store, profile: DeidProfile, keys: SiteKeys) -> None:
    with pytest.raises(StoreError) as refused:
        Store.create(store.folder, profile_digest=profile.digest, key_id=keys.key_id)

    assert refused.value.code == "output-exists"


@pytest.mark.parametrize("last", ["images", "attestations", "index.sqlite", "store.json"])
def test_a_store_that_was_killed_while_it_was_made_is_gone_on_with(
    tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    real = Path.mkdir
    if last in ("images", "attestations"):
        monkeypatch.setattr(Path, "mkdir", lambda at, **how: killed() if at.name == last else real(at, **how))
    else:
        monkeypatch.setattr(f"client.imaging.store.{'_write' if last == 'store.json' else '_connect'}", killed)
    with pytest.raises(KilledError):
        Store.create(tmp_path / "new", profile_digest="p", key_id="k")
    monkeypatch.undo()

    assert Store.create(tmp_path / "new", profile_digest="p", key_id="k").count() == 0


@pytest.mark.parametrize("there", ["lock", "images/ab", "attestations/a.json", "other"])
def test_a_folder_that_ever_held_something_is_not_made_a_store(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True)

    with pytest.raises(StoreError) as refused:
        Store.create(tmp_path, profile_digest="p", key_id="k")
    assert refused.value.code == "output-exists"


def test_nothing_of_a_study_is_printed(store: Store, profile: DeidProfile) -> None:
    store.add(study(1, profile))
    (example,) = store.examples(f"{1:032x}")

    assert {repr(example), repr(example.images[0]), repr(example.turns[0]), repr(study(1, profile))} == {
        "<StoredExample: hidden>", "<Picture: hidden>", "<Turn: hidden>", "<CleanStudy: hidden>",
    }  # fmt: skip


def test_a_writer_that_died_leaves_a_mark_and_the_next_one_sweeps_without_touching_what_is_stored(
    store: Store, profile: DeidProfile
) -> None:
    store.add(study(1, profile))
    [kept] = files(store)
    stray = kept.with_name("0" * 31 + "f.png")
    stray.write_bytes(kept.read_bytes())
    half = kept.with_name(kept.name + ".part")
    half.touch()
    store.add(study(2, profile))
    assert stray.exists(), "without a mark nobody has to look"
    (store.folder / "lock").write_bytes(b"writing\n")
    store.add(study(3, profile))

    assert not stray.exists() and not half.exists() and len(files(store)) == 3
    assert (store.folder / "lock").stat().st_size == 0


def test_a_second_writer_is_told_that_the_store_is_busy(
    store: Store, profile: DeidProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.store._LOCK_PAUSE_S", 0.0)
    with store.batch(), Store.open(store.folder) as other:
        with pytest.raises(StoreError) as refused:
            other.add(study(1, profile))
    assert refused.value.code == "store-busy"


def test_the_digest_is_kept_until_somebody_writes(store: Store, profile: DeidProfile) -> None:
    store.add(study(1, profile))
    first = store.digest()
    with Store.open(store.folder) as other:
        other.hold("1", "burned-in")
        assert store.digest() == first
        other.add(study(2, profile))
        assert store.digest() == other.digest() != first


@pytest.mark.slow
def test_memory_does_not_grow_with_the_store(store: Store, profile: DeidProfile) -> None:
    def resident_mb() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) // 1024

    one = study(1, profile)
    with store.batch():
        for number in range(20_000):
            picture = replace(one.pictures[0], picture_key=f"{number * 2**100:032x}")
            example = replace(one.examples[0], example_key=f"{number * 2**100:032x}")
            store.add(replace(one, patient_key=f"{number // 4:032x}", pictures=(picture,), examples=(example,)))
            if number % 256 == 0:
                store.checkpoint()
            if number == 2_000:
                before = resident_mb()
    for number in range(0, 5_000, 7):
        assert len(store.examples(f"{number:032x}")) == 4
    store.digest()

    assert resident_mb() - before < 20  # of 18,000 more examples; their rows alone have 10 MB


def test_a_store_that_may_not_be_written_is_not_called_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite says of a folder in which it cannot make its journal."""

    def refusing(folder: Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    monkeypatch.setattr("client.imaging.store._connect", refusing)
    with pytest.raises(StoreError) as refused:
        Store.open(store.folder)

    assert refused.value.code == "no-permission"
