"""`wardround site inspect`: a page for one browser on this machine, and for nobody else.

It listens on 127.0.0.1 only. The printed address holds a token that works once: the browser that comes with it gets a
cookie, and every other request is refused. Requests of other pages are refused by Host, Origin and Sec-Fetch-Site, so a
web page that the same person has open cannot read it. Nothing is loaded from elsewhere. One thing can be changed: a
person who gave a name can hold what they found wanting, by a form that carries a token of this session's own pages.
"""

import hmac
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from client.inspection.browse import Wanted
from client.inspection.view import STATIC, Pages
from client.signed_record import require_person
from client.workplace import Workplace
from federation.errors import DataError, FedError
from federation.terminal import Talk

_COOKIE = "wardround"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",  # under no-referrer a browser says `Origin: null` of our own forms
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_TARGET_LETTERS_MAX = 4096
_FORM_BYTES_MAX = 4096
_FORM = "application/x-www-form-urlencoded"


class Inspection:
    """A running page. `address` is the one to open; its token works once."""

    def __init__(self, place: Workplace, port: int, person: str = "") -> None:
        """Args:
            person: who looks, and may hold; without a name nothing can be changed.

        Raises: DataError receiver when the port is taken; StoreError when there is no store; FormatError for a name
        that no record can hold.
        """
        if person:
            require_person(person)
        place.open_store().close()
        self.pages = Pages(place, person)
        self._token, self._session = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        inspection = self

        class Handler(_Handler):
            owner = inspection

        try:
            self._server = _Server(("127.0.0.1", port), Handler)
        except OSError:
            raise DataError(
                "receiver", f"nothing can listen on port {port}", hint="leave out --port: the system finds a free one"
            ) from None
        self.port = int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self._token}"

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.pages.close()

    def redeem(self, token: str) -> str | None:
        """The session of the browser that brings the token, once."""
        with self._lock:
            if not self._token or not hmac.compare_digest(token.encode(), self._token.encode()):
                return None
            self._token = ""
            return self._session

    def knows(self, session: str) -> bool:
        return hmac.compare_digest(session.encode(), self._session.encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing, unless asked for: browsers hang up in the middle of an answer, and a traceback may show data."""
        if os.environ.get("WARDROUND_DEBUG") == "1":
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    owner: Inspection
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "wardround", ""
    timeout = 30

    def do_GET(self) -> None:
        if len(self.path) > _TARGET_LETTERS_MAX or not self._is_local():
            self._refuse(403, "this page is for one browser on this machine")
            return
        try:
            target = urlsplit(self.path)
        except ValueError:
            self._refuse(400, "this is no address of a page")
            return
        asked = {name: values[-1] for name, values in parse_qs(target.query).items()}
        if (token := asked.pop("token", None)) is not None:
            self._welcome(token, target.path, asked)
        elif not self.owner.knows(self._session()):
            self._refuse(403, "open the address that wardround site inspect printed; it works once")
        else:
            try:
                self._answer(target.path, asked)
            except FedError as error:
                self._refuse(500, f"{error.message}: {error.hint}")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """A form of one of our own pages: marks what was looked at, or holds it, and leads to the next example."""
        if not self.owner.pages.looking.person:
            self._refuse(405, "nothing can be changed here without a name: wardround site inspect --by")
        elif not self._is_local() or not self._is_own_form() or not self.owner.knows(self._session()):
            self._refuse(403, "this form is not one of this page")
        elif (form := self._form()) is None or not self.owner.pages.looking.owns(form.pop("token", "")):
            self._refuse(403, "this form is of another session: open the page again")
        else:
            try:
                self._decide(form)
            except FedError as error:
                self._refuse(500, f"{error.message}: {error.hint}")

    def _decide(self, form: dict[str, str]) -> None:
        key, _, act = self.path.removeprefix("/example/").partition("/")
        where = self.owner.pages.decide(key, act, wanted_of(form), queued="queue" in form)
        if where is None:
            self._refuse(404, "there is no such example, or nothing like this to do with it")
        else:
            self._send(303, "text/plain; charset=utf-8", b"", {"Location": where})

    def _is_own_form(self) -> bool:
        """Every browser of today says of a form where it comes from."""
        is_same = self.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
        return is_same and self.headers.get("Origin") is not None and self.headers.get("Content-Type") == _FORM

    def _form(self) -> dict[str, str] | None:
        length = self.headers.get("Content-Length", "")
        if re.fullmatch("[0-9]{1,5}", length) is None or int(length) > _FORM_BYTES_MAX:
            return None
        text = self.rfile.read(int(length)).decode("utf-8", "replace")
        return {name: values[-1] for name, values in parse_qs(text).items()}

    def _answer(self, path: str, asked: dict[str, str]) -> None:
        pages = self.owner.pages
        wanted = wanted_of(asked)
        first, _, rest = path.removeprefix("/").partition("/")
        if path == "/":
            self._page(pages.overview(wanted, asked.get("after", "")))
        elif path == "/held":
            self._page(pages.held(asked.get("after", "")))
        elif path == "/queue":
            self._page(pages.queue())
        elif path in STATIC:
            self._send(200, STATIC[path], pages.static(path))
        elif first == "example" and (
            page := pages.example(rest, wanted, queued="queue" in asked, ask=asked.get("ask", ""))
        ):
            self._page(page)
        elif first in ("picture", "thumb") and rest.endswith(".png"):
            data = pages.picture(rest.removesuffix(".png"), small=first == "thumb")
            if data is None:
                self._refuse(404, "there is no such picture")
            else:
                self._send(200, "image/png", data)
        else:
            self._refuse(404, "there is no such page")

    def _welcome(self, token: str, path: str, asked: dict[str, str]) -> None:
        session = self.owner.redeem(token)
        if session is None:
            self._refuse(403, "this address was used already: start wardround site inspect again")
            return
        where = path if path.startswith("/") and not path.startswith("//") else "/"
        more = {
            "Location": where + ("?" + urlencode(asked) if asked else ""),
            "Set-Cookie": f"{_COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/",
        }
        self._send(303, "text/plain; charset=utf-8", b"", more)

    def _is_local(self) -> bool:
        """Host against DNS rebinding, Origin and Sec-Fetch-Site against requests that another page makes."""
        hosts = [f"127.0.0.1:{self.owner.port}", f"localhost:{self.owner.port}"]
        if self.headers.get_all("Host") not in [[host] for host in hosts]:
            return False
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            return False
        return self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")

    def _session(self) -> str:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return ""
        return cookies[_COOKIE].value if _COOKIE in cookies else ""

    def _page(self, text: str) -> None:
        self._send(200, "text/html; charset=utf-8", text.encode())

    def _refuse(self, status: int, why: str) -> None:
        self._send(status, "text/plain; charset=utf-8", why.encode() + b"\n")

    def _send(self, status: int, kind: str, data: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **(more or {}), "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        if status >= 400:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a log of what somebody searched for is a log of patients."""


def wanted_of(asked: Mapping[str, str]) -> Wanted:
    """What a person looks for, out of an address or a form."""
    return Wanted(asked.get("q", "").strip()[:200], asked.get("modality", "")[:16], asked.get("only", "")[:16])


def inspect_store(place: Workplace, port: int, person: str, opened: Callable[[str], None], talk: Talk) -> None:
    """Serve until Ctrl-C. `opened` gets the address; nothing else ever learns it."""
    inspection = Inspection(place, port, person)
    opened(inspection.address)
    talk.line("wardround: open this address in a browser on this machine; it works once. Ctrl-C ends")
    try:
        inspection.serve()
    except KeyboardInterrupt:
        pass
