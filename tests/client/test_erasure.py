"""Withdrawing a patient, as a tired administrator types it: nothing of them is left, nothing is repeated, nobody comes
back."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset

from client import erasure
from client.erasure import erase
from client.imaging.ingest import _cleaned
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.spool import Spool
from client.imaging.store import Store
from client.withdrawals import Withdrawal
from client.workplace import Workplace
from federation import canonical
from federation.errors import StoreError
from federation.terminal import Talk
from sim.wardround import call

KEYS = SiteKeys.from_secret(bytes(range(32)))
Run = Callable[..., tuple[int, str, str]]
Image = Callable[..., FileDataset]


@pytest.fixture(autouse=True)
def right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("client.intake", "client.imaging.export"):
        monkeypatch.setattr(f"{module}.cores", lambda: 0)


@pytest.fixture
def source(tmp_path: Path, image: Image) -> Path:
    """Two patients with a radiograph and a report each."""
    folder = tmp_path / "Quixano"
    folder.mkdir()
    for number in (1, 2):
        image(number).save_as(folder / f"{number}", enforce_file_format=True)
    (folder / "r.csv").write_text("path,report\n1,Clear lungs.\n2,Clear lungs.\n")
    return folder


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def typed(*words: str | Path, ids: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ids)))
        status = call(["site", *map(str, words), "--dir", str(site)])
        out, err = capfd.readouterr()
        assert not [word for word in ("Quixano", "MRN", "ACC000", "1.2.3.4", "Traceback") if word in out + err]
        assert KEYS.patient_key("", "MRN-1") not in out + err
        return status, out, err

    return typed


def told(err: str) -> list[str]:
    lines = [line for line in err.splitlines() if line.startswith(("wardround: error", "wardround: hint"))]
    assert len(lines) == 2, err
    return lines


def pictures(site: Path) -> int:
    return sum(path.suffix == ".png" for path in (site / "store").rglob("*"))


def test_nothing_of_a_patient_is_left_and_no_command_brings_them_back(
    run: Run, source: Path, site: Path, tmp_path: Path
) -> None:
    digest = json.loads(run("ingest", source, "--json")[1])["data_digest"]
    run("release", digest, "--by", "Dr. Panza")
    status, out, err = run("erase", "--by", "Dr. Panza", ids=b"\xef\xbb\xbf mrn-1 \r\n\r\n")
    assert (status, out) == (0, "erased 1 patient, 1 example\n") and "no release" in err
    assert json.loads(run("release", "--json")[1]) | {"release": None} == json.loads(run("release", "--json")[1])
    assert pictures(site) == 1
    key = KEYS.patient_key("", "MRN-1").encode()
    assert not [path for path in (site / "store").rglob("*") if path.is_file() and key in path.read_bytes()]
    (record,) = (site / "state/withdrawn.jsonl").read_bytes().splitlines()
    line = canonical.load(record)
    assert isinstance(line, dict) and (line["person"], line["key_id"]) == ("Dr. Panza", KEYS.key_id)
    kept = [canonical.load(path.read_bytes()) for path in (site / "store/attestations").iterdir()]
    (mine,) = [one for one in kept if isinstance(one, dict) and one["kind"] == "erase"]
    assert mine["person"] == "Dr. Panza" and isinstance(mine["counts"], dict) and mine["counts"]["examples"] == 1

    again = json.loads(run("ingest", source, "--json")[1])
    assert (again["accepted"], again["already"], again["quarantined"]) == (0, 1, {"withdrawn": 1})
    exported = json.loads(run("deidentify", source, tmp_path / "clean", "--json")[1])
    assert (exported["written"], exported["quarantined"]) == (1, {"withdrawn": 1})
    shutil.rmtree(site / "store")
    assert json.loads(run("ingest", source, "--json")[1])["quarantined"] == {"withdrawn": 1}  # in a new store, too
    assert run("erase", "--by", "Dr. Panza", ids=b"MRN-1\n")[:2] == (0, "erased 0 patients, 0 examples\n")


def test_a_withdrawal_is_taken_back(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    assert run("erase", "--by", "Panza", ids=b"MRN-1\nMRN-2\nMRN-1\n")[1] == "erased 2 patients, 2 examples\n"
    status, out, err = run("erase", "--undo", "--by", "Panza", ids=b"MRN-1\n")
    assert (status, out) == (0, "took back 1 withdrawal\n") and "ingest their images again" in err
    assert json.loads(run("ingest", source, "--json")[1])["accepted"] == 1
    status, _, err = run("erase", "--undo", "--by", "Panza", ids=b"MRN-1\n")
    assert status == 19 and "nobody who is withdrawn" in told(err)[0]

    assert json.loads(run("quarantine", "--json")[1])["reasons"][0]["reason"] == "withdrawn"
    run("erase", "--undo", "--by", "Panza", ids=b"MRN-2\n")
    run("ingest", source)
    assert json.loads(run("quarantine", "--json")[1])["reasons"] == []


def test_a_patient_is_named_by_the_pseudonym_that_the_page_shows(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    key = KEYS.patient_key("", "MRN-2")

    assert json.loads(run("erase", "--key", key[:12] + "…", "--by", "Panza", "--json")[1]) == {
        "patients": 1, "examples": 1, "received": 0, "unknown": 0,
    }  # fmt: skip
    assert run("erase", "--key", key[:12], "--by", "Panza")[0] == 0  # a second time it is known from the record
    assert run("erase", "--undo", "--key", key[:14], "--by", "Panza")[0] == 0
    for wrong in ("f" * 12, "abc", "Quixano", "Z" * 32):
        status, _, err = run("erase", "--key", wrong, "--by", "Panza")
        assert status == 19 and "nothing was erased" in told(err)[1]


def test_an_id_that_nobody_has_is_told_and_stays_out_all_the_same(run: Run, source: Path, site: Path) -> None:
    status, out, err = run("erase", "--by", "Panza", ids=b"MRN-1\n")  # before there is a store
    assert (status, out) == (19, "erased 0 patients, 0 examples\n") and "1 id was of nobody" in told(err)[0]
    assert json.loads(run("ingest", source, "--json")[1])["quarantined"] == {"withdrawn": 1}
    status, out, err = run("erase", "--by", "Panza", "--issuer", "NORTH", ids=b"MRN-2\nMRN-7\n")
    assert status == 19 and "2 ids were of nobody" in told(err)[0] and "--issuer" in told(err)[1]


def test_an_issuer_belongs_to_the_id(image: Image, run: Run, source: Path) -> None:
    image(1, IssuerOfPatientID="NORTH").save_as(source / "1", enforce_file_format=True)
    run("ingest", source)

    assert run("erase", "--by", "Panza", "--issuer", "north", ids=b"MRN-1\n")[1] == "erased 1 patient, 1 example\n"


@pytest.mark.parametrize(
    ("ids", "said"),
    [(b"", "no patient id"), (b" \n\n", "no patient id"), (b"MRN-1\n\xff\n", "line 2"), (b"M" * 300, "line 1")],
)
def test_what_is_no_list_of_ids_erases_nothing(ids: bytes, said: str, run: Run, site: Path) -> None:
    status, _, err = run("erase", "--by", "Panza", ids=ids)

    assert status == 19 and said in told(err)[0] and not (site / "state").exists()
    assert run("erase", ids=b"MRN-1\n")[0] == 2
    assert run("erase", "--by", "P" * 101, ids=b"MRN-1\n")[0] == 14


def test_a_kill_between_the_record_and_the_erasing_is_completed_by_the_same_command(
    run: Run, source: Path, site: Path
) -> None:
    run("ingest", source)
    killed = (
        "import os, signal\nfrom client.imaging.store import Store\nfrom sim.wardround import call\n"
        "Store.erase = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"call(['site', 'erase', '--by', 'Panza', '--dir', {str(site)!r}])"
    )
    died = subprocess.run(
        [sys.executable, "-c", killed],
        input=b"MRN-1\n",
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert died.returncode == -signal.SIGKILL and pictures(site) == 2
    digest = Workplace.open(site).open_store().digest()
    assert "nothing trains on it" in run("release")[2]
    assert "withdrawn are still in the store" in told(run("release", digest, "--by", "Panza")[2])[0]
    (store,) = [line for line in run("doctor")[1].splitlines() if " store " in line]
    assert store.startswith("fix") and "withdrawn are still in it" in store

    status, out, _ = run("erase", "--by", "Panza", ids=b"MRN-1\n")
    assert (status, out, pictures(site)) == (0, "erased 1 patient, 1 example\n", 1)
    assert len((site / "state/withdrawn.jsonl").read_bytes().splitlines()) == 1


def test_an_ingest_finishes_the_erasing_that_a_kill_interrupted(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    Workplace.open(site).withdrawals().append(
        [Withdrawal("withdraw", KEYS.patient_key("", "MRN-1"), KEYS.key_id, "Panza", "2026-01-02T00:00:00Z")]
    )

    again = json.loads(run("ingest", source, "--json")[1])
    assert (again["accepted"], again["erased"], again["quarantined"]) == (0, 1, {"withdrawn": 1})
    assert pictures(site) == 1
    assert run("erase", "--by", "Panza", ids=b"MRN-1\n")[:2] == (0, "erased 0 patients, 0 examples\n")


@pytest.mark.parametrize("at", [1, 2], ids=["before the first is stored", "after it was stored"])
@pytest.mark.parametrize("commit_every", [1, 256])
def test_whoever_is_withdrawn_while_an_ingest_writes_is_not_in_the_store_at_its_end(
    at: int, commit_every: int, run: Run, source: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.store._LOCK_TRIES", 2)
    monkeypatch.setattr("client.imaging.ingest._COMMIT_EVERY", commit_every)
    seen, refused = [], list[StoreError]()

    def cleaned(*given: object) -> object:
        seen.append(given)
        if len(seen) == at:
            with pytest.raises(StoreError) as error:
                erase(Workplace.open(site), ["MRN-1"], [], Talk(), person="Panza", issuer="")
            refused.append(error.value)
        return _cleaned(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("client.imaging.ingest._cleaned", cleaned)
    counts = json.loads(run("ingest", source, "--json")[1])
    assert (refused[0].code, refused[0].message[:28]) == ("store-busy", "recorded, but not erased yet")
    assert (counts["accepted"], counts["erased"], counts["quarantined"]) == (
        (1, 0, {"withdrawn": 1}) if at == 1 else (2, 1, {})
    )
    with Store.open(site / "store") as store:
        assert store.patients() == [KEYS.patient_key("", "MRN-2")] and pictures(site) == 1
    key = KEYS.patient_key("", "MRN-1").encode()
    assert not [path for path in (site / "store").rglob("*") if path.is_file() and key in path.read_bytes()]
    assert run("release", counts["data_digest"], "--by", "Panza")[0] == 0
    assert run("erase", "--by", "Panza", ids=b"MRN-1\n")[:2] == (0, "erased 0 patients, 0 examples\n")


def test_one_who_is_withdrawn_at_the_last_moment_of_an_ingest_is_erased_after_it(
    run: Run, source: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record came after the ingest's last look under its lock, and the erasing has given up waiting."""
    batch = Store.batch

    @contextmanager
    def slow(store: Store) -> Iterator[None]:
        outermost = store._lock is None
        with batch(store):
            yield
            if outermost and store.count() == 2 and not (site / "state/withdrawn.jsonl").exists():
                monkeypatch.setattr("client.imaging.store._LOCK_TRIES", 2)
                with pytest.raises(StoreError):
                    erase(Workplace.open(site), ["MRN-1"], [], Talk(), person="Panza", issuer="")

    monkeypatch.setattr(Store, "batch", slow)
    counts = json.loads(run("ingest", source, "--json")[1])

    assert (counts["accepted"], counts["erased"], pictures(site)) == (2, 1, 1)


def test_an_erasing_that_waited_for_an_ingest_does_not_call_its_patients_mistyped(
    run: Run, source: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingest began after the command had looked, and ended while it waited for the lock."""
    (site / "empty").mkdir()
    run("ingest", site / "empty")
    keep = erasure._record

    def late(*given: object) -> None:
        monkeypatch.setattr("client.erasure._record", keep)
        run("ingest", source)
        keep(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("client.erasure._record", late)
    assert run("erase", "--by", "Panza", ids=b"MRN-1\n")[:2] == (0, "erased 1 patient, 1 example\n")
    assert pictures(site) == 1

    monkeypatch.setattr("client.erasure._record", late)
    (source / "1").rename(source / "3")
    (source / "r.csv").write_text("path,report\n2,Clear lungs, now.\n")
    status, out, err = run("erase", "--by", "Panza", ids=b"MRN-7\n")
    assert (status, out) == (0, "erased 0 patients, 0 examples\n") and "mistyped cannot be told" in err


def test_a_damaged_record_stops_every_way_in(run: Run, source: Path, site: Path, tmp_path: Path) -> None:
    run("erase", "--by", "Panza", ids=b"MRN-1\n")
    (site / "state/withdrawn.jsonl").write_bytes(b"")

    for words in (("ingest", source), ("deidentify", source, tmp_path / "clean"), ("erase", "--by", "Panza")):
        status, _, err = run(*words, ids=b"MRN-1\n")
        assert status == 17 and "record of withdrawals" in told(err)[0]
    assert not (site / "store").exists() and not (tmp_path / "clean").exists()


def test_another_secret_is_told_and_erases_nothing(run: Run, source: Path, site: Path) -> None:
    run("ingest", source)
    run("erase", "--by", "Panza", ids=b"MRN-1\n")
    (site / "secret").write_bytes(bytes(32))

    status, _, err = run("erase", "--by", "Panza", ids=b"MRN-2\n")
    assert status == 17 and "another site secret" in told(err)[0] and pictures(site) == 1
    assert "1 withdrawn under another secret cannot be recognised" in run("ingest", source)[2]


def test_a_store_that_is_written_to_is_waited_for_and_the_record_is_there_already(
    run: Run, source: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("ingest", source)
    monkeypatch.setattr("client.imaging.store._LOCK_TRIES", 2)
    with Store.open(site / "store") as store, store.batch():
        status, _, err = run("erase", "--by", "Panza", ids=b"MRN-1\n")
        assert status == 17 and "recorded, but not erased yet: another process" in told(err)[0]
        assert Workplace.open(site).withdrawals().patients(KEYS.key_id) == {KEYS.patient_key("", "MRN-1")}

    assert run("erase", "--by", "Panza", ids=b"MRN-1\n")[1] == "erased 1 patient, 1 example\n"


def test_what_waits_in_the_spool_goes_at_once_or_at_the_receivers_next_look(image: Image, run: Run, site: Path) -> None:
    profile = DeidProfile.shipped()
    spool = Spool(site / "spool", profile.limits, KEYS)
    for number in (1, 2, 3):
        image(number).save_as(spool.parts / f"{number}", enforce_file_format=True)
        spool.accept(spool.parts / f"{number}")
    status, out, err = run("erase", "--by", "Panza", ids=b"MRN-1\n")  # a receiver has the spool
    assert status == 19 and "next look" in err and len(list(spool.files())) == 3
    spool.close()

    status, _, err = run("erase", "--by", "Panza", ids=b"MRN-2\n")
    assert status == 0 and "1 received object of theirs" in err
    assert not [path for path in (site / "spool").rglob("*.dcm") if b"MRN-2" in path.read_bytes()]
    assert len(list((site / "spool").rglob("*.dcm"))) == 2 and not list((site / "spool").glob("work-*"))


def test_ids_that_are_typed_are_not_shown(site: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sim.wardround", "site", "erase", "--by", "Panza", "--dir", str(site)],
        stdin=child, stdout=child, stderr=child, cwd=Path(__file__).parents[2], start_new_session=True,
    )  # fmt: skip
    os.close(child)
    shown = b""

    def read() -> None:
        nonlocal shown
        try:
            while data := os.read(parent, 4096):
                shown += data
        except OSError:
            return

    reader = threading.Thread(target=read)
    reader.start()
    for number, typed in enumerate((b"MRN-1\n", b"\n"), 1):
        while shown.count(b"patient id, not shown") < number and process.poll() is None:
            time.sleep(0.05)
        os.write(parent, typed)
    assert process.wait(60) == 19
    reader.join(10)
    os.close(parent)
    assert b"erased 0 patients" in shown and b"MRN" not in shown


def test_a_person_is_withdrawn_under_every_id_of_joined_records(run: Run, source: Path, site: Path) -> None:
    """Withdrawn before the records were joined, by the older id; and after it, by the one of now."""
    assert run("erase", "--by", "Dr. Panza", ids=b"MRN-1\n")[0] == 19  # of nobody yet, and recorded all the same
    run("ingest", source)
    (site / "patients.csv").write_text("old_id,current_id\nMRN-1,MRN-7\nMRN-2,MRN-8\n")
    settings = (site / "site.toml").read_text()
    (site / "site.toml").write_text(settings.replace("[policy]", 'patients = "patients.csv"\n[policy]'))

    status, out, _ = run("erase", "--by", "Dr. Panza", ids=b"MRN-8\n")
    assert (status, out) == (0, "erased 1 patient, 1 example\n") and pictures(site) == 0
    status, out, _ = run("ingest", source, "--json")
    assert json.loads(out or "{}").get("accepted", 0) == 0 and pictures(site) == 0
    assert json.loads(run("quarantine", "--json")[1])["reasons"][0]["reason"] == "withdrawn"
    assert run("erase", "--undo", "--by", "Dr. Panza", ids=b"MRN-8\n")[1] == "took back 1 withdrawal\n"
    assert json.loads(run("ingest", source, "--json")[1])["accepted"] == 1
