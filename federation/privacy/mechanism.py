"""The private step: sampling, clipping and noise joined, with the guarantee that the three have only together.

For a site with patients P, one step is

    drawn    = each patient of P by an independent coin          sampling.PoissonSampling
    bounded  = sum of the drawn patients' clipped gradients      clipping.FlatClipping or clipping.AutoS
    noisy    = bounded + N(0, (noise_multiplier * sensitivity)^2 I)          noise.gaussian

Guarantee: with fresh coins and fresh noise in every step, `steps` steps are (epsilon, delta)-differentially private for
the epsilon that `accounting.epsilon([mechanism.event(steps)], delta)` returns. The unit is one patient with all images
and reports; neighbours differ by adding or removing one patient (Poisson-sampled Gaussian mechanism, Mironov et al.
2019). What is computed from the noisy sum alone (divide, optimise, average, round, publish) has the same guarantee.

With `shared` the sites add the noise together, on whole numbers, and one step is at every site k

    whole_k  = sum of the drawn patients' clipped gradients, each in whole units      grid.whole
    share_k  = whole_k + a discrete Gaussian of variance (noise_multiplier · 2^bits)² / honest_sites
               noise.discrete_gaussian

and what leaves is the sum of the share_k, masked. The guarantee is then that of the sum, against everybody who sees
nothing of the single shares, if `honest_sites` of those in it have added theirs: accounting.SharedNoise has the proof.
A share alone promises almost nothing, and is made only for a masked sum of enough sites (client/masking.py).

It rests on five things that no code here can see: the patient key is right (one person, one key); the gradient of a
patient depends on that patient only; clipping is over all trained parameters; every draw uses a stream of its own; and
the ledger was charged before the first draw.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from federation.errors import BudgetError, PlanError
from federation.privacy.accounting import Event, SharedNoise
from federation.privacy.clipping import AutoS, BoundedSum, FlatClipping
from federation.privacy.grid import WholeSum
from federation.privacy.keystream import KeyStream
from federation.privacy.noise import discrete_gaussian, gaussian
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


@dataclass(frozen=True, repr=False, eq=False)
class NoisyShare:
    """One site's whole sum with its share of the noise, modulo 2^32. Not private by itself: it leaves under a mask.

    What wraps around is lost to learning, not to privacy: the masked sum is taken modulo 2^32 anyway.
    """

    words: NDArray[np.uint32]

    def __repr__(self) -> str:
        return "<NoisyShare: hidden>"


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
    shared: SharedNoise | None = None  # None: this site adds all of the noise itself

    def __post_init__(self) -> None:
        self.event(0)  # the accountant's guards, before anything is drawn

    @property
    def grid_bits(self) -> int:
        """How fine the whole numbers are that the sites add up. Refused where each adds its own noise."""
        if self.shared is None:
            raise _another_rule()
        return self.shared.grid_bits

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
            shared=self.shared,
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
        if self.shared is not None or bounded.sensitivity != self.clipping.sensitivity:
            raise _another_rule()
        noisy = gaussian(bounded.total, noise_std=self.noise_std, stream=stream)
        return NoisySum(total=noisy, noise_std=self.noise_std)

    def add_share(self, whole: WholeSum, stream: KeyStream) -> NoisyShare:
        """This site's share of the noise of one step, drawn once for the whole sum."""
        if self.shared is None or whole.bits != self.shared.grid_bits:
            raise _another_rule()
        variance = self.shared.share_variance(self.noise_multiplier)
        noise = discrete_gaussian(whole.total.size, variance=variance, stream=stream)
        return NoisyShare((whole.total + noise).astype(np.uint32))


def _another_rule() -> BudgetError:
    return BudgetError(
        "budget-event",
        "the sum was bounded by another rule than the one that is charged",
        hint="clip with the mechanism's own rule",
    )
