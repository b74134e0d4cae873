"""Memory of a site's process while it ingests many files and reads from a large store: `wardround sim bench store`.

Files are made radiographs of 16 x 16 pixels, too small to be searched for text, with a report each; they are cleaned
in this process, so that its memory is all there is. Pairs are written through the store's own door, and then read as
training does: patients drawn at random, their examples with pixels, again and again.
"""

import platform
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from client.imaging.ingest import ingest
from client.imaging.png import encode_png
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.record import CleanExample, CleanPicture, CleanStudy, PictureFields, Turn
from client.imaging.store import Store
from sim.hostile import small_objects
from sim.memory import resident_mb

_LOOKS = 10
_EXAMPLES_PER_PATIENT, _DRAWN, _DRAWS = 4, 110, 100
_PER_FOLDER = 1000


def bench(*, files: int = 2000, pairs: int = 20_000) -> dict[str, Any]:
    """What `wardround sim bench store --json` prints. Growth is from the first tenth of the work to its end."""
    with TemporaryDirectory() as name:
        taken = _ingested(Path(name) / "ingest", files)
        written, drawn = _trained_from(Path(name) / "train", pairs)
    figures = {
        "files": files,
        "ingest_growth_mb": round(taken[-1] - taken[0], 1),
        "pairs": pairs,
        "writing_growth_mb": round(written[-1] - written[0], 1),
        "reading_growth_mb": round(drawn[-1] - drawn[0], 1),
        "peak_rss_mb": max(*taken, *written, *drawn),
    }
    rows = [
        {"work": work, "rss_mb": seen}
        for work, seen in (("ingest", taken), ("write pairs", written), ("draw and read", drawn))
    ]
    machine = {"python": platform.python_version(), "system": platform.system(), "numpy": np.__version__}
    return {"bench": "store", "machine": machine, "figures": figures, "rows": rows}


def _ingested(folder: Path, files: int) -> list[float]:
    """Resident memory at each tenth of the ingest of so many files."""
    source = folder / "source"
    pattern = next(small_objects(0))
    ours = {old: pattern.count(old) for old in (_patient(pattern), _instance(pattern))}
    if not all(ours.values()):
        raise RuntimeError("the made radiograph has no identifiers to replace")
    for number in range(files):
        place = source / f"{number // _PER_FOLDER:04d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number % _PER_FOLDER:04d}").write_bytes(_numbered(pattern, number))
        if number % _PER_FOLDER == 0:
            last = min(files, number + _PER_FOLDER)
            rows = (f'"{place.name}/{each % _PER_FOLDER:04d}","Nodule {each} mm"\n' for each in range(number, last))
            (source / f"{place.name}.csv").write_text("path,report\n" + "".join(rows), encoding="utf-8")
    profile, keys = DeidProfile.shipped(), SiteKeys.from_secret(bytes(range(32)))
    store = Store.create(folder / "store", profile_digest=profile.digest, key_id=keys.key_id)
    seen: list[float] = []

    def look(done: int, total: int) -> None:
        if done * _LOOKS // total > (done - 1) * _LOOKS // total:
            seen.append(resident_mb())

    with store:
        counts = ingest(source, store, profile, keys, workers=0, progress=look)
    if counts.accepted != files:
        raise RuntimeError(f"of {files} made files {counts.accepted} were accepted")
    return seen


def _trained_from(folder: Path, pairs: int) -> tuple[list[float], list[float]]:
    """Resident memory while pairs are written, and while patients are drawn and read."""
    store = Store.create(folder, profile_digest="bench", key_id="bench")
    written: list[float] = []
    drawn: list[float] = []
    with store:
        with store.batch():
            for number, study in enumerate(_studies(pairs // _EXAMPLES_PER_PATIENT), 1):
                store.add(study)
                if number % max(1, pairs // _EXAMPLES_PER_PATIENT // _LOOKS) == 0:
                    store.checkpoint()
                    written.append(resident_mb())
        rng = np.random.default_rng(0)
        for turn in range(_DRAWS):
            patients = store.patients()
            for at in rng.integers(len(patients), size=_DRAWN):
                for example in store.examples(patients[int(at)]):
                    for picture in example.images:
                        picture.pixels()
            if turn % (_DRAWS // _LOOKS) == 0:
                drawn.append(resident_mb())
    return written, drawn


def _studies(patients: int) -> Iterator[CleanStudy]:
    png = encode_png(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    for patient in range(patients):
        name = f"{patient:032x}"
        examples = tuple(
            CleanExample(f"{patient:024x}{each:08x}", (Turn("Describe the findings.", f"Nodule of {each} mm. " * 20),))
            for each in range(_EXAMPLES_PER_PATIENT)
        )
        picture = CleanPicture(name, png, 64, 64, PictureFields(modality="CR"))
        yield CleanStudy(name, name, (picture,), examples, "F", 60, "bench")


def _patient(pattern: bytes) -> bytes:
    at = pattern.index(b"SMAL-")
    return pattern[at : at + 12]


def _instance(pattern: bytes) -> bytes:
    at = pattern.index(b"1.2.826.9.")
    return pattern[at : at + 17]


def _numbered(pattern: bytes, number: int) -> bytes:
    """The same radiograph of another patient: its numbers replaced by others of the same length."""
    other = f"{number + 10**6:07d}".encode()
    return pattern.replace(_patient(pattern), b"SMAL-" + other).replace(_instance(pattern), b"1.2.826.9." + other)
