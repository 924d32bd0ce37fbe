"""Handles: what open and opendir gave out."""

import itertools
import os
from typing import Generic, NamedTuple, TypeVar

from joinfs.errors import BadHandle
from joinfs.filesystem.content import Content
from joinfs.filesystem.nodes import Node

H = TypeVar("H")


class FileHandle(NamedTuple):
    """An open file."""

    node: Node
    content: Content
    flags: int

    @property
    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Handles(Generic[H]):
    """Numbers for open things."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, H] = {}

    def add(self, handle: H) -> int:
        """Answer a number for it."""
        number = next(self._numbers)
        self._open[number] = handle
        return number

    def __getitem__(self, number: int) -> H:
        try:
            return self._open[number]
        except KeyError:
            raise BadHandle(f"handle {number} is not open") from None

    def all(self) -> list[H]:
        """Answer all that is open."""
        return list(self._open.values())

    def get(self, number: int) -> H | None:
        """Answer what has the number, if anything has."""
        return self._open.get(number)

    def remove(self, number: int) -> H:
        """Answer what had the number, which nothing has from now on.

        Raises:
            BadHandle: It was not open.
        """
        try:
            return self._open.pop(number)
        except KeyError:
            raise BadHandle(f"handle {number} is not open") from None
