from sim.bench_deid import bench


def test_the_bench_has_its_figures() -> None:
    measured = bench(files=4, full=1, repeats=2)

    assert measured["bench"] == "deid" and len(measured["rows"]) == 3
    assert set(measured["figures"]) == {
        "header_files_per_s", "header_ratio_to_pydicom", "full_files_per_s", "peak_rss_mb",
    }  # fmt: skip
    assert all(value > 0 for value in measured["figures"].values())
