"""Being told by the server of what others write to a ``PostgresStore``; see ``Store.watch``.

Each write notifies the store's channel when it is committed, with the number of who wrote and the keys. A connection of its own
listens. While it is lost nothing is heard: when that is noticed, and again when there is another one, it is told that
everything may have changed.
"""

import contextlib
import json
import os
import select
import threading
from collections.abc import Callable
from typing import Any

from joinfs.errors import StoreError
from joinfs.stores.postgres_connections import Connections
from joinfs.stores.postgres_errors import explained, is_lost, library
from joinfs.stores.telling import Watcher

# What the server takes as the text of a notification is less than 8000 bytes.
LONGEST = 7900
# Seconds after which a connection on which nothing was heard is asked whether it is still there.
HEARTBEAT = 5.0
# Seconds between two tries to get another one.
PAUSE = 0.2


def told_of(origin: str, *keys: str) -> str:
    """Answer the text of a notification: who writes, and the keys as subscribers are told of them."""
    text = f"{origin} {json.dumps(keys, separators=(',', ':'))}"
    return text if len(text) <= LONGEST else f"{origin} null"


def heard(text: str) -> tuple[str, list[str | None]]:
    """The reverse of ``told_of``; whatever else it is, everything may have changed."""
    origin, _, keys = text.partition(" ")
    with contextlib.suppress(ValueError):
        found = json.loads(keys)
        if isinstance(found, list) and all(isinstance(key, str) for key in found):
            return origin, found
    return origin, [None]


class Listener:
    """Listens in a thread of its own.

    Args:
        connections: Of the store.
        origin: The number of our own writes.
        tell: Called with a key, or None, when others have written.

    Raises:
        StoreUnavailable, AccessDenied: As for ``Store.connect``.
    """

    def __init__(self, connections: Connections, origin: str, tell: Callable[[str | None], object]) -> None:
        self._connections, self._origin, self._tell = connections, origin, tell
        self._listening = self._ended = False
        # How often somebody wanted to catch up, and up to which of these that has been done.
        self._wanted = self._caught_up = 0
        self._changed = threading.Condition()
        self._connection: Any = self._begun()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = Watcher(target=self._run, name=f"changes of {connections.name}", daemon=True)
        self._thread.start()

    def is_listening(self) -> bool:
        """Whether what others write is heard at present."""
        return self._listening

    def catch_up(self, timeout: float) -> None:
        """Return when all has been told that was committed before, or nothing is heard any more, or after ``timeout`` seconds."""
        if threading.current_thread() is self._thread:
            return
        with self._changed:
            self._wanted += 1
            mine = self._wanted
            if self._ended:
                return
            os.eventfd_write(self._wake, 1)
            self._changed.wait_for(lambda: self._caught_up >= mine or self._ended or not self._listening, timeout)

    def close(self) -> None:
        """Hear nothing any more. No call of ``tell`` comes after this, except one that this is called from."""
        with self._changed:
            if self._ended:
                return
            self._ended, self._listening = True, False
            os.eventfd_write(self._wake, 1)
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _begun(self) -> Any:
        connection = self._connections.open()
        try:
            with explained(self._connections.name):
                connection.execute(f"LISTEN {self._connections.names.channel}")
        except BaseException:
            connection.close()
            raise
        self._listening = True
        return connection

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while not self._ended:
                if is_lost(self._connection):
                    self._again()
                else:
                    self._listen()
        finally:
            self.close()
            self._connection.close()
            os.close(self._wake)

    def _listen(self) -> None:
        try:
            is_quiet = not self._wait(HEARTBEAT, self._connection.fileno())
            wanted = self._wanted
            if is_quiet or wanted > self._caught_up:
                # The server says what was committed before it was asked, and only then answers.
                self._connection.execute("SELECT 1")
            self._hear()
            with self._changed:
                self._caught_up = wanted
                self._changed.notify_all()
        except (library().Error, OSError):
            with self._changed:
                self._listening = False
                self._changed.notify_all()
            self._connection.close()
            self._tell(None)

    def _hear(self) -> None:
        """Tell what has come."""
        for notification in self._connection.notifies(timeout=0):
            origin, keys = heard(notification.payload)
            if origin != self._origin:
                for key in keys:
                    self._tell(key)

    def _again(self) -> None:
        self._wait(PAUSE)
        if not self._ended:
            with contextlib.suppress(StoreError):
                self._connection = self._begun()
                self._tell(None)

    def _wait(self, seconds: float, *descriptors: int) -> bool:
        """Wait until somebody wants something of this thread, or something has come on a descriptor; answer whether that is so."""
        poll = select.poll()
        for descriptor in (self._wake, *descriptors):
            poll.register(descriptor, select.POLLIN)
        found = poll.poll(seconds * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        return bool(found)
