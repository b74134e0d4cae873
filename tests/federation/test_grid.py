"""Whole numbers instead of gradients: what one patient can do to their sum, exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from federation.errors import FormatError
from federation.privacy.clipping import AutoS, FlatClipping
from federation.privacy.grid import grid_bits, whole

RULES = (FlatClipping(0.7), AutoS(0.3), FlatClipping(1e-3))
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
GRADIENTS = arrays.arrays(np.float32, st.integers(1, 40), elements=FLOATS)


def clipped(gradient, rule, bits):
    [factor] = rule.factors([np.linalg.norm(gradient.astype("f8"))])
    return whole(gradient, float(factor), sensitivity=rule.sensitivity, bits=bits)


@given(GRADIENTS, st.sampled_from(RULES), st.integers(1, 24))
def test_one_patient_moves_the_sum_by_at_most_two_to_the_bits_counted_in_integers(gradient, rule, bits):
    moved = clipped(gradient, rule, bits)

    assert sum(int(number) ** 2 for number in moved) <= 4**bits


@given(GRADIENTS, st.sampled_from(RULES))
def test_a_coordinate_is_cut_towards_zero_by_less_than_a_unit(gradient, rule):
    [factor] = rule.factors([np.linalg.norm(gradient.astype("f8"))])
    exact = gradient.astype("f8") * (float(factor) / rule.sensitivity * 2.0**12)
    moved = clipped(gradient, rule, 12)

    assert (np.abs(moved) <= np.abs(exact) * (1 + 1e-12)).all()
    assert (np.abs(exact - moved) < 1 + 1e-5 * np.abs(exact)).all()


def test_rounding_instead_of_cutting_would_move_it_further():
    # 4096 equal coordinates of 1.5 units, as long as the bound: to nearest each would be 2 units.
    gradient = np.full(4096, 1.5 / 96, np.float32)

    assert np.linalg.norm(np.rint(gradient.astype("f8") * 96)) > 96
    assert np.linalg.norm(whole(gradient, 1.0, sensitivity=1.0, bits=6)) <= 64


@pytest.mark.parametrize("numbers", [100, 40_000, 300_000])
def test_the_grid_is_fine_enough_that_cutting_costs_little(numbers):
    gradient = np.random.default_rng(numbers).standard_normal(numbers).astype(np.float32)
    bits = grid_bits(numbers)
    kept = clipped(gradient, FlatClipping(1.0), bits)

    assert 0.985 < np.linalg.norm(kept) / 2.0**bits <= 1.0


def test_a_gradient_that_is_not_finite_is_left_out_and_one_that_nobody_clipped_is_refused():
    wild = np.array([np.inf, np.nan, 1.0], np.float32)

    assert clipped(wild, FlatClipping(1.0), 10).tolist() == [0, 0, 0]
    with pytest.raises(FormatError) as caught:
        whole(np.array([2.0]), 1.0, sensitivity=1.0, bits=10)
    assert caught.value.code == "update-not-finite"
