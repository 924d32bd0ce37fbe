"""Files and directories that wait to be sent, or to be deleted, and who waits for them."""

from collections.abc import Iterable
from typing import NamedTuple

from joinfs.stores.value import Stat


class Entry:
    """A file or directory that waits to be sent, or to be deleted.

    Attributes:
        key: Its key.
        number: What it is called on disk.
        is_gone: Whether there is no such file any more, and what the store has at the key is to be deleted.
        version: Grows with each change.
        is_new: Whether its store has nothing at the key, for sure.
        due: When it is to be sent, in monotonic seconds.
        failures: How often in a row it was not taken.
        attempt: The number of the last attempt to send it, of all attempts.
        older: What was at its key before, and could not be deleted on disk yet.
        stat: Its attributes, if they are known.
    """

    __slots__ = ("attempt", "due", "failures", "is_gone", "is_new", "key", "number", "older", "stat", "version")

    def __init__(self, key: str, number: str, is_new: bool, is_gone: bool = False) -> None:
        self.key, self.number, self.is_new, self.is_gone = key, number, is_new, is_gone
        self.version = self.failures = self.attempt = 0
        self.due = 0.0
        self.older: list[str] = []
        self.stat: Stat | None = None


class Taken(NamedTuple):
    """What is being sent: a file, and the key and version that it had when it was taken."""

    entry: Entry
    key: str
    version: int


class Drain:
    """Somebody waits for files to arrive as they are now.

    Args:
        entries: The files.
        begun: The number of the last attempt that was begun before: what becomes of that and of earlier ones is no answer.

    Attributes:
        left: Those that have not, with the version that is waited for.
        errors: What the store said to those that it did not take.
    """

    def __init__(self, entries: Iterable[Entry], begun: int) -> None:
        self.left = {entry: entry.version for entry in entries}
        self.errors: list[str] = []
        self._begun = begun

    def arrived(self, entry: Entry, version: int) -> None:
        """A file has arrived in this version, or waits no more."""
        if entry in self.left and version >= self.left[entry]:
            del self.left[entry]

    def failed(self, entry: Entry, attempt: int, error: str) -> None:
        """A file was not taken, or cannot be sent because another was not, in this attempt."""
        if entry in self.left and attempt > self._begun:
            del self.left[entry]
            self.errors.append(error)


def as_sent(stat: Stat) -> Stat:
    """Attributes of what waits, as its store will tell them: it has no number there yet."""
    return stat._replace(file_id=None, nlink=1)
