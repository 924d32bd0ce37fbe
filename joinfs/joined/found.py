"""What one layer has in a directory of the join: what it shows, what it hides, and where something was found."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from joinfs.joined.links import LINKS, links_shown
from joinfs.joined.stacks import Part
from joinfs.joined.whiteout import (
    ORIGIN,
    fits,
    hidden_name,
    is_overlay_whiteout,
    is_reserved,
    is_whited_out,
    marks_of_one,
    origin_in,
)
from joinfs.stores import Stat, Store
from joinfs.stores.keys import ROOT, directory_key, hash_of_key
from joinfs.stores.value import Metadata

# These bits of a mode are set in that of a character device; cheaper to test than its kind.
_CHARACTER_DEVICE = 0o020000
# Odd, so that no two numbers of a layer become the same one; and such that those of two layers do not, in practice.
_SPREAD, _PART = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
NUMBERS = (1 << 64) - 1
# What is shown, and the names that are hidden.
Listing = tuple[Iterable[tuple[str, Stat]], set[str]]


class Found(NamedTuple):
    """Where a key of the join is: in layer number ``layer``, as ``key`` there, which is spelled as its kind is.

    ``metacopy`` is the key of the layer above that tells of it, where that has all but its data. ``source`` are its attributes
    in that layer, if it has several keys there and stays one file; ``is_copy`` then says that ``store`` and ``key`` are those of its
    copy in the first store.
    """

    layer: int
    store: Store
    key: str
    stat: Stat
    metacopy: tuple[Store, str] | None = None
    source: Stat | None = None
    is_copy: bool = False

    @property
    def told_at(self) -> tuple[Store, str]:
        """The store, and the key there, that has its metadata and extended attributes."""
        return self.metacopy or (self.store, self.key)


def told_by(part: Part, key: str, stat: Stat, alone: bool, depth: int) -> Stat:
    """Attributes as the join tells them of what a part of a directory has at a key.

    Which file it is has in it how many layers there are from its layer down, as two layers may have the same numbers for
    their files, and layers are added at the top. What was copied up is the file that it was, where its directory says that
    there are such; but below the first layer files with several keys are told apart by their own numbers, as layers
    may come from different joins. How many directories are in a directory is not known where others may share in it:
    ``alone`` says that they do not, or that nothing below shows there.
    """
    marks: Metadata = {}
    if part.marks.impure and key != ROOT:
        with contextlib.suppress(KeyError):  # it went away behind our back
            names = (ORIGIN,) if stat.nlink == 1 or stat.is_directory else (ORIGIN, LINKS)
            marks = marks_of_one(part.store, directory_key(key) if stat.is_directory else key, stat, names)
    links = stat.nlink
    if links > 1:
        links = (links if alone else 1) if stat.is_directory else links_shown(stat, marks)
    origin = origin_in(marks) if links == 1 or part.layer == 0 or stat.is_directory else None
    if origin is None and stat.file_id is not None:
        origin = number_in_join(depth, stat.file_id)
    elif origin is None:
        origin, stat = number_in_join(depth, hash_of_key(key)), stat._replace(placed=True)
    return stat.numbered(origin, links)


def number_in_join(depth: int, number: int) -> int:
    """The number, in the join, of what has this number in a layer from which down there are so many."""
    return (number * _SPREAD + depth * _PART) & NUMBERS


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
