"""A DICOM storage provider: C-STORE and C-ECHO from listed callers, each object durable before it is acknowledged.

Objects go to the spool as they come, undecoded, under random names. Everything pynetdicom could log names patients or
devices, so its logger is off. Standards: PS3.4 annex B (storage), PS3.8 (association), PS3.7 annex C (status).
"""

import errno
import logging
import os
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, dimse_messages, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from client.imaging.header import LOGGERS
from client.imaging.profile import DeidProfile
from client.imaging.spool import Spool
from federation import durable
from federation.errors import DataError, DeidError

_messages: Any = dimse_messages
_STORED, _OUT_OF_RESOURCES, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000  # PS3.4 table B.2-1
_PDU_BYTES = 1 << 18
_PDU_BYTES_MOST = 1 << 20  # room for callers that overstep, and for long association requests, which have no limit
_PIECE_BYTES = 1 << 16
_SILENT_S = 60.0  # a caller that says nothing for so long is put down
_GRACE_S = 5.0
_FAREWELL_S = 1.0


@dataclass(frozen=True)
class Door:
    """Where the provider listens and who may come in."""

    port: int
    callers: tuple[str, ...]
    ae_title: str = "WARDROUND"
    host: str = "127.0.0.1"
    associations: int = 10


class Provider:
    """A running provider. `accepted` and `refused` count objects since the start."""

    def __init__(self, door: Door, spool: Spool, profile: DeidProfile) -> None:
        self.door, self._spool, self._limit = door, spool, profile.limits.file_bytes
        self.accepted = self.refused = 0
        self._received: dict[Any, int] = {}
        self._lock = threading.Lock()
        self._ae = AE(ae_title=door.ae_title)
        self._ae.maximum_associations = door.associations
        self._ae.maximum_pdu_size = _PDU_BYTES
        self._ae.network_timeout = self._ae.dimse_timeout = self._ae.acse_timeout = _SILENT_S
        self._ae.require_called_aet = True
        self._ae.require_calling_aet = list(door.callers)
        self._ae.add_supported_context(Verification)
        for uid in sorted(profile.image_classes):
            self._ae.add_supported_context(uid, ALL_TRANSFER_SYNTAXES)
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port it listens on: the one asked for, or the one that the system chose for 0."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Raises: DataError receiver when the address cannot be used."""
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _bound),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_CONN_CLOSE, self._forget),
        ]
        try:
            self._server = self._ae.start_server((self.door.host, self.door.port), block=False, evt_handlers=handlers)
        except (socket.gaierror, UnicodeError):  # the latter of a name that IDNA does not take
            raise DataError(
                "receiver",
                "receive.host in site.toml is no name or address of this machine",
                hint='write an address of it, such as "127.0.0.1", or "0.0.0.0" for all of them',
            ) from None
        except OSError:
            raise DataError(
                "receiver",
                f"nothing can listen on port {self.door.port} of {self.door.host}",
                hint="another program has the port, or ports below 1024 are not yours: choose another --port",
            ) from None

    def stop(self) -> None:
        """Take no new caller, let the present ones finish for some seconds, then end them. What was acknowledged stays.

        Callers see an abort and send again what was not acknowledged.
        """
        if self._server is None:
            return
        self._server.server_close()
        patience = threading.Event()
        for _ in range(int(_GRACE_S * 10)):
            if not self._ae.active_associations:
                break
            patience.wait(0.1)
        self._end(self._ae.active_associations)
        self._ae.shutdown()
        self._spool.forget_parts()

    def _end(self, associations: list[Any]) -> None:
        """Tell the callers, then close the sockets: who waits for the rest of a PDU hears of nothing else."""
        ends = [threading.Thread(target=association.abort, daemon=True) for association in associations]
        for end in ends:
            end.start()
        until_s = time.monotonic() + _FAREWELL_S
        for end in ends:
            end.join(max(0.0, until_s - time.monotonic()))
        for association in associations:
            with suppress(AttributeError, OSError):  # it has just ended
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        for end in ends:
            end.join(_FAREWELL_S)

    def _store(self, event: Any) -> int:
        """One object: into the spool, and only then an answer. Nothing of an error but its kind goes on."""
        with self._lock:
            self._received[event.assoc] = 0
        try:
            event.request._dataset_file.require_whole()
            self._spool.accept(Path(event.dataset_path))
        except DeidError:
            status = _NOT_UNDERSTOOD
        except OSError as error:
            status = _OUT_OF_RESOURCES if error.errno in durable.DISK_FULL else _NOT_UNDERSTOOD
        else:
            status = _STORED
        with self._lock:
            self.accepted += status == _STORED
            self.refused += status != _STORED
        return status

    def _count(self, event: Any) -> None:
        """pynetdicom writes what comes without a limit, so the bytes since the last object are counted here."""
        with self._lock:
            seen = self._received[event.assoc] = self._received.get(event.assoc, 0) + len(event.data)
            over = self._limit < seen
            if over:
                self._received[event.assoc] = 0
                self.refused += 1
        if over:  # from another thread: this one is the association's own
            threading.Thread(target=event.assoc.abort, daemon=True).start()

    def _forget(self, event: Any) -> None:
        """A connection that ends in the middle of an object leaves an open file, which nobody else closes."""
        with self._lock:
            self._received.pop(event.assoc, None)
        half = getattr(getattr(event.assoc.dimse, "message", None), "_data_set_file", None)
        if half is not None:
            half.close()
            Path(half.name).unlink(missing_ok=True)


class _Part:
    """The file that pynetdicom writes an object to. An error of the disk would end its thread, and the caller would get
    no answer: so the object is read to its end, what cannot be written is dropped, and the answer says so."""

    def __init__(self, folder: Path) -> None:
        self._error: OSError | None = None
        self._file: BinaryIO | None = None
        self.name = str(folder / f"{secrets.token_hex(16)}.dcm")
        self.file = self  # pynetdicom flushes the file within a file that `tempfile` makes
        try:
            self._file = open(os.open(self.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
        except OSError as error:
            self._drop(error)

    def require_whole(self) -> None:
        """Raises: OSError, the one that was met."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        try:
            if self._file is not None:
                self._file.write(data)
                self._file.flush()
        except OSError as error:
            self._drop(error)
        return len(data)

    def flush(self) -> None:
        """`write` has done so."""

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()

    def _drop(self, error: OSError) -> None:
        self._error = error
        self.close()
        self._file = None
        with suppress(OSError):
            os.unlink(self.name)


def _bound(event: Any) -> None:
    """pynetdicom reads PDUs of any length, and waits for the end of one that has begun as long as the caller likes."""
    transport = event.assoc.dul.socket
    transport.socket.settimeout(_SILENT_S)
    transport.recv = partial(_read, transport.socket)


def _read(connection: socket.socket, length: int) -> bytearray:
    """So many bytes, or fewer when the caller is gone or too slow, which ends the association.

    Raises: OSError when it is too long or nothing comes, which ends it too.
    """
    if length > _PDU_BYTES_MOST:
        connection.shutdown(socket.SHUT_RDWR)
        raise OSError(errno.EMSGSIZE, "the PDU is longer than the limit")
    data, until_s = bytearray(), time.monotonic() + _SILENT_S
    while len(data) < length and time.monotonic() < until_s:
        piece = connection.recv(min(_PIECE_BYTES, length - len(data)))
        if not piece:
            break
        data += piece
    return data


@contextmanager
def provider(door: Door, spool: Spool, profile: DeidProfile) -> Iterator[Provider]:
    """A provider while the block runs. pynetdicom's settings are the process's, so they are put back at the end.

    Raises: DataError receiver when nobody is allowed to send, or the address cannot be used.
    """
    if not door.callers:
        raise DataError(
            "receiver", "nobody may send yet", hint='list AE titles in site.toml: [receive] callers = ["PACS1"]'
        )
    with _settings(spool.parts):
        running = Provider(door, spool, profile)
        running.start()
        try:
            yield running
        finally:
            running.stop()


@contextmanager
def _settings(parts: Path) -> Iterator[None]:
    before = (
        _messages.NamedTemporaryFile, _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_REQUEST_IDENTIFIERS,
        threading.excepthook,
    )  # fmt: skip
    _messages.NamedTemporaryFile = lambda **_: _Part(parts)
    threading.excepthook = lambda _: None  # pynetdicom raises what it has logged; it ends the association by itself
    _config.STORE_RECV_CHUNKED_DATASET, _config.LOG_REQUEST_IDENTIFIERS = True, False
    try:
        with _silence():
            yield
    finally:
        _messages.NamedTemporaryFile, _config.STORE_RECV_CHUNKED_DATASET = before[0], before[1]
        _config.LOG_REQUEST_IDENTIFIERS, threading.excepthook = before[2], before[3]


@contextmanager
def _silence() -> Iterator[None]:
    """Warnings and log lines quote what was received. pynetdicom's threads decode outside of `header.border`, which
    puts back the settings of the moment at which it began: so all is off before there is a thread, and stays off."""
    loggers = [logging.getLogger(name) for name in ("pynetdicom", *LOGGERS)]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
