"""What happened in a run, for people and for machines: `report.html` and `report.json` from one plain mapping.

The page is one file that opens anywhere: no script, no font, no picture and no link from outside, and a content
security policy that would refuse them. The same report gives the same bytes. Anything may be missing (a run stopped
early, a row not evaluated, a metric withheld): the page then says so instead of failing.

Keys, all optional but `run_id` (E = {"questions": {question: {metric: M}}, "macro": {metric: M}},
M = {"value", "ci95": [low, high], "n"} or {"value": null, "withheld": reason}; metrics: auroc, sensitivity,
specificity, kappa, accuracy):

    format, name, run_id, plan_digest, engine, planned_rounds, stopped (why the run ended early)
    data        {source: "phantom" | "hospital", statement}
    base        {digest, family, parameters}        adapter  {method, rank, alpha, targets[], parameters, digest}
    rounds[]    {round, participants[], refusals{site: [reason]}, accepted, reason (null, or why it was rejected),
                gate {norm, bound, energy_cut, validation {change, noise, sites{site}} or null}, loss, seconds,
                uplink_bytes{site}, downlink_bytes{site}, macro_auroc, epsilon{site}, masked, closed (code or null),
                suspects{site: code}}
    sites{}     {epsilon, delta, steps, noise_multiplier, honest_sites (null: all of the noise is its own),
                sampling_rate, declared_patients, refusals[],
                left[] {round, kind, bytes, sha256}}
    evaluation  {base: E, federated: E, pooled: E, local_only: {mean: E, site: E}, per_site: {site: {row: E}},
                text: {row: {rouge_l: M}}, notes: {row: words}, private: {epsilon_of_release, macro, weights{site},
                sites: {site: E and its noise}, left_out{site: [reason]}, exact_in_simulation_only}}
    privacy     {unit, target_epsilon, delta, accountant, neighboring_relation, statement, epsilon_for_m_sites{m}, off}
    costs       {wall_s, peak_rss_mb, uplink_bytes_per_site_round, downlink_bytes_per_site_round, stages_s{stage}}
    reproduce   {command, seed, versions{}}
"""

import base64
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from federation.errors import FormatError
from server import charts
from server import report_words as words
from server.record import OUTCOMES

Report = Mapping[str, Any]
FORMAT = "wardround-report/1"
ROWS = {
    "base": "base model",
    "local_only": "each alone",
    "federated": "federated",
    "pooled": "pooled",
}
ROW_MEANING = {
    "base": "the base model before any training",
    "local_only": "each hospital trains by itself; the mean over hospitals",
    "federated": "trained together; pictures and reports stayed where they were",
    "pooled": "all patients in one place, which hospitals cannot do: the reference to reach for",
}
METRICS = {
    "auroc": "AUROC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "kappa": "Cohen’s κ",
    "accuracy": "accuracy",
}
# Computed from patients without noise: they may exist in a site's memory for one step and nowhere else, so `rounds` and
# `sites`, which tell what came from the hospitals, may not have such a key at any depth.
NEVER_SHOWN = frozenset(
    {
        "gradient_norm", "gradient_norms", "clip_fraction", "clipped_fraction", "batch_size", "batch_sizes",
        "drawn", "drawn_patients", "patient_key", "patient_keys", "patients", "per_patient", "example_count",
        "examples", "step_losses", "step_seconds", "unnoised_loss",
    }
)  # fmt: skip


@dataclass(frozen=True)
class GalleryItem:
    """One held-out picture, what the radiologist wrote, and what each model says.

    `words` maps a row ('base', 'federated', …) to the model's words. For a closed question `probabilities` may map a
    row to the probability it gives to `caption`, such as "P(yes)".
    """

    png: bytes
    site_id: str
    question: str
    radiologist: str
    words: Mapping[str, str]
    probabilities: Mapping[str, float] = field(default_factory=dict)
    caption: str = "P(yes)"


def write(folder: Path, report: Report, gallery: Sequence[GalleryItem]) -> None:
    """Write `report.json` and then `report.html` into `folder`, each atomically.

    Guarantees: a reader sees the old file or the whole new one; a report with a key that privacy forbids is refused.
    """
    data, html = dump(report), page(report, gallery)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "report.json", data)
    _replace(folder / "report.html", html.encode(errors="replace"))


def dump(report: Report) -> bytes:
    """Canonical JSON: sorted keys, indent 2, UTF-8, a number that is not finite becomes null.

    Raises:
        FormatError: `rounds` or `sites` holds a key of NEVER_SHOWN.
    """
    _refuse_private([report.get("rounds"), report.get("sites")])
    return (json.dumps(_plain(report), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def page(report: Report, gallery: Sequence[GalleryItem] = ()) -> str:
    """The whole report as one HTML page. Every word from outside is escaped."""
    data = dump(report)
    plain: dict[str, Any] = _plain(report)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=words.figure, interval=words.interval, epsilon=words.epsilon, delta=words.delta, size=words.size,
        seconds=words.seconds, count=words.count, plural=words.plural, listing=words.listing, metric=words.metric,
        number=words.number, signed=words.signed,
    )  # fmt: skip
    template = environment.get_template("report.html.j2")
    return template.render(
        report=plain,
        part=words.part,
        rows=ROWS,
        row_meaning=ROW_MEANING,
        metrics=METRICS,
        sha256=hashlib.sha256(data).hexdigest(),
        sites=sorted(words.part(plain, "sites")),
        rounds=_rounds(plain),
        privacy=privacy_state(plain),
        headline=headline(plain),
        findings=findings(plain),
        questions=_questions(plain),
        measured=_measured(plain),
        charts=_charts(plain),
        meter=charts.meter,
        gallery=[(item, _picture(item.png)) for item in gallery],
        pretended=words.part(plain, "data").get("source") == "phantom",
        detected=words.detected,
        left=_left(plain),
    )


def privacy_state(report: Report) -> dict[str, Any]:
    """`state` is 'on', 'partial' or 'off': on only if every site that trained has a finite epsilon and a delta below 1.

    A report that is silent about privacy counts as off.
    """
    sites = words.part(report, "sites")
    trained = [site for site in sorted(sites) if sites[site].get("steps") or sites[site].get("epsilon") is not None]
    spent = {site: words.number(sites[site].get("epsilon")) for site in trained}
    bare = [
        site for site in trained if spent[site] is None or words.number(sites[site].get("noise_multiplier", 1.0)) == 0.0
    ]
    stated = words.part(report, "privacy")
    off = not stated or bool(stated.get("off")) or (bool(trained) and bare == trained)
    known = [value for value in spent.values() if value is not None]
    deltas = [words.number(sites[site].get("delta")) for site in trained] + [words.number(stated.get("delta"))]
    return {
        "state": "off" if off else "partial" if bare else "on",
        "recorded": bool(stated) or bool(trained),
        "bare": bare,
        "epsilon": None if off else max(known, default=None),
        "lowest": None if off else min(known, default=None),
        "delta": max((d for d in deltas if d is not None), default=None),
        "honest_sites": max((int(words.number(sites[site].get("honest_sites")) or 0) for site in trained), default=0),
        "target": words.number(stated.get("target_epsilon")),
    }


def headline(report: Report) -> dict[str, Any]:
    """The three numbers that matter: macro AUROC before and after, epsilon per patient, bytes per round and site.

    `told` is what hospitals say of the adapter with noise: all there is where nobody may see an exact figure.
    """
    costs = words.part(report, "costs")
    return {
        "before": _macro(report, "base"),
        "after": _macro(report, "federated"),
        "told": words.metric(words.part(report.get("evaluation"), "private", "macro").get("auroc")),
        "uplink": words.number(costs.get("uplink_bytes_per_site_round")),
        "downlink": words.number(costs.get("downlink_bytes_per_site_round")),
    }


def findings(report: Report) -> list[str]:
    """What the four rows say, in sentences that claim no more than their intervals allow."""
    base, alone, together, pooled = (_macro(report, row) for row in ROWS)
    said: list[str] = []
    asked = words.part(report.get("evaluation"), "private")
    told = headline(report)["told"]
    if together.value is None and told.value is not None:
        few = f"{len(words.part(asked, 'sites'))} of {len(words.part(report, 'sites'))} hospitals"
        return [
            f"{few} examined the federated adapter on their held-out patients: macro AUROC {words.figure(told.value)} "
            f"{words.interval(told)}, from figures with noise. Nothing is known of the base model to set beside it."
        ]
    if together.value is None and asked:
        return ["The hospitals were asked about the federated adapter, and what they said is too little for a figure."]
    if together.value is None:
        return ["The federated adapter was not evaluated, so this report makes no claim about its quality."]
    if base.value is not None:
        change = together.value - base.value
        said.append(
            f"Training together moved the macro AUROC by {words.signed(change)} against the base model"
            f"{_overlap(base, together)}."
        )
    if alone.value is not None:
        said.append(
            f"It is {_beside(together.value - alone.value)} what a hospital reaches alone, on average"
            f"{_overlap(alone, together)}."
        )
    if pooled.value is not None:
        said.append(
            f"It is {_beside(together.value - pooled.value)} the reference, all patients in one place"
            f"{_overlap(together, pooled)}."
        )
    return said


def _beside(change: float) -> str:
    return f"{words.figure(abs(change))} {'above' if change >= 0 else 'below'}"


def _overlap(a: words.Metric, b: words.Metric) -> str:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return ""
    apart = a.high < b.low or b.high < a.low
    return "; their intervals do not overlap" if apart else "; their intervals overlap, so the difference may be chance"


def _refuse_private(value: object) -> None:
    if isinstance(value, Mapping):
        for name in sorted(NEVER_SHOWN.intersection(value)):
            raise FormatError(
                "report-private", f"the report holds the key {name}", hint="leave it out: it is computed without noise"
            )
    if isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            _refuse_private(one)


def _plain(value: object) -> Any:
    """Plain JSON values with string keys."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # a lone surrogate has no place in UTF-8
    if value is None or isinstance(value, bool | int):
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    return str(value)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _row(evaluation: object, row: str) -> Mapping[str, Any]:
    """E of one row: 'local_only' is its mean over sites where there is one, E itself otherwise."""
    found = words.part(evaluation, row)
    return words.part(found, "mean") if "mean" in found else found


def _macro(report: Report, row: str) -> words.Metric:
    return words.metric(words.part(_row(report.get("evaluation"), row), "macro").get("auroc"))


def _rounds(report: Report) -> list[dict[str, Any]]:
    """The rounds in order, with the sums that the table shows; `epsilon` is what was spent so far."""
    table = []
    for one in report.get("rounds") or ():
        refusals = words.part(one, "refusals")
        table.append(
            {
                "number": one.get("round"),
                "participants": sorted(one.get("participants") or ()),
                "refusals": {site: _reasons(refusals[site]) for site in sorted(refusals)},
                "accepted": one.get("accepted"),
                "reason": OUTCOMES.get(str(one.get("reason")), one.get("reason")),
                "gate": _gate_words(words.part(one, "gate")),
                "loss": words.number(one.get("loss")),
                "macro": words.metric(one.get("macro_auroc")),
                "seconds": words.number(one.get("seconds")),
                "uplink": _total(one.get("uplink_bytes")),
                "downlink": _total(one.get("downlink_bytes")),
                "epsilon": _highest(one.get("epsilon")),
            }
        )
    return table


def _gate_words(gate: Mapping[str, Any]) -> str:
    """How long the sum was beside what is allowed, and what the sites said of the candidate."""
    norm, bound = words.number(gate.get("norm")), words.number(gate.get("bound"))
    said = [] if norm is None or not bound else [f"length {norm / bound:.0%} of what is allowed"]
    energy_cut = words.number(gate.get("energy_cut"))
    said += [] if energy_cut is None else [f"{energy_cut:.1%} of the energy cut"]
    looked = words.part(gate, "validation")
    change, noise = words.number(looked.get("change")), words.number(looked.get("noise"))
    if change is None or noise is None:
        return "; ".join([*said, "not checked on held-out patients"])
    return "; ".join([*said, f"score of held-out patients {change:+.3f}, noise {noise:.3f}"])


def _reasons(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def _known(value: object) -> list[float]:
    return [number for one in words.part(value).values() if (number := words.number(one)) is not None]


def _total(value: object) -> float | None:
    return sum(_known(value)) if _known(value) else words.number(value)


def _highest(value: object) -> float | None:
    return max(_known(value), default=words.number(value))


def _questions(report: Report) -> list[str]:
    evaluation = report.get("evaluation")
    found = (words.part(_row(evaluation, row), "questions") for row in ROWS)
    return list(dict.fromkeys(question for one in found for question in one))


def _measured(report: Report) -> dict[str, Any]:
    """Which rows were evaluated, and their E."""
    evaluation = report.get("evaluation")
    return {row: found for row in ROWS if (found := _row(evaluation, row))}


def _left(report: Report) -> dict[str, dict[str, Any]]:
    """Every message that left each site, and its sums by kind."""
    result: dict[str, dict[str, Any]] = {}
    for site, one in sorted(words.part(report, "sites").items()):
        messages = [message for message in one.get("left") or () if isinstance(message, Mapping)]
        kinds: dict[str, list[float]] = {}
        for message in messages:
            entry = kinds.setdefault(str(message.get("kind", "?")), [0, 0])
            entry[0] += 1
            entry[1] += words.number(message.get("bytes")) or 0
        result[site] = {"messages": messages, "kinds": kinds, "bytes": sum(size for _, size in kinds.values())}
    return result


def _picture(png: bytes) -> str:
    """A data URI, or nothing for bytes that are not a PNG."""
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        return ""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _charts(report: Report) -> dict[str, Markup]:
    """The figures there is something to draw for, by name."""
    drawn: dict[str, Markup] = {}
    for name, figure in (
        ("rows", _rows_figure(report)),
        ("forest", _forest_figure(report)),
        ("auroc", _auroc_figure(report)),
        ("loss", _loss_figure(report)),
        ("epsilon", _epsilon_figure(report)),
        ("attendance", _attendance_figure(report)),
        ("bytes", _bytes_figure(report)),
        ("seconds", _seconds_figure(report)),
        ("stages", _stages_figure(report)),
    ):
        if figure is not None:
            drawn[name] = figure
    return drawn


def _mark(row: str, measured: words.Metric) -> charts.Mark:
    said = measured.withheld if not measured.known else f"{words.figure(measured.value)} {words.interval(measured)}"
    return charts.Mark(row, measured.value, measured.low, measured.high, said.strip() or words.ABSENT)


def _rows_figure(report: Report) -> Markup | None:
    measured = _measured(report)
    bands = [
        charts.Band(
            "All questions (macro mean)", tuple(_mark(row, _macro(report, row)) for row in measured), strong=True
        )
    ]
    for question in _questions(report):
        found = {row: words.metric(words.part(e, "questions", question).get("auroc")) for row, e in measured.items()}
        bands.append(charts.Band(question, tuple(_mark(row, one) for row, one in found.items())))
    if not measured:
        return None
    return charts.whiskers(
        bands,
        [(row, ROWS[row]) for row in measured],
        name="rows",
        title="AUROC of each row, per question, with 95 % intervals",
        description="; ".join(f"{ROWS[row]} {words.figure(_macro(report, row).value)}" for row in measured),
        chance=0.5,
    )


def _forest_figure(report: Report) -> Markup | None:
    per_site = words.part(report, "evaluation", "per_site")
    bands, rows = [], ("local_only", "federated")
    for site in sorted(per_site):
        found = {row: words.metric(words.part(per_site[site], row, "macro").get("auroc")) for row in rows}
        if any(one.known or one.withheld for one in found.values()):
            bands.append(charts.Band(site, tuple(_mark(row, found[row]) for row in rows)))
    if not bands:
        return None
    return charts.whiskers(
        bands,
        [("local_only", "trained alone"), ("federated", "federated")],
        name="forest",
        title="Macro AUROC on each hospital’s own patients: alone against federated",
        description=f"{words.plural(len(bands), 'hospital')}, each with two figures and their 95 % intervals",
        chance=0.5,
    )


def _auroc_figure(report: Report) -> Markup | None:
    values = tuple(one["macro"].value for one in _rounds(report))
    if not any(value is not None for value in values):
        return None
    base = _macro(report, "base").value
    known = [value for value in (*values, base) if value is not None]
    return charts.curves(
        [charts.Series("federated", values, "federated")],
        say=words.figure,
        name="auroc",
        title="Macro AUROC of the adapter after each round",
        description=_course(values),
        bounds=(max(0.0, math.floor(min(known) * 10 - 0.3) / 10), min(1.0, math.ceil(max(known) * 10 + 0.3) / 10)),
        limit=None if base is None else (base, f"base model {words.figure(base)}", "reference"),
    )


def _loss_figure(report: Report) -> Markup | None:
    values = tuple(one["loss"] for one in _rounds(report))
    if not any(value is not None for value in values):
        return None
    return charts.curves(
        [charts.Series("loss", values, "federated")],
        say=words.figure,
        name="loss",
        title="Loss on held-out patients after each round",
        description=_course(values),
    )


def _course(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"from {words.figure(known[0])} to {words.figure(known[-1])} over {words.plural(len(known), 'round')}"


def _epsilon_figure(report: Report) -> Markup | None:
    """Sites that spent the same share a line; beyond four lines only the highest and the lowest get names."""
    rounds = [words.part(one, "epsilon") for one in report.get("rounds") or ()]
    courses: dict[tuple[float | None, ...], list[str]] = {}
    for site in sorted({site for one in rounds for site in one}):
        course = tuple(words.number(one.get(site)) for one in rounds)
        courses.setdefault(course, []).append(site)
    ordered = sorted(courses, key=lambda course: max((v for v in course if v is not None), default=0.0), reverse=True)
    if not any(value is not None for course in ordered for value in course):
        return None
    loud = set(ordered) if len(ordered) <= 4 else {ordered[0], ordered[-1]}
    named = [course for course in ordered if course in loud]
    series = [
        charts.Series(_several(courses[course]), course, f"c{named.index(course)}" if course in loud else "c0",
                      course not in loud)
        for course in ordered
    ]  # fmt: skip
    state = privacy_state(report)
    highest = max(value for course in ordered for value in course if value is not None)
    target = state["target"]
    return charts.curves(
        series,
        say=words.epsilon,
        name="epsilon",
        title="Epsilon spent per hospital, added up over the rounds",
        description=f"at most {words.epsilon(highest)} was spent; the plan allows {words.epsilon(target)}",
        bounds=(0.0, max(highest, target or 0.0) * 1.12 or 1.0),
        limit=None if target is None else (target, f"budget of the plan {words.epsilon(target)}", "budget"),
    )


def _several(sites: list[str]) -> str:
    return sites[0] if len(sites) == 1 else f"{len(sites)} sites alike" if len(sites) > 2 else f"{sites[0]}, {sites[1]}"


def _attendance_figure(report: Report) -> Markup | None:
    rounds = _rounds(report)
    seen = {site for one in rounds for site in (*one["participants"], *one["refusals"])}
    sites = sorted(seen | set(words.part(report, "sites")))
    if not rounds or not sites:
        return None
    cells = [
        ["refused" if site in one["refusals"] else "took" if site in one["participants"] else "" for one in rounds]
        for site in sites
    ]
    return charts.attendance(
        sites,
        ["rejected" if one["accepted"] is False else "" for one in rounds],
        cells,
        name="attendance",
        title="Who took part in which round",
        description="; ".join(
            f"{site}: {row.count('took')} of {len(rounds)} rounds" for site, row in zip(sites, cells, strict=True)
        ),
    )


def _bytes_figure(report: Report) -> Markup | None:
    def means(name: str) -> tuple[float | None, ...]:
        found = [_known(one.get(name)) for one in report.get("rounds") or ()]
        return tuple(sum(sizes) / len(sizes) if sizes else None for sizes in found)

    series = [charts.Series("from a site", means("uplink_bytes")), charts.Series("to a site", means("downlink_bytes"))]
    series = [one for one in series if any(one.values)]
    if not series:
        return None
    return charts.columns(
        series,
        words.size,
        name="bytes",
        title="Bytes per hospital in each round, mean over hospitals",
        description="; ".join(f"{s.label} at most {words.size(max(v for v in s.values if v))}" for s in series),
    )


def _seconds_figure(report: Report) -> Markup | None:
    values = tuple(one["seconds"] for one in _rounds(report))
    if not any(values):
        return None
    return charts.columns(
        [charts.Series("seconds", values)],
        words.seconds,
        name="seconds",
        title="Time of each round",
        description=f"at most {words.seconds(max(v for v in values if v is not None))}",
    )


def _stages_figure(report: Report) -> Markup | None:
    stages = sorted(_timed(words.part(report, "costs", "stages_s")), key=lambda stage: -stage[1])
    if not stages:
        return None
    return charts.bars(
        [(stage.replace("_", " "), spent, words.seconds(spent)) for stage, spent in stages],
        name="stages",
        title="Where the time went",
        description="; ".join(f"{stage} {words.seconds(spent)}" for stage, spent in stages),
    )


def _timed(stages: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for stage, value in stages.items():
        spent = words.number(value)
        if spent is not None:
            yield stage, spent
