import errno
import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from client.imaging import sources
from client.imaging.profile import DeidProfile
from client.imaging.sources import Source, unpacked
from federation.errors import DataError, DeidError

LIMITS = DeidProfile.shipped().limits


def packed(*members: tuple[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def refused(archive: bytes, tmp_path: Path) -> str:
    path = tmp_path / "a.zip"
    path.write_bytes(archive)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DeidError) as caught:
        unpacked(path, tmp_path / "out", LIMITS)
    assert sorted(tmp_path.rglob("*")) == before, "a refused archive left something behind"
    return caught.value.code


def test_a_zip_is_read_like_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    inner = packed(("deep/b", b"two"))
    (tmp_path / "site/x.zip").write_bytes(packed(("a", b"one"), ("in.zip", inner)))
    (tmp_path / "site/c").write_bytes(b"three")
    source = Source(tmp_path / "site", LIMITS, tmp_path / "scratch")
    names = list(source.names())

    assert names == ["c", "x.zip/a", "x.zip/in.zip/deep/b"]
    assert [source.at(name).read_bytes() for name in names] == [b"three", b"one", b"two"]
    assert list(source.names()) == names and source.refused == {}
    assert stat.S_IMODE(source.at("x.zip/a").stat().st_mode) == 0o600


def test_a_zip_may_be_the_source_itself(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(packed(("folder/a", b"one")))

    assert list(Source(tmp_path / "x.zip", LIMITS, tmp_path / "scratch").names()) == ["folder/a"]


def test_the_source_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(packed(("folder/a", b"one")))
    (tmp_path / "link").symlink_to(tmp_path / "x.zip")

    assert list(Source(tmp_path / "link", LIMITS, tmp_path / "scratch").names()) == ["folder/a"]


def test_archives_are_nested_at_most_twice(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/x").write_bytes(packed(("y", packed(("z", packed(("a", b"one")))))))
    source = Source(tmp_path / "site", LIMITS, tmp_path / "scratch")

    assert list(source.names()) == [] and source.refused == {"limit-nesting": 1}


@pytest.mark.parametrize(
    "name",
    [
        "../a", "/etc/a", "a/../../b", "..", "./../a", "a\\..\\b", "\\a", "\\\\host\\a", "C:a", "C:\\a", ".", "a\x01b",
        "n" * 300, "d/" * 60 + "a", "/".join(["d" * 250] * 20) + "/a", "./good",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_refuses_the_archive(name: str, tmp_path: Path) -> None:
    assert refused(packed(("good", b"one"), (name, b"two")), tmp_path) == "archive-refused"


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_file_and_a_folder_of_one_name_refuse_the_archive_and_no_more(names: tuple[str, str], tmp_path: Path) -> None:
    archive = packed(*((name, b"one") for name in names))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/x.zip").write_bytes(archive)
    (tmp_path / "site/y").write_bytes(b"two")
    source = Source(tmp_path / "site", LIMITS, tmp_path / "scratch")

    assert list(source.names()) == ["y"] and source.refused == {"archive-refused": 1}
    assert refused(archive, tmp_path) == "archive-refused"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("./a.dcm", "a.dcm"), ("x//a.dcm", "x/a.dcm"), ("2024-01-01 10:30/a.dcm", "2024-01-01 10:30/a.dcm"),
        ("export\\1\\a.dcm", "export/1/a.dcm"),
    ],
)  # fmt: skip
def test_names_that_real_packers_write_are_taken(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(packed(("export\\", b""), (name, b"one")))
    source = Source(tmp_path / "x.zip", LIMITS, tmp_path / "scratch")

    assert list(source.names()) == [found] and source.at(found).read_bytes() == b"one"


def test_a_full_disk_is_not_the_archives_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_extract", full)
    (tmp_path / "x.zip").write_bytes(packed(("a", b"one")))

    with pytest.raises(OSError, match="No space"):
        unpacked(tmp_path / "x.zip", tmp_path / "out", LIMITS)


def test_a_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    assert refused(packed(("zeros", bytes(30 * 2**20))), tmp_path) == "limit-size"


def test_links_and_devices_in_an_archive_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(packed(("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777))

    assert list(Source(tmp_path / "x.zip", LIMITS, tmp_path / "scratch").names()) == []
    assert refused(packed(("pipe", b""), mode=stat.S_IFIFO | 0o600), tmp_path) == "archive-refused"


def test_a_name_that_stands_twice_and_a_damaged_archive_are_refused(tmp_path: Path) -> None:
    good = packed(("a", b"one" * 50))
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = packed(("a", b"one"), ("a", b"two"))

    assert refused(twice, tmp_path) == "archive-refused"
    assert refused(good[:-8], tmp_path) == "archive-refused"
    assert refused(good.replace(good[31:40], bytes(9)), tmp_path) == "archive-refused"


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    data = bytearray(packed(("a", b"one")))
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1

    assert refused(bytes(data), tmp_path) == "archive-refused"


@pytest.mark.parametrize("kind", ["absent", "text", "pipe", "loop"])
def test_a_wrong_path_is_told_apart(kind: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(DataError) as caught:
        Source(tmp_path / kind, LIMITS, tmp_path / "scratch")
    assert caught.value.code == "folder-absent"


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_what_may_not_be_read_is_counted(tmp_path: Path) -> None:
    (tmp_path / "site/closed").mkdir(parents=True)
    (tmp_path / "site/closed").chmod(0)
    source = Source(tmp_path / "site", LIMITS, tmp_path / "scratch")
    names = list(source.names())
    (tmp_path / "site/closed").chmod(0o700)

    assert names == [] and source.refused == {"unreadable": 1}
