"""Four rows side by side: the base, each site alone, the federation, and all data in one place.

The rows without a federation are federations of one: the same rounds, the same site code, one site (alone) or one site
that holds everybody's patients (pooled). Both train without privacy, because nothing leaves them. Every model is
examined on the same held-out patients of all sites; these are exact values of made or public patients, which is why
only the simulator has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.training import evaluate
from client.training.cohort import split
from client.training.evaluate import Case, Scored
from client.training.examples import Encoder, Example
from client.training.learner import StoredPatients
from client.training.model import AdapterSpec, Base, TrainableModel
from federation.adapter import Adapter, initial_adapter
from federation.plan import Privacy, RunPlan
from server import rounds
from server.checkpoint import Checkpoints
from server.record import RoundRecord
from sim.links import LocalLink
from sim.virtual_site import Pool, open_site

EXAMINED_MOST = 400  # held-out examples per site
TEXTS_MOST = 24  # generated reports per row
GALLERY_PER_SITE = 2


@dataclass(frozen=True)
class Examination:
    """The held-out patients of every site, ready to be shown to any adapter."""

    encoder: Encoder
    cases: tuple[Case, ...]
    examples: Mapping[str, tuple[Example, ...]]
    open_question: str | None

    @staticmethod
    def prepare(base: Base, data: Mapping[str, StoredPatients], *, held_out_share: float) -> "Examination":
        """Held-out patients only. The closed questions are found over all sites together."""
        encoder = Encoder(base.processor, base.dtype)
        examples: dict[str, tuple[Example, ...]] = {}
        for site_id, patients in data.items():
            held_out = split(patients.patients(), held_out_share=held_out_share).held_out
            items = [item for key in held_out for item in patients.examples(key)]
            examples[site_id] = tuple(items[:EXAMINED_MOST])
        everything = [item for items in examples.values() for item in items]
        questions = evaluate.closed_questions(everything)
        cases = [case for site, items in examples.items() for case in evaluate.cases(encoder, items, questions, site)]
        closed = {question.text for question in questions}
        free = [asked for item in everything for asked, _ in item.turns if asked not in closed]
        return Examination(encoder, tuple(cases), examples, max(set(free), key=free.count) if free else None)

    def some(self, most: int) -> "Examination":
        """About `most` cases, evenly from all: for the learning curve."""
        step = max(1, len(self.cases) // most)
        # The questions of one picture lie side by side: steps of an odd number reach all of them.
        return replace(self, cases=self.cases[:: step + (step + 1) % 2])


class Examiner:
    """Shows held-out patients to adapters and keeps the figures."""

    def __init__(self, plan: RunPlan, base: Base, examination: Examination, *, seed: int) -> None:
        self.plan, self.base, self.examination, self._seed = plan, base, examination, seed

    def scores(self, adapter: Adapter, examination: Examination | None = None) -> list[Scored]:
        model = self._carrying(adapter)
        examination = examination or self.examination
        return evaluate.score(model, examination.encoder, examination.cases)

    def _carrying(self, adapter: Adapter) -> TrainableModel:
        model = self.base.with_adapter(AdapterSpec.of(self.plan, self.plan.adapter.trained_factors(1)))
        model.load(adapter)
        return model

    def figures(self, scored: Sequence[Scored], *, site_id: str | None = None) -> dict[str, Any]:
        """Of all sites, or of one."""
        chosen = [item for item in scored if site_id in (None, item.site_id)]
        evaluation = self.plan.evaluation
        return evaluate.summary(
            chosen,
            bootstrap=evaluation.bootstrap,
            minimum_count=evaluation.minimum_count,
            rng=np.random.default_rng(self._seed),
        )

    def texts(self, adapter: Adapter) -> dict[str, Any] | None:
        """ROUGE-L of generated reports, or None if nobody was asked for one."""
        question = self.examination.open_question
        if question is None:
            return None
        model = self._carrying(adapter)
        meant, told = [], []
        pairs = [
            (item, answer)
            for items in self.examination.examples.values()
            for item in items
            for asked, answer in item.turns
            if asked == question
        ]
        for item, answer in pairs[:: max(1, len(pairs) // TEXTS_MOST)][:TEXTS_MOST]:
            meant.append(answer)
            told.append(evaluate.say(model, self.examination.encoder, item, question))
        if not meant:
            return None
        rng = np.random.default_rng(self._seed)
        return {"rouge_l": evaluate.rouge_l(told, meant, bootstrap=self.plan.evaluation.bootstrap, rng=rng)}

    def words(self, adapter: Adapter, chosen: Sequence[tuple[str, Example]]) -> list[str]:
        """The model's own words on the open question, for the gallery."""
        model = self._carrying(adapter)
        question = self.examination.open_question or ""
        return [evaluate.say(model, self.examination.encoder, example, question) for _, example in chosen]

    def gallery(self) -> list[tuple[str, Example]]:
        """A few held-out examples of each site that were described by their radiologist."""
        chosen = []
        for site_id, items in self.examination.examples.items():
            asked = [item for item in items if any(q == self.examination.open_question for q, _ in item.turns)]
            # The longest descriptions: a gallery of normal chests says nothing.
            asked.sort(key=lambda item: -sum(answer == "Yes." for _, answer in item.turns))
            chosen += [(site_id, item) for item in asked[:GALLERY_PER_SITE]]
        return chosen


def start_adapter(plan: RunPlan, base: Base) -> Adapter:
    """An adapter that changes nothing: B is zero. The base's own row."""
    ever = plan.adapter.trained_factors(1) | plan.adapter.trained_factors(2)
    return initial_adapter(base.adapter_shapes(AdapterSpec.of(plan, ever)), a_init="kaiming", seed=0)


def alone(
    plan: RunPlan,
    base: Base,
    folder: Path,
    work: Path,
    *,
    data: StoredPatients | Pool,
    site_id: str,
    observer: Callable[[RoundRecord, Adapter], None],
) -> Adapter:
    """The federation of one: the plan without privacy, with a quorum of one, on this site's or everybody's data."""
    lonely = replace(
        plan,
        run=replace(plan.run, quorum=1),
        privacy=Privacy(unit="none"),
        aggregation=replace(plan.aggregation, robust="none", secure=False),  # nobody to compare with, or to hide among
    )
    site = open_site(folder, work / "state", base, data=data, private=False)
    checkpoints = Checkpoints.create(work / "run", run_id=f"{plan.run.name}-alone", plan=lonely)
    result = rounds.run(lonely, LocalLink({site_id: site}), checkpoints, base=base.folder, observer=observer)
    site.ledger.close()
    return result.adapter
