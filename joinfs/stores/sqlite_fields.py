"""The index of metadata in a ``SQLiteStore``'s database."""

import hashlib
import json
import sqlite3
from typing import Any

from joinfs.stores.metadata import RESERVED, to_json

# Values whose text is longer are indexed by a hash of it.
LONGEST = 200


def index(db: sqlite3.Connection, node: int, metadata: str) -> None:
    """Enter the metadata of a node, given as JSON, of which nothing is entered."""
    rows = [(*field_of(n, v), node) for n, v in json.loads(metadata).items() if not n.startswith(RESERVED)]
    db.executemany("INSERT INTO field (name, value, node) VALUES (?, ?, ?)", rows)


def forget(db: sqlite3.Connection, node: int) -> None:
    """Take out what is entered of a node."""
    db.execute("DELETE FROM field WHERE node = ?", (node,))


def field_of(name: str, value: Any) -> tuple[str, str]:
    """Answer what stands for a name and its value: the same for values that are equal.

    Raises:
        Unsupported: The value is not JSON.
    """
    text = to_json(_plain(value))
    if len(text) > LONGEST:
        text = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    return to_json(name), text


def _plain(value: Any) -> Any:
    """Numbers that are equal alike, and keys of objects in order: 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not value.is_integer():
        return value
    return int(value) if isinstance(value, int | float) else value
