"""Join key-value stores into one, and mount the result as a directory.

    import joinfs

    store = joinfs.JoinedStore([joinfs.open_store("sqlite:changes.db"), joinfs.open_store("/data")])
    with store, joinfs.mount(store, "/mnt/x"):
        ...

Importing this needs neither libfuse nor any optional library, and takes no time: each name is imported when it is
first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from joinfs.version import VERSION

if TYPE_CHECKING:
    from joinfs.errors import Conflict, JoinfsError, StoreError
    from joinfs.events import (
        EventManager,
        StoreDeleteEvent,
        StoreEvent,
        StoreKeyEvent,
        StoreProgressEndEvent,
        StoreProgressEvent,
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreSetEvent,
        StoreTransactionEndEvent,
        StoreTransactionEvent,
        StoreTransactionStartEvent,
        StoreUpdateEvent,
    )
    from joinfs.joined import open_store
    from joinfs.joined.commit import commit
    from joinfs.joined.difference import Change, diff
    from joinfs.joined.discard import discard
    from joinfs.joined.image import ImageStore
    from joinfs.joined.layer_export import export
    from joinfs.joined.store import JoinedStore
    from joinfs.mounting import mount
    from joinfs.running import run
    from joinfs.stores import Capabilities, Stat, Store, Usage, Value
    from joinfs.stores.archive import ArchiveStore
    from joinfs.stores.azure import AzureStore
    from joinfs.stores.caching import CachingStore
    from joinfs.stores.directory import DirectoryStore
    from joinfs.stores.encore import EncoreStore
    from joinfs.stores.flat import FlatStore
    from joinfs.stores.gcs import GoogleStore
    from joinfs.stores.http import HTTPStore
    from joinfs.stores.mapping import MappingStore
    from joinfs.stores.memory import MemoryStore
    from joinfs.stores.object import ObjectStore
    from joinfs.stores.postgres import PostgresStore
    from joinfs.stores.redis_store import RedisStore
    from joinfs.stores.split import SplitStore
    from joinfs.stores.sqlite import SQLiteStore
    from joinfs.stores.tar import TarStore
    from joinfs.stores.views import PrefixStore, ReadOnlyStore
    from joinfs.stores.writeback import WriteBackStore
    from joinfs.stores.zip import ZipStore
    from joinfs.unmounted.mapping import as_mapping

__version__ = VERSION

# The module of each name.
_WHERE = {
    "joinfs.errors": ("Conflict", "JoinfsError", "StoreError"),
    "joinfs.events": ("EventManager", "StoreDeleteEvent", "StoreEvent", "StoreKeyEvent", "StoreProgressEndEvent", "StoreProgressEvent", "StoreProgressStartEvent", "StoreProgressStepEvent", "StoreSetEvent", "StoreTransactionEndEvent", "StoreTransactionEvent", "StoreTransactionStartEvent", "StoreUpdateEvent"),
    "joinfs.joined": ("open_store",),
    "joinfs.joined.commit": ("commit",),
    "joinfs.joined.difference": ("Change", "diff"),
    "joinfs.joined.discard": ("discard",),
    "joinfs.joined.image": ("ImageStore",),
    "joinfs.joined.layer_export": ("export",),
    "joinfs.joined.store": ("JoinedStore",),
    "joinfs.mounting": ("mount",),
    "joinfs.running": ("run",),
    "joinfs.stores": ("Capabilities", "Stat", "Store", "Usage", "Value"),
    "joinfs.stores.archive": ("ArchiveStore",),
    "joinfs.stores.azure": ("AzureStore",),
    "joinfs.stores.caching": ("CachingStore",),
    "joinfs.stores.directory": ("DirectoryStore",),
    "joinfs.stores.encore": ("EncoreStore",),
    "joinfs.stores.flat": ("FlatStore",),
    "joinfs.stores.gcs": ("GoogleStore",),
    "joinfs.stores.http": ("HTTPStore",),
    "joinfs.stores.mapping": ("MappingStore",),
    "joinfs.stores.memory": ("MemoryStore",),
    "joinfs.stores.object": ("ObjectStore",),
    "joinfs.stores.postgres": ("PostgresStore",),
    "joinfs.stores.redis_store": ("RedisStore",),
    "joinfs.stores.split": ("SplitStore",),
    "joinfs.stores.sqlite": ("SQLiteStore",),
    "joinfs.stores.tar": ("TarStore",),
    "joinfs.stores.views": ("PrefixStore", "ReadOnlyStore"),
    "joinfs.stores.writeback": ("WriteBackStore",),
    "joinfs.stores.zip": ("ZipStore",),
    "joinfs.unmounted.mapping": ("as_mapping",),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "ArchiveStore",
    "AzureStore",
    "CachingStore",
    "Capabilities",
    "Change",
    "Conflict",
    "DirectoryStore",
    "EncoreStore",
    "EventManager",
    "FlatStore",
    "GoogleStore",
    "HTTPStore",
    "ImageStore",
    "JoinedStore",
    "JoinfsError",
    "MappingStore",
    "MemoryStore",
    "ObjectStore",
    "PostgresStore",
    "PrefixStore",
    "ReadOnlyStore",
    "RedisStore",
    "SQLiteStore",
    "SplitStore",
    "Stat",
    "Store",
    "StoreDeleteEvent",
    "StoreError",
    "StoreEvent",
    "StoreKeyEvent",
    "StoreProgressEndEvent",
    "StoreProgressEvent",
    "StoreProgressStartEvent",
    "StoreProgressStepEvent",
    "StoreSetEvent",
    "StoreTransactionEndEvent",
    "StoreTransactionEvent",
    "StoreTransactionStartEvent",
    "StoreUpdateEvent",
    "TarStore",
    "Usage",
    "Value",
    "WriteBackStore",
    "ZipStore",
    "__version__",
    "as_mapping",
    "commit",
    "diff",
    "discard",
    "export",
    "mount",
    "open_store",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a name, or a module of the package, when it is first used (PEP 562)."""
    module = _MODULES.get(name)
    if module is not None:
        value = getattr(importlib.import_module(module), name)
    else:
        try:
            value = importlib.import_module(f"joinfs.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"joinfs.{name}":
                raise
            raise AttributeError(f"module 'joinfs' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
