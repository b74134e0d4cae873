"""What we use of Flower that is deprecated or private, in one place: its simulation engine, called with app objects.

`run_simulation` is deprecated in favour of `flwr run`, which would need a code bundle, a SuperLink process and a second
start of Python for the same engine underneath. Pinned with flwr 1.41; tests/federation/test_flower.py has the contract.
"""

import logging
import warnings
from pathlib import Path

from flwr.app import ConfigRecordValues
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flwr.supercore import telemetry


def simulate(server_app: ServerApp, client_app: ClientApp, *, nodes: int, folder: Path) -> None:
    """Run both apps in Flower's simulation engine: one Ray actor process, which all `nodes` share, in turn.

    What Ray writes goes into `folder`. An exception of the ServerApp is raised here unchanged. The environment must
    already be the one of sim/flower_engine.py.
    """
    telemetry.FLWR_TELEMETRY_ENABLED = "0"  # the variable of this name is read on import, which may have been earlier
    ray: dict[str, ConfigRecordValues] = {
        "num_cpus": 1,
        "include_dashboard": False,
        "_temp_dir": str(folder),
        "log_to_driver": False,
    }
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Ray leaves /dev/null open and its helper processes to its own exit handler.
            warnings.filterwarnings("ignore", "unclosed file .*/dev/null", ResourceWarning)
            warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
            run_simulation(
                server_app,
                client_app,
                num_supernodes=nodes,
                backend_config={"init_args": ray, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
            )
    finally:
        logger.setLevel(level)
