"""Our messages as Flower records, and a Link over Flower's Grid. Flower carries; it is trusted with nothing.

A message becomes two records (docs/spec/messages-1.md has the bytes): its header, with the seal if it is signed, in a
ConfigRecord, and its payload, if it has one, in an ArrayRecord of plain bytes, because Flower cuts arrays into chunks
but never a ConfigRecord.
"""

import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from federation import messages
from federation.errors import FedError, FormatError, QuorumError
from federation.messages import Answer, MaskedStage, Payload, Question

MASKED_TYPE = "query.masked"  # the five questions of a masked round
MESSAGE_TYPES = {
    "consent": "query.consent",
    "train": "train",
    "validate": "query.validate",
    "evaluate": "evaluate",
} | dict.fromkeys(get_args(MaskedStage), MASKED_TYPE)
NAME_TYPE = "query.name"
CODE = re.compile(r"[a-z][a-z-]{0,31}")
# How long Flower keeps a question and its reply beyond the deadline, because answers are added up one after the other.
# Not long: a site that comes back later must not be given the question of a round that is over.
KEEP_S = 120.0


def to_records(message: Question | Answer) -> RecordDict:
    """Header, seal and payload side by side; the payload's bytes are not copied."""
    head = ConfigRecord({"header": message.header})
    if message.seal:
        head["seal"] = message.seal
    records = RecordDict({"header": head})
    if message.payload is not None:
        data = message.payload.data
        records["payload"] = ArrayRecord({"payload": Array("uint8", (len(data),), "bytes", data)})
    return records


def from_records(records: RecordDict) -> Question | Answer:
    """The message in these records, and nothing else in them. Raises: FormatError `not-canonical`, `message-kind`."""
    head, arrays = records.get("header"), records.get("payload")
    if set(records) - {"payload"} != {"header"} or not isinstance(head, ConfigRecord):
        raise _refused("records without the header of a message, or with more")
    header, seal = head.get("header"), head.get("seal", b"")
    if set(head) - {"seal"} != {"header"} or not isinstance(header, bytes) or not isinstance(seal, bytes):
        raise _refused("a header that is not bytes, or with more beside it")
    if arrays is None:
        return messages.read(header, None, seal)
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {"payload"}:
        raise _refused("a payload that is not one array")
    array = arrays["payload"]
    if (array.dtype, array.stype, tuple(array.shape)) != ("uint8", "bytes", (len(array.data),)):
        raise _refused("a payload that is not plain bytes")
    return messages.read(header, Payload(array.data), seal)


def name_records(site_id: str) -> RecordDict:
    """A node's reply to "which site are you?". A claim only: what a site says is signed by the site."""
    return RecordDict({"name": ConfigRecord({"site_id": site_id})})


def failure_records(code: str) -> RecordDict:
    """All that crosses when a node could not bring the question to its site: a code, never a text."""
    return RecordDict({"failure": ConfigRecord({"code": code})})


@dataclass(frozen=True)
class Patience:
    """How often to look for replies, and how long to wait for nodes to appear."""

    poll_s: float = 0.5
    find_s: float = 120.0  # for the sites still missing, before the first round
    find_again_s: float = 10.0  # the same, before every later round: who is away joins the next one
    look_s: float = 2.0  # how often to see whether a node came back, while answers are waited for
    again_s: float = 2.0  # before a failed question is asked again; doubling, to a minute
    overdue_s: float = 120.0  # before a silent site is asked again, for a node can lose a reply unnoticed; doubling


@dataclass
class _Asked:
    """A question under way. It may have been sent more than once: sites give one answer, byte for byte."""

    question: Question
    message_ids: list[str] = field(default_factory=list)
    activated: str = ""  # when the node that has it was activated
    failures: int = 0
    again_at: float | None = None
    sends: int = 0
    sent_at: float = 0.0


class GridLink:
    """A Link over Flower's Grid: one node per site, replies pulled one at a time.

    With `registered` the coordinator itself has registered every site's node under the site's name: nobody is asked
    who they are, and a question is sent again to a node that came back after losing it. Flower delivers at most once
    and tells nobody when a restarted node has forgotten a message; a site answers a repeated question with the bytes
    that it kept, and spends nothing.
    """

    def __init__(
        self,
        grid: Grid,
        sites: Sequence[str],
        *,
        patience: Patience,
        stopped: threading.Event,
        registered: bool = False,
        note: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        self._grid = grid
        self._sites = tuple(sites)
        self._patience = patience
        self._stopped = stopped
        self._registered = registered
        self._note = note
        self._nodes: dict[str, int] = {}
        self._activated: dict[str, str] = {}
        self._looked = -math.inf
        self._found_once = False

    def expect(self, sites: Sequence[str]) -> None:
        """From now on these sites: the members of a roster change."""
        self._sites = tuple(sites)
        self._nodes = {site: node for site, node in self._nodes.items() if site in self._sites}

    def site_ids(self) -> tuple[str, ...]:
        """The expected sites that can be reached. Waits for those still missing, but not for ever."""
        again = self._registered and self._found_once
        end = time.monotonic() + (self._patience.find_again_s if again else self._patience.find_s)
        self._found_once = True
        asked: dict[int, str | None] = {}
        while True:
            if self._registered:
                self._look()
            else:
                self._ask_names(asked)
            if time.monotonic() >= end or len(self._nodes) == len(self._sites):
                break
            self._pause()
        return tuple(site for site in self._sites if site in self._nodes)

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        """The answers in the order of the questions (Link). At most one answer is held here at any time."""
        end = time.monotonic() + deadline_s
        asked = [_Asked(question) for question in questions]
        for one in asked:
            if one.question.site_id in self._nodes:
                self._send(one, end)
            elif not self._registered:
                self._note(f"{one.question.site_id}: no node of this site is known")
        for position, one in enumerate(asked):
            answer = self._wait(one, asked[position:], end)
            if answer is not None:
                yield answer
            del answer

    def _send(self, one: _Asked, end: float) -> None:
        """Hand the question to Flower, which drops it by itself soon after the deadline."""
        site_id = one.question.site_id
        one.activated, one.again_at = self._activated.get(site_id, ""), None
        one.sends, one.sent_at = one.sends + 1, time.monotonic()
        message_type = MESSAGE_TYPES.get(one.question.kind, f"query.{one.question.kind}")
        ttl_s = max(1.0, end - time.monotonic()) + KEEP_S
        message_id = self._push(to_records(one.question), self._nodes[site_id], message_type, ttl_s=ttl_s)
        if message_id is not None:
            one.message_ids.append(message_id)
        elif self._registered:
            self._failed(one)

    def _push(self, records: RecordDict, node: int, message_type: str, *, ttl_s: float) -> str | None:
        # One at a time: Flower's in-memory Grid leaves out the ids of messages it refuses, so a list would shift.
        ids = list(self._grid.push_messages([Message(records, node, message_type, ttl=ttl_s)]))
        return ids[0] if ids else None

    def _pull(self, message_id: str) -> Message | None:
        # An error that Flower reports comes from the SuperLink, not from the node: only the id tells whose it is.
        for reply in self._grid.pull_messages([message_id]):
            if reply.metadata.reply_to_message_id == message_id:
                return reply
        return None

    def _wait(self, one: _Asked, others: Sequence[_Asked], end: float) -> Answer | None:
        """The answer, looked for until the deadline and once more after it."""
        while True:
            now = time.monotonic()
            for message_id in tuple(one.message_ids):
                reply = self._pull(message_id)
                if reply is None:
                    continue
                one.message_ids.remove(message_id)
                answer = self._read(one.question, reply)
                if answer is not None:
                    return answer
                if not self._registered:
                    return None
                self._failed(one)
            if now >= end or not (self._registered or one.message_ids):
                self._note(f"{one.question.site_id}: silent until the deadline")
                return None
            if self._registered:
                self._ask_again(others, now, end)
            self._pause()

    def _ask_again(self, waiting: Sequence[_Asked], now: float, end: float) -> None:
        """Send what a restarted node has lost, and what has failed, again. Nothing is spent by it."""
        if now - self._looked < self._patience.look_s:
            return
        self._look()
        for one in waiting:
            site_id = one.question.site_id
            if site_id not in self._nodes:
                continue
            came_back = bool(one.message_ids or one.activated) and one.activated != self._activated[site_id]
            never_sent = not one.message_ids and one.again_at is None
            due = one.again_at is not None and now >= one.again_at
            overdue = bool(one.message_ids) and now >= one.sent_at + self._patience.overdue_s * 2.0 ** (one.sends - 1)
            if came_back or never_sent or due or overdue:
                why = "the node came back" if came_back else "it is silent" if overdue else "after a failure"
                self._note(f"{site_id}: asked again ({why})")
                self._send(one, end)

    def _failed(self, one: _Asked) -> None:
        one.failures += 1
        one.again_at = time.monotonic() + min(60.0, self._patience.again_s * 2.0 ** (one.failures - 1))

    def _read(self, question: Question, reply: Message) -> Answer | None:
        site_id = question.site_id
        if reply.has_error():
            self._note(f"{site_id}: flower reports error {reply.error.code}")
            self._nodes.pop(site_id, None)  # the node may be gone; if it is not, site_ids() finds it again
            return None
        if "failure" in reply.content:
            self._note(f"{site_id}: the node could not ask its site ({_code(reply.content)})")
            return None
        try:
            answer = from_records(reply.content)
            if not isinstance(answer, Answer):
                raise _refused("a question came back instead of an answer")
            messages.check_answers(question, answer)
        except FedError as error:
            self._note(f"{site_id}: {error}")
            return None
        return answer

    def _look(self) -> None:
        """Which sites' nodes are online now, by the names that the coordinator gave them."""
        self._looked = time.monotonic()
        online = {node.name: node for node in self._grid.get_nodes() if node.name in self._sites}
        self._nodes = {site: node.node_id for site, node in online.items()}
        self._activated = {site: node.last_activated_at for site, node in online.items()}

    def _ask_names(self, asked: dict[int, str | None]) -> None:
        for node in set(self._grid.get_node_ids()) - set(self._nodes.values()) - set(asked):
            asked[node] = self._push(RecordDict(), node, NAME_TYPE, ttl_s=self._patience.find_s + KEEP_S)
        for node, message_id in asked.items():
            reply = self._pull(message_id) if message_id is not None else None
            if reply is not None:
                asked[node] = None
                self._learn(node, reply)

    def _learn(self, node: int, reply: Message) -> None:
        record = reply.content.get("name") if reply.has_content() else None
        site_id = record.get("site_id") if isinstance(record, ConfigRecord) else None
        if not isinstance(site_id, str) or site_id not in self._sites:
            return
        if site_id in self._nodes:
            raise FormatError(
                "message-context", f"two nodes say that they are {site_id}", hint="stop one of the two and start again"
            )
        self._nodes[site_id] = node

    def _pause(self) -> None:
        if self._stopped.wait(self._patience.poll_s):
            raise QuorumError("quorum-unreachable", "flower stopped during the run", hint="see flower's own log")


def _code(records: RecordDict) -> str:
    """The code of a failure; a text that no code has is not printed."""
    record = records["failure"]
    code = record.get("code") if isinstance(record, ConfigRecord) else None
    return code if isinstance(code, str) and CODE.fullmatch(code) else "no code"


def _refused(reason: str) -> FormatError:
    return FormatError("not-canonical", reason, hint="coordinator and site must run the same version of wardround")
