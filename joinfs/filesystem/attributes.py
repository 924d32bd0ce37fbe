"""What the kernel is told about a node, and how its inode number comes about."""

from collections.abc import Container
from hashlib import blake2b
from typing import NamedTuple

from joinfs.stores import Stat

ROOT_INO = 1
BLOCK = 512


class Attributes(NamedTuple):
    """The attributes of a node; times in nanoseconds, ``blocks`` of 512 bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    birth: int
    blksize: int = 4096


def attributes_of(ino: int, stat: Stat, nlink: int) -> Attributes:
    """The attributes of a node with this inode number and link count.

    A directory's link count is 1, which find(1) and others read as "subdirectories not counted"; counting
    them would cost a listing of every directory that is looked at.
    """
    return Attributes(
        ino,
        stat.mode,
        nlink,
        stat.uid,
        stat.gid,
        stat.rdev,
        stat.size,
        -(-stat.size // BLOCK),
        stat.atime,
        stat.mtime,
        stat.ctime,
        stat.birth,
    )


def inode_number(key: str, stat: Stat, taken: Container[int] = ()) -> int:
    """A number of 64 bits for what stands at ``key``, the same whenever and wherever it is asked.

    It is made of the key; where several keys share a file, of the store's number for that file.

    Args:
        key: The key, in the spelling of its kind.
        stat: Its attributes.
        taken: Numbers that other nodes have; the next free one of the row is answered.
    """
    number = stat.linked_id
    if number is None:
        return number_of_key(hashed(key.removesuffix("/")), "", taken)
    return _free(int.from_bytes(blake2b(f"file {number}".encode(), digest_size=8).digest(), "big"), taken)


def hashed(prefix: str) -> bytes:
    """What ``number_of_key`` wants of the beginning of a key, to be used for all the names in a directory."""
    return b"key " + prefix.encode("utf-8", "surrogateescape")


def number_of_key(prefix: bytes, name: str, taken: Container[int]) -> int:
    """The number of what stands at a key that begins with ``prefix`` and goes on with ``name``; see ``inode_number``."""
    number = int.from_bytes(blake2b(prefix + name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return number if number > ROOT_INO and number not in taken else _free(number, taken)


def _free(number: int, taken: Container[int]) -> int:
    while number <= ROOT_INO or number in taken:
        number = (number + 1) % (1 << 64)
    return number
