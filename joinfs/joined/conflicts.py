"""Whether what is to be committed to a lower store was changed there since it was changed in the join.

A copy of a lower file says as of when it is one (``joinfs.origin``, of hard links ``joinfs.source``), and so does what was moved over
one (``joinfs.replaced``). A whiteout does not, nor what was swapped; there the file must not have been changed since. Clocks of
the two stores are taken to agree.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

from joinfs.joined.difference import ADDED, DELETED, REPLACES, Change, Difference, has_same_data
from joinfs.joined.links import SOURCE
from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import ORIGIN, PREFIX, REPLACED, origin_in, version_in
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.trees import below as tree_below

CHANGED = "was changed below since it was changed here"
DELETED_BELOW = "was changed here, and what it is a copy of was deleted below"
BETWEEN = "is decided by a store between the first one and the one that is to take it"


def conflicts(difference: Difference, onto: JoinedStore, changes: Sequence[Change], only_between: bool = False) -> dict[str, str]:
    """Answer the keys that cannot be committed as they are, each with a sentence on why.

    Args:
        difference: What the first store changes.
        onto: The join of the stores from the one that is to take it on.
        changes: What is to be committed.
        only_between: Leave out what was merely changed since.
    """
    found = {}
    for change in changes:
        if len(onto.layers) < len(difference.below.layers) and not _is_same(difference.below, onto, change.below):
            found[change.key] = BETWEEN
        elif not only_between and change.kind != ADDED and _was_changed(difference, change):
            found[change.key] = CHANGED
        elif not only_between and change.kind == ADDED and _was_deleted(difference, change):
            found[change.key] = DELETED_BELOW
    return found


def _is_same(below: JoinedStore, onto: JoinedStore, key: str) -> bool:
    """Whether two joins have the same at a key: the one that is to take the changes, and that in which they were made."""
    answers: list[Any] = []
    for join in (below, onto):
        try:
            stat = join.lookup(key.removesuffix("/")) if key else join.stat(ROOT)
            answers.append((stat.mode, stat.uid, stat.gid, join.get_metadata(key)) if stat.is_directory else stat.file_id)
        except KeyError:
            answers.append(-1)
    return bool(answers[0] == answers[1])


def _was_changed(difference: Difference, change: Change) -> bool:
    upper, below = difference.join.layers[0], difference.below
    theirs = below.stat(change.below)
    if theirs.is_directory:
        if change.kind != DELETED:
            return False  # what is in it is a change, or is none, of its own
        made = _made(upper, change.key)
        return any(stat.ctime > made for stat in (theirs, *(stat for _, stat in tree_below(below, change.below))))
    known = None if change.kind == DELETED else _is_as_copied(upper, _place(difference.join, change.key), theirs)
    if known is not None:
        return not known
    is_later = max(theirs.ctime, theirs.mtime) > _made(upper, change.key)
    if change.kind == DELETED or not is_later:
        return is_later
    return not _is_alike(difference.join, change, below)


def _place(join: JoinedStore, key: str) -> str:
    """Where the first store has what is seen at a key; of a file with several keys it may have a copy only."""
    found = join._merge.find(key)
    return found.key if found.is_copy else key


def _is_as_copied(upper: Store, key: str, theirs: Stat) -> bool | None:
    """Whether a file below is what the first store's was copied from, or replaced; None for not knowing."""
    try:
        metadata = upper.get_metadata(key, (ORIGIN, REPLACED, SOURCE))
    except KeyError:
        return None
    if SOURCE in metadata and origin_in(metadata) == theirs.file_id:
        return bool(metadata[SOURCE] == f"{theirs.size} {theirs.mtime}")
    for version in (version_in(metadata, REPLACED), version_in(metadata)):
        if version is not None and version[0] == theirs.file_id:
            there = (theirs.size, theirs.mtime, theirs.mode, theirs.uid, theirs.gid)
            return version[1:] == there[: len(version) - 1]
    return None


def _was_deleted(difference: Difference, change: Change) -> bool:
    """Whether what is new by now is a copy of something that is not below any more."""
    upper = difference.join.layers[0]
    if is_directory_key(change.key) or not upper.exists(change.key) or upper.stat(change.key).nlink > 1:
        return False
    version = version_in(upper.get_metadata(change.key, (ORIGIN,)))
    return version is not None and not difference.is_still_below(version[0])


def _is_alike(join: JoinedStore, change: Change, below: JoinedStore) -> bool:
    """Whether both have the same by now: nothing is lost then."""
    return not REPLACES & {*change.details} and has_same_data(join, change.key, below, change.below)


def _made(upper: Store, key: str) -> int:
    """When the first store got what it has at a key or, if it has nothing there, what hides it."""
    bare = key.removesuffix("/")
    directory, name = split(bare)
    for place in (bare, f"{directory}{PREFIX}{name}"):
        with contextlib.suppress(KeyError, ValueError):
            stat = upper.lookup(place)
            return stat.birth or stat.ctime or stat.mtime
    with contextlib.suppress(KeyError):  # a name that is too long for a whiteout, or in an opaque directory
        stat = upper.stat(directory)
        return stat.birth or stat.ctime or stat.mtime
    return 0
