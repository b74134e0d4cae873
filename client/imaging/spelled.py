"""An identifier as it can stand in bytes that nobody decodes: pixels, look-up tables, palettes, samples of waveforms.

`Identifiers` are folded for comparison: `NH-64420-993` is `nh64420993` there, and `Müller` is `muller`. A device writes
what it was given. Here are the identifier's own characters, the usual ways to write a name or a date, and the
character sets that a DICOM header may have (PS3.3 section C.12.1.1.2), with UTF-16 as private software writes it.
"""

import re
from collections.abc import Iterable, Iterator
from datetime import date

from client.imaging.identifiers import Identifiers, fold, fold_id, name_words

CHARACTERS_MIN = 5
"""Five bytes turn up in one megabyte of random ones with a chance of one in a million (2^20 / 256^5)."""
_LETTERS_MIN, _FEW = 3, 2  # different ones; beyond ASCII two letters are a name, and they are four bytes and more
_BYTES_MIN = 5
_ENCODINGS = (
    "utf-8", "latin-1", *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 15)), "tis-620", "shift_jis",
    "iso2022_jp", "gb18030", "euc-kr",
)  # fmt: skip
_WIDE = ("utf-16-le", "utf-16-be")
_PARTED_DAYS = ("%Y-%m-%d", "%d-%m-%Y", "%m-%d-%Y", "%d-%m-%y", "%m-%d-%y")
_DAYS = (
    "%Y%m%d", "%d%m%Y", "%m%d%Y", *(form.replace("-", sign) for form in _PARTED_DAYS for sign in "-./ "),
    "%d %b %Y", "%d-%b-%Y", "%d%b%Y", "%d %B %Y", "%b %d, %Y", "%b %d %Y", "%B %d, %Y", "%B %d %Y",
)  # fmt: skip
_RUN = re.compile(r"[^\W_]+")
_DIGITS = re.compile(r"[0-9]{5,}")


def needles(found: Identifiers) -> dict[bytes, str]:
    """Every form of every identifier as lower-case bytes, with its kind (`uid`, `id`, `name`, `place`, `date`).

    Left out: what is shorter than five characters or five bytes, and what has fewer than three different letters.
    """
    made: dict[bytes, str] = {}
    for kind, text in _texts(found):
        for form in {text, text.lower(), text.upper(), text.title(), fold(text)}:
            for needle in _encoded(form):
                made.setdefault(needle, kind)
    return made


def _texts(found: Identifiers) -> Iterator[tuple[str, str]]:
    yield from (("uid", uid) for uid in found.uids)
    for kind, text in found.spelled:
        forms = {"id": _of_id, "name": _of_name, "place": _of_place}[kind](text)
        yield from ((kind, form) for form in forms)
    for kind, words in (("id", found.ids), ("name", found.names), ("place", found.places)):
        yield from ((kind, word) for word in words)
    yield from (("date", form) for day in found.dates for form in _of_day(day))


def _of_id(text: str) -> Iterable[str]:
    """Whole, with each sign between its parts, and its longer numbers alone."""
    parts = _RUN.findall(text)
    return {text, *(sign.join(parts) for sign in ("", " ", *"-_./")), *_DIGITS.findall(fold_id(text))}


def _of_name(text: str) -> Iterable[str]:
    """The groups of a person name (PS3.5 section 6.2.1): each whole, family and given name in the orders that people
    write, and their words."""
    for group in text.split("="):
        components = [" ".join(part.split()) for part in group.split("^")]
        family, given = (*components, "")[:2]
        yield group
        yield " ".join(filter(None, components))
        if family and given:
            yield from (f"{family}^{given}", f"{given}^{family}", f"{given} {family}", f"{family} {given}")
            yield from (f"{family}, {given}", f"{family},{given}", f"{family}_{given}", f"{given}.{family}")
        for word in {*components, *re.split(r"[\s,.;/()\\]+", " ".join(components))}:
            if name_words(word):  # no title, no initial
                yield word


def _of_place(text: str) -> Iterable[str]:
    return {text, " ".join(text.split())}


def _of_day(day: date) -> Iterable[str]:
    return {day.strftime(form) for form in _DAYS}


def _encoded(text: str) -> Iterator[bytes]:
    if len(set(fold(text))) < (_LETTERS_MIN if text.isascii() else _FEW):
        return
    if text.isascii() and len(text) < CHARACTERS_MIN:
        return
    for encoding in ("ascii", *_WIDE) if text.isascii() else (*_ENCODINGS, *_WIDE):
        try:
            needle = text.encode(encoding).lower()
        except UnicodeError:
            continue
        if len(needle) >= _BYTES_MIN:
            yield needle
