"""Seconds per round between processes, beside Flower's own FedAvg with the same settings in the same run.

    python -m sim.bench_deployment --out DIR [--rounds 6]

Three sites, TLS, node authentication, a file database, answers of 1 MB. Flower's are its stock programs with its
FedAvg strategy, and an app that adds 1 to the array. Ours are `coordinator serve` and the sites' daemons: consent,
training, ledger, signatures and log are in the figure; masked rounds are measured too. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.app import BUSY_FOR_S
from client.folder import make_transport
from client.local_service import LocalService
from federation import supervise
from federation.errors import CarrierError
from federation.plan import parse_plan
from federation.trust import certificates
from server import runs
from sim.vector_federation import VectorFederation

SITES = ("a", "b", "c")
NUMBERS = 2**18  # float32: 1 MiB
WAIT_S, START_S, IDLE_S = 900.0, 60.0, 120.0
PROGRAMS = Path(sys.executable).parent
PLAN = """
[run]
name = "bench"
quorum = 3
rounds = 6
deadline_s = 600.0
[model]
path = "base"
[adapter]
rank = 2
[training]
sampling_rate = 0.5
[privacy]
noise_multiplier = 8.0
[aggregation]
secure = false
max_update_rms = 1e6
"""
APP = """
[project]
name = "floor"
version = "1.0.0"
description = "d"
license = {text = "Apache-2.0"}
[tool.flwr.app]
publisher = "p"
[tool.flwr.app.components]
serverapp = "floor:server"
clientapp = "floor:client"
[tool.flwr.app.config]
rounds = 3
told = ""
numbers = 1
"""
CODE = """
import json, time
import numpy as np
from flwr.app import ArrayRecord, Array, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    array = message.content["arrays"]["0"].numpy() + 1
    return Message(RecordDict({"arrays": ArrayRecord({"0": Array(array)}),
                               "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

@server.main()
def main(grid, context):
    config = context.run_config
    times = []
    def note(round_number, arrays):
        times.append(time.time())
    FedAvg(fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3).start(
        grid=grid, num_rounds=config["rounds"], evaluate_fn=note,
        initial_arrays=ArrayRecord({"0": Array(np.zeros(config["numbers"], np.float32))}))
    with open(config["told"], "w") as file:
        json.dump(times, file)
"""


class Memory:
    """The peak of every process of some trees, by the process: resident, as the kernel counts it."""

    def __init__(self, roots: Callable[[], list[int]]) -> None:
        self.peaks: dict[int, float] = {}
        self._roots, self._over = roots, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> float:
        """MB, the sum over the processes that lived longest at the same time."""
        self._over.set()
        return round(self.most, 1)

    most = 0.0

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self.most = max(self.most, sum(map(_resident_mb, _tree(self._roots()))))


def _tree(roots: list[int]) -> list[int]:
    found = list(roots)
    for process in found:
        try:
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            threads = [path for path in Path(f"/proc/{process}/task").iterdir() if path.name != str(process)]
            children += [child for path in threads for child in (path / "children").read_text().split()]
        except OSError:
            continue
        found += [int(child) for child in children if int(child) not in found]
    return found


def _resident_mb(process: int) -> float:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, IndexError):
        return 0.0


def ours(folder: Path, rounds: int) -> dict[str, Any]:
    """Rounds of ours, in the open and masked, in one federation."""
    federation = VectorFederation(folder, SITES, NUMBERS)
    folder.mkdir()
    federation.establish(supervise.free_port())
    federation.keep_running()
    memory = Memory(lambda: [federation.processes["serve"].pid])
    told: dict[str, Any] = {}
    try:
        for name, secure in (("open", False), ("masked", True)):
            plan = parse_plan(PLAN)
            plan = replace(
                plan, run=replace(plan.run, rounds=rounds, name=f"bench-{name}"),
                aggregation=replace(plan.aggregation, secure=secure),
            )  # fmt: skip
            launched = federation.launch(plan)
            _wait(lambda launched=launched: launched.standing().state in runs.OVER, f"our {name} run")  # type: ignore[misc]
            seconds = [record.seconds for record in launched.records()]
            told[name] = _figures(seconds) | {"all": [round(one, 2) for one in seconds]}
        time.sleep(BUSY_FOR_S)  # after which relay and node ask seldom again
        told["idle"] = idle([federation.processes["a"].pid])
    finally:
        told["server_mb"] = memory.stop()
        federation.stop()
    return told


def flowers(folder: Path, rounds: int) -> dict[str, Any]:
    """Rounds of Flower's FedAvg, with its stock programs."""
    folder.mkdir()
    certificates.make_ca(folder, "bench", now_s=time.time())
    certificates.make_server(folder, ["localhost"], now_s=time.time())
    port, told = supervise.free_port(), folder / "told.json"
    address, ca = f"127.0.0.1:{port}", folder / certificates.CA_CERTIFICATE
    home = folder / "flwr"
    home.mkdir()
    named = f'default = "b"\n[superlink.b]\naddress = "{address}"\nroot-certificates = "{ca}"\n'
    (home / "config.toml").write_text(f"[superlink]\n{named}")
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(APP)
    (app / "floor.py").write_text(CODE)
    env = supervise.environment(os.environ, {"HOME": str(folder), "FLWR_HOME": str(home), "FLWR_LOG_LEVEL": "WARNING"})
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{len(started)}.log").open("ab") as log:
            made = subprocess.Popen([str(PROGRAMS / words[0]), *words[1:]], env=env, stdout=log, stderr=log)
        started.append(made)
        return made

    try:
        superlink = start(
            "flower-superlink", "--ssl-ca-certfile", str(ca), "--ssl-certfile",
            str(folder / certificates.SERVER_CERTIFICATE), "--ssl-keyfile", str(folder / certificates.SERVER_KEY),
            "--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(port), "--database",
            str(folder / "superlink.db"), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        memory = Memory(lambda: [superlink.pid])
        for site in SITES:
            make_transport(folder / site)
            _until_zero(["flwr", "supernode", "register", str(folder / f"{site}.pub"), "b", "--name", site], env)
        for site in SITES:
            start(
                "flower-supernode", "--superlink", address, "--root-certificates", str(ca),
                "--auth-supernode-private-key", str(folder / site), "--host", "127.0.0.1", "--port",
                str(supervise.free_port()),
            )  # fmt: skip
        config = f'rounds={rounds} numbers={NUMBERS} told="{told}"'
        _until_zero(["flwr", "run", str(app), "b", "--run-config", config], env)
        _wait(told.exists, "Flower's run")
        time.sleep(1.0)
        times = json.loads(told.read_text())
    finally:
        supervise.end(started[::-1], wait_s=20)
    seconds = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    return _figures(seconds) | {"all": [round(one, 2) for one in seconds], "server_mb": memory.stop()}


def idle(roots: list[int]) -> dict[str, float]:
    """What a site costs that is not asked: daemon, node and relay together, over two minutes."""
    processes = _tree(roots)
    cpu, memory, began = sum(map(_cpu_s, processes)), sum(map(_resident_mb, processes)), time.monotonic()
    time.sleep(IDLE_S)
    spent, grown = sum(map(_cpu_s, processes)) - cpu, sum(map(_resident_mb, processes)) - memory
    return {
        "percent_of_a_core": round(100 * spent / (time.monotonic() - began), 2),
        "mb": round(memory, 1), "mb_grown": round(grown, 2), "processes": len(processes),
    }  # fmt: skip


def _cpu_s(process: int) -> float:
    """User and system time so far (proc(5))."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def relay_start(folder: Path) -> dict[str, float]:
    """From the start of a relay to its first request at the daemon, and the CPU that this took."""
    folder.mkdir()
    asked = threading.Event()
    service = LocalService(folder, {"Health": lambda request: asked.set() or b"{}"}, on_stranger=lambda uid: None)  # type: ignore[func-returns-value]
    (folder / "secret").write_text("x" * 64)
    command = supervise.ours(
        "client.app", "relay", "--site", "a", "--socket", str(service.path), "--address", "127.0.0.1:9", "--secret",
        str(folder / "secret"), "--parent", str(os.getpid()),
    )  # fmt: skip
    seconds, cpu = [], []
    for _ in range(5):
        asked.clear()
        began = time.monotonic()
        with subprocess.Popen(command, env=supervise.environment(os.environ, {}), stderr=subprocess.DEVNULL) as process:
            asked.wait(60)
            seconds.append(time.monotonic() - began)
            cpu.append(_cpu_s(process.pid))
            process.kill()
    service.close()
    return {"seconds": round(min(seconds), 2), "cpu_s": round(statistics.median(cpu), 2)}


def _figures(seconds: list[float]) -> dict[str, float]:
    """Without the first round, in which programs start."""
    later = seconds[1:] or seconds
    return {"median_s": round(statistics.median(later), 2), "least_s": round(min(later), 2)}


def _until_zero(words: list[str], env: dict[str, str]) -> None:
    """The command, until it works: the SuperLink may still start."""
    end = time.monotonic() + START_S
    while True:
        done = subprocess.run([str(PROGRAMS / words[0]), *words[1:]], env=env, capture_output=True)
        if done.returncode == 0:
            return
        if time.monotonic() > end:
            raise CarrierError(
                "serve-away", "Flower's SuperLink does not answer", hint=(done.stdout + done.stderr).decode()[-300:]
            )
        time.sleep(1.0)


def _wait(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > end:
            raise CarrierError("run-failed", f"{what} does not end", hint="see the logs in the bench's folder")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="sim.bench_deployment", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    out = given.out.resolve()
    out.mkdir(parents=True)
    relay = relay_start(out / "relay")
    floor = flowers(out / "flower", given.rounds)
    mine = ours(out / "ours", given.rounds)
    over = mine["open"]["median_s"] - floor["median_s"]
    figures = {
        "flower_seconds_per_round": floor["median_s"], "seconds_per_round": mine["open"]["median_s"],
        "seconds_over_flower": round(over, 2), "masked_seconds_per_round": mine["masked"]["median_s"],
        "flower_server_mb": floor["server_mb"], "server_mb": mine["server_mb"],
        "idle_site_percent_of_a_core": mine["idle"]["percent_of_a_core"],
        "relay_start_s": relay["seconds"], "relay_start_cpu_s": relay["cpu_s"],
    }  # fmt: skip
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    rows = [{"flower": floor}, {"ours": mine}]
    print(json.dumps({"bench": "deployment", "machine": machine, "figures": figures, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
