"""Rules against wrong updates, against plain numpy."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from federation.adapter import AdapterUpdate
from federation.errors import QuorumError
from server.robust import RULES, clip_factors, wrong_sites

NAMES = ("m.lora_A.weight", "m.lora_B.weight")
HERE = Path()


def updates(sites: int, *, wrong: dict[int, float] | None = None) -> list[tuple[AdapterUpdate, int]]:
    """Much alike, as hospitals are; site number k may be multiplied by `wrong[k]`."""
    rng = np.random.default_rng(7)
    common = {name: rng.standard_normal((3, 4)) for name in NAMES}
    made = []
    for site in range(sites):
        factor = (wrong or {}).get(site, 1.0)
        arrays = {n: (factor * (common[n] + 0.3 * rng.standard_normal((3, 4)))).astype(np.float32) for n in NAMES}
        made.append((AdapterUpdate(arrays), 1 + site % 3))
    return made


def rows(given_updates) -> tuple[np.ndarray, np.ndarray]:
    flat = np.stack([update.flatten().astype(np.float64) for update, _ in given_updates])
    return flat, np.array([weight for _, weight in given_updates], np.float64)


def test_the_median_norm_rule_shortens_what_is_longer_than_the_median():
    flat, weights = rows(updates(7))
    norms = np.linalg.norm(flat, axis=1)
    scaled = flat * np.minimum(1, np.median(norms) / norms)[:, None]

    made = RULES["median-norm"](updates(7), HERE).flatten()
    np.testing.assert_allclose(made, weights @ scaled / weights.sum(), rtol=1e-5, atol=1e-6)


def test_the_trimmed_mean_leaves_out_a_fifth_at_each_end_of_every_number():
    flat, weights = rows(updates(11))
    order = np.argsort(flat, axis=0)[2:-2]
    kept = weights[order]

    made = RULES["trimmed-mean"](updates(11), HERE).flatten()
    np.testing.assert_allclose(
        made, (np.take_along_axis(flat, order, 0) * kept).sum(0) / kept.sum(0), rtol=1e-5, atol=1e-6
    )


def test_multi_krum_leaves_out_those_far_from_their_neighbours():
    given_updates = updates(10, wrong={2: -10.0, 6: 30.0})
    flat, weights = rows(given_updates)
    right = [site for site in range(10) if site not in (2, 6)]

    made = RULES["multi-krum"](given_updates, HERE).flatten()
    np.testing.assert_allclose(made, weights[right] @ flat[right] / weights[right].sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", ["median-norm", "trimmed-mean", "multi-krum"])
@pytest.mark.parametrize("factor", [-10.0, -1e6, 1e6, 0.0])
def test_one_wrong_site_of_ten_moves_the_result_little(rule, factor):
    right = RULES["none"](updates(10), HERE).flatten()
    made = RULES[rule](updates(10, wrong={4: factor}), HERE).flatten()

    assert np.linalg.norm(made - right) < 0.4 * np.linalg.norm(right)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_equal_updates_have_themselves_as_their_average(rule):
    one = updates(1)[0][0]

    np.testing.assert_allclose(RULES[rule]([(one, 3)] * 6, HERE).flatten(), one.flatten(), rtol=1e-6)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_nothing_has_no_average(rule):
    with pytest.raises(QuorumError):
        RULES[rule](iter(()), HERE)


def test_a_rule_that_leaves_updates_out_needs_some_to_be_left():
    for rule, fewest in (("trimmed-mean", 3), ("multi-krum", 5)):
        RULES[rule](updates(fewest), HERE)
        with pytest.raises(QuorumError):
            RULES[rule](updates(fewest - 1), HERE)


@given(st.integers(3, 1000), st.sampled_from([3, 5]))
def test_what_is_left_is_never_empty_and_always_the_larger_part(sites, fewest):
    if sites >= fewest:
        away = wrong_sites(sites, fewest=fewest)
        assert 1 <= away and 2 * away < sites and (fewest == 3 or sites - away - 2 >= 1)


@given(st.lists(st.floats(0, 1e30), min_size=1, max_size=30))
@example([0.0, 1.125723937582564e29, 2.6940465279308203e-288])
def test_no_update_is_longer_than_the_median_after_clipping_and_none_is_made_longer(norms):
    factors = clip_factors(norms)

    assert np.all(factors <= 1) and np.all(factors * norms <= np.median(norms) * (1 + 1e-12))
