"""A run's Link with the federation's keys, roster and log around it: what a runner needs of a federation."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key

from federation.errors import TrustError
from federation.messages import Link
from federation.trust.roster import Roster
from federation.trust.translog import TransLog
from server import evidence
from server.checkpoint import Checkpoints
from server.federation_folder import FederationFolder
from server.signed_link import SignedLink


@dataclass(frozen=True)
class Trusted:
    """One run under one roster. One that officers sign later is in force from the next round on (`require_latest`)."""

    version: int
    sites: tuple[str, ...]
    keys: Mapping[str, bytes]  # site id -> the raw key that signs for it in a masked sum
    wrap: Callable[[Link], Link]
    log: TransLog


class LaterRoster(Exception):
    """The officers have signed another roster: the run goes on under that one, from its last whole round."""

    def __init__(self, version: int) -> None:
        super().__init__()
        self.version = version


def require_latest(home: Path, trust: Trusted) -> None:
    """Asked between rounds. Raises: LaterRoster; TrustError if the rosters are not readable any more."""
    version = FederationFolder.open(home).current().roster.version
    if version != trust.version:
        raise LaterRoster(version)


@contextmanager
def trusted(home: Path, checkpoints: Checkpoints) -> Iterator[Trusted]:
    """Raises: TrustError, StoreError: no run without a roster in force and a log that is whole."""
    federation = FederationFolder.open(home)
    versions, signed = federation.rosters(), federation.current()
    signed.roster.require_current(time.time())
    key = federation.key("coordinator")
    with evidence.open_log(checkpoints, signed, federation.key("log"), versions=versions) as log:
        yield Trusted(
            signed.roster.version,
            signed.roster.active(),
            signed.roster.identities(),
            lambda link: SignedLink(link, key, versions, log, clock=time.time),
            log,
        )


def node_keys(roster: Roster) -> Mapping[str, bytes]:
    """The transport keys of the active members, as Flower registers them (PEM)."""
    found = {}
    for site_id in roster.active():
        try:
            key = load_ssh_public_key(roster.member(site_id).transport.encode("ascii"))
        except (ValueError, UnicodeEncodeError):
            raise TrustError(
                "key-damaged", f"the transport key of {site_id} is not readable", hint="have the site enrol again"
            ) from None
        found[site_id] = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def roster_in_force(home: Path) -> Callable[[], Mapping[str, bytes]]:
    """Who may connect: asked anew every few seconds, so that an admission or a revocation counts at once."""

    def look() -> Mapping[str, bytes]:
        try:
            return node_keys(FederationFolder.open(home).current().roster)
        except TrustError as error:
            if error.code == "roster-absent":
                return {}  # no officer has signed yet: nobody may connect
            raise

    return look
