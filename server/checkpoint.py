"""A run on disk: files named by their digest, and HEAD, whose rename is the commit. Spec: docs/spec/checkpoint-1.md.

At every moment the folder holds the state after the last committed round, whole. Files that no committed round names
are leftovers of a crash: they are never read, and swept by the next commit.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar, get_args

from federation import canonical, codec, durable
from federation.adapter import Adapter, AdapterUpdate, Factor
from federation.canonical import Value
from federation.errors import FedError, FormatError, StoreError
from federation.plan import RunPlan, plan_from_value
from server.aggregate import ServerState
from server.record import RoundRecord, record_from

VERSION = "wardround-checkpoint/1"

T = TypeVar("T", Adapter, AdapterUpdate)
Write = Callable[[Path, Iterable[durable.Buffer]], None]


@dataclass(frozen=True)
class Committed:
    """The state after a round: what the next round, or the export, starts from."""

    round_number: int
    adapter: Adapter
    server: ServerState
    records: tuple[RoundRecord, ...]  # of this round and all before it


class Checkpoints:
    """The folder of one run of one plan. One coordinator process at a time."""

    def __init__(self, folder: Path, run_id: str, plan: RunPlan, write: Write) -> None:
        self.folder, self.run_id, self.plan, self._write = folder, run_id, plan, write

    @classmethod
    def create(cls, folder: Path, *, run_id: str, plan: RunPlan, write: Write = durable.write) -> Self:
        """Begin a run in an empty or absent folder. Raises: StoreError `output-exists`."""
        if (folder / "run.json").exists():
            raise StoreError("output-exists", "there is a run in this folder", hint="resume it, or name another folder")
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        write(folder / "run.json", [canonical.dump({"version": VERSION, "run_id": run_id, "plan": plan.value()})])
        return cls(folder, run_id, plan, write)

    @classmethod
    def open(cls, folder: Path, *, plan: RunPlan | None = None, write: Write = durable.write) -> Self:
        """Go on with the run in this folder. Raises: StoreError; `checkpoint-other-run` if it is not of `plan`."""
        try:
            match canonical.load((folder / "run.json").read_bytes()):
                case {"version": version, "run_id": str(run_id), "plan": value} if version == VERSION:
                    found = plan_from_value(value)
                case _:
                    raise _damaged("the record of the run is not readable")
        except (OSError, FormatError):
            raise _damaged("there is no readable run in this folder") from None
        if plan is not None and plan.digest() != found.digest():
            raise StoreError(
                "checkpoint-other-run", "this folder holds a run of another plan", hint="name that run's own folder"
            )
        return cls(folder, run_id, found, write)

    def save(self, adapter: Adapter, server: ServerState, record: RoundRecord) -> None:
        """Commit a round: its files first, then HEAD. A crash before the rename of HEAD leaves the round before it."""
        before = self._head()
        named: dict[str, Value] = {
            "adapter": self._put(adapter),
            "first": None if server.first is None else self._put(server.first),
            "second": None if server.second is None else self._put(server.second),
            "average": None if server.average is None else self._put(server.average),
        }
        state = canonical.dump(
            {
                "version": VERSION,
                "run_id": self.run_id,
                "round_number": record.round_number,
                "before": before,
                "server_steps": {str(one): steps for one, steps in server.steps.items()},
                "averaged": server.averaged,
                "record": record.value(),
                **named,
            }
        )
        digest = hashlib.sha256(state).hexdigest()
        self._write(self._object(digest), [state])
        self._write(self.folder / "HEAD", [canonical.dump({"state": digest, "version": VERSION})])
        self._sweep({str(name) for name in named.values()})

    def last(self) -> Committed | None:
        """The last committed round, every file checked against its digest before it is read. None before the first.

        Raises: StoreError `checkpoint-damaged`: nothing partial is ever returned.
        """
        head = self._head()
        if head is None:
            return None
        try:
            states = self._states(head)
            newest = states[-1]
            adapter = codec.load_as(Adapter, self._get(newest["adapter"]))
            first, second = (self._array(AdapterUpdate, newest[name]) for name in ("first", "second"))
            records = tuple(record_from(state["record"]) for state in states)
            server = ServerState(
                _steps(newest["server_steps"]), first, second, self._array(Adapter, newest["average"]),
                _count(newest["averaged"]),
            )  # fmt: skip
        except (OSError, KeyError, FormatError):
            raise _damaged("a file of the last round is missing or altered") from None
        if [record.round_number for record in records] != list(range(1, len(states) + 1)):
            raise _damaged("the rounds are not counted from 1")
        return Committed(len(states), adapter, server, records)

    def history(self) -> tuple[tuple[str, RoundRecord], ...]:
        """Every committed round with the digest of its state, oldest first. Raises: StoreError `checkpoint-damaged`."""
        head = self._head()
        if head is None:
            return ()
        try:
            states = self._states(head)
            return tuple((canonical.digest(state), record_from(state["record"])) for state in states)
        except (OSError, KeyError, FormatError):
            raise _damaged("a state of the run is missing or altered") from None

    def _head(self) -> str | None:
        path = self.folder / "HEAD"
        if not path.exists():
            return None
        try:
            match canonical.load(path.read_bytes()):
                case {"state": str(digest), "version": version} if version == VERSION:
                    return digest
        except FedError:
            pass
        raise _damaged("HEAD is not readable")

    def _states(self, head: str) -> list[dict[str, Value]]:
        """The states of all rounds, oldest first: each names the one before it by digest."""
        states: list[dict[str, Value]] = []
        at: Value = head
        while at is not None:
            state = canonical.load(self._get(at))
            if not isinstance(state, dict) or state.get("run_id") != self.run_id:
                raise _damaged("a state is of another run")
            states.append(state)
            at = state["before"]
        return states[::-1]

    def _array(self, kind: type[T], digest: Value) -> T | None:
        return None if digest is None else codec.load_as(kind, self._get(digest))

    def _put(self, value: Adapter | AdapterUpdate) -> str:
        digest = value.digest()
        self._write(self._object(digest, ".adapter"), value.pieces())
        return digest

    def _get(self, digest: Value) -> bytes:
        """The bytes with this name; refused if they are others."""
        name = str(digest)
        path = self._object(name)
        data = (path if path.exists() else self._object(name, ".adapter")).read_bytes()
        if hashlib.sha256(data).hexdigest() != name:
            raise _damaged("a file is not what its digest says")
        return data

    def _object(self, digest: str, ending: str = ".json") -> Path:
        return self.folder / "objects" / (digest + ending)

    def _sweep(self, keep: set[str]) -> None:
        """Arrays that the last round does not need. States stay: they are the history, and small."""
        for path in (self.folder / "objects").iterdir():
            if path.suffix == ".part" or (path.suffix == ".adapter" and path.stem not in keep):
                path.unlink()


def _steps(value: Value) -> dict[Factor, int]:
    """How often each factor was moved."""
    if isinstance(value, dict) and value.keys() <= {"A", "B"}:
        steps: dict[Factor, int] = {}
        for one in get_args(Factor):
            count = value.get(one)
            if type(count) is int:
                steps[one] = count
        if len(steps) == len(value):
            return steps
    raise _damaged("the server optimiser's steps are not readable")


def _count(value: Value) -> int:
    if type(value) is not int or value < 0:
        raise _damaged("the count of averaged adapters is not readable")
    return value


def _damaged(reason: str) -> StoreError:
    return StoreError("checkpoint-damaged", reason, hint="restore the run's folder from a copy; nothing was changed")
