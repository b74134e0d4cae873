"""What `wardround site ledger` shows: who was charged for what, when, and what is left. Epsilon is computed anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client import without_privacy
from client.folder import SETTINGS
from client.settings import Settings, load_settings
from federation.errors import StoreError
from federation.privacy import ledger
from federation.privacy.accounting import accountant_name, round_up
from federation.privacy.ledger import Spend, epsilon_of

LEDGER_FOLDER = Path("state") / "ledger"  # below the site's folder, beside site.toml


def view(folder: Path) -> dict[str, Any]:
    """The account of the site in this folder, for people and machines. Reads without the lock and changes nothing.

    Guarantees: every acknowledged record has been verified against the head; an altered, cut or missing past is refused
    (`ledger-damaged`), never shown in part. A site that has not begun a ledger has spent nothing.
    """
    settings = load_settings(folder / SETTINGS)
    place = folder / LEDGER_FOLDER
    begun = place.is_dir() and any(place.iterdir())
    if not begun and (folder / "state" / "runs").is_dir() and any((folder / "state" / "runs").iterdir()):
        raise StoreError(
            "ledger-damaged",
            "the site has taken part in runs, and its ledger is gone",
            hint="restore ledger.jsonl and head.json together from the newest copy; training stays off until then",
        )
    spends = ledger.read(place) if begun else ()
    return summary(settings, spends, without_privacy.runs(folder / "state"))


def summary(settings: Settings, spends: Sequence[Spend], unbounded: Sequence[str]) -> dict[str, Any]:
    """Per coordinator and in total, at the largest delta that was ever charged: epsilon of the worst-off person."""
    declared = settings.data.declared_patients
    delta = max((spend.delta for spend in spends), default=min(settings.policy.delta_max, 1 / (10 * declared)))
    limit = settings.policy.epsilon_max
    coordinators: dict[str, list[Spend]] = {}
    for spend in spends:
        coordinators.setdefault(spend.coordinator, []).append(spend)
    total = round_up(epsilon_of(spends, delta))
    return {
        "site": settings.site.id,
        "delta": delta,
        "epsilon_max": limit,
        "epsilon": total,
        "epsilon_left": max(0.0, round(limit - total, 4)),
        "runs_without_privacy": list(unbounded),
        "accountant": accountant_name(),
        "coordinators": {
            name: {"epsilon": round_up(epsilon_of(charged, delta)), "charges": len(charged), "runs": runs(charged)}
            for name, charged in sorted(coordinators.items())
        },
        "charges": [charge(spend) for spend in spends],
    }


def runs(spends: Sequence[Spend]) -> list[str]:
    """Run ids in the order of their first charge."""
    return list(dict.fromkeys(spend.run_id for spend in spends))


def charge(spend: Spend) -> dict[str, Any]:
    """One line: all of its fields are public numbers."""
    event = spend.event
    return {
        "time_utc": spend.time_utc,
        "coordinator": spend.coordinator,
        "run_id": spend.run_id,
        "round_number": spend.round_number,
        "patients": part_words(spend.part),
        "part": list(spend.part),
        "steps": event.steps,
        "sampling_rate": event.sampling_rate,
        "noise_multiplier": event.noise_multiplier,
        "sensitivity_rule": event.sensitivity_rule,
        "honest_sites": None if event.shared is None else event.shared.honest_sites,
        "delta": spend.delta,
        "declared_patients": spend.declared_patients,
    }


def part_words(part: tuple[float, float]) -> str:
    """Which patients a charge could touch. The held-out ones are those at the beginning of the pseudonyms."""
    if part == (0.0, 1.0):
        return "all"
    return f"held out ({part[1]:g})" if part[0] == 0.0 else f"trained on (from {part[0]:g})"


def lines(account: dict[str, Any]) -> list[str]:
    """The account as a person reads it: what is left first, then who, then each run."""
    told = [
        f"site         {account['site']}",
        f"spent        epsilon {account['epsilon']:.4f} of {account['epsilon_max']:g} for any one patient, "
        f"at delta {account['delta']:.3g}",
        f"left         epsilon {account['epsilon_left']:.4f}",
    ]
    if account["runs_without_privacy"]:
        told.append(
            f"no bound     on what was told by runs without privacy: {', '.join(account['runs_without_privacy'])}"
        )
    for name, one in account["coordinators"].items():
        told.append(f"coordinator  {name}: epsilon {one['epsilon']:.4f}, {one['charges']} charges")
    if not account["charges"]:
        told.append("charges      none")
    for group in grouped(account["charges"]):
        first, last = group[0], group[-1]
        numbers = f"{first['round_number']}" if len(group) == 1 else f"{first['round_number']}-{last['round_number']}"
        steps = sum(one["steps"] for one in group)
        told.append(
            f"{first['time_utc']}  {first['coordinator']}  {first['run_id']}  round {numbers}  {first['patients']}  "
            f"{steps} steps at rate {first['sampling_rate']:g}, noise {first['noise_multiplier']:g}"
            + (f" shared by {first['honest_sites']} honest sites" if first["honest_sites"] else "")
        )
    told.append(f"accountant   {account['accountant']}")
    return told


def grouped(charges: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbouring rounds of one run on the same terms, together."""
    same = ("coordinator", "run_id", "patients", "sampling_rate", "noise_multiplier", "steps", "honest_sites")
    groups: list[list[dict[str, Any]]] = []
    for one in charges:
        if groups and all(groups[-1][-1][name] == one[name] for name in same):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups
