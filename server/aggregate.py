"""How the sites' updates become the next adapter: the weights, one function per method, the server's optimiser.

Updates arrive one at a time and are dropped once added: the memory is one sum and one update, however many sites there
are. Everything after the sites' own noise is post-processing: it costs no privacy.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from federation.adapter import Adapter, AdapterUpdate, Array
from federation.consent import Consent
from federation.errors import QuorumError

WEIGHT_MAX = 255
FIRST_DECAY, SECOND_DECAY = 0.9, 0.99  # Reddi et al. 2021, section 5
# Theirs is 1e-3, for updates of large models. A mean LoRA gradient is about 1e-3 a number: that would halve every step.
TAU = 1e-6

Updates = Iterable[tuple[AdapterUpdate, int]]  # each with its weight


def fedavg(updates: Updates) -> AdapterUpdate:
    """A and B, each averaged on its own. McMahan et al. 2017; for LoRA: FedIT (Zhang et al. 2024).

    The average of the products B·A is not the product of the averages; that error is the price of training both.
    """
    return weighted_mean(updates)


def ffa(updates: Updates) -> AdapterUpdate:
    """B only; A rests and is the same at all sites, so the average is exact: avg(B)·A = avg(B·A). Sun et al. 2024.

    That an update holds B alone is checked where it is received.
    """
    return weighted_mean(updates)


METHODS: Mapping[str, Callable[[Updates], AdapterUpdate]] = {"fedavg": fedavg, "ffa": ffa}


def weighted_mean(updates: Updates) -> AdapterUpdate:
    """Σ weight · update / Σ weight, in float32, added in the order of arrival. Raises: QuorumError if there is none."""
    total: dict[str, Array] = {}
    total_weight = 0
    for update, weight in updates:
        for name, array in update.arrays.items():
            if name in total:
                total[name] += array if weight == 1 else array * np.float32(weight)
            else:
                total[name] = array * np.float32(weight)
            del array
        total_weight += weight
        del update  # before the next one is received
    if total_weight == 0:
        raise QuorumError("quorum-answers", "no update to average", hint="see why the sites' answers were left out")
    for array in total.values():
        array /= np.float32(total_weight)
        array.flags.writeable = False
    return AdapterUpdate(total)


def public_weights(kind: str, consents: Mapping[str, Consent]) -> dict[str, int]:
    """A weight from 1 to 255 for every participant, from numbers that the sites have published.

    "inverse-noise-variance": ∝ (D/σ)², D = sampling rate × declared patients, σ the noise multiplier: what a site's
    mean is worth under its noise (without privacy: equal). "declared-patients": ∝ declared patients. "equal".
    No site gets more than twice its equal share, up to the rounding to integers: above that the "sum" would nearly be
    one hospital's update, and the model that hospital's model.
    """
    if kind == "declared-patients":
        worth = {site: float(consent.declared_patients) for site, consent in consents.items()}
    elif kind == "inverse-noise-variance":
        worth = {site: _inverse_noise_variance(consent) for site, consent in consents.items()}
    else:
        worth = dict.fromkeys(consents, 1.0)
    return _integers(_capped(worth))


@dataclass(frozen=True)
class ServerState:
    """What the server's optimiser remembers between rounds. Empty for "mean"."""

    steps: int = 0
    first: AdapterUpdate | None = None
    second: AdapterUpdate | None = None


def next_adapter(
    adapter: Adapter, mean: AdapterUpdate, state: ServerState, *, optimizer: str, learning_rate: float
) -> tuple[Adapter, ServerState]:
    """The adapter of the next round. "mean": plus learning_rate × mean (1: FedAvg as published). "adam": FedAdam."""
    if optimizer == "adam":
        step, state = fed_adam(mean, state)
    else:
        step = mean
    return adapter.plus(step if learning_rate == 1.0 else step.scale(learning_rate)), state


def fed_adam(mean: AdapterUpdate, state: ServerState) -> tuple[AdapterUpdate, ServerState]:
    """Adam with the mean update in place of the negative gradient. Reddi et al. 2021, Algorithm 2, with the bias
    correction of Kingma & Ba 2015, without which the first rounds are short."""
    steps = state.steps + 1
    first = _decayed(state.first, mean, FIRST_DECAY, squared=False)
    second = _decayed(state.second, mean, SECOND_DECAY, squared=True)
    first_full, second_full = 1 - FIRST_DECAY**steps, 1 - SECOND_DECAY**steps
    step = {
        name: (first.arrays[name] / np.float32(first_full))
        / (np.sqrt(second.arrays[name] / np.float32(second_full)) + np.float32(TAU))
        for name in mean.arrays
    }
    return AdapterUpdate(step), ServerState(steps, first, second)


def _decayed(before: AdapterUpdate | None, mean: AdapterUpdate, decay: float, *, squared: bool) -> AdapterUpdate:
    new = {name: array * array if squared else array for name, array in mean.arrays.items()}
    old = {name: np.float32(0) for name in new} if before is None else before.arrays
    return AdapterUpdate({name: np.float32(decay) * old[name] + np.float32(1 - decay) * new[name] for name in new})


def _inverse_noise_variance(consent: Consent) -> float:
    if consent.terms is None:
        return 1.0
    return (consent.terms.sampling_rate * consent.declared_patients / consent.terms.noise_multiplier) ** 2


def _capped(worth: Mapping[str, float]) -> dict[str, float]:
    """Shares of 1, none above 2/K: what is cut off goes to the others in proportion, who may reach the cap in turn."""
    cap = 2 / len(worth) if worth else 1.0
    held: dict[str, float] = {}
    while True:
        free = {site: value for site, value in worth.items() if site not in held}
        left, total = 1 - sum(held.values()), sum(free.values())
        over = {site: cap for site, value in free.items() if left * value / total > cap}
        if not over:
            return {site: held.get(site, left * value / total if total else 0.0) for site, value in worth.items()}
        held |= over


def _integers(shares: Mapping[str, float]) -> dict[str, int]:
    largest = max(shares.values(), default=1.0)
    return {site: max(1, math.floor(WEIGHT_MAX * share / largest + 0.5)) for site, share in shares.items()}
