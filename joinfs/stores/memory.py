"""A store in memory: a tree of inodes, as a file system has."""

import contextlib
import io
import itertools
import stat as stat_module
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NoSuchAttribute,
    NotADirectory,
)
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import ROOT, is_directory_key
from joinfs.stores.metadata import copied, has_all, selected
from joinfs.stores.value import Capabilities, Metadata, Stat, Value, drained, new_stat, now


@dataclass(slots=True)
class _Inode:
    stat: Stat
    directory: bool
    data: bytes = b""
    metadata: Metadata = field(default_factory=dict)
    xattrs: dict[str, bytes] = field(default_factory=dict)
    entries: dict[str, "_Inode"] = field(default_factory=dict)


class MemoryStore(Store):
    """A store that lives as long as its object; disconnecting keeps what is in it.

    One lock guards the tree. A change holds it, and a transaction until its end, so other threads wait and
    see all of it or nothing; what fails is undone by putting the inodes back as they were.
    """

    capabilities = Capabilities(xattrs=True, hard_links=True, transactions=True, persistent=False)
    name = "memory:"

    def __init__(self, event_manager: Any = None) -> None:
        super().__init__(event_manager)
        self._connected = False
        self._lock = threading.RLock()
        self._ids = itertools.count(1)
        self._undo: list[Callable[[], None]] = []
        self._in_transaction = False
        self._root = self._new(new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()))

    def connect(self, credentials: Any = None) -> None:
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def is_connected(self) -> bool:
        return self._connected

    def watch(self, directory: str) -> bool:
        """The same; there are no others."""
        return is_directory_key(directory) and self.exists(directory)

    # ---------------------------------------------------------------- finding

    def _new(self, stat: Stat) -> _Inode:
        return _Inode(stat._replace(nlink=1 + stat.is_directory, file_id=next(self._ids), ctime=now(), birth=now()), stat.is_directory)

    def _walk(self, key: str) -> _Inode:
        self._check_connected()
        inode = self._root
        try:
            for name in key.removesuffix("/").split("/") if key else ():
                inode = inode.entries[name]
        except KeyError:
            raise KeyError(key) from None
        return inode

    def _inode(self, key: str) -> _Inode:
        """The inode at a key; the caller holds the lock as long as it looks at it."""
        inode = self._walk(key)
        if inode.directory != is_directory_key(key):
            raise KeyError(key)
        return inode

    def stat(self, key: str) -> Stat:
        with self._lock:
            return self._inode(key).stat

    def lookup(self, key: str) -> Stat:
        with self._lock:
            return self._walk(key).stat

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        with self._lock:
            return iter([(name, inode.stat) for name, inode in self._inode(prefix).entries.items()])

    def get(self, key: str) -> Value:
        with self._lock:
            inode = self._inode(key)
            data, metadata, stat = inode.data, inode.metadata, inode.stat
        return Value(lambda: io.BytesIO(data), copied(metadata), len(data), *stat.moments())

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        with self._lock:
            metadata = self._inode(key).metadata
        return copied(selected(metadata, select))

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        with self._lock:
            return dict(self._inode(key).xattrs)

    def read(self, key: str, offset: int, size: int) -> bytes:
        with self._lock:
            data = self._inode(key).data
        return data[offset : offset + size]

    def keys(self, prefix: str = ROOT) -> Iterator[str]:
        return (key for key, _ in self._matching(prefix, {}))

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        names = None if select is None else list(select)
        for key, metadata in self._matching(ROOT, kwargs):
            yield key, copied(selected(metadata, names))

    def _matching(self, prefix: str, wanted: Metadata) -> Sequence[tuple[str, Metadata]]:
        """The keys of values below a directory, with the metadata of each, if that has all that is wanted."""
        found: list[tuple[str, Metadata]] = []
        with self._lock:
            try:
                pending = [(prefix, self._inode(prefix))]
            except KeyError:
                return found
            while pending:
                above, directory = pending.pop()
                for name, inode in directory.entries.items():
                    if inode.directory:
                        pending.append((f"{above}{name}/", inode))
                    elif has_all(inode.metadata, wanted) and (inode.stat.is_file or inode.stat.is_symlink):
                        found.append((above + name, inode.metadata))
        return found

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        with self._lock:
            data = self._inode(key).data
        return io.BytesIO(data[max(start or 0, 0) : end if end is None else max(end, 0)])

    # ---------------------------------------------------------------- changing

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        yield None if data is None else io.BytesIO(drained(data, buffer_size))

    @contextlib.contextmanager
    def _exclusive(self, *keys: str) -> Iterator[None]:
        """The same; a change that fails is undone."""
        with self._lock:
            done = len(self._undo)
            try:
                yield
            except BaseException:
                while len(self._undo) > done:
                    self._undo.pop()()
                raise
            finally:
                if not done and not self._in_transaction:
                    self._undo.clear()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._exclusive():
            self._in_transaction = True
            try:
                yield
            finally:
                self._in_transaction = False

    def _nested_transaction(self) -> contextlib.AbstractContextManager[None]:
        return self._exclusive()

    def _changed(self, inode: _Inode) -> None:
        """Before an inode is changed, all but its entries: remember how it was, to put it back if the change fails."""
        old = (inode.stat, inode.data, inode.metadata, inode.xattrs)

        def put_back() -> None:
            inode.stat, inode.data, inode.metadata, inode.xattrs = old

        self._undo.append(put_back)

    def _restat(self, inode: _Inode, **changes: int) -> None:
        self._changed(inode)
        inode.stat = inode.stat.changed(changes, now())

    def _parent(self, key: str, make: bool = False) -> tuple[_Inode, str]:
        *above, name = key.removesuffix("/").split("/")
        inode = self._root
        for part in above:
            child = inode.entries.get(part)
            if child is None:
                if not make:
                    raise KeyError(key)
                child = self._new(new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()))
                self._enter(inode, part, child)
            if not child.stat.is_directory:
                raise NotADirectory(f"{part!r} in {key!r} is not a directory")
            inode = child
        return inode, name

    def _enter(self, parent: _Inode, name: str, child: _Inode | None) -> None:
        """Have a directory's name stand for something else, or (None) for nothing."""
        old = parent.entries.get(name)
        more = (child is not None and child.directory) - (old is not None and old.directory)
        self._restat(parent, mtime=now(), nlink=parent.stat.nlink + more)
        self._undo.append(lambda: _assign(parent.entries, name, old))
        _assign(parent.entries, name, child)

    def _leave(self, parent: _Inode, name: str) -> None:
        child = parent.entries[name]
        self._enter(parent, name, None)
        if not child.stat.is_directory:
            self._restat(child, nlink=child.stat.nlink - 1)

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        kept = copied(metadata)
        content = b"" if data is None else data.read()
        inode = self._made(key, stat)
        self._changed(inode)
        inode.data, inode.metadata, inode.xattrs = content, kept, xattrs
        given = {name: getattr(stat, name) for name in ("mode", "uid", "gid", "rdev", "atime", "mtime")}
        self._restat(inode, size=len(content), **given)
        return inode.stat

    def _made(self, key: str, stat: Stat) -> _Inode:
        """The inode at ``key``, new or there already, for something of the kind of ``stat``."""
        if key == ROOT:
            return self._root
        parent, name = self._parent(key, make=True)
        inode = parent.entries.get(name)
        if inode is None:
            inode = self._new(stat)
            self._enter(parent, name, inode)
        elif inode.stat.is_directory != stat.is_directory:
            raise (IsADirectory if inode.stat.is_directory else NotADirectory)(f"{key!r} is of the other kind")
        elif inode.stat.kind != stat.kind:  # another file, which its other keys have nothing to do with
            self._leave(parent, name)
            inode = self._new(stat)
            self._enter(parent, name, inode)
        return inode

    def _delete(self, key: str) -> None:
        inode = self._inode(key)
        if inode.entries:
            raise DirectoryNotEmpty(f"{key!r} has entries")
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        self._leave(*self._parent(key))

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        inode = self._inode(key)
        kept = copied(metadata)
        self._restat(inode)
        inode.metadata = kept

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        inode = self._inode(key)
        if "mode" in changes:
            changes["mode"] = inode.stat.kind | stat_module.S_IMODE(changes["mode"])
        self._restat(inode, **changes)
        return inode.stat

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        inode = self._inode(key)
        xattrs = dict(inode.xattrs)
        if value is None and xattrs.pop(name, None) is None:
            raise NoSuchAttribute(name)
        if value is not None:
            xattrs[name] = value
        self._restat(inode)
        inode.xattrs = xattrs

    def _rename(self, old: str, new: str) -> None:
        inode = self._inode(old)
        target_parent, name = self._parent(new, make=True)
        there = target_parent.entries.get(name)
        if there is inode:
            return
        if there is not None:
            if there.stat.is_directory != inode.stat.is_directory:
                raise (IsADirectory if there.stat.is_directory else NotADirectory)(f"{new!r} is of the other kind")
            if there.entries:
                raise DirectoryNotEmpty(f"{new!r} has entries")
            self._leave(target_parent, name)
        self._enter(*self._parent(old), None)
        self._enter(target_parent, name, inode)
        self._restat(inode)

    def _exchange(self, first: str, second: str) -> None:
        one, other = self._inode(first), self._inode(second)
        (p1, n1), (p2, n2) = self._parent(first), self._parent(second)
        self._enter(p1, n1, other)
        self._enter(p2, n2, one)

    def _link(self, old: str, new: str) -> Stat:
        inode = self._inode(old)
        parent, name = self._parent(new, make=True)
        if name in parent.entries:
            raise KeyExists(f"{new!r} is there already")
        self._enter(parent, name, inode)
        self._restat(inode, nlink=inode.stat.nlink + 1)
        return inode.stat


def _assign(entries: dict[str, _Inode], name: str, child: _Inode | None) -> None:
    if child is None:
        entries.pop(name, None)
    else:
        entries[name] = child
