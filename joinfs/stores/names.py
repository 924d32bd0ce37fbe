"""The keys of a flat medium, any text at all, as directories with names in them."""

import re
from collections.abc import Iterable

from joinfs.errors import InvalidKey
from joinfs.stores.escape import escape, unescape
from joinfs.stores.keys import ROOT, split

# In a medium this name is the marker of the root, as it is in many archives.
ROOT_MARKER = "./"
_ODD = re.compile(r"(?:^|/)(?:\.{0,2}(?:/|$)|%%)|\0|[^/]{64}")


class NameTree:
    """Where each name of a medium stands as a key, and what is directly in each directory.

    ``a/b`` is a value, ``a/b/`` the marker of a directory, ``./`` that of the root. Directories are there
    without markers too, as long as something is in them. Odd names are spelled as in
    :mod:`joinfs.stores.escape`. Not thread-safe.

    Args:
        names: The medium's names, in any order; each counts once.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: dict[str, str] = {}
        self._children: dict[str, dict[str, bool]] = {ROOT: {}}
        for name in names:
            self.add(name)

    def key(self, name: str) -> str:
        """Answer the key at which a name of the medium stands, or would stand."""
        if name == ROOT_MARKER:
            return ROOT
        bare = name.removesuffix("/")
        marker = bare != name
        spelled = escape(bare) if _ODD.search(bare) else bare
        if marker:
            return spelled + "/"
        return escape(name, beside_directory=True) if spelled + "/" in self._children else spelled

    def name(self, key: str) -> str:
        """Answer the medium's name that stands at a key.

        Raises:
            KeyError: There is none; a directory without a marker has none.
        """
        return self._names[key]

    def has_name(self, key: str) -> bool:
        """Whether a name of the medium stands at a key; of a directory, whether it has a marker."""
        return key in self._names

    def values(self) -> list[tuple[str, str]]:
        """Answer the key and the medium's name of every value."""
        return [(key, name) for key, name in self._names.items() if not key.endswith("/") and key != ROOT]

    def children(self, prefix: str) -> dict[str, bool]:
        """Answer the names directly in a directory, and for each whether it is a directory.

        Raises:
            KeyError: There is no such directory.
        """
        return self._children[prefix]

    def count_directories(self) -> int:
        """Answer how many directories there are, the root included."""
        return len(self._children)

    def is_directory(self, key: str) -> bool:
        """Whether there is a directory of this key."""
        return key in self._children

    def add(self, name: str) -> None:
        """Take in a name; nothing happens if it is there already."""
        key = self.key(name)
        if key not in self._names:
            self._names[key] = name
            self._enter(key)

    def discard(self, name: str) -> None:
        """Let go of a name, and of directories that nothing is in any more and that have no marker."""
        key = self.key(name)
        if self._names.pop(key, None) is None:
            return
        if key in self._children:
            self._prune(key)
        else:
            above, last = split(key)
            del self._children[above][last]
            self._prune(above)

    def _enter(self, key: str) -> None:
        if key in self._children:
            return
        above, last = split(key)
        if above not in self._children:
            self._enter(above)
        if not key.endswith("/"):
            self._children[above][last] = False
            return
        self._children[key] = {}
        self._move_value(key[:-1])
        self._children[above][last] = True

    def _prune(self, key: str) -> None:
        while key != ROOT and not self._children[key] and key not in self._names:
            above, last = split(key)
            del self._children[key], self._children[above][last]
            self._move_value(key[:-1], back=True)
            key = above

    def _move_value(self, key: str, back: bool = False) -> None:
        """A value gives way to the directory of its name, and comes back when that is gone."""
        try:
            beside = escape(unescape(key)[0] if _ODD.search(key) else key, beside_directory=True)
        except InvalidKey:  # a piece of a long name, which no value is called
            return
        old, new = (beside, key) if back else (key, beside)
        name = self._names.pop(old, None)
        if name is not None:
            del self._children[split(old)[0]][split(old)[1]]
            self._names[new] = name
            self._enter(new)
