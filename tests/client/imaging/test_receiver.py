from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from client.imaging.ingest import IngestCounts, ingest
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receiver import ReportFiles
from client.imaging.store import Store

Make = Callable[..., FileDataset]
HEAD = "accession_number,report\n"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("client.imaging.receiver.time.monotonic", lambda: now[0])
    return now


def test_a_report_file_counts_when_it_has_come_to_rest(tmp_path: Path, clock: list[float]) -> None:
    files = ReportFiles(tmp_path, 60)
    path = tmp_path / "a.csv"
    path.write_text(HEAD)
    first = files.rested()
    clock[0] += 59
    path.write_text(HEAD + "ACC1,FINDINGS: Clear")
    second = files.rested()
    clock[0] += 59
    third = files.rested()
    clock[0] += 1

    assert (first, second, third) == ({}, {}, {}) and list(files.rested()) == [path]


def test_a_file_that_is_written_all_the_time_does_not_hold_up_the_others(tmp_path: Path, clock: list[float]) -> None:
    files = ReportFiles(tmp_path, 60)
    (tmp_path / "day").mkdir()
    (tmp_path / "day" / "a.csv").write_text(HEAD)
    for number in range(4):
        (tmp_path / "b.csv").write_text(HEAD * (number + 1))
        rested = files.rested()
        clock[0] += 30

    assert list(rested) == [tmp_path / "day" / "a.csv"]


def test_a_report_file_that_has_not_come_to_rest_is_not_read(
    tmp_path: Path, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    images, reports = tmp_path / "images", tmp_path / "reports"
    images.mkdir()
    reports.mkdir()
    make_chest(1).save_as(images / "x.dcm", enforce_file_format=True)
    (reports / "a.csv").write_text(HEAD + "ACC0000001,FINDINGS: No pneumo")
    left = list[Path]()

    def look(rested: list[Path]) -> IngestCounts:
        return ingest(
            images, store, profile, keys, workers=0, reports=reports, every_row=False, leftover=left.append,
            rested=rested,
        )  # fmt: skip

    assert look([]).accepted == 0 and len(left) == 1
    assert look([reports / "a.csv"]).accepted == 1
