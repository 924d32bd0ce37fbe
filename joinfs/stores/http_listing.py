r"""What a web server lists: asked for once, and believed for a while.

A directory's listing is what nginx answers with ``autoindex_format json``. A manifest is such a list, in one
file, of all that is in a directory and below it. Its items are names, or objects such as

    {"name": "a/b", "size": 5, "mtime": "2026-11-25T03:23:00Z", "mode": "0640", "metadata": {"k": "v"}}

of which only ``name`` has to be there. A name that ends in ``/`` is a directory. ``mtime`` is seconds since
the epoch, or a date as in RFC 3339 or HTTP. ``mode`` is octal text. Bytes that are not UTF-8 may stand in names
as they are, or as ``\udcXX``. Names are below the URL, whatever they say: those that no file can have, ``..``
among them, are left out.
"""

import json
import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

from joinfs.errors import CorruptStore, InvalidKey, StoreUnavailable
from joinfs.stores.escape import unescape
from joinfs.stores.http_server import Answer, Locks, Server
from joinfs.stores.keys import ROOT, check_key, is_directory_key, split
from joinfs.stores.metadata import RESERVED
from joinfs.stores.names import NameTree
from joinfs.stores.value import MEBIBYTE, NANOSECONDS

log = logging.getLogger(__name__)

MOST_LISTING = 32 * MEBIBYTE
# Names and directories, of one listing and of all that are remembered.
MOST_NAMES = 250_000
MOST_DIRECTORY_NAMES = 32 * MEBIBYTE
MOST_ITEM = 1 << 16
MOST_NESTED = 100
MOST_PATH = 4096
MOST_SIZE = 1 << 63
HINT = (
    "a directory must be listed as JSON, as nginx does with 'autoindex on; autoindex_format json;' and no index page, "
    "or the URL must be that of a manifest, FILES.json"
)
# What a listing costs beside its names, in names.
_EMPTY = 20
_MOST_SECONDS = 1 << 33
_BEGIN = re.compile(r"\ufeff?[ \t\r\n]*\[[ \t\r\n]*(\][ \t\r\n]*)?")
_NEXT = re.compile(r"[ \t\r\n]*(?:,|(\]))[ \t\r\n]*")


class Entry(NamedTuple):
    """What is told of a name; None where nothing is.

    Attributes:
        size: Bytes of data.
        mtime: Nanoseconds since the epoch.
        mode: Permission bits.
        metadata: The user's.
    """

    size: int | None = None
    mtime: int | None = None
    mode: int | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})


IMPLIED = Entry()


class Listing:
    """Names and what is told of them, as directories. It does not change."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._tree = NameTree()
        room = MOST_DIRECTORY_NAMES
        for name in entries:
            before = self._tree.count_directories()
            self._tree.add(name)
            # A name makes a directory of each of its beginnings, which are as long as it is.
            room -= (self._tree.count_directories() - before) * len(name)
            if len(self) > MOST_NAMES:
                raise CorruptStore(f"it has more than {MOST_NAMES} names")
            if room < 0:
                raise CorruptStore("it has more directories of long names than there is room for")

    def __len__(self) -> int:
        return len(self._entries) + self._tree.count_directories()

    def children(self, prefix: str) -> dict[str, bool]:
        """Answer the names directly in a directory, and for each whether it is one; KeyError if there is none such."""
        return self._tree.children(prefix)

    def entry(self, key: str) -> Entry:
        """Answer what is told of a key.

        Raises:
            KeyError: It is not there, or of the other kind.
        """
        if is_directory_key(key) and not self._tree.has_name(key):
            self._tree.children(key)
            return IMPLIED
        return self._entries[self._tree.name(key)]


class _Known(NamedTuple):
    """A listing, the server's name for its version, and until when it is believed."""

    listing: Listing
    etag: str
    until: float = 0.0


class missing:  # noqa: N801 - as those of contextlib
    """Around what asks for a key: when something is not there, it is the key."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, KeyError):
            raise KeyError(self._key) from None


class Listings:
    """What is below a URL. Several threads may ask; a listing is asked for by one of them.

    Args:
        server: Who is asked.
        url: A directory's, with ``/`` at its end, or a manifest's.
        freshness: Answers for how many seconds a listing is believed.
    """

    def __init__(self, server: Server, url: str, freshness: Callable[[], float]) -> None:
        self._server, self._url, self._freshness = server, url, freshness
        self._is_manifest = url.endswith(".json")
        self._base = url[: url.rindex("/") + 1]
        self._lock = threading.Lock()
        self._asking = Locks()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def url(self, key: str) -> str:
        """Answer where a key is, which is always below the store's URL.

        Raises:
            KeyError: It is no key, or spells a name that is none.
        """
        try:
            check_key(key)
            name, beside = unescape(key.removesuffix("/")) if key else ("", False)
            check_key(name)
        except InvalidKey as error:
            raise KeyError(key) from error
        if beside and is_directory_key(key):
            raise KeyError(key)
        return self._base + quote(name.encode("utf-8", "surrogateescape")) + ("/" if key.endswith("/") else "")

    def entry(self, key: str) -> Entry:
        """Answer what is told of a key; KeyError if it is not there."""
        if key == ROOT:
            return IMPLIED
        above = split(key)[0]
        with missing(key):
            return self._of(above).entry(key if self._is_manifest else key.removeprefix(above))

    def children(self, directory: str) -> dict[str, bool]:
        """Answer the names directly in a directory, and for each whether it is one; KeyError if there is none such.

        What a server answers for ``FILE/`` counts for nothing: a directory is one that is listed as such.
        """
        if not is_directory_key(directory):
            raise KeyError(directory)
        self.entry(directory)
        with missing(directory):
            return self._of(directory).children(directory if self._is_manifest else ROOT)

    def _of(self, directory: str) -> Listing:
        """Answer the listing that has what is in a directory, as it is or was a moment ago.

        Raises:
            KeyError: There is no such directory.
            CorruptStore: What the server answers is no listing.
            AccessDenied, StoreUnavailable: As for ``Server.ask``.
        """
        place = ROOT if self._is_manifest else directory
        known = self._known.get(place)
        if known is None or time.monotonic() >= known.until:
            with self._asking.of(place):
                known = self._known.get(place)  # of who asked while we waited
                if known is None or time.monotonic() >= known.until:
                    known = self._ask(place, known)
        return known.listing

    def _ask(self, place: str, old: _Known | None) -> _Known:
        url = self._url if self._is_manifest else self.url(place)
        headers = {"Accept": "application/json"} | ({"If-None-Match": old.etag} if old is not None and old.etag else {})
        began = time.monotonic()
        try:
            found = self._server.ask(url, lambda answer: self._take_in(answer, old), headers)
        except KeyError:
            self._known.pop(place, None)
            raise
        ended = time.monotonic()
        found = found._replace(until=ended + max(self._freshness(), 20 * (ended - began)))
        self._keep(place, found)
        return found

    def _take_in(self, answer: Answer, old: _Known | None) -> _Known:
        if answer.status == 304 and old is not None:
            return old
        if answer.status != 200:
            raise StoreUnavailable(f"{answer.url} cannot be listed: the server answers with status {answer.status}")
        try:
            listing, left_out, first = parse_listing(answer.body(MOST_LISTING), self._is_manifest)
        except CorruptStore as error:
            kind = answer.header("content-type") or "something"
            raise CorruptStore(f"{answer.url} answers {kind}, and that is no listing: {error}; {HINT}") from error
        if left_out and old is None:
            log.warning("%s lists %d names that are left out; the first: %s", answer.url, left_out, first)
        return _Known(listing, answer.header("etag"))

    def _keep(self, place: str, known: _Known) -> None:
        with self._lock:
            self._known[place] = known
            self._known.move_to_end(place)
            names = sum(len(other.listing) + _EMPTY for other in self._known.values())
            while names > MOST_NAMES and len(self._known) > 1:
                names -= len(self._known.popitem(last=False)[1].listing) + _EMPTY


# ---------------------------------------------------------------- parsing


def parse_listing(body: bytes, is_manifest: bool) -> tuple[Listing, int, str]:
    """Answer what a listing tells, how many items had to be left out, and words on the first of them.

    Raises:
        CorruptStore: It is no listing.
    """
    # nginx writes the bytes of names as they are.
    text = body.decode("utf-8", "surrogateescape")
    entries: dict[str, Entry] = {}
    left_out, first = 0, ""
    for number, item in enumerate(_items(text)):
        if number >= MOST_NAMES:  # what is left out takes time, too
            raise CorruptStore(f"it has more than {MOST_NAMES} names")
        fields = item if isinstance(item, dict) else {"name": item}
        if fields.get("type", "file") not in ("file", "directory"):
            continue  # sockets, dangling links: the server answers nothing for them
        try:
            entries[_name(fields, is_manifest)] = _entry(fields)
        except ValueError as error:
            left_out, first = left_out + 1, first or f"{str(fields.get('name'))[:200]!a}: {error}"
    return Listing(entries), left_out, first


def _items(text: str) -> Iterator[Any]:
    """Yield the items of a JSON list, one at a time: as Python objects all of them take many times their text's room."""
    mark = _BEGIN.match(text)
    while mark is not None and mark[1] is None:
        item, end = _item(text, mark.end())
        yield item
        mark = _NEXT.match(text, end)
    if mark is None or mark.end() < len(text):
        raise CorruptStore("it is no list in JSON")


def _item(text: str, start: int) -> tuple[Any, int]:
    for most in (MOST_ITEM >> 4, MOST_ITEM):  # that few copies are made of what follows
        try:
            item, size = _DECODER.raw_decode(text[start : start + most])
        except (ValueError, RecursionError):
            continue
        return item, start + size
    raise CorruptStore(f"it has an item that is not JSON, or longer than {MOST_ITEM} characters")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _name(fields: dict[str, Any], is_manifest: bool) -> str:
    """The name, of a directory with ``/`` at its end.

    Raises:
        ValueError: No file can have it.
    """
    name = fields.get("name")
    if not isinstance(name, str):
        raise ValueError("a name is text")  # noqa: TRY004 - caught as what else is wrong
    if is_manifest:
        name = name.removeprefix("./")  # as find prints them
    bare = name.removesuffix("/")
    if not bare or ("/" in bare and not is_manifest):
        raise ValueError("it is in another directory")
    check_key(bare)
    if len(bare.encode("utf-8", "surrogateescape")) > MOST_PATH or bare.count("/") >= MOST_NESTED:
        raise ValueError("it is longer, or nested more deeply, than a path can be")
    return bare + "/" if name != bare or fields.get("type") == "directory" else bare


def _entry(fields: dict[str, Any]) -> Entry:
    metadata = fields.get("metadata")
    users = {name: metadata[name] for name in metadata if not name.startswith(RESERVED)} if isinstance(metadata, dict) else {}
    return Entry(_size(fields.get("size")), _time(fields.get("mtime")), _mode(fields.get("mode")), users or IMPLIED.metadata)


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_SIZE else None


def _mode(value: Any) -> int | None:
    """Permission bits, of octal text. Never set-user-ID."""
    try:
        return int(value, 8) & 0o777 if isinstance(value, str) else None
    except ValueError:
        return None


def _time(value: Any) -> int | None:
    """Nanoseconds, of seconds or of a date."""
    if isinstance(value, str):
        return time_of(value)
    if type(value) not in {int, float} or not math.isfinite(value) or abs(value) > _MOST_SECONDS:
        return None
    return value * NANOSECONDS if isinstance(value, int) else round(value * NANOSECONDS)


def time_of(text: str) -> int | None:
    """Nanoseconds of a date as in RFC 3339 or HTTP; None if it is neither."""
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            whole = moment.replace(microsecond=0).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return int(whole) * NANOSECONDS + moment.microsecond * 1000
    return None
