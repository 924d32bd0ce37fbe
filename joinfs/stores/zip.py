"""A zip archive as a store that takes no writes."""

import io
import os
import stat as stat_module
import threading
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

from joinfs.errors import CorruptStore, Unsupported
from joinfs.stores.archive_index import ArchiveIndex, Places
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE
from joinfs.stores.indexed import IndexedStore
from joinfs.stores.random_access import RAW, Inflated, RandomAccess, Reader, SpooledFile, Window
from joinfs.stores.value import MEBIBYTE, READ_ONLY, Metadata, Stat
from joinfs.stores.zip_directory import Member, data_offset, members

UNIX = 3
# Members that stay open, each with at most MOST_PLACES places to go on from.
MOST_OPEN = 8
MOST_PLACES = 32
MOST_PATH = 4095
# Bits of a member's flags: encrypted, a patch, strongly encrypted.
_UNREADABLE = 0x01 | 0x20 | 0x40


class ZipStore(IndexedStore):
    """A zip archive.

    Members have the modes, times, owners and symlinks that Unix archivers put into them; what has no owner
    belongs to whose the archive is. A member's comment is its metadata ``comment``. Of members with one
    name the last counts. Odd names are spelled as in :mod:`joinfs.stores.escape`.

    Args:
        path, event_manager, read_only, part: As for ``IndexedStore``.
    """

    capabilities = READ_ONLY._replace(hard_links=False, special=False)
    scheme = "zip"

    def __init__(
        self,
        path: str | os.PathLike[str],
        event_manager: Any = None,
        read_only: bool = True,
        part: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(path, event_manager, read_only, part)
        self._lock = threading.Lock()
        self._members: OrderedDict[int, _Checked] = OrderedDict()

    def disconnect(self) -> None:
        with self._lock:
            self._members.clear()
        super().disconnect()

    # ---------------------------------------------------------------- the index

    def _build(self, file: RandomAccess, index: ArchiveIndex) -> None:
        length = os.stat(self.path).st_size if self._part is None else self._part[1]
        for member in members(file, length, self.path):
            stat = _stat_of(member, self._default_owner())
            metadata: Metadata = {"comment": member.comment} if member.comment else {}
            place = (member.method, member.flags, member.header, member.compressed, member.crc)
            if stat.is_directory:
                index.put_directory(member.name[:-1].split("/"), stat, metadata, {})
            elif stat.is_symlink:
                target = self._target(file, stat, place)
                index.put(member.name.split("/"), stat._replace(size=len(target)), target, metadata, {})
            else:
                index.put(member.name.split("/"), stat, [place], metadata, {})

    def _target(self, file: RandomAccess, stat: Stat, place: tuple[int, ...]) -> bytes:
        """Where a symlink leads; nowhere, if that cannot be read."""
        try:
            return self._member(file, stat, place).read_at(0, min(stat.size, MOST_PATH))
        except (CorruptStore, Unsupported):
            return b""

    # ---------------------------------------------------------------- reading

    def _read(self, file: RandomAccess, stat: Stat, places: Places, offset: int, size: int) -> bytes:
        """The same. The place is ``(method, flags, offset of the header, bytes in the archive, CRC)``."""
        if not places or stat.file_id is None:
            return b""
        with self._lock:
            member = self._members.pop(stat.file_id, None) or self._member(file, stat, places[0])
            self._members[stat.file_id] = member
            if len(self._members) > MOST_OPEN:
                self._members.popitem(last=False)
        return member.read_at(offset, size)

    def _member(self, file: RandomAccess, stat: Stat, place: tuple[int, ...]) -> "_Checked":
        method, flags, header, compressed, crc = place
        if flags & _UNREADABLE:
            raise Unsupported(f"{self.name} has encrypted files, which cannot be read; unpack it with its password")
        window = _Shared(file, data_offset(file, header, self.name), compressed)
        data: RandomAccess
        if method == zipfile.ZIP_STORED:
            data = window
        elif method == zipfile.ZIP_DEFLATED:
            data = Inflated(window, self.name, RAW, MOST_PLACES)
        else:
            data = SpooledFile(self._unpacked(window, stat, place), window, self.name)
        return _Checked(data, stat.size, crc, self.name)

    def _unpacked(self, window: RandomAccess, stat: Stat, place: tuple[int, ...]) -> zipfile.ZipExtFile:
        """A stream of a member that is compressed in one of the rarer ways, as far as zipfile knows it."""
        info = zipfile.ZipInfo()
        info.compress_type, info.flag_bits, _, info.compress_size, info.CRC = place
        info.file_size = stat.size
        try:
            return zipfile.ZipExtFile(io.BufferedReader(Reader(window, self.name, MEBIBYTE)), "r", info, None, True)
        except (NotImplementedError, RuntimeError) as error:
            raise Unsupported(f"{self.name}: {error}") from error


class _Shared(Window):
    """A part of the archive, which stays open when this is closed."""

    def close(self) -> None:
        """Nothing is opened by this."""


class _Checked(RandomAccess):
    """A member's data. Who reads it from its beginning to its end, in whatever pieces, is told if it is not what was packed."""

    def __init__(self, data: RandomAccess, size: int, crc: int, name: str) -> None:
        self._data, self._size, self._crc, self._name = data, size, crc, name
        self._lock = threading.Lock()
        self._seen = (0, 0)

    def read_at(self, offset: int, size: int) -> bytes:
        piece = self._data.read_at(offset, size)
        with self._lock:
            end, crc = self._seen
            if offset == 0:
                end, crc = 0, 0
            if offset != end:
                return piece
            self._seen = end, crc = offset + len(piece), zlib.crc32(piece, crc)
        if end == self._size and crc != self._crc:
            raise CorruptStore(f"{self._name} is damaged: a file of {self._size} bytes is not what was packed")
        return piece

    def close(self) -> None:
        self._data.close()


def _stat_of(member: Member, owner: tuple[int, int]) -> Stat:
    mode = member.external >> 16 if member.system == UNIX else 0
    if member.name.endswith("/"):
        mode = stat_module.S_IFDIR | (stat_module.S_IMODE(mode) or DEFAULT_DIRECTORY_MODE)
    elif stat_module.S_ISLNK(mode):
        mode = stat_module.S_IFLNK | 0o777
    else:
        mode = stat_module.S_IFREG | (stat_module.S_IMODE(mode) or DEFAULT_FILE_MODE)
    time = member.modified
    return Stat(mode, member.size, *(member.owner or owner), 0, time, time, time, time)
