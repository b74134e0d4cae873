"""How the report words its numbers: short, honest, and never rounded in our own favour.

A privacy figure is rounded up, so that the page never claims less loss than the accountant computed. Everything else is
rounded to nearest. A missing number is an em dash, a withheld one says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ABSENT = "—"
_SLACK = 1 - 1e-12  # so that the binary neighbour of 3.00 does not become 3.01
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Metric:
    """One measured figure with its 95 % interval, or the reason why there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    withheld: str = ""

    @property
    def known(self) -> bool:
        return self.value is not None


def number(value: object) -> float | None:
    """A finite float, or None for anything else (a bool, NaN and infinity are no numbers here)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def part(value: object, *path: str) -> Mapping[str, Any]:
    """The mapping found by following `path`; empty where anything on the way is missing."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def metric(value: object) -> Metric:
    """Read `{"value", "ci95", "n", "withheld"}`, a plain number, or nothing at all."""
    if not isinstance(value, Mapping):
        return Metric(number(value))
    withheld = value.get("withheld")
    if withheld:
        return Metric(withheld=str(withheld) if isinstance(withheld, str) else "withheld")
    interval = value.get("ci95")
    ends = [number(end) for end in interval] if isinstance(interval, list | tuple) else []
    low, high = ends if len(ends) == 2 and None not in ends else (None, None)
    n = number(value.get("n"))
    return Metric(number(value.get("value")), low, high, None if n is None else int(n))


def figure(value: float | None, places: int = 2) -> str:
    """
    >>> figure(0.84159), figure(-0.002), figure(None)
    ('0.84', '0.00', '—')
    """
    if value is None:
        return ABSENT
    text = f"{value:.{places}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{places}f}"


def signed(value: float, places: int = 2) -> str:
    return figure(value, places) if value < 0 and figure(value, places).startswith("−") else "+" + figure(value, places)


def interval(measured: Metric, places: int = 2) -> str:
    """The 95 % interval in brackets, or nothing."""
    if measured.low is None or measured.high is None:
        return ""
    return f"[{figure(measured.low, places)}–{figure(measured.high, places)}]"


def epsilon(value: float | None) -> str:
    """Two decimals, rounded up.

    >>> epsilon(2.981), epsilon(3.0), epsilon(0.0), epsilon(None)
    ('2.99', '3.00', '0.00', '—')
    """
    if value is None:
        return ABSENT
    return f"{math.ceil(value * 100 * _SLACK) / 100:.2f}"


def delta(value: float | None) -> str:
    """Two figures, rounded up, as a power of ten.

    >>> delta(1e-5), delta(1 / 12000), delta(0.0)
    ('1.0 × 10⁻⁵', '8.4 × 10⁻⁵', '0')
    """
    if value is None:
        return ABSENT
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value))
    mantissa = math.ceil(value / 10.0**exponent * 10 * _SLACK) / 10
    if mantissa >= 10:
        mantissa, exponent = mantissa / 10, exponent + 1
    return f"{mantissa:.1f} × 10{str(exponent).translate(_SUPERSCRIPT)}"


def size(value: float | None) -> str:
    """Bytes in decimal units.

    >>> size(999), size(1_940_000), size(999_960), size(722_000), size(None)
    ('999 B', '1.9 MB', '1.0 MB', '722 kB', '—')
    """
    if value is None:
        return ABSENT
    for unit in ("B", "kB", "MB", "GB"):
        if round(value, 1) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def seconds(value: float | None) -> str:
    """
    >>> seconds(0.0314), seconds(75.2), seconds(7_260), seconds(None)
    ('0.03 s', '1 min 15 s', '2 h 1 min', '—')
    """
    if value is None:
        return ABSENT
    if value < 59.95:
        return "0 s" if value == 0 else f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(value: object) -> str:
    """
    >>> count(178432) == "178\N{NARROW NO-BREAK SPACE}432", count(16), count("?")
    (True, '16', '—')
    """
    known = number(value)
    return ABSENT if known is None else f"{known:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plural(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def listing(names: list[str], most: int = 6) -> str:
    """
    >>> listing(["a", "b", "c"]), listing(["a", "b", "c", "d"], most=2)
    ('a, b and c', 'a, b and 2 more')
    """
    shown = names if len(names) <= most else [*names[:most], f"{len(names) - most} more"]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + (f" and {shown[-1]}" if shown else "")


def detected(epsilon_value: float, delta_value: float, false_alarms: float = 0.01) -> float:
    """Largest share of taking-part patients that any test can point out at this false-alarm rate.

    The trade-off of (ε, δ)-differential privacy, Kairouz, Oh, Viswanath 2015, theorem 2.1: both inequalities at once.

    >>> round(detected(0.0, 0.0), 3), round(detected(3.0, 1e-5), 3)
    (0.01, 0.201)
    """
    grow = math.exp(min(epsilon_value, 700.0))
    return max(0.0, min(1.0, grow * false_alarms + delta_value, 1 - (1 - delta_value - false_alarms) / grow))
