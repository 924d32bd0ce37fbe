"""The promise that every store keeps.

``Store`` is the class that the JoinedStore reference describes, method for method, and on top of it
what a file system needs: attributes, directories, ranges, renames. An author writes ``stat``, ``list``
and ``get``, and for a store that takes writes ``_put`` and ``_delete``; everything else has a default
in terms of these, to be overridden where the medium can do it faster. (For a medium that is nothing but
keys and values there is :class:`joinfs.stores.flat.FlatStore`, which needs less.)

Methods that read (``stores/reading.py``) are overridden as they are. Those that write are written here
once: they check the key, keep others from changing it meanwhile, ask the store's hook of the same name
with an underscore, and tell the listeners and subscribers.
"""

import contextlib
import io
import itertools
import os
import stat as stat_module
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, KeyExists, ReadOnly, StoreError, Unsupported
from joinfs.stores.announcing import Announcing
from joinfs.stores.bulk import BulkMethods
from joinfs.stores.keys import check_key, is_directory_key, split
from joinfs.stores.metadata import checked
from joinfs.stores.progress import reporting
from joinfs.stores.reading import Reading
from joinfs.stores.value import MEBIBYTE, Metadata, Stat, Value, new_stat, now
from joinfs.stores.whole import whole

DEFAULT_FILE_MODE = stat_module.S_IFREG | 0o644
DEFAULT_DIRECTORY_MODE = stat_module.S_IFDIR | 0o755
T = TypeVar("T")


class Store(Announcing, BulkMethods, Reading):
    """A key-value store whose keys are also paths.

    Args:
        event_manager: Where events go; a new ``EventManager`` unless given.

    Attributes:
        capabilities: What the store can hold and do.
        name: What messages call the store: its URL, as a rule.
        changes: A number that every write through this object changes; who caches what the store
            answered compares it.
    """

    def __init__(self, event_manager: Any = None) -> None:
        super().__init__(event_manager)
        self.user_tag: str = ""
        self._writes = threading.RLock()
        # next() is one step to all threads, and gives no number twice.
        self._numbers = itertools.count(1)
        self._last_change = 0

    @property
    def changes(self) -> int:
        """A number that every write through this object changes."""
        return self._last_change

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
        known = checked(metadata or {})
        with reporting(self, key, data, known) as source, self._receive(key, stat, source, buffer_size) as received, self._changing(key):
            existed = self._heard() and self.exists(key)
            made = self._put(key, stat._replace(implied=False), received, known, dict(xattrs or {}), buffer_size)
        self._tell_set(key, existed, known)
        return made

    def put_sent(self, key: str, stat: Stat, data: BinaryIO | None, metadata: Mapping[str, Any], xattrs: Mapping[str, bytes]) -> Stat:
        """As ``put``, of what was written elsewhere before: of ``stat`` ctime and birth count as well, where the store can keep them."""
        return self.put(key, stat, data, metadata, xattrs)

    def delete_sent(self, keys: Sequence[str]) -> None:
        """As ``delete``, of what was deleted elsewhere before; what is not there does not matter.

        The directories that it was in stay, though they may have nothing in them any more. After a failure some may be there still.
        """
        for key in keys:
            with contextlib.suppress(KeyError):
                self.delete(key)

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        """What ``put`` promises; the key has been checked, and ``data`` is what ``_receive`` gave."""
        raise ReadOnly(f"{self.name} takes no writes")

    def make(self, key: str, stat: Stat, target: bytes = b"") -> Stat:
        """Make something new and empty, now, where nothing stands; the directory that it is in is there.

        Args:
            key: Ends in ``/`` if, and only if, ``stat`` is a directory's.
            stat: Its mode, uid, gid and rdev count.
            target: Of a symlink.

        Returns:
            The attributes as they are now.

        Raises:
            KeyExists: Something stands there.
            KeyError: There is no such directory to make it in.
            InvalidKey, NotADirectory, ReadOnly, OutOfSpace, Unsupported: As for ``put``.

        After a failure nothing is there. Emits StoreSetEvent.
        """
        self._check_writable(key)
        if is_directory_key(key) != stat.is_directory:
            raise InvalidKey(f"{key!r}: the key of a directory, and only that, ends in '/'")
        with self._changing(key):
            made = self._make_new(key, stat, target)
        self._tell_set(key, False)
        return made

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        self._check_free(key)
        moment = now()
        new = stat._replace(atime=moment, mtime=moment, ctime=moment, birth=moment, implied=False)
        return self._put(key, new, io.BytesIO(target) if stat.is_symlink else None, {}, {}, MEBIBYTE)

    def _check_free(self, key: str) -> None:
        bare = key.removesuffix("/")
        try:
            self.lookup(bare)
        except KeyError:
            self.stat(split(bare)[0])
            return
        raise KeyExists(f"{bare!r} is there already")

    def make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        """As ``make``, of a regular file, which is open then as by ``open_local(key, os.O_RDWR)``; answer the descriptor too.

        Raises:
            Unsupported: The data is not a local file of its own. Then nothing was made.
        """
        self._check_writable(key)
        with self._changing(key):
            made = self._make_local(key, stat)
        self._tell_set(key, False)
        return made

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        if not self.capabilities.local:
            raise Unsupported(f"{self.name} does not keep {key!r} in a local file")
        made = self._make_new(key, stat, b"")
        return made, self.open_local(key, os.O_RDWR)

    def delete(self, key: str) -> None:
        """Delete ``key``; of a directory (``a/``), the empty directory.

        Raises:
            KeyError: The key is not there.
            DirectoryNotEmpty: There are keys below it.
            ReadOnly: The store takes no writes.

        After a failure the key is there, whole. Emits StoreDeleteEvent.
        """
        self._check_writable(key)
        with self._changing(key):
            metadata = self.get_metadata(key) if self._heard() else {}
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
            self._set_told(key, data, checked(metadata), buffer_size)

    def set_data(self, key: str, data: BinaryIO, buffer_size: int = MEBIBYTE) -> None:
        """Replace the data of ``key``, which need not be there yet; its metadata stays.

        Events, errors and what holds after a failure: as for ``set``.
        """
        self._set_told(key, data, None, buffer_size)

    def _set_told(self, key: str, data: BinaryIO, metadata: Metadata | None, buffer_size: int) -> None:
        self._check_writable(key)
        if is_directory_key(key):
            raise IsADirectory(f"{key!r} is a directory's key and holds no data")
        file = Stat(DEFAULT_FILE_MODE)
        with reporting(self, key, data, metadata) as source, self._receive(key, file, source, buffer_size) as received, self._changing(key):
            existed = self._heard() and self.exists(key)
            known = self._set(key, received, metadata, buffer_size)
        self._tell_set(key, existed, known)

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        """What ``set`` promises, and ``set_data`` if ``metadata`` is None. Answers the metadata that is there now."""
        if metadata is None:
            metadata = self._kept(self.get_metadata, key)
        self._put(key, self._stat_for_value(key), data, metadata, self._kept_xattrs(key), buffer_size)
        return metadata

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
        new = checked(metadata)
        with self._changing(key):
            existed = True
            try:
                self._set_metadata(key, new)
            except KeyError:
                if is_directory_key(key):
                    raise
                existed = False
                self._make(key, new)
        self._tell_set(key, existed, new)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._put_again(key, self.stat(key), metadata)

    def _make(self, key: str, metadata: Metadata) -> None:
        """Make an empty value at a key where nothing is."""
        self._put(key, self._stat_for_value(key), None, metadata, {}, MEBIBYTE)

    def update_metadata(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Add to the metadata of ``key``, as ``dict.update`` does.

        Raises:
            KeyError: The key is not there.
            Unsupported: The store holds no metadata on such a key.

        After a failure the old metadata is there. Emits StoreUpdateEvent.
        """
        self._check_writable(key)
        with self._changing(key):
            updated = self._update_metadata(key, checked(metadata))
        self._tell_set(key, True, updated)

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        """What ``update_metadata`` promises. Answers all the metadata that is there now."""
        updated = {**self.get_metadata(key), **metadata}
        self._set_metadata(key, updated)
        return updated

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
        with self._changing(key):
            stat = self._set_stat(key, changes)
        self._tell_set(key, True)
        return stat

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        """What ``set_stat`` promises; ``changes`` has only what is to change."""
        old = self.stat(key)
        if "mode" in changes:
            changes["mode"] = old.kind | stat_module.S_IMODE(changes["mode"])
        return self._put_again(key, old.changed(changes), self.get_metadata(key))

    def set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        """Set an extended attribute outside ``user.``, or remove it (None).

        Raises:
            KeyError: The key is not there.
            NoSuchAttribute: There is none to remove.
            Unsupported: The store holds no such attributes.
        """
        self._check_writable(key)
        with self._changing(key):
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
        with self._changing(old, new):
            metadata = self.get_metadata(old) if self._heard() else {}
            existed = self._heard() and self.exists(new)
            self._rename(old, new)
        if old != new:
            self._tell_deleted(old, metadata)
            self._tell_set(new, existed, metadata)

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

    def rename_whited_out(self, old: str, new: str) -> None:
        """The same, and in the same step a character device 0/0 at ``old``, without a ``/`` at its end: overlayfs's whiteout.

        Errors as for ``rename``.
        """
        with self.transaction("rename and leave a whiteout"):
            self.rename(old, new)
            self.put(old.removesuffix("/"), new_stat(stat_module.S_IFCHR, *self._default_owner()))

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
        with self._changing(first, second):
            self._exchange(first, second)
        for key, other in ((first, second), (second, first)):
            bare = key.removesuffix("/")
            self._tell_set(bare + "/" if is_directory_key(other) else bare, True)

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
        with self._changing(old, new):
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

    def drain(self) -> None:
        """Return when what was written is where it is to go in the end, if it is sent there later than it is answered.

        Raises:
            StoreUnavailable: It is not taken there; it is kept, and sent again.
        """

    # ---------------------------------------------------------------- for the methods above

    def _check_writable(self, key: str) -> None:
        self._check_connected()
        if not self.capabilities.writable:
            raise ReadOnly(f"{self.name} takes no writes")
        check_key(key)

    def _changing(self, *keys: str) -> "_Changing":
        """Around a write: nobody else changes the keys, and what others cached of this store is not to be believed."""
        return _Changing(self, keys)

    def _note_change(self, *keys: str) -> None:
        """Something was written, to these keys as far as they are known."""
        self._last_change = next(self._numbers)

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """Keep other threads from changing ``keys`` from now on, so that what is read can be written back changed.

        It is taken again by a thread that has it, and by one in a transaction of this store it is never
        waited for. What was done in it and did not fail is there for all at its end.
        """
        return self._writes

    def _around_write(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """As ``_exclusive``, around one write of this store's own; less, where its medium keeps the parts of one together."""
        return self._exclusive(*keys)

    def _receive(
        self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int
    ) -> contextlib.AbstractContextManager[BinaryIO | None]:
        """Take in what can be taken in of data before others are kept out: its source may be slow."""
        return contextlib.nullcontext(data)

    def _put_again(self, key: str, stat: Stat, metadata: Metadata, source: str | None = None) -> Stat:
        """Put what is at ``source`` (``key`` itself if None) to ``key``, with other attributes and metadata."""
        old = key if source is None else source
        with contextlib.closing(self.get(old)) as value:
            data = None if stat.is_directory else whole(value, f"{old!r} in {self.name}")
            xattrs = self.get_xattrs(old)
            with self._receive(key, stat, data, MEBIBYTE) as received:
                return self._put(key, stat, received, metadata, xattrs, MEBIBYTE)

    def _stat_for_value(self, key: str) -> Stat:
        """Attributes for a value that is written without saying which."""
        try:
            return self._stat_over(self.stat(key))
        except KeyError:
            return self._stat_over(None)

    def _stat_over(self, there: Stat | None) -> Stat:
        """Attributes for a value that is written over what is there: the same, at a new time; common ones over nothing."""
        if there is None:
            return new_stat(DEFAULT_FILE_MODE, *self._default_owner())
        return there._replace(mode=there.mode if there.is_file else DEFAULT_FILE_MODE, rdev=0, mtime=now())

    def _default_owner(self) -> tuple[int, int]:
        """The uid and gid of what is made without saying whose it is."""
        return os.geteuid(), os.getegid()

    def _kept(self, ask: Callable[[str], dict[str, T]], key: str) -> dict[str, T]:
        """What a key has that is there, or nothing."""
        try:
            return ask(key)
        except KeyError:
            return {}

    def _kept_xattrs(self, key: str) -> dict[str, bytes]:
        return self._kept(self.get_xattrs, key) if self.capabilities.xattrs else {}

    def _copy(self, old: str, new: str) -> None:
        stat = self.stat(old)
        self._put_again(new, stat, self.get_metadata(old), source=old)
        if stat.is_directory:
            for name, child in tuple(self.list(old)):
                tail = name + "/" if child.is_directory else name
                self._copy(old + tail, new + tail)

    def _delete_tree(self, key: str) -> None:
        if is_directory_key(key):
            for name, child in tuple(self.list(key)):
                self._delete_tree(key + name + ("/" if child.is_directory else ""))
        self._delete(key)


class _Changing:
    """What ``Store._changing`` gives; a class, as it is entered with every write."""

    __slots__ = ("_exclusive", "_keys", "_store")

    def __init__(self, store: Store, keys: tuple[str, ...]) -> None:
        self._store, self._keys = store, keys

    def __enter__(self) -> None:
        self._exclusive = self._store._around_write(*self._keys)
        self._exclusive.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        store = self._store
        try:
            self._exclusive.__exit__(exc_type, error, traceback)
        finally:
            store._note_change(*self._keys)
            if store._subscribers:
                store._tell_written(self._keys)
