"""What we rely on in the private parts of flwr 1.41. A new version of flwr fails here first, and says where."""

import inspect
import io
import zipfile

import pytest
from flwr.common.config import get_fab_config
from flwr.superlink.grid import HttpGrid
from flwr.supernode import start_client_internal
from flwr.supernode.cli import flower_supernode

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
