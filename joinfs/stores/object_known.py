"""What is known of the objects of a bucket: for a moment by itself, and for long where a listing says that it is so still."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from joinfs.stores.object_bucket import Bucket, Found, Listed
from joinfs.stores.value import NANOSECONDS, SETTLED

T = TypeVar("T")

# An object and what is said of it take about a kilobyte.
MOST_KNOWN = 50_000


class _Seen(NamedTuple):
    """What the bucket said, and when we asked, in monotonic seconds."""

    what: Found | bool | None
    asked: float


class Known:
    """The objects of a bucket, each asked for as seldom as can be; several threads may ask.

    Args:
        bucket: Who is asked.
        freshness: For how many seconds an answer is believed.
    """

    def __init__(self, bucket: Bucket, freshness: Callable[[], float]) -> None:
        self._bucket, self._freshness = bucket, freshness
        self._lock = threading.Lock()
        self._seen: OrderedDict[tuple[str, bool], _Seen] = OrderedDict()
        self._forgotten = 0

    def find(self, name: str) -> Found | None:
        """Answer what is said of an object; None if it is not there."""
        seen = self._fresh((name, False))
        if seen is None:
            return self._ask((name, False), lambda: self._head(name))
        return seen.what if isinstance(seen.what, Found) else None

    def find_listed(self, listed: Listed) -> Found | None:
        """The same of one that a listing has just told of: if it is as it was, it is not asked for."""
        seen = self._seen.get((listed.name, False))
        found = seen.what if seen is not None else None
        if isinstance(found, Found) and is_as_listed(found, listed):
            return found
        return self._ask((listed.name, False), lambda: self._head(listed.name))

    def has_below(self, prefix: str) -> bool:
        """Whether the name of any object begins with ``prefix``."""
        seen = self._fresh((prefix, True))
        return bool(seen.what) if seen is not None else self._ask((prefix, True), lambda: bool(self._bucket.first(prefix, 1)))

    def forget(self, *names: str) -> None:
        """These were written, so what was said of them, and of what begins their names, is not so any more."""
        with self._lock:
            self._forgotten += 1
            for name in names:
                self._seen.pop((name, False), None)
                for place in [i for i, letter in enumerate(name, 1) if letter == "/"]:
                    self._seen.pop((name[:place], True), None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._forgotten += 1
            self._seen.clear()

    def _head(self, name: str) -> Found | None:
        try:
            return self._bucket.head(name)
        except KeyError:
            return None

    def _fresh(self, place: tuple[str, bool]) -> _Seen | None:
        seen = self._seen.get(place)
        return seen if seen is not None and time.monotonic() < seen.asked + self._freshness() else None

    def _ask(self, place: tuple[str, bool], ask: Callable[[], T]) -> T:
        asked, forgotten = time.monotonic(), self._forgotten
        what = ask()
        with self._lock:
            if forgotten == self._forgotten:  # else it may be of before what was written meanwhile
                self._seen[place] = _Seen(what, asked)  # type: ignore[arg-type]
                self._seen.move_to_end(place)
            if len(self._seen) > MOST_KNOWN:
                self._seen.popitem(last=False)
        return what


def is_as_listed(found: Found, listed: Listed) -> bool:
    """Whether it is the same version, with the same metadata: that changes the date alone, which is of whole seconds."""
    if found.asked - found.modified < SETTLED:
        return False
    same_second = found.modified // NANOSECONDS == listed.modified // NANOSECONDS
    return same_second and (found.etag, found.size) == (listed.etag, listed.size)
