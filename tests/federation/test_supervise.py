"""Children are started again, with growing waits, and none outlives its parent."""

import os
import random
import signal
import subprocess
import sys
import threading
import time

from federation.supervise import Backoff, Child, end, environment

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = [*SLEEPER[:2], "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER[2]]
PARENT = """
import os, sys, time
from federation.supervise import Child, Backoff
code = '''
import sys, time
from federation.supervise import die_with
die_with(int(sys.argv[2]))
print("up", flush=True)
time.sleep(60)
'''
say = lambda name, text: print(child.pid, flush=True)
nothing = lambda *what, **fields: None
child = Child("c", lambda: [sys.executable, "-c", code], dict(os.environ), on_line=say, on_event=nothing,
              backoff=Backoff())
child.start()
time.sleep(60)
"""


class Heard:
    def __init__(self):
        self.events, self.up = [], threading.Semaphore(0)

    def line(self, name, text):
        self.up.release()

    def event(self, what, **fields):
        self.events.append(what)


def child(heard, command=SLEEPER):
    return Child(
        "c", lambda: command, dict(os.environ), on_line=heard.line, on_event=heard.event,
        backoff=Backoff(first_s=0.01, most_s=0.02),
    )  # fmt: skip


def test_a_killed_child_is_started_again_and_a_stopped_one_is_not():
    heard = Heard()
    one = child(heard)
    one.start()
    assert heard.up.acquire(timeout=30)
    os.kill(one.pid, signal.SIGKILL)
    assert heard.up.acquire(timeout=30)

    one.stop()

    assert one.starts == 2 and one.pid is None
    assert heard.events == ["child-started", "child-ended", "child-started"]


def test_all_are_asked_to_end_and_one_that_does_not_listen_is_killed():
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in (DEAF, SLEEPER, SLEEPER)]
    for process in processes:
        assert process.stdout.readline() == b"up\n"
        process.stdout.close()

    end(processes, wait_s=1.0)

    assert [process.returncode for process in processes] == [-signal.SIGKILL, -signal.SIGTERM, -signal.SIGTERM]


def test_waits_double_up_to_the_most_with_jitter_around_them():
    backoff, rng = Backoff(first_s=1, most_s=60, jitter=0.5), random.Random(0)
    waits = [backoff.wait_s(failures, rng) for failures in range(1, 12)]

    for failures, wait in enumerate(waits, start=1):
        plain = min(60.0, 2.0 ** (failures - 1))
        assert 0.5 * plain <= wait <= 1.5 * plain


def test_a_child_dies_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    for _ in range(300):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the child lives on")


def test_a_child_is_told_nothing_but_what_it_needs():
    source = {"PATH": "/bin", "AWS_SECRET": "x", "HTTPS_PROXY": "http://proxy:3128", "PYTHONPATH": "here"}

    plain, outside = environment(source, {"HOME": "h"}), environment(source, {}, proxies=True)

    assert "AWS_SECRET" not in plain | outside
    assert "HTTPS_PROXY" not in plain and outside["HTTPS_PROXY"] == "http://proxy:3128"
    assert plain["FLWR_TELEMETRY_ENABLED"] == "0" and plain["FLWR_DISABLE_UPDATE_CHECK"] == "1"
