"""Another store, to which what is written is sent later: until then it is on local disk."""

import contextlib
import hashlib
import io
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from joinfs.errors import DirectoryNotEmpty, IsADirectory, NotADirectory, NotConnected, StoreUnavailable, Unsupported, UsageError
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import ROOT, ancestors, directory_key, is_directory_key, split
from joinfs.stores.metadata import selected
from joinfs.stores.reading import Reading
from joinfs.stores.spooling import spooled
from joinfs.stores.value import Capabilities, Marked, Metadata, Opened, Stat, Value, Versioned, new_stat, now
from joinfs.stores.views import View, check_outside
from joinfs.stores.whole import is_plain_file
from joinfs.stores.writeback_pending import HIDDEN, Entry, Pending, shown, value_of
from joinfs.stores.writeback_sender import Sender

log = logging.getLogger(__name__)
_INSIDE = "joinfs-writeback-1"
# Of so many directories it is known when something was done in them that their store does not know of.
MOST_TOUCHED = 10_000


class WriteBackStore(View):
    """Another store, to which files are sent when nobody has changed them for a second, several at a time; until then they are on local disk.

    Who writes through this object sees all of it at once, and so does who connects it again, also after a crash; others see a
    file when it was sent, whole, and of several files none before the others for sure. What cannot be sent is kept and tried again; ``drain`` waits for
    all, and so does ``disconnect`` unless sending fails. ``sync`` has it survive a loss of power here.

    Directories are made, renamed and deleted in the store at once, and so is what is done to a file that does not wait. What is below a directory that is
    renamed, or exchanged, is sent first.

    Args:
        store: The other store; connected and disconnected with this one. Its capabilities are ours, but for hard links, transactions and local files.
        path: A directory of our own, made if it is not there; several stores may share one, and each is for one process at a time.
        event_manager: As for ``Store``.

    Attributes:
        path_of_pending: Where what waits is.
    """

    def __init__(self, store: Store, path: str | os.PathLike[str], event_manager: Any = None) -> None:
        super().__init__(store, event_manager)
        self.name = f"{store.name}?writeback={os.fspath(path)}"
        named = hashlib.blake2b(_identity(store).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.path_of_pending = os.path.join(os.path.abspath(path), _INSIDE, named)
        self._pending = Pending(self.path_of_pending)
        self._sender: Sender | None = None
        self._ours = threading.local()
        self._touched: dict[str, int] = {}
        self._is_open = False

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the other store, without hard links, transactions and local files."""
        return self.store.capabilities._replace(hard_links=False, transactions=False, local=False)

    @property
    def changes(self) -> int:
        return self._last_change + self.store.changes

    @property
    def identity(self) -> str:
        """None: what is cached of this store would not be true of the other."""
        return ""

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same; what waits since the last time is sent.

        Raises:
            UsageError: The directory is another user's, others may write to it, or the store may not be called by several threads.
            StoreLocked: Another process sends what is in it.
        """
        if self.is_connected():
            return
        check_outside(self.store, self.path_of_pending)
        self.store.connect(credentials)
        try:
            if not self.capabilities.thread_safe:
                raise UsageError(f"{self.store.name} may not be called by several threads at once, so it cannot be sent to meanwhile")
            renamed = self._pending.open()
        except BaseException:
            self.store.disconnect()
            raise
        try:
            if self.capabilities.writable:
                self._finish_renames(renamed)
                self._sender = Sender(self._pending, self.store, self._writing)
        except BaseException:
            self._pending.close()
            self.store.disconnect()
            raise
        self._is_open = True

    def _finish_renames(self, renamed: Sequence[tuple[str, Entry]]) -> None:
        """Those that were cut off."""
        for key, entry in renamed:
            if self._pending.find(key) is None:
                with contextlib.suppress(KeyError, IsADirectory, NotADirectory):  # others may have put anything there
                    self.store.delete(key)
            self._pending.forget_gone(entry)

    def disconnect(self) -> None:
        """The same, when all that waits was sent, or the store does not take it; then it is kept, and that is logged."""
        try:
            if self._sender is not None:
                self._sender.drain()
        except StoreUnavailable as error:
            log.warning("%s; it is kept in %s, and sent when the store is opened so again", error, self.path_of_pending)
        finally:
            with self._writes:
                sender, self._sender, self._is_open = self._sender, None, False
            if sender is not None:
                sender.close()
            self._pending.close()
            self.store.disconnect()

    def is_connected(self) -> bool:
        return self._is_open and self.store.is_connected()

    def info(self) -> dict[str, Any]:
        """The same, and ``waiting``: how many files are to be sent."""
        return {**super().info(), "waiting": len(self._pending)}

    def drain(self) -> None:
        self._check_connected()
        if self._sender is not None:
            self._sender.drain()
        self.store.drain()

    def sync(self, key: str | None = None) -> None:
        self._check_connected()
        self._pending.disk.sync()
        if key is None or self._pending.find(key) is None:
            self.store.sync(key)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Around writes of our own to the other store, of which we tell ourselves."""
        before = getattr(self._ours, "active", False)
        self._ours.active = True
        try:
            yield
        finally:
            self._ours.active = before

    def _told(self, key: str | None) -> None:
        if not getattr(self._ours, "active", False):
            if key is None:
                self._touched.clear()
            else:
                self._touched.pop(key, None)
            super()._told(key)

    def _tell_written(self, keys: tuple[str, ...]) -> None:
        Store._tell_written(self, keys)

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        return self._writes

    def _transaction(self) -> contextlib.AbstractContextManager[object]:
        return self._exclusive()

    def _nested_transaction(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        self._check_connected()
        return self._touched_stat(key, self._pending.ask(key, self._waiting_stat, super().stat))

    def _touched_stat(self, key: str, stat: Stat) -> Stat:
        """A directory has the time of what was done in it, not of when it was sent."""
        touched = self._touched.get(key)
        return stat._replace(mtime=touched) if touched is not None and stat.is_directory else stat

    def _waiting_stat(self, number: str) -> Stat:
        return _as_sent(self._pending.disk.stat(number))

    def lookup(self, key: str) -> Stat:
        self._check_connected()
        return self._touched_stat(directory_key(key), self._pending.ask(key, self._waiting_stat, super().lookup))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return ((name, marked.stat) for name, marked in self._overlaid(prefix, lambda: ((n, Marked(s)) for n, s in View.list(self, prefix))))

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        return self._overlaid(prefix, lambda: View.list_marked(self, prefix, known))

    def _overlaid(self, prefix: str, ask: Callable[[], Iterator[tuple[str, Marked]]]) -> Iterator[tuple[str, Marked]]:
        """What a listing of the store says, and what waits in its place."""
        self._check_connected()
        waiting = self._pending.directly_in(prefix)  # first: what arrives meanwhile is listed
        return self._merged(prefix, waiting, ask())

    def _merged(self, prefix: str, waiting: dict[str, Entry], listed: Iterator[tuple[str, Marked]]) -> Iterator[tuple[str, Marked]]:
        for name, marked in listed:
            if waiting.pop(name, None) is None:
                if prefix + name not in self._pending.hidden:
                    yield name, marked
            else:
                yield from self._still_there(prefix, name)
        for name in waiting:
            yield from self._still_there(prefix, name)

    def _still_there(self, prefix: str, name: str) -> Iterator[tuple[str, Marked]]:
        with contextlib.suppress(KeyError):
            yield name, Marked(self.lookup(prefix + name))

    def get(self, key: str) -> Value:
        self._check_connected()
        return self._pending.ask(key, lambda number: self._waiting_value(key, number), super().get)

    def _waiting_value(self, key: str, number: str) -> Value:
        value = value_of(self._pending.disk, number)
        return Value(lambda: self._opened(key, value), value.metadata, value.size, value.created, value.modified)

    def _opened(self, key: str, value: Value) -> Opened:
        """A stream of what waited when it was asked for; of what its store has, if it has arrived."""
        try:
            stream = value.data
        except KeyError:
            value = self.get(key)
            stream = value.data
        return Opened(stream, dict(value.metadata), value.size, value.created, value.modified)

    def get_data(self, key: str) -> BinaryIO:
        return Reading.get_data(self, key)

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        return Reading.get_data_range(self, key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        self._check_connected()
        names = None if select is None else list(select)
        there = self._pending.ask(key, lambda number: shown(self._pending.disk.get_metadata(number)), lambda key: View.get_metadata(self, key, names))
        return selected(there, names)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        self._check_connected()
        return self._pending.ask(key, self._pending.disk.get_xattrs, super().get_xattrs)

    def read(self, key: str, offset: int, size: int) -> bytes:
        self._check_connected()
        return self._pending.ask(key, lambda number: self._pending.disk.read(number, offset, size), lambda key: View.read(self, key, offset, size))

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The same; of what waits the version cannot be told."""
        if self._pending.find(key) is None:
            return super().read_version(key, offset, size)
        return Reading.read_version(self, key, offset, size)._replace(version=None)

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        waiting = self._pending.directly_in(directory)
        super().prefetch(directory, [name for name in names if name not in waiting])

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        return Store.query(self, select, **kwargs)

    def check(self) -> Iterator[str]:
        """The same, of what waits and of the other store."""
        yield from self._pending.disk.check()
        yield from self.store.check()

    def open_local(self, key: str, flags: int) -> int:
        return Reading.open_local(self, key, flags)

    def open_in_place(self, key: str) -> int:
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        if data is None or isinstance(data, io.BytesIO) or is_plain_file(data):
            yield data
            return
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
        _check_free(metadata)
        is_new = self._prepare(key)
        self._touch(key)
        if stat.is_directory:
            with self._writing():
                self._touched.pop(key, None)
                return super()._put(key, stat, data, metadata, xattrs, buffer_size)
        return _as_sent(self._pending.put(key, stat, data, metadata, xattrs, is_new))

    def _prepare(self, key: str) -> bool:
        """See to it that something can stand at a key; answer whether nothing does.

        Raises:
            IsADirectory, NotADirectory: As for ``put``.
        """
        self._check_above(key)
        if is_directory_key(key):
            if key != ROOT and self._pending.find(key.removesuffix("/")) is not None:
                raise NotADirectory(f"{key.removesuffix('/')!r} is not a directory")
            return False
        self._make_directory(split(key)[0])
        if self._pending.find(key) is not None:
            return False
        try:
            there = self.store.lookup(key)
        except KeyError:
            return True
        if there.is_directory:
            raise IsADirectory(f"{key!r} is a directory")
        return False

    def _check_above(self, key: str) -> None:
        """Raise ``NotADirectory`` if something waits where a directory would have to be above a key."""
        for directory in ancestors(key):
            if self._pending.find(directory.removesuffix("/")) is not None:
                raise NotADirectory(f"{directory.removesuffix('/')!r} is not a directory")

    def _make_directory(self, directory: str) -> None:
        if directory != ROOT and not self.store.exists(directory):
            with self._writing():
                self.store.put(directory, new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()))

    def _touch(self, key: str) -> None:
        """Something is done in the directory of a key, that the store may hear of later."""
        if len(self._touched) >= MOST_TOUCHED:
            self._touched.clear()
        self._touched[split(key.removesuffix("/"))[0]] = now()

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        return Store._set(self, key, data, metadata, buffer_size)

    def _make(self, key: str, metadata: Metadata) -> None:
        Store._make(self, key, metadata)

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        if not stat.is_directory:
            return Store._make_new(self, key, stat, target)
        self._check_above(key)
        self._check_free(key)
        self._touch(key)
        with self._writing():
            return super()._make_new(key, stat, target)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    def _changed_where_it_is(self, key: str, waiting: Callable[[str], Any], otherwise: Callable[[], Any]) -> Any:
        """Change attributes of what waits at a key on disk, and else in the store."""
        while (entry := self._pending.find(key)) is not None:
            try:
                answer = waiting(entry.number)
            except KeyError:  # it has just arrived
                if self._pending.find(key) is entry:
                    raise
            else:
                if self._pending.was_changed(entry):
                    return answer
        with self._writing():
            return otherwise()

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        _check_free(metadata)
        self._check_above(key)
        disk, there = self._pending.disk, super()._set_metadata

        def change(number: str) -> None:
            kept = {name: value for name, value in disk.get_metadata(number).items() if name in HIDDEN}
            disk.set_metadata(number, {**metadata, **kept})

        self._changed_where_it_is(key, change, lambda: there(key, metadata))

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        return Store._update_metadata(self, key, metadata)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        there = super()._set_stat
        if "mtime" in changes and is_directory_key(key):
            self._touched[key] = changes["mtime"]
        stat = self._changed_where_it_is(key, lambda number: _as_sent(self._pending.disk.set_stat(number, **changes)), lambda: there(key, changes))
        assert isinstance(stat, Stat)
        return stat

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        if not self.capabilities.xattrs:
            raise Unsupported(f"{self.store.name} holds no such extended attributes")
        there = super()._set_xattr
        self._changed_where_it_is(key, lambda number: self._pending.disk.set_xattr(number, name, value), lambda: there(key, name, value))

    def _delete(self, key: str) -> None:
        if is_directory_key(key):
            self._delete_directory(key)
            return
        with self._pending.held(key) as entry:
            if entry is None or not entry.is_new:
                self._delete_there(key, is_sure=entry is None)
            if entry is not None:
                self._pending.drop(entry)
        self._touch(key)

    def _delete_directory(self, key: str) -> None:
        self._pending.wait_until_idle(key)
        if self._pending.below(key):
            raise DirectoryNotEmpty(f"{key!r} has entries")
        self._delete_there(key)
        self._touched.pop(key, None)
        self._touch(key)

    def _delete_there(self, key: str, is_sure: bool = True) -> None:
        """Delete what the store has at a key; it may have nothing there unless that is sure."""
        try:
            with self._writing():
                super()._delete(key)
        except KeyError:
            if is_sure:
                raise

    def _rename(self, old: str, new: str) -> None:
        if old == new:
            self.stat(old)
            return
        if is_directory_key(old):
            self._prepare(new)
            self._send(old, new)
            self._touched.clear()
            with self._writing():
                super()._rename(old, new)
        else:
            self._rename_file(old, new)
        self._touch(old)
        self._touch(new)

    def _rename_file(self, old: str, new: str) -> None:
        is_new = self._prepare(new)
        with self._pending.held(old) as entry, self._pending.held(new) as over:
            if entry is not None:
                self._rename_waiting(entry, new, over, is_new)
                return
            if over is not None:
                self._sender_now().send_held(over)  # what is replaced is in the store until its place is taken
            with self._writing():
                super()._rename(old, new)

    def _rename_waiting(self, entry: Entry, new: str, over: Entry | None, is_new: bool) -> None:
        if entry.is_new:
            self._pending.rename(entry, new, over)
            entry.is_new = is_new if over is None else over.is_new
            return
        if over is not None:  # else it would be lost if this has to be undone
            self._sender_now().send_held(over)
        old = entry.key
        self._pending.hidden.add(old)
        try:
            self._pending.rename(entry, new)
            self._delete_there(old, is_sure=False)
        except BaseException:
            if entry.key == new:
                self._pending.rename(entry, old, back=True)
            raise
        finally:
            self._pending.hidden.discard(old)
        self._pending.forget_gone(entry)

    def _send(self, *directories: str) -> None:
        """Send what waits at some keys, or in directories, now."""
        waiting = [
            entry for key in directories for entry in (self._pending.below(key) if is_directory_key(key) else [self._pending.find(key)]) if entry
        ]
        if waiting:
            self._sender_now().drain(waiting)
        for key in directories:
            self._pending.wait_until_idle(key)

    def _sender_now(self) -> Sender:
        self._check_connected()
        if self._sender is None:
            raise NotConnected(f"{self.name} is being disconnected")
        return self._sender

    def _exchange(self, first: str, second: str) -> None:
        for key in (first, second):
            self._check_above(key)
        self._send(first, second)
        self._touched.clear()
        with self._writing():
            super()._exchange(first, second)

    def _link(self, old: str, new: str) -> Stat:
        raise Unsupported(f"{self.name} has no hard links")


def _identity(store: Store) -> str:
    """What names a store, however its URL is spelled."""
    path = getattr(store, "path", None)
    return os.path.realpath(path) if isinstance(path, str) else store.identity or store.name


def _as_sent(stat: Stat) -> Stat:
    """Attributes of what waits, as its store will tell them: it has no number there yet."""
    return stat._replace(file_id=None, nlink=1)


def _check_free(metadata: Metadata) -> None:
    for name in HIDDEN:
        if name in metadata:
            raise Unsupported(f"the metadata {name!r} is a write-back store's own")
