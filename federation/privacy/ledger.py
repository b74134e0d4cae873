"""A site's record of privacy spent: append-only, hash-chained, durable before use. Format: docs/spec/ledger-1.md.

Pay before use: `reserve` returns when the charge is on disk, and only then may a patient be drawn. Nothing is refunded,
so a crash can only count too much. The time in a record decides nothing.
"""

import fcntl
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NoReturn, Self, TypeAlias

from federation import durable
from federation.errors import BudgetError, StoreError
from federation.privacy.accounting import INTERVAL, Event, epsilon
from federation.privacy.records import (
    FIRST,
    FIRST_LINE,
    Head,
    Spend,
    after,
    damaged,
    dump,
    dump_head,
    load_all,
    load_head,
)

__all__ = [
    "Head", "Ledger", "Spend", "Standing", "Whom", "ensure_within_budget", "epsilon_of", "events_per_person", "read",
]  # fmt: skip

LEDGER_NAME, HEAD_NAME = "ledger.jsonl", "head.json"

_PERSONS_MAX = 64

Whom: TypeAlias = tuple[str, tuple[float, float]]  # a cohort, and a part of its patients

_log = logging.getLogger(__name__)


class Ledger:
    """The open ledger of a site. One writer at a time, by `flock`; threads of that writer take turns.

    Guarantees:
        `reserve` returns only when the record is durable. A (run, round) is charged once. Whatever was acknowledged is
        there after a crash at any instruction, or the ledger refuses to open.
    """

    def __init__(self, folder: Path, descriptor: int, spends: list[Spend], heads: list[Head]) -> None:
        self._folder = folder
        self._descriptor: int | None = descriptor
        self._spends = {(spend.run_id, spend.round_number): spend for spend in spends}
        self._heads = heads  # after every line, the first line included
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Opens the ledger in `folder`, or begins one. Verifies every byte; cuts a torn tail, never acknowledged.

        Raises: StoreError `ledger-damaged`, `ledger-busy`, `ledger-write`, `disk-full`.
        """
        descriptor = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(folder / LEDGER_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            _lock(descriptor)
            return cls(folder, descriptor, *_recover(folder, descriptor))
        except BaseException as error:
            if descriptor is not None:
                os.close(descriptor)
            if isinstance(error, OSError):
                _not_written(error)
            raise

    @property
    def head(self) -> Head:
        """What a site publishes in its spend statements, so that an old backup is noticed."""
        return self._heads[-1]

    def spends(self) -> tuple[Spend, ...]:
        """Every charge, oldest first."""
        return tuple(self._spends.values())

    def events(self, coordinator: str | None = None) -> tuple[Event, ...]:
        """Every event, whomever it touched: of one coordinator, or of all."""
        return tuple(spend.event for spend in self.spends() if coordinator in (None, spend.coordinator))

    def find(self, run_id: str, round_number: int) -> Spend | None:
        """The charge of one round, if there is one."""
        return self._spends.get((run_id, round_number))

    def reserve(self, spend: Spend) -> Spend:
        """Charges a round; returns when that is durable. The recorded spend is returned, also when asked again.

        | edge case                                  | result                                     |
        |--------------------------------------------|--------------------------------------------|
        | the same charge again, at any later time   | the recorded one; nothing is written       |
        | another charge for the same (run, round)   | refused (`budget-conflict`)                |
        | a full disk, a failed write or fsync       | refused; closed until it is opened again   |
        """
        with self._turn:
            recorded = self.find(spend.run_id, spend.round_number)
            if recorded is None:
                self._append(spend)
                return spend
        if not recorded.same_charge(spend):
            raise BudgetError(
                "budget-conflict",
                "another charge is recorded for this round of this run",
                hint="a round is asked once; begin a new run for other parameters",
            )
        return recorded

    def require_descends_from(self, head: Head) -> None:
        """Refuses an old backup: `head` is the last one that this site published, and has to be in this history."""
        if head not in self._heads:
            raise StoreError(
                "ledger-rollback",
                "the ledger does not contain a record that this site has published",
                hint="restore the newest copy of the ledger; do not train with this one",
            )

    def close(self) -> None:
        """Gives up the lock. A closed ledger takes no more records."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _append(self, spend: Spend) -> None:
        if self._descriptor is None:
            raise StoreError("ledger-write", "the ledger is closed", hint="open it again; that repairs a torn record")
        line = dump(spend, self.head)
        head = after(self.head, line)
        try:
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
            _write_head(self._folder, head)
        except BaseException as error:
            self.close()  # what reached the disk is unknown: only opening it again can tell
            if isinstance(error, OSError):
                _not_written(error)
            raise
        self._heads.append(head)
        self._spends[spend.run_id, spend.round_number] = spend


def read(folder: Path) -> tuple[Spend, ...]:
    """The acknowledged charges, without the lock: for looking at the ledger of a running site. Changes nothing."""
    try:
        head = load_head((folder / HEAD_NAME).read_bytes())
        with (folder / LEDGER_NAME).open("rb") as file:
            spends, heads = load_all(file.read(head.length))
    except FileNotFoundError:
        raise damaged() from None
    if heads[-1] != head:
        raise damaged()
    return tuple(spends)


def events_per_person(spends: Iterable[Spend], whom: Whom | None = None) -> tuple[tuple[Event, ...], ...]:
    """What was done with one person: the events of each possible one, among these patients, or among all.

    Two charges add up for a person whom both can touch. Parts of one cohort are compared; of another cohort a person
    may be in any part, because the keys that decide it were made anew. Beyond `_PERSONS_MAX` possible persons all
    events are taken together, which is never too little.
    """
    cohorts: dict[str, list[Spend]] = {}
    for spend in spends:
        cohorts.setdefault(spend.cohort_id, []).append(spend)
    found = []
    for cohort_id, charged in cohorts.items():
        part = whom[1] if whom is not None and whom[0] == cohort_id else (0.0, 1.0)
        ends = sorted({*part, *(end for spend in charged for end in spend.part if part[0] < end < part[1])})
        found.append({
            tuple(spend.event for spend in charged if spend.part[0] <= low and high <= spend.part[1])
            for low, high in zip(ends, ends[1:], strict=False)
        })  # fmt: skip
    persons = 1
    for events in found:
        persons *= len(events)
    if persons > _PERSONS_MAX:
        return (tuple(spend.event for charged in cohorts.values() for spend in charged),)
    return tuple(sum(choice, ()) for choice in product(*found))


def epsilon_of(
    spends: Iterable[Spend],
    delta: float,
    *,
    whom: Whom | None = None,
    adding: tuple[Event, ...] = (),
    interval: float = INTERVAL,
) -> float:
    """The epsilon of the person, among these patients or all, with whom most was done; `adding`: and these events."""
    return max(epsilon(events + adding, delta, interval=interval) for events in events_per_person(spends, whom))


@dataclass(frozen=True)
class Standing:
    """What has been spent with one coordinator, and in total with all of them, at the delta of the last charge."""

    coordinator_epsilon: float
    total_epsilon: float


def ensure_within_budget(
    ledger: Ledger,
    spend: Spend,
    epsilon_max: float,
    delta_max: float,
    *,
    coordinator_epsilon_max: float | None = None,
    interval: float = INTERVAL,
) -> Standing:
    """Refuses a charge that would pass the site's budget, before anything is written; returns the standing after it.

    Guarantees:
        With this charge, at its own delta: epsilon of every person whom it can touch is at most `epsilon_max` over the
        whole ledger, and at most `coordinator_epsilon_max` (if given) over the same coordinator's charges. Delta is at
        most `delta_max` and at most 1 / (10 * declared patients). A site that reserves only after this stays within
        (epsilon_max, delta_max).

    | edge case                        | result                                                             |
    |----------------------------------|--------------------------------------------------------------------|
    | this (run, round) is charged     | not counted twice, and not refused: it is spent, whatever the limits |
    | exactly at a limit               | allowed                                                            |
    | a limit that is NaN              | refused                                                            |
    """
    charged = ledger.find(spend.run_id, spend.round_number) is not None
    added = () if charged else (spend.event,)
    tenth = (1.0 + 1e-9) / (10 * spend.declared_patients)  # 1e-9: a plan's decimal may be rounded upwards
    _require_within(charged or (spend.delta <= delta_max and spend.delta <= tenth), "delta is above this site's limit")
    spends = ledger.spends()
    total = epsilon_of(spends, spend.delta, whom=(spend.cohort_id, spend.part), adding=added, interval=interval)
    _require_within(charged or total <= epsilon_max, "this round would pass the site's privacy budget")
    theirs = [past for past in spends if past.coordinator == spend.coordinator]
    own = epsilon_of(theirs, spend.delta, whom=(spend.cohort_id, spend.part), adding=added, interval=interval)
    _require_within(
        charged or coordinator_epsilon_max is None or own <= coordinator_epsilon_max,
        "this round would pass the coordinator's share of the privacy budget",
    )
    return Standing(coordinator_epsilon=own, total_epsilon=total)


def _recover(folder: Path, descriptor: int) -> tuple[list[Spend], list[Head]]:
    data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    head_file = folder / HEAD_NAME
    if not head_file.exists():
        if not FIRST_LINE.startswith(data):
            raise damaged()
        os.ftruncate(descriptor, 0)
        _write(descriptor, FIRST_LINE)
        os.fsync(descriptor)
        _write_head(folder, FIRST)
        return [], [FIRST]
    acknowledged = load_head(head_file.read_bytes())
    spends, heads = load_all(data)
    if acknowledged not in heads:
        raise damaged()
    if torn := len(data) - heads[-1].length:
        _log.warning("ledger: cut a torn tail of %d bytes that was never acknowledged", torn)
        os.ftruncate(descriptor, heads[-1].length)
    if torn or heads[-1] != acknowledged:
        os.fsync(descriptor)
        _write_head(folder, heads[-1])
    return spends, heads


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _write_head(folder: Path, head: Head) -> None:
    new = folder / f"{HEAD_NAME}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(descriptor, dump_head(head))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(folder / HEAD_NAME)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            "ledger-busy", "another process has the ledger open", hint="one site process at a time; stop the other"
        ) from None


def _not_written(error: OSError) -> NoReturn:
    if error.errno in durable.DISK_FULL:
        raise StoreError(
            "disk-full", "no room to record the charge", hint="free some space, then start again"
        ) from None
    raise StoreError(
        "ledger-write", "the charge could not be recorded durably", hint="check the disk and its permissions"
    ) from None


def _require_within(holds: bool, message: str) -> None:
    if not holds:
        raise BudgetError("budget-exhausted", message, hint="only site.toml can raise a budget")
