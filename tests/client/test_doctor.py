"""The doctor of a site: one line per question, and the first wrong thing is named."""

import contextlib
import os
import socket
import ssl
import threading
import time

import pytest

from client import doctor
from client.doctor import Finding, examine, worst
from client.folder import IDENTITY, SiteFolder
from client.imaging.scratch import scratch
from client.imaging.second_reader import second_reader
from client.imaging.spool import Spool
from client.releases import Release
from client.workplace import Workplace
from federation.supervise import free_port
from federation.trust import certificates
from server.federation_folder import FederationFolder
from sim.keys import SeededKeys


@pytest.fixture
def folder(tmp_path):
    return SiteFolder.init(
        tmp_path / "site", site_id="north", declared_patients=100, coordinator="lung", keys=SeededKeys(0)
    )


def of(findings, what):
    return next(finding for finding in findings if finding.what == what)


def test_a_new_site_is_told_what_is_missing(folder):
    findings = examine(folder)

    assert worst(findings) == "fix"
    assert of(findings, "settings").health == "fix" and "model.path" in of(findings, "settings").says
    assert of(findings, "permissions").health == "ok"
    assert of(findings, "ledger") == Finding("ledger", "ok", "nothing is spent yet")
    assert "roster" in of(findings, "roster").says
    assert "enrol" in of(findings, "coordinator").says


def test_the_lists_are_counted_and_a_wrong_one_is_named_by_its_line(folder):
    assert of(examine(folder), "lists").says.startswith("none")
    settings = folder.path / "site.toml"
    settings.write_text(settings.read_text().replace("# staff =", "staff =").replace("# patients =", "patients ="))
    (folder.path / "staff.txt").write_text("Kvothe\nVance\n")
    (folder.path / "patients.csv").write_text("old_id,current_id\nQ1,Q2\n")
    (folder.path / "patients.csv").chmod(0o644)

    told = of(examine(folder), "lists")
    assert told.health == "warn" and told.says.startswith("2 staff, 1 joined records") and "chmod" in told.says
    (folder.path / "patients.csv").chmod(0o600)
    assert of(examine(folder), "lists") == Finding("lists", "ok", "2 staff, 1 joined records")
    (folder.path / "staff.txt").write_text("Kvothe\n4\n")
    told = of(examine(folder), "lists")
    assert told.health == "fix" and told.says.startswith("line 2 of the file of data.staff")


def test_a_key_that_others_may_read_is_named(folder):
    (folder.path / IDENTITY).chmod(0o644)

    told = of(examine(folder), "permissions")

    assert told.health == "fix" and IDENTITY in told.says


def test_the_release_of_the_data_set_as_it_is_now_is_told(folder):
    assert of(examine(folder), "release").health == "fix"  # no store yet
    place = Workplace(folder.path, folder.settings())
    with place.store_for(place.profile(), place.keys()) as store:
        digest = store.digest()
        assert of(examine(folder), "release").health == "warn"
        place.releases().append(Release("release", digest, "ab" * 32, "Dr. Panza", "2026-01-01T00:00:00Z"))

        assert of(examine(folder), "release") == Finding("release", "ok", "by Dr. Panza, 2026-01-01T00:00:00Z")
    (folder.path / "state" / "releases.jsonl").write_text("x\n")
    assert of(examine(folder), "release").health == "fix"


def test_raw_objects_in_the_spool_are_counted_and_old_or_forsaken_ones_are_warned_of(folder):
    place = Workplace(folder.path, folder.settings())
    assert of(examine(folder), "spool") == Finding("spool", "ok", "no raw object waits")
    spool = Spool(place.spool, place.profile().limits, place.keys())
    study = place.spool / "received" / "waiting" / "study"
    study.mkdir()
    (study / "a.dcm").touch()
    assert of(examine(folder), "spool") == Finding("spool", "ok", "1 raw object, the oldest 0 days old")
    os.utime(study / "a.dcm", (time.time() - 20.5 * 86400,) * 2)
    old = of(examine(folder), "spool")
    assert old.health == "warn" and "1 raw object, the oldest 20 days old, more than receive.keep_days = 14" in old.says
    spool.close()
    assert "no site receive runs" in of(examine(folder), "spool").says
    (place.spool / "work-1").mkdir()

    killed = of(examine(folder), "spool")
    assert killed.health == "warn" and "killed" in killed.says
    with scratch(place.spool):
        assert "killed" not in of(examine(folder), "spool").says


def test_a_search_for_text_that_is_not_whole_has_to_be_fixed(folder, monkeypatch):
    assert of(examine(folder), "text search").health == "ok"
    second_reader.cache_clear()
    monkeypatch.setattr("client.imaging.second_reader.WEIGHTS", folder.path / "nothing")
    missing = of(examine(folder), "text search")
    monkeypatch.undo()
    second_reader.cache_clear()

    assert missing.health == "fix" and "second reader" in missing.says


@pytest.mark.parametrize(
    ("ahead_s", "health"), [(0, "ok"), (0.9, "ok"), (3, "warn"), (-3, "warn"), (10, "fix"), (-3600, "fix")]
)
def test_the_clock_is_compared_no_finer_than_the_date_tells(ahead_s, health):
    now = 1_800_000_000.0
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now))

    assert doctor._clock(date, now + ahead_s, now + ahead_s + 0.1).health == health


@pytest.mark.parametrize(("days", "health"), [(20.0, "ok"), (13.9, "warn"), (2.9, "fix"), (-1.0, "fix")])
def test_a_certificate_is_warned_of_14_and_3_days_before_its_end(days, health):
    assert doctor._days("certificate", days, doctor.CERTIFICATE_DAYS)[0] == health


class Listener:
    """A coordinator's listener, or a proxy before it, as a site meets them."""

    def __init__(self, answer):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._answer, self._thread = answer, threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._answer(connection)

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()


@pytest.fixture
def listening():
    opened = []

    def listen(answer):
        opened.append(Listener(answer))
        return opened[-1].port

    yield listen
    for one in opened:
        one.close()


def tls(folder, *, ahead_s=0.0):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() - ahead_s))

    def answer(connection):
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(4096)
            secure.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date}\r\n\r\n".encode())

    return answer


def proxy(status):
    return lambda connection: (connection.recv(4096), connection.sendall(f"HTTP/1.1 {status} x\r\n\r\n".encode()))


def enrolled(folder, place, port):
    """The site has enrolled forty days ago in a federation at this port, whose certificate lasts thirty."""
    now = time.time() - 40 * 86400
    made = FederationFolder.init(
        place, consortium="lung", address=f"localhost:{port}", officers=(), threshold=1, now_s=now
    )
    invitation = made.invite("north", token=os.urandom(32), now_s=now)
    folder.enrol(invitation, organisation="o", contact="c", heard=invitation.words(), now_s=now)
    return place


def says(folder):
    [line] = [one.says for one in doctor.network(folder, time.time) if one.health == "fix"]
    assert doctor.trouble(folder) == line
    return line


def test_a_coordinator_that_does_not_answer_is_told_from_a_proxy_that_does(folder, tmp_path, listening):
    port = free_port()
    enrolled(folder, tmp_path / "fed", port)
    toml = (folder.path / "site.toml").read_text()
    assert f"localhost:{port} does not answer" in says(folder)

    for status, words in ((407, "asks for a password"), (502, "cannot reach the coordinator"), (418, "refuses")):
        address = f"http://127.0.0.1:{listening(proxy(status))}"
        (folder.path / "site.toml").write_text(toml + f'\n[carrier]\nproxy = "{address}"\n')
        assert words in says(folder) and f"let localhost:{port} through" in says(folder)


def test_an_expired_certificate_another_authority_and_a_wrong_clock_are_told_apart(folder, tmp_path, listening):
    place = tmp_path / "fed"
    ports = {}
    for name in ("good", "ahead", "expired", "other"):
        ports[name] = listening(lambda connection, name=name: answers[name](connection))
    enrolled(folder, place, ports["good"])
    answers = {"expired": tls(place)}
    certificates.make_server(place, ["localhost"], now_s=time.time())
    answers |= {"good": tls(place), "ahead": tls(place, ahead_s=10)}
    (tmp_path / "other").mkdir()
    certificates.make_ca(tmp_path / "other", "other", now_s=time.time())
    certificates.make_server(tmp_path / "other", ["localhost"], now_s=time.time())
    answers["other"] = tls(tmp_path / "other")
    assert doctor.trouble(folder) == ""

    def at(name):
        accepted = folder.path / "federation" / "federation.json"
        before = accepted.read_text()
        accepted.write_text(before.replace(f":{ports['good']}", f":{ports[name]}"))
        said = says(folder)
        accepted.write_text(before)
        return said

    assert "s from the coordinator's: turn on NTP" in at("ahead")
    assert "another certificate than the federation's" in at("other")
    assert "has expired" in at("expired") and "renew" in at("expired")
