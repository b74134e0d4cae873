"""The log for machines: whole lines, bounded size, no tracebacks."""

import json
import stat
from datetime import UTC, datetime

from federation.logs import JsonLog, events

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_event_is_one_json_line_with_its_time(tmp_path):
    log = JsonLog(tmp_path / "site.jsonl", now=lambda: NOW)

    log("answered", kind="train", text="a\nb")

    assert lines(tmp_path / "site.jsonl") == [
        {"time": "2026-01-02T03:04:05.000Z", "event": "answered", "kind": "train", "text": "a\nb"}
    ]
    assert stat.S_IMODE((tmp_path / "site.jsonl").stat().st_mode) == 0o600


def test_a_full_log_becomes_the_first_old_one_and_only_so_many_are_kept(tmp_path):
    log = JsonLog(tmp_path / "site.jsonl", max_bytes=300, keep=2)

    for number in range(20):
        log("event", number=number)

    assert {path.name for path in tmp_path.iterdir()} == {"site.jsonl", "site.jsonl.1", "site.jsonl.2"}
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())
    assert lines(tmp_path / "site.jsonl")[-1]["number"] == 19


def test_a_traceback_of_a_child_is_not_written_and_colours_are_taken_off(tmp_path):
    log = JsonLog(tmp_path / "site.jsonl")

    for text in ("Traceback (most recent call last):", '  File "x.py", line 1', "\x1b[92mINFO\x1b[0m: ready", ""):
        log.child_line("node", text)

    assert [line["text"] for line in lines(tmp_path / "site.jsonl")] == ["INFO: ready"]


def test_a_log_that_cannot_be_written_counts_and_does_not_stop_the_work(tmp_path):
    log = JsonLog(tmp_path / "logs" / "site.jsonl")
    (tmp_path / "logs").rmdir()

    log("event")

    assert log.failed == 1


def test_half_a_line_of_a_process_that_was_killed_is_passed_over(tmp_path):
    path = tmp_path / "site.jsonl"
    found = [list(events(path))]
    JsonLog(path)("first")
    with path.open("a") as file:
        file.write('{"event": "answ')
    found.append([one["event"] for one in events(path)])
    for event in ("glued to it", "later"):
        JsonLog(path)(event)
    found.append([one["event"] for one in events(path)])

    assert found == [[], ["first"], ["first", "later"]]
