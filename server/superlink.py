"""Flower's SuperLink behind our guard: a process with two listeners in front of one application.

    outside   TLS 1.3, and only the calls of nodes: POST /v1/fleet/…, bounded in size. Everything else is 404
    loopback  plain HTTP, everything (Control, Runtime), for whoever knows the secret of this run of the process

Flower's own SuperLink has one listener for all of it, and its Control API has no authentication: whoever reaches it can
start a run. Here it is neither reachable from outside nor open to other users of this machine.
"""

import argparse
import asyncio
import hmac
import os
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

from federation import flower_private, supervise

FLEET = frozenset(
    "/v1/fleet/" + name
    for name in (
        "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run",
        "get-fab", "push-object", "pull-object", "confirm-message-received",
    )
)  # fmt: skip
BODY_BYTES_MAX = 16 * 2**20  # Flower cuts arrays into pieces of 5 MiB

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _TooLarge(Exception):
    pass


def outside(app: App, *, body_bytes_max: int = BODY_BYTES_MAX) -> App:
    """`app` as nodes may reach it. The path is compared as it was sent: no other spelling of it is let through."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        if scope["method"] != "POST" or raw.decode("ascii", "replace") not in FLEET or scope["path"] not in FLEET:
            await _refuse(send, 404)
            return
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if any(not value.isdigit() or int(value) > body_bytes_max for value in lengths):
            await _refuse(send, 413)
            return
        taken, started = 0, False

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > body_bytes_max:
                raise _TooLarge
            return message

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, counted, noted)
        except _TooLarge:
            if not started:
                await _refuse(send, 413)

    return guarded


def loopback(app: App, secret: str) -> App:
    """`app` for whoever sends the secret; /health for anybody on this machine."""
    name, wanted = flower_private.LOCAL_HEADER.encode(), secret.encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = [value for header, value in scope["headers"] if header == name]
            if len(given) != 1 or not hmac.compare_digest(given[0], wanted):
                await _refuse(send, 403)
                return
        await app(scope, receive, send)

    return guarded


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 and nothing older (RFC 8446)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    return context


async def serve(
    app: App,
    *,
    listen: tuple[str, int],
    local_port: int,
    certificate: Path,
    key: Path,
    local_secret: str,
    body_bytes_max: int = BODY_BYTES_MAX,
) -> None:
    """Both listeners until the process is told to end. The application's own start and end belong to the inner one."""
    common: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False, "ws": "none"}
    inner = uvicorn.Server(
        uvicorn.Config(loopback(app, local_secret), host="127.0.0.1", port=local_port, lifespan="on", **common)
    )
    outer = uvicorn.Server(
        uvicorn.Config(
            outside(app, body_bytes_max=body_bytes_max),
            host=listen[0],
            port=listen[1],
            lifespan="off",
            ssl_certfile=certificate,
            ssl_context_factory=lambda config, default: tls(certificate, key),
            proxy_headers=False,
            timeout_graceful_shutdown=3,
            **common,
        )
    )
    inner_task = asyncio.create_task(inner.serve())
    while not inner.started and not inner_task.done():
        await asyncio.sleep(0.02)
    outer_task = asyncio.create_task(outer.serve())
    try:
        await asyncio.wait((inner_task, outer_task), return_when=asyncio.FIRST_COMPLETED)
    finally:
        inner.should_exit = outer.should_exit = True
        await asyncio.gather(inner_task, outer_task)


def main() -> None:
    """`python -m server.superlink …`, started by `coordinator serve` and ended with it."""
    parser = argparse.ArgumentParser(prog="server.superlink")
    for name in ("--database", "--secret", "--local-secret", "--certificate", "--key", "--listen"):
        parser.add_argument(name, required=True)
    parser.add_argument("--local-port", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    supervise.die_with(given.parent)
    os.umask(0o077)
    host, _, port = given.listen.rpartition(":")
    app = flower_private.superlink_app(Path(given.database), Path(given.secret).read_bytes().strip())
    asyncio.run(
        serve(
            app,
            listen=(host, int(port)),
            local_port=given.local_port,
            certificate=Path(given.certificate),
            key=Path(given.key),
            local_secret=Path(given.local_secret).read_text(encoding="ascii").strip(),
        )
    )


if __name__ == "__main__":
    main()
