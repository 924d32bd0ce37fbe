"""Tables of a PostgreSQL server as a store, which any number of machines share.

What the other rooms of it hold: URLs (postgres_url), the tables (postgres_schema) and the functions of the server that write to
them (postgres_functions), connections and transactions (postgres_connections) and what their errors mean (postgres_errors), rows
(postgres_rows), reading (postgres_reading), data (postgres_chunks), listings (postgres_listed), queries (postgres_query), and hearing
of others (postgres_watching).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NoSuchAttribute,
    NotADirectory,
    StoreLocked,
    Unsupported,
)
from joinfs.stores import postgres_rows as rows
from joinfs.stores.base import DEFAULT_FILE_MODE
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.postgres_chunks import Source
from joinfs.stores.postgres_connections import Done
from joinfs.stores.postgres_reading import ReadingPostgres, check_found
from joinfs.stores.postgres_watching import told_of
from joinfs.stores.value import Metadata, Stat, new_stat

# How often metadata is read and written again because others were first.
RETRIES = 100

# The functions that answer what is there afterwards.
_ANSWERING = ("put", "make", "set_stat", "link")
# A node as the functions take it; what they find out themselves is 0.
_NODE = "ROW(0, %s::int, %s::bigint, %s::bigint, %s::bigint, %s::bigint, %s::bigint, %s::bigint, 0, 0, 0, %s, %s::bigint[], %s, %s::bytea, %s::bigint)::{s}.node"


class PostgresStore(ReadingPostgres):
    """The tables of a schema in a PostgreSQL database, shared by any number of threads, processes and machines.

    What a method has answered is committed, durable as the server is, and seen by all who ask then. Each write is one statement; of two
    that are at the same key one comes first, whole. Large data is sent before anybody is kept out, and
    seen when all of it is there. A transaction has the store alone: others wait for its end, up to
    ``timeout``, and are told ``StoreLocked`` then. Hard links are as in :class:`joinfs.stores.sqlite.SQLiteStore`.

    While the server is gone everything raises ``StoreUnavailable``; when it is back, it is connected to again. Questions that were cut
    off are asked once more. Of a write, or the commit of a transaction, that was cut off the server is asked what became of it, as soon as
    it is back: a single write that was not done is done again then, and none is done twice; a transaction that was undone raises. Only if the
    server is not back after ``timeout`` does the error say that it is not known: it was done whole, or not at all.

    Args:
        url: ``//[USER@]HOST[:PORT]/DATABASE``, what follows ``postgres:`` in a store's URL. Where parts are missing, libpq's defaults count.
        event_manager, read_only: As for ``Store`` and ``open_store``.
        schema: The name of the schema that has the tables; empty for ``joinfs``.
        service, sslmode, sslrootcert: As libpq has them; empty for what its environment says.

    Attributes:
        timeout: Seconds for which the server may send nothing, before it is given up.

    Raises:
        UsageError: The URL is none, or there is a password in it.
    """

    # ---------------------------------------------------------------- transactions

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if not self.capabilities.writable:
            yield
            return
        with self._connections.transaction():
            yield

    def _nested_transaction(self) -> contextlib.AbstractContextManager[object]:
        return self._transaction()

    def _exclusive(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """The same: a transaction, to which what is written in it belongs."""
        return self._transaction()

    def _around_write(self, *keys: str) -> contextlib.AbstractContextManager[object]:
        """Nothing, as each write is one statement; but what listeners are told of is looked at together with it."""
        return self._exclusive(*keys) if self._heard() else contextlib.nullcontext()

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        yield Source(data if stat.is_file or stat.is_symlink else None, buffer_size)  # type: ignore[misc]

    def _call(self, function: str, arguments: tuple[Any, ...], told: tuple[str, ...], problems: dict[str, Exception]) -> Any:
        """Call one of the functions that write; answer its row.

        Args:
            function: Its name, and what stands for its arguments, without the first two.
            arguments: Those.
            told: The keys that subscribers of others are told of.
            problems: What to raise for each reason to refuse.
        """
        connections = self._connections
        statement = f"SELECT * FROM {connections.names.s}.{function}".replace("{s}", connections.names.s).replace("(", "(%s, %s::bigint[], ", 1)
        try:
            row = check_found(connections.write(statement, told_of(self._origin, *told), arguments))
        except Done:  # others may have gone on from there already, and what is there now is as good an answer
            return self._row(told[-1], f"{rows.COLUMNS}, n.metadata") if function.startswith(_ANSWERING) else None
        if row[0] is not None:
            raise problems[row[0]]
        return row[1:]

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        texts = rows.metadata_text(metadata), rows.fields_of(metadata), rows.xattrs_text(xattrs)
        row = self._put_source(key, stat, texts, data if isinstance(data, Source) else Source(data, buffer_size), (False, False))
        return rows.stat_from(row, root=not key)

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        """The same, in one request."""
        known = metadata or {}
        texts = rows.metadata_text(known), rows.fields_of(known), None
        source = data if isinstance(data, Source) else Source(data, buffer_size)
        row = self._put_source(key, self._new_file(), texts, source, (True, metadata is None))
        return rows.metadata_from(row[rows.WIDTH]) if metadata is None else metadata

    def _new_file(self) -> Stat:
        return new_stat(DEFAULT_FILE_MODE, *self._default_owner())

    def _put_source(self, key: str, stat: Stat, texts: tuple[Any, ...], source: Source, keeps: tuple[bool, bool]) -> Any:
        if source.small:
            return self._put_node(key, stat._replace(size=len(source.inline or b"")), (*texts, source.inline, None), keeps)
        connections = self._connections
        # Nobody is kept out while the data is sent: nobody else can see it.
        with connections.transaction(alone=False) as connection, connections.explained():
            content, size = source.write_chunks(connection, connections.names.s)
            return self._put_node(key, stat._replace(size=size), (*texts, None, content), keeps)

    def _put_node(self, key: str, stat: Stat, rest: tuple[Any, ...], keeps: tuple[bool, bool]) -> Any:
        """Put a node, all but its chunks; ``keeps`` is what of that which is there stays: attributes, and metadata."""
        above, name = rows.place_of(key)
        arguments = (above, name, *self._node(stat), *rest, *keeps, self._owner())
        problems: dict[str, Exception] = {
            "directory": IsADirectory(f"{key!r} is a directory"),
            "no directory": NotADirectory(f"{key!r} is there, or on the way to it, and is not a directory"),
        }
        return self._call(f"put(%s::bytea[], %s::bytea, {_NODE}, %s, %s, %s::bigint[])", arguments, _told(key), problems)

    def _node(self, stat: Stat) -> tuple[int, ...]:
        return (*stat[:5], rows.clamped(stat.atime), rows.clamped(stat.mtime))

    def _owner(self) -> list[int]:
        """Of the directories that are made on the way."""
        return list(self._default_owner())

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        data = target if stat.is_symlink else None
        node = self._node(stat._replace(size=len(data or b"")))
        arguments = (*rows.place_of(key), *node, None, None, None, data, None)
        there = KeyExists(f"{key!r} is there already")
        if key == ROOT:
            raise there
        problems: dict[str, Exception] = {"absent": KeyError(split(key)[0]), "there": there}
        return rows.stat_from(self._call(f"make(%s::bytea[], %s::bytea, {_NODE})", arguments, _told(key), problems))

    def _delete(self, key: str) -> None:
        _refuse_root(key)
        problems: dict[str, Exception] = {"absent": KeyError(key), "full": DirectoryNotEmpty(f"{key!r} has entries")}
        self._call("delete(%s::bytea[], %s, %s)", (*rows.place_of(key), is_directory_key(key)), _told(key), problems)

    # ---------------------------------------------------------------- attributes

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        times = [None if changes.get(name) is None else rows.clamped(changes[name]) for name in ("atime", "mtime")]
        arguments = (rows.names_of(key), is_directory_key(key), changes.get("mode"), changes.get("uid"), changes.get("gid"), *times)
        statement = "set_stat(%s::bytea[], %s, %s::int, %s::bigint, %s::bigint, %s::bigint, %s::bigint)"
        return rows.stat_from(self._call(statement, arguments, _told(key), {"absent": KeyError(key)}), root=not key)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._set_text(key, False, rows.metadata_text(metadata), rows.fields_of(metadata))

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        def updated(text: str | None) -> tuple[str | None, list[int] | None]:
            new = {**rows.metadata_from(text), **metadata}
            return rows.metadata_text(new), rows.fields_of(new)

        return rows.metadata_from(self._change_text(key, False, updated))

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        def changed(text: str | None) -> tuple[str | None, None]:
            xattrs = rows.xattrs_from(text)
            if value is not None:
                xattrs[name] = bytes(value)
            elif xattrs.pop(name, None) is None:
                raise NoSuchAttribute(f"{key!r} has no attribute {name!r}")
            return rows.xattrs_text(xattrs), None

        self._change_text(key, True, changed)

    def _change_text(
        self, key: str, is_xattrs: bool, change: Callable[[str | None], tuple[str | None, list[int] | None]]
    ) -> str | None:
        """Replace metadata or xattrs by what is made of them; again, if others changed them meanwhile. Answer what is there now."""
        for _ in range(RETRIES):
            old = self._find(key, ", n.xattrs" if is_xattrs else ", n.metadata")[1][0]
            new, fields = change(old)
            with contextlib.suppress(_Changed):
                self._set_text(key, is_xattrs, new, fields, (True, old))
                return new
        raise StoreLocked(f"{key!r} is changed by others all the time")

    def _set_text(self, key: str, is_xattrs: bool, text: str | None, fields: list[int] | None, check: tuple[bool, str | None] = (False, None)) -> None:
        arguments = (rows.names_of(key), is_directory_key(key), is_xattrs, text, fields, *check)
        problems = {"absent": KeyError(key), "changed": _Changed()}
        self._call("set_text(%s::bytea[], %s, %s, %s, %s::bigint[], %s, %s)", arguments, _told(key), problems)

    # ---------------------------------------------------------------- moving

    def _rename(self, old: str, new: str) -> None:
        _refuse_root(old)
        _refuse_root(new)
        problems: dict[str, Exception] = {
            "absent": KeyError(old),
            "directory": IsADirectory(f"{new!r} is a directory"),
            "no directory": NotADirectory(f"{new!r} is there, or on the way to it, and is not a directory"),
            "full": DirectoryNotEmpty(f"{new!r} has entries"),
        }
        arguments = (*rows.place_of(old), *rows.place_of(new), is_directory_key(old), self._owner())
        self._call("rename(%s::bytea[], %s, %s::bytea[], %s, %s, %s::bigint[])", arguments, (old, new), problems)

    def _exchange(self, first: str, second: str) -> None:
        _refuse_root(first)
        _refuse_root(second)
        arguments = (*rows.place_of(first), is_directory_key(first), *rows.place_of(second), is_directory_key(second))
        problems: dict[str, Exception] = {"absent": KeyError(first), "other absent": KeyError(second)}
        self._call("exchange(%s::bytea[], %s, %s, %s::bytea[], %s, %s)", arguments, (first, second), problems)

    def _link(self, old: str, new: str) -> Stat:
        if is_directory_key(old):
            raise Unsupported(f"{old!r} is a directory's key; a directory has one name")
        if is_directory_key(new):
            raise InvalidKey(f"{new!r} is a directory's key, and what is linked is not a directory")
        problems: dict[str, Exception] = {
            "absent": KeyError(old),
            "there": KeyExists(f"{new!r} is there already"),
            "no directory": NotADirectory(f"on the way to {new!r} stands something else"),
        }
        arguments = (rows.names_of(old), *rows.place_of(new), self._owner())
        return rows.stat_from(self._call("link(%s::bytea[], %s::bytea[], %s, %s::bigint[])", arguments, (old, new), problems))


class _Changed(Exception):
    """The text is not the one that was to be replaced."""


def _told(key: str) -> tuple[str]:
    """How a write of one key is told; see ``Telling._tell_written``."""
    return (key.removesuffix("/"),)


def _refuse_root(key: str) -> None:
    if key == ROOT:
        raise InvalidKey("the root is always there: it can be neither deleted nor moved")
