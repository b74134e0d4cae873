"""Our messages through real Flower records, apps and messages; only the carrier between them is a dictionary."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import get_args
from uuid import uuid4

import flwr
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import Node, NodeInfo
from flwr.serverapp import Grid
from flwr.simulation import run_simulation
from flwr.supercore import telemetry
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import make_app
from federation import flower, messages
from federation.errors import FormatError, ModelError, QuorumError
from federation.flower import GridLink, Patience, from_records, to_records
from federation.messages import Answer, Payload, Question, answer_to

SECRET = "Doe^Jane 1970-01-01"
PLAN = "0" * 64
SITES = ("a", "b", "c")


def question(site_id: str, kind: str = "train") -> Question:
    return Question(kind, "run", 1, site_id, PLAN, body={"step": 1}, payload=Payload(b"\0" * 1000))


def echo(asked: Question) -> Answer:
    return answer_to(asked, "update", {"site": asked.site_id}, asked.payload)


def app_of(answer: Callable[[Question], Answer] = echo) -> ClientApp:
    return make_app(lambda node_config: str(node_config["site-id"]), answer)


class LocalGrid(Grid):
    """Runs each node's app when its message is pushed. Nodes in `silent` never reply; those in `dead` give errors."""

    def __init__(self, apps: dict[int, tuple[str, ClientApp]]) -> None:
        self.apps = apps
        self.silent: set[int] = set()
        self.dead: set[int] = set()
        self.replies: dict[str, Message] = {}
        self.pulled: list[int] = []

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(str(uuid4()))
            message.metadata.__dict__["_message_id"] = ids[-1]
            node = message.metadata.dst_node_id
            if node in self.silent:
                continue
            site_id, app = self.apps[node]
            context = Context(1, node, {"site-id": site_id}, RecordDict(), {})
            self.replies[ids[-1]] = (
                Message(Error(1, "unavailable"), reply_to=message) if node in self.dead else app(message, context)
            )
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self.replies.pop(id_) for id_ in message_ids if id_ in self.replies]
        self.pulled += [message.metadata.src_node_id for message in found]
        return found

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *arguments: object, **options: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _this_process_is_a_server() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, Node(node_id=1).node_id


def grid_of(*sites: str, answer: Callable[[Question], Answer] = echo) -> LocalGrid:
    return LocalGrid({100 + number: (site_id, app_of(answer)) for number, site_id in enumerate(sites)})


def link_over(grid: Grid, notes: list[str] | None = None, stopped: threading.Event | None = None) -> GridLink:
    said = [] if notes is None else notes
    patience = Patience(poll_s=0.001, find_s=0.05)
    return GridLink(grid, SITES, patience=patience, stopped=stopped or threading.Event(), note=said.append)


@pytest.mark.parametrize("payload", [None, Payload(b"x"), Payload(bytes(range(256)) * 100)])
def test_a_message_comes_back_out_of_its_records(payload: Payload | None) -> None:
    asked = Question("train", "run", 1, "a", PLAN, body={"step": 1}, payload=payload)

    assert from_records(to_records(asked)) == asked


def test_a_seal_travels_beside_its_message_and_is_carried_as_it_is() -> None:
    sealed = replace(question("a"), seal=b"any bytes: who they are from is for the door to say")
    records = to_records(sealed)
    arrived = from_records(records)

    assert (arrived, arrived.seal) == (sealed, sealed.seal)
    assert from_records(to_records(question("a"))).seal == b""
    records.config_records["header"]["seal"] = "text"
    with pytest.raises(FormatError):
        from_records(records)


def spoilt(spoil: Callable[[RecordDict], object]) -> RecordDict:
    records = to_records(question("a"))
    spoil(records)
    return records


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        spoilt(lambda records: records.pop("payload")),
        spoilt(lambda records: records.pop("header")),
        spoilt(lambda records: records.update({"more": ConfigRecord({})})),
        spoilt(lambda records: records["header"].update({"more": 1})),
        spoilt(lambda records: records["header"].update({"header": "text"})),
        spoilt(lambda records: records["payload"].update({"more": Array("uint8", (1,), "bytes", b"x")})),
        spoilt(lambda records: records["payload"].update({"payload": Array("uint8", (3,), "bytes", b"\0" * 1000)})),
        spoilt(lambda records: records["payload"].update({"payload": Array("uint8", (1000,), "pickle", b"\0" * 1000)})),
        spoilt(lambda records: records["payload"].update({"payload": Array("uint8", (1000,), "bytes", b"\1" * 1000)})),
        spoilt(lambda records: records.update({"payload": ArrayRecord()})),
    ],
)
def test_records_that_no_message_has_are_refused(records: RecordDict) -> None:
    with pytest.raises(FormatError):
        from_records(records)


def test_answers_come_in_the_order_of_the_questions_and_are_pulled_one_at_a_time() -> None:
    grid = grid_of("c", "a", "b")
    link = link_over(grid)

    assert link.site_ids() == SITES
    grid.pulled.clear()
    answers = link.ask([question(site_id) for site_id in ("b", "c", "a")], deadline_s=5)
    first = next(answers)

    assert first.site_id == "b" and grid.pulled == [102]
    assert first.payload is not None and first.payload.data == b"\0" * 1000
    assert [answer.site_id for answer in answers] == ["c", "a"]


def test_each_kind_of_question_reaches_the_site() -> None:
    link = link_over(grid_of(*SITES))
    link.site_ids()

    for kind in ("consent", "train", *get_args(messages.MaskedStage)):
        assert len(list(link.ask([question("a", kind)], deadline_s=5))) == 1


def test_a_site_that_is_silent_at_the_deadline_is_left_out() -> None:
    grid, notes = grid_of(*SITES), []
    link = link_over(grid, notes)
    link.site_ids()
    grid.silent.add(100)

    answers = list(link.ask([question(site_id) for site_id in SITES], deadline_s=0.02))

    assert [answer.site_id for answer in answers] == ["b", "c"]
    assert notes == ["a: silent until the deadline"]


def test_a_site_without_a_node_is_not_listed_and_not_asked() -> None:
    link = link_over(grid_of("a", "c", "stranger"))

    assert link.site_ids() == ("a", "c")
    assert [answer.site_id for answer in link.ask([question("b"), question("c")], deadline_s=1)] == ["c"]


def test_an_error_of_flower_belongs_to_the_question_it_replies_to_and_the_node_is_looked_for_again() -> None:
    grid, notes = grid_of(*SITES), []
    link = link_over(grid, notes)
    link.site_ids()
    grid.dead.add(101)

    answers = list(link.ask([question(site_id) for site_id in SITES], deadline_s=1))
    grid.apps[200] = grid.apps.pop(101)

    assert [answer.site_id for answer in answers] == ["a", "c"]
    assert notes == ["b: flower reports error 1"]
    assert link.site_ids() == SITES


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError(SECRET), "internal"), (ModelError("model-absent", SECRET, hint=SECRET), "model-absent")],
)
def test_of_an_exception_at_a_site_only_a_code_crosses(error: Exception, code: str) -> None:
    def fail(asked: Question) -> Answer:
        raise error

    grid, notes = grid_of(*SITES, answer=fail), []
    link = link_over(grid, notes)
    link.site_ids()
    [*grid.push_messages([Message(to_records(question("a")), 100, "train")])]

    assert SECRET not in repr(grid.replies)
    assert list(link.ask([question("a")], deadline_s=1)) == []
    assert notes == [f"a: the node could not ask its site ({code})"]


def test_a_text_in_place_of_a_code_is_not_printed() -> None:
    app = ClientApp()

    @app.query("name")
    def name(message: Message, context: Context) -> Message:
        return Message(RecordDict({"name": ConfigRecord({"site_id": "a"})}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"failure": ConfigRecord({"code": f"\033[2J{SECRET}"})}), reply_to=message)

    notes: list[str] = []
    link = link_over(LocalGrid({1: ("a", app)}), notes)
    link.site_ids()

    assert list(link.ask([question("a")], deadline_s=1)) == []
    assert notes == ["a: the node could not ask its site (no code)"]


def test_a_node_relays_no_question_for_another_site_and_no_answer_to_another_question() -> None:
    heard = []

    def answer_something_else(asked: Question) -> Answer:
        heard.append(asked.site_id)
        return echo(question("a", "consent"))

    grid, notes = grid_of(*SITES, answer=answer_something_else), []
    link = link_over(grid, notes)
    link.site_ids()
    grid.apps[101] = ("c", grid.apps[101][1])

    assert list(link.ask([question("a"), question("b")], deadline_s=1)) == []
    assert heard == ["a"]
    assert [note[-17:] for note in notes] == ["(message-context)"] * 2


def test_two_nodes_that_claim_one_site_stop_the_run() -> None:
    with pytest.raises(FormatError, match="two nodes say that they are a"):
        link_over(grid_of("a", "a")).site_ids()


def test_a_waiting_link_ends_when_flower_has_stopped() -> None:
    grid, stopped = grid_of(*SITES), threading.Event()
    link = link_over(grid, stopped=stopped)
    link.site_ids()
    grid.silent.add(100)
    stopped.set()

    with pytest.raises(QuorumError, match="flower stopped"):
        list(link.ask([question("a")], deadline_s=60))


def test_the_client_app_loads_neither_a_model_nor_pictures() -> None:
    program = "import sys, client.app; print({'torch', 'transformers', 'pydicom', 'ray', 'server'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_the_parts_of_flower_that_may_change_are_those_we_know() -> None:
    assert flwr.__version__ == "1.41.0"
    assert {"server_app", "client_app", "num_supernodes", "backend_config"} <= set(run_simulation.__annotations__)
    assert telemetry.FLWR_TELEMETRY_ENABLED in ("0", "1")


class ReturningGrid(LocalGrid):
    """Registered nodes, of which one forgets its first message when it is restarted."""

    def __init__(self, apps: dict[int, tuple[str, ClientApp]]) -> None:
        super().__init__(apps)
        self.activated = dict.fromkeys(apps, "first")
        self.forgets: set[int] = set()
        self.away: set[int] = set()

    def get_nodes(self) -> list[NodeInfo]:
        return [
            NodeInfo(node_id=node, name=site_id, last_activated_at=self.activated[node])
            for node, (site_id, _) in self.apps.items()
            if node not in self.away
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        ids = list(super().push_messages(sent))
        for message, message_id in zip(sent, ids, strict=True):
            node = message.metadata.dst_node_id
            if node in self.forgets:
                self.forgets.remove(node)
                self.replies.pop(message_id)
                self.activated[node] = "again"
        return ids


def returning(*sites: str, answer: Callable[[Question], Answer] = echo) -> ReturningGrid:
    return ReturningGrid({100 + number: (site_id, app_of(answer)) for number, site_id in enumerate(sites)})


def registered_link(grid: Grid, notes: list[str] | None = None) -> GridLink:
    patience = Patience(poll_s=0.001, find_s=0.05, find_again_s=0.02, look_s=0.002, again_s=0.002)
    said = [] if notes is None else notes
    return GridLink(grid, SITES, patience=patience, stopped=threading.Event(), registered=True, note=said.append)


def test_a_question_that_a_restarted_node_has_lost_is_asked_again() -> None:
    grid, notes, asked = returning("a", "b", "c"), list[str](), list[str]()

    def count(question: Question) -> Answer:
        asked.append(question.site_id)
        return echo(question)

    grid = returning("a", "b", "c", answer=count)
    grid.forgets = {101}
    link = registered_link(grid, notes)
    link.site_ids()

    answers = list(link.ask([question(site) for site in SITES], deadline_s=5))

    assert [answer.site_id for answer in answers] == list(SITES)
    assert asked.count("b") == 2 and notes == ["b: asked again (the node came back)"]


def test_a_node_that_could_not_reach_its_site_is_asked_again_until_the_deadline() -> None:
    left = [3]

    def unlucky(question: Question) -> Answer:
        if question.site_id == "a" and left[0]:
            left[0] -= 1
            raise ConnectionError("the daemon starts")
        return echo(question)

    link = registered_link(returning("a", "b", "c", answer=unlucky))
    link.site_ids()

    assert [one.site_id for one in link.ask([question(site) for site in SITES], deadline_s=5)] == list(SITES)


def test_a_registered_site_that_is_away_is_not_waited_for_long_and_joins_when_it_is_back() -> None:
    grid = returning("a", "b", "c")
    grid.away = {102}
    link = registered_link(grid)

    assert link.site_ids() == ("a", "b")
    grid.away = set()
    assert link.site_ids() == SITES


def test_a_reply_that_a_node_lost_unnoticed_is_asked_for_again() -> None:
    grid, notes = returning("a", "b", "c"), list[str]()
    patience = Patience(poll_s=0.001, find_s=0.05, look_s=0.002, overdue_s=0.01)
    link = GridLink(grid, SITES, patience=patience, stopped=threading.Event(), registered=True, note=notes.append)
    link.site_ids()
    grid.forgets, grid.activated = {100}, dict.fromkeys(grid.apps, "first")
    link_answers = link.ask([question(site) for site in SITES], deadline_s=5)
    grid.activated[100] = "first"

    assert [one.site_id for one in link_answers] == list(SITES)
    assert notes and notes[0].startswith("a: asked again")


def test_a_silent_registered_site_ends_at_the_deadline_and_the_others_are_heard() -> None:
    grid = returning("a", "b", "c")
    grid.silent = {100}
    link = registered_link(grid)
    link.site_ids()

    assert [one.site_id for one in link.ask([question(site) for site in SITES], deadline_s=0.1)] == ["b", "c"]


def test_every_kind_of_question_has_a_message_type() -> None:
    assert set(flower.MESSAGE_TYPES) == set(get_args(messages.QuestionKind))
    assert {flower.MESSAGE_TYPES[kind] for kind in get_args(messages.MaskedStage)} == {flower.MASKED_TYPE}
