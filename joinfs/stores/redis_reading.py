"""The reading half of ``RedisStore``, and its connection."""

import contextlib
import functools
import io
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

from joinfs.errors import CorruptStore, NotConnected, StoreError, StoreUnavailable, Unsupported
from joinfs.stores.base import DEFAULT_DIRECTORY_MODE, Store
from joinfs.stores.gate import Gate
from joinfs.stores.keys import is_directory_key
from joinfs.stores.metadata import RESERVED, has_all, selected
from joinfs.stores.redis_blobs import Blobs
from joinfs.stores.redis_known import METADATA, XATTRS, Known, Seen
from joinfs.stores.redis_nodes import (
    bare_key,
    decoded,
    digest_of,
    entries_from,
    metadata_from,
    path_of,
    seen_from,
    spelled,
    stat_from,
    xattrs_from,
)
from joinfs.stores.redis_probe import Facts, info, probe
from joinfs.stores.redis_scripts import FORMAT, SCRIPTS, checked
from joinfs.stores.redis_server import Server
from joinfs.stores.redis_url import login, parse_url
from joinfs.stores.redis_watching import Others
from joinfs.stores.value import Metadata, Opened, Stat, Usage, Value

log = logging.getLogger(__name__)

# Entries that are asked for at a time: to tell of them takes the server about a millisecond, in which nobody else is served.
PAGE = 500
# How often a range is read that is replaced each time.
MOST_LOOKS = 10
BLOCK = 4096
# Seconds for which who opens a file waits to be told what others have done.
PATIENCE = 1.0


class ReadingRedis(Store):
    """The reading half of ``RedisStore``, which says what it is."""

    timeout = 10.0
    patience = 10.0

    def __init__(self, url: str, event_manager: Any = None, *, read_only: bool = False) -> None:
        super().__init__(event_manager)
        self._address = parse_url(url)
        self.name = self._address.name
        self._read_only = read_only
        if read_only:
            self.capabilities = self.capabilities._replace(writable=False)
        self._gate = Gate()
        self._whiteout = threading.local()
        self._connecting = threading.Lock()
        self._open: Server | None = None
        self._open_blobs: Blobs | None = None
        self._others: Others | None = None
        self._known = Known()
        self._facts: Facts | None = None

    # ---------------------------------------------------------------- connection

    def connect(self, credentials: Any = None) -> None:
        """The same. Logs a warning if the server may lose what it has acknowledged.

        Args:
            credentials: A password, or ``(user, password)``. None: ``JOINFS_REDIS_PASSWORD``, or redis-cli's ``REDISCLI_AUTH``,
                of the environment.

        Raises:
            UsageError: The library for it is not installed, or there is no making sense of the credentials; or the server
                deletes keys when it is full, or is older than Redis 7.
            AccessDenied: The server does not let us in.
        """
        with self._connecting:
            if self.is_connected():
                return
            server = Server(self._address, *login(self._address, credentials), self.timeout, self.patience)
            try:
                self._begin(server)
            except BaseException:
                server.close()
                raise
            self._known.forget(None)
            self._open_blobs = Blobs(server, self.name)
            self._open = server

    def _begin(self, server: Server) -> None:
        self._facts = facts = probe(server)
        writable = not (self._read_only or facts.is_replica)
        self.capabilities = type(self).capabilities._replace(writable=writable)
        if writable:
            if risk := facts.risk():
                log.warning("%s: %s", self.name, risk)
            owner = self._default_owner()
            server.ask_all([("SCRIPT", "LOAD", script.text) for script in SCRIPTS])
            found = checked(server.ask(*server.simple("begin", FORMAT, DEFAULT_DIRECTORY_MODE, *owner)), self.name)[0]
        else:
            found = server.ask("HGET", server.key("store"), "format")
        if found is None and facts.is_replica:
            raise StoreUnavailable(f"{self.name}: there is no store yet on this replica; connect to the server that it follows for writing once, or wait")
        if found is None:
            raise StoreUnavailable(f"{self.name}: there is no store yet; connect to it for writing once")
        if found != FORMAT:
            raise CorruptStore(f"{self.name}: what is there has the format {found!r}, and this joinfs knows {FORMAT!r}: update joinfs")

    def disconnect(self) -> None:
        with self._connecting:
            server, blobs, others = self._open, self._open_blobs, self._others
            self._open = self._open_blobs = self._others = None
        if others is not None:
            others.close()
        if server is not None and blobs is not None:
            server.close()
            blobs.close()

    def is_connected(self) -> bool:
        return self._open is not None

    def info(self) -> dict[str, Any]:
        """The same, and ``risk``: how the server may lose what it has acknowledged; empty if it does not, None before it is connected."""
        return {**super().info(), "risk": None if self._facts is None else self._facts.risk()}

    def sync(self, key: str | None = None) -> None:
        """The same, where ``risk`` is empty: then all is on the server's disk by now. There is no waiting for what ``connect`` has warned of."""
        self._check_connected()

    @property
    def _server(self) -> Server:
        server = self._open
        if server is None:
            raise NotConnected(f"{self.name} is not connected: call connect() or use it in a with statement")
        return server

    @property
    def _blobs(self) -> Blobs:
        blobs = self._open_blobs
        if blobs is None:
            raise NotConnected(f"{self.name} is not connected: call connect() or use it in a with statement")
        return blobs

    def _exclusive(self, *keys: str) -> AbstractContextManager[object]:
        """The same. A write is one step on the server, and so keeps nobody out who is not in a transaction."""
        return self._gate.shared() if keys else self._gate.alone()

    # ---------------------------------------------------------------- watching

    def watch(self, directory: str) -> bool:
        """The same, of the whole store: whatever others change is told."""
        server = self._server
        with self._connecting:
            if self._others is None and self._open is server:
                self._others = self._listening(server)
            others = self._others
        return others is not None and others.is_told and is_directory_key(directory) and self.exists(directory)

    def catch_up(self) -> None:
        others = self._others
        if others is not None:
            with contextlib.suppress(StoreError):
                others.catch_up(PATIENCE)

    def _listening(self, server: Server) -> Others | None:
        try:
            return Others(server, self._told, self.name, self.timeout)
        except Exception as error:
            log.warning("%s: what others change cannot be told: %s", self.name, error)
            return None

    def _told(self, key: str | None) -> None:
        """Others have changed something."""
        self._known.forget(key)
        self._note_change()
        self._tell_changed(key)

    # ---------------------------------------------------------------- reading

    def _ask(self, key: str, what: str, *arguments: Any) -> list[Any]:
        return checked(self._server.read(what, path_of(key), *arguments), key)

    def _see(self, key: str, kind: str) -> Seen:
        """Answer what the server says of a key, or said."""
        moment, bare = self._known.moment, bare_key(key)
        seen = self._known.find(bare) if self._is_told() else None
        if seen is None:
            seen = seen_from(self._ask(key, "stat", kind)[0])
            self._learn(moment, bare, seen)
        elif kind != "a" and seen.stat.is_directory != (kind == "d"):
            raise KeyError(key)
        return seen

    def _has_none(self, key: str, what: int) -> bool:
        """Whether it is known that a key is there and has no metadata, or no other attributes."""
        if not self._is_told():
            return False
        seen = self._known.find(bare_key(key))
        return seen is not None and not seen.has & what and seen.stat.is_directory == is_directory_key(key)

    def _learn(self, moment: int, bare: str, seen: Seen) -> None:
        if self._is_told():
            self._known.put(moment, bare, seen)

    def _is_told(self) -> bool:
        others = self._others
        return others is not None and others.is_told and self._open is not None

    def stat(self, key: str) -> Stat:
        return self._see(key, spelled(key)).stat

    def lookup(self, key: str) -> Stat:
        return self._see(key, "a").stat

    def list(self, prefix: str) -> Iterator[tuple[str, Stat]]:
        if not is_directory_key(prefix):
            raise KeyError(prefix)
        node, after = b"", b""
        while True:
            moment = self._known.moment
            node, text = self._ask(prefix, "list", node, after, PAGE)
            page = entries_from(text)
            for name, seen in page:
                self._learn(moment, prefix + decoded(name), seen)
                yield decoded(name), seen.stat
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def get(self, key: str) -> Value:
        row, fields, blob, data = self._ask(key, "get", spelled(key))
        stat = stat_from(row)
        size = 0 if stat.is_directory else stat.size
        open_data: Any = functools.partial(self._stream, key, stat.file_id) if blob else functools.partial(io.BytesIO, data)
        return Value(open_data, metadata_from(fields), size, *stat.moments())

    def _stream(self, key: str, node: int | None) -> Opened:
        row, fields, blob, data = checked(self._blobs.find(node), key)
        stat = stat_from(row)
        stream: BinaryIO = self._blobs.stream(blob.decode(), stat.size) if blob else io.BytesIO(data)
        return Opened(stream, metadata_from(fields), stat.size, *stat.moments())

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        if self._has_none(key, METADATA):
            return {}
        return selected(metadata_from(self._ask(key, "hash", spelled(key), "m")[0]), select)

    def get_xattrs(self, key: str) -> dict[str, bytes]:
        if self._has_none(key, XATTRS):
            return {}
        return xattrs_from(self._ask(key, "hash", spelled(key), "x")[0])

    def read(self, key: str, offset: int, size: int) -> bytes:
        if is_directory_key(key):
            raise KeyError(key)
        for _ in range(MOST_LOOKS):
            data, blob, total = self._ask(key, "read", offset, size)
            stop, got = min(offset + size, int(total)), offset + len(data)
            if got >= stop:
                return bytes(data)
            try:
                return bytes(data) + self._blobs.read(blob.decode(), got, stop)
            except StoreUnavailable:
                if self._ask(key, "read", 0, 1)[1] == blob:  # it is not that it was replaced
                    raise
        raise StoreUnavailable(f"{key!r} is replaced by others all the time")

    # ---------------------------------------------------------------- queries

    def query(self, select: Iterable[str] | None = None, **kwargs: Any) -> Iterator[tuple[str, Metadata]]:
        names = None if select is None else [*select]
        try:
            digests = [digest_of(name, value) for name, value in kwargs.items() if not name.startswith(RESERVED)]
        except Unsupported:  # no metadata is like that
            return
        for key, fields in self._indexed(digests) if digests else self._all_values():
            metadata = metadata_from(fields)
            # Values that are equal to the index may be others': Python has the last word.
            if has_all(metadata, kwargs):
                yield key, selected(metadata, names)

    def _indexed(self, digests: "Iterable[str]") -> Iterator[tuple[str, Any]]:
        after = b"0"
        while after:
            after, *found = self._ask("", "query", after, PAGE, *digests)
            yield from zip(map(decoded, found[::2]), found[1::2], strict=True)

    def _all_values(self) -> Iterator[tuple[str, Any]]:
        pending = [""]
        while pending:
            directory = pending.pop()
            for name, kind, fields in self._values_in(directory):
                if kind == _DIRECTORY:
                    pending.append(f"{directory}{name}/")
                elif kind in _VALUES:
                    yield directory + name, fields

    def _values_in(self, directory: str) -> Iterator[tuple[str, int, Any]]:
        after, count = b"", PAGE
        while count == PAGE:
            try:
                answer = self._ask(directory, "values", after, PAGE)
            except KeyError:  # it has gone meanwhile
                return
            count = len(answer) // 3
            for n in range(count):
                yield decoded(answer[3 * n]), answer[3 * n + 1], answer[3 * n + 2]
            after = answer[-3] if answer else b""

    # ---------------------------------------------------------------- room

    def usage(self) -> Usage:
        """The same, of the server's memory: of what it may take, or of the machine's if that is not said."""
        said = info(self._server, "memory")
        total = int(said.get("maxmemory", 0)) or int(said.get("total_system_memory", 0))
        blocks = total // BLOCK
        free = max(total - int(said.get("used_memory", 0)), 0) // BLOCK
        return Usage(BLOCK, blocks, free, free)

    def check(self) -> Iterator[str]:
        """The same, of all keys that the store has on the server, those that nothing leads to included."""
        from joinfs.stores.redis_checking import broken_rules  # noqa: PLC0415

        yield from broken_rules(self._server)


_DIRECTORY, _VALUES = 4, {8, 10}
