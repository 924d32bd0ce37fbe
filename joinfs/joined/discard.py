"""Discarding: what the first store of a join changes is taken out of it, and what the others have shows again."""

from collections.abc import Mapping, Sequence

from joinfs.errors import UsageError
from joinfs.joined.difference import ADDED, ATTRIBUTES, DELETED, MODIFIED, RENAMED, Change, Difference
from joinfs.joined.links import LINKS
from joinfs.joined.store import JoinedStore
from joinfs.joined.unfinished import discard_everything, finish_commit
from joinfs.joined.whiteout import BOOKKEEPING, ORIGIN, is_whited_out, marked, marked_xattrs, origin_in, remove_whiteout
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.trees import below, copy_tree, delete_tree


def discard(join: JoinedStore, paths: Sequence[str] = (), *, dry_run: bool = False) -> list[Change]:
    """Take changes out of the first store of a join.

    Args:
        join: Connected; nobody else writes to it meanwhile.
        paths: Keys; only what is changed at and below them is discarded, and of files that have several keys those as well. Without
            any, everything is.
        dry_run: Change nothing.

    Returns:
        What was discarded.

    Raises:
        UsageError: Something that would have to be back is in a directory that is deleted, which is not to be discarded.

    After a failure nothing was discarded, if the first store has transactions.
    """
    finish_commit(join.layers[0], join.layers[1:])
    difference = Difference(join)
    changes = list(difference.changes(paths, with_links=True))
    if not dry_run and changes:
        if paths:
            _Discarding(difference, changes).run()
        else:
            discard_everything(join.layers[0])
        join._merge.forget()
    return changes


class _Discarding:
    def __init__(self, difference: Difference, changes: Sequence[Change]) -> None:
        self._join, self._below = difference.join, difference.below
        self._upper = difference.join.layers[0]
        self._difference = difference
        self._changes = changes
        # Where in the join a directory of the stores below is looked for.
        self._places = {below: directory for directory, below in difference.directories.items() if below is not None}
        for change in changes:
            self._check_moved(difference.moved, change)
            if change.kind == RENAMED and split(change.below)[0] not in self._places and not self._comes_back(change.below):
                raise UsageError(f"{change.below!r}, which is {change.key!r} now, was in a directory that is not there any more; discard its deletion as well")

    def _check_moved(self, moved: Mapping[str, str], change: Change) -> None:
        """Raise ``UsageError`` if a directory would be seen at its place again, and still where it was moved to."""
        above, name = split(change.key)
        parent = self._difference.directories.get(above)
        places = {change.below, *([] if parent is None else [f"{parent}{name}/"])} - {""}
        kept = {source: key for source, key in moved.items() if all(other.key != key for other in self._changes)}
        for source, key in kept.items():
            if any(source == place or (is_directory_key(place) and source.startswith(place)) for place in places):
                raise UsageError(f"{source!r} is {key!r} now; discard that as well as {change.key!r}")

    def _count_up(self, below_key: str) -> None:
        """Names of files with several are back, which had been counted out when they were hidden."""
        stats = [self._below.stat(below_key)]
        stats += [stat for _, stat in below(self._below, below_key)] if stats[0].is_directory else []
        links = self._join._merge.links[0]
        for stat in stats:
            copy = None if stat.linked_id is None else links.find(stat.linked_id, stat)
            if copy is not None and not copy.is_of_another:
                self._upper.update_metadata(copy.key, {LINKS: copy.left + 1})

    def _comes_back(self, key: str) -> bool:
        """Whether a directory that a key is in is among what is discarded."""
        return any(change.kind in {DELETED, RENAMED} and is_directory_key(change.below) and key.startswith(change.below) and key != change.below for change in self._changes)

    def run(self) -> None:
        with self._upper.transaction("discard"):
            for change in sorted(self._changes, key=lambda change: -change.key.count("/", 0, -1)):
                self._take_out(change)
            self._number_apart(self._numbers_back())

    def _numbers_back(self) -> set[int | None]:
        """The numbers of files that are back where they were."""
        back = [change.below for change in self._changes if change.kind != ADDED]
        inside = [stat.file_id for key in back if is_directory_key(key) for _, stat in below(self._below, key) if not stat.is_directory]
        return {*inside, *(self._below.stat(key).file_id for key in back)} - {None}

    def _number_apart(self, numbers: set[int | None]) -> None:
        """Have what else goes by the number of a file that is back, as it was made from it, have a number of its own."""
        for key, stat in below(self._upper, ROOT) if numbers else ():
            if stat.is_special or key.startswith(BOOKKEEPING):
                continue
            metadata = self._upper.get_metadata(key)
            if origin_in(metadata) in numbers and LINKS not in metadata:
                self._upper.set_metadata(key, {name: value for name, value in metadata.items() if name != ORIGIN})

    def _take_out(self, change: Change) -> None:
        if change.kind == RENAMED:
            directory = self._places.get(split(change.below)[0])
            if directory is not None:
                self._bring_back(directory + split(change.below)[1] + ("/" if is_directory_key(change.below) else ""), change.below)
        if change.kind == ATTRIBUTES and is_directory_key(change.key):
            self._restore(change)
            return
        if change.kind != DELETED:
            for key in self._links_of(change.key):
                delete_tree(self._upper, key)
            delete_tree(self._upper, change.key)
        if change.kind == DELETED or {"type", "links"} & {*change.details}:
            self._count_up(change.below)
        if change.kind in {DELETED, MODIFIED, ATTRIBUTES}:
            self._bring_back(change.key, change.below)

    def _bring_back(self, key: str, below_key: str) -> None:
        """Have what is below show at a key again, where the first store has nothing by now; in a directory that was made anew, as a copy."""
        directory, name = split(key)
        if self._join._marking.replaces:
            if self._join._marking.is_whited_out(key.removesuffix("/")):
                self._upper.delete(key.removesuffix("/"))
        elif is_whited_out(self._upper, directory, name):
            remove_whiteout(self._upper, directory, name)
        self._join._merge.stacks.forget()
        if not self._join.exists(key) and self._below.exists(below_key):
            copy_tree(self._below, below_key, self._upper, key)

    def _restore(self, change: Change) -> None:
        """Give a directory the attributes and metadata that it has below, and keep what is in it."""
        stat, metadata = self._below.stat(change.below), self._below.get_metadata(change.below)
        marks = marked_xattrs(self._upper.get_xattrs(change.key)) if self._upper.capabilities.xattrs else {}
        self._upper.put(change.key, stat, None, {**metadata, **marked(self._upper.get_metadata(change.key))}, {**self._below.get_xattrs(change.below), **marks})

    def _links_of(self, key: str) -> list[str]:
        """The copy of a file that has several keys below, and all the links of it, if the first store has that at a key, or shows it there."""
        links = self._join._merge.links[0]
        try:
            number = None if is_directory_key(key) or not links.any() else self._join.stat(key).file_id
            if number is None:
                return []
            copy = links.key_to_copy(number)
            there = self._upper.stat(copy)
        except KeyError:  # there is no copy, or it is gone with another of these changes
            return []
        return [copy, *(name for name, stat in below(self._upper, ROOT) if stat.file_id == there.file_id and name != copy)]
