"""Work on raw files in processes of their own: a file that crashes, hangs or fills the memory costs itself, no more.

Decoders are C code. A worker that dies, or is killed because it works past the time limit, was busy with a known
item: that item gets a reason, and a new worker goes on with the next one. Answers come in the order of the items,
whatever the number of workers, and no more than a few items per worker are under way, so memory stays flat.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Generic, TypeVar

from federation.errors import DataError

T = TypeVar("T")
R = TypeVar("R")

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
_PATIENCE = 10  # a worker that computes nothing may be silent for so many time limits
_LOOK_EVERY_S = 1.0
_START_S = 600.0
_STARTS = 3  # so many have died per worker since the last answer, and none had begun: the next would as well
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class WorkLimits:
    """What one file may cost its worker. Time is the worker's own computing time: a busy machine holds nothing back."""

    seconds: float = 120.0
    memory_bytes: int = 4 * 2**30


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def each(
    work: Callable[[T], R], items: Iterable[T], *,
    failed: Callable[[str], R], workers: int, limits: WorkLimits, chunk: int = 4,
    files: Callable[[T], int] = lambda item: 1,
) -> Generator[tuple[T, R], None, None]:  # fmt: skip
    """Items beside their answers, in order. `work` and the items must be picklable; 0 workers means right here.
    `files` says how many files an item has: its time limit is theirs together.

    Guarantees: an item whose worker dies is answered by `failed("decode-failed")`, one over the time limit by
    `failed("limit-time")`, one over the memory limit by `failed("limit-size")`; no other is touched by it, or by what
    those before it have left in memory. A worker prints nothing, ignores Ctrl-C (its parent ends it), leaves no core
    dump, and dies with its parent. An item whose worker dies before it has begun with it goes to another one.

    Raises: DataError no-worker when one after the other does not start.
    """
    if workers <= 0:
        for item in items:
            yield item, _done(work, item, failed)
        return
    with _Crew(work, failed, workers, limits, files) as crew:
        yield from crew.run(iter(items), chunk)


def _done(work: Callable[[T], R], item: T, failed: Callable[[str], R]) -> R:
    try:
        return work(item)
    except MemoryError:
        return failed("limit-size")


@dataclass
class _Hand(Generic[T]):
    """One worker process and what it was given: `todo` are the items whose answers are still to come."""

    process: BaseProcess
    pipe: Connection
    todo: list[tuple[int, T]]
    since: float = 0.0
    cpu_s: float = 0.0
    taught: bool = False
    """It has said that it is there, and was sent the work: a process that starts is sent nothing large, or a death
    would leave us with a full pipe that nobody reads."""
    awake: bool = False
    """It has understood the work, and was sent its items."""


class _Full:
    """The answer of a worker that earlier items have left too little memory: a new one is to try this item."""


class _Crew(Generic[T, R]):
    def __init__(
        self, work: Callable[[T], R], failed: Callable[[str], R], workers: int, limits: WorkLimits,
        files: Callable[[T], int],
    ) -> None:  # fmt: skip
        self._work, self._failed, self._workers, self._limits, self._files = work, failed, workers, limits, files
        self._hands: list[_Hand[T]] = []
        self._answers: dict[int, R] = {}
        self._stillborn = 0

    def __enter__(self) -> "_Crew[T, R]":
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            hand.process.kill()
        for hand in self._hands:
            hand.process.join()
            hand.pipe.close()

    def run(self, items: Iterator[T], chunk: int) -> Iterator[tuple[T, R]]:
        waiting: dict[int, T] = {}
        given = taken = 0
        some = list(islice(items, chunk))
        while True:
            while some and given - taken < 3 * self._workers * chunk and (hand := self._idle()) is not None:
                numbered = list(enumerate(some, given))
                waiting.update(numbered)
                given += len(some)
                self._give(hand, numbered)
                some = list(islice(items, chunk))
            if taken == given:
                return
            if taken not in self._answers:
                self._listen()
            while taken in self._answers:
                yield waiting.pop(taken), self._answers.pop(taken)
                taken += 1

    def _idle(self) -> _Hand[T] | None:
        for hand in self._hands:
            if not hand.todo:
                return hand
        return self._hired() if len(self._hands) < self._workers else None

    def _hired(self) -> _Hand[T]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_labour, args=(theirs, self._limits.memory_bytes, os.getpid()), daemon=True
        )  # fmt: skip
        try:
            with _quiet_start():
                process.start()
        except OSError:  # no memory, process or descriptor left
            raise _no_worker() from None
        theirs.close()
        hand: _Hand[T] = _Hand(process, ours, [])
        self._hands.append(hand)
        return hand

    def _give(self, hand: _Hand[T], numbered: list[tuple[int, T]]) -> None:
        hand.todo = numbered
        self._start_clock(hand)
        if hand.awake:
            self._send(hand, [item for _, item in numbered])

    def _send(self, hand: _Hand[T], told: object) -> None:
        try:
            hand.pipe.send(told)
        except (BrokenPipeError, ConnectionResetError):
            self._replace(hand)

    def _listen(self) -> None:
        """Take every answer that is there. Only a worker with nothing to say is judged by the clock."""
        busy = [hand for hand in self._hands if hand.todo]
        ready = wait([hand.pipe for hand in busy], timeout=min(_LOOK_EVERY_S, self._limits.seconds))
        for hand in busy:
            if hand.pipe in ready:
                self._hear(hand)
            elif not ready and self._is_over(hand):
                if not hand.awake:
                    raise _no_worker()
                self._bury(hand, "limit-time")

    def _start_clock(self, hand: _Hand[T]) -> None:
        hand.since, hand.cpu_s = time.monotonic(), _cpu_s(hand.process.pid)

    def _is_over(self, hand: _Hand[T]) -> bool:
        limit_s = self._limits.seconds * max(1, self._files(hand.todo[0][1]))
        computed_s, silent_s = _cpu_s(hand.process.pid) - hand.cpu_s, time.monotonic() - hand.since
        if not hand.awake:
            return silent_s > _START_S
        return computed_s > limit_s or silent_s > _PATIENCE * limit_s

    def _hear(self, hand: _Hand[T]) -> None:
        try:
            answer = hand.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._bury(hand, "decode-failed") if hand.awake else self._replace(hand)
            return
        if isinstance(answer, _Full):
            self._dismiss(hand)
            self._give(self._hired(), hand.todo)
            return
        if not hand.awake:  # starting is not counted against an item
            self._start_clock(hand)
            if hand.taught:
                hand.awake = True
                self._send(hand, [item for _, item in hand.todo])
            else:
                hand.taught = True
                self._send(hand, (self._work, self._failed))
            return
        number, _ = hand.todo.pop(0)
        self._answers[number] = answer
        self._stillborn = 0
        self._start_clock(hand)

    def _replace(self, hand: _Hand[T]) -> None:
        """The worker died before it began: none of its items is to blame."""
        self._dismiss(hand)
        self._stillborn += 1
        if self._stillborn >= _STARTS * self._workers:
            raise _no_worker()
        self._give(self._hired(), hand.todo)

    def _bury(self, hand: _Hand[T], code: str) -> None:
        """The first unanswered item is the one that the worker died of; the rest goes to a new worker."""
        self._dismiss(hand)
        if hand.todo:
            number, _ = hand.todo.pop(0)
            self._answers[number] = self._failed(code)
        if hand.todo:
            self._give(self._hired(), hand.todo)

    def _dismiss(self, hand: _Hand[T]) -> None:
        hand.process.kill()
        hand.process.join()
        hand.pipe.close()
        self._hands.remove(hand)


def _no_worker() -> DataError:
    return DataError(
        "no-worker",
        "a worker process does not start",
        hint="free some memory, take fewer --workers, and run as a user who may run the Python of this installation",
    )


def _labour(pipe: Connection, memory_bytes: int, parent: int) -> None:
    """The life of a worker."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what a decoder prints may quote a header
        os.dup2(silence, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send(None)
    work, failed = pipe.recv()
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    pipe.send(None)
    fresh = True
    while True:
        try:
            items = pipe.recv()
        except EOFError:
            return
        for item in items:
            if not fresh and _kept_bytes() > memory_bytes / 2:
                pipe.send(_Full())
                return
            try:
                pipe.send(work(item))
            except MemoryError:
                if not fresh:
                    pipe.send(_Full())
                    return
                pipe.send(failed("limit-size"))
            fresh = False


def _kept_bytes() -> int:
    """What this process holds of the memory that RLIMIT_DATA counts, from proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def _cpu_s(pid: int | None) -> float:
    """Computing time of a process and its threads so far, from proc(5); 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _quiet_start() -> Iterator[None]:
    """A child that starts now has Ctrl-C blocked and one thread for its mathematics; Python says nothing about it."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(_ONE_THREAD)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "resource_tracker")  # it begins beside the first child, and may die too
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
