"""One site's side of one masked round: five answers, each once, in order. docs/spec/secagg-1.md, section 4.

Guarantees, whatever the coordinator sends:
    A masked vector leaves only after every other site of the round has signed the same inputs, and only once.
    Shares leave only after a majority that no other majority can contradict has signed the same survivors; of one peer
    either its seed or its key is revealed, never both.
    After the fifth answer, or the first failed check, no secret is left in this object.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from federation.canonical import Value
from federation.errors import FedError, FormatError, ProtocolError, QuorumError
from federation.messages import MaskedStage as Stage
from federation.messages import Payload
from federation.privacy.keystream import KeySource, KeyStream
from federation.secagg import bodies, masks, shamir
from federation.secagg.bodies import STAGES, Body, Identity, RoundId
from federation.secagg.masks import Vector
from federation.secagg.ring import SITES_MAX, SITES_MIN

OVER = len(STAGES)
COMMIT = b"wardround/secagg/1 commit"


@dataclass
class _Secrets:
    """What must be gone when the round is over."""

    seed: bytes  # b: its mask is removed if this site survives
    mask_key: bytes  # shared with every peer: its masks are removed if this site drops out
    share_key: bytes  # opens the boxes
    boxes_from: dict[str, bytes] = field(default_factory=dict)  # sender -> key of its box to this site
    pairs: dict[str, bytes] = field(default_factory=dict)  # peer -> key of the common mask
    seed_shares: dict[str, int] = field(default_factory=dict)  # owner -> this site's share of its seed
    key_shares: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "<Secrets: hidden>"


class SiteRound:
    """The state between the five questions. It lives in memory only: a restarted site has dropped out of the round."""

    def __init__(
        self,
        round_id: RoundId,
        identity: Identity,
        *,
        inputs: str,
        quorum: int,
        keys: KeySource,
        label: str,
    ) -> None:
        """`inputs` is this site's own digest of what must be equal everywhere; `quorum` the fewest it wants in a sum.

        `label` names the round to `keys`, which is asked once for each secret.
        """
        self.round_id, self.identity, self.inputs = round_id, identity, inputs
        self.sites: tuple[str, ...] = ()  # of the round's roster, in order
        self._quorum = max(quorum, SITES_MIN)
        self._keys, self._label = keys, label
        self._secrets: _Secrets | None = None
        self._stage = 0
        self._own: dict[Stage, Body] = {}
        self._roster_hash = ""
        self._peers: tuple[str, ...] = ()
        self._survivors: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        return self._stage == OVER

    def ready(self) -> Body:
        """Fresh keys, and commitments to everything that must be the same at all sites."""
        with self._at("ready"):
            seed, mask, share = (self._keys.key(f"{self._label}/secagg/{name}") for name in ("seed", "mask", "share"))
            secrets = _Secrets(seed, mask, share)
            self._secrets = secrets
            return self._sign(
                "ready",
                {
                    "mask_pk": masks.public_key(secrets.mask_key).hex(),
                    "share_pk": masks.public_key(secrets.share_key).hex(),
                    "b_commit": hashlib.sha256(COMMIT + secrets.seed).hexdigest(),
                    "inputs": self.inputs,
                },
            )

    def shares(self, ready: Sequence[Value]) -> Body:
        """A share of both secrets for every site of the round, each in a box that only this site can open."""
        with self._at("shares") as secrets:
            opened = [self._open("ready", one) for one in ready]
            self.sites = tuple(body.site_id for body in opened)
            self._check_ready(opened)
            self._roster_hash = bodies.roster_hash(opened)
            box_keys = {
                body.site_id: self._meet(secrets, body) for body in opened if body.site_id != self.identity.site_id
            }
            return self._sign("shares", {"roster": self._roster_hash, "boxes": self._boxes(secrets, box_keys)})

    def masked(self, boxes: Mapping[str, bytes], encode: Callable[[tuple[str, ...]], Vector]) -> tuple[Body, Payload]:
        """The masked vector. `encode` makes this site's integers, given the sites of the round; it is called once."""
        with self._at("masked") as secrets:
            own = self.identity.site_id
            if not set(boxes) <= set(self.sites) - {own}:
                raise _unknown_site()
            self._peers = tuple(sorted({*boxes, own}))
            self._require(len(self._peers), "secagg-peers-too-few")
            unopened = [sender for sender in sorted(boxes) if not self._open_box(secrets, sender, boxes[sender])]
            vector = encode(self.sites)
            masks.apply(
                vector,
                add=[
                    masks.derive(secrets.seed, "self", self._roster_hash, own),
                    *(secrets.pairs[peer] for peer in self._peers if peer < own),
                ],
                subtract=[secrets.pairs[peer] for peer in self._peers if peer > own],
            )
            secrets.pairs.clear()
            data = Payload(vector.tobytes())
            signed = self._sign(
                "masked",
                {
                    "roster": self._roster_hash,
                    "peers": list(self._peers),
                    "vector": data.sha256,
                    "unopened": list(unopened),
                },
            )
            return signed, data

    def agree(self, masked: Sequence[Value]) -> Body:
        """This site's signature under who is in the sum, before anybody helps to unmask it."""
        with self._at("agree"):
            opened = [self._open("masked", one) for one in masked]
            self._survivors = tuple(body.site_id for body in opened)
            if any(
                body.text("roster") != self._roster_hash or body.sites("peers") != self._peers for body in opened
            ) or not _ordered_within(self._survivors, self._peers):
                raise _split_view("the survivors were not shown the same round")
            mine = [body for body in opened if body.site_id == self.identity.site_id]
            if not mine:
                raise _split_view("this site's own vector is not in the sum")
            if mine[0].value != self._own["masked"].value:
                raise FormatError(
                    "secagg-digest-mismatch", "this site's own vector was exchanged", hint="the carrier altered it"
                )
            self._require(len(self._survivors), "secagg-survivors-too-few")
            return self._sign(
                "agree",
                {
                    "roster": self._roster_hash,
                    "survivors": list(self._survivors),
                    "vectors": bodies.vectors_digest(opened),
                },
            )

    def unmask(self, agree: Sequence[Value]) -> Body:
        """The shares that remove the masks of this one sum, and nothing else."""
        with self._at("unmask") as secrets:
            mine = self._own["agree"]
            opened = [self._open("agree", one) for one in agree]
            signers = {body.site_id for body in opened}
            if any(body.text(name) != mine.text(name) for body in opened for name in ("roster", "vectors")) or any(
                body.sites("survivors") != self._survivors for body in opened
            ):
                raise _split_view("another set of survivors was signed")
            if len(signers & set(self._survivors)) < bodies.threshold(len(self.sites)) or len(signers) != len(opened):
                raise ProtocolError(
                    "secagg-no-agreement", "too few sites agree on the survivors", hint="the round is closed"
                )
            gone = set(self._peers) - set(self._survivors)
            signed = self._sign(
                "unmask",
                {
                    "roster": self._roster_hash,
                    "survivors": list(self._survivors),
                    "seeds": _texts(secrets.seed_shares, set(self._survivors)),
                    "keys": _texts(secrets.key_shares, gone),
                },
            )
        self.end()
        return signed

    def end(self) -> None:
        """Drop every secret; from here on nothing is answered."""
        self._stage = OVER
        self._secrets = None

    @contextmanager
    def _at(self, stage: Stage) -> Iterator[_Secrets]:
        """Run one stage, in its turn; the first failure of any kind ends the round for this site."""
        number = STAGES.index(stage)
        try:
            if self._stage == OVER:
                raise ProtocolError("secagg-closed", "this round is over for this site", hint="it joins the next one")
            if number < self._stage:
                raise ProtocolError("secagg-second-answer", f"{stage} was answered already", hint="the round is closed")
            if number > self._stage:
                raise ProtocolError("secagg-wrong-context", f"{stage} came out of order", hint="the round is closed")
            yield self._secrets or _Secrets(b"", b"", b"")  # none before the first answer
        except BaseException:
            self.end()
            raise
        self._stage = number + 1

    def _check_ready(self, opened: Sequence[Body]) -> None:
        if list(self.sites) != sorted(set(self.sites)) or len(self.sites) > SITES_MAX:
            raise bodies.not_canonical()
        self._require(len(self.sites), "secagg-roster-too-small")
        mine = next((body for body in opened if body.site_id == self.identity.site_id), None)
        if mine is None or mine.signed != self._own["ready"].signed:
            raise ProtocolError("secagg-own-key-replaced", "this site's own keys are not in the round", hint="keep it")
        if any(body.text("inputs") != self.inputs for body in opened):
            others = ", ".join(body.site_id for body in opened if body.text("inputs") != self.inputs)
            raise ProtocolError(
                "secagg-inputs-differ", f"not the same model, plan or encoding at {others}", hint="compare the versions"
            )
        public = [bytes.fromhex(body.text(name)) for body in opened for name in ("mask_pk", "share_pk")]
        if len(set(public)) != len(public) or not all(map(masks.is_public_key, public)):
            raise ProtocolError("secagg-bad-key", "two sites have one key, or a key is of small order", hint="keep it")

    def _meet(self, secrets: _Secrets, peer: Body) -> bytes:
        """Keep the keys that this site has with one other; the key of the one box to it is needed now."""
        own, other, where = self.identity.site_id, peer.site_id, self._roster_hash
        pair = masks.agree(secrets.mask_key, bytes.fromhex(peer.text("mask_pk")))
        box = masks.agree(secrets.share_key, bytes.fromhex(peer.text("share_pk")))
        secrets.pairs[other] = masks.derive(pair, "pair", where, *sorted((own, other)))
        secrets.boxes_from[other] = masks.derive(box, "box", where, other, own)
        return masks.derive(box, "box", where, own, other)

    def _boxes(self, secrets: _Secrets, box_keys: Mapping[str, bytes]) -> dict[str, str]:
        count = len(self.sites)
        t = bodies.threshold(count)
        stream = KeyStream(self._keys.key(f"{self._label}/secagg/shares"))
        seeds = shamir.split(secrets.seed, threshold=t, count=count, stream=stream)
        keys = shamir.split(secrets.mask_key, threshold=t, count=count, stream=stream)
        boxes = {}
        for site, seed_share, key_share in zip(self.sites, seeds, keys, strict=True):
            if site == self.identity.site_id:
                secrets.seed_shares[site], secrets.key_shares[site] = seed_share, key_share
            else:
                content = shamir.to_bytes(seed_share) + shamir.to_bytes(key_share)
                boxes[site] = masks.seal(box_keys[site], content).hex()
        return boxes

    def _open_box(self, secrets: _Secrets, sender: str, box: bytes) -> bool:
        """Keep the two shares in this box; False if it is not one that its sender sealed for this site."""
        content = masks.unseal(secrets.boxes_from.pop(sender), box)
        if content is None or len(content) != 2 * shamir.SHARE_BYTES:
            return False
        try:
            seed_share = shamir.from_bytes(content[: shamir.SHARE_BYTES])
            key_share = shamir.from_bytes(content[shamir.SHARE_BYTES :])
        except FedError:
            return False
        secrets.seed_shares[sender], secrets.key_shares[sender] = seed_share, key_share
        return True

    def _open(self, stage: Stage, signed: Value) -> Body:
        return bodies.open_body(stage, self.round_id, self.identity.roster, signed)

    def _sign(self, stage: Stage, own: Mapping[str, Value]) -> Body:
        self._own[stage] = bodies.sign(stage, self.round_id, self.identity, own)
        return self._own[stage]

    def _require(self, sites: int, code: str) -> None:
        """At least the threshold, three, and what this site's own policy demands."""
        if sites < max(bodies.threshold(len(self.sites)), self._quorum):
            raise QuorumError(code, "too few sites: their sum would hide too little", hint="the round is closed")


def _ordered_within(some: Sequence[str], all_: Sequence[str]) -> bool:
    return list(some) == sorted(set(some)) and set(some) <= set(all_)


def _texts(shares: Mapping[str, int], owners: set[str]) -> dict[str, Value]:
    return {owner: shamir.to_bytes(shares[owner]).hex() for owner in sorted(owners & set(shares))}


def _split_view(reason: str) -> ProtocolError:
    return ProtocolError("secagg-split-view", reason, hint="the round is closed; compare the evidence with the others")


def _unknown_site() -> ProtocolError:
    return ProtocolError("secagg-unknown-site", "a box of a site that is not in the round", hint="the round is closed")
