"""Where staged data is until it is in the store: in files that are there still if we are killed.

Each server that stages anything makes a directory of its own in the place for it. In that is a file for each node
that is written to, called by its number, and ``index``, which says in lines of JSON whose data it is. The index is
locked with flock(2) for as long as the server lives, so what is in a directory without a locked index was left by
one that has died, or that could not put it into its store.
"""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

INDEX = "index"
# A directory is called so until its index is locked.
_UNFINISHED = ".new-"


class StagedFile:
    """The staged data of one node.

    Attributes:
        descriptor: Open for reading and writing.
    """

    def __init__(self, staging: "Staging", descriptor: int, number: int | None) -> None:
        self._staging, self._number = staging, number
        self._has_news = False
        self.descriptor = descriptor

    def has_news_of(self, key: str) -> None:
        """Note that it has data that the store does not have at ``key``."""
        if not self._has_news:
            self._has_news = True
            self._staging.note(self._number, key)

    def has_no_news(self) -> None:
        """Note that the store has the data, or that nobody wants it any more."""
        if self._has_news:
            self._has_news = False
            self._staging.note(self._number, None)

    def drop(self) -> None:
        """Take the file away, unless it is to be kept for who recovers it; whoever has opened it closes it."""
        if not self._has_news:
            self._staging.remove(self._number)


class Staging:
    """The staged data of one server.

    Args:
        place: Where directories for it are; None for files without names, which go when we do.
        store: What the first store is called, for who finds what was left.
        mountpoint: Where it is mounted, likewise.
    """

    def __init__(self, place: str | None = None, store: str = "", mountpoint: str = "") -> None:
        self._place = place
        self._about = {"store": store, "mountpoint": mountpoint, "pid": os.getpid()}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._directory: str | None = None
        self._index = -1

    def file(self) -> StagedFile:
        """Answer a new, empty file.

        Raises:
            OSError: There can be none.
        """
        if self._place is None:
            return StagedFile(self, _unnamed_file(), None)
        with self._lock:
            directory = self._directory or self._begin(self._place)
        number = next(self._numbers)
        return StagedFile(self, os.open(f"{directory}/{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), number)

    def _begin(self, place: str) -> str:
        unfinished = tempfile.mkdtemp(prefix=_UNFINISHED, dir=place)
        self._index = os.open(f"{unfinished}/{INDEX}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._index, fcntl.LOCK_EX)
        self._write({**self._about, "began": time.time()})
        self._directory = f"{place}/{Path(unfinished).name.removeprefix(_UNFINISHED)}"
        os.rename(unfinished, self._directory)
        return self._directory

    def note(self, number: int | None, key: str | None) -> None:
        """Note whose data a file has; None that it need not be kept."""
        if number is not None:
            self._write({"file": number, "key": key, "time": time.time()})

    def _write(self, line: dict[str, Any]) -> None:
        # In one piece: whoever reads after we have died finds whole lines, but for the last.
        with contextlib.suppress(OSError):  # without room for a line the data is kept, only not found by its name
            os.write(self._index, json.dumps(line).encode() + b"\n")

    def remove(self, number: int | None) -> None:
        """Take a file away."""
        if number is not None:
            with contextlib.suppress(OSError):
                os.unlink(f"{self._directory}/{number}")

    def begin_again(self, store: str) -> None:
        """Say of what is staged from now on that it is for another store; of what is staged already it is still said what was."""
        with self._lock:
            if self._directory is None or os.listdir(self._directory) == [INDEX]:
                self.close()
                self._about["store"] = store

    def close(self) -> None:
        """Let go of everything; what is not in the store is left for who recovers it."""
        if self._directory is None:
            return
        if os.listdir(self._directory) == [INDEX]:
            shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._index)
        self._directory = None


def _unnamed_file() -> int:
    """A file without a name: nobody else sees it, and it goes when it is closed or we die."""
    place = tempfile.gettempdir()
    with contextlib.suppress(OSError):
        return os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600)
    descriptor, path = tempfile.mkstemp(dir=place, prefix="joinfs-")
    os.unlink(path)
    return descriptor


# -------------------------------------------------------------------- what was left


class Left(NamedTuple):
    """Staged data that no server has any more, and that its store never got.

    Attributes:
        store: What the first store was called.
        mountpoint: Where it was mounted.
        key: The path of the file in the mount when it was begun to be written.
        path: The file that has the data.
        time: When it was begun to be written, in seconds since the epoch.
    """

    store: str
    mountpoint: str
    key: str
    path: Path
    time: float

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.path.stat().st_size


def left_in(place: str) -> Iterator[Left]:
    """Yield what servers that are no more have left, oldest first in each directory."""
    with contextlib.suppress(FileNotFoundError):
        for directory in sorted(Path(place).iterdir()):
            if not directory.name.startswith(_UNFINISHED):
                yield from _left_by_one(directory)


def _left_by_one(directory: Path) -> Iterator[Left]:
    with contextlib.suppress(FileNotFoundError), (directory / INDEX).open("rb") as index:
        if not _is_left(index):
            return
        lines = [json.loads(line) for line in index.read().splitlines(keepends=True) if line.endswith(b"\n")]
        about = lines[0] if lines else {}
        known = {line["file"]: line for line in lines[1:]}
        for file in sorted(directory.iterdir()):
            line = known.get(int(file.name)) if file.name.isdigit() else None
            if line is not None and line["key"] is not None:
                yield Left(about["store"], about["mountpoint"], line["key"], file, line["time"])


def _is_left(index: BinaryIO) -> bool:
    """Whether the server of an index lives no more; nobody else deals with what it left as long as the index is open."""
    try:
        fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def forget_left(place: str, kept: set[Path]) -> None:
    """Take away what servers that are no more have left, all but some files.

    Raises:
        OSError: Something cannot be taken away.
    """
    for directory in Path(place).iterdir():
        with contextlib.suppress(FileNotFoundError), (directory / INDEX).open("rb") as index:
            if not _is_left(index):
                continue
            for file in directory.iterdir():
                if file not in kept and file.name != INDEX:
                    file.unlink()
            if os.listdir(directory) == [INDEX]:
                shutil.rmtree(directory)
