"""The attacks: the right code is never suspected, every planted bug is found."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from federation.privacy.accounting import Event, epsilon
from sim.attack import AUDITS, PLANTED_RUNS, RIGHT_RUNS, claim, epsilon_of_gap, gaussian_bound, lower_bound
from sim.attack_picture import picture
from sim.wardround import call

BUGS = [(name, bug) for name, bugs in AUDITS.items() for bug in bugs]


@pytest.mark.parametrize("name", AUDITS)
def test_the_right_code_is_not_suspected_in_20_seeds(name: str) -> None:
    claimed, _ = claim(name)

    assert RIGHT_RUNS == 20
    assert max(lower_bound(name, None, seed=seed) for seed in range(RIGHT_RUNS)) <= claimed


@pytest.mark.parametrize(("name", "bug"), BUGS)
def test_a_planted_bug_is_caught_five_times_of_five(name: str, bug: str) -> None:
    claimed, _ = claim(name)

    assert PLANTED_RUNS == 5
    assert all(lower_bound(name, bug, seed=seed) > claimed for seed in range(PLANTED_RUNS))


def test_the_five_bugs_are_those_that_were_promised() -> None:
    assert {bug for _, bug in BUGS} == {
        "half-noise", "wrong-sensitivity", "no-noise", "per-token-clipping", "deterministic-batches",
    }  # fmt: skip


@pytest.mark.parametrize("noise_multiplier", [0.8, 2.0, 8.0])
def test_the_epsilon_of_a_gap_is_that_of_the_accountant(noise_multiplier: float) -> None:
    """One Gaussian release: analytic against privacy loss distributions at 1e-4, which round upwards."""
    stated = epsilon([Event(1.0, noise_multiplier, 1, "flat clipping at 1.0")], 1e-5)

    assert stated - 2e-3 <= epsilon_of_gap(1 / noise_multiplier, 1e-5) <= stated


def test_two_equal_laws_have_no_gap() -> None:
    rng = np.random.default_rng(0)

    assert gaussian_bound(rng.normal(size=2000), rng.normal(size=2000), 1e-5) == 0.0


def test_the_command_prints_what_scripts_rely_on_and_draws_it(tmp_path, capsys) -> None:
    assert call(["sim", "attack", "--no-model", "--json", "--picture", str(tmp_path / "a.svg")]) == 0
    printed = json.loads(capsys.readouterr().out)
    drawn = ET.fromstring((tmp_path / "a.svg").read_text())

    assert {"name", "planted_bug", "claimed_epsilon", "lower_bound", "caught", "runs"} <= set(printed["audits"][0])
    assert printed["membership"] is None
    assert all(row["caught"] == (row["runs"] if row["planted_bug"] else 0) for row in printed["audits"])
    assert drawn.tag.endswith("svg") and "deterministic-batches" in (tmp_path / "a.svg").read_text()


def test_the_picture_of_a_membership_attack_says_both_worlds() -> None:
    membership = {"epsilon": {"without_dp": None, "with_dp": 1.0}, "auc_without_dp": 0.9, "auc_with_dp": 0.5}
    membership |= {"exposure_bits_without_dp": 2.5, "exposure_bits_with_dp": 1.1, "patients": 16}

    drawn = picture({"audits": [], "membership": membership})

    assert "without privacy" in drawn and "epsilon 1" in drawn and "0.90" in drawn and "2.5 bits" in drawn
