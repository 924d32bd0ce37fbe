"""How a file that is in no local file is read. SEMANTICS.md, Reading ahead."""

import gc
import io
import os
import threading

import pytest

from joinfs.errors import StoreUnavailable
from joinfs.filesystem import window as window_module
from joinfs.filesystem.operations import Operations
from joinfs.filesystem.window import FIRST, MOST, MOST_AHEAD, Window
from joinfs.stores import Stat
from joinfs.stores.memory import MemoryStore

PATIENCE = 20
SIZE = 12 * MOST
STEP = 128 << 10
FILE = Stat(0o100644, SIZE, mtime=1, file_id=1)
DATA = os.urandom(STEP)


class Source:
    """Has data of which each byte tells the version, and remembers what was fetched, and from where."""

    def __init__(self):
        self.version, self.fetched = b"a", []
        self.changed = threading.Condition()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.fails_from = SIZE

    def fetch(self, offset, size):
        with self.changed:
            self.fetched.append((offset, size))
            self.changed.notify_all()
        assert self.may_answer.wait(PATIENCE)
        if offset >= self.fails_from:
            raise StoreUnavailable("gone")
        return self.version * min(size, SIZE - offset)

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.fetched) >= count, PATIENCE)


@pytest.fixture
def source():
    source = Source()
    yield source
    source.may_answer.set()


@pytest.mark.parametrize("begin", [0, 4096, 16 << 10, STEP - 1])
def test_who_reads_on_gets_larger_windows_and_each_is_fetched_once(source, begin):
    window = Window(source.fetch, is_slow=True)
    assert window.read(0, begin, FILE) == b"a" * begin
    for offset in range(begin, SIZE, STEP):
        assert window.read(offset, STEP, FILE) == b"a" * min(STEP, SIZE - offset)
    fetched = sorted(source.fetched)
    assert fetched[0] == (0, FIRST)
    assert [start + size for start, size in fetched] == [*(start for start, _ in fetched[1:]), SIZE]
    assert max(size for _, size in fetched) == MOST
    assert window.read(SIZE, STEP, FILE) == b""


def test_what_comes_next_is_fetched_meanwhile(source):
    window = Window(source.fetch, is_slow=True)
    window.read(0, STEP, FILE)
    assert source.fetched == [(0, FIRST)], "the beginning alone says nothing"
    source.may_answer.clear()
    reading = threading.Thread(target=window.read, args=(FIRST, STEP, FILE))
    reading.start()
    source.wait_for(2)
    source.may_answer.set()
    reading.join(PATIENCE)
    source.wait_for(4)
    assert (source.fetched[1], sorted(source.fetched[2:])) == ((FIRST, 2 * FIRST), [(3 * FIRST, 4 * FIRST), (7 * FIRST, 4 * FIRST)])


def test_many_are_fetched_at_a_time_and_no_more(source):
    window = Window(source.fetch, is_slow=True)
    for offset in range(0, 7 * FIRST, STEP):
        window.read(offset, STEP, FILE)
    source.wait_for(3 + 4)
    source.may_answer.clear()
    window.read(7 * FIRST, STEP, FILE)
    source.wait_for(3 + MOST_AHEAD + 1)
    assert len(source.fetched) == 3 + MOST_AHEAD + 1


def test_what_is_read_out_of_order_is_not_fetched_again(source):
    window = Window(source.fetch, is_slow=True)
    for offset in range(0, 9 * FIRST, 2 * STEP):
        for at in (offset + STEP, offset):
            assert window.read(at, STEP, FILE) == b"a" * STEP
    assert source.fetched.count((STEP, STEP)) == 1
    source.fetched.remove((STEP, STEP))
    assert len({start for start, _ in source.fetched}) == len(source.fetched)


def test_of_a_quick_store_nothing_is_fetched_that_nobody_has_asked_for(source):
    window = Window(source.fetch, is_slow=False)
    for offset in range(0, 4 * FIRST, STEP):
        window.read(offset, STEP, FILE)
    assert source.fetched == [(start, FIRST) for start in range(0, 4 * FIRST, FIRST)]


def test_who_reads_here_and_there_gets_what_was_asked_for(source):
    window = Window(source.fetch, is_slow=True)
    for offset in (5 * FIRST, 3 * FIRST, 40 * FIRST, SIZE - 10):
        assert window.read(offset, STEP, FILE) == b"a" * min(STEP, SIZE - offset)
    assert source.fetched == [(offset, STEP) for offset in (5 * FIRST, 3 * FIRST, 40 * FIRST, SIZE - 10)]


@pytest.mark.parametrize("other", [FILE._replace(mtime=2), FILE._replace(size=SIZE - 1), FILE._replace(file_id=2)])
def test_what_was_fetched_of_another_version_is_not_read(source, other):
    window = Window(source.fetch, is_slow=True)
    window.read(0, STEP, FILE)
    window.read(FIRST, STEP, FILE)
    source.wait_for(4)
    source.version = b"b"
    for offset in (FIRST, 3 * FIRST):
        assert window.read(offset, STEP, other) == b"b" * STEP


def test_an_error_of_what_was_fetched_ahead_is_told_to_who_reads_it(source):
    window = Window(source.fetch, is_slow=True)
    source.fails_from = 3 * FIRST
    for offset in range(0, 3 * FIRST, STEP):
        assert window.read(offset, STEP, FILE) == b"a" * STEP
    with pytest.raises(StoreUnavailable):
        window.read(3 * FIRST, STEP, FILE)
    source.fails_from = SIZE
    assert window.read(3 * FIRST, STEP, FILE) == b"a" * STEP
    source.fails_from = 0
    with pytest.raises(StoreUnavailable):
        window.read(40 * FIRST, STEP, FILE)


def test_what_failed_ahead_is_fetched_again_by_who_reads_it(source):
    window = Window(source.fetch, is_slow=True)
    source.fails_from = 3 * FIRST
    for offset in range(0, 3 * FIRST, STEP):
        window.read(offset, STEP, FILE)
    source.wait_for(4)
    source.fails_from = SIZE
    for offset in range(3 * FIRST, SIZE, STEP):
        assert window.read(offset, STEP, FILE) == b"a" * STEP


def test_who_read_a_file_leaves_nothing_in_memory():
    gc.collect()  # other tests' windows
    before = window_module._COUNT.pieces
    with SlowStore() as store:
        store.set("f", (io.BytesIO(bytes(SIZE)), {}))
        fs = Operations(store)
        handle = fs.open(fs.lookup(1, "f").node, os.O_RDONLY)
        for offset in range(0, 8 * FIRST, STEP):
            fs.read(handle, offset, STEP)
        assert window_module._COUNT.pieces > before
        fs.release(handle)
        assert window_module._COUNT.pieces == before
        fs.close()


def test_many_files_have_no_more_in_memory_together(source, monkeypatch):
    monkeypatch.setattr(window_module, "MOST_IN_ALL", window_module._COUNT.pieces + 2 * MOST_AHEAD)
    windows = [Window(source.fetch, is_slow=True) for _ in range(10)]
    for offset in range(0, SIZE // 2, STEP):
        for window in windows:
            window.read(offset, STEP, FILE)
    assert sum(len(window._pieces) for window in windows) <= 3 * MOST_AHEAD + 2 * len(windows)
    for window in windows:
        window.clear()


def test_an_error_here_and_there(source):
    window = Window(source.fetch, is_slow=True)
    source.fails_from = 0
    with pytest.raises(StoreUnavailable):
        window.read(40 * FIRST, STEP, FILE)


class SlowStore(MemoryStore):
    capabilities = MemoryStore.capabilities._replace(slow=True)


def test_a_file_that_is_renamed_or_replaced_while_it_is_read_ahead_is_read_right():
    with SlowStore() as store:
        store.from_bytes("a", b"a" * SIZE)
        fs = Operations(store)
        handle = fs.open(fs.walk(["a"]), os.O_RDONLY, lazily=True)
        for offset in (0, FIRST, FIRST + STEP):
            assert fs.read(handle, offset, STEP) == b"a" * STEP
        fs.rename(fs.walk([]), "a", fs.walk([]), "b")
        store.from_bytes("a", b"x" * SIZE)
        for offset in range(2 * FIRST, SIZE, STEP):
            assert fs.read(handle, offset, STEP) == b"a" * STEP
        fs.release(handle)
        fs.close()
