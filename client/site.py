"""How a site answers one question: verify, decide, pay, train, keep, reply. The story of a site.

The site has the last word. It trains only on a plan that it has read and that its own policy allows, it pays its own
ledger before the first patient is drawn, and what it has once answered it repeats byte for byte, never computed again.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from client import policy as policies
from client import without_privacy
from client.masking import Masking, read_answer
from client.policy import Policy
from client.settings import Settings
from federation import canonical, codec, durable, messages
from federation.adapter import Adapter, AdapterUpdate, Factor, check_update
from federation.consent import PROTOCOL, Consent, PrivacyTerms, Refusal
from federation.errors import BudgetError, FedError, FormatError, ModelError, SettingsError, StoreError
from federation.evaluation import Evaluation, Validation
from federation.messages import Answer, Payload, Question, answer_to
from federation.plan import RunPlan, plan_from_value
from federation.privacy import accounting, histograms, validation
from federation.privacy.accounting import Event, SharedNoise
from federation.privacy.clipping import FlatClipping
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeySource, KeyStream
from federation.privacy.ledger import Ledger, Spend, ensure_within_budget, epsilon_of, events_per_person
from federation.privacy.mechanism import Mechanism, NoisyShare
from federation.privacy.records import dump_head, load_head
from federation.privacy.sampling import PoissonSampling
from federation.private_step import mechanism_of, shared_of
from federation.secagg.bodies import Identity
from federation.trust import times

PAID = "paid.json"  # the ledger's head when this site last paid: the next start must find it in the ledger


class Learner(Protocol):
    """The part that touches patients: a loaded base model and this site's examples."""

    def base_digest(self) -> str: ...

    def adapter_shapes(self, plan: RunPlan) -> Mapping[str, tuple[int, ...]]: ...

    def declared_patients(self) -> int: ...

    def keying(self) -> str:
        """Names the secret and the rules that made the patients' keys: with others the same people have other keys."""
        ...

    def data_released(self) -> bool:
        """Whether a person has released this very data set for training."""
        ...

    def update(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism | None,
        keys: KeySource,
        label: str,
    ) -> AdapterUpdate:
        """The update of one round, of these factors only; `mechanism` is None only for a plan without privacy."""
        ...

    def share(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism,
        keys: KeySource,
        label: str,
    ) -> NoisyShare:
        """This site's part of one step that the sites take together: its sum with its share of the noise."""
        ...


class Examiner(Protocol):
    """The part that shows held-out patients to an adapter."""

    def examine(self, plan: RunPlan, adapter: Adapter) -> Sequence[Answers]:
        """The scored cases of each of the plan's questions, in their order."""
        ...


@dataclass(frozen=True)
class _Run:
    """What this site fixed when it first consented to a run."""

    plan: RunPlan
    noise_multiplier: float | None
    quorum: int


class Site:
    """One hospital. Whatever must survive a restart is in `state_dir` and in the ledger."""

    def __init__(
        self,
        settings: Settings,
        policy: Policy,
        ledger: Ledger,
        keys: KeySource,
        learner: Learner,
        state_dir: Path,
        *,
        identity: Callable[[], Identity] | None = None,
        now_utc: Callable[[], str] = times.now,
        on_failure: Callable[[Exception], None] = lambda error: None,
        examiner: Examiner | None = None,
    ) -> None:
        """Without an `identity` the site takes part in no masked sum; without an `examiner` it examines nobody, and
        answers such a question with `message-kind`. `identity` is asked anew for every round: officers may have signed
        another roster since the last one. `on_failure` hears, on this machine only, of every error that an
        answer reduces to its code.
        """
        self.examiner = examiner
        self.site_id = settings.site.id
        self.coordinator = settings.site.coordinator
        self.declared_patients = settings.data.declared_patients
        self.policy, self.ledger, self.keys, self.learner, self.state_dir = policy, ledger, keys, learner, state_dir
        self.now_utc, self.on_failure = now_utc, on_failure
        if learner.declared_patients() != self.declared_patients:
            raise SettingsError(
                "settings-value",
                "the learner divides by another number of patients than site.toml declares",
                hint="start the site again after a change of declared_patients",
            )
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        (state_dir / "runs").mkdir(exist_ok=True)
        (state_dir / "approvals").mkdir(exist_ok=True)
        if (state_dir / PAID).exists():  # an old backup of the ledger beside a newer state folder
            ledger.require_descends_from(load_head((state_dir / PAID).read_bytes()))
        self.cohort_id = _cohort_id(state_dir, keys, learner.keying())
        self.masking = None if identity is None else Masking(identity, keys, state_dir)
        self._runs: dict[str, _Run] = {}  # what run.json says, once read

    def answer(self, question: Question) -> Answer:
        """One answer to one question. Never raises: across the Link goes a code, not an exception."""
        try:
            if question.site_id != self.site_id:
                raise FormatError(
                    "message-context", "a question for another site", hint="check the carrier's addresses"
                )
            match question.kind:
                case "consent":
                    return self._consent(question)
                case "train":
                    return self._train(question)
                case "validate":
                    return self._validate(question)
                case "evaluate":
                    return self._evaluate(question)
                case _:
                    return self._mask(question)
        except Exception as error:
            self.on_failure(error)
            code = error.code if isinstance(error, FedError) else "internal"
            return answer_to(question, "failure", {"code": code})

    def _consent(self, question: Question) -> Answer:
        """Read the plan, work out this site's terms, let the policy decide, and remember what was agreed."""
        if question.body.get("protocol") != PROTOCOL:
            return answer_to(question, "refusal", Refusal(("version_differs",)).body())
        value, quorum = question.body.get("plan"), question.body.get("quorum")
        if (
            canonical.digest(value) != question.plan_digest
            or not isinstance(quorum, int)
            or question.payload is not None
        ):
            raise FormatError("message-context", "the question does not fit its plan", hint="ask with the plan itself")
        known = self._known_run(question)
        plan = plan_from_value(value) if known is None else known.plan
        try:
            noise = self._noise_multiplier(plan) if known is None else known.noise_multiplier
        except BudgetError as error:
            if error.code != "budget-unreachable":
                raise
            return answer_to(question, "refusal", Refusal(("budget_exhausted",)).body())

        run = _Run(plan, noise, quorum)
        decision = self._decide(question, run)
        if isinstance(decision, Refusal):
            return answer_to(question, "refusal", decision.body())
        self._remember(question, run)
        return answer_to(question, "consent", decision.body())

    def _train(self, question: Question) -> Answer:
        """Decide again, pay, train, check, keep the answer, reply."""
        kept = read_answer(self._slot(question), question)
        if kept is not None:  # asked again: the same bytes, and nothing is spent
            return kept
        run, payload = self._agreed(question)
        decision = self._decide(question, run)
        if isinstance(decision, Refusal):
            return answer_to(question, "refusal", decision.body())
        adapter = self._fitting(self._narrowed(run.plan), payload)
        mechanism = self._mechanism(run)
        if run.plan.evaluation.validation_epsilon is not None:  # what this round's candidate will be compared with
            durable.overwrite(self._folder(question) / "begun.adapter", payload.pieces)

        if mechanism is not None and decision.terms is not None:
            event = mechanism.event(run.plan.training.local_steps)
            part = _trained_part(run.plan)
            self._pay(question, event, decision.terms.delta, part, charge=question.round_number)
        else:
            without_privacy.record(self.state_dir, question.run_id, self.cohort_id, _trained_part(run.plan))
        label = f"{question.run_id}/{question.round_number}"
        factors = run.plan.adapter.trained_factors(question.round_number)
        if mechanism is not None and mechanism.shared is not None:  # no look at it: most of its noise is elsewhere
            share = self.learner.share(run.plan, factors, adapter, mechanism, self.keys, label)
            self._masking().keep_share(self._slot(question), question, share, adapter.part(factors).shapes)
            return self._keep(question, answer_to(question, "trained", {}))
        update = self.learner.update(self._narrowed(run.plan), factors, adapter, mechanism, self.keys, label)
        check_update(
            update,
            shapes=adapter.shapes,
            factors=factors,
            max_rms=run.plan.aggregation.max_update_rms,
        )
        if run.plan.aggregation.secure:  # the update stays here until it is masked
            self._masking().keep(self._slot(question), question, update)
            return self._keep(question, answer_to(question, "trained", {}))
        return self._keep(question, answer_to(question, "update", {}, Payload(*update.pieces())))

    def _mask(self, question: Question) -> Answer:
        """One of the five questions of the masked sum; client/masking.py has the rules."""
        run = self._known_run(question)
        if run is None or not run.plan.aggregation.secure:
            raise FormatError("message-context", "no consent to a masked run", hint="ask for consent first")
        return self._masking().answer(
            question,
            self._slot(question),
            run.plan,
            base_digest=self.learner.base_digest(),
            quorum=max(self.policy.quorum_min, run.plan.aggregation.group_size),
            shared=self._shared(run.plan),
        )

    def _masking(self) -> Masking:
        if self.masking is None:
            raise FormatError("message-context", "this site has no roster", hint="start it with its identity")
        return self.masking

    def _validate(self, question: Question) -> Answer:
        """After a round: decide, pay, and say with noise what its candidate changed for the held-out patients.

        It is compared with the adapter that the round began with, as this site was asked to train it.
        """
        kept = read_answer(self._slot(question), question)
        if kept is not None:
            return kept
        run, payload = self._agreed(question)
        wanted, last, plan = run.plan.evaluation.validation_epsilon, run.plan.run.rounds, self._narrowed(run.plan)
        begun = self._folder(question) / "begun.adapter"
        if self.examiner is None or wanted is None or not 1 <= question.round_number <= last or not begun.exists():
            raise _not_due("after a round that this site has trained in, if the plan has a price")
        before = Payload(begun.read_bytes())
        if question.body != {"before": before.sha256}:
            raise FormatError("message-context", "another round began with this adapter", hint="this site sits it out")
        charge = last + 1 + question.round_number  # as the ledger numbers it: after the rounds, and the evaluation
        decided = self._decide_held_out(question, plan, charge, epsilon=wanted, looks=last)
        if isinstance(decided, Refusal):
            return answer_to(question, "refusal", decided.body())
        adapters = [self._fitting(plan, one) for one in (before, payload)]

        mechanism, terms = decided
        self._pay(question, mechanism.event(1), terms.delta, _held_out_part(plan), charge=charge)
        stream = KeyStream(self.keys.key(f"{question.run_id}/{question.round_number}/validation"))
        divisor = plan.evaluation.held_out_patients(self.declared_patients)
        one, two = (self.examiner.examine(plan, adapter) for adapter in adapters)
        change = validation.release(one, two, mechanism, stream, divisor=divisor)
        return self._keep(question, answer_to(question, "validation", Validation(terms, change).body()))

    def _evaluate(self, question: Question) -> Answer:
        """After the last round: decide, pay for the held-out patients, examine them, noise, keep the answer, reply.

        They are other patients than those trained on, and the charge says so. One release per run.
        """
        kept = read_answer(self._slot(question), question)
        if kept is not None:
            return kept
        run, payload = self._agreed(question)
        plan, wanted, charge = run.plan, run.plan.evaluation.private_epsilon, run.plan.run.rounds + 1
        if self.examiner is None or wanted is None or question.round_number != charge:
            raise _not_due("once, after the last round, if the plan has a price")
        decided = self._decide_held_out(question, plan, charge, epsilon=wanted, looks=1)
        if isinstance(decided, Refusal):
            return answer_to(question, "refusal", decided.body())
        adapter = self._fitting(plan, payload)

        mechanism, terms = decided
        self._pay(question, mechanism.event(1), terms.delta, _held_out_part(plan), charge=charge)
        answers = self.examiner.examine(plan, adapter)
        label = f"{question.run_id}/{charge}"
        made = histograms.release(
            answers, mechanism, lambda name: KeyStream(self.keys.key(f"{label}/evaluation/{name}"))
        )
        return self._keep(question, answer_to(question, "evaluation", Evaluation(terms, made).body()))

    def _decide_held_out(
        self, question: Question, plan: RunPlan, charge: int, *, epsilon: float, looks: int
    ) -> tuple[Mechanism, PrivacyTerms] | Refusal:
        """The noise of one of so many looks at the held-out patients, which cost this epsilon together; or why not."""
        delta, part = self._delta(plan), _held_out_part(plan)
        least = accounting.noise_multiplier_for(epsilon, delta=delta, sampling_rate=1.0, steps=looks)
        mechanism = Mechanism(PoissonSampling(1.0), FlatClipping(1.0), max(least, self.policy.noise_multiplier_min))
        before = self._spent_before(question.run_id, charge)
        after = epsilon_of(before, delta, whom=(self.cohort_id, part), adding=(mechanism.event(1),))
        terms = PrivacyTerms(mechanism.noise_multiplier, 1.0, delta, after, after)
        refusal = policies.decide_evaluation(
            self.policy,
            terms,
            self.declared_patients,
            approved=self._approved(question),
            unbounded=without_privacy.touched(self.state_dir, self.cohort_id, part),
        )
        return refusal or (mechanism, terms)

    def _fitting(self, plan: RunPlan, payload: Payload) -> Adapter:
        """The adapter in this payload, if it fits this site's base."""
        adapter = codec.load_as(Adapter, *payload.pieces)
        if adapter.shapes != {name: tuple(shape) for name, shape in self.learner.adapter_shapes(plan).items()}:
            raise ModelError("adapter-shape", "the adapter does not fit the base", hint="compare model and plan")
        self._require_space(payload.size)
        return adapter

    def _decide(self, question: Question, run: _Run) -> Consent | Refusal:
        plan = run.plan
        if not 1 <= question.round_number <= plan.run.rounds:
            raise FormatError("message-context", "a round that the plan does not have", hint="rounds count from 1")
        offer = Consent(
            base_digest=self.learner.base_digest(),
            shapes={name: tuple(shape) for name, shape in self.learner.adapter_shapes(self._narrowed(plan)).items()},
            declared_patients=self.declared_patients,
            terms=self._terms(question, run),
        )
        can_mask = self.masking is not None and self.masking.is_on_roster(self.site_id)
        return policies.decide(
            self.policy,
            plan,
            offer,
            quorum=run.quorum,
            approved=self._approved(question),
            released=self.learner.data_released(),
            can_mask=can_mask,
            unbounded=without_privacy.touched(self.state_dir, self.cohort_id, _trained_part(plan)),
        )

    def _narrowed(self, plan: RunPlan) -> RunPlan:
        """The plan as this site trains it: under `stack` at most the rank that it has room for."""
        if plan.adapter.method != "stack" or plan.adapter.rank <= self.policy.rank_max:
            return plan
        return replace(plan, adapter=plan.adapter.at_rank(self.policy.rank_max))

    def _terms(self, question: Question, run: _Run) -> PrivacyTerms | None:
        """Epsilon of everything in the ledger with this round, and with the rest of the run. None without privacy."""
        mechanism = self._mechanism(run)
        if mechanism is None:
            return None
        plan, delta = run.plan, self._delta(run.plan)
        spent = self._spent_before(question.run_id, question.round_number)
        whom = (self.cohort_id, _trained_part(plan))
        round_event = mechanism.event(plan.training.local_steps)
        rounds_left = plan.run.rounds - question.round_number + 1
        return PrivacyTerms(
            noise_multiplier=mechanism.noise_multiplier,
            sampling_rate=plan.training.sampling_rate,
            delta=delta,
            epsilon_after_round=epsilon_of(spent, delta, whom=whom, adding=(round_event,)),
            epsilon_at_end=epsilon_of(spent, delta, whom=whom, adding=(round_event,) * rounds_left),
            shared=mechanism.shared,
        )

    def _mechanism(self, run: _Run) -> Mechanism | None:
        """The private step that the plan and this site's noise mean; None for a plan without privacy."""
        if run.noise_multiplier is None:
            return None
        return mechanism_of(run.plan, run.noise_multiplier, self._shared(run.plan))

    def _shared(self, plan: RunPlan) -> SharedNoise | None:
        """How the sites share the noise, if the plan says so: what was agreed at the consent, found anew."""
        return shared_of(plan, self.learner.adapter_shapes(plan)) if plan.privacy.honest_sites else None

    def _noise_multiplier(self, plan: RunPlan) -> float | None:
        """The plan's noise, or the least that keeps the whole run, on top of all earlier runs, within its target.

        A target above this site's own limit is lowered to it, and the noise is never below this site's minimum.
        """
        if plan.privacy.unit == "none" or plan.privacy.target_epsilon is None:
            return plan.privacy.noise_multiplier
        least = max(
            accounting.noise_multiplier_for(
                min(plan.privacy.target_epsilon, self.policy.epsilon_max),
                delta=self._delta(plan),
                sampling_rate=plan.training.sampling_rate,
                steps=plan.total_steps,
                spent=spent,
            )
            for spent in events_per_person(self.ledger.spends(), (self.cohort_id, _trained_part(plan)))
        )
        return max(least, self.policy.noise_multiplier_min)

    def _delta(self, plan: RunPlan) -> float:
        return plan.privacy.delta if plan.privacy.delta is not None else 1 / (10 * self.declared_patients)

    def _approved(self, question: Question) -> bool:
        """Whether a person here approved this very plan."""
        return (self.state_dir / "approvals" / question.plan_digest).exists()

    def _spent_before(self, run_id: str, charge: int) -> list[Spend]:
        """The ledger but for this charge, which may be in it already."""
        return [item for item in self.ledger.spends() if (item.run_id, item.round_number) != (run_id, charge)]

    def _pay(self, question: Question, event: Event, delta: float, part: tuple[float, float], *, charge: int) -> None:
        """Reserve the whole charge in the ledger, under its number in the run: a round's is the round's own. What is
        paid and has no kept answer is over: the process died in between, and training again would be a second release
        for one payment."""
        if self.ledger.find(question.run_id, charge) is not None:
            raise BudgetError("round-closed", "this round is already paid for", hint="this site joins the next round")
        spend = Spend(
            run_id=question.run_id,
            round_number=charge,
            coordinator=self.coordinator,
            cohort_id=self.cohort_id,
            event=event,
            delta=delta,
            declared_patients=self.declared_patients,
            time_utc=self.now_utc(),
            part=part,
        )
        # The policy has already decided; this is the last wall before the ledger is written.
        ensure_within_budget(self.ledger, spend, self.policy.epsilon_max, self.policy.delta_max)
        self.ledger.reserve(spend)
        durable.write(self.state_dir / PAID, [dump_head(self.ledger.head)])

    # What survives a restart: one folder per run with the agreed plan and the answers of its last two rounds.

    def _folder(self, question: Question) -> Path:
        return self.state_dir / "runs" / question.run_id

    def _slot(self, question: Question) -> Path:
        """Odd and even rounds take turns: a question of this round proves that the answer before the last arrived."""
        kind = "validation" if question.kind == "validate" else "answer"
        return self._folder(question) / f"{'odd' if question.round_number % 2 else 'even'}.{kind}"

    def _known_run(self, question: Question) -> _Run | None:
        """The run as agreed; refuses another plan under the same run id."""
        path = self._folder(question) / "run.json"
        if question.run_id in self._runs:
            run = self._runs[question.run_id]
        elif not path.exists():
            return None
        else:
            run = self._runs[question.run_id] = _read_run(path)
        if run.plan.digest() != question.plan_digest:
            raise FormatError("message-context", "this run has another plan", hint="give every run its own run id")
        return run

    def _agreed(self, question: Question) -> tuple[_Run, Payload]:
        """The run that this site has consented to, and what came with the question."""
        run = self._known_run(question)
        if run is None or question.payload is None:
            raise FormatError("message-context", "no consent to this run", hint="ask for consent first")
        return run, question.payload

    def _keep(self, question: Question, answer: Answer) -> Answer:
        """The answer, on disk before it leaves: the same question gets these bytes again."""
        durable.overwrite(self._slot(question), messages.pieces(answer))
        return answer

    def _remember(self, question: Question, run: _Run) -> None:
        if self._runs.get(question.run_id) == run:
            return
        noise = None if run.noise_multiplier is None else canonical.decimal(run.noise_multiplier)
        text = canonical.dump({"plan": run.plan.value(), "noise_multiplier": noise, "quorum": run.quorum})
        self._folder(question).mkdir(exist_ok=True)
        durable.write(self._folder(question) / "run.json", [text])
        self._runs[question.run_id] = run

    def _require_space(self, size_bytes: int) -> None:
        if shutil.disk_usage(self.state_dir).free < 4 * size_bytes:
            raise StoreError("disk-full", "too little free disk for an answer", hint="free some space at the site")


def approve(state_dir: Path, plan_digest: str) -> None:
    """A person at this site approves this very plan; needed where the policy says approve = "each-plan"."""
    if messages.DIGEST.fullmatch(plan_digest) is None:
        raise FormatError("not-canonical", "a plan digest has 64 hexadecimal characters", hint="copy it whole")
    folder = state_dir / "approvals"
    folder.mkdir(parents=True, exist_ok=True)
    durable.write(folder / plan_digest, [])


def _trained_part(plan: RunPlan) -> tuple[float, float]:
    """Whom a round can touch: everybody but the held-out patients (client/training/cohort.py)."""
    return (plan.evaluation.held_out_share, 1.0)


def _held_out_part(plan: RunPlan) -> tuple[float, float]:
    return (0.0, plan.evaluation.held_out_share)


def _not_due(when: str) -> FormatError:
    return FormatError("message-kind", "no look at held-out patients is due here", hint=when)


def _read_run(path: Path) -> _Run:
    match canonical.load(path.read_bytes()):
        case {"plan": plan, "noise_multiplier": noise, "quorum": int(quorum)}:
            return _Run(plan_from_value(plan), None if noise is None else canonical.number(noise), quorum)
        case _:
            raise StoreError("store-damaged", "the record of a run is damaged", hint="restore the state folder")


def _cohort_id(state_dir: Path, keys: KeySource, keying: str) -> str:
    """A random name for this site's cohort, made once. Not a hash of data: that would say when the data changed.

    With another secret the same people have other keys, so who was held out may now be trained on. They are another
    cohort then, and the ledger adds up what was done with both.
    """
    name = f"cohort-{hashlib.sha256(keying.encode()).hexdigest()[:16]}"
    if not (state_dir / name).exists():
        durable.write(state_dir / name, [keys.key(name)[:16].hex().encode("ascii")])
    return (state_dir / name).read_text(encoding="ascii")
