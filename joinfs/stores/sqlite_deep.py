"""Where deep directories are, which each connection to a database remembers for as long as nobody has written to it.

To go down a few names takes one statement, and to ask whether anybody has written takes another. So it is only far down
that remembering is quicker; there, it makes a walk over n directories inside each other take n steps and not their square.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

# Components that one statement resolves: its subqueries nest, and SQLite's parser has a small stack.
STEP = 8
# From so many components on, remembering is quicker.
DEEP = 32
# What makes for the longest path that the kernel takes.
MOST_KNOWN = 256


class Connection(sqlite3.Connection):
    """A connection, and what it remembers.

    Attributes:
        known: Directories' nodes by their keys, whose numbers of names are multiples of STEP.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.known: dict[bytes, int] = {}
        self._as_of: tuple[int, int] = (0, 0)

    def believe(self) -> bool:
        """Forget what may not be so any more; answer whether anything can be remembered: a transaction may be undone."""
        if self.in_transaction:
            return False
        # What other connections have written, and this one; see PRAGMA data_version in SQLite's documentation.
        as_of = self.execute("PRAGMA data_version").fetchone()[0], self.total_changes
        if as_of != self._as_of or len(self.known) > MOST_KNOWN:
            self.known.clear()
            self._as_of = as_of
        return True


def go_down(
    db: sqlite3.Connection, node: int, names: list[bytes], step: Callable[[int, list[bytes]], int | None]
) -> tuple[int | None, list[bytes]]:
    """Go down to where at most STEP names are left; answer the node there, or None if there is none, and those names.

    Args:
        db: Any connection.
        node: The root's.
        names: The components of a key.
        step: Answers what is STEP names below a node, if there is something.
    """
    count, passed = (len(names) - 1) // STEP * STEP, 0
    known = db.known if len(names) > DEEP and isinstance(db, Connection) and db.believe() else None
    found: int | None = node
    if known is not None:
        passed, found = _nearest(known, node, names, count)
    while found is not None and passed < count:
        found = step(found, names[passed : passed + STEP])
        passed += STEP
        if found is not None and known is not None:
            known[_key(names, passed)] = found
    return found, names[count:]


def _nearest(known: dict[bytes, int], root: int, names: list[bytes], count: int) -> tuple[int, int]:
    """How many of a key's first ``count`` names lead to what is known, and what that is."""
    while known and count > 0:
        node = known.get(_key(names, count))
        if node is not None:
            return count, node
        count -= STEP
    return 0, root


def _key(names: list[bytes], count: int) -> bytes:
    return b"/".join(names[:count])
