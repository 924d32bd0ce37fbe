"""What was written or deleted, and is not so in its store yet: on local disk, in one SQLite file, and an index of it in memory.

Each file is an entry of that database, under a number that grows, with its key in a field of metadata that is not shown. What is written
anew gets a new number, so that who sends the old one goes on reading it as it was. A file that is to be deleted in its store has an entry, too.
So have directories; one that is new there goes before what is in it, and one that is to be deleted after that.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import stat as stat_module
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from joinfs.errors import StoreError, StoreLocked, StoreUnavailable, UsageError
from joinfs.stores.keys import ancestors, is_directory_key, split
from joinfs.stores.metadata import without
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import Metadata, Stat, Value, new_stat, remaining
from joinfs.stores.writeback_entries import Drain, Entry, Taken, as_sent

KEY, GONE = "writeback.key", "writeback.gone"
HIDDEN = (KEY, GONE)
_NOTHING = new_stat(stat_module.S_IFREG)
# Seconds for which nobody has changed a file before it is sent: many are renamed or written again at once.
CALM = 1.0
# Seconds for which nobody has written anything before anything is sent: whoever waits for an answer goes first. Seconds after which it is sent all the same.
QUIET, LONGEST = 0.1, 5.0
# So many files are deleted with one call.
MOST_DELETED = 500
# What was not deleted after so many attempts is not tried together with others any more, which it may be in the way of.
ALONE = 2
# What has no more bytes is written in place of what waits.
SMALL = 64 << 10
# Seconds after which what was not taken is sent again; each time twice as many, up to the last.
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
T = TypeVar("T")


class Pending:
    """The files that wait; several threads may ask.

    Args:
        place: A directory of our own, made if it is not there.

    Attributes:
        changed: Guards the index; notified when something waits no more, or is not being sent any more.
        work: With the same lock; notified when something is due earlier than anything was.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._disk = SQLiteStore(os.path.join(place, "pending.db"))
        self._lock = -1
        lock = threading.RLock()
        self.changed, self.work = threading.Condition(lock), threading.Condition(lock)
        # By when they are due; those that are due at another time by now, or are not there any more, are passed over.
        self._due: list[tuple[float, int, Entry]] = []
        self._turns = itertools.count()
        self._drains: list[Drain] = []
        self._attempts = 0
        self._last_written = 0.0
        self._entries: dict[str, Entry] = {}
        # By name, as a file and a directory of one name never both wait: before one takes the other's place, that is sent.
        self._in_directories: dict[str, dict[str, Entry]] = {}
        self._busy: set[str] = set()
        # What is to be sent when a directory was, by its key.
        self._behind: dict[str, list[Entry]] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._entries)

    # ---------------------------------------------------------------- opening

    def open(self) -> None:
        """Open it.

        Raises:
            UsageError: The directory is another user's, or others may write to it.
            StoreLocked: Another process sends what is in it.
        """
        self._lock = _locked(self._place)
        try:
            self._disk.connect()
            with self.changed:
                self._entries.clear()
                self._in_directories.clear()
                self._due.clear()
                self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it; what waits is there the next time. Who still asks for it is told that it is closed."""
        self._disk.disconnect()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _load(self) -> None:
        names = {int(name): f"{name}/" if stat.is_directory else name for name, stat in self._disk.list("")}
        for number, name in sorted(names.items()):
            metadata = self._disk.get_metadata(name, HIDDEN)
            entry = Entry(metadata[KEY], name, is_new=False, is_gone=GONE in metadata)
            older = self._entries.get(entry.key)
            entry.older = [] if older is None else [*older.older, older.number]
            self._enter(entry)
            self._numbers = itertools.count(number + 1)

    # ---------------------------------------------------------------- finding

    def find(self, key: str) -> Entry | None:
        """Answer what waits at a key; it may be one that is to be deleted."""
        return self._entries.get(key)

    def is_below_new(self, key: str) -> bool:
        """Whether the directory that a key is in waits, and its store has nothing of it, for sure."""
        directory = self._entries.get(split(key)[0])
        return directory is not None and directory.is_new

    def is_nowhere(self, key: str) -> bool:
        """Whether nothing can stand at a key in the store: it waits to have the directory that the key is in made, or one above deleted."""
        return self.is_below_new(key) or any(entry.is_gone for entry in self.above(key))

    def above(self, key: str) -> list[Entry]:
        """Answer which of the directories that a key is in wait, the outermost first."""
        return [entry for directory in ancestors(key) if (entry := self.find(directory)) is not None]

    def directly_in(self, directory: str) -> dict[str, Entry]:
        """Answer what waits directly in a directory, by name."""
        with self.changed:
            return dict(self._in_directories.get(directory, ()))

    def below(self, directory: str) -> list[Entry]:
        """Answer what waits in a directory, however deep."""
        with self.changed:
            return [entry for key, entry in self._entries.items() if key.startswith(directory)]

    def ask(self, key: str, waiting: Callable[[str], T], otherwise: Callable[[str], T]) -> T:
        """Answer what the disk says of the file that waits at a key; what ``otherwise`` says of the key if none does.

        Raises:
            KeyError: It is to be deleted; or its store cannot have it.
        """
        while (entry := self.find(key)) is not None:
            if entry.is_gone:
                raise KeyError(key)
            try:
                return waiting(entry.number)
            except KeyError:
                with self.changed:  # it may be leaving
                    if self.find(key) is entry:
                        raise
        if self.is_below_new(key):
            raise KeyError(key)
        return otherwise(key)

    def stat(self, key: str, otherwise: Callable[[str], Stat]) -> Stat:
        """As ``ask``, of attributes, which are known as a rule."""
        entry = self.find(key)
        if entry is not None and entry.stat is not None:
            return entry.stat
        return self.ask(key, self._stat_on_disk, otherwise)

    def _stat_on_disk(self, number: str) -> Stat:
        return as_sent(self._disk.stat(number))

    @property
    def disk(self) -> SQLiteStore:
        """Where they are, by number."""
        return self._disk

    # ---------------------------------------------------------------- changing

    def put(self, key: str, stat: Stat, data: BinaryIO | None, metadata: Metadata, xattrs: dict[str, bytes], is_new: bool) -> Stat:
        """Have a file wait at a key, in place of what waits there; ``is_new`` as in ``Entry``."""
        if data is None or remaining(data) in range(SMALL):
            with self.changed:
                old = self._entries.get(key)
                if old is not None and not old.is_gone and key not in self._busy:
                    return self.change(old, lambda number: self._put(number, key, stat, data, metadata, xattrs))
        new = Entry(key, f"{next(self._numbers)}{'/' if stat.is_directory else ''}", is_new)
        new.stat = self._put(new.number, key, stat, data, metadata, xattrs)
        with self.changed:
            old = self._entries.get(key)
            new.is_new = (is_new if old is None else old.is_new) and key not in self._busy
            self._take_place(new)
        return new.stat

    def _put(self, number: str, key: str, stat: Stat, data: BinaryIO | None, metadata: Metadata, xattrs: dict[str, bytes]) -> Stat:
        return as_sent(self._disk.put(number, stat, data, {**metadata, KEY: key}, xattrs))

    def delete(self, key: str) -> None:
        """Have what waits at a key be gone, and what its store has there be deleted later, unless it has nothing.

        Raises:
            KeyError: It is to be deleted already.
            StoreError: There is no room to note it: nothing was done.
        """
        with self.changed:
            entry = self._entries.get(key)
            if entry is not None and entry.is_gone:
                raise KeyError(key)
            if entry is not None and entry.is_new and key not in self._busy:
                self.drop(entry)
            else:
                self._take_place(self._noted_gone(key))

    def _noted_gone(self, key: str) -> Entry:
        """An entry of what is to be deleted, on disk and not in the index yet. On disk it is a file, also of a directory."""
        gone = Entry(key, str(next(self._numbers)), is_new=False, is_gone=True)
        self._disk.put(gone.number, _NOTHING, None, {KEY: key, GONE: True})
        return gone

    def _take_place(self, new: Entry) -> None:
        """Have an entry stand for what waited at its key before. Hold ``changed``."""
        old = self._entries.get(new.key)
        if old is not None:
            new.older = [*old.older, old.number]
            self._end_drains(old)
        self._enter(new)
        with contextlib.suppress(StoreError):  # then it is deleted together with the new one
            self._forget(new.older)
            new.older = []

    def change(self, entry: Entry, change: Callable[[str], T]) -> T:
        """Change attributes of a file on disk; it is sent anew if it is being sent. Hold ``changed``: what has arrived meanwhile would be made anew.

        Raises:
            KeyError: It is to be deleted.
        """
        if entry.is_gone:
            raise KeyError(entry.key)
        entry.stat = None
        answer = change(entry.number)
        entry.version += 1
        self._written(entry)
        entry.stat = self._stat_on_disk(entry.number)
        return answer

    def _written(self, entry: Entry) -> None:
        """A file was written, and is due when it has not been for a while. Hold ``changed``."""
        self._last_written = time.monotonic()
        self.schedule(entry, CALM)

    def rename(self, old: str, new: str, is_new: bool) -> bool:
        """Give the file that waits at a key another, in place of what waits there; where it was is deleted later, if it may have arrived there.

        Args:
            old: The key.
            new: The other.
            is_new: As in ``Entry``, of what is put there.

        Returns:
            Whether a file waits there; else nothing was done.

        Raises:
            KeyError: It is to be deleted.
            StoreError: There is no room to note it: nothing was done.
        """
        with self.changed:
            entry, over = self._entries.get(old), self._entries.get(new)
            if entry is None:
                return False
            if entry.is_gone:
                raise KeyError(old)
            is_sure = entry.is_new and old not in self._busy
            gone = self._note_renamed(entry, new, over, is_sure)
            entry.is_new = (is_new if over is None else over.is_new) and new not in self._busy
            entry.key, entry.version, entry.older = new, entry.version + 1, []
            if over is not None:
                self._end_drains(over)
            self._enter(entry)
            if gone is None:
                self._leave(old)
            else:
                self._enter(gone)
        return True

    def _note_renamed(self, entry: Entry, key: str, over: Entry | None, is_sure: bool) -> Entry | None:
        """Note on disk that a file has another key; answer what stands where it was, unless nothing is there for sure. Hold ``changed``."""
        metadata = self._disk.get_metadata(entry.number)
        with self._disk.transaction("rename"):
            self._disk.set_metadata(entry.number, {**metadata, KEY: key})
            self._forget([*entry.older, *(() if over is None else (*over.older, over.number))])
            return None if is_sure else self._noted_gone(entry.key)

    def drop(self, *entries: Entry) -> None:
        """Have files wait no more, and be gone. After a failure they wait."""
        with self.changed:
            self._forget([number for entry in entries for number in (*entry.older, entry.number)])
            for entry in entries:
                entry.older = []
                self._end_drains(entry)
                self._leave(entry.key)

    def _forget(self, numbers: list[str]) -> None:
        """Delete what is on disk under some numbers, all or nothing."""
        with self._disk.transaction("forget") if len(numbers) > 1 else contextlib.nullcontext():
            for number in numbers:
                with contextlib.suppress(KeyError):
                    self._disk.delete(number)

    def _enter(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        directory, name = split(entry.key)
        self._in_directories.setdefault(directory, {})[name] = entry
        self._written(entry)

    def _leave(self, key: str) -> None:
        self._entries.pop(key, None)
        self._go_on_behind(key)
        directory, name = split(key)
        names = self._in_directories.get(directory, {})
        names.pop(name, None)
        if not names:
            self._in_directories.pop(directory, None)
            self._reschedule(self._entries.get(directory))  # it may be one that is to be deleted when it is empty
        self.changed.notify_all()

    # ---------------------------------------------------------------- being waited for

    def drain(self, entries: Iterable[Entry] | None, is_over: Callable[[], bool]) -> list[str]:
        """Have files be due now, all unless some are given, and wait until each was sent, or tried once; answer what went wrong."""
        with self.changed:
            wanted = self._entries.values() if entries is None else entries
            drain = Drain((entry for entry in wanted if self._entries.get(entry.key) is entry), self._attempts)  # others have arrived by now
            for entry in drain.left:
                self.schedule(entry, 0.0)
            self._drains.append(drain)
            try:
                self.changed.wait_for(lambda: not drain.left or is_over())
            finally:
                self._drains.remove(drain)
        return drain.errors

    def _end_drains(self, entry: Entry, version: int | None = None) -> None:
        """A file was sent in this version, or is there no more. Hold ``changed``."""
        for drain in self._drains:
            drain.arrived(entry, entry.version if version is None else version)
        self.changed.notify_all()

    def _fail_drains(self, entry: Entry, error: str) -> None:
        """A file was not taken, so neither is what is to be deleted once it is gone, or to be put into it once it is there. Hold ``changed``."""
        above = [directory for directory in self.above(entry.key) if directory.is_gone]
        inside = self.below(entry.key) if self._drains and is_directory_key(entry.key) and not entry.is_gone else []
        for one in {entry, *above, *inside}:
            for drain in self._drains:
                drain.failed(one, entry.attempt, error)
        if any(entry in drain.left for drain in self._drains):
            self.schedule(entry, 0.0)  # somebody began to wait when this had been tried already
        self.changed.notify_all()

    # ---------------------------------------------------------------- sending

    def schedule(self, entry: Entry, seconds: float) -> None:
        """Have a file be due so long from now. Hold ``changed``."""
        entry.due = time.monotonic() + seconds
        is_first = not self._due or entry.due < self._due[0][0]
        heapq.heappush(self._due, (entry.due, next(self._turns), entry))
        if is_first:
            self.work.notify()

    def take(self) -> list[Taken]:
        """Answer a file that is due, or several that are to be deleted: they are being sent until ``free``. Nothing if none is due. Hold ``changed``."""
        taken: list[Taken] = []
        while len(taken) < MOST_DELETED and self.next_due() == 0.0:
            due, turn, entry = heapq.heappop(self._due)
            if due != entry.due or self._entries.get(entry.key) is not entry or entry.key in self._busy or self._is_behind(entry):
                continue
            goes_alone = not entry.is_gone or is_directory_key(entry.key) or entry.failures >= ALONE
            if taken and goes_alone:
                heapq.heappush(self._due, (due, turn, entry))
                break
            self._busy.add(entry.key)
            self._attempts += 1
            entry.attempt = self._attempts
            entry.is_new = False  # if the answer is lost it may be there all the same
            taken.append(Taken(entry, entry.key, entry.version))
            if goes_alone:
                break
        if taken:
            self.work.notify()  # the next may be due as well
        return taken

    def _is_behind(self, entry: Entry) -> bool:
        """Whether something else has to be sent first; if so, see to it that this is due when that was. Hold ``changed``."""
        directory = self._entries.get(split(entry.key)[0])
        if directory is not None and not directory.is_gone and not entry.is_gone:
            self._behind.setdefault(directory.key, []).append(entry)
            is_wanted = not directory.failures or any(entry in drain.left for drain in self._drains)
            if is_wanted and directory.key not in self._busy:
                self.schedule(directory, 0.0)
            return True
        return entry.is_gone and entry.key in self._in_directories  # `_leave` of the last one that is in there has it due again

    def _go_on_behind(self, key: str) -> None:
        for entry in self._behind.pop(key, ()):
            self._reschedule(entry)

    def _reschedule(self, entry: Entry | None) -> None:
        """Have a file be due when it was to be, if it waits still."""
        if entry is not None and self._entries.get(entry.key) is entry:
            self.schedule(entry, max(entry.due - time.monotonic(), 0.0))

    def next_due(self) -> float | None:
        """Seconds until another file may be sent; None if none waits. Hold ``changed``."""
        if not self._due:
            return None
        due = self._due[0][0]
        if not self._drains:
            due = max(due, min(self._last_written + QUIET, due + LONGEST))
        return max(due - time.monotonic(), 0.0)

    def _free(self, key: str) -> None:
        """What waits at a key may be sent again."""
        with self.changed:
            self._busy.discard(key)
            self._reschedule(self._entries.get(key))
            self.changed.notify_all()

    def free(self, taken: Iterable[Taken]) -> None:
        """These are not being sent any more, whatever has become of them."""
        for one in taken:
            self._free(one.key)

    def was_not_taken(self, entry: Entry, error: str) -> None:
        """A file has not arrived, for what the store said: it is sent again after a while."""
        with self.changed:
            entry.failures += 1
            self.schedule(entry, min(FIRST_RETRY * 2 ** (entry.failures - 1), LAST_RETRY))
            self._fail_drains(entry, error)

    def arrived(self, taken: Iterable[Taken]) -> None:
        """Files have arrived as they were in these versions: those that were changed or replaced meanwhile wait on.

        Raises:
            StoreError: That cannot be noted; they wait on.
        """
        with self.changed:
            last = []
            for entry, key, version in taken:
                there = self._entries.get(key)
                entry.is_new = False
                if there is not None:
                    there.is_new = False
                if there is entry and entry.version == version:
                    last.append(entry)
                else:
                    entry.failures = 0
                    self._end_drains(entry, version)
            self.drop(*last)

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[Entry | None]:
        """Give what waits at a key; it is not being sent then, nor will it be before the end."""
        with self.changed:
            self.changed.wait_for(lambda: key not in self._busy)
            self._busy.add(key)
            entry = self._entries.get(key)
        try:
            yield entry
        finally:
            self._free(key)

    def wait_until_idle(self, directory: str) -> None:
        """Wait until nothing in a directory is being sent."""
        with self.changed:
            self.changed.wait_for(lambda: not any(key.startswith(directory) for key in self._busy))


def shown(metadata: Metadata) -> Metadata:
    """Metadata without what is ours of it."""
    return without(metadata, HIDDEN)


def value_of(disk: SQLiteStore, number: str) -> Value:
    """The value of a file that waits, as it is to be seen."""
    value = disk.get(number)
    value.metadata = shown(value.metadata)
    value.show(shown)
    return value


def _locked(place: str) -> int:
    """Make the directory if need be, and answer a descriptor that locks it."""
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StoreUnavailable(f"{place} cannot be opened to keep there what is to be sent: {error.strerror}") from error
    try:
        native = os.fstat(descriptor)
        if native.st_uid != os.geteuid() or native.st_mode & (stat_module.S_IWGRP | stat_module.S_IWOTH):
            raise UsageError(f"{place} is not ours alone to write to; keep what is to be sent somewhere else")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreLocked(f"another process sends what is in {place}; unmount that, or keep what is to be sent somewhere else") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
