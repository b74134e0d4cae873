"""The private evaluation: what one patient can change, what it costs, and how near it comes."""

import numpy as np
import pytest

from federation.errors import BudgetError
from federation.privacy.clipping import FlatClipping
from federation.privacy.histograms import BINS, SHARES, Answers, Axis, _noisy, curves_of, noise_std, release
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from server.private_figures import figures
from sim.keys import SeededKeys

EPSILON_1 = 2.878  # one release at delta 1 / (10 * 300), by accounting.noise_multiplier_for
NO_NOISE = 0.2  # the least that a mechanism takes


def mechanism(noise_multiplier):
    return Mechanism(PoissonSampling(1.0), FlatClipping(1.0), noise_multiplier)


def streams(seed):
    keys = SeededKeys(seed)
    return lambda part: KeyStream(keys.key(part))


def binormal(seed, patients=300, gap=1.2):
    """Half positive, half negative, normal scores: AUROC about 0.8."""
    rng = np.random.default_rng(seed)
    positive = rng.random(patients) < 0.5
    return Answers(np.arange(patients), rng.normal(size=patients) - 1.0 + gap * positive, positive)


def shaped(kind, rng, patients=300):
    """Half positive; narrow, wide, unequal, in two lumps: where scores lie is not known beforehand."""
    positive = rng.random(patients) < 0.5
    normal = rng.normal(size=patients)
    lump = np.where(rng.random(patients) < np.where(positive, 0.7, 0.1), 3.0, -3.0)
    scores = {
        "narrow": 0.3 * normal - 1.5 + 0.4 * positive,
        "wide": 2.5 * normal - 2.0 + 3.5 * positive,
        "unequal": np.where(positive, 2.0 * normal + 0.5, 0.6 * normal - 1.5),
        "lumps": 0.7 * normal + lump,
    }[kind]
    return Answers(np.arange(patients), scores, positive)


def exact_auroc(answers):
    up, down = answers.log_odds[answers.positive], answers.log_odds[~answers.positive]
    return float((up[:, None] > down).mean() + (up[:, None] == down).mean() / 2)


def sums(answers, weight=1.0, cells=8):
    """The sum of one part without its noise: the same keys with and without a patient give the same noise."""
    drawn = [np.digitize(item.log_odds, np.linspace(-2, 2, cells - 1)) for item in answers]
    weights = [np.full(len(item.patients), weight) for item in answers]
    return _noisy("count", answers, drawn, weights, cells, mechanism(NO_NOISE), streams(0))


def test_the_auroc_of_300_patients_at_epsilon_1_is_near_and_inside_its_interval():
    """Of 20 seeds at least 9 in 10 within 0.03 of the exact value, and 19 in 20 inside the interval."""
    near = inside = 0
    for seed in range(20):
        answers = binormal(seed)
        [made] = release([answers], mechanism(EPSILON_1), streams(seed))
        rng = np.random.default_rng(seed)
        told = figures({"q": made}, noise_multiplier=EPSILON_1, bootstrap=200, minimum_count=10, rng=rng)
        auroc, exact = told["questions"]["q"]["auroc"], exact_auroc(answers)
        near += abs(auroc["value"] - exact) <= 0.03
        inside += auroc["ci95"][0] <= exact <= auroc["ci95"][1]

    assert near >= 18
    assert inside >= 19


def test_four_questions_at_once_are_off_by_twice_the_noise_and_never_by_a_misplaced_axis():
    """Each has a quarter of the budget, so twice the noise: about 0.035, by trial. An axis that was fitted to noise
    alone used to give 0.5 for an AUROC of 0.85, outside its interval. Expected inside: 19 in 20; of 80 at least 70."""
    errors, inside = [], 0
    kinds = ("narrow", "wide", "unequal", "lumps")
    for seed in range(20):
        rng = np.random.default_rng([7, seed])
        asked = [shaped(kind, rng) for kind in kinds]
        made = dict(zip(kinds, release(asked, mechanism(EPSILON_1), streams(seed)), strict=True))
        told = figures(made, noise_multiplier=EPSILON_1, bootstrap=80, minimum_count=10, rng=rng)
        for kind, answers in zip(kinds, asked, strict=True):
            auroc, exact = told["questions"][kind]["auroc"], exact_auroc(answers)
            errors.append(auroc["value"] - exact)
            inside += auroc["ci95"][0] <= exact <= auroc["ci95"][1]

    assert np.sqrt(np.mean(np.square(errors))) <= 0.045
    assert np.max(np.abs(errors)) <= 0.15
    assert inside >= 70


def test_rare_answers_are_withheld_or_inside_a_wider_interval():
    """A tenth positive, AUROC 0.94: the noise is as large as the answer is rare. 19 in 20 expected."""
    told_of, inside = 0, 0
    for seed in range(40):
        rng = np.random.default_rng([11, seed])
        positive = rng.random(300) < 0.1
        answers = Answers(np.arange(300), rng.normal(size=300) - 1.0 + 2.2 * positive, positive)
        [made] = release([answers], mechanism(EPSILON_1), streams(seed))
        told = figures({"q": made}, noise_multiplier=EPSILON_1, bootstrap=80, minimum_count=10, rng=rng)
        auroc, exact = told["questions"]["q"]["auroc"], exact_auroc(answers)
        if auroc["value"] is not None:
            told_of += 1
            inside += auroc["ci95"][0] <= exact <= auroc["ci95"][1]

    assert 10 <= told_of < 40
    assert inside >= 0.83 * told_of


def test_a_model_that_tells_well_is_not_told_to_be_worse():
    """Straight lines through noisy counts were flatter than the truth: 0.024 too low at AUROC 0.94."""
    errors = []
    for seed in range(30):
        answers = binormal([5, seed], gap=2.2)
        [made] = release([answers], mechanism(EPSILON_1), streams(seed))
        curves = curves_of(made.axis, made.counts, noise_std(EPSILON_1, "count", 1))
        errors.append(float(curves.auroc + curves.unit * made.influence) - exact_auroc(answers))

    assert np.mean(errors) >= -0.015
    assert np.sqrt(np.mean(np.square(errors))) <= 0.025


@pytest.mark.parametrize("weight", [1.0, -1.0, 1e9])
@pytest.mark.parametrize("cases_each", [1, 3])
def test_one_patient_moves_a_part_by_at_most_the_root_of_its_share(weight, cases_each):
    """In units of the noise: the sum is divided by its scale on the way out, so the scale is multiplied back."""
    rng = np.random.default_rng(1)
    questions = 3
    names = np.repeat(np.arange(12), cases_each)
    everybody = [Answers(names, rng.normal(size=len(names)), rng.random(len(names)) < 0.5) for _ in range(questions)]
    for gone in range(12):
        rest = [Answers(a.patients[a.patients != gone], a.log_odds[names != gone], a.positive[names != gone])
                for a in everybody]  # fmt: skip
        scale = np.sqrt(SHARES["count"] / questions)

        moved = np.linalg.norm(sums(everybody, weight) - sums(rest, weight)) * scale

        assert moved <= np.sqrt(SHARES["count"]) * (1 + 1e-5)


def test_the_shares_of_the_three_parts_are_one_budget():
    assert sum(SHARES.values()) == pytest.approx(1.0)


def test_nobody_and_scores_that_are_no_numbers_still_give_a_noisy_histogram():
    nobody = Answers(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0, dtype=np.bool_))
    odd = Answers(np.arange(4), np.array([np.nan, np.inf, -np.inf, 0.0]), np.array([True, True, False, False]))

    for answers in (nobody, odd):
        [made] = release([answers], mechanism(3.0), streams(2))
        assert len(made.positive) == len(made.negative) == BINS + 1
        assert np.isfinite(made.counts).all() and np.any(made.counts != 0.0)


def test_a_mechanism_that_would_be_charged_otherwise_is_refused():
    for wrong in (
        Mechanism(PoissonSampling(0.5), FlatClipping(1.0), 3.0),
        Mechanism(PoissonSampling(1.0), FlatClipping(2.0), 3.0),
    ):
        with pytest.raises(BudgetError):
            release([binormal(0)], wrong, streams(0))


def test_an_axis_puts_even_odds_among_its_edges():
    axis = Axis(((1.0, -2.0, 0.5),))

    assert len(axis.edges()) == BINS
    assert float(axis.place(np.zeros(1))[0]) in axis.edges()


def test_a_question_with_too_few_cases_of_one_answer_is_withheld():
    answers = Answers(np.arange(300), np.linspace(-2, 2, 300), np.arange(300) < 2)
    [made] = release([answers], mechanism(EPSILON_1), streams(3))
    rng = np.random.default_rng(0)

    told = figures({"q": made}, noise_multiplier=EPSILON_1, bootstrap=50, minimum_count=10, rng=rng)

    assert told["questions"]["q"]["auroc"]["value"] is None
    assert told["macro"]["auroc"]["value"] is None


def test_a_release_shows_nothing_of_its_patients_when_printed():
    assert repr(binormal(0)) == "<Answers: hidden>"
