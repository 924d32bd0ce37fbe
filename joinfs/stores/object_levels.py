"""Which names there are in a directory of a bucket, so that what is not there need not be asked for.

Who makes many files has each looked up before, and it takes several requests to find nothing. One listing answers for all
of them. What is written here is added to what it told, and nothing is taken out: a name too many costs a request, no more.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from joinfs.stores.object_bucket import Bucket, Listed

# A directory whose names are not told in one answer is not asked for all of them.
MOST_NAMES = 1000
MOST_LEVELS = 100


class _Level(NamedTuple):
    """A directory.

    Attributes:
        asked: When the bucket was asked, in monotonic seconds.
        names: What there is, and perhaps more; directories end in ``/``. None if it is not known.
        is_large: Whether it is not known because there is so much.
    """

    asked: float
    names: set[str] | None = None
    is_large: bool = False


class Levels:
    """What is known of directories; several threads may ask.

    Args:
        bucket: Who is asked.
        freshness: For how many seconds an answer is believed.
    """

    def __init__(self, bucket: Bucket, freshness: Callable[[], float]) -> None:
        self._bucket, self._freshness = bucket, freshness
        # A listing that nobody reads on may be collected, and ended, while its thread has the lock.
        self._lock = threading.RLock()
        self._levels: OrderedDict[str, _Level] = OrderedDict()
        # Directories that are being listed: what is written meanwhile is added to them, too.
        self._growing: list[tuple[str, set[str]]] = []
        self._added = 0

    def lacks(self, name: str) -> bool:
        """Whether it is known that there is no object of a name, or, if it ends in ``/``, none whose name begins so."""
        prefix, component = parted(name)
        with self._lock:
            level = self._levels.get(prefix)
            return level is not None and level.names is not None and self._is_fresh(level) and component not in level.names

    def asked(self, name: str) -> float:
        """When the directory that a name is in was listed last, in monotonic seconds; 0 if it was not."""
        with self._lock:
            level = self._levels.get(parted(name)[0])
            return 0.0 if level is None or level.names is None else level.asked

    def look(self, name: str) -> list[Listed]:
        """Something is about to be asked for: list the directory that it is in, if that was asked about before; answer what is told then."""
        prefix = parted(name)[0]
        with self._lock:
            level, added = self._levels.get(prefix), self._added
            if level is None:
                self._put(prefix, _Level(time.monotonic()))
        if level is not None and not ((level.is_large or level.names is not None) and self._is_fresh(level)):
            return self._list(prefix, added)
        return []

    def _list(self, prefix: str, added: int) -> list[Listed]:
        asked, pages = time.monotonic(), self._bucket.pages(prefix, "/", MOST_NAMES)
        page = next(pages)
        names = {entry.name.removeprefix(prefix) for entry in page}
        is_large = next(pages, None) is not None
        with self._lock:
            if added == self._added:  # else it may lack what was written meanwhile
                self._put(prefix, _Level(asked, None if is_large else names, is_large))
        return page

    def noting(self, prefix: str, asked: float, listed: Iterable[Listed]) -> Iterator[Listed]:
        """Yield what a directory is listed as, and note it when that has come to its end; the bucket was asked at a moment, in monotonic seconds."""
        level = _Level(asked, set())
        assert level.names is not None
        with self._lock:
            self._growing.append((prefix, level.names))
        try:
            for entry in listed:
                if len(level.names) <= MOST_NAMES:
                    level.names.add(entry.name.removeprefix(prefix))
                yield entry
            with self._lock:
                if len(level.names) <= MOST_NAMES:
                    self._put(prefix, level)
        finally:
            with self._lock:
                self._growing = [(other, names) for other, names in self._growing if names is not level.names]

    def made(self, prefix: str, asked: float) -> None:
        """A directory was made, in which there was nothing when the bucket was asked."""
        with self._lock:
            self._put(prefix, _Level(asked, set()))

    def add(self, names: Iterable[str]) -> None:
        """Objects of these names may be there from now on."""
        with self._lock:
            self._added += 1
            for name in names:
                self._add(name)

    def _add(self, name: str) -> None:
        start = 0
        while start < len(name):
            end = name.find("/", start) + 1 or len(name)
            level = self._levels.get(name[:start])
            if level is not None and level.names is not None:
                level.names.add(name[start:end])
            for prefix, names in self._growing:
                if prefix == name[:start]:
                    names.add(name[start:end])
            start = end

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._added += 1
            self._levels.clear()

    def _is_fresh(self, level: _Level) -> bool:
        return time.monotonic() < level.asked + self._freshness()

    def _put(self, prefix: str, level: _Level) -> None:
        self._levels[prefix] = level
        self._levels.move_to_end(prefix)
        if len(self._levels) > MOST_LEVELS:
            self._levels.popitem(last=False)


def parted(name: str) -> tuple[str, str]:
    """Answer the directory that a name is in, and the rest of it, as a listing tells it; the root is in itself."""
    place = name.rfind("/", 0, -1) + 1
    return name[:place], name[place:]
