"""The same federation, carried by Flower: the real ClientApp and ServerApp in Flower's simulation engine on Ray.

This file chooses where each site is opened and what the processes may talk to; every algorithm is elsewhere. The
adapter is, byte for byte, that of the in-process Link, which shows that the carrier changes nothing.
"""

import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from federation.errors import ModelError
from federation.messages import Answer, Link, Question

T = TypeVar("T")

# Nobody listens on port 9. Ray asks the cloud's metadata address who it runs for even when its usage reports are off.
NOWHERE = "http://127.0.0.1:9"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # everywhere: Ray uses the loopback address and opens no port to others
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **{name: NOWHERE for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")},
    "no_proxy": "127.0.0.1,localhost",
    "NO_PROXY": "127.0.0.1,localhost",
}


class Site(Protocol):
    def answer(self, question: Question) -> Answer: ...


OpenSite = Callable[[], Site]

# The sites that this Ray process has opened. Flower unpickles the ClientApp anew for every message, so a site that
# should stay open (its model loaded, its ledger held) can only be kept by the process.
_open_sites: dict[str, Site] = {}


@dataclass(frozen=True)
class VirtualSites:
    """Which virtual site a simulated node stands for, and how to open it. Pickled, and used in the Ray process."""

    open_site: Mapping[str, OpenSite]

    def name(self, node_config: Mapping[str, object]) -> str:
        """Flower numbers its simulated nodes from 0: number n is our n-th site."""
        number = node_config["partition-id"]
        assert isinstance(number, int)
        return tuple(self.open_site)[number]

    def answer(self, question: Question) -> Answer:
        if question.site_id not in _open_sites:
            _open_sites[question.site_id] = self.open_site[question.site_id]()
        return _open_sites[question.site_id].answer(question)


def run_with_flower(run: Callable[[Link], T], open_site: Mapping[str, OpenSite]) -> T:
    """What `run` returns, given a Link to these sites through Flower.

    Each value of `open_site` must be picklable (a `functools.partial` of a module's function). It is called once, in
    the Ray process that then answers for all sites, in turn: a site's ledger is open in one process only.
    Ray gives that process one thread for numbers; whoever opens a model sets the number that the result shall have.

    Guarantees: no connection but loopback; nothing of Ray's files or processes is left.
    Raises: ModelError `dependency-missing`, and whatever `run` raises.
    """
    if importlib.util.find_spec("ray") is None:
        raise ModelError(
            "dependency-missing",
            "flower's simulation engine needs ray",
            hint="pip install wardround[flower-simulation]",
        )
    results: list[T] = []
    stopped = threading.Event()
    # /tmp, because Ray puts sockets below, whose whole path must be shorter than 108 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="ward-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        _environment(QUIET | {"FLWR_HOME": f"{folder}/flwr"}),
    ):
        # Imported here: flwr and ray read the variables above when they are first imported.
        from client.app import make_app as make_client_app
        from federation.flower import Patience
        from federation.flower_private import simulate
        from server.app import make_app as make_server_app

        sites = VirtualSites(dict(open_site))
        server_app = make_server_app(
            lambda link: results.append(run(link)),
            sites=tuple(open_site),
            patience=Patience(poll_s=0.02),
            stopped=stopped,
        )
        client_app = make_client_app(sites.name, sites.answer)
        try:
            simulate(server_app, client_app, nodes=len(open_site), folder=Path(folder))
        finally:
            stopped.set()
    return results[0]


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """These variables for as long as the block runs; then the environment as it was (Ray changes it as well)."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
