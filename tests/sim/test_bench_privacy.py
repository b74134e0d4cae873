"""The privacy bench: every method takes a step, the figures are there, and why opacus' gradients are not used."""

import client.training  # noqa: F401  isort: skip
import pytest

from sim.bench_privacy import METHODS, compare, sensitivity

pytestmark = pytest.mark.filterwarnings("ignore")  # opacus warns of its own hooks


def test_every_method_takes_its_turns_beside_the_plain_step() -> None:
    rows = compare(2, 8, turns=1)

    assert [row["method"] for row in rows] == list(METHODS)
    assert rows[0]["time_ratio"] == 1.0 and all(row["seconds"] > 0.0 for row in rows)


def test_one_patient_moves_our_sum_by_at_most_the_clipping_norm_and_opacus_sum_by_several() -> None:
    """On shared experts opacus clips tokens, not patients: without an error, and without a warning that says so."""
    assert sensitivity("ours") <= 1 + 1e-5
    assert sensitivity("hooks") > 3.0
