"""How a store tells its listeners: events of writes, held back while a transaction is open."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from joinfs.events import (
    EventManager,
    StoreDeleteEvent,
    StoreEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from joinfs.stores.metadata import unshared
from joinfs.stores.telling import Telling
from joinfs.stores.value import Metadata

if TYPE_CHECKING:
    from joinfs.stores.base import Store


class Announcing(Telling):
    """The part of ``Store`` that emits events and groups them into transactions."""

    def __init__(self, event_manager: Any) -> None:
        super().__init__()
        self.event_manager: Any = EventManager() if event_manager is None else event_manager
        self._open_transactions = threading.local()

    @contextlib.contextmanager
    def transaction(self: "Store", notes: str) -> Iterator[None]:  # type: ignore[misc]
        """Group writes. Inside another transaction of this thread it becomes part of that one.

        All or nothing where ``capabilities.transactions`` says so; a part that fails is undone alone, if the
        error is caught within the whole. A store without them writes at once, keeps other threads from writing
        until the end, and an error leaves what was written before it.

        Events of the writes come after StoreTransactionEndEvent. After an error that does not come, nor does
        any event of what was undone.

        Args:
            notes: What the transaction is for; it goes into the events.

        Raises:
            NotConnected: The store is not connected.
        """
        outer: list[StoreEvent] | None = getattr(self._open_transactions, "events", None)
        if outer is not None:
            with self._undone_alone(outer, self._nested_transaction()):
                yield
            return
        self._check_connected()
        self._emit(StoreTransactionStartEvent(source=self, notes=notes))
        pending = self._open_transactions.events = []
        changed: dict[str | None, None] = {}
        self._open_transactions.changed = changed
        subscribers = self._subscribers
        try:
            with self._undone_alone(pending, self._transaction()):
                yield
            self._open_transactions.events = None
            self._emit(StoreTransactionEndEvent(source=self, notes=notes))
        finally:
            self._open_transactions.events = self._open_transactions.changed = None
            if self._subscribers is not subscribers:  # they have not been told from the beginning
                changed[None] = None
            for key in changed:
                self._tell_changed(key)
            for event in pending:
                self._emit(event)

    def _tell_changed(self, key: str | None) -> None:
        changed: dict[str | None, None] | None = getattr(self._open_transactions, "changed", None)
        if changed is None:
            super()._tell_changed(key)
        else:
            changed[key] = None

    @contextlib.contextmanager
    def _undone_alone(  # type: ignore[misc]
        self: "Store", events: list[StoreEvent], transaction: contextlib.AbstractContextManager[object]
    ) -> Iterator[None]:
        """Around a transaction or a part of one: after an error its events are not told, if it is undone."""
        before = len(events)
        try:
            with transaction:
                yield
        except BaseException:
            if self.capabilities.transactions:
                del events[before:]
            raise
        finally:
            self._note_change()  # what others saw until now, or what we saw of it, is not so any more

    def _transaction(self: "Store") -> contextlib.AbstractContextManager[object]:  # type: ignore[misc]
        """Begin, and at the end commit or (after an exception, which goes on) roll back.

        A store that can do neither keeps other threads from writing meanwhile, at least.
        """
        return self._exclusive()

    def _nested_transaction(self) -> contextlib.AbstractContextManager[object]:
        """Around a part of a transaction, which after an exception is undone alone by a store that can undo."""
        return contextlib.nullcontext()

    def _heard(self) -> bool:
        listening = getattr(self.event_manager, "listening", None)
        return listening is None or bool(listening())

    def _emit(self, event: StoreEvent) -> None:
        if not self._heard():
            return
        pending = getattr(self._open_transactions, "events", None)
        if pending is not None and isinstance(event, StoreSetEvent | StoreDeleteEvent):
            pending.append(event)
        else:
            self.event_manager.emit(event)

    def _tell_set(  # type: ignore[misc]
        self: "Store", key: str, existed: bool, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if self._heard():
            known = self.get_metadata(key) if metadata is None else metadata
            cls = StoreUpdateEvent if existed else StoreSetEvent
            self._emit(cls(source=self, key=key, metadata=unshared(known)))

    def _tell_deleted(self, key: str, metadata: Metadata) -> None:
        self._emit(StoreDeleteEvent(source=self, key=key, metadata=metadata))
