"""Discarding: what the first store of a join changes is taken out of it, and what the others have shows again."""

from collections.abc import Sequence

from joinfs.errors import UsageError
from joinfs.joined.difference import ATTRIBUTES, DELETED, RENAMED, Change, Difference
from joinfs.joined.store import JoinedStore
from joinfs.joined.unfinished import discard_everything
from joinfs.joined.whiteout import fits, is_whited_out, marked, remove_whiteout
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.trees import below, delete_tree


def discard(join: JoinedStore, paths: Sequence[str] = (), *, dry_run: bool = False) -> list[Change]:
    """Take changes out of the first store of a join.

    Args:
        join: Connected; nobody else writes to it meanwhile.
        paths: Keys; only what is changed at and below them is discarded. Without any, everything is.
        dry_run: Change nothing.

    Returns:
        What was discarded.

    Raises:
        UsageError: Something that would have to be back is in a directory that is deleted, which is not to be discarded.

    After a failure nothing was discarded, if the first store has transactions.
    """
    difference = Difference(join)
    changes = list(difference.changes(paths))
    if not dry_run and changes:
        if paths:
            discard_changes(difference, changes)
        else:
            discard_everything(join.layers[0])
        join._merge.forget()
    return changes


def discard_changes(difference: Difference, changes: Sequence[Change]) -> None:
    """Take some changes out of the first store."""
    _Discarding(difference, changes).run()


class _Discarding:
    def __init__(self, difference: Difference, changes: Sequence[Change]) -> None:
        self._join, self._below = difference.join, difference.below
        self._upper = difference.join.layers[0]
        self._changes = changes
        # Where in the join a directory of the stores below is looked for.
        self._places = {below: directory for directory, below in difference.directories.items() if below is not None}
        for change in changes:
            if change.kind == RENAMED and split(change.below)[0] not in self._places and not self._comes_back(change.below):
                raise UsageError(f"{change.below!r}, which is {change.key!r} now, was in a directory that is not there any more; discard its deletion as well")

    def _comes_back(self, key: str) -> bool:
        """Whether a directory that a key is in is among what is discarded."""
        return any(change.kind in {DELETED, RENAMED} and is_directory_key(change.below) and key.startswith(change.below) and key != change.below for change in self._changes)

    def run(self) -> None:
        with self._upper.transaction("discard"):
            for change in sorted(self._changes, key=lambda change: -change.key.count("/", 0, -1)):
                self._take_out(change)

    def _take_out(self, change: Change) -> None:
        if change.kind == DELETED:
            self._uncover(change.key)
            return
        if change.kind == RENAMED:
            directory = self._places.get(split(change.below)[0])
            if directory is not None:
                self._uncover(directory + split(change.below)[1])
        if change.kind == ATTRIBUTES and is_directory_key(change.key):
            self._restore(change)
            return
        for key in self._links_of(change.key):
            delete_tree(self._upper, key)
        delete_tree(self._upper, change.key)

    def _uncover(self, key: str) -> None:
        """Show what is below a key again, however it was hidden."""
        directory, name = split(key)
        if self._join._marking.replaces:
            if self._join._marking.is_whited_out(key.removesuffix("/")):
                self._upper.delete(key.removesuffix("/"))
        elif is_whited_out(self._upper, directory, name):
            remove_whiteout(self._upper, directory, name)
        elif fits(name):
            raise UsageError(f"{key!r} is hidden because its directory was made anew; discard {directory!r}")

    def _restore(self, change: Change) -> None:
        """Give a directory the attributes and metadata that it has below, and keep what is in it."""
        stat, metadata = self._below.stat(change.below), self._below.get_metadata(change.below)
        self._upper.put(change.key, stat, None, {**metadata, **marked(self._upper.get_metadata(change.key))}, self._below.get_xattrs(change.below))

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
