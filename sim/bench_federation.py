"""What the federation itself costs: rounds of real sites and a real coordinator beside plain numpy on the same bytes.

"Training" is one elementwise pass over the adapter, so nothing hides the rest: consent, policy, canonical bytes, hash,
kept answers, checks, the mean and the checkpoint. Beside it, in the same process:

    numpy      the same passes, then the same bytes: every site's kept answer is read from its file as one array, and
               `np.mean` of all of them; nothing is named, checked, kept or written
    memory     the same passes, then `np.mean` over all updates at once, which have never left the memory
    streaming  the same passes, each added to one sum and dropped: the least that any implementation must do

Sites work beside each other on the cores that are there, as hospitals do; numpy uses one.

One SHA-256 over an update costs more than its pass and its share of the mean together, so the ratios to `memory` and
`streaming` cannot be small while updates are named by digest; all are printed. Seconds are wall time; on a machine
that does something else meanwhile, compare `cpu_ratio_to_numpy`, which is of processor time.

Answers are kept in memory-backed files where the machine has them (`kept_on`), because the disk of the simulating
machine is nobody's bottleneck. Every row has its own process.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from client.policy import Policy
from client.settings import Data, Settings, SiteIdentity
from client.site import Site
from federation.adapter import Adapter, AdapterUpdate, Array, Factor
from federation.plan import AdapterPlan, Aggregation, Model, Privacy, Run, RunPlan
from federation.privacy.grid import WholeSum
from federation.privacy.keystream import KeySource, KeyStream
from federation.privacy.ledger import Ledger
from federation.privacy.mechanism import Mechanism, NoisyShare
from server import rounds
from server.checkpoint import Checkpoints
from server.record import RoundRecord
from sim.keys import SeededKeys
from sim.links import LocalLink
from sim.memory import peak_mb

LAYERS, RANK = 16, 8
WARM_UP = 2
DECLARED_PATIENTS = 1000
AT_ONCE = 4  # sites that work at the same time, if there are as many cores


def bench(
    *, sites: int = 50, adapter_mb: float = 4.0, rounds: int = 5, beside: tuple[int, ...] = (10, 50, 200)
) -> dict[str, Any]:
    """What `wardround sim bench federation --json` prints. `beside`: other numbers of sites, to compare memory."""
    main = _in_its_own_process(sites, adapter_mb, rounds)
    others = [_in_its_own_process(count, adapter_mb, max(2, rounds // 2)) for count in beside if count != sites]
    ratios = ("seconds_per_round_ratio_to_numpy", "cpu_ratio_to_numpy", "seconds_per_round_ratio_to_numpy_in_memory")
    names = ("seconds_per_round", *ratios, "peak_rss_mb", "sites", "adapter_mb")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
    return {
        "bench": "federation",
        "machine": machine | {"numpy": np.__version__},
        "figures": {name: main[name] for name in names},
        "rows": sorted([main, *others], key=lambda row: int(row["sites"])),
    }


def measure(sites: int, adapter_mb: float, round_count: int) -> dict[str, Any]:
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
        aggregation=Aggregation(weights="equal", secure=False),
    )
    site_ids = [f"site-{number}" for number in range(sites)]
    ours_s: list[tuple[float, float]] = []
    memory = Path("/dev/shm")
    room = 3 * sites * adapter_mb * 1e6
    kept_on = memory if memory.is_dir() and shutil.disk_usage(memory).free > room else None
    with TemporaryDirectory(dir=kept_on) as folder:
        sites_here = {site_id: _site(site_id, Path(folder) / site_id, shapes) for site_id in site_ids}
        at_once = min(os.cpu_count() or 1, AT_ONCE)
        link = LocalLink(sites_here, at_once=at_once)
        checkpoints = Checkpoints.create(Path(folder) / "run", run_id="bench", plan=plan)
        started = _now()
        last: list[Adapter] = []

        def observe(record: RoundRecord, adapter: Adapter) -> None:
            nonlocal started
            ours_s.append(_since(started))
            last[:] = [adapter]
            started = _now()

        rounds.run(plan, link, checkpoints, observer=observe)
        peak_rss_mb = peak_mb()  # before numpy's own turn, which holds every update at once
        vector = last[0].flatten()
        hash_ms = 1e3 * _median_s(lambda: hashlib.sha256(vector.data).digest())[0]
        kept = sorted(Path(folder).glob(f"*/state/runs/bench/{'odd' if len(ours_s) % 2 else 'even'}.answer"))
        assert len(kept) == sites
        numpy_s, numpy_cpu_s = _median_s(lambda: _numpy_round(vector, kept), times=max(3, round_count))
    memory_s, _ = _median_s(lambda: _memory_round(vector, sites), times=max(3, round_count))
    streaming_s, _ = _median_s(lambda: _streaming_round(vector, sites), times=max(3, round_count))
    seconds, cpu_s = _medians(ours_s[WARM_UP:])
    return {
        "sites": sites,
        "sites_at_once": at_once,
        "adapter_mb": round(vector.nbytes / 1e6, 3),
        "rounds": round_count,
        "seconds_per_round": seconds,
        "numpy_seconds_per_round": numpy_s,
        "numpy_in_memory_seconds_per_round": memory_s,
        "streaming_seconds_per_round": streaming_s,
        "cpu_seconds_per_round": cpu_s,
        "numpy_cpu_seconds_per_round": numpy_cpu_s,
        "cpu_ratio_to_numpy": cpu_s / numpy_cpu_s,
        "seconds_per_round_ratio_to_numpy": seconds / numpy_s,
        "seconds_per_round_ratio_to_numpy_in_memory": seconds / memory_s,
        "seconds_per_round_ratio_to_streaming": seconds / streaming_s,
        "overhead_ms_per_site": 1e3 * (seconds - streaming_s) / sites,
        "sha256_ms": hash_ms,
        "peak_rss_mb": peak_rss_mb,
        "kept_on": "memory" if kept_on else "disk",
        "torch_imported": "torch" in sys.modules,
    }


class PassLearner:
    """A learner without a model or patients: its update is one pass over the adapter's numbers."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], number: int) -> None:
        self._shapes, self._number = shapes, number

    def base_digest(self) -> str:
        return "ba5e" * 16

    def adapter_shapes(self, plan: RunPlan) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def declared_patients(self) -> int:
        return DECLARED_PATIENTS

    def keying(self) -> str:
        return "rows"

    def data_released(self) -> bool:
        return True  # there is nobody in it

    def update(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism | None,
        keys: KeySource,
        label: str,
    ) -> AdapterUpdate:
        arrays = {name: _one_pass(array, self._number) for name, array in adapter.arrays.items()}
        for array in arrays.values():
            array.flags.writeable = False  # handed over, not copied
        return AdapterUpdate(arrays)

    def share(
        self,
        plan: RunPlan,
        factors: frozenset[Factor],
        adapter: Adapter,
        mechanism: Mechanism,
        keys: KeySource,
        label: str,
    ) -> NoisyShare:
        nobody = WholeSum(np.zeros(adapter.part(factors).size, np.int64), mechanism.grid_bits)
        return mechanism.add_share(nobody, KeyStream(keys.key(label)))


def _one_pass(array: Array, number: int) -> Array:
    """Stands for training: read every number, write every number."""
    return array * np.float32(1e-3 * (1 + number))


def _numpy_round(vector: Array, kept: Sequence[Path]) -> Array:
    """Every site's numbers out of the file of its answer, where they end eight bytes before the end; and their mean."""
    updates = []
    for number, path in enumerate(kept):
        _one_pass(vector, number)
        start = path.stat().st_size - vector.nbytes - 8
        updates.append(np.fromfile(path, np.float32, vector.size, offset=start))
    after: Array = vector + np.mean(updates, axis=0)
    return after


def _memory_round(vector: Array, sites: int) -> Array:
    """Every site's update as an array, and their mean."""
    updates = [_one_pass(vector, number) for number in range(sites)]
    after: Array = vector + np.mean(updates, axis=0)
    return after


def _streaming_round(vector: Array, sites: int) -> Array:
    """One sum, one update at a time."""
    total = np.zeros_like(vector)
    for number in range(sites):
        total += _one_pass(vector, number)
    return vector + total / np.float32(sites)


def _site(site_id: str, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Site:
    policy = Policy(epsilon_max=1.0, approve="matching", allow_without_privacy=True)
    settings = Settings(SiteIdentity(site_id), Data("store", "secret", DECLARED_PATIENTS), policy)
    learner = PassLearner(shapes, int(site_id.removeprefix("site-")))
    return Site(settings, policy, Ledger.open(folder / "ledger"), SeededKeys(site_id), learner, folder / "state")


def _in_its_own_process(sites: int, adapter_mb: float, round_count: int) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
    command = [sys.executable, "-m", "sim.bench_federation", str(sites), str(adapter_mb), str(round_count)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _now()
    return wall - begun[0], cpu - begun[1]


def _median_s(work: Callable[[], object], *, times: int = 9) -> tuple[float, float]:
    """Wall time and processor time."""
    taken = []
    for _ in range(times):
        begun = _now()
        work()
        taken.append(_since(begun))
    return _medians(taken)


def _medians(taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return median(wall for wall, _ in taken), median(cpu for _, cpu in taken)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
