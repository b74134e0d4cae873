"""A site's own lists of staff and places in report text, whoever the patient is; and the check that none is left.

A header names a handful of people, a list thousands, and some of them are called like what reports tell of (Long, Rao,
Foley). So a listed word that no vocabulary knows goes wherever it stands, and a plain one where something else says
that it is a name: a capital that nothing around it explains, or its neighbour in the list.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from client.imaging.identifiers import fold, fold_id, is_unspaced, name_words
from client.imaging.patterns import NAME, PLACE
from client.imaging.report_clues import is_eponym, stands_by_itself
from client.imaging.report_known import acts
from client.imaging.vocabulary import (
    WORD,
    Span,
    is_caseless,
    is_common,
    listed_words,
    may_be_names,
    starts_sentence,
    undisguised,
    vocabulary,
)


@dataclass(frozen=True, repr=False)
class Listed:
    """Names and places folded and sorted by how they are looked for. A search costs the same for any number of them."""

    rare: frozenset[str] = frozenset()
    """Words of staff that are names wherever they stand; of three letters, with a capital and two small ones."""
    titled: frozenset[str] = frozenset()
    """Forms of a plain word, everyday words and abbreviations (Manning, Rose, Tia): written so, inside a sentence."""
    plain: frozenset[str] = frozenset()
    """Plain words that may be names (Hope): with a capital that stands by itself."""
    pairs: frozenset[tuple[str, str]] = frozenset()
    """Neighbours in a name of which one at least is no rare word, in alphabetical order."""
    unspaced: frozenset[str] = frozenset()
    """Names in scripts without blanks."""
    unspaced_places: frozenset[str] = frozenset()
    phrases: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    """Places of several words, by their first word, the longest first."""
    rare_places: frozenset[str] = frozenset()
    plain_places: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return "<Listed: hidden>"

    @classmethod
    def of(cls, staff: Iterable[str], places: Iterable[str]) -> "Listed":
        """Of names as people write them: `Vance, Ana`, `Dr. Ana Vance`, `Toboso General Hospital`."""
        return replace(_staff(staff), **_places(places))

    def spans(self, text: str) -> Iterator[Span]:
        """Where staff and places stand in a text of one case, as `report_text` prepares it."""
        caseless = is_caseless(text)
        yield from (Span(start, end, NAME) for start, end in _unspaced_in(text, self.unspaced))
        yield from (Span(start, end, PLACE) for start, end in _unspaced_in(text, self.unspaced_places))
        if self.rare or self.titled or self.plain or self.pairs:
            yield from self._names(text, caseless)
        if self.phrases or self.rare_places or self.plain_places:
            yield from self._spots(text, caseless)

    def residue(self, text: str) -> str | None:
        """Which kind of entry is still in a scrubbed text, or None. Written apart from `spans`, to check it."""
        words = {part for word in fold(text).split() for part in re.split(r"[\W\d_]+", word) if len(part) > 3}
        if words & self.rare and any(_says(self.rare, text, word) for word in WORD.finditer(text)):
            return "name"
        for kind, unspaced in (("name", self.unspaced), ("place", self.unspaced_places)):
            if any(True for _ in _unspaced_in(text, unspaced)):
                return kind
        if words & self.rare_places and any(_says(self.rare_places, text, word) for word in WORD.finditer(text)):
            return "place"
        said = [word for *_, word in _words(text)]
        for at, word in enumerate(said):
            if any(tuple(said[at : at + len(phrase)]) == phrase for phrase in self.phrases.get(word, ())):
                return "place"
        return None

    def _names(self, text: str, caseless: bool) -> Iterator[Span]:
        before: tuple[re.Match[str], set[str]] | None = None
        for word in WORD.finditer(text):
            forms = _forms(word[0])
            if self._is_name(text, word, forms, caseless):
                yield Span(*word.span(), NAME)
            if not any(map(_is_part, forms)):  # an initial, `van`
                continue
            if before is not None and self._is_pair(text, *before, word, forms, caseless):
                yield Span(before[0].start(), word.end(), NAME)
            before = word, forms

    def _is_name(self, text: str, word: re.Match[str], forms: set[str], caseless: bool) -> bool:
        if any(len(form) > 3 or caseless or word[0].istitle() for form in forms & self.rare):
            return not is_eponym(text, *word.span())
        if caseless or not word[0][0].isupper():
            return False
        if not forms.isdisjoint(self.titled) and _is_titled(text, word):
            inside = not starts_sentence(text, word.start()) or acts(text, word.end())
            return inside and not is_eponym(text, *word.span())
        return not forms.isdisjoint(self.plain) and word[0].istitle() and stands_by_itself(text, word)

    def _is_pair(
        self, text: str, one: re.Match[str], forms: set[str], other: re.Match[str], others: set[str], caseless: bool
    ) -> bool:
        if not (caseless or (one[0][0].isupper() and other[0][0].isupper())):
            return False
        if self.pairs.isdisjoint(_ordered(first, second) for first in forms for second in others):
            return False
        return _BETWEEN.fullmatch(text, one.end(), other.start()) is not None

    def _spots(self, text: str, caseless: bool) -> Iterator[Span]:
        found = list(_words(text))
        for at, (start, end, word) in enumerate(found):
            for phrase in self.phrases.get(word, ()):
                last = found[at : at + len(phrase)]
                if tuple(said for *_, said in last) == phrase and _are_neighbours(text, last):
                    yield Span(start, last[-1][1], PLACE)
                    break
            owner = word[:-1] if text[end - 2 : end] in ("'s", "’s") else word
            if not self.rare_places.isdisjoint((word, owner)) and not is_eponym(text, start, end):
                yield Span(start, end, PLACE)
            elif word in self.plain_places and (until := _place_until(text, start, end, caseless)):
                yield Span(start, until, PLACE)


NOBODY = Listed()
"""The lists of a site that has none."""
PLACE_WORDS = frozenset(
    "general university hospital hospitals clinic clinics center centre health healthcare medical institute saint"
    " street road avenue lane ward unit wing bay infirmary trust nhs".split()
)
_PLACE_NOUN = (
    r"(?:ward|unit|wing|bay|clinic|hospital|infirmary|centre|center|campus|suite|floor|building|house|lodge|street|st"
    r"|road|rd|avenue|ave|lane|drive|court|close|square|place)"
)
_BEHIND_PLACE = re.compile(rf"\s+{_PLACE_NOUN}\b", re.IGNORECASE)
_BEFORE_PLACE = re.compile(r"\b(?:ward|unit|wing|bay|clinic|hospital)\s+$", re.IGNORECASE)
_PARTICLES = frozenset("van von der den del de da di du la le el al bin ibn mc st ter ten".split())
_BETWEEN = re.compile(rf"[\s,^]+(?:(?:[A-Za-z]\.?|(?i:{'|'.join(sorted(_PARTICLES))}))[\s,^]+)*")
_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SHORT = {"saint": "st", "street": "st", "mount": "mt", "road": "rd", "avenue": "ave"}
_GAP_MAX = 8


def _staff(names: Iterable[str]) -> Listed:
    rare, titled, plain, unspaced = set[str](), set[str](), set[str](), set[str]()
    pairs = set[tuple[str, str]]()
    for name in names:
        for word in _written(name_words(name)):
            if is_unspaced(word):
                unspaced.add(word)
            elif len(word) >= 3:
                (rare if not _is_plain(word) else plain if word in vocabulary() else titled).add(word)
        parts = [part for part in (_joined(word[0]) for word in WORD.finditer(name)) if _is_part(part)]
        ends = [(parts[0], parts[-1])] if len(parts) > 2 else []
        pairs |= {_ordered(one, other) for one, other in [*pairwise(parts), *ends]}
    mixed = frozenset(pair for pair in pairs if not rare.issuperset(pair))
    return Listed(frozenset(rare), frozenset(titled), frozenset(plain & may_be_names()), mixed, frozenset(unspaced))


def _written(words: set[str]) -> set[str]:
    """Words, and what a text says that has Latin letters for all that look the same (`undisguised`)."""
    forms = {form for word in words if not word.isascii() for form in (word, word.title(), word.upper())}
    return {*words, *(fold(undisguised(form)) for form in forms)}


def _places(names: Iterable[str]) -> dict[str, Any]:
    """The fields of `Listed` that say where they are."""
    phrases, unspaced = set[tuple[str, ...]](), set[str]()
    for name in names:
        if is_unspaced(name):
            unspaced.add(fold_id(name))
        elif phrase := tuple(word for *_, word in _words(name)):
            phrases.add(phrase)
    alone = {phrase[0] for phrase in phrases if len(phrase) == 1}
    telling = {word for phrase in phrases for word in phrase} - PLACE_WORDS
    rare = {word for word in telling | alone if len(word) > 3 and word.isalpha() and not _is_plain(word)}
    by_first: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted(phrases, key=lambda each: (-len(each), each)):
        if len(phrase) > 1:
            by_first.setdefault(phrase[0], []).append(phrase)
    return {
        "unspaced_places": frozenset(unspaced),
        "phrases": {first: tuple(found) for first, found in by_first.items()},
        "rare_places": frozenset(rare),
        "plain_places": frozenset(alone - rare),
    }


def _is_plain(word: str) -> bool:
    return is_common(word) or word in listed_words("everyday")


def _is_part(word: str) -> bool:
    return len(word) >= 2 and word not in _PARTICLES


def _ordered(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)


def _joined(word: str) -> str:
    return re.sub(r"[\W\d_]", "", fold(word))


def _forms(word: str) -> set[str]:
    """What a written word may say: `Meyer-Vance's` is each of its parts, and all of it; `X-ray` and `Hill-Sachs`, which
    the vocabulary knows, have no parts."""
    folded = fold(word)
    if folded.isalpha():
        return {folded}
    if "-" in folded and is_common(word):
        return {_joined(word)}
    forms = {_joined(word), *(part for part in re.split(r"[\W_]+", folded) if len(part) > 1)}
    return forms | {_joined(re.sub(r"['’]s$", "", folded))}


def _says(words: frozenset[str], text: str, word: re.Match[str]) -> bool:
    return any(len(form) > 3 for form in words & _forms(word[0])) and not is_eponym(text, *word.span())


def _is_titled(text: str, word: re.Match[str]) -> bool:
    """Written as names are: `Manning`, or MANNING where it is neither a heading nor as short as an abbreviation."""
    return word[0].istitle() or (len(word[0]) > 4 and text[word.end() : word.end() + 1] != ":")


def _unspaced_in(text: str, names: frozenset[str]) -> Iterator[tuple[int, int]]:
    if not names or not is_unspaced(text):
        return
    squeezed = [(plain, at) for at, letter in enumerate(text) for plain in fold_id(letter)]
    letters = "".join(plain for plain, _ in squeezed)
    for length in {len(name) for name in names}:
        for start in range(len(letters) - length + 1):
            if letters[start : start + length] in names:
                yield squeezed[start][1], squeezed[start + length - 1][1] + 1


def _words(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, folded word), with the usual abbreviations of addresses, without an apostrophe."""
    for match in _TOKEN.finditer(text):
        word = fold(match[0])
        if not word.isalnum():
            word = re.sub(r"\W", "", word)
        yield match.start(), match.end(), _SHORT.get(word, word)


def _are_neighbours(text: str, words: list[tuple[int, int, str]]) -> bool:
    """Whether a line's end and the points of an address are all that is between."""
    gaps = (text[one[1] : other[0]] for one, other in pairwise(words))
    return all(len(gap) <= _GAP_MAX and gap.count("\n") <= 1 and not set(gap) & set(";:!?[]") for gap in gaps)


def _place_until(text: str, start: int, end: int, caseless: bool) -> int | None:
    """Where a place ends whose name is a plain word, or None where that is all it is: it stands beside `ward` and the
    like, or has a capital of its own."""
    if re.match(r"[-'’]\w", text[end : end + 2]) or text[max(0, start - 1) : start] in ("-", "'", "’"):
        return None
    if caseless or text[start].isupper():
        if behind := _BEHIND_PLACE.match(text, end):
            return behind.end()
        if _BEFORE_PLACE.search(text, max(0, start - 20), start):
            return end
    word = WORD.match(text, start)
    return end if not caseless and word is not None and stands_by_itself(text, word) else None
