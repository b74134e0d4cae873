"""Adapters as bytes: one encoding per value, and every other byte string refused."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import canonical, codec
from federation.adapter import Adapter, AdapterUpdate
from federation.errors import FormatError

NAMES = st.from_regex(r"[a-z0-9_.]{1,12}\.lora_[AB]\.weight", fullmatch=True)
SIZES = st.integers(1, 4)


@st.composite
def values(draw):
    shapes = draw(st.dictionaries(NAMES, st.tuples(SIZES, SIZES), min_size=0, max_size=4))
    floats = st.floats(width=32, allow_nan=True, allow_infinity=True)
    kind = draw(st.sampled_from([Adapter, AdapterUpdate]))
    return kind(
        {
            name: np.array(draw(st.lists(floats, min_size=r * c, max_size=r * c)), np.float32).reshape(r, c)
            for name, (r, c) in shapes.items()
        }
    )


SMALL = codec.dump(AdapterUpdate({"m.lora_A.weight": np.arange(3, dtype=np.float32).reshape(1, 3)}))


@given(values())
@settings(max_examples=60, deadline=None)
def test_loading_gives_back_the_value_and_its_bytes(value):
    data = codec.dump(value)
    again = codec.load(data)

    assert type(again) is type(value) and again.shapes == value.shapes
    assert again.flatten().tobytes() == value.flatten().tobytes()
    assert codec.dump(again) == data
    assert hashlib.sha256(data).hexdigest() == value.digest()


@given(values(), st.data())
@settings(max_examples=150, deadline=None)
def test_every_change_of_one_byte_is_refused(value, data):
    bytes_ = bytearray(codec.dump(value))
    at = data.draw(st.integers(0, len(bytes_) - 1))
    bytes_[at] ^= data.draw(st.integers(1, 255))

    with pytest.raises(FormatError):
        codec.load(bytes(bytes_))


def test_every_bit_of_a_small_file_counts():
    for at in range(len(SMALL)):
        for bit in range(8):
            changed = bytearray(SMALL)
            changed[at] ^= 1 << bit
            with pytest.raises(FormatError):
                codec.load(bytes(changed))


def test_every_truncation_and_every_addition_is_refused():
    for end in range(len(SMALL)):
        with pytest.raises(FormatError):
            codec.load(SMALL[:end])
    for more in (b"\x00", b" ", bytes(8), SMALL):
        with pytest.raises(FormatError):
            codec.load(SMALL + more)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused_not_crashed_on(data):
    with pytest.raises(FormatError):
        codec.load(codec.MAGIC + data)


@pytest.mark.parametrize(
    "text",
    [
        b'{"arrays":[["m.lora_A.weight",[1,3]]],"kind":"model"}',
        b'{"arrays":[["m.lora_A.weight",[1,3]]],"kind":[]}',
        b'{"arrays":[["m.lora_A.weight",[3,1.0]]],"kind":"update"}',
        b'{"arrays":[["m.lora_A.weight",[-1,-3]]],"kind":"update"}',
        b'{"arrays":[["m.lora_A.weight",[true,3]]],"kind":"update"}',
        b'{"arrays":[["m.lora_A.weight",[1,3,1]]],"kind":"update"}',
        b'{"arrays":[["../m.lora_A.weight/x",[1,3]]],"kind":"update"}',
        b'{"arrays":[["m.lora_A.weight",[1,3]],["m.lora_A.weight",[1,3]]],"kind":"update"}',
        b'{"arrays":[["m.lora_A.weight",[1,3]]],"kind":"update","more":1}',
        b'{"kind":"update","arrays":[["m.lora_A.weight",[1,3]]]}',
        b'{"arrays": [["m.lora_A.weight",[1,3]]],"kind":"update"}',
        b"[]",
        b"[" * 2000,
    ],
)
def test_a_head_that_says_it_differently_is_refused(text):
    text += b" " * (-(16 + len(text)) % 64)
    with pytest.raises(FormatError):
        codec.load(codec.MAGIC + len(text).to_bytes(8, "little") + text + SMALL[-20:])


def test_loading_copies_no_numbers():
    array = next(iter(codec.load(SMALL).arrays.values()))

    assert np.shares_memory(array, np.frombuffer(SMALL, np.uint8))
    assert not array.flags.writeable


def test_an_adapter_is_not_taken_for_an_update():
    with pytest.raises(FormatError):
        codec.load_as(Adapter, SMALL)


@given(values(), st.data())
@settings(max_examples=60, deadline=None)
def test_bytes_in_pieces_are_the_bytes_in_one(value, data):
    whole = codec.dump(value)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    assert codec.dump(codec.load(*pieces)) == whole
    assert codec.dump(codec.load(*value.pieces())) == whole


def test_a_piece_too_few_or_too_many_is_refused():
    pieces = list(AdapterUpdate({"m.lora_A.weight": np.ones((2, 3), np.float32)}).pieces())
    for wrong in ((), pieces[:-1], pieces[1:], [*pieces, b"x"], [pieces[0], *pieces]):
        with pytest.raises(FormatError):
            codec.load(*wrong)


@pytest.mark.parametrize(
    "listed, kind, padding",
    [
        ([["m.lora_B.weight", [1, 1]], ["m.lora_A.weight", [1, 1]]], "update", 0),
        ([["m.lora_A.weight", [1, 1]], ["m.lora_A.weight", [1, 1]]], "update", 0),
        ([["m.lora_A.weight", [True, 1]]], "update", 0),
        ([["m.lora_A.weight", [1, 1]]], "update", 64),
        ([["m.lora_A.weight", [1, 1]]], "other", 0),
    ],
)
def test_a_head_that_no_value_has_is_refused_although_its_checksum_is_right(listed, kind, padding):
    text = canonical.dump({"arrays": listed, "kind": kind})
    text += b" " * (-(16 + len(text)) % 64 + padding)
    head = b"WRADPT1\n" + len(text).to_bytes(8, "little") + text
    numbers = bytes(4 * len(listed))
    sum_ = sum(int.from_bytes(head[at : at + 8], "little") for at in range(0, len(head), 8)) % 2**64

    with pytest.raises(FormatError):
        codec.load(head + numbers + sum_.to_bytes(8, "little"))
