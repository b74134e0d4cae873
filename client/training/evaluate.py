"""How well a model answers: closed questions by the likelihood of each answer, free text by ROUGE-L.

A closed question is one whose answers, over the examined patients, come from a small set. Each answer is scored as the
model's probability of saying it first, after the picture and that question alone; scores over the set sum to one. From
them: AUROC, and at the most likely answer sensitivity, specificity, Cohen's kappa and accuracy. Intervals are 95 %
percentiles of a bootstrap over patients (their studies stay together). A figure from too few patients is withheld.

These are exact values of private patients. They stay where they are computed; only the simulator, whose patients are
made, writes them into a report. What a hospital tells is `answers`, made into noisy histograms by
federation/privacy/histograms.py and charged to its ledger.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

from client.training.examples import Encoded, Encoder, Example
from client.training.model import TrainableModel
from federation.privacy.histograms import Answers

ANSWERS_MOST = 6
BATCH = 64
NEGATIVE = ("no", "normal", "negative", "absent", "none", "false", "benign", "clear")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """A closed question. `answers[0]` is the positive one where there are two."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Case:
    """One closed question about one example, ready for the model: the sequence of each possible answer."""

    patient_key: str
    site_id: str
    question: Question
    truth: int
    sequences: tuple[Encoded, ...]

    def __repr__(self) -> str:
        return "<Case: hidden>"


@dataclass(frozen=True, repr=False)
class Scored:
    """A case with the model's probability of each answer."""

    patient_key: str
    site_id: str
    question: Question
    truth: int
    probabilities: Floats

    def __repr__(self) -> str:
        return "<Scored: hidden>"


def closed_questions(examples: Sequence[Example]) -> list[Question]:
    """Questions whose answers repeat: at most `ANSWERS_MOST` different ones, short, thrice each on average."""
    given: dict[str, Counter[str]] = {}
    for example in examples:
        for question, answer in example.turns:
            given.setdefault(question, Counter())[answer] += 1
    found = []
    for text, answers in sorted(given.items()):
        few = 2 <= len(answers) <= ANSWERS_MOST and sum(answers.values()) >= 3 * len(answers)
        if few and max(map(len, answers)) <= 40:
            found.append(Question(text, _positive_first(answers)))
    return found


def _positive_first(answers: Mapping[str, int]) -> tuple[str, ...]:
    """The answer that is not a "no" first; otherwise in order of the alphabet."""
    return tuple(sorted(answers, key=lambda text: (_negates(text), text)))


def _negates(text: str) -> bool:
    first = text.lower().strip(" .!").split()[:1]
    return bool(first) and first[0].strip(".,") in NEGATIVE


def cases(encoder: Encoder, examples: Sequence[Example], questions: Sequence[Question], site_id: str) -> list[Case]:
    """Every closed question that was asked of these examples."""
    known = {question.text: question for question in questions}
    found = []
    for example in examples:
        vision: dict[str, torch.Tensor] | None = None
        for asked, told in example.turns:
            question = known.get(asked)
            if question is None or told not in question.answers:
                continue
            sequences = []
            for answer in question.answers:
                encoded = encoder.encode(example.pictures, [(asked, answer)])
                vision = vision or encoded.vision  # the same pictures: keep one copy
                sequences.append(Encoded(encoded.input_ids, encoded.answer, encoded.extra, vision, encoded.tiles))
            truth = question.answers.index(told)
            found.append(Case(example.patient_key, site_id, question, truth, tuple(sequences)))
    return found


@torch.no_grad()
def score(model: TrainableModel, encoder: Encoder, given: Sequence[Case]) -> list[Scored]:
    """The probability of each answer. The order of `given` is kept."""
    flat = [sequence for case in given for sequence in case.sequences]
    order = sorted(range(len(flat)), key=lambda index: len(flat[index].input_ids))  # equal lengths: little padding
    likelihood = np.zeros(len(flat))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = encoder.collate([flat[i] for i in chosen], [0] * len(chosen), device=model.device)
        logits = model.model(**batch.inputs, use_cache=False).logits
        likelihood[chosen] = _log_likelihood(logits, batch.inputs["input_ids"], batch.answer).cpu().numpy()
    scored, start = [], 0
    for case in given:
        logs = likelihood[start : start + len(case.sequences)]
        start += len(case.sequences)
        weights = np.exp(logs - logs.max())
        scored.append(
            Scored(case.patient_key, case.site_id, case.question, case.truth, weights / weights.sum()),
        )
    return scored


def _log_likelihood(logits: torch.Tensor, ids: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Sum over each sequence's answer tokens. (sequences,)"""
    picked = answer[:, 1:].nonzero(as_tuple=True)
    logs = torch.log_softmax(logits[:, :-1][picked].float(), dim=-1)
    logs = logs.gather(1, ids[:, 1:][picked][:, None])[:, 0]
    return torch.zeros(len(ids), device=logits.device).index_add(0, picked[0], logs)


def answers(model: TrainableModel, encoder: Encoder, examples: Sequence[Example], question: Question) -> Answers:
    """One question as the private release takes it: whose case, how sure the model is of `answers[0]`, and the truth.

    An example that the processor cannot take counts as absent, as in training.
    """
    ready = [case for example in examples for case in _readable(encoder, example, question)]
    scored = score(model, encoder, ready)
    names = {key: number for number, key in enumerate(sorted({example.patient_key for example in examples}))}
    chance = np.array([item.probabilities[0] for item in scored], dtype=np.float64).clip(1e-12, 1 - 1e-12)
    return Answers(
        np.array([names[item.patient_key] for item in scored], dtype=np.int64),
        np.log(chance) - np.log1p(-chance),
        np.array([item.truth == 0 for item in scored], dtype=np.bool_),
    )


def _readable(encoder: Encoder, example: Example, question: Question) -> list[Case]:
    try:
        return cases(encoder, [example], [question], "")
    except Exception:  # whatever a processor makes of an odd picture or text
        return []


def mean_loss(scored: Sequence[Scored]) -> float:
    """Mean negative log-probability of the true answers."""
    return float(np.mean([-np.log(max(1e-12, item.probabilities[item.truth])) for item in scored]))


# --- figures --------------------------------------------------------------------------------------------------------

METRICS = ("auroc", "sensitivity", "specificity", "kappa", "accuracy")


def summary(
    scored: Sequence[Scored], *, bootstrap: int, minimum_count: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Every figure per question and their macro average, each as {value, ci95, n}; withheld ones have value null."""
    if not scored:
        nothing = {"value": None, "ci95": None, "n": None, "withheld": "no closed question was asked"}
        return {"questions": {}, "macro": dict.fromkeys(METRICS, nothing)}
    patients = {key: index for index, key in enumerate(sorted({item.patient_key for item in scored}))}
    # Row 0 is everybody once: the value itself. The others are resamples of whole patients.
    draws = rng.multinomial(len(patients), [1 / len(patients)] * len(patients), size=bootstrap)
    resamples = np.vstack([np.ones((1, len(patients)), dtype=np.int64), draws]).astype(np.float64)
    questions: dict[str, Any] = {}
    kept: dict[str, list[Floats]] = {name: [] for name in METRICS}
    for text in sorted({item.question.text for item in scored}):
        rows = [item for item in scored if item.question.text == text]
        weights = resamples[:, [patients[item.patient_key] for item in rows]]
        truth = np.array([item.truth for item in rows])
        counted = len({item.patient_key for item in rows})
        rarest = min(np.bincount(truth, minlength=len(rows[0].question.answers)))
        values = _figures(np.stack([item.probabilities for item in rows]), truth, weights)
        enough = counted >= minimum_count and rarest >= 2
        questions[text] = {name: _figure(values[name], counted, enough, minimum_count) for name in METRICS}
        if enough:
            for name in METRICS:
                kept[name].append(values[name])
    macro = {}
    for name in METRICS:
        rows_of = np.mean(kept[name], axis=0) if kept[name] else np.full(len(resamples), np.nan)
        macro[name] = _figure(rows_of, len(patients), bool(kept[name]), minimum_count)
    return {"questions": questions, "macro": macro}


def _figure(values: Floats, counted: int, enough: bool, minimum_count: int) -> dict[str, Any]:
    if not enough or not np.isfinite(values[0]):
        return {"value": None, "ci95": None, "n": counted if counted >= minimum_count else None,
                "withheld": f"fewer than {minimum_count} patients, or fewer than 2 of one answer"}  # fmt: skip
    resampled = values[1:][np.isfinite(values[1:])]
    ci95 = [float(x) for x in np.percentile(resampled, [2.5, 97.5])] if len(resampled) else None
    return {"value": float(values[0]), "ci95": ci95, "n": counted}


def _figures(probabilities: Floats, truth: NDArray[np.int64], weights: Floats) -> dict[str, Floats]:
    """All figures for every row of weights. (cases, answers), (cases,), (resamples, cases) -> (resamples,) each."""
    told = probabilities.argmax(1)
    total = weights.sum(1)
    positive, said = truth == 0, told == 0
    agree = weights @ (told == truth) / total
    chance = sum(
        (weights @ (told == answer)) * (weights @ (truth == answer)) / total**2
        for answer in range(probabilities.shape[1])
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "auroc": np.mean(
                [
                    auroc(probabilities[:, answer], truth == answer, weights)
                    for answer in _one_against_rest(probabilities)
                ],
                axis=0,
            ),
            "sensitivity": (weights @ (positive & said)) / (weights @ positive),
            "specificity": (weights @ (~positive & ~said)) / (weights @ ~positive),
            "kappa": (agree - chance) / (1 - chance),
            "accuracy": agree,
        }


def _one_against_rest(probabilities: Floats) -> Sequence[int]:
    """Two answers: the positive one says it all. More: each against the others, averaged."""
    return (0,) if probabilities.shape[1] == 2 else range(probabilities.shape[1])


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Chance that a positive case scores above a negative one, ties half. (cases,), (cases,), (resamples, cases).

    Hanley & McNeil 1982, with weights: cases sorted by score, negatives below each positive are counted.
    """
    order = np.argsort(scores, kind="stable")
    _, place = np.unique(scores[order], return_inverse=True)
    down = np.where(positive[order], 0.0, weights[:, order])
    up = np.where(positive[order], weights[:, order], 0.0)
    bins = np.add.reduceat(down, np.flatnonzero(np.diff(place, prepend=-1)), axis=1)  # one bin per distinct score
    below = np.cumsum(bins, axis=1) - 0.5 * bins
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Floats = (up * below[:, place]).sum(1) / (up.sum(1) * down.sum(1))
    return result


# --- free text ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def say(model: TrainableModel, encoder: Encoder, example: Example, question: str, *, tokens_most: int = 96) -> str:
    """The model's own words on one example: greedy, at most `tokens_most` tokens."""
    encoded = encoder.encode(example.pictures, [(question, "")], last_answer=False)
    batch = encoder.collate([encoded], [0], device=model.device)
    inputs = {
        name: value[:, : len(encoded.input_ids)] if name in _SEQUENCE else value for name, value in batch.inputs.items()
    }
    tokenizer = model.base.processor.tokenizer
    made = model.model.generate(
        **inputs, max_new_tokens=tokens_most, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    words: str = tokenizer.decode(made[0][len(encoded.input_ids) :], skip_special_tokens=True)
    return words.strip()


_SEQUENCE = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"})


def rouge_l(told: Sequence[str], meant: Sequence[str], *, bootstrap: int, rng: np.random.Generator) -> dict[str, Any]:
    """ROUGE-L F1 of the model's texts against the radiologists', mean with interval. Lin 2004."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    values = np.array([scorer.score(b, a)["rougeL"].fmeasure for a, b in zip(told, meant, strict=True)])
    means = rng.choice(values, (bootstrap, len(values))).mean(1) if bootstrap else values
    return {
        "value": float(values.mean()),
        "ci95": [float(x) for x in np.percentile(means, [2.5, 97.5])],
        "n": len(values),
    }
