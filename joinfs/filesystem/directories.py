"""The verbs on open directories."""

from collections.abc import Callable, Iterator

from joinfs.filesystem.attributes import inode_number
from joinfs.filesystem.listing import DOTS, Listing
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import DirectoryEntry, ListedNode, State
from joinfs.stores import Stat

_new_tuple = tuple.__new__  # much quicker than ListedNode(...), for what there may be a million of


def _without_node(entry: DirectoryEntry) -> ListedNode:
    return ListedNode(entry.name, entry.ino, entry.offset, 0, Stat(entry.mode), False)


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

        What is there all the time is yielded once, whatever comes and goes meanwhile.
        """
        directory = self._directory(node)
        yield from self._dots(directory, offset)
        listing = self._listing(directory, offset)
        for place, name in listing.after(offset):
            yield self._entry_alone(directory, name, place, listing.stats.get(name))
        self.listed(directory)

    def readdirplus(self, node: int, offset: int, cost: Callable[[str], int], room: int) -> list[ListedNode]:
        """Answer the next entries, each with its node, of which it is counted that the kernel knows it.

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
            entries.append(_without_node(dot))
        listing = self._listing(directory, offset)
        page = []
        for entry in listing.after(offset):
            room -= cost(entry[1])
            if room < 0:
                break
            page.append(entry)
        entries += self._with_nodes(directory, listing, page)
        if not page:
            self.listed(directory)
        return entries

    def _with_nodes(self, directory: Node, listing: Listing, page: list[tuple[int, str]]) -> list[ListedNode]:
        version, stats = directory.version, listing.stats
        known = {name: stat for _, name in page if (stat := stats.get(name)) is not None}
        nodes = dict(zip(known, self._nodes.take_in(directory, known.items(), version), strict=True))
        for name, node in nodes.items():
            if node is not None:
                stats[name] = None  # the node has it
        watched = bool(directory.watched) and version == directory.version
        try:
            return list(self._listed(directory, page, known, nodes, watched))
        except BaseException:
            for node in filter(None, nodes.values()):
                self._nodes.forget(node, 1)
            raise

    def _listed(
        self, directory: Node, page: list[tuple[int, str]], known: dict[str, Stat], nodes: dict[str, Node | None], watched: bool
    ) -> Iterator[ListedNode]:
        kind = directory.kind
        for place, name in page:
            stat, node = known.get(name), nodes.get(name)
            if stat is None or node is None:
                yield _without_node(self._entry_alone(directory, name, place, stat))
                continue
            content = node.content
            if content is not None:
                stat = content.current(stat)
            # Directories are not watched before somebody looks into them.
            told = watched and (bool(node.watched) if node.kind == kind else node.linked is None or stat.steady)
            yield _new_tuple(ListedNode, (name, node.ino, place, node.id, stat, told))

    def _entry_alone(self, directory: Node, name: str, place: int, stat: Stat | None) -> DirectoryEntry:
        child = directory.child(name)
        if child is not None:
            return DirectoryEntry(name, child.ino, child.kind, place)
        key = directory.prefix() + name
        if stat is None:  # somebody has changed it while the listing was being read
            try:
                stat = self._store.lookup(key)
            except KeyError:
                stat = Stat(0)
        return DirectoryEntry(name, inode_number(key, stat), stat.mode, place)

    def _listing(self, node: Node, offset: int) -> Listing:
        listing = node.listing
        if offset > DOTS and listing is not None:
            return listing
        if node.is_unlinked:
            return Listing((), 0.0)
        return self._nodes.listing_of(node)

    def _dots(self, node: Node, offset: int) -> Iterator[DirectoryEntry]:
        above = node.parent or node
        dots = [(".", node), ("..", above)]
        for number, (name, directory) in enumerate(dots[offset:DOTS], offset + 1):
            yield DirectoryEntry(name, directory.ino, directory.kind, number)

    def fsyncdir(self, node: int, datasync: bool = False) -> None:
        """Have the directory's entries where they survive a loss of power."""
        self._sync(self._directory(node))


