"""A masked run through Flower's engine is the in-process one, bit for bit. Real sites, vectors as patients.

Flower's side runs in a process of its own that starts with nothing imported: this file as a program.
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

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
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, env=environment)

    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == told(local)


def told(result):
    sent = [message.sha256 for record in result.rounds for message in record.messages]
    return [result.adapter.digest(), [list(record.accepted) for record in result.rounds], sent]


if __name__ == "__main__":
    place = Path(sys.argv[1]) / "flower"
    print(json.dumps(told(run_with_flower(lambda link: run(link, place), openers(place)))))
