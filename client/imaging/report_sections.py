"""Which sections of a report describe the picture."""

import re
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from client.imaging.header import refusal
from client.imaging.identifiers import fold
from client.imaging.vocabulary import WORD, is_plain, normalised

_KEEP = frozenset(
    "finding findings impression impressions conclusion conclusions opinion interpretation assessment summary result "
    "results report recommendation recommendations diagnosis befund beurteilung observation observations comment "
    "comments discussion narrative description remarks addendum "
    "imp impr concl".split()
)
_SIGNATURES = frozenset(
    "signature signatures signed dictated typed transcribed electronically notification communication reported "
    "verified approved authenticated finalized read interpreted cc attending resident".split()
)
_STAFF = _SIGNATURES | {"physician", "provider", "radiologist", "technologist", "referring", "ordering", "interpreting"}
_DROP = _STAFF | frozenset(
    "history indication indications comparison comparisons technique procedure exam examination study patient "
    "facility hospital institution department reason clinical information views priors protocol contrast "
    "medication".split()
)
_ORGANS = frozenset(
    "lung lungs heart mediastinum pleura airways bone bones liver spleen pancreas kidney kidneys adrenal adrenals "
    "gallbladder bladder bowel stomach uterus ovaries prostate breast breasts thyroid brain ventricles sinuses orbits "
    "spine cord meniscus menisci ligaments tendons muscles vessels aorta vasculature peritoneum retroperitoneum nodes "
    "musculoskeletal skeleton lines tubes devices".split()
)
_DESCRIBE = _ORGANS | frozenset(
    "finding findings observation observations report narrative description result results befund".split()
)
_EXAMS = frozenset("exam examination study procedure technique protocol".split())
_MODALITIES = frozenset("ct cta mr mri mra us ultrasound xray x radiograph radiographs cxr pet mammogram".split())
HEADINGS = _KEEP | _DROP
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
    describes: bool


def sections(text: str) -> str:
    """The sections that describe the picture, without lines like `MRN: …`. A text without sections is one such. Where
    no heading announces what was seen, it is in paragraphs of prose before and between the others.

    Raises: DeidError text-sections when nothing describes the picture.
    """
    text = normalised(text)
    headings = [*_headings(text)]
    wanted = [heading for heading in headings if heading.kind is _Kind.KEEP]
    unwanted = any(heading.kind is _Kind.DROP and _opens_line(text, heading.start) for heading in headings)
    if not wanted and not unwanted:
        headings = [heading for heading in headings if heading.kind is _Kind.FIELD]
        kept = [*_kept(text, headings, _Kind.KEEP)]
    else:
        kept = [*_kept(text, headings, _Kind.DROP)] if wanted else []
        if not any(heading.describes for heading in wanted):
            kept += _prose(text, headings)
    parts = [text[start:end].strip() for start, end in sorted(kept)]
    if not any(parts):
        raise refusal("text-sections", "the report has headings, but neither findings nor impression")
    return "\n".join(part for part in parts if part)


def _kept(text: str, headings: list["_Heading"], state: "_Kind") -> Iterator[tuple[int, int]]:
    """What stands under headings to keep. A line about the patient, or a signature before the last of those headings,
    drops only its own line."""
    at = 0
    last = max((heading.start for heading in headings if heading.kind is _Kind.KEEP), default=0)
    for heading in headings:
        kept = state is _Kind.KEEP
        if heading.inline and heading.kind is _Kind.DROP and kept:
            continue
        if kept:
            yield at, heading.start
        at = heading.start
        if heading.kind is _Kind.FIELD or (heading.signs and kept and at < last):
            at = text.find("\n", heading.end) % (len(text) + 1)  # to the end, if no line follows
        else:
            state = heading.kind
    if state is _Kind.KEEP:
        yield at, len(text)


def _prose(text: str, headings: list["_Heading"]) -> Iterator[tuple[int, int]]:
    """Paragraphs of sentences under no heading, or behind the first paragraph under a heading to drop; none behind a
    signature. What names staff before another section, or whoever asked for the examination, is a letterhead."""
    others = [heading.start for heading in headings if heading.kind is not _Kind.FIELD and not heading.signs]
    last = max(others, default=0)
    ends = [heading for heading in headings if heading.signs and heading.start > last]
    signed = min((each.start for each in ends if not _ASKS.search(text, each.start, each.end)), default=len(text))
    under = [None, *(heading for heading in headings if heading.kind is not _Kind.FIELD)]
    starts = [heading.start if heading else 0 for heading in under]
    for start, end, heading in zip(starts, [*starts[1:], len(text)], under, strict=True):
        if heading is not None and heading.kind is _Kind.KEEP:
            continue
        skip = heading is not None
        first = _SAID.match(text, heading.end, end) if heading is not None else None
        if first is not None:
            start, skip = first.end(), False
        for paragraph in _PARAGRAPH.finditer(text, start, min(end, signed)):
            if skip:
                skip = heading is not None and paragraph.end() <= heading.end
            elif _is_prose(paragraph[0]):
                yield paragraph.span()


_ASKS = re.compile(r"refer|request|order", re.IGNORECASE)  # whoever wanted the examination
_PARAGRAPH = re.compile(r"[^\n]+(?:\n[^\n]+)*")
_SAID = re.compile(  # behind a heading, to the end of its line, if the next one is no part of it
    r"[ \t]*[^\s][^\n]*(?:[.?!]\n(?=[A-Z])|\n(?=[A-Z][^\n:]{40}))"
)


def _is_prose(paragraph: str) -> bool:
    """Whether these are sentences, and not a letterhead."""
    words = WORD.findall(paragraph)
    plain = sum(is_plain(word) for word in words)
    return len(paragraph) >= _PARAGRAPH_MIN and "." in paragraph and plain >= 0.7 * len(words)


def _headings(text: str) -> Iterator["_Heading"]:
    for match in _HEADING.finditer(text):
        written = match["any"] or match["inside"] or match["alone"]
        words = re.findall(r"\w+", fold(written))
        at = match.start(match.lastgroup or 0)
        opens = _opens_line(text, at)
        kind = _kind(words, opens)
        if match["alone"] and not set(words) <= HEADINGS | _FIELDS | {"and", "of", "the", "for"}:
            kind = None
        if kind is not None:
            signs = any(word in _STAFF for word in words)
            describes = any(word in _DESCRIBE for word in words)
            yield _Heading(at, match.end(), kind, signs, not opens and not written.isupper(), describes)


def _kind(words: list[str], opens_line: bool) -> "_Kind | None":
    """What a heading opens, None if it is none of ours. `Dictated by:` and `MRN:` inside a line are sentences of the
    findings, not the end of them."""
    signs = any(word in _STAFF for word in words)
    names = words == ["patient"] or any(word in _FIELDS for word in words)
    if (not opens_line and (signs or names)) or (words[0] in _MODALITIES and not set(words) & _EXAMS):
        return None
    if any(word in _KEEP for word in words) and not names and not signs:
        return _Kind.KEEP
    if names and not signs:
        return _Kind.FIELD
    if opens_line and words[-1] in _ORGANS and not any(word in _DROP for word in words):
        return _Kind.KEEP
    return _Kind.DROP if any(word in _DROP for word in words) else None


def _opens_line(text: str, at: int) -> bool:
    return "\n" in text[at:].partition(":")[0] or not text[:at].rpartition("\n")[2].strip()
