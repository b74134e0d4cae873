"""The quarantine as a person works in it: look, find in the source, repair, forget. No file's name is ever printed."""

import csv
import json
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.store import Store
from client.quarantine import items
from client.workplace import Workplace
from federation import canonical
from federation.errors import StoreError
from sim.wardround import call

SECRET = bytes(range(32))
Run = Callable[..., tuple[int, str, str]]
Image = Callable[..., FileDataset]


@pytest.fixture(autouse=True)
def right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("client.intake", "client.quarantine"):
        monkeypatch.setattr(f"{module}.cores", lambda: 0)


@pytest.fixture
def source(tmp_path: Path, image: Image) -> Path:
    """One clean radiograph; held back are two rows, a file that no row names, and a zip."""
    folder = tmp_path / "Quixano" / "export"
    folder.mkdir(parents=True)
    image(1).save_as(folder / "Quixano1", enforce_file_format=True)
    image(2, PatientID="").save_as(folder / "Quixano2", enforce_file_format=True)
    (folder / "Quixano3").write_bytes((folder / "Quixano1").read_bytes()[:300])
    (folder / "Quixano4.zip").write_bytes(b"PK\x03\x04 and no more")
    rows = ["path,report", "Quixano1,Clear lungs.", "Quixano2,Clear lungs.", "Quixano1,"]
    (folder / "reports.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path) -> tuple[int, str, str]:
        status = call(["site", *map(str, words), "--dir", str(site)])
        out, err = capfd.readouterr()
        assert not [
            word for word in ("Quixano", "reports.csv", "MRN", "ACC000", "1.2.3.4", "Traceback") if word in out + err
        ]
        return status, out, err

    return typed


def test_an_export_writes_down_what_it_held_back_only_when_asked(run: Run, source: Path, site: Path) -> None:
    target, table = source.parent / "clean", source.parent / "repair.csv"
    counts = json.loads(run("deidentify", source, target, "--workers", "1", "--json")[1])
    assert sum(counts["quarantined"].values()) == 2 and not table.exists()

    status, _, err = run("deidentify", source, target, "--workers", "1", "--held", table)
    assert status == 0 and "the table names files of patients" in err
    header, *lines = csv.reader(table.read_text().splitlines())
    assert header == ["item", "reason", "file", "row"] and table.stat().st_mode & 0o777 == 0o600
    assert {(reason, file) for _, reason, file, _ in lines} == {
        ("truncated", "Quixano3"), ("archive-refused", "Quixano4.zip")
    }  # fmt: skip
    run("ingest", source)
    items_now = {line.split()[0] for line in run("quarantine", "list")[1].splitlines()}
    assert {item for item, *_ in lines} <= items_now

    status, _, err = run("deidentify", source, target, "--held", table)
    assert status == 17 and "there is a file of this name" in told(err)[0]
    for inside in (source, target, site / "store", site / "state"):
        status, _, err = run("deidentify", source, target, "--held", inside / "repair.csv")
        assert status == 19 and "the table would lie in" in told(err)[0] and not (inside / "repair.csv").exists()


def test_an_export_that_ends_with_an_error_or_holds_nothing_leaves_no_table(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = StoreError("disk-full", "the disk of the output is full", hint="free some space")
    table = tmp_path / "repair.csv"
    with monkeypatch.context() as broken:
        broken.setattr("client.imaging.export._exported", lambda *_: full)
        broken.setattr("client.imaging.export.cores", lambda: 0)
        assert run("deidentify", source, tmp_path / "clean", "--held", table)[0] == 17
    assert not table.exists()
    for name in ("Quixano3", "Quixano4.zip"):
        (source / name).unlink()

    status, _, err = run("deidentify", source, tmp_path / "clean", "--workers", "1", "--held", table)
    assert status == 0 and "no table was written" in err and not table.exists()


@pytest.mark.parametrize("inside", ["state", "state/new", "store", "store/images", "spool", "reports"])
def test_an_export_into_the_sites_own_folders_is_refused(inside: str, run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    status, out, err = run("deidentify", source, site / inside)

    assert (status, out) == (19, "") and "one of the site's own" in told(err)[0]
    assert not list(site.rglob("*.dcm")) and not (site / "state/exports").exists() and not (site / "state/new").exists()


def told(err: str) -> list[str]:
    lines = [line for line in err.splitlines() if line.startswith(("wardround: error", "wardround: hint"))]
    assert len(lines) == 2, err
    return lines


def listed(run: Run, *words: str) -> dict[str, dict[str, str]]:
    return {item["reason"]: item for item in json.loads(run("quarantine", "list", "--json", *words)[1])["items"]}


def table(path: Path) -> list[tuple[str, str, str]]:
    with path.open(newline="") as file:
        return [(row["reason"], row["file"], row["row"]) for row in csv.DictReader(file)]


def test_items_are_listed_shown_found_repaired_and_forgotten(
    image: Image, run: Run, source: Path, site: Path, tmp_path: Path
) -> None:
    assert run("ingest", source)[0] == 0
    found = listed(run)
    assert {reason: (item["kind"], item["modality"]) for reason, item in found.items()} == {
        "archive-refused": ("archive", ""), "no-patient-id": ("row", "CR"), "report-format": ("row", ""),
        "truncated": ("file", ""),
    }  # fmt: skip
    assert all(len(item["since"]) == len("2026-01-01T00:00Z") for item in found.values())
    assert list(listed(run, "--reason", "truncated")) == ["truncated"]
    start = found["truncated"]["item"][:6]
    shown = json.loads(run("quarantine", "show", start.upper(), "--json")[1])
    assert shown == found["truncated"] | {"means": "the file ends early", "do": "copy or export it again"}
    counts = run("quarantine")[1]
    assert [line.split()[:2] for line in counts.splitlines()[::2]] == [["1", reason] for reason in sorted(found)]

    status, out, err = run("quarantine", "find", source, tmp_path / "repair.csv")
    assert (
        status == 0
        and out.split() == ["items", "4", "lines", "5", "elsewhere", "0"]
        and "names files of patients" in err
    )
    assert sorted(table(tmp_path / "repair.csv")) == [
        ("archive-refused", "Quixano4.zip", ""), ("no-patient-id", "Quixano2", ""),
        ("no-patient-id", "reports.csv", "3"), ("report-format", "reports.csv", "4"), ("truncated", "Quixano3", ""),
    ]  # fmt: skip
    assert stat.S_IMODE((tmp_path / "repair.csv").stat().st_mode) == 0o600
    assert run("quarantine", "find", source, tmp_path / "one.csv", start)[0] == 0
    assert table(tmp_path / "one.csv") == [("truncated", "Quixano3", "")]

    # Every one in another way: a file that a row names now, a header, a row that is gone, a zip that is whole.
    image(3).save_as(source / "Quixano3", enforce_file_format=True)
    image(2).save_as(source / "Quixano2", enforce_file_format=True)
    (source / "reports.csv").write_text("path,report\nQuixano1,Clear lungs.\nQuixano3,Clear lungs.\nQuixano2,Clear.\n")
    with zipfile.ZipFile(source / "Quixano4.zip", "w") as archive:
        archive.writestr("notes", "hello")
    assert json.loads(run("ingest", source, "--json")[1])["quarantined"] == {}
    assert listed(run) == {} and "no such item" in run("quarantine", "list")[2]
    assert json.loads(run("quarantine", "find", source, tmp_path / "none.csv", "--json")[1])["items"] == 0
    assert not (tmp_path / "none.csv").exists()


def test_discarding_forgets_is_attested_and_touches_no_original(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    before, found = sorted(source.iterdir()), listed(run)
    for wrong in (
        [],
        ["--all"],
        ["--all", "--reason", "truncated", "--by", "Panza"],
        [found["truncated"]["item"], "--all"],
    ):
        assert run("quarantine", "discard", *wrong)[0] == 2

    assert run("quarantine", "discard", found["truncated"]["item"][:8], "--by", "Panza")[1].split()[:2] == [
        "discarded",
        "1",
    ]
    assert run("quarantine", "discard", "--reason", "report-format", "--by", "Panza", "--json")[0] == 0
    assert set(listed(run)) == {"archive-refused", "no-patient-id"}
    assert json.loads(run("quarantine", "discard", "--all", "--by", "Panza", "--json")[1]) == {
        "discarded": {"archive-refused": 1, "no-patient-id": 1}
    }
    kept = [canonical.load(path.read_bytes()) for path in (site / "store/attestations").iterdir()]
    mine = [one for one in kept if isinstance(one, dict) and one["kind"] == "discard"]
    assert sorted(str(one["counts"]) for one in mine)[0] == "{'discarded': {'archive-refused': 1, 'no-patient-id': 1}}"
    assert len(mine) == 3 and {one["person"] for one in mine} == {"Panza"}
    assert sorted(source.iterdir()) == before
    run("ingest", source)
    assert set(listed(run)) == set(found)


def test_what_is_in_no_source_any_more_is_dropped_only_by_an_ingest_of_that_source(
    image: Image, run: Run, source: Path, tmp_path: Path
) -> None:
    run("ingest", source)
    other = tmp_path / "other"
    other.mkdir()
    image(9).save_as(other / "a", enforce_file_format=True)
    (other / "r.csv").write_text("path,report\na,Clear lungs.\n")
    run("ingest", other)
    assert len(listed(run)) == 4
    (source / "Quixano2").unlink()
    (source / "Quixano3").unlink()
    (source / "Quixano4.zip").unlink()
    (source / "reports.csv").rename(source / "renamed.csv")
    (source / "renamed.csv").write_text("path,report\nQuixano1,Clear lungs.\n")

    assert run("ingest", source)[0] == 0
    assert listed(run) == {}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("{source}/x.csv", "would lie in"), ("{site}/store/x.csv", "would lie in"),
        ("{source}/reports.csv", "file of this"),
        ("{site}/nowhere/x.csv", "no folder"), ("{site}/link", "file of this"), ("{site}/spool/x.csv", "no folder"),
        ("{site}/reports/x.csv", "would lie in"),
    ],
)  # fmt: skip
def test_the_table_of_names_is_written_only_where_it_may_be(
    where: str, said: str, run: Run, source: Path, site: Path
) -> None:
    run("ingest", source)
    (site / "link").symlink_to(site / "elsewhere")
    (site / "reports").mkdir()
    there = sorted(path for path in site.parent.rglob("*") if path.suffix == ".csv")

    status, _, err = run("quarantine", "find", source, where.format(source=source, site=site))
    assert status in (17, 19) and said in told(err)[0]
    assert sorted(path for path in site.parent.rglob("*") if path.suffix == ".csv") == there
    assert not (site / "elsewhere").exists() and not list(site.glob("spool/work-*"))


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("show", "Quixano"), 19), (("show", "abc"), 19), (("show", "f" * 16), 19), (("show",), 2), (("foo",), 2),
        (("list", "--reason", "Quixano"), 19), (("discard", "abcdef", "--by", "P"), 19), (("find",), 2),
        (("discard", "--all", "--by", "P" * 101), 14), (("find", "/nowhere/Quixano", "x.csv"), 19),
    ],
)  # fmt: skip
def test_what_was_typed_wrong_is_one_error_and_one_hint(
    words: tuple[str, ...], status: int, run: Run, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = DeidProfile.shipped()
    Store.create(site / "store", profile_digest=profile.digest, key_id=SiteKeys.from_secret(SECRET).key_id).close()
    monkeypatch.chdir(site)
    found, _, err = run("quarantine", *words)
    assert found == status
    told(err)


def test_a_cut_id_of_two_items_is_not_taken_for_one_of_them(run: Run, site: Path) -> None:
    keys = SiteKeys.from_secret(SECRET)
    with Store.create(site / "store", profile_digest=DeidProfile.shipped().digest, key_id=keys.key_id) as store:
        store.hold("abcdef" + "0" * 10, "truncated")
        store.hold("abcdef" + "1" * 10, "truncated")

    status, _, err = run("quarantine", "show", "abcdef")
    assert status == 19 and "more than one" in told(err)[0]
    assert run("quarantine", "show", "abcdef0")[0] == 0


def test_a_long_list_comes_in_pages_and_stops_when_nobody_reads_on(
    site: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = SiteKeys.from_secret(SECRET)
    with Store.create(site / "store", profile_digest=DeidProfile.shipped().digest, key_id=keys.key_id) as store:
        with store.batch():
            for number in range(2500):
                store.hold(f"{number:016x}", "truncated", kind="file")
    assert [int(item["item"], 16) for item in items(Workplace.open(site), reason="")] == list(range(2500))

    keep, (read, write) = os.dup(1), os.pipe()
    os.close(read)
    os.dup2(write, 1)
    try:
        status = call(["site", "quarantine", "list", "--dir", str(site)])
    finally:
        os.dup2(keep, 1)
    assert status == 0 and "error" not in capfd.readouterr().err


def test_options_may_stand_before_the_command(
    run: Run, site: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("ingest", source)

    assert call(["site", "quarantine", "--dir", str(site), "--json", "list"]) == 0
    assert len(json.loads(capfd.readouterr().out)["items"]) == 4
