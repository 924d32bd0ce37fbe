"""What a ``PostgresStore`` has just listed: who lists a directory asks for each that is in it next, for its attributes and then for its xattrs.

It is believed for a moment, and only while we hear of what others write: what anybody has written is forgotten at once.
"""

import threading
import time
from typing import NamedTuple

from joinfs.stores.keys import ROOT
from joinfs.stores.value import Stat

# Seconds for which a listing is believed.
FRESH = 1.0
# Entries that are remembered; all are forgotten when there would be more.
MOST = 50_000


class Known(NamedTuple):
    """What is known of a key.

    Attributes:
        stat: Its attributes.
        has_xattrs: Whether it has any outside ``user.``.
        until: When it is not believed any more, in monotonic seconds.
    """

    stat: Stat
    has_xattrs: bool
    until: float


class Listed:
    """A memory of listings."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}
        self._version = 0

    def version(self) -> int:
        """A number to take before asking the server, for ``put``."""
        return self._version

    def put(self, version: int, entries: dict[str, tuple[Stat, bool]]) -> None:
        """Remember entries by their keys, without a ``/`` at the end, unless something was forgotten since ``version``."""
        until = time.monotonic() + FRESH
        # Of other names of one file nobody tells.
        found = {key: Known(stat, has_xattrs, until) for key, (stat, has_xattrs) in entries.items() if stat.linked_id is None}
        with self._lock:
            if version == self._version:
                if len(self._known) + len(found) > MOST:
                    self._known.clear()
                self._known.update(found)

    def find(self, key: str) -> Known | None:
        """Answer what is known of a key, without a ``/`` at its end."""
        known = self._known.get(key)
        return known if known is not None and time.monotonic() < known.until else None

    def forget(self, key: str | None) -> None:
        """Somebody has written to a key, told as subscribers are: None is everything."""
        with self._lock:
            self._version += 1
            if key is None or key.endswith("/") or key == ROOT:
                self._known.clear()
                return
            while key:  # with it the directories that it is in change, or are made
                self._known.pop(key, None)
                key = key.rpartition("/")[0]
