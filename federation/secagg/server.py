"""The coordinator's side of one masked round, which is also the auditor's. docs/spec/secagg-1.md, section 6.

It learns the sum and nothing else, trusts nobody, and names whoever sends something else than was asked for. Messages
are added one at a time; of the vectors only their running sum is held.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, ProtocolError, QuorumError
from federation.messages import MaskedStage as Stage
from federation.messages import Payload
from federation.privacy.keystream import KeyStream
from federation.secagg import bodies, masks, ring, shamir
from federation.secagg.bodies import STAGES, Body, RoundId
from federation.secagg.masks import Vector
from federation.secagg.ring import SITES_MAX, SITES_MIN, Encoding
from federation.secagg.site import COMMIT

SUBSETS_MOST = 2000  # tried for one secret before its dealer is given up


@dataclass(frozen=True)
class MaskedSum:
    """What a round has come to."""

    sites: tuple[str, ...]  # who was in the round
    survivors: tuple[str, ...]  # whose updates are in the sum
    decoded: ring.Decoded
    suspects: Mapping[str, str]  # site -> code: who sent a wrong share or box, or was given one


class ServerRound:
    """Add what arrives; `close` each stage; relay; at the end `result`.

    Every `add_…` raises the error that names what is wrong with the message: its site is then a dropout.
    """

    def __init__(self, round_id: RoundId, roster: Mapping[str, bytes], encoding: Encoding, *, inputs: str, quorum: int):
        self.round_id, self.roster, self.encoding, self.inputs = round_id, roster, encoding, inputs
        self.accepted: dict[Stage, dict[str, Body]] = {stage: {} for stage in STAGES}
        self.sites: tuple[str, ...] = ()
        self.peers: tuple[str, ...] = ()
        self.survivors: tuple[str, ...] = ()
        self._quorum = max(quorum, SITES_MIN)
        self._roster_hash = self._vectors = ""
        self._total: Vector = np.zeros(encoding.length, encoding.dtype)
        self._liars: dict[str, str] = {}
        self._all_fit = False
        self._lagrange: dict[tuple[int, ...], list[int]] = {}  # the same holders mostly serve all secrets

    # 0 fresh keys

    def add_ready(self, site_id: str, signed: Value) -> None:
        body = self._open("ready", site_id, signed)
        if body.text("inputs") != self.inputs:
            raise ProtocolError(
                "secagg-inputs-differ", f"{site_id} has another model, plan or encoding", hint="compare the versions"
            )
        keys = [bytes.fromhex(body.text(name)) for name in ("mask_pk", "share_pk")]
        known = {other.text(name) for other in self.accepted["ready"].values() for name in ("mask_pk", "share_pk")}
        if keys[0] == keys[1] or not all(map(masks.is_public_key, keys)) or known & {key.hex() for key in keys}:
            raise ProtocolError("secagg-bad-key", f"{site_id} sent a key that cannot be used", hint="leave it out")
        if site_id not in self.encoding.weights:
            raise _misfit(site_id)
        self.accepted["ready"][site_id] = body

    def close_ready(self) -> list[Value]:
        """The bundle for everybody. Raises: QuorumError `secagg-roster-too-small`."""
        self.sites = tuple(sorted(self.accepted["ready"]))
        self._require(self.sites, "secagg-roster-too-small")
        ordered = [self.accepted["ready"][site] for site in self.sites]
        self._roster_hash = bodies.roster_hash(ordered)
        return [body.signed for body in ordered]

    # 1 shares, in boxes that only their receivers can open

    def add_shares(self, site_id: str, signed: Value) -> None:
        body = self._open("shares", site_id, signed)
        if body.text("roster") != self._roster_hash or set(body.texts("boxes")) != set(self.sites) - {site_id}:
            raise _misfit(site_id)
        self.accepted["shares"][site_id] = body

    def close_shares(self) -> dict[str, dict[str, Value]]:
        """Each sender's boxes, sorted by receiver: {receiver: {sender: box}}. Raises: QuorumError."""
        self.peers = tuple(sorted(self.accepted["shares"]))
        self._require(self.peers, "secagg-peers-too-few")
        given = {sender: self.accepted["shares"][sender].texts("boxes") for sender in self.peers}
        return {to: {sender: given[sender][to] for sender in self.peers if sender != to} for to in self.peers}

    # 2 masked vectors, added as they come

    def add_masked(self, site_id: str, signed: Value, vector: Payload) -> None:
        """A payload knows its own SHA-256, computed once from its bytes."""
        data = vector.data
        body = self._open("masked", site_id, signed)
        if body.text("roster") != self._roster_hash or body.sites("peers") != self.peers:
            raise _misfit(site_id)
        if len(data) != self.encoding.length * self.encoding.dtype.itemsize:
            raise FormatError("secagg-out-of-range", f"{site_id} sent a vector of another length", hint="leave it out")
        if body.text("vector") != vector.sha256:
            raise FormatError("secagg-digest-mismatch", f"{site_id} signed another vector", hint="it was altered")
        if site_id in self.accepted["masked"]:
            raise _misfit(site_id)
        self.accepted["masked"][site_id] = body
        np.add(self._total, np.frombuffer(data, self.encoding.dtype), out=self._total)

    def close_masked(self) -> list[Value]:
        self.survivors = tuple(sorted(self.accepted["masked"]))
        self._require(self.survivors, "secagg-survivors-too-few")
        ordered = [self.accepted["masked"][site] for site in self.survivors]
        self._vectors = bodies.vectors_digest(ordered)
        return [body.signed for body in ordered]

    # 3 agreement on the survivors

    def add_agree(self, site_id: str, signed: Value) -> None:
        body = self._open("agree", site_id, signed)
        self._check_view(body, self.survivors)
        if body.text("vectors") != self._vectors:
            raise _split(site_id)
        self.accepted["agree"][site_id] = body

    def close_agree(self) -> list[Value]:
        if len(self.accepted["agree"]) < bodies.threshold(len(self.sites)):
            raise ProtocolError(
                "secagg-no-agreement", "too few sites agree on the survivors", hint="the round is closed"
            )
        return [self.accepted["agree"][site].signed for site in sorted(self.accepted["agree"])]

    # 4 shares of what hides the sum

    def add_unmask(self, site_id: str, signed: Value) -> None:
        body = self._open("unmask", site_id, signed)
        self._check_view(body, self.survivors)
        seeds, keys = body.by_site("seeds"), body.by_site("keys")
        if not set(seeds) <= set(self.survivors) or not set(keys) <= set(self.peers) - set(self.survivors):
            raise _misfit(site_id)
        for share in (*seeds.values(), *keys.values()):
            shamir.from_bytes(share)  # in range
        self.accepted["unmask"][site_id] = body

    def result(self) -> MaskedSum:
        """The mean of the survivors. Raises: QuorumError, or ProtocolError if a secret or the count does not fit."""
        total = self.unmasked()
        decoded = ring.decode(total, self.encoding, sites=self.sites, survivors=self.survivors)
        unopened = {site for body in self.accepted["masked"].values() for site in body.sites("unopened")}
        suspects = dict.fromkeys(sorted(unopened), "secagg-bad-ciphertext") | self._liars
        return MaskedSum(self.sites, self.survivors, decoded, suspects)

    def unmasked(self) -> Vector:
        """The plain integer sum of the survivors' vectors, modulo the ring. Consumes the running sum."""
        if len(self.accepted["unmask"]) < bodies.threshold(len(self.sites)):
            raise QuorumError("secagg-survivors-too-few", "too few sites helped to unmask", hint="the round is closed")
        seeds, keys = self._by_owner("seeds"), self._by_owner("keys")
        self._all_fit = self._fit([*seeds.values(), *keys.values()])
        add: list[bytes] = []
        subtract: list[bytes] = []
        for site in self.survivors:
            seed = self._recover(site, seeds.get(site, {}), "b_commit")
            subtract.append(masks.derive(seed, "self", self._roster_hash, site))
        for gone in sorted(set(self.peers) - set(self.survivors)):
            key = self._recover(gone, keys.get(gone, {}), "mask_pk")
            for site in self.survivors:
                pair = masks.agree(key, bytes.fromhex(self.accepted["ready"][site].text("mask_pk")))
                mask = masks.derive(pair, "pair", self._roster_hash, *sorted((site, gone)))
                (add if site < gone else subtract).append(mask)  # the lower id subtracted it
        masks.apply(self._total, add=add, subtract=subtract)
        return self._total

    def transcript(self, result_digest: str) -> Value:
        """Everything small that was said, and what came of it: section 7."""
        said: dict[str, Value] = {stage: [body.signed for body in self.accepted[stage].values()] for stage in STAGES}
        return {
            "version": bodies.PROTOCOL,
            "run": self.round_id.run_id,
            "round": self.round_id.round_number,
            "plan": self.round_id.plan_digest,
            "inputs": self.inputs,
            "encoding": self.encoding.value(),
            "shapes": {name: list(shape) for name, shape in self.encoding.shapes.items()},
            "result": result_digest,
            **said,
        }

    def _open(self, stage: Stage, site_id: str, signed: Value) -> Body:
        """The body, from the site that it says it is from, which took part in the stage before."""
        body = bodies.open_body(stage, self.round_id, self.roster, signed)
        before = {"ready": None, "shares": self.sites, "masked": self.peers}.get(stage, self.survivors)
        if body.site_id != site_id or (before is not None and site_id not in before):
            raise ProtocolError("secagg-wrong-context", f"{site_id} was not asked for this", hint="it was misdirected")
        return body

    def _check_view(self, body: Body, survivors: Sequence[str]) -> None:
        if body.text("roster") != self._roster_hash or body.sites("survivors") != tuple(survivors):
            raise _split(body.site_id)

    def _by_owner(self, name: str) -> dict[str, dict[str, int]]:
        """{owner: {holder: share}} of all that was sent."""
        shares: dict[str, dict[str, int]] = {}
        for holder, body in sorted(self.accepted["unmask"].items()):
            for owner, share in body.by_site(name).items():
                shares.setdefault(owner, {})[holder] = shamir.from_bytes(share)
        return shares

    def _recover(self, owner: str, shares: Mapping[str, int], commitment: str) -> bytes:
        """The secret that fits the owner's commitment, from `threshold` shares; the holders of misfits are named."""
        t = bodies.threshold(len(self.sites))
        index = {site: place for place, site in enumerate(self.sites, start=1)}
        wanted = self.accepted["ready"][owner].text(commitment)
        trusted = sorted(shares, key=lambda site: (site in self._liars, site))
        for some in islice(combinations(trusted, t), SUBSETS_MOST):
            points = {index[site]: shares[site] for site in some}
            secret = shamir.dot(self._factors(tuple(points)), list(points.values()))
            found = secret.to_bytes(shamir.SHARE_BYTES, "big")[-shamir.SECRET_BYTES :]
            if secret < 2**256 and _commitment(found, commitment) == wanted:
                for site in () if self._all_fit else shares.keys() - set(some):
                    if shamir.value_at(points, index[site]) != shares[site]:
                        self._liars[site] = "secagg-bad-share"
                return found
        self._liars[owner] = "secagg-bad-share"
        raise ProtocolError(
            "secagg-bad-share", f"a secret of {owner} cannot be recovered", hint="leave the named sites out"
        )

    def _fit(self, shared: Sequence[Mapping[str, int]]) -> bool:
        """Whether all shares of all secrets lie on their polynomials: those of equal holders in one random sum.

        The randomness is a digest of what was sent, so that an auditor finds the same.
        """
        said = canonical.digest([body.value for _, body in sorted(self.accepted["unmask"].items())])
        stream = KeyStream(bytes.fromhex(said))
        index = {site: place for place, site in enumerate(self.sites, start=1)}
        sums: dict[tuple[str, ...], dict[int, int]] = {}
        for shares in shared:
            factor = int.from_bytes(stream.bytes(16), "big")
            total = sums.setdefault(tuple(shares), {index[site]: 0 for site in shares})
            for site, share in shares.items():
                total[index[site]] += factor * share
        t = bodies.threshold(len(self.sites))
        return all(shamir.consistent(total, threshold=t, stream=stream) for total in sums.values() if len(total) > t)

    def _factors(self, indices: tuple[int, ...]) -> list[int]:
        if indices not in self._lagrange:
            self._lagrange[indices] = shamir.lagrange(indices, 0)
        return self._lagrange[indices]

    def _require(self, sites: Sequence[str], code: str) -> None:
        if len(sites) < max(bodies.threshold(len(self.sites)), self._quorum) or len(sites) > SITES_MAX:
            raise QuorumError(code, f"{len(sites)} sites are too few to hide one", hint="the round is closed")


def _commitment(secret: bytes, kind: str) -> str:
    return hashlib.sha256(COMMIT + secret).hexdigest() if kind == "b_commit" else masks.public_key(secret).hex()


def _misfit(site_id: str) -> ProtocolError:
    return ProtocolError("secagg-wrong-context", f"{site_id} answered something else", hint="compare the versions")


def _split(site_id: str) -> ProtocolError:
    return ProtocolError("secagg-split-view", f"{site_id} signed another set of survivors", hint="keep its message")
