"""One gradient per patient, for the LoRA matrices and nothing else.

For a layer y = x Wᵀ the gradient of patient p is the sum, over the rows of x that belong to p, of gᵀx. `PatientLinear`
computes that in its own backward pass: one batched product of the same size as the ordinary weight gradient
(privacy.md §4). Which rows belong to whom is declared per kind of row when the model is wrapped, never guessed: text
rows (every token of a sequence) and tile rows (every patch of a picture's tile; in families without tiles, a patch).

Guarantees:
    Every trainable parameter is such a layer, or `PatientGradients` refuses the model by its name.
    A backward pass whose rows do not fit the declared owners is refused; no row is given to the wrong patient.
    The result does not depend on how patients are grouped into micro-batches (up to float32 rounding).

Not by hooks, because hooks can be replaced, skipped and called twice. Not by vmap, which cannot run the mixture of
experts. Not by opacus' grad samplers: they take the first axis of x as the example, which here is a token or a tile.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from federation.errors import ModelError

RowKind = Literal["text", "tile"]


@dataclass
class Owners:
    """Whose rows are in this pass: for each sequence and each tile the index of its patient in the micro-batch."""

    patients: int
    text: Tensor
    tile: Tensor

    def of(self, kind: RowKind) -> Tensor:
        return self.text if kind == "text" else self.tile


@dataclass
class _Pass:
    """What one backward pass writes to: shared by all leaves of a model, empty between passes."""

    owners: Owners | None = None
    in_order: frozenset[RowKind] = frozenset()  # kinds of row of which patient i has exactly the i-th group
    sums: dict[str, Tensor] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)


class PatientLinear(nn.Module):
    """A bias-free linear layer whose weight gets one gradient per patient instead of one altogether."""

    def __init__(self, weight: nn.Parameter, name: str, kind: RowKind, state: _Pass) -> None:
        super().__init__()
        self.weight = weight
        self.name = name
        self.kind: RowKind = kind
        self._state = state

    @property
    def in_features(self) -> int:
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        return int(self.weight.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() or self._state.owners is None:
            return nn.functional.linear(x, self.weight)
        result: Tensor = _PerPatient.apply(x, self.weight, self)  # type: ignore[no-untyped-call]
        return result

    def add(self, x: Tensor, gradient: Tensor) -> None:
        """Add gᵀx of every owner's rows to the sums. (…, in) and (…, out) in; float32 (patients, out, in) kept."""
        state = self._state
        if state.owners is None:
            raise ModelError("model-rows", "a gradient arrived outside of a pass", hint="report this as a bug")
        owner = state.owners.of(self.kind)
        rows = x.numel() // x.shape[-1]
        if x.dim() == 2 and self.kind == "tile":
            owner = _merged(owner, rows)
        groups = owner.numel()
        if groups == 0 or rows % groups or (x.dim() > 2 and x.shape[0] != groups):
            raise ModelError(
                "model-rows",
                f"the rows of a {self.kind} layer do not divide among their patients",
                hint="choose other adapter targets for this model family",
            )
        in_order = owner is state.owners.of(self.kind) and self.kind in state.in_order
        sums = state.sums[self.name]
        x, gradient = x.float(), gradient.float()
        if rows == groups:  # every row has an owner of its own: a product per patient, not per row
            x, gradient = x.reshape(rows, -1), gradient.reshape(rows, -1)
            for patient in range(state.owners.patients):
                mine = owner == patient
                sums[patient] += gradient[mine].T @ x[mine]
        else:
            x = x.reshape(groups, rows // groups, x.shape[-1])
            gradient = gradient.reshape(groups, rows // groups, gradient.shape[-1])
            if in_order:  # one product straight into each patient's place
                sums[:groups].baddbmm_(gradient.transpose(1, 2), x)
            else:
                sums.index_add_(0, owner, torch.bmm(gradient.transpose(1, 2), x))  # (groups, out, in)
        state.seen.add(self.name)


def _merged(owner: Tensor, rows: int) -> Tensor:
    """Owners of `rows` rows, each made of equally many neighbours that have one owner; unchanged where that fails.

    Families without tiles (Qwen-VL) give the owner of every patch, and their projector joins some patches into a row.
    """
    if rows == 0 or rows >= owner.numel() or owner.numel() % rows:
        return owner
    joined = owner.view(rows, -1)
    return joined[:, 0] if bool((joined == joined[:, :1]).all()) else owner


class _PerPatient(torch.autograd.Function):
    """y = x Wᵀ; backward gives x its ordinary gradient and W none: W's goes, per patient, to the layer's sums."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, layer: PatientLinear) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer = layer
        return nn.functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        ctx.layer.add(x, gradient)
        return (gradient @ weight if ctx.needs_input_grad[0] else None), None, None


class PatientGradients:
    """The per-patient gradients of one model: wraps its trained leaves, opens passes, hands out the result."""

    def __init__(self, model: nn.Module, kinds: Mapping[str, RowKind]) -> None:
        """Wrap every trainable leaf. `kinds` names, for each one (full module name), whose rows it sees.

        Raises: ModelError `adapter-trainable` if anything else is trainable: a bias, a norm, an embedding, a DoRA
        magnitude, an expert's packed weights, a leaf without a declared kind of row, one weight shared by two leaves.
        """
        self._state = _Pass()
        self.leaves: dict[str, PatientLinear] = {}
        wrapped: set[int] = set()
        for name, kind in sorted(kinds.items()):
            old = model.get_submodule(name)
            if not isinstance(old, nn.Linear) or old.bias is not None or not old.weight.requires_grad:
                raise _untrainable(name)
            leaf = PatientLinear(old.weight, name, kind, self._state)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, leaf)
            if id(leaf.weight) in wrapped:
                raise _untrainable(name)
            wrapped.add(id(leaf.weight))
            self.leaves[name] = leaf
        for name, parameter in model.named_parameters(remove_duplicate=False):
            leaf_name = name.removesuffix(".weight")
            if parameter.requires_grad and leaf_name not in self.leaves:
                raise _untrainable(name)

    @property
    def size(self) -> int:
        """Trained numbers in all leaves."""
        return sum(leaf.weight.numel() for leaf in self.leaves.values())

    @contextmanager
    def patients(self, owners: Owners) -> Iterator[Tensor]:
        """Open a pass. Yields the gradients, float32 (patients, size), leaves in the order of their names.

        They are zero until `backward` has run inside the block, and belong to the caller afterwards.
        """
        device = next(iter(self.leaves.values())).weight.device
        # One row more than patients: padding has owner -1, which index_add_ would refuse, so it gets the last row.
        buffer = torch.zeros(owners.patients + 1, self.size, dtype=torch.float32, device=device)
        start = 0
        for name, leaf in self.leaves.items():
            end = start + leaf.weight.numel()
            self._state.sums[name] = buffer[:, start:end].view(owners.patients + 1, *leaf.weight.shape)
            start = end
        self._state.owners = Owners(
            owners.patients, _padded(owners.text, owners.patients), _padded(owners.tile, owners.patients)
        )
        kinds: tuple[RowKind, ...] = ("text", "tile")
        self._state.in_order = frozenset(kind for kind in kinds if _in_order(owners.of(kind), owners.patients))
        self._state.seen.clear()
        try:
            yield buffer[: owners.patients]
        finally:
            self._state.owners = None
            self._state.sums = {}

    def leaves_without_gradient(self) -> Sequence[str]:
        """Names of leaves that the last pass did not reach; for the check when a model is loaded."""
        return [name for name in self.leaves if name not in self._state.seen]


def _in_order(owner: Tensor, patients: int) -> bool:
    return owner.numel() == patients and owner.tolist() == list(range(patients))


def _padded(owner: Tensor, patients: int) -> Tensor:
    return torch.where(owner < 0, torch.full_like(owner, patients), owner)


def _untrainable(name: str) -> ModelError:
    return ModelError(
        "adapter-trainable",
        f"{name} is trainable but has no rule for the gradient of one patient",
        hint="train LoRA matrices of linear layers only: no biases, norms, embeddings, DoRA or packed experts",
    )
