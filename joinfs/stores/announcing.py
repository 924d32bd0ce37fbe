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
from joinfs.stores.value import Metadata

if TYPE_CHECKING:
    from joinfs.stores.base import Store


class Announcing:
    """The part of ``Store`` that emits events and groups them into transactions."""

    def __init__(self, event_manager: Any) -> None:
        self.event_manager: Any = EventManager() if event_manager is None else event_manager
        self._open_transactions = threading.local()

    @contextlib.contextmanager
    def transaction(self: "Store", notes: str) -> Iterator[None]:  # type: ignore[misc]
        """Group writes. Inside another transaction of this thread it becomes part of that one.

        All or nothing where ``capabilities.transactions`` says so. A store without them writes at once, keeps
        other threads from writing until the end, and an error leaves what was written before it. Either way events of the writes come after
        StoreTransactionEndEvent, and those of a transaction that failed do not come.

        Args:
            notes: What the transaction is for; it goes into the events.
        """
        if getattr(self._open_transactions, "events", None) is not None:
            yield
            return
        self._emit(StoreTransactionStartEvent(source=self, notes=notes))
        pending: list[StoreEvent] = []
        self._open_transactions.events = pending
        try:
            with self._transaction():
                yield
        finally:
            self._open_transactions.events = None
            self._note_change()  # what others saw until now, or what we saw of it, is not so any more
        self._emit(StoreTransactionEndEvent(source=self, notes=notes))
        for event in pending:
            self._emit(event)

    def _transaction(self: "Store") -> contextlib.AbstractContextManager[object]:  # type: ignore[misc]
        """Begin, and at the end commit or (after an exception, which goes on) roll back.

        A store that can do neither keeps other threads from writing meanwhile, at least.
        """
        return self._exclusive()

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
            self._emit(cls(source=self, key=key, metadata=dict(known)))

    def _tell_deleted(self, key: str, metadata: Metadata) -> None:
        self._emit(StoreDeleteEvent(source=self, key=key, metadata=metadata))
