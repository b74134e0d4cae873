"""A federation's folder made ready to serve: certificate, address, roster, page."""

import time
from collections.abc import Callable
from pathlib import Path

from federation.errors import TrustError
from federation.trust import certificates
from server import page
from server.coordinator import Coordinator, Listening
from server.federation_folder import FederationFolder
from server.trusted import roster_in_force

RENEW_DAYS = 10.0


def coordinator(folder: Path, *, listen: str | None, page_port: int, say: Callable[[str], None]) -> Coordinator:
    """The processes of `serve`, not started yet. Raises: TrustError: no federation, or an expired roster or CA."""
    federation = FederationFolder.open(folder)
    home = folder.resolve()
    for line in renew_certificate(federation, now_s=time.time()):
        say(line)
    try:
        federation.current().roster.require_current(time.time())
    except TrustError as error:
        if error.code != "roster-absent":
            raise
        say("no roster is signed yet: no site may connect")
    address = listen or _default_listen(federation.address)
    served = Coordinator(
        home,
        Listening(address, home / certificates.SERVER_CERTIFICATE, home / certificates.SERVER_KEY),
        roster_in_force(home),
        page_port=page_port,
        pages=page.pages,
        look=page.overview,
        renew=lambda: bool(renew_certificate(federation, now_s=time.time())),
    )
    say(f"sites reach {federation.address}, listening on {address}")
    say(f"page and metrics: http://127.0.0.1:{page_port or '(see serve/local.json)'}/")
    return served


def renew_certificate(federation: FederationFolder, *, now_s: float) -> list[str]:
    """A new server certificate when the present one ends soon. Returns what to say about it."""
    found = certificates.read(federation.path / certificates.SERVER_CERTIFICATE)
    left = (found.not_valid_after_utc.timestamp() - now_s) / 86400
    if left > RENEW_DAYS:
        return []
    certificates.make_server(federation.path, federation.hosts(), now_s=now_s)
    return [f"the server certificate had {max(0, int(left))} days left: a new one is made"]


def _default_listen(address: str) -> str:
    """All addresses of this machine, but loopback for a federation on this machine."""
    host, _, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if host in ("localhost", "127.0.0.1") else f"0.0.0.0:{port}"
