"""What we rely on in the private parts of flwr 1.41. A new version of flwr fails here first, and says where."""

import inspect
import io
import zipfile

import pytest
from flwr.app import Message, RecordDict
from flwr.common.config import get_fab_config
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.nodestate import NodeStateFactory

from federation import flower_private
from server import superlink


def test_the_bundle_that_flower_insists_on_holds_no_code_and_flower_reads_it():
    data = flower_private.code_free_bundle()

    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        assert bundle.namelist() == ["pyproject.toml", ".info/CONTENT"]
    assert get_fab_config(data)["tool"]["flwr"]["app"]["config"] == {flower_private.RUN_KEY: ""}
    assert data == flower_private.code_free_bundle()


@pytest.mark.filterwarnings("ignore:No path_separator found")  # Flower's migrations of its database
def test_the_guard_lets_through_what_a_node_calls_and_not_how_nodes_register(tmp_path):
    app = flower_private.superlink_app(tmp_path / "superlink.db", b"secret")
    fleet = {route.path for route in _routes(app) if route.path.startswith("/v1/fleet/")}

    assert fleet - superlink.FLEET == {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert superlink.FLEET <= fleet
    assert app.state.enable_supernode_auth is True and app.state.superexec_auth_secret == b"secret"


def test_what_the_node_process_replaces_is_where_it_was():
    source = inspect.getsource(start_client_internal.start_client_internal)

    assert "_pull_and_store_message(" in source and "time.sleep(3)" in source
    assert "time.sleep(0.5)" in inspect.getsource(start_client_internal._push_messages)
    assert callable(flower_supernode)


def test_the_grid_takes_the_client_that_knows_our_loopback_key():
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="t")
    mine = object()
    grid._client = mine

    assert grid._runtime_client is mine


def _routes(app):
    from fastapi.routing import iter_route_contexts

    return [context.route for context in iter_route_contexts(app.routes) if hasattr(context.route, "path")]


def test_a_message_whose_run_ends_while_it_arrives_leaves_no_task_behind(monkeypatch):
    """The bare function of Flower leaves one, and with it a relay that waits for the rest."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 5)
    left = []
    for pull in (start_client_internal._pull_and_store_message, _dropping):
        state = NodeStateFactory(ObjectStoreFactory()).state()
        state.set_node_id(7)
        state.store_run(Run.create_empty(5))
        message = Message(RecordDict(), message_type="train", dst_node_id=7)
        message.metadata.__dict__["_message_id"] = message.object_id

        def over(*args):
            raise RunNotRunningException

        pulled = pull(
            state=state, object_store=state.object_store, node_config={}, trusted_entities=None,
            receive=lambda message=message: (message, get_object_tree(message)), get_run=over, get_fab=over,
            pull_object=over, confirm_message_received=over,
        )  # fmt: skip
        assert pulled is None
        left.append([task.status.status for task in state.get_tasks()])

    assert left == [["pending"], ["finished"]]


def _dropping(**named):
    return flower_private.pull_or_drop(start_client_internal._pull_and_store_message, **named)
