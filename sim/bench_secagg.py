"""What masking costs: CPU of a site and of the coordinator beside Flower's SecAgg+, and the mask rate beside raw AES.

Both protocols run whole, in one process, without a network: N sites with D numbers each, every message made, signed,
checked and relayed. Counted is CPU time (all threads), the least of a few rounds: a site's is the mean over the sites.
Ours includes quantising and signatures; Flower's has no signatures. Neither is serialised for a carrier. Every row has
its own process.

`digest_ms` is what the coordinator spends on the SHA-256 of the vectors it receives. The message layer computes it for
every payload, masked or not, so it is not in `server_ms`. Flower's does the same with every object that reaches its
store (`get_object_id`), beside SecAgg+: `flower_digest_ms`. The coordinator's ratio is of the protocols alone, and
again with the digests of both.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from federation.adapter import AdapterUpdate
from federation.messages import Payload
from federation.privacy.keystream import KeyStream, OperatingSystemKeys
from federation.secagg import masks, ring
from federation.secagg.bodies import Identity, RoundId, threshold
from federation.secagg.ring import Encoding
from federation.secagg.server import ServerRound
from federation.secagg.site import SiteRound
from federation.trust.keys import SigningKey
from sim.memory import peak_mb

T = TypeVar("T")
RANK = 8
GRID = tuple((sites, size, 0) for sites in (5, 10, 20) for size in (100_000, 1_000_000))
MEASURED = (10, 1_000_000)
FULL = tuple((sites, size, 0) for sites in (5, 10, 20, 50, 100) for size in (100_000, 1_000_000, 4_000_000, 16_000_000))
FLOWER_MOST = 20 * 4_000_000  # sites × numbers; beyond, one round of Flower's takes minutes


def bench(*, full: bool = False) -> dict[str, Any]:
    """What `wardround sim bench secagg --json` prints."""
    grid = (*(FULL if full else GRID), (*MEASURED, 2))
    rows, masked, alone = [], [], []
    for row in grid:
        rows.append(_in_its_own_process(*row))
        masked.append(mask_gb_per_s())  # both rates once beside every row: a machine has slow half minutes
        alone.append(aes_gb_per_s())
    beside = [row for row in rows if row["flower_site_ms"] is not None and row["dropouts"] == 0]
    main = next(row for row in rows if (row["sites"], row["size"], row["dropouts"]) == (*MEASURED, 0))
    dropped = next(row for row in rows if row["dropouts"] == 2)
    rate, (aes, by) = max(masked), max(alone)
    return {
        "bench": "secagg",
        "machine": {
            "cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system(),
            "numpy": np.__version__, "aes_ctr_gb_per_s": aes, "aes_ctr_by": by,
        },
        "figures": {
            "site_ms_n10_1e6": main["site_ms"],
            "server_ms_n10_1e6": main["server_ms"],
            "server_ms_n10_1e6_2drop": dropped["server_ms"],
            "digest_ms_n10_1e6": main["digest_ms"],
            "bytes_per_parameter": main["uplink_bytes"] / main["size"],
            "site_cpu_ratio_min": min(row["flower_site_ms"] / row["site_ms"] for row in beside),
            "server_cpu_ratio_min": min(row["flower_server_ms"] / row["server_ms"] for row in beside),
            "server_cpu_ratio_min_with_digests": min(
                (row["flower_server_ms"] + row["flower_digest_ms"]) / (row["server_ms"] + row["digest_ms"])
                for row in beside
            ),
            "mask_gb_per_s": rate,
            "mask_ratio_to_openssl": rate / aes,
        },
        "rows": rows,
    }  # fmt: skip


def measure(sites: int, size: int, dropouts: int) -> dict[str, Any]:
    """One row, measured in this process."""
    repeats = max(1, min(5, 60_000_000 // (sites * size)))
    ours = min((_Round(sites, size, dropouts).run() for _ in range(repeats)), key=lambda row: row["server_ms"])
    row = ours | {"peak_rss_mb": peak_mb(), "flower_site_ms": None, "flower_server_ms": None}
    if sites * size <= FLOWER_MOST:
        from federation.flower_secaggplus import secagg_plus

        vector = np.random.default_rng(0).normal(0, 1e-3, size).astype(np.float32)
        theirs = min(
            (
                secagg_plus([vector] * sites, threshold=threshold(sites), dropouts=dropouts)
                for _ in range(min(2, repeats))
            ),
            key=lambda costs: costs.site_s + costs.server_s,
        )
        masked = os.urandom(theirs.uplink_bytes)
        row |= {
            "flower_site_ms": 1e3 * theirs.site_s,
            "flower_server_ms": 1e3 * theirs.server_s,
            "flower_digest_ms": 1e3 * (sites - dropouts) * _least_s(lambda: hashlib.sha256(masked).digest(), times=3),
            "flower_bytes_per_parameter": theirs.uplink_bytes / size,
        }
    return row


def mask_gb_per_s(*, peers: int = 10, size: int = 4_000_000) -> float:
    """Keystream bytes that are made and added to a 16-bit vector in a second of CPU, on one core."""
    vector = np.zeros(size, "<u2")
    keys = [os.urandom(32) for _ in range(peers)]
    return peers * vector.nbytes / 1e9 / _least_s(lambda: masks.apply(vector, add=keys[::2], subtract=keys[1::2]))


def aes_gb_per_s() -> tuple[float, str]:
    """AES-256-CTR alone on this machine: by `openssl speed`, or by the cryptography library if that is not there."""
    if shutil.which("openssl"):
        command = ["openssl", "speed", "-evp", "aes-256-ctr", "-bytes", "131072", "-seconds", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"^AES-256-CTR\s+([0-9.]+)k", done.stdout, flags=re.MULTILINE)
        if found is not None:
            return float(found[1]) * 1e3 / 1e9, "openssl speed"
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    zeros, out = bytes(2**17), bytearray(2**17)
    return 2**17 / 1e9 / _least_s(lambda: stream.update_into(zeros, out), times=500), "cryptography"


class _Round:
    """One masked round of real state machines, timed on both sides; the last sites drop out before their vector."""

    def __init__(self, sites: int, size: int, dropouts: int) -> None:
        self.ids = [f"site-{number:03}" for number in range(sites)]
        self.gone = set(self.ids[sites - dropouts :])
        width = size // (2 * RANK)
        shapes = {"m.lora_A.weight": (RANK, width), "m.lora_B.weight": (width, RANK)}
        encoding = Encoding(16, shapes, dict.fromkeys(shapes, 0.008), dict.fromkeys(self.ids, 255))
        rng = np.random.default_rng(0)
        self.update = AdapterUpdate({n: rng.normal(0, 1e-3, s).astype(np.float32) for n, s in shapes.items()})
        keys = {site: SigningKey.generate() for site in self.ids}
        roster = {site: key.public.raw for site, key in keys.items()}
        round_id, inputs = RoundId("bench", 1, "00" * 32), "00" * 32
        self.sites = {
            site: SiteRound(
                round_id, Identity(site, keys[site], roster), inputs=inputs, quorum=3, keys=OperatingSystemKeys(),
                label="bench",
            )
            for site in self.ids
        }  # fmt: skip
        self.encoding = encoding
        self.server = ServerRound(round_id, roster, encoding, inputs=inputs, quorum=3)
        self.spent = {"site": 0.0, "server": 0.0, "digest": 0.0}

    def run(self) -> dict[str, Any]:
        server, timed, small = self.server, self._timed, 0
        for site, here in self.sites.items():
            timed("server", server.add_ready, site, timed("site", here.ready).signed)
        ready = timed("server", server.close_ready)
        for site, here in self.sites.items():
            timed("server", server.add_shares, site, timed("site", here.shares, ready).signed)
        boxes = timed("server", server.close_shares)
        left = {site: here for site, here in self.sites.items() if site not in self.gone}
        for site in left:
            signed, vector = timed("site", self._masked, site, boxes[site])
            arrived = Payload(vector.data)  # as it comes off the wire: nobody has vouched for its digest
            timed("digest", lambda arrived=arrived: arrived.sha256)
            timed("server", server.add_masked, site, signed.signed, arrived)
            uplink = len(vector.data)
            del vector, arrived
        masked = timed("server", server.close_masked)
        for site, here in left.items():
            timed("server", server.add_agree, site, timed("site", here.agree, masked).signed)
        agreed = timed("server", server.close_agree)
        for site, here in left.items():
            timed("server", server.add_unmask, site, timed("site", here.unmask, agreed).signed)
        found = timed("server", server.result)
        assert len(found.survivors) == len(left) and not found.suspects
        first = self.ids[0]
        small = sum(len(json.dumps(dict(said[first].signed))) for said in server.accepted.values())
        return {
            "sites": len(self.ids),
            "size": self.encoding.size,
            "dropouts": len(self.gone),
            "site_ms": 1e3 * self.spent["site"] / len(left),
            "server_ms": 1e3 * self.spent["server"],
            "digest_ms": 1e3 * self.spent["digest"],
            "uplink_bytes": uplink + small,
        }

    def _masked(self, site: str, boxes: Mapping[str, Any]) -> Any:
        def encode(sites: tuple[str, ...]) -> masks.Vector:
            rounding = KeyStream(os.urandom(32))
            return ring.encode(self.update, self.encoding, site_id=site, sites=sites, rounding=rounding)

        return self.sites[site].masked({sender: bytes.fromhex(box) for sender, box in boxes.items()}, encode)

    def _timed(self, who: str, work: Callable[..., T], *given: Any) -> T:
        begun = time.process_time()
        result = work(*given)
        self.spent[who] += time.process_time() - begun
        return result


def _least_s(work: Callable[[], object], *, times: int = 9) -> float:
    taken = []
    for _ in range(times):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)


def _in_its_own_process(sites: int, size: int, dropouts: int) -> dict[str, Any]:
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {
        "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", ""),
        "OMP_NUM_THREADS": "1", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "sim.bench_secagg", str(sites), str(size), str(dropouts)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:4]))))
