"""The verbs on open directories."""

from collections.abc import Iterator, Sequence

from joinfs.filesystem.attributes import inode_number
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import DirectoryEntry, DirectoryHandle, State
from joinfs.stores import Stat


class DirectoryVerbs(State):
    """Verbs that list. SEMANTICS.md, Listing."""

    def opendir(self, node: int) -> int:
        """Answer a handle on a directory."""
        return self._directories.add(DirectoryHandle(self._directory(node)))

    def readdir(self, handle: int, offset: int) -> Iterator[DirectoryEntry]:
        """Yield the entries from ``offset`` on, ``.`` and ``..`` first.

        The entries are those of when the handle was read from offset 0; so offsets stay what they are
        while entries come and go.
        """
        opened = self._directories[handle]
        if offset == 0 or opened.entries is None:
            opened.entries = self._listing(opened.node)
        return self._numbered(opened.node, opened.entries, offset)

    def _listing(self, node: Node) -> Sequence[tuple[str, Stat]]:
        if node.is_unlinked:
            return ()
        version = self._nodes.version
        entries = dict(self._store.list(node.key()))
        snapshot = tuple(entries.items())
        self._nodes.remember_listing(node, entries, version)
        return snapshot

    def _numbered(
        self, node: Node, entries: Sequence[tuple[str, Stat]], offset: int
    ) -> Iterator[DirectoryEntry]:
        above = node.names[0][0] if node.names else node
        dots = [(".", node), ("..", above)]
        for number, (name, directory) in enumerate(dots[offset:], offset + 1):
            yield DirectoryEntry(name, directory.ino, directory.stat.mode, number)
        path = "" if node.is_unlinked else node.path()
        prefix = f"{path}/" if path else ""
        start = max(offset - len(dots), 0)
        for number, (name, stat) in enumerate(entries[start:], start + len(dots) + 1):
            child = node.children.get(name)
            ino = inode_number(prefix + name, stat) if child is None else child.ino
            yield DirectoryEntry(name, ino, stat.mode, number)

    def releasedir(self, handle: int) -> None:
        """Close a handle."""
        self._directories.remove(handle)

    def fsyncdir(self, handle: int, datasync: bool = False) -> None:
        """Have the directory's entries where they survive a loss of power."""
        node = self._directories[handle].node
        if not node.is_unlinked:
            self._store.sync(node.key())
