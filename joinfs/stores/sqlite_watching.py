"""Seeing that somebody else has changed a database; see ``Store.watch``.

``PRAGMA data_version`` of a connection changes when another one has committed, be it of this process or not. So one
connection, the observer, does nothing but answer that. Our own writers, one at a time, take what they have committed
themselves into account: before and after, each also asks the connection that it writes on, for which its own commits
do not count. What the observer saw then was ours alone if that one saw nothing.

When to ask is told by the kernel: a commit writes to the log. It is there for others a little later, so it is
asked for a while after each write.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable

from joinfs.stores import inotify
from joinfs.stores.inotify import Event, Inotify

# Seconds between two times that it is asked.
PAUSE = 0.05
# Seconds for which it is asked after a write: the medium may be slow to make a commit durable, which comes before others see it.
PATIENCE = 5.0
_MASK = inotify.MODIFY | inotify.CLOSE_WRITE


class Others:
    """Notices commits of others.

    Args:
        path: The database, without symlinks.
        observer: A connection of its own. It is closed with this.
        writer: The lock that who writes on another connection of the store holds; the caller holds it now.
        tell: Called when others have committed.
        name: What messages call the store.

    Raises:
        OSError: The database cannot be watched, or there is no log: then nobody can write to it, but that may change.
        sqlite3.Error: It cannot be read.
    """

    def __init__(
        self, path: str, observer: sqlite3.Connection, writer: threading.Lock, tell: Callable[[], object], name: str
    ) -> None:
        self._observer, self._writer, self._tell = observer, writer, tell
        self._until = 0.0
        self._noticed = False
        self._before = 0
        observer.execute("SELECT 1 FROM node LIMIT 1").fetchone()  # opens the log
        self._inotify = Inotify(self._handle, PAUSE, name)
        try:
            for file in (path, path + "-wal"):
                self._watch(file)
            self._seen = _version(observer)
        except BaseException:
            self._inotify.close()
            raise

    def _watch(self, file: str) -> None:
        # Not opened for reading: closing a descriptor of the database would drop this process's locks on it.
        descriptor = os.open(file, os.O_PATH | os.O_CLOEXEC)
        try:
            self._inotify.add(descriptor, _MASK)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Notice nothing any more."""
        self._inotify.close()
        self._observer.close()

    # ---------------------------------------------------------------- our own writers

    def begun(self, connection: sqlite3.Connection) -> None:
        """One of ours has begun to write: nobody can commit until it has."""
        self._look()
        self._before = _version(connection)

    def committed(self, connection: sqlite3.Connection) -> None:
        """It has committed; the others of this store wait still."""
        self._seen = _version(self._observer)
        if _version(connection) != self._before:
            self._noticed = True

    def _look(self) -> None:
        seen = _version(self._observer)
        if seen != self._seen:
            self._seen, self._noticed = seen, True

    # ---------------------------------------------------------------- the thread

    def _handle(self, events: list[Event]) -> bool:
        now = time.monotonic()
        if events:
            self._until = now + PATIENCE
        if self._writer.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._writer.release()
        noticed, self._noticed = self._noticed, False
        if noticed:
            self._tell()
        return now < self._until


def _version(connection: sqlite3.Connection) -> int:
    try:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])
    except sqlite3.Error:
        return -1  # whoever wanted to know will find out; and it is not what was seen before
