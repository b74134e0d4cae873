"""A real browser without a window, for tests of pages: Chromium, spoken to over its debugging pipe.

    with Browser(tmp_path, width=360, height=740) as browser:
        browser.open("http://127.0.0.1:9465/")
        browser.until("document.querySelectorAll('article').length == 1")

It speaks DevTools Protocol (https://chromedevtools.github.io/devtools-protocol/): JSON, each message ended by a zero
byte, on the file descriptors 3 and 4. No library and no driver; if no Chromium is installed, `found` gives None.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WAIT_S = 20.0
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowDown": 40}


@lru_cache(maxsize=1)
def found() -> str | None:
    """The browser's program on this machine, if there is one that runs: some systems have its name only."""
    for path in filter(None, map(shutil.which, NAMES)):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([path, "--version"], capture_output=True, timeout=WAIT_S).returncode == 0:
                return path
    return None


class Browser:
    """One page. `requests` are the addresses that it asked for, `complaints` its errors and refusals."""

    def __init__(self, folder: Path, *, width: int = 1280, height: int = 800) -> None:
        program = found()
        if program is None:
            raise RuntimeError("no Chromium is installed")
        to_it, from_us = os.pipe()
        from_it, to_us = os.pipe()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._writes, self._reads = os.fdopen(from_us, "wb", buffering=0), os.fdopen(from_it, "rb", buffering=0)
        self._rest, self._number, self._session = b"", 0, ""

        def pipes() -> None:
            kept = [os.dup(end) for end in (to_it, to_us)]  # out of the way of 3 and 4 first
            for target, end in zip((3, 4), kept, strict=True):
                os.dup2(end, target)

        self._process = subprocess.Popen(
            [program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'browser'}"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_it, to_us):
            os.close(end)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._writes.close()
        self._process.terminate()
        self._process.wait(20)
        self._reads.close()

    def open(self, address: str) -> None:
        self._call("Page.navigate", url=address)
        self.until("document.readyState == 'complete'")

    def tell(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        got = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in got:
            raise RuntimeError(f"the page cannot say that: {got['exceptionDetails'].get('text')}")
        return got["result"].get("value")

    def until(self, expression: str) -> None:
        end = time.monotonic() + WAIT_S
        while not self.tell(expression):
            if time.monotonic() > end:
                raise RuntimeError(f"the page never comes to this: {expression}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """One key, pressed and let go."""
        text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
        code = KEYS.get(key, ord(key[0].upper()))
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def _call(self, method: str, **params: Any) -> Any:
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        self._writes.write(json.dumps(asked).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                if "error" in told:
                    raise RuntimeError(f"the browser refuses: {told['error'].get('message')}")
                return told["result"]
            self._note(told)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._reads.read(1 << 16)
            if not data:
                raise RuntimeError("the browser has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        return told

    def _note(self, told: dict[str, Any]) -> None:
        params = told.get("params", {})
        match told.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"].get("text")))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(str(params["entry"]["text"]))
