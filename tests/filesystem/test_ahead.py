"""Which files are read ahead, and that they are. SEMANTICS.md, Reading ahead."""

import io
import os
import queue
import threading
import time

import pytest

from joinfs.filesystem.ahead import BATCH, LITTLE_DATA, NEAR
from joinfs.filesystem.content_placed import WAITED
from joinfs.filesystem.operations import ROOT, Operations
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore

PATIENCE = 20
SIZE = 8192


class Recording(DirectoryStore):
    """Remembers what was prefetched, and prefetches it."""

    def __init__(self, path):
        super().__init__(path)
        self.prefetched = queue.SimpleQueue()

    def prefetch(self, directory, names):
        super().prefetch(directory, names)
        self.prefetched.put((directory, list(names)))


@pytest.fixture
def lower(tmp_path):
    (tmp_path / "lower" / "few").mkdir(parents=True)
    (tmp_path / "lower" / "other").mkdir()
    (tmp_path / "lower" / "many").mkdir()
    for place, count in (("few", 20), ("other", 20), ("many", 5 * BATCH)):
        for number in range(count):
            (tmp_path / "lower" / place / f"f{number:03}").write_bytes(os.urandom(SIZE))
    (tmp_path / "lower" / "few" / "empty").touch()
    (tmp_path / "lower" / "few" / "below").mkdir()
    return tmp_path / "lower"


@pytest.fixture
def store(lower, tmp_path):
    (tmp_path / "upper").mkdir()
    recording = Recording(lower)
    with JoinedStore([DirectoryStore(tmp_path / "upper"), recording]) as join:
        join.recording = recording
        yield join


@pytest.fixture
def fs(store):
    operations = Operations(store)
    yield operations
    operations.close()


def listed(fs, name):
    """The files of a directory as it is listed, by name, and the kernel knows them."""
    directory = fs.lookup(ROOT, name).node
    found, offset = {}, 0
    while page := fs.readdirplus(directory, offset, lambda name: 1, 100):
        found.update({entry.name: entry.node for entry in page if entry.node and entry.stat.is_file})
        offset = page[-1].offset
    return found


def missed(fs, node):
    fs._ahead.missed(fs._nodes[node])


def asked_for(store):
    return store.recording.prefetched.get(timeout=PATIENCE)


def test_the_second_wait_in_a_directory_has_all_its_files_prefetched(fs, store):
    files = listed(fs, "few")
    first, second = list(files)[:2]
    missed(fs, files[first])
    assert store.recording.prefetched.empty()
    missed(fs, files[second])
    assert asked_for(store) == ("few/", [name for name in files if name != "empty"])
    missed(fs, files[list(files)[4]])
    assert store.recording.prefetched.empty()


def test_in_the_next_directory_of_a_walk_the_first_wait_does(fs, store):
    few, other = listed(fs, "few"), listed(fs, "other")
    for name in list(few)[:2]:
        missed(fs, few[name])
    asked_for(store)
    missed(fs, next(iter(other.values())))
    assert asked_for(store) == ("other/", list(other))


def test_of_many_files_the_next_are_prefetched_for_who_reads_them_in_order(fs, store):
    files = listed(fs, "many")
    order = list(files)
    for name in order[:2]:
        missed(fs, files[name])
    assert asked_for(store) == ("many/", order[2 : 2 + BATCH])
    missed(fs, files[order[4]])  # those that follow are on their way
    missed(fs, files[order[BATCH]])  # too far on to be the same walk
    missed(fs, files[order[BATCH + 1]])
    assert asked_for(store) == ("many/", order[BATCH + 2 : 2 * BATCH + 2])


def test_who_reads_in_no_order_causes_nothing(fs, store):
    files = listed(fs, "many")
    order = list(files)
    for place in (7, 3, 7 + NEAR + 1, 200, 100, 50):
        missed(fs, files[order[place]])
    assert fs._ahead._wanted is None
    assert store.recording.prefetched.empty()


class Slow(MemoryStore):
    """One that is waited for, and remembers what was prefetched."""

    capabilities = MemoryStore.capabilities._replace(slow=True)

    def __init__(self, size):
        super().__init__()
        self.connect()
        for number in range(3 * BATCH):
            self.set(f"many/f{number:03}", (io.BytesIO(bytes(size)), {}))
        self.prefetched = queue.SimpleQueue()

    def read(self, key, offset, size):
        time.sleep(2 * WAITED)
        return super().read(key, offset, size)

    def prefetch(self, directory, names):
        self.prefetched.put((directory, list(names)))


@pytest.mark.parametrize("size", [1000, LITTLE_DATA // (3 * BATCH) + 1])
def test_of_a_slow_store_a_directory_with_little_data_is_fetched_whole_for_who_reads_in_any_order(size):
    slow = Slow(size)
    with JoinedStore([MemoryStore(), slow]) as join:
        fs = Operations(join)
        files = listed(fs, "many")
        for place in (150, 20):
            handle = fs.open(files[f"f{place:03}"], os.O_RDONLY)
            assert fs.read(handle, 0, 4096) == bytes(min(size, 4096))
            fs.release(handle)
        if size == 1000:
            assert slow.prefetched.get(timeout=PATIENCE) == ("many/", list(files))
        fs.close()
        assert slow.prefetched.empty()


def test_what_has_gone_meanwhile_is_left_out(fs, store, lower):
    files = listed(fs, "few")
    (lower / "few" / next(iter(files))).unlink()
    for name in list(files)[2:4]:
        missed(fs, files[name])
    assert asked_for(store)[0] == "few/"
    with pytest.raises(KeyError):
        store.recording.prefetch("nowhere/", ["f"])


def test_after_closing_nobody_is_left_who_reads_ahead(fs, store):
    files = listed(fs, "few")
    for name in list(files)[:2]:
        missed(fs, files[name])
    asked_for(store)
    readers = [thread for thread in threading.enumerate() if thread.name == "joinfs reads ahead"]
    fs.close()
    for thread in readers:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def in_memory(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(descriptor, [bytearray(SIZE)], 0, os.RWF_NOWAIT) == SIZE
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def dropped(path):
    """Have a file on its disk only; whether that could be done."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return not in_memory(path)


def test_who_waits_for_files_waits_for_the_first_ones_only(fs, lower):
    files = listed(fs, "few")
    kept = [name for name in files if name != "empty" and not dropped(lower / "few" / name)]
    if kept:
        pytest.skip("this file system keeps files in memory whatever it is asked")
    *read, last = [name for name in files if name != "empty"]
    for name in read[:2]:
        handle = fs.open(files[name], os.O_RDONLY, lazily=True)
        assert fs.read(handle, 0, 2 * SIZE) == (lower / "few" / name).read_bytes()
        fs.release(handle)
    end = time.monotonic() + PATIENCE
    while not in_memory(lower / "few" / last):
        assert time.monotonic() < end
        time.sleep(0.005)
