"""Streams of an object's data: ranges of one version, and never of two."""

from typing import BinaryIO

from joinfs.errors import StoreUnavailable
from joinfs.stores.object_bucket import Bucket, Changed
from joinfs.stores.value import MEBIBYTE, RangeStream

# What is no larger than this is read at once, and so stays as it was.
BLOCK = 8 * MEBIBYTE


class Pinned:
    """An object at the version at which it was first read, of which one block is in memory.

    Args:
        bucket: Where it is.
        name: Its name.
        start, size: What is asked for first.

    Raises:
        KeyError: It is not there.

    Attributes:
        found: What is said of that version.
    """

    def __init__(self, bucket: Bucket, name: str, start: int = 0, size: int = BLOCK) -> None:
        self._bucket, self._name = bucket, name
        self._start = start
        self._block, self.found = bucket.read(name, start, size)

    def stream(self, start: int, end: int | None) -> BinaryIO:
        """Answer a stream of the bytes from ``start`` up to ``end``."""
        last = self.found.size if end is None else min(end, self.found.size)
        size = max(last - start, 0)
        return RangeStream.open(lambda offset, wanted: self._read(start + offset, min(wanted, size - offset)), size)

    def read(self, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset``, short only at the end; several threads may, apart from who reads a stream."""
        end = min(offset + size, self.found.size)
        if self._start <= offset and end <= self._start + len(self._block):
            return self._block[offset - self._start : max(end - self._start, 0)]
        return self._more(offset, size) if offset < end else b""

    def _read(self, offset: int, size: int) -> bytes:
        """Between one and ``size`` bytes; none at the end."""
        if size <= 0 or offset >= self.found.size:
            return b""
        if not self._start <= offset < self._start + len(self._block):
            self._block = b""  # it goes before more comes
            self._start, self._block = offset, self._more(offset, BLOCK)
        return self._block[offset - self._start :][:size]

    def _more(self, offset: int, size: int) -> bytes:
        try:
            data, _ = self._bucket.read(self._name, offset, size, self.found.etag)
        except (Changed, KeyError):
            raise StoreUnavailable(f"{self._name!r} changed in its bucket while it was read; open it again") from None
        if not data:
            raise StoreUnavailable(f"{self._name!r} ends after {offset} of the {self.found.size} bytes that it is said to have")
        return data
