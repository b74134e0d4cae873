"""A runner between two rounds: what leaves a run where it is, and what goes on with it."""

import threading

import numpy as np
import pytest

from client.policy import Policy
from federation.plan import parse_plan
from server import runs
from server.app import run_to_the_end
from server.trusted import LaterRoster
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.vectors import vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[privacy]
noise_multiplier = 4.0
[aggregation]
secure = false
max_update_rms = 100.0
""")


@pytest.fixture
def link(tmp_path):
    policy = Policy(epsilon_max=50.0, approve="matching", quorum_min=1)
    patients = np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    sites = {site: vector_site(site, tmp_path / site, patients, shapes=SHAPES, policy=policy) for site in ("a", "b")}
    yield LocalLink(sites)
    for site in sites.values():
        site.ledger.close()


def test_a_later_roster_leaves_the_run_after_a_whole_round_and_the_next_call_goes_on(link, tmp_path):
    folder = runs.create(tmp_path / "runs", PLAN, SeededKeys(0))
    versions = iter([1, 1, 2])  # before the run, after round 1, after round 2

    def between():
        if next(versions) == 2:
            raise LaterRoster(2)

    with pytest.raises(LaterRoster):
        run_to_the_end(folder, link, stopped=threading.Event(), between=between)
    assert folder.standing().state == "running" and len(folder.records()) == 2

    result, _ = run_to_the_end(folder, link, stopped=threading.Event())
    assert [record.accepted for record in result.rounds] == [("a", "b")] * 3
