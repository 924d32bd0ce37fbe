"""The half of a cache that is about attributes, metadata and listings: what the store said, and when it is asked again."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from joinfs.stores.base import Store
from joinfs.stores.caching_facts import Fact, Facts, is_believable
from joinfs.stores.caching_origin import Origin
from joinfs.stores.keys import ROOT, directory_key, split
from joinfs.stores.metadata import copied, selected
from joinfs.stores.reading import Reading
from joinfs.stores.value import Marked, Metadata, Stat
from joinfs.stores.views import View

T = TypeVar("T")

# Directories with more entries than that are listed anew each time.
MOST_LISTED = 50_000
# Directories with more entries than that are not listed for some of them.
MOST_ANEW = 5000


class CachedAttributes(View):
    """The half of ``CachingStore``, which says what it is, that has no data.

    Attributes:
        ttl: Seconds for which what the store said is believed.
    """

    def __init__(self, store: Store, ttl: float, event_manager: Any) -> None:
        super().__init__(store, event_manager)
        self.ttl = ttl
        self._origin = Origin(store)
        self._open_facts: Facts | None = None
        self._listing = threading.Lock()
        self._anew: set[str] = set()
        self._asked_alone: dict[str, tuple[float, str]] = {}

    @property
    def _facts(self) -> Facts:
        self._check_connected()
        assert self._open_facts is not None
        return self._open_facts

    # ---------------------------------------------------------------- what is believed

    def _is_bypassed(self) -> bool:
        """Whether this thread may see what others must not, and others what it must not."""
        return getattr(self._open_transactions, "events", None) is not None

    def _answer(self, fact: Fact | None, ask: Callable[[], Any]) -> Any:
        if fact is not None and self._facts.is_fresh(fact):
            return fact.what
        return self._origin.renewed(fact, ask)

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
        fact = self._facts.remembered("stat", key)
        if self._facts.is_fresh(fact):
            return fact
        child = self._facts.child(key)
        if child is not None and child.what is not None:
            child = Fact(child.what.stat, child.asked)
        if self._facts.is_fresh(child):
            return child
        known = (self._facts.get("stat", key), child)
        return max((one for one in known if one is not None), key=lambda one: one.asked, default=None)

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
        if stat is not None and not is_believable(stat):
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
                if len(names) > MOST_LISTED or not is_believable(marked.stat):
                    names = None
            yield name, marked
        if names is not None and self.is_connected():
            self._facts.put("list", prefix, Fact(names, asked), forgotten)

    def _list_anew(self, key: str) -> Fact | None:
        """What a new listing says of a key of which an old one is believed no more; None if it is not worth one.

        It is for the second name: who asks for one alone is answered sooner without.
        """
        above = split(key)[0]
        fact = self._facts.get("list", above)
        if fact is None or not self.ttl or key == ROOT or len(fact.what) > MOST_ANEW or self._facts.is_fresh(fact):
            return None
        if not self._is_worth_listing(above, fact, key.removesuffix("/")):
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

    def _is_worth_listing(self, directory: str, fact: Fact, key: str) -> bool:
        """Whether a listing was of no use for another key as well, and nobody lists the directory anew already."""
        with self._listing:
            if len(self._asked_alone) > MOST_ANEW:
                self._asked_alone.clear()
            asked, other = self._asked_alone.setdefault(directory, (fact.asked, key))
            if asked != fact.asked:
                self._asked_alone[directory] = (fact.asked, key)
            if asked != fact.asked or other == key or directory in self._anew:
                return False
            del self._asked_alone[directory]
            self._anew.add(directory)
            return True

    # ---------------------------------------------------------------- what else there is of a key

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return selected(copied(self._about("metadata", key, self.store.get_metadata)), select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        if not self.capabilities.xattrs:
            return Reading.get_xattrs(self, key)
        return dict(self._about("xattrs", key, self.store.get_xattrs))

    def _about(self, kind: str, key: str, ask: Callable[[str], T]) -> T:
        """What the store says, said a moment ago, or said once if it cannot be asked."""
        self._check_connected()
        if self._is_bypassed() or (self.capabilities.hard_links and not is_believable(self.stat(key))):
            return self._origin.ask(ask, key)
        fact = self._facts.get(kind, key)
        if kind == "metadata" and not self._facts.is_fresh(fact) and (file := self._facts.get("file", key)) is not None:
            fact = Fact(file.what.metadata, file.asked) if fact is None or fact.asked < file.asked else fact
        return self._answer(fact, lambda: self._ask_about(kind, key, ask))  # type: ignore[no-any-return]

    def _ask_about(self, kind: str, key: str, ask: Callable[[str], T]) -> T:
        asked, forgotten = time.time(), self._facts.forgotten
        what = self._origin.ask(ask, key)
        self._facts.put(kind, key, Fact(what, asked), forgotten)
        return what


def _begun(method: Callable[..., Iterator[T]], *arguments: Any) -> Iterator[T]:
    entries = iter(method(*arguments))
    first = next(entries, None)
    return iter(()) if first is None else _with(first, entries)


def _with(first: T, rest: Iterator[T]) -> Iterator[T]:
    yield first
    yield from rest
