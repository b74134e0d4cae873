import doctest
import math

import pytest

from server import report_words as words


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize("value", [0.001, 2.981, 2.9999, 3.0, 7.005, 1e-9])
def test_epsilon_and_delta_are_never_rounded_down(value: float):
    mantissa, _, power = words.delta(value).partition(" × 10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))

    assert float(words.epsilon(value)) >= value
    assert float(words.epsilon(value)) < value + 0.0101
    assert float(mantissa) * 10.0**exponent >= value * (1 - 1e-12)


def test_a_test_against_a_private_adapter_finds_no_more_than_the_trade_off_allows():
    assert words.detected(0.0, 0.0) == pytest.approx(0.01)
    assert words.detected(1.0, 0.0) == pytest.approx(math.e * 0.01)
    assert words.detected(8.0, 1e-5) < 1.0
    assert words.detected(1e6, 0.0) == pytest.approx(1.0)


@pytest.mark.parametrize("value", [None, True, "0.8", math.nan, math.inf, {"value": math.nan}, {}, []])
def test_what_is_no_number_is_no_metric(value: object):
    assert not words.metric(value).known


def test_a_withheld_metric_hides_its_value_even_if_one_is_there():
    assert words.metric({"value": 0.9, "withheld": "fewer than 20 patients"}) == words.Metric(
        withheld="fewer than 20 patients"
    )
