"""What the first store of a join changes about what the others show.

The join is compared with a join of the stores below, but only where the first store has something: its directories, what is in them and
what its whiteouts hide. So it takes as long as the first store is large, and data is read only where the attributes leave it open.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from joinfs.errors import UsageError
from joinfs.joined.found import entries_shown
from joinfs.joined.stacks import Stack
from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import ORIGIN, PREFIX
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, directory_key, is_directory_key, split
from joinfs.stores.trees import below
from joinfs.stores.value import MEBIBYTE
from joinfs.stores.whole import whole

ADDED, MODIFIED, DELETED, RENAMED, ATTRIBUTES = "added", "modified", "deleted", "renamed", "attributes"
# What is more than a file's attributes.
REPLACES = {"data", "type", "links"}


class Change(NamedTuple):
    """One thing that is not as the stores below have it.

    Attributes:
        kind: ``added``, ``modified`` (the data, of a symlink the target), ``deleted``, ``renamed``, or ``attributes``.
        key: In the join; of a directory with a ``/`` at its end. All that is in a directory goes with it if it is deleted or renamed.
        old: In the stores below, where that is another key.
        details: What differs: ``data``, ``type``, ``links`` (it is one file with others than below), ``mode``, ``owner``, ``times``,
            ``metadata``, ``xattrs``. Nothing if it was added or deleted.
        size: Bytes of data now; 0 of a directory, and of what was deleted.
        old_size: Bytes of data below.
    """

    kind: str
    key: str
    old: str | None = None
    details: tuple[str, ...] = ()
    size: int = 0
    old_size: int = 0

    @property
    def below(self) -> str:
        """The key in the stores below."""
        return self.key if self.old is None else self.old

    def order(self) -> tuple[list[str], bool]:
        """By what to sort changes: what is above goes first, and at one place what was deleted."""
        return self.key.removesuffix("/").split("/"), self.kind != DELETED


class Pair(NamedTuple):
    """A place in the join and the one in the stores below that it is compared with; each with its attributes, if anything is there."""

    key: str
    below: str
    ours: Stat | None
    theirs: Stat | None


class Difference:
    """The first store of a join against those below it.

    Args:
        join: Connected. If somebody writes to it meanwhile, what is written may be told or not.

    Attributes:
        below: The join of the stores below.
        directories: The keys of the directories that the first store has, each with the key of it below; that is None if what is
            there below has nothing to do with it.
        moved: The keys below of directories that have another key in the join, each with that.
        shared: Of files that have several keys, the number of each with those keys that were of the same file before.

    Raises:
        UsageError: There are no stores below.
    """

    def __init__(self, join: JoinedStore) -> None:
        if len(join.layers) < 2:
            raise UsageError(f"{join.name} stands alone: changes are what the first of several stores has over the others")
        self.join = join
        self.below = JoinedStore(join.layers[1:])
        self.directories: dict[str, str | None] = {}
        self.shared: dict[int, list[str]] = {}
        self._merge = join._merge
        self._numbers: set[int | None] = set()
        self._directories_gone: list[str] = []
        self.moved: dict[str, str] = {}

    def changes(self, paths: Sequence[str] = (), with_links: bool = False) -> Iterator[Change]:
        """Yield each change, what is above first, and at one place what was deleted; if ``paths`` are given, of those and what is below them.

        ``with_links`` has those come along that are of the same files, which have several keys.
        """
        found = self._found()
        chosen = [change for change in found if is_below(change, paths)]
        if with_links and paths:
            numbers = {self._linked(change) for change in chosen} - {None}
            chosen += [change for change in found if self._linked(change) in numbers and change not in chosen]
        for change in sorted(chosen, key=Change.order):
            known = self._judged(change)
            if known is not None:
                yield known

    def is_still_below(self, number: int) -> bool:
        """Whether the stores below have a file of this number where the first store has changed something."""
        if number in self._numbers:
            return True
        return any(stat.file_id == number for key in self._directories_gone for _, stat in below(self.below, key))

    def _linked(self, change: Change) -> int | None:
        """The number of the file that is at a changed key, if it has others, or had; None for anything else."""
        if change.kind == DELETED or is_directory_key(change.key):
            return None
        stat = _lookup(self.join, change.key)
        return None if stat is None else stat.linked_id

    # ---------------------------------------------------------------- what may have changed

    def _found(self) -> list[Change]:
        """What was added, deleted and renamed, and what may have been modified."""
        pairs = list(self._pairs())
        added = {pair.key: pair for pair in pairs if pair.ours is not None and not _is_same_kind(pair)}
        gone = {pair.below: pair for pair in pairs if pair.theirs is not None and not _is_same_kind(pair)}
        self._numbers = {pair.theirs.file_id for pair in pairs if pair.theirs is not None}
        self._directories_gone = [key for key in gone if is_directory_key(key)]
        renamed = self._renamed_files(added, gone)
        renamed.update({key: old for old, key in self.moved.items()})
        sources = set(renamed.values())
        changes = [self._of_moved(key, old) for key, old in renamed.items()]
        changes += [Change(ADDED, key, size=_size(pair.ours)) for key, pair in added.items() if key not in renamed]
        changes += [_deleted(pair) for below, pair in gone.items() if below not in sources]
        changes += [_modified(pair) for pair in pairs if _is_same_kind(pair) and pair.key not in renamed]
        return changes

    def _pairs(self) -> Iterator[Pair]:
        self.moved = self._find_moved() if self._merge.has_redirects() or self._merge.is_overlaid() else {}
        self.directories.clear()
        self.shared.clear()
        seen = set()
        pending: list[tuple[str, str | None]] = [(ROOT, ROOT)]
        while pending:
            directory, below = pending.pop()
            parts = self._parts(directory)
            if not parts:
                continue
            self.directories[directory] = below
            if directory == ROOT:
                yield Pair(ROOT, ROOT, self.join.stat(ROOT), self.below.stat(ROOT))
            for name in sorted(self._names(directory, below, parts)):
                try:
                    pair = self._pair(directory, below, name)
                except KeyError:  # it has gone meanwhile
                    continue
                seen.add(pair.key)
                self._note_shared(pair)
                yield pair
                yield from self._replaced(pair, below, name)
                if pair.ours is not None and pair.ours.is_directory:
                    pending.append((pair.key, pair.below if pair.theirs is not None and pair.theirs.is_directory else None))
        yield from self._of_links(seen)

    def _parts(self, directory: str) -> Stack:
        """What a directory is made of, if the first store has it: others may have removed it since it was listed."""
        try:
            parts = self._merge.parts(directory)
        except KeyError:
            return ()
        return parts if parts[0].layer == 0 else ()

    def _names(self, directory: str, below: str | None, parts: Stack) -> set[str]:
        """The names in a directory of which the first store has something to say."""
        shown, hidden = entries_shown(parts[0])
        names = {name for name, _ in shown} | hidden - {""}
        if len(parts) == 1 and below is not None:  # opaque
            with contextlib.suppress(KeyError):
                names.update(name for name, _ in self.below.list(below))
        return names

    def _pair(self, directory: str, below: str | None, name: str) -> Pair:
        key = directory + name
        ours = _lookup(self.join, key)
        if ours is not None and ours.is_directory:
            key = directory_key(key)
            if len(self._parts(key)) > 1:  # what is below it is where it goes on
                below_key = self.join._lower_key(key)
                return Pair(key, below_key, ours, _lookup(self.below, below_key.removesuffix("/")))
        if below is None:
            return Pair(key, key, ours, None)
        theirs = _lookup(self.below, below + name)
        below_key = below + name + ("/" if theirs is not None and theirs.is_directory else "")
        if theirs is None and ours is None:
            return Pair(key, below_key, None, None)
        is_elsewhere = self.moved.get(below_key, key) != key
        if ours is None and is_directory_key(below_key):
            key = directory_key(key)
        return Pair(key, below_key, ours, None if is_elsewhere else theirs)

    def _replaced(self, pair: Pair, below: str | None, name: str) -> Iterator[Pair]:
        """What is below at the place of a directory that goes on elsewhere."""
        if below is None or pair.ours is None or not pair.ours.is_directory or pair.below == f"{below}{name}/":
            return
        theirs = _lookup(self.below, below + name)
        slash = "/" if theirs is not None and theirs.is_directory else ""
        if theirs is not None and below + name + slash not in self.moved:
            yield Pair(pair.key.removesuffix("/") + slash, below + name + slash, None, theirs)

    def _find_moved(self) -> dict[str, str]:
        """The keys below of directories that have another key in the join, each with that."""
        moved, pending = {}, [(ROOT, ROOT)]
        while pending:
            directory, expected = pending.pop()
            parts = self._parts(directory)
            if not parts:
                continue
            is_merged = len(parts) > 1
            try:
                below = self.join._lower_key(directory) if is_merged else expected
            except KeyError:  # it has gone meanwhile
                continue
            if below != expected:
                moved[below] = directory
            shown, _ = entries_shown(parts[0])
            pending += [(f"{directory}{name}/", f"{below}{name}/") for name, stat in shown if stat.is_directory]
        return moved

    def _of_links(self, seen: set[str]) -> Iterator[Pair]:
        """Files that the first store has under another of their names only."""
        copies = {number for number, _ in self._merge.links[0].places()}
        if not copies:
            return
        for key, stat in below(self.join, ROOT):
            if stat.is_directory or stat.file_id is None or stat.file_id not in copies:
                continue
            if key not in seen:
                above, name = split(key)
                pair = self._pair(above, self.join._lower_key(above), name)
                self._note_shared(pair)
                yield pair

    def _note_shared(self, pair: Pair) -> None:
        number = None if pair.ours is None else pair.ours.linked_id
        if number is not None and pair.theirs is not None and pair.theirs.file_id == number:
            self.shared.setdefault(number, []).append(pair.key)

    # ---------------------------------------------------------------- renamed files

    def _renamed_files(self, added: dict[str, Pair], gone: dict[str, Pair]) -> dict[str, str]:
        """The keys of files that were somewhere else below, each with its key there."""
        wanted = {pair.ours.file_id: key for key, pair in added.items() if pair.ours is not None and self._is_copied_up(pair)}
        if not wanted:
            return {}
        renamed = {}
        for old, stat in self._files_gone(gone):
            key = wanted.pop(stat.file_id, None)
            if key is not None:
                renamed[key] = old
            if not wanted:
                break
        return renamed

    def _is_copied_up(self, pair: Pair) -> bool:
        """Whether the first store has a file that came from below."""
        parts = self._parts(split(pair.key)[0])
        if pair.ours is None or pair.ours.is_directory or not parts or not parts[0].marks.impure:
            return False
        try:
            marks = self.join.layers[0].get_metadata(pair.key, (ORIGIN,))
        except KeyError:  # it is not there, or not any more
            return False
        return ORIGIN in marks or pair.ours.is_special

    def _files_gone(self, gone: dict[str, Pair]) -> Iterator[tuple[str, Stat]]:
        """What is not there any more, with what was in directories that are not."""
        for old, pair in gone.items():
            assert pair.theirs is not None, "it is there below"
            if not pair.theirs.is_directory:
                yield old, pair.theirs
        for old in [old for old in gone if is_directory_key(old)]:
            yield from ((key, stat) for key, stat in below(self.below, old) if not stat.is_directory)

    # ---------------------------------------------------------------- what did change

    def _of_moved(self, key: str, old: str) -> Change:
        return Change(RENAMED, key, old, size=_size(_lookup(self.join, key)), old_size=_size(_lookup(self.below, old)))

    def _judged(self, change: Change) -> Change | None:
        """The change with what differs, None if nothing does."""
        if change.kind in {ADDED, DELETED}:
            return change
        try:
            details = self._details(change)
        except KeyError:  # it has gone meanwhile
            return None
        if change.kind == RENAMED:
            return change._replace(details=details)
        if not details:
            return None
        return change._replace(kind=MODIFIED if REPLACES & {*details} else ATTRIBUTES, details=details)

    def _details(self, change: Change) -> tuple[str, ...]:
        ours, theirs = self.join.stat(change.key), self.below.stat(change.below)
        found = self._differing(ours, theirs)
        if not ours.is_directory and "type" not in found and self._has_other_data(change, ours, theirs):
            found.insert(0, "data")
        if self.join.get_metadata(change.key) != self.below.get_metadata(change.below):
            found.append("metadata")
        if self.join.get_xattrs(change.key) != self.below.get_xattrs(change.below):
            found.append("xattrs")
        return tuple(found)

    def _differing(self, ours: Stat, theirs: Stat) -> list[str]:
        differing = {
            "type": (ours.kind, ours.rdev) != (theirs.kind, theirs.rdev),
            "mode": ours.mode & 0o7777 != theirs.mode & 0o7777,
            "owner": (ours.uid, ours.gid) != (theirs.uid, theirs.gid),
            "links": ours.file_id != theirs.file_id and not ours.is_directory and max(ours.nlink, theirs.nlink) > 1,
            "times": ours.mtime != theirs.mtime and not ours.is_directory,  # a directory's tells what else changed
        }
        return [name for name, differs in differing.items() if differs]

    def _has_other_data(self, change: Change, ours: Stat, theirs: Stat) -> bool:
        if ours.size != theirs.size:
            return True
        found = self.join._merge.find(change.key)
        if found.layer > 0 and not found.is_copy:
            return False
        return not has_same_data(self.join, change.key, self.below, change.below)


def diff(join: JoinedStore, paths: Sequence[str] = ()) -> Iterator[Change]:
    """Yield each thing that the first store of a join changes about what the others show.

    Args:
        join: Connected. If somebody writes to it meanwhile, what is written may be told or not.
        paths: Keys; only what is changed at and below them is told, or was there. Without any, everything is.

    Raises:
        UsageError: There are no stores below the first.
    """
    yield from Difference(join).changes(paths)


def has_same_data(store: Store, key: str, other: Store, other_key: str) -> bool:
    """Whether two values have the same data, which is read as far as it is the same."""
    with contextlib.closing(store.get(key)) as value, contextlib.closing(other.get(other_key)) as other_value:
        one, another = whole(value, f"{key!r} in {store.name}"), whole(other_value, f"{other_key!r} in {other.name}")
        while True:
            piece, other_piece = _full(one.read), _full(another.read)
            if piece != other_piece:
                return False
            if not piece:
                return True


def is_below(change: Change, paths: Iterable[str]) -> bool:
    """Whether a change is at or below one of some keys, or was; of any if there are none."""
    chosen = tuple(paths)
    keys = [change.key] if change.old is None else [change.key, change.old]
    return not chosen or any(path.strip("/") == "" or f"{key.removesuffix('/')}/".startswith(path.strip("/") + "/") for key in keys for path in chosen)


def _full(read: Callable[[int], bytes]) -> bytes:
    """The next mebibyte, whole unless the data ends: streams may give less at a time."""
    pieces, left = [], MEBIBYTE
    while left and (piece := read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _lookup(store: Store, key: str) -> Stat | None:
    """What stands at a key, of either kind; None if nothing does, or if a component on the way is no directory."""
    bare = key.removesuffix("/")
    if PREFIX in bare and any(name.startswith(PREFIX) for name in bare.split("/")):
        return None
    try:
        return store.lookup(bare) if bare else store.stat(ROOT)
    except KeyError:
        return None


def _is_same_kind(pair: Pair) -> bool:
    return pair.ours is not None and pair.theirs is not None and pair.ours.is_directory == pair.theirs.is_directory


def _deleted(pair: Pair) -> Change:
    key = pair.key if pair.ours is None else pair.key.removesuffix("/") + ("/" if is_directory_key(pair.below) else "")
    return Change(DELETED, key, None if key == pair.below else pair.below, old_size=_size(pair.theirs))


def _modified(pair: Pair) -> Change:
    old = None if pair.key == pair.below else pair.below
    return Change(MODIFIED, pair.key, old, size=_size(pair.ours), old_size=_size(pair.theirs))


def _size(stat: Stat | None) -> int:
    return 0 if stat is None or stat.is_directory else stat.size
