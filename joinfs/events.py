"""What stores tell their listeners, and the manager that carries it.

The classes are those of the JoinedStore reference. ``StoreUpdateEvent`` (a key that was there already)
is a ``StoreSetEvent``, so who listens for sets hears both. Events and manager have the API of encore's
``BaseEvent`` and ``BaseEventManager``; any object with ``emit(event)`` can stand in for the manager.
"""

import bisect
import itertools
import logging
import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class StoreEvent:
    """Something that happened in ``source``, the store that the caller spoke to. Each is equal to itself only."""

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


@dataclass(kw_only=True, eq=False)
class StoreKeyEvent(StoreEvent):
    """Something that happened to ``key``; ``metadata`` is the key's after the event."""

    key: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class StoreSetEvent(StoreKeyEvent):
    """``key`` was written."""


@dataclass(kw_only=True, eq=False)
class StoreUpdateEvent(StoreSetEvent):
    """``key`` was written, and had been there before."""


@dataclass(kw_only=True, eq=False)
class StoreDeleteEvent(StoreKeyEvent):
    """``key`` was deleted; ``metadata`` is what it had, where the store knew."""


@dataclass(kw_only=True, eq=False)
class StoreProgressEvent(StoreKeyEvent):
    """A transfer of ``key``: ``done`` bytes so far, of ``total`` (-1 where unknown).

    All events of one transfer have one ``operation_id``, a number. ``metadata`` is what is about to be set, or
    empty where only data is moved.
    """

    operation_id: int = 0
    message: str = ""
    done: int = 0
    total: int = -1

    # What listeners of encore's kind ask of an event.

    @property
    def steps(self) -> int:
        """The same as ``total``."""
        return self.total

    @property
    def step(self) -> int:
        """The same as ``done``."""
        return self.done


@dataclass(kw_only=True, eq=False)
class StoreProgressStartEvent(StoreProgressEvent):
    """A transfer begins."""


@dataclass(kw_only=True, eq=False)
class StoreProgressStepEvent(StoreProgressEvent):
    """A buffer of a transfer has passed."""


@dataclass(kw_only=True, eq=False)
class StoreProgressEndEvent(StoreProgressEvent):
    """A transfer has ended; ``failed`` says that an error ended it."""

    failed: bool = False

    @property
    def exit_state(self) -> str:
        """``normal``, or ``exception`` if it failed."""
        return "exception" if self.failed else "normal"


@dataclass(kw_only=True, eq=False)
class StoreTransactionEvent(StoreEvent):
    """A transaction, with the notes that its caller gave."""

    notes: str = ""


@dataclass(kw_only=True, eq=False)
class StoreTransactionStartEvent(StoreTransactionEvent):
    """A transaction begins."""


@dataclass(kw_only=True, eq=False)
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

    def calls(self, cls: type[StoreEvent], function: Listener) -> bool:
        return self.cls is cls and self.function == function

    def wants(self, event: StoreEvent) -> bool:
        return isinstance(event, self.cls) and all(_has(event, name, wanted) for name, wanted in self.filter.items())


def _has(event: StoreEvent, name: str, wanted: Any) -> bool:
    """Whether an attribute, or one of an attribute (``source.name``), has a value."""
    try:
        return bool(operator.attrgetter(name)(event) == wanted)
    except AttributeError:
        return False


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
        """Call ``function`` with every event of ``cls`` or a subclass; who is connected already is connected anew.

        Args:
            cls: The event class.
            function: Called in the thread that emits; what it answers is ignored.
            filter: Attribute names (``key``, ``source.name``) and the values that they must have.
            priority: Higher is called first; equal ones in the order in which they were connected.
        """
        with self._lock:
            new = _Connection((-priority, next(self._count)), cls, function, dict(filter or {}))
            connections = [c for c in self._connections if not c.calls(cls, function)]
            bisect.insort(connections, new)
            self._connections = tuple(connections)

    def disconnect(self, cls: type[E], function: Callable[[E], object]) -> None:
        """Stop calling ``function`` for ``cls``.

        Raises:
            KeyError: It is not connected.
        """
        with self._lock:
            left = tuple(c for c in self._connections if not c.calls(cls, function))
            if len(left) == len(self._connections):
                raise KeyError(function)
            self._connections = left

    def disable(self, cls: type[StoreEvent]) -> None:
        """Drop events of ``cls`` and its subclasses until they are enabled again."""
        with self._lock:
            self._disabled |= {cls}

    def enable(self, cls: type[StoreEvent]) -> None:
        """Carry events of ``cls`` again after :meth:`disable`."""
        with self._lock:
            self._disabled -= {cls}

    def is_enabled(self, cls: type[StoreEvent]) -> bool:
        """Answer whether events of ``cls`` are carried: neither it nor a class above it is disabled."""
        return not any(issubclass(cls, disabled) for disabled in self._disabled)

    def listening(self) -> bool:
        """Answer whether anyone is connected: a store need not build events that nobody hears."""
        return bool(self._connections)

    def emit(self, event: StoreEvent, block: bool = True) -> threading.Thread | None:
        """Call the listeners that want ``event``, in order, until one marks it as handled.

        Args:
            event: What happened.
            block: Return when they have been called; if False, they are called in a thread, which is answered.
        """
        if not block:
            thread = threading.Thread(target=self.emit, args=(event,), name=f"listeners for {type(event).__name__}")
            thread.start()
            return thread
        if self.is_enabled(type(event)):
            event.pre_emit()
            self._call(event)
            event.post_emit()
        return None

    def _call(self, event: StoreEvent) -> None:
        for connection in self._connections:
            try:
                if connection.wants(event):
                    connection.function(event)
            except Exception:
                log.exception("a listener for %s failed", type(event).__name__)
            if event._handled:
                return
