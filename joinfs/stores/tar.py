"""A tar archive, compressed or not, as a store that takes no writes."""

import os
import stat as stat_module
import tarfile
from decimal import Decimal, InvalidOperation
from typing import Any

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores.archive_index import ArchiveIndex, Places, components, targets
from joinfs.stores.indexed import IndexedStore
from joinfs.stores.random_access import PlainFile, RandomAccess, decompressed
from joinfs.stores.sqlite_nodes import MAX_TIME, MIN_TIME
from joinfs.stores.tar_headers import members
from joinfs.stores.value import NANOSECONDS, READ_ONLY, Metadata, Stat

XATTR = "SCHILY.xattr."
USER = "user."
_KINDS = {
    tarfile.SYMTYPE: stat_module.S_IFLNK,
    tarfile.CHRTYPE: stat_module.S_IFCHR,
    tarfile.BLKTYPE: stat_module.S_IFBLK,
    tarfile.FIFOTYPE: stat_module.S_IFIFO,
    tarfile.DIRTYPE: stat_module.S_IFDIR,
}
_FIRST, _LAST = (Decimal(time) / NANOSECONDS for time in (MIN_TIME, MAX_TIME))
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
            for member in members(file, self.name):
                _take_in(index, member)
            index.link_late()
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


def _take_in(index: ArchiveIndex, member: tarfile.TarInfo) -> None:
    parts = components(member.name)
    metadata, xattrs = _attributes(member)
    stat = _stat_of(member)
    if member.isdir():
        index.put_directory(parts, stat, metadata, xattrs)
    elif not parts:
        return  # a value that is called like the root: unpacking it fails
    elif not member.islnk():
        index.put(parts, stat, _content(member), metadata, xattrs)
    elif not any(index.link(parts, target) for target in targets(member.linkname)):
        index.leave_out(member.name, member.linkname)


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
        _time(member, "atime", member.mtime) if "atime" in member.pax_headers else mtime,
        mtime,
        mtime,
        mtime,
    )


def _time(member: tarfile.TarInfo, field: str, otherwise: float) -> int:
    """Nanoseconds, of the extended header's decimal number if it has one; the first or last that there are if it is out of range."""
    try:
        time = Decimal(member.pax_headers[field])
        return int(min(max(time, _FIRST), _LAST) * NANOSECONDS)  # not the other way round: that takes long of 1e999999
    except (KeyError, InvalidOperation):
        return int(min(max(otherwise * NANOSECONDS, MIN_TIME), MAX_TIME))


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
