"""The central directory of a zip archive, read member by member: zipfile would keep a million of them in memory.

See Also:
    APPNOTE.TXT, 4.3 (the records) and 4.5 (extra fields).
"""

import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from joinfs.errors import CorruptStore
from joinfs.stores.random_access import RandomAccess
from joinfs.stores.value import NANOSECONDS

END, END_64, LOCATOR_64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_CENTRAL = struct.Struct("<4sBBHHHHHLLLHHHHHLL")
_LOCAL = struct.Struct("<4sHHHHHLLLHH")
_END = struct.Struct("<4sHHHHLLH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64_TAIL = struct.Struct("<QQQQ")  # members here, members in all, bytes and offset of the directory
_MOST_COMMENT = 0xFFFF
_BLOCK = 1 << 18
ZIP64, EXTENDED_TIMESTAMP, UNIX_OWNER = 1, 0x5455, 0x7875
UTF8_NAME = 0x800
LARGE = 0xFFFFFFFF
# What a file can have at most, as the kernel counts.
MOST_BYTES = (1 << 63) - 1


class Member(NamedTuple):
    """One entry of the central directory.

    Attributes:
        name: As it is in the archive; a directory's ends in ``/``.
        system: What made it; 3 is Unix.
        external: Attributes as that system has them: on Unix, the mode in the upper 16 bits.
        modified: Nanoseconds since the epoch.
        owner: uid and gid, if they are told.
        flags, method, crc, compressed, header: What is needed to read the data.
    """

    name: str
    comment: str
    system: int
    external: int
    modified: int
    owner: tuple[int, int] | None
    size: int
    flags: int
    method: int
    crc: int
    compressed: int
    header: int


class _Directory(NamedTuple):
    """Where the central directory is: ``start`` in the file, and how much is before the archive in the file."""

    start: int
    size: int
    before: int


def members(file: RandomAccess, length: int, name: str) -> Iterator[Member]:
    """Yield the members of an archive in the order of its directory.

    Args:
        file: The archive, which may have something else before it.
        length: Bytes of the file.
        name: What messages call it.

    Raises:
        CorruptStore: It is no zip archive, or a damaged one.
    """
    directory = _find(file, length, name)
    offset, end = directory.start, directory.start + directory.size
    block, at = b"", 0
    while at < len(block) or offset < end:
        wanted = _record_size(block, at)
        if at + wanted > len(block):
            more = file.read_at(offset, min(max(_BLOCK, wanted), end - offset))
            if not more:
                raise CorruptStore(f"{name} is not a zip archive, or a damaged one: its directory ends too early")
            block, at, offset = block[at:] + more, 0, offset + len(more)
            continue
        yield _member(block[at : at + wanted], directory.before, name)
        at += wanted


def data_offset(file: RandomAccess, header: int, name: str) -> int:
    """Answer where the data of a member begins, whose header is at an offset."""
    record = file.read_at(header, _LOCAL.size)
    if len(record) < _LOCAL.size or not record.startswith(b"PK\3\4"):
        raise CorruptStore(f"{name} is damaged: there is no member at {header}")
    *_, name_size, extra_size = _LOCAL.unpack(record)
    return header + _LOCAL.size + int(name_size) + int(extra_size)


# -------------------------------------------------------------------- the end, where it begins


def _find(file: RandomAccess, length: int, name: str) -> _Directory:
    tail_size = min(length, _END.size + _MOST_COMMENT)
    tail = file.read_at(length - tail_size, tail_size)
    at = tail.rfind(END)
    if at < 0 or len(tail) - at < _END.size:
        raise CorruptStore(f"{name} is not a zip archive, or it is cut off")
    end = length - tail_size + at
    *_, size, offset, _ = _END.unpack_from(tail, at)
    locator = file.read_at(end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(LOCATOR_64):
        end, size, offset = _find_64(file, end - _LOCATOR.size, locator, (size, offset), name)
    before = end - size - offset
    if before < 0:
        raise CorruptStore(f"{name} is not a zip archive, or a damaged one: its directory is not where it should be")
    return _Directory(end - size, size, before)


def _find_64(file: RandomAccess, end: int, locator: bytes, small: tuple[int, int], name: str) -> tuple[int, int, int]:
    """Where the directory ends, its size and its offset, by the records for what is large."""
    size_64 = 56
    # The record is where the locator says, or, if something is before the archive, just before the locator.
    for place in (int(_LOCATOR.unpack(locator)[2]), end - size_64):
        record = file.read_at(place, size_64) if place >= 0 else b""
        if len(record) == size_64 and record.startswith(END_64):
            _, _, size, offset = _END_64_TAIL.unpack_from(record, 24)
            return place, (size if small[0] == LARGE else small[0]), (offset if small[1] == LARGE else small[1])
    raise CorruptStore(f"{name} is a damaged zip archive: the end of its directory is missing")


# -------------------------------------------------------------------- one member


def _record_size(block: bytes, at: int) -> int:
    """Bytes of the record that begins at a place in a block, or of its beginning that tells."""
    if len(block) - at < _CENTRAL.size:
        return _CENTRAL.size
    name_size, extra_size, comment_size = struct.unpack_from("<HHH", block, at + 28)
    return _CENTRAL.size + int(name_size) + int(extra_size) + int(comment_size)


def _member(record: bytes, before: int, name: str) -> Member:
    if not record.startswith(b"PK\1\2"):
        raise CorruptStore(f"{name} is a damaged zip archive: its directory has something else in it")
    (_, _, system, _, flags, method, clock, date, crc, compressed, size, name_size, extra_size, _, _, _, external, header) = (
        _CENTRAL.unpack_from(record)
    )
    raw = record[_CENTRAL.size :]
    extra = dict(_fields(raw[name_size : name_size + extra_size]))
    size, compressed, header = _large(extra.get(ZIP64, b""), size, compressed, header)
    if max(size, compressed, header) > MOST_BYTES:
        raise CorruptStore(f"{name} is a damaged zip archive: it has a file of {size} bytes at {header}")
    return Member(
        _text(raw[:name_size], flags),
        raw[name_size + extra_size :].decode("utf-8", "surrogateescape"),
        system,
        external,
        _modified(date, clock, extra.get(EXTENDED_TIMESTAMP, b"")),
        _owner(extra.get(UNIX_OWNER, b"")),
        size,
        flags,
        method,
        crc,
        compressed,
        header + before,
    )


def _text(raw: bytes, flags: int) -> str:
    return raw.decode("utf-8", "surrogateescape") if flags & UTF8_NAME else raw.decode("cp437")


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields ``(kind, data)`` after a member's name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + size]
        extra = extra[4 + size :]


def _large(field: bytes, *numbers: int) -> Iterator[int]:
    """Size, compressed size and header: what does not fit into 32 bits is in a field, in this order."""
    for number in numbers:
        if number == LARGE and len(field) >= 8:
            number, field = int.from_bytes(field[:8], "little"), field[8:]  # noqa: PLW2901 - the number that is meant
        yield number


def _modified(date: int, clock: int, timestamp: bytes) -> int:
    """Nanoseconds: of the extended timestamp if there is one, else the local time of the record."""
    if len(timestamp) >= 5 and timestamp[0] & 1:
        return int(struct.unpack_from("<i", timestamp, 1)[0]) * NANOSECONDS
    day = ((date >> 9) + 1980, (date >> 5) & 15, date & 31)
    try:
        return int(time.mktime((*day, clock >> 11, (clock >> 5) & 63, (clock & 31) * 2, 0, 0, -1))) * NANOSECONDS
    except (ValueError, OverflowError):
        return 0


def _owner(field: bytes) -> tuple[int, int] | None:
    """uid and gid: a version, then each with its size before it."""
    try:
        uid_size = field[1]
        gid_size = field[2 + uid_size]
        uid, gid = field[2 : 2 + uid_size], field[3 + uid_size : 3 + uid_size + gid_size]
    except IndexError:
        return None
    return int.from_bytes(uid, "little") & 0xFFFFFFFF, int.from_bytes(gid, "little") & 0xFFFFFFFF
