"""What a model remembers of single patients, with and without privacy: membership inference and canary exposure.

Made patients each have one report that nobody could guess: the code word of a case, one of eight at random. Some train
an adapter on the tiny base, through the site's own training code; others, made alike, do not. Afterwards the attacker
asks for every case's word, and goes by its likelihood, or by how much likelier training made it: whichever tells more.

    membership    area under the ROC, those trained on against the others (Yeom et al. 2018); 0.5 is a coin
    exposure      log2(8) minus the log2 of the word's rank among the eight, mean over those trained on (Carlini et al.
                  2019); 3 bits if all are remembered, about 1.1 if none is

Epsilon 8 is shown beside epsilon 1, because it is often called private: so many steps on so few patients with so much
freedom leave something to find.
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
PATIENTS, STEPS, LEARNING_RATE, DELTA = 16, 300, 0.005, 1e-3
WORLDS: tuple[tuple[str, float | None], ...] = (("without_dp", None), ("with_weak_dp", 8.0), ("with_dp", 1.0))


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
    """What `wardround sim attack --json` shows as `membership`: the same training in each of the `WORLDS`."""
    base = load_base(base_path, sha256=None, family=None, device=Device.choose("cpu"))
    cases = made_cases(2 * patients, np.random.default_rng(seed))
    inside = np.arange(len(cases)) < patients
    truth = np.array([WORDS.index(case.word) for case in cases])
    before = likelihoods(_carrying(base, None, seed=seed), cases)
    made: dict[str, Any] = {"patients": patients, "steps": steps, "delta": DELTA, "epsilon": dict(WORLDS)}
    for name, epsilon in WORLDS:
        update = _update(base, cases[:patients], _mechanism(epsilon, steps), steps=steps, seed=seed)
        after = likelihoods(_carrying(base, update, seed=seed), cases)
        told = [found(scores, truth, inside) for scores in (after, after - before)]
        made[f"auc_{name}"] = max(auc for auc, _ in told)
        made[f"exposure_bits_{name}"] = max(bits for _, bits in told)
    return made


def found(scores: NDArray[np.float64], truth: NDArray[np.int64], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the ROC and exposure in bits, by one score of each word for each case. (cases, words)"""
    own = scores[np.arange(len(truth)), truth]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    area = float(evaluate.auroc(own, inside, np.ones((1, len(truth))))[0])
    return area, float(np.mean(np.log2(scores.shape[1]) - np.log2(ranks[inside])))


def _mechanism(epsilon: float | None, steps: int) -> Mechanism | None:
    if epsilon is None:
        return None
    noise = accounting.noise_multiplier_for(epsilon, delta=DELTA, sampling_rate=1.0, steps=steps)
    return Mechanism(PoissonSampling(1.0), AutoS(radius=1.0), noise)


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
