"""A coordinator and hospitals as real processes over real Flower: TLS, node authentication, seals, and things that die.

What the hospitals hold are vectors, so that a round takes seconds. The demonstration with images is sim/deployment.py.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from client.folder import SiteFolder
from federation import flower_private, supervise
from federation.consent import PROTOCOL
from federation.flower import GridLink, Patience
from federation.logs import events
from federation.messages import Question
from federation.plan import parse_plan
from federation.privacy.ledger import Ledger
from federation.supervise import Backoff, free_port
from server import desk, page, rounds, runs
from server.checkpoint import Checkpoints
from server.coordinator import Coordinator, Listening, local, stop_run
from server.federation_folder import FederationFolder
from server.trusted import roster_in_force
from server.verify import verify
from sim.deployment import ahead
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.vector_federation import VectorFederation
from sim.vector_hospital import site_of

# Flower's own build of a bundle, which only a test uses, calls something deprecated.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern"),
]

SITES = ("a", "b", "c")
PLAN = parse_plan("""
[run]
name = "vectors"
rounds = 4
quorum = 3
deadline_s = 600.0
[model]
path = "base"
[training]
local_steps = 2
sampling_rate = 0.5
[privacy]
noise_multiplier = 4.0
[aggregation]
secure = false
max_update_rms = 1e6
""")


class Wire:
    """What lies between hospitals and coordinator: it carries bytes, or takes them and says nothing (half-open)."""

    def __init__(self, target_port):
        self._target, self._over = target_port, False
        self.carries = threading.Event()
        self.carries.set()
        self._open = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target)) if self.carries.is_set() else None
            except OSError:
                if self._over:
                    return
                near.close()
                continue
            self._open += [near, far] if far else [near]
            if far:
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.carries.wait()  # while the wire is silent, bytes are taken and nothing comes back
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._over = True
        self.carries.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        for end in (self._listening, *self._open):
            end.close()


class Deployment:
    """A whole federation in a folder, its coordinator in this process and each hospital in one of its own."""

    def __init__(self, folder, sites=SITES):
        self.folder, self.home, self.sites = folder, folder / "coordinator", sites
        self.port, self.processes = free_port(), {}
        self.wire = Wire(self.port)
        VectorFederation(folder, sites).establish(self.wire.port)
        self.serve()

    def serve(self):
        listening = Listening(f"127.0.0.1:{self.port}", self.home / "server.crt", self.home / "server.key")
        self.coordinator = Coordinator(
            self.home, listening, roster_in_force(self.home), page_port=0, pages=page.pages, look=page.overview,
            backoff=Backoff(first_s=0.5, most_s=2.0),
        )  # fmt: skip
        self.coordinator.start()

    def start(self, site_id):
        env = supervise.environment(os.environ, {})
        command = [sys.executable, "-m", "sim.vector_hospital", site_id, str(self.folder / site_id)]
        self.processes[site_id] = subprocess.Popen(command, env=env)

    def start_all(self):
        for site_id in self.sites:
            self.start(site_id)
        self.until(lambda: sum(node.online for node in self.coordinator.nodes) == len(self.sites), "all nodes online")

    def until(self, holds, what, seconds=600):
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not in time: {what}"
            time.sleep(0.1)

    def launch(self, plan=PLAN):
        return desk.launch(self.home, plan, SeededKeys(0))

    def finish(self, run):
        self.until(lambda: run.standing().state in runs.OVER, "the run is over", seconds=1200)
        assert run.standing().state == "finished", run.standing()
        return Checkpoints.open(run.run).last()

    def told(self, site_id, event):
        return [one for one in events(self.folder / site_id / "logs" / "site.jsonl") if one["event"] == event]

    def answered(self, site_id):
        return self.told(site_id, "answered")

    def child(self, site_id, name):
        """The process id of a hospital's node or relay."""
        return [one["pid"] for one in self.told(site_id, "child-started") if one["child"] == name][-1]

    def spends(self, site_id):
        with_ledger = Ledger.open(self.folder / site_id / "vectors" / "ledger")
        try:
            return [(one.run_id, one.round_number) for one in with_ledger.spends()]
        finally:
            with_ledger.close()

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)
        self.coordinator.stop()
        self.wire.close()


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    yield made
    made.stop()


def in_one_process(folder, plan=PLAN):
    """The adapter of the same run without Flower, processes or network."""
    sites = {site_id: site_of(site_id, folder / site_id) for site_id in SITES}
    checkpoints = Checkpoints.create(folder / "run", run_id=rounds.new_run_id(plan, SeededKeys(0)), plan=plan)
    try:
        return rounds.run(plan, LocalLink(sites), checkpoints).adapter.digest()
    finally:
        for site in sites.values():
            site.ledger.close()


def test_the_demonstration_kills_a_hospital_that_is_ahead_of_another(tmp_path):
    logs = {name: tmp_path / f"{name}.jsonl" for name in SITES}

    def trained(name, number):
        for kind, answer in (("consent", "consent"), ("train", "trained")):
            line = json.dumps({"event": "answered", "kind": kind, "answer": answer, "round": number})
            with logs[name].open("a") as file:
                file.write(line + "\n")

    found = [ahead(logs)]
    for name, number in (("b", 1), ("a", 1), ("c", 1), ("c", 2)):
        trained(name, number)
        found.append(ahead(logs))
    with logs["a"].open("a") as file:
        file.write('{"event": "answ')

    assert found == [None, "b", "a", None, "c"] and ahead(logs) == "c"


def test_the_adapter_is_the_simulators_and_the_evidence_verifies(deployment, tmp_path):
    asked = replace(PLAN.evaluation, private_epsilon=2.0, questions=(("Is there an effusion?", "Yes.", "No."),))
    plan = replace(PLAN, evaluation=asked)
    deployment.start_all()

    committed = deployment.finish(deployment.launch(plan))

    assert committed.adapter.digest() == in_one_process(tmp_path / "local", plan)
    [run] = runs.every(deployment.home / "runs")
    private = json.loads((run.path / "report.json").read_text())["evaluation"]["private"]
    assert sorted(private["sites"]) == list(SITES) and private["left_out"] == {}
    assert all(step.passed for step in verify(run.path)), verify(run.path)
    desk.export(deployment.home, run.run_id, tmp_path / "export")
    assert all(step.passed for step in verify(tmp_path / "export"))


def test_whatever_is_killed_the_run_ends_with_the_same_adapter_and_nothing_is_spent_twice(deployment, tmp_path):
    plan = replace(PLAN, run=replace(PLAN.run, rounds=6))
    deployment.start_all()
    run = deployment.launch(plan)

    def after(rounds_done):
        deployment.until(lambda: len(run.records()) >= rounds_done, f"{rounds_done} rounds")

    after(1)
    os.kill(deployment.child("a", "relay"), signal.SIGKILL)
    after(2)
    os.kill(deployment.coordinator.superlink_pid, signal.SIGKILL)
    after(3)
    [runner] = [process.pid for process in deployment.coordinator._runners.values()]
    os.kill(runner, signal.SIGKILL)
    after(4)
    os.kill(deployment.child("b", "node"), signal.SIGKILL)
    after(5)
    trained = len(deployment.answered("c"))
    deployment.until(lambda: len(deployment.answered("c")) > trained, "c answers in the last round")
    deployment.processes["c"].kill()
    deployment.processes["c"].wait()
    deployment.start("c")

    committed = deployment.finish(run)
    assert committed.adapter.digest() == in_one_process(tmp_path / "local", plan)
    deployment.stop()
    for site_id in SITES:
        spends = deployment.spends(site_id)
        assert len(spends) == len(set(spends)) == 6
    assert all(step.passed for step in verify(run.path)), verify(run.path)


def test_a_site_that_was_away_joins_the_next_round(deployment):
    plan = replace(PLAN, run=replace(PLAN.run, rounds=8, quorum=2, deadline_s=60.0))
    deployment.start_all()
    run = deployment.launch(plan)
    deployment.until(lambda: len(run.records()) >= 1, "a round")
    deployment.processes["c"].terminate()
    deployment.processes["c"].wait()
    deployment.until(lambda: any("c" not in record.accepted for record in run.records()), "a round without c")
    deployment.start("c")

    deployment.finish(run)

    accepted = ["c" in record.accepted for record in run.records()]
    assert accepted[0] and not all(accepted) and accepted[-1]


def test_a_roster_signed_in_mid_run_counts_from_the_next_round_and_nobody_starts_again(deployment):
    """A site takes a new key and a fourth one comes, under masks, while every process goes on."""
    plan = replace(PLAN, run=replace(PLAN.run, rounds=8), aggregation=replace(PLAN.aggregation, secure=True))
    federation = FederationFolder.open(deployment.home)
    deployment.start_all()
    run = deployment.launch(plan)
    deployment.until(lambda: len(run.records()) >= 1, "a round")
    site = SiteFolder(deployment.folder / "a")
    rotated = site.rotate()
    federation.admit(rotated, heard=rotated.words(), now_s=time.time())
    done = len(run.records())
    deployment.until(lambda: len(run.records()) >= done + 2, "a whole round with the new key")
    VectorFederation(deployment.folder).admit("d")
    deployment.start("d")

    deployment.finish(run)

    accepted = [record.accepted for record in run.records()]
    assert all(set(SITES) <= set(sites) for sites in accepted), accepted
    assert "d" not in accepted[0] and "d" in accepted[-1]
    assert site.signing_key().public == rotated.identity
    assert deployment.processes["a"].poll() is None
    assert all(step.passed for step in verify(run.path)), verify(run.path)


def test_a_network_that_goes_silent_with_its_connections_open_is_got_over(deployment, tmp_path):
    """Half-open: bytes are taken and nothing comes back. No call waits for ever, and the run goes on where it was."""
    deployment.start_all()
    run = deployment.launch()
    deployment.until(lambda: len(run.records()) >= 1, "a round")
    deployment.wire.carries.clear()
    time.sleep(75)  # longer than Flower takes to count the nodes out
    done = len(run.records())
    assert done <= 2  # nobody was heard, so no round ended but one that was over already
    deployment.wire.carries.set()

    assert deployment.finish(run).adapter.digest() == in_one_process(tmp_path / "local")
    deployment.stop()
    for site_id in SITES:
        spends = deployment.spends(site_id)
        assert len(spends) == len(set(spends)) == 4


def memory_group():
    """A cgroup of our own with room for nothing, as `MemoryMax` in the unit would set it; version 2 or 1."""
    for root, limit in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        group = Path(root) / f"wardround-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text("1M")
                return group
            group.rmdir()
    pytest.skip("needs a memory cgroup of its own, as root")


def test_a_hospital_that_is_killed_for_its_memory_has_paid_once_and_joins_again(deployment):
    """The kernel kills the daemon in the middle of whatever it does (OOM), and nobody else."""
    group = memory_group()
    plan = replace(PLAN, run=replace(PLAN.run, quorum=2, rounds=6))
    deployment.start_all()
    run = deployment.launch(plan)
    deployment.until(lambda: len(run.records()) >= 1, "a round")
    (group / "cgroup.procs").write_text(str(deployment.processes["c"].pid))

    assert deployment.processes["c"].wait(120) == -signal.SIGKILL
    deployment.start("c")
    deployment.finish(run)

    deployment.stop()
    group.rmdir()
    spends = deployment.spends("c")
    assert len(spends) == len(set(spends))
    assert {record.round_number for record in run.records() if "c" in record.accepted} <= {n for _, n in spends}
    assert "c" in run.records()[0].accepted and "c" in run.records()[-1].accepted


def test_a_stopped_run_stops_and_resume_ends_it(deployment, tmp_path):
    deployment.start_all()
    run = deployment.launch()
    deployment.until(lambda: len(run.records()) >= 1, "a round")
    stop_run(deployment.home, run)
    deployment.until(lambda: not deployment.coordinator._runners, "the runner has ended", seconds=60)
    assert run.standing().state == "stopped" and len(run.records()) < 4

    desk.resume(deployment.home, run.run_id)

    assert deployment.finish(run).adapter.digest() == in_one_process(tmp_path / "local")


def test_a_hostile_bundle_is_carried_to_every_node_and_nothing_of_it_runs(deployment, tmp_path):
    """Whoever holds the coordinator's machine, but not its key, ships code to every hospital to be run there."""
    trap = tmp_path / "sprung"
    code = (
        f"open({str(trap)!r}, 'a').write(__name__)\nfrom flwr.clientapp import ClientApp\napp = ClientApp()\n".encode()
    )
    text = (
        '[project]\nname = "hostile"\nversion = "1.0.0"\ndescription = "d"\nlicense = {text = "Apache-2.0"}\n'
        '[tool.flwr.app]\npublisher = "p"\n[tool.flwr.app.components]\nserverapp = "evil:app"\nclientapp = "evil:app"\n'
        '[tool.flwr.app.config]\nwardround-run = "../../../etc"\n'
    )
    files = {"pyproject.toml": text.encode(), "evil.py": code, "client/app.py": code, "sitecustomize.py": code}
    bundle = build_fab_from_files(files)[0]
    deployment.start_all()
    reach = local(deployment.home)
    control = flower_private.Control(reach.address, local_key=reach.key)

    # Left to our own runner, such a run ends at once: no folder has its name.
    number = control._call(control._client.StartRun, StartRunRequest(fab=Fab(content=bundle))).run_id
    deployment.until(lambda: control.runs()[number].startswith("finished"), "the run is given up")

    # Taken by the attacker, it reaches the nodes, bundle and all: the sites answer that nobody signed it.
    deployment.coordinator._over.set()
    time.sleep(2)
    assert control._call(control._client.StartRun, StartRunRequest(fab=Fab(content=bundle))).run_id
    secret = (deployment.home / "serve" / "tasks.secret").read_bytes()
    tasks = flower_private.Tasks(reach.address, secret, kind="flwr-serverapp", local_key=reach.key)
    while (token := tasks.take()) is None:
        time.sleep(0.2)
    tasks.close()
    control.close()
    body = {"plan": PLAN.value(), "protocol": PROTOCOL, "quorum": 3}
    with flower_private.server_task(reach.address, token, local_key=reach.key, on_lost=lambda: None) as task:
        link = GridLink(task.grid, SITES, patience=Patience(), stopped=threading.Event(), registered=True)
        assert set(link.site_ids()) == set(SITES)
        asked = [Question("consent", "evil-run", 1, site_id, PLAN.digest(), body) for site_id in SITES]
        answers = list(link.ask(asked, deadline_s=300))

    assert [(answer.kind, answer.body["code"]) for answer in answers] == [("failure", "unsigned")] * 3
    assert not trap.exists()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.py", "sitecustomize.py")]


def test_a_stranger_cannot_take_tasks_or_speak_for_another_site(deployment):
    deployment.start("a")
    deployment.until(lambda: any(node.online for node in deployment.coordinator.nodes), "a node")
    reach = local(deployment.home)

    tasks = flower_private.Tasks(reach.address, b"wrong", kind="flwr-serverapp", local_key=reach.key)
    control = flower_private.Control(reach.address, local_key="wrong")

    with pytest.raises(PermissionError):
        tasks.take()
    with pytest.raises(PermissionError):
        control.nodes()
    tasks.close()
    control.close()
