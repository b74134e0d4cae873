"""The guard before Flower's SuperLink, with real listeners: what comes through from outside, and what does not."""

import asyncio
import http.client
import ssl
import threading
import time

import pytest

from federation import flower_private
from federation.supervise import free_port
from federation.trust import certificates
from server import superlink

SECRET = "s" * 64
BODY_MAX = 1000
CONTROL = ("/v1/control/start-run", "/v1/control/list-nodes", "/v1/runtime/acquire-task", "/docs", "/openapi.json", "/")


async def inner(scope, receive, send):
    """Stands for Flower: says which path it was reached by, and how many bytes it got."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['path']} {size}".encode()})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Both listeners in a thread; where they are, and the CA."""
    folder = tmp_path_factory.mktemp("tls")
    certificates.make_ca(folder, "test", now_s=time.time())
    certificates.make_server(folder, ["localhost"], now_s=time.time())
    out_port, in_port, loop = free_port(), free_port(), asyncio.new_event_loop()

    async def run():
        await superlink.serve(
            inner, listen=("127.0.0.1", out_port), local_port=in_port, local_secret=SECRET,
            certificate=folder / certificates.SERVER_CERTIFICATE, key=folder / certificates.SERVER_KEY,
            body_bytes_max=BODY_MAX,
        )  # fmt: skip

    task = loop.create_task(run())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    for _ in range(400):
        try:
            ask(out_port, folder / certificates.CA_CERTIFICATE, "/")
            break
        except OSError:
            time.sleep(0.05)
    yield out_port, in_port, folder / certificates.CA_CERTIFICATE
    task.add_done_callback(lambda done: loop.stop())
    loop.call_soon_threadsafe(task.cancel)
    thread.join(30)
    loop.close()


def ask(port, ca, path, *, method="POST", body=b"", context=None):
    context = context or ssl.create_default_context(cafile=str(ca))
    connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=context)
    try:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def ask_inside(port, path, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, headers=dict(headers))
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_calls_of_a_node_come_through(place):
    out, _, ca = place

    for path in sorted(superlink.FLEET):
        assert ask(out, ca, path, body=b"x" * 10) == (200, f"{path} 10")


@pytest.mark.parametrize(
    "path",
    [
        *CONTROL, "/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/", "/health",
        "//v1/fleet/get-run", "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/get%2drun", "/V1/FLEET/GET-RUN",
    ],
)  # fmt: skip
def test_nothing_else_is_there_from_outside(place, path):
    out, _, ca = place

    assert ask(out, ca, path)[0] == 404


def test_only_posts_come_through(place):
    out, _, ca = place

    assert ask(out, ca, "/v1/fleet/get-run", method="GET")[0] == 404


def test_an_oversized_body_is_refused_announced_or_not(place):
    out, _, ca = place
    path = "/v1/fleet/push-object"

    assert ask(out, ca, path, body=b"x" * BODY_MAX)[0] == 200
    assert ask(out, ca, path, body=b"x" * (BODY_MAX + 1))[0] == 413
    assert ask(out, ca, path, body=iter([b"x" * 600] * 2))[0] == 413  # in chunks, without a length


def test_tls_1_2_is_refused_and_so_is_another_certificate_authority(place):
    out, _, ca = place
    old = ssl.create_default_context(cafile=str(ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError):
        ask(out, ca, "/v1/fleet/get-run", context=old)
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(out, ca, "/v1/fleet/get-run", context=ssl.create_default_context())


def test_on_loopback_nobody_is_answered_without_the_secret(place):
    _, inside, _ = place
    header = flower_private.LOCAL_HEADER

    for path in CONTROL:
        assert ask_inside(inside, path) == 403
        assert ask_inside(inside, path, [(header, "wrong")]) == 403
        assert ask_inside(inside, path, [(header, SECRET)]) == 200
