"""Finding and reading what is in a directory of the host; see ``directory``."""

import contextlib
import errno
import io
import itertools
import os
import stat as stat_module
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    NotADirectory,
    OutOfSpace,
    ReadOnly,
    StoreUnavailable,
    Unsupported,
)
from joinfs.stores import beneath
from joinfs.stores.attributes import FileAttributes, against_mode
from joinfs.stores.base import Store
from joinfs.stores.directory_files import TEMPORARY, Held, decode, encode, open_stream, stat_of
from joinfs.stores.directory_journal import recover
from joinfs.stores.directory_places import DIRECTORY_FLAGS, OpenDirectories, Place, host_names
from joinfs.stores.directory_watching import DirectoryWatching
from joinfs.stores.gate import Gate
from joinfs.stores.keys import ROOT, is_directory_key
from joinfs.stores.metadata import selected
from joinfs.stores.value import Capabilities, Metadata, Opened, Stat, Usage, Value

# Entries that are read at a time.
PAGE = 256
# A descriptor beyond this tells that many are open.
MOST_HELD = 200
# Bytes of a file that are read ahead of whoever opens it; in what is longer the host itself reads ahead.
PREFETCHED = 1 << 20
# A FIFO or device that has taken the place of a file is not waited for.
_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_TO_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_TRANSLATED = {
    errno.ENOSPC: OutOfSpace,
    errno.EROFS: ReadOnly,
    errno.ENOTEMPTY: DirectoryNotEmpty,
    errno.EISDIR: IsADirectory,
}
_NOT_A_DIRECTORY = {errno.ENOTDIR, errno.ELOOP, errno.EXDEV}


class DirectoryReading(Store):
    """The reading half of ``DirectoryStore``."""

    def __init__(
        self, path: str | os.PathLike[str], event_manager: Any = None, read_only: bool = False
    ) -> None:
        super().__init__(event_manager)
        self.path = os.path.abspath(path)
        self.name = f"dir:{os.fspath(path)}"
        self._read_only = read_only
        self.capabilities = Capabilities(writable=not read_only)
        self._root = -1
        self._device: int | None = None
        self._gate = Gate()
        self._watching: DirectoryWatching | None = None

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        try:
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be opened as a directory: {error.strerror}") from error
        self._device = os.fstat(self._root).st_dev
        self._directories = OpenDirectories(self._root)
        self._attributes = FileAttributes(self.name)
        is_plain = not self._attributes.are_of_a_mount(self._root)
        self.capabilities = Capabilities(
            writable=not self._read_only and os.access(self.path, os.W_OK, effective_ids=True),
            metadata=self._attributes.are_kept_by(self._root),
            metadata_on_all=False,
            xattrs=True,
            hard_links=True,
            local=True,
            transactions=not self._read_only and is_plain,
            acls=self._attributes.are_acls_kept_by(self._root),
            marks=is_plain,
        )
        if self.capabilities.writable and is_plain:
            try:
                recover(self._root, self.name)
            except BaseException as error:
                self.disconnect()
                if isinstance(error, OSError):
                    text = f"{self.name}: a transaction that was cut off cannot be undone: {error.strerror}"
                    raise StoreUnavailable(f"{text}; connect it as who may write there") from error
                raise
        self._watching = DirectoryWatching(self._root, self._told, not self.capabilities.writable, self.name)

    def disconnect(self) -> None:
        if self._watching is not None:
            self._watching.close()
        self._watching = None
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)
            self._directories.close()

    def is_connected(self) -> bool:
        return self._root >= 0

    def watch(self, directory: str) -> bool:
        """The same. A file that others write to has changed when they close it; in a store that takes no writes, at each write.

        False also if the user has as many watches as the host allows (fs.inotify.max_user_watches); a warning is logged once.
        """
        if self._watching is None:
            self._check_connected()
        try:
            host_names(directory)
        except (InvalidKey, KeyError):
            return False
        return self._watching is not None and is_directory_key(directory) and self._watching.watch(directory)

    def unwatch(self, directory: str) -> None:
        if self._watching is not None:
            self._watching.unwatch(directory)
            self._directories.forget_below(encode(directory.removesuffix("/")))

    # ---------------------------------------------------------------- finding

    def _at(self, key: str, writing: bool = False) -> Place:
        return Place(self, key, writing)

    def _is_watched(self, directory: str) -> bool:
        return self._watching is not None and self._watching.is_watched(directory)

    def _note_change(self, *keys: str) -> None:
        super()._note_change(*keys)
        if self._watching is not None:
            self._watching.written(keys)

    def _told(self, key: str | None) -> None:
        """What others did to directories that are watched."""
        if key is None or key.endswith("/"):
            self._directories.forget()
        self._tell_changed(key)

    @contextlib.contextmanager
    def _pinned_whole(self, key: str) -> Iterator[int]:
        """Give a descriptor that only names what is at ``key``, which is of the kind that it is spelled as."""
        self._check_connected()
        descriptor = -1
        with self._gate.shared():
            try:
                above, path, name = host_names(key)
                directory = self._directories.kept(path)
                if directory is None and self._is_watched(above):
                    directory = self._directories.open(path, lambda: self._is_watched(above))
                if directory is not None:
                    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory.descriptor)
                else:
                    descriptor = beneath.open_beneath(self._root, path + b"/" + name if path else name, os.O_PATH | os.O_NOFOLLOW)
                yield descriptor
            except (InvalidKey, OSError) as error:
                raise self._translated(error, key, False) from error
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _translated(self, error: InvalidKey | OSError, key: str, writing: bool) -> Exception:
        """What an error of the host means to who asked for ``key``."""
        if isinstance(error, InvalidKey):
            return error if writing else KeyError(key)
        if error.errno == errno.ENOENT:
            self._directories.forget_removed(host_names(key)[1])
            return KeyError(key)
        if error.errno in _NOT_A_DIRECTORY and not writing:
            return KeyError(key)
        if error.errno in _NOT_A_DIRECTORY:
            return NotADirectory(f"something in {key!r} is not a directory")
        cls = _TRANSLATED.get(error.errno or 0)
        return error if cls is None else cls(f"{key!r} in {self.name}: {error.strerror}")

    def _native(self, directory: int, name: bytes, key: str) -> Stat:
        """The attributes of a name that is of the kind that ``key`` is spelled as."""
        return self._of_kind(self._stat_in(directory, name), key)

    def _stat_in(self, directory: int, name: bytes) -> Stat:
        """The attributes of a name; in our own directory also against its mode, as marks may be in it."""
        try:
            native = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except PermissionError:
            with against_mode(directory):
                native = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return stat_of(native, self._device)

    @staticmethod
    def _of_kind(stat: Stat, key: str) -> Stat:
        if stat.is_directory != is_directory_key(key):
            raise KeyError(key)
        return stat

    def stat(self, key: str) -> Stat:
        with self._at(key) as (directory, name):
            stat = self._native(directory, name, key)
        return stat if key else _uncounted(stat)

    def lookup(self, key: str) -> Stat:
        with self._at(key) as (directory, name):
            stat = self._stat_in(directory, name)
        return stat if key else _uncounted(stat)

    # ---------------------------------------------------------------- reading

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        with self._at(prefix) as (parent, name):
            if not is_directory_key(prefix):
                raise KeyError(prefix)
            descriptor = self._open_to_list(parent, name)
        try:
            with os.scandir(descriptor) as entries:
                while (page := self._page(descriptor, entries)) is not None:
                    yield from page
        finally:
            os.close(descriptor)

    def _open_to_list(self, parent: int, name: bytes) -> int:
        """Open a directory; our own also against its mode: who removes one has us look whether it is empty."""
        try:
            return os.open(name, _TO_LIST, dir_fd=parent)
        except PermissionError:
            pinned = os.open(name, DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=parent)
            try:
                with against_mode(pinned):
                    return os.open(name, _TO_LIST, dir_fd=parent)
            finally:
                os.close(pinned)

    def _page(self, directory: int, entries: Iterator[os.DirEntry[str]]) -> Sequence[tuple[str, Stat]] | None:
        """The next entries of a directory, read while no other thread has a transaction open; None at the end."""
        page: list[tuple[str, Stat]] = []
        with self._gate.shared():
            some = list(itertools.islice(entries, PAGE))
            for entry in some:
                name = decode(entry.name)
                if name[0] == "." and name.startswith(TEMPORARY):
                    continue
                try:
                    page.append((name, stat_of(entry.stat(follow_symlinks=False), self._device)))
                except FileNotFoundError:  # gone meanwhile
                    continue
                except PermissionError:
                    page.append((name, self._stat_in(directory, encode(name))))
        return page if some else None

    def _open(self, key: str, flags: int) -> int:
        """Open a regular file; a FIFO or device that is there instead is not waited for."""
        with self._at(key) as (directory, name):
            stat = self._native(directory, name, key)
            if not stat.is_file:
                raise Unsupported(f"{key!r} is not a regular file")
            return self._open_file(directory, name, stat, flags | _SAFE)

    def _open_file(self, directory: int, name: bytes, stat: Stat, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=directory)
        except PermissionError:
            if stat.uid != os.geteuid():
                raise
            return self._open_own(directory, name, flags & ~os.O_NOFOLLOW)

    def _open_own(self, directory: int, name: bytes, flags: int) -> int:
        """Open our own file against its mode."""
        pinned = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
        place = f"/proc/self/fd/{pinned}"
        try:
            native = os.fstat(pinned)
            if not stat_module.S_ISREG(native.st_mode):
                raise Unsupported(f"{name!r} is not a regular file")
            with against_mode(pinned):
                return os.open(place, flags)
        finally:
            os.close(pinned)

    def get(self, key: str) -> Value:
        with self._pinned_whole(key) as pinned:
            stat = self._of_kind(stat_of(os.fstat(pinned), self._device), key)
            if stat.is_file:
                return self._file_value(key, stat, pinned)
            metadata = self._attributes.metadata_through(pinned, stat)
            data = os.readlink(b"", dir_fd=pinned) if stat.is_symlink else b""
        return Value(lambda: io.BytesIO(data), metadata, stat.size if stat.is_symlink else 0, *stat.moments())

    def _file_value(self, key: str, stat: Stat, pinned: int) -> Value:
        """A file's value, open already: what is read then is what was asked for, whatever has replaced it since."""
        try:
            held = Held(os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError:  # not ours to read: who asks for the data is told
            held = None
        # Descriptors are given out lowest first. Values of which many are kept must not use up all that there are.
        if held is None or held.descriptor > MOST_HELD:
            metadata = self._attributes.metadata_through(pinned, stat)
            return Value(lambda: self._file_data(key, stat), metadata, stat.size, *stat.moments())
        metadata = self._attributes.metadata_of(held.descriptor)
        return Value(lambda: held.stream() or self._file_data(key, stat), metadata, stat.size, *stat.moments())

    def _file_data(self, key: str, stat: Stat) -> BinaryIO | Opened:
        stream = open_stream(self._open(key, os.O_RDONLY))
        new = stat_of(os.fstat(stream.fileno()), self._device)
        if (new.file_id, new.ctime) == (stat.file_id, stat.ctime):
            return stream
        return Opened(stream, self._attributes.metadata_of(stream.fileno()), new.size, *new.moments())

    def read(self, key: str, offset: int, size: int) -> bytes:
        if not self.stat(key).is_file:
            return super().read(key, offset, size)
        descriptor = self._open(key, os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def prefetch(self, directory: str, names: Sequence[str]) -> None:
        """The same; the host reads what it has not in memory, as far as ``PREFETCHED`` bytes of each."""
        if not is_directory_key(directory) or not names:
            return
        with self._at(directory + names[0]) as (place, _):
            for name in names:
                with contextlib.suppress(OSError):
                    descriptor = os.open(encode(name), os.O_RDONLY | _SAFE, dir_fd=place)
                    try:
                        os.posix_fadvise(descriptor, 0, PREFETCHED, os.POSIX_FADV_WILLNEED)
                    finally:
                        os.close(descriptor)

    def open_local(self, key: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._check_writable(key)
            if self._gate.is_mine():
                raise Unsupported(f"{key!r}: what is written through a descriptor cannot be part of a transaction")
        return self._open(key, flags & (os.O_ACCMODE | os.O_TRUNC | os.O_DIRECT))

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        if select is not None and key != ROOT:
            with self._at(key) as (directory, name):
                stat = self._of_kind(stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False), self._device), key)
                return self._attributes.metadata_called(directory, name, stat, select)
        with self._pinned_whole(key) as pinned:
            metadata = self._attributes.metadata_through(pinned, self._of_kind(stat_of(os.fstat(pinned), self._device), key))
        return selected(metadata, select)

    def keys(self, prefix: str = ROOT) -> Iterator[str]:
        return (key for key, _ in self._matching(prefix, {}))

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        names = None if select is None else list(select)
        for key, metadata in self._matching(ROOT, kwargs):
            with contextlib.suppress(KeyError):  # gone since it was listed
                yield key, selected(self.get_metadata(key) if metadata is None else metadata, names)

    def _matching(self, prefix: str, wanted: Mapping[str, Any]) -> Iterator[tuple[str, Metadata | None]]:
        """Yield the keys below a directory with all that is wanted, and their metadata where that had to be read."""
        if not is_directory_key(prefix):
            return
        try:
            with self._at(prefix) as (parent, name):
                found, below = self._matching_in(parent, name, wanted)
        except KeyError:
            return
        yield from ((prefix + entry, metadata) for entry, metadata in found)
        for entry in below:
            yield from self._matching(f"{prefix}{entry}/", wanted)

    def _matching_in(
        self, parent: int, name: bytes, wanted: Mapping[str, Any]
    ) -> tuple[Sequence[tuple[str, Metadata | None]], Sequence[str]]:
        """The files of one directory that match, and the directories in it."""
        found: list[tuple[str, Metadata | None]] = []
        below = []
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        try:
            with os.scandir(descriptor) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    text = decode(entry.name)
                    if text.startswith(TEMPORARY):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        below.append(text)
                    elif not wanted and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                        found.append((text, None))
                    elif wanted and entry.is_file(follow_symlinks=False):
                        metadata = self._attributes.matching(descriptor, encode(text), wanted)
                        found += [(text, metadata)] if metadata else []
        finally:
            os.close(descriptor)
        return found, below

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        with self._at(key) as (directory, name):
            self._native(directory, name, key)
            return self._attributes.foreign(directory, name)

    def check(self) -> Iterator[str]:
        """The same; that data is what was written is the host's matter. Tells of what a process that died has left, too."""
        from joinfs.stores.checking import read_through  # noqa: PLC0415

        yield from read_through(self, with_data=False)
        for above, _, files, _ in os.fwalk(".", dir_fd=self._root):
            left = [name for name in files if name.startswith(TEMPORARY)]
            yield from (f"{os.path.join(above, name)!r} was left by a process that died; delete it" for name in left)
        if os.path.exists(f"/proc/self/fd/{self._root}/{TEMPORARY}transactions/open"):
            yield "a transaction was cut off; it is undone when the directory is next opened for writing"

    def usage(self) -> Usage:
        self._check_connected()
        room = os.fstatvfs(self._root)
        return Usage(room.f_frsize, room.f_blocks, room.f_bfree, room.f_bavail, room.f_files, room.f_ffree)


def _uncounted(root: Stat) -> Stat:
    """The attributes of the root, where there can be directories that are no keys."""
    return root._replace(nlink=1)
