"""The coordinator's page on loopback: who is there, what is running, what went wrong; live by server-sent events.

It shows what `wardround coordinator status --json` prints, and nothing else: public numbers of rounds. The page changes
nothing: there is no form and no POST.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server import runs

if TYPE_CHECKING:
    from server.coordinator import Coordinator


def overview(served: "Coordinator") -> dict[str, Any]:
    """Everything that the page and `status` show."""
    return {
        "sites": served.sites(),
        "superlink": served.superlink_pid is not None,
        "runs": list(reversed(runs.overview(served.home / "runs"))),
    }


def pages(served: "Coordinator") -> Mapping[str, Callable[[], tuple[str, bytes]]]:
    html = (Path(__file__).parent / "page.html").read_bytes()
    return {
        "/": lambda: ("text/html; charset=utf-8", html),
        "/overview.json": lambda: ("application/json", json.dumps(overview(served)).encode()),
    }
