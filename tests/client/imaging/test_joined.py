import pytest

from client.imaging.joined import Join, Joined, JoinError
from client.imaging.pseudonyms import SiteKeys


def joined(*rows: tuple[str, str, str]) -> Joined:
    return Joined.of(Join(number, *row) for number, row in enumerate(rows, 2))


def test_a_chain_ends_at_the_current_id_whatever_the_order_of_its_rows() -> None:
    table = joined(("", "b", "c"), ("", "a", "b"))

    assert [table.current("north", each) for each in "abcd"] == ["c", "c", "c", "d"]
    assert table.all_ids("north", "a") == table.all_ids("north", "c") == {"a", "b", "c"}
    assert table.all_ids("north", "d") == frozenset()


def test_a_row_with_an_issuer_holds_for_that_issuer_only() -> None:
    table = joined(("north", "a", "b"), ("", "b", "c"))

    assert (table.current("north", "a"), table.current("south", "a")) == ("c", "a")
    assert table.all_ids("south", "c") == {"b", "c"}
    assert table.is_vague("north", "a") and not joined(("north", "a", "b")).is_vague("north", "a")
    assert set(table.old_ids("south")) == {"b"} and set(table.old_ids("north")) == {"a", "b"}


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("", "a", "a")], 2),
        ([("", "a", "b"), ("", "b", "c"), ("", "c", "a")], 4),
        ([("", "x", "a"), ("", "a", "b"), ("", "b", "a")], 4),
        ([("", "a", "b"), ("north", "b", "a")], 3),
        ([("", "a", "b"), ("", "c", "d"), ("", "a", "d")], 4),
        ([("north", "a", "b"), ("", "a", "c")], 3),
    ],
)
def test_a_circle_and_an_id_with_two_current_ones_are_refused_by_their_line(
    rows: list[tuple[str, str, str]], line: int
) -> None:
    with pytest.raises(JoinError) as caught:
        joined(*rows)

    assert caught.value.line == line


def test_equal_rows_and_a_long_chain_are_no_contradiction() -> None:
    chain = [("", str(number), str(number + 1)) for number in range(20_000)]

    assert joined(*chain, *chain).current("", "0") == "20000"


def test_joined_ids_have_one_key_and_different_issuers_never_have(keys: SiteKeys) -> None:
    one = keys.joining(joined(("", "old", "new")))

    assert one.patient_key("", " OLD ") == one.patient_key("", "new") == keys.patient_key("", "new")
    assert one.patient_key("north", "old") != one.patient_key("south", "old")
    assert one.unjoined_key("", "old") == keys.patient_key("", "old")
    assert one.person_keys("", "OLD") == {keys.patient_key("", each) for each in ("old", "new")}
    assert one.person_keys("", "x") == {keys.patient_key("", "x")}
    assert "old" not in repr(one) + repr(one.joined)
