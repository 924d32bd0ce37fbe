"""Small things that somebody came by and may want later, in an unnamed temporary file. Bounded: a full shelf is emptied."""

import contextlib
import os
import tempfile
import threading
from typing import IO

from joinfs.stores.value import MEBIBYTE

# What is larger than this is not small.
SMALL = 64 << 10
MOST_BYTES = 128 * MEBIBYTE
# One is some 200 bytes of memory.
MOST_THINGS = 50_000


class Shelf:
    """Data by number. Anything may be gone at any time: the disk may be full as well."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._things: dict[int, tuple[int, int]] = {}
        self._size = 0
        self._closed = False

    def get(self, number: int) -> bytes | None:
        """Answer what was put under a number, if it is still there."""
        with self._lock:
            place, size = self._things.get(number, (0, -1))
            if size < 0 or self._file is None:
                return None
            data = os.pread(self._file.fileno(), size, place)
            return data if len(data) == size else None

    def has(self, number: int) -> bool:
        """Whether there is something under a number."""
        return number in self._things

    def put(self, number: int, data: bytes) -> None:
        """Keep something small, if there is room."""
        with self._lock, contextlib.suppress(OSError):
            if self._closed:
                return
            if self._size + len(data) > MOST_BYTES or len(self._things) >= MOST_THINGS:
                self._empty()
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
            if os.pwrite(self._file.fileno(), data, self._size) == len(data):
                self._things[number] = (self._size, len(data))
                self._size += len(data)

    def close(self) -> None:
        """Throw everything away, and take nothing more."""
        with self._lock:
            self._closed = True
            self._empty()
            if self._file is not None:
                self._file.close()
            self._file = None

    def _empty(self) -> None:
        self._things.clear()
        self._size = 0
        if self._file is not None:
            os.ftruncate(self._file.fileno(), 0)
