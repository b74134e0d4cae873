"""Small real things that many tests share."""

import os

# One thread each: the suite's sums must not depend on how many cores a machine has, and tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for switch in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "FLWR_DISABLE_UPDATE_CHECK"):
    os.environ[switch] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
