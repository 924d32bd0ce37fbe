"""The verbs on open files."""

import os

from joinfs.errors import BadHandle, InvalidArgument, IsADirectory
from joinfs.filesystem.handles import FileHandle
from joinfs.filesystem.state import State

COPY_SIZE = 1 << 20


class FileVerbs(State):
    """Verbs on regular files. SEMANTICS.md, Open files."""

    def open(self, node: int, flags: int) -> int:
        """Open a regular file and answer a handle.

        Opening to write copies up, or stages; ``O_TRUNC`` is done at once.
        """
        found = self._nodes[node]
        if found.stat.is_directory:
            raise IsADirectory("a directory is opened with opendir")
        if not found.stat.is_file:
            raise InvalidArgument("only a regular file can be opened here")
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = bool(flags & os.O_TRUNC)
        if writing or truncate:
            self.check_writable()
        content = self._content(found)
        try:
            if writing or truncate:
                content.open_to_write(truncate)
            else:
                content.open_to_read()
        except BaseException:
            self._release(found, content)
            raise
        return self._files.add(FileHandle(found, content, flags))

    def node_of(self, handle: int) -> int:
        """Answer the node that a handle is open on."""
        return self._files[handle].node.id

    def is_open(self, node: int) -> bool:
        """Whether anyone has a node open."""
        return self._nodes[node].content is not None

    def read(self, handle: int, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset``; short only at the end of the file."""
        opened = self._files[handle]
        if not opened.readable:
            raise BadHandle("opened for writing only")
        return opened.content.read(offset, size)

    def write(self, handle: int, offset: int, data: bytes | memoryview) -> int:
        """Write ``data`` at ``offset``, or at the end for a handle with ``O_APPEND``; answer its length."""
        opened = self._writable(handle)
        return opened.content.append(data) if opened.flags & os.O_APPEND else opened.content.write(offset, data)

    def _writable(self, handle: int) -> FileHandle:
        opened = self._files[handle]
        if not opened.writable:
            raise BadHandle("opened for reading only")
        return opened

    def flush(self, handle: int) -> None:
        """Put staged data into the store: close(2) reports what this raises."""
        opened = self._files[handle]
        if opened.writable:
            opened.content.commit()

    def fsync(self, handle: int, datasync: bool = False) -> None:
        """Have the file's data and attributes where they survive a loss of power."""
        opened = self._files[handle]
        opened.content.sync()
        if not opened.node.is_unlinked:
            self._store.sync(opened.node.key())

    def release(self, handle: int) -> None:
        """Close a handle. What the last handle leaves uncommitted is kept and tried again by ``close``."""
        opened = self._files.remove(handle)
        try:
            opened.content.commit()
        finally:
            self._release(opened.node, opened.content)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """Allocate, punch or zero a range."""
        if offset < 0 or length <= 0:
            raise InvalidArgument(f"fallocate of {length} bytes at {offset}")
        self._writable(handle).content.allocate(mode, offset, length)

    def lseek(self, handle: int, offset: int, whence: int) -> int:
        """Answer where the next data (``SEEK_DATA``) or hole (``SEEK_HOLE``) from ``offset`` on is."""
        return self._files[handle].content.seek(offset, whence)

    def copy_file_range(self, source: int, source_offset: int, target: int, target_offset: int, length: int) -> int:
        """Copy within the mount and answer how many bytes; short at the end of the source."""
        reading, writing = self._files[source], self._writable(target)
        if not reading.readable:
            raise BadHandle("opened for writing only")
        copied = 0
        while copied < length:
            piece = reading.content.read(source_offset + copied, min(COPY_SIZE, length - copied))
            if not piece:
                break
            copied += writing.content.write(target_offset + copied, piece)
        return copied
