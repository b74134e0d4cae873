"""From updates to the next adapter, by hand."""

import weakref

import numpy as np
import pytest

from federation.adapter import Adapter, AdapterUpdate
from federation.consent import Consent, PrivacyTerms
from federation.errors import QuorumError
from server.aggregate import (
    METHODS,
    TAU,
    WEIGHT_MAX,
    ServerState,
    fed_adam,
    next_adapter,
    public_weights,
    weighted_mean,
)

SHAPES = {"m.lora_A.weight": (2, 5), "m.lora_B.weight": (4, 2)}


def update(seed: int, factors=("A", "B")) -> AdapterUpdate:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in SHAPES.items()}
    return AdapterUpdate(arrays).part(frozenset(factors))


def consent(declared: int, noise: float | None = 1.0, rate: float = 0.1) -> Consent:
    terms = None if noise is None else PrivacyTerms(noise, rate, 1e-5, 1.0, 2.0)
    return Consent("ab" * 32, SHAPES, declared, terms)


@pytest.mark.parametrize("sites", range(1, 8))
def test_the_mean_is_the_weighted_mean_by_hand(sites):
    updates = [(update(seed), seed + 1) for seed in range(sites)]
    expected = sum(w * u.flatten().astype(np.float64) for u, w in updates) / sum(w for _, w in updates)

    np.testing.assert_allclose(METHODS["fedavg"](iter(updates)).flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sites", [2, 5, 20])
def test_with_a_shared_a_the_average_of_products_is_the_product_of_averages(sites):
    a = update(99).arrays["m.lora_A.weight"]
    updates = [(update(seed, ("B",)), 1 + seed % 3) for seed in range(sites)]
    mean = METHODS["ffa"](iter(updates))
    products = sum(w * (u.arrays["m.lora_B.weight"] @ a) for u, w in updates) / sum(w for _, w in updates)

    assert list(mean.arrays) == ["m.lora_B.weight"]
    np.testing.assert_allclose(mean.arrays["m.lora_B.weight"] @ a, products, rtol=1e-5, atol=1e-6)


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


def test_without_privacy_there_is_no_noise_to_weight_by():
    assert public_weights("inverse-noise-variance", {"a": consent(1, None), "b": consent(9, None)}) == {
        "a": 255,
        "b": 255,
    }


def test_the_mean_optimizer_adds_the_mean():
    start = Adapter(update(1).arrays)
    after, state = next_adapter(start, update(2), ServerState(), optimizer="mean", learning_rate=1.0)

    np.testing.assert_array_equal(after.flatten(), start.flatten() + update(2).flatten())
    assert state == ServerState()


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
    assert state.steps == 3
