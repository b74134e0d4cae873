"""The daemon's local gRPC service: names, bytes, and who may call. One Unix socket, one machine.

    /wardround.Site/Health   -> {"state": …}                    is the daemon there?
    /wardround.Site/Status   -> what it is doing, as JSON
    /wardround.Site/Approve  a plan's digest and who approves    -> {"approved": digest}
    /wardround.Site/Answer   a question as it arrived            -> the answer, ready to be sent

Requests and responses are bytes (JSON, or a packed message); there is no schema compiler and no reflection.
"""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

from federation import messages
from federation.errors import FormatError, SettingsError
from federation.messages import Answer, Payload, Question

SERVICE = "wardround.Site"
SOCKET = "daemon.sock"
PATH_BYTES_MAX = 107  # of a Unix socket's address (unix(7))
ANSWER_TIMEOUT_S = 7 * 24 * 3600.0  # longer than any round: what ends a call is the end of the daemon
_LENGTHS = struct.Struct(">III")
_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0))

Method = Callable[[bytes], bytes]


def pack(message: Question | Answer) -> bytes:
    """Header, seal and payload, each after its length."""
    payload = message.payload.data if message.payload else b""
    seal = message.seal
    return b"".join((_LENGTHS.pack(len(message.header), len(seal), len(payload)), message.header, seal, payload))


def unpack(data: bytes) -> Question | Answer:
    """The opposite of `pack`. Raises: FormatError."""
    if len(data) < _LENGTHS.size:
        raise FormatError("not-canonical", "a packed message is too short", hint="daemon and relay differ in version")
    header, seal, payload = _LENGTHS.unpack_from(data)
    if len(data) != _LENGTHS.size + header + seal + payload:
        raise FormatError("not-canonical", "a packed message is cut", hint="daemon and relay differ in version")
    at = _LENGTHS.size
    rest = data[at + header + seal :]
    return messages.read(
        data[at : at + header], Payload(rest) if rest else None, data[at + header : at + header + seal]
    )


class Stub:
    """The service as a caller sees it. Raises: ConnectionError if no daemon answers, PermissionError if it refuses."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)

    def health(self, timeout_s: float = 2.0) -> dict[str, Any]:
        return self._json("Health", {}, timeout_s)

    def status(self, timeout_s: float = 5.0) -> dict[str, Any]:
        return self._json("Status", {}, timeout_s)

    def approve(self, digest: str, by: str, timeout_s: float = 5.0) -> dict[str, Any]:
        return self._json("Approve", {"digest": digest, "by": by}, timeout_s)

    def answer(self, question: Question) -> Answer:
        answer = unpack(self._call("Answer", pack(question), ANSWER_TIMEOUT_S))
        if not isinstance(answer, Answer):
            raise FormatError("message-kind", "the daemon sent no answer", hint="daemon and relay differ in version")
        return answer

    def close(self) -> None:
        self._channel.close()

    def _json(self, method: str, fields: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
        made = json.loads(self._call(method, json.dumps(fields).encode(), timeout_s))
        assert isinstance(made, dict)
        return made

    def _call(self, method: str, data: bytes, timeout_s: float) -> bytes:
        call = self._channel.unary_unary(f"/{SERVICE}/{method}")
        try:
            answer: bytes = call(data, timeout=timeout_s)
            return answer
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                raise PermissionError(error.details()) from None
            raise ConnectionError("the site's daemon does not answer") from None


class LocalService:
    """The service at work: a door that others see, and gRPC behind it.

    Guarantees: the socket has mode 0600 in a folder of ours, and every caller's user id is asked of the kernel
    (SO_PEERCRED, unix(7)) before a byte of theirs is read: only our own user and root get through. gRPC cannot be asked
    for it, so its own socket lies behind the door in a folder with mode 0700.
    """

    def __init__(self, folder: Path, methods: Mapping[str, Method], *, on_stranger: Callable[[int], None]) -> None:
        self.path = folder / SOCKET
        inner = folder / "behind"
        if len(os.fsencode(inner / "grpc.sock")) > PATH_BYTES_MAX:
            raise SettingsError(
                "settings-value",
                "the path of the site's folder is too long for a socket",
                hint="move the folder: the whole path of its socket may have 107 bytes",
            )
        inner.mkdir(mode=0o700, exist_ok=True)
        inner.chmod(0o700)
        self._inner = inner / "grpc.sock"
        for stale in (self.path, self._inner):
            stale.unlink(missing_ok=True)
        self._may_call = {os.getuid(), 0}
        self._on_stranger = on_stranger
        self._server = grpc.server(futures.ThreadPoolExecutor(8, thread_name_prefix="local-grpc"), options=_OPTIONS)
        handlers = {name: grpc.unary_unary_rpc_method_handler(_handler(method)) for name, method in methods.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self._server.add_insecure_port(f"unix:{self._inner}")
        self._server.start()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._door.bind(str(self.path))
        finally:
            os.umask(before)
        self._door.listen(16)
        threading.Thread(target=self._watch_door, name="local-door", daemon=True).start()

    def close(self) -> None:
        self._door.close()
        self.path.unlink(missing_ok=True)
        self._server.stop(0.5)

    def _watch_door(self) -> None:
        while True:
            try:
                outside, _ = self._door.accept()
            except OSError:
                return  # closed
            uid = peer_uid(outside)
            if uid not in self._may_call:
                self._on_stranger(uid)
                outside.close()
                continue
            inside = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                inside.connect(str(self._inner))
            except OSError:
                outside.close()
                continue
            threading.Thread(target=_join, args=(outside, inside), name="local-pass", daemon=True).start()


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end, as the kernel recorded it when that end connected."""
    size = struct.calcsize("iII")
    _, uid, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def _join(outside: socket.socket, inside: socket.socket) -> None:
    """Bytes both ways until one end is closed; then both are."""
    back = threading.Thread(target=_pass_on, args=(inside, outside), name="local-pass-back", daemon=True)
    with outside, inside:
        back.start()
        _pass_on(outside, inside)
        back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 18):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _handler(method: Method) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return method(request)
        except FormatError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.code)
        except Exception:
            context.abort(grpc.StatusCode.INTERNAL, "internal")
        raise AssertionError  # abort raises

    return handle
