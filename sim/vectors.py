"""The smallest real federation: patients are vectors, the model is a point that should be near all of them.

Loss of a patient x at the adapter θ (all its numbers in a row): ½‖θ − x‖². The optimum is the mean patient, so what a
federation does can be computed by hand. Site, ledger, mechanism and coordinator are the real ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.policy import Policy
from client.settings import Data, Settings, SiteIdentity
from client.site import Site
from federation.adapter import Adapter, AdapterUpdate, Array, Factor, at_rank, rank_of
from federation.plan import RunPlan
from federation.privacy import grid
from federation.privacy.clipping import BoundedSum
from federation.privacy.grid import WholeSum
from federation.privacy.histograms import Answers
from federation.privacy.keystream import KeySource, KeyStream
from federation.privacy.ledger import Ledger
from federation.privacy.mechanism import Mechanism, NoisyShare
from federation.secagg.bodies import Identity
from federation.trust.keys import SigningKey
from sim.keys import SeededKeys

BASE_DIGEST = "ba5e" * 16
SHAPES = {"m.lora_A.weight": (2, 3), "m.lora_B.weight": (3, 2)}
POLICY = Policy(epsilon_max=100.0, approve="matching", quorum_min=1, allow_without_privacy=True)


Gradients = Callable[[Array, Array], Array]  # of every patient's loss at a point: (numbers,), (patients, …)


def towards(point: Array, patients: Array) -> Array:
    return point - patients


class VectorLearner:
    """A learner whose patients are the rows of `patients`, (patients, numbers of the trained factors), float32.

    With other `gradients` the rows mean something else, and the loss is another.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        patients: Array,
        declared_patients: int,
        gradients: Gradients = towards,
    ) -> None:
        self._shapes, self._patients, self._declared = dict(shapes), patients, declared_patients
        self._gradients = gradients
        self.updates = 0  # how often it has really trained

    def base_digest(self) -> str:
        return BASE_DIGEST

    def adapter_shapes(self, plan: RunPlan) -> Mapping[str, tuple[int, ...]]:
        """Its own, or cut to the plan's rank, as under `stack` for a site with less room."""
        return at_rank(self._shapes, min(rank_of(self._shapes), plan.adapter.rank))

    def declared_patients(self) -> int:
        return self._declared

    def keying(self) -> str:
        return "rows"

    def data_released(self) -> bool:
        return True  # vectors are nobody's data

    def update(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism | None,
        keys: KeySource,
        label: str,
    ) -> AdapterUpdate:
        """`local_steps` steps of gradient descent; with a mechanism on noisy sums, without one on the plain mean."""
        self.updates += 1
        trained = adapter.part(factors)
        point = start = trained.flatten()
        for step in range(plan.training.local_steps):
            if mechanism is None:
                gradient = self._gradients(point, self._patients).mean(axis=0)
            else:
                gradient = self._noisy_mean(point, mechanism, keys, f"{label}/{step}")
            point = point - np.float32(plan.training.learning_rate) * gradient
        return AdapterUpdate(trained.unflatten(point - start).arrays)

    def share(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism,
        keys: KeySource,
        label: str,
    ) -> NoisyShare:
        """The drawn rows' gradients at the adapter in whole units, and this site's share of the noise."""
        self.updates += 1
        gradients, factor_of = self._drawn_gradients(adapter.part(factors).flatten(), mechanism, keys, f"{label}/0")
        sensitivity, bits = mechanism.clipping.sensitivity, mechanism.grid_bits
        total = np.zeros(gradients.shape[1], np.int64)
        for row, factor in zip(gradients, factor_of.tolist(), strict=True):
            total += grid.whole(row, factor, sensitivity=sensitivity, bits=bits)
        return mechanism.add_share(WholeSum(total, bits), KeyStream(keys.key(f"{label}/0/noise")))

    def examine(self, plan: RunPlan, adapter: Adapter) -> Sequence[Answers]:
        """A patient's case is positive if their first number is above the median; the adapter's is taken for it."""
        number = self._patients[:, 0].astype(np.float64)
        threshold = float(adapter.flatten()[0])
        made = Answers(np.arange(len(number)), number - threshold, number > np.median(number))
        return [made] * len(plan.evaluation.questions)

    def _noisy_mean(self, point: Array, mechanism: Mechanism, keys: KeySource, label: str) -> Array:
        gradients, factors = self._drawn_gradients(point, mechanism, keys, label)
        total = (gradients * factors[:, None]).sum(axis=0, dtype=np.float64)
        bounded = BoundedSum(total, mechanism.clipping.sensitivity)
        return mechanism.add_noise(bounded, KeyStream(keys.key(f"{label}/noise"))).mean(
            mechanism.divisor(self._declared)
        )

    def _drawn_gradients(
        self, point: Array, mechanism: Mechanism, keys: KeySource, label: str
    ) -> tuple[Array, npt.NDArray[np.float64]]:
        """One row for each drawn patient, and what it is to be multiplied with."""
        names = [f"{row:032x}" for row in range(len(self._patients))]
        drawn = mechanism.sampling.draw(names, KeyStream(keys.key(f"{label}/sampling")))
        gradients = self._gradients(point, self._patients[[int(name, 16) for name in drawn]])
        return gradients, mechanism.clipping.factors(np.linalg.norm(gradients, axis=1))


def vector_site(
    site_id: str,
    folder: Path,
    patients: Array,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    policy: Policy,
    declared_patients: int = 100,
    gradients: Gradients = towards,
    seed: int = 0,
    roster: Mapping[str, bytes] | None = None,
    identity: Callable[[], Identity] | None = None,
) -> Site:
    """A whole site whose state is in `folder`; called again with the same folder, the same site after a restart.

    It takes part in masked sums under a `roster` that stays, or under the `identity` that it asks for.
    """
    settings = Settings(SiteIdentity(site_id), Data("store", "secret", declared_patients), policy)
    keys = SeededKeys(seed).child(site_id)
    learner = VectorLearner(shapes, patients, declared_patients, gradients)
    ledger = Ledger.open(folder / "ledger")
    fixed = None if roster is None else Identity(site_id, signing_key(site_id, seed), roster)
    return Site(
        settings, policy, ledger, keys, learner, folder / "state",
        identity=identity or (None if fixed is None else lambda: fixed), examiner=learner,
        now_utc=lambda: "2026-01-01T00:00:00Z",
    )  # fmt: skip


def patients_of(site_id: str, numbers: int = 12) -> Array:
    """Twenty that follow from the last letter of the site's name, each of so many numbers."""
    return np.random.default_rng(ord(site_id[-1])).standard_normal((20, numbers)).astype(np.float32)


def signing_key(site_id: str, seed: int = 0) -> SigningKey:
    return SigningKey.from_seed(SeededKeys(seed).child(site_id).key("identity"))


def roster_of(site_ids: Iterable[str], seed: int = 0) -> dict[str, bytes]:
    """The public keys of `vector_site`s with these names."""
    return {site_id: signing_key(site_id, seed).public.raw for site_id in site_ids}
