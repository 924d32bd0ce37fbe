"""Two stores as one: names, attributes, metadata and small values in one, the data of large values in another.

Each store does what it is good at: one (a database) finds and changes things quickly and together, the other (a bucket) takes any amount of data.

Large data is an object of the second store, ``objects/XX/ID``, with a random name, which never changes. Its value in the first store
has no data, the size in place of a device number, and two fields of metadata, which are not shown: the object's name and its size. A
value is written by putting the object first and then changing the first store, in which all is one step; so it is in the
first store alone that anything is true. Objects that no value needs any more are removed by ``split_sweep``.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO
from urllib.parse import unquote

from joinfs.errors import CorruptStore, Unsupported, UsageError
from joinfs.stores.base import Store
from joinfs.stores.metadata import check_free, selected, without
from joinfs.stores.reading import Reading
from joinfs.stores.split_sweep import OBJECT, Objects
from joinfs.stores.value import MEBIBYTE, Capabilities, Chain, Marked, Metadata, Opened, Stat, Usage, Value, Versioned, exactly
from joinfs.stores.views import View

# Bytes from which on data goes to the second store.
LARGE = 256 << 10
SIZE = "split.size"
_HIDDEN = (OBJECT, SIZE)
_PART = "part of a write of a split store"
# How often a value is looked at again whose object has gone, because it was replaced long ago.
MOST_LOOKS = 3


class SplitStore(View):
    """Names, attributes, metadata and small values in one store, the data of large values in another.

    It takes what the first store takes. If that is shared by several machines, so is this, provided that all use the same second store. While the
    first store is gone nothing can be had. While the second is gone all but the data of large values can be had and changed.

    A stream of a large value goes on answering it as it was, for an hour at least.

    Args:
        store: The first store, which carries metadata on regular files; connected and disconnected with this one.
        data: The second, of which everything belongs to this one; the same.
        large: Bytes from which on data goes to the second.
        event_manager: As for ``Store``.

    Attributes:
        data: The second store.
    """

    def __init__(self, store: Store, data: Store, large: int = LARGE, event_manager: Any = None) -> None:
        super().__init__(store, event_manager)
        self.data = data
        self.name = f"split:{store.name},{data.name}"
        self._large = large
        self._objects = Objects(store, data)

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override]
        """Those of the first store, but that there are no local files, as far as the second has them, too."""
        can, data = self.store.capabilities, self.data.capabilities
        return can._replace(
            local=False,
            writable=can.writable and data.writable,
            persistent=can.persistent and data.persistent,
            thread_safe=can.thread_safe and data.thread_safe,
            slow=can.slow or data.slow,
        )

    @property
    def identity(self) -> str:
        return f"{self.store.identity} {self.data.identity}" if self.store.identity and self.data.identity else ""

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same.

        Raises:
            UsageError: The first store has no metadata on regular files, or no transactions, or gives out local files.
        """
        if self.is_connected():
            return
        self.store.connect(credentials)
        try:
            can = self.store.capabilities
            if not (can.metadata and can.attributes and (can.transactions or not can.writable)) or can.local:
                raise UsageError(f"{self.store.name} cannot be the first store of a split: use sqlite:, postgres: or memory:")
            self.data.connect()
        except BaseException:
            self.store.disconnect()
            raise
        self._objects.begin(writable=self.capabilities.writable)

    def disconnect(self) -> None:
        self._objects.end()
        self.store.disconnect()
        self.data.disconnect()

    def is_connected(self) -> bool:
        return self.store.is_connected() and self.data.is_connected()

    # ---------------------------------------------------------------- attributes

    def stat(self, key: str) -> Stat:
        return _shown(super().stat(key))

    def lookup(self, key: str) -> Stat:
        return _shown(super().lookup(key))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return ((name, _shown(stat)) for name, stat in super().list(prefix))

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        marked = super().list_marked(prefix, known)
        return ((name, told._replace(stat=_shown(told.stat))) for name, told in marked)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        names = None if select is None else [name for name in select if name not in _HIDDEN]
        return _without_object(super().get_metadata(key, names))

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        """The same, of the first store."""
        names = None if select is None else [*select]
        wanted = {name: value for name, value in kwargs.items() if name not in _HIDDEN}
        found = self.store.query(names, **wanted) if wanted == kwargs else iter(())
        return ((key, selected(_without_object(metadata), names)) for key, metadata in found)

    def usage(self) -> Usage:
        """The same, of the second store."""
        return self.data.usage()

    def sync(self, key: str | None = None) -> None:
        self.data.sync()
        super().sync(key)

    def drain(self) -> None:
        self.data.drain()
        super().drain()

    def check(self) -> Iterator[str]:
        """The same, of both stores and of what one has of the other."""
        yield from self.store.check()
        yield from self.data.check()
        yield from super().check()

    # ---------------------------------------------------------------- data

    def get(self, key: str) -> Value:
        value = super().get(key)
        place = _object_in(value.metadata)
        value.metadata = _without_object(value.metadata)
        if place is None:
            value.show(_without_object)
            return value
        return Value(lambda: self._opened(key, value, place), value.metadata, place[1], value.created, value.modified)

    def _opened(self, key: str, value: Value, place: tuple[str, int]) -> BinaryIO | Opened:
        """A stream of large data; of what has replaced it, if it has gone."""
        for _ in range(MOST_LOOKS):
            try:
                return Opened(self._objects.get(place[0]), dict(value.metadata), place[1], value.created, value.modified)
            except KeyError:
                value = super().get(key)
                other = _object_in(value.metadata)
                value.metadata = _without_object(value.metadata)
                if other is None:
                    return Opened(value.data, value.metadata, value.size, value.created, value.modified)
                if other == place:
                    break
                place = other
        raise CorruptStore(f"the data of {key!r} is not in {self.data.name}")

    def get_data(self, key: str) -> BinaryIO:
        return Reading.get_data(self, key)

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        return Reading.get_data_range(self, key, start, end)

    def read(self, key: str, offset: int, size: int) -> bytes:
        """The same; a request to the first store, and for large data one to the second."""
        for _ in range(MOST_LOOKS):
            value = super().get(key)
            place = _object_in(value.metadata)
            if place is None:
                with value.range(offset, offset + size) as stream:
                    return stream.read(size)
            with contextlib.suppress(KeyError):
                return self._objects.read(place[0], offset, min(size, max(place[1] - offset, 0)))
        raise CorruptStore(f"the data of {key!r} is not in {self.data.name}")

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The same; large data has the name of its object for a version."""
        told = super().read_version(key, offset, size)
        place = _object_in(told.metadata)
        if place is None:
            return told
        data = self._objects.read(place[0], offset, min(size, max(place[1] - offset, 0)))
        return told._replace(data=data, version=place[0], size=place[1], metadata=_without_object(told.metadata))

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        """Nothing: who reads small values has them from the first store at once."""

    def open_local(self, key: str, flags: int) -> int:
        raise Unsupported(f"{self.name} keeps nothing in local files")

    def open_in_place(self, key: str) -> int:
        raise Unsupported(f"{self.name} keeps nothing in local files")

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        """The same: large data goes to the second store."""
        if data is None or not stat.is_file:
            yield data
            return
        first = exactly(data, self._large, buffer_size)
        yield io.BytesIO(first) if len(first) < self._large else self._sent(first, data, buffer_size)

    def _sent(self, first: bytes, data: BinaryIO, buffer_size: int) -> "_Sent":
        return _Sent(*self._objects.put(io.BufferedReader(Chain(io.BytesIO(first), data), MEBIBYTE), buffer_size))

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
        self._note(key)
        stat = stat._replace(rdev=0) if stat.is_file else stat
        if isinstance(data, _Sent):
            stat, metadata, data = stat._replace(rdev=data.size), {**metadata, OBJECT: data.name, SIZE: data.size}, None
        return _shown(super()._put(key, stat, data, metadata, xattrs, buffer_size))

    def _note(self, key: str) -> None:
        """The value at a key, if there is one, is about to go: its object is perhaps not needed any more then."""
        place = self._object_at(key)
        if place is not None:
            self._objects.note(place[0])

    def _object_at(self, key: str) -> tuple[str, int] | None:
        try:
            stat = super().stat(key)
            return _object_in(super().get_metadata(key)) if stat.is_file and stat.rdev else None
        except KeyError:
            return None

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        with self.store.transaction(_PART):
            return Store._set(self, key, data, metadata, buffer_size)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        _check_free(metadata)
        with self.store.transaction(_PART):  # nobody puts another object there in between
            place = self._object_at(key)
            super()._set_metadata(key, metadata if place is None else {**metadata, OBJECT: place[0], SIZE: place[1]})

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        _check_free(metadata)
        return super()._update_metadata(key, metadata)

    def _make(self, key: str, metadata: Metadata) -> None:
        _check_free(metadata)
        super()._make(key, metadata)

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        return super()._make_new(key, stat._replace(rdev=0) if stat.is_file else stat, target)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        raise Unsupported(f"{self.name} keeps nothing in local files")

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        return _shown(super()._set_stat(key, changes))

    def _delete(self, key: str) -> None:
        self._note(key)
        super()._delete(key)

    def _rename(self, old: str, new: str) -> None:
        if old != new:
            self._note(new)
        super()._rename(old, new)

    def _link(self, old: str, new: str) -> Stat:
        return _shown(super()._link(old, new))


class _Sent(io.BytesIO):
    """Data that is in the second store already.

    Attributes:
        name: Of its object.
        size: Its bytes.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__()
        self.name, self.size = name, size


def _shown(stat: Stat) -> Stat:
    """Attributes of the first store as they are told."""
    return stat._replace(size=stat.rdev, rdev=0) if stat.is_file and stat.rdev else stat


def _object_in(metadata: Metadata) -> tuple[str, int] | None:
    """The name and size of the object that has the data of what has this metadata.

    Raises:
        CorruptStore: It is none that a split store has made.
    """
    if OBJECT not in metadata:
        return None
    name, size = metadata[OBJECT], metadata.get(SIZE)
    if not isinstance(name, str) or not name.isalnum() or not isinstance(size, int) or size < 0:
        raise CorruptStore(f"{name!r} is no object of a split store")
    return name, size


def _without_object(metadata: Metadata) -> Metadata:
    return without(metadata, _HIDDEN)


def _check_free(metadata: Metadata) -> None:
    check_free(metadata, _HIDDEN, "the split store's")


def open_split(path: str, read_only: bool) -> SplitStore:
    """Answer the store for what follows ``split:`` in a URL, ``FIRST,SECOND``: two stores' URLs, percent-encoded; not connected.

    Raises:
        UsageError: There are not two.
    """
    from joinfs.stores import open_store  # noqa: PLC0415 - which opens this one

    first, comma, second = path.partition(",")
    if not comma or not first or not second:
        raise UsageError("'split:' is followed by two stores with a ',' between them: split:sqlite:names.db,s3://BUCKET/PREFIX")
    names, data = (open_store(unquote(url), read_only=read_only, connect=False) for url in (first, second))
    return SplitStore(names, data)


