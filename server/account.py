"""What a coordinator can tell of a run afterwards: report.json from the public records of its rounds."""

import platform
import resource
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from federation import canonical
from federation.plan import RunPlan
from federation.privacy import accounting
from server.evaluation import Examined
from server.record import RoundRecord, SentMessage
from server.report import FORMAT
from server.rounds import RunResult


def report(
    plan: RunPlan, result: RunResult, examined: Examined, *, base_digest: str | None, wall_s: float
) -> dict[str, Any]:
    """The report as server/report.py takes it, but for the figures that follow from what was `examined`."""
    made = result.adapter
    return {
        "format": FORMAT,
        "name": plan.run.name,
        "run_id": result.run_id,
        "plan_digest": result.plan_digest,
        "engine": "deployment",
        "planned_rounds": plan.run.rounds,
        "data": {"source": "hospital"},
        "base": {"digest": base_digest, "family": plan.model.family},
        "adapter": {
            "method": plan.adapter.method,
            "rank": plan.adapter.rank,
            "alpha": plan.adapter.alpha,
            "targets": list(plan.adapter.targets),
            "parameters": made.size,
            "digest": made.digest(),
        },
        "rounds": [round_entry(record) for record in result.rounds],
        "sites": site_entries(plan, result.rounds, examined.sent),
        "privacy": _privacy(plan, result.rounds),
        "costs": {
            "wall_s": round(wall_s, 1),
            "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "uplink_bytes_per_site_round": per_site_round(result.rounds, "uplink_bytes"),
            "downlink_bytes_per_site_round": per_site_round(result.rounds, "downlink_bytes"),
        },
        "reproduce": {"versions": {"python": platform.python_version(), **_versions()}},
    }


def round_entry(record: RoundRecord) -> dict[str, Any]:
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
        "seconds": round(record.seconds, 3),
        "uplink_bytes": dict(record.uplink_bytes),
        "downlink_bytes": dict(record.downlink_bytes),
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
    validation: dict[str, Any] | None = None
    match record.gate.get("validation"):
        case {"change": change, "noise": noise, "sites": dict(sites)}:
            told = {site: canonical.number(figure) for site, figure in sites.items()}
            validation = {"change": canonical.number(change), "noise": canonical.number(noise), "sites": told}
    return numbers | {"validation": validation}


def site_entries(
    plan: RunPlan, records: tuple[RoundRecord, ...], examined: Sequence[SentMessage] = ()
) -> dict[str, Any]:
    """Per site: what its rounds cost, on what terms, and every message that left it, after the last round too."""
    sites: dict[str, Any] = {}
    for record in records:
        for site in record.asked:
            entry = sites.setdefault(
                site,
                {"epsilon": None, "delta": None, "steps": 0, "noise_multiplier": None, "honest_sites": None,
                 "sampling_rate": None, "declared_patients": None, "refusals": [], "left": []},
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
                entry["honest_sites"] = None if terms.shared is None else terms.shared.honest_sites
        for message in record.messages:
            sites[message.site_id]["left"].append(_left(record.round_number, message))
    for message in examined:
        if message.site_id in sites:
            sites[message.site_id]["left"].append(_left(plan.run.rounds + 1, message))
    return sites


def _left(round_number: int, message: SentMessage) -> dict[str, Any]:
    return {"round": round_number, "kind": message.kind, "bytes": message.size_bytes, "sha256": message.sha256}


def per_site_round(records: tuple[RoundRecord, ...], which: str) -> int:
    values: list[int] = [size for record in records for size in getattr(record, which).values()]
    return round(sum(values) / max(1, len(values)))


def _privacy(plan: RunPlan, records: tuple[RoundRecord, ...]) -> Mapping[str, Any]:
    if plan.privacy.unit == "none":
        return {"unit": "none", "off": True}
    deltas = [terms.delta for record in records for terms in record.privacy.values() if terms is not None]
    return {
        "unit": plan.privacy.unit,
        "target_epsilon": plan.privacy.target_epsilon,
        "delta": max(deltas) if deltas else None,
        "accountant": accounting.accountant_name(),
        "neighboring_relation": "add or remove one patient",
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("wardround", "flwr", "numpy")}
