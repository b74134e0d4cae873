"""What a site hands to `site.py` as its Learner: the loaded base, the store, and the training between them."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from client.imaging.store import Store
from client.training.cohort import split
from client.training.evaluate import Question, answers
from client.training.examples import Encoder, Example
from client.training.model import AdapterSpec, Base
from client.training.train import Patients, Work, train
from federation.adapter import Adapter, AdapterUpdate, Factor
from federation.plan import RunPlan
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeySource
from federation.privacy.mechanism import Mechanism

CACHE_BYTES = 256 * 2**20


class StoredPatients:
    """A store as the trainer sees it: patients, and their examples with decoded pictures.

    Decoded pictures are kept up to `cache_bytes`, so that a small store is decoded once and a large one stays on disk.
    """

    def __init__(self, store: Store, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._room = cache_bytes
        self._kept: OrderedDict[str, tuple[Example, ...]] = OrderedDict()

    def patients(self) -> Sequence[str]:
        """Those who are in the store now; what was kept of the others is forgotten."""
        present = self._store.patients()
        for withdrawn in self._kept.keys() - set(present):
            self._room += _bytes(self._kept.pop(withdrawn))
        return present

    def examples(self, patient_key: str) -> Sequence[Example]:
        if patient_key in self._kept:
            self._kept.move_to_end(patient_key)
            return self._kept[patient_key]
        made = tuple(
            Example(
                patient_key,
                tuple(np.ascontiguousarray(picture.pixels()) for picture in stored.images),
                tuple((turn.question, turn.answer) for turn in stored.turns),
            )
            for stored in self._store.examples(patient_key)
        )
        self._kept[patient_key] = made
        self._room -= _bytes(made)
        while self._room < 0 and len(self._kept) > 1:
            self._room += _bytes(self._kept.popitem(last=False)[1])
        return made


def _bytes(examples: Sequence[Example]) -> int:
    return sum(picture.nbytes for example in examples for picture in example.pictures)


class LoraLearner:
    """Trains this site's adapter update. Sites of one process may share a base: they train one after the other."""

    def __init__(self, base: Base, data: Patients, *, declared_patients: int) -> None:
        self._base = base
        self._data = data
        self._declared_patients = declared_patients

    def base_digest(self) -> str:
        return self._base.digest

    def declared_patients(self) -> int:
        return self._declared_patients

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
        cohort = split(self._data.patients(), held_out_share=plan.evaluation.held_out_share)
        model = self._base.with_adapter(AdapterSpec.of(plan, factors))
        work = Work.of(plan, self._declared_patients)
        return train(model, adapter, self._data, cohort.training, work, mechanism, keys, label=label)
