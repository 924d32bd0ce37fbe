r"""What web servers tell of the names in a directory, and manifests of the names below them.

A listing is JSON: what nginx answers with ``autoindex_format json``, or Caddy with ``file_server browse``. A
manifest is JSON too: ``{"files": [...]}``, or only the list. Its items are names, or objects such as

    {"name": "a/b", "size": 5, "mtime": "2026-11-25T03:23:00Z", "mode": "0640", "metadata": {"k": "v"}, "url": "x"}

of which only ``name`` has to be there. A name that ends in ``/`` is a directory. ``mtime`` is seconds since
the epoch, or a date as in RFC 3339 or HTTP. ``mode`` is octal text. ``url`` says where the data is, if it is not
beside the manifest under its name. Bytes that are not UTF-8 may stand in names as they are, or as ``\udcXX``.
"""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from joinfs.errors import CorruptStore
from joinfs.stores.keys import is_directory_key
from joinfs.stores.metadata import RESERVED
from joinfs.stores.names import NameTree
from joinfs.stores.value import NANOSECONDS, Metadata

MOST_DIRECTORIES = 200_000
MOST_NESTED = 100
MOST_SIZE = 1 << 63
_MOST_SECONDS = 1 << 33
UNASKABLE = {"", ".", ".."}


class Entry(NamedTuple):
    """What is told of a name; None where nothing is.

    Attributes:
        size: Bytes of data.
        mtime: Nanoseconds since the epoch.
        mode: Permission bits.
        metadata: The user's.
        url: Where the data is, if not at the place that the name says.
    """

    size: int | None = None
    mtime: int | None = None
    mode: int | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})
    url: str | None = None


IMPLIED = Entry()


class Listing:
    """Names and what is told of them, as directories.

    Args:
        entries: By name; the names of directories end in ``/``.

    Raises:
        CorruptStore: There are more directories than anyone can mean.
    """

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._tree = NameTree()
        for name in entries:
            self._tree.add(name)
            if len(self._tree._children) > MOST_DIRECTORIES:
                raise CorruptStore(f"it has more than {MOST_DIRECTORIES} directories")

    def __len__(self) -> int:
        return len(self._entries)

    def children(self, prefix: str) -> dict[str, bool]:
        """Answer the names directly in a directory, and for each whether it is one; KeyError if there is none such."""
        return self._tree.children(prefix)

    def entry(self, key: str) -> Entry:
        """Answer what is told of a key.

        Raises:
            KeyError: It is not there, or of the other kind.
        """
        if is_directory_key(key):
            self._tree.children(key)
            return self._entries[self._tree.name(key)] if self._tree.has_name(key) else IMPLIED
        return self._entries[self._tree.name(key)]


def parse_listing(body: bytes, is_manifest: bool) -> tuple[Listing, list[str]]:
    """Answer what a listing tells, and a sentence on each item that had to be left out.

    Raises:
        CorruptStore: It is no listing.
    """
    entries, left_out = {}, []
    for item in _items(body):
        fields = item if isinstance(item, dict) else {"name": item}
        if not is_manifest and fields.get("type", "file") not in {"file", "directory"}:
            continue  # sockets, dangling links: the server answers nothing for them
        try:
            entries[_name(fields, is_manifest)] = _entry(fields, is_manifest)
        except ValueError as error:
            left_out.append(f"{str(fields.get('name'))[:200]!a} {error}")
    return Listing(entries), left_out


def _items(body: bytes) -> list[Any]:
    # What is not UTF-8 comes through: nginx writes the bytes of names as they are.
    text = body.decode("utf-8", "surrogateescape").removeprefix("\N{BYTE ORDER MARK}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptStore("it is not JSON") from None
    items = found.get("files") if isinstance(found, dict) else found
    if not isinstance(items, list) or not all(isinstance(item, (dict, str)) for item in items):
        raise CorruptStore("it is JSON, but no list of files")
    return items


def _name(fields: dict[str, Any], is_manifest: bool) -> str:
    """The name, of a directory with ``/`` at its end.

    Raises:
        ValueError: No file can be asked for by this name.
    """
    name = fields.get("name")
    if not isinstance(name, str):
        raise ValueError("is no name")  # noqa: TRY004 - caught as what else is wrong
    if is_manifest:
        name = name.removeprefix("./")
    is_directory = name.endswith("/") or fields.get("type") == "directory" or fields.get("is_dir") is True
    bare = name.removesuffix("/")
    parts = bare.split("/") if is_manifest else [bare]
    has_place = is_manifest and isinstance(fields.get("url"), str)
    if not has_place and (not UNASKABLE.isdisjoint(parts) or any("/" in part for part in parts)):
        raise ValueError("would lead to another place on the server")
    if len(parts) > MOST_NESTED:
        raise ValueError(f"is nested in more than {MOST_NESTED} directories")
    try:
        bare.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("is not Unicode") from None
    return bare + "/" if is_directory else bare


def _entry(fields: dict[str, Any], is_manifest: bool) -> Entry:
    url, metadata = fields.get("url"), fields.get("metadata")
    if is_manifest and isinstance(url, str) and "@" in urlsplit(url).netloc:
        raise ValueError("has a URL with a name or password in it")
    return Entry(
        _size(fields.get("size")),
        _time(fields.get("mtime", fields.get("mod_time"))),
        None if fields.get("is_symlink") is True else _mode(fields.get("mode")),  # Caddy tells the link's own
        dict(_users(metadata)) if is_manifest and isinstance(metadata, dict) else {},
        url if is_manifest and isinstance(url, str) else None,
    )


def _users(metadata: Metadata) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in metadata.items() if not name.startswith(RESERVED))


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < MOST_SIZE else None


def _mode(value: Any) -> int | None:
    """Permission bits: of octal text, or of a number as Go's ``FileMode`` is one. Never set-user-ID."""
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        return None
    return mode & 0o777 if type(mode) is int else None


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
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        whole = moment.replace(microsecond=0).timestamp()
        return int(whole) * NANOSECONDS + moment.microsecond * 1000
    return None
