"""An export goes on with what it began with only: in one folder nobody may be two people."""

from pathlib import Path

import pytest

from client.exports import Beginning, Exports
from federation import canonical
from federation.errors import StoreError

BEGAN = Beginning("a" * 16, "", "b" * 64)


@pytest.fixture
def exports(tmp_path: Path) -> Exports:
    return Exports(tmp_path / "state" / "exports")


def refusal(exports: Exports, target: Path, now: Beginning = BEGAN) -> StoreError:
    with pytest.raises(StoreError) as refused:
        exports.begin(target, now, goes_on=True)
    return refused.value


def test_it_goes_on_with_the_same_by_whatever_name_the_folder_is_called(exports: Exports, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    exports.begin(tmp_path / "out", BEGAN, goes_on=False)
    exports.begin(tmp_path / "link" / ".." / "out", BEGAN, goes_on=True)

    (record,) = (tmp_path / "state" / "exports").iterdir()
    assert record.stat().st_mode & 0o777 == 0o600 and record.parent.stat().st_mode & 0o777 == 0o700
    assert canonical.load(record.read_bytes()) == {"version": "wardround-export/1", **vars(BEGAN)}
    assert list((tmp_path / "out").iterdir()) == [] and "out" not in record.name


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Beginning("c" * 16, "", "b" * 64), "another site secret"),
        (Beginning("a" * 16, "d" * 32, "b" * 64), "other joined records"),
        (Beginning("a" * 16, "", "e" * 64), "other rules"),
    ],
)
def test_with_anything_else_it_does_not_go_on_but_an_empty_folder_begins_anew(
    now: Beginning, said: str, exports: Exports, tmp_path: Path
) -> None:
    exports.begin(tmp_path / "out", BEGAN, goes_on=False)
    refused = refusal(exports, tmp_path / "out", now)
    assert refused.code == "store-mismatch" and said in refused.message and "new folder" in refused.hint

    exports.begin(tmp_path / "out", now, goes_on=False)
    exports.begin(tmp_path / "out", now, goes_on=True)


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"version":"wardround-export/2"}', None])
def test_files_of_which_nothing_says_how_they_were_made_are_not_gone_on_with(
    damage: bytes | None, exports: Exports, tmp_path: Path
) -> None:
    exports.begin(tmp_path / "out", BEGAN, goes_on=False)
    (record,) = (tmp_path / "state" / "exports").iterdir()
    record.unlink() if damage is None else record.write_bytes(damage)

    assert refusal(exports, tmp_path / "out").code == "output-exists"
