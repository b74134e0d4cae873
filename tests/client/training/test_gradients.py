import client.training  # noqa: F401  isort: skip
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import Llama4ImageProcessor, Llama4Processor

from client.training.examples import Encoder, Example, answer_loss
from client.training.gradients import Owners, PatientGradients
from client.training.model import TARGETS, AdapterSpec, Base, Device, TrainableModel, load_base
from client.training.train import add_clipped, batch_gradients, clipped_sum, patient_gradients
from federation.errors import ModelError
from federation.privacy.clipping import AutoS, FlatClipping
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from sim.base_model import PATCH, TILE, make_model, make_tokenizer, public_text

TARGET_SETS = [("attention",), ("shared_expert",), ("vision_attention",), ("vision_mlp",), ("projector",), TARGETS]
BOTH = frozenset({"A", "B"})


def trainable(base: Base, targets: tuple[str, ...] = TARGETS, factors: frozenset[str] = BOTH) -> TrainableModel:
    """The base with an adapter whose B is not zero, so that A has a gradient too."""
    model = base.with_adapter(AdapterSpec(rank=3, alpha=6.0, targets=targets, factors=factors))
    rng = np.random.default_rng(1)
    model.write_trained(rng.normal(0, 0.1, model.gradients.size).astype(np.float32))
    return model


def mechanism(rule: FlatClipping | AutoS) -> Mechanism:
    return Mechanism(PoissonSampling(0.5), rule, 1.0)


def by_plain_autograd(base: Base, model: TrainableModel, examples: list[Example]) -> torch.Tensor:
    """The gradient of one patient as torch itself computes it, on an unwrapped copy, one example at a time."""
    encoder = Encoder(base.processor, base.dtype)
    for leaf in model.gradients.leaves.values():
        leaf.weight.grad = None
    total = torch.zeros(model.gradients.size)
    for example in examples:
        batch = encoder.collate([encoder.encode(example.pictures, example.turns)], [0], device=torch.device("cpu"))
        # Outside of a pass a PatientLinear is an ordinary linear layer, so its weight gets torch's own gradient.
        answer_loss(model.model(**batch.inputs).logits, batch).sum().backward()
    grads = [leaf.weight.grad for leaf in model.gradients.leaves.values()]
    total = torch.cat([grad.reshape(-1) for grad in grads if grad is not None])
    for leaf in model.gradients.leaves.values():
        leaf.weight.grad = None
    return total / len(examples)


@pytest.mark.parametrize("targets", TARGET_SETS, ids="+".join)
def test_each_patients_gradient_is_that_of_the_patient_alone(
    base: Base, patients: list[list[Example]], targets: tuple[str, ...]
) -> None:
    model = trainable(base, targets)
    together = patient_gradients(model, Encoder(base.processor, base.dtype), patients)

    for index, examples in enumerate(patients):
        alone = by_plain_autograd(base, model, examples)
        assert float((together[index] - alone).norm() / alone.norm()) <= 1e-5


@pytest.mark.parametrize(
    ("targets", "rule"),
    [
        (("attention", "shared_expert"), AutoS()),
        (("vision_attention", "vision_mlp", "projector"), FlatClipping(0.01)),
        (TARGETS, AutoS()),
        (TARGETS, FlatClipping(0.01)),
        (TARGETS, FlatClipping(3.0)),
    ],
    ids=["text", "vision", "auto-s", "flat", "wide"],
)
def test_one_patient_moves_the_sum_by_at_most_the_clipping_norm(
    base: Base, patients: list[list[Example]], targets: tuple[str, ...], rule: FlatClipping | AutoS
) -> None:
    model, encoder = trainable(base, targets), Encoder(base.processor, base.dtype)
    whole = clipped_sum(model, encoder, patients, rule, micro_batch_patients=4)

    for index in range(len(patients)):
        others = patients[:index] + patients[index + 1 :]
        without = clipped_sum(model, encoder, others, rule, micro_batch_patients=4)
        assert np.linalg.norm(whole.total - without.total) <= whole.sensitivity * (1 + 1e-5)


def test_the_size_of_a_micro_batch_does_not_change_the_sum(base: Base, patients: list[list[Example]]) -> None:
    model, encoder = trainable(base), Encoder(base.processor, base.dtype)
    sums = [clipped_sum(model, encoder, patients, AutoS(), micro_batch_patients=size).total for size in (1, 4, 6)]

    assert np.linalg.norm(sums[0] - sums[2]) <= 1e-5 * np.linalg.norm(sums[2])
    assert np.linalg.norm(sums[1] - sums[2]) <= 1e-5 * np.linalg.norm(sums[2])


def test_an_empty_draw_is_a_zero_sum(base: Base) -> None:
    model = trainable(base)
    nothing = clipped_sum(model, Encoder(base.processor, base.dtype), [], AutoS(), micro_batch_patients=4)

    assert not nothing.total.any() and nothing.total.shape == (model.gradients.size,)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e38])
def test_a_patient_with_broken_pixels_counts_as_zero_and_spoils_nobody(
    base: Base, patients: list[list[Example]], bad: float
) -> None:
    model, encoder = trainable(base), Encoder(base.processor, base.dtype)
    encoded = [encoder.encode(item.pictures, item.turns) for item in (patients[0][0], patients[1][0])]
    good = batch_gradients(model, encoder.collate(encoded[:1], [0], device=model.device), torch.ones(1), 1)
    encoded[1].vision["pixel_values"][0, 0, 5, 5] = bad
    both = batch_gradients(model, encoder.collate(encoded, [0, 1], device=model.device), torch.ones(2), 2)

    assert torch.allclose(both[0], good[0], rtol=1e-4, atol=1e-7)
    assert not bool(torch.isfinite(both[1]).all()) or bad == 1e38
    assert mechanism(AutoS()).clipping.factors(np.array([float(both[1].norm())]))[0] >= 0.0


@pytest.mark.parametrize("rule", [FlatClipping(1.0), FlatClipping(1e-6), AutoS()])
def test_a_gradient_near_the_largest_number_is_shortened_like_any_other(rule: FlatClipping | AutoS) -> None:
    """Its factor is below the normal float32 numbers, where digits are lost: in float32 it would be 1e-4 too long."""
    huge = torch.full((1, 100_000), 3e38)
    total = torch.zeros(100_000, dtype=torch.float64)
    add_clipped(total, huge, rule)

    assert 0.99 * rule.sensitivity <= float(total.norm()) <= rule.sensitivity * (1 + 1e-12)


def test_the_sum_of_very_many_patients_still_moves_by_one_of_them() -> None:
    """In float32 the sum of 3e5 alike would be rounded by hundredths of the clipping norm with every patient."""
    alike = torch.ones(1000, 64)
    total = torch.zeros(64, dtype=torch.float64)
    for _ in range(300):
        add_clipped(total, alike, FlatClipping(1.0))
    before = total.clone()
    add_clipped(total, alike[:1], FlatClipping(1.0))

    assert float(before.norm()) == pytest.approx(3e5, rel=1e-6)
    assert float((total - before).norm()) == pytest.approx(1.0, rel=1e-7)


def test_only_the_trained_factor_has_a_gradient(base: Base, patients: list[list[Example]]) -> None:
    model = trainable(base, ("attention",), frozenset({"B"}))
    patient_gradients(model, Encoder(base.processor, base.dtype), patients[:2])

    assert all(name.endswith("lora_B.weight") for name in model.trained_names())
    assert not model.gradients.leaves_without_gradient()


def test_checkpointing_counts_each_block_once(fresh_base: Base, patients: list[list[Example]]) -> None:
    base = fresh_base
    model, encoder = trainable(base), Encoder(base.processor, base.dtype)
    plain = patient_gradients(model, encoder, patients[:3])
    base.model.activation_checkpointing_enable({"use_reentrant": False})
    base.model.train()  # transformers checkpoints in training mode only; the base has no dropout
    saved = patient_gradients(model, encoder, patients[:3])

    assert torch.allclose(plain, saved, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("extra", [{"bias": "lora_only"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_anything_trainable_without_a_rule_is_refused_by_name(fresh_base: Base, extra: dict[str, object]) -> None:
    config = LoraConfig(r=2, target_modules=r".*vision_model.*q_proj", **extra)  # type: ignore[arg-type]
    model = get_peft_model(fresh_base.model, config)  # type: ignore[arg-type]
    kinds = {name: "tile" for name, module in model.named_modules() if ".lora_" in name and name.endswith(".default")}
    leaves = {name: kind for name, kind in kinds.items() if isinstance(model.get_submodule(name), nn.Linear)}

    with pytest.raises(ModelError, match="is trainable but has no rule") as caught:
        PatientGradients(model, leaves)  # type: ignore[arg-type]
    assert caught.value.code == "adapter-trainable"


def test_rows_that_do_not_divide_among_the_patients_are_refused(base: Base, patients: list[list[Example]]) -> None:
    model, encoder = trainable(base, ("shared_expert",)), Encoder(base.processor, base.dtype)
    encoded = [encoder.encode(item.pictures, item.turns) for item in (patients[0][0], patients[2][0])]
    batch = encoder.collate(encoded, [0, 1], device=model.device)
    wrong = Owners(3, torch.tensor([0, 1, 2] * 7), batch.tile_owner)

    with pytest.raises(ModelError, match="do not divide"), model.gradients.patients(wrong):
        answer_loss(model.model(**batch.inputs).logits, batch).sum().backward()


def test_a_row_made_of_neighbours_belongs_to_their_one_owner() -> None:
    """As in projectors that join patches: (patches, width) in, (patches / 2, 2 width) through the layer."""
    layer = nn.Sequential(nn.Linear(6, 2, bias=False))
    gradients = PatientGradients(layer, {"0": "tile"})
    rows = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    with gradients.patients(Owners(2, torch.empty(0), torch.tensor([1, 1, 0, 0, 1, 1]))) as found:
        layer(rows).sum().backward()

    assert torch.allclose(found[0], rows[1].repeat(2)) and torch.allclose(found[1], (rows[0] + rows[2]).repeat(2))
    shared = Owners(2, torch.empty(0), torch.tensor([1, 1, 0, 1, 1, 1]))
    with pytest.raises(ModelError, match="do not divide"), gradients.patients(shared):
        layer(rows).sum().backward()


class Poisoned(Encoder):
    """The site's encoder, but a picture whose first pixel is 255 or 254 becomes one with a NaN or an infinity in it."""

    def encode(self, pictures, turns, **options):  # type: ignore[no-untyped-def]
        encoded = super().encode(pictures, turns, **options)
        for picture in pictures:
            if picture.flat[0] >= 254:
                encoded.vision["pixel_values"].view(-1)[7] = float("nan" if picture.flat[0] == 255 else "inf")
        return encoded


def patient(name: str, *, pictures: int, examples: int, side: int) -> list[Example]:
    """Made examples of one patient; `side` above one tile makes several tiles."""
    rng = np.random.default_rng(list(name.encode()))
    said = (("Is there a cavity?", "No."), ("Describe the findings.", "A small nodule on the left."))
    return [
        Example(
            name,
            tuple(rng.integers(0, 250, (side, side), dtype=np.uint8) for _ in range(pictures)),
            said[: 1 + int(rng.integers(2))],
        )
        for _ in range(examples)
    ]


def drawn(rng: np.random.Generator, count: int) -> list[list[Example]]:
    """Patients as they come: some without an example, with two pictures, broken pixels, or a copy of another."""
    made: list[list[Example]] = []
    for number in range(count):
        if made and rng.random() < 0.2:
            made.append(made[int(rng.integers(len(made)))])
            continue
        examples = patient(f"{number}-{rng.integers(1000)}", pictures=int(rng.integers(1, 3)),
                           examples=int(rng.integers(0, 3)), side=int(rng.choice([60, 120, 200])))  # fmt: skip
        for example in examples:
            example.pictures[0].flat[0] = rng.choice([0, 100, 254, 255], p=[0.3, 0.3, 0.2, 0.2])
        made.append(examples)
    return made


def audit(base: Base, seed: int) -> float:
    """One random adapter, rule, micro-batch and draw: the furthest that one patient moves the sum, in sensitivities."""
    rng = np.random.default_rng(seed)
    targets = tuple(sorted(rng.choice(TARGETS, int(rng.integers(1, len(TARGETS) + 1)), replace=False).tolist()))
    factors = [BOTH, frozenset({"A"}), frozenset({"B"})][int(rng.integers(3))]
    spec = AdapterSpec(rank=int(rng.integers(1, 9)), alpha=8.0, targets=targets, factors=factors)
    model = base.with_adapter(spec)
    model.write_trained(rng.normal(0, 0.3, model.gradients.size).astype(np.float32))
    encoder = Poisoned(base.processor, base.dtype)
    rules = (AutoS(), AutoS(radius=3.0, gamma=1e-3), FlatClipping(1e-3), FlatClipping(10.0))
    rule, patients = rules[int(rng.integers(4))], drawn(rng, int(rng.integers(0, 5)))
    size = int(rng.integers(1, 6))
    whole = clipped_sum(model, encoder, patients, rule, micro_batch_patients=size)
    assert np.isfinite(whole.total).all()
    moved = [
        np.linalg.norm(
            whole.total
            - clipped_sum(model, encoder, patients[:gone] + patients[gone + 1 :], rule, micro_batch_patients=size).total
        )
        for gone in range(len(patients))
    ]
    return max(moved, default=0.0) / whole.sensitivity


def test_in_random_adapters_and_draws_nobody_moves_the_sum_by_more_than_the_sensitivity(base: Base) -> None:
    for seed in range(6):
        assert audit(base, seed) <= 1 + 1e-5, f"seed {seed}"


@pytest.mark.slow
def test_in_sixty_random_models_adapters_and_draws_too(tmp_path: Path) -> None:
    """Ten bases of random depth, width and weights, with six adapters and draws on each."""
    for number in range(10):
        torch.manual_seed(100 + number)
        rng = np.random.default_rng(number)
        folder = tmp_path / str(number)
        tokenizer = make_tokenizer(public_text(rng, 50))
        layers = int(rng.integers(1, 4))
        made = make_model(tokenizer, text_layers=layers, vision_layers=layers, width=int(rng.choice([32, 64, 96])))
        made.save_pretrained(folder)
        pictures = Llama4ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=int(rng.choice([1, 4])))
        Llama4Processor(pictures, tokenizer, patch_size=PATCH, pixel_shuffle_ratio=0.5).save_pretrained(folder)
        base = load_base(folder, sha256=None, family="llama4", device=Device())
        for seed in range(6):
            assert audit(base, 1000 * number + seed) <= 1 + 1e-5, f"model {number}, seed {seed}"
