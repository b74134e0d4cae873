import client.training  # noqa: F401  isort: skip
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.imaging.png import encode_png
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.store import Store
from client.releases import Release, Releases
from client.training.cohort import split
from client.training.examples import Example
from client.training.learner import LoraLearner, StoredPatients
from client.training.model import Base
from federation.adapter import Factor, initial_adapter
from federation.errors import DataError
from federation.plan import RunPlan, parse_plan
from federation.privacy.clipping import AutoS
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling

PROFILE = "0" * 64
SIDE = 40


def key(number: int) -> str:
    """Spread over all keys, as pseudonyms are, so that a fifth is held out."""
    return f"{(2 * number + 1) * 2**128 // 20:032x}"


def study(number: int) -> CleanStudy:
    pixels = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) + np.uint8(number)
    picture = CleanPicture(f"{number:032x}", encode_png(pixels), SIDE, SIDE, PictureFields(modality="CR", view="PA"))
    turns = (Turn("Is there pneumonia?", ("Yes.", "No.")[number % 2]),)
    return CleanStudy(key(number), "s", (picture,), (CleanExample(f"{number:032x}", turns),), "F", 61, PROFILE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "store", profile_digest=PROFILE, key_id="k") as store:
        for number in range(10):
            store.add(study(number))
        yield store


def released(store: Store) -> Releases:
    """The store's record of releases, with one of the store as it is."""
    releases = Releases(store.folder.parent / "releases.jsonl")
    releases.append(Release("release", store.digest(), store.profile_digest, "Dr. Panza", "2026-01-01T00:00:00Z"))
    return releases


class Watched(StoredPatients):
    """Remembers whose examples were asked for."""

    asked: set[str] = set()

    def examples(self, patient_key: str) -> Sequence[Example]:
        self.asked = self.asked | {patient_key}
        return super().examples(patient_key)


class Keys:
    def key(self, label: str) -> bytes:
        return hashlib.sha256(label.encode()).digest()


def plan(method: str = "fedavg") -> RunPlan:
    return parse_plan(f"""
[run]
name = "demo"
rounds = 1
[model]
path = "base"
[adapter]
method = "{method}"
rank = 2
alpha = 4.0
targets = ["attention", "projector"]
[training]
local_steps = 2
sampling_rate = 1.0
[privacy]
noise_multiplier = 1.0
""")


BOTH: frozenset[Factor] = frozenset({"A", "B"})
MECHANISM = Mechanism(PoissonSampling(1.0), AutoS(), 1.0)


def test_a_stored_patient_becomes_pictures_and_turns(store: Store) -> None:
    (example,) = StoredPatients(store, released(store)).examples(key(3))

    assert example.patient_key == key(3) and example.turns == (("Is there pneumonia?", "No."),)
    assert example.pictures[0].dtype == np.uint8 and example.pictures[0].shape == (SIDE, SIDE)
    assert int(example.pictures[0][0, 1]) == 4


@pytest.mark.parametrize("room", [0, SIDE * SIDE, 3 * SIDE * SIDE, 2**20])
def test_a_small_cache_forgets_and_never_mixes_up(store: Store, room: int) -> None:
    data = StoredPatients(store, released(store), cache_bytes=room)
    for number in (0, 1, 2, 3, 0, 3, 9, 1, 1, 0):
        assert int(data.examples(key(number))[0].pictures[0][0, 0]) == number


def test_an_update_fits_the_shapes_and_repeats_with_its_keys(base: Base, store: Store) -> None:
    learner = LoraLearner(base, StoredPatients(store, released(store)), declared_patients=10)
    shapes = learner.adapter_shapes(plan())
    start = initial_adapter(shapes, a_init="orthonormal", seed=1)
    updates = [learner.update(plan(), BOTH, start, MECHANISM, Keys(), "run/1") for _ in range(2)]

    assert learner.base_digest() == base.digest and learner.declared_patients() == 10
    assert updates[0].shapes == dict(shapes) and updates[0].digest() == updates[1].digest()


def test_a_plan_that_trains_one_factor_gets_one_factor(base: Base, store: Store) -> None:
    learner = LoraLearner(base, StoredPatients(store, released(store)), declared_patients=10)
    start = initial_adapter(learner.adapter_shapes(plan("ffa")), a_init="orthonormal", seed=1)

    assert learner.update(plan("ffa"), frozenset({"B"}), start, MECHANISM, Keys(), "run/1").factors == {"B"}
    assert start.factors == {"A", "B"}


def test_under_rolora_the_factors_take_turns_on_one_base_and_shapes_are_asked_in_between(
    base: Base, store: Store
) -> None:
    learner = LoraLearner(base, StoredPatients(store, released(store)), declared_patients=10)
    rolora = plan("rolora")
    adapter = initial_adapter(learner.adapter_shapes(rolora), a_init="orthonormal", seed=1)
    for number, factor in ((1, "B"), (2, "A"), (3, "B")):
        factors = rolora.adapter.trained_factors(number)
        update = learner.update(rolora, factors, adapter, MECHANISM, Keys(), f"run/{number}")
        adapter = adapter.plus(update)

        assert update.factors == factors == {factor} and update.norm() > 0
        assert dict(learner.adapter_shapes(rolora)) == adapter.shapes


def test_patients_who_are_held_out_are_never_read(base: Base, store: Store) -> None:
    data = Watched(store, released(store))
    learner = LoraLearner(base, data, declared_patients=10)
    start = initial_adapter(learner.adapter_shapes(plan()), a_init="orthonormal", seed=1)
    learner.update(plan(), BOTH, start, MECHANISM, Keys(), "run/1")
    cohort = split(store.patients(), held_out_share=0.2)

    assert data.asked == set(cohort.training) and len(cohort.held_out) == 2


def test_a_withdrawn_patient_is_forgotten_and_not_drawn_again(base: Base, store: Store) -> None:
    data = Watched(store, released(store))
    learner = LoraLearner(base, data, declared_patients=10)
    start = initial_adapter(learner.adapter_shapes(plan()), a_init="orthonormal", seed=1)
    learner.update(plan(), BOTH, start, MECHANISM, Keys(), "run/1")
    store.erase(key(7))
    released(store)
    data.asked = set()
    learner.update(plan(), BOTH, start, MECHANISM, Keys(), "run/2")

    assert data.asked and key(7) not in data.asked
    assert data.examples(key(7)) == ()


def test_without_a_release_of_this_very_data_set_nobody_is_handed_out(store: Store, tmp_path: Path) -> None:
    data = StoredPatients(store, Releases(tmp_path / "releases.jsonl"))
    assert not data.released()
    for ask in (data.patients, lambda: data.examples(key(1))):
        with pytest.raises(DataError) as refused:
            ask()
        assert refused.value.code == "not-released"
    released(store)
    assert data.released() and len(data.patients()) == 10


def test_what_another_process_adds_after_the_release_ends_the_reading(store: Store) -> None:
    data = StoredPatients(store, released(store), cache_bytes=0)
    data.patients()
    with Store.open(store.folder) as other:
        other.add(study(11))

    for ask in (data.patients, lambda: data.examples(key(1))):
        with pytest.raises(DataError):
            ask()
    released(store)
    assert len(data.patients()) == 11


def test_a_revoked_release_counts_at_once(store: Store) -> None:
    releases = released(store)
    data = StoredPatients(store, releases)
    assert data.released()
    releases.append(Release("revoke", store.digest(), store.profile_digest, "Dr. Panza", "2026-01-02T00:00:00Z"))

    assert not data.released()


def test_a_release_stands_for_the_rules_it_was_given_under(store: Store) -> None:
    in_force = [store.profile_digest]
    data = StoredPatients(store, released(store), rules=lambda: in_force[-1])
    assert data.released()
    in_force.append("of stricter ones")

    assert not data.released()
    with pytest.raises(DataError) as refused:
        data.patients()
    assert refused.value.code == "not-released"


def test_nobody_is_handed_out_while_a_withdrawn_patient_is_still_in_the_store(store: Store) -> None:
    gone: list[str] = []
    data = StoredPatients(store, released(store), withdrawn=lambda: gone)
    assert data.examples(key(7)) and len(data.patients()) == 10
    gone.append(key(7))  # in the middle of a round: nothing was written to the store yet

    assert not data.released()
    for ask in (data.patients, lambda: data.examples(key(7))):
        with pytest.raises(DataError) as refused:
            ask()
        assert refused.value.code == "not-released"
    store.erase(key(7))
    released(store)
    assert key(7) not in data.patients() and len(data.patients()) == 9


def test_examples_of_one_study_share_their_decoded_pictures(tmp_path: Path) -> None:
    two = study(1)
    two = replace(two, examples=(*two.examples, CleanExample("f" * 32, (Turn("Where?", "Left."),))))
    with Store.create(tmp_path / "other" / "store", profile_digest=PROFILE, key_id="k") as store:
        store.add(two)
        first, second = StoredPatients(store, released(store)).examples(two.patient_key)

        assert first.pictures[0] is second.pictures[0]
