"""Where the keys of a directory store are in the host: a directory that is open, and the name in it."""

import errno
import functools
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from joinfs.errors import InvalidKey
from joinfs.stores import beneath
from joinfs.stores.directory_files import TEMPORARY, encode
from joinfs.stores.keys import check_key, split

if TYPE_CHECKING:
    from joinfs.stores.directory_reading import DirectoryReading

DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY
MOST_KEPT = 128


@functools.lru_cache(maxsize=8192)
def host_names(key: str) -> tuple[str, bytes, bytes]:
    """Answer the key of the directory that a key is in, that directory's path, and the name in it; ``.`` for the root.

    Raises:
        InvalidKey: It is no key.
        KeyError: Nothing that a store shows is called so.
    """
    if TEMPORARY in key and any(part.startswith(TEMPORARY) for part in key.split("/")):
        raise KeyError(key)
    check_key(key)
    above, name = split(key)
    return above, encode(above[:-1]), encode(name) or b"."


class OpenDirectory:
    """A directory that is open for as long as somebody has this object."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)


class OpenDirectories:
    """The directories beneath a root; those that are watched are kept open, as it is told when they are moved.

    Args:
        root: Descriptor of the root, which stays its owner's.
    """

    def __init__(self, root: int) -> None:
        self._root: OpenDirectory | None = OpenDirectory(os.dup(root))
        self._kept: dict[bytes, OpenDirectory] = {}
        self._forgotten = 0

    def kept(self, path: bytes) -> OpenDirectory | None:
        """Answer a directory that is kept open."""
        return self._kept.get(path) if path else self._root

    def open(self, path: bytes, is_watched: Callable[[], bool]) -> OpenDirectory:
        """Open a directory that is not kept open, and answer it.

        Args:
            path: Where it is.
            is_watched: Whether it is watched: it is kept if it was from before it was opened until it is kept.

        Raises:
            OSError: As ``beneath.open_beneath``.
        """
        root = self._root
        if root is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        keep, forgotten = is_watched(), self._forgotten
        opened = OpenDirectory(beneath.open_beneath(root.descriptor, path, DIRECTORY_FLAGS))
        if keep:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[path] = opened
            if forgotten != self._forgotten or not is_watched():  # it may have been moved since it was opened
                self._kept.clear()
        return opened

    def forget(self) -> None:
        """Keep nothing: a path may lead somewhere else now."""
        self._forgotten += 1
        self._kept.clear()

    def forget_below(self, path: bytes) -> None:
        """Keep neither a directory nor any below it: they are not watched any more."""
        self._forgotten += 1
        for kept in [kept for kept in self._kept.copy() if kept == path or kept.startswith(path + b"/")]:
            self._kept.pop(kept, None)

    def close(self) -> None:
        """Keep nothing open but what somebody is using still."""
        self._root = None
        self.forget()

    def forget_removed(self, path: bytes) -> None:
        """Do not keep a directory if it has been removed."""
        kept = self._kept.get(path)
        if kept is not None and not os.fstat(kept.descriptor).st_nlink:
            self._kept.pop(path, None)


class Place:
    """For a ``with`` statement: gives (descriptor of the directory that a key is in, name), and translates errors.

    No other thread has a transaction open meanwhile.
    """

    __slots__ = ("_directory", "_key", "_store", "_writing")

    def __init__(self, store: "DirectoryReading", key: str, writing: bool) -> None:
        self._store, self._key, self._writing = store, key, writing
        self._directory: OpenDirectory | None = None

    def __enter__(self) -> tuple[int, bytes]:
        store = self._store
        store._check_connected()
        share = store._gate.shared()
        share.__enter__()
        try:
            above, path, name = host_names(self._key)
            directories = store._directories
            self._directory = opened = directories.kept(path) or directories.open(path, lambda: store._is_watched(above))
        except BaseException as error:
            share.__exit__(None, None, None)
            if isinstance(error, InvalidKey | OSError):
                raise store._translated(error, self._key, self._writing) from error
            raise
        return opened.descriptor, name

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._directory = None
        self._store._gate.shared().__exit__(None, None, None)
        if isinstance(error, InvalidKey | OSError):
            raise self._store._translated(error, self._key, self._writing) from error
