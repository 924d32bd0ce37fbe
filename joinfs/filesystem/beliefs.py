"""What is known of nodes, and how long it is believed.

What the store said about a node, or that there is nothing of a name, is believed for a while, or where others'
changes are told until they are; every change through this mount corrects it at once.
"""

import itertools
import threading
import time
from collections import OrderedDict, deque

from joinfs.filesystem.attributes import ROOT_INO
from joinfs.filesystem.listing import Listing
from joinfs.filesystem.nodes import ROOT, Node
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT as ROOT_KEY

# Of so many names it is kept in mind when they were changed; as many as inotify queues events, by default.
MOST_NOTED = 16_384
# So many nodes have attributes in memory; those of others are asked for again.
MOST_KNOWN = 100_000
# So many listings are kept for who reads on in them, with so many names in all, but always the last one.
MOST_LISTED = 1024
MOST_NAMES = 100_000
FOREVER = float("inf")
# In place of the time until which something is believed: we have changed it ourselves.
OURS = -1.0


class Beliefs:
    """The part of the node table that knows how far what is known can be believed.

    Args:
        store: Where the nodes come from.
        ttl: Seconds for which what the store says is believed.

    Attributes:
        lock: Guards the table itself; never held while the store is asked.
        keeps_sizes: Who knows the nodes takes no other size or time of a file than it wrote itself: so a file that others
            have written becomes another node.
    """

    keeps_sizes = False

    def __init__(self, store: Store, ttl: float) -> None:
        self.lock = threading.RLock()
        self._store = store
        self._ttl = ttl
        self._versions = itertools.count(1)
        self._absent: dict[tuple[int, str], float] = {}
        self._listed: OrderedDict[int, Node] = OrderedDict()
        self._names_listed = 0
        self._remembered: deque[Node] = deque()
        self._by_file: dict[int, Node] = {}
        self._changed_at: OrderedDict[tuple[int, str], float] | None = None
        self.root = Node(ROOT, ROOT_INO, 0o040000, None, "")
        self.root.stat = store.stat(ROOT_KEY)
        self.root.lookups = 1

    def update(self, node: Node, stat: Stat, ours: bool = False) -> None:
        """Take in new attributes of a node; ``ours`` says that it is we who have just changed them."""
        if node.stat is None:
            self._remember(node)
        elif not ours and node.stat.ctime != stat.ctime and not (node.watched and node.expires == OURS):
            node.has_xattrs = True
        node.stat = stat
        node.expires = self._until(node.parent, stat)
        if stat.nlink > 1 and stat.linked_id is not None and not stat.breaks and not node.is_unlinked:
            node.linked = stat.linked_id
            self._by_file[node.linked] = node

    def _until(self, parent: Node | None, stat: Stat) -> float:
        """How long attributes are believed: where others' changes are told, until they are."""
        told = parent is not None and parent.watched and (stat.nlink <= 1 or stat.breaks or stat.steady)
        return FOREVER if told and not stat.is_directory else time.monotonic() + self._ttl

    def _remember(self, node: Node) -> None:
        """Keep in mind that a node's attributes are known; those that were taken in longest ago are let go of."""
        self._remembered.append(node)
        self._let_go()

    def _let_go(self) -> None:
        while len(self._remembered) > MOST_KNOWN:
            old = self._remembered.popleft()
            if old.content is not None or old.is_unlinked or old.id == ROOT:
                continue
            old.stat = None
            old.expires = 0.0

    def changed(self, node: Node, ours: bool = True, heard: bool = True) -> None:
        """Believe nothing about a node's attributes any more, nor what is being read of them now.

        Args:
            node: The node.
            ours: Whether it is we who have changed something, here and below, not others.
            heard: Whether who watches the directory hears of what we did.
        """
        with self.lock:
            node.expires = OURS if ours else 0.0
            node.version = next(self._versions)
            for parent, name in node.names:
                parent.version = node.version
                if ours and heard:
                    self._note(parent, name)
                listing = parent.listing
                if listing is not None and name in listing.stats:
                    listing.stats[name] = None

    def names_changed(self, parent: Node, *names: str, ours: bool = True) -> None:
        """The same for a directory in which names came or went."""
        self.changed(parent, ours)
        for name in names:
            if ours:
                self._note(parent, name)
            if parent.listing is not None:
                parent.listing.stats.pop(name, None)

    def remember_listing(self, node: Node, listing: Listing, version: int) -> None:
        """Keep a listing for who reads on in it; if the directory has changed since ``version``, not what it says of attributes."""
        with self.lock:
            if version != node.version:
                listing.disbelieve()
            self.forget_listing(node)
            node.listing = listing
            self._listed[node.id] = node
            self._names_listed += len(listing)
            while len(self._listed) > MOST_LISTED or (self._names_listed > MOST_NAMES and len(self._listed) > 1):
                self.forget_listing(next(iter(self._listed.values())))

    def forget_listing(self, node: Node) -> None:
        """Do not keep what a directory was listed as. Hold the lock."""
        if self._listed.pop(node.id, None) is not None and node.listing is not None:
            self._names_listed -= len(node.listing)
        node.listing = None

    # ---------------------------------------------------------------- what others change

    def at(self, key: str) -> Node | None:
        """Answer the node at a key, if it is known."""
        node: Node | None = self.root
        for name in key.removesuffix("/").split("/") if key else ():
            node = None if node is None else node.child(name)
        return node

    def nearest(self, key: str) -> tuple[Node, str]:
        """Answer the last directory on the way to a key that is known, and the name in it on that way."""
        directory, names = self.root, key.removesuffix("/").split("/")
        for place, name in enumerate(names[:-1]):
            child = directory.child(name)
            if child is None:
                return directory, names[place]
            directory = child
        return directory, names[-1]

    def disbelieve(self, parent: Node, name: str) -> None:
        """Believe nothing any more of what a name stands for. Hold the lock."""
        child = parent.child(name)
        self._absent.pop((parent.id, name), None)
        if parent.listing is not None:
            parent.listing.until = 0.0
            if name in parent.listing.stats:
                parent.listing.stats[name] = None
        parent.expires = 0.0
        parent.version = next(self._versions)
        if child is not None:
            child.expires = 0.0
            child.version = parent.version
            child.has_xattrs = True

    def disbelieve_all(self, directory: Node) -> None:
        """The same of all that is in a directory, and of its listing. Hold the lock."""
        if directory.listing is not None:
            directory.listing.disbelieve()
        self.forget_absent(directory)
        for name in directory.children or ():
            self.disbelieve(directory, name)

    def doubt_xattrs(self, parent: Node, name: str) -> None:
        """A directory may have other extended attributes than is known."""
        child = parent.child(name)
        if child is not None and child.is_directory:
            with self.lock:
                child.version = next(self._versions)
                child.has_xattrs = True

    def forget_absent(self, parent: Node) -> None:
        """Do not believe any more that some names in a directory stand for nothing. Hold the lock."""
        for name in [name for number, name in self._absent if number == parent.id]:
            del self._absent[parent.id, name]

    def changed_at(self, parent: Node, name: str) -> float:
        """Answer when a name in a directory, or what it stands for, was last changed through this mount: monotonic seconds."""
        return 0.0 if self._changed_at is None else self._changed_at.get((parent.id, name), 0.0)

    def note_changes(self) -> None:
        """Keep in mind when what is changed from now on; ``changed_at`` tells."""
        self._changed_at = OrderedDict()

    def _note(self, parent: Node, name: str) -> None:
        noted = self._changed_at
        if noted is None:
            return
        noted.pop((parent.id, name), None)  # it goes to the end
        noted[parent.id, name] = time.monotonic()
        if len(noted) > MOST_NOTED:
            noted.popitem(last=False)
