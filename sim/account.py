"""What a simulation tells afterwards: report.json from the run's public records and the simulator's exact figures."""

import platform
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from client.site import mechanism_of
from client.training.model import Base
from federation import canonical
from federation.plan import RunPlan
from federation.privacy import accounting
from server.evaluation import Examined
from server.record import RoundRecord, SentMessage
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
        "sites": _sites(plan, result.rounds, findings.examined),
        "evaluation": findings.evaluation,
        "privacy": _privacy(plan, result.rounds),
        "costs": {
            "wall_s": round(wall_s, 1),
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "uplink_bytes_per_site_round": _per_site_round(result.rounds, "uplink_bytes"),
            "downlink_bytes_per_site_round": _per_site_round(result.rounds, "downlink_bytes"),
            "stages_s": {name: round(seconds, 1) for name, seconds in findings.stages_s.items()},
        },
        "reproduce": {"command": command, "seed": seed, "versions": versions()},
    }


def _round(record: RoundRecord, findings: Findings) -> dict[str, Any]:
    loss, macro = findings.curve.get(record.round_number, (None, None))
    left_out = {site: [code] for site, code in record.failures.items()}
    silent = record.refusals.keys() | record.failures.keys()
    answered = record.accepted or tuple(site for site in record.participants if site not in silent)
    return {
        "round": record.round_number,
        "participants": list(answered),
        "refusals": {site: list(reasons) for site, reasons in record.refusals.items()} | left_out,
        "accepted": record.outcome == "accepted",
        "reason": None if record.outcome == "accepted" else record.outcome,
        "gate": _gate(record),
        "masked": record.masked is not None,
        "closed": record.closed or None,
        "suspects": {} if record.masked is None else dict(record.masked.suspects),
        "loss": loss,
        "seconds": round(record.seconds, 3),
        "uplink_bytes": dict(record.uplink_bytes),
        "downlink_bytes": dict(record.downlink_bytes),
        "macro_auroc": macro,
        "epsilon": {site: terms.epsilon_after_round for site, terms in record.privacy.items() if terms is not None},
    }


def _gate(record: RoundRecord) -> dict[str, Any] | None:
    """What the gate measured, as numbers; None if the round had no aggregate to measure."""
    if not record.gate:
        return None
    numbers: dict[str, Any] = {
        name: None if record.gate.get(name) is None else canonical.number(record.gate[name])
        for name in ("norm", "bound", "energy_cut")
    }
    metrics = record.gate.get("metrics")
    return numbers | {
        "metrics": {site: canonical.number(figure) for site, figure in metrics.items()}
        if isinstance(metrics, Mapping)
        else None,
        "not_checked": [] if isinstance(metrics, Mapping) else ["metrics"],
    }


def _sites(plan: RunPlan, records: tuple[RoundRecord, ...], examined: Examined | None) -> dict[str, Any]:
    """Per site: what it spent, on what terms, and every message that left it."""
    sites: dict[str, Any] = {}
    for record in records:
        for site in record.asked:
            entry = sites.setdefault(
                site,
                {"epsilon": None, "delta": None, "steps": 0, "noise_multiplier": None, "sampling_rate": None,
                 "declared_patients": None, "refusals": [], "left": []},
            )  # fmt: skip
            entry["refusals"] += [r for r in record.refusals.get(site, ()) if r not in entry["refusals"]]
            if site in record.failures and record.failures[site] not in entry["refusals"]:
                entry["refusals"].append(record.failures[site])
            if site in record.participants:
                entry["declared_patients"] = record.declared_patients[site]
                entry["sampling_rate"] = plan.training.sampling_rate
                entry["steps"] += plan.training.local_steps
            terms = record.privacy.get(site)
            if terms is not None:
                entry["epsilon"] = terms.epsilon_after_round
                entry["delta"] = terms.delta
                entry["noise_multiplier"] = terms.noise_multiplier
        for message in record.messages:
            sites[message.site_id]["left"].append(_left(record.round_number, message))
    for message in examined.sent if examined is not None else ():
        if message.site_id in sites:
            sites[message.site_id]["left"].append(_left(plan.run.rounds + 1, message))
    return sites


def _left(round_number: int, message: SentMessage) -> dict[str, Any]:
    return {"round": round_number, "kind": message.kind, "bytes": message.size_bytes, "sha256": message.sha256}


def _privacy(plan: RunPlan, records: tuple[RoundRecord, ...]) -> dict[str, Any]:
    if plan.privacy.unit == "none":
        return {"unit": "none", "off": True}
    events: dict[str, list[accounting.Event]] = {}
    deltas: list[float] = []
    for record in records:
        for site, terms in record.privacy.items():
            if terms is None or site not in record.participants:
                continue
            mechanism = mechanism_of(plan, terms.noise_multiplier)
            assert mechanism is not None
            events.setdefault(site, []).append(mechanism.event(plan.training.local_steps))
            deltas.append(terms.delta)
    spent = list(events.values())
    # A patient known at m sites: the events of the m most expensive ones, at the largest delta in use.
    honest = {str(m): accounting.epsilon_for_m_sites(spent, max(deltas), m) for m in M_SITES if m <= len(spent)}
    return {
        "unit": plan.privacy.unit,
        "target_epsilon": plan.privacy.target_epsilon,
        "delta": max(deltas) if deltas else None,
        "accountant": accounting.accountant_name(),
        "neighboring_relation": "add or remove one patient",
        "epsilon_for_m_sites": honest,
    }


def _per_site_round(records: tuple[RoundRecord, ...], which: str) -> int:
    values: list[int] = [size for record in records for size in getattr(record, which).values()]
    return round(sum(values) / max(1, len(values)))


def peak_rss_mb() -> float:
    """Of this process and, at their largest, its children. Linux counts in KiB."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def versions() -> dict[str, str]:
    names = ("wardround", "torch", "transformers", "peft", "flwr", "pydicom", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
