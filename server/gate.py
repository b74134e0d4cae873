"""Accept or reject what a round made: finite, no larger than clipping and noise allow, not worse where it was measured.

A rejected round is undone: the adapter and the server optimiser stay as they were, bit for bit. The privacy that the
sites paid for it stays spent. With secure aggregation this is the only look at what arrives, because the sum is all
there is; without it, the rules of robust.py have already bounded every single update.

What is allowed, for the plain mean of updates with the weights w_k (W their sum), at every site k:

    D_k = sampling rate · declared patients, C the sensitivity, s_k = noise multiplier · C, t local steps, d numbers

    a step   the site's optimiser sees g = (S + Z) / D_k, with |S| ≤ n·C for n drawn patients, Z ~ N(0, s_k² I)
    patients n ≤ m_k + L/3 + sqrt(L²/9 + 2·L·m_k)   (Bernstein), m_k = sampling rate · the most patients it may have
             (`patients_most`: a tenth or ten above what it declares); of all sites together, a_k = w_k / (W·D_k),
             q the sampling rate, M = Σ a_k·m_k, v = Σ a_k²·m_k·(1 − q), b = max a_k:
             Y = Σ a_k·n_k ≤ M + b·L/3 + sqrt((b·L/3)² + 2·L·v), because they draw independently
    noise    |Z| ≤ s_k · (sqrt(d) + sqrt(2·L))             (Gaussian concentration)
    sgd      |update| ≤ lr/D_k · (t·C·n + sqrt(t)·|Z|): the steps add up, and so do the variances of their noise
    adam     |update| ≤ lr · sqrt(d) · Σ_i r_i, r_i the most that |m̂| / sqrt(v̂) can be at step i (Cauchy-Schwarz)
    dp-adambc |update| ≤ lr · t · (C·n + |Z|) / D_k / sqrt(variance floor)

    the mean of sgd updates: drift ≤ lr·t·C·Y, noise ≤ g·sqrt(t) · (sqrt(d) + sqrt(2·L)), g = lr·sqrt(Σ (a_k·s_k)²)
    for t > 1: drift + noise;  for t = 1: sqrt(drift² + noise² + 2·drift·g·sqrt(2·L))

so the clipping norms add up, and the noise of independent sites adds up in squares: many sites' honest noise is small
beside one site's tenfold. In a single step drift and noise add up in squares too: the noise does not know the drift, so
their product is one Gaussian number. L = 30: an honest round is rejected with a probability below 4·e^-30 per site and
step. For the other optimisers, and for the rules of robust.py (they choose by the noise), bounds are added without
squares. Where the sites share the noise, s_k is that of a site's share, and w_k its declared patients. No update may be
longer than max_update_rms · sqrt(d); without privacy that is all there is. What no bound can see is a wrong update of
the right length: for that the sites look at the candidate themselves, if the plan pays for it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from federation import canonical
from federation.adapter import Adapter, factor
from federation.canonical import Value
from federation.consent import Consent, PrivacyTerms, patients_most
from federation.evaluation import Validation
from federation.plan import RunPlan
from federation.privacy.validation import CUT, noise_std
from server.aggregate import Aggregate, partner

UNLIKELY = 30.0  # L above
ADAM_DECAYS = 0.9, 0.999  # those of the sites' Adam
ROUNDING = 1 + 1e-3  # float32 sums
REJECTIONS_IN_A_ROW = 2  # after so many the run stops and a person looks

Rejection = Literal["gate-not-finite", "gate-bound", "gate-worse"]
SURE = 3.0  # standard deviations of noise


@dataclass(frozen=True)
class Verdict:
    """What the gate says of one aggregate, as public values."""

    rejection: Rejection | None
    norm: float | None  # None: not finite
    bound: float
    changes: Mapping[str, float] | None = None  # of the held-out score, as each site says; None: nobody was asked
    change: float = 0.0  # of all sites
    noise: float = 0.0  # its standard deviation

    def value(self) -> dict[str, Value]:
        return {
            "norm": None if self.norm is None else canonical.decimal(self.norm),
            "bound": canonical.decimal(self.bound),
            "validation": self._validation() if self.changes else None,
        }

    def _validation(self) -> Value:
        sites: dict[str, Value] = {site: canonical.decimal(change) for site, change in (self.changes or {}).items()}
        return {"change": canonical.decimal(self.change), "noise": canonical.decimal(self.noise), "sites": sites}


def judge(aggregate: Aggregate, *, bound: float) -> Verdict:
    """Accept the aggregate, or say why not: a NaN or an infinity, or longer than `bound` (exactly as long is not)."""
    if not (math.isfinite(aggregate.movement) and aggregate.update.is_finite()):
        return Verdict("gate-not-finite", None, bound)
    return Verdict(None if aggregate.movement <= bound else "gate-bound", aggregate.movement, bound)


def compare(
    verdict: Verdict, told: Mapping[str, Validation], held_out: Mapping[str, float], *, drop_max: float
) -> Verdict:
    """The verdict after a look at what the candidate changed for each site's held-out patients.

    Sites weigh by the precision of what they say, which is public: `held_out` is what each has divided by. What a site
    says counts up to `CUT`, the most that it can be without noise.

    | case                                                                  | verdict                |
    |-----------------------------------------------------------------------|------------------------|
    | no site says anything                                                 | as before: not checked |
    | the mean fell by more than `drop_max`, and by more than noise can     | gate-worse             |
    """
    if not told:
        return verdict
    stds = {site: noise_std(said.terms.noise_multiplier, held_out[site]) for site, said in told.items()}
    weights = {site: std**-2 for site, std in stds.items()}
    changes = {site: min(max(said.change, -CUT), CUT) for site, said in told.items()}
    change = sum(weights[site] * changes[site] for site in told) / sum(weights.values())
    noise = sum(weights.values()) ** -0.5
    rejection = "gate-worse" if change < -(drop_max + SURE * noise) else verdict.rejection
    return replace(verdict, rejection=rejection, changes=changes, change=change, noise=noise)


def allowed(
    plan: RunPlan,
    adapter: Adapter,
    round_number: int,
    sites: Mapping[str, tuple[Consent, float]],
    *,
    rule: str | None = None,
) -> float:
    """The longest aggregate that these sites, with their weights, can honestly make together in this round.

    `rule` is how they are averaged, if not by the plan's: a group of masked sites is always a plain mean.
    """
    whole = sum(weight for _, weight in sites.values())
    if not whole:
        return 0.0
    factors = plan.adapter.trained_factors(round_number)
    rest = {site: _trained_size(consent, factors) for site, (consent, _) in sites.items()}
    longest = {site: _longest(plan, consent, rest[site]) for site, (consent, _) in sites.items()}
    if plan.adapter.method == "stack":
        return 2 * max(_product_bound(adapter, bound) for bound in longest.values())
    plain = sum(weight * longest[site] for site, (_, weight) in sites.items()) / whole
    rule = rule or plan.aggregation.robust_rule
    if rule == "trimmed-mean":  # every number lies between two sites' numbers, but not always the same sites'
        return math.sqrt(sum(bound**2 for bound in longest.values()))
    if rule == "multi-krum":  # which sites are in it is not known here
        return max(longest.values())
    if rule != "none" or plan.privacy.unit == "none" or plan.training.optimizer != "sgd":
        return plain
    return min(plain, _mean_of_sgd(plan, sites, rest, whole))


def _mean_of_sgd(
    plan: RunPlan, sites: Mapping[str, tuple[Consent, float]], sizes: Mapping[str, int], whole: float
) -> float:
    """The mean's bound where the sites' draws and noises are added up before they are bounded."""
    steps, scale = plan.training.local_steps, plan.training.learning_rate * plan.privacy.clipping_norm
    variance = drawn = drawn_variance = largest = 0.0
    for consent, weight in sites.values():
        assert consent.terms is not None
        divisor, patients = _drawn(consent, consent.terms)
        share = weight / (whole * divisor)  # a_k
        variance += (share * _noise(consent.terms)) ** 2
        drawn += share * patients
        drawn_variance += share**2 * patients * (1 - consent.terms.sampling_rate)
        largest = max(largest, share)
    drift = steps * scale * (drawn + _above_mean(largest, drawn_variance))
    deviation = scale * math.sqrt(variance)
    noise = deviation * math.sqrt(steps) * _reach(max(sizes.values()))
    together = drift + noise
    if steps == 1:
        together = math.sqrt(drift**2 + noise**2 + 2 * drift * deviation * math.sqrt(2 * UNLIKELY))
    return together * ROUNDING


def _longest(plan: RunPlan, consent: Consent, size: int) -> float:
    """The longest honest update of one site."""
    refused_above = plan.aggregation.max_update_rms * math.sqrt(size) * ROUNDING
    if consent.terms is None:
        return refused_above
    steps, rate, norm = plan.training.local_steps, plan.training.learning_rate, plan.privacy.clipping_norm
    divisor, patients = _drawn(consent, consent.terms)
    drift, spread = drawn_most(patients) * norm / divisor, _noise(consent.terms) * norm / divisor
    match plan.training.optimizer:
        case "sgd":
            derived = rate * (steps * drift + math.sqrt(steps) * spread * _reach(size))
        case "adam":
            derived = rate * math.sqrt(size) * _adam_ratios(steps)
        case "dp-adambc":
            floor = math.sqrt(max(0.1 * spread**2, 1e-12))  # federation/privacy/optimizer.py
            derived = rate * steps * (drift + spread * _reach(size)) / floor
    return min(derived * ROUNDING, refused_above)


def _noise(terms: PrivacyTerms) -> float:
    """s_k / C. A share of the noise is a Gaussian rounded at random by two units (federation/privacy/accounting.py)."""
    if terms.shared is None:
        return terms.noise_multiplier
    return terms.noise_multiplier / math.sqrt(terms.shared.honest_sites) + 2.0 ** (1 - terms.shared.grid_bits)


def _drawn(consent: Consent, terms: PrivacyTerms) -> tuple[float, float]:
    """D_k and m_k: the mean number of drawn patients that the site divides by, and the largest it may have."""
    rate = terms.sampling_rate
    return rate * consent.declared_patients, rate * patients_most(consent.declared_patients)


def drawn_most(expected: float) -> float:
    """So many patients are drawn in a step at most."""
    return expected + _above_mean(1.0, expected)


def _above_mean(largest: float, variance: float) -> float:
    """So far is a sum of independent numbers of at most `largest` above its mean at most. Bernstein's inequality."""
    return largest * UNLIKELY / 3 + math.sqrt((largest * UNLIKELY / 3) ** 2 + 2 * UNLIKELY * variance)


def _reach(size: int) -> float:
    """So long is a vector of standard normals at most."""
    return math.sqrt(size) + math.sqrt(2 * UNLIKELY)


def _adam_ratios(steps: int) -> float:
    """Σ over the steps of the largest |m̂| / sqrt(v̂) of a number, whatever the gradients were."""
    first, second = ADAM_DECAYS
    number = np.arange(1, steps + 1, dtype=np.float64)
    decay = first**2 / second
    raw = (1 - first) * np.sqrt((1 - decay**number) / (1 - decay) / (1 - second))
    return float(np.sum(raw * np.sqrt(1 - second**number) / (1 - first**number)))


def _product_bound(adapter: Adapter, longest: float) -> float:
    """How far an update of this length moves the products: |dB|·|A| + |B|·|dA| + |dB|·|dA|, norms of matrices.

    The mean of such moves is no longer than the longest; the cut to the rank can at most double it, because the start
    has that rank too and the cut finds the nearest.
    """
    pairs = [(adapter.arrays[partner(name)], array) for name, array in adapter.arrays.items() if factor(name) == "A"]
    b, a = (max(float(np.linalg.norm(pair[which], 2)) for pair in pairs) for which in (0, 1))
    return longest * math.hypot(a, b) + longest**2 / 2


def _trained_size(consent: Consent, factors: frozenset[str]) -> int:
    return sum(math.prod(shape) for name, shape in consent.shapes.items() if factor(name) in factors)
