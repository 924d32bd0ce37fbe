"""Files of the host: making, filling and naming them."""

import contextlib
import errno
import os
import secrets
import stat as stat_module
from collections.abc import Iterator
from typing import BinaryIO

from joinfs.stores.value import Stat

TEMPORARY = ".wh..wh.joinfs."


def encode(key: str) -> bytes:
    """The bytes that the host has for a key, or part of one."""
    return key.encode("utf-8", "surrogateescape")


def stat_of(native: os.stat_result) -> Stat:
    """The host's attributes as a Stat."""
    return Stat(
        native.st_mode,
        native.st_size,
        native.st_uid,
        native.st_gid,
        native.st_rdev,
        native.st_atime_ns,
        native.st_mtime_ns,
        native.st_ctime_ns,
        0,
        1 if stat_module.S_ISDIR(native.st_mode) else native.st_nlink,
        native.st_ino,
    )


@contextlib.contextmanager
def unnamed_file(directory: int) -> Iterator[tuple[int, bytes]]:
    """Give a new file and the name that it has: none, where the host can make such files."""
    temporary = b""
    try:
        descriptor = os.open(b".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
            raise
        temporary = encode(TEMPORARY + secrets.token_hex(8))
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, dir_fd=directory)
    try:
        yield descriptor, temporary
    except BaseException:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def fill(descriptor: int, data: BinaryIO | None, buffer_size: int) -> None:
    """Write a stream to a new file; one that is a file of the host itself is copied by the kernel."""
    if data is None:
        return
    with contextlib.suppress(OSError, AttributeError, ValueError):
        source = data.fileno()
        native = os.fstat(source)
        if stat_module.S_ISREG(native.st_mode) and data.tell() == 0:
            copy_range(source, descriptor, native.st_size)
            if os.fstat(descriptor).st_size == os.fstat(source).st_size:
                return
            os.ftruncate(descriptor, 0)
    offset = 0
    while piece := data.read(buffer_size):
        view = memoryview(piece)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset += written
            view = view[written:]


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


def give_name(descriptor: int, temporary: bytes, workshop: int, directory: int, name: bytes) -> None:
    """Put a new file into place, over one that is there.

    Args:
        descriptor: The file.
        temporary: The name that it has in ``workshop``, if any.
        workshop: Where it may be given one.
        directory, name: Where it belongs.
    """
    if not temporary:
        source = f"/proc/self/fd/{descriptor}"
        try:
            os.link(source, name, dst_dir_fd=directory, follow_symlinks=True)
            return
        except FileExistsError:
            temporary = encode(TEMPORARY + secrets.token_hex(8))
            os.link(source, temporary, dst_dir_fd=workshop, follow_symlinks=True)
    try:
        os.rename(temporary, name, src_dir_fd=workshop, dst_dir_fd=directory)
    except BaseException:
        os.unlink(temporary, dir_fd=workshop)
        raise
