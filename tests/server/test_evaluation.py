"""The whole way of a private evaluation: real sites, a Link, the coordinator's figures."""

from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from federation.adapter import initial_adapter
from federation.consent import PROTOCOL
from federation.errors import FormatError
from federation.evaluation import evaluation_from
from federation.messages import Question
from federation.plan import parse_plan
from federation.privacy.histograms import Answers
from federation.privacy.ledger import epsilon_of
from server.evaluation import ask_evaluation, private_evaluation
from sim.links import LocalLink
from sim.vectors import vector_site

SHAPES = {"a.lora_A.weight": (2, 3), "a.lora_B.weight": (3, 2)}
PLAN = parse_plan(
    """
[run]
name = "examined"
rounds = 2
[model]
path = "none"
[training]
local_steps = 1
sampling_rate = 0.5
[privacy]
noise_multiplier = 8.0
[aggregation]
secure = false
[evaluation]
held_out_share = 0.25
bootstrap = 60
private_epsilon = 1.0
questions = [["Is there an effusion?", "Yes.", "No."]]
"""
)
POLICY = Policy(epsilon_max=5.0, approve="matching", quorum_min=1)
ADAPTER = initial_adapter(SHAPES, a_init="kaiming", seed=0)


class MadeAnswers:
    """An examiner whose patients answered by a seed."""

    def __init__(self, seed):
        self.seed, self.asked = seed, 0

    def examine(self, plan, adapter):
        self.asked += 1
        rng = np.random.default_rng(self.seed)
        positive = rng.random(300) < 0.5
        return [Answers(np.arange(300), rng.normal(size=300) + 1.2 * positive, positive)] * len(
            plan.evaluation.questions
        )


@pytest.fixture
def federation(tmp_path):
    sites = {}
    for number, name in enumerate(("east", "west")):
        patients = np.zeros((20, 12), dtype=np.float32)
        site = vector_site(name, tmp_path / name, patients, shapes=SHAPES, policy=POLICY, declared_patients=300)
        site.examiner = MadeAnswers(number)
        sites[name] = site
    yield sites, LocalLink(sites)
    for site in sites.values():
        site.ledger.close()


def consent(sites, plan=PLAN):
    body = {"plan": plan.value(), "protocol": PROTOCOL, "quorum": 2}
    for name, site in sites.items():
        assert site.answer(Question("consent", "run-1", 1, name, plan.digest(), body)).kind == "consent"


def test_every_site_is_asked_once_and_its_figures_come_with_intervals(federation):
    sites, link = federation
    consent(sites)
    examined = ask_evaluation(PLAN, link, "run-1", ADAPTER)

    told = private_evaluation(PLAN, examined, np.random.default_rng(0))

    assert sorted(told["sites"]) == ["east", "west"] and told["left_out"] == {}
    low, high = told["macro"]["auroc"]["ci95"]
    assert 0.7 < low < told["macro"]["auroc"]["value"] < high < 0.9


def test_an_evaluation_is_charged_to_the_held_out_patients_alone(federation):
    sites, link = federation
    consent(sites)
    ask_evaluation(PLAN, link, "run-1", ADAPTER)
    [spend] = sites["east"].ledger.spends()

    assert (spend.part, spend.round_number, spend.event.sampling_rate) == ((0.0, 0.25), 3, 1.0)
    assert epsilon_of([spend], spend.delta) == pytest.approx(1.0, abs=1e-3)
    assert epsilon_of([spend], spend.delta, whom=(spend.cohort_id, (0.25, 1.0))) == 0.0


def test_asked_again_a_site_sends_the_same_bytes_and_spends_nothing(federation):
    sites, link = federation
    consent(sites)
    first = ask_evaluation(PLAN, link, "run-1", ADAPTER)

    assert ask_evaluation(PLAN, link, "run-1", ADAPTER) == first
    assert [len(site.ledger.spends()) for site in sites.values()] == [1, 1]
    assert [site.examiner.asked for site in sites.values()] == [1, 1]


def test_a_site_that_has_no_budget_left_for_its_held_out_patients_refuses(federation):
    sites, link = federation
    sites["east"].policy = replace(POLICY, epsilon_max=0.5)
    sites["west"].policy = replace(POLICY, noise_multiplier_min=50.0)
    consent({"west": sites["west"]}, plan := replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=60.0)))
    consent({"east": sites["east"]}, plan)

    examined = ask_evaluation(plan, link, "run-1", ADAPTER)

    assert examined.left_out == {"east": ("budget_exhausted",)}
    assert examined.evaluations["west"].terms.noise_multiplier == 50.0
    assert sites["east"].ledger.spends() == ()


def test_without_consent_or_without_an_examiner_nobody_is_examined(federation):
    sites, link = federation
    assert ask_evaluation(PLAN, link, "run-1", ADAPTER).left_out == {
        "east": ("message-kind",),
        "west": ("message-kind",),
    }
    consent(sites)
    sites["east"].examiner = None

    assert list(ask_evaluation(PLAN, link, "run-1", ADAPTER).evaluations) == ["west"]


def test_a_plan_without_a_price_asks_nobody(federation):
    plan = replace(PLAN, evaluation=replace(PLAN.evaluation, private_epsilon=None))

    assert ask_evaluation(plan, federation[1], "run-1", ADAPTER).evaluations == {}


@pytest.mark.parametrize("change", ["more", "axis", "kind", "count"])
def test_an_evaluation_in_another_form_is_refused(federation, change):
    sites, link = federation
    consent(sites)
    body = ask_evaluation(PLAN, link, "run-1", ADAPTER).evaluations["east"].body()
    [one] = body["histograms"]
    assert evaluation_from(body, 1).body() == body
    match change:
        case "more":
            body["note"] = "x"
        case "axis":
            one["axis"] = [["1.0", "0.0", "0.0"]]
        case "kind":
            one["influence"] = "0.10"
        case "count":
            one["positive"] = one["positive"][1:]

    with pytest.raises(FormatError):
        evaluation_from(body, 1)
