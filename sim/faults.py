"""Links with faults: a named site goes wrong in a named round, in a way that a real one could."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from federation import codec
from federation.adapter import AdapterUpdate
from federation.errors import FormatError, PlanError
from federation.messages import SITE_ID, Answer, Link, MaskedStage, Payload, Question

FaultKind = Literal[
    "nan", "huge", "flip", "wrong-shape", "drop", "duplicate", "corrupt", "stale",
    "drop-ready", "drop-shares", "drop-masked", "drop-agree", "drop-unmask",
]  # fmt: skip
OWN_CHECK = {"nan": "update-not-finite", "huge": "update-norm", "wrong-shape": "update-shape"}


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one site's update in one round.

    nan: one number is NaN · huge: a million times too large · flip: ten times too large and turned round ·
    wrong-shape: one row too many · drop: silence ·
    duplicate: sent twice · corrupt: one bit flipped before it was hashed · stale: the answer of the round before ·
    drop-ready, …: silence from this question of the masked sum on

    A masked update cannot be altered by anybody else: there nan, huge and wrong-shape are found by the site itself,
    which reports the code, `corrupt` flips a bit of the masked vector, and `flip` is not shown.
    """

    site_id: str
    kind: FaultKind
    round_number: int


def parse_fault(text: str) -> Fault:
    """SITE=KIND@ROUND.

    >>> parse_fault("site-b=nan@2")
    Fault(site_id='site-b', kind='nan', round_number=2)
    """
    site_id, _, rest = text.partition("=")
    kind, _, number = rest.partition("@")
    if (
        SITE_ID.fullmatch(site_id) is None
        or kind not in get_args(FaultKind)
        or not number.isdecimal()
        or int(number) < 1
    ):
        raise PlanError(
            "plan-value",
            "a fault is not of the form SITE=KIND@ROUND",
            hint=f"kinds are {', '.join(get_args(FaultKind))}",
        )
    return Fault(site_id, kind, int(number))  # type: ignore[arg-type]


Sign = Callable[[Answer, Question], Answer]


class FaultyLink:
    """Another Link, with faults in its answers to training questions.

    A site that goes wrong signs what it says: `sign` puts the site's own seal on a damaged answer. A stale one keeps
    the seal that it had.
    """

    def __init__(self, link: Link, faults: Sequence[Fault], *, sign: Sign = lambda answer, question: answer) -> None:
        self._link = link
        self._sign = sign
        self._faults = {(fault.site_id, fault.round_number): fault.kind for fault in faults}
        self._before: dict[str, Answer] = {}  # last answers of the sites that will send a stale one

    def site_ids(self) -> tuple[str, ...]:
        return self._link.site_ids()

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        asked = {question.site_id: question for question in questions}
        for answer in self._link.ask(questions, deadline_s=deadline_s):
            fault = self._faults.get((answer.site_id, answer.round_number))
            for sent in self._sent(answer, _at_this(asked.get(answer.site_id), answer, fault)):
                yield self._signed(sent, answer, asked)
            if (answer.site_id, answer.round_number + 1) in self._faults and answer.kind in ("update", "trained"):
                self._before[answer.site_id] = answer

    def _signed(self, sent: Answer, answer: Answer, asked: Mapping[str, Question]) -> Answer:
        """What a site made of this answer is signed by it; what it sends again has a seal of its own."""
        made = sent != answer and sent.seal == answer.seal and sent.question_digest == answer.question_digest
        return self._sign(sent, asked[sent.site_id]) if made and sent.site_id in asked else sent

    def _sent(self, answer: Answer, fault: FaultKind | None) -> Iterator[Answer]:
        match fault:
            case None:
                yield answer
            case "drop" | "drop-ready" | "drop-shares" | "drop-masked" | "drop-agree" | "drop-unmask":
                return
            case "duplicate":
                yield answer
                yield answer
            case "stale":
                yield self._before.get(answer.site_id, replace(answer, question_digest="0" * 64))
            case "corrupt":
                yield replace(answer, payload=Payload(_flipped(_payload(answer))))
            case "flip" if answer.kind == "trained":
                yield answer
            case _ if answer.kind == "trained":
                yield replace(answer, kind="failure", body={"code": OWN_CHECK[fault]})
            case _:
                update = codec.load_as(AdapterUpdate, _payload(answer))
                yield replace(answer, payload=Payload(codec.dump(_damaged(update, fault))))


def _at_this(question: Question | None, answer: Answer, fault: FaultKind | None) -> FaultKind | None:
    """The fault, if it shows in this answer."""
    if fault is None or question is None or answer.kind in ("refusal", "failure"):
        return None
    if fault.startswith("drop-"):
        since = get_args(MaskedStage).index(fault.removeprefix("drop-"))
        return fault if question.kind in get_args(MaskedStage)[since:] else None
    if fault == "corrupt":
        return fault if answer.kind in ("update", "masked") else None
    return fault if question.kind == "train" else None


def _damaged(update: AdapterUpdate, kind: FaultKind) -> AdapterUpdate:
    arrays = {name: array.copy() for name, array in update.arrays.items()}
    first = next(iter(arrays))
    if kind == "nan":
        arrays[first][0, 0] = np.nan
    elif kind == "huge":
        arrays = {name: array * np.float32(1e6) + np.float32(1e3) for name, array in arrays.items()}
    elif kind == "flip":
        arrays = {name: array * np.float32(-10) for name, array in arrays.items()}
    elif kind == "wrong-shape":
        arrays[first] = np.vstack([arrays[first], arrays[first][:1]])
    return AdapterUpdate(arrays)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _payload(answer: Answer) -> bytes:
    if answer.payload is None:
        raise FormatError("message-kind", "an update without a payload", hint="compare the versions")
    return answer.payload.data
