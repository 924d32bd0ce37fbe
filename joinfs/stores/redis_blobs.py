"""The data of a ``RedisStore``'s large values: blobs in chunks, which are written once and read until nobody does any more."""

import contextlib
import io
import itertools
import logging
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from joinfs.errors import AccessDenied, NotConnected, ReadOnly, StoreError, StoreUnavailable
from joinfs.stores.redis_scripts import CHUNK, READING, checked
from joinfs.stores.redis_server import Server
from joinfs.stores.value import RangeStream, exactly

log = logging.getLogger(__name__)

# Up to this much goes with the request that writes it, and comes with the answer that tells of it.
SMALL = 256 << 10
# Seconds for which a blob that is read is kept when it is replaced, and after which that is asked for anew.
HELD, RENEWED = 60, 20
# Blobs that are asked for at once.
MOST_AT_ONCE = 500


class Source(io.RawIOBase):
    """Data on its way into the store. It is a stream only in name: what is small is ``data``, the rest is a blob on the server by now.

    Attributes:
        data: It, if it is small.
        blob: What the blob is called; empty if it is small.
        size: Bytes in all.
    """

    def __init__(self, data: bytes = b"", blob: str = "", size: int = 0) -> None:
        self.data, self.blob, self.size = data, blob, size or len(data)


class Blobs:
    """The blobs of a store, as one connection of it writes and reads them. A thread says from time to time which are in use.

    Args:
        server: Where they are.
        name: What messages call the store.
    """

    def __init__(self, server: Server, name: str) -> None:
        self._server, self._name = server, name
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._reading: dict[str, int] = {}
        self._uploading: set[str] = set()
        self._keeper: threading.Thread | None = None
        self._ended = threading.Event()
        self._can_hold = True

    def close(self) -> None:
        """Keep nothing any more."""
        self._ended.set()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join()

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def received(self, data: BinaryIO | None, buffer_size: int) -> Iterator[Source]:
        """Take data in: what is not small is put on the server, a chunk at a time, and thrown away if the block fails.

        Raises:
            TypeError, BlockingIOError: As ``binary``.
            StoreError: As for ``Server.ask``.
        """
        first = b"" if data is None else exactly(data, SMALL + 1, buffer_size)
        if data is None or len(first) <= SMALL:
            yield Source(first)
            return
        blob = f"{self._server.store}-{next(self._numbers)}"
        try:
            with self._in_use(blob):
                yield Source(blob=blob, size=self._upload(blob, first, data, buffer_size))
        except BaseException:
            # What was taken by then, though nobody heard of it, stays.
            with contextlib.suppress(StoreError):
                self._server.ask(*self._server.simple("abandon", blob))
            raise

    def _upload(self, blob: str, first: bytes, data: BinaryIO, buffer_size: int) -> int:
        size, chunk = 0, first + exactly(data, CHUNK - len(first), buffer_size)
        for n in itertools.count():
            commands = [self._server.simple("upload", blob, "" if n else "first"), ("SET", self._key(blob, n), chunk)]
            answer = self._server.ask_all(commands)[0]
            if answer[0] != b"ok":  # it has been taken for left, and removed: this chunk is to go, too
                self._server.ask("UNLINK", self._key(blob, n))
            checked(answer, self._name)
            size += len(chunk)
            if len(chunk) < CHUNK:
                break
            chunk = exactly(data, CHUNK, buffer_size)
            if not chunk:
                break
        return size

    @contextlib.contextmanager
    def _in_use(self, blob: str) -> Iterator[None]:
        with self._lock:
            self._uploading.add(blob)
        self._keep()
        try:
            yield
        finally:
            with self._lock:
                self._uploading.discard(blob)

    def _key(self, blob: str, n: int) -> str:
        return self._server.key(f"b:{blob}:{n}")

    # ---------------------------------------------------------------- reading

    def read(self, blob: str, offset: int, stop: int) -> bytes:
        """Answer the bytes of a blob from ``offset`` up to ``stop``, which is not past its end.

        Raises:
            StoreUnavailable: It is gone.
        """
        if offset >= stop:
            return b""
        commands = [
            ("GETRANGE", self._key(blob, n), max(offset - n * CHUNK, 0), min(stop - n * CHUNK, CHUNK) - 1)
            for n in range(offset // CHUNK, -(-stop // CHUNK))
        ]
        pieces = self._server.ask_all(commands)
        data: bytes = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(data) != stop - offset:
            raise StoreUnavailable(f"{self._name}: what is read was replaced, and is gone by now; open it again")
        return data

    def find(self, node: int | None) -> Any:
        """Answer what the script says of a node, whose blob is kept from now on, for a while."""
        asks = READING.command(self._server.tag, "node", node)
        while self._can_hold:
            try:
                held, answer = self._server.ask_all([self._server.simple("hold_node", node, HELD), asks])
            except (ReadOnly, AccessDenied):
                self._can_hold = False  # of a replica, which takes no writes: the blob is read as long as it is there
                break
            if answer[0] != b"ok" or answer[3] == held[1]:  # else it was replaced between the two
                return answer
        return self._server.ask(*asks)

    def stream(self, blob: str, size: int) -> BinaryIO:
        """Answer a stream of a blob, which is kept until the stream is closed, and a little longer."""
        with self._lock:
            self._reading[blob] = self._reading.get(blob, 0) + 1
        if self._can_hold:
            self._keep()
        return RangeStream.open(lambda offset, wanted: self.read(blob, offset, min(offset + wanted, size)), size, lambda: self._let_go(blob), CHUNK)

    def _let_go(self, blob: str) -> None:
        with self._lock:
            self._reading[blob] -= 1
            if not self._reading[blob]:
                del self._reading[blob]

    # ---------------------------------------------------------------- keeping

    def _keep(self) -> None:
        with self._lock:
            if self._keeper is None and not self._ended.is_set():
                self._keeper = threading.Thread(target=self._run, name=f"blobs of {self._name}", daemon=True)
                self._keeper.start()

    def _run(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                self.renew()
            except NotConnected:
                return
            except StoreError as error:
                log.debug("%s: what is in use could not be told: %s", self._name, error)

    def renew(self) -> None:
        """Say which blobs are in use; and have what is in use no more removed.

        Raises:
            StoreError: As for ``Server.ask``.
        """
        with self._lock:
            reading, uploading = list(self._reading), list(self._uploading)
        server = self._server
        commands = [server.simple("hold", HELD, *reading[n : n + MOST_AT_ONCE]) for n in range(0, len(reading), MOST_AT_ONCE)]
        commands += [server.simple("upload", blob, "") for blob in uploading]
        server.ask_all([*commands, server.simple("sweep")])
