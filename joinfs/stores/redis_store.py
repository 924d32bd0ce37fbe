"""``RedisStore``: a store on a Redis server, which several machines share.

What the other rooms of it hold: the keys and the scripts (``redis_common.lua``, redis_scripts), the server and what is tried again
(redis_server), attributes and metadata (redis_nodes), large data (redis_blobs), what others change (redis_watching), what the server
may lose (redis_probe).
"""

import contextlib
import stat as stat_module
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from joinfs.errors import InvalidKey, KeyExists, Unsupported
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE
from joinfs.stores.keys import ROOT, is_directory_key
from joinfs.stores.redis_blobs import Source
from joinfs.stores.redis_nodes import (
    encoded,
    metadata_from,
    metadata_text,
    path_of,
    seen_from,
    spelled,
    stat_from,
    storable,
    xattr_text,
    xattrs_text,
)
from joinfs.stores.redis_reading import ReadingRedis
from joinfs.stores.redis_scripts import checked
from joinfs.stores.value import Capabilities, Metadata, Stat

# The fields of a node's hash that set_stat changes.
_FIELDS = {"mode": "m", "uid": "u", "gid": "g", "atime": "a", "mtime": "t"}


class RedisStore(ReadingRedis):
    """A store in one database of a Redis server, below a prefix, shared by any number of threads, processes and machines.

    Each write is one step for all of them: one script on the server, which moves directories with all below them, too. Large data
    goes there before in chunks, and is seen when it is whole. Of two who write one value at once the last wins, whole. A
    request that was broken off is made again and done once; a server that is restarted makes all wait, no more.
    Whether what was written survives the server's death is for its configuration to say; ``connect`` logs a warning if not.
    Several keys of one file are hard links, as in ``SQLiteStore``. A ``transaction`` keeps other threads of this object
    out, and is seen by others as it goes; it is not undone.

    A stream of a value goes on answering it as it was.

    Args:
        url: ``redis://[USER@]HOST[:PORT]/DATABASE/PREFIX``, or ``rediss:``.
        event_manager, read_only: As for ``Store`` and ``open_store``.

    Attributes:
        timeout: Seconds for which the server may send nothing.
        patience: Seconds for which what fails is tried again.

    Raises:
        UsageError: The URL is none, or has a password in it.
    """

    capabilities = Capabilities(xattrs=True, hard_links=True, slow=True)

    # ---------------------------------------------------------------- for the methods below

    def _do(self, what: str, keys: Sequence[str], *arguments: Any, frees: bool = False) -> list[Any]:
        """Have the script do something to keys; answer what it says."""
        changed = [keys[0].removesuffix("/")] if len(keys) == 1 else keys
        try:
            return checked(self._server.write(what, changed, *arguments, frees=frees), *keys)
        finally:
            self._known.forget(*changed)

    def _made(self, what: str, key: str, *arguments: Any) -> list[Any]:
        """The same to one key, of which the first thing that is said are its attributes then: these are known from now on."""
        moment = self._known.moment
        row, *rest = self._do(what, [key], *arguments)
        seen = seen_from(row)
        self._learn(moment + 1, key.removesuffix("/"), seen)  # if nobody else has changed anything meanwhile
        return [seen.stat, *rest]

    def _way(self) -> tuple[int, int, int]:
        """The mode and owner of directories that are made on the way."""
        return (DEFAULT_DIRECTORY_MODE, *self._default_owner())

    @contextlib.contextmanager
    def _receive(self, key: str, stat: Stat, data: BinaryIO | None, buffer_size: int) -> Iterator[BinaryIO | None]:
        with self._blobs.received(data if stat.is_file or stat.is_symlink else None, buffer_size) as source:
            yield source  # type: ignore[misc]

    # ---------------------------------------------------------------- values

    def _put(
        self,
        key: str,
        stat: Stat,
        data: BinaryIO | None,
        metadata: Metadata,
        xattrs: dict[str, bytes],
        buffer_size: int,
    ) -> Stat:
        return self._put_node(key, stat, data, metadata_text(metadata), xattrs_text(xattrs))[0]

    def _put_node(
        self, key: str, stat: Stat, data: object, metadata: bytes = b"", xattrs: bytes = b"", keep: str = ""
    ) -> tuple[Stat, Metadata]:
        """Put something whole; ``keep`` says what stays of what is there, as in the script. Answer its metadata if that stays."""
        source = Source() if data is None else data
        assert isinstance(source, Source), "data has been taken in before"
        owned = (stat.mode, stat.uid, stat.gid, stat.rdev, storable(stat.atime), storable(stat.mtime))
        given = (*owned, source.size, source.blob, source.data, *self._way(), metadata, xattrs)
        stat, kept = self._made("put", key, encoded(key.removesuffix("/")), keep, *given)
        return stat, metadata_from(kept)

    def _set(self, key: str, data: BinaryIO | None, metadata: Metadata | None, buffer_size: int) -> Metadata:
        text = b"" if metadata is None else metadata_text(metadata)
        kept = self._put_node(key, self._stat_over(None), data, text, keep="smx" if metadata is None else "sx")[1]
        return kept if metadata is None else metadata

    def _make(self, key: str, metadata: Metadata) -> None:
        self._put_node(key, self._stat_over(None), None, metadata_text(metadata), keep="sx")

    def _make_new(self, key: str, stat: Stat, target: bytes) -> Stat:
        path = encoded(key.removesuffix("/"))
        if key == ROOT:
            raise KeyExists("the root is always there")
        made: Stat = self._made("make", key, path, stat.mode, stat.uid, stat.gid, stat.rdev, target if stat.is_symlink else b"")[0]
        return made

    def _delete(self, key: str) -> None:
        _refuse_root(key)
        self._do("delete", [key], path_of(key), spelled(key), frees=True)

    # ---------------------------------------------------------------- attributes

    def _set_stat(self, key: str, changes: dict[str, int]) -> Stat:
        fields = [part for name, value in changes.items() for part in (_FIELDS[name], storable(value))]
        changed: Stat = self._made("set_stat", key, path_of(key), spelled(key), *fields)[0]
        return changed

    def _set_metadata(self, key: str, metadata: Metadata) -> None:
        self._do("set_metadata", [key], path_of(key), spelled(key), "", metadata_text(metadata))

    def _update_metadata(self, key: str, metadata: Metadata) -> Metadata:
        return metadata_from(self._do("set_metadata", [key], path_of(key), spelled(key), "add", metadata_text(metadata))[0])

    def _set_xattr(self, key: str, name: str, value: bytes | None) -> None:
        values = [] if value is None else [xattr_text(bytes(value))]
        self._do("set_xattr", [key], path_of(key), spelled(key), encoded(name), *values)

    # ---------------------------------------------------------------- moving

    def _rename(self, old: str, new: str) -> None:
        _refuse_root(old)
        _refuse_root(new)
        if old == new:
            self.stat(old)
            return
        whiteout = getattr(self._whiteout, "mode", "")
        self._do("rename", [old, new], path_of(old), path_of(new), spelled(old), *self._way(), whiteout)

    def rename_whited_out(self, old: str, new: str) -> None:
        """The same, in one step."""
        if old == new:
            super().rename_whited_out(old, new)
            return
        self._whiteout.mode = stat_module.S_IFCHR
        try:
            self.rename(old, new)
        finally:
            self._whiteout.mode = ""
        self._tell_set(old.removesuffix("/"), False, {})

    def _exchange(self, first: str, second: str) -> None:
        _refuse_root(first)
        _refuse_root(second)
        self._do("exchange", [first, second], path_of(first), path_of(second), spelled(first), spelled(second))

    def _link(self, old: str, new: str) -> Stat:
        if is_directory_key(old):
            raise Unsupported(f"{old!r} is a directory's key; a directory has one name")
        if is_directory_key(new):
            raise InvalidKey(f"{new!r} is a directory's key, and what is linked is not a directory")
        return stat_from(self._do("link", [old, new], path_of(old), path_of(new), *self._way())[0])


def _refuse_root(key: str) -> None:
    if key == ROOT:
        raise InvalidKey("the root is always there: it can be neither deleted nor moved")
