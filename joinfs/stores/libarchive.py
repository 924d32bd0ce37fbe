"""Archives as libarchive reads them: from their beginning, member by member.

libarchive-c declares the functions of the C library; nothing else of it is used, because its own objects
know neither hard links of cpio archives nor attributes, and decode names by the locale.
"""

import contextlib
import ctypes
import errno
import functools
import logging
import os
import stat as stat_module
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from joinfs.errors import CorruptStore, StoreError, StoreUnavailable, Unsupported
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE
from joinfs.stores.random_access import RandomAccess
from joinfs.stores.shelf import MOST_THINGS, SMALL, Shelf
from joinfs.stores.sqlite_nodes import KINDS, MAX_TIME, MIN_TIME
from joinfs.stores.value import MEBIBYTE, NANOSECONDS, Metadata, Stat

# Not mtree, which names files of the host. Zip and tar too: there are some that Python's own modules do not read.
FORMATS = ("7zip", "ar", "cab", "cpio", "iso9660", "lha", "rar", "rar5", "tar", "xar", "zip")
# Not those for which libarchive would run a program: lrzip, grzip, lzop.
FILTERS = ("bzip2", "compress", "gzip", "lz4", "lzip", "lzma", "rpm", "xz", "zstd")
# archive.h: these have no owners, or have them in an extension that is not always used.
CPIO, ISO9660, AR = 0x10000, 0x40000, 0x70000
OWNERLESS = frozenset({ISO9660, 0x50000, 0xB0000, 0xC0000, 0xD0000, 0xE0000, 0x100000})
# What of a format's number says which format it is; the rest says which variant.
FORMAT_MASK = 0xFF0000
# A larger file of an ISO 9660 archive is in several pieces.
MOST_EXTENT = (4 << 30) - 2048
BLOCK = 256 << 10
FALSE_ALARM = "Truncated 7-Zip file body"
USER = "user."
_LC_CTYPE_MASK = 1


class Member(NamedTuple):
    """What an archive says of a member.

    Attributes:
        name: As it is in the archive.
        target: Of a symlink.
        link: The name of an earlier member, of which this is a further name.
        sized: Whether it tells its size.
    """

    name: str
    stat: Stat
    target: str | None
    link: str | None
    sized: bool
    metadata: Metadata
    xattrs: dict[str, bytes]


class Cursor:
    """A place in an archive that only goes forward. For one thread at a time.

    Args:
        path: Where it can be opened.
        name: What messages call it.

    Raises:
        Unsupported: libarchive is not there.
        StoreUnavailable, CorruptStore: It cannot be opened, or is no archive.

    Attributes:
        number: That of the member where it stands, from 0; -1 before the first.
    """

    def __init__(self, path: str, name: str) -> None:
        self._lib = library()
        self._name = name
        self.number = -1
        self._fresh = False
        self._ended = False
        self._buffer: Any = None
        self._archive = self._lib.read_new()
        self._entry = self._lib.entry_new()
        try:
            self._open(os.fsencode(path))
        except BaseException:
            self.close()
            raise

    def _open(self, path: bytes) -> None:
        with self._told(), _in_utf8():
            for name in FORMATS:
                with contextlib.suppress(ValueError):  # an old libarchive lacks the newest
                    self._lib.get_read_format_function(name)(self._archive)
            for name in FILTERS:
                with contextlib.suppress(ValueError):
                    self._lib.get_read_filter_function(name)(self._archive)
            self._lib.read_open_filename(self._archive, path, BLOCK)

    def close(self) -> None:
        """Let go of the archive."""
        if self._archive is not None:
            self._lib.entry_free(self._entry)
            self._lib.read_free(self._archive)
            self._archive = self._entry = None

    def go_to(self, number: int, shelf: Shelf | None = None) -> bool:
        """Go on to a member; False if there is none.

        Args:
            number: That of a later member, or of this one if nothing of it has been read.
            shelf: Gets what is small of what is passed near the end of the way.

        Raises:
            CorruptStore, Unsupported: There is damage, or encryption, on the way.
        """
        with self._told(), _in_utf8():
            while self.number < number and not self._ended:
                if shelf is not None and self._fresh and number - self.number < MOST_THINGS:
                    self._put_by(shelf)
                self._ended = self._lib.read_next_header2(self._archive, self._entry) == self._lib.ARCHIVE_EOF
                self._fresh = not self._ended
                self.number += self._fresh
        return not self._ended

    def _put_by(self, shelf: Shelf) -> None:
        size = self._size()
        if 0 < size <= SMALL and not shelf.has(self.number):
            data = self.read(size)
            if len(data) == size and not self.read(1):
                shelf.put(self.number, data)

    def read(self, size: int) -> bytes:
        """Answer the next bytes of the member: at most ``size``, and a mebibyte; none at its end.

        Raises:
            CorruptStore, Unsupported: They are damaged, or encrypted.
        """
        if self._buffer is None:
            self._buffer = ctypes.create_string_buffer(MEBIBYTE)
        first, self._fresh = self._fresh, False
        with self._told():
            try:
                got = self._read(size)
            except self._lib.ArchiveError as error:
                # Before 3.7.5 it says so if just a multiple of 64 KiB was skipped, and goes on: libarchive#2245.
                if not first or _said(error) != FALSE_ALARM:
                    raise
                got = self._read(size)
        return ctypes.string_at(self._buffer, got)

    def _read(self, size: int) -> int:
        got = int(self._lib.read_data(self._archive, self._buffer, min(size, MEBIBYTE)))
        if got < 0:  # a warning, for libarchive-c: that a sum is wrong
            raise self._lib.archive_error(self._archive, got)
        return got

    def start(self, file: RandomAccess) -> int | None:
        """Answer where in the file the member's data is, as it is and in one piece; None where that is not known.

        Args:
            file: The one that this reads. Nothing of the member must have been read.
        """
        kind = self.format & FORMAT_MASK
        in_one_piece = kind in {CPIO, AR} or (kind == ISO9660 and self._size() <= MOST_EXTENT)
        if not in_one_piece or self._lib.filter_code(self._archive, 0):
            return None
        # What libarchive hands out counts as taken when more is asked for: it stands at the data's beginning still.
        head = self.read(min(self._size(), 512))
        start = self.place()
        return start if file.read_at(start, len(head)) == head else None

    def count(self) -> int:
        """Answer how many bytes of the member are left, by reading them."""
        size = 0
        while piece := self.read(MEBIBYTE):
            size += len(piece)
        return size

    def place(self) -> int:
        """Answer where in the file the data of this member might begin, once a little of it has been read.

        It does begin there if the archive has it in one piece and as it is; nothing here tells whether it has.
        """
        return int(self._lib.filter_bytes(self._archive, -1))

    def _size(self) -> int:
        return max(int(self._lib.entry_size(self._entry)), 0)

    @property
    def format(self) -> int:
        """The archive's format, once it stands at a member: ARCHIVE_FORMAT_ of archive.h."""
        return int(self._lib.format(self._archive))

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except self._lib.ArchiveError as error:
            raise _explained(self._name, error) from None

    # ---------------------------------------------------------------- the member

    def member(self, owner: tuple[int, int]) -> Member:
        """Answer what the archive says of the member where it stands.

        Args:
            owner: Whose it is if the archive does not tell.
        """
        with _in_utf8():
            name = self._text("pathname") or ""
            target, link = self._text("symlink"), self._text("hardlink")
        sized = bool(self._lib.entry_size_is_set(self._entry))
        metadata, xattrs = _split(self._xattrs())
        return Member(name, self._stat(target, sized, owner), target, link, sized, metadata, xattrs)

    def _text(self, field: str) -> str | None:
        """A name, as bytes that need not be UTF-8; else as libarchive can spell it."""
        raw = getattr(self._lib, f"entry_{field}")(self._entry)
        if raw is None:
            raw = getattr(self._lib, f"entry_{field}_utf8")(self._entry)
        return None if raw is None else raw.decode("utf-8", "surrogateescape")

    def _stat(self, target: str | None, sized: bool, owner: tuple[int, int]) -> Stat:
        lib, entry = self._lib, self._entry
        mode = self._mode(lib.entry_mode(entry), target)
        size = self._size() if sized and stat_module.S_ISREG(mode) else 0
        if target is not None:
            size = len(target.encode("utf-8", "surrogateescape"))
        rdev = 0
        if stat_module.S_ISCHR(mode) or stat_module.S_ISBLK(mode):
            rdev = os.makedev(lib.entry_rdevmajor(entry) & 0xFFF, lib.entry_rdevminor(entry) & 0xFFFFF)
        return Stat(mode, size, *self._owner(owner), rdev, *self._times())

    def _mode(self, mode: int, target: str | None) -> int:
        if target is not None:
            return stat_module.S_IFLNK | 0o777
        if self.format == ISO9660:
            return DEFAULT_DIRECTORY_MODE if stat_module.S_ISDIR(mode) else DEFAULT_FILE_MODE
        # Members of an ar archive, and hard links, are of no kind; nor are some that somebody made up.
        kind = stat_module.S_IFMT(mode)
        return (kind if kind in KINDS else stat_module.S_IFREG) | stat_module.S_IMODE(mode)

    def _owner(self, otherwise: tuple[int, int]) -> tuple[int, int]:
        uid, gid = self._lib.entry_uid(self._entry), self._lib.entry_gid(self._entry)
        if uid == gid == 0 and self.format in OWNERLESS and not self._lib.entry_uname(self._entry):
            return otherwise
        return uid & 0xFFFFFFFF, gid & 0xFFFFFFFF

    def _times(self) -> tuple[int, int, int, int]:
        """atime, mtime, ctime and birth; what is not told is as mtime, and that as what is."""
        told = [self._time(field) for field in ("mtime", "ctime", "birthtime", "atime")]
        mtime = next((time for time in told if time is not None), 0)
        ctime, birth, atime = (mtime if time is None else time for time in told[1:])
        return atime, mtime, ctime, birth

    def _time(self, field: str) -> int | None:
        if not getattr(self._lib, f"entry_{field}_is_set")(self._entry):
            return None
        seconds = getattr(self._lib, f"entry_{field}")(self._entry)
        time = seconds * NANOSECONDS + getattr(self._lib, f"entry_{field}_nsec")(self._entry)
        return min(max(int(time), MIN_TIME), MAX_TIME)

    def _xattrs(self) -> dict[str, bytes]:
        found = {}
        name, value, size = ctypes.c_char_p(), ctypes.c_void_p(), ctypes.c_size_t()
        places = ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)
        for _ in range(self._lib.entry_xattr_reset(self._entry)):
            if self._lib.entry_xattr_next(self._entry, *places) == self._lib.ARCHIVE_OK and name.value is not None:
                found[name.value.decode("utf-8", "surrogateescape")] = ctypes.string_at(value, size.value)
        return found


def _split(attributes: dict[str, bytes]) -> tuple[Metadata, dict[str, bytes]]:
    """Metadata, which are the user's attributes, and the others."""
    metadata = {
        name.removeprefix(USER): value.decode("utf-8", "surrogateescape")
        for name, value in attributes.items()
        if name.startswith(USER)
    }
    return metadata, {name: value for name, value in attributes.items() if not name.startswith(USER)}


@functools.cache
def library() -> Any:
    """Answer libarchive, loaded when this is first called.

    Raises:
        Unsupported: libarchive, or the Python package that knows it, is not installed.
    """
    # What cannot be spelled in a name, for instance, is warned of; the terminal is not the place for it.
    logging.getLogger("libarchive").addHandler(logging.NullHandler())
    try:
        from libarchive import ffi  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unsupported("this kind of archive needs a library; install it with: pip install 'joinfs[archives]'") from None
    except (OSError, AttributeError, TypeError) as error:
        raise Unsupported(f"this kind of archive needs libarchive, the C library (Debian's libarchive13): {error}") from None
    _declare(ffi)
    return ffi


def _declare(ffi: Any) -> None:
    """What libarchive-c does not."""
    archive, entry, text = ffi.c_archive_p, ffi.c_archive_entry_p, ctypes.c_char_p
    ffi.ffi("format", [archive], ctypes.c_int)
    ffi.ffi("filter_code", [archive, ctypes.c_int], ctypes.c_int)
    ffi.ffi("read_open_filename", [archive, text, ctypes.c_size_t], ctypes.c_int, ffi.check_int)
    for field in ("pathname", "symlink", "hardlink"):
        ffi.ffi(f"entry_{field}_utf8", [entry], text)
    ffi.ffi("entry_xattr_reset", [entry], ctypes.c_int)
    out = [ctypes.POINTER(kind) for kind in (text, ctypes.c_void_p, ctypes.c_size_t)]
    ffi.ffi("entry_xattr_next", [entry, *out], ctypes.c_int)


def version() -> int:
    """Answer libarchive's version; another one might put members into another order."""
    return int(library().version_number())


def _said(error: Any) -> str:
    return error.msg.decode("utf-8", "replace") if isinstance(error.msg, bytes) else str(error.msg)


def _explained(name: str, error: Any) -> StoreError:
    text = _said(error)
    if "ncrypt" in text or "assphrase" in text:
        return Unsupported(f"{name} is encrypted, and cannot be read ({text})")
    if "nsupported" in text or "not supported" in text:
        return Unsupported(f"{name} uses what libarchive cannot read: {text}")
    if error.errno in {errno.EIO, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOMEM, errno.EMFILE, errno.ESTALE}:
        return StoreUnavailable(f"{name} cannot be read: {text}")
    return CorruptStore(f"{name} is not an archive that libarchive knows, or a damaged one: {text}")


# -------------------------------------------------------------------- the locale


@functools.cache
def _locale() -> tuple[Any, int | None]:
    """The C library's uselocale, and a locale whose letters are UTF-8; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None, None
    libc = ctypes.CDLL(None)
    libc.newlocale.argtypes, libc.newlocale.restype = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p], ctypes.c_void_p
    libc.uselocale.argtypes, libc.uselocale.restype = [ctypes.c_void_p], ctypes.c_void_p
    return libc.uselocale, libc.newlocale(_LC_CTYPE_MASK, b"C.UTF-8", None)


@contextlib.contextmanager
def _in_utf8() -> Iterator[None]:
    """Have this thread's names be UTF-8 for libarchive, whatever the user's locale is."""
    uselocale, utf8 = _locale()
    before = uselocale(utf8) if utf8 else None
    try:
        yield
    finally:
        if utf8:
            uselocale(before)
