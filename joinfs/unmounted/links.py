"""Symlinks, followed within a store.

In a mount the kernel follows them. Stores never do, so who reads without a mount does it here. What a link leads to
outside of the store (an absolute target, or ``..`` above the root) is not there, nor is anything where links go round.
"""

from typing import NamedTuple

from joinfs.errors import NotADirectory
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, ancestors, directory_key

# As many as Linux follows: path_resolution(7).
MAX_LINKS = 40


class Found(NamedTuple):
    """Where a path leads.

    Attributes:
        key: Spelled as the kind of what is there has it.
        stat: Its attributes; None if nothing is there, and something could be made.
        target: What is written in the symlink that the path itself is, if it was one and was followed.
    """

    key: str
    stat: Stat | None
    target: str | None = None


def entry(store: Store, path: str) -> Stat | None:
    """Answer the attributes of what is at a path without a ``/`` at its end, links not followed; None if nothing is."""
    try:
        return store.lookup(path)
    except KeyError:
        return None


def follow(store: Store, path: str, last: bool = True) -> Found:
    """Answer where a path without a ``/`` at its end leads; one question to the store if no link is on the way.

    Args:
        last: Follow the path itself too, not only the directories on the way.

    Raises:
        KeyError: A link leads out of the store, or there are too many.
        NotADirectory: Something on the way is not a directory.
    """
    stat = entry(store, path)
    if stat is None and not _is_through_link(store, path):
        return Found(path, None)
    if stat is None or (stat.is_symlink and last):
        return _Walk(store, path, last).found
    return Found(directory_key(path) if stat.is_directory else path, stat)


def _is_through_link(store: Store, path: str) -> bool:
    """Whether the nearest directory on the way that is there is not one, but a link."""
    for directory in reversed(ancestors(path)):
        stat = entry(store, directory.removesuffix("/"))
        if stat is not None:
            _check_passable(directory, stat)
            return stat.is_symlink
    return False


def _check_passable(key: str, stat: Stat) -> None:
    if not stat.is_directory and not stat.is_symlink:
        raise NotADirectory(f"'/{key.removesuffix('/')}' is not a directory")


class _Walk:
    """Goes along a path name by name."""

    def __init__(self, store: Store, path: str, last: bool) -> None:
        self._store, self._path = store, path
        self._names: list[str] = []
        self._left = path.split("/")[::-1]
        self._links = 0
        self._target: str | None = None
        stat = entry(store, ROOT)
        while self._left:
            stat = self._step(self._left.pop(), last)
        key = "/".join(self._names)
        self.found = Found(directory_key(key) if stat is not None and stat.is_directory else key, stat, self._target)

    def _step(self, name: str, last: bool) -> Stat | None:
        """One name on; answer what is there."""
        if name == "..":
            if not self._names:
                raise KeyError(self._path)
            self._names.pop()
        elif name not in {"", "."}:
            self._names.append(name)
        key = "/".join(self._names)
        stat = entry(self._store, key)
        if stat is not None and self._left:
            _check_passable(key, stat)
        if stat is not None and stat.is_symlink and (self._left or last):
            self._turn()
        return stat

    def _turn(self) -> None:
        """Go on where the link at this place leads."""
        with self._store.get_data("/".join(self._names)) as data:
            target = data.read().decode("utf-8", "surrogateescape")
        self._links += 1
        if self._links > MAX_LINKS or target.startswith("/"):
            raise KeyError(self._path)
        if not self._left and self._target is None:
            self._target = target
        self._names.pop()
        self._left.extend(target.split("/")[::-1])
