"""What a Redis server has told of keys, believed for as long as whatever others change is told.

It is for those who ask of each key that is listed several things, as a mount does: its attributes, and that it has no others.
Files of several names are left out, as a change is told of the name alone by which it was made.
"""

import threading
from typing import NamedTuple

from joinfs.stores.keys import ROOT, ancestors
from joinfs.stores.value import Stat

# What is known of a key takes about half a kilobyte.
MOST_KNOWN = 50_000
# Bits of what a node has.
METADATA, XATTRS = 1, 2


class Seen(NamedTuple):
    """What was told of a key.

    Attributes:
        stat: Its attributes.
        has: Whether it has metadata, and other extended attributes: bits.
    """

    stat: Stat
    has: int


class Known:
    """What is known of keys, which are given without a ``/`` at their ends; several threads may ask.

    Who is about to ask the server takes the ``moment``; what it answers is put in only if nothing was forgotten since.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Seen] = {}
        self.moment = 0

    def find(self, key: str) -> Seen | None:
        """Answer what is known of a key."""
        return self._seen.get(key)

    def put(self, moment: int, key: str, seen: Seen) -> None:
        """Note what the server said, who was asked after ``moment``."""
        with self._lock:
            if moment != self.moment or (seen.stat.nlink > 1 and not seen.stat.is_directory):
                return
            if len(self._seen) >= MOST_KNOWN:
                self._seen.clear()
            self._seen[key] = seen

    def forget(self, *keys: str | None) -> None:
        """What is at these keys may be another, spelled as subscribers are told of it; with each the directories above it."""
        with self._lock:
            self.moment += 1
            for key in keys:
                if key is None or key.endswith("/"):
                    self._seen.clear()
                elif self._seen:
                    for above in (ROOT, *ancestors(key), key):
                        self._seen.pop(above.removesuffix("/"), None)
