"""What people do at a site's desk."""

import json

import pytest

from client import desk
from client.daemon import Daemon, OneThread
from client.policy import Policy
from federation.errors import CarrierError
from federation.plan import parse_plan

PLAN = parse_plan('[run]\nname = "demo"\nrounds = 1\n[model]\npath = "base"\n[privacy]\ntarget_epsilon = 3.0\n')


class Idle:
    site_id = "north"

    def answer(self, question):
        raise AssertionError("nobody asks")


def test_an_approval_is_of_one_plan_and_keeps_who_and_when(tmp_path):
    digest = desk.approve_plan(tmp_path, PLAN)

    assert (tmp_path / "state" / "approvals" / digest).exists()
    kept = json.loads((tmp_path / "state" / "approved" / f"{digest}.json").read_bytes())
    assert set(kept) == {"plan", "by", "when"} and kept["plan"] == PLAN.digest()


def test_with_a_daemon_the_approval_goes_through_it(tmp_path):
    heard = []
    daemon = Daemon(Idle(), tmp_path, None, thread=OneThread(), approve=lambda digest, by: heard.append(digest))
    daemon.start()
    try:
        assert desk.approve_plan(tmp_path, PLAN) == PLAN.digest() == heard[0]
        told = desk.status(tmp_path)
    finally:
        daemon.stop()

    assert desk.status_lines(told)[0].startswith("north: waiting for the coordinator since")
    with pytest.raises(CarrierError, match="does not run"):
        desk.status(tmp_path)


def test_the_policy_is_shown_rule_by_rule(tmp_path):
    lines = desk.policy_lines(Policy(epsilon_max=3.0))

    assert lines[0].split() == ["epsilon_max", "3.0"]
    assert any(line.split() == ["approve", "each-plan"] for line in lines)
    assert any(line.split()[:2] == ["secure_required", "no"] for line in lines)
