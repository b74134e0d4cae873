"""`wardround coordinator serve`: the processes of a coordinator, kept alive, and what they tell.

    SuperLink behind its guard (server/superlink.py)     nodes connect here; the only listener that others reach
    one runner per run under way (server/app.py)         rounds.run over Flower's Grid
    this process                                         hands out tasks, admits the roster's nodes, page, metrics

Whatever is killed comes back. A runner or this process that dies in a round loses that round's answers and nothing
else: the run goes on from its last committed round, and sites answer what they have answered before, spending nothing.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from federation import durable, flower_private, metrics, supervise
from federation.errors import CarrierError, FedError
from federation.flower_private import Control, NodeState, Tasks
from federation.logs import JsonLog
from federation.metrics import Metrics
from federation.supervise import Backoff, Child
from server import runs
from server.runs import RunFolder

POLL_S = 0.5
SYNC_S = 5.0
RESTARTS = Backoff(most_s=10.0)
RUNNER_AGAIN_S = 2.0
LAUNCH_S = 30.0
RUNNER_START_S = 300.0
RUNNER_SAYS = "run: "  # the first line of a runner

Pages = Mapping[str, Callable[[], tuple[str, bytes]]]
Roster = Callable[[], Mapping[str, bytes]]  # site -> its node's public key, PEM: who may connect right now


@dataclass(frozen=True)
class Listening:
    """The listener that sites reach."""

    address: str  # host:port
    certificate: Path
    key: Path


@dataclass(frozen=True)
class Local:
    """How this machine's own commands reach a serving coordinator; written to serve/local.json, mode 0600."""

    address: str
    key: str
    pid: int
    page: int

    @contextmanager
    def control(self) -> Iterator[Control]:
        made = Control(self.address, local_key=self.key)
        try:
            yield made
        finally:
            made.close()


def local(home: Path) -> Local:
    """Raises: CarrierError `serve-away`."""
    try:
        found = Local(**json.loads((home / "serve" / "local.json").read_bytes()))
        os.kill(found.pid, 0)
    except (OSError, ValueError, TypeError):
        raise CarrierError(
            "serve-away", "the coordinator does not serve", hint="start `wardround coordinator serve` first"
        ) from None
    return found


class Coordinator:
    """Everything that `serve` runs, from `start` to `stop`."""

    def __init__(
        self,
        home: Path,
        listening: Listening,
        roster: Roster,
        *,
        page_port: int,
        pages: Callable[["Coordinator"], Pages] = lambda served: {},
        look: Callable[["Coordinator"], dict[str, Any]] | None = None,
        renew: Callable[[], bool] = lambda: False,
        backoff: Backoff = RESTARTS,
        also_log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.home, self._listening, self._roster, self._backoff = home, listening, roster, backoff
        (home / "serve").mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "runs").mkdir(exist_ok=True, mode=0o700)
        self.log = JsonLog(home / "serve" / "coordinator.jsonl", also=also_log)
        self.metrics = Metrics()
        self.nodes: list[NodeState] = []
        self._page_port, self._pages, self._look, self._renew = page_port, pages, look, renew
        self._over = threading.Event()
        self._runners: dict[str, subprocess.Popen[bytes]] = {}
        self._superlink: Child | None = None
        self._served: metrics.Served | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Raises: CarrierError `port-taken`, for the sites' port and for the page's."""
        _require_free(self._listening.address)
        serve = self.home / "serve"
        task_secret, local_secret = secrets.token_hex(32), secrets.token_hex(32)
        for name, text in (("tasks.secret", task_secret), ("local.secret", local_secret)):
            durable.write(serve / name, [text.encode("ascii")])
            (serve / name).chmod(0o600)
        port = supervise.free_port()
        self.address = f"127.0.0.1:{port}"
        self._local_key, self._task_secret = local_secret, task_secret.encode("ascii")
        self._start_page()
        self._superlink = Child(
            "superlink",
            lambda: supervise.ours(
                "server.superlink", "--database", str(serve / "superlink.db"), "--secret", str(serve / "tasks.secret"),
                "--local-secret", str(serve / "local.secret"), "--certificate", str(self._listening.certificate),
                "--key", str(self._listening.key), "--listen", self._listening.address, "--local-port", str(port),
            ),
            self._environment(),
            on_line=self.log.child_line,
            on_event=self.log,
            backoff=self._backoff,
        )  # fmt: skip
        self._superlink.start()
        assert self._served is not None
        told = {"address": self.address, "key": local_secret, "pid": os.getpid(), "page": self._served.port}
        durable.write(serve / "local.json", [json.dumps(told).encode()])
        (serve / "local.json").chmod(0o600)
        for work in (self._hand_out, self._look_after):
            thread = threading.Thread(target=work, name=work.__name__, daemon=True)
            self._threads.append(thread)
            thread.start()
        self.log("coordinator-started", pid=os.getpid(), listen=self._listening.address)

    def stop(self) -> None:
        """Runners end after writing nothing half: their runs go on at the next start."""
        self._over.set()
        supervise.end(tuple(self._runners.values()), wait_s=3.0)
        if self._superlink is not None:
            self._superlink.stop()
        if self._served is not None:
            self._served.close()
        for thread in self._threads:
            thread.join(10.0)
        (self.home / "serve" / "local.json").unlink(missing_ok=True)
        self.log("coordinator-stopped")

    def run_until_signal(self) -> None:
        """Until SIGTERM or SIGINT."""
        over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: over.set())
        self.start()
        over.wait()
        self.stop()

    @property
    def page_port(self) -> int:
        assert self._served is not None
        return self._served.port

    @property
    def superlink_pid(self) -> int | None:
        return self._superlink.pid if self._superlink else None

    def sites(self) -> list[dict[str, Any]]:
        """Who may connect, and who is there."""
        online = {node.site_id: node.online for node in self.nodes}
        return [{"site": site, "online": online.get(site, False)} for site in sorted(self._roster())]

    # The SuperLink: nodes of the roster, and runs that were under way.

    def _look_after(self) -> None:
        """Admit the roster's nodes, remove the others, and take up what an earlier process left unfinished."""
        control = Control(self.address, local_key=self._local_key)
        taken_up, told = False, ""
        while not self._over.is_set():
            try:
                self._sync(control)
                self._renewed()
                if not taken_up:
                    self._end_flowers_runs(control)
                    taken_up = True
                self._take_up(control)
                if told:
                    self.log("superlink-ready")
                told = ""
            except (ConnectionError, PermissionError) as error:
                if str(error) != told:
                    told = str(error)
                    self.log("superlink-not-ready", reason=told)
            except FedError as error:  # an unreadable roster, a damaged run: it is said, and looked at again
                self.log("not-well", code=error.code, reason=error.message)
            self._over.wait(SYNC_S if taken_up else 2 * POLL_S)
        control.close()

    def _sync(self, control: Control) -> None:
        wanted = dict(self._roster())
        self.nodes = control.nodes()
        for node in self.nodes:
            if wanted.get(node.site_id) != node.public_key:
                control.unregister(node.node_id)
                self.log("node-removed", site=node.site_id)
            else:
                wanted.pop(node.site_id)
        for site_id, key in wanted.items():
            control.register(site_id, key)
            self.log("node-admitted", site=site_id)
        for node in self.nodes:
            self.metrics.set("wardround_coordinator_site_online", float(node.online), site=node.site_id)

    def _renewed(self) -> None:
        """With a new certificate the SuperLink starts again: nodes and runners wait the few seconds and go on."""
        if self._renew() and self._superlink is not None:
            self.log("certificate-renewed")
            self._superlink.again()

    def _end_flowers_runs(self, control: Control) -> None:
        """Those of an earlier process: ours go on, each in a new one."""
        for number, status in control.runs().items():
            if not status.startswith("finished"):
                control.stop(number)

    # Tasks: one process per run.

    def _hand_out(self) -> None:
        tasks = Tasks(self.address, self._task_secret, kind="flwr-serverapp", local_key=self._local_key)
        while not self._over.wait(POLL_S):
            try:
                token = tasks.take()
            except (ConnectionError, PermissionError):
                continue  # the SuperLink starts, or starts again
            if token is not None:
                threading.Thread(target=self._run, args=(tasks, token), name="runner", daemon=True).start()
        tasks.close()

    def _run(self, tasks: Tasks, token: str) -> None:
        """One runner from start to end, while this thread waits: if it ended first, the kernel would end the runner."""
        process = subprocess.Popen(
            [
                *supervise.ours("server.app", "--home", str(self.home), "--address", self.address),
                "--parent", str(os.getpid()),
            ],
            env=self._environment(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._runners[token] = process
        self.log("runner-started", pid=process.pid)
        self.metrics.add("wardround_coordinator_runner_starts_total")
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{token}\n{self._local_key}\n".encode())
            process.stdin.close()
        except BrokenPipeError:
            pass
        threading.Thread(target=_keep, args=(tasks, token, process), name="runner-task", daemon=True).start()
        run_id = ""
        with process.stdout:
            for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip()
                if line.startswith(RUNNER_SAYS):
                    run_id = line.removeprefix(RUNNER_SAYS)
                else:
                    self.log.child_line("runner", line)
        status = process.wait()
        del self._runners[token]
        self.log("runner-ended", pid=process.pid, status=status, run=run_id)
        if run_id and not self._over.wait(RUNNER_AGAIN_S):
            self._take_up_lost(run_id)

    def _environment(self) -> dict[str, str]:
        serve = str(self.home / "serve")
        own = {"FLWR_HOME": f"{serve}/flwr", "HOME": serve, "NO_PROXY": "*", "FLWR_LOG_LEVEL": "WARNING"}
        return supervise.environment(os.environ, own)

    def _take_up_lost(self, run_id: str) -> None:
        """A run whose runner ended before it did: it goes on in a new one."""
        folder = runs.find(self.home / "runs", run_id)
        if folder.standing().state in runs.OVER:
            return
        control = Control(self.address, local_key=self._local_key)
        try:
            begin(control, folder)
            self.log("run-taken-up", run=run_id)
        except (ConnectionError, PermissionError):
            pass  # the SuperLink is away: looked at again when it is back
        finally:
            control.close()

    def _take_up(self, control: Control) -> None:
        """Runs that are not over while Flower has none for them: what an earlier process or SuperLink left."""
        known = control.runs()
        for folder in runs.every(self.home / "runs"):
            standing = folder.standing()
            if standing.state in runs.OVER or folder.age_s() < LAUNCH_S:
                continue  # a run that is just being launched has none yet
            if known.get(standing.flower_run, "finished").startswith("finished"):
                begin(control, folder)
                self.log("run-taken-up", run=folder.run_id)

    # What it tells.

    def _start_page(self) -> None:
        told = self.metrics
        told.describe("wardround_coordinator_site_online", "gauge", "1 if the site's node is connected")
        told.describe("wardround_coordinator_runner_starts_total", "counter", "processes started for runs")
        told.ask("wardround_coordinator_runs_under_way", "runs with a process", lambda: len(self._runners))
        told.ask(
            "wardround_coordinator_superlink_starts",
            "starts of the SuperLink",
            lambda: self._superlink.starts if self._superlink else 0,
        )
        pages = {"/metrics": lambda: ("text/plain; version=0.0.4", told.text().encode()), **self._pages(self)}
        try:
            other = None if self._look is None else metrics.events("/events", partial(self._look, self))
            self._served = metrics.serve(self._page_port, pages, other=other)
        except OSError:
            raise CarrierError(
                "port-taken", "the port of the page is taken", hint="name another with --page-port, or 0 for any"
            ) from None


def _keep(tasks: Tasks, token: str, process: subprocess.Popen[bytes]) -> None:
    """Until the runner speaks for its task itself."""
    until = time.monotonic() + RUNNER_START_S
    while process.poll() is None and time.monotonic() < until:
        tasks.keep(token)
        time.sleep(flower_private.HEARTBEAT_S / 2)


def _require_free(address: str) -> None:
    """Said here in a line; the SuperLink, a process of its own, would be started again and again."""
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except PermissionError:
        raise CarrierError(
            "port-taken", f"this user may not listen on port {port}", hint="below 1024 needs CAP_NET_BIND_SERVICE"
        ) from None
    except OSError:
        raise CarrierError(
            "port-taken",
            f"cannot listen on {address}: another program does, or it is no address of this machine",
            hint="stop the other program (ss -ltnp), or name another with --listen",
        ) from None


def begin(control: Control, folder: RunFolder) -> None:
    """Have Flower hand out a task for this run; a Flower run that it had before is ended."""
    before = folder.standing()
    if before.flower_run and not control.runs().get(before.flower_run, "finished").startswith("finished"):
        control.stop(before.flower_run)
    folder.stand("queued", flower_run=control.start(folder.run_id))


def stop_run(home: Path, folder: RunFolder) -> None:
    """A person ends a run. What is committed stays; `resume` goes on from it.

    Raises: CarrierError `run-over`.
    """
    if folder.standing().state in runs.OVER:
        raise CarrierError("run-over", "the run is over already", hint="see `wardround coordinator status`")
    folder.stand("stopped", "stopped by a person")
    try:
        with local(home).control() as control:
            control.stop(folder.standing().flower_run)
    except (CarrierError, ConnectionError, PermissionError):
        pass  # the runner reads the same word in the run's folder
