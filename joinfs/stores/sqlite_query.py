"""Queries by metadata over a ``SQLiteStore``'s database: by its index, or in order of the keys."""

import sqlite3
import stat as stat_module
from collections.abc import Mapping
from typing import Any

from joinfs.errors import Unsupported
from joinfs.stores.fields import field_of
from joinfs.stores.metadata import RESERVED, has_all
from joinfs.stores.sqlite_nodes import Damaged, decoded, metadata_from
from joinfs.stores.sqlite_schema import ROOT_NODE
from joinfs.stores.value import Metadata

# Of an entry: the node if the index is asked, else 0; then its directory and its name.
Position = tuple[int, int, bytes]

START: Position = (0, 0, b"")
# With each name the one of its directory: most have no other directory above that.
_COLUMNS = "e.parent, e.name, n.metadata, d.parent, d.name"
_DIRECTORY = "LEFT JOIN entry d ON d.node = e.parent AND d.directory = 1"
# Nothing is asked of an entry that is not in its index: each would be another page to read.
_VALUES = f"(n.mode & {stat_module.S_IFMT(0o777777)}) IN ({stat_module.S_IFREG}, {stat_module.S_IFLNK})"


def matching(
    db: sqlite3.Connection, wanted: Mapping[str, Any], after: Position, limit: int
) -> tuple[list[tuple[str, Metadata]], Position | None]:
    """Answer the next keys and metadata of values that have all of ``wanted``.

    Args:
        db: A connection in a transaction: keys are put together from several rows.
        wanted: Names of metadata and their values.
        after: START, or the position that the call before answered.
        limit: Entries to answer at most.

    Returns:
        The keys with their metadata, and where to go on; None at the end.
    """
    try:
        fields = [field_of(name, value) for name, value in wanted.items() if not name.startswith(RESERVED)]
    except Unsupported:  # no metadata is like that
        return [], None
    rows = _by_index(db, fields, after, limit) if fields else _in_order(db, after, limit)
    prefixes: dict[int, str | None] = {ROOT_NODE: ""}
    found = []
    for _, parent, name, text, above, directory in rows:
        metadata = metadata_from(text)
        # The index has hashes of long values: Python has the last word.
        if has_all(metadata, wanted):
            if parent in prefixes:
                prefix = prefixes[parent]
            elif above == ROOT_NODE:
                prefix = prefixes[parent] = decoded(directory) + "/"
            else:
                prefix = _prefix(db, parent, prefixes)
            if prefix is not None:
                found.append((prefix + decoded(name), metadata))
    return found, rows[-1][:3] if len(rows) == limit else None


def _by_index(db: sqlite3.Connection, fields: list[tuple[str, str]], after: Position, limit: int) -> list[Any]:
    first, *others = fields
    also = " AND EXISTS (SELECT 1 FROM field o WHERE o.name = ? AND o.value = ? AND o.node = f.node)" * len(others)
    return db.execute(
        f"SELECT f.node, {_COLUMNS} FROM field f"
        f" CROSS JOIN entry e ON e.node = f.node CROSS JOIN node n ON n.id = f.node {_DIRECTORY}"
        f" WHERE f.name = ? AND f.value = ? AND f.node >= ? AND (f.node, e.parent, e.name) > (?, ?, ?) AND {_VALUES}{also}"
        " ORDER BY f.node, e.parent, e.name LIMIT ?",
        (*first, after[0], *after, *(text for field in others for text in field), limit),
    ).fetchall()


def _in_order(db: sqlite3.Connection, after: Position, limit: int) -> list[Any]:
    return db.execute(
        f"SELECT 0, {_COLUMNS} FROM entry e JOIN node n ON n.id = e.node {_DIRECTORY}"
        f" WHERE (e.parent, e.name) > (?, ?) AND {_VALUES} ORDER BY e.parent, e.name LIMIT ?",
        (*after[1:], limit),
    ).fetchall()


def _prefix(db: sqlite3.Connection, directory: int, known: dict[int, str | None]) -> str | None:
    """Answer the key of a directory's node; None if it cannot be reached from the root."""
    steps: list[tuple[int, str]] = []
    node = directory
    while node not in known:
        names = db.execute("SELECT parent, name FROM entry WHERE node = ? AND directory = 1", (node,)).fetchall()
        if len(names) > 1 or any(node == step for step, _ in steps):
            raise Damaged(f"the directory of node {node} has more than one name, or is inside itself")
        if not names:
            known[node] = None
            break
        steps.append((node, decoded(names[0][1])))
        node = names[0][0]
    prefix = known[node]
    for step, name in reversed(steps):
        prefix = None if prefix is None else f"{prefix}{name}/"
        known[step] = prefix
    return prefix
