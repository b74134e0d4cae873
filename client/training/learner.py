"""What a site hands to `site.py` as its Learner: the loaded base, the store, and the training between them."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from client.imaging.store import Picture, Store
from client.releases import Releases
from client.training.cohort import split
from client.training.evaluate import Question, answers
from client.training.examples import Encoder, Example
from client.training.model import AdapterSpec, Base, TrainableModel
from client.training.train import Patients, Work, noisy_share, train
from federation.adapter import Adapter, AdapterUpdate, Factor
from federation.errors import DataError
from federation.plan import RunPlan
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeySource
from federation.privacy.mechanism import Mechanism, NoisyShare

CACHE_BYTES = 256 * 2**20


class ReleasedPatients(Patients, Protocol):
    """Patients that training may see only while a person's release stands."""

    def released(self) -> bool: ...

    def keying(self) -> str: ...


class StoredPatients:
    """A store as the trainer sees it: patients, and their examples with decoded pictures.

    Guarantees: nobody and nothing is handed out of a data set without a release, also if the store changes between two
    calls, nor of one that was cleaned by other rules than those in force, whose digest `rules` tells, nor while a
    patient is in it whom `withdrawn` names: an erasure that was recorded may wait for the store. Decoded pictures are
    kept up to `cache_bytes`, so that a small store is decoded once and a large one stays on disk; memory does not
    grow with the store, but for one short key per patient.
    """

    def __init__(
        self, store: Store, releases: Releases, *,
        rules: Callable[[], str] | None = None, withdrawn: Callable[[], Collection[str]] = frozenset,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        self._store, self._releases = store, releases
        self._rules, self._withdrawn = rules or (lambda: store.profile_digest), withdrawn
        self._seen: str | None = None  # the digest that was found released
        self._cache_bytes = self._room = cache_bytes
        self._kept_of = ""  # the digest of the data set that the kept examples are from
        self._kept: OrderedDict[str, tuple[Example, ...]] = OrderedDict()

    def released(self) -> bool:
        """Whether the data set as it is now has a release. The record is read anew, so that a revocation counts, and so
        are the rules: a release stands for those that the store was cleaned by. So is the record of withdrawals."""
        digest = self._store.digest()
        if digest != self._kept_of:
            self._forget_all(digest)
        stands = (
            self._rules() == self._store.profile_digest
            and self._releases.of(digest) is not None
            and not self._store.present(self._withdrawn())
        )
        self._seen = digest if stands else None
        return stands

    def keying(self) -> str:
        """Which secret and which rules made the keys of these patients."""
        return f"{self._store.key_id} {self._store.profile_digest}"

    def _forget_all(self, digest: str) -> None:
        self._kept.clear()
        self._room, self._kept_of = self._cache_bytes, digest

    def patients(self) -> Sequence[str]:
        """Those who are in the store now. Raises: DataError not-released."""
        if not self.released():
            raise _not_released()
        present = self._store.patients()
        self._require_unchanged()
        return present

    def examples(self, patient_key: str) -> Sequence[Example]:
        """One patient's examples. Raises: DataError not-released, also when the store has changed since, or the patient
        was withdrawn."""
        self._require_unchanged()
        if patient_key in self._withdrawn() and self._store.has_patient(patient_key):
            raise _not_released()
        if patient_key in self._kept:
            self._kept.move_to_end(patient_key)
            return self._kept[patient_key]
        decoded: dict[str, npt.NDArray[np.uint8]] = {}  # examples of one study share their pictures
        made = tuple(
            Example(
                patient_key,
                tuple(_once(picture, decoded) for picture in stored.images),
                tuple((turn.question, turn.answer) for turn in stored.turns),
            )
            for stored in self._store.examples(patient_key)
        )
        self._require_unchanged()
        self._kept[patient_key] = made
        self._room -= _bytes(made)
        while self._room < 0 and len(self._kept) > 1:
            self._room += _bytes(self._kept.popitem(last=False)[1])
        return made

    def _require_unchanged(self) -> None:
        """The digest is computed again only if somebody wrote to the store."""
        if (self._seen is None or self._store.digest() != self._seen) and not self.released():
            raise _not_released()


def _once(picture: Picture, decoded: dict[str, npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    if picture.picture_key not in decoded:
        decoded[picture.picture_key] = np.ascontiguousarray(picture.pixels())
    return decoded[picture.picture_key]


def _bytes(examples: Sequence[Example]) -> int:
    pictures = {id(picture): picture.nbytes for example in examples for picture in example.pictures}
    return sum(pictures.values())


def _not_released() -> DataError:
    return DataError(
        "not-released",
        "the data set of this site has no release",
        hint="look at it with wardround site inspect, then wardround site release",
    )


class LoraLearner:
    """Trains this site's adapter update. Sites of one process may share a base: they train one after the other."""

    def __init__(self, base: Base, data: ReleasedPatients, *, declared_patients: int) -> None:
        self._base = base
        self._data = data
        self._declared_patients = declared_patients

    def base_digest(self) -> str:
        return self._base.digest

    def declared_patients(self) -> int:
        return self._declared_patients

    def keying(self) -> str:
        return self._data.keying()

    def data_released(self) -> bool:
        return self._data.released()

    def adapter_shapes(self, plan: RunPlan) -> Mapping[str, tuple[int, ...]]:
        ever = plan.adapter.trained_factors(1) | plan.adapter.trained_factors(2)
        return self._base.adapter_shapes(AdapterSpec.of(plan, ever))

    def examine(self, plan: RunPlan, adapter: Adapter) -> Sequence[Answers]:
        """The held-out patients' answers to the plan's questions: exact, and for this machine only."""
        held_out = split(self._data.patients(), held_out_share=plan.evaluation.held_out_share).held_out
        model = self._base.with_adapter(AdapterSpec.of(plan, plan.adapter.trained_factors(1)))
        model.load(adapter)
        encoder = Encoder(self._base.processor, self._base.dtype)
        examples = [item for key in held_out for item in self._data.examples(key)]
        return [
            answers(model, encoder, examples, Question(asked[0], tuple(asked[1:])))
            for asked in plan.evaluation.questions
        ]

    def update(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism | None,
        keys: KeySource,
        label: str,
    ) -> AdapterUpdate:
        model, cohort, work = self._prepared(plan, factors)
        return train(model, adapter, self._data, cohort, work, mechanism, keys, label=label)

    def share(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism,
        keys: KeySource,
        label: str,
    ) -> NoisyShare:
        model, cohort, work = self._prepared(plan, factors)
        return noisy_share(model, adapter, self._data, cohort, work, mechanism, keys, label=label)

    def _prepared(self, plan: RunPlan, factors: frozenset[Factor]) -> tuple[TrainableModel, Sequence[str], Work]:
        """The model with these factors, the patients to train on, and what is done in a round."""
        cohort = split(self._data.patients(), held_out_share=plan.evaluation.held_out_share)
        model = self._base.with_adapter(AdapterSpec.of(plan, factors))
        return model, cohort.training, Work.of(plan, self._declared_patients)
