"""A run on disk: killed anywhere, it holds a whole round; altered anywhere, it is refused."""

import shutil

import numpy as np
import pytest

from federation import durable
from federation.adapter import Adapter, AdapterUpdate
from federation.consent import PrivacyTerms
from federation.errors import StoreError
from federation.plan import parse_plan
from server.aggregate import ServerState
from server.checkpoint import Checkpoints
from server.record import MaskedRecord, RoundRecord, SentMessage, record_from

PLAN = parse_plan('[run]\nname = "demo"\nrounds = 3\n[model]\npath = "base"\n[privacy]\nunit = "none"')
OTHER = parse_plan('[run]\nname = "demo"\nrounds = 4\n[model]\npath = "base"\n[privacy]\nunit = "none"')


def arrays(seed: int) -> dict[str, np.ndarray]:
    return {"m.lora_A.weight": np.random.default_rng(seed).standard_normal((2, 3), dtype=np.float32)}


def record(number: int) -> RoundRecord:
    terms = {"site-a": PrivacyTerms(1.5, 0.1, 1e-4, 0.5, 1.5), "site-b": None}
    sent = (SentMessage("site-a", "update", 123, "ab" * 32),)
    return RoundRecord(
        number, ("site-a", "site-b"), ("site-a",), ("site-a",), {"site-b": ("privacy_off",)}, {"site-c": "no-answer"},
        {"site-a": 255}, {"site-a": 500}, terms, {"site-a": 123}, {"site-a": 456}, sent, "gate-worse",
        {"norm": "1.5", "bound": "2.0", "validation": {"change": "0.5", "noise": "0.1", "sites": {}}}, 0.25,
        "cd" * 32, "ef" * 32, 1.75,
        MaskedRecord(16, 3, 2, {"m.lora_A.weight": 1e-3}, {"site-b": "secagg-bad-share"}), "secagg-mask-residue",
    )  # fmt: skip


def commit(checkpoints: Checkpoints, number: int) -> None:
    moments = AdapterUpdate(arrays(10 + number)), AdapterUpdate(arrays(20 + number))
    server = ServerState({"A": number}, *moments, Adapter(arrays(30 + number)), number)
    checkpoints.save(Adapter(arrays(number)), server, record(number))


def test_a_committed_round_comes_back_whole(tmp_path):
    checkpoints = Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN)
    assert checkpoints.last() is None
    commit(checkpoints, 1)
    commit(checkpoints, 2)
    last = Checkpoints.open(tmp_path, plan=PLAN).last()

    assert last.round_number == 2 and last.records == (record(1), record(2))
    assert last.adapter.digest() == Adapter(arrays(2)).digest()
    assert last.server.steps == {"A": 2} and last.server.second.digest() == AdapterUpdate(arrays(22)).digest()
    assert last.server.average.digest() == Adapter(arrays(32)).digest() and last.server.averaged == 2


def test_a_record_comes_back_from_its_value():
    assert record_from(record(3).value()) == record(3)


class Killed(BaseException):
    pass


class DyingDisk:
    """Writes durably until write number `last`, which it leaves undone, torn, or done, and dies."""

    def __init__(self, last: int, how: str) -> None:
        self.left, self.how = last, how

    def write(self, path, pieces):
        self.left -= 1
        if self.left > 0:
            return durable.write(path, pieces)
        data = b"".join(pieces)
        if self.how == "torn":
            path.with_name(path.name + ".part").write_bytes(data[: len(data) // 2])
        if self.how == "done":
            durable.write(path, [data])
        raise Killed


@pytest.mark.parametrize("how", ["undone", "torn", "done"])
@pytest.mark.parametrize("last", range(1, 7))
def test_killed_between_any_two_writes_it_holds_the_round_before_or_the_new_one(tmp_path, last, how):
    commit(Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN), 1)
    with pytest.raises(Killed):
        commit(Checkpoints.open(tmp_path, write=DyingDisk(last, how).write), 2)
    found = Checkpoints.open(tmp_path).last()

    whole = 2 if (last, how) == (6, "done") else 1  # HEAD is the sixth and last write
    assert found.round_number == whole and found.adapter.digest() == Adapter(arrays(whole)).digest()
    commit(Checkpoints.open(tmp_path), found.round_number + 1)
    assert Checkpoints.open(tmp_path).last().round_number == whole + 1
    assert not list(tmp_path.rglob("objects/*.part"))


def test_six_writes_are_all_the_writes(tmp_path):
    commit(Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN), 1)

    commit(Checkpoints.open(tmp_path, write=DyingDisk(7, "undone").write), 2)


@pytest.mark.parametrize("how", ["undone", "torn"])
def test_killed_while_it_begins_there_is_no_run(tmp_path, how):
    with pytest.raises(Killed):
        Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN, write=DyingDisk(1, how).write)

    with pytest.raises(StoreError):
        Checkpoints.open(tmp_path)
    assert Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN).last() is None


def test_every_altered_truncated_or_missing_file_is_noticed(tmp_path):
    checkpoints = Checkpoints.create(tmp_path / "run", run_id="run-1", plan=PLAN)
    commit(checkpoints, 1)
    commit(checkpoints, 2)
    files = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file()]
    for name in files:
        for damage in (
            lambda data: data[:-1],
            lambda data: bytes([data[0] ^ 1]) + data[1:],
            lambda data: data + b"x",
            None,
        ):
            copy = tmp_path / "copy"
            shutil.copytree(tmp_path / "run", copy)
            if damage is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(damage((copy / name).read_bytes()))
            if damage is None and str(name) == "HEAD":
                assert Checkpoints.open(copy).last() is None  # as before the first commit
            else:
                with pytest.raises(StoreError):
                    Checkpoints.open(copy, plan=PLAN).last()
            shutil.rmtree(copy)


def test_another_plan_and_an_occupied_folder_are_refused(tmp_path):
    Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN)
    with pytest.raises(StoreError) as caught:
        Checkpoints.open(tmp_path, plan=OTHER)
    assert caught.value.code == "checkpoint-other-run"
    with pytest.raises(StoreError) as caught:
        Checkpoints.create(tmp_path, run_id="run-2", plan=PLAN)
    assert caught.value.code == "output-exists"


def test_only_the_last_rounds_arrays_stay(tmp_path):
    checkpoints = Checkpoints.create(tmp_path, run_id="run-1", plan=PLAN)
    for number in (1, 2, 3):
        commit(checkpoints, number)

    assert len(list((tmp_path / "objects").glob("*.adapter"))) == 4
    assert len(list((tmp_path / "objects").glob("*.json"))) == 3
