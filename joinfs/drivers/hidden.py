"""Files that are removed while they are open, as libfuse's path interface has it.

To keep a path for such a file, libfuse renames it to ``.fuse_hiddenXXXXXXXXYYYYYYYY`` beside itself, and
removes that when it is closed. Nothing of that name is ever made here: the hidden path is an alias for
the node, which lives on because it is open, and the file's own name is removed. (libfuse's other way,
``hard_remove``, leaves the file without a path, so that fstat(2) of it fails with ENOENT.)

Before a rename over an open file, libfuse hides that as well, and the two calls look alike. So the name
is not removed in the hiding call itself but by the next call for that directory, or some milliseconds
later; a rename onto it that comes first replaces it in one step, as rename(2) promises.

See Also:
    hide_node, fuse_lib_unlink and fuse_lib_rename in libfuse 2.9's fuse.c.
"""

import contextlib
import logging
import re
import threading
from typing import NamedTuple

from joinfs.errors import JoinfsError, NotPermitted
from joinfs.filesystem.operations import Operations

log = logging.getLogger(__name__)

PATTERN = re.compile(r"\.fuse_hidden[0-9a-f]{8}([0-9a-f]{8})")
MOST_AT_ONCE = 1000
DELAY = 0.01

Path = tuple[str, ...]


class Doomed(NamedTuple):
    """A name that is to be removed: the directory's node, and the name in it."""

    parent: int
    name: str


class HiddenFiles:
    """The aliases of hidden files, and the names that they are to lose.

    Args:
        operations: Where the names are.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._lock = threading.RLock()
        self._aliases: dict[Path, int] = {}
        self._doomed: dict[Path, Doomed] = {}
        self._last_count = 0

    def node(self, path: Path) -> int | None:
        """The node that a hidden path stands for."""
        return self._aliases.get(path) if self._aliases else None

    def is_hiding(self, old: Path, new: Path) -> bool:
        """Whether a rename is libfuse's hiding of an open file.

        libfuse counts its hidden names up from 1, in the last eight digits.

        Raises:
            NotPermitted: It is somebody else's, to a name that is libfuse's.
        """
        match = PATTERN.fullmatch(new[-1])
        if match is None:
            return False
        count = int(match[1], 16)
        if old[:-1] != new[:-1] or not self._last_count - MOST_AT_ONCE < count <= self._last_count + MOST_AT_ONCE:
            raise NotPermitted(f"{new[-1]!r} is a name of libfuse's; use another")
        self._last_count = max(self._last_count, count)
        return True

    def hide(self, old: Path, new: Path) -> None:
        """Give an open file a hidden path, and doom its own name."""
        self._operations.check_writable()
        parent = self._operations.walk(old[:-1])
        entry = self._operations.lookup(parent, old[-1])
        if not self._operations.is_open(entry.node):
            self._operations.forget(entry.node)
            raise NotPermitted(f"{new[-1]!r} is a name of libfuse's; use another")
        with self._lock:
            self._aliases[new] = entry.node
            self._doomed[old] = Doomed(parent, old[-1])
        timer = threading.Timer(DELAY, self.settle)
        timer.daemon = True
        timer.start()

    def drop(self, path: Path) -> bool:
        """libfuse removes a hidden file: nobody has it open any more. Answer whether it was one."""
        node = self._aliases.pop(path, None) if self._aliases else None
        if node is None:
            return False
        self.settle()
        self._operations.forget(node)
        return True

    def spare(self, path: Path) -> None:
        """A rename is about to replace what is at ``path``: that removes the name by itself."""
        with self._lock:
            self._doomed.pop(path, None)

    def settle_in(self, directory: Path) -> None:
        """Before a call for something in a directory: remove what is doomed there."""
        if self._doomed and any(path[:-1] == directory[: len(path) - 1] for path in tuple(self._doomed)):
            self.settle()

    def settle(self) -> None:
        """Remove all doomed names now."""
        with self._lock:
            for path, doomed in tuple(self._doomed.items()):
                # The caller of unlink(2) has its answer already; the file is there still, and nothing is lost.
                try:
                    with contextlib.suppress(KeyError):
                        self._operations.unlink(doomed.parent, doomed.name)
                except (JoinfsError, OSError):
                    log.exception("%s could not be removed", doomed.name)
                # Not earlier: who comes meanwhile must find it here, and wait for the lock.
                self._doomed.pop(path, None)
