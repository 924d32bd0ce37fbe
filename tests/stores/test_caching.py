"""Stores with a cache on local disk. SEMANTICS.md, Caches on disk."""

import io
import itertools
import os
import random
import re
import shutil
import stat as stat_module
import subprocess
import sys
import threading
import time
from http.server import ThreadingHTTPServer

import pytest

import joinfs
from joinfs.errors import StoreUnavailable, UsageError
from joinfs.joined.store import JoinedStore
from joinfs.mountpoint import check_apart
from joinfs.stores import caching_disk, caching_origin, object_known, value, without_cache
from joinfs.stores.caching import CachingStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.http import HTTPStore
from joinfs.stores.mapping import MappingStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.object import ObjectStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.views import PrefixStore
from joinfs.testing import ReadOnlyContract, StoreContract
from joinfs.testing.contract_reading import in_threads
from joinfs.testing.faulty import Fault, FaultyStore
from tests.stores import object_servers
from tests.stores.conftest import Handler, Scripted
from tests.stores.test_object import asked


@pytest.fixture(autouse=True)
def _settled(monkeypatch):
    """What was written just now is kept as well: the clocks here are not of whole seconds."""
    monkeypatch.setattr(value, "SETTLED", 0)


class TestOverMemory(StoreContract):
    def make_store(self, place):
        return CachingStore(MemoryStore(), place / "cache", ttl=1000)


class TestOverDirectory(StoreContract):
    def make_store(self, place):
        (place / "medium").mkdir()
        return CachingStore(DirectoryStore(place / "medium"), place / "cache", ttl=1000)


class TestOverSQLite(StoreContract):
    def make_store(self, place):
        return CachingStore(SQLiteStore(place / "medium.db"), place / "cache", ttl=1000)


class TestOverMapping(StoreContract):
    """Of which no versions are known."""

    def make_store(self, place):
        return CachingStore(MappingStore({}), place / "cache", ttl=1000)


class TestThatBelievesNothing(StoreContract):
    def make_store(self, place):
        return CachingStore(MemoryStore(), place / "cache", ttl=0)


class TestOverMoto(StoreContract):
    @pytest.fixture(autouse=True)
    def served(self, moto):
        self.server = moto

    def make_store(self, place):
        self.bucket, self.prefix = self.server.new_place()
        store = ObjectStore(f"//{self.bucket}/{self.prefix}", endpoint=self.server.endpoint)
        return CachingStore(store, place / "cache", ttl=1000)

    def raw(self, place, key):
        return self.server.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()


class TestOverWebServer(ReadOnlyContract):
    @pytest.fixture(autouse=True)
    def served(self, nginx):
        self.nginx = nginx

    def make_filled(self, place):
        for key, content in self.CONTENTS.items():
            path = self.nginx.root / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return CachingStore(HTTPStore(self.nginx.url), place / "cache", ttl=1000)


# ---------------------------------------------------------------- what it costs


@pytest.fixture
def bucket(moto):
    return Bucket(moto)


class Bucket:
    """A bucket on moto, and stores on it that share one cache."""

    def __init__(self, server):
        self.server = server
        self.name, _ = server.new_place()

    def put(self, key, content):
        self.server.put(self.name, key, content)

    def store(self, place, ttl=1000.0, **given):
        return CachingStore(ObjectStore(f"//{self.name}", endpoint=self.server.endpoint, read_only=True), place / "cache", ttl=ttl, **given)


def read_all(store):
    return {key: store.to_bytes(key) for key in store.keys()}


def test_what_is_believed_is_not_asked_for(bucket, tmp_path):
    contents = {f"d{number % 3}/f{number}": b"%d" % number * 1000 for number in range(9)} | {"large": bytes(range(256)) * 8192}
    for key, content in contents.items():
        bucket.put(key, content)
    with bucket.store(tmp_path) as store:
        assert read_all(store) == contents
        with asked(store.store) as requests:
            assert read_all(store) == contents
            assert store.read("large", 300_000, 5) == contents["large"][300_000:300_005]
            assert [store.lookup(key).size for key in contents] == [len(content) for content in contents.values()]
            for missing in ("d0/no", "no"):
                with pytest.raises(KeyError):
                    store.lookup(missing)
        assert requests == []


def test_what_is_believed_no_more_is_asked_for_once_and_not_sent_again(bucket, tmp_path):
    bucket.put("a", bytes(600_000))
    for believed in (0, 1000):
        with bucket.store(tmp_path, ttl=0) as store:
            assert store.read("a", 0, 600_000) == bytes(600_000)
            store.ttl = believed
            store.store.freshness = 0
            with asked(store.store) as requests:
                assert store.read("a", 500_000, 100_000) == bytes(100_000)
            assert requests == ["HeadObject"] * (not believed)


def test_a_small_value_is_one_request_and_a_large_one_is_read_ahead(bucket, tmp_path):
    content = bytes(range(251)) * 100_000
    bucket.put("small", content[:900_000])
    bucket.put("large", content)
    with bucket.store(tmp_path) as store:
        with asked(store.store) as requests:
            assert store.read("small", 0, 10) + store.read("small", 10, 900_000) == content[:900_000]
        assert requests == ["GetObject"]
        with asked(store.store) as requests:
            pieces = [store.read("large", offset, 1 << 17) for offset in range(0, len(content), 1 << 17)]
        assert b"".join(pieces) == content
        assert set(requests) == {"GetObject"}
        assert len(requests) <= len(content) // (2 << 20) + 4


def test_a_listing_tells_what_is_as_it_was(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_known, "SETTLED", 0)
    for number in range(20):
        bucket.put(f"d/f{number:02}", b"%d" % number * 1000)
    with bucket.store(tmp_path) as store:
        before = dict(store.list("d/"))
        contents = {name: store.read(f"d/{name}", 0, 9999) for name in before}
    bucket.put("d/f07", b"changed")
    with bucket.store(tmp_path, ttl=0) as store:  # as after a remount
        with asked(store.store) as requests:
            after = dict(store.list("d/"))
            store.ttl = 1000
            assert {name: store.read(f"d/{name}", 0, 9999) for name in after} == contents | {"f07": b"changed"}
            assert [store.lookup(f"d/{name}") for name in after] == [*after.values()]
        assert after == before | {"f07": after["f07"]}
        assert after["f07"].size == 7
        assert sorted(requests) == ["GetObject", "HeadObject", "ListObjectsV2"]


def test_who_asks_for_one_after_the_other_has_them_listed_anew(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(object_known, "SETTLED", 0)
    for number in range(20):
        bucket.put(f"d/f{number:02}", b"%d" % number * 1000)
    with bucket.store(tmp_path) as store:
        before = dict(store.list("d/"))
    for ask in (lambda store, name: store.lookup(f"d/{name}"), lambda store, name: store.stat(f"d/{name}")):
        with bucket.store(tmp_path) as store:
            store._open_facts._facts["list", "d/"] = store._open_facts.get("list", "d/")._replace(asked=5)
            with asked(store.store) as requests:
                assert {name: ask(store, name) for name in before} == before
                with pytest.raises(KeyError):
                    ask(store, "none")
            assert requests.count("ListObjectsV2") <= 2
            assert requests.count("HeadObject") <= 2  # the second is for a marker of a directory that there may be instead


def test_threads_that_read_one_value_at_once_have_it_sent_once(bucket, tmp_path):
    content = bytes(range(251)) * 20_000
    bucket.put("a", content)
    with bucket.store(tmp_path) as store, asked(store.store) as requests:
        together, wrong = threading.Barrier(8), []

        def read():
            together.wait(20)
            wrong.extend([1] if store.read("a", 0, 6_000_000) != content else [])

        in_threads(read, 8)
        assert wrong == []
        assert requests.count("GetObject") <= 6  # of at most two mebibytes each, and some may come too late to share the first


def test_a_web_server_is_asked_as_little(nginx, tmp_path):
    (nginx.root / "d").mkdir()
    for number in range(5):
        (nginx.root / "d" / f"f{number}").write_bytes(b"%d" % number * 1000)
        os.utime(nginx.root / "d" / f"f{number}", (1_500_000_000, 1_500_000_000))
    with CachingStore(HTTPStore(nginx.url), tmp_path / "cache") as store:
        first = read_all(store)
        nginx.requests()
        assert read_all(store) == first
        assert nginx.requests() == []
    with CachingStore(HTTPStore(nginx.url), tmp_path / "cache", ttl=0) as store:  # as after a remount
        nginx.requests()
        assert store.read("d/f3", 0, 1000) == b"3" * 1000
        assert [line.split()[0] for line in nginx.requests() if "/d/f3" in line] == ["HEAD"]


def test_what_is_prefetched_is_there_when_it_is_read(bucket, tmp_path):
    for number in range(40):
        bucket.put(f"d/f{number}", b"%d" % number * 1000)
    with bucket.store(tmp_path) as store:
        names = [name for name, _ in store.list("d/")]
        with asked(store.store) as requests:
            store.prefetch("d/", names)
            until(lambda: len(requests) == 40 and not store._blocks._coming)
            assert {store.read(f"d/f{number}", 0, 5000)[:1] for number in range(40)} == {b"%d" % number for number in range(10)}
        assert requests == ["GetObject"] * 40


def test_what_is_there_already_is_not_prefetched(bucket, tmp_path):
    bucket.put("d/a", b"a")
    with bucket.store(tmp_path) as store:
        store.read("d/a", 0, 1)
        assert [name for name, _ in store.list("d/")] == ["a"]
        with asked(store.store) as requests:
            store.prefetch("d/", ["a", "gone"])
            until(lambda: not store._ahead._fetchers)
        assert requests == []


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---------------------------------------------------------------- never a wrong byte


def test_a_value_that_changes_is_never_mixed_of_two(bucket, tmp_path):
    old, new = b"o" * 3_000_000, b"n" * 3_000_000
    bucket.put("a", old)
    with bucket.store(tmp_path) as store:
        assert store.read("a", 0, 300_000) == old[:300_000]
        bucket.put("a", new)
        # It is believed to be the old one; what is not here is of the new one, and told to be.
        assert store.read("a", 0, 3_000_000) == new
        with store.get("a") as stream:
            assert stream.read() == new


def test_a_stream_of_a_large_value_that_was_replaced_fails_where_it_was_not_kept(bucket, tmp_path):
    bucket.put("a", bytes(20 << 20))
    with bucket.store(tmp_path) as store:
        stream = store.get("a").data
        assert stream.read(8 << 20) == bytes(8 << 20)
        bucket.put("a", b"1" * (20 << 20))
        with pytest.raises(StoreUnavailable, match="open it again"):
            stream.read()


def test_others_changes_are_seen_when_nothing_is_believed_any_more(bucket, tmp_path):
    bucket.put("d/a", b"old")
    with bucket.store(tmp_path, ttl=0) as store:
        store.store.freshness = 0
        assert (store.to_bytes("d/a"), [name for name, _ in store.list("d/")]) == (b"old", ["a"])
        bucket.put("d/a", b"newer")
        bucket.put("d/b", b"b")
        assert (store.to_bytes("d/a"), store.stat("d/a").size) == (b"newer", 5)
        assert sorted(name for name, _ in store.list("d/")) == ["a", "b"]


def blocks_of(place):
    return [path for path in (place / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"?"),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_what_is_damaged_is_not_there(bucket, tmp_path, damage):
    content = random.Random(5).randbytes(700_000)
    bucket.put("a", content)
    for _ in range(3):
        with bucket.store(tmp_path) as store:
            assert (store.read("a", 0, 800_000), store.stat("a").size) == (content, 700_000)
        for path in blocks_of(tmp_path):
            damage(path)


def test_what_is_exchanged_is_not_there(bucket, tmp_path):
    content = random.Random(5).randbytes(2 << 18)
    bucket.put("a", content)
    with bucket.store(tmp_path) as store:
        assert store.to_bytes("a") == content
    one, other = [path for path in blocks_of(tmp_path) if path.stat().st_size > 1 << 18]
    saved = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(saved)
    with bucket.store(tmp_path) as store:
        assert store.to_bytes("a") == content


def test_stores_of_one_name_on_two_servers_are_two(tmp_path, moto):
    with object_servers.moto() as other:
        names = []
        for server in (moto, other):
            server.client.create_bucket(Bucket="same-name")
            server.put("same-name", "a", server.endpoint.encode())
            store = CachingStore(ObjectStore("//same-name", endpoint=server.endpoint, read_only=True), tmp_path / "cache")
            with store:
                assert store.to_bytes("a") == server.endpoint.encode()
                names.append(store.identity)
        assert len(set(names)) == 2


def test_what_is_in_a_transaction_is_nobody_elses(tmp_path):
    with CachingStore(MemoryStore(), tmp_path / "cache", ttl=1000) as store:
        store.set("a", (io.BytesIO(b"old"), {}))
        with pytest.raises(RuntimeError), store.transaction("fails"):
            store.set("a", (io.BytesIO(b"changed"), {"n": "1"}))
            assert (store.to_bytes("a"), store.stat("a").size, store.get_metadata("a")) == (b"changed", 7, {"n": "1"})
            raise RuntimeError
        assert (store.to_bytes("a"), store.stat("a").size, store.get_metadata("a")) == (b"old", 3, {})


def test_what_is_written_past_the_cache_through_the_same_store_is_seen(tmp_path):
    inner = MemoryStore()
    with CachingStore(inner, tmp_path / "cache", ttl=1000) as store:
        inner.set("d/a", (io.BytesIO(b"old"), {}))
        assert (store.to_bytes("d/a"), [name for name, _ in store.list("d/")]) == (b"old", ["a"])
        inner.rename("d/", "e/")
        assert (store.exists("d/a"), store.to_bytes("e/a"), list(store.keys())) == (False, b"old", ["e/a"])


def test_what_is_written_to_one_key_of_a_file_is_seen_at_the_others(tmp_path):
    with CachingStore(MemoryStore(), tmp_path / "cache", ttl=1000) as store:
        store.set("a", (io.BytesIO(b"old"), {"n": "1"}))
        store.link("a", "d/b")

        def seen():
            return {
                (store.to_bytes(key), store.read(key, 0, 9), store.get_metadata(key)["n"], store.stat(key).size, dict(store.list(directory))[name].size)
                for key, directory, name in (("a", "", "a"), ("d/b", "d/", "b"))
            }

        assert seen() == {(b"old", b"old", "1", 3, 3)}
        store.set("a", (io.BytesIO(b"newer"), {"n": "2"}))
        assert seen() == {(b"newer", b"newer", "2", 5, 5)}
        store.delete("a")
        assert store.read("d/b", 0, 9) == b"newer"


def test_what_was_moved_does_not_come_back_with_the_next_connection(tmp_path):
    (tmp_path / "medium").mkdir()

    def store():
        return CachingStore(DirectoryStore(tmp_path / "medium"), tmp_path / "cache", ttl=1000)

    with store() as first:
        for key in ("d/a", "d/e/b"):
            first.set(key, (io.BytesIO(key.encode()), {}))
        assert read_all(first) == {"d/a": b"d/a", "d/e/b": b"d/e/b"}
        first._open_facts._facts.clear()  # so that it knows of them on disk alone
        first.rename("d/", "f/")
        first.set("d/new", (io.BytesIO(b"new"), {}))
    with store() as second:
        assert read_all(second) == {"f/a": b"d/a", "f/e/b": b"d/e/b", "d/new": b"new"}
        assert not second.exists("d/e/b")


def test_several_threads_and_writers_see_whole_values(tmp_path):
    with CachingStore(MemoryStore(), tmp_path / "cache", ttl=1000) as store:
        store.set("a", (io.BytesIO(b"0" * 600_000), {}))
        numbers, wrong = itertools.count(1), []

        def work():
            for _ in range(30):
                number = next(numbers)
                if number % 3 == 0:
                    store.set("a", (io.BytesIO(b"%d" % (number % 10) * 600_000), {"n": number % 10}))
                data, metadata = store.get("a")
                content = data.read()
                if content != content[:1] * 600_000 or metadata.get("n", 0) != int(content[:1]):
                    wrong.append((content[:1], metadata))
                read = store.read("a", 200_000, 300_000)
                if read != read[:1] * 300_000:
                    wrong.append(read[:1])

        in_threads(work, 6)
        assert wrong == []


# ---------------------------------------------------------------- the directory


def test_it_takes_no_more_room_than_it_may_and_keeps_what_was_used(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(caching_disk, "TOUCH", 0.0)
    for number in range(30):
        bucket.put(f"f{number:02}", bytes([number]) * 250_000)
    for number in range(30):
        with bucket.store(tmp_path, size=4_000_000) as store:
            assert store.read(f"f{number:02}", 0, 1) == bytes([number])
            assert store.read("f00", 5, 1) == b"\0"
            disk = store._disk
            until(lambda: not disk._wake.is_set())
        for path in blocks_of(tmp_path):  # as if it was a while ago
            told = path.stat()
            os.utime(path, (told.st_atime - 10, told.st_mtime - 10))
    disk._keeper = threading.current_thread()
    disk._root = os.open(tmp_path / "cache" / "joinfs-cache-1", os.O_RDONLY)
    disk._make_room()
    os.close(disk._root)
    assert sum(path.stat().st_blocks * 512 for path in blocks_of(tmp_path)) <= 4_000_000
    with bucket.store(tmp_path) as store:
        kept = [store._blocks._has(key, store._blocks.file(key), 0) for key in sorted(store.keys())]
    assert kept[0]
    assert kept[-5:] == [True] * 5
    assert not all(kept)


BREAKING = {
    "deleted": shutil.rmtree,
    "emptied": lambda place: [shutil.rmtree(path) for path in place.iterdir()],
    "a file in its place": lambda place: (shutil.rmtree(place), place.write_text("")),
    "not to be written to": lambda place: (shutil.rmtree(place / "joinfs-cache-1" / "new"), (place / "joinfs-cache-1" / "new").write_text("")),
}


@pytest.mark.parametrize("what", BREAKING)
def test_a_directory_that_breaks_under_way_fails_no_read(bucket, tmp_path, what):
    content = random.Random(6).randbytes(1_000_000)
    bucket.put("a", content)
    bucket.put("b", content[::-1])
    with bucket.store(tmp_path) as store:
        assert store.to_bytes("a") == content
        BREAKING[what](tmp_path / "cache")
        store._blocks._memory.clear()
        for _ in range(2):
            assert (store.to_bytes("a"), store.to_bytes("b")) == (content, content[::-1])
            store._disk._paused_until = 0
        assert sorted(store.keys()) == ["a", "b"]


def test_a_full_disk_fails_no_read(bucket, tmp_path, need):
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    need("mount", "umount")
    content = random.Random(7).randbytes(3_000_000)
    bucket.put("a", content)
    (tmp_path / "cache").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", tmp_path / "cache"], check=False).returncode:
        pytest.skip("needs to be allowed to mount")
    try:
        with bucket.store(tmp_path) as store:
            for _ in range(2):
                assert store.to_bytes("a") == content
                store._blocks._memory.clear()
    finally:
        subprocess.run(["umount", tmp_path / "cache"], check=True)


def test_a_directory_that_is_another_users_or_open_to_others_is_refused(bucket, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o777)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(UsageError, match="chmod 700"):
        bucket.store(tmp_path).connect()
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a directory away")
    os.chown(tmp_path / "cache", 12345, 12345)
    with pytest.raises(UsageError, match="another user"):
        bucket.store(tmp_path).connect()


def test_what_it_makes_is_for_the_user_alone(bucket, tmp_path):
    bucket.put("a", b"1")
    with bucket.store(tmp_path) as store:
        store.to_bytes("a")
    paths = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert {stat_module.S_IMODE(path.stat().st_mode) & 0o077 for path in paths} == {0}


READING = """
import sys
from joinfs.stores.caching import CachingStore
from joinfs.stores.directory import DirectoryStore
with CachingStore(DirectoryStore(sys.argv[1], read_only=True), sys.argv[2], size=20_000_000) as store:
    print(flush=True)
    for turn in range(int(sys.argv[3])):
        for key in sorted(store.keys()):
            assert store.to_bytes(key) == bytes([int(key)]) * 1_000_000, key
"""


def test_processes_share_a_directory_and_one_that_is_killed_is_in_nobodys_way(tmp_path):
    (tmp_path / "medium").mkdir()
    for number in range(40):
        (tmp_path / "medium" / str(number)).write_bytes(bytes([number]) * 1_000_000)
        os.utime(tmp_path / "medium" / str(number), (1_500_000_000, 1_500_000_000))
    command = [sys.executable, "-c", READING, tmp_path / "medium", tmp_path / "cache"]
    forever = subprocess.Popen([*command, "1000000"], stdout=subprocess.PIPE)
    others = [subprocess.Popen([*command, "2"], stdout=subprocess.PIPE) for _ in range(2)]
    forever.stdout.readline()
    forever.kill()
    forever.communicate(timeout=60)
    for other in others:
        other.communicate(timeout=60)
        assert other.returncode == 0
    done = subprocess.run([*command, "1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_blocks * 512 for path in blocks_of(tmp_path)) <= 20_000_000


# ---------------------------------------------------------------- the server gone


class Gone:
    """A schedule by which the store is gone as long as that is set."""

    def __init__(self):
        self.now, self.asked = False, []

    def __call__(self, method):
        self.asked.append(method)
        return Fault(StoreUnavailable("nobody answers")) if self.now else None


def test_what_was_kept_is_answered_while_the_server_is_gone(tmp_path, caplog):
    (tmp_path / "medium" / "d").mkdir(parents=True)
    for key in ("d/a", "d/b", "d/never0", "d/never1"):
        (tmp_path / "medium" / key).write_bytes(key.encode() * 1000)
    gone = Gone()

    def connected():
        return CachingStore(FaultyStore(DirectoryStore(tmp_path / "medium"), gone), tmp_path / "cache", ttl=0)

    for turn in range(2):
        gone.now, never = False, f"d/never{turn}"
        with connected() as store:
            for key in ("d/a", "d/b"):
                assert store.to_bytes(key) == key.encode() * 1000
            before = {key: (store.stat(key), store.lookup(key), store.get_metadata(key), store.get_xattrs(key)) for key in ("d/a", "d/b")}
            names = {directory: dict(store.list(directory)) for directory in ("", "d/")}
            gone.now = True
            caplog.clear()
            assert {directory: dict(store.list(directory)) for directory in names} == names
            assert {key: (store.stat(key), store.lookup(key), store.get_metadata(key), store.get_xattrs(key)) for key in before} == before
            assert store.read("d/b", 999, 3) == b"d/b"
            assert store.to_bytes("d/a") == b"d/a" * 1000
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            with pytest.raises(StoreUnavailable, match="nobody answers"):
                store.to_bytes(never)
            with pytest.raises(StoreUnavailable, match="nobody answers"):
                store.set("d/c", (io.BytesIO(b""), {}))
            # It is back, and asked again once it has had its rest.
            gone.now = False
            (tmp_path / "medium" / "d" / "a").write_bytes(b"changed")
            store._origin._gone_at -= 100
            assert store.to_bytes("d/a") == b"changed"
            assert store.to_bytes(never) == never.encode() * 1000
        (tmp_path / "medium" / "d" / "a").write_bytes(b"d/a" * 1000)


def test_who_is_gone_is_not_asked_about_what_is_known(tmp_path):
    (tmp_path / "medium").mkdir()
    (tmp_path / "medium" / "a").write_bytes(b"a")
    gone = Gone()
    with CachingStore(FaultyStore(DirectoryStore(tmp_path / "medium"), gone), tmp_path / "cache", ttl=0) as store:
        assert (store.to_bytes("a"), store.stat("a").size) == (b"a", 1)
        gone.now = True
        assert store.stat("a").size == 1
        gone.asked.clear()
        assert [store.to_bytes("a"), store.stat("a").size] == [b"a", 1]
        assert gone.asked == []


def test_a_server_that_is_silent_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(caching_origin, "SILENT", 0.05)
    monkeypatch.setattr(caching_origin, "REST", 0.02)
    (tmp_path / "medium").mkdir()
    for name in ("a", "b"):
        (tmp_path / "medium" / name).write_bytes(name.encode())
    asked, is_silent, let_go = [], threading.Event(), threading.Event()

    def schedule(method):
        if not is_silent.is_set():
            return None
        asked.append(threading.current_thread().name)
        let_go.wait(20 if threading.current_thread().name == "joinfs asks again" else 0.1)
        return Fault(StoreUnavailable("it says nothing")) if is_silent.is_set() else None

    with CachingStore(FaultyStore(DirectoryStore(tmp_path / "medium"), schedule), tmp_path / "cache", ttl=0) as store:
        assert (store.to_bytes("a"), store.stat("a").size) == (b"a", 1)
        is_silent.set()
        assert store.stat("a").size == 1
        del asked[:]
        for _ in range(3):
            assert [store.to_bytes("a"), store.stat("a").size] == [b"a", 1]
            with pytest.raises(StoreUnavailable, match="it says nothing"):
                store.to_bytes("b")
        assert set(asked) <= {"joinfs asks again"}
        is_silent.clear()
        let_go.set()
        end = time.monotonic() + 20
        while store._origin.is_resting():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert store.to_bytes("b") == b"b"


def test_a_silent_server_is_not_said_to_answer_because_nobody_asks_it_any_more(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(caching_origin, "SILENT", 0.05)
    caplog.set_level("INFO")
    (tmp_path / "medium").mkdir()
    fault = Fault(StoreUnavailable("it says nothing"), delay=0.1)
    store = CachingStore(FaultyStore(DirectoryStore(tmp_path / "medium"), lambda method: fault if method == "lookup" else None), tmp_path / "cache", ttl=0)
    with store, pytest.raises(StoreUnavailable):
        store.lookup("a")
    (asking,) = [thread for thread in threading.enumerate() if thread.name == "joinfs asks again"] or [None]
    if asking is not None:
        asking.join(20)
    assert "it says nothing" in caplog.text
    assert "answers again" not in caplog.text


def test_a_server_that_is_gone_is_connected_when_it_is_back(tmp_path):
    server = Scripted()
    served = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    served.start()
    port = server.server_address[1]

    def respond(handler, number):
        if handler.path == "/":
            handler.reply(200, b'["a", "b"]')
        else:
            body = b"content of " + handler.path.encode()
            handler.part(body, ETag='"1"') if handler.headers["Range"] else handler.reply(200, body, ETag='"1"')

    server.respond = respond

    def store():
        web = HTTPStore(server.url)
        web.tries = 1
        return CachingStore(web, tmp_path / "cache", ttl=0)

    try:
        with store() as first:
            assert first.to_bytes("a") == b"content of /a"
            assert dict(first.list("")).keys() == {"a", "b"}
    finally:
        server.shutdown()
        server.server_close()
        served.join()
    with store() as second:
        assert (second.to_bytes("a"), dict(second.list("")).keys()) == (b"content of /a", {"a", "b"})
        with pytest.raises(StoreUnavailable):
            second.to_bytes("b")
        again = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        again.asked, again.lock, again.respond = [], threading.Lock(), respond
        served = threading.Thread(target=again.serve_forever, kwargs={"poll_interval": 0.01})
        served.start()
        try:
            assert second.to_bytes("b") == b"content of /b"
        finally:
            again.shutdown()
            again.server_close()
            served.join()
    with pytest.raises(StoreUnavailable):
        CachingStore(HTTPStore(server.url), tmp_path / "other").connect()


# ---------------------------------------------------------------- by URL


def test_caches_by_url(tmp_path, monkeypatch):
    (tmp_path / "medium" / "d").mkdir(parents=True)
    (tmp_path / "medium" / "d" / "a").write_text("text")
    monkeypatch.setenv("HOME", str(tmp_path))
    with joinfs.open_store(f"dir:{tmp_path}/medium?cache=~/c%26d&cache_size=500M&cache_ttl=2.5&prefix=d&ro") as store:
        assert store.to_bytes("a") == b"text"
        assert (store.store.ttl, store.store._disk._size, store.capabilities.writable) == (2.5, 500 << 20, False)
    assert (tmp_path / "c&d").is_dir()
    for query, told in (
        ("cache_size=1G", "no '?cache=DIRECTORY'"), ("cache=x&cache_size=1X", "500M, 10G or 1T"), ("cache=x&cache_size=0", "no size"),
        ("cache=x&cache_ttl=soon", "no number of seconds"), ("cache", "'?cache='"), ("cache=", "'?cache='"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=re.escape(told)):
            joinfs.open_store(f"dir:{tmp_path}/medium?{query}")


def test_no_store_has_its_own_cache_in_it(tmp_path):
    (tmp_path / "d").mkdir()
    for store in (DirectoryStore(tmp_path / "d"), PrefixStore(DirectoryStore(tmp_path), "d")):
        with pytest.raises(UsageError, match="inside"):
            CachingStore(store, tmp_path / "d" / "cache").connect()
    assert list((tmp_path / "d").iterdir()) == []


def test_nothing_is_mounted_over_its_own_cache(tmp_path):
    store = PrefixStore(CachingStore(MemoryStore(), tmp_path / "m" / "cache"), "d")
    with pytest.raises(UsageError, match="the cache"):
        check_apart(JoinedStore([MemoryStore(), store]), str(tmp_path / "m"))
    check_apart(store, str(tmp_path / "n"))


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("s3://b?ro&cache=/c&endpoint=http://h&cache_size=1G", "s3://b?ro&endpoint=http://h"), ("dir:/d?cache=/c", "dir:/d"),
        ("dir:/d?ro", "dir:/d?ro"), ("/a:b?cache=c", "/a:b?cache=c"), ("/d", "/d"),
    ],
)  # fmt: skip
def test_a_store_with_a_cache_is_the_same_store(url, same):
    """Its changes go into the same file of ``--upper auto``."""
    assert without_cache(url) == same


def test_what_another_store_has_asked_before_we_wrote_is_not_believed(tmp_path):
    """Two share a directory; one keeps a listing that it had begun before."""
    (tmp_path / "medium").mkdir()
    one, two = (CachingStore(DirectoryStore(tmp_path / "medium"), tmp_path / "cache", ttl=1000) for _ in range(2))
    with one, two:
        for name in ("d/a", "d/b"):
            one.set_data(name, io.BytesIO(b"1"))
        listing = iter(one.list("d/"))
        next(listing)
        two.set_data("d/x", io.BytesIO(b"mine"))
        list(listing)
        assert (two.stat("d/x").size, two.exists("d/x")) == (4, True)
        assert sorted(name for name, _ in two.list("d/")) == ["a", "b", "x"]


def test_a_question_mark_in_an_option_is_told(tmp_path):
    with pytest.raises(UsageError, match="joined by '&'"):
        joinfs.open_store(f"dir:{tmp_path}?cache={tmp_path}/c?ro")
