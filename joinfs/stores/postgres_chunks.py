"""The data of a ``PostgresStore``'s values: small ones in their node, larger ones in chunks."""

import io
import itertools
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from joinfs.stores.postgres_connections import Connections
from joinfs.stores.postgres_errors import explained
from joinfs.stores.postgres_functions import CHUNK
from joinfs.stores.postgres_rows import COLUMNS, WIDTH, checked_data, metadata_from, stat_from
from joinfs.stores.value import MEBIBYTE, Opened, RangeStream, exactly

# Up to this much stands in the node, and goes there and back with its attributes. Where it stands is told by node.data.
INLINE = 64 << 10

# Of the node n: whose chunks its data is, and the bytes from %s up to %s.
PART = "n.content, {s}.part(n.data, n.content, %s::bigint, %s::bigint)"


class Source(io.RawIOBase):
    """Data on its way into the database, in blocks of CHUNK bytes.

    It is a stream only in name: ``inline`` and ``write_chunks`` take the data.

    Attributes:
        inline: The data, if it is to stand in the node (None where there is none, too).
        small: Whether that is so, or there is no data at all.
    """

    def __init__(self, data: BinaryIO | None, buffer_size: int) -> None:
        self._step = max(1, min(buffer_size, CHUNK))
        self._rest: Iterator[bytes] = iter(()) if data is None else self._blocks(data)
        ahead = list(itertools.islice(self._rest, 1))
        self.small = not ahead or len(ahead[0]) <= INLINE
        self.inline = ahead[0] if ahead and self.small else None
        self._ahead = ahead

    def _blocks(self, data: BinaryIO) -> Iterator[bytes]:
        while block := exactly(data, CHUNK, self._step):
            yield block
            if len(block) < CHUNK:
                return

    def write_chunks(self, connection: Any, schema: str) -> tuple[int, int]:
        """Write the blocks as chunks that nobody sees yet; answer their content's number, and the bytes written.

        Args:
            connection: In a transaction.
            schema: Its name in SQL.
        """
        content = int(connection.execute(f"SELECT nextval('{schema}.content_id')").fetchone()[0])
        size = 0
        cursor = connection.cursor()
        with cursor.copy(f"COPY {schema}.chunk (content, n, data) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int8", "int4", "bytea"])
            for n, block in enumerate(itertools.chain(self._ahead, self._rest)):
                copy.write_row((content, n, block))
                size += len(block)
        return content, size


def checked_part(data: object, total: int, offset: int, size: int) -> bytes:
    """Answer up to ``size`` bytes from ``offset`` of a node of ``total`` bytes, if that is what was found."""
    return checked_data(data, max(min(size, total - offset), 0))


def open_stream(connections: Connections, node: int) -> Opened | None:
    """Answer a stream of a node's data that goes on answering it as it is now; None if the node is gone.

    More than a mebibyte is read as it is asked for, from a transaction that lasts until the stream is closed; while it lasts, the
    server keeps what was replaced. Inside a transaction of this thread, whose own writes nobody else sees, it is
    copied to a temporary file.
    """
    held = connections.held()
    query = connections.names.sql(
        f"SELECT {COLUMNS}, n.metadata, {PART} FROM (SELECT %s::bigint AS node, false AS directory) e JOIN {{s}}.node n ON n.id = e.node"
    )
    row = connections.ask(query, (0, MEBIBYTE, node))
    if row is None:
        return None
    stat, (metadata, content, data) = stat_from(row), row[WIDTH:]
    if stat.size <= MEBIBYTE:
        stream: BinaryIO = io.BytesIO(checked_data(data, stat.size))
    else:
        lasting = _copied if held is not None else _lasting
        found = lasting(connections, content, stat.size)
        if found is None:  # it was replaced meanwhile
            return open_stream(connections, node)
        stream = found
    return Opened(stream, metadata_from(metadata), stat.size, *stat.moments())


def _lasting(connections: Connections, content: int, size: int) -> BinaryIO | None:
    """A stream of chunks from a transaction of its own; None if they are gone."""
    connection = connections.take(for_stream=True)
    try:
        with explained(connections.name):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL idle_in_transaction_session_timeout = 0")
            there = connection.execute(f"SELECT 1 FROM {connections.names.s}.chunk WHERE content = %s LIMIT 1", (content,)).fetchone()
        if there is None:
            connections.give(connection)
            return None
    except BaseException:
        connection.close()
        raise

    def read(offset: int, count: int) -> bytes:
        with explained(connections.name):
            return _chunks(connection, connections.names.s, content, size, offset, count)

    return RangeStream.open(read, size, lambda: _let_go(connections, connection), MEBIBYTE)


def _let_go(connections: Connections, connection: Any) -> None:
    """End a transaction that only read. Without a word if the server is gone: it has ended then."""
    try:
        connection.execute("ROLLBACK")
    except Exception:
        connection.close()
    connections.give(connection)


def _copied(connections: Connections, content: int, size: int) -> BinaryIO | None:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    held, schema = connections.held(), connections.names.s
    with explained(connections.name):
        for offset in range(0, size, MEBIBYTE):
            file.write(_chunks(held, schema, content, size, offset, MEBIBYTE))
    file.seek(0)
    return file


def _chunks(connection: Any, schema: str, content: int, total: int, offset: int, size: int) -> bytes:
    """Answer up to ``size`` bytes from ``offset`` of a value that has ``total`` bytes in chunks."""
    end = min(offset + size, total)
    if offset >= end:
        return b""
    (found,) = connection.execute(f"SELECT {schema}.part(NULL, %s, %s, %s)", (content, offset, end), binary=True).fetchone()
    return checked_part(found, total, offset, size)
