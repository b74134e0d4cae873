"""Privacy against utility: the same federation at several epsilons, methods and ranks, as one table and one picture.

Every cell is a run of its own in a folder of its own; a cell whose report is there already, of the same plan, is read
and not run again, so an interrupted table goes on where it stopped.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from federation import durable
from federation.plan import Privacy, RunPlan
from sim.run import Options, Talk, simulate

EPSILONS: tuple[float | None, ...] = (1.0, 3.0, 8.0, None)
METHODS = ("fedavg", "ffa")
RANKS = (4, 16)
SHARED = ("hospitals", "truth", "sites")  # of a run's folder: before anything is learned
COLOURS = ("#2f6f4f", "#8fb99f", "#b3472c", "#dda08f")


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    epsilon: float | None
    method: str
    rank: int

    @property
    def name(self) -> str:
        return f"{self.method}-r{self.rank}-" + ("none" if self.epsilon is None else f"eps{self.epsilon:g}")

    def plan(self, plan: RunPlan) -> RunPlan:
        """The given plan with this cell's three changes, and without figures that the table does not show."""
        privacy = Privacy(unit="none") if self.epsilon is None else replace(
            plan.privacy, unit="patient", target_epsilon=self.epsilon, noise_multiplier=None, noise="own",
            honest_sites=None,
        )  # fmt: skip
        scale = plan.adapter.alpha / plan.adapter.rank  # the same in every cell
        adapter = replace(plan.adapter, method=self.method, rank=self.rank, alpha=scale * self.rank)  # type: ignore[arg-type]
        evaluation = replace(plan.evaluation, free_text=False, private_epsilon=None)
        return replace(plan, privacy=privacy, adapter=adapter, evaluation=evaluation)


def cells() -> Iterator[Cell]:
    for epsilon in EPSILONS:
        for method in METHODS:
            for rank in RANKS:
                yield Cell(epsilon, method, rank)


def table(plan: RunPlan, options: Options, docs: Path, talk: Talk) -> list[dict[str, Any]]:
    """Run what is missing below `options.out`, then write `utility.md` and `utility.svg` into `docs`."""
    rows = []
    for cell in cells():
        wanted = cell.plan(plan)
        folder = options.out / cell.name
        report = known(folder, wanted)
        if report is None:
            talk.line(f"{cell.name}: running")
            _share(options.out / "hospitals", folder)
            report = simulate(wanted, replace(options, out=folder, compare=False, resume=folder.exists()), talk)
            _keep(folder, options.out / "hospitals")
        rows.append(row(cell, report))
        talk.line(f"{cell.name}: macro AUROC {figure(rows[-1]['auroc'])}")
    docs.mkdir(parents=True, exist_ok=True)
    durable.write(docs / "utility.md", [page(plan, rows, options.command).encode()])
    durable.write(docs / "utility.svg", [picture(rows).encode()])
    return rows


def _keep(folder: Path, shared: Path) -> None:
    """The first cell's hospitals, and what they have de-identified: it is the same for all."""
    if not shared.exists():
        unfinished = shared.with_name(shared.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in SHARED:
            shutil.copytree(folder / name, unfinished / name, ignore=shutil.ignore_patterns("state", "trust"))
        unfinished.rename(shared)


def _share(shared: Path, folder: Path) -> None:
    """A new cell begins with its own copy of them: what it would make again, byte for byte, in minutes."""
    if shared.exists() and not folder.exists():
        unfinished = folder.with_name(folder.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(shared, unfinished)
        unfinished.rename(folder)


def known(folder: Path, plan: RunPlan) -> dict[str, Any] | None:
    """The finished report of this very plan, if it is there."""
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return report if report.get("plan_digest") == plan.digest() else None


def row(cell: Cell, report: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = report["evaluation"]
    spent = [site["epsilon"] for site in report["sites"].values() if site["epsilon"] is not None]
    return {
        "epsilon": cell.epsilon,
        "spent": max(spent) if spent else None,
        "method": cell.method,
        "rank": cell.rank,
        "base": evaluation["base"]["macro"]["auroc"],
        "auroc": evaluation["federated"]["macro"]["auroc"],
    }


def page(plan: RunPlan, rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """The table as a document, with what it takes to make it again."""
    lost = losses(rows)
    lines = [
        "# Privacy against utility",
        "",
        "Macro AUROC of the federated adapter on held-out made patients, with 95 % intervals over patients.",
        f"Same hospitals, {plan.run.rounds} rounds, seed and start of A in every row. "
        f"Before training: {figure(rows[0]['base'])}.",
        "",
        "| epsilon per patient | method | rank | macro AUROC | loss against no privacy |",
        "|---|---|---|---|---|",
    ]
    for one in rows:
        epsilon = "none: no privacy" if one["epsilon"] is None else f"{one['epsilon']:g}"
        less = lost.get((one["epsilon"], one["method"], one["rank"]))
        lines.append(
            f"| {epsilon} | `{one['method']}` | {one['rank']} | {figure(one['auroc'])} | "
            f"{'–' if less is None else f'{less:+.3f}'} |"
        )
    return "\n".join([*lines, "", "![the same as a picture](utility.svg)", "", f"Made by `{command}`.", ""])


def losses(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[float | None, str, int], float]:
    """How much AUROC each private cell is below the same cell without privacy."""
    plain = {(one["method"], one["rank"]): one["auroc"]["value"] for one in rows if one["epsilon"] is None}
    found = {}
    for one in rows:
        reference, value = plain.get((one["method"], one["rank"])), one["auroc"]["value"]
        if one["epsilon"] is not None and reference is not None and value is not None:
            found[one["epsilon"], one["method"], one["rank"]] = reference - value
    return found


def figure(measured: Mapping[str, Any]) -> str:
    if measured["value"] is None:
        return "withheld"
    ends = measured["ci95"]
    return f"{measured['value']:.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """Bars of AUROC above one half, grouped by epsilon; the line is the base."""
    groups = [f"epsilon {epsilon:g}" if epsilon is not None else "no privacy" for epsilon in EPSILONS]
    left, top, height, bar, gap = 48, 34, 220, 30, 34
    kinds = [(method, rank) for method in METHODS for rank in RANKS]
    width = left + len(groups) * (len(kinds) * bar + gap) + 10

    def y(value: float) -> float:
        return top + height * (1.0 - min(max(value, 0.5), 1.0)) / 0.5

    parts = [f'<text x="{left}" y="18" font-size="14">Macro AUROC on held-out patients; the line is the base</text>']
    for tick in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<text x="8" y="{y(tick) + 4:.0f}" font-size="11">{tick:.1f}</text>')
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y(tick):.0f}" y2="{y(tick):.0f}" stroke="#ddd"/>')
    for one in rows:
        group, kind = EPSILONS.index(one["epsilon"]), kinds.index((one["method"], one["rank"]))
        x = left + gap / 2 + group * (len(kinds) * bar + gap) + kind * bar
        value = one["auroc"]["value"]
        if value is not None:
            size = top + height - y(value)
            parts.append(
                f'<rect x="{x:.0f}" y="{y(value):.1f}" width="{bar - 4}" height="{size:.1f}" fill="{COLOURS[kind]}"/>'
                f'<text x="{x:.0f}" y="{y(value) - 4:.1f}" font-size="10">{value:.2f}</text>'
            )
    for number, name in enumerate(groups):
        x = left + gap / 2 + number * (len(kinds) * bar + gap)
        parts.append(f'<text x="{x:.0f}" y="{top + height + 18}" font-size="12">{escape(name)}</text>')
    for number, (method, rank) in enumerate(kinds):
        x = left + number * 130
        parts.append(f'<rect x="{x}" y="{top + height + 32}" width="12" height="12" fill="{COLOURS[number]}"/>')
        parts.append(f'<text x="{x + 18}" y="{top + height + 43}" font-size="12">{method}, rank {rank}</text>')
    base = rows[0]["base"]["value"]
    if base is not None:
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y(base):.1f}" y2="{y(base):.1f}" stroke="#111"/>')
    full = top + height + 60
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {full}" width="{width}" role="img" '
        f'font-family="system-ui, sans-serif"><title>Privacy against utility</title>'
        f'<rect width="{width}" height="{full}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
