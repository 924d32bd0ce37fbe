"""Locks whose owner may take long: who has to wait says so first, so that somebody else does meanwhile what it does else."""

import threading
from collections.abc import Callable
from types import TracebackType


class PatientLock:
    """A lock that a thread can take again while it has it.

    Args:
        before_waiting: Called by a thread that has to wait, before it does.
    """

    __slots__ = ("_before_waiting", "_lock")

    def __init__(self, before_waiting: Callable[[], None]) -> None:
        self._lock = threading.RLock()
        self._before_waiting = before_waiting

    def acquire(self, timeout: float = -1) -> bool:
        """Take it; False if it could not be had for so many seconds. With 0 nobody waits."""
        if self._lock.acquire(blocking=False):
            return True
        if timeout == 0:
            return False
        self._before_waiting()
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._before_waiting()
            self._lock.acquire()

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._lock.release()
