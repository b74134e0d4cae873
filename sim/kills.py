"""A hundred rounds between real processes, any of which may be killed at any moment (SIGKILL), and what is left of it.

    python -m sim.kills --out DIR [--rounds 100] [--seed 0] [--masked]

A coordinator and three hospitals with vectors for patients, over TLS, with Flower between them. Killed at random are:
`serve`, the SuperLink, the run's process, a daemon, a node, a relay. What systemd would start again is started again
here. At the end every round must be decided, every charge be there once, no release be without its charge, and the
evidence must verify. Prints one JSON object.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from client.folder import SiteFolder
from federation import supervise
from federation.errors import CarrierError
from federation.plan import RunPlan, parse_plan
from federation.privacy.ledger import Ledger
from server import desk, runs
from server.federation_folder import FederationFolder
from server.runs import RunFolder
from server.verify import verify
from sim.keys import SeededKeys
from sim.vector_hospital import CONSORTIUM

SITES = ("a", "b", "c")
KINDS = ("serve", "superlink", "runner", "daemon", "node", "relay")
PLAN = """
[run]
name = "kills"
rounds = 100
quorum = 2
deadline_s = 90.0
[model]
path = "base"
[training]
local_steps = 2
sampling_rate = 0.5
[privacy]
noise_multiplier = 8.0
[aggregation]
secure = false
max_update_rms = 1e6
"""
AGAIN_S = 1.0  # systemd waits 65 s; Flower then lets a killed node in, here after 20 s
KILL_EVERY = 1.5  # rounds, on average; the next one does not wait until the last was got over
LONGEST_S = 600.0  # without a new round: then a person would `resume`


@dataclass
class Federation:
    """Folders and processes of one coordinator and three hospitals."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    def establish(self) -> None:
        """What people do at the beginning; here one person does it all."""
        now, port = time.time(), supervise.free_port()
        federation = FederationFolder.init(
            self.home, consortium=CONSORTIUM, address=f"localhost:{port}", officers=(), threshold=1, now_s=now
        )
        for name in SITES:
            site = SiteFolder.init(
                self.folder / name, site_id=name, declared_patients=100, coordinator=CONSORTIUM, keys=SeededKeys(1)
            )
            invitation = federation.invite(name, token=os.urandom(32), now_s=now)
            said = site.enrol(invitation, organisation="o", contact="c", heard=invitation.words(), now_s=now)
            federation.admit(said, heard=said.words(), now_s=now)
        for name in SITES:
            SiteFolder(self.folder / name).accept_roster(federation.current(), heard=None, now_s=now)

    def keep_running(self) -> None:
        """Start what is not running: what systemd does."""
        for name in ("serve", *SITES):
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                command = (
                    supervise.ours("sim.wardround", "coordinator", "serve", "--dir", str(self.home), "--page-port", "0")
                    if name == "serve"
                    else supervise.ours("sim.vector_hospital", name, str(self.folder / name))
                )
                with (self.folder / f"{name}.log").open("ab") as log:
                    env = supervise.environment(os.environ, {})
                    made = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                self.processes[name] = made

    def process_id(self, kind: str, site: str) -> int | None:
        """The newest process of this kind, if it lives."""
        if kind in ("serve", "daemon"):
            process = self.processes["serve" if kind == "serve" else site]
            return process.pid if process.poll() is None else None
        at = self.home / "serve" / "coordinator.jsonl"
        if kind in ("node", "relay"):
            at = self.folder / site / "logs" / "site.jsonl"
        mine = [one["pid"] for one in _events(at) if one.get("child") == kind and one["event"] == "child-started"]
        mine += [one["pid"] for one in _events(at) if kind == "runner" and one["event"] == "runner-started"]
        return mine[-1] if mine and _is_ours(mine[-1]) else None

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(folder: Path, plan: RunPlan, seed: int) -> dict[str, Any]:
    """The whole exercise, as figures. Raises: CarrierError if the run cannot be launched or resumed."""
    rng = random.Random(seed)
    federation = Federation(folder)
    federation.establish()
    federation.keep_running()
    began = time.monotonic()
    try:
        launched = _launch(federation, plan)
        killed, gaps, resumed = _kill_on(federation, launched, rng)
    finally:
        federation.stop()
    told = _told(federation, launched, plan)
    return {
        "rounds": plan.run.rounds, "sites": len(SITES), "masked": plan.aggregation.secure, "seed": seed,
        "seconds": round(time.monotonic() - began), "killed": dict(sorted(killed.items())),
        "kills": sum(killed.values()), "resumed_by_hand": resumed,
        "seconds_to_next_round": {kind: round(statistics.median(found), 1) for kind, found in sorted(gaps.items())},
        "longest_gap_s": round(max((gap for found in gaps.values() for gap in found), default=0.0), 1),
        **told,
    }  # fmt: skip


def _launch(federation: Federation, plan: RunPlan) -> RunFolder:
    end = time.monotonic() + LONGEST_S
    while True:
        federation.keep_running()
        try:
            return desk.launch(federation.home, plan, SeededKeys(0))
        except CarrierError:
            if time.monotonic() > end:
                raise
            time.sleep(1.0)


def _kill_on(
    federation: Federation, launched: RunFolder, rng: random.Random
) -> tuple[Counter[str], dict[str, list[float]], int]:
    """Kill until the run is over: one process after the other, at a moment that has nothing to do with what it does."""
    killed: Counter[str] = Counter()
    gaps: dict[str, list[float]] = {}
    resumed, done, moved = 0, 0, time.monotonic()
    pace: list[float] = [20.0]
    next_kill, waiting = time.monotonic() + 40.0, list[tuple[str, float]]()
    while launched.standing().state not in runs.OVER or launched.standing().state == "failed":
        time.sleep(0.2)
        now = time.monotonic()
        count = sum(1 for _, event in launched.events() if event["event"] == "round")
        if count > done:
            for kind, since in waiting:
                gaps.setdefault(kind, []).append(now - since)
            waiting.clear()
            pace.append((now - moved) / (count - done))
            done, moved = count, now
            print(f"round {done}  kills {sum(killed.values())}", file=sys.stderr, flush=True)
        if launched.standing().state == "failed" or now > moved + LONGEST_S:
            desk.resume(federation.home, launched.run_id)
            resumed, moved = resumed + 1, now
        if now >= next_kill:
            kind = rng.choice(KINDS)
            process = federation.process_id(kind, rng.choice(SITES))
            if process is not None:
                os.kill(process, signal.SIGKILL)
                killed[kind] += 1
                waiting.append((kind, now))
            next_kill = now + AGAIN_S + rng.expovariate(1 / (KILL_EVERY * statistics.median(pace[-9:])))
        federation.keep_running()
    return killed, gaps, resumed


def _told(federation: Federation, launched: RunFolder, plan: RunPlan) -> dict[str, Any]:
    """What the files say afterwards, of the coordinator and of every hospital."""
    records = launched.records()
    twice = lost = charges = over = 0
    for site in SITES:
        ledger = Ledger.open(federation.folder / site / "vectors" / "ledger")
        spent = Counter((one.run_id, one.round_number) for one in ledger.spends())
        ledger.close()
        released = {
            one["round"] for path in (federation.folder / site / "logs").glob("site.jsonl*") for one in _events(path)
            if one["event"] == "answered" and one["answer"] in ("update", "trained")
        } | {record.round_number for record in records if site in record.accepted}  # fmt: skip
        charges += sum(spent.values())
        twice += sum(count - 1 for count in spent.values())
        lost += sum((launched.run_id, number) not in spent for number in released)
        over += sum(number not in released for _, number in spent)
    return {
        "state": launched.standing().state,
        "decided": len(records),
        "outcomes": dict(Counter(record.outcome for record in records)),
        "charges": charges,
        "charged_twice": twice,
        "released_without_charge": lost,
        "charged_without_answer": over,
        "evidence": [step.says for step in verify(launched.path) if not step.passed] or "verifies",
    }


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON log; a process that was killed may have left half of one."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _is_ours(process: int) -> bool:
    """A number from a log may belong to another program by now."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return any(name in command for name in (b"client.app", b"server.app", b"server.superlink"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="sim.kills", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masked", action="store_true")
    given = parser.parse_args()
    plan = parse_plan(PLAN)
    plan = replace(
        plan,
        run=replace(plan.run, rounds=given.rounds, quorum=3 if given.masked else plan.run.quorum),
        aggregation=replace(plan.aggregation, secure=given.masked),
    )
    given.out.mkdir(parents=True, mode=0o700)
    told = run(given.out.resolve(), plan, given.seed)
    print(json.dumps(told, indent=2))
    sound = (told["decided"], told["charged_twice"], told["released_without_charge"], told["evidence"])
    if sound != (given.rounds, 0, 0, "verifies"):
        sys.exit("wardround: error: a round, a charge or the evidence is not as it must be")


if __name__ == "__main__":
    main()
