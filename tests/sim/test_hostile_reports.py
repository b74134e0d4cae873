import numpy as np

from sim.hostile_reports import hostile_report, measure


def test_the_same_seed_gives_the_same_report_and_another_one_another() -> None:
    one, again, other = (hostile_report(np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert one == again != other
    assert all(plant in one.text for plant in one.planted) and all(said in one.text for said in one.clinical)


def test_reports_that_try_to_keep_their_identifiers_lose_them_and_keep_their_findings() -> None:
    figures = measure(120, seed=20250301)

    assert figures.recall >= 0.98
    assert figures.clinical_kept >= 0.985
    assert figures.clean >= 0.95 * figures.kept and figures.quarantined <= 0.1 * 120
