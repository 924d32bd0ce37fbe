"""What several stores of one Redis server tell each other. SEMANTICS.md, Being told of changes."""

import io
import queue
import threading
import time

import pytest

from joinfs.errors import NotConnected
from joinfs.joined.store import JoinedStore
from joinfs.stores import Stat
from joinfs.stores.memory import MemoryStore
from joinfs.stores.redis_scripts import CHUNK
from joinfs.stores.redis_store import RedisStore
from tests.stores.redis_servers import Cutting
from tests.stores.test_watching import Told, threads

FILE, DIRECTORY = 0o100644, 0o040755


def data(content=b"x"):
    return io.BytesIO(content)


@pytest.fixture
def url(redis_server):
    return redis_server.url()


@pytest.fixture
def store(url):
    with RedisStore(url) as store:
        store.set_data("d/a", data())
        yield store


@pytest.fixture
def other(url):
    with RedisStore(url) as other:
        yield other


@pytest.fixture
def told(store):
    told = Told(store)
    assert store.watch("")
    assert store.watch("d/")
    return told


WRITES = [
    (lambda s: s.set_data("d/a", data()), ["d/a"]),
    (lambda s: s.set_data("d/\udcff", data(bytes(CHUNK))), ["d/\udcff"]),
    (lambda s: s.put("d/a", Stat(FILE), data()), ["d/a"]),
    (lambda s: s.make("d/new", Stat(FILE)), ["d/new"]),
    (lambda s: s.make("d/new/", Stat(DIRECTORY)), ["d/new"]),
    (lambda s: s.put("", Stat(DIRECTORY)), [""]),
    (lambda s: s.set_stat("d/a", mode=0o600), ["d/a"]),
    (lambda s: s.set_stat("d/", mode=0o700), ["d"]),
    (lambda s: s.set_metadata("d/a", {"n": 1}), ["d/a"]),
    (lambda s: s.update_metadata("d/a", {"n": 1}), ["d/a"]),
    (lambda s: s.set_xattr("d/a", "trusted.x", b"1"), ["d/a"]),
    (lambda s: s.rename("d/a", "d/b"), ["d/a", "d/b"]),
    (lambda s: s.rename("d/", "e/"), ["d/", "e/"]),
    (lambda s: s.link("d/a", "d/b"), ["d/a", "d/b"]),
    (lambda s: s.exchange("d/a", "x/"), ["d/a", "x/"]),
    (lambda s: s.delete("d/a"), ["d/a"]),
]


@pytest.mark.parametrize(("write", "keys"), WRITES)
def test_what_others_do_is_told(store, other, told, write, keys):
    other.make("x/", Stat(DIRECTORY))
    told.until("x")
    before = store.changes
    write(other)
    assert told.until(keys[-1]) == keys
    assert store.changes != before


def test_it_is_told_at_once(other, told):
    took = []
    for n in range(20):
        other.set_data("d/a", data(b"%d" % n))
        began = time.monotonic()
        told.until("d/a")
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.1, took


def test_what_is_told_can_be_seen(store, other):
    seen = queue.SimpleQueue()
    store.subscribe(lambda key: seen.put(store.to_bytes(key)))
    assert store.watch("")
    for n in range(20):
        other.set_data("a", data(b"%d" % n))
        assert int(seen.get(timeout=20)) >= n


def test_what_the_store_writes_itself_is_nobody_elses(store, other, told):
    told.now()
    by = []
    store.subscribe(lambda key: by.append(threading.current_thread()))
    writers = [threading.Thread(target=lambda n=n: [store.set_data(f"d/{n}", data()) for _ in range(10)]) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    other.set_data("d/last", data())
    told.until("d/last")
    assert set(by[:-1]) == set(writers)
    assert by[-1].name.startswith("changes of")


def test_what_fails_is_not_told(other, told):
    with pytest.raises(KeyError):
        other.delete("d/absent")
    with pytest.raises(KeyError):
        other.set_stat("absent", mode=0)
    other.set_data("d/last", data())
    assert told.until("d/last") == ["d/last"]


def test_only_directories_that_are_there_are_watched(store):
    for key in ("absent/", "d/a/", "absent", "d/a", "d"):
        assert not store.watch(key)


def test_after_a_lost_connection_anything_may_have_changed(redis_server, url):
    cutting = Cutting(redis_server)
    try:
        with RedisStore(url) as other, RedisStore(url.replace(f":{redis_server.port}/", f":{cutting.port}/")) as store:
            told = Told(store)
            assert store.watch("")
            cutting.cut_all()
            assert told.until(None) == [None]
            told.until(None)  # it listens again
            assert store.watch("")
            other.set_data("a", data())
            told.until("a")
    finally:
        cutting.close()


def test_while_the_server_is_gone_nothing_is_told_and_then_all(new_redis):
    server = new_redis()
    with RedisStore(server.url()) as store:
        store.patience = 0.5
        told = Told(store)
        assert store.watch("")
        server.kill()
        told.until(None)
        assert not store._others.is_told
        server.restart()
        told.until(None)
        assert store.watch("")
        with RedisStore(store.name) as other:
            other.set_data("a", data())
        told.until("a")


def test_a_server_that_stands_still_is_not_believed(new_redis, monkeypatch):
    monkeypatch.setattr("joinfs.stores.redis_watching.PULSE", 0.1)
    monkeypatch.setattr(RedisStore, "timeout", 0.5)
    server = new_redis()
    with RedisStore(server.url()) as store:
        told = Told(store)
        assert store.watch("")
        server.pause()
        try:
            told.until(None)
        finally:
            server.resume()
        told.until(None)
        assert store.watch("")


def test_there_is_a_thread_only_while_something_is_watched(url):
    assert threads() == []
    with RedisStore(url) as store:
        assert threads() == []
        assert store.watch("")
        assert len(threads()) == 1
    assert threads() == []
    with pytest.raises(NotConnected):
        store.watch("")
    store.unwatch("")
    with store:
        assert store.watch("")
        assert len(threads()) == 1


def test_a_subscriber_may_disconnect_and_watch(store, other):
    done = threading.Event()

    def end(key):
        if key == "d/last":
            assert store.watch("d/")
            store.disconnect()
            done.set()

    store.subscribe(end)
    assert store.watch("")
    other.set_data("d/last", data())
    assert done.wait(20)
    assert not store.is_connected()


def test_a_join_tells_what_others_do_to_its_first_store(url, other):
    with JoinedStore([RedisStore(url), MemoryStore()], directory_ttl=1e6) as join:
        told = Told(join)
        assert join.watch("")
        other.set_data("a", data(b"1"))
        told.until("a")
        assert join.to_bytes("a") == b"1"
        other.make("d/", Stat(DIRECTORY))
        told.until("d")
        assert join.watch("d/")
        other.set_data("d/x", data(b"2"))
        told.until("d/x")
        other.rename("d/", "e/")
        told.until("e/")
        assert [name for name, _ in join.list("e/")] == ["x"]


def test_who_catches_up_has_been_told(store, other, told):
    """However much there is to tell."""
    for number in range(300):
        other.set_data(f"d/{number}", data())
    store.catch_up()
    assert {f"d/{number}" for number in range(300)} <= set(told.now())
    store.set_data("d/?9", data())
    other.catch_up()  # which watches nothing
    store.catch_up()


def test_who_catches_up_does_not_wait_for_a_server_that_is_gone(new_redis):
    server = new_redis()
    with RedisStore(server.url()) as store:
        store.patience = 0.2
        assert store.watch("")
        server.kill()
        begun = time.monotonic()
        store.catch_up()
        assert time.monotonic() - begun < 20
