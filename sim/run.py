"""A whole federation in one process: hospitals, de-identification, rounds, comparison, report.

The simulator has no algorithm of its own. It makes hospitals (or takes folders), opens real sites on them, and hands
the coordinator's real round loop a Link that ends in this process, or in Flower's engine.
"""

import contextlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from client.training.evaluate import mean_loss
from client.training.examples import Example
from client.training.learner import StoredPatients
from client.training.model import Base
from federation import durable
from federation.adapter import Adapter
from federation.errors import DataError, PlanError, StoreError
from federation.messages import SITE_ID, Link
from federation.plan import SECURE_SITES_MIN, RunPlan
from federation.privacy.keystream import OperatingSystemKeys
from federation.trust import roster as rosters
from federation.trust.keys import SigningKey
from server import evidence, rounds
from server import report as reports
from server.checkpoint import Checkpoints
from server.evaluation import Examined, ask_evaluation, private_evaluation
from server.export import export_adapter
from server.record import OUTCOMES, RoundRecord
from server.report import GalleryItem
from server.rounds import RunResult
from server.signed_link import SignedLink
from sim import account
from sim.account import Findings
from sim.compare import Examination, Examiner, alone, start_adapter
from sim.faults import Fault, FaultyLink
from sim.flower_engine import run_with_flower
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.phantoms import write_hospital
from sim.sites import Hospital
from sim.trust import clock, door, establish, identity
from sim.virtual_site import Pool, open_base, open_site, openers, prepare, stored_patients

CURVE_POINTS = 8
CURVE_CASES = 300


@dataclass(frozen=True)
class Options:
    """How a simulation is run; what is learned is in the plan."""

    out: Path
    base_path: Path
    hospitals: tuple[Hospital, ...] = ()  # made ones, or
    sites_dir: Path | None = None  # the folders found here
    engine: str = "local"
    seed: int | None = 0  # none: keys of the operating system
    compare: bool = True
    resume: bool = False
    faults: tuple[Fault, ...] = ()
    threads: int = 2
    command: str = "wardround sim run"


class Talk(Protocol):
    """What the simulator tells while it works."""

    def line(self, text: str) -> None: ...

    def progress(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]: ...


def simulate(plan: RunPlan, options: Options, talk: Talk) -> dict[str, Any]:
    """Run the plan on virtual sites; leave report, adapter and checkpoints in `options.out`. Returns the report."""
    started = time.monotonic()
    _require_enough(plan, options)
    findings = Findings()
    stage = _Stages(findings)
    base = open_base(plan, options.base_path, threads=options.threads)  # refused first, before anything is written
    _claim(options)

    # 1 hospitals: made, or found
    with stage("hospitals"):
        sources = _sources(options, talk)
    # 2 each de-identifies its own into its store
    folders = {site_id: options.out / "sites" / site_id for site_id in sources}
    with stage("de-identification"):
        _prepare(plan, options, sources, folders, findings, talk)
    data = {site_id: stored_patients(folder) for site_id, folder in folders.items()}

    # 3 who will be examined: patients that nobody trains on
    with stage("evaluation"):
        examination = Examination.prepare(base, data, held_out_share=plan.evaluation.held_out_share)
        examiner = Examiner(plan, base, examination, seed=options.seed or 0)
        scored = {"base": examiner.scores(start_adapter(plan, base))}

    # 4 the federation
    with stage("federation"):
        result = _federate(plan, options, base, folders, examiner, findings, talk)

    # 5 what it is compared with: each site alone, and everybody's data in one place
    adapters: dict[str, Adapter] = {"base": start_adapter(plan, base), "federated": result.adapter}
    if options.compare:
        with stage("comparison"):
            adapters |= _others(plan, options, base, folders, data, talk)
    with stage("evaluation"):
        scored |= {row: examiner.scores(adapter) for row, adapter in adapters.items() if row != "base"}
        findings.evaluation = _evaluation(examiner, scored, tuple(folders))
        findings.evaluation["text"] = _texts(plan, examiner, adapters)
        if findings.examined is not None and findings.examined.evaluations:
            findings.evaluation["private"] = _private(plan, findings.examined, findings.evaluation["per_site"])
        gallery = _gallery(examiner, adapters)

    # 6 the account
    _export(plan, options, base, result)
    wall_s = time.monotonic() - started
    source = "phantom" if options.hospitals else "hospital"
    told = account.report(
        plan, result, base, findings, engine=options.engine, source=source, seed=options.seed,
        command=options.command, wall_s=wall_s,
    )  # fmt: skip
    reports.write(options.out, told, gallery)
    _release(options, result)
    return told


def _require_enough(plan: RunPlan, options: Options) -> None:
    """A masked sum of two would tell each site the other's update: said before anything is made."""
    count = len(options.hospitals) if options.sites_dir is None else len(found_sites(options.sites_dir))
    if plan.aggregation.secure and count < SECURE_SITES_MIN:
        raise PlanError(
            "plan-unsupported",
            f"secure aggregation needs three sites, and there are {count}",
            hint="take three sites or more, or a plan with [aggregation] secure = false",
        )


def _release(options: Options, result: RunResult) -> None:
    """The last line of the run's log: what was given out, so that `wardround verify` finds a change of any byte."""
    checkpoints = Checkpoints.open(options.out / "run")
    log_key = SigningKey.load(options.out / "trust" / "log.key")
    signed = rosters.load((options.out / "trust" / "roster.json").read_bytes())
    with evidence.open_log(checkpoints, signed, log_key) as log:
        names = [str(path.relative_to(options.out)) for path in (options.out / "adapter").rglob("*") if path.is_file()]
        evidence.release(
            log, options.out, [*names, "report.json", "report.html", "run/curve.json"], adapter=result.adapter.digest()
        )


def _claim(options: Options) -> None:
    """The output folder is ours alone: empty, or to be resumed."""
    if options.out.exists() and any(options.out.iterdir()) and not options.resume:
        raise StoreError(
            "output-exists", "the output folder is not empty", hint="name a new folder, or add --resume to go on"
        )
    options.out.mkdir(parents=True, exist_ok=True)


def _sources(options: Options, talk: Talk) -> dict[str, Path]:
    """Each site's folder of DICOM and reports, in the order of the site ids."""
    if options.sites_dir is not None:
        return found_sites(options.sites_dir)
    sources = {}
    for hospital in options.hospitals:
        folder = options.out / "hospitals" / hospital.site_id
        sources[hospital.site_id] = folder
        if (options.out / "truth" / f"{hospital.site_id}.json").exists():
            continue  # written before an interruption; the truth file comes last
        shutil.rmtree(folder, ignore_errors=True)
        with talk.progress(f"hospital {hospital.site_id}") as progress:
            write_hospital(
                hospital, folder, seed=options.seed or 0, truth=options.out / "truth" / f"{hospital.site_id}.json",
                workers=options.threads, progress=progress,
            )  # fmt: skip
    return dict(sorted(sources.items()))


def found_sites(folder: Path) -> dict[str, Path]:
    """Every subfolder is a site, named like it. Raises: DataError."""
    if not folder.is_dir():
        raise DataError("folder-absent", "the folder of sites does not exist", hint="give a folder with one per site")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise DataError(
            "folder-empty", "the folder of sites has no subfolder", hint="one folder per site, see the README"
        )
    for name in found:
        if SITE_ID.fullmatch(name) is None or name == "mean":
            raise DataError(
                "site-name",
                "a site's folder has a name that no site can have",
                hint="use a-z, 0-9 and -, such as north-1",
            )
    return found


def _prepare(
    plan: RunPlan,
    options: Options,
    sources: Mapping[str, Path],
    folders: Mapping[str, Path],
    findings: Findings,
    talk: Talk,
) -> None:
    begun = (options.out / "run" / "run.json").exists()
    for site_id, source in sources.items():
        with talk.progress(f"de-identify {site_id}") as progress:
            counts = prepare(
                folders[site_id], site_id, source, seed=options.seed, held_out_share=plan.evaluation.held_out_share,
                workers=options.threads, progress=progress, begun=begun,
            )  # fmt: skip
        findings.quarantined[site_id] = counts.quarantined
        held = sum(counts.quarantined.values())
        stored = counts.accepted + counts.already
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.quarantined.items())
        talk.line(f"{site_id}: {stored} examples, {held} in quarantine" + (f" ({reasons})" if reasons else ""))


def _federate(
    plan: RunPlan,
    options: Options,
    base: Base,
    folders: Mapping[str, Path],
    examiner: Examiner,
    findings: Findings,
    talk: Talk,
) -> RunResult:
    private = plan.privacy.unit != "none"
    folder = options.out / "run"
    if (folder / "run.json").exists():
        checkpoints = Checkpoints.open(folder, plan=plan)
    else:
        keys = OperatingSystemKeys() if options.seed is None else SeededKeys(options.seed).child("coordinator")
        run_id = rounds.new_run_id(plan, keys)
        checkpoints = Checkpoints.create(folder, run_id=run_id, plan=plan)
    trust = establish(options.out, dict(folders), options.seed)
    log = evidence.open_log(checkpoints, trust.signed, trust.log)
    curve = folder / "curve.json"
    if curve.exists():
        findings.curve = {int(number): tuple(point) for number, point in json.loads(curve.read_text()).items()}
    some = examiner.examination.some(CURVE_CASES)
    every = max(1, plan.run.rounds // CURVE_POINTS)

    def observe(record: RoundRecord, adapter: Adapter) -> None:
        evidence.record_rounds(log, checkpoints)
        loss = None
        if record.round_number % every == 0 or record.round_number in (1, plan.run.rounds):
            scored = examiner.scores(adapter, some)
            macro = examiner.figures(scored)["macro"]["auroc"]["value"]
            findings.curve[record.round_number] = (mean_loss(scored), macro)
            loss = findings.curve[record.round_number][0]
            durable.write(curve, [json.dumps(findings.curve).encode("ascii")])
        talk.line(_round_line(plan, record, loss))

    def run(link: Link) -> RunResult:
        faulty = FaultyLink(link, options.faults, sign=trust.sign)
        signed = SignedLink(faulty, trust.coordinator, (trust.signed,), log, clock=clock)
        keys = trust.signed.roster.identities()
        result = rounds.run(plan, signed, checkpoints, base=options.base_path, roster=keys, observer=observe)
        findings.examined = ask_evaluation(plan, signed, result.run_id, result.adapter)
        return result

    with contextlib.closing(log):
        if options.engine == "flower":
            return run_with_flower(
                run, openers(folders, plan, options.base_path, private=private, threads=options.threads)
            )
        sites = {
            site_id: open_site(path, path / "state", base, private=private, identity=partial(identity, path, site_id))
            for site_id, path in folders.items()
        }
        doors = {site_id: door(folders[site_id], site) for site_id, site in sites.items()}
        try:
            return run(LocalLink(doors))
        finally:
            for site_id, site in sites.items():
                site.ledger.close()
                doors[site_id].log.close()


def _round_line(plan: RunPlan, record: RoundRecord, loss: float | None) -> str:
    spent = [terms.epsilon_after_round for terms in record.privacy.values() if terms is not None]
    parts = [
        f"round {record.round_number}/{plan.run.rounds}",
        f"sites {len(record.accepted)}/{len(record.asked)}",
    ]
    if loss is not None:
        parts.append(f"held-out loss {loss:.3f}")
    if spent:
        budget = f" (target {plan.privacy.target_epsilon:g})" if plan.privacy.target_epsilon else ""
        parts.append(f"epsilon {max(spent):.2f}{budget}")
    most = max(record.uplink_bytes.values(), default=0)
    parts.append(f"{most / 1e6:.2f} MB/site")
    if record.outcome != "accepted":
        parts.append(f"rejected: {OUTCOMES[record.outcome]}" + (f" ({record.closed})" if record.closed else ""))
    left_out = {site: ", ".join(reasons) for site, reasons in record.refusals.items()} | dict(record.failures)
    parts += [f"left out {site}: {why}" for site, why in sorted(left_out.items())]
    return "  ".join(parts)


def _others(
    plan: RunPlan,
    options: Options,
    base: Base,
    folders: Mapping[str, Path],
    data: Mapping[str, StoredPatients],
    talk: Talk,
) -> dict[str, Adapter]:
    work = options.out / "compare"
    shutil.rmtree(work, ignore_errors=True)
    made = {}
    rows: list[tuple[str, str, StoredPatients | Pool]] = [(site, site, data[site]) for site in folders]
    rows.append(("pooled", next(iter(folders)), Pool(list(data.values()))))
    for row, site_id, patients in rows:
        with talk.progress(f"train {row}" + ("" if row == "pooled" else " alone")) as progress:
            made[row] = alone(
                plan, base, folders[site_id], work / row, data=patients, site_id=site_id,
                observer=lambda record, adapter: progress(record.round_number, plan.run.rounds),
            )  # fmt: skip
    shutil.rmtree(work)
    return made


def _evaluation(examiner: Examiner, scored: Mapping[str, Sequence[Any]], sites: Sequence[str]) -> dict[str, Any]:
    """The four rows, and for each site its own patients under each row."""
    made: dict[str, Any] = {
        row: examiner.figures(scored[row]) for row in ("base", "federated", "pooled") if row in scored
    }
    alone = {site: examiner.figures(scored[site]) for site in sites if site in scored}
    if alone:
        made["local_only"] = {"mean": _mean_of(list(alone.values())), **alone}
    made["per_site"] = {
        site: {
            row: examiner.figures(scored[site if row == "local_only" else row], site_id=site)
            for row in ("base", "federated", "local_only", "pooled")
            if (site if row == "local_only" else row) in scored and _asked(scored["base"], site)
        }
        for site in sites
    }
    return made


def _private(plan: RunPlan, examined: Examined, per_site: Mapping[str, Any]) -> dict[str, Any]:
    """What the coordinator of a real federation would know, and beside it the truth, which only a simulation has."""
    told = private_evaluation(plan, examined, np.random.default_rng(0))
    known = {}
    for site, private in told["sites"].items():
        exact = per_site.get(site, {}).get("federated", {}).get("questions", {})
        same = [
            exact[question]["auroc"]["value"]
            for question, row in private["questions"].items()
            if row["auroc"]["value"] is not None and question in exact
        ]
        if same and None not in same:
            known[site] = sum(same) / len(same)  # of the questions that it answered, not of all
    total = sum(told["weights"][site] for site in known)
    mean = sum(told["weights"][site] * value for site, value in known.items()) / total if total else None
    return told | {"exact_in_simulation_only": {"sites": known, "macro_auroc": mean}}


def _asked(scored: Sequence[Any], site_id: str) -> bool:
    return any(item.site_id == site_id for item in scored)


def _mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over sites of each figure; an interval of means of intervals would be wrong, so there is none."""

    def mean(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        values = [figure["value"] for figure in figures if figure["value"] is not None]
        if not values:
            return {"value": None, "ci95": None, "n": None, "withheld": "too few patients"}
        return {"value": sum(values) / len(values), "ci95": None, "n": figures[0]["n"]}

    names = rows[0]["macro"]
    questions = rows[0]["questions"]
    return {
        "questions": {
            q: {name: mean([row["questions"][q][name] for row in rows]) for name in names} for q in questions
        },
        "macro": {name: mean([row["macro"][name] for row in rows]) for name in names},
    }


def _texts(plan: RunPlan, examiner: Examiner, adapters: Mapping[str, Adapter]) -> dict[str, Any]:
    if not plan.evaluation.free_text:
        return {}
    made = {row: examiner.texts(adapters[row]) for row in ("base", "federated", "pooled") if row in adapters}
    return {row: text for row, text in made.items() if text is not None}


def _gallery(examiner: Examiner, adapters: Mapping[str, Adapter]) -> list[GalleryItem]:
    chosen = examiner.gallery()
    question = examiner.examination.open_question
    if question is None:
        return []
    rows = [row for row in ("base", "federated") if row in adapters]
    words = {row: examiner.words(adapters[row], chosen) for row in rows}
    return [
        GalleryItem(
            png=_png(example),
            site_id=site_id,
            question=question,
            radiologist=next(answer for asked, answer in example.turns if asked == question),
            words={row: words[row][index] for row in rows},
        )
        for index, (site_id, example) in enumerate(chosen)
    ]


def _png(example: Example) -> bytes:
    made = io.BytesIO()
    Image.fromarray(example.pictures[0]).save(made, "PNG")
    return made.getvalue()


def _export(plan: RunPlan, options: Options, base: Base, result: RunResult) -> None:
    folder = options.out / "adapter"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    export_adapter(
        folder,
        result.adapter,
        base_model=plan.model.path,
        rank=plan.adapter.rank,
        alpha=plan.adapter.alpha,
        origin={"run_id": result.run_id, "plan_digest": result.plan_digest, "base_digest": base.digest},
    )


class _Stages:
    """Seconds per stage; a stage that comes twice is added up."""

    def __init__(self, findings: Findings) -> None:
        self._seconds = findings.stages_s

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - started
