"""A run's folder as people and processes see it."""

import json

import pytest

from federation.errors import CarrierError
from federation.plan import parse_plan
from server import cost, desk, runs
from sim.keys import SeededKeys

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 4
[model]
path = "base"
[training]
local_steps = 2
[privacy]
target_epsilon = 4.0
""")


@pytest.fixture
def home(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path


def test_a_run_is_found_by_its_name_and_by_nothing_else(home):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))

    assert runs.find(home / "runs", made.run_id).run_id == made.run_id
    for name in ("other-run", "../runs/" + made.run_id, "", ".", "/etc", made.run_id + "/run"):
        with pytest.raises(CarrierError, match="no such run"):
            runs.find(home / "runs", name)


def test_how_a_run_stands_survives_and_is_told_once(home):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))
    made.stand("running", flower_run=7)
    made.stand("waiting", "1 of 3 sites")
    made.stand("waiting", "1 of 3 sites")

    standing = runs.find(home / "runs", made.run_id).standing()
    assert (standing.state, standing.detail, standing.flower_run) == ("waiting", "1 of 3 sites", 7)
    assert [event["state"] for _, event in made.events()] == ["running", "waiting"]


def test_a_state_that_cannot_be_read_is_a_failed_run_not_a_crash(home):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))
    (made.path / "state.json").write_bytes(b"{")

    assert made.standing().state == "failed"


def test_events_are_read_in_whole_lines_from_where_one_stopped(home):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))
    made.stand("running")
    [(at, _)] = made.events()
    made.stand("finished")
    with (made.path / "progress.jsonl").open("ab") as file:
        file.write(b'{"half')
    assert [event["state"] for _, event in made.events(at)] == ["finished"]

    with (made.path / "progress.jsonl").open("ab") as file:  # the power came back, and the next event was written
        file.write(b'{"event": "state"}\n')
    made.stand("queued")
    assert [event["state"] for _, event in made.events(at)] == ["finished", "queued"]


def test_following_a_run_tells_what_happens_until_it_is_over(home):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))
    steps = iter([lambda: made.stand("running"), lambda: made.stand("stopped", "stopped by a person")])

    told = list(desk.follow(made, pause=lambda seconds: next(steps)()))

    assert told == [f"{made.run_id}: queued", "running", "stopped: stopped by a person"]


def test_without_a_serving_coordinator_a_command_says_so_and_leaves_no_run(home):
    with pytest.raises(CarrierError, match="does not serve"):
        desk.launch(home, PLAN, SeededKeys(0))

    assert desk.status(home) == {"serving": None, "runs": []}


def test_an_unfinished_run_is_not_exported(home, tmp_path):
    made = runs.create(home / "runs", PLAN, SeededKeys(0))

    with pytest.raises(CarrierError, match="no adapter yet"):
        desk.export(home, made.run_id, tmp_path / "out")


def test_bytes_are_those_of_the_layers_that_the_targets_name(tmp_path):
    shapes = {
        "model.layers.0.self_attn.q_proj.weight": [8, 4],
        "model.layers.0.feed_forward.experts.gate_up_proj": [2, 4, 8],
        "model.layers.0.feed_forward.router.weight": [2, 4],
        "model.layers.0.feed_forward.shared_expert.up_proj.weight": [16, 4],
        "vision_model.model.layers.0.self_attn.q_proj.weight": [8, 8],
    }
    header = json.dumps({name: {"shape": shape} for name, shape in shapes.items()}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)

    size = cost.wire_bytes(PLAN, tmp_path)

    rank = PLAN.adapter.rank
    assert size is not None
    assert size.down == size.up == 4 * rank * ((8 + 4) + (16 + 4))
    assert cost.wire_bytes(PLAN, tmp_path / "nowhere") is None


def test_a_plan_costs_what_its_target_says_or_is_refused():
    [one] = cost.site_costs(PLAN, [3000])

    assert one.epsilon is not None and 3.9 < one.epsilon <= 4.0
    assert one.delta == 1 / 30000


def test_a_run_remembers_where_its_base_is_if_it_is_here(home, tmp_path):
    (tmp_path / "base").mkdir()
    without = runs.create(home / "runs", PLAN, SeededKeys(1), base=tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text("{}")
    with_base = runs.create(home / "runs", PLAN, SeededKeys(2), base=tmp_path / "base")

    assert without.base() is None and with_base.base() == (tmp_path / "base").resolve()
