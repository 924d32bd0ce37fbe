"""Whether a ``RedisStore``'s keys are what its scripts make of them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from joinfs.errors import CorruptStore
from joinfs.stores.redis_nodes import DIGEST, NO_DIGEST, metadata_from, stat_from, xattrs_from
from joinfs.stores.redis_scripts import CHUNK
from joinfs.stores.redis_server import Server

ROOT = b"1"
# Keys, or entries of one of them, that are asked for at a time.
PAGE = 500
_ATTRIBUTES = ("m", "s", "u", "g", "r", "a", "t", "c", "b", "l")
# What there is at most one of, and what there are many of.
_SINGLE = {b"store", b"trash", b"uploads"}
_KINDS = {b"n", b"l", b"v", b"m", b"x", b"d", b"f", b"b", b"h", b"w"}


class _Node(NamedTuple):
    is_directory: bool
    size: int
    nlink: int
    blob: bytes


def broken_rules(server: Server) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong. All nodes are in memory meanwhile, and none of their data."""
    yield from _Checking(server).all()


class _Checking:
    """One check of a store, in the course of which it finds out what there is."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._keys: dict[bytes, set[bytes]] = {}
        self._nodes: dict[bytes, _Node] = {}
        self._names: Counter[bytes] = Counter()
        self._below: dict[bytes, list[bytes]] = {}

    def all(self) -> Iterator[str]:
        """Yield what is wrong."""
        yield from self._find_keys()
        yield from self._check_nodes()
        yield from self._check_entries()
        yield from self._check_names()
        yield from self._check_data()
        yield from self._check_blobs()
        yield from self._check_texts()
        yield from self._check_left_over()

    def _find_keys(self) -> Iterator[str]:
        pattern = "".join(f"\\{letter}" if letter in "*?[]\\^" else letter for letter in self._server.key("")) + "*"
        cursor, start = b"0", len(self._server.key("").encode())
        while True:
            cursor, keys = self._server.ask("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)
            for key in keys:
                kind, colon, rest = key[start:].partition(b":")
                if kind not in (_KINDS if colon else _SINGLE):
                    yield f"{key!r} is none of the store's keys"
                self._keys.setdefault(kind, set()).add(rest)
            if cursor == b"0":
                return

    def _of(self, kind: bytes) -> list[bytes]:
        return sorted(self._keys.get(kind, ()))

    def _ask_each(self, kind: bytes, names: Iterable[bytes], command: str, *arguments: Any) -> Iterator[tuple[bytes, Any]]:
        """Ask for each key of a kind, many at a time."""
        left = list(names)
        for start in range(0, len(left), PAGE):
            page = left[start : start + PAGE]
            key = self._server.key("").encode() + kind + b":"
            answers = self._server.ask_all([(command, key + name, *arguments) for name in page])
            yield from zip(page, answers, strict=True)

    # ---------------------------------------------------------------- nodes and entries

    def _check_nodes(self) -> Iterator[str]:
        for node, row in self._ask_each(b"n", self._of(b"n"), "HMGET", *_ATTRIBUTES, "B"):
            try:
                stat = stat_from(b" ".join([*(part or b"?" for part in row[:10]), node, b"0"]))
            except CorruptStore as error:
                yield str(error)
                continue
            self._nodes[node] = _Node(stat.is_directory, stat.size, stat.nlink, row[10] or b"")
        if ROOT not in self._nodes:
            yield "there is no root"

    def _check_entries(self) -> Iterator[str]:
        for directory in self._of(b"d"):
            if directory not in self._nodes or not self._nodes[directory].is_directory:
                yield f"there are entries of node {directory.decode()}, which is no directory"
            for name, node in self._entries(directory):
                if node not in self._nodes:
                    yield f"an entry {name!r} of node {directory.decode()} names nothing"
                    continue
                self._names[node] += 1
                if self._nodes[node].is_directory:
                    self._below.setdefault(directory, []).append(node)

    def _entries(self, directory: bytes) -> Iterator[tuple[bytes, bytes]]:
        key, after = self._server.key("").encode() + b"d:" + directory, b"-"
        while page := self._server.ask("ZRANGEBYLEX", key, after, "+", "LIMIT", 0, PAGE):
            for entry in page:
                name, _, node = entry.partition(b"\0")
                yield name, node
            after = b"(" + page[-1]

    def _check_names(self) -> Iterator[str]:
        known = dict.fromkeys(self._nodes, 0)
        known |= {node: int(name is not None) for node, name in self._ask_each(b"n", self._nodes, "HGET", "P")}
        known |= {node: count for node, count in self._ask_each(b"l", self._of(b"l"), "SCARD") if node in known}
        reached = self._reached()
        for node, there in self._nodes.items():
            names = self._names[node]
            links = 2 + len(self._below.get(node, ())) if there.is_directory else names
            if names == 0 and node != ROOT:
                yield f"node {node.decode()} has no name, and takes room"
            elif names != known[node]:
                yield f"node {node.decode()} knows {known[node]} of its names, and has {names}"
            elif links != there.nlink:
                yield f"node {node.decode()} says that it has {there.nlink} links, and has {links}"
            if there.is_directory and node not in reached:
                yield f"directory {node.decode()} cannot be reached from the root"

    def _reached(self) -> set[bytes]:
        reached, pending = {ROOT}, [ROOT]
        while pending:
            new = [node for node in self._below.get(pending.pop(), ()) if node not in reached]
            reached.update(new)
            pending += new
        return reached

    # ---------------------------------------------------------------- data

    def _check_data(self) -> Iterator[str]:
        small = dict(self._ask_each(b"v", self._of(b"v"), "STRLEN"))
        for node, there in self._nodes.items():
            if not there.blob and not there.is_directory and small.get(node, 0) != there.size:
                yield f"node {node.decode()} says that it has {there.size} bytes, and has {small.get(node, 0)}"

    def _check_blobs(self) -> Iterator[str]:
        sizes = dict(self._ask_each(b"b", self._of(b"b"), "STRLEN"))
        there = set()
        for node, known in self._nodes.items():
            for n in range(-(-known.size // CHUNK) if known.blob else 0):
                chunk = b"%s:%d" % (known.blob, n)
                there.add(chunk)
                if sizes.get(chunk, 0) != min(CHUNK, known.size - n * CHUNK):
                    yield f"chunk {n} of node {node.decode()} has {sizes.get(chunk, 0)} bytes, which is wrong"
        kept = {*self._server.ask("ZRANGE", self._server.key("trash"), 0, -1), *self._server.ask("ZRANGE", self._server.key("uploads"), 0, -1)}
        for chunk in sorted(set(sizes) - there):
            if chunk.rpartition(b":")[0] not in kept:
                yield f"there is a chunk {chunk.decode(errors='replace')}, which is no node's"

    # ---------------------------------------------------------------- metadata

    def _check_texts(self) -> Iterator[str]:
        wanted: set[tuple[bytes, bytes]] = set()
        for kind, parse in ((b"m", metadata_from), (b"x", xattrs_from)):
            for node, fields in self._ask_each(kind, self._of(kind), "HGETALL"):
                try:
                    parse(fields)
                except CorruptStore as error:
                    yield f"node {node.decode()}: {error}"
                if kind == b"m":
                    wanted |= {(text[:DIGEST], node) for text in fields[1::2] if text[:DIGEST] != NO_DIGEST.encode()}
        have = {(digest, node) for digest, nodes in self._ask_each(b"f", self._of(b"f"), "ZRANGE", 0, -1) for node in nodes}
        for _, node in sorted(wanted - have):
            yield f"node {node.decode()} has metadata that is not indexed"
        for _, node in sorted(have - wanted):
            yield f"node {node.decode()} is indexed under metadata that it has not"

    def _check_left_over(self) -> Iterator[str]:
        for kind, what in ((b"v", "data"), (b"m", "metadata"), (b"x", "extended attributes"), (b"l", "names")):
            for node in self._of(kind):
                if node not in self._nodes:
                    yield f"there is {what} of node {node.decode(errors='replace')}, which is not there"

