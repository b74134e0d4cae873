"""The words of report text: a radiology vocabulary (vocabulary.toml), and what capitals say in a text."""

import re
import tomllib
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from client.imaging.header import refusal
from client.imaging.identifiers import UNSPACED, fold
from client.imaging.patterns import DATE, ID, NAME, PLACE

_LETTERS = rf"[^\W\d_{UNSPACED}]+"
WORD = re.compile(  # a word that the end of a line divides is one; it ends where a script without blanks begins
    rf"{_LETTERS}(?:(?:[’']|-\n?){_LETTERS})*|[{UNSPACED}]+"
)


class Span(NamedTuple):
    start: int
    end: int
    placeholder: str


def spanned(match: re.Match[str], placeholder: str) -> Span:
    """The group that matched last, or all of a match without groups."""
    return Span(*match.span(match.lastgroup or 0), placeholder)


def vocabulary() -> frozenset[str]:
    """Folded words that are not taken for names (vocabulary.toml)."""
    return listed_words("words")


@cache
def listed_words(name: str) -> frozenset[str]:
    """The list of that name in vocabulary.toml, folded."""
    return frozenset(fold(word) for word in _lists()[name].split())


@cache
def _lists() -> dict[str, str]:
    return tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))


def normalised(text: str) -> str:
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


def undisguised(text: str) -> str:
    """Latin letters for the Cyrillic and Greek ones that look the same, in words that have no others of those."""
    return _WITHOUT_DIGITS.sub(lambda word: _in_latin(word[0]), text)


def _in_latin(word: str) -> str:
    latin = word.translate(_LOOKALIKES)
    return word if _GREEK_OR_CYRILLIC.search(latin) else latin


_WITHOUT_DIGITS = re.compile(r"[^\W\d_]+")
_GREEK_OR_CYRILLIC = re.compile(r"[\u0370-\u052f]")
_LOOKALIKES = str.maketrans(
    "\u0410\u0412\u0415\u0405\u0406\u0408\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0423"
    "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03bf",
    "ABESIJKMHOPCTXY" + "aceijopsxy" + "ABEZHIKMNOPTYXo",
)


@cache
def may_be_names() -> frozenset[str]:
    """Plain words that are names of people too, wherever or only beside other signs of a name."""
    return listed_words("names") | listed_words("names_in_context")


@cache
def may_be_names_or_towns() -> frozenset[str]:
    return may_be_names() | listed_words("towns")


def is_plain(word: str) -> bool:
    """Whether a word is common. One letter may be an initial."""
    return len(word) >= 2 and is_common(word)


def is_common(word: str) -> bool:
    """Whether a word, or each part of a compound, is in the vocabulary, as it stands, by its base or by its parts."""
    if fold(word.replace("-\n", "")) in vocabulary():
        return True
    parts = [fold(part) for part in re.split(r"[-’']\n?", word)]
    if re.match(r"[^\W\d_]{3,}[oO]-[^\W\d_A-Z]{4}", word):  # cortico-medullary
        parts = parts[1:]
    return all(len(part) < 3 or _in_vocabulary(part) or _is_derived(part, word) for part in parts)


def _is_derived(part: str, word: str) -> bool:
    """A word with a prefix (`nonhealing`); a capitalised one may be a name (Underwood)."""
    front = None if word[0].isupper() and not word.isupper() else _PREFIX.match(part)
    return front is not None and _in_vocabulary(part[front.end() :])


def _in_vocabulary(word: str) -> bool:
    if word in vocabulary() or word in listed_words("abbreviations"):
        return True
    return any(base in vocabulary() for base in _bases(word))


_PREFIX = re.compile(
    r"(?:an?ti|bi|de|extra|hemi|hyper|hypo|infra|inter|intra|iso|macro|micro|mid|multi|neo|non|para|peri|poly|post|pre"
    r"|pseudo|re|retro|semi|sub|super|supra|trans|tri|ultra|un|uni)(?=\w{4})"
)


def starts_sentence(text: str, at: int) -> bool:
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
            stem = word[: -len(ending)]
            yield stem + base
            if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
                yield stem[:-1] + base


_ENDINGS = tuple(
    tuple(each.split("/"))
    for each in "ies/y es/ s/ ier/y iest/y ally/al ly/ ed/ ed/e ing/ ing/e ied/y ness/ er/ er/e est/".split()
)


def is_shouting(text: str) -> bool:
    """Whether a text is written in capitals, but for a word."""
    return _share_of_capitals(text) > 0.7


def is_caseless(text: str) -> bool:
    """Whether a text is written in capitals, or begins its sentences without them: case tells nothing."""
    share = _share_of_capitals(text)
    if share < 0.02:
        starts = _SENTENCE_START.findall(PLACEHOLDER.sub("", text))
        return share < 0.002 or sum(map(str.islower, starts)) > len(starts) / 2
    return share > 0.7


_SENTENCE_START = re.compile(r"(?:^\W*|[.!?:]\s+|\n\s*\n\W*)([^\W\d_])")


def blocks_of_one_case(text: str) -> list[str]:
    """`text` cut between lines where it begins or ends to be written in capitals, or a paragraph in small letters;
    joined by a line's end, they are it. A line that is too short to say goes with the one before it."""
    blocks: list[list[str]] = [[]]
    before: str | None = None
    for paragraph in re.split(r"\n(?=[ \t]*\n)", text):
        small = is_caseless(paragraph) and not is_shouting(paragraph)
        for line in paragraph.split("\n"):
            if sum(map(str.isalpha, line)) > 20:
                case = "small" if small else "capitals" if is_shouting(line) else "mixed"
                if before not in (None, case):
                    blocks.append([])
                before = case
            blocks[-1].append(line)
    return ["\n".join(block) for block in blocks]


def _share_of_capitals(text: str) -> float:
    """0.5 for a text too short to say; placeholders do not count."""
    words = PLACEHOLDER.sub("", text)
    letters = sum(map(str.isalpha, words))
    return sum(map(str.isupper, words)) / letters if letters > 20 else 0.5


PLACEHOLDER = re.compile(r"\[(?:NAME|DATE|ID|PLACE)\]")
