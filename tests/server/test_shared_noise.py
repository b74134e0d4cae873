"""Whole runs in which the sites share the noise: real sites, ledgers, masks and gate; only the link is in process."""

import math
from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from federation import canonical
from federation.adapter import initial_adapter
from federation.consent import Consent, PrivacyTerms
from federation.errors import PlanError, QuorumError
from federation.plan import parse_plan
from federation.privacy.accounting import SharedNoise, epsilon
from federation.privacy.clipping import FlatClipping
from federation.privacy.grid import whole
from federation.privacy.keystream import KeyStream
from federation.privacy.noise import discrete_gaussian
from federation.secagg import transcript
from federation.secagg.server import ServerRound
from server import gate, masked_evidence, rounds
from server.checkpoint import Checkpoints
from server.masked_round import require_room
from server.start import seed_of
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.vectors import POLICY, SHAPES, patients_of

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 2
quorum = 6
[model]
path = "base"
[training]
local_steps = 1
sampling_rate = 1.0
learning_rate = 2.0
optimizer = "sgd"
[privacy]
noise = "shared"
honest_sites = 4
noise_multiplier = 2.0
delta = 1e-3
clipping = "flat"
clipping_norm = 0.5
[aggregation]
max_update_rms = 100.0
[evaluation]
held_out_share = 0.0
""")
DECLARED = {f"site-{letter}": 20 + number for number, letter in enumerate("abcdefgh")}
TRUSTING = replace(POLICY, honest_sites_max=4)
ALL = dict.fromkeys(DECLARED, TRUSTING)
UNITS = 2.0**10  # of a clipping norm: the grid of so small an adapter


ONE_ROUND = replace(PLAN, run=replace(PLAN.run, rounds=1))


def start(plan=PLAN):
    return initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(plan)).flatten()


def noise_of(site, number=1):
    """The share that this site has drawn, from its seeded keys."""
    key = SeededKeys(0).child(site).key(f"run-1/{number}/0/noise")
    return discrete_gaussian(12, variance=(2.0 * UNITS) ** 2 / 4, stream=KeyStream(key))


def sum_of(site, point):
    """Its patients' clipped gradients in whole units, without noise."""
    gradients = point - patients_of(site)
    factors = FlatClipping(0.5).factors(np.linalg.norm(gradients, axis=1))
    pairs = zip(gradients, factors, strict=True)
    return sum(whole(row, float(factor), sensitivity=0.5, bits=10) for row, factor in pairs)


def test_the_masked_sum_is_the_integer_sum_and_one_step_on_pooled_data(federation):
    result = federation(ONE_ROUND, policies=ALL).run()
    point = start(ONE_ROUND)
    total = sum(sum_of(site, point) + noise_of(site) for site in DECLARED)
    unit = -2.0 * 0.5 / UNITS / sum(DECLARED.values())
    [record] = result.rounds

    assert record.outcome == "accepted" and record.accepted == tuple(DECLARED)
    assert record.masked.bits == 32 and record.masked.clipped == 0
    assert record.weights == DECLARED, "nobody is capped: all patients count alike"
    np.testing.assert_array_equal(result.adapter.flatten(), point + (total * unit).astype(np.float32))


def test_the_mean_without_its_noise_is_that_of_pooled_dp_sgd(federation):
    result = federation(ONE_ROUND, policies=ALL).run()
    point = start(ONE_ROUND)
    gradients = np.concatenate([point - patients_of(site) for site in DECLARED]).astype("f8")
    factors = FlatClipping(0.5).factors(np.linalg.norm(gradients, axis=1))
    pooled = (gradients * factors[:, None]).sum(axis=0)
    scale = -2.0 / sum(DECLARED.values())
    noise = sum(noise_of(site) for site in DECLARED) * (scale * 0.5 / UNITS)
    patients = len(gradients)

    # Each patient's gradient was cut by less than one unit in every number.
    np.testing.assert_allclose(
        result.adapter.flatten() - point - noise, scale * pooled, atol=-scale * 0.5 * patients / UNITS + 1e-6
    )


def test_the_ledger_and_the_consent_say_that_the_noise_is_shared_and_by_how_many(federation):
    whole_run = federation(policies=ALL)
    record = whole_run.run().rounds[1]
    [_, spend] = whole_run.sites["site-a"].ledger.spends()
    terms = record.privacy["site-a"]

    assert spend.event.shared == terms.shared == SharedNoise(4, 10)
    assert spend.event.noise_multiplier == terms.noise_multiplier == 2.0
    assert terms.epsilon_after_round == pytest.approx(epsilon([spend.event] * 2, spend.delta))


@pytest.mark.parametrize("stage", ["shares", "masked", "agree", "unmask"])
def test_down_to_the_honest_and_those_who_may_collude_the_sum_has_its_noise(federation, stage):
    result = federation(policies=ALL, faults=[f"site-{site}=drop-{stage}@1" for site in "bc"]).run()
    first = result.rounds[0]
    total = sum(sum_of(site, start()) + noise_of(site) for site in first.accepted)

    assert first.outcome == "accepted" and len(first.accepted) == (6 if stage in ("shares", "masked") else 8)
    unit = -2.0 * 0.5 / UNITS / sum(DECLARED[site] for site in first.accepted)
    assert first.update_rms == pytest.approx(math.sqrt(np.mean((total * unit) ** 2)), rel=1e-5)
    assert result.rounds[1].accepted == tuple(DECLARED)


@pytest.mark.parametrize("stage", ["shares", "masked"])
def test_with_one_less_the_round_is_closed_and_its_privacy_stays_spent(federation, stage):
    whole_run = federation(policies=ALL, faults=[f"site-{site}=drop-{stage}@1" for site in "bcd"])
    result = whole_run.run()

    assert result.rounds[0].outcome == "masked-closed" and result.rounds[0].accepted == ()
    assert result.rounds[1].accepted == tuple(DECLARED)
    assert all(len(site.ledger.spends()) == 2 for site in whole_run.sites.values())


def test_sites_do_not_unmask_a_sum_that_lacks_noise_whatever_the_coordinator_says(federation, monkeypatch):
    def lying(*args, quorum, **options):
        return ServerRound(*args, quorum=3, **options)

    monkeypatch.setattr(rounds, "ServerRound", lying)
    more = replace(PLAN, run=replace(PLAN.run, quorum=8), privacy=replace(PLAN.privacy, honest_sites=6))
    trusting = dict.fromkeys(DECLARED, replace(POLICY, honest_sites_max=6))
    liar = federation(more, policies=trusting, faults=["site-b=drop-masked@1"])
    first = liar.run().rounds[0]

    assert first.closed == "secagg-no-agreement" and first.accepted == ()
    assert {code for site, code in first.failures.items() if site != "site-b"} == {"secagg-survivors-too-few"}


def test_a_site_refuses_another_kind_of_sum_than_the_plan_says(federation, monkeypatch):
    def own_noise(plan, shapes, weights, consents, before):
        made = whole_encoding(plan, shapes, weights, consents, before)
        return replace(made, unit=None, bounds=dict.fromkeys(shapes, 1.0), weights=dict.fromkeys(weights, 1))

    whole_encoding = rounds.encoding_for
    for name, wrong in (
        ("kind", own_noise),
        ("unit", lambda *args: replace(whole_encoding(*args), unit=-1.0)),
    ):
        monkeypatch.setattr(rounds, "encoding_for", wrong)
        first = federation(name=name, policies=ALL).run().rounds[0]

        assert first.closed == "secagg-roster-too-small"
        assert set(first.failures.values()) == {"secagg-wrong-context"}


@pytest.mark.parametrize("policy", [POLICY, replace(POLICY, honest_sites_max=3)])
def test_a_site_refuses_unless_its_policy_trusts_so_many(federation, policy):
    one = federation(policies=ALL | {"site-c": policy})
    result = one.run()

    assert result.rounds[0].refusals == {"site-c": ("noise_shared",)}
    assert one.sites["site-c"].ledger.spends() == () and one.sites["site-c"].learner.updates == 0
    assert len(result.rounds[0].accepted) == 7


def test_by_default_nobody_trusts_others_for_noise():
    assert Policy(epsilon_max=1.0).honest_sites_max == 0


def test_too_few_sites_for_the_promise_are_told_before_anybody_trains(federation):
    five = {site: DECLARED[site] for site in list(DECLARED)[:5]}
    few = federation(
        replace(PLAN, run=replace(PLAN.run, quorum=0), privacy=replace(PLAN.privacy, honest_sites=5)),
        declared=five, policies=dict.fromkeys(five, replace(POLICY, honest_sites_max=5)),
    )  # fmt: skip
    with pytest.raises(QuorumError) as caught:
        few.run()

    assert caught.value.code == "quorum-unreachable"
    assert all(site.learner.updates == 0 for site in few.sites.values())


def test_a_second_opinion_on_the_masked_sum_finds_the_same_mean(federation):
    whole_run = federation(policies=ALL, faults=["site-b=drop-masked@2"])
    result = whole_run.run()
    folder = whole_run.folder / "run" / "masked"
    told = canonical.load((folder / "00002.json").read_bytes())
    found = transcript.recompute(
        told, whole_run.roster, lambda site: (folder / "vectors" / f"{site}.vector").read_bytes()
    )

    masked_evidence.recompute(folder / "00002.json", folder / "vectors", whole_run.roster)
    assert found.survivors == result.rounds[1].accepted and len(found.survivors) == 7


@pytest.mark.parametrize("method", ["ffa", "rolora"])
def test_methods_that_rest_a_factor_share_noise_too(federation, method):
    plan = replace(PLAN, adapter=replace(PLAN.adapter, method=method))
    result = federation(plan, policies=ALL, numbers=6).run()  # so many that each factor has

    assert [record.outcome for record in result.rounds] == ["accepted", "accepted"]
    assert all(terms.shared == SharedNoise(4, 10) for terms in result.rounds[0].privacy.values())


def test_equal_runs_give_equal_bytes_and_a_restarted_site_keeps_its_share(federation):
    first = federation(name="first", policies=ALL).run()
    again = federation(name="second", policies=ALL)
    again.sites["site-b"].ledger.close()
    again._start("site-b")

    assert again.run().adapter.digest() == first.adapter.digest()


def test_what_waits_to_be_masked_is_gone_afterwards(federation):
    whole_run = federation(policies=ALL)
    whole_run.run()

    assert not list(whole_run.folder.glob("site-*/state/runs/*/*.update"))


@pytest.mark.parametrize("end", [b"", b"x"])
def test_a_damaged_share_is_not_masked(federation, end):
    whole_run = federation(ONE_ROUND, policies=ALL)

    class Damaging(LocalLink):
        def ask(self, questions, *, deadline_s):
            if questions[0].kind == "ready":
                [kept] = (whole_run.folder / "site-c").glob("state/runs/run-1/*.update")
                kept.write_bytes(kept.read_bytes()[:-1] + end)
            return super().ask(questions, deadline_s=deadline_s)

    [first] = whole_run.run(link=Damaging(whole_run.sites)).rounds

    assert first.failures == {"site-c": "secagg-wrong-context"} and len(first.accepted) == 7


def test_sums_that_could_wrap_around_are_refused_before_anybody_trains(federation):
    terms = PrivacyTerms(2.0, 1.0, 1e-7, 1.0, 1.0, SharedNoise(4, 10))
    offer = Consent("ba5e" * 16, SHAPES, 250_000, terms)  # 2^21 patients of 2^10 units are all that 31 bits hold

    require_room(PLAN, dict.fromkeys("abcdefg", offer))
    with pytest.raises(PlanError) as caught:
        require_room(PLAN, dict.fromkeys("abcdefgh", offer))

    assert caught.value.code == "plan-combination" and "sampling_rate" in caught.value.hint


def test_a_coordinators_folder_tells_of_the_shared_noise_when_it_is_opened_again(federation):
    whole_run = federation(policies=ALL)
    result = whole_run.run()
    [*_, last] = Checkpoints.open(whole_run.folder / "run", plan=PLAN).last().records

    assert last.privacy == result.rounds[1].privacy


def test_the_gate_allows_for_the_noise_of_shares_and_so_for_less_of_a_wrong_update():
    shapes = {"m.lora_A.weight": (8, 20_000), "m.lora_B.weight": (20_000, 8)}
    own = Consent("ba5e" * 16, shapes, 100, PrivacyTerms(5.0, 1.0, 1e-3, 1.0, 1.0))
    shared = replace(own, terms=replace(own.terms, shared=SharedNoise(4, 16)))
    adapter = initial_adapter(shapes, a_init="kaiming", seed=0)
    wide, narrow = (
        gate.allowed(PLAN, adapter, 1, dict.fromkeys(DECLARED, (consent, 100.0))) for consent in (own, shared)
    )

    assert wide / narrow == pytest.approx(2.0, rel=0.05)  # the square root of four, but for the patients' own part
