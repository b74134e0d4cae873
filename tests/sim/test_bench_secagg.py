"""The benchmark runs both protocols whole and says what its figures are made of."""

from sim import bench_secagg


def test_a_row_measures_both_protocols_and_their_bytes():
    row = bench_secagg.measure(3, 16_000, 0)

    assert row["site_ms"] > 0 and row["server_ms"] > 0 and row["digest_ms"] > 0
    assert row["flower_site_ms"] > 0 and row["flower_server_ms"] > 0
    assert 2.0 < row["uplink_bytes"] / row["size"] < 2.3 and row["flower_bytes_per_parameter"] > 4


def test_the_figures_have_the_names_that_people_compare(monkeypatch):
    monkeypatch.setattr(bench_secagg, "GRID", ((10, 16_000, 0),))
    monkeypatch.setattr(bench_secagg, "MEASURED", (10, 16_000))
    monkeypatch.setattr(bench_secagg, "_in_its_own_process", bench_secagg.measure)
    monkeypatch.setattr(bench_secagg, "aes_gb_per_s", lambda: (8.0, "openssl speed"))
    measured = bench_secagg.bench()

    assert set(measured["figures"]) == {
        "site_ms_n10_1e6", "server_ms_n10_1e6", "server_ms_n10_1e6_2drop", "digest_ms_n10_1e6", "bytes_per_parameter",
        "site_cpu_ratio_min", "server_cpu_ratio_min", "server_cpu_ratio_min_with_digests",
        "mask_gb_per_s", "mask_ratio_to_openssl",
    }  # fmt: skip
    assert [row["dropouts"] for row in measured["rows"]] == [0, 2]


def test_raw_aes_is_measured_with_or_without_openssl(monkeypatch):
    monkeypatch.setattr(bench_secagg.shutil, "which", lambda name: None)
    rate, by = bench_secagg.aes_gb_per_s()

    assert rate > 0 and by == "cryptography"
