"""The story of a site: it decides, pays before use, and never computes the same answer twice."""

import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from client import without_privacy
from client.policy import Policy
from client.site import approve
from federation import codec
from federation.adapter import Adapter, AdapterUpdate, initial_adapter
from federation.consent import PROTOCOL, consent_from
from federation.errors import StoreError
from federation.evaluation import validation_from
from federation.messages import Payload, Question
from federation.plan import parse_plan
from federation.privacy import accounting
from federation.privacy.ledger import Ledger, epsilon_of
from sim.vectors import VectorLearner, vector_site

SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[training]
local_steps = 2
sampling_rate = 1.0
[privacy]
noise_multiplier = 8.0
[aggregation]
secure = false
""")
TARGET = replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=None, target_epsilon=2.0))
OPEN = replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=None, unit="none"))
POLICY = Policy(epsilon_max=5.0, approve="matching", quorum_min=1)
PATIENTS = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)


class Hospital:
    """A site in a folder, and the coordinator's side of the conversation with it."""

    def __init__(self, folder, policy=POLICY, patients=PATIENTS):
        self.folder, self.policy, self.patients = folder, policy, patients
        self.failures = []
        self.start()

    def start(self):
        self.site = vector_site("site-a", self.folder, self.patients, shapes=SHAPES, policy=self.policy)
        self.site.on_failure = self.failures.append

    def restart(self):
        self.site.ledger.close()
        self.start()

    def consent(self, plan=PLAN, round_number=1, run_id="run-1", protocol=PROTOCOL, value=None):
        body = {"plan": value or plan.value(), "protocol": protocol, "quorum": 1}
        return self.site.answer(Question("consent", run_id, round_number, "site-a", plan.digest(), body))

    def train(self, plan=PLAN, round_number=1, run_id="run-1", adapter=None):
        adapter = adapter or initial_adapter(SHAPES, a_init="kaiming", seed=0)
        payload = Payload(codec.dump(adapter))
        return self.site.answer(Question("train", run_id, round_number, "site-a", plan.digest(), payload=payload))

    def spends(self):
        return self.site.ledger.spends()


@pytest.fixture
def hospital(tmp_path):
    hospital = Hospital(tmp_path)
    yield hospital
    hospital.site.ledger.close()


def test_consent_says_what_the_round_and_the_run_will_cost(hospital):
    consent = consent_from(hospital.consent().body)
    event = accounting.Event(1.0, 8.0, 2, sensitivity_rule="auto-s with radius 1.0, gamma 0.01")

    assert consent.terms.delta == 1 / (10 * 100)
    assert consent.terms.epsilon_after_round == accounting.epsilon([event], consent.terms.delta)
    assert consent.terms.epsilon_at_end == accounting.epsilon([event] * 3, consent.terms.delta)
    assert hospital.spends() == ()


def test_the_whole_round_is_paid_before_training_starts(hospital):
    class Stop(Exception):
        pass

    def update(*args):
        raise Stop

    hospital.consent()
    hospital.site.learner.update = update
    answer = hospital.train()

    assert answer.kind == "failure" and answer.body == {"code": "internal"}
    assert [(s.run_id, s.round_number, s.event.steps) for s in hospital.spends()] == [("run-1", 1, 2)]


def test_the_same_question_gets_the_same_bytes_and_spends_nothing(hospital):
    hospital.consent()
    first = hospital.train()
    again = hospital.train()
    hospital.restart()
    after_a_restart = hospital.train()

    assert first.kind == "update"
    assert first == again == after_a_restart
    assert len(hospital.spends()) == 1 and hospital.site.learner.updates == 0  # the restarted one never trained


def test_a_paid_round_without_an_answer_is_over_after_a_crash(hospital):
    class Killed(BaseException):
        pass

    def update(*args):
        raise Killed

    hospital.consent()
    hospital.site.learner.update = update
    with pytest.raises(Killed):
        hospital.train()
    hospital.restart()

    assert hospital.train().body == {"code": "round-closed"}
    assert hospital.site.learner.updates == 0 and len(hospital.spends()) == 1
    hospital.consent(round_number=2)
    assert hospital.train(round_number=2).kind == "update"


def test_another_question_for_a_paid_round_is_no_second_release(hospital):
    hospital.consent()
    hospital.train()
    other = hospital.train(adapter=initial_adapter(SHAPES, a_init="kaiming", seed=1))

    assert other.body == {"code": "round-closed"} and hospital.site.learner.updates == 1


def test_a_refused_site_spends_nothing_and_trains_nothing(tmp_path):
    hospital = Hospital(tmp_path, policy=replace(POLICY, noise_multiplier_min=9.0))

    assert hospital.consent().body == {"reasons": ["noise_too_low"]}
    assert hospital.train().body == {"code": "message-context"}
    assert hospital.spends() == () and hospital.site.learner.updates == 0


def test_the_policy_is_asked_again_before_training(hospital):
    hospital.consent()
    hospital.site.policy = replace(POLICY, epsilon_max=0.01)

    assert hospital.train().body == {"reasons": ["budget_exhausted"]}
    assert hospital.spends() == ()


def test_the_budget_ends_a_run_in_the_middle_and_is_never_passed(tmp_path):
    event = accounting.Event(1.0, 8.0, 2, sensitivity_rule="any")
    limit = accounting.epsilon([event] * 2, 1e-3)
    hospital = Hospital(tmp_path, policy=replace(POLICY, epsilon_max=limit))
    kinds = []
    for round_number in (1, 2, 3):
        kinds.append(hospital.consent(round_number=round_number).kind)
        hospital.train(round_number=round_number)

    assert kinds == ["consent", "consent", "refusal"]
    assert accounting.epsilon([s.event for s in hospital.spends()], 1e-3) == limit


def test_the_site_finds_its_own_noise_for_the_whole_run_and_keeps_it(hospital):
    first = consent_from(hospital.consent(TARGET).body).terms
    hospital.train(TARGET)
    hospital.restart()
    second = consent_from(hospital.consent(TARGET, round_number=2).body).terms

    assert first.noise_multiplier == second.noise_multiplier
    assert 1.9 < first.epsilon_at_end <= 2.0 and first.epsilon_at_end == second.epsilon_at_end
    assert first.epsilon_after_round < second.epsilon_after_round < 2.0


def test_what_was_spent_before_is_part_of_the_next_runs_noise(hospital):
    hospital.consent(PLAN)
    hospital.train(PLAN)
    terms = consent_from(hospital.consent(TARGET, run_id="run-2").body).terms
    fresh = accounting.noise_multiplier_for(2.0, delta=1e-3, sampling_rate=1.0, steps=6)

    assert terms.noise_multiplier > fresh and terms.epsilon_at_end <= 2.0


def test_a_target_out_of_reach_is_a_refusal(hospital):
    hospital.site.policy = replace(POLICY, epsilon_max=50.0)
    costly = replace(PLAN, privacy=replace(PLAN.privacy, noise_multiplier=1.0))
    hospital.consent(costly)
    hospital.train(costly)

    assert hospital.consent(TARGET, run_id="run-2").body == {"reasons": ["budget_exhausted"]}


def test_a_target_above_the_sites_own_limit_is_lowered_to_it(hospital):
    hospital.site.policy = replace(POLICY, epsilon_max=1.0)

    assert consent_from(hospital.consent(TARGET).body).terms.epsilon_at_end <= 1.0


def test_a_plan_without_privacy_needs_permission_and_pays_nothing(hospital):
    assert hospital.consent(OPEN).body == {"reasons": ["privacy_off"]}

    hospital.site.policy = replace(POLICY, allow_without_privacy=True)
    assert consent_from(hospital.consent(OPEN).body).terms is None
    assert hospital.train(OPEN).kind == "update" and hospital.spends() == ()


def test_after_training_without_privacy_no_epsilon_is_promised_to_the_same_patients(hospital):
    hospital.site.policy = replace(POLICY, allow_without_privacy=True)
    hospital.consent(OPEN)
    hospital.train(OPEN)
    hospital.restart()

    assert hospital.consent(PLAN, run_id="run-2").body == {"reasons": ["budget_exhausted"]}
    assert without_privacy.runs(hospital.site.state_dir) == ["run-1"]
    held_out = hospital.site.cohort_id, (0.0, PLAN.evaluation.held_out_share)
    assert not without_privacy.touched(hospital.site.state_dir, *held_out)  # nobody trained on them
    assert without_privacy.touched(hospital.site.state_dir, "another cohort", (0.0, 0.1))  # who knows


def test_a_record_of_training_without_privacy_that_is_damaged_stops_the_site(hospital):
    without_privacy.record(hospital.site.state_dir, "run-1", hospital.site.cohort_id, (0.2, 1.0))
    (hospital.site.state_dir / "without-privacy" / "run-1").write_bytes(b"{}")

    assert hospital.consent().body == {"code": "store-damaged"}


def test_people_whose_keys_were_made_anew_are_another_cohort_and_the_ledger_adds_up(hospital, monkeypatch):
    hospital.consent()
    hospital.train()
    before = hospital.site.cohort_id
    hospital.restart()
    assert hospital.site.cohort_id == before

    hospital.site.ledger.close()
    monkeypatch.setattr(VectorLearner, "keying", lambda self: "another secret")
    hospital.start()
    [spent] = hospital.spends()
    held_out = (0.0, PLAN.evaluation.held_out_share)

    assert hospital.site.cohort_id != before
    assert epsilon_of([spent], spent.delta, whom=(before, held_out)) == 0.0  # in the old keys: the others
    examined = replace(spent, run_id="run-2", cohort_id=hospital.site.cohort_id, part=held_out)
    both = epsilon_of([spent, examined], spent.delta, whom=(hospital.site.cohort_id, held_out))
    assert both == accounting.epsilon([spent.event] * 2, spent.delta)  # in new keys they may be the same people


LOOKS = replace(
    PLAN, evaluation=replace(PLAN.evaluation, validation_epsilon=3.0, questions=(("Above?", "Yes.", "No."),))
)


def look(hospital, *, round_number=1, before=None, candidate=None):
    start = Payload(codec.dump(initial_adapter(SHAPES, a_init="kaiming", seed=0)))
    candidate = candidate or start
    body = {"before": (before or start).sha256}
    return hospital.site.answer(
        Question("validate", "run-1", round_number, "site-a", LOOKS.digest(), body, payload=candidate)
    )


def test_a_look_at_the_held_out_patients_is_charged_to_them_once_and_said_again_for_nothing(hospital):
    hospital.consent(LOOKS)
    hospital.train(LOOKS)
    first = look(hospital)
    hospital.restart()

    assert first.kind == "validation" and look(hospital) == first
    trained, looked = hospital.spends()
    assert (trained.round_number, looked.round_number) == (1, LOOKS.run.rounds + 2)
    assert looked.part == (0.0, LOOKS.evaluation.held_out_share) and looked.event.steps == 1
    said = validation_from(first.body)
    whole = accounting.epsilon([looked.event] * LOOKS.run.rounds, looked.delta)
    assert said.terms.noise_multiplier == looked.event.noise_multiplier and 2.9 < whole <= 3.0


def test_a_look_is_answered_only_for_the_adapter_that_this_site_trained(hospital):
    hospital.consent(LOOKS)
    assert look(hospital).body == {"code": "message-kind"}  # it has not trained yet
    hospital.train(LOOKS)
    other = Payload(codec.dump(initial_adapter(SHAPES, a_init="kaiming", seed=1)))

    assert look(hospital, before=other).body == {"code": "message-context"}
    assert look(hospital, round_number=4).body == {"code": "message-kind"}
    wrong = Payload(
        codec.dump(initial_adapter({"m.lora_A.weight": (1, 3), "m.lora_B.weight": (3, 1)}, a_init="kaiming", seed=1))
    )
    assert look(hospital, candidate=wrong).body == {"code": "adapter-shape"}
    assert len(hospital.spends()) == 1  # nothing of all this was charged
    assert look(hospital, candidate=other).kind == "validation"
    assert look(hospital).body == {"code": "round-closed"}  # a second candidate of the same round


def test_a_look_that_the_held_out_patients_cannot_pay_is_refused(hospital):
    hospital.consent(LOOKS)
    hospital.train(LOOKS)
    hospital.site.policy = replace(POLICY, epsilon_max=0.1)

    assert look(hospital).body == {"reasons": ["budget_exhausted"]}
    assert len(hospital.spends()) == 1


def test_a_plan_waits_for_a_persons_approval(tmp_path):
    hospital = Hospital(tmp_path, policy=replace(POLICY, approve="each-plan"))

    assert hospital.consent().body == {"reasons": ["plan_not_approved"]}
    approve(hospital.site.state_dir, PLAN.digest())
    assert hospital.consent().kind == "consent"
    assert hospital.consent(TARGET, run_id="run-2").body == {"reasons": ["plan_not_approved"]}


def test_another_version_is_a_refusal(hospital):
    assert hospital.consent(protocol="wardround/2").body == {"reasons": ["version_differs"]}


def test_an_update_that_is_not_finite_never_leaves_the_site(tmp_path):
    hospital = Hospital(
        tmp_path, policy=replace(POLICY, allow_without_privacy=True), patients=np.full_like(PATIENTS, np.nan)
    )
    hospital.consent(OPEN)

    assert hospital.train(OPEN).body == {"code": "update-not-finite"}
    assert not list(tmp_path.rglob("*.answer"))


def test_a_huge_update_never_leaves_the_site(tmp_path):
    hospital = Hospital(
        tmp_path, policy=replace(POLICY, allow_without_privacy=True), patients=PATIENTS * np.float32(1e6)
    )
    hospital.consent(OPEN)

    assert hospital.train(OPEN).body == {"code": "update-norm"}


def test_wrong_questions_get_a_code_and_cost_nothing(hospital):
    hospital.consent()
    misfit = Adapter({"m.lora_A.weight": np.ones((2, 4), np.float32), "m.lora_B.weight": np.ones((3, 2), np.float32)})
    update = AdapterUpdate(initial_adapter(SHAPES, a_init="kaiming", seed=0).arrays)

    assert hospital.train(adapter=misfit).body == {"code": "adapter-shape"}
    assert hospital.train(adapter=update).body == {"code": "not-canonical"}
    assert hospital.train(run_id="run-9").body == {"code": "message-context"}
    assert hospital.train(TARGET).body == {"code": "message-context"}
    assert hospital.train(round_number=4).body == {"code": "message-context"}
    assert hospital.consent(TARGET).body == {"code": "message-context"}
    assert hospital.site.answer(Question("train", "run-1", 1, "site-b", "0" * 64)).body == {"code": "message-context"}
    assert hospital.spends() == ()


def test_the_plan_in_the_question_must_be_the_one_that_the_digest_names(hospital):
    assert hospital.consent(PLAN, value=TARGET.value()).body == {"code": "message-context"}
    assert hospital.consent(PLAN, value={"run": "x"}).body == {"code": "message-context"}


def test_an_error_leaves_the_site_as_a_code_and_stays_whole_inside(hospital):
    def update(*args):
        raise RuntimeError("patient Doe, /data/doe.dcm")

    hospital.consent()
    hospital.site.learner.update = update
    answer = hospital.train()

    assert b"doe" not in answer.header.lower() and answer.payload is None
    assert isinstance(hospital.failures[-1], RuntimeError)


def test_a_torn_kept_answer_is_not_sent_and_not_made_again(hospital):
    hospital.consent()
    hospital.train()
    (kept,) = hospital.site.state_dir.rglob("*.answer")
    whole = kept.read_bytes()
    for torn in (whole[:-1], whole[:50], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        kept.write_bytes(torn)
        assert hospital.train().body == {"code": "round-closed"}
    kept.write_bytes(whole)

    assert hospital.train().kind == "update" and hospital.site.learner.updates == 1


def test_only_the_answers_of_the_last_two_rounds_are_kept(hospital):
    for round_number in (1, 2, 3):
        hospital.consent(round_number=round_number)
        hospital.train(round_number=round_number)

    assert len(list(hospital.site.state_dir.rglob("*.answer"))) == 2
    assert hospital.train(round_number=2).kind == "update" and hospital.site.learner.updates == 3
    assert hospital.train(round_number=1).body == {"code": "round-closed"}


def test_only_declared_and_chosen_numbers_are_in_a_consent(tmp_path):
    few, many = Hospital(tmp_path / "few", patients=PATIENTS[:7]), Hospital(tmp_path / "many")

    assert few.consent() == many.consent()


def test_two_processes_do_not_share_a_ledger(hospital):
    with pytest.raises(Exception, match="another process"):
        Ledger.open(hospital.folder / "ledger")


def test_an_old_backup_of_the_ledger_beside_a_newer_state_is_refused_at_the_start(hospital):
    hospital.consent()
    kept = {path.name: path.read_bytes() for path in (hospital.folder / "ledger").iterdir()}
    hospital.train()
    hospital.site.ledger.close()
    for name, data in kept.items():
        (hospital.folder / "ledger" / name).write_bytes(data)

    with pytest.raises(StoreError) as refusal:
        hospital.start()
    assert refusal.value.code == "ledger-rollback"


# --- kill -9 ---------------------------------------------------------------------------------------

LONG = replace(
    PLAN,
    run=replace(PLAN.run, rounds=10_000),
    training=replace(PLAN.training, local_steps=40, learning_rate=1e-6),
    privacy=replace(PLAN.privacy, noise_multiplier=1e4),
)


def train_until_killed(folder, round_number):
    """A child that answers round after round, and names each answer once it has left: (round, its SHA-256)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            hospital = Hospital(folder)
            while True:
                hospital.consent(LONG, round_number)
                answer = hospital.train(LONG, round_number)
                os.write(writing, f"{round_number} {answer.kind} {answer.digest()}\n".encode())
                round_number += 1
        finally:
            os._exit(1)
    os.close(writing)
    return child, os.fdopen(reading)


def kill_and_restart(folder, kills, seed):
    """A site that trains and answers, killed at any moment, again and again. Returns its answers and what was lost."""
    rng, released, lost = random.Random(seed), {}, 0
    Hospital(folder).site.ledger.close()
    for _ in range(kills):
        before = len(released) + lost
        child, told = train_until_killed(folder, before + 1)
        with told:
            lines = [told.readline() for _ in range(rng.randrange(3))]
            time.sleep(rng.uniform(0.0, 0.03))  # about as long as a round
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines = [line.split() for line in (*lines, *told)]
        assert {kind for _, kind, _ in lines} <= {"update"}
        released |= {int(number): digest for number, _, digest in lines}

        hospital = Hospital(folder)
        charged = [spend.round_number for spend in hospital.spends()]
        assert set(released) <= set(charged)  # no answer without a charge
        assert charged == list(range(1, len(charged) + 1))
        for number in charged[-2:]:
            again = hospital.train(LONG, number)
            if number in released:  # the same bytes
                assert again.digest() == released[number]
            elif again.kind == "update":  # it was on disk, and had not left
                released[number] = again.digest()
            else:  # paid, and never to be trained again
                assert again.body == {"code": "round-closed"}
        assert hospital.site.learner.updates == 0 and len(hospital.spends()) == len(charged)
        hospital.site.ledger.close()
        lost = len(charged) - len(released)
    return len(released), lost


def test_a_site_killed_at_any_moment_never_gives_an_answer_that_was_not_paid_nor_a_second_one(tmp_path):
    released, lost = kill_and_restart(tmp_path, kills=12, seed=1)

    assert lost <= 12 and released > 0


@pytest.mark.slow
def test_500_kills_in_training_and_release(tmp_path):
    released, lost = kill_and_restart(tmp_path, kills=500, seed=2)

    assert released > 250 and lost <= 500
