"""Which store a file system reads and writes, and when that is connected."""

import itertools
import os
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from joinfs.errors import UsageError
from joinfs.joined import open_store
from joinfs.joined.store import JoinedStore
from joinfs.stores import Store
from joinfs.stores.adapt import as_store

# Joins of URLs that are in use, by what they are joined of: fsspec makes a file system for each thread, and each would
# otherwise open the same databases again, and have a memory of its own.
_joins: "weakref.WeakValueDictionary[tuple[Any, ...], Join]" = weakref.WeakValueDictionary()
_joining = threading.Lock()
# A number for each store that no other one has or had: ``id`` gives numbers again.
_numbers: "weakref.WeakKeyDictionary[Store, int]" = weakref.WeakKeyDictionary()
_numbering = threading.Lock()
_count = itertools.count(1)


class Join:
    """A store that is connected when it is first asked for.

    What others have connected stays connected. What this has connected is disconnected when nobody has this object any
    more, at the end of the process at the latest.

    Args:
        store: The store.
        by_url: As the attribute.

    Attributes:
        by_url: Whether it was opened by URLs alone.
        number: The store's; no other store of this process has or had it.
    """

    def __init__(self, store: Store, by_url: bool) -> None:
        self._store = store
        self.by_url = by_url
        with _numbering:
            self.number = _numbers.setdefault(store, next(_count))
        self._layers = store.layers if isinstance(store, JoinedStore) else (store,)
        self._connecting = threading.Lock()
        self._connected: list[Store] = []
        weakref.finalize(self, _disconnect, self._connected)

    @property
    def store(self) -> Store:
        """The store, connected; once more in a process that has been forked, where that is needed.

        Raises:
            StoreUnavailable, CorruptStore: As ``Store.connect``.
        """
        if not self._store.is_connected():
            self._connect()
        return self._store

    def _connect(self) -> None:
        with self._connecting:
            if self._store.is_connected():  # by another thread, meanwhile
                return
            ours = [layer for layer in self._layers if not layer.is_connected()]
            self._store.connect()
            self._connected.extend(layer for layer in ours if layer not in self._connected)

    def is_portable(self) -> bool:
        """Whether another process can open the same."""
        return self.by_url and all(layer.capabilities.persistent for layer in self._layers)


def _disconnect(stores: Iterable[Store]) -> None:
    for store in stores:
        store.disconnect()


def is_url(thing: Any) -> bool:
    """Whether something is for ``open_store``; otherwise it is a store, or stands for one."""
    return isinstance(thing, str | os.PathLike)


def join_of(store: Any, stores: Any, options: dict[str, Any]) -> Join:
    """Answer what ``store``, or the join of ``stores``, is.

    Args:
        store: A store or what stands for one, or None.
        stores: URLs, paths, stores, and what stands for one; or one of them; or None.
        options: Those of ``JoinedStore``, for ``stores``.

    Raises:
        UsageError: None or both are given, or something that is no store.
    """
    if (store is None) == (stores is None):
        raise UsageError("say what is joined: stores=['sqlite:changes.db', '/data'], or store=STORE; and not both")
    if store is not None:
        return Join(as_store(store), by_url=False)
    given = list(stores) if isinstance(stores, list | tuple) else [stores]
    if not all(is_url(thing) for thing in given):
        return Join(_joined(given, options), by_url=False)
    key = (*map(os.fspath, given), *sorted(options.items()))
    with _joining:
        join = _joins.get(key)
        if join is None:
            join = _joins[key] = Join(_joined(given, options), by_url=True)
    return join


def _joined(given: list[Any], options: dict[str, Any]) -> JoinedStore:
    return JoinedStore([open_store(thing, connect=False) if is_url(thing) else thing for thing in given], **options)
