"""What this hospital allows. A plan can be narrower than these rules, never wider."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from federation import strict_toml
from federation.consent import Consent, PrivacyTerms, Reason, Refusal
from federation.plan import SECURE_SITES_MIN, RunPlan, Sha256


@dataclass(frozen=True)
class Policy:
    """[policy] of site.toml. The hospital's own file; nothing that arrives over the Link can change it."""

    __pydantic_config__ = strict_toml.STRICT
    epsilon_max: Annotated[float, Field(gt=0, le=100)]  # over everything in this site's ledger, all runs together
    noise_multiplier_min: Annotated[float, Field(ge=0.2, le=1e4)] = 0.2
    delta_max: Annotated[float, Field(gt=0, le=0.1)] = 0.01  # and never above 1/(10 × declared patients)
    models: tuple[Sha256, ...] = ()  # empty: only the base that this site has loaded itself
    quorum_min: Annotated[int, Field(ge=1, le=10_000)] = 2
    secure_required: bool = False
    rank_max: Annotated[int, Field(ge=1, le=1024)] = 1024  # memory of this site; under `stack` it trains this many
    approve: Literal["each-plan", "matching"] = "each-plan"
    honest_sites_max: Annotated[int, Field(ge=0, le=128)] = 0  # on whom a patient's epsilon may rest; 0: this site only
    allow_without_privacy: bool = False  # for simulation: an update without noise can give patients away


def decide(
    policy: Policy,
    plan: RunPlan,
    offer: Consent,
    *,
    quorum: int,
    approved: bool,
    released: bool,
    can_mask: bool,
    unbounded: bool,
) -> Consent | Refusal:
    """The offered consent if every rule holds, otherwise all the reasons against it.

    `offer` is what this site would agree to; `quorum` is the fewest sites whose updates will be added; `approved` says
    whether a person here approved this very plan, `released` whether one released this very data set, `can_mask`
    whether this site has a signing key and is on its own roster, `unbounded` whether any of these patients was trained
    on without privacy before, so that no epsilon is true of them. The reasons are enumerated words: they tell the
    coordinator which rule stood against the plan, not its value.
    """
    refused: dict[Reason, bool] = {
        "privacy_off": offer.terms is None and not policy.allow_without_privacy,
        "model_not_allowed": not _model_allowed(policy, plan, offer.base_digest),
        "quorum_too_small": quorum < max(policy.quorum_min, SECURE_SITES_MIN if plan.aggregation.secure else 1)
        or 0 < plan.aggregation.group_size < policy.quorum_min
        or quorum < plan.privacy.sites_least(quorum),
        "noise_shared": (plan.privacy.honest_sites or 0) > policy.honest_sites_max,
        "secure_required": policy.secure_required and not plan.aggregation.secure,
        "rank_too_large": plan.adapter.rank > policy.rank_max and plan.adapter.method != "stack",
        "roster_absent": plan.aggregation.secure and not can_mask,
        "plan_not_approved": policy.approve == "each-plan" and not approved,
        "data_not_released": not released,
    }
    if offer.terms is not None:
        refused |= {
            "budget_exhausted": unbounded or offer.terms.epsilon_after_round > policy.epsilon_max,
            "noise_too_low": offer.terms.noise_multiplier < policy.noise_multiplier_min,
            "delta_too_large": offer.terms.delta > min(policy.delta_max, 1 / (10 * offer.declared_patients)),
        }
    reasons = tuple(reason for reason, holds in refused.items() if holds)
    return Refusal(reasons) if reasons else offer


def decide_evaluation(
    policy: Policy, terms: PrivacyTerms, declared_patients: int, *, approved: bool, unbounded: bool
) -> Refusal | None:
    """None if this hospital's held-out patients may be examined on these terms, otherwise the reasons against it."""
    refused: dict[Reason, bool] = {
        "plan_not_approved": policy.approve == "each-plan" and not approved,
        "budget_exhausted": unbounded or terms.epsilon_after_round > policy.epsilon_max,
        "noise_too_low": terms.noise_multiplier < policy.noise_multiplier_min,
        "delta_too_large": terms.delta > min(policy.delta_max, 1 / (10 * declared_patients)),
    }
    reasons = tuple(reason for reason, holds in refused.items() if holds)
    return Refusal(reasons) if reasons else None


def _model_allowed(policy: Policy, plan: RunPlan, base_digest: str) -> bool:
    return plan.model.sha256 in (None, base_digest) and (not policy.models or base_digest in policy.models)
