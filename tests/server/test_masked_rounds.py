"""Whole runs under masks, with real sites: the mean of the survivors, whoever drops out, and whatever restarts."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from federation import canonical, codec
from federation.adapter import AdapterUpdate, initial_adapter
from federation.errors import QuorumError
from federation.plan import parse_plan
from federation.secagg import transcript
from federation.secagg.bodies import Identity
from federation.trust.keys import SigningKey
from server import rounds
from server.checkpoint import Checkpoints
from server.start import seed_of
from sim.links import LocalLink
from sim.vectors import POLICY, SHAPES, patients_of, signing_key, vector_site

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
quorum = 3
[model]
path = "base"
[training]
local_steps = 2
learning_rate = 0.5
[privacy]
unit = "none"
[aggregation]
secure = true
weights = "declared-patients"
max_update_rms = 4.0
""")
IN_THE_CLEAR = replace(PLAN, aggregation=replace(PLAN.aggregation, secure=False))
NOISY = replace(
    PLAN,
    privacy=replace(PLAN.privacy, unit="patient", noise_multiplier=2.0),
    aggregation=replace(PLAN.aggregation, max_update_rms=100.0),
)
DECLARED = {"site-a": 100, "site-b": 200, "site-c": 300, "site-d": 250, "site-e": 150}


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_the_first_round_takes_32_bits_and_then_the_plans(federation, bits):
    masked = federation(replace(PLAN, aggregation=replace(PLAN.aggregation, ring_bits=bits)), "masked").run()
    first = [record.masked for record in masked.rounds]

    assert [record.bits for record in first] == [32, bits, bits]
    assert all(record.accepted == tuple(DECLARED) for record in masked.rounds)
    assert all(bits == 8 or record.masked.clipped == 0 for record in masked.rounds)  # 12 numbers are no bell curve
    assert not any(record.masked.suspects for record in masked.rounds)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_where_noise_and_steps_say_how_large_an_update_can_be_the_first_round_takes_16(federation, bits):
    sgd = replace(NOISY, training=replace(NOISY.training, optimizer="sgd"))
    adam = replace(NOISY, training=replace(NOISY.training, optimizer="adam"))
    taken = [
        [record.masked.bits for record in federation(
            replace(plan, aggregation=replace(plan.aggregation, ring_bits=bits)), name).run().rounds]
        for plan, name in ((sgd, "sgd"), (adam, "adam"))
    ]  # fmt: skip

    assert taken == [[max(16, bits), bits, bits], [32, bits, bits]]


def test_with_many_sites_eight_bits_become_sixteen(federation):
    many = {f"site-{chr(97 + number)}": 100 for number in range(13)}
    plan = replace(PLAN, run=replace(PLAN.run, rounds=2), aggregation=replace(PLAN.aggregation, ring_bits=8))
    result = federation(plan, declared=many).run()

    assert [record.masked.bits for record in result.rounds] == [32, 16]


@pytest.mark.parametrize("bits, error", [(8, 0.3), (16, 2e-3), (32, 1e-6)])
def test_the_mean_is_the_weighted_mean_by_hand(federation, bits, error):
    plan = replace(PLAN, aggregation=replace(PLAN.aggregation, ring_bits=bits))
    result = federation(plan).run()
    point = initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(plan)).flatten().astype("f8")
    weights = result.rounds[0].weights
    for _ in range(3):
        moved = {site: 0.75 * (patients_of(site).mean(0) - point) for site in DECLARED}
        point += sum(weights[site] * moved[site] for site in DECLARED) / sum(weights.values())

    np.testing.assert_allclose(result.adapter.flatten(), point, atol=error)


def test_equal_runs_give_equal_bytes(federation):
    first, second = federation(NOISY, "first").run(), federation(NOISY, "second").run()

    assert first.adapter.digest() == second.adapter.digest()
    assert [m.sha256 for m in first.rounds[2].messages] == [m.sha256 for m in second.rounds[2].messages]


@pytest.mark.parametrize("stage", ["ready", "shares", "masked", "agree", "unmask"])
def test_a_dropout_at_any_stage_is_repaired_and_the_site_joins_the_next_round(federation, stage):
    result = federation(PLAN, faults=[f"site-b=drop-{stage}@2"]).run()
    second = result.rounds[1]
    counted = stage in ("agree", "unmask")  # its vector is in the sum

    assert second.failures == {"site-b": "no-answer"} and not second.closed
    assert ("site-b" in second.accepted) == counted and len(second.accepted) == 4 + counted
    assert result.rounds[2].accepted == tuple(DECLARED)


@pytest.mark.parametrize("stage", ["shares", "masked", "agree", "unmask"])
def test_too_many_dropouts_close_the_round_without_a_result_and_the_next_one_begins(federation, stage):
    whole = federation(NOISY, faults=[f"site-{site}=drop-{stage}@2" for site in "bcd"])
    result = whole.run()
    second = result.rounds[1]

    assert second.closed.startswith("secagg-") and second.accepted == () and second.masked is None
    assert second.adapter_digest == result.rounds[0].adapter_digest
    assert result.rounds[2].accepted == tuple(DECLARED)
    assert all(len(site.ledger.spends()) == 3 for site in whole.sites.values()), "privacy stays spent"


def test_an_altered_vector_is_refused_and_its_site_named(federation):
    result = federation(PLAN, faults=["site-c=corrupt@2"]).run()

    assert result.rounds[1].failures == {"site-c": "secagg-digest-mismatch"}
    assert result.rounds[1].accepted == ("site-a", "site-b", "site-d", "site-e")


@pytest.mark.parametrize(
    "kind, code", [("nan", "update-not-finite"), ("drop", "no-answer"), ("stale", "message-context")]
)
def test_a_site_that_fails_in_training_is_not_in_the_masked_round(federation, kind, code):
    result = federation(PLAN, faults=[f"site-b={kind}@2"]).run()

    assert result.rounds[1].failures == {"site-b": code} and len(result.rounds[1].accepted) == 4


def test_three_sites_are_enough_and_two_are_refused_before_anybody_is_asked(federation):
    three = {site: DECLARED[site] for site in ("site-a", "site-b", "site-c")}
    result = federation(PLAN, "three", declared=three).run()
    two = federation(replace(PLAN, run=replace(PLAN.run, quorum=0)), "two", declared={"site-a": 1, "site-b": 1})
    with pytest.raises(QuorumError) as caught:
        two.run()

    assert all(len(record.accepted) == 3 for record in result.rounds)
    assert caught.value.code == "secagg-roster-too-small" and "secure = false" in caught.value.hint
    assert all(site.learner.updates == 0 for site in two.sites.values())


def test_with_three_sites_one_dropout_closes_the_round(federation):
    three = {site: DECLARED[site] for site in ("site-a", "site-b", "site-c")}
    result = federation(PLAN, declared=three, faults=["site-b=drop-masked@2"]).run()

    assert result.rounds[1].closed == "secagg-survivors-too-few" and result.rounds[2].accepted == tuple(three)


def test_a_site_without_a_roster_refuses_and_one_that_requires_masks_refuses_plans_without(federation):
    strict = {site: replace(POLICY, secure_required=True) for site in DECLARED}
    with pytest.raises(QuorumError, match="secure_required"):
        federation(IN_THE_CLEAR, "clear", policies=strict).run()
    without = federation(PLAN, "without")
    without.sites["site-b"].masking = None

    assert federation(PLAN, "masked", policies=strict).run().rounds[0].accepted == tuple(DECLARED)
    assert without.run().rounds[0].refusals == {"site-b": ("roster_absent",)}


def test_a_site_can_demand_more_survivors_than_the_coordinator_has(federation):
    """`quorum_min` is the site's own number; what the coordinator says at consent does not bind it."""
    careful = {"site-a": replace(POLICY, quorum_min=3)}
    whole = federation(PLAN, policies=careful, faults=["site-b=drop-masked@2"])
    whole.sites["site-a"].policy = replace(POLICY, quorum_min=5)
    asked = whole.sites["site-a"]._decide
    whole.sites["site-a"]._decide = lambda question, run: asked(question, replace(run, quorum=5))
    result = whole.run()

    assert result.rounds[1].failures["site-a"] == "secagg-survivors-too-few"


def test_a_roster_that_changes_between_rounds_counts_at_once_and_no_site_has_to_start_again(tmp_path):
    """North takes a new key, a fourth site comes; all of them are told by what they ask at every round."""
    names = ["site-a", "site-b", "site-c"]
    keys = {site: signing_key(site) for site in (*names, "site-d")}

    def identity(site):
        return Identity(site, keys[site], {name: keys[name].public.raw for name in names})

    sites = {
        site: vector_site(
            site, tmp_path / site, np.full((20, 12), number, np.float32), shapes=SHAPES, policy=POLICY,
            identity=partial(identity, site),
        )
        for number, site in enumerate(keys)
    }  # fmt: skip
    checkpoints = Checkpoints.create(tmp_path / "run", run_id="run-1", plan=PLAN)

    def leave(record, adapter):
        raise Stopped

    for change in (
        lambda: None,
        lambda: keys.update({"site-a": SigningKey.from_seed(bytes([7]) * 32)}),
        lambda: names.append("site-d"),
    ):
        change()
        link = LocalLink({name: sites[name] for name in names})
        with pytest.raises(Stopped):
            rounds.run(PLAN, link, checkpoints, roster=identity("site-a").roster, observer=leave)
    for site in sites.values():
        site.ledger.close()

    accepted = [record.accepted for record in checkpoints.last().records]
    assert accepted == [("site-a", "site-b", "site-c")] * 2 + [("site-a", "site-b", "site-c", "site-d")]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stage", ["train", "ready", "shares", "masked", "agree", "unmask"])
def test_a_coordinator_killed_at_any_stage_goes_on_to_the_same_adapter(federation, stage):
    whole = federation(NOISY, "whole").run()
    killed = federation(NOISY, "killed")

    class Dying:
        site_ids = killed.link.site_ids

        def ask(self, questions, *, deadline_s):
            for answer in killed.link.ask(questions, deadline_s=deadline_s):
                yield answer
                if questions[0].kind == stage and questions[0].round_number == 2 and answer.site_id == "site-c":
                    raise Stopped

    with pytest.raises(Stopped):
        killed.run(link=Dying())
    resumed = killed.run()

    assert resumed.adapter.digest() == whole.adapter.digest()
    assert {site.learner.updates for site in killed.sites.values()} == {3}


@pytest.mark.parametrize("stage", ["ready", "shares", "masked", "agree", "unmask"])
def test_a_site_that_restarts_in_a_masked_round_is_a_dropout_of_that_round_only(federation, stage):
    whole = federation(NOISY)
    ask = whole.link.ask

    def restarting(questions, *, deadline_s):
        if questions[0].kind == stage and questions[0].round_number == 2:
            whole.restart("site-b")
            yield from LocalLink(whole.sites).ask(questions, deadline_s=deadline_s)
        elif questions[0].kind in ("ready", "shares", "masked", "agree", "unmask"):
            yield from LocalLink(whole.sites).ask(questions, deadline_s=deadline_s)
        else:
            yield from (ask if questions[0].round_number < 2 else LocalLink(whole.sites).ask)(
                questions, deadline_s=deadline_s
            )

    whole.link.ask = restarting
    result = whole.run()
    second = result.rounds[1]

    if stage == "ready":  # the update was on disk, and nothing secret had been shown
        assert second.accepted == tuple(DECLARED)
    else:
        assert second.failures == {"site-b": "secagg-closed"} and not second.closed
    assert result.rounds[2].accepted == tuple(DECLARED)
    assert len(whole.sites["site-b"].ledger.spends()) == 3


def test_the_kept_transcript_and_vectors_give_the_last_mean_again_and_only_the_last_vectors_are_kept(federation):
    whole = federation(NOISY, faults=["site-b=drop-masked@3"])
    whole.run()
    folder = whole.folder / "run" / "masked"
    told = canonical.load((folder / "00003.json").read_bytes())
    found = transcript.recompute(told, whole.roster, lambda site: (folder / "vectors" / f"{site}.vector").read_bytes())

    assert found.decoded.mean.digest() == told["result"] and found.survivors == ("site-a", "site-c", "site-d", "site-e")
    assert {path.name for path in folder.iterdir()} == {"00001.json", "00002.json", "00003.json", "vectors"}
    assert len(list((folder / "vectors").iterdir())) == 4


def test_clipped_coordinates_are_counted_and_widen_the_next_bounds(federation):
    whole = federation(PLAN)
    # from round 2 on this site's updates are far larger than anything the bounds were made from
    learner = whole.sites["site-e"].learner
    update = learner.update
    learner.update = lambda *given: codec.load_as(
        AdapterUpdate, codec.dump(update(*given).scale(3.0 if learner.updates > 1 else 1e-3))
    )
    for site in ("site-a", "site-b", "site-c", "site-d"):
        other = whole.sites[site].learner
        true = other.update
        other.update = lambda *given, true=true: true(*given).scale(1e-3)
    result = whole.run()
    counted = [record.masked.clipped for record in result.rounds]

    assert counted[0] == 0 and counted[1] > 0
    assert [record.masked.widen for record in result.rounds] == [1, 2, 2] or result.rounds[2].masked.widen == 4
