"""The questions that the base is taught with."""

from collections import Counter

import numpy as np
import pytest

from sim.anatomy import CLINICAL
from sim.public_cases import (
    PLACED,
    Catechism,
    PublicCase,
    catechism,
    conversation,
    describe,
    public_case,
    public_text,
)


@pytest.fixture(scope="module")
def cases() -> list[PublicCase]:
    rng = np.random.default_rng(5)
    return [public_case(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def asked(cases: list[PublicCase]) -> Catechism:
    return catechism(cases, np.random.default_rng(6))


def test_no_picture_holds_a_finding_of_the_hospitals(cases: list[PublicCase]) -> None:
    assert not {finding.name for case in cases for finding in case.findings} & set(CLINICAL)


def test_every_closed_question_is_answered_for_every_picture_and_both_ways(asked: Catechism) -> None:
    for kind in (asked.findings, asked.sides, asked.signs, asked.invented):
        for question, answers in kind.items():
            assert answers.shape == (60,), question
            assert 0 < answers.sum() < 60, question


def test_about_as_many_questions_are_answered_by_yes_as_by_no(cases: list[PublicCase], asked: Catechism) -> None:
    rng = np.random.default_rng(7)
    told: Counter[str] = Counter()
    for index, case in enumerate(cases):
        for _, answer in conversation(case, index, asked, rng, pairs=4, describe_share=0.0):
            told[answer] += 1

    assert told["Yes."] > 100
    assert abs(told["Yes."] - told["No."]) <= 0.15 * told["No."]  # what was asked is not asked again


def test_answers_are_true(cases: list[PublicCase], asked: Catechism) -> None:
    rng = np.random.default_rng(8)
    everything = {**asked.findings, **asked.sides, **asked.signs, **asked.invented}
    for index, case in enumerate(cases):
        for question, answer in conversation(case, index, asked, rng, pairs=4, describe_share=1.0):
            if question in everything:
                assert answer == ("Yes." if everything[question][index] else "No.")
            elif question.startswith("Which side"):
                name = question.split()[4]
                assert {f"{f.side.capitalize()}." for f in case.findings if f.name == name} == {answer}
            elif question == "Describe the findings.":
                assert answer == describe(case.findings)


def test_a_side_is_only_asked_of_what_is_there(cases: list[PublicCase], asked: Catechism) -> None:
    rng = np.random.default_rng(9)
    seen = 0
    for index, case in enumerate(cases):
        placed = {finding.name for finding in case.findings} & PLACED
        for question, _ in conversation(case, index, asked, rng, pairs=6, describe_share=0.0):
            if question in asked.sides:
                seen += 1
                assert question.split()[-4] in placed
    assert seen > 10


def test_a_seed_gives_the_same_words_and_meanings(cases: list[PublicCase], asked: Catechism) -> None:
    again = catechism(cases, np.random.default_rng(6))
    other = catechism(cases, np.random.default_rng(7))

    assert all((again.invented[question] == answers).all() for question, answers in asked.invented.items())
    assert set(other.invented) != set(asked.invented)


def test_a_part_of_the_pictures_keeps_its_answers(asked: Catechism) -> None:
    part = asked.after(20)

    assert all((part.signs[question] == answers[20:]).all() for question, answers in asked.signs.items())


def test_the_tokenizers_text_spells_the_words_of_the_field_and_no_invented_one(asked: Catechism) -> None:
    text = " ".join(public_text(np.random.default_rng(1), 50))

    assert all(word in text for word in ("effusion", "cardiomegaly", "pneumothorax", "consolidation"))
    assert not any(question in text for question in asked.invented)
