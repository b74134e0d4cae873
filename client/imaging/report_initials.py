"""Initials of who dictated, typed, checked or signed a report: by their place in it."""

import re
from collections.abc import Iterator

from client.imaging.identifiers import fold
from client.imaging.patterns import NAME
from client.imaging.vocabulary import Span, is_caseless, is_common, listed_words, spanned, vocabulary


def initials(text: str) -> Iterator[Span]:
    """Of who dictated and who typed (`jr/mk`), unless a unit or a word."""
    for match in _TWO_WRITERS.finditer(text):
        pair = {fold(match["one"]), fold(match["two"])}
        announced = _WRITES.search(text, max(0, match.start() - 60), match.start()) is not None
        if announced or not (
            pair <= _NO_INITIALS or match[0].isupper() or any(len(word) > 2 and is_common(word) for word in pair)
        ):
            yield Span(*match.span(), NAME)
    yield from _signed_off(text)


def _signed_off(text: str) -> Iterator[Span]:
    """Initials behind `by` and `read:`, and at the end; inside a line, where they are no word."""
    for match in _BEHIND_ROLE.finditer(text):
        if match["d"] is None or fold(match["d"]) not in vocabulary():
            yield spanned(match, NAME)
    yield from (Span(*match.span("d"), NAME) for match in _IN_BRACKETS.finditer(text))
    for match in _ARRANGES.finditer(text):
        word = fold(match["d"])
        if word not in vocabulary() and word not in listed_words("abbreviations"):
            yield Span(*match.span("d"), NAME)
    for match in _BEFORE_ROLE.finditer(text):
        yield spanned(match, NAME)
    if not is_caseless(text):
        for match in _LAST.finditer(text):
            if match["line"] or fold(match["d"]) not in vocabulary() - listed_words("grammar"):
                yield Span(*match.span("d"), NAME)


def initials_beside_placeholders(text: str) -> Iterator[Span]:
    """Those that stand beside what is masked already: `[DATE] jr/mk`, `[NAME] (RH)`."""
    for pattern in (_PAIR_BEFORE, _PAIR_BEHIND, _BEHIND_DATE):
        yield from (spanned(match, NAME) for match in pattern.finditer(text))
    for match in _SHORT_NAME.finditer(text):
        if match["inside"] or not match["word"].isascii() or fold(match["word"]) not in vocabulary():
            yield spanned(match, NAME)


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
_BEHIND_ROLE = re.compile(
    r"\b[Cc]hecked\s+(?P<checked>[A-Z]{2,4})\b|"
    r"\b(?:[Tt]ranscribed|TRANSCRIBED|[Tt]yped|TYPED|[Dd]ictated|DICTATED|[Vv]etted)\s+(?P<writes>(?!by\b|BY\b)(?:[a-z]{2,3}|[A-Z]{2,3}))(?=\s*[,.;\n]|\s*\Z)"
    r"|\b(?:[Hh]istory|[Mm]easured|[Mm]erged|[Aa]ssisted)\b[^.;\n]{0,30}?\s(?:by|per)\s+(?!(?i:ct|mr|us|cta|mra|mri|pet|iv|eus|tte|toe|tee|the|his|her|its|one|two|mm|cm|os|rn|gp|ed)\b)(?P<per>[A-Za-z]{2,3})\b(?=,|\s+(?:as|on|at)\b|\s*\.)"
    r"|\b[DT]:\s+(?P<letter>[a-z]{2,4}|[A-Z]{2,4})(?=\s*(?:\n|\Z|\[DATE\]|\d))|"
    r"\b(?:(?i:read|reader|transcri\w+|typist|secretary|dictator|technologist|tech|author|sonographer|radiographer"
    r"|radiologist|operator)\s*:\s*|[Bb]y\s+(?=[A-Z]))(?P<d>[A-Za-z]{2,4})\b"
    r"(?!\s(?:\w+\s)?(?:criteria|consensus|guid\w+|recommendation\w*|standards?|classification|definition\w*|protocol|grading))"
    r"|\b(?i:noted|read|interpreted|checked|typed|verified|signed|dictated|entered|vetted|transcribed)(?:\s+[\w./:-]*\d[\w./:-]*)?\s+(?i:by):?\s+"
    r"(?P<sure>[A-Z]{2,4}|[a-z]{2,3})\b(?!\s+the\b)"
)
_BEHIND_DATE = re.compile(
    r"(?:\[DATE\][\s/-]+|\[ID\]\s*[\n/]\s*)(?P<d>[A-Z]{2,4}|[a-z]{2,4})\s*\Z|\b(?i:d[dt]?|t):?\s*\[DATE\][\s/-]+(?P<typed>[A-Za-z]{2,4})\b"
)
_ARRANGES = re.compile(
    r"(?:^|[.:;]\s+|\n[ \t]*(?:\d[.)]\s*)?)(?P<d>[A-Za-z]{2,3})\s+(?:to\s+(?:arrange|chase|call|phone|ring|review)"
    r"|(?i:informed|aware|notified|told|phoned|paged))\b"
)
_IN_BRACKETS = re.compile(r"\b(?i:comment|addendum|note|reader|read|entered|signed)\s*\((?P<d>[A-Za-z]{2,3})(?=[,)])")
_BEFORE_ROLE = re.compile(
    r"(?:^|[.;]\s+|\n[ \t]*)(?P<s>(?!(?i:the|and|was|by|no)\b)[A-Za-z]{2,3})\s+"
    r"(?i:scrib(?:e|ed|ing)|typist|typed|typing)\b|"
    r"(?:^|\n)[ \t/-]*(?P<d>[A-Z](?:[A-Z]|c[A-Z]|[A-Z]c[A-Z]){1,2}),? "
    r"(?:(?i:(?:reporting|consultant|specialist|registrar|radiolog|radiograph|sonograph)\w*)|SpR|SHO|ST\d|FY\d|CT\d)\b"
)
_LAST = re.compile(r"(?:(?P<line>\n)|[.\])][ \t])[ \t/-]*(?P<d>(?!(?:NAD|NIL|END)\b)[A-Z]{2,4})\s*\Z")
_SHORT_NAME = re.compile(r"\[NAME\] (?:\((?P<inside>[A-Z]{2,3})\)|(?P<word>[A-ZÀ-Þ][a-zß-ÿ]{1,2}|[A-Z]{2,3})\b)")
_PAIR_BEFORE = re.compile(
    r"(?<![\w/:])(?P<word>[A-Za-z]{2,3}[/:][A-Za-z]{2,3}|(?!by|to|is)[a-z]{2,3}[/:](?=\[))(?=,? ?\[(?:DATE|NAME)\])"
)
_PAIR_BEHIND = re.compile(
    r"\[(?:DATE|NAME)\](?:,? MD)?[ ,:/]{0,3}(?P<word>[A-Za-z]{2,3}[/:][A-Za-z]{2,3})(?![\w/:])"
    r"|\[NAME\][/:](?P<typist>[A-Za-z]{2,3})(?![\w/:])|(?<![\w/:])(?P<writer>[A-Z]{2,3})[/:](?=\[NAME\])"
)
