"""Integers in, integers out: no wrap whatever the sites hold, unbiased rounding, clipped coordinates counted."""

import os

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from federation.adapter import AdapterUpdate
from federation.errors import FormatError, ProtocolError
from federation.privacy.keystream import KeyStream
from federation.secagg import ring
from federation.secagg.ring import Encoding

NAME = "m.lora_B.weight"


def update(numbers) -> AdapterUpdate:
    return AdapterUpdate({NAME: np.asarray(numbers, np.float32).reshape(1, -1)})


def encoding(size: int, *, bits=16, bound=1.0, weights=None) -> Encoding:
    return Encoding(bits, {NAME: (1, size)}, {NAME: bound}, weights or dict.fromkeys("abc", 255))


def encode(numbers, made: Encoding, site="a", key=None):
    stream = KeyStream(key or os.urandom(32))
    return ring.encode(update(numbers), made, site_id=site, sites=tuple(made.weights), rounding=stream)


@given(
    st.sampled_from([8, 16, 32]), st.integers(3, 100), st.sampled_from([-1.0, 1.0, -1e30, 1e30]),
    st.floats(1e-6, 1e3), st.integers(0, 2**32),
)  # fmt: skip
@example(16, 3, -1e30, 1e-6, 0)  # finite, and beyond float32 once it is scaled
@settings(max_examples=60, deadline=None)
def test_the_sum_cannot_wrap_though_every_site_holds_its_most(bits, count, most, bound, seed):
    rng, count = np.random.default_rng(seed), min(count, ring.BYTE_SITES_MAX) if bits == 8 else count
    weights = {f"s{number}": int(rng.integers(1, 256)) for number in range(count)}
    made = encoding(40, bits=bits, bound=bound, weights=weights)
    extreme = np.full(40, most * bound if abs(most) == 1 else most, np.float32)
    signed = f"<i{bits // 8}"
    vectors = [encode(extreme, made, site).view(signed).astype(object) for site in weights]
    total = sum(vectors)

    assert max(abs(value) for value in total[:40]) < 2 ** (bits - 1)
    assert all(value == count for value in total[40:-1]) and total[-1] <= 100 * count


@pytest.mark.parametrize("bits, step", [(8, 3 / 120), (16, 3 / 32_000), (32, 1e-8)])
def test_the_mean_is_that_of_the_updates_to_one_step_of_the_ring(bits, step):
    rng = np.random.default_rng(1)
    made = encoding(5000, bits=bits)
    updates = {site: rng.uniform(-1, 1, 5000).astype(np.float32) for site in "abc"}
    total = np.zeros(made.length, made.dtype)
    for site, numbers in updates.items():
        total += encode(numbers, made, site)
    decoded = ring.decode(total, made, sites=("a", "b", "c"), survivors=("a", "b", "c"))

    np.testing.assert_allclose(decoded.mean.flatten(), sum(updates.values()) / 3, atol=step + 1e-7)
    assert decoded.clipped == 0


def test_rounding_is_unbiased():
    made = encoding(200_000)
    step = 1 / (255 * made.scale(NAME, ("a", "b", "c")))
    for part in (0.1, 0.25, 0.5, 0.9):
        integers = encode(np.full(200_000, 10 * step + part * step), made).view("<i2")[:200_000]
        # A mean of 200 000 coins: six standard deviations are 0.0067; eight bits of chance add 1/512 at most.
        assert abs(integers.mean() - 10 - part) < 0.0067 + 1 / 512
        assert set(np.unique(integers)) <= {10, 11}


def test_clipped_coordinates_are_counted_rounded_up_and_capped():
    made = encoding(10_000)
    for clipped, told in ((0, 0), (1, 1), (17, 17), (5000, 100)):
        numbers = np.zeros(10_000)
        numbers[:clipped] = 7.0
        assert encode(numbers, made)[-1] == told
    small = encoding(30)
    assert encode([9.0] + [0.0] * 29, small)[-1] == 100


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bits, wrong):
    with pytest.raises(FormatError) as caught:
        encode([0.0, wrong, 0.0], encoding(3, bits=bits))
    assert caught.value.code == "update-not-finite"


def test_a_sum_that_does_not_count_its_sites_is_refused():
    made = encoding(4)
    total = encode([0.0] * 4, made) + encode([0.0] * 4, made) + encode([0.0] * 4, made)
    for place in range(4, 8):
        wrong = total.copy()
        wrong[place] ^= 1
        with pytest.raises(ProtocolError) as caught:
            ring.decode(wrong, made, sites=("a", "b", "c"), survivors=("a", "b", "c"))
        assert caught.value.code == "secagg-mask-residue"
    with pytest.raises(ProtocolError):
        ring.decode(total, made, sites=("a", "b", "c"), survivors=("a", "b"))


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 24}, {"bounds": {NAME: "0.0"}}, {"bounds": {NAME: "-1.0"}}, {"bounds": {}}, {"weights": {"a": 0}},
        {"weights": {"a": 256}}, {"weights": {"a": True}}, {"weights": {"A": 1}}, {"more": 1},
    ],
)  # fmt: skip
def test_an_encoding_that_is_none_is_refused(change):
    good = encoding(4).value()

    assert Encoding.from_value(good, {NAME: (1, 4)}).value() == good
    with pytest.raises(FormatError):
        Encoding.from_value({**good, **change}, {NAME: (1, 4)})


def test_eight_bits_are_for_few_sites_and_their_clip_counter_has_room():
    few = {f"s{number}": 1 for number in range(ring.BYTE_SITES_MAX)}
    made = encoding(100, bits=8, weights=few)
    total = sum(encode(np.full(100, 9.0), made, site) for site in few)

    assert 10 * len(few) < total[-1] == 255 // len(few) * len(few)
    with pytest.raises(FormatError):
        encoding(100, bits=8, weights={**few, "more": 1})


def test_an_update_of_other_shapes_is_refused():
    with pytest.raises(FormatError) as caught:
        encode([0.0] * 5, encoding(4))
    assert caught.value.code == "update-shape"


def whole_encoding(weights=None, **changes):
    made = {"bits": 32, "shapes": {NAME: (1, 3)}, "bounds": {}, "weights": weights or {"a": 7, "b": 300, "c": 80_000}}
    return Encoding(**(made | {"unit": -0.25} | changes))


def test_whole_numbers_are_added_as_they_are_and_wrap_as_the_ring_does():
    made = whole_encoding()
    shares = {"a": [5, -7, 2**31 - 1], "b": [-5, 3, 1], "c": [100, 0, 7]}
    total = np.zeros(made.length, made.dtype)
    for numbers in shares.values():
        words = np.array(numbers, np.int64).astype(np.uint32)
        total += ring.whole(words, made, sites=("a", "b", "c"))
    decoded = ring.decode(total, made, sites=("a", "b", "c"), survivors=("a", "b", "c"))
    factor = -0.25 / (7 + 300 + 80_000)

    assert total[-1] == 0, "nothing is told of single numbers"
    expected = (np.array([100.0, -4.0, 7 - 2.0**31]) * factor).astype(np.float32)
    np.testing.assert_array_equal(decoded.mean.flatten(), expected)


def test_an_encoding_of_whole_numbers_is_read_back_and_has_one_form():
    value = whole_encoding().value()

    assert Encoding.from_value(value, {NAME: (1, 3)}) == whole_encoding()
    assert set(value) == {"bits", "unit", "weights"}
    assert set(encoding(3).value()) == {"bits", "bounds", "weights"}, "the other form is as it was"
    for wrong in ({"bits": 16}, {"bounds": {NAME: "1.0"}}, {"unit": "0.0"}, {"unit": "-0.250"}, {"unit": None}):
        with pytest.raises(FormatError):
            Encoding.from_value(value | wrong, {NAME: (1, 3)})


@pytest.mark.parametrize(
    "change", [{"unit": 0.0}, {"unit": float("nan")}, {"bits": 16}, {"bounds": {NAME: 1.0}}, {"weights": {"a": 0}}]
)
def test_an_impossible_encoding_of_whole_numbers_is_refused(change):
    with pytest.raises(FormatError):
        whole_encoding(**change)


def test_whole_numbers_that_do_not_fit_the_round_are_refused():
    words = np.zeros(3, np.uint32)
    for numbers, made, sites in (
        (words[:2], whole_encoding(), "abc"),
        (words.astype(np.uint64), whole_encoding(), "abc"),
        (words, encoding(3, bits=32), "abc"),
        (words, whole_encoding(), "abcd"),  # who is not in the encoding was not counted among those who may collude
    ):
        with pytest.raises(FormatError):
            ring.whole(numbers, made, sites=tuple(sites))
