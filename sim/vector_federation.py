"""A coordinator and hospitals with vectors for patients, as processes over TLS: for benches and for killing."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    def establish(self) -> None:
        """What people do at the beginning; here one person does it all."""
        now, port = time.time(), supervise.free_port()
        federation = FederationFolder.init(
            self.home, consortium=CONSORTIUM, address=f"localhost:{port}", officers=(), threshold=1, now_s=now
        )
        for name in self.sites:
            site = SiteFolder.init(
                self.folder / name, site_id=name, declared_patients=100, coordinator=CONSORTIUM, keys=SeededKeys(1)
            )
            invitation = federation.invite(name, token=os.urandom(32), now_s=now)
            said = site.enrol(invitation, organisation="o", contact="c", heard=invitation.words(), now_s=now)
            federation.admit(said, heard=said.words(), now_s=now)
        for name in self.sites:
            SiteFolder(self.folder / name).accept_roster(federation.current(), heard=None, now_s=now)

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


def events(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON log; a process that was killed may have left half of one."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def main() -> None:
    """`python -m sim.vector_federation FOLDER`: one masked round from beginning to end."""
    federation = VectorFederation(Path(sys.argv[1]))
    federation.establish()
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
