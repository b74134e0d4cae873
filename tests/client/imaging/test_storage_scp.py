"""A real sender against a real provider, over loopback."""

import fcntl
import os
import resource
import socket
import stat
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import spawn
from pathlib import Path

import pytest
from pydicom.dataset import FileDataset
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    Verification,
)

from client.imaging.ingest import IngestCounts
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.receiver import _PASSING, receive
from client.imaging.spool import Spool
from client.imaging.storage_scp import Door, Provider, provider
from client.imaging.store import Store
from federation.errors import DataError

Make = Callable[..., FileDataset]
DOOR = Door(0, ("PACS1",))


@pytest.fixture
def spool(tmp_path: Path, profile: DeidProfile, keys: SiteKeys) -> Spool:
    return Spool(tmp_path / "spool", profile.limits, keys)


@pytest.fixture
def running(spool: Spool, profile: DeidProfile) -> Iterator[Provider]:
    with provider(DOOR, spool, profile) as running:
        yield running


def sender(port: int, *, title: str = "PACS1", called: str = "WARDROUND", syntax: object = None):  # type: ignore[no-untyped-def]
    ae = AE(ae_title=title)
    ae.add_requested_context(Verification)
    ae.add_requested_context(ComputedRadiographyImageStorage)
    ae.add_requested_context(BasicTextSRStorage)
    return ae.associate("127.0.0.1", port, ae_title=called)


def raw(spool: Spool) -> list[Path]:
    return sorted(spool.files())


def test_a_listed_caller_may_ask_and_send(running: Provider, spool: Spool, make_chest: Make) -> None:
    association = sender(running.port)
    echo, stored = association.send_c_echo().Status, association.send_c_store(make_chest(1)).Status
    association.release()

    assert (echo, stored, running.accepted) == (0x0000, 0x0000, 1)
    [path] = raw(spool)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "1.2.3" not in str(path.relative_to(path.parents[3])) and path.read_bytes()[128:132] == b"DICM"


@pytest.mark.parametrize(("title", "called"), [("NOBODY", "WARDROUND"), ("PACS1", "OTHER")])
def test_strangers_are_turned_away(running: Provider, title: str, called: str) -> None:
    association = sender(running.port, title=title, called=called)

    assert association.is_rejected and not association.is_established


def test_a_structured_report_is_refused_at_the_door(running: Provider) -> None:
    association = sender(running.port)
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    association.release()

    assert accepted == {str(Verification), str(ComputedRadiographyImageStorage)}


def test_an_object_that_names_no_study_is_refused_and_leaves_nothing(
    running: Provider, spool: Spool, make_chest: Make
) -> None:
    association = sender(running.port)
    status = association.send_c_store(make_chest(1, StudyInstanceUID=None)).Status
    association.release()

    assert status == 0xC000 and raw(spool) == [] and running.refused == 1


def test_an_object_that_never_ends_is_cut_off(
    spool: Spool, profile: DeidProfile, make_chest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider(DOOR, spool, profile) as running:
        monkeypatch.setattr(running, "_limit", 100_000)
        association = sender(running.port)
        status = association.send_c_store(make_chest(1, size=512))
        association.abort()

    assert "Status" not in status or status.Status != 0x0000
    assert raw(spool) == [] and running.accepted == 0


def test_who_begins_a_pdu_and_stays_is_put_down(
    spool: Spool, profile: DeidProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.storage_scp._SILENT_S", 0.5)
    with (
        provider(Door(0, ("PACS1",), associations=1), spool, profile) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as stalled,
    ):
        stalled.sendall(struct.pack(">BBI", 1, 0, 200))

        assert stalled.recv(1) == b""


def test_who_begins_a_pdu_does_not_keep_the_provider_from_stopping(
    spool: Spool, profile: DeidProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.imaging.storage_scp._GRACE_S", 0.1)
    with provider(DOOR, spool, profile) as running:
        stalled = socket.create_connection(("127.0.0.1", running.port), timeout=20)
        stalled.sendall(struct.pack(">BBI", 1, 0, 200))
        while not running._ae.active_associations:
            time.sleep(0.01)
        [association] = running._ae.active_associations
        began_s = time.monotonic()

    assert time.monotonic() - began_s < 10 and not association.dul.is_alive()  # the thread that Python waits for
    stalled.close()


def test_a_pdu_that_is_too_long_is_not_waited_for(running: Provider) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as caller:
        caller.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFFF))

        assert caller.recv(1) == b""


def test_a_full_disk_is_answered_and_leaves_nothing(
    running: Provider, spool: Spool, make_chest: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    association = sender(running.port)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # Python has the signal ignored: it is an error
    try:
        full = association.send_c_store(make_chest(1, size=512)).Status
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    stored = association.send_c_store(make_chest(1)).Status
    association.release()

    assert (full, stored, len(raw(spool))) == (0xA700, 0x0000, 1)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_nothing_of_a_patient_is_logged(
    running: Provider, make_chest: Make, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    association = sender(running.port)
    association.send_c_store(make_chest(1))
    association.release()
    written = "".join(capfd.readouterr()) + caplog.text

    assert not [word for word in ("Quixano", "MRN", "1.2.3.4", "ACC0") if word in written]


def test_a_name_in_the_place_of_a_uid_is_not_warned_of(
    spool: Spool, profile: DeidProfile, make_chest: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = make_chest(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.SOPInstanceUID = "QUIXANO^ALONSO^16050116"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *more: print(message)  # type: ignore[assignment]
        with provider(DOOR, spool, profile) as running:
            association = sender(running.port)
            association.send_c_store(dataset)
            association.release()

    assert "QUIXANO" not in "".join(capfd.readouterr())


def test_without_a_list_of_callers_nobody_may_send(spool: Spool, profile: DeidProfile) -> None:
    with pytest.raises(DataError) as refused, provider(Door(0, ()), spool, profile):
        pass
    assert refused.value.code == "receiver"


def test_a_port_that_is_taken_is_one_error(running: Provider, spool: Spool, profile: DeidProfile) -> None:
    with pytest.raises(DataError) as refused, provider(Door(running.port, ("PACS1",)), spool, profile):
        pass
    assert refused.value.code == "receiver"


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".de", "-", "no.such.host.invalid"])
def test_a_host_that_is_none_is_one_error(host: str, spool: Spool, profile: DeidProfile) -> None:
    with pytest.raises(DataError) as refused, provider(Door(0, ("PACS1",), host=host), spool, profile):
        pass
    assert refused.value.code == "receiver" and "receive.host" in refused.value.message


def test_what_is_received_is_ingested_and_leaves_no_raw_file(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    head = "accession_number,report\n"
    (reports / "a.csv").write_text(head + "ACC0000001,FINDINGS: Clear lungs.\n")
    stop, ready = threading.Event(), threading.Event()
    ports, told = [0], list[IngestCounts]()

    def send() -> None:
        try:
            assert ready.wait(60)
            association = sender(ports[0])
            for number in (1, 2):
                assert association.send_c_store(make_chest(number)).Status == 0x0000
            assert association.send_c_store(make_chest(3, PatientID="")).Status == 0x0000
            association.release()
            wait_for(1)
            (reports / "b.csv").write_text(head + "ACC0000002,FINDINGS: Clear lungs.\n")
            wait_for(2)
        finally:
            stop.set()

    def started(port: int) -> None:
        ports[0] = port
        ready.set()

    def wait_for(accepted: int) -> None:
        for _ in range(600):
            held = sum(counts.quarantined.get("no-patient-id", 0) for counts in told)
            if sum(counts.accepted for counts in told) >= accepted and held:
                return
            time.sleep(0.1)
        pytest.fail("nothing was ingested")

    thread = threading.Thread(target=send)
    thread.start()
    receive(
        DOOR, spool, store, reports, profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=0, started=started,
        told=told.append,
    )  # fmt: skip
    thread.join()

    assert [sum(counts.quarantined.values()) for counts in told if counts.quarantined] == [1]
    assert store.patients() == sorted(keys.patient_key("", f"MRN-00000{number}") for number in (1, 2))
    assert raw(spool) == [] and os.environ.get("TMPDIR") != str(spool.parts)


def test_while_somebody_else_writes_to_the_store_what_was_received_waits(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("client.imaging.store._LOCK_TRIES", 1)
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "a.csv").write_text("accession_number,report\nACC0000001,FINDINGS: Clear lungs.\n")
    make_chest(1).save_as(spool.parts / "x", enforce_file_format=True)
    spool.accept(spool.parts / "x")
    stop, said = threading.Event(), list[str]()
    looks = 0

    def now_s() -> float:
        nonlocal looks
        looks += 1
        if looks == 5:
            fcntl.flock(writer, fcntl.LOCK_UN)
        return time.time() + 60

    def told(counts: IngestCounts) -> None:
        said.append(f"stored {counts.accepted}")
        stop.set()

    writer = os.open(store.folder / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(writer, fcntl.LOCK_EX)
    receive(
        DOOR, spool, store, reports, profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=0, now_s=now_s,
        told=told, busy=said.append,
    )  # fmt: skip
    os.close(writer)

    assert said == ["store-busy", "stored 1"] and raw(spool) == []


def test_while_no_worker_starts_what_was_received_waits(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A machine that is short of memory for an hour ended the receiver, and the archive's sending with it."""
    monkeypatch.setitem(_PASSING, "no-worker", 2.0)
    monkeypatch.setattr(spawn, "_python_exe", b"/bin/false")
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "a.csv").write_text("accession_number,report\nACC0000001,FINDINGS: Clear lungs.\n")
    make_chest(1).save_as(spool.parts / "x", enforce_file_format=True)
    spool.accept(spool.parts / "x")
    stop, said, waited = threading.Event(), list[str](), list[float]()

    def busy(code: str) -> None:
        said.append(code)
        waited.append(time.monotonic())
        assert len(raw(spool)) == 1 and store.count() == 0
        monkeypatch.setattr(spawn, "_python_exe", os.fsencode(sys.executable))

    def told(counts: IngestCounts) -> None:
        said.append(f"stored {counts.accepted}")
        waited.append(time.monotonic())
        stop.set()

    receive(
        DOOR, spool, store, reports, profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=1, told=told, busy=busy,
        now_s=lambda: time.time() + 60,
    )  # fmt: skip

    assert said == ["no-worker", "stored 1"] and raw(spool) == [] and waited[1] - waited[0] > 2.0


def test_a_receiver_that_stops_while_no_worker_starts_leaves_what_it_took(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(spawn, "_python_exe", b"/bin/false")
    make_chest(1).save_as(spool.parts / "x", enforce_file_format=True)
    spool.accept(spool.parts / "x")
    stop, said = threading.Event(), list[str]()
    receive(
        DOOR, spool, store, tmp_path / "reports", profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=1,
        busy=lambda code: (said.append(code), stop.set()), now_s=lambda: time.time() + 60,
    )  # fmt: skip
    spool.close()
    again = Spool(tmp_path / "spool", profile.limits, keys)

    assert said == ["no-worker"] and len(raw(again)) == 1 and again.begin(time.time() + 60, quiet_s=1, again=False) == 1


def test_what_waits_of_a_patient_goes_when_they_are_withdrawn(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    for number in (1, 2):
        make_chest(number).save_as(spool.parts / "x", enforce_file_format=True)
        spool.accept(spool.parts / "x")
    stop, told = threading.Event(), list[IngestCounts]()
    gone: set[str] = set()
    looks = 0

    def now_s() -> float:
        nonlocal looks
        looks += 1
        if looks == 3:
            assert len(raw(spool)) == 2 and not told
            gone.add(keys.patient_key("", "MRN-000001"))
        return time.time() + 60

    receive(
        DOOR, spool, store, tmp_path / "reports", profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=0,
        now_s=now_s, told=lambda counts: (told.append(counts), stop.set()), withdrawn=lambda: frozenset(gone),
    )  # fmt: skip

    assert [dict(counts.quarantined) for counts in told] == [{"withdrawn": 1}] and store.patients() == []
    assert len(raw(spool)) == 1 and b"MRN-000002" in raw(spool)[0].read_bytes()


def test_a_clock_that_is_set_ahead_removes_nothing_that_waits(
    tmp_path: Path, spool: Spool, store: Store, profile: DeidProfile, keys: SiteKeys, make_chest: Make
) -> None:
    make_chest(1).save_as(spool.parts / "x", enforce_file_format=True)
    spool.accept(spool.parts / "x")
    stop, gone = threading.Event(), list[int]()
    looks = 0

    def now_s() -> float:
        nonlocal looks
        looks += 1
        if looks == 6:
            stop.set()
        return time.time() + (60 if looks < 3 else 90 * 86_400)

    receive(
        DOOR, spool, store, tmp_path / "reports", profile, keys, quiet_s=1, keep_days=1, stop=stop, workers=0,
        now_s=now_s, expired=gone.append,
    )  # fmt: skip

    assert gone == [] and len(raw(spool)) == 1
