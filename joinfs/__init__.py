"""Join key-value stores into one, and mount the result as a directory.

    import joinfs

    store = joinfs.JoinedStore([joinfs.open_store("sqlite:changes.db"), joinfs.open_store("/data")])
    with store, joinfs.mount(store, "/mnt/x"):
        ...

Importing this needs neither libfuse nor any optional library.
"""

from joinfs.errors import JoinfsError, StoreError
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
from joinfs.joined.image import ImageStore
from joinfs.joined.store import JoinedStore
from joinfs.mount import mount
from joinfs.stores import Capabilities, Stat, Store, Usage, Value, open_store
from joinfs.stores.archive import ArchiveStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.encore import EncoreStore
from joinfs.stores.flat import FlatStore
from joinfs.stores.http import HTTPStore
from joinfs.stores.mapping import MappingStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.tar import TarStore
from joinfs.stores.views import PrefixStore, ReadOnlyStore
from joinfs.stores.zip import ZipStore

__version__ = "0.1.0"

__all__ = [
    "ArchiveStore",
    "Capabilities",
    "DirectoryStore",
    "EncoreStore",
    "EventManager",
    "FlatStore",
    "HTTPStore",
    "ImageStore",
    "JoinedStore",
    "JoinfsError",
    "MappingStore",
    "MemoryStore",
    "PrefixStore",
    "ReadOnlyStore",
    "SQLiteStore",
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
    "ZipStore",
    "__version__",
    "mount",
    "open_store",
]
