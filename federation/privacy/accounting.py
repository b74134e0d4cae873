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
from itertools import combinations, count, pairwise
from statistics import NormalDist
from typing import Any

from federation.errors import BudgetError

INTERVAL = 1e-4  # of everything reported
LIVE_INTERVAL = 1e-3  # for a display that refreshes; too pessimistic below epsilon 1 and above 1e4 steps
NOISE_MULTIPLIER_MIN, NOISE_MULTIPLIER_MAX = 0.2, 1e4
DELTA_MIN = 1e-12
STEPS_MAX = 10_000_000
PATIENT, ADD_OR_REMOVE_ONE, POISSON = "patient", "add_or_remove_one", "poisson"

SHARE_VARIANCE_MIN = 8.0  # of one site's share, in units: what `SharedNoise` promises is proved from here on
GRID_BITS_MAX = 24
HONEST_SITES_MIN = 2

_SUBSETS_MAX = 64
_HINT = "see the accountant's limits in docs/spec/ledger-1.md"


@dataclass(frozen=True)
class SharedNoise:
    """The noise of a step is added by the sites together, on whole numbers, and only their masked sum is private.

    A unit is the sensitivity / 2^grid_bits. Each site adds a discrete Gaussian of variance (noise multiplier ·
    2^grid_bits)² / honest_sites units, and at least `honest_sites` of those in the sum are counted on to have done so.
    """

    honest_sites: int  # this one included
    grid_bits: int

    def share_variance(self, noise_multiplier: float) -> float:
        """Of one site's noise in every number, in units."""
        return (noise_multiplier * 2.0**self.grid_bits) ** 2 / self.honest_sites

    def gaussian_multiplier(self, noise_multiplier: float) -> float:
        """Of a Gaussian mechanism that tells at least as much as the sum of `honest_sites` shares.

        Let D(v) be the discrete Gaussian, P(x) ∝ exp(-x²/2v) on the whole numbers. Poisson's summation formula has
        Σ_x exp(-(x-t)²/2s) = sqrt(2πs)·(1 ± η) for every t, with η < 1.1e-34 from s = 4 on. So, number by number,
            D(v) + D(w) has the probabilities of D(v + w) within a factor (1+η)/(1-η), if vw/(v+w) is at least 4;
            a Gaussian of variance V - 4, around a whole number, and then rounded at random to y with probability
            ∝ exp(-(y-c)²/8), has those of D(V) within the same factor.
        With every share at least 8 the honest sum of total variance V is thus post-processing of a Gaussian with the
        variance V - 4, up to a factor that adds less than 1e-14 to epsilon over 2^31 numbers, 128 sites and 1e7 steps.
        More shares, and other patients, are independent of the patient and only add to it. Any sampling rate will do.
        The same sums: Canonne, Kamath & Steinke 2020, section 2; Kairouz, Liu & Steinke 2021, theorem 9.
        """
        return math.sqrt(noise_multiplier**2 - 4.0 ** (1 - self.grid_bits))


@dataclass(frozen=True)
class Event:
    """`steps` releases of the Poisson-sampled Gaussian mechanism: what was done, from which epsilon follows.

    With `shared` they are releases of a masked sum to which the sites add the noise together; `noise_multiplier` is
    then that of the sum, and the epsilon holds if the honest sites are.

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
    shared: SharedNoise | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.sampling_rate <= 1.0:
            raise BudgetError("budget-event", "the sampling rate is not in (0, 1]", hint=_HINT)
        if not NOISE_MULTIPLIER_MIN <= self.noise_multiplier <= NOISE_MULTIPLIER_MAX:
            raise BudgetError("budget-event", "the noise multiplier is not in [0.2, 10000]", hint=_HINT)
        _require_steps(self.steps)
        if (self.unit, self.neighboring_relation, self.sampler) != (PATIENT, ADD_OR_REMOVE_ONE, POISSON):
            raise BudgetError("budget-event", "unit, relation or sampler is not one that is accounted for", hint=_HINT)
        if self.shared is not None:
            _require_shared(self.shared, self.noise_multiplier)

    @property
    def gaussian_multiplier(self) -> float:
        """The noise multiplier of the Gaussian mechanism by which this is accounted for."""
        shared, own = self.shared, self.noise_multiplier
        return own if shared is None else shared.gaussian_multiplier(own)


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
    accountant.history = [(noise, rate, steps) for rate, noise, steps, _ in costs]
    with warnings.catch_warnings():
        # It takes the logarithm of 1 - sampling_rate, and sizes its grid by RDP with few orders. Both are harmless.
        warnings.filterwarnings("ignore", "divide by zero encountered in log", RuntimeWarning)
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(accountant.get_epsilon(delta=delta, eps_error=0.01))


def epsilon_for_m_sites(sites: Sequence[Iterable[Event]], delta: float, m: int, *, interval: float = INTERVAL) -> float:
    """The epsilon of one patient whose data is at `m` of these sites: the worst `m` composed.

    `sites` holds the events of each site. The worst choice is looked for at an interval of 1e-3: among all of them if
    there are at most 64; otherwise it is the m sites of largest epsilon, which it is unless their mechanisms differ.
    Where these share the noise, such a patient is m times in one sum and has its noise only once: that costs more.
    """
    if not 1 <= m <= len(sites):
        raise BudgetError("budget-event", "there are fewer sites than a patient is said to be at", hint=_HINT)
    require_delta(delta)
    kinds = sorted(map(_own_and_shared, sites))
    if math.comb(len(kinds), m) > _SUBSETS_MAX:
        alone = {kind: _epsilon(_at_all((kind,)), delta, LIVE_INTERVAL) for kind in set(kinds)}
        choices = {tuple(sorted(kinds, key=lambda kind: alone[kind])[-m:])}
    else:
        choices = set(combinations(kinds, m))
    composed = set(map(_at_all, choices))
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
        return _epsilon((*spent_costs, (new.sampling_rate, noise_multiplier, steps, 1)), delta, interval)

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
            f"noise multiplier {kind.noise_multiplier:.12g}{_shared_words(kind)}, {kind.sensitivity_rule}"
        )
    for m in at_sites:
        there = round_up(epsilon_for_m_sites([kinds] * m, delta, m))
        lines.append(f"a patient at {m} such sites: epsilon {there:.12g}")
    return "\n".join([*lines, f"accountant: {accountant_name()}"])


def round_up(value: float) -> float:
    """To four decimals, never down: what is printed is still an upper bound."""
    return math.ceil(value * 1e4) / 1e4


def _shared_words(event: Event) -> str:
    return "" if event.shared is None else f" shared by {event.shared.honest_sites} honest sites"


def require_delta(delta: float) -> None:
    """Refuses a delta that the accountant cannot resolve, or that promises nothing."""
    if not DELTA_MIN <= delta < 1.0:
        raise BudgetError("budget-event", "delta is not in [1e-12, 1)", hint=_HINT)


def _require_shared(shared: SharedNoise, noise_multiplier: float) -> None:
    counts = (shared.honest_sites, shared.grid_bits)
    if (
        any(type(count) is not int for count in counts)
        or shared.honest_sites < HONEST_SITES_MIN
        or not 1 <= shared.grid_bits <= GRID_BITS_MAX
        or shared.share_variance(noise_multiplier) < SHARE_VARIANCE_MIN
    ):
        raise BudgetError("budget-event", "noise is not shared in a way that is accounted for", hint=_HINT)


def _require_steps(steps: int) -> None:
    if type(steps) is not int or not 0 <= steps <= STEPS_MAX:
        raise BudgetError("budget-event", "the number of steps is not an integer in [0, 10000000]", hint=_HINT)


_Cost = tuple[float, float, int, int]  # sampling rate, noise multiplier, steps, how often one person is in the sum
_Costs = tuple[_Cost, ...]


def _costs(events: Iterable[Event]) -> _Costs:
    return _merged((event.sampling_rate, event.gaussian_multiplier, event.steps, 1) for event in events)


def _own_and_shared(events: Iterable[Event]) -> tuple[_Costs, _Costs]:
    """What one site did with noise of its own, and what it was part of."""
    known = tuple(events)
    own, shared = ([event for event in known if (event.shared is not None) == which] for which in (False, True))
    return _costs(own), _costs(shared)


def _at_all(choice: Iterable[tuple[_Costs, _Costs]]) -> _Costs:
    """What was done with one person at all of these sites. Equal steps with shared noise were steps of one sum, as many
    of them as there can have been: for one person that is the worst."""
    found: list[_Cost] = []
    met: dict[tuple[float, float], list[int]] = {}
    for own, shared in choice:
        found += own
        for sampling_rate, noise_multiplier, steps, _ in shared:
            met.setdefault((sampling_rate, noise_multiplier), []).append(steps)
    for mechanism, counts in met.items():
        for place, (before, steps) in enumerate(pairwise((0, *sorted(counts)))):
            found.append((*mechanism, steps - before, len(counts) - place))
    return _merged(found)


def _merged(costs: Iterable[_Cost]) -> _Costs:
    """What epsilon depends on, equal mechanisms merged, in one order: also the key of the memos below."""
    total: dict[tuple[float, float, int], int] = {}
    for sampling_rate, noise_multiplier, steps, times in costs:
        mechanism = (sampling_rate, noise_multiplier, times)
        total[mechanism] = total.get(mechanism, 0) + steps
    for steps in total.values():
        _require_steps(steps)
    return tuple(sorted((rate, noise, steps, times) for (rate, noise, times), steps in total.items() if steps))


# Memos of pure functions. A site asks for nearly the same epsilon in every round, and the sites of a simulation for the
# same one; one step's distribution takes most of the time.
@lru_cache(maxsize=512)
def _epsilon(costs: _Costs, delta: float, interval: float) -> float:
    # An upper bound by the Rényi divergence of order 2 (Mironov et al. 2019, eq. 3), to choose the interval by.
    bound = -math.log(delta)
    for sampling_rate, noise_multiplier, steps, times in costs:
        drawn = 1.0 - (1.0 - sampling_rate) ** times
        bound += steps * math.log1p(drawn**2 * math.expm1((times / noise_multiplier) ** 2))
    losses = _composed(costs, max(interval, 1e-6 * bound))
    return 0.0 if losses is None else float(losses.get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def _composed(costs: _Costs, interval: float) -> Any | None:
    """The privacy loss distribution of all of them, `None` for no steps."""
    if not costs:
        return None
    *earlier, (sampling_rate, noise_multiplier, steps, times) = costs
    before = _composed(tuple(earlier), interval)
    if not steps:
        return before
    if sampling_rate == 1.0:  # Gaussians compose to a Gaussian: no self-convolution needed
        last = _one_step(1.0, noise_multiplier / times / math.sqrt(steps), interval)
    elif times == 1:
        last = _one_step(sampling_rate, noise_multiplier, interval).self_compose(steps)
    else:
        last = _one_step_of_many(sampling_rate, noise_multiplier, times, interval).self_compose(steps)
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


@lru_cache(maxsize=4)
def _one_step_of_many(sampling_rate: float, noise_multiplier: float, times: int, interval: float) -> Any:
    """One person `times` in a sum, each by a coin of its own: a mixture of Gaussians (Choquette-Choo et al. 2024)."""
    from dp_accounting.pld import privacy_loss_distribution

    drawn = range(times + 1)
    chances = [math.comb(times, k) * sampling_rate**k * (1.0 - sampling_rate) ** (times - k) for k in drawn]
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sensitivities=list(drawn),
        sampling_probs=chances,
        value_discretization_interval=interval,
    )


def _guess(epsilon: float, delta: float, sampling_rate: float, steps: int, spent: _Costs) -> float:
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
