"""Finding a path beneath a directory of the host, such that nothing can lead out of it.

Every component is resolved without following symlinks, by the kernel in one step where it has
openat2(2), else one descriptor at a time. So a symlink that somebody puts in the way while we look is
an error, never a way out.
"""

import ctypes
import errno
import os
import struct

_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
PATH_BYTES = 3800  # of components at a time: the kernel takes 4,095 bytes of path
_RENAME_EXCHANGE, _RENAME_WHITEOUT = 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


def _failed(path: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open ``path`` beneath the directory ``root``, without following any symlink.

    Args:
        root: Descriptor of the directory.
        path: Components joined by ``/``; of any length.
        flags: Of open(2), without ``O_CREAT``.

    Raises:
        OSError: As openat2(2) says: ``ELOOP`` or ``ENOTDIR`` where a symlink is in the way.
    """
    if len(path) <= PATH_BYTES:
        return _open_short(root, path, flags)
    cut = path.rindex(b"/", 0, PATH_BYTES)
    middle = _open_short(root, path[:cut], os.O_PATH | os.O_DIRECTORY)
    try:
        return open_beneath(middle, path[cut + 1 :], flags)
    finally:
        os.close(middle)


def _open_short(root: int, path: bytes, flags: int) -> int:
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _RESOLVE)
    descriptor = int(_libc.syscall(_OPENAT2, root, path, how, len(how)))
    if descriptor >= 0:
        return descriptor
    error = _failed(path)
    # Kernels before 5.6 do not have the call, and some sandboxes forbid calls that they do not know.
    if error.errno not in {errno.ENOSYS, errno.EPERM}:
        raise error
    return _open_stepwise(root, path, flags)


def _open_stepwise(root: int, path: bytes, flags: int) -> int:
    *above, name = path.split(b"/")
    current = os.dup(root)
    try:
        for part in above:
            below = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=current)
    finally:
        os.close(current)


def exchange(first_directory: int, first: bytes, second_directory: int, second: bytes) -> None:
    """Swap two names; renameat2(2) with ``RENAME_EXCHANGE``.

    Raises:
        OSError: As renameat2(2) says; ``EINVAL`` where the file system cannot.
    """
    if _libc.renameat2(first_directory, first, second_directory, second, _RENAME_EXCHANGE) != 0:
        raise _failed(first)


def rename_whited_out(old_directory: int, old: bytes, new_directory: int, new: bytes) -> None:
    """Move a name and leave overlayfs's whiteout there in the same step; renameat2(2) with ``RENAME_WHITEOUT``. Errors as for ``exchange``."""
    if _libc.renameat2(old_directory, old, new_directory, new, _RENAME_WHITEOUT) != 0:
        raise _failed(old)


def sync_filesystem(descriptor: int) -> None:
    """Have everything in a file system on its disk; syncfs(2)."""
    if _libc.syncfs(descriptor) != 0:
        raise _failed(b"")
