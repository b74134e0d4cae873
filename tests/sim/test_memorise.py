"""The membership attack: its parts, and slowly the whole of it."""

import client.training  # noqa: F401  isort: skip
import numpy as np
import pytest

from sim.cli import BASES, BUILTIN
from sim.memorise import WORDS, MadeCases, made_cases, memorise


def test_every_case_has_a_name_and_a_word_that_its_name_does_not_tell() -> None:
    cases = made_cases(48, np.random.default_rng(0))

    assert len({case.question for case in cases}) == len({case.name for case in cases}) == 48
    assert {case.word for case in cases} == set(WORDS)
    assert all(case.word not in case.question for case in cases)


def test_cases_are_patients_with_one_report_and_no_picture() -> None:
    cases = made_cases(3, np.random.default_rng(0))
    data = MadeCases(cases)

    assert list(data.patients()) == sorted(case.name for case in cases)
    [example] = data.examples(cases[1].name)
    assert example.pictures == () and example.turns == ((cases[1].question, cases[1].word),)


@pytest.mark.slow
def test_without_privacy_more_is_remembered_than_with_it() -> None:
    """Exposure is the sharper of the two measures here: the AUC of 12 against 12 has a standard error of 0.12."""
    found = memorise(BASES[BUILTIN])

    assert found["exposure_bits_without_dp"] >= 1.5
    assert found["exposure_bits_without_dp"] > found["exposure_bits_with_dp"]
