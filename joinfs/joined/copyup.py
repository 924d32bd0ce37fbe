"""Copying something from a lower layer into the first one, before it is changed there."""

import contextlib

from joinfs.joined.found import Found
from joinfs.joined.whiteout import unmarked, unmarked_xattrs
from joinfs.stores import Stat, Store
from joinfs.stores.keys import split
from joinfs.stores.value import Metadata
from joinfs.stores.whole import whole


def copy_up(found: Found, upper: Store, key: str, marks: Metadata, with_data: bool = True) -> Stat:
    """Put what was found in a lower layer into ``upper`` as ``key``, whole and in one step.

    Attributes, metadata and foreign extended attributes come along; the marks of its layer do not. The
    directory that takes it keeps its times, as nothing in it has changed for who looks at the join.

    Args:
        found: Where it is.
        upper: The first layer; it has the directory that ``key`` is in.
        key: Where it goes, spelled as its kind is.
        marks: Metadata that it gets beside its own.
        with_data: False if the data is about to be thrown away.

    Returns:
        The attributes of the copy.
    """
    above = split(key)[0]
    before = upper.stat(above)
    source = found.store
    told_by, told_as = found.told_at
    with contextlib.closing(source.get(found.key)) as value:
        has_data = with_data and not found.stat.is_directory
        copy = upper.put(
            key,
            found.stat,
            whole(value, f"{found.key!r} in {source.name}") if has_data else None,
            {**unmarked(value.metadata if found.metacopy is None else told_by.get_metadata(told_as)), **marks},
            unmarked_xattrs(told_by.get_xattrs(told_as)),
        )
    _restore_times(upper, above, before)
    return copy


def link_up(upper: Store, copy: str, key: str) -> None:
    """Give something in the first layer a key that it has in the join already; its directory keeps its times."""
    above = split(key)[0]
    before = upper.stat(above)
    upper.link(copy, key)
    _restore_times(upper, above, before)


def _restore_times(upper: Store, directory: str, before: Stat) -> None:
    """Put back a directory's times; one that we write to but do not own has none of ours to keep.

    One whose attributes nobody told shows those of a lower store, and would not any more.
    """
    if upper.capabilities.attributes and not before.implied:
        with contextlib.suppress(PermissionError):
            upper.set_stat(directory, atime=before.atime, mtime=before.mtime)
