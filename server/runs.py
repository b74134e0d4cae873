"""Runs on the coordinator's disk: what people asked for, how far it is and what happened. Files outlive processes.

runs/RUN/run/              checkpoints and log of the run (docs/spec/checkpoint-1.md, trust-1.md)
runs/RUN/state.json        queued, running, waiting, finished, failed or stopped, and why
runs/RUN/progress.jsonl    one line per event, for `launch`, `status` and the page
runs/RUN/adapter/, report.html, report.json    of a finished run: `wardround verify runs/RUN` checks all of it
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from federation import durable
from federation.errors import CarrierError, FedError
from federation.logs import JsonLog, events_after
from federation.messages import RUN_ID
from federation.plan import RunPlan
from federation.privacy.keystream import KeySource
from server.checkpoint import Checkpoints
from server.record import RoundRecord
from server.rounds import new_run_id

State = Literal["queued", "running", "waiting", "finished", "failed", "stopped"]
OVER: frozenset[State] = frozenset({"finished", "failed", "stopped"})
PROGRESS_BYTES_MAX = 2**30  # it never rotates: a run of 10 000 rounds writes some 20 MB


@dataclass(frozen=True)
class Standing:
    """How a run stands. `detail` is a line for people."""

    state: State
    detail: str = ""
    flower_run: int = 0
    since: str = ""


class RunFolder:
    """One run of one plan. The runner writes; everybody else reads, except for `queued` and `stopped`."""

    def __init__(self, path: Path) -> None:
        self.path, self.run_id, self.run = path, path.name, path / "run"
        self.note = JsonLog(path / "progress.jsonl", max_bytes=PROGRESS_BYTES_MAX)

    def standing(self) -> Standing:
        try:
            read = json.loads((self.path / "state.json").read_bytes())
            standing = Standing(**read)
        except (OSError, ValueError, TypeError):
            return Standing("failed", "the state of the run is not readable")
        return standing if standing.state in get_args(State) else Standing("failed", "the run has an unknown state")

    def stand(self, state: State, detail: str = "", *, flower_run: int | None = None) -> None:
        """Write how the run stands, and tell the readers of its progress."""
        before = self.standing() if (self.path / "state.json").exists() else Standing("queued")
        number = before.flower_run if flower_run is None else flower_run
        made = Standing(state, detail, number, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        durable.write(self.path / "state.json", [json.dumps(asdict(made)).encode()])
        if (before.state, before.detail) != (state, detail):
            self.note("state", state=state, detail=detail)

    def age_s(self) -> float:
        """Since its state was written."""
        try:
            return time.time() - (self.path / "state.json").stat().st_mtime
        except OSError:
            return 0.0

    def base(self) -> Path | None:
        """The base model's folder on this machine, for a start that is computed from it (`a_init = "svd"`)."""
        try:
            return Path((self.path / "base").read_text(encoding="utf-8"))
        except OSError:
            return None

    def plan(self) -> RunPlan:
        return Checkpoints.open(self.run).plan

    def records(self) -> tuple[RoundRecord, ...]:
        """The committed rounds."""
        committed = Checkpoints.open(self.run).last()
        return committed.records if committed else ()

    def events(self, after: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every whole line of the progress behind this offset, with the offset behind it."""
        return events_after(self.path / "progress.jsonl", after)


def create(runs: Path, plan: RunPlan, keys: KeySource, *, base: Path | None = None) -> RunFolder:
    """A new run in a folder of its own, named as the run is. `base` is where its base model is here, if it is."""
    run_id = new_run_id(plan, keys)
    path = runs / run_id
    Checkpoints.create(path / "run", run_id=run_id, plan=plan)
    if base is not None and (base / "config.json").is_file():
        durable.write(path / "base", [str(base.resolve()).encode("utf-8")])
    folder = RunFolder(path)
    folder.stand("queued")
    return folder


def find(runs: Path, run_id: str) -> RunFolder:
    """The run of this name. The name may come from outside: it is a run's name or nothing.

    Raises: CarrierError `run-absent`.
    """
    path = runs / run_id
    if RUN_ID.fullmatch(run_id) is None or not (path / "run" / "run.json").is_file():
        raise CarrierError("run-absent", "there is no such run", hint="see `wardround coordinator status`")
    return RunFolder(path)


def every(runs: Path) -> list[RunFolder]:
    """All runs, the newest last."""
    if not runs.is_dir():
        return []
    found = [path for path in runs.iterdir() if (path / "run" / "run.json").is_file() and RUN_ID.fullmatch(path.name)]
    return [RunFolder(path) for path in sorted(found, key=lambda path: (path / "run" / "run.json").stat().st_mtime)]


def overview(runs: Path) -> list[dict[str, Any]]:
    """What `status` and the page show of every run."""
    told: list[dict[str, Any]] = []
    for folder in every(runs):
        standing = folder.standing()
        try:
            plan, records = folder.plan(), folder.records()
        except FedError as error:
            told.append({"run": folder.run_id, "state": "failed", "detail": error.message, "rounds": []})
            continue
        told.append(
            {
                "run": folder.run_id,
                "plan": plan.digest(),
                "state": standing.state,
                "detail": standing.detail,
                "since": standing.since,
                "planned_rounds": plan.run.rounds,
                "target_epsilon": plan.privacy.target_epsilon,
                "rounds": [round_row(record) for record in records],
                "evaluation": _examined(folder.path / "report.json") if standing.state == "finished" else None,
            }
        )
    return told


def _examined(report: Path) -> dict[str, Any] | None:
    """What the hospitals said of the finished adapter, with noise; None if they were not asked."""
    try:
        private = json.loads(report.read_bytes())["evaluation"]["private"]
        return {"auroc": private["macro"]["auroc"], "sites": sorted(private["sites"]), "left_out": private["left_out"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def round_row(record: RoundRecord) -> dict[str, Any]:
    """A round as people look at it: public numbers only."""
    return {
        "round": record.round_number,
        "asked": list(record.asked),
        "accepted": list(record.accepted),
        "refusals": {site: list(reasons) for site, reasons in record.refusals.items()},
        "failures": dict(record.failures),
        "epsilon": {site: terms.epsilon_after_round for site, terms in record.privacy.items() if terms is not None},
        "uplink_bytes": dict(record.uplink_bytes),
        "downlink_bytes": dict(record.downlink_bytes),
        "seconds": round(record.seconds, 2),
        "outcome": record.outcome,
        "closed": record.closed,
        "adapter": record.result_digest,
    }


def round_line(row: dict[str, Any], planned: int, target_epsilon: float | None) -> str:
    """One round as one line of talk."""
    parts = [f"round {row['round']}/{planned}", f"sites {len(row['accepted'])}/{len(row['asked'])}"]
    if row["epsilon"]:
        target = f" (target {target_epsilon:g})" if target_epsilon else ""
        parts.append(f"epsilon {max(row['epsilon'].values()):.2f}{target}")
    parts.append(f"{max(row['uplink_bytes'].values(), default=0) / 1e6:.2f} MB/site")
    parts.append(f"{row['seconds']:.1f} s")
    if row["outcome"] != "accepted":
        parts.append(f"rejected: {row['outcome']}")
    left_out = {site: ", ".join(reasons) for site, reasons in row["refusals"].items()} | row["failures"]
    return "  ".join(parts + [f"left out {site}: {why}" for site, why in sorted(left_out.items())])


def evaluation_line(event: dict[str, Any]) -> str:
    """Who has examined the adapter after the last round, as one line of talk."""
    left_out = event["left_out"]
    parts = ["evaluation", f"sites {len(event['sites'])}/{len(event['sites']) + len(left_out)}"]
    return "  ".join(parts + [f"left out {site}: {', '.join(why)}" for site, why in sorted(left_out.items())])
