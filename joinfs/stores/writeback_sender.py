"""Sends what waits to its store, several files at a time, and goes on trying."""

import contextlib
import logging
import threading
from collections.abc import Callable

from joinfs.errors import StoreUnavailable
from joinfs.stores.base import Store
from joinfs.stores.writeback_pending import Entry, Pending, shown

log = logging.getLogger(__name__)

# Files at a time.
SENDERS = 16
# Seconds after which what was not taken is sent again; each time twice as many, up to the last.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0


class Sender:
    """Threads that send, for as long as there is something to be sent, and it is not closed.

    Args:
        pending: What waits.
        store: Where it goes.
        around: Around each write to the store.
        senders: How many files at a time.
    """

    def __init__(
        self, pending: Pending, store: Store, around: Callable[[], contextlib.AbstractContextManager[object]], senders: int = SENDERS
    ) -> None:
        self._pending, self._store, self._around = pending, store, around
        self._ended = False
        self._retry = FIRST_RETRY
        self._failures = 0
        self._failure = ""
        self._threads = [threading.Thread(target=self._work, name="joinfs sends", daemon=True) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Send nothing any more, once what is under way has arrived or failed."""
        with self._pending.changed:
            self._ended = True
            self._pending.work.notify_all()
        for thread in self._threads:
            thread.join()

    def drain(self) -> None:
        """Send all that waits now, and return when it has arrived.

        Raises:
            StoreUnavailable: The store does not take some of it, which waits on.
        """
        with self._pending.changed:
            failures = self._failures
            waiting = self._pending.below("")
            for entry in waiting:
                self._pending.schedule(entry, 0.0)
            self._pending.changed.wait_for(lambda: self._failures != failures or all(self._pending.find(entry.key) is not entry for entry in waiting))
            if self._failures != failures:
                count = len(self._pending)
                files = "a file is" if count == 1 else f"{count} files are"
                raise StoreUnavailable(f"{files} not sent to {self._store.name} yet; {self._failure}")

    def _work(self) -> None:
        while True:
            with self._pending.changed:
                taken = None
                while not self._ended and (taken := self._pending.take()) is None:
                    self._pending.work.wait(self._pending.next_due())
                if taken is None:
                    return
            self._send(*taken)

    def _send(self, entry: Entry, key: str, version: int) -> None:
        try:
            with self._around():
                self.send(entry, key)
        except KeyError as error:
            if self._pending.find(key) is entry:
                self._failed(entry, key, version, error)
            else:  # it was replaced meanwhile, and is no more as it was
                self._pending.sent(entry, key, version, arrived=False)
        except Exception as error:  # whatever it is: it is kept, and whoever waits for it is told
            self._failed(entry, key, version, error)
        else:
            self._retry = FIRST_RETRY
            self._pending.sent(entry, key, version, arrived=True)

    def send_now(self, key: str) -> None:
        """Send what waits at a key, if something does, and return when it has arrived.

        Raises:
            StoreError, OSError: As ``Store.put``; it waits on.
        """
        with self._pending.held(key) as entry:
            if entry is not None:
                version = entry.version
                with self._around():
                    self.send(entry, key)
                self._pending.arrived(entry, key, version)

    def send(self, entry: Entry, key: str) -> None:
        """Put a file where it is to go."""
        disk = self._pending.disk
        with contextlib.closing(disk.get(entry.number)) as value:
            self._store.put_sent(key, disk.stat(entry.number), value.data, shown(dict(value.metadata)), disk.get_xattrs(entry.number))

    def _failed(self, entry: Entry, key: str, version: int, error: Exception) -> None:
        log.warning("%r is not sent to %s yet: %s; it is kept, and sent again", key, self._store.name, error)
        with self._pending.changed:
            self._pending.schedule(entry, self._retry)
            self._retry = min(self._retry * 2, LAST_RETRY)
            self._failures += 1
            self._pending.changed.notify_all()
            self._failure = f"{key!r}: {error}"
        self._pending.sent(entry, key, version, arrived=False)
