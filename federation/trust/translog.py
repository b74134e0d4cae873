"""The log that nobody can rewrite: append-only, hash-chained, a Merkle tree over it, and a signed head.

Two files. `log.jsonl` has one line per entry, each naming the hash of the line before, so that a change is found at its
line. `checkpoint` is the signed head (C2SP signed note, tlog-checkpoint): size and root of the tree. What it names is
acknowledged. Two different heads of one size, or two that are not consistent, prove that somebody keeps two logs.
Spec: docs/spec/trust-1.md, section 7.
"""

import base64
import fcntl
import hashlib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from federation import canonical, durable
from federation.canonical import Value
from federation.errors import FormatError, StoreError, TrustError
from federation.trust import merkle
from federation.trust.envelope import LogHead
from federation.trust.keys import SigningKey, VerifyKey

LOG_NAME, CHECKPOINT_NAME = "log.jsonl", "checkpoint"
FIRST = "0" * 64
ED25519 = b"\x01"

Entry = Mapping[str, Value]


@dataclass(frozen=True)
class Log:
    """A log that was read and verified."""

    origin: str
    entries: tuple[Entry, ...]
    leaves: tuple[bytes, ...]

    def head(self, size: int | None = None) -> LogHead:
        """The head when the log had `size` entries; now, without one."""
        upto = len(self.leaves) if size is None else size
        return LogHead(upto, self._roots[upto].hex())

    @cached_property
    def _roots(self) -> list[bytes]:
        """The root at every size, 0 included."""
        tree = merkle.Tree()
        roots = [tree.root()]
        for leaf in self.leaves:
            tree.append(leaf)
            roots.append(tree.root())
        return roots

    def require_beginning(self, head: LogHead) -> None:
        """Refuse a log that does not begin with the one that somebody else saw. Raises: TrustError `log-fork`."""
        if not 0 <= head.size <= len(self.leaves) or self.head(head.size) != head:
            raise fork()


class TransLog:
    """An open log. One writer at a time, by `flock`; threads of that writer take turns.

    Guarantees:
        `append` returns when the entries and the head that names them are on disk. What was acknowledged is there after
        a crash at any instruction, byte for byte, or the log refuses to open and names the line. Only the hashes of the
        entries stay in memory: a long run does not grow with what was said in it.
    """

    def __init__(self, folder: Path, origin: str, key: SigningKey, descriptor: int) -> None:
        self.origin, self._folder, self._key = origin, folder, key
        self._descriptor: int | None = descriptor
        self._tree = merkle.Tree()
        self._last = FIRST
        self.leaves: list[bytes] = []
        self._turn = threading.Lock()

    @classmethod
    def open(cls, folder: Path, origin: str, key: SigningKey) -> Self:
        """The log in this folder, or a new one. Verifies all of it; cuts a torn tail that was never acknowledged.

        Raises: TrustError `log-altered`, `log-busy`, `log-write`, `signature`.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(folder / LOG_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            _lock(descriptor)
            log = cls(folder, origin, key, descriptor)
            log._recover(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            return log
        except BaseException:
            os.close(descriptor)
            raise

    def head(self) -> LogHead:
        return LogHead(self._tree.size, self._tree.root().hex())

    def append(self, *entries: Entry) -> LogHead:
        """Add these entries; returns the head that holds them, when it is on disk. Raises: TrustError `log-write`."""
        with self._turn:
            if self._descriptor is None:
                raise _not_written()
            try:
                data = b""
                for entry in entries:
                    line = canonical.dump({"entry": entry, "prev": self._last})
                    self._take(line)
                    data += line + b"\n"
                while data:
                    data = data[os.write(self._descriptor, data) :]
                os.fsync(self._descriptor)
                self._write_head()
            except BaseException as error:
                self.close()  # what reached the disk is unknown: only opening it again can tell
                if isinstance(error, OSError | StoreError):
                    raise _not_written() from None
                raise
            return self.head()

    @property
    def entries(self) -> list[Entry]:
        """All of them, read from the disk."""
        with self._turn:
            return [entry for _, entry in _read_lines(self._data(), self.head())]

    def of_type(self, kind: str) -> list[Entry]:
        """Those of one type: questions and answers of a long log are not even parsed for it."""
        mark = f'"type":"{kind}"'.encode("ascii")
        return [
            entry for line in self._data().split(b"\n") if mark in line and (entry := _entry(line)).get("type") == kind
        ]

    def proof_since(self, size: int) -> list[bytes]:
        """Shows to whoever holds the head of this size that the log still begins with it."""
        return merkle.consistency_proof(self.leaves, size)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _data(self) -> bytes:
        return (self._folder / LOG_NAME).read_bytes()

    def _recover(self, data: bytes) -> None:
        path = self._folder / CHECKPOINT_NAME
        if not path.exists():
            if data:  # a new log gets its head before its first line
                raise _altered("its signed head is missing")
            self._write_head()
        acknowledged = read_note(path.read_bytes(), self.origin, self._key.public)
        whole = _read_lines(data, acknowledged)
        length = 0
        for line, _ in whole:
            self._take(line)
            length += len(line) + 1
        assert self._descriptor is not None
        if length != len(data):
            os.ftruncate(self._descriptor, length)  # torn: no head ever named it
        if length != len(data) or self._tree.size != acknowledged.size:
            os.fsync(self._descriptor)
            self._write_head()

    def _take(self, line: bytes) -> None:
        leaf = merkle.leaf_hash(line)
        self._tree.append(leaf)
        self.leaves.append(leaf)
        self._last = leaf.hex()

    def _write_head(self) -> None:
        durable.write(self._folder / CHECKPOINT_NAME, [note(self.head(), self.origin, self._key)])


def read_log(folder: Path, origin: str, key: VerifyKey) -> Log:
    """The acknowledged log in this folder, every byte verified; changes nothing and needs no lock.

    Raises: TrustError `log-altered` (it names the first wrong line), `signature`.
    """
    try:
        head = read_note((folder / CHECKPOINT_NAME).read_bytes(), origin, key)
        data = (folder / LOG_NAME).read_bytes()
    except OSError:
        raise _altered("the log or its head is missing") from None
    whole = _read_lines(data, head)[: head.size]
    return Log(origin, tuple(entry for _, entry in whole), tuple(merkle.leaf_hash(line) for line, _ in whole))


def require_whole(folder: Path, log: Log) -> None:
    """Refuse bytes after the acknowledged end: in a log that nobody writes any more there are none."""
    data = (folder / LOG_NAME).read_bytes()
    if data.count(b"\n") != len(log.entries) or not (data.endswith(b"\n") or not data):
        raise _altered(f"line {len(log.entries) + 1} is not named by the head")


def note(head: LogHead, origin: str, key: SigningKey) -> bytes:
    """A signed head: C2SP tlog-checkpoint, one Ed25519 signature line."""
    body = _body(head, origin)
    signature = key.sign_text(body.encode("ascii"))
    line = base64.b64encode(_key_id(origin, key.public) + signature).decode("ascii")
    return f"{body}\n\N{EM DASH} {origin} {line}\n".encode()


def read_note(data: bytes, origin: str, key: VerifyKey) -> LogHead:
    """The head that this key signed for this log. Raises: TrustError `signature`, `log-altered`."""
    try:
        body, _, signatures = data.decode("utf-8").partition("\n\n")
        name, size, root = body.split("\n")
        head = LogHead(int(size), base64.b64decode(root, validate=True).hex())
        dash, signer, packed = signatures.removesuffix("\n").split(" ")
        raw = base64.b64decode(packed, validate=True)
        if (name, signer, dash) != (origin, origin, "\N{EM DASH}") or raw[:4] != _key_id(origin, key):
            raise ValueError
    except ValueError:  # a decoding error is one too
        raise _altered("the signed head is not readable, or is of another log") from None
    key.verify_text((body + "\n").encode("ascii"), raw[4:])
    if data != f"{_body(head, origin)}\n\N{EM DASH} {origin} {base64.b64encode(raw).decode()}\n".encode():
        raise _altered("the signed head is not in its one form")
    return head


def require_consistent(old: LogHead, new: LogHead, proof: list[bytes] | None) -> None:
    """Refuse a head that does not show that its log begins with an older one. Raises: TrustError `log-fork`."""
    roots = bytes.fromhex(old.root), bytes.fromhex(new.root)
    if proof is None or not merkle.consistent(old.size, roots[0], new.size, roots[1], proof):
        raise fork()


def fork() -> TrustError:
    """Somebody keeps two logs. What was seen is kept: two signed heads are proof."""
    return TrustError(
        "log-fork",
        "two heads of the log contradict each other",
        hint="stop, keep the logs of both sides, and ask the other sites which head they saw",
    )


def _body(head: LogHead, origin: str) -> str:
    return f"{origin}\n{head.size}\n{base64.b64encode(bytes.fromhex(head.root)).decode('ascii')}\n"


def _key_id(name: str, key: VerifyKey) -> bytes:
    """C2SP signed-note: the first four bytes of SHA-256(name, line end, algorithm, key)."""
    return hashlib.sha256(name.encode("ascii") + b"\n" + ED25519 + key.raw).digest()[:4]


def _read_lines(data: bytes, head: LogHead) -> list[tuple[bytes, Entry]]:
    """Complete, chained lines; all that `head` names must be among them. Raises: TrustError `log-altered`."""
    lines: list[tuple[bytes, Entry]] = []
    tree, last, acknowledged = merkle.Tree(), FIRST, merkle.EMPTY
    problem = "is missing"
    for line in data.split(b"\n")[:-1]:
        try:
            match canonical.load(line):
                case {"entry": dict(entry), "prev": prev, **rest} if not rest:
                    if prev != last:
                        problem = "names another line before it: one of the two was changed"
                        break
                case _:
                    problem = "is not an entry"
                    break
        except FormatError:
            problem = "is not readable"
            break
        leaf = merkle.leaf_hash(line)
        tree.append(leaf)
        last = leaf.hex()
        lines.append((line, entry))
        if tree.size == head.size:
            acknowledged = tree.root()
    if len(lines) < head.size:
        raise _altered(f"line {len(lines) + 1} of {head.size} {problem}")
    if acknowledged.hex() != head.root:
        raise _altered(f"the first {head.size} lines are not those that the head was signed over")
    return lines


def _entry(line: bytes) -> Entry:
    match canonical.load(line):
        case {"entry": dict(entry)}:
            return entry
    raise _altered("a line is not an entry")


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TrustError("log-busy", "another process writes this log", hint="stop the other process first") from None


def _not_written() -> TrustError:
    return TrustError("log-write", "the log could not be written durably", hint="check disk and permissions, restart")


def _altered(reason: str) -> TrustError:
    return TrustError(
        "log-altered", f"the log does not verify: {reason}", hint="nothing was changed; restore both files from a copy"
    )
