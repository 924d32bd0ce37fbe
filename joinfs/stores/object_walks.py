"""Listing ahead of who walks through the directories of a bucket: what is in many of them is told in one answer.

A bucket has no directories: whoever asks for what is in one has it leave out what is further below. Somebody who goes through all of them
wants to know just that, and has it with a request for a thousand names, not one for each directory.
"""

import threading
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from joinfs.stores.object_bucket import Bucket, Listed
from joinfs.stores.object_levels import parted

# Who has listed so many directories in a row, each in one that was listed before, walks.
STEPS = 2
# A directory with more below it than so many answers tell is not listed whole; of so many directories it is known what is below them, or that it is that much.
MOST_PAGES = 3
MOST_TREES = 4
MOST_LARGE = 1000
# Of so many directories it is known when they were listed.
MOST_RECENT = 1000
_AFTER_SLASH = "0"
_name = attrgetter("name")


class _Tree:
    """All that is below a directory.

    Attributes:
        prefix: What all names begin with.
        asked: When the bucket was asked, in monotonic seconds.
        entries: The objects, in order.
        changed: Directories, of which what is in them is not as it was told any more.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix, self.asked = prefix, time.monotonic()
        self.entries: list[Listed] = []
        self.changed: set[str] = set()

    def level(self, prefix: str) -> Iterator[Listed]:
        """Yield what ``Bucket.pages`` does for a directory, with ``/`` for a delimiter."""
        place = self._place(prefix)
        while place < len(self.entries) and (entry := self.entries[place]).name.startswith(prefix):
            end = entry.name.find("/", len(prefix)) + 1
            if not end:
                yield entry
                place += 1
            else:
                below = entry.name[:end]
                yield entry if entry.name == below and entry.found is not None else Listed(below)
                place = self._place(below[:-1] + _AFTER_SLASH, place)

    def _place(self, name: str, start: int = 0) -> int:
        return bisect_left(self.entries, name, start, key=_name)


class Walks:
    """Who walks, and what was listed ahead; several threads may ask.

    Args:
        bucket: Who is asked.
        freshness: For how many seconds an answer is believed.
    """

    def __init__(self, bucket: Bucket, freshness: Callable[[], float]) -> None:
        self._bucket, self._freshness = bucket, freshness
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, float] = OrderedDict()
        self._large: OrderedDict[str, float] = OrderedDict()
        self._steps = 0
        self._trees: list[_Tree] = []

    def level(self, prefix: str, base: str, ahead: Callable[[Sequence[Listed]], object]) -> tuple[float, Iterator[Listed]] | None:
        """Answer what is in a directory, and when the bucket was asked for that; None if somebody who walks would not know it yet.

        Args:
            prefix: What the names in the directory begin with.
            base: What all names of the store begin with.
            ahead: Called with all that is below a directory that somebody walks through, when it is known.
        """
        is_step, tree = self._note(prefix), self._covering(prefix)
        if is_step and tree is None:
            tree = self._grown(parted(prefix)[0], base, ahead) or self._grown(prefix, base, ahead)
        if tree is None:
            return None
        with self._lock:
            is_so = tree in self._trees and prefix not in tree.changed
        return (tree.asked, tree.level(prefix)) if is_so else None

    def _note(self, prefix: str) -> bool:
        """A directory is listed now; answer whether that is a further step of a walk."""
        now = time.monotonic()
        with self._lock:
            above, itself = (now < self._recent.get(directory, 0.0) + self._freshness() for directory in (parted(prefix)[0], prefix))
            if not itself:
                self._steps = self._steps + 1 if above else 0
            _put(self._recent, prefix, now, MOST_RECENT)
            return not itself and self._steps >= STEPS

    def _covering(self, prefix: str) -> _Tree | None:
        """What was listed ahead with a directory in it, whatever has changed since: who changes what he walks through has it not listed anew each time."""
        oldest = time.monotonic() - self._freshness()
        with self._lock:
            self._trees = [tree for tree in self._trees if tree.asked > oldest]
            return next((tree for tree in self._trees if tree.entries and prefix.startswith(tree.prefix)), None)

    def _is_large(self, prefix: str) -> bool:
        return time.monotonic() < self._large.get(prefix, 0.0) + self._freshness()

    def _grown(self, prefix: str, base: str, ahead: Callable[[Sequence[Listed]], object]) -> _Tree | None:
        """Ask for all that is below a directory; None if that is too much, or not the store's."""
        if not prefix.startswith(base) or self._is_large(prefix):
            return None
        tree = _Tree(prefix)
        with self._lock:
            self._trees = [*self._trees[1 - MOST_TREES :], tree]  # what is written meanwhile is noted in it
        pages, entries = self._bucket.pages(prefix), list[Listed]()
        for count, page in enumerate(pages, 1):
            entries += page
            if count == MOST_PAGES and next(pages, None) is not None:
                with self._lock:
                    _put(self._large, prefix, time.monotonic(), MOST_LARGE)
                return None
        tree.entries = sorted(entries, key=_name)
        ahead(tree.entries)
        return tree

    def forget(self, names: Iterable[str]) -> None:
        """These were written: what is in the directories that they are in may be something else now."""
        with self._lock:
            for tree in self._trees:
                for name in names:
                    if name.startswith(tree.prefix):
                        tree.changed.update(name[: place + 1] for place, letter in enumerate(name) if letter == "/")
                        tree.changed.add("")

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._trees = []
            self._recent.clear()
            self._large.clear()


def _put(times: "OrderedDict[str, float]", prefix: str, moment: float, most: int) -> None:
    times[prefix] = moment
    times.move_to_end(prefix)
    if len(times) > most:
        times.popitem(last=False)
