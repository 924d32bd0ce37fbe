"""What is read of a file that is in no local file: more than was asked for, and of a slow store ahead of who reads on.

Who begins at the beginning, or goes on where the last read ended, gets a window; the next is larger, and of a slow store
it is fetched while this one is read, so that a long file is read as quickly as it comes.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from joinfs.stores import Stat
from joinfs.stores.value import MEBIBYTE

FIRST, MOST = MEBIBYTE, 8 * MEBIBYTE


class _Piece(NamedTuple):
    """Bytes of a file that had these attributes: they are there, or on their way."""

    start: int
    size: int
    stat: Stat
    data: "Future[bytes]"

    def has(self, offset: int, size: int, stat: Stat) -> bool:
        """Whether these are in it, and the file is still the same."""
        inside = self.start <= offset and offset + size <= self.start + self.size
        return inside and self.stat.file_id == stat.file_id and not self.stat.has_other_data_than(stat)


class Window:
    """The window on one file. One thread at a time.

    Args:
        fetch: ``fetch(offset, size)`` reads from the store, short only at the end; in any thread, of a slow store.
        is_slow: Whether that takes long.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], is_slow: bool) -> None:
        self._fetch = fetch
        self._most = MOST if is_slow else FIRST
        self._size = FIRST
        self._here: _Piece | None = None
        self._next: _Piece | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._here = self._next = None

    def read(self, offset: int, size: int, stat: Stat) -> bytes:
        """Answer up to ``size`` bytes from ``offset`` of the file, which has these attributes now; short only at the end.

        Errors are those of ``fetch``.
        """
        here = self._at(offset, min(size, max(stat.size - offset, 0)), stat) or self._moved_to(offset, size, stat)
        try:
            data = here.data.result()
        except BaseException:
            self.clear()
            raise
        if self._here is here and self._most > FIRST:
            self._look_ahead(here, len(data), stat)
        inside = offset - here.start
        return data[inside : inside + size]

    def _at(self, offset: int, size: int, stat: Stat) -> _Piece | None:
        """The piece that has so much; none if it has to be fetched."""
        if self._here is not None and self._here.has(offset, size, stat):
            return self._here
        if self._next is not None and self._next.has(offset, size, stat):
            self._here, self._next = self._next, None
            return self._here
        return None

    def _moved_to(self, offset: int, size: int, stat: Stat) -> _Piece:
        """What is to be read now, which is the window if it is read in order."""
        here = self._here
        in_order = offset == 0 or (here is not None and here.start < offset <= here.start + here.size)
        if not in_order:
            return self._fetched(offset, size, stat)
        self._size = FIRST if offset == 0 else min(self._size * 2, self._most)
        self._here, self._next = self._fetched(offset, max(size, self._size), stat), None
        return self._here

    def _fetched(self, offset: int, size: int, stat: Stat) -> _Piece:
        piece = _Piece(offset, size, stat, Future())
        piece.data.set_result(self._fetch(offset, size))
        return piece

    def _look_ahead(self, here: _Piece, got: int, stat: Stat) -> None:
        """Have the next window fetched, once it was seen that somebody reads on."""
        end = here.start + here.size
        if self._next is not None or (here.start == 0 and here.size <= FIRST) or got < here.size or end >= stat.size:
            return
        self._size = min(self._size * 2, self._most)
        self._next = piece = _Piece(end, min(self._size, stat.size - end), stat, Future())

        def fetch() -> None:
            try:
                piece.data.set_result(self._fetch(piece.start, piece.size))
            except BaseException as error:  # told to who reads it
                piece.data.set_exception(error)

        threading.Thread(target=fetch, name="joinfs reads ahead", daemon=True).start()
