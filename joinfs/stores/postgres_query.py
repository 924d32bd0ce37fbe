"""Queries by metadata over a ``PostgresStore``'s tables: by its index, or in order of the keys."""

import stat as stat_module
from collections.abc import Iterator, Mapping
from typing import Any

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores.metadata import has_all
from joinfs.stores.postgres_connections import Connections
from joinfs.stores.postgres_rows import decoded, fields_of, metadata_from
from joinfs.stores.postgres_schema import ROOT_NODE
from joinfs.stores.value import Metadata

# Entries that one question answers.
PAGE = 1000
# Directories inside each other, at most: as many as the longest path that the kernel takes has.
DEEPEST = 4096
_VALUES = f"n.mode & {stat_module.S_IFMT(0o777777)} IN ({stat_module.S_IFREG}, {stat_module.S_IFLNK})"
# With each name those of the directories that it is in, from below. What a statement sees is of one moment.
_QUERY = f"""
SELECT e.parent, e.name, n.metadata, (
    WITH RECURSIVE above(node, name, depth) AS (
        SELECT d.parent, d.name, 1 FROM {{s}}.entry d WHERE d.node = e.parent AND d.directory
        UNION ALL
        SELECT d.parent, d.name, a.depth + 1 FROM above a JOIN {{s}}.entry d ON d.node = a.node AND d.directory WHERE a.depth < {DEEPEST}
    ) SELECT array_agg(a.name ORDER BY a.depth) FROM above a), (
    WITH RECURSIVE above(node, depth) AS (
        SELECT e.parent, 0
        UNION ALL
        SELECT d.parent, a.depth + 1 FROM above a JOIN {{s}}.entry d ON d.node = a.node AND d.directory WHERE a.depth < {DEEPEST}
    ) SELECT a.node FROM above a ORDER BY a.depth DESC LIMIT 1)
FROM {{s}}.node n JOIN {{s}}.entry e ON e.node = n.id
WHERE (e.parent, e.name) > (%s, %s) AND {_VALUES}{{also}} ORDER BY e.parent, e.name LIMIT {PAGE}
"""


def matching(connections: Connections, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Metadata]]:
    """Yield the keys and metadata of values that have all of ``wanted``."""
    try:
        fields = fields_of(wanted)
    except Unsupported:  # no metadata is like that
        return
    query = connections.names.sql(_QUERY.replace("{also}", " AND n.fields @> %s::bigint[]" if fields else ""))
    after: tuple[int, bytes] = (0, b"")
    while True:
        rows = connections.ask_all(query, (*after, *([fields] if fields else [])))
        for _, name, text, above, top in rows:
            metadata = metadata_from(text)
            # The index has hashes: Python has the last word.
            if has_all(metadata, wanted):
                if top != ROOT_NODE:
                    raise CorruptStore(f"the entry {name!r} cannot be reached from the root")
                yield "/".join(map(decoded, [*reversed(above or []), name])), metadata
        if len(rows) < PAGE:
            return
        after = rows[-1][:2]
