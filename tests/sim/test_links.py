"""The in-process Link: the order of the questions, and bytes that could have travelled."""

from dataclasses import replace

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
def sites(tmp_path):
    patients = np.zeros((3, 12), np.float32)
    sites = {
        name: vector_site(name, tmp_path / name, patients, shapes=SHAPES, policy=POLICY)
        for name in ("site-b", "site-a")
    }
    yield sites
    for site in sites.values():
        site.ledger.close()


@pytest.fixture
def link(sites):
    return LocalLink(sites)


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


def test_sites_that_work_at_once_answer_the_same_in_the_same_order(sites, link):
    asked = [question(site_id) for site_id in ("site-a", "site-z", "site-b", "site-a", "site-b")]
    one_by_one = list(link.ask(asked, deadline_s=1))

    assert list(LocalLink(sites, at_once=2).ask(asked, deadline_s=1)) == one_by_one


def test_no_more_sites_are_asked_than_may_work_at_once(sites):
    names = ["site-a", "site-b", "site-c", "site-d", "site-e"]
    begun: list[str] = []

    class Noting:
        def answer(self, asked):
            begun.append(asked.site_id)
            return replace(sites["site-a"].answer(replace(asked, site_id="site-a")), site_id=asked.site_id)

    answers = LocalLink(dict.fromkeys(names, Noting()), at_once=2).ask([question(n) for n in names], deadline_s=1)
    next(answers)

    assert set(begun) <= set(names[:2])


def test_what_crosses_could_have_travelled_as_bytes(link):
    for answer in link.ask([question("site-a")], deadline_s=1):
        assert messages.load(messages.dump(answer)) == answer
