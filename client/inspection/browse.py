"""What the inspection page asks of a store: an overview, examples page by page, one example. Nothing is held in memory.

Examples come in the order of their keys. Keys are keyed pseudonyms, so this order is as good as a random one, and the
first n of it are a fair sample.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from client.imaging.reasons import Reason, explained
from client.imaging.record import PictureFields
from client.imaging.store import Store
from client.imaging.withheld import DEVICE, device_words

PAGE = 48
PLACEHOLDER = re.compile(r"\[(?:NAME|DATE|ID|PLACE|PHONE|AGE|[A-Z]{2,12})\]")
_FIRST_PICTURE = "LEFT JOIN picture p ON p.picture_key = json_extract(e.pictures, '$[0]')"


@dataclass(frozen=True)
class Wanted:
    """What a person looks for; empty means everything."""

    text: str = ""
    modality: str = ""
    only: str = ""
    """`blanked`: pictures with blanked parts; `marked`: texts with placeholders."""


@dataclass(frozen=True)
class Card:
    """One example in the grid."""

    example_key: str
    picture_key: str
    modality: str
    view: str
    words: str
    placeholders: int
    pictures: int
    blanked_percent: float


@dataclass(frozen=True)
class Overview:
    patients: int
    examples: int
    pictures: int
    modalities: Sequence[tuple[str, int]]
    held: Sequence[tuple[str, int, Reason]]

    @property
    def held_total(self) -> int:
        return sum(count for _, count, _ in self.held)


def overview(store: Store) -> Overview:
    held = store.held()
    modalities = store.rows(
        f"SELECT coalesce(json_extract(p.fields, '$.modality'), ''), count(*) FROM example e {_FIRST_PICTURE} "
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    return Overview(
        patients=int(store.rows("SELECT count(*) FROM patient")[0][0]),
        examples=store.count(),
        pictures=int(store.rows("SELECT count(*) FROM picture")[0][0]),
        modalities=[(name or "picture", int(count)) for name, count in modalities],
        held=[(code, count, explained(code)) for code, count in Counter(held).most_common()],
    )


def cards(store: Store, wanted: Wanted, after: str) -> list[Card]:
    """The next examples behind the key `after`; one more than a page if there are more."""
    where, values = _where(wanted)
    rows = store.rows(
        f"SELECT e.example_key, e.pictures, e.turns, p.fields FROM example e {_FIRST_PICTURE} "
        f"WHERE e.example_key > ?{where} ORDER BY e.example_key LIMIT ?",
        after, *values, PAGE + 1,
    )  # fmt: skip
    return [_card(*row) for row in rows]


def beside(store: Store, wanted: Wanted, key: str) -> tuple[str, str]:
    """The examples before and behind this one, as far as there are any."""
    where, values = _where(wanted)
    found = []
    for sign, order in (("<", "DESC"), (">", "ASC")):
        rows = store.rows(
            f"SELECT e.example_key FROM example e {_FIRST_PICTURE} "
            f"WHERE e.example_key {sign} ?{where} ORDER BY e.example_key {order} LIMIT 1",
            key, *values,
        )  # fmt: skip
        found.append(str(rows[0][0]) if rows else "")
    return found[0], found[1]


def position(store: Store, key: str) -> int:
    """How many examples there are up to this one."""
    return int(store.rows("SELECT count(*) FROM example WHERE example_key <= ?", key)[0][0])


def owner(store: Store, example_key: str) -> str | None:
    rows = store.rows("SELECT patient_key FROM example WHERE example_key = ?", example_key)
    return str(rows[0][0]) if rows else None


def devices(store: Store, example_key: str) -> list[str]:
    """The device groups of an example, as people name them."""
    rows = store.rows(
        f"SELECT DISTINCT {DEVICE} FROM example e, json_each(e.pictures) j JOIN picture p ON p.picture_key = j.value "
        "WHERE e.example_key = ? ORDER BY 1",
        example_key,
    )
    return [device_words(device) for (device,) in rows]


def shown_fields(found: PictureFields) -> list[tuple[str, str]]:
    """Every kept field that has a value, as the page names it."""
    rows = []
    for item in fields(PictureFields):
        value = getattr(found, item.name)
        if value in ("", None, 0, 0.0) or item.name == "blanked_share":
            continue
        name = item.name.removesuffix("_mm").replace("_", " ")
        rows.append((name, f"{value} mm" if item.name.endswith("_mm") else str(value)))
    return rows


def parts(text: str) -> list[tuple[bool, str]]:
    """The text cut at its placeholders: (is a placeholder, the piece)."""
    pieces, at = [], 0
    for match in PLACEHOLDER.finditer(text):
        pieces += [(False, text[at : match.start()]), (True, match[0][1:-1])]
        at = match.end()
    return [piece for piece in [*pieces, (False, text[at:])] if piece[1]]


def rate_bound(looked_at: int) -> str:
    """What n items without a leak prove: the rate is below 3/n at 95 % (Hanley and Lippman-Hand 1983)."""
    return f"{300 / looked_at:.2g} %" if looked_at > 3 else "100 %"


def _where(wanted: Wanted) -> tuple[str, list[object]]:
    text, values = "", list[object]()
    if wanted.text:
        pattern = json.dumps(wanted.text, ensure_ascii=False)[1:-1]
        for letter in "\\%_":
            pattern = pattern.replace(letter, "\\" + letter)
        text += " AND e.turns LIKE ? ESCAPE '\\'"
        values.append(f"%{pattern}%")
    if wanted.modality:
        text += " AND coalesce(json_extract(p.fields, '$.modality'), '') = ?"
        values.append("" if wanted.modality == "picture" else wanted.modality)
    if wanted.only == "blanked":
        text += " AND EXISTS (SELECT 1 FROM json_each(e.pictures) j JOIN picture b ON b.picture_key = j.value"
        text += " WHERE coalesce(json_extract(b.fields, '$.blanked_share'), 0) > 0)"
    if wanted.only == "marked":
        text += " AND e.turns GLOB '*[[][A-Z]*]*'"
    return text, values


def _card(example_key: str, pictures: str, turns: str, found: str | None) -> Card:
    names = json.loads(pictures)
    said = json.loads(turns)
    kept = json.loads(found or "{}")
    last = said[-1] if said else ["", ""]
    return Card(
        example_key=example_key,
        picture_key=names[0] if names else "",
        modality=kept.get("modality", ""),
        view=kept.get("view", ""),
        words=f"{last[0]} {last[1]}"[:160],
        placeholders=sum(len(PLACEHOLDER.findall(text)) for turn in said for text in turn),
        pictures=len(names),
        blanked_percent=round(100 * float(kept.get("blanked_share", 0.0)), 1),
    )
