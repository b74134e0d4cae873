"""Attacks on the mechanism itself: can anybody tell who was in, better than the stated epsilon allows?

Three audits run the real clipping, sampling and noise on patients that are vectors, thousands at once. Each gives a
lower bound on epsilon that must stay below the claim, and is shown bugs that were put in on purpose:

    gaussian-score          canaries on axes of their own, each in by a coin; how far apart are the two groups' sums?
                            (one-run audit, Steinke et al. 2023, with the exact law of the Gaussian mechanism)
    known-schedule          the same under sampling, by somebody who knows when whose turn would be
    neighbouring-datasets   many runs with one patient and without; the best threshold test between them (Jagielski et
                            al. 2020), which assumes nothing about the noise

A diagnostic, not a measurement of privacy: no audit proves that code is right, and the bound is no epsilon.
Confidence: 3.7 standard errors, so that a right program is suspected in fewer than 1 of 1000 runs.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.privacy import accounting
from federation.privacy.clipping import BoundedSum, FlatClipping
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from sim.keys import SeededKeys

Floats = NDArray[np.float64]

Z = 3.7
MU_MOST = 60.0  # beyond this the bound is in the thousands; without any noise it would be infinite
CANARIES, SCORE_STEPS, SCHEDULE_STEPS = 4000, 30, 100
NEIGHBOUR_RUNS, NEIGHBOURS = 20_000, 5
RIGHT_RUNS, PLANTED_RUNS = 20, 5
TOKENS = 24
NORM = 1.0


@dataclass(frozen=True)
class Step:
    """How one noisy sum is made: the real way, or with one bug. Every field but `mechanism` is a bug when changed."""

    mechanism: Mechanism
    noise_factor: float = 1.0
    clipping_factor: float = 1.0
    tokens: int = 1
    fixed_batches: bool = False

    def draw(self, names: list[str], step: int, stream: KeyStream) -> NDArray[np.int64]:
        """Who is in this step: positions in `names`."""
        if self.fixed_batches:
            period = round(1 / self.mechanism.sampling.sampling_rate)
            return np.arange(step % period, len(names), period)
        return np.array([int(name) for name in self.mechanism.sampling.draw(names, stream)], dtype=np.int64)

    def lengths(self, norms: Floats) -> Floats:
        """How much of a gradient of this length is left after clipping."""
        rule = FlatClipping(self.mechanism.clipping.sensitivity * self.clipping_factor)
        per_token = norms / self.tokens  # a patient's gradient comes in so many rows, each clipped by itself
        return rule.factors(per_token) * per_token * self.tokens

    def noisy(self, total: Floats, stream: KeyStream) -> Floats:
        bounded = BoundedSum(total, self.mechanism.clipping.sensitivity)
        noisy = self.mechanism.add_noise(bounded, stream).total.astype(np.float64)
        return total + self.noise_factor * (noisy - total)


BUGS: Mapping[str, Mapping[str, Any]] = {
    "half-noise": {"noise_factor": 0.5},
    "wrong-sensitivity": {"clipping_factor": 3.0},
    "no-noise": {"noise_factor": 0.0},
    "per-token-clipping": {"tokens": TOKENS},
    "deterministic-batches": {"fixed_batches": True},
}
AUDITS: Mapping[str, tuple[str, ...]] = {
    "gaussian-score": ("half-noise", "wrong-sensitivity", "no-noise", "per-token-clipping"),
    "known-schedule": ("deterministic-batches",),
    "neighbouring-datasets": ("half-noise", "wrong-sensitivity", "no-noise", "per-token-clipping"),
}


def attack(*, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None) -> list[dict[str, Any]]:
    """Every audit on the right code and on each of its bugs: what `wardround sim attack --json` lists as `audits`.

    `caught` counts the runs whose lower bound is above the claim: none of the right code, all of a bug.
    """
    rows = []
    cases = [(name, bug) for name, bugs in AUDITS.items() for bug in (None, *bugs)]
    for number, (name, bug) in enumerate(cases):
        runs = RIGHT_RUNS if bug is None else PLANTED_RUNS
        claimed, _ = claim(name)
        bounds = [lower_bound(name, bug, seed=1000 * seed + run) for run in range(runs)]
        rows.append(
            {
                "name": name,
                "planted_bug": bug,
                "claimed_epsilon": claimed,
                "lower_bound": sorted(bounds)[len(bounds) // 2],
                "highest_bound": max(bounds),
                "caught": sum(bound > claimed for bound in bounds),
                "runs": runs,
            }
        )
        progress(number + 1, len(cases))
    return rows


def claim(name: str) -> tuple[float, float]:
    """The epsilon that the accountant states for what this audit runs, and its delta."""
    mechanism, steps, delta = _setting(name)
    return accounting.epsilon([mechanism.event(steps)], delta), delta


def lower_bound(name: str, bug: str | None, *, seed: int) -> float:
    """What this audit finds in one run: an epsilon that the code cannot be below, with high confidence."""
    mechanism, steps, delta = _setting(name)
    step = Step(mechanism, **(BUGS[bug] if bug else {}))
    keys = SeededKeys(seed).child(f"{name}/{bug}")
    if name == "neighbouring-datasets":
        return _neighbours(step, delta, keys)
    return _canaries(step, steps, delta, keys, scheduled=name == "known-schedule")


def _setting(name: str) -> tuple[Mechanism, int, float]:
    """(mechanism, steps, delta)"""
    match name:
        case "gaussian-score":
            return Mechanism(PoissonSampling(1.0), FlatClipping(NORM), 8.0), SCORE_STEPS, 1e-5
        case "known-schedule":
            return Mechanism(PoissonSampling(0.1), FlatClipping(NORM), 2.0), SCHEDULE_STEPS, 1e-5
        case _:
            return Mechanism(PoissonSampling(1.0), FlatClipping(NORM), 2.0), 1, 1e-2


def _canaries(step: Step, steps: int, delta: float, keys: SeededKeys, *, scheduled: bool) -> float:
    """One run with many canaries, half of them in. Each one's score: the sum on its own axis in those steps."""
    inside = KeyStream(keys.key("coin")).uniform(CANARIES) < 0.5
    names = [str(number) for number in range(CANARIES)]  # those who are out have a coin too: it changes nobody's
    given = step.lengths(np.full(CANARIES, 100.0 * NORM)) * inside
    scores, looked = np.zeros(CANARIES), np.zeros(CANARIES)
    period = round(1 / step.mechanism.sampling.sampling_rate)
    for number in range(steps):
        drawn = step.draw(names, number, KeyStream(keys.key(f"draw/{number}")))
        total = np.zeros(CANARIES)
        total[drawn] = given[drawn]
        noisy = step.noisy(total, KeyStream(keys.key(f"noise/{number}")))
        turn = np.arange(CANARIES) % period == number % period if scheduled else np.ones(CANARIES, dtype=bool)
        scores += np.where(turn, noisy, 0.0)
        looked += turn
    return gaussian_bound(scores[inside] / looked[inside], scores[~inside] / looked[~inside], delta)


def gaussian_bound(inside: Floats, outside: Floats, delta: float) -> float:
    """Epsilon of the Gaussian mechanism whose two laws are `Z` standard errors nearer than these scores."""
    counts = 1 / len(inside) + 1 / len(outside)
    spread = math.sqrt((inside.var() * len(inside) + outside.var() * len(outside)) / (len(inside) + len(outside)))
    mu = min(MU_MOST, float(inside.mean() - outside.mean()) / max(spread, 1e-9))
    low = mu - Z * math.sqrt(counts + mu * mu / (2 * (len(inside) + len(outside))))
    return epsilon_of_gap(max(low, 0.0), delta)


def epsilon_of_gap(mu: float, delta: float) -> float:
    """Epsilon at which two normal laws, `mu` standard deviations apart, are within delta. Balle & Wang 2018, Thm. 8."""
    if mu == 0.0:
        return 0.0
    below = NormalDist().cdf

    def excess(epsilon: float) -> float:
        second = below(-epsilon / mu - mu / 2)
        return below(-epsilon / mu + mu / 2) - (math.exp(epsilon + math.log(second)) if second > 0.0 else 0.0) - delta

    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0.0 else (low, middle)
    return low


def _neighbours(step: Step, delta: float, keys: SeededKeys) -> float:
    """Thousands of runs with the patient and as many without: a threshold chosen on one half, tested on the other."""
    scores = {}
    for side in ("with", "without"):
        stream = KeyStream(keys.key(f"others/{side}"))
        others = stream.uniform(NEIGHBOUR_RUNS * NEIGHBOURS).reshape(NEIGHBOUR_RUNS, NEIGHBOURS) * 2 - 1
        # The others' gradients lie across the patient's axis but for a known share, which the attacker takes off.
        known = step.lengths(np.abs(others).ravel()).reshape(others.shape) * np.sign(others)
        total = known.sum(axis=1)
        if side == "with":
            total = total + float(step.lengths(np.array([100.0 * NORM]))[0])
        noisy = step.noisy(total, KeyStream(keys.key(f"noise/{side}")))
        scores[side] = noisy - known.sum(axis=1)
    half = NEIGHBOUR_RUNS // 2
    thresholds = np.quantile(
        np.concatenate([scores["with"][:half], scores["without"][:half]]), np.linspace(0.02, 0.98, 97)
    )
    best = max(thresholds, key=lambda t: _ratio(scores["with"][:half] > t, scores["without"][:half] > t, delta))
    return max(0.0, _ratio(scores["with"][half:] > best, scores["without"][half:] > best, delta))


def _ratio(hits: NDArray[np.bool_], false_alarms: NDArray[np.bool_], delta: float) -> float:
    """log((least hits - delta) / most false alarms): Kairouz, Oh & Viswanath 2015, with Wilson's limits."""
    low, high = _wilson(hits)[0], _wilson(false_alarms)[1]
    return math.log(max(low - delta, 1e-12) / high)


def _wilson(seen: NDArray[np.bool_]) -> tuple[float, float]:
    n, share = len(seen), float(seen.mean())
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(centre - half, 0.0), centre + half
