"""Keys between two sites, and the masks made from them. docs/spec/secagg-1.md, sections 2 and 5.

A mask is an AES-256-CTR keystream read as integers of the ring. Two sites derive the same one; the lower id subtracts
what the higher id adds, so the masks vanish in the sum.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from federation.errors import ProtocolError

Vector = NDArray[np.unsignedinteger[Any]]

LABEL = b"wardround/secagg/1"
CHUNK_BYTES = 2**17  # stays in the second-level cache; 64 MiB at once cost a third more
_ZEROS = bytes(CHUNK_BYTES)
_FIELD = 2**255 - 19
# The u-coordinates of small order, and their spellings above the field's size. RFC 7748, section 6.1; libsodium.
_SMALL_ORDER = frozenset(
    {
        0, 1, _FIELD - 1, _FIELD, _FIELD + 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)  # fmt: skip


def derive(secret: bytes, use: str, *fields: str) -> bytes:
    """A key for one use. HKDF-SHA256 (RFC 5869) with length-prefixed fields, so no two uses spell the same."""
    named = [field.encode("ascii") for field in (use, *fields)]
    info = LABEL + b"".join(len(field).to_bytes(2, "big") + field for field in named)
    return HKDF(SHA256(), 32, None, info).derive(secret)


def public_key(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def is_public_key(data: bytes) -> bool:
    """32 bytes and not of small order: with such a point everybody would know the shared secret."""
    return len(data) == 32 and int.from_bytes(data, "little") % 2**255 not in _SMALL_ORDER


def agree(private: bytes, public: bytes) -> bytes:
    """X25519 (RFC 7748). Raises: ProtocolError `secagg-bad-key`."""
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise ProtocolError(
            "secagg-bad-key", "a public key that no honest site makes", hint="leave the site that sent it out"
        ) from None


def seal(key: bytes, content: bytes) -> bytes:
    """AES-256-GCM with a zero nonce: the key seals one box of one direction of one round."""
    return AESGCM(key).encrypt(bytes(12), content, None)


def unseal(key: bytes, box: bytes) -> bytes | None:
    """The content; None if the box is not one that this key sealed."""
    try:
        return AESGCM(key).decrypt(bytes(12), box, None)
    except InvalidTag:
        return None


def apply(vector: Vector, *, add: Sequence[bytes] = (), subtract: Sequence[bytes] = ()) -> None:
    """Add and subtract the masks of these keys, in place, modulo the ring.

    Guarantees: `apply(v, add=keys)` and then `apply(v, subtract=keys)` leaves v as it was, bit for bit.
    Raises: ProtocolError `secagg-bad-key` if a key comes twice: two equal masks would cancel or double.
    """
    keys = [*add, *subtract]
    if len(set(keys)) != len(keys):
        raise ProtocolError("secagg-bad-key", "two masks have one key", hint="keys are made anew in every round")
    streams = [Cipher(AES256(key), CTR(bytes(16))).encryptor() for key in keys]
    buffer = bytearray(CHUNK_BYTES)
    mask = np.frombuffer(buffer, vector.dtype)
    zeros, room = memoryview(_ZEROS), memoryview(buffer)
    for start in range(0, vector.size, mask.size):  # chunks outside, peers inside: the chunk stays in the cache
        part = vector[start : start + mask.size]
        size, here = part.nbytes, mask[: part.size]
        for number, stream in enumerate(streams):
            stream.update_into(zeros[:size], room[:size])
            if number < len(add):
                np.add(part, here, out=part)
            else:
                np.subtract(part, here, out=part)
