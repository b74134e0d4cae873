"""A site's own model that marks names in report text, out of a local folder; nothing is fetched.

The folder holds `model.onnx` (token classification: input_ids, and if it asks attention_mask and token_type_ids; logits
out), `tokenizer.json` and `config.json` with `id2label`, as common exporters write them. The profile names the folder
and the SHA-256 of the model. It runs in ONNX Runtime, which the search for burned-in text needs anyway, so that no
second deep learning library comes into this room. What it marks is masked besides all else: it can only take away.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from client.imaging.patterns import DATE, ID, NAME, PLACE
from federation.errors import SettingsError

_TOKENS_MAX = 384
_PLACEHOLDERS = (
    (NAME, "per person patient name doctor staff hcw physician username"),
    (PLACE, "loc location gpe org organization organisation hospital facility fac city street country state vendor"),
    (DATE, "date time age"),
)
_NOTHING = frozenset({"o", "misc", "other", "none"})


class Tagger(Protocol):
    """Marks what should not stay in a text."""

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, placeholder) of everything that should go; spans may overlap."""
        ...


@cache
def tagger_at(folder: str, sha256: str) -> Tagger | None:
    """The tagger of this process, None where the profile names none. Raises SettingsError settings-value."""
    return OnnxTagger.open(Path(folder), sha256) if folder else None


class OnnxTagger:
    """Token classification by one ONNX model on one thread."""

    def __init__(self, session: Any, tokenizer: Any, labels: list[str]) -> None:
        self._session, self._tokenizer = session, tokenizer
        self._inputs = [each.name for each in session.get_inputs()]
        self._placeholders = [placeholder_of(label) for label in labels]

    @classmethod
    def open(cls, folder: Path, sha256: str) -> "OnnxTagger":
        """Raises SettingsError settings-value when a file is missing, does not parse, or is not the pinned one."""
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read on import
        import onnxruntime
        from tokenizers import Tokenizer

        try:
            model = (folder / "model.onnx").read_bytes()
            named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
            labels = [str(named[str(number)]) for number in range(len(named))]
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            if hashlib.sha256(model).hexdigest() != sha256:
                raise _wrong("has another SHA-256 than the profile says")
            onnxruntime.disable_telemetry_events()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except SettingsError:
            raise
        except Exception:
            raise _wrong("cannot be opened") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(session, tokenizer, labels)

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Every token with a label that names a person, place, date or number, grown to whole words."""
        found = []
        for start, piece in _pieces(text):
            for encoding in _windows(self._tokenizer.encode(piece)):
                ids, offsets = encoding
                for label, (first, last) in zip(self._labels(ids), offsets, strict=True):
                    placeholder = self._placeholders[label]
                    if placeholder is not None and last > first:
                        found.append((*_whole_words(text, start + first, start + last), placeholder))
        return found

    def _labels(self, ids: list[int]) -> list[int]:
        tokens = np.array([ids], dtype=np.int64)
        given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        logits = self._session.run(None, {name: given[name] for name in self._inputs})[0][0]
        return [int(label) for label in logits.argmax(axis=-1)]


def placeholder_of(label: str) -> str | None:
    """What stands for a label (`B-PER`, `I-HOSPITAL`, `PHONE`). One that we do not know is an identifier.

    >>> placeholder_of("B-PER"), placeholder_of("O"), placeholder_of("PHONE")
    ('[NAME]', None, '[ID]')
    """
    kind = re.sub(r"^[BIESLU]-", "", label.strip()).casefold()
    if kind in _NOTHING:
        return None
    return next((placeholder for placeholder, kinds in _PLACEHOLDERS if kind in kinds.split()), ID)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """(start, line) of the text's lines: a model sees one at a time."""
    for match in re.finditer(r"[^\n]+", text):
        yield match.start(), match[0]


def _windows(encoding: Any) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens and their places, not more at a time than a model of the usual kind takes."""
    for at in range(0, len(encoding.ids), _TOKENS_MAX):
        yield encoding.ids[at : at + _TOKENS_MAX], encoding.offsets[at : at + _TOKENS_MAX]


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return start, end


def _wrong(what: str) -> SettingsError:
    return SettingsError(
        "settings-value",
        f"profile: the tagger {what}",
        hint="the folder needs model.onnx, tokenizer.json and config.json with id2label; pin the model's SHA-256",
    )
