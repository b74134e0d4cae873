"""Random bytes that nobody can predict: an AES-256-CTR keystream under a key of the operating system.

A privacy guarantee is only as good as its randomness. A generator made for simulation (Mersenne Twister, Philox) can be
predicted from its output, so everything private is drawn from a block cipher keyed by the operating system.
"""

import os
from typing import NoReturn, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from federation.errors import FormatError

KEY_BYTES = 32


class KeySource(Protocol):
    """Where keys come from. A label names the use ("sampling", "noise", …) and is never asked for twice."""

    def key(self, label: str) -> bytes:
        """32 bytes."""
        ...


class OperatingSystemKeys:
    """Fresh keys from the operating system: the only source outside of simulation and tests. The label is ignored."""

    def key(self, label: str) -> bytes:
        return os.urandom(KEY_BYTES)


class KeyStream:
    """The AES-256-CTR keystream of one key, read once from front to back.

    Guarantees:
        No byte is given out twice: there is no seek, a stream cannot be copied or pickled, and a stream that a forked
        process inherits refuses to go on (two processes with the same noise could subtract it).
        One key makes one stream. Two streams of one key would repeat each other, so a key is used once and dropped.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise FormatError("noise-stream", "a stream key has 32 bytes", hint="take keys from a KeySource")
        self._cipher = Cipher(AES256(key), CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    def bytes(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size < 0:
            raise FormatError("noise-stream", "a stream has no negative length", hint="ask for zero or more")
        if os.getpid() != self._process:
            raise FormatError(
                "noise-stream", "a stream does not follow a fork", hint="make a stream in the new process"
            )
        return self._cipher.update(bytes(size))

    def words(self, size: int) -> NDArray[np.uint64]:
        """The next `size` 64-bit words."""
        return np.frombuffer(self.bytes(8 * size), dtype="<u8")

    def uniform(self, size: int) -> NDArray[np.float64]:
        """Numbers k / 2^53 with k uniform: in [0, 1), never 1."""
        return (self.words(size) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, size: int, below: int) -> NDArray[np.int64]:
        """Uniform integers in [0, below), without modulo bias: words above the last multiple of `below` are redrawn."""
        if not 1 <= below <= 2**63:
            raise FormatError("noise-stream", "integers need a range of 1 to 2^63", hint="pass a positive bound")
        largest = np.uint64(2**64 - 1 - 2**64 % below)
        words = self.words(size)
        while (rejected := np.flatnonzero(words > largest)).size:
            words = words.copy()
            words[rejected] = self.words(rejected.size)
        return (words % np.uint64(below)).astype(np.int64)

    def __repr__(self) -> str:
        return "<KeyStream: hidden>"

    def __reduce__(self) -> NoReturn:
        raise FormatError("noise-stream", "a stream is never copied", hint="make a stream from a new key")
