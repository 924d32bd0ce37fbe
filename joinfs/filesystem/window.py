"""What is read of a file that is in no local file: more than was asked for, and of a slow store ahead of who reads on.

Who begins at the beginning, or goes on where the last read ended, gets a piece; the next is larger, and of a slow store
more and more of those that follow are fetched at the same time, so that a long file is read as quickly as it can come.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from joinfs.stores import Stat
from joinfs.stores.value import MEBIBYTE

FIRST, MOST = MEBIBYTE, 4 * MEBIBYTE
# How many pieces are fetched ahead of who reads on, at the most; and how many are in memory, of all files, before each has only one ahead.
MOST_AHEAD, MOST_IN_ALL = 8, 64


class _Piece(NamedTuple):
    """Bytes of a file that had these attributes: they are there, or on their way."""

    start: int
    size: int
    stat: Stat
    data: "Future[bytes]"

    @property
    def end(self) -> int:
        """Where the next begins."""
        return self.start + self.size

    def is_of(self, stat: Stat) -> bool:
        """Whether the file is still the same."""
        return self.stat.file_id == stat.file_id and not self.stat.has_other_data_than(stat)


class _Count:
    """How many pieces there are of all files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.pieces = 0

    def add(self, pieces: int) -> None:
        """There are so many more."""
        with self._lock:
            self.pieces += pieces


_COUNT = _Count()


class Window:
    """The window on one file. One thread at a time; it is to be cleared at the end.

    Args:
        fetch: ``fetch(offset, size)`` reads from the store, short only at the end; in any thread, of a slow store.
        is_slow: Whether that takes long.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], is_slow: bool) -> None:
        self._fetch, self._is_slow = fetch, is_slow
        self._size, self._ahead = FIRST, 1
        # One after another without gaps: the last that was read from, perhaps one before it, and those that are fetched ahead.
        self._pieces: list[_Piece] = []

    def clear(self) -> None:
        """Forget everything."""
        self._keep([])

    def __del__(self) -> None:
        """Who has read after it was cleared may not clear it again."""
        self.clear()

    def _keep(self, pieces: list[_Piece]) -> list[_Piece]:
        """Have these, and no others, in memory."""
        _COUNT.add(len(pieces) - len(self._pieces))
        self._pieces = pieces
        return pieces

    def read(self, offset: int, size: int, stat: Stat) -> bytes:
        """Answer up to ``size`` bytes from ``offset`` of the file, which has these attributes now; short only at the end.

        Errors are those of ``fetch``.
        """
        pieces = self._over(offset, min(size, max(stat.size - offset, 0)), stat) or self._moved_to(offset, size, stat)
        try:
            data = self._joined(pieces, offset, size)
        except BaseException:
            self.clear()
            raise
        if self._is_slow and pieces[-1] in self._pieces:
            self._look_ahead(pieces[-1], offset + size, stat)
        return data

    def _over(self, offset: int, size: int, stat: Stat) -> list[_Piece]:
        """The pieces that have so much together; none if it has to be fetched."""
        pieces = self._pieces
        if not pieces or not pieces[0].start <= offset <= offset + size <= pieces[-1].end or not all(piece.is_of(stat) for piece in pieces):
            return []
        first = next(number for number, piece in enumerate(pieces) if offset < piece.end or piece is pieces[-1])
        wanted = [piece for piece in pieces[first:] if piece.start < offset + size or piece is pieces[first]]
        # The kernel may ask for what is a little before that in a moment.
        self._keep(pieces[max(first - 1, 0) :])
        return wanted

    def _moved_to(self, offset: int, size: int, stat: Stat) -> list[_Piece]:
        """What is to be read now; the window is there then if it is read in order."""
        pieces = self._pieces
        if offset and not (pieces and pieces[0].start < offset <= pieces[-1].end):
            return [self._fetched(offset, size, stat)]
        self._size, self._ahead = (self._grown(), self._ahead) if offset else (FIRST, 1)
        return self._keep([self._fetched(offset, max(size, self._size), stat)])

    def _grown(self) -> int:
        return min(self._size * 2, MOST) if self._is_slow else FIRST

    def _fetched(self, offset: int, size: int, stat: Stat) -> _Piece:
        piece = _Piece(offset, size, stat, Future())
        piece.data.set_result(self._fetch(offset, size))
        return piece

    def _look_ahead(self, here: _Piece, end: int, stat: Stat) -> None:
        """Have more pieces fetched, once it was seen that somebody reads on."""
        if here.start == 0 and here.size <= FIRST and end < FIRST // 2:
            return
        following = len(self._pieces) - self._pieces.index(here) - 1
        if following < self._ahead:
            self._ahead = min(self._ahead * 2, MOST_AHEAD)
        most = self._ahead if _COUNT.pieces < MOST_IN_ALL else 1
        while following < most and self._pieces[-1].end < stat.size:
            self._size = self._grown()
            self._keep([*self._pieces, self._on_its_way(self._pieces[-1].end, stat)])
            following += 1

    def _on_its_way(self, start: int, stat: Stat) -> _Piece:
        piece = _Piece(start, min(self._size, stat.size - start), stat, Future())

        def fetch() -> None:
            try:
                piece.data.set_result(self._fetch(piece.start, piece.size))
            except BaseException as error:  # who reads it tries again
                piece.data.set_exception(error)

        threading.Thread(target=fetch, name="joinfs reads ahead", daemon=True).start()
        return piece

    def _joined(self, pieces: list[_Piece], offset: int, size: int) -> bytes:
        """What pieces have of a range, up to the first that is short."""
        parts = []
        for piece in pieces:
            # What failed when nobody had asked for it yet may be had by now.
            data = piece.data.result() if piece.data.exception() is None else self._fetch(piece.start, piece.size)
            parts.append(data[max(offset - piece.start, 0) : max(offset + size - piece.start, 0)])
            if len(data) < piece.size:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)
