"""The connections of a ``PostgresStore``: which thread uses which, how long it is waited for, and what a transaction is.

A connection is lent to one thread at a time. Outside of a transaction each statement is committed by itself. Who
is in a transaction holds one connection from BEGIN to COMMIT, and all that the same thread asks for meanwhile goes through it.
"""

import contextlib
import functools
import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from joinfs.errors import NotConnected, StoreError, StoreUnavailable
from joinfs.stores.postgres_errors import AGAIN, explained, explanation, is_lost, library
from joinfs.stores.postgres_schema import Names, open_tables
from joinfs.stores.postgres_url import Place
from joinfs.stores.postgres_way import check_sessions, files_of
from joinfs.stores.troubles import Troubles

# Connections of one store, streams of large values left out: a server has a hundred for all, as a rule.
MOST = 16
# How often a write is done again that others were in the way of, and the seconds before the second time, at most.
TRIES = 50
PAUSE = 0.002
# Seconds between two looks whether a process of the server has ended.
ENDING = 0.02
# Idle transactions of ours, whose machine may be gone, are ended by the server after so many times the timeout.
ABANDONED = 10
T = TypeVar("T")


class Connections:
    """Connects to a store's server, and lends connections.

    Args:
        place: Of the store.
        password: None for what libpq finds: PGPASSWORD, ~/.pgpass, a service.
        read_only: Do not try to write.
        timeout: Seconds to wait for the server, and (of the server) for other writers.

    Attributes:
        name: What messages call the store.
        names: Of the store, in SQL.
        writable: Whether the tables can be written.

    Raises:
        UsageError: psycopg is not installed, or a pooler stands before the server that has no sessions.
        StoreUnavailable, AccessDenied, CorruptStore: As for ``Store.connect``.
    """

    def __init__(self, place: Place, password: str | None, read_only: bool, timeout: float) -> None:
        self.name, self.names = place.name, Names(place.schema)
        self._class = _connection_class()
        self._parameters = {**place.parameters(), **_waiting(timeout), **({} if password is None else {"password": password})}
        self._settings = _settings(timeout)
        self._process, self._timeout, self._closed = os.getpid(), timeout, False
        self._held, self._troubles = _Held(), Troubles(self.name)
        self._permits = threading.Semaphore(MOST)
        first = self._connected()
        try:
            self._parameters |= files_of(first)
            with explained(self.name):
                # Before anything is set, which a pooler would have others find.
                check_sessions(first, self._connected, self.name)
                first.execute(self._settings)
                self.writable = open_tables(first, self.names, place, read_only=read_only)
        except BaseException:
            first.close()
            raise
        self._idle = [first]
        self._troubles.end()

    def open(self) -> Any:
        """Answer a new connection, which the caller closes; errors as for ``Store.connect``."""
        try:
            connection = self._set_up()
        except StoreUnavailable as error:
            raise self._troubles.told(error) from error.__cause__
        self._troubles.end()
        return connection

    def _set_up(self) -> Any:
        connection = self._connected()
        try:
            with explained(self.name):
                # Not as a parameter of the connection, which poolers refuse or, worse, leave out.
                connection.execute(self._settings)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self) -> Any:
        if not self.is_open():
            raise NotConnected(f"{self.name} is not connected: call connect()")
        with explained(self.name):
            connection = self._class.connect(autocommit=True, **self._parameters)
        connection.patience = self._timeout
        return connection

    def is_open(self) -> bool:
        """Whether they can be used: not after ``close``, and not in a forked process."""
        return not self._closed and os.getpid() == self._process

    def close(self) -> None:
        """Close what is not lent; what is lent closes when it is given back."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        # A forked process must not say goodbye on the socket of its parent. psycopg sees to that by itself.
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def take(self, for_stream: bool = False) -> Any:
        """Answer a connection for the caller alone, until it calls ``give``. It was open a moment ago.

        Args:
            for_stream: It may be long until then, so others do not wait for it.
        """
        # Who has waited for too long goes ahead: it may be for itself that it waits.
        counted = not for_stream and self._permits.acquire(timeout=self._timeout)
        try:
            connection = self._open_one()
        except BaseException:
            if counted:
                self._permits.release()
            raise
        connection.counted = counted
        return connection

    def _open_one(self) -> Any:
        if not self.is_open():
            raise NotConnected(f"{self.name} is not connected: call connect()")
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if not _is_told_something(connection):
                    return connection
                connection.close()
        return self.open()

    def give(self, connection: Any) -> None:
        """Take a connection back; one in which something is going on is closed, which undoes it. One that is lost may come twice."""
        try:
            self._keep_or_close(connection)
        finally:
            if connection.counted:
                connection.counted = False
                self._permits.release()

    def _keep_or_close(self, connection: Any) -> None:
        if self._closed or is_lost(connection) or connection.info.transaction_status != 0:
            connection.close()
            return
        self._idle.append(connection)
        if len(self._idle) > MOST:
            self._idle.pop(0).close()

    def explained(self) -> contextlib.AbstractContextManager[None]:
        """Around what is asked of a connection: its errors are ours."""
        return explained(self.name)

    def held(self) -> Any:
        """The connection on which this thread is in a transaction; None if it is in none."""
        return self._held.connection

    # ---------------------------------------------------------------- single statements

    def ask(self, query: str, arguments: Sequence[Any] = ()) -> Any:
        """Answer the first row of what only reads, or None; asked again on another connection if the first was lost."""
        return self._asked(query, arguments, lambda cursor: cursor.fetchone())

    def ask_all(self, query: str, arguments: Sequence[Any] = ()) -> list[Any]:
        """As ``ask``, all rows."""
        return self._asked(query, arguments, lambda cursor: cursor.fetchall())

    def _asked(self, query: str, arguments: Sequence[Any], rows: Callable[[Any], T]) -> T:
        held = self.held()
        if held is not None:
            return self._on_held(held, query, arguments, rows)
        for last in (False, True):
            connection = self.take()
            try:
                return rows(connection.execute(query, arguments, binary=True))
            except library().Error as error:
                # Not after the timeout: the next would wait as long.
                if last or not is_lost(connection) or connection.timed_out:
                    raise explanation(self.name, error) from error
            finally:
                self.give(connection)
        raise AssertionError("the last try answers or raises")

    def write(self, query: str, told: str, arguments: Sequence[Any]) -> Any:
        """Answer the row of a statement that writes; done again if it was undone, because others were in the way or the connection was lost.

        Args:
            query: Its first arguments are ``told`` and the number of the write.
            told: What others are notified of.
            arguments: The rest.

        Raises:
            Done: It was written, and the answer was lost.
            StoreUnavailable: As it says. Whether it was written is known, unless it says that it is not.
        """
        held = self.held()
        if held is not None:
            return self._on_held(held, query, (told, None, *arguments), lambda cursor: cursor.fetchone())
        for tries in range(TRIES):
            connection = self.take()
            write: Write | None = None
            try:
                write = self._numbered(connection)
                return connection.execute(query, (told, list(write), *arguments), binary=True).fetchone()
            except library().Error as error:
                self._after(connection, write, error, last=tries == TRIES - 1)
            finally:
                self.give(connection)
            time.sleep(random.uniform(0, PAUSE * tries))  # noqa: S311 - so that two do not meet again
        raise AssertionError("the last try answers or raises")

    def _after(self, connection: Any, write: "Write | None", error: Any, *, last: bool) -> None:
        """After a write failed: return if it can be done again."""
        found = explanation(self.name, error)
        if error.sqlstate in AGAIN and not last:
            return
        if not is_lost(connection) or last:
            raise found from error
        self.give(connection)  # nobody has to wait for what is lost
        if write is not None and self._was_done(write, found):
            raise Done from error
        if connection.timed_out:  # the next would wait as long
            raise StoreUnavailable(f"{found}; nothing was written") from error

    # ---------------------------------------------------------------- what became of writes

    def _numbered(self, connection: Any) -> "Write":
        """A number for what is written next on a connection."""
        if connection.session is None:
            session = int.from_bytes(os.urandom(8), "big", signed=True)
            connection.execute(
                f"INSERT INTO {self.names.s}.session SELECT %s, pid, backend_start, 0 FROM pg_stat_activity WHERE pid = pg_backend_pid()", (session,)
            )
            connection.session = session
        connection.number += 1
        return Write(connection.session, connection.number)

    def _was_done(self, write: "Write", lost: StoreError) -> bool:
        """Whether a write was committed whose connection was lost. If not, it will not be any more.

        The server's process for it may be going on, and is ended first. The server may be starting, and is waited for.
        """
        until = time.monotonic() + self._timeout
        while True:
            with contextlib.suppress(StoreError):
                if not self._goes_on(write):
                    row = self.ask(f"SELECT number FROM {self.names.s}.session WHERE id = %s", (write.session,))
                    if row is not None:
                        return bool(row[0] == write.number)
            if time.monotonic() > until:
                raise StoreUnavailable(f"{lost}; whether this was written is not known")
            time.sleep(ENDING)

    def _goes_on(self, write: "Write") -> bool:
        """Whether there is still a process of the server for a connection, which is told to end."""
        query = (
            f"SELECT pg_terminate_backend(a.pid) FROM {self.names.s}.session s"
            " JOIN pg_stat_activity a ON a.pid = s.pid AND a.backend_start = s.started WHERE s.id = %s"
        )
        return self.ask(query, (write.session,)) is not None

    def _on_held(self, held: Any, query: str, arguments: Sequence[Any], rows: Callable[[Any], T]) -> T:
        self._check_going_on(held)
        with explained(self.name):
            return rows(held.execute(query, arguments, binary=True))

    # ---------------------------------------------------------------- transactions

    @contextlib.contextmanager
    def transaction(self, *, alone: bool = True) -> Iterator[Any]:
        """A transaction; gives its connection. Inside another of this thread it is a part of it that fails or succeeds alone.

        Args:
            alone: Nobody else writes to the store meanwhile.
        """
        held = self.held()
        if held is not None:
            with self._part(held):
                yield held
            return
        connection, write = self._begun(alone)
        try:
            self._held.connection = connection
            yield connection
            self._check_going_on(connection)
            self._held.connection = None  # what became of it is asked on another
            self._commit(connection, write)
        finally:
            self._held.connection = None
            self.give(connection)

    def _begun(self, alone: bool) -> tuple[Any, "Write"]:
        """Begin on a connection, or another if that was lost: nothing has been written yet. The caller gives it back."""
        for last in (False, True):
            connection = self.take()
            try:
                return connection, self._begin(connection, alone)
            except library().Error as error:
                self.give(connection)
                if last or not is_lost(connection) or connection.timed_out:
                    raise explanation(self.name, error) from error
            except BaseException:
                self.give(connection)
                raise
        raise AssertionError("the last try answers or raises")

    def _begin(self, connection: Any, alone: bool) -> "Write":
        write = self._numbered(connection)
        lock = f"SELECT pg_advisory_xact_lock({self.names.lock}); " if alone else ""
        connection.execute(f"BEGIN; {lock}UPDATE {self.names.s}.session SET number = {write.number} WHERE id = {write.session}")
        return write

    def _commit(self, connection: Any, write: "Write") -> None:
        try:
            connection.execute("COMMIT")
        except library().Error as error:
            found = explanation(self.name, error)
            if not is_lost(connection):
                raise found from error
            self.give(connection)
            if not self._was_done(write, found):
                raise StoreUnavailable(f"{found}; the transaction was undone") from error

    @contextlib.contextmanager
    def _part(self, connection: Any) -> Iterator[None]:
        self._check_going_on(connection)
        with explained(self.name):
            connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if not is_lost(connection):
                with contextlib.suppress(library().Error):
                    connection.execute("ROLLBACK TO part; RELEASE part")
            raise
        with explained(self.name):
            connection.execute("RELEASE part")

    def _check_going_on(self, connection: Any) -> None:
        # What the caller does after it has caught an error must not be committed piece by piece.
        if is_lost(connection) or connection.info.transaction_status != 2:
            raise StoreUnavailable(f"{self.name}: the transaction was undone after an error of the server")


class Done(Exception):
    """A write was committed, and its answer was lost."""


class Write(NamedTuple):
    """What a write is known by.

    Attributes:
        session: The number of the connection.
        number: That of the write, on it.
    """

    session: int
    number: int


class _Held(threading.local):
    """What a thread is in a transaction on."""

    connection: Any = None


def _waiting(timeout: float) -> dict[str, str]:
    """What libpq is told, so that it does not wait for the server for ever."""
    return {
        "connect_timeout": str(max(int(timeout), 2)),
        "tcp_user_timeout": str(max(int(timeout * 1000), 1)),
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "application_name": "joinfs",
        "client_encoding": "UTF8",
    }


def _settings(timeout: float) -> str:
    """What the server is told, so that it waits neither for us nor for others for ever; and what writing relies on."""
    milliseconds = max(int(timeout * 1000), 1)
    settings = {
        "default_transaction_isolation": "'read committed'",
        "synchronous_commit": "on",
        "lock_timeout": milliseconds * 4 // 5,
        "idle_in_transaction_session_timeout": milliseconds * ABANDONED,
        "tcp_keepalives_idle": 30,
        "tcp_keepalives_interval": 10,
        "tcp_keepalives_count": 3,
    }
    return "; ".join(f"SET {name} = {value}" for name, value in settings.items())


def _is_told_something(connection: Any) -> bool:
    """Whether the server has said something to a connection on which nothing was asked: as a rule, that it is gone."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@functools.cache
def _connection_class() -> Any:
    """psycopg's connection, which waits no longer than it has patience for."""
    base = library().Connection
    timeout_error = library().errors._WaitTimeout

    class Connection(base):  # type: ignore[misc,valid-type]
        patience: float | None = None
        timed_out = False
        counted = False
        session: int | None = None
        number = 0

        def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
            if timeout is not None or self.patience is None:
                return super().wait(gen, interval, timeout)
            try:
                return super().wait(gen, interval, self.patience)
            except timeout_error:
                self.timed_out = True
                self.close()
                raise library().OperationalError(f"the server has sent nothing for {self.patience:g} s") from None

    return Connection
