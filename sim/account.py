"""What a simulation tells afterwards: report.json from the run's public records and the simulator's exact figures."""

import platform
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from client.training.model import Base
from federation.plan import RunPlan
from federation.privacy import accounting
from federation.private_step import mechanism_of
from server.account import per_site_round, round_entry, site_entries
from server.evaluation import Examined
from server.record import RoundRecord
from server.report import FORMAT
from server.rounds import RunResult

M_SITES = (2, 3, 5)


@dataclass
class Findings:
    """What the simulator measured beside the run itself; filled as the run goes on."""

    curve: dict[int, tuple[float, float | None]] = field(default_factory=dict)  # round -> held-out loss, macro AUROC
    evaluation: dict[str, Any] = field(default_factory=dict)
    stages_s: dict[str, float] = field(default_factory=dict)
    examined: Examined | None = None
    quarantined: dict[str, Mapping[str, int]] = field(default_factory=dict)


def report(
    plan: RunPlan,
    result: RunResult,
    base: Base,
    findings: Findings,
    *,
    engine: str,
    source: str,
    seed: int | None,
    command: str,
    wall_s: float,
) -> dict[str, Any]:
    """The report as server/report.py takes it."""
    made = result.adapter
    return {
        "format": FORMAT,
        "name": plan.run.name,
        "run_id": result.run_id,
        "plan_digest": result.plan_digest,
        "engine": engine,
        "planned_rounds": plan.run.rounds,
        "data": {"source": source, "quarantined": {site: dict(why) for site, why in findings.quarantined.items()}},
        "base": {"digest": base.digest, "family": base.family, "parameters": base.parameters - made.size},
        "adapter": {
            "method": plan.adapter.method,
            "rank": plan.adapter.rank,
            "alpha": plan.adapter.alpha,
            "targets": list(plan.adapter.targets),
            "parameters": made.size,
            "digest": made.digest(),
        },
        "rounds": [_round(record, findings) for record in result.rounds],
        "sites": site_entries(plan, result.rounds, findings.examined.sent if findings.examined is not None else ()),
        "evaluation": findings.evaluation,
        "privacy": _privacy(plan, result.rounds),
        "costs": {
            "wall_s": round(wall_s, 1),
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "uplink_bytes_per_site_round": per_site_round(result.rounds, "uplink_bytes"),
            "downlink_bytes_per_site_round": per_site_round(result.rounds, "downlink_bytes"),
            "stages_s": {name: round(seconds, 1) for name, seconds in findings.stages_s.items()},
        },
        "reproduce": {"command": command, "seed": seed, "versions": versions()},
    }


def _round(record: RoundRecord, findings: Findings) -> dict[str, Any]:
    loss, macro = findings.curve.get(record.round_number, (None, None))
    return round_entry(record) | {"loss": loss, "macro_auroc": macro}


def _privacy(plan: RunPlan, records: tuple[RoundRecord, ...]) -> dict[str, Any]:
    if plan.privacy.unit == "none":
        return {"unit": "none", "off": True}
    events: dict[str, list[accounting.Event]] = {}
    deltas: list[float] = []
    for record in records:
        for site, terms in record.privacy.items():
            if terms is None or site not in record.participants:
                continue
            mechanism = mechanism_of(plan, terms.noise_multiplier, terms.shared)
            events.setdefault(site, []).append(mechanism.event(plan.training.local_steps))
            deltas.append(terms.delta)
    spent = list(events.values())
    # A patient known at m sites: the events of the m most expensive ones, at the largest delta in use.
    # Of one sum in which a patient is several times the fine interval takes minutes; the other is an upper bound too.
    interval = accounting.INTERVAL if plan.privacy.noise == "own" else accounting.LIVE_INTERVAL
    honest = {
        str(m): accounting.epsilon_for_m_sites(spent, max(deltas), m, interval=interval)
        for m in M_SITES
        if m <= len(spent)
    }
    return {
        "unit": plan.privacy.unit,
        "target_epsilon": plan.privacy.target_epsilon,
        "delta": max(deltas) if deltas else None,
        "accountant": accounting.accountant_name(),
        "neighboring_relation": "add or remove one patient",
        "epsilon_for_m_sites": honest,
    }


def peak_rss_mb() -> float:
    """Of this process and, at their largest, its children. Linux counts in KiB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def versions() -> dict[str, str]:
    names = ("wardround", "torch", "transformers", "peft", "flwr", "pydicom", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
