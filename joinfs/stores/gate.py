"""A lock that many may share, or one may have alone."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Readers share it; who has it alone keeps all other threads out.

    Sharing nests in either. Who waits to have it alone goes before readers that come later.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition(threading.Lock())
        self._sharing = 0
        self._waiting = 0
        self._owner: int | None = None
        self._mine = threading.local()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Keep out who wants it alone."""
        me, depth = threading.get_ident(), getattr(self._mine, "depth", 0)
        if self._owner == me or depth:
            yield
            return
        with self._condition:
            while self._owner is not None or self._waiting:
                self._condition.wait()
            self._sharing += 1
        self._mine.depth = 1
        try:
            yield
        finally:
            self._mine.depth = 0
            with self._condition:
                self._sharing -= 1
                if not self._sharing:
                    self._condition.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep out all other threads. It is not taken within ``shared``, by one thread."""
        me = threading.get_ident()
        with self._condition:
            self._waiting += 1
            try:
                while self._owner is not None or self._sharing:
                    self._condition.wait()
            finally:
                self._waiting -= 1
            self._owner = me
        try:
            yield
        finally:
            with self._condition:
                self._owner = None
                self._condition.notify_all()

    def is_mine(self) -> bool:
        """Whether this thread has it alone."""
        return self._owner == threading.get_ident()
