"""A directory of the host as a store, as it is: attributes, metadata and special files are native.

Files are replaced whole: a new one is written without a name, with all its attributes, and then takes
the place of the old one in one step. What cannot be made without a name is made under one that begins
with ``.wh..wh.joinfs.``, which no listing shows and no join takes for an entry.
"""

import contextlib
import errno
import io
import os
import secrets
import stat as stat_module
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, KeyExists, NotADirectory, Unsupported
from joinfs.stores import beneath
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, DEFAULT_FILE_MODE
from joinfs.stores.directory_files import TEMPORARY, Filled, copy_range, encode, give_name, give_new_name, stat_of, unnamed_file
from joinfs.stores.directory_journal import Journal
from joinfs.stores.directory_making import LOCKS, DirectoryMaking, Exclusive
from joinfs.stores.directory_places import DIRECTORY_FLAGS
from joinfs.stores.keys import ROOT, ancestors, directory_key, is_directory_key, split
from joinfs.stores.value import Metadata, Stat, drained, new_stat


def _rename_natively(old_directory: int, old: bytes, new_directory: int, new: bytes) -> None:
    os.rename(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory)


class DirectoryStore(DirectoryMaking):
    """A directory of the host.

    Nothing outside it can be reached through a key, whatever symlinks there are. Transactions are all or
    nothing for this process, also after a crash, when the store is next connected for writing; who looks
    into the directory without joinfs sees the writes as they are made.

    Args:
        path: The directory; it must be there.
        event_manager: As for ``Store``.
        read_only: Take no writes, even where the host would.
    """

    def __init__(self, path: str | os.PathLike[str], event_manager: Any = None, read_only: bool = False) -> None:
        super().__init__(path, event_manager, read_only)
        self._locks = [threading.RLock() for _ in range(LOCKS)]
        self._open_journal: Journal | None = None

    # ---------------------------------------------------------------- writing

    def _exclusive(self, *keys: str) -> Exclusive:
        return Exclusive(self, keys)

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        """Regular files are written before they get a name, and nobody waits for that."""
        if data is None or not stat.is_file:
            yield None if data is None else io.BytesIO(drained(data, buffer_size))
            return
        with self._near(key) as directory, unnamed_file(directory) as file:
            file.fill(data, buffer_size)
            yield file

    @contextlib.contextmanager
    def _near(self, key: str) -> Iterator[int]:
        """Give a descriptor of the directory that ``key`` is in, or will be, or of the nearest above that is there."""
        self._check_connected()
        above = split(key)[0][:-1]
        opened = -1
        while above and opened < 0:
            try:
                opened = beneath.open_beneath(self._root, encode(above), DIRECTORY_FLAGS)
            except OSError:
                above = above.rpartition("/")[0]
        try:
            yield self._root if opened < 0 else opened
        except OSError as error:
            raise self._translated(error, key, True) from error
        finally:
            if opened >= 0:
                os.close(opened)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._gate.alone():
            try:
                yield
            except BaseException:
                journal, self._open_journal = self._open_journal, None
                if journal is not None:
                    journal.roll_back()
                    self._directories.forget()
                raise
            journal, self._open_journal = self._open_journal, None
            if journal is not None:
                journal.commit()

    @contextlib.contextmanager
    def _nested_transaction(self) -> Iterator[None]:
        mark = self._open_journal.mark() if self._open_journal else None
        try:
            yield
        except BaseException:
            journal = self._open_journal
            self._directories.forget()
            if journal is not None and mark is not None:
                journal.roll_back_to(mark)
            elif journal is not None:
                self._open_journal = None
                journal.roll_back()
            raise

    def _journal(self) -> Journal | None:
        """The journal of this thread's transaction, begun with its first write; None without one, and where there can be none."""
        if not self._gate.is_mine() or not self.capabilities.transactions:
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
        with self._at_made(key) as (directory, name):
            there = self._standing(directory, name, key, stat)
            self._place(directory, name, key, there, stat, data, metadata, xattrs)
            return stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False), self._device)

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        with self._at_made(key) as (directory, name):
            there = self._standing(directory, name, key, Stat(DEFAULT_FILE_MODE))
            if metadata is None:
                metadata = {} if there is None else self._attributes.metadata_in(directory, name, there)
            xattrs = {} if there is None else self._attributes.foreign(directory, name)
            self._place(directory, name, key, there, self._stat_over(there), data, metadata, xattrs)
        return metadata

    def _place(
        self,
        directory: int,
        name: bytes,
        key: str,
        there: Stat | None,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
    ) -> None:
        """Put something where ``there`` stands, or nothing."""
        in_place = there is not None and there.is_file and stat.is_file and there.nlink > 1
        journal = self._journal()
        if there is not None and stat.is_directory:
            if journal:
                journal.changing(directory, name, key)
            self._change_directory(directory, name, stat, metadata, xattrs)
            return
        if journal and not in_place:
            self._note_replacing(journal, directory, name, key, there)
        workshop = journal.place if journal else directory
        if not stat.is_file:
            self._put_special(workshop, directory, name, stat, data, metadata, xattrs)
            return
        with contextlib.nullcontext(data) if isinstance(data, Filled) else unnamed_file(directory) as file:
            self._attributes.apply(file.fileno(), stat, metadata, xattrs)
            if there is not None and in_place:
                self._overwrite(file.fileno(), directory, name, key, there, stat, metadata, xattrs)
            else:
                give_name(file, workshop, directory, name, over=there is not None)

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
            there = stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False), self._device)
        except FileNotFoundError:
            return None
        if there.is_directory != stat.is_directory:
            raise (IsADirectory if there.is_directory else NotADirectory)(f"{key!r} is of the other kind")
        return there

    @contextlib.contextmanager
    def _at_made(self, key: str) -> Iterator[tuple[int, bytes]]:
        """As ``_at``, to write; the directory that ``key`` is in is made if it is not there."""
        with contextlib.ExitStack() as opened:
            try:
                place = opened.enter_context(self._at(key, writing=True))
            except KeyError:
                self._make_parents(key)
                place = opened.enter_context(self._at(key, writing=True))
            yield place

    def _make_parents(self, key: str) -> None:
        for parent in ancestors(key):
            with self._at(parent, writing=True) as (directory, name), contextlib.suppress(FileExistsError):
                if (journal := self._journal()) and not _is_there(directory, name):
                    journal.making(directory, parent)
                os.mkdir(name, stat_module.S_IMODE(DEFAULT_DIRECTORY_MODE), dir_fd=directory)

    def _change_directory(
        self, directory: int, name: bytes, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]
    ) -> None:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            self._attributes.replace_metadata(descriptor, metadata)
            self._attributes.drop_foreign_but(descriptor, xattrs)
            self._attributes.apply(descriptor, stat, {}, xattrs)
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
        self,
        source: int,
        directory: int,
        name: bytes,
        key: str,
        there: Stat,
        stat: Stat,
        metadata: Metadata,
        xattrs: dict[str, bytes],
    ) -> None:
        """Copy into a file that has other names too, and must stay the same file for them.

        Who reads it meanwhile may see some of both; after a failure or a crash it is what it was.
        """
        size = os.fstat(source).st_size
        with self._noted_overwriting(directory, name, key), self._open_to_overwrite(directory, name, there) as target:
            copy_range(source, target, size)
            os.ftruncate(target, size)
            self._attributes.replace_metadata(target, metadata)
            self._attributes.drop_foreign_but(target, xattrs)
            self._attributes.apply(target, stat, {}, xattrs)

    def _delete(self, key: str) -> None:
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        with self._at(key, writing=True) as (directory, name):
            if journal := self._journal():
                self._note_replacing(journal, directory, name, key, self._native(directory, name, key))
            try:
                (os.rmdir if is_directory_key(key) else os.unlink)(name, dir_fd=directory)
            except (IsADirectoryError, NotADirectoryError) as error:  # it is of the other kind
                raise KeyError(key) from error
            except FileExistsError as error:
                raise DirectoryNotEmpty(f"{key!r} has entries") from error
            finally:
                if is_directory_key(key):
                    self._directories.forget()

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        with self._at(key, writing=True) as (directory, name), self._pinned(directory, name, key) as descriptor:
            if journal := self._journal():
                journal.changing(directory, name, key)
            self._attributes.replace_metadata(descriptor, metadata)

    def _make(self, key: str, metadata: Metadata) -> None:
        """The same; what others make there meanwhile is not replaced."""
        with self._at_made(key) as (directory, name), unnamed_file(directory) as file:
            self._attributes.apply(file.fileno(), new_stat(DEFAULT_FILE_MODE, *self._default_owner()), metadata, {})
            if (journal := self._journal()) and not _is_there(directory, name):
                journal.making(directory, key)
            try:
                give_new_name(file, directory, name)
            except FileExistsError:
                self._set_metadata(key, metadata)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        with self._at(key, writing=True) as (directory, name), self._pinned(directory, name, key) as descriptor:
            if journal := self._journal():
                journal.changing(directory, name, key)
            self._attributes.change(descriptor, directory, name, changes)
            return stat_of(os.fstat(descriptor), self._device)

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

    def rename_whited_out(self, old: str, new: str) -> None:
        self._check_writable(old)
        if self._journal() is not None:  # which has no word for that
            super().rename_whited_out(old, new)
            return
        with self._changing(old, new):
            self._rename(old, new, beneath.rename_whited_out)

    def _rename(self, old: str, new: str, move: Callable[[int, bytes, int, bytes], None] = _rename_natively) -> None:
        self.stat(old)
        with self._at_made(new) as (to_directory, to_name), self._at(old, True) as (directory, name):
            there = self._standing(to_directory, to_name, new, self._native(directory, name, old))
            if (journal := self._journal()) and old != new:
                if there is not None:
                    self._note_replacing(journal, to_directory, to_name, new, there)
                journal.moving(directory, name, old, to_directory, new)
            try:
                with self._watches_moved(old, new):
                    move(directory, name, to_directory, to_name)
            except FileExistsError as error:
                raise DirectoryNotEmpty(f"{new!r} has entries: {there}") from error

    @contextlib.contextmanager
    def _watches_moved(self, old: str, new: str, swap: bool = False) -> Iterator[None]:
        """Around moving a directory, or swapping one with something: what is watched in it stays so."""
        if self._watching is None or not (is_directory_key(old) or is_directory_key(new)):
            yield
            return
        try:
            with self._watching.moving(directory_key(old), directory_key(new), swap):
                yield
        finally:
            self._directories.forget()

    def _exchange(self, first: str, second: str) -> None:
        with self._at(first, True) as (directory, name), self._at(second, True) as (other_directory, other_name):
            self._native(directory, name, first)
            self._native(other_directory, other_name, second)
            if journal := self._journal():
                journal.exchanging(directory, name, first, other_directory, second)
            try:
                with self._watches_moved(first, second, swap=True):
                    beneath.exchange(directory, name, other_directory, other_name)
            except OSError as error:
                if error.errno in {errno.EINVAL, errno.ENOSYS}:
                    raise Unsupported(f"the file system of {self.name} cannot swap two names") from error
                raise

    def _link(self, old: str, new: str) -> Stat:
        self.stat(old)
        with self._at_made(new) as (to_directory, to_name), self._at(old, writing=True) as (directory, name):
            if (journal := self._journal()) and not _is_there(to_directory, to_name):
                journal.making(to_directory, new)
            try:
                os.link(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory, follow_symlinks=False)
            except FileExistsError as error:
                raise KeyExists(f"{new!r} is there already") from error
            return stat_of(os.stat(to_name, dir_fd=to_directory, follow_symlinks=False), self._device)

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
