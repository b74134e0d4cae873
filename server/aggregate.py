"""How the sites' updates become the next adapter: one function per method, the weights, the server's optimiser.

Without a rule against wrong updates each one is added when it arrives and dropped: the memory is one sum and one
update, however many sites there are. The rules of `robust.py` and `stack` need all of them (held.py). Everything after
the sites' own noise is post-processing: it costs no privacy. Sums run in the order of the questions, which is that of
the site ids, so equal answers give equal bits. When to choose what: docs/aggregation.md.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.adapter import Adapter, AdapterUpdate, Factor, factor
from federation.consent import Consent
from federation.errors import QuorumError
from federation.plan import RunPlan
from server.held import Held, Updates
from server.robust import RULES, clip_factors

WEIGHT_MAX = 255
FIRST_DECAY, SECOND_DECAY = 0.9, 0.99  # Reddi et al. 2021, section 5
# Theirs is 1e-3, for updates of large models. A mean LoRA gradient is about 1e-3 a number: that would halve every step.
TAU = 1e-6

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Average:
    """How updates are averaged number by number: the plan's rule, and where it may put what memory has no room for."""

    rule: str
    folder: Path

    def __call__(self, updates: Updates) -> AdapterUpdate:
        return RULES[self.rule](updates, self.folder)


@dataclass(frozen=True)
class Aggregate:
    """What a method makes of the updates of a round."""

    update: AdapterUpdate  # leads from the round's adapter to the next one
    movement: float  # its L2 norm; under `stack` that of the change of the products, which depends on no basis
    energy_cut: float | None = None  # under `stack`: the share of the products' energy that the rank has no room for


def fedavg(adapter: Adapter, updates: Updates, average: Average) -> Aggregate:
    """A and B, each averaged on its own. McMahan et al. 2017; for LoRA: FedIT (Zhang et al. 2024).

    The average of the products B·A is not the product of the averages; that error is the price of training both.
    """
    return _moved(average(updates))


def ffa(adapter: Adapter, updates: Updates, average: Average) -> Aggregate:
    """B only; A rests and is the same at all sites, so the average is exact: avg(B)·A = avg(B·A). Sun et al. 2024.

    That an update holds B alone is checked where it is received.
    """
    return _moved(average(updates))


def rolora(adapter: Adapter, updates: Updates, average: Average) -> Aggregate:
    """B in odd rounds, A in even ones; the other rests, so each average is exact as in `ffa`. Chen et al. 2025.

    Which one it is, the plan says (`AdapterPlan.trained_factors`); an update with the other one is refused.
    """
    return _moved(average(updates))


def stack(adapter: Adapter, updates: Updates, average: Average) -> Aggregate:
    """The products themselves are averaged, whatever the rank of each site, and cut back to the adapter's rank by SVD.

        new B·A = the best approximation of that rank to   B·A + Σ w_k c_k (B_k·A_k - start_k) / Σ w_k

    B_k·A_k is what site k trained, start_k what it began from: the first components of B·A, as many as its rank. With
    equal ranks this is Σ w_k B_k·A_k / Σ w_k. c_k is 1, or under `median-norm` what holds the change of its product to
    the median. Adding changes, not products, keeps the components that sites of low rank never see; averaging whole
    products would let them decay (rank collapse, raFLoRA 2026).

    Guarantees: in float64 and exact before the cut; no matrix of outputs × inputs is ever formed. The new A has
    orthonormal rows, ordered by what their components contribute, so `Adapter.cut` gives a site the best of its rank.
    """
    with Held(average.folder).take(updates) as held:
        if not len(held):
            raise QuorumError("quorum-answers", "no update to stack", hint="see why the sites' answers were left out")
        weights = np.array(held.weights, np.float64) / sum(held.weights)
        if average.rule == "median-norm":
            weights *= clip_factors([_product_change(adapter, update) for update in held.updates()])
        matrices: dict[str, npt.NDArray[np.float32]] = {}
        moved = whole = lost = 0.0
        for name_a in (name for name in adapter.arrays if factor(name) == "A"):
            name_b = partner(name_a)
            start = _pair(adapter.arrays[name_b], adapter.arrays[name_a])
            trained = [_trained(start, update.arrays[name_b], update.arrays[name_a]) for update in held.updates()]
            left, right = _stacked(start, trained, weights)
            b, a, energies = compress(left, right, rank=start[1].shape[0])
            matrices[name_b], matrices[name_a] = b.astype(np.float32), a.astype(np.float32)
            moved += product_energy(np.hstack([b, -start[0]]), np.vstack([a, start[1]]))
            whole, lost = whole + float(energies.sum()), lost + float(energies[start[1].shape[0] :].sum())
    update = AdapterUpdate({name: matrices[name] - array for name, array in adapter.arrays.items()})
    return Aggregate(update, math.sqrt(moved), lost / whole if whole else 0.0)


Method = Callable[[Adapter, Updates, Average], Aggregate]
METHODS: Mapping[str, Method] = {"fedavg": fedavg, "ffa": ffa, "rolora": rolora, "stack": stack}


def partner(name: str) -> str:
    """The other matrix of the pair."""
    ours, other = ("lora_A", "lora_B") if factor(name) == "A" else ("lora_B", "lora_A")
    return f"{name.removesuffix(f'{ours}.weight')}{other}.weight"


def compress(left: Matrix, right: Matrix, *, rank: int) -> tuple[Matrix, Matrix, npt.NDArray[np.float64]]:
    """The best B, A of this rank with B·A near left·right, and the energies (squared singular values) of the product.

    QR of both sides, SVD of the small core between them. A gets orthonormal rows, also where the product has fewer
    components than the rank: a component of nothing can still learn, because its row of A is not zero.
    """
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, singular, vh = np.linalg.svd(r_left @ r_right.T, full_matrices=True)
    b, a = np.zeros((left.shape[0], rank)), np.zeros((rank, right.shape[1]))
    some, rows = min(rank, len(singular)), min(rank, len(vh))
    b[:, :some] = q_left @ (u[:, :some] * singular[:some])
    a[:rows] = vh[:rows] @ q_right.T
    signs = np.where(a[np.arange(rank), np.abs(a).argmax(axis=1)] < 0, -1.0, 1.0)  # one of the two equal answers
    return b * signs, a * signs[:, None], singular**2


def product_energy(left: Matrix, right: Matrix) -> float:
    """‖left·right‖² (Frobenius), without forming the product."""
    return max(0.0, float(np.sum((left.T @ left) * (right @ right.T))))


def _pair(b: npt.NDArray[np.float32], a: npt.NDArray[np.float32]) -> tuple[Matrix, Matrix]:
    return b.astype(np.float64), a.astype(np.float64)


def _trained(
    start: tuple[Matrix, Matrix], change_b: npt.NDArray[np.float32], change_a: npt.NDArray[np.float32]
) -> tuple[Matrix, Matrix]:
    """B and A as the site had them in the end, of its own rank."""
    rank = change_a.shape[0]
    return start[0][:, :rank] + change_b, start[1][:rank] + change_a


def _stacked(
    start: tuple[Matrix, Matrix], trained: Sequence[tuple[Matrix, Matrix]], weights: npt.NDArray[np.float64]
) -> tuple[Matrix, Matrix]:
    """Two factors whose product is the sum in `stack`: what stays of the start, then each site's own."""
    stays = np.ones(start[1].shape[0])
    for (_, a), weight in zip(trained, weights, strict=True):
        stays[: a.shape[0]] -= weight
    left = [start[0] * stays, *(weight * b for (b, _), weight in zip(trained, weights, strict=True))]
    return np.hstack(left), np.vstack([start[1], *(a for _, a in trained)])


def _product_change(adapter: Adapter, update: AdapterUpdate) -> float:
    """L2 norm of B_k·A_k - start_k over all pairs: how far a site moved the model, in any basis."""
    energy = 0.0
    for name_a in (name for name in update.arrays if factor(name) == "A"):
        name_b = partner(name_a)
        start = _pair(adapter.arrays[name_b], adapter.arrays[name_a])
        b, a = _trained(start, update.arrays[name_b], update.arrays[name_a])
        rank = a.shape[0]
        energy += product_energy(np.hstack([b, -start[0][:, :rank]]), np.vstack([a, start[1][:rank]]))
    return math.sqrt(energy)


def _moved(update: AdapterUpdate) -> Aggregate:
    return Aggregate(update, update.norm())


def weights_of(plan: RunPlan, consents: Mapping[str, Consent]) -> dict[str, int]:
    """What each site counts in the mean, by the plan's rule. Where the sites share the noise their sums are added as
    they are, as if all patients were in one place, and divided by the declared patients of all: nothing is capped."""
    if plan.privacy.noise == "shared":
        return {site: consent.declared_patients for site, consent in consents.items()}
    return public_weights(plan.aggregation.weights, consents)


def public_weights(kind: str, consents: Mapping[str, Consent]) -> dict[str, int]:
    """A weight from 1 to 255 for every participant, from numbers that the sites have published.

    "inverse-noise-variance": ∝ (D/σ)², D = sampling rate × declared patients, σ the noise multiplier: what a site's
    mean is worth under its noise (without privacy, ∝ D: under the chance of who was drawn). "declared-patients":
    ∝ declared patients. "equal".
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
    """What the server remembers between rounds: its optimiser's moments, none for "mean", and the mean of the adapters.

    Steps are counted, and moments kept, for each factor on its own: under `rolora` one rests while the other moves.
    """

    steps: Mapping[Factor, int] = field(default_factory=dict)
    first: AdapterUpdate | None = None
    second: AdapterUpdate | None = None
    average: Adapter | None = None  # None for a plan without `ema_decay`
    averaged: int = 0  # adapters in it


def next_adapter(
    adapter: Adapter, mean: AdapterUpdate, state: ServerState, *, optimizer: str, learning_rate: float
) -> tuple[Adapter, ServerState]:
    """The adapter of the next round: this one plus learning_rate × what the server's optimiser makes of the mean.

    "mean": the mean itself (with learning_rate 1 FedAvg as published). "momentum": FedAvgM. "adam": FedAdam.
    """
    step = mean
    if optimizer != "mean":
        step, state = (fed_adam if optimizer == "adam" else fed_avg_m)(mean, state)
    return adapter.plus(step if learning_rate == 1.0 else step.scale(learning_rate)), state


def averaged(adapter: Adapter, state: ServerState, *, decay: float) -> ServerState:
    """The state with one more adapter in the exponential mean of them all: Σ d^(t-i)·x_i / Σ d^(t-i), i = 1 … t.

    Training goes on from the adapter itself; the mean is what a run gives out. Noise that moves the adapter to and fro
    from round to round cancels in it, at no cost in privacy: it is computed from what is public already. The start is
    not in it. Polyak & Juditsky 1992; under differential privacy: De et al. 2022 (arXiv:2204.13650), section 3.2.
    """
    if decay == 0:
        return state
    count = state.averaged + 1
    before = adapter if state.average is None else state.average
    share = (1 - decay) / (1 - decay**count)
    return replace(state, average=before.plus(adapter.minus(before).scale(share)), averaged=count)


def given_out(adapter: Adapter, state: ServerState) -> Adapter:
    """What a run gives out if it ends here."""
    return adapter if state.average is None else state.average


def fed_avg_m(mean: AdapterUpdate, state: ServerState) -> tuple[AdapterUpdate, ServerState]:
    """The mean updates of the past, each round's with 0.9 of the weight of the one after it. Hsu et al. 2019, FedAvgM.

    A steady mean adds up to ten times itself: with learning_rate 0.1 the steps are as long as those of "mean".
    """
    kept = _arrays(state.first)
    step = {
        name: array if name not in kept else np.float32(FIRST_DECAY) * kept[name] + array
        for name, array in mean.arrays.items()
    }
    first = AdapterUpdate({**kept, **step})
    return first.part(mean.factors), replace(state, steps=_counted(state, mean), first=first)


def fed_adam(mean: AdapterUpdate, state: ServerState) -> tuple[AdapterUpdate, ServerState]:
    """Adam with the mean update in place of the negative gradient. Reddi et al. 2021, Algorithm 2, with the bias
    correction of Kingma & Ba 2015, without which the first rounds are short."""
    steps = _counted(state, mean)
    first = _decayed(state.first, mean, FIRST_DECAY, squared=False)
    second = _decayed(state.second, mean, SECOND_DECAY, squared=True)
    step = {}
    for name in mean.arrays:
        first_full, second_full = (1 - decay ** steps[factor(name)] for decay in (FIRST_DECAY, SECOND_DECAY))
        step[name] = (first[name] / np.float32(first_full)) / (
            np.sqrt(second[name] / np.float32(second_full)) + np.float32(TAU)
        )
    kept = AdapterUpdate({**_arrays(state.first), **first}), AdapterUpdate({**_arrays(state.second), **second})
    return AdapterUpdate(step), replace(state, steps=steps, first=kept[0], second=kept[1])


def _counted(state: ServerState, mean: AdapterUpdate) -> dict[Factor, int]:
    return {**state.steps, **{one: state.steps.get(one, 0) + 1 for one in sorted(mean.factors)}}


def _arrays(update: AdapterUpdate | None) -> Mapping[str, npt.NDArray[np.float32]]:
    return {} if update is None else update.arrays


def _decayed(
    before: AdapterUpdate | None, mean: AdapterUpdate, decay: float, *, squared: bool
) -> dict[str, npt.NDArray[np.float32]]:
    new = {name: array * array if squared else array for name, array in mean.arrays.items()}
    old = {name: _arrays(before).get(name, np.float32(0)) for name in new}
    return {name: np.float32(decay) * old[name] + np.float32(1 - decay) * new[name] for name in new}


def _inverse_noise_variance(consent: Consent) -> float:
    if consent.terms is None:
        return float(consent.declared_patients)
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
