"""The journey of the data: from the patients of one hospital to one noisy adapter update.

    for every step:   draw patients -> choose their examples -> one clipped gradient each -> one sum -> noise once
                      -> divide by a public constant -> optimiser
    at the end:       adapter after minus adapter before

Where the sites share the noise (`noisy_share`) there is one step, which they take together: the gradients are added in
whole units, the noise is this site's share, and dividing and moving the adapter is left to the masked sum.

The ledger was charged for all of it before this file runs (client/site.py). Nothing in here logs, prints or keeps
anything that was computed from data; losses, norms and counts live and die within a step. Abadi et al. 2016,
Algorithm 1, with the patient as the unit; what is private about it is stated in federation/privacy/mechanism.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.examples import Batch, Encoded, Encoder, Example, answer_loss
from client.training.model import TrainableModel
from federation.adapter import Adapter, AdapterUpdate
from federation.errors import DataError
from federation.plan import RunPlan
from federation.privacy import grid
from federation.privacy.clipping import AutoS, BoundedSum, FlatClipping, clipping_rule
from federation.privacy.grid import WholeSum
from federation.privacy.keystream import KeySource, KeyStream
from federation.privacy.mechanism import Mechanism, NoisyShare
from federation.privacy.optimizer import Adam, DpAdamBC, Sgd
from federation.privacy.sampling import PoissonSampling

Vector = NDArray[np.float32]
Optimizer = Sgd | Adam | DpAdamBC
T = TypeVar("T")


class Patients(Protocol):
    """Where a patient's examples come from: the site's store."""

    def patients(self) -> Sequence[str]: ...

    def examples(self, patient_key: str) -> Sequence[Example]: ...


@dataclass(frozen=True)
class Work:
    """What one training pass needs besides data: numbers of the plan, and the site's public patient count."""

    sampling_rate: float
    local_steps: int
    examples_per_patient: int
    turns_per_example: int
    micro_batch_patients: int
    learning_rate: float
    optimizer: str
    declared_patients: int
    clipping: FlatClipping | AutoS = AutoS()

    @staticmethod
    def of(plan: RunPlan, declared_patients: int) -> "Work":
        training = plan.training
        return Work(
            training.sampling_rate,
            training.local_steps,
            training.examples_per_patient,
            training.turns_per_example,
            training.micro_batch_patients,
            training.learning_rate,
            training.optimizer,
            declared_patients,
            clipping_rule(plan.privacy.clipping, plan.privacy.clipping_norm),
        )


def train(
    model: TrainableModel,
    start: Adapter,
    data: Patients,
    cohort: Sequence[str],
    work: Work,
    mechanism: Mechanism | None,
    keys: KeySource,
    *,
    label: str,
) -> AdapterUpdate:
    """Train from `start` for `work.local_steps` steps and return what changed, in the trained factors only.

    `mechanism=None` is training without privacy: the same path, and the same clipping, so that every patient has one
    voice, but no noise and the drawn patients as the divisor. Only a site whose policy allows it ever calls it so.
    """
    if not cohort:
        raise DataError("too-few-patients", "the site has no patients to train on", hint="ingest and release studies")
    encoder = Encoder(model.base.processor, model.base.dtype)
    sampling = mechanism.sampling if mechanism else PoissonSampling(work.sampling_rate)  # the one that is charged
    clipping = mechanism.clipping if mechanism else work.clipping
    optimizer = _optimizer(work, mechanism)
    model.load(start)
    vector = model.read_trained()
    for step in range(work.local_steps):
        draws = KeyStream(keys.key(f"{label}/draw/{step}"))
        drawn = sampling.draw(cohort, draws)
        chosen = [_choose(data.examples(patient), work, draws) for patient in drawn]

        bounded = clipped_sum(model, encoder, chosen, clipping, micro_batch_patients=work.micro_batch_patients)
        if mechanism is None:
            gradient = (bounded.total / max(1, len(drawn))).astype(np.float32)
        else:
            noisy = mechanism.add_noise(bounded, KeyStream(keys.key(f"{label}/noise/{step}")))
            gradient = noisy.mean(mechanism.divisor(work.declared_patients))

        vector = optimizer.step(vector, gradient)
        model.write_trained(vector)
    names = set(model.trained_names())
    before = {name: array for name, array in start.arrays.items() if name in names}
    return AdapterUpdate({name: after - before[name] for name, after in model.named(vector).items()})


def noisy_share(
    model: TrainableModel,
    start: Adapter,
    data: Patients,
    cohort: Sequence[str],
    work: Work,
    mechanism: Mechanism,
    keys: KeySource,
    *,
    label: str,
) -> NoisyShare:
    """This site's part of one step from `start`: its drawn patients' gradients and its share of the noise, in units.

    The words are in the order of the sorted names of the trained matrices, as all sites add them.
    """
    if not cohort:
        raise DataError("too-few-patients", "the site has no patients to train on", hint="ingest and release studies")
    encoder = Encoder(model.base.processor, model.base.dtype)
    model.load(start)
    draws = KeyStream(keys.key(f"{label}/draw/0"))
    drawn = mechanism.sampling.draw(cohort, draws)
    chosen = [_choose(data.examples(patient), work, draws) for patient in drawn]

    total = np.zeros(model.gradients.size, np.int64)
    for start_at in range(0, len(chosen), work.micro_batch_patients):
        gradients = patient_gradients(model, encoder, chosen[start_at : start_at + work.micro_batch_patients])
        add_whole(total, gradients, mechanism.clipping, bits=mechanism.grid_bits)
    whole = WholeSum(model.in_order_of_names(total), mechanism.grid_bits)
    return mechanism.add_share(whole, KeyStream(keys.key(f"{label}/noise/0")))


def clipped_sum(
    model: TrainableModel,
    encoder: Encoder,
    drawn: Sequence[Sequence[Example]],
    clipping: FlatClipping | AutoS,
    *,
    micro_batch_patients: int,
) -> BoundedSum:
    """Sum of the drawn patients' gradients, each scaled to at most the sensitivity of the clipping.

    Guarantees: for two draws that differ in one patient, ||S - S'|| <= sensitivity (1 + 1e-5), in any micro-batches.

    | edge case                                 | result                                       |
    |-------------------------------------------|----------------------------------------------|
    | nobody drawn                              | zeros; the model is not run                  |
    | a patient's gradient has NaN or inf       | replaced by zeros before the sum             |
    | an example that the processor cannot take | counts as absent                             |
    | a patient with more examples than allowed | `_choose` took some before this was called   |
    """
    total = torch.zeros(model.gradients.size, dtype=torch.float64, device=model.device)
    for start in range(0, len(drawn), micro_batch_patients):
        add_clipped(total, patient_gradients(model, encoder, drawn[start : start + micro_batch_patients]), clipping)
    return BoundedSum(total.cpu().numpy(), clipping.sensitivity)


def add_clipped(total: torch.Tensor, gradients: torch.Tensor, clipping: FlatClipping | AutoS) -> None:
    """Add each patient's row, scaled, to the float64 `total`; a row whose norm is not finite is left out.

    Left out, not multiplied by its factor of 0: 0 * inf is NaN. In float64, so that neither the product of a tiny
    factor nor the sum of many patients is rounded by more than the bound allows.
    """
    norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).cpu().numpy()
    for row, factor in zip(gradients, clipping.factors(norms).tolist(), strict=True):
        if factor > 0.0:
            total.add_(row, alpha=factor)


def add_whole(total: NDArray[np.int64], gradients: torch.Tensor, clipping: FlatClipping | AutoS, *, bits: int) -> None:
    """Add each patient's row, scaled and cut to whole units, to `total`; a row whose norm is not finite is left out."""
    norms = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).cpu().numpy()
    for row, factor in zip(gradients.cpu().numpy(), clipping.factors(norms).tolist(), strict=True):
        total += grid.whole(row, factor, sensitivity=clipping.sensitivity, bits=bits)


def patient_gradients(model: TrainableModel, encoder: Encoder, drawn: Sequence[Sequence[Example]]) -> torch.Tensor:
    """Each patient's gradient of the mean loss over their examples. float32 (patients, trained numbers).

    An example that the processor cannot take counts as absent: stopping there would tell who is in the draw.
    """
    readable = [[item for example in examples if (item := _encoded(encoder, example))] for examples in drawn]
    if not any(readable):
        return torch.zeros(len(drawn), model.gradients.size, dtype=torch.float32, device=model.device)
    owner = [index for index, items in enumerate(readable) for _ in items]
    share = torch.tensor([1.0 / len(readable[index]) for index in owner], device=model.device)
    batch = encoder.collate([item for items in readable for item in items], owner, device=model.device)
    return batch_gradients(model, batch, share, len(drawn))


def _encoded(encoder: Encoder, example: Example) -> Encoded | None:
    try:
        return encoder.encode(example.pictures, example.turns)
    except Exception:  # whatever a processor makes of an odd picture or text
        return None


def batch_gradients(model: TrainableModel, batch: Batch, share: torch.Tensor, patients: int) -> torch.Tensor:
    """The same for a batch that is already collated; `share` weighs its sequences, (sequences,)."""
    with model.gradients.patients(batch.owners(patients)) as gradients:
        logits = model.model(**batch.inputs, use_cache=False).logits
        loss = (answer_loss(logits, batch) * share).sum()
        if loss.requires_grad:  # not where only vision layers are trained and nobody in the batch has a picture
            loss.backward()
    return gradients


def _choose(examples: Sequence[Example], work: Work, stream: KeyStream) -> list[Example]:
    """Some of a patient's examples, and of each some of its turns, at random and without a look at other patients."""
    chosen = []
    for example in _some(examples, work.examples_per_patient, stream):
        turns = _some(example.turns, work.turns_per_example or len(example.turns), stream)
        chosen.append(Example(example.patient_key, example.pictures, tuple(turns)))
    return chosen


def _some(items: Sequence[T], most: int, stream: KeyStream) -> list[T]:
    """At most `most` of them, in their order."""
    if len(items) <= most:
        return list(items)
    order = np.argsort(stream.uniform(len(items)), kind="stable")
    return [items[index] for index in sorted(order[:most])]


def _optimizer(work: Work, mechanism: Mechanism | None) -> Optimizer:
    if work.optimizer == "sgd":
        return Sgd(work.learning_rate, momentum=0.0)
    if work.optimizer == "adam" or mechanism is None:
        return Adam(work.learning_rate)
    noise_std = mechanism.noise_std / mechanism.divisor(work.declared_patients)
    return DpAdamBC(work.learning_rate, noise_std=noise_std)
