"""Masks are AES-256-CTR and vanish; keys are for one use each."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from federation.errors import ProtocolError
from federation.secagg import masks

SIZES = [1, 7, 65_535, 65_536, 65_537, 200_001]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_what_is_added_is_subtracted_again_bit_for_bit(size, dtype):
    vector = np.frombuffer(os.urandom(size * np.dtype(dtype).itemsize), dtype).copy()
    before, keys = vector.copy(), [os.urandom(32) for _ in range(3)]
    masks.apply(vector, add=keys[:2], subtract=keys[2:])
    assert (vector != before).mean() > 0.9 or size < 10
    masks.apply(vector, add=keys[2:], subtract=keys[:2])

    assert (vector == before).all()


def test_a_mask_is_the_block_cipher_on_a_counter():
    key = os.urandom(32)
    vector = np.zeros(100_000, "<u4")
    masks.apply(vector, add=[key])
    blocks = Cipher(AES256(key), ECB()).encryptor().update(b"".join(n.to_bytes(16, "big") for n in range(25_000)))

    assert vector.tobytes() == blocks


def test_one_key_twice_is_refused():
    key = os.urandom(32)
    for given in ({"add": [key, key]}, {"add": [key], "subtract": [key]}):
        with pytest.raises(ProtocolError):
            masks.apply(np.zeros(4, "<u2"), **given)


def test_every_bit_of_a_seed_matters():
    seed = os.urandom(32)
    streams = set()
    for bit in range(-1, 256):
        changed = bytearray(seed)
        if bit >= 0:
            changed[bit // 8] ^= 1 << bit % 8
        vector = np.zeros(64, "<u2")
        masks.apply(vector, add=[bytes(changed)])
        streams.add(vector.tobytes())

    assert len(streams) == 257


def test_two_sites_derive_the_same_pair_mask_and_different_boxes():
    a, b = os.urandom(32), os.urandom(32)
    shared = masks.agree(a, masks.public_key(b))

    assert shared == masks.agree(b, masks.public_key(a))
    assert masks.derive(shared, "box", "r", "a", "b") != masks.derive(shared, "box", "r", "b", "a")
    assert masks.derive(shared, "pair", "ab", "c") != masks.derive(shared, "pair", "a", "bc")


def test_a_box_opens_under_its_own_key_only_and_any_changed_bit_is_noticed():
    key = os.urandom(32)
    box = masks.seal(key, b"share")

    assert masks.unseal(key, box) == b"share" and masks.unseal(os.urandom(32), box) is None
    for place in range(len(box)):
        assert masks.unseal(key, box[:place] + bytes([box[place] ^ 1]) + box[place + 1 :]) is None
    assert masks.unseal(key, b"") is None


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), bytes(31), bytes(range(33))])
def test_impossible_public_keys_are_refused(key):
    assert not masks.is_public_key(key)
    with pytest.raises(ProtocolError):
        masks.agree(os.urandom(32), key)
