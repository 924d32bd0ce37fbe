"""Times what is asked of a store: each of ours beside encore's same store and, for SQLite, beside sqlite3 itself.

    make bench-stores
    .venv/bin/python tests/bench/stores.py --keys 100000 --only sqlite

Figures are microseconds an operation, the best of several rounds in which the subjects take turns; large reads are
MB/s. Behind a figure of ours is how many times as long it takes as the one beside it takes: below 1, ours is quicker.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import joinfs

warnings.filterwarnings("ignore")
SMALL = os.urandom(1000)
LARGE = 64 << 20
PIECE = 64 << 10
BLOCK = 1 << 20
CHUNK = 256 << 10
IN_DIRECTORY = 100
ROUNDS = 5
COLOURS = 1000  # so that a query finds a thousandth of the keys


def key_of(number: int) -> str:
    return f"d{number // IN_DIRECTORY:05}/k{number:07}"


def metadata_of(number: int) -> dict[str, Any]:
    return {"colour": f"c{number % COLOURS}", "number": number}


# -------------------------------------------------------------------- the subjects


class Ours:
    """One of our stores, through its public methods."""

    def __init__(self, store: joinfs.Store) -> None:
        self.store = store
        store.connect()

    def fill(self, keys: int) -> None:
        with self.store.transaction("filling"):
            for number in range(keys):
                self.put(number)
            self.store.set("large", (io.BytesIO(LARGE_DATA), {}))

    def put(self, number: int) -> None:
        self.store.set(key_of(number), (io.BytesIO(SMALL), metadata_of(number)))

    def get(self, number: int) -> bytes:
        data, _ = self.store.get(key_of(number))
        with data:
            content: bytes = data.read()
        return content

    def read_large(self) -> int:
        with self.store.get_data("large") as data:
            return sum(len(piece) for piece in iter(lambda: data.read(BLOCK), b""))

    def read_range(self, offset: int) -> bytes:
        with self.store.get_data_range("large", offset, offset + PIECE) as data:
            return data.read()

    def list(self, directory: int) -> int:
        return sum(1 for _ in self.store.list(f"d{directory:05}/"))

    def query(self, colour: int) -> int:
        return sum(1 for _ in self.store.query(colour=f"c{colour}"))

    def close(self) -> None:
        self.store.disconnect()


class OfOthers(Ours):
    """A store of encore's: it has no directories, so a listing is a glob. Its own names of the methods are the same."""

    def fill(self, keys: int) -> None:
        for number in range(keys):
            self.put(number)
        self.store.set("large", (io.BytesIO(LARGE_DATA), {}))

    def list(self, directory: int) -> int:
        return sum(1 for _ in self.store.glob(f"d{directory:05}/*"))


class Raw:
    """sqlite3 itself, as one would write it by hand for this: a row a key, large data in pieces, an indexed column."""

    def __init__(self, path: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA page_size = 8192;"
            "CREATE TABLE kv (key TEXT PRIMARY KEY, colour TEXT, metadata TEXT, data BLOB);"
            "CREATE INDEX kv_colour ON kv (colour);"
            "CREATE TABLE piece (id INTEGER PRIMARY KEY, key TEXT, n INTEGER, data BLOB, UNIQUE (key, n));"
        )

    def fill(self, keys: int) -> None:
        self.db.execute("BEGIN")
        for number in range(keys):
            self.put(number)
        for n in range(LARGE // CHUNK):
            self.db.execute("INSERT INTO piece (key, n, data) VALUES ('large', ?, ?)", (n, LARGE_DATA[n * CHUNK : (n + 1) * CHUNK]))
        self.db.execute("COMMIT")

    def put(self, number: int) -> None:
        row = (key_of(number), f"c{number % COLOURS}", json.dumps(metadata_of(number)), SMALL)
        self.db.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?, ?)", row)

    def get(self, number: int) -> bytes:
        data: bytes
        data, metadata = self.db.execute("SELECT data, metadata FROM kv WHERE key = ?", (key_of(number),)).fetchone()
        json.loads(metadata)
        return data

    def read_large(self) -> int:
        return sum(len(data) for (data,) in self.db.execute("SELECT data FROM piece WHERE key = 'large' ORDER BY n"))

    def read_range(self, offset: int) -> bytes:
        parts = []
        for n in range(offset // CHUNK, (offset + PIECE - 1) // CHUNK + 1):
            (row,) = self.db.execute("SELECT id FROM piece WHERE key = 'large' AND n = ?", (n,)).fetchone()
            with self.db.blobopen("piece", "data", row, readonly=True) as blob:
                start, stop = max(offset - n * CHUNK, 0), min(offset + PIECE - n * CHUNK, CHUNK)
                blob.seek(start)
                parts.append(blob.read(stop - start))
        return b"".join(parts)

    def list(self, directory: int) -> int:
        prefix = f"d{directory:05}/"
        return sum(1 for _ in self.db.execute("SELECT key, length(data) FROM kv WHERE key >= ? AND key < ?", (prefix, prefix[:-1] + "0")))

    def query(self, colour: int) -> int:
        found = self.db.execute("SELECT key, metadata FROM kv WHERE colour = ?", (f"c{colour}",))
        return sum(1 for _, metadata in found if json.loads(metadata))

    def close(self) -> None:
        self.db.close()


@dataclass
class Pair:
    """One of ours, and what it is compared with."""

    name: str
    ours: Callable[[str], Any]
    others: dict[str, Callable[[str], Any]]
    writes: bool = True


def in_directory(place: str) -> joinfs.Store:
    os.mkdir(place)
    return joinfs.DirectoryStore(place)


def encore_files(place: str) -> Any:
    from encore.storage.filesystem_store import FileSystemStore, init_shared_store

    os.mkdir(place)
    init_shared_store(place)
    return _Quoted(FileSystemStore(place))


class _Quoted(OfOthers):
    """Its keys are names of files: a ``/`` is not one of theirs."""

    def put(self, number: int) -> None:
        self.store.set(key_of(number).replace("/", "-"), (io.BytesIO(SMALL), metadata_of(number)))

    def get(self, number: int) -> bytes:
        with self.store.get(key_of(number).replace("/", "-")) as data:
            content: bytes = data.read()
        return content

    def list(self, directory: int) -> int:
        return sum(1 for _ in self.store.glob(f"d{directory:05}-*"))


def encore_joined(_: str) -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore
    from encore.storage.joined_store import JoinedStore

    return OfOthers(JoinedStore([DictMemoryStore(), DictMemoryStore()]))


def encore_memory(_: str) -> Any:
    from encore.storage.dict_memory_store import DictMemoryStore

    return OfOthers(DictMemoryStore())


def encore_sqlite(place: str) -> Any:
    from encore.storage.sqlite_store import SqliteStore

    return OfOthers(SqliteStore(place, index="dynamic"))


def zipped(place: str) -> Any:
    with zipfile.ZipFile(place, "w") as archive:
        for number in range(KEYS):
            archive.writestr(key_of(number), SMALL)
        archive.writestr("large", LARGE_DATA)
    return Ours(joinfs.ZipStore(place))


PAIRS = [
    Pair("memory", lambda _: Ours(joinfs.MemoryStore()), {"encore dict": encore_memory}),
    Pair("dir", lambda place: Ours(in_directory(place)), {"encore files": encore_files}),
    Pair("sqlite", lambda place: Ours(joinfs.SQLiteStore(place)), {"sqlite3": Raw, "encore sqlite": encore_sqlite}),
    Pair("mapping", lambda _: Ours(joinfs.MappingStore({})), {}),  # encore has none
    Pair("joined", lambda _: Ours(joinfs.JoinedStore([joinfs.MemoryStore(), joinfs.MemoryStore()])), {"encore joined": encore_joined}),
    Pair("zip", zipped, {}, writes=False),
]


# -------------------------------------------------------------------- timing


def timed(action: Callable[[Any], object], arguments: list[Any]) -> float:
    began = time.perf_counter()
    for argument in arguments:
        action(argument)
    return (time.perf_counter() - began) / len(arguments) * 1e6


def operations(subject: Any, keys: int, turn: int, writes: bool) -> dict[str, float]:
    """Microseconds of each operation, once."""
    chance = random.Random(turn)
    some = [chance.randrange(keys) for _ in range(300)]
    found: dict[str, float] = {}
    if writes:
        found["put new"] = timed(subject.put, list(range(keys + turn * 300, keys + turn * 300 + 300)))
        found["put over"] = timed(subject.put, some)
    found["get"] = timed(subject.get, some)
    found["ranged read"] = timed(subject.read_range, [chance.randrange(LARGE - PIECE) for _ in range(30)])
    found["large read"] = timed(lambda _: subject.read_large(), [0])
    found[f"list {IN_DIRECTORY}"] = timed(subject.list, [chance.randrange(keys // IN_DIRECTORY) for _ in range(3)])
    if writes:
        found["query"] = timed(subject.query, [chance.randrange(COLOURS) for _ in range(2)])
    return found


def compare(pair: Pair, keys: int, place: str) -> dict[str, dict[str, float]]:
    subjects = {}
    for number, (name, make) in enumerate({"joinfs": pair.ours, **pair.others}.items()):
        subjects[name] = make(os.path.join(place, f"{pair.name}{number}"))
        if pair.writes:
            subjects[name].fill(keys)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for turn in range(ROUNDS):
        for name, subject in subjects.items():
            rounds[name].append(operations(subject, keys, turn, pair.writes))
    for subject in subjects.values():
        with contextlib.suppress(AttributeError):
            subject.close()
    return {name: {op: min(r[op] for r in found) for op in found[0]} for name, found in rounds.items()}


def shown(operation: str, microseconds: float) -> str:
    return f"{LARGE / microseconds:.0f} MB/s" if operation == "large read" else f"{microseconds:.0f} us"


def main() -> None:
    global KEYS, LARGE_DATA
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--only", choices=[pair.name for pair in PAIRS])
    arguments = parser.parse_args()
    KEYS, LARGE_DATA = arguments.keys, os.urandom(1 << 20) * (LARGE >> 20)
    place = tempfile.mkdtemp(prefix="joinfs-bench-")
    os.environ["XDG_CACHE_HOME"] = os.path.join(place, "cache")
    try:
        for pair in PAIRS:
            if arguments.only in {None, pair.name}:
                report(pair, compare(pair, KEYS, place))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def report(pair: Pair, found: dict[str, dict[str, float]]) -> None:
    others = list(pair.others)
    print(f"\n{pair.name:<12} {'joinfs':>12}" + "".join(f"{other:>16} {'ratio':>6}" for other in others))
    for operation, ours in found["joinfs"].items():
        line = f"{operation:<12} {shown(operation, ours):>12}"
        for other in others:
            theirs = found[other][operation]
            line += f"{shown(operation, theirs):>16} {ours / theirs:>6.2f}"
        print(line)
    sys.stdout.flush()


KEYS = 0
LARGE_DATA = b""

if __name__ == "__main__":
    main()
