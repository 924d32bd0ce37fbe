"""The portable driver: libfuse 2 through fusepy.

libfuse speaks in paths, so every call walks from the root to a node; the node table has what it needs
for that in memory. What the library's path interface cannot carry (RENAME_EXCHANGE, SEEK_DATA, fallocate,
copy_file_range, one inode for hard links) does not arrive here.

See Also:
    fuse.h and fuse.c of libfuse 2.9; SEMANTICS.md, The mount.
"""

import ctypes
import logging
import os
import signal
import stat as stat_module
import time
from collections.abc import Callable, Iterator
from typing import Any

import fuse

from joinfs.config import MountOptions
from joinfs.drivers.hidden import HiddenFiles, Path
from joinfs.drivers.trace import Trace, tracing
from joinfs.errors import JoinfsError, MountError, errno_of
from joinfs.filesystem.attributes import Attributes
from joinfs.filesystem.operations import NOW, Caller, Operations

log = logging.getLogger(__name__)

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
NANOSECONDS = 1_000_000_000
MOST_BYTES = 1 << 17


def exact(name: str) -> str:
    """A name as stores have it, from one that was decoded as Latin-1."""
    return name.encode("latin-1").decode("utf-8", "surrogateescape")


def names_of(path: str) -> Path:
    """The names in a path as libfuse gives it (decoded as Latin-1, so that its bytes are kept)."""
    return tuple(name for name in exact(path).split("/") if name)


def latin(name: str) -> str:
    """A name as fusepy wants it, to be encoded as Latin-1."""
    return name.encode("utf-8", "surrogateescape").decode("latin-1")


class _Fuse(fuse.FUSE):  # type: ignore[misc]
    """fusepy, with what it gets wrong put right."""

    def fgetattr(self, path: bytes | None, buffer: Any, info: Any) -> int:
        """Fill in attributes straight from the tuple: fusepy's own way goes through a dict and floats."""
        handle = info.contents.fh if info else None
        attributes = self.operations("getattr", self._decode_optional_path(path), handle)
        fill(buffer.contents, attributes)
        return 0

    def write(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> int:
        """Tell whether it is a page of a mapping, which goes where the kernel says, whatever the flags of the handle."""
        data, opened = ctypes.string_at(buffer, size), info.contents
        return int(self.operations("write", self._decode_optional_path(path), data, offset, opened.fh, bool(opened.writepage)))

    def utimens(self, path: bytes, buffer: Any) -> int:
        """Tell UTIME_NOW and UTIME_OMIT, which fusepy adds to the seconds."""
        times: tuple[int | None, int | None] = (NOW, NOW)
        if buffer:
            times = (moment(buffer.contents.actime), moment(buffer.contents.modtime))
        return int(self.operations("utimens", path.decode(self.encoding), times) or 0)


def moment(timespec: Any) -> int | None:
    """A timespec as setattr wants it: nanoseconds, NOW, or None for "leave"."""
    if timespec.tv_nsec == UTIME_NOW:
        return NOW
    if timespec.tv_nsec == UTIME_OMIT:
        return None
    return int(timespec.tv_sec) * NANOSECONDS + int(timespec.tv_nsec)


def fill(native: Any, attributes: Attributes) -> None:
    """Put attributes into a struct stat."""
    native.st_ino = attributes.ino
    native.st_mode = attributes.mode
    native.st_nlink = attributes.nlink
    native.st_uid = attributes.uid
    native.st_gid = attributes.gid
    native.st_rdev = attributes.rdev
    native.st_size = attributes.size
    native.st_blocks = attributes.blocks
    native.st_blksize = attributes.blksize
    for field, value in (
        (native.st_atimespec, attributes.atime),
        (native.st_mtimespec, attributes.mtime),
        (native.st_ctimespec, attributes.ctime),
    ):
        field.tv_sec, field.tv_nsec = divmod(value, NANOSECONDS)


class PathOperations:
    """fusepy's operations, by path, in terms of the file system's, by node."""

    use_ns = True
    flag_nullpath_ok = 1
    flag_utime_omit_ok = 1

    def __init__(self, operations: Operations, on_ready: Callable[[], None] | None = None, trace: Trace | None = None) -> None:
        self._operations = operations
        self._on_ready = on_ready
        self._trace = trace
        self._hidden = HiddenFiles(operations)

    def __call__(self, verb: str, *arguments: Any) -> Any:
        """Call a verb, and count it; whatever it raises leaves as an OSError with the number for the kernel."""
        begun, outcome = time.perf_counter_ns(), 0
        try:
            return getattr(self, verb)(*arguments)
        except Exception as error:
            if not isinstance(error, KeyError | JoinfsError | OSError):
                log.exception("%s failed", verb)
            outcome = errno_of(error)
            raise OSError(outcome, str(error)) from None
        finally:
            took = time.perf_counter_ns() - begun
            self._operations.tally.add(verb, took)
            if self._trace is not None:
                place, *others = (exact(argument) if isinstance(argument, str) else argument for argument in arguments or ("-",))
                self._trace.add(verb, place or "-", tuple(others), self._caller().pid, outcome or None, took)

    # ---------------------------------------------------------------- paths

    def _node(self, path: str) -> int:
        names = names_of(path)
        hidden = self._hidden.node(names)
        if hidden is not None:
            return hidden
        self._hidden.settle_in(names[:-1])
        return self._operations.walk(names)

    def _place(self, path: str) -> tuple[int, str]:
        """The directory's node and the name for the last part of a path."""
        *above, name = names_of(path)
        self._hidden.settle_in(tuple(above))
        return self._operations.walk(above), name

    def _caller(self) -> Caller:
        return Caller(*fuse.fuse_get_context())

    # ---------------------------------------------------------------- life

    def init(self, path: str) -> None:
        """libfuse has mounted and is about to serve."""
        if self._on_ready is not None:
            self._on_ready()

    def destroy(self, path: str) -> None:
        """libfuse is done. What is staged is committed by who started us."""
        self._hidden.settle()

    # ---------------------------------------------------------------- attributes

    def getattr(self, path: str | None, handle: int | None = None) -> Attributes:
        node = self._operations.node_of(handle or 0) if path is None else self._node(path)
        return self._operations.getattr(node)

    def access(self, path: str, mask: int) -> None:
        self._operations.access(self._node(path), mask, self._caller())

    def chmod(self, path: str, mode: int) -> None:
        self._operations.setattr(self._node(path), mode=stat_module.S_IMODE(mode))

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._operations.setattr(self._node(path), uid=None if uid == -1 else uid, gid=None if gid == -1 else gid)

    def truncate(self, path: str | None, length: int, handle: int | None = None) -> None:
        node = self._operations.node_of(handle or 0) if path is None else self._node(path)
        self._operations.setattr(node, size=length)

    def utimens(self, path: str, times: tuple[int | None, int | None]) -> None:
        self._operations.setattr(self._node(path), atime=times[0], mtime=times[1])

    def statfs(self, path: str) -> dict[str, int]:
        usage = self._operations.statfs()
        return {
            "f_bsize": usage.block_size,
            "f_frsize": usage.block_size,
            "f_blocks": usage.blocks,
            "f_bfree": usage.blocks_free,
            "f_bavail": usage.blocks_available,
            "f_files": usage.files,
            "f_ffree": usage.files_free,
            "f_favail": usage.files_free,
            "f_namemax": 255,
        }

    # ---------------------------------------------------------------- names

    def readlink(self, path: str) -> str:
        return self._operations.readlink(self._node(path)).decode("latin-1")

    def mknod(self, path: str, mode: int, device: int) -> None:
        self._forget(self._operations.mknod(*self._place(path), mode, device, self._caller()))

    def mkdir(self, path: str, mode: int) -> None:
        self._forget(self._operations.mkdir(*self._place(path), mode, self._caller()))

    def symlink(self, path: str, target: str) -> None:
        self._forget(self._operations.symlink(*self._place(path), target.encode("latin-1"), self._caller()))

    def link(self, path: str, old: str) -> None:
        self._forget(self._operations.link(self._node(old), *self._place(path)))

    def _forget(self, entry: Any) -> None:
        """libfuse keeps its own count of what the kernel knows: ours is given back."""
        self._operations.forget(entry.node)

    def rmdir(self, path: str) -> None:
        self._operations.rmdir(*self._place(path))

    def unlink(self, path: str) -> None:
        if not self._hidden.drop(names_of(path)):
            self._operations.unlink(*self._place(path))

    def rename(self, old: str, new: str) -> None:
        names, new_names = names_of(old), names_of(new)
        if self._hidden.is_hiding(names, new_names):
            self._hidden.hide(names, new_names)
            return
        self._hidden.spare(new_names)
        self._operations.rename(*self._place(old), *self._place(new))

    # ---------------------------------------------------------------- files

    def open(self, path: str, flags: int) -> int:
        return self._operations.open(self._node(path), flags)

    def create(self, path: str, mode: int, info: Any = None) -> int:
        entry, handle = self._operations.create(*self._place(path), mode, os.O_RDWR, self._caller())
        self._forget(entry)
        return handle

    def read(self, path: str | None, size: int, offset: int, handle: int) -> bytes:
        return self._operations.read(handle, offset, size)

    def write(self, path: str | None, data: bytes, offset: int, handle: int, is_page: bool) -> int:
        return self._operations.write(handle, offset, data, is_page)

    def flush(self, path: str | None, handle: int) -> None:
        self._operations.flush(handle)

    def fsync(self, path: str | None, datasync: int, handle: int) -> None:
        self._operations.fsync(handle, bool(datasync))

    def release(self, path: str | None, handle: int) -> None:
        self._operations.release(handle)

    # ---------------------------------------------------------------- directories

    def opendir(self, path: str) -> int:
        return self._operations.opendir(self._node(path))

    def readdir(self, path: str | None, handle: int) -> Iterator[tuple[str, dict[str, int], int]]:
        for entry in self._operations.readdir(self._operations.directory_of(handle), 0):
            yield latin(entry.name), {"st_ino": entry.ino, "st_mode": entry.mode}, 0

    def releasedir(self, path: str | None, handle: int) -> None:
        self._operations.releasedir(handle)

    def fsyncdir(self, path: str | None, datasync: int, handle: int) -> None:
        self._operations.fsyncdir(self._operations.directory_of(handle), bool(datasync))

    # ---------------------------------------------------------------- extended attributes

    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        return self._operations.getxattr(self._node(path), exact(name))

    def setxattr(self, path: str, name: str, value: bytes, flags: int, position: int = 0) -> None:
        self._operations.setxattr(self._node(path), exact(name), value, flags)

    def listxattr(self, path: str) -> list[str]:
        return [latin(name) for name in self._operations.listxattr(self._node(path))]

    def removexattr(self, path: str, name: str) -> None:
        self._operations.removexattr(self._node(path), exact(name))


class FusepyDriver:
    """The driver, as ``drivers.Driver`` has it."""

    idle_nodes = 50_000

    def serve(
        self, operations: Operations, mountpoint: str, options: MountOptions, on_ready: Callable[[], None]
    ) -> None:
        with tracing(operations, options, "fusepy") as trace:
            handlers = PathOperations(operations, on_ready, trace)
            try:
                _Fuse(handlers, mountpoint, encoding="latin-1", foreground=True, **self._flags(operations, options))
            except RuntimeError as error:
                # fuse_main answers a number and has said why on standard error.
                raise MountError(f"libfuse could not mount on {mountpoint}") from error
            finally:
                _ignore_broken_pipes()

    def _flags(self, operations: Operations, options: MountOptions) -> dict[str, Any]:
        """libfuse's options. fusepy hands on those that are True."""
        as_root = os.geteuid() == 0
        allow_other = as_root if options.allow_other is None else options.allow_other
        return {
            "nothreads": not operations.is_thread_safe,
            "default_permissions": True,
            "use_ino": True,
            "big_writes": True,
            "auto_cache": True,
            "max_read": MOST_BYTES,
            "allow_other": allow_other,
            "ro": options.read_only,
            "suid": options.suid and as_root,
            "dev": options.dev and as_root,
            "noexec": not options.exec,
            "noatime": not options.atime,
            "attr_timeout": options.lower_ttl if options.attr_timeout is None else options.attr_timeout,
            "entry_timeout": options.lower_ttl if options.entry_timeout is None else options.entry_timeout,
            "negative_timeout": options.negative_timeout or 0.0,
            "fsname": options.fsname,
            "subtype": "joinfs",
        }


def _ignore_broken_pipes() -> None:
    """Have writing to a pipe or socket that nobody reads be an error again, not the end of the process.

    So Python has it. libfuse, when it ends, takes that for its own doing and undoes it.
    """
    if signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN:
        # signal.signal would do this in the main thread only.
        ctypes.CDLL(None).signal(signal.SIGPIPE, ctypes.c_void_p(signal.SIG_IGN.value))
