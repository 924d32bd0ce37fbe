"""What the kernel keeps, and would keep for ever, of what nobody tells of: it is told to ask again after a while."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lapsing(Generic[T]):
    """Things, as a rule nodes' numbers, of which something was told that holds for a while only.

    Args:
        tell: Called with each when the while is over, in a thread of its own.
        seconds: How long it is.
    """

    def __init__(self, tell: Callable[[T], object], seconds: float) -> None:
        self._tell, self._seconds = tell, seconds
        self._changed = threading.Condition()
        self._due: deque[tuple[float, T]] = deque()
        self._thread: threading.Thread | None = None
        self._ended = False

    def put(self, thing: T) -> None:
        """From now on it holds for that long."""
        with self._changed:
            self._due.append((time.monotonic() + self._seconds, thing))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="joinfs lets lapse", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Tell nobody any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _work(self) -> None:
        while (thing := self._next()) is not None:
            self._tell(thing)

    def _next(self) -> T | None:
        with self._changed:
            while not self._ended and (not self._due or (left := self._due[0][0] - time.monotonic()) > 0):
                self._changed.wait(left if self._due else None)
            return None if self._ended else self._due.popleft()[1]
