"""The record of withdrawals: one line per decision, chained, and nothing is ingested when it does not verify."""

import stat
from pathlib import Path

import pytest

from client.withdrawals import Action, Withdrawal, Withdrawals
from federation.errors import FormatError, StoreError

ONE, TWO, KEY_ID = "1" * 32, "2" * 32, "ab" * 8


def decision(key: str = ONE, action: Action = "withdraw", key_id: str = KEY_ID, person: str = "Panza") -> Withdrawal:
    return Withdrawal(action, key, key_id, person, "2026-01-01T00:00:00Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "withdrawn.jsonl"


def test_the_last_decision_about_a_patient_counts_for_this_secret_only(path: Path) -> None:
    record = Withdrawals(path)
    assert record.patients(KEY_ID) == frozenset()
    record.append([decision(), decision(TWO)])
    record.append([decision(action="undo"), decision(key_id="cd" * 8)])

    assert record.patients(KEY_ID) == Withdrawals(path).patients(KEY_ID) == {TWO}
    assert record.patients("cd" * 8) == {ONE} and record.unknowable(KEY_ID) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    record.append([decision()])
    assert record.patients(KEY_ID) == {ONE, TWO}


def test_another_process_is_heard(path: Path) -> None:
    record = Withdrawals(path)
    record.append([decision()])
    assert record.patients(KEY_ID) == {ONE}
    Withdrawals(path).append([decision(TWO)])

    assert record.patients(KEY_ID) == {ONE, TWO}


def test_every_change_of_a_byte_is_found_and_an_empty_record_is_none(path: Path) -> None:
    Withdrawals(path).append([decision(), decision(TWO), decision(action="undo")])
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1)  # the newest line has no line after it to vouch for it
    for at in range(0, last, 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(StoreError) as refused:
            Withdrawals(path).patients(KEY_ID)
        assert refused.value.code == "withdrawal-damaged"
    for cut in (0, len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(StoreError):
            Withdrawals(path).all()
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError):
        Withdrawals(path).all()


@pytest.mark.parametrize(
    "wrong", [decision(person=""), decision(person="a\nb"), decision(person="x" * 101), decision("1" * 12)]
)
def test_what_no_record_can_hold_is_refused_and_nothing_is_written(path: Path, wrong: Withdrawal) -> None:
    with pytest.raises(FormatError):
        Withdrawals(path).append([decision(), wrong])
    assert not path.exists()
