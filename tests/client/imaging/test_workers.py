import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.imaging.workers import WorkLimits, each

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
