"""What a plan will cost before anybody is asked: epsilon at a site, and bytes on the wire.

Epsilon is exact for a site that declares so many patients and has an empty ledger; a site's own answer counts what its
ledger holds already. Bytes are those of the adapter's numbers, from the names and shapes in the base's own files.
"""

import json
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.errors import BudgetError
from federation.plan import RunPlan
from federation.privacy import accounting
from federation.private_step import mechanism_of

HEADER_BYTES_MAX = 100 * 2**20
_VISION = re.compile(r"(^|\.)(vision_\w+|visual)\.")
_PROJECTOR = re.compile(r"(^|\.)(multi_modal_projector|connector|vision_adapter|merger)\.")
_ATTENTION = re.compile(r"\.(self_attn|attn|attention)\.\w+\.weight$")
_FEED_FORWARD = re.compile(r"\.(feed_forward\.shared_expert|feed_forward|mlp|shared_expert)\.\w+\.weight$")
_ROUTED = re.compile(r"\.(experts|router|gate)(\.|$)")


@dataclass(frozen=True)
class SiteCost:
    """What a plan costs a site that declares so many patients. `epsilon` is None without privacy."""

    declared_patients: int
    delta: float | None
    noise_multiplier: float | None
    epsilon: float | None
    refused: str = ""


def site_costs(plan: RunPlan, sizes: Sequence[int]) -> list[SiteCost]:
    """One entry per number of declared patients."""
    return [_site_cost(plan, size) for size in sizes]


def _site_cost(plan: RunPlan, declared: int) -> SiteCost:
    if plan.privacy.unit == "none":
        return SiteCost(declared, None, None, None)
    delta = plan.privacy.delta if plan.privacy.delta is not None else 1 / (10 * declared)
    noise = plan.privacy.noise_multiplier
    if plan.privacy.target_epsilon is not None:
        try:
            noise = accounting.noise_multiplier_for(
                plan.privacy.target_epsilon,
                delta=delta,
                sampling_rate=plan.training.sampling_rate,
                steps=plan.total_steps,
                spent=[],
            )
        except BudgetError as error:
            return SiteCost(declared, delta, None, None, error.message)
    assert noise is not None
    # Of shared noise too, to the last digit that is shown: how fine the grid is, is known once there is an adapter.
    event = mechanism_of(plan, noise, None).event(plan.total_steps)
    return SiteCost(declared, delta, noise, accounting.epsilon([event], delta))


@dataclass(frozen=True)
class Bytes:
    """Per site and round, at most: methods that alternate send less in every other one. Headers and signatures add
    some kilobytes."""

    down: int
    up: int


def wire_bytes(plan: RunPlan, model: Path) -> Bytes | None:
    """From the shapes in the base's safetensors files; None if the folder is not here."""
    shapes = [shape for name, shape in _weights(model) if len(shape) == 2 and _target(name) in plan.adapter.targets]
    if not shapes:
        return None
    factor_a = sum(plan.adapter.rank * columns for _, columns in shapes)
    factor_b = sum(plan.adapter.rank * rows for rows, _ in shapes)
    trained = {"A": factor_a, "B": factor_b}
    most = max(sum(trained[factor] for factor in plan.adapter.trained_factors(number)) for number in (1, 2))
    return Bytes(4 * (factor_a + factor_b), 4 * most)


def _target(name: str) -> str | None:
    """The target that a weight belongs to, as client/training/model.py names them."""
    if _ROUTED.search(name):
        return None
    if _PROJECTOR.search(name):
        return "projector"
    if _VISION.search(name):
        return "vision_attention" if _ATTENTION.search(name) else "vision_mlp" if ".mlp." in name else None
    if _ATTENTION.search(name):
        return "attention"
    return "shared_expert" if _FEED_FORWARD.search(name) else None


def _weights(model: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the headers of safetensors files: 8 bytes of length, then JSON."""
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            [length] = struct.unpack("<Q", file.read(8))
            if length > HEADER_BYTES_MAX:
                return
            for name, told in json.loads(file.read(length)).items():
                if name != "__metadata__":
                    yield name, tuple(told["shape"])
