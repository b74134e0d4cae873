"""Loading a base: what is refused and why. And the checks that an adapted base passes before it sees a patient."""

import client.training  # noqa: F401  isort: skip
import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from client.training.model import AdapterSpec, Base, Device, load_base
from client.training.torchvision_door import open_torchvision
from federation.adapter import Adapter, initial_adapter
from federation.base import base_digest
from federation.errors import ModelError, PinError

B_ONLY = frozenset({"B"})
SPEC = AdapterSpec(2, 4.0, ("attention", "vision_attention", "projector"), frozenset({"A", "B"}))


def load(folder: Path, *, sha256: str | None = None, family: str | None = None, device: Device | None = None) -> Base:
    return load_base(folder, sha256=sha256, family=family, device=device or Device())


@pytest.fixture
def copy(base_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(base_folder, tmp_path / "base"))


# --- loading ------------------------------------------------------------------------------------------------------


def test_an_absent_or_empty_folder_holds_no_model(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ModelError) as caught:
            load(folder)
        assert caught.value.code == "model-absent" and str(tmp_path) not in str(caught.value)


def test_the_digest_covers_every_file_that_is_read(copy: Path) -> None:
    digests = {base_digest(copy)}
    (copy / "README.md").write_text("not read by anybody")
    assert base_digest(copy) in digests

    for path in sorted(copy.glob("*.*")):
        if path.suffix != ".md":
            path.write_bytes(path.read_bytes() + b" ")
            digests.add(base_digest(copy))
    assert len(digests) == 1 + sum(path.suffix != ".md" for path in copy.glob("*.*"))


def test_a_base_is_pinned_by_its_digest(base_folder: Path) -> None:
    digest = base_digest(base_folder)
    with pytest.raises(PinError) as caught:
        load(base_folder, sha256="0" * 64)

    assert caught.value.code == "base-digest" and digest in caught.value.hint
    assert load(base_folder, sha256=digest).digest == digest


def test_another_family_than_the_plans_is_refused(base_folder: Path) -> None:
    with pytest.raises(ModelError, match="family llama4") as caught:
        load(base_folder, family="idefics3")

    assert caught.value.code == "model-family"


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_weights(folder: Path, change: Callable[[dict[str, Tensor], str], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights, next(name for name in sorted(weights) if "q_proj" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "theirs.py").write_text("raise SystemExit('code of a checkpoint was run')\n")


FAULTS: dict[str, Callable[[Path], object]] = {
    "truncated weights": lambda folder: halve(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a weight is missing": lambda folder: change_weights(folder, lambda weights, name: weights.pop(name)),  # type: ignore[arg-type]
    "a weight has another shape": lambda folder: change_weights(
        folder, lambda weights, name: weights.update({name: torch.ones(2, 2)})
    ),
    "pickled weights, which the digest does not cover": as_pickle,
    "truncated config": lambda folder: halve(folder / "config.json"),
    "a model without pictures": lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
    "a family that nobody knows": lambda folder: (folder / "config.json").write_text('{"model_type": "theirs"}'),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "code of its own": with_code,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_checkpoint_is_refused(copy: Path, fault: str) -> None:
    FAULTS[fault](copy)
    with pytest.raises(ModelError) as caught:
        load(copy)

    assert caught.value.code == "model-unreadable" and str(copy) not in f"{caught.value} {caught.value.hint}"


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_four_bit_names_the_package_that_it_needs(base_folder: Path) -> None:
    with pytest.raises(ModelError, match="bitsandbytes") as caught:
        load(base_folder, device=Device(four_bit=True))

    assert caught.value.code == "dependency-missing"


def test_nothing_is_looked_up_in_the_network(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for a file that is missing, and not only because the tests set HF_HUB_OFFLINE."""
    asked: list[object] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address))
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    load(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError):
        load(copy)

    assert not asked


def test_a_loaded_base_is_frozen_and_silent_about_its_folder(base: Base) -> None:
    assert not base.model.training and str(base.folder) not in repr(base)
    assert all(not weight.requires_grad for name, weight in base.model.named_parameters() if "lora" not in name)


# --- adapters -----------------------------------------------------------------------------------------------------


def test_another_adapter_takes_the_first_one_off(fresh_base: Base) -> None:
    before = {name: weight.clone() for name, weight in fresh_base.model.state_dict().items()}
    first = fresh_base.with_adapter(SPEC)
    second = fresh_base.with_adapter(AdapterSpec(3, 3.0, ("shared_expert",), B_ONLY))

    assert fresh_base.with_adapter(AdapterSpec(3, 3.0, ("shared_expert",), B_ONLY)) is second is not first
    assert {shape[0] for name, shape in second.shapes().items() if "lora_A" in name} == {3}
    assert not any("q_proj" in name for name in second.shapes())
    bare = second.detach().state_dict()
    assert set(bare) == set(before) and all(torch.equal(bare[name], before[name]) for name in before)


def test_an_adapter_of_other_shapes_is_refused(base: Base) -> None:
    model = base.with_adapter(SPEC)
    shapes = model.shapes()
    fitting = initial_adapter(shapes, a_init="orthonormal", seed=1)
    model.load(fitting)
    wider = {name: (shape[0], 5) if "lora_B" in name else (5, shape[1]) for name, shape in shapes.items()}
    for wrong in (
        initial_adapter(wider, a_init="orthonormal", seed=1),
        Adapter({name: array for name, array in fitting.arrays.items() if "vision" not in name}),
    ):
        with pytest.raises(ModelError) as caught:
            model.load(wrong)
        assert caught.value.code == "adapter-shape"


def test_a_vector_is_written_and_read_in_one_order(base: Base) -> None:
    model = base.with_adapter(AdapterSpec(2, 4.0, ("attention", "projector"), B_ONLY))
    model.load(initial_adapter(model.shapes(), a_init="orthonormal", seed=1))
    vector = np.arange(model.gradients.size, dtype=np.float32)
    model.write_trained(vector)
    named = model.named(vector)

    assert np.array_equal(model.read_trained(), vector)
    assert list(named) == model.trained_names() and set(named) <= set(model.shapes())
    assert {name: array.shape for name, array in named.items()} == {name: model.shapes()[name] for name in named}
    assert np.array_equal(np.concatenate([array.reshape(-1) for array in named.values()]), vector)


# --- the checks before the first patient ----------------------------------------------------------------------------


@pytest.fixture
def altered(fresh_base: Base) -> Iterator["Alter"]:
    """Changes what one module of the base gives on."""
    handles = []

    def alter(module: str, change: Callable[[Tensor], Tensor]) -> None:
        def made(_: nn.Module, __: object, values: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            return (change(values[0]), *values[1:]) if isinstance(values, tuple) else change(values)

        handles.append(fresh_base.model.get_submodule(module).register_forward_hook(made))

    yield alter
    for handle in handles:
        handle.remove()


Alter = Callable[[str, Callable[[Tensor], Tensor]], None]
NORM = "language_model.model.norm"
TOWER = "vision_model.model.layers"


def refused(base: Base, spec: AdapterSpec = SPEC) -> ModelError:
    with pytest.raises(ModelError) as caught:
        base.with_adapter(spec)
    assert caught.value.code == "model-couples-patients"
    return caught.value


def test_batch_norm_is_refused(fresh_base: Base, altered: Alter) -> None:
    norm = nn.BatchNorm1d(64).train()
    altered(NORM, lambda made: norm(made.transpose(1, 2)).transpose(1, 2))

    assert "loss" in str(refused(fresh_base))


@pytest.mark.parametrize("module", [NORM, f"{TOWER}.0", "multi_modal_projector"])
def test_a_trace_of_the_others_is_refused(fresh_base: Base, altered: Alter, module: str) -> None:
    altered(module, lambda made: made + 0.01 * made.mean(0, keepdim=True))

    assert "depends on who else is in the batch" in str(refused(fresh_base))


def test_rows_in_another_order_than_declared_are_refused(fresh_base: Base, altered: Alter) -> None:
    """The answer and its loss are right; only the gradient would be given to the wrong patient."""
    altered("vision_model.layernorm_pre", lambda made: made.flip(0))
    altered(f"{TOWER}.1", lambda made: made.flip(0))

    assert "gradient of" in str(refused(fresh_base))
    assert fresh_base.with_adapter(AdapterSpec(2, 4.0, ("attention",), B_ONLY))


def test_a_layer_that_the_answer_does_not_depend_on_is_refused(fresh_base: Base, altered: Alter) -> None:
    altered(f"{TOWER}.1", lambda made: made.detach())

    assert "vision_model.model.layers.0" in str(refused(fresh_base))


def test_a_refused_base_is_as_it_was_and_is_refused_again(fresh_base: Base, altered: Alter) -> None:
    before = set(fresh_base.model.state_dict())
    altered(NORM, lambda made: made + 0.01 * made.mean(0, keepdim=True))
    refused(fresh_base)

    assert set(fresh_base.model.state_dict()) == before
    refused(fresh_base)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factors", [{"A"}, {"B"}, {"A", "B"}])
def test_the_checks_leave_the_adapter_as_it_begins(base_folder: Path, dtype: str, factors: set[str]) -> None:
    base = load(base_folder, device=Device(dtype=dtype))
    model = base.with_adapter(AdapterSpec(2, 4.0, ("attention", "vision_mlp"), frozenset(factors)))

    for name, weight in model.model.named_parameters():
        if ".lora_B." in name:
            assert not weight.any() and weight.dtype == torch.float32 and weight.grad is None
        assert weight.requires_grad == any(f".lora_{factor}." in name for factor in factors)


def test_in_bfloat16_the_checks_are_wider_and_still_refuse(base_folder: Path) -> None:
    base = load(base_folder, device=Device(dtype="bfloat16"))
    handle = base.model.get_submodule(NORM).register_forward_hook(lambda _, __, made: made + 0.3 * made.mean(0, True))
    refused(base)
    handle.remove()

    assert base.with_adapter(SPEC)


# --- the torchvision door -----------------------------------------------------------------------------------------


def pretend(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another torchvision in front of the installed one."""
    (folder / "torchvision.py").write_text(source)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


def test_a_torchvision_that_imports_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.library.register_fake
    pretend(tmp_path, "import torch\nseen = torch.library.register_fake\n", monkeypatch)

    assert open_torchvision() is False
    assert sys.modules["torchvision"].seen is original is torch.library.register_fake
    monkeypatch.delitem(sys.modules, "torchvision")


def test_a_torchvision_without_its_operators_is_opened_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.library.register_fake
    pretend(
        tmp_path, "import torch\n@torch.library.register_fake('torchvision::none_such')\ndef fake(): ...\n", monkeypatch
    )

    assert open_torchvision() is True
    assert torch.library.register_fake is original
    monkeypatch.delitem(sys.modules, "torchvision")


def test_another_fault_of_torchvision_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, "raise RuntimeError('the disk is on fire')\n", monkeypatch)
    with pytest.raises(RuntimeError, match="fire"):
        open_torchvision()
