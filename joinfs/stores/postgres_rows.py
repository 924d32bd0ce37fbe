"""Rows of a ``PostgresStore``'s tables: how keys, attributes and metadata stand in them, and are read back.

Content that joinfs would not have written is reported as ``CorruptStore``.
"""

import re
import stat as stat_module
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from joinfs.errors import CorruptStore, NotRepresentable
from joinfs.stores import texts
from joinfs.stores.fields import field_of
from joinfs.stores.keys import MAX_NAME
from joinfs.stores.metadata import RESERVED
from joinfs.stores.postgres_schema import ROOT_NODE
from joinfs.stores.value import Metadata, Stat

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
COLUMNS = "n.mode, n.size, n.uid, n.gid, n.rdev, n.atime, n.mtime, n.ctime, n.birth, n.nlink, e.node, e.directory"
WIDTH = 12
MAX_LINKS = (1 << 32) - 1
MIN_TIME, MAX_TIME = -(1 << 63), (1 << 63) - 1

Row = tuple[Any, ...]
# What a NUL in a name would be refused for by itself, in text; a name is bytes.
_is_name = re.compile(rb"(?!\.{1,2}\Z)[^/\0]{1,%d}\Z" % MAX_NAME).match


def names_of(key: str) -> list[bytes]:
    """Answer the bytes of the components of a key.

    Raises:
        NotRepresentable: One has surrogates that stand for no byte.
    """
    try:
        return key.removesuffix("/").encode("utf-8", "surrogateescape").split(b"/") if key else []
    except UnicodeEncodeError as error:
        raise NotRepresentable(f"{key!r} is neither text nor bytes that stand for names") from error


def place_of(key: str) -> tuple[list[bytes], bytes | None]:
    """Answer the names of the directory that a key is in, and its own; None for the root's. Errors as for ``names_of``."""
    names = names_of(key)
    return (names[:-1], names[-1]) if names else ([], None)


def decoded(name: object) -> str:
    """Answer the component of a key for the bytes in the table, which are checked."""
    if not isinstance(name, bytes) or not _is_name(name):
        raise CorruptStore(f"an entry is called {name!r}")
    return name.decode("utf-8", "surrogateescape")


def stat_from(row: Row, *, root: bool = False) -> Stat:
    """Answer the Stat in a row of COLUMNS, which is checked."""
    if None in row[:WIDTH]:
        raise CorruptStore(f"node {row[10]!r} is missing")
    stat = Stat(*row[: WIDTH - 1])
    kind = stat_module.S_IFMT(stat.mode)
    if kind not in KINDS or stat.mode >> 16 or (kind == stat_module.S_IFDIR) != row[11]:
        raise CorruptStore(f"node {stat.file_id} has the mode {stat.mode:o}")
    if stat.size < 0 or not 1 <= stat.nlink <= MAX_LINKS or (stat.file_id == ROOT_NODE) != root:
        raise CorruptStore(f"node {stat.file_id} has the size {stat.size} and {stat.nlink} names")
    return stat


def clamped(time: int) -> int:
    """A time that fits into 64 bits: as a kernel does, the first or last that there is."""
    return min(max(time, MIN_TIME), MAX_TIME)


def checked_data(data: object, size: int) -> bytes:
    """Answer data of a node, if it is ``size`` bytes."""
    have = b"" if data is None else data
    if not isinstance(have, bytes) or len(have) != size:
        raise CorruptStore(f"a value of {size} bytes has data of another length")
    return have


# -------------------------------------------------------------------------------- metadata and xattrs


metadata_text, xattrs_text = texts.metadata_text, texts.xattrs_text


def metadata_from(text: object) -> Metadata:
    """The reverse of ``metadata_text``; the text is checked."""
    return texts.metadata_from(text, CorruptStore)


def xattrs_from(text: object) -> dict[str, bytes]:
    """The reverse of ``xattrs_text``; the text is checked."""
    return texts.xattrs_from(text, CorruptStore)


def fields_of(metadata: Mapping[str, Any]) -> list[int] | None:
    """Answer a number for each name with its value: the same for values that are equal. None if there are none.

    Raises:
        Unsupported: A value is not JSON.
    """
    numbers = [_number("\0".join(field_of(name, value))) for name, value in metadata.items() if not name.startswith(RESERVED)]
    return sorted(numbers) or None


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
