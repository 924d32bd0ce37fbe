"""A file system that stands still, while its store is changed past it; and figures on what it is doing."""

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from joinfs.errors import MountError
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.told import Told

# So many files are named that are in the way.
MOST_NAMED = 5


class Standing(Told):
    """The part of the file system that others ask about it, and stop."""

    _standing: int | None = None
    _untold: list[str | None]

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Around changes of the store by this thread: no verb changes anything meanwhile. Verbs that only read go on.

        The kernel is told of what changed at the end, when verbs go on: it may be waiting for one with what it needs for that.

        Raises:
            MountError: Files are open for writing.
        """
        with self._nodes.changing:
            self._check_idle()
            self._untold, self._standing = [], threading.get_ident()
            try:
                yield
            finally:
                self._standing = None
                untold = self._untold
        if self._kernel is None:  # then at least we believe nothing any more
            self._disbelieve_below(self._nodes.root)
        for key in dict.fromkeys(untold):
            self._changed(key)

    def _check_idle(self) -> None:
        busy = {opened.node for opened in self._files.all() if opened.writable}
        busy |= {node for node in self._nodes.opened() if node.content is not None and node.content.is_dirty}
        names = sorted(node.content.name for node in busy if node.content is not None and not node.is_unlinked and not self._is_apart(node))
        if names:
            told = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
            raise MountError(f"open for writing in the mount: {told}; close what writes to it, and try again")

    def _is_apart(self, node: Node) -> bool:
        """Whether a node is nothing that is stored."""
        is_in_annex = getattr(self._store, "is_in_annex", None)
        return is_in_annex is not None and bool(is_in_annex(node.key()))

    def _changed(self, key: str | None) -> None:
        if self._standing == threading.get_ident():
            self._untold.append(key)
        else:
            super()._changed(key)

    def stage_for(self, store: str) -> None:
        """What is staged from now on goes into a first store of this name."""
        self._staging.begin_again(store)

    def figures(self) -> dict[str, Any]:
        """Answer what there is to know of what is going on.

        ``requests`` are those of the kernel, by verb, as in ``tally.Row``; what it reads and writes past us is not among them.
        ``staged`` is the size of each file that goes into the first store when it is closed or synced, as far as the kernel has handed it on.
        """
        staged = {}
        for node in self._nodes.opened():
            content = node.content
            if content is not None and content.is_staged and content.is_writable and not node.is_unlinked:
                staged[content.name] = content.current(self._nodes.refresh(node)).size
        requests = {verb: row._asdict() for verb, row in self.tally.rows().items()}
        return {"open_files": len(self._files.all()), "nodes": self._nodes.count_all(), "staged": staged, "pid": os.getpid(), "requests": requests}

    def path_of(self, number: int) -> str | None:
        """Answer the path of a node, without a ``/`` before it; None if it has no name, or there is no such node."""
        try:
            node = self._nodes[number]
        except KeyError:
            return None
        return None if node.is_unlinked else node.path()
