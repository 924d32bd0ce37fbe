"""Stores, and opening them by URL.

A URL is ``SCHEME:PATH``, with options after a ``?`` at its end, joined by ``&``: ``ro`` for a store that is
to take no writes, ``prefix=a/b`` for one directory of it, ``cache=DIRECTORY`` to keep what was read on local disk, with ``cache_size=10G``
and ``cache_ttl=SECONDS`` if wanted, ``writeback=DIRECTORY`` to send later what is written (a ``?``, ``&`` or ``%`` in a path or prefix is then spelled ``%3F``, ``%26``, ``%25``). Schemes are those of ``REGISTRY``, and what other packages register under the
entry point group ``joinfs.stores``. A bare path is recognised by what it is.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from joinfs.errors import InvalidKey, UsageError
from joinfs.stores.base import Store
from joinfs.stores.value import Capabilities, Stat, Usage, Value
from joinfs.stores.views import PrefixStore

__all__ = ["REGISTRY", "Capabilities", "Stat", "Store", "Usage", "Value", "open_store"]

# Their URLs are percent-encoded as it is.
ENCODED = {"http", "https", "redis", "rediss", "split"}
ENTRY_POINTS = "joinfs.stores"
SQLITE_MAGIC = b"SQLite format 3\0"
# gzip, bzip2, xz, zstd
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
# What ArchiveStore reads, by what is where in the file: 7z, rar, cpio, rpm, ar and deb, xar, cab, lha, ISO 9660; then
# what a tar archive is compressed with: lz4, lzip, lzma, compress.
ARCHIVES = (
    (0, b"7z\xbc\xaf\x27\x1c"), (0, b"Rar!\x1a\x07"), (0, b"070701"), (0, b"070702"), (0, b"070707"), (0, b"\xc7\x71"),
    (0, b"\xed\xab\xee\xdb"), (0, b"!<arch>\n"), (0, b"xar!"), (0, b"MSCF\0\0\0\0"), (2, b"-lh"), (2, b"-lz"), (32769, b"CD001"),
    (0, b"\x04\x22\x4d\x18"), (0, b"LZIP"), (0, b"\x5d\0\0"), (0, b"\x1f\x9d"),
)  # fmt: skip

# What may stand after '?' beside what all take; an opener gets it by name.
OPTIONS = {
    "az": ("account", "endpoint", "freshness"),
    "gs": ("endpoint", "freshness"),
    "postgres": ("schema", "service", "sslmode", "sslrootcert"),
    "s3": ("endpoint", "freshness"),
}
CACHE = ("cache", "cache_size", "cache_ttl")
WRITEBACK = "writeback"
# What a URL says of what is kept on local disk, in which the store is the same.
LOCAL = (*CACHE, WRITEBACK)

Opener = Callable[..., Store]


def _lazily(module: str, name: str) -> Opener:
    """An opener that imports a store's module when it is first used."""

    def opener(path: str, read_only: bool, **options: str) -> Store:
        cls = getattr(importlib.import_module(f"joinfs.stores.{module}"), name)
        store: Store = cls(path, read_only=read_only, **options)
        return store

    return opener


def _open_memory(path: str, read_only: bool) -> Store:
    if path or read_only:
        raise UsageError("'memory:' stands alone: a store in memory has no path, and would stay empty if read-only")
    cls: Callable[[], Store] = importlib.import_module("joinfs.stores.memory").MemoryStore
    return cls()


def _open_python(path: str, read_only: bool) -> Store:
    store: Store = importlib.import_module("joinfs.stores.adapt").open_python(path, read_only)
    return store


def _open_split(path: str, read_only: bool) -> Store:
    store: Store = importlib.import_module("joinfs.stores.split").open_split(path, read_only)
    return store


def _with_scheme(scheme: str, module: str, name: str) -> Opener:
    """An opener of a store that is of several schemes, for what follows one of them."""
    return lambda path, read_only: _lazily(module, name)(f"{scheme}:{path}", read_only)


REGISTRY: dict[str, Opener] = {
    "archive": _lazily("archive", "ArchiveStore"),
    "az": _lazily("azure", "AzureStore"),
    "dir": _lazily("directory", "DirectoryStore"),
    "gs": _lazily("gcs", "GoogleStore"),
    "http": _with_scheme("http", "http", "HTTPStore"),
    "https": _with_scheme("https", "http", "HTTPStore"),
    "memory": _open_memory,
    "postgres": _lazily("postgres", "PostgresStore"),
    "python": _open_python,
    "redis": _with_scheme("redis", "redis_store", "RedisStore"),
    "rediss": _with_scheme("rediss", "redis_store", "RedisStore"),
    "s3": _lazily("object", "ObjectStore"),
    "split": _open_split,
    "sqlite": _lazily("sqlite", "SQLiteStore"),
    "tar": _lazily("tar", "TarStore"),
    "zip": _lazily("zip", "ZipStore"),
}


def open_store(spec: str | os.PathLike[str], *, read_only: bool = False, connect: bool = True) -> Store:
    """Answer the store that a URL or a bare path means.

    Args:
        spec: ``dir:PATH``, ``sqlite:PATH`` (made if it is not there), ``zip:PATH``, ``tar:PATH``, ``archive:PATH``,
            ``memory:``, ``http://HOST/DIRECTORY/`` or ``https:``, ``s3://BUCKET/PREFIX``, ``gs://BUCKET/PREFIX``, ``az://CONTAINER/PREFIX``,
            ``postgres://HOST/DATABASE``, ``redis://HOST/DATABASE/PREFIX`` or ``rediss:``, ``split:FIRST,SECOND``, ``python:MODULE:ATTRIBUTE`` (a mapping or a store),
            one of another package's schemes, or the path of something that is there, also as ``file:///PATH``, percent-encoded.
        read_only: Have it take no writes, as ``?ro`` does.
        connect: Answer it connected.

    Raises:
        UsageError: There is no such scheme, or nothing (known) at the path.
        StoreUnavailable, CorruptStore: As ``Store.connect``.
    """
    text = os.fspath(spec)
    scheme, colon, rest = text.partition(":")
    # A path that is there is a path, also when it has a colon in its name.
    if not colon or "/" in scheme or os.path.lexists(text):
        store = REGISTRY[recognise(text)](text, read_only)
    else:
        store = _open_url(scheme, rest, read_only)
    if connect:
        store.connect()
    return store


def recognise(path: str) -> str:
    """Answer the scheme for what is at ``path``.

    Raises:
        UsageError: Nothing is there, or nothing that joinfs can tell.
    """
    if os.path.isdir(path):
        return "dir"
    if not os.path.exists(path):
        hint = f"; 'sqlite:{path}' makes a new one" if Path(path).suffix in {".db", ".sqlite", ".sqlite3"} else ""
        raise UsageError(f"there is no store at {path}{hint}")
    if not os.path.isfile(path):  # opening a FIFO would wait for who writes to it
        raise UsageError(f"{path} is neither a directory nor a regular file, so it is no store")
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
        if start.startswith(SQLITE_MAGIC):
            return "sqlite"
        if start.startswith(COMPRESSED) or start[257:262] == b"ustar":
            return "tar"
        if any(start.startswith(magic, place) for place, magic in ARCHIVES):
            return "archive"
        import zipfile  # noqa: PLC0415 - not for directories, which are the commonest

        if zipfile.is_zipfile(path):
            return "zip"
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    raise UsageError(
        f"{path} is neither a directory, nor an SQLite database, nor a zip, tar or other archive; if it is one and damaged, "
        f"say which with 'sqlite:{path}', 'zip:{path}', 'tar:{path}' or 'archive:{path}'"
    )


def _opener(scheme: str) -> Opener:
    if scheme in REGISTRY:
        return REGISTRY[scheme]
    # Here, because they take as long to import as all the rest.
    import difflib  # noqa: PLC0415
    from importlib.metadata import entry_points  # noqa: PLC0415

    others = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if scheme in others:
        opener: Opener = others[scheme].load()
        return opener
    known = sorted([*REGISTRY, *others, "file"])
    near = difflib.get_close_matches(scheme, known, 1)
    meant = f"; did you mean '{near[0]}:'?" if near else ""
    raise UsageError(f"'{scheme}:' is not a kind of store; there are {', '.join(f'{s}:' for s in known)}{meant}")


def _open_file(rest: str, read_only: bool) -> Store:
    """Answer the store for what follows ``file:``, as RFC 8089 has it."""
    url, question, query = rest.partition("?")
    host, slash, path = url.removeprefix("//").partition("/") if url.startswith("//") else ("", "", url)
    if host not in {"", "localhost"}:
        raise UsageError(f"file:{url} is on the machine {host!r}; mount that here, or write file:///PATH")
    place = unquote(slash + path)
    scheme = recognise(place)
    return _open_url(scheme, f"{quote(place)}?{query}", read_only) if question else REGISTRY[scheme](place, read_only)


def _open_url(scheme: str, rest: str, read_only: bool) -> Store:
    if scheme == "file":
        return _open_file(rest, read_only)
    opener = _opener(scheme)
    path, question, query = rest.partition("?")
    if not question:
        return opener(rest, read_only)
    prefix, options, cache = None, {}, {}
    for option in query.split("&"):
        name, equals, value = option.partition("=")
        if name == "ro" and not equals:
            read_only = True
        elif name == "prefix" and value.strip("/"):
            prefix = unquote(value.strip("/"))
        elif name in LOCAL and value:
            if "?" in value:
                raise UsageError(f"'{option}': options after the first are joined by '&'; a '?' in a directory's name is '%3F'")
            cache[name] = unquote(value)
        elif name in OPTIONS.get(scheme, ()) and value:
            options[name] = unquote(value)
        elif equals and not value and name in {"prefix", *LOCAL, *OPTIONS.get(scheme, ())}:
            raise UsageError(f"'?{name}=' needs a value after the '='")
        else:
            more = "".join(f", '?{other}='" for other in (*LOCAL, *OPTIONS.get(scheme, ())))
            raise UsageError(
                f"'?{name}' is not known after a store's path; there are '?ro' and '?prefix=DIRECTORY'{more} (a '?' in a path is '%3F')"
            )
    store = opener(path if scheme in ENCODED else unquote(path), read_only, **options)
    writeback = cache.pop(WRITEBACK, None)
    if cache:
        store = _cached(store, cache)
    if writeback is not None:
        store = _written_back(store, writeback)
    if prefix is None:
        return store
    try:
        return PrefixStore(store, prefix)
    except InvalidKey as error:
        raise UsageError(f"'?prefix={prefix}' is no directory's key: {error}") from None


def without_cache(url: str) -> str:
    """Answer the URL of the same store without what it says of a cache, or of writing back."""
    path, question, query = url.partition("?")
    if not question or ":" not in path.partition("/")[0]:
        return url
    kept = [option for option in query.split("&") if option.partition("=")[0] not in LOCAL]
    return "?".join([path, *(["&".join(kept)] if kept else [])])


def _written_back(store: Store, path: str) -> Store:
    from joinfs.stores.writeback import WriteBackStore  # noqa: PLC0415 - for those who want it

    return WriteBackStore(store, os.path.expanduser(path))


def _cached(store: Store, options: dict[str, str]) -> Store:
    """A store with the cache that the options of its URL say."""
    from joinfs.stores import caching  # noqa: PLC0415 - for those who want one

    if "cache" not in options:
        raise UsageError(f"'?{next(iter(options))}=' says something of a cache, and there is no '?cache=DIRECTORY'")
    given: dict[str, Any] = {}
    if "cache_size" in options:
        given["size"] = caching.size_of(options["cache_size"])
    if "cache_ttl" in options:
        given["ttl"] = caching.seconds_of(options["cache_ttl"])
    return caching.CachingStore(store, os.path.expanduser(options["cache"]), **given)
