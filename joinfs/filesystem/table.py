"""The node table: how nodes are found by number and by name, and when they are let go of.

Two locks. ``changing`` is held by who changes names, together with the change in the store. ``lock`` guards
the table itself and is never held while the store is asked; so finding waits for nobody's store. They are
taken in this order. How far what is known can be believed is ``beliefs``.
"""

import contextlib
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from joinfs.errors import StaleNode
from joinfs.filesystem.attributes import ROOT_INO, inode_number
from joinfs.filesystem.beliefs import FOREVER, MOST_LISTED, OURS, Beliefs
from joinfs.filesystem.listing import Listing
from joinfs.filesystem.locks import PatientLock
from joinfs.filesystem.nodes import ROOT, Node, moving
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT as ROOT_KEY
from joinfs.stores.keys import check_name
from joinfs.stores.value import MEBIBYTE

MOST_ABSENT = 10_000
# Copying so many bytes takes long.
LONG = MEBIBYTE
# How often the store is asked again because a change overtook its answer.
MOST_LOOKS = 3
_DIRECTORY = 0o040000
T = TypeVar("T")


class NodeTable(Beliefs):
    """All nodes.

    Args:
        store: Where the nodes come from.
        ttl: Seconds for which what the store says is believed.
        most_idle: How many nodes that nobody uses are kept.
        unwatched: Called with a watched directory of which nothing is known any more.

    Attributes:
        changing: As above.
        before_waiting: Called by ``waits``.
    """

    def __init__(self, store: Store, ttl: float, most_idle: int, unwatched: Callable[[Node], None]) -> None:
        super().__init__(store, ttl)
        self.changing = PatientLock(self.waits)
        self.before_waiting: Callable[[], None] | None = None
        self._most_idle = most_idle
        self._unwatched = unwatched
        self._numbers = itertools.count(ROOT + 1)
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._nodes = {ROOT: self.root}
        # Inode numbers that what is found anew is not to have too: of what was unlinked, or was renamed and has it of its key.
        self._taken: dict[int, Node] = {ROOT_INO: self.root}

    def waits(self) -> None:
        """The calling thread will wait for something, or copy much."""
        if self.before_waiting is not None:
            self.before_waiting()

    def will_copy(self, size: int) -> None:
        """The same, if so many bytes take long to copy."""
        if size >= LONG:
            self.waits()

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    def __len__(self) -> int:
        return len(self._nodes)

    def all(self) -> list[Node]:
        """All nodes there are."""
        with self.lock:
            return list(self._nodes.values())

    def count_all(self) -> int:
        """How many nodes there are."""
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
        child = parent.child(name)
        if child is not None and child.expires > now:
            if not count:
                return child
            with self.lock:
                if parent.child(name) is child:
                    child.lookups += 1
                    self._idle.pop(child.id, None)
                    return child
        if self._absent and self._absent.get((parent.id, name), 0.0) > now:
            raise KeyError(name)
        for _ in range(MOST_LOOKS):
            found = self._ask(parent, name, count)
            if found is not None:
                return found
        with self.changing:
            return self._ask_at_last(parent, name, count)

    def refresh(self, node: Node) -> Stat:
        """Answer the attributes of a node, asking the store unless what is known is fresh; those of an unlinked one stay.

        Raises:
            KeyError: It has gone behind our back.
        """
        stat = node.stat
        if stat is not None and (node.expires > time.monotonic() or node.is_unlinked):
            return stat
        if node.is_unlinked:
            return Stat(node.kind, nlink=0)  # all that is known of what nobody had open
        with contextlib.suppress(KeyError):  # a verb may be moving it
            for _ in range(MOST_LOOKS):
                version, moved = node.version, node.last_moved()
                stat = self._store.stat(node.key())
                with self.lock:
                    if version == node.version and node.is_still(moved) and self._goes_on(node, stat):
                        self.update(node, stat)
                        return stat
        with self.changing:
            return self._refresh_at_last(node)

    def _refresh_at_last(self, node: Node) -> Stat:
        """Ask the store while no verb is half done, and take what it says for this once, though files are written to meanwhile."""
        if node.is_unlinked:
            return node.stat or Stat(node.kind, nlink=0)
        stat = self._store.stat(node.key())
        with self.lock:
            is_same = self._is_same(node, stat)
            if not is_same or self._is_written_by_others(node, stat):
                self.part(node, ours=False)
            if is_same:
                self.update(node, stat)
                node.expires = 0.0
        if not is_same and node.content is None:
            raise StaleNode(f"node {node.id} was replaced by others")
        return stat if is_same else node.stat or stat

    def ask(self, node: Node, question: Callable[[str], T]) -> T:
        """Answer what a question to the store says of a node's key, while no verb gives it another.

        Raises:
            KeyError: It has gone behind our back.
            StaleNode: It has no key.
        """
        with contextlib.suppress(KeyError):
            moved = node.last_moved()
            answer = question(node.key())
            if node.is_still(moved):
                return answer
        with self.changing:
            return question(node.key())

    def listing_of(self, directory: Node) -> Listing:
        """Answer what the store lists in a directory. It is kept for who reads on in it. Errors as for ``ask``."""
        version, until = directory.version, time.monotonic() + self._ttl
        listing = self.ask(directory, lambda key: Listing(self._store.list(key), until, directory.listing))
        self.remember_listing(directory, listing, version)
        return listing

    def owned(self, directory: Node) -> Stat:
        """Answer attributes of a directory of which mode and owner hold: they do not change with what is in it."""
        return directory.stat if directory.stat is not None and directory.watched else self.refresh(directory)

    def known(self, parent: Node, name: str) -> Node:
        """Answer the node of a name, however old what is known of it: for who has the store check it anyway.

        Errors as for ``find``.
        """
        return parent.child(name) or self.find(parent, name)

    def _ask(self, parent: Node, name: str, count: bool) -> Node | None:
        """Ask the store; None if a change overtook the answer."""
        version, moved = parent.version, parent.last_moved()
        try:
            stat = self._look(parent, name)
        except KeyError:
            with self.lock:
                if version != parent.version or not parent.is_still(moved):
                    return None
                if parent.child(name) is None:
                    self._miss(parent, name)
                    raise
        else:
            with self.lock:
                if version != parent.version or not parent.is_still(moved):
                    return None
                if self._goes_on(parent.child(name), stat):
                    return self._found(parent, name, stat, count)
        with self.changing:
            return self._ask_at_last(parent, name, count)

    def _ask_at_last(self, parent: Node, name: str, count: bool) -> Node:
        """Ask the store while no verb is half done, and take what it says for this once, though others change it meanwhile."""
        try:
            stat = self._store.lookup(parent.prefix() + name)
        except KeyError:
            with self.lock:
                self.remove_name(parent, name, ours=False)
            raise
        with self.lock:
            if not self._goes_on(parent.child(name), stat):
                self.remove_name(parent, name, ours=False)
            node = self._found(parent, name, stat, count)
            node.expires = 0.0
            return node

    def _goes_on(self, node: Node | None, stat: Stat) -> bool:
        """Whether the node that a name is known to stand for, if there is one, can be what has these attributes."""
        return node is None or (self._is_same(node, stat) and not self._is_written_by_others(node, stat))

    def _found(self, parent: Node, name: str, stat: Stat, count: bool) -> Node:
        node = self.add_name(parent, name, stat)
        if count:
            self.count(node)
        else:
            self._consider_idle(node)
        return node

    def _look(self, parent: Node, name: str) -> Stat:
        listing = parent.listing
        if listing is not None and listing.until > time.monotonic():
            stat = listing.stats.get(name)
            if stat is not None:
                return stat
        return self._store.lookup(parent.prefix() + name)

    def _miss(self, parent: Node, name: str) -> None:
        """Nothing stands at a name of which nothing was known."""
        if len(self._absent) >= MOST_ABSENT:
            self._absent.clear()
        self._absent[parent.id, name] = time.monotonic() + self._ttl

    def add_name(self, parent: Node, name: str, stat: Stat) -> Node:
        """Answer the node that ``name`` stands for by now, with these attributes.

        Hold the lock, and until it is counted or in use: nobody else keeps a new node.
        """
        node = parent.child(name)
        if node is not None and not self._is_same(node, stat):
            self.remove_name(parent, name, ours=False)
            node = None
        if node is None:
            node = self._shared(stat)
            if node is None:
                node = self._new(parent, name, stat, parent.prefix())
            else:
                node.add_name(parent, name)
            self._enter(parent, name, node)
        if self._absent:
            self._absent.pop((parent.id, name), None)
        self.update(node, stat)
        return node

    def add_unnamed(self, stat: Stat, near: str) -> Node:
        """Answer a new node that has no name, counted once."""
        with self.lock:
            number = next(self._numbers)
            node = Node(number, inode_number(f"{near}/{number}", stat, self._taken), stat.kind, None, "")
            self._nodes[number] = self._taken[node.ino] = node
            node.stat = stat._replace(nlink=0)
            node.lookups = 1
            return node

    def name_again(self, node: Node) -> None:
        """Have a file that has lost the only name that was known stand for another that it has, which is looked for everywhere.

        Hold ``changing``. Errors of the store are raised.
        """
        for key in self._keys_of(node.linked):
            with contextlib.suppress(KeyError):
                *above, name = key.split("/")
                directory = self.root
                for part in above:
                    directory = self.find(directory, part)
                if self.find(directory, name) is node:
                    return

    def _keys_of(self, number: int | None) -> Iterator[str]:
        pending = [ROOT_KEY]
        while pending:
            directory = pending.pop()
            for name, stat in self._store.list(directory):
                if stat.is_directory:
                    pending.append(f"{directory}{name}/")
                elif stat.file_id == number:
                    yield directory + name

    def _enter(self, parent: Node, name: str, node: Node) -> None:
        if parent.children is None:
            parent.children = {}
        parent.children[name] = node
        self._idle.pop(parent.id, None)

    def _is_same(self, node: Node, stat: Stat) -> bool:
        """Whether a node can be what has these attributes."""
        if node.kind != stat.kind or (node.kind != _DIRECTORY and self._is_replaced(node, stat)):
            return False
        number = stat.linked_id
        return number is None or stat.breaks or self._by_file.get(number) in {None, node}

    def _is_replaced(self, node: Node, stat: Stat) -> bool:
        """Whether others have put another file in the place of a node's; what we have changed ourselves may be another now."""
        known, content = node.stat, node.content
        if known is None or known.file_id is None or known.file_id == stat.file_id or stat.file_id is None:
            return False
        if content is not None and (content.is_writable or not content.holds_file):
            return False
        return node.expires != OURS

    def _is_written_by_others(self, node: Node, stat: Stat) -> bool:
        """Whether a file has other data by now than who keeps sizes knows of it. While a verb is half done that may be ours."""
        if not self.keeps_sizes or node.stat is None or not node.is_file or (node.content is not None and node.content.is_writable):
            return False
        return node.stat.has_other_data_than(stat)

    def _shared(self, stat: Stat) -> Node | None:
        """The node of a file that is known by another name, or was when that was removed through us and is open still."""
        if stat.file_id is None or stat.breaks or stat.is_directory:
            return None
        node = self._by_file.get(stat.file_id)
        if node is None or node.kind != stat.kind:
            return None
        if node.is_unlinked:  # while it is open no other file can have its number
            return node if node.content is not None and node.content.holds_file else None
        return node if stat.nlink > 1 else None

    def _new(self, parent: Node, name: str, stat: Stat, prefix: str) -> Node:
        ino = inode_number(prefix + name, stat, () if stat.breaks else self._taken)
        node = Node(next(self._numbers), ino, stat.kind, parent, name)
        self._nodes[node.id] = node
        return node

    # ---------------------------------------------------------------- many at once

    def take_in(self, parent: Node, entries: Iterable[tuple[str, Stat]], version: int) -> list[Node | None]:
        """Answer the nodes of some names in a directory, of which the kernel is told all at once, with these attributes.

        If the directory is not of this version any more, that is believed for this once. None for a name that is known to
        stand for something else: who looks it up finds out which of the two is so.
        """
        nodes: list[Node | None] = []
        prefix = parent.prefix()
        soon = time.monotonic() + self._ttl
        with self.lock:
            is_current = version == parent.version
            soon = soon if is_current else 0.0
            expires = FOREVER if parent.watched and is_current else soon
            children, by_file = parent.children, self._by_file
            for name, stat in entries:
                node = None if children is None else children.get(name)
                if node is None and (stat.nlink <= 1 or stat.breaks or stat.is_directory) and stat.file_id not in by_file:
                    node = self._new_unshared(parent, name, stat, prefix)
                    children = parent.children
                    node.expires = soon if node.is_directory else expires
                elif self._goes_on(node, stat):
                    node = self.add_name(parent, name, stat)
                    if not is_current:
                        node.expires = 0.0
                else:
                    nodes.append(None)
                    continue
                node.lookups += 1
                self._idle.pop(node.id, None)
                nodes.append(node)
            self._let_go()
        return nodes

    def _new_unshared(self, parent: Node, name: str, stat: Stat, prefix: str) -> Node:
        """A new node of a file that has one name; all of what ``add_name`` and ``update`` do that it needs."""
        ino = inode_number(prefix + name, stat, () if stat.breaks else self._taken)
        node = Node(next(self._numbers), ino, stat.mode & 0o170000, parent, name)
        self._nodes[node.id] = node
        self._enter(parent, name, node)
        node.stat = stat
        self._remembered.append(node)
        return node

    # ---------------------------------------------------------------- names

    def adopt(self, node: Node, parent: Node, name: str) -> None:
        """Have a further name stand for a node. Hold the lock."""
        node.add_name(parent, name)
        self._enter(parent, name, node)
        self._absent.pop((parent.id, name), None)

    def remove_name(self, parent: Node, name: str, ours: bool = True) -> None:
        """Have ``name`` stand for nothing. Hold the lock."""
        node = None if parent.children is None else parent.children.pop(name, None)
        self.names_changed(parent, name, ours=ours)
        if node is None:
            return
        node.drop_name(parent, name)
        if ours or node.stat is None or node.stat.is_known_by_place:
            self._guard(node)
        if node.stat is not None:
            node.stat = node.stat._replace(nlink=0 if node.stat.is_directory else max(node.stat.nlink - 1, 0))
        if not ours and node.is_unlinked and node.content is not None:
            node.content.was_lost()
        self.changed(node, ours)
        self._consider_idle(node)
        self._consider_idle(parent)

    def _guard(self, node: Node) -> None:
        """Have what is found anew not get the inode number of a node, if it could: because it has its key, or its place in the store."""
        if node.is_unlinked or node.stat is None or node.stat.is_known_by_place:
            self._taken.setdefault(node.ino, node)

    def part(self, node: Node, ours: bool = True) -> None:
        """Have the names of a file stand for another node, with its inode number, from the next time they are looked up.

        For who knows it by number it stays what it was when this was called.
        """
        with self.lock:
            for parent, name in node.names:
                self.remove_name(parent, name, ours)
            if self._taken.get(node.ino) is node:
                del self._taken[node.ino]
            if node.linked is not None and self._by_file.get(node.linked) is node:
                del self._by_file[node.linked]

    def move_name(self, parent: Node, name: str, new_parent: Node, new_name: str) -> None:
        """Give a node another name in place of one that it has. Hold the lock."""
        node = None if parent.children is None else parent.children.pop(name, None)
        self.names_changed(parent, name)
        self.names_changed(new_parent, new_name)
        self._absent.clear()
        if node is None:
            return
        with moving(node):
            node.move_name(parent, name, new_parent, new_name)
        self._guard(node)
        self._enter(new_parent, new_name, node)
        self.changed(node)

    def swap_names(self, parent: Node, name: str, other_parent: Node, other_name: str) -> None:
        """Have two names stand for each other's nodes. Hold the lock; both are known."""
        one, other = parent.child(name), other_parent.child(other_name)
        if one is None or other is None:
            raise KeyError(name)
        with moving(one, other):
            one.move_name(parent, name, other_parent, other_name)
            other.move_name(other_parent, other_name, parent, name)
        self._enter(parent, name, other)
        self._enter(other_parent, other_name, one)
        self._absent.clear()
        for node in (one, other):
            self._guard(node)
            self.changed(node)
        self.names_changed(parent, name)
        self.names_changed(other_parent, other_name)

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
        pending = [node]  # with a node all those above it may go, however many
        while pending:
            node = pending.pop()
            if node.lookups > 0 or node.content is not None or node.children or node.id == ROOT:
                continue
            if node.is_unlinked or not self._most_idle:
                pending += self._drop(node)
                continue
            self._idle[node.id] = None
            while len(self._idle) > self._most_idle:
                pending += self._drop(self._nodes[next(iter(self._idle))])

    def _drop(self, node: Node) -> list[Node]:
        """Let go of a node; answer the directories that it was the last one of that are known in them."""
        self._idle.pop(node.id, None)
        self._nodes.pop(node.id, None)
        if len(self._remembered) > 2 * len(self._nodes) + MOST_LISTED:
            self._remembered = deque(other for other in self._remembered if other.id in self._nodes)
        if self._taken.get(node.ino) is node:
            del self._taken[node.ino]
        if node.linked is not None and self._by_file.get(node.linked) is node:
            del self._by_file[node.linked]
        if node.listing is not None:
            self.forget_listing(node)
        if node.watched:
            self._unwatched(node)
        alone = []
        for parent, name in node.names:
            if parent.children is not None and parent.children.get(name) is node:
                del parent.children[name]
                if not parent.children:
                    parent.children = None
                    alone.append(parent)
        return alone
