"""The reading half of ``WriteBackStore``: what waits is seen in place of what its store has; and its connection."""

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

from joinfs.errors import StoreUnavailable, Unsupported, UsageError
from joinfs.stores.base import Store
from joinfs.stores.keys import directory_key
from joinfs.stores.metadata import selected
from joinfs.stores.reading import Reading
from joinfs.stores.value import Capabilities, Marked, Metadata, Opened, Stat, Value, Versioned
from joinfs.stores.views import View, check_outside
from joinfs.stores.writeback_entries import Entry
from joinfs.stores.writeback_pending import Pending, shown, value_of
from joinfs.stores.writeback_sender import Sender

log = logging.getLogger(__name__)
_INSIDE = "joinfs-writeback-1"
T = TypeVar("T")


class _Ours(threading.local):
    """Whether the thread writes to the other store for us."""

    active = False


class ReadingBack(View):
    """The reading half of ``WriteBackStore``, which says what it is, and its connection."""

    def __init__(self, store: Store, path: str | os.PathLike[str], event_manager: Any = None) -> None:
        super().__init__(store, event_manager)
        self.name = f"{store.name}?writeback={os.fspath(path)}"
        named = hashlib.blake2b(_identity(store).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.path_of_pending = os.path.join(os.path.abspath(path), _INSIDE, named)
        self._pending = Pending(self.path_of_pending)
        self._sender: Sender | None = None
        self._ours = _Ours()
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
            self._pending.open()
            if self.capabilities.writable:
                self._sender = Sender(self._pending, self.store, self._writing)
        except BaseException:
            self._pending.close()
            self.store.disconnect()
            raise
        self._is_open = True

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
        """The same, and ``waiting``: how many files and directories are to be sent, or deleted there."""
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
        before, self._ours.active = self._ours.active, True
        try:
            yield
        finally:
            self._ours.active = before

    def _told(self, key: str | None) -> None:
        if not self._ours.active:
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
        return self._touched_stat(key, self._pending.stat(key, super().stat))

    def _touched_stat(self, key: str, stat: Stat) -> Stat:
        """A directory has the time of what was done in it, not of when it was sent, and its directories are not counted: some may wait."""
        if not stat.is_directory:
            return stat
        return stat._replace(nlink=1, mtime=self._touched.get(key, stat.mtime))

    def lookup(self, key: str) -> Stat:
        self._check_connected()
        directory = directory_key(key)
        if key and self._pending.find(directory) is not None:
            return self._touched_stat(directory, self._pending.stat(directory, super().stat))
        return self._touched_stat(directory, self._pending.stat(key, super().lookup))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return ((name, marked.stat) for name, marked in self._overlaid(prefix, lambda: ((n, Marked(s)) for n, s in View.list(self, prefix))))

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        return self._overlaid(prefix, lambda: View.list_marked(self, prefix, known))

    def _overlaid(self, prefix: str, ask: Callable[[], Iterator[tuple[str, Marked]]]) -> Iterator[tuple[str, Marked]]:
        """What a listing of the store says, and what waits in its place."""
        self._check_connected()
        waiting = self._pending.directly_in(prefix)  # first: what arrives meanwhile is listed
        return self._merged(prefix, waiting, self._listed(prefix, ask))

    def _listed(self, prefix: str, ask: Callable[[], Iterator[T]]) -> Iterator[T]:
        """What a listing of the store says of a directory, of which it may not know yet.

        Raises:
            KeyError: There is no such directory, or it is to be deleted.
        """
        entry = self._pending.find(prefix)
        if entry is not None and entry.is_gone:
            raise KeyError(prefix)
        if entry is None:
            return ask()
        return iter(()) if entry.is_new else self._if_there(ask)

    def _if_there(self, ask: Callable[[], Iterator[T]]) -> Iterator[T]:
        with contextlib.suppress(KeyError):
            yield from ask()

    def _merged(self, prefix: str, waiting: dict[str, Entry], listed: Iterator[tuple[str, Marked]]) -> Iterator[tuple[str, Marked]]:
        for name, marked in listed:
            if waiting.pop(name, None) is None:
                yield name, marked._replace(stat=self._touched_stat(f"{prefix}{name}/", marked.stat)) if marked.stat.is_directory else marked
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
        if there := [name for name in names if name not in waiting]:
            super().prefetch(directory, there)

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


def _identity(store: Store) -> str:
    """What names a store, however its URL is spelled."""
    path = getattr(store, "path", None)
    return os.path.realpath(path) if isinstance(path, str) else store.identity or store.name
