"""The resident process of a site, with a small real site behind it and no carrier before it."""

import json
import threading
from itertools import count

import numpy as np
import pytest

from client.daemon import Daemon, OneThread
from client.local_service import Stub
from client.policy import Policy
from federation import codec
from federation.adapter import initial_adapter
from federation.consent import PROTOCOL
from federation.messages import Payload, Question
from federation.plan import parse_plan
from sim.vectors import vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[training]
local_steps = 2
sampling_rate = 1.0
[privacy]
unit = "none"
[aggregation]
secure = false
""")
POLICY = Policy(epsilon_max=5.0, approve="matching", quorum_min=1, allow_without_privacy=True)


def consent(previous=None, round_number=1):
    body = {"plan": PLAN.value(), "protocol": PROTOCOL, "quorum": 1} | ({"previous": previous} if previous else {})
    return Question("consent", "run-1", round_number, "a", PLAN.digest(), body)


def train():
    adapter = initial_adapter(SHAPES, a_init="kaiming", seed=0)
    return Question("train", "run-1", 1, "a", PLAN.digest(), payload=Payload(codec.dump(adapter)))


@pytest.fixture
def site(tmp_path):
    patients = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    made = vector_site("a", tmp_path / "site", patients, shapes=SHAPES, policy=POLICY)
    yield made
    made.ledger.close()


@pytest.fixture
def daemon(tmp_path, site):
    approved = []
    made = Daemon(
        site, tmp_path / "d", None, thread=OneThread(), approve=lambda digest, by: approved.append((digest, by))
    )
    made.approvals = approved
    made.start()
    yield made
    made.stop()


@pytest.fixture
def stub(daemon):
    made = Stub(daemon.folder / "run" / "daemon.sock")
    yield made
    made.close()


def events(daemon):
    return [json.loads(line) for line in (daemon.folder / "logs" / "site.jsonl").read_text().splitlines()]


def test_what_keeps_the_node_away_is_looked_at_and_told_once_and_forgotten_when_a_question_comes(tmp_path, site):
    causes = iter(["the proxy asks for a password", "the proxy asks for a password", "", ""])
    looked = threading.Semaphore(0)

    def trouble():
        looked.release()
        return next(causes)

    made = Daemon(
        site, tmp_path / "d", None, thread=OneThread(), approve=lambda digest, by: None, trouble=trouble,
        clock=count(0.0, 31.0).__next__,
    )  # fmt: skip
    made.start()
    stub = Stub(made.folder / "run" / "daemon.sock")

    def told():
        assert looked.acquire(timeout=10)
        with made._looking:  # the look is over when its lock is free
            return stub.status()["trouble"]

    try:
        assert stub.status()["trouble"] == ""
        made._node_says("node", "WARNING :   Connection attempt failed, retrying in 0.63 seconds")
        assert told() == "the proxy asks for a password"
        made._node_says("node", "WARNING :   Connection attempt failed, retrying in 1.39 seconds")
        assert told() == "the proxy asks for a password"
        made._node_event("child-ended", child="node", lived_s=20.0, again_in_s=1.0)
        assert "does not let this node in" in told()
        assert stub.answer(consent()).kind == "consent"
        assert stub.status()["trouble"] == ""
    finally:
        stub.close()
        made.stop()
    says = [one["says"] for one in events(made) if one["event"] == "not-connected"]
    assert len(says) == 2 and says[0] == "the proxy asks for a password"


def test_a_question_over_the_socket_is_answered_by_the_site_itself(daemon, stub, site):
    assert stub.answer(consent()).kind == "consent"
    first = stub.answer(train())
    again = stub.answer(train())

    assert first.kind == "update" and again.header == first.header
    assert site.learner.updates == 1


def test_the_status_tells_states_and_counts_and_the_log_keeps_them(daemon, stub):
    stub.answer(consent())

    told = stub.status()
    assert (told["site"], told["state"], told["answered"]) == ("a", "waiting for the coordinator", 1)
    assert told["last"] == {"kind": "consent", "answer": "consent", "run": "run-1", "round": 1}
    assert [event["event"] for event in events(daemon)] == ["daemon-started", "answered"]


def test_the_daemon_answers_for_its_health_while_it_is_busy(daemon, stub, site, monkeypatch):
    working, done = threading.Event(), threading.Event()
    answer = site.answer

    def slow(question):
        working.set()
        done.wait(30)
        return answer(question)

    monkeypatch.setattr(site, "answer", slow)
    asking = threading.Thread(target=stub.answer, args=(consent(),))
    asking.start()
    working.wait(30)

    other = Stub(daemon.folder / "run" / "daemon.sock")
    assert other.health()["state"] == "answering consent"
    other.close()
    done.set()
    asking.join()


def test_an_approval_names_the_plan_and_the_person(daemon, stub):
    assert stub.approve("a" * 64, "radiology") == {"approved": "a" * 64}
    assert daemon.approvals == [("a" * 64, "radiology")]

    with pytest.raises(PermissionError):
        stub.approve("../../etc", "radiology")
    assert len(daemon.approvals) == 1


def test_a_site_whose_answer_came_too_late_is_told_so(daemon, stub):
    stub.answer(consent(previous={"round_number": 1, "outcome": "no-answer"}, round_number=2))

    [told] = [event for event in events(daemon) if event["event"] == "round-went-on-without-us"]
    assert (told["round"], told["outcome"]) == (1, "no-answer")


def test_no_log_line_of_a_round_holds_more_than_public_words(daemon, stub):
    stub.answer(consent())
    stub.answer(train())

    for event in events(daemon):
        assert set(event) <= {
            "time", "event", "site", "pid", "kind", "answer", "run", "round", "seconds", "question", "reasons", "code",
        }  # fmt: skip


def test_a_site_is_opened_and_answers_in_one_thread_and_its_errors_come_back():
    thread = OneThread()

    assert thread.call(threading.get_ident) == thread.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0)
