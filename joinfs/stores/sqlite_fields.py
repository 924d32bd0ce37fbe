"""The index of metadata in a ``SQLiteStore``'s database."""

import json
import sqlite3

from joinfs.stores.fields import field_of
from joinfs.stores.metadata import RESERVED


def index(db: sqlite3.Connection, node: int, metadata: str) -> None:
    """Enter the metadata of a node, given as JSON, of which nothing is entered."""
    rows = [(*field_of(n, v), node) for n, v in json.loads(metadata).items() if not n.startswith(RESERVED)]
    db.executemany("INSERT INTO field (name, value, node) VALUES (?, ?, ?)", rows)


def forget(db: sqlite3.Connection, node: int) -> None:
    """Take out what is entered of a node."""
    db.execute("DELETE FROM field WHERE node = ?", (node,))
