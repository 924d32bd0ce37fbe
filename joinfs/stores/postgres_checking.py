"""Whether a ``PostgresStore``'s tables are what their definitions say, in all that the server does not see to."""

import stat as stat_module
from collections.abc import Iterator
from typing import Any

from joinfs.errors import CorruptStore
from joinfs.stores.postgres_connections import Connections
from joinfs.stores.postgres_functions import CHUNK
from joinfs.stores.postgres_rows import fields_of, metadata_from, xattrs_from
from joinfs.stores.postgres_schema import ROOT_NODE

_TYPE = stat_module.S_IFMT(0o777777)
_DIRECTORY = f"(n.mode & {_TYPE} = {stat_module.S_IFDIR})"
# Of a kind, and rows that are held at a time.
MOST, PAGE = 100, 1000

# A query for what is wrong, each row of which is filled into the sentence.
RULES = (
    (
        "SELECT e.parent, e.name FROM {s}.entry e WHERE NOT EXISTS (SELECT FROM {s}.node n WHERE n.id = e.node)",
        "an entry {1!r} of node {0} names nothing",
    ),
    (
        f"SELECT e.parent, e.name FROM {{s}}.entry e LEFT JOIN {{s}}.node n ON n.id = e.parent WHERE n.id IS NULL OR NOT {_DIRECTORY}",
        "an entry {1!r} is in node {0}, which is no directory",
    ),
    (
        f"SELECT e.parent, e.name FROM {{s}}.entry e JOIN {{s}}.node n ON n.id = e.node WHERE e.directory <> {_DIRECTORY}",
        "an entry {1!r} of node {0} says wrongly whether it is a directory",
    ),
    (
        f"SELECT n.id FROM {{s}}.node n WHERE n.id <> {ROOT_NODE} AND NOT EXISTS (SELECT FROM {{s}}.entry e WHERE e.node = n.id)",
        "node {0} has no name, and takes room",
    ),
    (
        (f"WITH RECURSIVE reached(id) AS (VALUES ({ROOT_NODE}::bigint) UNION SELECT e.node FROM {{s}}.entry e JOIN reached r ON e.parent = r.id"
        f" WHERE e.directory) SELECT n.id FROM {{s}}.node n WHERE {_DIRECTORY} AND NOT EXISTS (SELECT FROM reached r WHERE r.id = n.id)"),
        "directory {0} cannot be reached from the root",
    ),
    (
        ("SELECT id, nlink, have FROM (SELECT n.id, n.nlink,"
        f" CASE WHEN {_DIRECTORY} THEN 2 + (SELECT count(*) FROM {{s}}.entry e WHERE e.parent = n.id AND e.directory)"
        " ELSE (SELECT count(*) FROM {s}.entry e WHERE e.node = n.id) END AS have FROM {s}.node n) counted WHERE nlink <> have"),
        "node {0} says that it has {1} links, and has {2}",
    ),
    (
        ("SELECT id, size, have FROM (SELECT n.id, n.size, coalesce(octet_length(n.data), 0)"
        " + coalesce((SELECT sum(octet_length(c.data)) FROM {s}.chunk c WHERE c.content = n.content), 0) AS have FROM {s}.node n) counted"
        " WHERE size <> have"),
        "node {0} says that it has {1} bytes, and has {2}",
    ),
    (
        (f"SELECT c.n, n.id FROM {{s}}.chunk c JOIN {{s}}.node n ON n.content = c.content"
        f" WHERE octet_length(c.data) <> {CHUNK} AND (c.n + 1) * {CHUNK}::bigint <= n.size"),
        "chunk {0} of node {1} has a wrong length",
    ),
    (
        "SELECT DISTINCT c.content FROM {s}.chunk c WHERE NOT EXISTS (SELECT FROM {s}.node n WHERE n.content = c.content)",
        "there is data {0}, which is no node's, and takes room",
    ),
    (
        "SELECT n.id FROM {s}.node n JOIN {s}.chunk c ON c.content = n.content GROUP BY n.id HAVING max(c.n) <> count(*) - 1",
        "some of the data of node {0} is missing",
    ),
    ("SELECT n.content FROM {s}.node n WHERE n.content IS NOT NULL GROUP BY n.content HAVING count(*) > 1", "data {0} is that of several nodes"),
)


def broken_rules(connections: Connections) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong, at most ``MOST`` of a kind. All is as it was at one moment."""
    connection = connections.open()
    connection.patience = None  # it reads everything, and the server says nothing meanwhile
    try:
        with connections.explained():
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0")
            for query, sentence in RULES:
                for row in connection.execute(connections.names.sql(f"{query} LIMIT {MOST}")).fetchall():
                    yield sentence.format(*row)
            yield from _unreadable(connection, connections.names.s)
    finally:
        connection.close()


def _unreadable(connection: Any, schema: str) -> Iterator[str]:
    query = f"SELECT n.id, n.metadata, n.xattrs, n.fields FROM {schema}.node n WHERE n.metadata IS NOT NULL OR n.xattrs IS NOT NULL OR n.fields IS NOT NULL"
    with connection.cursor("read") as cursor:
        cursor.itersize = PAGE
        for node, metadata, xattrs, fields in cursor.execute(query):
            try:
                found = metadata_from(metadata)
                xattrs_from(xattrs)
            except CorruptStore as error:
                yield f"node {node}: {error}"
            else:
                if fields_of(found) != fields:
                    yield f"node {node} is indexed by other metadata than it has"
