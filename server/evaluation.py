"""After the last round: ask every site what its held-out patients say about the adapter, and make figures of it.

The answers are noisy already; everything here is post-processing. Sites are asked once per run, and an answer that was
given is given again for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation import canonical, codec
from federation.adapter import Adapter
from federation.canonical import Value
from federation.consent import refusal_from
from federation.errors import FedError, FormatError, StoreError
from federation.evaluation import Evaluation, evaluation_from
from federation.messages import Answer, Link, Payload, Question, check_answers, size_bytes
from federation.plan import RunPlan
from server import private_figures
from server.record import SentMessage

VERSION = "wardround-examined/1"


@dataclass(frozen=True)
class Examined:
    """What the sites answered: evaluations, refusals with reasons, and failures with codes."""

    evaluations: Mapping[str, Evaluation]
    left_out: Mapping[str, tuple[str, ...]]
    sent: tuple[SentMessage, ...] = ()  # every answer, usable or not


def ask_evaluation(plan: RunPlan, link: Link, run_id: str, adapter: Adapter) -> Examined:
    """One question to every site, with the finished adapter. A plan without `private_epsilon` asks nobody."""
    if plan.evaluation.private_epsilon is None:
        return Examined({}, {})
    payload = Payload(codec.dump(adapter))
    questions = {
        site: Question("evaluate", run_id, plan.run.rounds + 1, site, plan.digest(), payload=payload)
        for site in sorted(link.site_ids())
    }
    given: dict[str, Evaluation] = {}
    left_out: dict[str, tuple[str, ...]] = dict.fromkeys(questions, ("no-answer",))
    sent = []
    for answer in link.ask(list(questions.values()), deadline_s=plan.run.deadline_s) if questions else ():
        sent.append(SentMessage(answer.site_id, answer.kind, size_bytes(answer), answer.digest()))
        asked = questions.get(answer.site_id)
        if asked is None or left_out.get(answer.site_id) != ("no-answer",):
            continue  # not asked, or answered already
        del left_out[answer.site_id]
        try:
            check_answers(asked, answer)
            if answer.kind == "refusal":
                left_out[answer.site_id] = tuple(refusal_from(answer.body).reasons)
            else:
                given[answer.site_id] = _evaluation(plan, answer)
        except FedError as error:
            left_out[answer.site_id] = (error.code,)
    return Examined(given, left_out, tuple(sent))


def private_evaluation(plan: RunPlan, examined: Examined, rng: np.random.Generator) -> dict[str, Any]:
    """The figures of each site, and of all: sites weigh by the precision of their own macro AUROC."""
    sites: dict[str, Any] = {}
    for site, evaluation in sorted(examined.evaluations.items()):
        named = dict(zip(map(title, plan.evaluation.questions), evaluation.histograms, strict=True))
        sites[site] = private_figures.figures(
            named,
            noise_multiplier=evaluation.terms.noise_multiplier,
            bootstrap=plan.evaluation.bootstrap,
            minimum_count=plan.evaluation.minimum_count,
            rng=rng,
        ) | {
            "epsilon": evaluation.terms.epsilon_after_round,
            "delta": evaluation.terms.delta,
            "noise_multiplier": evaluation.terms.noise_multiplier,
        }
    weights = [private_figures.precision(site["macro"]["auroc"]) for site in sites.values()]
    return {
        "epsilon_of_release": plan.evaluation.private_epsilon,
        "sites": sites,
        "weights": dict(zip(sites, weights, strict=True)),
        "macro": private_figures.over_sites(list(sites.values()), weights),
        "left_out": {site: list(reasons) for site, reasons in examined.left_out.items()},
    }


def dump(examined: Examined) -> bytes:
    """What the sites answered, to be kept beside the checkpoints. Spec: docs/spec/checkpoint-1.md."""
    sent: list[Value] = [
        {"site": one.site_id, "kind": one.kind, "bytes": one.size_bytes, "sha256": one.sha256} for one in examined.sent
    ]
    return canonical.dump(
        {
            "version": VERSION,
            "evaluations": {site: made.body() for site, made in examined.evaluations.items()},
            "left_out": {site: list(reasons) for site, reasons in examined.left_out.items()},
            "sent": sent,
        }
    )


def load(data: bytes, plan: RunPlan) -> Examined:
    """The opposite of `dump`. Raises: StoreError `checkpoint-damaged`."""
    try:
        match canonical.load(data):
            case {"version": version, "evaluations": dict(made), "left_out": dict(left_out), "sent": list(sent)} if (
                version == VERSION
            ):
                read = Examined(
                    {
                        site: evaluation_from(_table(body), len(plan.evaluation.questions))
                        for site, body in made.items()
                    },
                    {site: tuple(map(str, _list(reasons))) for site, reasons in left_out.items()},
                    tuple(_sent(one) for one in sent),
                )
                if dump(read) == data:
                    return read
    except FormatError:
        pass
    raise StoreError("checkpoint-damaged", "the evaluation of this run is altered", hint="restore the run's folder")


def title(asked: tuple[str, ...]) -> str:
    """A question with the answer that counts as positive, where there are more than two."""
    return asked[0] if len(asked) == 3 else f"{asked[0]} {asked[1]}"


def _evaluation(plan: RunPlan, answer: Answer) -> Evaluation:
    match answer:
        case Answer(kind="failure", body={"code": str(code)}):
            raise FormatError("message-kind", "a site could not examine its patients", hint=f"its code is {code}")
        case Answer(kind="evaluation", payload=None):
            return evaluation_from(answer.body, len(plan.evaluation.questions))
        case _:
            raise FormatError("message-kind", "an answer of another kind than was asked for", hint="compare versions")


def _sent(written: Value) -> SentMessage:
    match written:
        case {"site": str(site), "kind": str(kind), "bytes": int(size), "sha256": str(sha256)}:
            return SentMessage(site, kind, size, sha256)
    raise FormatError("not-canonical", "a message is not in its agreed form", hint="restore the run's folder")


def _table(written: Value) -> Mapping[str, Value]:
    return written if isinstance(written, dict) else {}


def _list(written: Value) -> list[Value]:
    return written if isinstance(written, list) else []
