"""A tar archive, compressed or not, as a store that takes no writes."""

import contextlib
import os
import stat as stat_module
import tarfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores.archive_index import ArchiveIndex, Places, components
from joinfs.stores.indexed import IndexedStore
from joinfs.stores.random_access import PlainFile, RandomAccess, Reader, decompressed
from joinfs.stores.value import MEBIBYTE, NANOSECONDS, READ_ONLY, Metadata, Stat

# No honest header has more: the kernel allows 64 KiB of attributes to a file, and 4 KiB to a path.
MOST_HEADER = 4 * MEBIBYTE
XATTR = "SCHILY.xattr."
USER = "user."
_KINDS = {
    tarfile.SYMTYPE: stat_module.S_IFLNK,
    tarfile.CHRTYPE: stat_module.S_IFCHR,
    tarfile.BLKTYPE: stat_module.S_IFBLK,
    tarfile.FIFOTYPE: stat_module.S_IFIFO,
    tarfile.DIRTYPE: stat_module.S_IFDIR,
}
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, RecursionError, UnicodeError, EOFError)


class TarStore(IndexedStore):
    """A tar archive: plain, or compressed with gzip, bzip2, xz or (with an extra) zstd.

    Members have the modes, owners, times, symlinks, hard links, devices and attributes that the archive
    tells of; ``user.`` attributes are metadata. A later member replaces an earlier one of its name, as when
    it is unpacked. ``./a`` is ``a``; other odd names, absolute ones and ``..`` among them, are spelled as in
    :mod:`joinfs.stores.escape`.

    Where each member is is found out once and kept for the next time, in the user's cache directory. Any
    range is read without reading what is before it, in bounded memory; see ``random_access`` for what a
    compressed archive costs.

    Args:
        path, event_manager, read_only, part: As for ``IndexedStore``.
    """

    capabilities = READ_ONLY._replace(hard_links=True, xattrs=True)
    scheme = "tar"

    def _uncovered(self, file: RandomAccess) -> RandomAccess:
        return decompressed(file, self.name)

    def inner(self, key: str) -> "TarStore":
        """Answer the archive that is the data of ``key``, read where it is; not connected.

        Raises:
            KeyError: The key is not there.
            Unsupported: It is not in one piece, because this archive is compressed, or the file is sparse.
        """
        stat = self.stat(key)
        places = self._places(stat)
        if len(places) != 1 or not isinstance(self._file, PlainFile):
            raise Unsupported(f"{key!r} cannot be read where it is in {self.path}; decompress that first")
        return TarStore(self.path, part=(places[0][1], places[0][2]))

    def _build(self, file: RandomAccess, index: ArchiveIndex) -> None:
        try:
            for member in _members(file, self.name):
                _take_in(index, member)
        except _DAMAGE as error:
            raise CorruptStore(f"{self.path} is not a tar archive, or a damaged one: {error}") from error

    def _read(self, file: RandomAccess, stat: Stat, places: Places, offset: int, size: int) -> bytes:
        """The same. Places are ``(offset in the file, offset in the archive, bytes)``; between them are zeros."""
        data = bytearray(size)
        for start, place, length in places:
            first, last = max(start, offset), min(start + length, offset + size)
            if first < last:
                piece = file.read_at(place + first - start, last - first)
                data[first - offset : first - offset + len(piece)] = piece
                if len(piece) < last - first:
                    return bytes(data[: first - offset + len(piece)])
        return bytes(data)


def _members(file: RandomAccess, name: str) -> Iterator[tarfile.TarInfo]:
    """The members in their order; none is remembered."""
    reader = Reader(file, name, MOST_HEADER)
    with contextlib.closing(
        tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape")
    ) as archive:
        kept: list[tarfile.TarInfo] = archive.members  # type: ignore[attr-defined]
        member = None
        while (member := _next(archive, member, file)) is not None:
            kept.clear()
            yield member


def _next(archive: tarfile.TarFile, last: tarfile.TarInfo | None, file: RandomAccess) -> tarfile.TarInfo | None:
    """The member after the last; none also where the archive ends without filling the last's block up, as umoci insert has it."""
    try:
        member = archive.next()
    except tarfile.ReadError:
        content = b"" if last is None else _content(last)
        if isinstance(content, bytes) or not content:
            raise
        _, place, length = content[-1]
        if len(file.read_at(place, length)) == length and not file.read_at(archive.offset - 1, 1):
            return None
        raise
    # To the library a header that is none, or is cut off, is the end.
    if member is None and file.read_at(archive.offset, tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"what is at byte {archive.offset} is no header")
    return member


def _take_in(index: ArchiveIndex, member: tarfile.TarInfo) -> None:
    parts = components(member.name)
    metadata, xattrs = _attributes(member)
    stat = _stat_of(member)
    if member.isdir():
        index.put_directory(parts, stat, metadata, xattrs)
    elif not parts:
        return  # a value that is called like the root: unpacking it fails
    elif not member.islnk() or not index.link(parts, components(member.linkname)):
        index.put(parts, stat, _content(member), metadata, xattrs)


def _content(member: tarfile.TarInfo) -> bytes | Places:
    if member.issym():
        return member.linkname.encode("utf-8", "surrogateescape")
    if not _is_file(member):
        return b""
    if member.sparse is None:
        return [(0, member.offset_data, member.size)]
    places: Places = []
    place = member.offset_data
    sparse: Any = member.sparse
    for start, length in sparse:
        if length:
            places.append((start, place, length))
        place += length
    return places


def _is_file(member: tarfile.TarInfo) -> bool:
    """Whether it has data: what is of no known type is a regular file, as POSIX has it."""
    return member.type not in _KINDS and not member.islnk()


def _stat_of(member: tarfile.TarInfo) -> Stat:
    kind = _KINDS.get(member.type, stat_module.S_IFREG)
    size = member.size if _is_file(member) else len(_content(member))
    mtime = _time(member, "mtime", member.mtime)
    rdev = os.makedev(member.devmajor, member.devminor) if kind in {stat_module.S_IFCHR, stat_module.S_IFBLK} else 0
    mode = 0o777 if kind == stat_module.S_IFLNK else stat_module.S_IMODE(member.mode)
    return Stat(
        kind | mode,
        size,
        member.uid & 0xFFFFFFFF,
        member.gid & 0xFFFFFFFF,
        rdev,
        _time(member, "atime", mtime / NANOSECONDS) if "atime" in member.pax_headers else mtime,
        mtime,
        mtime,
        mtime,
    )


def _time(member: tarfile.TarInfo, field: str, otherwise: float) -> int:
    """Nanoseconds, of the extended header's decimal number if it has one."""
    try:
        return int(Decimal(member.pax_headers[field]) * NANOSECONDS)
    except (KeyError, InvalidOperation, OverflowError, ValueError):
        return int(otherwise * NANOSECONDS)


def _attributes(member: tarfile.TarInfo) -> tuple[Metadata, dict[str, bytes]]:
    metadata: Metadata = {}
    xattrs = {}
    for header, text in member.pax_headers.items():
        name = header.removeprefix(XATTR)
        if name == header:
            continue
        if name.startswith(USER):
            metadata[name.removeprefix(USER)] = text
        else:
            xattrs[name] = text.encode("utf-8", "surrogateescape")
    return metadata, xattrs
