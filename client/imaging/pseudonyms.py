"""Keyed pseudonyms: one secret per project and site, one key per purpose, HMAC-SHA256 cut to 16 bytes.

A plain hash of a record number can be undone by hashing all record numbers; a keyed one cannot without the secret
(45 CFR 164.514(c) asks for the same). Two sites, or two projects of one site, cannot be joined by these keys.
"""

import hashlib
import hmac
import unicodedata
import uuid
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from client.imaging.joined import Joined
from federation.errors import SettingsError

DOMAINS = ("patient", "uid", "accession", "date", "source", "scan")
_SECRET_BYTES = 32
_PSEUDONYM_BYTES = 16


@dataclass(frozen=True, repr=False)
class SiteKeys:
    """One HMAC key per purpose, derived from the site's secret by HKDF-SHA256 (RFC 5869)."""

    patient: bytes
    uid: bytes
    accession: bytes
    date: bytes
    source: bytes
    scan: bytes
    key_id: str
    """Names the secret without revealing it: a store remembers which secret made its patient keys."""
    joined: Joined = field(default_factory=Joined, hash=False)
    """Older ids of the same people: they have the key of the current one."""

    @classmethod
    def from_secret(cls, secret: bytes) -> "SiteKeys":
        """Derive the keys. A lost or changed secret makes new patients, so it belongs in the site's backup."""
        if len(secret) < _SECRET_BYTES:
            raise SettingsError(
                "settings-value",
                f"the site secret has fewer than {_SECRET_BYTES} bytes",
                hint="make 32 bytes with the operating system's generator",
            )
        keys = {domain: _derive(secret, domain) for domain in DOMAINS}
        return cls(key_id=_derive(secret, "key-id")[:8].hex(), joined=Joined(), **keys)

    def __repr__(self) -> str:
        return "<SiteKeys: hidden>"

    def joining(self, joined: Joined) -> "SiteKeys":
        """The same keys, for a site that has joined records."""
        return replace(self, joined=joined)

    def patient_key(self, issuer: str, patient_id: str) -> str:
        """HMAC(issuer, 0x1F, id) of the normalised pair: padded, unpadded and differently cased ids are one person, and
        so are those that the site has joined."""
        issuer, patient_id = normal_id(issuer), normal_id(patient_id)
        return pseudonym(self.patient, issuer, self.joined.current(issuer, patient_id))

    def unjoined_key(self, issuer: str, patient_id: str) -> str:
        """The key that this id had, or would have, as a person of its own."""
        return pseudonym(self.patient, normal_id(issuer), normal_id(patient_id))

    def person_keys(self, issuer: str, patient_id: str) -> frozenset[str]:
        """Every key that this person has, or had before records were joined."""
        issuer, patient_id = normal_id(issuer), normal_id(patient_id)
        ids = self.joined.all_ids(issuer, patient_id) | {patient_id}
        return frozenset(self.unjoined_key(issuer, each) for each in ids)

    def new_uid(self, uid: str, *, within: str = "") -> str:
        """A `2.25.` UID for `uid`; `within` a study UID keeps frames of reference from joining studies.

        PS3.5 B.2 makes a UID of a UUID; RFC 9562 version 8 is the one for bits of our own making.
        """
        bits = bytearray(_mac(self.uid, within, uid) if within else _mac(self.uid, uid))
        bits[6] = (bits[6] & 0x0F) | 0x80
        bits[8] = (bits[8] & 0x3F) | 0x80
        return f"2.25.{uuid.UUID(bytes=bytes(bits)).int}"

    def days_back(self, patient_key: str) -> int:
        """By how many whole days this patient's dates move back: 365 to 3,650, stored nowhere."""
        return 365 + int.from_bytes(_mac(self.date, patient_key), "big") % 3286


def pseudonym(key: bytes, *parts: str) -> str:
    """32 hex characters for these parts under this key. Parts are joined by 0x1F, which no DICOM text may contain."""
    return _mac(key, *parts).hex()


def normal_id(text: str) -> str:
    """An identifier without padding (spaces, NULs), case, and the forms that Unicode has for one letter or digit."""
    return unicodedata.normalize("NFKC", text).strip(" \0\t\r\n").casefold()


def _mac(key: bytes, *parts: str) -> bytes:
    message = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return hmac.new(key, message, hashlib.sha256).digest()[:_PSEUDONYM_BYTES]


def _derive(secret: bytes, domain: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"wardround-deid/1 " + domain.encode()).derive(secret)
