"""Another store, of which what was read is kept on local disk."""

import contextlib
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, TypeVar

from joinfs.errors import AccessDenied, StoreUnavailable, Unsupported, UsageError
from joinfs.stores.base import Store
from joinfs.stores.caching_ahead import Ahead
from joinfs.stores.caching_blocks import Blocks
from joinfs.stores.caching_disk import CacheDirectory
from joinfs.stores.caching_facts import Fact, Facts
from joinfs.stores.caching_origin import Origin
from joinfs.stores.caching_streams import CachedValue
from joinfs.stores.keys import ROOT, directory_key, is_directory_key, split
from joinfs.stores.metadata import copied, selected
from joinfs.stores.reading import Reading
from joinfs.stores.value import Capabilities, Marked, Metadata, Stat, Usage, Value, Versioned
from joinfs.stores.views import View

T = TypeVar("T")

DEFAULT_SIZE = 10 << 30
# Suits web servers and buckets, of which others' changes are rare.
DEFAULT_TTL = 5.0
# Directories with more entries than that are listed anew each time.
MOST_LISTED = 50_000
# Directories with more entries than that are not listed for some of them.
MOST_ANEW = 5000
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class CachingStore(View):
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
        super().__init__(store, event_manager)
        self.path_of_cache = os.path.abspath(path)
        self.ttl = ttl
        self.name = f"{store.name}?cache={os.fspath(path)}"
        self._disk = CacheDirectory(self.path_of_cache, size)
        self._origin = Origin(store)
        self._only_here = uuid.uuid4().hex
        self._open_facts: Facts | None = None
        self._open_blocks: Blocks | None = None
        self._ahead: Ahead | None = None
        self._listing = threading.Lock()
        self._anew: set[str] = set()
        self._asked_alone: dict[str, float] = {}

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
            UsageError: The directory is another user's, or others may write to it.
        """
        if self.is_connected():
            return
        self._disk.open()
        try:
            identity = self.store.identity or self._only_here
            facts = Facts(self._disk, identity)
            self._origin.connect(credentials, may_be_gone=facts.is_old)
        except BaseException:
            self._disk.close()
            raise
        facts.begin()
        blocks = Blocks(self.store, self._origin, facts, self._disk, identity, lambda: self.ttl)
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
        self.store.disconnect()

    def is_connected(self) -> bool:
        return self._open_facts is not None

    def info(self) -> dict[str, Any]:
        """The same, and ``cache``: how many blocks of data were there when they were wanted (``hits``), and were not (``misses``)."""
        blocks = self._open_blocks
        known = {} if blocks is None else {"hits": blocks.hits, "misses": blocks.misses}
        return {**super().info(), "cache": known}

    @property
    def _facts(self) -> Facts:
        self._check_connected()
        assert self._open_facts is not None
        return self._open_facts

    @property
    def _blocks(self) -> Blocks:
        self._check_connected()
        assert self._open_blocks is not None
        return self._open_blocks

    # ---------------------------------------------------------------- what is believed

    def _is_bypassed(self) -> bool:
        """Whether this thread may see what others must not, and others what it must not."""
        return getattr(self._open_transactions, "events", None) is not None

    def _is_fresh(self, fact: Fact | None) -> bool:
        return fact is not None and 0 <= time.time() - fact.asked < self.ttl

    def _fact(self, kind: str, key: str, ask: Callable[[str], T]) -> T:
        """What the store says, said a moment ago, or said once if it cannot be asked."""
        facts = self._facts
        if self._is_bypassed():
            return ask(key)
        return self._answer(facts.get(kind, key), lambda: self._asked(kind, key, ask))  # type: ignore[no-any-return]

    def _answer(self, fact: Fact | None, ask: Callable[[], Any]) -> Any:
        if fact is not None and (self._is_fresh(fact) or self._origin.is_resting()):
            return fact.what
        try:
            return ask()
        except AccessDenied:
            raise
        except StoreUnavailable:
            if fact is None:
                raise
            return fact.what

    def _asked(self, kind: str, key: str, ask: Callable[[str], T]) -> T:
        asked, forgotten = time.time(), self._facts.forgotten
        what = self._origin.ask(ask, key)
        self._facts.put(kind, key, Fact(what, asked), forgotten)
        return what

    # ---------------------------------------------------------------- attributes

    def stat(self, key: str) -> Stat:
        if self._is_bypassed():
            return self.store.stat(key)
        stat: Stat | None = self._answer(self._seen(key), lambda: self._ask_stat(key))
        if stat is None:
            raise KeyError(key)
        return stat

    def _seen(self, key: str) -> Fact | None:
        """What was said of a key's attributes last: when it was asked for, or in a listing."""
        fact = self._facts.get("stat", key)
        if self._is_fresh(fact):
            return fact
        child = self._facts.child(key)
        if child is not None and child.what is not None:
            child = Fact(child.what.stat, child.asked)
        return max((one for one in (fact, child) if one is not None), key=lambda one: one.asked, default=None)

    def _ask_stat(self, key: str) -> Stat | None:
        anew = self._list_anew(key)
        if anew is not None:
            return None if anew.what is None else anew.what.stat
        asked, forgotten = time.time(), self._facts.forgotten
        try:
            stat = self._origin.ask(self.store.stat, key)
        except KeyError:
            stat = None
        self._note_stat(key, stat, asked, forgotten)
        return stat

    def _note_stat(self, key: str, stat: Stat | None, asked: float, forgotten: int) -> None:
        if stat is not None and not _is_believable(stat):
            return
        self._facts.put("stat", key, Fact(stat, asked), forgotten)
        if stat is not None and key != ROOT:
            other = key.removesuffix("/") if key.endswith("/") else key + "/"
            self._facts.put("stat", other, Fact(None, asked), forgotten)

    def lookup(self, key: str) -> Stat:
        if key == ROOT:
            return self.stat(key)
        if self._is_bypassed():
            return self.store.lookup(key)
        seen = [fact for fact in (self._seen(directory_key(key)), self._seen(key)) if fact is not None]
        known = [fact for fact in seen if fact.what is not None] or (seen if len(seen) == 2 else [])
        oldest = min(known, key=lambda fact: fact.asked, default=None)
        stat: Stat | None = self._answer(oldest, lambda: self._ask_lookup(key))
        if stat is None:
            raise KeyError(key)
        return stat

    def _ask_lookup(self, key: str) -> Stat | None:
        if self._list_anew(key) is not None:
            places = [self._facts.child(place) for place in (key, directory_key(key))]
            return next((fact.what.stat for fact in places if fact is not None and fact.what is not None), None)
        asked, forgotten = time.time(), self._facts.forgotten
        try:
            stat = self._origin.ask(self.store.lookup, key)
        except KeyError:
            for place in (key, directory_key(key)):
                self._note_stat(place, None, asked, forgotten)
            return None
        self._note_stat(directory_key(key) if stat.is_directory else key, stat, asked, forgotten)
        return stat

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        if self._is_bypassed():
            return self.store.list(prefix)
        names = self._answer(self._facts.get("list", prefix), lambda: self._ask_list(prefix))
        entries = [*names.items()] if isinstance(names, dict) else names
        return ((name, marked.stat) for name, marked in entries)

    def _ask_list(self, prefix: str) -> Iterator[tuple[str, Marked]]:
        """The first entry is asked for at once: if the store is unavailable, that is known then."""
        asked, forgotten = time.time(), self._facts.forgotten
        fact = self._facts.get("list", prefix)
        names: dict[str, Marked] = {} if fact is None else fact.what

        def known(name: str, mark: str) -> Stat | None:
            marked = names.get(name)
            return marked.stat if marked is not None and marked.mark == mark else None

        try:
            entries = self._origin.ask(_begun, self.store.list_marked, prefix, known)
        except KeyError:
            if fact is not None:
                self._facts.forget(prefix)
            raise
        return self._noting(prefix, entries, asked, forgotten)

    def _noting(self, prefix: str, entries: Iterable[tuple[str, Marked]], asked: float, forgotten: int) -> Iterator[tuple[str, Marked]]:
        """Yield the entries of a listing, and remember it at its end."""
        names: dict[str, Marked] | None = {}
        for name, marked in entries:
            if names is not None:
                names[name] = marked
                if len(names) > MOST_LISTED or not _is_believable(marked.stat):
                    names = None
            yield name, marked
        if names is not None and self.is_connected():
            self._facts.put("list", prefix, Fact(names, asked), forgotten)

    def _list_anew(self, key: str) -> Fact | None:
        """What a new listing says of a key of which an old one is believed no more; None if it is not worth one.

        It is from the second on: who asks for one alone is answered sooner without.
        """
        above = split(key)[0]
        fact = self._facts.get("list", above)
        if fact is None or key == ROOT or len(fact.what) > MOST_ANEW or self._is_fresh(fact):
            return None
        if not self._is_worth_listing(above, fact):
            return None
        began = time.time()
        try:
            deque(self._ask_list(above), maxlen=0)
        except KeyError:
            return None
        finally:
            self._anew.discard(above)
        child = self._facts.child(key)
        return child if child is not None and child.asked >= began else None

    def _is_worth_listing(self, directory: str, fact: Fact) -> bool:
        """Whether this is the second time that a listing was of no use, and nobody lists the directory anew already."""
        with self._listing:
            if len(self._asked_alone) > MOST_ANEW:
                self._asked_alone.clear()
            if self._asked_alone.pop(directory, None) != fact.asked:
                self._asked_alone[directory] = fact.asked
                return False
            if directory in self._anew:
                return False
            self._anew.add(directory)
            return True

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return selected(copied(self._fact("metadata", key, self.store.get_metadata)), select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        return dict(self._fact("xattrs", key, self.store.get_xattrs))

    def usage(self) -> Usage:
        """The same; while the store is unavailable, no bounds."""
        self._check_connected()
        try:
            return self._origin.ask(self.store.usage)
        except AccessDenied:
            raise
        except StoreUnavailable:
            return Usage()

    # ---------------------------------------------------------------- data

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

    def _check_writable(self, key: str) -> None:
        super()._check_writable(key)
        self._origin.reconnect()


def _is_believable(stat: Stat) -> bool:
    """Whether a file changes only when its key is written to: one with several keys does so when any of them is."""
    return stat.linked_id is None


def _begun(method: Callable[..., Iterator[T]], *arguments: Any) -> Iterator[T]:
    entries = iter(method(*arguments))
    first = next(entries, None)
    return iter(()) if first is None else _with(first, entries)


def _with(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest


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
