"""What stores tell their listeners, and the manager that carries it.

The classes are those of the JoinedStore reference. ``StoreUpdateEvent`` (a key that was there already)
is a ``StoreSetEvent``, so who listens for sets hears both. Any object with ``emit(event)`` can stand in
for the manager; encore's own does.
"""

import bisect
import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StoreEvent:
    """Something that happened in ``source``, the store that the caller spoke to."""

    source: object
    handled: bool = field(default=False, init=False)

    def mark_as_handled(self) -> None:
        """Keep the event from the listeners that come after this one."""
        self.handled = True

    # What managers of encore's kind ask of an event.

    @property
    def _handled(self) -> bool:
        return self.handled

    def pre_emit(self) -> None:
        """Called by the manager before the listeners."""

    def post_emit(self) -> None:
        """Called by the manager after the listeners."""


@dataclass(kw_only=True)
class StoreKeyEvent(StoreEvent):
    """Something that happened to ``key``; ``metadata`` is the key's after the event."""

    key: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class StoreSetEvent(StoreKeyEvent):
    """``key`` was written."""


@dataclass(kw_only=True)
class StoreUpdateEvent(StoreSetEvent):
    """``key`` was written, and had been there before."""


@dataclass(kw_only=True)
class StoreDeleteEvent(StoreKeyEvent):
    """``key`` was deleted; ``metadata`` is what it had, where the store knew."""


@dataclass(kw_only=True)
class StoreProgressEvent(StoreKeyEvent):
    """A transfer of ``key``: ``done`` bytes so far, of ``total`` (-1 where unknown)."""

    done: int = 0
    total: int = -1


@dataclass(kw_only=True)
class StoreProgressStartEvent(StoreProgressEvent):
    """A transfer begins."""


@dataclass(kw_only=True)
class StoreProgressStepEvent(StoreProgressEvent):
    """A buffer of a transfer has passed."""


@dataclass(kw_only=True)
class StoreProgressEndEvent(StoreProgressEvent):
    """A transfer has ended; ``failed`` says that an error ended it."""

    failed: bool = False


@dataclass(kw_only=True)
class StoreTransactionEvent(StoreEvent):
    """A transaction, with the notes that its caller gave."""

    notes: str = ""


@dataclass(kw_only=True)
class StoreTransactionStartEvent(StoreTransactionEvent):
    """A transaction begins."""


@dataclass(kw_only=True)
class StoreTransactionEndEvent(StoreTransactionEvent):
    """A transaction was committed; the events of its writes follow."""


E = TypeVar("E", bound=StoreEvent)
Listener = Callable[[Any], object]


@dataclass(order=True)
class _Connection:
    rank: tuple[int, int]
    cls: type[StoreEvent] = field(compare=False)
    function: Listener = field(compare=False)
    filter: Mapping[str, Any] = field(compare=False)

    def wants(self, event: StoreEvent) -> bool:
        missing = object()
        return isinstance(event, self.cls) and all(
            getattr(event, name, missing) == wanted for name, wanted in self.filter.items()
        )


class EventManager:
    """Carries events to listeners: by class (subclasses included), filter and priority.

    Safe from several threads. A listener that raises is logged and harms neither the write that it was
    told of nor the other listeners.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: tuple[_Connection, ...] = ()
        self._disabled: frozenset[type[StoreEvent]] = frozenset()
        self._count = itertools.count()

    def connect(
        self,
        cls: type[E],
        function: Callable[[E], object],
        filter: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> None:
        """Call ``function`` with every event of ``cls`` or a subclass.

        Args:
            cls: The event class.
            function: Called in the thread that emits; what it answers is ignored.
            filter: Attribute names and the values that they must have.
            priority: Higher is called first; equal ones in the order in which they were connected.
        """
        with self._lock:
            new = _Connection((-priority, next(self._count)), cls, function, dict(filter or {}))
            connections = list(self._connections)
            bisect.insort(connections, new)
            self._connections = tuple(connections)

    def disconnect(self, cls: type[E], function: Callable[[E], object]) -> None:
        """Stop calling ``function`` for ``cls``; nothing happens if it was not connected."""
        with self._lock:
            self._connections = tuple(
                c for c in self._connections if not (c.cls is cls and c.function == function)
            )

    def disable(self, cls: type[StoreEvent]) -> None:
        """Drop events of ``cls`` and its subclasses until they are enabled again."""
        with self._lock:
            self._disabled |= {cls}

    def enable(self, cls: type[StoreEvent]) -> None:
        """Carry events of ``cls`` again after :meth:`disable`."""
        with self._lock:
            self._disabled -= {cls}

    def listening(self) -> bool:
        """Answer whether anyone is connected: a store need not build events that nobody hears."""
        return bool(self._connections)

    def emit(self, event: StoreEvent) -> None:
        """Call the listeners that want ``event``, in order, until one marks it as handled."""
        if any(isinstance(event, cls) for cls in self._disabled):
            return
        for connection in self._connections:
            if not connection.wants(event):
                continue
            try:
                connection.function(event)
            except Exception:
                log.exception("a listener for %s failed", type(event).__name__)
            if event.handled:
                return
