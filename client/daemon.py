"""The resident process of a hospital: it keeps model, store, policy and ledger, and supervises the carrier.

    coordinator ═ TLS ═ node (Flower's SuperNode) ─ loopback ─ relay ─ Unix socket ─ daemon: site.answer(question)

Node and relay are processes without keys to anything but this machine's own queue and the node's transport key; they
may crash and are started again. The daemon alone decides, trains and pays. It is loaded once: a run of a hundred rounds
loads its model once.
"""

import contextlib
import json
import math
import os
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from client.local_service import LocalService, pack, unpack
from federation import durable, metrics, supervise
from federation.errors import CarrierError, FormatError
from federation.logs import JsonLog
from federation.messages import DIGEST, Answer, Question
from federation.metrics import Metrics
from federation.supervise import Backoff, Child

FOLDERS = ("run", "logs")
WAITING = "waiting for the coordinator"
RESTARTS = Backoff()
RETRYING = "Connection attempt failed"  # Flower's node, each time that nobody answers
LOOK_AGAIN_S, TROUBLE_S = 30.0, 300.0  # a cause is looked for no more often than the one, and told anew after the other
NOT_LET_IN = (
    "the coordinator answers and does not let this node in: it still counts a killed one as connected, for a minute, or"
    " the roster in force has another key of this site"
)

T = TypeVar("T")


class Answering(Protocol):
    """A site as the daemon sees it. client/site.py is one."""

    @property
    def site_id(self) -> str: ...

    def answer(self, question: Question) -> Answer: ...


@dataclass(frozen=True)
class Carrier:
    """Where the coordinator is and how this site is known to it, on the level of transport."""

    superlink: str  # host:port
    ca: Path  # the federation's own certificate authority, and no other
    node_key: Path  # EC P-384, OpenSSH form
    proxy: str | None = None
    heartbeat_s: int = 30  # a killed node is let in again after two of them


@dataclass
class Doing:
    """What the daemon tells about itself: states, words and counts, nothing of a patient."""

    state: str = WAITING
    since: float = 0.0
    run_id: str = ""
    round_number: int = 0
    answered: int = 0
    repeated: int = 0
    last: Mapping[str, Any] | None = None


class OneThread:
    """A thread in which a site is opened, and in which it answers: its store is a database of the thread that opened
    it, its model is used by one caller at a time, and its ledger has one writer."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="site", daemon=True).start()

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises there; callers wait for each other."""
        done: Future[T] = Future()
        self._work.put((function, done))
        return done.result()

    def _run(self) -> None:
        while True:
            function, done = self._work.get()
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)


class Daemon:
    """Everything that runs at a site, from `start` to `stop`. `approve` records a person's approval of a plan."""

    def __init__(
        self,
        site: Answering,
        folder: Path,
        carrier: Carrier | None,
        *,
        thread: OneThread,
        approve: Callable[[str, str], None],
        spent: Callable[[], Mapping[str, Any]] = dict,
        trouble: Callable[[], str] = lambda: "",
        metrics_port: int | None = None,
        backoff: Backoff = RESTARTS,
        clock: Callable[[], float] = time.monotonic,
        also_log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`site` was opened in `thread`. Without a `carrier` nothing is started but the local service.

        `trouble` looks what is wrong on the way to the coordinator, when the node says that something is.
        """
        self.site, self.folder, self._carrier = site, folder, carrier
        self._approve, self._spent, self._clock, self._backoff = approve, spent, clock, backoff
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log = JsonLog(folder / "logs" / "site.jsonl", also=also_log)
        self.metrics = Metrics()
        self.doing = Doing(since=clock())
        self._thread = thread
        self._trouble, self._troubled, self._looked_at, self._looking = trouble, "", -math.inf, threading.Lock()
        self._children: list[Child] = []
        self._service: LocalService | None = None
        self._metrics_port = metrics_port
        self._served: metrics.Served | None = None

    def start(self) -> None:
        self._service = LocalService(
            self.folder / "run",
            {"Health": self._health, "Status": self._status, "Approve": self._approved, "Answer": self._answered},
            on_stranger=lambda uid: self.log("stranger-refused", uid=uid),
        )
        self._start_metrics()
        if self._carrier is not None:
            self._start_children(self._carrier)
        self.log("daemon-started", site=self.site.site_id, pid=os.getpid())

    def stop(self) -> None:
        """Children first, so that no question arrives any more; a training under way is left to end with the process:
        its charge is on disk, and the round is over for this site."""
        for child in self._children:
            child.begin_stop()
        for child in self._children:
            child.stop()
        if self._service is not None:
            self._service.close()
        if self._served is not None:
            self._served.close()
        self.log("daemon-stopped", site=self.site.site_id)

    def run_until_signal(self) -> None:
        """Until SIGTERM or SIGINT."""
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        self.start()
        over.wait()
        self.stop()
        if self.doing.state != WAITING:
            os._exit(0)  # a training under way is not waited for

    # The four methods of the local service.

    def _health(self, request: bytes) -> bytes:
        return json.dumps({"state": self.doing.state, "pid": os.getpid()}).encode()

    def _status(self, request: bytes) -> bytes:
        return json.dumps(self.status()).encode()

    def _approved(self, request: bytes) -> bytes:
        try:
            given = json.loads(request)
            digest, by = str(given["digest"]), str(given["by"])
        except (ValueError, KeyError, TypeError):
            raise FormatError(
                "not-canonical", "an approval names a digest and a person", hint="approve again"
            ) from None
        if DIGEST.fullmatch(digest) is None:
            raise FormatError("not-canonical", "a plan digest has 64 hexadecimal characters", hint="copy it whole")
        self._approve(digest, by)
        self.log("plan-approved", plan=digest, by=by)
        return json.dumps({"approved": digest}).encode()

    def _answered(self, request: bytes) -> bytes:
        question = unpack(request)
        if not isinstance(question, Question):
            raise FormatError("message-kind", "an answer came instead of a question", hint="compare the versions")
        began, doing = self._clock(), self.doing
        answer = self._thread.call(partial(self._answer, question))
        seconds = self._clock() - began
        doing.answered += 1
        self._troubled = ""
        told = {"kind": question.kind, "answer": answer.kind, "run": question.run_id, "round": question.round_number}
        why = {name: answer.body[name] for name in ("reasons", "code") if name in answer.body}
        doing.last = told | why
        self._note_previous(question)
        self.log("answered", **told, **why, seconds=round(seconds, 3), question=question.digest()[:16])
        self.metrics.add("wardround_site_questions_total", kind=question.kind, answer=answer.kind)
        self.metrics.add("wardround_site_answer_seconds_total", seconds, kind=question.kind)
        return pack(answer)

    def _answer(self, question: Question) -> Answer:
        """In the site's thread."""
        doing = self.doing
        doing.state, doing.since = f"answering {question.kind}", self._clock()
        doing.run_id, doing.round_number = question.run_id, question.round_number
        try:
            return self.site.answer(question)
        finally:
            doing.state, doing.since = WAITING, self._clock()

    def _note_previous(self, question: Question) -> None:
        """What the coordinator made of this site's last answer: a late one is told so here."""
        match question.body.get("previous"):
            case {"round_number": int(number), "outcome": str(outcome)} if outcome != "accepted":
                self.log("round-went-on-without-us", run=question.run_id, round=number, outcome=outcome[:64])
                self.metrics.add("wardround_site_rounds_missed_total")

    def status(self) -> dict[str, Any]:
        """For people and for `wardround site status --json`."""
        return {
            "site": self.site.site_id,
            "state": self.doing.state,
            "for_s": round(self._clock() - self.doing.since, 1),
            "run": self.doing.run_id,
            "round": self.doing.round_number,
            "answered": self.doing.answered,
            "last": self.doing.last,
            "trouble": self._troubled if self._clock() - self._looked_at < TROUBLE_S else "",
            "children": {child.name: {"pid": child.pid, "starts": child.starts} for child in self._children},
            "coordinator": self._carrier.superlink if self._carrier else None,
            "metrics_port": self._served.port if self._served else None,
            **self._spent(),
        }

    # What is started beside it.

    def _start_children(self, carrier: Carrier) -> None:
        secret = self.folder / "run" / "tasks.secret"
        secret.unlink(missing_ok=True)
        durable.write(secret, [secrets.token_hex(32).encode("ascii")])
        secret.chmod(0o600)
        address = f"127.0.0.1:{supervise.free_port()}"
        home = {"FLWR_HOME": str(self.folder / "run" / "flwr"), "HOME": str(self.folder / "run")}
        proxy = {"HTTPS_PROXY": carrier.proxy} if carrier.proxy else {}
        node = supervise.ours(
            "client.app", "node", "--superlink", carrier.superlink, "--address", address, "--ca", str(carrier.ca),
            "--key", str(carrier.node_key), "--secret", str(secret), "--heartbeat", str(carrier.heartbeat_s),
        )  # fmt: skip
        relay = supervise.ours(
            "client.app", "relay", "--site", self.site.site_id, "--socket", str(self.folder / "run" / "daemon.sock"),
            "--address", address, "--secret", str(secret),
        )  # fmt: skip
        for name, command, extra in (("node", node, home | proxy), ("relay", relay, home | {"NO_PROXY": "*"})):
            child = Child(
                name,
                lambda command=command: command,  # type: ignore[misc]
                supervise.environment(os.environ, extra, proxies=name == "node"),
                on_line=self._node_says if name == "node" else self.log.child_line,
                on_event=self._node_event if name == "node" else self.log,
                backoff=self._backoff,
            )
            self._children.append(child)
            child.start()

    # When the node does not get through: it says little of why, and of a wrong clock nothing.

    def _node_says(self, name: str, line: str) -> None:
        self.log.child_line(name, line)
        if RETRYING in line:
            self._look("")

    def _node_event(self, event: str, **fields: object) -> None:
        self.log(event, **fields)
        if event == "child-ended":
            self._look(NOT_LET_IN)

    def _look(self, otherwise: str) -> None:
        """In a thread of its own: the node's output is read on meanwhile. Told once for each cause."""

        def look() -> None:
            if self._clock() - self._looked_at < LOOK_AGAIN_S and not otherwise:
                return
            if not self._looking.acquire(blocking=False):
                return
            with contextlib.ExitStack() as stack:
                stack.callback(self._looking.release)
                found = self._trouble() or otherwise
                if found and (found != self._troubled or self._clock() - self._looked_at > TROUBLE_S):
                    self.log("not-connected", says=found)
                self._troubled, self._looked_at = found, self._clock()

        threading.Thread(target=look, name="trouble", daemon=True).start()

    def _start_metrics(self) -> None:
        if self._metrics_port is None:
            return
        told = self.metrics
        told.describe("wardround_site_questions_total", "counter", "questions answered, by kind of question and answer")
        told.describe("wardround_site_answer_seconds_total", "counter", "seconds spent on answers")
        told.describe("wardround_site_rounds_missed_total", "counter", "rounds that went on without this site's answer")
        told.ask("wardround_site_log_lines_lost", "log lines that could not be written", lambda: self.log.failed)
        told.ask(
            "wardround_site_child_starts",
            "starts of node and relay together",
            lambda: sum(child.starts for child in self._children),
        )
        try:
            self._served = metrics.serve(
                self._metrics_port, {"/metrics": lambda: ("text/plain; version=0.0.4", told.text().encode())}
            )
        except OSError:
            raise CarrierError(
                "port-taken",
                "the port for metrics is taken",
                hint="name another in site.toml, [carrier] metrics_port, or 0 for any",
            ) from None
