"""Progress of long transfers, told to the listeners of a store."""

import io
from typing import TYPE_CHECKING, Any, BinaryIO

from joinfs.events import StoreProgressEndEvent, StoreProgressStartEvent, StoreProgressStepEvent

if TYPE_CHECKING:
    from joinfs.stores.base import Store


class _Reporting(io.RawIOBase):
    """A stream that tells of every read through it; the end is the first empty read."""

    def __init__(self, store: "Store", key: str, data: BinaryIO) -> None:
        self._store, self._key, self._data = store, key, data
        self._done = 0
        self._ended = False
        self._emit(StoreProgressStartEvent)

    def _emit(self, cls: Any, **more: Any) -> None:
        self._store.event_manager.emit(cls(source=self._store, key=self._key, done=self._done, **more))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            piece = self._data.read(size)
        except BaseException:
            self._end(failed=True)
            raise
        self._done += len(piece)
        if piece:
            self._emit(StoreProgressStepEvent)
        if not piece or size < 0:
            self._end(failed=False)
        return piece

    def _end(self, failed: bool) -> None:
        if not self._ended:
            self._ended = True
            self._emit(StoreProgressEndEvent, failed=failed)


def reporting(store: "Store", key: str, data: BinaryIO | None) -> BinaryIO | None:
    """Answer ``data`` as a stream that emits StoreProgress events, or as it is if nobody listens."""
    if data is None or not store._heard():
        return data
    return _Reporting(store, key, data)  # type: ignore[return-value]
