"""Mutated DICOM files through the reader: nothing but a reason for quarantine may come out.

    python -m sim.fuzz_dicom --inputs 100000 --seed 0

Each input is a good or odd file with a few mutations: bits and bytes changed, lengths made large, parts cut, doubled,
swapped or moved between files. It is written into an empty folder, told apart, read, searched for identifiers, cleaned
both ways and rendered, as ingest does, and exported, as an image or another object. An input fails if any exception but
DeidError comes out, if a message repeats bytes of the file, or if anything but the input is in the folder afterwards.
"""

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from client.imaging.dataset import clean_dataset
from client.imaging.export import clean_file
from client.imaging.header import border, kind_of, read
from client.imaging.header_path import clean_native
from client.imaging.identifiers import collect
from client.imaging.ocr import Reader, shipped
from client.imaging.pixels import render
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys, normal_id
from client.imaging.receive import RawImage
from federation.errors import DeidError
from sim.hostile import hostile_objects, odd_files, small_objects

_LENGTHS = (0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_VRS = (b"SQ", b"UN", b"OW", b"UI", b"DS", b"PN", b"UT", b"\0\0")
_TELLING = ("PREAMBLE", "INSEQUENCE", "PRIVATE", "1.2.826")


@dataclass
class FuzzReport:
    """What came of many inputs."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """`clean`, or the reason."""
    failures: Counter[str] = field(default_factory=Counter)
    """Type of an exception that is no refusal, `told` for a message with data, `escaped` for a file that was left."""
    slowest_s: float = 0.0
    """Of the processor, for one input."""
    peak_rss_mb: float = 0.0


def fuzz(inputs: int, seed: int, *, seconds: float = float("inf")) -> FuzzReport:
    """Try so many inputs, or as many as fit into so many seconds. The same seed makes the same inputs."""
    shipped_profile, keys, reader = DeidProfile.shipped(), SiteKeys.from_secret(bytes(range(32))), shipped()
    small = replace(shipped_profile.limits, frame_pixels=400, frames=50)  # pictures too small to search for text
    profile = replace(shipped_profile, limits=small).for_exports()
    rest = [one.data for one in hostile_objects(seed)] + [data for _, data in odd_files(seed) if len(data) < 1 << 19]
    corpus = 8 * list(small_objects(seed)) + [_short(data) for data in rest]
    report, ends = FuzzReport(), time.monotonic() + seconds
    with TemporaryDirectory() as name:
        path = Path(name) / "input"
        while report.inputs < inputs and time.monotonic() < ends:
            data = mutated(corpus, np.random.default_rng([seed, report.inputs]))
            path.write_bytes(data)
            begun = time.process_time()
            outcome, failure = _tried(path, data, profile, keys, reader)
            report.slowest_s = max(report.slowest_s, time.process_time() - begun)
            report.inputs += 1
            report.outcomes[outcome] += 1
            if failure:
                report.failures[failure] += 1
            if [each.name for each in Path(name).iterdir()] != ["input"]:
                report.failures["escaped"] += 1
    report.peak_rss_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    return report


def mutated(corpus: list[bytes], rng: np.random.Generator) -> bytes:
    """One file of the corpus with one to five mutations."""
    data = bytearray(corpus[int(rng.integers(len(corpus)))])
    for _ in range(int(rng.integers(1, 6))):
        if len(data) < 8:
            break
        at, kind = int(rng.integers(len(data))), int(rng.integers(9))
        if kind == 0:
            data[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[at] = int(rng.integers(256))
        elif kind == 2:  # a length, a count, a tag
            data[at : at + 4] = _LENGTHS[int(rng.integers(len(_LENGTHS)))].to_bytes(4, "little")
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + int(rng.integers(1, 40))]
        elif kind == 5:
            part = data[at : at + int(rng.integers(1, 200))]
            data[at:at] = part * int(rng.integers(1, 4))
        elif kind == 6:
            other = corpus[int(rng.integers(len(corpus)))]
            start = int(rng.integers(max(len(other), 1)))
            data[at : at + 100] = other[start : start + 100]
        elif kind == 7:
            data[at : at + 2] = _VRS[int(rng.integers(len(_VRS)))]
        else:
            data[at:at] = bytes(rng.integers(0, 256, int(rng.integers(1, 30)), dtype=np.uint8))
    return bytes(data)


def _short(data: bytes) -> bytes:
    """The start and the end of a file: enough of it to be read, little enough to try often."""
    return data if len(data) <= 6000 else data[:4500] + data[-1500:]


def _tried(path: Path, data: bytes, profile: DeidProfile, keys: SiteKeys, reader: Reader) -> tuple[str, str]:
    """(outcome of the ingest, failure of either way or nothing)"""
    outcome, failure = _outcome(lambda: _ingested(path, data, profile, keys, reader))
    return outcome, failure or _outcome(lambda: _exported(path, len(data), profile, keys))[1]


def _outcome(way: Callable[[], str]) -> tuple[str, str]:
    try:
        return way(), ""
    except DeidError as error:
        told = str(error) + error.hint
        return error.code, "told" if any(word in told for word in _TELLING) else ""
    except Exception as error:
        return "uncaught", type(error).__name__


def _ingested(path: Path, data: bytes, profile: DeidProfile, keys: SiteKeys, reader: Reader) -> str:
    if kind_of(path) != "dicom":
        return "other"
    dataset = read(path, profile.limits, pixels=True)
    with border("malformed", "a header field does not convert"):
        collect(dataset, profile.limits)
        clean_dataset(dataset, profile, keys)
    clean_native(data, profile, keys)
    render(dataset, profile, reader)
    return "clean"


def _exported(path: Path, size: int, profile: DeidProfile, keys: SiteKeys) -> str:
    dataset = read(path, profile.limits, pixels=False)
    with border("malformed", "a header field does not convert"):
        issuer, patient_id = (str(dataset.get(keyword, "") or "") for keyword in ("IssuerOfPatientID", "PatientID"))
    image = RawImage(path, "dicom", "", normal_id(issuer), normal_id(patient_id), twin="f" * (size % 2))
    clean_file(image, profile, keys)
    return "clean"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sim.fuzz_dicom", description="mutated files through the reader")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    asked = parser.parse_args()
    report = fuzz(asked.inputs, asked.seed, seconds=asked.seconds)
    print(f"inputs {report.inputs}  failures {dict(report.failures)}  slowest {report.slowest_s:.2f} s of CPU")
    print(f"peak memory {report.peak_rss_mb} MB  outcomes {dict(report.outcomes.most_common())}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
