"""Files that the kernel reads and writes itself, past us: passthrough.

The kernel is given a descriptor of the local file once, and an open file of it is
then as fast as that file. As long as one open file of a node goes past us, all others must have the same file
behind them, if they go past us or not; ``Backings`` sees to that. Where another file has come to hold the data
(a large lower file that was open when it was copied up), the node cannot be opened any more: ``OtherFile``.

See Also:
    FUSE_PASSTHROUGH in the kernel's Documentation/filesystems/fuse/fuse-passthrough.rst.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading

from joinfs.drivers.wire import Open

log = logging.getLogger(__name__)

# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)
_BACKING_OPEN, _BACKING_CLOSE = 0x4010E501, 0x4004E502
_MAP = struct.Struct("=iIQ")
_ID = struct.Struct("=I")


class OtherFile(Exception):
    """A node that is open past us has its data in another file by now."""


class _Backing:
    """A node's open files.

    Attributes:
        file: The file behind those that go past us: its device and inode number. None while there are none.
        id: The kernel's number for it.
        past_us, cached: How many there are of either kind.
    """

    __slots__ = ("cached", "file", "id", "past_us")

    def __init__(self) -> None:
        self.file: tuple[int, int] | None = None
        self.id = 0
        self.past_us = 0
        self.cached = 0


class Backings:
    """What is behind open files.

    Args:
        device: The descriptor of the mount.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._of_node: dict[int, _Backing] = {}
        self._of_handle: dict[int, int] = {}

    def open(self, node: int, handle: int, descriptor: int | None, through_us: bool = False) -> tuple[int, int]:
        """Answer how a new open file is to behave, and the kernel's number for what is behind it (or 0).

        Args:
            node, handle: The file.
            descriptor: Of the local file that could be behind it.
            through_us: Whether it is to be read and written through us all the same.

        Raises:
            OtherFile: It cannot be opened before the others are closed.
        """
        with self._lock:
            backing = self._of_node.setdefault(node, _Backing())
            how = self._how(backing, descriptor, through_us)
            self._of_handle[handle] = how
            if how & Open.PASSTHROUGH:
                backing.past_us += 1
                return how, backing.id
            backing.cached += 1
            return how, 0

    def _how(self, backing: _Backing, descriptor: int | None, through_us: bool) -> int:
        if backing.past_us:
            if descriptor is None or _file(descriptor) != backing.file:
                raise OtherFile
            return Open.PASSTHROUGH | Open.DIRECT_IO if through_us else Open.PASSTHROUGH
        if descriptor is not None and not through_us and not backing.cached and self._register(backing, descriptor):
            return Open.PASSTHROUGH
        return Open.KEEP_CACHE

    def _register(self, backing: _Backing, descriptor: int) -> bool:
        # A buffer that can be written to: else ioctl drops the number that the kernel answers.
        request = bytearray(_MAP.pack(descriptor, 0, 0))
        try:
            backing.id = fcntl.ioctl(self._device, _BACKING_OPEN, request, True)
        except OSError as error:
            # The file's own file system cannot be behind another (it is stacked itself), or we are not root enough.
            log.info("no passthrough: %s", error)
            return False
        backing.file = _file(descriptor)
        return True

    def close(self, node: int, handle: int) -> None:
        """An open file was closed."""
        with self._lock:
            how = self._of_handle.pop(handle, None)
            backing = self._of_node.get(node)
            if how is None or backing is None:
                return
            if how & Open.PASSTHROUGH:
                backing.past_us -= 1
                if not backing.past_us:
                    self._unregister(backing)
            else:
                backing.cached -= 1
            if not backing.past_us and not backing.cached:
                del self._of_node[node]

    def _unregister(self, backing: _Backing) -> None:
        backing.file = None
        with contextlib.suppress(OSError):  # the mount may be gone by now
            fcntl.ioctl(self._device, _BACKING_CLOSE, bytearray(_ID.pack(backing.id)), True)


def _file(descriptor: int) -> tuple[int, int]:
    native = os.fstat(descriptor)
    return native.st_dev, native.st_ino
