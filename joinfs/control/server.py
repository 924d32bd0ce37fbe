"""A mount's end of the socket: who runs the mount, and root, can ask it what ``requests`` has.

A connection carries one request: a line of JSON, ``{"ask": NAME, "arguments": {...}}``, with the descriptor of a file if data is to be written
to one. The answer is lines of JSON: ``{"answer": {...}}`` and ``{"progress": {...}}`` as they come, then ``{"end": true}`` or ``{"error": {...}}``.
Who closes the connection before has the work stopped, and undone where the store has transactions.

See Also:
    unix(7), SO_PEERCRED and SCM_RIGHTS.
"""

import contextlib
import json
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from joinfs.control import relayering
from joinfs.control.requests import REQUESTS, Subject, ask, told_progress
from joinfs.errors import Conflict, JoinfsError, UsageError
from joinfs.events import StoreProgressEvent

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
REQUESTS.update(relayering.REQUESTS)
_CREDENTIALS = struct.Struct("iII")


class _LeftAlone(BaseException):
    """Who asked has gone. No listener of events may swallow it."""


@contextlib.contextmanager
def listening(subject: Subject, path: Path) -> Iterator[None]:
    """Answer requests at a socket for the length of a ``with`` block; those that are being answered are stopped at its end.

    Raises:
        OSError: There can be no socket.
    """
    path.unlink(missing_ok=True)  # of a server that was killed
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        server = _Server(subject, listener)
        thread = threading.Thread(target=server.accept, name="joinfs is asked", daemon=True)
        thread.start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            server.close()
            thread.join()


class _Server:
    def __init__(self, subject: Subject, listener: socket.socket) -> None:
        self._subject, self._listener = subject, listener
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closed = False

    def accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name="joinfs answers", daemon=True)
            with self._lock:
                self._connections[connection] = thread
            thread.start()

    def close(self) -> None:
        """Take no more requests, and have who is answering stop."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            connections = list(self._connections.items())
        for connection, thread in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _Answering(self._subject, connection).run()
        except OSError as error:
            log.info("who asked has gone: %s", error)
        except Exception:
            log.exception("a request could not be answered")
        finally:
            with self._lock:
                self._connections.pop(connection, None)


class _Answering:
    """One connection."""

    def __init__(self, subject: Subject, connection: socket.socket) -> None:
        self._subject, self._connection = subject, connection
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Answer the request that comes."""
        with contextlib.ExitStack() as closing:
            try:
                request, file = self._received(closing)
                manager = self._subject.join.event_manager
                manager.connect(StoreProgressEvent, self._tell_progress, {"key": ""})
                closing.callback(manager.disconnect, StoreProgressEvent, self._tell_progress)
                for answer in ask(self._subject, str(request.get("ask")), dict(request.get("arguments") or {}), file):
                    self._send({"answer": answer})
                self._send({"end": True})
            except _LeftAlone:
                log.info("who asked has gone, and what was being done is stopped")
            except (JoinfsError, KeyError, OSError) as error:
                self._send({"error": told(error)})
            except (AttributeError, TypeError, ValueError) as error:
                log.info("a request made no sense: %s", error)
                self._send({"error": told(UsageError(f"the request makes no sense: {error}"))})

    def _received(self, closing: contextlib.ExitStack) -> tuple[dict[str, Any], BinaryIO | None]:
        """The request, and the file that came with it."""
        data, descriptors, _, _ = socket.recv_fds(self._connection, MOST_BYTES, 1)
        file = closing.enter_context(os.fdopen(descriptors[0], "wb")) if descriptors else None
        _, uid, _ = _CREDENTIALS.unpack(self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in {0, os.geteuid()}:
            raise UsageError("the mount belongs to somebody else")
        while not data.endswith(b"\n"):
            more = self._connection.recv(MOST_BYTES)
            if not more or len(data) > MOST_BYTES:
                raise UsageError("the request is cut off, or too long")
            data += more
        try:
            request = json.loads(data)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            raise UsageError("the request is no JSON object")
        return request, file

    def _tell_progress(self, event: StoreProgressEvent) -> None:
        if threading.get_ident() != self._thread:
            return
        readable, _, _ = select.select([self._connection], [], [], 0)
        if readable:  # nothing more is sent to us: it was closed
            raise _LeftAlone
        try:
            self._send({"progress": told_progress(event)})
        except OSError:
            raise _LeftAlone from None

    def _send(self, answer: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(answer).encode() + b"\n")


def told(error: BaseException) -> dict[str, Any]:
    """An error as it is sent."""
    if isinstance(error, OSError):
        return {"kind": "OSError", "errno": error.errno, "text": error.strerror or str(error), "path": error.filename and str(error.filename)}
    if isinstance(error, KeyError) and not isinstance(error, JoinfsError):
        return {"kind": "KeyError", "text": f"{error.args[0] if error.args else ''}"}
    return {"kind": type(error).__name__, "text": str(error), "reasons": error.reasons if isinstance(error, Conflict) else {}}
