"""`wardround site doctor`: one line per question of a security officer, `ok` or what to do.

Nothing is changed, and nothing is sent but one TLS handshake to the coordinator's address.
"""

import os
import shutil
import socket
import ssl
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from client.folder import CA, IDENTITY, SECRET, SETTINGS, TRANSPORT, SiteFolder
from client.imaging.scratch import left_over
from client.imaging.site_lists import SiteLists
from client.imaging.spool import has_receiver, raw_times
from client.imaging.store import Store
from client.local_service import SOCKET
from client.rules_view import rules_view
from client.workplace import Workplace
from federation.errors import FedError
from federation.privacy.ledger import Ledger
from federation.supervise import QUIET
from federation.trust import times

Health = Literal["ok", "warn", "fix"]
CLOCK_WARN_S, CLOCK_FAIL_S = 1.0, 4.0  # flower refuses a site that is 5 s ahead
CERTIFICATE_DAYS = (14, 3)
ROSTER_DAYS = (14, 3)
DISK_BYTES = 2**30
TIMEOUT_S = 10.0
CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
PROXY_SAYS = {
    b"407": "asks for a password",
    b"403": "forbids the connection",
    b"502": "cannot reach the coordinator",
    b"503": "cannot reach the coordinator",
    b"504": "cannot reach the coordinator",
}


class _ProxyRefuses(Exception):
    """The proxy answered, and not with a connection."""


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and what to do if it is not well."""

    what: str
    health: Health
    says: str


def examine(folder: SiteFolder, *, now: Callable[[], float] = time.time) -> list[Finding]:
    """Every check in order; one that cannot be made says so and the others go on."""
    findings = [
        _checked("settings", lambda: _settings(folder)),
        _checked("permissions", lambda: _permissions(folder.path)),
        _checked("disk", lambda: _disk(folder.path)),
        _checked("ledger", lambda: _ledger(folder.path)),
        _checked("store", lambda: _store(folder)),
        _checked("rules", lambda: _rules(folder)),
        _checked("release", lambda: _release(folder)),
        _checked("spool", lambda: _spool(folder, now())),
        _checked("text search", lambda: _text_search(folder)),
        _checked("lists", lambda: _lists(folder)),
        _checked("model", lambda: _model(folder)),
        _checked("roster", lambda: _roster(folder, now())),
        _checked("telemetry", _telemetry),
        _checked("listening", lambda: _listening(folder.path)),
    ]
    return findings + network(folder, now)


def trouble(folder: SiteFolder) -> str:
    """What is wrong on the way to the coordinator, in a line; empty if nothing is that could be seen from here."""
    return "; ".join(one.says for one in network(folder, time.time) if one.health == "fix")


def worst(findings: list[Finding]) -> Health:
    order: list[Health] = ["ok", "warn", "fix"]
    return max((finding.health for finding in findings), key=order.index)


def _checked(what: str, look: Callable[[], tuple[Health, str]]) -> Finding:
    try:
        return Finding(what, *look())
    except FedError as error:
        return Finding(what, "fix", f"{error.message}; {error.hint}")
    except OSError as error:
        return Finding(what, "fix", f"cannot be looked at ({type(error).__name__})")


def _settings(folder: SiteFolder) -> tuple[Health, str]:
    settings = folder.settings()
    if settings.model is None:
        return "fix", "model.path is missing in site.toml"
    return (
        "ok",
        f"{settings.site.id}, approve = {settings.policy.approve}, epsilon_max = {settings.policy.epsilon_max:g}",
    )


def _permissions(path: Path) -> tuple[Health, str]:
    """Keys, secret, settings and folder belong to us and to nobody else."""
    loose = [name for name in (".", IDENTITY, TRANSPORT, SECRET, SETTINGS) if _others_may(path / name)]
    if loose:
        return "fix", f"others may read {', '.join(loose)}: chmod go-rwx"
    foreign = [name for name in (".", IDENTITY, SECRET) if (path / name).stat().st_uid != os.getuid()]
    if foreign and os.getuid() != 0:
        return "fix", "the folder belongs to another user: run this as the user of the daemon"
    return "ok", "folder, keys and secret are readable for this user only"


def _others_may(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def _disk(path: Path) -> tuple[Health, str]:
    free = shutil.disk_usage(path).free
    said = f"{free / 1e9:.1f} GB free"
    return ("ok", said) if free >= DISK_BYTES else ("warn", f"{said}: an answer needs four times the adapter's size")


def _ledger(path: Path) -> tuple[Health, str]:
    if not (path / "state" / "ledger").exists():
        return "ok", "nothing is spent yet"
    try:
        ledger = Ledger.open(path / "state" / "ledger")
    except FedError as error:
        if error.code == "ledger-busy":
            return "ok", "the daemon has it open"
        raise
    try:
        return "ok", f"whole, {len(ledger.spends())} charges"
    finally:
        ledger.close()


def _store(folder: SiteFolder) -> tuple[Health, str]:
    place = Workplace(folder.path, folder.settings())
    with Store.open(place.store_folder) as store:
        if store.present(place.withdrawals().patients(store.key_id)):
            return "fix", "patients who were withdrawn are still in it: run the same wardround site erase again"
        return ("ok", "there are patients in it") if store.patients() else ("fix", "the store is empty: ingest first")


def _rules(folder: SiteFolder) -> tuple[Health, str]:
    """Whose rules of de-identification are in force, and who vouches for what they loosen."""
    settings = folder.settings()
    name = settings.data.rules
    if name is not None and (path := folder.path / name).exists() and stat.S_IMODE(path.stat().st_mode) & 0o022:
        return "fix", f"others may change {name}: chmod go-w"
    found = rules_view(Workplace(folder.path, settings))
    if found.differs:
        return "fix", f"{found.says}; the store was made with others: take the change back, or ingest into a new store"
    return "warn" if found.exceptions else "ok", found.says


def _release(folder: SiteFolder) -> tuple[Health, str]:
    place = Workplace(folder.path, folder.settings())
    with place.open_store() as store:
        release = place.releases().of(store.digest())
        if release is not None:
            place.require_trainable(store)
    if release is None:
        return "warn", "the data set as it is now is not released, so nothing trains on it: site inspect, site release"
    return "ok", f"by {release.person}, {release.time_utc}"


def _spool(folder: SiteFolder, now_s: float) -> tuple[Health, str]:
    """Raw data of patients on its way: as little, and for as short, as can be."""
    settings = folder.settings()
    spool = Workplace(folder.path, settings).spool
    if left_over(spool):
        return "warn", "a command that was killed left raw data in spool: the next site ingest removes it"
    came = raw_times(spool)
    if not came:
        return "ok", "no raw object waits"
    days = max(0, int((now_s - min(came)) / 86400))
    said = f"{len(came)} raw object{'s' * (len(came) != 1)}, the oldest {days} day{'s' * (days != 1)} old"
    if not has_receiver(spool):
        return "warn", f"{said}, and no site receive runs that would take them in or remove them"
    if days > settings.receive.keep_days:
        return "warn", f"{said}, more than receive.keep_days = {settings.receive.keep_days}: was the clock set?"
    return "ok", said


def _text_search(folder: SiteFolder) -> tuple[Health, str]:
    """The networks that look for names in pictures and in reports, opened as an ingest opens them."""
    from client.imaging.ocr import shipped
    from client.imaging.second_reader import second_reader
    from client.imaging.tagger import tagger_at

    text = Workplace(folder.path, folder.settings()).profile().text
    shipped()
    second_reader()
    tagger_at(text.tagger, text.tagger_sha256)
    return "ok", "detector of burned-in text, reader of codes and second reader of reports are there, and whole"


def _lists(folder: SiteFolder) -> tuple[Health, str]:
    """Staff, places and joined records, as every ingest reads them."""
    data = folder.settings().data
    entries = SiteLists.read(folder.path, data).entries
    words = {"staff": "staff", "places": "places", "patients": "joined records"}
    said = ", ".join(f"{entries[name].count} {word}" for name, word in words.items() if name in entries)
    if data.patients is not None and _others_may(folder.path / data.patients):
        return "warn", f"{said}; others may read the file of data.patients: chmod go-rwx"
    return "ok", said or "none: no staff, places or patients in [data] of site.toml"


def _model(folder: SiteFolder) -> tuple[Health, str]:
    settings = folder.settings()
    if settings.model is None or not (folder.path / settings.model.path / "config.json").is_file():
        return "fix", "no model in model.path: copy it there; nothing is downloaded"
    pinned = "pinned by SHA-256" if settings.model.sha256 else "not pinned: set model.sha256"
    return "ok", f"on {settings.device.name}, {pinned}"


def _roster(folder: SiteFolder, now_s: float) -> tuple[Health, str]:
    roster = folder.roster().current.roster
    roster.require_current(now_s)
    folder.signing_key()
    return _days("roster", (times.seconds(roster.expires) - now_s) / 86400, ROSTER_DAYS)


def _telemetry() -> tuple[Health, str]:
    loud = [name for name, value in QUIET.items() if os.environ.get(name, value) != value]
    if loud:
        return "warn", f"{', '.join(loud)} differ in this shell; the daemon sets them for itself and its processes"
    return "ok", "every process that the daemon starts has all switches off"


def _listening(path: Path) -> tuple[Health, str]:
    """No port of ours that others reach: node and metrics are on loopback, the service is a Unix socket."""
    socket_path = path / "run" / SOCKET
    if socket_path.exists() and stat.S_IMODE(socket_path.stat().st_mode) != 0o600:
        return "fix", "the daemon's socket is open to others: stop the daemon and look who changed it"
    return "ok", "loopback and one Unix socket"


def network(folder: SiteFolder, now: Callable[[], float]) -> list[Finding]:
    """Name, TLS 1.3 with the federation's own CA, certificate and clock, as the node will meet them."""
    try:
        host, _, port = folder.address().rpartition(":")
        proxy = folder.settings().carrier.proxy
        context = ssl.create_default_context(cafile=str(folder.path / CA))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with _connect(host.strip("[]"), int(port), proxy) as plain:
            began = now()
            with context.wrap_socket(plain, server_hostname=host.strip("[]")) as secure:
                told = secure.getpeercert() or {}
                head = _ask_date(secure, host)
                ended = now()
    except FedError as error:
        return [Finding("coordinator", "fix", f"{error.message}; {error.hint}")]
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == CERTIFICATE_EXPIRED:
            said = "the coordinator's certificate has expired: ask it to run `wardround coordinator renew`"
        else:
            said = "another certificate than the federation's: ask for an exception from the inspecting proxy"
        return [Finding("coordinator", "fix", said)]
    except ssl.SSLError:
        return [Finding("coordinator", "fix", "no TLS 1.3 there: is it the coordinator's address?")]
    except _ProxyRefuses as refusal:
        return [Finding("coordinator", "fix", f"the proxy {refusal}: it must let {host}:{port} through")]
    except (OSError, ValueError):
        return [Finding("coordinator", "fix", f"{host}:{port} does not answer: firewall, proxy, or it is not served")]
    until = ssl.cert_time_to_seconds(str(told["notAfter"]))
    left = (until - ended) / 86400
    through = " through the proxy" if proxy else ""
    return [
        Finding("coordinator", "ok", f"{host}:{port}{through}, TLS 1.3 under the federation's CA"),
        Finding("certificate", *_days("certificate", left, CERTIFICATE_DAYS)),
        _clock(head, began, ended),
    ]


def _days(what: str, left: float, warn: tuple[int, int]) -> tuple[Health, str]:
    if left < warn[1]:
        return "fix", f"the {what} ends in {max(0, int(left))} days: ask the coordinator to renew it"
    if left < warn[0]:
        return "warn", f"the {what} ends in {int(left)} days"
    return "ok", f"the {what} lasts {int(left)} days"


def _clock(head: str, began: float, ended: float) -> Finding:
    """The HTTP date has whole seconds: only a difference that this cannot explain is told."""
    try:
        theirs = parsedate_to_datetime(head).timestamp()
    except (TypeError, ValueError):
        return Finding("clock", "warn", "the coordinator told no time to compare with")
    ahead = max(began - (theirs + 1), theirs - ended, 0.0)
    if ahead > CLOCK_FAIL_S:
        return Finding("clock", "fix", f"{ahead:.0f} s from the coordinator's: turn on NTP; flower refuses 5 s ahead")
    if ahead > CLOCK_WARN_S:
        return Finding("clock", "warn", f"{ahead:.0f} s from the coordinator's: turn on NTP")
    return Finding("clock", "ok", "agrees with the coordinator's")


def _connect(host: str, port: int, proxy: str | None) -> socket.socket:
    if proxy is None:
        return socket.create_connection((host, port), timeout=TIMEOUT_S)
    parts = urlsplit(proxy)
    plain = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=TIMEOUT_S)
    plain.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        more = plain.recv(4096)
        if not more:
            break
        answer += more
    status = answer.split(b"\r\n")[0].split(b" ")[1:2]
    if status != [b"200"]:
        plain.close()
        raise _ProxyRefuses(PROXY_SAYS.get(b"".join(status), "refuses the connection"))
    return plain


def _ask_date(secure: ssl.SSLSocket, host: str) -> str:
    """The date that the coordinator's listener puts on any answer, a refusal too."""
    secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii"))
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        more = secure.recv(4096)
        if not more:
            break
        answer += more
    for line in answer.decode("latin-1").split("\r\n"):
        if line.lower().startswith("date:"):
            return line[5:].strip()
    return ""
