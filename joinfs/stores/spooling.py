"""A stream taken in whole before a store is changed: what breaks off has changed nothing then."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from joinfs.stores.value import binary
from joinfs.stores.whole import is_plain_file


def at_hand(data: BinaryIO | None, buffer_size: int) -> contextlib.AbstractContextManager[BinaryIO | None]:
    """A stream that keeps nobody waiting: itself if it is in memory or a plain file, else ``spooled``."""
    if data is None or isinstance(data, io.BytesIO) or is_plain_file(data):
        return contextlib.nullcontext(data)
    return spooled(data, buffer_size)


@contextlib.contextmanager
def spooled(data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO]:
    """All that a stream gives, at its beginning: in memory up to ``buffer_size`` bytes, else in an unnamed temporary file.

    Raises:
        TypeError, BlockingIOError: As ``binary``.
    """
    with tempfile.SpooledTemporaryFile(buffer_size) as spool:
        while data is not None and (piece := binary(data.read(buffer_size))):
            spool.write(piece)
        spool.seek(0)
        yield spool  # type: ignore[misc]
