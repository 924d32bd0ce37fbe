"""A lock that many may share, or one may have alone."""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType


class Gate:
    """Readers share it; who has it alone keeps all other threads out.

    Sharing nests in either. Who waits to have it alone goes before readers that come later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._sharing = 0
        self._waiting = 0
        self._owner: int | None = None
        self._share = _Share(self)

    def shared(self) -> "_Share":
        """Keep out who wants it alone, in a ``with`` statement."""
        return self._share

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out all other threads. It is not taken within ``shared``, by one thread."""
        me = threading.get_ident()
        with self._lock:
            self._waiting += 1
            try:
                while self._owner is not None or self._sharing:
                    self._changed.wait()
            finally:
                self._waiting -= 1
            self._owner = me
        try:
            yield
        finally:
            with self._lock:
                self._owner = None
                self._changed.notify_all()

    def is_mine(self) -> bool:
        """Whether this thread has it alone."""
        return self._owner == threading.get_ident()


class _Share(threading.local):
    """What ``shared`` gives; one object for all threads, since it is entered with every read of a store.

    What it counts is each thread's own.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth and not self._gate.is_mine():
            self._wait()
        self._depth += 1

    def _wait(self) -> None:
        gate = self._gate
        with gate._lock:
            while gate._owner is not None or gate._waiting:
                gate._changed.wait()
            gate._sharing += 1

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        gate = self._gate
        if not self._depth and not gate.is_mine():
            with gate._lock:
                gate._sharing -= 1
                if not gate._sharing:
                    gate._changed.notify_all()
