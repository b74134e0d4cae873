"""Everything that a site without internet needs, in one folder: wheels, the base model, and a hash for every file.

wheels/            this very program and all it rests on, at the pinned versions, for this machine's Python and system
base/              the base model, if one was given
requirements.txt   name, version and SHA-256 of every wheel: pip takes no other file, and asks no index
install.sh         checks every hash, then makes an environment; plain sh, so that it can be read before it is run
SHA256SUMS         of all of them. Its own digest is the one number that people compare, on a way of its own
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from federation import base as bases
from federation.errors import PinError, StoreError

SUMS = "SHA256SUMS"
SOURCE = (
    "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE", "federation", "client", "server", "sim",
)  # fmt: skip
LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")
NAME = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.!+]+)(-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
INSTALL = """\
#!/bin/sh
# Install Wardround from this folder, without any network: sh install.sh TARGET DIGEST
# DIGEST is the SHA-256 of the file SHA256SUMS, as you were told it by telephone or in a signed mail.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -ne 2 ]; then echo "usage: sh install.sh TARGET DIGEST" >&2; exit 2; fi
if [ -e "$1" ]; then echo "wardround: error: $1 is there already" >&2; exit 17; fi
cd "$here"
if ! echo "$2  SHA256SUMS" | sha256sum --check --status --strict; then
  echo "wardround: error: this is not the bundle whose digest you were given" >&2
  echo "wardround: hint: compare it again with the sender; do not install" >&2
  exit 18
fi
if ! sha256sum --check --quiet --strict SHA256SUMS >&2; then
  echo "wardround: error: a file of the bundle was changed or is missing" >&2
  echo "wardround: hint: copy the bundle again" >&2
  exit 18
fi
"${PYTHON:-python3.11}" -m venv "$1"
# -I and --isolated: nothing of the caller's environment, such as PYTHONPATH or pip's settings, counts
"$1/bin/python" -I -m pip install --isolated --quiet --disable-pip-version-check --no-cache-dir --no-index \\
  --find-links wheels --require-hashes --requirement requirements.txt
echo "installed: $1/bin/wardround"
"""

Fetch = Callable[[Path], None]


@dataclass(frozen=True)
class Bundle:
    """A whole bundle: `digest` is what people compare."""

    path: Path
    digest: str
    wheels: int
    size_bytes: int
    base_digest: str | None


def with_pip(source: Path) -> Fetch:
    """Fills a folder with the wheels of this source tree and its pinned dependencies. pip's own settings hold."""
    if not (source / "pyproject.toml").is_file() or not (source / "constraints.txt").is_file():
        raise StoreError(
            "bundle-failed", "no source of wardround is in this folder", hint="name a copy of the repository: --source"
        )

    def fetch(wheels: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="wardround-") as folder:
            clean = copy_source(source, Path(folder) / "source")
            command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
            command += ["--wheel-dir", str(wheels), "--constraint", str(clean / "constraints.txt"), str(clean)]
            if subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode:
                raise StoreError(
                    "bundle-failed", "pip could not gather the wheels", hint="its own lines above say why; try again"
                )

    return fetch


def copy_source(source: Path, target: Path) -> Path:
    """What a wheel is made of, and nothing else: an old build folder in the tree would bring deleted modules back."""
    target.mkdir()
    for name in SOURCE:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif (source / name).exists():
            shutil.copy(source / name, target / name)
    return target


def make(target: Path, fetch: Fetch, *, model: Path | None) -> Bundle:
    """A new bundle, whole or not at all. Raises: StoreError `output-exists`, `bundle-failed`; ModelError."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError("output-exists", "the folder of the bundle is not empty", hint="name a new folder")
    base_digest = None if model is None else bases.base_digest(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=target.name + ".part-", dir=target.parent))
    try:
        (part / "wheels").mkdir()
        fetch(part / "wheels")
        (part / "requirements.txt").write_text("".join(_requirements(part / "wheels")), encoding="ascii")
        (part / "install.sh").write_text(INSTALL, encoding="ascii")
        if model is not None:
            shutil.copytree(model, part / "base")
            if bases.base_digest(part / "base") != base_digest:
                raise PinError("base-digest", "the model changed while it was copied", hint="make the bundle again")
        lines = [f"{_sha256(part / name)}  {name}\n" for name in _files(part)]
        (part / SUMS).write_text("".join(lines), encoding="utf-8")
        part.chmod(0o755)
        if target.exists():
            target.rmdir()
        os.replace(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return check(target)


def check(folder: Path, digest: str | None = None) -> Bundle:
    """The bundle in this folder, every byte compared. Raises: PinError `bundle-differs`, naming the first file."""
    try:
        sums = (folder / SUMS).read_bytes()
        text = sums.decode("utf-8")
    except (OSError, ValueError):
        raise _differs(f"there is no readable {SUMS}") from None
    found = hashlib.sha256(sums).hexdigest()
    if digest is not None and digest != found:
        raise _differs("this is not the bundle whose digest you were given")
    listed = {}
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match is None:
            raise _differs(f"{SUMS} has a line in another form")
        listed[match[2]] = match[1]
    there = list(_files(folder))
    for name in sorted(set(there) ^ set(listed)):
        raise _differs(f"{name} is {'not listed' if name in there else 'missing'}")
    for name, expected in listed.items():
        if _sha256(folder / name) != expected:
            raise _differs(f"{name} was changed")
    size = sum((folder / name).stat().st_size for name in there)
    base = bases.base_digest(folder / "base") if (folder / "base").is_dir() else None
    return Bundle(folder, found, sum(name.endswith(".whl") for name in there), size, base)


def _requirements(wheels: Path) -> Iterator[str]:
    """Every wheel by name, version and hash: what pip demands with --require-hashes."""
    found = sorted(wheels.iterdir())
    for path in found:
        match = NAME.fullmatch(path.name)
        if match is None:
            raise StoreError("bundle-failed", f"{path.name} is not a wheel", hint="pip must build a wheel of it first")
        yield f"{match[1]}=={match[2]} --hash=sha256:{_sha256(path)}\n"
    if not found:
        raise StoreError("bundle-failed", "pip gathered no wheels", hint="its own lines above say why; try again")


def _files(folder: Path) -> Iterator[str]:
    """Every file below but the list itself, in order. Raises: PinError for a link or anything else that is no file."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            if name != SUMS:
                yield name
        elif not stat.S_ISDIR(kind):
            raise _differs(f"{name} is not a plain file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differs(reason: str) -> PinError:
    return PinError("bundle-differs", f"the bundle is not whole: {reason}", hint="copy it again, or ask its sender")
