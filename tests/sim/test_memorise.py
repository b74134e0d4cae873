"""The membership attack: its parts, and slowly the whole of it."""

import client.training  # noqa: F401  isort: skip
import numpy as np
import pytest

from sim.cli import BASES, BUILTIN
from sim.memorise import WORDS, MadeCases, found, made_cases, memorise


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


def test_an_attacker_who_knows_everything_finds_all_and_one_who_knows_nothing_finds_a_coins_worth() -> None:
    rng = np.random.default_rng(0)
    truth, inside = rng.integers(0, 8, 4000), np.arange(4000) < 2000
    nothing = rng.normal(size=(4000, 8))
    everything = nothing.copy()
    everything[np.arange(4000), truth] += 100.0 * inside

    assert found(everything, truth, inside) == (1.0, 3.0)
    area, bits = found(nothing, truth, inside)
    assert abs(area - 0.5) < 5 * np.sqrt(1 / (6 * 2000))
    chance = np.log2(8) - np.log2(np.arange(1, 9)).mean()
    assert abs(bits - chance) < 5 * np.log2(np.arange(1, 9)).std() / np.sqrt(2000)


@pytest.mark.slow
def test_without_privacy_all_is_remembered_and_at_epsilon_1_nothing() -> None:
    """Of 16 who remember nothing, AUC and bits have standard errors of 0.10 and 0.24; the better of two is 0.1 up."""
    made = memorise(BASES[BUILTIN])

    assert made["exposure_bits_without_dp"] >= 2.5 and made["auc_without_dp"] >= 0.95
    assert made["exposure_bits_with_dp"] <= 1.09 + 0.1 + 2.5 * 0.24 and made["auc_with_dp"] <= 0.5 + 0.1 + 2.5 * 0.1
