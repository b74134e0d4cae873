"""What privacy costs in time and memory: our per-patient gradients beside plain LoRA, opacus and a loop.

One small Llama 4 with LoRA on the text attention, the only target on which opacus counts examples rightly; the same
numbers, batch and loss for all. Steps are whole: forward, backward, clip, sum, noise, optimiser. They take turns in one
process, each in pairs with a plain step that is now before it and now after it; a ratio is the median over a method's
pairs. One pair is off by some percent, so our own step, which is to be told from 1.05, has three times as many as the
others. On a CPU the clock is the process's own CPU time, which other programs do not disturb. Memory is measured in a
process of its own per method: the highest resident size above what was there before the model.

    plain    LoRA with the mean loss of the batch, no privacy
    ours     client/training/gradients.py, clipping and noise of federation/privacy
    hooks    opacus GradSampleModule: per-example gradients by hooks, clipped and summed
    ghost    opacus GradSampleModuleFastGradientClipping: norms without gradients, then a second backward pass
    loop     one patient at a time, each clipped
"""

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

# isort: off
import client.training  # noqa: F401  opens torchvision before transformers looks for it
# isort: on

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Llama4ForCausalLM, Llama4TextConfig

from client.training.gradients import Owners, PatientGradients
from client.training.train import add_clipped
from federation.privacy.clipping import BoundedSum, FlatClipping
from federation.privacy.keystream import KeyStream
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling
from sim import memory
from sim.keys import SeededKeys

METHODS = ("plain", "ours", "hooks", "ghost", "loop")
SHAPES = ((16, 64), (16, 128), (8, 256))  # (patients, tokens)
MEMORY_SHAPE = (16, 128)
VOCABULARY, RANK, RATE, NORM, NOISE = 512, 8, 1e-3, 0.1, 1.0
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]
SHARED_EXPERTS = r".*\.shared_expert\.(gate|up|down)_proj"
Step = Callable[[], None]


def bench(*, turns: int = 24, threads: int = 2, memory: bool = True) -> dict[str, Any]:
    """What `wardround sim bench privacy --json` prints; the figures are medians over all shapes."""
    torch.set_num_threads(threads)
    rows = [row for shape in SHAPES for row in compare(*shape, turns=turns)]
    figures: dict[str, Any] = {"device": _device()}
    names = {"ours": "step", "hooks": "opacus_hooks", "ghost": "opacus_ghost", "loop": "loop"}
    for method, name in names.items():
        figures[f"{name}_time_ratio"] = median(row["time_ratio"] for row in rows if row["method"] == method)
    figures["step_time_ratio_highest"] = max(row["time_ratio"] for row in rows if row["method"] == "ours")
    if memory:
        peaks = {method: _peak_in_its_own_process(method, threads) for method in METHODS}
        figures |= {
            "peak_memory_ratio": peaks["ours"] / peaks["plain"],
            "opacus_hooks_memory_ratio": peaks["hooks"] / peaks["plain"],
            "opacus_ghost_memory_ratio": peaks["ghost"] / peaks["plain"],
            "loop_memory_ratio": peaks["loop"] / peaks["plain"],
        }
        rows += [{"method": method, "peak_mb": peak} for method, peak in peaks.items()]
    figures |= {f"{method}_shared_expert_sensitivity": sensitivity(method, tokens=24) for method in ("ours", "hooks")}
    machine = {"cpus": os.cpu_count(), "threads": threads, "python": platform.python_version()}
    packages = {name: version(name) for name in ("torch", "transformers", "peft", "opacus")}
    return {"bench": "privacy", "machine": machine | packages, "figures": figures, "rows": rows}


def compare(patients: int, tokens: int, *, turns: int) -> list[dict[str, Any]]:
    """One shape: our step takes every turn beside a plain one, the others every third."""
    steps = {method: make_step(method, patients, tokens) for method in METHODS}
    for step in steps.values():  # warm up
        step()
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    ratios: dict[str, list[float]] = {"plain": [1.0]} | {method: [] for method in METHODS[1:]}
    for turn in range(turns):
        for method in METHODS[1:] if turn % 3 == 0 else ("ours",):
            order = ("plain", method) if turn % 2 else (method, "plain")
            seconds = {one: _seconds(steps[one]) for one in order}
            for one in order:
                taken[one].append(seconds[one])
            ratios[method].append(seconds[method] / seconds["plain"])
    return [
        {
            "method": method, "patients": patients, "tokens": tokens,
            "seconds": median(taken[method]), "time_ratio": median(ratios[method]),
        }
        for method in METHODS
    ]  # fmt: skip


def make_step(method: str, patients: int, tokens: int) -> Step:
    """One whole training step of this method on its own copy of the model."""
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (patients, tokens), generator=generator).to(_device())
    makers: dict[str, Callable[[nn.Module, Tensor], Step]] = {
        "plain": _plain, "ours": _ours, "hooks": _hooks, "ghost": _ghost, "loop": _loop,
    }  # fmt: skip
    return makers[method](model, ids)


def make_model(targets: list[str] | str = TARGETS) -> nn.Module:
    """A Llama 4 with experts, random weights, LoRA on its attention; B is not zero, so that both factors learn."""
    torch.manual_seed(0)
    config = Llama4TextConfig(  # type: ignore[call-arg]
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, intermediate_size_mlp=512, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_local_experts=4, num_experts_per_tok=1,
        interleave_moe_layer_step=1, max_position_embeddings=1024, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        attn_implementation="eager",
    )  # fmt: skip
    model = get_peft_model(Llama4ForCausalLM(config), LoraConfig(r=RANK, lora_alpha=16, target_modules=targets))
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(weight, std=0.02)
    model.eval()
    made: nn.Module = model.to(_device())
    return made


def losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean over each sequence's tokens. (patients,)"""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
    each = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return each.mean(1)


def _plain(model: nn.Module, ids: Tensor) -> Step:
    optimizer = torch.optim.SGD(_trained(model), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        losses(model, ids).mean().backward()
        optimizer.step()

    return step


def _ours(model: nn.Module, ids: Tensor) -> Step:
    names = [name for name, module in model.named_modules() if name.endswith((".lora_A.default", ".lora_B.default"))]
    gradients = PatientGradients(model, dict.fromkeys(names, "text"))
    mechanism = Mechanism(PoissonSampling(0.5), FlatClipping(NORM), NOISE)
    owners = Owners(len(ids), torch.arange(len(ids), device=ids.device), torch.empty(0, dtype=torch.long))
    stream = KeyStream(SeededKeys(0).key("noise"))

    def step() -> None:
        with gradients.patients(owners) as each:
            losses(model, ids).sum().backward()
        total = torch.zeros(gradients.size, dtype=torch.float64, device=each.device)
        add_clipped(total, each, mechanism.clipping)
        noisy = mechanism.add_noise(BoundedSum(total.cpu().numpy(), mechanism.clipping.sensitivity), stream)
        mean = torch.from_numpy(noisy.mean(float(len(ids)))).to(each.device)
        start = 0
        with torch.no_grad():
            for leaf in gradients.leaves.values():
                end = start + leaf.weight.numel()
                leaf.weight -= RATE * mean[start:end].view_as(leaf.weight)  # type: ignore[misc]
                start = end

    return step


def _hooks(model: nn.Module, ids: Tensor) -> Step:
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=False)
    wrapped.train()  # its hooks look away otherwise; nothing in this model differs between training and not
    optimizer = torch.optim.SGD(_trained(model), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        losses(wrapped, ids).sum().backward()
        samples = [parameter.grad_sample for parameter in _trained(model)]  # type: ignore[attr-defined]
        norms = torch.stack([sample.flatten(1).norm(dim=1) for sample in samples], dim=1).norm(dim=1)
        factors = (NORM / norms.clamp(min=NORM)).to(samples[0])
        for parameter, sample in zip(_trained(model), samples, strict=True):
            _noised(parameter, torch.einsum("i,i...->...", factors, sample), len(ids))
            parameter.grad_sample = None  # type: ignore[attr-defined]
        optimizer.step()

    return step


def _ghost(model: nn.Module, ids: Tensor) -> Step:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        model, batch_first=True, loss_reduction="sum", strict=False, max_grad_norm=NORM, use_ghost_clipping=True
    )
    wrapped.train()
    optimizer = torch.optim.SGD(_trained(model), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        each = losses(wrapped, ids)
        each.sum().backward(retain_graph=True)
        optimizer.zero_grad()
        factors = wrapped.get_clipping_coef()
        wrapped.disable_hooks()
        (factors * each).sum().backward()
        wrapped.enable_hooks()
        for parameter in _trained(model):
            assert parameter.grad is not None
            _noised(parameter, parameter.grad, len(ids))
        optimizer.step()

    return step


def _loop(model: nn.Module, ids: Tensor) -> Step:
    optimizer = torch.optim.SGD(_trained(model), lr=RATE)

    def step() -> None:
        total = [torch.zeros_like(parameter) for parameter in _trained(model)]
        for one in ids:
            optimizer.zero_grad()
            losses(model, one[None]).sum().backward()
            grads = [parameter.grad for parameter in _trained(model) if parameter.grad is not None]
            norm = torch.stack([grad.norm() for grad in grads]).norm()
            for whole, grad in zip(total, grads, strict=True):
                whole += grad * (NORM / norm.clamp(min=NORM))
        for parameter, whole in zip(_trained(model), total, strict=True):
            _noised(parameter, whole, len(ids))
        optimizer.step()

    return step


def sensitivity(method: str, *, patients: int = 4, tokens: int = 24) -> float:
    """How far one patient moves the clipped sum with LoRA on the shared experts, in clipping norms: at most 1 is right.

    Llama 4 flattens (patients, tokens, width) before its shared expert, so opacus takes every token for an example and
    clips it by itself; it neither fails nor warns. Clipping norm: the median length of what the method clips.
    """
    model = make_model(SHARED_EXPERTS)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (patients, tokens), generator=generator).to(_device())
    each_of = _our_rows(model) if method == "ours" else _opacus_rows(model)
    norm = float(each_of(ids).norm(dim=1).median())

    def total(chosen: Tensor) -> Tensor:
        rows = each_of(chosen)
        found: Tensor = (rows * (norm / rows.norm(dim=1).clamp(min=norm))[:, None]).sum(0)
        return found

    whole = total(ids)
    others = [total(torch.cat([ids[:gone], ids[gone + 1 :]])) for gone in range(patients)]
    return max(float((whole - rest).norm()) / norm for rest in others)


def _our_rows(model: nn.Module) -> Callable[[Tensor], Tensor]:
    names = [name for name, module in model.named_modules() if name.endswith((".lora_A.default", ".lora_B.default"))]
    gradients = PatientGradients(model, dict.fromkeys(names, "text"))

    def rows(ids: Tensor) -> Tensor:
        owner = torch.arange(len(ids), device=ids.device)
        with gradients.patients(Owners(len(ids), owner, torch.empty(0, dtype=torch.long))) as each:
            losses(model, ids).sum().backward()
        return each

    return rows


def _opacus_rows(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What opacus calls per-example gradients: one row for each thing that it takes for an example."""
    from opacus.grad_sample import GradSampleModule

    wrapped = GradSampleModule(model, batch_first=True, loss_reduction="sum", strict=False)
    wrapped.train()

    def rows(ids: Tensor) -> Tensor:
        losses(wrapped, ids).sum().backward()
        samples = [parameter.grad_sample.flatten(1) for parameter in _trained(model)]  # type: ignore[attr-defined]
        for parameter in _trained(model):
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return torch.cat(samples, dim=1)

    return rows


def _noised(parameter: nn.Parameter, total: Tensor, patients: int) -> None:
    parameter.grad = (total + torch.randn_like(total) * (NOISE * NORM)) / patients


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _seconds(step: Step) -> float:
    begun = _clock()
    step()
    return _clock() - begun


def _clock() -> float:
    """CPU time of this process on a CPU; wall time of finished work on a GPU."""
    if _device() == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_mb(method: str, threads: int) -> float:
    """The most memory of three steps, above what was there before the model. In this process: call it once in one."""
    torch.set_num_threads(threads)
    if _device() != "cpu":
        step = make_step(method, *MEMORY_SHAPE)
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated() / 1e6
    before = memory.resident_mb()
    step = make_step(method, *MEMORY_SHAPE)
    for _ in range(3):
        step()
    return memory.peak_mb() - before


def _peak_in_its_own_process(method: str, threads: int) -> float:
    root = str(Path(__file__).resolve().parent.parent)
    # Without this glibc keeps freed blocks, and the peak would be an accident of their order.
    environment = os.environ | {
        "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", ""), "MALLOC_MMAP_THRESHOLD_": "65536",
    }  # fmt: skip
    command = [sys.executable, "-m", "sim.bench_privacy", method, str(threads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return float(json.loads(done.stdout))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(peak_mb(sys.argv[1], int(sys.argv[2]))))
