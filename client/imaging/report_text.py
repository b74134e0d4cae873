"""Report text without the patient: sections that describe the picture stay, identifiers become fixed placeholders.

Four passes: sections; the identifiers of this patient's own headers, exactly and with a typing mistake; general
patterns; and a gate that masks capitalised words outside a radiology vocabulary and holds the text back when there
are many of them. Placeholders are `[NAME]`, `[DATE]`, `[ID]` and `[PLACE]`; an age over 89 becomes `90+`.

This is careful, not perfect: a name in lower case that no header knows and no pattern announces can stay, and in a text
all in capitals the gate has nothing to go by. The vocabulary is English: other languages that capitalise nouns end in
quarantine rather than in the store.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import NamedTuple

from client.imaging.header import refusal
from client.imaging.identifiers import Identifiers, fold, fold_id, is_ideographic
from client.imaging.patterns import DATE, ID, NAME, PLACE, matches
from client.imaging.tagger import Tagger

_UNKNOWN_WORDS_MAX = 6
_WORD = re.compile(r"[^\W\d_]+(?:[-’'][^\W\d_]+)*")

_MISREAD = re.compile(r"\b(?=\w*\d)[^\W\d_](?=\w*[^\W\d_]{2})\w{4,}\b")  # a word with digits inside, as scanners read
_LIKE_LETTERS = str.maketrans("01358", "olesb")

_KEEP = frozenset(
    "finding findings impression impressions conclusion conclusions opinion interpretation assessment summary result "
    "results report recommendation recommendations diagnosis befund beurteilung".split()
)
_DROP = frozenset(
    "history indication indications comparison comparisons technique procedure exam examination study patient name mrn "
    "dob age sex gender date time accession physician referring ordering attending radiologist signature signed "
    "dictated transcribed electronically notification communication facility hospital institution location department "
    "reason clinical information id phone address views priors".split()
)
_SIGNATURES = frozenset("signature signed dictated transcribed electronically notification communication".split())
_HEADING = re.compile(r"(?:^|(?<=[\n.;]))[ \t]*([A-Za-zÄÖÜäöü][A-Za-zÄÖÜäöü /&()]{1,40}?)[ \t]*:", re.MULTILINE)


class _Span(NamedTuple):
    start: int
    end: int
    placeholder: str


def scrub(
    text: str, identifiers: Identifiers, staff: frozenset[str] = frozenset(), tagger: Tagger | None = None
) -> str:
    """`text` without identifiers: those of the headers, of `staff` (name words of the site), those of patterns, and
    what a site's own `tagger` marks.

    Guarantees: no id, UID or date of `identifiers`, and no name of it outside the vocabulary, is left (`residue` is
    None). Clinical words, sizes, fractions, spine levels and listed eponyms stay.

    Raises: DeidError text-residual when more than a few capitalised words are unknown.

    >>> scrub("Seen by Dr. Ada Vance on 3 March 2019. Nodule 4 x 5 mm at T12-L1.", Identifiers())
    'Seen by [NAME] on [DATE]. Nodule 4 x 5 mm at T12-L1.'
    """
    clean = _normalised(text)
    spans = [*_known(clean, identifiers, staff), *(_Span(*span) for span in matches(clean)), *_announced(clean)]
    if tagger is not None:
        spans += [_Span(*span) for span in tagger.spans(clean)]
    clean = _replaced(clean, spans)
    unknown = list(_unknown_names(clean))
    if len({clean[span.start : span.end] for span in unknown}) > _UNKNOWN_WORDS_MAX:
        raise refusal("text-residual", "the text has too many words that may be names")
    return _tidied(_replaced(clean, unknown))


def sections(text: str) -> str:
    """The sections that describe the picture; a text without headings is one such section.

    Raises: DeidError text-sections when there are headings, but none of a section that describes the picture.
    """
    headings = [
        (match.start(), _wanted(match[1], _opens_line(text, match.start()))) for match in _HEADING.finditer(text)
    ]
    headings = [(start, wanted) for start, wanted in headings if wanted is not None]
    if not headings:
        return text
    if not any(wanted for _, wanted in headings):
        raise refusal("text-sections", "the report has headings, but neither findings nor impression")
    ends = [start for start, _ in headings[1:]] + [len(text)]
    kept = [text[start:end].strip() for (start, wanted), end in zip(headings, ends, strict=True) if wanted]
    return "\n".join(kept)


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


@cache
def vocabulary() -> frozenset[str]:
    """Folded words that are not taken for names (vocabulary.toml)."""
    text = Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8")
    return frozenset(fold(word) for word in tomllib.loads(text)["words"].split())


def _normalised(text: str) -> str:
    composed = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\u00a0", " ")
    return "".join(letter for letter in composed if letter in "\n\t" or unicodedata.category(letter)[0] != "C")


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


def _known(text: str, identifiers: Identifiers, staff: frozenset[str]) -> Iterator[_Span]:
    yield from _known_names(text, identifiers.names, staff)
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


def _known_names(text: str, names: frozenset[str], staff: frozenset[str]) -> Iterator[_Span]:
    """A name is masked wherever it stands, with one typing mistake too; a name that is also a word of the vocabulary
    (Long, White) only when it is capitalised inside a sentence or stands beside another name or a title."""
    for name in names:
        if is_ideographic(name):
            for match in re.finditer(re.escape(name), text):
                yield _Span(*match.span(), NAME)
    for match in _MISREAD.finditer(text):
        letters = fold(match[0]).translate(_LIKE_LETTERS)
        if any(len(name) >= 5 and _within_typo(letters, name) for name in names):
            yield _Span(*match.span(), NAME)
    words = list(_WORD.finditer(text))
    everyone = names | staff
    hits = [_is_name(word[0], names, everyone) for word in words]
    shouting = _shouting(text)
    for at, (word, hit) in enumerate(zip(words, hits, strict=True)):
        if hit == "rare":
            yield _Span(*word.span(), NAME)
        elif hit == "common" and word[0][0].isupper():
            near = [
                other
                for other in (at - 1, at + 1)
                if 0 <= other < len(words) and _adjacent(text, words[at], words[other])
            ]
            beside = any(hits[other] == "rare" or (hits[other] and words[other][0][0].isupper()) for other in near)
            inside = not shouting and not _starts_sentence(text, word.start())
            if beside or inside:
                yield _Span(*word.span(), NAME)


def _is_name(word: str, names: frozenset[str], everyone: frozenset[str]) -> str:
    """rare (a name), common (a name that is also a plain word), or empty."""
    forms = {re.sub(r"\W", "", fold(word)), *(fold(part) for part in re.split(r"[-’']", word) if len(part) > 1)}
    forms |= {re.sub(r"s$", "", form) for form in forms if re.search(r"[’']s$", word)}
    found = forms & everyone
    if found - vocabulary():
        tiny = all(len(name) < 3 for name in found - vocabulary())
        return "common" if tiny else "rare"
    if found:
        return "common"
    for form in forms - vocabulary():
        if len(form) >= 5 and any(_within_typo(form, name) for name in names if len(name) >= 5):
            return "rare"
    return ""


def _adjacent(text: str, one: re.Match[str], other: re.Match[str]) -> bool:
    first, second = sorted((one, other), key=lambda match: match.start())
    return re.fullmatch(r"[\s,^]*(?:[A-Z]\.?[\s,^]+)?", text[first.end() : second.start()]) is not None


def _within_typo(word: str, name: str) -> bool:
    """One letter added, lost, changed or swapped with its neighbour (two from nine letters on)."""
    allowed = 2 if len(name) >= 9 else 1
    if abs(len(word) - len(name)) > allowed:
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
    r"|performed|examined|requested|ordered|referred)\s+by|radiographer|technologist|technician|practitioner|midwife"
    r"|physician|surgeon|resident|fellow|consultant|registrar|daughter|son|husband|wife|mother|father|brother|partner"
    r"|guardian|carer|caregiver|friend|neighbou?r|per|pt(?:\.|\s+name)?|patient\s+name)\b[:,.]?[ \t]+",
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
    for announcing in _ANNOUNCES.finditer(text):
        after = [word for word in words if announcing.end() <= word.start()][:_ANNOUNCED_WORDS]
        at = announcing.end()
        for word in after:
            if re.fullmatch(r"[ \t,./&-]*", text[at : word.start()]) is None or _is_plain(word[0]):
                break
            if len(word[0]) >= 3:
                yield _Span(*word.span(), NAME)
            at = word.end()
    for said in _FOLLOWS.finditer(text):
        before = [word for word in words if word.end() <= said.start()][-2:]
        at = said.start()
        for word in reversed(before):
            if re.fullmatch(r"[ \t,.]*", text[word.end() : at]) is None or _is_plain(word[0]) or len(word[0]) < 3:
                break
            yield _Span(*word.span(), NAME)
            at = word.start()


def _is_plain(word: str) -> bool:
    """Whether a word, or each part of a compound, is in the vocabulary, as it stands or by its base. One letter may be
    an initial."""
    if len(word) < 2:
        return False
    parts = [fold(part) for part in re.split(r"[-’']", word)]
    return all(part in vocabulary() or _stem(part) in vocabulary() or len(part) < 3 for part in parts)


def _unknown_names(text: str) -> Iterator[_Span]:
    """Capitalised words inside a sentence, and long words in capitals, that the vocabulary does not know."""
    if _shouting(text):
        return
    for match in _WORD.finditer(text):
        word = match[0]
        if text[max(0, match.start() - 1) : match.end() + 1] in (NAME, DATE, ID, PLACE):
            continue
        parts = [fold(part) for part in re.split(r"[-’']", word)]
        if all(part in vocabulary() or _stem(part) in vocabulary() or len(part) < 3 for part in parts):
            continue
        if word[0].isupper() and word[1:].islower() and _EPONYM_OF.match(text, match.end()):
            continue
        titled = word[0].isupper() and word[1:].islower() or bool(re.fullmatch(r"(?:Mc|Mac|O[’'])[A-Z]\w+", word))
        titled = titled or bool(re.fullmatch(r"[A-Z][a-z]+(?:[-’'][A-Z]?[a-z]+)+", word))
        irish = re.fullmatch(r"(?:Mc|Mac|O[’'])[A-Z]\w+", word) is not None
        shouted = word.isupper() and len(word) >= 5
        if irish or shouted or (titled and not _starts_sentence(text, match.start())):
            yield _Span(*match.span(), NAME)


_EPONYM_OF = re.compile(
    r" (?:signs?|syndromes?|catheters?|tubes?|rods?|drains?|lines?|classification|criteria|score|stage|grade|complex"
    r"|triad|hernia|lymphoma|tumou?r|angle|shunt|valve|filter|stent|prosthesis|nails?|screws?|plates?|nodes?|zones?"
    r"|sarcoma)\b"
)  # what stands behind the name of its inventor, without 's


def _starts_sentence(text: str, at: int) -> bool:
    before = text[max(0, at - 40) : at]
    last = before.rstrip()
    if re.search(r"(?:^|[\s:(,])[A-Z]\.$", last):  # an initial
        return False
    return not last or "\n" in before[len(last) :] or last[-1] in '.!?:;])"“(•*-'


def _stem(word: str) -> str:
    """A plural or an adverb by its base word; enough for a vocabulary that lists singulars."""
    for ending, base in (("ies", "y"), ("es", ""), ("s", ""), ("ally", "al"), ("ly", ""), ("ed", ""), ("ing", "")):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + base
    return word


def _shouting(text: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    return len(letters) > 20 and sum(letter.isupper() for letter in letters) > 0.7 * len(letters)


def _opens_line(text: str, at: int) -> bool:
    return "\n" in text[at:].partition(":")[0] or not text[:at].rpartition("\n")[2].strip()


def _wanted(heading: str, opens_line: bool) -> bool | None:
    """Whether a heading opens a section that stays, goes, or is none of ours. `Dictated by:` inside a line is a
    sentence of the findings, not the end of them."""
    words = fold(heading).replace("/", " ").replace("&", " ").split()
    if not opens_line and any(word in _SIGNATURES for word in words):
        return None
    if any(word in _KEEP for word in words) and not any(word in ("date", "signed", "time") for word in words):
        return True
    return False if any(word in _DROP for word in words) else None


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
