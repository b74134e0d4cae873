"""The coordinator's whole memory and all its files are searched for the update of any single site: none is there.

The coordinator runs in a process of its own (this file as a program), the sites and the searcher in this one. Searched
are the bytes of every update, as float32 and as the integers of the ring before they are masked, at every stage of a
masked round and after the run. The same search finds them all where secure aggregation is off.
"""

import base64
import os
import subprocess
import sys
from dataclasses import replace
from multiprocessing.connection import Client, Listener
from pathlib import Path

import numpy as np
import pytest

from client.policy import Policy
from federation import messages
from federation.plan import parse_plan
from federation.secagg import ring
from server import rounds
from server.checkpoint import Checkpoints
from sim.faults import FaultyLink, parse_fault
from sim.links import LocalLink
from sim.vectors import roster_of, vector_site

SHAPES = {"m.lora_A.weight": (2, 30), "m.lora_B.weight": (40, 2)}
NAMES = ("site-a", "site-b", "site-c", "site-d", "site-e")
WINDOW = 20  # bytes of an update that nobody else has
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
quorum = 3
[model]
path = "base"
[training]
local_steps = 2
learning_rate = 0.5
[privacy]
noise_multiplier = 2.0
[aggregation]
secure = true
max_update_rms = 100.0
""")
IN_THE_CLEAR = replace(PLAN, aggregation=replace(PLAN.aggregation, secure=False))
STAGES = ("train", "shares", "agree", "end")  # the beginning of these is when the coordinator is searched
NO_FAULTS, FAULTS = (), ("site-d=drop-masked@2", "site-b=drop-unmask@3")


class Searched:
    """A whole run; `seen` has every (stage, site) whose update was found at the coordinator."""

    def __init__(self, folder, plan, faults, monkeypatch):
        policy = Policy(epsilon_max=50.0, approve="matching", quorum_min=1)
        rng = np.random.default_rng(0)
        sites = {
            name: vector_site(name, folder / name, rng.standard_normal((20, 140)).astype(np.float32), shapes=SHAPES,
                              policy=policy, roster=roster_of(NAMES))
            for name in NAMES
        }  # fmt: skip
        self.needles, self.seen = {}, set()
        for name, site in sites.items():
            self._remember(name, site)
        encode = ring.encode

        def encoded(update, encoding, *, site_id, **given):
            vector = encode(update, encoding, site_id=site_id, **given)
            self._keep(site_id, vector.tobytes(), starts=(0, 64))
            return vector

        monkeypatch.setattr(ring, "encode", encoded)
        link = FaultyLink(LocalLink(sites), [parse_fault(text) for text in faults])
        address, home = str(folder / "socket"), folder / "coordinator"
        home.mkdir()
        with Listener(address, "AF_UNIX") as listener:
            command = [sys.executable, __file__, address, str(home), "masked" if plan.aggregation.secure else "clear"]
            environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
                with listener.accept() as pipe:
                    self._serve(pipe, link, child.pid)
                self.said = child.stdout.read()
        files = [path for path in home.rglob("*") if path.is_file()]
        self._search("files", [path.read_bytes() for path in files] + [self.said])
        self.files, self.code = len(files), child.returncode
        for site in sites.values():
            site.ledger.close()

    def _remember(self, name, site):
        update = site.learner.update

        def remembered(*given):
            made = update(*given)
            for array in made.arrays.values():
                self._keep(name, array.tobytes(), starts=(0, array.nbytes // 2))
            return made

        site.learner.update = remembered

    def _keep(self, name, data, *, starts):
        for start in starts:
            piece = data[start : start + WINDOW]
            for spelt in (piece, piece.hex().encode(), base64.b64encode(piece[:18])):
                self.needles[spelt[:WINDOW]] = name

    def _serve(self, pipe, link, child):
        """Carry the questions; whenever a stage begins, and at the end, the coordinator waits and is searched."""
        searched = ""
        while True:
            asked = [messages.load(data) for data in iter(pipe.recv_bytes, b"")]
            stage = f"{asked[0].kind} {asked[0].round_number}" if asked else "end"
            if stage != searched and stage.split()[0] in STAGES:
                self._search(stage, memory_of(child))
                searched = stage
            if not asked:
                pipe.send_bytes(b"bye")
                return
            for answer in link.ask(asked, deadline_s=1.0):
                pipe.send_bytes(messages.dump(answer))
            pipe.send_bytes(b"")

    def _search(self, stage, regions):
        for region in regions:
            self.seen |= {(stage, self.needles[found]) for found in occurrences(list(self.needles), region)}


def occurrences(needles, region):
    """Those of the needles that are somewhere in the region, at any byte: two bytes are looked up at a time."""
    tables = np.zeros((4, 2**16), bool)
    for needle in needles:
        tables[range(4), np.frombuffer(needle[:8], "<u2")] = True
    found = set()
    for start in (0, 1):
        words = np.frombuffer(region[start : start + (len(region) - start) // 2 * 2], "<u2")
        at = np.flatnonzero(tables[0][words])
        for number in (1, 2, 3):
            at = at[at + number < words.size]
            at = at[tables[number][words[at + number]]]
        found |= {region[start + 2 * place : start + 2 * place + WINDOW] for place in at.tolist()}
    return found & set(needles)


def memory_of(process):
    """Every readable part of another process's memory, but for the program files that it has mapped and not changed."""
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            place, permissions, *_ = line.split()
            if permissions.startswith("rw"):
                start, end = (int(number, 16) for number in place.split("-"))
                memory.seek(start)
                yield memory.read(end - start)


@pytest.mark.parametrize("faults", [NO_FAULTS, FAULTS])
def test_no_update_of_a_single_site_is_in_memory_log_or_file_of_the_coordinator(tmp_path, monkeypatch, faults):
    whole = Searched(tmp_path, PLAN, faults, monkeypatch)

    assert whole.code == 0, whole.said[-2000:]
    assert len(whole.needles) > 5 * 3 * 3 * 4 and whole.files > 10
    assert whole.seen == set()


def test_the_search_finds_bytes_wherever_they_lie():
    rng = np.random.default_rng(0)
    needles = [rng.bytes(WINDOW) for _ in range(50)]
    region = b"x" * 101 + needles[3] + bytes(10_000) + needles[7] + rng.bytes(70_001) + needles[9]

    assert occurrences(needles, region) == {needles[3], needles[7], needles[9]}


def test_without_secure_aggregation_the_same_search_finds_the_updates(tmp_path, monkeypatch):
    whole = Searched(tmp_path, IN_THE_CLEAR, NO_FAULTS, monkeypatch)

    assert whole.code == 0, whole.said[-2000:]
    assert {name for _, name in whole.seen} == set(NAMES)


class PipeLink:
    """Questions go out as bytes and answers come in as bytes, as over any network."""

    def __init__(self, pipe):
        self._pipe = pipe

    def site_ids(self):
        return NAMES

    def ask(self, questions, *, deadline_s):
        for question in questions:
            self._pipe.send_bytes(messages.dump(question))
        self._pipe.send_bytes(b"")
        while data := self._pipe.recv_bytes():
            yield messages.load(data)


if __name__ == "__main__":
    with Client(sys.argv[1], "AF_UNIX") as pipe:
        plan = PLAN if sys.argv[3] == "masked" else IN_THE_CLEAR
        checkpoints = Checkpoints.create(Path(sys.argv[2]) / "run", run_id="run-1", plan=plan)
        result = rounds.run(plan, PipeLink(pipe), checkpoints, roster=roster_of(NAMES))
        pipe.send_bytes(b"")
        pipe.recv_bytes()  # searched meanwhile, with the result at hand
