"""Nodes: what the kernel knows by number, and how they are found by name.

A node has a key as long as it has a name. Names form a tree of nodes, so that renaming a directory moves
all that is below it. What the store said about a node, or that there is nothing of a name, is believed
for a while; every change through this mount corrects it at once.
"""

import itertools
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING

from joinfs.filesystem.attributes import ROOT_INO, Attributes, attributes_of, inode_number
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT as ROOT_KEY
from joinfs.stores.keys import check_name

if TYPE_CHECKING:
    from joinfs.filesystem.content import Content

ROOT = 1
MOST_ABSENT = 10_000


class Node:
    """An inode of the mounted tree.

    Attributes:
        names: ``(directory, name)`` of each of its names; empty when it is unlinked, and for the root.
        lookups: How often the kernel was told of it and has not forgotten it.
        stat: What the store said last; believed until ``expires`` (monotonic seconds).
        listed: Of a directory: what its last listing said of each name, believed until ``listed_until``.
    """

    __slots__ = (
        "children",
        "content",
        "expires",
        "has_xattrs",
        "id",
        "ino",
        "listed",
        "listed_until",
        "lookups",
        "names",
        "stat",
    )

    def __init__(self, number: int, ino: int, stat: Stat) -> None:
        self.id = number
        self.ino = ino
        self.stat = stat
        self.expires = 0.0
        self.names: list[tuple[Node, str]] = []
        self.children: dict[str, Node] = {}
        self.lookups = 0
        self.content: Content | None = None
        self.has_xattrs = True
        self.listed: dict[str, Stat] | None = None
        self.listed_until = 0.0

    @property
    def is_unlinked(self) -> bool:
        """Whether it has lost its last name."""
        return not self.names and self.id != ROOT

    def path(self) -> str:
        """Its first name's path, components joined by ``/``; the root's is empty.

        Raises:
            KeyError: It is unlinked, or a directory above it is.
        """
        parts: list[str] = []
        node = self
        while node.id != ROOT:
            if not node.names:
                raise KeyError(f"node {self.id} is unlinked")
            node, name = node.names[0]
            parts.append(name)
        return "/".join(reversed(parts))

    def key(self) -> str:
        """Its key in the store, spelled as its kind is; errors as for ``path``."""
        path = self.path()
        return path + "/" if path and self.stat.is_directory else path

    def attributes(self) -> Attributes:
        """What the kernel is told about it."""
        stat = self.stat if self.content is None else self.content.current(self.stat)
        return attributes_of(self.ino, stat, 0 if self.is_unlinked else stat.nlink)


class NodeTable:
    """All nodes, and the way from names to them.

    ``lock`` is held by who changes names, together with the change in the store. Finding does not hold it
    while the store is asked.

    Args:
        store: Where the nodes come from.
        ttl: Seconds for which what the store says is believed.
        most_idle: How many nodes that nobody uses are kept.
    """

    def __init__(self, store: Store, ttl: float, most_idle: int) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._ttl = ttl
        self._most_idle = most_idle
        self._numbers = itertools.count(ROOT + 1)
        self._absent: dict[tuple[int, str], float] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._version = 0
        self.root = Node(ROOT, ROOT_INO, store.stat(ROOT_KEY))
        self.root.lookups = 1
        self._nodes = {ROOT: self.root}
        self._by_ino = {ROOT_INO: self.root}
        self._by_file: dict[int, Node] = {}

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    def __len__(self) -> int:
        return len(self._nodes)

    def opened(self) -> list[Node]:
        """The nodes that have content."""
        with self.lock:
            return [node for node in self._nodes.values() if node.content is not None]

    # ---------------------------------------------------------------- finding

    def find(self, parent: Node, name: str, count: bool = False) -> Node:
        """Answer the node of ``name`` in a directory, asking the store if need be.

        Args:
            parent: The directory.
            name: One component.
            count: Count in the same step that the kernel is told of the node.

        Raises:
            KeyError: There is none.
            InvalidKey: No name is like that.
        """
        check_name(name)
        now = time.monotonic()
        child = parent.children.get(name)
        if child is not None and child.expires > now:
            if not count:
                return child
            with self.lock:
                if parent.children.get(name) is child:
                    self.count(child)
                    return child
        if self._absent.get((parent.id, name), 0.0) > now:
            raise KeyError(name)
        version = self._version
        try:
            stat = self._look(parent, name, now)
        except KeyError:
            self._miss(parent, name, version)
            raise
        return self._found(parent, name, stat, version, count)

    def _look(self, parent: Node, name: str, now: float) -> Stat:
        if parent.listed is not None and parent.listed_until > now and name in parent.listed:
            return parent.listed[name]
        path = parent.path()
        return self._store.lookup(f"{path}/{name}" if path else name)

    def _miss(self, parent: Node, name: str, version: int) -> None:
        with self.lock:
            if version != self._version:
                return
            if name in parent.children:
                self.remove_name(parent, name)
            if len(self._absent) >= MOST_ABSENT:
                self._absent.clear()
            self._absent[parent.id, name] = time.monotonic() + self._ttl

    def _found(self, parent: Node, name: str, stat: Stat, version: int, count: bool) -> Node:
        """Take in what the store said, unless a change overtook it: then that is what holds."""
        with self.lock:
            node = parent.children.get(name) if version != self._version else None
            if node is None:
                if version != self._version:
                    stat = self._look(parent, name, time.monotonic())
                node = self.add_name(parent, name, stat)
            if count:
                self.count(node)
            else:
                self._consider_idle(node)
            return node

    def add_name(self, parent: Node, name: str, stat: Stat) -> Node:
        """Answer the node that ``name`` stands for by now, with these attributes.

        Hold the lock, and until it is counted or in use: nobody else keeps a new node.
        """
        node = parent.children.get(name)
        if node is not None and not self._is_same(node, stat):
            self.remove_name(parent, name)
            node = None
        if node is None:
            node = self._shared(stat) or self._new(parent, name, stat)
            node.names.append((parent, name))
            parent.children[name] = node
            self._idle.pop(parent.id, None)
        self._absent.pop((parent.id, name), None)
        self.update(node, stat)
        return node

    def _is_same(self, node: Node, stat: Stat) -> bool:
        if node.stat.kind != stat.kind:
            return False
        number = stat.linked_id
        return number is None or stat.breaks or self._by_file.get(number) in {None, node}

    def _shared(self, stat: Stat) -> Node | None:
        number = stat.linked_id
        if number is None or stat.breaks:
            return None
        node = self._by_file.get(number)
        return node if node is not None and node.stat.kind == stat.kind else None

    def _new(self, parent: Node, name: str, stat: Stat) -> Node:
        path = parent.path()
        ino = inode_number(f"{path}/{name}" if path else name, stat, () if stat.breaks else self._by_ino)
        node = Node(next(self._numbers), ino, stat)
        self._nodes[node.id] = self._by_ino[ino] = node
        return node

    # ---------------------------------------------------------------- what is believed

    def update(self, node: Node, stat: Stat) -> None:
        """Take in new attributes of a node."""
        node.stat = stat
        node.expires = time.monotonic() + self._ttl
        number = stat.linked_id
        if number is not None and not stat.breaks:
            self._by_file[number] = node

    def changed(self, node: Node) -> None:
        """Believe nothing about a node's attributes any more, nor what is being read of them now."""
        self._version += 1
        node.expires = 0.0
        node.has_xattrs = True
        for parent, name in node.names:
            if parent.listed is not None:
                parent.listed.pop(name, None)

    def names_changed(self, parent: Node) -> None:
        """The same for a directory in which names came or went."""
        self.changed(parent)
        parent.listed = None

    def refresh(self, node: Node) -> None:
        """Ask the store about a node unless what is known is fresh; an unlinked one stays as it is.

        Raises:
            KeyError: It has gone behind our back.
        """
        if node.expires > time.monotonic() or node.is_unlinked:
            return
        version = self._version
        stat = self._store.stat(node.key())
        with self.lock:
            if version == self._version:
                self.update(node, stat)
            else:
                node.stat = stat

    def remember_listing(self, node: Node, entries: dict[str, Stat], version: int) -> None:
        """Keep what a listing said, unless something changed since ``version``."""
        if version == self._version:
            node.listed = entries
            node.listed_until = time.monotonic() + self._ttl

    @property
    def version(self) -> int:
        """A number that every change through this mount changes."""
        return self._version

    # ---------------------------------------------------------------- names

    def adopt(self, node: Node, parent: Node, name: str) -> None:
        """Have a further name stand for a node. Hold the lock."""
        node.names.append((parent, name))
        parent.children[name] = node
        self._absent.pop((parent.id, name), None)
        self._idle.pop(parent.id, None)

    def remove_name(self, parent: Node, name: str) -> None:
        """Have ``name`` stand for nothing. Hold the lock."""
        node = parent.children.pop(name, None)
        self.names_changed(parent)
        if node is None:
            return
        node.names = [(p, n) for p, n in node.names if not (p is parent and n == name)]
        node.stat = node.stat._replace(nlink=max(node.stat.nlink - 1, 1))
        self.changed(node)
        self._consider_idle(node)
        self._consider_idle(parent)

    def move_name(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Give a node another name in place of one that it has. Hold the lock."""
        node = parent.children.pop(name, None)
        self.names_changed(parent)
        self.names_changed(new_parent)
        self._absent.clear()
        if node is None:
            return
        place = node.names.index((parent, name))
        node.names[place] = (new_parent, new_name)
        new_parent.children[new_name] = node
        self._idle.pop(new_parent.id, None)
        self.changed(node)

    def swap_names(self, parent: Node, name: str, other_parent: Node, other_name: str) -> None:
        """Have two names stand for each other's nodes. Hold the lock; both are known."""
        one, other = parent.children[name], other_parent.children[other_name]
        one.names[one.names.index((parent, name))] = (other_parent, other_name)
        other.names[other.names.index((other_parent, other_name))] = (parent, name)
        parent.children[name], other_parent.children[other_name] = other, one
        self._absent.clear()
        for node in (one, other):
            self.changed(node)
        for directory in (parent, other_parent):
            self.names_changed(directory)

    # ---------------------------------------------------------------- lifetime

    def count(self, node: Node) -> None:
        """The kernel is told of a node."""
        with self.lock:
            node.lookups += 1
            self._idle.pop(node.id, None)

    def forget(self, node: Node, count: int) -> None:
        """The kernel forgets ``count`` times that it was told."""
        with self.lock:
            node.lookups -= count
            self._consider_idle(node)

    def keep(self, node: Node) -> None:
        """A node has content: it is not idle. Hold the lock."""
        self._idle.pop(node.id, None)

    def settle(self, node: Node) -> None:
        """A node's content went away: it may be of no use to anyone now."""
        with self.lock:
            self._consider_idle(node)

    def _consider_idle(self, node: Node) -> None:
        if node.lookups > 0 or node.content is not None or node.children or node.id == ROOT:
            return
        if node.is_unlinked:
            self._drop(node)
            return
        self._idle[node.id] = None
        while len(self._idle) > self._most_idle:
            self._drop(self._nodes[next(iter(self._idle))])

    def _drop(self, node: Node) -> None:
        self._idle.pop(node.id, None)
        self._nodes.pop(node.id, None)
        if self._by_ino.get(node.ino) is node:
            del self._by_ino[node.ino]
        if node.stat.file_id is not None and self._by_file.get(node.stat.file_id) is node:
            del self._by_file[node.stat.file_id]
        for parent, name in node.names:
            if parent.children.pop(name, None) is not None:
                self._consider_idle(parent)
