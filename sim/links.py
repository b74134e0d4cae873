"""The Link inside one process. Everything but the network is real: sites get bytes and give bytes."""

from collections.abc import Iterator, Mapping, Sequence

from client.signed_site import Answering
from federation import messages
from federation.messages import Answer, Question


class LocalLink:
    """Carries messages to sites in this process, one after the other, in the order of the questions.

    Headers cross as canonical bytes and are read again on the other side, as after a real journey. Payloads cross as
    the immutable bytes they are: nothing can happen to them on the way, so they are not copied and not hashed again.
    """

    def __init__(self, sites: Mapping[str, Answering]) -> None:
        self._sites = dict(sites)

    def site_ids(self) -> tuple[str, ...]:
        return tuple(self._sites)

    def ask(self, questions: Sequence[Question], *, deadline_s: float) -> Iterator[Answer]:
        """No deadline: there is no network that could be silent, and a call cannot be given up halfway."""
        for question in questions:
            arrived = messages.read(question.header, question.payload, question.seal)
            if isinstance(arrived, Question) and arrived.site_id in self._sites:
                yield self._back(self._sites[arrived.site_id].answer(arrived))

    def _back(self, answer: Answer) -> Answer:
        arrived = messages.read(answer.header, answer.payload, answer.seal)
        assert isinstance(arrived, Answer)
        return arrived
