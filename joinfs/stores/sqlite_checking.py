"""Whether a ``SQLiteStore``'s database is what its schema says, in all that SQLite itself does not see to."""

import sqlite3
import stat as stat_module
from collections.abc import Iterator

from joinfs.stores.sqlite_chunks import CHUNK
from joinfs.stores.sqlite_nodes import Damaged, metadata_from, xattrs_from
from joinfs.stores.sqlite_schema import ROOT_NODE

_TYPE = stat_module.S_IFMT(0o777777)
_DIRECTORY = f"n.mode & {_TYPE} = {stat_module.S_IFDIR}"
MOST = 100

# A query for what is wrong, each row of which is filled into the sentence.
RULES = (
    ("SELECT parent, name FROM entry e WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id = e.node)", "an entry {1!r} of node {0} names nothing"),
    (
        f"SELECT e.parent, e.name FROM entry e LEFT JOIN node n ON n.id = e.parent WHERE n.id IS NULL OR NOT {_DIRECTORY}",
        "an entry {1!r} is in node {0}, which is no directory",
    ),
    (
        f"SELECT e.parent, e.name FROM entry e JOIN node n ON n.id = e.node WHERE e.directory != ({_DIRECTORY})",
        "an entry {1!r} of node {0} says wrongly whether it is a directory",
    ),
    (
        f"SELECT n.id FROM node n WHERE n.id != {ROOT_NODE} AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.node = n.id)",
        "node {0} has no name, and takes room",
    ),
    (
        ("WITH RECURSIVE reached(id) AS (VALUES (1) UNION SELECT e.node FROM entry e JOIN reached r ON e.parent = r.id WHERE e.directory = 1)"
        f" SELECT n.id FROM node n WHERE {_DIRECTORY} AND n.id NOT IN reached"),
        "directory {0} cannot be reached from the root",
    ),
    (
        ("SELECT id, nlink, count FROM (SELECT n.id, n.nlink,"
        f" CASE WHEN {_DIRECTORY} THEN 2 + (SELECT count(*) FROM entry e WHERE e.parent = n.id AND e.directory = 1)"
        " ELSE (SELECT count(*) FROM entry e WHERE e.node = n.id) END AS count FROM node n) WHERE nlink != count"),
        "node {0} says that it has {1} links, and has {2}",
    ),
    (
        ("SELECT id, size, have FROM (SELECT n.id, n.size, coalesce(length(n.data), 0)"
        " + coalesce((SELECT sum(length(c.data)) FROM chunk c WHERE c.node = n.id), 0) AS have FROM node n) WHERE size != have"),
        "node {0} says that it has {1} bytes, and has {2}",
    ),
    (
        f"SELECT c.node, c.n FROM chunk c JOIN node n ON n.id = c.node WHERE length(c.data) != {CHUNK} AND (c.n + 1) * {CHUNK} <= n.size",
        "chunk {1} of node {0} has a wrong length",
    ),
    ("SELECT DISTINCT c.node FROM chunk c WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id = c.node)", "there is data of node {0}, which is not there"),
    (
        "SELECT node FROM chunk GROUP BY node HAVING max(n) != count(*) - 1",
        "some of the data of node {0} is missing",
    ),
    ("SELECT DISTINCT f.node FROM field f WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id = f.node)", "node {0} is indexed, and not there"),
)


def broken_rules(db: sqlite3.Connection) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong, at most ``MOST`` of a kind.

    Args:
        db: A connection, in a transaction if others may write.
    """
    for (text,) in db.execute(f"PRAGMA integrity_check({MOST})").fetchall():
        if text != "ok":
            yield f"SQLite: {text}"
    for query, sentence in RULES:
        for row in db.execute(f"{query} LIMIT {MOST}").fetchall():
            yield sentence.format(*row)
    yield from _unreadable(db)


def _unreadable(db: sqlite3.Connection) -> Iterator[str]:
    for node, metadata, xattrs in db.execute("SELECT id, metadata, xattrs FROM node WHERE metadata IS NOT NULL OR xattrs IS NOT NULL"):
        for parse, text in ((metadata_from, metadata), (xattrs_from, xattrs)):
            try:
                parse(text)
            except Damaged as error:
                yield f"node {node}: {error}"
