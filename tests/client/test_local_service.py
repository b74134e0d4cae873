"""The socket of a site: who gets in, and that bytes come out as they went in."""

import json
import os
import socket
import stat

import pytest

from client import local_service
from client.local_service import LocalService, Stub, pack, peer_uid, unpack
from federation.errors import FormatError, SettingsError
from federation.messages import Payload, Question, answer_to

QUESTION = Question("train", "run-1", 1, "a", "0" * 64, {"x": 1}, Payload(bytes(range(256)) * 5000), b"seal")


def echo(request):
    question = unpack(request)
    return pack(answer_to(question, "update", {}, question.payload))


def break_down(request):
    raise RuntimeError("a value of a patient")


@pytest.fixture
def service(tmp_path):
    strangers = []
    methods = {"Answer": echo, "Status": break_down, "Health": lambda request: b'{"state": "up"}'}
    made = LocalService(tmp_path, methods, on_stranger=strangers.append)
    made.strangers = strangers
    yield made
    made.close()


@pytest.mark.parametrize("question", [QUESTION, Question("consent", "run-1", 1, "a", "0" * 64)])
def test_a_packed_message_comes_back_whole(question):
    back = unpack(pack(question))

    assert back == question and back.seal == question.seal


@pytest.mark.parametrize("data", [b"", b"short", pack(QUESTION)[:-1], pack(QUESTION) + b"x"])
def test_bytes_that_no_message_packs_to_are_refused(data):
    with pytest.raises(FormatError):
        unpack(data)


def test_a_question_of_a_megabyte_is_answered_over_the_socket(service):
    stub = Stub(service.path)

    assert stub.answer(QUESTION).payload == QUESTION.payload
    assert stub.health() == {"state": "up"}
    stub.close()


def test_an_exception_behind_the_service_reaches_nobody(service):
    stub = Stub(service.path)

    with pytest.raises(ConnectionError) as caught:
        stub.status()

    assert "patient" not in str(caught.value)
    stub.close()


def test_the_socket_is_ours_alone(service):
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((service.path.parent / "behind").stat().st_mode) == 0o700


def test_the_kernel_says_who_calls():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        assert peer_uid(one) == os.getuid()


def test_a_stranger_is_turned_away_before_a_byte_is_read(service, monkeypatch):
    monkeypatch.setattr(local_service, "peer_uid", lambda connection: 4242)
    stub = Stub(service.path)

    with pytest.raises(ConnectionError):
        stub.health(timeout_s=3.0)

    assert set(service.strangers) == {4242}
    stub.close()


def test_a_daemon_that_is_not_there_is_said_to_be_away(tmp_path):
    stub = Stub(tmp_path / "nobody.sock")

    with pytest.raises(ConnectionError):
        stub.health(timeout_s=1.0)
    stub.close()


def test_a_path_too_long_for_a_socket_is_refused_with_a_hint(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()

    with pytest.raises(SettingsError, match="too long"):
        LocalService(deep, {}, on_stranger=lambda uid: None)


def test_what_is_asked_as_json_is_answered_as_json(tmp_path):
    service = LocalService(
        tmp_path, {"Approve": lambda request: json.dumps({"approved": json.loads(request)["digest"]}).encode()},
        on_stranger=lambda uid: None,
    )  # fmt: skip
    stub = Stub(service.path)

    assert stub.approve("0" * 64, "someone") == {"approved": "0" * 64}
    stub.close()
    service.close()
