"""A whole masked round in a few lines, on the real state machines, with every message open to be changed."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from federation.adapter import AdapterUpdate
from federation.errors import FedError
from federation.messages import Payload
from federation.privacy.keystream import KeyStream
from federation.secagg import ring
from federation.secagg.bodies import STAGES, Identity, RoundId, inputs_digest, sign
from federation.secagg.ring import Encoding
from federation.secagg.server import ServerRound
from federation.secagg.site import SiteRound
from federation.trust.keys import SigningKey

SHAPES = {"m.lora_A.weight": (2, 9), "m.lora_B.weight": (5, 2)}
BOUND = 0.05


class Keys:
    """A KeySource that gives each label once, as its contract says."""

    def __init__(self, name: str) -> None:
        self.name, self.asked = name, set()

    def key(self, label: str) -> bytes:
        assert label not in self.asked
        self.asked.add(label)
        return hashlib.sha256(f"{self.name}/{label}".encode()).digest()


class Round:
    """n sites and a coordinator. `change` may replace what one site is asked or answers at one stage."""

    def __init__(self, count: int, *, bits: int = 16, quorum: int = 3, seed: int = 0, updates=None) -> None:
        self.ids = [f"site-{number:02}" for number in range(count)]
        self.keys = {site: SigningKey.from_seed(Keys(f"{seed}/{site}").key("identity")) for site in self.ids}
        self.roster = {site: key.public.raw for site, key in self.keys.items()}
        self.round_id = RoundId("run-1", 1, "ab" * 32)
        rng = np.random.default_rng(seed)
        self.weights = {site: int(rng.integers(1, 256)) for site in self.ids}
        self.encoding = Encoding(bits, SHAPES, dict.fromkeys(SHAPES, BOUND), self.weights)
        self.inputs = inputs_digest(
            base_digest="ba" * 32, adapter_digest="ad" * 32, encoding=self.encoding.value(), shapes=SHAPES,
            roster=self.roster,
        )  # fmt: skip
        self.identities = {site: Identity(site, self.keys[site], self.roster) for site in self.ids}
        self.sites = {site: self.site(site, seed, quorum) for site in self.ids}
        self.server = ServerRound(self.round_id, self.roster, self.encoding, inputs=self.inputs, quorum=quorum)
        self.updates = updates or {
            site: AdapterUpdate({n: rng.normal(0, 0.03, s).astype(np.float32) for n, s in SHAPES.items()})
            for site in self.ids
        }
        self.plain: dict[str, np.ndarray] = {}  # the integers of each site before masking
        self.vectors: dict[str, bytes] = {}
        self.failures: dict[str, str] = {}  # at the coordinator
        self.aborted: dict[str, str] = {}  # at the site itself

    def site(self, site: str, seed: int = 0, quorum: int = 3, inputs: str | None = None) -> SiteRound:
        return SiteRound(
            self.round_id, self.identities[site], inputs=inputs or self.inputs, quorum=quorum,
            keys=Keys(f"{seed}/{site}/round"), label="run-1/1",
        )  # fmt: skip

    def encoded(self, site: str) -> Callable[[tuple[str, ...]], np.ndarray]:
        def encode(sites: tuple[str, ...]) -> np.ndarray:
            rounding = KeyStream(Keys(site).key("rounding"))
            vector = ring.encode(self.updates[site], self.encoding, site_id=site, sites=sites, rounding=rounding)
            self.plain[site] = vector.copy()
            return vector

        return encode

    def answer(self, site: str, stage: str, asked):
        """What this site says, or None if it has aborted."""
        here = self.sites[site]
        try:
            if stage == "ready":
                return here.ready().signed
            if stage == "masked":
                body, payload = here.masked({who: bytes.fromhex(box) for who, box in asked.items()}, self.encoded(site))
                self.vectors[site] = payload.data
                return body.signed
            return getattr(here, stage)(asked).signed
        except FedError as error:
            self.aborted.setdefault(site, error.code)
            return None

    def stage(self, stage: str, asked: Mapping[str, object], *, gone: Iterable[str] = (), change=None) -> None:
        """One question to each site; `gone` are silent from here on; `change(site, answer)` is what arrives instead."""
        for site, question in asked.items():
            if site in gone:
                continue
            said = self.answer(site, stage, question)
            said = change(site, said) if change else said
            if said is None:
                self.failures.setdefault(site, "no-answer")
                continue
            try:
                if stage == "masked":
                    self.server.add_masked(site, said, Payload(self.vectors[site]))
                else:
                    getattr(self.server, f"add_{stage}")(site, said)
            except FedError as error:
                self.failures[site] = error.code

    def run(self, *, gone: Mapping[str, Iterable[str]] | None = None, changes=None, asked=None):
        """The whole round. `gone`: stage -> sites silent from it on. `changes`: stage -> what becomes of answers;
        `asked`: stage -> what becomes of questions, as (site, question) -> question."""
        gone, changes, asked = gone or {}, changes or {}, asked or {}
        silent: set[str] = set()
        to: Mapping[str, object] = dict.fromkeys(self.ids)
        for stage in STAGES:
            silent |= set(gone.get(stage, ()))
            edit = asked.get(stage, lambda site, question: question)
            self.stage(
                stage, {site: edit(site, question) for site, question in to.items()}, gone=silent,
                change=changes.get(stage),
            )  # fmt: skip
            match stage:
                case "ready":
                    bundle = self.server.close_ready()
                    to = dict.fromkeys(self.server.sites, bundle)
                case "shares":
                    to = self.server.close_shares()
                case "masked":
                    bundle = self.server.close_masked()
                    to = dict.fromkeys(self.server.survivors, bundle)
                case "agree":
                    to = dict.fromkeys(self.server.survivors, self.server.close_agree())
        return self.server.result()

    def plain_sum(self, survivors: Iterable[str]) -> np.ndarray:
        total = np.zeros(self.encoding.length, self.encoding.dtype)
        for site in survivors:
            total += self.plain[site]
        return total

    def resign(self, site: str, stage: str, signed, **fields):
        """What a malicious site would send: its body with other fields, under its true key."""
        common = {"kind", "run", "round", "site", "plan"}
        own = {name: value for name, value in signed["body"].items() if name not in common}
        return sign(stage, self.round_id, self.identities[site], {**own, **fields}).signed

    def nothing_revealed(self) -> bool:
        """No site that aborted has a secret left, and none of them has sent a share in the clear."""
        return all(self.sites[site]._secrets is None and "unmask" not in self.sites[site]._own for site in self.aborted)


@pytest.fixture(scope="session")
def tools():
    return SimpleNamespace(Round=Round, Keys=Keys)
