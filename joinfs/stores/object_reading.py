"""The reading half of ``ObjectStore``: what stands at a key, and its connection."""

import contextlib
import io
import itertools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple, TypeVar

from joinfs.errors import AccessDenied, InvalidKey, UsageError
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Store
from joinfs.stores.escape import MARK, is_piece
from joinfs.stores.keys import ROOT, is_directory_key
from joinfs.stores.metadata import selected
from joinfs.stores.object_attributes import Attributes, attributes_of
from joinfs.stores.object_bucket import Bucket, Changed, Found, Listed
from joinfs.stores.object_known import Known, is_as_listed
from joinfs.stores.object_listing import HADOOP, ROOT_MARKER, Child, children, mark_of, version_of
from joinfs.stores.object_markers import TYPES, Markers
from joinfs.stores.object_names import is_beside, level_of, name_of
from joinfs.stores.object_probe import Conditions, probe
from joinfs.stores.object_s3 import S3Bucket
from joinfs.stores.object_streams import BLOCK, Pinned
from joinfs.stores.value import MEBIBYTE, Marked, Metadata, Opened, Stat, Value, Versioned, new_stat

log = logging.getLogger(__name__)
T = TypeVar("T")

# Requests at a time, and how many entries of a listing are asked for ahead of who reads it.
THREADS = 100
AHEAD = 256
# So many objects are asked for ahead of who walks: others' requests are behind them.
AHEAD_OF_WALKS = 1000
# What is read at a time of much.
PIECE = 4 * MEBIBYTE
_MOST_SECONDS = 1e9


class _Sent(threading.local):
    """Whether the thread does what was done elsewhere before, and the attributes of what it puts."""

    active = False
    stat: Stat | None = None


class There(NamedTuple):
    """What stands at a key: the object, which a directory need not have, and what is said of it."""

    name: str
    found: Found | None


class ReadingObjects(Store):
    """The reading half of ``ObjectStore``, which says what it is."""

    scheme = "s3"
    freshness = 10.0
    timeout = 10.0
    tries = 3

    def __init__(self, url: str, event_manager: Any = None, read_only: bool = False, endpoint: str = "", freshness: str = "") -> None:
        super().__init__(event_manager)
        self._bucket_name, self._base = parse_url(url, self.scheme)
        self._endpoint = _checked_endpoint(endpoint)
        self.freshness = _seconds(freshness) if freshness else self.freshness
        self.name = f"{self.scheme}://{self._bucket_name}/{self._base}"
        if read_only:
            self.capabilities = self.capabilities._replace(writable=False)
        self.conditions = Conditions()
        self._open_bucket: Bucket | None = None
        self._open_known: Known | None = None
        self._open_markers: Markers | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._asks_for_most = True
        self._touched: dict[str, int] = {}
        self._sent = _Sent()
        self._implied = new_stat(DEFAULT_DIRECTORY_MODE)
        self._connecting = threading.Lock()

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same.

        Args:
            credentials: ``(access key, secret key)``, or with a session token as a third. None: those of the environment,
                of a profile, or of the instance's role, as boto3 finds them.

        Raises:
            UsageError: The library for it is not installed, or there is no making sense of the credentials.
            AccessDenied: There are no credentials, or the bucket is not for them.
        """
        with self._connecting:
            if self.is_connected():
                return
            bucket = self._made_bucket(credentials)
            try:
                bucket.first(self._base, 1)
                self._probe(bucket)
            except BaseException:
                bucket.close()
                raise
            self._implied = new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner())
            self._open_known = Known(bucket, lambda: self.freshness)
            self._open_markers = Markers(bucket)
            self._pool = ThreadPoolExecutor(THREADS, "joinfs-object")
            self._open_bucket = bucket

    def _made_bucket(self, credentials: Any) -> Bucket:
        return S3Bucket(self._bucket_name, self._endpoint, credentials, self.timeout, self.tries)

    def _probe(self, bucket: Bucket) -> None:
        if not self.capabilities.writable:
            return
        try:
            self.conditions = probe(bucket, self._base)
        except AccessDenied as error:
            log.warning("%s takes no writes from us: %s", self.name, error)
            return
        if missing := self.conditions.missing():
            log.warning("%s: the server ignores conditions, so nobody is told that another was first: of %s, the last wins", self.name, missing)

    def disconnect(self) -> None:
        with self._connecting:
            bucket, pool = self._open_bucket, self._pool
            self._open_bucket = self._open_known = self._open_markers = self._pool = None
            if pool is not None:
                pool.shutdown(cancel_futures=True)
            if bucket is not None:
                bucket.close()

    def is_connected(self) -> bool:
        return self._open_bucket is not None

    def info(self) -> dict[str, Any]:
        """The same, and ``conditions``: which of them the server honours."""
        return {**super().info(), "conditions": self.conditions._asdict()}

    @property
    def identity(self) -> str:
        """The same; one bucket's name may be that of others on other servers, and in other profiles."""
        places = [self._endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")]
        return " ".join([self.name, *places, os.environ.get("AWS_PROFILE", "")])

    @property
    def _bucket(self) -> Bucket:
        return self._opened(self._open_bucket)

    @property
    def _known(self) -> Known:
        return self._opened(self._open_known)

    @property
    def _markers(self) -> Markers:
        return self._opened(self._open_markers)

    def _opened(self, part: T | None) -> T:
        if part is None:
            self._check_connected()
        return part  # type: ignore[return-value]

    def _meanwhile(self, function: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Have a function called in another thread."""
        return self._opened(self._pool).submit(function, *arguments)

    # ---------------------------------------------------------------- finding

    def _name(self, key: str) -> str:
        """The name of a value's object, or of a directory's marker; errors as for ``name_of``."""
        if key == ROOT:
            return self._base or ROOT_MARKER
        own = name_of(key.removesuffix("/"))
        name = self._base + own
        if not is_directory_key(key):
            if not own:
                raise InvalidKey(f"{key!r}: no object is called so")
            return name
        if is_beside(key.removesuffix("/")):
            raise InvalidKey(f"{key!r}: a value is spelled so, beside the directory of its name")
        return name + "/"

    def _find(self, key: str) -> There:
        """What stands at a key; KeyError if nothing does, or something of the other kind."""
        self._check_connected()
        try:
            there = self._find_directory(key) if is_directory_key(key) else self._find_value(key)
        except InvalidKey:
            there = None
        if there is None:
            raise KeyError(key)
        return there

    def _find_value(self, key: str) -> There | None:
        name = self._name(key)
        found = self._known.find(name)
        if found is None or (is_directory(found) and not is_beside(key)):
            return None
        return There(name, found)

    def _find_directory(self, key: str) -> There | None:
        try:
            name = self._name(key)
        except InvalidKey:
            return self._find_pieces(key)
        found = self._known.find(name)
        if found is not None or key == ROOT or self._known.has_below(name):
            return There(name, found)
        return self._find_other_marker(name.removesuffix("/"))

    def _find_pieces(self, key: str) -> There | None:
        """A directory that is only the beginning of names that are too long for one component."""
        is_there = level_of(key).pieces and any(True for _ in self._children(key))
        return There(key, None) if is_there else None

    def _find_other_marker(self, name: str) -> There | None:
        """A directory's marker in another spelling."""
        found = self._known.find(name)
        if found is not None:
            return There(name, found) if is_directory(found) else None
        found = self._known.find(name + HADOOP)
        return None if found is None else There(name + HADOOP, found)

    def _attributes(self, key: str, there: There) -> Attributes:
        """What stands there, as its object says, or as nobody says."""
        found = there.found
        if found is None:
            return Attributes(self._touched_stat(key, self._implied._replace(implied=True)), {}, {})
        kind, size = (DEFAULT_DIRECTORY_MODE, 0) if is_directory_key(key) else (DEFAULT_FILE_MODE, found.size)
        moment = found.modified
        # A marker that others made says that the directory is there, and no more.
        implied = is_directory_key(key) and not found.headers
        otherwise = self._implied._replace(mode=kind, size=size, atime=moment, mtime=moment, ctime=moment, birth=moment, implied=implied)
        attributes = attributes_of(found.headers, otherwise)
        if attributes.stat.is_directory != otherwise.is_directory:  # others may say anything
            attributes = attributes._replace(stat=attributes.stat._replace(mode=kind))
        return attributes._replace(stat=self._touched_stat(key, attributes.stat))

    def _touched_stat(self, key: str, stat: Stat) -> Stat:
        """A directory's times follow what is done in it, and are not written for that."""
        touched = self._touched.get(key, 0)
        return stat._replace(mtime=touched, ctime=touched) if touched > stat.mtime else stat

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return self._attributes(key, self._find(key)).stat

    def lookup(self, key: str) -> Stat:
        """The same, with three requests at a time."""
        if key == ROOT:
            return self.stat(ROOT)
        self._check_connected()
        asked: list[Future[Found | None]] = []
        with contextlib.suppress(InvalidKey):
            name = self._name(key)
            self._known.look(name)
            if not self._known.knows(name):
                asked = [self._meanwhile(self._known.find, other) for other in (name, name + HADOOP)]
        is_above = self._is_above_something(key)
        for one in asked:
            one.result()
        stat = self._or_none(key + "/") if is_above else self._or_none(key) or self._otherwise_marked(key)
        if stat is None:
            raise KeyError(key)
        return stat

    def _is_above_something(self, key: str) -> bool:
        """Whether there may be a directory: something begins with its name, be it but its marker."""
        try:
            return self._known.has_below(self._name(key + "/"))
        except InvalidKey:
            return is_piece(key)

    def _otherwise_marked(self, key: str) -> Stat | None:
        """A directory that has but a marker in another spelling."""
        try:
            there = self._find_other_marker(self._name(key))
        except InvalidKey:
            return None
        return None if there is None else self._attributes(key + "/", there).stat

    def _or_none(self, key: str) -> Stat | None:
        try:
            return self.stat(key)
        except KeyError:
            return None

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """The same. What a listing does not tell, mode and owner, each object is asked for, many at a time, if it changed since."""
        return ((name, marked.stat) for name, marked in self.list_marked(prefix, _unknown))

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        """The same. Of an object a listing tells ETag, size and date, by which it is seen whether it changed."""
        self._check_connected()
        if not is_directory_key(prefix):
            raise KeyError(prefix)
        moment, found = self._known.moment(), self._children(prefix)
        first = next(found, None)
        if first is None:
            self._find(prefix)
            return iter(())
        return self._list(prefix, itertools.chain([first], found), known, moment)

    def _children(self, prefix: str) -> Iterator[Child]:
        try:
            yield from children(self._bucket, self._base, prefix, lambda name: self._known.listed_in(name, self._base, self._look_ahead))
        except InvalidKey:
            raise KeyError(prefix) from None

    def _list(
        self, prefix: str, found: Iterator[Child], known: Callable[[str, str], Stat | None], moment: tuple[float, int]
    ) -> Iterator[tuple[str, Marked]]:
        pending: deque[tuple[str, Future[Marked | None]]] = deque()
        asked = known_already = 0
        for child in found:
            if child.listed is not None and not child.name.startswith(MARK):
                self._known.tell_below(child.listed.name + "/", False, moment)
            if child.marker is not None:
                self._known.tell_below(child.marker.name, True, moment)
                if child.marker.found is not None:
                    self._known.saw(child.marker.name, child.marker.found, moment)
            stat = None if child.listed is None else known(child.name, mark_of(child.listed))
            told: Future[Marked | None]
            if child.listed is None or stat is None:
                told = self._meanwhile(self._mark_child, prefix, child, moment)
                asked += 1
            else:
                known_already += 1
                told = Future()
                told.set_result(Marked(stat, mark_of(child.listed), version_of(child.listed)))
            pending.append((child.name, told))
            if len(pending) >= AHEAD:
                yield from _told(*pending.popleft())
        self._asks_for_most = asked > known_already
        while pending:
            yield from _told(*pending.popleft())

    def _look_ahead(self, listed: Sequence[Listed]) -> None:
        """Who walks there will want to know what objects there are: ask for them, if he has to ask for most."""
        moment = self._known.moment()
        for entry in listed[:AHEAD_OF_WALKS] if self._asks_for_most else ():
            if entry.found is None:
                self._meanwhile(self._known.find_listed, entry, moment)

    def _mark_child(self, prefix: str, child: Child, moment: tuple[float, int]) -> Marked | None:
        found = None if child.listed is None else self._known.find_listed(child.listed, moment)
        if child.listed is None or (found is not None and is_directory(found) and not is_beside(child.name)):
            stat = self._or_none(f"{prefix}{child.name}/")
            return None if stat is None else Marked(stat)
        if found is None:
            return None
        stat = self._attributes(prefix + child.name, There(child.listed.name, found)).stat
        return Marked(stat, mark_of(child.listed), version_of(child.listed)) if is_as_listed(found, child.listed) else Marked(stat)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return selected(self._attributes(key, self._find(key)).metadata, select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        return self._attributes(key, self._find(key)).xattrs

    def get(self, key: str) -> Value:
        return _ObjectValue(self, key, self._attributes(key, self._find(key)))

    def read(self, key: str, offset: int, size: int) -> bytes:
        """The same; one request, or for much of what is known several at the same time."""
        name = self._value_name(key)
        with _missing(key):
            found = self._known.find(name) if size > PIECE and self._known.knows(name) else None
            if found is not None:
                with contextlib.suppress(Changed):
                    return self._read_pieces(name, found, offset, size)
                self._known.forget(name)
            moment = self._known.moment()
            data, found = self._bucket.read(name, offset, size)
            self._known.saw(name, found, moment)
            return data

    def _read_pieces(self, name: str, found: Found, offset: int, size: int) -> bytes:
        """Read a range of the version ``found``."""
        end = min(offset + size, found.size)
        ranges = [(start, min(PIECE, end - start)) for start in range(offset, end, PIECE)]
        return b"".join(self._meanwhile_all(lambda start, length: self._bucket.read(name, start, length, found.etag)[0], ranges))

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """The same. The version is the ETag; without data, what is believed of the object is believed here too."""
        there = self._find(key) if size == 0 else There(self._value_name(key), None)
        data, found = b"", there.found
        if found is None:
            with _missing(key):
                data, found = self._bucket.read(there.name, offset, size)
        attributes = self._attributes(key, There(there.name, found))
        return Versioned(data, version_of(found), found.size, attributes.metadata, *attributes.stat.moments())

    def read_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Answer what ``read`` does for each ``(offset, size)``, of one version, with requests at the same time.

        Raises:
            KeyError: The key is not there.
            StoreUnavailable: It changes meanwhile.
        """
        name = self._value_name(key)
        if not ranges:
            return []
        with _missing(key):
            pinned = Pinned(self._bucket, name, *ranges[0])
            return [*self._meanwhile_all(pinned.read, ranges)]

    def _meanwhile_all(self, function: Callable[[int, int], T], ranges: Sequence[tuple[int, int]]) -> Iterator[T]:
        return self._opened(self._pool).map(lambda one: function(*one), ranges)

    def _value_name(self, key: str) -> str:
        self._check_connected()
        with contextlib.suppress(InvalidKey):
            if not is_directory_key(key):
                return self._name(key)
        raise KeyError(key)

    def _open_range(self, key: str, start: int | None = None, end: int | None = None) -> Opened:
        """A stream of a range, and what is said of the version that it is of."""
        name, first = self._value_name(key), max(start or 0, 0)
        with _missing(key):
            pinned = Pinned(self._bucket, name, first, BLOCK if end is None else min(max(end - first, 1), BLOCK))
        attributes = self._attributes(key, There(name, pinned.found))
        return Opened(pinned.stream(first, end), attributes.metadata, pinned.found.size, *attributes.stat.moments())


class _ObjectValue(Value):
    """A value of which only what is wanted is asked for."""

    __slots__ = ("_open_range",)

    def __init__(self, store: ReadingObjects, key: str, attributes: Attributes) -> None:
        def open_range(start: int | None = None, end: int | None = None) -> Opened:
            if is_directory_key(key):
                return Opened(io.BytesIO(), attributes.metadata, 0, *attributes.stat.moments())
            return store._open_range(key, start, end)

        self._open_range = open_range
        super().__init__(open_range, attributes.metadata, attributes.stat.size, *attributes.stat.moments())

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        return self._opened(self._open_range(start, end))


def is_directory(found: Found) -> bool:
    """Whether an object says that it is a directory, which one of any name may."""
    return found.size == 0 and found.system.get("ContentType", "").partition(";")[0] in TYPES


def _unknown(name: str, mark: str) -> None:
    """What who keeps nothing knows."""


def _told(name: str, marked: "Future[Marked | None]") -> Iterator[tuple[str, Marked]]:
    answer = marked.result()
    if answer is not None:  # else it is gone meanwhile
        yield name, answer


@contextlib.contextmanager
def _missing(key: str) -> Iterator[None]:
    """A missing object is a missing key."""
    try:
        yield
    except KeyError:
        raise KeyError(key) from None


def parse_url(url: str, scheme: str) -> tuple[str, str]:
    """Answer bucket and prefix of ``//BUCKET/PREFIX``; the prefix ends in ``/`` if it is not empty.

    Raises:
        UsageError: It is none, or has credentials in it.
    """
    bucket, _, prefix = url.removeprefix("//").partition("/")
    if "@" in bucket:
        raise UsageError("a bucket's URL has no credentials in it: they are taken from the environment or a profile")
    if not url.startswith("//") or not bucket:
        raise UsageError(f"a bucket's URL is {scheme}://BUCKET/PREFIX")
    base = prefix.strip("/")
    return bucket, base + "/" if base else ""


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= _MOST_SECONDS:
            return float(text)
    raise UsageError(f"?freshness={text} is no number of seconds")


def _checked_endpoint(endpoint: str) -> str:
    if "@" in endpoint:
        raise UsageError("an endpoint has no credentials in it: they are taken from the environment or a profile")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UsageError("an endpoint is the URL of a server: http://HOST:PORT or https://HOST")
    return endpoint
