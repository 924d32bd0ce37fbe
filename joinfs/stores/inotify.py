"""Being told by the kernel of what is done to files: inotify(7), read in a thread.

The thread begins with the first watch, and waits in poll(2) when nothing happens. What it read it hands over at
once, and then lets a moment pass before it reads on, so that a storm comes in few pieces.
"""

import ctypes
import errno
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from joinfs.stores.telling import Watcher

MODIFY, ATTRIB, CLOSE_WRITE = 0x2, 0x4, 0x8
MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
UNMOUNT, OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
ONLYDIR, EXCL_UNLINK, ISDIR = 0x01000000, 0x04000000, 0x40000000
_HEADER = struct.Struct("=iIII")
_PIECE = 1 << 16
# No more than this at a time: the kernel queues 16,384 events, of which the longest has 272 bytes.
_MOST_PIECES = 64
# Seconds that a thread takes to wake up, at most, as a rule.
WAKING = 0.25

log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """Something that was done to what is watched as ``watch``, or to ``name`` in it."""

    watch: int
    mask: int
    name: bytes


class Inotify:
    """An inotify descriptor and the thread that reads it.

    Args:
        handle: Called in the thread with what came since. It answers whether it wants to be called after the next
            pause even if nothing has come.
        pause: Seconds between two calls.
        name: What the thread is called, and messages call it.

    Raises:
        OSError: The user has too many (``EMFILE``).
    """

    def __init__(self, handle: Callable[[list[Event]], bool], pause: float, name: str) -> None:
        self._handle, self._pause, self._name = handle, pause, name
        self._descriptor = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self._descriptor < 0:
            raise _failed()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = Watcher(target=self._run, name=f"changes of {name}", daemon=True)
        self._thread.since = time.monotonic()
        self._thread.start()

    def add(self, descriptor: int, mask: int) -> int:
        """Watch what is open as ``descriptor``; answer the number that its events have.

        Raises:
            OSError: ``ENOSPC`` if the user has too many watches; as inotify_add_watch(2) says.
        """
        number = int(_libc.inotify_add_watch(self._descriptor, f"/proc/self/fd/{descriptor}".encode(), mask))
        if number < 0:
            raise _failed()
        return number

    def remove(self, watch: int) -> None:
        """Watch something no more; nothing happens if it has ended by itself."""
        _libc.inotify_rm_watch(self._descriptor, watch)

    def close(self) -> None:
        """End it. No call of ``handle`` comes after this, except one that this is called from."""
        os.eventfd_write(self._end, 1)
        if self._thread is not threading.current_thread():
            self._thread.join()

    # ---------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            wait = select.poll()
            wait.register(self._end, select.POLLIN)
            both = select.poll()
            both.register(self._end, select.POLLIN)
            both.register(self._descriptor, select.POLLIN)
            again = False
            while self._end not in self._wait(both, again):
                began = time.monotonic()
                events, all_read = self._read()
                again = self._handle_safely(events) or not all_read
                if all_read:
                    self._thread.since = began
                if wait.poll(self._pause * 1000):
                    break
        finally:
            os.close(self._descriptor)
            os.close(self._end)

    def _wait(self, both: select.poll, again: bool) -> list[int]:
        """Wait until there is something to read, unless it is to go on; answer the descriptors that have something."""
        asked = time.monotonic()
        ready = both.poll(0)
        if not ready and not again:
            ready = both.poll()
            self._thread.since = max(asked, time.monotonic() - WAKING)
        return [descriptor for descriptor, _ in ready]

    def _handle_safely(self, events: list[Event]) -> bool:
        try:
            return self._handle(events)
        except Exception:
            log.exception("what changed in %s could not be told", self._name)
            return False

    def _read(self) -> tuple[list[Event], bool]:
        """What has come, and whether that is all."""
        events: list[Event] = []
        try:
            for _ in range(_MOST_PIECES):
                events += _events(os.read(self._descriptor, _PIECE))
        except BlockingIOError:
            return events, True
        return events, False


def _events(piece: bytes) -> Iterator[Event]:
    offset = 0
    while offset < len(piece):
        watch, mask, _, size = _HEADER.unpack_from(piece, offset)
        offset += _HEADER.size
        yield Event(watch, mask, piece[offset : offset + size].rstrip(b"\0"))
        offset += size


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def is_too_many(error: OSError) -> bool:
    """Whether the user has as many watches, or descriptors for them, as the host allows."""
    return error.errno in {errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
