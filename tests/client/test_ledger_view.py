"""`wardround site ledger`: who, when, what for, what is left."""

import json
from dataclasses import replace

import pytest

from client import without_privacy
from client.ledger_view import lines, view
from federation.errors import StoreError
from federation.privacy.accounting import Event, SharedNoise
from federation.privacy.ledger import Ledger, Spend
from sim.wardround import call

TOML = """
[site]
id = "north"
[data]
store = "store"
secret = "secret"
declared_patients = 1000
[policy]
epsilon_max = 4.0
"""
TRAINED = Spend("run-1", 1, "lung", "c-1", Event(0.1, 2.0, 10, "flat clipping at 1.0"), 1e-4, 1000,
                "2030-01-01T00:00:00Z", part=(0.2, 1.0))  # fmt: skip
EXAMINED = replace(TRAINED, round_number=3, event=Event(1.0, 6.4, 1, "flat clipping at 1.0"), part=(0.0, 0.2))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "site.toml").write_text(TOML)
    with Ledger.open(tmp_path / "state" / "ledger") as ledger:
        other = replace(TRAINED, coordinator="heart", run_id="run-2")
        for spend in (TRAINED, replace(TRAINED, round_number=2), EXAMINED, other):
            ledger.reserve(spend)
    return tmp_path


def test_the_account_says_who_what_when_and_what_is_left(folder):
    account = view(folder)
    told = "\n".join(lines(account))

    assert account["epsilon"] + account["epsilon_left"] == pytest.approx(4.0, abs=1e-3)
    assert [one["charges"] for one in account["coordinators"].values()] == [1, 3]
    assert "round 1-2" in told and "held out (0.2)" in told and "heart" in told and "2030-01-01" in told


def test_trained_and_held_out_patients_do_not_add_up(folder):
    account = view(folder)
    lung, heart = account["coordinators"]["lung"], account["coordinators"]["heart"]

    assert lung["epsilon"] < account["epsilon"] < lung["epsilon"] + heart["epsilon"] + 1e-3


def test_runs_without_privacy_are_named_beside_the_account(folder):
    (folder / "state").mkdir(exist_ok=True)
    without_privacy.record(folder / "state", "run-9", "c-1", (0.2, 1.0))
    account = view(folder)

    assert account["runs_without_privacy"] == ["run-9"]
    assert "no bound" in "\n".join(lines(account))


def test_the_command_prints_one_json_object(folder, capsys):
    assert call(["site", "ledger", "--dir", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["site"] == "north"


@pytest.mark.parametrize("name", ["ledger.jsonl", "head.json"])
def test_an_altered_ledger_is_refused_and_nothing_is_shown(folder, name, capsys):
    path = folder / "state" / "ledger" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))

    assert call(["site", "ledger", "--dir", str(folder)]) == StoreError.exit_status
    shown = capsys.readouterr()
    assert shown.out == "" and "does not verify" in shown.err and "restore" in shown.err


def test_a_ledger_that_is_gone_is_not_an_empty_one(folder):
    for path in (folder / "state" / "ledger").iterdir():
        path.unlink()
    (folder / "state" / "runs" / "run-1").mkdir(parents=True)

    with pytest.raises(StoreError) as refusal:
        view(folder)
    assert refusal.value.code == "ledger-damaged"


def test_a_site_that_has_not_begun_has_spent_nothing(tmp_path):
    (tmp_path / "site.toml").write_text(TOML)

    account = view(tmp_path)

    assert account["epsilon"] == 0.0 and account["epsilon_left"] == 4.0
    assert "charges      none" in lines(account)


def test_noise_that_was_shared_is_named_with_those_it_rests_on(folder):
    event = Event(0.1, 2.0, 1, "flat clipping at 1.0", shared=SharedNoise(4, 12))
    with Ledger.open(folder / "state" / "ledger") as ledger:
        for number in (1, 2):
            ledger.reserve(replace(TRAINED, run_id="run-3", round_number=number, event=event))
    account = view(folder)

    assert [one["honest_sites"] for one in account["charges"]][-2:] == [4, 4]
    assert sum("noise 2 shared by 4 honest sites" in line for line in lines(account)) == 1
