"""The data of a ``SQLiteStore``'s values: small ones in their node, larger ones in chunks."""

import functools
import io
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from joinfs.stores.sqlite_connections import Connections
from joinfs.stores.sqlite_nodes import Damaged, find_file, metadata_from
from joinfs.stores.sqlite_schema import explained
from joinfs.stores.value import MEBIBYTE, Opened, RangeStream, exactly

# Part of the file format: chunk n of a value begins at n * CHUNK.
CHUNK = 256 << 10
# Up to this much stands in the node: one row to read and write. Where it stands is told by node.data.
INLINE = 16 << 10


class Source(io.RawIOBase):
    """Data on its way into the database, in blocks of CHUNK bytes.

    Up to ``buffer_size`` bytes are read at once, so that a slow source of a value that fits into the
    buffer never makes other writers wait. It is a stream only in name: ``inline`` and ``write_chunks`` take the data.

    Attributes:
        inline: The data, if it is to stand in the node (None where there is none, too).
        small: Whether that is so, or there is no data at all.
    """

    def __init__(self, data: BinaryIO | None, buffer_size: int) -> None:
        self._step = max(1, min(buffer_size, CHUNK))
        self._rest: Iterator[bytes] = iter(()) if data is None else self._blocks(data)
        ahead = list(itertools.islice(self._rest, max(1, buffer_size // CHUNK)))
        self.small = not ahead or (len(ahead) == 1 and len(ahead[0]) <= INLINE)
        self.inline = ahead[0] if ahead and self.small else None
        self._ahead = ahead

    def _blocks(self, data: BinaryIO) -> Iterator[bytes]:
        while block := exactly(data, CHUNK, self._step):
            yield block
            if len(block) < CHUNK:
                return

    def write_chunks(self, db: sqlite3.Connection, node: int) -> int:
        """Write the blocks as the chunks of a node that has none; answer the bytes written."""
        size = 0
        for n, block in enumerate(itertools.chain(self._ahead, self._rest)):
            db.execute("INSERT INTO chunk (node, n, data) VALUES (?, ?, ?)", (node, n, block))
            size += len(block)
        return size


def read_chunks(db: sqlite3.Connection, node: int, total: int, offset: int, size: int) -> bytes:
    """Answer up to ``size`` bytes from ``offset`` of a node that has ``total`` bytes in chunks.

    ``db`` is in a transaction, so that the total is true of the chunks.
    """
    end = min(offset + size, total)
    if offset >= end:
        return b""
    first, last = offset // CHUNK, (end - 1) // CHUNK
    rows = db.execute(
        "SELECT n, id FROM chunk WHERE node = ? AND n BETWEEN ? AND ? ORDER BY n", (node, first, last)
    )
    pieces = []
    for n in range(first, last + 1):
        found, chunk = rows.fetchone() or (None, 0)
        if found != n:
            raise Damaged(f"chunk {n} of node {node} is missing")
        begin = n * CHUNK
        start, stop = max(offset - begin, 0), min(end - begin, CHUNK)
        pieces.append(_part(db, chunk, min(CHUNK, total - begin), start, stop))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _part(db: sqlite3.Connection, chunk: int, length: int, start: int, stop: int) -> bytes:
    # Measured against selecting the column, or a substr of it: half the time, since no copy of the whole
    # chunk is made on the way.
    with db.blobopen("chunk", "data", chunk, readonly=True) as blob:
        if len(blob) != length:
            raise Damaged(f"chunk {chunk} has {len(blob)} bytes instead of {length}")
        blob.seek(start)
        return blob.read(stop - start)


def checked_inline(data: object, size: int) -> bytes:
    """Answer the data that stands in a node, if it is ``size`` bytes."""
    if not isinstance(data, bytes) or len(data) != size:
        raise Damaged(f"a value of {size} bytes has data of another length")
    return data


def open_stream(connections: Connections, name: str, node: int) -> Opened | None:
    """Answer a stream of a node's data that goes on answering it as it is now; None if the node is gone.

    More than a mebibyte is read as it is asked for, from a read transaction that lasts until the stream
    is closed; while it lasts, the log beside the database cannot be cut down. Inside a transaction of this
    thread, whose own writes no other connection sees, it is copied to a temporary file.
    """
    held = connections.held()
    db = held or connections.take(for_stream=True)
    keep = False
    try:
        with explained(name):
            if held is None:
                db.execute("BEGIN")
            found = find_file(db, node, ", n.metadata, n.data")
            if found is None:
                return None
            stat, (text, inline) = found
            metadata = metadata_from(text)
            stream = _complete(db, node, stat.size, inline, copied=held is not None)
        keep = stream is None
    finally:
        if held is None and not keep:
            connections.give(db, for_stream=True)
    if stream is None:
        read = functools.partial(_read_explained, name, db, node, stat.size)
        stream = RangeStream.open(read, stat.size, functools.partial(connections.give, db, True), CHUNK)
    return Opened(stream, metadata, stat.size, *stat.moments())


def _complete(db: sqlite3.Connection, node: int, size: int, inline: object, copied: bool) -> BinaryIO | None:
    """A stream that needs the database no longer; None if there is too much data for that."""
    if size == 0 or inline is not None:
        return io.BytesIO(checked_inline(inline or b"", size))
    if size <= MEBIBYTE:
        return io.BytesIO(read_chunks(db, node, size, 0, size))
    return _copied(db, node, size) if copied else None


def _read_explained(
    name: str, db: sqlite3.Connection, node: int, total: int, offset: int, size: int
) -> bytes:
    with explained(name):
        return read_chunks(db, node, total, offset, size)


def _copied(db: sqlite3.Connection, node: int, size: int) -> BinaryIO:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    for offset in range(0, size, CHUNK):
        file.write(read_chunks(db, node, size, offset, CHUNK))
    file.seek(0)
    return file
