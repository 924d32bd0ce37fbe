"""A directory of the host as a store, as it is: attributes, metadata and special files are native.

Files are replaced whole: a new one is written without a name, with all its attributes, and then takes
the place of the old one in one step. What cannot be made without a name is made under one that begins
with ``.wh..wh.joinfs.``, which no listing shows and no join takes for an entry.
"""

import contextlib
import errno
import io
import itertools
import os
import secrets
import stat as stat_module
import sys
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NotADirectory,
    OutOfSpace,
    ReadOnly,
    StoreUnavailable,
    Unsupported,
)
from joinfs.stores import beneath
from joinfs.stores.attributes import FileAttributes
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.directory_files import TEMPORARY, copy_range, encode, fill, give_name, stat_of, unnamed_file
from joinfs.stores.directory_journal import Journal, recover
from joinfs.stores.gate import Gate
from joinfs.stores.keys import ROOT, ancestors, check_key, is_directory_key, split
from joinfs.stores.value import Capabilities, Metadata, Stat, Usage, Value

# Entries that are read at a time.
PAGE = 256
_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY
_UTF8 = sys.getfilesystemencoding() == "utf-8"
_TRANSLATED = {
    errno.ENOSPC: OutOfSpace,
    errno.EROFS: ReadOnly,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.EISDIR: IsADirectory,
}
_NOT_A_DIRECTORY = {errno.ENOTDIR, errno.ELOOP, errno.EXDEV}


class DirectoryStore(Store):
    """A directory of the host.

    Nothing outside it can be reached through a key, whatever symlinks there are. Transactions are all or
    nothing for this process, also after a crash, when the store is next connected for writing; who looks
    into the directory without joinfs sees the writes as they are made.

    Args:
        path: The directory; it must be there.
        event_manager: As for ``Store``.
        read_only: Take no writes, even where the host would.
    """

    def __init__(
        self, path: str | os.PathLike[str], event_manager: Any = None, read_only: bool = False
    ) -> None:
        super().__init__(event_manager)
        self.path = os.path.abspath(path)
        self.name = f"dir:{os.fspath(path)}"
        self._read_only = read_only
        self.capabilities = Capabilities(writable=not read_only)
        self._root = -1
        self._gate = Gate()
        self._open_journal: Journal | None = None

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        try:
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be opened as a directory: {error.strerror}") from error
        self._attributes = FileAttributes(self.name)
        self.capabilities = Capabilities(
            writable=not self._read_only and os.access(self.path, os.W_OK, effective_ids=True),
            metadata=self._attributes.are_kept_by(self._root),
            metadata_on_all=False,
            xattrs=True,
            hard_links=True,
            local=True,
            transactions=not self._read_only,
        )
        if self.capabilities.writable:
            try:
                recover(self._root, self.name)
            except BaseException:
                self.disconnect()
                raise

    def disconnect(self) -> None:
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)

    def is_connected(self) -> bool:
        return self._root >= 0

    # ---------------------------------------------------------------- finding

    @contextlib.contextmanager
    def _at(self, key: str, writing: bool = False) -> Iterator[tuple[int, bytes]]:
        """Give (descriptor of the directory that ``key`` is in, name), and translate errors.

        No other thread has a transaction open meanwhile.
        """
        with self._gate.shared(), self._at_once(key, writing) as place:
            yield place

    @contextlib.contextmanager
    def _at_once(self, key: str, writing: bool) -> Iterator[tuple[int, bytes]]:
        self._check_connected()
        above, name = split(key)
        if TEMPORARY in key and any(part.startswith(TEMPORARY) for part in key.split("/")):
            raise KeyError(key)
        directory = -1
        try:
            check_key(key)
            if above != ROOT:
                directory = beneath.open_beneath(self._root, encode(above[:-1]), _DIRECTORY_FLAGS)
            yield (self._root if directory < 0 else directory), encode(name) or b"."
        except InvalidKey:
            if writing:
                raise
            raise KeyError(key) from None
        except OSError as error:
            raise self._translated(error, key, writing) from error
        finally:
            if directory >= 0:
                os.close(directory)

    def _translated(self, error: OSError, key: str, writing: bool) -> Exception:
        if error.errno == errno.ENOENT or (error.errno in _NOT_A_DIRECTORY and not writing):
            return KeyError(key)
        if error.errno in _NOT_A_DIRECTORY:
            return NotADirectory(f"something in {key!r} is not a directory")
        cls = _TRANSLATED.get(error.errno or 0)
        return error if cls is None else cls(f"{key!r} in {self.name}: {error.strerror}")

    def _native(self, directory: int, name: bytes, key: str) -> Stat:
        """The attributes of a name that is of the kind that ``key`` is spelled as."""
        stat = stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
        if stat.is_directory != is_directory_key(key):
            raise KeyError(key)
        return stat

    def stat(self, key: str) -> Stat:
        with self._at(key) as (directory, name):
            return self._native(directory, name, key)

    def lookup(self, key: str) -> Stat:
        with self._at(key) as (directory, name):
            return stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False))

    # ---------------------------------------------------------------- reading

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        with self._at(prefix) as (parent, name):
            if not is_directory_key(prefix):
                raise KeyError(prefix)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            descriptor = os.open(name, flags, dir_fd=parent)
        try:
            with os.scandir(descriptor) as entries:
                while page := self._page(entries):
                    for entry, stat in page:
                        if stat is not None:
                            yield entry, stat
        finally:
            os.close(descriptor)

    def _page(self, entries: Iterator[os.DirEntry[str]]) -> Sequence[tuple[str, Stat | None]]:
        """The next entries of a directory, read while no other thread has a transaction open."""
        page = []
        with self._gate.shared():
            for entry in itertools.islice(entries, PAGE):
                name = entry.name if _UTF8 else os.fsencode(entry.name).decode("utf-8", "surrogateescape")
                stat = None
                if not name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):
                        stat = stat_of(entry.stat(follow_symlinks=False))
                page.append((name, stat))
        return page

    def _open(self, key: str, flags: int) -> int:
        """Open a regular file; a FIFO or device that is there instead is not waited for."""
        with self._at(key) as (directory, name):
            safe = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
            stat = self._native(directory, name, key)
            if not stat.is_file:
                raise Unsupported(f"{key!r} is not a regular file")
            return self._open_file(directory, name, stat, flags | safe)

    def _open_file(self, directory: int, name: bytes, stat: Stat, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=directory)
        except PermissionError:
            if stat.uid != os.geteuid():
                raise
            return self._open_own(directory, name, flags & ~os.O_NOFOLLOW)

    def _open_own(self, directory: int, name: bytes, flags: int) -> int:
        """Open our own file against its mode, as who has just created it with mode 0444 may write to it.

        Whether the caller may was the mount's to check.
        """
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        place = f"/proc/self/fd/{pinned}"
        try:
            native = os.fstat(pinned)
            if not stat_module.S_ISREG(native.st_mode):
                raise Unsupported(f"{name!r} is not a regular file")
            os.chmod(place, stat_module.S_IMODE(native.st_mode) | stat_module.S_IRUSR | stat_module.S_IWUSR)
            try:
                return os.open(place, flags)
            finally:
                os.chmod(place, stat_module.S_IMODE(native.st_mode))
        finally:
            os.close(pinned)

    def get(self, key: str) -> Value:
        with self._at(key) as (directory, name):
            stat = self._native(directory, name, key)
            metadata = self._attributes.metadata(directory, name, stat)
        return Value(lambda: self._data(key, stat), metadata, stat.size, *stat.moments())

    def _data(self, key: str, stat: Stat) -> BinaryIO:
        if stat.is_file:
            return os.fdopen(self._open(key, os.O_RDONLY), "rb")
        if not stat.is_symlink:
            return io.BytesIO()
        with self._at(key) as (directory, name):
            return io.BytesIO(os.readlink(name, dir_fd=directory))

    def read(self, key: str, offset: int, size: int) -> bytes:
        if not self.stat(key).is_file:
            return super().read(key, offset, size)
        descriptor = self._open(key, os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def open_local(self, key: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._check_writable(key)
            if self._gate.is_mine():
                raise Unsupported(f"{key!r}: what is written through a descriptor cannot be part of a transaction")
        return self._open(key, flags & (os.O_ACCMODE | os.O_TRUNC | os.O_DIRECT))

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        with self._at(key) as (directory, name):
            metadata = self._attributes.metadata(directory, name, self._native(directory, name, key))
        return metadata if select is None else {n: metadata[n] for n in select if n in metadata}

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        with self._at(key) as (directory, name):
            self._native(directory, name, key)
            return self._attributes.foreign(directory, name)

    def usage(self) -> Usage:
        self._check_connected()
        room = os.fstatvfs(self._root)
        return Usage(room.f_frsize, room.f_blocks, room.f_bfree, room.f_bavail, room.f_files, room.f_ffree)

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._gate.alone():
            try:
                yield
            except BaseException:
                journal, self._open_journal = self._open_journal, None
                if journal is not None:
                    journal.roll_back()
                raise
            journal, self._open_journal = self._open_journal, None
            if journal is not None:
                journal.commit()

    def _journal(self) -> Journal | None:
        """The journal of this thread's transaction, begun with its first write; None without one."""
        if not self._gate.is_mine():
            return None
        if self._open_journal is None:
            self._open_journal = Journal(self._root, self.name)
        return self._open_journal

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        self._make_parents(key)
        with self._at(key, writing=True) as (directory, name):
            there = self._standing(directory, name, key, stat)
            in_place = there is not None and there.is_file and stat.is_file and there.nlink > 1
            if there is not None and stat.is_directory:
                if journal := self._journal():
                    journal.changing(directory, name, key)
                return self._change_directory(directory, name, stat, metadata, xattrs)
            if (journal := self._journal()) and not in_place:
                self._note_replacing(journal, directory, name, key, there)
            if not stat.is_file:
                self._put_special(journal.place if journal else directory, directory, name, stat, data, metadata, xattrs)
            else:
                workshop = journal.place if journal else directory
                with unnamed_file(workshop) as (descriptor, temporary):
                    fill(descriptor, data, buffer_size)
                    self._attributes.apply(descriptor, stat, metadata, xattrs)
                    if there is not None and in_place:
                        with self._noted_overwriting(directory, name, key), self._open_to_overwrite(directory, name, there) as target:
                            self._overwrite(target, descriptor, stat, metadata, xattrs)
                    else:
                        give_name(descriptor, temporary, workshop, directory, name)
            return stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False))

    def _note_replacing(self, journal: Journal, directory: int, name: bytes, key: str, there: Stat | None) -> None:
        if there is None:
            journal.making(directory, key)
        elif there.is_directory:
            journal.removing_directory(directory, name, key)
        else:
            journal.replacing(directory, name, key.removesuffix("/"))

    @contextlib.contextmanager
    def _noted_overwriting(self, directory: int, name: bytes, key: str) -> Iterator[None]:
        """Around writing a file in place: in a transaction of its own, if there is none."""
        if journal := self._journal():
            journal.overwriting(directory, name, key)
            yield
            return
        journal = Journal(self._root, self.name)
        try:
            journal.overwriting(directory, name, key)
            yield
        except BaseException:
            journal.roll_back()
            raise
        journal.commit()

    def _standing(self, directory: int, name: bytes, key: str, stat: Stat) -> Stat | None:
        try:
            there = stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
        except FileNotFoundError:
            return None
        if there.is_directory != stat.is_directory:
            raise (IsADirectory if there.is_directory else NotADirectory)(f"{key!r} is of the other kind")
        return there

    def _make_parents(self, key: str) -> None:
        above = split(key)[0]
        if above == ROOT:
            return
        with contextlib.suppress(OSError):
            os.close(beneath.open_beneath(self._root, encode(above[:-1]), _DIRECTORY_FLAGS))
            return
        for parent in ancestors(key):
            with self._at(parent, writing=True) as (directory, name), contextlib.suppress(FileExistsError):
                if (journal := self._journal()) and not _is_there(directory, name):
                    journal.making(directory, parent)
                os.mkdir(name, stat_module.S_IMODE(DEFAULT_DIRECTORY_MODE), dir_fd=directory)

    def _change_directory(
        self, directory: int, name: bytes, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]
    ) -> Stat:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            self._attributes.replace_metadata(descriptor, metadata)
            self._attributes.apply(descriptor, stat, {}, xattrs)
            return stat_of(os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _put_special(
        self,
        workshop: int,
        directory: int,
        name: bytes,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
    ) -> None:
        """Make a directory, symlink, device, FIFO or socket under another name, and move it into place."""
        if metadata and not stat.is_directory:
            raise Unsupported(f"{self.name} holds no metadata on symlinks and special files")
        temporary = encode(TEMPORARY + secrets.token_hex(8))
        try:
            if stat.is_directory:
                os.mkdir(temporary, 0o700, dir_fd=workshop)
            elif stat.is_symlink:
                os.symlink(b"" if data is None else data.read(), temporary, dir_fd=workshop)
            else:
                os.mknod(temporary, stat.mode, stat.rdev, dir_fd=workshop)
            self._attributes.apply_at(workshop, temporary, stat, metadata, xattrs)
            os.rename(temporary, name, src_dir_fd=workshop, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                (os.rmdir if stat.is_directory else os.unlink)(temporary, dir_fd=workshop)
            raise

    @contextlib.contextmanager
    def _open_to_overwrite(self, directory: int, name: bytes, there: Stat) -> Iterator[int]:
        descriptor = self._open_file(directory, name, there, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _overwrite(
        self, target: int, source: int, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]
    ) -> None:
        """Copy into a file that has other names too, and must stay the same file for them.

        Who reads it meanwhile may see some of both; after a failure or a crash it is what it was.
        """
        size = os.fstat(source).st_size
        copy_range(source, target, size)
        os.ftruncate(target, size)
        self._attributes.replace_metadata(target, metadata)
        self._attributes.apply(target, stat, {}, xattrs)

    def _delete(self, key: str) -> None:
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        with self._at(key, writing=True) as (directory, name):
            there = self._native(directory, name, key)
            if journal := self._journal():
                self._note_replacing(journal, directory, name, key, there)
            try:
                (os.rmdir if is_directory_key(key) else os.unlink)(name, dir_fd=directory)
            except FileExistsError as error:
                raise DirectoryNotEmpty(f"{key!r} has entries") from error

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        with self._at(key, writing=True) as (directory, name), self._pinned(directory, name, key) as descriptor:
            if journal := self._journal():
                journal.changing(directory, name, key)
            self._attributes.replace_metadata(descriptor, metadata)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        with self._at(key, writing=True) as (directory, name), self._pinned(directory, name, key) as descriptor:
            if journal := self._journal():
                journal.changing(directory, name, key)
            self._attributes.change(descriptor, directory, name, changes)
            return stat_of(os.fstat(descriptor))

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        with self._at(key, writing=True) as (directory, file_name):
            self._native(directory, file_name, key)
            if journal := self._journal():
                journal.changing(directory, file_name, key)
            self._attributes.set_foreign(directory, file_name, name, value)

    @contextlib.contextmanager
    def _pinned(self, directory: int, name: bytes, key: str) -> Iterator[int]:
        """A descriptor that only names the file: whoever swaps the name meanwhile swaps nothing for us."""
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        try:
            if stat_module.S_ISDIR(os.fstat(descriptor).st_mode) != is_directory_key(key):
                raise KeyError(key)
            yield descriptor
        finally:
            os.close(descriptor)

    def _rename(self, old: str, new: str) -> None:
        self.stat(old)
        self._make_parents(new)
        with self._at(new, writing=True) as (to_directory, to_name), self._at(old, True) as (directory, name):
            there = self._standing(to_directory, to_name, new, self._native(directory, name, old))
            if (journal := self._journal()) and old != new:
                if there is not None:
                    self._note_replacing(journal, to_directory, to_name, new, there)
                journal.moving(directory, name, old, to_directory, new)
            try:
                os.rename(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
            except FileExistsError as error:
                raise DirectoryNotEmpty(f"{new!r} has entries: {there}") from error

    def _exchange(self, first: str, second: str) -> None:
        with self._at(first, True) as (directory, name), self._at(second, True) as (other_directory, other_name):
            self._native(directory, name, first)
            self._native(other_directory, other_name, second)
            if journal := self._journal():
                journal.exchanging(directory, name, first, other_directory, second)
            try:
                beneath.exchange(directory, name, other_directory, other_name)
            except OSError as error:
                if error.errno in {errno.EINVAL, errno.ENOSYS}:
                    raise Unsupported(f"the file system of {self.name} cannot swap two names") from error
                raise

    def _link(self, old: str, new: str) -> Stat:
        self.stat(old)
        self._make_parents(new)
        with self._at(old, writing=True) as (directory, name), self._at(new, True) as (to_directory, to_name):
            if (journal := self._journal()) and not _is_there(to_directory, to_name):
                journal.making(to_directory, new)
            try:
                os.link(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory, follow_symlinks=False)
            except FileExistsError as error:
                raise KeyExists(f"{new!r} is there already") from error
            return stat_of(os.stat(to_name, dir_fd=to_directory, follow_symlinks=False))

    def sync(self, key: str | None = None) -> None:
        self._check_connected()
        if key is None:
            beneath.sync_filesystem(self._root)
            return
        with self._at(key) as (parent, name):
            kind = self._native(parent, name, key)
            opened = [os.open(b".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)]
            try:
                if kind.is_file or kind.is_directory:
                    opened.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent))
                for descriptor in reversed(opened):
                    os.fsync(descriptor)
            finally:
                for descriptor in opened:
                    os.close(descriptor)


def _is_there(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
