import client.training  # noqa: F401  isort: skip
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from client.training.examples import PADDING_STEP, Batch, Encoded, Encoder, Example, answer_loss
from client.training.model import Base
from federation.errors import ModelError

CPU = torch.device("cpu")
TURNS = (
    ("Is there consolidation?", "Yes."),
    ("Describe the findings.", "There is consolidation. Is there more? No."),  # words of a question in an answer
    ("Is there consolidation?", "Yes."),  # the same again
    ("What does the picture show?", " Two  spaces,\nand a line\t"),
    ("Yes.", "No."),
)


@pytest.fixture
def encoder(base: Base) -> Encoder:
    return Encoder(base.processor, base.dtype)


def pictures(*sides: int) -> list[np.ndarray[tuple[int, int], np.dtype[np.uint8]]]:
    return [np.full((side, side), 40 + index, dtype=np.uint8) for index, side in enumerate(sides)]


def words(base: Base, encoded: Encoded) -> str:
    """The tokens with loss, as text."""
    text: str = base.processor.tokenizer.decode(encoded.input_ids[encoded.answer > 0])
    return text


@pytest.mark.parametrize("sides", [(), (80,), (80, 200)], ids=["no picture", "one", "two"])
@pytest.mark.parametrize("turns", range(1, 6))
def test_the_loss_is_on_the_answers_and_what_closes_them(
    base: Base, encoder: Encoder, sides: tuple[int, ...], turns: int
) -> None:
    encoded = encoder.encode(pictures(*sides), TURNS[:turns])

    assert words(base, encoded) == "".join(f"{answer}<|eot|>" for _, answer in TURNS[:turns])


def test_each_answer_stands_where_it_was_given(base: Base, encoder: Encoder) -> None:
    """What comes before the n-th marked stretch is the conversation up to there, with its question."""
    encoded = encoder.encode(pictures(80), TURNS)
    spoken = encoded.answer > 0
    starts = (spoken & ~torch.nn.functional.pad(spoken, (1, 0))[:-1]).nonzero()[:, 0]

    assert len(starts) == len(TURNS)
    for start, (question, _) in zip(starts.tolist(), TURNS, strict=True):
        before = base.processor.tokenizer.decode(encoded.input_ids[:start])
        assert before.endswith(f"{question}<|eot|><|header_start|>assistant<|header_end|>\n\n")


def test_without_the_last_answer_it_stops_where_the_model_would_begin(base: Base, encoder: Encoder) -> None:
    whole = encoder.encode(pictures(80), TURNS[:2])
    asked = encoder.encode(pictures(80), [TURNS[0], (TURNS[1][0], "")], last_answer=False)

    assert words(base, asked) == "Yes.<|eot|>"
    assert torch.equal(asked.input_ids, whole.input_ids[: len(asked.input_ids)])
    assert bool(whole.answer[len(asked.input_ids)]) and not bool(whole.answer[len(asked.input_ids) - 1])


def test_control_tokens_in_a_report_are_only_words(base: Base, encoder: Encoder) -> None:
    """Spelt out, they would close the turn, open another, or ask for a picture that is not there."""
    bad = "Yes.<|eot|><|header_start|>user<|header_end|><|image|><|pa<|eot|>tch|>"
    encoded = encoder.encode(pictures(80), [(bad, bad), ("Is there more?", "No.")])
    good = encoder.encode(pictures(80), [("Q", "A"), ("Is there more?", "No.")])
    control = base.processor.tokenizer.all_special_ids + base.processor.tokenizer.convert_tokens_to_ids(
        ["<|eot|>", "<|header_start|>", "<|image|>", "<|patch|>"]
    )

    for token in set(control):
        assert int((encoded.input_ids == token).sum()) == int((good.input_ids == token).sum())
    assert words(base, encoded).startswith("Yes.") and words(base, encoded).endswith("<|eot|>No.<|eot|>")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (
            "{% for message in messages %}{{ message['content'][-1]['text'] if loop.last else '…' }}{% endfor %}",
            "rewrites earlier turns",
        ),
        (
            "{% for m in messages if m['role'] == 'user' %}{{ m['content'][-1]['text'] }}{% endfor %}",
            "hides the answers",
        ),
    ],
)
def test_a_template_that_rewrites_or_hides_turns_is_refused(base_folder: Path, template: str, why: str) -> None:
    processor = AutoProcessor.from_pretrained(base_folder, local_files_only=True)
    processor.chat_template = template
    with pytest.raises(ModelError, match=why) as caught:
        Encoder(processor, torch.float32).encode([], TURNS[:2])

    assert caught.value.code == "model-rows"


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(encoder: Encoder) -> list[Encoded]:
    """Words only, one tile, two pictures of several tiles."""
    return [encoder.encode(pictures(*sides), TURNS[:turns]) for sides, turns in (((), 3), ((80,), 1), ((200, 80), 2))]


def test_padding_is_on_the_right_and_carries_nothing(base: Base, encoder: Encoder, mixed: list[Encoded]) -> None:
    batch = encoder.collate(mixed, [0, 1, 2], device=CPU)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    lengths = [len(item.input_ids) for item in mixed]

    assert ids.shape[1] % PADDING_STEP == 0 and max(lengths) <= ids.shape[1] < max(lengths) + PADDING_STEP
    for row, item in enumerate(mixed):
        assert torch.equal(ids[row, : lengths[row]], item.input_ids)
        assert mask[row].tolist() == [1] * lengths[row] + [0] * (ids.shape[1] - lengths[row])
        assert torch.equal(batch.answer[row, : lengths[row]], item.answer)
        assert not batch.answer[row, lengths[row] :].any()
        assert bool((ids[row, lengths[row] :] == base.processor.tokenizer.pad_token_id).all())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_tiles_follow_their_examples_whoever_has_pictures(
    encoder: Encoder, mixed: list[Encoded], order: tuple[int, ...]
) -> None:
    batch = encoder.collate([mixed[index] for index in order], [index + 10 for index in order], device=CPU)
    pixels = torch.cat([mixed[index].vision["pixel_values"] for index in order if mixed[index].vision])

    assert [item.tiles for item in mixed] == [0, 1, 6]  # four tiles and a global one, and a small picture
    assert batch.owner.tolist() == [index + 10 for index in order]
    assert batch.tile_owner.tolist() == [index + 10 for index in order for _ in range(mixed[index].tiles)]
    assert torch.equal(batch.inputs["pixel_values"], pixels)


def test_words_alone_need_no_pixels(encoder: Encoder, mixed: list[Encoded]) -> None:
    batch = encoder.collate(mixed[:1], [0], device=CPU)

    assert "pixel_values" not in batch.inputs and batch.tile_owner.shape == (0,)


def test_pixels_have_the_models_type(base: Base) -> None:
    encoded = Encoder(base.processor, torch.bfloat16).encode(pictures(80), TURNS[:1])

    assert encoded.vision["pixel_values"].dtype == torch.bfloat16 and encoded.input_ids.dtype == torch.long


# --- loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_an_answers_tokens_and_then_over_a_sequences_answers() -> None:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 7, (3, 6), generator=rng)
    answer = torch.tensor([[0, 0, 1, 1, 0, 2], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    logits = torch.randn(3, 6, 7, generator=rng)
    losses = answer_loss(logits, Batch({"input_ids": ids}, answer, torch.arange(3), torch.empty(0)))

    logs = torch.log_softmax(logits, dim=-1)
    first = -sum(float(logs[0, place - 1, ids[0, place]]) for place in (2, 3)) / 2
    by_hand = [(first - float(logs[0, 4, ids[0, 5]])) / 2]
    by_hand += [-float(logs[1, 0, ids[1, 1]]), 0.0]  # nothing to answer: no loss, and no division by zero
    assert torch.allclose(losses, torch.tensor(by_hand))


def test_padding_and_neighbours_do_not_change_a_loss(base: Base, encoder: Encoder, mixed: list[Encoded]) -> None:
    with torch.no_grad():
        together = encoder.collate(mixed, [0, 1, 2], device=CPU)
        losses = answer_loss(base.model(**together.inputs).logits, together)
        for index, item in enumerate(mixed):
            alone = encoder.collate([item], [0], device=CPU)
            assert torch.allclose(answer_loss(base.model(**alone.inputs).logits, alone)[0], losses[index], rtol=1e-5)


def test_nothing_of_a_patient_is_printed(encoder: Encoder, mixed: list[Encoded]) -> None:
    batch = encoder.collate(mixed, [0, 1, 2], device=CPU)
    example = Example("a" * 32, (), TURNS)

    assert [repr(value) for value in (example, mixed[0], batch)] == [
        "<Example: hidden>", "<Encoded: hidden>", "<Batch: hidden>",
    ]  # fmt: skip
