"""Nobody is looked up and nothing is connected to, by anything that we start."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip") or not Path("/dev/net/tun").exists(),
    reason="a network of its own needs root, unshare, ip and /dev/net/tun",
)


def blocked(*command):
    done = subprocess.run(
        [sys.executable, "-m", "sim.blocked", *command], capture_output=True, text=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return done, json.loads(done.stdout.splitlines()[-1])


def test_what_is_tried_is_seen():
    code = """
import contextlib, socket
for what in (lambda: socket.getaddrinfo("home.example", 1), lambda: socket.create_connection(("192.0.2.9", 1), 1)):
    with contextlib.suppress(OSError):
        what()
"""
    done, told = blocked(sys.executable, "-c", code)

    assert done.returncode == 0, done.stderr
    assert told["names"] == ["home.example"] and told["packets_to"] == ["192.0.2.9"]
    assert told["what_was_tried_on_purpose_was_seen"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_whole_deployment_reaches_for_nothing_but_loopback(tmp_path):
    """Coordinator, SuperLink, runner, daemons, nodes and relays, under masks; one round and the end of the run."""
    done, told = blocked(sys.executable, "-m", "sim.vector_federation", str(tmp_path))

    assert told["status"] == 0, done.stderr[-2000:]
    assert (told["names"], told["packets_to"]) == ([], [])
