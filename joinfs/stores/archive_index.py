"""The index of an archive: what is where in it, as a database on disk, so that memory stays bounded.

It is the database of an ``SQLiteStore`` with one difference: in place of a file's data its node has what the
kind of archive needs to find the data, as a JSON list of rows of numbers.
A directory that no member tells of has a device number. What of the archive is not shown is in a node without a name.
Indexes are kept for the next time, named by what they were made of.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import stat as stat_module
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from joinfs.errors import StoreError
from joinfs.stores import sqlite_fields as fields
from joinfs.stores import sqlite_nodes as nodes
from joinfs.stores.escape import escape
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.sqlite_schema import ROOT_NODE
from joinfs.stores.value import Stat

FORMAT = 5
DAY = 86_400
KEPT_DAYS = 60
IMPLIED = 1
# The node, with no name, that has which members were left out; at most so many are told.
LEFT_OUT, MOST_LEFT_OUT = -1, 10_000
# How far the indexing is is told each time that so many members were taken in.
MEMBERS_TOLD = 1000
Places = list[tuple[int, ...]]


class ArchiveIndex:
    """Takes in the members of an archive, in their order, as unpacking them would.

    Args:
        db: A connection to an empty store's database, in a transaction.
        implied: The attributes of directories that no member tells of.
        told: Called now and then with how many more members were taken in.
    """

    def __init__(self, db: sqlite3.Connection, implied: Stat, told: Callable[[int], object] | None = None) -> None:
        self._db = db
        self._implied = implied
        self._told, self._count = told, 0
        self._directories: dict[tuple[int, bytes], int] = {}
        db.execute("CREATE TEMP TABLE left_out (name BLOB, target BLOB)")
        self.put_directory([], implied._replace(rdev=IMPLIED), {}, {})

    def put_directory(
        self, parts: list[str], stat: Stat, metadata: Mapping[str, Any], xattrs: Mapping[str, bytes]
    ) -> None:
        """A directory; one that is there already gets these attributes."""
        node = self._directory(parts)
        texts = nodes.metadata_text(metadata), nodes.xattrs_text(xattrs)
        nodes.change_node(self._db, nodes.storable(stat._replace(size=0, nlink=1, file_id=node)), texts, None)

    def put(
        self,
        parts: list[str],
        stat: Stat,
        content: bytes | Places,
        metadata: Mapping[str, Any],
        xattrs: Mapping[str, bytes],
    ) -> None:
        """A file, symlink or special file, in place of what had its name."""
        self._count += 1
        if self._told is not None and self._count % MEMBERS_TOLD == 0:
            self._told(MEMBERS_TOLD)
        parent, name, old = self._place(parts)
        texts = nodes.metadata_text(metadata), nodes.xattrs_text(xattrs)
        inline = content if isinstance(content, bytes) else json.dumps(content).encode()
        node = nodes.add_node(self._db, nodes.storable(stat._replace(nlink=1)), texts, inline)
        self._name(parent, name, node, old)

    def link(self, parts: list[str], target: list[str], size: int = 0, places: Places | None = None) -> bool:
        """A further name for a file that came before; False if there is none.

        cpio has the data with the last of the names: then there are ``size`` bytes, at ``places``.
        """
        found = self._find(target)
        if found is None or found[1]:
            return False
        if size:
            regular = f"mode & {0o170000} = {stat_module.S_IFREG}"
            values = size, json.dumps(places).encode(), found[0]
            self._db.execute(f"UPDATE node SET size = ?, data = ? WHERE id = ? AND {regular}", values)
        parent, name, old = self._place(parts)
        if old == found:
            return True
        self._name(parent, name, found[0], old)
        self._db.execute("UPDATE node SET nlink = nlink + 1 WHERE id = ?", (found[0],))
        return True

    def leave_out(self, name: str, target: str) -> None:
        """A further name for a file that is not there, or not yet."""
        self._db.execute("INSERT INTO left_out (name, target) VALUES (?, ?)", (nodes.encoded(name), nodes.encoded(target)))

    def link_late(self) -> None:
        """Make the further names that were left out for files that came after them; keep, for who checks, which could not be made."""
        for order in ("ASC", "DESC"):  # they may be names of each other
            for row, name, target in self._db.execute(f"SELECT rowid, name, target FROM left_out ORDER BY rowid {order}").fetchall():
                parts = components(_decoded(name))
                if self._find(parts) is not None or any(self.link(parts, found) for found in targets(_decoded(target))):
                    self._db.execute("DELETE FROM left_out WHERE rowid = ?", (row,))
        rows = self._db.execute("SELECT name, target FROM left_out LIMIT ?", (MOST_LEFT_OUT,)).fetchall()
        if rows:
            node = nodes.add_node(self._db, self._implied, (None, None), json.dumps([[*map(_decoded, row)] for row in rows]).encode())
            self._db.execute("UPDATE node SET id = ? WHERE id = ?", (LEFT_OUT, node))

    # ---------------------------------------------------------------- names

    def _entry(self, parent: int, name: bytes) -> tuple[int, bool] | None:
        row = self._db.execute("SELECT node, directory FROM entry WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        return None if row is None else (row[0], bool(row[1]))

    def _find(self, parts: list[str]) -> tuple[int, bool] | None:
        found: tuple[int, bool] | None = (ROOT_NODE, True)
        for part in parts:
            for name in _spelled(part):
                found = None if found is None else self._entry(found[0], name)
        return found

    def _place(self, parts: list[str]) -> tuple[int, bytes, tuple[int, bool] | None]:
        """The directory and the name for a value, and what is there; beside a directory of its name it is spelled differently."""
        parent = self._directory(parts[:-1])
        *above, name = _spelled(parts[-1])
        for piece in above:
            parent = self._child(parent, piece)
        there = self._entry(parent, name)
        if there is None or not there[1]:
            return parent, name, there
        *_, beside = _spelled(parts[-1], beside_directory=True)
        return parent, beside, self._entry(parent, beside)

    def _name(self, parent: int, name: bytes, node: int, old: tuple[int, bool] | None) -> None:
        if old is not None:
            self._db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))
            self._drop(old[0])
        self._db.execute("INSERT INTO entry (parent, name, node, directory) VALUES (?, ?, ?, 0)", (parent, name, node))

    def _drop(self, node: int) -> None:
        (nlink,) = self._db.execute("SELECT nlink FROM node WHERE id = ?", (node,)).fetchone()
        if nlink > 1:
            self._db.execute("UPDATE node SET nlink = nlink - 1 WHERE id = ?", (node,))
            return
        self._db.execute("DELETE FROM node WHERE id = ?", (node,))
        fields.forget(self._db, node)

    def _directory(self, parts: list[str]) -> int:
        """The node of a directory, made if it is not there."""
        node = ROOT_NODE
        for part in parts:
            for name in _spelled(part):
                node = self._child(node, name)
        return node

    def _child(self, parent: int, name: bytes) -> int:
        known = self._directories.get((parent, name))
        if known is not None:
            return known
        there = self._entry(parent, name)
        if there is not None and not there[1]:
            self._move_aside(parent, name)
            there = None
        node = there[0] if there is not None else self._make(parent, name)
        if len(self._directories) >= 10_000:
            self._directories.clear()
        self._directories[parent, name] = node
        return node

    def _make(self, parent: int, name: bytes) -> int:
        node = nodes.add_node(self._db, nodes.storable(self._implied._replace(nlink=1, rdev=IMPLIED)), (None, None), None)
        self._db.execute("INSERT INTO entry (parent, name, node, directory) VALUES (?, ?, ?, 1)", (parent, name, node))
        return node

    def _move_aside(self, parent: int, name: bytes) -> None:
        """A value is in the way of a directory: it gets the other spelling."""
        *_, beside = _spelled(_decoded(name), beside_directory=True)
        self._db.execute("UPDATE OR REPLACE entry SET name = ? WHERE parent = ? AND name = ?", (beside, parent, name))


def _spelled(part: str, beside_directory: bool = False) -> list[bytes]:
    """The names for one component, which are several if it is too long for one."""
    return [nodes.encoded(name) for name in escape(part, beside_directory).split("/")]


def components(name: str) -> list[str]:
    """Answer the components of a member's name, without those that are ``.``; the root has none."""
    return [part for part in name.removesuffix("/").split("/") if part != "."] if name else []


def targets(name: str) -> list[list[str]]:
    """Answer what a hard link's target may be called among the members, as components: as it is, and as tar unpacks it."""
    return [components(text) for text in dict.fromkeys([name, name.lstrip("/")])]


def shown(stat: Stat) -> Stat:
    """A Stat of the index as the archive's store answers it."""
    return stat._replace(rdev=0, implied=True) if stat.is_directory and stat.rdev == IMPLIED else stat


def places_of(db: sqlite3.Connection, node: int) -> Places:
    """Answer what was put in for the data of a node."""
    row = db.execute("SELECT data FROM node WHERE id = ?", (node,)).fetchone()
    if row is None:
        return []
    return [tuple(int(number) for number in place) for place in json.loads(row[0])]


def left_out(db: sqlite3.Connection) -> Iterator[str]:
    """Yield a sentence for each member that is not shown because what it is a further name for is not there."""
    row = db.execute("SELECT data FROM node WHERE id = ?", (LEFT_OUT,)).fetchone()
    for name, target in [] if row is None else json.loads(row[0]):
        yield f"{name!r} is left out: it is a hard link to {target!r}, which is not there"


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


# -------------------------------------------------------------------- keeping


def cache_directory() -> str | None:
    """Answer the user's directory for joinfs's caches, made if need be; None if there can be none."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    place = os.path.join(base, "joinfs")
    if not os.path.isabs(place):
        return None
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
        return place if os.stat(place).st_uid == os.geteuid() and os.access(place, os.W_OK) else None
    except OSError:
        return None


def fingerprint(path: str, part: str) -> str:
    """Answer a name for (a part of) the contents of a file: by its place, size, times, and first and last bytes."""
    with open(path, "rb") as file:
        native = os.fstat(file.fileno())
        ends = file.read(1 << 16)
        file.seek(max(native.st_size - (1 << 16), 0))
        ends += file.read(1 << 16)
    facts = f"{FORMAT} {os.path.realpath(path)} {native.st_size} {native.st_mtime_ns} {native.st_ino} {os.geteuid()}:{os.getegid()} {part}"
    return hashlib.blake2b(facts.encode("utf-8", "surrogateescape") + ends, digest_size=20).hexdigest()


@contextlib.contextmanager
def _new_database(directory: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="joinfs-index-", dir=directory) as place:
        yield os.path.join(place, "index")


def open_index(path: str, part: str, name: str, build: Callable[[sqlite3.Connection], None]) -> SQLiteStore:
    """Answer the index of an archive, connected: the one that was kept, or a new one.

    Args:
        path: The file that the archive is, or is in.
        part: Which part of the file it is, if not all of it.
        name: What messages call it.
        build: Fills the database of an empty store.
    """
    directory = cache_directory()
    kept = None if directory is None else os.path.join(directory, f"{fingerprint(path, part)}.index")
    if kept is not None and os.path.exists(kept):
        index = SQLiteStore(kept, read_only=True)
        index.name = name
        with contextlib.suppress(StoreError):
            index.connect()
            os.utime(kept)
            return index
    with _new_database(directory) as place:
        _fill(place, name, build)
        if kept is not None and directory is not None:
            _forget_old(Path(directory))
            os.replace(place, kept)
        index = SQLiteStore(kept or place, read_only=True)
        index.name = name
        index.connect()
        return index


def _fill(place: str, name: str, build: Callable[[sqlite3.Connection], None]) -> None:
    index = SQLiteStore(place)
    index.name = name
    with index, index._exclusive() as db:
        build(db)
    # One file, with no log beside it: it is only read from now on, and may be moved.
    with contextlib.closing(sqlite3.connect(place)) as db:
        db.execute("PRAGMA journal_mode = DELETE")


def _forget_old(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for path in directory.glob("*.index"):
            if path.stat().st_mtime < time.time() - KEPT_DAYS * DAY:
                path.unlink()
