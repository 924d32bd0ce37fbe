"""Reading files of a web server, in ranges, and never two versions of one as if they were one.

Which version an answer is of is told by its ETag, its Last-Modified and how long the whole is. Where a server
ignores Range, or gives nothing by which a version could be asked for again, the whole file is taken in with
one request, into an unnamed temporary file, and read from there.
"""

import os
import re
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from joinfs.errors import StoreUnavailable
from joinfs.stores.http_listing import MOST_SIZE, time_of
from joinfs.stores.http_server import Answer, Failed, Locks, Server
from joinfs.stores.random_access import PlainFile, check_room
from joinfs.stores.value import MEBIBYTE, SETTLED, RangeStream

MOST_SPOOLS = 8
FIRST_BLOCK = MEBIBYTE
MOST_BLOCK = 8 * MEBIBYTE
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})", re.ASCII)


class Target(NamedTuple):
    """A file to be read: its URL, and the size that a listing tells, if it does."""

    url: str
    told: int | None


class Version(NamedTuple):
    """Which version of a file an answer is of.

    Attributes:
        etag, modified: The headers, empty where there is none.
        total: Bytes of the whole file.
        condition: What to send as If-Range to get more of the same; empty if the server gives nothing that
            is sure to change with the file.
        is_settled: Whether the file was changed so long ago that it cannot have been so again at the same time.
    """

    etag: str
    modified: str
    total: int
    condition: str
    is_settled: bool

    @property
    def name(self) -> str | None:
        """What names the content, as ``Versioned`` has it: ETags are often made of a date, and not surer than that."""
        is_sure = self.condition and (self.is_settled or not self.modified)
        return f"{self.condition} {self.modified} {self.total}" if is_sure else None

    @property
    def mtime(self) -> int | None:
        """When the file was last changed, in nanoseconds, if the server says so."""
        return time_of(self.modified)

    def is_same_as(self, other: "Version") -> bool:
        """Whether both are one version, as far as the server tells."""
        return self[:3] == other[:3]


class Piece(NamedTuple):
    """Some bytes of a version, from ``start`` on."""

    version: Version
    start: int
    data: bytes

    def has(self, offset: int) -> bool:
        """Whether the byte at ``offset`` is in it."""
        return self.start <= offset < self.start + len(self.data)

    def read(self, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset``, as far as it has them."""
        return self.data[offset - self.start : offset - self.start + size]


class Spool:
    """A whole file, as the server sent it, in an unnamed temporary file that goes with the last who has this.

    Args:
        answer: What the server sends; read to its end.
        told: How many bytes it is expected to have.

    Raises:
        Failed, StoreUnavailable: The answer is, or may be, cut off.
        OutOfSpace: There is no room for it.
    """

    def __init__(self, answer: Answer, told: int | None) -> None:
        began = time.monotonic()
        with tempfile.TemporaryFile() as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        size = 0
        for piece in answer.pieces():
            check_room(self._descriptor, len(piece), f"{answer.url} needs more room for temporary files, as its server sends it whole only")
            size += os.write(self._descriptor, piece)
        if not answer.is_delimited and size != told:
            raise StoreUnavailable(f"{answer.url} cannot be read: the server sent {size} bytes and did not say whether that is all")
        _check_encoding(answer, size, told)
        self.version = _version(answer, size)
        self.seen_at = time.monotonic()
        self.took = self.seen_at - began

    def has(self, offset: int) -> bool:
        """Whether it can be read from there, as anywhere."""
        return True

    def read(self, offset: int, size: int) -> bytes:
        """Answer up to ``size`` bytes from ``offset``; short only at the end."""
        return PlainFile(self._descriptor).read_at(offset, size)


class WebFiles:
    """The files of a server, for one store.

    Args:
        server: Who is asked.
        freshness: Answers after how many seconds a spool is compared with what the server has.
    """

    def __init__(self, server: Server, freshness: Callable[[], float]) -> None:
        self._server, self._freshness = server, freshness
        self._lock = threading.Lock()
        self._urls = Locks()
        self._spools: OrderedDict[str, Spool] = OrderedDict()
        self._honours_ranges = False

    def read(self, target: Target, offset: int, size: int) -> tuple[bytes, Version]:
        """Answer up to ``size`` bytes from ``offset``, and the version, of which they all are.

        Short only at the end. Errors as for ``Server.ask``.
        """
        found = self._part(target, offset, size)
        wanted = min(size, max(found.version.total - offset, 0))
        data = found.read(offset, wanted)
        if len(data) < wanted:  # a server may send less than was asked for
            data = _Pinned(self, target, found).read_all(offset, wanted)
        return data, found.version

    def open(self, target: Target, start: int, end: int | None) -> tuple[BinaryIO, Version]:
        """Answer a stream of the bytes from ``start`` to ``end``, and the version that it is of and stays.

        Errors as for ``Server.ask``; when reading, StoreUnavailable if the file changed meanwhile.
        """
        block = FIRST_BLOCK if end is None else max(min(end - start, FIRST_BLOCK), 1)
        found = self._part(target, start, block)
        total = found.version.total
        last = total if end is None else min(end, total)
        if not found.version.condition and start < last and not found.has(last - 1):
            found = self._whole(target)
        size = max(last - start, 0)
        pinned = _Pinned(self, target, found)
        return RangeStream.open(lambda offset, wanted: pinned.read(start + offset, min(wanted, size - offset)), size), found.version

    def measure(self, target: Target) -> tuple[int, int | None]:
        """Answer how long a file is of which no listing tells, and its mtime if the server tells; errors as for ``Server.ask``."""
        size, mtime = self._server.ask(target.url, _measured, method="HEAD")
        if size is None:
            version = self.read(target, 0, 1)[1]
            size, mtime = version.total, version.mtime
        return size, mtime

    def version(self, target: Target) -> Version:
        """Answer which version of a file there is now, with a request without data if the server knows such; errors as for ``Server.ask``."""
        version = self._server.ask(target.url, _version_told, method="HEAD")
        return self.read(target, 0, 1)[1] if version is None else version

    # ---------------------------------------------------------------- asking

    def range(self, target: Target, offset: int, size: int, of: Version | None = None) -> Piece | Spool:
        """Ask for a range; the whole is what servers without ranges answer.

        Args:
            target: The file.
            offset, size: The range.
            of: The version that is wanted.

        Raises:
            StoreUnavailable: Also if the file is not that version any more.
        """
        if of is not None and not of.condition:
            return self._whole(target, of)
        headers = {"Range": f"bytes={offset}-{offset + size - 1}"} | ({} if of is None else {"If-Range": of.condition})
        found = self._server.ask(target.url, lambda answer: _taken(answer, target, offset, size, of), headers)
        if isinstance(found, Piece):
            self._honours_ranges = True
            return found
        return self._whole(target, of) if found is None else self._kept(target.url, found)

    def _part(self, target: Target, offset: int, size: int) -> Piece | Spool:
        """A range of the version of now, from a spool if there is one."""
        if self._honours_ranges and target.url not in self._spools:
            return self.range(target, offset, size)
        with self._urls.of(target.url):  # so that several threads have the whole sent once
            spool = self._spools.get(target.url)
            if spool is None:
                return self.range(target, offset, size)
            return self._renewed(target, spool)

    def _renewed(self, target: Target, spool: Spool) -> Spool:
        """The same spool if it is as young as it need be, or is what the server has still; else another."""
        if time.monotonic() < spool.seen_at + max(self._freshness(), 20 * spool.took):
            return self._kept(target.url, spool)
        version = spool.version
        conditions = {"If-None-Match": version.etag, "If-Modified-Since": "" if version.etag else version.modified}
        headers = {name: value for name, value in conditions.items() if value}
        found = self._server.ask(target.url, lambda answer: None if answer.status == 304 else _spooled(answer, target, None), headers)
        if found is None:
            spool.seen_at = time.monotonic()
        return self._kept(target.url, found or spool)

    def _whole(self, target: Target, of: Version | None = None) -> Spool:
        """The whole file, with one request."""
        return self._kept(target.url, self._server.ask(target.url, lambda answer: _spooled(answer, target, of)))

    def _kept(self, url: str, spool: Spool) -> Spool:
        with self._lock:
            self._spools[url] = spool
            self._spools.move_to_end(url)
            if len(self._spools) > MOST_SPOOLS:
                self._spools.popitem(last=False)
        return spool


class _Pinned:
    """A file at one version, read by one stream, ahead of who reads on. Never another version."""

    def __init__(self, files: WebFiles, target: Target, found: Piece | Spool) -> None:
        self._files, self._target, self._version = files, target, found.version
        self._found = found
        self._block = FIRST_BLOCK

    def read(self, offset: int, size: int) -> bytes:
        """Answer between one and ``size`` bytes; none at the end.

        Raises:
            StoreUnavailable: The file has changed on the server.
        """
        if offset >= self._version.total or size <= 0:
            return b""
        if not self._found.has(offset):
            self._ask(offset, size)
        return self._found.read(offset, size)

    def read_all(self, offset: int, size: int) -> bytes:
        """The same, short only at the end."""
        data = bytearray()
        while piece := self.read(offset + len(data), size - len(data)):
            data += piece
        return bytes(data)

    def _ask(self, offset: int, size: int) -> None:
        old = self._found
        reads_on = isinstance(old, Piece) and offset == old.start + len(old.data)
        self._block = min(self._block * 2, MOST_BLOCK) if reads_on else FIRST_BLOCK
        self._found = old = Piece(self._version, offset, b"")  # the data goes before more comes
        try:
            self._found = self._files.range(self._target, offset, max(size, self._block if reads_on else 0), self._version)
        except KeyError:
            raise _changed(self._target.url) from None


def _taken(answer: Answer, target: Target, offset: int, size: int, of: Version | None) -> Piece | Spool | None:
    """What an answer to a request for a range has; None if the whole must be asked for."""
    if answer.status == 416:
        return _past_the_end(answer, target, offset, of)
    if answer.status != 206:
        return _spooled(answer, target, of)
    match = _CONTENT_RANGE.fullmatch(answer.header("content-range"))
    first, last, total = (int(number) for number in match.groups()) if match else (0, 0, MOST_SIZE)
    if total >= MOST_SIZE:
        return None
    if first != offset or not first <= last < min(total, offset + size):
        raise StoreUnavailable(f"{target.url}: asked for {size} bytes from {offset}, the server answers with those from {first} to {last}")
    version = _version(answer, total)
    _check_same(target.url, version, of)
    _check_encoding(answer, total, target.told)
    data = answer.body(last + 1 - first)
    if len(data) != last + 1 - first:
        raise Failed(f"the server sent {len(data)} of {last + 1 - first} bytes")
    return Piece(version, offset, data)


def _past_the_end(answer: Answer, target: Target, offset: int, of: Version | None) -> Piece:
    if of is not None:
        raise _changed(target.url)
    match = _UNSATISFIED.fullmatch(answer.header("content-range"))
    # Where the server does not say how long the file is: not longer than this.
    total = int(match[1]) if match else min(offset, offset if target.told is None else target.told)
    if total > offset:
        raise StoreUnavailable(f"{target.url}: the server refuses a range that it has")
    return Piece(_version(answer, total), offset, b"")


def _spooled(answer: Answer, target: Target, of: Version | None) -> Spool:
    if answer.status != 200:
        raise StoreUnavailable(f"{target.url} cannot be read: the server answers with status {answer.status}")
    if answer.length is not None:  # else that is seen at the end
        _check_same(target.url, _version(answer, answer.length), of)
    spool = Spool(answer, target.told)
    _check_same(target.url, spool.version, of)
    return spool


def _measured(answer: Answer) -> tuple[int | None, int | None]:
    known = answer.status == 200 and not _encoding(answer)
    return answer.length if known else None, time_of(answer.header("last-modified"))


def _version_told(answer: Answer) -> Version | None:
    size, _ = _measured(answer)
    return None if size is None else _version(answer, size)


def _version(answer: Answer, total: int) -> Version:
    etag, modified = answer.header("etag"), answer.header("last-modified")
    # A file can change again within the second of its date: RFC 9110, 8.8.2.2.
    changed, sent = time_of(modified), time_of(answer.header("date"))
    settled = changed is not None and sent is not None and sent - changed >= SETTLED
    if etag and not etag.startswith("W/"):
        return Version(etag, modified, total, etag, settled)
    return Version(etag, modified, total, modified if settled else "", settled)


def _check_same(url: str, version: Version, of: Version | None) -> None:
    if of is not None and not version.is_same_as(of):
        raise _changed(url)


def _changed(url: str) -> StoreUnavailable:
    return StoreUnavailable(f"{url} changed on the server while it was read; open it again")


def _encoding(answer: Answer) -> str:
    encoding = answer.header("content-encoding").lower()
    return "" if encoding == "identity" else encoding


def _check_encoding(answer: Answer, size: int, told: int | None) -> None:
    """Refuse what was compressed for us against our will; ``a.tar.gz`` may be called so and be the file itself."""
    if _encoding(answer) and size != told:
        raise StoreUnavailable(f"{answer.url}: the server compresses it ({_encoding(answer)}) although it was asked not to")
