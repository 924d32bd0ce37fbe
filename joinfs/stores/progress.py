"""Progress of long transfers, told to the listeners of a store."""

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from joinfs.events import StoreProgressEndEvent, StoreProgressStartEvent, StoreProgressStepEvent
from joinfs.stores.metadata import unshared
from joinfs.stores.value import binary, remaining

if TYPE_CHECKING:
    from joinfs.stores.base import Store
    from joinfs.stores.reading import Reading

# Numbers for transfers.
_operations = itertools.count(1)


class _Reporting(io.RawIOBase):
    """A stream that tells of every read through it."""

    def __init__(self, store: "Store", key: str, data: BinaryIO, metadata: Mapping[str, Any]) -> None:
        self._data, self._done = data, 0
        self._emit = store.event_manager.emit
        self._facts = {
            "source": store,
            "key": key,
            "metadata": metadata,
            "operation_id": next(_operations),
            "message": f"moving the data of {key}",
            "total": remaining(data),
        }

    def emit(self, cls: Any, **more: Any) -> None:
        """Tell where the transfer is."""
        self._emit(cls(done=self._done, **self._facts, **more))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(size)
        self._done += len(binary(piece))
        if piece:
            self.emit(StoreProgressStepEvent)
        return piece


def reporting(
    store: "Store", key: str, data: BinaryIO | None, metadata: Mapping[str, Any] | None = None
) -> contextlib.AbstractContextManager[BinaryIO | None]:
    """Give ``data`` as a stream that emits StoreProgress events, or as it is if nobody listens.

    The start is told at once, each read as a step, and the end at the end of the block, failed or not.
    """
    if data is None or not store._heard():
        return contextlib.nullcontext(data)
    return _reported(_Reporting(store, key, data, unshared(metadata or {})))


@contextlib.contextmanager
def _reported(stream: _Reporting) -> Iterator[BinaryIO | None]:
    stream.emit(StoreProgressStartEvent)
    try:
        yield stream  # type: ignore[misc]
    except BaseException:
        stream.emit(StoreProgressEndEvent, failed=True)
        raise
    stream.emit(StoreProgressEndEvent)


class Work:
    """Long work on a store, of which its listeners are told by StoreProgress events with an empty key.

    For a ``with`` statement, which says when it begins and ends.

    Args:
        store: Whose listeners are told.
        message: What is done, ``committing`` for instance.
        total: How much there is to do; -1 for not knowing.
    """

    def __init__(self, store: "Reading", message: str, total: int = -1) -> None:
        self._store: Any = store
        self._message, self._total = message, total
        self._number, self._done = next(_operations), 0

    def __enter__(self) -> Self:
        self._emit(StoreProgressStartEvent)
        return self

    def advance(self, done: int = 1) -> None:
        """So much more is done."""
        self._done += done
        self._emit(StoreProgressStepEvent)

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        self._emit(StoreProgressEndEvent, failed=exc_type is not None)

    def _emit(self, cls: Any, **more: Any) -> None:
        if self._store._heard():
            self._store.event_manager.emit(
                cls(source=self._store, key="", operation_id=self._number, message=self._message, done=self._done, total=self._total, **more)
            )
