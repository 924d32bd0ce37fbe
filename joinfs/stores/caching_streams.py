"""Values of a cache, and streams of their data at one version."""

import io
from typing import BinaryIO

from joinfs.errors import StoreUnavailable
from joinfs.stores.caching_blocks import RETRIES, Blocks
from joinfs.stores.caching_facts import File
from joinfs.stores.metadata import copied
from joinfs.stores.value import MEBIBYTE, Metadata, Opened, RangeStream, Stat, Value

# What is no larger than this is read at once, and so stays as it was.
WHOLE = 8 * MEBIBYTE
# What is read at a time of the rest.
PIECE = MEBIBYTE


class CachedValue(Value):
    """A value of which only what is wanted is read.

    Args:
        blocks: Where its data is.
        key: Its key.
        file: Its version of now.
    """

    __slots__ = ("_blocks", "_key")

    def __init__(self, blocks: Blocks, key: str, file: File) -> None:
        self._blocks, self._key = blocks, key
        super().__init__(self._open_range, copied(file.metadata), file.size, file.created, file.modified)

    @staticmethod
    def of_directory(stat: Stat, metadata: Metadata) -> Value:
        """The value of a directory, which has no data."""
        return Value(io.BytesIO, metadata, 0, *stat.moments())

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._opened(self._open_range(start, end))

    def _open_range(self, start: int | None = None, end: int | None = None) -> Opened:
        """A stream of a range, and what is said of the version that it is of."""
        first = max(start or 0, 0)
        for _ in range(RETRIES):
            file = self._blocks.file(self._key)
            if file.version is None:
                return self._of_the_store(start, end)
            last = file.size if end is None else min(end, file.size)
            beginning = self._blocks.read_version(self._key, file, first, min(max(last - first, 0), WHOLE))
            if beginning is not None:
                size = max(last - first, 0)
                stream = RangeStream.open(_Pinned(self._blocks, self._key, file, first, size, beginning).read, size, buffer_size=PIECE)
                return Opened(stream, copied(file.metadata), file.size, file.created, file.modified)
        raise StoreUnavailable(f"{self._key!r} is changed by others all the time")

    def _of_the_store(self, start: int | None, end: int | None) -> Opened:
        value = self._blocks.value_of_the_store(self._key)
        stream = value.range(start, end)
        return Opened(stream, value.metadata, value.size, value.created, value.modified)


class _Pinned:
    """``size`` bytes of one version from ``start`` on, of which the beginning is in memory."""

    def __init__(self, blocks: Blocks, key: str, file: File, start: int, size: int, beginning: bytes) -> None:
        self._blocks, self._key, self._file = blocks, key, file
        self._start, self._size, self._beginning = start, size, beginning

    def read(self, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset`` after the start.

        Raises:
            StoreUnavailable: There is another version by now.
        """
        size = min(size, self._size - offset)
        if offset < len(self._beginning) or size <= 0:
            return self._beginning[offset : offset + size]
        data = self._blocks.read_version(self._key, self._file, self._start + offset, size)
        if data is None:
            raise StoreUnavailable(f"{self._key!r} changed while it was read; open it again")
        return data
