"""Progress of long transfers, told to the listeners of a store."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

from joinfs.events import StoreProgressEndEvent, StoreProgressStartEvent, StoreProgressStepEvent

if TYPE_CHECKING:
    from joinfs.stores.base import Store


class _Reporting(io.RawIOBase):
    """A stream that tells of every read through it."""

    def __init__(self, store: "Store", key: str, data: BinaryIO) -> None:
        self._store, self._key, self._data = store, key, data
        self._done, self._total = 0, _length(data)

    def emit(self, cls: Any, **more: Any) -> None:
        """Tell where the transfer is."""
        self._store.event_manager.emit(
            cls(source=self._store, key=self._key, done=self._done, total=self._total, **more)
        )

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(size)
        self._done += len(piece)
        if piece:
            self.emit(StoreProgressStepEvent)
        return piece


def reporting(store: "Store", key: str, data: BinaryIO | None) -> contextlib.AbstractContextManager[BinaryIO | None]:
    """Give ``data`` as a stream that emits StoreProgress events, or as it is if nobody listens.

    The start is told at once, each read as a step, and the end at the end of the block, failed or not.
    """
    if data is None or not store._heard():
        return contextlib.nullcontext(data)
    return _reported(_Reporting(store, key, data))


@contextlib.contextmanager
def _reported(stream: _Reporting) -> Iterator[BinaryIO | None]:
    stream.emit(StoreProgressStartEvent)
    try:
        yield stream  # type: ignore[misc]
    except BaseException:
        stream.emit(StoreProgressEndEvent, failed=True)
        raise
    stream.emit(StoreProgressEndEvent)


def _length(data: BinaryIO) -> int:
    """How many bytes are to come; -1 if that cannot be told."""
    try:
        here = data.tell()
        length = data.seek(0, io.SEEK_END) - here
        data.seek(here)
    except (AttributeError, OSError, ValueError):
        return -1
    return length
