"""The base model and its adapter: loaded from a local folder, pinned by digest, wrapped for per-patient gradients.

Any checkpoint that transformers can open as `AutoModelForImageTextToText` is a base, with its own processor. Nothing is
ever fetched (`local_files_only`), and code that comes with a checkpoint is not run. The base stays frozen; routed
experts and router are never trained, because their noise would swamp the rest (privacy.md §3).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from client.training.checks import check_independence
from client.training.examples import Encoder
from client.training.gradients import PatientGradients, RowKind
from federation.adapter import Adapter, Factor
from federation.base import base_digest
from federation.errors import FedError, ModelError, PinError
from federation.plan import RunPlan

TARGETS = ("attention", "shared_expert", "vision_attention", "vision_mlp", "projector")
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Device:
    """Where and in which type the model runs. Public settings of the site."""

    name: str = "cpu"
    dtype: str = "float32"
    four_bit: bool = False
    threads: int = 0

    @staticmethod
    def choose(name: str = "auto", *, four_bit: bool = False, threads: int = 0) -> "Device":
        """The GPU if there is one; bfloat16 where the device computes in it natively."""
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        native = name.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
        return Device(name, "bfloat16" if native else "float32", four_bit, threads)


class Base:
    """A frozen vision-language model and its processor. It carries at most one adapter at a time."""

    def __init__(self, model: nn.Module, processor: Any, *, digest: str, family: str, folder: Path) -> None:
        self.model = model
        self.processor = processor
        self.digest = digest
        self.family = family
        self.folder = folder
        self._adapted: tuple[AdapterSpec, TrainableModel] | None = None
        self._checked: set[AdapterSpec] = set()
        self._shapes: dict[AdapterSpec, dict[str, tuple[int, ...]]] = {}

    def with_adapter(self, spec: "AdapterSpec") -> "TrainableModel":
        """The base with the layers of an adapter, whose numbers are whatever was last put there.

        Asked again for the same layers, it gives the same object; for others, the old ones are taken off first. New
        layers are tried on made patients (checks.py). Raises: ModelError `model-couples-patients`.
        """
        if self._adapted is not None and self._adapted[0] == spec:
            return self._adapted[1]
        if self._adapted is not None:
            self.model = self._adapted[1].detach()
            self._adapted = None
        model = TrainableModel(self, spec)
        if not any(spec.within(tried) for tried in self._checked):
            try:
                check_independence(model.model, model.gradients, Encoder(self.processor, self.dtype))
            except BaseException:
                self.model = model.detach()
                raise
            self._checked.add(spec)
        self._adapted = (spec, model)
        return model

    def adapter_shapes(self, spec: "AdapterSpec") -> dict[str, tuple[int, ...]]:
        """The matrices of an adapter with these layers. Asked first, it puts the layers on and tries them."""
        layers = replace(spec, factors=frozenset())
        if layers not in self._shapes:
            self._shapes[layers] = self.with_adapter(spec).shapes()
        return self._shapes[layers]

    def __repr__(self) -> str:
        return f"<Base: {self.family} {self.digest[:12]}>"

    @property
    def dtype(self) -> torch.dtype:
        """What pixels are given in. Adapter matrices are float32 whatever this is."""
        return next(p.dtype for p in self.model.parameters() if p.is_floating_point())

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


@dataclass(frozen=True)
class AdapterSpec:
    """The layers of an adapter: on what, how wide, and which of its factors {"A", "B"} are trained."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    factors: frozenset[Factor]

    @staticmethod
    def of(plan: RunPlan, factors: frozenset[Factor]) -> "AdapterSpec":
        adapter = plan.adapter
        return AdapterSpec(adapter.rank, adapter.alpha, tuple(adapter.targets), factors)

    def within(self, other: "AdapterSpec") -> bool:
        """Whether `other` trains the same layers and at least these factors."""
        return self.factors <= other.factors and replace(self, factors=other.factors) == other


def load_base(folder: Path, *, sha256: str | None, family: str | None, device: Device) -> Base:
    """Open a local checkpoint, frozen, in evaluation mode.

    Full-size checkpoints come the same way: `device_map` spreads them over the GPUs that are there, and `four_bit`
    quantises the frozen weights while loading (needs bitsandbytes).

    Raises: ModelError (absent, unreadable, another family), PinError `base-digest`.
    """
    digest = base_digest(folder)
    if sha256 is not None and digest != sha256:
        raise PinError(
            "base-digest",
            "the base model is not the one that the plan names",
            hint=f"compare both folders; this one has sha256 {digest}",
        )
    if device.threads:
        torch.set_num_threads(device.threads)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        if family is not None and config.model_type != family:
            raise ModelError(
                "model-family", f"the base is of family {config.model_type}", hint=f"the plan asks for {family}"
            )
        processor = AutoProcessor.from_pretrained(folder, **local)
        # use_safetensors: the digest covers no pickled weights, and reading them may run code
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, **local, **_placement(device)
        )
    except FedError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each have their own
        raise ModelError(
            "model-unreadable",
            f"transformers cannot open the base model ({type(error).__name__})",
            hint="the folder needs config, safetensors weights and a processor that this version of transformers knows",
        ) from None
    model, report = loaded
    if report["missing_keys"]:
        raise ModelError(
            "model-unreadable",
            "weights are missing in the base model; they would be random, and others at every site",
            hint="copy the whole checkpoint again",
        )
    model.requires_grad_(False)
    model.eval()
    return Base(model, processor, digest=digest, family=str(config.model_type), folder=folder)


def _placement(device: Device) -> dict[str, Any]:
    """Where the weights go, in the words of `from_pretrained`."""
    options: dict[str, Any] = {"dtype": getattr(torch, device.dtype), "attn_implementation": "sdpa"}
    if device.four_bit:
        if find_spec("bitsandbytes") is None:
            raise ModelError(
                "dependency-missing", "4-bit loading needs bitsandbytes", hint="pip install bitsandbytes, or unset it"
            )
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, device.dtype)
        )
    if device.name == "cuda":
        options["device_map"] = "auto"  # accelerate: spreads a large model over all GPUs, then main memory
    elif device.name != "cpu":
        options["device_map"] = {"": device.name}
    return options


class TrainableModel:
    """A base with one LoRA adapter, its trained leaves wrapped for per-patient gradients."""

    def __init__(self, base: Base, spec: AdapterSpec) -> None:
        """Raises: ModelError if the base has no layer for a target, or something trainable has no per-patient rule."""
        chosen = adapter_layers(base.model, spec.targets)
        config = LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=sorted(chosen))  # type: ignore[arg-type]
        self.base = base
        self.model = get_peft_model(base.model, config)
        self.config = config
        kinds: dict[str, RowKind] = {}
        for name, module in self.model.named_modules():
            found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.default", name)
            if found is None or not isinstance(module, nn.Linear):
                continue
            if found[2] in spec.factors:
                kinds[name] = chosen[found[1]]
            else:
                module.weight.requires_grad_(False)
        self.gradients = PatientGradients(self.model, kinds)

    def detach(self) -> nn.Module:
        """Take the adapter off: the base as it was before. The wrapped model must not be used afterwards."""
        model: nn.Module = self.model.unload()
        model.requires_grad_(False)
        return model

    @property
    def device(self) -> torch.device:
        return next(iter(self.gradients.leaves.values())).weight.device

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The adapter's matrices: name and shape, both factors."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors().items()}

    def load(self, adapter: Adapter) -> None:
        """Put an adapter's numbers into the model. Raises: ModelError `adapter-shape`."""
        tensors = self._tensors()
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != dict(adapter.shapes):
            raise ModelError(
                "adapter-shape",
                "the adapter does not fit the base model",
                hint="base, rank and targets must be the plan's",
            )
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(np.array(adapter.arrays[name])))

    def trained_names(self) -> list[str]:
        """Names of the trained matrices in the order of the gradient vector."""
        return [_plain(name) for name in self.gradients.leaves]

    def write_trained(self, vector: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Put one flat vector, float32 (size,), into the trained matrices."""
        parts = self.named(vector)
        with torch.no_grad():
            for name, leaf in self.gradients.leaves.items():
                leaf.weight.copy_(torch.from_numpy(parts[_plain(name)]))

    def read_trained(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        parts = [leaf.weight.detach().float().cpu().numpy().reshape(-1) for leaf in self.gradients.leaves.values()]
        return np.concatenate(parts)

    def named(self, vector: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """A flat vector as named matrices."""
        result, start = {}, 0
        for name, leaf in self.gradients.leaves.items():
            end = start + leaf.weight.numel()
            result[_plain(name)] = vector[start:end].reshape(tuple(leaf.weight.shape))
            start = end
        return result

    def in_order_of_names(self, vector: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """A flat vector with the matrices in the order of their sorted names, as an update has them."""
        starts = np.cumsum([0, *(leaf.weight.numel() for leaf in self.gradients.leaves.values())])
        at = {_plain(name): place for place, name in enumerate(self.gradients.leaves)}
        return np.concatenate([vector[starts[at[name]] : starts[at[name] + 1]] for name in sorted(at)])

    def _tensors(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(self.model)
        return {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in sorted(state.items())}


def _plain(module_name: str) -> str:
    """`base_model.model.x.lora_A.default` -> `x.lora_A.weight`, the name in an Adapter."""
    return module_name.removeprefix(PEFT_PREFIX).removesuffix(".default") + ".weight"


def adapter_layers(model: nn.Module, targets: tuple[str, ...]) -> dict[str, RowKind]:
    """The linear layers that these targets mean in this model, each with the kind of rows it sees.

    A family without a mixture of experts has its dense feed-forward layers as `shared_expert`. Raises: ModelError
    `adapter-targets` if the model has no layer for a target.
    """
    found: dict[str, RowKind] = {}
    for target in targets:
        layers = {name: kind for name, where, kind in _linear_layers(model) if where == target}
        if not layers:
            raise ModelError(
                "adapter-targets",
                f"this model has no layers for the target {target!r}",
                hint="targets are " + ", ".join(sorted({where for _, where, _ in _linear_layers(model)})),
            )
        found |= layers
    return found


_VISION = re.compile(r"(^|\.)(vision_\w+|visual)\.")
_PROJECTOR = re.compile(r"(^|\.)(multi_modal_projector|connector|vision_adapter|merger)\.")
_ATTENTION = re.compile(r"\.(self_attn|attn|attention)\.\w+$")
_NUMBERED = re.compile(r"\.layers\.(\d+)\.")
_ROUTED = re.compile(r"\.(experts|router|gate)(\.|$)")
_FEED_FORWARD = re.compile(r"\.(feed_forward\.shared_expert|feed_forward|mlp|shared_expert)\.\w+$")


def _linear_layers(model: nn.Module) -> Iterator[tuple[str, str, RowKind]]:
    """Every linear layer that an adapter may sit on: name, target it belongs to, kind of rows."""
    used = _vision_layers_used(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module).__name__.endswith("Router") or _ROUTED.search(name):
            continue
        numbered = _NUMBERED.search(name)
        if used is not None and _VISION.search(name) and numbered and int(numbered[1]) >= used:
            continue
        if _PROJECTOR.search(name):
            yield name, "projector", "tile"
        elif _VISION.search(name):
            if _ATTENTION.search(name):
                yield name, "vision_attention", "tile"
            elif ".mlp." in name:
                yield name, "vision_mlp", "tile"
        elif _ATTENTION.search(name):
            yield name, "attention", "text"
        elif _FEED_FORWARD.search(name):
            yield name, "shared_expert", "text"


def _vision_layers_used(model: nn.Module) -> int | None:
    """How many layers of the vision tower an answer depends on; None for all of them.

    LLaVA takes what comes out of the last but one (`vision_feature_layer`): those behind it never see a gradient.
    """
    config = getattr(model, "config", None)
    chosen = getattr(config, "vision_feature_layer", None)
    layers = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
    if chosen is None or layers is None:
        return None
    several = [chosen] if isinstance(chosen, int) else chosen
    return max(index if index >= 0 else layers + 1 + index for index in several)
