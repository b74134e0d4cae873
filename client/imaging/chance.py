"""Words in bytes that are numbers: found in one pass, and told from what the numbers spell by chance.

A dark part of a picture holds grey values from 48 to 57, and these are the digits; a slope runs through the alphabet.
So a word counts only if bytes like these would hardly ever spell it. How often they would is estimated from the bytes
themselves, as a chain (Markov, of first order): how often each value follows each other one at the distance of one
sample. The word's own transitions are left out of the count, and those into it and out of it count too, for chance
hits lie among their like, while a word that somebody wrote begins and ends with a jump.

By the likelihood ratio this bounds false alarms: among bytes of such a chain, a word is taken for written that is not
in less than `CHANCE_MAX` of all cases, whatever the word.
"""

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

CHANCE_MAX = 1e-5
_STEPS = (1, 2, 3, 4)  # bytes from one value to its neighbour: of one or two bytes, in one or three colours
_UNSEEN = 0.5  # what a transition counts that never occurs
_CHUNK_BYTES = 1 << 22
_PLACES_MAX = 4096  # of one word: beyond it the bytes spell it all the time
_Bytes = npt.NDArray[np.uint8]
_Counts = npt.NDArray[np.int64]


class Words:
    """Words of at least four bytes, in lower case, ready to be looked for in many stretches of bytes."""

    def __init__(self, words: Mapping[bytes, str]) -> None:
        self._kinds = words
        self._longest = max(map(len, words), default=0)
        ordered = sorted(words, key=lambda word: (-len(word), word))  # of two that begin alike, the longer
        self._pattern = re.compile(b"|".join(map(re.escape, ordered)))
        self._first, self._second = np.zeros(1 << 16, np.bool_), np.zeros(1 << 16, np.bool_)
        for word in words:
            for table, at in ((self._first, 0), (self._second, 2)):
                table[int.from_bytes(word[at : at + 2], "little")] = True

    def kind_in(self, data: bytes) -> str | None:
        """The kind of a word that stands in `data`, in whatever case and not by chance; None if there is none."""
        if not self._kinds or len(data) < 4:
            return None
        lowered = data.lower()
        chain: _Chain | None = None
        for word, places in sorted(self._places(lowered).items()):
            chain = chain or _Chain(np.frombuffer(lowered, np.uint8))
            if chain.expected(word, places) < CHANCE_MAX:
                return self._kinds[word]
        return None

    def _places(self, lowered: bytes) -> dict[bytes, list[int]]:
        """Where each word begins. Two pairs of bytes are asked of all places at once, and the words of the few left."""
        places: dict[bytes, list[int]] = {}
        for start in range(0, len(lowered), _CHUNK_BYTES):
            chunk = lowered[start : start + _CHUNK_BYTES + self._longest]
            for odd in (0, 1):
                pairs = np.frombuffer(chunk, "<u2", (len(chunk) - odd) // 2, odd)
                for at in (np.flatnonzero(self._first[pairs[:-1]] & self._second[pairs[1:]]) * 2 + odd).tolist():
                    if at < _CHUNK_BYTES and (match := self._pattern.match(chunk, at)) is not None:
                        places.setdefault(match[0], []).append(start + at)
        return places


class _Chain:
    """How often each byte follows each other one, at each distance of `_STEPS`."""

    def __init__(self, values: _Bytes) -> None:
        self.values = values
        self._counts: dict[int, tuple[_Counts, _Counts]] = {}
        self._single = np.bincount(values, minlength=256)

    def expected(self, word: bytes, places: list[int]) -> float:
        """How often at most such bytes would spell the word in surroundings like those of its unlikeliest place."""
        if len(places) > _PLACES_MAX:
            return float(len(places))
        at = np.array(places)
        logs = np.max([self._log(word, at, step) for step in _STEPS], axis=0)
        return float(self.values.size * np.exp(logs.min()))

    def _log(self, word: bytes, at: npt.NDArray[np.int64], step: int) -> npt.NDArray[np.float64]:
        """The logarithm of the chance of the word at each place, given the values before and after it."""
        letters = np.frombuffer(word, np.uint8).astype(np.int64)
        times, size = len(at), self.values.size
        pairs, after = self._counted(step)
        own = np.bincount(letters, minlength=256) * times
        inner = [(int(x), int(y)) for x, y in zip(letters, letters[step:], strict=False)]
        of_pair = {pair: pairs[pair] - times * inner.count(pair) for pair in set(inner)}
        others = np.maximum(after - own, 0) + 256 * _UNSEEN  # how many follow each value, but in the word
        log = sum(np.log((max(of_pair[x, y], 0) + _UNSEEN) / others[x]) for x, y in inner)
        logs = np.full(times, log, np.float64)
        for k in range(min(step, len(word))):
            before, behind = at - step + k, at + len(word) + k
            first, last = int(letters[k]), int(letters[len(word) - step + k]) if len(word) >= step else int(letters[-1])
            share = (max(self._single[first] - own[first], 0) + _UNSEEN) / (size + 256 * _UNSEEN)
            inside = before >= 0
            left = self.values[np.maximum(before, 0)].astype(np.int64)
            into = (np.maximum(pairs[left, first] - 1, 0) + _UNSEEN) / (after[left] + 256 * _UNSEEN)
            logs += np.log(np.where(inside, into, share))
            inside = behind < size
            right = self.values[np.minimum(behind, size - 1)].astype(np.int64)
            out = (np.maximum(pairs[last, right] - 1, 0) + _UNSEEN) / others[last]
            usual = (self._single[right] + _UNSEEN) / (size + 256 * _UNSEEN)
            logs += np.where(inside, np.log(out / usual), 0.0)
        return logs

    def _counted(self, step: int) -> tuple[_Counts, _Counts]:
        """How often each value follows each other one, (256, 256), and how many follow each, (256,)."""
        if step not in self._counts:
            counts = np.zeros(1 << 16, np.int64)
            for start in range(0, max(self.values.size - step, 0), _CHUNK_BYTES):
                first = self.values[start : start + _CHUNK_BYTES][: self.values.size - step - start]
                second = self.values[start + step : start + step + len(first)]
                counts += np.bincount(first.astype(np.uint16) << 8 | second, minlength=1 << 16)
            pairs = counts.reshape(256, 256)
            self._counts[step] = pairs, pairs.sum(1)
        return self._counts[step]
