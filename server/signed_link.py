"""A Link that signs every question, hears only answers that the asked site signed, and writes both down.

The carrier below it is trusted with nothing: what it changes, repeats, mixes up or invents is refused here by code and
logged. The round loop above it knows nothing of signatures. Spec: docs/spec/trust-1.md.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from federation.errors import FedError, TrustError
from federation.messages import Answer, Link, Question, answer_to
from federation.trust import entries, envelope
from federation.trust.keys import SigningKey
from federation.trust.roster import SignedRoster
from federation.trust.translog import Entry, TransLog

REFUSED_LINES_MAX = 1000  # in a row from one opened Link: a flood of junk must not fill the disk

KEPT_HEADS = 2  # a question, and the same one with later rosters


class SignedLink:
    """Another Link, with signatures. `rosters` are all versions, the last one in force.

    Guarantees:
        An answer is given on only if the site that was asked, active in the roster in force, signed it as its answer to
        this very question. Question and answer are in the log, on disk, before they are sent and given on.
        A site whose answers were all refused is reported as a `failure` with the code of the first refusal.
    """

    def __init__(
        self,
        inner: Link,
        key: SigningKey,
        rosters: Sequence[SignedRoster],
        log: TransLog,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._inner, self._key, self._log, self._clock = inner, key, log, clock
        self._rosters = tuple(rosters)
        self._roster = self._rosters[-1].roster
        self._digest = self._roster.digest()
        self._refused_lines = 0
        self._seen: dict[str, dict[int, None]] = {}  # site -> sizes of the log that it may have seen, oldest first
        for entry in log.entries:
            self._recall(entry)
        if self._roster.coordinator != key.public:
            raise TrustError(
                "roster-key",
                "the roster names another coordinator key than this one",
                hint="use the key of this federation's folder, or have the officers sign a roster with the new key",
            )

    def site_ids(self) -> tuple[str, ...]:
        """The reachable sites that are active members."""
        active = set(self._roster.active())
        return tuple(site_id for site_id in self._inner.site_ids() if site_id in active)

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        """As `Link.ask`. A site that still has an older roster is sent the later ones, and asked once more.

        Raises: TrustError `roster-expired`: nobody is asked under a roster that has ended.
        """
        began = self._clock()
        self._roster.require_current(began)
        asked = {question.site_id: question for question in questions}
        answered: set[str] = set()
        refused: dict[str, str] = {}
        yield from self._heard(questions, asked, answered, refused, deadline_s=deadline_s, later=())

        behind = [asked[site] for site, code in refused.items() if code == "wrong-roster" and site not in answered]
        left_s = deadline_s - (self._clock() - began)
        if behind and left_s > 0:
            again: dict[str, str] = {}
            yield from self._heard(behind, asked, answered, again, deadline_s=left_s, later=self._rosters)
            refused |= again
        for site_id, code in refused.items():
            if site_id not in answered:
                yield answer_to(asked[site_id], "failure", {"code": code})

    def _heard(
        self,
        questions: Sequence[Question],
        asked: dict[str, Question],
        answered: set[str],
        refused: dict[str, str],
        *,
        deadline_s: float,
        later: Sequence[SignedRoster],
    ) -> Iterator[Answer]:
        written: set[str] = set()
        for answer in self._inner.ask(self._sealed(questions, deadline_s, later), deadline_s=deadline_s):
            question = asked.get(answer.site_id)
            if question is None:
                self._note_refused(answer, "wrong-site")
                continue
            try:
                member = self._roster.member(answer.site_id)
                opened = envelope.open_answer(answer, question, member.keys(), roster_digest=self._digest)
            except FedError as error:
                self._note_refused(answer, error.code)
                refused.setdefault(answer.site_id, error.code)
                continue
            if answer.digest() not in written:  # a repetition on the way does not fill the disk
                self._log.append(entries.answer(answer, opened))
                written.add(answer.digest())
            self._acknowledged(answer.site_id)
            answered.add(answer.site_id)
            yield answer
            del answer

    def _sealed(
        self, questions: Sequence[Question], deadline_s: float, later: Sequence[SignedRoster]
    ) -> list[Question]:
        """The questions with seals, all over the same head: that of the log before them."""
        head, now = self._log.head(), int(self._clock())
        proofs = {size: self._log.proof_since(size) for size in set().union(*self._seen.values())}
        sealed, lines = [], []
        for question in questions:
            member = self._roster.member(question.site_id)
            one = envelope.seal_question(
                question,
                self._key,
                roster_digest=self._digest,
                issued_s=now,
                expires_s=now + math.ceil(deadline_s),
                head=head,
                later=later,
                proofs={size: proofs[size] for size in self._seen.get(member.site_id, ())},
            )
            opened = envelope.open_question(
                one, self._key.public, site_id=member.site_id, roster_digest=self._digest, now_s=now
            )
            sealed.append(one)
            lines.append(entries.question(one, opened))
        self._log.append(*lines)
        for question in questions:
            self._seen.setdefault(question.site_id, {})[head.size] = None
        return sealed

    def _acknowledged(self, site_id: str) -> None:
        """An answer shows that the site saw its question, or the same asked again: older heads need no proof."""
        newest = list(self._seen.get(site_id, ()))[-KEPT_HEADS:]
        self._seen[site_id] = dict.fromkeys(newest)

    def _recall(self, entry: Entry) -> None:
        """After a restart: which heads the sites have seen is in the log."""
        match entry:
            case {"type": "question", "statement": {"site": str(site), "log": {"size": int(size)}}}:
                self._seen.setdefault(site, {})[size] = None
            case {"type": "answer", "statement": {"site": str(site)}}:
                self._acknowledged(site)

    def _note_refused(self, answer: Answer, code: str) -> None:
        self._refused_lines += 1
        if self._refused_lines <= REFUSED_LINES_MAX:
            self._log.append(entries.refused(answer, code))
