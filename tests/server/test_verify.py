"""`wardround verify`: a whole run passes, and one changed byte anywhere is named by the step that found it."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from client.policy import Policy
from federation import canonical
from federation.errors import TrustError
from federation.plan import parse_plan
from federation.trust import roster as rosters
from federation.trust.keys import SigningKey
from federation.trust.roster import SignedRoster
from server import evidence, rounds
from server.checkpoint import Checkpoints
from server.signed_link import SignedLink
from server.verify import require_passed, verify
from sim.links import LocalLink
from sim.trust import clock, door, establish, identity
from sim.vectors import vector_site
from sim.wardround import call

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
SITES = ("north", "south")
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 2
[model]
path = "base"
[training]
local_steps = 2
[privacy]
noise_multiplier = 4.0
[aggregation]
secure = false
max_update_rms = 100.0
server_optimizer = "adam"
ema_decay = 0.8
""")
POLICY = Policy(epsilon_max=50.0, approve="matching", quorum_min=1)


MASKED = replace(PLAN, aggregation=replace(PLAN.aggregation, secure=True))
THREE = ("north", "south", "west")


def run_once(out: Path, *, seed: int = 0, plan=PLAN, names=SITES) -> None:
    """A signed run of a few vector sites, and a report of the few things that verify looks at."""
    out.mkdir()
    folders = {site: out / "sites" / site for site in names}
    patients = np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    trust = establish(out, folders, seed)
    sites = {
        site: vector_site(
            site, folders[site], patients, shapes=SHAPES, policy=POLICY,
            identity=partial(identity, folders[site], site) if plan.aggregation.secure else None,
        )
        for site in names
    }  # fmt: skip
    checkpoints = Checkpoints.create(out / "run", run_id="demo-1", plan=plan)
    doors = {site: door(folders[site], plain) for site, plain in sites.items()}
    with evidence.open_log(checkpoints, trust.signed, trust.log) as log:
        link = SignedLink(LocalLink(doors), trust.coordinator, [trust.signed], log, clock=clock)
        result = rounds.run(
            plan, link, checkpoints, roster=trust.signed.roster.identities(),
            observer=lambda record, adapter: evidence.record_rounds(log, checkpoints),
        )  # fmt: skip
        report = {
            "run_id": result.run_id,
            "plan_digest": result.plan_digest,
            "adapter": {"digest": result.adapter.digest()},
            "rounds": [{} for _ in result.rounds],
            "sites": {
                site: {"epsilon": terms.epsilon_after_round}
                for site, terms in result.rounds[-1].privacy.items()
                if terms
            },
        }
        (out / "report.json").write_text(json.dumps(report))
        (out / "adapter").mkdir()
        (out / "adapter" / "weights").write_bytes(b"weights")
        evidence.release(log, out, ["report.json", "adapter/weights"], adapter=result.adapter.digest())
    for site in names:
        sites[site].ledger.close()
        doors[site].log.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("verify") / "out"
    run_once(out)
    return out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def failed(folder: Path, **options) -> tuple[str, str]:
    """Which step failed, and what it says."""
    last = verify(folder, **options)[-1]
    assert not last.passed
    with pytest.raises(TrustError) as caught:
        require_passed([last])
    assert caught.value.code == "evidence-damaged"
    return last.name, last.says


def test_an_honest_run_passes_every_step(finished):
    steps = verify(finished)
    require_passed(steps)

    assert [step.name for step in steps] == [
        "roster", "log", "members", "messages", "witnesses", "files", "rounds", "masked", "privacy", "release",
    ]  # fmt: skip
    assert verify(finished / "run") == steps  # the run's own folder may be named


def test_the_officers_words_are_compared_if_they_are_given(finished):
    words = rosters.load((finished / "run" / "roster.json").read_bytes()).roster.officers_words()

    require_passed(verify(finished, words=words))
    assert failed(finished, words="abandon " * 12)[0] == "roster"


def files(folder: Path) -> list[Path]:
    kept = [folder / "report.json", *(folder / "adapter").iterdir()]
    return sorted([*kept, *(path for path in (folder / "run").rglob("*") if path.is_file())])


def test_one_changed_byte_in_any_file_is_found(copy):
    for path in files(copy):
        whole = path.read_bytes()
        for place in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            changed = bytearray(whole)
            changed[place] ^= 1
            path.write_bytes(changed)
            steps = verify(copy)
            assert not steps[-1].passed, f"{path.name} at {place}"
        path.write_bytes(whole)
    require_passed(verify(copy))


def test_a_missing_or_added_file_is_found(copy):
    for path in files(copy):
        whole = path.read_bytes()
        path.unlink()
        if path.name == "run.json":
            with pytest.raises(TrustError):
                verify(copy)
        else:
            assert not verify(copy)[-1].passed, path.name
        path.write_bytes(whole)
    (copy / "run" / "evaluation.json").write_bytes(b"x")
    assert failed(copy) == ("release", "run/evaluation.json was not released")
    (copy / "run" / "evaluation.json").unlink()
    (copy / "adapter" / "extra").write_bytes(b"x")
    assert failed(copy) == ("release", "adapter/extra was not released")
    (copy / "run" / "extra").write_bytes(b"x")
    assert failed(copy) == ("files", "run/extra belongs to no round")


def test_what_a_crash_left_behind_is_no_fault(copy):
    leftover = b"a state that was never committed"
    (copy / "run" / "objects" / f"{hashlib.sha256(leftover).hexdigest()}.json").write_bytes(leftover)
    (copy / "run" / "HEAD.part").write_bytes(b"half a head")

    require_passed(verify(copy))


def test_a_run_that_went_on_under_later_rosters_passes(copy):
    first = rosters.load((copy / "run" / "roster.json").read_bytes())
    versions = [first]
    for _ in range(2):
        later = SignedRoster(rosters.successor(versions[-1].roster, issued_s=clock()))
        for officer in ("officer-1", "officer-2"):
            later = later.signed_by(SigningKey.load(copy / "trust" / f"{officer}.key"))
        versions.append(later)
    checkpoints = Checkpoints.open(copy / "run")
    evidence.open_log(checkpoints, versions[-1], log_key(), versions=versions).close()
    steps = verify(copy)

    require_passed(steps)
    assert steps[2].says.startswith("3 roster(s)")


def log_key() -> SigningKey:
    from sim.keys import SeededKeys

    return SigningKey.from_seed(SeededKeys(0).key("signing/log"))


def rewrite(folder: Path, change) -> None:
    """The coordinator itself rewrites its log, with a head that it signs anew: what only signatures of others show."""
    from federation import canonical
    from federation.trust.translog import TransLog

    lines = [canonical.load(line)["entry"] for line in (folder / "run/log/log.jsonl").read_bytes().splitlines()]
    shutil.rmtree(folder / "run" / "log")
    with TransLog.open(folder / "run" / "log", "simulation/demo-1", log_key()) as log:
        log.append(*change(lines))


def without(kind: str):
    return lambda lines: [line for line in lines if line["type"] != kind]


def test_a_coordinator_that_rewrites_its_own_log_is_found(copy, finished):
    def drop_one_answer(lines):
        at = next(i for i, line in enumerate(lines) if line["type"] == "answer")
        return [*lines[:at], *lines[at + 1 :]]

    def forge_an_answer(lines):
        at = next(i for i, line in enumerate(lines) if line["type"] == "answer")
        forged = {**lines[at], "statement": {**lines[at]["statement"], "message": "0" * 64}}
        return [*lines[:at], forged, *lines[at + 1 :]]

    for change, step, says in (
        (drop_one_answer, "messages", "head"),
        (forge_an_answer, "messages", "the signature of this answer does not fit"),
        (without("round"), "messages", "head"),
        (without("roster"), "members", "not the last one"),
        (without("question"), "messages", "was not asked"),
    ):
        rewrite(copy, change)
        name, said = failed(copy)
        assert name == step and says in said
        shutil.rmtree(copy)
        shutil.copytree(finished, copy)


def test_a_sites_log_shows_a_second_history(copy, finished, tmp_path):
    """The coordinator makes the same run again, with everybody's keys but without north's memory of the first."""
    seen = [finished / "sites" / site / "trust" / "log" / "log.jsonl" for site in SITES]
    assert verify(finished, site_logs=seen)[4].says == "2 site logs with 8 questions agree"

    run_once(tmp_path / "other", seed=0)
    other = [tmp_path / "other" / "sites" / "north" / "trust" / "log" / "log.jsonl"]
    name, said = failed(copy, site_logs=other)
    assert name == "witnesses" and ("signed question" in said or "contradict" in said)


def test_a_masked_run_shows_who_agreed_on_each_sum_and_makes_the_last_mean_again(tmp_path):
    run_once(tmp_path / "out", plan=MASKED, names=THREE)
    steps = {step.name: step for step in verify(tmp_path / "out")}

    assert all(step.passed for step in steps.values()), steps
    assert (
        steps["masked"].says == "2 masked sums, each agreed on by its survivors; the last mean recomputed bit for bit"
    )


def test_what_is_changed_in_a_masked_rounds_transcript_or_vectors_is_found(tmp_path):
    run_once(tmp_path / "out", plan=MASKED, names=THREE)
    masked = tmp_path / "out" / "run" / "masked"
    first, last = masked / "00001.json", masked / "00002.json"

    def says(path, change) -> str:
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        name, said = failed(tmp_path / "out")
        path.write_bytes(whole)
        assert name == "masked"
        return said

    def without_one(stage):
        def change(data):
            told = canonical.load(data)
            return canonical.dump({**told, stage: told[stage][1:]})

        return change

    def another_survivor(data):
        told = canonical.load(data)
        told["agree"][0]["body"]["survivors"] = ["north", "south"]
        return canonical.dump(told)

    assert "another round" in says(first, lambda data: last.read_bytes())
    assert "did not sign" in says(first, another_survivor)
    assert "survivors" in says(first, without_one("masked"))
    assert "too few sites agree" in says(last, lambda data: without_one("agree")(without_one("agree")(data)))
    assert "another mean" in says(last, lambda data: data.replace(canonical.load(data)["result"].encode(), b"0" * 64))
    assert "south" in says(masked / "vectors" / "south.vector", lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    first.unlink()
    assert failed(tmp_path / "out")[0] == "masked"


def test_an_understated_epsilon_is_found(copy, monkeypatch):
    """Terms are signed inside a consent; here the check itself is tried on a record that understates."""
    checkpoints = Checkpoints.open(copy / "run")
    state, record = checkpoints.history()[-1]
    less = {site: replace(terms, epsilon_after_round=0.0) for site, terms in record.privacy.items() if terms}
    forged = ((state, replace(record, privacy=less)),)
    monkeypatch.setattr(Checkpoints, "history", lambda self: forged)

    assert "epsilon" in _privacy_says(copy)


def _privacy_says(folder: Path) -> str:
    from server import verify as verifying

    this = verifying._Run(folder, None)
    this.checkpoints = Checkpoints.open(folder / "run")
    this.history = this.checkpoints.history()
    with pytest.raises(TrustError) as caught:
        verifying._privacy(this)
    return caught.value.message


def test_signatures_change_nothing_of_the_result(finished, tmp_path):
    patients = np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    sites = {site: vector_site(site, tmp_path / site, patients, shapes=SHAPES, policy=POLICY) for site in SITES}
    plain = rounds.run(PLAN, LocalLink(sites), Checkpoints.create(tmp_path / "run", run_id="demo-1", plan=PLAN))
    for site in sites.values():
        site.ledger.close()

    assert plain.adapter.digest() == json.loads((finished / "report.json").read_text())["adapter"]["digest"]


def test_equal_seeds_sign_equal_bytes(finished, tmp_path):
    """Up to the first round's record, which holds how long it took."""
    run_once(tmp_path / "again")

    def said(folder: Path) -> list[bytes]:
        lines = (folder / "run/log/log.jsonl").read_bytes().splitlines()
        return lines[: next(i for i, line in enumerate(lines) if b'"type":"round"' in line)]

    assert len(said(finished)) == 10 and said(tmp_path / "again") == said(finished)


def test_the_command_says_it_in_plain_words_and_in_json(finished, copy, capsys):
    assert call(["verify", str(finished)]) == 0
    told = capsys.readouterr().out
    assert told.count("\nok") == 9 and told.splitlines()[-1].startswith("not shown:")
    assert call(["verify", str(finished), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True

    (copy / "report.json").write_text("{}")
    assert call(["verify", str(copy)]) == 20
    told = capsys.readouterr()
    assert "WRONG release" in told.out and "wardround: error: release: report.json" in told.err


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(TrustError) as caught:
        verify(tmp_path)

    assert caught.value.code == "evidence-damaged"
