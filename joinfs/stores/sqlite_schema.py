"""The file format of ``SQLiteStore``, and the opening of such a file.

An inode-like schema: a ``node`` is what has data and attributes, an ``entry`` is a name for it. So a
directory is renamed by changing one entry, and a file has as many names as it has entries. The SQL below
explains each column. :data:`APPLICATION_ID` marks a database as ours and ``user_version`` tells its schema;
anything else is refused untouched, triggers and views that someone added included, because SQL in the
file would run with every write.

See Also:
    https://sqlite.org/fileformat2.html, https://sqlite.org/wal.html
"""

import contextlib
import functools
import os
import re
import sqlite3
import stat as stat_module
import time
import urllib.parse
from collections.abc import Iterator

from joinfs.errors import CorruptStore, OutOfSpace, ReadOnly, StoreError, StoreLocked, StoreUnavailable
from joinfs.stores.sqlite_deep import Connection
from joinfs.stores.sqlite_upgrade import ADDED_IN_2, count_directories, to_version_2

APPLICATION_ID = 0x4A4E4653  # "JNFS"
SCHEMA_VERSION = 3
ROOT_NODE = 1
# Measured with 256 MB in chunks against 4096: twice the speed of insert and of read, for 0.03 ms more
# with each small commit; 16384 gains little more and costs small commits another 0.03 ms.
PAGE_SIZE = 8192
# What the write-ahead log is cut down to once its contents are in the database: one big value must not
# leave a log of its own size behind.
LOG_BYTES = 64 << 20
SHRINK_BYTES = 256 << 20
# One page of the smallest kind. SQLite itself takes a file of less for a new database, and would write over it.
LEAST_BYTES = 512

SCHEMA = """
-- What has attributes. Never reused: an id that was seen once means the same file for ever (st_ino).
-- Attributes stand before the data, so that reading them touches no overflow page.
CREATE TABLE node (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- 1 is the root directory, which is always there
    mode INTEGER NOT NULL,      -- st_mode; the type bits never change while the node lives
    size INTEGER NOT NULL,      -- bytes of data in all; 0 unless a regular file or a symlink
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    rdev INTEGER NOT NULL,      -- of a device node, else 0
    atime INTEGER NOT NULL,     -- this and the next three: nanoseconds since 1970
    mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    birth INTEGER NOT NULL,
    nlink INTEGER NOT NULL,     -- number of entries that name the node; of a directory 2 and the number of
                                -- directories in it. A node without entries is deleted in the transaction that takes the last one.
    metadata TEXT,              -- a JSON object; NULL is {}
    xattrs TEXT,                -- a JSON object, name to base64 of the value; NULL is none
    data BLOB                   -- all data of a small value or symlink; NULL: there is none, or it is in chunks
) STRICT;

-- A name in a directory. Only directories are parents; every node but the root has an entry.
CREATE TABLE entry (
    parent INTEGER NOT NULL,    -- node id of the directory
    name BLOB NOT NULL CHECK (length(name) BETWEEN 1 AND 255),   -- bytes, no '/' and no NUL, not '.' or '..'
    node INTEGER NOT NULL CHECK (node > 1),                      -- so the root has no name
    directory INTEGER NOT NULL, -- 1 if the node is a directory, else 0
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- A directory has one name. With a nameless root this makes what can be reached from the root a tree:
-- a loop would need a directory with two names. It also finds the key of a directory's node.
CREATE UNIQUE INDEX directory_entry ON entry (node) WHERE directory = 1;

-- Finds the names of a node that is found by its metadata.
CREATE INDEX entry_node ON entry (node);

-- What a node's metadata says, so that it is found by it. The node's own metadata has the last word.
CREATE TABLE field (
    name TEXT NOT NULL,         -- JSON text of the name
    value TEXT NOT NULL,        -- JSON text of the value, the same for all that are equal; a hash, if it is long
    node INTEGER NOT NULL,
    PRIMARY KEY (name, value, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX field_node ON field (node);

-- The data of a larger value: n = 0, 1, 2, ... without a hole, each of CHUNK bytes but the last.
-- A rowid table, because only there can a blob be read in part.
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    n INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (node, n)
) STRICT;
"""
# A database keeps the text of its definitions, and is known by it: a reworded comment must not change it.
STATEMENTS = [
    " ".join(statement.split()) for statement in re.sub("--.*", "", SCHEMA).split(";") if statement.strip()
]

# trusted_schema, cell_size_check: the file may come from anyone. secure_delete: Debian builds SQLite with
# it on, and overwriting half a gigabyte with zeros makes a delete take as long as the write did.
# synchronous NORMAL: a commit survives a crash of the process; Store.sync makes it survive a loss of power.
SETTINGS = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA secure_delete = OFF",
    "PRAGMA synchronous = NORMAL",
    f"PRAGMA journal_size_limit = {LOG_BYTES}",
    # Measured with 100,000 keys: a get takes 17.4 us instead of 18.5, a query that finds 100 takes 0.9 ms instead
    # of 1.3; twice as much gains nothing further.
    "PRAGMA cache_size = -8000",
)

REASONS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (OutOfSpace, "there is no room for this write; what was there before is still there"),
    sqlite3.SQLITE_BUSY: (StoreLocked, "another writer holds the database; try again when it is done"),
    sqlite3.SQLITE_LOCKED: (StoreLocked, "another writer holds the database; try again when it is done"),
    sqlite3.SQLITE_PROTOCOL: (StoreLocked, "another writer holds the database; try again when it is done"),
    sqlite3.SQLITE_READONLY: (ReadOnly, "the database cannot be written"),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "the database cannot be opened"),
    sqlite3.SQLITE_IOERR: (StoreUnavailable, "the medium of the database reports an error"),
    sqlite3.SQLITE_PERM: (StoreUnavailable, "access to the database is not permitted"),
    sqlite3.SQLITE_AUTH: (StoreUnavailable, "access to the database is not permitted"),
    sqlite3.SQLITE_NOTADB: (CorruptStore, "this is not an SQLite database"),
}


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Let no ``sqlite3.Error`` out: raise what it means, as a ``StoreError``, instead.

    Args:
        name: What the message calls the store.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise explanation(name, error) from error


def explanation(name: str, error: sqlite3.Error) -> StoreError:
    """Answer what an error of SQLite means; arguments as for ``explained``."""
    # The low byte is the primary code. An error of the module's own, such as text that is not UTF-8,
    # has no code: like every other code it means content that we did not write.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    damaged = (CorruptStore, "the database is damaged: restore it from a copy, or try sqlite3's .recover")
    cls, sentence = REASONS.get(code, damaged)
    return cls(f"{name}: {sentence} ({error})")


def open_database(path: str, name: str, read_only: bool, timeout: float) -> tuple[sqlite3.Connection, bool]:
    """Open the store's file, made if it is not there, and check that it is one.

    Args:
        path: The file, without symlinks.
        name: What messages call it.
        read_only: Do not try to open it for writing.
        timeout: Seconds to wait for another writer.

    Returns:
        A connection, and whether it can write.

    Raises:
        StoreUnavailable: The file cannot be opened or made.
        CorruptStore: It is damaged, or no database of ours that this version knows.
    """
    writable = _can_write(path, name, read_only)
    with explained(name):
        connection = connect(path, "rwc" if writable else "ro", timeout)
        try:
            if _is_new(connection):
                _create(connection, name, writable, timeout)
            if _is_old(connection):
                _upgrade(connection, name, writable)
            _check_schema(connection, name)
            if writable:
                _use_log(connection, name, timeout)
        except BaseException:
            connection.close()
            raise
    return connection, writable


def connect(path: str, mode: str, timeout: float) -> sqlite3.Connection:
    """Answer a further connection to a file that was opened with :func:`open_database`.

    Args:
        path: The file.
        mode: ``ro`` or ``rw``; ``rwc`` makes the file.
        timeout: Seconds to wait for another writer.

    Raises:
        sqlite3.Error: As SQLite reports it.
    """
    how = "immutable=1" if mode == "ro" and _is_left_alone(path) else f"mode={mode}"
    connection = sqlite3.connect(
        f"file:{urllib.parse.quote(os.fsencode(path))}?{how}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    try:
        for setting in SETTINGS:
            connection.execute(setting)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_left_alone(path: str) -> bool:
    """Whether SQLite can make no log beside the file, and there is none: nobody has it open for writing.

    SQLite refuses a database in WAL mode if it can neither find nor make the files that go with it,
    unless it is told that the file does not change.
    """
    room = os.access(os.path.dirname(path), os.W_OK, effective_ids=True)
    return not room and not os.path.exists(path + "-wal")


def shrink(connection: sqlite3.Connection) -> None:
    """Give room back to the host if a quarter of the file is unused, unless somebody is writing.

    At most SHRINK_BYTES, since pages may have to be moved; the rest is for the next time, or for new data.
    """
    with contextlib.suppress(sqlite3.Error):  # the file stays as large as it is, no more
        if _pragma(connection, "freelist_count") * 4 > _pragma(connection, "page_count"):
            connection.execute("PRAGMA busy_timeout = 0")
            # By executescript, since execute would stop after the first page.
            connection.executescript(f"PRAGMA incremental_vacuum({SHRINK_BYTES // PAGE_SIZE})")


def _can_write(path: str, name: str, read_only: bool) -> bool:
    """Whether the file, and the log beside it, may and can be written; if so, it need not be there."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise StoreUnavailable(f"{name}: the directory {directory} does not exist; make it first")
    room = os.access(directory, os.W_OK, effective_ids=True)
    try:
        native = os.stat(path)
    except FileNotFoundError:
        if room and not read_only:
            return True
        raise StoreUnavailable(f"{name}: the file does not exist and cannot be made") from None
    except OSError as error:
        raise StoreUnavailable(f"{name}: the file cannot be reached: {error.strerror}") from error
    if not stat_module.S_ISREG(native.st_mode):
        raise StoreUnavailable(f"{name}: this is not a regular file")
    if 0 < native.st_size < LEAST_BYTES:
        raise CorruptStore(f"{name}: this is not an SQLite database")
    return room and not read_only and os.access(path, os.W_OK, effective_ids=True)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _objects(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Everything that the file defines, SQLite's own tables and indexes left out."""
    return connection.execute(
        r"SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name"
    ).fetchall()


@functools.cache
def _expected_objects(version: int = SCHEMA_VERSION) -> list[tuple[str, str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
        defined = _objects(connection)
    return [one for one in defined if version > 1 or one[1] not in ADDED_IN_2]


def _is_new(connection: sqlite3.Connection) -> bool:
    """Whether nobody has put anything into the database yet: it is empty, or has just been made."""
    marks = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    return marks == (0, 0) and not _objects(connection)


def _create(connection: sqlite3.Connection, name: str, writable: bool, timeout: float) -> None:
    if not writable:
        raise CorruptStore(f"{name}: the file is empty; open it for writing once to make a store of it")
    # These two can only be chosen before the first page is written. Pages that a delete frees are used
    # again; with auto_vacuum the file can also shrink, and measured: a delete takes half the time and
    # a read in the midst of a chunk a third, because SQLite then knows where the pages of a chunk follow.
    connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _use_log(connection, name, timeout)
    connection.execute("BEGIN IMMEDIATE")
    if _is_new(connection):  # another process may have been quicker
        for statement in STATEMENTS:
            connection.execute(statement)
        _make_root(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _is_old(connection: sqlite3.Connection) -> bool:
    marks = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    ours, version = marks[0] == APPLICATION_ID, marks[1]
    return ours and 0 < version < SCHEMA_VERSION and _objects(connection) == _expected_objects(version)


def _upgrade(connection: sqlite3.Connection, name: str, writable: bool) -> None:
    if not writable:
        raise StoreUnavailable(f"{name}: the database was made by an older joinfs; open it for writing once")
    connection.execute("BEGIN IMMEDIATE")
    if _is_old(connection):  # another process may have been quicker
        if _pragma(connection, "user_version") == 1:
            to_version_2(connection, STATEMENTS, name)
        count_directories(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _make_root(connection: sqlite3.Connection) -> None:
    time_ns = time.time_ns()
    connection.execute(
        "INSERT INTO node (id, mode, size, uid, gid, rdev, atime, mtime, ctime, birth, nlink)"
        " VALUES (?, ?, 0, ?, ?, 0, ?, ?, ?, ?, 2)",
        (ROOT_NODE, stat_module.S_IFDIR | 0o755, os.geteuid(), os.getegid(), *[time_ns] * 4),
    )


def _use_log(connection: sqlite3.Connection, name: str, timeout: float) -> None:
    """Have a write-ahead log, so that readers never wait for writers, nor writers for readers."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait here by itself when several processes make the same file.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.001)
    if mode != "wal":
        raise StoreUnavailable(f"{name}: the file system has no shared memory for SQLite; use a local one")


def _check_schema(connection: sqlite3.Connection, name: str) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise CorruptStore(f"{name}: this SQLite database belongs to another program; name another file")
    version = _pragma(connection, "user_version")
    if version > SCHEMA_VERSION:
        raise CorruptStore(
            f"{name}: the database has schema {version}, made by a newer joinfs; this one knows"
            f" {SCHEMA_VERSION}: update joinfs"
        )
    if version != SCHEMA_VERSION or _objects(connection) != _expected_objects():
        raise CorruptStore(f"{name}: the tables are not those of a joinfs store; restore the file from a copy")
