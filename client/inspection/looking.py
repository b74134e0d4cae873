"""What one person looks at, in which order, and what it proves: the queue of the inspection page, for its session only.

First every example with a blanked picture, where a rest of text is likeliest; then one of each device group, since a
device that writes text writes it on every picture; then the rest in the order of keys, which is as good as random.
"""

import hmac
import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple

from client.imaging.store import Store
from client.inspection.browse import rate_bound

STAGES = ("Pictures with blanked parts", "One of each device and size", "The rest, in random order")
_REST = 2
_KEY_BYTES = 16
_AT_ONCE = 2048
Device = tuple[str, str, int, int]


@dataclass(frozen=True)
class Stage:
    """One part of the queue, and how far a person has come in it."""

    name: str
    looked: int
    total: int


class Progress(NamedTuple):
    """How far a person has come, and what it proves."""

    stages: tuple[Stage, ...]
    looked: int
    held: int
    sample: int
    """How many of the rest were looked at without a gap, from the first."""
    bound: str
    next: str
    """The first example that nobody has looked at; empty if there is none."""


class Queue:
    """Every example of a data set in the order in which it should be looked at: 16 bytes each."""

    def __init__(self, store: Store) -> None:
        parts = (bytearray(), bytearray(), bytearray())
        groups = set[Device]()
        for key, blanked, devices in _rows(store):
            new = groups.isdisjoint(devices) if not blanked else False
            parts[0 if blanked else 1 if new else _REST].extend(bytes.fromhex(key))
            groups.update(devices if not blanked else ())
        self._keys = b"".join(parts)
        self.totals = tuple(len(part) // _KEY_BYTES for part in parts)

    def __len__(self) -> int:
        return len(self._keys) // _KEY_BYTES

    def key(self, at: int) -> str:
        """The example at this place; empty outside of the queue."""
        return self._keys[at * _KEY_BYTES : (at + 1) * _KEY_BYTES].hex() if 0 <= at < len(self) else ""

    def at(self, key: str) -> int | None:
        """The place of an example."""
        raw, found = bytes.fromhex(key), -1
        while (found := self._keys.find(raw, found + 1)) >= 0:
            if found % _KEY_BYTES == 0:
                return found // _KEY_BYTES
        return None

    def stage(self, key: str) -> int:
        """0, 1 or 2; -1 for an example that is not there."""
        at = self.at(key)
        if at is None:
            return -1
        return 0 if at < self.totals[0] else 1 if at < self.totals[0] + self.totals[1] else _REST


class Looking:
    """The session of a person at the page. Without a name nothing can be marked or held."""

    def __init__(self, person: str) -> None:
        self.person = person
        self.form_token = secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._clean = dict[str, int]()  # key -> stage of the queue, -1 for what is no longer in it
        self._held = 0
        self._notice = ""
        self._queue: tuple[str, Queue] | None = None

    def owns(self, token: str) -> bool:
        """Whether a form is one of this session's own pages."""
        return hmac.compare_digest(token.encode(), self.form_token.encode())

    def is_clean(self, key: str) -> bool:
        return key in self._clean

    def mark_clean(self, store: Store, key: str) -> None:
        self._clean[key] = self.queue(store).stage(key)

    def mark_held(self, examples: int) -> None:
        self._held += examples

    def notice(self, said: str) -> None:
        """What the next page says once."""
        self._notice = said

    def take_notice(self) -> str:
        said, self._notice = self._notice, ""
        return said

    def queue(self, store: Store) -> Queue:
        """The queue of the data set as it is now."""
        with self._lock:
            digest = store.digest()
            if self._queue is None or self._queue[0] != digest:
                self._queue = (digest, Queue(store))
                self._clean = {key: self._queue[1].stage(key) for key in list(self._clean)}
            return self._queue[1]

    def beside(self, store: Store, key: str) -> tuple[str, str]:
        """The examples before and behind this one in the queue."""
        queue = self.queue(store)
        at = queue.at(key)
        return ("", "") if at is None else (queue.key(at - 1), queue.key(at + 1))

    def next(self, store: Store, after: str = "") -> str:
        """The next example that nobody has looked at, from `after` on and then from the front; empty at the end."""
        queue = self.queue(store)
        begin = (queue.at(after) if after else None) or 0
        order = chain(range(begin, len(queue)), range(begin))
        return next((key for key in map(queue.key, order) if key not in self._clean), "")

    def progress(self, store: Store) -> Progress:
        queue = self.queue(store)
        found = Counter(self._clean.values())
        looked = [found[stage] for stage in range(len(STAGES))]
        sample, first = 0, sum(queue.totals[:_REST])
        while first + sample < len(queue) and queue.key(first + sample) in self._clean:
            sample += 1
        stages = tuple(map(Stage, STAGES, looked, queue.totals))
        return Progress(stages, sum(looked), self._held, sample, rate_bound(sample), self.next(store))


def _rows(store: Store) -> Iterator[tuple[str, bool, frozenset[Device]]]:
    """Every example in the order of keys: is a picture of it blanked, and its device groups."""
    after = ""
    while rows := store.rows(
        "SELECT e.example_key, p.fields FROM "
        "(SELECT example_key, pictures FROM example WHERE example_key > ? ORDER BY example_key LIMIT ?) e "
        "CROSS JOIN json_each(e.pictures) j CROSS JOIN picture p ON p.picture_key = j.value ORDER BY e.example_key",
        after, _AT_ONCE,
    ):  # fmt: skip
        for key, pictures in groupby(rows, key=itemgetter(0)):
            fields = [json.loads(text) for _, text in pictures]
            yield str(key), any(one["blanked_share"] for one in fields), frozenset(map(_device, fields))
        after = rows[-1][0]


def _device(fields: dict[str, Any]) -> Device:
    return fields["manufacturer"], fields["modality"], fields["source_rows"], fields["source_columns"]
