"""Nodes and entries of a ``SQLiteStore``'s database: finding, making, naming and removing them.

Every function works on the connection that it is given, inside the caller's transaction where it changes
something. Content that joinfs would not have written is reported as :class:`Damaged`.
"""

import functools
import re
import sqlite3
import stat as stat_module
from typing import Any, NamedTuple

from joinfs.errors import DirectoryNotEmpty, IsADirectory, NotADirectory, NotRepresentable
from joinfs.stores import sqlite_fields as fields
from joinfs.stores import texts
from joinfs.stores.keys import MAX_NAME, is_directory_key
from joinfs.stores.sqlite_deep import STEP, go_down
from joinfs.stores.sqlite_schema import ROOT_NODE
from joinfs.stores.value import Metadata, Stat, new_stat, now

KINDS = frozenset(
    {
        stat_module.S_IFDIR,
        stat_module.S_IFREG,
        stat_module.S_IFLNK,
        stat_module.S_IFIFO,
        stat_module.S_IFSOCK,
        stat_module.S_IFCHR,
        stat_module.S_IFBLK,
    }
)
# The fields of Stat in their order, then what is needed to check the row.
COLUMNS = (
    "n.mode, n.size, n.uid, n.gid, n.rdev, n.atime, n.mtime, n.ctime, n.birth, n.nlink, e.node, e.directory"
)
# What is needed of a value to answer it, and to check the row.
VALUE_COLUMNS = "e.node, e.directory, n.mode, n.size, n.mtime, n.ctime, n.birth, n.metadata, n.data"
MAX_LINKS = (1 << 32) - 1
# How often a directory is looked for that others move meanwhile.
MOST_LOOKS = 10
MIN_TIME, MAX_TIME = -(1 << 63), (1 << 63) - 1

Extra = tuple[Any, ...]
_is_name = re.compile(rb"(?!\.{1,2}\Z)[^/\0]{1,%d}\Z" % MAX_NAME).match


class Damaged(sqlite3.DatabaseError):
    """The database holds what no joinfs writes; ``explained`` makes a ``CorruptStore`` of it."""


class Place(NamedTuple):
    """Where a key's entry is, and what stands there."""

    parent: int
    name: bytes
    stat: Stat

    @property
    def node(self) -> int:
        """The node's id."""
        return id_of(self.stat)


def id_of(stat: Stat) -> int:
    """Answer the node id in a Stat of this store, which always has one."""
    assert stat.file_id is not None
    return stat.file_id


# -------------------------------------------------------------------------------- finding


def encoded(name: str) -> bytes:
    """Answer the bytes of a component of a key.

    Raises:
        NotRepresentable: It has surrogates that stand for no byte.
    """
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise NotRepresentable(f"{name!r} is neither text nor bytes that stand for a name") from error


def decoded(name: object) -> str:
    """Answer the component of a key for the bytes in the database, which are checked."""
    if not isinstance(name, bytes) or not _is_name(name):
        raise Damaged(f"an entry is called {name!r}")
    return name.decode("utf-8", "surrogateescape")


def stat_from(row: Extra, *, root: bool = False) -> Stat:
    """Answer the Stat in a row of COLUMNS, which is checked."""
    fields = row[:12]
    if set(map(type, fields)) != {int}:
        raise Damaged(f"node {row[10]!r} is missing, or has attributes that are no numbers")
    stat = Stat(*fields[:11])
    kind = stat_module.S_IFMT(stat.mode)
    if kind not in KINDS or stat.mode >> 16 or (kind == stat_module.S_IFDIR) != row[11]:
        raise Damaged(f"node {stat.file_id} has the mode {stat.mode:o}")
    if stat.size < 0 or not 1 <= stat.nlink <= MAX_LINKS or (stat.file_id == ROOT_NODE) != root:
        raise Damaged(f"node {stat.file_id} has the size {stat.size} and {stat.nlink} names")
    return stat


@functools.cache
def _nested(select: str, depth: int) -> str:
    """A statement that selects from the entry ``depth`` names below a directory, in the order of binding.

    Measured at depth 5: 15 us, as much as a cache of directories with a check that it is still true;
    a statement for each component takes 40, a recursive one 30.
    """
    parent = "?"
    for _ in range(depth - 1):
        parent = f"(SELECT node FROM entry WHERE parent = {parent} AND name = ?)"
    return f"SELECT {select} WHERE e.parent = {parent} AND e.name = ?"


@functools.cache
def _at_depth(columns: str, depth: int) -> str:
    return _nested(_of_entry(columns), depth)


@functools.cache
def _of_entry(columns: str) -> str:
    return f"{columns} FROM entry e LEFT JOIN node n ON n.id = e.node"


@functools.cache
def _columns(extra: str) -> str:
    return COLUMNS + extra


def _row(db: sqlite3.Connection, key: str, columns: str) -> Extra:
    """The columns of whatever stands at a key, however that is spelled; KeyError if nothing does."""
    try:
        names = encoded(key.removesuffix("/")).split(b"/") if key else []
    except NotRepresentable:
        raise KeyError(key) from None
    row = _entry_row(db, names, columns) if names else _root_row(db, columns)
    if row is None:
        raise KeyError(key)
    return row


def _root_row(db: sqlite3.Connection, columns: str) -> Extra | None:
    root = f"(SELECT 0 AS parent, x'' AS name, {ROOT_NODE} AS node, 1 AS directory) e"
    row: Extra | None = db.execute(f"SELECT {columns} FROM {root} LEFT JOIN node n ON n.id = e.node").fetchone()
    return row


def _entry_row(db: sqlite3.Connection, names: list[bytes], columns: str) -> Extra | None:
    start: int | None = ROOT_NODE
    if len(names) > STEP:
        start, names = go_down(db, ROOT_NODE, names, lambda node, some: _inside(db, node, some))
        if start is None:
            return None
    row: Extra | None = db.execute(_at_depth(columns, len(names)), (start, *names)).fetchone()
    return row


def _inside(db: sqlite3.Connection, node: int, names: list[bytes]) -> int | None:
    """The node that is so many names below another one."""
    row = db.execute(_nested("e.node FROM entry e", len(names)), (node, *names)).fetchone()
    return None if row is None else row[0]


def find_any(db: sqlite3.Connection, key: str, extra: str = "") -> tuple[Stat, Extra]:
    """Answer the Stat of whatever stands at ``key``, however that is spelled, and further columns.

    Args:
        db: Any connection; one statement, unless the key is deep.
        key: With or without a ``/`` at its end.
        extra: ``", n.data"`` for instance; ``e`` is the entry and ``n`` the node.

    Raises:
        KeyError: There is nothing.
    """
    row = _row(db, key, _columns(extra))
    return stat_from(row, root=not key), row[12:]


def find_value(db: sqlite3.Connection, key: str) -> Extra:
    """Answer VALUE_COLUMNS of a key, without what a Stat has besides.

    Raises:
        KeyError: It is not there.
    """
    row = _row(db, key, VALUE_COLUMNS)
    node, directory, mode, size, mtime, ctime, birth, _, _ = row
    # No set() of types: this is most of what a get does beside SQLite.
    numbers = type(mode) is type(size) is type(mtime) is type(ctime) is type(birth) is int
    if not numbers or size < 0:
        raise Damaged(f"node {node!r} is missing, or has attributes that are no numbers")
    kind = stat_module.S_IFMT(mode)
    if kind not in KINDS or (kind == stat_module.S_IFDIR) != directory:
        raise Damaged(f"node {node} has the mode {mode:o}")
    if bool(directory) != is_directory_key(key):
        raise KeyError(key)
    return row


def find_file(db: sqlite3.Connection, node: int, extra: str) -> tuple[Stat, Extra] | None:
    """Answer the Stat of a node that is no directory, and further columns; None if it is gone."""
    place = "(SELECT ? AS node, 0 AS directory) e JOIN node n ON n.id = e.node"
    row = db.execute(f"SELECT {COLUMNS}{extra} FROM {place}", (node,)).fetchone()
    return None if row is None else (stat_from(row), row[12:])


def find(db: sqlite3.Connection, key: str, extra: str = "") -> tuple[Stat, Extra]:
    """As ``find_any``, but a key that ends in ``/`` is only a directory's, and any other never."""
    stat, rest = find_any(db, key, extra)
    if stat.is_directory != is_directory_key(key):
        raise KeyError(key)
    return stat, rest


def place(db: sqlite3.Connection, key: str) -> Place:
    """Answer where ``key``, which is not the root's, is.

    Raises:
        KeyError: It is not there.
    """
    stat, (parent, name) = find(db, key, ", e.parent, e.name")
    return Place(parent, name, stat)


def node_of(db: sqlite3.Connection, key: str) -> int:
    """Answer the node id of ``key``.

    Raises:
        KeyError: It is not there.
    """
    return id_of(find(db, key)[0])


def child(db: sqlite3.Connection, parent: int, name: bytes) -> Place | None:
    """Answer what a directory has under a name."""
    row = db.execute(_nested(_of_entry(COLUMNS), 1), (parent, name)).fetchone()
    return None if row is None else Place(parent, name, stat_from(row))


def children(
    db: sqlite3.Connection, parent: int, after: bytes, limit: int
) -> list[tuple[bytes, tuple[str, Stat]]]:
    """Answer the next entries of a directory in the order of their names, each with its name's bytes."""
    rows = db.execute(
        f"SELECT {_of_entry(_columns(', e.name'))} WHERE e.parent = ? AND e.name > ? ORDER BY e.name LIMIT ?",
        (parent, after, limit),
    )
    return [(row[12], (decoded(row[12]), stat_from(row))) for row in rows]


def listable(db: sqlite3.Connection, key: str) -> int:
    """Answer the node id of the directory ``key``, which is certain not to be inside itself.

    Each question is of its own moment, unless ``db`` is in a transaction: between the two, others may move the directory.

    Raises:
        KeyError: There is no such directory.
    """
    for _ in range(MOST_LOOKS):
        stat, came_by = find(db, key, ", e.parent, e.name")
        names = db.execute("SELECT parent, name FROM entry WHERE node = ? AND directory = 1", (stat.file_id,)).fetchall()
        if not key or names == [came_by]:
            break
        if len(names) > 1:
            raise Damaged(f"the directory {key!r} has more than one name")
    else:  # it was moved each time between the two questions
        raise KeyError(key)
    return id_of(stat)


# -------------------------------------------------------------------------------- metadata and xattrs


metadata_text, xattrs_text = texts.metadata_text, texts.xattrs_text


def metadata_from(text: object) -> Metadata:
    """The reverse of ``metadata_text``; the text is checked."""
    return texts.metadata_from(text, Damaged)


def xattrs_from(text: object) -> dict[str, bytes]:
    """The reverse of ``xattrs_text``; the text is checked."""
    return texts.xattrs_from(text, Damaged)


# -------------------------------------------------------------------------------- changing


def storable(stat: Stat) -> Stat:
    """The same with times that fit into 64 bits: as a kernel does, the first or last that there is."""
    atime, mtime = (min(max(time, MIN_TIME), MAX_TIME) for time in (stat.atime, stat.mtime))
    return stat._replace(atime=atime, mtime=mtime)


def add_node(
    db: sqlite3.Connection, stat: Stat, texts: tuple[str | None, str | None], data: bytes | None
) -> int:
    """Make a node; it needs an entry in the same transaction. Answer its id."""
    made = db.execute(
        "INSERT INTO node (mode, size, uid, gid, rdev, atime, mtime, ctime, birth, nlink, metadata, xattrs,"
        " data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*stat[:10], *texts, data),
    ).lastrowid
    assert made is not None
    if texts[0] is not None:
        fields.index(db, made, texts[0])
    return made


def change_node(
    db: sqlite3.Connection, stat: Stat, texts: tuple[str | None, str | None], data: bytes | None
) -> None:
    """Replace all that the node ``stat.file_id`` has, but chunks; those are deleted."""
    db.execute(
        "UPDATE node SET mode = ?, size = ?, uid = ?, gid = ?, rdev = ?, atime = ?, mtime = ?, ctime = ?,"
        " birth = ?, nlink = ?, metadata = ?, xattrs = ?, data = ? WHERE id = ?",
        (*stat[:10], *texts, data, stat.file_id),
    )
    fields.forget(db, id_of(stat))
    if texts[0] is not None:
        fields.index(db, id_of(stat), texts[0])
    db.execute("DELETE FROM chunk WHERE node = ?", (stat.file_id,))


def change_attributes(db: sqlite3.Connection, node: int, stat: Stat) -> None:
    """Set the mode, owner and times of a node."""
    db.execute(
        "UPDATE node SET mode = ?, uid = ?, gid = ?, atime = ?, mtime = ?, ctime = ? WHERE id = ?",
        (stat.mode, stat.uid, stat.gid, stat.atime, stat.mtime, stat.ctime, node),
    )


def change_text(db: sqlite3.Connection, node: int, column: str, text: str | None) -> None:
    """Replace the ``metadata`` or ``xattrs`` of a node."""
    db.execute(f"UPDATE node SET {column} = ?, ctime = ? WHERE id = ?", (text, now(), node))
    if column == "metadata":
        fields.forget(db, node)
        if text is not None:
            fields.index(db, node, text)


def add_entry(db: sqlite3.Connection, parent: int, name: bytes, node: int, directory: bool) -> None:
    """Give a node a name that is free."""
    db.execute("INSERT INTO entry (parent, name, node, directory) VALUES (?, ?, ?, ?)", (parent, name, node, directory))
    _touch_entries(db, parent, directory)


def add_link(db: sqlite3.Connection, node: int) -> None:
    """Count a further entry of a node."""
    db.execute("UPDATE node SET nlink = nlink + 1, ctime = ? WHERE id = ?", (now(), node))


def drop_entry(db: sqlite3.Connection, old: Place) -> None:
    """Take a name away, and with the last one the node."""
    db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (old.parent, old.name))
    _touch_entries(db, old.parent, -old.stat.is_directory)
    if old.stat.nlink > 1 and not old.stat.is_directory:
        db.execute("UPDATE node SET nlink = nlink - 1, ctime = ? WHERE id = ?", (now(), old.node))
        return
    db.execute("DELETE FROM node WHERE id = ?", (old.node,))
    fields.forget(db, old.node)
    if old.stat.size:
        db.execute("DELETE FROM chunk WHERE node = ?", (old.node,))


def move_entry(db: sqlite3.Connection, old: Place, parent: int, name: bytes) -> None:
    """Give an entry another place, which is free."""
    db.execute(
        "UPDATE entry SET parent = ?, name = ? WHERE parent = ? AND name = ?",
        (parent, name, old.parent, old.name),
    )
    if parent == old.parent:
        _touch_entries(db, parent)
    else:
        _touch_entries(db, old.parent, -old.stat.is_directory)
        _touch_entries(db, parent, old.stat.is_directory)
    _touch(db, old.node)


def swap_entries(db: sqlite3.Connection, first: Place, second: Place) -> None:
    """Let each of two names stand for what the other did."""
    # Both go before either comes: a directory has one name, at every moment.
    for one in (first, second):
        db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (one.parent, one.name))
        _touch_entries(db, one.parent, -one.stat.is_directory)
    for one, other in ((first, second), (second, first)):
        add_entry(db, one.parent, one.name, other.node, other.stat.is_directory)
        _touch(db, one.node)


def _touch(db: sqlite3.Connection, node: int) -> None:
    db.execute("UPDATE node SET ctime = ? WHERE id = ?", (now(), node))


def _touch_entries(db: sqlite3.Connection, directory: int, more: int = 0) -> None:
    """Note that a directory has other entries, of which ``more`` than before are directories."""
    time_ns = now()
    db.execute("UPDATE node SET mtime = ?, ctime = ?, nlink = nlink + ? WHERE id = ?", (time_ns, time_ns, more, directory))


def check_empty(db: sqlite3.Connection, old: Place, key: str) -> None:
    """Raise ``DirectoryNotEmpty`` if the place at ``key`` is a directory with entries."""
    if old.stat.is_directory and db.execute("SELECT 1 FROM entry WHERE parent = ? LIMIT 1", (old.node,)).fetchone():
        raise DirectoryNotEmpty(f"{key!r} has entries")


def check_kind(old: Place | None, directory: bool, key: str) -> None:
    """Raise unless what is at ``key``, if anything, can be replaced by a directory, or by anything else."""
    if old is None or old.stat.is_directory == directory:
        return
    if directory:
        raise NotADirectory(f"{key!r} is there, and is not a directory")
    raise IsADirectory(f"{key!r} is a directory")


def make_directories(db: sqlite3.Connection, key: str, mode: int, owner: tuple[int, int]) -> int:
    """Answer the node id of the directory ``key``, made with those above it where it is not there.

    Raises:
        NotADirectory: Something else stands on the way.
    """
    try:
        return node_of(db, key)
    except KeyError:
        node = ROOT_NODE
    names = encoded(key.removesuffix("/")).split(b"/") if key else []
    for name in names:  # from above, and no directory twice: it may be deep
        there = child(db, node, name)
        if there is None:
            parent, node = node, add_node(db, new_stat(mode, *owner)._replace(nlink=2), (None, None), None)
            add_entry(db, parent, name, node, True)
        else:
            check_kind(there, True, key)
            node = there.node
    return node
