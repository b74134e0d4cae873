"""Ed25519 keys: made where they live, kept in files that only their owner reads, and never used for two purposes.

One algorithm, no choice of another (RFC 8032). What is signed always begins with the name of its use, so that a
signature for one purpose is none for any other. Spec: docs/spec/trust-1.md, sections 1 and 2.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NoReturn, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from federation import durable
from federation.errors import TrustError

Domain = Literal["question", "answer", "roster", "enrolment", "secagg", "release", "attestation"]

FIELD = 2**255 - 19
# y-coordinates of the eight points of small order: under such a "key" one signature fits many messages.
ORDER_8 = int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little")
SMALL_ORDER = frozenset({0, 1, FIELD - 1, ORDER_8, FIELD - ORDER_8})


@dataclass(frozen=True)
class VerifyKey:
    """A public key, 32 bytes. Two keys are the same if and only if their bytes are."""

    raw: bytes

    def __post_init__(self) -> None:
        y = int.from_bytes(self.raw, "little") % 2**255
        if len(self.raw) != 32 or y >= FIELD or y in SMALL_ORDER:
            raise _damaged("a public key is not a point that may be one")

    @classmethod
    def from_text(cls, text: object) -> Self:
        """The opposite of `text`: 64 lower-case hexadecimal digits, nothing else."""
        try:
            if isinstance(text, str) and bytes.fromhex(text).hex() == text:
                return cls(bytes.fromhex(text))
        except ValueError:
            pass
        raise _damaged("a public key is not 64 hexadecimal digits")

    @property
    def text(self) -> str:
        return self.raw.hex()

    def verify(self, domain: Domain, data: bytes, signature: bytes) -> None:
        """Raises: TrustError `signature` unless this key signed exactly `data` for exactly this use."""
        self.verify_text(prefix(domain) + data, signature)

    def verify_text(self, text: bytes, signature: bytes) -> None:
        """Without our prefix: for formats that bring their own (C2SP signed notes)."""
        try:
            _public(self.raw).verify(signature, text)
        except InvalidSignature:
            raise TrustError(
                "signature", "a signature does not fit", hint="the bytes were changed, or another key signed them"
            ) from None


class SigningKey:
    """A private key. It is printed by nobody, sent by nobody and leaves its file only into this process."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = VerifyKey(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """A new key from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """For simulation and tests, whose keys follow from a seed."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new key in a new file. Raises: TrustError `key-exists`: a key is never overwritten."""
        made = cls.generate()
        made.save(path)
        return made

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key in this file. Raises: TrustError `key-absent`, `key-permissions`, `key-damaged`."""
        try:
            private = serialization.load_pem_private_key(read_secret(path), password=None)
        except (ValueError, TypeError):
            raise _damaged("a key file is not readable") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise _damaged("a key file holds a key of another kind")
        return cls(private)

    def save(self, path: Path) -> None:
        """PKCS#8 in PEM (RFC 5958), readable by its owner only."""
        write_secret(
            path,
            self._private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def sign(self, domain: Domain, data: bytes) -> bytes:
        """64 bytes. The same data gives the same signature (RFC 8032: no randomness is involved)."""
        return self._private.sign(prefix(domain) + data)

    def sign_text(self, text: bytes) -> bytes:
        """Without our prefix: for formats that bring their own (C2SP signed notes)."""
        return self._private.sign(text)

    def __repr__(self) -> str:
        return "<SigningKey: hidden>"

    def __reduce__(self) -> NoReturn:
        raise TrustError("key-absent", "a private key is never copied", hint="load it from its file where it is needed")


def prefix(domain: Domain) -> bytes:
    """What everything signed for this use begins with. No prefix is the beginning of another: each ends in a zero."""
    return b"wardround/" + domain.encode("ascii") + b"/1\0"


def write_secret(path: Path, data: bytes) -> None:
    """A new file with mode 0600, whole or not at all, and never in place of another.

    Raises: TrustError `key-exists`; StoreError `disk-full`.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with durable.disk_full_is_ours():
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            durable.write_all(descriptor, [data])
            os.fsync(descriptor)
            os.link(part, path)  # fails if the name is taken, where a rename would replace
        except FileExistsError:
            raise TrustError(
                "key-exists",
                "there is a key here already",
                hint="a key is never overwritten: move the old one away first",
            ) from None
        finally:
            os.close(descriptor)
            part.unlink()
        durable.sync_folder(path.parent)


@contextmanager
def whole_or_nothing() -> Iterator[Callable[[Path], Path]]:
    """Names new files on their way into a folder; if the block fails, those that it has made are taken away again.

    A folder with half of its keys would refuse to be made a second time. What was there before stays.
    """
    named: list[Path] = []

    def new(path: Path) -> Path:
        if not path.exists():
            named.append(path)
        return path

    try:
        yield new
    except BaseException:
        for path in named:
            path.unlink(missing_ok=True)
        raise


def read_secret(path: Path) -> bytes:
    """Raises: TrustError `key-absent`, or `key-permissions` if others than the owner may read or write the file."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise TrustError(
                    "key-permissions", f"others may read {path.name}", hint=f"chmod 600 {path.name}, and ask who did"
                )
            return file.read()
    except OSError:
        raise TrustError(
            "key-absent", f"the key {path.name} cannot be read", hint="run this command as the user that owns the key"
        ) from None


@cache
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _damaged(reason: str) -> TrustError:
    return TrustError("key-damaged", reason, hint="take the key from its owner again; do not repair it by hand")
