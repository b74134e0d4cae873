"""The door of a site: only what the coordinator signed, for this site, under this roster, now, comes in.

Behind it is `client/site.py`, which knows nothing of signatures. What is refused gets a code and a line in the site's
own log; what is answered is signed with the key that never leaves this machine. Spec: docs/spec/trust-1.md.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

from federation import durable
from federation.canonical import Value
from federation.errors import FedError, TrustError
from federation.messages import Answer, Question, answer_to, size_bytes
from federation.trust import entries, envelope, translog
from federation.trust import roster as rosters
from federation.trust.envelope import LogHead, Opened
from federation.trust.keys import SigningKey
from federation.trust.roster import SignedRoster
from federation.trust.translog import TransLog

MESSAGE_BYTES_MAX = 2**31
REFUSED_LINES_MAX = 1000  # from one opened door: a flood of junk must not fill the disk


class Answering(Protocol):
    """What stands behind the door."""

    @property
    def site_id(self) -> str: ...

    def answer(self, question: Question) -> Answer: ...


@dataclass
class RosterFile:
    """The roster that this site has accepted, on disk. It only ever moves forward."""

    path: Path
    current: SignedRoster

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises: TrustError `roster-absent`, `roster-damaged`."""
        try:
            return cls(path, rosters.load(path.read_bytes()))
        except OSError:
            raise TrustError(
                "roster-absent", "this site has no roster yet", hint="`wardround site roster FILE` accepts the first"
            ) from None

    @classmethod
    def create(cls, path: Path, first: SignedRoster) -> Self:
        """`first` was accepted against the officers that people compared (`roster.accept_first`)."""
        durable.write(path, [rosters.dump(first)])
        return cls(path, first)

    def look(self) -> None:
        """Take up what a person has put here in the meantime (`wardround site roster FILE`): that is verified already.

        An older file than the accepted roster, or an unreadable one, changes nothing.
        """
        try:
            found = rosters.load(self.path.read_bytes())
        except (OSError, FedError):
            return
        if found.roster.version > self.current.roster.version:
            self.current = found

    def advance(self, later: Sequence[SignedRoster]) -> None:
        """Accept the versions that follow. Raises: TrustError; what was accepted before stays."""
        reached = rosters.accept_chain(self.current, later)
        if reached is not self.current:
            durable.write(self.path, [rosters.dump(reached)])
            self.current = reached


class SignedSite:
    """A site behind its door.

    Guarantees:
        The site behind is asked only what the roster's coordinator signed for it, in its time, in a run that has not
        gone on to a later round, under a log that shows to begin with the one that was seen before. Everything else is
        answered `failure` with the code, and logged; a message for another site is not even signed.
    """

    def __init__(
        self,
        site: Answering,
        key: SigningKey,
        roster: RosterFile,
        log: TransLog,
        *,
        clock: Callable[[], float],
        new_key: Callable[[], SigningKey] | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
    ) -> None:
        """`new_key` finds the key that the roster names after a rotation; until it does, the retiring one signs."""
        self.site, self.roster, self.log = site, roster, log
        self._key, self._new_key, self._clock, self._bytes_max = key, new_key, clock, message_bytes_max
        self._rounds: dict[str, int] = {}  # run -> the latest round that was asked
        self._heads: dict[str, LogHead] = {}  # run -> the latest head of the coordinator's log that was seen
        self._written: set[Value] = set()  # signatures of the questions since the last new round
        self._refused_lines = 0
        for entry in log.of_type("question"):
            self._remember(entry)

    @property
    def site_id(self) -> str:
        return self.site.site_id

    def answer(self, question: Question) -> Answer:
        """One signed answer to one question. Never raises: a door that cannot write its log answers with that code."""
        try:
            entry = entries.question(question, self._admit(question))
            again = entry["signature"] in self._written
            if not again:  # who repeats a question on the way does not fill the disk
                self.log.append(entry)
                self._remember(entry)
            answer = self._signed(self.site.answer(question), question)
            digest = self.roster.current.roster.digest()
            opened = envelope.open_answer(answer, question, (self._key.public,), roster_digest=digest)
            if not again:
                self.log.append(entries.answer(answer, opened))
                self._written.add(entry["signature"])
            return answer
        except FedError as error:
            return self._refuse(question, error.code)

    def _admit(self, question: Question) -> Opened:
        if size_bytes(question) > self._bytes_max:
            raise TrustError("oversized", "a question is too large", hint="ask the coordinator what it sent")
        self.roster.look()
        if question.seal:
            self.roster.advance(envelope.rosters_in(question))
        roster, now = self.roster.current.roster, self._clock()
        roster.require_current(now)
        member = roster.member(self.site_id)
        if self._key.public != member.identity and self._new_key is not None:
            with contextlib.suppress(TrustError):
                self._key = self._new_key()
        if self._key.public not in member.keys():
            raise TrustError(
                "roster-key", "the roster has another key for this site", hint="enrol the key of this folder, or rotate"
            )
        opened = envelope.open_question(
            question, roster.coordinator, site_id=self.site_id, roster_digest=roster.digest(), now_s=now
        )
        if question.round_number < self._rounds.get(question.run_id, 0):
            raise TrustError("replayed", "a question of an earlier round", hint="it was sent before; nothing is spent")
        seen = self._heads.get(question.run_id)
        if seen is not None and opened.head is not None:
            same = [] if opened.head.size == seen.size else envelope.proof_in(question, seen.size)
            translog.require_consistent(seen, opened.head, same)
        return opened

    def _refuse(self, question: Question, code: str) -> Answer:
        self._refused_lines += 1
        if self._refused_lines <= REFUSED_LINES_MAX:
            with contextlib.suppress(TrustError):  # a log that takes nothing more is why some questions are refused
                self.log.append(entries.refused(question, code))
        answer = answer_to(question, "failure", {"code": code})
        return answer if question.site_id != self.site_id else self._signed(answer, question)

    def _signed(self, answer: Answer, question: Question) -> Answer:
        digest = self.roster.current.roster.digest()
        return envelope.seal_answer(replace(answer, seal=b""), question, self._key, roster_digest=digest)

    def _remember(self, entry: translog.Entry) -> None:
        match entry:
            case {"statement": {"run": str(run), "round": int(number)}}:
                if number > self._rounds.get(run, 0):
                    self._written.clear()
                self._rounds[run] = max(number, self._rounds.get(run, 0))
                head = entries.head_in(entry)
                if head is not None:
                    self._heads[run] = head
