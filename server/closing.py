"""The end of a run at the coordinator: the hospitals examine the adapter, it is written in PEFT's format, and reported.

Everything here may be done again after a crash: a hospital that was asked gives the same bytes, and what was kept is
not asked for.
"""

import shutil
from dataclasses import replace

import numpy as np

from federation import durable
from federation.messages import Link
from federation.plan import RunPlan
from federation.trust.translog import TransLog
from server import account, evidence
from server import evaluation as evaluations
from server import report as reports
from server.evaluation import Examined
from server.export import export_adapter
from server.rounds import RunResult
from server.runs import RunFolder

EXAMINED = "evaluation.json"  # in the run's folder, beside its checkpoints


def examine(folder: RunFolder, plan: RunPlan, link: Link, result: RunResult) -> Examined:
    """What the hospitals say of the finished adapter, asked once per run; afterwards it is read from the disk.

    A hospital that took part and is away now, or silent until the deadline, is left out as `no-answer`.
    """
    path = folder.run / EXAMINED
    if plan.evaluation.private_epsilon is None:
        return Examined({}, {})
    if path.exists():
        return evaluations.load(path.read_bytes(), plan)
    examined = evaluations.ask_evaluation(plan, link, result.run_id, result.adapter)
    known = examined.evaluations.keys() | examined.left_out.keys()
    away = {site: ("no-answer",) for record in result.rounds for site in record.asked if site not in known}
    examined = replace(examined, left_out={**examined.left_out, **away})
    durable.write(path, [evaluations.dump(examined)])
    folder.note(
        "evaluation",
        sites=sorted(examined.evaluations),
        left_out={site: list(reasons) for site, reasons in sorted(examined.left_out.items())},
    )
    return examined


def close(folder: RunFolder, plan: RunPlan, result: RunResult, examined: Examined, log: TransLog) -> None:
    """Adapter and report of a run whose rounds are all committed, and their digests in its log. May be done again."""
    shutil.rmtree(folder.path / "adapter", ignore_errors=True)
    export_adapter(
        folder.path / "adapter",
        result.adapter,
        base_model=plan.model.path,
        rank=plan.adapter.rank,
        alpha=plan.adapter.alpha,
        origin={"run_id": result.run_id, "plan_digest": result.plan_digest, "base_digest": plan.model.sha256 or ""},
    )
    seconds = sum(record.seconds for record in result.rounds)
    told = account.report(plan, result, examined, base_digest=plan.model.sha256, wall_s=seconds)
    if plan.evaluation.private_epsilon is not None:
        private = evaluations.private_evaluation(plan, examined, np.random.default_rng(0))  # of the bootstrap only
        told["evaluation"] = {"private": private}
    reports.write(folder.path, told, [])
    names = [str(path.relative_to(folder.path)) for path in (folder.path / "adapter").rglob("*") if path.is_file()]
    names += [f"run/{EXAMINED}"] if (folder.run / EXAMINED).exists() else []
    evidence.release(log, folder.path, [*names, "report.json", "report.html"], adapter=result.adapter.digest())
