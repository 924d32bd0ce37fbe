"""Stores over media that know nothing but names, bytes and metadata.

An author of such a store writes four methods, ``_names``, ``_load``, ``_save`` and ``_remove``, and gets
directories, attributes, symlinks, devices, xattrs and odd names.
"""

import base64
import contextlib
import io
import stat as stat_module
import threading
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, NoSuchAttribute, NotADirectory
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Store
from joinfs.stores.escape import is_piece, unescape
from joinfs.stores.keys import ROOT, ancestors, is_directory_key, split
from joinfs.stores.metadata import copied, has_all, selected, unshared
from joinfs.stores.names import ROOT_MARKER, NameTree
from joinfs.stores.spooling import spooled
from joinfs.stores.value import NANOSECONDS, Capabilities, Metadata, Stat, Value, new_stat, now

STAT = "joinfs.stat"
XATTRS = "joinfs.xattrs"
_KEPT = ("mode", "uid", "gid", "rdev", "atime", "mtime", "ctime", "birth")


class FlatStore(Store):
    """A store over a medium of names, bytes and metadata.

    A name ``a/b`` is the key ``a/b``; ``a/`` is the marker of the directory; other odd names are spelled
    as in :mod:`joinfs.stores.escape`. Attributes and xattrs are metadata of the names ``joinfs.stat`` and
    ``joinfs.xattrs``, which no caller sees; what others wrote has none and gets mode 0644, our owner and
    the medium's times.

    Which names there are is kept in memory, and asked again when it is older than ``freshness`` (or
    twenty times as long as asking takes, if that is more). A directory's mtime follows what is done in
    it while the store is connected, and is not written for that.

    ``rename`` copies, then deletes; ``transaction`` keeps other threads out until its end, but what was
    written before an error stays.

    Args:
        event_manager, read_only: As for ``Store`` and ``open_store``.

    Attributes:
        freshness: Seconds after which names that others added or removed are seen.
    """

    capabilities = Capabilities(xattrs=True)
    freshness = 1.0

    def __init__(self, event_manager: Any = None, read_only: bool = False) -> None:
        super().__init__(event_manager)
        if read_only:
            self.capabilities = self.capabilities._replace(writable=False)
        self._lock = threading.RLock()
        self._connected = False
        self._tree = NameTree()
        self._stale_at = 0.0
        self._touched: dict[str, int] = {}
        self._implied = new_stat(DEFAULT_DIRECTORY_MODE)

    # ---------------------------------------------------------------- what an author writes

    @abstractmethod
    def _names(self) -> Iterable[str]:
        """Every name in the medium, in any order."""

    @abstractmethod
    def _load(self, name: str) -> Value:
        """The value of a name, as a new ``Value`` with a metadata dict of its own.

        The size is known; the data is opened when it is first asked for. Raises KeyError if there is no
        such name.
        """

    @abstractmethod
    def _save(self, name: str, data: BinaryIO, size: int, metadata: Metadata) -> None:
        """Make or replace a value whole, or fail and leave what was there.

        ``data`` has ``size`` bytes and is seekable, so it can be sent again. ``metadata`` is JSON.
        """

    @abstractmethod
    def _remove(self, name: str) -> None:
        """Remove a name; KeyError if it is not there."""

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if not self._connected:
            self._implied = new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner())
            self._stale_at = 0.0
            self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def is_connected(self) -> bool:
        return self._connected

    # ---------------------------------------------------------------- finding

    def _current(self) -> NameTree:
        """The names as they are, or were a moment ago. The caller holds the lock."""
        self._check_connected()
        began = time.monotonic()
        if began >= self._stale_at:
            self._tree = NameTree(self._names())
            took = time.monotonic() - began
            self._stale_at = began + took + max(self.freshness, 20 * took)
        return self._tree

    def _find(self, key: str) -> tuple[str | None, Value | None]:
        """The name and value at a key; None and None for a directory that has no marker.

        Asks the medium also for a value's name that is not known yet: others may have added it.

        Raises:
            KeyError: There is nothing, or something of the other kind.
        """
        with self._lock:
            tree = self._current()
            if is_directory_key(key):
                return self._find_marker(key, tree)
            if tree.is_directory(key + "/"):
                raise KeyError(key)
            name = self._name(key, tree)
            try:
                value = self._load(name)
            except KeyError:
                tree.discard(name)
                raise KeyError(key) from None
            tree.add(name)
            return name, value

    def _find_marker(self, key: str, tree: NameTree) -> tuple[str | None, Value | None]:
        tree.children(key)
        try:
            return tree.name(key), self._load(tree.name(key))
        except KeyError:
            return None, None

    def _name(self, key: str, tree: NameTree) -> str:
        """The medium's name for a key, also for one that is not there; KeyError if none is spelled so."""
        if key == ROOT:
            return ROOT_MARKER
        with contextlib.suppress(KeyError):
            return tree.name(key)
        try:
            bare, beside = unescape(key.removesuffix("/"))
        except InvalidKey as error:
            raise KeyError(key) from error
        if beside:
            raise KeyError(key)
        return bare + "/" if is_directory_key(key) else bare

    def _stat_of(self, key: str, value: Value | None) -> Stat:
        if value is None:
            stat = self._implied._replace(implied=True)
        else:
            modified, created = (int(t * NANOSECONDS) for t in (value.modified, value.created))
            mode = DEFAULT_DIRECTORY_MODE if is_directory_key(key) else DEFAULT_FILE_MODE
            stat = Stat(mode, 0, self._implied.uid, self._implied.gid, 0, modified, modified, modified, created)
            stat = stat._replace(**value.metadata.get(STAT, {}))
        if is_directory_key(key):
            touched = self._touched.get(key, 0)
            return stat._replace(mtime=max(touched, stat.mtime), ctime=max(touched, stat.ctime))
        return stat._replace(size=value.size if value else 0)

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return self._stat_of(key, self._find(key)[1])

    def _version_of(self, stat: Stat) -> str | None:
        """Of what others write no attributes tell."""
        return None

    def lookup(self, key: str) -> Stat:
        with self._lock:
            directory = self._current().is_directory(key + "/")
        return self.stat(key + "/" if directory else key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        with self._lock:
            children = dict(self._current().children(prefix))
        return self._list(prefix, children)

    def _list(self, prefix: str, children: dict[str, bool]) -> Iterator[tuple[str, Stat]]:
        for name, is_directory in children.items():
            with contextlib.suppress(KeyError):
                yield name, self.stat(f"{prefix}{name}/" if is_directory else prefix + name)

    def get(self, key: str) -> Value:
        value = self._find(key)[1]
        if is_directory_key(key):
            value = Value(io.BytesIO, value.metadata if value else {}, 0)
        assert value is not None
        value.created, value.modified = moments_of(value.metadata, (value.created, value.modified))
        value.show(_users)
        return value

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        chosen = None if select is None else list(select)
        with self._lock:
            values = self._current().values()
        for key, name in values:
            metadata = self._metadata_of_value(name)
            if metadata is not None and has_all(metadata, kwargs):
                yield key, selected(metadata, chosen)

    def _metadata_of_value(self, name: str) -> Metadata | None:
        """The metadata of a regular file or symlink; None if it is gone, or something else."""
        try:
            with self._lock:
                metadata = self._load(name).metadata
        except KeyError:
            return None
        kind = stat_module.S_IFMT(metadata.get(STAT, {}).get("mode", DEFAULT_FILE_MODE))
        return _users(metadata) if kind in {stat_module.S_IFREG, stat_module.S_IFLNK} else None

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        value = self._find(key)[1]
        kept = value.metadata.get(XATTRS, {}) if value else {}
        return {name: base64.b64decode(text) for name, text in kept.items()}

    # ---------------------------------------------------------------- writing

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        return self._lock

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        with spooled(data, buffer_size) as spool:
            yield spool

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
        content = io.BytesIO() if data is None else data
        size = content.seek(0, io.SEEK_END)
        content.seek(0)
        return self._put_at(key, stat, content, size, kept, xattrs)

    def _put_at(
        self, key: str, stat: Stat, data: Any, size: int, metadata: Metadata, xattrs: dict[str, bytes]
    ) -> Stat:
        tree = self._current()
        self._make_directories(key, tree)
        try:
            name, old = self._find(key)
        except KeyError:
            name, old = None, None
        if name is None:
            name = self._free_name(key, tree)
        birth = now() if old is None else self._stat_of(key, old).birth
        stat = stat._replace(size=size, nlink=1, file_id=None, ctime=now(), birth=birth)
        metadata[STAT] = {field: getattr(stat, field) for field in _KEPT}
        if xattrs:
            metadata[XATTRS] = {attribute: base64.b64encode(xattrs[attribute]).decode() for attribute in xattrs}
        self._save(name, data, size, metadata)
        if is_directory_key(key):
            self._touched.pop(key, None)
        if old is None:
            tree.add(name)
            self._touch_above(key)
        return stat

    def _free_name(self, key: str, tree: NameTree) -> str:
        """The name for a key at which nothing is yet."""
        if not is_directory_key(key) and tree.is_directory(key + "/"):
            raise IsADirectory(f"{key!r} is a directory")
        if key != ROOT and is_directory_key(key) and self.exists(key.removesuffix("/")):
            raise NotADirectory(f"{key!r} is not a directory")
        try:
            return self._name(key, tree)
        except KeyError:
            raise InvalidKey(f"{key!r}: what begins with '%%' is for names that no file can have") from None

    def _make_directories(self, key: str, tree: NameTree) -> None:
        for directory in ancestors(key):
            if not tree.is_directory(directory):
                self._put_at(directory, new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()), io.BytesIO(), 0, {}, {})

    def _touch_above(self, key: str) -> None:
        if key != ROOT:
            self._touched[split(key)[0]] = now()

    def _delete(self, key: str) -> None:
        tree = self._current()
        if is_directory_key(key) and tree.children(key):
            raise DirectoryNotEmpty(f"{key!r} has entries")
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        name = self._find(key)[0]
        if name is None:
            return  # others emptied it, and with that it is gone
        self._keep_directory(split(key)[0], tree)
        self._remove(name)
        tree.discard(name)
        self._touch_above(key)

    def _keep_directory(self, key: str, tree: NameTree) -> None:
        """Mark a directory that would be gone with the last thing in it."""
        if key != ROOT and len(tree.children(key)) == 1 and not tree.has_name(key) and not is_piece(key):
            self._put_at(key, self.stat(key), io.BytesIO(), 0, {}, {})

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        stat = self.stat(key)
        if "mode" in changes:
            changes["mode"] = stat.kind | stat_module.S_IMODE(changes["mode"])
        return self._save_again(key, stat.changed(changes), self.get_metadata(key), self.get_xattrs(key))

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._save_again(key, self.stat(key), copied(metadata), self.get_xattrs(key))

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        xattrs = self.get_xattrs(key)
        if value is None and xattrs.pop(name, None) is None:
            raise NoSuchAttribute(name)
        if value is not None:
            xattrs[name] = value
        self._save_again(key, self.stat(key), self.get_metadata(key), xattrs)

    def _save_again(self, key: str, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]) -> Stat:
        with contextlib.closing(self.get(key)) as value:
            return self._put_at(key, stat, value.data, value.size, metadata, xattrs)


def moments_of(metadata: Metadata, otherwise: tuple[float, float]) -> tuple[float, float]:
    """When a value was made and last changed, by its kept attributes if it has some."""
    return Stat(**metadata[STAT]).moments() if STAT in metadata else otherwise


def _users(metadata: Metadata) -> Metadata:
    """The metadata that is the user's."""
    return unshared({name: metadata[name] for name in metadata if name not in {STAT, XATTRS}})
