"""What the federation itself costs: rounds of real sites and a real coordinator beside a plain numpy loop.

"Training" is one pass over the adapter, so nothing hides the rest: consent, policy, canonical bytes, hashes, durable
answers, checks, the mean and the checkpoint. The numpy loop does the same passes and the same mean, and nothing else.
Rounds of the two alternate in one process, medians are reported, and every row has a process of its own.

Two passes are measured. "normal" draws one normal number per parameter with numpy's own generator: less than the noise
that a private site has to draw in each of its steps; the reported ratio is this one. "multiply" is the cheapest pass
there is, far below one SHA-256 of the same bytes: its ratio is large and says what hashing once and making the answer
durable cost beside the speed of memory. Every row shows these two as well, measured alone in the same folder.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from client.policy import Policy
from client.settings import Data, Settings, SiteIdentity
from client.site import Site
from federation import durable
from federation.adapter import Adapter, AdapterUpdate, Array
from federation.plan import AdapterPlan, Aggregation, Model, Privacy, Run, RunPlan
from federation.privacy.ledger import Ledger
from federation.privacy.mechanism import Mechanism
from federation.privacy.noise import KeySource
from server import rounds
from server.checkpoint import Checkpoints
from server.record import RoundRecord
from sim.keys import SeededKeys
from sim.links import LocalLink

LAYERS, RANK = 16, 8
WARM_UP = 2
DECLARED_PATIENTS = 1000

Pass = Callable[[Array, int], Array]


def bench(
    *, sites: int = 50, adapter_mb: float = 4.0, rounds: int = 5, beside: tuple[int, ...] = (10, 50, 200)
) -> dict[str, Any]:
    """What `wardround sim bench federation --json` prints. `beside`: other numbers of sites, to compare memory."""
    main = _in_its_own_process(sites, adapter_mb, rounds, "normal")
    others = [
        _in_its_own_process(count, adapter_mb, max(2, rounds // 2), "normal") for count in beside if count != sites
    ]
    cheapest = _in_its_own_process(sites, adapter_mb, rounds, "multiply")
    names = ("seconds_per_round", "seconds_per_round_ratio_to_numpy", "peak_rss_mb", "sites", "adapter_mb")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    return {
        "bench": "federation",
        "machine": machine | {"numpy": np.__version__},
        "figures": {name: main[name] for name in names},
        "rows": sorted([main, *others], key=lambda row: int(row["sites"])) + [cheapest],
    }


def measure(sites: int, adapter_mb: float, round_count: int, pass_name: str) -> dict[str, Any]:
    """One row, measured in this process. The first two rounds make the sites' files; they are run and not counted."""
    width = max(1, round(adapter_mb * 1e6 / 4 / (LAYERS * 2 * RANK)))
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(LAYERS)]
    shapes = {f"{name}.lora_A.weight": (RANK, width) for name in names}
    shapes |= {f"{name}.lora_B.weight": (width, RANK) for name in names}
    plan = RunPlan(
        run=Run(name="bench", rounds=round_count + WARM_UP),
        model=Model(path="none"),
        privacy=Privacy(unit="none"),
        adapter=AdapterPlan(a_init="kaiming"),
        aggregation=Aggregation(weights="equal"),
    )
    site_ids = [f"site-{number}" for number in range(sites)]
    one_pass = PASSES[pass_name]
    ours_s: list[float] = []
    numpy_s: list[float] = []
    with TemporaryDirectory() as folder:
        link = LocalLink({site_id: _site(site_id, Path(folder) / site_id, shapes, one_pass) for site_id in site_ids})
        checkpoints = Checkpoints.create(Path(folder) / "run", run_id="bench", plan=plan)
        started = time.perf_counter()

        def alternate(record: RoundRecord, adapter: Adapter) -> None:
            nonlocal started
            ours_s.append(time.perf_counter() - started)
            vector = adapter.flatten()
            begun = time.perf_counter()
            _numpy_round(vector, sites, one_pass)
            numpy_s.append(time.perf_counter() - begun)
            started = time.perf_counter()

        rounds.run(plan, link, checkpoints, observer=alternate)
        data = np.zeros(LAYERS * 2 * RANK * width, np.float32).tobytes()
        hash_ms = _median_ms(lambda: hashlib.sha256(data).digest())
        keep_ms = _median_ms(lambda: durable.write(Path(folder) / "floor", [data]))
    return {
        "sites": sites,
        "adapter_mb": round(len(data) / 1e6, 3),
        "pass": pass_name,
        "rounds": round_count,
        "seconds_per_round": median(ours_s[WARM_UP:]),
        "numpy_seconds_per_round": median(numpy_s[WARM_UP:]),
        "seconds_per_round_ratio_to_numpy": median(
            ours / plain for ours, plain in zip(ours_s[WARM_UP:], numpy_s[WARM_UP:], strict=True)
        ),
        "overhead_ms_per_site": 1e3 * (median(ours_s[WARM_UP:]) - median(numpy_s[WARM_UP:])) / sites,
        "sha256_ms": hash_ms,
        "durable_write_ms": keep_ms,
        "peak_rss_mb": _peak_rss_mb(),
        "torch_imported": "torch" in sys.modules,
    }


class PassLearner:
    """A learner without a model or patients: its update is one pass over the adapter's numbers."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], number: int, one_pass: Pass) -> None:
        self._shapes, self._number, self._pass = shapes, number, one_pass

    def base_digest(self) -> str:
        return "ba5e" * 16

    def adapter_shapes(self, plan: RunPlan) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def declared_patients(self) -> int:
        return DECLARED_PATIENTS

    def update(
        self, plan: RunPlan, adapter: Adapter, mechanism: Mechanism | None, keys: KeySource, label: str
    ) -> AdapterUpdate:
        arrays = {name: self._pass(array, self._number) for name, array in adapter.arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False  # handed over, not copied
        return AdapterUpdate(arrays)


def _normal(array: Array, number: int) -> Array:
    drawn = np.random.default_rng(number).standard_normal(array.shape, dtype=np.float32)
    drawn *= np.float32(1e-3)
    return drawn


def _multiply(array: Array, number: int) -> Array:
    return array * np.float32(1e-3 * (1 + number))


PASSES: dict[str, Pass] = {"normal": _normal, "multiply": _multiply}


def _numpy_round(vector: Array, sites: int, one_pass: Pass) -> Array:
    """The same arithmetic with nothing around it."""
    total = np.zeros_like(vector)
    for number in range(sites):
        total += one_pass(vector, number)
    return vector + total / np.float32(sites)


def _site(site_id: str, folder: Path, shapes: Mapping[str, tuple[int, ...]], one_pass: Pass) -> Site:
    policy = Policy(epsilon_max=1.0, approve="matching", allow_without_privacy=True)
    settings = Settings(SiteIdentity(site_id), Data("store", "secret", DECLARED_PATIENTS), policy)
    learner = PassLearner(shapes, int(site_id.removeprefix("site-")), one_pass)
    return Site(settings, policy, Ledger.open(folder / "ledger"), SeededKeys(site_id), learner, folder / "state")


def _in_its_own_process(sites: int, adapter_mb: float, round_count: int, pass_name: str) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "sim.bench_federation", str(sites), str(adapter_mb), str(round_count), pass_name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _median_ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(9):
        begun = time.perf_counter()
        work()
        taken.append(1e3 * (time.perf_counter() - begun))
    return median(taken)


def _peak_rss_mb() -> float:
    """The highest resident memory of this process, as Linux counts it (getrusage would count the parent's too)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise RuntimeError("no VmHWM in /proc/self/status")


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
