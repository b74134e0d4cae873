"""The journey of the data, without noise against plain training and with noise against the mechanism's own words."""

import client.training  # noqa: F401  isort: skip
import hashlib
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch

from client.training.examples import Encoder, Example, answer_loss
from client.training.model import AdapterSpec, Base, TrainableModel
from client.training.train import Work, clipped_sum, noisy_share, patient_gradients, train
from federation import codec
from federation.adapter import Adapter, AdapterUpdate, initial_adapter
from federation.errors import DataError
from federation.privacy.accounting import SharedNoise
from federation.privacy.clipping import AutoS, FlatClipping
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.noise import discrete_gaussian, gaussian
from federation.privacy.sampling import PoissonSampling

TARGETS = ("attention", "vision_mlp")
PLAIN = Work(
    sampling_rate=1.0, local_steps=1, examples_per_patient=9, turns_per_example=0, micro_batch_patients=4,
    learning_rate=0.5, optimizer="sgd", declared_patients=5,
)  # fmt: skip


class Keys:
    """A key for every label, always the same, and the labels that were asked for."""

    def __init__(self, seed: str = "") -> None:
        self.seed = seed
        self.labels: list[str] = []

    def key(self, label: str) -> bytes:
        self.labels.append(label)
        return hashlib.sha256(f"{self.seed} {label}".encode()).digest()


class Made:
    """Patients by their keys, as a store would give them, and who was asked for."""

    def __init__(self, of: Mapping[str, Sequence[Example]]) -> None:
        self.of = dict(of)
        self.asked: list[str] = []

    def patients(self) -> list[str]:
        return sorted(self.of)

    def examples(self, patient_key: str) -> Sequence[Example]:
        self.asked.append(patient_key)
        return self.of[patient_key]


@pytest.fixture
def data(patients: list[list[Example]]) -> Made:
    return Made({f"{index:032x}": examples for index, examples in enumerate(patients)})


@pytest.fixture
def model(base: Base) -> TrainableModel:
    return base.with_adapter(AdapterSpec(2, 4.0, TARGETS, frozenset({"A", "B"})))


def started(model: TrainableModel) -> Adapter:
    """An adapter whose B is not zero, so that both factors learn."""
    rng = np.random.default_rng(2)
    return Adapter({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in model.shapes().items()})


def run(
    model: TrainableModel, data: Made, mechanism: Mechanism | None = None, *, keys: Keys | None = None,
    label: str = "run/1", start: Adapter | None = None, **changed: object,
) -> AdapterUpdate:  # fmt: skip
    work = Work(**(vars(PLAIN) | changed))
    begin = start or started(model)
    return train(model, begin, data, data.patients(), work, mechanism, keys or Keys(), label=label)


def flat(update: AdapterUpdate, model: TrainableModel) -> np.ndarray:
    return np.concatenate([update.arrays[name].reshape(-1) for name in model.trained_names()])


# --- without privacy ----------------------------------------------------------------------------------------------


def test_one_full_step_is_plain_gradient_descent(base: Base, model: TrainableModel, data: Made) -> None:
    """Mean over the patients of the mean over each one's examples, as torch itself computes it in one pass.

    The clipping norm is out of everybody's reach here.
    """
    update = run(model, data, clipping=FlatClipping(1e6))

    start = started(model)
    model.load(start)
    encoder = Encoder(base.processor, base.dtype)
    loss = torch.zeros(())
    for examples in data.of.values():
        for example in examples:
            batch = encoder.collate([encoder.encode(example.pictures, example.turns)], [0], device=torch.device("cpu"))
            loss = loss + answer_loss(model.model(**batch.inputs).logits, batch).sum() / len(examples) / len(data.of)
    weights = [leaf.weight for leaf in model.gradients.leaves.values()]
    plain = torch.cat([-0.5 * gradient.reshape(-1) for gradient in torch.autograd.grad(loss, weights)]).numpy()
    assert np.linalg.norm(flat(update, model) - plain) <= 1e-5 * np.linalg.norm(plain)


def test_one_patient_is_one_voice_also_without_privacy(model: TrainableModel, data: Made) -> None:
    small = flat(run(model, data, clipping=AutoS(radius=0.5), learning_rate=1.0, local_steps=1), model)
    large = flat(run(model, data, clipping=AutoS(radius=1.0), learning_rate=1.0, local_steps=1), model)

    assert 0 < np.linalg.norm(large) <= 1.0
    np.testing.assert_allclose(large, 2 * small, rtol=1e-4, atol=1e-6)


def test_several_steps_learn(model: TrainableModel, data: Made) -> None:
    def loss(adapter: Adapter) -> float:
        model.load(adapter)
        encoder = Encoder(model.base.processor, model.base.dtype)
        items = [encoder.encode(item.pictures, item.turns) for patient in data.of.values() for item in patient]
        batch = encoder.collate(items, [0] * len(items), device=torch.device("cpu"))
        with torch.no_grad():
            return float(answer_loss(model.model(**batch.inputs).logits, batch).mean())

    start = started(model)
    update = run(model, data, local_steps=4, optimizer="adam", learning_rate=0.02)
    assert loss(start.plus(update)) < loss(start) - 0.05


# --- randomness ---------------------------------------------------------------------------------------------------

NOISY = Mechanism(PoissonSampling(0.5), AutoS(), 1.0)


def test_the_same_keys_give_the_same_bytes(model: TrainableModel, data: Made) -> None:
    once = codec.dump(run(model, data, NOISY, local_steps=2))

    assert codec.dump(run(model, data, NOISY, local_steps=2)) == once
    assert codec.dump(run(model, data, NOISY, local_steps=2, label="run/2")) != once
    assert codec.dump(run(model, data, NOISY, local_steps=2, keys=Keys("other"))) != once


def test_every_step_draws_and_makes_noise_once_from_streams_of_its_own(model: TrainableModel, data: Made) -> None:
    private, plain = Keys(), Keys()
    run(model, data, NOISY, keys=private, local_steps=2, micro_batch_patients=1)
    run(model, data, None, keys=plain, local_steps=2)

    assert private.labels == ["run/1/draw/0", "run/1/noise/0", "run/1/draw/1", "run/1/noise/1"]
    assert plain.labels == ["run/1/draw/0", "run/1/draw/1"]


def test_the_noise_does_not_grow_with_the_number_of_micro_batches(model: TrainableModel, data: Made) -> None:
    updates = [flat(run(model, data, NOISY, micro_batch_patients=size), model) for size in (1, 2, 6)]

    for other in updates[1:]:
        assert np.linalg.norm(updates[0] - other) <= 1e-4 * np.linalg.norm(other)


def test_a_step_is_the_clipped_sum_of_those_drawn_with_the_mechanisms_noise(model: TrainableModel, data: Made) -> None:
    """The draw is that of the label's stream, the divisor the public one: rate times declared patients."""
    update = flat(run(model, data, NOISY), model)

    keys = Keys()
    drawn = NOISY.sampling.draw(data.patients(), KeyStream(keys.key("run/1/draw/0")))
    model.load(started(model))
    encoder = Encoder(model.base.processor, model.base.dtype)
    bounded = clipped_sum(model, encoder, [data.of[key] for key in drawn], NOISY.clipping, micro_batch_patients=4)
    noisy = NOISY.add_noise(bounded, KeyStream(keys.key("run/1/noise/0")))
    assert 0 < len(drawn) < len(data.of)
    np.testing.assert_allclose(update, -0.5 * noisy.total / (0.5 * 5), rtol=1e-4, atol=1e-5)


SHARING = Mechanism(PoissonSampling(1.0), FlatClipping(0.05), 1.0, SharedNoise(4, 14))


def test_a_share_is_the_whole_sum_with_its_part_of_the_noise_in_the_order_of_an_update(
    model: TrainableModel, data: Made
) -> None:
    begin, keys = started(model), Keys()
    share = noisy_share(model, begin, data, data.patients(), Work(**vars(PLAIN)), SHARING, keys, label="run/1")
    noise = discrete_gaussian(share.words.size, variance=2.0**28 / 4, stream=KeyStream(keys.key("run/1/noise/0")))
    whole = (share.words - noise.astype(np.uint32)).view(np.int32)
    mean = Mechanism(PoissonSampling(1.0), FlatClipping(0.05), 1.0)
    model.load(begin)
    encoder = Encoder(model.base.processor, model.base.dtype)
    chosen = [data.of[key] for key in data.patients()]
    exact = clipped_sum(model, encoder, chosen, mean.clipping, micro_batch_patients=4).total
    ordered = AdapterUpdate(model.named(exact.astype(np.float32))).flatten() * (2.0**14 / 0.05)

    assert keys.labels[:2] == ["run/1/draw/0", "run/1/noise/0"]
    assert np.abs(whole).max() > 100, "there is something to compare"
    np.testing.assert_allclose(whole, ordered, atol=len(chosen) + 1e-3)  # each patient's number was cut by below one


def test_the_shares_of_draws_that_differ_in_one_patient_differ_by_at_most_the_bound(
    model: TrainableModel, data: Made
) -> None:
    begin, work = started(model), Work(**(vars(PLAIN) | {"micro_batch_patients": 1}))
    patients = data.patients()
    one, other = (
        noisy_share(model, begin, data, cohort, work, SHARING, Keys(), label="run/1").words
        for cohort in (patients, patients[1:])
    )
    moved = (one - other).view(np.int32)

    assert 0 < sum(int(number) ** 2 for number in moved) <= 4**14


def test_an_empty_draw_with_privacy_is_noise_alone(model: TrainableModel, data: Made) -> None:
    mechanism = Mechanism(PoissonSampling(1e-6), FlatClipping(0.5), 2.0)
    update = flat(run(model, data, mechanism), model)

    noise = gaussian(np.zeros(model.gradients.size), noise_std=1.0, stream=KeyStream(Keys().key("run/1/noise/0")))
    expected = -0.5 * noise / np.float32(1e-6 * 5)
    assert not data.asked
    np.testing.assert_allclose(update, expected, rtol=1e-4, atol=np.abs(expected).max() * 1e-6)


def test_an_empty_draw_without_privacy_changes_nothing(model: TrainableModel, data: Made) -> None:
    assert not flat(run(model, data, None, sampling_rate=1e-6), model).any()


def test_the_draw_is_made_at_the_rate_that_is_charged(model: TrainableModel, data: Made) -> None:
    """A plan's rate that differs from the mechanism's must not decide who is drawn."""
    run(model, data, Mechanism(PoissonSampling(1e-6), AutoS(), 1.0), sampling_rate=1.0)

    assert not data.asked


# --- what comes out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", ["A", "B"])
def test_only_the_trained_factor_is_in_the_update(base: Base, data: Made, factor: str) -> None:
    model = base.with_adapter(AdapterSpec(2, 4.0, TARGETS, frozenset({factor})))
    start = started(model)
    update = run(model, data, NOISY, start=start)

    assert set(update.arrays) == {name for name in start.arrays if f"lora_{factor}" in name}
    state = dict(model.model.named_parameters())
    for name, array in start.arrays.items():
        now = state[f"base_model.model.{name.removesuffix('.weight')}.default.weight"].detach().numpy()
        assert np.array_equal(now, array) == (name not in update.arrays)


def test_an_update_is_what_was_added_to_the_start(model: TrainableModel, data: Made) -> None:
    start = started(model)
    update = run(model, data, NOISY, local_steps=2)

    after = np.concatenate([start.plus(update).arrays[name].reshape(-1) for name in model.trained_names()])
    np.testing.assert_allclose(after, model.read_trained(), rtol=1e-5, atol=1e-6)


def test_training_begins_at_the_given_adapter_whatever_was_there_before(model: TrainableModel, data: Made) -> None:
    first = run(model, data)
    model.write_trained(np.ones(model.gradients.size, dtype=np.float32))

    assert codec.dump(run(model, data)) == codec.dump(first)


def test_nothing_is_printed_or_logged(
    model: TrainableModel, data: Made, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        run(model, data, NOISY, local_steps=2)

    assert not caplog.records and capfd.readouterr() == ("", "")


# --- patients -----------------------------------------------------------------------------------------------------


def test_a_site_without_patients_is_told_so(model: TrainableModel) -> None:
    with pytest.raises(DataError) as caught:
        run(model, Made({}))

    assert caught.value.code == "too-few-patients"


def test_at_most_the_allowed_examples_of_a_patient_are_used(
    model: TrainableModel, patients: list[list[Example]]
) -> None:
    both = patients[3]
    unclipped = FlatClipping(1e6)
    whole = run(model, Made({"a" * 32: both}), examples_per_patient=2, clipping=unclipped)
    one = run(model, Made({"a" * 32: both}), examples_per_patient=1)
    either = [run(model, Made({"a" * 32: [example]})) for example in both]
    picks = {codec.dump(run(model, Made({"a" * 32: both}), examples_per_patient=1, label=f"run/{n}")) for n in range(8)}

    assert codec.dump(one) in {codec.dump(update) for update in either}
    assert picks == {codec.dump(update) for update in either}  # both get their turn
    each = [flat(run(model, Made({"a" * 32: [example]}), clipping=unclipped), model) for example in both]
    mean = sum(each) / 2
    np.testing.assert_allclose(flat(whole, model), mean, rtol=1e-3, atol=1e-7)


def test_an_example_that_the_processor_cannot_take_counts_as_absent(
    base: Base, model: TrainableModel, patients: list[list[Example]]
) -> None:
    """An exception would tell everybody that this patient was drawn."""
    model.load(started(model))
    encoder = Encoder(base.processor, base.dtype)
    bad = Example("b" * 32, (np.empty((0, 5), dtype=np.uint8),), (("Is there a nodule?", "Yes."),))
    gradients = patient_gradients(model, encoder, [patients[0], [bad], [bad, patients[1][0]]])

    assert torch.allclose(gradients[0], patient_gradients(model, encoder, [patients[0]])[0], rtol=1e-4, atol=1e-7)
    assert not gradients[1].any()
    assert torch.allclose(gradients[2], patient_gradients(model, encoder, [patients[1]])[0], rtol=1e-4, atol=1e-7)
    assert not patient_gradients(model, encoder, [[bad], []]).any()


def test_words_alone_give_vision_layers_a_zero_gradient(base: Base) -> None:
    model = base.with_adapter(AdapterSpec(2, 4.0, ("vision_attention",), frozenset({"A", "B"})))
    told = Example("c" * 32, (), (("Is there a nodule?", "Yes."),))

    assert not flat(run(model, Made({"c" * 32: [told]})), model).any()
    assert np.isfinite(flat(run(model, Made({"c" * 32: [told]}), NOISY), model)).all()


def test_an_optimiser_for_noise_is_told_how_much_there_is(model: TrainableModel, data: Made) -> None:
    """DP-AdamBC subtracts the noise's own variance; without noise the same name means plain Adam."""
    zeros = initial_adapter(model.shapes(), a_init="orthonormal", seed=1)
    corrected = flat(run(model, data, NOISY, optimizer="dp-adambc", start=zeros), model)
    adam = flat(run(model, data, NOISY, optimizer="adam", start=zeros), model)
    plain = [flat(run(model, data, None, optimizer=name, start=zeros), model) for name in ("dp-adambc", "adam")]

    assert not np.allclose(corrected, adam)
    np.testing.assert_array_equal(plain[0], plain[1])
