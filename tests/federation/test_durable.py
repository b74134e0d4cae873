"""Files that are replaced whole, and slots that are written in place."""

import os
import resource
import signal

import pytest

from federation import durable
from federation.errors import StoreError


def test_a_file_is_replaced_whole(tmp_path):
    durable.write(tmp_path / "file", [b"first"])
    durable.write(tmp_path / "file", [b"sec", memoryview(b"ond")])

    assert (tmp_path / "file").read_bytes() == b"second" and os.listdir(tmp_path) == ["file"]


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    def pieces():
        yield b"half"
        raise KeyboardInterrupt

    durable.write(tmp_path / "file", [b"old"])
    with pytest.raises(KeyboardInterrupt):
        durable.write(tmp_path / "file", pieces())

    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("second", [b"", b"shorter", b"longer than the first one"])
def test_a_slot_holds_exactly_what_was_written_last(tmp_path, second):
    durable.overwrite(tmp_path / "slot", [b"the first one"])
    durable.overwrite(tmp_path / "slot", [second])

    assert (tmp_path / "slot").read_bytes() == second


@pytest.mark.parametrize("write", [durable.write, durable.overwrite])
def test_a_full_disk_is_our_own_error(tmp_path, write):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(StoreError) as caught:
            write(tmp_path / "file", [bytes(600), bytes(600)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)

    assert caught.value.code == "disk-full"
