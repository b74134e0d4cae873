"""A masked run through Flower's engine is the in-process one, bit for bit. Real sites, vectors as patients."""

from functools import partial

import numpy as np
import pytest

from client.policy import Policy
from federation.plan import parse_plan
from server import rounds
from server.checkpoint import Checkpoints
from sim.flower_engine import run_with_flower
from sim.links import LocalLink
from sim.vectors import roster_of, vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
NAMES = ("north", "south", "west")
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 2
[model]
path = "base"
[privacy]
noise_multiplier = 2.0
[aggregation]
max_update_rms = 100.0
""")


def openers(folder):
    policy = Policy(epsilon_max=50.0, approve="matching")
    return {
        name: partial(
            vector_site, name, folder / name, np.full((20, 12), number, np.float32), shapes=SHAPES, policy=policy,
            roster=roster_of(NAMES),
        )
        for number, name in enumerate(NAMES)
    }  # fmt: skip


def run(link, folder):
    checkpoints = Checkpoints.create(folder / "run", run_id="run-1", plan=PLAN)
    return rounds.run(PLAN, link, checkpoints, roster=roster_of(NAMES))


@pytest.mark.slow
def test_a_masked_run_through_flower_is_the_in_process_one_to_the_bit(tmp_path):
    sites = {name: opened() for name, opened in openers(tmp_path / "local").items()}
    local = run(LocalLink(sites), tmp_path / "local")
    for site in sites.values():
        site.ledger.close()
    carried = run_with_flower(lambda link: run(link, tmp_path / "flower"), openers(tmp_path / "flower"))

    assert [record.accepted for record in carried.rounds] == [NAMES, NAMES]
    assert carried.adapter.digest() == local.adapter.digest()
    assert [m.sha256 for m in carried.rounds[1].messages] == [m.sha256 for m in local.rounds[1].messages]
