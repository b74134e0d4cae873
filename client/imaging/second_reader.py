"""A second opinion on report text: small networks that have read sentences with and without identifiers.

The rules of this room know words and forms; these networks know where in a sentence people, places, days, numbers and
ages stand (`works at the …`, `… held her still`), whatever they are called, and where eponyms do. They were trained on
invented sentences alone (sim/second_reader.py), their weights are in the wheel, and they run in NumPy: a word becomes
what the lists and its letters say of it, three dilated convolutions see twelve words to either side (van den Oord et
al., WaveNet, arXiv:1609.03499, section 2.1, without the causality), a softmax says what each is, and the mean of three
networks counts.
"""

import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from client.imaging.header import refusal
from client.imaging.identifiers import fold
from client.imaging.patterns import DATE, ID, NAME, OVER_89, PLACE
from client.imaging.report_plain import spared
from client.imaging.vocabulary import PLACEHOLDER, Span, is_common, listed_words, vocabulary

KINDS = (None, NAME, DATE, ID, PLACE, OVER_89)
DILATIONS = (1, 2, 3)
TAPS = 5
AFFIXES = 512
SHAPES = 24
FLAGS = 8
_LISTS = ("words", "names", "names_in_context", "towns", "abbreviations")
_CLEARED, _SHORT = 0.03, 3  # of a chance; letters, as many as initials have
_JOINS = frozenset("-/.',&")
WEIGHTS = Path(__file__).with_name("weights") / "second_reader.npz"

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


class Token(NamedTuple):
    text: str
    start: int
    end: int


class Features(NamedTuple):
    """What is known of n tokens; each (n,), but `flags` (n, FLAGS)."""

    words: Integers
    shapes: Integers
    starts: Integers
    ends: Integers
    flags: Floats


_TOKEN = re.compile(rf"{PLACEHOLDER.pattern}|{re.escape(OVER_89)}" + r"|[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|\n|[^\w\s]|_")
_COMPOUND = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)+")
_PLAIN = str.maketrans("\u2010\u2011\u2012\u2013\u2019", "----'")
_HOLDERS = {holder: number for number, holder in enumerate(KINDS) if holder}
_AGE = _HOLDERS[OVER_89]


def tokens(text: str) -> list[Token]:
    return [Token(match[0], *match.span()) for match in _TOKEN.finditer(text)]


def features(texts: Sequence[str], known: dict[str, int]) -> Features:
    """Of the texts of tokens; `known` numbers the folded words that training has seen, from 1."""
    letters = [letter for text in texts if text not in _HOLDERS for letter in text if letter.isalpha()]
    share = sum(map(str.isupper, letters)) / max(1, len(letters))
    case = (share > 0.7, share < 0.02)
    rows = [_of_word(text) for text in texts]
    return Features(
        words=np.array([known.get(row.word, 0) for row in rows], dtype=np.int64),
        shapes=np.array([row.shape for row in rows], dtype=np.int64),
        starts=np.array([row.start for row in rows], dtype=np.int64),
        ends=np.array([row.end for row in rows], dtype=np.int64),
        flags=np.array([(*row.flags, *case) for row in rows], dtype=np.float32).reshape(len(rows), FLAGS),
    )


def folded(text: str) -> str:
    """As training counts a token: without case and possession; empty for what its shape says alone."""
    return _of_word(text).word


class _Row(NamedTuple):
    word: str
    shape: int
    start: int
    end: int
    flags: tuple[bool, ...]


@lru_cache(maxsize=50_000)
def _of_word(text: str) -> _Row:
    if not text[0].isalpha():
        return _Row("" if text == "\n" or text in _HOLDERS else text, _shape(text), 0, 0, (False,) * (FLAGS - 2))
    word = re.sub(r"['’]s$", "", fold(text))
    flags = (*(word in listed_words(name) for name in _LISTS), is_common(text))
    return _Row(word, _shape(text), _bucket(word[:3]), _bucket(word[-3:]), flags)


def is_over_89(text: str) -> bool:
    """Whether a number can be an age over 89."""
    return text.isascii() and text.isdecimal() and len(text) < 4 and 90 <= int(text) < 120


def _may_be_age(text: str) -> bool:
    return is_over_89(text) or text.isalpha()


def _bucket(affix: str) -> int:
    return zlib.crc32(affix.encode("utf-8")) % AFFIXES


def _shape(text: str) -> int:
    if text == "\n":
        return 0
    if text in _HOLDERS:
        return _HOLDERS[text]
    if text.isdigit():
        return 23 if is_over_89(text) else 5 + min(len(text), 8)
    if not text[0].isalpha():
        return 14
    if len(text) == 1:
        return 15 if text.isupper() else 16
    if text.isupper():
        return 17 if len(text) <= 3 else 18
    if text.islower():
        return 19
    if re.fullmatch(r"[A-Z][a-z]*['’][sS]", text):
        return 21
    return 20 if text[1:].islower() else 22


class SecondReader:
    """Networks of one form that were trained from different beginnings; what they say is averaged.

    The arrays hold all of them, along their first axis: the embeddings `word`, `shape`, `start`, `end` (networks, rows,
    width), `inner` and `outer` (networks, in, out) and `taps0` to `taps2` (networks, TAPS, width, width), the last five
    with a `…_bias` each. `known` are the words that have a row of their own in `word`, from its second on.
    """

    def __init__(self, arrays: dict[str, Floats], known: Sequence[str]) -> None:
        self._arrays = arrays
        self._known = {word: number for number, word in enumerate(known, start=1)}

    @classmethod
    def open(cls, path: Path) -> "SecondReader":
        """Raises DeidError reader-missing where the file is not there, or not whole."""
        try:
            with np.load(io.BytesIO(path.read_bytes())) as stored:
                known = stored["known"].tobytes().decode("utf-8").split()
                numbers = [name for name in stored if stored[name].dtype != np.uint8]
                reader = cls({name: stored[name].astype(np.float32) for name in numbers}, known)
            reader.probabilities(["whole"])
        except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile, zlib.error):
            raise refusal("reader-missing", "the second reader of report text is not what was shipped") from None
        return reader

    def probabilities(self, texts: Sequence[str]) -> Floats:
        """(n, len(KINDS)) of n tokens."""
        of, arrays = features(texts, self._known), self._arrays
        embedded = [arrays[name][:, rows] for name, rows in zip(("word", "shape", "start", "end"), of[:4], strict=True)]
        flags = np.broadcast_to(of.flags, (len(arrays["inner"]), *of.flags.shape))
        hidden = _relu(_linear(np.concatenate([*embedded, flags], axis=2), arrays, "inner"))
        for number, dilation in enumerate(DILATIONS):
            reach = dilation * (TAPS // 2)
            padded = np.pad(hidden, ((0, 0), (reach, reach), (0, 0)))
            windows = [padded[:, at * dilation :][:, : len(texts)] for at in range(TAPS)]
            taps, bias = arrays[f"taps{number}"], arrays[f"taps{number}_bias"]
            hidden = hidden + _relu(sum(each @ taps[:, at] for at, each in enumerate(windows)) + bias[:, None])
        logits = _linear(hidden, arrays, "outer")
        raised = np.exp(logits - logits.max(axis=2, keepdims=True))
        return np.asarray((raised / raised.sum(axis=2, keepdims=True)).mean(axis=0), dtype=np.float32)

    def not_cleared(self, text: str, spans: Iterable[Span]) -> list[Span]:
        """Those of the spans that may be identifiers. The others are words of four letters or more, of each of which
        the reader is as sure as it can be that it is none (Koerner septum)."""
        spans = list(spans)
        if not spans:
            return []
        found = tokens(text.translate(_PLAIN))
        rows = self.probabilities([token.text for token in found])
        cleared = {
            at
            for token, row in zip(found, rows, strict=True)
            if len(token.text) > _SHORT and token.text[0].isalpha() and 1 - row[0] < _CLEARED
            for at in range(token.start, token.end)
        }
        return [span for span in spans if not _letters(text, span) <= cleared]

    def doubts(self, text: str) -> Iterator[Span]:
        """Words and numbers that may well be identifiers, or may be and stand beside such ones or a placeholder."""
        text = text.translate(_PLAIN)
        found = tokens(text)
        rows = self.probabilities([token.text for token in found])
        rows[[not _may_be_age(token.text) for token in found], _AGE] = 0
        placed = [token.text in _HOLDERS for token in found]
        compounds = _known_compounds(text)
        sure = [holder or token.start in compounds for holder, token in zip(placed, found, strict=True)]
        chances = [0.0 if known else float(row[1:].sum()) for known, row in zip(sure, rows, strict=True)]
        kinds = [_HOLDERS.get(token.text) or 1 + int(row[1:].argmax()) for token, row in zip(found, rows, strict=True)]
        needed = [_needed(token.text) for token in found]
        taken = [holder or chance >= need.alone for holder, chance, need in zip(placed, chances, needed, strict=True)]
        for order in (range(len(found)), reversed(range(len(found)))):
            near = False
            for at in order:
                taken[at] = taken[at] or (near and chances[at] >= needed[at].beside)
                near = (taken[at] and kinds[at] != _AGE) or (near and found[at].text in _JOINS)
        plain = spared(text, found, taken)
        for token, kind, gone in zip(found, kinds, taken, strict=True):
            gone = gone and (kind == _AGE or token.start not in plain)
            if gone and token.text[0].isalnum() and token.text not in _HOLDERS:
                yield Span(token.start, token.end, KINDS[kind] or NAME)


def _letters(text: str, span: Span) -> set[int]:
    """Where letters and digits of a span stand."""
    return {at for at in range(span.start, span.end) if text[at].isalnum()}


def _known_compounds(text: str) -> set[int]:
    """Where letters of compounds stand that the vocabulary knows as a whole (Hill-Sachs)."""
    known = (word.span() for word in _COMPOUND.finditer(text) if fold(word[0]) in vocabulary())
    return {at for start, end in known for at in range(start, end)}


class _Needed(NamedTuple):
    """How probable it must be that a token is an identifier."""

    alone: float
    beside: float


def _needed(text: str) -> _Needed:
    """A report is full of numbers."""
    return _Needed(0.5, 0.15) if text.isdigit() else _Needed(0.1, 0.03)


def _linear(values: Floats, arrays: dict[str, Floats], name: str) -> Floats:
    return np.asarray(values @ arrays[name] + arrays[f"{name}_bias"][:, None])


def _relu(values: Floats) -> Floats:
    return np.maximum(values, 0)


@cache
def second_reader() -> SecondReader:
    """The one in the wheel."""
    return SecondReader.open(WEIGHTS)
