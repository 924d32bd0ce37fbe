"""Writes that are sent later. SEMANTICS.md, Writing back."""

import contextlib
import io
import os
import random
import shutil
import stat as stat_module
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import joinfs
from joinfs.errors import (
    DirectoryNotEmpty,
    InvalidKey,
    IsADirectory,
    KeyExists,
    NotADirectory,
    NotConnected,
    OutOfSpace,
    ReadOnly,
    StoreError,
    StoreLocked,
    StoreUnavailable,
    Unsupported,
    UsageError,
)
from joinfs.stores import writeback_pending
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.object import ObjectStore
from joinfs.stores.value import new_stat
from joinfs.stores.writeback import WriteBackStore
from joinfs.testing import Fault, FaultyStore, StoreContract
from joinfs.testing.faulty import never
from tests.stores.test_object import asked

PATIENCE = 20
DIRECTORY = stat_module.S_IFDIR


class TestWriteBack(StoreContract):
    """Over a store in memory: what waits, and what has arrived."""

    def make_store(self, place):
        return WriteBackStore(joinfs.MemoryStore(), place / "waiting")


class TestWriteBackToBucket(StoreContract):
    @pytest.fixture(autouse=True)
    def served(self, moto):
        self.server = moto

    def make_store(self, place):
        bucket = self.server.new_bucket()
        return WriteBackStore(ObjectStore(f"//{bucket}", endpoint=self.server.endpoint), place / "waiting")


class TestWriteBackAtOnce(TestWriteBackToBucket):
    """What is written arrives while it is looked at; a bucket keeps all of its attributes."""

    @pytest.fixture(autouse=True)
    def not_calm(self, monkeypatch):
        monkeypatch.setattr(writeback_pending, "CALM", 0.0)


def data(content):
    return io.BytesIO(content)


def put(store, key, content=b"content", **metadata):
    store.set(key, (data(content), metadata))


def contents(store):
    """Everything in a store: directories by None."""
    return dict(_walk(store, ""))


def _walk(store, directory):
    for name, stat in store.list(directory):
        key = directory + name
        if stat.is_directory:
            yield key + "/", None
            yield from _walk(store, key + "/")
        else:
            yield key, store.to_bytes(key)


class Refusing:
    """A schedule by which nothing can be put there for as long as ``refuses``; and what it was asked for."""

    def __init__(self):
        self.refuses, self.asked = False, []

    def __call__(self, method):
        self.asked.append(method)
        refused = self.refuses and method in {"put", "put_sent"}
        return Fault(StoreUnavailable("the server is gone")) if refused else None


@pytest.fixture
def there(tmp_path):
    """Where it is sent, which outlives who sends."""
    (tmp_path / "there").mkdir()
    return tmp_path / "there"


@pytest.fixture
def schedule():
    return Refusing()


@pytest.fixture
def unhurried(monkeypatch):
    """Nothing is sent by itself."""
    monkeypatch.setattr(writeback_pending, "CALM", 1000.0)


@pytest.fixture
def hurried(monkeypatch):
    """All is sent at once."""
    monkeypatch.setattr(writeback_pending, "CALM", 0.0)


@pytest.fixture
def opened(there, tmp_path, schedule):
    @contextlib.contextmanager
    def opened():
        with WriteBackStore(FaultyStore(DirectoryStore(there), schedule), tmp_path / "waiting") as store:
            yield store

    return opened


@pytest.fixture
def store(opened):
    with opened() as store:
        yield store


# ---------------------------------------------------------------- sending


def test_what_waits_is_seen_and_arrives_as_it_was(unhurried, store, there):
    put(store, "d/a", b"first", k="v")
    store.set_stat("d/a", mode=0o600, mtime=1_500_000_000_000_000_005)
    assert store.info()["waiting"] == 2
    assert contents(store) == {"d/": None, "d/a": b"first"}
    assert not (there / "d").exists()
    before = store.stat("d/a")
    store.drain()
    assert store.info()["waiting"] == 0
    assert (there / "d" / "a").read_bytes() == b"first"
    after = store.stat("d/a")
    assert (after.mode, after.mtime, after.size) == (before.mode, before.mtime, before.size) == (0o100600, 1_500_000_000_000_000_005, 5)
    assert store.get_metadata("d/a") == {"k": "v"}


def test_a_bucket_has_the_times_at_which_it_was_written(unhurried, moto, tmp_path):
    place = f"//{moto.new_bucket()}"
    with WriteBackStore(ObjectStore(place, endpoint=moto.endpoint), tmp_path / "waiting") as store:
        put(store, "a")
        before = store.stat("a")
        time.sleep(0.01)  # the clock goes on
        store.drain()
        assert store.stat("a") == before
    with ObjectStore(place, endpoint=moto.endpoint) as bucket:
        assert bucket.stat("a") == before


def test_it_is_sent_when_nobody_has_changed_it_for_a_while(hurried, store, there):
    put(store, "a")
    until(lambda: (there / "a").exists() and store.info()["waiting"] == 0)
    assert (there / "a").read_bytes() == b"content"


def test_what_is_renamed_or_deleted_before_it_is_sent_never_arrives(unhurried, store, there, schedule):
    put(store, "a.tmp")
    store.rename("a.tmp", "a")
    put(store, "b")
    store.delete("b")
    assert contents(store) == {"a": b"content"}
    schedule.asked.clear()
    store.drain()
    assert schedule.asked.count("put") == 1
    assert "delete" not in schedule.asked
    assert os.listdir(there) == ["a"]


def test_what_replaces_and_renames_what_has_arrived(unhurried, store, there):
    for key in ("a", "b", "c"):
        put(store, key, b"old " + key.encode())
    store.drain()
    put(store, "a", b"new a")
    store.rename("a", "d")  # waits, and is there under its old key
    assert (there / "a").exists()
    put(store, "b", b"new b")
    store.rename("c", "b")  # what is there, over what waits
    put(store, "e", b"new e")
    store.rename("e", "b")  # what waits, over what is there
    assert contents(store) == {"b": b"new e", "d": b"new a"}
    assert (there / "b").read_bytes() == b"old c"
    store.drain()
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {"b": b"new e", "d": b"new a"}


def test_a_directory_is_renamed_with_what_waits_in_it(unhurried, store, there):
    put(store, "d/e/a")
    with pytest.raises(DirectoryNotEmpty):
        store.delete("d/e/")
    store.rename("d/", "f/")
    assert contents(store) == {"f/": None, "f/e/": None, "f/e/a": b"content"}
    assert (there / "f" / "e" / "a").read_bytes() == b"content"


def test_kinds_are_told_apart_whether_they_wait_or_not(unhurried, store):
    put(store, "a")
    store.put("d/", new_stat(0o040755))
    for write in (lambda: put(store, "a/b"), lambda: store.put("a/", new_stat(0o040755)), lambda: store.rename("d/", "a/")):
        with pytest.raises(NotADirectory):
            write()
    with pytest.raises(IsADirectory):
        put(store, "d")
    assert contents(store) == {"a": b"content", "d/": None}


def test_a_directory_has_the_time_that_it_was_given(unhurried, store):
    store.put("d/", new_stat(0o040755))
    before = store.stat("d/").mtime
    put(store, "d/a")
    assert store.stat("d/").mtime > before
    store.set_stat("d/", mtime=5_000_000_000)
    store.drain()
    assert (store.stat("d/").mtime, store.lookup("d").mtime, dict(store.list(""))["d"].kind) == (5_000_000_000, 5_000_000_000, 0o040000)


class Slow(joinfs.MemoryStore):
    """One that takes a value when it is let."""

    def __init__(self):
        super().__init__()
        self.begun, self.let = threading.Event(), threading.Event()

    def put_sent(self, *given):
        self.begun.set()
        assert self.let.wait(PATIENCE)
        return super().put_sent(*given)


@pytest.fixture
def slow(tmp_path, hurried):
    below = Slow()
    with WriteBackStore(below, tmp_path / "waiting") as store:
        try:
            yield store, below
        finally:
            below.let.set()


def test_what_is_written_while_it_is_sent_arrives_as_it_is_last(slow):
    store, below = slow
    put(store, "a", b"first", n="1")
    assert below.begun.wait(PATIENCE)
    put(store, "a", b"second", n="2")
    store.set_metadata("a", {"n": "3"})
    assert (store.to_bytes("a"), store.get_metadata("a")) == (b"second", {"n": "3"})
    below.let.set()
    store.drain()
    assert (below.to_bytes("a"), below.get_metadata("a"), store.to_bytes("a")) == (b"second", {"n": "3"}, b"second")


@pytest.mark.parametrize("change", [lambda store: store.delete("a"), lambda store: store.rename("a", "b"), lambda store: store.delete("d/")])
def test_what_is_just_being_sent_is_waited_for(slow, change):
    store, below = slow
    store.put("d/", new_stat(0o040755))
    put(store, "a")
    assert below.begun.wait(PATIENCE)
    thread = threading.Thread(target=change, args=(store,))
    thread.start()
    below.let.set()
    thread.join(PATIENCE)
    store.drain()
    assert contents(store) == contents(below)
    assert ("a" in contents(below)) == ("d/" not in contents(below))


def test_who_has_nothing_to_send_sleeps(slow, monkeypatch):
    store, below = slow
    looked = []
    take = store._pending.take
    monkeypatch.setattr(store._pending, "take", lambda: looked.append(1) or take())
    put(store, "a")
    assert below.begun.wait(PATIENCE)
    monkeypatch.setattr(writeback_pending, "CALM", 1000.0)
    for number in range(200):
        put(store, f"{number}")
    below.let.set()
    assert len(looked) < 1000


def test_many_are_sent_at_a_time(hurried, tmp_path):
    together = threading.Barrier(8)

    class Together(joinfs.MemoryStore):
        def put_sent(self, *given):
            together.wait(PATIENCE)
            return super().put_sent(*given)

    below = Together()
    with WriteBackStore(below, tmp_path / "waiting") as store:
        for number in range(8):
            put(store, f"{number}")
        store.drain()
        assert len(contents(below)) == 8


def test_what_arrives_while_its_attributes_are_changed_is_not_made_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(writeback_pending, "CALM", 0.0)
    with WriteBackStore(joinfs.MemoryStore(), tmp_path / "waiting") as store:
        for number in range(300):
            put(store, "a")
            for _ in range(3):
                store.set_metadata("a", {"n": str(number)})
            store.set_stat("a", mode=0o600)
            store.set_xattr("a", "user.n", b"%d" % number)
        store.drain()
        assert (contents(store), [*store._pending.disk.list("")]) == ({"a": b"content"}, [])


# ---------------------------------------------------------------- what goes wrong


def test_what_is_not_taken_is_kept_and_sent_again(unhurried, opened, schedule, there, caplog):
    schedule.refuses = True
    with opened() as store:
        put(store, "a")
        put(store, "b", b"2")
        with pytest.raises(StoreUnavailable, match="the server is gone"):
            store.drain()
        assert contents(store) == {"a": b"content", "b": b"2"}
    assert "2 files are not sent to faulty" in caplog.text
    assert os.listdir(there) == []
    with opened() as store:
        assert store.info()["waiting"] == 2
        assert contents(store) == {"a": b"content", "b": b"2"}
        schedule.refuses = False
        store.drain()
    assert sorted(os.listdir(there)) == ["a", "b"]


WRITER = """
import io, os, sys
import joinfs
from joinfs.stores import writeback_pending
writeback_pending.CALM = 1000.0
store = joinfs.open_store(sys.argv[1])
store.set("d/a", (io.BytesIO(b"first"), {"k": "v"}))
store.set("b", (io.BytesIO(b"x" * 3_000_000), {}))
store.set("b", (io.BytesIO(b"y" * 3_000_000), {}))
store.set("c.tmp", (io.BytesIO(b"c"), {}))
store.rename("c.tmp", "c")
store.set("gone", (io.BytesIO(b"c"), {}))
store.delete("gone")
print("written", flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_waits_outlives_a_kill(unhurried, there, tmp_path):
    url = f"dir:{there}?writeback={tmp_path}/waiting"
    done = subprocess.run([sys.executable, "-c", WRITER, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-9, "written\n"), done.stderr
    assert [*there.iterdir()] == []
    with joinfs.open_store(url) as store:
        assert contents(store) == {"b": b"y" * 3_000_000, "c": b"c", "d/": None, "d/a": b"first"}
        assert store.get_metadata("d/a") == {"k": "v"}
        assert [*store.check()] == []
    with DirectoryStore(there) as store:
        assert contents(store) == {"b": b"y" * 3_000_000, "c": b"c", "d/": None, "d/a": b"first"}


@pytest.mark.parametrize("change", [lambda store: store.delete("a"), lambda store: store.rename("a", "b")])
def test_what_is_gone_is_deleted_when_it_can_be(unhurried, opened, there, change):
    with opened() as store:
        put(store, "a", b"old")
        store.drain()
        put(store, "a", b"new")
        store.store.schedule = lambda method: Fault(StoreUnavailable("gone")) if method in {"delete", "put"} else None
        change(store)
        expected = contents(store)
        assert "a" not in expected
        with pytest.raises(StoreUnavailable, match="gone"):
            store.drain()
        assert (contents(store), (there / "a").read_bytes()) == (expected, b"old")
    with opened() as store:
        assert contents(store) == expected
    with DirectoryStore(there) as below:
        assert contents(below) == expected


def test_deleting_asks_for_nothing_and_many_are_deleted_at_a_time(unhurried, tmp_path):
    calls = []

    class Together(joinfs.MemoryStore):
        def delete_sent(self, keys):
            calls.append(sorted(keys))
            super().delete_sent(keys)

    below = Together()
    with WriteBackStore(below, tmp_path / "waiting") as store:
        for number in range(8):
            put(store, f"d/{number}")
        store.drain()
        for number in range(8):
            store.delete(f"d/{number}")
            with pytest.raises(KeyError):
                store.delete(f"d/{number}")
        assert (contents(store), len(contents(below)), store.info()["waiting"]) == ({"d/": None}, 9, 8)
        store.delete("d/")
        assert len(contents(below)) == 9
        store.drain()
        assert contents(below) == {}
        assert calls == [[f"d/{number}" for number in range(8)], ["d/"]]


def test_a_bucket_is_asked_once_to_delete_many(unhurried, moto, tmp_path):
    with WriteBackStore(ObjectStore(f"//{moto.new_bucket()}", endpoint=moto.endpoint), tmp_path / "waiting") as store:
        for number in range(20):
            put(store, f"d/{number}")
        store.drain()
        with asked(store.store) as requests:
            for number in range(20):
                store.delete(f"d/{number}")
            assert requests == []
            store.drain()
        assert requests == ["DeleteObjects"]
        assert contents(store) == contents(store.store) == {"d/": None}


def test_who_waited_for_all_finds_nothing_that_is_still_being_sent(unhurried, store, monkeypatch):
    returned, order = threading.Event(), []
    free = writeback_pending.Pending.free

    def late(pending, taken):
        returned.wait(0.3)
        order.append("freed")
        free(pending, taken)

    monkeypatch.setattr(writeback_pending.Pending, "free", late)
    put(store, "a")
    store.drain()
    order.append("returned")
    returned.set()
    assert order == ["freed", "returned"]


def test_directories_wait_and_arrive_with_their_attributes(unhurried, moto, tmp_path):
    place = f"//{moto.new_bucket()}"
    with WriteBackStore(ObjectStore(place, endpoint=moto.endpoint), tmp_path / "waiting") as store:
        put(store, "old")
        store.drain()
        with asked(store.store) as requests:
            store.make("d/", new_stat(DIRECTORY | 0o700))
            assert set(requests) <= {"HeadObject", "ListObjectsV2"}  # whether something is there
            requests.clear()
            for directory in ("d/e/", "d/e/f/"):
                store.make(directory, new_stat(DIRECTORY | 0o755))
                put(store, f"{directory}file")
                store.set_metadata(directory, {"of": directory})
                store.set_stat(directory, mode=0o750, mtime=1_500_000_000_000_000_000)
            with pytest.raises(KeyError):
                store.lookup("d/e/none")
            with pytest.raises(KeyExists):
                store.make("d/e/", new_stat(DIRECTORY | 0o755))
            assert requests == []
        expected = {"d/": None, "d/e/": None, "d/e/f/": None, "d/e/f/file": b"content", "d/e/file": b"content"}
        assert contents(store) == {**expected, "old": b"content"}
        before = {key: store.stat(key)._replace(ctime=0) for key in ("d/", "d/e/", "d/e/f/")}
        store.drain()
        assert (store.info()["waiting"], contents(store)) == (0, {**expected, "old": b"content"})
        assert {key: store.stat(key)._replace(ctime=0) for key in before} == before
    with ObjectStore(place, endpoint=moto.endpoint) as bucket:
        assert contents(bucket) == {**expected, "old": b"content"}
        assert (bucket.stat("d/").mode, bucket.stat("d/e/f/").mode) == (DIRECTORY | 0o700, DIRECTORY | 0o750)
        assert bucket.stat("d/e/f/").mtime == 1_500_000_000_000_000_000
        assert bucket.get_metadata("d/e/") == {"of": "d/e/"}


def test_what_is_in_a_new_directory_is_one_request_each(unhurried, moto, tmp_path):
    with WriteBackStore(ObjectStore(f"//{moto.new_bucket()}", endpoint=moto.endpoint), tmp_path / "waiting") as store:
        store.make("d/", new_stat(DIRECTORY | 0o755))
        for number in range(20):
            put(store, f"d/{number}")
        with asked(store.store) as requests:
            store.drain()
        assert requests.count("PutObject") == 21
        assert len(requests) <= 21 + 6


def test_a_directory_arrives_before_what_is_in_it_and_goes_after_that(unhurried, tmp_path):
    calls = []

    class Noting(joinfs.MemoryStore):
        def _put(self, key, *args):
            calls.append(key)
            return super()._put(key, *args)

        def _delete(self, key):
            calls.append(f"-{key}")
            super()._delete(key)

    below = Noting()
    with WriteBackStore(below, tmp_path / "waiting") as store:
        for key in ("a/b/c/x", "a/b/y", "a/z"):
            put(store, key)
        store.drain()
        assert {key: calls.count(key) for key in calls} == dict.fromkeys(["a/", "a/b/", "a/b/c/", "a/b/c/x", "a/b/y", "a/z"], 1)
        assert all(calls.index(directory) < calls.index(key) for directory in calls for key in calls if key != directory and key.startswith(directory))
        calls.clear()
        with pytest.raises(DirectoryNotEmpty):
            store.delete("a/b/")
        for key in ("a/z", "a/b/c/x", "a/b/c/", "a/b/y", "a/b/", "a/"):
            store.delete(key)
            with pytest.raises(KeyError):
                store.stat(key)
        assert (contents(store), calls) == ({}, [])
        store.drain()
        gone = [call[1:] for call in calls]
        assert sorted(gone) == ["a/", "a/b/", "a/b/c/", "a/b/c/x", "a/b/y", "a/z"]
        assert all(gone.index(directory) > gone.index(key) for directory in gone for key in gone if key != directory and key.startswith(directory))
        assert contents(below) == {}


def test_a_directory_that_never_arrived_is_never_told_of(unhurried, store, there):
    store.make("d/", new_stat(DIRECTORY | 0o755))
    put(store, "d/a")
    store.delete("d/a")
    store.delete("d/")
    assert (store.info()["waiting"], contents(store), [*there.iterdir()]) == (0, {}, [])


def test_a_directory_is_made_again_where_one_is_to_be_deleted(unhurried, opened, there):
    with opened() as store:
        put(store, "d/a")
        store.drain()
        store.delete("d/a")
        store.delete("d/")
        with pytest.raises(KeyError):
            store.delete("d/")
        with pytest.raises(KeyError):
            store.set_stat("d/", mode=0o700)
        with pytest.raises(KeyError):
            [*store.list("d/")]
        store.make("d/", new_stat(DIRECTORY | 0o711))
        put(store, "d/b", b"new")
        assert contents(store) == {"d/": None, "d/b": b"new"}
    assert [path.name for path in (there / "d").iterdir()] == ["b"]
    assert (there / "d").stat().st_mode == DIRECTORY | 0o711


@pytest.mark.parametrize("there_first", ["file", "directory"])
def test_a_file_and_a_directory_can_take_turns(unhurried, opened, there_first):
    with opened() as store:
        for kind in ("file", "directory", "file", "directory") if there_first == "file" else ("directory", "file", "directory", "file"):
            put(store, "x" if kind == "file" else "x/y")
            if kind == "file":
                with pytest.raises(NotADirectory):
                    put(store, "x/y")
                with pytest.raises(NotADirectory):
                    store.put("x/", new_stat(DIRECTORY | 0o755))
                store.delete("x")
            else:
                with pytest.raises(IsADirectory):
                    put(store, "x")
                store.delete("x/y")
                store.delete("x/")
            assert contents(store) == {}
        put(store, "x/y")
        store.drain()
        store.delete("x/y")
        store.delete("x/")
        put(store, "x")
        assert contents(store) == {"x": b"content"}
        store.drain()
        assert contents(store.store) == {"x": b"content"}


def test_a_directory_in_which_others_put_something_stays(unhurried, store, there, caplog):
    put(store, "d/a")
    store.drain()
    store.delete("d/a")
    store.delete("d/")
    (there / "d" / "theirs").write_bytes(b"theirs")
    assert contents(store) == {}
    store.drain()
    assert "others have put something there" in caplog.text
    assert (store.info()["waiting"], contents(store)) == (0, {"d/": None, "d/theirs": b"theirs"})


def test_who_waits_for_a_directory_to_go_is_told_when_what_is_in_it_cannot(unhurried, store, there):
    put(store, "d/a")
    store.drain()
    store.delete("d/a")
    store.delete("d/")
    store.store.schedule = lambda method: Fault(StoreUnavailable("gone")) if method == "delete" else None
    with pytest.raises(StoreUnavailable, match="gone"):
        store.drain()
    assert (contents(store), (there / "d" / "a").exists()) == ({}, True)
    store.store.schedule = never
    store.drain()
    assert not (there / "d").exists()


def test_what_waits_in_directories_outlives_a_kill(unhurried, there, tmp_path):
    url = f"dir:{there}?writeback={tmp_path}/waiting"
    (there / "old").mkdir()
    (there / "old" / "a").write_bytes(b"a")
    (there / "kept").mkdir()
    script = WRITER.partition("store.set(")[0] + """
from joinfs.stores.value import new_stat
store.delete("old/a")
store.delete("old/")
store.set_stat("kept/", mode=0o700)
store.make("new/", new_stat(0o040711))
store.make("new/empty/", new_stat(0o040755))
store.set("new/file", (io.BytesIO(b"first"), {}))
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    assert sorted(path.name for path in there.iterdir()) == ["kept", "old"]
    expected = {"kept/": None, "new/": None, "new/empty/": None, "new/file": b"first"}
    with joinfs.open_store(url) as store:
        assert contents(store) == expected
    with DirectoryStore(there) as store:
        assert contents(store) == expected
        assert (store.stat("new/").mode, store.stat("kept/").mode) == (DIRECTORY | 0o711, DIRECTORY | 0o700)


def test_who_waits_is_not_told_of_an_attempt_that_was_begun_before(hurried, store, there):
    begun, go_on = threading.Event(), threading.Event()

    def schedule(method):
        if method != "put" or go_on.is_set():
            return None
        begun.set()
        assert go_on.wait(PATIENCE)
        return Fault(StoreUnavailable("gone"))

    store.store.schedule = schedule
    put(store, "a")
    assert begun.wait(PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(store.drain)
        until(lambda: store._pending._drains)
        go_on.set()
        drained.result(PATIENCE)
    assert (there / "a").read_bytes() == b"content"


def test_what_cannot_be_deleted_does_not_keep_others_from_it(unhurried, tmp_path, monkeypatch):
    monkeypatch.setattr(writeback_pending, "FIRST_RETRY", 0.0)

    class Choosy(joinfs.MemoryStore):
        def delete_sent(self, keys):
            if "bad" in keys:
                raise StoreError("no such names")
            super().delete_sent(keys)

    below = Choosy()
    with WriteBackStore(below, tmp_path / "waiting") as store:
        for name in ("a", "b", "bad", "c"):
            put(store, name)
        store.drain()
        for name in ("a", "b", "bad", "c"):
            store.delete(name)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="no such names"):
                store.drain()
        assert (contents(store), contents(below)) == ({}, {"bad": b"content"})
        Choosy.delete_sent = joinfs.MemoryStore.delete_sent
        store.drain()
        assert contents(below) == {}


def test_who_waits_is_told_when_it_cannot_be_noted_that_something_was_sent(unhurried, store, tmp_path):
    put(store, "a")
    store.drain()
    put(store, "b")
    shutil.rmtree(tmp_path / "waiting")
    with pytest.raises(StoreUnavailable):
        store.drain()


def test_the_root_is_not_deleted(unhurried, store):
    with pytest.raises(InvalidKey):
        store.delete("")
    put(store, "a")
    store.drain()
    assert contents(store) == {"a": b"content"}


def test_what_is_made_where_a_directory_is_to_be_deleted_makes_it_anew(unhurried, store):
    store.make("d/", new_stat(DIRECTORY | 0o700))
    store.drain()
    store.delete("d/")
    store.set_metadata("d/a", {"m": "1"})
    assert contents(store) == {"d/": None, "d/a": b""}
    assert store.stat("d/").mode == DIRECTORY | 0o755
    store.drain()
    assert (contents(store), store.stat("d/").mode) == ({"d/": None, "d/a": b""}, DIRECTORY | 0o755)


def test_nothing_is_in_a_directory_before_it_has_its_attributes(hurried, monkeypatch, there, tmp_path):
    """Neither when it was refused at first, nor when all of it is sent after a crash."""
    monkeypatch.setattr(writeback_pending, "FIRST_RETRY", 0.2)
    order = []

    class Refusing(DirectoryStore):
        refuses = 1

        def _put(self, key, *arguments):
            self.refuses -= 1
            if self.refuses >= 0:
                raise StoreUnavailable("gone")
            order.append(key)
            return super()._put(key, *arguments)

    below = Refusing(there)
    for directory in ("d/", "e/"):
        with WriteBackStore(below, tmp_path / "waiting") as store:
            store.make(directory, new_stat(DIRECTORY | 0o700))
            for number in range(20):
                put(store, f"{directory}{number}")
            if directory == "e/":
                below.refuses = 1000
            until(lambda: below.refuses <= 0 or directory == "e/")
    below.refuses = 0
    with WriteBackStore(below, tmp_path / "waiting") as store:
        store.drain()
    for directory in ("d/", "e/"):
        assert next(key for key in order if key.startswith(directory)) == directory
        assert (there / directory).stat().st_mode == DIRECTORY | 0o700
        assert len([*(there / directory).iterdir()]) == 20


def test_what_is_in_a_directory_that_is_not_taken_is_told(unhurried, store):
    store.make("d/", new_stat(DIRECTORY | 0o700))
    put(store, "d/a")
    put(store, "b")
    store.store.schedule = lambda method: Fault(StoreUnavailable("gone")) if method == "put" else None
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="3 files are not sent"):
            store.drain()
    store.store.schedule = never
    store.drain()
    assert store.info()["waiting"] == 0


def test_what_is_just_being_deleted_is_not_deleted_once_more(hurried, store, monkeypatch):
    put(store, "a")
    store.drain()
    find = store._pending.find

    def late(key):
        entry = find(key)
        if entry is not None and entry.is_gone:
            until(lambda: find(key) is None)
        return entry

    store.delete("a")
    monkeypatch.setattr(store._pending, "find", late)
    with pytest.raises(KeyError):
        store.delete("a")


def test_a_directory_that_others_made_stays_when_all_in_it_is_deleted(unhurried, moto, tmp_path):
    bucket = moto.new_bucket()
    for number in range(3):
        moto.put(bucket, f"d/{number}", b"1")
    with WriteBackStore(ObjectStore(f"//{bucket}", endpoint=moto.endpoint), tmp_path / "waiting") as store:
        for number in range(3):
            store.delete(f"d/{number}")
        store.drain()
        assert contents(store) == {"d/": None}
        store.delete("d/")
        store.drain()
        assert (contents(store), moto.names(bucket)) == ({}, [])


def test_where_something_is_to_be_deleted_another_kind_can_stand(unhurried, store, there):
    put(store, "a")
    put(store, "b/c")
    put(store, "d")
    put(store, "e")
    store.drain()
    for key in ("a", "d", "e"):
        store.delete(key)
    store.delete("b/c")
    store.delete("b/")
    store.make("a/", new_stat(0o040755))
    put(store, "b", b"file")
    put(store, "d/f", b"below")
    store.make("g/", new_stat(0o040755))
    store.rename("g/", "e/")
    expected = {"a/": None, "b": b"file", "d/": None, "d/f": b"below", "e/": None}
    assert contents(store) == expected
    store.drain()
    assert contents(store) == expected
    with DirectoryStore(there) as below:
        assert contents(below) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.set_stat("a", mode=0o600), lambda store: store.set_xattr("a", "user.n", b""),
        lambda store: store.rename("a", "b"), lambda store: store.delete("a"), lambda store: store.get("a"), lambda store: store.read("a", 0, 1),
        lambda store: store.stat("a"), lambda store: store.lookup("a"), lambda store: store.get_xattrs("a"), lambda store: store.exchange("a", "c"),
    ],
)  # fmt: skip
def test_what_is_to_be_deleted_is_not_there(unhurried, store, change):
    for key in ("a", "c"):
        put(store, key)
    store.drain()
    store.delete("a")
    with pytest.raises(KeyError):
        change(store)
    assert contents(store) == {"c": b"content"}


RENAMER = """
import io, os, sys
import joinfs
from joinfs.stores import writeback_pending
writeback_pending.CALM = 1000.0
store = joinfs.open_store(sys.argv[1])
store.set("a", (io.BytesIO(b"old"), {}))
store.drain()
store.set("a", (io.BytesIO(b"new"), {}))
store.set("c", (io.BytesIO(b"c"), {}))
store.rename("a", "b")
store.delete("c")
os.kill(os.getpid(), 9)
"""


def test_what_is_to_be_deleted_outlives_a_kill(there, tmp_path):
    url = f"dir:{there}?writeback={tmp_path}/waiting"
    done = subprocess.run([sys.executable, "-c", RENAMER, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (-9, "")
    assert (there / "a").read_bytes() == b"old"
    with joinfs.open_store(url) as store:
        assert contents(store) == {"b": b"new"}
    assert [path.name for path in there.iterdir()] == ["b"]


def test_one_process_at_a_time_sends_what_is_in_a_directory(store, opened):
    with pytest.raises(StoreLocked, match="another process sends"), opened():
        raise AssertionError


def test_a_directory_that_others_may_write_to_is_refused(there, tmp_path):
    url = f"dir:{there}?writeback={tmp_path}/waiting"
    joinfs.open_store(url).disconnect()
    (place,) = (tmp_path / "waiting" / "joinfs-writeback-1").iterdir()
    place.chmod(0o777)
    with pytest.raises(UsageError, match="not ours alone"):
        joinfs.open_store(url)


def test_a_directory_inside_the_store_is_refused(there):
    with pytest.raises(UsageError, match="is inside"):
        joinfs.open_store(f"dir:{there}?writeback={there}/in")


def test_who_only_reads_sees_what_waits_and_sends_nothing(unhurried, opened, schedule, there, tmp_path):
    schedule.refuses = True
    with opened() as store:
        put(store, "a")
    with WriteBackStore(FaultyStore(DirectoryStore(there, read_only=True), never), tmp_path / "waiting") as store:
        assert contents(store) == {"a": b"content"}
        with pytest.raises(ReadOnly):
            put(store, "b")
    assert os.listdir(there) == []


def test_its_own_metadata_is_nobody_elses(store):
    with pytest.raises(Unsupported, match="own"):
        put(store, "a", **{writeback_pending.KEY: "b"})


def test_others_changes_are_told_and_its_own_once(unhurried, tmp_path):
    below = joinfs.MemoryStore()
    told = []
    with WriteBackStore(below, tmp_path / "waiting") as store:
        store.subscribe(told.append)
        put(store, "a")
        assert told == ["a"]
        store.drain()
        assert told == ["a"]
        put(below, "b")
        assert told == ["a", "b"]


class Lost(joinfs.MemoryStore):
    """One of which answers may be lost, or that takes nothing called ``bad``."""

    loses, deletes = False, True

    def put_sent(self, key, *given):
        if key.endswith("bad"):
            raise StoreUnavailable("it is not taken")
        made = super().put_sent(key, *given)
        if self.loses:
            raise StoreUnavailable("the answer is lost")
        return made

    def delete(self, key):
        if not self.deletes:
            raise StoreUnavailable("nothing is deleted")
        super().delete(key)


@pytest.fixture
def below():
    return Lost()


@pytest.fixture
def over(below, tmp_path, unhurried):
    with WriteBackStore(below, tmp_path / "waiting") as store:
        yield store


def test_what_may_have_arrived_is_deleted_there_as_well(over, below):
    put(over, "a")
    put(over, "b")
    below.loses = True
    with pytest.raises(StoreUnavailable, match="2 files are not sent"):
        over.drain()
    below.loses = False
    over.delete("a")
    over.rename("b", "c")
    assert contents(over) == {"c": b"content"}
    assert set(contents(below)) == {"a", "b"}
    over.drain()
    assert contents(below) == {"c": b"content"}


def test_one_that_is_not_taken_keeps_none_of_the_others(over, below):
    put(over, "bad")
    for number in range(100):
        put(over, f"f{number}")
    with pytest.raises(StoreUnavailable, match="a file is not sent to memory: yet; 'bad': it is not taken"):
        over.drain()
    assert len(contents(below)) == 100
    over.delete("bad")


def test_nothing_is_put_below_what_waits(over):
    put(over, "x")
    over.drain()
    put(over, "w")
    writes = [
        lambda: over.rename("x", "w/x"), lambda: over.set_metadata("w/y", {}), lambda: over.make("w/d/", new_stat(0o040755)), lambda: put(over, "w/z"),
    ]  # fmt: skip
    for write in writes:
        with pytest.raises(NotADirectory):
            write()
    over.drain()
    assert contents(over) == {"w": b"content", "x": b"content"}


@pytest.fixture
def full_disk(over):
    """What is done while nothing can be deleted on the local disk."""

    @contextlib.contextmanager
    def full():
        disk = over._pending.disk
        disk.delete = refused
        try:
            yield
        finally:
            del disk.delete

    return full


def refused(*_given):
    raise OutOfSpace("the disk is full")


def test_a_full_disk_leaves_what_waits_as_it_was_or_is(over, below, full_disk, tmp_path):
    put(over, "a", b"first")
    put(over, "b", b"first")
    with full_disk():
        put(over, "a", b"second")
        with pytest.raises(OutOfSpace):
            over.delete("b")
        over._pending.drain(None, lambda: len(contents(below)) == 2)  # they arrive, and that cannot be noted
        assert contents(over) == {"a": b"second", "b": b"first"}
    over.drain()
    over.delete("b")
    put(over, "c")
    over.drain()
    assert contents(below) == contents(over) == {"a": b"second", "c": b"content"}
    assert [*over._pending.disk.list("")] == []


def test_on_a_full_disk_files_are_deleted_at_once(over, below):
    for key in ("a", "b"):
        put(over, key)
    over.drain()
    put(over, "b", b"new")
    over._pending.disk.put = refused
    for key in ("a", "b"):
        over.delete(key)
    assert contents(over) == contents(below) == {}
    del over._pending.disk.put


def test_what_a_rename_replaces_that_fails_is_still_there(over, below):
    for key in ("a", "b"):
        put(over, key, key.encode())
    over.drain()
    put(over, "b", b"new b")
    below.put_sent = refused
    with pytest.raises(OutOfSpace):
        over.rename("a", "b")
    assert contents(over) == {"a": b"a", "b": b"new b"}
    del below.put_sent
    over.rename("a", "b")
    assert contents(over) == {"b": b"a"}


def test_over_what_waits_a_file_is_renamed_without_a_request(over, below):
    for key in ("a", "b"):
        put(over, key, key.encode())
    below.put_sent = refused
    over.rename("a", "b")
    assert contents(over) == {"b": b"a"}
    del below.put_sent
    over.drain()
    assert contents(below) == {"b": b"a"}


def test_a_store_that_is_spelled_otherwise_is_the_same(there, tmp_path, unhurried, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(there)
    spelled = [str(there), "there", "./there/", "link"]
    assert len({WriteBackStore(DirectoryStore(place), tmp_path / "waiting").path_of_pending for place in spelled}) == 1


def test_while_it_is_disconnected_nothing_old_is_read(unhurried, tmp_path, there):
    going, gone = threading.Event(), threading.Event()

    class Late(DirectoryStore):
        refuses = False

        def put_sent(self, *given):
            if self.refuses:
                raise StoreUnavailable("gone")
            return super().put_sent(*given)

        def disconnect(self):
            going.set()
            assert gone.wait(PATIENCE)
            super().disconnect()

    store = WriteBackStore(Late(there), tmp_path / "waiting")
    store.connect()
    put(store, "a", b"old")
    store.drain()
    put(store, "a", b"new")
    store.store.refuses = True
    thread = threading.Thread(target=store.disconnect)
    thread.start()
    assert going.wait(PATIENCE)
    for call in (lambda: store.to_bytes("a"), lambda: store.delete("a"), lambda: put(store, "b")):
        with pytest.raises(NotConnected):
            call()
    gone.set()
    thread.join(PATIENCE)
    with WriteBackStore(DirectoryStore(there), tmp_path / "waiting") as store:
        assert contents(store) == {"a": b"new"}


def test_a_drain_ends_though_others_go_on(hurried, tmp_path):
    ended = threading.Event()
    with WriteBackStore(joinfs.MemoryStore(), tmp_path / "waiting") as store:
        put(store, "a")

        def go_on():
            number = 0
            while not ended.is_set():
                store.set_metadata("a", {"n": str(number := number + 1)})

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            for _ in range(20):
                store.drain()
        finally:
            ended.set()
            thread.join(PATIENCE)


def test_what_has_just_arrived_is_not_waited_for(over, below):
    put(over, "d/a")
    entries = over._pending.below("d/")
    over.drain()
    over._sender.drain(entries)
    assert contents(below) == {"d/": None, "d/a": b"content"}


def test_what_is_always_there_is_always_seen(over):
    put(over, "a", b"0")
    ended, missed = threading.Event(), []

    def look():
        while not ended.is_set():
            try:
                assert over.stat("a").is_file
                over.get_xattrs("a")
            except KeyError:
                missed.append(1)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(300):
        put(over, "a", b"%d" % number)
        put(over, "b")
        over.rename("b", "a")
    ended.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert missed == []


@pytest.mark.parametrize("calm", [0.0, 1000.0])
@pytest.mark.parametrize("seed", range(4))
def test_any_writes_in_any_order(seed, calm, opened, there, monkeypatch):
    """Beside a plain dict, sent meanwhile or not, and opened anew."""
    monkeypatch.setattr(writeback_pending, "CALM", calm)
    chance, model = random.Random(seed), {}
    keys = ["a", "b", "d/a", "d/b", "e/f/a"]
    for _ in range(6):
        with opened() as store:
            for _ in range(40):
                step(store, model, chance, keys)
            assert files(contents(store)) == model
            store.drain()
            assert [*store._pending.disk.list("")] == []
    with DirectoryStore(there) as store:
        assert files(contents(store)) == model


def step(store, model, chance, keys):
    key, other = chance.sample(keys, 2)
    verb = chance.choice(["put", "put", "put", "delete", "rename", "directory", "metadata", "drain", "read"])
    if verb == "put":
        model[key] = chance.randbytes(chance.choice([0, 10, 300_000]))
        put(store, key, model[key])
    elif verb == "delete" and key in model:
        store.delete(key)
        del model[key]
    elif verb == "rename" and key in model:
        store.rename(key, other)
        model[other] = model.pop(key)
    elif verb == "directory" and any(key.startswith("d/") for key in model):
        store.rename("d/", "moved/")
        store.rename("moved/", "d/")
    elif verb == "metadata" and key in model:
        store.update_metadata(key, {"n": str(chance.random())})
    elif verb == "drain":
        store.drain()
    elif verb == "read":
        assert files(contents(store)) == model


def files(found):
    return {key: content for key, content in found.items() if content is not None}


def until(holds):
    """Wait for what is told by no event."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
