"""Being told by a Redis server what others change in a store; see ``Store.watch``.

Each write publishes the keys that it changes, and whose it is. What is published while nobody listens is not kept: so when a
connection is lost, anything may have changed. A server that has too much to tell one who is slow ends the connection, too.
"""

import contextlib
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

from joinfs.stores.redis_nodes import decoded
from joinfs.stores.redis_server import Server
from joinfs.stores.telling import Watcher

log = logging.getLogger(__name__)

# Seconds of silence after which the server is asked whether it is there.
PULSE = 2.0
# What is published by who wants to know when all before it has been told, after the name of the connection.
_CATCHING_UP = "?"
# Seconds before it is tried again to listen.
PAUSE = 0.2


class Others:
    """Listens to what others change, until it is closed.

    Args:
        server: Whom to listen to.
        tell: Called with each key, in a thread that is a ``Watcher``; with None when anything may have changed.
        name: What messages call the store.
        timeout: Seconds for which the server may not answer.

    Raises:
        Exception: What redis-py raises if the server cannot be listened to.

    Attributes:
        is_told: Whether all that others change is told now.
    """

    def __init__(self, server: Server, tell: Callable[[str | None], object], name: str, timeout: float) -> None:
        self._server, self._tell, self._timeout = server, tell, timeout
        self._channel = server.key("changes")
        self._connection = self._subscribed()
        self.is_told = True
        # How often somebody wanted to catch up, and up to which of these all has been told.
        self._wanted = itertools.count(1)
        self._caught_up = 0
        self._changed = threading.Condition()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = Watcher(target=self._run, name=f"changes of {name}", daemon=True)
        self._thread.start()

    def catch_up(self, timeout: float) -> None:
        """Return when all has been told that others had done before, or nothing is told at present, or after ``timeout`` seconds.

        Raises:
            StoreError: The server cannot be asked.
        """
        if threading.current_thread() is self._thread or not self.is_told:
            return
        mine = next(self._wanted)
        # It comes after all that was published before, to all who listen.
        self._server.ask("PUBLISH", self._channel, f"{self._server.store}{_CATCHING_UP}\0{mine}")
        with self._changed:
            self._changed.wait_for(lambda: self._caught_up >= mine or not self.is_told, timeout)

    def close(self) -> None:
        """Tell nothing any more; no call comes after this, except one that this is called from."""
        os.eventfd_write(self._end, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _subscribed(self) -> Any:
        connection = self._server.open_connection()
        try:
            connection.send_command("SUBSCRIBE", self._channel, check_health=False)
            connection.read_response()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            while self._listen():
                self._is_told_no_more()
                self._connection.disconnect()
                self._tell(None)
                if not self._listen_again():
                    break
                self.is_told = True
                # Who looked meanwhile is to look again, now that what changes after it is told.
                self._tell(None)
        finally:
            self._is_told_no_more()
            self._connection.disconnect()
            os.close(self._end)

    def _is_told_no_more(self) -> None:
        with self._changed:
            self.is_told = False
            self._changed.notify_all()

    def _listen(self) -> bool:
        """Tell what comes, until the connection is lost; False if it is to end."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        try:
            poll.register(self._connection._sock, select.POLLIN)
            heard, asked = time.monotonic(), False
            while True:
                ready = poll.poll(PULSE * 1000)
                if any(descriptor == self._end for descriptor, _ in ready):
                    return False
                if ready:
                    self._take_all()
                    heard, asked = time.monotonic(), False
                elif asked and time.monotonic() - heard > self._timeout:
                    return True
                elif not asked:
                    self._connection.send_command("PING", check_health=False)
                    asked = True
        except Exception as error:
            log.debug("%s is not heard any more: %s", self._channel, error)
            return True

    def _take_all(self) -> None:
        while True:
            message = self._connection.read_response()
            if message[0] == b"message":
                self._take(message[2])
            if not self._connection.can_read(0):
                return

    def _take(self, message: bytes) -> None:
        whose, *keys = message.split(b"\0")
        store = whose.decode(errors="replace")
        if store == self._server.store + _CATCHING_UP:
            with self._changed:
                self._caught_up = max(self._caught_up, int(keys[0]))
                self._changed.notify_all()
        elif store != self._server.store and not store.endswith(_CATCHING_UP):
            for key in keys:
                self._tell(decoded(key))

    def _listen_again(self) -> bool:
        """Whether it listens again; False if it is to end."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while not poll.poll(PAUSE * 1000):
            with contextlib.suppress(Exception):
                self._connection = self._subscribed()
                return True
        return False
