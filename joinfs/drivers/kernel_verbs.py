"""The kernel's requests, one method each, in terms of the file system's operations.

Each is called with the node and the caller of the request's header and the arguments that ``wire`` made of
the rest, and answers the reply's bytes. What goes wrong is raised, and becomes an errno in ``session``.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

from joinfs.config import MountOptions
from joinfs.drivers import wire
from joinfs.drivers.passthrough import Backings, OtherFile
from joinfs.drivers.wire import Init, Open, Ttl
from joinfs.filesystem.operations import Caller, Entry, Operations
from joinfs.stores.value import MEBIBYTE

# What the kernel may believe for long is what we are told of if others change it; then we tell the kernel.
LONG = 86_400.0
# Files of lower stores from this size on are read past us. Who reads a smaller one sees what is written after it was
# opened, as POSIX says; who reads a larger one that is then copied up does not, as on overlayfs.
LARGE = MEBIBYTE
# Files of lower stores up to this size are given to the kernel when they are opened.
LITTLE = 128 << 10
_SETID = 0o6000
_OF_STAGED = frozenset({"release", "flush"})
MAY_TAKE_LONG = frozenset({"fsync", "fsyncdir", "syncfs", "fallocate", "copy_file_range", "copy_file_range_64"}) | _OF_STAGED


class KernelVerbs:
    """What answers the kernel.

    Args:
        operations: The file system.
        options: How it is mounted.
        agreed: What was agreed on in INIT.
        backings: Where the kernel can be given files to read and write past us.
        give: Where it can be given what it has not asked for: as ``Session.give``. None if requests are answered side by side.
    """

    def __init__(
        self,
        operations: Operations,
        options: MountOptions,
        agreed: Init,
        backings: Backings | None,
        give: Callable[[Callable[[], list[bytes]]], None] | None = None,
    ) -> None:
        self._operations = operations
        self._read_only = options.read_only
        self._backings = backings
        self._give = give
        self._writeback = bool(agreed & Init.WRITEBACK_CACHE)
        self._told_name = Ttl.of(LONG if options.entry_timeout is None else options.entry_timeout)
        self._told_attr = Ttl.of(LONG if options.attr_timeout is None else options.attr_timeout)
        self._name = Ttl.of(options.lower_ttl if options.entry_timeout is None else options.entry_timeout)
        self._attr = Ttl.of(options.lower_ttl if options.attr_timeout is None else options.attr_timeout)
        self._told_absent = Ttl.of(LONG if options.negative_timeout is None else options.negative_timeout)
        self._absent = Ttl.of(options.negative_timeout or 0.0)

    def begin(self) -> None:
        """A thread begins to answer requests."""
        self._operations.serving()

    def may_take_long(self, verb: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a request may wait for a disk, or copy much, also where the store answers at once."""
        return verb not in _OF_STAGED or self._operations.keeps_staged(arguments[0])

    # ---------------------------------------------------------------- names

    def lookup(self, node: int, caller: Caller, name: str) -> bytes:
        try:
            return self._entry(self._operations.lookup(node, name))
        except KeyError:
            ttl = self._told_absent if self._operations.is_watched(node) else self._absent
            if ttl == (0, 0):
                raise
            return wire.no_entry(ttl)

    def _entry(self, entry: Entry) -> bytes:
        if entry.told:
            return wire.entry(entry.node, entry.attributes, self._told_name, self._told_attr)
        return wire.entry(entry.node, entry.attributes, self._name, self._attr)

    def forget(self, node: int, caller: Caller, count: int) -> None:
        self._operations.forget(node, count)

    def batch_forget(self, node: int, caller: Caller, nodes: list[tuple[int, int]]) -> None:
        for number, count in nodes:
            with contextlib.suppress(KeyError):
                self._operations.forget(number, count)

    def readlink(self, node: int, caller: Caller) -> bytes:
        return self._operations.readlink(node)

    def symlink(self, node: int, caller: Caller, name: str, target: bytes) -> bytes:
        return self._entry(self._operations.symlink(node, name, target, caller))

    def mknod(self, node: int, caller: Caller, mode: int, rdev: int, umask: int, name: str) -> bytes:
        return self._entry(self._operations.mknod(node, name, mode, rdev, caller, umask))

    def mkdir(self, node: int, caller: Caller, mode: int, umask: int, name: str) -> bytes:
        return self._entry(self._operations.mkdir(node, name, mode, caller, umask))

    def unlink(self, node: int, caller: Caller, name: str) -> bytes:
        self._operations.unlink(node, name)
        return b""

    def rmdir(self, node: int, caller: Caller, name: str) -> bytes:
        self._operations.rmdir(node, name)
        return b""

    def rename(self, node: int, caller: Caller, new_parent: int, name: str, new_name: str) -> bytes:
        self._operations.rename(node, name, new_parent, new_name)
        return b""

    def rename2(self, node: int, caller: Caller, new_parent: int, flags: int, name: str, new_name: str) -> bytes:
        self._operations.rename(node, name, new_parent, new_name, flags)
        return b""

    def link(self, node: int, caller: Caller, old: int, name: str) -> bytes:
        return self._entry(self._operations.link(old, node, name))

    # ---------------------------------------------------------------- attributes

    def getattr(self, node: int, caller: Caller, flags: int, handle: int) -> bytes:
        return wire.attr(self._operations.getattr(node), self._ttl(node))

    def _ttl(self, node: int) -> Ttl:
        return self._told_attr if self._operations.is_told(node) else self._attr

    def statx(self, node: int, caller: Caller, flags: int, handle: int) -> bytes:
        return wire.statx(self._operations.getattr(node), self._ttl(node))

    def setattr(self, node: int, caller: Caller, changes: dict[str, Any]) -> bytes:
        return wire.attr(self._operations.setattr(node, **changes), self._ttl(node))

    def access(self, node: int, caller: Caller, mask: int) -> bytes:
        self._operations.access(node, mask, caller)
        return b""

    def statfs(self, node: int, caller: Caller) -> bytes:
        return wire.statfs(self._operations.statfs())

    # ---------------------------------------------------------------- open files

    def open(self, node: int, caller: Caller, flags: int, kill: int) -> bytes:
        reading = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC
        handle = self._operations.open(node, flags, bool(kill & wire.OPEN_KILL_SUIDGID), lazily=reading)
        try:
            if reading:
                descriptor, through_us = self._to_read(node, handle), False
            else:
                descriptor, through_us = self._behind(handle), self._must_go_through_us(node, caller)
            return wire.opened(handle, *self._how(node, handle, descriptor, through_us))
        except OtherFile:
            self._operations.release(handle)
            self._operations.part(node)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None  # so the kernel looks the name up anew
        except BaseException:
            self._operations.release(handle)
            raise

    def create(self, node: int, caller: Caller, flags: int, mode: int, umask: int, kill: int, name: str) -> bytes:
        return self._made(*self._operations.create(node, name, mode, flags, caller, umask))

    def _made(self, entry: Entry, handle: int) -> bytes:
        try:
            return self._entry(entry) + wire.opened(handle, *self._how(entry.node, handle, self._behind(handle)))
        except BaseException:
            self._operations.release(handle)
            self._operations.forget(entry.node)
            raise

    def tmpfile(self, node: int, caller: Caller, flags: int, mode: int, umask: int, kill: int, name: str) -> bytes:
        return self._made(*self._operations.tmpfile(node, mode, flags, caller, umask))

    def _how(self, node: int, handle: int, descriptor: int | None, through_us: bool = False) -> tuple[int, int]:
        """How an open file is to behave, and the kernel's number for the file behind it.

        Args:
            node, handle: The file.
            descriptor: Of the local file that could be behind it.
            through_us: Whether we are to be asked all the same.
        """
        how, backing = Open.KEEP_CACHE, 0
        if self._backings is not None:
            how, backing = self._backings.open(node, handle, descriptor, through_us)
        return how | (0 if self._operations.keeps_staged(handle) else Open.NOFLUSH), backing

    def _behind(self, handle: int) -> int | None:
        return None if self._backings is None else self._operations.descriptor(handle)

    def _to_read(self, node: int, handle: int) -> int | None:
        """What may be behind a file that has been opened to read; if it is small, and nothing is, the kernel is given it."""
        in_place = not self._read_only and (self._backings is None or self._operations.getattr(node).size < LARGE)
        descriptor = self._operations.descriptor(handle, in_place)
        if descriptor is None and not self._operations.is_given(handle):
            if self._give is not None:
                self._give(lambda: self._small_data(node, handle))
            self._operations.descriptor(handle)  # who may not read it is told now; who may reads this file, whatever replaces it
        return None if self._backings is None else descriptor

    def _small_data(self, node: int, handle: int) -> list[bytes]:
        """Messages with the data of a small file that has just been opened, so nobody has to ask for it; and that its atime is another, if it is."""
        data = self._operations.give(handle, LITTLE)
        if data is None:
            return []
        return [wire.store(node, data), *([wire.inval_inode(node, data=False)] if self._operations.was_accessed(handle) else [])]

    def _must_go_through_us(self, node: int, caller: Caller) -> bool:
        """Whether the kernel, which writes past us as root does, would keep a set-user-ID bit that has to go."""
        return self._backings is not None and caller.uid != 0 and bool(self._operations.getattr(node).mode & _SETID)

    def read(self, node: int, caller: Caller, handle: int, offset: int, size: int) -> bytes:
        return self._operations.read(handle, offset, size, self._writeback)

    def write(self, node: int, caller: Caller, handle: int, offset: int, data: memoryview, flags: int) -> bytes:
        # Of a page of a mapping the kernel says where it goes, and has guessed the handle.
        count = self._operations.write(handle, offset, data, self._writeback or bool(flags & wire.WRITE_CACHE))
        if flags & wire.WRITE_KILL_SUIDGID:
            self._operations.kill_suidgid(node)
        return wire.written(count)

    def flush(self, node: int, caller: Caller, handle: int) -> bytes:
        self._operations.flush(handle)
        return b""

    def release(self, node: int, caller: Caller, handle: int) -> bytes:
        if self._backings is not None:
            self._backings.close(node, handle)
        self._operations.release(handle)
        return b""

    def fsync(self, node: int, caller: Caller, handle: int, flags: int) -> bytes:
        self._operations.fsync(handle, bool(flags & wire.FSYNC_DATA))
        return b""

    def syncfs(self, node: int, caller: Caller) -> bytes:
        self._operations.syncfs()
        return b""

    def fallocate(self, node: int, caller: Caller, handle: int, offset: int, length: int, mode: int) -> bytes:
        self._operations.fallocate(handle, mode, offset, length)
        return b""

    def lseek(self, node: int, caller: Caller, handle: int, offset: int, whence: int) -> bytes:
        if self._writeback:  # what the kernel has not handed on yet would be a hole: it does without us
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return wire.offset(self._operations.lseek(handle, offset, whence))

    def copy_file_range(
        self, node: int, caller: Caller, source: int, at: int, target_node: int, target: int, target_at: int, length: int
    ) -> bytes:
        # Who is told in 32 bits how much was copied asks for the rest.
        return wire.written(self._operations.copy_file_range(source, at, target, target_at, min(length, 1 << 30)))

    def copy_file_range_64(
        self, node: int, caller: Caller, source: int, at: int, target_node: int, target: int, target_at: int, length: int
    ) -> bytes:
        return wire.offset(self._operations.copy_file_range(source, at, target, target_at, min(length, 1 << 30)))

    # ---------------------------------------------------------------- directories

    def opendir(self, node: int, caller: Caller) -> bytes:
        """Have the kernel keep listings, and ask no more, if it will be told of what comes and goes; else ask every time."""
        if self._operations.can_tell:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return wire.opened(0, 0)

    def releasedir(self, node: int, caller: Caller) -> bytes:
        return b""

    def readdir(self, node: int, caller: Caller, handle: int, offset: int, size: int) -> bytes:
        found, room = [], size
        for entry in self._operations.readdir(node, offset):
            packed = wire.dirent(entry.ino, entry.offset, entry.mode, wire.raw(entry.name))
            room -= len(packed)
            if room < 0:
                break
            found.append(packed)
        return b"".join(found)

    def readdirplus(self, node: int, caller: Caller, handle: int, offset: int, size: int) -> bytes:
        entries = self._operations.readdirplus(node, offset, wire.direntplus_size, size)
        told, other = (self._told_name, self._told_attr), (self._name, self._attr)
        return b"".join([wire.direntplus(entry, *(told if entry.told else other)) for entry in entries])

    def fsyncdir(self, node: int, caller: Caller, flags: int) -> bytes:
        self._operations.fsyncdir(node, bool(flags & wire.FSYNC_DATA))
        return b""

    # ---------------------------------------------------------------- extended attributes

    def getxattr(self, node: int, caller: Caller, size: int, name: str) -> bytes:
        return _sized(self._operations.getxattr(node, name), size)

    def listxattr(self, node: int, caller: Caller, size: int) -> bytes:
        return _sized(b"".join(wire.raw(name) + b"\0" for name in self._operations.listxattr(node)), size)

    def setxattr(self, node: int, caller: Caller, name: str, value: bytes, flags: int, kill_sgid: bool) -> bytes:
        self._operations.setxattr(node, name, value, flags, kill_sgid)
        return b""

    def removexattr(self, node: int, caller: Caller, name: str) -> bytes:
        self._operations.removexattr(node, name)
        return b""

    # ---------------------------------------------------------------- the end

    def destroy(self, node: int, caller: Caller) -> bytes:
        """The mount is going; what is staged is committed by who started us."""
        return b""

    def take_back(self, verb: str, reply: bytes) -> None:
        """A reply was not delivered: the kernel does not know the nodes in it."""
        for node in wire.nodes_in(verb, reply):
            self._operations.forget(node)


def _sized(value: bytes, size: int) -> bytes:
    """A value for who has room for ``size`` bytes; for who asks with 0, its length."""
    if not size:
        return wire.written(len(value))
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
