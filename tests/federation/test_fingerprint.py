"""Words that two people compare."""

import hashlib
from importlib.resources import files

import pytest

from federation.errors import TrustError
from federation.trust.fingerprint import WORDS, fingerprint, require_same, word_list


def test_the_list_is_the_published_one():
    """BIP 39, English: 2048 words, no two alike in their first four letters."""
    data = (files("federation.trust") / "words.txt").read_bytes()

    assert hashlib.sha256(data).hexdigest() == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    assert len({word[:4] for word in word_list()}) == 2048


def test_twelve_words_hold_the_first_132_bits():
    words = fingerprint("key", b"data").split()
    digest = hashlib.sha256(b"wardround/fingerprint/1\0key\0data").digest()
    number = 0
    for word in words:
        number = number << 11 | word_list().index(word)

    assert len(words) == WORDS
    assert number == int.from_bytes(digest, "big") >> 124


def test_kinds_have_words_of_their_own():
    assert fingerprint("key", b"data") != fingerprint("federation", b"data")


def test_people_may_write_words_their_way():
    words = fingerprint("key", b"data")

    require_same(words, words)
    require_same("  " + words.upper().replace(" ", ",  ") + "\n", words)


@pytest.mark.parametrize("heard", ["", "abandon", fingerprint("key", b"dat"), fingerprint("key", b"data") + " zoo"])
def test_other_words_are_refused(heard):
    with pytest.raises(TrustError) as caught:
        require_same(heard, fingerprint("key", b"data"))

    assert caught.value.code == "fingerprint-differs"


def test_eleven_right_words_are_not_enough():
    words = fingerprint("key", b"data").split()
    with pytest.raises(TrustError):
        require_same(" ".join(words[:-1]), " ".join(words))
