"""Seeing what others do in a directory of the host; see ``directory`` and ``Store.watch``.

Watches are of inodes, and are known by the keys that led to them. A directory above one that is watched is watched as
well, so that it is noticed when a key leads to another inode.
"""

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from joinfs.stores import beneath, inotify
from joinfs.stores.directory_files import TEMPORARY, encode
from joinfs.stores.inotify import Event, Inotify
from joinfs.stores.key_tree import KeyTree
from joinfs.stores.keys import ROOT, ancestors
from joinfs.stores.telling import told_since, with_all_below

_MASK = (
    inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.ATTRIB | inotify.CLOSE_WRITE
    | inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.ONLYDIR | inotify.EXCL_UNLINK
)  # fmt: skip
# After any of these a directory's key may lead to another one, or nowhere.
_ELSEWHERE = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO
_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED | inotify.UNMOUNT
_TEMPORARY = encode(TEMPORARY)
# Seconds between two looks: what the store itself writes comes back, and must not cost much.
PAUSE = 0.02
# How often a directory is looked for that others keep replacing.
MOST_TRIES = 3
# Of so many keys that the store has written it is kept in mind when; as many as inotify queues events, by default.
MOST_WRITTEN = 16_384

log = logging.getLogger(__name__)


class _Watch(NamedTuple):
    number: int
    inode: tuple[int, int]


class DirectoryWatching:
    """The watched directories of a store.

    Args:
        root: Descriptor of the store's directory.
        tell: Called with a key, or None, as a subscriber of the store is.
        each_write: Tell every write to a file, not just that who wrote is done. (Who writes through the store, or a
            descriptor of its, would hear much of himself.)
        name: What messages call the store.
    """

    def __init__(self, root: int, tell: Callable[[str | None], object], each_write: bool, name: str) -> None:
        self._root, self._tell, self._name = root, tell, name
        self._mask = _MASK | inotify.MODIFY if each_write else _MASK
        self._lock = threading.RLock()
        self._inotify: Inotify | None = None
        self._closed = self._warned = False
        self._watches: KeyTree[_Watch] = KeyTree()
        self._keys: dict[int, str] = {}
        self._written: OrderedDict[str, float] = OrderedDict()

    def written(self, keys: tuple[str, ...]) -> None:
        """The store itself has just written these keys, and told of it: what has come of them until now is no news."""
        if not self._keys:
            return
        now = time.monotonic()
        for key in keys:
            self._note_written(key.removesuffix("/"), now)

    def _note_written(self, key: str, at: float) -> None:
        self._written.pop(key, None)  # it goes to the end
        self._written[key] = at
        if len(self._written) > MOST_WRITTEN:
            self._written.popitem(last=False)

    def _is_echo(self, key: str) -> bool:
        """Whether what the thread has read of a key may be of what the store itself wrote."""
        since = told_since()
        return since is not None and self._written.get(key, 0.0) >= since

    def watch(self, directory: str) -> bool:
        """Watch a directory and those above it; answer whether they are."""
        if directory in self._watches.things:
            return True
        ended: set[str] = set()
        try:
            with self._lock:
                return all(key in self._watches.things or self._add(key, ended) for key in (ROOT, *ancestors(directory), directory))
        except OSError as error:
            if inotify.is_too_many(error) and not self._warned:
                self._warned = True
                text = "%s: no more directories can be watched; raise fs.inotify.max_user_watches or max_user_instances (%s)"
                log.warning(text, self._name, error.strerror)
            return False
        finally:
            if ended:  # not in the thread that watches: what others did is no doing of its own
                threading.Thread(target=self._tell_ended, args=(ended,), name=f"changes of {self._name}", daemon=True).start()

    def is_watched(self, directory: str) -> bool:
        """Whether a directory is watched."""
        return directory in self._watches.things

    def unwatch(self, directory: str) -> None:
        """Watch a directory no more."""
        with self._lock:
            self._drop(directory)

    def close(self) -> None:
        """Watch nothing any more."""
        with self._lock:
            self._closed, ended, self._inotify = True, self._inotify, None
            self._watches.clear()
            self._keys.clear()
        if ended is not None:
            ended.close()

    @contextlib.contextmanager
    def moving(self, first: str, second: str, swap: bool = False) -> Iterator[None]:
        """Around renaming a directory, or swapping two keys: what is watched below keeps being, under its new key."""
        with self._lock:
            yield
            self._written_moved(first, second, swap)
            moved, other = self._watches.take_below(first), self._watches.take_below(second)
            self._put_in(moved, first, second)
            if swap:
                self._put_in(other, second, first)
                return
            for watch in other.values():  # what was replaced
                self._forget(watch.number)

    def _written_moved(self, first: str, second: str, swap: bool) -> None:
        """What comes of keys that were written before their directory was moved comes under the directory's new key."""
        for key, at in list(self._written.items()):
            if key.startswith(first):
                self._note_written(second + key[len(first) :], at)
            elif swap and key.startswith(second):
                self._note_written(first + key[len(second) :], at)

    # ---------------------------------------------------------------- keys and watches

    def _add(self, key: str, ended: set[str]) -> bool:
        if self._closed:
            return False
        if self._inotify is None:
            self._inotify = Inotify(self._handle, PAUSE, self._name)
        for _ in range(MOST_TRIES):
            number, inode = self._begin(self._inotify, key)
            old = self._keys.get(number)
            if old is not None:  # it has been renamed, and we do not know yet: the number is known, and would be dropped with it
                ended.add(old)
                self._drop_all(old)
                continue
            self._watches.put(key, _Watch(number, inode))
            self._keys[number] = key
            if self._is_where_it_was(key):
                return True
            self._drop(key)
        return False

    def _begin(self, inotify: Inotify, key: str) -> tuple[int, tuple[int, int]]:
        descriptor = self._open(key)
        try:
            return inotify.add(descriptor, self._mask), _inode(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _open(self, key: str) -> int:
        return beneath.open_beneath(self._root, encode(key.removesuffix("/")) or b".", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        descriptor = self._open(key)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_where_it_was(self, key: str) -> bool:
        known = self._watches.things[key].inode
        path = encode(key.removesuffix("/")) or b"."
        try:
            if len(path) <= beneath.PATH_BYTES:
                # A symlink on the way may be followed: what it replaced is watched as well, and no more if it was replaced.
                return _inode(os.stat(path, dir_fd=self._root, follow_symlinks=False)) == known
            with self._opened(key) as descriptor:
                return _inode(os.fstat(descriptor)) == known
        except OSError:
            return False

    def _drop(self, key: str) -> None:
        watch = self._watches.take(key)
        if watch is not None:
            self._forget(watch.number)

    def _forget(self, number: int) -> None:
        self._keys.pop(number, None)
        if self._inotify is not None:
            self._inotify.remove(number)

    def _drop_all(self, directory: str) -> None:
        for watch in self._watches.take_below(directory).values():
            self._forget(watch.number)

    def _put_in(self, watches: dict[str, _Watch], old: str, new: str) -> None:
        """Watches that were at ``old`` and below it, at ``new`` from now on."""
        for key, watch in watches.items():
            self._watches.put(new + key[len(old) :], watch)
            self._keys[watch.number] = new + key[len(old) :]

    # ---------------------------------------------------------------- the thread

    def _handle(self, events: list[Event]) -> bool:
        masks: dict[tuple[int, bytes], int] = {}
        for number, mask, name in events:
            if not name.startswith(_TEMPORARY):
                masks[number, name] = masks.get((number, name), 0) | mask
        changed: dict[str, None] = {}
        ended: set[str] = set()
        with self._lock:
            if any(mask & inotify.OVERFLOW for mask in masks.values()):
                self._drop_all(ROOT)
                ended.add(ROOT)
                masks.clear()
            for (number, name), mask in masks.items():
                directory = self._keys.get(number)
                if directory is not None and not self._is_of_no_name(directory, name, mask):
                    changed[self._take_in(directory, name.decode("utf-8", "surrogateescape"), mask, ended)] = None
        for key in changed:
            if not self._is_echo(key):
                self._tell(key)
        self._tell_ended(ended)
        return False

    def _is_of_no_name(self, directory: str, name: bytes, mask: int) -> bool:
        """Whether an event is of a file that was made without a name: it is told of as if it were called ``#INODE``."""
        if name[:1] != b"#" or not name[1:].isdigit() or mask & _ELSEWHERE:
            return False
        try:
            with self._opened(directory) as descriptor:
                os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError:
            return True
        return False

    def _take_in(self, directory: str, name: str, mask: int, ended: set[str]) -> str:
        """Answer the key of what has changed; the watches of what is not there any more end."""
        key = directory + name if name else directory.removesuffix("/")
        if (mask & _GONE and not name) or (mask & _ELSEWHERE and mask & inotify.ISDIR):
            watched = directory if not name else key + "/"
            if watched in self._watches.things and (mask & inotify.IGNORED or not self._is_where_it_was(watched)):
                self._drop_all(watched)
                ended.add(watched)
        return key

    def _tell_ended(self, ended: set[str]) -> None:
        for key in ended:
            self._tell(with_all_below(key))


def _inode(native: os.stat_result) -> tuple[int, int]:
    return native.st_dev, native.st_ino
