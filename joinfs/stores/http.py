"""The files of a web server, as a store that takes no writes."""

import contextlib
import io
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

from joinfs.errors import InvalidKey, PermissionDenied, StoreUnavailable
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Store
from joinfs.stores.escape import is_piece, unescape
from joinfs.stores.http_files import WebFiles
from joinfs.stores.http_listing import Entry, Listing
from joinfs.stores.http_server import Server
from joinfs.stores.http_site import HINT, Site, parse_url
from joinfs.stores.keys import ROOT, check_key, is_directory_key, split
from joinfs.stores.metadata import copied
from joinfs.stores.value import READ_ONLY, Metadata, Stat, Value, new_stat

MOST_MEASURED = 100_000


class HTTPStore(Store):
    """The files below a URL of a web server, which must list them as JSON, or those of a manifest.

    A URL that ends in ``.json`` is a manifest's; see :mod:`joinfs.stores.http_listing` for what is in it, and for
    what listings are understood. Names are what they are on the server; odd ones are spelled as in
    :mod:`joinfs.stores.escape`. An item that would lead elsewhere (``..``) is left out, and the log says so. What
    a server does not list (nginx: what begins with a dot) is not there.

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
        timeout: Seconds after which a server that sends nothing is given up, all tries taken together.
        tries: How often a request that fails is made.

    Raises:
        UsageError: The URL is none of these.
    """

    capabilities = READ_ONLY._replace(special=False)
    freshness = 10.0
    timeout = 30.0
    tries = 3

    def __init__(self, url: str, event_manager: Any = None, read_only: bool = True) -> None:
        super().__init__(event_manager)
        self.url, self._credentials = parse_url(url)
        self.name = self.url
        self._server: Server | None = None
        self._site: Site | None = None
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
            UsageError: The library for it is not installed.
        """
        if self.is_connected():
            return
        self._implied = new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner())
        given = self._credentials if credentials is None else credentials
        self._server = Server(self.url, given, self.timeout, self.tries)
        self._site = Site(self._server, self.url, lambda: self.freshness)
        self._files = WebFiles(self._server, lambda: self.freshness)
        try:
            self._look(self._site)
        except BaseException:
            self.disconnect()
            raise

    def _look(self, site: Site) -> None:
        try:
            site.listing(ROOT)
        except KeyError:
            raise StoreUnavailable(f"there is nothing at {self.url}") from None
        except PermissionDenied as error:
            raise StoreUnavailable(f"{error}; {HINT}") from error

    def disconnect(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._site = self._files = None
        self._measured.clear()

    def is_connected(self) -> bool:
        return self._server is not None

    def _opened(self) -> tuple[Site, WebFiles]:
        if self._site is None or self._files is None:
            self._check_connected()
        return self._site, self._files  # type: ignore[return-value]

    # ---------------------------------------------------------------- attributes

    def _entry(self, key: str) -> Entry:
        """What is told of a key that is not the root's; what cannot be a key is not asked for."""
        site, _ = self._opened()
        _check(key)
        return site.entry(key)

    def _stat_of(self, key: str, entry: Entry) -> Stat:
        if is_directory_key(key):
            mode, size, mtime = DEFAULT_DIRECTORY_MODE, 0, entry.mtime
        else:
            mode, (size, mtime) = DEFAULT_FILE_MODE, self._size_and_time(key, entry)
        if entry.mode is not None:
            mode = mode & ~0o777 | entry.mode
        implied = is_directory_key(key) and entry.mode is None
        return self._at(self._root_mtime() if mtime is None else mtime)._replace(mode=mode, size=size, implied=implied)

    def _at(self, mtime: int) -> Stat:
        return self._implied._replace(atime=mtime, mtime=mtime, ctime=mtime, birth=mtime, implied=True)

    def _root_mtime(self) -> int:
        """The manifest's; else when we first looked."""
        modified = self._opened()[0].modified()
        return self._implied.mtime if modified is None else modified

    # ---------------------------------------------------------------- sizes

    def _size_and_time(self, key: str, entry: Entry) -> tuple[int, int | None]:
        """What is told, unless the server said otherwise since; it is asked for what is not told."""
        measured = self._measured.get(key)
        if measured is not None and measured.told == entry.size and time.monotonic() < measured.until:
            return measured.size, entry.mtime or measured.mtime
        if entry.size is not None:
            return entry.size, entry.mtime
        site, files = self._opened()
        with _missing(key):
            size, mtime = files.measure(site.target(key, entry))
        self._learn(key, entry, size, mtime)
        return size, entry.mtime or mtime

    def _learn(self, key: str, entry: Entry, size: int | None, mtime: int | None = None) -> None:
        """Remember how long a file was found to be, where a listing says otherwise or nothing."""
        if size is None or size == entry.size:
            return
        # What contradicts a listing is so as long as the listing says the same; what it does not say grows old.
        until = time.monotonic() + self.freshness if entry.size is None else float("inf")
        with self._lock:
            self._measured[key] = _Measured(entry.size, size, mtime, until)
            if len(self._measured) > MOST_MEASURED:
                self._measured.popitem(last=False)

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        if key == ROOT:
            return self._at(self._root_mtime())
        return self._stat_of(key, self._entry(key))

    def lookup(self, key: str) -> Stat:
        site, _ = self._opened()
        _check(key)
        above, name = split(key)
        home = site.home(above)
        is_directory = site.listing(home).children(above.removeprefix(home))[name]
        return self.stat(key + "/" if is_directory else key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        site, _ = self._opened()
        _check(prefix)
        if not is_directory_key(prefix) or site.lists_no(prefix):
            raise KeyError(prefix)
        home = site.home(prefix)
        listing, inside = site.listing(home), prefix.removeprefix(home)
        return self._list(prefix, listing, inside, dict(listing.children(inside)))

    def _list(self, prefix: str, listing: Listing, inside: str, children: dict[str, bool]) -> Iterator[tuple[str, Stat]]:
        for name, is_directory in children.items():
            tail = name + "/" if is_directory else name
            with contextlib.suppress(KeyError):  # gone, as was seen when its size was asked for
                yield name, self._stat_of(prefix + tail, listing.entry(inside + tail))

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        self._opened()
        metadata = copied(self._entry(key).metadata) if key != ROOT else {}
        return metadata if select is None else {name: metadata[name] for name in select if name in metadata}

    def get(self, key: str) -> Value:
        stat = self.stat(key)
        return _WebValue(self, key, stat, self.get_metadata(key))

    def get_data(self, key: str) -> BinaryIO:
        return self.get_data_range(key)

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        first = max(start or 0, 0)
        if key == ROOT:
            self._opened()
            return io.BytesIO()
        entry = self._entry(key)
        if is_directory_key(key) or (end is not None and end <= first):
            return io.BytesIO()
        site, files = self._opened()
        with _missing(key):
            stream, total = files.open(site.target(key, entry), first, end)
        self._learn(key, entry, total)
        return stream

    def read(self, key: str, offset: int, size: int) -> bytes:
        if is_directory_key(key):
            self.stat(key)
            return b""
        entry = self._entry(key)
        if entry.size is not None and offset >= self._size_and_time(key, entry)[0]:
            return b""
        site, files = self._opened()
        with _missing(key):
            data, total = files.read(site.target(key, entry), offset, size)
        self._learn(key, entry, total)
        return data


class _Measured(NamedTuple):
    """How long a file was found to be, of which a listing told another size, or none."""

    told: int | None
    size: int
    mtime: int | None
    until: float


class _WebValue(Value):
    """A value of which only what is wanted is asked for."""

    __slots__ = ("_key", "_store")

    def __init__(self, store: HTTPStore, key: str, stat: Stat, metadata: Metadata) -> None:
        super().__init__(lambda: store.get_data(key), metadata, 0 if stat.is_directory else stat.size, *stat.moments())
        self._store, self._key = store, key

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._store.get_data_range(self._key, start, end)


@contextlib.contextmanager
def _missing(key: str) -> Iterator[None]:
    """Around requests for a key's data: what is not there is the key."""
    try:
        yield
    except KeyError:
        raise KeyError(key) from None


def _check(key: str) -> None:
    """What is no key is not there, and no request is made for it."""
    try:
        check_key(key)
        if key != ROOT and not is_piece(key):
            unescape(key.removesuffix("/"))
    except InvalidKey as error:
        raise KeyError(key) from error
