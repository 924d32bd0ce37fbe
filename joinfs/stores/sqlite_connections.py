"""The connections of a ``SQLiteStore``: which thread uses which, and what a transaction is.

A connection is lent to one thread at a time. Who writes holds one from BEGIN IMMEDIATE to COMMIT, and all
that the same thread asks for meanwhile goes through it; so a thread sees its own writes and the others do
not. Writers of one process queue at a lock, which is fair and quick; SQLite's own waiting, which polls,
is for those of other processes.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from types import TracebackType

from joinfs.errors import NotConnected, StoreLocked, StoreUnavailable
from joinfs.stores.sqlite_host import Place, explained_exactly
from joinfs.stores.sqlite_schema import connect, explained, explanation, open_database, shrink
from joinfs.stores.sqlite_watching import PAUSE, Others

# More than this many stay open only while they are lent: each is two descriptors and its page cache.
IDLE = 8

# What a process inherited by fork: closing it would undo the locks of the process that opened it.
_inherited: list[sqlite3.Connection] = []


class Connections:
    """Opens a store's file, and lends connections to it.

    Args:
        path: The file, without symlinks.
        name: What messages call the store.
        read_only: Do not try to open it for writing.
        timeout: Seconds to wait for another writer.

    Attributes:
        name: What messages call the store.
        writable: Whether the file can be written.

    Raises:
        StoreUnavailable, CorruptStore: As for ``open_database``.
    """

    def __init__(self, path: str, name: str, read_only: bool, timeout: float) -> None:
        self._path = path
        self.name = name
        self._timeout = timeout
        self._process = os.getpid()
        self._closed = False
        self._writer = threading.Lock()
        self._held = _Held()
        self._others: Others | None = None
        first, self.writable = open_database(path, name, read_only, timeout)
        self._place = Place(path, name)
        self._idle = [first]

    def is_open(self) -> bool:
        """Whether they can be used: not after ``close``, and not in a forked process."""
        return not self._closed and os.getpid() == self._process

    def close(self) -> None:
        """Close what is not lent; what is lent closes when it is given back, a stream's when it is closed."""
        self._closed = True
        others, self._others = self._others, None
        if others is not None and os.getpid() == self._process:
            others.close()
        if self.writable and self._idle and os.getpid() == self._process:
            shrink(self._idle[-1])
        self._close_idle()

    def take(self, for_stream: bool = False) -> sqlite3.Connection:
        """Answer a connection for the caller alone, until it calls ``give``.

        Args:
            for_stream: It is for reading much. What is in the page cache of the one that is lent most often stays there.
        """
        if not self.is_open():
            raise NotConnected(f"{self.name} is not connected: call connect()")
        # No lock here and in give: a stream that is collected gives its connection back at any moment,
        # also in the middle of these lines. pop, append and insert are atomic.
        try:
            if not for_stream:
                return self._idle.pop()
            if len(self._idle) > 1:
                return self._idle.pop(0)
        except IndexError:
            pass
        return self._new()

    def _new(self) -> sqlite3.Connection:
        return connect(self._path, "rw" if self.writable else "ro", self._timeout)

    def give(self, connection: sqlite3.Connection, for_stream: bool = False) -> None:
        """Take a connection back; what it has not committed is rolled back."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()  # which rolls back as well
            return
        if for_stream:
            self._idle.insert(0, connection)
        else:
            self._idle.append(connection)
        if self._closed:
            self._close_idle()
        elif len(self._idle) > IDLE:
            self._idle.pop(0).close()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if os.getpid() == self._process:
                    connection.close()
                else:
                    _inherited.append(connection)

    def watch(self, tell: Callable[[], object]) -> bool:
        """Call a function, from now on, when others have written to the file; answer whether that can be.

        Not now, if some thread is writing, and goes on.
        """
        if self._others is None and self.held() is None and self._writer.acquire(timeout=PAUSE):
            try:
                self._begin_to_watch(tell)
            finally:
                self._writer.release()
        return self._others is not None

    def _begin_to_watch(self, tell: Callable[[], object]) -> None:
        if self._others is not None or not self.is_open():
            return
        observer = self._new()
        try:
            self._others = Others(self._path, observer, self._writer, tell, self.name)
        except (OSError, sqlite3.Error):
            observer.close()

    def held(self) -> sqlite3.Connection | None:
        """The connection on which this thread writes, if it does."""
        return self._held.connection

    def reading(self) -> "_Reading":
        """A connection for some statements, in a ``with`` statement; each sees the newest state, unless this thread writes."""
        return _Reading(self)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """As ``reading``, but all statements see one state."""
        with self.reading() as connection:
            if not connection.in_transaction:
                connection.execute("BEGIN")  # giving it back ends it
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """As ``transaction``, and ``sqlite3.Error`` inside of it is explained as well."""
        with explained_exactly(self._path, self.name), self.transaction() as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction. Inside another of this thread it is a part of it that fails or succeeds alone."""
        if connection := self.held():
            with self._part(connection):
                yield connection
            return
        if not self._writer.acquire(timeout=self._timeout):
            raise StoreLocked(f"{self.name}: another thread has been writing for {self._timeout:g} s")
        try:
            with self._whole() as connection:
                yield connection
        finally:
            self._writer.release()

    @contextlib.contextmanager
    def _whole(self) -> Iterator[sqlite3.Connection]:
        with explained(self.name):
            connection = self.take()
        try:
            with explained_exactly(self._path, self.name):
                connection.execute("BEGIN IMMEDIATE")
            self._place.check()
            others = self._others
            if others is not None:
                others.begun(connection)
            self._held.connection = connection
            yield connection
            self._check_begun(connection)
            with explained_exactly(self._path, self.name):
                connection.execute("COMMIT")
            if others is not None:
                others.committed(connection)
        finally:
            self._held.connection = None
            self.give(connection)

    @contextlib.contextmanager
    def _part(self, connection: sqlite3.Connection) -> Iterator[None]:
        self._check_begun(connection)
        with explained(self.name):
            connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO part")
                connection.execute("RELEASE part")
            raise
        with explained(self.name):
            connection.execute("RELEASE part")

    def _check_begun(self, connection: sqlite3.Connection) -> None:
        # A full disk or an error of the medium can make SQLite roll back all by itself. What the caller
        # does after it has caught that error must not be committed piece by piece.
        if not connection.in_transaction:
            raise StoreUnavailable(f"{self.name}: the transaction was undone after an error of the medium")


class _Held(threading.local):
    """What a thread writes on."""

    connection: sqlite3.Connection | None = None


class _Reading:
    """What ``Connections.reading`` gives. A class, since it is entered with every read of a store."""

    __slots__ = ("_connections", "_lent")

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lent: sqlite3.Connection | None = None

    def __enter__(self) -> sqlite3.Connection:
        held = self._connections.held()
        if held is not None:
            return held
        try:
            self._lent = self._connections.take()
        except sqlite3.Error as error:
            raise explanation(self._connections.name, error) from error
        return self._lent

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lent is not None:
            self._connections.give(self._lent)
        if isinstance(exc, sqlite3.Error):
            raise explanation(self._connections.name, exc) from exc
