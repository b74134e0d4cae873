"""The keys and the roster of a simulated federation, so that every message is signed and verified as between machines.

Keys follow from the simulation's seed, or from the operating system if there is none, and lie where they would lie: the
coordinator's and two officers' in `trust/`, each site's in its own folder. The clock stands still at one moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from client.signed_site import Answering, RosterFile, SignedSite
from federation import durable
from federation.messages import Answer, Question
from federation.secagg.bodies import Identity
from federation.trust import envelope, times
from federation.trust import roster as rosters
from federation.trust.keys import SigningKey
from federation.trust.roster import Member, Officer, Roster, SignedRoster
from federation.trust.translog import TransLog
from sim.keys import SeededKeys

CONSORTIUM = "simulation"
NOW_S = times.seconds("2026-01-01T00:00:00Z")
OFFICERS = ("officer-1", "officer-2")


@dataclass(frozen=True)
class SimulatedTrust:
    """What the coordinator of a simulation holds, and the sites' keys, which only a simulation has in one place."""

    signed: SignedRoster
    coordinator: SigningKey
    log: SigningKey
    sites: dict[str, SigningKey]

    def sign(self, answer: Answer, question: Question) -> Answer:
        """A site that goes wrong on demand signs what it says."""
        key, digest = self.sites[answer.site_id], self.signed.roster.digest()
        return envelope.seal_answer(answer, question, key, roster_digest=digest)


def establish(folder: Path, sites: dict[str, Path], seed: int | None) -> SimulatedTrust:
    """Make keys and roster, or take those that are there: a resumed run goes on with them."""
    (folder / "trust").mkdir(exist_ok=True, mode=0o700)
    keys = {name: _key(folder / "trust" / f"{name}.key", name, seed) for name in ("coordinator", "log", *OFFICERS)}
    identities = {}
    for site_id, path in sites.items():
        (path / "trust").mkdir(parents=True, exist_ok=True, mode=0o700)
        identities[site_id] = _key(path / "trust" / "identity.key", f"site/{site_id}", seed)
        _key(path / "trust" / "log.key", f"site log/{site_id}", seed)
    signed = _signed(keys, identities)
    durable.write(folder / "trust" / "roster.json", [rosters.dump(signed)])
    for path in sites.values():
        accepted = rosters.accept_first(signed, CONSORTIUM, signed.roster.officers, len(OFFICERS))
        RosterFile.create(path / "trust" / "roster.json", accepted)
    return SimulatedTrust(signed, keys["coordinator"], keys["log"], identities)


def door(folder: Path, site: Answering) -> SignedSite:
    """The site in this folder behind its door, with its own log."""
    key = SigningKey.load(folder / "trust" / "identity.key")
    roster = RosterFile.open(folder / "trust" / "roster.json")
    log_key = SigningKey.load(folder / "trust" / "log.key")
    log = TransLog.open(folder / "trust" / "log", f"{CONSORTIUM}/{site.site_id}", log_key)
    return SignedSite(site, key, roster, log, clock=clock)


def identity(folder: Path, site_id: str) -> Identity:
    """What this site signs masked sums with: the same key and roster as at its door."""
    keys = RosterFile.open(folder / "trust" / "roster.json").current.roster.identities()
    return Identity(site_id, SigningKey.load(folder / "trust" / "identity.key"), keys)


def clock() -> float:
    """Equal runs give equal bytes: no time passes."""
    return float(NOW_S)


def _signed(keys: dict[str, SigningKey], sites: dict[str, SigningKey]) -> SignedRoster:
    members: Sequence[Member] = [
        Member(site_id, "made by the simulator", "nobody", key.public, "none") for site_id, key in sorted(sites.items())
    ]
    roster = Roster(
        consortium=CONSORTIUM,
        version=1,
        issued=times.text(NOW_S),
        expires=times.text(NOW_S + rosters.DAYS_MAX * times.DAY_S),
        previous=None,
        officers=tuple(Officer(name, keys[name].public) for name in OFFICERS),
        threshold=len(OFFICERS),
        coordinator=keys["coordinator"].public,
        log=keys["log"].public,
        sites=tuple(members),
    )
    signed = SignedRoster(roster)
    for name in OFFICERS:
        signed = signed.signed_by(keys[name])
    return signed


def _key(path: Path, name: str, seed: int | None) -> SigningKey:
    if not path.exists():
        made = SigningKey.generate() if seed is None else SigningKey.from_seed(SeededKeys(seed).key(f"signing/{name}"))
        made.save(path)
    return SigningKey.load(path)
