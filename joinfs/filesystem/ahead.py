"""Reading ahead from one file to the next: a walk over small files waits for the disk once for many, not for each.

The kernel reads ahead within a file. Who reads one file of a directory after the other has it wait at the beginning
of each. Here the second wait in a directory has the files that are next in its listing prefetched, as many as are
read quickly; who is not waiting, because all is in memory, or reads in no order, causes nothing. A slow store is waited for
by many at once, in any order: of a directory with little data it is asked for all.
"""

import logging
import queue
import threading
from collections import OrderedDict

from joinfs.filesystem.nodes import Node
from joinfs.filesystem.table import NodeTable
from joinfs.stores import Store

log = logging.getLogger(__name__)

# Directories, each with the names in it; None for the end.
_Wanted = queue.SimpleQueue[tuple[str, list[str]] | None]

# So many files at a time; and all those of a directory that has no more.
BATCH = 64
# In a slow store a directory with so many bytes, or less, is fetched whole.
LITTLE_DATA = 16 << 20
# Who goes on within so many places of where he was reads in the order of the listing.
NEAR = 8
# Of so many directories it is known who walks there; directories with more entries than that are not walked ahead of.
MOST_WALKS = 16
MOST_NAMES = 20_000


class Ahead:
    """Who is told when somebody has to wait for the beginning of a file.

    Args:
        store: Where the files are.
        nodes: Their nodes.
    """

    def __init__(self, store: Store, nodes: NodeTable) -> None:
        self._store, self._nodes = store, nodes
        self._lock = threading.Lock()
        self._walks: OrderedDict[int, _Walk | str] = OrderedDict()
        self._is_walk = False
        self._wanted: _Wanted | None = None

    def missed(self, node: Node) -> None:
        """The beginning of a file is not in memory, and somebody waits for it now."""
        directory = node.parent
        if directory is None:
            return
        with self._lock:
            names = self._next(directory, node.name)
            if names:
                self._fetch(directory, names)

    def _next(self, directory: Node, name: str) -> list[str]:
        walk = self._walks.get(directory.id)
        if not isinstance(walk, _Walk):
            # One file alone says nothing of the next, unless this is the next directory of a walk.
            goes_on = self._is_walk or walk is not None
            walk = self._walks[directory.id] = self._walk(directory, walk or "") if goes_on else name
            while len(self._walks) > MOST_WALKS:
                self._walks.popitem(last=False)
        self._is_walk = isinstance(walk, _Walk)
        return walk.next_to(name) if isinstance(walk, _Walk) else []

    def _walk(self, directory: Node, last: str) -> "_Walk":
        files = self._files_of(directory)
        is_little = self._store.capabilities.slow and None not in files.values() and sum(filter(None, files.values())) <= LITTLE_DATA
        return _Walk(list(files), last, is_whole=is_little or len(files) <= BATCH)

    def _files_of(self, directory: Node) -> dict[str, int | None]:
        """The regular files of a directory that are known to have data, or of which nothing is known, and how much; in the order of its listing."""
        with self._nodes.lock:
            children = directory.children or {}
            if len(children) > MOST_NAMES:
                return {}
            files = {name: None if child.stat is None else child.stat.size for name, child in children.items() if child.is_file}
            return {name: size for name, size in files.items() if size != 0}

    def _fetch(self, directory: Node, names: list[str]) -> None:
        if self._wanted is None:
            self._wanted = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(self._wanted,), name="joinfs reads ahead", daemon=True).start()
        try:
            self._wanted.put((directory.prefix(), names))
        except KeyError:
            log.debug("%s went away", directory.id)

    def close(self) -> None:
        """Read ahead of nobody any more, until somebody waits again."""
        with self._lock:
            self._walks.clear()
            if self._wanted is not None:
                self._wanted.put(None)
                self._wanted = None

    def _work(self, wanted: "_Wanted") -> None:
        while (next_ones := wanted.get()) is not None:
            directory, names = next_ones
            try:
                self._store.prefetch(directory, names)
            except Exception as error:  # it was a hint; who reads there is told
                log.debug("%s: %s", directory, error)


class _Walk:
    """One directory's files, of which somebody has waited for the one called ``last``, and how far they have been asked for; all at once, if it is whole."""

    def __init__(self, names: list[str], last: str, is_whole: bool) -> None:
        self._names, self._is_whole = names, is_whole
        self._places = {name: place for place, name in enumerate(names)}
        self._last = self._places.get(last, -1)
        self._end = 0

    def next_to(self, name: str) -> list[str]:
        """Answer what to prefetch now that somebody waits for a file."""
        place = self._places.get(name, -1)
        before, self._last = self._last, place
        if self._is_whole:
            begin, self._end = self._end, len(self._names)
            return self._names[begin:]
        if not 0 < place - before <= NEAR:
            self._end = 0
            return []
        begin = max(self._end, place + 1)
        if begin > place + BATCH // 2:
            return []
        self._end = min(begin + BATCH, len(self._names))
        return self._names[begin : self._end]
