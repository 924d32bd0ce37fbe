"""Files that the kernel reads and writes itself, past us: passthrough.

The kernel is given a descriptor of the local file (or of the staged data) once, and an open file of it is
then as fast as that file. All open files of one node that go past us must have the same file behind them,
and none of them may be together with one that uses the kernel's cache; ``Backings`` sees to that.

See Also:
    FUSE_PASSTHROUGH in the kernel's Documentation/filesystems/fuse/fuse-passthrough.rst.
"""

import contextlib
import fcntl
import logging
import struct
import threading

from joinfs.drivers.wire import Open

log = logging.getLogger(__name__)

# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)
_BACKING_OPEN, _BACKING_CLOSE = 0x4010E501, 0x4004E502
_MAP = struct.Struct("=iIQ")
_ID = struct.Struct("=I")


class _Backing:
    """A node's open files.

    Attributes:
        descriptor: The file behind those that go past us; -1 while there are none.
        id: The kernel's number for it.
        past_us, cached: How many there are of either kind.
    """

    __slots__ = ("cached", "descriptor", "id", "past_us")

    def __init__(self) -> None:
        self.descriptor = -1
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
        self._of_handle: dict[int, Open] = {}
        self.works = True

    def open(self, node: int, handle: int, descriptor: int | None) -> tuple[Open, int]:
        """Answer how a new open file is to behave, and the kernel's number for what is behind it (or 0).

        Args:
            node, handle: The file.
            descriptor: Of the local file that could be behind it.
        """
        with self._lock:
            backing = self._of_node.setdefault(node, _Backing())
            how = self._how(backing, descriptor)
            self._of_handle[handle] = how
            if how is Open.PASSTHROUGH:
                backing.past_us += 1
                return how, backing.id
            backing.cached += how is Open.KEEP_CACHE
            return how, 0

    def _how(self, backing: _Backing, descriptor: int | None) -> Open:
        if backing.past_us:
            # The other file would be seen as the old one for as long as that is open.
            return Open.PASSTHROUGH if descriptor == backing.descriptor else Open.DIRECT_IO
        if descriptor is not None and not backing.cached and self._register(backing, descriptor):
            return Open.PASSTHROUGH
        return Open.KEEP_CACHE

    def _register(self, backing: _Backing, descriptor: int) -> bool:
        if not self.works:
            return False
        # A buffer that can be written to: else ioctl drops the number that the kernel answers.
        request = bytearray(_MAP.pack(descriptor, 0, 0))
        try:
            backing.id = fcntl.ioctl(self._device, _BACKING_OPEN, request, True)
        except OSError as error:
            # The file's own file system cannot be behind another (it is stacked itself), or we are not root enough.
            log.info("no passthrough: %s", error)
            return False
        backing.descriptor = descriptor
        return True

    def close(self, node: int, handle: int) -> None:
        """An open file was closed."""
        with self._lock:
            how = self._of_handle.pop(handle, None)
            backing = self._of_node.get(node)
            if how is None or backing is None:
                return
            if how is Open.PASSTHROUGH:
                backing.past_us -= 1
                if not backing.past_us:
                    self._unregister(backing)
            backing.cached -= how is Open.KEEP_CACHE
            if not backing.past_us and not backing.cached:
                del self._of_node[node]

    def _unregister(self, backing: _Backing) -> None:
        backing.descriptor = -1
        with contextlib.suppress(OSError):  # the mount may be gone by now
            fcntl.ioctl(self._device, _BACKING_CLOSE, bytearray(_ID.pack(backing.id)), True)
