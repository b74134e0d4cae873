"""The private step that a plan means: sampling, clipping, noise, and how much of the noise is whose."""

from collections.abc import Mapping
from math import prod

from federation.plan import RunPlan
from federation.privacy.accounting import SharedNoise
from federation.privacy.clipping import clipping_rule
from federation.privacy.grid import grid_bits
from federation.privacy.mechanism import Mechanism
from federation.privacy.sampling import PoissonSampling


def mechanism_of(plan: RunPlan, noise_multiplier: float, shared: SharedNoise | None) -> Mechanism:
    """The step of a site with this noise, its own or shared."""
    clipping = clipping_rule(plan.privacy.clipping, plan.privacy.clipping_norm)
    return Mechanism(PoissonSampling(plan.training.sampling_rate), clipping, noise_multiplier, shared)


def shared_of(plan: RunPlan, shapes: Mapping[str, tuple[int, ...]]) -> SharedNoise | None:
    """How the sites share the noise over an adapter of these shapes, the resting factor included; None if they do not.

    The grid follows from the adapter, which is the same at all sites and in all rounds.
    """
    if plan.privacy.honest_sites is None:
        return None
    return SharedNoise(plan.privacy.honest_sites, grid_bits(sum(prod(shape) for shape in shapes.values())))


def unit_of(plan: RunPlan, shared: SharedNoise) -> float:
    """What one unit of the masked sum moves the adapter by, once it is divided by all patients that the sites declare.

    One step of sgd on the pooled sum: -learning rate · Σ sums · (clipping norm / 2^bits) / (sampling rate · Σ declared)
    """
    training, norm = plan.training, plan.privacy.clipping_norm
    return -training.learning_rate * norm / (training.sampling_rate * 2.0**shared.grid_bits)
