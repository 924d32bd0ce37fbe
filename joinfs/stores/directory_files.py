"""Files of the host: making, filling and naming them."""

import contextlib
import errno
import io
import os
import secrets
import stat as stat_module
import sys
from collections.abc import Iterator
from typing import BinaryIO

from joinfs.stores.value import Stat, binary
from joinfs.stores.whole import is_plain_file

TEMPORARY = ".wh..wh.joinfs."
LITTLE = 1 << 16
_new_tuple = tuple.__new__
_UTF8 = sys.getfilesystemencoding() == "utf-8"


def encode(key: str) -> bytes:
    """The bytes that the host has for a key, or part of one."""
    return key.encode("utf-8", "surrogateescape")


def decode(name: str) -> str:
    """A name as the host's Python has it, as keys have it."""
    return name if _UTF8 else os.fsencode(name).decode("utf-8", "surrogateescape")


def inside(directory: int, name: bytes) -> bytes:
    """A path to a name in a directory, for calls that have no variant for descriptors."""
    return f"/proc/self/fd/{directory}/".encode() + name


def open_stream(descriptor: int) -> BinaryIO:
    """A stream over an open regular file, which it closes; what ``os.fdopen`` gives, without what that asks first."""
    return io.BufferedReader(io.FileIO(descriptor, "rb"))


class Held:
    """An open file that nobody may come to read; closed with the object, unless its stream was taken."""

    __slots__ = ("descriptor",)

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def stream(self) -> BinaryIO | None:
        """Answer the file as a stream, once."""
        if self.descriptor < 0:
            return None
        descriptor, self.descriptor = self.descriptor, -1
        return open_stream(descriptor)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


# Spreads the numbers of file systems over those of files.
_SPREAD, _NUMBERS = 0x9E3779B97F4A7C15, (1 << 64) - 1


def stat_of(native: os.stat_result, device: int | None = None) -> Stat:
    """The host's attributes as a Stat.

    Args:
        native: As stat(2) answers them.
        device: The file system whose own numbers count; files of others that are mounted in it get other ones.
    """
    mode, mtime, ctime = native.st_mode, native.st_mtime_ns, native.st_ctime_ns
    number = native.st_ino
    if device is not None and native.st_dev != device:
        number = (number ^ native.st_dev * _SPREAD) & _NUMBERS
    fields = (
        mode,
        native.st_size,
        native.st_uid,
        native.st_gid,
        native.st_rdev,
        native.st_atime_ns,
        mtime,
        mtime if ctime == mtime else ctime,  # one object, of which there may be a million
        0,
        native.st_nlink,
        number,
        False,
        False,
        False,
        False,
    )
    return _new_tuple(Stat, fields)  # this is done for every entry of every listing: Stat(...) takes half as long again


class Filled(io.FileIO):
    """A new file that is not in its place yet.

    Args:
        descriptor: Open for reading and writing.
        directory: Descriptor of a directory on the same file system.
        temporary: The name that the file has in it; none, where the host can make such files.
    """

    def __init__(self, descriptor: int, directory: int, temporary: bytes) -> None:
        super().__init__(descriptor, "r+")
        self.directory, self.temporary = directory, temporary

    def fill(self, data: BinaryIO, buffer_size: int) -> None:
        """Write a stream to it; one that is a file of the host itself is copied by the kernel."""
        if self._copy_file(data):
            return
        while piece := binary(data.read(buffer_size)):
            view = memoryview(piece)
            while view:
                view = view[self.write(view) :]

    def _copy_file(self, data: BinaryIO) -> bool:
        if not is_plain_file(data):
            return False
        with contextlib.suppress(OSError, ValueError):
            source = data.fileno()
            native = os.fstat(source)
            # What /proc has says that it is empty. For little the kernel takes longer than we do.
            if stat_module.S_ISREG(native.st_mode) and native.st_size > LITTLE and data.tell() == 0:
                copy_range(source, self.fileno(), native.st_size)
                if os.fstat(self.fileno()).st_size == os.fstat(source).st_size:
                    return True
                os.ftruncate(self.fileno(), 0)
        return False


@contextlib.contextmanager
def unnamed_file(directory: int) -> Iterator[Filled]:
    """Give a new file, without a name where the host can make such files; what has one loses it if it is not used."""
    temporary = b""
    try:
        descriptor = os.open(b".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        temporary = encode(TEMPORARY + secrets.token_hex(8))
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, dir_fd=directory)
    file = Filled(descriptor, directory, temporary)
    try:
        with file:
            yield file
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):  # it has its own name now
                os.unlink(temporary, dir_fd=directory)


def copy_range(source: int, target: int, size: int) -> None:
    """Copy the first ``size`` bytes; between file systems that share nothing, through memory."""
    offset = 0
    while offset < size:
        try:
            copied = os.copy_file_range(source, target, size - offset, offset, offset)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            copied = os.pwrite(target, os.pread(source, 1 << 20, offset), offset)
        if copied == 0:
            return
        offset += copied


def give_name(file: Filled, workshop: int, directory: int, name: bytes, over: bool) -> None:
    """Put a new file into place.

    Args:
        file: The file.
        workshop: Where it may be given another name first.
        directory, name: Where it belongs.
        over: Whether something is there.
    """
    if file.temporary:
        os.rename(file.temporary, name, src_dir_fd=file.directory, dst_dir_fd=directory)
        return
    if not over:
        with contextlib.suppress(FileExistsError):  # somebody has been quicker
            give_new_name(file, directory, name)
            return
    temporary = encode(TEMPORARY + secrets.token_hex(8))
    give_new_name(file, workshop, temporary)
    try:
        os.rename(temporary, name, src_dir_fd=workshop, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=workshop)
        raise


def give_new_name(file: Filled, directory: int, name: bytes) -> None:
    """Put a new file where nothing is.

    Raises:
        FileExistsError: Something is there.
    """
    if file.temporary:
        os.link(file.temporary, name, src_dir_fd=file.directory, dst_dir_fd=directory)
    else:
        os.link(f"/proc/self/fd/{file.fileno()}", name, dst_dir_fd=directory, follow_symlinks=True)
