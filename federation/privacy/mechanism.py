"""The private step: sampling, clipping and noise joined, with the guarantee that the three have only together.

For a site with patients P, one step is

    drawn    = each patient of P by an independent coin          sampling.PoissonSampling
    bounded  = sum of the drawn patients' clipped gradients      clipping.FlatClipping or clipping.AutoS
    noisy    = bounded + N(0, (noise_multiplier * sensitivity)^2 I)          noise.gaussian

Guarantee: with fresh coins and fresh noise in every step, `steps` steps are (epsilon, delta)-differentially private for
the epsilon that `accounting.epsilon([mechanism.event(steps)], delta)` returns. The unit is one patient with all images
and reports; neighbours differ by adding or removing one patient (Poisson-sampled Gaussian mechanism, Mironov et al.
2019). What is computed from the noisy sum alone (divide, optimise, average, round, publish) has the same guarantee.

It rests on five things that no code here can see: the patient key is right (one person, one key); the gradient of a
patient depends on that patient only; clipping is over all trained parameters; every draw uses a stream of its own; and
the ledger was charged before the first draw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import BudgetError, PlanError
from federation.privacy.accounting import Event
from federation.privacy.clipping import AutoS, BoundedSum, FlatClipping
from federation.privacy.keystream import KeyStream
from federation.privacy.noise import gaussian
from federation.privacy.sampling import PoissonSampling


@dataclass(frozen=True, repr=False, eq=False)
class NoisySum:
    """A bounded sum with its noise: the first value that may be kept, and the only one that optimisers may see."""

    total: NDArray[np.float32]
    noise_std: float

    def mean(self, divisor: float) -> NDArray[np.float32]:
        """Divided by a public constant; see `Mechanism.divisor`."""
        return self.total / np.float32(divisor)

    def __repr__(self) -> str:
        return "<NoisySum: hidden>"


@dataclass(frozen=True)
class Mechanism:
    """One rule each for sampling, clipping and noise. All fields are public and none can change during a run.

    | edge case                                    | result                                             |
    |----------------------------------------------|----------------------------------------------------|
    | nobody drawn                                 | zero sum, noise, step, charge: as always           |
    | one patient's gradient is not finite         | counts as zeros; the step goes on                  |
    | noise multiplier outside [0.2, 1e4]          | refused (`budget-event`)                           |
    | a sum bounded by another rule than this one's | refused (`budget-event`): the charge would be wrong |
    """

    sampling: PoissonSampling
    clipping: FlatClipping | AutoS
    noise_multiplier: float

    def __post_init__(self) -> None:
        self.event(0)  # the accountant's guards, before anything is drawn

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise in every coordinate of the sum."""
        return self.noise_multiplier * self.clipping.sensitivity

    def event(self, steps: int) -> Event:
        """What `steps` steps of this mechanism cost, in the accountant's words."""
        return Event(
            sampling_rate=self.sampling.sampling_rate,
            noise_multiplier=self.noise_multiplier,
            steps=steps,
            sensitivity_rule=self.clipping.rule,
        )

    def divisor(self, declared_patients: int) -> float:
        """The public number that turns the sum into a mean: sampling rate times the site's declared patients.

        Never the true or the drawn count: neighbours would be divided by different numbers.
        """
        if declared_patients < 1:
            raise PlanError(
                "plan-value", "a site declares at least one patient", hint="declare a rounded, public number"
            )
        return self.sampling.sampling_rate * declared_patients

    def add_noise(self, bounded: BoundedSum, stream: KeyStream) -> NoisySum:
        """The noise of one step, drawn once for the whole sum."""
        if bounded.sensitivity != self.clipping.sensitivity:
            raise BudgetError(
                "budget-event",
                "the sum was bounded by another rule than the one that is charged",
                hint="clip with the mechanism's own rule",
            )
        noisy = gaussian(bounded.total, noise_std=self.noise_std, stream=stream)
        return NoisySum(total=noisy, noise_std=self.noise_std)
