"""A store of encore's (or anything with its API) as one of ours.

encore (https://pypi.org/project/encore/) is where the reference comes from. It is not imported here: what
has its methods is taken for one of its stores. What is known to go wrong with those is kept from happening;
each place says what it is.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import shutil
import tempfile
import urllib.request  # noqa: F401 - encore's URL stores use it and do not import it
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, unquote

from joinfs.errors import InvalidKey, JoinfsError, NotRepresentable, ReadOnly, StoreUnavailable, Unsupported
from joinfs.stores.flat import FlatStore, moments_of
from joinfs.stores.keys import check_key
from joinfs.stores.metadata import to_json
from joinfs.stores.names import ROOT_MARKER
from joinfs.stores.value import MEBIBYTE, Metadata, Opened, Value

ODD = "joinfs.odd"
NAME = "joinfs.name"
MARKER = ".joinfs-directory"
# encore appends ".metadata" to make a file's name of a key.
MOST_BYTES = 255 - len(".metadata")
# What no quoted name begins with.
LONG = "%%"
_METHODS = ("get", "exists", "query_keys", "is_connected", "connect", "disconnect")
T = TypeVar("T")


def is_encore(thing: object) -> bool:
    """Whether something has the methods of encore's stores."""
    return all(callable(getattr(thing, name, None)) for name in _METHODS)


class EncoreStore(FlatStore):
    """A store with encore's API.

    It is called by one thread of ours alone (encore's SqliteStore works in no other than the one that
    connected it, so hand it over unconnected). Data is copied, in memory up to a mebibyte and in an unnamed
    temporary file beyond, so that a stream answers what was there when it was opened. Only names that are
    keys are passed on (FileSystemStore would follow ``../`` out of its directory); its file system stores,
    which have no directories, get ``/`` as ``%2F`` and a name that is too long as its hash. A write is as atomic as that store's ``set``.

    Args:
        store: The other store. Connected, and disconnected, with this one, if it is not connected already.
        event_manager, read_only: As for ``FlatStore``. The other store has an event manager of its own.
    """

    def __init__(self, store: Any, event_manager: Any = None, read_only: bool = False) -> None:
        super().__init__(event_manager, read_only or not callable(getattr(store, "set", None)))
        self._store = store
        self._quoted = hasattr(store, "_magic_fname")
        self._raw: dict[str, str] = {}
        self._ours_to_disconnect = False
        self._owner: concurrent.futures.ThreadPoolExecutor | None = None
        self.name = f"encore's {type(store).__name__}"
        # File names of encore's are Unicode, and its databases have text.
        self.capabilities = self.capabilities._replace(bytes_names=False)

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        self._owner = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="joinfs encore")
        try:
            if not self._ask(self._store.is_connected):
                self._ask(lambda: self._store.connect(credentials))
                self._ours_to_disconnect = True
            if self._ask(self._store.info).get("readonly"):
                self.capabilities = self.capabilities._replace(writable=False)
        except BaseException:
            self.disconnect()
            raise
        super().connect()

    def disconnect(self) -> None:
        super().disconnect()
        if self._owner is None:
            return
        with contextlib.suppress(JoinfsError):
            if self._ours_to_disconnect:
                self._ask(self._store.disconnect)
        self._owner.shutdown()
        self._owner, self._ours_to_disconnect = None, False

    def _ask(self, function: Callable[[], T]) -> T:
        """Call the other store in its thread; what it raises means what it says, or that it is not to be had."""
        assert self._owner is not None
        try:
            return self._owner.submit(function).result()
        except (KeyError, OSError, JoinfsError):
            raise
        except NotImplementedError as error:
            raise Unsupported(f"{self.name} cannot do this") from error
        except Exception as error:
            hint = "; hand it over before it is connected" if "thread" in str(error) else ""
            raise StoreUnavailable(f"{self.name} fails: {type(error).__name__}: {error}{hint}") from error

    # ---------------------------------------------------------------- names

    def _theirs(self, name: str) -> str:
        """The other store's key for a name.

        Raises:
            InvalidKey: It would be asking for trouble.
        """
        if name in self._raw:
            return self._raw[name]
        if name != ROOT_MARKER:
            check_key(name.removesuffix("/"))
        if not _is_unicode(name):
            raise NotRepresentable(f"{name!r} cannot be a key of {self.name}, whose keys are Unicode")
        if not self._quoted:
            return name
        quoted = quote(name.removesuffix("/") + (f"/{MARKER}" if name.endswith("/") else ""), safe=" !#$&'()+,;=@[]^`{}~")
        if len(quoted.encode()) <= MOST_BYTES:
            return quoted
        return LONG + hashlib.blake2b(name.encode(), digest_size=32).hexdigest()

    def _ours(self, key: str) -> str:
        if not self._quoted:
            return key
        if key.startswith(LONG):
            return str(self._ask(lambda: self._store.get_metadata(key)).get(NAME, key))
        name = unquote(key, errors="surrogateescape")
        name = name.removesuffix(MARKER) if name.endswith(f"/{MARKER}") else name
        try:
            if self._theirs(name) == key:
                return name
        except InvalidKey:
            pass
        self._raw[key] = key
        return key

    # ---------------------------------------------------------------- what FlatStore asks for

    def _names(self) -> Iterable[str]:
        keys = self._ask(lambda: list(self._store.query_keys()))
        return [self._ours(key) for key in keys if isinstance(key, str)]

    def _load(self, name: str) -> Value:
        try:
            theirs = self._theirs(name)
        except InvalidKey as error:
            raise KeyError(name) from error
        value = self._ask(lambda: self._store.get(theirs) if self._store.exists(theirs) else None)
        if value is None:
            raise KeyError(name)
        size = self._ask(lambda: value.size)
        if size is None:  # of a URL, known when it has been read
            with self._copied(theirs).stream as copy:
                size = copy.seek(0, 2)
        return Value(lambda: self._copied(theirs), self._metadata(value.metadata), size, *self._ask(lambda: _moments(value)))

    def _metadata(self, theirs: Any) -> Metadata:
        metadata = dict(theirs)
        metadata.pop(NAME, None)
        odd = metadata.pop(ODD, None)
        return metadata if odd is None else metadata | json.loads(odd)

    def _copied(self, theirs: str) -> Opened:
        def copy() -> Opened:
            value = self._store.get(theirs)
            spool: Any = tempfile.SpooledTemporaryFile(MEBIBYTE)  # noqa: SIM115 - the caller closes it
            with contextlib.closing(value.data) as data:
                shutil.copyfileobj(data, spool)
            size = spool.tell()
            spool.seek(0)
            metadata = self._metadata(value.metadata)
            return Opened(spool, metadata, size, *moments_of(metadata, _moments(value)))

        with self._lock:
            return self._ask(copy)

    def _save(self, name: str, data: BinaryIO, size: int, metadata: Metadata) -> None:
        theirs, given = self._theirs(name), _without_surrogates(metadata)
        if theirs.startswith(LONG):
            given = {**given, NAME: name}
        self._changing_theirs(name, lambda: self._store.set(theirs, (data, given)))

    def _remove(self, name: str) -> None:
        """The same; where encore's joined stores would show the copy of the next one, that goes as well."""
        theirs = self._theirs(name)

        def remove() -> None:
            backing = getattr(self._store, "backing_store", None)
            if backing is not None and backing.exists(theirs):
                raise Unsupported(f"{name!r} is in the backing store of {self.name}, which deletes nothing there")
            while self._store.exists(theirs):
                self._store.delete(theirs)

        self._changing_theirs(name, remove)

    def _changing_theirs(self, name: str, change: Callable[[], None]) -> None:
        try:
            self._ask(change)
        except KeyError:  # of a MountedStore, for what is not below its mount point
            raise ReadOnly(f"{self.name} takes no writes at {name!r}") from None


def _moments(value: Any) -> tuple[float, float]:
    return getattr(value, "created", None) or 0.0, getattr(value, "modified", None) or 0.0


def _without_surrogates(metadata: Metadata) -> Metadata:
    """Metadata with all that is not Unicode in one entry of ASCII: FileSystemStore would lose all of it otherwise."""
    odd = {n: v for n, v in metadata.items() if not _is_unicode(n) or not _is_unicode(json.dumps(v, ensure_ascii=False))}
    if not odd:
        return metadata
    return {n: v for n, v in metadata.items() if n not in odd} | {ODD: to_json(odd)}


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
