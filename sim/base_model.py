"""The tiny base model: the Llama 4 architecture in small, taught to look at chests on public, made pictures.

`wardround sim base --out DIR` makes it from nothing: text, tokenizer, weights, pre-training. What it learns is public:
eleven findings that no hospital of the simulator asks about (nodule, bulla, pacemaker, …), their side and size, and
how to answer and to describe. The words of the hospitals' own findings occur in its text only, without pictures, so the
base knows how to spell "effusion" and not what it looks like. Part of its questions cannot be answered from the picture
("Is there a fracture?", answered by a coin): it learns to be unsure of words that it cannot see.
"""

# isort: off
import client.training  # noqa: F401  opens torchvision before transformers looks for it
# isort: on

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    Llama4TextConfig,
    Llama4VisionConfig,
    PreTrainedTokenizerFast,
)

from sim.anatomy import PUBLIC, SIDES, SIZES, ZONES, Finding, Style, draw_chest

TILE = 96
PATCH = 12
VOCABULARY = 1024
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad|>", "<|header_start|>", "<|header_end|>", "<|eot|>",
    "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
)  # fmt: skip
UNSEEN = (
    "a fracture", "edema", "emphysema", "atelectasis", "fibrosis", "calcification", "a mass", "congestion",
    "a foreign body", "an abscess", "bronchiectasis", "lymphadenopathy", "tuberculosis", "thickening", "an opacity",
)  # fmt: skip
PLAIN = ("hyperinflation", "scoliosis", "haze", "elevation")
ARTICLE = {name: name if name in PLAIN else f"a {name}" for name in PUBLIC}
PLACED = frozenset({"nodule", "mass", "cavity", "bulla", "pacemaker", "haze", "elevation"})
PREVALENCE = 0.25
"""Public findings with a side."""


@dataclass(frozen=True)
class PublicCase:
    """One made picture, (TILE, TILE) uint8, what is in it, and a conversation about it."""

    pixels: NDArray[np.uint8]
    findings: tuple[Finding, ...]
    turns: tuple[tuple[str, str], ...]


def public_case(rng: np.random.Generator) -> PublicCase:
    """Draw one public chest and ask about it."""
    findings = [
        Finding(name, str(rng.choice(SIDES)), str(rng.choice(ZONES)), str(rng.choice(SIZES)))
        for name in PUBLIC
        if rng.random() < PREVALENCE
    ]
    style = Style(
        gamma=float(rng.uniform(0.7, 1.4)),
        contrast=float(rng.uniform(0.75, 1.3)),
        brightness=float(rng.uniform(-0.08, 0.08)),
        noise=float(rng.uniform(0.0, 0.04)),
        tilt_degrees=3.0,
        collimation=float(rng.choice([0.0, 0.06])),
    )
    view = str(rng.choice(["PA", "AP"]))
    image = draw_chest(findings, rng, rows=TILE, columns=TILE, view=view, style=style)
    return PublicCase((image * 255).astype(np.uint8), tuple(findings), tuple(_conversation(findings, rng)))


def _conversation(findings: Sequence[Finding], rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    present = {finding.name: finding for finding in findings}
    turns: list[tuple[str, str]] = []
    for name in rng.permutation(PUBLIC)[:4]:
        turns.append((f"Is there {ARTICLE[name]}?", "Yes." if name in present else "No."))
    side = str(rng.choice(SIDES))
    name = str(rng.choice(sorted(PLACED)))
    there = name in present and present[name].side == side
    turns.append((f"Is there {ARTICLE[name]} on the {side}?", "Yes." if there else "No."))
    if rng.random() < 0.4:
        turns.append((f"Is there {rng.choice(UNSEEN)}?", str(rng.choice(["Yes.", "No."]))))
    for name, finding in present.items():
        if name in PLACED and rng.random() < 0.2:
            turns.append((f"Which side is the {name} on?", f"{finding.side.capitalize()}."))
        elif rng.random() < 0.1:
            turns.append((f"How large is the {name}?", f"{finding.size.capitalize()}."))
    if rng.random() < 0.2:
        turns.append(("Describe the findings.", describe(findings)))
    for index in rng.permutation(len(turns))[:6]:
        yield turns[index]


def describe(findings: Sequence[Finding]) -> str:
    """A report of the public findings, in one plain style."""
    if not findings:
        return "No abnormality is seen."
    return " ".join(f"There is {_noun(finding)}." for finding in findings)


def _noun(finding: Finding) -> str:
    where = f" on the {finding.side}" if finding.name in PLACED else ""
    return (
        f"{finding.size} {finding.name}{where}" if finding.name == "haze" else f"a {finding.size} {finding.name}{where}"
    )


def public_text(rng: np.random.Generator, cases: int) -> Iterator[str]:
    """What the tokenizer learns from: public conversations, and a glossary with the words of the field."""
    for _ in range(cases):
        findings = [
            Finding(name, str(rng.choice(SIDES)), str(rng.choice(ZONES)), str(rng.choice(SIZES)))
            for name in PUBLIC
            if rng.random() < PREVALENCE
        ]
        for question, answer in _conversation(findings, rng):
            yield question
            yield answer
    for _ in range(max(1, cases // 100)):
        yield from GLOSSARY


GLOSSARY = (
    "A consolidation is air space filled with fluid or cells. Is there consolidation?",
    "A pleural effusion is fluid in the pleural space. Is there a pleural effusion?",
    "Cardiomegaly is an enlarged heart; the cardiac silhouette is enlarged. Is there cardiomegaly?",
    "A pneumothorax is air in the pleural space. Is there a pneumothorax? Is there pneumonia?",
    "FINDINGS: The lungs are clear. IMPRESSION: No acute cardiopulmonary abnormality.",
    "The heart is normal in size. The lungs are clear. No focal consolidation, effusion or pneumothorax.",
    "Small, moderate, large. Mild, severe. Right, left, bilateral. Upper, middle, lower lobe. Zone, apical, basal.",
    "Compared with the prior study, unchanged, improved, worse. Portable AP view. PA and lateral views of the chest.",
    "Describe the findings. What does the picture show? Yes. No. Normal. Abnormal. Unremarkable. Is it normal?",
)


def make_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Llama 4's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token="<|eot|>",
        pad_token=SPECIAL[2],
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(
    tokenizer: PreTrainedTokenizerFast, *, layers: int = 4, width: int = 128
) -> Llama4ForConditionalGeneration:
    """Random weights in Llama 4's architecture: `layers` text layers (4 routed experts, 1 shared) and vision layers."""
    ids = {token: _id(tokenizer, token) for token in SPECIAL}
    text = Llama4TextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=96, intermediate_size_mlp=192,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_local_experts=4,
        num_experts_per_tok=1, max_position_embeddings=4096, attention_chunk_size=4096,
        bos_token_id=ids["<|begin_of_text|>"], eos_token_id=ids["<|eot|>"], pad_token_id=ids["<|finetune_right_pad|>"],
    )  # fmt: skip
    vision = Llama4VisionConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * width,
        vision_output_dim=width, image_size=TILE, patch_size=PATCH, projector_input_dim=width,
        projector_output_dim=width,
    )  # fmt: skip
    config = Llama4Config(
        vision_config=vision, text_config=text, boi_token_index=ids["<|image_start|>"],
        eoi_token_index=ids["<|image_end|>"], image_token_index=ids["<|patch|>"],
    )  # fmt: skip
    return Llama4ForConditionalGeneration(config)


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(found, int)
    return found


def pretrain_vision(
    model: Llama4ForConditionalGeneration,
    cases: Sequence[PublicCase],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    progress: Callable[[int, float], None],
) -> None:
    """Teach the vision tower to see before it is asked to talk.

    Three heads, thrown away afterwards: which public findings are there and on which side, from the mean of the tokens
    and from all of them in their places; and from each token alone a thumbnail of its own part of the picture, so that
    what no public question is about stays visible too.
    """
    width = int(model.vision_model.config.vision_output_dim)
    region = TILE // (TILE // PATCH // 2)
    thumb = 6
    labels = torch.tensor([_labels(case.findings) for case in cases])
    mean_head = torch.nn.Linear(width, labels.shape[1])
    place_head = torch.nn.Linear((TILE // region) ** 2 * width, labels.shape[1])
    thumbnail_head = torch.nn.Linear(width, thumb * thumb)
    parameters = [*model.vision_model.parameters(), *mean_head.parameters(), *place_head.parameters()]
    parameters += thumbnail_head.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    for step in range(steps):
        _set_rate(optimizer, learning_rate, step, steps, warm_up=100)
        chosen = rng.choice(len(cases), batch, replace=False)
        pixels = _pixels([cases[i] for i in chosen])
        seen = model.vision_model(pixels).last_hidden_state
        small = torch.nn.functional.adaptive_avg_pool2d(pixels[:, :1], TILE // region * thumb)
        parts = torch.nn.functional.unfold(small, thumb, stride=thumb).transpose(1, 2)
        target = labels[chosen]
        known = target >= 0
        told = torch.stack(
            [
                torch.nn.functional.binary_cross_entropy_with_logits(guess[known], target[known].float())
                for guess in (mean_head(seen.mean(1)), place_head(seen.flatten(1)))
            ]
        )
        drawn = torch.nn.functional.mse_loss(thumbnail_head(seen), parts)
        optimizer.zero_grad()
        (told.sum() + 2 * drawn).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress(step, float(told[0].detach()))


def _labels(findings: Sequence[Finding]) -> list[int]:
    """1 or 0 for each public finding, then 1, 0 or -1 (does not apply) for its being on the left."""
    present = {finding.name: finding for finding in findings}
    there = [int(name in present) for name in PUBLIC]
    left = [int(present[name].side == "left") if name in present and name in PLACED else -1 for name in PUBLIC]
    return there + left


def _pixels(cases: Sequence[PublicCase]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([case.pixels for case in cases])).float() / 127.5 - 1
    return pixels[:, None].expand(-1, 3, -1, -1)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, step: int, steps: int, *, warm_up: int) -> None:
    """Linear warm-up, then a cosine to 2 %."""
    factor = min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    for group in optimizer.param_groups:
        group["lr"] = rate * factor


def pretrain(
    model: Llama4ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    cases: Sequence[PublicCase],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int = 40,
    learning_rate: float = 2e-3,
    progress: Callable[[int, float], None],
) -> None:
    """Teach the language side to talk about what the vision tower, now at rest, sees; the loss covers answers only."""
    with torch.no_grad():
        parts = [cases[start : start + 100] for start in range(0, len(cases), 100)]
        seen = torch.cat([model.vision_model(_pixels(part)).last_hidden_state for part in parts])
    encoded = [_encode(tokenizer, case) for case in cases]
    patch, pad = _id(tokenizer, "<|patch|>"), _id(tokenizer, "<|finetune_right_pad|>")
    parameters = [*model.language_model.parameters(), *model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    model.train()
    for step in range(steps):
        _set_rate(optimizer, learning_rate, step, steps, warm_up=200)
        chosen = rng.choice(len(cases), batch, replace=False)
        length = max(len(encoded[i][0]) for i in chosen)
        ids = torch.full((batch, length), pad)
        answer = torch.zeros((batch, length), dtype=torch.bool)
        for row, i in enumerate(chosen):
            ids[row, : len(encoded[i][0])] = torch.tensor(encoded[i][0])
            answer[row, : len(encoded[i][1])] = torch.tensor(encoded[i][1])
        words = model.language_model.get_input_embeddings()(ids)
        pictures = model.multi_modal_projector(seen[chosen].flatten(0, 1))
        mixed = words.masked_scatter((ids == patch)[..., None], pictures)
        logits = model.language_model(inputs_embeds=mixed, attention_mask=(ids != pad).long(), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1][answer[:, 1:]].float(), ids[:, 1:][answer[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress(step, float(loss.detach()))
    model.eval()


def _encode(tokenizer: PreTrainedTokenizerFast, case: PublicCase) -> tuple[list[int], list[bool]]:
    """Token ids of the chat template and, for each, whether it belongs to an answer (its closing <|eot|> included)."""
    patches = (TILE // PATCH // 2) ** 2
    image = "<|image_start|><|image|>" + "<|patch|>" * patches + "<|image_end|>"
    ids: list[int] = tokenizer.encode("<|begin_of_text|>", add_special_tokens=False)
    answer = [False] * len(ids)
    for index, (asked, told) in enumerate(case.turns):
        head = f"<|header_start|>user<|header_end|>\n\n{image if index == 0 else ''}{asked}<|eot|>"
        head += "<|header_start|>assistant<|header_end|>\n\n"
        for text, counts in ((head, False), (f"{told}<|eot|>", True)):
            piece = tokenizer.encode(text, add_special_tokens=False)
            ids += piece
            answer += [counts] * len(piece)
    return ids, answer


def save(
    model: Llama4ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path, *, origin: str
) -> None:
    """Write the checkpoint as transformers reads it: bfloat16 safetensors, official processor, note of its origin."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype=torch.bfloat16).save_pretrained(folder)  # type: ignore[call-arg]
    image_processor = Llama4ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=1)
    processor = Llama4Processor(image_processor, tokenizer, patch_size=PATCH, pixel_shuffle_ratio=0.5)
    processor.save_pretrained(folder)
    note = {"format": "wardround-base/1", "origin": origin, "data": "generated, public", "licence": "Apache-2.0"}
    (folder / "origin.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def make_base(
    folder: Path, *, seed: int, cases: int, steps: int, threads: int, progress: Callable[[str], None]
) -> None:
    """`wardround sim base`: text, tokenizer, pictures, pre-training, files."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer(public_text(rng, 3000))
    progress(f"tokenizer  {len(tokenizer)} tokens")
    drawn: list[PublicCase] = []
    for index in range(cases):
        drawn.append(public_case(rng))
        if (index + 1) % 5000 == 0:
            progress(f"pictures   {index + 1}/{cases}")
    model = make_model(tokenizer)

    def told(stage: str, steps: int) -> Callable[[int, float], None]:
        losses: list[float] = []

        def tell(step: int, loss: float) -> None:
            losses.append(loss)
            if (step + 1) % 100 == 0:
                progress(f"{stage:<10} step {step + 1}/{steps}  loss {float(np.mean(losses[-100:])):.3f}")

        return tell

    pretrain_vision(model, drawn, rng, steps=steps * 3 // 4, progress=told("vision", steps * 3 // 4))
    pretrain(model, tokenizer, drawn, rng, steps=steps, progress=told("language", steps))
    save(model, tokenizer, folder, origin=f"wardround sim base --seed {seed} --cases {cases} --steps {steps}")
