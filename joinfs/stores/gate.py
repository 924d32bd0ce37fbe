"""A lock that many may share, or one may have alone."""

import contextlib
import threading
from collections.abc import Iterator
from threading import get_ident
from types import TracebackType


class Gate:
    """Readers share it; who has it alone keeps all other threads out.

    Sharing nests in either. Who waits to have it alone goes before readers that come later.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._opened = threading.Condition(self._lock)
        # The threads that share it, each as often as it does. A reader writes itself down and then looks whether the gate
        # is closed; who wants it alone closes it and then looks who is written down: so one of them sees the other.
        self._sharing: list[int] = []
        self._closed = False
        self._waiting = 0
        self._owner: int | None = None
        self._share = _Share(self)

    def shared(self) -> "_Share":
        """Keep out who wants it alone, in a ``with`` statement."""
        return self._share

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out all other threads. It is not taken within ``shared``, by one thread."""
        with self._lock:
            self._closed = True
            self._waiting += 1
            try:
                while self._owner is not None or self._sharing:
                    self._left.wait()
                self._owner = get_ident()
            finally:
                self._waiting -= 1
                self._open_if_free()
        try:
            yield
        finally:
            with self._lock:
                self._owner = None
                self._left.notify_all()
                self._open_if_free()

    def _open_if_free(self) -> None:
        self._closed = self._owner is not None or self._waiting > 0
        if not self._closed:
            self._opened.notify_all()

    def is_mine(self) -> bool:
        """Whether this thread has it alone."""
        return self._owner == get_ident()

    def wait_outside(self, me: int) -> None:
        """A thread has come to share it while it is closed: unless it was inside before, it waits."""
        if self._owner == me or self._sharing.count(me) > 1:
            return
        with self._lock:
            self._sharing.remove(me)
            self._left.notify_all()
            while self._closed:
                self._opened.wait()
            self._sharing.append(me)

    def tell_left(self) -> None:
        """A thread does not share it any more, and somebody is waiting for that."""
        with self._lock:
            self._left.notify_all()


class _Share:
    """What ``shared`` gives; one object for all threads, since it is entered with every read of a store."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        gate, me = self._gate, get_ident()
        gate._sharing.append(me)
        if gate._closed:
            gate.wait_outside(me)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gate = self._gate
        gate._sharing.remove(get_ident())
        if gate._closed:
            gate.tell_left()
