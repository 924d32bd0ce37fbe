"""What all verbs share: the store, the nodes, the open handles, and the tuples they speak in."""

import contextlib
from typing import Final, NamedTuple

from joinfs.errors import NotADirectory, ReadOnly, StaleNode
from joinfs.filesystem.ahead import Ahead
from joinfs.filesystem.attributes import Attributes
from joinfs.filesystem.content import Content
from joinfs.filesystem.handles import FileHandle, Handles
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.staging import Staging
from joinfs.filesystem.table import NodeTable
from joinfs.filesystem.tally import Tally
from joinfs.stores import Stat, Store

NOW: Final = -1


class Caller(NamedTuple):
    """Who asks."""

    uid: int = 0
    gid: int = 0
    pid: int = 0


class Entry(NamedTuple):
    """A node by number, with its attributes.

    Attributes:
        told: Whether the driver will be told if others change what the name stands for, or the attributes.
    """

    node: int
    attributes: Attributes
    told: bool = False


class DirectoryEntry(NamedTuple):
    """One entry of a listing.

    Attributes:
        offset: Where the listing goes on after it.
    """

    name: str
    ino: int
    mode: int
    offset: int


class ListedNode(NamedTuple):
    """One entry of a listing with its node, of which it was counted that the kernel knows it.

    Attributes:
        offset: Where the listing goes on after it.
        node: The node's number; 0 where its attributes are not known, and nothing was counted.
        stat: Its attributes, but for the inode number.
        told: As in ``Entry``.
    """

    name: str
    ino: int
    offset: int
    node: int
    stat: Stat
    told: bool


class Settings(NamedTuple):
    """How a file system is to behave.

    Attributes:
        entry_ttl: Seconds for which names and attributes are believed without asking the store.
        read_only: Refuse every change.
        idle_nodes: How many nodes that nobody uses are kept.
        staging: Where staged data is kept; in files without names if None.
    """

    entry_ttl: float = 1.0
    read_only: bool = False
    idle_nodes: int = 50_000
    staging: Staging | None = None


class State:
    """The state of a mounted file system, and what its verbs need of it.

    Args:
        store: What is mounted; connected.
        settings: How to behave.
    """

    def __init__(self, store: Store, settings: Settings | None = None) -> None:
        self.tally = Tally()
        self._store = store
        self._settings = settings or Settings()
        self._nodes = NodeTable(store, self._settings.entry_ttl, self._settings.idle_nodes, self._unwatch)
        self._ahead = Ahead(store, self._nodes)
        self._staging = self._settings.staging or Staging()
        self._has_acls = False
        self._makes_local_files = store.capabilities.local
        self._files: Handles[FileHandle] = Handles()
        self._directories: Handles[Node] = Handles()

    def watch(self, directory: Node) -> None:
        """See to it that changes that others make in a directory are told, if somebody wants to be told."""

    def catch_up(self) -> None:
        """What others have done until now is told, if somebody wants to be told; as far as the store can know."""

    def listed(self, directory: Node) -> None:
        """Somebody was told to the end what is in a directory."""

    def doubt(self, node: Node) -> None:
        """Others may have changed a file while it was open for writing."""

    def _unwatch(self, directory: Node) -> None:
        """Nothing is known any more of a directory that was watched."""

    def foreign_xattrs(self, node: Node) -> dict[str, bytes]:
        """The extended attributes of a node outside ``user.``. That there are none is remembered: the kernel asks often."""
        if node.is_unlinked or not node.has_xattrs:
            return {}
        version = node.version
        foreign = self._nodes.ask(node, self._store.get_xattrs)
        if not foreign:
            with self._nodes.lock:
                if version == node.version:
                    node.has_xattrs = False
        return foreign

    def _check_current(self, node: Node) -> None:
        """Raise ``StaleNode`` for a file that others have deleted or replaced, unless somebody has it open."""
        if node.is_unlinked and node.content is None and not node.is_directory:
            raise StaleNode(f"node {node.id} was replaced by others")

    def check_writable(self) -> None:
        """Raise ``ReadOnly`` if no change is taken."""
        if self._settings.read_only or not self._store.capabilities.writable:
            raise ReadOnly("the mount is read-only")

    def _directory(self, number: int) -> Node:
        node = self._nodes[number]
        if not node.is_directory:
            raise NotADirectory("not a directory")
        return node

    def _sync(self, node: Node) -> None:
        with contextlib.suppress(StaleNode):  # what has no name is not to be found after a loss of power
            self._nodes.ask(node, self._store.sync)

    def _entry(self, node: Node) -> Entry:
        """Count that the kernel is told of a node, and answer what it is told."""
        self._nodes.count(node)
        return self._counted(node)

    def _counted(self, node: Node) -> Entry:
        """What the kernel is told of a node, of which it is counted already that it is."""
        try:
            return Entry(node.id, self._attributes(node), is_told(node))
        except BaseException:
            self._nodes.forget(node, 1)
            raise

    def _attributes(self, node: Node) -> Attributes:
        return node.attributes(self._nodes.refresh(node))

    def _content(self, node: Node) -> Content:
        """The content of a node, with one more handle on it."""
        with self._nodes.lock:
            if node.content is None:
                node.content = Content(node, self._store, self._nodes, self._ahead, self._staging)
                self._nodes.keep(node)
            node.content.handles += 1
            return node.content

    def _release(self, node: Node, content: Content) -> None:
        """Take one handle off; the last one lets go of the content unless it has data to keep."""
        with content.lock, self._nodes.lock:
            content.handles -= 1
        self._let_go(node, content)

    def _let_go(self, node: Node, content: Content) -> None:
        """Let go of the content of a node if nobody has it open, and it has no data to keep."""
        with content.lock, self._nodes.lock:
            if content.handles or node.content is not content or (content.is_dirty and not node.is_unlinked):
                return
            if node.stat is not None:
                node.stat = content.current(node.stat)
            may_have_written = content.is_writable
            node.content = None
            content.close()
            if may_have_written:  # and the kernel past us
                self._nodes.changed(node)
            self._nodes.settle(node)
        if content.is_doubted:
            self.doubt(node)


def is_told(node: Node) -> bool:
    """Whether we are told if others change a node, or what its name stands for."""
    above, stat = node.parent, node.stat
    if node.is_directory:
        return bool(node.watched) and (above is None or bool(above.watched))
    return above is not None and bool(above.watched) and (node.linked is None or (stat is not None and stat.steady))
