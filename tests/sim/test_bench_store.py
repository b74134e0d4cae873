from sim.bench_store import bench


def test_memory_does_not_grow_with_files_or_pairs() -> None:
    """Both are small here; the command takes any number. A leak of 100 kB a file would show."""
    measured = bench(files=100, pairs=400)

    assert measured["bench"] == "store" and all(len(row["rss_mb"]) == 10 for row in measured["rows"])
    assert measured["figures"]["ingest_growth_mb"] < 10 and measured["figures"]["reading_growth_mb"] < 10
