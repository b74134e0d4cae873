"""The ledger against crashes, cuts, flips and full disks. Format: docs/spec/ledger-1.md."""

import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import federation
from federation.errors import BudgetError, StoreError
from federation.privacy import ledger as ledger_module
from federation.privacy import records
from federation.privacy.accounting import Event, SharedNoise, epsilon
from federation.privacy.ledger import Head, Ledger, Spend, ensure_within_budget, epsilon_of, events_per_person, read

EVENT = Event(0.05, 1.71, 50, sensitivity_rule="flat clipping at 1.0")
SPEND = Spend(
    run_id="r-1",
    round_number=1,
    coordinator="north",
    cohort_id="c-1",
    event=EVENT,
    delta=2e-5,
    declared_patients=5000,
    time_utc="2030-01-01T00:00:00Z",
)


def nth(number, **changes):
    return replace(SPEND, round_number=number, **changes)


def filled(folder, count):
    """A closed ledger of `count` records."""
    with Ledger.open(folder) as ledger:
        for number in range(1, count + 1):
            ledger.reserve(nth(number))
    return folder / "ledger.jsonl", folder / "head.json"


def rounds(folder):
    with Ledger.open(folder) as ledger:
        return [spend.round_number for spend in ledger.spends()]


def refused_as_damaged(folder):
    with pytest.raises(StoreError) as refusal:
        Ledger.open(folder).close()
    return refusal.value.code == "ledger-damaged"


# --- one round, one charge -------------------------------------------------------------------------


def test_a_reserved_charge_is_there_after_a_restart(tmp_path):
    filled(tmp_path, 3)

    with Ledger.open(tmp_path) as ledger:
        assert ledger.spends() == (nth(1), nth(2), nth(3))
        assert ledger.events() == (EVENT,) * 3
        assert ledger.find("r-1", 2) == nth(2)
        assert ledger.find("r-1", 4) is None
    assert read(tmp_path) == (nth(1), nth(2), nth(3))


def test_the_same_charge_again_costs_nothing_and_writes_nothing(tmp_path):
    data, head = filled(tmp_path, 2)
    before = data.read_bytes(), head.read_bytes()
    with Ledger.open(tmp_path) as ledger:
        again = ledger.reserve(nth(1, time_utc="2031-06-01T12:00:00.5Z"))

        assert again == nth(1)
        assert len(ledger.spends()) == 2
    assert (data.read_bytes(), head.read_bytes()) == before


@pytest.mark.parametrize(
    "change",
    [
        {"event": replace(EVENT, steps=49)},
        {"event": replace(EVENT, noise_multiplier=2.0)},
        {"coordinator": "south"},
        {"cohort_id": "c-2"},
        {"delta": 1e-5},
        {"declared_patients": 6000},
    ],
)
def test_another_charge_for_the_same_round_is_refused(tmp_path, change):
    with Ledger.open(tmp_path) as ledger:
        ledger.reserve(nth(1))
        with pytest.raises(BudgetError) as refusal:
            ledger.reserve(nth(1, **change))

        assert refusal.value.code == "budget-conflict"
        assert ledger.spends() == (nth(1),)


def test_the_same_round_of_another_run_is_another_charge(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.reserve(nth(1))
        ledger.reserve(nth(1, run_id="r-2", coordinator="south"))

        assert len(ledger.events()) == 2
        assert ledger.events("south") == (EVENT,)
        assert ledger.events("nobody") == ()


def test_threads_take_turns(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        threads = [threading.Thread(target=ledger.reserve, args=(nth(1 + i % 8),)) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert sorted(rounds(tmp_path)) == list(range(1, 9))


def test_there_is_one_writer(tmp_path):
    with Ledger.open(tmp_path):
        with pytest.raises(StoreError) as refusal:
            Ledger.open(tmp_path)
        assert refusal.value.code == "ledger-busy"

        assert read(tmp_path) == ()
    Ledger.open(tmp_path).close()


def test_a_closed_ledger_takes_nothing_more(tmp_path):
    ledger = Ledger.open(tmp_path)
    ledger.close()
    ledger.close()

    with pytest.raises(StoreError) as refusal:
        ledger.reserve(SPEND)
    assert refusal.value.code == "ledger-write"
    assert rounds(tmp_path) == []


def test_reading_where_there_is_no_ledger_is_refused_and_makes_none(tmp_path):
    with pytest.raises(StoreError):
        read(tmp_path)

    assert list(tmp_path.iterdir()) == []


# --- the bytes -------------------------------------------------------------------------------------


def test_the_bytes_are_those_of_the_specification(tmp_path):
    data, head = filled(tmp_path, 1)
    first, record = data.read_bytes().splitlines(keepends=True)

    assert first.decode() == '{"format":"wardround/ledger/1","prev":"' + 64 * "0" + '","seq":0}\n'
    assert record.decode() == (
        '{"cohort_id":"c-1","coordinator":"north","declared_patients":5000,"delta":2e-05,"event":{'
        '"neighboring_relation":"add_or_remove_one","noise_multiplier":1.71,"sampler":"poisson","sampling_rate":0.05,'
        '"sensitivity_rule":"flat clipping at 1.0","steps":50,"unit":"patient"},"part":[0.0,1.0],"prev":"'
        + records.FIRST.hash
        + '","round_number":1,"run_id":"r-1","seq":1,"time_utc":"2030-01-01T00:00:00Z"}\n'
    )
    assert json.loads(head.read_bytes()) == {
        "format": "wardround/ledger-head/1",
        "hash": records.after(records.FIRST, record).hash,
        "length": len(first) + len(record),
        "seq": 1,
    }


visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
events = st.builds(
    Event,
    sampling_rate=st.floats(0, 1, exclude_min=True),
    noise_multiplier=st.floats(0.2, 1e4),
    steps=st.integers(0, 10**7),
    sensitivity_rule=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128),
)
spends = st.builds(
    Spend,
    run_id=visible,
    round_number=st.integers(1, 2**70),
    coordinator=visible,
    cohort_id=visible,
    event=events,
    delta=st.floats(1e-12, 1, exclude_max=True),
    declared_patients=st.integers(1, 2**70),
    time_utc=st.datetimes().map(lambda time: time.isoformat() + "Z"),
)


@settings(max_examples=60, deadline=None)
@given(spend=spends)
def test_reading_a_line_gives_what_was_written(spend):
    assert records.load(records.dump(spend, records.FIRST), records.FIRST) == spend


@settings(max_examples=40, deadline=None)
@given(spend=spends, where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_line_has_one_encoding(spend, where, byte):
    line = bytearray(records.dump(spend, records.FIRST))
    line[int(where * len(line))] = byte
    try:
        read_back = records.load(bytes(line), records.FIRST)
    except ValueError:
        return

    assert records.dump(read_back, records.FIRST) == line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b"1\n",
        b"null\n",
        b"{}\n",
        b"{\xff}\n",
        b"[" * 200_000,
        records.FIRST_LINE,
        records.dump(SPEND, records.FIRST)[:-1],
        records.dump(SPEND, records.FIRST).replace(b'"delta":2e-05', b'"delta":0.00002'),
        records.dump(SPEND, records.FIRST).replace(b'"delta":2e-05', b'"delta":NaN'),
        records.dump(SPEND, records.FIRST).replace(b'"delta":2e-05', b'"delta":"2e-05"'),
        records.dump(SPEND, records.FIRST).replace(b'"steps":50', b'"steps":50.0'),
        records.dump(SPEND, records.FIRST).replace(b'"steps":50', b'"steps":true'),
        records.dump(SPEND, records.FIRST).replace(b'"steps":50', b'"steps":50,"steps":50'),
        records.dump(SPEND, records.FIRST).replace(b'"steps":50', b'"extra":1,"steps":50'),
        records.dump(SPEND, records.FIRST).replace(b'"seq":1', b'"seq":1,"spare":1'),
        records.dump(SPEND, records.FIRST).replace(b'"event":{', b'"event":[],"evens":{'),
        records.dump(SPEND, records.FIRST).replace(b'"round_number":1', b'"round_number":true'),
        records.dump(SPEND, records.FIRST).replace(b'"c-1"', b'"c-\\u0031"'),
        records.dump(SPEND, records.after(records.FIRST, b"another line")),
    ],
)
def test_any_other_line_is_not_a_record(line):
    with pytest.raises(ValueError):
        records.load(line, records.FIRST)


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": ""},
        {"run_id": "a b"},
        {"run_id": "ü"},
        {"run_id": 7},
        {"coordinator": "x" * 129},
        {"cohort_id": "line\n"},
        {"round_number": 0},
        {"round_number": 1.0},
        {"round_number": True},
        {"declared_patients": 0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"time_utc": "2030-01-01 00:00"},
        {"time_utc": "2030-01-01T00:00:00+02:00"},
        {"event": replace(EVENT, sensitivity_rule="")},
        {"event": replace(EVENT, sensitivity_rule="two\nlines")},
    ],
)
def test_a_charge_that_could_not_be_written_down_is_refused(change):
    with pytest.raises(BudgetError) as refusal:
        replace(SPEND, **change)

    assert refusal.value.code == "budget-event"


# --- torn tails, damage, old backups ---------------------------------------------------------------


def test_every_cut_of_a_record_that_was_never_acknowledged_is_repaired(tmp_path, caplog):
    data, head = filled(tmp_path, 2)
    acknowledged, old_head = data.read_bytes(), head.read_bytes()
    filled(tmp_path, 3)
    whole = data.read_bytes()
    for length in range(len(acknowledged), len(whole)):
        data.write_bytes(whole[:length])
        head.write_bytes(old_head)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert rounds(tmp_path) == [1, 2]
        assert bool(caplog.records) == (length > len(acknowledged))
        assert data.read_bytes() == acknowledged

    data.write_bytes(whole)
    head.write_bytes(old_head)
    assert rounds(tmp_path) == [1, 2, 3]  # complete and valid: it may have been used, so it counts
    assert head.read_bytes() != old_head


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(min_size=1, max_size=60))
def test_a_garbage_tail_is_cut_and_the_ledger_goes_on(tmp_path, tail):
    folder = tmp_path / "ledger"
    shutil.rmtree(folder, ignore_errors=True)
    data, _ = filled(folder, 2)
    with data.open("ab") as file:
        file.write(tail)

    assert rounds(folder) == [1, 2]
    filled(folder, 3)
    assert rounds(folder) == [1, 2, 3]


def test_a_tail_that_charges_a_round_twice_is_cut(tmp_path):
    data, head = filled(tmp_path, 2)
    with data.open("ab") as file:
        file.write(records.dump(nth(2, delta=1e-5), records.load_head(head.read_bytes())))

    with Ledger.open(tmp_path) as ledger:
        assert ledger.spends() == (nth(1), nth(2))


def test_every_cut_of_acknowledged_bytes_is_refused(tmp_path):
    data, head = filled(tmp_path, 2)
    whole = data.read_bytes()
    for length in range(len(whole)):
        data.write_bytes(whole[:length])

        assert refused_as_damaged(tmp_path)
        assert data.read_bytes() == whole[:length]
    acknowledgement = head.read_bytes()
    data.write_bytes(whole)
    for length in range(len(acknowledgement)):
        head.write_bytes(acknowledgement[:length])

        assert refused_as_damaged(tmp_path)


@pytest.mark.parametrize("name", ["ledger.jsonl", "head.json"])
def test_every_single_bit_flip_is_refused_and_nothing_is_changed(tmp_path, name):
    filled(tmp_path, 2)
    file = tmp_path / name
    whole = file.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            file.write_bytes(flipped)

            assert refused_as_damaged(tmp_path)
        assert file.read_bytes() == flipped
        with pytest.raises(StoreError):
            read(tmp_path)
    file.write_bytes(whole)
    assert rounds(tmp_path) == [1, 2]


@pytest.mark.parametrize("name", ["ledger.jsonl", "head.json"])
def test_one_file_without_the_other_is_damage(tmp_path, name):
    filled(tmp_path, 1)
    (tmp_path / name).unlink()

    assert refused_as_damaged(tmp_path)
    with pytest.raises(StoreError):
        read(tmp_path)


@pytest.mark.parametrize("head", [b"null\n", b"[]\n", b'{"seq":0}\n', b"[" * 200_000, b"\xff"])
def test_a_head_of_another_form_is_damage(tmp_path, head):
    filled(tmp_path, 1)
    (tmp_path / "head.json").write_bytes(head)

    assert refused_as_damaged(tmp_path)


def test_a_ledger_torn_while_it_was_begun_is_begun_again(tmp_path):
    for length in range(len(records.FIRST_LINE) + 1):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "ledger.jsonl").write_bytes(records.FIRST_LINE[:length])

        assert rounds(folder) == []
        filled(folder, 1)
        assert rounds(folder) == [1]


def test_an_old_backup_is_noticed_by_the_head_that_was_published(tmp_path):
    filled(tmp_path / "now", 1)
    shutil.copytree(tmp_path / "now", tmp_path / "backup")
    with Ledger.open(tmp_path / "now") as ledger:
        ledger.reserve(nth(2))
        published = ledger.head
        ledger.reserve(nth(3))
        ledger.require_descends_from(published)
        ledger.require_descends_from(records.FIRST)

    with Ledger.open(tmp_path / "backup") as ledger:
        with pytest.raises(StoreError) as refusal:
            ledger.require_descends_from(published)
        assert refusal.value.code == "ledger-rollback"
        ledger.reserve(nth(2, cohort_id="c-2"))
        with pytest.raises(StoreError):
            ledger.require_descends_from(published)


# --- disks -----------------------------------------------------------------------------------------


@pytest.fixture
def file_size_limit():
    """Sets the largest size of a file, as a full disk does; lifted again afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_at_any_byte_acknowledges_nothing_and_damages_nothing(tmp_path, file_size_limit):
    data, _ = filled(tmp_path, 1)
    size = data.stat().st_size
    for room in range(0, 400, 37):
        ledger = Ledger.open(tmp_path)
        file_size_limit(size + room)
        with pytest.raises(StoreError) as refusal:
            ledger.reserve(nth(2))
        file_size_limit(resource.RLIM_INFINITY)

        assert refusal.value.code == "disk-full"
        with pytest.raises(StoreError):
            ledger.reserve(nth(2))  # closed until it is opened again
        assert rounds(tmp_path) == [1]


def test_a_full_disk_when_a_ledger_is_begun_is_refused_by_name(tmp_path, file_size_limit):
    file_size_limit(10)
    with pytest.raises(StoreError) as refusal:
        Ledger.open(tmp_path)
    file_size_limit(resource.RLIM_INFINITY)

    assert refusal.value.code == "disk-full"
    assert rounds(tmp_path) == []


def test_a_failed_write_closes_the_ledger(tmp_path):
    ledger = Ledger.open(tmp_path)
    shutil.rmtree(tmp_path)  # the head cannot be written any more

    with pytest.raises(StoreError) as refusal:
        ledger.reserve(SPEND)
    assert refusal.value.code == "ledger-write"
    with pytest.raises(StoreError, match="closed"):
        ledger.reserve(SPEND)


def test_an_interrupt_in_the_middle_of_a_commit_closes_the_ledger(tmp_path, monkeypatch):
    def interrupted(folder, head):
        raise KeyboardInterrupt

    ledger = Ledger.open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "_write_head", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ledger.reserve(SPEND)

    assert ledger.spends() == ()
    with pytest.raises(StoreError, match="closed"):
        ledger.reserve(SPEND)
    assert rounds(tmp_path) == [1]  # it was on disk already: counted, though never acknowledged


# --- kill -9 ---------------------------------------------------------------------------------------

SITE = """
import sys
from dataclasses import replace
from pathlib import Path
from federation.privacy.accounting import Event
from federation.privacy.ledger import Ledger, Spend

folder, number = Path(sys.argv[1]), int(sys.argv[2])
event = Event(0.05, 1.71, 50, sensitivity_rule="flat clipping at 1.0")
spend = Spend("r-1", 1, "north", "c-1", event, 2e-5, 5000, "2030-01-01T00:00:00Z")
with Ledger.open(folder) as ledger:
    print(flush=True)
    while True:
        number += 1
        ledger.reserve(replace(spend, round_number=number))
        print(number, flush=True)  # the release: only after the charge
"""


def kill_and_restart(folder, kills, seed):
    """A site that charges and releases as fast as it can, killed again and again. Returns releases and over-counts."""
    root, rng = Path(federation.__file__).parent.parent, random.Random(seed)
    released, number = set(), 0
    for _ in range(kills):
        site = subprocess.Popen(
            [sys.executable, "-c", SITE, str(folder), str(number)], cwd=root, stdout=subprocess.PIPE, text=True
        )
        first = [site.stdout.readline() for _ in range(1 + rng.randrange(2))]  # open; half of the time one release
        timer = threading.Timer(rng.uniform(0.0, 0.02), os.kill, (site.pid, signal.SIGKILL))
        timer.start()
        lines = [*first[1:], *site.communicate()[0].splitlines()]
        timer.join()
        released |= {int(line) for line in lines}
        charged = rounds(folder)

        assert released <= set(charged)  # never a release without a charge
        assert charged == list(range(1, len(charged) + 1))
        number = len(charged)
    return len(released), number - len(released)


def test_no_release_is_uncounted_after_kill_9(tmp_path):
    released, overcounted = kill_and_restart(tmp_path, kills=20, seed=1)

    assert released > 0
    assert overcounted <= 20  # at most the one that was under way


@pytest.mark.slow
def test_no_release_is_uncounted_after_500_kills(tmp_path):
    released, overcounted = kill_and_restart(tmp_path, kills=500, seed=2)

    assert released > 500
    assert overcounted <= 500


# --- the budget ------------------------------------------------------------------------------------

COARSE = {"interval": 1e-3}


def limit_for(steps, delta=2e-5):
    return epsilon([replace(EVENT, steps=steps)], delta, interval=1e-3)


def test_the_budget_is_refused_before_the_round_that_would_pass_it(tmp_path):
    limit, accepted = limit_for(150), 0  # three rounds of 50 steps
    with Ledger.open(tmp_path) as ledger:
        for number in range(1, 6):
            try:
                standing = ensure_within_budget(ledger, nth(number), limit, 1e-4, **COARSE)
            except BudgetError as refusal:
                assert refusal.code == "budget-exhausted"
                continue
            ledger.reserve(nth(number))
            accepted += 1

        assert accepted == 3
        assert standing.total_epsilon == standing.coordinator_epsilon == limit
        assert len(ledger.spends()) == 3


@pytest.mark.parametrize("rounds_within", range(1, 9))
def test_a_run_stops_before_its_limit_is_passed_by_any_amount_at_every_boundary(tmp_path, rounds_within):
    limit = limit_for(50 * rounds_within)
    for name, epsilon_max, expected in (
        ("at", limit, rounds_within),
        ("below", math.nextafter(limit, 0.0), rounds_within - 1),
        ("above", math.nextafter(limit, math.inf), rounds_within),
    ):
        with Ledger.open(tmp_path / name) as ledger:
            for number in range(1, rounds_within + 3):
                with suppress(BudgetError):
                    ensure_within_budget(ledger, nth(number), epsilon_max, 1e-4, **COARSE)
                    ledger.reserve(nth(number))

            assert len(ledger.spends()) == expected
            assert epsilon_of(ledger.spends(), SPEND.delta, **COARSE) <= epsilon_max


def test_a_refused_charge_writes_nothing(tmp_path):
    data, head = filled(tmp_path, 1)
    before = data.read_bytes(), head.read_bytes()
    with Ledger.open(tmp_path) as ledger, pytest.raises(BudgetError):
        ensure_within_budget(ledger, nth(2), 0.01, 1e-4, **COARSE)

    assert (data.read_bytes(), head.read_bytes()) == before


def test_a_round_that_is_charged_already_is_never_refused_and_not_counted_twice(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.reserve(nth(1))
        standing = ensure_within_budget(ledger, nth(1), 0.0, 0.0, coordinator_epsilon_max=0.0, **COARSE)

        assert standing.total_epsilon == limit_for(50)


def test_each_coordinator_has_a_share_and_all_together_have_the_total(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ledger.reserve(nth(1))
        ledger.reserve(nth(2))
        south = nth(1, run_id="r-2", coordinator="south")
        standing = ensure_within_budget(
            ledger, south, limit_for(150), 1e-4, coordinator_epsilon_max=limit_for(50), **COARSE
        )

        assert standing.total_epsilon == limit_for(150)
        assert standing.coordinator_epsilon == limit_for(50)
        with pytest.raises(BudgetError, match="coordinator's share"):
            ensure_within_budget(ledger, nth(3), limit_for(150), 1e-4, coordinator_epsilon_max=limit_for(100), **COARSE)
        with pytest.raises(BudgetError, match="site's privacy budget"):
            ensure_within_budget(ledger, south, limit_for(149), 1e-4, coordinator_epsilon_max=10.0, **COARSE)


def test_delta_is_limited_by_the_site_and_by_its_declared_patients(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        ensure_within_budget(ledger, SPEND, 10.0, 2e-5, **COARSE)  # 1 / (10 * 5000), and the site's limit: both exactly
        for spend, delta_max in [(SPEND, 1.9e-5), (replace(SPEND, declared_patients=5001), 1.0)]:
            with pytest.raises(BudgetError, match="delta"):
                ensure_within_budget(ledger, spend, 10.0, delta_max, **COARSE)


@pytest.mark.parametrize("limits", [(float("nan"), 1e-4), (10.0, float("nan"))])
def test_a_limit_that_is_not_a_number_allows_nothing(tmp_path, limits):
    with Ledger.open(tmp_path) as ledger, pytest.raises(BudgetError):
        ensure_within_budget(ledger, SPEND, *limits, **COARSE)


def test_the_head_names_the_last_record(tmp_path):
    with Ledger.open(tmp_path) as ledger:
        assert ledger.head == records.FIRST
        ledger.reserve(SPEND)

        assert isinstance(ledger.head, Head) and ledger.head.seq == 1
        assert ledger.head.length == (tmp_path / "ledger.jsonl").stat().st_size


# --- whom a charge touches -------------------------------------------------------------------------


def test_charges_of_different_parts_do_not_add_up_for_one_person():
    trained, held_out = replace(SPEND, part=(0.2, 1.0)), replace(SPEND, part=(0.0, 0.2), round_number=2)

    assert epsilon_of([trained, held_out], 2e-5, **COARSE) == epsilon([EVENT], 2e-5, **COARSE)
    assert epsilon_of([trained, nth(2)], 2e-5, **COARSE) == epsilon([EVENT, EVENT], 2e-5, **COARSE)


def test_a_person_who_was_held_out_once_and_trained_on_later_pays_for_both():
    """Two runs with different shares: who lies between them was in both."""
    persons = events_per_person([replace(SPEND, part=(0.0, 0.3)), nth(2, part=(0.2, 1.0))])

    assert sorted(len(events) for events in persons) == [1, 2]


def test_only_persons_in_the_asked_part_count():
    spends = [replace(SPEND, part=(0.2, 1.0)), nth(2, part=(0.0, 0.2))]

    assert events_per_person(spends, (SPEND.cohort_id, (0.5, 1.0))) == ((EVENT,),)
    assert events_per_person([], (SPEND.cohort_id, (0.0, 1.0))) == ((),)


def test_a_person_may_be_in_every_cohort():
    spends = [replace(SPEND, part=(0.0, 0.5)), nth(2, part=(0.5, 1.0), cohort_id="c-2")]

    assert max(len(events) for events in events_per_person(spends)) == 2


def test_in_another_cohort_a_person_of_any_part_may_be_meant():
    """Their keys were made anew, so who is held out now may be one who was trained on then."""
    trained = replace(SPEND, part=(0.2, 1.0))

    assert epsilon_of([trained], 2e-5, whom=(SPEND.cohort_id, (0.0, 0.2)), **COARSE) == 0.0
    assert epsilon_of([trained], 2e-5, whom=("c-2", (0.0, 0.2)), **COARSE) == epsilon([EVENT], 2e-5, **COARSE)


@pytest.mark.parametrize("part", [(0.5, 0.5), (0.6, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.0, float("nan")), (0.0,), "ab"])
def test_a_part_that_is_none_is_refused(part):
    with pytest.raises(BudgetError):
        replace(SPEND, part=part)


def test_a_charge_with_shared_noise_is_there_after_a_restart_and_costs_what_it_did(tmp_path):
    shared = replace(EVENT, sampling_rate=1.0, steps=1, shared=SharedNoise(4, 10))
    with Ledger.open(tmp_path) as ledger:
        ledger.reserve(nth(1, event=shared))
        ledger.reserve(nth(2))
    with Ledger.open(tmp_path) as ledger:
        assert ledger.spends() == (nth(1, event=shared), nth(2))
    with_, without = (tmp_path / "ledger.jsonl").read_bytes().splitlines()[1:]

    assert b'"shared":{"grid_bits":10,"honest_sites":4},"steps":1' in with_
    assert b"shared" not in without, "other lines are as they were"


@pytest.mark.parametrize(
    "wrong",
    [b"null", b"{}", b'{"grid_bits":10}', b'{"grid_bits":10,"honest_sites":1}', b'{"grid_bits":2,"honest_sites":9}'],
)
def test_a_charge_with_noise_shared_in_an_impossible_way_is_damage(tmp_path, wrong):
    line = records.dump(nth(1, event=replace(EVENT, shared=SharedNoise(4, 10))), records.FIRST)
    with pytest.raises(ValueError):
        records.load(line.replace(b'{"grid_bits":10,"honest_sites":4}', wrong), records.FIRST)
