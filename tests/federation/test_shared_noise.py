"""Noise that sites share: what we account for, against what follows from the probabilities themselves.

Here everything is small enough to add up: one or two numbers, every whole number one by one.
"""

import math

import numpy as np
import pytest

from federation.errors import BudgetError
from federation.privacy.accounting import (
    Event,
    SharedNoise,
    describe,
    epsilon,
    epsilon_for_m_sites,
    epsilon_prv,
    merged,
)
from federation.privacy.clipping import BoundedSum, FlatClipping
from federation.privacy.grid import WholeSum
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling

KEY = bytes(range(32))


def discrete(variance, reach):
    raw = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * variance))
    return raw / raw.sum()


def sum_of_shares(shared, noise_multiplier, adders, reach):
    """The probabilities of what `adders` sites add together."""
    one = together = discrete(shared.share_variance(noise_multiplier), reach)
    for _ in range(adders - 1):
        together = np.convolve(together, one)
    middle = together.size // 2
    return together[middle - reach : middle + reach + 1]


def shifted(probabilities, by):
    moved = np.zeros_like(probabilities)
    moved[by:] = probabilities[: probabilities.size - by]
    return moved


def delta_of(with_, without, at):
    """The exact delta at this epsilon, adding or removing: the hockey-stick divergence both ways."""
    return max(np.maximum(one - math.exp(at) * other, 0).sum() for one, other in ((with_, without), (without, with_)))


@pytest.mark.parametrize("honest", [2, 4, 7])
def test_the_sum_of_shares_is_the_discrete_gaussian_of_all_of_them(honest):
    shared = SharedNoise(honest, 5)
    together, whole = sum_of_shares(shared, 1.0, honest, 300), discrete(1024.0, 300)
    ratio = together[60:541] / whole[60:541]  # out to 7.5 deviations; the convolution itself is cut at 9

    np.testing.assert_allclose(ratio, 1.0, rtol=1e-11)


@pytest.mark.parametrize("adders", [4, 6])  # those counted on, and more
@pytest.mark.parametrize("sampling_rate", [1.0, 0.5, 0.05])
@pytest.mark.parametrize("noise_multiplier", [0.8, 2.0])
def test_epsilon_of_one_step_is_never_below_the_exact_one_and_hardly_above(noise_multiplier, sampling_rate, adders):
    shared, bits, delta = SharedNoise(4, 4), 4, 1e-4
    noise = sum_of_shares(shared, noise_multiplier, adders, 900)
    with_ = sampling_rate * shifted(noise, 2**bits) + (1 - sampling_rate) * noise
    stated = epsilon([Event(sampling_rate, noise_multiplier, 1, "", shared=shared)], delta)

    assert delta_of(with_, noise, stated) <= delta * (1 + 1e-9)
    if adders == 4:
        assert delta_of(with_, noise, stated * 0.94 - 1e-3) > delta, (
            "the bound is nearly exact, also on so coarse a grid"
        )


@pytest.mark.parametrize("shift", [(16, 0), (11, 11), (15, 5)])
def test_in_two_dimensions_no_direction_is_worse_than_what_is_stated(shift):
    shared, rate, delta = SharedNoise(3, 4), 0.3, 1e-3
    noise = sum_of_shares(shared, 1.0, 3, 200)
    alone = np.outer(noise, noise)
    moved = np.outer(shifted(noise, shift[0]), shifted(noise, shift[1]))
    stated = epsilon([Event(rate, 1.0, 1, "", shared=shared)], delta)

    assert math.hypot(*shift) <= 2**4
    assert delta_of(rate * moved + (1 - rate) * alone, alone, stated) <= delta * (1 + 1e-9)


def test_epsilon_of_many_steps_is_above_that_of_the_exact_probabilities_and_hardly():
    from dp_accounting.pld import privacy_loss_distribution

    shared, rate, steps, delta = SharedNoise(4, 5), 0.2, 30, 1e-4
    noise = sum_of_shares(shared, 1.5, 4, 420)
    with_ = rate * shifted(noise, 2**5) + (1 - rate) * noise
    logs = [{index: math.log(p) for index, p in enumerate(pmf) if p > 1e-300} for pmf in (noise[40:-40], with_[40:-40])]
    exact = max(
        privacy_loss_distribution.from_two_probability_mass_functions(one, other, pessimistic_estimate=False)
        .self_compose(steps)
        .get_epsilon_for_delta(delta)
        for one, other in (logs, reversed(logs))
    )
    stated = epsilon([Event(rate, 1.5, steps, "", shared=shared)], delta)

    assert exact <= stated <= 1.02 * exact


def test_sharing_costs_next_to_nothing_beside_one_trusted_party_and_never_less():
    own, shared = Event(0.2, 1.2, 24, "flat"), Event(0.2, 1.2, 24, "flat", shared=SharedNoise(4, 10))

    assert epsilon([own], 1e-3) <= epsilon([shared], 1e-3) <= epsilon([own], 1e-3) * 1.001
    assert epsilon([shared], 1e-3) == pytest.approx(epsilon_prv([shared], 1e-3), abs=0.013)
    assert merged([own, shared, shared]) == (own, Event(0.2, 1.2, 48, "flat", shared=SharedNoise(4, 10)))
    assert "shared by 4 honest sites" in describe([shared], 1e-3, at_sites=())


@pytest.mark.parametrize("m", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_person_at_several_sites_is_in_the_sum_as_often_and_its_noise_is_there_once(m):
    shared, rate, delta = SharedNoise(4, 4), 0.3, 1e-3
    event = Event(rate, 2.0, 1, "", shared=shared)
    noise = sum_of_shares(shared, 2.0, 4, 900)
    chances = [math.comb(m, k) * rate**k * (1 - rate) ** (m - k) for k in range(m + 1)]
    with_ = sum(chance * shifted(noise, 16 * times) for times, chance in enumerate(chances))
    stated = epsilon_for_m_sites([[event]] * 5, delta, m, interval=1e-3)

    assert delta_of(with_, noise, stated) <= delta * (1 + 1e-9)
    assert delta_of(with_, noise, 0.98 * stated) > delta
    assert stated > epsilon([event] * m, delta), "worse than as many sums of their own"


def test_what_sites_did_by_themselves_adds_up_as_always_beside_what_they_shared():
    own, shared = Event(0.5, 3.0, 2, ""), Event(1.0, 3.0, 2, "", shared=SharedNoise(4, 10))
    twice = [[own, shared], [shared], [own]]

    assert epsilon_for_m_sites([[own]] * 3, 1e-3, 2) == epsilon([own, own], 1e-3)
    # Once in the sum for two steps and twice for two: noise 3 and 3/2, all of them Gaussian.
    assert epsilon_for_m_sites([[shared, shared], [shared]], 1e-3, 2) == pytest.approx(
        epsilon([Event(1.0, 3.0, 2, ""), Event(1.0, 1.5, 2, "")], 1e-3), rel=1e-3
    )
    assert epsilon_for_m_sites(twice, 1e-3, 2) > epsilon_for_m_sites(twice, 1e-3, 1) > 0


@pytest.mark.parametrize(
    "noise_multiplier, honest, bits",
    [(1.0, 1, 10), (1.0, 0, 10), (1.0, True, 10), (1.0, 4, 0), (1.0, 4, 25), (1.0, 4.0, 10), (0.2, 128, 7)],
)
def test_a_share_that_the_proof_does_not_cover_is_refused(noise_multiplier, honest, bits):
    with pytest.raises(BudgetError) as caught:
        Event(0.1, noise_multiplier, 1, "", shared=SharedNoise(honest, bits))

    assert caught.value.code == "budget-event"


SHARED = Mechanism(PoissonSampling(0.2), FlatClipping(1.0), 1.5, SharedNoise(4, 10))
OWN = Mechanism(PoissonSampling(0.2), FlatClipping(1.0), 1.5)


def test_a_share_is_the_sum_and_its_part_of_the_noise_modulo_two_to_the_32():
    numbers = 60_000
    total = np.full(numbers, 2**31 - 1, np.int64)
    share = SHARED.add_share(WholeSum(total, 10), KeyStream(KEY))
    noise = (share.words - total.astype(np.uint32)).view(np.int32).astype("f8")

    assert share.words.dtype == np.uint32 and repr(share) == "<NoisyShare: hidden>"
    assert abs(noise.var() / (1.5**2 * 2**20 / 4) - 1) < 5 * math.sqrt(2 / numbers)


def test_shares_and_own_noise_are_not_taken_for_each_other():
    whole, bounded = WholeSum(np.zeros(3, np.int64), 10), BoundedSum(np.zeros(3), 1.0)

    for wrong in (
        lambda: OWN.add_share(whole, KeyStream(KEY)),
        lambda: SHARED.add_share(WholeSum(np.zeros(3, np.int64), 11), KeyStream(KEY)),
        lambda: SHARED.add_noise(bounded, KeyStream(KEY)),
        lambda: OWN.grid_bits,
    ):
        with pytest.raises(BudgetError) as caught:
            wrong()
        assert caught.value.code == "budget-event"
