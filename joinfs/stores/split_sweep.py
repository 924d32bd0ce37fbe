"""The objects of a split store, and how those that are not needed go.

Before an object is put, and before a value goes that has one, its name is noted: ``noted/ID`` in the second store. What
was noted an hour ago is looked for in the first store, by the index of its metadata; what no value has is deleted, and the note is.
So whatever is cut off, and whoever else writes, no object is deleted that a value has, and none stays for good.
"""

import contextlib
import io
import logging
import secrets
import threading
import time
from typing import BinaryIO

from joinfs.errors import JoinfsError
from joinfs.stores.base import DEFAULT_FILE_MODE, Store
from joinfs.stores.value import MEBIBYTE, NANOSECONDS, new_stat, now

log = logging.getLogger(__name__)

OBJECT = "split.object"
NOTED = "noted/"
# Seconds for which what was noted is left alone; who puts an object notes it again when that took long.
GRACE = 3600.0


class Objects:
    """The second store, as the split store uses it; several threads and processes may.

    Args:
        names: The first store.
        data: The second.
    """

    def __init__(self, names: Store, data: Store) -> None:
        self._names, self._data = names, data
        self._ended = threading.Event()
        self._swept = 0.0
        self._lock = threading.Lock()

    def begin(self, writable: bool) -> None:
        """They are connected: remove, meanwhile, what is left of earlier times."""
        self._ended = threading.Event()
        if writable and self._data.capabilities.thread_safe and self._names.capabilities.thread_safe:
            self._sweep_meanwhile()

    def end(self) -> None:
        """They are about to be disconnected."""
        self._ended.set()

    # ---------------------------------------------------------------- objects

    def put(self, data: BinaryIO, buffer_size: int) -> tuple[str, int]:
        """Put data, and answer the name and size of its object; errors as for ``Store.put``."""
        name, begun = secrets.token_hex(16), time.monotonic()
        self.note(name)
        size = self._data.put(_key(name), new_stat(DEFAULT_FILE_MODE), data, buffer_size=buffer_size).size
        if time.monotonic() - begun > GRACE / 4:
            self.note(name)
        return name, size

    def get(self, name: str) -> BinaryIO:
        """Answer a stream of an object; KeyError if it is not there."""
        return self._data.get(_key(name)).data

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Answer a range of an object; KeyError if it is not there."""
        return self._data.read(_key(name), offset, size) if size else b""

    def note(self, name: str) -> None:
        """An object is perhaps not needed."""
        self._data.put(NOTED + name, new_stat(DEFAULT_FILE_MODE), io.BytesIO(), buffer_size=MEBIBYTE)
        if time.monotonic() > self._swept + GRACE:
            self._sweep_meanwhile()

    # ---------------------------------------------------------------- sweeping

    def _sweep_meanwhile(self) -> None:
        with self._lock:
            if self._swept and time.monotonic() <= self._swept + GRACE:
                return
            self._swept = time.monotonic()
        threading.Thread(target=self._sweep_quietly, args=(self._ended,), name="joinfs split", daemon=True).start()

    def _sweep_quietly(self, ended: threading.Event) -> None:
        try:
            self.sweep(ended=ended)
        except (JoinfsError, OSError) as error:
            if not ended.is_set():
                log.warning("what is not needed any more stays in %s for now: %s", self._data.name, error)

    def sweep(self, grace: float = GRACE, ended: threading.Event | None = None) -> int:
        """Remove what was noted so many seconds ago and is not needed; answer how many objects that were.

        Args:
            grace: Less than an hour is right only if nobody writes or reads.
            ended: Set when there is no going on.
        """
        count, until = 0, now() - int(grace * NANOSECONDS)
        with contextlib.suppress(KeyError):
            for name, stat in self._data.list(NOTED):
                if ended is not None and ended.is_set():
                    break
                if stat.mtime <= until:
                    count += self._remove(name)
        return count

    def _remove(self, name: str) -> bool:
        needed = any(True for _ in self._names.query_keys(**{OBJECT: name}))
        removed = not needed and self._delete(_key(name))
        self._delete(NOTED + name)
        return removed

    def _delete(self, key: str) -> bool:
        with contextlib.suppress(KeyError):
            self._data.delete(key)
            return True
        return False


def _key(name: str) -> str:
    return f"objects/{name[:2]}/{name}"
