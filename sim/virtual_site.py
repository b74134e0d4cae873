"""One hospital of a simulation: its folder, how it is prepared, and how it is opened. All code in it is the site's own.

    <folder>/dicom/      what the hospital has (made, or a link to the real folder is given instead)
    <folder>/store/      what is left after de-identification
    <folder>/state/      answers, approvals, and the ledger of privacy spent
    <folder>/trust/      its key, the roster it accepted, the log of its door
    <folder>/releases.jsonl   who released which data set: here the simulator, as soon as it is made
    <folder>/site.json   facts of the simulation: id, declared patients, seed or none

What differs from a real hospital: the data set is released without a look, plans that match the policy need no
person's approval, a plan without privacy is allowed (the simulator compares with and without), so is noise that the
sites share, and all keys come from the seed, if there is one. Whoever knows the seed can subtract the noise, so real
folders are opened without one: then keys are the operating system's.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from client.imaging.attestation import attestation, keep
from client.imaging.ingest import IngestCounts, ingest, require_match
from client.imaging.profile import DeidProfile
from client.imaging.pseudonyms import SiteKeys
from client.imaging.store import Store
from client.policy import Policy
from client.releases import Release, Releases
from client.settings import Data, Settings, SiteIdentity
from client.signed_site import SignedSite
from client.site import Site
from client.training.cohort import split
from client.training.examples import Example
from client.training.learner import LoraLearner, ReleasedPatients, StoredPatients
from client.training.model import Base, Device, load_base
from federation import canonical, durable
from federation.errors import DataError, FedError
from federation.plan import RunPlan, plan_from_value
from federation.privacy.keystream import OperatingSystemKeys
from federation.privacy.ledger import Ledger
from federation.secagg.bodies import Identity
from federation.secagg.ring import SITES_MAX
from sim import trust
from sim.keys import SeededKeys

PICTURE_SIDE = 384  # the simulator's models are small; a site keeps up to 1024
NOW = "2026-01-01T00:00:00Z"  # the ledger's clock in a simulation: equal runs give equal bytes
EPSILON_MAX = 20.0


@dataclass(frozen=True)
class Facts:
    """What is public about a virtual site."""

    site_id: str
    declared_patients: int
    seed: int | None

    def write(self, folder: Path) -> None:
        (folder / "site.json").write_text(json.dumps(vars(self), indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> "Facts":
        return Facts(**json.loads((folder / "site.json").read_text(encoding="utf-8")))


def prepare(
    folder: Path,
    site_id: str,
    source: Path,
    *,
    seed: int | None,
    held_out_share: float,
    workers: int,
    progress: Callable[[int, int], None],
    begun: bool = False,
) -> IngestCounts:
    """De-identify `source` into the site's store, release it and fix the site's public facts.

    Of a run that has begun the data set is fixed: it is compared, and nothing is ingested.

    Raises: DataError `nothing-clean` if no study is left, `too-few-patients` if nobody is left to train on,
    `not-released` if the store is not as it was when it was released.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = SiteKeys.from_secret(_secret(folder, site_id, seed))
    profile = DeidProfile.shipped(longest_side=PICTURE_SIDE)
    exists = (folder / "store" / "store.json").exists()
    store = (
        Store.open(folder / "store")
        if exists
        else Store.create(folder / "store", profile_digest=profile.digest, key_id=keys.key_id)
    )
    releases = releases_of(folder)
    with store:
        require_match(store, profile, keys)
        if begun or releases.all():
            _require_released(site_id, store, releases)
        if begun:
            counts = IngestCounts(0, store.count(), dict(sorted(store.held().items())), rejected=0, unreported=0)
        else:
            counts = ingest(source, store, profile, keys, progress=progress, workers=workers)
            _release(folder, store, profile, keys, counts, releases)
        patients = store.patients()
    if not patients:
        why = ", ".join(f"{reason} {count}" for reason, count in counts.quarantined.items())
        raise DataError(
            "nothing-clean",
            f"no study of {site_id} could be proven clean" + (f" ({why})" if why else ""),
            hint="docs/errors.md explains each reason",
        )
    training = len(split(patients, held_out_share=held_out_share).training)
    if training < 2:
        raise DataError(
            "too-few-patients",
            f"{site_id} has fewer than two patients to train on",
            hint="add studies, or leave it out",
        )
    # A site publishes a rounded number; here it is rounded down, so that the divisor never exceeds what is drawn.
    declared = max(2, training // 10 * 10)
    Facts(site_id, declared, seed).write(folder)
    return counts


def _require_released(site_id: str, store: Store, releases: Releases) -> None:
    """A release is of one data set: what was changed since, other than by an ingest, is not trained on."""
    if releases.of(store.digest()) is None:
        raise DataError(
            "not-released",
            f"the store of {site_id} is not as it was when this run released it",
            hint="restore the folder of the run from a copy, or begin a new run with another --out",
        )


def _release(
    folder: Path, store: Store, profile: DeidProfile, keys: SiteKeys, counts: IngestCounts, releases: Releases
) -> None:
    """Attest what was ingested, and release what the store now holds."""
    digest = store.digest()
    told: dict[str, int | Mapping[str, int]] = {
        "accepted": counts.accepted,
        "already": counts.already,
        "quarantined": counts.quarantined,
    }
    text = attestation("ingest", profile, keys.key_id, told, data_digest=digest, time_utc=NOW)
    keep(folder / "store" / "attestations", text, None)
    if releases.of(digest) is None:
        releases.append(Release("release", digest, profile.digest, "wardround sim", NOW))


def releases_of(folder: Path) -> Releases:
    return Releases(folder / "releases.jsonl")


def stored_patients(folder: Path) -> StoredPatients:
    """The released patients of a virtual site."""
    return StoredPatients(Store.open(folder / "store"), releases_of(folder))


def _secret(folder: Path, site_id: str, seed: int | None) -> bytes:
    """The site's pseudonym secret: from the seed, or random and kept beside the store."""
    if seed is not None:
        return SeededKeys(seed).key(f"site secret/{site_id}")
    path = folder / "secret"
    if not path.exists():
        durable.write(path, [OperatingSystemKeys().key("site secret")])
        path.chmod(0o600)
    return path.read_bytes()


def open_base(plan: RunPlan, path: Path, *, threads: int) -> Base:
    """The plan's base, on this machine's device."""
    return load_base(
        path, sha256=plan.model.sha256, family=plan.model.family or None, device=Device.choose(threads=threads)
    )


def open_site(
    folder: Path,
    state: Path,
    base: Base,
    *,
    data: ReleasedPatients | None = None,
    private: bool = True,
    identity: Callable[[], Identity] | None = None,
) -> Site:
    """The site in this folder, its state and ledger below `state`. `data` replaces its store (pooled data).

    Without an identity it takes part in no masked sum.
    """
    facts = Facts.read(folder)
    policy = Policy(
        epsilon_max=EPSILON_MAX, delta_max=0.05, quorum_min=1, approve="matching", allow_without_privacy=not private,
        honest_sites_max=SITES_MAX,
    )  # fmt: skip
    settings = Settings(
        SiteIdentity(facts.site_id), Data("store", "secret", declared_patients=facts.declared_patients), policy
    )
    state.mkdir(parents=True, exist_ok=True)
    learner = LoraLearner(base, data or stored_patients(folder), declared_patients=facts.declared_patients)
    return Site(
        settings,
        policy,
        Ledger.open(state / "ledger"),
        OperatingSystemKeys() if facts.seed is None else SeededKeys(facts.seed).child(f"site/{facts.site_id}"),
        learner,
        state,
        identity=identity,
        now_utc=lambda: NOW,
        on_failure=partial(_tell, facts.site_id),
        examiner=learner,
    )


def _tell(site_id: str, error: Exception) -> None:
    """Our own errors hold no data; of any other only the type is shown."""
    if isinstance(error, FedError):
        print(f"wardround: site {site_id}: {error.message}\nwardround: hint: {error.hint}", file=sys.stderr)
    else:
        print(f"wardround: site {site_id}: internal error ({type(error).__name__})", file=sys.stderr)
        if os.environ.get("WARDROUND_DEBUG") == "1":
            traceback.print_exception(error)


def open_site_alone(folder: Path, plan_text: bytes, base_path: Path, private: bool, threads: int) -> SignedSite:
    """For a process of its own (Flower's engine): load the base too, once per process. Behind its door."""
    plan = plan_from_value(canonical.load(plan_text))
    key = (base_path, plan.model.sha256, threads)
    if key not in _bases:
        _bases[key] = open_base(plan, base_path, threads=threads)
    identity = partial(trust.identity, folder, Facts.read(folder).site_id)
    site = open_site(folder, folder / "state", _bases[key], private=private, identity=identity)
    return trust.door(folder, site)


# One base per process, shared by the sites that are opened in it, as the in-process engine shares it.
_bases: dict[tuple[Path, str | None, int], Base] = {}


def openers(
    folders: Mapping[str, Path], plan: RunPlan, base_path: Path, *, private: bool, threads: int
) -> dict[str, Callable[[], SignedSite]]:
    """Picklable functions that open each site in another process."""
    text = plan.canonical()
    return {
        site_id: partial(open_site_alone, folder, text, base_path, private, threads)
        for site_id, folder in folders.items()
    }


class Pool:
    """All sites' patients in one place: what hospitals cannot do, for comparison only."""

    def __init__(self, sources: Sequence[StoredPatients]) -> None:
        self._sources = sources
        self._of = {key: source for source in sources for key in source.patients()}

    def released(self) -> bool:
        return all(source.released() for source in self._sources)

    def keying(self) -> str:
        return " ".join(source.keying() for source in self._sources)

    def patients(self) -> Sequence[str]:
        return sorted(self._of)

    def examples(self, patient_key: str) -> Sequence[Example]:
        return self._of[patient_key].examples(patient_key)
