"""The Flower ClientApp: a thin relay between Flower's node and the site. No model, no data, no code from outside.

In the simulator Flower runs `make_app`'s ClientApp itself. At a hospital the daemon starts two processes of this file:
`node`, which is Flower's SuperNode, and `relay`, which takes tasks from it and forwards their bytes to the daemon's
socket. The relay stands where Flower has `flower-superexec` and `flwr-clientapp`. Those two unpack a bundle that the
coordinator sent and run it; here nothing does, so that there is nothing to forbid.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from federation import flower, flower_private, messages, supervise
from federation.errors import FedError, FormatError
from federation.messages import Answer, Question

NodeConfig = Mapping[str, bool | float | int | str]

BUSY_POLL_S, IDLE_POLL_S, BUSY_FOR_S = 0.1, 1.0, 30.0


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


def relay_app(site_id: str, answer: Callable[[Question], Answer]) -> Callable[[Message, Context], Message]:
    """The app as the relay calls it: a message of a type that this site does not know is a code too."""
    app = make_app(lambda config: site_id, answer)

    def reply_to(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except Exception:
            return Message(flower.failure_records("message-kind"), reply_to=message)

    return reply_to


def relay(site_id: str, socket: Path, address: str, secret: Path) -> None:
    """Take tasks for ever, one at a time. The one secret it knows lets it take tasks from this machine's own node."""
    from client.local_service import Stub

    stub = Stub(socket)
    stub.health(timeout_s=10.0)  # the daemon first: a relay without one would only fail tasks
    app = relay_app(site_id, stub.answer)
    tasks = flower_private.Tasks(address, secret.read_bytes(), kind="flwr-clientapp")
    busy_until = 0.0
    while True:
        try:
            token = tasks.take()
        except ConnectionError:
            token = None  # the node starts, or starts again
        if token is not None:
            try:
                flower_private.answer_task(address, token, app)
            except ConnectionError as error:
                print(f"a task was lost: {error}", file=sys.stderr)
            busy_until = time.monotonic() + BUSY_FOR_S
        else:
            time.sleep(BUSY_POLL_S if time.monotonic() < busy_until else IDLE_POLL_S)


def _guarded(message: Message, work: Callable[[], RecordDict]) -> Message:
    try:
        records = work()
    except FedError as error:
        records = flower.failure_records(error.code)
    except ConnectionError:
        records = flower.failure_records("daemon-away")
    except Exception:
        records = flower.failure_records("internal")
    return Message(records, reply_to=message)


def main() -> None:
    """`python -m client.app relay …` or `node …`; both are started by the daemon and end with it."""
    parser = argparse.ArgumentParser(prog="client.app")
    parser.add_argument("what", choices=["relay", "node"])
    for name in ("--site", "--socket", "--address", "--secret", "--superlink", "--ca", "--key"):
        parser.add_argument(name)
    parser.add_argument("--heartbeat", type=int, default=flower_private.NODE_HEARTBEAT_S)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    supervise.die_with(given.parent)
    os.umask(0o077)
    if given.what == "relay":
        try:
            relay(given.site, Path(given.socket), given.address, Path(given.secret))
        except (ConnectionError, PermissionError) as error:
            sys.exit(f"relay: {error}")
    else:
        flower_private.run_supernode(
            given.superlink, given.address, ca=given.ca, key=given.key, secret=given.secret,
            heartbeat_s=given.heartbeat,
        )  # fmt: skip


if __name__ == "__main__":
    main()
