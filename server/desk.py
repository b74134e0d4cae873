"""What people do at a coordinator's desk: check a plan, launch it and watch, look, go on, take the adapter away."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from federation.errors import CarrierError, StoreError
from federation.plan import RunPlan
from federation.privacy.keystream import KeySource
from server import cost, runs
from server.coordinator import begin, local
from server.runs import RunFolder

FOLLOW_S = 0.5


def check_lines(plan: RunPlan, model: Path, sizes: list[int]) -> list[str]:
    """What `check` prints: the digest that sites approve, epsilon per site, bytes per round."""
    lines = [
        f"plan      {plan.digest()}",
        f"rounds    {plan.run.rounds} of {plan.training.local_steps} steps, quorum {plan.run.quorum or 'every site'}",
    ]
    for one in cost.site_costs(plan, sizes):
        who = f"a site of {one.declared_patients} declared patients"
        if one.refused:
            lines.append(f"epsilon   {who}: {one.refused}")
        elif one.epsilon is None:
            lines.append(f"epsilon   {who}: none: no privacy")
        else:
            lines.append(
                f"epsilon   {who}: {one.epsilon:.3f} at delta {one.delta:.1e}, noise {one.noise_multiplier:.3f}"
            )
    if plan.privacy.honest_sites is not None:
        lines.append(f"noise     shared: every epsilon rests on {plan.privacy.honest_sites} sites that add their part")
    if plan.evaluation.private_epsilon is not None:
        spent = f"epsilon {plan.evaluation.private_epsilon:g}, once, after the last round"
        lines.append(f"examined  held-out patients of every site, {len(plan.evaluation.questions)} questions: {spent}")
    if plan.evaluation.validation_epsilon is not None:
        spent = f"epsilon {plan.evaluation.validation_epsilon:g} for all rounds together"
        lines.append(f"looked at held-out patients of every site, after every round: {spent}")
    size = cost.wire_bytes(plan, model)
    if size is None:
        lines.append("bytes     unknown here: the base's folder is not on this machine")
    else:
        down, up = size.down / 1e6, size.up / 1e6
        lines.append(f"bytes     {down:.2f} MB to each site and {up:.2f} MB back, per round")
        rounds = plan.run.rounds
        lines.append(f"          {down * rounds:.1f} MB and {up * rounds:.1f} MB over the whole run")
    return lines


def launch(home: Path, plan: RunPlan, keys: KeySource, *, base: Path | None = None) -> RunFolder:
    """A new run of this plan, handed to the serving coordinator. Raises: CarrierError `serve-away`."""
    with local(home).control() as control, _answering():
        control.nodes()  # no run is made for a SuperLink that does not answer
        folder = runs.create(home / "runs", plan, keys, base=base)
        begin(control, folder)
    return folder


def resume(home: Path, run_id: str) -> RunFolder:
    """Go on with a run after any end. Raises: CarrierError `serve-away`, `run-absent`, `run-over` if it finished."""
    folder = runs.find(home / "runs", run_id)
    if folder.standing().state == "finished":
        raise CarrierError("run-over", "the run is finished", hint="`wardround coordinator export` takes its adapter")
    with local(home).control() as control, _answering():
        begin(control, folder)
    return folder


def follow(folder: RunFolder, *, pause: Callable[[float], None] = time.sleep) -> Iterator[str]:
    """What happens in the run, as lines of talk, until it is over."""
    plan = folder.plan()
    at = max((offset for offset, _ in folder.events()), default=0)
    yield f"{folder.run_id}: {folder.standing().state}"
    while True:
        over = folder.standing().state in runs.OVER
        for offset, event in folder.events(at):
            at = offset
            if event["event"] == "round":
                yield runs.round_line(event, plan.run.rounds, plan.privacy.target_epsilon)
            elif event["event"] == "roster":
                yield f"roster {event['version']} is in force"
            elif event["event"] == "evaluation":
                yield runs.evaluation_line(event)
            elif event["event"] == "state":
                yield f"{event['state']}" + (f": {event['detail']}" if event["detail"] else "")
        if over:
            return
        pause(FOLLOW_S)


def status(home: Path) -> dict[str, Any]:
    """The same as the page shows; without the connections when nobody serves."""
    try:
        serving = local(home).pid
    except CarrierError:
        serving = None
    return {"serving": serving, "runs": list(reversed(runs.overview(home / "runs")))}


def status_lines(told: dict[str, Any]) -> list[str]:
    lines = [f"serving: process {told['serving']}" if told["serving"] else "not serving"]
    for run in told["runs"]:
        done, planned = len(run["rounds"]), run.get("planned_rounds", "?")
        lines.append(f"{run['run']}  {run['state']}  round {done}/{planned}  {run['detail']}".rstrip())
        if run["rounds"]:
            lines.append("  " + runs.round_line(run["rounds"][-1], planned, run["target_epsilon"]))
    return lines


def export(home: Path, run_id: str, target: Path) -> None:
    """Copy a finished run's adapter, report, log and checkpoints: all that `wardround verify` reads.

    Raises: CarrierError `run-absent`, `run-over` (it is not finished), StoreError `output-exists`.
    """
    folder = runs.find(home / "runs", run_id)
    if folder.standing().state != "finished":
        raise CarrierError("run-over", "the run has no adapter yet", hint="it is exported when it has finished")
    if target.exists() and any(target.iterdir()):
        raise StoreError("output-exists", "the export folder is not empty", hint="name a new folder")
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("adapter", "run"):
        shutil.copytree(folder.path / name, part / name)
    for name in ("report.json", "report.html"):
        shutil.copy(folder.path / name, part / name)
    if target.exists():
        target.rmdir()
    os.replace(part, target)


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, PermissionError):
        raise CarrierError(
            "serve-away",
            "the coordinator's SuperLink does not answer",
            hint="wait a moment, or see serve/coordinator.jsonl",
        ) from None
