"""The log: what was acknowledged stays as it is, or the log refuses to be read and says where."""

import shutil

import pytest

from federation.errors import TrustError
from federation.trust import merkle, translog
from federation.trust.keys import SigningKey
from federation.trust.translog import TransLog

KEY, OTHER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2))
ORIGIN = "lung/run-1"


def entry(number: int) -> dict:
    return {"type": "note", "number": number, "text": "x" * number}


@pytest.fixture
def folder(tmp_path):
    with TransLog.open(tmp_path / "log", ORIGIN, KEY) as log:
        log.append(entry(0))
        log.append(entry(1), entry(2), entry(3))
        log.append(entry(4))
    return tmp_path / "log"


def code(call, *arguments, **named) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments, **named)
    assert caught.value.hint
    return caught.value.code


def read(folder):
    return translog.read_log(folder, ORIGIN, KEY.public)


def test_a_log_is_the_same_after_it_is_opened_again(folder):
    with TransLog.open(folder, ORIGIN, KEY) as log:
        assert log.entries == [entry(n) for n in range(5)]
        assert log.head() == read(folder).head()
        log.append(entry(5))

    assert read(folder).entries == tuple(entry(n) for n in range(6))


def test_every_flipped_bit_is_found_and_changes_nothing(folder, tmp_path):
    for name in (translog.LOG_NAME, translog.CHECKPOINT_NAME):
        whole = (folder / name).read_bytes()
        for place in range(0, len(whole), 3):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            (folder / name).write_bytes(changed)
            assert code(read, folder) in ("log-altered", "signature")
            assert code(TransLog.open, folder, ORIGIN, KEY) in ("log-altered", "signature")
            assert (folder / name).read_bytes() == changed
        (folder / name).write_bytes(whole)


def test_a_changed_line_is_named(folder):
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"number":2', b'"number":7')
    (folder / "log.jsonl").write_bytes(b"".join(lines))

    with pytest.raises(TrustError, match="line 4 of 5 names another line before it"):
        read(folder)


def test_removed_added_and_exchanged_lines_are_found(folder):
    lines = (folder / "log.jsonl").read_bytes().splitlines(keepends=True)
    for changed in (lines[:-1], lines[1:], [lines[1], lines[0], *lines[2:]], [*lines[:2], *lines[3:]]):
        (folder / "log.jsonl").write_bytes(b"".join(changed))
        assert code(read, folder) == "log-altered"


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_tail_is_cut_and_what_was_acknowledged_stays(folder, cut):
    before = (folder / "log.jsonl").read_bytes()
    with TransLog.open(folder, ORIGIN, KEY) as log:
        head = log.head()
        log.append(entry(9))
    torn = (folder / "log.jsonl").read_bytes()[: len(before) + cut]
    (folder / "log.jsonl").write_bytes(torn)
    (folder / "checkpoint").write_bytes(translog.note(head, ORIGIN, KEY))

    with TransLog.open(folder, ORIGIN, KEY) as log:
        assert log.head() == head
    assert (folder / "log.jsonl").read_bytes() == before


def test_whole_lines_after_the_head_are_kept_when_it_is_opened_again(folder):
    with TransLog.open(folder, ORIGIN, KEY) as log:
        head = log.head()
        log.append(entry(9))
    (folder / "checkpoint").write_bytes(translog.note(head, ORIGIN, KEY))

    assert len(read(folder).entries) == 5
    assert code(translog.require_whole, folder, read(folder)) == "log-altered"
    with TransLog.open(folder, ORIGIN, KEY) as log:
        assert log.head().size == 6
    translog.require_whole(folder, read(folder))


def test_a_log_without_its_head_is_refused(folder):
    (folder / "checkpoint").unlink()

    assert code(read, folder) == "log-altered"
    assert code(TransLog.open, folder, ORIGIN, KEY) == "log-altered"


def test_another_key_or_another_log_is_refused(folder):
    assert code(translog.read_log, folder, "lung/run-2", KEY.public) == "log-altered"
    assert code(translog.read_log, folder, ORIGIN, OTHER.public) == "log-altered"
    head = read(folder).head()
    forged = translog.note(head, ORIGIN, KEY).replace(b"\n5\n", b"\n4\n")
    assert code(translog.read_note, forged, ORIGIN, KEY.public) == "signature"


def test_one_writer_at_a_time(folder):
    with TransLog.open(folder, ORIGIN, KEY):
        assert code(TransLog.open, folder, ORIGIN, KEY) == "log-busy"


def test_a_closed_log_takes_nothing(folder):
    log = TransLog.open(folder, ORIGIN, KEY)
    log.close()

    assert code(log.append, entry(1)) == "log-write"


def test_a_log_begins_with_every_head_it_ever_had_and_with_no_other(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "fork")
    with TransLog.open(folder, ORIGIN, KEY) as log, TransLog.open(tmp_path / "fork", ORIGIN, KEY) as fork:
        early = log.head()
        seen = log.append(entry(5))
        other = fork.append(entry(6))
        log.append(entry(7))
        proof = log.proof_since(seen.size)
        now = log.head()

    whole = read(folder)
    whole.require_beginning(early)
    whole.require_beginning(seen)
    assert code(whole.require_beginning, other) == "log-fork"
    assert code(read(tmp_path / "fork").require_beginning, now) == "log-fork"
    roots = [bytes.fromhex(head.root) for head in (seen, other, now)]
    assert merkle.consistent(seen.size, roots[0], now.size, roots[2], proof)
    assert not merkle.consistent(other.size, roots[1], now.size, roots[2], proof)


def test_the_head_is_a_signed_note_that_other_tools_read(folder):
    """C2SP signed-note: text, an empty line, then a dash, the name and base64(key id, signature)."""
    text, _, line = (folder / "checkpoint").read_text(encoding="utf-8").partition("\n\n")
    origin, size, root = text.split("\n")

    assert (origin, size, len(root)) == (ORIGIN, "5", 44)
    assert line.startswith(f"\N{EM DASH} {ORIGIN} ") and line.endswith("\n")
