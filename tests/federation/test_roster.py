"""The roster: signed by enough officers, one version after the other, and never without an end."""

from dataclasses import replace

import pytest

from federation import canonical
from federation.errors import TrustError
from federation.trust import roster as rosters
from federation.trust import times
from federation.trust.keys import SigningKey
from federation.trust.roster import Member, Officer, Roster, SignedRoster

NOW = times.seconds("2026-01-01T00:00:00Z")


def key(number: int) -> SigningKey:
    return SigningKey.from_seed(bytes([number]) * 32)


OFFICERS = tuple(Officer(f"officer {n}", key(n).public) for n in (1, 2, 3))
NORTH = Member("north", "North Hospital", "it@north.example", key(10).public, "ecdsa-sha2-nistp384 AAAA")
SOUTH = Member("south", "South Hospital", "it@south.example", key(11).public, "ecdsa-sha2-nistp384 BBBB")


def roster(**changes) -> Roster:
    first = Roster(
        "lung", 1, times.text(NOW), times.text(NOW + 30 * times.DAY_S), None, OFFICERS, 2, key(4).public, key(5).public,
        (NORTH,),
    )  # fmt: skip
    return replace(first, **changes)


def signed(one: Roster, *numbers: int) -> SignedRoster:
    made = SignedRoster(one)
    for number in numbers:
        made = made.signed_by(key(number))
    return made


def code(call, *arguments, **named) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.code


FIRST = signed(roster(), 1, 2)
SECOND = rosters.successor(roster(), issued_s=NOW + 60, sites=rosters.with_member(roster(), SOUTH))


def test_a_roster_is_the_same_after_its_bytes():
    assert rosters.load(rosters.dump(FIRST)) == FIRST


@pytest.mark.parametrize("place", range(0, len(rosters.dump(FIRST)), 3))
def test_a_flipped_bit_is_refused(place):
    data = bytearray(rosters.dump(FIRST))
    data[place] ^= 1
    with pytest.raises(TrustError):
        read = rosters.load(bytes(data))
        rosters.accept_first(read, "lung", OFFICERS, 2)


def test_two_of_three_officers_are_enough_and_one_is_not():
    rosters.require_signed(signed(roster(), 1, 3), OFFICERS, 2)

    assert code(rosters.require_signed, signed(roster(), 1), OFFICERS, 2) == "roster-signatures"
    assert code(rosters.require_signed, signed(roster(), 1, 7), OFFICERS, 2) == "roster-signatures"


def test_one_officer_does_not_count_twice():
    once = signed(roster(), 1)
    twice = SignedRoster(once.roster, {**once.signatures, key(2).public.text: once.signatures[key(1).public.text]})

    assert code(rosters.require_signed, twice, OFFICERS, 2) == "roster-signatures"


def test_the_next_version_follows_and_the_same_one_again_changes_nothing():
    current = rosters.accept_next(FIRST, signed(SECOND, 1, 2))

    assert current.roster.active() == ("north", "south")
    assert rosters.accept_next(current, current) is current


def test_a_lower_a_later_and_a_second_version_are_refused():
    current = signed(SECOND, 1, 2)
    third = rosters.successor(SECOND, issued_s=NOW + 120)
    other = replace(SECOND, sites=(NORTH,))

    assert code(rosters.accept_next, current, FIRST) == "roster-version"
    assert code(rosters.accept_next, FIRST, signed(third, 1, 2)) == "roster-version"
    assert code(rosters.accept_next, current, signed(other, 1, 2)) == "roster-version"
    assert code(rosters.accept_next, FIRST, signed(replace(SECOND, previous="0" * 64), 1, 2)) == "roster-version"


def test_missed_versions_are_caught_up_in_order():
    third = signed(rosters.successor(SECOND, issued_s=NOW + 120), 2, 3)

    assert rosters.accept_chain(FIRST, [FIRST, signed(SECOND, 1, 2), third]) == third


def test_a_change_of_officers_needs_the_officers_before():
    new = (Officer("new", key(8).public), Officer("newer", key(9).public))
    changed = replace(rosters.successor(roster(), issued_s=NOW + 60), officers=new)

    assert code(rosters.accept_next, FIRST, signed(changed, 8, 9)) == "roster-signatures"
    assert code(rosters.accept_next, FIRST, signed(changed, 1, 2)) == "roster-signatures"
    assert rosters.accept_next(FIRST, signed(changed, 1, 2, 8, 9)).roster.officers == new


def test_a_lower_threshold_needs_the_threshold_before():
    changed = replace(rosters.successor(roster(), issued_s=NOW + 60), threshold=1)

    assert code(rosters.accept_next, FIRST, signed(changed, 1)) == "roster-signatures"


def test_the_first_roster_must_name_the_officers_that_were_compared():
    stranger = (*OFFICERS[:2], Officer("stranger", key(9).public))

    assert rosters.accept_first(FIRST, "lung", OFFICERS, 2) == FIRST
    assert code(rosters.accept_first, FIRST, "lung", stranger, 2) == "roster-officer"
    assert code(rosters.accept_first, FIRST, "lung", OFFICERS, 1) == "roster-officer"
    assert code(rosters.accept_first, FIRST, "heart", OFFICERS, 2) == "roster-officer"


def test_an_expired_roster_is_refused_with_its_date():
    roster().require_current(NOW + 30 * times.DAY_S)
    with pytest.raises(TrustError, match="expired on 2026-01-31") as caught:
        roster().require_current(NOW + 30 * times.DAY_S + 1)

    assert caught.value.code == "roster-expired" and "clock" in caught.value.hint
    assert code(roster().require_current, NOW - 2 * times.DAY_S) == "clock"


def test_a_revoked_site_stays_in_the_list_and_is_no_member():
    after = rosters.successor(roster(), issued_s=NOW, sites=rosters.without_member(roster(), "north"))

    assert after.active() == ()
    assert code(after.member, "north") == "roster-site"
    assert code(rosters.without_member, after, "north") == "roster-site"


def test_a_rotated_key_retires_with_the_next_version():
    rotated = replace(NORTH, identity=key(20).public, retiring=NORTH.identity)
    during = rosters.successor(roster(), issued_s=NOW, sites=rosters.with_member(roster(), rotated))
    after = rosters.successor(during, issued_s=NOW)

    assert during.member("north").keys() == (key(20).public, NORTH.identity)
    assert after.member("north").keys() == (key(20).public,)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0}, {"threshold": 0}, {"threshold": 4}, {"expires": times.text(NOW)}, {"consortium": "Lung"},
        {"expires": times.text(NOW + 91 * times.DAY_S)}, {"issued": "yesterday"}, {"previous": "0" * 64},
        {"sites": (SOUTH, NORTH)}, {"sites": (replace(NORTH, contact="a\nb"),)},
        {"sites": (replace(NORTH, organisation="x" * 301),)},
    ],
)  # fmt: skip
def test_impossible_rosters_are_never_made(changes):
    with pytest.raises(TrustError) as caught:
        roster(**changes)

    assert caught.value.code == "roster-damaged"


def test_no_key_stands_twice():
    for changes in ({"sites": (NORTH, replace(SOUTH, identity=NORTH.identity))}, {"log": key(4).public}):
        assert code(roster, **changes) == "roster-key"


def test_unknown_and_missing_fields_are_refused():
    value = FIRST.value()
    for name in list(value["roster"]):
        less = {**value, "roster": {k: v for k, v in value["roster"].items() if k != name}}
        assert code(rosters.load, canonical.dump(less)) == "roster-damaged"
    assert code(rosters.load, canonical.dump({**value, "more": 1})) == "roster-damaged"
    assert code(rosters.load, canonical.dump({**value, "roster": {**value["roster"], "x": 1}})) == "roster-damaged"
    assert code(rosters.load, rosters.dump(FIRST) + b" ") == "roster-damaged"
    assert code(rosters.load, b"0" * 2**21) == "roster-damaged"
