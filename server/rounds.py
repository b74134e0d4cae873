"""The whole run, in order: the story of control.

The coordinator proposes; sites consent, train and answer; the mean of what they send is the next adapter. It trusts no
answer: each is checked against its question, the plan and the adapter, and a site whose answer fails is named and left
out of the round. It decides nothing about privacy: noise is added at the sites, before anything arrives here.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from federation import canonical, codec
from federation.adapter import Adapter, AdapterUpdate, at_rank, check_update, factor, rank_of
from federation.canonical import Value
from federation.consent import PROTOCOL, Consent, consent_from, refusal_from
from federation.errors import FedError, FormatError, GateError, QuorumError, StoreError
from federation.evaluation import Validation, validation_from
from federation.messages import Answer, Link, MaskedStage, Payload, Question, check_answers, size_bytes
from federation.plan import SECURE_SITES_MIN, RunPlan
from federation.privacy.keystream import KeySource
from federation.private_step import shared_of
from federation.secagg.bodies import RoundId, inputs_digest
from federation.secagg.ring import SITES_MAX
from federation.secagg.server import MaskedSum, ServerRound
from server import gate
from server.aggregate import METHODS, Aggregate, Average, ServerState, averaged, given_out, next_adapter, weights_of
from server.checkpoint import Checkpoints
from server.groups import groups_of, joined, shares_of
from server.held import Updates
from server.masked_round import KeptRound, encoding_for, latest, masked_sum, record_of, require_room
from server.record import OUTCOMES, MaskedRecord, RoundRecord, SentMessage
from server.robust import FEWEST
from server.start import first_adapter

Observer = Callable[[RoundRecord, Adapter], None]
FAILURE_CODES = frozenset({"internal"}).union(*(kind.codes for kind in FedError.__subclasses__()))
T = TypeVar("T")


@dataclass(frozen=True)
class RunResult:
    run_id: str
    plan_digest: str
    adapter: Adapter  # that of the last round, or the mean over the rounds
    rounds: tuple[RoundRecord, ...]


@dataclass
class _Round:
    """What is learned while a round goes on; it becomes the record when the round is committed."""

    number: int
    site_ids: tuple[str, ...]
    consents: dict[str, Consent] = field(default_factory=dict)
    refusals: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    accepted: list[str] = field(default_factory=list)
    outcome: str = "accepted"
    gate: dict[str, Value] = field(default_factory=dict)
    update_rms: float = 0.0
    masked: MaskedRecord | None = None
    shares: dict[str, float] = field(default_factory=dict)  # what each site counts, where groups make it another number
    closed: str = ""  # the code that ended a masked round without a sum; its updates are never masked again
    sent: list[SentMessage] = field(default_factory=list)
    uplink: Counter[str] = field(default_factory=Counter)
    downlink: Counter[str] = field(default_factory=Counter)


def new_run_id(plan: RunPlan, keys: KeySource) -> str:
    """A name that no other run has: sites pay, and answer, once per run id and round."""
    return f"{plan.run.name}-{keys.key('run id').hex()[:12]}"


def run(
    plan: RunPlan,
    link: Link,
    checkpoints: Checkpoints,
    *,
    base: Path | None = None,
    roster: Mapping[str, bytes] | None = None,
    observer: Observer = lambda record, adapter: None,
    clock: Callable[[], float] = time.monotonic,
) -> RunResult:
    """Every round that is not committed yet, the first one included: to resume is to run again.

    `base` is the base model's folder, needed where the plan starts A from its weights. `roster` names the Ed25519
    public key of every site; a plan with secure aggregation needs it.

    Guarantees: the result is bit for bit that of an uninterrupted run, if the sites answer alike. After any exception
    the checkpoint is that of the last whole round.
    Raises: QuorumError when a round has too few sites; it names those left out, and their codes. GateError when round
    after round is rejected.
    """
    if checkpoints.plan.digest() != plan.digest():
        raise StoreError("checkpoint-other-run", "the checkpoint is of another plan", hint="name that run's own folder")
    committed = checkpoints.last()
    adapter = committed.adapter if committed else None
    server = committed.server if committed else ServerState()
    records = list(committed.records) if committed else []

    for round_number in range(len(records) + 1, plan.run.rounds + 1):
        started = clock()
        # 1 choose participants: every site on the link
        this = _Round(round_number, tuple(sorted(link.site_ids())))
        quorum = _quorum(plan, this, roster or {})

        # 2 ask for consent: the whole plan, every round; a site may change its mind
        last = records[-1] if records else None
        consents_from_all = _ask_consent(plan, link, checkpoints.run_id, this, quorum, last)
        shapes = dict(adapter.shapes) if adapter else _shapes_of_most(plan, consents_from_all)
        _choose(plan, this, consents_from_all, shapes)

        # 3 stop below the quorum, before anybody trains
        _require(len(this.consents) >= quorum, "quorum-consent", "consented", this, quorum)
        adapter = adapter or first_adapter(plan, shapes, base, {c.base_digest for c in this.consents.values()})
        weights = weights_of(plan, this.consents)
        require_room(plan, this.consents)

        # 4, 5 sites pay their ledgers and train
        answers = _ask_training(plan, link, checkpoints.run_id, this, adapter)
        if plan.aggregation.secure:
            # 6 they keep their updates, and send them masked: what can be opened is the mean of the survivors, of all
            # sites or of each group
            seen = latest([record.masked for record in records])
            keys = roster or {}
            updates = _masked_mean(plan, link, checkpoints, this, adapter, weights, answers, quorum, keys, seen)
        else:
            # 6 they send the trained factors; each update is checked, added and dropped
            updates = _updates(plan, this, weights, answers)
        aggregate = _aggregate(plan, adapter, updates, checkpoints.folder)

        # 7 below the quorum: the sum is discarded, and the round with it. If a site died after it paid, or a masked
        # round broke off, its sites will never answer it again: the round is closed without a result, its privacy
        # stays spent, the next one begins
        if this.closed:
            this.outcome, aggregate = "masked-closed", None
        elif len(this.accepted) < quorum and "round-closed" in this.failures.values():
            this.outcome, aggregate = "too-few-answers", None
        else:
            _require(len(this.accepted) >= quorum, "quorum-answers", "gave a usable update", this, quorum)

        # 8 the gate: what it rejects never happened, but for the privacy that was paid; the next adapter, the commit
        if aggregate is not None:
            adapter, server = _through_the_gate(
                plan, link, checkpoints.run_id, this, adapter, server, aggregate, weights
            )
        if this.masked is not None and this.outcome != "accepted":  # what was rejected makes no bounds
            this.masked = _without_sizes(this.masked, latest([record.masked for record in records]))
        result = given_out(adapter, server)
        record = _record(this, weights, adapter, result, seconds=clock() - started)
        checkpoints.save(adapter, server, record)
        records.append(record)
        observer(record, result)
        _stop_if_rejected_again(records, plan)

    if adapter is None:
        raise StoreError("checkpoint-damaged", "a finished run without an adapter", hint="restore the run's folder")
    return RunResult(checkpoints.run_id, plan.digest(), given_out(adapter, server), tuple(records))


def _aggregate(plan: RunPlan, adapter: Adapter, updates: Updates, folder: Path) -> Aggregate | None:
    """What the plan's method makes of the updates; None if there are too few for it."""
    try:
        return METHODS[plan.adapter.method](adapter, updates, Average(plan.aggregation.robust_rule, folder))
    except QuorumError:
        return None


def _through_the_gate(
    plan: RunPlan,
    link: Link,
    run_id: str,
    this: _Round,
    adapter: Adapter,
    server: ServerState,
    aggregate: Aggregate,
    weights: Mapping[str, int],
) -> tuple[Adapter, ServerState]:
    """The next adapter and optimiser state; both as they are if the gate rejects what was made."""
    counts = this.shares or weights
    sites = {site: (this.consents[site], counts[site]) for site in this.accepted}
    verdict = gate.judge(aggregate, bound=gate.allowed(plan, adapter, this.number, sites))
    moved = (adapter, server)
    if verdict.rejection is None:
        optimizer, rate = plan.aggregation.server_optimizer, plan.aggregation.server_learning_rate
        candidate, state = next_adapter(adapter, aggregate.update, server, optimizer=optimizer, learning_rate=rate)
        moved = candidate, averaged(candidate, state, decay=plan.aggregation.ema_decay)
        this.update_rms = aggregate.update.norm() / math.sqrt(aggregate.update.size)
        told = _ask_validation(plan, link, run_id, this, adapter, candidate)
        held_out = {site: plan.evaluation.held_out_patients(this.consents[site].declared_patients) for site in told}
        verdict = gate.compare(verdict, told, held_out, drop_max=plan.aggregation.metric_drop_max)
    this.outcome = verdict.rejection or "accepted"
    this.gate = verdict.value()
    if aggregate.energy_cut is not None:
        this.gate["energy_cut"] = canonical.decimal(aggregate.energy_cut)
    return moved if verdict.rejection is None else (adapter, server)


def _ask_validation(
    plan: RunPlan, link: Link, run_id: str, this: _Round, adapter: Adapter, candidate: Adapter
) -> dict[str, Validation]:
    """What every site of the mean says, with noise, that the candidate changes for its held-out patients.

    Nobody is asked by a plan that does not pay for it. Who does not answer, or refuses, stays in the round.
    """
    if plan.evaluation.validation_epsilon is None:
        return {}
    consents = {site: this.consents[site] for site in this.accepted}
    began, payloads = _payloads(plan, adapter, consents), _payloads(plan, candidate, consents)
    digest = plan.digest()
    questions = [
        Question("validate", run_id, this.number, site, digest, {"before": began[site].sha256}, payloads[site])
        for site in sorted(consents)
    ]
    aside = replace(this, failures={})
    told: dict[str, Validation] = {}
    for answer in _answers(link, questions, aside, deadline_s=plan.run.deadline_s):
        with contextlib.suppress(FedError):
            _require_kind(answer, "validation")
            told[answer.site_id] = validation_from(answer.body)
    return told


def _stop_if_rejected_again(records: Sequence[RoundRecord], plan: RunPlan) -> None:
    """Round after round rejected spends the patients' privacy for nothing: a person has to look first."""
    last = [record.outcome for record in records[-gate.REJECTIONS_IN_A_ROW :]]
    if len(last) == gate.REJECTIONS_IN_A_ROW and all(word.startswith("gate-") for word in last):
        raise GateError(
            "rounds-rejected",
            f"round {records[-1].round_number}: {len(last)} rounds in a row were rejected ({OUTCOMES[last[-1]]})",
            hint="find the site whose updates are wrong; to resume is to try one round more",
        )


def _ask_consent(
    plan: RunPlan, link: Link, run_id: str, this: _Round, quorum: int, last: RoundRecord | None
) -> dict[str, Consent]:
    """Every consent that was given. Refusals and failures are noted: they are answers, not errors.

    A site whose answer was left out of the round before is told so, and why: its privacy may be spent all the same.
    """
    body: dict[str, Value] = {"plan": plan.value(), "protocol": PROTOCOL, "quorum": quorum}
    left_out = {} if last is None else {site: _previous(last, site) for site in last.failures}
    digest = plan.digest()
    questions = [
        Question("consent", run_id, this.number, site_id, digest, body | left_out.get(site_id, {}))
        for site_id in this.site_ids
    ]
    given: dict[str, Consent] = {}
    for answer in _answers(link, questions, this, deadline_s=plan.run.deadline_s):
        try:
            if answer.kind == "refusal":
                this.refusals[answer.site_id] = refusal_from(answer.body).reasons
            else:
                _require_kind(answer, "consent")
                given[answer.site_id] = consent_from(answer.body)
        except FedError as error:
            this.failures[answer.site_id] = _code(error, answer)
    return given


def _previous(last: RoundRecord, site_id: str) -> dict[str, Value]:
    return {"previous": {"round_number": last.round_number, "outcome": last.failures[site_id]}}


def _choose(plan: RunPlan, this: _Round, given: Mapping[str, Consent], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The participants: those who consented with the plan's base, and with the adapter shapes of the run."""
    base = plan.model.sha256 or _most_common([consent.base_digest for consent in given.values()])
    for site_id, consent in given.items():
        if consent.base_digest != base:
            this.failures[site_id] = "base-digest"
        elif not _fits(plan, consent, shapes):
            this.failures[site_id] = "adapter-shape"
        elif (consent.terms is None) != (plan.privacy.unit == "none") or (
            consent.terms is not None and consent.terms.shared != shared_of(plan, shapes)
        ):
            this.failures[site_id] = "message-context"
        else:
            this.consents[site_id] = consent


def _ask_training(plan: RunPlan, link: Link, run_id: str, this: _Round, adapter: Adapter) -> Iterator[Answer]:
    """The sites' answers to the training question, refusals noted."""
    payloads = _payloads(plan, adapter, this.consents)
    digest = plan.digest()
    questions = [
        Question("train", run_id, this.number, site_id, digest, payload=payloads[site_id])
        for site_id in sorted(this.consents)
    ]
    for answer in _answers(link, questions, this, deadline_s=plan.run.deadline_s):
        if answer.kind != "refusal":
            yield answer
        else:
            try:
                this.refusals[answer.site_id] = refusal_from(answer.body).reasons
            except FedError as error:
                this.failures[answer.site_id] = error.code
        del answer


def _updates(
    plan: RunPlan, this: _Round, weights: Mapping[str, int], answers: Iterator[Answer]
) -> Iterator[tuple[AdapterUpdate, int]]:
    """The usable updates with their weights, one at a time; each is gone before the next one is received."""
    for answer in answers:
        try:
            _require_kind(answer, "update")
            update = codec.load_as(AdapterUpdate, *(answer.payload.pieces if answer.payload else ()))
            _check(plan, update, this.consents[answer.site_id].shapes, this.number)
        except FedError as error:
            this.failures[answer.site_id] = _code(error, answer)
            continue
        this.accepted.append(answer.site_id)
        weight = weights[answer.site_id]
        del answer
        yield update, weight
        del update


def _masked_mean(
    plan: RunPlan,
    link: Link,
    checkpoints: Checkpoints,
    this: _Round,
    adapter: Adapter,
    weights: Mapping[str, int],
    answers: Iterator[Answer],
    quorum: int,
    roster: Mapping[str, bytes],
    before: MaskedRecord | None,
) -> Updates:
    """The mean of those who survive the masked round, or of each group's; none if the round is closed, or if too few
    sites have trained. A group that cannot be opened, or whose mean is longer than its sites can make, is left out."""
    for answer in answers:
        try:
            _require_kind(answer, "trained")
            this.accepted.append(answer.site_id)
        except FedError as error:
            this.failures[answer.site_id] = _code(error, answer)
    for site in [site for site in this.accepted if site not in roster]:
        this.accepted.remove(site)
        this.failures[site] = "secagg-unknown-site"
    if len(this.accepted) < quorum:
        return []
    size = plan.aggregation.group_size
    groups = groups_of([site for site in this.site_ids if site in roster], size)
    trained, this.accepted = set(this.accepted), []
    opened: list[tuple[AdapterUpdate, Mapping[str, int]]] = []
    seen: list[MaskedRecord] = []
    for number, group in enumerate(groups, start=1):
        kept = KeptRound(checkpoints.folder, this.number, group=number if size else 0)
        if number == 1:
            kept.begin()
        consents = {site: this.consents[site] for site in group if site in trained}
        if len(consents) < size:
            this.closed = "secagg-roster-too-small"
            this.failures |= dict.fromkeys(consents, this.closed)
            continue
        within = weights_of(plan, consents) if size else {s: weights[s] for s in consents}
        try:
            found, masked = _one_sum(
                plan, link, checkpoints.run_id, this, adapter, within, roster, before, kept, quorum=size or quorum
            )
        except FedError as error:
            this.closed = error.code
            this.failures |= {site: this.failures.get(site, error.code) for site in consents if size}
            continue
        seen.append(masked)
        survivors = {site: within[site] for site in found.survivors}
        mean = found.decoded.mean
        if size:
            honest = {site: (consents[site], float(weight)) for site, weight in survivors.items()}
            bound = gate.allowed(plan, adapter, this.number, honest, rule="none")
            rejection = gate.judge(Aggregate(mean, mean.norm()), bound=bound).rejection
            if rejection is not None:
                this.closed = rejection
                this.failures |= dict.fromkeys(survivors, rejection)
                seen[-1] = _without_sizes(masked, before)
                continue
        opened.append((mean, survivors))
        this.accepted += found.survivors
    this.masked = joined(seen) if seen else None
    if len(opened) < FEWEST.get(plan.aggregation.robust_rule, 1) or len(this.accepted) < quorum:
        this.closed = this.closed or "secagg-survivors-too-few"
        return []
    this.closed = ""
    means, shares = shares_of(opened, weights)
    this.shares = shares if size else {}
    return means


def _one_sum(
    plan: RunPlan,
    link: Link,
    run_id: str,
    this: _Round,
    adapter: Adapter,
    weights: Mapping[str, int],
    roster: Mapping[str, bytes],
    before: MaskedRecord | None,
    kept: KeptRound,
    *,
    quorum: int,
) -> tuple[MaskedSum, MaskedRecord]:
    """One masked sum of these sites. Raises: FedError if it cannot be opened, or is no update of this round."""
    factors = plan.adapter.trained_factors(this.number)
    shapes = {name: shape for name, shape in adapter.shapes.items() if factor(name) in factors}
    encoding = encoding_for(plan, shapes, weights, this.consents, before)
    inputs = inputs_digest(
        base_digest=next(iter(this.consents.values())).base_digest,
        adapter_digest=adapter.digest(),
        encoding=encoding.value(),
        shapes=shapes,
        roster=roster,
    )
    round_id = RoundId(run_id, this.number, plan.digest())
    collected = ServerRound(round_id, roster, encoding, inputs=inputs, quorum=quorum)

    def leave_out(answer: Answer, error: FedError) -> None:
        this.failures[answer.site_id] = _code(error, answer)

    def ask(kind: MaskedStage, bodies: Mapping[str, Mapping[str, Value]]) -> Iterator[Answer]:
        questions = [
            Question(kind, run_id, this.number, site, round_id.plan_digest, body) for site, body in bodies.items()
        ]
        return _answers(link, questions, this, deadline_s=plan.run.deadline_s)

    found = masked_sum(collected, ask, leave_out, kept)
    _check(plan, found.decoded.mean, adapter.shapes, this.number)
    kept.transcript(collected.transcript(found.decoded.mean.digest()))
    return found, record_of(found, encoding, before)


def _without_sizes(masked: MaskedRecord, before: MaskedRecord | None) -> MaskedRecord:
    """The sizes of the matrices as they were known before."""
    return replace(masked, rms={} if before is None else before.rms)


def _check(plan: RunPlan, update: AdapterUpdate, shapes: Mapping[str, tuple[int, ...]], round_number: int) -> None:
    check_update(
        update,
        shapes=shapes,
        factors=plan.adapter.trained_factors(round_number),
        max_rms=plan.aggregation.max_update_rms,
    )


def _payloads(plan: RunPlan, adapter: Adapter, consents: Mapping[str, Consent]) -> dict[str, Payload]:
    """The adapter as it travels: one copy and one hash for all sites; under `stack` for all sites of the same rank."""
    if plan.adapter.method != "stack":
        return dict.fromkeys(consents, Payload(codec.dump(adapter)))
    ranks = {site_id: rank_of(consent.shapes) for site_id, consent in consents.items()}
    made = {rank: Payload(codec.dump(adapter.cut(rank))) for rank in sorted(set(ranks.values()))}
    return {site_id: made[rank] for site_id, rank in ranks.items()}


def _answers(link: Link, questions: Sequence[Question], this: _Round, *, deadline_s: float) -> Iterator[Answer]:
    """The first answer of every site that fits its question. Silence and misfits are noted."""
    open_questions = {question.site_id: question for question in questions}
    for question in questions:
        this.downlink[question.site_id] += size_bytes(question)
    for answer in link.ask(questions, deadline_s=deadline_s):
        size = size_bytes(answer)
        this.sent.append(SentMessage(answer.site_id, answer.kind, size, answer.digest()))
        this.uplink[answer.site_id] += size
        asked = open_questions.pop(answer.site_id, None)
        if asked is None:
            continue  # a second answer, or a site that was not asked: the first answer stands
        try:
            check_answers(asked, answer)
        except FormatError as error:
            this.failures[answer.site_id] = error.code
            continue
        yield answer
        del answer
    this.failures |= dict.fromkeys(open_questions, "no-answer")


def _require_kind(answer: Answer, kind: str) -> None:
    if answer.kind != kind:
        raise FormatError("message-kind", "an answer of another kind than was asked for", hint="compare the versions")


def _code(error: FedError, answer: Answer) -> str:
    """Why an answer was left out: the site's own code if it reported a failure, otherwise ours. Never free text."""
    match answer:
        case Answer(kind="failure", body={"code": str(code)}) if code in FAILURE_CODES:
            return code
    return error.code


def _shapes_of_most(plan: RunPlan, given: Mapping[str, Consent]) -> dict[str, tuple[int, ...]]:
    """The adapter's shapes as most sites state them; under `stack` with the plan's rank, whatever theirs is."""
    stated = [
        at_rank(consent.shapes, plan.adapter.rank) if plan.adapter.method == "stack" else dict(consent.shapes)
        for consent in given.values()
    ]
    return dict(_most_common([tuple(sorted(shapes.items())) for shapes in stated]) or ())


def _fits(plan: RunPlan, consent: Consent, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a site's adapter is the run's, or under `stack` the run's at a lower rank."""
    rank = rank_of(consent.shapes) if plan.adapter.method == "stack" else None
    return dict(consent.shapes) == (dict(shapes) if rank is None else at_rank(shapes, min(rank, plan.adapter.rank)))


def _most_common(values: Sequence[T]) -> T | None:
    """The value that most sites gave; of equally many, that of the first site."""
    return Counter(values).most_common(1)[0][0] if values else None


def _quorum(plan: RunPlan, this: _Round, roster: Mapping[str, bytes]) -> int:
    with_key = len(set(this.site_ids) & set(roster))
    if plan.aggregation.secure and with_key < SECURE_SITES_MIN:
        raise QuorumError(
            "secagg-roster-too-small",
            f"secure aggregation needs three sites with a key on the roster; there are {with_key}",
            hint="add sites, or set [aggregation] secure = false in the plan",
        )
    if plan.aggregation.secure and len(this.site_ids) > SITES_MAX:
        raise QuorumError(
            "quorum-unreachable",
            f"a masked sum takes {SITES_MAX} sites at most",
            hint="run with fewer sites, or set [aggregation] secure = false in the plan",
        )
    quorum = plan.run.quorum or max(1, len(this.site_ids))
    quorum = max(quorum, plan.privacy.sites_least(len(this.site_ids)))  # or the sum would lack noise
    _require(quorum <= len(this.site_ids), "quorum-unreachable", "can be asked", this, quorum)
    return quorum


def _require(holds: bool, code: str, what: str, this: _Round, quorum: int) -> None:
    if holds:
        return
    count = {"quorum-consent": len(this.consents), "quorum-answers": len(this.accepted)}.get(code, len(this.site_ids))
    why = {**{site: ", ".join(reasons) for site, reasons in this.refusals.items()}, **this.failures}
    named = "; ".join(f"{site}: {reason}" for site, reason in sorted(why.items()))
    raise QuorumError(
        code,
        f"round {this.number}: {count} of {len(this.site_ids)} sites {what}, the quorum is {quorum}"
        + (f" ({named})" if named else ""),
        hint="settle what the sites say, then resume the run; its last whole round is kept",
    )


def _record(
    this: _Round, weights: Mapping[str, int], adapter: Adapter, result: Adapter, *, seconds: float
) -> RoundRecord:
    digest = adapter.digest()
    return RoundRecord(
        round_number=this.number,
        asked=this.site_ids,
        participants=tuple(sorted(this.consents)),
        accepted=tuple(this.accepted) if this.outcome == "accepted" else (),
        refusals=this.refusals,
        failures=this.failures,
        weights=weights,
        declared_patients={site: consent.declared_patients for site, consent in this.consents.items()},
        privacy={site: consent.terms for site, consent in this.consents.items()},
        uplink_bytes=dict(this.uplink),
        downlink_bytes=dict(this.downlink),
        messages=tuple(this.sent),
        outcome=this.outcome,
        gate=this.gate,
        update_rms=this.update_rms,
        adapter_digest=digest,
        result_digest=digest if result is adapter else result.digest(),
        seconds=seconds,
        masked=this.masked,
        closed=this.closed,
    )
