"""What is written into a log: one entry for each thing that was said or done. Spec: docs/spec/trust-1.md, section 8.

Questions and answers are kept as their signed statements, so that a reader can check who said them, without the adapter
and the update themselves: those are named by digest.
"""

from collections.abc import Mapping, Sequence

from federation.canonical import Value
from federation.messages import Answer, Question, size_bytes
from federation.trust.envelope import LogHead, Opened
from federation.trust.roster import SignedRoster
from federation.trust.translog import Entry


def roster(signed: SignedRoster) -> Entry:
    return {"type": "roster", **signed.value()}


def run(run_id: str, plan_digest: str, run_file: str) -> Entry:
    """The beginning of a run; `run_file` is the SHA-256 of run.json, which holds the plan."""
    return {"type": "run", "run_id": run_id, "plan": plan_digest, "run_file": run_file}


def question(asked: Question, opened: Opened) -> Entry:
    return _message("question", asked, opened)


def answer(answered: Answer, opened: Opened) -> Entry:
    return _message("answer", answered, opened)


def refused(message: Question | Answer, code: str) -> Entry:
    """A message that was turned away. Its digest is all that is kept of it: nobody vouches for what it says."""
    return {"type": "refused", "code": code, "site": message.site_id, "message": message.digest()}


def round_(number: int, *, state: str, adapter: str, record: Mapping[str, Value]) -> Entry:
    """A committed round: who was in the mean, who was left out and why, and what the gate measured and decided."""
    return {
        "type": "round",
        "round": number,
        "state": state,
        "adapter": adapter,
        "outcome": record["outcome"],
        "gate": record["gate"],
        "accepted": record["accepted"],
        "refusals": record["refusals"],
        "failures": record["failures"],
        "update_rms": record["update_rms"],
    }


def release(digests: Mapping[str, str], *, adapter: str) -> Entry:
    """What was given out at the end: every file by its SHA-256."""
    return {"type": "release", "adapter": adapter, "files": dict(digests)}


def of_type(entries: Sequence[Entry], kind: str) -> list[Entry]:
    return [entry for entry in entries if entry.get("type") == kind]


def head_in(entry: Entry) -> LogHead | None:
    """The head of the coordinator's log that a question named."""
    match entry:
        case {"statement": {"log": {"size": int(size), "root": str(root)}}}:
            return LogHead(size, root)
    return None


def _message(kind: str, message: Question | Answer, opened: Opened) -> Entry:
    return {
        "type": kind,
        "kind": message.kind,
        "size": size_bytes(message),
        "statement": dict(opened.statement),
        "signature": opened.signature,
    }
