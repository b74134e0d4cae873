"""How a site takes part in a masked sum: what it keeps, what it checks first, and what it answers only once.

The protocol is in federation/secagg/site.py; here is what must survive a restart, and the order of writes:

    <slot>.update   the noised update, or this site's share of a sum, from training until it is masked; then deleted
    ready           the last round in which this site showed keys: written before it does
    <slot>.masked   the answer with the masked vector: on disk before it is sent, and sent again as these bytes

The secrets of a round are in memory only, so a restarted site has dropped out of that round.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from federation import canonical, codec, durable, messages, private_step
from federation.adapter import AdapterUpdate
from federation.canonical import Value
from federation.errors import FedError, FormatError, ProtocolError
from federation.messages import Answer, Question, answer_to
from federation.plan import SECURE_SITES_MIN, RunPlan
from federation.privacy.accounting import SharedNoise
from federation.privacy.keystream import KeySource, KeyStream
from federation.privacy.mechanism import NoisyShare
from federation.secagg import ring
from federation.secagg.bodies import Identity, RoundId, inputs_digest
from federation.secagg.masks import Vector
from federation.secagg.ring import Encoding, Shapes
from federation.secagg.site import SiteRound


@dataclass(frozen=True)
class _Kept:
    """What was trained in a round and waits to be masked."""

    adapter_digest: str  # trained from
    shapes: Shapes
    update: AdapterUpdate | NoisyShare


@dataclass(frozen=True)
class _Open:
    """The round that this site is in the middle of."""

    question: Question  # its `ready`
    encoding: Encoding
    round: SiteRound


class Masking:
    """The masked rounds of one site, one at a time for each run."""

    def __init__(self, identity: Callable[[], Identity], keys: KeySource, state_dir: Path) -> None:
        """`identity` is asked at every consent and every `ready`: a round takes place under the roster of its time."""
        self._identity, self._keys = identity, keys
        self._evidence = state_dir / "evidence"
        self._open: dict[str, _Open] = {}
        self._answered: dict[str, dict[str, Answer]] = {}  # run -> question digest -> answer, of the open round

    def is_on_roster(self, site_id: str) -> bool:
        """Whether this site can take part at all: with its own key on a roster of three sites or more."""
        identity = self._identity()
        key, roster = identity.signing_key.public.raw, identity.roster
        return identity.site_id == site_id and roster.get(site_id) == key and len(roster) >= SECURE_SITES_MIN

    def keep(self, slot: Path, question: Question, update: AdapterUpdate) -> None:
        """Hold a trained update back until its round is masked. It is noised already."""
        start = question.payload.sha256 if question.payload else ""  # the digest of the adapter
        head = canonical.dump({"adapter": start, "round_number": question.round_number})
        durable.write(slot.with_suffix(".update"), [head, b"\n", *update.pieces()])

    def keep_share(self, slot: Path, question: Question, share: NoisyShare, shapes: Shapes) -> None:
        """As `keep`, of a sum whose noise is not all there yet: this file tells more than any that leaves."""
        data = share.words.astype("<u4").tobytes()
        head = canonical.dump({
            "adapter": question.payload.sha256 if question.payload else "",
            "round_number": question.round_number,
            "sha256": hashlib.sha256(data).hexdigest(),
            "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        })  # fmt: skip
        durable.write(slot.with_suffix(".update"), [head, b"\n", data])

    def answer(
        self,
        question: Question,
        slot: Path,
        plan: RunPlan,
        *,
        base_digest: str,
        quorum: int,
        shared: SharedNoise | None = None,
    ) -> Answer:
        """The answer to one of the five questions; the same question again gets the same bytes.

        Whatever is refused is kept as evidence: the question as it came, signatures included.
        """
        again = self._answered.get(question.run_id, {}).get(question.digest())
        again = again or read_answer(slot.with_suffix(".masked"), question)
        if again is not None:
            return again
        try:
            if question.kind == "ready":
                answer = self._ready(question, slot, plan, base_digest=base_digest, quorum=quorum, shared=shared)
            elif question.kind == "masked":
                return self._masked(question, slot)  # kept on disk, not in memory
            else:
                answer = self._say(question)
        except FedError as error:
            self._record(question, error)
            raise
        self._answered[question.run_id][question.digest()] = answer
        return answer

    def _ready(
        self,
        question: Question,
        slot: Path,
        plan: RunPlan,
        *,
        base_digest: str,
        quorum: int,
        shared: SharedNoise | None,
    ) -> Answer:
        """Once per round, ever; and only with an update of this very round that was not masked before.

        Where the noise is shared, this site goes on only with so many others that the sum has all of it, also if a
        fourth of them work together with the coordinator: it checks that at every stage, the last one included.
        """
        self._require_new(question, slot)
        kept = _kept_update(slot, question)
        encoding, identity = _encoding(question, plan, kept.shapes, shared), self._identity()
        if not set(encoding.weights) <= set(identity.roster):
            raise ProtocolError("secagg-unknown-site", "a weight for a site that is not on the roster", hint="keep it")
        inputs = inputs_digest(
            base_digest=base_digest,
            adapter_digest=kept.adapter_digest,
            encoding=encoding.value(),
            shapes=kept.shapes,
            roster=identity.roster,
        )
        durable.write(slot.with_name("ready"), [canonical.dump({"round_number": question.round_number})])
        before = self._open.pop(question.run_id, None)
        if before is not None:
            before.round.end()
        opened = SiteRound(
            RoundId(question.run_id, question.round_number, question.plan_digest),
            identity,
            inputs=inputs,
            quorum=max(quorum, plan.privacy.sites_least(len(encoding.weights))),
            keys=self._keys,
            label=_label(question),
        )
        self._open[question.run_id] = _Open(question, encoding, opened)
        self._answered[question.run_id] = {}
        return answer_to(question, "ready", opened.ready().signed)

    def _say(self, question: Question) -> Answer:
        """The stages without a vector: shares, agree, unmask."""
        opened = self._of(question).round
        match question.kind, dict(question.body):
            case "shares", {"ready": list(ready), **rest} if not rest:
                return answer_to(question, "shares", opened.shares(ready).signed)
            case "agree", {"masked": list(masked), **rest} if not rest:
                return answer_to(question, "agree", opened.agree(masked).signed)
            case "unmask", {"agree": list(agree), **rest} if not rest:
                return answer_to(question, "unmask", opened.unmask(agree).signed)
        opened.end()
        raise _misfit("a question is not in its agreed form")

    def _masked(self, question: Question, slot: Path) -> Answer:
        """Mask the update, put the answer on disk, delete the update, and only then let the answer go."""
        here = self._of(question)
        boxes = question.body.get("boxes")
        if not isinstance(boxes, Mapping) or len(question.body) != 1:
            here.round.end()
            raise _misfit("a question is not in its agreed form")

        def encode(sites: tuple[str, ...]) -> Vector:
            update = _kept_update(slot, question).update
            if isinstance(update, NoisyShare):
                return ring.whole(update.words, here.encoding, sites=sites)
            rounding = KeyStream(self._keys.key(f"{_label(question)}/secagg/rounding"))
            return ring.encode(update, here.encoding, site_id=question.site_id, sites=sites, rounding=rounding)

        signed, vector = here.round.masked({site: _bytes(box) for site, box in boxes.items()}, encode)
        answer = answer_to(question, "masked", signed.signed, vector)
        durable.overwrite(slot.with_suffix(".masked"), messages.pieces(answer))
        slot.with_suffix(".update").unlink()
        return answer

    def _of(self, question: Question) -> _Open:
        opened = self._open.get(question.run_id)
        if opened is None or opened.question.round_number != question.round_number:
            raise ProtocolError(
                "secagg-closed", "this site is not in the middle of that round", hint="it joins the next one"
            )
        return opened

    def _require_new(self, question: Question, slot: Path) -> None:
        """Refuse a round that this site has shown keys for, or released a masked vector for."""
        marker = slot.with_name("ready")
        match canonical.load(marker.read_bytes()) if marker.exists() else {"round_number": 0}:
            case {"round_number": int(last)} if last < question.round_number:
                return
        if f'"round_number":{question.round_number},'.encode() in _first_line(slot.with_suffix(".masked")):
            raise ProtocolError("secagg-already-released", "this round's update was masked already", hint="keep it")
        raise ProtocolError("secagg-replayed-round", "a masked round begins once", hint="this site joins the next one")

    def _record(self, question: Question, error: FedError) -> None:
        """The first question of a round that was refused, as it came."""
        self._evidence.mkdir(exist_ok=True, mode=0o700)
        path = self._evidence / f"{question.run_id}.{question.round_number}.json"
        if not path.exists():
            durable.write(path, [canonical.dump({"code": error.code, "question": question.header.decode("ascii")})])


def read_answer(path: Path, question: Question) -> Answer | None:
    """The kept answer to this very question. Anything else in the slot, torn or of another round, is none."""
    if question.digest().encode("ascii") not in _first_line(path):
        return None
    try:
        answer = messages.load(path.read_bytes())
        if isinstance(answer, Answer):
            messages.check_answers(question, answer)
            return answer
    except FormatError:
        pass
    return None


def _encoding(question: Question, plan: RunPlan, shapes: Shapes, shared: SharedNoise | None) -> Encoding:
    """The round's public encoding, as far as a site can judge it: it fits the plan, and hides no site's dominance."""
    if set(question.body) != {"encoding"} or question.payload is not None:
        raise _misfit("a question is not in its agreed form")
    encoding = Encoding.from_value(question.body["encoding"], shapes)
    if encoding.unit != (None if shared is None else private_step.unit_of(plan, shared)):
        raise _misfit("another kind of sum than the plan's, or of another unit")
    total, count = sum(encoding.weights.values()), len(encoding.weights)
    if encoding.bits < plan.aggregation.ring_bits or count < max(SECURE_SITES_MIN, plan.aggregation.group_size):
        raise _misfit("a ring below the plan's, or too few sites")
    # Whole numbers are added as they are: there a weight is what the sum is divided by, and nobody's share of it.
    if question.site_id not in encoding.weights or any(
        encoding.unit is None and weight * count > 2 * total + count for weight in encoding.weights.values()
    ):
        raise _misfit("a site weighs more than twice its equal share, so the sum would nearly be its update")
    return encoding


def _kept_update(slot: Path, question: Question) -> _Kept:
    path = slot.with_suffix(".update")
    head, _, data = path.read_bytes().partition(b"\n") if path.exists() else (b"{}", b"", b"")
    match canonical.load(head):
        case {"round_number": int(number), "adapter": str(start), **rest} if number == question.round_number:
            if not rest:
                update = codec.load_as(AdapterUpdate, data)
                return _Kept(start, update.shapes, update)
            if hashlib.sha256(data).hexdigest() == rest.get("sha256"):
                shapes = {name: tuple(shape) for name, shape in cast(Mapping[str, list[int]], rest["shapes"]).items()}
                return _Kept(start, shapes, NoisyShare(np.frombuffer(data, "<u4")))
    raise ProtocolError("secagg-wrong-context", "no update of this round waits to be masked", hint="train first")


def _first_line(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.readline(messages.HEADER_BYTES_MAX)
    except FileNotFoundError:
        return b""


def _bytes(box: Value) -> bytes:
    try:
        return bytes.fromhex(cast(str, box))
    except (ValueError, TypeError):
        return b""  # no key opens it: its sender is named


def _label(question: Question) -> str:
    return f"{question.run_id}/{question.round_number}"


def _misfit(reason: str) -> ProtocolError:
    return ProtocolError("secagg-wrong-context", reason, hint="compare plan and versions")
