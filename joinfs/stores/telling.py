"""How a store tells that something in it may have changed: what who caches it must know, and no more.

Events (``announcing``) say what was written and cost what it costs to find that out. These tellings are a key, and
are built for nobody.
"""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from joinfs.stores.keys import ROOT, is_directory_key

if TYPE_CHECKING:
    from joinfs.stores.base import Store

log = logging.getLogger(__name__)

# Called with a key, or None.
Subscriber = Callable[[str | None], object]
# In place of the moment since when something can have happened: it is others' doing, whenever that was.
OTHERS = float("inf")


class Watcher(threading.Thread):
    """A thread that tells what is done to a medium, by others and by ourselves. It holds no lock when it tells.

    Attributes:
        since: What it tells now was done after this moment, in monotonic seconds, or is ``OTHERS``.
    """

    since = OTHERS


def tell_of(since: float) -> None:
    """Have what the calling thread, a watcher, tells from now on be of what was done after ``since``."""
    thread = threading.current_thread()
    assert isinstance(thread, Watcher), "it tells of others"
    thread.since = since


def told_since() -> float | None:
    """Answer since when what the calling thread tells may have been done; None if it is no watcher: then it did it itself."""
    thread = threading.current_thread()
    return thread.since if isinstance(thread, Watcher) else None


class Telling:
    """The part of ``Store`` that tells subscribers what may have changed."""

    def __init__(self) -> None:
        self._subscribing = threading.RLock()
        self._subscribers: tuple[Subscriber, ...] = ()

    def subscribe(self, function: Subscriber) -> None:
        """Call ``function`` with the key of whatever changes from now on; who is subscribed already stays so, once.

        It is told of every write made through this object, in the thread that wrote, when others can see the write
        and the store's locks are let go: in a transaction at its end, once for each key. (What is written through
        a descriptor of ``open_local`` is not one of these.) And it is told, in a thread of the store's, of what
        others do in directories that are watched. Telling too much does no harm: a write that failed or was undone
        may be told, and our own may come again as others'.

        A key says what may be another now:

        - ``a``: what stands there, be it a value or a directory: whether it is there, its kind, data, attributes and
          metadata. ``""`` is the root. With it the attributes of the directory that it is in, and, if the key
          is in directories that were not there, those: they are made on the way without being told of. Other
          keys of the same file (hard links) are not told of.
        - ``a/``: that, and all that is below it. Watches of it and of what is below may have ended.
        - None: everything. Any watch may have ended.

        Args:
            function: What it answers is ignored, and what it raises is logged. It may ask the store, and must not
                wait for other threads that write to it.
        """
        with self._subscribing:
            if function not in self._subscribers:
                self._subscribers = (*self._subscribers, function)

    def unsubscribe(self, function: Subscriber) -> None:
        """Stop calling ``function``; nothing happens if it is not subscribed. A call that has begun may still come."""
        with self._subscribing:
            self._subscribers = tuple(other for other in self._subscribers if other != function)

    def watch(self: "Store", directory: str) -> bool:  # type: ignore[misc]
        """Tell subscribers also what others change in the medium, directly in ``directory``, and of itself.

        Others are other processes, other objects over the same medium, and the host. Who caches watches first and
        looks then, beginning at the root and going down, and gives up from below. Watching again what is watched
        is cheap, counts once, and is what to do with directories of which subscribers were told that watches may
        have ended. A directory that is renamed through this object goes on being watched, under its new key.

        Args:
            directory: The key of a directory.

        Returns:
            Whether it is so from now on, until ``unwatch`` or ``disconnect``. False: it is not there, or its
            changes cannot be told; that may be otherwise later.

        Raises:
            NotConnected: The store is not connected.
        """
        self._check_connected()
        return False

    def unwatch(self, directory: str) -> None:
        """Tell no more what others change directly in ``directory``; nothing happens if it is not watched."""

    def catch_up(self) -> None:
        """Return when subscribers have been told of all that others had done, in what is watched, before this was called.

        Only stores on a server can know that: where the host or a file tells of changes, they may be told a little later.
        It does not wait for ever, and it fails in no way: that the server is gone is told by whatever is asked next.
        """

    # ---------------------------------------------------------------- for stores

    def _tell_written(self, keys: tuple[str, ...]) -> None:
        """Tell of a write through this object: of one key, or of two that were moved, swapped or linked."""
        if len(keys) == 1:
            # Of a directory that stays where it is the attributes change, and nothing in it.
            self._tell_changed(keys[0].removesuffix("/"))
            return
        for key in keys:
            self._tell_changed(key)

    def _tell_changed(self, key: str | None) -> None:
        """Tell every subscriber."""
        for function in self._subscribers:
            try:
                function(key)
            except Exception:
                log.exception("who was told of a change of %r failed", key)


def with_all_below(key: str) -> str | None:
    """How to tell that what is at a key, and all below it, may have changed."""
    if key == ROOT:
        return None
    return key if is_directory_key(key) else key + "/"
