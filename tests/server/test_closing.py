"""The end of a run: hospitals examine the adapter once, and everything can be done again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from federation.errors import StoreError
from federation.plan import parse_plan
from federation.trust.keys import SigningKey
from federation.trust.translog import TransLog
from server import desk, rounds, runs
from server.checkpoint import Checkpoints
from server.closing import EXAMINED, close, examine
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.vectors import vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
POLICY = Policy(epsilon_max=50.0, approve="matching", quorum_min=1)
PLAN = parse_plan("""
[run]
name = "closing"
rounds = 2
quorum = 2
[model]
path = "none"
[training]
local_steps = 1
sampling_rate = 0.5
[privacy]
noise_multiplier = 8.0
[aggregation]
secure = false
max_update_rms = 1e6
[evaluation]
held_out_share = 0.25
bootstrap = 60
private_epsilon = 2.0
questions = [["Is there an effusion?", "Yes.", "No."]]
""")


class Counting:
    """A Link that counts what is asked through it, and may have lost a site."""

    def __init__(self, link):
        self.link, self.asked, self.away = link, [], set()

    def site_ids(self):
        return tuple(site for site in self.link.site_ids() if site not in self.away)

    def ask(self, questions, *, deadline_s):
        self.asked += [question.kind for question in questions]
        return self.link.ask(questions, deadline_s=deadline_s)


@pytest.fixture
def ended(tmp_path):
    """Three hospitals of 300 vectors, and a run whose rounds are all committed."""
    sites = {}
    for number, name in enumerate(("east", "north", "west")):
        patients = np.random.default_rng(number).standard_normal((300, 12)).astype(np.float32)
        sites[name] = vector_site(name, tmp_path / name, patients, shapes=SHAPES, policy=POLICY, declared_patients=300)
    link = Counting(LocalLink(sites))
    folder = runs.create(tmp_path / "runs", PLAN, SeededKeys(0))
    result = rounds.run(PLAN, link, Checkpoints.open(folder.run))
    key = SigningKey.create(tmp_path / "log.key")
    with TransLog.open(tmp_path / "log", "demo/closing", key) as log:
        yield sites, link, folder, result, log
    for site in sites.values():
        site.ledger.close()


def test_the_report_of_a_deployment_has_what_the_hospitals_say_with_noise(ended):
    sites, link, folder, result, log = ended

    close(folder, PLAN, result, examine(folder, PLAN, link, result), log)

    told = json.loads((folder.path / "report.json").read_text())
    private = told["evaluation"]["private"]
    low, high = private["macro"]["auroc"]["ci95"]
    assert sorted(private["sites"]) == ["east", "north", "west"] and low < private["macro"]["auroc"]["value"] <= high
    assert [one["kind"] for one in told["sites"]["east"]["left"]] == ["consent", "update"] * 2 + ["evaluation"]
    page = (folder.path / "report.html").read_text()
    assert "No hospital was evaluated" not in page and 'without noise; <a href="#private">' in page
    assert "What the hospitals say" in page and "3 of 3 hospitals examined the federated adapter" in page
    assert "from the hospitals’ noisy answers" in page and "not evaluated" not in page.split("</header>")[0]
    assert "exact (simulation only)" not in page
    [released] = log.of_type("release")
    assert f"run/{EXAMINED}" in released["files"]


def test_a_run_that_is_taken_up_again_asks_nobody_twice_and_reports_the_same_bytes(ended):
    sites, link, folder, result, log = ended
    close(folder, PLAN, result, examine(folder, PLAN, link, result), log)
    first = {name: (folder.path / name).read_bytes() for name in ("run/evaluation.json", "report.html")}
    link.away = set(sites)  # nobody could answer now

    close(folder, PLAN, result, examine(folder, PLAN, link, result), log)

    assert {name: (folder.path / name).read_bytes() for name in first} == first
    assert link.asked.count("evaluate") == 3
    assert [len(site.ledger.spends()) for site in sites.values()] == [3, 3, 3]
    assert [event["event"] for _, event in folder.events()].count("evaluation") == 1


def test_a_crash_before_the_answers_are_kept_costs_no_site_a_second_time(ended):
    sites, link, folder, result, log = ended
    examined = examine(folder, PLAN, link, result)
    (folder.run / EXAMINED).unlink()

    assert examine(folder, PLAN, link, result) == examined
    assert [len(site.ledger.spends()) for site in sites.values()] == [3, 3, 3]


def test_a_site_that_is_away_or_says_no_is_named_with_its_reason(ended):
    sites, link, folder, result, log = ended
    link.away = {"west"}
    sites["east"].policy = replace(POLICY, epsilon_max=0.01)

    examined = examine(folder, PLAN, link, result)
    close(folder, PLAN, result, examined, log)

    assert examined.left_out == {"east": ("budget_exhausted",), "west": ("no-answer",)}
    assert "west</bdi> is left out: no-answer" in (folder.path / "report.html").read_text()
    [event] = [event for _, event in folder.events() if event["event"] == "evaluation"]
    assert runs.evaluation_line(event) == (
        "evaluation  sites 1/3  left out east: budget_exhausted  left out west: no-answer"
    )


def test_kept_answers_that_were_altered_are_refused(ended):
    sites, link, folder, result, log = ended
    examine(folder, PLAN, link, result)
    path = folder.run / EXAMINED
    path.write_bytes(path.read_bytes().replace(b'"left_out":{}', b'"left_out":{"x":"y"}'))

    with pytest.raises(StoreError, match="altered"):
        examine(folder, PLAN, link, result)


def test_a_plan_without_a_price_asks_nobody_and_the_report_claims_nothing(ended):
    sites, link, folder, result, log = ended
    plan = replace(PLAN, evaluation=replace(PLAN.evaluation, private_epsilon=None))

    close(folder, plan, result, examine(folder, plan, link, result), log)

    assert "evaluate" not in link.asked and not (folder.run / EXAMINED).exists()
    assert "The federated adapter was not evaluated" in (folder.path / "report.html").read_text()


def test_check_says_what_an_evaluation_will_cost(tmp_path):
    plan = replace(PLAN, evaluation=replace(PLAN.evaluation, validation_epsilon=3.0))
    lines = desk.check_lines(plan, tmp_path, [300])

    assert any(line.startswith("examined") and "epsilon 2, once" in line for line in lines)
    assert any(line.startswith("looked at") and "epsilon 3 for all rounds together" in line for line in lines)


def test_check_says_on_whom_an_epsilon_rests_where_the_noise_is_shared(tmp_path):
    sharing = replace(PLAN.privacy, noise="shared", honest_sites=4)
    told = [desk.check_lines(replace(PLAN, privacy=privacy), tmp_path, [300]) for privacy in (PLAN.privacy, sharing)]

    assert [any("rests on 4 sites" in line for line in lines) for lines in told] == [False, True]
