"""The verbs on open files."""

import os
import stat as stat_module

from joinfs.errors import BadHandle, InvalidArgument, IsADirectory, JoinfsError, StaleNode
from joinfs.filesystem.handles import FileHandle
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import State
from joinfs.stores import Stat
from joinfs.stores.value import now

COPY_SIZE = 1 << 20


class FileVerbs(State):
    """Verbs on regular files. SEMANTICS.md, Open files."""

    def open(self, node: int, flags: int, kill_suidgid: bool = False, lazily: bool = False) -> int:
        """Open a regular file and answer a handle.

        Opening to write copies up into a local store; for another, the data is staged when it is first written to. ``O_TRUNC`` is done at once.

        Args:
            node: The file.
            flags: As open(2) has them.
            kill_suidgid: Take the set-user-ID bit away, and the set-group-ID bit, if it is truncated.
            lazily: To read, ask the store for nothing before something is read.
        """
        found = self._nodes[node]
        if found.is_directory:
            raise IsADirectory("a directory is opened with opendir")
        if not found.is_file:
            raise InvalidArgument("only a regular file can be opened here")
        self.catch_up()
        self._check_current(found)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = bool(flags & os.O_TRUNC)
        if writing or truncate:
            self.check_writable()
        content = self._content(found)
        try:
            if writing or truncate:
                content.open_to_write(truncate, lazily=True)
                if kill_suidgid:
                    self.kill_suidgid(node)
            elif not lazily:
                content.open_to_read()
        except BaseException as error:
            self._release(found, content)
            if isinstance(error, KeyError):
                with self._nodes.lock:
                    for directory, name in found.names:
                        self._nodes.disbelieve(directory, name)
                raise StaleNode("others have deleted the file") from error  # and not that there is none: another may be there
            raise
        return self._files.add(FileHandle(found, content, flags))

    def descriptor(self, handle: int, only_in_place: bool = False) -> int | None:
        """Answer the descriptor of the local file that a handle reads from and writes to, if there is one.

        It stays open for as long as the file is.

        Args:
            handle: The handle.
            only_in_place: Of a handle to read: only if writes to the file, too, would go there, so that who reads
                there sees them.
        """
        return self._files[handle].content.descriptor(only_in_place)

    def is_given(self, handle: int) -> bool:
        """Whether ``give`` has answered the data of a file before: who was given it keeps it."""
        return self._files[handle].node.given

    def give(self, handle: int, most: int) -> bytes | None:
        """Answer all data of a file that was opened to read, if nobody else has it open, it is small and at hand."""
        opened = self._files[handle]
        data = opened.content.whole(most)
        opened.node.given = data is not None
        return data

    def was_accessed(self, handle: int) -> bool:
        """Whether reading a file since it was opened has changed its atime."""
        return self._files[handle].content.was_accessed()

    def part(self, node: int) -> None:
        """Have the names of an open file stand for another node from now on; who has it open stays with what it has."""
        found = self._nodes[node]
        self._nodes.refresh(found)
        self._nodes.part(found)

    def keeps_staged(self, handle: int) -> bool:
        """Whether what is written to a handle has to be put into the store when it is closed."""
        opened = self._files.get(handle)
        return opened is not None and opened.writable and opened.content.will_stage

    def kill_suidgid(self, node: int) -> None:
        """Take the set-user-ID bit away from a file, and the set-group-ID bit if its group may execute it.

        That is what a write does by who is not privileged, and any change of owner.
        """
        found = self._nodes[node]
        mode = self._attributes(found).mode
        kept = mode & ~stat_module.S_ISUID
        if mode & stat_module.S_IXGRP:
            kept &= ~stat_module.S_ISGID
        if kept != mode:
            self._change(found, {"mode": stat_module.S_IMODE(kept)})

    def _change(self, node: Node, changes: dict[str, int]) -> Stat | None:
        """Change attributes: of an open local file there, else in the store, where it has the node still.

        Answers them, with the size and times of what is being written, if they are at hand.
        """
        content = node.content
        if content is not None and (stat := content.change(changes)) is not None:
            with self._nodes.lock:
                self._nodes.changed(node)
                self._nodes.update(node, stat, ours=True)
            return stat
        with self._nodes.changing:
            if node.is_unlinked:
                self._check_current(node)
                stat = self._nodes.refresh(node)
                if "mode" in changes:
                    changes["mode"] = node.kind | changes["mode"] & 0o7777
                node.stat = stat.changed(changes, now())
            else:
                stat = self._store.set_stat(node.key(), **changes)
                with self._nodes.lock:
                    self._nodes.changed(node)
                    self._nodes.update(node, stat, ours=True)
            if content is None:
                return node.stat
            content.times_were_set(changes.get("mtime"))
            return None

    def node_of(self, handle: int) -> int:
        """Answer the node that a handle is open on."""
        return self._files[handle].node.id

    def is_open(self, node: int) -> bool:
        """Whether anyone has a node open."""
        return self._nodes[node].content is not None

    def read(self, handle: int, offset: int, size: int, for_cache: bool = False) -> bytes:
        """Answer up to ``size`` bytes from ``offset``; short only at the end of the file.

        Args:
            handle, offset, size: As for pread(2).
            for_cache: The kernel reads for its write cache, which it does through any handle.
        """
        opened = self._files[handle]
        if not (opened.readable or for_cache):
            raise BadHandle("opened for writing only")
        data = opened.content.read(offset, size)
        if for_cache and len(data) < size and opened.content.is_cut_at(offset + len(data)):
            raise StaleNode("others have cut the file, and what is missing would become zeros")
        return data

    def write(self, handle: int, offset: int, data: bytes | memoryview, from_cache: bool = False) -> int:
        """Write ``data`` at ``offset``, or at the end for a handle with ``O_APPEND``; answer its length.

        Args:
            handle, offset, data: As for pwrite(2).
            from_cache: The kernel's write cache says where the data goes, whatever the flags of the handle.
        """
        opened = self._writable(handle)
        if opened.flags & os.O_APPEND and not from_cache:
            return opened.content.append(data)
        return opened.content.write(offset, data)

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
        self._sync(opened.node)

    def release(self, handle: int) -> None:
        """Close a handle. What the last handle leaves uncommitted is kept and tried again by ``close``."""
        opened = self._files.remove(handle)
        try:
            opened.content.commit()
        finally:
            self._release(opened.node, opened.content)

    def syncfs(self) -> None:
        """Have everything that was written where it survives a loss of power; all of it is tried, whatever fails of it."""
        failed: list[JoinfsError | OSError] = []
        for node in self._nodes.opened():
            content = node.content
            try:
                if content is not None:
                    content.commit()
            except (JoinfsError, OSError) as error:
                failed.append(error)
        self._store.sync()
        if failed:
            raise failed[0]

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
