"""A clock that is set ahead makes nothing old: it is believed once it has run steadily for a day."""

from pathlib import Path

import pytest

from client.imaging.steady import STEADY_S, SteadyClock

NOON = 1_800_000_000.0
DAY = 86_400.0


class Times:
    """The site's clock and the monotonic one; `pass_s` moves both, `set_s` the first only."""

    def __init__(self, path: Path) -> None:
        self.now_s, self.tick_s = NOON, 5.0
        self._path = path
        self.start()

    def start(self) -> None:
        """A new process; after a reboot the monotonic clock begins anew."""
        self.clock = SteadyClock(self._path, lambda: self.tick_s)
        self.tick_s = 0.0

    def pass_s(self, seconds: float, every_s: float = 600.0) -> bool:
        """Look again and again while so much time passes; what the last look said."""
        steady = self.clock.is_steady(self.now_s)
        for _ in range(int(seconds / every_s)):
            self.now_s += every_s
            self.tick_s += every_s
            steady = self.clock.is_steady(self.now_s)
        return steady


@pytest.fixture
def times(tmp_path: Path) -> Times:
    return Times(tmp_path / "clock")


def test_a_new_receiver_believes_its_clock_after_a_day(times: Times) -> None:
    assert not times.pass_s(STEADY_S - 600)
    assert times.pass_s(600)


@pytest.mark.parametrize("by_s", [30 * DAY, -30 * DAY, 3600.0])
def test_a_clock_that_is_set_is_doubted_for_a_day(times: Times, by_s: float) -> None:
    assert times.pass_s(2 * DAY)
    times.now_s += by_s
    assert not times.pass_s(DAY - 600)
    times.now_s -= by_s  # set right in time

    assert not times.pass_s(DAY - 600)
    assert times.pass_s(1200)


def test_small_corrections_and_a_short_pause_are_no_doubt(times: Times) -> None:
    assert times.pass_s(2 * DAY)
    times.now_s += 30
    assert times.pass_s(600)
    times.start()
    times.now_s += 14 * 3600

    assert times.pass_s(0)


@pytest.mark.parametrize("by_s", [30 * DAY, -30 * DAY])
def test_a_clock_that_was_set_while_nothing_ran_is_doubted(times: Times, by_s: float) -> None:
    assert times.pass_s(2 * DAY)
    times.start()
    times.now_s += by_s

    assert not times.pass_s(DAY - 600) and times.pass_s(1200)


@pytest.mark.parametrize("text", ["", "x", "9999999999999", "nan", "-1e400"])
def test_a_damaged_file_is_no_steady_clock(times: Times, tmp_path: Path, text: str) -> None:
    times.pass_s(2 * DAY)
    (tmp_path / "clock").write_text(text)
    times.start()

    assert not times.pass_s(0) and times.pass_s(DAY)


def test_being_started_every_hour_does_not_put_it_off_for_ever(times: Times) -> None:
    for _ in range(25):
        times.pass_s(3000)
        times.start()
        times.now_s += 600

    assert times.pass_s(0)
