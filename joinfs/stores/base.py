"""The promise that every store keeps.

``Store`` is the class that the JoinedStore reference describes, method for method, and on top of it
what a file system needs: attributes, directories, ranges, renames. An author writes ``stat``, ``list``
and ``get``, and for a store that takes writes ``_put`` and ``_delete``; everything else has a default
in terms of these, to be overridden where the medium can do it faster. (For a medium that is nothing but
keys and values there is :class:`joinfs.stores.flat.FlatStore`, which needs less.)

Methods that read are overridden as they are. Those that write are written here once: they check the
key, ask the store's hook of the same name with an underscore, and tell the listeners.
"""

import contextlib
import os
import stat as stat_module
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO, Self

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    NotConnected,
    ReadOnly,
    StoreError,
    Unsupported,
)
from joinfs.stores.announcing import Announcing
from joinfs.stores.bulk import BulkMethods
from joinfs.stores.keys import check_key, directory_key, is_directory_key
from joinfs.stores.progress import reporting
from joinfs.stores.value import MEBIBYTE, Capabilities, Metadata, Stat, Usage, Value, new_stat, now

DEFAULT_FILE_MODE = stat_module.S_IFREG | 0o644
DEFAULT_DIRECTORY_MODE = stat_module.S_IFDIR | 0o755


class Store(Announcing, BulkMethods, ABC):
    """A key-value store whose keys are also paths.

    Args:
        event_manager: Where events go; a new ``EventManager`` unless given.

    Attributes:
        capabilities: What the store can hold and do.
        name: What messages call the store: its URL, as a rule.
        changes: A number that every write through this object changes; who caches what the store
            answered compares it.
    """

    capabilities: Capabilities = Capabilities()
    name: str = "store"

    def __init__(self, event_manager: Any = None) -> None:
        super().__init__(event_manager)
        self.user_tag: str = ""
        self.changes: int = 0

    # ---------------------------------------------------------------- connection

    @abstractmethod
    def connect(self, credentials: Any = None) -> None:
        """Open what the store needs; nothing happens if it is connected already.

        Nothing touches the medium before this, so a store can be made in one process and connected in
        another.

        Args:
            credentials: What the medium asks for; stores that ask for nothing ignore it.

        Raises:
            StoreUnavailable: The medium is not there or cannot be opened.
            CorruptStore: It is damaged, or not what it should be.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of what ``connect`` opened; nothing happens if the store is not connected."""

    @abstractmethod
    def is_connected(self) -> bool:
        """Whether the store is connected."""

    def info(self) -> dict[str, Any]:
        """What there is to know about the store: ``name``, ``readonly`` and its capabilities."""
        return {
            "name": self.name,
            "readonly": not self.capabilities.writable,
            **self.capabilities._asdict(),
        }

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # ---------------------------------------------------------------- reading

    @abstractmethod
    def stat(self, key: str) -> Stat:
        """Answer the attributes of ``key``.

        ``a`` is a value, symlink or special file of that name, ``a/`` a directory: a marker, or the
        prefix of other keys. The root (``""``) is always there. Symlinks are never followed.

        Raises:
            KeyError: There is no such key, or it is of the other of these two kinds.
        """

    def lookup(self, key: str) -> Stat:
        """Answer the attributes of whatever stands at ``key``, which does not end in ``/``.

        One request where the store can: the directory ``key/`` if there is one, else ``key``.

        Raises:
            KeyError: There is neither.
        """
        try:
            return self.stat(directory_key(key))
        except KeyError:
            return self.stat(key)

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Yield ``(name, Stat)`` for what is directly in the directory ``prefix``, in any order.

        Names of directories have no ``/`` here; their Stat tells. Streamed, and never a scan of what is
        further below. What comes or goes meanwhile may be seen or not; nothing else is left out or
        yielded twice.

        Args:
            prefix: A directory's key.

        Raises:
            KeyError: There is no such directory (raised at the first item at the latest).
        """

    @abstractmethod
    def get(self, key: str) -> Value:
        """Answer the data and metadata of ``key``.

        A symlink's data is its target; a special file's, and a directory's, is empty.

        Raises:
            KeyError: The key is not there.
        """

    def get_data(self, key: str) -> BinaryIO:
        """Answer a stream of the data of ``key``.

        Raises:
            KeyError: The key is not there.
        """
        return self.get(key).data

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        """Answer a stream of the bytes of ``key`` from ``start`` up to, not including, ``end``.

        Raises:
            KeyError: The key is not there.
        """
        return self.get(key).range(start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        """Answer the metadata of ``key`` as a new dict, cut down to the names in ``select`` if given.

        Raises:
            KeyError: The key is not there.
        """
        metadata = self.get(key).metadata
        if select is None:
            return metadata
        return {name: metadata[name] for name in select if name in metadata}

    def exists(self, key: str) -> bool:
        """Whether ``key`` is there; for ``a/``, whether there is such a directory."""
        try:
            self.stat(key)
        except KeyError:
            return False
        return True

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes of ``key`` from ``offset``.

        Short only at the end of the data; ``b""`` at or past it.

        Args:
            key: A key that does not end in ``/``.
            offset: Bytes from the start, >= 0.
            size: Bytes wanted, > 0.

        Raises:
            KeyError: The key is not there.

        See Also:
            SEMANTICS.md, Reads; pread(2).
        """
        with self.get(key).range(offset, offset + size) as stream:
            return stream.read(size)

    def open_local(self, key: str, flags: int) -> int:
        """Answer a descriptor of the local file that holds the data of ``key``; the caller closes it.

        Writes through it are writes to the key, at once and in place.

        Args:
            key: The key of a regular file.
            flags: ``os.O_RDONLY`` or ``os.O_RDWR``, with ``os.O_TRUNC`` or ``os.O_DIRECT`` if wanted.

        Raises:
            KeyError: The key is not there.
            Unsupported: The data is not a local file of its own.
            ReadOnly: ``O_RDWR`` on a store that takes no writes.
        """
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        """Answer the extended attributes of ``key`` outside ``user.``: ``security.*``, ``trusted.*``, ACLs.

        Raises:
            KeyError: The key is not there.
        """
        self.stat(key)
        return {}

    def usage(self) -> Usage:
        """Answer how much room there is; zeros where the medium has no bounds."""
        return Usage()

    # ---------------------------------------------------------------- writing

    def put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None = None,
        metadata: Mapping[str, Any] | None = None,
        xattrs: Mapping[str, bytes] | None = None,
        buffer_size: int = MEBIBYTE,
    ) -> Stat:
        """Make or replace ``key`` whole, in one step: kind, attributes, metadata and data.

        Of ``stat``, mode, uid, gid, rdev, atime and mtime count; the rest is the store's to say. What
        the medium cannot hold of owner, times or foreign xattrs is left out; metadata never is.
        Directories on the way that are not there are made. A directory that is there keeps its entries
        and gets the new attributes and metadata.

        Args:
            key: Ends in ``/`` if, and only if, ``stat`` is a directory's.
            stat: The attributes; its type bits say what is made.
            data: Read to its end; for a symlink, the target. None is empty.
            metadata: The whole metadata of the key.
            xattrs: Those outside ``user.``, as from ``get_xattrs``.
            buffer_size: Bytes to hold in memory at a time.

        Returns:
            The attributes as they are now.

        Raises:
            InvalidKey: No store takes such a key.
            IsADirectory, NotADirectory: What is there is of the other kind, or a component on the way
                is not a directory.
            ReadOnly, OutOfSpace, Unsupported: As they say.

        After a failure, what was there before is there, whole.
        """
        self._check_writable(key)
        if is_directory_key(key) != stat.is_directory:
            raise InvalidKey(f"{key!r}: the key of a directory, and only that, ends in '/'")
        existed = self._heard() and self.exists(key)
        with self._changing(), reporting(self, key, data) as source:
            made = self._put(key, stat._replace(implied=False), source, dict(metadata or {}), dict(xattrs or {}), buffer_size)
        self._tell_set(key, existed, metadata or {})
        return made

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        """What ``put`` promises; the key has been checked."""
        raise ReadOnly(f"{self.name} takes no writes")

    def delete(self, key: str) -> None:
        """Delete ``key``; of a directory (``a/``), the empty directory.

        Raises:
            KeyError: The key is not there.
            DirectoryNotEmpty: There are keys below it.
            ReadOnly: The store takes no writes.

        After a failure the key is there, whole. Emits StoreDeleteEvent.
        """
        self._check_writable(key)
        metadata = self.get_metadata(key) if self._heard() else {}
        with self._changing():
            self._delete(key)
        self._tell_deleted(key, metadata)

    def _delete(self, key: str) -> None:
        """What ``delete`` promises; the key has been checked."""
        raise ReadOnly(f"{self.name} takes no writes")

    def set(self, key: str, value: Any, buffer_size: int = MEBIBYTE) -> None:
        """Make or replace a value.

        One that is there keeps its mode and owner, as a file does that is written anew.

        Args:
            key: A key that does not end in ``/``.
            value: ``(readable file-like, metadata)``, or a ``Value``, which is closed then.
            buffer_size: Bytes to hold in memory at a time.

        Emits StoreProgress events while data is moved, then StoreSetEvent, or StoreUpdateEvent if the
        key was there. Errors and what holds after a failure: as for ``put``.
        """
        data, metadata = value
        with contextlib.closing(value) if isinstance(value, Value) else contextlib.nullcontext():
            self.put(key, self._stat_for_value(key), data, metadata, self._kept_xattrs(key), buffer_size)

    def set_data(self, key: str, data: BinaryIO, buffer_size: int = MEBIBYTE) -> None:
        """Replace the data of ``key``, which need not be there yet; its metadata stays.

        Events, errors and what holds after a failure: as for ``set``.
        """
        try:
            metadata = self.get_metadata(key)
        except KeyError:
            metadata = {}
        self.set(key, (data, metadata), buffer_size)

    def set_metadata(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of ``key``. Data, and times except ctime, stay.

        A value that is not there is made, without data.

        Raises:
            KeyError: There is no such directory.
            Unsupported: The store holds no metadata on such a key.

        After a failure the old metadata is there. Emits StoreUpdateEvent, or StoreSetEvent for what was
        not there.
        """
        self._check_writable(key)
        try:
            with self._changing():
                self._set_metadata(key, dict(metadata))
        except KeyError:
            if is_directory_key(key):
                raise
            self.put(key, self._stat_for_value(key), None, metadata)
        else:
            self._tell_set(key, True, metadata)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        stat = self.stat(key)
        with contextlib.closing(self.get(key)) as value:
            data = None if stat.is_directory else value.data
            self._put(key, stat, data, metadata, self.get_xattrs(key), MEBIBYTE)

    def update_metadata(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Add to the metadata of ``key``, as ``dict.update`` does.

        Errors, events and what holds after a failure: as for ``set_metadata``.
        """
        with self.transaction(f"updating the metadata of {key!r}"):
            self.set_metadata(key, {**self.get_metadata(key), **metadata})

    def set_stat(
        self,
        key: str,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime: int | None = None,
        mtime: int | None = None,
    ) -> Stat:
        """Change attributes of ``key``: permission bits, owner, times in nanoseconds.

        Type bits in ``mode`` are ignored. ctime becomes now.

        Returns:
            The attributes as they are now.

        Raises:
            KeyError: The key is not there.
            Unsupported: The store keeps no attributes.
        """
        self._check_writable(key)
        given = {"mode": mode, "uid": uid, "gid": gid, "atime": atime, "mtime": mtime}
        changes = {name: value for name, value in given.items() if value is not None}
        if not changes:
            return self.stat(key)
        with self._changing():
            stat = self._set_stat(key, changes)
        self._tell_set(key, True)
        return stat

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        """What ``set_stat`` promises; ``changes`` has only what is to change."""
        old = self.stat(key)
        if "mode" in changes:
            changes["mode"] = old.kind | stat_module.S_IMODE(changes["mode"])
        with contextlib.closing(self.get(key)) as value:
            data = None if old.is_directory else value.data
            new = old.changed(changes)
            return self._put(key, new, data, value.metadata, self.get_xattrs(key), MEBIBYTE)

    def set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        """Set an extended attribute outside ``user.``, or remove it (None).

        Raises:
            KeyError: The key is not there.
            NoSuchAttribute: There is none to remove.
            Unsupported: The store holds no such attributes.
        """
        self._check_writable(key)
        with self._changing():
            self._set_xattr(key, name, value)

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        raise Unsupported(f"{self.name} holds no extended attributes outside 'user.'")

    def rename(self, old: str, new: str) -> None:
        """Give ``old`` the key ``new``: a value, or (both ending in ``/``) a directory with all below it.

        A value or an empty directory that is at ``new`` is replaced. Atomic where the store can; where it
        cannot, data is copied before it is deleted, so that after a crash both may be there. Nothing happens if both name one file.

        Raises:
            KeyError: ``old`` is not there.
            DirectoryNotEmpty: ``new`` is a directory with entries.
            InvalidKey: ``new`` is inside ``old``, or just one of them ends in ``/``.
            NotADirectory, IsADirectory: As for ``put``.
        """
        self._check_writable(old)
        check_key(new)
        if is_directory_key(old) != is_directory_key(new):
            raise InvalidKey(f"{old!r} and {new!r}: one is a directory's key and the other is not")
        if is_directory_key(old) and new.startswith(old) and new != old:
            raise InvalidKey(f"{new!r} is inside {old!r}")
        metadata = self.get_metadata(old) if self._heard() else {}
        with self._changing():
            self._rename(old, new)
        self._tell_deleted(old, metadata)
        self._tell_set(new, False, metadata)

    def _rename(self, old: str, new: str) -> None:
        if old == new:
            self.stat(old)
            return
        if is_directory_key(new) and self.exists(new) and any(True for _ in self.list(new)):
            raise DirectoryNotEmpty(f"{new!r} has entries")
        try:
            self._copy(old, new)
        except BaseException:
            if is_directory_key(new):
                with contextlib.suppress(KeyError, StoreError):
                    self._delete_tree(new)
            raise
        self._delete_tree(old)

    def exchange(self, first: str, second: str) -> None:
        """Swap what stands at two keys, of any kinds, each spelled as its kind is.

        ``exchange("a/", "b")`` leaves the directory at ``b/`` and the value at ``a``. Atomic; a store
        that cannot swap in one step raises ``Unsupported``.

        Raises:
            KeyError: One of them is not there.
            InvalidKey: One is inside the other.
        """
        self._check_writable(first)
        check_key(second)
        for one, other in ((first, second), (second, first)):
            if is_directory_key(one) and other.startswith(one) and other != one:
                raise InvalidKey(f"{other!r} is inside {one!r}")
        with self._changing():
            self._exchange(first, second)
        self._tell_set(first, True)
        self._tell_set(second, True)

    def _exchange(self, first: str, second: str) -> None:
        raise Unsupported(f"{self.name} cannot swap two keys in one step")

    def link(self, old: str, new: str) -> Stat:
        """Give the file ``old`` a further key ``new``; both then share data, attributes and metadata.

        Returns:
            The attributes of the file, with its new link count.

        Raises:
            KeyError: ``old`` is not there.
            KeyExists: ``new`` is there already.
            Unsupported: The store has no hard links.
        """
        self._check_writable(old)
        check_key(new)
        with self._changing():
            stat = self._link(old, new)
        self._tell_set(new, False)
        return stat

    def _link(self, old: str, new: str) -> Stat:
        raise Unsupported(f"{self.name} has no hard links")

    def sync(self, key: str | None = None) -> None:
        """Return when what was written (to ``key``, or at all) would survive a loss of power.

        Raises:
            StoreUnavailable: The medium reports an error.
        """

    # ---------------------------------------------------------------- for the methods above

    def _check_connected(self) -> None:
        if not self.is_connected():
            raise NotConnected(f"{self.name} is not connected: call connect() or use it in a with statement")

    def _check_writable(self, key: str) -> None:
        self._check_connected()
        if not self.capabilities.writable:
            raise ReadOnly(f"{self.name} takes no writes")
        check_key(key)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Around a write: what others cached of this store is no longer to be believed."""
        try:
            yield
        finally:
            self.changes += 1

    def _stat_for_value(self, key: str) -> Stat:
        """Attributes for a value that is written without saying which: those it has, at a new time."""
        if is_directory_key(key):
            raise IsADirectory(f"{key!r} is a directory's key and holds no data")
        try:
            old = self.stat(key)
        except KeyError:
            return new_stat(DEFAULT_FILE_MODE, *self._default_owner())
        mode = old.mode if old.is_file else DEFAULT_FILE_MODE
        return old._replace(mode=mode, rdev=0, mtime=now())

    def _default_owner(self) -> tuple[int, int]:
        """The uid and gid of what is made without saying whose it is."""
        return os.geteuid(), os.getegid()

    def _kept_xattrs(self, key: str) -> dict[str, bytes]:
        if not self.capabilities.xattrs:
            return {}
        try:
            return self.get_xattrs(key)
        except KeyError:
            return {}

    def _copy(self, old: str, new: str) -> None:
        stat = self.stat(old)
        with contextlib.closing(self.get(old)) as value:
            data = None if stat.is_directory else value.data
            self._put(new, stat, data, value.metadata, self.get_xattrs(old), MEBIBYTE)
        if stat.is_directory:
            for name, child in tuple(self.list(old)):
                tail = name + "/" if child.is_directory else name
                self._copy(old + tail, new + tail)

    def _delete_tree(self, key: str) -> None:
        if is_directory_key(key):
            for name, child in tuple(self.list(key)):
                self._delete_tree(key + name + ("/" if child.is_directory else ""))
        self._delete(key)
