"""A Redis server that goes away, comes back, or answers into the void. SEMANTICS.md, A server that goes away."""

import contextlib
import io
import os
import threading
import time

import pytest

from joinfs.errors import KeyExists, NotConnected, StoreUnavailable
from joinfs.stores import Stat
from joinfs.stores.redis_scripts import CHUNK
from joinfs.stores.redis_server import Server
from joinfs.stores.redis_store import RedisStore
from tests.stores.redis_servers import Cutting

FILE = 0o100644


def data(content):
    return io.BytesIO(content)


class Hasty(RedisStore):
    """One that does not take long to give up."""

    timeout = 0.5
    patience = 0.5


@pytest.fixture
def cutting(redis_server):
    between = Cutting(redis_server)
    yield between
    between.close()


@pytest.fixture
def behind(cutting, redis_server):
    """A store behind what cuts connections."""
    with RedisStore(redis_server.url().replace(f":{redis_server.port}/", f":{cutting.port}/")) as store:
        yield store


# ---------------------------------------------------------------- done once


WRITES = {
    "make": (lambda store: store.make("new", Stat(FILE)), lambda store: store.exists("new")),
    "link": (lambda store: store.link("a", "new").nlink, lambda store: store.stat("new").nlink == 2),
    "delete": (lambda store: store.delete("a"), lambda store: not store.exists("a")),
    "rename": (lambda store: store.rename("a", "new"), lambda store: store.exists("new")),
    "rename of a directory": (lambda store: store.rename("d/", "e/"), lambda store: store.exists("e/b")),
    "exchange": (lambda store: store.exchange("a", "d/"), lambda store: store.to_bytes("d") == b"a"),
    "set in chunks": (lambda store: store.set_data("a", data(b"x" * CHUNK * 2)), lambda store: store.read("a", CHUNK - 1, 3) == b"xxx"),
    "metadata": (lambda store: store.update_metadata("a", {"n": 1}), lambda store: store.get_metadata("a") == {"m": 0, "n": 1}),
    "xattr": (lambda store: store.set_xattr("a", "trusted.x", None), lambda store: store.get_xattrs("a") == {}),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("cuts", [1, 3])
def test_a_write_whose_answer_is_lost_is_done_once(behind, cutting, what, cuts):
    behind.put("a", Stat(FILE), data(b"a"), {"m": 0}, {"trusted.x": b"1"})
    behind.set_data("d/b", data(b"b"))
    write, is_done = WRITES[what]
    cutting.cuts = cuts
    write(behind)
    assert (cutting.cuts, len(cutting.lost)) == (0, cuts)
    assert is_done(behind)
    assert list(behind.check()) == []


def test_what_is_refused_is_refused_again(behind, cutting):
    behind.make("a", Stat(FILE))
    cutting.cuts = 1
    with pytest.raises(KeyExists):
        behind.make("a", Stat(FILE))


def test_reading_goes_on_after_a_cut(behind, cutting):
    content = os.urandom(CHUNK * 2)
    behind.set_data("a", data(content))
    with behind.get_data("a") as stream:
        first = stream.read(10)
        cutting.cuts = 1
        assert first + stream.read() == content
    cutting.cuts = 1
    assert behind.read("a", CHUNK - 5, 10) == content[CHUNK - 5 : CHUNK + 5]
    for n in range(5):
        behind.set_data(f"d/{n}", data(b""))
    cutting.cut_all()
    assert len(list(behind.list("d/"))) == 5


def test_a_request_that_comes_after_later_ones_is_not_done(behind):
    """As of a server that stood still: what was given up is in its buffers, and the next is, too."""
    server = behind._server
    behind.set_data("a", data(b"1"))
    with server._writing() as writer:
        late = (*_put_command(server, writer.name, writer.number, b"late"),)
        newer = (*_put_command(server, writer.name, writer.number + 1, b"newer"),)
        writer.number += 1
    assert server.ask(*newer)[0] == b"ok"
    assert server.ask(*late) == [b"late"]
    assert server.ask(*newer)[0] == b"ok"
    assert behind.to_bytes("a") == b"newer"


def _put_command(server, writer, number, content):
    from joinfs.stores.redis_scripts import WRITING

    given = (b"a", "smx", FILE, 0, 0, 0, 0, 0, len(content), "", content, 0o040755, 0, 0, b"", b"")
    return WRITING.command(server.tag, "put", writer, number, server.store, 0, "a", *given)


# ---------------------------------------------------------------- gone


def test_a_server_that_was_never_there_is_tried_once(monkeypatch):
    tried = []
    monkeypatch.setattr(Server, "open_connection", lambda server, ask=Server.open_connection: tried.append(1) or ask(server))
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        RedisStore("redis://127.0.0.1:9/0/x").connect()
    assert tried == [1]


def test_a_server_that_is_gone_is_told_in_bounded_time_and_found_when_it_is_back(new_redis):
    server = new_redis()
    with Hasty(server.url()) as store:
        store.set_data("a", data(b"1"))
        server.kill()
        for ask in (lambda: store.stat("a"), lambda: store.set_data("a", data(b"2")), lambda: list(store.list("")), lambda: store.set_data("a", data(bytes(CHUNK)))):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                ask()
            assert time.monotonic() - began < 3
        began = time.monotonic()
        for _ in range(20):  # it is known to be gone
            with pytest.raises(StoreUnavailable):
                store.stat("a")
        assert time.monotonic() - began < 1
        server.restart()
        assert store.to_bytes("a") == b"1"
        store.set_data("a", data(b"3"))
        assert list(store.check()) == []
    with pytest.raises(StoreUnavailable):
        server.kill()
        Hasty(server.url()).connect()


def test_a_server_that_stands_still_is_told_in_bounded_time(new_redis):
    server = new_redis()
    with Hasty(server.url()) as store:
        store.set_data("a", data(b"1"))
        server.pause()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.set_data("a", data(b"2"))
            assert time.monotonic() - began < 5
        finally:
            server.resume()
        store.set_data("a", data(b"3"))
        assert store.to_bytes("a") == b"3"
        assert list(store.check()) == []


def test_a_server_that_runs_somebodys_script_for_long_is_waited_for(new_redis):
    server = new_redis("--busy-reply-threshold", "20")
    with RedisStore(server.url()) as store:
        store.set_data("a", data(b"1"))

        def run():
            with contextlib.suppress(Exception), server.new_client() as client:
                client.eval("while true do end", 0)

        running = threading.Thread(target=run)
        running.start()
        assert wait_for(lambda: is_busy(server))
        asking = threading.Thread(target=store.set_data, args=("a", data(b"2")))
        asking.start()
        asking.join(0.2)
        assert asking.is_alive()
        server.client.script_kill()
        asking.join(20)
        running.join(20)
        assert store.to_bytes("a") == b"2"


def is_busy(server):
    import redis

    try:
        server.client.ping()
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


def test_who_waits_for_a_server_is_told_when_the_store_is_disconnected(new_redis):
    server = new_redis()
    store = RedisStore(server.url())
    store.connect()
    server.kill()
    raised = []

    def ask():
        with pytest.raises((NotConnected, StoreUnavailable)) as told:
            store.stat("a")
        raised.append(told.value)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(0.1)
    store.disconnect()
    thread.join(5)
    assert [type(error) for error in raised] == [NotConnected]


def test_nothing_that_was_acknowledged_is_lost_when_the_server_is_killed_under_load(new_redis):
    server = new_redis()
    url = server.url()
    stop, acknowledged, lock = threading.Event(), {}, threading.Lock()

    def write(number):
        with RedisStore(url) as store:
            for step in range(100_000):
                key, content = f"d{number}/{step % 7}", b"%d-%d " % (number, step) * (1 if step % 10 else 50_000)
                store.set(key, (data(content), {"step": step}))
                if step % 5 == 4:
                    store.rename(key, f"moved{number}/{step}")
                    key = f"moved{number}/{step}"
                with lock:
                    acknowledged[key] = content
                if stop.is_set():
                    return

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for _ in range(3):
        before = len(acknowledged)
        assert wait_for(lambda before=before: len(acknowledged) > before + 100)
        server.kill()
        server.restart()
    stop.set()
    for writer in writers:
        writer.join(60)
    assert not any(writer.is_alive() for writer in writers)
    server.kill()
    server.restart()
    with RedisStore(url) as store:
        for key, content in acknowledged.items():
            if key.startswith("moved"):  # of the others a later one was renamed away
                assert store.to_bytes(key) == content, key
        for key, metadata in store.query():
            number = int(key.partition("/")[0].lstrip("moved"))
            assert store.to_bytes(key).startswith(b"%d-%d " % (number, metadata["step"]))
        assert list(store.check()) == []


def wait_for(holds, patience=60):
    end = threading.Event()
    for _ in range(patience * 100):
        if holds():
            return True
        end.wait(0.01)
    return False


def test_many_threads_share_few_connections(redis_server):
    with RedisStore(redis_server.url()) as store:
        threads = [threading.Thread(target=lambda n=n: [store.set_data(f"{n}", data(b"x")) for _ in range(10)]) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(list(store.keys())) == 40
        assert len(store._server._idle) <= 16
        server = store._server
    assert server._idle == []
    with contextlib.suppress(NotConnected):
        server.ask("PING")
        pytest.fail("it is closed")
