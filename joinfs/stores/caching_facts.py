"""What a store said, and when: attributes, listings, metadata and versions, in memory and on disk.

A fact is of one kind (``FORMS``) and one key. It is believed for some seconds; after that it is still here, for who asks
again whether it is so, and for when nobody can be asked. What was written to is forgotten, in memory and on disk.
"""

import base64
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, NamedTuple

from joinfs.stores.caching_disk import CacheDirectory
from joinfs.stores.keys import ROOT, ancestors, is_directory_key, split
from joinfs.stores.value import Marked, Metadata, Stat

# What is remembered, counted by names. One takes about half a kilobyte.
MOST_NAMES = 200_000
# What is below so many directories is remembered to have been moved; more, and it is all of the store.
MOST_MARKS = 200


class File(NamedTuple):
    """A version of a value, as ``Versioned`` has it; None is one that cannot be told, so that nothing of it is kept."""

    version: str | None
    size: int
    metadata: Metadata
    created: float
    modified: float


class Fact(NamedTuple):
    """What a store said (a missing key: None), and when it was asked, in seconds since the epoch."""

    what: Any
    asked: float


class _Form(NamedTuple):
    """How facts of a kind are written."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


FORMS = {
    "stat": _Form(list, lambda told: Stat(*told)),
    "list": _Form(
        lambda names: {name: list(marked) for name, marked in names.items()},
        lambda told: {name: Marked(Stat(*stat), mark, version) for name, (stat, mark, version) in told.items()},
    ),
    "metadata": _Form(lambda metadata: metadata, dict),
    "xattrs": _Form(
        lambda xattrs: {name: base64.b64encode(value).decode() for name, value in xattrs.items()},
        lambda told: {name: base64.b64decode(value) for name, value in told.items()},
    ),
    "file": _Form(list, lambda told: File(*told)),
    "moved": _Form(dict, dict),
}
_OF_A_KEY = ("stat", "metadata", "xattrs", "file")


class Facts:
    """What one store said.

    Args:
        disk: Where they are kept.
        identity: What tells the store from others in the same directory.
        freshness: Answers for how many seconds a fact is believed.

    Attributes:
        is_old: Whether the store was connected before.
        forgotten: A number that changes whenever something is forgotten: what was asked before that may not be so any more.
    """

    def __init__(self, disk: CacheDirectory, identity: str, freshness: Callable[[], float]) -> None:
        self._disk, self._identity, self._freshness = disk, identity, freshness
        self._lock = threading.Lock()
        self._facts: OrderedDict[tuple[str, str], Fact] = OrderedDict()
        self._partly: dict[str, Fact] = {}
        # What was not on disk when we looked. Others may have put it there since; then we do without.
        self._absent: set[tuple[str, str]] = set()
        self._names = 0
        self.forgotten = 0
        # When what is at a key was forgotten: others may put there what they asked before.
        self._since: dict[str, float] = {}
        self._since_all = 0.0
        moved = self._load("moved", ROOT)
        self.is_old = moved is not None
        self._moved: dict[str, float] = {} if moved is None else moved.what

    def begin(self) -> None:
        """The store is connected, and something will be said."""
        if not self.is_old:
            self._save("moved", ROOT, Fact(self._moved, 0.0))

    def get(self, kind: str, key: str) -> Fact | None:
        """Answer what was said, however long ago; it is not to be changed."""
        fact, forgotten = self._facts.get((kind, key)), self.forgotten
        if fact is None and (kind, key) not in self._absent:
            fact = self._load(kind, key)
            if fact is not None:
                self._remember(kind, key, fact, forgotten)
            else:
                self._note_absent(kind, key)
        return fact

    def remembered(self, kind: str, key: str) -> Fact | None:
        """The same of what is in memory."""
        return self._facts.get((kind, key))

    def is_fresh(self, fact: Fact | None) -> bool:
        """Whether it is believed without asking again."""
        return fact is not None and 0 <= time.time() - fact.asked < self._freshness()

    def child(self, key: str) -> Fact | None:
        """Answer what a listing said of a key, as ``Marked``."""
        above, name = split(key)
        fact = self.get("list", above)
        known = self._partly.get(above) if fact is None else fact
        if known is None or key == ROOT:
            return None
        marked = known.what.get(name)
        if marked is None and fact is None:
            return None
        is_so = marked is not None and marked.stat.is_directory == is_directory_key(key)
        return Fact(marked if is_so else None, known.asked)

    def is_superseded(self, key: str, file: Fact) -> bool:
        """Whether something was said since of a value's attributes by which it is another than this version."""
        above, name = split(key)
        listed = self._facts.get(("list", above))
        if listed is not None and listed.asked > file.asked:
            marked = listed.what.get(name)
            if marked is None or marked.stat.size != file.what.size or marked.version not in {None, file.what.version}:
                return True
        told = self._facts.get(("stat", key))
        return told is not None and told.asked > file.asked and (told.what is None or told.what.size != file.what.size)

    def put(self, kind: str, key: str, fact: Fact, forgotten: int) -> None:
        """Remember what was said; ``forgotten`` is what it was when it was asked for."""
        old = self._facts.get((kind, key)) or self._load(kind, key)
        if not self._remember(kind, key, fact, forgotten) or (old is not None and old.what == fact.what):
            return
        if fact.what is not None:
            self._save(kind, key, fact)
        if fact.what is None or forgotten != self.forgotten:  # what is missing is remembered in memory alone
            self._disk.drop(self._name(kind, key))

    def forget(self, key: str | None) -> None:
        """Something was written: to ``a``, to all that is at and below ``a/``, or (None) anywhere."""
        with self._lock:
            self.forgotten += 1
            if key is None or key.endswith("/"):
                self._forget_below(ROOT if key is None else key)
            if key is not None:
                self._forget_one(key.removesuffix("/"))

    # ---------------------------------------------------------------- for the methods above

    def _remember(self, kind: str, key: str, fact: Fact, forgotten: int) -> bool:
        with self._lock:
            if forgotten != self.forgotten:
                return False
            self._drop(kind, key)
            self._facts[kind, key] = fact
            self._names += _weight(fact)
            if kind == "list":
                self._partly.pop(key, None)
            while self._names > MOST_NAMES and len(self._facts) > 1:
                self._names -= _weight(self._facts.popitem(last=False)[1])
            return True

    def _note_absent(self, kind: str, key: str) -> None:
        if len(self._absent) > MOST_NAMES:
            self._absent = set()
        self._absent.add((kind, key))

    def _drop(self, kind: str, key: str) -> Fact | None:
        fact = self._facts.pop((kind, key), None)
        if fact is not None:
            self._names -= _weight(fact)
        return fact

    def _forget_one(self, key: str) -> None:
        """The attributes of the directories above it change with it, and they may be new."""
        above = [ROOT, *ancestors(key)] if key else []
        if len(self._since) > MOST_NAMES:
            self._since, self._since_all = {}, time.time()
        self._since.update(dict.fromkeys([key, key + "/" if key else key, *above], time.time()))
        for place in [key, *([key + "/"] if key else []), *above]:
            for kind in _OF_A_KEY if place not in above else ("stat",):
                self._drop(kind, place)
                self._disk.drop(self._name(kind, place))
        for place in [key, *above[1:]] if key else []:
            self._leave_out(place)

    def _leave_out(self, key: str) -> None:
        """Of a listing, what it says of one name counts no more, nor that it is all."""
        above, name = split(key)
        listed = self._drop("list", above)
        self._disk.drop(self._name("list", above))
        if listed is not None:
            if len(self._partly) >= MOST_MARKS:
                self._partly.clear()
            self._partly[above] = Fact(dict(listed.what), listed.asked)
        if above in self._partly:
            self._partly[above].what.pop(name, None)

    def _forget_below(self, prefix: str) -> None:
        """What is on disk cannot be found by its beginning, so it is written down that it does not count."""
        for kind, key in [place for place in self._facts if place[1].startswith(prefix)]:
            self._drop(kind, key)
        self._partly = {key: fact for key, fact in self._partly.items() if not key.startswith(prefix)}
        self._moved = {place: moment for place, moment in self._moved.items() if not place.startswith(prefix)}
        if len(self._moved) >= MOST_MARKS:
            self._moved = {}
            prefix = ROOT
        self._moved[prefix] = time.time()
        self._save("moved", ROOT, Fact(self._moved, 0.0))

    def _load(self, kind: str, key: str) -> Fact | None:
        data = self._disk.get(self._name(kind, key))
        if data is None:
            return None
        try:
            told = json.loads(data)
            fact = Fact(FORMS[kind].from_json(told["what"]), float(told["asked"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        if kind != "moved" and fact.asked <= max(self._since.get(key, 0.0), self._since_all):
            return None
        if kind != "moved" and any(fact.asked <= moment and key.startswith(place) for place, moment in tuple(self._moved.items())):
            return None
        return fact

    def _save(self, kind: str, key: str, fact: Fact) -> None:
        self._absent.discard((kind, key))
        told = {"what": FORMS[kind].to_json(fact.what), "asked": fact.asked}
        self._disk.put(self._name(kind, key), json.dumps(told, separators=(",", ":")).encode())

    def _name(self, kind: str, key: str) -> bytes:
        return name_of(self._identity, kind, key)


def is_believable(stat: Stat) -> bool:
    """Whether a file changes only when its key is written to: one with several keys does so when any of them is."""
    return stat.linked_id is None


def name_of(*parts: str) -> bytes:
    """Answer the name on disk of what these texts name."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=32).digest()


def _weight(fact: Fact) -> int:
    return 1 + len(fact.what) if isinstance(fact.what, dict) else 1
