"""Making what is new and empty in a directory of the host; see ``directory``."""

import os
import stat as stat_module
from types import TracebackType
from typing import TYPE_CHECKING

from joinfs.errors import KeyExists
from joinfs.stores.base import Store
from joinfs.stores.directory_files import stat_of
from joinfs.stores.directory_reading import DirectoryReading
from joinfs.stores.value import Stat

if TYPE_CHECKING:
    from joinfs.stores.directory import DirectoryStore

# Writers of different keys go side by side; so many locks stand for all keys.
LOCKS = 64


class Exclusive:
    """For a ``with`` statement: no other thread writes these keys, nor has a transaction open."""

    __slots__ = ("_keys", "_nested", "_store", "_taken")

    def __init__(self, store: "DirectoryStore", keys: tuple[str, ...]) -> None:
        self._store, self._keys = store, keys

    def __enter__(self) -> None:
        store = self._store
        self._nested = None
        if store._gate.is_mine():  # what fails in a transaction leaves nothing in its journal either
            self._nested = store._nested_transaction()
            self._nested.__enter__()
            return
        store._gate.shared().__enter__()
        self._taken = sorted({hash(key.removesuffix("/")) % LOCKS for key in self._keys})
        for number in self._taken:
            store._locks[number].acquire()

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        store = self._store
        if self._nested is not None:
            self._nested.__exit__(exc_type, error, traceback)
            return
        for number in self._taken:
            store._locks[number].release()
        store._gate.shared().__exit__(None, None, None)


class DirectoryMaking(DirectoryReading):
    """The part of ``DirectoryStore`` that makes things."""

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        if not self._can_make_in_place(stat):
            return super()._make_new(key, stat, target)
        with self._at(key, writing=True) as (directory, name):
            mode = stat_module.S_IMODE(stat.mode)
            try:
                if stat.is_directory:
                    os.mkdir(name, mode, dir_fd=directory)
                elif stat.is_symlink:
                    os.symlink(target, name, dir_fd=directory)
                else:
                    os.mknod(name, stat.mode, stat.rdev, dir_fd=directory)
            except FileExistsError as error:
                raise KeyExists(f"{key!r} is there already") from error
            made = stat_of(os.stat(name, dir_fd=directory, follow_symlinks=False), self._device)
        return made if stat.is_symlink else self._made_as_wanted(key, made, stat)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        if not self._can_make_in_place(stat):
            return Store._make_local(self, key, stat)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._at(key, writing=True) as (directory, name):
            try:
                descriptor = os.open(name, flags, stat_module.S_IMODE(stat.mode), dir_fd=directory)
            except FileExistsError as error:
                raise KeyExists(f"{key!r} is there already") from error
        try:
            return self._made_as_wanted(key, stat_of(os.fstat(descriptor), self._device), stat), descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _can_make_in_place(self, stat: Stat) -> bool:
        """Whether what is made has its owner from the beginning: else it would be ours if we died in between."""
        return stat.uid == os.geteuid() and not self._gate.is_mine()

    def _made_as_wanted(self, key: str, made: Stat, wanted: Stat) -> Stat:
        """Give something new the attributes that it has not been made with; if that cannot be, it was not made."""
        if (made.mode, made.gid) == (wanted.mode, wanted.gid):
            return made
        try:
            return self._set_stat(key, _differences(made, wanted))
        except BaseException:
            with self._at(key, writing=True) as (directory, name):
                (os.rmdir if made.is_directory else os.unlink)(name, dir_fd=directory)
            raise


def _differences(made: Stat, wanted: Stat) -> dict[str, int]:
    """What the process's file mode mask, or the directory's group, made otherwise than wanted."""
    changes = {} if made.gid == wanted.gid else {"gid": wanted.gid}
    return {**changes, "mode": wanted.mode}


