"""The gate: what honest sites can make gets in, whatever the noise; what they cannot make does not."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import canonical
from federation.adapter import Adapter, AdapterUpdate, initial_adapter
from federation.consent import Consent, PrivacyTerms, patients_most
from federation.evaluation import Validation
from federation.plan import parse_plan
from federation.privacy.optimizer import Adam, DpAdamBC, Sgd
from federation.privacy.validation import CUT
from server.aggregate import METHODS, Aggregate, Average
from server.gate import UNLIKELY, allowed, compare, judge

SHAPES = {"m.lora_A.weight": (2, 30), "m.lora_B.weight": (40, 2)}
SIZE = 140
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[adapter]
rank = 2
[training]
local_steps = 3
sampling_rate = 0.2
learning_rate = 0.5
optimizer = "sgd"
[privacy]
noise_multiplier = 1.0
[aggregation]
robust = "none"
secure = false
max_update_rms = 1e6
""")
START = initial_adapter(SHAPES, a_init="orthonormal", seed=1)


def consent(declared: int = 100, noise: float = 1.0) -> Consent:
    return Consent("ab" * 32, SHAPES, declared, PrivacyTerms(noise, 0.2, 1e-5, 1.0, 2.0))


def of(numbers: np.ndarray) -> Aggregate:
    update = AdapterUpdate(Adapter(START.arrays).unflatten(numbers.astype(np.float32)).arrays)
    return Aggregate(update, update.norm())


def site_update(optimizer, *, declared: int, patients: int, noise: float, steps: int, rng) -> np.ndarray:
    """A whole local round in which every drawn patient pulls the same way, as hard as clipping allows."""
    point, divisor = np.zeros(SIZE, np.float32), 0.2 * declared
    pull = rng.standard_normal(SIZE)
    pull /= np.linalg.norm(pull)
    for _ in range(steps):
        drawn = rng.binomial(patients, 0.2)
        noisy = drawn * pull + noise * rng.standard_normal(SIZE)
        point = optimizer.step(point, (noisy / divisor).astype(np.float32))
    return point


def optimizer_of(name: str, *, declared: int, noise: float):
    match name:
        case "sgd":
            return Sgd(0.5, momentum=0.0)
        case "adam":
            return Adam(0.5)
        case _:
            return DpAdamBC(0.5, noise_std=noise / (0.2 * declared))


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(["sgd", "adam", "dp-adambc"]),
    declared=st.lists(st.integers(10, 400), min_size=1, max_size=6),
    noise=st.floats(0.2, 50),
    steps=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_what_sites_honestly_make_is_always_allowed(name, declared, noise, steps, seed):
    plan = replace(PLAN, training=replace(PLAN.training, optimizer=name, local_steps=steps))
    rng = np.random.default_rng(seed)
    sites, total, whole = {}, np.zeros(SIZE), 0
    for number, count in enumerate(declared):
        optimizer, weight = optimizer_of(name, declared=count, noise=noise), 1 + number
        update = site_update(
            optimizer, declared=count, patients=patients_most(count), noise=noise, steps=steps, rng=rng
        )
        sites[f"site-{number}"] = (consent(count, noise), weight)
        total, whole = total + weight * update, whole + weight

    verdict = judge(of(total / whole), bound=allowed(plan, START, 1, sites))
    assert verdict.rejection is None


def test_the_allowance_for_sgd_is_the_formula_by_hand():
    sites = {"a": (consent(100, 2.0), 3), "b": (consent(400, 1.0), 1)}
    shares = (3 / 4 / 20, 1 / 4 / 80)  # weight over whole weight and divisor
    most = (0.2 * 110, 0.2 * 440)  # sampling rate and patients_most
    spread = sum(share**2 * patients * 0.8 for share, patients in zip(shares, most, strict=True))
    drawn = shares[0] * most[0] + shares[1] * most[1] + 10 * shares[0] + math.sqrt((10 * shares[0]) ** 2 + 60 * spread)
    deviation = math.hypot(shares[0] * 2.0, shares[1] * 1.0)
    noise = deviation * (math.sqrt(SIZE) + math.sqrt(60))
    one = replace(PLAN, training=replace(PLAN.training, local_steps=1))

    assert UNLIKELY == 30
    assert allowed(PLAN, START, 1, sites) == pytest.approx(0.5 * (3 * drawn + math.sqrt(3) * noise) * 1.001)
    assert allowed(one, START, 1, sites) == pytest.approx(
        0.5 * math.sqrt(drawn**2 + noise**2 + 2 * drawn * deviation * math.sqrt(60)) * 1.001
    )


def test_the_noise_of_many_sites_is_allowed_less_than_one_tenfold_update():
    """Ten sites, as many numbers as B has in a large model: one update times -10 makes the mean twice too long."""
    shapes = {"m.lora_A.weight": (8, 800_000), "m.lora_B.weight": (800_000, 8)}
    site = Consent("ab" * 32, shapes, 1000, PrivacyTerms(2.0, 0.2, 1e-5, 1.0, 2.0))
    bound = allowed(PLAN, START, 1, {f"site-{n}": (site, 1) for n in range(10)})
    one = 0.5 * math.sqrt(3) * 2.0 / 200 * math.sqrt(12_800_000)  # learning rate · sqrt(steps) · s/D · sqrt(d)

    assert math.sqrt(10) / 10 * one < bound < math.sqrt(9 + 100) / 10 * one / 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_aggregate_that_is_not_finite_is_rejected_whatever_is_allowed(value):
    numbers = np.zeros(SIZE)
    numbers[7] = value
    verdict = judge(of(numbers), bound=1e30)

    assert verdict.rejection == "gate-not-finite" and verdict.value()["norm"] is None


@given(st.floats(1e-6, 1e6), st.floats(1.0001, 1e6))
def test_an_aggregate_is_in_up_to_the_bound_and_out_above_it(bound, factor):
    numbers = np.zeros(SIZE)
    numbers[0] = 1.0
    exact = replace(of(numbers), movement=bound)

    assert judge(exact, bound=bound).rejection is None
    assert judge(replace(exact, movement=bound * factor), bound=bound).rejection == "gate-bound"


def test_a_huge_update_is_out_even_where_there_is_no_privacy_to_bound_it():
    plan = replace(PLAN, privacy=replace(PLAN.privacy, unit="none", noise_multiplier=None),
                   aggregation=replace(PLAN.aggregation, max_update_rms=1.0))  # fmt: skip
    bound = allowed(plan, START, 1, {"a": (replace(consent(), terms=None), 1)})

    assert bound == pytest.approx(math.sqrt(SIZE), rel=2e-3)
    assert judge(of(np.full(SIZE, 2.0)), bound=bound).rejection == "gate-bound"


def test_only_the_factor_of_the_round_counts_under_rolora():
    plan = replace(PLAN, adapter=replace(PLAN.adapter, method="rolora"))
    sites = {"a": (consent(noise=50.0), 1)}
    bounds = [allowed(plan, START, number, sites) for number in (1, 2)]

    assert allowed(PLAN, START, 1, sites) > bounds[0] > bounds[1]  # B has 80 numbers, A has 60


def test_in_one_step_ten_small_hospitals_noise_does_not_hide_one_tenfold_update():
    """Sixty patients each, and a noise that hardly hides them: drift and noise added up plainly would let it in."""
    shapes = {"m.lora_A.weight": (8, 1000), "m.lora_B.weight": (1000, 8)}
    plan = replace(PLAN, training=replace(PLAN.training, local_steps=1, sampling_rate=0.5, learning_rate=1.0))
    site = Consent("ab" * 32, shapes, 60, PrivacyTerms(0.9, 0.5, 1e-3, 1.0, 2.0))
    bound = allowed(plan, START, 1, {f"site-{n}": (site, 1) for n in range(10)})
    noise = 0.9 / 30 * math.sqrt(16_000)  # of one site

    assert math.hypot(1.0, noise / math.sqrt(10)) < bound < math.sqrt(9 + 100) / 10 * noise


def test_one_factor_of_ten_small_hospitals_does_not_hide_one_tenfold_update():
    """`ffa` has half the numbers, so half the squared noise: what is left of the room is the drift's."""
    shapes = {"m.lora_A.weight": (8, 1000), "m.lora_B.weight": (1000, 8)}
    plan = replace(PLAN, training=replace(PLAN.training, local_steps=1, sampling_rate=0.5, learning_rate=1.0),
                   adapter=replace(PLAN.adapter, method="ffa"))  # fmt: skip
    site = Consent("ab" * 32, shapes, 60, PrivacyTerms(0.9, 0.5, 1e-3, 1.0, 2.0))
    bound = allowed(plan, START, 1, {f"site-{n}": (site, 1) for n in range(10)})
    noise = 0.9 / 30 * math.sqrt(8_000)  # of one site

    assert math.hypot(1.0, noise / math.sqrt(10)) < bound < math.sqrt(9 + 100) / 10 * noise


def test_no_site_no_movement():
    assert allowed(PLAN, START, 1, {}) == 0.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), length=st.floats(0.01, 10), count=st.integers(1, 5))
def test_under_stack_no_mean_of_products_moves_further_than_its_bound(tmp_path_factory, seed, length, count):
    rng = np.random.default_rng(seed)
    plan = replace(PLAN, adapter=replace(PLAN.adapter, method="stack"), aggregation=replace(
        PLAN.aggregation, max_update_rms=length / math.sqrt(SIZE)))  # fmt: skip
    start = Adapter({name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()})
    updates = []
    for _ in range(count):
        numbers = rng.standard_normal(SIZE)
        updates.append((of(length * numbers / np.linalg.norm(numbers)).update, 1))
    made = METHODS["stack"](start, updates, Average("none", tmp_path_factory.getbasetemp()))
    bound = allowed(plan, start, 1, {f"site-{n}": (consent(noise=1e4), 1) for n in range(count)})

    assert judge(made, bound=bound).rejection is None


HELD_OUT = {"a": 20.0, "b": 40.0}


def said(change: float, noise: float = 2.0) -> Validation:
    return Validation(PrivacyTerms(noise, 1.0, 1e-4, 1.0, 1.0), change)


@pytest.mark.parametrize(
    "told, drop_max, rejection",
    [
        ({}, 0.0, None),
        ({"a": said(0.01), "b": said(0.02)}, 0.05, None),
        ({"a": said(-0.2), "b": said(-0.2)}, 0.05, "gate-worse"),
        ({"a": said(-0.08), "b": said(-0.08)}, 0.05, None),  # within three standard deviations of the noise
        ({"a": said(-0.08, 0.5), "b": said(-0.08, 0.5)}, 0.05, "gate-worse"),
        ({"a": said(-0.2, 0.2), "b": said(1e9, 0.2)}, 0.05, None),  # the larger site says otherwise
        ({"a": said(1e9, 0.2), "b": said(-0.2, 0.2)}, 0.05, "gate-worse"),  # the smaller one is not believed beyond CUT
    ],
)
def test_a_candidate_is_worse_if_the_held_out_patients_say_so_through_the_noise(told, drop_max, rejection):
    verdict = compare(judge(of(np.zeros(SIZE)), bound=1.0), told, HELD_OUT, drop_max=drop_max)

    assert verdict.rejection == rejection
    assert (verdict.value()["validation"] is None) == (not told)


def test_sites_weigh_by_how_precise_they_are_and_the_noise_is_that_of_the_mean():
    told = {"a": said(0.1), "b": said(-0.05)}
    verdict = compare(judge(of(np.zeros(SIZE)), bound=1.0), told, HELD_OUT, drop_max=0.05)

    precisions = [(20 / (CUT * 2)) ** 2, (40 / (CUT * 2)) ** 2]
    assert verdict.change == pytest.approx((0.1 * precisions[0] - 0.05 * precisions[1]) / sum(precisions))
    assert verdict.noise == pytest.approx(sum(precisions) ** -0.5)
    assert verdict.value()["validation"] == {
        "change": canonical.decimal(verdict.change), "noise": canonical.decimal(verdict.noise),
        "sites": {"a": canonical.decimal(0.1), "b": canonical.decimal(-0.05)},
    }  # fmt: skip
