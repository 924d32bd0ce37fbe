"""Whole trees of a store: copied and deleted, key by key."""

import contextlib
from collections.abc import Callable, Iterator

from joinfs.stores.base import Store
from joinfs.stores.keys import is_directory_key
from joinfs.stores.value import Stat
from joinfs.stores.whole import whole


def below(store: Store, directory: str) -> Iterator[tuple[str, Stat]]:
    """Yield each key in a directory and below, what is above first, with its attributes. What goes away meanwhile is left out.

    Raises:
        KeyError: There is no such directory.
    """
    pending = [iter(_entries(store, directory))]
    while pending:
        found = next(pending[-1], None)
        if found is None:
            pending.pop()
            continue
        yield found
        if found[1].is_directory:
            with contextlib.suppress(KeyError):
                pending.append(iter(_entries(store, found[0])))


def _entries(store: Store, directory: str) -> list[tuple[str, Stat]]:
    return [(f"{directory}{name}" + ("/" if stat.is_directory else ""), stat) for name, stat in sorted(store.list(directory))]


def delete_tree(store: Store, key: str) -> None:
    """Delete what is at a key, with all below it; nothing if it is not there. After a failure some of it may be gone."""
    with contextlib.suppress(KeyError):
        inside = [found for found, _ in below(store, key)] if is_directory_key(key) else []
        for found in reversed(inside):
            with contextlib.suppress(KeyError):  # others delete it, too
                store.delete(found)
        store.delete(key)


def copy_one(source: Store, key: str, onto: Store, new: str) -> Stat:
    """Put what is at a key of one store at a key of another, or of the same: data, attributes, metadata; not what is in a directory.

    Errors and what holds after a failure: as for ``get`` and ``put``.
    """
    stat = source.stat(key)
    metadata, xattrs = source.get_metadata(key), source.get_xattrs(key)
    if stat.is_directory or (stat.is_special and not stat.is_symlink):
        return onto.put(new, stat, None, metadata, xattrs)
    with contextlib.closing(source.get(key)) as value:
        return onto.put(new, stat, whole(value, f"{key!r} in {source.name}"), metadata, xattrs)


def copy_tree(source: Store, key: str, onto: Store, new: str, copied: Callable[[str, Stat], object] | None = None) -> None:
    """As ``copy_one``, with all that is below a directory; names that share a file there share one here, if the store has hard links.

    Args:
        source, key: From where.
        onto, new: To where.
        copied: Called with each key of the source that was copied, and its attributes.

    After a failure some of it may be there.
    """
    linked: dict[int, str] = {}
    stat = source.stat(key)
    inside = list(below(source, key)) if stat.is_directory else []  # before any of the copies may be among it
    copy_one(source, key, onto, new)
    if copied is not None:
        copied(key, stat)
    times = [(new, stat)] if stat.is_directory else []
    for old, child in inside:
        place = new + old[len(key) :]
        first = None if child.linked_id is None or not onto.capabilities.hard_links else linked.setdefault(child.linked_id, place)
        if first is not None and first != place:
            onto.link(first, place)
        else:
            copy_one(source, old, onto, place)
        if copied is not None:
            copied(old, child)
        if child.is_directory:
            times.append((place, child))
    if onto.capabilities.attributes:
        for place, child in reversed(times):
            onto.set_stat(place, atime=child.atime, mtime=child.mtime)
