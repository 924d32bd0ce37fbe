"""Threads that read a join while others write to it. SEMANTICS.md, Threads."""

import io
import sys
import threading

import pytest

from joinfs.errors import DirectoryNotEmpty
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
from joinfs.testing import DictStore

TURNS = 200
DIRECTORY = new_stat(0o040755)


def put(store, key, content, **metadata):
    store.set(key, (io.BytesIO(content), metadata))


@pytest.fixture(autouse=True)
def often():
    """Let threads take turns as often as can be: what can go wrong between two steps does, within seconds."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["memory", "directory", "sqlite", "flat"])
def join(request, tmp_path):
    (tmp_path / "upper").mkdir()
    upper = {
        "memory": MemoryStore,
        "directory": lambda: DirectoryStore(tmp_path / "upper"),
        "sqlite": lambda: SQLiteStore(tmp_path / "upper.db"),
        "flat": lambda: DictStore({}),
    }[request.param]()
    lower = MemoryStore()
    lower.connect()
    for key in ("d/a", "d/b", "e/s/c"):
        put(lower, key, b"lower")
    with JoinedStore([upper, lower]) as store:
        yield store


def while_looking(look, change, turns=TURNS):
    """Change in this thread while two others look; what they saw."""
    seen, failed, done = set(), [], threading.Event()

    def watch():
        try:
            while not done.is_set():
                seen.add(look())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(turns):
            change(turn)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failed == []
    return seen


def content(store, key):
    try:
        return store.to_bytes(key)
    except KeyError:
        return None


def test_a_file_that_is_deleted_and_made_again_never_shows_the_lower_one(join):
    put(join, "d/a", b"upper")

    def change(turn):
        join.delete("d/a")
        put(join, "d/a", b"upper")

    assert while_looking(lambda: content(join, "d/a"), change) <= {b"upper", None}


def test_a_listing_never_shows_what_was_deleted(join):
    def change(turn):
        put(join, "d/a", b"the upper one")
        join.delete("d/a")

    def look():
        there = dict(join.list("d/")).get("a")
        return there and there.size

    change(0)
    assert while_looking(look, change) <= {None, len(b"the upper one")}


def test_a_directory_that_is_made_again_never_shows_what_the_lower_one_had(join):
    for key in ("d/a", "d/b", "d/"):
        join.delete(key)

    def change(turn):
        join.put("d/", DIRECTORY)
        put(join, "d/new", b"new")
        join.delete("d/new")
        join.delete("d/")

    assert while_looking(lambda: (content(join, "d/a"), content(join, "d/b")), change) == {(None, None)}


def test_a_directory_that_is_renamed_is_whole_at_one_of_its_names(join):
    def change(turn):
        join.rename("e/", "f/")
        join.rename("f/", "e/")

    seen = while_looking(lambda: (content(join, "e/s/c"), content(join, "f/s/c")), change, TURNS // 4)
    assert seen <= {(b"lower", None), (None, b"lower"), (b"lower", b"lower"), (None, None)}  # two looks, one after the other
    assert seen & {(b"lower", None), (None, b"lower")}
    assert (content(join, "e/s/c"), content(join, "f/s/c")) == (b"lower", None)


def test_a_transaction_is_seen_whole_and_one_that_fails_is_not_seen(join):
    if not join.capabilities.transactions:
        pytest.skip("the first store has no transactions")
    put(join, "x", b"0")
    put(join, "y", b"0")

    class Fails(Exception):
        pass

    def change(turn):
        with join.transaction("both"):
            put(join, "y", b"%d" % turn)
            put(join, "x", b"%d" % turn)
        with pytest.raises(Fails), join.transaction("none"):
            join.delete("x")
            join.rename("e/", "f/")
            join.delete("d/a")
            raise Fails

    def look():
        x, y = int(join.to_bytes("x")), int(join.to_bytes("y"))
        return x <= y, join.exists("e/s/c"), join.exists("f/"), content(join, "d/a"), {n for n, _ in join.list("")} >= {"x", "y", "d", "e"}

    assert while_looking(look, change, TURNS // 4) == {(True, True, False, b"lower", True)}


def test_transactions_and_writes_of_other_threads_do_not_wait_for_each_other_for_ever(join):
    def write():
        for turn in range(30):
            put(join, f"own/{threading.current_thread().name}", b"%d" % turn)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        with join.transaction("several"):
            put(join, "x", b"%d" % turn)
            put(join, "own/x", b"%d" % turn)
            join.update_metadata("d/a", {"turn": turn})
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert len(dict(join.list("own/"))) == 4
    assert join.get_metadata("d/a") == {"turn": 29}


def test_a_write_to_a_lower_store_during_one_of_the_join_is_seen_at_once(join):
    lower = join.layers[1]
    for turn in range(50):
        began, wrote = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, size=-1, began=began, wrote=wrote):
                began.set()
                wrote.wait(10)
                return super().read(size)

        thread = threading.Thread(target=put, args=(join, "slow", b"")) if turn % 2 else threading.Thread(
            target=join.set, args=("slow", (Slow(b"x"), {}))
        )
        assert not join.exists(f"late{turn}/")
        thread.start()
        if not turn % 2:
            began.wait(10)
        put(lower, f"late{turn}/a", b"late")
        wrote.set()
        thread.join()
        assert join.to_bytes(f"late{turn}/a") == b"late"
        with pytest.raises(DirectoryNotEmpty):
            join.delete(f"late{turn}/")
