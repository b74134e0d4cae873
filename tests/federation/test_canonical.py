"""Canonical JSON: one text per value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import canonical
from federation.errors import FormatError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_a_value_comes_back_from_its_text(value):
    assert canonical.load(canonical.dump(value)) == value


@pytest.mark.parametrize(
    "text",
    [b'{"b":1,"a":2}', b'{"a":1,"a":1}', b'{"a": 1}', b"1.0", b"-0", b"1e3", b"NaN", b'"\xc3\xa9"', b'"\\u0041"', b"01",
     b"", b"9007199254740993", b"1" * 5000, b"[" * 100000, b"[1]\n"],
)  # fmt: skip
def test_other_spellings_are_refused(text):
    with pytest.raises(FormatError):
        canonical.load(text)


@pytest.mark.parametrize("value", [0.5, {"a": 1.0}, {1: 2}, b"x", 2**60, {"a": object()}])
def test_floats_and_foreign_values_are_never_hashed(value):
    with pytest.raises(FormatError):
        canonical.dump(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_real_numbers_travel_as_text_without_loss(value):
    assert canonical.number(canonical.decimal(value)) == value


@pytest.mark.parametrize("text", ["0.10", "1", "1e0", "nan", "inf", " 1.0", "1_0.0", "", 1])
def test_a_real_number_has_one_text(text):
    with pytest.raises(FormatError):
        canonical.number(text)
