"""Figures from histograms whose truth is known."""

import numpy as np
import pytest

from federation.privacy.histograms import BINS, Axis, Histogram, curves_of
from server.private_figures import estimate, figures, over_sites, precision

AXIS = Axis(((1.0, 0.0, 1.0),))
TURN = BINS // 2 + 1  # even odds lie in the middle of this axis, twice among its edges


def histogram(positive, negative, influence=0.0):
    return Histogram(AXIS, tuple(positive), tuple(negative), influence)


def test_the_table_at_even_odds_is_that_of_the_counts():
    made = histogram([10.0, 5.0, 5.0, 0.0, 30.0, 30.0, 20.0], [60.0, 10.0, 10.0, 0.0, 10.0, 5.0, 5.0])
    told = estimate(AXIS, made.counts, np.array(0.0), curves_of(AXIS, made.counts, 1.0))

    assert float(told["sensitivity"]) == pytest.approx(0.8)
    assert float(told["specificity"]) == pytest.approx(0.8)
    assert float(told["kappa"]) == pytest.approx(0.6)


def test_more_noise_gives_wider_intervals():
    made = histogram([10.0, 5.0, 5.0, 0.0, 30.0, 30.0, 20.0], [60.0, 10.0, 10.0, 0.0, 10.0, 5.0, 5.0])
    widths = []
    for noise in (0.5, 3.0):
        rng = np.random.default_rng(0)
        told = figures({"q": made}, noise_multiplier=noise, bootstrap=200, minimum_count=10, rng=rng)
        low, high = told["macro"]["auroc"]["ci95"]
        widths.append(high - low)

    assert widths[0] < 0.9 * widths[1]


def test_sites_weigh_by_their_precision_and_a_withheld_one_not_at_all():
    def site(value, half):
        figure = {"value": value, "ci95": [value - half, value + half], "n": None}
        return {"macro": dict.fromkeys(("auroc", "sensitivity", "specificity", "kappa", "accuracy"), figure)}

    nothing = {"value": None, "ci95": None, "n": None, "withheld": "too few"}
    sites = [site(0.8, 0.05), site(0.6, 0.1), {"macro": dict.fromkeys(site(0, 1)["macro"], nothing)}]
    weights = [precision(one["macro"]["auroc"]) for one in sites]

    told = over_sites(sites, weights)

    assert weights[2] == 0.0
    assert told["auroc"]["value"] == pytest.approx((4 * 0.8 + 0.6) / 5)
    assert told["auroc"]["ci95"][1] - told["auroc"]["ci95"][0] < 0.1


def test_an_interval_that_is_cut_off_at_one_stays_as_long_as_it_is():
    figure = {"value": 1.0, "ci95": [0.86, 1.0], "n": None}
    site = {"macro": dict.fromkeys(("auroc", "sensitivity", "specificity", "kappa", "accuracy"), figure)}

    assert over_sites([site], [precision(figure)])["auroc"]["ci95"] == pytest.approx([0.86, 1.0])
    assert precision(figure) == pytest.approx((1.96 / 0.14) ** 2, rel=1e-3)
