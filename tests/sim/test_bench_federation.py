"""The bench measures the real thing: a small one here, in this process."""

from sim.bench_federation import measure


def test_a_row_has_its_figures():
    row = measure(2, 0.05, 1)

    assert row["sites"] == 2 and row["seconds_per_round"] > 0 and row["seconds_per_round_ratio_to_numpy"] > 0
    assert row["peak_rss_mb"] > 0
