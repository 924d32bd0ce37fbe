"""The data of an open node: one content, which all its handles share. Where it is, and may get to, ``content_placed`` says."""

import contextlib
import os
import stat as stat_module

from joinfs.errors import StaleNode
from joinfs.filesystem.allocate import fallocate
from joinfs.filesystem.content_placed import write_all
from joinfs.filesystem.content_readable import Readable
from joinfs.stores import Stat
from joinfs.stores.directory_files import stat_of
from joinfs.stores.value import now


class Content(Readable):
    """The data of a node, while it is open or not yet committed."""

    # ---------------------------------------------------------------- writing

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Write all of ``data`` at ``offset`` and answer its length.

        Raises:
            OSError: As pwrite(2) says; then part of it may have been written.
        """
        if not self._writable:
            self.open_to_write()
        with self.lock:
            write_all(self._descriptor, data, offset)
            self._wrote()
        return len(data)

    def append(self, data: bytes | memoryview) -> int:
        """Write at the end, wherever that is by now."""
        if not self._writable:
            self.open_to_write()
        with self.lock:
            return self.write(os.fstat(self._descriptor).st_size, data)

    def truncate(self, size: int) -> None:
        """Cut the data, or lengthen it with zeros."""
        self.open_to_write(truncate=size == 0)
        with self.lock:
            os.ftruncate(self._descriptor, size)
            self._wrote()

    def allocate(self, mode: int, offset: int, length: int) -> None:
        """What fallocate(2) does."""
        self.open_to_write()
        with self.lock:
            fallocate(self._descriptor, mode, offset, length)
            self._wrote()

    # ---------------------------------------------------------------- attributes

    def change(self, changes: dict[str, int]) -> Stat | None:
        """Change attributes of what is written to, and answer them as they are then.

        Those of the store's own file at once; those of what is staged and not yet in the store when it is put there.
        None if it is neither, and the store has to be asked.
        """
        with self.lock:
            if not self._writable:
                return None
            if not self._staged:
                known = self._node.stat
                return None if known is None else self._change_local(self._descriptor, changes, known)
            if not self.is_dirty or self._node.is_unlinked or not self._store.capabilities.attributes:
                return None
            self._change_staged(changes)
        return self.current(self._nodes.refresh(self._node))

    def _change_local(self, descriptor: int, changes: dict[str, int], known: Stat) -> Stat:
        if "uid" in changes or "gid" in changes:
            os.fchown(descriptor, changes.get("uid", -1), changes.get("gid", -1))
        if "mode" in changes:
            os.fchmod(descriptor, stat_module.S_IMODE(changes["mode"]))
        if "atime" in changes or "mtime" in changes:
            native = os.fstat(descriptor)
            # The kernel has checked who asks; times that it has kept for a file of somebody else's are not ours to set.
            with contextlib.suppress(PermissionError):
                os.utime(descriptor, ns=(changes.get("atime", native.st_atime_ns), changes.get("mtime", native.st_mtime_ns)))
        return stat_of(os.fstat(descriptor)).numbered(known.file_id, known.nlink)  # which file it is, the store says

    def _change_staged(self, changes: dict[str, int]) -> None:
        if "mode" in changes:
            changes["mode"] = self._node.kind | stat_module.S_IMODE(changes["mode"])
        if "mtime" in changes:
            self._mtime = None
        self._changes.update(changes, ctime=now())

    def times_were_set(self, mtime: int | None) -> None:
        """The node of what is staged was given a time: it holds until the next write."""
        with self.lock:
            if mtime is not None:
                self._mtime = None

    # ---------------------------------------------------------------- committing

    def commit(self) -> None:
        """Put staged data into the store, with the node's attributes and metadata as they are now.

        Data of a node that was unlinked is nobody's any more and is dropped. After a failure the data is here
        still, and the store has what it had.

        Raises:
            StoreError, OSError: As ``Store.put``.
            StaleNode: Others have deleted or replaced the file since it was opened.
        """
        if not self._staged:
            return
        with self._alone():
            if self.is_dirty and not self._node.is_unlinked:
                key = self._node.key()
                self._put(key, *self._attributes_in_store(key))
            elif self.is_dirty and self._is_lost:
                raise StaleNode("others have deleted or replaced the file while it was written; what was written is kept where it is staged")

    def put(self, key: str) -> Stat:
        """Put the data of an unnamed node into the store, where nothing is; errors as for ``commit``."""
        with self._alone():
            return self._put(key, self._node.stat or Stat(self._node.kind), {}, {})

    def _put(self, key: str, stat: Stat, metadata: dict[str, object], xattrs: dict[str, bytes]) -> Stat:
        writes = self._writes
        size = os.fstat(self._descriptor).st_size
        self._nodes.will_copy(size)
        stat = stat.changed(self._changes)
        if self._mtime is not None:
            stat = stat._replace(mtime=self._mtime)
        with self._stream(size) as data:
            made = self._store.put(key, stat._replace(size=size), data, metadata, xattrs)
        self._committed, self._mtime, self._changes, self._put_as = writes, None, {}, made
        if self._staged is not None:
            self._staged.has_no_news()
        self._nodes.changed(self._node)
        with self._nodes.lock:
            self._nodes.update(self._node, made)
        return made

    def _attributes_in_store(self, key: str) -> tuple[Stat, dict[str, object], dict[str, bytes]]:
        try:
            xattrs = self._store.get_xattrs(key) if self._node.has_xattrs else {}
            return self._nodes.refresh(self._node), self._store.get_metadata(key), xattrs
        except KeyError:  # deleted behind our back: what was written is still what its writer wants there
            return self._node.stat or Stat(self._node.kind | 0o600), {}, {}

    def sync(self) -> None:
        """Commit, and have what is local on its disk."""
        self.commit()
        if self._writable and not self._staged:
            os.fsync(self._descriptor)
