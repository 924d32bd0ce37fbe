"""Where the data of an open node is, and how it gets to another place.

It is in one of three. *Local*: a descriptor of the store's own file, written in place. *Staged*:
an unnamed temporary file, which a commit puts into the store whole, with the node's attributes and
metadata. *Ranged*: nowhere; ranges are read from the store when they are asked for. A content begins
local or ranged; the first write makes it local (of the first store's copy) or staged, for all its
handles, so who opened the file before sees what is written after.

Locks are taken in this order: ``changing`` of the node table, where a name must stay what it is meanwhile,
then the content's own, then that of the node table.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

from joinfs.errors import CorruptStore, StaleNode, Unsupported
from joinfs.filesystem.ahead import Ahead
from joinfs.filesystem.locks import PatientLock
from joinfs.filesystem.nodes import Node
from joinfs.filesystem.staging import StagedFile, Staging
from joinfs.filesystem.table import NodeTable
from joinfs.filesystem.window import Window
from joinfs.stores import Stat, Store
from joinfs.stores.value import MEBIBYTE, RangeStream, now
from joinfs.stores.whole import whole

COPY_SIZE = MEBIBYTE
# Files that a content has open of what it was before, as somebody may be reading there; it has no other after so many.
MOST_RETIRED = 64
# Who is answered by a store after so many seconds has waited for it.
WAITED = 0.005


class Placed:
    """The data of a node, while it is open or not yet committed: where it is.

    Args:
        node: Whose data it is.
        store: Where the node is.
        nodes: The table that is told when attributes change.
        ahead: Who is told when somebody has to wait for the store's own file.
        staging: Where staged data is.

    Attributes:
        lock: Guards it.
        handles: How many there are.
        is_doubted: Whether others may have changed the file while it was where writes go, which was no news then.
    """

    def __init__(self, node: Node, store: Store, nodes: NodeTable, ahead: Ahead, staging: Staging) -> None:
        self._node = node
        self._store = store
        self._nodes = nodes
        self._ahead = ahead
        self._staging = staging
        self.lock = PatientLock(nodes.waits)
        self._descriptor = -1
        self._retired: list[int] = []
        self._window = Window(self._fetch, store.capabilities.slow)
        self._size_told = 0 if node.stat is None else node.stat.size
        self._writes = 0
        self._committed = 0
        self._mtime: int | None = None
        # Attributes that were given to what is staged: they go into the store with it.
        self._changes: dict[str, int] = {}
        self._staged: StagedFile | None = None
        # Of the store's own file, when it was opened to be read.
        self._atime = 0
        # As what was staged was last put into the store.
        self._put_as: Stat | None = None
        self._writable = False
        self._will_stage = False
        self._is_ranged = not store.capabilities.local
        # Whether it is staged because its name went, not because somebody would write.
        self._is_kept = False
        self._is_lost = False
        self.handles = 0
        self.is_doubted = False

    # ---------------------------------------------------------------- where it is

    @property
    def name(self) -> str:
        """Where it is, for people."""
        with contextlib.suppress(StaleNode):
            return repr(self._node.path())
        return "a file that others have taken away"

    @property
    def is_staged(self) -> bool:
        """Whether it has data that is put into the store by ``commit`` alone."""
        return self._staged is not None

    @property
    def will_stage(self) -> bool:
        """Whether what is written to it is staged, also if nothing has been yet."""
        return self._will_stage

    @property
    def is_for_others(self) -> bool:
        """Whether what is written to it gets to the file's other names by ``commit`` alone."""
        return self._staged is not None and not self._is_kept

    @property
    def is_writable(self) -> bool:
        """Whether it is where writes go."""
        return self._writable

    @property
    def holds_file(self) -> bool:
        """Whether it is read from the file that there was when it was first read; else from what its key stands for."""
        return self._descriptor >= 0

    @property
    def has_changes(self) -> bool:
        """Whether it has attributes that the store does not have yet."""
        return bool(self._changes)

    @property
    def is_dirty(self) -> bool:
        """Whether there is staged data that the store does not have."""
        return self._staged is not None and self._writes != self._committed

    def descriptor(self, only_in_place: bool) -> int | None:
        """Answer the descriptor of the store's own file that has the data, to be read and written by the kernel past us.

        None for staged data: what is written through a mapping would be seen by nobody who commits it.
        """
        if not only_in_place:
            self.open_to_read()
        with self.lock:
            if only_in_place and self._descriptor < 0 and not self._node.is_unlinked:
                with contextlib.suppress(Unsupported, KeyError):
                    self._descriptor = self._opened(self._store.open_in_place)
            return None if self._descriptor < 0 or self._staged or self._will_stage else self._descriptor

    def is_still_at(self, key: str, was: Stat | None, unwritten: bool) -> bool:
        """Whether what stands at a key now is the file that this has the data of, as far as that can be said.

        ``was`` are the attributes that were last known of it; ``unwritten`` says that it must have the same data, too.

        Raises:
            KeyError: Nothing stands there.
        """
        with self.lock:  # nobody is copying it up meanwhile
            stat = self._store.lookup(key)
            if self._writable or self._will_stage or stat.kind != self._node.kind:
                self.is_doubted = True
                if not unwritten and self._was_replaced(stat):
                    self._unstage()
                return stat.kind == self._node.kind  # we may be replacing it ourselves
            if unwritten and (was is None or was.has_other_data_than(stat)):
                return False
            return self._is_ranged or (was is not None and was.file_id == stat.file_id)

    def _was_replaced(self, stat: Stat) -> bool:
        """Whether the same file has other data in the store than what was put there, and nothing has been written to what is staged since."""
        put = self._put_as
        if self._staged is None or put is None or self.is_dirty or self._changes or self._node.is_unlinked:
            return False
        if len(self._retired) >= MOST_RETIRED:
            return False
        return put.file_id == stat.file_id and put.has_other_data_than(stat)

    # ---------------------------------------------------------------- reading

    def open_to_read(self) -> None:
        """Have something to read from. Its own lock is not held."""
        try:
            self._open_to_read()
        except KeyError:  # a verb may be moving it
            with self._nodes.changing:
                self._open_to_read()

    def _open_to_read(self) -> None:
        with self.lock:
            if self._descriptor >= 0 or self._is_ranged or self._node.is_unlinked:
                return
            try:
                self._descriptor = self._opened(lambda key: self._store.open_local(key, os.O_RDONLY))
            except Unsupported:
                self._is_ranged = True
            else:
                self._atime = os.fstat(self._descriptor).st_atime_ns

    def _opened(self, open_key: Callable[[str], int]) -> int:
        """Open what the node's key stands for; ``KeyError`` if a verb gives it another meanwhile, as that may be another file."""
        moved, key = self._node.last_moved(), self._node.key()
        descriptor = open_key(key)
        if not self._node.is_still(moved):
            os.close(descriptor)
            raise KeyError(key)
        return descriptor

    def _fetch(self, offset: int, size: int) -> bytes:
        moved, key, begun = self._node.last_moved(), self._node.key(), time.monotonic()
        data = self._store.read(key, offset, size)
        if offset == 0 and time.monotonic() - begun > WAITED:
            self._ahead.missed(self._node)
        if len(data) < size:
            self._check_end(key, offset + len(data))
        if not self._node.is_still(moved):
            raise KeyError(key)
        return data

    def _check_end(self, key: str, end: int) -> None:
        """Raise ``CorruptStore`` if the store's data ended too early: the kernel would read zeros from there on."""
        stat = self._node.stat
        if (stat is None or end < stat.size) and end < (size := self._store.stat(key).size):
            raise CorruptStore(f"{key!r} in {self._store.name} is damaged: it ends after {end} of {size} bytes")

    # ---------------------------------------------------------------- writing

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """With ``changing`` and the own lock; while somebody reads for long, who waits for that keeps nobody from changing names."""
        changing = self._nodes.changing
        changing.acquire()
        while not self.lock.acquire(timeout=0):
            changing.release()
            with self.lock:
                pass
            changing.acquire()
        try:
            yield
        finally:
            self.lock.release()
            changing.release()

    def open_to_write(self, truncate: bool = False, lazily: bool = False) -> None:
        """Have something to write to: copied up, or staged.

        Args:
            truncate: The data there is will be dropped, so need not be copied; it is empty afterwards.
            lazily: What has to be staged is copied when it is written to.
        """
        with self._alone():
            if not self._writable and not self._open_local_to_write(truncate):
                self._will_stage = True
                if truncate or not lazily:
                    self._stage(truncate)
                elif not self._node.is_unlinked:
                    self._store.stat(self._node.key())  # who opens what is gone is told so now
            elif truncate:
                os.ftruncate(self._descriptor, 0)
            if truncate:
                self._wrote()

    def open_new(self) -> None:
        """Have something to write to, of a file that has just been made: what is empty is no news."""
        with self._alone():
            if not self._open_local_to_write(truncate=True):
                self._will_stage = True
                self._stage(empty=True)

    def take(self, descriptor: int) -> None:
        """Have a local file that has just been made to read from and to write to."""
        with self.lock:
            self._move_to(descriptor)

    def _open_local_to_write(self, truncate: bool) -> bool:
        if self._node.is_unlinked:
            return False
        if not self._store.capabilities.local:
            self._store._check_writable(self._node.key())  # what could never be put there is not begun
            return False
        self._nodes.will_copy(0 if truncate else self._node.known_size)
        try:
            flags = os.O_RDWR | (os.O_TRUNC if truncate else 0)
            descriptor = self._store.open_local(self._node.key(), flags)
        except Unsupported:
            return False
        native, stat = os.fstat(descriptor), self._node.stat
        is_new = truncate or stat is None or native.st_ctime_ns != stat.ctime  # it has been copied up, as a rule
        self._nodes.changed(self._node, heard=is_new)
        self._move_to(descriptor)
        return True

    def _move_to(self, descriptor: int) -> None:
        # A read in another thread may be on its way to the old descriptor: it is closed at the end.
        if self._descriptor >= 0:
            self._retired.append(self._descriptor)
        self._descriptor = descriptor
        self._writable = True
        self._window.clear()

    def _wrote(self) -> None:
        self._writes += 1
        self._mtime = now()
        if self._staged is None:
            self._nodes.changed(self._node, heard=False)  # before it is closed
        elif not self._node.is_unlinked:
            with contextlib.suppress(KeyError):  # a directory above it is gone
                self._staged.has_news_of(self._node.key())

    # ---------------------------------------------------------------- staging

    def _stage(self, empty: bool) -> None:
        staged = self._staging.file()
        try:
            if not empty:
                self._copy_to(staged.descriptor)
        except BaseException:
            os.close(staged.descriptor)
            staged.drop()
            raise
        self._move_to(staged.descriptor)
        self._staged = staged

    def _unstage(self) -> None:
        """Read from the store again, and stage what it has when something is written."""
        assert self._staged is not None
        self._staged.drop()
        self._retired.append(self._descriptor)
        self._descriptor, self._staged, self._put_as = -1, None, None
        self._writable, self._will_stage = False, True
        self._window.clear()

    def _copy_to(self, descriptor: int) -> None:
        if self._descriptor >= 0:
            size = os.fstat(self._descriptor).st_size
            self._nodes.will_copy(size)
            with self._stream(size) as source:
                _copy(source, descriptor)
            return
        self._nodes.will_copy(self._node.known_size)
        key = self._node.key()
        with contextlib.closing(self._store.get(key)) as value:  # one stream: several ranges may be of several versions
            _copy(whole(value, f"{key!r} in {self._store.name}"), descriptor)

    def _stream(self, size: int) -> BinaryIO:
        descriptor = self._descriptor
        return RangeStream.open(lambda offset, wanted: os.pread(descriptor, wanted, offset), size, None, COPY_SIZE)

    def keep(self) -> None:
        """Before the node's last name goes: have the data where it can be read without one."""
        with self._alone():
            if self.handles:
                self.open_to_read()
                if self._descriptor < 0:
                    self._stage(empty=False)
                    self._is_kept = True
            if self._staged is not None:
                self._staged.has_no_news()  # that anybody would miss

    # ---------------------------------------------------------------- the end

    def was_lost(self) -> None:
        """Others have taken the node's last name from it."""
        self._is_lost = True

    def close(self) -> None:
        """Let go of everything. What was not committed is left where it is staged, if it has a name there."""
        with self.lock:
            for descriptor in [*self._retired, self._descriptor]:
                if descriptor >= 0:
                    os.close(descriptor)
            if self._staged is not None:
                self._staged.drop()
            self._retired, self._descriptor = [], -1
            self._staged, self._writable = None, False  # who comes too late finds nothing here
            self._window.clear()


def _copy(source: BinaryIO, descriptor: int) -> None:
    offset = 0
    while piece := source.read(COPY_SIZE):
        write_all(descriptor, piece, offset)
        offset += len(piece)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``; ``OSError`` as pwrite(2) says, and then part of it may have been written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]
