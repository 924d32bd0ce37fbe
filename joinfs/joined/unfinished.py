"""Commits that were cut off between their two stores; see ``commit``."""

from collections.abc import Sequence

from joinfs.joined.whiteout import marked, unmarked
from joinfs.stores import Store
from joinfs.stores.keys import ROOT
from joinfs.stores.metadata import RESERVED
from joinfs.stores.trees import delete_tree

COMMIT, COMMITTED = RESERVED + "commit", RESERVED + "committed"


def finish_commit(upper: Store, lowers: Sequence[Store]) -> None:
    """Finish a commit that got as far as that a lower store has everything; forget one that did not get there."""
    name = upper.get_metadata(ROOT, (COMMIT,)).get(COMMIT)
    if name is None:
        return
    for lower in lowers:
        if is_committed(lower, str(name)):
            discard_everything(upper)
            if lower.capabilities.writable:
                forget_note(lower, COMMITTED)
            return
    forget_note(upper, COMMIT)


def is_committed(lower: Store, name: str) -> bool:
    """Whether a lower store has all that a commit of this name was to do to it."""
    return bool(lower.get_metadata(ROOT, (COMMITTED,)).get(COMMITTED) == name)


def discard_everything(upper: Store) -> None:
    """Take everything out of a store, marks included; its root keeps its attributes and metadata.

    After a failure all is there still, if the store has transactions.
    """
    with upper.transaction("discard"):
        for name, stat in tuple(upper.list(ROOT)):
            delete_tree(upper, name + ("/" if stat.is_directory else ""))
        metadata = upper.get_metadata(ROOT)
        if marked(metadata):
            upper.set_metadata(ROOT, unmarked(metadata))


def forget_note(store: Store, name: str) -> None:
    """Take a note of a commit away, if there is one."""
    metadata = store.get_metadata(ROOT)
    if metadata.pop(name, None) is not None:
        store.set_metadata(ROOT, metadata)
