"""A Redis server, as one store asks it: connections, what is tried again, and what its errors mean.

What failed on the way is tried again until ``patience`` has passed. That does no harm: what only reads may be done twice, and a
write has a number, by which the server knows that it has done it. So a server may be restarted without anybody being told.
When it stays away, each further request tries once only, until one succeeds.
"""

import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from joinfs.errors import AccessDenied, CorruptStore, NotConnected, OutOfSpace, ReadOnly, StoreError, StoreUnavailable, UsageError
from joinfs.stores.redis_scripts import FREEING, READING, SCRIPTS, WRITING
from joinfs.stores.redis_url import AUTHORITY, CERTIFICATE, KEY, PASSWORDS, Address, certificates
from joinfs.stores.troubles import Troubles
from joinfs.stores.value import now

T = TypeVar("T")
Command = tuple[Any, ...]

# Bytes that are read of a connection at a time, at most.
READ_SIZE = 1 << 18
# Connections that are kept while nobody needs them.
MOST_IDLE = 16
# Seconds before something is tried again, at first and at most.
FIRST_PAUSE, LAST_PAUSE = 0.01, 0.25
# In what is said of a connection that came about, and was ended before anything was answered; or of a certificate.
_BROKEN_OFF = ("SSL", "_ssl", "reset by peer", "closed by server")


class Server:
    """A server, as it is asked by one store; several threads may.

    Args:
        address: Where it is.
        user, password: Whom to be there, if anybody.
        timeout: Seconds for which it may send nothing.
        patience: Seconds for which what fails is tried again.

    Attributes:
        name: What messages call the store.
        store: A name for this connection of a store, like no other.

    Raises:
        UsageError: The library is not installed, or a file of certificates is not there.
    """

    def __init__(self, address: Address, user: str | None, password: str | None, timeout: float, patience: float) -> None:
        self._redis = _library()
        self.name = address.name
        self._address, self._login = address, {"username": user, "password": password}
        self._certificates = certificates() if address.encrypted else {}
        self._timeout, self._patience = timeout, patience
        self.store = secrets.token_hex(8)
        self.tag = f"{{{address.prefix}}}"
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._writers: list[_Writer] = []
        self._numbers = itertools.count(1)
        self._ended = threading.Event()
        self._troubles = Troubles(address.name)
        self._is_away = True  # until it has answered once: a wrong address is told at once

    def key(self, name: str) -> str:
        """Answer what a key of the store is called on the server."""
        return f"{self.tag}:{name}"

    def close(self) -> None:
        """Close the connections; who is asking is told that the store is not connected."""
        self._ended.set()
        self._drop_idle()

    # ---------------------------------------------------------------- asking

    def ask(self, *command: Any) -> Any:
        """Answer what the server answers to a command that may come twice.

        Raises:
            StoreUnavailable, AccessDenied, OutOfSpace, ReadOnly, CorruptStore: As they say.
            NotConnected: The store has been disconnected.
        """
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Command]) -> list[Any]:
        """The same of several commands at once, in one round trip; if one fails, others may have been done."""
        return self._patiently(lambda connection: _talk(connection, commands, self._redis.ResponseError))

    def read(self, *arguments: Any) -> Any:
        """Answer what the script that reads does; errors as for ``ask``."""
        return self.ask(*READING.command(self.tag, *arguments))

    def write(self, what: str, changed: Sequence[str], *arguments: Any, frees: bool = False) -> Any:
        """Have the script that writes do something, once; answer what it does.

        Args:
            what: One of its parts.
            changed: The keys of which others are told.
            arguments: What that part needs.
            frees: Whether it makes room.

        Raises:
            StoreError: As for ``ask``. After a ``StoreUnavailable`` it is not known whether it was done.
        """
        told = "\0".join(changed).encode("utf-8", "surrogateescape")
        with self._writing() as writer:
            given = (what, writer.name, writer.number, self.store, now(), told, *arguments)
            return self.ask(*(FREEING if frees else WRITING).command(self.tag, *given))

    def simple(self, what: str, *arguments: Any) -> Command:
        """The command that has the script that writes do what may be done twice, and needs no room to speak of."""
        return FREEING.command(self.tag, what, "", 0, self.store, now(), *arguments)

    @contextlib.contextmanager
    def _writing(self) -> Iterator["_Writer"]:
        with self._lock:
            writer = self._writers.pop() if self._writers else _Writer(f"{self.store}-{next(self._numbers)}")
        writer.number += 1
        try:
            yield writer
        finally:
            # After a failure its last request may still be on its way, and is refused when it comes after another one.
            with self._lock:
                self._writers.append(writer)

    # ---------------------------------------------------------------- connections

    def open_connection(self) -> Any:
        """Answer a new connection of redis-py's, which the caller disconnects. Raises what that library does."""
        kind = self._redis.SSLConnection if self._address.encrypted else self._redis.Connection
        connection = kind(
            host=self._address.host,
            port=self._address.port,
            db=self._address.database,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            socket_keepalive=True,
            socket_read_size=READ_SIZE,
            client_name="joinfs",
            protocol=2,
            **self._login,
            **self._certificates,
        )
        connection.connect()
        return connection

    def _patiently(self, talk: Callable[[Any], T]) -> T:
        until, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                with self.explained():
                    answer = self._once(talk)
                self._is_away = False
                self._troubles.end()
                return answer
            except _Away as error:
                if self._ended.is_set():
                    raise NotConnected(f"{self.name} is not connected any more") from None
                if self._is_away or time.monotonic() >= until:
                    self._is_away = True
                    raise self._troubles.told(StoreUnavailable(f"{self.name} cannot be reached: {error}")) from error
            self._ended.wait(pause)
            pause = min(pause * 2, LAST_PAUSE)

    def _once(self, talk: Callable[[Any], T]) -> T:
        connection = self._take()
        try:
            answer = self._with_scripts(connection, talk)
        except self._redis.ResponseError as error:
            self._give(connection)  # it was answered
            raise error from None
        except BaseException:
            connection.disconnect()
            self._drop_idle()  # they are no better, after a restart of the server
            raise
        self._give(connection)
        return answer

    def _with_scripts(self, connection: Any, talk: Callable[[Any], T]) -> T:
        try:
            return talk(connection)
        except self._redis.exceptions.NoScriptError:  # it has been restarted, or has forgotten them
            _talk(connection, [("SCRIPT", "LOAD", script.text) for script in SCRIPTS], self._redis.ResponseError)
            return talk(connection)

    def _take(self) -> Any:
        if self._ended.is_set():
            raise NotConnected(f"{self.name} is not connected any more")
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self.open_connection()

    def _give(self, connection: Any) -> None:
        with self._lock:
            keep = len(self._idle) < MOST_IDLE and not self._ended.is_set()
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.disconnect()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()

    # ---------------------------------------------------------------- errors

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Around what talks to the server: what redis-py raises is one of our errors, or ``_Away``."""
        errors = self._redis.exceptions
        try:
            yield
        except (errors.AuthenticationError, errors.AuthorizationError) as error:
            text = f"{self.name} does not let us in (the password is taken from {PASSWORDS[0]}): {error}"
            raise self._troubles.told(AccessDenied(text)) from None
        except errors.NoPermissionError as error:
            raise AccessDenied(f"{self.name} does not let us do this: {error}") from None
        except errors.MovedError as error:
            where = f"{error.host}:{error.port}"
            text = f"{self.name}: the server is one of a cluster, and has not the keys of this store; name {where}, which has"
            raise self._troubles.told(StoreUnavailable(text)) from None
        except (errors.ConnectionError, errors.TimeoutError, errors.MasterDownError, errors.ClusterDownError, OSError) as error:
            raise _Away(self._said(error)) from error
        except (errors.TryAgainError, errors.AskError) as error:  # the keys are being moved to another server
            raise _Away(f"its keys are on the move: {error}") from error
        except errors.RedisError as error:
            if str(error).startswith("BUSY "):  # somebody's script runs for long
                raise _Away(str(error)) from error
            raise self._refused(error) from None

    def _said(self, error: Exception) -> str:
        text = " ".join(str(error).split()).removesuffix(".")
        if not self._is_away or not any(words in text for words in _BROKEN_OFF):
            return text
        if self._address.encrypted:
            return f"{text}; whom to trust is taken from {AUTHORITY} or SSL_CERT_FILE, and a certificate of ours from {CERTIFICATE} and {KEY}"
        return f"{text}; if it speaks TLS, the URL begins with rediss:"

    def _refused(self, error: Exception) -> StoreError:
        text = f"{self.name} answers: {error}"
        errors = self._redis.exceptions
        if isinstance(error, errors.OutOfMemoryError):
            return OutOfSpace(f"{self.name}: the server has no memory left for this: {error}")
        if "MISCONF" in text and "space" in text:
            return OutOfSpace(text)
        if isinstance(error, errors.ReadOnlyError):
            return ReadOnly(f"{self.name} is a replica now, which takes no writes")
        if "SELECT is not allowed in cluster mode" in text:
            return StoreUnavailable(f"{self.name}: a cluster has only the database 0")
        if "The user executing the script" in text:
            return AccessDenied(text)
        if "WRONGTYPE" in text or "user_script" in text:
            return CorruptStore(f"{self.name} holds what no joinfs writes: {error}")
        return StoreUnavailable(text)


class _Away(Exception):
    """The server cannot be talked to now."""


class _Writer:
    """What numbers writes: it has one under way at a time."""

    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0


def _talk(connection: Any, commands: Sequence[Command], refused: type[Exception]) -> list[Any]:
    """Send commands and read the answers; raise the first error only when all are read, so that the connection can go on."""
    if len(commands) == 1:
        connection.send_command(*commands[0], check_health=False)
        return [connection.read_response()]
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers, error = [], None
    for _ in commands:
        try:
            answers.append(connection.read_response())
        except refused as one:
            error = error or one
    if error is not None:
        raise error
    return answers


def _library() -> Any:
    try:
        import redis  # noqa: PLC0415 - an extra
    except ImportError:
        raise UsageError("Redis servers need a library; install it with: pip install 'joinfs[redis]'") from None
    return redis
