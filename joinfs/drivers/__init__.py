"""Drivers: what stands between the kernel and the file system's operations."""

import sys
from collections.abc import Callable
from typing import Protocol

from joinfs.config import DRIVERS, MountOptions
from joinfs.errors import MountError, UsageError
from joinfs.filesystem.operations import Operations


class Driver(Protocol):
    """A way to mount.

    Attributes:
        idle_nodes: How many nodes that the kernel does not know by number are worth keeping: many for who finds the
            nodes of paths again and again, none for who is told when the kernel forgets one.
    """

    idle_nodes: int

    def serve(
        self, operations: Operations, mountpoint: str, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        """Mount, answer the kernel until somebody unmounts, and return.

        ``on_ready`` is called once, in any thread, when the mount answers. Whatever the caller of a
        verb is to be told goes to the kernel; this raises only if there was never a mount.

        Raises:
            MountError: It could not be mounted.
        """


def pick(name: str) -> Driver:
    """Answer the driver of that name, one of ``config.DRIVERS``; ``auto`` is the best for this machine.

    Raises:
        MountError: It needs something that is not installed.
    """
    if name not in DRIVERS:
        raise UsageError(f"there is no driver {name!r}; there are {', '.join(DRIVERS)}")
    if name == "auto":
        name = "devfuse" if sys.platform == "linux" else "fusepy"
    return _devfuse() if name == "devfuse" else _fusepy()


def _devfuse() -> Driver:
    if sys.platform != "linux":
        raise MountError("the driver devfuse is for Linux; use --driver fusepy")
    # Here, because importing joinfs must be quick.
    from joinfs.drivers.devfuse import DevfuseDriver  # noqa: PLC0415

    return DevfuseDriver()


def _fusepy() -> Driver:
    try:
        # Here, because importing joinfs must not need libfuse.
        from joinfs.drivers.fusepy import FusepyDriver  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MountError("fusepy is not installed; install it with: pip install fusepy") from error
    except OSError as error:
        raise MountError("libfuse 2 is not installed; install it with: apt-get install libfuse2 fuse3") from error
    return FusepyDriver()
