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
        self._listening = False
        self._connection: Any = self._begun()
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = Watcher(target=self._run, name=f"changes of {connections.name}", daemon=True)
        self._thread.start()

    def is_listening(self) -> bool:
        """Whether what others write is heard at present."""
        return self._listening

    def close(self) -> None:
        """Hear nothing any more. No call of ``tell`` comes after this, except one that this is called from."""
        self._listening = False
        os.eventfd_write(self._end, 1)
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
            while not self._has_ended(0):
                if is_lost(self._connection):
                    self._again()
                else:
                    self._listen()
        finally:
            self._listening = False
            self._connection.close()
            os.close(self._end)

    def _listen(self) -> None:
        try:
            if not self._has_ended(HEARTBEAT, self._connection.fileno()):
                self._hear()
        except (library().Error, OSError):
            self._listening = False
            self._connection.close()
            self._tell(None)

    def _hear(self) -> None:
        """Tell what has come; if nothing has, see whether the server is still there."""
        quiet = True
        for notification in self._connection.notifies(timeout=0):
            quiet = False
            origin, keys = heard(notification.payload)
            if origin != self._origin:
                for key in keys:
                    self._tell(key)
        if quiet:
            self._connection.execute("SELECT 1")

    def _again(self) -> None:
        if self._has_ended(PAUSE):
            return
        with contextlib.suppress(StoreError):
            self._connection = self._begun()
            self._tell(None)

    def _has_ended(self, seconds: float, *descriptors: int) -> bool:
        """Whether it is to end; waits for that, or for something on one of the descriptors."""
        poll = select.poll()
        for descriptor in (self._end, *descriptors):
            poll.register(descriptor, select.POLLIN)
        return any(descriptor == self._end for descriptor, _ in poll.poll(seconds * 1000))
