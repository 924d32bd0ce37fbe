"""The reading half of the promise that every store keeps; the whole of it is ``Store`` in ``stores/base.py``."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from joinfs.errors import NotConnected, Unsupported
from joinfs.stores.keys import directory_key
from joinfs.stores.metadata import selected
from joinfs.stores.value import MEBIBYTE, Capabilities, Marked, Metadata, Stat, Usage, Value, Versioned


class Reading(ABC):
    """What can be asked of a store, and its connection."""

    capabilities: Capabilities = Capabilities()
    name: str = "store"

    @property
    def identity(self) -> str:
        """What tells the medium from all others, also at other times and to other processes: the name, as a rule.

        Empty if nothing does. There are no credentials in it. Of a store at a local ``path``, that is part of it.
        """
        if not self.capabilities.persistent or self.name == Reading.name:
            return ""
        path = getattr(self, "path", None)
        return self.name if path is None else f"{self.name} {os.path.realpath(path)}"

    # ---------------------------------------------------------------- connection

    @abstractmethod
    def connect(self, credentials: Any = None) -> None:
        """Open what the store needs; nothing happens if it is connected already.

        Nothing touches the medium before this, so a store can be made in one process and connected in
        another.

        Args:
            credentials: What the medium asks for; stores that ask for nothing ignore it.

        Raises:
            StoreUnavailable: The medium is not there or cannot be opened.
            CorruptStore: It is damaged, or not what it should be.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Let go of what ``connect`` opened; nothing happens if the store is not connected."""

    @abstractmethod
    def is_connected(self) -> bool:
        """Whether the store is connected."""

    def info(self) -> dict[str, Any]:
        """What there is to know about the store: ``name``, ``readonly`` and its capabilities."""
        return {
            "name": self.name,
            "readonly": not self.capabilities.writable,
            **self.capabilities._asdict(),
        }

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.disconnect()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    # ---------------------------------------------------------------- reading

    @abstractmethod
    def stat(self, key: str) -> Stat:
        """Answer the attributes of ``key``.

        ``a`` is a value, symlink or special file of that name, ``a/`` a directory: a marker, or the
        prefix of other keys. The root (``""``) is always there. Symlinks are never followed.

        Raises:
            KeyError: There is no such key, or it is of the other of these two kinds.
        """

    def lookup(self, key: str) -> Stat:
        """Answer the attributes of whatever stands at ``key``, which does not end in ``/``.

        One request where the store can: the directory ``key/`` if there is one, else ``key``.

        Raises:
            KeyError: There is neither.
        """
        try:
            return self.stat(directory_key(key))
        except KeyError:
            return self.stat(key)

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        """Yield ``(name, Stat)`` for what is directly in the directory ``prefix``, in any order.

        Names of directories have no ``/`` here; their Stat tells. Streamed, and never a scan of what is
        further below. What comes or goes meanwhile may be seen or not; nothing else is left out or
        yielded twice.

        Args:
            prefix: A directory's key.

        Raises:
            KeyError: There is no such directory (raised at the first item at the latest).
        """

    def list_marked(self, prefix: str, known: Callable[[str, str], Stat | None]) -> Iterator[tuple[str, Marked]]:
        """Yield what ``list`` does, and by what it is told that it is as it was, for who keeps it and lists anew later.

        Args:
            prefix: A directory's key.
            known: Called with a name and its mark; what it answers, unless it is None, are the attributes that were yielded with
                that mark once, which need not be found out again.

        Raises:
            KeyError: There is no such directory (raised at the first item at the latest).
        """
        return ((name, Marked(stat)) for name, stat in self.list(prefix))

    @abstractmethod
    def get(self, key: str) -> Value:
        """Answer the data and metadata of ``key``.

        A symlink's data is its target; a special file's, and a directory's, is empty.

        Raises:
            KeyError: The key is not there.
        """

    def get_data(self, key: str) -> BinaryIO:
        """Answer a stream of the data of ``key``.

        Raises:
            KeyError: The key is not there.
        """
        return self.get(key).data

    def get_data_range(self, key: str, start: int | None = None, end: int | None = None) -> BinaryIO:
        """Answer a stream of the bytes of ``key`` from ``start`` up to, not including, ``end``.

        Raises:
            KeyError: The key is not there.
        """
        first = max(start or 0, 0)
        if end is not None and 0 < end - first <= MEBIBYTE:
            return io.BytesIO(self.read(key, first, end - first))
        return self.get(key).range(start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        """Answer the metadata of ``key`` as a new dict, cut down to the names in ``select`` if given.

        Raises:
            KeyError: The key is not there.
        """
        return selected(self.get(key).metadata, select)

    def exists(self, key: str) -> bool:
        """Whether ``key`` is there; for ``a/``, whether there is such a directory."""
        try:
            self.stat(key)
        except KeyError:
            return False
        return True

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes of ``key`` from ``offset``.

        Short only at the end of the data; ``b""`` at or past it.

        Args:
            key: A key that does not end in ``/``.
            offset: Bytes from the start, >= 0.
            size: Bytes wanted, > 0.

        Raises:
            KeyError: The key is not there.

        See Also:
            SEMANTICS.md, Reads; pread(2).
        """
        with self.get(key).range(offset, offset + size) as stream:
            return stream.read(size)

    def version(self, key: str) -> str | None:
        """Answer what names the present content of ``key``; errors and requests as for ``read_version``.

        As long as a key has the same version, it has the same bytes. None: that cannot be told.
        """
        return self.read_version(key, 0, 0).version

    def read_version(self, key: str, offset: int, size: int) -> Versioned:
        """Answer what ``read`` does, and of which version it is, for who keeps it and will compare; ``size`` may be 0.

        One request where the store can: one that tells, without data, if ``size`` is 0. All of the answer is of one version. By
        default that is named by what ``stat`` answers before and after; a store that believes its medium for a time
        must override this, and so must one that knows better.

        Args:
            key: A key that does not end in ``/``.
            offset: Bytes from the start, >= 0.
            size: Bytes wanted, >= 0.

        Raises:
            KeyError: The key is not there.
        """
        before = self._version_of(self.stat(key))
        value = self.get(key)
        with value.range(offset, offset + size) as stream:
            data = stream.read(size)
        version = before if before is not None and before == self._version_of(self.stat(key)) else None
        return Versioned(data, version, value.size, value.metadata, value.created, value.modified)

    def prefetch(self, directory: str, names: Sequence[str]) -> None:  # noqa: B027
        """Somebody will probably read these values of a directory soon: have them where that is quick, if that can be.

        A hint, for which there need be no such values any more. It may take its time, and answers before they are there.

        Args:
            directory: The key of a directory.
            names: Those of regular files in it.

        Raises:
            KeyError: There is no such directory.
        """

    def open_local(self, key: str, flags: int) -> int:
        """Answer a descriptor of the local file that holds the data of ``key``; the caller closes it.

        Writes through it are writes to the key, at once and in place.

        Args:
            key: The key of a regular file.
            flags: ``os.O_RDONLY`` or ``os.O_RDWR``, with ``os.O_TRUNC`` or ``os.O_DIRECT`` if wanted.

        Raises:
            KeyError: The key is not there.
            Unsupported: The data is not a local file of its own.
            ReadOnly: ``O_RDWR`` on a store that takes no writes.
        """
        raise Unsupported(f"{self.name} does not keep {key!r} in a local file")

    def open_in_place(self, key: str) -> int:
        """Answer a descriptor, to read, of the very file that writes to ``key`` would change; the caller closes it.

        Raises:
            KeyError: The key is not there.
            Unsupported: The data is not a local file, or a write would first make another of it (in a join).
        """
        if not self.capabilities.writable:
            raise Unsupported(f"{self.name} takes no writes")
        return self.open_local(key, os.O_RDONLY)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        """Answer the extended attributes of ``key`` outside ``user.``: ``security.*``, ``trusted.*``, ACLs.

        Raises:
            KeyError: The key is not there.
        """
        self.stat(key)
        return {}

    def usage(self) -> Usage:
        """Answer how much room there is; zeros where the medium has no bounds."""
        return Usage()

    def check(self) -> Iterator[str]:
        """Yield a sentence for each thing that is wrong with what is stored; nothing if all can be read as it says it is.

        Reads everything, as far as that tells anything, and changes nothing. What others write meanwhile may be found wrong.
        """
        # Here, because who does not check does not need it.
        from joinfs.stores.checking import read_through  # noqa: PLC0415

        self._check_connected()
        yield from read_through(self)

    # ---------------------------------------------------------------- for the methods above

    def _version_of(self, stat: Stat) -> str | None:
        """What names the content of what has these attributes now; None where that can change and they stay."""
        return stat.version() if self.capabilities.attributes else None

    def _check_connected(self) -> None:
        if not self.is_connected():
            raise NotConnected(f"{self.name} is not connected: call connect() or use it in a with statement")
