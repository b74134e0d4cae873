"""Pretended hospitals: sizes, differences, and how patients are shared out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import SettingsError
from sim.anatomy import CLINICAL
from sim.sites import FOUR, QUESTIONS, by_site_partition, dirichlet_partition, four_hospitals, hospitals


def test_the_four_hospitals_are_uneven_and_one_hardly_sees_a_pneumothorax() -> None:
    four = four_hospitals()

    assert [hospital.patients for hospital in four] == [740, 480, 330, 150]
    assert min(hospital.prevalence.pneumothorax for hospital in four) <= 0.01
    assert len({hospital.layout for hospital in four}) == len({hospital.character_set for hospital in four}) == 4
    assert {hospital.report_style for hospital in four} == {"structured", "sentences", "telegram"}


def test_every_finding_has_a_question_and_every_syntax_a_scanner() -> None:
    scanners = [scanner for hospital in FOUR for scanner in hospital.scanners]

    assert set(QUESTIONS) == set(CLINICAL)
    assert {scanner.syntax for scanner in scanners} == {
        "implicit", "explicit", "deflated", "rle", "jpeg-ls", "jpeg-2000", "jpeg"
    }  # fmt: skip
    assert {scanner.photometric for scanner in scanners} == {"MONOCHROME1", "MONOCHROME2"}
    assert {scanner.window for scanner in scanners} == {"single", "several", "lut", "sigmoid", "none"}


@given(patients=st.integers(4, 3000))
def test_the_four_hospitals_add_up_to_the_patients_asked_for(patients: int) -> None:
    counts = [hospital.patients for hospital in four_hospitals(patients)]

    assert sum(counts) == patients and min(counts) >= 1


@given(count=st.integers(1, 45), seed=st.integers(0, 2**31), extra=st.integers(0, 500))
@settings(max_examples=40)
def test_any_number_of_hospitals_can_be_made_and_the_seed_decides_them(count: int, seed: int, extra: int) -> None:
    made = hospitals(count, count + extra, seed)

    assert made == hospitals(count, count + extra, seed)
    assert sum(hospital.patients for hospital in made) == count + extra
    assert len({hospital.site_id for hospital in made}) == len({hospital.town for hospital in made}) == count
    assert all(0 < hospital.prevalence.of(name) <= 0.6 for hospital in made for name in CLINICAL)


@pytest.mark.parametrize("ask", [lambda: hospitals(0), lambda: hospitals(5, 4), lambda: four_hospitals(3)])
def test_no_sites_or_fewer_patients_than_sites_is_refused(ask: object) -> None:
    with pytest.raises(SettingsError) as caught:
        ask()  # type: ignore[operator]

    assert caught.value.code == "settings-value"


@given(
    labels=st.lists(st.integers(0, 3), max_size=200),
    sites=st.integers(1, 9),
    alpha=st.sampled_from([0.05, 0.5, 100.0]),
    seed=st.integers(0, 99),
)
def test_a_dirichlet_partition_gives_every_patient_to_exactly_one_site(
    labels: list[int], sites: int, alpha: float, seed: int
) -> None:
    parts = dirichlet_partition(labels, sites, alpha, np.random.default_rng(seed))

    assert len(parts) == sites
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))


def test_small_alpha_makes_sites_less_alike() -> None:
    labels = np.repeat([0, 1], 500)

    def spread(alpha: float) -> float:
        parts = dirichlet_partition(labels, 5, alpha, np.random.default_rng(1))
        return float(np.std([labels[part].mean() for part in parts if len(part)]))

    assert spread(0.1) > 4 * spread(100.0)


def test_a_partition_by_site_follows_the_names() -> None:
    parts = by_site_partition(["b", "a", "b"])

    assert {site: part.tolist() for site, part in parts.items()} == {"a": [1], "b": [0, 2]}
