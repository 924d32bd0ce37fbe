"""Undoing what a journal of a directory says; see ``directory_journal``."""

import base64
import contextlib
import json
import os
import stat as stat_module
from collections.abc import Iterator
from typing import Any

from joinfs.stores import beneath
from joinfs.stores.directory_files import inside

LOG = b"log"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
Record = dict[str, Any]


def undo(root: int, place: int, since: int = 0) -> None:
    """Undo what a journal tells of, from its last line to its first.

    Each line may have been acted on, or not, or have been undone before: undoing makes sure.

    Args:
        root: Descriptor of the store's root.
        place: Descriptor of the journal.
        since: Length of its log in bytes before what is to be undone.
    """
    with os.fdopen(os.open(LOG, os.O_RDONLY, dir_fd=place), "rb") as file:
        file.seek(since)
        lines = file.read().split(b"\n")
    undoing = _Undoing(root, place)
    for line in reversed(lines[:-1]):  # what has no end of line was not acted on
        record = json.loads(line)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            getattr(undoing, record["do"])(record)


class _Undoing:
    """One method for each kind of line."""

    def __init__(self, root: int, place: int) -> None:
        self._root, self._place = root, place

    @contextlib.contextmanager
    def _at(self, path: str) -> Iterator[tuple[int, bytes]]:
        above, _, name = path.encode("utf-8", "surrogateescape").rpartition(b"/")
        directory = beneath.open_beneath(self._root, above, _DIRECTORY) if above else os.dup(self._root)
        try:
            yield directory, name or b"."
        finally:
            os.close(directory)

    def times(self, record: Record) -> None:
        """Give a directory its times back; one of another user's, in which we may write, keeps those that it has."""
        with self._at(record["path"]) as (directory, name), contextlib.suppress(PermissionError):
            os.utime(name, ns=tuple(record["times"]), dir_fd=directory, follow_symlinks=False)

    def remove(self, record: Record) -> None:
        """Remove what was made."""
        with self._at(record["path"]) as (directory, name):
            if not stat_module.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=directory)
                return
            with contextlib.suppress(OSError):  # others have put something into it
                os.rmdir(name, dir_fd=directory)

    def put_back(self, record: Record) -> None:
        """Put a file that was replaced or deleted where it was."""
        with self._at(record["path"]) as (directory, name):
            os.rename(record["kept"], name, src_dir_fd=self._place, dst_dir_fd=directory)

    def write_back(self, record: Record) -> None:
        """Give a file that was written in place its data back."""
        with self._at(record["path"]) as (directory, name):
            source = os.open(record["kept"], os.O_RDONLY, dir_fd=self._place)
            target = _open_to_write(directory, name)
            try:
                copy(source, target)
            finally:
                os.close(source)
                os.close(target)

    def attributes(self, record: Record) -> None:
        """Give something its attributes back."""
        with self._at(record["path"]) as (directory, name):
            _restore(directory, name, record)

    def make_directory(self, record: Record) -> None:
        """Make a directory that was removed."""
        with self._at(record["path"]) as (directory, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=directory)
            _restore(directory, name, record)

    def move_back(self, record: Record) -> None:
        """Give something its old name back."""
        with self._at(record["new"]) as (new_directory, new_name), self._at(record["path"]) as (directory, name):
            if os.stat(new_name, dir_fd=new_directory, follow_symlinks=False).st_ino == record["inode"]:
                os.rename(new_name, name, src_dir_fd=new_directory, dst_dir_fd=directory)

    def swap_back(self, record: Record) -> None:
        """Swap two names again."""
        with self._at(record["path"]) as (directory, name), self._at(record["other"]) as (other_directory, other):
            if os.stat(other, dir_fd=other_directory, follow_symlinks=False).st_ino == record["inode"]:
                beneath.exchange(directory, name, other_directory, other)


def _open_to_write(directory: int, name: bytes) -> int:
    """Open a file, also one of our own against its mode, which the line before gives back."""
    flags = os.O_WRONLY | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=directory)
    except PermissionError:
        os.chmod(inside(directory, name), 0o600)
        return os.open(name, flags, dir_fd=directory)


def attributes_of(directory: int, name: bytes) -> Record:
    """Owner, mode, times and extended attributes of a name in a directory, as a line of a journal has them."""
    native = os.stat(name, dir_fd=directory, follow_symlinks=False)
    place = inside(directory, name)
    xattrs = {}
    with contextlib.suppress(OSError):  # of a file system without them
        for attribute in os.listxattr(place, follow_symlinks=False):
            value = os.getxattr(place, attribute, follow_symlinks=False)
            xattrs[attribute] = base64.b64encode(value).decode()
    return {
        "mode": native.st_mode,
        "owner": [native.st_uid, native.st_gid],
        "times": [native.st_atime_ns, native.st_mtime_ns],
        "xattrs": xattrs,
    }


def _restore(directory: int, name: bytes, record: Record) -> None:
    place = inside(directory, name)
    native = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if [native.st_uid, native.st_gid] != record["owner"]:
        os.chown(name, *record["owner"], dir_fd=directory, follow_symlinks=False)
    with contextlib.suppress(OSError):
        now = set(os.listxattr(place, follow_symlinks=False))
        for attribute in now - set(record["xattrs"]):
            os.removexattr(place, attribute, follow_symlinks=False)
        for attribute, value in record["xattrs"].items():
            os.setxattr(place, attribute, base64.b64decode(value), follow_symlinks=False)
    if not stat_module.S_ISLNK(native.st_mode):
        os.chmod(name, stat_module.S_IMODE(record["mode"]), dir_fd=directory)
    os.utime(name, ns=tuple(record["times"]), dir_fd=directory, follow_symlinks=False)


def copy(source: int, target: int) -> None:
    """Make one file's data another's, in place."""
    offset = 0
    while data := os.pread(source, 1 << 20, offset):
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, offset)
            offset += written
            view = view[written:]
    os.ftruncate(target, offset)
