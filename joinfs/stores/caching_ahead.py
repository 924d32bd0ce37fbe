"""Reading ahead of who reads a value from its beginning on: in growing pieces, several at once.

What follows the value in its directory is the file system's to find out (``joinfs.filesystem.ahead``), which says so with ``prefetch``.
"""

import logging
import threading
from collections import OrderedDict, deque
from typing import NamedTuple

from joinfs.errors import StoreUnavailable
from joinfs.stores.caching_blocks import BLOCK, MOST_RUN, THREADS, Blocks
from joinfs.stores.caching_facts import File
from joinfs.stores.value import MEBIBYTE

log = logging.getLogger(__name__)

FIRST_WINDOW = MEBIBYTE
MOST_WINDOW = 16 * MEBIBYTE
# Of so many values it is known how they are read.
MOST_READERS = 256
# Values of directories that wait to be fetched; more are left to who reads them. And how many threads fetch them.
MOST_WAITING = 10_000
FETCHERS = THREADS // 2


class _Reader(NamedTuple):
    """Who reads a value: where the last read ended, how far ahead of that is asked for, and how far it was."""

    end: int
    window: int
    asked: int


class Ahead:
    """Who is told what is read, and has what follows fetched.

    Args:
        blocks: Where it is fetched to.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, _Reader] = OrderedDict()
        self._waiting: deque[tuple[str, int]] = deque()
        self._fetchers = 0

    def read(self, key: str, file: File, offset: int, size: int) -> None:
        """A range of a value is being read."""
        end = offset + size
        with self._lock:
            reader = self._readers.pop(key, _Reader(0, 0, 0))
            # Several threads read on side by side, not quite in order; the kernel's do.
            if reader.end - 4 * size <= offset <= reader.end + 4 * size and (offset or reader == (0, 0, 0)):
                window = min(max(2 * reader.window, FIRST_WINDOW), MOST_WINDOW)
                begin, until = max(reader.asked, end), min(end + window, file.size)
                # Whole requests, but for the last.
                if until < file.size:
                    until = begin + (until - begin) // (MOST_RUN * BLOCK) * (MOST_RUN * BLOCK)
                reader = _Reader(max(end, reader.end), window, max(until, reader.asked))
            else:
                begin = until = 0
                reader = _Reader(end, 0, end)
            self._readers[key] = reader
            if len(self._readers) > MOST_READERS:
                self._readers.popitem(last=False)
        if begin < until:
            self._blocks.fetch_ahead(key, file, range(begin // BLOCK, -(-until // BLOCK)))

    def prefetch(self, keys: list[tuple[str, int]]) -> None:
        """Somebody will probably read these values, of these sizes."""
        with self._lock:
            self._waiting.extend(keys[: MOST_WAITING - len(self._waiting)])
            begun = min(len(self._waiting), FETCHERS) - self._fetchers
            self._fetchers += max(begun, 0)
        for _ in range(begun):
            self._blocks.submit(self._fetch_waiting)

    def _fetch_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._fetchers -= 1
                    return
                key, size = self._waiting.popleft()
            try:
                self._blocks.fetch(key, size)
            except StoreUnavailable:
                self._waiting.clear()
            except Exception as error:  # it was a hint; who reads it is told
                log.debug("%r: %s", key, error)
