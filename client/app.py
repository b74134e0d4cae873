"""The Flower ClientApp: a thin relay between Flower's node and the site. No model, no data, no code from outside.

Flower may start a new process for every message, so this starts fast and keeps nothing.
"""

from collections.abc import Callable, Mapping

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federation import flower, messages
from federation.errors import FedError, FormatError
from federation.messages import Answer, Question

NodeConfig = Mapping[str, bool | float | int | str]


def make_app(name: Callable[[NodeConfig], str], answer: Callable[[Question], Answer]) -> ClientApp:
    """A ClientApp for the site that `name` reads from the node's own configuration, answering through `answer`.

    Guarantees: whatever goes wrong here, a code crosses and nothing else. Flower would send an exception's text and
    traceback to the coordinator word by word.
    """
    app = ClientApp()

    @app.query("name")
    def tell_name(message: Message, context: Context) -> Message:
        return _guarded(message, lambda: flower.name_records(name(context.node_config)))

    @app.query("consent")
    def consent(message: Message, context: Context) -> Message:
        return _guarded(message, lambda: _relay(message, context))

    @app.query(flower.MASKED_TYPE.removeprefix("query."))
    def masked(message: Message, context: Context) -> Message:
        return _guarded(message, lambda: _relay(message, context))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _guarded(message, lambda: _relay(message, context))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _guarded(message, lambda: _relay(message, context))

    def _relay(message: Message, context: Context) -> RecordDict:
        question = flower.from_records(message.content)
        if not isinstance(question, Question) or question.site_id != name(context.node_config):
            raise FormatError("message-context", "a question for another site", hint="look at the node's configuration")
        reply = answer(question)
        messages.check_answers(question, reply)
        return flower.to_records(reply)

    return app


def _guarded(message: Message, work: Callable[[], RecordDict]) -> Message:
    try:
        records = work()
    except FedError as error:
        records = flower.failure_records(error.code)
    except Exception:
        records = flower.failure_records("internal")
    return Message(records, reply_to=message)
