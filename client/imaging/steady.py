"""Can the site's clock be believed? Ages in days are measured with it, and raw data is removed for its age.

A clock that is set ahead makes everything old at once. Within a process the monotonic clock shows that; between two
processes nothing does, but a short time between their looks. So the clock is believed once it has run steadily for a
day, and who sets it right within that day has lost nothing. While it is doubted, data stays longer, and never shorter.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from federation import durable

STEADY_S = 86_400.0
"""For so long a clock runs steadily before it is believed; a pause of the process up to so long is no doubt."""
_SKEW_S = 60.0  # what NTP corrects in one step, and more


class SteadyClock:
    """The site's clock, watched. The file holds since when it has run steadily; its time is that of the last look."""

    def __init__(self, path: Path, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._monotonic_s = path, monotonic_s
        self._last: tuple[float, float] | None = None
        self._since_s: float | None = None

    def is_steady(self, now_s: float) -> bool:
        """Look again, at the site's time `now_s`. Whether the clock may be believed."""
        tick_s = self._monotonic_s()
        if self._jumped(now_s, tick_s) or self._since_s is None:
            self._since_s = now_s
            durable.write(self._path, [f"{now_s!r}\n".encode("ascii")])
            self._path.chmod(0o600)
        os.utime(self._path, (now_s, now_s))
        self._last = (now_s, tick_s)
        return now_s - self._since_s >= STEADY_S

    def _jumped(self, now_s: float, tick_s: float) -> bool:
        if self._last is not None:
            return abs((now_s - self._last[0]) - (tick_s - self._last[1])) > _SKEW_S
        try:
            looked_s, self._since_s = self._path.stat().st_mtime, float(self._path.read_bytes())
        except (OSError, ValueError):
            return True
        return not (self._since_s <= looked_s <= now_s <= looked_s + STEADY_S)
