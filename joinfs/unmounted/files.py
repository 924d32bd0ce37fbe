"""Open files of ``JoinFileSystem``."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from joinfs.errors import KeyExists
from joinfs.stores import Store, Value
from joinfs.stores.value import MEBIBYTE, Chain
from joinfs.stores.whole import whole
from joinfs.unmounted.refusing import as_oserror

if TYPE_CHECKING:
    from joinfs.unmounted.filesystem import JoinFileSystem

# More than this of what is written waits on disk.
IN_MEMORY = 4 * MEBIBYTE


class StoredFile(io.BufferedReader):
    """A file that is open for reading: its data as it was then, whatever is written meanwhile.

    Attributes:
        fs, path, size: The file system, the path there, and the bytes of data.
    """

    mode = "rb"

    def __init__(self, fs: "JoinFileSystem", path: str, value: Value) -> None:
        super().__init__(value.data)  # type: ignore[arg-type]
        self.fs, self.path, self.size = fs, path, value.size

    def info(self) -> dict[str, Any]:
        """Answer what the file system says of the path, now."""
        return self.fs.info(self.path)

    def __del__(self) -> None:
        self.close()  # without a warning: many who open files with fsspec, such as pyarrow, leave closing them to this

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _reopened, (self.fs, self.path, self.tell())


def _reopened(fs: "JoinFileSystem", path: str, place: int) -> BinaryIO:
    file: BinaryIO = fs.open(path)
    file.seek(place)
    return file


class StagedFile(io.BufferedIOBase):
    """A file that is open for writing.

    What is written waits until the file is closed, and then gets into the store in one step; until then, and if that
    fails, all that is there is what was there before. It is dropped if a ``with`` statement of the file ends by an
    exception; who opens it by ``fsspec.open``, as pandas does, has it closed then, and what was written until then stored.
    In a transaction of the file system, closing leaves it to ``commit`` or ``discard``.

    Args:
        fs, path: The file system, and the path there.
        key: The key to write.
        mode: As of ``open``, ``a`` for appending; a ``+`` lets what was written be read.
        autocommit: False in a transaction.
        metadata: The metadata to write; what is there stays if it is None.
        offset: Bytes that are there before what is appended.
    """

    def __init__(
        self,
        fs: "JoinFileSystem",
        path: str,
        key: str,
        mode: str,
        autocommit: bool,
        metadata: dict[str, Any] | None,
        offset: int = 0,
    ) -> None:
        self.fs, self.path, self.mode, self.autocommit = fs, path, mode, autocommit
        self._key, self._metadata = key, metadata
        self._offset = offset
        self._is_dropped = False
        self._stage = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with commit or discard

    def begin_with(self, value: Value) -> None:
        """Have the data of a value there, and be at its beginning."""
        shutil.copyfileobj(whole(value, self.path), self._stage, MEBIBYTE)
        self._stage.seek(0)

    # ---------------------------------------------------------------- its end

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self.autocommit:
                self.commit()
        finally:
            super().close()
            if self._is_dropped:
                self._stage.close()

    def commit(self) -> None:
        """Put what was written into the store; nothing happens if that was done, or it was dropped.

        Raises:
            OSError: What the store refuses. Then all that is there is what was there before.
        """
        if self._is_dropped or self._stage.closed:
            return
        self._stage.seek(0)
        with self._stage, as_oserror(self.path):
            self._put(self.fs.store)

    def discard(self) -> None:
        """Drop what was written."""
        self._is_dropped = True
        if self.closed:
            self._stage.close()

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.discard()
        super().__exit__(exc_type, error, traceback)

    def _put(self, store: Store) -> None:
        if self.mode[0] in "wr":
            self._set(store, self._stage)
            return
        with store._exclusive(self._key):  # so that nobody writes between looking and writing
            if self.mode[0] == "a":
                self._append(store)
            elif store.exists(self._key):
                raise KeyExists(f"{self.path!r} has been made by others")
            else:
                self._set(store, self._stage)

    def _append(self, store: Store) -> None:
        try:
            value = store.get(self._key)
        except KeyError:
            self._set(store, self._stage)
            return
        with contextlib.closing(value):
            self._set(store, Chain(whole(value, self.path), self._stage))

    def _set(self, store: Store, data: Any) -> None:
        if self._metadata is None:
            store.set_data(self._key, data)
        else:
            store.set(self._key, (data, self._metadata))

    # ---------------------------------------------------------------- its data

    def write(self, data: Any) -> int:
        self._check_open()
        return self._stage.write(data)

    def truncate(self, size: int | None = None) -> int:
        self._check_seekable()
        length = self.tell() if size is None else size
        self._stage.truncate(length)
        return length

    def read(self, size: int | None = -1) -> bytes:
        self._check_open()
        if not self.readable():
            raise io.UnsupportedOperation("the file is not open for reading")
        return self._stage.read(-1 if size is None else size)

    def read1(self, size: int = -1) -> bytes:
        return self.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_seekable()
        return self._stage.seek(offset, whence)

    def tell(self) -> int:
        self._check_open()
        return self._offset + self._stage.tell()

    def readable(self) -> bool:
        return "+" in self.mode

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.mode[0] != "a"

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _check_seekable(self) -> None:
        self._check_open()
        if not self.seekable():
            raise io.UnsupportedOperation("what is appended can be neither sought in nor cut")


class CompressedFile(io.BufferedIOBase):
    """A file whose data is compressed in the store. It is closed with this, which compressors do not do.

    Args:
        compressor: Reads or writes ``file``.
        file: A ``StoredFile`` or ``StagedFile``.
    """

    def __init__(self, compressor: Any, file: StoredFile | StagedFile) -> None:
        self._compressor, self._file = compressor, file

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        try:
            self._compressor.close()
        except BaseException:
            self.discard()
            raise
        finally:
            self._file.close()

    def discard(self) -> None:
        """Drop what was written."""
        if isinstance(self._file, StagedFile):
            self._file.discard()

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.discard()
        super().__exit__(exc_type, error, traceback)

    def read(self, size: int | None = -1) -> bytes:
        piece: bytes = self._compressor.read(-1 if size is None else size)
        return piece

    def read1(self, size: int = -1) -> bytes:
        return self.read(size)

    def write(self, data: Any) -> int:
        written: int = self._compressor.write(data)
        return written

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place: int = self._compressor.seek(offset, whence)
        return place

    def tell(self) -> int:
        place: int = self._compressor.tell()
        return place

    def readable(self) -> bool:
        return isinstance(self._file, StoredFile)

    def writable(self) -> bool:
        return isinstance(self._file, StagedFile)

    def seekable(self) -> bool:
        return self.readable()


class TextFile(io.TextIOWrapper):
    """Text of a file; what was written is dropped if a ``with`` statement ends by an exception."""

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None and isinstance(self.buffer, StagedFile | CompressedFile):
            self.buffer.discard()
        super().__exit__(exc_type, error, traceback)


class CountedFile(io.RawIOBase, BinaryIO):
    """A file of the host that tells a callback of fsspec's what was read of it."""

    def __init__(self, file: Any, callback: Any) -> None:
        self._file, self._callback = file, callback

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._file.read(size)
        self._callback.relative_update(len(piece))
        return piece
