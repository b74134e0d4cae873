"""This patient's own identifiers in report text: exact, mistyped and misread ones; and the check that none is left."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from enum import Enum
from functools import cache

from client.imaging.identifiers import UNSPACED, Identifiers, fold, fold_id, is_unspaced
from client.imaging.patterns import DATE, ID, NAME, PLACE
from client.imaging.report_clues import ends_in_honorific, is_eponym
from client.imaging.vocabulary import (
    WORD,
    Span,
    is_caseless,
    is_common,
    listed_words,
    starts_sentence,
    undisguised,
    vocabulary,
)

_MISREAD = re.compile(  # digits among letters, as scanners read them
    r"\b(?=[\w’'-]{3,30}\b)(?=[^\W\d_]{0,30}[’'-]?[^\W\d_]*\d)(?=(?:[\d’'-]*[^\W\d_]){2})[^\W_]+(?:[’'-][^\W_]+)?"
)
_LIKE_LETTERS = str.maketrans("0134568", "oleasgb")
_SUFFIX_MAX = 5


def residue(text: str, identifiers: Identifiers) -> str | None:
    """Which kind of this patient's identifiers is still in `text`, or None. Written apart from `scrub`, to check it."""
    folded = fold(text)
    squeezed = fold_id(text)
    parts = re.split(r"[\s\d_]+|[^\w'’-]", re.sub(rf"([{UNSPACED}]+)", r" \1 ", folded))
    words = {re.sub(r"[^\w]", "", part) for part in parts} | {word for part in parts for word in re.split(r"\W", part)}
    rare = {name for name in identifiers.names if name not in vocabulary()}
    if any(name in words for name in rare if len(name) >= 3 or is_unspaced(name)):
        return "name"
    if any(name in squeezed for name in rare if is_unspaced(name)):
        return "name"
    if any(_is_inflected(word, name) for name in rare for word in words):
        return "name"
    if any(True for _ in _letter_by_letter(text, identifiers.names)):
        return "name"
    large = {fold(word) for word in re.findall(r"[^\W\d_]{3,}", re.sub(r"\[[A-Z]+\]", " ", text)) if word[0].isupper()}
    if large & identifiers.names:
        return "name"
    tokens = {fold_id(token) for token in re.split(r"[\s,;()]+", folded)}
    for known in identifiers.ids:
        if _telling(known) and (known in tokens or (len(known) >= 6 and known in squeezed)):
            return "id"
    if any(True for _ in _short_ids(text, identifiers.ids)):
        return "id"
    if any(uid in text for uid in identifiers.uids):
        return "uid"
    if any(form in folded for day in identifiers.dates for form in _date_forms(day)):
        return "date"
    if any(place in " ".join(folded.split()) for place in identifiers.places if _distinctive(place)):
        return "place"
    return None


def known(text: str, identifiers: Identifiers, staff: frozenset[str], found: list[Span]) -> Iterator[Span]:
    written = {form for name in identifiers.names for form in (name, name.title(), name.upper())}
    names = identifiers.names | {fold(undisguised(form)) for form in written}  # `text` is undisguised, too
    yield from _known_names(text, names, staff, [span for span in found if span.placeholder == NAME])
    yield from _initials_at_the_end(text, identifiers.names)
    yield from (Span(start, end, ID) for start, end in _known_ids(text, identifiers.ids))
    folded = text.lower()
    for uid in identifiers.uids:
        yield from (Span(start, start + len(uid), ID) for start in _starts(folded, uid))
    for day in identifiers.dates:
        for form in _date_forms(day):
            yield from (Span(start, start + len(form), DATE) for start in _starts(folded, form))
    for place in identifiers.places:
        if _distinctive(place):
            yield from _known_place(text, place)


def _initials_at_the_end(text: str, names: frozenset[str]) -> Iterator[Span]:
    """Two or three letters alone, a word or not (`UP`), each of which begins a name of the header."""
    first = Counter(name[0] for name in names)
    for match in _ALONE_AT_THE_END.finditer(text):
        if all(first[letter] >= count for letter, count in Counter(match["d"].lower()).items()):
            yield Span(*match.span("d"), NAME)


_ALONE_AT_THE_END = re.compile(r"(?:^|[\n.;)\]])[ \t/-]*(?P<d>[^\W\d_]{2,3})\.?\s*\Z")


def _known_ids(text: str, ids: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Where an id stands, whatever its case and punctuation; one of fewer than six characters as a whole word only."""
    for known, start, end in _squeezed_in(text, filter(_telling, ids)):
        if len(known) >= 6 or _stands_alone(text, start, end):
            yield start, end
    yield from _short_ids(text, ids)


def _short_ids(text: str, ids: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where an id of two or three characters is a word behind one that announces it; wherever it is a word, if it has
    the form of nothing that reports tell of (`AB7`)."""
    plain = vocabulary() | listed_words("abbreviations")
    for known, start, end in _squeezed_in(text, [each for each in ids if 2 <= len(each) <= 3 and each not in plain]):
        if _stands_alone(text, start, end) and not re.search(r"\s", text[start:end]):
            if _OF_FINDINGS.fullmatch(known) is None or _ANNOUNCES_ID.search(text, max(0, start - 30), start):
                yield start, end


_OF_FINDINGS = re.compile(  # letters or digits alone, sizes, levels, sequences, segments, scores
    r"[^\W\d]+|\d+[^\W\d]*|[^\W\d]\d+[^\W\d]?|\d[^\W\d]\d"
    r"|(?:br|cd|ck|cn|co|cs|ct|hb|il|im|lr|lw|mr|or|ph|pm|pn|po|pr|pt|se|so|sp|st|th|tr|us)\d"
)
_ANNOUNCES_ID = re.compile(
    r"(?:\b(?:patient|pt|id|pid|mrn|case|record|chart|file|subject|number|acc|accession)\b[\s.:#(]*"
    r"(?:(?:no|nr|number|id|is)\b[\s.:#]*)?|\bn[or][.:]\s*|#\s?)$",
    re.IGNORECASE,
)


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())


def _squeezed_in(text: str, wanted: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """Where letters and digits stand in this order, whatever their case and what is between them."""
    squeezed, places = "", []
    for at, letter in enumerate(text):
        for plain in fold_id(letter):
            squeezed += plain
            places.append(at)
    for each in wanted:
        for start in _starts(squeezed, each):
            yield each, places[start], places[start + len(each) - 1] + 1


def _known_place(text: str, place: str) -> Iterator[Span]:
    """The whole phrase, its beginning if that tells which place it is, and each of its words that is neither clinical
    nor a common part of such names."""
    parts = [word for word in re.split(r"[\W_]+", place) if word]
    words = {word for word in parts if len(word) > 3 and word.isalpha()} - vocabulary() - _PLACE_WORDS
    found = [(match.start(), match.end(), fold(match[0])) for match in re.finditer(r"[^\W_]+", text)]
    for at in range(len(found)):
        said = [word for _, _, word in found[at : at + len(parts)]]
        same = next((n for n, (word, part) in enumerate(zip(said, parts, strict=False)) if word != part), len(said))
        if same == len(parts) or (same > 1 and not words.isdisjoint(parts[:same])):
            yield Span(found[at][0], found[at + same - 1][1], PLACE)
        if found[at][2] in words:
            yield Span(found[at][0], found[at][1], PLACE)


def _starts(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


_PLACE_WORDS = frozenset(
    "general university hospital clinic center centre health medical institute saint street road".split()
)


def _known_names(text: str, names: frozenset[str], staff: frozenset[str], found: list[Span]) -> Iterator[Span]:
    """A name is masked wherever it stands, mistyped and misread too. One that is also a plain word (Long, White) goes
    where it is written large, owns something or stands beside a name, a title or a person's verb, and everywhere in a
    text without case; a plain word that only `staff` has for a name, not at the start of a sentence."""
    for _, start, end in _squeezed_in(text, filter(is_unspaced, names | staff)):
        yield Span(start, end, NAME)
    yield from (Span(start, end, NAME) for start, end in _letter_by_letter(text, names))
    for match in _MISREAD.finditer(text):
        if _resembles_any(_letters(match[0]), names):
            yield Span(*match.span(), NAME)
    words = list(WORD.finditer(text))
    hits = _hits(text, words, names, staff)
    caseless = is_caseless(text)
    named = {at for span in found for at in range(span.start, span.end)}
    for at, (word, hit) in enumerate(zip(words, hits, strict=True)):
        if at and _is_split_name(text, words[at - 1], word, names):
            yield Span(words[at - 1].start(), word.end(), NAME)
        if hit is _Hit.RARE or (hit and _names_a_person(text, word, hit, caseless)):
            yield Span(*word.span(), NAME)
        elif hit in (_Hit.OWN, _Hit.TINY, _Hit.PLAIN) and not _is_term(word[0]):
            near = [other for other in (at - 1, at + 1) if 0 <= other < len(words)]
            near = [other for other in near if _adjacent(text, word, words[other])]
            both = hit is _Hit.OWN and any(hits[other] is _Hit.OWN for other in near)
            if both or any(_is_beside(word, words[other], hits[other], named, caseless) for other in near):
                yield Span(*word.span(), NAME)


def _letter_by_letter(text: str, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Where a name is written with something between all of its letters: `J o n e s`, `J.o.n.e.s`."""
    for run in _SPACED.finditer(text):
        for _, start, end in _squeezed_in(run[0], [name for name in names if len(name) >= 3]):
            yield run.start() + start, run.start() + end


_SPACED = re.compile(r"(?<![^\W_])[^\W\d_](?:[ \t.,*-]{1,2}[^\W\d_](?![^\W_])){2,}")


class _Hit(Enum):
    RARE = "a name"
    STAFF = "a name of the staff; of a disease, beside such a word"
    OWN = "a name of the header that is also a plain word"
    TINY = "a name of the header of two letters"
    PLAIN = "a name of the staff that is also a plain word"
    NEAR = "a plain word that is a typing mistake away from a name"


def _hits(text: str, words: list[re.Match[str]], names: frozenset[str], staff: frozenset[str]) -> list[_Hit | None]:
    known = {written: _hit(written, names, staff) for written in {word[0] for word in words}}
    hits: list[_Hit | None] = []
    for word in words:
        hit = known[word[0]]
        if hit is _Hit.STAFF:
            hit = None if is_eponym(text, *word.span()) else _Hit.RARE
        hits.append(hit)
    return hits


def _hit(word: str, names: frozenset[str], staff: frozenset[str]) -> _Hit | None:
    forms = {re.sub(r"\W", "", fold(word)), *(fold(part) for part in re.split(r"[-’']", word) if len(part) > 1)}
    forms |= {re.sub(r"s$", "", form) for form in forms if re.search(r"[’']s$", word, re.IGNORECASE)}
    found = forms & (names | staff)
    if any(len(name) >= 3 or is_unspaced(name) for name in found - vocabulary()):
        return _Hit.RARE if found & names - vocabulary() else _Hit.STAFF
    if found & names:
        return _Hit.OWN if any(len(name) >= 3 for name in found & names) else _Hit.TINY
    if found:
        return _Hit.PLAIN
    if not any(_resembles_any(form, names) for form in forms):
        return _Hit.RARE if not is_common(word) and any(_has_suffix(form, names) for form in forms) else None
    if not is_common(word) or (word.istitle() and fold(word) not in vocabulary()):  # Muler is no form of mule
        return _Hit.RARE
    return _Hit.OWN if {_shape(form) for form in forms} & {_shape(name) for name in names} else _Hit.NEAR


def _resembles_any(word: str, names: frozenset[str]) -> bool:
    """Whether a word is a name as a scanner may read it, with a typing mistake, or two names without a blank."""
    if len(word) < 3:
        return False
    shape = _shape(word)
    for name in names:
        if shape == _shape(name) or (len(name) >= 4 and len(word) >= 4 and _within_typo(shape, _shape(name))):
            return True
        if len(name) >= 3 and word.startswith(name) and word[len(name) :] in names:
            return True
        if _is_inflected(word, name):
            return True
    return False


def _has_suffix(word: str, names: frozenset[str]) -> bool:
    """Whether a word is a name with some letters glued to it (Hasmukhbhai), of a short name only an honorific."""
    return any(
        word.startswith(name) and (len(word) - len(name) <= _SUFFIX_MAX if len(name) > 4 else ends_in_honorific(word))
        for name in names
        if len(name) >= 3
    )


def _is_inflected(word: str, name: str) -> bool:
    """Whether a Cyrillic word is a longer name in a case or of the other sex (Иванова, Ивановым, Сергеем)."""
    if len(name) < 5 or _CYRILLIC.fullmatch(name) is None:
        return False
    stem = _ENDING.sub("", name)
    return word.startswith(stem) and len(word) - len(stem) <= 3


_CYRILLIC = re.compile(r"[\u0400-\u052f]+")
_ENDING = re.compile(r"(?<=\w{4})[аеиоуыьэюяі]{1,2}$")


@cache
def _shape(word: str) -> str:
    """The same for letters that scanners take for one another."""
    return word.replace("rn", "m").replace("vv", "w").replace("i", "l")


def _letters(word: str) -> str:
    return re.sub(r"\W", "", fold(word).translate(_LIKE_LETTERS))


def _is_beside(word: re.Match[str], other: re.Match[str], hit: "_Hit | None", named: set[int], caseless: bool) -> bool:
    if hit is _Hit.RARE or other.start() in named:
        return True
    return hit in (_Hit.OWN, _Hit.TINY, _Hit.PLAIN) and (
        word[0][0].isupper() or (other[0][0].isupper() and not caseless)
    )


def _is_term(word: str) -> bool:
    """A compound in capitals (`LI-RADS`) is no short name."""
    return "-" in word and word.isupper()


def _names_a_person(text: str, word: re.Match[str], hit: _Hit, caseless: bool) -> bool:
    """Whether a plain word is the name that it may be, by its case and what stands around it."""
    owns = re.search(r"[’']s$", word[0], re.IGNORECASE) is not None
    if hit is _Hit.TINY and (owns or word[0].istitle() or _ACTS.match(text, word.end())) and not _is_term(word[0]):
        return True
    if hit is _Hit.OWN:
        return (
            owns
            or caseless
            or word[0][0].isupper()
            or _is_called(text, word)
            or _ACTS.match(text, word.end()) is not None
        )
    if _is_called(text, word):
        return not _is_term(word[0])
    if hit is _Hit.NEAR:
        return word[0][0].isupper() and _ACTS.match(text, word.end()) is not None
    return not caseless and not _is_term(word[0]) and _stands_out(text, word)


def _is_called(text: str, word: re.Match[str]) -> bool:
    return _CALLED.search(text, max(0, word.start() - 20), word.start()) is not None


def _stands_out(text: str, word: re.Match[str]) -> bool:
    """Written with a capital where only a name is, or wholly in capitals and not as a heading."""
    if not word[0][0].isupper():
        return False
    if word[0].isupper() and len(word[0]) > 3 and text[word.end() : word.end() + 1] != ":":
        return True
    owns = re.search(r"[’']s$", word[0]) is not None
    return owns or not starts_sentence(text, word.start()) or _ACTS.match(text, word.end()) is not None


_ACTS = re.compile(  # what a person does or has done to them, and a finding does not
    r"\s+(?:family|parents|household|requested|drafted|declined|arrived|vomited|acknowledge[sd]|returned|reports|presents|presented|denie[sd]|complain\w+|tolerated|consented|refused|agree[sd]|fell|lives"
    r"|interpreted|concurs|says|said|states|feels|felt|cannot|could\s+not|moved|coughed|breathed|cooperated|walked"
    r"|underwent|smokes|has\s+(?:a\s+(?:known\s+)?)?(?:history|known|had|been)"
    r"|(?:is|was)\s+(?:aware|informed|notified|told|asked|called|paged|brought|referred|admitted|sedated|positioned"
    r"|repositioned|unable\s+to|present|examined|discharged|transferred|cough\w+|breathing|moving|crying))\b",
    re.IGNORECASE,
)


def acts(text: str, at: int) -> bool:
    """Whether a person's verb stands here."""
    return _ACTS.match(text, at) is not None


_CALLED = re.compile(r"\b(?:mrs?|ms|miss|master|baby|pt|patient|name|dr)\b[.:,]?\s*$", re.IGNORECASE)


def _is_split_name(text: str, first: re.Match[str], second: re.Match[str], names: frozenset[str]) -> bool:
    """`Mc Allister` and `Jon son`: a known name with a blank inside."""
    if re.fullmatch(r"[ '-]{1,2}", text[first.end() : second.start()]) is None:
        return False
    joined = fold(first[0] + second[0])
    if len(joined) < 5 or joined in vocabulary():
        return False
    if fold(first[0]) in names and fold(second[0]) in listed_words("grammar"):  # Castellanos at
        return False
    parts = len(first[0]) > 1 and not (is_common(first[0]) and is_common(second[0]))
    return joined in names or (parts and len(joined) >= 6 and _resembles_any(joined, names))


def _adjacent(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    first, second = sorted((one, other), key=lambda match: match.start())
    return re.fullmatch(r"[\s,^]*(?:[A-Z]\.?[\s,^]+)?", text[first.end() : second.start()]) is not None


def _within_typo(word: str, name: str) -> bool:
    """One letter added, lost, changed or swapped with its neighbour (two from nine letters on)."""
    allowed = 2 if len(name) >= 9 else 1
    if abs(len(word) - len(name)) > allowed or len(set(word) - set(name)) > allowed:
        return False
    before: list[int] = []
    row = list(range(len(name) + 1))
    for i, letter in enumerate(word, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(name, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == name[j - 2] and word[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > allowed:
            return False
    return row[-1] <= allowed


def _telling(known: str) -> bool:
    """Shorter ids, but for `_short_ids`, or words of the vocabulary would mask sizes and plain words."""
    return len(known) >= 4 and known not in vocabulary()


def _distinctive(place: str) -> bool:
    words = [word for word in re.split(r"[\W\d_]+", place) if word]
    return bool(words) and len(place) >= 4 and not all(word in vocabulary() or word in _PLACE_WORDS for word in words)


_MONTHS = "january february march april may june july august september october november december".split()


def _date_forms(day: date) -> list[str]:
    y, m, d, short = day.year, day.month, day.day, day.year % 100
    name = _MONTHS[m - 1]
    forms = [f"{y}{m:02d}{d:02d}", f"{y}-{m:02d}-{d:02d}", f"{y}/{m:02d}/{d:02d}", f"{y}.{m:02d}.{d:02d}"]
    forms += [f"{y}年{m}月{d}日", f"{y}年{m:02d}月{d:02d}日", f"{y}년 {m}월 {d}일", f"{y}년{m}월{d}일"]
    for first, second in ((d, m), (m, d)):
        for dash in "/.-":
            forms += [f"{first:02d}{dash}{second:02d}{dash}{y}", f"{first}{dash}{second}{dash}{y}"]
            forms += [f"{first:02d}{dash}{second:02d}{dash}{short:02d}"]
    for month in (name, name[:3]):
        forms += [
            f"{d} {month} {y}",
            f"{d:02d} {month} {y}",
            f"{month} {d}, {y}",
            f"{month} {d} {y}",
            f"{d}-{month}-{y}",
        ]
    return forms
