"""Transactions of a directory: how it was before each change, kept until all of them are made.

The journal is a directory ``open`` in one in the store's root, of a name that no listing shows, that is there
while there are transactions, and that is believed only if it is our own. Before anything is changed, a line in
its file ``log`` says how to undo that; files that are replaced or deleted stay in it under a number.
To commit is to rename the journal, in one step; what is left of it then is rubbish. Who finds a journal that
nobody holds (by flock(2)) undoes it, from its last line to its first: after a crash the old state comes back.
Undoing may itself be cut off anywhere, and be done again.
"""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat as stat_module
import time
from typing import Any, NamedTuple

from joinfs.errors import StoreLocked, StoreUnavailable, Unsupported
from joinfs.stores.directory_files import TEMPORARY, encode
from joinfs.stores.directory_undo import LOG, attributes_of, copy, undo

PLACE = encode(TEMPORARY + "transactions")
JOURNAL = b"open"
DONE = b"done."
NEW = b"new."
PATIENCE = 60.0
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class Mark(NamedTuple):
    """A moment in a transaction: how long the log is, of which directories it has the times, and how many files are kept."""

    length: int
    timed: frozenset[str]
    kept: int


class Journal:
    """The journal of a transaction that is open.

    Args:
        root: Descriptor of the store's root.
        name: What messages call the store.

    Raises:
        StoreLocked: Another process has had a transaction open for too long.
    """

    def __init__(self, root: int, name: str) -> None:
        self._root, self._name = root, name
        self._count = 0
        self._timed: set[str] = set()
        native = os.fstat(root)
        # Those of the root, which the journal itself changes.
        self._times = (native.st_atime_ns, native.st_mtime_ns)
        self._base, new = _new_journal(root, name)
        self._place = os.open(new, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._base)
        self._log = os.open(LOG, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600, dir_fd=self._place)
        # Held before it has its name: nobody finds it and takes it for that of a process that is gone.
        fcntl.flock(self._log, fcntl.LOCK_EX)
        try:
            self._take_the_name(new)
        except BaseException:
            _remove(self._base, new)
            self._close()
            raise
        self._note(do="times", path="", times=self._times)

    def _take_the_name(self, new: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            _recover_in(self._root, self._base)
            try:
                os.rename(new, JOURNAL, src_dir_fd=self._base, dst_dir_fd=self._base)
                return
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            if time.monotonic() > deadline:
                raise StoreLocked(f"{self._name}: another process has had a transaction open for {PATIENCE:g} s")
            time.sleep(0.01)

    @property
    def place(self) -> int:
        """A directory in which things can be made that are then moved to where they belong: gone with the journal."""
        return self._place

    # ---------------------------------------------------------------- before a change

    def _note(self, **record: Any) -> None:
        os.write(self._log, json.dumps(record).encode() + b"\n")

    def _note_times(self, directory: int, key: str) -> None:
        """An entry of a directory comes or goes: its times come back with it."""
        above = key.removesuffix("/").rpartition("/")[0]
        if above not in self._timed:
            self._timed.add(above)
            native = os.stat(directory)
            self._note(do="times", path=above, times=[native.st_atime_ns, native.st_mtime_ns])

    def making(self, directory: int, key: str) -> None:
        """Something is about to be made where nothing is."""
        self._note_times(directory, key)
        self._note(do="remove", path=key.removesuffix("/"))

    def replacing(self, directory: int, name: bytes, key: str) -> None:
        """What is at ``key``, no directory, is about to be replaced by another file, or deleted."""
        self._note_times(directory, key)
        self._count += 1
        kept = b"%d" % self._count
        # The line first: a line that has no file to it means that nothing was done.
        self._note(do="put_back", path=key, kept=kept.decode())
        try:
            os.link(name, kept, src_dir_fd=directory, dst_dir_fd=self._place, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise Unsupported(f"{self._name} is on a file system without hard links, which transactions need") from error
            raise

    def overwriting(self, directory: int, name: bytes, key: str) -> None:
        """The data of a file is about to be written in place."""
        self._count += 1
        kept = b"%d" % self._count
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
        target = os.open(kept, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600, dir_fd=self._place)
        try:
            copy(source, target)
        finally:
            os.close(source)
            os.close(target)
        self.changing(directory, name, key)
        self._note(do="write_back", path=key, kept=kept.decode())

    def changing(self, directory: int, name: bytes, key: str) -> None:
        """Attributes of what is at ``key`` are about to be changed."""
        if not key:
            self._timed.add(key)
        self._note(do="attributes", path=key.removesuffix("/"), **attributes_of(directory, name))

    def removing_directory(self, directory: int, name: bytes, key: str) -> None:
        """An empty directory is about to be removed, or replaced."""
        self._note_times(directory, key)
        self._note(do="make_directory", path=key.removesuffix("/"), **attributes_of(directory, name))

    def moving(self, directory: int, name: bytes, old: str, to_directory: int, new: str) -> None:
        """What is at ``old`` is about to be renamed to ``new``, where nothing is, or what the journal has."""
        self._note_times(directory, old)
        self._note_times(to_directory, new)
        native = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._note(do="move_back", path=old.removesuffix("/"), new=new.removesuffix("/"), inode=native.st_ino)

    def exchanging(self, directory: int, name: bytes, first: str, other_directory: int, second: str) -> None:
        """Two names are about to be swapped."""
        self._note_times(directory, first)
        self._note_times(other_directory, second)
        native = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._note(do="swap_back", path=first.removesuffix("/"), other=second.removesuffix("/"), inode=native.st_ino)

    # ---------------------------------------------------------------- the end

    def commit(self) -> None:
        """Have all changes made, in one step."""
        self._end(undoing=False)

    def roll_back(self) -> None:
        """Have none of the changes made."""
        self._end(undoing=True)

    def mark(self) -> Mark:
        """Answer where it is now, for ``roll_back_to``."""
        return Mark(os.fstat(self._log).st_size, frozenset(self._timed), self._count)

    def roll_back_to(self, mark: Mark) -> None:
        """Have none of the changes made since a mark, and go on."""
        if os.fstat(self._log).st_size == mark.length:
            return
        undo(self._root, self._place, mark.length)
        # From here on they were never begun; until here they would be undone again, to the same end.
        os.ftruncate(self._log, mark.length)
        self._timed = set(mark.timed)
        for number in range(mark.kept + 1, self._count + 1):  # of what was not done in the end
            with contextlib.suppress(FileNotFoundError):
                os.unlink(b"%d" % number, dir_fd=self._place)

    def _end(self, undoing: bool) -> None:
        try:
            if undoing:
                undo(self._root, self._place)
            _discard(self._base)
        finally:
            self._close()
            if undoing or "" not in self._timed:
                with contextlib.suppress(PermissionError):  # another's directory
                    os.utime(self._root, ns=self._times)

    def _close(self) -> None:
        for descriptor in (self._log, self._place, self._base):
            os.close(descriptor)
        _remove_base(self._root)


def _remove_base(root: int) -> None:
    with contextlib.suppress(OSError):  # others are in it, or it is gone
        os.rmdir(PLACE, dir_fd=root)


def _new_journal(root: int, name: str) -> tuple[int, bytes]:
    """A descriptor of the directory that journals are in, made if need be, and the name of a new one in it."""
    new = NEW + secrets.token_hex(8).encode()
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(PLACE, 0o700, dir_fd=root)
        base = _find_base(root, name)
        if base is None:
            continue
        try:
            os.mkdir(new, 0o700, dir_fd=base)
            return base, new
        except FileNotFoundError:  # who had the last one has just taken the directory away
            os.close(base)
        except BaseException:
            os.close(base)
            raise


def _find_base(root: int, name: str) -> int | None:
    """The directory that journals are in; None if there is none.

    Whoever may write into the store's directory could put journals there that have us change owners and
    modes. So nobody else's is believed.
    """
    try:
        base = os.open(PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailable(f"{name} has something else in the place of {PLACE.decode()}; remove it") from error
    native = os.fstat(base)
    if native.st_uid == os.geteuid() and not native.st_mode & 0o077:
        return base
    os.close(base)
    raise StoreUnavailable(f"{name} has transactions of another user's in {PLACE.decode()}; let that user mount it, or remove that")


# -------------------------------------------------------------------- recovering


def recover(root: int, name: str) -> None:
    """Undo what a process that is gone left half done, if there is such a thing.

    Args:
        root: Descriptor of the store's root.
        name: What messages call the store.

    Raises:
        StoreUnavailable: It is another user's.
        OSError: It cannot be undone; the journal stays.
    """
    base = _find_base(root, name)
    if base is None:
        return
    try:
        _recover_in(root, base)
        native = os.fstat(root)
    finally:
        os.close(base)
    _remove_base(root)
    os.utime(root, ns=(native.st_atime_ns, native.st_mtime_ns))


def _recover_in(root: int, base: int) -> None:
    _clear_away(base)
    try:
        place = os.open(JOURNAL, os.O_RDONLY | os.O_DIRECTORY, dir_fd=base)
    except FileNotFoundError:
        return
    try:
        log = os.open(LOG, os.O_RDWR, dir_fd=place)
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(base, place):
                undo(root, place)
                _discard(base)
        finally:
            os.close(log)
    except (BlockingIOError, FileNotFoundError):  # it is held, or has just been done with
        return
    finally:
        os.close(place)


def _is_still(base: int, place: int) -> bool:
    """Whether a journal that was opened has its name still; it may have been committed meanwhile."""
    try:
        return os.stat(JOURNAL, dir_fd=base).st_ino == os.fstat(place).st_ino
    except FileNotFoundError:
        return False


def _clear_away(base: int) -> None:
    """Remove what is left of journals that were committed, or that never came to be."""
    for text in os.listdir(base):
        name = os.fsencode(text)
        if name.startswith(DONE):
            _remove(base, name)
        elif name.startswith(NEW):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name, dir_fd=base).st_mtime < time.time() - PATIENCE * 2:
                    _remove(base, name)


def _discard(base: int) -> None:
    """The moment of committing, or the end of undoing."""
    done = DONE + secrets.token_hex(8).encode()
    os.rename(JOURNAL, done, src_dir_fd=base, dst_dir_fd=base)
    _remove(base, done)


def _remove(base: int, name: bytes) -> None:
    with contextlib.suppress(OSError):
        place = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=base)
        try:
            for kept in os.listdir(place):
                is_directory = stat_module.S_ISDIR(os.stat(kept, dir_fd=place, follow_symlinks=False).st_mode)
                (os.rmdir if is_directory else os.unlink)(kept, dir_fd=place)
        finally:
            os.close(place)
        os.rmdir(name, dir_fd=base)
