"""A simulated federation signs like a real one, also when a site goes wrong on demand."""

import contextlib

import numpy as np
import pytest

from client.policy import Policy
from federation.plan import parse_plan
from federation.trust.keys import SigningKey
from server import evidence, rounds
from server.checkpoint import Checkpoints
from server.signed_link import SignedLink
from server.verify import require_passed, verify
from sim.faults import FaultyLink, parse_fault
from sim.links import LocalLink
from sim.trust import clock, door, establish
from sim.vectors import vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
SITES = ("north", "south", "west")
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 2
quorum = 2
[model]
path = "base"
[privacy]
noise_multiplier = 4.0
[aggregation]
secure = false
max_update_rms = 100.0
""")
POLICY = Policy(epsilon_max=50.0, approve="matching", quorum_min=1)
# What the coordinator notes of a site with this fault in round 2. A stale answer is a signed one, of the round before.
NOTED = {
    "nan": "update-not-finite", "huge": "update-norm", "wrong-shape": "update-shape", "corrupt": "not-canonical",
    "drop": "no-answer", "stale": "wrong-round", "duplicate": None,
}  # fmt: skip


def run(out, fault: str):
    folders = {site: out / "sites" / site for site in SITES}
    patients = np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    sites = {site: vector_site(site, folders[site], patients, shapes=SHAPES, policy=POLICY) for site in SITES}
    trust = establish(out, folders, 0)
    checkpoints = Checkpoints.create(out / "run", run_id="demo-1", plan=PLAN)
    with contextlib.ExitStack() as open_:
        for site in sites.values():
            open_.callback(site.ledger.close)
        doors = {site: door(folders[site], plain) for site, plain in sites.items()}
        for one in doors.values():
            open_.enter_context(one.log)
        log = open_.enter_context(evidence.open_log(checkpoints, trust.signed, trust.log))
        faulty = FaultyLink(LocalLink(doors), [parse_fault(fault)], sign=trust.sign)
        link = SignedLink(faulty, trust.coordinator, [trust.signed], log, clock=clock)
        result = rounds.run(
            PLAN, link, checkpoints, observer=lambda record, adapter: evidence.record_rounds(log, checkpoints)
        )
    require_passed(verify(out))
    return result


@pytest.mark.parametrize("kind", NOTED)
def test_a_site_that_goes_wrong_is_named_and_the_run_still_verifies(tmp_path, kind):
    last = run(tmp_path, f"south={kind}@2").rounds[-1]

    assert last.failures == ({} if NOTED[kind] is None else {"south": NOTED[kind]})
    assert last.accepted == (SITES if NOTED[kind] is None else ("north", "west"))


def test_keys_follow_from_the_seed_and_stay_for_a_resumed_run(tmp_path):
    def made(name: str, seed: int | None) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        return establish(tmp_path / name, {"north": tmp_path / name / "north"}, seed).signed.roster.digest()

    assert made("a", 1) == made("b", 1) != made("c", 2)
    assert made("d", None) == made("d", None) != made("e", None)


def test_every_key_is_secret_and_has_one_place(tmp_path):
    establish(tmp_path, {site: tmp_path / site for site in SITES}, None)
    keys = sorted(tmp_path.rglob("*.key"))

    assert all(path.stat().st_mode & 0o777 == 0o600 for path in keys)
    assert len({SigningKey.load(path).public for path in keys}) == len(keys) == 4 + 2 * len(SITES)
