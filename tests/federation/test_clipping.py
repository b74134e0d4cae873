import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.errors import FormatError, PlanError
from federation.privacy.clipping import AutoS, BoundedSum, FlatClipping

RULES = [FlatClipping(1.0), FlatClipping(1e-3), FlatClipping(250.0), AutoS(), AutoS(radius=0.1, gamma=1.0)]
any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)


def clipped_sum(rule, gradients):
    """What client/training/gradients.py does, on plain arrays: (patients, width) float32 to one sum."""
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt((gradients.astype(np.float64) ** 2).sum(axis=1))
    gradients = np.where(np.isfinite(norms)[:, None], gradients, 0.0)
    total = (rule.factors(norms)[:, None] * gradients).sum(axis=0)
    return BoundedSum(total, rule.sensitivity)


@pytest.mark.parametrize("rule", RULES)
@given(norms=hnp.arrays(np.float64, st.integers(0, 20), elements=st.floats(allow_nan=True, allow_infinity=True)))
@example(norms=np.array([np.finfo(np.float64).max]))  # the factor would be subnormal and imprecise
def test_a_factor_times_its_norm_is_at_most_the_sensitivity(rule, norms):
    factors = rule.factors(norms)
    usable = np.isfinite(norms) & (norms >= 0)

    assert factors.dtype == np.float64 and factors.shape == norms.shape
    assert (factors[usable] * norms[usable] <= rule.sensitivity * (1 + 1e-15)).all()
    assert (factors[~usable] == 0.0).all()


@pytest.mark.parametrize("rule", RULES)
@given(
    gradients=hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=any_float),
    removed=st.integers(0, 5),
)
def test_one_patient_moves_the_sum_by_at_most_the_sensitivity(rule, gradients, removed):
    removed %= len(gradients)
    with_patient = clipped_sum(rule, gradients).total
    without = clipped_sum(rule, np.delete(gradients, removed, axis=0)).total

    # The sums are rounded to float64, by up to 1e-16 of what is in them.
    assert np.linalg.norm(with_patient - without) <= rule.sensitivity * (1 + 1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_gradient_twice_counts_as_two_patients(rule):
    gradient = np.array([[3.0, 4.0]], dtype=np.float32)
    one, two = clipped_sum(rule, gradient), clipped_sum(rule, np.repeat(gradient, 2, axis=0))

    assert np.allclose(two.total, 2 * one.total)


def test_flat_clipping_leaves_short_gradients_alone():
    factors = FlatClipping(2.0).factors([0.0, 1e-320, 1.0, 2.0, 4.0, 1e300, math.nan, math.inf, -1.0])

    assert factors.tolist() == [1.0, 1.0, 1.0, 1.0, 0.5, 2e-300, 0.0, 0.0, 0.0]


def test_auto_s_scales_every_gradient_to_nearly_its_radius():
    factors = AutoS(radius=1.0, gamma=0.01).factors([0.0, 0.99, math.nan, math.inf, -1.0])

    assert factors == pytest.approx([100.0, 1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_bounds_nothing_is_refused(value):
    for make in (FlatClipping, lambda v: AutoS(radius=v), lambda v: AutoS(gamma=v)):
        with pytest.raises(PlanError, match="positive"):
            make(value)
    with pytest.raises(PlanError, match="sensitivity"):
        BoundedSum(np.zeros(3), value)


@pytest.mark.parametrize("total", [np.zeros((2, 2)), np.zeros(3, dtype=np.float32), np.zeros(3, dtype=np.int64)])
def test_a_sum_is_one_float32_vector(total):
    with pytest.raises(FormatError, match="float64 vector"):
        BoundedSum(total, 1.0)


def test_a_sum_shows_nothing():
    assert repr(BoundedSum(np.ones(3), 1.0)) == "<BoundedSum: hidden>"


def test_a_rule_says_where_its_sensitivity_comes_from():
    assert FlatClipping(0.5).rule == "flat clipping at 0.5"
    assert AutoS().rule == "auto-s with radius 1.0, gamma 0.01"
