import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.spool import Spool
from federation.errors import DeidError, StoreError

Make = Callable[..., FileDataset]


@pytest.fixture
def make(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Callable[[], Spool]:
    return lambda: Spool(tmp_path / "spool", profile.limits, keys)


def bring(spool: Spool, dataset: FileDataset, *, age_s: float = 0.0) -> None:
    part = spool.parts / "part.dcm"
    dataset.save_as(part, enforce_file_format=True)
    before = part.stat().st_mtime - age_s
    os.utime(part, (before, before))
    spool.accept(part)


@pytest.mark.parametrize("left", [False, True], ids=["new", "of an earlier version"])
def test_every_folder_is_private(make: Callable[[], Spool], make_chest: Make, tmp_path: Path, left: bool) -> None:
    if left:
        (tmp_path / "spool" / "received").mkdir(parents=True)
    before = os.umask(0o022)
    try:
        bring(make(), make_chest(1))
    finally:
        os.umask(before)
    folders = [tmp_path / "spool", *filter(Path.is_dir, (tmp_path / "spool").rglob("*"))]

    assert len(folders) == 7 and {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_a_study_rests_before_it_is_ingested(make: Callable[[], Spool], make_chest: Make) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=100)
    bring(spool, make_chest(2))
    now = next(path for path in spool.files()).stat().st_mtime

    assert spool.begin(max(path.stat().st_mtime for path in spool.files()) + 1, quiet_s=60, again=False) == 1
    spool.end([])
    assert len(list(spool.files())) == 1 and now


def test_what_waits_for_its_report_is_tried_again_and_goes_after_some_days(
    make: Callable[[], Spool], make_chest: Make
) -> None:
    spool = make()
    bring(spool, make_chest(1))
    [path] = spool.files()
    came = path.stat().st_mtime
    spool.begin(came + 61, quiet_s=60, again=False)
    spool.end(list(spool.batch.rglob("*.dcm")))
    assert spool.begin(came + 61, quiet_s=60, again=False) == 0
    assert spool.begin(came + 61, quiet_s=60, again=True) == 1
    spool.end(list(spool.batch.rglob("*.dcm")))

    assert spool.expire(came + 100, keep_s=1000) == 0 and len(list(spool.files())) == 1
    assert spool.expire(came + 2000, keep_s=1000) == 1 and list(spool.files()) == []


def test_what_waits_since_the_future_waits_since_now(make: Callable[[], Spool], make_chest: Make) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=-1_000_000)
    [path] = spool.files()
    ahead = path.stat().st_mtime
    spool.begin(ahead + 61, quiet_s=60, again=False)
    spool.end(list(spool.batch.rglob("*.dcm")))
    now = ahead - 1_000_000

    assert spool.expire(now, keep_s=1000) == 0
    assert spool.expire(now + 1001, keep_s=1000) == 1


def test_a_receiver_that_was_killed_in_an_ingest_takes_it_up_again(make: Callable[[], Spool], make_chest: Make) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=100)
    bring(spool, make_chest(2), age_s=100)
    spool.begin(max(path.stat().st_mtime for path in spool.files()) + 99, quiet_s=60, again=False)
    (spool.parts / "half").write_bytes(b"raw")
    spool.close()
    again = make()

    assert len(list(again.files())) == 2 and list(again.batch.iterdir()) == []


def test_what_is_no_object_is_refused_and_removed(make: Callable[[], Spool]) -> None:
    spool = make()
    part = spool.parts / "x"
    part.write_bytes(b"Quixano^Alonso")
    with pytest.raises(DeidError):
        spool.accept(part)
    assert list(spool.files()) == []


def test_a_second_receiver_is_refused_and_touches_nothing(make: Callable[[], Spool], make_chest: Make) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=100)
    spool.begin(max(path.stat().st_mtime for path in spool.files()) + 99, quiet_s=60, again=False)
    (spool.parts / "half").write_bytes(b"raw")
    with pytest.raises(StoreError) as refused:
        make()

    assert refused.value.code == "store-busy"
    assert len(list(spool.files())) == 2 and len(list(spool.batch.iterdir())) == 1


def test_only_what_was_begun_is_removed(make: Callable[[], Spool], make_chest: Make) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=100)
    spool.begin(max(path.stat().st_mtime for path in spool.files()) + 99, quiet_s=60, again=False)
    (spool.batch / "later").mkdir()
    spool.end([])

    assert [study.name for study in spool.batch.iterdir()] == ["later"]


def test_an_object_that_came_while_the_clock_was_ahead_rests_from_now_on(
    make: Callable[[], Spool], make_chest: Make
) -> None:
    spool = make()
    bring(spool, make_chest(1), age_s=-30 * 86_400)
    now = next(path for path in spool.files()).stat().st_mtime - 30 * 86_400

    assert spool.begin(now, quiet_s=60, again=False) == 0
    assert spool.begin(now + 60, quiet_s=60, again=False) == 1
