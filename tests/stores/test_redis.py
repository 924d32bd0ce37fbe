"""Stores on a Redis server. SEMANTICS.md, Redis; Scale."""

import contextlib
import io
import itertools
import os
import stat as stat_module
import threading

import pytest

import joinfs
from joinfs.errors import (
    AccessDenied,
    CorruptStore,
    InvalidKey,
    KeyExists,
    NotADirectory,
    OutOfSpace,
    ReadOnly,
    StoreUnavailable,
    Unsupported,
    UsageError,
)
from joinfs.stores import Stat, redis_blobs, redis_server
from joinfs.stores.redis_scripts import CHUNK
from joinfs.stores.redis_store import RedisStore
from joinfs.stores.redis_url import parse_url
from joinfs.testing import ReadOnlyContract, StoreContract
from joinfs.testing.contract_reading import in_threads

FILE = stat_module.S_IFREG | 0o644
DIRECTORY = stat_module.S_IFDIR | 0o755
BIG = redis_blobs.SMALL + 1


class TestRedis(StoreContract):
    scheme = "redis"

    @pytest.fixture(autouse=True)
    def served(self, redis_server):
        self.server = redis_server

    def make_store(self, place):
        self.url = self.server.url()
        return RedisStore(self.url)

    def raw(self, place, key):
        tag, node = self.server.tag(self.url), "1"
        for name in key.encode().split(b"/"):
            entries = dict(entry.split(b"\0") for entry in self.server.client.zrange(f"{tag}:d:{node}", 0, -1))
            node = entries[name].decode()
        return self.server.client.get(f"{tag}:v:{node}")

    def seed(self, place, key, content):
        with RedisStore(self.url) as other:
            other.set_data(key, data(content))
        return True


class Watched(RedisStore):
    """One that is told what others change from the beginning, and so believes what it was told before."""

    def connect(self, credentials=None):
        super().connect(credentials)
        assert self.watch("")


class TestWatched(TestRedis):
    def make_store(self, place):
        self.url = self.server.url()
        return Watched(self.url)


class TestJoin(StoreContract):
    """As the first store of a join, in which what is below was there before."""

    @pytest.fixture(autouse=True)
    def served(self, redis_server):
        self.server = redis_server

    def make_store(self, place):
        return joinfs.JoinedStore([Watched(self.server.url()), joinfs.MemoryStore()])


class TestEncrypted(StoreContract):
    """With TLS, a user's name and a password."""

    scheme = "rediss"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def running(cls, tmp_path_factory):
        cls.server = None
        yield
        if cls.server is not None:
            cls.server.stop()

    @pytest.fixture(autouse=True)
    def served(self, need_redis, monkeypatch, tmp_path_factory):
        from tests.stores.redis_servers import Server

        if self.server is None:
            type(self).server = Server(tmp_path_factory.mktemp("redis"), tls=True, password="s3cret word")
        monkeypatch.setenv("SSL_CERT_FILE", str(self.server.certificates.authority))
        monkeypatch.setenv("REDISCLI_AUTH", "s3cret word")

    def make_store(self, place):
        return joinfs.open_store(self.server.url().replace("//", "//default@"), connect=False)


class TestReadOnly(ReadOnlyContract):
    @pytest.fixture(autouse=True)
    def served(self, redis_server):
        self.server = redis_server

    def make_filled(self, place):
        url = self.server.url()
        with RedisStore(url) as store:
            for key, content in self.CONTENTS.items():
                store.set_data(key, data(content))
        return RedisStore(url, read_only=True)


@pytest.fixture
def url(redis_server):
    return redis_server.url()


@pytest.fixture
def store(url):
    with RedisStore(url) as store:
        yield store


def data(content):
    return io.BytesIO(content)


# ---------------------------------------------------------------- what it costs


@pytest.fixture
def asked(monkeypatch):
    """The round trips, each with the commands in it and which part of a script they run."""
    trips = []
    talk = redis_server._talk

    def counted(connection, commands, refused):
        trips.append([str(command[4] if command[0].startswith("EVALSHA") else command[0]) for command in commands])
        return talk(connection, commands, refused)

    monkeypatch.setattr(redis_server, "_talk", counted)
    return trips


def missing(ask):
    with pytest.raises(KeyError):
        ask()


COSTS = {
    "stat": (lambda store: store.stat("d/e/f/a"), "stat"),
    "stat of a directory": (lambda store: store.stat("d/e/f/"), "stat"),
    "lookup": (lambda store: store.lookup("d/e/f/a"), "stat"),
    "lookup of nothing": (lambda store: missing(lambda: store.lookup("d/e/z/a")), "stat"),
    "read": (lambda store: store.read("d/e/f/a", 1, 2), "read"),
    "read of a large one": (lambda store: store.read("big", CHUNK - 5, 10), "read"),
    "get": (lambda store: store.to_bytes("d/e/f/a"), "get"),
    "metadata": (lambda store: store.get_metadata("d/e/f/a"), "hash"),
    "xattrs": (lambda store: store.get_xattrs("d/e/f/a"), "hash"),
    "list": (lambda store: list(store.list("d/e/f/")), "list"),
    "query": (lambda store: list(store.query(n=1)), "query"),
    "put": (lambda store: store.put("d/e/f/a", Stat(FILE), data(b"new"), {"n": 2}, {"trusted.x": b"1"}), "put"),
    "put of what is new": (lambda store: store.put("x/y/z", Stat(FILE), data(b"new")), "put"),
    "set": (lambda store: store.set("d/e/f/a", (data(b"new"), {"n": 1})), "put"),
    "set_data": (lambda store: store.set_data("d/e/f/a", data(b"new")), "put"),
    "set_data in chunks": (lambda store: store.set_data("d/a", data(bytes(2 * CHUNK))), "upload SET|upload SET|put"),
    "make": (lambda store: store.make("d/new", Stat(FILE)), "make"),
    "make of a directory": (lambda store: store.make("d/new/", Stat(DIRECTORY)), "make"),
    "symlink": (lambda store: store.make("d/new", Stat(0o120777), b"target"), "make"),
    "set_stat": (lambda store: store.set_stat("d/e/f/a", mode=0o600), "set_stat"),
    "set_metadata": (lambda store: store.set_metadata("d/e/f/a", {"n": 3}), "set_metadata"),
    "update_metadata": (lambda store: store.update_metadata("d/e/f/a", {"m": 3}), "set_metadata"),
    "set_xattr": (lambda store: store.set_xattr("d/e/f/a", "trusted.x", b"1"), "set_xattr"),
    "rename": (lambda store: store.rename("d/e/f/a", "b"), "rename"),
    "rename of a directory": (lambda store: store.rename("d/", "g/"), "rename"),
    "rename and whiteout": (lambda store: store.rename_whited_out("d/e/f/a", "b"), "rename"),
    "exchange": (lambda store: store.exchange("d/", "big"), "exchange"),
    "link": (lambda store: store.link("big", "d/e/f/b"), "link"),
    "delete": (lambda store: store.delete("d/e/f/a"), "delete"),
    "sync": (lambda store: store.sync(), ""),
}


@pytest.mark.parametrize("what", COSTS)
def test_an_operation_is_one_round_trip(store, asked, what):
    store.set("d/e/f/a", (data(b"abc"), {"n": 1}))
    store.set_data("big", data(bytes(CHUNK + 10)))
    asked.clear()
    operation, cost = COSTS[what]
    operation(store)
    assert "|".join(" ".join(trip) for trip in asked) == cost


def test_what_was_listed_is_known_while_others_changes_are_told(store, url, asked):
    for n in range(10):
        store.set(f"d/{n}", (data(b"x"), {"n": n} if n == 5 else {}))
    store.set_xattr("d/6", "trusted.x", b"1")
    store.link("d/7", "e/7")
    assert store.watch("d/")
    for name, stat in store.list("d/"):
        asked.clear()
        assert (store.stat(f"d/{name}"), store.lookup(f"d/{name}")) == (stat, stat)
        assert store.get_metadata(f"d/{name}") == ({"n": 5} if name == "5" else {})
        assert store.get_xattrs(f"d/{name}") == ({"trusted.x": b"1"} if name == "6" else {})
        missing(lambda name=name: store.stat(f"d/{name}/"))
        assert [len(asked), asked] == [{"5": 1, "6": 1, "7": 5}.get(name, 0), asked]
    told = queue_of(store)
    with RedisStore(url) as other:
        for change, key in (
            (lambda: other.set_stat("d/1", mode=0o600), "d/1"),
            (lambda: other.delete("d/1"), "d/1"),
            (lambda: other.link("d/2", "x"), "x"),
            (lambda: other.update_metadata("d/3", {"new": 1}), "d/3"),
            (lambda: other.set_xattr("d/4", "trusted.y", b"1"), "d/4"),
            (lambda: other.rename("d/", "f/"), "f/"),
        ):
            change()
            while told.get(timeout=20) != key:
                pass
            for directory in ("d/", "f/"):
                for name in "0123456789":
                    assert exists_as_in(store, other, directory + name)
    missing(lambda: store.stat("d/0"))


def exists_as_in(store, other, key):
    def all_of(one):
        try:
            return one.stat(key), one.get_metadata(key), one.get_xattrs(key)
        except KeyError:
            return None

    return all_of(store) == all_of(other)


def test_a_file_that_is_made_and_written_is_known_then(store, asked):
    store.make("d/", Stat(DIRECTORY))
    assert store.watch("d/")
    asked.clear()
    made = store.make("d/a", Stat(FILE))
    assert (store.stat("d/a"), store.get_metadata("d/a"), store.get_xattrs("d/a")) == (made, {}, {})
    written = store.put("d/a", made, data(b"new"))
    assert (store.stat("d/a"), store.set_stat("d/a", mode=0o600)) == (written, store.stat("d/a"))
    assert [" ".join(trip) for trip in asked] == ["make", "put", "set_stat"]
    before = store.stat("d/")
    store.delete("d/a")
    assert store.stat("d/").mtime > before.mtime
    missing(lambda: store.stat("d/a"))


def test_a_stream_of_a_large_value_is_a_round_trip_for_each_chunk(store, asked):
    content = bytes(range(256)) * (CHUNK // 256) * 2 + b"end"
    store.set_data("a", data(content))
    asked.clear()
    assert store.to_bytes("a") == content
    assert ["|".join(trip) for trip in asked] == ["get", "hold_node|node", "GETRANGE", "GETRANGE", "GETRANGE"]
    assert store.read("a", 5, len(content)) == content[5:]
    assert store.read("a", CHUNK - 1, CHUNK + 3) == content[CHUNK - 1 : 2 * CHUNK + 2]


def test_a_script_that_the_server_has_forgotten_is_loaded_again(store, redis_server):
    redis_server.client.script_flush()
    store.set_data("a", data(b"1"))
    redis_server.client.script_flush()
    assert store.to_bytes("a") == b"1"
    redis_server.client.script_flush()
    store.set_data("a", data(bytes(BIG)))
    assert list(store.check()) == []


# ---------------------------------------------------------------- directories and names


def fill(server, url, count):
    """Put so many files into ``d``, faster than the store would."""
    tag = server.tag(url)
    with RedisStore(url) as store:
        node = store.make("d/", Stat(DIRECTORY)).file_id
    pipeline = server.client.pipeline(transaction=False)
    first = int(server.client.hincrby(f"{tag}:store", "next", count)) - count + 1
    for n in range(count):
        fields = {"m": FILE, "s": 0, "u": 0, "g": 0, "r": 0, "a": n, "t": n, "c": n, "b": n, "l": 1, "P": f"{node}/{n:06}"}
        pipeline.hset(f"{tag}:n:{first + n}", mapping=fields)
        pipeline.zadd(f"{tag}:d:{node}", {f"{n:06}\0{first + n}": 0})
        if n % 5000 == 4999:
            pipeline.execute()
    pipeline.execute()


def test_a_large_directory_holds_nobody_up(new_redis):
    server = new_redis("--slowlog-log-slower-than", "200000")  # all at once takes longer
    url = server.url()
    fill(server, url, 100_000)
    server.client.slowlog_reset()
    with RedisStore(url) as store:
        assert [name for name, _ in store.list("d/")] == [f"{n:06}" for n in range(100_000)]
        store.rename("d/", "moved/")
        assert store.stat("moved/000007").mtime == 7
        assert server.client.slowlog_get(10) == []


def test_what_comes_and_goes_while_a_directory_is_listed_is_seen_or_not(store, monkeypatch):
    monkeypatch.setattr("joinfs.stores.redis_reading.PAGE", 10)
    for n in range(50):
        store.make(f"d/{n:02}" if n else store.put("d/", Stat(DIRECTORY)) and "d/00", Stat(FILE))
    seen = []
    for name, _ in store.list("d/"):
        seen.append(name)
        if name in {"09", "25"}:  # the last of a page, and one in the middle of one: made anew, with a higher number
            store.delete(f"d/{name}")
            store.make(f"d/{name}", Stat(FILE))
            store.make(f"d/{name}\x01", Stat(FILE))
    assert [name for name in seen if "\x01" not in name] == [f"{n:02}" for n in range(50)]
    assert len(seen) == len(set(seen))


def test_a_directory_that_is_gone_while_it_is_listed_ends(store, monkeypatch):
    monkeypatch.setattr("joinfs.stores.redis_reading.PAGE", 2)
    for n in range(4):
        store.set_data(f"d/{n}", data(b""))
    listing = store.list("d/")
    next(listing)
    for n in range(4):
        store.delete(f"d/{n}")
    store.delete("d/")
    assert [name for name, _ in listing] == ["1"]


def test_a_deep_key_takes_one_request(store, asked):
    key = "d/" * 1000
    store.put(key, Stat(DIRECTORY))
    asked.clear()
    assert store.stat(key).is_directory
    assert len(asked) == 1
    store.set("d/" * 999 + "a", (data(b""), {"deep": True}))
    assert list(store.query_keys(deep=True)) == ["d/" * 999 + "a"]


def test_the_root_is_neither_deleted_nor_moved_nor_made(store):
    for write in (lambda: store.delete(""), lambda: store.rename("", "a/"), lambda: store.exchange("", "")):
        with pytest.raises((InvalidKey, KeyError)):
            write()
    with pytest.raises(KeyExists):
        store.make("", Stat(DIRECTORY))
    store.put("", Stat(DIRECTORY & ~0o055), None, {"n": 1})
    assert (store.stat("").mode, store.get_metadata(""), store.stat("").file_id) == (DIRECTORY & ~0o055, {"n": 1}, 1)


def test_numbers_stay(store):
    number = store.put("d/a", Stat(FILE), data(b"1")).file_id
    directory = store.stat("d/").file_id
    store.rename("d/", "e/")
    store.rename("e/a", "e/b")
    store.set_data("e/b", data(bytes(BIG)))
    store.link("e/b", "c")
    assert (store.stat("e/b").file_id, store.stat("c").file_id, store.stat("e/").file_id) == (number, number, directory)
    store.exchange("c", "e/")
    assert (store.stat("c/").file_id, store.stat("e").file_id) == (directory, number)
    assert list(store.check()) == []


def test_links(store):
    store.set("a", (data(bytes(BIG)), {"n": 1}))
    for name in "bcd":
        store.link("a", f"x/{name}")
    assert store.stat("a").nlink == 4
    assert sorted(store.query_keys(n=1)) == ["a", "x/b", "x/c", "x/d"]
    store.rename("a", "x/b")  # both are one file
    assert store.exists("a")
    store.rename("a", "y")
    for name in ("x/b", "x/c", "y"):
        store.delete(name)
    assert (store.stat("x/d").nlink, list(store.query_keys(n=1)), list(store.check())) == (1, ["x/d"], [])
    for wrong, error in ((("x/", "z"), Unsupported), (("x/d", "z/"), InvalidKey), (("x/d", "x/d/e"), NotADirectory)):
        with pytest.raises(error):
            store.link(*wrong)


def test_a_whiteout_is_left_in_one_step(store):
    store.set_data("d/a", data(b"1"))
    store.rename_whited_out("d/a", "b")
    left = store.stat("d/a")
    assert (stat_module.S_ISCHR(left.mode), left.rdev, store.to_bytes("b")) == (True, 0, b"1")
    store.rename_whited_out("d/", "e/")
    assert stat_module.S_ISCHR(store.stat("d").mode)
    assert store.stat("").nlink == 3
    store.rename_whited_out("b", "b")
    assert stat_module.S_ISCHR(store.stat("b").mode)
    assert list(store.check()) == []


def test_times_and_texts_of_any_kind(store):
    store.put("a", Stat(FILE, atime=-5, mtime=1 << 70), data(b""), {"joinfs.x": "hidden", "\udcff\n": [{}]}, {"trusted.\udc80": b"\0\xff", "trusted.e": b""})
    assert store.stat("a")[5:7] == (-5, (1 << 63) - 1)
    assert store.get_metadata("a") == {"joinfs.x": "hidden", "\udcff\n": [{}]}
    assert store.get_xattrs("a") == {"trusted.\udc80": b"\0\xff", "trusted.e": b""}
    assert list(store.query_keys(**{"\udcff\n": [{}]})) == ["a"]
    assert list(store.query_keys(**{"joinfs.x": "hidden"})) == ["a"]
    store.set_data("a", data(b"new"))
    assert store.get_xattrs("a")["trusted.e"] == b""


def test_ten_thousand_names_of_metadata(store):
    metadata = {f"name {n}": n for n in range(10_000)}
    store.set("a", (data(b""), metadata))
    assert store.get_metadata("a") == metadata
    store.update_metadata("a", {"name 5": "x"})
    assert list(store.query_keys(**{"name 5": "x", "name 7": 7})) == ["a"]
    store.delete("a")
    assert list(store.check()) == []


def test_queries_page_by_page(store, monkeypatch):
    monkeypatch.setattr("joinfs.stores.redis_reading.PAGE", 7)
    for n in range(30):
        store.set(f"d{n % 3}/{n}", (data(b""), {"all": True, "third": n % 3, "n": n}))
    assert sorted(store.query_keys(all=True)) == sorted(store.keys())
    assert sorted(store.query_keys(all=True, third=1)) == sorted(f"d1/{n}" for n in range(1, 30, 3))
    assert dict(store.query(["n"])) == {f"d{n % 3}/{n}": {"n": n} for n in range(30)}


# ---------------------------------------------------------------- large data


def test_what_nobody_needs_any_more_is_removed(store, url, redis_server):
    for write in (lambda: store.set_data("a", data(b"")), lambda: store.delete("a"), lambda: store.put("a", Stat(0o120777), data(b"t"))):
        store.put("a", Stat(FILE), data(bytes(CHUNK + 1)), {"n": 1}, {"trusted.x": b"1"})
        assert len(redis_server.keys(url, "b:")) == 2
        write()
        assert redis_server.keys(url, "b:") == []
        store.delete("a") if store.exists("a") else None
    assert {key.partition(":")[0] for key in redis_server.keys(url)} == {"n", "store", "w"}
    assert list(store.check()) == []


def test_a_stream_keeps_what_others_replace_until_it_is_closed(store, url, redis_server, monkeypatch):
    monkeypatch.setattr(redis_blobs, "HELD", 1)
    monkeypatch.setattr(redis_blobs, "RENEWED", 0.1)
    old = os.urandom(CHUNK * 2)
    store.set_data("a", data(old))
    with RedisStore(url) as other, store.get_data("a") as stream:
        first = stream.read(5)
        other.set_data("a", data(b"new"))
        assert not wait_for(lambda: not redis_server.keys(url, "b:"), 2)
        assert first + stream.read() == old
        assert store.to_bytes("a") == b"new"
        assert list(store.check()) == []
        stream.close()
        assert wait_for(lambda: not redis_server.keys(url, "b:"), 20)
        assert redis_server.keys(url, "trash") == []


def test_a_stream_whose_data_is_gone_says_so(store, url, redis_server):
    store.set_data("a", data(bytes(CHUNK * 2)))
    stream = store.get_data("a")
    stream.read(5)
    for key in redis_server.keys(url, "b:"):
        redis_server.client.delete(f"{redis_server.tag(url)}:{key}")
    with pytest.raises(StoreUnavailable, match="open it again"):
        stream.read()
    with pytest.raises(CorruptStore):
        store.read("a", 0, 10)


def test_what_an_uploader_left_that_died_is_removed(store, url, redis_server):
    server, tag = store._server, redis_server.tag(url)
    server.ask_all([server.simple("upload", "dead-1", "first"), ("SET", f"{tag}:b:dead-1:0", b"x")])
    server.ask_all([server.simple("upload", "dead-1", ""), ("SET", f"{tag}:b:dead-1:1", b"x")])
    store.set_data("a", data(b"1"))
    assert len(redis_server.keys(url, "b:")) == 2
    assert list(store.check()) == []
    redis_server.client.zincrby(f"{tag}:uploads", -3601, "dead-1")  # it was an hour ago
    store.set_data("a", data(b"1"))
    assert redis_server.keys(url, "b:") == redis_server.keys(url, "uploads") == []


def test_who_is_taken_for_dead_is_told(store, url, redis_server):
    class Slow(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= CHUNK:
                redis_server.client.delete(f"{redis_server.tag(url)}:uploads")
            return super().read(size)

    store.set_data("a", data(b"old"))
    with pytest.raises(StoreUnavailable, match="took so long"):
        store.set_data("a", Slow(bytes(2 * CHUNK)))
    assert store.to_bytes("a") == b"old"
    assert redis_server.keys(url, "b:") == [f"b:{store._server.store}-1:0"]  # what is not on the list any more is removed by who takes it off


def test_a_source_that_breaks_leaves_no_chunks(store, url, redis_server):
    class Breaking(io.RawIOBase):
        size = CHUNK + 5

        def read(self, size=-1):
            if not self.size:
                raise OSError(5, "it broke")
            size = min(size, self.size)
            self.size -= size
            return bytes(size)

    with pytest.raises(OSError, match="broke"):
        store.set_data("a", Breaking())
    assert (redis_server.keys(url, "b:"), redis_server.keys(url, "uploads"), store.exists("a")) == ([], [], False)


PROGRAM = """
import io, sys
from joinfs.stores.redis_store import RedisStore

class Source(io.RawIOBase):
    left = 200 << 20
    def read(self, size=-1):
        size = min(size, self.left, 1 << 20)
        self.left -= size
        return bytes(size)

with RedisStore(sys.argv[1]) as store:
    store.set_data("a", Source())
    with store.get_data("a") as stream:
        while stream.read(1 << 20):
            pass
    store.to_file("a", "/dev/null")
    print(sum(len(store.read("a", n << 20, 1 << 20)) for n in range(200)) >> 20)
"""


def test_large_values_take_a_few_chunks_of_memory(url, in_bounded_memory):
    assert in_bounded_memory(PROGRAM, 120, url, start="import joinfs.stores.redis_store, redis").strip() == "200"


# ---------------------------------------------------------------- several at once


def test_of_many_who_make_one_value_one_is_first(url):
    stores = [RedisStore(url) for _ in range(6)]
    with contextlib.ExitStack() as ending:
        for store in stores:
            ending.enter_context(store)
        for n in range(20):
            turns, made = iter(stores), []

            def make():
                with contextlib.suppress(KeyExists):
                    made.append(next(turns).make(f"a{n}", Stat(FILE)).file_id)

            in_threads(make, 6)
            assert made == [stores[0].stat(f"a{n}").file_id]


def test_metadata_that_many_add_to_loses_nothing(url):
    numbers = itertools.count()

    def add():
        with RedisStore(url) as store:
            number = next(numbers)
            for step in range(20):
                store.update_metadata("a", {f"{number}-{step}": step})

    with RedisStore(url) as store:
        store.set_data("a", data(b""))
        in_threads(add, 6)
        assert store.get_metadata("a") == {f"{number}-{step}": step for number in range(6) for step in range(20)}
        assert list(store.check()) == []


def test_readers_see_one_writers_value_whole(url):
    letters, done = iter(b"abcd"), threading.Event()
    with RedisStore(url) as store:
        store.set("v", (data(b"a" * BIG), {"letter": "a"}))

        def write():
            letter = bytes([next(letters)])
            with RedisStore(url) as own:
                for step in range(15):
                    own.set("v", (data(letter * (BIG + step)), {"letter": letter.decode()}))
            done.set()

        def read():
            while not done.is_set():
                stream, metadata = store.get("v")
                with stream:
                    content = stream.read()
                assert content == metadata["letter"].encode() * len(content)
                assert len(set(store.read("v", 10, BIG))) == 1

        turns = iter([write, write, write, write, read, read])
        in_threads(lambda: next(turns)(), 6)
        assert list(store.check()) == []


def test_a_transaction_keeps_other_threads_out(store):
    inside, seen = threading.Event(), []

    def write():
        inside.wait(10)
        store.set_data("a", data(b"other"))
        seen.append(store.to_bytes("b"))

    thread = threading.Thread(target=write)
    thread.start()
    with store.transaction("two"):
        store.set_data("a", data(b"1"))
        inside.set()
        thread.join(0.2)
        assert store.to_bytes("a") == b"1"
        store.set_data("b", data(b"2"))
    thread.join(10)
    assert (seen, store.to_bytes("a")) == ([b"2"], b"other")


# ---------------------------------------------------------------- checking and room


def test_check_finds_what_is_wrong(store, url, redis_server):
    client, tag = redis_server.client, redis_server.tag(url)
    store.set("d/a", (data(b"abc"), {"n": 1}))
    store.set_data("big", data(bytes(CHUNK + 1)))
    assert list(store.check()) == []
    number = store.stat("d/a").file_id
    blob = client.hget(f"{tag}:n:{store.stat('big').file_id}", "B").decode()
    damages = [
        (lambda: client.set(f"{tag}:v:{number}", b"ab"), f"node {number} says that it has 3 bytes, and has 2"),
        (lambda: client.delete(f"{tag}:b:{blob}:1"), "chunk 1 of node"),
        (lambda: client.set(f"{tag}:b:other:0", b"x"), "chunk other:0, which is no node's"),
        (lambda: client.hset(f"{tag}:n:{number}", "l", 2), "says that it has 2 links, and has 1"),
        (lambda: client.hset(f"{tag}:n:{number}", "m", "x"), "attributes that are no numbers"),
        (lambda: client.zadd(f"{tag}:d:1", {"ghost\x00999": 0}), "names nothing"),
        (lambda: client.zadd(f"{tag}:d:77", {f"x\x00{number}": 0}), "which is no directory"),
        (lambda: client.zrem(f"{tag}:d:1", f"d\x00{store.stat('d/').file_id}"), "has no name, and takes room"),
        (lambda: client.set(f"{tag}:v:888", b"x"), "there is data of node 888, which is not there"),
        (lambda: client.hset(f"{tag}:m:{number}", "n", "-" * 32 + "{"), "metadata is damaged"),
        (lambda: client.hset(f"{tag}:m:{number}", "n", "0" * 32 + "1"), "metadata that is not indexed"),
        (lambda: client.zadd(f"{tag}:f:{'1' * 32}", {str(number): number}), "indexed under metadata that it has not"),
        (lambda: client.set(f"{tag}:foreign", b"x"), "none of the store's keys"),
        (lambda: client.delete(f"{tag}:n:1"), "there is no root"),
    ]
    for damage, sentence in damages:
        before = {key: client.dump(key) for key in client.scan_iter(f"{tag}:*")}
        damage()
        assert sentence in "\n".join(store.check()), sentence
        for key in {*before, *client.scan_iter(f"{tag}:*")}:
            if client.dump(key) != before.get(key):
                client.delete(key)
                client.restore(key, 0, before[key]) if key in before else None
        assert list(store.check()) == []


def test_what_no_joinfs_writes_is_told(store, url, redis_server):
    client, tag = redis_server.client, redis_server.tag(url)
    store.set("a", (data(b"abc"), {"n": 1}))
    number = store.stat("a").file_id
    client.set(f"{tag}:v:{number}", b"ab")
    for ask in (lambda: store.get("a"), lambda: store.read("a", 0, 3)):
        with pytest.raises(CorruptStore):
            ask()
    client.hset(f"{tag}:m:{number}", "n", "x")
    with pytest.raises(CorruptStore):
        store.get_metadata("a")
    client.hset(f"{tag}:n:{number}", "m", 0)
    with pytest.raises(CorruptStore):
        store.stat("a")
    client.hdel(f"{tag}:n:{number}", "m")
    for ask in (lambda: store.stat("a"), lambda: list(store.list("")), lambda: store.get("a")):
        with pytest.raises(CorruptStore):
            ask()
    client.delete(f"{tag}:d:1")
    client.set(f"{tag}:d:1", b"x")
    with pytest.raises(CorruptStore):
        store.stat("a")


def test_a_database_that_was_flushed_is_no_store_any_more(new_redis):
    server = new_redis()
    with RedisStore(server.url("x")) as store:
        store.set_data("a", data(b"1"))
        server.client.flushdb()
        with pytest.raises(CorruptStore, match="flushed"):
            store.set_data("a", data(b"1"))
        store.disconnect()
        store.connect()
        assert list(store.list("")) == []


def test_usage_is_that_of_the_servers_memory(new_redis):
    server = new_redis("--maxmemory", "100mb")
    with RedisStore(server.url()) as store:
        usage = store.usage()
        assert usage.blocks * usage.block_size == 100 << 20
        assert 50 << 20 < usage.blocks_free * usage.block_size < 100 << 20
        server.client.config_set("maxmemory", 0)
        assert store.usage().blocks_free > 0


def test_a_full_server_takes_no_more_and_can_be_emptied(new_redis):
    server = new_redis("--maxmemory", "40mb")
    with RedisStore(server.url()) as store:
        store.set("old", (data(b"old" * CHUNK), {"n": 1}))
        with pytest.raises(OutOfSpace):
            store.set("old", (data(bytes(60 << 20)), {"n": 2}))
        assert (store.read("old", 0, 3), store.get_metadata("old")) == (b"old", {"n": 1})
        assert list(store.check()) == []
        server.client.config_set("maxmemory", "1mb")
        for ask in (lambda: store.make("new", Stat(FILE)), lambda: store.set_metadata("old", {"x": "y"})):
            with pytest.raises(OutOfSpace):
                ask()
        assert store.read("old", 0, 3) == b"old"
        store.delete("old")
        assert list(store.list("")) == []
        server.client.config_set("maxmemory", "40mb")
        store.make("new", Stat(FILE))
        assert list(store.check()) == []


# ---------------------------------------------------------------- what the server is


def test_a_server_that_may_lose_something_is_warned_of(new_redis, caplog):
    server = new_redis(safe=False)
    for configured, words in (("no", "keeps no log"), ("yes", "appendfsync is everysec"), ("safe", "")):
        if configured == "safe":
            server.client.config_set("appendfsync", "always")
        else:
            server.client.config_set("appendonly", configured)
        caplog.clear()
        with RedisStore(server.url()) as store:
            assert words in store.info()["risk"]
        assert [record.levelname for record in caplog.records] == ["WARNING"] * bool(words)
        assert words in caplog.text


def test_a_server_that_deletes_keys_is_refused(new_redis):
    server = new_redis("--maxmemory-policy", "allkeys-lru")
    with pytest.raises(UsageError, match="noeviction"):
        RedisStore(server.url()).connect()


def test_a_server_that_does_not_tell_is_taken_as_it_is(new_redis, caplog):
    server = new_redis()
    server.client.execute_command("ACL", "SETUSER", "default", "-config")
    with RedisStore(server.url()) as store:
        store.set_data("a", data(b"1"))
    assert "does not say" in caplog.text


def test_passwords(new_redis, monkeypatch):
    server = new_redis(password="s3cret")
    server.client.acl_setuser("jo", enabled=True, passwords=["+jo's"], keys=["*"], channels=["*"], commands=["+@all"])
    url = server.url("x")
    with pytest.raises(AccessDenied):
        RedisStore(url).connect()
    for given in ("s3cret", ("jo", "jo's")):
        store = RedisStore(url)
        store.connect(given)
        store.disconnect()
    with pytest.raises(UsageError):
        RedisStore(url).connect(5)
    for name, value in (("REDISCLI_AUTH", "s3cret"), ("JOINFS_REDIS_PASSWORD", "jo's")):
        monkeypatch.setenv(name, value)
        with RedisStore(url if name == "REDISCLI_AUTH" else url.replace("//", "//jo@")) as store:
            assert "s3cret" not in f"{store.name}{store.info()}"
    monkeypatch.setenv("JOINFS_REDIS_PASSWORD", "wrong")
    with pytest.raises(AccessDenied):
        RedisStore(url).connect()


def test_who_may_only_read_is_told(new_redis):
    server = new_redis()
    with RedisStore(server.url("x")) as store:
        store.set_data("a", data(bytes(CHUNK)))
    server.client.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@read", "+@connection", "+evalsha_ro", "+script", "+info", "+subscribe"])
    url = server.url("x").replace("//", "//reader@")
    with RedisStore(url, read_only=True) as store:
        assert len(store.to_bytes("a")) == CHUNK
        assert store.watch("")
    with pytest.raises(AccessDenied):
        RedisStore(url).connect()


def test_who_may_not_tell_others_is_refused_before_anything_is_written(new_redis):
    server = new_redis()
    server.client.execute_command("ACL", "SETUSER", "mute", "on", "nopass", "~*", "resetchannels", "+@all")
    with pytest.raises(AccessDenied):
        RedisStore(server.url("x").replace("//", "//mute@")).connect()
    assert server.client.dbsize() == 0


def test_a_replica_takes_no_writes(new_redis):
    master = new_redis()
    with RedisStore(master.url("x")) as store:
        store.set("d/a", (data(bytes(CHUNK)), {"n": 1}))
        replica = new_redis("--replicaof", "127.0.0.1", str(master.port))
        assert wait_for(lambda: replica.client.exists("{x}:store"), 30)
        with RedisStore(replica.url("x")) as second:
            assert not second.capabilities.writable
            assert (len(second.to_bytes("d/a")), list(second.query_keys(n=1))) == (CHUNK, ["d/a"])
            with pytest.raises(ReadOnly):
                second.delete("d/a")
            told = queue_of(second)
            assert second.watch("d/")
            store.set_data("d/b", data(b"1"))
            assert told.get(timeout=20) == "d/b"
        master.client.replicaof("127.0.0.1", replica.port)
        with pytest.raises(ReadOnly, match="replica"):
            store.set_data("d/a", data(b"1"))


def test_nothing_is_made_of_a_store_that_is_only_read(url):
    with pytest.raises(StoreUnavailable, match="no store yet"):
        RedisStore(url, read_only=True).connect()


def test_a_newer_format_is_refused(store, url, redis_server):
    redis_server.client.hset(f"{redis_server.tag(url)}:store", "format", "joinfs 2")
    for read_only in (False, True):
        with pytest.raises(CorruptStore, match="joinfs 2"):
            RedisStore(url, read_only=read_only).connect()


def test_stores_of_one_database_are_apart(redis_server, url):
    with RedisStore(url + "/x*") as one, RedisStore(url + "/x") as other:
        one.set("a", (data(b"1"), {"n": 1}))
        assert (list(other.keys()), list(other.query(n=1)), list(other.check()), list(one.check())) == ([], [], [], [])
        with RedisStore(url.replace("/0/", "/1/") + "/x*") as elsewhere:
            assert list(elsewhere.keys()) == []


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis:", "HOST"),
        ("redis://", "HOST"),
        ("redis://host", "database"),
        ("redis://host/0", "prefix"),
        ("redis://host/0/", "prefix"),
        ("redis://host/x/y", "database"),
        ("redis://host/0/a{b", "braces"),
        ("redis://host:x/0/a", "Port"),
        ("redis://host/0/a#b", "HOST"),
        ("redis://user:secret@host/0/a", "JOINFS_REDIS_PASSWORD"),
        ("redis://:@host/0/a", "JOINFS_REDIS_PASSWORD"),
    ],
)
def test_what_is_no_url_is_refused(url, words):
    with pytest.raises(UsageError, match=words) as told:
        joinfs.open_store(url)
    assert "secret" not in str(told.value)


def test_a_prefix_is_percent_encoded(redis_server):
    with joinfs.open_store(redis_server.url("p%3F%25%20b")) as one, joinfs.open_store(redis_server.url("p%3F%25%20b?ro")) as same, RedisStore(one.name) as again:
        one.set_data("a", data(b"1"))
        assert (same.to_bytes("a"), again.to_bytes("a"), one.name, same.name) == (b"1", b"1", redis_server.url("p%3F%25%20b"), one.name)
    assert redis_server.client.exists("{p?% b}:store")


def test_urls():
    assert parse_url("redis://host/0/a/b/").name == "redis://host:6379/0/a/b"
    assert parse_url("rediss://jo@[::1]:7/3/a").name == "rediss://jo@[::1]:7/3/a"


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(UsageError, match=r"joinfs\[redis\]"):
        RedisStore("redis://localhost/0/a").connect()


def queue_of(store):
    import queue

    told = queue.SimpleQueue()
    store.subscribe(told.put)
    return told


def wait_for(holds, patience):
    """Whether something that is told by no event comes to be in time."""
    end = threading.Event()
    for _ in range(int(patience * 50)):
        if holds():
            return True
        end.wait(0.02)
    return False
