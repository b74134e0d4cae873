"""What a batch was made by and how it ended, for an auditor: rules, options, versions, counts. No file, no patient.

It is written beside the store and stays at the site. What may be told to others is `countable`: counts at or above the
site's own minimum, and nothing that links to a file or a person.
"""

import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client import signed_record
from client.imaging.profile import DeidProfile
from federation import canonical, durable
from federation.canonical import Value
from federation.trust.keys import SigningKey

VERSION = "wardround-attestation/1"
_PACKAGES = (
    "wardround", "pydicom", "numpy", "pillow", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls",
    "python-gdcm", "pynetdicom", "onnxruntime", "zxing-cpp",
)  # fmt: skip


def attestation(
    kind: str, profile: DeidProfile, key_id: str, counts: Mapping[str, int | Mapping[str, int]], *,
    data_digest: str | None, time_utc: str, person: str = "",
    lists: Mapping[str, Mapping[str, int | str]] | None = None,
) -> bytes:  # fmt: skip
    """The canonical text of one batch's attestation.

    Args:
        kind: `ingest`, `receive`, `deidentify`; `hold`, `unhold`, `discard`, `erase` or `erase-undo`, by a person.
        data_digest: of the store after the batch; None for an export.
        person: who decided, where a person did.
        lists: of each list that the site has, how many entries it had then and a keyed digest.
    """
    limits, rendering = asdict(profile.limits), asdict(profile.rendering)
    return canonical.dump(
        {
            "version": VERSION,
            "kind": kind,
            "time_utc": time_utc,
            "table_edition": profile.edition,
            "table_sha256": profile.table_sha256,
            "profile_digest": profile.digest,
            "options": dict(profile.codes),
            "tightened": list(profile.site.tightened),
            "exceptions": [asdict(each) for each in profile.site.exceptions],
            "limits": _plain(limits),
            "rendering": _plain(rendering),
            "key_id": key_id,
            "lists": _plain(lists or {}),
            "data_digest": data_digest,
            "counts": _plain(counts),
            "versions": _versions(),
            **({"person": person} if person else {}),
        }
    )


def prepare(folder: Path) -> None:
    """The folder of attestations, before the work that they are about: after it, it would be too late to fail."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "the folder of attestations cannot be written")


def keep(folder: Path, text: bytes, key: SigningKey | None) -> Path:
    """Sign an attestation, if there is a key, and write it under the digest of its text; the same batch told twice is
    one file."""
    prepare(folder)
    said = canonical.load(text)
    assert isinstance(said, dict)
    text = signed_record.dump("attestation", said, key)
    path = folder / f"{hashlib.sha256(text).hexdigest()}.json"
    durable.write(path, [text])
    path.chmod(0o600)
    return path


def countable(counts: Mapping[str, int], minimum: int) -> dict[str, int]:
    """The counts that may be told outside: none below the site's minimum, zero included.

    >>> countable({"accepted": 4120, "burned-in": 3}, minimum=10)
    {'accepted': 4120}
    """
    return {name: count for name, count in counts.items() if count >= minimum}


def _plain(value: object) -> Value:
    match value:
        case Mapping():
            return {str(name): _plain(one) for name, one in value.items()}
        case list() | tuple():
            return [_plain(one) for one in value]
        case float():
            return canonical.decimal(value)
        case str() | bool() | int() | None:
            return value
    raise TypeError(type(value).__name__)


def _versions() -> dict[str, Value]:
    found: dict[str, Value] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
