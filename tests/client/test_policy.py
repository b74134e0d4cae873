"""The policy: one rule, one public reason."""

from dataclasses import replace

import pytest

from client.policy import Policy, decide
from federation.consent import Consent, PrivacyTerms, Refusal
from federation.plan import parse_plan

PLAN = parse_plan('[run]\nname = "demo"\nrounds = 3\n[model]\npath = "base"\n[privacy]\nnoise_multiplier = 1.0')
IN_THE_CLEAR = replace(PLAN, aggregation=replace(PLAN.aggregation, secure=False))
OFFER = Consent("ab" * 32, {"m.lora_B.weight": (2, 2)}, 1000, PrivacyTerms(1.0, 0.1, 1e-4, 1.5, 2.5))
POLICY = Policy(epsilon_max=2.0, noise_multiplier_min=0.8, delta_max=1e-3, quorum_min=3, approve="matching")


def reasons(
    policy=POLICY, plan=PLAN, offer=OFFER, quorum=3, approved=False, released=True, can_mask=True,
    unbounded=False,
) -> tuple[str, ...]:  # fmt: skip
    decision = decide(
        policy, plan, offer, quorum=quorum, approved=approved, released=released, can_mask=can_mask, unbounded=unbounded
    )
    return decision.reasons if isinstance(decision, Refusal) else ()


def test_a_plan_within_every_rule_gets_the_offered_consent():
    facts = {"approved": False, "released": True, "can_mask": True, "unbounded": False}

    assert decide(POLICY, PLAN, OFFER, quorum=3, **facts) is OFFER


@pytest.mark.parametrize(
    "reason, changes",
    [
        ("budget_exhausted", {"policy": replace(POLICY, epsilon_max=1.4)}),
        ("budget_exhausted", {"unbounded": True}),
        ("noise_too_low", {"policy": replace(POLICY, noise_multiplier_min=1.1)}),
        ("delta_too_large", {"policy": replace(POLICY, delta_max=1e-5)}),
        ("delta_too_large", {"offer": replace(OFFER, declared_patients=1001)}),
        ("model_not_allowed", {"policy": replace(POLICY, models=("cd" * 32,))}),
        ("model_not_allowed", {"plan": replace(PLAN, model=replace(PLAN.model, sha256="cd" * 32))}),
        ("quorum_too_small", {"quorum": 2}),
        ("quorum_too_small", {"quorum": 2, "policy": replace(POLICY, quorum_min=1)}),
        ("secure_required", {"policy": replace(POLICY, secure_required=True), "plan": IN_THE_CLEAR}),
        ("roster_absent", {"can_mask": False}),
        ("rank_too_large", {"policy": replace(POLICY, rank_max=7)}),
        ("privacy_off", {"offer": replace(OFFER, terms=None)}),
        ("plan_not_approved", {"policy": replace(POLICY, approve="each-plan")}),
    ],
)
def test_each_rule_refuses_with_its_own_reason(reason, changes):
    assert reasons(**changes) == (reason,)


SHARED = replace(PLAN, privacy=replace(PLAN.privacy, noise="shared", honest_sites=4))


@pytest.mark.parametrize(
    "most, quorum, refused",
    [(4, 6, ()), (0, 6, ("noise_shared",)), (3, 6, ("noise_shared",)), (4, 4, ("quorum_too_small",)), (4, 5, ())],
)
def test_a_hospital_says_on_how_many_a_patients_epsilon_may_rest(most, quorum, refused):
    assert reasons(policy=replace(POLICY, honest_sites_max=most), plan=SHARED, quorum=quorum) == refused


def test_all_reasons_are_given_at_once():
    policy = replace(POLICY, epsilon_max=1.0, quorum_min=9, approve="each-plan")

    assert set(reasons(policy=policy)) == {"budget_exhausted", "quorum_too_small", "plan_not_approved"}


def test_exactly_at_the_limit_is_within_it():
    policy = replace(POLICY, epsilon_max=1.5, noise_multiplier_min=1.0, delta_max=1e-4)

    assert reasons(policy=policy) == ()


def test_an_approved_plan_passes_a_policy_that_asks_for_approval():
    assert reasons(policy=replace(POLICY, approve="each-plan"), approved=True) == ()


def test_a_plan_without_privacy_needs_the_hospitals_explicit_word():
    assert reasons(policy=replace(POLICY, allow_without_privacy=True), offer=replace(OFFER, terms=None)) == ()


def test_a_data_set_without_a_release_is_not_trained_on():
    assert reasons(released=False) == ("data_not_released",)
