"""The Flower ServerApp: make a Link from the Grid and hand it to the run. Flower's own strategies are not used.

In the simulator Flower runs `make_app`'s ServerApp itself. At the coordinator `serve` starts this file as a process of
its own for every run (`main`): it takes the place of Flower's `flwr-serverapp`, which would unpack and run a bundle.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from federation import flower_private, supervise
from federation.adapter import Adapter
from federation.errors import FedError, QuorumError
from federation.flower import GridLink, Patience
from federation.messages import Link
from server import evidence, rounds, runs
from server.checkpoint import Checkpoints
from server.closing import close, examine
from server.evaluation import Examined
from server.record import RoundRecord
from server.rounds import RunResult
from server.runs import RunFolder
from server.trusted import LaterRoster, require_latest, trusted

WAIT_S = (5.0, 60.0)  # first and longest wait before a round without a quorum is tried again
LOOK_S = 1.0


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


def run_to_the_end(
    folder: RunFolder,
    link: Link,
    *,
    roster: Mapping[str, bytes] | None = None,
    stopped: threading.Event,
    on_round: Callable[[], None] = lambda: None,
    between: Callable[[], None] = lambda: None,
    wait_s: tuple[float, float] = WAIT_S,
) -> tuple[RunResult, Examined] | None:
    """Every round that is still missing, and what the hospitals say of the result; None if the run was stopped.

    A round without a quorum is no end: the run waits and tries it again, for sites come back. What was answered
    already is answered again with the same bytes. `between` is called before every round, and may leave the run where
    it is by raising. Raises: every other FedError.
    """
    checkpoints = Checkpoints.open(folder.run)
    wait = wait_s[0]

    def observe(record: RoundRecord, adapter: Adapter) -> None:
        on_round()
        folder.note("round", **runs.round_row(record))
        between()

    while not stopped.is_set():
        between()
        folder.stand("running")
        try:
            result = rounds.run(
                checkpoints.plan, link, checkpoints, base=folder.base(), roster=roster, observer=observe
            )
            return result, examine(folder, checkpoints.plan, link, result)
        except QuorumError as error:
            if stopped.is_set():
                return None
            folder.stand("waiting", error.message)
            stopped.wait(wait)
            wait = min(2 * wait, wait_s[1])
    return None


def _serve_run(home: Path, address: str, token: str, local_key: str) -> int:
    """One run, as a task that Flower handed out. Returns the exit status."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with flower_private.server_task(address, token, local_key=local_key, on_lost=stopped.set) as task:
        folder = runs.find(home / "runs", task.run)
        print(f"run: {folder.run_id}", flush=True)
        if folder.standing().state in runs.OVER:
            print(f"{folder.run_id}: is over already", file=sys.stderr)
            return 0
        threading.Thread(target=_watch_state, args=(folder, stopped), daemon=True).start()
        try:
            grid = GridLink(task.grid, (), patience=Patience(), stopped=stopped, registered=True)
            while _under_one_roster(home, folder, grid, stopped):
                pass
        except FedError as error:
            if error.code == "log-busy":  # an earlier runner of this run has not ended yet: this one is one too many
                return error.exit_status
            folder.stand("failed", error.message)
            print(f"{folder.run_id}: {error.message}", file=sys.stderr)
            return error.exit_status
    return 0


def _under_one_roster(home: Path, folder: RunFolder, grid: GridLink, stopped: threading.Event) -> bool:
    """The run to its end, or until officers have signed another roster: then True, and it goes on under that one."""
    checkpoints = Checkpoints.open(folder.run)
    with trusted(home, checkpoints) as trust:
        grid.expect(trust.sites)
        try:
            ended = run_to_the_end(
                folder,
                trust.wrap(grid),
                roster=trust.keys,
                stopped=stopped,
                on_round=lambda: evidence.record_rounds(trust.log, checkpoints),
                between=lambda: require_latest(home, trust),
            )
        except LaterRoster as later:
            folder.note("roster", version=later.version)
            return True
        if ended is not None:
            close(folder, checkpoints.plan, *ended, trust.log)
            folder.stand("finished")
    return False


def _watch_state(folder: RunFolder, stopped: threading.Event) -> None:
    """A person's `stop` is a word in a file: it works whether Flower listens or not."""
    while not stopped.wait(LOOK_S):
        if folder.standing().state == "stopped":
            stopped.set()


def main() -> None:
    """`python -m server.app --home DIR --address HOST:PORT`; token and key come by standard input, not by name."""
    parser = argparse.ArgumentParser(prog="server.app")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    supervise.die_with(given.parent)
    os.umask(0o077)
    token, local_key = sys.stdin.readline().strip(), sys.stdin.readline().strip()
    try:
        sys.exit(_serve_run(given.home, given.address, token, local_key))
    except FedError as error:
        sys.exit(f"runner: {error.message}")


if __name__ == "__main__":
    main()
