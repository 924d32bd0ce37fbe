"""What the kernel is told about a node, and how its inode number comes about."""

from collections.abc import Container
from typing import NamedTuple

from joinfs.stores import Stat
from joinfs.stores.keys import hash_of_key

ROOT_INO = 1
MOST_INO = (1 << 64) - 1
_FAR = 0x9E3779B97F4A7C15
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

    It is the store's number for it; where the store has none, it is made of the key.

    Args:
        key: The key, in the spelling of its kind.
        stat: Its attributes.
        taken: Numbers that other nodes have; then another one is answered, which is free.
    """
    number = (hash_of_key(key) if stat.file_id is None else stat.file_id) & MOST_INO
    while number <= ROOT_INO or number in taken:
        number = (number * _FAR + 1) & MOST_INO  # not the next one: that is some other file's
    return number
