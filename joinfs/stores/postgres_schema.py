"""The tables of ``PostgresStore``, and the finding or making of them in a database.

As in SQLite's file format, a ``node`` is what has data and attributes, an ``entry`` is a name for it: a directory is
renamed by changing one entry, and a file has as many names as it has entries. What is written goes through the functions of
:mod:`joinfs.stores.postgres_functions`, which stand beside the tables. ``store.version`` tells which tables and functions
these are; what a newer joinfs made is refused untouched.

See Also:
    https://www.postgresql.org/docs/15/storage-toast.html
"""

import os
import stat as stat_module
from hashlib import blake2b
from typing import Any

from joinfs.errors import AccessDenied, CorruptStore, StoreUnavailable
from joinfs.stores.postgres_errors import library
from joinfs.stores.postgres_functions import CHUNK, FUNCTIONS
from joinfs.stores.postgres_url import Place
from joinfs.stores.value import now

SCHEMA_VERSION = 1
ROOT_NODE = 1

TABLES = """
CREATE TABLE {s}.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version integer NOT NULL    -- of these tables, and of the functions beside them
);

-- Ids are never given twice: one that was seen once means the same file for ever (st_ino).
CREATE SEQUENCE {s}.node_id START 2;
-- What a node's chunks are found by: other data has another one.
CREATE SEQUENCE {s}.content_id;

-- What has attributes. There is no index of what changes often, so that a change of it writes one row and no index.
CREATE TABLE {s}.node (
    id bigint PRIMARY KEY,      -- 1 is the root directory, which is always there
    mode integer NOT NULL,      -- st_mode; the type bits never change while the node lives
    size bigint NOT NULL,       -- bytes of data in all; 0 unless a regular file or a symlink
    uid bigint NOT NULL,
    gid bigint NOT NULL,
    rdev bigint NOT NULL,       -- of a device node, else 0
    atime bigint NOT NULL,      -- this and the next three: nanoseconds since 1970
    mtime bigint NOT NULL,
    ctime bigint NOT NULL,
    birth bigint NOT NULL,
    nlink bigint NOT NULL,      -- number of entries that name the node; of a directory 2 and the number of directories in it
    metadata text,              -- a JSON object, in ASCII; NULL is {{}}. Not jsonb, which cannot hold every text that JSON can
    fields bigint[],            -- a hash for each name of metadata with its value, by which it is found; the metadata has the last word
    xattrs text,                -- a JSON object, name to base64 of the value; NULL is none
    data bytea,                 -- all data of a small value or symlink; NULL: there is none, or it is in chunks
    content bigint              -- whose chunks the data is; NULL: it is not in chunks
) WITH (fillfactor = 80);
ALTER TABLE {s}.node ALTER data SET STORAGE EXTERNAL;
CREATE INDEX node_fields ON {s}.node USING gin (fields) WHERE fields IS NOT NULL;

-- A name in a directory. Only directories are parents; every node but the root has an entry.
CREATE TABLE {s}.entry (
    parent bigint NOT NULL,     -- node id of the directory
    name bytea NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 255),   -- bytes, no '/' and no NUL, not '.' or '..'
    node bigint NOT NULL CHECK (node > 1),                              -- so the root has no name
    directory boolean NOT NULL, -- whether the node is a directory
    PRIMARY KEY (parent, name)
);
-- A directory has one name. With a nameless root this makes what can be reached from the root a tree.
CREATE UNIQUE INDEX entry_directory ON {s}.entry (node) WHERE directory;
-- Finds the names of a node that is found by its metadata.
CREATE INDEX entry_node ON {s}.entry (node);

-- The data of larger values: n = 0, 1, 2, ... without a hole, each of CHUNK bytes but the last. Never changed once it can be seen.
-- EXTERNAL: neither compressed nor in the row, so that a part of it is read without the rest.
CREATE TABLE {s}.chunk (
    content bigint NOT NULL,
    n integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (content, n)
);
ALTER TABLE {s}.chunk ALTER data SET STORAGE EXTERNAL;

-- What each connection has written last, and which process of the server it is: who loses a connection finds here
-- whether what it was writing was committed, once that process is gone.
CREATE TABLE {s}.session (
    id bigint PRIMARY KEY,          -- chosen at random
    pid integer NOT NULL,
    started timestamptz NOT NULL,   -- as the server has it: numbers of processes come again
    number bigint NOT NULL          -- of the last write, counted by who writes
) WITH (fillfactor = 50);
"""
# What may be lacking to who writes: the name of a table or sequence, and the right.
_LACKING = """
SELECT t, p FROM unnest(ARRAY['node', 'entry', 'chunk', 'session']) t, unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) p
WHERE NOT has_table_privilege('{s}.' || t, p)
UNION ALL SELECT t, 'USAGE' FROM unnest(ARRAY['node_id', 'content_id']) t WHERE NOT has_sequence_privilege('{s}.' || t, 'USAGE')
"""
# Connections that have ended are remembered for so long: whoever asks for one does so before that.
KEPT = "1 day"


class Names:
    """What the tables of a store are called in SQL, and what goes with it.

    Attributes:
        s: The schema's name, as SQL has it.
        lock: The number of the advisory lock, which single writes share and transactions have alone.
        channel: What ``LISTEN`` and ``NOTIFY`` call the store.
    """

    def __init__(self, schema: str) -> None:
        self.s = '"' + schema.replace('"', '""') + '"'
        digest = blake2b(schema.encode(), digest_size=8).digest()
        self.lock = int.from_bytes(digest, "big", signed=True)
        self.channel = f"joinfs_{digest.hex()}"

    def sql(self, text: str) -> str:
        """The text with the names put in."""
        return text.format(s=self.s, lock=self.lock, channel=self.channel, chunk=CHUNK)


def open_tables(connection: Any, names: Names, place: Place, *, read_only: bool) -> bool:
    """Find the tables of a store, or make them; answer whether they can be written.

    Args:
        connection: One of psycopg's, in no transaction.
        names: Of the store.
        place: Of the store, for messages.
        read_only: Do not make them.

    Raises:
        StoreUnavailable: They are not there, and are not to be made or cannot be.
        AccessDenied: We may not make them, not read them, or write to some of them only.
        CorruptStore: What is in the schema are not the tables of a store that this version knows.
        psycopg.Error: As the server reports it.
    """
    try:
        return _opened(connection, names, place, read_only=read_only)
    except library().errors.InsufficientPrivilege as error:
        raise _denied(connection, names, place, error.diag.message_primary) from error


def _opened(connection: Any, names: Names, place: Place, *, read_only: bool) -> bool:
    # It is on in a standby, and where somebody has set that for a user or a database.
    read_only = read_only or connection.execute("SHOW transaction_read_only").fetchone()[0] == "on"
    found = _schema(connection, place)
    if found is None or not _tables(connection, found):
        if read_only:
            raise StoreUnavailable(f"{place.name}: there is no store in the schema; open it for writing once to make one")
        _create(connection, names, place)
    elif "store" not in _tables(connection, found):
        raise CorruptStore(f"{place.name}: the schema has tables of another program; name another schema")
    _check_version(connection, names, place)
    writable = not read_only and _may_write(connection, names, place)
    if writable:
        connection.execute(
            f"DELETE FROM {names.s}.session s WHERE started < clock_timestamp() - interval '{KEPT}'"
            # Of other users' processes it is not told when they began.
            " AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = s.pid AND coalesce(a.backend_start, s.started) = s.started)"
        )
    return writable


def _may_write(connection: Any, names: Names, place: Place) -> bool:
    """Whether we may write to all tables (True) or none."""
    lacking = {tuple(row) for row in connection.execute(names.sql(_LACKING))}
    if ("entry", "INSERT") in lacking:
        return False
    if lacking:
        table, right = min(lacking)
        raise _denied(connection, names, place, f"{right} on {table} is lacking")
    return True


def _denied(connection: Any, names: Names, place: Place, reason: str) -> AccessDenied:
    (user,) = connection.execute("SELECT quote_ident(current_user)").fetchone()
    return AccessDenied(
        f"{place.name}: the server does not let us do this: {reason}; have the store made by somebody who may make tables, and who then does"
        f" GRANT USAGE ON SCHEMA {names.s} TO {user}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {names.s} TO {user};"
        f" GRANT USAGE ON ALL SEQUENCES IN SCHEMA {names.s} TO {user}"
    )


def _schema(connection: Any, place: Place) -> int | None:
    """The number of the schema. Asked of the table: what the server remembers of names may be old within a transaction."""
    row = connection.execute("SELECT oid FROM pg_namespace WHERE nspname = %s", (place.schema,)).fetchone()
    return None if row is None else row[0]


def _tables(connection: Any, schema: int) -> set[str]:
    rows = connection.execute("SELECT relname FROM pg_class WHERE relnamespace = %s AND relkind IN ('r', 'p', 'v', 'm', 'f')", (schema,))
    return {name for (name,) in rows}


def _create(connection: Any, names: Names, place: Place) -> None:
    encoding = connection.execute("SHOW server_encoding").fetchone()[0]
    if encoding == "SQL_ASCII":
        raise StoreUnavailable(f"{place.name}: the database has the encoding SQL_ASCII; make one with UTF8")
    moment = now()
    with connection.transaction():
        # Others may be making it at the same time.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (names.lock,))
        found = _schema(connection, place)
        if found is None:
            connection.execute(f"CREATE SCHEMA {names.s}")
        elif _tables(connection, found):
            return
        connection.execute(names.sql(TABLES))
        connection.execute(names.sql(FUNCTIONS))
        connection.execute(f"INSERT INTO {names.s}.store (version) VALUES (%s)", (SCHEMA_VERSION,))
        connection.execute(
            f"INSERT INTO {names.s}.node (id, mode, size, uid, gid, rdev, atime, mtime, ctime, birth, nlink)"
            " VALUES (%s, %s, 0, %s, %s, 0, %s, %s, %s, %s, 2)",
            (ROOT_NODE, stat_module.S_IFDIR | 0o755, os.geteuid(), os.getegid(), *[moment] * 4),
        )


def _check_version(connection: Any, names: Names, place: Place) -> None:
    row = connection.execute(f"SELECT version FROM {names.s}.store").fetchone()
    if row is None:
        raise CorruptStore(f"{place.name}: the tables do not say their version; restore them from a copy")
    if row[0] > SCHEMA_VERSION:
        raise CorruptStore(
            f"{place.name}: the tables have version {row[0]}, made by a newer joinfs; this one knows {SCHEMA_VERSION}: update joinfs"
        )
    if row[0] != SCHEMA_VERSION:
        raise CorruptStore(f"{place.name}: the tables have version {row[0]}, which no joinfs has made; restore them from a copy")
