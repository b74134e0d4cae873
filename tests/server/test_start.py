"""The first adapter: from the plan alone, or from the base's own weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from federation.adapter import initial_adapter
from federation.base import BaseWeights, base_digest
from federation.errors import ModelError, PinError
from federation.plan import parse_plan
from server.start import first_adapter, seed_of

PLAN = parse_plan("""
[run]
name = "demo"
rounds = 3
[model]
path = "base"
[adapter]
a_init = "svd"
[privacy]
noise_multiplier = 1.0
""")
LAYER = "model.language_model.layers.0.self_attn.q_proj"
SHAPES = {f"{LAYER}.lora_A.weight": (3, 40), f"{LAYER}.lora_B.weight": (30, 3)}
WEIGHT = np.random.default_rng(0).standard_normal((30, 40)) * np.geomspace(1, 0.01, 40)


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    arrays = {
        "language_model.model.layers.0.self_attn.q_proj.weight": WEIGHT.astype(np.float32),
        "vision_model.model.layers.0.self_attn.q_proj.weight": np.ones((4, 4), np.float32),
    }
    save_file(arrays, folder / "model.safetensors")
    return folder


def test_runs_of_one_name_start_alike_whatever_their_plans_say():
    other = replace(PLAN, training=replace(PLAN.training, learning_rate=PLAN.training.learning_rate * 2))
    renamed = replace(PLAN, run=replace(PLAN.run, name="another"))

    assert seed_of(other) == seed_of(PLAN) != seed_of(renamed)


def test_without_svd_the_start_is_that_of_the_runs_seed():
    plan = replace(PLAN, adapter=replace(PLAN.adapter, a_init="orthonormal"))
    expected = initial_adapter(SHAPES, a_init="orthonormal", seed=seed_of(plan))

    assert first_adapter(plan, SHAPES, None, set()).digest() == expected.digest()


def test_svd_starts_a_in_the_strongest_directions_of_the_frozen_weight(base):
    made = first_adapter(PLAN, SHAPES, base, {base_digest(base)})
    a = made.arrays[f"{LAYER}.lora_A.weight"]
    _, _, vh = np.linalg.svd(WEIGHT)

    np.testing.assert_allclose(np.abs(np.sum(a * vh[:3], axis=1)), 1, atol=1e-4)
    np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-6)
    assert not made.arrays[f"{LAYER}.lora_B.weight"].any()


def test_svd_gives_the_same_bits_again(base):
    made = [first_adapter(PLAN, SHAPES, base, {base_digest(base)}).digest() for _ in range(2)]

    assert made[0] == made[1]


def test_svd_without_the_sites_own_base_is_refused(base):
    with pytest.raises(ModelError) as absent:
        first_adapter(PLAN, SHAPES, None, {base_digest(base)})
    with pytest.raises(PinError) as other:
        first_adapter(PLAN, SHAPES, base, {"00" * 32})

    assert absent.value.code == "model-absent" and other.value.code == "base-digest"


def test_svd_of_more_directions_than_there_are_is_refused(base):
    wide = {name: (31, 40) if "lora_A" in name else (30, 31) for name in SHAPES}
    with pytest.raises(ModelError) as caught:
        first_adapter(PLAN, wide, base, {base_digest(base)})
    assert caught.value.code == "adapter-shape"


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_a_weight_is_read_as_it_was_written(tmp_path, kind):
    matrix = np.array([[1.5, -2.0, 0.25], [0.0, 3.0, -0.5]], np.float32)  # exact in all three
    raw = {
        "F32": matrix.tobytes(),
        "F16": matrix.astype(np.float16).tobytes(),
        "BF16": (matrix.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
    }[kind]
    head = json.dumps({"a.weight": {"dtype": kind, "shape": [2, 3], "data_offsets": [0, len(raw)]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + raw)

    np.testing.assert_array_equal(BaseWeights(tmp_path).of("a"), matrix)


def test_a_layer_that_the_files_do_not_name_or_name_twice_is_refused(base):
    weights = BaseWeights(base)
    for layer in ("model.language_model.layers.1.self_attn.q_proj", "layers.0.self_attn.q_proj"):
        with pytest.raises(ModelError):
            weights.of(layer)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 20, (5).to_bytes(8, "little") + b"{nope"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(ModelError) as caught:
        BaseWeights(tmp_path)
    assert caught.value.code == "model-unreadable"
