"""A hospital's daemon as a process, whose patients are vectors: without a model it starts in a second or two."""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from client.daemon import Carrier, Daemon, OneThread
from client.doctor import trouble
from client.folder import CA, ROSTER, TRANSPORT, SiteFolder
from client.site import Site
from federation.supervise import Backoff
from sim.vectors import POLICY, vector_site

RANK = 2
CONSORTIUM = "vectors"


def site_of(site_id: str, folder: Path, numbers: int = 12) -> Site:
    """The site whose patients follow from its name; they and the adapter have so many numbers."""
    wide = numbers // (2 * RANK)
    shapes = {"m.lora_A.weight": (RANK, wide), "m.lora_B.weight": (wide, RANK)}
    patients = np.random.default_rng(sum(map(ord, site_id))).standard_normal((40, numbers)).astype(np.float32)
    identity = partial(SiteFolder(folder).identity, site_id) if (folder / ROSTER).exists() else None
    return vector_site(site_id, folder / "vectors", patients, shapes=shapes, policy=POLICY, identity=identity)


def main() -> None:
    """`python -m sim.vector_hospital SITE FOLDER [NUMBERS]`: the folder has enrolled already."""
    site_id, folder = sys.argv[1], Path(sys.argv[2])
    opened = SiteFolder(folder)
    thread, numbers = OneThread(), int(sys.argv[3]) if len(sys.argv) > 3 else 12
    Daemon(
        opened.door(thread.call(lambda: site_of(site_id, folder, numbers)), clock=time.time),
        folder,
        Carrier(opened.address(), folder / CA, folder / TRANSPORT, heartbeat_s=10),  # the least that Flower takes
        thread=thread,
        approve=lambda digest, by: None,
        trouble=lambda: trouble(opened),
        metrics_port=0,
        backoff=Backoff(first_s=0.5, most_s=5.0),
    ).run_until_signal()


if __name__ == "__main__":
    main()
