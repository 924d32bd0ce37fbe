"""fallocate(2), which Python knows only in its plainest form."""

import ctypes
import os

from joinfs.errors import Unsupported

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
_KNOWN = {0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE}
_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch or zero a range of an open file.

    Args:
        descriptor: Open for writing.
        mode: 0, ``KEEP_SIZE``, ``PUNCH_HOLE | KEEP_SIZE``, ``ZERO_RANGE`` with or without ``KEEP_SIZE``.
        offset: Bytes from the start.
        length: Bytes.

    Raises:
        Unsupported: Another mode.
        OSError: As fallocate(2) says.
    """
    if mode not in _KNOWN:
        raise Unsupported(f"fallocate mode {mode:#x}")
    wide = ctypes.c_int64
    if _libc.fallocate(descriptor, mode, wide(offset), wide(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
