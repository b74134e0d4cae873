import client.training  # noqa: F401  isort: skip
from hypothesis import given
from hypothesis import strategies as st

from client.training.cohort import split

KEYS = st.sets(st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"), max_size=30)
SHARES = st.floats(0, 1)


@given(KEYS, KEYS, SHARES)
def test_adding_or_removing_patients_moves_nobody_else(some: set[str], more: set[str], share: float) -> None:
    few, many = split(some, held_out_share=share), split(some | more, held_out_share=share)

    assert set(few.training) == set(many.training) & some
    assert set(few.held_out) == set(many.held_out) & some


@given(KEYS, SHARES)
def test_every_patient_is_in_one_part_and_in_order(keys: set[str], share: float) -> None:
    cohort = split(keys, held_out_share=share)

    assert sorted(cohort.training + cohort.held_out) == sorted(keys)
    assert list(cohort.training) == sorted(cohort.training) and list(cohort.held_out) == sorted(cohort.held_out)


@given(KEYS, SHARES, SHARES)
def test_a_larger_share_holds_out_more_of_the_same(keys: set[str], one: float, other: float) -> None:
    small, large = sorted((one, other))

    assert set(split(keys, held_out_share=small).held_out) <= set(split(keys, held_out_share=large).held_out)


def test_the_share_is_kept_and_its_ends_are_nobody_and_everybody() -> None:
    keys = [f"{number * 2**128 // 1000:032x}" for number in range(1000)]

    assert [len(split(keys, held_out_share=share).held_out) for share in (0.0, 0.25, 1.0)] == [0, 250, 1000]


def test_a_cohort_does_not_print_its_patients() -> None:
    assert "a" * 32 not in repr(split(["a" * 32], held_out_share=0.2))
