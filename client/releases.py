"""Who looked at a data set and released it. Without a release of exactly this data set, nothing trains.

One canonical JSON line per decision, each with the SHA-256 of the line before, signed by the site's identity key if it
has one (docs/spec/releases-1.md). A release names the digest of the store, so one more example, one less, or other
rules of de-identification need another release.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from client import chained, signed_record
from client.signed_record import require_person
from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, StoreError, printable
from federation.messages import DIGEST
from federation.trust.keys import SigningKey

VERSION = "wardround-release/1"
Action = Literal["release", "revoke"]


@dataclass(frozen=True)
class Release:
    """One decision of a person. No field of it is about a patient."""

    action: Action
    data_digest: str
    profile_digest: str
    person: str
    time_utc: str
    signer: str = field(default="", compare=False)
    """The public key of the site that signed it; empty where the site has none."""


class Releases:
    """The record of decisions in one file; read again whenever it is asked, as is the site's key, which may rotate."""

    def __init__(self, path: Path, key: Callable[[], SigningKey | None] = lambda: None) -> None:
        self._path, self._key = path, key

    def all(self) -> list[Release]:
        """Every decision, oldest first. Raises: StoreError release-damaged; then nothing counts as released."""
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except (IsADirectoryError, NotADirectoryError):
            raise _damaged("the record of releases is no file") from None
        return [_read(*link) for link in chained.links(text)]

    def of(self, data_digest: str) -> Release | None:
        """The release of this data set. None if there is none, it was revoked, or the site has a key and another one
        signed it, or none."""
        about = [release for release in self.all() if release.data_digest == data_digest]
        if not about or about[-1].action != "release":
            return None
        key = self._key()
        return about[-1] if key is None or about[-1].signer == key.public.text else None

    def append(self, release: Release) -> Release:
        """Record a decision, and return it as it was signed. After a return it survives a power cut."""
        require_person(release.person)
        if DIGEST.fullmatch(release.data_digest) is None:
            raise FormatError("not-canonical", "a digest that no record can hold", hint="it has 64 hexadecimal digits")
        said: dict[str, Value] = {"version": VERSION, **vars(release)}
        (added,) = chained.append(
            self._path, [said], self.all, lambda line: signed_record.dump("release", line, self._key())
        )
        return _read(*added)


def _read(number: int, before: str, line: bytes) -> Release:
    try:
        value = canonical.load(line.removesuffix(b"\n"))
    except FormatError:
        value = None
    match value:
        case {
            "version": "wardround-release/1", "seq": int(seq), "prev": str(prev),
            "action": "release" | "revoke" as action,
            "data_digest": str(data), "profile_digest": str(profile), "person": str(person), "time_utc": str(time_utc),
            "signer": str(signer), "signature": str(), **rest,
        } if (
            isinstance(value, dict) and not rest and seq == number and prev == before and line.endswith(b"\n")
            and signed_record.verifies("release", value)
        ):  # fmt: skip
            # earlier versions took other letters
            return Release(action, data, profile, printable(person), time_utc, signer)
    raise _damaged("the record of releases does not verify")


def _damaged(message: str) -> StoreError:
    return StoreError(
        "release-damaged", message, hint="restore state/releases.jsonl from a backup, or remove it and release again"
    )
