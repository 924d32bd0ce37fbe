"""Staged data that servers have left: listed, put where its owner wants it, or thrown away."""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from joinfs.errors import UsageError
from joinfs.filesystem.staging import Left, forget_left, left_in
from joinfs.mountpoint import staging_place


def recover(stores: Iterable[str], place: str | None, into: str | None, discard: bool) -> list[str]:
    """Deal with what servers that are no more have left of what was written to some first stores.

    Args:
        stores: Parts of the names of the first stores; none for all.
        place: Where staged data was kept; None for the usual place.
        into: A directory in which the files are put, with their paths in the mount; one that is there already gets
            a number. None to leave them.
        discard: Throw them away.

    Returns:
        A line for each file: where it is, or was.

    Raises:
        UsageError: There is no such place, or ``into`` is no directory.
        OSError: A file cannot be moved. Those that were not are still where they were.
    """
    place = place or staging_place()
    if place is None or not os.path.isdir(place):
        raise UsageError(f"there is no directory {place}" if place else "there is no directory for staged data; say which with -o staging=DIR")
    if into is not None and not os.path.isdir(into):
        raise UsageError(f"{into} is not a directory; make it with: mkdir -p {into}")
    wanted = list(stores)
    every = list(left_in(place))
    chosen = [left for left in every if not wanted or any(part in left.store for part in wanted)]
    lines = [_line(left, None if into is None else _move(left, Path(into))) for left in chosen]
    if into is not None or discard:
        forget_left(place, kept={left.path for left in every if left not in chosen})
    return lines


def _line(left: Left, moved: Path | None) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(left.time))
    size = (moved or left.path).stat().st_size
    place = "" if moved is None else f" -> {str(moved)!r}"
    return f"{left.store}: {left.key!r}, {size} bytes, written from {began} on in {left.mountpoint}{place}"


def _move(left: Left, into: Path) -> Path:
    names = [name for name in left.key.split("/") if name not in {"", ".", ".."}]
    target = into.joinpath(*names)
    target.parent.mkdir(parents=True, exist_ok=True)
    free, number = target, 0
    while free.exists() or free.is_symlink():
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    shutil.move(left.path, free)
    return free
