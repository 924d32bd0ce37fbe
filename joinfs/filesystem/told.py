"""What others change, and who is told of it.

The kernel may believe for long what it was told about, if it is told when that is not so any more. Others are:
whoever writes to the store in this process, past the mount, and whoever changes its medium. Of the latter stores
tell only of directories that are watched; a directory is watched before anything in it is shown.
"""

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from joinfs.errors import JoinfsError, StaleNode
from joinfs.filesystem.lapsing import Lapsing
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.state import State
from joinfs.stores import Stat
from joinfs.stores.keys import ROOT, is_directory_key
from joinfs.stores.telling import OTHERS, told_since

log = logging.getLogger(__name__)

# For so many seconds who writes to the store past the mount waits for what is going on in the mount.
PATIENCE = 0.1
FOREVER = -1.0


class Kernel(Protocol):
    """Who keeps what it was told about nodes. Called in threads that answer none of its requests.

    Attributes:
        keeps_sizes: It takes no other size or time of a file that it knows: it writes them itself.
    """

    keeps_sizes: bool

    def entry_changed(self, parent: int, name: str) -> None:
        """A name in a directory stands for something else, or for something now; or all below it may have changed."""

    def entry_gone(self, parent: int, name: str, node: int) -> None:
        """A name in a directory, which was this node's, stands for nothing now."""

    def node_changed(self, node: int, data: bool) -> None:
        """A node's attributes changed, and perhaps its data."""

    def names_changed(self, names: Iterable[tuple[int, str]]) -> None:
        """Many names, each given with its directory, may stand for something else, and others there for something now.

        Each is given, and not just the uppermost: what is in use below a directory whose name is forgotten is kept, and
        comes back with the directory.
        """


class Told(State):
    """The part of the file system that tells the kernel. SEMANTICS.md, What others change."""

    _kernel: Kernel | None = None
    _lapsing: Lapsing[int] | None = None
    # How often all below some directory was disbelieved.
    _disbelieved = 0

    def tell(self, kernel: Kernel | None) -> None:
        """Tell ``kernel`` what others change, from now on; None ends that."""
        if kernel is None:
            self._kernel = None
            self._store.unsubscribe(self._changed)
            if self._lapsing is not None:
                self._lapsing.close()
                self._lapsing = None
            return
        self._serving = threading.local()
        self._nodes.note_changes()
        self._nodes.keeps_sizes = kernel.keeps_sizes
        self._lapsing = Lapsing(self._lapsed, self._settings.entry_ttl)
        self._kernel = kernel
        self._store.subscribe(self._changed)

    def serving(self) -> None:
        """Have what the calling thread changes be no news: it answers the kernel from now on."""
        if self._kernel is not None:
            self._serving.active = True

    # ---------------------------------------------------------------- watching

    @property
    def can_tell(self) -> bool:
        """Whether the kernel is told of changes that others make: of those in the root at least."""
        self.watch(self._nodes.root)
        return bool(self._nodes.root.watched)

    def watch(self, directory: Node) -> None:
        """See to it that changes that others make in a directory are told, if the kernel is to be told."""
        if directory.watched is not None or self._kernel is None or directory.is_unlinked:
            return
        unwatched = [directory]  # from below
        while (above := unwatched[-1].parent) is not None and above.watched is None:
            unwatched.append(above)
        is_above_watched = above is None or bool(above.watched)
        for node in reversed(unwatched):
            since = self._disbelieved
            try:
                is_above_watched = is_above_watched and self._nodes.ask(node, self._store.watch)
            except (KeyError, JoinfsError, OSError) as error:
                is_above_watched = False
                log.info("%s is not watched: %s", node.id, error)
            else:
                self._is_watched_now(node, is_above_watched, since)

    def _is_watched_now(self, directory: Node, watched: bool, since: int) -> None:
        """Note whether a directory is watched, unless that may have ended since ``_disbelieved`` was that."""
        with self._nodes.lock:
            if since != self._disbelieved:
                return
            directory.watched = watched
            if watched:  # what was known before may have changed before
                directory.expires = 0.0
                self._nodes.disbelieve_all(directory)

    def catch_up(self) -> None:
        """The same. Data that the kernel keeps of a file is not older then than the last time that somebody else closed it."""
        if self._kernel is not None:
            self._store.catch_up()

    def listed(self, directory: Node) -> None:
        """The same. The kernel keeps the listing: of what is not watched in a mount that else is, it is told to ask again."""
        lapsing = self._lapsing
        if lapsing is not None and not directory.watched and self._nodes.root.watched:
            lapsing.put(directory.id)

    def _lapsed(self, node: int) -> None:
        kernel = self._kernel
        if kernel is not None:
            kernel.node_changed(node, True)

    def _unwatch(self, directory: Node) -> None:
        directory.watched = None
        if self._kernel is not None and not directory.is_unlinked:
            try:
                self._store.unwatch(directory.prefix())
            except (KeyError, JoinfsError, OSError) as error:
                log.info("%s: %s", directory.id, error)

    # ---------------------------------------------------------------- being told

    def _changed(self, key: str | None) -> None:
        """A subscriber of the store."""
        kernel = self._kernel
        if kernel is None or getattr(self._serving, "active", False):
            return
        if key is None:
            self._all_changed(kernel)
        elif key == ROOT:
            self._attributes_changed(kernel, self._nodes.root)
        elif is_directory_key(key):
            self._below_changed(kernel, key)
        else:
            self._name_changed(kernel, key)

    def _all_changed(self, kernel: Kernel) -> None:
        directories = self._disbelieve_below(self._nodes.root)
        kernel.names_changed(self._names_in(directories))
        for node in [*directories, *self._nodes.opened()]:
            kernel.node_changed(node.id, True)

    def _disbelieve_below(self, directory: Node) -> list[Node]:
        """Believe nothing of what is in a directory any more, and watch anew before anything in it is shown.

        Answers it and the directories below it.
        """
        found = []
        with self._nodes.lock:
            self._disbelieved += 1
            pending = [directory]
            while pending:
                node = pending.pop()
                found.append(node)
                node.watched = None
                self._nodes.disbelieve_all(node)
                pending += [child for child in (node.children or {}).values() if child.is_directory]
        return found

    def _below_changed(self, kernel: Kernel, key: str) -> None:
        directory = self._nodes.at(key)
        with self._nodes.lock:
            names = [] if directory is None else directory.names
            for parent, name in names:
                self._nodes.disbelieve(parent, name)
        if directory is None or not names:
            self._name_changed(kernel, key.removesuffix("/"))
            return
        directories = self._disbelieve_below(directory)
        for node in directories:
            kernel.node_changed(node.id, True)
        for parent, name in names:  # though it may have lost it meanwhile
            kernel.entry_changed(parent.id, name)
        kernel.names_changed(self._names_in(directories))

    def _names_in(self, directories: list[Node]) -> Iterator[tuple[int, str]]:
        for directory in directories:
            with self._nodes.lock:
                names = list(directory.children or ())
            yield from ((directory.id, name) for name in names)

    def _name_changed(self, kernel: Kernel, key: str) -> None:
        """What stands at a key has changed.

        Who writes to the store in this process may hold what a verb is waiting for, so it does not wait long for verbs.
        """
        since = told_since()
        if since is not None:
            self._judge(kernel, key, since, FOREVER)
        elif not self._judge(kernel, key, OTHERS, PATIENCE):
            self._ask_again(kernel, key)
            self._judge_late(kernel, key)

    def _judge_late(self, kernel: Kernel, key: str) -> None:
        threading.Thread(target=self._judge, args=(kernel, key, OTHERS, FOREVER), name="joinfs tells late", daemon=True).start()

    def doubt(self, node: Node) -> None:
        kernel = self._kernel
        if kernel is not None:
            with contextlib.suppress(StaleNode):
                self._judge_late(kernel, node.key())

    def _ask_again(self, kernel: Kernel, key: str) -> None:
        """Have all that is believed of a name asked for again."""
        directory, name = self._nodes.nearest(key)
        with self._nodes.lock:
            node = directory.child(name)
            self._nodes.disbelieve(directory, name)
        if node is not None:
            kernel.node_changed(node.id, node.is_file)
        if node is None or not node.is_directory:
            kernel.entry_changed(directory.id, name)
        self._attributes_changed(kernel, directory)

    def _judge(self, kernel: Kernel, key: str, since: float, patience: float) -> bool:
        """Find out what others have changed after ``since``, and tell it. False if verbs had to be waited for for longer than that.

        A verb that has changed the store and not yet the nodes would look like others. The kernel is told when verbs go on:
        it may be waiting for one with what it needs for that.
        """
        if not self._nodes.changing.acquire(timeout=patience):
            return False
        try:
            directory, name = self._nodes.nearest(key)
            if self._is_echo(directory, name, since):
                self._nodes.doubt_xattrs(directory, name)  # what we make in a directory is no such event
                return True
            tell = self._look_again(kernel, directory, name)
        finally:
            self._nodes.changing.release()
        tell()
        self._attributes_changed(kernel, directory)
        return True

    def _attributes_changed(self, kernel: Kernel, directory: Node) -> None:
        """A directory's own attributes changed, and so what the kernel keeps of its listing may be another."""
        with self._nodes.lock:
            self._nodes.changed(directory, ours=False)
            if directory.listing is not None:
                directory.listing.disbelieve()
        kernel.node_changed(directory.id, True)

    def _is_echo(self, directory: Node, name: str, since: float) -> bool:
        """Whether we hear of what we did ourselves."""
        if self._nodes.changed_at(directory, name) >= since:
            return True
        content = None if (child := directory.child(name)) is None else child.content
        if since < OTHERS and content is not None and content.is_writable:
            content.is_doubted = True  # it may be the kernel that writes, past us
            return True
        return False

    def _look_again(self, kernel: Kernel, directory: Node, name: str) -> Callable[[], None]:
        """Believe nothing of a name any more; answer how to have the kernel look it up anew, or only ask for its attributes."""
        with self._nodes.lock:
            node = directory.child(name)
            was = None if node is None else node.stat  # it may be looked up anew at once
            self._nodes.disbelieve(directory, name)
        if node is None:
            return functools.partial(kernel.entry_changed, directory.id, name)
        try:
            is_same = self._is_same(kernel, node, directory.prefix() + name, was)
        except (KeyError, JoinfsError, OSError):
            self._lose_name(directory, name, node)
            return functools.partial(kernel.entry_gone, directory.id, name, node.id)
        if is_same:
            return functools.partial(kernel.node_changed, node.id, node.is_file)
        self._lose_name(directory, name, node)
        return functools.partial(kernel.entry_changed, directory.id, name)

    def _lose_name(self, directory: Node, name: str, node: Node) -> None:
        with self._nodes.lock:
            if directory.child(name) is node:
                self._nodes.remove_name(directory, name, ours=False)

    def _is_same(self, kernel: Kernel, node: Node, key: str, was: Stat | None) -> bool:
        """Whether what others left at the key of a node, which was so until then, can go on as that node."""
        content = node.content
        if content is not None:
            return content.is_still_at(key, was, kernel.keeps_sizes)
        stat = self._store.lookup(key)
        if node.kind != stat.kind or not node.is_file:
            return node.kind == stat.kind
        if was is None:  # then the kernel is told to ask for all of it, unless other names of it are other files now
            return not kernel.keeps_sizes and node.linked is None and stat.linked_id is None
        return was.file_id == stat.file_id and not (kernel.keeps_sizes and was.has_other_data_than(stat))
