"""Sends what waits to its store, several files at a time, and deletes there what is to be deleted; and goes on trying."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable

from joinfs.errors import DirectoryNotEmpty, StoreUnavailable
from joinfs.stores.base import Store
from joinfs.stores.keys import is_directory_key
from joinfs.stores.writeback_entries import Entry, Taken
from joinfs.stores.writeback_pending import Pending, shown

log = logging.getLogger(__name__)

# Files at a time.
SENDERS = 16


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
        self._threads = [threading.Thread(target=self._work, name="joinfs sends", daemon=True) for _ in range(senders)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Send nothing any more, once what is under way has arrived or failed."""
        with self._pending.changed:
            self._ended = True
            self._pending.work.notify_all()
            self._pending.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def drain(self, entries: Iterable[Entry] | None = None) -> None:
        """Send all that waits now, or some of it, and return when it has arrived as it is now.

        Raises:
            StoreUnavailable: The store does not take some of it, which waits on; all else has arrived.
        """
        errors = self._pending.drain(entries, lambda: self._ended)
        if errors:
            files = "a file is" if len(errors) == 1 else f"{len(errors)} files are"
            raise StoreUnavailable(f"{files} not sent to {self._store.name} yet; {errors[-1]}")

    def _work(self) -> None:
        while True:
            with self._pending.changed:
                taken: list[Taken] = []
                while not self._ended and not (taken := self._pending.take()):
                    self._pending.work.wait(self._pending.next_due())
                if not taken:
                    return
            self._note(taken, self._send(taken))

    def _send(self, taken: list[Taken]) -> Exception | None:
        try:
            with self._around():
                self.send([one.entry for one in taken], taken[0].key)
        except Exception as failure:  # whatever it is: it is kept, and whoever waits for it is told
            return failure
        return None

    def _note(self, taken: list[Taken], failure: Exception | None) -> None:
        with self._pending.changed:  # whoever is told that all has arrived finds nothing that is still being sent
            try:
                if failure is None:
                    self._pending.arrived(taken)
                else:
                    self._note_failure(taken, failure)
            except Exception as disk:  # it is sent once more
                log.warning("%r was sent to %s, and that cannot be noted: %s", taken[0].key, self._store.name, disk)
                for one in taken:
                    self._pending.was_not_taken(one.entry, f"{one.key!r} was sent, and that cannot be noted: {disk}")
            finally:
                self._pending.free(taken)

    def _note_failure(self, taken: list[Taken], failure: Exception) -> None:
        if isinstance(failure, KeyError):  # what has been replaced meanwhile is no more as it was
            taken = [one for one in taken if self._pending.find(one.key) is one.entry]
        for one in taken[:1]:
            what = "is not deleted in" if one.entry.is_gone else "is not sent to"
            log.warning("%r %s %s yet: %s; that is tried again", one.key, what, self._store.name, failure)
        for one in taken:
            self._pending.was_not_taken(one.entry, f"{one.key!r}: {failure}")

    def send_held(self, entry: Entry) -> None:
        """Send what is held, and return when it has arrived.

        Raises:
            StoreError, OSError: As ``Store.put``; it waits on.
        """
        taken, entry.is_new = Taken(entry, entry.key, entry.version), False
        with self._around():
            self.send([entry], entry.key)
        self._pending.arrived([taken])

    def send(self, entries: list[Entry], key: str) -> None:
        """Put a file where it is to go, or a directory; or delete a directory there, or several files."""
        entry, disk = entries[0], self._pending.disk
        if entry.is_gone and is_directory_key(key):
            self._delete_directory(key)
        elif entry.is_gone:
            self._store.delete_sent([entry.key for entry in entries])
        else:
            with contextlib.closing(disk.get(entry.number)) as value:
                data = None if is_directory_key(key) else value.data
                self._store.put_sent(key, disk.stat(entry.number), data, shown(dict(value.metadata)), disk.get_xattrs(entry.number))

    def _delete_directory(self, key: str) -> None:
        try:
            self._store.delete_sent([key])
        except DirectoryNotEmpty:
            log.warning("%r is not deleted in %s: others have put something there since", key, self._store.name)
