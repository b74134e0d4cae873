import client.training  # noqa: F401  isort: skip
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.training.evaluate import (
    METRICS,
    Question,
    Scored,
    auroc,
    cases,
    closed_questions,
    mean_loss,
    rouge_l,
    score,
    summary,
)
from client.training.examples import Encoder, Example
from client.training.model import AdapterSpec, Base, TrainableModel

YES_NO = Question("Is there consolidation?", ("Yes.", "No."))


def scored(patient: int, truth: int, probability: float, question: Question = YES_NO) -> Scored:
    return Scored(f"{patient:032x}", "alder", question, truth, np.array([probability, 1 - probability]))


def figures(given: list[Scored], *, bootstrap: int = 0, minimum_count: int = 1, seed: int = 0) -> Any:
    made = summary(given, bootstrap=bootstrap, minimum_count=minimum_count, rng=np.random.default_rng(seed))
    return made["questions"][given[0].question.text]


# --- figures ------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.integers(1, 3)), min_size=2, max_size=12
    ).filter(lambda rows: len({positive for _, positive, _ in rows}) == 2)
)  # fmt: skip
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool, int]]) -> None:
    """Few levels, so many ties; a weight is that case so many times over."""
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    over = [(level, truth) for level, truth, times in rows for _ in range(times)]
    pairs = [(up, down) for up, truth in over for down, other in over if truth and not other]
    by_hand = sum(1.0 if up > down else 0.5 if up == down else 0.0 for up, down in pairs) / len(pairs)

    assert auroc(scores / 7.0, positive, weights[None].astype(float))[0] == pytest.approx(by_hand)


def test_auroc_of_one_kind_of_case_is_not_a_number() -> None:
    assert np.isnan(auroc(np.array([0.1, 0.9]), np.array([True, True]), np.ones((1, 2)))[0])


def test_the_figures_are_those_of_the_confusion_table() -> None:
    """20 found, 5 missed, 10 false alarms, 15 rightly none: agreement 0.7, by chance 0.5, so kappa 0.4."""
    table = [(0, 0.9)] * 20 + [(0, 0.2)] * 5 + [(1, 0.8)] * 10 + [(1, 0.1)] * 15
    found = figures([scored(patient, *row) for patient, row in enumerate(table)])

    by_hand = {"sensitivity": 0.8, "specificity": 0.6, "accuracy": 0.7, "kappa": 0.4}
    assert {name: pytest.approx(found[name]["value"]) for name in by_hand} == by_hand
    assert found["auroc"]["value"] == pytest.approx((20 * 25 + 5 * 15) / 625)
    assert all(found[name]["n"] == 50 for name in METRICS)


def test_three_answers_count_each_against_the_others() -> None:
    question = Question("Which side?", ("Both.", "Left.", "Right."))
    rows = [(0, (0.8, 0.1, 0.1)), (0, (0.2, 0.6, 0.2)), (1, (0.1, 0.7, 0.2)), (1, (0.3, 0.5, 0.2)),
            (2, (0.2, 0.2, 0.6)), (2, (0.1, 0.1, 0.8))]  # fmt: skip
    given = [Scored(f"{i:032x}", "alder", question, truth, np.array(row)) for i, (truth, row) in enumerate(rows)]
    found = figures(given)

    # pairs won: Both 0.8 beats all four, 0.2 beats 0.1 twice, ties with 0.2 once; Left 0.7 all four, 0.5 three
    assert found["auroc"]["value"] == pytest.approx(((4 + 2 + 0.5) / 8 + (4 + 3) / 8 + 8 / 8) / 3)
    assert found["accuracy"]["value"] == pytest.approx(5 / 6)
    assert found["kappa"]["value"] == pytest.approx((5 / 6 - 1 / 3) / (1 - 1 / 3))


def test_too_few_patients_or_answers_withhold_a_figure() -> None:
    nine = [scored(patient, patient % 2, 0.1 * patient) for patient in range(9)]
    one_sided = [scored(patient, int(patient > 0), 0.1 * patient) for patient in range(20)]

    for name in METRICS:
        assert figures(nine, minimum_count=9)[name]["value"] is not None
        withheld = figures(nine, minimum_count=10)[name]
        assert withheld["value"] is None and withheld["ci95"] is None and withheld["n"] is None
        assert figures(one_sided, minimum_count=10)[name]["value"] is None


def test_patients_are_counted_and_not_their_cases() -> None:
    nine = [scored(patient % 9, patient % 2, 0.05 * patient) for patient in range(18)]

    assert figures(nine, minimum_count=10)["auroc"]["value"] is None


def test_a_withheld_question_does_not_enter_the_average() -> None:
    rare = Question("Is there a pneumothorax?", ("Yes.", "No."))
    given = [scored(patient, patient % 2, 0.9 - 0.8 * (patient % 2)) for patient in range(12)]
    given += [scored(patient, patient % 2, 0.5, rare) for patient in range(4)]
    found = summary(given, bootstrap=10, minimum_count=10, rng=np.random.default_rng(0))

    assert found["questions"][rare.text]["accuracy"]["value"] is None
    assert found["macro"]["accuracy"]["value"] == found["questions"][YES_NO.text]["accuracy"]["value"] == 1.0


def test_the_bootstrap_draws_whole_patients() -> None:
    """Everybody's cases five times over are no news, so the intervals stay as wide as they were."""
    rng = np.random.default_rng(1)
    once = [scored(patient, int(rng.random() < 0.5), rng.random()) for patient in range(40)]
    found, again = figures(once, bootstrap=200), figures(once * 5, bootstrap=200)

    for name in METRICS:
        low, high = found[name]["ci95"]
        assert low < found[name]["value"] < high
        assert again[name]["value"] == pytest.approx(found[name]["value"])
        assert again[name]["ci95"] == pytest.approx([low, high])


def test_the_same_seed_gives_the_same_intervals() -> None:
    rng = np.random.default_rng(1)
    given = [scored(patient, int(rng.random() < 0.5), rng.random()) for patient in range(20)]

    assert figures(given, bootstrap=50) == figures(given, bootstrap=50) != figures(given, bootstrap=50, seed=1)


def test_without_a_closed_question_every_figure_is_withheld() -> None:
    found = summary([], bootstrap=0, minimum_count=1, rng=np.random.default_rng(0))

    assert found["questions"] == {} and set(found["macro"]) == set(METRICS)
    assert all(
        figure["value"] is None and "no closed question" in figure["withheld"] for figure in found["macro"].values()
    )


def test_the_mean_loss_is_that_of_the_true_answers() -> None:
    assert mean_loss([scored(1, 0, 0.5), scored(2, 1, 0.5), scored(3, 0, 0.25)]) == pytest.approx(4 * np.log(2) / 3)
    assert np.isfinite(mean_loss([scored(1, 0, 0.0)]))


def test_rouge_l_is_the_longest_common_subsequence() -> None:
    """Three of four words in order: precision 3/4, recall 1, F1 6/7."""
    rng = np.random.default_rng(0)

    assert rouge_l(["lungs are quite clear"], ["lungs are clear"], bootstrap=10, rng=rng)["value"] == pytest.approx(
        6 / 7
    )
    assert rouge_l(["a b", "c d"], ["a b", "x y"], bootstrap=50, rng=rng)["value"] == pytest.approx(0.5)


# --- questions ----------------------------------------------------------------------------------------------------


def asked(*turns: tuple[str, str], patient: int = 0) -> Example:
    return Example(f"{patient:032x}", (), turns)


def test_closed_questions_are_those_whose_answers_repeat() -> None:
    long = "a" * 41
    examples = [
        asked(
            ("Is there a nodule?", ("No.", "Yes.")[number % 2]),
            ("Describe the findings.", f"Report {number}."),  # as many answers as reports
            ("Is it normal?", "Yes."),  # always the same
            ("What else?", (long, "Nothing.")[number % 2]),  # too long to be one of a few
            ("How large is it?", ("Small.", "Large.", "Huge.")[number % 3]),
        )
        for number in range(9)
    ]

    assert closed_questions(examples) == [
        Question("How large is it?", ("Huge.", "Large.", "Small.")),
        Question("Is there a nodule?", ("Yes.", "No.")),
    ]
    assert closed_questions(examples[:5]) == []  # two answers need six occurrences


@pytest.mark.parametrize(
    ("answers", "positive"),
    [(("No.", "Yes."), "Yes."), (("Abnormal.", "Normal."), "Abnormal."), (("No effusion.", "Present."), "Present."),
     (("absent", "present"), "present"), (("None.", "Nodule."), "Nodule."), (("Malignant", "Benign"), "Malignant")],
)  # fmt: skip
def test_the_positive_answer_is_first(answers: tuple[str, str], positive: str) -> None:
    (question,) = closed_questions([asked(("Q?", answers[number % 2])) for number in range(6)])

    assert question.answers[0] == positive and set(question.answers) == set(answers)


# --- scoring ------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(base: Base) -> TrainableModel:
    return base.with_adapter(AdapterSpec(2, 4.0, ("attention",), frozenset({"B"})))


def test_a_case_is_one_closed_question_with_the_picture_alone(base: Base) -> None:
    encoder = Encoder(base.processor, base.dtype)
    picture = np.full((80, 80), 90, dtype=np.uint8)
    turns = (("Describe the findings.", "Clear."), ("Is there consolidation?", "No."), (YES_NO.text, "Perhaps."))
    (case,) = cases(encoder, [Example("a" * 32, (picture,), turns)], [YES_NO], "alder")

    assert case.truth == 1 and case.question == YES_NO and repr(case) == "<Case: hidden>"
    for answer, sequence in zip(YES_NO.answers, case.sequences, strict=True):
        text = base.processor.tokenizer.decode(sequence.input_ids)
        assert text.endswith(f"{YES_NO.text}<|eot|><|header_start|>assistant<|header_end|>\n\n{answer}<|eot|>")
        assert "Describe" not in text and sequence.tiles == 1
    assert case.sequences[0].vision is case.sequences[1].vision  # one copy of the pixels


def test_a_score_is_the_models_probability_of_saying_it(
    base: Base, model: TrainableModel, patients: list[list[Example]]
) -> None:
    encoder = Encoder(base.processor, base.dtype)
    examples = [replace(patient[0], turns=((YES_NO.text, "Yes."),)) for patient in patients[:3]]
    given = cases(encoder, examples, [YES_NO], "alder")
    found = score(model, encoder, given)

    for case, result in zip(given, found, strict=True):
        likelihood = []
        for sequence in case.sequences:
            inputs = {"input_ids": sequence.input_ids[None], **sequence.vision}
            with torch.no_grad():
                logs = torch.log_softmax(model.model(**inputs).logits[0], dim=-1)
            places = sequence.answer.nonzero()[:, 0].tolist()
            likelihood.append(sum(float(logs[place - 1, sequence.input_ids[place]]) for place in places))
        by_hand = np.exp(likelihood) / np.exp(likelihood).sum()
        np.testing.assert_allclose(result.probabilities, by_hand, rtol=1e-4)
        assert result.patient_key == case.patient_key and result.truth == 0
