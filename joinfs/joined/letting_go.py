"""After a part of the changes was committed: what the first store need not have any more goes, wherever that shows nothing else."""

import contextlib
from collections.abc import Sequence

from joinfs.joined.difference import DELETED, Change, Difference
from joinfs.joined.links import LINKS
from joinfs.joined.whiteout import ORIGIN, REPLACED, is_whited_out, origin_of, remove_whiteout
from joinfs.stores import Stat
from joinfs.stores.keys import is_directory_key, split


def let_go(difference: Difference, changes: Sequence[Change]) -> None:
    """Take out of the first store what the stores below have by now; what has to stay says what it is a copy of now.

    After a failure some of it is there still, and what is seen is the same.
    """
    letting = _LettingGo(difference)
    with letting.upper.transaction("commit"):
        for change in sorted(changes, key=lambda change: -change.key.count("/", 0, -1)):
            letting.take(change)


class _LettingGo:
    def __init__(self, difference: Difference) -> None:
        self._join = difference.join
        self.upper = difference.join.layers[0]

    def take(self, change: Change) -> None:
        """Let go of one change."""
        if change.kind == DELETED:
            self._uncover(change.key)
        elif not is_directory_key(change.key):
            self._take_file(change.key)

    def _uncover(self, key: str) -> None:
        """Take away a whiteout that hides nothing any more."""
        directory, name = split(key)
        bare = key.removesuffix("/")
        with contextlib.suppress(KeyError):
            if self._join._marking.replaces:
                if self._join._marking.is_whited_out(bare) and self._join._merge.below(bare) is None:
                    self.upper.delete(bare)
            elif is_whited_out(self.upper, directory, name) and self._join._merge.below(bare) is None:
                remove_whiteout(self.upper, directory, name)

    def _take_file(self, key: str) -> None:
        ours = self.upper.lookup(key)
        metadata = self.upper.get_metadata(key)
        below = self._join._merge.below(key)
        is_alone = ours.nlink == 1 and LINKS not in metadata and not is_whited_out(self.upper, *split(key))
        if below is not None and is_alone and _is_alike(self._join.stat(key), below.stat):
            self.upper.delete(key)
        elif below is not None and ours.is_file and ours.nlink == 1 and metadata.keys() & {ORIGIN, REPLACED}:
            kept = {name: value for name, value in metadata.items() if name != REPLACED}
            self.upper.set_metadata(key, {**kept, ORIGIN: origin_of(below.stat)})


def _is_alike(ours: Stat, theirs: Stat) -> bool:
    """Whether the store below has what was committed: the same file as far as its attributes tell."""
    return (ours.mode, ours.uid, ours.gid, ours.size, ours.mtime) == (theirs.mode, theirs.uid, theirs.gid, theirs.size, theirs.mtime)
