"""Words that are no names, though a pattern, a capital or the second reader may take them for some.

A pattern that goes by capitals runs on in a text that has nothing else (`DR. VANCE FAVORED DYSPLASIA`), and what stands
beside a name looks like more of it. A word is left where no list of names, towns and everyday names has it and the
vocabulary does: of the words that go by their neighbours, those of grammar, of roles and sides, and numbers that count
or measure. What a header or a site's list names goes all the same (`report_known`, `report_listed`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from client.imaging.identifiers import fold
from client.imaging.patterns import DATE, NAME
from client.imaging.vocabulary import (
    PLACEHOLDER,
    WORD,
    Span,
    is_caseless,
    is_common,
    listed_words,
    may_be_names_or_towns,
    starts_sentence,
    vocabulary,
)


def is_surely_plain(word: str) -> bool:
    """Whether a word of the vocabulary is on no list of names and towns."""
    folded = fold(word)
    if _may_be_name(folded) or (folded.endswith("ing") and _may_be_name(folded[:-3])):  # Harding
        return False
    return folded in vocabulary() or (folded.endswith(("ed", "ing")) and is_common(word))


def _may_be_name(word: str) -> bool:
    return word in may_be_names_or_towns() or word in listed_words("everyday")


@cache
def is_slip(word: str) -> bool:
    """Whether a word is a frequent one of seven letters or more, but for one that is lost, doubled, changed or swapped
    with its neighbour.

    >>> is_slip("progresive"), is_slip("hemidiaphram"), is_slip("Kvothe")
    (True, True, False)
    """
    folded = fold(word)
    return len(folded) > 5 and any(_is_one_edit_away(folded, right) for right in listed_words("frequent"))


def _is_one_edit_away(word: str, right: str) -> bool:
    same = next((at for at, (one, other) in enumerate(zip(word, right, strict=False)) if one != other), len(right))
    if same == 0:  # a name may differ by its first letter
        return False
    swapped = word[same : same + 2] == right[same : same + 2][::-1] and word[same + 2 :] == right[same + 2 :]
    return swapped or right[same:] == word[same + 1 :] or right[same + 1 :] in (word[same:], word[same + 1 :])


def without_plain(text: str, spans: Iterable[Span], caseless: bool) -> Iterator[Span]:
    """Names without the plain words that a pattern takes for more of them, since these begin a sentence or have no
    case of their own: `NOTIFIED ANA VANCE`. The word behind a title stays a name."""
    for span in spans:
        start = span.start
        side = _SIDE.fullmatch(text, span.start, span.end)
        if side is not None and is_surely_plain(side["next"]) and not caseless:
            continue
        for word in _plain_words(text, span, caseless) if span.placeholder == NAME else ():
            yield from _lettered(text, start, word.start())
            start = word.end()
        yield from _lettered(text, start, span.end) if start > span.start else (span,)


def _plain_words(text: str, span: Span, caseless: bool) -> Iterator[re.Match[str]]:
    title = _TITLE.match(text, span.start, span.end)
    named, found, over, plain = title is not None, title is not None, False, False
    for word in WORD.finditer(text, title.end() if title else span.start, span.end):
        longer = len(word[0]) > 2 or plain or fold(word[0]) in listed_words("grammar")
        named = named and fold(word[0]) not in listed_words("roles")
        plain = longer and not named and (caseless or starts_sentence(text, word.start()))
        plain = plain and (is_surely_plain(word[0]) or (over and _is_no_first_name(word[0])))
        if plain:
            yield word
        elif not caseless:
            break
        over |= (found and plain) or re.search(r"['’]s$", word[0], re.IGNORECASE) is not None  # VANCE'S PRIOR STUDY
        found |= not plain
        named = False


def _is_no_first_name(word: str) -> bool:
    return is_common(word) and fold(word) not in listed_words("names")


def _lettered(text: str, start: int, end: int) -> Iterator[Span]:
    """What letters stand between, if any."""
    inner = re.search(r"\w(?:.*\w)?['’.]?", text[start:end], re.DOTALL)
    if inner is not None and _TITLE.fullmatch(text, start, end) is None:
        yield Span(start + inner.start(), start + inner.end(), NAME)


_SIDE = re.compile(r"[RL]\.\s+(?P<next>[^\W\d_]+)")  # displaced to R. Chiasm clear
_TITLE = re.compile(
    r"(?:(?:drs?|prof|professor|doctor|mrs?|ms|miss|sister|nurse|herr|frau|mme|mlle|med|habil|dent|univ|dipl|ing|priv|doz)"
    r"\b\.?[\s-]*)+",
    re.IGNORECASE,
)


def spared(text: str, tokens: Sequence[tuple[str, int, int]], taken: Sequence[bool]) -> set[int]:
    """Where words and numbers stand that are no identifiers by themselves, even if they are `taken` for some for what
    is beside them. Of the tokens of a text, in order."""
    found = {at for form in (_COUNTS, STROKES) for match in form.finditer(text) for at in range(*match.span())}
    caseless = is_caseless(text)
    words = [at for at, (word, _, _) in enumerate(tokens) if word[0].isalnum() or PLACEHOLDER.fullmatch(word)]
    for before, at, after in zip([-1, *words], words, [*words[1:], -1], strict=False):
        word, start, end = tokens[at]
        beside = [tokens[other] if other >= 0 and taken[other] else None for other in (before, after)]
        if word in ("R", "L", "r", "l"):
            plain = not _is_initial(text, start, end, *beside)
        elif fold(word) in ("of", "the", "and") and all(beside):  # Our Lady of the Lake
            plain = False
        else:
            plain = _is_of_no_name(text, word, start, end, caseless)
        found |= {start} if plain else set()
    return found


def _is_of_no_name(text: str, word: str, start: int, end: int, caseless: bool) -> bool:
    small = caseless or word.islower() or starts_sentence(text, start)
    if fold(word) in listed_words("grammar") or is_slip(word):
        return small
    if caseless and fold(word) in _OF_PLACES:
        return False
    if fold(word) in listed_words("roles"):
        return not _may_be_name(fold(word)) if caseless else word.islower() or word.isupper()
    goes_on = text[end : end + 1] == " " and text[end + 1 : end + 2].islower()
    return small and goes_on and word.istitle() and word.endswith("ing") and is_surely_plain(word)  # Allowing for this


_OF_PLACES = frozenset("campus clinic department medical office practice surgery ward".split())


def _is_initial(text: str, start: int, end: int, before: tuple[str, int, int] | None,
                after: tuple[str, int, int] | None) -> bool:  # fmt: skip
    """Whether a letter of a side stands beside what may be a name: `Ana R`, `R. Vance`."""
    if before is not None and before[0] != DATE and text[before[2] : start] == " ":
        return True
    return after is not None and after[0] != DATE and text[end : after[1]] in (" ", ". ")


STROKES = re.compile(  # D/w, O&G, e-signed
    r"(?<![\w/&])[A-Za-z][/&][A-Za-z](?![\w/&])|\be(?=-[a-z]{4})"
)
_COUNTS = re.compile(
    r"\b(?:images?|series|slices?|frames?|im|se|levels?|segments?|grade|stage)[\s#:]*\d{1,4}"
    r"(?:\s?(?:-|to|and|,)\s?\d{1,4})*\b|\d+(?:[.,]\d+)?(?=\s?(?:(?:[cm]m|ml|cc|hu|degrees?)\b|[%°]))"
    r"|(?<=\bre-)\w+\s\d{1,2}/(?:7|52|12)\b",
    re.IGNORECASE,
)
