"""The attacks as one SVG: lower bounds beside claims, and what a model remembers with and without privacy."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

WIDTH, ROW, LEFT, SPAN = 760, 24, 330, 330
MOST = 100.0  # bounds beyond are cut off here


def picture(result: Mapping[str, Any]) -> str:
    """A picture that opens by itself: no script, no font, nothing from outside."""
    audits, membership = result["audits"], result.get("membership")
    parts, y = [_text(16, 26, "Lower bounds on epsilon, by attack", size=15, weight="bold")], 44
    for row in audits:
        claimed, bound = float(row["claimed_epsilon"]), float(row["lower_bound"])
        name = row["name"] + (f", {row['planted_bug']}" if row["planted_bug"] else "")
        found = f"{row['caught']} of {row['runs']} above the claim"
        right = row["planted_bug"] is None
        parts.append(_text(16, y + 15, name))
        parts.append(_box(LEFT, y + 4, _x(bound), ROW - 10, "#2f6f4f" if right else "#b3472c"))
        parts.append(_line(LEFT + _x(claimed), y, y + ROW - 2))
        parts.append(_text(LEFT + SPAN + 8, y + 15, found, size=10))
        y += ROW
    parts.append(_text(LEFT, y + 14, "bar: lower bound (log); line: the claim; green: the right code", size=10))
    y += 40
    if membership:
        parts.append(_text(16, y, "Who was trained on? Area under the ROC of the attacker", size=15, weight="bold"))
        for name, words in (("without_dp", "without privacy"), ("with_dp", f"epsilon {membership['epsilon']:g}")):
            y += ROW
            auc, bits = float(membership[f"auc_{name}"]), float(membership[f"exposure_bits_{name}"])
            parts.append(_text(16, y + 15, words))
            parts.append(_box(LEFT, y + 4, SPAN * auc, ROW - 10, "#b3472c" if name == "without_dp" else "#2f6f4f"))
            parts.append(_text(LEFT + SPAN + 8, y + 15, f"{auc:.2f}, {bits:.1f} of 3 bits", size=10))
        parts.append(_line(LEFT + SPAN * 0.5, y - ROW, y + ROW))
        y += ROW + 16
        parts.append(_text(LEFT, y, "line: a coin", size=10))
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 16}" width="{WIDTH}" role="img" '
        f'font-family="system-ui, sans-serif"><title>Attacks on the mechanism</title>'
        f'<rect width="{WIDTH}" height="{y + 16}" fill="#ffffff"/>{body}</svg>\n'
    )


def _x(epsilon: float) -> float:
    """A length for an epsilon: logarithmic from 0.1."""
    cut = min(max(epsilon, 0.1), MOST)
    return SPAN * math.log(cut / 0.1) / math.log(MOST / 0.1)


def _text(x: float, y: float, words: str, *, size: int = 12, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="#222">{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.0):.1f}" height="{height}" fill="{colour}"/>'


def _line(x: float, top: float, bottom: float) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="#111" stroke-width="2"/>'
