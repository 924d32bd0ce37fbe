"""Another store, to which what is written is sent later: until then it is on local disk."""

import contextlib
from collections.abc import Callable
from typing import Any, BinaryIO

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, NotADirectory, NotConnected, OutOfSpace, Unsupported
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import ROOT, ancestors, directory_key, is_directory_key, split
from joinfs.stores.metadata import check_free
from joinfs.stores.spooling import at_hand
from joinfs.stores.value import Metadata, Stat, new_stat, now
from joinfs.stores.writeback_entries import as_sent
from joinfs.stores.writeback_pending import HIDDEN
from joinfs.stores.writeback_reading import ReadingBack
from joinfs.stores.writeback_sender import Sender

# Of so many directories it is known when something was done in them that their store does not know of.
MOST_TOUCHED = 10_000
# Attributes of what nobody asks for.
_ANY = Stat(0)


class WriteBackStore(ReadingBack):
    """Another store, to which files are sent when nobody has changed them for a second, several at a time; until then they are on local disk.

    Who writes through this object sees all of it at once, and so does who connects it again, also after a crash; others see a
    file when it was sent, whole, and of several files none before the others for sure. What cannot be sent is kept and tried again; ``drain`` waits for
    all, and so does ``disconnect`` unless sending fails. ``sync`` has it survive a loss of power here.

    What is deleted is deleted there later, too, and directories are made, changed and deleted there later. A directory is renamed in the store at once,
    and what is below it, or is to be exchanged, is sent first; a file that does not wait is renamed, and its attributes are changed, at once.

    Args:
        store: The other store; connected and disconnected with this one. Its capabilities are ours, but for hard links, transactions and local files.
        path: A directory of our own, made if it is not there; several stores may share one, and each is for one process at a time.
        event_manager: As for ``Store``.

    Attributes:
        path_of_pending: Where what waits is.
    """

    # ---------------------------------------------------------------- writing

    def _receive(
        self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int
    ) -> contextlib.AbstractContextManager[BinaryIO | None]:
        return at_hand(data, buffer_size)

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        check_free(metadata, HIDDEN, "a write-back store's")
        is_new = self._prepare(key)
        self._touch(key)
        if stat.is_directory:
            self._touched.pop(key, None)
        return self._pending.put(key, stat, data, metadata, xattrs, is_new)

    def _prepare(self, key: str) -> bool:
        """See to it that something can stand at a key; answer whether nothing does.

        Raises:
            IsADirectory, NotADirectory: As for ``put``.
        """
        self._check_above(key)
        self._check_no_other(key)
        self._make_directory(split(key)[0])
        if self._pending.find(key) is not None:
            return False
        return self._pending.is_below_new(key) or not self._is_in_store(key)

    def _is_in_store(self, key: str) -> bool:
        """Whether the store has something at a key; ``IsADirectory``, ``NotADirectory`` if that is of the other kind."""
        try:
            there = self.store.lookup(key.removesuffix("/"))
        except KeyError:
            return False
        if there.is_directory and not is_directory_key(key):
            raise IsADirectory(f"{key!r} is a directory")
        if is_directory_key(key) and not there.is_directory:
            raise NotADirectory(f"{key.removesuffix('/')!r} is not a directory")
        return True

    def _check_above(self, key: str) -> None:
        """Raise ``NotADirectory`` if something waits where a directory would have to be above a key."""
        for directory in ancestors(key):
            self._check_no_file(directory)

    def _check_no_file(self, directory: str) -> None:
        """Raise ``NotADirectory`` if a file waits at a directory's key. One that is to be deleted there is deleted now."""
        entry = self._pending.find(directory.removesuffix("/")) if directory else None
        if entry is not None:
            if not entry.is_gone:
                raise NotADirectory(f"{entry.key!r} is not a directory")
            self._sender_now().drain([entry])

    def _check_no_other(self, key: str) -> None:
        """As ``_check_no_file`` for a directory's key; for a file's the same of a directory, and ``IsADirectory``."""
        if is_directory_key(key):
            self._check_no_file(key)
            return
        entry = self._pending.find(key + "/")
        if entry is not None:
            if not entry.is_gone:
                raise IsADirectory(f"{key!r} is a directory")
            self._send(entry.key)

    def _make_directory(self, directory: str) -> None:
        """Have a directory wait, and those above it, if they are not there."""
        if directory == ROOT:
            return
        entry = self._pending.find(directory)
        if entry is None and not self._pending.is_below_new(directory) and (self.store.exists(directory) or self._is_in_store(directory)):
            return
        if entry is None or entry.is_gone:
            self._make_directory(split(directory)[0])
            self._touch(directory)
            stat = new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner())
            self._pending.put(directory, stat, None, {}, {}, is_new=entry is None)

    def _touch(self, key: str) -> None:
        """Something is done in the directory of a key, that the store may hear of later."""
        if len(self._touched) >= MOST_TOUCHED:
            self._touched.clear()
        self._touched[split(key.removesuffix("/"))[0]] = now()

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        return Store._set(self, key, data, metadata, buffer_size)

    def _make(self, key: str, metadata: Metadata) -> None:
        Store._make(self, key, metadata)

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        if not stat.is_directory:
            return Store._make_new(self, key, stat, target)
        self._check_above(key)
        self._check_free(key)
        self._check_no_other(key)
        self._touched.pop(key, None)
        self._touch(key)
        return self._pending.put(key, new_stat(stat.mode, stat.uid, stat.gid), None, {}, {}, is_new=self._pending.find(key) is None)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    def _changed_where_it_is(self, key: str, waiting: Callable[[str], Any], otherwise: Callable[[], Any]) -> Any:
        """Change attributes of what waits at a key on disk, and else in the store. A directory waits from now on."""
        if is_directory_key(key) and key != ROOT and self._pending.find(key) is None:
            self._have_wait(key)
        with self._pending.changed:
            entry = self._pending.find(key)
            if entry is not None:
                return self._pending.change(entry, waiting)
        if self._pending.is_nowhere(key) or self._pending.find(directory_key(key)) is not None:
            raise KeyError(key)
        with self._writing():
            return otherwise()

    def _have_wait(self, directory: str) -> None:
        """Have a directory wait as it is in the store; it may be that it is not there any more."""
        xattrs = self.store.get_xattrs(directory) if self.capabilities.xattrs else {}
        self._pending.put(directory, self.store.stat(directory), None, self.store.get_metadata(directory), xattrs, is_new=False)

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        check_free(metadata, HIDDEN, "a write-back store's")
        self._check_above(key)
        disk, there = self._pending.disk, super()._set_metadata

        def change(number: str) -> None:
            kept = {name: value for name, value in disk.get_metadata(number).items() if name in HIDDEN}
            disk.set_metadata(number, {**metadata, **kept})

        self._changed_where_it_is(key, change, lambda: there(key, metadata))

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        return Store._update_metadata(self, key, metadata)

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        there = super()._set_stat
        if "mtime" in changes and is_directory_key(key):
            self._touched[key] = changes["mtime"]
        stat = self._changed_where_it_is(key, lambda number: as_sent(self._pending.disk.set_stat(number, **changes)), lambda: there(key, changes))
        assert isinstance(stat, Stat)
        return stat

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        if not self.capabilities.xattrs:
            raise Unsupported(f"{self.store.name} holds no such extended attributes")
        there = super()._set_xattr
        self._changed_where_it_is(key, lambda number: self._pending.disk.set_xattr(number, name, value), lambda: there(key, name, value))

    def _delete(self, key: str) -> None:
        if is_directory_key(key):
            self._delete_directory(key)
            return
        entry = self._pending.find(key)
        if entry is None:
            self.store.stat(key)
        elif entry.is_gone:  # it may be just arriving
            raise KeyError(key)
        try:
            self._pending.delete(key)
        except OutOfSpace:
            self._delete_now(key)
        self._touch(key)

    def _delete_now(self, key: str) -> None:
        """Delete a file, and what waits in its place, in the store first: on a full disk there is no room to note what is to be done."""
        with self._pending.held(key) as entry, self._writing():
            with contextlib.suppress(KeyError):
                self.store.delete(key)
            if entry is not None:
                self._pending.drop(entry)

    def _delete_directory(self, key: str) -> None:
        if key == ROOT:
            raise InvalidKey("the root cannot be deleted")
        if not self._is_empty(key):
            raise DirectoryNotEmpty(f"{key!r} has entries")
        try:
            self._pending.delete(key)
        except OutOfSpace:
            self._send(key)
            with self._writing():
                super()._delete(key)
        self._touched.pop(key, None)
        self._touch(key)

    def _is_empty(self, directory: str) -> bool:
        """Whether there is nothing in a directory, but for what is to be deleted; ``KeyError`` if there is no such directory."""
        waiting = self._pending.directly_in(directory)
        if not all(entry.is_gone for entry in waiting.values()):
            return False
        there = self._listed(directory, lambda: self.store.list_marked(directory, lambda _name, _mark: _ANY))
        return all(name in waiting for name, _ in there)

    def _rename(self, old: str, new: str) -> None:
        if old == new:
            self.stat(old)
            return
        if is_directory_key(old):
            self.stat(old)
            self._prepare(new)
            self._send_above(new)
            self._send(old, new)
            self._touched.clear()
            with self._writing():
                super()._rename(old, new)
        else:
            self._rename_file(old, new)
        self._touch(old)
        self._touch(new)

    def _rename_file(self, old: str, new: str) -> None:
        if self._pending.rename(old, new, self._prepare(new)):
            return
        self._send_above(new)
        with self._pending.held(new) as over:
            if over is not None:
                self._sender_now().send_held(over)  # what is replaced is in the store until its place is taken
            with self._writing():
                super()._rename(old, new)

    def _send(self, *keys: str) -> None:
        """Send what waits at some keys, and of directories what is in them, now."""
        waiting = [entry for key in keys for entry in (self._pending.below(key) if is_directory_key(key) else [self._pending.find(key)]) if entry]
        if waiting:
            self._sender_now().drain(waiting)
        for key in keys:
            self._pending.wait_until_idle(key)

    def _send_above(self, key: str) -> None:
        """Send the directories that a key is in, if they wait."""
        if waiting := self._pending.above(key):
            self._sender_now().drain(waiting)

    def _sender_now(self) -> Sender:
        self._check_connected()
        if self._sender is None:
            raise NotConnected(f"{self.name} is being disconnected")
        return self._sender

    def _exchange(self, first: str, second: str) -> None:
        for key in (first, second):
            self._check_above(key)
            self.stat(key)
        for key in (first, second):
            self._send_above(key)
        self._send(first, second)
        self._touched.clear()
        with self._writing():
            super()._exchange(first, second)

    def _link(self, old: str, new: str) -> Stat:
        raise Unsupported(f"{self.name} has no hard links")
