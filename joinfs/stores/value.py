"""What stores answer: a key's value, its attributes, and the room that is left."""

import io
import stat as stat_module
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple, Self

MEBIBYTE = 1 << 20
NANOSECONDS = 1_000_000_000
# Within so long of its time a value can be written once more and have the same time, by a clock of whole seconds.
SETTLED = 2 * NANOSECONDS

Metadata = dict[str, Any]


class Stat(NamedTuple):
    """The attributes of a key, as stat(2) knows them.

    Attributes:
        mode: Type and permission bits, ``S_IFREG | 0o644`` for instance.
        size: Bytes of data; of a symlink, of its target.
        rdev: Device number of a device node, else 0.
        atime, mtime, ctime, birth: Nanoseconds since the epoch.
        nlink: How many keys share the data. Of a directory: 2, and the number of directories in it, as
            stat(2) has it; 1 where the store does not count them.
        file_id: Names the file or directory within its store, whatever keys it has and gets (an inode number); None
            where only the key names it. In a join it stays the same when something is copied up.
        implied: Of a directory: nobody said what its attributes are, it is there because something is in it.
            In a join those of a store further down count then, if it has some.
        breaks: Of a file with several keys: only until one of them is changed, which then has a file of its own.
            (Those of the lower stores of a join, whose first store has no links.)
        placed: The number in ``file_id`` is of the key, as nothing else names it: what stands there next has the same.
        steady: Of a file with several keys: others who change it are noticed, if the directory of one of them is watched; so it
            can be believed as one with a single key is. (Those of the lower stores of a join.)
    """

    mode: int
    size: int = 0
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    birth: int = 0
    nlink: int = 1
    file_id: int | None = None
    implied: bool = False
    breaks: bool = False
    steady: bool = False
    placed: bool = False

    @property
    def is_known_by_place(self) -> bool:
        """Whether only the key names it, so that its number says nothing once something else can be there."""
        return self.file_id is None or self.placed

    @property
    def linked_id(self) -> int | None:
        """The store's number for a file that has several keys; None for anything else."""
        return self.file_id if self.nlink > 1 and not self.is_directory else None

    def changed(self, changes: Mapping[str, int], ctime: int | None = None) -> "Stat":
        """The same with some attributes changed, and the time of the change if there is one."""
        values: dict[str, Any] = dict(changes) if ctime is None else {**changes, "ctime": ctime}
        return self._replace(**values)

    def written(self, size: int, atime: int, mtime: int, ctime: int) -> "Stat":
        """The same of a file with other data; done for every open file that is looked at, and ``_replace`` takes long."""
        return tuple.__new__(Stat, (self[0], size, *self[2:5], atime, mtime, ctime, *self[8:]))

    def numbered(self, file_id: int | None, nlink: int) -> "Stat":
        """The same of a file with another number; done for every entry of a listing, and ``_replace`` takes long."""
        return tuple.__new__(Stat, (*self[:9], nlink, file_id, *self[11:]))

    def has_other_data_than(self, other: "Stat") -> bool:
        """Whether a file has been written between these and those attributes of it, as far as they tell."""
        return (self.size, self.mtime) != (other.size, other.mtime)

    def version(self) -> str | None:
        """What names the content of a file that has these attributes now, as ``Versioned`` has it.

        None if they may be the same after another write: no time is known, or it is so young that a clock of whole seconds
        may give it once more.
        """
        if not self.ctime or now() - max(self.ctime, self.mtime) < SETTLED:
            return None
        return f"{self.file_id} {self.size} {self.mtime} {self.ctime}"

    def moments(self) -> tuple[float, float]:
        """When it was made, as far as that is known, and last changed in any way: seconds since the epoch."""
        mtime, ctime = self.mtime, self.ctime
        return (self.birth or ctime) / NANOSECONDS, max(mtime, ctime) / NANOSECONDS

    @property
    def kind(self) -> int:
        """The type bits of the mode: ``stat.S_IFDIR``, ``stat.S_IFREG``, ``stat.S_IFLNK``, ..."""
        return stat_module.S_IFMT(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.kind == stat_module.S_IFDIR

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return self.kind == stat_module.S_IFREG

    @property
    def is_special(self) -> bool:
        """Whether this is neither a regular file nor a directory."""
        return not self.is_file and not self.is_directory

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link; its data is the target."""
        return self.kind == stat_module.S_IFLNK


class Versioned(NamedTuple):
    """Some bytes of a value, and of which version of it they are.

    Attributes:
        data: The bytes.
        version: Names the content: as long as a key has the same one, it has the same bytes. None: it cannot be told for sure.
        size: Bytes of the whole value.
        metadata, created, modified: As ``Value`` has them, of the same version.
    """

    data: bytes
    version: str | None
    size: int
    metadata: Metadata
    created: float = 0.0
    modified: float = 0.0


class Marked(NamedTuple):
    """What a listing tells of one name.

    Attributes:
        stat: The attributes.
        mark: As long as listings have the same for a name, it has the same attributes. None: they do not tell.
        version: That of a value, as ``Versioned`` has it, if listings tell.
    """

    stat: Stat
    mark: str | None = None
    version: str | None = None


class Usage(NamedTuple):
    """Room in a store, in the terms of statvfs(3): blocks of ``block_size`` bytes, and files."""

    block_size: int = 4096
    blocks: int = 0
    blocks_free: int = 0
    blocks_available: int = 0
    files: int = 0
    files_free: int = 0


class Capabilities(NamedTuple):
    """What a store can hold and do. What it cannot, it refuses with ``Unsupported``.

    Attributes:
        writable: Takes writes.
        attributes: Keeps mode, owner and times.
        metadata: Regular files and directories carry metadata.
        metadata_on_all: So do symlinks and special files.
        xattrs: Holds extended attributes outside ``user.``.
        special: Holds devices, FIFOs and sockets.
        hard_links: Several keys can share one file.
        bytes_names: Holds names that are not UTF-8.
        local: Regular files can be opened as local ones, with ``open_local``.
        transactions: ``transaction`` is all or nothing.
        persistent: Keeps its keys from one connection to the next.
        thread_safe: May be called from several threads at once.
        acls: POSIX ACLs are among those attributes, and the medium itself has them, the mode and what is inherited agree.
        slow: An answer may take long, as over a network.
        marks: Takes keys and metadata that joinfs itself hides things with, and keeps them: a join does not.
    """

    writable: bool = True
    attributes: bool = True
    metadata: bool = True
    metadata_on_all: bool = True
    xattrs: bool = False
    special: bool = True
    hard_links: bool = False
    bytes_names: bool = True
    local: bool = False
    transactions: bool = False
    persistent: bool = True
    thread_safe: bool = True
    acls: bool = False
    slow: bool = False
    marks: bool = True


READ_ONLY = Capabilities(writable=False, transactions=False)


def binary(piece: Any) -> bytes:
    """Answer what a stream gave when it was read, if that is bytes.

    Raises:
        TypeError: It is text: the stream was not opened for reading bytes.
        BlockingIOError: It is nothing, now: the stream is one that does not wait.
    """
    if isinstance(piece, str):
        raise TypeError("data must be bytes: open the file as open(path, 'rb')")
    if piece is None:
        raise BlockingIOError("data is read from a stream that does not wait for it")
    return piece  # type: ignore[no-any-return]


def drained(data: BinaryIO, buffer_size: int) -> bytes:
    """Answer all that a stream gives; errors as for ``binary``."""
    return b"".join(iter(lambda: binary(data.read(buffer_size)), b""))


def exactly(data: BinaryIO, size: int, buffer_size: int) -> bytes:
    """Answer the next ``size`` bytes of a stream, however few a read gives; fewer only at its end. Errors as for ``binary``."""
    pieces = []
    while size and (piece := binary(data.read(min(buffer_size, size)))):
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def remaining(data: BinaryIO) -> int:
    """Answer how many bytes of a stream are to come; -1 if that cannot be told."""
    try:
        here = data.tell()
        length = data.seek(0, io.SEEK_END) - here
        data.seek(here)
    except (AttributeError, OSError, ValueError):
        return -1
    return length


def now() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def new_stat(mode: int, uid: int = 0, gid: int = 0, rdev: int = 0) -> Stat:
    """The attributes of something that is made now."""
    time_ns = now()
    return Stat(mode, 0, uid, gid, rdev, time_ns, time_ns, time_ns, time_ns)


class Opened(NamedTuple):
    """A stream of a key's data, with what is true of that data: it may have been replaced since ``get``."""

    stream: BinaryIO
    metadata: Metadata
    size: int
    created: float = 0.0
    modified: float = 0.0


class Value:
    """What ``get`` answers: the data of a key, and what is known about it.

    It is a pair, ``(data, metadata)``, of what was there together. In a ``with`` statement it gives the data
    stream, and closes it at the end. The data is opened when it is first asked for, and what is known is then
    what is true of that data; a stream that is open goes on answering the value as it was when it was opened,
    whatever is written meanwhile.

    Args:
        open_data: Opens the data; answers a stream, or ``Opened`` if the rest may have changed by then.
        metadata, size, created, modified: As the attributes.

    Attributes:
        metadata: A dict of the caller's own.
        size: Bytes of data.
        created, modified: Seconds since the epoch; modified of the last change of data, metadata or
            attributes.
    """

    __slots__ = ("_data", "_open", "_shown", "created", "metadata", "modified", "size")

    def __init__(
        self,
        open_data: Callable[[], BinaryIO | Opened],
        metadata: Mapping[str, Any],
        size: int,
        created: float = 0.0,
        modified: float = 0.0,
    ) -> None:
        self._open = open_data
        self._shown: Callable[[Metadata], Metadata] | None = None
        self._data: BinaryIO | None = None
        self.metadata: Metadata = dict(metadata)
        self.size = size
        self.created = created
        self.modified = modified

    def show(self, shown: Callable[[Metadata], Metadata]) -> None:
        """Have the metadata be what a function makes of it, now and once the data is open."""
        self._shown = shown
        self.metadata = shown(self.metadata)

    @property
    def data(self) -> BinaryIO:
        """A readable stream of the data, at its beginning when first asked for."""
        if self._data is None:
            self._data = self._opened(self._open())
        return self._data

    def _opened(self, opened: BinaryIO | Opened) -> BinaryIO:
        """The stream; the rest becomes what is true of it."""
        if not isinstance(opened, Opened):
            return opened
        stream, metadata, self.size, self.created, self.modified = opened
        self.metadata = metadata if self._shown is None else self._shown(metadata)
        return stream

    def range(self, start: int | None = None, end: int | None = None) -> BinaryIO:
        """A stream of the bytes from ``start`` up to, not including, ``end``; each may be left out."""
        stream = self._opened(self._open())
        first = max(start or 0, 0)
        last = self.size if end is None else min(end, self.size)
        stream.seek(first)
        return io.BufferedReader(_Window(stream, max(last - first, 0)))

    def iterdata(self, buffer_size: int = MEBIBYTE) -> Iterator[bytes]:
        """The data from here on, in pieces of at most ``buffer_size`` bytes."""
        while piece := self.data.read(buffer_size):
            yield piece

    def close(self) -> None:
        """Close the data stream, if it was opened."""
        if self._data is not None:
            self._data.close()

    def __iter__(self) -> Iterator[Any]:
        yield self.data
        yield self.metadata

    def __getitem__(self, index: int) -> Any:
        return tuple(self)[index]

    def __len__(self) -> int:
        return 2

    def __enter__(self) -> BinaryIO:
        return self.data

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Window(io.RawIOBase):
    """The next ``left`` bytes of a stream, which it closes with itself."""

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream = stream
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._stream.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def close(self) -> None:
        self._stream.close()
        super().close()


class Chain(io.RawIOBase):
    """One stream after the other; wrap it in ``io.BufferedReader``. Errors as for ``binary``."""

    def __init__(self, *streams: Any) -> None:
        self._streams = streams

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = next(filter(None, (binary(stream.read(len(buffer))) for stream in self._streams)), b"")
        buffer[: len(piece)] = piece
        return len(piece)


class RangeStream(io.RawIOBase):
    """A seekable stream over a function that reads ranges; wrap it in ``io.BufferedReader``.

    Args:
        read_range: ``read_range(offset, size)`` answers up to ``size`` bytes, short only at the end.
        size: Bytes in all.
        on_close: Called once, when the stream is closed.
    """

    def __init__(
        self,
        read_range: Callable[[int, int], bytes],
        size: int,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._read_range = read_range
        self._size = size
        self._offset = 0
        self._on_close = on_close

    @classmethod
    def open(
        cls,
        read_range: Callable[[int, int], bytes],
        size: int,
        on_close: Callable[[], object] | None = None,
        buffer_size: int = 1 << 17,
    ) -> BinaryIO:
        """The same, buffered."""
        return io.BufferedReader(cls(read_range, size, on_close), buffer_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: Any) -> int:
        piece = self._read_range(self._offset, len(buffer))
        buffer[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed and self._on_close is not None:
            self._on_close()
        super().close()

    def __enter__(self) -> Self:
        return self
