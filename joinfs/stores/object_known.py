"""What is known of the objects of a bucket: for a moment by itself, and for long where a listing says that it is so still."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from joinfs.stores.object_bucket import Bucket, Found, Listed
from joinfs.stores.object_levels import Levels
from joinfs.stores.object_walks import Walks
from joinfs.stores.value import NANOSECONDS, SETTLED

T = TypeVar("T")

# An object and what is said of it take about a kilobyte.
MOST_KNOWN = 50_000
# Of so many names it is known when they were written last.
MOST_WRITTEN = 50_000


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
        # How often something was written, and at which of these times what was; what was not since some time is not known any more.
        self._forgotten = self._oldest = 0
        self._written: OrderedDict[tuple[str, bool], int] = OrderedDict()
        self._levels, self._walks = Levels(bucket, freshness), Walks(bucket, freshness)
        # What is being asked, and after which time it was written: who wants to know the same waits for that answer.
        self._asking: dict[tuple[tuple[str, bool], int], Future[Any]] = {}

    def knows(self, name: str) -> bool:
        """Whether ``find`` answers about an object without asking for it."""
        return self._fresh((name, False)) is not None or self._levels.lacks(name)

    def look(self, name: str) -> None:
        """An object, or a directory of its name, is about to be asked for, and perhaps others beside it."""
        if self.knows(name):
            return
        moment = self.moment()
        for listed in self._levels.look(name):
            if listed.found is not None:
                self.saw(listed.name, listed.found, moment)

    def find(self, name: str) -> Found | None:
        """Answer what is said of an object; None if it is not there."""
        seen = self._fresh((name, False))
        if seen is None:
            return None if self._levels.lacks(name) else self._ask((name, False), lambda: self._head(name))
        return seen.what if isinstance(seen.what, Found) else None

    def find_listed(self, listed: Listed, moment: tuple[float, int]) -> Found | None:
        """The same of one that a listing, begun at a moment, has just told of: if it is as it was, or all is told, it is not asked for."""
        if listed.found is not None:
            self.saw(listed.name, listed.found, moment)
            return listed.found
        seen = self._seen.get((listed.name, False))
        found = seen.what if seen is not None else None
        if isinstance(found, Found) and is_as_listed(found, listed):
            return found
        return self._ask((listed.name, False), lambda: self._head(listed.name))

    def has_below(self, prefix: str) -> bool:
        """Whether the name of any object begins with ``prefix``, be it that one itself."""
        itself, seen = self._fresh((prefix, False)), self._fresh((prefix, True))
        if itself is not None and itself.what:
            return True
        if seen is not None or self._levels.lacks(prefix):
            return seen is not None and bool(seen.what)
        return self._ask((prefix, True), lambda: bool(self._bucket.first(prefix, 1)))

    def listed_in(self, prefix: str, base: str, ahead: Callable[[Sequence[Listed]], object]) -> Iterator[Listed]:
        """Yield what the bucket lists with a prefix, and up to a ``/``; the arguments as for ``Walks.level``."""
        asked, told = self._walks.level(prefix, base, ahead) or (time.monotonic(), None)
        listed = told or (entry for page in self._bucket.pages(prefix, "/") for entry in page)
        return self._levels.noting(prefix, asked, listed)

    def moment(self) -> tuple[float, int]:
        """What ``tell_below`` and ``saw`` are to be told with: when the bucket was asked."""
        return time.monotonic(), self._forgotten

    def asked(self, prefix: str) -> float:
        """When ``has_below`` was answered last, in monotonic seconds; 0 if that is not known."""
        seen = self._seen.get((prefix, True))
        return self._levels.asked(prefix) if seen is None else seen.asked

    def tell_below(self, prefix: str, is_any: bool, moment: tuple[float, int]) -> None:
        """A listing that was begun at a moment tells whether any name begins with ``prefix``."""
        with self._lock:
            if not self._was_written((prefix, True), moment[1]):
                self._put((prefix, True), _Seen(is_any, moment[0]))

    def forget(self, *names: str) -> None:
        """These were written, so what was said of them, and of what begins their names, is not so any more."""
        self._levels.add(names)
        self._walks.forget(names)
        with self._lock:
            self._forgotten += 1
            for name in names:
                for place in ((name, False), *((name[:i], True) for i, letter in enumerate(name, 1) if letter == "/")):
                    self._seen.pop(place, None)
                    self._written[place] = self._forgotten
                    self._written.move_to_end(place)
            while len(self._written) > MOST_WRITTEN:
                self._oldest = self._written.popitem(last=False)[1]

    def saw(self, name: str, found: Found, moment: tuple[float, int]) -> None:
        """The bucket, asked at a moment, has said this of an object beside what it was asked for."""
        with self._lock:
            if not self._was_written((name, False), moment[1]):
                self._put((name, False), _Seen(found, moment[0]))
            elif (seen := self._seen.get((name, False))) is not None and seen.what != found:
                del self._seen[name, False]  # one of the two is older

    def wrote(self, name: str, found: Found) -> None:
        """An object was written, of which this is to be said now."""
        self.forget(name)
        with self._lock:
            self._put((name, False), _Seen(found, time.monotonic()))

    def made(self, prefix: str, since: float) -> None:
        """A directory was made where there was nothing from a moment on, in monotonic seconds."""
        self._levels.made(prefix, since)

    def clear(self) -> None:
        """Forget everything."""
        self._levels.clear()
        self._walks.clear()
        with self._lock:
            self._forgotten += 1
            self._oldest = self._forgotten
            self._written.clear()
            self._seen.clear()

    def _was_written(self, place: tuple[str, bool], since: int) -> bool:
        """Whether something was written after a time, so that an answer may be of before that. Hold the lock."""
        return since < max(self._oldest, self._written.get(place, 0))

    def _head(self, name: str) -> Found | None:
        try:
            return self._bucket.head(name)
        except KeyError:
            return None

    def _fresh(self, place: tuple[str, bool]) -> _Seen | None:
        seen = self._seen.get(place)
        return seen if seen is not None and time.monotonic() < seen.asked + self._freshness() else None

    def _ask(self, place: tuple[str, bool], ask: Callable[[], T]) -> T:
        with self._lock:
            asking = (place, self._written.get(place, 0))
            told, answer = self._asking.get(asking), Future[T]()
            if told is None:
                self._asking[asking] = answer
        if told is not None:
            answered: T = told.result()
            return answered
        try:
            answer.set_result(self._ask_now(place, ask))
        except BaseException as error:
            answer.set_exception(error)
        finally:
            del self._asking[asking]
        return answer.result()

    def _ask_now(self, place: tuple[str, bool], ask: Callable[[], T]) -> T:
        asked, forgotten = time.monotonic(), self._forgotten
        what = ask()
        with self._lock:
            if not self._was_written(place, forgotten):
                self._put(place, _Seen(what, asked))  # type: ignore[arg-type]
        return what

    def _put(self, place: tuple[str, bool], seen: _Seen) -> None:
        self._seen[place] = seen
        self._seen.move_to_end(place)
        if len(self._seen) > MOST_KNOWN:
            self._seen.popitem(last=False)


def is_as_listed(found: Found, listed: Listed) -> bool:
    """Whether it is the same version, with the same metadata: that changes the date alone, which is of whole seconds."""
    if found.asked - found.modified < SETTLED:
        return False
    same_second = found.modified // NANOSECONDS == listed.modified // NANOSECONDS
    return same_second and (found.etag, found.size) == (listed.etag, listed.size)
