"""`wardround sim …`: a whole federation in one process, its benchmarks and its attacks."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from federation.errors import ModelError, PlanError
from federation.plan import Privacy, RunPlan, load_plan, parse_plan, plan_from_value
from federation.terminal import Talk

PACKAGE = Path(__file__).parent
BUILTIN = "builtin:tiny-llama4"
BASES = {BUILTIN: PACKAGE / "base"}

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="A whole federation on this machine.",
)  # fmt: skip
bench = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Measure, beside peers and limits.")
app.add_typer(bench, name="bench")


@app.command("run", epilog="Example: wardround sim run --epsilon 8 --out out/demo")
def run(
    plan_file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="a plan.toml; without: the demo's")] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="number of made hospitals")] = None,
    patients: Annotated[int | None, typer.Option(min=8, help="made patients in all hospitals together")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="instead of the plan's")] = None,
    epsilon: Annotated[str | None, typer.Option(help="instead of the plan's target: a number, or none")] = None,
    sites_dir: Annotated[Path | None, typer.Option(help="real folders, one per site")] = None,
    engine: Annotated[str, typer.Option(help="local, or flower: Flower's simulation engine")] = "local",
    seed: Annotated[int | None, typer.Option(min=0, help="of all randomness; real folders: none by default")] = None,
    out: Annotated[Path, typer.Option(help="folder for report, adapter and checkpoints")] = Path("out/run"),
    model: Annotated[Path | None, typer.Option(help="a local checkpoint instead of the plan's base")] = None,
    compare: Annotated[bool, typer.Option("--compare/--no-compare", help="also train alone and pooled")] = True,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in the output folder")] = False,
    fault: Annotated[list[str] | None, typer.Option(help="SITE=KIND@ROUND: nan, huge, drop, corrupt, …")] = None,
    threads: Annotated[int, typer.Option(min=1, help="cores to use; the result depends on it in the last bits")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="print report.json on stdout")] = False,
) -> None:
    """Run a whole federation here: made hospitals, or the real folders found in a directory."""
    plan, base_path = _plan(plan_file, model)
    if rounds is not None:
        plan = replace(plan, run=replace(plan.run, rounds=rounds))
    if epsilon is not None:
        plan = replace(plan, privacy=_privacy(plan.privacy, epsilon))
    plan = plan_from_value(plan.value())  # what the options changed is checked like the file
    if engine not in ("local", "flower"):
        raise click.UsageError("engine is local or flower")
    from sim.faults import parse_fault
    from sim.run import Options, simulate
    from sim.sites import four_hospitals, hospitals

    if seed is None and sites_dir is None:
        seed = 0
    made = () if sites_dir else hospitals(sites, patients, seed or 0) if sites else four_hospitals(patients)
    options = Options(
        out=out, base_path=base_path, hospitals=tuple(made), sites_dir=sites_dir, engine=engine, seed=seed,
        compare=compare, resume=resume, faults=tuple(parse_fault(text) for text in fault or ()), threads=threads,
        command=shlex.join(["wardround", *sys.argv[1:]]),
    )  # fmt: skip
    report = simulate(plan, options, Talk())
    if as_json:
        print(json.dumps(report, indent=2, sort_keys=True))
    else:
        _summary(report, out)


@app.command("base", epilog="Example: wardround sim base --out out/base")
def base(
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")],
    seed: Annotated[int, typer.Option(min=0)] = 7,
    cases: Annotated[int, typer.Option(min=100, help="made public pictures")] = 12000,
    steps: Annotated[int, typer.Option(min=1, help="of the language stage; vision takes five eighths of it")] = 1600,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Make and pre-train the tiny base model on generated public pictures (about 25 minutes on two cores)."""
    from sim.base_model import make_base

    make_base(out, seed=seed, cases=cases, steps=steps, threads=threads, progress=Talk().line)
    from federation.base import base_digest

    print(base_digest(out))


@app.command("attack", epilog="Example: wardround sim attack --picture attack.svg --json")
def attack(
    seed: Annotated[int, typer.Option(min=0)] = 0,
    model: Annotated[bool, typer.Option("--model/--no-model", help="also what the tiny model remembers")] = True,
    picture: Annotated[Path | None, typer.Option(help="also write an SVG picture")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Attack the mechanism: a lower bound on epsilon beside the claim, and bugs planted to be caught."""
    from sim.attack import attack as attacks

    talk = Talk()
    with talk.progress("audits") as progress:
        result: dict[str, Any] = {"audits": attacks(seed=seed, progress=progress), "membership": None}
    if model:
        from sim.memorise import memorise

        talk.line("training a tiny model three times: without privacy, at epsilon 8 and at epsilon 1")
        result["membership"] = memorise(BASES[BUILTIN], seed=seed)
    if picture is not None:
        from sim.attack_picture import picture as drawn

        picture.write_text(drawn(result), encoding="utf-8")
    if as_json:
        print(json.dumps(result, indent=2, sort_keys=True))
        return
    for row in result["audits"]:
        name = row["planted_bug"] or "right code"
        print(
            f"{row['name']:<22} {name:<22} claimed {row['claimed_epsilon']:<8.3f} lower bound "
            f"{row['lower_bound']:<9.3f} caught {row['caught']}/{row['runs']}"
        )
    if result["membership"]:
        found = result["membership"]
        for key, title in (("auc", "membership attack, AUC"), ("exposure_bits", "canary exposure, bits")):
            told = [f"{_world(epsilon)} {found[f'{key}_{name}']:.2f}" for name, epsilon in found["epsilon"].items()]
            print(f"{title:<24} " + "   ".join(told))


@app.command("table", epilog="Example: wardround sim table --out out/table --docs docs")
def table(
    plan_file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="a plan.toml; without: the demo's")] = None,
    patients: Annotated[int | None, typer.Option(min=8, help="made patients in all hospitals together")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="instead of the plan's")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="folder for the sixteen runs, to go on in")] = Path("out/table"),
    docs: Annotated[Path, typer.Option(help="where utility.md and utility.svg go")] = Path("docs"),
    threads: Annotated[int, typer.Option(min=1)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="the rows on stdout")] = False,
) -> None:
    """Privacy against utility: epsilon 1, 3, 8 and none, for two methods and two ranks. Takes hours."""
    plan, base_path = _plan(plan_file, None)
    if rounds is not None:
        plan = plan_from_value(replace(plan, run=replace(plan.run, rounds=rounds)).value())
    from sim.run import Options
    from sim.sites import four_hospitals
    from sim.table import figure
    from sim.table import table as measure

    options = Options(
        out=out, base_path=base_path, hospitals=tuple(four_hospitals(patients)), seed=seed, threads=threads,
        command=shlex.join(["wardround", *sys.argv[1:]]),
    )  # fmt: skip
    rows = measure(plan, options, docs, Talk())
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        epsilon = "none" if row["epsilon"] is None else f"{row['epsilon']:g}"
        print(f"epsilon {epsilon:<6} {row['method']:<8} rank {row['rank']:<4} macro AUROC {figure(row['auroc'])}")


@bench.command("privacy", epilog="Example: wardround sim bench privacy --json")
def bench_privacy(
    turns: Annotated[int, typer.Option(min=1, help="of our step, each beside a plain one")] = 24,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="also peak memory, a process per method")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """A private step beside a plain one: ours, opacus by hooks, ghost clipping, one patient at a time."""
    import warnings

    from sim.bench_privacy import bench as measure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # opacus warns of its own hooks
        measured = measure(turns=turns, threads=threads, memory=memory)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value if isinstance(value, str) else format(value, '.3f')}")


@bench.command("federation", epilog="Example: wardround sim bench federation --sites 50 --json")
def bench_federation(
    sites: Annotated[int, typer.Option(min=1)] = 50,
    adapter_mb: Annotated[float, typer.Option(min=0.01)] = 4.0,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Seconds per round and peak memory of the real round loop, beside plain numpy on the same bytes."""
    from sim.bench_federation import bench as measure

    measured = measure(sites=sites, adapter_mb=adapter_mb, rounds=rounds)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value:.4g}")


@bench.command("secagg", epilog="Example: wardround sim bench secagg --json")
def bench_secagg(
    full: Annotated[bool, typer.Option("--full", help="up to 100 sites and 16 million numbers; many minutes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """CPU of a site and of the coordinator for a masked sum, beside Flower's SecAgg+ and raw AES."""
    from sim.bench_secagg import bench as measure

    measured = measure(full=full)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value:.4g}")


@bench.command("noise", epilog="Example: wardround sim bench noise --json")
def bench_noise(
    seeds: Annotated[int, typer.Option(min=1, help="of every cell; the figures are their mean")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Accuracy with noise of each site's own, with noise that sites share, and with one trusted party."""
    from sim.bench_noise import bench as measure

    with Talk().progress("runs") as progress:
        measured = measure(seeds=seeds, progress=progress)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value:.3f} ± {measured['standard_error'][name]:.3f}")


@bench.command("deid", epilog="Example: wardround sim bench deid --json")
def bench_deid(
    files: Annotated[int, typer.Option(min=4, help="made radiographs of 1 MB")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Cleaning a header, beside reading and writing it with pydicom; and the whole way of a file."""
    from sim.bench_deid import bench as measure

    measured = measure(files=files)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value:.4g}")


@bench.command("store", epilog="Example: wardround sim bench store --files 100000 --pairs 500000 --json")
def bench_store(
    files: Annotated[int, typer.Option(min=10, help="made files to ingest")] = 2000,
    pairs: Annotated[int, typer.Option(min=40, help="examples in the store to read from")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Memory while many files are ingested, and while patients of a large store are drawn and read."""
    from sim.bench_store import bench as measure

    measured = measure(files=files, pairs=pairs)
    if as_json:
        print(json.dumps(measured, indent=2))
        return
    for name, value in measured["figures"].items():
        print(f"{name:<36} {value:.4g}")


def _plan(plan_file: Path | None, model: Path | None) -> tuple[RunPlan, Path]:
    """The plan, and where its base is: shipped with the package, or a path from the plan file's folder."""
    if plan_file is None:
        plan, home = parse_plan((PACKAGE / "demo.toml").read_text(encoding="utf-8")), Path.cwd()
    else:
        plan, home = load_plan(plan_file), plan_file.parent
    if model is not None:
        # Another base than the plan's: its pin and family are those of the folder that the person named.
        return replace(plan, model=replace(plan.model, path=str(model), sha256=None, family=_family(model))), model
    return plan, BASES.get(plan.model.path, home / plan.model.path)


def _family(model: Path) -> str:
    try:
        return str(json.loads((model / "config.json").read_text(encoding="utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, RecursionError):
        raise ModelError(
            "model-absent", "the folder holds no model (no config.json)", hint="give the folder of a local checkpoint"
        ) from None


def _world(epsilon: float | None) -> str:
    return "without privacy" if epsilon is None else f"epsilon {epsilon:g}"


def _privacy(privacy: Privacy, epsilon: str) -> Privacy:
    if epsilon == "none":
        return Privacy(unit="none")
    try:
        target = float(epsilon)
    except ValueError:
        target = 0.0
    if not 0.0 < target <= 100.0:
        raise PlanError("plan-value", "epsilon is not a number above 0", hint="such as --epsilon 8, or --epsilon none")
    if privacy.noise == "shared":
        raise PlanError(
            "plan-combination",
            "an epsilon for each site means another noise at each, and shared noise is the same at all",
            hint="set privacy.noise_multiplier in the plan, and leave --epsilon out",
        )
    return replace(privacy, unit="patient", target_epsilon=target, noise_multiplier=None)


def _summary(report: dict[str, Any], out: Path) -> None:
    """The figures a person looks for first."""
    evaluation = report["evaluation"]
    for row, title in (
        ("base", "base model"), ("local_only", "each alone"), ("federated", "federated"), ("pooled", "pooled"),
    ):  # fmt: skip
        if row in evaluation:
            found = evaluation[row]["mean"] if row == "local_only" else evaluation[row]
            print(f"macro AUROC  {title:<12} {_interval(found['macro']['auroc'])}")
    if "private" in evaluation:
        told = _interval(evaluation["private"]["macro"]["auroc"])
        print(f"macro AUROC  {'with noise':<12} {told}  (epsilon {evaluation['private']['epsilon_of_release']:g})")
    spent = [site["epsilon"] for site in report["sites"].values() if site["epsilon"] is not None]
    print(f"epsilon      {max(spent):.2f} per patient at most" if spent else "epsilon      none: no privacy")
    costs = report["costs"]
    print(f"uplink       {costs['uplink_bytes_per_site_round'] / 1e6:.2f} MB per site and round")
    print(f"time         {costs['wall_s']:.0f} s, {costs['peak_rss_mb']:.0f} MB")
    print(f"adapter      {report['adapter']['digest']}")
    print(f"report       {out / 'report.html'}")


def _interval(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"withheld: {figure['withheld']}"
    ends = figure["ci95"]
    return f"{figure['value']:.3f}" + (f"  [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")
