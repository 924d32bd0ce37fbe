"""What directories of a join were found to be made of, and how far that can be believed.

Stacks are forgotten when a layer was written through its own methods (``Store.changes`` tells), and after
``ttl`` seconds, because others may change a layer behind our back. Writes of the join itself, one at a time,
say what they make of a stack. Readers in other threads do not wait for them: they must not see the steps of
a write apart, so they look again if one was going on. A transaction has stacks of its own until it ends.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from joinfs.joined.whiteout import NO_MARKS, Marks
from joinfs.stores import Store
from joinfs.stores.key_tree import KeyTree

MOST_DIRECTORIES = 20_000
# Writes that follow each other so closely that a reader finds no moment between them are not waited for for ever.
MOST_LOOKS = 50
# Seconds for which a stack with a slow layer is answered after its time, once more, while it is found out anew.
LATE = 60.0
T = TypeVar("T")


class Part(NamedTuple):
    """One layer's share of a directory: ``store`` is layer number ``layer``, ``prefix`` its key there."""

    layer: int
    store: Store
    prefix: str
    marks: Marks = NO_MARKS


Stack = tuple[Part, ...]


class _Memory:
    """Stacks by directory, each with the time until which it is believed, and the changes of which they know."""

    def __init__(self) -> None:
        self.stacks: KeyTree[tuple[float, Stack]] = KeyTree()
        self.seen = (-1, -1)


class Stacks:
    """The memory of a join's stacks.

    Args:
        layers: The stores, the first with priority.
        ttl: Seconds for which what a directory is made of is believed.
    """

    def __init__(self, layers: Sequence[Store], ttl: float) -> None:
        self._upper, *self._lowers = layers
        self._ttl = ttl
        self._lock = threading.Lock()
        self._shared = _Memory()
        self._of_thread = threading.local()
        self._transactions = 0
        self._version = 0
        self._writer: int | None = None
        self._depth = 0
        self._unsettled = False

    # ---------------------------------------------------------------- what is remembered

    def get(self, directory: str) -> Stack | None:
        """Answer the stack of a directory, if it is remembered and can be believed."""
        memory = self._memory()
        if self._unsettled and not self.is_mine():
            return None
        changes = self._changes()
        # What the writer itself has done since is no news to it.
        if memory.seen != changes and not (self.is_mine() and memory.seen[1] == changes[1]):
            self.forget()
            return None
        known = memory.stacks.things.get(directory)
        return known[1] if known is not None and known[0] > time.monotonic() else None

    def late(self, directory: str) -> Stack | None:
        """Answer the stack of a directory that was believed until not long ago; for who has it found out anew meanwhile."""
        known = self._shared.stacks.things.get(directory)
        if known is None or self._transactions or self._unsettled or self._writer is not None:
            return None
        return known[1] if known[0] > time.monotonic() - LATE else None

    def version(self) -> int:
        """A number that every write of the join, at its beginning and at its end, makes another."""
        return self._version

    def remember(self, directory: str, stack: Stack, version: int | None = None) -> None:
        """Take in a stack; one that was found out from ``version`` on only if nothing was written since."""
        with self._lock:
            if version is not None and not self.is_mine() and (version != self._version or self._writer is not None):
                return
            stacks = self._memory().stacks
            if len(stacks.things) >= MOST_DIRECTORIES:
                stacks.clear()
            stacks.put(directory, (time.monotonic() + self._ttl, stack))

    def forget(self) -> None:
        """Believe nothing that was remembered; what is being found out now is not remembered either."""
        with self._lock:
            memory = self._memory()
            memory.seen = self._changes()
            memory.stacks.clear()
            self._version += 1

    def forget_directory(self, directory: str) -> None:
        """As ``forget``, of a directory and what is below it, also if it is somebody else's transaction that remembers."""
        with self._lock:
            for memory in {id(memory): memory for memory in (self._shared, self._memory())}.values():
                memory.stacks.take_below(directory)
            self._version += 1

    def _memory(self) -> _Memory:
        if not self._transactions:  # as nearly always
            return self._shared
        memory: _Memory | None = getattr(self._of_thread, "memory", None)
        return self._shared if memory is None else memory

    def _changes(self) -> tuple[int, int]:
        lower = 0
        for layer in self._lowers:  # no sum(): this is asked with every read
            lower += layer.changes
        return self._upper.changes, lower

    # ---------------------------------------------------------------- writing

    def is_mine(self) -> bool:
        """Whether this thread is the one that writes."""
        return self._writer == threading.get_ident()

    def begin_own_write(self) -> bool:
        """A write of the join begins, which remembers what it makes of stacks. False if it is part of one that has begun.

        The caller sees to it that one thread writes at a time, and else calls ``end_own_write`` at the end.
        """
        if self.is_mine() and self._depth and getattr(self._of_thread, "memory", None) is None:
            return False
        self.get("")  # changes that are not ours are noticed before ours come
        self._begin()
        return True

    def end_own_write(self, failed: bool) -> None:
        """The write ends. After a failure nothing is believed."""
        if failed:
            self.forget()
        memory = self._memory()
        memory.seen = (self._changes()[0], memory.seen[1])
        self._end()

    def _begin(self) -> None:
        self._writer = threading.get_ident()
        self._depth += 1
        self._version += 1

    def _end(self) -> None:
        self._depth -= 1
        self._version += 1
        if not self._depth:
            self._unsettled = False
            self._writer = None

    def unsettle(self) -> None:
        """The write that is going on is about to change what directories are made of."""
        self._unsettled = True
        self._version += 1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Around a transaction of this thread, from its beginning until others see what it did, or it did nothing."""
        self._of_thread.memory = _Memory()
        self._transactions += 1
        self._begin()
        try:
            yield
        finally:
            self._of_thread.memory = None
            self._transactions -= 1
            self.forget()
            self._end()

    # ---------------------------------------------------------------- reading meanwhile

    def is_quiet(self, version: int) -> bool:
        """Whether no other thread has been writing since ``version`` was answered."""
        return self.is_mine() or (self._writer is None and version == self._version)

    def steady(self, look: Callable[[], T]) -> T:
        """Answer what ``look`` finds in the first layer, none of it between two steps of a write.

        A write changes what is seen in one step and tidies up in another; who looks twice and finds the same
        has not looked in between.
        """
        version = self.version()
        answer = look()
        if self.is_quiet(version):
            return answer
        for _ in range(MOST_LOOKS):
            version, before = self._version, answer
            answer = look()
            if answer == before and version == self._version:
                break
        return answer
