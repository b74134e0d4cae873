"""Trains the second reader of report text (client/imaging/second_reader.py) from invented sentences.

    python -m sim.second_reader client/imaging/weights/second_reader.npz

`sim/sentences/*.txt` holds them, one text a line, `¶` for the end of a line in it, identifiers as `{{NAME|Ada Vance}}`
(NAME, DATE, ID, PLACE, and AGE for one over 89; any other kind is not learned from). The network reads each text as it
is and as the rules leave it. Names and places are exchanged for others, for plain words and for syllables, digits for
others, case is taken away, some identifiers are masked in whole or in part: it must go by what stands around. Same
sentences, same seed, same weights on the same machine; other machines round otherwise.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from client.imaging.identifiers import Identifiers
from client.imaging.report_text import scrub_by_rules
from client.imaging.second_reader import (
    AFFIXES,
    DILATIONS,
    FLAGS,
    KINDS,
    SHAPES,
    TAPS,
    Features,
    features,
    folded,
    is_over_89,
    tokens,
)
from client.imaging.vocabulary import listed_words
from federation.errors import DeidError

SENTENCES = Path(__file__).with_name("sentences")
_MARK = re.compile(r"\{\{([A-Z]+)\|(.*?)\}\}")
_KIND_OF = {name: number for number, name in enumerate(("NAME", "DATE", "ID", "PLACE", "AGE"), start=1)}
_ANY = -1  # punctuation inside of an identifier, and what the writer was unsure of
_WIDTHS = {"word": 24, "shape": 8, "start": 8, "end": 8}
_HIDDEN = 96
_BATCH = 32


class Word(NamedTuple):
    text: str
    kind: int


def read_sentences(folder: Path = SENTENCES) -> list[str]:
    files = sorted(folder.glob("*.txt"))
    return [line.replace("¶", "\n") for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]


def marked(sentence: str) -> list[Word]:
    """Its tokens, each with the number of its kind.

    >>> marked("Dr {{NAME|Vance}} called.")
    [Word(text='Dr', kind=0), Word(text='Vance', kind=1), Word(text='called', kind=0), Word(text='.', kind=0)]
    """
    words, at = [], 0
    for mark in _MARK.finditer(sentence):
        words += [Word(token.text, 0) for token in tokens(sentence[at : mark.start()])]
        kind = _KIND_OF.get(mark[1], _ANY)
        words += [Word(token.text, kind if token.text[0].isalnum() else _ANY) for token in tokens(mark[2])]
        at = mark.end()
    return words + [Word(token.text, 0) for token in tokens(sentence[at:])]


def after_rules(sentence: str) -> list[Word] | None:
    """The same once the rules have masked what they know: what is left of the identifiers keeps its kind. None where
    the rules change nothing, or hold the text back."""
    words, plain = marked(sentence), _MARK.sub(r"\2", sentence)
    try:
        clean = scrub_by_rules(plain, Identifiers())
    except DeidError:
        return None
    if clean == plain:
        return None
    left = [Word(token.text, 0) for token in tokens(clean)]
    same = SequenceMatcher(None, [word.text for word in words], [word.text for word in left], autojunk=False)
    for block in same.get_matching_blocks():
        left[block.b : block.b + block.size] = words[block.a : block.a + block.size]
    return left


class Exchange:
    """Other words of the same kind in the place of identifiers."""

    def __init__(self, texts: Sequence[Sequence[Word]], random: Random) -> None:
        self._random = random
        self._seen = {
            kind: [word.text for words in texts for word in words if word.kind == kind and len(word.text) > 2]
            for kind in (_KIND_OF["NAME"], _KIND_OF["PLACE"])
        }
        lists = [listed_words(name) for name in ("names", "names_in_context", "towns")]
        names = {word for words in lists for word in words}
        self._plain = sorted(word for word in names if word.isalpha() and len(word) > 2)
        count = Counter(word.text for words in texts for word in words if word.kind == 0)
        self._frequent = sorted(word for word, times in count.items() if times > 9 and word.isalpha() and len(word) > 1)
        self._clinical_words = sorted(word for word in listed_words("words") - names if word.isalpha())

    def varied(self, words: Sequence[Word]) -> list[Word]:
        random, out, at = self._random, list[Word](), 0
        masked_share = random.choice((0, 0, 0.3, 0.6))
        case = random.choices((str.upper, _lowered, str), (0.12, 0.12, 0.76))[0]
        while at < len(words):
            if words[at].kind <= 0:
                out.append(Word(case(self._clinical(self._digits(words[at].text, 0.5, 3))), words[at].kind))
                at += 1
                continue
            end = at + 1
            while end < len(words) and words[end].kind in (words[at].kind, _ANY):
                end += 1
            while words[end - 1].kind == _ANY:
                end -= 1
            first, last = self._masked_part(at, end) if random.random() < masked_share else (end, end)
            others = [Word(case(self._other(word)), word.kind) for word in words[at:end]]
            mask = [Word(KINDS[words[at].kind] or "", 0)] * (first < last)
            out += others[: first - at] + mask + others[last - at :]
            at = end
        return out

    def answer(self) -> list[Word]:
        """A word that is no name, or is one and often another (Normal), alone."""
        words = self._random.choice((self._clinical_words, self._frequent))
        return [Word(self._random.choice(words).capitalize(), 0), Word(".", 0)]

    def _clinical(self, text: str) -> str:
        """Now and then another word that is no name."""
        if not text.isalpha() or len(text) < 3 or self._random.random() >= 0.1:
            return text
        return _in_case_of(text, self._random.choice(self._clinical_words))

    def _masked_part(self, start: int, end: int) -> tuple[int, int]:
        """All of an identifier, or what the rules may have found of it."""
        if end - start == 1 or self._random.random() < 0.5:
            return start, end
        first = self._random.randrange(start, end)
        return (start, first + 1) if self._random.random() < 0.5 else (first, end)

    def _other(self, word: Word) -> str:
        if word.kind in self._seen and len(word.text) > 2 and self._random.random() < 0.5:
            pools = (self._seen[word.kind], self._plain, self._clinical_words, [self._syllables()])
            new = self._random.choice(self._random.choices(pools, (0.4, 0.3, 0.05, 0.25))[0])
            return _in_case_of(word.text, new)
        return self._digits(word.text, 0.6, 99) if word.kind > 1 else word.text

    def _digits(self, text: str, share: float, length: int) -> str:
        if not text.isdecimal() or len(text) > length or self._random.random() >= share:
            return text
        if is_over_89(text):
            return str(self._random.randint(90, 104))
        if len(text) <= 2 and length > 3:
            return str(self._random.randint(1, 31))
        if len(text) == 2:
            return str(self._random.randint(10, 89))
        return str(self._random.randint(10 ** (len(text) - 1), 10 ** len(text) - 1))

    def _syllables(self) -> str:
        count = self._random.choice((2, 2, 3, 3, 4))
        return "".join(self._random.choice(_SYLLABLES) for _ in range(count)).capitalize()


def _in_case_of(text: str, word: str) -> str:
    return word.upper() if text.isupper() else word.capitalize() if text[0].isupper() else word.lower()


def _lowered(text: str) -> str:
    return text if text in KINDS else text.lower()


_SYLLABLES = "ba ko ri mar ten lo sh ev an gu del is ott wen ja ck son ley th ur pe ni".split()


class Network(nn.Module):
    """What SecondReader computes, to be trained."""

    def __init__(self, known: int) -> None:
        super().__init__()
        rows = {"word": known + 1, "shape": SHAPES, "start": AFFIXES, "end": AFFIXES}
        self.embeddings = nn.ModuleDict({name: nn.Embedding(rows[name], width) for name, width in _WIDTHS.items()})
        self.inner = nn.Linear(sum(_WIDTHS.values()) + FLAGS, _HIDDEN)
        self.taps = nn.ModuleList(
            nn.Conv1d(_HIDDEN, _HIDDEN, TAPS, padding=each * (TAPS // 2), dilation=each) for each in DILATIONS
        )
        self.outer = nn.Linear(_HIDDEN, len(KINDS))
        self.dropout = nn.Dropout(0.2)

    def forward(self, of: Sequence[Tensor]) -> Tensor:
        """Logits (texts, tokens, kinds)."""
        embedded = [self.embeddings[name](rows) for name, rows in zip(_WIDTHS, of, strict=False)]
        hidden = torch.relu(self.inner(torch.cat([*embedded, of[4]], -1))).transpose(1, 2)
        for convolution in self.taps:
            hidden = hidden + torch.relu(convolution(self.dropout(hidden)))
        logits: Tensor = self.outer(self.dropout(hidden).transpose(1, 2))
        return logits

    def arrays(self) -> dict[str, np.ndarray]:
        """Its weights by the names of SecondReader, in half precision."""
        of = self.state_dict()
        named = {name: of[f"embeddings.{name}.weight"] for name in _WIDTHS}
        named |= {name: of[f"{name}.weight"].T for name in ("inner", "outer")}
        named |= {f"taps{at}": of[f"taps.{at}.weight"].permute(2, 1, 0) for at in range(len(DILATIONS))}
        named |= {f"{name}_bias": of[f"{name}.bias"] for name in ("inner", "outer")}
        named |= {f"taps{at}_bias": of[f"taps.{at}.bias"] for at in range(len(DILATIONS))}
        return {name: tensor.numpy().astype(np.float16) for name, tensor in named.items()}


def as_read(sentences: Sequence[str]) -> list[list[Word]]:
    """Each sentence as it is, and each that the rules change as they leave it."""
    texts = [marked(sentence) for sentence in sentences]
    return texts + [left for sentence in sentences if (left := after_rules(sentence)) is not None]


def train(texts: Sequence[Sequence[Word]], epochs: int, seed: int) -> tuple[Network, list[str]]:
    """The network and the words that it knows: those that stand twice or more and are no identifier."""
    torch.manual_seed(seed)
    random = Random(seed)
    known = _known(texts)
    numbers = {word: number for number, word in enumerate(known, start=1)}
    exchange = Exchange(texts, random)
    network = Network(len(known))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    steps = epochs * sum(map(len, texts)) // (_BATCH * 25)
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 4 * min(step / 100, max(0.1, 1 - step / steps)))
    mean = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # of the steps' weights: steadier
    for epoch in range(epochs):
        losses = []
        shown = [exchange.varied(words) for words in texts] + [exchange.answer() for _ in range(len(texts) // 10)]
        for batch in _batches(shown, random):
            of, kinds = _tensors(batch, numbers, random)
            loss = nn.functional.cross_entropy(network(of).flatten(0, 1), kinds.flatten(), ignore_index=_ANY)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            mean.update_parameters(network)
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {epochs}: loss {np.mean(losses):.4f}", flush=True)
    network.load_state_dict(mean.module.state_dict())
    return network.eval(), known


def _known(texts: Sequence[Sequence[Word]]) -> list[str]:
    count = Counter(folded(word.text) for words in texts for word in words if word.kind == 0)
    return sorted(word for word, times in count.items() if times > 1 and word)


def _batches(texts: Sequence[Sequence[Word]], random: Random) -> Iterator[list[Sequence[Word]]]:
    """Pieces of similar length."""
    lengths = [random.choice((6, 15, 40, 60, 90)) for _ in texts]
    pieces = [
        words[at : at + length]
        for words, length in zip(texts, lengths, strict=True)
        for at in range(0, len(words), length)
    ]
    pieces.sort(key=lambda piece: len(piece) + 8 * random.random())
    batches = [pieces[at : at + _BATCH] for at in range(0, len(pieces), _BATCH)]
    random.shuffle(batches)
    yield from batches


def _tensors(batch: Sequence[Sequence[Word]], numbers: dict[str, int], random: Random) -> tuple[list[Tensor], Tensor]:
    """What the network sees, some words hidden so that it reads what stands around; kinds, padded with `_ANY`."""
    length = max(map(len, batch))
    rows = [_hidden(features([word.text for word in words], numbers), random) for words in batch]
    kinds = [[word.kind for word in words] + [_ANY] * (length - len(words)) for words in batch]
    of = [torch.from_numpy(np.stack([_padded(row[part], length) for row in rows])) for part in range(5)]
    return of, torch.tensor(kinds)


def _hidden(of: Features, random: Random) -> Features:
    hide_word, hide_affixes = (np.array([random.random() < 0.12 for _ in of.words]) for _ in range(2))
    return of._replace(
        words=np.where(hide_word, 0, of.words),
        starts=np.where(hide_affixes, 0, of.starts),
        ends=np.where(hide_affixes, 0, of.ends),
    )


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    return np.pad(values, [(0, length - len(values)), *[(0, 0)] * (values.ndim - 1)])


def save(path: Path, networks: Sequence[Network], known: Sequence[str], sentences: Sequence[str]) -> None:
    texts = {"known": " ".join(known), "sentences": digest(sentences)}
    stored = {name: np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for name, text in texts.items()}
    np.savez_compressed(path, allow_pickle=False, **stored, **stacked(networks))


def stacked(networks: Sequence[Network]) -> dict[str, np.ndarray]:
    """The arrays of all networks, as SecondReader takes them, in half precision."""
    arrays = [network.arrays() for network in networks]
    return {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}


def digest(sentences: Sequence[str]) -> str:
    """SHA-256 of what a network was trained from; its weights carry it."""
    return hashlib.sha256("\n\n".join(sentences).encode("utf-8")).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the second reader of report text.")
    parser.add_argument("weights", type=Path, help="where to write the weights (.npz)")
    parser.add_argument("--sentences", type=Path, default=SENTENCES, help="folder of the marked sentences")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--networks", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    sentences = read_sentences(given.sentences)
    texts = as_read(sentences)
    trained = [train(texts, given.epochs, seed) for seed in range(given.networks)]
    known = trained[0][1]
    save(given.weights, [network for network, _ in trained], known, sentences)
    print(f"{given.weights}: knows {len(known)} words, {given.weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
