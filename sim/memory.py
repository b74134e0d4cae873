"""What this process takes of the machine's memory, as Linux counts it; for the benches."""

from pathlib import Path


def peak_mb() -> float:
    """The highest resident memory so far, in 10^6 bytes (getrusage would count the parent's too)."""
    return _status_mb("VmHWM")


def resident_mb() -> float:
    """The resident memory now, in 10^6 bytes."""
    return _status_mb("VmRSS")


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise RuntimeError(f"no {name} in /proc/self/status")
