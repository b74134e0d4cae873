"""From updates to the next adapter, by hand."""

import weakref

import numpy as np
import pytest

from federation.adapter import Adapter, AdapterUpdate, at_rank
from federation.consent import Consent, PrivacyTerms
from federation.errors import QuorumError
from server.aggregate import (
    METHODS,
    TAU,
    WEIGHT_MAX,
    Average,
    ServerState,
    averaged,
    compress,
    fed_adam,
    fed_avg_m,
    given_out,
    next_adapter,
    public_weights,
)
from server.robust import weighted_mean

SHAPES = {"m.lora_A.weight": (2, 5), "m.lora_B.weight": (4, 2)}


def update(seed: int, factors=("A", "B")) -> AdapterUpdate:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    return AdapterUpdate(arrays).part(frozenset(factors))


def start(seed: int = 50) -> Adapter:
    return Adapter(update(seed).arrays)


@pytest.fixture
def average(tmp_path) -> Average:
    return Average("none", tmp_path)


def consent(declared: int, noise: float | None = 1.0, rate: float = 0.1) -> Consent:
    terms = None if noise is None else PrivacyTerms(noise, rate, 1e-5, 1.0, 2.0)
    return Consent("ab" * 32, SHAPES, declared, terms)


@pytest.mark.parametrize("sites", range(1, 8))
def test_the_mean_is_the_weighted_mean_by_hand(sites, average):
    updates = [(update(seed), seed + 1) for seed in range(sites)]
    expected = sum(w * u.flatten().astype(np.float64) for u, w in updates) / sum(w for _, w in updates)

    made = METHODS["fedavg"](start(), iter(updates), average)

    np.testing.assert_allclose(made.update.flatten(), expected, rtol=1e-5, atol=1e-6)
    assert made.movement == pytest.approx(np.linalg.norm(expected), rel=1e-5) and made.energy_cut is None


@pytest.mark.parametrize("sites", [2, 5, 20])
@pytest.mark.parametrize("method, moves", [("ffa", "B"), ("rolora", "B"), ("rolora", "A")])
def test_while_one_factor_rests_the_product_of_averages_is_the_average_of_products(method, moves, sites, average):
    updates = [(update(seed, (moves,)), 1 + seed % 3) for seed in range(sites)]
    made = METHODS[method](start(), iter(updates), average).update
    after = start().plus(made)
    weight = sum(w for _, w in updates)
    products = sum(w * product(start().plus(u)) for u, w in updates) / weight

    np.testing.assert_allclose(product(after), products, rtol=1e-5, atol=1e-6)
    rests = "m.lora_A.weight" if moves == "B" else "m.lora_B.weight"
    assert after.arrays[rests].tobytes() == start().arrays[rests].tobytes() and made.factors == {moves}


def product(adapter: Adapter) -> np.ndarray:
    return adapter.arrays["m.lora_B.weight"].astype(np.float64) @ adapter.arrays["m.lora_A.weight"]


def nearest(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, singular, vh = np.linalg.svd(matrix)
    return (u[:, :rank] * singular[:rank]) @ vh[:rank]


@pytest.mark.parametrize("sites", [1, 2, 7])
def test_stack_is_the_dense_average_of_the_products_cut_to_the_rank(sites, average):
    updates = [(update(seed), 1 + seed % 3) for seed in range(sites)]
    made = METHODS["stack"](start(), iter(updates), average)
    weight = sum(w for _, w in updates)
    dense = sum(w * product(start().plus(u)) for u, w in updates) / weight
    energies = np.linalg.svd(dense, compute_uv=False) ** 2

    after = start().plus(made.update)
    np.testing.assert_allclose(product(after), nearest(dense, 2), rtol=1e-5, atol=1e-5)
    assert made.energy_cut == pytest.approx(energies[2:].sum() / energies.sum(), abs=1e-9)
    moved = np.linalg.norm(nearest(dense, 2) - product(start()))
    assert made.movement == pytest.approx(moved, rel=1e-6)


def test_stack_adds_what_sites_of_lower_rank_changed_and_keeps_what_they_never_saw(average):
    ranks = {3: 2, 4: 1, 5: 1}
    updates = [
        (AdapterUpdate(cut), 1)
        for cut in (
            {name: update(seed).arrays[name][tuple(map(slice, shape))] for name, shape in at_rank(SHAPES, rank).items()}
            for seed, rank in ranks.items()
        )
    ]
    begun = [start().cut(rank) for rank in ranks.values()]
    changes = [product(own.plus(u)) - product(own) for (u, _), own in zip(updates, begun, strict=True)]
    dense = product(start()) + sum(changes) / 3
    made = METHODS["stack"](start(), iter(updates), average)

    np.testing.assert_allclose(product(start().plus(made.update)), nearest(dense, 2), rtol=1e-5, atol=1e-5)


def test_stack_without_a_change_changes_no_product_and_still_has_directions_to_learn_in(average):
    nothing = AdapterUpdate({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
    first = Adapter({**start().arrays, "m.lora_B.weight": np.zeros((4, 2), np.float32)})
    for before in (start(), first):
        after = before.plus(METHODS["stack"](before, [(nothing, 1), (nothing, 2)], average).update)
        a = after.arrays["m.lora_A.weight"]

        np.testing.assert_allclose(product(after), product(before), atol=1e-5)
        np.testing.assert_allclose(a @ a.T, np.eye(2), atol=1e-5)


def test_stack_can_hold_a_tenfold_update_to_the_median_of_the_products(tmp_path):
    right = [(update(1).scale(0.1), 1)] * 4
    wrong = (update(1).scale(-10.0), 1)
    alone = METHODS["stack"](start(), right, Average("none", tmp_path)).movement
    plain = METHODS["stack"](start(), [*right, wrong], Average("none", tmp_path)).movement
    held = METHODS["stack"](start(), [*right, wrong], Average("median-norm", tmp_path)).movement

    assert plain > 10 * alone and held < 1.1 * alone


@pytest.mark.parametrize("outputs, inputs, rank, inner", [(9, 7, 3, 5), (2, 7, 3, 4), (7, 3, 3, 9), (5, 5, 5, 5)])
def test_compressing_is_the_truncated_svd_of_the_dense_product(outputs, inputs, rank, inner):
    rng = np.random.default_rng(outputs)
    left, right = rng.standard_normal((outputs, inner)), rng.standard_normal((inner, inputs))
    b, a, energies = compress(left, right, rank=rank)

    np.testing.assert_allclose(b @ a, nearest(left @ right, min(rank, outputs)), atol=1e-12)
    np.testing.assert_allclose(a @ a.T, np.eye(rank), atol=1e-12)
    assert energies.sum() == pytest.approx(np.linalg.norm(left @ right) ** 2)


def test_an_update_is_gone_before_the_next_one_arrives():
    alive = []

    def stream():
        for seed in range(5):
            assert all(reference() is None for reference in alive)
            arrays = update(seed).arrays
            alive.append(weakref.ref(arrays["m.lora_A.weight"]))
            yield AdapterUpdate(arrays), 1
            del arrays

    weighted_mean(stream())
    assert len(alive) == 5


def test_nothing_has_no_mean():
    with pytest.raises(QuorumError):
        weighted_mean(iter(()))


def test_equal_weights_are_equal_and_unequal_ones_follow_the_declared_patients():
    consents = {"a": consent(1000), "b": consent(500), "c": consent(250), "d": consent(750)}

    assert set(public_weights("equal", consents).values()) == {WEIGHT_MAX}
    assert public_weights("declared-patients", consents) == {"a": 255, "b": 128, "c": 64, "d": 191}


def test_inverse_noise_variance_is_the_square_of_patients_over_noise():
    consents = {"a": consent(1000, 1.0), "b": consent(2000, 2.0), "c": consent(500, 1.0), "d": consent(1000, 1.0)}

    assert public_weights("inverse-noise-variance", consents) == {"a": 255, "b": 255, "c": 64, "d": 255}


def test_no_site_gets_more_than_twice_its_equal_share():
    consents = {"a": consent(500), "b": consent(2000), "c": consent(5000), "d": consent(20000)}  # 89 % for d, uncapped
    for kind in ("inverse-noise-variance", "declared-patients"):
        weights = public_weights(kind, consents)

        assert max(weights.values()) / sum(weights.values()) <= 0.5 + 1 / WEIGHT_MAX
        assert min(weights.values()) >= 1
    # c has 25 of the 29.25 that are left for half of the weight: 255 · (0.5 · 25 / 29.25) / 0.5
    assert public_weights("inverse-noise-variance", consents)["c"] == 218


def test_weights_do_not_depend_on_the_order_of_the_sites_or_fail_for_one():
    consents = {"a": consent(500), "b": consent(700), "c": consent(90000)}

    assert public_weights("declared-patients", dict(reversed(consents.items()))) == public_weights(
        "declared-patients", consents
    )
    assert public_weights("declared-patients", {"a": consent(7)}) == {"a": 255}
    assert public_weights("equal", {}) == {}


def test_without_privacy_the_only_noise_is_who_was_drawn():
    consents = {site: consent(patients, None) for site, patients in {"a": 20, "b": 50, "c": 50}.items()}
    assert public_weights("inverse-noise-variance", consents) == public_weights("declared-patients", consents)


def test_the_mean_optimizer_adds_the_mean():
    start = Adapter(update(1).arrays)
    after, state = next_adapter(start, update(2), ServerState(), optimizer="mean", learning_rate=1.0)

    np.testing.assert_array_equal(after.flatten(), start.flatten() + update(2).flatten())
    assert state == ServerState()


def test_the_mean_of_the_adapters_is_exponential_and_holds_no_start():
    state, seen = ServerState(), []
    for number in range(1, 6):
        adapter = Adapter(update(number).arrays)
        seen.append(adapter.flatten().astype(np.float64))
        state = averaged(adapter, state, decay=0.8)
        weights = 0.8 ** np.arange(number - 1, -1, -1)

        expected = np.average(seen, axis=0, weights=weights)
        np.testing.assert_allclose(given_out(adapter, state).flatten(), expected, rtol=1e-5, atol=1e-6)
    assert state.averaged == 5


def test_without_a_decay_the_last_adapter_is_given_out():
    adapter = Adapter(update(1).arrays)
    state = averaged(adapter, ServerState(), decay=0.0)

    assert state == ServerState() and given_out(adapter, state) is adapter


def test_the_optimiser_keeps_the_mean():
    adapter = Adapter(update(1).arrays)
    state = averaged(adapter, ServerState(), decay=0.8)
    for optimizer in ("adam", "momentum"):
        _, after = next_adapter(adapter, update(2), state, optimizer=optimizer, learning_rate=1.0)
        assert after.average is state.average and after.averaged == 1


def test_momentum_is_the_published_rule():
    state, velocity = ServerState(), 0.0
    for step in (1, 2, 3):
        moved, state = fed_avg_m(update(step), state)
        velocity = 0.9 * velocity + update(step).flatten().astype(np.float64)

        np.testing.assert_allclose(moved.flatten(), velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [fed_avg_m, fed_adam])
def test_under_rolora_each_factor_has_an_optimiser_of_its_own(optimizer):
    together, alone = ServerState(), {"A": ServerState(), "B": ServerState()}
    for step in range(1, 7):
        which = "B" if step % 2 else "A"
        moved, together = optimizer(update(step, (which,)), together)
        expected, alone[which] = optimizer(update(step, (which,)), alone[which])

        assert moved.digest() == expected.digest() and moved.factors == {which}
    assert together.steps == {"A": 3, "B": 3}


def test_adam_is_the_published_rule_with_bias_correction():
    state, first, second = ServerState(), 0.0, 0.0
    for step in (1, 2, 3):
        mean = update(step)
        moved, state = fed_adam(mean, state)
        vector = mean.flatten().astype(np.float64)
        first = 0.9 * first + 0.1 * vector
        second = 0.99 * second + 0.01 * vector**2
        expected = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.99**step)) + TAU)

        np.testing.assert_allclose(moved.flatten(), expected, rtol=2e-5, atol=1e-6)
    assert state.steps == {"A": 3, "B": 3}
