"""The lines of a ledger as values and as bytes; no file is touched here. Format: docs/spec/ledger-1.md.

One encoding per value: a line is read only if writing it again gives the very same bytes.
"""

import hashlib
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from federation.errors import BudgetError, StoreError
from federation.privacy.accounting import Event, SharedNoise, require_delta

FORMAT, HEAD_FORMAT = "wardround/ledger/1", "wardround/ledger-head/1"

_NAME = re.compile(r"[!-~]{1,128}")
_RULE = re.compile(r"[ -~]{1,128}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SPEND_KEYS = frozenset(
    {"cohort_id", "coordinator", "declared_patients", "delta", "event", "part", "round_number", "run_id", "time_utc"}
)


@dataclass(frozen=True)
class Spend:
    """One charge: all that may be released for one round of one run. Public; nothing in it is computed from data.

    `part` says which patients of the cohort it can touch: those whose pseudonym, read as a fraction of all pseudonyms,
    is at least the first number and below the second. Nobody is both trained on and held out, so one person does not
    pay for both.
    """

    run_id: str
    round_number: int
    coordinator: str
    cohort_id: str
    event: Event
    delta: float
    declared_patients: int
    time_utc: str
    part: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in (self.run_id, self.coordinator, self.cohort_id):
            _require(_matches(_NAME, name), "a name is not 1 to 128 visible ascii characters")
        _require(_matches(_RULE, self.event.sensitivity_rule), "the sensitivity rule is not one line of ascii")
        _require(_matches(_TIME, self.time_utc), "the time is not of the form 2030-01-31T00:00:00Z")
        _require(_is_count(self.round_number) and self.round_number >= 1, "rounds are numbered from 1")
        _require(_is_count(self.declared_patients) and self.declared_patients >= 1, "no patients are declared")
        _require(_is_part(self.part), "the part of the patients is not two numbers that rise from 0 to 1")
        require_delta(self.delta)

    def same_charge(self, other: "Spend") -> bool:
        """Equal but for the time, which is a note for people."""
        return replace(self, time_utc=other.time_utc) == other


@dataclass(frozen=True)
class Head:
    """Names a record: its number, the ledger's length up to and with it, and the SHA-256 of its line."""

    seq: int
    length: int
    hash: str


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


FIRST_LINE = _canonical({"format": FORMAT, "prev": "0" * 64, "seq": 0})
FIRST = Head(seq=0, length=len(FIRST_LINE), hash=hashlib.sha256(FIRST_LINE).hexdigest())


def after(before: Head, line: bytes) -> Head:
    """The head once `line` has been appended."""
    return Head(seq=before.seq + 1, length=before.length + len(line), hash=hashlib.sha256(line).hexdigest())


def dump(spend: Spend, before: Head) -> bytes:
    """The line of a spend that follows the record `before`."""
    record = asdict(spend) | {"seq": before.seq + 1, "prev": before.hash, "delta": float(spend.delta)}
    record["part"] = [float(end) for end in spend.part]
    record["event"]["sampling_rate"] = float(spend.event.sampling_rate)
    record["event"]["noise_multiplier"] = float(spend.event.noise_multiplier)
    if spend.event.shared is None:  # a key of shared noise only: other lines are as they always were
        del record["event"]["shared"]
    return _canonical(record)


def load(line: bytes, before: Head) -> Spend:
    """The spend of a line that follows the record `before`, or ValueError."""
    try:
        record = json.loads(line.decode("ascii"))
        fields = {key: record[key] for key in _SPEND_KEYS}
        spend = Spend(**fields | {"event": _event(fields["event"]), "part": tuple(fields["part"])})
        written = dump(spend, before)
    except (TypeError, KeyError, AttributeError, RecursionError, BudgetError) as error:
        raise ValueError("not a spend") from error
    if written != line:
        raise ValueError("not canonical, or not the next record")
    return spend


def _event(fields: dict[str, Any]) -> Event:
    return Event(**fields | ({"shared": SharedNoise(**fields["shared"])} if "shared" in fields else {}))


def dump_head(head: Head) -> bytes:
    return _canonical({"format": HEAD_FORMAT} | asdict(head))


def load_head(data: bytes) -> Head:
    """The head of these bytes; anything else is refused as `ledger-damaged`."""
    try:
        record = json.loads(data.decode("ascii"))
        head = Head(seq=record["seq"], length=record["length"], hash=record["hash"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged() from None
    if not (
        _is_count(head.seq) and _is_count(head.length) and _matches(_DIGEST, head.hash) and dump_head(head) == data
    ):
        raise damaged()
    return head


def load_all(data: bytes) -> tuple[list[Spend], list[Head]]:
    """The longest valid beginning of a ledger: its spends, and the head after every line, the first line included."""
    if not data.startswith(FIRST_LINE):
        raise damaged()
    spends: dict[tuple[str, int], Spend] = {}
    heads = [FIRST]
    with suppress(ValueError):  # the first line that is not the next record ends the valid part
        for line in data[FIRST.length :].splitlines(keepends=True):
            spend = load(line, heads[-1])
            if (spend.run_id, spend.round_number) in spends:
                break
            spends[spend.run_id, spend.round_number] = spend
            heads.append(after(heads[-1], line))
    return list(spends.values()), heads


def damaged() -> StoreError:
    """The one refusal for everything that was acknowledged once and does not verify now."""
    return StoreError(
        "ledger-damaged",
        "the ledger does not verify",
        hint="keep both files as they are and restore the newest copy; training stays off until then",
    )


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_part(part: object) -> bool:
    match part:
        case (float() | int() as low, float() | int() as high):
            return 0.0 <= low < high <= 1.0
        case _:
            return False


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise BudgetError("budget-event", message, hint="see docs/spec/ledger-1.md")
