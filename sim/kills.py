"""A hundred rounds between real processes, any of which may be killed at any moment (SIGKILL), and what is left of it.

    python -m sim.kills --out DIR [--rounds 100] [--seed 0] [--masked]      (again: goes on with what is in DIR)

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
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.logs import events
from federation.plan import RunPlan, parse_plan
from federation.privacy.ledger import Ledger
from federation.supervise import free_port
from server import desk, runs
from server.runs import RunFolder
from server.verify import verify
from sim.vector_federation import VectorFederation

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


def process_id(federation: VectorFederation, kind: str, site: str) -> int | None:
    """The newest process of this kind, if it lives."""
    if kind in ("serve", "daemon"):
        process = federation.processes["serve" if kind == "serve" else site]
        return process.pid if process.poll() is None else None
    at = federation.home / "serve" / "coordinator.jsonl"
    if kind in ("node", "relay"):
        at = federation.folder / site / "logs" / "site.jsonl"
    mine = [one["pid"] for one in events(at) if one.get("child") == kind and one["event"] == "child-started"]
    mine += [one["pid"] for one in events(at) if kind == "runner" and one["event"] == "runner-started"]
    return mine[-1] if mine and _is_ours(mine[-1]) else None


def run(folder: Path, plan: RunPlan, seed: int) -> dict[str, Any]:
    """The whole exercise, as figures. Raises: CarrierError if the run cannot be launched or resumed."""
    rng = random.Random(seed)
    federation = VectorFederation(folder, SITES)
    earlier = runs.every(federation.home / "runs")
    if not earlier:
        federation.establish(free_port())
    federation.keep_running()
    began = time.monotonic()
    try:
        launched = federation.resume(earlier[0].run_id) if earlier else federation.launch(plan)
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


def _kill_on(
    federation: VectorFederation, launched: RunFolder, rng: random.Random
) -> tuple[Counter[str], dict[str, list[float]], int]:
    """Kill until the run is over: one process after the other, at a moment that has nothing to do with what it does."""
    killed: Counter[str] = Counter()
    gaps: dict[str, list[float]] = {}
    resumed, done, moved = 0, len(launched.records()), time.monotonic()
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
            process = process_id(federation, kind, rng.choice(SITES))
            if process is not None:
                os.kill(process, signal.SIGKILL)
                killed[kind] += 1
                waiting.append((kind, now))
            next_kill = now + AGAIN_S + rng.expovariate(1 / (KILL_EVERY * statistics.median(pace[-9:])))
        federation.keep_running()
    return killed, gaps, resumed


def _told(federation: VectorFederation, launched: RunFolder, plan: RunPlan) -> dict[str, Any]:
    """What the files say afterwards, of the coordinator and of every hospital."""
    records = launched.records()
    twice = lost = charges = over = 0
    for site in SITES:
        ledger = Ledger.open(federation.folder / site / "vectors" / "ledger")
        spent = Counter((one.run_id, one.round_number) for one in ledger.spends())
        ledger.close()
        released = {
            one["round"] for path in (federation.folder / site / "logs").glob("site.jsonl*") for one in events(path)
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
    given.out.mkdir(parents=True, mode=0o700, exist_ok=True)
    told = run(given.out.resolve(), plan, given.seed)
    print(json.dumps(told, indent=2))
    sound = (told["decided"], told["charged_twice"], told["released_without_charge"], told["evidence"])
    if sound != (given.rounds, 0, 0, "verifies"):
        sys.exit("wardround: error: a round, a charge or the evidence is not as it must be")


if __name__ == "__main__":
    main()
