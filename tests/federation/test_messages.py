"""Questions and answers: bound to run, round, site and plan, and read in one way only."""

from dataclasses import replace

import pytest

from federation import messages
from federation.errors import FormatError
from federation.messages import Answer, Payload, Question, answer_to, check_answers

QUESTION = Question("train", "run-1", 2, "site-a", "ab" * 32, {"list": [1, {"x": None}]}, Payload(b"adapter"))


def test_loading_gives_back_the_message_and_its_bytes():
    for message in (
        QUESTION,
        answer_to(QUESTION, "update", {}, Payload(b"update")),
        answer_to(QUESTION, "failure", {}),
    ):
        again = messages.load(messages.dump(message))

        assert again == message and again.digest() == message.digest()
        assert messages.dump(again) == messages.dump(message)
        assert messages.size_bytes(message) == len(messages.dump(message))


def test_every_changed_byte_gives_a_refusal_or_another_message():
    data = messages.dump(QUESTION)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            message = messages.load(bytes(changed))
        except FormatError:
            continue
        assert at < len(QUESTION.header) and message.digest() != QUESTION.digest()


def test_every_truncation_and_addition_is_refused():
    data = messages.dump(QUESTION)
    for changed in [*(data[:end] for end in range(len(data))), data + b"x"]:
        with pytest.raises(FormatError):
            messages.load(changed)


def test_the_header_names_the_payload():
    with pytest.raises(FormatError):
        messages.read(QUESTION.header, Payload(b"another"))
    with pytest.raises(FormatError):
        messages.read(QUESTION.header, None)


@pytest.mark.parametrize(
    "changes",
    [{"kind": "run-code"}, {"site_id": "Site_A"}, {"run_id": "../run"}, {"plan_digest": "ab"}, {"round_number": 0},
     {"payload": Payload(b"")}],
)  # fmt: skip
def test_impossible_messages_cannot_be_made(changes):
    with pytest.raises(FormatError):
        replace(QUESTION, **changes)


def test_a_float_cannot_hide_in_a_body():
    with pytest.raises(FormatError):
        _ = answer_to(QUESTION, "consent", {"epsilon": 0.5}).header


def test_one_field_too_many_is_refused():
    header = QUESTION.header.replace(b'{"body"', b'{"a":1,"body"')
    with pytest.raises(FormatError):
        messages.read(header, QUESTION.payload)


@pytest.mark.parametrize(
    "changes", [{"run_id": "run-2"}, {"round_number": 3}, {"site_id": "site-b"}, {"question_digest": "0" * 64}]
)
def test_an_answer_to_another_question_is_refused(changes):
    answer = answer_to(QUESTION, "update", {})

    check_answers(QUESTION, answer)
    with pytest.raises(FormatError) as caught:
        check_answers(QUESTION, replace(answer, **changes))
    assert caught.value.code == "message-context"


def test_a_changed_payload_is_another_question():
    other = replace(QUESTION, payload=Payload(b"other"))

    with pytest.raises(FormatError):
        check_answers(other, answer_to(QUESTION, "update", {}))


def test_an_answer_is_not_taken_for_a_question():
    assert isinstance(messages.load(messages.dump(answer_to(QUESTION, "refusal", {"reasons": []}))), Answer)


def test_a_payload_in_pieces_is_the_payload_in_one():
    whole, cut = Payload(b"adapter bytes"), Payload(b"adapter", memoryview(b" bytes"))

    assert cut == whole and cut.sha256 == whole.sha256 and cut.size == whole.size and cut.data == whole.data
    assert Payload(b"adapter", b"bytes") != whole
    first, second = (replace(QUESTION, payload=payload) for payload in (whole, cut))
    assert messages.dump(first) == messages.dump(second) and messages.load(messages.dump(second)) == first
    assert "adapter" not in repr(cut)
