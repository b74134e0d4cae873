"""Keys: made once, kept to their owner, and good for one purpose at a time."""

import os
from itertools import permutations
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from federation.errors import TrustError
from federation.trust.keys import SMALL_ORDER, Domain, SigningKey, VerifyKey, prefix, write_secret

KEY = SigningKey.from_seed(bytes(range(32)))


def code(call, *arguments) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments)
    assert caught.value.hint
    return caught.value.code


def test_a_key_is_the_same_after_its_file(tmp_path):
    made = SigningKey.create(tmp_path / "identity.key")

    assert SigningKey.load(tmp_path / "identity.key").public == made.public
    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["identity.key"]


def test_a_key_is_never_overwritten(tmp_path):
    before = SigningKey.create(tmp_path / "key").public

    assert code(SigningKey.create, tmp_path / "key") == "key-exists"
    assert SigningKey.load(tmp_path / "key").public == before
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_that_others_may_read_is_refused(tmp_path):
    SigningKey.create(tmp_path / "key")
    os.chmod(tmp_path / "key", 0o640)

    assert code(SigningKey.load, tmp_path / "key") == "key-permissions"


def test_an_absent_or_damaged_key_is_named(tmp_path):
    write_secret(tmp_path / "key", b"nonsense")
    curve = ec.generate_private_key(ec.SECP384R1())
    write_secret(tmp_path / "other", curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    assert code(SigningKey.load, tmp_path / "none") == "key-absent"
    assert code(SigningKey.load, tmp_path / "key") == "key-damaged"
    assert code(SigningKey.load, tmp_path / "other") == "key-damaged"


def test_a_private_key_shows_nothing_and_is_not_copied():
    import pickle

    assert repr(KEY) == "<SigningKey: hidden>"
    assert code(pickle.dumps, KEY) == "key-absent"


def test_the_signature_is_that_of_rfc_8032():
    """Section 7.1, test 2: seed, key and signature over one byte."""
    key = SigningKey.from_seed(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))

    assert key.public.text == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign_text(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_a_signature_for_one_purpose_is_none_for_another():
    for made, read in permutations(get_args(Domain), 2):
        signature = KEY.sign(made, b"text")

        KEY.public.verify(made, b"text", signature)
        assert code(KEY.public.verify, read, b"text", signature) == "signature"


def test_no_purpose_begins_like_another():
    for one, other in permutations(get_args(Domain), 2):
        assert not prefix(one).startswith(prefix(other))


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "AB" * 32, KEY.public.text + "00", 7, None])
def test_a_public_key_has_one_spelling(text):
    assert code(VerifyKey.from_text, text) == "key-damaged"


def test_points_of_small_order_are_no_keys():
    for y in SMALL_ORDER:
        for sign in (0, 1 << 255):
            assert code(VerifyKey, (y | sign).to_bytes(32, "little")) == "key-damaged"
    assert code(VerifyKey, (2**255 - 19 + 2).to_bytes(32, "little")) == "key-damaged"  # not reduced
