"""Segmented palettes become the tables that they mean, with nothing between or behind."""

import numpy as np
import pytest

from client.imaging.palettes import unfolded


def words(*numbers: int) -> bytes:
    return np.array(numbers, dtype="<u2").tobytes()


@pytest.mark.parametrize(
    ("segments", "table"),
    [
        ([0, 3, 5, 6, 7], [5, 6, 7]),
        ([0, 1, 0, 1, 4, 200], [0, 50, 100, 150, 200]),
        ([0, 1, 9, 1, 3, 9], [9, 9, 9, 9]),
        ([0, 2, 1, 2, 2, 1, 0, 0, 0, 0, 0, 1, 8], [1, 2, 1, 2, 8]),
    ],
)
def test_segments_of_eight_bits_mean_a_table(segments: list[int], table: list[int]) -> None:
    assert list(unfolded(bytes(segments), len(table), 8)) == table


def test_segments_of_sixteen_bits_mean_a_table() -> None:
    made = unfolded(words(0, 1, 1000, 1, 3, 4000, 0, 1, 65535), 5, 16)
    assert np.frombuffer(made, "<u2").tolist() == [1000, 2000, 3000, 4000, 65535]


def test_what_stands_behind_a_full_table_is_not_read() -> None:
    assert unfolded(b"\0\2\5\6" + b"Quixano^Alonso", 2, 8) == b"\5\6"


@pytest.mark.parametrize(
    "segments",
    [b"", b"\0\2\5\6", b"\1\4\7", b"\7\1\1", b"\0\1\1\2\1\0", b"\2\1\0\0\0\0", b"\0\1\1\2\xff\0\0\0\0",
     b"\0\1\1\2\1\3\0\0\0", b"\0\0" * 200],
    ids=["empty", "short", "line from nothing", "unknown", "early", "again nothing", "again", "itself", "no numbers"],
)  # fmt: skip
def test_segments_that_mean_no_table_are_refused(segments: bytes) -> None:
    with pytest.raises(ValueError, match="palette"):
        unfolded(segments, 4096, 8)


def test_offsets_that_readers_count_differently_are_refused() -> None:
    with pytest.raises(ValueError, match="palette"):
        unfolded(words(0, 1, 1000, 2, 1, 0, 0), 2, 16)
