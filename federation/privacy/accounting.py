"""How much privacy events cost: epsilon from sampling rate, noise multiplier and steps, never from anything stored.

The source of truth is the privacy loss distribution of dp_accounting at a discretisation of 1e-4: exact but for
rounding, always upwards. opacus' PRV accountant is a second opinion. Not offered: the CLT ("GDP") accountant, which
understates (1.62 for a true 1.83), and RDP, which overstates by 5-20 % and elevenfold at small epsilon.

Both libraries are imported when first used: they take seconds.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import combinations, count
from statistics import NormalDist
from typing import Any

from federation.errors import BudgetError

INTERVAL = 1e-4  # of everything reported
LIVE_INTERVAL = 1e-3  # for a display that refreshes; too pessimistic below epsilon 1 and above 1e4 steps
NOISE_MULTIPLIER_MIN, NOISE_MULTIPLIER_MAX = 0.2, 1e4
DELTA_MIN = 1e-12
STEPS_MAX = 10_000_000
PATIENT, ADD_OR_REMOVE_ONE, POISSON = "patient", "add_or_remove_one", "poisson"

_SUBSETS_MAX = 64
_HINT = "see the accountant's limits in docs/spec/ledger-1.md"


@dataclass(frozen=True)
class Event:
    """`steps` releases of the Poisson-sampled Gaussian mechanism: what was done, from which epsilon follows.

    Refused (`budget-event`): a noise multiplier outside [0.2, 1e4], a sampling rate outside (0, 1], steps outside
    [0, 1e7], NaN anywhere, and any unit, neighboring relation or sampler but the one that is implemented. The libraries
    answer some of these with infinity, an exception or a wrong number.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    sensitivity_rule: str
    unit: str = PATIENT
    neighboring_relation: str = ADD_OR_REMOVE_ONE
    sampler: str = POISSON

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise BudgetError("budget-event", "the sampling rate is not in (0, 1]", hint=_HINT)
        if not NOISE_MULTIPLIER_MIN <= self.noise_multiplier <= NOISE_MULTIPLIER_MAX:
            raise BudgetError("budget-event", "the noise multiplier is not in [0.2, 10000]", hint=_HINT)
        _require_steps(self.steps)
        if (self.unit, self.neighboring_relation, self.sampler) != (PATIENT, ADD_OR_REMOVE_ONE, POISSON):
            raise BudgetError("budget-event", "unit, relation or sampler is not one that is accounted for", hint=_HINT)


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """Equal events as one event with all their steps; none of zero steps. Order does not matter to epsilon."""
    steps: dict[Event, int] = {}
    for event in events:
        kind = replace(event, steps=0)
        steps[kind] = steps.get(kind, 0) + event.steps
    return tuple(replace(kind, steps=count) for kind, count in steps.items() if count)


def epsilon(events: Iterable[Event], delta: float, *, interval: float = INTERVAL) -> float:
    """The epsilon of all `events` together at `delta`, for adding or removing one patient.

    Guarantees:
        An upper bound, from the privacy loss distribution discretised at `interval` with pessimistic rounding (Koskela
        et al. 2020; Doroshenko et al. 2022). The order of events does not matter. Where epsilon may be in the
        hundreds the interval grows with it, so a hopeless plan cannot take a site's memory; it stays an upper bound.

    | edge case                          | result                   |
    |------------------------------------|--------------------------|
    | no events, or no steps             | exactly 0.0              |
    | delta below 1e-12, 1 or more, NaN  | refused (`budget-event`) |
    """
    require_delta(delta)
    return _epsilon(_costs(events), delta, interval)


def epsilon_prv(events: Iterable[Event], delta: float) -> float:
    """A second opinion: opacus' PRV accountant, an upper bound with an error of 0.01 (Gopi et al. 2021).

    Agrees with `epsilon` to [0, +0.013] for epsilon below 40 and delta of at least 1e-9.
    """
    require_delta(delta)
    costs = _costs(events)
    if not costs:
        return 0.0
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise_multiplier, sampling_rate, steps) for sampling_rate, noise_multiplier, steps in costs]
    with warnings.catch_warnings():
        # It takes the logarithm of 1 - sampling_rate, and sizes its grid by RDP with few orders. Both are harmless.
        warnings.filterwarnings("ignore", "divide by zero encountered in log", RuntimeWarning)
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(accountant.get_epsilon(delta=delta, eps_error=0.01))


def epsilon_for_m_sites(sites: Sequence[Iterable[Event]], delta: float, m: int, *, interval: float = INTERVAL) -> float:
    """The epsilon of one patient whose data is at `m` of these sites: the worst `m` composed.

    `sites` holds the events of each site. The worst choice is looked for at an interval of 1e-3: among all of them if
    there are at most 64; otherwise it is the m sites of largest epsilon, which it is unless their mechanisms differ.
    """
    if not 1 <= m <= len(sites):
        raise BudgetError("budget-event", "there are fewer sites than a patient is said to be at", hint=_HINT)
    require_delta(delta)
    kinds = sorted(_costs(events) for events in sites)
    if math.comb(len(kinds), m) > _SUBSETS_MAX:
        alone = {kind: _epsilon(kind, delta, LIVE_INTERVAL) for kind in set(kinds)}
        choices = {tuple(sorted(kinds, key=lambda kind: alone[kind])[-m:])}
    else:
        choices = set(combinations(kinds, m))
    composed = {_merged(cost for site in choice for cost in site) for choice in choices}
    worst = (
        max(composed, key=lambda costs: _epsilon(costs, delta, LIVE_INTERVAL)) if len(composed) > 1 else composed.pop()
    )
    return _epsilon(worst, delta, interval)


def noise_multiplier_for(
    target_epsilon: float, *, delta: float, sampling_rate: float, steps: int, spent: Iterable[Event] = ()
) -> float:
    """The least noise multiplier with which `steps` more steps, on top of all that is `spent`, stay within the target.

    Guarantees:
        epsilon([*spent, the new event], delta) <= target_epsilon, computed at 1e-4 for the very number returned. It has
        four decimals, and is at most 0.05 % above the least such number, or its epsilon at most 0.1 % below the target.

    | edge case                               | result                         |
    |-----------------------------------------|--------------------------------|
    | no steps, or 0.2 is noise enough        | 0.2, the least that is allowed |
    | even 1e4 is not enough (budget spent)   | refused (`budget-unreachable`) |
    """
    require_delta(delta)
    if not 0.0 < target_epsilon < math.inf:
        raise BudgetError("budget-event", "the target epsilon is not a positive, finite number", hint=_HINT)
    before = tuple(spent)
    spent_costs = _costs(before)
    new = Event(sampling_rate, NOISE_MULTIPLIER_MAX, steps, sensitivity_rule="")

    def cost(noise_multiplier: float, interval: float) -> float:
        return _epsilon((*spent_costs, (new.sampling_rate, noise_multiplier, steps)), delta, interval)

    if cost(NOISE_MULTIPLIER_MAX, INTERVAL) > target_epsilon:
        raise BudgetError(
            "budget-unreachable",
            "no amount of noise brings this many steps within the target epsilon",
            hint="fewer rounds or local steps, a lower sampling rate, or a higher target",
        )
    coarse = min(max(1e-3 * target_epsilon, INTERVAL), 1e-2)
    found = _guess(target_epsilon, delta, sampling_rate, steps, spent_costs)
    for interval in (coarse, INTERVAL):
        found = _least(partial(cost, interval=interval), target_epsilon, start=found)
    # Once more in the order in which `epsilon` composes: convolutions differ in their last digits.
    candidates = (round(found + tick * 1e-4, 4) for tick in count())
    return next(x for x in candidates if epsilon([*before, replace(new, noise_multiplier=x)], delta) <= target_epsilon)


def accountant_name() -> str:
    """The accountant, with version and discretisation, as every statement names it."""
    return f"dp-accounting {version('dp-accounting')}, privacy loss distributions, interval {INTERVAL:g}"


def describe(events: Iterable[Event], delta: float, *, at_sites: Sequence[int] = (2, 3, 5)) -> str:
    """An epsilon statement that can be checked: everything epsilon depends on, and for a patient at several such sites.

    Epsilon is rounded up in the fourth decimal. `at_sites`: as if that many sites had done the same.
    """
    kinds = merged(events)
    lines = [
        f"epsilon {round_up(epsilon(kinds, delta)):.12g} at delta {delta:.12g}",
        f"unit: one {PATIENT} at this site, with all images and reports; neighboring relation: {ADD_OR_REMOVE_ONE}",
    ]
    for kind in kinds:
        lines.append(
            f"{kind.steps} steps: {kind.sampler} sampling at rate {kind.sampling_rate:.12g}, "
            f"noise multiplier {kind.noise_multiplier:.12g}, {kind.sensitivity_rule}"
        )
    for m in at_sites:
        lines.append(f"a patient at {m} such sites: epsilon {round_up(epsilon(kinds * m, delta)):.12g}")
    return "\n".join([*lines, f"accountant: {accountant_name()}"])


def round_up(value: float) -> float:
    """To four decimals, never down: what is printed is still an upper bound."""
    return math.ceil(value * 1e4) / 1e4


def require_delta(delta: float) -> None:
    """Refuses a delta that the accountant cannot resolve, or that promises nothing."""
    if not DELTA_MIN <= delta < 1.0:
        raise BudgetError("budget-event", "delta is not in [1e-12, 1)", hint=_HINT)


def _require_steps(steps: int) -> None:
    if type(steps) is not int or not 0 <= steps <= STEPS_MAX:
        raise BudgetError("budget-event", "the number of steps is not an integer in [0, 10000000]", hint=_HINT)


_Cost = tuple[float, float, int]  # sampling rate, noise multiplier, steps


def _costs(events: Iterable[Event]) -> tuple[_Cost, ...]:
    return _merged((event.sampling_rate, event.noise_multiplier, event.steps) for event in events)


def _merged(costs: Iterable[_Cost]) -> tuple[_Cost, ...]:
    """What epsilon depends on, equal mechanisms merged, in one order: also the key of the memos below."""
    total: dict[tuple[float, float], int] = {}
    for sampling_rate, noise_multiplier, steps in costs:
        mechanism = (sampling_rate, noise_multiplier)
        total[mechanism] = total.get(mechanism, 0) + steps
    for steps in total.values():
        _require_steps(steps)
    return tuple(sorted((*mechanism, steps) for mechanism, steps in total.items() if steps))


# Memos of pure functions. A site asks for nearly the same epsilon in every round, and the sites of a simulation for the
# same one; one step's distribution takes most of the time.
@lru_cache(maxsize=512)
def _epsilon(costs: tuple[_Cost, ...], delta: float, interval: float) -> float:
    # An upper bound by the Rényi divergence of order 2 (Mironov et al. 2019, eq. 3), to choose the interval by.
    bound = -math.log(delta)
    for sampling_rate, noise_multiplier, steps in costs:
        bound += steps * math.log1p(sampling_rate**2 * math.expm1(noise_multiplier**-2))
    losses = _composed(costs, max(interval, 1e-6 * bound))
    return 0.0 if losses is None else float(losses.get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def _composed(costs: tuple[_Cost, ...], interval: float) -> Any | None:
    """The privacy loss distribution of all of them, `None` for no steps."""
    if not costs:
        return None
    *earlier, (sampling_rate, noise_multiplier, steps) = costs
    before = _composed(tuple(earlier), interval)
    if not steps:
        return before
    if sampling_rate == 1.0:  # Gaussians compose to a Gaussian: no self-convolution needed
        last = _one_step(1.0, noise_multiplier / math.sqrt(steps), interval)
    else:
        last = _one_step(sampling_rate, noise_multiplier, interval).self_compose(steps)
    return last if before is None else before.compose(last)


@lru_cache(maxsize=4)
def _one_step(sampling_rate: float, noise_multiplier: float, interval: float) -> Any:
    from dp_accounting import NeighboringRelation  # type: ignore[import-untyped]
    from dp_accounting.pld import privacy_loss_distribution  # type: ignore[import-untyped]

    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=interval,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def _guess(epsilon: float, delta: float, sampling_rate: float, steps: int, spent: tuple[_Cost, ...]) -> float:
    """Where to begin the search: the central limit (Dong et al. 2022), which is no bound and decides nothing."""
    tail = NormalDist().inv_cdf(1.0 - delta)
    mu = math.sqrt(tail**2 + 2.0 * epsilon) - tail
    left = mu**2 - sum(cost[2] * cost[0] ** 2 * math.expm1(cost[1] ** -2) for cost in spent)
    left = max(left, 0.01 * mu**2) / (sampling_rate**2 * max(steps, 1))
    return 1.0 / math.sqrt(math.log1p(max(left, 1e-9)))


def _least(cost: Callable[[float], float], target: float, start: float) -> float:
    """About the least multiple of 1e-4 whose cost is at most the target: bisection, then regula falsi.

    The cost falls with the noise multiplier. What is returned has been tried, and is within the target unless even the
    greatest one is not.
    """
    least, greatest = round(NOISE_MULTIPLIER_MIN * 10_000), round(NOISE_MULTIPLIER_MAX * 10_000)
    excess: dict[int, float] = {}

    def fits(tick: int) -> bool:
        excess[tick] = cost(tick / 10_000) - target
        return excess[tick] <= 0.0

    def near(tick: int) -> int:
        return max(1, tick // 2_000)

    high = min(max(math.ceil(start * 10_000), least), greatest)
    stride = 4 * near(high)
    while not fits(high) and high < greatest:  # at a coarse interval even the greatest may seem too little
        high, stride = min(high + stride, greatest), 4 * stride
    low = max((tick for tick in excess if tick < high), default=least - 1)
    excess.setdefault(least - 1, math.inf)
    while high - low > near(high) and excess[high] < -1e-3 * target:
        if excess[low] == math.inf:  # nothing below has been tried
            guess, stride = max(least, high - stride), 4 * stride
        elif high > 1.1 * low:
            guess = math.isqrt(low * high)
        else:
            guess = math.ceil(low + (high - low) * excess[low] / (excess[low] - excess[high]))
            guess = min(max(guess, low + 1), high - near(high))
        low, high = (low, guess) if fits(guess) else (guess, high)
    return high / 10_000
