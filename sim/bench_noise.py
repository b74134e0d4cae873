"""What sharing the noise is worth: each site its own, all together, and one trusted party, on the same patients.

Eight hospitals of 80 made patients, logistic regression on 100 numbers (half of them noise of the pictures, one could
say), one step on half of the patients in each of 24 rounds. Sites, ledgers, masks, sums and gate are the real ones, and
so is every epsilon: the noise is the least with which a site's own ledger stays within it. "Trusted" is a federation of
one site that has everybody's patients, without masks. Accuracy is on 4,000 other made patients, the mean over seeds.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from client.policy import Policy
from federation.adapter import Array
from federation.plan import RunPlan, parse_plan
from federation.privacy import accounting
from federation.privacy.accounting import Event, SharedNoise
from federation.privacy.grid import grid_bits
from server import rounds
from server.checkpoint import Checkpoints
from sim.links import LocalLink
from sim.vectors import roster_of, vector_site

HOSPITALS, PATIENTS, EXAMINED = 8, 80, 4000
SHAPES = {"m.lora_A.weight": (2, 25), "m.lora_B.weight": (25, 2)}  # a hundred numbers, and no product of matrices
NUMBERS = 100
STEPS, RATE, LEARNING_RATE, DELTA = 24, 0.5, 2.0, 1 / (10 * PATIENTS)
EPSILONS = (1.0, 3.0, 8.0)
POLICY = Policy(
    epsilon_max=100.0, delta_max=0.01, quorum_min=1, approve="matching", honest_sites_max=HOSPITALS,
    allow_without_privacy=True,
)  # fmt: skip


@dataclass(frozen=True)
class Way:
    """One column: who adds how much of the noise."""

    name: str
    honest_sites: int | None = None  # None: every site all of its own
    pooled: bool = False

    def plan(self, noise_multiplier: float | None) -> RunPlan:
        shared = "" if self.honest_sites is None else f'noise = "shared"\nhonest_sites = {self.honest_sites}'
        private = 'unit = "none"' if noise_multiplier is None else f"noise_multiplier = {noise_multiplier}\n{shared}"
        return parse_plan(f"""
[run]
name = "noise"
rounds = {STEPS}
[model]
path = "none"
[training]
local_steps = 1
sampling_rate = {RATE}
learning_rate = {LEARNING_RATE}
optimizer = "sgd"
[privacy]
{private}
clipping = "flat"
clipping_norm = 1.0
[aggregation]
secure = {str(not self.pooled).lower()}
robust = "none"
weights = "declared-patients"
max_update_rms = 100.0
[evaluation]
held_out_share = 0.0
""")

    def noise_multiplier(self, epsilon: float) -> float:
        shared = None if self.honest_sites is None else SharedNoise(self.honest_sites, grid_bits(NUMBERS))
        return _noise_multiplier(epsilon, shared)


WAYS = (Way("own"), Way("shared, 4 honest", 4), Way("shared, 6 honest", 6), Way("trusted", pooled=True))


def bench(
    *, seeds: int = 10, ways: Sequence[Way] = WAYS, progress: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, Any]:
    """What `wardround sim bench noise --json` prints."""
    cells = [(way, epsilon) for epsilon in EPSILONS for way in ways] + [(Way("trusted", pooled=True), None)]
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        for done, (way, epsilon) in enumerate(cells):
            found.setdefault(name_of(way, epsilon), []).append(accuracy_of(way, epsilon, seed))
            progress(seed * len(cells) + done + 1, seeds * len(cells))
    return {
        "bench": "noise",
        "figures": {name: float(np.mean(values)) for name, values in found.items()},
        "standard_error": {name: float(np.std(values) / math.sqrt(len(values))) for name, values in found.items()},
        "seeds": seeds,
    }


def name_of(way: Way, epsilon: float | None) -> str:
    return f"epsilon {'none' if epsilon is None else format(epsilon, 'g')}, {way.name}"


def accuracy_of(way: Way, epsilon: float | None, seed: int) -> float:
    """One run from beginning to end, and how many of the other patients its adapter is right about."""
    patients, examined = cases(seed)
    held = {"site-all": patients} if way.pooled else {
        f"site-{number}": part for number, part in enumerate(np.split(patients, HOSPITALS))
    }  # fmt: skip
    plan = way.plan(None if epsilon is None else way.noise_multiplier(epsilon))
    with tempfile.TemporaryDirectory() as folder:
        point = _trained(plan, held, Path(folder), seed)
    right = (examined[:, :NUMBERS] @ point > 0) == (examined[:, NUMBERS] > 0)
    return float(right.mean())


def cases(seed: int) -> tuple[Array, Array]:
    """Patients of all hospitals, and those to examine: a hundred numbers and the answer, which depends on all."""
    rng = np.random.default_rng([seed, 7])
    truth = rng.standard_normal(NUMBERS)
    numbers = rng.standard_normal((HOSPITALS * PATIENTS + EXAMINED, NUMBERS))
    chance = 1 / (1 + np.exp(-4.0 * numbers @ truth / math.sqrt(NUMBERS)))
    answers = rng.random(len(numbers)) < chance
    made = np.column_stack([numbers, answers]).astype(np.float32)
    return made[: HOSPITALS * PATIENTS], made[HOSPITALS * PATIENTS :]


def logistic(point: Array, patients: Array) -> Array:
    """The gradients of -log P(answer), one row per patient."""
    numbers, answers = patients[:, :NUMBERS], patients[:, NUMBERS]
    error: Array = 1 / (1 + np.exp(-numbers @ point)) - answers
    return error[:, None] * numbers


def _trained(plan: RunPlan, held: Mapping[str, Array], folder: Path, seed: int) -> Array:
    roster = roster_of(held, seed)
    sites = {
        site: vector_site(
            site, folder / site, patients, shapes=SHAPES, policy=POLICY, declared_patients=len(patients),
            gradients=logistic, seed=seed, roster=roster,
        )
        for site, patients in held.items()
    }  # fmt: skip
    checkpoints = Checkpoints.create(folder / "run", run_id=f"noise-{seed}", plan=plan)
    result = rounds.run(plan, LocalLink(sites), checkpoints, roster=roster)
    for site in sites.values():
        site.ledger.close()
    assert all(record.outcome == "accepted" for record in result.rounds)
    return result.adapter.flatten()


@lru_cache
def _noise_multiplier(epsilon: float, shared: SharedNoise | None) -> float:
    """The least for so many steps, rounded up in the third decimal; shared noise costs a millionth more."""
    least = accounting.noise_multiplier_for(epsilon, delta=DELTA, sampling_rate=RATE, steps=STEPS)
    ticks = math.ceil(least * 1000)
    while accounting.epsilon([Event(RATE, ticks / 1000, STEPS, "", shared=shared)], DELTA) > epsilon:
        ticks += 1
    return ticks / 1000
