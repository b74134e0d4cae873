"""With what an export began: it goes on with the same only, or one person would be two in its folder.

One canonical JSON object per output folder, under the SHA-256 of where it lies, in the site's own state
(docs/spec/store-1.md): in an output folder nothing may lie but de-identified files.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from federation import canonical, durable
from federation.errors import FormatError, StoreError

VERSION = "wardround-export/1"
_PARTS = {
    "key_id": "another site secret",
    "joined": "other joined records",
    "profile_digest": "other rules of de-identification",
}


@dataclass(frozen=True)
class Beginning:
    """What decides which pseudonyms are written, and what is written under them."""

    key_id: str
    joined: str
    """The keyed digest of the table of joined records; empty where the site has none."""
    profile_digest: str


class Exports:
    """The records of one site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, target: Path, now: Beginning, *, goes_on: bool) -> None:
        """Record with what an empty folder is begun; one that is not (`goes_on`) was begun with the same.

        After a return the record survives a power cut. Raises: StoreError store-mismatch when it was begun with
        something else, output-exists when nothing says with what.
        """
        path = self._folder / f"{hashlib.sha256(os.fsencode(os.path.realpath(target))).hexdigest()}.json"
        if not goes_on:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            durable.write(path, [canonical.dump({"version": VERSION, **vars(now)})])
            path.chmod(0o600)
            return
        before = _read(path)
        if before is None:
            raise StoreError(
                "output-exists",
                "the output folder holds files of an export that was not begun there by this site",
                hint="name a new folder for the export: under another secret the same people have other names",
            )
        for name, other in _PARTS.items():
            if getattr(before, name) != getattr(now, name):
                raise StoreError(
                    "store-mismatch",
                    f"the export in the output folder was begun with {other}",
                    hint="name a new folder for the export: in this one a person could be two",
                )


def _read(path: Path) -> Beginning | None:
    try:
        value = canonical.load(path.read_bytes())
    except (FileNotFoundError, FormatError):
        return None
    match value:
        case {
            "version": "wardround-export/1",
            "key_id": str(key_id), "joined": str(joined), "profile_digest": str(profile_digest), **rest,
        } if not rest:  # fmt: skip
            return Beginning(key_id, joined, profile_digest)
    return None
