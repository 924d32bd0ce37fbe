"""The verbs on open directories."""

from collections.abc import Callable, Iterator

from joinfs.filesystem.attributes import inode_number
from joinfs.filesystem.listing import DOTS, Listing
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import DirectoryEntry, Entry, State
from joinfs.stores import Stat


class DirectoryVerbs(State):
    """Verbs that list. SEMANTICS.md, Listing."""

    def opendir(self, node: int) -> int:
        """Answer a handle on a directory, for drivers that need one."""
        return self._directories.add(self._directory(node))

    def releasedir(self, handle: int) -> None:
        """Close such a handle."""
        self._directories.remove(handle)

    def directory_of(self, handle: int) -> int:
        """Answer the node that such a handle is open on."""
        return self._directories[handle].id

    def readdir(self, node: int, offset: int) -> Iterator[DirectoryEntry]:
        """Yield the entries of a directory from ``offset`` on, ``.`` and ``..`` first.

        What is there all the time is yielded once, whatever comes and goes meanwhile, and however late
        somebody reads on from an offset.
        """
        directory = self._directory(node)
        yield from self._dots(directory, offset)
        listing = self._listing(directory, offset)
        for place, name in listing.after(offset):
            yield self._entry_alone(directory, name, place, listing.stats.get(name))

    def readdirplus(self, node: int, offset: int, cost: Callable[[str], int], room: int) -> list[DirectoryEntry]:
        """Answer the next entries, each with its node, of which it is counted that the kernel knows it.

        An entry whose attributes are not known by now is without.

        Args:
            node: The directory.
            offset: As for ``readdir``.
            cost: How much of the room the entry of a name takes.
            room: How much there is.
        """
        directory = self._directory(node)
        self.watch(directory)
        entries = []
        for dot in self._dots(directory, offset):
            room -= cost(dot.name)
            entries.append(dot)
        listing = self._listing(directory, offset)
        page = []
        for place, name in listing.after(offset):
            room -= cost(name)
            if room < 0:
                break
            page.append((place, name))
        entries += self._told_of(directory, listing, page)
        if not page:
            self._nodes.forget_listing(directory)
        return entries

    def _told_of(self, directory: Node, listing: Listing, page: list[tuple[int, str]]) -> list[DirectoryEntry]:
        stats = listing.stats
        known = [(name, stat) for _, name in page if (stat := stats.get(name)) is not None]
        nodes = dict(zip((name for name, _ in known), self._nodes.take_in(directory, known), strict=True))
        watched = bool(directory.watched)
        entries = []
        for place, name in page:
            node, stat = nodes.get(name), stats.get(name)
            if node is None or stat is None:
                entries.append(self._entry_alone(directory, name, place, None))
                continue
            # Directories are not watched before somebody looks into them.
            told = watched and (node.linked is None if node.kind != directory.kind else bool(node.watched))
            entry = Entry(node.id, node.attributes(stat), told)
            entries.append(DirectoryEntry(name, node.ino, stat.mode, place, entry))
            stats[name] = None  # the node has it
        return entries

    def _entry_alone(self, directory: Node, name: str, place: int, stat: Stat | None) -> DirectoryEntry:
        child = directory.child(name)
        if child is not None:
            return DirectoryEntry(name, child.ino, child.kind, place)
        mode = 0 if stat is None else stat.mode
        return DirectoryEntry(name, inode_number(directory.prefix() + name, stat or Stat(mode)), mode, place)

    def _listing(self, node: Node, offset: int) -> Listing:
        listing = node.listing
        if offset > DOTS and listing is not None:
            return listing
        if node.is_unlinked:
            return Listing((), 0.0)
        version = node.version
        return self._nodes.remember_listing(node, self._store.list(node.prefix()), version)

    def _dots(self, node: Node, offset: int) -> Iterator[DirectoryEntry]:
        above = node.parent or node
        dots = [(".", node), ("..", above)]
        for number, (name, directory) in enumerate(dots[offset:DOTS], offset + 1):
            yield DirectoryEntry(name, directory.ino, directory.kind, number)

    def fsyncdir(self, node: int, datasync: bool = False) -> None:
        """Have the directory's entries where they survive a loss of power."""
        found = self._directory(node)
        if not found.is_unlinked:
            self._store.sync(found.prefix())


