"""What stands for attributes, names and metadata in a ``RedisStore``'s keys, and in the answers of its scripts."""

import base64
import hashlib
import json
import stat as stat_module
from collections.abc import Iterator, Mapping
from typing import Any

from joinfs.errors import CorruptStore, InvalidKey
from joinfs.stores.fields import field_of
from joinfs.stores.keys import check_key, is_directory_key
from joinfs.stores.metadata import RESERVED, to_json
from joinfs.stores.redis_known import Seen
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
# Digits of a digest; and what stands in its place for what is not indexed.
DIGEST = 32
NO_DIGEST = "-" * DIGEST
MIN_TIME, MAX_TIME = -(1 << 63), (1 << 63) - 1


def bare_key(key: str) -> str:
    """Answer a place without a ``/`` at its end.

    Raises:
        KeyError: Nothing can stand at such a key.
    """
    try:
        check_key(key)
    except InvalidKey:
        raise KeyError(key) from None
    return key.removesuffix("/")


def path_of(key: str) -> bytes:
    """Answer what the scripts call a place; errors as for ``bare_key``."""
    return encoded(bare_key(key))


def spelled(key: str) -> str:
    """Answer how the scripts are told which kind a key is of."""
    return "d" if is_directory_key(key) else "f"


def encoded(text: str) -> bytes:
    """Answer the bytes of a key or name."""
    return text.encode("utf-8", "surrogateescape")


def decoded(text: bytes) -> str:
    """The reverse of ``encoded``."""
    return text.decode("utf-8", "surrogateescape")


def storable(time: int) -> int:
    """A time that fits into 64 bits: as a kernel does, the first or last that there is."""
    return min(max(time, MIN_TIME), MAX_TIME)


# ---------------------------------------------------------------- attributes


def stat_from(row: bytes) -> Stat:
    """Answer the Stat in the text that the scripts make of a node's attributes; errors as for ``seen_from``."""
    return seen_from(row).stat


def seen_from(row: bytes) -> Seen:
    """Answer all that is in that text.

    Raises:
        CorruptStore: No joinfs has written that.
    """
    try:
        mode, size, uid, gid, rdev, atime, mtime, ctime, birth, nlink, node, has = map(int, row.split())
    except (TypeError, ValueError):
        raise CorruptStore(f"a node has attributes that are no numbers: {row!r}") from None
    if stat_module.S_IFMT(mode) not in KINDS or mode >> 16 or size < 0 or nlink < 1:
        raise CorruptStore(f"node {node} has the mode {mode:o}, {size} bytes and {nlink} links")
    return Seen(Stat(mode, size, uid, gid, rdev, atime, mtime, ctime, birth, nlink, node), has)


def entries_from(page: bytes) -> list[tuple[bytes, Seen]]:
    """Answer the names and what is said of each in a page of a listing; errors as for ``seen_from``."""
    if not page:
        return []
    parts = page.split(b"/")
    return list(zip(parts[::2], map(seen_from, parts[1::2]), strict=True))


# ---------------------------------------------------------------- metadata


def digest_of(name: str, value: Any) -> str:
    """Answer under what a name and value of metadata are indexed: the same for values that are equal.

    Raises:
        Unsupported: The value is not JSON.
    """
    return hashlib.blake2b("\0".join(field_of(name, value)).encode(), digest_size=DIGEST // 2).hexdigest()


def metadata_text(metadata: Mapping[str, Any]) -> bytes:
    """Answer how the scripts are told metadata.

    Raises:
        Unsupported: It is not JSON.
    """
    parts = []
    for name, value in metadata.items():
        digest = NO_DIGEST if name.startswith(RESERVED) else digest_of(name, value)
        parts += [name, digest + to_json(value)]
    return encoded("\0".join(parts))


def metadata_from(fields: list[bytes]) -> Metadata:
    """Answer the metadata in a node's hash.

    Raises:
        CorruptStore: No joinfs has written that.
    """
    try:
        return {decoded(name): json.loads(text[DIGEST:]) for name, text in _pairs(fields)}
    except (TypeError, ValueError, RecursionError):
        raise CorruptStore(f"metadata is damaged: {fields[:4]!r}") from None


def xattr_text(value: bytes) -> bytes:
    """Answer what stands for the value of another extended attribute."""
    return b"=" + base64.b64encode(value)


def xattrs_text(xattrs: Mapping[str, bytes]) -> bytes:
    """Answer how the scripts are told extended attributes."""
    return b"\0".join(part for name, value in xattrs.items() for part in (encoded(name), xattr_text(value)))


def xattrs_from(fields: list[bytes]) -> dict[str, bytes]:
    """Answer the extended attributes in a node's hash; errors as for ``metadata_from``."""
    try:
        return {decoded(name): base64.b64decode(text.removeprefix(b"="), validate=True) for name, text in _pairs(fields)}
    except (TypeError, ValueError):
        raise CorruptStore(f"extended attributes are damaged: {fields[:4]!r}") from None


def _pairs(fields: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(fields[::2], fields[1::2], strict=True)
