"""What we use of Flower that is deprecated or private, in one place; pinned with flwr 1.41.

Three things: its simulation engine called with app objects; the hand-out of tasks, by which a process of ours takes the
place of Flower's `flower-superexec`, `flwr-clientapp` and `flwr-serverapp` (those unpack and run code from a bundle,
ours has none to run); and the SuperLink as an application that we put behind our own listeners.
tests/federation/test_flower.py and tests/server/test_superlink.py have the contract. Heavy parts are imported where
they are used: the relay of a site must start fast.
"""

import hashlib
import io
import logging
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
from flwr.app import ConfigRecordValues, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SubStatus
from flwr.common.serde import context_from_proto, context_to_proto, message_to_proto, run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore import telemetry
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

TaskKind = Literal["flwr-clientapp", "flwr-serverapp"]
LOCAL_HEADER = "x-wardround-local"
HEARTBEAT_S = 15.0  # Flower gives a taken task up after 30 s without one, a running one after 60 s
SOON_S, SOON_FOR_S = 0.25, 30.0  # how often a node asks for messages shortly after one
NODE_HEARTBEAT_S = 30  # Flower's own; it takes 10 at least
RUN_KEY = "wardround-run"  # the one key of a run's configuration: the name of the run's folder


# The simulation engine.


def simulate(server_app: Any, client_app: ClientApp, *, nodes: int, folder: Path) -> None:
    """Run both apps in Flower's simulation engine: one Ray actor process, which all `nodes` share, in turn.

    `run_simulation` is deprecated in favour of `flwr run`, which would need a code bundle, a SuperLink process and a
    second start of Python for the same engine underneath. What Ray writes goes into `folder`. An exception of the
    ServerApp is raised here unchanged. The environment must already be the one of sim/flower_engine.py.
    """
    from flwr.simulation import run_simulation

    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # the variable of this name is read on import, which may have been earlier
    ray: dict[str, ConfigRecordValues] = {
        "num_cpus": 1,
        "include_dashboard": False,
        "_temp_dir": str(folder),
        "log_to_driver": False,
    }
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Ray leaves /dev/null open and its helper processes to its own exit handler.
            warnings.filterwarnings("ignore", "unclosed file .*/dev/null", ResourceWarning)
            warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
            run_simulation(
                server_app,
                client_app,
                num_supernodes=nodes,
                backend_config={"init_args": ray, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    finally:
        logger.setLevel(level)


# Tasks: what Flower hands out on loopback, and how a process of ours answers.


class LocalKey:
    """Adds the secret without which our loopback listener answers nobody (server/superlink.py)."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[LOCAL_HEADER] = self._secret
        return call_next(context)


class Tasks:
    """The queue of tasks of a SuperNode or SuperLink. Whoever holds `secret` may take one, of one kind only."""

    def __init__(self, address: str, secret: bytes, *, kind: TaskKind, local_key: str | None = None) -> None:
        self._kind, self._address = kind, address
        self._local = () if local_key is None else (LocalKey(local_key),)
        self._client = RuntimeHttpClient.from_server_address(
            address,
            True,
            None,
            [
                *self._local,
                RuntimeVersionHttpInterceptor(component_name="wardround"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
                ),
            ],
        )

    def take(self) -> str | None:
        """The token of the oldest waiting task of this kind, or None. Tasks of other kinds are never taken.

        Raises: ConnectionError when nobody answers, PermissionError when the secret is refused.
        """
        try:
            got = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[self._kind]))
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (401, 403):
                raise PermissionError("the hand-out of tasks refuses our secret") from None
            raise ConnectionError("the hand-out of tasks does not answer") from None
        except httpx.HTTPError:
            raise ConnectionError("the hand-out of tasks does not answer") from None
        return got.token if got.HasField("task") and got.token else None

    def close(self) -> None:
        self._client.close()

    def keep(self, token: str) -> None:
        """A heartbeat for a task that somebody else is about to work on: a process needs seconds to start."""
        version, speaks = RuntimeVersionHttpInterceptor(component_name="wardround"), RuntimeTokenHttpInterceptor(token)
        client = RuntimeHttpClient.from_server_address(self._address, True, None, [*self._local, version, speaks])
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            pass  # the next one, or the task is given out again
        finally:
            client.close()


@contextmanager
def _task(
    address: str, token: str, *, local_key: str | None = None, on_lost: Callable[[], None] = lambda: None
) -> Iterator[RuntimeHttpClient]:
    """A client that speaks for one task, and the task's heartbeat for as long as it is open."""
    local = () if local_key is None else (LocalKey(local_key),)
    client = RuntimeHttpClient.from_server_address(
        address,
        True,
        None,
        [*local, RuntimeVersionHttpInterceptor(component_name="wardround"), RuntimeTokenHttpInterceptor(token)],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_S):
            try:
                if not client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success:
                    on_lost()
                    return  # the task was given up: what we push will be refused, which says it
            except httpx.HTTPError:
                continue

    thread = threading.Thread(target=beat, name="task-heartbeat", daemon=True)
    thread.start()
    try:
        yield client
    finally:
        over.set()
        client.close()


def answer_task(address: str, token: str, app: Callable[[Message, Context], Message]) -> None:
    """Pull the message of one ClientApp task, let `app` answer it, push the reply.

    The bundle that comes with the task is dropped unread. Raises: ConnectionError; Flower then reports the task as
    crashed when its heartbeat stops, and the coordinator asks again.
    """
    with _task(address, token) as client:
        try:
            given = client.PullTaskInput(PullTaskInputRequest())
            context = _identified(given)
            node = Node(node_id=context.node_id)
            waiting = client.PullMessages(PullAppMessagesRequest())
            if not waiting.messages_list:
                raise ConnectionError("a task without a message")
            tree = waiting.message_object_trees[0]
            message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
                make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id),
                return_type=Message,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            # Our own context: run configuration and node configuration come from outside and are not used.
            reply = app(message, Context(context.run_id, context.node_id, {}, RecordDict(), {}))
            _push_reply(client, reply, node, context.run_id)
            client.PushTaskOutput(
                PushTaskOutputRequest(context=context_to_proto(context), sub_status=SubStatus.COMPLETED, details="")
            )
        except httpx.HTTPError:
            raise ConnectionError("the node stopped answering") from None
        except ObjectPullError:
            raise ConnectionError("the message was withdrawn") from None


def _identified(given: Any) -> Context:
    """Flower's messages are made in the name of a task, which is a global of the process."""
    TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
    TaskIdentity.node_id = given.context.node_id
    return context_from_proto(given.context)


def _push_reply(client: RuntimeHttpClient, reply: Message, node: Node, run_id: int) -> None:
    from flwr.app.message import remove_content_from_message

    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        pushed = client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
            )
        )
        push_objects(
            get_all_nested_objects(reply),
            make_push_object_fn_protobuf(client.PushObject, node, run_id=run_id, session_id=pushed.session_id),
            object_ids_to_push=set(pushed.objects_to_push),
        )


@dataclass(frozen=True)
class ServerTask:
    """A ServerApp task under way: the Grid to the nodes, and which run's folder it is for."""

    grid: Any
    run: str


@contextmanager
def server_task(address: str, token: str, *, local_key: str, on_lost: Callable[[], None]) -> Iterator[ServerTask]:
    """Everything that Flower's own ServerApp process does, but for unpacking and loading a bundle.

    `on_lost` is called when Flower has given the task up, as it does when a person stops the run.
    """
    from flwr.superlink.grid import HttpGrid

    with _task(address, token, local_key=local_key, on_lost=on_lost) as client:
        given = client.PullTaskInput(PullTaskInputRequest())
        context = _identified(given)
        run = run_from_proto(given.run)
        grid = HttpGrid(address, insecure=True, token=token)
        grid.set_run(run)
        grid._client = client  # the Grid's own client would not know our loopback key
        status, details = SubStatus.FAILED, "the run ended with an error; see the coordinator's log"
        try:
            yield ServerTask(grid, str(run.override_config.get(RUN_KEY, "")))
            status, details = SubStatus.COMPLETED, ""
        finally:
            context.state = RecordDict()
            try:
                client.PushTaskOutput(
                    PushTaskOutputRequest(context=context_to_proto(context), sub_status=status, details=details)
                )
            except httpx.HTTPError:
                pass  # Flower finds the task without a heartbeat


# The SuperLink and its Control API.


def superlink_app(database: Path, superexec_secret: bytes) -> Any:
    """Flower's SuperLink as an ASGI application: file database, process isolation, SuperNode authentication on."""
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    telemetry.FLWR_TELEMETRY_ENABLED = "0"
    config = SuperLinkLifespanConfig(
        control_address="127.0.0.1:0", health_server_address=None, host="127.0.0.1", port=0, insecure=False,
        certificates=None, superexec_auth_secret=superexec_secret, authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None, fleet_event_log_plugin=None, enable_event_log=False, artifact_provider=None,
        enable_supernode_auth=True, fleet_api_type="grpc-rere", fleet_api_address=None, simulation=False,
        ssl_ca_certfile=None, ssl_certfile=None, ssl_keyfile=None, database=str(database), isolation="process",
        runtime_dependency_install=False,
    )  # fmt: skip
    return create_app(config, SuperLinkLifespan)


@dataclass(frozen=True)
class NodeState:
    """A site's node as the SuperLink knows it."""

    site_id: str
    node_id: int
    online: bool
    public_key: bytes


class Control:
    """Flower's Control API on loopback: register nodes, start and stop runs."""

    def __init__(self, address: str, *, local_key: str, timeout_s: float = 10.0) -> None:
        from flwr.supercore.control import ControlHttpClient

        self._client = ControlHttpClient.from_server_address(
            address, True, None, [LocalKey(local_key), RuntimeVersionHttpInterceptor(component_name="wardround")]
        )
        self._client._client.timeout = httpx.Timeout(timeout_s)

    def nodes(self) -> list[NodeState]:
        found = self._call(self._client.ListNodes, ListNodesRequest()).nodes_info
        return [
            NodeState(node.name, node.node_id, node.status == "online", node.public_key)
            for node in found
            if node.status != "unregistered"
        ]

    def register(self, site_id: str, public_key_pem: bytes) -> None:
        """Admit the node that has this key (PEM, a NIST curve) under this name."""
        self._call(self._client.RegisterNode, RegisterNodeRequest(public_key=public_key_pem, name=site_id))

    def unregister(self, node_id: int) -> None:
        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def start(self, run: str) -> int:
        """Begin a Flower run for this run's folder. The bundle that Flower insists on holds no code."""
        from flwr.common.serde import user_config_to_proto

        request = StartRunRequest(fab=Fab(content=code_free_bundle()))
        for name, value in user_config_to_proto({RUN_KEY: run}).items():
            request.override_config[name].CopyFrom(value)
        number: int = self._call(self._client.StartRun, request).run_id
        if not number:
            raise ConnectionError("flower did not start the run")
        return number

    def stop(self, flower_run: int) -> None:
        self._call(self._client.StopRun, StopRunRequest(run_id=flower_run))

    def runs(self) -> dict[int, str]:
        """Flower's runs and what they are doing: pending, running, finished."""
        found = self._call(self._client.ListRuns, ListRunsRequest()).run_dict
        return {number: run.status.status for number, run in found.items()}

    def close(self) -> None:
        self._client.close()

    def _call(self, method: Callable[[Any], Any], request: Any) -> Any:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise PermissionError(f"flower refuses with status {error.response.status_code}") from None
        except httpx.HTTPError:
            raise ConnectionError("the coordinator's SuperLink does not answer") from None


def code_free_bundle() -> bytes:
    """A Flower App Bundle with a pyproject.toml and nothing else: there is no code in it, and nobody would run it."""
    text = (
        '[project]\nname = "wardround"\nversion = "1.0.0"\ndescription = "no code"\nlicense = {text = "Apache-2.0"}\n'
        '[tool.flwr.app]\npublisher = "wardround"\nfab-include = ["pyproject.toml"]\n'
        '[tool.flwr.app.components]\nserverapp = "server.app:app"\nclientapp = "client.app:app"\n'
        f'[tool.flwr.app.config]\n{RUN_KEY} = ""\n'
    ).encode("ascii")
    listed = f"pyproject.toml,{hashlib.sha256(text).hexdigest()},{8 * len(text)}".encode("ascii")
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as bundle:
        for name, data in (("pyproject.toml", text), (".info/CONTENT", listed)):
            bundle.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return made.getvalue()


# The SuperNode.


def pull_or_drop(pull: Callable[..., int | None], **named: Any) -> int | None:
    """Flower's step of receiving a message, made to drop one whose run ends meanwhile like any other that fails.

    Left to itself it forgets the message and keeps its task, and who takes that task waits two hours for the rest.
    """
    from flwr.supercore.run import RunNotRunningException

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            try:
                return call(*args)
            except RunNotRunningException:  # no Exception to Flower, which so passes its own cleaning up
                raise ConnectionError("the run is over") from None

        return guarded

    calls = {name: failing(named[name]) for name in ("pull_object", "confirm_message_received")}
    return pull(**named | calls)


def run_supernode(
    superlink: str, address: str, *, ca: str, key: str, secret: str, heartbeat_s: int = NODE_HEARTBEAT_S
) -> None:
    """Flower's SuperNode in this process, until it ends. Its Runtime API listens on `address`, on loopback.

    Process isolation: it starts no process, so no bundle is ever unpacked. Between messages it sleeps 3 s (a constant
    in Flower); within half a minute of the last message we let it look again sooner, because a round is a chain of
    short messages and every link of it would wait. A node that was killed is let in again when two of its heartbeats
    are missing. Whatever ends it ends the process, so that it is started again.
    """
    import os
    import sys
    import time
    from types import SimpleNamespace

    from flwr.supercore import heartbeat
    from flwr.supernode import fleet_http_connection, start_client_internal
    from flwr.supernode.cli import flower_supernode

    last = [0.0]
    pull = start_client_internal._pull_and_store_message

    def watched(**named: Any) -> int | None:
        run_id = pull_or_drop(pull, **named)
        if run_id is not None:
            last[0] = time.monotonic()
        return run_id

    def sleep(seconds: float) -> None:
        if seconds < 1.0:  # it waits for the answer to a message
            last[0] = time.monotonic()
        time.sleep(min(seconds, SOON_S) if time.monotonic() - last[0] < SOON_FOR_S else seconds)

    for module in (fleet_http_connection, heartbeat):  # what it promises, and what it does
        module.HEARTBEAT_DEFAULT_INTERVAL = heartbeat_s  # type: ignore[attr-defined]
    start_client_internal._pull_and_store_message = watched  # type: ignore[assignment]
    start_client_internal.time = SimpleNamespace(sleep=sleep)  # type: ignore[assignment, attr-defined]
    host, _, port = address.rpartition(":")
    sys.argv = [
        "flower-supernode", "--superlink", superlink, "--root-certificates", ca, "--auth-supernode-private-key", key,
        "--isolation", "process", "--superexec-auth-secret-file", secret, "--host", host, "--port", port,
    ]  # fmt: skip
    status = 1
    try:
        flower_supernode()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except Exception as error:
        print(f"the node ends: {type(error).__name__}")
    # Its listener is a thread that nobody ends when the main one fails (a handshake that times out, say): the process
    # would stay, connected to nothing, and never be started again.
    sys.stdout.flush()
    os._exit(status)
