"""What a store asks of a bucket, whoever keeps it: the contract, and what is answered."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import BinaryIO, NamedTuple

from joinfs.stores.value import MEBIBYTE, NANOSECONDS

# Bytes of one part of a large object, and how many parts are on their way at the same time, and in memory.
PART = 8 * MEBIBYTE
PARTS_AT_A_TIME = 4
# Requests at a time.
CONNECTIONS = 100
# What a bucket says of an object for web browsers, under the names of ``Found.system``.
SYSTEM = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")


class Changed(Exception):
    """The object is not the version that it was to be; or it is there, and was not to be."""


class Found(NamedTuple):
    """What a bucket says of an object.

    Attributes:
        size: Bytes.
        etag: Names the version.
        modified: When it was written, in nanoseconds.
        headers: The user metadata, its names in small letters; with what stands for it in the type of a marker.
        system: ``Content-Type`` and the like, under the names that the bucket itself has for them.
        asked: When the bucket said so, by its own clock, in nanoseconds.
        revision: Names the version of the user metadata, where ``etag`` does not.
    """

    size: int
    etag: str
    modified: int
    headers: dict[str, str]
    system: dict[str, str]
    asked: int
    revision: str = ""


class Listed(NamedTuple):
    """What a listing says of an object, or (of a prefix that others have in common) only the name.

    Attributes:
        name, size, etag, modified: As in ``Found``.
        found: All that there is to say of it, where listings tell that.
    """

    name: str
    size: int = 0
    etag: str = ""
    modified: int = 0
    found: Found | None = None

    @classmethod
    def with_all(cls, name: str, found: Found) -> "Listed":
        """What a listing says that tells all there is to say."""
        return cls(name, found.size, found.etag, found.modified, found)


class Bucket(ABC):
    """A bucket, as it is asked by one store; several threads may. What it does not take, and what does not answer, is a ``StoreError``.

    Attributes:
        no_version: An ``etag`` that no object has.
    """

    no_version = '"00000000000000000000000000000000"'

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    @abstractmethod
    def head(self, name: str) -> Found:
        """Answer what is said of an object; KeyError if it is not there."""

    @abstractmethod
    def read(self, name: str, offset: int, size: int, etag: str = "") -> tuple[bytes, Found]:
        """Answer up to ``size`` bytes from ``offset``, short only at the end, and what is said of the object.

        Raises:
            KeyError: It is not there.
            Changed: It is not the version ``etag``.
        """

    @abstractmethod
    def pages(self, prefix: str, delimiter: str = "", limit: int = 1000) -> Iterator[list[Listed]]:
        """Yield what begins with ``prefix``, a page at a time and in order; with a delimiter, only up to it.

        What is only the beginning of names ends in the delimiter; it may be an object itself then.
        """

    def first(self, prefix: str, limit: int) -> list[str]:
        """Answer the first few names that begin with ``prefix``; with one request, unless the server has pages without any."""
        names: list[str] = []
        for page in self.pages(prefix, limit=limit):
            names += [listed.name for listed in page]
            if len(names) >= limit:
                break
        return names[:limit]

    @abstractmethod
    def put(self, name: str, data: BinaryIO, headers: dict[str, str], system: dict[str, str], size: int = 0, etag: str | None = None) -> Found:
        """Make or replace an object whole, and answer what is to be said of it; a large one in parts.

        Args:
            name: The object.
            data: Read to its end.
            headers, system: As in ``Found``.
            size: How much is to be expected, if that is known.
            etag: Of a small one: the version that is to be replaced, empty for none. None: whatever is there.

        Raises:
            Changed: Another version is there.
        """

    @abstractmethod
    def copy(self, old: str, new: str, found: Found, headers: dict[str, str] | None = None) -> Found:
        """Copy the version ``found`` of an object within the bucket, with other user metadata if that is given; answer what is to be said of it.

        Raises:
            KeyError: It is not there.
            Changed: It is another version by now.
        """

    @abstractmethod
    def delete(self, names: Sequence[str]) -> None:
        """Delete objects, in this order; those that are not there do not matter."""


def nanoseconds(moment: datetime) -> int:
    """A time in nanoseconds since the epoch."""
    return int(moment.timestamp()) * NANOSECONDS + moment.microsecond * 1000


def moment_in(header: str) -> int:
    """What a header says of a time, in nanoseconds; 0 if that is nothing."""
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - who asks a bucket has it by now

    try:
        return nanoseconds(parsedate_to_datetime(header))
    except ValueError:
        return 0
