"""Writing to a join: everything goes into the first store, and nothing of it can be half done.

Each change is a row of writes to the first store of which exactly one is seen by who looks at the join.
Whatever must hold before or after it is written before or after it, in an order that leaves, wherever
it is cut off, the old state or the new one. What makes this possible is that a whiteout does not hide
what stands beside it in its own layer: so a name is whited out first, while it still stands there, and
then deleted or moved away in one step.
"""

import contextlib
import io
import stat as stat_module
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO

from joinfs.errors import DirectoryNotEmpty, IsADirectory, KeyExists, NotADirectory, NotPermitted, Unsupported
from joinfs.joined.found import Found
from joinfs.joined.stacks import Part
from joinfs.joined.steps import Steps
from joinfs.joined.whiteout import (
    check_not_reserved,
    is_reserved,
    marked_xattrs,
    unmarked,
)
from joinfs.stores import Stat
from joinfs.stores.keys import ROOT, directory_key, is_directory_key, split
from joinfs.stores.value import Metadata

# Where the annex is.
ANNEX = ".joinfs"


class Writing(Steps):
    """The writing half of JoinedStore."""

    annex: Any = None

    def is_in_annex(self, key: str) -> bool:
        """Whether a key is the annex's."""
        return self._key_in_annex(key) is not None

    def _key_in_annex(self, key: str) -> str | None:
        """The annex's key for one of ours; None if it is not there that it belongs, or a store has something where the annex would be."""
        if self.annex is None or not key.startswith(ANNEX) or key[len(ANNEX) : len(ANNEX) + 1] not in {"", "/"}:
            return None
        try:
            self._merge.find(ANNEX)
        except KeyError:
            return key[len(ANNEX) + 1 :]
        return None

    def _check_not_reserved(self, key: str) -> None:
        """Raise what is to be said of a key at which nothing can be put: one for marks, or in the annex."""
        check_not_reserved(key)
        if self.annex is not None and self._key_in_annex(key) is not None:
            raise NotPermitted(f"{key!r} is none of the stores': nothing can be put there")

    # ---------------------------------------------------------------- what Store asks for

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        if self.annex is not None and (elsewhere := self._key_in_annex(key)) is not None:
            self.annex.write(elsewhere, data)
            return self.stat(key)
        self._check_not_reserved(key)
        _check_no_mark(key, stat)
        there = self._standing(key)
        if there is not None and there.stat.is_directory != stat.is_directory:
            raise (IsADirectory if there.stat.is_directory else NotADirectory)(f"{key!r} is of the other kind")
        self._ensure_directory(split(key)[0])
        if not stat.is_directory:
            return self._put_value(key, there, stat, data, metadata, xattrs, buffer_size)
        if there is None:
            return self._make_directory(key, stat, metadata, xattrs)
        self._copy_up(there, key)
        marks = marked_xattrs(self._upper.get_xattrs(key)) if self._upper.capabilities.xattrs else {}
        made = self._upper.put(key, stat, None, {**unmarked(metadata), **self._marks_of(key)}, {**xattrs, **marks})
        return self._as_found(key, made)

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        self._check_not_reserved(key)
        there = self._standing(key)
        if there is not None and there.stat.is_directory:
            raise IsADirectory(f"{key!r} is a directory")
        if there is not None and there.layer == 0:
            return self._set_in_first(key, io.BytesIO() if data is None else data, metadata, buffer_size)
        if metadata is None:
            metadata = self._kept(self.get_metadata, key)
        xattrs = {} if there is None else self._kept_xattrs(key)
        self._ensure_directory(split(key)[0])
        self._put_value(key, there, self._stat_over(None if there is None else there.stat), data, metadata, xattrs, buffer_size)
        return metadata

    def _set_in_first(self, key: str, data: BinaryIO, metadata: Metadata | None, buffer_size: int) -> Metadata:
        """Set what the first store has; it keeps by itself what is to be kept."""
        if metadata is not None:
            self._upper.set(key, (data, {**unmarked(metadata), **self._marks_of(key)}), buffer_size)
            return metadata
        self._upper.set_data(key, data, buffer_size)
        return self.get_metadata(key) if self._heard() else {}

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        _check_no_mark(key, stat)
        try:
            if self._is_free_below(key):
                made = self._upper.make(key, stat, target)
                if stat.is_directory:
                    self._merge.stacks.remember(key, (Part(0, self._upper, key),))
                return self._merge.told_new(key, made)
        except KeyExists:
            if self._standing(key) is not None:  # else it is a mark
                raise
        return super()._make_new(key, stat, target)

    def _make_local(self, key: str, stat: Stat) -> tuple[Stat, int]:
        if not self._upper.capabilities.local:
            raise Unsupported(f"{self._upper.name} does not keep {key!r} in a local file")
        try:
            if self._is_free_below(key):
                made, descriptor = self._upper.make_local(key, stat)
                return self._merge.told_new(key, made), descriptor
        except KeyExists:
            if self._standing(key) is not None:
                raise
        return super()._make_local(key, stat)

    def _is_free_below(self, key: str) -> bool:
        """Whether the first store has the directory that ``key`` is in, and those below it have nothing at ``key``."""
        self._check_not_reserved(key)
        parts = self._merge.parts(split(key)[0])
        return parts[0].layer == 0 and (len(parts) == 1 or self._merge.below(key) is None)

    def _delete(self, key: str) -> None:
        if self._delete_alone(key):
            return
        found = self._merge.locate(key)
        if found.layer > 0 and not is_directory_key(key):
            self._marking.delete(key, found.metacopy is not None and found.metacopy[0] is self._upper, hides=True)
            self._lost_a_key(found)
            return
        if is_directory_key(key) and any(True for _ in self._merge.list(key)):
            raise DirectoryNotEmpty(f"{key!r} has entries")
        if is_directory_key(key):
            self._merge.stacks.unsettle()
        in_upper = found.layer == 0 or (is_directory_key(key) and self._merge.parts(key)[0].layer == 0)
        self._marking.delete(key, in_upper, self.hides_below(key))
        if is_directory_key(key):
            self._merge.stacks.forget_directory(key)
        self._lost_a_key(found)

    def _delete_alone(self, key: str) -> bool:
        """Delete a value of a directory that the first store has alone, where it hides nothing. False if it is not so."""
        if is_directory_key(key) or is_reserved(split(key)[1]) or self._merge.links[0].any():
            return False
        parts = self._merge.parts(split(key)[0])
        if parts[0].layer > 0 or len(parts) > 1 or parts[0].marks.empty_files:
            return False
        # A mark of overlayfs that stands there hides nothing, so it can go, and is then what was not there.
        self._upper.delete(key)
        return True

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._copy_up_attributes(key)
        self._upper.set_metadata(key, {**unmarked(metadata), **self._marks_of(key)})

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        self._copy_up_attributes(key)
        stat = self._upper.set_stat(key, **changes)
        has_data = key == ROOT or not self._merge.parts(split(key)[0])[0].marks.metacopies
        return self._as_found(key, stat) if has_data else self._merge.locate(key).stat

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        if not self._upper.capabilities.xattrs:
            raise Unsupported(f"{self._upper.name} holds no extended attributes outside 'user.'")
        if marked_xattrs({name: b""}):
            raise NotPermitted(f"{name} is a mark of the join's own")
        self._copy_up_attributes(key)
        self._upper.set_xattr(key, name, value)

    def _rename(self, old: str, new: str) -> None:
        self._check_not_reserved(new)
        found = self._merge.locate(old)
        target = self._standing(new)
        if old == new:
            return
        self._check_replaceable(target, new)
        self._ensure_directory(split(new)[0])
        self._make_movable(found, old)
        self._expect_origin(old, new)
        if target is not None and not is_directory_key(old):
            self._note_replaced(old, new, target, found.stat.is_file)
        if is_directory_key(old):
            self._merge.stacks.unsettle()
        self._marking.move(old, new, target, self.hides_below(old))
        if target is not None:
            self._lost_a_key(target)
        if is_directory_key(old):
            self._merge.stacks.forget_directory(old)
            self._merge.stacks.forget_directory(new)

    def _exchange(self, first: str, second: str) -> None:
        for key in (first, second):
            self._make_movable(self._merge.locate(key), key)
        self._expect_origin(first, second)
        self._expect_origin(second, first)
        self._merge.stacks.unsettle()
        self._marking.exchange(first, second)
        self._merge.stacks.forget_directory(directory_key(first))
        self._merge.stacks.forget_directory(directory_key(second))

    def _link(self, old: str, new: str) -> Stat:
        self._check_not_reserved(new)
        found = self._merge.locate(old)
        if not self._upper.capabilities.hard_links:
            raise Unsupported(f"{self._upper.name} has no hard links")
        if self._standing(new) is not None:
            raise KeyExists(f"{new!r} is there already")
        self._copy_up(found, old)
        self._ensure_directory(split(new)[0])
        self._expect_origin(old, new)
        return self._as_found(new, self._marking.link(old, new, self._is_whited_out(new)))

    def _exclusive(self, *keys: str) -> "_Exclusive":
        return _Exclusive(self)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        # Nobody writes through the join meanwhile: who waits for the first store must not keep us from it.
        with self._writes, self._merge.stacks.transaction(), self._upper.transaction("part of a join's transaction"):
            yield
            self._merge.stacks.unsettle()

    @contextlib.contextmanager
    def _nested_transaction(self) -> Iterator[None]:
        try:
            with self._upper.transaction("part of a join's transaction"):
                yield
        except BaseException:
            self._merge.stacks.forget()
            raise

    def _tell_set(self, key: str, existed: bool, metadata: Mapping[str, Any] | None = None) -> None:
        super()._tell_set(key, existed, None if metadata is None else unmarked(dict(metadata)))

    def _check_replaceable(self, target: Found | None, new: str) -> None:
        if target is None:
            return
        if target.stat.is_directory != is_directory_key(new):
            raise (IsADirectory if target.stat.is_directory else NotADirectory)(f"{new!r} is of the other kind")
        if target.stat.is_directory and any(True for _ in self._merge.list(new)):
            raise DirectoryNotEmpty(f"{new!r} has entries")


class _Exclusive:
    """For a ``with`` statement: this thread alone writes through the join, and says what it makes of stacks."""

    __slots__ = ("_join", "_outermost")

    def __init__(self, join: Writing) -> None:
        self._join = join

    def __enter__(self) -> None:
        join = self._join
        join._writes.acquire()
        self._outermost = join._merge.stacks.begin_own_write()
        if self._outermost:
            try:
                join._merge.parts(ROOT)
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._outermost:
            self._join._merge.stacks.end_own_write(failed=error is not None)
        self._join._writes.release()


def _check_no_mark(key: str, stat: Stat) -> None:
    """Raise ``NotPermitted`` for a character device 0/0, which is overlayfs's whiteout: it would be in no listing."""
    if stat_module.S_ISCHR(stat.mode) and stat.rdev == 0:
        raise NotPermitted(f"{key!r}: a character device 0/0 is a mark of a join's")
