"""Marks that say in which of the other stores something is, by how many there are from that one down.

They are those of copies without data, and of files that have several keys below; a store that goes, or comes between, may make them wrong.
"""

from collections.abc import Iterator, Sequence

from joinfs.errors import UsageError
from joinfs.joined.links import DIRECTORY
from joinfs.joined.whiteout import read_marks
from joinfs.stores import Store
from joinfs.stores.keys import ROOT


def check_places(old: Sequence[Store], new: Sequence[Store]) -> None:
    """Raise ``UsageError`` if a store has such marks, and would have other stores below it."""
    for number, layer in enumerate(old):
        below = [id(store) for store in old[number + 1 :]]
        place = next((place for place, store in enumerate(new) if store is layer), None)
        if place is None or not below or [id(store) for store in new[place + 1 :]][-len(below) :] == below:
            continue
        if any(True for _ in _marks(layer)):
            raise UsageError(
                f"{layer.name} has copies that say where in the stores below it their data is, or of which of their files they are; "
                "other stores can be put above those, and none be taken out"
            )


def _marks(store: Store) -> Iterator[str]:
    """The directories of a store that have such marks."""
    if store.exists(DIRECTORY):
        yield DIRECTORY
    pending = [ROOT]
    while pending:
        directory = pending.pop()
        if read_marks(store, directory).metacopies:
            yield directory
        pending += [f"{directory}{name}/" for name, stat in store.list(directory) if stat.is_directory]
