"""Numbers for Prometheus, on loopback: its text format 0.0.4 over plain HTTP, and nothing else."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENT_S = 1.0
COMMENT_S = 15.0  # so that a reader who has gone is noticed
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
Labels = tuple[tuple[str, str], ...]
Page = Callable[[str, BaseHTTPRequestHandler], bool]  # serves this path itself and says so, or says no


class Metrics:
    """Counters and gauges by name and labels. Gauges may be functions, asked when somebody looks."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        self._asked: dict[str, Callable[[], float]] = {}
        self._help: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def describe(self, name: str, kind: str, text: str) -> None:
        self._help[name] = (kind, text)

    def ask(self, name: str, text: str, function: Callable[[], float]) -> None:
        self.describe(name, "gauge", text)
        self._asked[name] = function

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        at = name, tuple(sorted(labels.items()))
        with self._lock:
            self._values[at] = self._values.get(at, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        with self._lock:
            self._values[name, tuple(sorted(labels.items()))] = value

    def text(self) -> str:
        """Every metric with its help, in the order of the names."""
        with self._lock:
            values = dict(self._values)
        values |= {(name, ()): function() for name, function in self._asked.items()}
        lines, told = [], set()
        for (name, labels), value in sorted(values.items()):
            if name in self._help and name not in told:
                kind, text = self._help[name]
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
                told.add(name)
            inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
            lines.append(f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}")
        return "\n".join(lines) + "\n"


def serve(port: int, pages: Mapping[str, Callable[[], tuple[str, bytes]]], *, other: Page | None = None) -> "Served":
    """Answer GET for these paths on 127.0.0.1. A page is a function giving its content type and its bytes.

    A request that names another host is refused: a web page elsewhere cannot read these through a name of its own.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "wardround"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if (self.headers.get("Host") or "").rsplit(":", 1)[0] not in LOOPBACK:
                self.send_error(421)
            elif path in pages:
                kind, data = pages[path]()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.send_header(
                    "Content-Security-Policy",
                    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
                    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                )
                self.end_headers()
                self.wfile.write(data)
            elif other is None or not other(path, self):
                self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what is asked here is no event."""

    return Served(ThreadingHTTPServer(("127.0.0.1", port), Handler))


def events(path: str, look: Callable[[], Mapping[str, object]]) -> Page:
    """Server-sent events (HTML standard, section 9.2): what `look` gives, whenever it has changed."""

    def page(asked: str, handler: BaseHTTPRequestHandler) -> bool:
        if asked != path:
            return False
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Cache-Control", "no-store")
        handler.end_headers()
        before, quiet = "", 0.0
        try:
            while True:
                text = json.dumps(look())
                if text != before or quiet >= COMMENT_S:
                    handler.wfile.write(f"data: {text}\n\n".encode() if text != before else b": still here\n\n")
                    handler.wfile.flush()
                    before, quiet = text, 0.0
                time.sleep(EVENT_S)
                quiet += EVENT_S
        except OSError:
            return True  # the reader has gone

    return page


class Served:
    """A listening server in a thread of its own."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        server.daemon_threads = True
        self._server = server
        self.port = int(server.server_address[1])
        threading.Thread(target=server.serve_forever, name="loopback-http", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
