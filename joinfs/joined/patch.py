"""What the first store of a join changes, as a patch: what git apply(1) and patch(1) take.

See Also:
    git-diff(1), Generating patch text with -p.
"""

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence

from joinfs.joined.difference import ADDED, DELETED, RENAMED, REPLACES, Change, Difference, is_below
from joinfs.stores import Stat, Store
from joinfs.stores.keys import is_directory_key
from joinfs.stores.trees import below

# Longer files are not compared line by line, which takes long.
MOST_BYTES = 4 << 20
_SPECIAL = '"\\\t\n'


def patch(difference: Difference, paths: Sequence[str] = ()) -> Iterator[str]:
    """Yield the patch, a file at a time. Directories, owners, times and metadata are not in it, as in git's."""
    changes = list(difference.changes())
    renamed = [(change.below, change.key) for change in changes if change.kind == RENAMED]
    moved = [(old, new) for old, new in renamed if is_directory_key(new)]
    told = set()
    for change in changes:
        if not is_below(change, paths):
            continue
        if not is_directory_key(change.key):
            told.add(change.key)
            with contextlib.suppress(KeyError):  # it went away meanwhile
                yield _of_file(difference, change)
        elif change.kind == DELETED:
            gone = (key for key, stat in below(difference.below, change.below) if not stat.is_directory)
            # What was in it, and is elsewhere now, is no more deleted than that is added.
            elsewhere = tuple(old for old, _ in renamed if old.startswith(change.below) and old != change.below)
            yield from (_deleted(difference.below, key) for key in gone if not _is_one_of(key, elsewhere))
    if not paths:
        yield from _of_moved(difference, moved, told)


def _is_one_of(key: str, places: Sequence[str]) -> bool:
    return any(key == place or (is_directory_key(place) and key.startswith(place)) for place in places)


def _of_moved(difference: Difference, moved: Sequence[tuple[str, str]], told: set[str]) -> Iterator[str]:
    """Files that are what they were, in a directory that was renamed."""
    for old, new in moved:
        with contextlib.suppress(KeyError):  # it went away meanwhile
            for key, stat in below(difference.join, new):
                if not stat.is_directory and key not in told:
                    told.add(key)
                    before = old + key[len(new) :]
                    yield f"{_header(before, key)}similarity index 100%\n{_renamed(before, key)}"


def _of_file(difference: Difference, change: Change) -> str:
    join, lower = difference.join, difference.below
    if change.kind == DELETED:
        return _deleted(lower, change.below)
    if change.kind == ADDED:
        return _added(join, change.key)
    if "type" in change.details:
        return _deleted(lower, change.below) + _added(join, change.key)
    before, after = _mode(lower.stat(change.below)), _mode(join.stat(change.key))
    modes = "" if before == after else f"old mode {before}\nnew mode {after}\n"
    renamed = _renamed(change.below, change.key) if change.below != change.key else ""
    data = _lines(lower, change.below, join, change.key) if REPLACES & {*change.details} else ""
    return _header(change.below, change.key) + modes + renamed + data if modes or renamed or data else ""


def _deleted(store: Store, key: str) -> str:
    return f"{_header(key, key)}deleted file mode {_mode(store.stat(key))}\n{_lines(store, key, None, key)}"


def _added(store: Store, key: str) -> str:
    return f"{_header(key, key)}new file mode {_mode(store.stat(key))}\n{_lines(None, key, store, key)}"


def _header(old: str, new: str) -> str:
    return f"diff --git {_quoted('a/' + old)} {_quoted('b/' + new)}\n"


def _renamed(old: str, new: str) -> str:
    return f"rename from {_quoted(old)}\nrename to {_quoted(new)}\n"


def _mode(stat: Stat) -> str:
    """The mode as git knows it."""
    if stat.is_symlink:
        return "120000"
    return "100755" if stat.mode & 0o100 else "100644"


def _lines(before: Store | None, old: str, after: Store | None, new: str) -> str:
    one, other = _text(before, old), _text(after, new)
    names = ("/dev/null" if before is None else _quoted(f"a/{old}")), ("/dev/null" if after is None else _quoted(f"b/{new}"))
    if one is None or other is None:
        return f"Binary files {names[0]} and {names[1]} differ\n"
    lines = list(difflib.unified_diff(_split(one), _split(other), *names))
    marked = (line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return "".join(marked)


def _split(text: str) -> list[str]:
    """The lines, each with its end; only a line feed ends one."""
    return [line + "\n" for line in text.split("\n")[:-1]] + ([text.rsplit("\n", 1)[-1]] if not text.endswith("\n") and text else [])


def _text(store: Store | None, key: str) -> str | None:
    """What a file says, if it is text; an empty one if there is none."""
    if store is None:
        return ""
    if store.stat(key).size > MOST_BYTES:
        return None
    data = store.to_bytes(key)
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _quoted(name: str) -> str:
    """A name as git writes it: in quotes, with octal numbers, if there is anything odd in it."""
    if all(" " <= letter <= "~" and letter not in _SPECIAL for letter in name):
        return name
    return '"' + "".join(_escaped(byte) for byte in os.fsencode(name)) + '"'


def _escaped(byte: int) -> str:
    letter = chr(byte)
    if letter in '"\\':
        return f"\\{letter}"
    return letter if " " <= letter <= "~" else f"\\{byte:03o}"
