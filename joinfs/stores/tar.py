"""A tar archive, compressed or not, as a store that takes no writes."""

import contextlib
import functools
import os
import sqlite3
import stat as stat_module
import tarfile
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, BinaryIO

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores.archive_index import ArchiveIndex, Ranges, open_index, ranges_of, shown
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.random_access import PlainFile, RandomAccess, Reader, Window, decompressed, open_file
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import MEBIBYTE, NANOSECONDS, READ_ONLY, Metadata, RangeStream, Stat, Value

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


class TarStore(Store):
    """A tar archive: plain, or compressed with gzip, bzip2, xz or (with an extra) zstd.

    Members have the modes, owners, times, symlinks, hard links, devices and attributes that the archive
    tells of; ``user.`` attributes are metadata. A later member replaces an earlier one of its name, as when
    it is unpacked. ``./a`` is ``a``; other odd names, absolute ones and ``..`` among them, are spelled as in
    :mod:`joinfs.stores.escape`.

    Where each member is is found out once and kept for the next time, in the user's cache directory. Any
    range is read without reading what is before it, in bounded memory; see ``random_access`` for what a
    compressed archive costs.

    Args:
        path: The archive.
        event_manager: As for ``Store``.
        read_only: There for symmetry: the store takes no writes anyway.
        part: ``(offset, bytes)`` of the archive in the file, if it is not all of it.
    """

    capabilities = READ_ONLY._replace(hard_links=True, xattrs=True)

    def __init__(
        self,
        path: str | os.PathLike[str],
        event_manager: Any = None,
        read_only: bool = True,
        part: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(event_manager)
        self._part = part
        self.path = os.path.abspath(path)
        self.name = f"tar:{os.fspath(path)}"
        self._file: RandomAccess | None = None
        self._index: SQLiteStore | None = None

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        file = open_file(self.path)
        try:
            if self._part is not None:
                file = Window(file, *self._part)
            file = decompressed(file, self.name)
            part = "" if self._part is None else f"{self._part[0]}+{self._part[1]}"
            self._index = open_index(self.path, part, self.name, functools.partial(self._build, file))
        except BaseException:
            file.close()
            raise
        self._file = file

    def disconnect(self) -> None:
        if self._index is not None:
            self._index.disconnect()
        if self._file is not None:
            self._file.close()
        self._index = self._file = None

    def is_connected(self) -> bool:
        return self._file is not None and self._index is not None and self._index.is_connected()

    def _opened(self) -> tuple[SQLiteStore, RandomAccess]:
        if self._index is None or self._file is None:
            self._check_connected()
        return self._index, self._file  # type: ignore[return-value]

    def inner(self, key: str) -> "TarStore":
        """Answer the archive that is the data of ``key``, read where it is; not connected.

        Raises:
            KeyError: The key is not there.
            Unsupported: It is not in one piece, because this archive is compressed, or the file is sparse.
        """
        stat = self.stat(key)
        ranges = self._ranges(stat)
        if len(ranges) != 1 or not isinstance(self._file, PlainFile):
            raise Unsupported(f"{key!r} cannot be read where it is in {self.path}; decompress that first")
        return TarStore(self.path, part=ranges[0][1:])

    # ---------------------------------------------------------------- the index

    def _build(self, file: RandomAccess, db: sqlite3.Connection) -> None:
        native = os.stat(self.path)
        modified = native.st_mtime_ns
        implied = Stat(DEFAULT_DIRECTORY_MODE, 0, native.st_uid, native.st_gid, 0, modified, modified, modified, modified)
        index = ArchiveIndex(db, implied)
        try:
            for member in _members(file, self.name):
                _take_in(index, member)
        except _DAMAGE as error:
            raise CorruptStore(f"{self.path} is not a tar archive, or a damaged one: {error}") from error

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return shown(self._opened()[0].stat(key))

    def lookup(self, key: str) -> Stat:
        return shown(self._opened()[0].lookup(key))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return ((name, shown(stat)) for name, stat in self._opened()[0].list(prefix))

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self._opened()[0].get_metadata(key, select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        return self._opened()[0].get_xattrs(key)

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        return self._opened()[0].query(select, **kwargs)

    def get(self, key: str) -> Value:
        index, _ = self._opened()
        stat = index.stat(key)
        return Value(lambda: self._stream(key, stat), index.get_metadata(key), stat.size, *stat.moments())

    def _stream(self, key: str, stat: Stat) -> BinaryIO:
        index, _ = self._opened()
        if not stat.is_file:
            return index.get_data(key)
        ranges = self._ranges(stat)
        return RangeStream.open(lambda offset, size: self._read(ranges, stat.size, offset, size), stat.size)

    def _ranges(self, stat: Stat) -> Ranges:
        index, _ = self._opened()
        if not stat.size or stat.file_id is None:
            return []
        with index._reading() as db:
            return ranges_of(db, stat.file_id)

    def read(self, key: str, offset: int, size: int) -> bytes:
        index, _ = self._opened()
        stat = index.stat(key)
        if not stat.is_file:
            return index.read(key, offset, size)
        return self._read(self._ranges(stat), stat.size, offset, size)

    def _read(self, ranges: Ranges, total: int, offset: int, size: int) -> bytes:
        """A range of a file; between the ranges that are in the archive are zeros."""
        _, file = self._opened()
        end = min(offset + size, total)
        if offset >= end:
            return b""
        data = bytearray(end - offset)
        for start, place, length in ranges:
            first, last = max(start, offset), min(start + length, end)
            if first < last:
                piece = file.read_at(place + first - start, last - first)
                if len(piece) < last - first:
                    raise CorruptStore(f"{self.name} is damaged: it ends too early")
                data[first - offset : last - offset] = piece
        return bytes(data)


def _members(file: RandomAccess, name: str) -> Iterator[tarfile.TarInfo]:
    """The members in their order; none is remembered."""
    reader = Reader(file, name, MOST_HEADER)
    with contextlib.closing(
        tarfile.open(fileobj=reader, mode="r:", encoding="utf-8", errors="surrogateescape")
    ) as archive:
        kept: list[tarfile.TarInfo] = archive.members  # type: ignore[attr-defined]
        while (member := archive.next()) is not None:
            kept.clear()
            yield member


def _take_in(index: ArchiveIndex, member: tarfile.TarInfo) -> None:
    parts = _parts(member.name)
    metadata, xattrs = _attributes(member)
    stat = _stat_of(member)
    if member.isdir():
        index.put_directory(parts, stat, metadata, xattrs)
    elif not parts:
        return  # a value that is called like the root: unpacking it fails
    elif not member.islnk() or not index.link(parts, _parts(member.linkname)):
        index.put(parts, stat, _content(member), metadata, xattrs)


def _parts(name: str) -> list[str]:
    """The components of a member's name, without those that are ``.``; the root has none."""
    return [part for part in name.removesuffix("/").split("/") if part != "."] if name else []


def _content(member: tarfile.TarInfo) -> bytes | Ranges:
    if member.issym():
        return member.linkname.encode("utf-8", "surrogateescape")
    if not _is_file(member):
        return b""
    if member.sparse is None:
        return [(0, member.offset_data, member.size)]
    ranges, place = [], member.offset_data
    sparse: Any = member.sparse
    for start, length in sparse:
        if length:
            ranges.append((start, place, length))
        place += length
    return ranges


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
