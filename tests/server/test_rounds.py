"""The whole run over the in-process Link, with real sites."""

from dataclasses import replace

import numpy as np
import pytest

from federation import codec
from federation.adapter import AdapterUpdate, initial_adapter
from federation.errors import GateError, QuorumError, StoreError
from federation.plan import parse_plan
from server import rounds
from server.checkpoint import Checkpoints
from server.start import seed_of
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.vectors import POLICY, SHAPES, patients_of

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
quorum = 2
[model]
path = "base"
[training]
local_steps = 2
learning_rate = 0.5
[privacy]
unit = "none"
[aggregation]
weights = "declared-patients"
robust = "none"
secure = false
""")
NOISY = replace(
    PLAN,
    privacy=replace(PLAN.privacy, unit="patient", noise_multiplier=2.0),
    aggregation=replace(PLAN.aggregation, max_update_rms=100.0),
)
ROLORA = replace(PLAN, adapter=replace(PLAN.adapter, method="rolora"))
STACK = replace(PLAN, adapter=replace(PLAN.adapter, method="stack", rank=2))
SGD = replace(
    NOISY,
    training=replace(NOISY.training, optimizer="sgd"),
    privacy=replace(NOISY.privacy, noise_multiplier=50.0),
    aggregation=replace(NOISY.aggregation, weights="equal"),
)
# As with real adapters, the noise of 3200 numbers is longer than what clipping leaves of the patients.
WIDE = {"shapes": {"m.lora_A.weight": (8, 200), "m.lora_B.weight": (200, 8)}, "numbers": 3200}
FFA = replace(PLAN, adapter=replace(PLAN.adapter, method="ffa"))
ADAM = replace(PLAN, aggregation=replace(PLAN.aggregation, server_optimizer="adam", server_learning_rate=0.1))
AVERAGED = replace(ADAM, aggregation=replace(ADAM.aggregation, ema_decay=0.5))
DECLARED = {"site-a": 100, "site-b": 200, "site-c": 300}


def start(plan) -> np.ndarray:
    return initial_adapter(SHAPES, a_init=plan.adapter.a_init, seed=seed_of(plan)).flatten()


def by_hand(plan, sites=DECLARED, rounds_=3) -> np.ndarray:
    """FedAvg of gradient descent on ½‖θ − x‖²: each local step halves the way to the site's mean patient."""
    point = start(plan).astype(np.float64)
    weights = {site: round(255 * declared / 300) for site, declared in sites.items()}
    for _ in range(rounds_):
        moved = {site: (1 - 0.5**2) * (patients_of(site).mean(axis=0) - point) for site in sites}
        point += sum(weights[site] * moved[site] for site in sites) / sum(weights.values())
    return point


def test_without_noise_the_federation_is_the_weighted_mean_by_hand(federation):
    result = federation().run()

    np.testing.assert_allclose(result.adapter.flatten(), by_hand(PLAN), atol=1e-5)  # float32, 6 steps


def test_equal_sites_together_are_one_site_alone(federation):
    whole = federation()
    one = patients_of("site-a")
    for site in whole.sites.values():
        site.learner._patients = one
    point = start(PLAN).astype(np.float64)
    for _ in range(6):
        point += 0.5 * (one.mean(axis=0) - point)

    np.testing.assert_allclose(whole.run().adapter.flatten(), point, atol=1e-5)


def test_ffa_leaves_a_at_its_start_bit_for_bit(federation):
    result = federation(FFA, numbers=6).run()
    first = initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(FFA))

    assert result.adapter.arrays["m.lora_A.weight"].tobytes() == first.arrays["m.lora_A.weight"].tobytes()
    assert result.adapter.arrays["m.lora_B.weight"].any()


def test_rolora_moves_b_in_odd_rounds_and_a_in_even_ones_and_rests_the_other_bit_for_bit(federation):
    after = []
    federation(ROLORA, numbers=6).run(lambda record, adapter: after.append(adapter.arrays))
    start_a = initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(ROLORA)).arrays
    moved = [
        {name[7] for name in SHAPES if before[name].tobytes() != now[name].tobytes()}
        for before, now in zip([start_a, *after[:-1]], after, strict=True)
    ]

    assert moved == [{"B"}, {"A"}, {"B"}]


def test_under_rolora_a_site_that_sends_the_resting_factor_is_named(federation):
    whole = federation(ROLORA, numbers=6)
    learner = whole.sites["site-b"].learner
    update = learner.update
    learner.update = lambda plan, factors, *rest: update(plan, frozenset({"A", "B"}) - factors, *rest)
    result = whole.run()

    assert [record.failures for record in result.rounds] == [{"site-b": "update-shape"}] * 3


def test_under_stack_a_site_trains_the_rank_it_has_room_for_and_sends_no_more(federation):
    whole = federation(STACK, policies={"site-b": replace(POLICY, rank_max=1)})
    whole.sites["site-b"].learner._patients = patients_of("site-b", 6)
    result = whole.run()
    first = result.rounds[0]

    assert first.accepted == tuple(DECLARED) and result.adapter.shapes == SHAPES
    assert first.uplink_bytes["site-b"] < first.uplink_bytes["site-a"]
    assert first.downlink_bytes["site-b"] < first.downlink_bytes["site-a"]
    assert 0 <= float(first.gate["energy_cut"]) < 1


def test_a_rank_above_a_sites_limit_is_refused_by_every_other_method(federation):
    result = federation(FFA, numbers=6, policies={"site-b": replace(POLICY, rank_max=1)}).run()

    assert result.rounds[0].refusals == {"site-b": ("rank_too_large",)}


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "plan", [PLAN, NOISY, ADAM, AVERAGED, STACK], ids=["open", "noisy", "server adam", "averaged", "stack"]
)
@pytest.mark.parametrize("after", [1, 2])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(federation, plan, after):
    def stop(record, adapter):
        if record.round_number == after:
            raise Stopped

    whole = federation(plan, "whole").run()
    halved = federation(plan, "halved")
    with pytest.raises(Stopped):
        halved.run(stop)
    resumed = halved.run()

    assert resumed.adapter.digest() == whole.adapter.digest()
    assert [r.adapter_digest for r in resumed.rounds] == [r.adapter_digest for r in whole.rounds]
    assert resumed.rounds[-1].result_digest == resumed.adapter.digest()


def test_a_run_gives_out_the_mean_of_its_adapters_and_trains_on_from_the_last(federation):
    given = []
    result = federation(AVERAGED).run(lambda record, adapter: given.append(adapter.flatten()))
    last = federation(ADAM, "last").run()

    assert [r.adapter_digest for r in result.rounds] == [r.adapter_digest for r in last.rounds]
    assert [r.result_digest for r in last.rounds] == [r.adapter_digest for r in last.rounds]
    assert result.adapter.digest() != last.adapter.digest()
    np.testing.assert_array_equal(given[-1], result.adapter.flatten())


def test_a_coordinator_killed_before_its_commit_asks_again_and_costs_nothing(federation):
    whole = federation(NOISY, "whole").run()
    killed = federation(NOISY, "killed")
    checkpoints = Checkpoints.create(killed.folder / "run", run_id="run-1", plan=NOISY)
    checkpoints._write = lambda path, pieces: (_ for _ in ()).throw(Stopped())
    with pytest.raises(Stopped):
        rounds.run(NOISY, killed.link, checkpoints)
    resumed = killed.run()

    assert resumed.adapter.digest() == whole.adapter.digest()
    assert {len(site.ledger.spends()) for site in killed.sites.values()} == {3}
    assert {site.learner.updates for site in killed.sites.values()} == {3}


@pytest.mark.parametrize(
    "kind, code",
    [
        ("nan", "update-not-finite"),
        ("huge", "update-norm"),
        ("wrong-shape", "update-shape"),
        ("drop", "no-answer"),
        ("corrupt", "not-canonical"),
        ("stale", "message-context"),
    ],
)
def test_a_site_that_goes_wrong_is_named_and_left_out_and_the_round_goes_on(federation, kind, code):
    result = federation(PLAN, faults=[f"site-b={kind}@2"]).run()
    second = result.rounds[1]

    assert second.failures == {"site-b": code} and second.accepted == ("site-a", "site-c")
    assert result.rounds[2].accepted == ("site-a", "site-b", "site-c")
    assert np.isfinite(result.adapter.flatten()).all()


def test_a_site_whose_answer_was_left_out_is_told_so_in_the_next_round(federation):
    one, heard = federation(PLAN, faults=["site-b=nan@1"]), []
    for site in one.sites.values():
        ask = site.answer

        def listen(question, ask=ask):
            heard.append((question.kind, question.round_number, question.site_id, question.body.get("previous")))
            return ask(question)

        site.answer = listen
    one.run()

    told = [entry for entry in heard if entry[3] is not None]
    assert told == [("consent", 2, "site-b", {"round_number": 1, "outcome": "update-not-finite"})]


def test_a_faulty_update_leaves_no_trace_in_the_mean(federation):
    one_round = replace(PLAN, run=replace(PLAN.run, rounds=1))
    wrong = federation(one_round, faults=["site-b=nan@1"]).run()
    expected = by_hand(one_round, {"site-a": 100, "site-c": 300}, rounds_=1)

    np.testing.assert_allclose(wrong.adapter.flatten(), expected, atol=1e-5)


def test_a_duplicate_counts_once(federation):
    assert (
        federation(PLAN, "twice", faults=["site-a=duplicate@1"]).run().adapter.digest()
        == federation(PLAN, "once").run().adapter.digest()
    )


def test_below_the_quorum_nothing_of_the_round_stays(federation):
    whole = federation(PLAN, faults=["site-a=nan@2", "site-b=drop@2"])
    with pytest.raises(QuorumError) as caught:
        whole.run()
    kept = Checkpoints.open(whole.folder / "run").last()

    assert caught.value.code == "quorum-answers"
    assert "site-a: update-not-finite" in caught.value.message and "site-b: no-answer" in caught.value.message
    assert kept.round_number == 1 and len(list((whole.folder / "run" / "objects").iterdir())) == 2
    whole.link = LocalLink(whole.sites)
    assert whole.run().adapter.digest() == federation(PLAN, "without faults").run().adapter.digest()


def test_a_refusal_is_a_value_and_the_others_go_on(federation):
    strict = {"site-b": replace(POLICY, allow_without_privacy=False)}
    result = federation(PLAN, policies=strict).run()

    assert result.rounds[0].refusals == {"site-b": ("privacy_off",)}
    assert result.rounds[0].participants == ("site-a", "site-c")


def test_too_few_consents_stop_the_run_before_anybody_trains(federation):
    strict = {site: replace(POLICY, allow_without_privacy=False) for site in ("site-a", "site-b")}
    whole = federation(PLAN, policies=strict)
    with pytest.raises(QuorumError) as caught:
        whole.run()

    assert caught.value.code == "quorum-consent" and "privacy_off" in caught.value.message
    assert whole.sites["site-c"].learner.updates == 0


def test_a_quorum_that_no_link_can_reach_is_said_at_once(federation):
    with pytest.raises(QuorumError) as caught:
        federation(replace(PLAN, run=replace(PLAN.run, quorum=4))).run()
    assert caught.value.code == "quorum-unreachable"


def test_no_quorum_in_the_plan_means_every_site(federation):
    with pytest.raises(QuorumError):
        federation(replace(PLAN, run=replace(PLAN.run, quorum=0)), faults=["site-c=drop@1"]).run()


def test_a_site_with_another_base_or_other_shapes_takes_no_part(federation):
    whole = federation()
    whole.sites["site-a"].learner.base_digest = lambda: "00" * 32
    pinned = replace(PLAN, model=replace(PLAN.model, sha256="ba5e" * 16))
    whole.plan = pinned
    assert whole.run().rounds[0].refusals == {"site-a": ("model_not_allowed",)}

    other = federation(PLAN, "other")
    other.sites["site-c"].learner._shapes = {**SHAPES, "m.lora_A.weight": (2, 9)}
    assert other.run().rounds[0].failures == {"site-c": "adapter-shape"}


def test_a_budget_spent_in_mid_run_takes_that_site_out_and_no_other(federation):
    terms = federation(NOISY, "measure").run().rounds[0].privacy["site-b"]
    poor = {"site-b": replace(POLICY, epsilon_max=terms.epsilon_after_round)}
    result = federation(NOISY, policies=poor).run()

    assert [r.participants for r in result.rounds] == [tuple(DECLARED)] + [("site-a", "site-c")] * 2
    assert result.rounds[1].refusals == {"site-b": ("budget_exhausted",)}


def test_the_record_counts_every_byte_and_names_every_message(federation):
    whole = federation()
    seen = []
    result = whole.run(lambda record, adapter: seen.append((record.round_number, adapter.digest())))
    first = result.rounds[0]

    assert seen == [(r.round_number, r.adapter_digest) for r in result.rounds]
    assert [(m.site_id, m.kind) for m in first.messages] == [
        (site, kind) for kind in ("consent", "update") for site in DECLARED
    ]
    for site in DECLARED:
        assert first.uplink_bytes[site] == sum(m.size_bytes for m in first.messages if m.site_id == site)
        assert first.downlink_bytes[site] > len(codec.dump(result.adapter))
    assert first.weights == {"site-a": 85, "site-b": 170, "site-c": 255}
    assert len({m.sha256 for m in first.messages}) == 6


def test_the_order_of_the_sites_does_not_change_a_bit(federation):
    forward, backward = federation(PLAN, "forward"), federation(PLAN, "backward")
    backward.link = LocalLink(dict(reversed(backward.sites.items())))

    assert forward.run().adapter.digest() == backward.run().adapter.digest()


def test_the_checkpoint_of_another_plan_is_refused(federation):
    whole = federation()
    whole.run()
    with pytest.raises(StoreError) as caught:
        rounds.run(ADAM, whole.link, Checkpoints.open(whole.folder / "run"))
    assert caught.value.code == "checkpoint-other-run"


def test_a_finished_run_asks_nobody(federation):
    whole = federation()
    first = whole.run()
    again = whole.run()

    assert again == replace(first, adapter=again.adapter) and again.adapter.digest() == first.adapter.digest()
    assert whole.sites["site-a"].learner.updates == 3


def test_run_ids_differ_and_can_name_a_folder():
    assert rounds.new_run_id(PLAN, SeededKeys(1)) != rounds.new_run_id(PLAN, SeededKeys(2))
    assert rounds.new_run_id(PLAN, SeededKeys(1)).startswith("demo-")


def test_a_site_that_died_after_paying_costs_the_run_one_round_and_not_the_rest(federation):
    whole = federation(replace(NOISY, run=replace(NOISY.run, quorum=3)))
    learner = whole.sites["site-b"].learner
    update, learner.update = learner.update, lambda *given: (_ for _ in ()).throw(RuntimeError("killed"))
    with pytest.raises(QuorumError, match="site-b: internal"):
        whole.run()
    learner.update = update
    result = whole.run()

    assert [bool(record.accepted) for record in result.rounds] == [False, True, True]
    assert [record.outcome for record in result.rounds] == ["too-few-answers", "accepted", "accepted"]
    assert result.rounds[0].failures == {"site-b": "round-closed"}
    assert len(whole.sites["site-b"].ledger.spends()) == 3


def test_a_round_that_noise_and_clipping_do_not_allow_is_undone_and_its_privacy_stays_spent(federation):
    honest = federation(SGD, "honest", **WIDE).run()
    whole = federation(SGD, "flipped", faults=["site-b=flip@2"], **WIDE)
    after = []
    result = whole.run(lambda record, adapter: after.append(adapter.digest()))

    assert [record.outcome for record in honest.rounds] == ["accepted"] * 3
    assert [record.outcome for record in result.rounds] == ["accepted", "gate-bound", "accepted"]
    assert after[1] == after[0] == result.rounds[1].adapter_digest and after[2] != after[1]
    assert result.rounds[1].accepted == () and float(result.rounds[1].gate["norm"]) > float(
        result.rounds[1].gate["bound"]
    )
    assert len(whole.sites["site-b"].ledger.spends()) == 3


def test_two_rejected_rounds_in_a_row_stop_the_run_and_to_resume_tries_one_more(federation):
    whole = federation(SGD, faults=["site-b=flip@1", "site-b=flip@2"], **WIDE)
    with pytest.raises(GateError) as caught:
        whole.run()
    assert caught.value.code == "rounds-rejected" and "2 rounds in a row" in caught.value.message

    assert [record.outcome for record in whole.run().rounds] == ["gate-bound", "gate-bound", "accepted"]


def test_a_rejected_round_leaves_the_server_optimiser_as_it_was(federation):
    adam = replace(SGD, aggregation=replace(SGD.aggregation, server_optimizer="adam", server_learning_rate=0.01))
    whole = federation(adam, faults=["site-b=flip@2"], **WIDE)
    whole.run()

    assert Checkpoints.open(whole.folder / "run").last().server.steps == {"A": 2, "B": 2}


WATCHED = replace(
    PLAN, evaluation=replace(PLAN.evaluation, validation_epsilon=50.0, questions=(("Above?", "Yes.", "No."),))
)


def test_a_wrong_update_of_the_right_length_is_seen_by_the_held_out_patients_and_undone(federation):
    """Nothing bounds these rounds but `max_update_rms`, and the flipped update is below it."""
    plan = replace(WATCHED, aggregation=replace(PLAN.aggregation, max_update_rms=50.0))
    honest = federation(plan, "honest", declared=dict.fromkeys(DECLARED, 20)).run()
    whole = federation(plan, "turned", declared=dict.fromkeys(DECLARED, 20))
    whole.sites["site-b"].learner = Turned(whole.sites["site-b"].learner, in_update=1)
    after = []
    result = whole.run(lambda record, adapter: after.append(adapter.flatten()))

    assert [record.outcome for record in honest.rounds] == ["accepted"] * 3
    assert [record.outcome for record in result.rounds] == ["gate-worse", "accepted", "accepted"]
    assert np.array_equal(after[0], start(plan)) and not np.array_equal(after[1], after[0])
    told = result.rounds[0].gate["validation"]
    assert sorted(told["sites"]) == list(DECLARED) and float(told["change"]) < -0.05 - 3 * float(told["noise"])
    for site in whole.sites.values():  # one look after every round, charged to those held out
        held_out = [spend for spend in site.ledger.spends() if spend.part == (0.0, 0.2)]
        assert [spend.round_number for spend in held_out] == [5, 6, 7]


class Turned:
    """A learner whose one update goes the wrong way, tenfold."""

    def __init__(self, learner, *, in_update):
        self._learner, self._in_update = learner, in_update

    def __getattr__(self, name):
        return getattr(self._learner, name)

    def update(self, *given):
        made = self._learner.update(*given)
        wrong = self._learner.updates == self._in_update
        return AdapterUpdate({name: array * np.float32(-10) for name, array in made.arrays.items()}) if wrong else made


def test_a_site_that_may_not_look_stays_in_the_round(federation):
    """Its held-out patients have nothing left to spend, so the others say whether the candidate is worse."""
    poor = replace(POLICY, epsilon_max=1.0)
    masked = replace(WATCHED, run=replace(WATCHED.run, quorum=3), aggregation=replace(PLAN.aggregation, secure=True))
    whole = federation(masked, policies={"site-a": poor})
    result = whole.run()

    for record in result.rounds:
        assert record.outcome == "accepted" and "site-a" in record.accepted and not record.failures
        assert sorted(record.gate["validation"]["sites"]) == ["site-b", "site-c"]


def test_a_run_that_was_killed_after_the_look_asks_again_and_is_charged_once(federation):
    whole, uninterrupted = federation(WATCHED), federation(WATCHED, "whole").run()

    class Killed(Exception):
        pass

    class Dies:
        def __init__(self, link):
            self._link = link
            self.site_ids = link.site_ids

        def ask(self, questions, *, deadline_s):
            yield from self._link.ask(questions, deadline_s=deadline_s)
            if questions[0].kind == "validate" and questions[0].round_number == 2:
                raise Killed

    with pytest.raises(Killed):
        whole.run(link=Dies(whole.link))
    whole.restart(*DECLARED)
    result = whole.run()

    assert result.adapter.digest() == uninterrupted.adapter.digest()
    assert [record.gate for record in result.rounds] == [record.gate for record in uninterrupted.rounds]
    for site in whole.sites.values():
        charged = [spend.round_number for spend in site.ledger.spends() if spend.part == (0.0, 0.2)]
        assert charged == [5, 6, 7]


def test_without_a_price_for_it_nobody_is_asked_and_the_record_says_so(federation):
    assert all(record.gate["validation"] is None for record in federation().run().rounds)


TEN = {f"site-{letter}": 100 for letter in "abcdefghij"}


def ten(federation, name: str, robust: str, faults: list[str]) -> float:
    """How far from the mean patient ten sites end, one of them wrong in every round but the last."""
    plan = replace(
        PLAN,
        run=replace(PLAN.run, quorum=10),
        aggregation=replace(PLAN.aggregation, weights="equal", robust=robust, max_update_rms=100.0),
    )
    result = federation(plan, name, declared=TEN, faults=faults).run()
    optimum = np.mean([patients_of(site).mean(axis=0) for site in TEN], axis=0)
    return float(np.linalg.norm(result.adapter.flatten() - optimum) / np.linalg.norm(start(plan) - optimum))


@pytest.mark.parametrize("robust", ["median-norm", "trimmed-mean", "multi-krum"])
def test_one_of_ten_sites_that_sends_its_update_tenfold_and_turned_round_does_not_decide(federation, robust):
    faults = ["site-c=flip@1", "site-c=flip@2", "site-c=flip@3"]
    good, bad = ten(federation, "good", "none", []), ten(federation, "bad", "none", faults)

    assert good < 0.05 and bad > 0.9
    assert ten(federation, robust, robust, faults) < 0.3
