import os
import stat
from pathlib import Path

from client.imaging.scratch import private, scratch


def test_a_scratch_folder_is_private_and_goes(tmp_path: Path) -> None:
    with scratch(tmp_path / "spool") as place:
        (place / "deep").mkdir()
        (place / "deep" / "raw").write_bytes(b"patient")
        assert stat.S_IMODE(place.stat().st_mode) == stat.S_IMODE(place.parent.stat().st_mode) == 0o700

    assert not (tmp_path / "spool").exists()


def test_a_private_folder_is_so_all_the_way_that_was_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    try:
        private(tmp_path / "a" / "b" / "c")
        private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)

    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("", "a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o700, 0o700, 0o700]


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    left = tmp_path / "spool/work-dead"
    left.mkdir(parents=True)
    (left / "lock").touch()
    with scratch(tmp_path / "spool") as living, scratch(tmp_path / "spool") as other:
        assert not left.exists() and living.exists() and other.exists()
