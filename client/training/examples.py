"""From stored pictures and conversations to model inputs, through the base's own processor and chat template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.gradients import Owners
from federation.errors import ModelError

PADDING_STEP = 8  # sequences are padded to a multiple of this


@dataclass(frozen=True, repr=False)
class Example:
    """One training item, of exactly one patient: pictures, uint8 (rows, columns), and questions with their answers."""

    patient_key: str
    pictures: tuple[NDArray[np.uint8], ...]
    turns: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        return "<Example: hidden>"


@dataclass(frozen=True, repr=False)
class Encoded:
    """One example as the model takes it. `answer` numbers the tokens that carry loss by their answer; 0: no loss."""

    input_ids: Tensor  # (tokens,)
    answer: Tensor  # (tokens,) 1 for the first answer, 2 for the second, …; 0 for everything else
    extra: dict[str, Tensor]  # per-token inputs of the family besides input_ids, (tokens,)
    vision: dict[str, Tensor]  # pictures as the processor makes them; empty without pictures
    tiles: int  # rows of the vision tower's input: tiles, or patches where a family has no tiles

    def __repr__(self) -> str:
        return "<Encoded: hidden>"


@dataclass(frozen=True, repr=False)
class Batch:
    """Several examples padded to one length, and whose rows are whose."""

    inputs: dict[str, Tensor]
    answer: Tensor  # (sequences, tokens)
    owner: Tensor  # (sequences,) index of the patient, -1 for padding
    tile_owner: Tensor  # (tiles,)

    def __repr__(self) -> str:
        return "<Batch: hidden>"

    def owners(self, patients: int) -> Owners:
        return Owners(patients, self.owner, self.tile_owner)


class Encoder:
    """Turns examples into tensors with one processor, pixels in the model's type. Keeps nothing of what it has seen."""

    def __init__(self, processor: Any, dtype: torch.dtype) -> None:
        self._processor = processor
        self.dtype = dtype
        self._pad = int(processor.tokenizer.pad_token_id or 0)
        control = _control_tokens(processor)
        self._control = re.compile("|".join(re.escape(token) for token in sorted(control, reverse=True)) or r"(?!)")
        ids = map(processor.tokenizer.convert_tokens_to_ids, control)
        self._control_ids = frozenset(ids) - {None, processor.tokenizer.unk_token_id}

    def encode(
        self, pictures: Sequence[NDArray[np.uint8]], turns: Sequence[tuple[str, str]], *, last_answer: bool = True
    ) -> Encoded:
        """Chat template, image tokens and tiles; `last_answer=False` stops where the last answer would begin.

        A control token that is spelt out in a report becomes a space: nobody's words can open a turn or a picture.

        Raises: ModelError model-rows when the tokenizer still finds one, as one that ignores case can.
        """
        spoken = [(self._control.sub(" ", question), self._control.sub(" ", answer)) for question, answer in turns]
        messages = _messages(len(pictures), spoken)
        if not last_answer:
            messages = messages[:-1]
        text = self._text(messages, open_end=not last_answer)
        made = self._processor(
            text=[text],
            images=[[np.repeat(picture[:, :, None], 3, axis=2) for picture in pictures]] if pictures else None,
            return_tensors="pt",
            add_special_tokens=False,
        )
        input_ids = made.pop("input_ids")[0]
        made.pop("attention_mask", None)
        extra = {name: made.pop(name)[0] for name in list(made) if name in _PER_TOKEN}
        vision = {name: self._typed(value) for name, value in made.items() if name in _PER_TILE}
        answer = self._answers(text, messages, input_ids, open_end=not last_answer)
        return Encoded(input_ids, answer, extra, vision, _count_tiles(vision))

    def _typed(self, value: Tensor) -> Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value

    def _text(self, messages: Sequence[Mapping[str, Any]], *, open_end: bool) -> str:
        text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_end)
        return text

    def _answers(
        self, text: str, messages: Sequence[Mapping[str, Any]], input_ids: Tensor, *, open_end: bool
    ) -> Tensor:
        """Which tokens are answers, each with what closes it, numbered from 1.

        The template is rendered up to each answer, which gives the answers' characters; the tokenizer gives the
        characters of each token. Pictures come first in a conversation and only they grow into many tokens, so tokens
        after the last picture are counted from the end.
        """
        spans = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._text(messages[:index], open_end=True)
                after = self._text(messages[: index + 1], open_end=False)
                if not (after.startswith(before) and text.startswith(after)):
                    raise ModelError(
                        "model-rows",
                        "the chat template rewrites earlier turns",
                        hint="use a chat template that only appends",
                    )
                spans.append((len(before), len(after)))
        plain = self._processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        self._require_only_words(plain["input_ids"], messages, open_end=open_end)
        answer = torch.zeros(len(input_ids), dtype=torch.long)
        shift = len(input_ids) - len(plain["input_ids"])
        for place, (start, end) in enumerate(plain["offset_mapping"]):
            number = next((n for n, (first, last) in enumerate(spans, 1) if first <= start and end <= last), 0)
            if number:
                if place + shift < 0 or int(input_ids[place + shift]) != plain["input_ids"][place]:
                    raise ModelError(
                        "model-rows",
                        "the processor moves the words of an answer",
                        hint="pictures must come before the first question of a conversation",
                    )
                answer[place + shift] = number
        if not open_end and not bool(answer.any()):
            raise ModelError("model-rows", "the chat template hides the answers", hint="use another chat template")
        return answer

    def _require_only_words(self, ids: Sequence[int], messages: Sequence[Mapping[str, Any]], *, open_end: bool) -> None:
        """As many control tokens as in the same conversation about nothing: none of them is from a report."""
        silent = self._text([_silent(message) for message in messages], open_end=open_end)
        expected = self._processor.tokenizer(silent, add_special_tokens=False)["input_ids"]
        if self._controls(ids) != self._controls(expected):
            raise ModelError(
                "model-rows",
                "words of a conversation become control tokens",
                hint="use a base whose tokenizer takes control tokens as they are spelt only",
            )

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def collate(self, encoded: Sequence[Encoded], owner: Sequence[int], *, device: torch.device) -> Batch:
        """Pad to one length on the right; tiles of all examples in one row, in the examples' order."""
        length = -(-max(len(item.input_ids) for item in encoded) // PADDING_STEP) * PADDING_STEP
        inputs = {"input_ids": torch.stack([_pad(item.input_ids, length, self._pad) for item in encoded])}
        inputs["attention_mask"] = torch.stack([_pad(torch.ones_like(item.input_ids), length, 0) for item in encoded])
        for name in sorted({name for item in encoded for name in item.extra}):
            rows = [item.extra.get(name, torch.zeros_like(item.input_ids)) for item in encoded]
            inputs[name] = torch.stack([_pad(row, length, 0) for row in rows])
        answer = torch.stack([_pad(item.answer, length, 0) for item in encoded])
        for name in sorted({name for item in encoded for name in item.vision}):
            inputs[name] = _join([item.vision[name] for item in encoded if name in item.vision])
        tile_owner = [whose for item, whose in zip(encoded, owner, strict=True) for _ in range(item.tiles)]
        return Batch(
            {name: value.to(device) for name, value in inputs.items()},
            answer.to(device),
            torch.tensor(list(owner), device=device),
            torch.tensor(tile_owner, dtype=torch.long, device=device),
        )


_PER_TOKEN = frozenset({"token_type_ids", "mm_token_type_ids"})
_PER_TILE = frozenset({"pixel_values", "pixel_attention_mask", "image_grid_thw", "image_sizes"})


def _control_tokens(processor: Any) -> set[str]:
    """What the tokenizer takes for no text, and what the processor looks for in a text to put a picture there."""
    added = processor.tokenizer.added_tokens_decoder.values()
    roles = [value for name, value in vars(processor).items() if name.endswith("_token")]
    named = [token.content for token in added if token.special] + [getattr(role, "content", role) for role in roles]
    return {token for token in named if isinstance(token, str) and token.strip()}


def _silent(message: Mapping[str, Any]) -> dict[str, Any]:
    said = [item if item["type"] == "image" else item | {"text": "x"} for item in message["content"]]
    return {**message, "content": said}


def _messages(pictures: int, turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(turns):
        asked: list[dict[str, str]] = [{"type": "image"}] * pictures if index == 0 else []
        messages.append({"role": "user", "content": [*asked, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def _pad(row: Tensor, length: int, value: int) -> Tensor:
    return nn.functional.pad(row, (0, length - len(row)), value=value)


def _count_tiles(vision: Mapping[str, Tensor]) -> int:
    """How many rows of its input the vision tower will see.

    Families with an axis of tiles per picture fill it with zeros up to the picture that has most; the model leaves
    those out. A count that is not the model's is refused by the layers themselves (gradients.py, `model-rows`).
    """
    pixels = vision.get("pixel_values")
    if pixels is None:
        return 0
    return int(pixels.flatten(2).any(-1).sum()) if pixels.dim() == 5 else len(pixels)


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Pictures of all examples in one row; what is shorter along another axis is filled with zeros, as usual."""
    most = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    return torch.cat([nn.functional.pad(part, _missing(part, most)) for part in parts])


def _missing(part: Tensor, most: Sequence[int]) -> list[int]:
    """What `pad` takes: for each axis but the first, from the last one, nothing before and the rest behind."""
    return [n for have, want in zip(reversed(part.shape[1:]), reversed(most), strict=True) for n in (0, want - have)]


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each sequence's answers. (sequences, tokens, vocabulary) -> (sequences,).

    A mean over the tokens of an answer, then over the answers: a long report beside four short answers is one voice of
    five. Never a mean over the batch: the model's own `.loss` divides by all tokens and couples patients.
    """
    target = batch.inputs["input_ids"][:, 1:]
    number = batch.answer[:, 1:]
    sequence, place = number.nonzero(as_tuple=True)
    likelihood = torch.log_softmax(logits[:, :-1][sequence, place].float(), dim=-1)
    nll = -likelihood.gather(1, target[sequence, place][:, None])[:, 0]
    most = int(number.max()) if number.numel() else 0
    each = sequence * most + number[sequence, place] - 1  # one slot per answer
    tokens = torch.zeros(len(target) * most, device=logits.device).index_add(0, each, torch.ones_like(nll))
    means = torch.zeros(len(target) * most, device=logits.device).index_add(0, each, nll) / tokens.clamp(min=1)
    answers = (tokens > 0).view(len(target), most).sum(1)
    return means.view(len(target), most).sum(1) / answers.clamp(min=1)
