"""The reference model: what a join, and a mount of it, should look like, in plain dicts.

``Tree`` is a whole visible tree: a dict from path to ``Entry``. It shares no code with joinfs beyond the
classes of errors. Authors of stores and of drivers can run the same actions on it and on their own and
compare: see tests/model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, KeyExists, NotADirectory


@dataclass
class Entry:
    """A file (``data`` is bytes) or a directory (``data`` is None).

    Attributes:
        origins: The ``(layer, path)`` of the lower stores that it still comes from: of a file, one or
            none; of a directory, all that its contents are merged of.
    """

    data: bytes | None
    metadata: dict[str, Any] = field(default_factory=dict)
    mode: int = 0
    origins: list[tuple[int, str]] = field(default_factory=list)

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.data is None


def parent_of(path: str) -> str:
    """The path of the directory that ``path`` is in; the root's is the empty string."""
    return path.rpartition("/")[0]


class Tree:
    """A visible tree, and what each action does to it.

    Actions raise what the join should raise, and then have changed nothing.

    Attributes:
        metacopy: A file whose attributes are changed goes on to show the data of the lower store that it comes from.
    """

    metacopy = False

    def __init__(self, entries: Mapping[str, Entry] | None = None) -> None:
        self.entries: dict[str, Entry] = dict(entries or {})
        self.root_origins: list[tuple[int, str]] = []

    @classmethod
    def merged(cls, layers: Sequence[Mapping[str, Entry]], first: int = 1) -> "Tree":
        """The tree that read-only layers give, top to bottom, numbered from ``first``."""
        tree, ended = cls(), set[str]()
        for number, layer in enumerate(layers, first):
            tree.root_origins.append((number, ""))
            for path in sorted(layer):
                tree._merge_one(path, layer[path], number, ended)
            ended |= {p for p, e in layer.items() if not e.is_directory}
        return tree

    def _merge_one(self, path: str, entry: Entry, number: int, ended: set[str]) -> None:
        above = [path[:i] for i, letter in enumerate(path) if letter == "/"] + [path]
        if any(p in ended for p in above):
            return
        there = self.entries.get(path)
        if there is None:
            self.entries[path] = replace(entry, metadata=dict(entry.metadata), origins=[(number, path)])
        elif there.is_directory and entry.is_directory:
            there.origins.append((number, path))

    # ---------------------------------------------------------------- looking

    def children(self, path: str) -> dict[str, Entry]:
        """What is directly in a directory, by name."""
        prefix = path + "/" if path else ""
        return {
            p[len(prefix) :]: e
            for p, e in self.entries.items()
            if p.startswith(prefix) and "/" not in p[len(prefix) :]
        }

    def _need(self, path: str) -> Entry:
        if path not in self.entries:
            raise KeyError(path)
        return self.entries[path]

    def _need_file(self, path: str) -> Entry:
        entry = self._need(path)
        if entry.is_directory:
            raise IsADirectory(path)
        return entry

    def _need_parent(self, path: str) -> None:
        above = parent_of(path)
        if above and above not in self.entries:
            raise KeyError(above)
        if above and not self.entries[above].is_directory:
            raise NotADirectory(above)

    # ---------------------------------------------------------------- changing

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Make a file, or replace the data of one."""
        self._need_parent(path)
        there = self.entries.get(path)
        if there is None:
            self.entries[path] = Entry(data, {}, mode)
            return
        if there.is_directory:
            raise IsADirectory(path)
        there.data, there.origins = data, []

    def make_directory(self, path: str, mode: int = 0o755) -> None:
        """Make an empty directory."""
        self._need_parent(path)
        if path in self.entries:
            raise KeyExists(path)
        self.entries[path] = Entry(None, {}, mode)

    def unlink(self, path: str) -> None:
        """Delete a file."""
        self._need_file(path)
        del self.entries[path]

    def remove_directory(self, path: str) -> None:
        """Delete an empty directory."""
        if not self._need(path).is_directory:
            raise NotADirectory(path)
        if self.children(path):
            raise DirectoryNotEmpty(path)
        del self.entries[path]

    def change_mode(self, path: str, mode: int) -> None:
        """Set permission bits."""
        self._change(path, lambda entry: setattr(entry, "mode", mode), with_data=not self.metacopy)

    def set_metadata(self, path: str, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata."""
        self._change(path, lambda entry: setattr(entry, "metadata", dict(metadata)), with_data=not self.metacopy)

    def _change(self, path: str, change: Callable[[Entry], None], with_data: bool = True) -> None:
        entry = self._need(path)
        if with_data and not entry.is_directory:
            entry.origins = []
        change(entry)

    def rename(self, old: str, new: str) -> None:
        """Move a file or a directory with all below it, over a file or an empty directory."""
        entry = self._need(old)
        self._need_parent(new)
        if old == new:
            return
        if new.startswith(old + "/"):
            raise InvalidKey(new)
        there = self.entries.get(new)
        if there is not None and entry.is_directory and not there.is_directory:
            raise NotADirectory(new)
        if there is not None and there.is_directory:
            if not entry.is_directory:
                raise IsADirectory(new)
            if self.children(new):
                raise DirectoryNotEmpty(new)
        self.entries.pop(new, None)
        if not entry.is_directory:
            entry.origins = []
        self.entries |= self._taken(old, new)

    def exchange(self, first: str, second: str) -> None:
        """Swap what stands at two paths."""
        self._need(first)
        self._need(second)
        if first == second:
            return
        if first.startswith(second + "/") or second.startswith(first + "/"):
            raise InvalidKey(first)
        for path in (first, second):
            self._change(path, lambda _: None)
        moved = self._taken(first, second)
        self.entries |= self._taken(second, first) | moved

    def _taken(self, old: str, new: str) -> dict[str, Entry]:
        """Take out what is at and below ``old``, as it will be called at ``new``."""
        moving = [p for p in self.entries if p == old or p.startswith(old + "/")]
        return {new + p[len(old) :]: self.entries.pop(p) for p in moving}

    # ---------------------------------------------------------------- behind the join's back

    def edited_below(self, layer: int, path: str, data: bytes) -> None:
        """A lower store's file got other data: whoever still comes from it shows that."""
        for entry in self.entries.values():
            if not entry.is_directory and (layer, path) in entry.origins:
                entry.data = data

    def added_below(self, layer: int, directory: str, name: str, entry: Entry) -> None:
        """A lower store got a file of a name never used before: directories merged of it show it."""
        places = [p for p, e in self.entries.items() if e.is_directory and (layer, directory) in e.origins]
        if (layer, directory) in self.root_origins:
            places.append("")
        for place in places:
            path = f"{place}/{name}" if place else name
            origin = (layer, f"{directory}/{name}" if directory else name)
            self.entries[path] = replace(entry, metadata=dict(entry.metadata), origins=[origin])
