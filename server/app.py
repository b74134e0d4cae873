"""The Flower ServerApp: make a Link from the Grid and hand it to the run. Flower's own strategies are not used."""

import threading
from collections.abc import Callable, Sequence

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation.flower import GridLink, Patience
from federation.messages import Link


def make_app(
    run: Callable[[Link], None],
    *,
    sites: Sequence[str],
    patience: Patience,
    stopped: threading.Event | None = None,
) -> ServerApp:
    """A ServerApp that calls `run` once with a Link to `sites`; setting `stopped` ends a waiting Link."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(GridLink(grid, sites, patience=patience, stopped=stopped or threading.Event()))

    return app
