"""The Link inside one process. Everything but the network is real: sites get bytes and give bytes."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from client.signed_site import Answering
from federation import messages
from federation.messages import Answer, Question


class LocalLink:
    """Carries messages to sites in this process, in the order of the questions.

    Headers cross as canonical bytes and are read again on the other side, as after a real journey. Payloads cross as
    the immutable bytes they are: nothing can happen to them on the way, so they are not copied and not hashed again.

    One site works at a time, or `at_once` of them in threads of their own, which ends sooner where they share nothing
    (a loaded model is shared); so many answers then wait in memory. Their order is the same.
    """

    def __init__(self, sites: Mapping[str, Answering], *, at_once: int = 1) -> None:
        self._sites = dict(sites)
        self._at_once = at_once

    def site_ids(self) -> tuple[str, ...]:
        return tuple(self._sites)

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        """No deadline: there is no network that could be silent, and a call cannot be given up halfway."""
        known = (question for question in questions if question.site_id in self._sites)
        if self._at_once == 1:
            yield from map(self._carry, known)
            return
        with ThreadPoolExecutor(self._at_once) as threads:
            waiting: deque[Future[Answer]] = deque()
            for question in known:
                if len(waiting) == self._at_once:
                    yield waiting.popleft().result()
                waiting.append(threads.submit(self._carry, question))
            while waiting:
                yield waiting.popleft().result()

    def _carry(self, question: Question) -> Answer:
        asked = messages.read(question.header, question.payload, question.seal)
        assert isinstance(asked, Question)
        answer = self._sites[asked.site_id].answer(asked)
        answered = messages.read(answer.header, answer.payload, answer.seal)
        assert isinstance(answered, Answer)
        return answered
