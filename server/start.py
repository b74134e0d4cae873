"""The first adapter of a run, made once by the coordinator and sent to all: B is zero, A starts as the plan says.

The sites get its bytes with the first question, so all begin bit for bit alike, whoever's linear algebra made it. No
private number enters: seeds come from the run's name, and `svd` reads the public base model only.
"""

import hashlib
from collections.abc import Mapping, Set
from pathlib import Path

import numpy as np
import numpy.typing as npt

from federation.adapter import Adapter, factor, initial_adapter, stream_of
from federation.base import BaseWeights, base_digest
from federation.errors import ModelError, PinError
from federation.plan import RunPlan

OVERSAMPLED, ITERATIONS = 8, 8  # Halko, Martinsson, Tropp 2011, section 4.5


def first_adapter(
    plan: RunPlan, shapes: Mapping[str, tuple[int, ...]], base: Path | None, bases_of_sites: Set[str]
) -> Adapter:
    """`orthonormal` and `kaiming`: from the run's seed. `svd`: the directions in which the frozen weight is strongest.

    Raises: ModelError `model-absent` for `svd` without the base; PinError `base-digest` if it is not the sites' own.
    """
    seed = seed_of(plan)
    if plan.adapter.a_init != "svd":
        return initial_adapter(shapes, a_init=plan.adapter.a_init, seed=seed)
    if base is None:
        raise ModelError(
            "model-absent",
            "a_init = svd is computed from the base model, and the coordinator has none",
            hint="give the coordinator the base's folder, or take a_init = orthonormal",
        )
    if bases_of_sites != {base_digest(base)}:
        raise PinError(
            "base-digest", "the coordinator's base model is not that of the sites", hint="compare both folders"
        )
    weights = BaseWeights(base)
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for name, shape in shapes.items():
        if factor(name) == "B":
            arrays[name] = np.zeros(shape, np.float32)
        else:
            arrays[name] = _strongest(weights.of(name.removesuffix(".lora_A.weight")), shape, stream_of(name, seed))
    return Adapter(arrays)


def seed_of(plan: RunPlan) -> int:
    """The start of A follows from the run's name: public, and the same whatever else two plans of one name say."""
    return int(hashlib.sha256(plan.run.name.encode("ascii")).hexdigest()[:13], 16)


def _strongest(
    weight: npt.NDArray[np.float32], shape: tuple[int, ...], stream: np.random.Generator
) -> npt.NDArray[np.float32]:
    """The first right singular vectors as orthonormal rows, (rank, inputs), by iteration on a subspace.

    A whole SVD of a 5120 × 5120 weight takes minutes, and an adapter has hundreds. A component's sign is that of its
    largest number.
    """
    rank, inputs = shape
    if weight.shape[1] != inputs or rank > min(weight.shape):
        raise ModelError(
            "adapter-shape",
            "the base model's weight does not have the adapter's size, or fewer directions than its rank",
            hint="lower the rank, or take a_init = orthonormal",
        )
    matrix = weight.astype(np.float64)
    basis = stream.standard_normal((inputs, min(rank + OVERSAMPLED, *matrix.shape)))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    _, _, within = np.linalg.svd(matrix @ basis, full_matrices=False)
    rows = (basis @ within.T).T[:rank]
    signs = np.where(rows[np.arange(rank), np.abs(rows).argmax(axis=1)] < 0, -1.0, 1.0)
    strongest: npt.NDArray[np.float32] = (rows * signs[:, None]).astype(np.float32)
    return strongest
