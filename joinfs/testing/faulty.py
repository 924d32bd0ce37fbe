"""A store that fails, waits and breaks off when it is told to, over one that does not."""

import io
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from joinfs.stores.base import Store
from joinfs.stores.value import MEBIBYTE, Value, Versioned
from joinfs.stores.views import View

READS = (
    "stat", "lookup", "list", "list_marked", "get", "get_data", "get_data_range", "get_metadata", "get_xattrs", "read", "read_version",
    "open_local", "open_in_place", "usage",
)  # fmt: skip
WRITES = (
    "put", "set", "set_data", "set_metadata", "update_metadata", "make", "make_local", "delete", "set_stat", "set_xattr",
    "rename", "exchange", "link", "sync", "drain", "put_sent",
)  # fmt: skip


class Fault(NamedTuple):
    """What goes wrong with one call.

    Attributes:
        error: What is raised; None if it is carried out.
        late: It is carried out all the same: only the answer is lost.
        delay: Seconds that it takes longer.
        most: Bytes of data that come through, of what is read (it ends there) and of what is written (it fails there,
            and nothing is stored).
    """

    error: Exception | None = None
    late: bool = False
    delay: float = 0.0
    most: int | None = None


Schedule = Callable[[str], Fault | None]


class FaultyStore(View):
    """Another store, of which calls fail as a schedule says.

    Args:
        store: The other store; connected and disconnected with this one.
        schedule: Asked before each call, with the name of the method, one of ``READS`` and ``WRITES``; what it answers
            happens to that call. It may be set to something else at any time, as the attribute ``schedule``.
        event_manager: As for ``Store``.

    Files that ``open_local`` and ``make_local`` have answered are the host's, and do not fail.
    """

    def __init__(self, store: Store, schedule: Schedule, event_manager: Any = None) -> None:
        self.schedule: Schedule = schedule
        tampered: Any = _Tampered(store, self._fault)
        super().__init__(tampered, event_manager)
        self.name = f"faulty {store.name}"

    def _fault(self, method: str) -> Fault | None:
        return self.schedule(method)


def never(method: str) -> Fault | None:  # noqa: ARG001 - a schedule is asked with it
    """The schedule by which nothing goes wrong."""
    return None


class RandomFaults:
    """A schedule by chance, the same for the same seed.

    Args:
        seed: Where the chances begin.
        rate: How many of all calls go wrong, 0 to 1.
        faults: What can happen, one as likely as the other.
        methods: What it can happen to.
    """

    def __init__(self, seed: int, rate: float, faults: Sequence[Fault], methods: Sequence[str] = READS + WRITES) -> None:
        self._chance, self._rate = random.Random(seed), rate  # noqa: S311 - nothing secret
        self._faults, self._methods = list(faults), frozenset(methods)

    def __call__(self, method: str) -> Fault | None:
        if method not in self._methods or self._chance.random() >= self._rate:
            return None
        return self._chance.choice(self._faults)


class _Tampered:
    """All that a store is, but that its calls go wrong."""

    def __init__(self, store: Store, schedule: Schedule) -> None:
        self._store, self._schedule = store, schedule

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in READS and name not in WRITES:
            return found
        return lambda *arguments, **named: self._call(name, found, arguments, named)

    def _call(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        fault = self._schedule(name)
        if fault is None:
            return method(*arguments, **named)
        time.sleep(fault.delay)
        if fault.error is not None and not fault.late:
            raise fault.error
        if fault.most is not None:
            arguments = tuple(_broken_off(argument, fault.most) for argument in arguments)
        answer = method(*arguments, **named)
        if fault.error is not None:
            raise fault.error
        return answer if fault.most is None else _short(answer, fault.most)


def _short(answer: Any, most: int) -> Any:
    """An answer whose data ends early; what has none stays as it is."""
    if isinstance(answer, bytes):
        return answer[:most]
    if isinstance(answer, Versioned):
        return answer._replace(data=answer.data[:most])
    if isinstance(answer, Value):
        data = answer.data
        return Value(lambda: io.BytesIO(data.read(most)), answer.metadata, answer.size, answer.created, answer.modified)
    return io.BytesIO(answer.read(most)) if hasattr(answer, "read") else answer


def _broken_off(argument: Any, most: int) -> Any:
    """An argument whose data cannot be read to its end; what has none stays as it is."""
    if type(argument) is tuple:  # of data and metadata; a Stat is none
        return tuple(_broken_off(one, most) for one in argument)
    return io.BufferedReader(_BreakingOff(argument, most), MEBIBYTE) if hasattr(argument, "read") else argument


class _BreakingOff(io.RawIOBase):
    def __init__(self, data: BinaryIO, most: int) -> None:
        self._data, self._left = data, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and self._data.read(1):
            raise ConnectionResetError("the store broke off")
        piece = self._data.read(min(len(buffer), self._left)) if self._left else b""
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)
