"""A zip archive as a store that takes no writes."""

import contextlib
import io
import os
import stat as stat_module
import struct
import threading
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO

from joinfs.errors import CorruptStore, StoreUnavailable, Unsupported
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE, Store
from joinfs.stores.escape import escape
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.value import NANOSECONDS, READ_ONLY, Metadata, Stat, Value

UNIX = 3
MOST_STREAMS = 8
EXTENDED_TIMESTAMP = 0x5455
UNIX_OWNER = 0x7875
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, struct.error, ValueError, NotImplementedError, UnicodeDecodeError)


class ZipStore(Store):
    """A zip archive.

    Members have the modes, times, owners and symlinks that Unix archivers put into them; what has no owner
    belongs to who opens the archive. A member's comment is its metadata ``comment``. Of members with one
    name the last counts. Odd names are spelled as in :mod:`joinfs.stores.escape`.

    Args:
        path: The archive.
        event_manager: As for ``Store``.
        read_only: There for symmetry: the store takes no writes anyway.
    """

    capabilities = READ_ONLY._replace(hard_links=False, special=False)

    def __init__(self, path: str | os.PathLike[str], event_manager: Any = None, read_only: bool = True) -> None:
        super().__init__(event_manager)
        self.path = os.path.abspath(path)
        self.name = f"zip:{os.fspath(path)}"
        self._archive: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo | None] = {}
        self._directories: dict[str, dict[str, Stat]] = {}
        self._streams: OrderedDict[str, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        try:
            archive = zipfile.ZipFile(self.path)
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be opened: {error.strerror}") from error
        except _DAMAGE as error:
            raise CorruptStore(f"{self.path} is not a zip archive, or a damaged one: {error}") from error
        self._index(archive)
        self._archive = archive

    def disconnect(self) -> None:
        with self._lock:
            for stream in self._streams.values():
                stream.close()
            self._streams.clear()
        if self._archive is not None:
            self._archive.close()
        self._archive = None

    def is_connected(self) -> bool:
        return self._archive is not None

    # ---------------------------------------------------------------- the index

    def _index(self, archive: zipfile.ZipFile) -> None:
        """Put the members into directories, those that the archive only implies included."""
        modified = os.stat(self.path).st_mtime_ns
        self._owner = self._default_owner()
        self._implied = Stat(DEFAULT_DIRECTORY_MODE, 0, *self._owner, 0, modified, modified, modified, modified, implied=True)
        self._members, self._directories = {ROOT: None}, {ROOT: {}}
        names = {info.filename: info for info in archive.infolist()}
        directories = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}
        for name, info in names.items():
            if name.endswith("/"):
                self._enter(escape(name[:-1]) + "/", info, self._stat_of(info))
            else:
                self._enter(escape(name, name in directories), info, self._stat_of(info))

    def _enter(self, key: str, info: zipfile.ZipInfo | None, stat: Stat) -> None:
        above, name = split(key)
        if above not in self._directories:
            self._enter(above, None, self._implied)
        if is_directory_key(key):
            self._directories.setdefault(key, {})
        self._members[key] = info
        self._directories[above][name] = stat

    def _stat_of(self, info: zipfile.ZipInfo) -> Stat:
        mode = info.external_attr >> 16 if info.create_system == UNIX else 0
        if info.is_dir():
            mode = stat_module.S_IFDIR | (stat_module.S_IMODE(mode) or DEFAULT_DIRECTORY_MODE)
        elif stat_module.S_ISLNK(mode):
            mode = stat_module.S_IFLNK | 0o777
        else:
            mode = stat_module.S_IFREG | (stat_module.S_IMODE(mode) or DEFAULT_FILE_MODE)
        extra = dict(_extra_fields(info.extra))
        modified = _modified(info, extra.get(EXTENDED_TIMESTAMP, b""))
        owner = _owner(extra.get(UNIX_OWNER, b"")) or self._owner
        return Stat(mode, info.file_size, *owner, 0, modified, modified, modified, modified)

    # ---------------------------------------------------------------- reading

    def lookup(self, key: str) -> Stat:
        self._check_connected()
        above, name = split(key)
        return self._directories[above][name]

    def stat(self, key: str) -> Stat:
        self._check_connected()
        if key == ROOT:
            return self._implied
        if key not in self._members:
            raise KeyError(key)
        return self.lookup(key.removesuffix("/"))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        self._check_connected()
        return iter(self._directories[prefix].items())

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        self.stat(key)
        info = self._members[key]
        comment = b"" if info is None else info.comment
        metadata = {"comment": comment.decode("utf-8", "surrogateescape")} if comment else {}
        return metadata if select is None else {name: metadata[name] for name in select if name in metadata}

    def get(self, key: str) -> Value:
        stat = self.stat(key)
        size = 0 if stat.is_directory else stat.size
        return Value(lambda: self._open(key), self.get_metadata(key), size, *stat.moments())

    def _open(self, key: str) -> BinaryIO:
        info = self._members[key]
        if info is None or info.is_dir():
            return io.BytesIO()
        with self._damage_told(key):
            return io.BufferedReader(_Member(self._raw(info), self, key))

    def _raw(self, info: zipfile.ZipInfo) -> BinaryIO:
        if info.flag_bits & 1:
            raise Unsupported(f"{info.filename!r} in {self.path} is encrypted")
        if self._archive is None:
            self._check_connected()
        return self._archive.open(info)  # type: ignore[union-attr,return-value]

    @contextlib.contextmanager
    def _damage_told(self, key: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise CorruptStore(f"{key!r} in {self.path} is damaged: {error}") from error

    def read(self, key: str, offset: int, size: int) -> bytes:
        """The same. A few members are kept open where their last read ended, so reading on is quick."""
        stat = self.stat(key)
        if stat.is_directory or offset >= stat.size:
            return b""
        with self._lock:
            stream = self._streams.pop(key, None) or self._open(key)
            try:
                stream.seek(offset)
                data = stream.read(size)
            except BaseException:
                stream.close()
                raise
            self._streams[key] = stream
            if len(self._streams) > MOST_STREAMS:
                self._streams.popitem(last=False)[1].close()
        return data


class _Member(io.RawIOBase):
    """A member's data; damage is told as the store tells it. Answers what the index promised, or fails."""

    def __init__(self, stream: BinaryIO, store: ZipStore, key: str) -> None:
        self._stream, self._store, self._key = stream, store, key

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with self._store._damage_told(self._key):
            return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        with self._store._damage_told(self._key):
            data = self._stream.read(len(buffer))
            if not data and self._stream.tell() < self._store.stat(self._key).size:
                raise EOFError("it ends too early")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields ``(kind, data)`` after a member's header; see APPNOTE.TXT, 4.5."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + size]
        extra = extra[4 + size :]


def _modified(info: zipfile.ZipInfo, timestamp: bytes) -> int:
    """Nanoseconds: of the extended timestamp if there is one, else the local time of the header."""
    if len(timestamp) >= 5 and timestamp[0] & 1:
        return int(struct.unpack_from("<i", timestamp, 1)[0]) * NANOSECONDS
    try:
        return int(time.mktime((*info.date_time, 0, 0, -1))) * NANOSECONDS
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
