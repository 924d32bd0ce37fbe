"""Data that is copied must have come whole: a medium that breaks off must not make a short copy of a file."""

import io
from typing import Any, BinaryIO

from joinfs.errors import CorruptStore
from joinfs.stores.value import Value


def is_plain_file(data: BinaryIO) -> bool:
    """Whether a stream gives what its descriptor does: others that have one, such as gzip's, give something else."""
    raw = data.raw if isinstance(data, io.BufferedReader | io.BufferedRandom) else data
    return type(raw) is io.FileIO


def whole(value: Value, name: str) -> BinaryIO:
    """Answer the data of a value, for who copies it.

    A file of the host is as long as it is by now. Anything else that ends before ``value.size`` raises ``CorruptStore``,
    which says that it is ``name`` that does.
    """
    data = value.data
    return data if is_plain_file(data) else _Whole(data, value.size, name)


class _Whole(io.RawIOBase, BinaryIO):
    def __init__(self, data: BinaryIO, size: int, name: str) -> None:
        self._data, self._left, self._size, self._name = data, size, size, name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        piece = self._data.read(size)
        self._left -= len(piece)
        is_end = size < 0 or (size > 0 and not piece)
        if is_end and self._left > 0:
            raise CorruptStore(f"{self._name} is damaged: it ends after {self._size - self._left} of {self._size} bytes")
        return piece

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(1 << 20), b""))

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)
