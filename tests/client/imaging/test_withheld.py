"""What a person took out of a store: it is gone, its pictures are gone, and it does not come back by itself."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.imaging.ingest import ingest
from client.imaging.png import encode_png
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.store import Store
from client.imaging.withheld import Reach, device_words
from federation.errors import DeidError, StoreError


def key(number: int) -> str:
    return f"{number:032x}"


def add(store: Store, example: int, patient: int, pictures: tuple[int, ...], *, maker: str = "ACME") -> CleanStudy:
    shown = tuple(
        CleanPicture(
            key(number), encode_png(np.full((8, 9), number, np.uint8)), 8, 9,
            PictureFields(modality="CR", manufacturer=maker, source_rows=80, source_columns=90),
        )
        for number in pictures
    )  # fmt: skip
    said = (CleanExample(key(example), (Turn("Seen?", f"planted answer {example}"),)),)
    study = CleanStudy(key(patient), "s", shown, said, profile_digest=store.profile_digest)
    store.add(study)
    return study


def files(store: Store) -> set[str]:
    return {path.stem for path in (store.folder / "images").rglob("*.png")}


def test_what_is_held_is_in_nothing_that_the_store_hands_out(store: Store) -> None:
    add(store, 101, 1, (1,))
    kept = add(store, 102, 2, (2,))
    before = store.digest()

    assert store.reach(key(101), group=False) == Reach(1, 1, 1) and store.count() == 2
    assert store.withhold([key(101)], "leak-found") == Reach(1, 1, 1)
    assert store.patients() == [kept.patient_key] and store.examples(key(1)) == [] and store.count() == 1
    assert store.digest() != before and files(store) == {key(2)} and store.held() == {"leak-found": 1}
    for path in store.folder.rglob("*"):
        if path.is_file():
            assert b"planted answer 101" not in path.read_bytes()


def test_a_hold_takes_every_example_that_shows_one_of_its_pictures_and_no_other(store: Store) -> None:
    """101 shows 1; so does 102, which shows 2 as well, and 103 shows that one only."""
    add(store, 101, 1, (1,))
    add(store, 102, 1, (1, 2))
    add(store, 103, 1, (2,))

    assert store.withhold([key(101)], "leak-found") == Reach(2, 1, 0)
    [left] = store.examples(key(1))
    assert left.example_key == key(103) and files(store) == {key(2)}


def test_a_group_is_manufacturer_modality_and_size(store: Store) -> None:
    add(store, 101, 1, (1,))
    add(store, 102, 2, (2,))
    add(store, 103, 3, (3,), maker="OTHER")

    assert store.reach(key(101), group=True) == Reach(2, 2, 2)
    assert store.withhold([key(101)], "unclear", group=True) == Reach(2, 2, 2)
    assert store.patients() == [key(3)]
    assert {device_words(one.device) for one in store.withheld()} == {"ACME CR 90 × 80"}
    assert [device_words(device) for device, _ in store.withheld_groups()] == ["ACME CR 90 × 80"]
    assert store.forget_withheld([key(101)], group=True) == 2 and store.withheld_groups() == []


def test_what_comes_of_a_held_group_is_held_until_the_group_goes_free(store: Store) -> None:
    add(store, 101, 1, (1,))
    add(store, 103, 3, (3,), maker="OTHER")
    store.withhold([key(101)], "leak-found", group=True)

    with pytest.raises(DeidError) as refused:
        add(store, 102, 2, (2,))
    assert refused.value.code == "leak-found" and store.count() == 1 and files(store) == {key(3)}
    assert store.held() == {"leak-found": 2} and add(store, 104, 4, (4,), maker="OTHER").patient_key == key(4)
    with pytest.raises(StoreError) as alone:
        store.forget_withheld([key(102)])
    assert alone.value.code == "group-held" and store.held() == {"leak-found": 2}
    assert store.forget_withheld([key(102)], group=True) == 2
    assert add(store, 102, 2, (2,)).patient_key == key(2) and store.count() == 3


def test_a_hold_without_its_group_lets_new_pictures_of_the_same_device_in(store: Store) -> None:
    add(store, 101, 1, (1,))
    store.withhold([key(101)], "leak-found")
    add(store, 102, 2, (2,))

    assert store.patients() == [key(2)] and store.withheld_groups() == []


def test_the_group_of_an_example_that_is_held_already_can_be_held_after_it(store: Store) -> None:
    add(store, 101, 1, (1,))
    add(store, 102, 2, (2,))
    add(store, 103, 3, (3,), maker="OTHER")
    store.withhold([key(101)], "leak-found")

    assert store.withhold([key(101)], "leak-found", group=True) == Reach(1, 1, 1) and store.patients() == [key(3)]


def test_a_held_picture_is_refused_under_another_text_until_the_hold_is_undone(store: Store) -> None:
    study = add(store, 101, 1, (1,))
    store.withhold([key(101)], "leak-found")
    other = replace(study, examples=(replace(study.examples[0], example_key=key(199)),))

    for again in (study, other):
        with pytest.raises(DeidError) as refused:
            store.add(again)
        assert refused.value.code == "leak-found" and store.count() == 0
    assert store.held() == {"leak-found": 2}
    assert store.forget_withheld([key(101)]) == 2 and store.held() == {}
    assert store.add(study) == 1 and files(store) == {key(1)}


def test_holding_twice_takes_nothing_more(store: Store) -> None:
    add(store, 101, 1, (1,))
    store.withhold([key(101)], "leak-found")
    before = store.digest()

    assert store.withhold([key(101)], "leak-found", group=True) == Reach(0, 0, 0) and store.digest() == before


@pytest.mark.parametrize("at", ["commit", "unlink"])
def test_a_hold_that_is_killed_is_whole_after_the_next_writer(store: Store, at: str) -> None:
    add(store, 101, 1, (1,))
    add(store, 102, 2, (2,))
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from client.imaging.store import Store\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[2] == 'commit': Store._commit = die\n"
        "else: Path.unlink = die\n"
        f"Store.open(Path(sys.argv[1])).withhold(['{key(101)}'], 'leak-found')\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(store.folder), at], env=os.environ, timeout=60)
    assert died.returncode == -signal.SIGKILL
    with Store.open(store.folder) as again:
        assert again.count() == (2 if at == "commit" else 1) and len(files(again)) == 2
        again.withhold([key(101)], "leak-found")

        assert files(again) == {key(2)} and again.count() == 1 and again.held() == {"leak-found": 1}


def test_an_ingest_of_the_same_source_does_not_bring_it_back(
    hospital: Path, store: Store, profile: DeidProfile, keys: SiteKeys
) -> None:
    ingest(hospital, store, profile, keys, workers=0)
    before, digest = store.count(), store.digest()
    example = store.examples(store.patients()[0])[0]
    taken = store.withhold([example.example_key], "leak-found")

    for _ in range(2):
        counts = ingest(hospital, store, profile, keys, workers=0)
        assert counts.accepted == 0 and counts.quarantined["leak-found"] >= 1
        assert store.held()["leak-found"] == taken.examples and store.count() == before - taken.examples
    store.forget_withheld([example.example_key])
    assert ingest(hospital, store, profile, keys, workers=0).accepted == taken.examples
    assert store.digest() == digest and "leak-found" not in store.held()


def test_a_store_from_before_is_told_to_be_made_anew(store: Store) -> None:
    store._index.execute("DROP TABLE withheld")
    store.close()

    with pytest.raises(StoreError) as refused:
        Store.open(store.folder)
    assert refused.value.code == "store-version"
