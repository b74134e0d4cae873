"""Faults are what they say, in the site and round that they name."""

import numpy as np
import pytest

from federation import codec
from federation.adapter import AdapterUpdate
from federation.errors import FormatError, PlanError
from federation.messages import Payload, Question, answer_to, check_answers
from sim.faults import Fault, FaultyLink, parse_fault

UPDATE = AdapterUpdate({"m.lora_B.weight": np.ones((3, 2), np.float32)})
PAYLOAD = Payload(codec.dump(UPDATE))


class Echo:
    """A Link whose two sites always send the same update."""

    def site_ids(self):
        return ("site-a", "site-b")

    def ask(self, questions, *, deadline_s):
        for question in questions:
            yield answer_to(question, "update", {}, PAYLOAD)


def questions(round_number, kind="train"):
    return [Question(kind, "run", round_number, site, "ab" * 32, payload=PAYLOAD) for site in ("site-a", "site-b")]


def ask(kind, round_number=2):
    link = FaultyLink(Echo(), [parse_fault(f"site-a={kind}@2")])
    list(link.ask(questions(1), deadline_s=1))
    return list(link.ask(questions(round_number), deadline_s=1))


def test_other_rounds_and_other_sites_are_untouched():
    assert [answer.payload for answer in ask("nan", round_number=3)] == [PAYLOAD, PAYLOAD]
    assert ask("nan")[1].payload == PAYLOAD


def test_consents_are_untouched():
    link = FaultyLink(Echo(), [parse_fault("site-a=drop@1")])

    assert len(list(link.ask(questions(1, "consent"), deadline_s=1))) == 2


def test_numbers_go_wrong_as_named():
    assert np.isnan(codec.load(ask("nan")[0].payload.data).flatten()).sum() == 1
    assert codec.load(ask("huge")[0].payload.data).norm() > 1e6
    assert codec.load(ask("flip")[0].payload.data).digest() == UPDATE.scale(-10).digest()
    assert codec.load(ask("wrong-shape")[0].payload.data).shapes == {"m.lora_B.weight": (4, 2)}
    with pytest.raises(FormatError):
        codec.load(ask("corrupt")[0].payload.data)


def test_messages_go_wrong_as_named():
    assert [answer.site_id for answer in ask("drop")] == ["site-b"]
    assert [answer.site_id for answer in ask("duplicate")] == ["site-a", "site-a", "site-b"]
    with pytest.raises(FormatError):
        check_answers(questions(2)[0], ask("stale")[0])


def test_a_fault_is_read_from_text():
    assert parse_fault("site-b=wrong-shape@12") == Fault("site-b", "wrong-shape", 12)


@pytest.mark.parametrize(
    "text", ["", "site-b", "site-b=nan", "site-b=nan@0", "site-b=nan@x", "=nan@1", "site-b=melt@1"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(PlanError):
        parse_fault(text)
