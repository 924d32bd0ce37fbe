"""The data of values, in blocks that are kept under what names their content."""

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from typing import NamedTuple

from joinfs.errors import NotConnected, StoreUnavailable
from joinfs.stores.base import Store
from joinfs.stores.caching_disk import CacheDirectory
from joinfs.stores.caching_facts import Fact, Facts, File, is_believable, name_of
from joinfs.stores.caching_origin import Origin
from joinfs.stores.value import MEBIBYTE, Value, Versioned

BLOCK = MEBIBYTE // 4
# Blocks that are asked for at once, of who reads on; and of a value of which it is not known how long it is, so that a small one is whole.
MOST_RUN = 8
FIRST_RUN = 4
# Bytes of blocks in memory, those that were used last.
MOST_MEMORY = 32 * MEBIBYTE
# How often a value that is another version than it was is read anew.
RETRIES = 8
THREADS = 32


class _Run(NamedTuple):
    """Blocks that follow each other."""

    first: int
    blocks: int

    @property
    def numbers(self) -> range:
        """The numbers of the blocks."""
        return range(self.first, self.first + self.blocks)


class _Coming(NamedTuple):
    """Blocks that somebody is fetching, and what will be told with them."""

    run: _Run
    told: "Future[Versioned]"


class Blocks:
    """The data of the values of one store.

    Args:
        store, origin: The store, and how it is asked.
        facts: What it said.
        disk: Where blocks are kept.
        identity: What tells the store from others in the same directory.

    Attributes:
        hits, misses: Blocks that were here when somebody wanted them, and that were not.
    """

    def __init__(self, store: Store, origin: Origin, facts: Facts, disk: CacheDirectory, identity: str) -> None:
        self._store, self._origin, self._facts, self._disk = store, origin, facts, disk
        self._identity = identity
        self._lock = threading.Lock()
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0
        self._coming: dict[tuple[str, int], _Coming] = {}
        self._pool = ThreadPoolExecutor(THREADS, "joinfs-cache")
        self.hits = self.misses = 0

    def close(self) -> None:
        """Ask for nothing more; what is being asked for is waited for."""
        self._pool.shutdown(cancel_futures=True)
        for coming in tuple(self._coming.values()):
            if not coming.told.done():
                coming.told.set_exception(NotConnected(f"{self._store.name} was disconnected"))

    # ---------------------------------------------------------------- versions

    def file(self, key: str) -> File:
        """Answer what is believed of a value, or was asked for now; KeyError if there is none."""
        fact = self._facts.get("file", key)
        if fact is not None and self._is_believed(key, fact):
            return fact.what  # type: ignore[no-any-return]
        return self._origin.renewed(fact, lambda: self._learn(key, 0, 0)[0])  # type: ignore[no-any-return]

    def is_believed(self, key: str) -> bool:
        """Whether a version is known, and believed."""
        fact = self._facts.get("file", key)
        return fact is not None and self._is_believed(key, fact)

    def _is_believed(self, key: str, fact: Fact) -> bool:
        return self._facts.is_fresh(fact) and not self._facts.is_superseded(key, fact)

    def _file_as_listed(self, key: str) -> File | None:
        """A version of a value that is believed because a listing tells that it is there still."""
        fact, child = self._facts.get("file", key), self._facts.child(key)
        if fact is None or child is None or child.what is None or fact.what.version is None or not self._facts.is_fresh(child):
            return None
        return fact.what if child.what.version == fact.what.version else None

    def _learn(self, key: str, offset: int, size: int) -> tuple[File, Versioned]:
        """Ask the store for data, or none, and remember of which version it is."""
        asked, forgotten = time.time(), self._facts.forgotten
        told = self._origin.ask(self._store.read_version, key, offset, size)
        if self._store.capabilities.hard_links and not is_believable(self._origin.ask(self._store.stat, key)):
            told = told._replace(version=None)
        file = File(told.version, *told[2:])
        self._facts.put("file", key, Fact(file, asked), forgotten)
        return file, told

    # ---------------------------------------------------------------- reading

    def read(self, key: str, offset: int, size: int) -> bytes:
        """Answer what ``Store.read`` does."""
        for _ in range(RETRIES):
            file = self._file_to_read(key, offset, size)
            if isinstance(file, bytes):
                return file
            if file.version is None:
                return self._origin.ask(self._store.read, key, offset, size)
            data = self.read_version(key, file, offset, size)
            if data is not None:
                return data
        raise StoreUnavailable(f"{key!r} in {self._store.name} is changed by others all the time")

    def _file_to_read(self, key: str, offset: int, size: int) -> File | bytes:
        """The version to read; where none is known, it comes with the data, which is the answer then."""
        fact = self._facts.get("file", key)
        if fact is not None:
            return self._file_as_listed(key) or self.file(key) if not self._is_believed(key, fact) else fact.what
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        count = max(last + 1 - first, FIRST_RUN if offset == 0 else 1)
        coming, ours = self._claim(key, [*range(first, first + min(count, MOST_RUN))])
        for one in ours:
            self._complete(key, one)
        for one in coming:
            one.told.result()
        told = ours[0].told.result() if ours and not coming else None
        if told is None:  # others have asked for it, and know the version
            return self.file(key)
        self.misses += 1
        begin, end = offset - first * BLOCK, first * BLOCK + len(told.data)
        if offset + size <= end or end >= told.size:
            return told.data[begin : begin + size]
        return File(told.version, *told[2:])

    def value_of_the_store(self, key: str) -> Value:
        """Answer the store's own value."""
        return self._origin.ask(self._store.get, key)

    def read_version(self, key: str, file: File, offset: int, size: int) -> bytes | None:
        """Answer up to ``size`` bytes of one version, short only at the end; None if the store has another by now."""
        end = min(offset + size, file.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        if first == last and (block := self._kept(key, file, first)) is not None:
            self.hits += 1
            return block[offset - first * BLOCK : end - first * BLOCK]
        blocks = self._blocks(key, file, range(first, last + 1))
        if blocks is None:
            return None
        whole = b"".join(blocks)
        return whole[offset - first * BLOCK : end - first * BLOCK]

    def _blocks(self, key: str, file: File, numbers: range) -> list[bytes] | None:
        """Blocks that follow each other; fewer if the store's data ends too early."""
        found = {number: block for number in numbers if (block := self._kept(key, file, number)) is not None}
        missing = [number for number in numbers if number not in found]
        self.hits += len(found)
        self.misses += len(missing)
        for coming in self._fetched(key, missing):
            told = coming.told.result()
            if told.version != file.version:
                return None
            found.update(_cut(told, coming.run.first))
        return _without_gaps(found, numbers)

    # ---------------------------------------------------------------- fetching

    def fetch_ahead(self, key: str, file: File, numbers: Iterable[int]) -> None:
        """Have blocks of a version fetched by other threads, unless they are here."""
        for coming in self._claim(key, [number for number in numbers if not self._has(key, file, number)])[1]:
            self.submit(self._complete, key, coming)

    def fetch(self, key: str, size: int) -> None:
        """Have the beginning of a value here: all of it, if ``size``, which it is said to have, is not much. It waits for nobody else.

        Errors as for ``file``.
        """
        count = -(-size // BLOCK) if size <= FIRST_RUN * BLOCK else 1
        fact = self._facts.get("file", key)
        file = None if fact is None else self._file_as_listed(key) or self.file(key)
        missing = [number for number in range(count) if file is None or not self._has(key, file, number)]
        if file is None or file.version is not None:
            for coming in self._claim(key, missing)[1]:
                self._complete(key, coming)

    def submit(self, function: Callable[..., object], *arguments: object) -> None:
        """Have a function called by another thread, in which it must not wait for others; unless we are being closed."""
        with contextlib.suppress(RuntimeError):
            self._pool.submit(function, *arguments)

    def _fetched(self, key: str, numbers: list[int]) -> list[_Coming]:
        """Fetch blocks, with several requests at once if they are many; what others fetch already is waited for by who takes it."""
        coming, ours = self._claim(key, numbers)
        others = ours[:-1] if self._store.capabilities.thread_safe else []
        for one in others:
            self.submit(self._complete, key, one)
        for one in ours[len(others) :]:
            self._complete(key, one)
        return [*coming, *ours]

    def _claim(self, key: str, numbers: list[int]) -> tuple[list[_Coming], list[_Coming]]:
        """Answer what is coming of these blocks, and what is for the caller to complete."""
        with self._lock:
            coming = {id(one): one for number in numbers if (one := self._coming.get((key, number))) is not None}
            ours = [_Coming(run, Future()) for run in _runs([number for number in numbers if (key, number) not in self._coming])]
            for one in ours:
                self._coming.update({(key, number): one for number in one.run.numbers})
        return [*coming.values()], ours

    def _complete(self, key: str, coming: _Coming) -> None:
        try:
            told = self._fetch(key, coming.run)
        except BaseException as error:
            self._uncome(key, coming.run)
            with contextlib.suppress(InvalidStateError):  # we are being closed
                coming.told.set_exception(error)
        else:
            self._uncome(key, coming.run)
            with contextlib.suppress(InvalidStateError):
                coming.told.set_result(told)

    def _uncome(self, key: str, run: _Run) -> None:
        with self._lock:
            for number in run.numbers:
                self._coming.pop((key, number), None)

    def _fetch(self, key: str, run: _Run) -> Versioned:
        """Ask for blocks, and keep those that are whole."""
        file, told = self._learn(key, run.first * BLOCK, run.blocks * BLOCK)
        if file.version is not None:
            for number, block in _cut(told, run.first).items():
                if len(block) == min(BLOCK, file.size - number * BLOCK):
                    name = self._name(key, file, number)
                    self._hold(name, block)
                    self._disk.put(name, block)
        return told

    # ---------------------------------------------------------------- keeping

    def _name(self, key: str, file: File, number: int) -> bytes:
        return name_of(self._identity, "block", key, str(file.version), str(number))

    def _kept(self, key: str, file: File, number: int) -> bytes | None:
        name = self._name(key, file, number)
        with contextlib.suppress(KeyError):
            held = self._memory[name]
            self._memory.move_to_end(name)
            return held
        block = self._disk.get(name)
        if block is None or len(block) != min(BLOCK, file.size - number * BLOCK):
            return None
        self._hold(name, block)
        return block

    def _has(self, key: str, file: File, number: int) -> bool:
        name = self._name(key, file, number)
        return name in self._memory or self._disk.has(name)

    def _hold(self, name: bytes, block: bytes) -> None:
        with self._lock:
            old = self._memory.pop(name, b"")
            self._memory[name] = block
            self._held += len(block) - len(old)
            while self._held > MOST_MEMORY:
                self._held -= len(self._memory.popitem(last=False)[1])


def _cut(told: Versioned, first: int) -> dict[int, bytes]:
    """What was told, in blocks."""
    return {first + number: told.data[number * BLOCK : (number + 1) * BLOCK] for number in range(-(-len(told.data) // BLOCK))}


def _without_gaps(found: dict[int, bytes], numbers: range) -> list[bytes]:
    blocks: list[bytes] = []
    for number in numbers:
        blocks.append(found.get(number, b""))
        if len(blocks[-1]) < BLOCK:
            break
    return blocks


def _runs(numbers: list[int]) -> list[_Run]:
    """Numbers in order, as runs that are not too long."""
    runs: list[_Run] = []
    for number in numbers:
        if runs and number == runs[-1].first + runs[-1].blocks and runs[-1].blocks < MOST_RUN:
            runs[-1] = _Run(runs[-1].first, runs[-1].blocks + 1)
        else:
            runs.append(_Run(number, 1))
    return runs
