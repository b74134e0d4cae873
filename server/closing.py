"""The end of a run at the coordinator: the adapter in PEFT's format, and the report."""

import shutil

from federation.plan import RunPlan
from federation.trust.translog import TransLog
from server import account, evidence
from server import report as reports
from server.export import export_adapter
from server.rounds import RunResult
from server.runs import RunFolder


def close(folder: RunFolder, plan: RunPlan, result: RunResult, log: TransLog) -> None:
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
    told = account.report(plan, result, base_digest=plan.model.sha256, wall_s=seconds)
    reports.write(folder.path, told, [])
    names = [str(path.relative_to(folder.path)) for path in (folder.path / "adapter").rglob("*") if path.is_file()]
    evidence.release(log, folder.path, [*names, "report.json", "report.html"], adapter=result.adapter.digest())
