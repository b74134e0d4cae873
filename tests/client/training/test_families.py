"""Other families than Llama 4 through their own processors: nothing in the trainer knows which one it is."""

import client.training  # noqa: F401  isort: skip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from client.training.evaluate import Question, cases, say, score
from client.training.examples import Encoder, Example
from client.training.gradients import RowKind
from client.training.model import AdapterSpec, Base, Device, TrainableModel, adapter_layers, load_base
from client.training.train import clipped_sum, patient_gradients
from federation.adapter import Adapter
from federation.errors import ModelError
from federation.privacy.clipping import FlatClipping
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from server.export import export_adapter

WORDS = ("Is there consolidation?", "Yes.", "No.", "There is a small nodule on the left.", "Describe the findings.")
TEXT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
LLAVA_SHAPES = [[32, 64], [64, 32], [64, 64]]


def tokenizer(special: tuple[str, ...], **roles: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few sentences with a family's control tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(WORDS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, **roles)


def idefics3(folder: Path) -> None:
    """Splits every picture into tiles; its model leaves out pictures that are all zero."""
    grid = tuple(f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4))
    special = ("<s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *grid)
    words = tokenizer(special, bos_token="<s>", eos_token="<end_of_utterance>", pad_token="<pad>")
    text = TEXT | {"model_type": "llama", "vocab_size": len(words), "pad_token_id": 1, "eos_token_id": 4}
    config = Idefics3Config(image_token_id=3, scale_factor=2, text_config=text, vision_config=VISION)
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "<s>{% for message in messages %}{{ message['role'] | capitalize }}"
        "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
        "{% for item in message['content'] %}{{ item['text'] if item['type'] == 'text' else '<image>' }}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    pictures = Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(pictures, words, image_seq_len=4, chat_template=template).save_pretrained(folder)


def gemma3(folder: Path) -> None:
    """Marks picture tokens by token_type_ids; every other layer sees a sliding window."""
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<boi>", "<eoi>", "<image_soft_token>")
    named = {"boi_token": "<boi>", "eoi_token": "<eoi>", "image_token": "<image_soft_token>"}
    words = tokenizer(special, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", extra_special_tokens=named)
    layers = ["sliding_attention", "full_attention"]
    text = TEXT | {"vocab_size": len(words), "head_dim": 16, "sliding_window": 16, "layer_types": layers}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 4}
    vision = VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
    config = Gemma3Config(
        mm_tokens_per_image=4, boi_token_index=5, eoi_token_index=6, image_token_index=7, text_config=text,
        vision_config=vision,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zeros at first
    model.save_pretrained(folder)
    template = (
        "<bos>{% for message in messages %}<start_of_turn>"
        "{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
        "{% for item in message['content'] %}{{ item['text'] | trim if item['type'] == 'text' else '<boi>' }}"
        "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    pictures = Gemma3ImageProcessor(size={"height": 32, "width": 32})
    Gemma3Processor(pictures, words, image_seq_length=4, chat_template=template).save_pretrained(folder)


def qwen2_5_vl(folder: Path) -> None:
    """No tiles but patches of all pictures in one row, joined by fours in the projector."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
    words = tokenizer((*special, "<|image_pad|>", "<|video_pad|>"), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = TEXT | {"vocab_size": len(words), "rope_parameters": rope, "pad_token_id": 0, "eos_token_id": 2}
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8, "window_size": 32,
        "out_hidden_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        image_token_id=5, video_token_id=6, vision_start_token_id=3, vision_end_token_id=4, text_config=text,
        vision_config=vision,
    )  # fmt: skip
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for item in message['content'] %}"
        "{{ item['text'] if item['type'] == 'text' else '<|vision_start|><|image_pad|><|vision_end|>' }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    pictures = Qwen2VLImageProcessor(patch_size=8, min_pixels=32 * 32, max_pixels=64 * 64)
    films = Qwen2VLVideoProcessor(patch_size=8)
    Qwen2_5_VLProcessor(pictures, words, films, chat_template=template).save_pretrained(folder)


def llava_next(folder: Path) -> None:
    """As many tiles as the picture's shape needs, and an answer that ignores the last layer of the vision tower."""
    words = tokenizer(("<pad>", "<s>", "</s>", "<image>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    text = TEXT | {"model_type": "mistral", "vocab_size": len(words), "pad_token_id": 0, "eos_token_id": 2}
    config = LlavaNextConfig(
        image_token_index=3, image_grid_pinpoints=LLAVA_SHAPES, image_seq_length=16, text_config=text,
        vision_config=VISION | {"model_type": "clip_vision_model", "num_hidden_layers": 3},
    )  # fmt: skip
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    llava_next_processor(words).save_pretrained(folder)


def llava_next_processor(words: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    template = (
        "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
        "{% for item in message['content'] %}{{ item['text'] if item['type'] == 'text' else '<image>\n' }}{% endfor %}"
        " [/INST]{% else %} {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
    )
    side = {"height": 32, "width": 32}
    pictures = LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size=side, image_grid_pinpoints=LLAVA_SHAPES)
    return LlavaNextProcessor(
        pictures, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[[Path], None]] = {
    "idefics3": idefics3, "gemma3": gemma3, "qwen2_5_vl": qwen2_5_vl, "llava_next": llava_next,
}  # fmt: skip
LAYERS = {  # linear layers per target
    "llama4": {"attention": 8, "shared_expert": 6, "vision_attention": 8, "vision_mlp": 4, "projector": 3},
    "idefics3": {"attention": 8, "shared_expert": 6, "vision_attention": 8, "vision_mlp": 4, "projector": 1},
    "gemma3": {"attention": 8, "shared_expert": 6, "vision_attention": 8, "vision_mlp": 4},  # its projector has none
    "qwen2_5_vl": {"attention": 8, "shared_expert": 6, "vision_attention": 4, "vision_mlp": 6, "projector": 2},
    "llava_next": {"attention": 8, "shared_expert": 6, "vision_attention": 8, "vision_mlp": 4, "projector": 2},
}

CLOSING = {  # what stands before and after an answer in the family's template
    "llama4": ("", "<|eot|>"),
    "idefics3": (" ", "<end_of_utterance>\n"),
    "gemma3": ("", "<end_of_turn>\n"),
    "qwen2_5_vl": ("", "<|im_end|>\n"),
    "llava_next": (" ", "</s>"),
}


@dataclass(frozen=True)
class Family:
    """A random base of a family, the layers of each target, and an adapter on all of them that is not zero."""

    name: str
    base: Base
    layers: Mapping[str, Mapping[str, RowKind]]
    model: TrainableModel
    encoder: Encoder
    adapter: Adapter


@pytest.fixture(scope="module", params=["llama4", *FAMILIES])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Family:
    name, folder = request.param, base_folder
    if name in FAMILIES:
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        FAMILIES[name](folder)
    base = load_base(folder, sha256=None, family=name, device=Device())
    layers = {target: adapter_layers(base.model, (target,)) for target in LAYERS[name]}
    model = base.with_adapter(AdapterSpec(3, 6.0, tuple(LAYERS[name]), frozenset({"A", "B"})))
    rng = np.random.default_rng(1)
    adapter = Adapter({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in model.shapes().items()})
    model.load(adapter)
    return Family(name, base, layers, model, Encoder(base.processor, base.dtype), adapter)


def example(seed: int, *sides: tuple[int, int], turns: int = 1) -> Example:
    rng = np.random.default_rng(seed)
    pictures = tuple(rng.integers(0, 256, side, dtype=np.uint8) for side in sides)
    talk = (("Is there consolidation?", "Yes."), ("Describe the findings.", WORDS[3]), ("Is there a nodule?", "No."))
    return Example(f"{seed:032x}", pictures, tuple(talk[(seed + turn) % 3] for turn in range(turns)))


PATIENTS = (
    [example(1, (80, 80))],
    [example(2, (40, 150), turns=2)],  # another number of tiles
    [example(3, (150, 40), (80, 80), turns=3)],
    [example(4, turns=2)],  # words only
    [example(5, (90, 90)), example(6, (40, 120), (120, 40), (64, 64), turns=2)],
    [example(1, (80, 80))],  # a copy of another patient
)


def test_every_target_finds_the_layers_of_the_family(family: Family) -> None:
    for target, layers in family.layers.items():
        assert len(layers) == LAYERS[family.name][target]
        assert set(layers.values()) == {"text" if target in ("attention", "shared_expert") else "tile"}


def test_a_target_without_layers_is_refused(tmp_path: Path) -> None:
    gemma3(tmp_path)
    base = load_base(tmp_path, sha256=None, family="gemma3", device=Device())
    with pytest.raises(ModelError, match="no layers for the target 'projector'") as caught:
        base.with_adapter(AdapterSpec(3, 6.0, ("projector",), frozenset({"B"})))

    assert caught.value.code == "adapter-targets" and "vision_attention" in caught.value.hint


def test_the_loss_is_on_the_answers_and_what_closes_them(family: Family) -> None:
    before, after = CLOSING[family.name]
    for sides in ((), ((80, 80),), ((40, 150), (80, 80))):
        item = example(1, *sides, turns=3)
        encoded = family.encoder.encode(item.pictures, item.turns)
        marked = family.base.processor.tokenizer.decode(encoded.input_ids[encoded.answer > 0])
        assert marked == "".join(f"{before}{answer}{after}" for _, answer in item.turns)


def test_no_words_become_control_tokens(family: Family) -> None:
    tokenizer = family.base.processor.tokenizer
    control = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
    assert_only_words(family.encoder, control, tokenizer.convert_tokens_to_ids(control))


def test_the_mark_of_a_picture_is_no_word_even_where_it_is_no_special_token() -> None:
    """The processor puts a picture wherever it reads the mark."""
    words = tokenizer(("<pad>", "<s>", "</s>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    words.add_tokens([AddedToken("<image>", special=False, normalized=False)])
    encoder = Encoder(llava_next_processor(words), torch.float32)
    assert_only_words(encoder, ["<image>"], [words.convert_tokens_to_ids("<image>")])


def test_a_tokenizer_that_reads_control_tokens_in_any_case_gets_no_such_text() -> None:
    words = tokenizer(("<pad>", "<s>", "</s>", "<image>"), bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    words.backend_tokenizer.normalizer = normalizers.Lowercase()
    words.add_special_tokens({"additional_special_tokens": [AddedToken("<stop>", special=True, normalized=True)]})
    encoder = Encoder(llava_next_processor(words), torch.float32)
    assert words.convert_tokens_to_ids("<stop>") in words("a <STOP>")["input_ids"]
    with pytest.raises(ModelError, match="words of a conversation become control tokens") as caught:
        encoder.encode((), [("Is there a nodule?", "No. <STOP>")])

    assert caught.value.code == "model-rows"
    assert len(encoder.encode((), [("Is there a nodule?", "No. <stop>")]).input_ids)


def assert_only_words(encoder: Encoder, control: Sequence[str], ids: Sequence[int]) -> None:
    spelt = "".join(control) + "<image><|image|><start_of_image>[INST]<s><|im_start|>"
    item = example(1, (80, 80), turns=2)
    taken = encoder.encode(item.pictures, [(question + spelt, answer + spelt) for question, answer in item.turns])
    meant = encoder.encode(item.pictures, item.turns)

    for token in ids:
        assert int((taken.input_ids == token).sum()) == int((meant.input_ids == token).sum())


def test_tiles_are_counted_as_the_model_counts_them(family: Family) -> None:
    """Every layer of the vision tower and every layer of text was reached by the rows that were declared for it."""
    patient_gradients(family.model, family.encoder, PATIENTS)
    assert not family.model.gradients.leaves_without_gradient()

    if family.name in ("llava_next", "qwen2_5_vl"):
        counts = {family.encoder.encode(item.pictures, item.turns).tiles for patient in PATIENTS for item in patient}
        assert len(counts) > 3


def test_each_patients_gradient_is_that_of_the_patient_alone(family: Family) -> None:
    together = patient_gradients(family.model, family.encoder, PATIENTS)

    for index, patient in enumerate(PATIENTS):
        alone = patient_gradients(family.model, family.encoder, [patient])[0]
        assert float(alone.norm()) > 0
        assert float((together[index] - alone).norm() / alone.norm()) <= 1e-5
    assert float((together[0] - together[5]).norm() / together[0].norm()) <= 1e-5


def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(family: Family) -> None:
    rule = FlatClipping(0.01)  # shorter than every gradient, so that everybody moves the sum by all of it
    mechanism = Mechanism(PoissonSampling(0.5), rule, 1.0)
    whole = clipped_sum(family.model, family.encoder, PATIENTS, mechanism.clipping, micro_batch_patients=6)
    for index in (1, 3, 4):
        others = [patient for place, patient in enumerate(PATIENTS) if place != index]
        without = clipped_sum(family.model, family.encoder, others, mechanism.clipping, micro_batch_patients=2)
        moved = np.linalg.norm(whole.total - without.total)
        assert rule.sensitivity * (1 - 1e-5) <= moved <= rule.sensitivity * (1 + 1e-5)


def test_closed_questions_are_scored_and_words_are_said(family: Family) -> None:
    question = Question("Is there consolidation?", ("Yes.", "No."))
    asked = cases(family.encoder, [PATIENTS[1][0], PATIENTS[2][0], PATIENTS[4][1], example(9)], [question], "alder")
    scored = score(family.model, family.encoder, asked)
    alone = [score(family.model, family.encoder, [case])[0] for case in asked]
    said = say(family.model, family.encoder, PATIENTS[2][0], "Describe the findings.", tokens_most=4)

    assert len(scored) == 4
    for one, other in zip(scored, alone, strict=True):
        assert np.isclose(one.probabilities.sum(), 1) and (one.probabilities > 0).all()
        np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-4)
    assert said == say(family.model, family.encoder, PATIENTS[2][0], "Describe the findings.", tokens_most=4)


def test_the_exported_adapter_gives_the_same_answers_in_peft(family: Family, tmp_path: Path) -> None:
    export_adapter(tmp_path / "adapter", family.adapter, base_model=str(family.base.folder), rank=3, alpha=6.0)
    plain = AutoModelForImageTextToText.from_pretrained(
        family.base.folder, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    encoded = [family.encoder.encode(item.pictures, item.turns) for item in (PATIENTS[1][0], PATIENTS[2][0])]
    batch = family.encoder.collate(encoded, [0, 1], device=torch.device("cpu"))

    with torch.no_grad():
        bare = plain(**batch.inputs).logits
        ours = family.model.model(**batch.inputs).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter")(**batch.inputs).logits
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(bare, theirs, rtol=1e-2, atol=1e-2)
