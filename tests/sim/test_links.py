"""The in-process Link: the order of the questions, and bytes that could have travelled."""

import numpy as np
import pytest

from client.policy import Policy
from federation import messages
from federation.consent import PROTOCOL
from federation.messages import Question
from federation.plan import parse_plan
from sim.links import LocalLink
from sim.vectors import vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
PLAN = parse_plan(
    '[run]\nname = "demo"\nrounds = 1\n[model]\npath = "base"\n[privacy]\nunit = "none"\n[aggregation]\nsecure = false'
)
POLICY = Policy(epsilon_max=1.0, approve="matching", allow_without_privacy=True)


@pytest.fixture
def link(tmp_path):
    patients = np.zeros((3, 12), np.float32)
    sites = {
        name: vector_site(name, tmp_path / name, patients, shapes=SHAPES, policy=POLICY)
        for name in ("site-b", "site-a")
    }
    yield LocalLink(sites)
    for site in sites.values():
        site.ledger.close()


def question(site_id: str) -> Question:
    body = {"plan": PLAN.value(), "protocol": PROTOCOL, "quorum": 2}
    return Question("consent", "run", 1, site_id, PLAN.digest(), body)


def test_answers_come_in_the_order_of_the_questions_and_unknown_sites_are_silent(link):
    asked = [question(site_id) for site_id in ("site-a", "site-z", "site-b", "site-a")]

    assert [answer.site_id for answer in link.ask(asked, deadline_s=1)] == ["site-a", "site-b", "site-a"]


def test_an_answer_is_asked_for_only_when_it_is_wanted(link):
    answers = link.ask([question("site-a"), question("site-b")], deadline_s=1)
    next(answers)

    assert [site.site_id for site in link._sites.values() if site._runs] == ["site-a"]


def test_what_crosses_could_have_travelled_as_bytes(link):
    for answer in link.ask([question("site-a")], deadline_s=1):
        assert messages.load(messages.dump(answer)) == answer
