"""Reading anywhere in what can only be read forward, without keeping it: the members of an archive.

Reading on passes the data by, and remembers the last few mebibytes, because a kernel asks a little out of
order. Who goes back further reads the archive's file itself, if what was passed was seen to be there as it is;
else the member is decompressed again, into an unnamed temporary file, as far as it is read. A few members are
open at a time; the archive's other places where reading ended are kept, to go on from the nearest. Small
members that are passed on the way to another go to a shelf: in many formats they had to be decompressed anyway,
and whoever reads one file of a directory soon reads the others.
"""

import contextlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from joinfs.errors import CorruptStore, NotConnected, StoreError, StoreUnavailable
from joinfs.stores.random_access import RandomAccess, SpooledFile
from joinfs.stores.shelf import SMALL, Shelf
from joinfs.stores.value import MEBIBYTE

# Pieces of a mebibyte that are remembered of a member.
PIECES = 4
# Each costs what libarchive needs to decompress, and with it 100 to 400 bytes for every member of the archive.
MOST_MEMBERS = 4
MOST_IDLE = 1
MANY = 100_000


class Forward(Protocol):
    """What stands at a member of an archive, and can go on from there."""

    number: int

    def go_to(self, number: int, shelf: Shelf | None = None) -> bool:
        """Go on to a later member, with small ones on the way put on the shelf; False if there is none."""

    def read(self, size: int) -> bytes:
        """The next bytes of this one, at most so many; none at its end."""

    def place(self) -> int:
        """Where in the file its data might begin, once a little of it has been read."""

    def close(self) -> None:
        """Let go of it."""


class Cursors:
    """Where reading an archive stands, that nobody uses now, to go on from; and the shelf of what was passed.

    Args:
        begin: Answers one before the first member.
        most: How many to keep.
    """

    def __init__(self, begin: Callable[[], Forward], name: str, most: int) -> None:
        self._begin, self._name, self._most = begin, name, most
        self._lock = threading.Lock()
        self._idle: list[Forward] = []
        self._shelf = Shelf()
        self._closed = False

    def at(self, number: int) -> Forward:
        """Answer a cursor that stands at a member, none of which has been read; the caller gives it back or closes it."""
        try:
            return self._gone_to(number, self._nearest(number) or self._new(), self._shelf)
        except StoreError:  # it may have been a member on the way that cannot be read
            return self._gone_to(number, self._begin(), None)

    def small(self, number: int, size: int) -> bytes:
        """Answer all the data of a small member."""
        data = self._shelf.get(number)
        if data is None or len(data) < size:
            data = _all_of(_Stream(self, number, size, self._name))
            self._shelf.put(number, data)
        return data[:size]

    def give_back(self, cursor: Forward) -> None:
        """Keep a cursor for who wants a later member."""
        with self._lock:
            self._idle.append(cursor)
        self._close_down_to(0 if self._closed else self._most)

    def close(self) -> None:
        """Close those that are here, and from now on those that come back."""
        self._closed = True
        self._close_down_to(0)
        self._shelf.close()

    def _nearest(self, number: int) -> Forward | None:
        with self._lock:
            before = [cursor for cursor in self._idle if cursor.number < number]
            if not before:
                return None
            nearest = max(before, key=lambda cursor: cursor.number)
            self._idle.remove(nearest)
            return nearest

    def _new(self) -> Forward:
        self._close_down_to(self._most - 1)
        return self._begin()

    def _close_down_to(self, count: int) -> None:
        with self._lock:
            surplus = self._idle[: max(len(self._idle) - count, 0)]
            del self._idle[: len(surplus)]
        for cursor in surplus:
            cursor.close()

    def _gone_to(self, number: int, cursor: Forward, shelf: Shelf | None) -> Forward:
        try:
            if not cursor.go_to(number, shelf):
                raise CorruptStore(f"{self._name} has changed: it has no member {number} any more")
        except BaseException:
            cursor.close()
            raise
        return cursor


class _Stream:
    """A member's data from its beginning to the end that the index told, which is checked.

    Attributes:
        place: Where in the file it might begin; None before anything was read.
    """

    def __init__(self, cursors: Cursors, number: int, size: int, name: str) -> None:
        self._cursors, self._name = cursors, name
        self._left = size
        self.place: int | None = None
        self._cursor: Forward | None = cursors.at(number)

    def read(self, size: int) -> bytes:
        if self._cursor is None:
            return b""
        try:
            piece = self._cursor.read(min(size if self.place is not None else 1, self._left))
            self.place = self._cursor.place() if self.place is None else self.place
            if self._left and not piece:
                raise CorruptStore(f"{self._name} is damaged: it ends too early")
            self._left -= len(piece)
            if not self._left:
                self._cursor.read(1)  # checks the sum, where there is one
        except BaseException:
            self._cursor.close()
            self._cursor = None
            raise
        if not self._left:
            self.close()
        return piece

    def close(self) -> None:
        if self._cursor is not None:
            self._cursors.give_back(self._cursor)
        self._cursor = None


def _all_of(stream: _Stream) -> bytes:
    with contextlib.closing(stream):
        return b"".join(iter(lambda: stream.read(MEBIBYTE), b""))


class PassingFile(RandomAccess):
    """A member, read on in passing. Who goes back reads the archive's file, or else from a temporary one.

    Args:
        begin: Answers a stream of the data from its beginning.
        size: Bytes in all.
        file: The archive's; not closed with this.
        name: What messages call it.
    """

    def __init__(self, begin: Callable[[], Any], size: int, file: RandomAccess, name: str) -> None:
        self._begin, self._size, self._file, self._name = begin, size, file, name
        self._lock = threading.Lock()
        self._stream: Any = None
        self._pieces: deque[bytes] = deque()
        self._end = 0
        # Where in the file everything up to _end is as well; None if it is not.
        self._place: int | None = None
        self._spool: SpooledFile | None = None
        self.users = 0

    def read_at(self, offset: int, size: int) -> bytes:
        with self._lock:
            if self._spool is None and self._place is None and offset < self._end - sum(map(len, self._pieces)):
                self._go_back()
            if self._spool is None:
                return self._pass_on(offset, size)
            with self._temporary_file_told():
                return self._spool.read_at(offset, size)

    def close(self) -> None:
        with self._lock:
            self._forget()
            if self._spool is not None:
                self._spool.close()
            self._spool = None

    def _forget(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._stream = self._place = None
        self._pieces.clear()
        self._end = 0

    def _go_back(self) -> None:
        self._forget()
        stream = self._begin()
        try:
            with self._temporary_file_told():
                self._spool = SpooledFile(stream, stream, self._name)
        except BaseException:
            stream.close()
            raise

    @contextlib.contextmanager
    def _temporary_file_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            text = f"going back in a member of {self._name} needs a temporary file"
            raise StoreUnavailable(f"{text}: {error.strerror}; set TMPDIR to another place") from error

    def _pass_on(self, offset: int, size: int) -> bytes:
        end = min(offset + size, self._size)
        found = bytearray()
        while offset < end and (piece := self._known(offset)[: end - offset]):
            found += piece
            offset += len(piece)
        return bytes(found)

    def _known(self, offset: int) -> memoryview:
        """What is known from ``offset`` on, read if need be."""
        while self._end <= offset:
            self._read_piece()
        start = self._end
        for piece in reversed(self._pieces):
            start -= len(piece)
            if start <= offset:
                return memoryview(piece)[offset - start :]
        assert self._place is not None, "read_at has gone back"
        return memoryview(self._file.read_at(self._place + offset, min(MEBIBYTE, self._end - offset)))

    def _read_piece(self) -> None:
        if self._stream is None:
            self._forget()
            self._stream = self._begin()
        try:
            piece = self._stream.read(MEBIBYTE)
        except BaseException:
            self._forget()
            raise
        if self._end == 0:
            self._place = self._stream.place
        if self._place is not None and self._file.read_at(self._place + self._end, len(piece)) != piece:
            self._place = None
        self._pieces.append(piece)
        self._end += len(piece)
        if len(self._pieces) > PIECES:
            self._pieces.popleft()


class OpenMembers:
    """The members that are being read.

    Args:
        begin: Answers a cursor before the archive's first member.
        file: The archive's; not closed with this.
        name: What messages call the archive.
        count: How many members it has, more or less.
    """

    def __init__(self, begin: Callable[[], Forward], file: RandomAccess, name: str, count: int) -> None:
        self._file, self._name = file, name
        self._most = MOST_MEMBERS if count < MANY else 1
        self._cursors = Cursors(begin, name, MOST_IDLE if count < MANY else 1)
        self._lock = threading.Lock()
        self._members: OrderedDict[int, PassingFile] = OrderedDict()
        self._closed = False

    def read(self, number: int, total: int, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes of a member that has ``total``, from ``offset``.

        Raises:
            CorruptStore, Unsupported, StoreUnavailable: It cannot be read.
            NotConnected: This is closed.
        """
        if total <= SMALL and not self._closed:
            return self._cursors.small(number, total)[offset : offset + size]
        with self._used(number, total) as member:
            return member.read_at(offset, size)

    def close(self) -> None:
        """Close what nobody is reading at this moment, and what is being read when that is done."""
        with self._lock:
            self._closed = True
            surplus = self._surplus()
        for member in surplus:
            member.close()
        self._cursors.close()

    @contextlib.contextmanager
    def _used(self, number: int, total: int) -> Iterator[PassingFile]:
        with self._lock:
            if self._closed:
                raise NotConnected(f"{self._name} is not connected")
            member = self._members.pop(number, None) or self._new(number, total)
            self._members[number] = member
            member.users += 1
        try:
            yield member
        finally:
            with self._lock:
                member.users -= 1
                surplus = self._surplus()
            for old in surplus:
                old.close()

    def _new(self, number: int, total: int) -> PassingFile:
        return PassingFile(lambda: _Stream(self._cursors, number, total, self._name), total, self._file, self._name)

    def _surplus(self) -> list[PassingFile]:
        """Take out those that are to be closed: the oldest, none that is in use."""
        count = len(self._members) if self._closed else len(self._members) - self._most
        idle = [number for number, member in self._members.items() if not member.users]
        return [self._members.pop(number) for number in idle[: max(count, 0)]]
