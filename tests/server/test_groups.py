"""Masked sums in groups: each is opened by itself, and a wrong one is left out without the others."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import canonical
from federation.adapter import initial_adapter
from federation.plan import parse_plan
from federation.secagg import transcript
from server.groups import groups_of
from server.start import seed_of
from sim.vectors import POLICY, SHAPES, patients_of

NAMES = tuple(f"site-{letter}" for letter in "abcdefghijkl")  # two groups of six
FIRST, SECOND = NAMES[:6], NAMES[6:]
DECLARED = {name: 100 + 50 * number for number, name in enumerate(NAMES)}
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 2
quorum = 5
[model]
path = "base"
[training]
local_steps = 1
sampling_rate = 0.5
learning_rate = 0.5
optimizer = "sgd"
[privacy]
unit = "none"
[aggregation]
secure = true
group_size = 5
ring_bits = 32
robust = "none"
weights = "declared-patients"
max_update_rms = 100.0
""")
NOISY = replace(PLAN, privacy=replace(PLAN.privacy, unit="patient", noise_multiplier=0.5),
                training=replace(PLAN.training, optimizer="adam"),  # whose first ring is as wide as any update
                aggregation=replace(PLAN.aggregation, max_update_rms=1e6))  # fmt: skip


@given(st.integers(1, 130), st.integers(5, 128))
def test_groups_have_every_site_once_and_their_size_and_do_not_depend_on_the_order(count, size):
    sites = [f"site-{number:03}" for number in range(count)]
    groups = groups_of(sites[::-1], size)
    sizes = [len(group) for group in groups]

    assert [site for group in groups for site in group] == sites
    assert max(sizes) - min(sizes) <= 1 and (min(sizes) >= size or len(groups) == 1)
    assert groups_of(sites, 0) == (tuple(sites),)


def test_each_group_is_opened_by_itself_and_all_sites_make_the_mean(federation):
    whole = federation()
    result = whole.run()
    first = result.rounds[0]
    point = initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(PLAN)).flatten().astype("f8")
    for _ in range(2):
        total = 0.0
        for group in (FIRST, SECOND):
            within = np.array([DECLARED[name] for name in group])
            moved = np.stack([0.5 * (patients_of(name).mean(0) - point) for name in group])
            mean = (within[:, None] * moved).sum(0) / within.sum()
            total = total + sum(first.weights[name] for name in group) * mean
        point = point + total / sum(first.weights.values())

    assert first.accepted == NAMES and not first.failures
    np.testing.assert_allclose(result.adapter.flatten(), point, atol=2e-3)  # weights are rounded to 1 … 255
    kept = sorted(path.name for path in (whole.folder / "run" / "masked").glob("*.json"))
    assert kept == ["00001-001.json", "00001-002.json", "00002-001.json", "00002-002.json"]


def test_every_groups_transcript_gives_its_own_mean_again(federation):
    whole = federation()
    whole.run()
    folder = whole.folder / "run" / "masked"
    for number, group in enumerate((FIRST, SECOND), start=1):
        told = canonical.load((folder / f"00002-{number:03}.json").read_bytes())
        found = transcript.recompute(
            told, whole.roster, lambda site: (folder / "vectors" / f"{site}.vector").read_bytes()
        )
        assert found.survivors == group and set(told["encoding"]["weights"]) == set(group)


@pytest.mark.parametrize("stage", ["ready", "masked", "unmask"])
def test_a_group_can_lose_a_site_and_not_two(federation, stage):
    one = federation(name="one", faults=[f"site-b=drop-{stage}@1"]).run().rounds[0]
    two = federation(name="two", faults=[f"site-b=drop-{stage}@1", f"site-c=drop-{stage}@1"]).run().rounds[0]
    counted = stage == "unmask"  # their vectors are in the sum

    assert one.accepted == tuple(name for name in NAMES if counted or name != "site-b")
    assert two.accepted == (NAMES if counted else SECOND)
    assert counted or {two.failures[name] for name in FIRST if name not in ("site-b", "site-c")} <= {
        "secagg-roster-too-small", "secagg-survivors-too-few"}  # fmt: skip


def test_a_site_that_does_not_train_moves_no_other_into_a_new_group(federation):
    result = federation(faults=["site-b=drop@1", "site-c=drop@1"]).run()

    assert result.rounds[0].accepted == SECOND  # four are left of the first group, and nobody asks them for a sum
    assert {result.rounds[0].failures[name] for name in ("site-a", "site-d")} == {"secagg-roster-too-small"}
    assert result.rounds[1].accepted == NAMES


def test_a_tenfold_update_turned_round_takes_its_group_out_and_the_others_go_on(federation):
    whole = federation(NOISY)
    update = whole.sites["site-b"].learner.update
    whole.sites["site-b"].learner.update = lambda *given: update(*given).scale(-1e5)
    record = whole.run().rounds[0]

    assert record.accepted == SECOND and record.outcome == "accepted"
    assert {record.failures[name] for name in FIRST} == {"gate-bound"}
    assert max(record.masked.rms.values()) < 1  # what was rejected makes no bounds


def test_if_every_group_is_out_the_round_is_closed_and_the_adapter_stays(federation):
    whole = federation(NOISY)
    for name in ("site-b", "site-k"):
        update = whole.sites[name].learner.update
        whole.sites[name].learner.update = lambda *given, update=update: update(*given).scale(-1e5)
    result = whole.run()

    assert [(record.outcome, record.closed) for record in result.rounds] == [("masked-closed", "gate-bound")] * 2
    assert not any(record.accepted for record in result.rounds)


def test_median_norm_is_the_rule_for_groups_unless_the_plan_says_otherwise(federation):
    plan = replace(PLAN, aggregation=replace(PLAN.aggregation, robust=None))
    whole = federation(plan)
    for name in FIRST:  # the whole first group is ten times as long; without privacy no bound sees that
        update = whole.sites[name].learner.update
        whole.sites[name].learner.update = lambda *given, update=update: update(*given).scale(10.0)
    plain = federation(name="plain")
    for name in FIRST:
        update = plain.sites[name].learner.update
        plain.sites[name].learner.update = lambda *given, update=update: update(*given).scale(10.0)

    assert plan.aggregation.robust_rule == "median-norm"
    assert whole.run().rounds[0].update_rms < 0.75 * plain.run().rounds[0].update_rms


def test_a_hospital_that_wants_more_sites_in_a_sum_than_a_group_has_refuses(federation):
    strict = replace(POLICY, quorum_min=6)
    plan = replace(PLAN, run=replace(PLAN.run, quorum=6))
    record = federation(plan, policies={"site-a": strict}).run().rounds[0]

    assert record.refusals == {"site-a": ("quorum_too_small",)}
