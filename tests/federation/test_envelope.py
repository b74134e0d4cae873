"""Seals: any change of message or seal is refused, by a code that says which."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation import canonical
from federation.errors import TrustError
from federation.messages import Answer, Payload, Question, answer_to
from federation.trust import envelope
from federation.trust.envelope import CLOCK_TOLERANCE_S, LogHead
from federation.trust.keys import SigningKey

COORDINATOR, SITE, STRANGER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
NOW = 1767225600
ROSTER = "aa" * 32
HEAD = LogHead(7, "bb" * 32)
ASKED = Question("train", "run-1", 3, "north", "cc" * 32, {"quorum": 2}, Payload(b"adapter"))
ANSWERED = answer_to(ASKED, "update", {"n": 1}, Payload(b"update"))


def sealed(question: Question = ASKED, key: SigningKey = COORDINATOR, **changes) -> Question:
    about = {"roster_digest": ROSTER, "issued_s": NOW, "expires_s": NOW + 60, "head": HEAD} | changes
    return envelope.seal_question(question, key, **about)


def replied(answer: Answer = ANSWERED, question: Question = ASKED, key: SigningKey = SITE, roster=ROSTER) -> Answer:
    return envelope.seal_answer(answer, question, key, roster_digest=roster)


def open_question(question: Question, **changes):
    about = {"site_id": "north", "roster_digest": ROSTER, "now_s": NOW} | changes
    return envelope.open_question(question, COORDINATOR.public, **about)


def open_answer(answer: Answer, question: Question = ASKED, keys=(SITE.public,), roster=ROSTER):
    return envelope.open_answer(answer, question, keys, roster_digest=roster)


def code(call, *arguments, **named) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.code


def test_what_was_sealed_opens():
    opened = open_question(sealed())

    assert opened.head == HEAD and opened.statement["run"] == "run-1"
    assert open_answer(replied()).statement["question"] == ASKED.digest()


def test_a_seal_is_no_part_of_the_message():
    assert sealed() == ASKED and sealed().digest() == ASKED.digest()


def test_the_same_answer_has_the_same_seal():
    assert replied().seal == replied().seal


@given(st.data())
def test_any_flipped_bit_of_a_seal_is_refused(data):
    for message, opener in ((sealed(), open_question), (replied(), open_answer)):
        seal = bytearray(message.seal)
        seal[data.draw(st.integers(0, len(seal) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(TrustError):
            opener(replace(message, seal=bytes(seal)))


@given(st.binary(max_size=400))
def test_no_bytes_but_a_seal_are_one(data):
    with pytest.raises(TrustError):
        open_question(replace(ASKED, seal=data))


CHANGES = {
    "wrong-site": {"site_id": "south"},
    "wrong-run": {"run_id": "run-2"},
    "wrong-round": {"round_number": 4},
    "wrong-plan": {"plan_digest": "dd" * 32},
    "wrong-message": {"body": {"quorum": 1}},
}


@pytest.mark.parametrize("expected", CHANGES)
def test_a_seal_does_not_fit_another_question(expected):
    other = replace(ASKED, **CHANGES[expected], seal=sealed().seal)

    assert code(open_question, other) == expected


def test_a_seal_does_not_fit_another_payload_or_kind():
    assert code(open_question, replace(ASKED, payload=Payload(b"other"), seal=sealed().seal)) == "wrong-message"
    assert code(open_question, replace(ASKED, kind="consent", seal=sealed().seal)) == "wrong-message"


def test_an_answer_to_another_question_is_refused():
    later = replace(ASKED, round_number=4)

    assert code(open_answer, replied(), replace(ASKED, body={})) == "wrong-question"
    assert code(open_answer, replied(), later) == "wrong-round"
    assert code(open_answer, replied(answer_to(later, "update", {}), later)) == "wrong-round"
    assert code(open_answer, replied(), replace(ASKED, site_id="south")) == "wrong-site"
    assert code(open_answer, replied(), replace(ASKED, run_id="run-2")) == "wrong-run"


def test_an_answer_that_is_changed_is_refused():
    assert code(open_answer, replace(ANSWERED, payload=Payload(b"other"), seal=replied().seal)) == "wrong-message"
    assert code(open_answer, replace(ANSWERED, kind="refusal", seal=replied().seal)) == "wrong-message"
    assert code(open_answer, replace(ANSWERED, site_id="south", seal=replied().seal)) == "wrong-site"


def test_nobody_else_can_sign():
    assert code(open_question, sealed(key=STRANGER)) == "signature"
    assert code(open_answer, replied(key=STRANGER)) == "signature"
    assert code(open_answer, replied(), keys=()) == "signature"


def test_the_coordinator_cannot_answer_and_a_site_cannot_ask():
    backwards = replace(ANSWERED, seal=sealed().seal)

    assert code(open_answer, backwards, keys=(COORDINATOR.public,)) == "signature"  # another domain
    assert code(open_question, replace(ASKED, seal=replied().seal)) == "signature"


def test_a_retiring_key_still_counts():
    assert open_answer(replied(), keys=(STRANGER.public, SITE.public)).signature
    assert open_answer(replied(key=STRANGER), keys=(STRANGER.public, SITE.public)).signature


def test_without_a_seal_nothing_is_heard():
    assert code(open_question, ASKED) == "unsigned"
    assert code(open_answer, ANSWERED) == "unsigned"


def test_another_roster_is_refused():
    assert code(open_question, sealed(roster_digest="ee" * 32)) == "wrong-roster"
    assert code(open_answer, replied(roster="ee" * 32)) == "wrong-roster"


def test_a_late_question_is_refused_and_so_is_one_from_the_future():
    open_question(sealed(), now_s=NOW + 60 + CLOCK_TOLERANCE_S)
    open_question(sealed(), now_s=NOW - CLOCK_TOLERANCE_S)

    assert code(open_question, sealed(), now_s=NOW + 61 + CLOCK_TOLERANCE_S) == "late"
    assert code(open_question, sealed(), now_s=NOW - CLOCK_TOLERANCE_S - 1) == "clock"


def test_a_question_is_for_the_site_that_opens_it():
    assert code(open_question, sealed(), site_id="south") == "wrong-site"


def test_an_oversized_seal_is_refused_before_it_is_read():
    assert code(open_question, replace(ASKED, seal=b"x" * (2**20 + 1))) == "oversized"


def test_a_statement_has_exactly_its_fields():
    """Signed by the right key, and still refused: there is one form."""
    parts = canonical.load(sealed().seal)
    for change in ({"more": 1}, {"issued": "soon"}, {"issued": True}, {"log": {"size": 1}}, {"version": "x"}):
        statement = {**parts["statement"], **change}
        signature = COORDINATOR.sign("question", canonical.dump(statement)).hex()
        seal = canonical.dump({**parts, "signature": signature, "statement": statement})
        assert code(open_question, replace(ASKED, seal=seal)) == "envelope-damaged"
