"""Queries by metadata over a ``SQLiteStore``'s database."""

import re
import sqlite3
import stat as stat_module
from collections.abc import Mapping
from typing import Any

from joinfs.stores.sqlite_nodes import Damaged, decoded, metadata_from
from joinfs.stores.sqlite_schema import ROOT_NODE
from joinfs.stores.value import Metadata

Position = tuple[int, bytes]

START: Position = (0, b"")
# A name that stands in a JSON path, and in JSON, as it is.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.:/ -]+")


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
    conditions, arguments = _conditions(wanted)
    rows = db.execute(
        "SELECT e.parent, e.name, n.metadata FROM entry e JOIN node n ON n.id = e.node"
        " WHERE (e.parent, e.name) > (?, ?) AND e.directory = 0"
        f" AND (n.mode & {stat_module.S_IFMT(0o777777)}) IN ({stat_module.S_IFREG}, {stat_module.S_IFLNK})"
        f"{conditions} ORDER BY e.parent, e.name LIMIT ?",
        (*after, *arguments, limit),
    ).fetchall()
    prefixes: dict[int, str | None] = {ROOT_NODE: ""}
    found = []
    for parent, name, text in rows:
        metadata = metadata_from(text)
        prefix = _prefix(db, parent, prefixes)
        # SQLite takes 1 for true, and only what has no quirk was left to it: Python has the last word.
        if prefix is not None and all(n in metadata and metadata[n] == wanted[n] for n in wanted):
            found.append((prefix + decoded(name), metadata))
    return found, (rows[-1][0], rows[-1][1]) if len(rows) == limit else None


def _conditions(wanted: Mapping[str, Any]) -> tuple[str, list[str]]:
    """SQL that holds for every node that has ``wanted``, and for few others; and what it binds."""
    conditions, arguments = "", []
    for name, value in wanted.items():
        if not _PLAIN_NAME.fullmatch(name):
            conditions += " AND n.metadata IS NOT NULL"
            continue
        arguments.append(f'$."{name}"')
        if isinstance(value, str) and _is_text(value):
            conditions += " AND json_extract(n.metadata, ?) = ?"
            arguments.append(value)
        else:
            conditions += " AND json_type(n.metadata, ?) IS NOT NULL"
    return conditions, arguments


def _is_text(value: str) -> bool:
    """Whether SQLite's text can be ``value``: no NUL, which ends it, and no lone surrogate."""
    return "\0" not in value and not re.search("[\ud800-\udfff]", value)


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
