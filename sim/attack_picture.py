"""The attacks as one SVG: lower bounds beside claims, and what a model remembers with and without privacy."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, ROW, LEFT, SPAN = 760, 24, 300, 330
MOST = 100.0  # bounds beyond are cut off here
GOOD, BAD, GREY = "#2f6f4f", "#b3472c", "#666"
CHANCE_BITS = 3.0 - math.log2(math.factorial(8)) / 8  # of a word ranked by chance among eight


def picture(result: Mapping[str, Any]) -> str:
    """A picture that opens by itself: no script, no font, nothing from outside."""
    parts, y = _audits(result["audits"], 30) if result["audits"] else ([], 4.0)
    if result.get("membership"):
        more, y = _membership(result["membership"], y + 30)
        parts += more
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 12:.0f}" width="{WIDTH}" role="img" '
        f'font-family="system-ui, sans-serif"><title>Attacks on the mechanism</title>'
        f'<rect width="{WIDTH}" height="{y + 12:.0f}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _audits(rows: list[Mapping[str, Any]], y: float) -> tuple[list[str], float]:
    """One bar per attack, under the name of its audit; the black line is what the accountant claims."""
    parts = [_text(16, y, "Can an attacker beat the stated epsilon?", size=15, weight="bold")]
    parts.append(
        _text(16, y + 18, "Bars: epsilon that the attack proves, at least. Black line: the claim.", colour=GREY)
    )
    top = y + 50
    y, audit = top, ""
    for row in rows:
        if row["name"] != audit:
            audit = str(row["name"])
            y += 6
            parts.append(_text(16, y + 12, audit.replace("-", " "), weight="bold", size=11))
            y += ROW - 4
        claimed, bound = float(row["claimed_epsilon"]), float(row["lower_bound"])
        bug = row["planted_bug"]
        parts.append(_text(32, y + 13, f"bug: {bug}" if bug else "the code as it is"))
        parts.append(_box(LEFT, y + 3, _x(bound), ROW - 10, BAD if bug else GOOD))
        parts.append(_line(LEFT + _x(claimed), y, y + ROW - 4))
        said = "more" if bound > MOST else f"{bound:.1f}"
        verdict = f"{row['caught']} of {row['runs']} above the claim"
        within = _x(bound) > (SPAN - 30 if bug else 30)  # beside the bar it would meet the edge, or the claim
        x, colour = (_x(bound) - (32 if bound > MOST else 22), "#fff") if within else (_x(bound) + 6, "#222")
        parts.append(_text(LEFT + x, y + 13, said, size=10, colour=colour))
        parts.append(_text(LEFT + SPAN + 10, y + 13, verdict, size=10, colour=GREY))
        y += ROW - 2
    grid = []
    for tick in (0.1, 1.0, 10.0, 100.0):
        grid.append(_line(LEFT + _x(tick), top - 2, y, colour="#ddd", width=1))
        grid.append(_text(LEFT + _x(tick) - 6, top - 6, f"{tick:g}", size=10, colour=GREY))
    return grid + parts, y + 6


def _membership(made: Mapping[str, Any], y: float) -> tuple[list[str], float]:
    """Two panels: whether an attacker can tell who was trained on, and how much of their secret is left."""
    heading = f"What a model remembers of {made['patients']} patients, after the same training"
    parts = [_text(16, y, heading, size=15, weight="bold")]
    panels = (
        ("auc", "who was trained on? (AUC)", 0.5, 1.0, 0.5, "a coin", ""),
        ("exposure_bits", "their secret word (of 3 bits)", 0.0, 3.0, CHANCE_BITS, "chance", " bits"),
    )
    top, wide = y + 44, 240
    for number, (key, title, low, high, chance, name, unit) in enumerate(panels):
        left = 150 + number * 320
        parts.append(_text(left, y + 26, title, weight="bold", size=11))
        for place, (world, epsilon) in enumerate(made["epsilon"].items()):
            row = top + place * ROW
            if number == 0:
                parts.append(_text(16, row + 13, "without privacy" if epsilon is None else f"epsilon {epsilon:g}"))
            value = float(made[f"{key}_{world}"])
            length = wide * min(max((value - low) / (high - low), 0.0), 1.0)
            parts.append(_box(left, row + 2, length, ROW - 9, BAD if epsilon is None else GOOD))
            digits = f"{value:.2f}" if key == "auc" else f"{value:.1f}{unit}"
            parts.append(_text(left + length + 5, row + 13, digits, size=10))
        bottom = top + len(made["epsilon"]) * ROW
        x = left + wide * (chance - low) / (high - low)
        parts.append(_line(x, top - 2, bottom))
        parts.append(_text(x, bottom + 12, name, size=10, colour=GREY))
    return parts, top + len(made["epsilon"]) * ROW + 18


def _x(epsilon: float) -> float:
    """A length for an epsilon: logarithmic from 0.1."""
    cut = min(max(epsilon, 0.1), MOST)
    return SPAN * math.log(cut / 0.1) / math.log(MOST / 0.1)


def _text(x: float, y: float, words: str, *, size: int = 12, weight: str = "normal", colour: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.0):.1f}" height="{height}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float, *, colour: str = "#111", width: int = 2) -> str:
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{colour}" stroke-width="{width}"/>'
    )
