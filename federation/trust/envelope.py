"""The seal on every question and answer: a signed statement of what the message is, and of nothing else.

A seal travels beside its message (`Question.seal`, `Answer.seal`) and names it by digest, so it covers every byte of
header and payload. It is bound to direction, run, round, site, plan, roster and, for questions, to a window of time.
There is one algorithm and one spelling; whatever does not fit is refused by its own code. Spec: trust-1, section 6.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from federation import canonical
from federation.canonical import Value
from federation.errors import FormatError, TrustError
from federation.messages import Answer, Question
from federation.trust import roster as rosters
from federation.trust.keys import Domain, SigningKey, VerifyKey
from federation.trust.roster import SignedRoster

VERSION = "wardround-envelope/1"
SEAL_BYTES_MAX = 2**20
CLOCK_TOLERANCE_S = 300

Code = Literal["wrong-site", "wrong-run", "wrong-round", "wrong-plan", "wrong-message", "wrong-question"]


@dataclass(frozen=True)
class LogHead:
    """How long a log is, and the root of its Merkle tree (RFC 6962): what a signature promises never to unsay."""

    size: int
    root: str

    def value(self) -> dict[str, Value]:
        return {"root": self.root, "size": self.size}


@dataclass(frozen=True)
class Opened:
    """A seal that fits its message, and what came with it."""

    statement: Mapping[str, Value]
    signature: str
    head: LogHead | None = None  # of the coordinator's log when it asked


def seal_question(
    question: Question,
    key: SigningKey,
    *,
    roster_digest: str,
    issued_s: int,
    expires_s: int,
    head: LogHead,
    later: Sequence[SignedRoster] = (),
    proofs: Mapping[int, Sequence[bytes]] = MappingProxyType({}),
) -> Question:
    """The question with the coordinator's seal.

    `later` are rosters for a site that lacks these versions; `proofs` lead from earlier sizes of the log to `head`.
    """
    along: dict[str, Value] = {
        "rosters": [one.value() for one in later],
        "proofs": {str(size): [node.hex() for node in proof] for size, proof in proofs.items()},
    }
    statement: dict[str, Value] = {
        **_about(question),
        "direction": "question",
        "roster": roster_digest,
        "plan": question.plan_digest,
        "issued": issued_s,
        "expires": expires_s,
        "log": head.value(),
        "along": canonical.digest(along),
    }
    return replace(question, seal=_sealed("question", statement, key, along))


def seal_answer(answer: Answer, question: Question, key: SigningKey, *, roster_digest: str) -> Answer:
    """The answer with the site's seal. No time is in it: the same answer to the same question has the same bytes."""
    statement: dict[str, Value] = {
        **_about(answer),
        "direction": "answer",
        "roster": roster_digest,
        "plan": question.plan_digest,
        "question": question.digest(),
    }
    return replace(answer, seal=_sealed("answer", statement, key, {}))


def rosters_in(question: Question) -> tuple[SignedRoster, ...]:
    """The rosters sent along. They are beside the statement: each proves itself by its officers' signatures."""
    found = _parts(question.seal)[2].get("rosters", [])
    if not isinstance(found, list):
        raise _damaged("rosters that are not a list")
    return tuple(rosters.from_value(one) for one in found)


def proof_in(question: Question, size: int) -> list[bytes] | None:
    """The consistency proof from this size of the log to the question's head, if one was sent along."""
    match _parts(question.seal)[2].get("proofs"):
        case dict(proofs):
            found = proofs.get(str(size))
            try:
                return [bytes.fromhex(str(node)) for node in found] if isinstance(found, list) else None
            except ValueError:
                pass
    return None


def open_question(question: Question, key: VerifyKey, *, site_id: str, roster_digest: str, now_s: float) -> Opened:
    """Refuse every question that is not, now and here, exactly what the coordinator signed.

    Raises: TrustError `unsigned`, `oversized`, `envelope-damaged`, `signature`, `wrong-direction`, `wrong-site`,
    `wrong-run`, `wrong-round`, `wrong-plan`, `wrong-message`, `wrong-roster`, `late`, `clock`.
    """
    statement, signature, along = _parts(question.seal)
    _verify("question", statement, signature, (key,))
    match statement:
        case {
            "issued": int(issued),
            "expires": int(expires),
            "log": {"size": int(size), "root": str(root), **more},
        } if (
            set(statement) == _KEYS | {"issued", "expires", "log", "along"}
            and set(along) == {"rosters", "proofs"}
            and not more
            and statement["along"] == canonical.digest(along)
            and not {type(issued), type(expires), type(size)} - {int}
        ):
            pass
        case _:
            raise _damaged("a question's statement with missing or unknown fields")
    _require("wrong-site", question.site_id, site_id)
    _fits(statement, question, "question", question.plan_digest, roster_digest)
    if now_s > expires + CLOCK_TOLERANCE_S:
        raise TrustError(
            "late", "a question arrived after its time", hint="it was held back, or this machine's clock is ahead"
        )
    if now_s < issued - CLOCK_TOLERANCE_S:
        raise TrustError(
            "clock", "a question comes from this machine's future", hint="one of the two clocks is wrong: check NTP"
        )
    return Opened(statement, signature, LogHead(size, root))


def open_answer(answer: Answer, question: Question, keys: Sequence[VerifyKey], *, roster_digest: str) -> Opened:
    """Refuse every answer that the asked site did not sign as its answer to this very question.

    Raises: as `open_question`, without the times, and `wrong-question`.
    """
    statement, signature, along = _parts(answer.seal)
    _verify("answer", statement, signature, keys)
    if set(statement) != _KEYS | {"question"} or along:
        raise _damaged("an answer's statement with missing or unknown fields")
    _require("wrong-site", answer.site_id, question.site_id)
    _require("wrong-run", answer.run_id, question.run_id)
    _require("wrong-round", answer.round_number, question.round_number)
    _require("wrong-question", answer.question_digest, question.digest())
    _require("wrong-question", statement["question"], question.digest())
    _fits(statement, answer, "answer", question.plan_digest, roster_digest)
    return Opened(statement, signature)


def verify_statement(statement: Mapping[str, Value], signature: str, keys: Sequence[VerifyKey]) -> None:
    """The signature alone, for logs, where the message itself is gone. Raises: TrustError `signature`."""
    direction = statement.get("direction")
    if direction == "question":
        _verify("question", statement, signature, keys)
    elif direction == "answer":
        _verify("answer", statement, signature, keys)
    else:
        raise _damaged("a statement of no direction")


_KEYS = {"version", "direction", "site", "run", "round", "plan", "message", "roster"}


def _about(message: Question | Answer) -> dict[str, Value]:
    return {
        "version": VERSION,
        "site": message.site_id,
        "run": message.run_id,
        "round": message.round_number,
        "message": message.digest(),
    }


def _sealed(domain: Domain, statement: Mapping[str, Value], key: SigningKey, along: Mapping[str, Value]) -> bytes:
    signature = key.sign(domain, canonical.dump(statement)).hex()
    return canonical.dump({"along": along, "signature": signature, "statement": statement})


def _parts(seal: bytes) -> tuple[dict[str, Value], str, dict[str, Value]]:
    if not seal:
        raise TrustError("unsigned", "a message without a signature", hint="nobody who belongs here sends one")
    if len(seal) > SEAL_BYTES_MAX:
        raise TrustError("oversized", "a seal is too long", hint="report it: nobody who belongs here sends one")
    try:
        match canonical.load(seal):
            case {"along": dict(along), "signature": str(signature), "statement": dict(statement), **rest} if not rest:
                return statement, signature, along
    except FormatError:
        pass
    raise _damaged("a seal is not in its one form")


def _verify(domain: Domain, statement: Mapping[str, Value], signature: str, keys: Sequence[VerifyKey]) -> None:
    """Before anything that the statement says is looked at."""
    data = canonical.dump(statement)
    try:
        raw = bytes.fromhex(signature)
    except ValueError:
        raw = b""
    if raw.hex() != signature or len(raw) != 64:
        raise _damaged("a signature is not 128 hexadecimal digits")
    for key in keys[:-1]:
        try:
            return key.verify(domain, data, raw)
        except TrustError:
            continue
    if not keys:
        raise TrustError("signature", "nobody may sign this", hint="the roster has no key for it")
    keys[-1].verify(domain, data, raw)


def _fits(
    statement: Mapping[str, Value], message: Question | Answer, direction: str, plan_digest: str, roster_digest: str
) -> None:
    if statement["version"] != VERSION:
        raise _damaged("a seal of another version")
    if statement["direction"] != direction:
        raise TrustError("wrong-direction", "a seal of the other direction", hint="a message was sent back as it came")
    _require("wrong-site", statement["site"], message.site_id)
    _require("wrong-run", statement["run"], message.run_id)
    _require("wrong-round", statement["round"], message.round_number)
    _require("wrong-plan", statement["plan"], plan_digest)
    if statement["roster"] != roster_digest:
        raise TrustError(
            "wrong-roster",
            "a message under another roster",
            hint="one side has an older one: compare `wardround coordinator roster` with `wardround site roster`",
        )
    _require("wrong-message", statement["message"], message.digest())


def _require(code: Code, found: Value, expected: Value) -> None:
    if found != expected or type(found) is not type(expected):
        raise TrustError(
            code,
            f"a seal or message with another {code.removeprefix('wrong-')} than the one at hand",
            hint="it is late, repeated, misdirected, or taken from another message",
        )


def _damaged(reason: str) -> TrustError:
    return TrustError("envelope-damaged", reason, hint="coordinator and site must run the same version of wardround")
