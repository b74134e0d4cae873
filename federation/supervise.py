"""A child process that is kept alive: started again after it ends, with growing waits, and never outliving us."""

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1
STOP_S = 8.0  # for a polite end; then SIGKILL. SIGTERM of the whole service has to end within ten seconds
# Nothing is reported, fetched or installed by anything that we start, whatever its defaults are.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0", "GRPC_VERBOSITY": "ERROR", "PYTHONDONTWRITEBYTECODE": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}  # fmt: skip
# What a child may know of our environment: where programs and packages are, and how to reach the coordinator.
KEPT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "COVERAGE_PROCESS_START")
PROXIES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE")


def environment(source: Mapping[str, str], extra: Mapping[str, str], *, proxies: bool = False) -> dict[str, str]:
    """A small environment for a child: a few variables of ours, the switches that keep it quiet, and `extra`."""
    names = KEPT + (PROXIES if proxies else ())
    return {**{name: source[name] for name in names if name in source}, **QUIET, **extra}


@dataclass(frozen=True)
class Backoff:
    """Waits between restarts: doubling, with jitter, and from the start again once a child has lived long enough."""

    first_s: float = 1.0
    most_s: float = 60.0
    healthy_s: float = 60.0
    jitter: float = 0.5

    def wait_s(self, failures: int, rng: random.Random) -> float:
        plain = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return plain * (1 + self.jitter * (2 * rng.random() - 1))


class Child:
    """One supervised process. `on_line` gets what it says, a line at a time; `on_event` what happens to it."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        env: Mapping[str, str],
        *,
        on_line: Callable[[str, str], None],
        on_event: Callable[..., None],
        backoff: Backoff,
    ) -> None:
        self.name, self.starts = name, 0
        self._command, self._env, self._backoff = command, dict(env), backoff
        self._on_line, self._on_event = on_line, on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def again(self) -> None:
        """End it politely; it is started again."""
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def begin_stop(self) -> None:
        """SIGTERM, without waiting for what comes of it; it is not started again."""
        self._over.set()
        with self._lock:
            process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def stop(self) -> None:
        """End it for good: SIGTERM, and SIGKILL for one that does not listen."""
        self.begin_stop()
        process = self._process
        self._thread.join(STOP_S)
        if process is not None and process.poll() is None:
            process.kill()
            self._thread.join(1.0)

    def _watch(self) -> None:
        rng, failures = random.Random(), 0
        while not self._over.is_set():
            began = time.monotonic()
            self._run_once()
            lived = time.monotonic() - began
            if self._over.is_set():
                return
            failures = 1 if lived >= self._backoff.healthy_s else failures + 1
            wait = self._backoff.wait_s(failures, rng)
            self._on_event("child-ended", child=self.name, lived_s=round(lived, 1), again_in_s=round(wait, 1))
            self._over.wait(wait)

    def _run_once(self) -> None:
        with self._lock:
            if self._over.is_set():
                return
            # The death signal is sent when the thread that started the child ends: this one, which waits for it.
            process = self._process = subprocess.Popen(
                [*self._command(), "--parent", str(os.getpid())],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self.starts += 1
        self._on_event("child-started", child=self.name, pid=process.pid)
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._on_line(self.name, line.decode("utf-8", "replace").rstrip())
        process.wait()


def end(processes: Collection[subprocess.Popen[bytes]], *, wait_s: float) -> None:
    """SIGTERM to all, then `wait_s` for each, and SIGKILL for one that does not listen. None is left afterwards."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with(parent: int) -> None:
    """Called first thing in a child: the kernel ends it when its parent does, so that no orphan serves on."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def ours(module: str, *arguments: str) -> list[str]:
    """The command of a module of ours, in this very Python, with nothing of the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
