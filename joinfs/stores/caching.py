"""Another store, of which what was read is kept on local disk."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from joinfs.errors import AccessDenied, StoreUnavailable, Unsupported, UsageError
from joinfs.stores.base import Store
from joinfs.stores.caching_ahead import Ahead
from joinfs.stores.caching_attributes import CachedAttributes
from joinfs.stores.caching_blocks import Blocks
from joinfs.stores.caching_disk import CacheDirectory
from joinfs.stores.caching_facts import Facts
from joinfs.stores.caching_streams import CachedValue
from joinfs.stores.keys import is_directory_key
from joinfs.stores.reading import Reading
from joinfs.stores.value import Capabilities, Stat, Usage, Value, Versioned
from joinfs.stores.views import check_outside

DEFAULT_SIZE = 10 << 30
# Suits web servers and buckets, of which others' changes are rare.
DEFAULT_TTL = 5.0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class CachingStore(CachedAttributes):
    """Another store, of which data, attributes, metadata and listings are kept on local disk, also for the next time.

    What the store said is believed for ``ttl`` seconds; others' changes are seen then. After that it is asked again, and of data only
    whether it is the same version, as ``read_version`` has it: data is kept by version, with a checksum, and never mixed of two. What is written
    through this object goes to the store, and is forgotten here. Where a store cannot tell versions its data is not kept. While
    the store is unavailable all that was kept is answered, however old, and what was not raises what the store does.

    In a transaction of its thread everything is asked of the store. A stream of a value of at most 8 MiB goes on answering it as it
    was; a larger one fails if it was replaced and not kept.

    Args:
        store: The other store; connected and disconnected with this one. Its capabilities are ours, but that nothing is a local file.
        path: A directory of our own, made if it is not there; several stores and processes may share one.
        size: Bytes that all that is in the directory may take.
        ttl: Seconds for which what the store said is believed.
        event_manager: As for ``Store``.

    Attributes:
        path_of_cache: The directory.
        ttl: As given.
    """

    def __init__(
        self, store: Store, path: str | os.PathLike[str], size: int = DEFAULT_SIZE, ttl: float = DEFAULT_TTL, event_manager: Any = None
    ) -> None:
        super().__init__(store, ttl, event_manager)
        self.path_of_cache = os.path.abspath(path)
        self.name = f"{store.name}?cache={os.fspath(path)}"
        self._disk = CacheDirectory(self.path_of_cache, size)
        self._only_here = uuid.uuid4().hex
        self._open_blocks: Blocks | None = None
        self._ahead: Ahead | None = None

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the other store, but that there are no local files."""
        return self.store.capabilities._replace(local=False)

    @property
    def identity(self) -> str:
        return self.store.identity

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same. If the store is unavailable, and was connected with this cache before, it is connected again when it can be.

        Raises:
            UsageError: The directory is another user's, others may write to it, or it is inside the store.
        """
        if self.is_connected():
            return
        check_outside(self.store, self.path_of_cache)
        self._disk.open()
        try:
            identity = self.store.identity or self._only_here
            facts = Facts(self._disk, identity, lambda: self.ttl)
            self._origin.connect(credentials, may_be_gone=facts.is_old)
        except BaseException:
            self._disk.close()
            raise
        facts.begin()
        blocks = Blocks(self.store, self._origin, facts, self._disk, identity)
        self._ahead = Ahead(blocks) if self.capabilities.thread_safe else None
        self._open_blocks, self._open_facts = blocks, facts
        self.store.subscribe(facts.forget)

    def disconnect(self) -> None:
        facts, blocks = self._open_facts, self._open_blocks
        self._open_facts = self._open_blocks = self._ahead = None
        if facts is not None and blocks is not None:
            self.store.unsubscribe(facts.forget)
            blocks.close()
            self._disk.close()
        self._origin.disconnect()

    def is_connected(self) -> bool:
        return self._open_facts is not None

    def info(self) -> dict[str, Any]:
        """The same, and ``cache``: how many blocks of data were there when they were wanted (``hits``), and were not (``misses``)."""
        blocks = self._open_blocks
        known = {} if blocks is None else {"hits": blocks.hits, "misses": blocks.misses}
        return {**super().info(), "cache": known}

    @property
    def _blocks(self) -> Blocks:
        self._check_connected()
        assert self._open_blocks is not None
        return self._open_blocks

    # ---------------------------------------------------------------- data

    def usage(self) -> Usage:
        """The same; while the store is unavailable, no bounds."""
        self._check_connected()
        try:
            return self._origin.ask(self.store.usage)
        except AccessDenied:
            raise
        except StoreUnavailable:
            return Usage()

    def get(self, key: str) -> Value:
        blocks = self._blocks
        if self._is_bypassed() or is_directory_key(key):
            return self._origin.ask(self.store.get, key) if not is_directory_key(key) else self._directory(key)
        file = blocks.file(key)
        return self._origin.ask(self.store.get, key) if file.version is None else CachedValue(blocks, key, file)

    def _directory(self, key: str) -> Value:
        return CachedValue.of_directory(self.stat(key), self.get_metadata(key))

    def get_data(self, key: str) -> BinaryIO:
        return Reading.get_data(self, key)

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        return Reading.get_data_range(self, key, start, end)

    def read(self, key: str, offset: int, size: int) -> bytes:
        blocks = self._blocks
        if self._is_bypassed() or is_directory_key(key):
            return self.store.read(key, offset, size)
        if not blocks.is_believed(key) and not self._origin.is_resting():
            with contextlib.suppress(StoreUnavailable):
                self._list_anew(key)
        data = blocks.read(key, offset, size)
        if self._ahead is not None and len(data) == size and (fact := self._facts.get("file", key)) is not None and fact.what.version:
            self._ahead.read(key, fact.what, offset, size)
        return data

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The other store's matter: who asks for it keeps things as well."""
        self._check_connected()
        return self._origin.ask(self.store.read_version, key, offset, size)

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        self._check_connected()
        if self._ahead is None or self._is_bypassed():
            return
        stats = [(directory + name, self._seen(directory + name)) for name in names]
        self._ahead.prefetch([(key, fact.what.size) for key, fact in stats if fact is not None and fact.what is not None and fact.what.is_file])

    def open_local(self, key: str, flags: int) -> int:
        return Reading.open_local(self, key, flags)

    def open_in_place(self, key: str) -> int:
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        return Store._make_local(self, key, stat)

    def check(self) -> Iterator[str]:
        """The same, of the other store."""
        self._check_connected()
        return self.store.check()

    # ---------------------------------------------------------------- writing

    def put_sent(self, key: str, stat: Stat, data: BinaryIO | None, metadata: Mapping[str, Any], xattrs: Mapping[str, bytes]) -> Stat:
        self._check_writable(key)
        with self._changing(key):
            return self._ask(self.store.put_sent, key, stat, data, metadata, xattrs)

    def delete_sent(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._check_writable(key)
        with self._changing(*keys):
            self.store.delete_sent(keys)

    def _check_writable(self, key: str) -> None:
        super()._check_writable(key)
        self._origin.reconnect()


def size_of(text: str) -> int:
    """Answer the bytes that ``500M``, ``10G`` or ``1T`` are.

    Raises:
        UsageError: It is no such size.
    """
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "")
    if not (number.isascii() and number.isdigit() and len(number) < 16 and int(number)):
        raise UsageError(f"cache_size={text} is no size: write 500M, 10G or 1T")
    return int(number) * _UNITS[unit]


def seconds_of(text: str) -> float:
    """Answer the seconds that a text says.

    Raises:
        UsageError: It says none.
    """
    if not (text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 16):
        raise UsageError(f"cache_ttl={text} is no number of seconds")
    return float(text)
