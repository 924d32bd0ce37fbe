"""The methods of the reference that are made of the others: many keys at once, queries, whole files.

A mixin of ``Store``; the methods it builds on are declared in ``stores/base.py``.
"""

import contextlib
import fnmatch
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from joinfs.stores.keys import ROOT
from joinfs.stores.metadata import has_all, selected
from joinfs.stores.progress import reporting
from joinfs.stores.value import MEBIBYTE, Metadata, Value, drained

if TYPE_CHECKING:
    from joinfs.stores.base import Store


class BulkMethods:
    """Methods of ``Store`` that have one sensible definition in terms of the rest."""

    def multiget(self: "Store", keys: Iterable[str]) -> Iterator[Value]:  # type: ignore[misc]
        """Yield what ``get`` answers for each key.

        Raises:
            KeyError: A key is not there (raised when its turn comes).
        """
        return (self.get(key) for key in keys)

    def multiget_data(self: "Store", keys: Iterable[str]) -> Iterator[BinaryIO]:  # type: ignore[misc]
        """Yield what ``get_data`` answers for each key; errors as for ``multiget``."""
        return (self.get_data(key) for key in keys)

    def multiget_metadata(  # type: ignore[misc]
        self: "Store", keys: Iterable[str], select: Iterable[str] | None = None
    ) -> Iterator[Metadata]:
        """Yield what ``get_metadata`` answers for each key; errors as for ``multiget``."""
        names = None if select is None else list(select)
        return (self.get_metadata(key, names) for key in keys)

    def multiset(  # type: ignore[misc]
        self: "Store",
        keys: Iterable[str],
        values: Iterable[tuple[BinaryIO, Mapping[str, Any]]],
        buffer_size: int = MEBIBYTE,
    ) -> None:
        """``set`` each key to its value, as one transaction; the longer of the two is cut, as by ``zip``."""
        with self.transaction("setting several keys"):
            for key, value in zip(keys, values, strict=False):
                self.set(key, value, buffer_size)

    def multiset_data(  # type: ignore[misc]
        self: "Store", keys: Iterable[str], datas: Iterable[BinaryIO], buffer_size: int = MEBIBYTE
    ) -> None:
        """``set_data`` of each key, as one transaction; the longer of the two is cut, as by ``zip``."""
        with self.transaction("setting the data of several keys"):
            for key, data in zip(keys, datas, strict=False):
                self.set_data(key, data, buffer_size)

    def multiset_metadata(  # type: ignore[misc]
        self: "Store", keys: Iterable[str], metadatas: Iterable[Mapping[str, Any]]
    ) -> None:
        """``set_metadata`` of each key, as one transaction; the longer of the two is cut, as by ``zip``."""
        with self.transaction("setting the metadata of several keys"):
            for key, metadata in zip(keys, metadatas, strict=False):
                self.set_metadata(key, metadata)

    def multiupdate_metadata(  # type: ignore[misc]
        self: "Store", keys: Iterable[str], metadatas: Iterable[Mapping[str, Any]]
    ) -> None:
        """``update_metadata`` of each key, as one transaction; the longer is cut, as by ``zip``."""
        with self.transaction("updating the metadata of several keys"):
            for key, metadata in zip(keys, metadatas, strict=False):
                self.update_metadata(key, metadata)

    def query(  # type: ignore[misc]
        self: "Store", select: Iterable[str] | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, Metadata]]:
        """Yield ``(key, metadata)`` of every value whose metadata has all of ``kwargs``, exactly.

        Values are regular files and symlinks. Directories have metadata as well, but are asked by key.

        Args:
            select: Names of metadata to answer; all of it if None.
            **kwargs: Names of metadata, and the values wanted.
        """
        names = None if select is None else list(select)
        for key in self.keys():
            with contextlib.suppress(KeyError):
                metadata = self.get_metadata(key)
                if has_all(metadata, kwargs):
                    yield key, selected(metadata, names)

    def query_keys(self: "Store", **kwargs: Any) -> Iterator[str]:  # type: ignore[misc]
        """Yield the keys that ``query`` yields."""
        if not kwargs:
            return self.keys()
        return (key for key, _ in self.query(select=(), **kwargs))

    def keys(self: "Store", prefix: str = ROOT) -> Iterator[str]:  # type: ignore[misc]
        """Yield the key of every value below the directory ``prefix``; nothing if it is not there."""
        try:
            children = list(self.list(prefix))
        except KeyError:
            return
        for name, stat in sorted(children):
            if stat.is_directory:
                yield from self.keys(f"{prefix}{name}/")
            elif stat.is_file or stat.is_symlink:
                yield prefix + name

    def glob(self: "Store", pattern: str) -> Iterator[str]:  # type: ignore[misc]
        """Yield the keys of values that match ``pattern``: ``*``, ``?`` and ``[...]``, which cross ``/``.

        See Also:
            fnmatch.
        """
        matches = re.compile(fnmatch.translate(pattern)).match
        return (key for key in self.keys(_literal_directory(pattern)) if matches(key))

    def to_file(self: "Store", key: str, path: str, buffer_size: int = MEBIBYTE) -> None:  # type: ignore[misc]
        """Write the data of ``key`` to a file of the host, made or overwritten. Emits StoreProgress events.

        Raises:
            KeyError: The key is not there (the file is then not touched).
            OSError: The file cannot be written.
        """
        with self.get_data(key) as data, open(path, "wb") as file, reporting(self, key, data) as source:
            while source and (piece := source.read(buffer_size)):
                file.write(piece)

    def to_bytes(self: "Store", key: str, buffer_size: int = MEBIBYTE) -> bytes:  # type: ignore[misc]
        """Answer the data of ``key``. Emits StoreProgress events.

        Raises:
            KeyError: The key is not there.
        """
        with self.get_data(key) as data, reporting(self, key, data) as source:
            return b"" if source is None else drained(source, buffer_size)

    def from_file(self: "Store", key: str, path: str, buffer_size: int = MEBIBYTE) -> None:  # type: ignore[misc]
        """``set_data`` from a file of the host."""
        with open(path, "rb") as file:
            self.set_data(key, file, buffer_size)

    def from_bytes(  # type: ignore[misc]
        self: "Store", key: str, data: bytes, buffer_size: int = MEBIBYTE
    ) -> None:
        """``set_data`` from bytes."""
        self.set_data(key, io.BytesIO(data), buffer_size)


def _literal_directory(pattern: str) -> str:
    """The part of a glob pattern, up to a ``/``, that has no wildcard: where to begin to look."""
    literal = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    return literal[: literal.rfind("/") + 1]
