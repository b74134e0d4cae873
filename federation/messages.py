"""Questions and answers: what the coordinator and a site say to each other, and the Link that carries it.

A message is a small header (canonical JSON, docs/spec/messages-1.md) and at most one large payload, which the header
names by its SHA-256. The digest of a message is that of its header: it covers every byte of both. The seal, a signed
statement about that digest (docs/spec/trust-1.md), travels beside the message and is no part of it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, Protocol, get_args

from federation import canonical
from federation.canonical import Value
from federation.durable import Buffer
from federation.errors import FormatError

VERSION = "wardround-messages/1"
HEADER_BYTES_MAX = 2**20

MaskedStage = Literal["ready", "shares", "masked", "agree", "unmask"]  # docs/spec/secagg-1.md
QuestionKind = Literal["consent", "train", MaskedStage, "validate", "evaluate"]
AnswerKind = Literal["consent", "refusal", "update", "trained", MaskedStage, "validation", "evaluation", "failure"]

SITE_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")


class Payload:
    """Immutable bytes that know their SHA-256: computed once, from the bytes themselves, and never taken on trust.

    They may lie in pieces, as an update's matrices do: who can write, hash or read pieces needs no copy in one row.
    """

    def __init__(self, *pieces: Buffer) -> None:
        self.pieces = pieces
        self.size = sum(len(piece) for piece in pieces)

    @cached_property
    def data(self) -> bytes:
        """All bytes in a row; for several pieces this makes a copy, once."""
        first = self.pieces[0] if len(self.pieces) == 1 else None
        return first if isinstance(first, bytes) else b"".join(self.pieces)

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces:
            digest.update(piece)
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __repr__(self) -> str:
        return f"<Payload: {self.size} bytes>"


@dataclass(frozen=True)
class Question:
    """What the coordinator asks of one site in one round."""

    kind: QuestionKind
    run_id: str
    round_number: int
    site_id: str
    plan_digest: str
    body: Mapping[str, Value] = field(default_factory=dict)
    payload: Payload | None = None
    seal: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self, get_args(QuestionKind), self.plan_digest)

    @cached_property
    def header(self) -> bytes:
        """The canonical text of everything but the payload, which it names."""
        return _header(self, "question", {"plan_digest": self.plan_digest})

    def digest(self) -> str:
        return hashlib.sha256(self.header).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What one site replies to one question, which it names by digest."""

    kind: AnswerKind
    run_id: str
    round_number: int
    site_id: str
    question_digest: str
    body: Mapping[str, Value] = field(default_factory=dict)
    payload: Payload | None = None
    seal: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(self, get_args(AnswerKind), self.question_digest)

    @cached_property
    def header(self) -> bytes:
        return _header(self, "answer", {"question_digest": self.question_digest})

    def digest(self) -> str:
        return hashlib.sha256(self.header).hexdigest()


class Link(Protocol):
    """Carries questions to sites and answers back. Trusted with nothing: who receives checks."""

    def site_ids(self) -> tuple[str, ...]: ...

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        """The answers in the order of the questions, one at a time, so that each can be added and dropped.

        A site that is silent until the deadline, or whose bytes cannot be read, is left out.
        """
        ...


def answer_to(
    question: Question, kind: AnswerKind, body: Mapping[str, Value], payload: Payload | None = None
) -> Answer:
    """An answer bound to its question: same run, round and site, and the question's digest."""
    return Answer(
        kind, question.run_id, question.round_number, question.site_id, question.digest(), body=body, payload=payload
    )


def check_answers(question: Question, answer: Answer) -> None:
    """Refuse an answer to any other question: another run, round, site, plan, body or payload.

    Raises: FormatError `message-context`.
    """
    asked = (question.run_id, question.round_number, question.site_id, question.digest())
    if asked != (answer.run_id, answer.round_number, answer.site_id, answer.question_digest):
        raise FormatError(
            "message-context", "an answer does not belong to its question", hint="it is late, repeated or misdirected"
        )


def dump(message: Question | Answer) -> bytes:
    """Header, one line end, payload."""
    return b"".join(pieces(message))


def pieces(message: Question | Answer) -> tuple[Buffer, ...]:
    """The bytes of `dump`, not joined, for writers that can do without a copy of the payload."""
    return message.header, b"\n", *(message.payload.pieces if message.payload else ())


def load(data: bytes) -> Question | Answer:
    """The message whose bytes are exactly `data`.

    Guarantees: `dump(load(data)) == data`; a change, truncation or addition in the payload is refused by its
    SHA-256. A change of the header that spells another valid message is another message with another digest: who sent
    it is for a signature to say. Raises: FormatError `not-canonical` or `message-kind`.
    """
    end = data.find(b"\n", 0, HEADER_BYTES_MAX + 1)
    if end < 0:
        raise _refused("a message without a header")
    rest = data[end + 1 :]
    return read(data[:end], Payload(rest) if rest else None)


def read(header: bytes, payload: Payload | None, seal: bytes = b"") -> Question | Answer:
    """A message from its parts, for carriers that keep them apart. Checks that the header names this payload.

    The seal is carried as it is: who it is from, and whether it fits, is for `federation/trust/envelope.py` to say.
    """
    fields = canonical.load(header)
    named = None if payload is None else {"sha256": payload.sha256, "size": payload.size}
    match fields:
        case {
            "version": str(version),
            "type": str(type_),
            "kind": str(kind),
            "run_id": str(run_id),
            "round_number": int(round_number),
            "site_id": str(site_id),
            "body": dict(body),
            "payload": written,
            **others,
        } if len(others) == 1 and type(round_number) is int:  # true would be an int
            pass
        case _:
            raise _refused("a header without the fields of a message")
    if version != VERSION:
        raise _refused("a message of another version")
    if written != named:
        raise _refused("the payload is not the one that the header names")
    message: Question | Answer
    match type_, fields:
        case "question", {"plan_digest": str(digest)}:
            message = Question(kind, run_id, round_number, site_id, digest, body, payload, seal)  # type: ignore[arg-type]
        case "answer", {"question_digest": str(digest)}:
            message = Answer(kind, run_id, round_number, site_id, digest, body, payload, seal)  # type: ignore[arg-type]
        case _:
            raise _refused("neither a question nor an answer")
    vars(message)["header"] = header  # canonical, and made of exactly these fields: what it would be made to again
    return message


def size_bytes(message: Question | Answer) -> int:
    """What crosses the Link for this message."""
    return len(message.header) + 1 + (message.payload.size if message.payload else 0) + len(message.seal)


def _header(message: Question | Answer, type_: str, bound_to: Mapping[str, Value]) -> bytes:
    payload = message.payload
    fields: dict[str, Value] = {
        "version": VERSION,
        "type": type_,
        "kind": message.kind,
        "run_id": message.run_id,
        "round_number": message.round_number,
        "site_id": message.site_id,
        "body": message.body,
        "payload": None if payload is None else {"sha256": payload.sha256, "size": payload.size},
        **bound_to,
    }
    header = canonical.dump(fields)
    if len(header) > HEADER_BYTES_MAX:
        raise _refused("a header is too long")
    return header


def _check(message: Question | Answer, kinds: tuple[str, ...], digest: str) -> None:
    if message.kind not in kinds:
        raise FormatError("message-kind", "a message of an unknown kind", hint="coordinator and site differ in version")
    if (
        RUN_ID.fullmatch(message.run_id) is None
        or SITE_ID.fullmatch(message.site_id) is None
        or DIGEST.fullmatch(digest) is None
        or message.round_number < 1
        or (message.payload is not None and not message.payload.size)
    ):
        raise _refused("a message with an impossible run, round, site or digest")
    object.__setattr__(message, "body", MappingProxyType(dict(message.body)))


def _refused(reason: str) -> FormatError:
    return FormatError("not-canonical", reason, hint="coordinator and site must run the same version of wardround")
