"""What a site keeps for an auditor, signed by the site's identity key: releases and attestations.

A record names its signer and has the signature over everything else in it, the signer included; both are empty where
the site has no key. So nobody who can write the file, but not read the key, can make a person say something.
"""

from collections.abc import Mapping
from typing import Literal

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, TrustError
from federation.trust.keys import SigningKey, VerifyKey

Purpose = Literal["release", "attestation"]
_PERSON_MOST = 100


def require_person(person: str) -> None:
    """Raises: FormatError for a name that no record can hold."""
    if not (0 < len(person) <= _PERSON_MOST and person.isprintable()):
        raise FormatError(
            "not-canonical",
            "a name that no record can hold",
            hint=f"give a plain name of at most {_PERSON_MOST} letters, in UTF-8 and without control characters",
        )


def dump(purpose: Purpose, said: Mapping[str, Value], key: SigningKey | None) -> bytes:
    """The canonical text of a record, signed if there is a key."""
    named = {**said, "signer": key.public.text if key else ""}
    signature = key.sign(purpose, canonical.dump(named)).hex() if key else ""
    return canonical.dump({**named, "signature": signature})


def verifies(purpose: Purpose, record: Mapping[str, Value]) -> bool:
    """Whether the signer that the record names signed it for this purpose; or it names none, and has no signature."""
    signer, signature = record.get("signer"), record.get("signature")
    if signer == "" and signature == "":
        return True
    named = {name: value for name, value in record.items() if name != "signature"}
    try:
        raw = bytes.fromhex(str(signature))
        VerifyKey.from_text(signer).verify(purpose, canonical.dump(named), raw)
    except (TrustError, ValueError):
        return False
    return raw.hex() == signature
