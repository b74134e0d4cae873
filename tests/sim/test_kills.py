"""The exercise of random kills, in short. docs/faults.md has the figures of a long one."""

import pytest

from federation.plan import parse_plan
from sim import kills


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("plan", [kills.PLAN.replace("rounds = 100", "rounds = 6")])
def test_whatever_is_killed_at_random_every_round_is_decided_and_every_charge_is_there_once(tmp_path, plan):
    told = kills.run(tmp_path, parse_plan(plan), seed=3)

    assert told["state"] == "finished" and told["decided"] == 6
    assert told["charged_twice"] == told["released_without_charge"] == 0
    assert told["evidence"] == "verifies"
