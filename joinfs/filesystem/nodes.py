"""Nodes: what the kernel knows by number.

A node has a key as long as it has a name. Names form a tree of nodes, so that renaming a directory moves
all that is below it. How nodes are found, and how long what is known of them is believed, is ``table``.

There can be millions: what few nodes have, or have for a short time, is None in the others.
"""

import contextlib
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from joinfs.errors import StaleNode
from joinfs.filesystem.attributes import Attributes, attributes_of
from joinfs.stores import Stat

if TYPE_CHECKING:
    from joinfs.filesystem.content import Content
    from joinfs.filesystem.listing import Listing

ROOT = 1
_DIRECTORY, _FILE, _SYMLINK = 0o040000, 0o100000, 0o120000
# In place of the number of a node's last move: one is half done.
MOVING = float("inf")
_moves = itertools.count(1)


class Node:
    """An inode of the mounted tree.

    Attributes:
        id: The kernel's number for it.
        ino: Its inode number, as stat(2) shows it.
        kind: The type bits of its mode; a node never changes them.
        stat: What the store said last, as far as that is still known; believed until ``expires`` (monotonic seconds).
        lookups: How often the kernel was told of it and has not forgotten it.
        version: A number that is another after every change of the node, or directly in it, through this mount.
        moved: A number that is greater after it has got another key than all such numbers before; ``MOVING`` meanwhile.
        linked: The store's number for a file that has several keys.
        children: Of a directory: the nodes of those names in it that are known.
        listing: Of a directory: what it was last listed as, while somebody reads on in that.
        watched: Of a directory: whether changes that others make directly in it are told; None if nobody has asked.
        content: Its data, while it is open or not yet committed.
        has_xattrs: False if it is known to have no extended attributes outside ``user.``.
        given: Of a file: whether the kernel was given its data once without asking.
    """

    __slots__ = (
        "_more",
        "children",
        "content",
        "expires",
        "given",
        "has_xattrs",
        "id",
        "ino",
        "kind",
        "linked",
        "listing",
        "lookups",
        "moved",
        "name",
        "parent",
        "stat",
        "version",
        "watched",
    )

    def __init__(self, number: int, ino: int, kind: int, parent: "Node | None", name: str) -> None:
        self.id = number
        self.ino = ino
        self.kind = kind
        self.parent = parent
        self.name = name
        self.stat: Stat | None = None
        self.expires = 0.0
        self.lookups = 0
        self.version = 0
        self.moved: float = 0
        self.linked: int | None = None
        self.children: dict[str, Node] | None = None
        self.listing: Listing | None = None
        self.watched: bool | None = None
        self.content: Content | None = None
        self.has_xattrs = True
        self.given = False
        self._more: list[tuple[Node, str]] | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == _DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.kind == _FILE

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.kind == _SYMLINK

    @property
    def known_size(self) -> int:
        """How many bytes it has, as far as that is known; else 0."""
        return 0 if self.stat is None else self.stat.size

    @property
    def is_unlinked(self) -> bool:
        """Whether it has lost its last name."""
        return self.parent is None and self.id != ROOT

    # ---------------------------------------------------------------- names

    @property
    def names(self) -> "list[tuple[Node, str]]":
        """``(directory, name)`` of each of its names; empty when it is unlinked, and for the root."""
        if self.parent is None:
            return []
        return [(self.parent, self.name), *(self._more or ())]

    def add_name(self, parent: "Node", name: str) -> None:
        """Have one name more."""
        if self.parent is None:
            self.parent, self.name = parent, name
        else:
            self._more = [*(self._more or ()), (parent, name)]

    def drop_name(self, parent: "Node", name: str) -> None:
        """Have one name less."""
        with moving(self):
            left = [(p, n) for p, n in self.names if not (p is parent and n == name)]
            self.parent, self.name = left[0] if left else (None, "")
            self._more = left[1:] or None

    def move_name(self, parent: "Node", name: str, new_parent: "Node", new_name: str) -> None:
        """Have another name in place of one that it has, and never none. Around it is ``moving``."""
        if self.parent is parent and self.name == name:
            self.parent, self.name = new_parent, new_name
        else:
            self._more = [(new_parent, new_name) if p is parent and n == name else (p, n) for p, n in self._more or ()]

    def child(self, name: str) -> "Node | None":
        """The node of a name in it, if that is known."""
        return None if self.children is None else self.children.get(name)

    def path(self) -> str:
        """Its first name's path, components joined by ``/``; the root's is empty.

        Raises:
            StaleNode: It is unlinked, or a directory above it is.
        """
        parts: list[str] = []
        node = self
        while (parent := node.parent) is not None:
            parts.append(node.name)
            node = parent
        if node.id != ROOT:
            raise StaleNode(f"node {self.id} is unlinked")
        parts.reverse()
        return "/".join(parts)

    def prefix(self) -> str:
        """The key of a directory: its path and ``/``; the root's is empty. Errors as for ``path``."""
        path = self.path()
        return path + "/" if path else path

    def key(self) -> str:
        """Its key in the store, spelled as its kind is; errors as for ``path``."""
        return self.prefix() if self.is_directory else self.path()

    def last_moved(self) -> float:
        """The number of the last move of it, or of a directory above it; ``MOVING`` while one is half done.

        Who uses its key while nobody keeps it from being moved takes this number first, and asks ``is_still`` at last.
        """
        node, last = self, self.moved
        while (parent := node.parent) is not None:
            node, last = parent, max(last, parent.moved)
        return last

    def is_still(self, moved: float) -> bool:
        """Whether its key was the same all the time since ``last_moved`` answered this, in the store too."""
        return moved != MOVING and moved == self.last_moved()

    def attributes(self, stat: Stat) -> Attributes:
        """What the kernel is told about it, of which the store says ``stat``."""
        content = self.content  # it may be closed meanwhile
        if content is not None:
            stat = content.current(stat)
        return attributes_of(self.ino, stat, stat.nlink)


@contextlib.contextmanager
def moving(*nodes: Node) -> Iterator[None]:
    """Around what gives nodes other keys, or takes theirs from them, in the store or here."""
    for node in nodes:
        node.moved = MOVING
    try:
        yield
    finally:
        number = next(_moves)
        for node in nodes:
            node.moved = number
