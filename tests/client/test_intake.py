"""The data commands as a tired administrator types them: one error and one hint each, and never a patient's value."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom.dataset import FileDataset

from client import signed_record
from client.imaging.attestation import attestation, countable, keep
from client.imaging.profile import DeidProfile
from client.imaging.reasons import REASONS
from client.imaging.store import Store
from federation import canonical
from federation.errors import DeidError
from federation.trust.keys import SigningKey
from sim.wardround import call

Run = Callable[..., tuple[int, str, str]]
Image = Callable[..., FileDataset]


@pytest.fixture(autouse=True)
def right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers need a second to start; test_workers.py has them."""
    for module in ("client.intake", "client.imaging.export"):
        monkeypatch.setattr(f"{module}.cores", lambda: 0)


@pytest.fixture
def source(tmp_path: Path, image: Image) -> Path:
    """Two radiographs with a report each."""
    folder = tmp_path / "Quixano" / "export"
    folder.mkdir(parents=True)
    rows = ["accession_number,report"]
    for number in (1, 2):
        image(number).save_as(folder / f"{number}", enforce_file_format=True)
        rows.append(f"ACC000{number},FINDINGS: Clear lungs.")
    (folder / "reports.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def typed(*words: str | Path) -> tuple[int, str, str]:
        status = call(["site", words[0], *map(str, words[1:]), "--dir", str(site)])  # type: ignore[list-item]
        out, err = capfd.readouterr()
        assert not [word for word in ("Quixano", "MRN", "ACC000", "1.2.3.4", "Traceback") if word in out + err]
        return status, out, err

    return typed


def told(err: str) -> list[str]:
    """The errors and hints of a command's talk: one of each."""
    lines = [line for line in err.splitlines() if line.startswith(("wardround: error", "wardround: hint"))]
    assert len(lines) == 2, err
    return lines


def test_from_a_folder_to_a_released_data_set(run: Run, source: Path, site: Path) -> None:
    status, out, err = run("ingest", source, "--workers", "1")
    assert status == 0 and "accepted     2" in out and "not released" in err
    status, out, _ = run("release", "--json")
    digest = json.loads(out)["data_digest"]
    assert json.loads(out)["release"] is None and json.loads(out)["patients"] == 2
    assert run("release", digest[:12], "--by", "Dr. Panza")[0] == 0
    assert json.loads(run("release", "--json")[1])["release"]["person"] == "Dr. Panza"
    again = json.loads(run("ingest", source, "--json")[1])

    assert (again["accepted"], again["already"], again["data_digest"], again["released"]) == (0, 2, digest, True)
    for path in (site / "store" / "attestations").iterdir():
        found = canonical.load(path.read_bytes())
        assert isinstance(found, dict) and found["data_digest"] == digest
    assert run("release", digest[:12], "--by", "Dr. Panza", "--revoke")[0] == 0
    assert json.loads(run("release", "--json")[1])["release"] is None
    assert not (site / "spool").exists()


def test_a_wrong_digest_or_no_name_releases_nothing(run: Run, source: Path) -> None:
    run("ingest", source)

    status, _, err = run("release", "0" * 64, "--by", "Dr. Panza")
    assert status == 17 and "another data set" in told(err)[0]
    assert run("release", "0" * 64)[0] == 2
    assert json.loads(run("release", "--json")[1])["release"] is None


def test_a_person_takes_examples_out_and_the_release_is_void(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    digest = json.loads(run("release", "--json")[1])["data_digest"]
    run("release", digest, "--by", "Dr. Panza")
    with Store.open(site / "store") as store:
        [example, _] = [one.example_key for patient in store.patients() for one in store.examples(patient)]
    status, out, err = run("hold", example[:8], "--by", "Dr. Panza")
    assert (status, out) == (0, "held 1 example, 1 picture; nothing left of 1 patient\n") and "release is void" in err
    assert "held already" in run("hold", example, "--by", "Dr. Panza")[2]
    again = json.loads(run("ingest", source, "--json")[1])
    assert (again["accepted"], again["quarantined"], again["released"]) == (0, {"leak-found": 1}, False)
    assert run("hold")[1].startswith(f"{example}  leak-found") and "leak-found" in run("quarantine")[1]
    assert json.loads(run("hold", "--json")[1])["held"][0]["example_key"] == example

    assert run("hold", example, "--undo", "--by", "Dr. Panza")[:2] == (0, "forgot 1 example\n")
    assert json.loads(run("ingest", source, "--json")[1])["released"] and "nothing" not in run("hold")[1]
    told = [canonical.load(path.read_bytes()) for path in (site / "store" / "attestations").iterdir()]
    decided = {one["kind"]: one for one in told if isinstance(one, dict) and one["kind"] in ("hold", "unhold")}
    assert decided["hold"]["person"] == decided["unhold"]["person"] == "Dr. Panza"
    assert decided["hold"]["counts"] == {"held": {"leak-found": 1}, "pictures": 1, "patients": 1}
    assert not [path for path in (site / "store" / "attestations").iterdir() if example.encode() in path.read_bytes()]


def test_a_site_with_a_key_signs_its_release_and_its_attestations(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    digest = json.loads(run("release", "--json")[1])["data_digest"]
    run("release", digest, "--by", "Dr. Panza")
    (site / "keys").mkdir()
    key = SigningKey.create(site / "keys" / "identity.key")
    assert json.loads(run("release", "--json")[1])["release"] is None, "what nobody signed is no release any more"

    assert json.loads(run("release", digest, "--by", "Dr. Panza", "--json")[1])["signer"] == key.public.text
    assert json.loads(run("release", "--json")[1])["release"]["signer"] == key.public.text
    run("ingest", source)
    records = [canonical.load(path.read_bytes()) for path in (site / "store" / "attestations").iterdir()]
    assert all(isinstance(one, dict) and signed_record.verifies("attestation", one) for one in records)
    assert {one["signer"] for one in records if isinstance(one, dict)} == {"", key.public.text}
    (site / "keys" / "identity.key").chmod(0o644)
    assert run("ingest", source)[0] == 20


def test_a_whole_device_group_is_held_at_once(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    with Store.open(site / "store") as store:
        example = store.examples(store.patients()[0])[0].example_key
    status, out, _ = run("hold", example, "--group", "--because", "unclear", "--by", "P", "--json")

    assert status == 0 and json.loads(out) == {"examples": 2, "pictures": 2, "patients": 2}
    assert json.loads(run("ingest", source, "--workers", "1", "--json")[1] or "{}") == {}
    assert run("hold", example, "--undo", "--group", "--by", "P")[1] == "forgot 2 examples\n"
    assert json.loads(run("ingest", source, "--json")[1])["accepted"] == 2


@pytest.mark.parametrize(
    ("words", "failed", "said"),
    [
        (("--by", "P"), 2, "say which examples"),
        (("--undo",), 2, "say which examples"),
        (("00000000",), 2, "say who looked"),
        (("00000000", "--by", " "), 2, "say who looked"),
        (("00000000", "--by", "P"), 17, "no example has this key"),
        (("Quixano^Alonso", "--by", "P"), 17, "no example has this key"),
        (("%", "--by", "P"), 17, "no example has this key"),
        (("0" * 33, "--by", "P", "--undo"), 17, "no example has this key"),
        (("00000000", "--by", "a\nb"), 14, "a name that no record can hold"),
        (("00000000", "--by", "P", "--because", "Quixano"), 2, "'--because'"),
    ],
)
def test_a_hold_that_was_typed_wrong(words: tuple[str, ...], failed: int, said: str, run: Run, source: Path) -> None:
    run("ingest", source)
    status, out, err = run("hold", *words)

    assert (status, out) == (failed, "") and said in told(err)[0]


def test_an_example_that_is_not_held_cannot_be_let_back(run: Run, source: Path, site: Path) -> None:
    assert "no store yet" in told(run("hold", "00000000", "--by", "P")[2])[0]
    run("ingest", source)
    with Store.open(site / "store") as store:
        key = store.examples(store.patients()[0])[0].example_key

    assert "none of these examples is held" in told(run("hold", key, "--undo", "--by", "P")[2])[0]


def test_a_file_in_the_place_of_the_attestations_is_told_before_the_work(
    run: Run, source: Path, site: Path, image: Image
) -> None:
    run("ingest", source)
    before = json.loads(run("release", "--json")[1])["data_digest"]
    shutil.rmtree(site / "store" / "attestations")
    (site / "store" / "attestations").touch()
    image(3).save_as(source / "3", enforce_file_format=True)
    with (source / "reports.csv").open("a") as reports:
        reports.write("ACC0003,FINDINGS: Clear lungs.\n")
    (site / "state").mkdir(exist_ok=True)
    (site / "state" / "attestations").touch()

    assert run("ingest", source)[0] == 17
    assert json.loads(run("release", "--json")[1])["data_digest"] == before
    assert run("deidentify", source, site.parent / "clean")[0] == 17 and not (site.parent / "clean").exists()


def test_more_patients_than_the_hospital_declares_are_not_released(
    run: Run, source: Path, site: Path, image: Image
) -> None:
    for number in range(3, 13):
        image(number).save_as(source / f"{number}", enforce_file_format=True)
    with (source / "reports.csv").open("a") as reports:
        reports.writelines(f"ACC000{number},FINDINGS: Clear lungs.\n" for number in range(3, 13))
    run("ingest", source)
    digest = json.loads(run("release", "--json")[1])["data_digest"]
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(settings.replace("= 100", "= 1"))  # and ten above it

    status, _, err = run("release", digest, "--by", "Dr. Panza")
    assert status == 11 and "declared_patients = 1 allows" in told(err)[0]
    assert json.loads(run("release", "--json")[1])["release"] is None
    (site / "site.toml").write_text(settings.replace("= 100", "= 2"))
    assert run("release", digest, "--by", "Dr. Panza")[0] == 0


def test_an_export_is_typed_once_and_typed_again(run: Run, source: Path, tmp_path: Path, site: Path) -> None:
    first = json.loads(run("deidentify", source, tmp_path / "clean", "--json")[1])
    second = json.loads(run("deidentify", source, tmp_path / "clean", "--json")[1])

    assert (first["written"], second["written"], second["already"]) == (2, 0, 2)
    assert len(list((site / "state" / "attestations").iterdir())) >= 1 and not (site / "spool").exists()


def test_a_wrong_folder(run: Run, tmp_path: Path) -> None:
    status, out, err = run("ingest", tmp_path / "Quixano-nowhere")

    assert (status, out) == (19, "") and "there is no such folder" in told(err)[0]


def test_a_folder_without_reports(run: Run, source: Path) -> None:
    (source / "reports.csv").unlink()
    status, _, err = run("ingest", source)

    assert status == 19 and "no report row" in told(err)[0] and "reports" in told(err)[1]


@pytest.mark.parametrize(
    ("command", "closed", "failed", "said"),
    [
        ("deidentify", ("1", "2"), 19, "no image in the folder can be read"),
        ("ingest", (".csv",), 19, "no report row in the folder can be read"),
        ("ingest", ("1", "2"), 13, "not in the folder, or may not be read"),
    ],
)
def test_files_that_may_not_be_read_are_not_said_to_be_absent(
    command: str, closed: tuple[str, ...], failed: int, said: str, run: Run, source: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def opened(path: Path) -> BinaryIO:
        if path.name.endswith(closed):
            raise PermissionError
        return open(path, "rb")

    monkeypatch.setattr("client.imaging.sources.open_file", opened)
    status, _, err = run(command, source, *([tmp_path / "clean"] if command == "deidentify" else []))

    assert status == failed and said in told(err)[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deidentify", "/data/Doe", "/out", "Quixano\x1b[31m\n19500607"), "needs quotes"),
        (("ingest", "/data", "--workers", "Quixano\x1b[31m\n19500607"), "'--workers' (integer range)"),
        (("quixano\x1b[31m\n19500607",), "no such command"),
    ],
)
def test_what_was_typed_wrong_is_not_repeated(words: tuple[str, ...], said: str, run: Run) -> None:
    """An unquoted path is often that of a patient's folder."""
    status, _, err = run(*words)

    assert status == 2 and said in told(err)[0]
    assert len(err.splitlines()) == 2 and not [word for word in ("quixano", "1950", "\x1b") if word in err]


def test_a_path_that_may_not_be_listed_is_no_matter_of_the_command_line(
    run: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line's own check would print the path."""
    monkeypatch.setattr("click.types.os.access", lambda path, mode: "Quixano" not in str(path))

    (tmp_path / "out-Quixano").mkdir()

    assert run("deidentify", source, tmp_path / "out-Quixano")[0] == run("ingest", source)[0] == 0


def test_a_working_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert call(["site", "quarantine"]) == 2 and "working folder is gone" in told(capfd.readouterr().err)[0]


def test_a_place_that_is_no_site(source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call(["site", "ingest", str(source), "--dir", str(tmp_path)]) == 11
    assert "site.toml" in told(capfd.readouterr().err)[0]


def test_a_store_that_another_secret_made(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    (site / "secret").write_bytes(bytes(32))
    status, _, err = run("ingest", source)

    assert status == 17 and "another site secret" in told(err)[0]


def test_a_secret_that_others_can_read_or_that_is_lost(run: Run, source: Path, site: Path) -> None:
    (site / "secret").chmod(0o644)
    assert "open to other users" in told(run("ingest", source)[2])[0]
    (site / "secret").unlink()
    assert "cannot be read" in told(run("ingest", source)[2])[0]


@pytest.mark.parametrize("words", [("--revoke",), ("--by", "Dr. Panza"), ("", "--revoke", "--by", "Dr. Panza")])
def test_a_decision_without_a_data_set_is_none(run: Run, words: tuple[str, ...]) -> None:
    status, out, err = run("release", *words)

    assert (status, out) == (2, "") and "say which data set" in told(err)[0]


def test_a_damaged_record_of_releases_is_told_before_anything_is_stored(run: Run, source: Path, site: Path) -> None:
    (site / "state").mkdir()
    (site / "state" / "releases.jsonl").write_text("x\n")

    assert run("ingest", source)[0] == 17 and not (site / "store").exists()


@pytest.mark.parametrize(
    ("key", "value", "failed", "said"),
    [
        ("store", "a\\u0000", 11, "data.store"),
        ("secret", "\\u0000", 11, "data.secret"),
        ("store", "secret", 17, "file exists"),
        ("store", "secret/x", 17, "not a directory"),
        ("store", "loop", 17, "file exists"),
        ("store", "a" * 300, 17, "file name too long"),
    ],
)
def test_a_folder_of_the_site_that_cannot_be_one(
    key: str, value: str, failed: int, said: str, run: Run, source: Path, site: Path
) -> None:
    (site / "loop").symlink_to("loop")
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(settings.replace(f'{key} = "{key}"', f'{key} = "{value}"'))
    status, _, err = run("ingest", source)

    assert status == failed and said in told(err)[0]
    assert run("release")[0] == (11 if failed == 11 else 17)


@pytest.mark.parametrize("name", ["spool", "state", "store/attestations"])
def test_a_file_in_the_place_of_a_folder(name: str, run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    shutil.rmtree(site / name, ignore_errors=True)
    (site / name).touch()
    status, _, err = run("ingest", source)

    assert status == 17 and ("cannot be used" in told(err)[0] or "is no file" in told(err)[0])


def test_reports_that_are_no_folder(run: Run, site: Path) -> None:
    settings = (site / "site.toml").read_text()
    for name, failed in (("secret", 17), ("\\u0000", 11)):
        (site / "site.toml").write_text(f'{settings}[receive]\ncallers = ["A"]\nreports = "{name}"\n')
        assert run("receive", "--port", "0")[0] == failed


def test_a_full_disk(run: Run, source: Path, site: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    run("quarantine")
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        status, _, err = run("ingest", source)
        exported, _, said = run("deidentify", source, tmp_path / "clean")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert status == exported == 17 and "full" in told(err)[0] and "full" in told(said)[0]
    assert run("ingest", source)[0] in (0, 17)


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_site_of_another_user(run: Run, source: Path, site: Path) -> None:
    site.chmod(0o500)
    status, _, err = run("ingest", source)
    site.chmod(0o700)

    assert status == 17 and "no permission" in told(err)[0]


def test_ctrl_c(run: Run, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("client.intake.ingest", interrupted)
    status, _, err = run("ingest", source)

    assert status == 130 and "same command again" in told(err)[1]


def test_nothing_clean(run: Run, source: Path) -> None:
    (source / "reports.csv").write_text("accession_number,report\nACC0001,\n")
    status, _, err = run("ingest", source)

    assert status == 19 and "proven clean" in told(err)[0]
    status, out, _ = run("quarantine", "--json")
    assert json.loads(out)["reasons"][0]["reason"] == "report-format"
    assert json.loads(run("quarantine", "--minimum", "10", "--json")[1]) == {"reasons": []}


def test_inspecting_or_receiving_nothing(run: Run) -> None:
    assert "no store yet" in told(run("inspect")[2])[0]
    assert "nobody may send yet" in told(run("receive", "--port", "0")[2])[0]


def test_every_reason_for_quarantine_is_explained() -> None:
    assert set(DeidError.codes) <= set(REASONS)


def test_an_attestation_holds_rules_and_counts_and_no_small_count_is_told(tmp_path: Path) -> None:
    profile = DeidProfile.shipped()
    counts = {"accepted": 4120, "quarantined": {"burned-in": 3}}
    text = attestation("ingest", profile, "key", counts, data_digest="ab" * 32, time_utc="2026-01-01T00:00:00Z")
    path = keep(tmp_path / "attestations", text, None)
    found = canonical.load(path.read_bytes())

    assert isinstance(found, dict) and found["table_sha256"] == profile.table_sha256 and found["counts"] == counts
    assert found["versions"]["pydicom"] and path.stat().st_mode & 0o777 == 0o600  # type: ignore[index, call-overload]
    assert countable({"accepted": 4120, "burned-in": 3, "pairing": 10}, 10) == {"accepted": 4120, "pairing": 10}


def test_a_store_that_a_person_opens_is_the_sites_own(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    with Store.open(site / "store") as store:
        assert len(store.patients()) == 2
    assert {path.stat().st_mode & 0o077 for path in site.rglob("*") if path.name not in ("site.toml",)} == {0}
