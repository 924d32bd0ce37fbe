"""The steps that writes to a join are made of; each of them leaves what is seen as it was, or is the one that changes it."""

import abc
import contextlib
from typing import BinaryIO

from joinfs.errors import NotADirectory
from joinfs.joined.copyup import copy_up, link_up
from joinfs.joined.found import Found
from joinfs.joined.links import SOURCE
from joinfs.joined.merge import Merge
from joinfs.joined.whiteout import (
    IMPURE,
    METACOPIES,
    METACOPY,
    NO_MARKS,
    ORIGIN,
    REDIRECTS,
    REPLACED,
    keep_origin,
    marked,
    origin_of,
    unmarked,
)
from joinfs.stores import Stat, Store
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE
from joinfs.stores.keys import ROOT, ancestors, is_directory_key, split
from joinfs.stores.value import Metadata, new_stat

# Bytes from which on a file's data is not copied up for the sake of its attributes.
LARGE = 128 << 10


class Marking(abc.ABC):
    """How the first store's entries come to hide what is below, in one spelling.

    Args:
        steps: The join.
        upper: Its first store.

    Attributes:
        replaces: Whether a whiteout stands where what it hides would, and so is in the way also if it hides nothing.
    """

    replaces = False

    def __init__(self, steps: "Steps", upper: Store) -> None:
        self._steps, self._upper = steps, upper

    @abc.abstractmethod
    def is_whited_out(self, key: str) -> bool:
        """Whether the first store has a whiteout of ``key``, where nothing stands now."""

    @abc.abstractmethod
    def uncover(self, key: str) -> None:
        """Something was put at a key that was whited out: the whiteout goes."""

    @abc.abstractmethod
    def delete(self, key: str, in_upper: bool, hides: bool) -> None:
        """Delete what is at ``key``, a value or a directory that shows nothing.

        Args:
            key: Where.
            in_upper: Whether the first store has something there.
            hides: Whether something below would show then.
        """

    @abc.abstractmethod
    def move(self, old: str, new: str, target: Found | None, hides: bool) -> None:
        """Move what the first store has at ``old``, over what is at ``new`` in the join, of the same kind.

        Args:
            old, new: From where to where.
            target: What is there.
            hides: Whether something below would show at ``old`` then.
        """

    @abc.abstractmethod
    def exchange(self, first: str, second: str) -> None:
        """Swap two that the first store has."""

    @abc.abstractmethod
    def link(self, old: str, new: str, whited_out: bool) -> Stat:
        """Give a file of the first store another key, where nothing is, and answer its attributes."""

    @abc.abstractmethod
    def make_directory(self, key: str, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes], whited_out: bool) -> Stat:
        """Make a directory in the first store where nothing is; nothing below shows in it if it was whited out."""

    @abc.abstractmethod
    def redirect(self, directory: str, lower_key: str) -> None:
        """Have a directory of the first store go on below under another key."""


class Steps(Store):
    """The part of JoinedStore that copies up, hides and marks in the first store."""

    layers: tuple[Store, ...]
    _upper: Store
    _merge: Merge
    _marking: Marking
    _metacopy: bool

    # ---------------------------------------------------------------- what is there

    def _as_found(self, key: str, stat: Stat) -> Stat:
        """Attributes that the first store has answered, as they are when ``key`` is looked for."""
        parts = self._merge.parts(split(key)[0] if key else ROOT)
        return self._merge.told_by(parts[0], key, stat, alone=len(parts) == 1)

    def _standing(self, key: str) -> Found | None:
        """What stands at ``key``, of either kind; None if nothing does.

        Raises:
            NotADirectory: Something on the way is not a directory.
        """
        if key == ROOT:
            return self._merge.locate(ROOT)
        try:
            return self._merge.find(key.removesuffix("/"))
        except KeyError:
            return None

    def _copy_up(self, found: Found, key: str, with_data: bool = True) -> None:
        """Have ``key`` in the first store, with the directories above it."""
        if found.layer == 0:
            return
        self._ensure_directory(split(key)[0])
        if found.source is not None:
            self._link_up(found, found.source, key, with_data)
            return
        origin = self._origin_for(found, key)
        number = found.stat.file_id
        lower_parts = [p for p in self._merge.parts(key) if p.layer > 0] if found.stat.is_directory else []
        copy_up(found, self._upper, key, origin, with_data)
        if not origin and found.stat.is_special and number is not None and not found.stat.breaks and self._upper.capabilities.marks:
            self._make_impure(split(key)[0])
            keep_origin(self._upper, key, number)
        if found.stat.is_directory:
            self._merge.stacks.remember(key, (self._merge.first_part(key), *lower_parts))

    def _copy_up_attributes(self, key: str) -> None:
        """Have the attributes of ``key`` in the first store; the data of a large file can stay where it is."""
        found = self._merge.locate(key)
        if found.metacopy is not None and found.metacopy[0] is self._upper:
            return
        stat = found.stat
        large = found.layer > 0 and stat.is_file and stat.size >= LARGE and found.source is None and found.metacopy is None
        can = self._upper.capabilities
        if not (large and self._metacopy and can.metadata and can.marks) or stat.breaks:
            self._copy_up(found, key)
            return
        directory = split(key)[0]
        self._ensure_directory(directory)
        origin = self._origin_for(found, key)
        self._mark_directory(directory, METACOPIES)
        copy_up(found, self._upper, key, {**origin, METACOPY: self._merge.place(found)}, with_data=False)

    def _link_up(self, found: Found, source: Stat, key: str, with_data: bool) -> None:
        """Have a file of a lower store that has several keys in the first one under this one as well; the others show what it becomes."""
        number = found.stat.file_id
        assert number is not None, "it has one in a join"
        self._make_impure(split(key)[0])
        place = found.key
        links = self._merge.links[0]
        if not found.is_copy:
            place = links.key_to_copy(number)
            copy = links.find(number, source)  # another join over the same first store may have made one
            if copy is not None and copy.is_of_another:
                copy_up(found, self._upper, key, {}, with_data)
                return
            if copy is None or copy.is_record:
                copy_up(found, self._upper, place, links.marks(number, source, self._merge.place(found), copy), with_data)
        link_up(self._upper, place, key)
        links.count_down(number, source)

    def _lost_a_key(self, found: Found) -> None:
        """Something is not found any more where it was found: of what has several keys it is counted."""
        links, number = self._merge.links[0], found.stat.file_id
        if number is None or found.stat.is_directory:
            return
        if found.layer > 0 and found.source is not None:
            links.count_down(number, found.source)
        elif found.layer == 0 and links.any():
            links.tidy(number)

    def _ensure_directory(self, directory: str) -> None:
        """Have a directory of the join in the first store too: copied up, or made if it is not there.

        Raises:
            NotADirectory: Something on the way is not a directory.
        """
        missing: list[str] = []
        for key in reversed([*ancestors(directory), directory] if directory != ROOT else []):
            if self._has_directory(key):
                break
            missing.append(key)
        for key in reversed(missing):
            try:
                self._merge.parts(key)
            except KeyError:
                if self._standing(key) is not None:
                    raise NotADirectory(f"{key.removesuffix('/')!r} is not a directory") from None
                self._make_directory(key, new_stat(DEFAULT_DIRECTORY_MODE, *self._default_owner()), {}, {})
                continue
            self._copy_up(self._merge.locate(key), key)

    def _has_directory(self, directory: str) -> bool:
        try:
            return self._merge.parts(directory)[0].layer == 0
        except KeyError:
            return False

    def _make_directory(self, key: str, stat: Stat, metadata: Metadata, xattrs: dict[str, bytes]) -> Stat:
        """Make a directory where nothing stands; what a lower store has there stays hidden."""
        made = self._marking.make_directory(key, stat, unmarked(metadata), xattrs, self._is_whited_out(key))
        self._merge.stacks.remember(key, (self._merge.first_part(key),))
        return self._merge.told_new(key, made)

    def _put_value(
        self,
        key: str,
        there: Found | None,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        whited_out = there is None and self._is_whited_out(key)
        if there is not None and there.source is not None and there.stat.kind == stat.kind:
            self._copy_up(there, key)  # its other keys show what is put here
            there = there._replace(layer=0)
        stays = there is not None and there.stat.kind == stat.kind  # what becomes of another kind is another file
        origin = self._origin_for(there, key) if there is not None and stays else {}
        made = self._upper.put(key, stat, data, {**unmarked(metadata), **origin}, xattrs, buffer_size)
        if whited_out:
            self._marking.uncover(key)
        if there is None:
            return self._merge.told_new(key, made)
        if there.layer > 0:
            self._lost_a_key(there)
        return self._as_found(key, made)

    def _is_whited_out(self, key: str) -> bool:
        """Whether the first store has a whiteout of ``key``, where nothing stands now."""
        return (self._marking.replaces or self.hides_below(key)) and self._marking.is_whited_out(key)

    def _make_movable(self, found: Found, key: str) -> None:
        """Have ``key`` in the first store such that it can be moved in one step.

        A merged directory gets a redirect: to where its lower part is looked for now, so nothing is seen
        of it; and there it is looked for still when the directory has moved.
        """
        lower_key = self._lower_key(key) if is_directory_key(key) else ROOT
        self._copy_up(found, key)
        if not is_directory_key(key):
            return
        top, *lower_parts = self._merge.parts(key)
        if lower_parts and top.marks.redirect is None:
            self._expect_redirects()
            self._marking.redirect(key, lower_key)
            top = top._replace(marks=top.marks._replace(redirect=lower_key))
            self._merge.stacks.remember(key, (top, *lower_parts))

    def _expect_redirects(self) -> None:
        """Have the first store's root say that there are redirects."""
        if not self._merge.parts(ROOT)[0].marks.redirects:
            self._copy_up(self._merge.locate(ROOT), ROOT)  # or its attributes would hide those below
            self._upper.set_metadata(ROOT, {**self._upper.get_metadata(ROOT), REDIRECTS: True})
            self._merge.stacks.forget()

    def _lower_key(self, directory: str) -> str:
        """The key under which the stores below the first are asked for a directory of the join."""
        below = ""
        while directory != ROOT:
            top = self._merge.parts(directory)[0]
            if top.layer == 0 and top.marks.redirect is not None:
                return top.marks.redirect + below
            directory, name = split(directory)
            if top.layer == 0 and top.marks.renamed is not None:
                name = top.marks.renamed
            below = f"{name}/{below}"
        return below

    def _marks_of(self, key: str) -> Metadata:
        """The marks in the metadata of a key of the first store."""
        marks = NO_MARKS if key == ROOT else self._merge.parts(split(key)[0])[0].marks
        if not is_directory_key(key) and not marks.impure and not marks.metacopies:
            return {}
        return marked(self._upper.get_metadata(key))

    # ---------------------------------------------------------------- for Marking

    def hides_below(self, key: str) -> bool:
        """Whether something below would show at ``key`` if the first store had nothing there."""
        return self._merge.below(key) is not None

    def has(self, directory: str) -> bool:
        """Whether the first store has its part of a directory."""
        return self._has_directory(directory)

    def is_alone(self, directory: str) -> bool:
        """Whether the first store has a directory alone."""
        return len(self._merge.parts(directory)) == 1

    def have(self, found: Found, key: str) -> None:
        """Have something in the first store."""
        self._copy_up(found, key)

    def have_directory(self, directory: str) -> None:
        """Have a directory in the first store."""
        self._ensure_directory(directory)

    def forget(self) -> None:
        """Believe nothing of what directories are made of."""
        self._merge.stacks.forget()

    def remove_hidden(self, key: str) -> None:
        """Take something that is hidden below, or is not there, out of the first store as well."""
        if not is_directory_key(key):
            self._upper.delete(key)
            return
        self.clear_marks(key)
        with contextlib.suppress(KeyError):  # without a marker it went with the last mark
            self._upper.delete(key)

    def clear_marks(self, directory: str) -> None:
        """Empty an empty directory of the first store of its marks; nothing below shows meanwhile.

        Its name must be whited out already if a lower store has it: so the redirect, which outranks
        that, goes first, and the whiteouts inside after it.
        """
        marks = self._marks_of(directory)
        if marks:
            metadata = self._upper.get_metadata(directory)
            self._upper.set_metadata(directory, {n: v for n, v in metadata.items() if n not in marks})
        for name, _ in tuple(self._upper.list(directory)):
            self._upper.delete(directory + name)

    # ---------------------------------------------------------------- numbers that are kept

    def _origin_for(self, found: Found, key: str) -> Metadata:
        """The mark for what takes the place of what was found, so that it keeps its number; its directory expects it then.

        A file that has other names, which are not changed with it, gets a number of its own.
        """
        if found.layer == 0 or key == ROOT:
            return self._marks_of(key)
        can = self._upper.capabilities
        if found.stat.breaks or not can.marks or not (can.metadata_on_all if found.stat.is_special else can.metadata):
            return {}
        self._make_impure(split(key)[0])
        return {ORIGIN: origin_of(found.stat)}

    def _note_replaced(self, key: str, target_key: str, target: Found, is_file: bool) -> None:
        """Have what is about to be moved over something say what it replaces of the stores below, so that it is known as of when."""
        can = self._upper.capabilities
        has = target.layer == 0 or (target.metacopy is not None and target.metacopy[0] is self._upper)
        if not (can.marks and can.metadata and target.stat.is_file and is_file):
            return
        if has and self._merge.below(target_key) is None:
            return
        replaced = self._replaced_by(target_key) if has else origin_of(target.source or target.stat)
        if replaced is not None:
            self._upper.update_metadata(key, {REPLACED: replaced})

    def _replaced_by(self, key: str) -> object:
        """What the first store's file at a key replaces below, as far as that is known."""
        metadata = self._upper.get_metadata(key, (REPLACED, ORIGIN, SOURCE))
        if REPLACED in metadata:
            return metadata[REPLACED]
        return f"{metadata[ORIGIN]} {metadata[SOURCE]}" if {ORIGIN, SOURCE} <= metadata.keys() else metadata.get(ORIGIN)

    def _expect_origin(self, old: str, new: str) -> None:
        """Have the directory of ``new`` expect what the one of ``old`` does, before something goes from there to there."""
        if self._is_impure(split(old)[0]):
            self._make_impure(split(new)[0])

    def _is_impure(self, directory: str) -> bool:
        top = self._merge.parts(directory)[0]
        return top.layer == 0 and top.marks.impure

    def _make_impure(self, directory: str) -> None:
        """Have a directory of the first store say that what is in it may have the number of something else."""
        if not self._is_impure(directory):
            self._mark_directory(directory, IMPURE)

    def _mark_directory(self, directory: str, mark: str) -> None:
        if directory == ROOT:
            self._copy_up(self._merge.locate(ROOT), ROOT)  # or its attributes would hide those below
        self._upper.update_metadata(directory, {mark: True})
        _, *lower_parts = self._merge.parts(directory)
        self._merge.stacks.remember(directory, (self._merge.first_part(directory), *lower_parts))
