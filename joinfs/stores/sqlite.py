"""``SQLiteStore``: a store in one SQLite database.

What the other rooms of it hold: the file format and the opening (sqlite_schema), connections and
transactions (sqlite_connections), nodes and entries (sqlite_nodes), data (sqlite_chunks), queries
(sqlite_query).
"""

import contextlib
import functools
import io
import os
import sqlite3
import stat as stat_module
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from joinfs.errors import InvalidKey, KeyExists, NoSuchAttribute, StoreUnavailable, Unsupported
from joinfs.stores import sqlite_nodes as nodes
from joinfs.stores import sqlite_query as queries
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.metadata import selected
from joinfs.stores.sqlite_chunks import Source, checked_inline, open_stream, read_chunks
from joinfs.stores.sqlite_connections import Connections
from joinfs.stores.sqlite_schema import ROOT_NODE
from joinfs.stores.value import NANOSECONDS, Capabilities, Metadata, Opened, Stat, Usage, Value, now

# Entries that are read at a time; between two pages nothing is held of the database.
PAGE = 1000

CAPABILITIES = Capabilities(xattrs=True, hard_links=True, transactions=True)
READ_ONLY = CAPABILITIES._replace(writable=False, transactions=False)


class SQLiteStore(Store):
    """A store in one SQLite file, shared by any number of threads and processes of one machine.

    Commits survive a crash of the process at once, and a loss of power after ``sync`` or ``disconnect``.
    A file that may not be written is opened for reading. Several keys of one file are hard links: a
    ``put`` to one of them replaces the data, attributes and metadata of all, as writing a file does;
    only what is put as another kind of file (a symlink for a regular file) replaces that key alone.

    Args:
        path: The database, made by ``connect`` if it is not there; its directory must be.
        event_manager: As for ``Store``.
        read_only: Take no writes.
        timeout: Seconds to wait for another writer before ``StoreLocked``.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        path: str | os.PathLike[str],
        event_manager: Any = None,
        *,
        read_only: bool = False,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(event_manager)
        self.name = f"sqlite:{os.fspath(path)}"
        # A daemon changes its working directory between construction and connection.
        self.path = os.path.abspath(os.fspath(path))
        self._read_only = read_only
        self._timeout = timeout
        self._open: Connections | None = None
        if read_only:
            self.capabilities = READ_ONLY

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        self._open = Connections(os.path.realpath(self.path), self.name, self._read_only, self._timeout)
        self.capabilities = CAPABILITIES if self._open.writable else READ_ONLY

    def disconnect(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None

    def is_connected(self) -> bool:
        return self._open is not None and self._open.is_open()

    def watch(self, directory: str) -> bool:
        """The same, of the whole database: of any change that others make it is told that everything may have changed."""
        if not is_directory_key(directory) or not self.exists(directory):
            return False
        return self._connections().watch(lambda: self._tell_changed(None))

    def _connections(self) -> Connections:
        if self._open is None:
            self._check_connected()
        return self._open  # type: ignore[return-value]

    def _reading(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        return self._connections().reading()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self.capabilities.writable:
            yield
            return
        with self._connections().transaction():
            yield

    def _nested_transaction(self) -> contextlib.AbstractContextManager[object]:
        return self._transaction()

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        with self._reading() as db:
            return nodes.find(db, key)[0]

    def lookup(self, key: str) -> Stat:
        with self._reading() as db:
            return nodes.find_any(db, key)[0]

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        with self._reading() as db:
            directory = nodes.listable(db, prefix)
            page = nodes.children(db, directory, b"", PAGE)
        while page:
            yield from (child for _, child in page)
            if len(page) < PAGE:
                return
            with self._reading() as db:
                page = nodes.children(db, directory, page[-1][0], PAGE)

    def get(self, key: str) -> Value:
        with self._reading() as db:
            node, _, _, size, mtime, ctime, birth, text, inline = nodes.find_value(db, key)
            metadata = nodes.metadata_from(text)
            if inline is not None or size == 0:
                data = checked_inline(inline or b"", size)
                open_data: Any = functools.partial(io.BytesIO, data)
            else:
                open_data = functools.partial(self._stream, key, node)
        return Value(open_data, metadata, size, (birth or ctime) / NANOSECONDS, max(mtime, ctime) / NANOSECONDS)

    def _stream(self, key: str, node: int) -> Opened:
        opened = open_stream(self._connections(), self.name, node)
        if opened is None:
            raise KeyError(key)
        return opened

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        with self._reading() as db:
            metadata = nodes.metadata_from(nodes.find(db, key, ", n.metadata")[1][0])
        return selected(metadata, select)

    def read(self, key: str, offset: int, size: int) -> bytes:
        with self._connections().snapshot() as db:
            stat, (inline,) = nodes.find(db, key, ", n.data")
            if inline is not None or stat.size == 0:
                return checked_inline(inline or b"", stat.size)[offset : offset + size]
            return read_chunks(db, nodes.id_of(stat), stat.size, offset, size)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        with self._reading() as db:
            return nodes.xattrs_from(nodes.find(db, key, ", n.xattrs")[1][0])

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        names = None if select is None else list(select)
        position: queries.Position | None = queries.START
        while position is not None:
            with self._connections().snapshot() as db:
                found, position = queries.matching(db, kwargs, position, PAGE)
            for key, metadata in found:
                yield key, selected(metadata, names)

    def check(self) -> Iterator[str]:
        """The same, of all that is in the database."""
        from joinfs.stores.sqlite_checking import broken_rules  # noqa: PLC0415

        with self._connections().snapshot() as db:
            yield from broken_rules(db)

    def usage(self) -> Usage:
        with self._reading() as db:
            free = db.execute("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")
            reusable = int(free.fetchone()[0])
        host = os.statvfs(os.path.dirname(self.path))
        blocks = reusable // host.f_frsize
        return Usage(
            host.f_frsize,
            host.f_blocks,
            host.f_bfree + blocks,
            host.f_bavail + blocks,
            host.f_files,
            host.f_ffree,
        )

    # ---------------------------------------------------------------- writing

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """The same: a transaction, to which what the hooks below ask for belongs."""
        return self._connections().writing()

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        yield Source(data if stat.is_file or stat.is_symlink else None, buffer_size)  # type: ignore[misc]

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        texts = nodes.metadata_text(metadata), nodes.xattrs_text(xattrs)
        source = data if isinstance(data, Source) else Source(data, buffer_size)
        with self._reading() as db:
            made = self._put_node(db, key, nodes.storable(stat), texts, source)
            if not source.small:
                made = made._replace(size=source.write_chunks(db, nodes.id_of(made)))
                db.execute("UPDATE node SET size = ? WHERE id = ?", (made.size, made.file_id))
        return made

    def _put_node(
        self,
        db: sqlite3.Connection,
        key: str,
        stat: Stat,
        texts: tuple[str | None, str | None],
        source: Source,
    ) -> Stat:
        """Make or replace the node at ``key``, all but its chunks; answer its Stat."""
        time = now()
        new = stat._replace(size=len(source.inline or b""), ctime=time, birth=time, nlink=1 + stat.is_directory, file_id=None)
        parent, name, old = self._target(db, key, stat)
        if old is not None and old.kind == stat.kind:
            new = new._replace(birth=old.birth, nlink=old.nlink, file_id=old.file_id)
            nodes.change_node(db, new, texts, source.inline)
            return new
        if old is not None:
            nodes.drop_entry(db, nodes.Place(parent, name, old))
        node = nodes.add_node(db, new, texts, source.inline)
        nodes.add_entry(db, parent, name, node, stat.is_directory)
        return new._replace(file_id=node)

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        if stat.is_symlink:
            return super()._make_new(key, stat, target)
        above, name = split(key)
        moment = now()
        new = stat._replace(
            size=0, atime=moment, mtime=moment, ctime=moment, birth=moment, nlink=1 + stat.is_directory, file_id=None, implied=False
        )
        with self._reading() as db:
            parent = nodes.node_of(db, above)
            node = nodes.add_node(db, new, (None, None), None)
            try:
                nodes.add_entry(db, parent, nodes.encoded(name), node, stat.is_directory)
            except sqlite3.IntegrityError as error:
                raise KeyExists(f"{key!r} is there already") from error
        return new._replace(file_id=node)

    def _target(self, db: sqlite3.Connection, key: str, stat: Stat) -> tuple[int, bytes, Stat | None]:
        """Answer the directory and name at which ``stat`` may be put, and what is there."""
        if key == ROOT:
            return ROOT_NODE, b"", nodes.find(db, ROOT)[0]
        parent, name = self._make_parent(db, key)
        old = nodes.child(db, parent, name)
        nodes.check_kind(old, stat.is_directory, key)
        return parent, name, None if old is None else old.stat

    def _make_parent(self, db: sqlite3.Connection, key: str) -> tuple[int, bytes]:
        above, name = split(key)
        parent = nodes.make_directories(db, above, DEFAULT_DIRECTORY_MODE, self._default_owner())
        return parent, nodes.encoded(name)

    def _delete(self, key: str) -> None:
        _refuse_root(key)
        with self._reading() as db:
            old = nodes.place(db, key)
            nodes.check_empty(db, old, key)
            nodes.drop_entry(db, old)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        text = nodes.metadata_text(metadata)
        with self._reading() as db:
            nodes.change_text(db, nodes.node_of(db, key), "metadata", text)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        with self._reading() as db:
            old = nodes.find(db, key)[0]
            if "mode" in changes:
                changes["mode"] = old.kind | stat_module.S_IMODE(changes["mode"])
            new = nodes.storable(old.changed(changes, now()))
            nodes.change_attributes(db, nodes.id_of(new), new)
        return new

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        with self._reading() as db:
            node = nodes.node_of(db, key)
            xattrs = nodes.xattrs_from(nodes.find(db, key, ", n.xattrs")[1][0])
            if value is not None:
                xattrs[name] = bytes(value)
            elif xattrs.pop(name, None) is None:
                raise NoSuchAttribute(f"{key!r} has no attribute {name!r}")
            nodes.change_text(db, node, "xattrs", nodes.xattrs_text(xattrs))

    def _rename(self, old: str, new: str) -> None:
        _refuse_root(old)
        _refuse_root(new)
        with self._reading() as db:
            source = nodes.place(db, old)
            parent, name = self._make_parent(db, new)
            target = nodes.child(db, parent, name)
            nodes.check_kind(target, source.stat.is_directory, new)
            if target is not None:
                if target.node == source.node:
                    return
                nodes.check_empty(db, target, new)
                nodes.drop_entry(db, target)
            nodes.move_entry(db, source, parent, name)

    def _exchange(self, first: str, second: str) -> None:
        _refuse_root(first)
        _refuse_root(second)
        with self._reading() as db:
            one, other = nodes.place(db, first), nodes.place(db, second)
            if one.node != other.node:
                nodes.swap_entries(db, one, other)

    def _link(self, old: str, new: str) -> Stat:
        if is_directory_key(old):
            raise Unsupported(f"{old!r} is a directory's key; a directory has one name")
        if is_directory_key(new):
            raise InvalidKey(f"{new!r} is a directory's key, and what is linked is not a directory")
        with self._reading() as db:
            node = nodes.node_of(db, old)
            parent, name = self._make_parent(db, new)
            if nodes.child(db, parent, name) is not None:
                raise KeyExists(f"{new!r} is there already")
            nodes.add_entry(db, parent, name, node, directory=False)
            nodes.add_link(db, node)
            return nodes.find(db, new)[0]

    def sync(self, key: str | None = None) -> None:
        if not self.capabilities.writable:
            return
        self._check_connected()
        # With synchronous NORMAL SQLite leaves commits in the log to the kernel. Writing the log to the
        # medium makes them all durable: reopening replays it. A checkpoint would not do, because it stops
        # at the oldest stream that is open. Only the log may be opened beside SQLite: closing any
        # descriptor of the database itself would drop this process's locks on it.
        path = os.path.realpath(self.path)
        try:
            for file in (path + "-wal", os.path.dirname(path)):
                _sync_file(file)
        except OSError as error:
            raise StoreUnavailable(f"{self.name}: the medium reports an error: {error.strerror}") from error


def _sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_root(key: str) -> None:
    if key == ROOT:
        raise InvalidKey("the root is always there: it can be neither deleted nor moved")
