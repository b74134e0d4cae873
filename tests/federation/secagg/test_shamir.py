"""Any threshold of shares has the secret; one share fewer has nothing."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import FormatError
from federation.privacy.keystream import KeyStream
from federation.secagg import shamir


def split(secret: bytes, threshold: int, count: int) -> dict[int, int]:
    shares = shamir.split(secret, threshold=threshold, count=count, stream=KeyStream(os.urandom(32)))
    return dict(enumerate(shares, start=1))


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
@settings(max_examples=50, deadline=None)
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, data):
    count = data.draw(st.integers(threshold, 20))
    shares = split(secret, threshold, count)
    some = data.draw(st.permutations(sorted(shares)))[:threshold]

    assert shamir.value_at({index: shares[index] for index in some}, 0).to_bytes(32, "big") == secret


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
@settings(max_examples=20, deadline=None)
def test_with_one_share_fewer_every_secret_remains_possible(secret, other):
    shares = split(secret, 4, 6)
    few = {index: shares[index] for index in (1, 3, 6)}
    completed = {0: int.from_bytes(other, "big"), **few}  # a polynomial of the same degree through another secret

    assert shamir.consistent({1: few[1], 3: few[3], 6: few[6], 9: shamir.value_at(completed, 9)}, threshold=4,
                             stream=KeyStream(os.urandom(32)))  # fmt: skip
    assert shamir.value_at(completed, 1) == few[1]


def test_a_wrong_share_among_more_than_the_threshold_is_noticed():
    shares = split(bytes(32), 4, 9)

    assert shamir.consistent(shares, threshold=4, stream=KeyStream(os.urandom(32)))
    for index in shares:
        wrong = shares | {index: (shares[index] + 1) % shamir.PRIME}
        assert not shamir.consistent(wrong, threshold=4, stream=KeyStream(os.urandom(32)))


@pytest.mark.parametrize("data", [b"", bytes(65), bytes(67), b"\xff" * 66, shamir.PRIME.to_bytes(66, "big")])
def test_a_share_that_is_none_is_refused(data):
    with pytest.raises(FormatError) as caught:
        shamir.from_bytes(data)
    assert caught.value.code == "secagg-out-of-range"


def test_a_share_comes_back_from_its_bytes():
    for share in (0, 1, shamir.PRIME - 1):
        assert shamir.from_bytes(shamir.to_bytes(share)) == share
