"""The reading half of ``PostgresStore``, and its connection."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from joinfs.errors import CorruptStore, InvalidKey, ReadOnly
from joinfs.stores import postgres_rows as rows
from joinfs.stores.base import Store
from joinfs.stores.keys import is_directory_key
from joinfs.stores.metadata import selected
from joinfs.stores.postgres_chunks import PART, checked_part, open_stream
from joinfs.stores.postgres_connections import Connections
from joinfs.stores.postgres_listed import Known, Listed
from joinfs.stores.postgres_query import matching
from joinfs.stores.postgres_rows import COLUMNS, WIDTH, Row
from joinfs.stores.postgres_schema import ROOT_NODE
from joinfs.stores.postgres_url import parse_url
from joinfs.stores.postgres_watching import Listener
from joinfs.stores.value import Capabilities, Metadata, Opened, Stat, Usage, Value

# Entries of a listing that one question answers.
PAGE = 2000

CAPABILITIES = Capabilities(xattrs=True, hard_links=True, transactions=True, slow=True)
READ_ONLY = CAPABILITIES._replace(writable=False, transactions=False)

# What stands at a key, given the names of its directory and its own.
_ENTRY = f"(SELECT %s::bytea[] AS above) k JOIN {{s}}.entry e ON e.parent = {{s}}.inside({ROOT_NODE}, k.above) AND e.name = %s"
_ROOT = f"(SELECT {ROOT_NODE}::bigint AS node, true AS directory) e"
_LISTED = f"""
SELECT {COLUMNS}, e.name, n.xattrs IS NOT NULL, d.id FROM (SELECT {{which}} AS id) d
LEFT JOIN {{s}}.entry e ON e.parent = d.id AND e.name > %s LEFT JOIN {{s}}.node n ON n.id = e.node ORDER BY e.name LIMIT {PAGE}
"""


class ReadingPostgres(Store):
    """What can be asked of a :class:`joinfs.stores.postgres.PostgresStore`, which says it all."""

    capabilities = CAPABILITIES
    timeout = 30.0

    def __init__(
        self,
        url: str,
        event_manager: Any = None,
        read_only: bool = False,
        schema: str = "",
        *,
        service: str = "",
        sslmode: str = "",
        sslrootcert: str = "",
    ) -> None:
        super().__init__(event_manager)
        self._place = parse_url(url, schema, service=service, sslmode=sslmode, sslrootcert=sslrootcert)
        self.name = self._place.name
        self._read_only = read_only
        self._open: Connections | None = None
        self._listener: Listener | None = None
        self._can_listen = True
        self._connecting = threading.Lock()
        self._listed = Listed()
        # What others know our writes by, and we know them by when we are told of them.
        self._origin = ""
        if read_only:
            self.capabilities = READ_ONLY

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same; the schema and its tables are made if they are not there.

        Args:
            credentials: A password. None: that of PGPASSWORD, ~/.pgpass or a service of PGSERVICE, as libpq finds it.

        Raises:
            UsageError: psycopg is not installed.
            AccessDenied: The server does not let us in, or not make the tables.
        """
        with self._connecting:
            if self.is_connected():
                return
            self._origin = os.urandom(8).hex()
            self._open = Connections(self._place, credentials, self._read_only, self.timeout)
            self._can_listen = True
            self.capabilities = CAPABILITIES if self._open.writable else READ_ONLY

    def disconnect(self) -> None:
        with self._connecting:
            listener, self._listener = self._listener, None
            connections, self._open = self._open, None
        if listener is not None:
            listener.close()
        if connections is not None:
            connections.close()

    def is_connected(self) -> bool:
        return self._open is not None and self._open.is_open()

    @property
    def _connections(self) -> Connections:
        connections = self._open
        if connections is None:
            self._check_connected()
        return connections  # type: ignore[return-value]

    def watch(self, directory: str) -> bool:
        """The same, of the whole store: of each key that others write it is told, wherever that is. A standby tells nothing."""
        self._check_connected()
        if not is_directory_key(directory):
            return False
        with self._connecting:
            if self._listener is None and self._can_listen:
                self._listed.forget(None)
                self._listener = self._listening()
            listening = self._listener is not None and self._listener.is_listening()
        with contextlib.suppress(InvalidKey):
            return listening and self.exists(directory)
        return False

    def _listening(self) -> Listener | None:
        try:
            return Listener(self._connections, self._origin, self._hear)
        except ReadOnly:  # a standby takes no LISTEN
            self._can_listen = False
            return None

    def _hear(self, key: str | None) -> None:
        self._listed.forget(key)
        self._tell_changed(key)

    def _note_change(self, *keys: str) -> None:
        super()._note_change(*keys)
        for key in keys or (None,):
            self._listed.forget(key)

    def _just_listed(self, key: str) -> Known | None:
        """What a listing has said of a key a moment ago, if nobody can have changed that unheard."""
        known = self._listed.find(key)
        return known if known is not None and self._hears_others() else None

    def _hears_others(self) -> bool:
        """Whether what was committed can be remembered: who is in a transaction sees other things, and who is not told must ask."""
        listener = self._listener
        return listener is not None and listener.is_listening() and self._connections.held() is None

    def catch_up(self) -> None:
        listener = self._listener
        if listener is not None:
            listener.catch_up(self.timeout)

    # ---------------------------------------------------------------- finding

    def _row(self, key: str, columns: str, arguments: tuple[Any, ...] = ()) -> Row:
        """The columns of whatever stands at a key, however that is spelled.

        Args:
            key: Its names are looked for in one statement, and so at one moment.
            columns: Of the entry ``e`` and the node ``n``, with ``{s}`` for the schema.
            arguments: Of the columns.

        Raises:
            KeyError: Nothing does.
        """
        connections = self._connections
        try:
            above, name = rows.place_of(key)
        except InvalidKey:
            raise KeyError(key) from None
        query, place = (_ROOT, ()) if name is None else (_ENTRY, (above, name))
        found = connections.ask(_statement(connections.names.s, columns, query), (*arguments, *place))
        if found is None:
            raise KeyError(key)
        return found  # type: ignore[no-any-return]

    def _find(self, key: str, extra: str = "", arguments: tuple[Any, ...] = ()) -> tuple[Stat, Row]:
        """The Stat of what a key spells, and further columns."""
        row = self._row(key, COLUMNS + extra, arguments)
        stat = rows.stat_from(row, root=not key)
        if stat.is_directory != is_directory_key(key):
            raise KeyError(key)
        return stat, row[WIDTH:]

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return self._find(key)[0]

    def lookup(self, key: str) -> Stat:
        known = self._just_listed(key)
        if known is not None:
            return known.stat
        return rows.stat_from(self._row(key, COLUMNS), root=not key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        connections = self._connections
        if not is_directory_key(prefix):
            raise KeyError(prefix)
        try:
            names = rows.names_of(prefix)
        except InvalidKey:
            raise KeyError(prefix) from None
        version = self._listed.version()
        page = connections.ask_all(_listed(connections.names.s, "{s}.directory(%s::bytea[])"), (names, b""))
        if page[0][-1] is None:
            raise KeyError(prefix)
        while True:
            # In an empty directory there is one row, of no entry.
            entries = [(rows.decoded(row[WIDTH]), rows.stat_from(row), row[WIDTH + 1]) for row in page if row[WIDTH] is not None]
            if self._hears_others():
                self._listed.put(version, {prefix + name: (stat, has_xattrs) for name, stat, has_xattrs in entries})
            yield from ((name, stat) for name, stat, _ in entries)
            if len(page) < PAGE:
                return
            version = self._listed.version()
            page = self._connections.ask_all(_listed(connections.names.s, "%s::bigint"), (page[0][-1], page[-1][WIDTH]))

    def get(self, key: str) -> Value:
        stat, (text, content, data) = self._find(key, ", n.metadata, n.content, n.data")
        if content is None:
            open_data: Any = functools.partial(io.BytesIO, rows.checked_data(data, stat.size))
        else:
            open_data = functools.partial(self._stream, key, stat)
        return Value(open_data, rows.metadata_from(text), stat.size, *stat.moments())

    def _stream(self, key: str, stat: Stat) -> Opened:
        opened = open_stream(self._connections, stat.file_id or 0)
        if opened is None:
            raise KeyError(key)
        return opened

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return selected(rows.metadata_from(self._find(key, ", n.metadata")[1][0]), select)

    def read(self, key: str, offset: int, size: int) -> bytes:
        stat, (_, data) = self._find(key, f", {PART}", (offset, offset + size))
        return checked_part(data, stat.size, offset, size)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        known = self._just_listed(key.removesuffix("/"))
        if known is not None and not known.has_xattrs and known.stat.is_directory == is_directory_key(key):
            return {}
        return rows.xattrs_from(self._find(key, ", n.xattrs")[1][0])

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        names = None if select is None else list(select)
        for key, metadata in matching(self._connections, kwargs):
            yield key, selected(metadata, names)

    def check(self) -> Iterator[str]:
        """The same, of all that is in the tables."""
        from joinfs.stores.postgres_checking import broken_rules  # noqa: PLC0415

        yield from broken_rules(self._connections)

    def usage(self) -> Usage:
        """The same: a server does not tell how much room it has, so there are no bounds."""
        self._check_connected()
        return Usage()

    def sync(self, key: str | None = None) -> None:
        """The same: what was answered is durable by then."""
        self._check_connected()


@functools.cache
def _statement(schema: str, columns: str, place: str) -> str:
    return f"SELECT {columns} FROM {place} LEFT JOIN {{s}}.node n ON n.id = e.node".format(s=schema)


@functools.cache
def _listed(schema: str, which: str) -> str:
    return _LISTED.replace("{which}", which).format(s=schema)


def check_found(row: Row | None) -> Row:
    """A row that a function always answers."""
    if row is None:
        raise CorruptStore("the functions beside the tables are not joinfs's")
    return row
