"""What a site keeps of a masked round, and what it answers only once, also across a restart."""

from dataclasses import replace

import numpy as np
import pytest

from client.policy import Policy
from federation import canonical, codec
from federation.adapter import AdapterUpdate, initial_adapter
from federation.consent import PROTOCOL
from federation.messages import Payload, Question
from federation.plan import parse_plan
from sim.vectors import SHAPES, patients_of, roster_of, vector_site

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 5
[model]
path = "base"
[privacy]
unit = "none"
[aggregation]
max_update_rms = 100.0
""")
NAMES = ("site-a", "site-b", "site-c")
POLICY = Policy(epsilon_max=1.0, approve="matching", quorum_min=1, allow_without_privacy=True)
WEIGHTS = dict.fromkeys(NAMES, 255)


class Hospitals:
    """Three sites, asked by hand."""

    def __init__(self, folder):
        self.folder, self.sites = folder, {}
        self.restart(*NAMES)

    def restart(self, *names):
        for name in names:
            if name in self.sites:
                self.sites[name].ledger.close()
            self.sites[name] = vector_site(
                name, self.folder / name, patients_of(name), shapes=SHAPES, policy=POLICY, roster=roster_of(NAMES)
            )

    def ask(self, kind, body=None, *, site="site-a", number=1, payload=None):
        return self.sites[site].answer(Question(kind, "run-1", number, site, PLAN.digest(), body or {}, payload))

    def train(self, number=1):
        adapter = Payload(codec.dump(initial_adapter(SHAPES, a_init="kaiming", seed=0)))
        consent = {"plan": PLAN.value(), "protocol": PROTOCOL, "quorum": 3}
        for site in NAMES:
            assert self.ask("consent", consent, site=site, number=number).kind == "consent"
            assert self.ask("train", site=site, number=number, payload=adapter).kind == "trained"

    def ready(self, number=1, **changes):
        return [self.ask("ready", begin(**changes), site=site, number=number) for site in NAMES]

    def masked(self, number=1):
        """Up to the masked vectors."""
        bundle = [dict(answer.body) for answer in self.ready(number)]
        shares = {site: self.ask("shares", {"ready": bundle}, site=site, number=number) for site in NAMES}
        return {
            site: self.ask(
                "masked",
                {"boxes": {o: shares[o].body["body"]["boxes"][site] for o in NAMES if o != site}},
                site=site, number=number,
            )
            for site in NAMES
        }  # fmt: skip

    def evidence(self, site="site-a"):
        folder = self.folder / site / "state" / "evidence"
        return {path.name: canonical.load(path.read_bytes()) for path in folder.iterdir()} if folder.exists() else {}


def begin(bits=32, weights=WEIGHTS, bounds=None):
    return {"encoding": {"bits": bits, "bounds": bounds or dict.fromkeys(SHAPES, "0.5"), "weights": weights}}


def code(answer) -> str:
    assert answer.kind == "failure" and answer.payload is None and set(answer.body) == {"code"}
    return answer.body["code"]


@pytest.fixture
def hospitals(tmp_path):
    made = Hospitals(tmp_path)
    yield made
    for site in made.sites.values():
        site.ledger.close()


def files(hospitals, site="site-a"):
    return {path.name for path in (hospitals.folder / site / "state" / "runs" / "run-1").iterdir()}


def test_training_keeps_the_update_and_tells_only_that_it_is_done(hospitals):
    hospitals.train()

    assert "odd.update" in files(hospitals)
    assert not any(b"lora" in path.read_bytes() for path in (hospitals.folder / "site-a/state/runs").rglob("*.answer"))


def test_after_masking_the_update_is_gone_and_the_vector_is_kept(hospitals):
    hospitals.train()
    answers = hospitals.masked()

    assert {answer.kind for answer in answers.values()} == {"masked"}
    assert "odd.update" not in files(hospitals) and "odd.masked" in files(hospitals)


def test_the_same_question_gets_the_same_bytes_also_after_a_restart(hospitals):
    hospitals.train()
    first = hospitals.masked()["site-a"]
    again = hospitals.masked()["site-a"]
    hospitals.restart("site-a")
    boxes = {
        o: next(
            a for a in hospitals.sites[o].masking._answered["run-1"].values() if a.kind == "shares"
        ).body["body"]["boxes"]["site-a"]
        for o in NAMES[1:]
    }  # fmt: skip
    after = hospitals.ask("masked", {"boxes": boxes})

    assert first == again == after and first.payload.data == after.payload.data


def test_a_round_begins_once_ever(hospitals):
    hospitals.train()
    hospitals.ready()
    other = begin(weights=WEIGHTS | {"site-c": 200})
    asked_differently = code(hospitals.ask("ready", other))
    hospitals.restart("site-a")

    assert asked_differently == "secagg-replayed-round"
    assert code(hospitals.ask("ready", begin())) == "secagg-replayed-round"
    assert hospitals.evidence()["run-1.1.json"]["code"] == "secagg-replayed-round"


def test_the_same_update_is_not_masked_again_for_a_smaller_roster(hospitals):
    hospitals.train()
    hospitals.masked()

    assert code(hospitals.ask("ready", begin(weights=dict.fromkeys(NAMES, 1)))) == "secagg-already-released"


def test_an_earlier_round_cannot_be_opened_again(hospitals):
    hospitals.train(1)
    hospitals.train(2)
    hospitals.ready(2)

    assert code(hospitals.ask("ready", begin(), number=1)) == "secagg-replayed-round"


def test_a_later_round_ends_the_one_before_and_its_secrets(hospitals):
    hospitals.train(1)
    hospitals.ready(1)
    first = hospitals.sites["site-a"].masking._open["run-1"].round
    hospitals.train(2)
    hospitals.ready(2)

    assert first.is_over and first._secrets is None
    assert code(hospitals.ask("shares", {"ready": []}, number=1)) == "secagg-closed"


@pytest.mark.parametrize(
    "body, expected",
    [
        (begin(bits=64), "secagg-not-canonical"),
        (begin(bounds={"m.lora_A.weight": "0.5"}), "secagg-not-canonical"),
        (begin(bounds=dict.fromkeys(SHAPES, "0.0")), "secagg-not-canonical"),
        (begin(bounds=dict.fromkeys(SHAPES, "inf")), "not-canonical"),
        (begin(weights=WEIGHTS | {"site-c": 256}), "secagg-not-canonical"),
        (begin(weights={"site-a": 255, "site-b": 255}), "secagg-wrong-context"),
        (begin(weights={"site-a": 255, "site-b": 1, "site-c": 1}), "secagg-wrong-context"),
        (begin(weights={"site-b": 1, "site-c": 1, "site-d": 1}), "secagg-wrong-context"),
        (begin(weights=WEIGHTS | {"site-d": 255}), "secagg-unknown-site"),
        ({}, "secagg-wrong-context"),
        (begin() | {"more": 1}, "secagg-wrong-context"),
    ],
)
def test_an_encoding_that_does_not_fit_the_plan_is_refused_and_costs_nothing(hospitals, body, expected):
    hospitals.train()

    assert code(hospitals.ask("ready", body)) == expected
    assert hospitals.ask("ready", begin()).kind == "ready"


def test_a_plan_of_32_bits_is_never_asked_for_16(hospitals):
    hospitals.train()
    wide = replace(PLAN, aggregation=replace(PLAN.aggregation, ring_bits=32))
    site = hospitals.sites["site-a"]
    site._runs["run-1"] = replace(site._runs["run-1"], plan=wide)
    asked = Question("ready", "run-1", 1, "site-a", wide.digest(), begin(bits=16))

    assert code(site.answer(asked)) == "secagg-wrong-context"


def test_a_plan_with_groups_is_never_masked_with_fewer_sites(hospitals):
    hospitals.train()
    grouped = replace(PLAN, aggregation=replace(PLAN.aggregation, group_size=5))
    site = hospitals.sites["site-a"]
    site._runs["run-1"] = replace(site._runs["run-1"], plan=grouped)
    asked = Question("ready", "run-1", 1, "site-a", grouped.digest(), begin())

    assert code(site.answer(asked)) == "secagg-wrong-context"


def test_without_training_there_is_nothing_to_mask(hospitals):
    hospitals.train()

    assert code(hospitals.ask("ready", begin(), number=2)) == "secagg-wrong-context"
    assert code(hospitals.ask("shares", {"ready": []})) == "secagg-closed"


def test_what_was_refused_is_kept_word_for_word(hospitals):
    hospitals.train()
    bundle = [dict(answer.body) for answer in hospitals.ready()]
    forged = {"ready": [bundle[0], {**bundle[1], "signature": "00" * 64}, bundle[2]]}

    assert code(hospitals.ask("shares", forged)) == "secagg-bad-signature"
    kept = hospitals.evidence()["run-1.1.json"]
    assert kept["code"] == "secagg-bad-signature" and canonical.load(kept["question"].encode())["body"] == forged
    assert code(hospitals.ask("shares", {"ready": bundle})) == "secagg-closed"


def test_an_update_with_nan_never_gets_as_far(hospitals):
    site = hospitals.sites["site-a"]
    update = site.learner.update
    site.learner.update = lambda *given: AdapterUpdate(
        {name: array * np.float32("nan") for name, array in update(*given).arrays.items()}
    )
    with pytest.raises(AssertionError):
        hospitals.train()

    assert "odd.update" not in files(hospitals)
