"""The adapter as PEFT reads it."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.training import torchvision_door
from federation.adapter import initial_adapter
from federation.errors import StoreError
from server.export import export_adapter

SHAPES = {
    "model.layers.0.self_attn.q_proj.lora_A.weight": (2, 6),
    "model.layers.0.self_attn.q_proj.lora_B.weight": (4, 2),
    "vision.layers.0.fc.lora_A.weight": (2, 5),
    "vision.layers.0.fc.lora_B.weight": (3, 2),
}
ADAPTER = initial_adapter(SHAPES, a_init="orthonormal", seed=1)


def test_names_and_numbers_are_those_of_the_adapter(tmp_path):
    export_adapter(tmp_path / "adapter", ADAPTER, base_model="base", rank=2, alpha=4.0, origin={"run_id": "run-1"})
    arrays = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    origin = json.loads((tmp_path / "adapter" / "origin.json").read_text())

    assert set(arrays) == {"base_model.model." + name for name in SHAPES}
    for name, array in ADAPTER.arrays.items():
        np.testing.assert_array_equal(arrays["base_model.model." + name], array)
    assert config["target_modules"] == ["model.layers.0.self_attn.q_proj", "vision.layers.0.fc"]
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    assert origin == {"run_id": "run-1", "adapter_digest": ADAPTER.digest()}


def test_an_occupied_folder_is_left_alone(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(StoreError) as caught:
        export_adapter(tmp_path, ADAPTER, base_model="base", rank=2, alpha=4.0)

    assert caught.value.code == "output-exists" and [path.name for path in tmp_path.iterdir()] == ["note"]


@pytest.mark.slow  # imports torch, transformers and peft
@pytest.mark.filterwarnings("ignore")  # torch's and peft's own deprecations
def test_peft_loads_it_and_computes_the_same_product(tmp_path):
    torch = pytest.importorskip("torch")
    torchvision_door.open_torchvision()
    peft = pytest.importorskip("peft")

    class Base(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Layer()])})
            self.vision = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(5, 3)})

        def forward(self, x):
            return self.model["layers"][0].self_attn["q_proj"](x)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(6, 4)})

    a, b = list(SHAPES)[:2]
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(2 * 6 + 4 * 2).astype(np.float32)
    adapter = initial_adapter({a: SHAPES[a], b: SHAPES[b]}, a_init="kaiming", seed=1).unflatten(vector)
    export_adapter(tmp_path / "adapter", adapter, base_model="base", rank=2, alpha=8.0)
    base = Base()
    x = torch.randn(3, 6)
    plain = base(x).detach()
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    expected = plain.numpy() + 8.0 / 2 * x.numpy() @ adapter.arrays[a].T @ adapter.arrays[b].T

    np.testing.assert_allclose(model(x).detach().numpy(), expected, atol=1e-5)
    assert type(model.base_model.model.vision["q_proj"]) is torch.nn.Linear  # the same last name, not caught
