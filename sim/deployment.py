"""A real deployment on this machine: a coordinator and three hospitals as processes, TLS, authentication, signatures.

The processes are those of `wardround coordinator serve` and `wardround site run`; made hospitals stand in for real
ones, and their noise follows from a seed, so that the result can be compared: the adapter must be, byte for byte, that
of `wardround sim run` with the same plan and seed, although one hospital is killed on the way. As root, every party has
an operating system user of its own.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from client.folder import CA, TRANSPORT, SiteFolder
from federation import supervise
from federation.errors import CarrierError
from federation.logs import events
from federation.plan import RunPlan, load_plan, parse_plan
from federation.privacy.keystream import OperatingSystemKeys
from federation.terminal import Talk
from server.federation_folder import FederationFolder
from sim.keys import SeededKeys

PACKAGE = Path(__file__).parent
BASE = PACKAGE / "base"
FIRST_UID = 61_000
CONSORTIUM = "demo"
PATIENTS_PER_SITE = 20
ROUNDS = 3
START_S = 600.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Party:
    """A coordinator or a hospital: its folder, and its user if there is one for it."""

    name: str
    folder: Path
    uid: int | None

    def own(self) -> None:
        """Everything in its folder is its own, and nobody else's."""
        if self.uid is None:
            return
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
        self.folder.chmod(0o700)

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """One of our modules, as this party."""
        env = supervise.environment(os.environ, {"HOME": str(self.folder), "OMP_NUM_THREADS": "1"})
        as_user: dict[str, Any] = {}
        if self.uid is not None:
            as_user = {"user": self.uid, "group": self.uid, "extra_groups": []}
        with log.open("ab") as out:
            made: subprocess.Popen[bytes] = subprocess.Popen(
                supervise.ours(*arguments), env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=self.folder, **as_user,
            )  # fmt: skip
        return made


def demo_plan(plan_file: Path | None) -> RunPlan:
    """The demo's plan, small: few patients, few rounds, and every hospital in every round."""
    plan = load_plan(plan_file) if plan_file else parse_plan((PACKAGE / "demo.toml").read_text(encoding="utf-8"))
    rounds = plan.run.rounds if plan_file else ROUNDS
    evaluation = replace(plan.evaluation, free_text=False, bootstrap=100)
    return replace(plan, run=replace(plan.run, rounds=rounds, quorum=3, deadline_s=900.0), evaluation=evaluation)


def run(out: Path, *, plan_file: Path | None, seed: int, kill: bool, compare: bool, say: Say) -> dict[str, str]:
    """The whole demonstration. Returns the digests of both adapters. Raises: CarrierError if a party does not start."""
    from sim.sites import hospitals

    plan = demo_plan(plan_file)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    made = hospitals(3, 3 * PATIENTS_PER_SITE, seed)
    reference = _simulate(plan, out / "simulated", made, seed, say) if compare else ""

    uids = _users(say)
    place = _place(out, uids)
    coordinator = Party("coordinator", place / "coordinator", uids[0])
    sites = {
        hospital.site_id: Party(hospital.site_id, place / hospital.site_id, uid)
        for hospital, uid in zip(made, uids[1:], strict=True)
    }
    _establish(coordinator, sites, say)
    for hospital in made:
        _prepare(hospital, sites[hospital.site_id], plan, seed, say)
    (coordinator.folder / "plan.json").write_bytes(plan.canonical())
    for party in (coordinator, *sites.values()):
        if party is not coordinator:
            (party.folder / "plan.json").write_bytes(plan.canonical())
        party.own()

    with _running(coordinator, sites, place, seed, say) as hospital_processes:
        _start_run(coordinator, place, seed)
        found = _watch(coordinator, sites, hospital_processes, place, seed, say, kill=kill)
    folder = coordinator.folder / "runs" / found
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    shutil.copytree(folder, out / "deployed", dirs_exist_ok=True)
    shutil.rmtree(place)  # keys, ledgers and made patients of this demonstration
    return {
        "deployed": report["adapter"]["digest"],
        "simulated": reference,
        "report": str(out / "deployed" / "report.html"),
    }


# What is made before anything runs.


def _simulate(plan: RunPlan, out: Path, made: Sequence[object], seed: int, say: Say) -> str:
    """The same federation in one process."""
    from sim.run import Options, simulate

    say("first the same federation in one process, to compare with")
    options = Options(out=out, base_path=BASE, hospitals=tuple(made), seed=seed, compare=False, threads=1)  # type: ignore[arg-type]
    return str(simulate(plan, options, Talk())["adapter"]["digest"])


def _users(say: Say) -> list[int | None]:
    """Four users of their own if we may and they can read this installation; otherwise ours for all."""
    if os.geteuid() != 0:
        say("not root: all parties run as this user")
        return [None] * 4
    try:
        probe = subprocess.run(
            [sys.executable, "-P", "-c", "import federation, client.app"],
            user=FIRST_UID, group=FIRST_UID, extra_groups=[], cwd="/",
            env=supervise.environment(os.environ, {"HOME": "/"}), capture_output=True,
        )  # fmt: skip
        readable = probe.returncode == 0
    except PermissionError:
        readable = False
    if not readable:
        say("this installation is not readable for other users: all parties run as this one")
        return [None] * 4
    return [FIRST_UID + number for number in range(4)]


def _place(out: Path, uids: Sequence[int | None]) -> Path:
    """Where the parties live: below the output, or, for other users, where they can get to."""
    place = Path("/tmp" if uids[0] is not None else out.resolve()) / (f"wardround-demo-{os.getpid()}")
    place.mkdir(mode=0o755)
    return place


def _establish(coordinator: Party, sites: Mapping[str, Party], say: Say) -> None:
    """What people do at the beginning: init, invite, enrol, admit; here one person does it all."""
    now = time.time()
    port = supervise.free_port()
    federation = FederationFolder.init(
        coordinator.folder, consortium=CONSORTIUM, address=f"localhost:{port}", officers=(), threshold=1, now_s=now
    )
    folders = {}
    for site_id, party in sites.items():
        folders[site_id] = SiteFolder.init(
            party.folder, site_id=site_id, declared_patients=10, coordinator=CONSORTIUM, keys=OperatingSystemKeys()
        )
        invitation = federation.invite(site_id, token=os.urandom(32), now_s=now)
        submission = folders[site_id].enrol(
            invitation, organisation="made for the demonstration", contact="nobody", heard=invitation.words(), now_s=now
        )
        federation.admit(submission, heard=submission.words(), now_s=now)
    for folder in folders.values():
        folder.accept_roster(federation.current(), heard=None, now_s=now)
    say(f"coordinator and {len(sites)} hospitals enrolled; words: {federation.current().roster.officers_words()}")


def _prepare(hospital: object, party: Party, plan: RunPlan, seed: int, say: Say) -> None:
    """Phantoms, de-identified into the hospital's own store, as the simulator does it."""
    from sim.phantoms import write_hospital
    from sim.virtual_site import prepare

    sim = party.folder / "sim"
    sim.mkdir()
    source = party.folder / "archive"
    write_hospital(
        hospital, source, seed=seed, truth=sim / "truth.json", workers=1, progress=lambda done, total: None  # type: ignore[arg-type]
    )  # fmt: skip
    counts = prepare(
        sim, party.name, source, seed=seed, held_out_share=plan.evaluation.held_out_share, workers=1,
        progress=lambda done, total: None,
    )  # fmt: skip
    say(f"{party.name}: {counts.accepted} examples, {sum(counts.quarantined.values())} in quarantine")


# The processes.


@contextmanager
def _running(
    coordinator: Party, sites: Mapping[str, Party], place: Path, seed: int, say: Say
) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Coordinator and hospitals, until the block ends."""
    serve = coordinator.start(
        "sim.wardround", "coordinator", "serve", "--dir", str(coordinator.folder), "--page-port", "0",
        log=place / "coordinator.log",
    )  # fmt: skip
    hospitals = {name: _hospital(party, place, seed) for name, party in sites.items()}
    try:
        _wait(lambda: (coordinator.folder / "serve" / "local.json").exists(), "the coordinator", place)
        for name, party in sites.items():
            _wait(lambda party=party: (party.folder / "run" / "daemon.sock").exists(), name, place)  # type: ignore[misc]
            say(f"{name}: daemon {hospitals[name].pid} answers on its socket")
        yield hospitals
    finally:
        supervise.end((*hospitals.values(), serve), wait_s=15)


def _hospital(party: Party, place: Path, seed: int) -> subprocess.Popen[bytes]:
    return party.start(
        "sim.deployment",
        "hospital",
        "--folder",
        str(party.folder),
        "--seed",
        str(seed),
        log=place / f"{party.name}.log",
    )


def _start_run(coordinator: Party, place: Path, seed: int) -> None:
    launched = coordinator.start(
        "sim.deployment", "launch", "--folder", str(coordinator.folder), "--seed", str(seed), log=place / "launch.log"
    )
    if launched.wait(START_S):
        raise _failed("the run could not be launched", place)


def _watch(
    coordinator: Party,
    sites: Mapping[str, Party],
    processes: dict[str, subprocess.Popen[bytes]],
    place: Path,
    seed: int,
    say: Say,
    *,
    kill: bool,
) -> str:
    """Follow the run to its end. Once, a hospital is killed when it has trained, and started again.

    That is while another one still trains: its update is on its disk and not masked yet, so no round is lost. Once keys
    are shown for a masked sum, a hospital that dies is a dropout of that round, and three hospitals cannot spare one.
    """
    from server import desk, runs

    [folder] = runs.every(coordinator.folder / "runs")
    left = [kill]

    def pause(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if left[0]:
                kill_one()
            time.sleep(0.05)

    def kill_one() -> None:
        found = ahead({name: party.folder / "logs" / "site.jsonl" for name, party in sites.items()})
        if found is not None:
            left[0] = False
            victim = sites[found]
            processes[victim.name].kill()
            processes[victim.name].wait()
            say(f"{victim.name}: killed after it trained; starting it again (flower lets it in when it has missed it)")
            processes[victim.name] = _hospital(victim, place, seed)

    for line in desk.follow(folder, pause=pause):
        say(line)
    if left[0]:
        raise _failed("no hospital was ahead of the others, so none was killed: start the demonstration again", place)
    if folder.standing().state != "finished":
        raise _failed(folder.standing().detail or "the run did not finish", place)
    return folder.run_id


def ahead(logs: Mapping[str, Path]) -> str | None:
    """A hospital that has trained in a round in which another one still has to; None while there is none."""
    rounds = {name: _trained(log) for name, log in logs.items()}
    return next((name for name, number in sorted(rounds.items()) if number > min(rounds.values())), None)


def _trained(log: Path) -> int:
    """The last round in which this hospital has answered a question to train."""
    answered = (one for one in events(log) if one["event"] == "answered")
    return max((one["round"] for one in answered if one["kind"] == "train"), default=0)


def _wait(ready: Callable[[], bool], who: str, place: Path) -> None:
    end = time.monotonic() + START_S
    while not ready():
        if time.monotonic() > end:
            raise _failed(f"{who} did not start", place)
        time.sleep(0.2)


def _failed(what: str, place: Path) -> CarrierError:
    return CarrierError("daemon-away", what, hint=f"the logs are in {place}")


# What the processes of a party do.


def _be_hospital(folder: Path, seed: int) -> None:
    """`wardround site run`, with a made hospital's store and noise that follows from the seed."""
    from client.daemon import Carrier, Daemon, OneThread
    from federation import canonical
    from federation.plan import plan_from_value
    from sim.virtual_site import open_base, open_site

    plan = plan_from_value(canonical.load((folder / "plan.json").read_bytes()))
    opened = SiteFolder(folder)
    thread = OneThread()
    base = thread.call(lambda: open_base(plan, BASE, threads=1))
    private = plan.privacy.unit != "none"
    identity = partial(opened.identity, opened.settings().site.id)
    site = thread.call(lambda: open_site(folder / "sim", folder / "state", base, private=private, identity=identity))
    Daemon(
        opened.door(site, clock=time.time),
        folder,
        Carrier(opened.address(), folder / CA, folder / TRANSPORT),
        thread=thread,
        approve=lambda digest, by: None,
        metrics_port=0,
    ).run_until_signal()


def _launch(folder: Path, seed: int) -> None:
    """`wardround coordinator launch`, with the run id that the simulator gives this plan and seed."""
    from federation import canonical
    from federation.plan import plan_from_value
    from server import desk

    plan = plan_from_value(canonical.load((folder / "plan.json").read_bytes()))
    end = time.monotonic() + START_S
    while True:
        try:
            desk.launch(folder, plan, SeededKeys(seed).child("coordinator"))
            return
        except CarrierError:
            if time.monotonic() > end:
                raise
            shutil.rmtree(folder / "runs", ignore_errors=True)
            time.sleep(1.0)


def main() -> None:
    """`python -m sim.deployment [--out DIR]`, and the parts that it starts of itself."""
    parser = argparse.ArgumentParser(prog="sim.deployment", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["run", "hospital", "launch"], default="run")
    parser.add_argument("--out", type=Path, default=Path("out/deployment"))
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-kill", action="store_true")
    parser.add_argument("--no-compare", action="store_true")
    given = parser.parse_args()
    if given.part == "hospital":
        return _be_hospital(given.folder, given.seed)
    if given.part == "launch":
        return _launch(given.folder, given.seed)
    told = run(
        given.out, plan_file=given.plan, seed=given.seed, kill=not given.no_kill, compare=not given.no_compare,
        say=Talk().line,
    )  # fmt: skip
    for name, value in told.items():
        print(f"{name:<10} {value}")
    if told["simulated"] and told["deployed"] != told["simulated"]:
        sys.exit("wardround: error: the deployed adapter is not the simulated one")


if __name__ == "__main__":
    main()
