"""``.joinfs/``: what there is to know of a mount, as files in it. No listing shows it, and nothing of it gets into a store.

- ``layers/N/``: each store by itself, marks and all;
- ``versions/PATH/N``: what each store has at a path;
- ``query/FIELD=VALUE/``, and so on below that: symlinks to the files whose metadata has that;
- ``stats``, ``log``, ``ctl``: texts; what is written to ``ctl`` is done.

All but ``stats`` is for who mounted it: a file may be hidden, or be nobody else's by now, and still be what it was in a store.

A VALUE stands for itself, and if it is JSON for that as well. In the names of symlinks, ``/`` is ``%2F``.
"""

import contextlib
import io
import os
import stat as stat_module
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

from joinfs.control.querying import matching, parse_field
from joinfs.errors import ReadOnly, Unsupported, UsageError
from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import is_reserved
from joinfs.stores import Capabilities, Stat, Store, Value
from joinfs.stores.keys import ROOT, is_directory_key, split
from joinfs.stores.value import Metadata, now

# Seconds for which a text is what it was when somebody looked at its length.
TTL = 1.0
_DIRECTORY, _OWN_DIRECTORY = stat_module.S_IFDIR | 0o555, stat_module.S_IFDIR | 0o500
_LINK = stat_module.S_IFLNK | 0o777


class Text(NamedTuple):
    """A file whose text is made when somebody looks: how, its mode, and what is done with what is written to it."""

    read: Callable[[], str]
    mode: int = 0o444
    write: Callable[[str], object] | None = None


class _Reading(Store):
    """A store that is there as long as the mount is, and takes no writes."""

    capabilities = Capabilities(writable=False, xattrs=False, hard_links=False, local=True, marks=False)

    def connect(self, credentials: Any = None) -> None:
        """It is."""

    def disconnect(self) -> None:
        """It stays."""

    def is_connected(self) -> bool:
        return True


class Annex(_Reading):
    """What is in ``.joinfs/``.

    Args:
        join: What is mounted.
        texts: The files in it, by their names.
    """

    name = ".joinfs"

    def __init__(self, join: JoinedStore, texts: Mapping[str, Text]) -> None:
        super().__init__()
        self._parts: dict[str, Store] = {"layers": _Layers(join), "versions": _Versions(join), "query": _Query(join)}
        self._texts = dict(texts)
        self._made: dict[str, tuple[float, bytes]] = {}
        self._began = now()

    def _part(self, key: str) -> tuple[Store, str] | None:
        """The part that a key is in, and the key there; None for a text, and for the root."""
        first, slash, rest = key.partition("/")
        return (self._parts[first], rest) if slash and first in self._parts else None

    def stat(self, key: str) -> Stat:
        part = self._part(key)
        if part is not None:
            return part[0].stat(part[1]) if part[1] else _own_directory()
        if key == ROOT:
            return _directory(self._began)
        text = self._texts[key]
        moment = now()
        return Stat(stat_module.S_IFREG | text.mode, len(self._text(key)), os.geteuid(), os.getegid(), mtime=moment, ctime=moment)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        part = self._part(prefix)
        if part is not None:
            yield from part[0].list(part[1])
        elif prefix == ROOT:
            yield from ((name, _own_directory()) for name in self._parts)
            yield from ((name, self.stat(name)) for name in self._texts)
        else:
            raise KeyError(prefix)

    def get(self, key: str) -> Value:
        part = self._part(key)
        if part is not None:
            return part[0].get(part[1])
        if key not in self._texts:
            return _empty(self.stat(key))
        data = self._text(key)
        return Value(lambda: io.BytesIO(data), {}, len(data))

    def read(self, key: str, offset: int, size: int) -> bytes:
        part = self._part(key)
        return self._text(key)[offset : offset + size] if part is None else part[0].read(part[1], offset, size)

    def open_local(self, key: str, flags: int) -> int:
        part = self._part(key)
        if flags & os.O_ACCMODE != os.O_RDONLY and not self.takes(key):
            raise ReadOnly(".joinfs is for reading; only ctl is written to")
        if part is None:
            raise Unsupported(f"{key!r} is no local file")
        return part[0].open_local(part[1], flags)

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        part = self._part(key)
        return {} if part is None else part[0].get_metadata(part[1], select)

    def _text(self, key: str) -> bytes:
        until, data = self._made.get(key, (0.0, b""))
        if until < time.monotonic():
            data = self._texts[key].read().encode("utf-8", "surrogateescape")
            self._made[key] = (time.monotonic() + TTL, data)
        return data

    def takes(self, key: str) -> bool:
        """Whether something can be written to a key."""
        text = self._texts.get(key)
        return text is not None and text.write is not None

    def write(self, key: str, data: BinaryIO | None) -> None:
        """Do what is written to a key that takes it."""
        write = self._texts[key].write
        self._made.pop(key, None)
        if write is not None and data is not None:
            write(data.read().decode("utf-8", "surrogateescape"))


class _Layers(_Reading):
    """Each store of a join by itself, in a directory that is called by its number."""

    def __init__(self, join: JoinedStore) -> None:
        super().__init__()
        self._join = join

    def _layer(self, key: str) -> tuple[Store, str]:
        number, slash, rest = key.partition("/")
        if not slash or not number.isascii() or not number.isdigit() or str(int(number)) != number or int(number) >= len(self._join.layers):
            raise KeyError(key)
        return self._join.layers[int(number)], rest

    def stat(self, key: str) -> Stat:
        if key == ROOT:
            return _directory()
        layer, there = self._layer(key)
        return _alone(layer.stat(there))

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        if prefix == ROOT:
            yield from ((str(number), _alone(layer.stat(ROOT))) for number, layer in enumerate(self._join.layers))
            return
        layer, there = self._layer(prefix)
        yield from ((name, _alone(stat)) for name, stat in layer.list(there))

    def get(self, key: str) -> Value:
        layer, there = self._layer(key)
        return layer.get(there)

    def read(self, key: str, offset: int, size: int) -> bytes:
        layer, there = self._layer(key)
        return layer.read(there, offset, size)

    def open_local(self, key: str, flags: int) -> int:
        layer, there = self._layer(key)
        return layer.open_local(there, flags)

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        if key == ROOT:
            return {}
        layer, there = self._layer(key)
        return layer.get_metadata(there, select)


class _Versions(_Reading):
    """What each store has at a path: the path as a directory, with a file for each store that has a file there, called by its number."""

    def __init__(self, join: JoinedStore) -> None:
        super().__init__()
        self._join = join

    def stat(self, key: str) -> Stat:
        if is_directory_key(key):
            if key != ROOT and not any(True for _ in self._at(key.removesuffix("/"))):
                raise KeyError(key)
            return _directory()
        layer, there = self._version(key)
        return _alone(layer.stat(there))

    def _at(self, bare: str) -> Iterator[tuple[int, Stat]]:
        """The number of each store that has something at a key, and the attributes of that."""
        if any(is_reserved(name) for name in bare.split("/")):
            return
        for number, layer in enumerate(self._join.layers):
            with contextlib.suppress(KeyError):
                yield number, layer.lookup(bare) if bare else layer.stat(ROOT)

    def _version(self, key: str) -> tuple[Store, str]:
        above, name = split(key)
        bare = above.removesuffix("/")
        for number, stat in self._at(bare):
            if str(number) == name and not stat.is_directory:
                return self._join.layers[number], bare
        raise KeyError(key)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        names: set[str] = set()
        found = list(self._at(prefix.removesuffix("/")))
        if not found:
            raise KeyError(prefix)
        for number, stat in found:
            if not stat.is_directory:
                yield str(number), _alone(stat)
            else:
                names.update(name for name, _ in self._join.layers[number].list(prefix) if not is_reserved(name))
        yield from ((name, _directory()) for name in sorted(names - {str(number) for number, stat in found if not stat.is_directory}))

    def get(self, key: str) -> Value:
        if is_directory_key(key):
            return _empty(self.stat(key))
        layer, there = self._version(key)
        return layer.get(there)

    def open_local(self, key: str, flags: int) -> int:
        layer, there = self._version(key)
        return layer.open_local(there, flags)

    def get_metadata(self, key: str, select: Any = None) -> Metadata:
        if is_directory_key(key):
            return {}
        layer, there = self._version(key)
        return layer.get_metadata(there, select)


class _Query(_Reading):
    """Directories of the files whose metadata has fields, which their names say."""

    def __init__(self, join: JoinedStore) -> None:
        super().__init__()
        self._join = join

    def stat(self, key: str) -> Stat:
        if is_directory_key(key):
            _fields(key)
            return _directory()
        return Stat(_LINK, len(self._target(key)), os.geteuid(), os.getegid())

    def _target(self, key: str) -> bytes:
        """Where a symlink leads to.

        Raises:
            KeyError: There is no such, as no such file has the fields.
        """
        above, name = split(key)
        found = unquote(name, errors="surrogateescape")
        fields = _fields(above)
        metadata = self._join.get_metadata(found)
        if not fields or _spelled(found) != name or any(metadata.get(field) not in values for field, values in fields.items()):
            raise KeyError(key)
        return os.fsencode("../" * (above.count("/") + 2) + found)

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        fields = _fields(prefix)
        for key in matching(self._join, fields):
            name = _spelled(key)
            if len(name) <= 255:  # longer ones are found by joinfs query
                yield name, self.stat(prefix + name)

    def get(self, key: str) -> Value:
        data = b"" if is_directory_key(key) else self._target(key)
        return Value(lambda: io.BytesIO(data), {}, len(data))


def _spelled(key: str) -> str:
    """A key as one name, without ``/`` and ``=``."""
    return quote(key, safe=" !\"#$&'()*+,:;<>?@[\\]^`{|}~", errors="surrogateescape")


def _fields(prefix: str) -> dict[str, list[Any]]:
    """The fields that a directory's name and those above it say, with what each can be; ``KeyError`` if one of them says none."""
    try:
        return dict(parse_field(text) for text in prefix.split("/")[:-1])
    except UsageError:
        raise KeyError(prefix) from None


def _directory(moment: int = 0) -> Stat:
    return Stat(_DIRECTORY, 0, os.geteuid(), os.getegid(), mtime=moment, ctime=moment)


def _own_directory() -> Stat:
    return _directory()._replace(mode=_OWN_DIRECTORY)


def _alone(stat: Stat) -> Stat:
    """Attributes of something that is known by its key here, whatever file it is elsewhere."""
    return stat._replace(file_id=None, nlink=1, implied=False)


def _empty(stat: Stat) -> Value:
    assert stat.is_directory, "what is none has data"
    return Value(io.BytesIO, {}, 0)


