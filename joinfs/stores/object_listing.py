"""What is directly in a directory of a bucket, as far as the names of objects tell, and streamed.

``a/b`` is a value in ``a/``. A directory is there if anything begins with its name and ``/``: that itself, its marker,
or what is in it. ``a_$folder$``, as Hadoop writes it, is a marker of ``a/`` too, unless there is an object ``a``. (And so is an
object ``a`` that says that it is a directory, which its name does not tell.)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from joinfs.stores.object_bucket import Bucket, Found, Listed
from joinfs.stores.object_names import level_of, spelling_of
from joinfs.stores.value import NANOSECONDS

HADOOP = "_$folder$"
# Has the attributes of the root of a whole bucket, as no object can have an empty name. It is not shown.
ROOT_MARKER = ".joinfs-root"


class Child(NamedTuple):
    """Something in a directory.

    Attributes:
        name: As in the directory's key.
        listed: What is told of the object, of a value; None of a directory.
        marker: What is told of a directory's marker, where listings tell that.
    """

    name: str
    listed: Listed | None
    marker: Listed | None = None


def children(bucket: Bucket, base: str, key: str, listed_in: Callable[[str], Iterable[Listed]]) -> Iterator[Child]:
    """Yield what is in a directory; nothing if it is not there.

    Args:
        bucket: Where it is.
        base: What all names of the store begin with.
        key: The directory's.
        listed_in: Answers what the bucket lists with a prefix, and up to a ``/``.
    """
    level = level_of(key)
    prefix, pieces = base + level.prefix, level.pieces
    seen = set[str]()
    entries = (entry for entry in listed_in(prefix) if entry.name != (prefix or ROOT_MARKER))
    for entry, beside in _told_apart(entries):
        name, listed = entry.name.removesuffix("/"), None if entry.name.endswith("/") else entry
        folder = _hadoop_marks(bucket, prefix, name.removeprefix(prefix)) if listed is not None else ""
        spelled = spelling_of(folder or name.removeprefix(prefix), beside)
        if spelled[: len(pieces)] != pieces:
            continue
        child, *more = spelled[len(pieces) :]
        if listed is not None and not folder and not more:
            yield Child(child, listed)
        elif child not in seen:
            seen.add(child)
            yield Child(child, None, None if folder or more else entry)


def _told_apart(entries: Iterable[Listed]) -> Iterator[tuple[Listed, bool]]:
    """Yield each entry, and of a value whether it has a directory of its name beside it.

    In the order of a bucket, ``a/`` comes a little after ``a``: so long that is held back.
    """
    held: list[Listed] = []
    for entry in entries:
        for value in [value for value in held if value.name + "/" <= entry.name]:
            held.remove(value)
            yield value, value.name + "/" == entry.name
        if entry.name.endswith("/"):
            yield entry, False
        else:
            held.append(entry)
    yield from ((value, False) for value in held)


def _hadoop_marks(bucket: Bucket, prefix: str, component: str) -> str:
    """The directory that an object marks by its name, if it does."""
    folder = component.removesuffix(HADOOP)
    if not folder or folder == component:
        return ""
    try:
        bucket.head(prefix + folder)
    except KeyError:
        return folder
    return ""


def version_of(told: Found | Listed) -> str | None:
    """Answer what names the content of an object, as ``Versioned`` has it."""
    return f"{told.etag} {told.size}" if told.etag else None


def mark_of(listed: Listed) -> str:
    """Answer what marks the attributes of an object, of which a change of these alone changes but the date."""
    return f"{listed.etag} {listed.size} {listed.modified // NANOSECONDS}"
