"""A toy federation through Flower's engine is the in-process one, bit for bit, and leaves and reaches nothing outside.

It runs in a process of its own that starts with nothing imported: this file as a program. In every Python process of
that run, Ray's own included, an audit hook writes down what it connects to.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation import codec, messages
from federation.adapter import Adapter, AdapterUpdate, initial_adapter
from federation.errors import QuorumError
from federation.messages import Answer, Link, Payload, Question, answer_to
from sim.flower_engine import run_with_flower

SITES = ("north", "south", "west")
SECRET = "Doe^Jane 1970-01-01"
ROUNDS = 3
AUDIT = """
import os, sys
def _write(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        where = arguments[1]
    elif event == "socket.getaddrinfo":
        where = arguments[:1]
    else:
        return
    if isinstance(where, tuple):
        with open(os.environ["AUDIT_FILE"], "a") as file:
            file.write(str(where[0]) + "\\n")
sys.addaudithook(_write)
"""


class ToySite:
    """Adds its own number to every entry, in float32 arithmetic whose order matters; fails when told to."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        (folder / f"opened-{number}-{time.monotonic_ns()}").touch()

    def answer(self, question: Question) -> Answer:
        if question.kind == "consent":
            return answer_to(question, "consent", {})
        if question.body.get("fail") == self.number:
            raise ValueError(SECRET)
        assert question.payload is not None
        adapter = codec.load_as(Adapter, question.payload.data)
        step = np.float32(1 / (3 + self.number)) * question.round_number
        update = AdapterUpdate({name: np.sin(array * step + step) for name, array in adapter.arrays.items()})
        return answer_to(question, "update", {}, Payload(codec.dump(update)))


def toy_run(link: Link) -> str:
    """Ask for consent, then add up updates in the order of the sites; the digest of the last adapter."""
    adapter = initial_adapter({"w.lora_A.weight": (4, 50), "w.lora_B.weight": (30, 4)}, a_init="kaiming", seed=7)
    for round_number in range(1, ROUNDS + 1):
        consents = list(link.ask([ask("consent", round_number, site) for site in link.site_ids()], deadline_s=60))
        payload = Payload(codec.dump(adapter))
        asked = [ask("train", round_number, answer.site_id, payload) for answer in consents]
        for answer in link.ask(asked, deadline_s=60):
            assert answer.payload is not None
            adapter = adapter.plus(codec.load_as(AdapterUpdate, answer.payload.data).scale(1 / 3))
    return adapter.digest()


def ask(kind: Any, round_number: int, site_id: str, payload: Payload | None = None, fail: int = -1) -> Question:
    return Question(kind, "toy", round_number, site_id, "0" * 64, body={"fail": fail}, payload=payload)


class LocalLink:
    def __init__(self, sites: dict[str, ToySite]) -> None:
        self.sites = sites

    def site_ids(self) -> tuple[str, ...]:
        return tuple(self.sites)

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        for question in questions:
            answer = messages.load(messages.dump(self.sites[question.site_id].answer(question)))
            assert isinstance(answer, Answer)
            yield answer


def run_and_fail(link: Link) -> dict[str, Any]:
    """A whole run, then a question at which one site fails."""
    digest = toy_run(link)
    payload = Payload(codec.dump(initial_adapter({"w.lora_A.weight": (1, 1)}, a_init="kaiming", seed=1)))
    asked = [ask("train", 1, site_id, payload, fail=1) for site_id in link.site_ids()]
    return {"digest": digest, "answered": [answer.site_id for answer in link.ask(asked, deadline_s=60)]}


def run_and_stop(link: Link) -> dict[str, Any]:
    raise QuorumError("quorum-answers", "too few answers", hint=f"{len(link.site_ids())} sites")


def program(run: str, folder: Path) -> None:
    sites = {site_id: partial(ToySite, number, folder) for number, site_id in enumerate(SITES)}
    environment = dict(os.environ)
    try:
        result = run_with_flower({"fail": run_and_fail, "stop": run_and_stop}[run], sites)
    except QuorumError as error:
        result = {"error": [error.code, error.hint]}
    result["opened"] = len(list(folder.iterdir()))
    result["environment_restored"] = dict(os.environ) == environment
    result["threads"] = [thread.name for thread in threading.enumerate() if not thread.daemon]
    print(json.dumps(result))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finish("fail", tmp_path_factory.mktemp("flower"))


def finish(run: str, folder: Path) -> dict[str, Any]:
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(AUDIT)
    (folder / "opened").mkdir()
    switches = ("FLWR_", "RAY_", "HF_")  # none is set outside: the engine has to set them itself
    environment = {name: value for name, value in os.environ.items() if not name.startswith(switches)}
    environment["AUDIT_FILE"] = str(folder / "audit.txt")
    environment["HOME"] = str(folder / "home")
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "hook"), str(Path.cwd())])
    before = set(Path("/tmp").glob("ward-*"))
    done = subprocess.run(
        [sys.executable, __file__, run, str(folder / "opened")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {
        **json.loads(done.stdout),
        "stderr": done.stderr,
        "reached": set((folder / "audit.txt").read_text().split()),
        "left": set(Path("/tmp").glob("ward-*")) - before,
        "home": list((folder / "home").rglob("*")),
        "folder": folder,
    }


def test_the_adapter_is_that_of_the_in_process_federation_to_the_bit(finished: dict[str, Any], tmp_path: Path) -> None:
    sites = {site_id: ToySite(number, tmp_path) for number, site_id in enumerate(SITES)}

    assert finished["digest"] == toy_run(LocalLink(sites))


def test_each_site_is_opened_once_and_stays_open(finished: dict[str, Any]) -> None:
    assert finished["opened"] == len(SITES)


def test_a_failing_site_is_left_out_and_only_its_code_crosses(finished: dict[str, Any]) -> None:
    assert finished["answered"] == ["north", "west"]
    assert finished["stderr"].splitlines() == ["south: the node could not ask its site (internal)"]


def test_nothing_but_loopback_is_reached(finished: dict[str, Any]) -> None:
    assert "127.0.0.1" in finished["reached"]
    assert finished["reached"] <= {"127.0.0.1", "localhost", "::1", "0.0.0.0"}


def test_no_file_thread_or_process_is_left(finished: dict[str, Any]) -> None:
    mark = f"AUDIT_FILE={finished['folder']}".encode()
    alive = [folder for folder in Path("/proc").glob("[0-9]*") if mark in _environment_of(folder)]

    assert finished["environment_restored"]
    assert finished["threads"] == ["MainThread"]
    assert (finished["left"], finished["home"], alive) == (set(), [], [])


@pytest.mark.slow
def test_an_error_of_the_run_arrives_unchanged(tmp_path: Path) -> None:
    assert finish("stop", tmp_path)["error"] == ["quorum-answers", "3 sites"]


def _environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]))
