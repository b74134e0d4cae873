"""Which patients were withdrawn. It is written before anything is erased, so that none of them comes back.

One canonical JSON line per decision, each with the SHA-256 of the line before (docs/spec/withdrawals-1.md). A person is
named by the keyed pseudonym alone, beside the id of the secret that made it: another secret makes other keys.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from client import chained
from client.signed_record import require_person
from federation import canonical
from federation.errors import FormatError, StoreError, printable

VERSION = "wardround-withdrawal/1"
Action = Literal["withdraw", "undo"]
_KEY, _KEY_ID = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{16}")
_Mark = tuple[int, int, int]


@dataclass(frozen=True)
class Withdrawal:
    """One decision about one patient."""

    action: Action
    patient_key: str
    key_id: str
    person: str
    time_utc: str


class Withdrawals:
    """The record of decisions in one file; read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[_Mark | None, list[Withdrawal]] = (None, [])
        self._gone: tuple[list[Withdrawal], str, frozenset[str]] | None = None  # what `patients` said of which lines

    def all(self) -> list[Withdrawal]:
        """Every decision, oldest first. Raises: StoreError withdrawal-damaged; then nothing may be ingested."""
        try:
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                mark = (found.st_ino, found.st_size, found.st_mtime_ns)
                if self._read[0] != mark:
                    self._read = (mark, list(_verified(file.read())))
        except FileNotFoundError:
            return []
        except (IsADirectoryError, NotADirectoryError):
            raise _damaged("the record of withdrawals is no file") from None
        return self._read[1]

    def patients(self, key_id: str) -> frozenset[str]:
        """Keys of this secret's patients who are withdrawn now. Asking often is cheap."""
        lines = self.all()
        if self._gone is None or self._gone[0] is not lines or self._gone[1] != key_id:
            self._gone = (lines, key_id, frozenset(key for key, of in self._now() if of == key_id))
        return self._gone[2]

    def unknowable(self, key_id: str) -> int:
        """How many are withdrawn under another secret: with this one nobody can tell who they are."""
        return sum(of != key_id for _, of in self._now())

    def append(self, decisions: Sequence[Withdrawal]) -> None:
        """Record decisions, all or none. After a return they survive a power cut.

        Raises: FormatError not-canonical for a name that no record can hold.
        """
        for one in decisions:
            require_person(one.person)
            if _KEY.fullmatch(one.patient_key) is None or _KEY_ID.fullmatch(one.key_id) is None:
                raise FormatError("not-canonical", "a key of another form", hint="give it as it is shown")
        chained.append(self._path, [{"version": VERSION, **vars(one)} for one in decisions], self.all)

    def _now(self) -> Collection[tuple[str, str]]:
        last = {(one.patient_key, one.key_id): one.action for one in self.all()}
        return [person for person, action in last.items() if action == "withdraw"]


def _verified(text: bytes) -> Iterator[Withdrawal]:
    if not text:  # no write leaves it so
        raise _damaged("the record of withdrawals is empty")
    yield from (_read(*link) for link in chained.links(text))


def _read(number: int, before: str, line: bytes) -> Withdrawal:
    try:
        value = canonical.load(line.removesuffix(b"\n"))
    except FormatError:
        value = None
    match value:
        case {
            "version": "wardround-withdrawal/1", "seq": int(seq), "prev": str(prev),
            "action": "withdraw" | "undo" as action,
            "patient_key": str(key), "key_id": str(key_id), "person": str(person), "time_utc": str(time_utc),
            **rest,
        } if not rest and seq == number and prev == before and line.endswith(b"\n"):  # fmt: skip
            return Withdrawal(action, key, key_id, printable(person), time_utc)
    raise _damaged("the record of withdrawals does not verify")


def _damaged(message: str) -> StoreError:
    return StoreError(
        "withdrawal-damaged", message,
        hint="restore state/withdrawn.jsonl from a backup: without it, patients who were withdrawn would come back",
    )  # fmt: skip
