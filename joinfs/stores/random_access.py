"""Files, plain or compressed, of which any range can be read.

Bounded in memory whatever is in them: gzip keeps copies of its decompressor at some places, from which it
goes on; what cannot be copied (bzip2, xz, zstd) is decompressed into an unnamed temporary file, as far as
it was asked for.
"""

import bz2
import io
import lzma
import os
import stat as stat_module
import tempfile
import threading
import weakref
import zlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from typing import Any, BinaryIO, NamedTuple

from joinfs.errors import CorruptStore, OutOfSpace, StoreUnavailable, Unsupported
from joinfs.stores.value import MEBIBYTE

PIECE = 16 << 10
STEP = 256 << 10
# A copy of zlib's state is some 45 KB, and PIECE more.
FIRST_SPACING = 4 * MEBIBYTE
MOST_PLACES = 256
# Bytes that decompressing an .xz may take. What "xz -9" makes needs 65 MiB; a hostile one may ask for 4 GiB.
MOST_XZ = 256 << 20
# Bytes of compressed data that are read at a time.
CHUNK = 64 << 10
# zlib's window bits.
GZIP, RAW = 31, -15
_DAMAGE = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


class RandomAccess(ABC):
    """A sequence of bytes that can be read anywhere, by several threads."""

    @abstractmethod
    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; short only at the end.

        Raises:
            CorruptStore: What is there cannot be decompressed.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class PlainFile(RandomAccess):
    """A file as it is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read_at(self, offset: int, size: int) -> bytes:
        pieces = []
        while size > 0 and (piece := os.pread(self._descriptor, size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def path_again(self) -> str:
        """Answer a path at which this very file can be opened once more, whatever has its name by now."""
        return f"/proc/self/fd/{self._descriptor}"

    def close(self) -> None:
        os.close(self._descriptor)


class Window(RandomAccess):
    """A part of another one, which it closes with itself."""

    def __init__(self, base: RandomAccess, start: int, size: int) -> None:
        self._base, self._start, self._size = base, start, size

    def read_at(self, offset: int, size: int) -> bytes:
        size = min(size, self._size - offset)
        return self._base.read_at(self._start + offset, size) if size > 0 else b""

    def close(self) -> None:
        self._base.close()


class _Place(NamedTuple):
    """Where decompression stands: bytes given out, bytes taken in, and what goes on from there."""

    given: int
    taken: int
    inflate: Any
    ahead: bytes


class Inflated(RandomAccess):
    """A gzip file, of one member or several, or a deflate stream. Going back costs decompressing a few mebibytes.

    Args:
        base: What is compressed; closed with this.
        name: What messages call it.
        window_bits: As zlib has it: of gzip files, or ``RAW``.
        most_places: How many places to go on from are remembered, at some 60 KB each.
    """

    def __init__(self, base: RandomAccess, name: str, window_bits: int = GZIP, most_places: int = MOST_PLACES) -> None:
        self._base, self._name = base, name
        self._window_bits, self._most_places = window_bits, most_places
        self._lock = threading.Lock()
        self._spacing = FIRST_SPACING
        self._places = [_Place(0, 0, zlib.decompressobj(window_bits), b"")]
        self._at = self._places[0]
        self._begin(self._at)

    def read_at(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._go_near(offset)
            pieces = []
            while size > 0 and (piece := self._next()):
                start = self._given - len(piece)
                if self._given > offset:
                    part = piece[max(offset - start, 0) :][:size]
                    pieces.append(part)
                    offset, size = offset + len(part), size - len(part)
            self._last = (self._given - len(piece), piece) if size == 0 and pieces else (0, b"")
            return b"".join(pieces)

    def close(self) -> None:
        self._base.close()

    def _begin(self, place: _Place) -> None:
        self._given, self._taken, self._ahead = place.given, place.taken, place.ahead
        self._inflate = place.inflate.copy()
        self._last = (0, b"")

    def _go_near(self, offset: int) -> None:
        """Stand at or before ``offset``, as near as costs nothing."""
        start, piece = self._last
        if start <= offset < start + len(piece):
            return
        self._last = (0, b"")
        place = self._places[bisect_right(self._places, offset, key=lambda p: p.given) - 1]
        if self._given > offset or place.given > self._given:
            self._begin(place)

    def _next(self) -> bytes:
        """The next piece of output; empty at the end."""
        if self._last[1]:
            piece, self._last = self._last[1], (0, b"")
            return piece
        try:
            return self._decompress()
        except zlib.error as error:
            raise CorruptStore(f"{self._name} is damaged: {error}") from error

    def _decompress(self) -> bytes:
        while True:
            if self._inflate.eof:
                rest = self._inflate.unused_data or self._ahead or self._take()
                if self._window_bits == RAW or not rest.startswith(b"\x1f"):
                    return b""  # the end, or the padding of a tape
                self._inflate, self._ahead = zlib.decompressobj(self._window_bits), rest
            data = self._ahead or self._take()
            if not data:
                raise CorruptStore(f"{self._name} is damaged: it ends too early")
            piece: bytes = self._inflate.decompress(data, STEP)
            self._ahead = self._inflate.unconsumed_tail
            if piece:
                self._given += len(piece)
                self._remember()
                return piece

    def _take(self) -> bytes:
        data = self._base.read_at(self._taken, PIECE)
        self._taken += len(data)
        return data

    def _remember(self) -> None:
        if self._given < self._places[-1].given + self._spacing or self._inflate.eof:
            return
        self._places.append(_Place(self._given, self._taken, self._inflate.copy(), self._ahead))
        if len(self._places) > self._most_places:
            self._places = self._places[::2]
            self._spacing *= 2


class SpooledFile(RandomAccess):
    """What a stream gives, kept in an unnamed temporary file as far as it was read."""

    def __init__(self, stream: Any, base: RandomAccess, name: str) -> None:
        self._stream, self._base, self._name = stream, base, name
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed when this is, or when nobody has it any more
        self._close_file = weakref.finalize(self, _close, stream, self._file)
        self._size = 0
        self._ended = False

    def read_at(self, offset: int, size: int) -> bytes:
        with self._lock:
            while not self._ended and self._size < offset + size:
                self._spool()
            return PlainFile(self._file.fileno()).read_at(offset, min(size, max(self._size - offset, 0)))

    def close(self) -> None:
        self._close_file()
        self._base.close()

    def _spool(self) -> None:
        try:
            piece = self._stream.read(MEBIBYTE)
        except _DAMAGE as error:
            raise CorruptStore(f"{self._name} is damaged: {error}") from error
        self._ended = not piece
        if piece.strip(b"\0"):
            check_room(self._file.fileno(), len(piece), f"{self._name} needs more room for temporary files to be decompressed")
            os.pwrite(self._file.fileno(), piece, self._size)
        self._size += len(piece)  # zeros are a hole
        if self._ended or not piece.strip(b"\0"):
            os.ftruncate(self._file.fileno(), self._size)


def check_room(descriptor: int, size: int, otherwise: str) -> None:
    """Before a temporary file grows: leave others at least as much room as it takes.

    Raises:
        OutOfSpace: There is less; it says so in the words ``otherwise``.
    """
    room = os.fstatvfs(descriptor)
    if room.f_bavail * room.f_frsize < size + os.fstat(descriptor).st_blocks * 512:
        raise OutOfSpace(f"{otherwise}; set TMPDIR to a larger place")


def _close(*files: Any) -> None:
    for file in files:
        file.close()


def open_file(path: str) -> RandomAccess:
    """Open a file, or a block device, as it is.

    Raises:
        StoreUnavailable: It cannot be opened, or is of another kind.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait for a writer
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened: {error.strerror}") from error
    mode = os.fstat(descriptor).st_mode
    if stat_module.S_ISREG(mode) or stat_module.S_ISBLK(mode):
        return PlainFile(descriptor)
    os.close(descriptor)
    raise StoreUnavailable(f"{path} is not a file")


def decompressed(base: RandomAccess, name: str) -> RandomAccess:
    """Answer what is in a file that may be compressed (told by its first bytes: gzip, bzip2, xz, zstd).

    Args:
        base: The file; closed with the answer.
        name: What messages call it.

    Raises:
        Unsupported: zstd without the library for it.
    """
    magic = base.read_at(0, 6)
    if magic.startswith(b"\x1f\x8b"):
        return Inflated(base, name)
    source: Any = io.BufferedReader(Reader(base, name, MEBIBYTE), STEP)
    if magic.startswith(b"BZh"):
        return SpooledFile(bz2.BZ2File(source), base, name)
    if magic.startswith(b"\xfd7zXZ\0"):
        return SpooledFile(_XZStream(source), base, name)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return SpooledFile(_zstd_stream(source, name), base, name)
    return base


class _XZStream(io.RawIOBase):
    """What lzma.LZMAFile reads from an .xz file, but no file can have it take more memory than MOST_XZ."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_XZ)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = b""
        while not piece:
            data = b""
            if self._decompressor.eof:
                data = self._next_stream(self._decompressor.unused_data)
                if not data:
                    break
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, MOST_XZ)
            elif self._decompressor.needs_input and not (data := self._source.read(CHUNK)):
                raise EOFError("it ends too early")
            piece = self._decompressor.decompress(data, size)
        return piece

    def _next_stream(self, data: bytes) -> bytes:
        """The beginning of the next of several streams, which zeros may stand before."""
        while not (data := data.lstrip(b"\0")) and (data := self._source.read(CHUNK)):
            pass
        return data


def _zstd_stream(file: BinaryIO, name: str) -> BinaryIO:
    try:
        import zstandard  # noqa: PLC0415 - an extra
    except ImportError:
        raise Unsupported(f"{name} is compressed with zstd; install the library for it with: pip install 'joinfs[archives]'") from None
    stream: BinaryIO = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    return stream


class Reader(io.RawIOBase):
    """A seekable stream over a RandomAccess, for who parses it. Reads of more than ``most`` bytes are refused."""

    def __init__(self, file: RandomAccess, name: str, most: int) -> None:
        self._file, self._name, self._most = file, name, most
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._offset = offset if whence == io.SEEK_SET else self._offset + offset
        return self._offset

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self._most:
            raise CorruptStore(f"{self._name} is damaged: it has a header of {size} bytes")
        data = self._file.read_at(self._offset, size)
        self._offset += len(data)
        return data
