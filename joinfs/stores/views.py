"""Another store seen differently: below a prefix, or read-only."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

from joinfs.errors import InvalidKey, ReadOnly, StoreUnavailable, Unsupported, UsageError
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import ROOT, check_key, directory_key
from joinfs.stores.telling import Subscriber
from joinfs.stores.value import Capabilities, Marked, Metadata, Stat, Usage, Value, Versioned, new_stat

T = TypeVar("T")


class View(Store):
    """A store whose every method asks another one, which it connects and disconnects with itself."""

    def __init__(self, store: Store, event_manager: Any = None) -> None:
        super().__init__(event_manager)
        self.store = store
        self._prefix = ROOT

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the other store."""
        return self.store.capabilities

    @property
    def changes(self) -> int:
        """A number that every write through the other store changes."""
        return self.store.changes

    @property
    def identity(self) -> str:
        """That of the other store, and which part of it this is."""
        identity = self.store.identity
        return identity and identity + self.name.removeprefix(self.store.name)

    def connect(self, credentials: Any = None) -> None:
        self.store.connect(credentials)

    def disconnect(self) -> None:
        self.store.disconnect()

    def is_connected(self) -> bool:
        return self.store.is_connected()

    def _key(self, key: str) -> str:
        """The other store's key for one of ours."""
        if self._prefix:
            try:
                check_key(key)
            except InvalidKey as error:
                raise KeyError(key) from error
        return self._prefix + key

    def _ask(self, method: Callable[..., T], key: str, *arguments: Any, **named: Any) -> T:
        """What a method of the other store answers for one of our keys; what is missing is ours."""
        theirs = self._key(key)
        try:
            return method(theirs, *arguments, **named)
        except KeyError as error:
            raise KeyError(key) if error.args == (theirs,) else error from None

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return self._ask(self.store.stat, key)

    def lookup(self, key: str) -> Stat:
        return self._ask(self.store.lookup, key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return self._ask(self.store.list, prefix)

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        return self._ask(self.store.list_marked, prefix, known)

    def get(self, key: str) -> Value:
        return self._ask(self.store.get, key)

    def get_data(self, key: str) -> BinaryIO:
        return self._ask(self.store.get_data, key)

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._ask(self.store.get_data_range, key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self._ask(self.store.get_metadata, key, select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        return self._ask(self.store.get_xattrs, key)

    def read(self, key: str, offset: int, size: int) -> bytes:
        return self._ask(self.store.read, key, offset, size)

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        return self._ask(self.store.read_version, key, offset, size)

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        self._ask(self.store.prefetch, directory, names)

    def open_local(self, key: str, flags: int) -> int:
        return self._ask(self.store.open_local, key, flags)

    def open_in_place(self, key: str) -> int:
        return self._ask(self.store.open_in_place, key)

    def usage(self) -> Usage:
        return self.store.usage()

    def sync(self, key: str | None = None) -> None:
        self.store.sync(None if key is None else self._key(key))

    def drain(self) -> None:
        self.store.drain()

    # ---------------------------------------------------------------- being told of changes

    def subscribe(self, function: Subscriber) -> None:
        """The same; it is told of what is written through the other store, this way or not."""
        with self._subscribing:
            super().subscribe(function)
            self.store.subscribe(self._told)

    def unsubscribe(self, function: Subscriber) -> None:
        with self._subscribing:
            super().unsubscribe(function)
            if not self._subscribers:
                self.store.unsubscribe(self._told)

    def watch(self, directory: str) -> bool:
        try:
            return self.store.watch(self._key(directory))
        except KeyError:
            return False

    def catch_up(self) -> None:
        self.store.catch_up()

    def unwatch(self, directory: str) -> None:
        with contextlib.suppress(KeyError):
            self.store.unwatch(self._key(directory))

    def _tell_written(self, keys: tuple[str, ...]) -> None:
        """The other store's matter, which tells us as well."""

    def _told(self, key: str | None) -> None:
        """Of what the other store was told to have changed, tell what can be seen from here."""
        prefix = self._prefix
        if key is None or (key.endswith("/") and prefix.startswith(key)):
            self._tell_changed(None)
        elif key.startswith(prefix):
            self._tell_changed(key[len(prefix) :])
        elif key + "/" == prefix:
            self._tell_changed(ROOT)

    # ---------------------------------------------------------------- writing

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        return self._ask(self.store.put, key, stat, data, metadata, xattrs, buffer_size)

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """The other store's matter, which is asked for each write."""
        return contextlib.nullcontext()

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        stream = io.BytesIO() if data is None else data
        if metadata is None:
            self._ask(self.store.set_data, key, stream, buffer_size)
            return self.get_metadata(key) if self._heard() else {}
        self.store.set(self._key(key), (stream, metadata), buffer_size)
        return metadata

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        self._ask(self.store.update_metadata, key, metadata)
        return self.get_metadata(key) if self._heard() else {}

    def _make(self, key: str, metadata: Metadata) -> None:
        self._ask(self.store.set_metadata, key, metadata)

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        return self._ask(self.store.make, key, stat, target)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        return self._ask(self.store.make_local, key, stat)

    def _delete(self, key: str) -> None:
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        self._ask(self.store.delete, key)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._ask(self.store.set_metadata, key, metadata)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        return self._ask(self.store.set_stat, key, **changes)

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        self._ask(self.store.set_xattr, key, name, value)

    def _rename(self, old: str, new: str) -> None:
        self.store.rename(self._key(old), self._key(new))

    def _exchange(self, first: str, second: str) -> None:
        self.store.exchange(self._key(first), self._key(second))

    def _link(self, old: str, new: str) -> Stat:
        return self.store.link(self._key(old), self._key(new))

    def _transaction(self) -> contextlib.AbstractContextManager[object]:
        return self.store.transaction(f"part of a transaction of {self.name}")

    def _nested_transaction(self) -> contextlib.AbstractContextManager[object]:
        return self._transaction()


def check_outside(store: Store, path: str) -> None:
    """Raise ``UsageError`` if a directory, where something of a store is to be kept, is inside that store."""
    while isinstance(store, View):
        store = store.store
    place, real = getattr(store, "path", None), os.path.realpath(path)
    if place is not None and os.path.commonpath([os.path.realpath(place), real]) == os.path.realpath(place):
        raise UsageError(f"{path} is inside {store.name}, of which something is to be kept there; put it somewhere else")


class PrefixStore(View):
    """A directory of another store, as a store of its own.

    Args:
        store: The other store; connected and disconnected with this one.
        prefix: Key of the directory, with or without the ``/`` at its end. If it is not there it is made
            when this store is connected, provided that the other one takes writes.
        event_manager: As for ``Store``. The other store's listeners hear of writes too, under its keys.
    """

    def __init__(self, store: Store, prefix: str, event_manager: Any = None) -> None:
        super().__init__(store, event_manager)
        self._prefix = directory_key(prefix)
        check_key(self._prefix)
        self.name = f"{store.name}?prefix={self._prefix.removesuffix('/')}"

    def connect(self, credentials: Any = None) -> None:
        """The same.

        Raises:
            StoreUnavailable: There is no such directory, and it cannot be made.
        """
        if self.is_connected():
            return
        super().connect(credentials)
        if self.store.exists(self._prefix):
            return
        try:
            if not self.store.capabilities.writable:
                raise StoreUnavailable(f"there is no directory {self._prefix} in {self.store.name}")
            self.store.put(self._prefix, new_stat(DEFAULT_DIRECTORY_MODE, *self.store._default_owner()))
        except BaseException:
            super().disconnect()
            raise


class ReadOnlyStore(View):
    """Another store that takes no writes this way.

    Args:
        store: The other store; connected and disconnected with this one.
        event_manager: As for ``Store``.
    """

    def __init__(self, store: Store, event_manager: Any = None) -> None:
        super().__init__(store, event_manager)
        self.name = f"{store.name}?ro"

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the other store, without writing."""
        return self.store.capabilities._replace(writable=False)

    def open_in_place(self, key: str) -> int:
        raise Unsupported(f"{self.name} takes no writes")

    def open_local(self, key: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise ReadOnly(f"{self.name} takes no writes")
        return super().open_local(key, flags)
