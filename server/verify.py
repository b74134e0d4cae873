"""`wardround verify`: what a run's folder proves, checked offline, step by step, by somebody who was not there.

Trusted is nothing in the folder but what follows from the officers' keys: their words are printed, to be compared with
those that the officers gave. What cannot be shown this way is said as well (`CANNOT`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from federation import canonical
from federation.canonical import Value
from federation.consent import PrivacyTerms
from federation.errors import FedError, TrustError
from federation.plan import RunPlan
from federation.privacy import accounting
from federation.privacy.accounting import Event
from federation.private_step import mechanism_of
from federation.secagg.bodies import RoundId
from federation.trust import entries, envelope, fingerprint, translog
from federation.trust import roster as rosters
from federation.trust.roster import Roster, SignedRoster
from federation.trust.translog import Entry, Log
from server import masked_evidence
from server.checkpoint import Checkpoints
from server.evidence import LOG_FOLDER, ROSTER_NAME, log_origin, sha256
from server.masked_round import transcript_name
from server.record import RoundRecord

CANNOT = (
    "not shown: that a site trained on real data, used the noise it states, or de-identified well; that the parties "
    "did not agree among themselves; that no site was shown a second log, but for those whose logs were given"
)
T = TypeVar("T")
ONLY_RELEASED = ("curve.json", "evaluation.json")  # in run/, written after rounds: only the release knows their digests
TOLERANCE = 1e-6  # between an epsilon as stated and as computed again


@dataclass(frozen=True)
class Step:
    name: str
    passed: bool
    says: str


@dataclass
class _Run:
    """What the steps have established so far; each step uses only what an earlier one has checked."""

    folder: Path  # with report.json and adapter/
    words: str | None  # of the officers, if the reader knows them
    site_logs: Sequence[Path] = ()
    signed: SignedRoster | None = None
    checkpoints: Checkpoints | None = None
    log: Log | None = None
    history: tuple[tuple[str, RoundRecord], ...] = ()
    rosters: list[Roster] = field(default_factory=list)
    ready_under: dict[int, Roster] = field(default_factory=dict)  # round -> of its masked sum

    @property
    def run(self) -> Path:
        return self.folder / "run"


def verify(folder: Path, *, words: str | None = None, site_logs: Sequence[Path] = ()) -> list[Step]:
    """Every step in order; after the first that fails, those that rest on it are not tried. Changes nothing.

    `site_logs` are log.jsonl files of sites: what they saw must be in this run's log.

    Raises: TrustError `evidence-damaged` if there is no run in the folder.
    """
    if not (folder / "run" / "run.json").exists() and (folder / "run.json").exists():
        folder = folder.absolute().parent  # the run's own folder was named
    if not (folder / "run" / "run.json").exists():
        raise TrustError(
            "evidence-damaged", "there is no run in this folder", hint="name the folder that has report.json and run/"
        )
    this, steps = _Run(folder, words, site_logs), []
    for name, check in CHECKS.items():
        try:
            steps.append(Step(name, True, check(this)))
        except FedError as error:
            steps.append(Step(name, False, error.message))
            break
    return steps


def require_passed(steps: Sequence[Step]) -> None:
    """Raises: TrustError `evidence-damaged`, naming the step that failed."""
    for step in steps:
        if not step.passed:
            raise _wrong(f"{step.name}: {step.says}")


def _roster(this: _Run) -> str:
    """1: the roster is signed by its officers, and they are the ones that the reader knows."""
    this.signed = signed = rosters.load(_bytes(this.run / ROSTER_NAME))
    roster = signed.roster
    rosters.require_signed(signed, roster.officers, roster.threshold)
    if this.words is not None:
        fingerprint.require_same(this.words, roster.officers_words())
    names = ", ".join(signed.signers(roster.officers))
    compared = "as given" if this.words is not None else "compare them with those the officers gave you"
    said = f"version {roster.version} of {roster.consortium}, signed by {names}"
    return f"{said}; words: {roster.officers_words()} ({compared})"


def _log(this: _Run) -> str:
    """2: the log is whole, and its head is signed."""
    this.checkpoints = Checkpoints.open(this.run)
    roster = _is(this.signed).roster
    origin = log_origin(roster.consortium, this.checkpoints.run_id)
    this.log = translog.read_log(this.run / LOG_FOLDER, origin, roster.log)
    translog.require_whole(this.run / LOG_FOLDER, this.log)
    return f"{len(this.log.entries)} entries under one signed head"


def _members(this: _Run) -> str:
    """3: every roster in the log follows the one before, and the last is the one beside it."""
    log = _is(this.log)
    found = [rosters.from_value({"roster": e["roster"], "signatures": e["signatures"]}) for e in _of(log, "roster")]
    if not found or found[-1] != this.signed:
        raise _wrong("the roster beside the log is not the last one in it")
    first = found[0].roster
    current = rosters.accept_first(found[0], first.consortium, first.officers, first.threshold)
    for later in found[1:]:
        current = rosters.accept_next(current, later)
    this.rosters = [one.roster for one in found]
    return f"{len(found)} roster(s), {len(current.roster.active())} active sites"


def _messages(this: _Run) -> str:
    """4: every question is the coordinator's, every answer the asked site's, each in its place in the log."""
    log, plan = _is(this.log), _is(this.checkpoints).plan.digest()
    in_force: Roster | None = None
    asked: dict[tuple[str, str], Mapping[str, Value]] = {}
    counts = {"question": 0, "answer": 0, "refused": 0}
    for place, entry in enumerate(log.entries):
        kind = str(entry.get("type"))
        if kind == "roster":
            in_force = next(one for one in this.rosters if canonical.digest(entry["roster"]) == one.digest())
        if kind in counts:
            counts[kind] += 1
        if kind not in ("question", "answer"):
            continue
        statement = _table(entry.get("statement"))
        if in_force is None or statement.get("roster") != in_force.digest() or statement.get("direction") != kind:
            raise _wrong(f"line {place + 1}: a {kind} under another roster")
        if statement.get("run") != _is(this.checkpoints).run_id or statement.get("plan") != plan:
            raise _wrong(f"line {place + 1}: a {kind} of another run or plan")
        site = str(statement.get("site"))
        keys = (in_force.coordinator,) if kind == "question" else in_force.member(site).keys()
        try:
            envelope.verify_statement(statement, str(entry.get("signature")), keys)
        except TrustError:
            raise _wrong(f"line {place + 1}: the signature of this {kind} does not fit") from None
        number = statement.get("round")
        if kind == "question" and entry.get("kind") == "ready" and isinstance(number, int):
            this.ready_under[number] = in_force  # asked again after a crash: the last time counts
        if kind == "question":
            asked[site, str(statement["message"])] = statement
            head = entries.head_in(entry)
            if head is None or head.size > place:
                raise _wrong(f"line {place + 1}: a question names a head that the log did not have")
            log.require_beginning(head)
        elif (site, str(statement.get("question"))) not in asked:
            raise _wrong(f"line {place + 1}: an answer to a question that was not asked")
    return f"{counts['question']} questions, {counts['answer']} answers signed; {counts['refused']} messages refused"


def _witnesses(this: _Run) -> str:
    """5: every question of this run that a site has kept is in this log, and so is the history that it named."""
    log = _is(this.log)
    asked = {canonical.digest(_table(entry["statement"])) for entry in _of(log, "question")}
    coordinators = [roster.coordinator for roster in this.rosters]
    seen = 0
    for number, path in enumerate(this.site_logs, start=1):
        for line in _bytes(path).splitlines():
            entry = _table(_table(canonical.load(line)).get("entry"))
            statement = entry.get("statement")
            if entry.get("type") != "question" or not isinstance(statement, dict):
                continue
            if statement.get("run") != _is(this.checkpoints).run_id:
                continue
            # The coordinator's own signature: a site cannot make this up.
            envelope.verify_statement(statement, str(entry.get("signature")), coordinators)
            head = entries.head_in(entry)
            if head is None or canonical.digest(statement) not in asked:
                raise _wrong(f"site log {number} holds a signed question that this log does not have")
            log.require_beginning(head)
            seen += 1
    return f"{len(this.site_logs)} site logs with {seen} questions agree" if this.site_logs else "no site log was given"


def _files(this: _Run) -> str:
    """6: run.json, the states and the adapter are what the log and their names say; nothing else lies there."""
    checkpoints, log = _is(this.checkpoints), _is(this.log)
    begun = _of(log, "run")
    if len(begun) != 1 or begun[0]["run_file"] != sha256(this.run / "run.json"):
        raise _wrong("run.json is not the file that the log names")
    this.history = checkpoints.history()
    if checkpoints.last() is None:
        raise _wrong("no round was committed")
    known = {"run.json", "HEAD", ROSTER_NAME, *ONLY_RELEASED}
    known |= {f"{LOG_FOLDER}/{name}" for name in (translog.LOG_NAME, translog.CHECKPOINT_NAME)}
    # What masked rounds left is checked by a step of its own.
    for _, record in this.history if checkpoints.plan.aggregation.secure else ():
        known |= {f"masked/{transcript_name(record.round_number, group)}" for group in range(len(record.asked))}
        known |= {f"masked/vectors/{site}.vector" for site in record.asked}
    found = sorted(path for path in this.run.rglob("*") if path.is_file())
    for path in found:
        name = str(path.relative_to(this.run))
        if path.parent.name == "objects" and path.suffix in (".json", ".adapter"):
            if sha256(path) != path.stem:  # a state that a crash left behind uncommitted is read by nobody
                raise _wrong(f"run/objects/{path.stem[:12]}…{path.suffix} is not what its name says")
        elif name not in known and path.suffix != ".part":
            raise _wrong(f"run/{name} belongs to no round")
    return f"{len(found)} files, each by its digest"


def _rounds(this: _Run) -> str:
    """7: the rounds in the log are those of the checkpoint, and whoever is in a mean has answered."""
    log = _is(this.log)
    logged = _of(log, "round")
    if [entry["round"] for entry in logged] != [record.round_number for _, record in this.history]:
        raise _wrong("log and checkpoint have different rounds")
    answers: dict[int, set[tuple[str, str]]] = {}
    for entry in _of(log, "answer"):
        statement = _table(entry["statement"])
        number = statement["round"]
        if isinstance(number, int):
            answers.setdefault(number, set()).add((str(statement["site"]), str(statement["message"])))
    for entry, (state, record) in zip(logged, this.history, strict=True):
        number = record.round_number
        if entry != entries.round_(number, state=state, adapter=record.adapter_digest, record=record.value()):
            raise _wrong(f"round {number} is not the one that was logged")
        signed = answers.get(number, set())
        if not set(record.accepted) <= {site for site, _ in signed}:
            raise _wrong(f"round {number}: a site is in the mean that has no signed answer")
        for sent in record.messages:
            if sent.kind != "failure" and (sent.site_id, sent.sha256) not in signed:
                raise _wrong(f"round {number}: a message of {sent.site_id} that it did not sign")
    plan = _is(this.checkpoints).plan
    return f"{len(logged)} of {plan.run.rounds} rounds, each in log and checkpoint alike"


def _masked(this: _Run) -> str:
    """8: every masked sum was signed by its sites, and the kept vectors make the last one again, bit for bit."""
    checkpoints = _is(this.checkpoints)
    if not checkpoints.plan.aggregation.secure:
        return "a plan without masks"
    folder = this.run / "masked"
    seen, again = 0, ""
    for _, record in this.history:
        path = folder / f"{record.round_number:05}.json"
        if record.masked is None:
            continue  # closed without a sum, or never begun
        roster = this.ready_under.get(record.round_number)
        if roster is None or not path.exists():
            raise _wrong(f"round {record.round_number}: a masked sum that no question in the log asked for, or untold")
        accepted = record.accepted if record.outcome == "accepted" else None
        this_round = RoundId(checkpoints.run_id, record.round_number, checkpoints.plan.digest())
        try:
            masked_evidence.check(path, this_round, roster.identities(), accepted)
            if record is this.history[-1][1]:
                masked_evidence.recompute(path, folder / "vectors", roster.identities())
                again = "; the last mean recomputed bit for bit"
        except (FedError, OSError) as error:
            said = error.message if isinstance(error, FedError) else "a masked vector is missing"
            raise _wrong(f"round {record.round_number}: {said}") from None
        seen += 1
    return f"{seen} masked sums, each agreed on by its survivors{again}"


def _privacy(this: _Run) -> str:
    """9: what each site states to have spent is no less than what its rounds cost, and within the plan's target."""
    plan = _is(this.checkpoints).plan
    if plan.privacy.unit == "none":
        return "a plan without privacy: there is nothing to add up"
    events: dict[str, list[Event]] = {}
    stated: dict[str, tuple[float, float]] = {}
    known: dict[tuple[Any, ...], float] = {}
    for _, record in this.history:
        for site in record.accepted:
            terms = record.privacy.get(site)
            if terms is None:
                raise _wrong(f"round {record.round_number}: {site} is in the mean without privacy")
            events.setdefault(site, []).append(_event(plan, terms))
            stated[site] = (terms.epsilon_after_round, terms.delta)
    for site, (epsilon, delta) in stated.items():
        key = (tuple(events[site]), delta)
        if key not in known:
            known[key] = accounting.epsilon(events[site], delta)
        if epsilon < known[key] - TOLERANCE:
            raise _wrong(f"{site} states epsilon {epsilon:.4f}, its rounds cost {known[key]:.4f}")
        target = plan.privacy.target_epsilon
        if target is not None and known[key] > target + TOLERANCE:
            raise _wrong(f"{site} has spent epsilon {known[key]:.4f}, the plan's target is {target:g}")
    most = max((epsilon for epsilon, _ in stated.values()), default=0.0)
    return f"{len(stated)} sites, each computed again from its rounds; at most epsilon {most:.4f}"


def _release(this: _Run) -> str:
    """10: what was given out is what was logged at the end, and tells of this run."""
    released = _of(_is(this.log), "release")
    if not released:
        return "nothing was released yet: the run is not at its end"
    last = released[-1]
    digests = {name: str(digest) for name, digest in _table(last["files"]).items()}
    adapter = this.history[-1][1].result_digest
    if last["adapter"] != adapter:
        raise _wrong("the released adapter is not that of the last round")
    for name, digest in digests.items():
        if ".." in Path(name).parts or Path(name).is_absolute() or _digest(this.folder / name) != digest:
            raise _wrong(f"{name} is missing or was changed")
    for path in (*(this.folder / "adapter").rglob("*"), *(this.run / name for name in ONLY_RELEASED)):
        if path.is_file() and str(path.relative_to(this.folder)) not in digests:
            raise _wrong(f"{path.relative_to(this.folder)} was not released")
    if "report.json" in digests:
        _report(this, json.loads(_bytes(this.folder / "report.json")), adapter)
    return f"{len(digests)} files, adapter {adapter[:16]}…"


def _report(this: _Run, report: Mapping[str, Any], adapter: str) -> None:
    checkpoints = _is(this.checkpoints)
    expected = (checkpoints.run_id, checkpoints.plan.digest(), adapter, len(this.history))
    if (report["run_id"], report["plan_digest"], report["adapter"]["digest"], len(report["rounds"])) != expected:
        raise _wrong("report.json tells of another run")
    last = {site: terms for _, record in this.history for site, terms in record.privacy.items()}
    for site, terms in last.items():
        if terms is not None and report["sites"][site]["epsilon"] != terms.epsilon_after_round:
            raise _wrong(f"report.json states another epsilon for {site} than it signed")


CHECKS: dict[str, Callable[[_Run], str]] = {
    "roster": _roster,
    "log": _log,
    "members": _members,
    "messages": _messages,
    "witnesses": _witnesses,
    "files": _files,
    "rounds": _rounds,
    "masked": _masked,
    "privacy": _privacy,
    "release": _release,
}


def _event(plan: RunPlan, terms: PrivacyTerms) -> Event:
    """One round of a site, as the plan and its stated noise mean it."""
    return mechanism_of(plan, terms.noise_multiplier, terms.shared).event(plan.training.local_steps)


def _of(log: Log, kind: str) -> list[Entry]:
    return entries.of_type(log.entries, kind)


def _is(value: T | None) -> T:
    assert value is not None  # an earlier step has set it, or this one would not be tried
    return value


def _table(value: Value) -> Mapping[str, Value]:
    if not isinstance(value, Mapping):
        raise _wrong("an entry of the log has another form")
    return value


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise _wrong(f"{path.name} cannot be read") from None


def _digest(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None


def _wrong(reason: str) -> TrustError:
    return TrustError(
        "evidence-damaged", reason, hint="compare with another copy; the site and officers have their own"
    )
