"""The report's figures: pure functions from plain values to inline SVG.

A figure carries only shapes, words and class names; colours come from the page, so that one figure serves light, dark
and print. Nothing is told by colour alone: every row has its own marker, every series its own dash and its name. Each
figure has a <title> and a <desc> for readers who cannot see it. Words that we did not write pass through
`Markup.format`, which escapes them. Every figure is 460 units wide: full size in a column, still readable on a phone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 460
_CHAR = 6.4  # mean advance of a label, wide enough for most system fonts on a phone


@dataclass(frozen=True)
class Mark:
    """One measured value of one row ('base', 'local_only', 'federated', 'pooled'), with the words at its right."""

    row: str
    value: float | None
    low: float | None = None
    high: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Band:
    """A question or a hospital: one label and the marks that belong to it."""

    label: str
    marks: tuple[Mark, ...]
    strong: bool = False


@dataclass(frozen=True)
class Series:
    """One named line: a value per round, None where there is none. `faint` lines carry no label."""

    label: str
    values: tuple[float | None, ...]
    kind: str = "c0"
    faint: bool = False


def whiskers(
    bands: Sequence[Band], legend: Sequence[tuple[str, str]], *, name: str, title: str, description: str, chance: float
) -> Markup:
    """Dots with 95 % intervals, one band per label, the words of each mark in a column at the right."""
    ends = [x for band in bands for mark in band.marks for x in (mark.value, mark.low, mark.high) if x is not None]
    low = max(0.0, math.floor(min([*ends, chance]) * 10 - 0.3) / 10)
    high = min(1.0, max(math.ceil(max([*ends, chance]) * 10 + 0.1) / 10, low + 0.2))
    left, right, step, gap, top = 112.0, WIDTH - 108.0, 17.0, 15.0, 34.0

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    lines: list[Markup] = []
    y = top
    for band in bands:
        height = max(len(band.marks), 1) * step
        label = wrapped(band.label, 17, max(2, len(band.marks)))
        first = y + height / 2 - (len(label) - 1) * 6.5 + 4
        for i, words in enumerate(label):
            lines.append(text(0, first + 13 * i, words, "lab strong" if band.strong else "lab"))
        for i, mark in enumerate(band.marks):
            lines.append(_whisker(mark, y + (i + 0.5) * step, at, WIDTH))
        y += height + gap
        if band is not bands[-1]:
            lines.append(line(0, y - gap / 2, WIDTH, y - gap / 2, "rule"))
    bottom = y - gap + 6
    grid = [line(at(tick), top - 6, at(tick), bottom, "grid") for tick in ticks(low, high, 5)]
    grid += [text(at(tick), bottom + 14, f"{tick:.1f}", "tick", "middle") for tick in ticks(low, high, 5)]
    grid += [line(at(chance), top - 6, at(chance), bottom, "chance")]
    grid += [text(at(chance), bottom + 27, "chance", "tick", "middle")]
    return svg(name, title, description, bottom + 32, [*_legend(legend, left), *grid, *lines])


def curves(
    series: Sequence[Series],
    *,
    name: str,
    title: str,
    description: str,
    bounds: tuple[float, float] | None = None,
    limit: tuple[float, str, str] | None = None,
    say: Callable[[float | None], str],
) -> Markup:
    """Lines over rounds 1, 2, …; a gap where a value is missing; an optional dashed limit (value, words, class)."""
    known = [value for one in series for value in one.values if value is not None]
    known += [limit[0]] if limit else []
    low, high = bounds or (min(known, default=0.0), max(known, default=1.0))
    if bounds is None:
        margin = (high - low) * 0.08 or abs(high) * 0.1 or 0.5
        low, high = low - margin, high + margin
    rounds = max((len(one.values) for one in series), default=1)
    gutter = min(132.0, max((len(one.label) * 6.9 for one in series if not one.faint), default=0.0) + 12)
    left, right, top, bottom = 38.0, WIDTH - max(gutter, 10.0), 20.0, 186.0

    def at(number: float, value: float) -> tuple[float, float]:
        x = left + ((number - 1) / (rounds - 1) if rounds > 1 else 0.5) * (right - left)
        return x, bottom - (value - low) / (high - low) * (bottom - top)

    parts: list[Markup] = []
    marks = ticks(low, high, 5)
    for mark in marks:
        parts.append(line(left, at(1, mark)[1], right, at(1, mark)[1], "grid"))
        parts.append(text(left - 6, at(1, mark)[1] + 4, f"{mark:.{_places(marks)}f}", "tick", "end"))
    for number in round_ticks(rounds):
        parts.append(text(at(number, low)[0], bottom + 15, str(number), "tick", "middle"))
    parts.append(text((left + right) / 2, bottom + 30, "round", "tick", "middle"))
    if limit:
        y = at(1, limit[0])[1]
        parts += [line(left, y, right, y, f"limit {limit[2]}"), text(left + 4, y - 5, limit[1], f"lab word-{limit[2]}")]
    labels: list[tuple[float, float, Series, float]] = []
    for one in sorted(series, key=lambda s: not s.faint):
        points = [(*at(i + 1, v), v) for i, v in enumerate(one.values) if v is not None]
        parts += _path(one, [None if v is None else at(i + 1, v) for i, v in enumerate(one.values)])
        if points and not one.faint:
            labels.append((points[-1][1], points[-1][0], one, points[-1][2]))
    for y, (_, x, one, value) in zip(spread([y for y, *_ in sorted(labels, key=_height)], 25.0, top, bottom - 8),
                                     sorted(labels, key=_height), strict=True):  # fmt: skip
        parts.append(text(x + 9, y + 1, shortened(one.label, 20), f"lab strong k-{one.kind}"))
        parts.append(text(x + 9, y + 13, say(value), "val"))
    return svg(name, title, description, bottom + 34, parts)


def columns(
    series: Sequence[Series], say: Callable[[float | None], str], *, name: str, title: str, description: str
) -> Markup:
    """A group of columns per round, from zero. The first series is filled, the second outlined."""
    rounds = max((len(one.values) for one in series), default=1)
    highest = max((v for one in series for v in one.values if v is not None), default=0.0) or 1.0
    left, right, top, bottom = 52.0, WIDTH - 4.0, 30.0 if len(series) > 1 else 12.0, 150.0
    slot = (right - left) / max(rounds, 6)
    width = min(16.0, slot * 0.8 / len(series))
    parts: list[Markup] = []
    for tick in ticks(0, highest, 4):
        y = bottom - tick / highest * (bottom - top)
        parts += [line(left, y, right, y, "grid"), text(left - 6, y + 4, say(tick), "tick", "end")]
    for number in round_ticks(rounds):
        parts.append(text(left + slot * (number - 0.5), bottom + 15, str(number), "tick", "middle"))
    parts.append(text(left + slot * rounds / 2, bottom + 30, "round", "tick", "middle"))
    for k, one in enumerate(series):
        for i, value in enumerate(one.values):
            if value is not None:
                height = value / highest * (bottom - top)
                x = left + slot * (i + 0.5) + width * (k - len(series) / 2)
                parts.append(rectangle(x + 0.75, bottom - height, width - 1.5, height, f"bar b{k}"))
    if len(series) > 1:
        for k, one in enumerate(series):
            parts.append(rectangle(left + 118 * k + 0.5, 4, 11, 11, f"bar b{k}"))
            parts.append(text(left + 118 * k + 17, 14, one.label, "lab"))
    return svg(name, title, description, bottom + 34, parts)


def bars(items: Sequence[tuple[str, float, str]], *, name: str, title: str, description: str) -> Markup:
    """Horizontal bars from zero: (label, value, words)."""
    highest = max((value for _, value, _ in items), default=0.0) or 1.0
    left, right, step = 112.0, WIDTH - 84.0, 22.0
    parts: list[Markup] = []
    for i, (label, value, words) in enumerate(items):
        y = 4 + i * step
        parts.append(text(0, y + 13, shortened(label, 18), "lab"))
        parts.append(rectangle(left, y + 3, max(value / highest * (right - left), 0.5), 12, "bar b0"))
        parts.append(text(left + max(value, 0) / highest * (right - left) + 7, y + 13, words, "val"))
    return svg(name, title, description, 8 + len(items) * step, parts)


def attendance(
    sites: Sequence[str],
    rounds: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    name: str,
    title: str,
    description: str,
) -> Markup:
    """Who took part: a row per site, a column per round; cells are 'took', 'refused' or ''. `rounds` flags a column."""
    left, top, step = 112.0, 42.0, 16.0
    slot = min(26.0, (WIDTH - left) / max(len(rounds), 1))
    parts = [rectangle(left, 2, 11, 11, "cell took"), text(left + 16, 12, "took part", "lab"),
             *_cross(left + 97, 7.5, 4), text(left + 107, 12, "refused", "lab"),
             circle(left + 176, 7.5, 1.6, "absent"), text(left + 185, 12, "no answer", "lab")]  # fmt: skip
    for number in round_ticks(len(rounds)):
        parts.append(text(left + slot * (number - 0.5), top - 6, str(number), "tick", "middle"))
    for i, site in enumerate(sites):
        y = top + i * step
        parts.append(text(0, y + 12, shortened(site, 18), "lab"))
        for j, cell in enumerate(cells[i]):
            x = left + j * slot
            if cell == "took":
                parts.append(rectangle(x + 1, y + 4, max(slot - 2, 1), 9, "cell took"))
            elif cell == "refused":
                parts += _cross(x + slot / 2, y + 8.5, min(4.0, slot / 2))
            else:
                parts.append(circle(x + slot / 2, y + 8.5, min(1.6, slot / 4), "absent"))
    bottom = top + len(sites) * step
    for j, flag in enumerate(rounds):
        if flag:
            parts.append(text(left + (j + 0.5) * slot, bottom + 13, "✕", "tick warn", "middle"))
    if any(rounds):
        parts.append(text(0, bottom + 13, "aggregate rejected", "tick"))
    return svg(name, title, description, bottom + 20, parts)


def meter(value: float, *, row: str, title: str) -> Markup:
    """A probability as a thin bar from 0 to 1, with a mark at one half."""
    x = min(max(value, 0.0), 1.0) * 100
    body = [
        rectangle(0, 3, 100, 4, "track"),
        rectangle(0, 3, max(x, 0.8), 4, f"bar m-{row}"),
        line(50, 0, 50, 10, "half"),
    ]
    return Markup(
        '<svg class="meter" viewBox="0 0 100 10" preserveAspectRatio="none" role="img"><title>{}</title>{}</svg>'
    ).format(title, Markup("").join(body))


def svg(name: str, title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    """The frame of a figure: named and described, no size of its own but its shape."""
    return Markup(
        '<svg class="figure" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{}</svg>'
    ).format(WIDTH, math.ceil(height), name, name, name, title, name, description, Markup("").join(parts))


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> Markup:
    place = Markup("") if anchor == "start" else Markup(' text-anchor="{}"').format(anchor)
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}"{}>{}</text>').format(x, y, kind, place, words)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"/>')
    return shape.format(x, y, max(width, 0.3), max(height, 0.0), kind)


def circle(x: float, y: float, radius: float, kind: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" class="{}"/>').format(x, y, radius, kind)


def marker(row: str, x: float, y: float) -> Markup:
    """Each row's own shape: ring, triangle, diamond, square (and a disc for any other)."""
    if row == "base":
        return circle(x, y, 4, "mark m-base")
    if row == "pooled":
        return rectangle(x - 3.8, y - 3.8, 7.6, 7.6, "mark m-pooled")
    corners = {"local_only": ((0, -4.8), (4.8, 3.6), (-4.8, 3.6)), "federated": ((0, -6), (6, 0), (0, 6), (-6, 0))}
    if row not in corners:
        return circle(x, y, 4, "mark m-other")
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners[row])
    return Markup('<polygon points="{}" class="mark m-{}"/>').format(points, row)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers (1, 2, 2.5 or 5 times a power of ten) within [low, high].

    >>> ticks(0, 1, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if m * power * most >= (high - low) * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def round_ticks(rounds: int) -> list[int]:
    """Which rounds get a number: the first, the last, and round numbers between that keep clear of both.

    >>> round_ticks(5), round_ticks(24)
    ([1, 2, 3, 4, 5], [1, 5, 10, 15, 20, 24])
    """
    if rounds <= 12:
        return list(range(1, rounds + 1))
    step = next(m * 10**p for p in range(9) for m in (1, 2, 5) if m * 10**p * 6 >= rounds)
    return [1, *(n for n in range(step, rounds, step) if n > step / 2 and n + step / 2 < rounds and n > 1), rounds]


def spread(wanted: Sequence[float], apart: float, top: float, bottom: float) -> list[float]:
    """Move sorted label heights so that neighbours stay `apart`, and as many as fit end above `bottom`.

    >>> spread([100, 102, 180], 12, 0, 186)
    [100, 112, 180]
    """
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + apart) if placed else max(y, top))
    for i in reversed(range(len(placed))):
        floor = bottom if i == len(placed) - 1 else placed[i + 1] - apart
        placed[i] = min(placed[i], floor)
    return placed


def shortened(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def wrapped(words: str, width: int, most: int) -> list[str]:
    """Break into lines at spaces; what does not fit ends in an ellipsis.

    >>> wrapped("Is there a pleural effusion?", 12, 2)
    ['Is there a', 'pleural eff…']
    """
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width and len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return [shortened(one, width) for one in lines]


def _whisker(mark: Mark, y: float, at: Callable[[float], float], width: float) -> Markup:
    parts: list[Markup] = []
    if mark.value is not None:
        if mark.low is not None and mark.high is not None:
            a, b = at(mark.low), at(mark.high)
            kind = f"whisker m-{mark.row}"
            parts += [line(a, y, b, y, kind), line(a, y - 3, a, y + 3, kind), line(b, y - 3, b, y + 3, kind)]
        parts.append(marker(mark.row, at(mark.value), y))
    parts.append(text(width, y + 4, mark.words, "val" if mark.value is not None else "val none", "end"))
    return Markup("").join(parts)


def _legend(legend: Sequence[tuple[str, str]], left: float) -> list[Markup]:
    x = max(0.0, min(left, WIDTH - sum(len(words) * _CHAR + 32 for _, words in legend)))
    parts: list[Markup] = []
    for row, words in legend:
        parts += [marker(row, x + 7, 9), text(x + 17, 13, words, "lab")]
        x += len(words) * _CHAR + 32
    return parts


def _path(one: Series, points: Sequence[tuple[float, float] | None]) -> list[Markup]:
    moves: list[str] = []
    for before, point in zip([None, *points], points, strict=False):
        if point is not None:
            moves.append(f"{'M' if before is None else 'L'}{point[0]:.1f} {point[1]:.1f}")
    kind = "faint" if one.faint else f"k-{one.kind}"
    parts = [Markup('<path d="{}" class="curve {}"><title>{}</title></path>').format(" ".join(moves), kind, one.label)]
    if not one.faint:
        known = [point for point in points if point is not None]
        shown = known if len(known) <= 16 else known[-1:]
        parts += [circle(*point, 2.6, f"dot k-{one.kind}") for point in shown]
    return parts


def _cross(x: float, y: float, half: float) -> list[Markup]:
    return [
        line(x - half, y - half, x + half, y + half, "cross"),
        line(x - half, y + half, x + half, y - half, "cross"),
    ]


def _height(label: tuple[float, float, Series, float]) -> float:
    return label[0]


def _places(marks: Sequence[float]) -> int:
    return next((places for places in range(6) if all(abs(round(m, places) - m) < 1e-9 for m in marks)), 6)
