"""Two checks of a model before a patient is shown to it: does it keep the examples of a batch apart?

Per-patient clipping bounds what one patient can do only if a patient's rows come from that patient alone. Batch norm,
experts with a capacity, a loss balanced over the batch, or rows in another order than declared break that, and nothing
later would notice. So every adapted base is tried on made patients first (privacy.md §3, "Other architectures").
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from client.training.examples import Encoder, answer_loss
from client.training.gradients import PatientGradients
from federation.errors import ModelError

LOSS_TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1e-2}
GRADIENT_TOLERANCE = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
MADE = (  # (patient, sides of the pictures, turns): two patients, interleaved, unlike in tiles, pictures and length
    (0, ((64, 48),), 1),
    (1, ((400, 300), (64, 64)), 2),
    (0, ((300, 400),), 3),
)
TURNS = (
    ("Is there a nodule?", "Yes."),
    ("Describe the findings.", "A small nodule on the left."),
    ("Is there a cavity?", "No."),
)


def check_independence(model: nn.Module, gradients: PatientGradients, encoder: Encoder) -> None:
    """Run two made patients together and each alone, and compare.

    Guarantees, up to rounding (relative, in float32; wider in half precision):
        the loss of every example is the same with and without the other patient, 1e-5;
        the gradient of every trained layer of every patient is the same, 1e-4;
        every trained layer has a gradient.
    Raises: ModelError `model-couples-patients`. The adapter's numbers are afterwards what they were before.
    """
    with _filled(model):
        losses, together = _pass(model, gradients, encoder, [0, 1])
        if unreached := gradients.leaves_without_gradient():
            raise _couples(f"{unreached[0]} gets no gradient", "choose other adapter targets for this model family")
        for patient in (0, 1):
            loss, alone = _pass(model, gradients, encoder, [patient])
            mine = [index for index, (owner, _, _) in enumerate(MADE) if owner == patient]
            if not bool((losses[mine] - loss).norm() <= LOSS_TOLERANCE[encoder.dtype] * loss.norm()):
                raise _couples("the loss of an example depends on who else is in the batch", _OTHER_MODEL)
            _compare(gradients, together[patient], alone[0], GRADIENT_TOLERANCE[encoder.dtype])


_OTHER_MODEL = "take a base without batch norm, expert capacity or other ties between the examples of a batch"


def _pass(
    model: nn.Module, gradients: PatientGradients, encoder: Encoder, patients: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Losses (sequences,) and gradients (patients, size) of some of the made patients in one batch."""
    rng = np.random.default_rng(0)
    chosen, owner = [], []
    for patient, sides, turns in MADE:
        pictures = [rng.integers(0, 256, side, dtype=np.uint8) for side in sides]
        if patient in patients:
            chosen.append(encoder.encode(pictures, TURNS[:turns]))
            owner.append(patients.index(patient))
    device = next(iter(gradients.leaves.values())).weight.device
    batch = encoder.collate(chosen, owner, device=device)
    with gradients.patients(batch.owners(len(patients))) as result:
        loss = answer_loss(model(**batch.inputs, use_cache=False).logits, batch)
        if loss.requires_grad:
            loss.sum().backward()
    return loss.detach(), result


def _compare(gradients: PatientGradients, together: Tensor, alone: Tensor, tolerance: float) -> None:
    """Layer by layer: in the whole vector a small layer with somebody else's rows would go unseen."""
    sizes = [leaf.weight.numel() for leaf in gradients.leaves.values()]
    smallest = alone.norm() / 1000  # a layer whose gradient is next to nothing is all rounding
    for name, ours, theirs in zip(gradients.leaves, together.split(sizes), alone.split(sizes), strict=True):
        if not bool((ours - theirs).norm() <= tolerance * torch.maximum(theirs.norm(), smallest)):
            raise _couples(f"one patient's gradient of {name} depends on who else is in the batch", _OTHER_MODEL)


@contextmanager
def _filled(model: nn.Module) -> Iterator[None]:
    """Random numbers in both LoRA factors: with B = 0, as adapters begin, A has no gradient to compare."""
    factors = [weight for name, weight in model.named_parameters() if ".lora_A." in name or ".lora_B." in name]
    kept = [weight.detach().clone() for weight in factors]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in factors:
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3 / weight.shape[1] ** 0.5)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, numbers in zip(factors, kept, strict=True):
                weight.copy_(numbers)


def _couples(message: str, hint: str) -> ModelError:
    return ModelError("model-couples-patients", message, hint=hint)
