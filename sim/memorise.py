"""What a model remembers of single patients, with and without privacy: membership inference and canary exposure.

Made patients each have one report that nobody could guess: the code word of a case, one of eight at random. Some train
an adapter on the tiny base, through the site's own training code; others, made alike, do not. Afterwards the attacker
asks for every case's word.

    membership    area under the ROC of the word's likelihood, those trained on against the others (Yeom et al. 2018);
                  0.5 is a coin
    exposure      log2(8) minus the log2 of the word's rank among the eight, by how much likelier training made each,
                  mean over those trained on (Carlini et al. 2019); 3 bits if all are remembered, about 1 if none is
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.training import evaluate
from client.training.evaluate import Question
from client.training.examples import Encoder, Example
from client.training.model import AdapterSpec, Base, Device, TrainableModel, load_base
from client.training.train import Work, train
from federation.adapter import AdapterUpdate, initial_adapter
from federation.privacy import accounting
from federation.privacy.clipping import AutoS
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from sim.keys import SeededKeys

WORDS = ("edema.", "emphysema.", "atelectasis.", "fibrosis.", "calcification.", "congestion.", "fracture.", "mass.")
PLACES = ("left", "right", "upper", "lower", "small", "large")
SPEC = AdapterSpec(8, 16.0, ("attention", "shared_expert"), frozenset({"A", "B"}))
PATIENTS, STEPS, LEARNING_RATE, EPSILON, DELTA = 12, 250, 0.002, 8.0, 1e-3


@dataclass(frozen=True)
class Case:
    """One made patient: a question that names the case, and its word."""

    name: str
    question: str
    word: str

    def examples(self) -> Sequence[Example]:
        return (Example(self.name, (), ((self.question, self.word),)),)


class MadeCases:
    """Cases as the trainer sees patients."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self._of = {case.name: case for case in cases}

    def patients(self) -> Sequence[str]:
        return sorted(self._of)

    def examples(self, patient_key: str) -> Sequence[Example]:
        return self._of[patient_key].examples()


def memorise(base_path: Path, *, seed: int = 0, patients: int = PATIENTS, steps: int = STEPS) -> dict[str, Any]:
    """What `wardround sim attack --json` shows as `membership`: the same training without noise and with epsilon 8."""
    base = load_base(base_path, sha256=None, family=None, device=Device.choose("cpu"))
    rng = np.random.default_rng(seed)
    cases = made_cases(2 * patients, rng)
    members = cases[:patients]
    noise = accounting.noise_multiplier_for(EPSILON, delta=DELTA, sampling_rate=1.0, steps=steps)
    private = Mechanism(PoissonSampling(1.0), AutoS(radius=1.0), noise)
    made: dict[str, Any] = {"patients": patients, "steps": steps, "epsilon": EPSILON, "delta": DELTA}
    before = likelihoods(_carrying(base, None, seed=seed), cases)
    truth = np.array([WORDS.index(case.word) for case in cases])
    inside = np.arange(len(cases)) < patients
    for name, mechanism in (("without_dp", None), ("with_dp", private)):
        update = _update(base, members, mechanism, steps=steps, seed=seed)
        gained = likelihoods(_carrying(base, update, seed=seed), cases) - before
        own = gained[np.arange(len(cases)), truth]
        ranks = 1 + (gained > own[:, None]).sum(axis=1)
        after = (gained + before)[np.arange(len(cases)), truth]
        made[f"auc_{name}"] = float(evaluate.auroc(after, inside, np.ones((1, len(cases))))[0])
        made[f"exposure_bits_{name}"] = float(np.mean(np.log2(len(WORDS)) - np.log2(ranks[inside])))
    return made


def made_cases(count: int, rng: np.random.Generator) -> list[Case]:
    """Every case has a name of its own, in words that the base knows, and a word that nothing tells."""
    names = [f"{a} {b} {c}" for a in PLACES for b in PLACES for c in PLACES]
    chosen = rng.permutation(len(names))[:count]
    return [
        Case(f"{number:032x}", f"What is the word of the {names[name]} case?", str(rng.choice(WORDS)))
        for number, name in enumerate(chosen)
    ]


def likelihoods(model: TrainableModel, cases: Sequence[Case]) -> NDArray[np.float64]:
    """Log-probability of each of the eight words for each case, among the eight. (cases, words)"""
    encoder = Encoder(model.base.processor, model.base.dtype)
    asked = [
        evaluate.cases(encoder, case.examples(), [Question(case.question, WORDS)], "attacker")[0] for case in cases
    ]
    found: NDArray[np.float64] = np.log(
        np.stack([item.probabilities for item in evaluate.score(model, encoder, asked)]).clip(1e-30)
    )
    return found


def _update(
    base: Base, members: Sequence[Case], mechanism: Mechanism | None, *, steps: int, seed: int
) -> AdapterUpdate:
    model = base.with_adapter(SPEC)
    start = initial_adapter(model.shapes(), a_init="orthonormal", seed=seed)
    work = Work(1.0, steps, 1, 0, len(members), LEARNING_RATE, "adam", len(members))
    data = MadeCases(members)
    return train(model, start, data, data.patients(), work, mechanism, SeededKeys(seed), label="memorise")


def _carrying(base: Base, update: AdapterUpdate | None, *, seed: int) -> TrainableModel:
    """The base with the adapter that training began with, or ended with."""
    model = base.with_adapter(SPEC)
    start = initial_adapter(model.shapes(), a_init="orthonormal", seed=seed)
    model.load(start if update is None else start.plus(update))
    return model
