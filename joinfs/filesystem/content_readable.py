"""Reading the data of an open node, wherever it is; and its attributes, of which some are known there alone."""

import os

from joinfs.errors import InvalidArgument, NoSuchOffset, StaleNode
from joinfs.filesystem.content_placed import Placed
from joinfs.stores import Stat

# Who asks for so much at once, or more, reads a file for which the kernel reads ahead.
LITTLE = 256 << 10
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # Linux alone has it


class Readable(Placed):
    """The data of a node, to be read."""

    def read(self, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset``; short only at the end."""
        try:
            return self._read(offset, size)
        except KeyError:  # a verb may be moving it, or have taken its last name and kept its data
            with self._nodes.changing:
                return self._read(offset, size)

    def _read(self, offset: int, size: int) -> bytes:
        if self._descriptor < 0 and self._node.is_unlinked:  # others have replaced it since it was opened, and before it was read
            raise StaleNode(f"node {self._node.id} was replaced by others")
        if self._descriptor < 0 and not self._is_ranged:
            self.open_to_read()
        descriptor = self._descriptor
        if descriptor >= 0:
            if offset == 0 and size <= LITTLE and not self._writable:
                return self._read_beginning(descriptor, size)
            return os.pread(descriptor, size, offset)
        stat = self._nodes.refresh(self._node)
        with self.lock:
            return self._read_range(offset, size, stat)

    def is_cut_at(self, end: int) -> bool:
        """Whether the data ends before where it ended when it was opened, because others have cut it: we have not written."""
        return not self._writable and end < self._size_told

    def whole(self, most: int) -> bytes | None:
        """Answer all data of a file that has just been opened to read, if it is at most so many bytes, and in memory."""
        stat = self._node.stat
        if self._writable or self._is_ranged or self.handles != 1 or stat is None or not 0 < stat.size <= most:
            return None
        self.open_to_read()
        buffer = bytearray(stat.size + 1)
        try:
            count = os.preadv(self._descriptor, [buffer], 0, _NOWAIT) if _NOWAIT and self._descriptor >= 0 else 0
        except OSError:
            return None
        return bytes(memoryview(buffer)[:count]) if count == stat.size else None

    def _read_beginning(self, descriptor: int, size: int) -> bytes:
        """Read the beginning, and say so if it has to be waited for."""
        buffer = bytearray(size)
        try:
            count = os.preadv(descriptor, [buffer], 0, _NOWAIT)
        except BlockingIOError:
            count = 0
            self._ahead.missed(self._node)
        except OSError:  # there are file systems that cannot say
            count = 0
        stat = self._node.stat
        # What is short may be the end, or as much as is in memory.
        if count == size or (stat is not None and 0 < count == stat.size):
            return bytes(memoryview(buffer)[:count])
        return os.pread(descriptor, size, 0)

    def _read_range(self, offset: int, size: int, stat: Stat) -> bytes:
        """Read from the store; the file has these attributes now."""
        moved = self._node.last_moved()
        data = self._window.read(offset, size, stat)
        if not self._node.is_still(moved):
            raise KeyError(self._node.key())
        return data

    def seek(self, offset: int, whence: int) -> int:
        """Answer where the next data, or the next hole, is.

        Raises:
            NoSuchOffset: There is none from ``offset`` on.
        """
        if whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise InvalidArgument(f"whence {whence}")
        size = self.current(self._nodes.refresh(self._node)).size
        if offset < 0 or offset >= size:
            raise NoSuchOffset(f"offset {offset} is not in a file of {size} bytes")
        if self._descriptor < 0:
            return offset if whence == os.SEEK_DATA else size
        return os.lseek(self._descriptor, offset, whence)

    # ---------------------------------------------------------------- attributes

    def current(self, stat: Stat) -> Stat:
        """The node's attributes with what only the content knows: size and times of what was written."""
        with self.lock:
            if not self._writable:
                return stat._replace(atime=self._atime_now()) if self.was_accessed() else stat
            native = os.fstat(self._descriptor)
            if not self._staged:
                return stat.written(native.st_size, native.st_atime_ns, native.st_mtime_ns, native.st_ctime_ns)
            if self._changes:
                stat = stat.changed(self._changes)
            mtime = stat.mtime if self._mtime is None else self._mtime
            return stat.written(native.st_size, stat.atime, mtime, max(stat.ctime, self._mtime or 0))

    def was_accessed(self) -> bool:
        """Whether the host has noted that the file was read since it was opened: that is in its atime."""
        with self.lock:
            return self._descriptor >= 0 and not self._writable and self._atime_now() != self._atime

    def _atime_now(self) -> int:
        return os.fstat(self._descriptor).st_atime_ns
