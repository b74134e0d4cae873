"""A digest as twelve words that two people can read to each other over the telephone.

The words are those of BIP 39 (2048 of them, no two alike in their first four letters), so each says 11 bits and twelve
say 132: to find another key with the same words takes 2^132 tries, as good as any other part here. Spec: trust-1, §3.
"""

import hashlib
import hmac
from functools import cache
from importlib.resources import files

from federation.errors import TrustError

WORDS = 12
BITS_PER_WORD = 11


def fingerprint(kind: str, data: bytes) -> str:
    """The words of `data`; `kind` keeps the words of a key apart from those of a federation.

    >>> fingerprint("site", bytes(32)).split()[:3]
    ['phrase', 'employ', 'athlete']
    """
    digest = hashlib.sha256(b"wardround/fingerprint/1\0" + kind.encode("ascii") + b"\0" + data).digest()
    number = int.from_bytes(digest, "big") >> (256 - WORDS * BITS_PER_WORD)
    words = word_list()
    picked = [words[number >> (BITS_PER_WORD * place) & 2047] for place in reversed(range(WORDS))]
    return " ".join(picked)


def require_same(heard: str, computed: str) -> None:
    """Compare what a person heard with what this machine computed. All words count; case, commas and spaces do not.

    Raises: TrustError `fingerprint-differs`.
    """
    told = " ".join(heard.replace(",", " ").lower().split())
    if not hmac.compare_digest(told.encode("utf-8"), computed.encode("ascii")):
        raise TrustError(
            "fingerprint-differs",
            "the words are not those of this key",
            hint="read all twelve again, over a number that you knew before; if they still differ, somebody is between",
        )


@cache
def word_list() -> tuple[str, ...]:
    return tuple((files("federation.trust") / "words.txt").read_text(encoding="ascii").split())
