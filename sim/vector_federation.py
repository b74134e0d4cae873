"""A coordinator and hospitals with vectors for patients, as processes over TLS: for benches and for killing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.folder import SiteFolder
from federation import supervise
from federation.errors import CarrierError
from federation.plan import RunPlan, parse_plan
from server import desk, runs
from server.federation_folder import FederationFolder
from server.runs import RunFolder
from sim.keys import SeededKeys
from sim.vector_hospital import CONSORTIUM

ANSWER_S = 600.0
ONE_ROUND = """
[run]
name = "shortest"
rounds = 1
quorum = 3
[model]
path = "base"
[privacy]
noise_multiplier = 8.0
[aggregation]
max_update_rms = 1e6
"""


@dataclass
class VectorFederation:
    """Folders and processes of one coordinator and its hospitals. `numbers` is the size of their adapter."""

    folder: Path
    sites: Sequence[str] = ("a", "b", "c")
    numbers: int = 12
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "coordinator"

    def establish(self, port: int) -> None:
        """What people do at the beginning; here one person does it all. Hospitals reach the coordinator on `port`."""
        FederationFolder.init(
            self.home, consortium=CONSORTIUM, address=f"localhost:{port}", officers=(), threshold=1, now_s=time.time()
        )
        self.admit(*self.sites)

    def admit(self, *names: str) -> None:
        """Hospitals come in, now or while everything runs, and accept the roster that has all of them."""
        now, federation = time.time(), FederationFolder.open(self.home)
        folders = []
        for name in names:
            site = SiteFolder.init(
                self.folder / name, site_id=name, declared_patients=100, coordinator=CONSORTIUM, keys=SeededKeys(1)
            )
            invitation = federation.invite(name, token=os.urandom(32), now_s=now)
            said = site.enrol(invitation, organisation="o", contact="c", heard=invitation.words(), now_s=now)
            federation.admit(said, heard=said.words(), now_s=now)
            folders.append(site)
        for site in folders:
            site.accept_roster(federation.current(), heard=None, now_s=now)

    def keep_running(self) -> None:
        """Start what is not running: what systemd does."""
        for name in ("serve", *self.sites):
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                command = (
                    supervise.ours("sim.wardround", "coordinator", "serve", "--dir", str(self.home), "--page-port", "0")
                    if name == "serve"
                    else supervise.ours("sim.vector_hospital", name, str(self.folder / name), str(self.numbers))
                )
                with (self.folder / f"{name}.log").open("ab") as log:
                    env = supervise.environment(os.environ, {})
                    made = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                self.processes[name] = made

    def launch(self, plan: RunPlan) -> RunFolder:
        """As soon as the coordinator answers. Raises: CarrierError if it does not in ten minutes."""
        return self._once_answered(lambda: desk.launch(self.home, plan, SeededKeys(0)))

    def resume(self, run_id: str) -> RunFolder:
        """As `launch`, for a run of an earlier sitting."""
        return self._once_answered(lambda: desk.resume(self.home, run_id))

    def _once_answered(self, ask: Callable[[], RunFolder]) -> RunFolder:
        end = time.monotonic() + ANSWER_S
        while True:
            self.keep_running()
            try:
                return ask()
            except CarrierError:
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)

    def stop(self) -> None:
        supervise.end(self.processes.values(), wait_s=20)


def main() -> None:
    """`python -m sim.vector_federation FOLDER`: one masked round from beginning to end."""
    federation = VectorFederation(Path(sys.argv[1]))
    federation.establish(supervise.free_port())
    try:
        run = federation.launch(parse_plan(ONE_ROUND))
        while run.standing().state not in runs.OVER:
            federation.keep_running()
            time.sleep(0.5)
    finally:
        federation.stop()
    sys.exit(run.standing().state != "finished")


if __name__ == "__main__":
    main()
