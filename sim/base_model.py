"""The tiny base model: the Llama 4 architecture in small, taught to look at chests on public, made pictures.

`wardround sim base --out DIR` makes it from nothing: text, tokenizer, weights, pre-training (sim/public_cases.py says
on what). The words of the hospitals' own findings occur in its text only, without pictures, so the base knows how to
spell "effusion" and not what it looks like.

Three things make it learn in minutes instead of hours: matrices are stepped by Muon (Jordan et al. 2024), the projector
starts by whitening what the vision tower sees, and every other text layer works without positions, as Llama 4 has it,
so that a word finds the picture at any distance.
"""

# isort: off
import client.training  # noqa: F401  opens torchvision before transformers looks for it
# isort: on

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4ImageProcessor,
    Llama4Processor,
    Llama4TextConfig,
    Llama4VisionConfig,
    PreTrainedTokenizerFast,
)

from sim.anatomy import PUBLIC, Finding
from sim.public_cases import (
    PLACED,
    TILE,
    Catechism,
    PublicCase,
    Turn,
    catechism,
    conversation,
    public_case,
    public_text,
)

PATCH = 12
PATCHES = (TILE // PATCH // 2) ** 2
VOCABULARY = 1024
HELD_OUT = 500
"""Public pictures that are only asked about when the base is done."""
SPECIAL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad|>", "<|header_start|>", "<|header_end|>", "<|eot|>",
    "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
)  # fmt: skip


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
    tokenizer: PreTrainedTokenizerFast, *, text_layers: int = 3, vision_layers: int = 4, width: int = 128
) -> Llama4ForConditionalGeneration:
    """Random weights in Llama 4's architecture: every text layer a mixture of experts, every other one without RoPE."""
    ids = {token: _id(tokenizer, token) for token in SPECIAL}
    text = Llama4TextConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=96, intermediate_size_mlp=192,
        num_hidden_layers=text_layers, num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_local_experts=2,
        num_experts_per_tok=1, max_position_embeddings=4096, attention_chunk_size=4096, initializer_range=0.06,
        no_rope_layers=[1 - layer % 2 for layer in range(text_layers)],
        bos_token_id=ids["<|begin_of_text|>"], eos_token_id=ids["<|eot|>"], pad_token_id=ids["<|finetune_right_pad|>"],
    )  # fmt: skip
    vision = Llama4VisionConfig(
        hidden_size=width, num_hidden_layers=vision_layers, num_attention_heads=4, intermediate_size=4 * width,
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


class _Optimizer:
    """Muon for matrices, AdamW for everything else; linear warm-up, then a cosine to 2 %."""

    def __init__(
        self, named: Mapping[str, nn.Parameter], *, steps: int, warm_up: int, muon: float, adam: float
    ) -> None:
        self._named = list(named.values())
        matrices = [p for name, p in named.items() if p.dim() == 2 and "embed" not in name and "head" not in name]
        chosen = {id(p) for p in matrices}
        others = [p for p in self._named if id(p) not in chosen]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=muon, momentum=0.9, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=adam, weight_decay=0.01, betas=(0.9, 0.98)),
        ]
        self._rates = (muon, adam)
        self._steps, self._warm_up, self._step = steps, warm_up, 0

    def step(self, loss: Tensor) -> None:
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self._step / self._steps))
        factor = min(1.0, (self._step + 1) / self._warm_up) * cosine
        for part, rate in zip(self._parts, self._rates, strict=True):
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._named, 1.0)
        for part in self._parts:
            part.step()
        self._step += 1


def pretrain_vision(
    model: Llama4ForConditionalGeneration,
    cases: Sequence[PublicCase],
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int = 64,
    progress: Callable[[int, float], None],
) -> None:
    """Teach the vision tower to see before it is asked to talk.

    Three heads, thrown away afterwards: which public findings are there and on which side, from the mean of the tokens
    and from all of them in their places; and from each token alone a thumbnail of its own part of the picture, so that
    what no public question is about stays visible too.
    """
    width = int(model.vision_model.config.vision_output_dim)
    side = round(PATCHES**0.5)
    thumb = 6
    labels = torch.tensor([_labels(case.findings) for case in cases])
    heads = nn.ModuleDict(
        {
            "mean": nn.Linear(width, labels.shape[1]),
            "place": nn.Linear(PATCHES * width, labels.shape[1]),
            "thumbnail": nn.Linear(width, thumb * thumb),
        }
    )
    named = dict(model.vision_model.named_parameters()) | {f"head.{n}": p for n, p in heads.named_parameters()}
    optimizer = _Optimizer(named, steps=steps, warm_up=50, muon=4e-3, adam=1e-3)
    for step in range(steps):
        chosen = rng.choice(len(cases), min(batch, len(cases)), replace=False)
        pixels = _pixels([cases[i] for i in chosen])
        seen = model.vision_model(pixels).last_hidden_state
        small = nn.functional.adaptive_avg_pool2d(pixels[:, :1], side * thumb)
        parts = nn.functional.unfold(small, thumb, stride=thumb).transpose(1, 2)
        target = labels[chosen]
        known = target >= 0
        told = torch.stack(
            [
                nn.functional.binary_cross_entropy_with_logits(guess[known], target[known].float())
                for guess in (heads["mean"](seen.mean(1)), heads["place"](seen.flatten(1)))
            ]
        )
        drawn = nn.functional.mse_loss(heads["thumbnail"](seen), parts)
        optimizer.step(told.sum() + 2 * drawn)
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


@torch.no_grad()
def see(model: Llama4ForConditionalGeneration, cases: Sequence[PublicCase]) -> Tensor:
    """What the vision tower makes of the pictures. float32 (pictures, PATCHES, width)."""
    parts = [cases[start : start + 100] for start in range(0, len(cases), 100)]
    return torch.cat([model.vision_model(_pixels(part)).last_hidden_state for part in parts])


@torch.no_grad()
def start_projector(model: Llama4ForConditionalGeneration, seen: Tensor) -> None:
    """Let the projector start by whitening: what varies between pictures, however little, comes in at one size.

    The tower's tokens share a large mean, and most of what tells two pictures apart is small beside it. Without a bias
    the projector cannot subtract the mean, so it leaves out its direction.
    """
    rows = seen.flatten(0, 1)
    mean = rows.mean(0)
    mean = mean / mean.norm()
    without = torch.eye(len(mean)) - torch.outer(mean, mean)
    variances, directions = torch.linalg.eigh(without @ torch.cov(rows.T) @ without)
    kept = variances > 1e-4 * variances[-1]
    weight = model.multi_modal_projector.linear_1.weight
    turn = torch.linalg.qr(torch.randn(weight.shape[0], weight.shape[0]))[0][: int(kept.sum())]
    weight.copy_((without @ (directions[:, kept] / variances[kept].sqrt()) @ turn).T * 0.06)


def pretrain(
    model: Llama4ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    cases: Sequence[PublicCase],
    asked: Catechism,
    seen: Tensor,
    rng: np.random.Generator,
    *,
    steps: int,
    batch: int = 96,
    progress: Callable[[int, float], None],
) -> None:
    """Teach the language side to talk about what the vision tower, now at rest, sees; the loss covers answers only.

    One question per picture first, because a word finds its picture sooner where nothing else is said; in the last
    third whole conversations.
    """
    head = _Speech(model, tokenizer)
    named = {f"language.{n}": p for n, p in model.language_model.named_parameters()}
    named |= {f"projector.{n}": p for n, p in model.multi_modal_projector.named_parameters()}
    optimizer = _Optimizer(named, steps=steps, warm_up=100, muon=4e-3, adam=2e-3)
    model.train()
    for step in range(steps):
        alone = step < 2 * steps // 3
        chosen = rng.choice(len(cases), min(batch if alone else batch // 3, len(cases)), replace=False)
        said = [
            conversation(cases[i], i, asked, rng, pairs=2 if alone else 3, describe_share=0.05 if alone else 0.3)
            for i in chosen
        ]
        if alone:
            said = [[turns[int(rng.integers(len(turns)))]] for turns in said]
        loss = head.loss(said, seen[chosen])
        optimizer.step(loss)
        progress(step, float(loss.detach()))
    model.eval()


class _Speech:
    """The language side alone, fed with what the vision tower saw before."""

    def __init__(self, model: Llama4ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._patch, self._pad = _id(tokenizer, "<|patch|>"), _id(tokenizer, "<|finetune_right_pad|>")
        self._pieces: dict[str, list[int]] = {}

    def loss(self, said: Sequence[Sequence[Turn]], seen: Tensor) -> Tensor:
        """Mean negative log-likelihood of the answers: over the tokens of each, then over all answers."""
        encoded = [self._encode(turns) for turns in said]
        length = max(len(ids) for ids, _ in encoded)
        ids = torch.full((len(said), length), self._pad)
        answer = torch.zeros((len(said), length), dtype=torch.long)
        for row, (tokens, numbers) in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            answer[row, : len(numbers)] = torch.tensor(numbers)
        carries = answer[:, 1:] > 0
        hidden = self._hidden(ids, seen)
        logits = self._model.language_model.lm_head(hidden[:, :-1][carries])
        each = nn.functional.cross_entropy(logits.float(), ids[:, 1:][carries], reduction="none")
        _, owner, tokens_of = torch.unique(
            (torch.arange(len(said))[:, None] * length + answer[:, 1:])[carries],
            return_inverse=True,
            return_counts=True,
        )
        mean: Tensor = (each / tokens_of[owner]).sum() / len(tokens_of)
        return mean

    @torch.no_grad()
    def score(self, question: str, seen: Tensor) -> NDArray[np.float32]:
        """How much likelier "Yes." begins the answer than "No.", (pictures,)."""
        prompt, _ = self._encode([(question, "")])
        ids = torch.tensor([prompt[:-1]] * len(seen))  # without the closing <|eot|>
        logits = self._model.language_model.lm_head(self._hidden(ids, seen)[:, -1])
        yes, no = (self._piece(word)[0] for word in ("Yes.", "No."))
        found: NDArray[np.float32] = (logits[:, yes] - logits[:, no]).float().numpy()
        return found

    def _hidden(self, ids: Tensor, seen: Tensor) -> Tensor:
        language = self._model.language_model
        words = language.get_input_embeddings()(ids)
        pictures = self._model.multi_modal_projector(seen.flatten(0, 1))
        mixed = words.masked_scatter((ids == self._patch)[..., None], pictures)
        mask = (ids != self._pad).long()
        hidden: Tensor = language.model(inputs_embeds=mixed, attention_mask=mask, use_cache=False).last_hidden_state
        return hidden

    def _encode(self, turns: Sequence[Turn]) -> tuple[list[int], list[int]]:
        """Token ids of the chat template, and for each the number of its answer from 1 (closing <|eot|> included)."""
        image = "<|image_start|><|image|>" + "<|patch|>" * PATCHES + "<|image_end|>"
        ids = list(self._piece("<|begin_of_text|>"))
        answer = [0] * len(ids)
        for number, (question, told) in enumerate(turns, 1):
            head = [
                *self._piece("<|header_start|>user<|header_end|>\n\n"),
                *(self._piece(image) if number == 1 else []),
            ]
            head += [*self._piece(f"{question}<|eot|>"), *self._piece("<|header_start|>assistant<|header_end|>\n\n")]
            tail = self._piece(f"{told}<|eot|>")
            ids += [*head, *tail]
            answer += [0] * len(head) + [number] * len(tail)
        return ids, answer

    def _piece(self, text: str) -> list[int]:
        if text not in self._pieces:
            self._pieces[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._pieces[text]


def examine(
    model: Llama4ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    questions: Mapping[str, NDArray[np.bool_]],
    seen: Tensor,
) -> dict[str, float]:
    """AUROC of the base on public questions: the share of pairs that it puts in the right order."""
    head = _Speech(model, tokenizer)
    found = {}
    for question, truth in questions.items():
        scores = head.score(question, seen)
        pairs = scores[truth][:, None] - scores[~truth][None, :]
        found[question] = float(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    return found


def save(
    model: Llama4ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path, *, origin: str
) -> None:
    """Write the checkpoint as transformers reads it: bfloat16 safetensors, official processor, note of its origin."""
    folder.mkdir(parents=True, exist_ok=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)  # not the module: it has complex buffers
    model.save_pretrained(folder)
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
    tokenizer = make_tokenizer(public_text(rng, 1500))
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

    asked = catechism(drawn, rng)
    held_out = min(HELD_OUT, cases // 2)
    studied = drawn[held_out:]
    vision_steps = steps * 5 // 8
    pretrain_vision(model, studied, rng, steps=vision_steps, progress=told("vision", vision_steps))
    seen = see(model, studied)
    start_projector(model, seen)
    lessons = asked.after(held_out)
    pretrain(model, tokenizer, studied, lessons, seen, rng, steps=steps, progress=told("language", steps))

    truth = {question: answers[:held_out] for question, answers in asked.findings.items()}
    figures = examine(model, tokenizer, truth, see(model, drawn[:held_out]))
    for question, figure in figures.items():
        progress(f"public AUROC {figure:.2f}  {question}")
    save(model, tokenizer, folder, origin=f"wardround sim base --seed {seed} --cases {cases} --steps {steps}")
