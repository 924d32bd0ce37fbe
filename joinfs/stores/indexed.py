"""Archives as stores: where everything is in one is found out once, and kept in an index."""

import functools
import itertools
import logging
import os
import sqlite3
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from joinfs.errors import CorruptStore
from joinfs.stores.archive_index import ArchiveIndex, Places, left_out, open_index, places_of, shown
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.keys import is_directory_key
from joinfs.stores.progress import Work
from joinfs.stores.random_access import RandomAccess, Window, open_file
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import READ_ONLY, Metadata, RangeStream, Stat, Value

log = logging.getLogger(__name__)


class IndexedStore(Store):
    """An archive of which any range of any member can be read. It takes no writes.

    Args:
        path: The archive.
        event_manager: As for ``Store``.
        read_only: There for symmetry: the store takes no writes anyway.
        part: ``(offset, bytes)`` of the archive in the file, if it is not all of it.

    Attributes:
        scheme: What its URLs begin with.
    """

    capabilities = READ_ONLY
    scheme = ""

    def __init__(
        self,
        path: str | os.PathLike[str],
        event_manager: Any = None,
        read_only: bool = True,
        part: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(event_manager)
        self._part = part
        self.path = os.path.abspath(path)
        self.name = f"{self.scheme}:{os.fspath(path)}"
        self._file: RandomAccess | None = None
        self._index: SQLiteStore | None = None

    # ---------------------------------------------------------------- what each kind of archive knows

    @abstractmethod
    def _build(self, file: RandomAccess, index: ArchiveIndex) -> None:
        """Have the index take in every member.

        Raises:
            CorruptStore: It is no such archive, or a damaged one.
        """

    @abstractmethod
    def _read(self, file: RandomAccess, stat: Stat, places: Places, offset: int, size: int) -> bytes:
        """Read a range of a member, all of which is within its size.

        Args:
            file: The archive.
            stat: The member's attributes.
            places: What the index was given for it.
        """

    def _uncovered(self, file: RandomAccess) -> RandomAccess:
        """What is in the file, if the archive as a whole is compressed."""
        return file

    def _made_by(self) -> str:
        """What the index depends on beside the archive: another one is made if this changes."""
        return self.scheme

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        if self.is_connected():
            return
        file = open_file(self.path)
        try:
            if self._part is not None:
                file = Window(file, *self._part)
            file = self._uncovered(file)
            part = "" if self._part is None else f"{self._part[0]}+{self._part[1]}"
            self._index = open_index(self.path, f"{self._made_by()} {part}", self.name, functools.partial(self._index_all, file))
        except BaseException:
            file.close()
            raise
        self._file = file
        if sentences := list(itertools.islice(self._left_out(), 2)):
            log.warning("%s: %s%s", self.name, sentences[0], "; and so are others: see joinfs check" if len(sentences) > 1 else "")

    def _left_out(self) -> Iterator[str]:
        with self._opened()[0]._reading() as db:
            yield from left_out(db)

    def _index_all(self, file: RandomAccess, db: sqlite3.Connection) -> None:
        time = os.stat(self.path).st_mtime_ns
        implied = Stat(DEFAULT_DIRECTORY_MODE, 0, *self._default_owner(), 0, time, time, time, time)
        with Work(self, f"indexing {self.name}") as work:
            self._build(file, ArchiveIndex(db, implied, work.advance))

    def disconnect(self) -> None:
        if self._index is not None:
            self._index.disconnect()
        if self._file is not None:
            self._file.close()
        self._index = self._file = None

    def is_connected(self) -> bool:
        return self._file is not None and self._index is not None and self._index.is_connected()

    def _opened(self) -> tuple[SQLiteStore, RandomAccess]:
        if self._index is None or self._file is None:
            self._check_connected()
        return self._index, self._file  # type: ignore[return-value]

    def watch(self, directory: str) -> bool:
        """The same; an archive is what it was when it was connected."""
        return is_directory_key(directory) and self.exists(directory)

    def check(self) -> Iterator[str]:
        """The same, and of members that are not shown."""
        yield from self._left_out()
        yield from super().check()

    # ---------------------------------------------------------------- reading

    def stat(self, key: str) -> Stat:
        return shown(self._opened()[0].stat(key))

    def _version_of(self, stat: Stat) -> str | None:
        """Another archive can have the same attributes for another content."""
        return None

    def lookup(self, key: str) -> Stat:
        return shown(self._opened()[0].lookup(key))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        return ((name, shown(stat)) for name, stat in self._opened()[0].list(prefix))

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        return self._opened()[0].get_metadata(key, select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        return self._opened()[0].get_xattrs(key)

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        return self._opened()[0].query(select, **kwargs)

    def get(self, key: str) -> Value:
        index, _ = self._opened()
        stat = index.stat(key)
        return Value(lambda: self._stream(key, stat), index.get_metadata(key), stat.size, *stat.moments())

    def _stream(self, key: str, stat: Stat) -> BinaryIO:
        index, _ = self._opened()
        if not stat.is_file:
            return index.get_data(key)
        places = self._places(stat)
        return RangeStream.open(lambda offset, size: self._read_checked(stat, places, offset, size), stat.size)

    def _places(self, stat: Stat) -> Places:
        index, _ = self._opened()
        if not stat.size or stat.file_id is None:
            return []
        with index._reading() as db:
            return places_of(db, stat.file_id)

    def read(self, key: str, offset: int, size: int) -> bytes:
        index, _ = self._opened()
        stat = index.stat(key)
        if not stat.is_file:
            return index.read(key, offset, size)
        return self._read_checked(stat, self._places(stat), offset, size)

    def _read_checked(self, stat: Stat, places: Places, offset: int, size: int) -> bytes:
        """A range of a member, short only at its end."""
        size = min(size, stat.size - offset)
        if size <= 0:
            return b""
        data = self._read(self._opened()[1], stat, places, offset, size)
        if len(data) < size:
            raise CorruptStore(f"{self.name} is damaged: a file of {stat.size} bytes ends at {offset + len(data)}")
        return data
