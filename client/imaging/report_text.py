"""Report text without the patient: what the sections that describe the picture say, with placeholders for identifiers.

Lines of one case are read together. General patterns, the words that announce a person, and this patient's own headers
(exactly, mistyped and misread) go first; what has only the form of an identifier, but is a finding, stays. Then what is
plain elsewhere, but not beside a placeholder or in a sentence about people; then words outside a radiology vocabulary,
where they have a capital or a text has no case at all: many of them hold the text back. What was a name once is one
wherever it stands. Last, a second reader, which knows no rules but how sentences about people run, looks through what
is left: what it doubts goes, many doubts hold the text back.
Placeholders are `[NAME]`, `[DATE]`, `[ID]` and `[PLACE]`; an age over 89 becomes `90+`.

This is careful, not perfect: a name that is a plain word (Long, Reading) and not of this header can stay where nothing
beside it gives it away; so can a part of an address or of a firm's name. The vocabulary is English: other languages
that capitalise nouns end in quarantine rather than in the store. Words of another script in a text of Latin letters go
as names. In a text mostly of such a script only what the headers name is sure to go; where it has no case, a few
unknown words go and more hold it back.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from client.imaging.header import refusal
from client.imaging.identifiers import Identifiers
from client.imaging.patterns import DATE, ID, NAME, OVER_89, PLACE, matches
from client.imaging.report_clues import (
    announced,
    beside_placeholders,
    elsewhere,
    in_other_scripts,
    in_told_sentences,
    is_eponym,
    unknown_names,
    without_case,
)
from client.imaging.report_findings import without_findings
from client.imaging.report_initials import initials
from client.imaging.report_known import known
from client.imaging.report_listed import NOBODY, Listed
from client.imaging.report_plain import without_plain
from client.imaging.second_reader import second_reader
from client.imaging.tagger import Tagger
from client.imaging.vocabulary import Span, blocks_of_one_case, is_caseless, normalised, undisguised

_UNKNOWN_WORDS_MAX = 6
_DOUBTS_MAX = 4
Clearing = Callable[[str, Iterable[Span]], list[Span]]


def scrub(
    text: str, identifiers: Identifiers, staff: frozenset[str] = frozenset(), tagger: Tagger | None = None,
    listed: Listed = NOBODY,
) -> str:  # fmt: skip
    """`text` without identifiers: those of the headers, of `staff` (name words of other headers), of the site's lists
    (`listed`), those of patterns, what a site's own `tagger` marks, and what the second reader doubts.

    Guarantees: of `identifiers` no UID or date is left, no id of four characters or more that is no word of the
    vocabulary (a shorter one goes behind a word like `patient` or `no.`, and wherever it has the form of no finding:
    AB7, not T12), no name outside the vocabulary, and none written with a capital (`residue` is None). Clinical words,
    sizes, fractions, spine levels and listed eponyms stay.

    Raises: DeidError text-residual when more than a few capitalised words are unknown, or doubtful.

    >>> scrub("Seen by Dr. Ada Vance on 3 March 2019. Nodule 4 x 5 mm at T12-L1.", Identifiers())
    'Seen by [NAME] on [DATE]. Nodule 4 x 5 mm at T12-L1.'
    """
    reader = second_reader()
    clean = _by_rules(text, identifiers, staff, tagger, listed, reader.not_cleared)
    doubts = without_findings(_plain(clean), reader.doubts(clean), identifiers.names)
    if _places(doubts) > _DOUBTS_MAX:
        raise refusal("text-residual", "the text has too many places that may be about a person")
    return _tidied(_replaced(clean, doubts))


def scrub_by_rules(
    text: str, identifiers: Identifiers, staff: frozenset[str] = frozenset(), tagger: Tagger | None = None,
    listed: Listed = NOBODY,
) -> str:  # fmt: skip
    """`text` as the rules alone leave it, which the second reader learns from. Raises as `scrub`."""
    return _by_rules(text, identifiers, staff, tagger, listed, lambda _, spans: list(spans))


def _by_rules(
    text: str, identifiers: Identifiers, staff: frozenset[str], tagger: Tagger | None, listed: Listed,
    not_cleared: Clearing,
) -> str:  # fmt: skip
    """What the second reader reads: all that the rules find is masked, but words that go by their neighbours or for a
    capital alone, and are `not_cleared` away."""
    cleaned, found, unknown = [], set[str](), set[str]()
    text = normalised(text)
    text = _replaced(text, in_other_scripts(text))
    for block in blocks_of_one_case(text):
        clean, by_rule, by_capital = _scrub_block(block, identifiers, staff, tagger, listed, not_cleared)
        cleaned.append(clean)
        found |= by_rule
        unknown |= by_capital
    if len(unknown) > _UNKNOWN_WORDS_MAX:
        raise refusal("text-residual", "the text has too many words that may be names")
    clean = "\n".join(cleaned)
    return _tidied(_replaced(clean, elsewhere(_plain(clean), found)))


def _scrub_block(
    text: str, identifiers: Identifiers, staff: frozenset[str], tagger: Tagger | None, listed: Listed,
    not_cleared: Clearing,
) -> tuple[str, set[str], set[str]]:  # fmt: skip
    """A text of one case, clean; the words taken out of it for what is known of them; and those for a capital alone."""
    plain = _plain(text)
    caseless = is_caseless(plain)
    spans = [*(Span(*span) for span in matches(plain)), *(without_case(plain) if caseless else ())]
    spans = [span for span in without_plain(plain, spans, caseless) if not _is_eponym(plain, span)]
    spans = without_findings(plain, [*spans, *announced(plain), *initials(plain)], identifiers.names)
    spans += known(plain, identifiers, staff, spans)
    if tagger is not None:
        spans += [Span(*span) for span in tagger.spans(text)]
    found = {plain[span.start : span.end] for span in spans if span.placeholder in (NAME, PLACE)}
    text, unknown = _replaced(text, [*spans, *listed.spans(plain)]), set[str]()
    for search in (beside_placeholders, in_told_sentences, unknown_names, beside_placeholders):
        plain = _plain(text)
        spans = not_cleared(plain, without_findings(plain, search(plain, caseless), identifiers.names))
        if search is unknown_names:
            unknown = {text[span.start : span.end] for span in spans}
        text = _replaced(text, spans)
    return text, found, unknown


def _is_eponym(text: str, span: Span) -> bool:
    """Whether the name of a disease is taken for a place: `as can be seen in Hashimoto thyroiditis`."""
    return span.placeholder == PLACE and is_eponym(text, span.start, span.end) and text[span.end + 1 :][:1].islower()


def _places(spans: Sequence[Span]) -> int:
    """How many runs of neighbours there are."""
    ends = [-3, *(span.end for span in spans)]
    return sum(span.start - end > 2 for span, end in zip(spans, ends, strict=False))


def _plain(text: str) -> str:
    """A copy of the same length to search in: plain dashes, apostrophes, digits and blanks, Latin letters for those
    that look the same, and lines that only the margin ends joined, so that a name over two lines is one name."""
    if not text.isascii():
        half = (unicodedata.normalize("NFKC", each) if "\uff00" < each < "\uff5f" else each for each in text)
        text = "".join(" " if unicodedata.category(each) == "Zs" else each for each in half).translate(_MARKS)
        text = undisguised(text)
    return _WRAPPED.sub(r"\1 ", text)


_MARKS = str.maketrans("\u2018\u2019\u02bc\u2032\u2010\u2011\u2012\u2013\u2014\u2212", "'" * 4 + "-" * 6)
_WRAPPED = re.compile(r"^([^\n]{40,}[^\n.:;!?-])\n(?=[A-Za-z])", re.MULTILINE)


def _tidied(text: str) -> str:
    for placeholder in (NAME, DATE, ID, PLACE, OVER_89):
        mark = re.escape(placeholder)
        text = re.sub(rf"{mark}(?:[\s,^/-]*{mark})+", placeholder, text)
    return text.strip()


def _replaced(text: str, spans: Iterable[Span]) -> str:
    """Overlapping spans become one, with the placeholder of the longest."""
    merged: list[Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            longer = max(last, span, key=lambda each: each.end - each.start)
            merged[-1] = Span(last.start, max(last.end, span.end), longer.placeholder)
        else:
            merged.append(span)
    for span in reversed(merged):
        text = text[: span.start] + span.placeholder + text[span.end :]
    return text
