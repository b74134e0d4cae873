"""Report text without the patient: sections that describe the picture stay, identifiers become fixed placeholders.

Four passes: sections; the identifiers of this patient's own headers, exactly, mistyped and misread; general patterns;
and a gate that masks words outside a radiology vocabulary where they have a capital, or where a text has no case at
all, and holds the text back when there are many of them. Placeholders are `[NAME]`, `[DATE]`, `[ID]` and `[PLACE]`; an
age over 89 becomes `90+`.

This is careful, not perfect: a name in lower case that no header knows and no pattern announces can stay; so can a name
that is a plain word (Long, Reading) and not of this header, where neither its neighbours nor its capital give it away.
The vocabulary is English: other languages that capitalise nouns end in quarantine rather than in the store.
"""

import re
import tomllib
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import date
from enum import Enum
from functools import cache
from pathlib import Path
from typing import NamedTuple

from client.imaging.header import refusal
from client.imaging.identifiers import Identifiers, fold, fold_id, is_ideographic
from client.imaging.patterns import DATE, ID, NAME, PLACE, matches, matches_without_case
from client.imaging.tagger import Tagger

_UNKNOWN_WORDS_MAX = 6
_WORD = re.compile(r"[^\W\d_]+(?:(?:[’']|-\n?)[^\W\d_]+)*")  # a word that the end of a line divides is one

_MISREAD = re.compile(  # digits among letters, as scanners read them
    r"\b(?=[\w’'-]{3,30}\b)(?=[^\W\d_]{0,30}[’'-]?[^\W\d_]*\d)(?=(?:[\d’'-]*[^\W\d_]){2})[^\W_]+(?:[’'-][^\W_]+)?"
)
_LIKE_LETTERS = str.maketrans("0134568", "oleasgb")

_KEEP = frozenset(
    "finding findings impression impressions conclusion conclusions opinion interpretation assessment summary result "
    "results report recommendation recommendations diagnosis befund beurteilung".split()
)
_SIGNATURES = frozenset(
    "signature signatures signed dictated transcribed electronically notification communication reported verified "
    "approved authenticated finalized read interpreted cc attending resident".split()
)
_STAFF = _SIGNATURES | {"physician", "provider", "radiologist", "technologist", "referring", "ordering", "interpreting"}
_DROP = _STAFF | frozenset(
    "history indication indications comparison comparisons technique procedure exam examination study patient "
    "facility hospital institution department reason clinical information views priors protocol contrast "
    "medication".split()
)
_FIELDS = frozenset(
    "name mrn dob birth age sex gender date time accession id phone fax address ssn location room account visit".split()
)  # one line each
_SURE = (
    r"(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|OPINION|INDICATIONS?|HISTORY|COMPARISONS?|TECHNIQUE|RECOMMENDATIONS?"
    r"|Findings|Impression|Conclusion|Indication|Comparison|Technique)"
)
_HEADING = re.compile(
    r"(?:^|(?<=[\n.;]))[ \t*#=_>]*(?P<any>[A-Za-zÄÖÜäöü][A-Za-zÄÖÜäöü /&()]{1,40}?)[ \t*_]*:"
    rf"|(?<=[\s,*])(?P<inside>{_SURE}(?: ?(?:AND|and|/|&) ?{_SURE})?)[ \t*]*:"
    r"|^[ \t*#=_]*(?P<alone>[A-Za-zÄÖÜäöü][A-Za-zÄÖÜäöü /&()]{2,40}?)[ \t*#=_-]*$",
    re.MULTILINE,
)
_PARAGRAPH_MIN = 40


class _Kind(Enum):
    KEEP = "describes the picture"
    DROP = "another section"
    FIELD = "one line about the patient"


class _Heading(NamedTuple):
    start: int
    end: int
    kind: _Kind
    signs: bool
    inline: bool


class _Span(NamedTuple):
    start: int
    end: int
    placeholder: str


def scrub(
    text: str, identifiers: Identifiers, staff: frozenset[str] = frozenset(), tagger: Tagger | None = None
) -> str:
    """`text` without identifiers: those of the headers, of `staff` (name words of the site), those of patterns, and
    what a site's own `tagger` marks.

    Guarantees: no id, UID or date of `identifiers` is left, no name of it outside the vocabulary, and none written with
    a capital (`residue` is None). Clinical words, sizes, fractions, spine levels and listed eponyms stay.

    Raises: DeidError text-residual when more than a few capitalised words are unknown.

    >>> scrub("Seen by Dr. Ada Vance on 3 March 2019. Nodule 4 x 5 mm at T12-L1.", Identifiers())
    'Seen by [NAME] on [DATE]. Nodule 4 x 5 mm at T12-L1.'
    """
    clean = _normalised(text)
    plain = _plain(clean)
    caseless = _caseless(plain)
    spans = [*(_Span(*span) for span in matches(plain)), *_announced(plain), *_initials(plain)]
    spans += _without_case(plain) if caseless else []
    spans += _known(plain, identifiers, staff, spans)
    if tagger is not None:
        spans += [_Span(*span) for span in tagger.spans(clean)]
    clean = _replaced(clean, spans)
    clean = _replaced(clean, _beside_placeholders(_plain(clean), caseless))
    unknown = list(_unknown_names(_plain(clean), caseless))
    if len({clean[span.start : span.end] for span in unknown}) > _UNKNOWN_WORDS_MAX:
        raise refusal("text-residual", "the text has too many words that may be names")
    clean = _replaced(clean, unknown)
    return _tidied(_replaced(clean, _beside_placeholders(_plain(clean), caseless)))


def sections(text: str) -> str:
    """The sections that describe the picture, without lines like `MRN: …`. A text without sections is one such; where
    only others have a heading, it is the paragraphs behind them.

    Raises: DeidError text-sections when nothing describes the picture.
    """
    text = _normalised(text)
    headings = [*_headings(text)]
    wanted = any(heading.kind is _Kind.KEEP for heading in headings)
    unwanted = any(heading.kind is _Kind.DROP and _opens_line(text, heading.start) for heading in headings)
    if not wanted and unwanted:
        return _paragraphs_behind(text, headings)
    if not wanted:
        headings = [heading for heading in headings if heading.kind is _Kind.FIELD]
    parts = _kept_parts(text, headings, _Kind.DROP if wanted else _Kind.KEEP)
    return "\n".join(part.strip() for part in parts if part.strip())


def _kept_parts(text: str, headings: list["_Heading"], state: "_Kind") -> Iterator[str]:
    """What stands under headings to keep. A line about the patient, or a signature before the last of those headings,
    drops only its own line."""
    at = 0
    last = max((heading.start for heading in headings if heading.kind is _Kind.KEEP), default=0)
    for heading in headings:
        kept = state is _Kind.KEEP
        if heading.inline and heading.kind is _Kind.DROP and kept:
            continue
        if kept:
            yield text[at : heading.start]
        at = heading.start
        if heading.kind is _Kind.FIELD or (heading.signs and kept and at < last):
            at = text.find("\n", heading.end) % (len(text) + 1)  # to the end, if no line follows
        else:
            state = heading.kind
    if state is _Kind.KEEP:
        yield text[at:]


def _paragraphs_behind(text: str, headings: list["_Heading"]) -> str:
    first, last = headings[0], [heading for heading in headings if not heading.signs][-1:]
    signed = min((heading.start for heading in headings if heading.signs), default=len(text))
    paragraphs = text[last[0].start : signed].split("\n\n")[1:] if last and first.start < signed else []
    behind = "\n".join(paragraph.strip() for paragraph in paragraphs).strip()
    if len(behind) < _PARAGRAPH_MIN:
        raise refusal("text-sections", "the report has headings, but neither findings nor impression")
    return behind


def _headings(text: str) -> Iterator["_Heading"]:
    for match in _HEADING.finditer(text):
        written = match["any"] or match["inside"] or match["alone"]
        words = re.findall(r"\w+", fold(written))
        at = match.start(match.lastgroup or 0)
        opens = _opens_line(text, at)
        kind = _kind(words, opens)
        if match["alone"] and not set(words) <= _KEEP | _DROP | _FIELDS | {"and", "of", "the", "for"}:
            kind = None
        if kind is not None:
            signs = any(word in _STAFF for word in words)
            yield _Heading(at, match.end(), kind, signs, inline=not opens and not written.isupper())


def _kind(words: list[str], opens_line: bool) -> "_Kind | None":
    """What a heading opens, None if it is none of ours. `Dictated by:` and `MRN:` inside a line are sentences of the
    findings, not the end of them."""
    signs, names = any(word in _STAFF for word in words), any(word in _FIELDS for word in words)
    if not opens_line and (signs or names):
        return None
    if any(word in _KEEP for word in words) and not names and not signs:
        return _Kind.KEEP
    if names and not signs:
        return _Kind.FIELD
    return _Kind.DROP if any(word in _DROP for word in words) else None


def residue(text: str, identifiers: Identifiers) -> str | None:
    """Which kind of this patient's identifiers is still in `text`, or None. Written apart from `scrub`, to check it."""
    folded = fold(text)
    squeezed = fold_id(text)
    words = {re.sub(r"[^\w]", "", word) for word in re.split(r"[\s\d_]+|[^\w'’-]", folded)}
    words |= {part for word in re.split(r"[\s\d_]+|[^\w'’-]", folded) for part in re.split(r"\W", word)}
    rare = {name for name in identifiers.names if name not in vocabulary()}
    if any(name in words for name in rare if len(name) >= 3 or is_ideographic(name)):
        return "name"
    if any(name in folded for name in rare if is_ideographic(name)):
        return "name"
    large = {fold(word) for word in re.findall(r"[^\W\d_]{3,}", re.sub(r"\[[A-Z]+\]", " ", text)) if word[0].isupper()}
    if large & identifiers.names:
        return "name"
    tokens = {fold_id(token) for token in re.split(r"[\s,;()]+", folded)}
    for known in identifiers.ids:
        if _telling(known) and (known in tokens or (len(known) >= 6 and known in squeezed)):
            return "id"
    if any(uid in text for uid in identifiers.uids):
        return "uid"
    if any(form in folded for day in identifiers.dates for form in _date_forms(day)):
        return "date"
    if any(place in " ".join(folded.split()) for place in identifiers.places if _distinctive(place)):
        return "place"
    return None


def vocabulary() -> frozenset[str]:
    """Folded words that are not taken for names (vocabulary.toml)."""
    return _words("words")


@cache
def _words(name: str) -> frozenset[str]:
    """The list of that name in vocabulary.toml, folded."""
    text = Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8")
    return frozenset(fold(word) for word in tomllib.loads(text)[name].split())


def _normalised(text: str) -> str:
    """Raises: DeidError text-residual when no report looks like this: search must not take minutes."""
    if len(text) > _LENGTH_MAX or _UNBROKEN.search(text):
        raise refusal("text-residual", "the text is longer than a report, or runs on without a blank")
    lines = re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", text)
    composed = unicodedata.normalize("NFC", lines).replace("\u00a0", " ")
    return "".join(letter for letter in composed if letter in "\n\t" or not _is_unseen(letter))


_LENGTH_MAX = 50_000
_UNBROKEN = re.compile(r"\S{500}|[ \t]{2000}")


def _is_unseen(letter: str) -> bool:
    """Control and format characters, and accents that belong to no letter."""
    return unicodedata.category(letter)[0] == "C" or "\u0300" <= letter <= "\u036f"


def _plain(text: str) -> str:
    """A copy of the same length to search in: plain dashes, apostrophes, digits and blanks, Latin letters for those
    that look the same, and lines that only the margin ends joined, so that a name over two lines is one name."""
    if not text.isascii():
        half = (unicodedata.normalize("NFKC", each) if "\uff00" < each < "\uff5f" else each for each in text)
        text = "".join(" " if unicodedata.category(each) == "Zs" else each for each in half).translate(_LOOKALIKES)
    return _WRAPPED.sub(r"\1 ", text)


_LOOKALIKES = str.maketrans(
    "\u2018\u2019\u02bc\u2032\u2010\u2011\u2012\u2013\u2014\u2212"
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423"
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "'" * 4 + "-" * 6 + "ABESIJKMHOPCTXY" + "aceijopsxy" + "ABEZHIKMNOPTYXo",
)  # apostrophes and dashes, then Cyrillic and Greek letters
_WRAPPED = re.compile(r"^([^\n]{40,}[^\n.:;!?-])\n(?=[A-Za-z])", re.MULTILINE)


def _tidied(text: str) -> str:
    for placeholder in (NAME, DATE, ID, PLACE):
        mark = re.escape(placeholder)
        text = re.sub(rf"{mark}(?:[\s,^/-]*{mark})+", placeholder, text)
    return text.strip()


def _replaced(text: str, spans: Iterable[_Span]) -> str:
    """Overlapping spans become one, with the placeholder of the longest."""
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            longer = max(last, span, key=lambda each: each.end - each.start)
            merged[-1] = _Span(last.start, max(last.end, span.end), longer.placeholder)
        else:
            merged.append(span)
    for span in reversed(merged):
        text = text[: span.start] + span.placeholder + text[span.end :]
    return text


def _known(text: str, identifiers: Identifiers, staff: frozenset[str], found: list[_Span]) -> Iterator[_Span]:
    yield from _known_names(text, identifiers.names, staff, [span for span in found if span.placeholder == NAME])
    yield from (_Span(start, end, ID) for start, end in _known_ids(text, identifiers.ids))
    folded = text.lower()
    for uid in identifiers.uids:
        yield from (_Span(start, start + len(uid), ID) for start in _starts(folded, uid))
    for day in identifiers.dates:
        for form in _date_forms(day):
            yield from (_Span(start, start + len(form), DATE) for start in _starts(folded, form))
    for place in identifiers.places:
        if _distinctive(place):
            yield from _known_place(text, place)


def _known_ids(text: str, ids: frozenset[str]) -> Iterator[tuple[int, int]]:
    """Where an id stands, whatever its case and punctuation; one of fewer than six characters as a whole word only."""
    squeezed, places = "", []
    for at, letter in enumerate(text):
        for plain in fold_id(letter):
            squeezed += plain
            places.append(at)
    for known in ids:
        if _telling(known):
            for start in _starts(squeezed, known):
                first, last = places[start], places[start + len(known) - 1]
                before, after = text[first - 1 : first], text[last + 1 : last + 2]
                if len(known) >= 6 or not (before.isalnum() or after.isalnum()):
                    yield first, last + 1


def _known_place(text: str, place: str) -> Iterator[_Span]:
    """The whole phrase, and each of its words that is neither clinical nor a common part of such names."""
    parts = [word for word in re.split(r"[\W_]+", place) if word]
    words = {word for word in parts if len(word) > 3 and word.isalpha()} - vocabulary() - _PLACE_WORDS
    found = [(match.start(), match.end(), fold(match[0])) for match in re.finditer(r"[^\W_]+", text)]
    for at in range(len(found)):
        if [word for _, _, word in found[at : at + len(parts)]] == parts:
            yield _Span(found[at][0], found[at + len(parts) - 1][1], PLACE)
        if found[at][2] in words:
            yield _Span(found[at][0], found[at][1], PLACE)


def _starts(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


_PLACE_WORDS = frozenset(
    "general university hospital clinic center centre health medical institute saint street road".split()
)


def _known_names(text: str, names: frozenset[str], staff: frozenset[str], found: list[_Span]) -> Iterator[_Span]:
    """A name is masked wherever it stands, mistyped and misread too. One that is also a plain word (Long, White) goes
    where it is written large, owns something or stands beside a name, a title or a person's verb, and everywhere in a
    text without case; a plain word that only `staff` has for a name, not at the start of a sentence."""
    for name in filter(is_ideographic, names):
        yield from (_Span(*match.span(), NAME) for match in re.finditer(re.escape(name), text))
    for match in _MISREAD.finditer(text):
        if _resembles_any(_letters(match[0]), names):
            yield _Span(*match.span(), NAME)
    words = list(_WORD.finditer(text))
    hits = _hits(words, names, staff)
    caseless = _caseless(text)
    named = {at for span in found for at in range(span.start, span.end)}
    for at, (word, hit) in enumerate(zip(words, hits, strict=True)):
        if at and _is_split_name(text, words[at - 1], word, names):
            yield _Span(words[at - 1].start(), word.end(), NAME)
        if hit is _Hit.RARE or (hit and _names_a_person(text, word, hit, caseless)):
            yield _Span(*word.span(), NAME)
        elif hit in (_Hit.OWN, _Hit.TINY, _Hit.PLAIN) and not _is_term(word[0]):
            near = [other for other in (at - 1, at + 1) if 0 <= other < len(words)]
            near = [other for other in near if _adjacent(text, word, words[other])]
            both = hit is _Hit.OWN and any(hits[other] is _Hit.OWN for other in near)
            if both or any(_is_beside(word, words[other], hits[other], named, caseless) for other in near):
                yield _Span(*word.span(), NAME)


class _Hit(Enum):
    RARE = "a name"
    OWN = "a name of the header that is also a plain word"
    TINY = "a name of the header of two letters"
    PLAIN = "a name of the staff that is also a plain word"
    NEAR = "a plain word that is a typing mistake away from a name"


def _hits(words: list[re.Match[str]], names: frozenset[str], staff: frozenset[str]) -> list[_Hit | None]:
    known = {written: _hit(written, names, staff) for written in {word[0] for word in words}}
    return [known[word[0]] for word in words]


def _hit(word: str, names: frozenset[str], staff: frozenset[str]) -> _Hit | None:
    forms = {re.sub(r"\W", "", fold(word)), *(fold(part) for part in re.split(r"[-’']", word) if len(part) > 1)}
    forms |= {re.sub(r"s$", "", form) for form in forms if re.search(r"[’']s$", word, re.IGNORECASE)}
    found = forms & (names | staff)
    if any(len(name) >= 3 or is_ideographic(name) for name in found - vocabulary()):
        return _Hit.RARE
    if found & names:
        return _Hit.OWN if any(len(name) >= 3 for name in found & names) else _Hit.TINY
    if found:
        return _Hit.PLAIN
    if not any(_resembles_any(form, names) for form in forms):
        return None
    if not _is_common(word):
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
    return False


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
    return owns or not _starts_sentence(text, word.start()) or _ACTS.match(text, word.end()) is not None


_ACTS = re.compile(  # what a person does or has done to them, and a finding does not
    r"\s+(?:family|parents|household|requested|drafted|declined|arrived|vomited|acknowledge[sd]|returned|reports|presents|presented|denie[sd]|complain\w+|tolerated|consented|refused|agree[sd]|fell|lives"
    r"|interpreted|concurs|says|said|states|feels|felt|cannot|could\s+not|moved|coughed|breathed|cooperated|walked"
    r"|underwent|smokes|has\s+(?:a\s+(?:known\s+)?)?(?:history|known|had|been)"
    r"|(?:is|was)\s+(?:aware|informed|notified|told|asked|called|paged|brought|referred|admitted|sedated|positioned"
    r"|repositioned|unable\s+to|present|examined|discharged|transferred|cough\w+|breathing|moving|crying))\b",
    re.IGNORECASE,
)
_CALLED = re.compile(r"\b(?:mrs?|ms|miss|master|baby|pt|patient|name|dr)\b[.:,]?\s*$", re.IGNORECASE)


def _is_split_name(text: str, first: re.Match[str], second: re.Match[str], names: frozenset[str]) -> bool:
    """`Mc Allister` and `Jon son`: a known name with a blank inside."""
    if re.fullmatch(r"[ '-]{1,2}", text[first.end() : second.start()]) is None:
        return False
    joined = fold(first[0] + second[0])
    if len(joined) < 5 or joined in vocabulary():
        return False
    parts = len(first[0]) > 1 and not (_is_common(first[0]) and _is_common(second[0]))
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


_ANNOUNCES = re.compile(
    r"\b(?:(?:dictated|reported|read|signed|verified|approved|transcribed|typed|authori[sz]ed|interpreted|reviewed|seen"
    r"|performed|examined|requested|ordered|referred|acquired|corrected|agreed|placed|obtained|checked|written)\s+by"
    r"|sonographer|attending|reader|typist|radiographer|technologist|technician|practitioner|midwife"
    r"|physician|surgeon|resident|fellow|consultant|registrar|daughter|son|husband|wife|mother|father|brother"
    r"|sister(?!\s+mary\s+joseph)"
    r"|partner|guardian|carer|caregiver|friend|neighbou?r|nurse|per|dr|mrs?|ms|prof|pt(?:\.|\s+name)?|patient\s+name"
    r"|(?:discussed|reviewed)\s+with|(?:reported|communicated|relayed|conveyed|sent|given|e?mailed|faxed)\s+to)\b"
    r"[:,.]?[ \t]+",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(
    r"(?:\b(?:was|were|is|has\s+been|been)\s+(?:called|informed|notified|paged|phoned|telephoned|contacted|told|aware"
    r"|present|asked|counsel+ed)\b|(?:,\s*\w\.?)?\s*[-–,]?\s*(?:md|frcr|frcpc|phd|mbbs|consultant|registrar|radiologist)\b)",
    re.IGNORECASE,
)
_ANNOUNCED_WORDS = 4


def _announced(text: str) -> Iterator[_Span]:
    """Unknown words, in small letters too, where the words beside them say that a person is named."""
    words = list(_WORD.finditer(text))
    starts = [word.start() for word in words]
    for announcing in _ANNOUNCES.finditer(text):
        first = bisect_left(starts, announcing.end())
        after = words[first : first + _ANNOUNCED_WORDS]
        at = announcing.end()
        for word in after:
            if re.fullmatch(r"[ \t,./&-]*", text[at : word.start()]) is None or _is_plain(word[0]):
                break
            if len(word[0]) >= 3:
                yield _Span(*word.span(), NAME)
            at = word.end()
    for said in _FOLLOWS.finditer(text):
        last = bisect_left(starts, said.start())
        before = [word for word in words[max(0, last - 3) : last] if word.end() <= said.start()][-2:]
        at = said.start()
        for word in reversed(before):
            if re.fullmatch(r"[ \t,.]*", text[word.end() : at]) is None or _is_plain(word[0]) or len(word[0]) < 3:
                break
            yield _Span(*word.span(), NAME)
            at = word.start()


def _is_plain(word: str) -> bool:
    """Whether a word is common. One letter may be an initial."""
    return len(word) >= 2 and _is_common(word)


def _is_common(word: str) -> bool:
    """Whether a word, or each part of a compound, is in the vocabulary, as it stands, by its base or by its parts."""
    if fold(word.replace("-\n", "")) in vocabulary():
        return True
    parts = [fold(part) for part in re.split(r"[-’']\n?", word)]
    return all(len(part) < 3 or _in_vocabulary(part) or _is_derived(part, word) for part in parts)


def _is_derived(part: str, word: str) -> bool:
    """A word with a prefix (`nonhealing`); a capitalised one may be a name (Underwood)."""
    front = None if word[0].isupper() and not word.isupper() else _PREFIX.match(part)
    return front is not None and _in_vocabulary(part[front.end() :])


def _in_vocabulary(word: str) -> bool:
    return word in vocabulary() or any(base in vocabulary() for base in _bases(word))


_PREFIX = re.compile(
    r"(?:an?ti|bi|de|extra|hemi|hyper|hypo|infra|inter|intra|iso|macro|micro|mid|multi|neo|non|para|peri|poly|post|pre"
    r"|pseudo|re|retro|semi|sub|super|supra|trans|tri|ultra|un|uni)(?=\w{4})"
)


def _unknown_names(text: str, caseless: bool) -> Iterator[_Span]:
    """Capitalised words inside a sentence, and long words in capitals, that the vocabulary does not know; in a text
    without case, every such word. Plain words that are names too (Stone) when they have a capital inside a sentence."""
    shouting = caseless and _shouting(text)
    for match in _WORD.finditer(text):
        word = match[0]
        if text[max(0, match.start() - 1) : match.end() + 1] in (NAME, DATE, ID, PLACE):
            continue
        if _is_common(word):
            if not caseless and _is_name_inside(text, match):
                yield _Span(*match.span(), NAME)
            continue
        titled = _EPONYM.fullmatch(word) is not None or _TWO_CAPITALS.fullmatch(word) is not None
        irish = re.fullmatch(r"(?:Mc|Mac|O[’'])[A-Z]\w+", word) is not None
        if (titled or irish or caseless) and _is_eponym(text, match.start(), match.end()):
            continue
        bare = (caseless and len(word) >= (3 if shouting else 4)) or (word.isupper() and len(word) >= 5)
        if irish or bare or titled:
            yield _Span(*match.span(), NAME)


def _is_name_inside(text: str, match: re.Match[str]) -> bool:
    """A plain word that is a name too, with a capital that no heading or other capital beside it explains."""
    if fold(match[0]) not in _words("names") or _EPONYM.fullmatch(match[0]) is None:
        return False
    if _starts_sentence(text, match.start()) or _is_eponym(text, match.start(), match.end()):
        return False
    around = (
        _CAPITAL_BEFORE.search(text, max(0, match.start() - 30), match.start()),
        _CAPITAL_AFTER.match(text, match.end()),
    )
    listed = _words("names") | _words("towns")
    return all(beside is None or fold(beside[1]) in listed or not _is_common(beside[1]) for beside in around)


_TWO_CAPITALS = re.compile(r"[A-Z][a-z]+[A-Z][a-z]+")
_CAPITAL_BEFORE = re.compile(r"(?<![\w'’])([A-Z][\w'’-]+)[ \n]$")
_CAPITAL_AFTER = re.compile(r"[ \n-]([A-Z][\w'’-]+)")


def _without_case(text: str) -> Iterator[_Span]:
    people = _titled(text, _words("names") | _words("names_in_context"))
    yield from (_Span(*span) for span in matches_without_case(people, _titled(text, _words("towns"))))


def _titled(text: str, listed: frozenset[str]) -> str:
    """A text without case in small letters, but for initials and the words that may be names, which are `listed` or
    unknown: patterns that go by case can read it. Of the same length."""
    small = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in text)
    letters = list(small)
    for match in _WORD.finditer(small):
        if len(match[0]) >= 3 and (fold(match[0]) in listed or not _is_common(match[0])):
            letters[match.start()] = small[match.start()].upper()
    for match in _INITIAL.finditer(small):
        letters[match.start()] = small[match.start()].upper()
    return "".join(letters)


def _initials(text: str) -> Iterator[_Span]:
    """Of who dictated and who typed (`jr/mk`), unless a unit or a word."""
    for match in _TWO_WRITERS.finditer(text):
        pair = {fold(match["one"]), fold(match["two"])}
        announced = _WRITES.search(text, max(0, match.start() - 60), match.start()) is not None
        if announced or not (
            pair <= _NO_INITIALS or match[0].isupper() or any(len(word) > 2 and _is_common(word) for word in pair)
        ):
            yield _Span(*match.span(), NAME)


_TWO_WRITERS = re.compile(
    r"(?<![\w./:-])(?<!\d )(?P<one>[A-Z]{2,3}|[a-z]{2,3})[/:](?P<two>[A-Z]{2,3}|[a-z]{2,3})(?![\w/:-])"
)
_WRITES = re.compile(
    r"\b(?:dict|trans|dictated|typed|transcribed|signed|verified|read|by|d:|t:)[^\n;]{0,50}[\d\s,.:]$", re.IGNORECASE
)
_NO_INITIALS = frozenset(
    "mg dl ml cm mm hg kg cc hr hrs day min sec ug ng pg mcg iu meq mol gm ms mgy msv and or his her he she him rt lt"
    " ap pa og et ct mr us gi gu mri pet ra rv la lv rca svc ivc dvt pe oa yes no in out up to old new ne ea vs ge"
    " ej".split()
)
_INITIAL = re.compile(r"(?<![\w.'’])[a-z](?=\.(?:[ \t]?[a-z]\b)*)|(?<=\w\.)[a-z](?=\.)")


def _is_eponym(text: str, start: int, end: int) -> bool:
    """Whether the words on either side say that a disease or a device has this name."""
    return _EPONYM_OF.match(text, end) is not None or _OF_EPONYM.search(text, max(0, start - 30), start) is not None


_EPONYM = re.compile(r"[A-ZÀ-ÞĀ-Ž][a-zß-ÿĀ-ž]+(?:[-'’][A-ZÀ-ÞĀ-Ž]?[a-zß-ÿĀ-ž]+)*")
_EPONYM_OF = re.compile(
    r"(?:['’]s)?(?:(?:[ /-]| and )[A-Z][\w’']+)?(?:(?:,? (?:type|grade|stage|class|category))?"
    r" (?:[IVX]{1,4}[A-Fa-f]?|[0-6][a-f]?|[A-D])\b|[ \n](?i:signs?|syndromes?|catheters?|tubes?|rods?|drains?|lines?"
    r"|classifications?|criteria|scores?|stages?|grades?|types?|complex|triad|hernias?|lymphomas?|tumou?rs?|angles?"
    r"|shunts?|valves?|filters?|stents?|prosthes[ie]s|nails?|screws?|plates?|nodes?|nodules?|zones?|sarcomas?"
    r"|fractures?|lesions?|deformit\w+|diseases?|cysts?|pouch|procedures?|bands?|method|atlas|device|coils?|ports?"
    r"|lobes?|ligaments?|canals?|fascia|fat|tubercles?|impaction|contractures?|phenomen\w+|thyroiditis|palsy|neuroma"
    r"|goit\w+|anomal\w+|malformations?|encephalopathy|arthropathy|degeneration|ducts?|glands?|spaces?|clefts?|caps?"
    r"|index|ratio|scale|grading|system|staging|operation|repair|anastomosis|grafts?|needles?|bags?|wires?|pins?|cage"
    r"|balloon|sheath|projection|man(?:o?eu)v\w+|nephroma|o?esophagus|apophys\w+|foramen|notch|membrane|capsule|plexus"
    r"|granulomatosis|gangrene|chorea|dementia|ataxia|an(?:a?e)mia|sinus|triangle|cells?|bod(?:y|ies)|patch\w*"
    r"|protocol|rings?|encephalitis|configuration|sequence|plaque|sutures?|test|biplane|osteodystrophy|tenosynovitis|variants?|abscess|embolization|slurry|kidney|cavity|diverticul\w+|lipoma|ganglion"
    r"|recess|kyphosis|osteotomy|disproportion|tail|fingers?|limb|infraction|injur\w+|fracture-\w+"
    r"|(?:IVC|coil|pouch|spot) \w+)\b)"
)  # what stands behind the name of its inventor
_OF_EPONYM = re.compile(
    r"\b(?:circle|ampulla|tail|tetralogy|sphincter|foram(?:en|ina)|ligament|canal|pouch|fascia|islets?|loop|node|papilla"
    r"|crypts?|valves?|vein|triangle|band|space|sinus|cisterna?|aneurysm|fissure|line|angle|zone|organ|ganglion|bundle"
    r"|capsule|cartilage|lobe|duct|gland|nucleus|artery|tubercle|notch|spine|point|tunnel|plexus|disease) of $",
    re.IGNORECASE,
)


def _beside_placeholders(text: str, caseless: bool) -> Iterator[_Span]:
    """What is plain elsewhere, but not beside a placeholder: [NAME] Cross, [PLACE] in Reading, [DATE] and 3/4."""
    for pattern in (_BEHIND_PLACEHOLDER, _BEFORE_PLACEHOLDER):
        for match in pattern.finditer(text):
            group = match.lastgroup or "word"
            words = fold(match[group]).split()
            before = text[max(0, match.start() - 4) : match.start()].rstrip(" \t")
            opens = match.start(group) == match.start() and (not before or before[-1] in ".!?:;*\n•-")
            if not any(word in _KEEP | _DROP for word in words) and not (opens and _is_common(match[group])):
                yield _Span(*match.span(group), PLACE if "PLACE" in match[0] else NAME)
    for pattern in (_PARTICLES, _WRITERS_BEHIND):
        yield from (_Span(*match.span(match.lastgroup or 0), NAME) for match in pattern.finditer(text))
    for match in _BESIDE_DATE.finditer(text):
        if match["word"]:
            yield _Span(*match.span("word"), DATE)
        elif match["place"] or not _is_common(match["acronym"]):
            yield _Span(*match.span(match.lastgroup or 0), PLACE)
    for match in _INITIALS_BEFORE.finditer(text):
        yield _Span(*match.span("word"), NAME)
    yield from _in_the_form_of_names(text)
    if not caseless:
        yield from _in_the_form_of_places(text)
    yield from _listed_beside(text, caseless)


def _in_the_form_of_names(text: str) -> Iterator[_Span]:
    """Words that may be names, with an initial between them or the other way round, and unknown acronyms at places."""
    listed = _words("names") | _words("names_in_context")
    for match in _FULL_NAME.finditer(text):
        if match["last"] == NAME or not _is_common(match["first"]) or fold(match["first"]) in listed:
            yield _Span(match.start("first"), match.end(), NAME)
    strong = _words("names")
    for match in _FIRST_LAST.finditer(text):
        one, other = match["one"], match["other"]
        may = all(fold(word) in listed or not _is_common(word) for word in (one, other))
        if may and (fold(one) in strong or fold(other) in strong) and not _is_eponym(text, *match.span("other")):
            yield _Span(match.start("one"), match.end("other"), NAME)
    for match in _LAST_FIRST.finditer(text):
        if all(not _is_common(word) or fold(word) in listed for word in match.groups()):
            yield _Span(*match.span(), NAME)


def _in_the_form_of_places(text: str) -> Iterator[_Span]:
    """Capitalised words behind `at` or before `records`."""
    for match in _AT_ACRONYM.finditer(text):
        if match["iu"] or not _is_common(match["word"] or match["before"]):
            yield _Span(*match.span(match.lastgroup or 0), PLACE)
    for match in _AT_CAPITALS.finditer(text):
        words = [fold(word) for word in _WORD.findall(match["words"])]
        told = len(words) > 1 or words[0] in _words("towns") or match["from"]
        if (
            told
            and not set(words) & _SIDES
            and words[0] not in _KEEP | _DROP
            and not _is_eponym(text, *match.span("words"))
        ):
            yield _Span(*match.span("words"), PLACE)
    listed = _words("names") | _words("names_in_context") | _words("towns")
    for match in _RECORDS_OF.finditer(text):
        words = _WORD.findall(match["words"])
        office = len(words) > 1 and words[-1] in ("Radiology", "Imaging", "Diagnostics")
        if office or any(fold(word) in listed or not _is_common(word) for word in words):
            yield _Span(*match.span("words"), PLACE)


_SIDES = frozenset(
    "left right bilateral upper lower middle mid anterior posterior medial lateral superior inferior proximal distal"
    " right-sided left-sided the lung lungs lobe chest abdomen".split()
)


def _listed_beside(text: str, caseless: bool) -> Iterator[_Span]:
    """Words that are names too, beside a name: in a text without case, whatever their case."""
    clinical = _words("names_in_context")
    listed = _words("names") | _words("towns") | clinical
    for pattern in (_WORD_BEHIND, _WORD_BEFORE):
        for match in pattern.finditer(text):
            word, comma = match["word"], "," in match[0]
            if not (fold(word) in listed or (caseless and not _is_common(word))):
                continue
            if not caseless:
                colon = text[: match.start()].rstrip()[-1:] == ":"
                inside = colon or comma or not _starts_sentence(text, match.start("word"))
                told = inside and _EPONYM.fullmatch(word) is not None
            else:  # [NAME], SMALL EFFUSION
                told = not comma or fold(word) not in clinical or _ENDS_NAME.match(text, match.end("word")) is not None
            if told:
                yield _Span(*match.span("word"), NAME)


_ENDS_NAME = re.compile(r"\s*(?:[.;:)\n]|$|,? (?:was|is|has|have|had|m\.?d)\b|,? \[)", re.IGNORECASE)
_WORD_BEHIND = re.compile(r"\[(?:NAME|PLACE)\],?[ \n]+(?:[A-Za-z]\.[ \n]?)?(?P<word>[^\W\d_][\w’'-]+)")
_WORD_BEFORE = re.compile(r"\b(?P<word>[^\W\d_][\w’'-]+)(?:,?[ \n]+|-)(?:[A-Za-z]\.[ \n]?)?\[(?:NAME|PLACE)\]")
_FIRST_LAST = re.compile(r"\b(?P<one>[A-Z][a-z]+)[ \t](?=(?P<other>[A-Z][a-z]+)\b)")
_LAST_FIRST = re.compile(
    r"(?<![\w,] )\b([A-Z][a-z][\w'’-]+), ([A-Z][a-z][\w'’-]+)(?=[ \t]*(?:[\n.;)]|$|,? (?:is|was|has|have|had)\b))"
)
_INITIALS_BEFORE = re.compile(
    r"(?<![\w/:])(?P<word>[A-Za-z]{2,3}[/:][A-Za-z]{2,3}|(?!by|to|is)[a-z]{2,3}[/:](?=\[))(?=,? ?\[(?:DATE|NAME)\])"
)
_AT_ACRONYM = re.compile(
    r"(?:\b(?:[Aa]t|[Ff]rom|[Tt]o|[Bb]y)\s+|[Ss]tudy \(|\[NAME\],? \(?)(?P<word>[A-Z]{3,6})\b(?!-)"
    r"|\b(?P<before>[A-Z]{3,5})(?=\s(?:CT|MRI|records|films|emergency|clinic|campus|team)\b)"
    r"|(?:\b(?:[Aa]t|[Ff]rom|[Tt]he|[Tt]o)\s|^|[.:]\s+)(?P<iu>[A-Z]{2,4})(?=\s\[(?:NAME|PLACE)\])",
    re.MULTILINE,
)
_CAPITALS = r"[A-ZÀ-ÞĀ-Ž][\w’'-]+(?:\s(?:of\s|for\s)?[A-ZÀ-ÞĀ-Ž][\w’'-]+){0,4}"
_AT_CAPITALS = re.compile(
    r"\b(?:(?P<from>[Aa]t|[Ff]rom)|[Ii]n)\s+(?P<words>[A-Z][a-z][\w’'-]+"
    r"(?:\s(?:of\s)?(?:[A-Z][a-z][\w’'-]+|[A-Z]{2,}|\[NAME\])){0,3})(?!\w)"
)
_RECORDS_OF = re.compile(
    rf"(?<![\w’'-])(?P<words>{_CAPITALS})(?=\s+(?:records|films|emergency|campus|team|(?:CT|MRI?|PET|CTA)\s+(?:of|from|dated|on)\b))"
)

_WRITERS_BEHIND = re.compile(
    r"\[(?:DATE|NAME)\](?:,? MD)?[ ,:/]{0,3}(?P<word>[A-Za-z]{2,3}[/:][A-Za-z]{2,3})(?![\w/:])"
    r"|\[NAME\][/:](?P<typist>[A-Za-z]{2,3})(?![\w/:])|(?<![\w/:])(?P<writer>[A-Z]{2,3})[/:](?=\[NAME\])"
)
_TITLED = r"[A-ZÀ-ÞĀ-Ž][a-zß-ÿĀ-ž][\w’'-]*"
_BEHIND_PLACEHOLDER = re.compile(
    rf"(?:\[NAME\]|\[PLACE\](?:,| (?:in|at|of))?)(?: &)?[ /-](?P<word>{_TITLED}(?:[ -]{_TITLED})?)(?![\w:])"
    rf"|\[NAME\], (?P<listed>{_TITLED})(?=[).])"
)
_BEFORE_PLACEHOLDER = re.compile(
    rf"(?P<word>\b(?:VA|MOUNT|MT|SAINT|ST|NEW|SAN|SANTA|FORT|{_TITLED})) \[(?:NAME|PLACE)\]"
    rf"|(?:(?<=\()|(?<=by )|(?<=with )|(?<=: ))(?P<listed>{_TITLED}), \[NAME\]"
)
_FULL_NAME = re.compile(rf"\b(?P<first>{_TITLED}) [A-Z]\. ?(?P<last>{_TITLED}|\[NAME\])")
_PARTICLES = re.compile(
    r"(?P<word>\b(?:[Vv][ao0]n|[Dd]e[rnls]?|[Ll][ae]|D[iuao]|Dos|Al|El|Ma?c|St\.?|[Bb]in|[Tt]er|Ap"
    r"|V[AO]N|DE[RNLS]?|L[AE]|EL|AL|LOS|LAS)(?: de[rn]?| la)?) \[NAME\]"
)
_BESIDE_DATE = re.compile(
    r"(?:\[DATE\](?:(?:,? (?:and|or|&)|,) | \()|\[NAME\] (?:of|from|on) |\[(?:PLACE|NAME)\],\s)"
    r"(?P<word>(?:0?[1-9]|[12]\d|3[01])[/.](?:0?[1-9]|[12]\d|3[01])(?!\d)\.?)"
    r"|(?:\[DATE\](?:,| at| from| in)|\[NAME\](?:, NP| PA)? (?:at|from)) (?P<acronym>[A-Z]{3,5})\b"
    rf"|\[DATE\] (?:at|in|from) (?:the )?(?P<place>{_TITLED}(?: {_TITLED})*)"
)


def _starts_sentence(text: str, at: int) -> bool:
    before = text[max(0, at - 40) : at]
    last = before.rstrip()
    if last.endswith((NAME, DATE, ID, PLACE)):
        return "\n" in before[len(last) :]
    if re.search(r"(?:^|[\s:(,])[A-Z]\.$", last):  # an initial
        return False
    return not last or "\n" in before[len(last) :] or last[-1] in '.!?:;])"“•*-'


def _bases(word: str) -> Iterator[str]:
    """The words that this may be a plural, an adverb or a form of the verb of; a vocabulary lists mostly those."""
    for ending, base in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            yield word[: -len(ending)] + base
            if word[-len(ending) - 1] == word[-len(ending) - 2]:
                yield word[: -len(ending) - 1] + base


_ENDINGS = tuple(
    tuple(each.split("/"))
    for each in "ies/y es/ s/ ier/y iest/y ally/al ly/ ed/ ed/e ing/ ing/e ied/y ness/ er/ er/e est/".split()
)


def _shouting(text: str) -> bool:
    """Whether a text is written in capitals, but for a word."""
    return _share_of_capitals(text) > 0.7


def _caseless(text: str) -> bool:
    """Whether a text is written in capitals or without any, but for a word: case tells nothing."""
    return not 0.002 <= _share_of_capitals(text) <= 0.7


def _share_of_capitals(text: str) -> float:
    """0.5 for a text too short to say; placeholders do not count."""
    words = _PLACEHOLDER.sub("", text)
    letters = sum(map(str.isalpha, words))
    return sum(map(str.isupper, words)) / letters if letters > 20 else 0.5


_PLACEHOLDER = re.compile(r"\[(?:NAME|DATE|ID|PLACE)\]")


def _opens_line(text: str, at: int) -> bool:
    return "\n" in text[at:].partition(":")[0] or not text[:at].rpartition("\n")[2].strip()


def _telling(known: str) -> bool:
    """Ids of one to three characters, or words of the vocabulary, would mask sizes and plain words."""
    return len(known) >= 4 and known not in vocabulary()


def _distinctive(place: str) -> bool:
    words = [word for word in re.split(r"[\W\d_]+", place) if word]
    return bool(words) and len(place) >= 4 and not all(word in vocabulary() or word in _PLACE_WORDS for word in words)


_MONTHS = "january february march april may june july august september october november december".split()


def _date_forms(day: date) -> list[str]:
    y, m, d, short = day.year, day.month, day.day, day.year % 100
    name = _MONTHS[m - 1]
    forms = [f"{y}{m:02d}{d:02d}", f"{y}-{m:02d}-{d:02d}", f"{y}/{m:02d}/{d:02d}", f"{y}.{m:02d}.{d:02d}"]
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
