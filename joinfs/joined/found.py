"""What one layer has in a directory of the join: what it shows, what it hides, and where something was found."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from joinfs.joined.links import DIRECTORY as COPIES
from joinfs.joined.links import links_shown
from joinfs.joined.stacks import Part
from joinfs.joined.whiteout import fits, hidden_name, is_overlay_whiteout, is_reserved, is_whited_out, marks_of_one, origin_in
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, directory_key, hash_of_key

# These bits of a mode are set in that of a character device; cheaper to test than its kind.
_CHARACTER_DEVICE = 0o020000
# Odd, so that no two numbers of a layer become the same one; and such that those of two layers do not, in practice.
_SPREAD, _PART = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
NUMBERS = (1 << 64) - 1
# In the number of what a lower layer has; the first layer's are its own.
BELOW = 1 << 64
# What is shown, and the names that are hidden.
Listing = tuple[Iterable[tuple[str, Stat]], set[str]]


class Found(NamedTuple):
    """Where a key of the join is: in layer number ``layer``, as ``key`` there, which is spelled as its kind is.

    ``metacopy`` is the key of the layer above that tells of it, where that has all but its data. ``source`` are its attributes
    in that layer, if it has several keys there and stays one file: then ``store`` and ``key`` are those of its copy, if there is one.
    """

    layer: int
    store: Store
    key: str
    stat: Stat
    metacopy: tuple[Store, str] | None = None
    source: Stat | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it is in the first store, as the copy of a file that has this key and others below."""
        return self.source is not None and self.key.startswith(COPIES)

    @property
    def told_at(self) -> tuple[Store, str]:
        """The store, and the key there, that has its metadata and extended attributes."""
        return self.metacopy or (self.store, self.key)


def told_by(part: Part, key: str, stat: Stat, alone: bool) -> Stat:
    """Attributes as the join tells them of what a part of a directory has at a key.

    Which file it is has the layer's number in it, as two layers may have the same numbers for their files; what was copied
    up is the file that it was, where the first layer's directory says that there are such. How many directories are in a
    directory is not known where others may share in it: ``alone`` says that they do not, or that nothing below shows there.
    """
    directory = stat.is_directory
    if directory and not alone and stat.nlink > 1:
        stat = stat._replace(nlink=1)
    if part.layer > 0:
        number = number_below(part.layer, hash_of_key(key) if stat.file_id is None else stat.file_id)
        return stat.numbered(number, breaks=stat.nlink > 1 and not directory)
    if not part.marks.impure or key == ROOT:
        return stat
    try:
        marks = marks_of_one(part.store, directory_key(key) if directory else key, stat)
    except KeyError:  # it went away behind our back
        return stat
    origin = origin_in(marks)
    return stat if origin is None else stat._replace(file_id=origin, nlink=links_shown(stat, marks))


def number_below(layer: int, number: int) -> int:
    """The number, in the join, of what a lower layer has under this number."""
    return BELOW | (number * _SPREAD + layer * _PART) & NUMBERS


def entries_shown(part: Part) -> Listing:
    """What a part shows, and the names that it hides of those below, which are known when the first has been read."""
    hidden = set(part.marks.long_whiteouts)
    return shown(part, hidden), hidden


def shown(part: Part, hidden: set[str]) -> Iterator[tuple[str, Stat]]:
    """What a part shows; the names that it hides are added to ``hidden``."""
    empty_files = part.marks.empty_files
    for name, stat in entries(part):
        if name[0] == "." and is_reserved(name):
            hidden.add(hidden_name(name) or "")
        elif (empty_files or (stat.rdev == 0 and stat.mode & _CHARACTER_DEVICE == _CHARACTER_DEVICE)) and is_overlay_whiteout(
            part.store, part.prefix + name, stat, part.marks
        ):
            hidden.add(name)
        else:
            yield name, stat


def entries(part: Part) -> Iterator[tuple[str, Stat]]:
    """What a part holds, marks and all; nothing if the directory went away behind our back."""
    with contextlib.suppress(KeyError):
        yield from part.store.list(part.prefix)


def look(part: Part, name: str, last: bool) -> tuple[Stat | None, bool]:
    """Answer ``(attributes, hidden)`` of ``name`` in a part, with one request or two.

    The attributes are None if nothing is there; ``hidden`` says that a whiteout is, which is not asked for
    in the last part, where it would hide nothing.
    """
    key = part.prefix + name
    try:
        stat = part.store.lookup(key)
        overlay_whiteout = is_overlay_whiteout(part.store, key, stat, part.marks)
    except KeyError:
        return None, not last and hides(part, name)
    return (None, True) if overlay_whiteout else (stat, False)


def hides(part: Part, name: str) -> bool:
    """Whether a part has a whiteout of ``name``, in the spelling that is written; one request."""
    if fits(name):
        return is_whited_out(part.store, part.prefix, name)
    return name in part.marks.long_whiteouts
