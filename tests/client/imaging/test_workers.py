import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import spawn
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from client.imaging import workers
from client.imaging.workers import WorkLimits, each
from federation.errors import DataError

LIMITS = WorkLimits(seconds=30.0, memory_bytes=2**30)
HOARD: list[bytearray] = []


def answer(item: str) -> str:
    """What a decoder may do to us."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "hang":
        while True:
            pass
    if item == "sleep":
        time.sleep(600)
    if item == "bomb":
        return str(len(bytearray(2**31)))
    if item in ("hoard", "half"):
        HOARD.append(bytearray(int(2**30 * (0.6 if item == "hoard" else 0.45))))
    print("Quixano", file=sys.stderr, flush=True)
    os.write(2, b"Quixano")
    return item.upper()


def failed(code: str) -> str:
    return code


def answers(items: list[str], workers: int) -> list[str]:
    return [found for _, found in each(answer, items, failed=failed, workers=workers, limits=LIMITS)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_the_order_of_the_items(workers: int) -> None:
    items = [chr(97 + number % 26) for number in range(50)]

    assert answers(items, workers) == [item.upper() for item in items]


def test_an_item_that_kills_its_worker_costs_itself_only() -> None:
    assert answers(["a", "crash", "b", "crash", "crash", "c"], 2) == [
        "A", "decode-failed", "B", "decode-failed", "decode-failed", "C",
    ]  # fmt: skip


def test_an_item_that_fills_the_memory_is_over_its_limit() -> None:
    assert answers(["a", "bomb", "b"], 1) == ["A", "limit-size", "B"]


@pytest.mark.parametrize("item", ["hoard", "half"])
def test_an_item_does_not_pay_for_what_others_left_in_memory(item: str) -> None:
    """A decoder's arena grows with every size of picture. Beside what one `half` has left there is no room for two."""
    assert answers([item] * 4, 1) == [item.upper()] * 4


@pytest.mark.parametrize("item", ["hang", "sleep"])
def test_an_item_that_hangs_is_stopped_by_the_clock(item: str) -> None:
    """Without the clock the first would never end, and the second after ten minutes with another answer."""
    short = WorkLimits(seconds=0.3, memory_bytes=2**30)
    found = [text for _, text in each(answer, ["a", "b", item, "c"], failed=failed, workers=1, limits=short)]

    assert found == ["A", "B", "limit-time", "C"]


def answer_with(load: bytes, item: str) -> str:
    return f"{len(load)} {item}"


def killed_while_it_starts(pipe: Connection, *rest: int) -> None:
    """The first one only: the mark is a file that outlives it."""
    mark = Path(os.environ["WORKER_MARK"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    real_labour(pipe, *rest)


def silent(pipe: Connection, *rest: int) -> None:
    time.sleep(600)


real_labour = workers._labour


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_whose_worker_died_before_it_began_is_given_to_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_MARK", str(tmp_path / "mark"))
    monkeypatch.setattr(workers, "_labour", killed_while_it_starts)

    assert answers(["a", "b"], 1) == ["A", "B"] and (tmp_path / "mark").exists()


def test_a_file_whose_worker_died_while_it_had_nothing_to_do_is_given_to_another() -> None:
    found = each(answer, ["a", "b"], failed=failed, workers=1, limits=LIMITS, chunk=1)
    assert next(found) == ("a", "A")
    for worker in multiprocessing.active_children():
        worker.kill()
        worker.join()

    assert list(found) == [("b", "B")]


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/python"])
def test_workers_that_never_start_are_one_error_whatever_the_work_weighs(
    program: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spawn, "_python_exe", os.fsencode(program))
    work = partial(answer_with, bytes(1 << 20))
    with at_most(60), pytest.raises(DataError) as caught:
        list(each(work, ["a", "b"], failed=failed, workers=2, limits=LIMITS))

    assert caught.value.code == "no-worker" and capfd.readouterr().err == ""


def test_a_worker_that_never_says_a_word_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_START_S", 1.0)
    monkeypatch.setattr(workers, "_labour", silent)
    with at_most(60), pytest.raises(DataError) as caught:
        answers(["a"], 1)

    assert caught.value.code == "no-worker"


def test_work_may_weigh_more_than_a_pipe_holds() -> None:
    work = partial(answer_with, bytes(1 << 20))
    with at_most(60):
        found = list(each(work, ["a"], failed=failed, workers=1, limits=LIMITS))

    assert found == [("a", "1048576 a")]


def test_a_worker_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    answers(["a", "b"], 1)

    assert "Quixano" not in "".join(capfd.readouterr())


def test_workers_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import time, os\n"
        "from client.imaging.workers import WorkLimits, each\n"
        "from tests_worker import slow\n"
        "if __name__ == '__main__':\n"
        "    for _, pid in each(slow, range(9), failed=str, workers=1, limits=WorkLimits(), chunk=1):\n"
        "        print(pid, flush=True)\n"
    )
    (tmp_path / "tests_worker.py").write_text(
        "import os, time\ndef slow(n):\n    time.sleep(n)\n    return os.getpid()\n"
    )
    (tmp_path / "main.py").write_text(program)
    root = str(Path(__file__).parents[3])
    parent = subprocess.Popen(
        [sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "zombie" in Path(f"/proc/{worker}/status").read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker outlived its parent")
