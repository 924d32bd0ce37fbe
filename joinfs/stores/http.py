"""The files of a web server, as a store that takes no writes."""

import functools
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, TypeVar

from joinfs.errors import StoreUnavailable
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Store
from joinfs.stores.http_files import Target, WebFiles
from joinfs.stores.http_listing import HINT, Entry, Listings, missing
from joinfs.stores.http_server import Forbidden, Server, parse_url
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.metadata import copied, selected
from joinfs.stores.value import READ_ONLY, Metadata, Opened, Stat, Value, Versioned, new_stat

MOST_MEASURED = 100_000
T = TypeVar("T")


class HTTPStore(Store):
    """The files below a URL of a web server, which must list them as JSON, or those of a manifest.

    A URL that ends in ``.json`` is a manifest's; see :mod:`joinfs.stores.http_listing` for what is in it, and for
    what listings are understood. What no file can be called (``..``) is left out, and the log says so. What a
    server does not list (nginx: what begins with a dot) is not there.

    A listing is asked for once and believed for ``freshness`` seconds; its names cost no further request,
    except where it does not tell their size. Each ``read`` is one request, and of one version of the file. A
    stream stays at the version at which it was opened; if the server does not have that any more, reading
    fails, and says so.

    Args:
        url: ``http://HOST/DIRECTORY/`` or ``https:``. A user and password in it are taken out of it and used
            as credentials.
        event_manager: As for ``Store``.
        read_only: There for symmetry: the store takes no writes anyway.

    Attributes:
        freshness: Seconds for which a listing is believed (or twenty times as long as asking for it took).
        timeout: Seconds for which a server may send nothing, before a request is given up or made again.
        tries: How often a request that fails is made.

    Raises:
        UsageError: The URL is none of these.
    """

    capabilities = READ_ONLY._replace(special=False, slow=True)
    freshness = 10.0
    timeout = 10.0
    tries = 3

    def __init__(self, url: str, event_manager: Any = None, read_only: bool = True) -> None:
        super().__init__(event_manager)
        self.url, self._credentials = parse_url(url)
        self.name = self.url
        self._server: Server | None = None
        self._listings: Listings | None = None
        self._files: WebFiles | None = None
        self._lock = threading.Lock()
        self._measured: OrderedDict[str, _Measured] = OrderedDict()
        self._implied = new_stat(DEFAULT_DIRECTORY_MODE)

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same.

        Args:
            credentials: ``(user, password)``, or a token (str) to be sent as a bearer token. None: those in the
                URL, else those in ``~/.netrc``.

        Raises:
            UsageError: The library for it is not installed, or there is no making sense of the credentials.
        """
        if self.is_connected():
            return
        self._implied = new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner())
        self._server = Server(self._credentials if credentials is None else credentials, self.timeout, self.tries)
        self._listings = Listings(self._server, self.url, lambda: self.freshness)
        self._files = WebFiles(self._server, lambda: self.freshness)
        try:
            self._listings.children(ROOT)
        except BaseException as error:
            self.disconnect()
            if isinstance(error, KeyError):
                raise StoreUnavailable(f"there is nothing at {self.url}") from None
            if isinstance(error, Forbidden):
                raise Forbidden(f"{error}; {HINT}") from None
            raise

    def disconnect(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._listings = self._files = None
        self._measured.clear()

    def is_connected(self) -> bool:
        return self._server is not None

    def _opened(self, part: T | None) -> T:
        if part is None:
            self._check_connected()
        return part  # type: ignore[return-value]

    # ---------------------------------------------------------------- attributes

    def _entry(self, key: str) -> Entry:
        return self._opened(self._listings).entry(key)

    def _stat_of(self, key: str, entry: Entry) -> Stat:
        if is_directory_key(key):
            mode, size, told = DEFAULT_DIRECTORY_MODE, 0, entry.mtime
        else:
            mode, (size, told) = DEFAULT_FILE_MODE, self._size_and_time(key, entry)
        if entry.mode is not None:
            mode = mode & ~0o777 | entry.mode
        mtime = self._implied.mtime if told is None else told
        implied = is_directory_key(key) and entry.mode is None
        return self._implied._replace(mode=mode, size=size, atime=mtime, mtime=mtime, ctime=mtime, birth=mtime, implied=implied)

    def _size_and_time(self, key: str, entry: Entry) -> tuple[int, int | None]:
        """What is told, unless the server said otherwise since; it is asked for what is not told."""
        measured = self._measured.get(key)
        if measured is not None and measured.told == entry and time.monotonic() < measured.until:
            return measured.size, measured.mtime
        if entry.size is not None:
            return entry.size, entry.mtime
        size, mtime = self._opened(self._files).measure(self._target(key, entry))
        self._learn(key, entry, size, mtime)
        return size, entry.mtime or mtime

    def _learn(self, key: str, entry: Entry, size: int, mtime: int | None) -> None:
        """Remember how long a file was found to be, where a listing says otherwise or nothing."""
        if size == entry.size:
            self._measured.pop(key, None)
            return
        # A file that is longer than its listing says is read, and so measured again. One that is shorter may have
        # been seen while it was written, and nobody would read where it seems to have ended.
        longer = entry.size is not None and size > entry.size
        until = float("inf") if longer else time.monotonic() + self.freshness
        found = entry.mtime or mtime if entry.size is None else mtime or entry.mtime
        measured = _Measured(entry, size, found, until)
        with self._lock:
            self._measured[key] = measured
            if len(self._measured) > MOST_MEASURED:
                self._measured.popitem(last=False)

    def _target(self, key: str, entry: Entry) -> Target:
        return Target(self._opened(self._listings).url(key), entry.size)

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        entry = self._entry(key)
        with missing(key):
            return self._stat_of(key, entry)

    def lookup(self, key: str) -> Stat:
        if key == ROOT:
            return self.stat(ROOT)
        above, name = split(key)
        with missing(key):
            is_directory = self._opened(self._listings).children(above)[name]
        return self.stat(key + "/" if is_directory else key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return self._list(prefix, self._opened(self._listings).children(prefix))

    def _list(self, prefix: str, children: dict[str, bool]) -> Iterator[tuple[str, Stat]]:
        for name, is_directory in children.items():
            try:
                yield name, self.stat(f"{prefix}{name}/" if is_directory else prefix + name)
            except KeyError:
                continue  # gone meanwhile

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return selected(copied(self._entry(key).metadata), select)

    def get(self, key: str) -> Value:
        return _WebValue(self, key, self._entry(key))

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._open(key, start, end).stream

    def read(self, key: str, offset: int, size: int) -> bytes:
        entry = self._entry(key)
        if is_directory_key(key) or (entry.size is not None and offset >= self._size_and_time(key, entry)[0]):
            return b""
        with missing(key):
            data, version = self._opened(self._files).read(self._target(key, entry), offset, size)
        self._learn(key, entry, version.total, version.mtime)
        return data

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The same. The version is what the file's own answer says, by its ETag or date, not what its listing does."""
        entry = self._entry(key)
        if is_directory_key(key):
            raise KeyError(key)
        files, target = self._opened(self._files), self._target(key, entry)
        with missing(key):
            data, version = files.read(target, offset, size) if size else (b"", files.version(target))
        self._learn(key, entry, version.total, version.mtime)
        return Versioned(data, version.name, version.total, copied(entry.metadata), *self._stat_of(key, entry).moments())

    def _open(self, key: str, start: int | None = None, end: int | None = None) -> Opened:
        """A stream, and what is told of the version that it is of."""
        entry = self._entry(key)
        if is_directory_key(key):
            return Opened(io.BytesIO(), copied(entry.metadata), 0, *self._stat_of(key, entry).moments())
        first = max(start or 0, 0)
        with missing(key):
            stream, version = self._opened(self._files).open(self._target(key, entry), first, end)
        self._learn(key, entry, version.total, version.mtime)
        return Opened(stream, copied(entry.metadata), version.total, *self._stat_of(key, entry).moments())


class _Measured(NamedTuple):
    """What a file was found to be, and of what a listing told of it."""

    told: Entry
    size: int
    mtime: int | None
    until: float


class _WebValue(Value):
    """A value of which only what is wanted is asked for."""

    __slots__ = ("_open_range",)

    def __init__(self, store: HTTPStore, key: str, entry: Entry) -> None:
        stat = store._stat_of(key, entry)
        self._open_range = functools.partial(store._open, key)
        super().__init__(self._open_range, copied(entry.metadata), stat.size, *stat.moments())

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._opened(self._open_range(start, end))
