"""The members of a tar archive, one after another, as GNU tar takes them where Python's tarfile does not.

tarfile passes over some damage, and takes for POSIX's ``prefix`` what others have at its place.

See Also:
    "Basic Tar Format" in the manual of GNU tar; tar(5) of libarchive; pax in POSIX.
"""

import contextlib
import tarfile
from collections.abc import Iterator
from typing import Any, Self

from joinfs.errors import CorruptStore
from joinfs.stores.random_access import RandomAccess, Reader
from joinfs.stores.value import MEBIBYTE

Sparse = list[tuple[int, int]]
# No honest header has more: the kernel allows 64 KiB of attributes to a file, and 4 KiB to a path.
MOST_HEADER = 4 * MEBIBYTE
# What GNU tar has beside the types of POSIX: a directory with a list of what is in it, the archive's name, the rest of a file.
_GNU_DIRECTORY, _GNU_LABEL, _GNU_CONTINUED = b"D", b"V", b"M"
_CHECKSUM, _TYPE, _MAGIC = slice(148, 156), slice(156, 157), slice(257, 265)
_DEVICE, _PREFIX = slice(329, 345), slice(345, 500)
_OF_STAR, _STAR_TIMES = slice(508, 512), slice(476, 500)
_NUMBERS = ("size", "uid", "gid", "GNU.sparse.size", "GNU.sparse.realsize")


class _Header(tarfile.TarInfo):
    """A member."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        """The same, of what means something in a block; and no size is below zero."""
        member = super().frombuf(_plain(bytes(buf)), encoding, errors)
        if member.size < 0:
            raise tarfile.InvalidHeaderError(f"a size of {member.size} bytes")  # type: ignore[attr-defined]
        return member


def _plain(block: bytes) -> bytes:
    """A block with zeros where what is there means nothing, and the sum to it; as it is if its sum is wrong."""
    meaningless = _meaningless(block) if len(block) == tarfile.BLOCKSIZE else []
    if not any(block[place].strip(b"\0") for place in meaningless) or not _is_summed(block):
        return block
    plain = bytearray(block)
    for place in meaningless:
        plain[place] = bytes(place.stop - place.start)
    plain[_CHECKSUM] = b" " * 8
    plain[_CHECKSUM] = b"%06o\0 " % sum(plain)
    return bytes(plain)


def _meaningless(block: bytes) -> list[slice]:
    kind, magic = block[_TYPE], block[_MAGIC]
    found = [] if kind in {tarfile.CHRTYPE, tarfile.BLKTYPE} else [_DEVICE]
    if kind == tarfile.GNUTYPE_SPARSE:
        return found  # where others have a prefix it has what is where
    if not magic.startswith(b"ustar") or magic.startswith(b"ustar  "):
        return [*found, _PREFIX]  # before there was POSIX, and as old GNU tar has it, with further times there
    return [*found, _STAR_TIMES] if block[_OF_STAR] == b"tar\0" else found


def _is_summed(block: bytes) -> bool:
    try:
        told = int(block[_CHECKSUM].strip(b" \0"), 8)
    except ValueError:
        return False
    rest = block[: _CHECKSUM.start] + b" " * 8 + block[_CHECKSUM.stop :]
    return told in {sum(rest), sum(rest) - 256 * sum(byte > 0x7F for byte in rest)}  # some have signed bytes


def members(file: RandomAccess, name: str) -> Iterator[tarfile.TarInfo]:
    """Yield the members in their order; none is remembered. Directories, whichever kind, are of type DIRTYPE.

    Args:
        file: The archive, not compressed.
        name: What messages call it.

    Raises:
        tarfile.TarError, ValueError, OverflowError, RecursionError, UnicodeError, EOFError: It is damaged, or no archive.
        CorruptStore: It has an enormous header, or begins amid a file.
    """
    reader = Reader(file, name, MOST_HEADER)
    with contextlib.closing(
        tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape", tarinfo=_Header)
    ) as archive:
        kept: list[tarfile.TarInfo] = archive.members  # type: ignore[attr-defined]
        member = None
        while (member := _next(archive, member, file)) is not None:
            kept.clear()
            _check(archive, member)
            if member.type == _GNU_CONTINUED:
                raise CorruptStore(f"{name} is not a whole archive: {member.name!r} begins in another volume; give the volumes to tar -M")
            if member.type == _GNU_DIRECTORY:
                member.type, member.name = tarfile.DIRTYPE, member.name.rstrip("/")
            if member.type != _GNU_LABEL:
                yield member


def _next(archive: tarfile.TarFile, last: tarfile.TarInfo | None, file: RandomAccess) -> tarfile.TarInfo | None:
    """The member after the last; none also where the archive ends without filling the last's block up, as umoci insert has it."""
    try:
        member = archive.next()
    except tarfile.ReadError:
        end = 0 if last is None else _end(last)
        if end and file.read_at(end - 1, 1) and not file.read_at(archive.offset - 1, 1):
            return None
        raise
    # To the library a header that is none, or is cut off, is the end.
    if member is None and file.read_at(archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"what is at byte {archive.offset} is no header")
    return member


def _end(member: tarfile.TarInfo) -> int:
    """Where the data of a member ends in the archive; 0 if it has none."""
    stored = member.size if member.sparse is None else sum(length for _, length in _pieces(member))
    return member.offset_data + stored if stored else 0


def _pieces(member: tarfile.TarInfo) -> Sparse:
    pieces: Sparse = member.sparse  # type: ignore[assignment]
    return pieces


def _check(archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Raise ``ReadError`` for what tarfile takes for something else than it is."""
    for field in _NUMBERS:
        text = member.pax_headers.get(field, "0")
        if not (text.isascii() and text.removeprefix("-").isdecimal()):
            raise tarfile.ReadError(f"{member.name!r} has the {field} {text[:40]!r}")
    if member.size < 0:
        raise tarfile.ReadError(f"{member.name!r} has the size {member.size}")
    is_odd = member.pax_headers.get("GNU.sparse.map", ",").count(",") % 2 == 0
    if is_odd or (member.sparse is not None and not _is_whole(member, archive.offset - member.offset_data)):
        raise tarfile.ReadError(f"what is said of the holes of {member.name!r} is not so")


def _is_whole(member: tarfile.TarInfo, room: int) -> bool:
    """Whether the pieces of a sparse file come one after another, within its size, and fill their room in the archive."""
    end = stored = 0
    for start, length in _pieces(member):
        if length and (start < end or length < 0):
            return False
        end, stored = start + length if length else end, stored + length  # those without length fill up a table
    return end <= member.size and room == -(-stored // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
