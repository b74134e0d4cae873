"""Keys from a seed, for simulation and tests only: whoever knows the seed can subtract the noise."""

import hashlib
import hmac


class SeededKeys:
    """A KeySource whose key for a label is HMAC-SHA256(seed, label): the same run gives the same bytes everywhere."""

    def __init__(self, seed: int | str) -> None:
        self._seed = str(seed).encode("utf-8")

    def key(self, label: str) -> bytes:
        return hmac.digest(self._seed, label.encode("utf-8"), hashlib.sha256)

    def child(self, name: str) -> "SeededKeys":
        """Independent keys for one part of a simulation, such as one site."""
        return SeededKeys(self.key(f"child/{name}").hex())
