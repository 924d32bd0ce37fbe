"""The kernel's FUSE protocol as data: what requests look like, and replies, and what can be agreed on.

Nothing else in joinfs knows bytes. ``requests`` answers the table of what the kernel may send: for each
opcode a verb, and a parser that makes its arguments of what follows the header. What is answered is packed
by the functions below, one for each shape of reply.

See Also:
    include/uapi/linux/fuse.h (protocol 7.31 to 7.45); fuse(4).
"""

import enum
import os
import stat as stat_module
import struct
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

from joinfs.filesystem.attributes import Attributes
from joinfs.filesystem.operations import NOW, ListedNode
from joinfs.stores import Usage

MAJOR: Final = 7
OLDEST_MINOR: Final = 31
NEWEST_MINOR: Final = 45
EPOCH_MINOR: Final = 44
NANOSECONDS = 1_000_000_000
MOST_BYTES = 1 << 20
PAGE = 4096

# What the kernel puts before each request: length, opcode, unique, node, uid, gid, pid, extensions (8 bytes each).
IN_HEADER = Struct("=IIQQIIIHxx")
# What we put before each reply: length, error (negative) or notification code, unique (0 in notifications).
OUT_HEADER = Struct("=IiQ")
# One request at its largest, with room for what goes before the data of a write.
BUFFER_SIZE = MOST_BYTES + PAGE


class Malformed(ValueError):
    """A request that is not of the shape that its opcode has."""


class Init(enum.IntFlag):
    """What is agreed on in INIT; the names are those of ``FUSE_*`` in the kernel's header."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37


class Open:
    """How an open file behaves; ``FOPEN_*``. Plain numbers, as they are put together for every file that is opened."""

    DIRECT_IO: Final = 1 << 0
    KEEP_CACHE: Final = 1 << 1
    NOFLUSH: Final = 1 << 5
    PASSTHROUGH: Final = 1 << 7


class Notify(enum.IntEnum):
    """What we tell the kernel unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    DELETE = 6
    INC_EPOCH = 8


# Of the flags of WRITE, OPEN and SETATTR.
WRITE_CACHE = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
GETATTR_HANDLE = 1 << 0
FSYNC_DATA = 1 << 0
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME, _HANDLE, _ATIME_NOW, _MTIME_NOW = (1 << bit for bit in range(9))
_CTIME, _KILL_SUIDGID = 1 << 10, 1 << 11
_ACL_KILL_SGID = 1 << 0


# -------------------------------------------------------------------- requests


class Request(NamedTuple):
    """What the kernel may send under one opcode.

    Attributes:
        verb: The name of what answers it.
        parse: Makes the verb's arguments of what follows the header.
        replies: Whether the kernel waits for an answer.
    """

    verb: str
    parse: Callable[[memoryview], tuple[Any, ...]]
    replies: bool = True


def _fixed(fields: str) -> Callable[[memoryview], tuple[Any, ...]]:
    """Numbers only; what newer kernels append is not looked at."""
    return Struct("=" + fields).unpack_from


def _nothing(_body: memoryview) -> tuple[Any, ...]:
    return ()


def text(raw: bytes) -> str:
    """A name as stores have it."""
    return raw.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """A name as the kernel has it."""
    return name.encode("utf-8", "surrogateescape")


def _strings(data: bytes, count: int) -> list[bytes]:
    """The NUL-terminated strings that a request ends in."""
    found = data.split(b"\0", count)[:-1]
    if len(found) != count:
        raise Malformed("a name does not end")
    return found


def _name(body: memoryview) -> tuple[str]:
    data = bytes(body)
    end = data.find(b"\0")
    if end < 0:
        raise Malformed("a name does not end")
    return (data[:end].decode("utf-8", "surrogateescape"),)


def _two_names(body: memoryview) -> tuple[Any, ...]:
    first, second = _strings(bytes(body), 2)
    return text(first), text(second)


def _symlink(body: memoryview) -> tuple[Any, ...]:
    name, target = _strings(bytes(body), 2)
    return text(name), target


def _numbers_then_names(fields: str, count: int) -> Callable[[memoryview], tuple[Any, ...]]:
    shape = Struct("=" + fields)

    def parse(body: memoryview) -> tuple[Any, ...]:
        numbers = shape.unpack_from(body)
        return (*numbers, *map(text, _strings(bytes(body[shape.size :]), count)))

    return parse


_WRITE = Struct("=QQII8xI4x")


def _write(body: memoryview) -> tuple[Any, ...]:
    handle, offset, size, flags, _ = _WRITE.unpack_from(body)
    data = body[_WRITE.size : _WRITE.size + size]
    if len(data) != size:
        raise Malformed(f"a write of {size} bytes has {len(data)}")
    return handle, offset, data, flags


def _setxattr(fields: str) -> Callable[[memoryview], tuple[Any, ...]]:
    shape = Struct("=" + fields)

    def parse(body: memoryview) -> tuple[Any, ...]:
        size, flags, *more = shape.unpack_from(body)
        name, ends, value = bytes(body[shape.size :]).partition(b"\0")
        if not ends:
            raise Malformed("a name does not end")
        if len(value) != size:
            raise Malformed(f"an attribute of {size} bytes has {len(value)}")
        return text(name), value, flags, bool(more and more[0] & _ACL_KILL_SGID)

    return parse


_SETATTR = Struct("=I4xQQ8xQQQIIII4xII4x")


def _moment(valid: int, given: int, is_now: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & given:
        return None
    if valid & is_now:
        return NOW
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * NANOSECONDS + nanoseconds


def _setattr(body: memoryview) -> tuple[Any, ...]:
    valid, handle, size, atime, mtime, _, atime_ns, mtime_ns, _, mode, uid, gid = _SETATTR.unpack_from(body)
    changes = {
        "mode": mode & 0o7777 if valid & _MODE else None,
        "uid": uid if valid & _UID else None,
        "gid": gid if valid & _GID else None,
        "size": size if valid & _SIZE else None,
        "atime": _moment(valid, _ATIME, _ATIME_NOW, atime, atime_ns),
        "mtime": _moment(valid, _MTIME, _MTIME_NOW, mtime, mtime_ns),
        "handle": handle if valid & _HANDLE else None,
        "kill_suidgid": bool(valid & _KILL_SUIDGID),
    }
    if valid & ~_HANDLE == _MTIME | _CTIME:
        changes["keeps_times"] = True
    return (changes,)


_COUNT = Struct("=I4x")
_ONE = Struct("=QQ")


def _forgets(body: memoryview) -> tuple[Any, ...]:
    (count,) = _COUNT.unpack_from(body)
    whole = body[_COUNT.size : _COUNT.size + count * _ONE.size]
    if len(whole) != count * _ONE.size:
        raise Malformed(f"{count} nodes to forget do not fit")
    return (list(_ONE.iter_unpack(whole)),)


_INIT = Struct("=IIII")
_FLAGS2 = Struct("=I")


def _init(body: memoryview) -> tuple[Any, ...]:
    major, minor, readahead, flags = _INIT.unpack_from(body)
    if flags & Init.INIT_EXT and len(body) >= _INIT.size + _FLAGS2.size:
        flags |= _FLAGS2.unpack_from(body, _INIT.size)[0] << 32
    return major, minor, readahead, flags


INIT: Final = 26
INTERRUPT: Final = 36
# What is not here is answered with ENOSYS: of IOCTL and POLL, of the locks (GETLK, SETLK, SETLKW) and of BMAP that means
# that the kernel sees to it by itself.
_PLAIN: dict[int, Request] = {
    1: Request("lookup", _name),
    2: Request("forget", _fixed("Q"), replies=False),
    3: Request("getattr", _fixed("I4xQ")),
    4: Request("setattr", _setattr),
    5: Request("readlink", _nothing),
    6: Request("symlink", _symlink),
    8: Request("mknod", _numbers_then_names("III4x", 1)),
    9: Request("mkdir", _numbers_then_names("II", 1)),
    10: Request("unlink", _name),
    11: Request("rmdir", _name),
    12: Request("rename", _numbers_then_names("Q", 2)),
    13: Request("link", _numbers_then_names("Q", 1)),
    14: Request("open", _fixed("II")),
    15: Request("read", _fixed("QQI")),
    16: Request("write", _write),
    17: Request("statfs", _nothing),
    18: Request("release", _fixed("Q")),
    20: Request("fsync", _fixed("QI4x")),
    21: Request("setxattr", _setxattr("II")),
    22: Request("getxattr", _numbers_then_names("I4x", 1)),
    23: Request("listxattr", _fixed("I4x")),
    24: Request("removexattr", _name),
    25: Request("flush", _fixed("Q")),
    INIT: Request("init", _init),
    27: Request("opendir", _nothing),
    28: Request("readdir", _fixed("QQI")),
    29: Request("releasedir", _nothing),
    30: Request("fsyncdir", _fixed("8xI4x")),
    34: Request("access", _fixed("I4x")),
    35: Request("create", _numbers_then_names("IIII", 1)),
    INTERRUPT: Request("interrupt", _fixed("Q"), replies=False),
    38: Request("destroy", _nothing),
    42: Request("batch_forget", _forgets, replies=False),
    43: Request("fallocate", _fixed("QQQI4x")),
    44: Request("readdirplus", _fixed("QQI")),
    45: Request("rename2", _numbers_then_names("QI4x", 2)),
    46: Request("lseek", _fixed("QQI4x")),
    47: Request("copy_file_range", _fixed("QQQQQQ")),
    50: Request("syncfs", _nothing),
    51: Request("tmpfile", _numbers_then_names("IIII", 1)),
    52: Request("statx", _fixed("I4xQ")),
    53: Request("copy_file_range_64", _fixed("QQQQQQ")),
}


def requests(agreed: Init) -> dict[int, Request]:
    """Answer what the kernel may send once these flags were agreed on, by opcode."""
    if agreed & Init.SETXATTR_EXT:
        return {**_PLAIN, 21: Request("setxattr", _setxattr("IIII"))}
    return dict(_PLAIN)


def arguments(request: Request, body: memoryview) -> tuple[Any, ...]:
    """Answer the arguments of a request.

    Raises:
        Malformed: It is not of its shape.
    """
    try:
        return request.parse(body)
    except struct.error as error:
        raise Malformed(str(error)) from None


# -------------------------------------------------------------------- replies


class Agreement(NamedTuple):
    """What INIT ended in.

    Attributes:
        minor: The protocol's minor version that both sides speak.
        flags: What both sides do.
        readahead: Bytes that the kernel may read ahead.
    """

    minor: int
    flags: Init
    readahead: int


_INIT_REPLY = Struct("=IIIIHHIIHHII24x")
MOST_BACKGROUND = 64


def init(agreed: Agreement) -> bytes:
    """The answer to INIT."""
    low, high = agreed.flags & 0xFFFFFFFF, agreed.flags >> 32
    pages = MOST_BYTES // PAGE
    depth = 1 if agreed.flags & Init.PASSTHROUGH else 0
    congested = MOST_BACKGROUND * 3 // 4
    return _INIT_REPLY.pack(
        MAJOR, agreed.minor, agreed.readahead, low, MOST_BACKGROUND, congested, MOST_BYTES, 1, pages, 0, high, depth
    )


def other_major() -> bytes:
    """The answer to INIT of a kernel with a newer protocol, which then begins anew with ours."""
    return _INIT_REPLY.pack(MAJOR, NEWEST_MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class Ttl(NamedTuple):
    """How long the kernel may believe something."""

    seconds: int
    nanoseconds: int

    @classmethod
    def of(cls, seconds: float) -> "Ttl":
        """The same of a number of seconds."""
        whole = int(seconds)
        return cls(whole, int((seconds - whole) * NANOSECONDS))


_ATTRIBUTES = "QQQqqqIIIIIIIIII"
_ENTRY = Struct("=QQQQII" + _ATTRIBUTES)
_ATTR_REPLY = Struct("=QI4x" + _ATTRIBUTES)
_NO_NODE = Struct("=QQQQII88x")
_ENTRY_IN_LISTING = Struct("=QQQQII" + _ATTRIBUTES + "QQII")


def _fields(a: Attributes) -> tuple[int, ...]:
    ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, _, blksize = a
    atime, atime_ns = divmod(atime, NANOSECONDS)
    mtime, mtime_ns = divmod(mtime, NANOSECONDS)
    ctime, ctime_ns = divmod(ctime, NANOSECONDS)
    # Within 32 bits, which is all that a device number here can be, the kernel's encoding is the C library's.
    rdev &= 0xFFFFFFFF
    return ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev, blksize, 0


def entry(node: int, attributes: Attributes, name_ttl: Ttl, attr_ttl: Ttl) -> bytes:
    """A node that the kernel is told of, with its attributes."""
    return _ENTRY.pack(node, 0, name_ttl[0], attr_ttl[0], name_ttl[1], attr_ttl[1], *_fields(attributes))


def no_entry(ttl: Ttl) -> bytes:
    """That nothing is there, to be believed for a while."""
    return _NO_NODE.pack(0, 0, ttl[0], 0, ttl[1], 0)


def attr(attributes: Attributes, ttl: Ttl) -> bytes:
    """A node's attributes."""
    return _ATTR_REPLY.pack(*ttl, *_fields(attributes))


_STATX = Struct("=QI4x16xIIQIIIHxxQQQQqI4xqI4xqI4xqI4xIIII112x")
STATX_BASIC, STATX_BTIME = 0x7FF, 0x800


def statx(a: Attributes, ttl: Ttl) -> bytes:
    """A node's attributes with its time of birth, if that is known."""
    mask = STATX_BASIC | (STATX_BTIME if a.birth else 0)
    times = [part for moment in (a.atime, a.birth, a.ctime, a.mtime) for part in divmod(moment, NANOSECONDS)]
    return _STATX.pack(
        *ttl, mask, a.blksize, 0, a.nlink, a.uid, a.gid, a.mode, a.ino, a.size, a.blocks, 0, *times, os.major(a.rdev), os.minor(a.rdev), 0, 0
    )


_OPEN_REPLY = Struct("=QIi")


def opened(handle: int, flags: int, backing: int = 0) -> bytes:
    """An open file: its handle, ``Open`` flags and, with ``PASSTHROUGH``, the backing file."""
    return _OPEN_REPLY.pack(handle, flags, backing)


_WRITTEN = Struct("=I4x")
_OFFSET = Struct("=Q")


def written(count: int) -> bytes:
    """How many bytes were written; also how large an extended attribute, or all their names, would be."""
    return _WRITTEN.pack(count)


def offset(value: int) -> bytes:
    """Where the next data or hole is; also how many bytes were copied."""
    return _OFFSET.pack(value)


_STATFS = Struct("=QQQQQIII28x")


def statfs(usage: Usage) -> bytes:
    """How much room there is."""
    return _STATFS.pack(
        usage.blocks, usage.blocks_free, usage.blocks_available, usage.files, usage.files_free, usage.block_size, 255, usage.block_size
    )


_DIRENT = Struct("=QQII")
_PADDING = [b"\0" * (-length % 8) for length in range(8)]


def dirent(ino: int, position: int, mode: int, name: bytes) -> bytes:
    """One entry of a listing; ``position`` is where the listing goes on after it."""
    return _DIRENT.pack(ino, position, len(name), stat_module.S_IFMT(mode) >> 12) + name + _PADDING[len(name) % 8]




def direntplus(entry: ListedNode, name_ttl: Ttl, attr_ttl: Ttl) -> bytes:
    """One entry of a listing with its node.

    ``_fields``, ``entry`` and ``dirent`` in one: this is done for every name that anybody walks over.
    """
    name, ino, position, node, stat, _ = entry
    mode, size, uid, gid, rdev, atime, mtime, ctime, _, nlink = stat[:10]
    atime, atime_ns = divmod(atime, NANOSECONDS)
    mtime, mtime_ns = divmod(mtime, NANOSECONDS)
    ctime, ctime_ns = divmod(ctime, NANOSECONDS)
    encoded = name.encode("utf-8", "surrogateescape")
    length = len(encoded)
    return (
        _ENTRY_IN_LISTING.pack(
            node, 0, name_ttl[0], attr_ttl[0], name_ttl[1], attr_ttl[1],
            ino, size, (size + 511) >> 9, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid,
            rdev & 0xFFFFFFFF, PAGE, 0,
            ino, position, length, mode >> 12,
        )
        + encoded
        + _PADDING[length % 8]
    )  # fmt: skip


def direntplus_size(name: str) -> int:
    """How many bytes the entry of a name takes in a listing with nodes."""
    length = len(name) if name.isascii() else len(raw(name))
    return _ENTRY.size + _DIRENT.size + length + -length % 8


def nodes_in(verb: str, reply: bytes) -> Iterator[int]:
    """Yield the nodes that the kernel is told of in a reply."""
    if verb == "lookup" and reply:
        yield from _known(reply, 0)
    place = 0
    while verb == "readdirplus" and place < len(reply):
        yield from _known(reply, place)
        length = _DIRENT.unpack_from(reply, place + _ENTRY.size)[2]
        place += _ENTRY.size + _DIRENT.size + length + -length % 8


def _known(reply: bytes, place: int) -> Iterator[int]:
    (node,) = _OFFSET.unpack_from(reply, place)
    if node:
        yield node


# -------------------------------------------------------------------- notifications


_INVAL_INODE = Struct("=Qqq")
_INVAL_ENTRY = Struct("=QII")
_DELETE = Struct("=QQI4x")
_STORE = Struct("=QQI4x")


def _notification(code: Notify, body: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), code, 0) + body


def inval_inode(node: int, data: bool = True) -> bytes:
    """Have the kernel believe nothing of a node's attributes any more, nor (``data``) of its data."""
    return _notification(Notify.INVAL_INODE, _INVAL_INODE.pack(node, 0 if data else -1, 0))


def store(node: int, data: bytes) -> bytes:
    """Give the kernel the data of a node from its beginning on."""
    return _notification(Notify.STORE, _STORE.pack(node, 0, len(data)) + data)


def inval_entry(parent: int, name: str) -> bytes:
    """Have the kernel look up a name in a directory anew."""
    encoded = raw(name)
    return _notification(Notify.INVAL_ENTRY, _INVAL_ENTRY.pack(parent, len(encoded), 0) + encoded + b"\0")


def delete(parent: int, child: int, name: str) -> bytes:
    """Tell the kernel that a name in a directory, which was this node's, is gone."""
    encoded = raw(name)
    return _notification(Notify.DELETE, _DELETE.pack(parent, child, len(encoded)) + encoded + b"\0")


def inc_epoch() -> bytes:
    """Have the kernel look up every name anew. From protocol 7.44 on; older kernels do not know it."""
    return _notification(Notify.INC_EPOCH, b"")
