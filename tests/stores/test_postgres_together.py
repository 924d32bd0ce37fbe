"""Several who write to the tables of one server at once, and what they are told of each other. SEMANTICS.md, Tables of a server; Being told of changes."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time

import pytest

from joinfs.errors import DirectoryNotEmpty, IsADirectory, KeyExists, NotADirectory, StoreLocked
from joinfs.stores import Stat
from joinfs.stores.postgres import PostgresStore
from joinfs.stores.postgres_functions import CHUNK
from joinfs.stores.postgres_watching import LONGEST, heard, told_of
from tests.stores.postgres_servers import Relay
from tests.stores.test_watching import Told, set_data

FILE, DIRECTORY = Stat(0o100644), Stat(0o040755)
ROUNDS = 30


@pytest.fixture
def pair(postgres):
    """Two stores of the same tables."""
    schema = postgres.new_schema()
    with PostgresStore(postgres.url(), schema=schema) as one, PostgresStore(postgres.url(), schema=schema) as other:
        yield one, other


def at_once(*acts):
    """Do all at the same moment; answer what each answered or raised."""
    barrier, results = threading.Barrier(len(acts)), [None] * len(acts)

    def do(number):
        barrier.wait(20)
        try:
            results[number] = acts[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


# ---------------------------------------------------------------- at once


def test_of_two_makers_of_one_key_one_is_told(pair):
    for number in range(ROUNDS):
        results = at_once(*(lambda store=store: store.make(f"d{number}", FILE) for store in (*pair, *pair)))
        assert sorted(type(result).__name__ for result in results) == ["KeyExists"] * 3 + ["Stat"]
    assert list(pair[0].check()) == []


def test_directories_on_the_way_are_made_once(pair):
    for number in range(ROUNDS):
        results = at_once(*(lambda store=store, n=n: set_data(store, f"w{number}/a/b/{n}") for n, store in enumerate((*pair, *pair))))
        assert results == [None] * 4
        assert len(list(pair[0].list(f"w{number}/a/b/"))) == 4
    assert list(pair[0].check()) == []


def test_a_directory_in_which_something_is_made_is_not_deleted(pair):
    for number in range(ROUNDS):
        pair[0].make(f"d{number}/", DIRECTORY)
        deleted, made = at_once(lambda: pair[0].delete(f"d{number}/"), lambda: pair[1].make(f"d{number}/a", FILE))
        if isinstance(made, Stat):
            assert isinstance(deleted, DirectoryNotEmpty)
            assert pair[0].exists(f"d{number}/a")
        else:
            assert (deleted, type(made)) == (None, KeyError)
    assert list(pair[0].check()) == []


def test_of_two_directories_each_is_not_moved_into_the_other(pair):
    for number in range(ROUNDS):
        for name in "ab":
            pair[0].make(f"{name}{number}/", DIRECTORY)
        results = at_once(
            lambda: pair[0].rename(f"a{number}/", f"b{number}/a/"), lambda: pair[1].rename(f"b{number}/", f"a{number}/b/")
        )
        # Who comes second finds the other's directory away, and what it was to be put into made anew.
        assert results.count(None) >= 1
        assert all(result is None or isinstance(result, KeyError) for result in results)
    assert list(pair[0].check()) == []


def test_of_two_renames_of_one_key_one_is_told_that_it_is_gone(pair):
    for number in range(ROUNDS):
        set_data(pair[0], f"a{number}")
        results = at_once(lambda: pair[0].rename(f"a{number}", f"x{number}"), lambda: pair[1].rename(f"a{number}", f"y{number}"))
        assert sorted(type(result).__name__ for result in results) == ["KeyError", "NoneType"]
        assert pair[0].exists(f"x{number}") != pair[0].exists(f"y{number}")
    assert list(pair[0].check()) == []


def test_renames_crosswise_and_exchanges_wait_for_each_other_in_no_circle(pair):
    for name in ("p/a", "p/b", "q/a", "q/b"):
        set_data(pair[0], name, name.encode())

    def move(store, number):
        for step in range(ROUNDS):
            with contextlib.suppress(KeyError):
                store.rename(*(("p/a", "q/b"), ("q/b", "p/a"), ("q/a", "p/b"), ("p/b", "q/a"))[(step + number) % 4])
            with contextlib.suppress(KeyError):
                store.exchange("p/a", "q/a")

    began = time.monotonic()
    assert at_once(*(lambda n=n, store=store: move(store, n) for n, store in enumerate((*pair, *pair)))) == [None] * 4
    assert time.monotonic() - began < 30
    assert list(pair[0].check()) == []


def test_names_of_one_file_that_go_at_once_leave_nothing(pair):
    for number in range(ROUNDS):
        set_data(pair[0], f"p/a{number}", bytes(2 * CHUNK))
        pair[0].link(f"p/a{number}", f"q/a{number}")
        assert at_once(lambda: pair[0].delete(f"p/a{number}"), lambda: pair[1].delete(f"q/a{number}")) == [None, None]
    assert list(pair[0].check()) == []
    assert pair[0]._connections.ask(f"SELECT count(*) FROM {pair[0]._connections.names.s}.chunk") == (0,)


def test_a_file_is_not_put_over_a_directory_that_comes_first(pair):
    for number in range(ROUNDS):
        results = at_once(lambda: set_data(pair[0], f"a{number}"), lambda: pair[1].put(f"a{number}/", DIRECTORY))
        kinds = {type(result) for result in results}
        assert kinds in ({type(None), NotADirectory}, {Stat, IsADirectory})
    assert list(pair[0].check()) == []


def test_of_writers_of_one_file_each_leaves_it_whole(pair):
    """Large and small, while it is read as a whole and as a stream."""
    sizes = {b"a": 5, b"b": CHUNK * 3 + 7, b"c": 200_000, b"d": (1 << 20) + 5}
    set_data(pair[0], "f", b"a" * 5)
    ended = threading.Event()
    wrong = []

    def write(store, letter):
        for _ in range(8):
            store.set("f", (io.BytesIO(letter * sizes[letter]), {"letter": letter.decode()}))

    def read(store):
        while not ended.is_set():
            stream, _metadata = store.get("f")
            with stream:
                content = stream.read()
            letter = content[:1]
            if content != letter * sizes[letter]:
                wrong.append(content[:5])

    readers = [threading.Thread(target=read, args=(store,)) for store in pair]
    for reader in readers:
        reader.start()
    results = at_once(*(lambda letter=letter, store=store: write(store, letter) for letter, store in zip(sizes, (*pair, *pair), strict=True)))
    ended.set()
    for reader in readers:
        reader.join(20)
    assert (results, wrong) == ([None] * 4, [])
    stream, metadata = pair[0].get("f")
    assert stream.read()[:1].decode() == metadata["letter"]
    assert list(pair[0].check()) == []


def test_nothing_that_is_added_to_metadata_is_lost(pair):
    set_data(pair[0], "a")

    def add(store, number):
        for step in range(10):
            store.update_metadata("a", {f"{number}-{step}": step})
            store.set_xattr("a", f"trusted.{number}-{step}", b"1")

    assert at_once(*(lambda n=n, store=store: add(store, n) for n, store in enumerate((*pair, *pair)))) == [None] * 4
    assert len(pair[1].get_metadata("a")) == len(pair[1].get_xattrs("a")) == 40


def test_a_transaction_has_the_store_alone(pair):
    one, other = pair
    other.timeout = 1.0
    other.disconnect()
    other.connect()
    set_data(one, "a", b"old")
    with one.transaction("whole"):
        set_data(one, "a", b"new")
        assert other.to_bytes("a") == b"old"
        with pytest.raises(StoreLocked):
            set_data(other, "b")
    set_data(other, "b")
    assert other.to_bytes("a") == b"new"


def test_inode_numbers_stay_and_never_come_again(pair):
    set_data(pair[0], "a/f")
    numbers = pair[0].stat("a/").file_id, pair[0].stat("a/f").file_id
    pair[0].rename("a/", "b/")
    set_data(pair[0], "b/f", b"new")
    assert (pair[1].stat("b/").file_id, pair[1].stat("b/f").file_id) == numbers
    pair[0].delete("b/f")
    assert pair[0].make("b/f", FILE).file_id not in numbers


# ---------------------------------------------------------------- being told


def test_what_another_store_writes_is_told_with_its_keys(pair):
    one, other = pair
    set_data(one, "d/a")
    told = Told(one)
    assert one.watch("")
    assert one.watch("d/")
    changes = [
        (lambda: set_data(other, "d/a", b"new"), {"d/a"}),
        (lambda: other.make("d/m", FILE), {"d/m"}),
        (lambda: other.set_stat("d/a", mode=0o600), {"d/a"}),
        (lambda: other.set_stat("d/", mode=0o700), {"d"}),
        (lambda: other.update_metadata("d/a", {"n": 1}), {"d/a"}),
        (lambda: other.set_xattr("d/a", "trusted.x", b"1"), {"d/a"}),
        (lambda: other.link("d/a", "d/l"), {"d/a", "d/l"}),
        (lambda: other.rename("d/l", "e/\udcff"), {"d/l", "e/\udcff"}),
        (lambda: other.exchange("d/", "e/"), {"d/", "e/"}),
        (lambda: other.delete("e/a"), {"e/a"}),
        (lambda: set_data(other, "large", bytes(2 * CHUNK)), {"large"}),
    ]
    for change, keys in changes:
        change()
        assert set(told.until(*keys)) == keys


def test_it_is_told_within_a_tenth_of_a_second(pair):
    one, other = pair
    told = Told(one)
    assert one.watch("")
    took = []
    for number in range(20):
        set_data(other, f"a{number}")
        began = time.monotonic()
        told.until(f"a{number}")
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.1


def test_our_own_writes_are_not_told_as_others(pair):
    one, other = pair
    told = Told(one)
    assert one.watch("")
    for number in range(20):
        set_data(one, f"ours{number}")
    set_data(other, "theirs")
    heard_of = told.until("theirs")
    assert heard_of == [*(f"ours{number}" for number in range(20)), "theirs"]  # ours in this thread, each once


def test_a_transaction_is_told_at_its_end_and_not_if_it_was_undone(pair):
    one, other = pair
    told = Told(one)
    assert one.watch("")
    with pytest.raises(RuntimeError), other.transaction("undone"):
        set_data(other, "undone")
        raise RuntimeError
    with other.transaction("whole"):
        set_data(other, "a")
        set_data(other, "b")
        assert told.now() == []
    assert told.until("b") == ["a", "b"]


def test_another_process_is_heard(pair, postgres):
    told = Told(pair[0])
    assert pair[0].watch("")
    program = "import io, sys; from joinfs.stores import open_store; open_store(sys.argv[1]).set_data('theirs', io.BytesIO(b'x'))"
    url = f"postgres:{postgres.url()}?schema={pair[0]._place.schema}"
    subprocess.run([sys.executable, "-c", program, url], check=True, timeout=60, cwd=os.getcwd())
    told.until("theirs")
    assert pair[0].to_bytes("theirs") == b"x"


def test_what_is_too_long_for_a_notification_is_everything(pair):
    key = "/".join(["k" * 250] * 40)
    assert heard(told_of("o", key)) == ("o", [None])
    assert heard(told_of("o", "a\udcff/b", "c/")) == ("o", ["a\udcff/b", "c/"])
    assert len(told_of("o", "k" * (LONGEST - 10))) <= LONGEST
    assert heard("not ours")[1] == [None]
    told = Told(pair[0])
    assert pair[0].watch("")
    set_data(pair[1], key)
    told.until(None)


def test_when_the_way_to_the_server_was_lost_everything_may_have_changed(postgres):
    relay, schema = Relay(postgres.port), postgres.new_schema()
    try:
        with PostgresStore(postgres.url(), schema=schema) as other, PostgresStore(postgres.url(relay.port), schema=schema) as store:
            told = Told(store)
            assert store.watch("")
            relay.cut()
            told.until(None)
            told.until(None)  # the second, when it is back
            assert store.watch("")
            set_data(other, "a")
            told.until("a")
    finally:
        relay.close()


def test_a_store_that_only_reads_is_told(pair, postgres):
    with PostgresStore(postgres.url(), schema=pair[0]._place.schema, read_only=True) as reader:
        told = Told(reader)
        assert reader.watch("")
        set_data(pair[0], "a")
        told.until("a")


def test_a_subscriber_may_disconnect(pair):
    one, other = pair
    done = threading.Event()

    def end(key):
        one.disconnect()
        done.set()

    one.subscribe(end)
    assert one.watch("")
    set_data(other, "a")
    assert done.wait(20)
    one.connect()
    assert one.exists("a")


def test_keys_exist_is_an_error_of_its_own(pair):
    pair[0].make("a/", DIRECTORY)
    for store in pair:
        with pytest.raises(KeyExists):
            store.make("a", FILE)


def test_who_has_caught_up_has_been_told_of_all_before(pair):
    one, other = pair
    keys = []
    one.subscribe(keys.append)
    one.catch_up()  # nothing is watched, so there is nothing to wait for
    assert one.watch("")
    for number in range(50):
        set_data(other, f"a{number}")
        one.catch_up()
        assert keys[-1] == f"a{number}"
    one.disconnect()
    one.catch_up()
    one.connect()


def test_who_catches_up_while_the_server_is_gone_is_let_go(postgres):
    relay = Relay(postgres.port)
    store = PostgresStore(postgres.url(relay.port), schema=postgres.new_schema())
    store.timeout = 1.0
    try:
        with store:
            assert store.watch("")
            relay.hold()
            began = time.monotonic()
            store.catch_up()
            assert time.monotonic() - began < 5
            relay.flow()
    finally:
        relay.close()


def test_many_threads_share_a_few_connections(pair):
    from joinfs.stores.postgres_connections import MOST

    one, connections = pair[0], pair[0]._connections
    opened, open_one = [], connections.open
    connections.open = lambda: (opened.append(1), open_one())[1]
    set_data(one, "large", bytes(9 * CHUNK))
    streams = [one.get_data("large") for _ in range(MOST + 3)]
    opened.clear()

    def work():
        for _ in range(5):
            one.stat("large")
            with one.transaction("one"):
                set_data(one, "a")

    assert at_once(*[work] * 40) == [None] * 40
    assert len(opened) <= MOST
    assert [len(stream.read()) for stream in streams] == [9 * CHUNK] * len(streams)
    for stream in streams:
        stream.close()


def counted(store):
    """A list that grows with each question that a store asks."""
    connections, asked = store._connections, []
    ask = connections._asked
    connections._asked = lambda *arguments: (asked.append(1), ask(*arguments))[1]
    return asked


def test_who_asks_for_what_was_just_listed_waits_for_nothing_unless_somebody_wrote(pair):
    one, other = pair
    for key in ("d/a", "d/b", "d/s/c", "l"):
        set_data(other, key)
    other.link("l", "d/l")
    other.set_xattr("d/b", "trusted.x", b"1")
    assert one.watch("")
    asked = counted(one)
    assert len(list(one.list("d/"))) == 4
    asked.clear()
    assert (one.lookup("d/a").size, one.get_xattrs("d/a"), one.lookup("d/s").is_directory, one.get_xattrs("d/s/")) == (1, {}, True, {})
    assert asked == []
    assert one.get_xattrs("d/b") == {"trusted.x": b"1"}
    assert one.lookup("d/l").nlink == 2
    with pytest.raises(KeyError):
        one.get_xattrs("d/a/")
    assert len(asked) == 3
    writes = [
        (lambda: set_data(other, "d/a", b"longer"), lambda: one.lookup("d/a").size == 6),
        (lambda: set_data(one, "d/a", b"longest"), lambda: one.lookup("d/a").size == 7),
        (lambda: other.set_xattr("d/a", "trusted.x", b"1"), lambda: one.get_xattrs("d/a") != {}),
        (lambda: other.make("d/s/new/", DIRECTORY), lambda: one.lookup("d/s").nlink == 3),
        (lambda: set_data(one, "d/s/more/x"), lambda: one.lookup("d/s").nlink == 4),
        (lambda: other.rename("d/s/", "d/r/"), lambda: not exists(one, "d/s")),
        (lambda: one.delete("d/a"), lambda: not exists(one, "d/a")),
    ]
    for write, seen in writes:
        list(one.list("d/"))
        write()
        one.catch_up()
        assert seen()
    list(one.list("d/"))
    with contextlib.suppress(RuntimeError), one.transaction("undone"):
        set_data(one, "d/b", b"in a transaction")
        assert one.lookup("d/b").size == 16
        list(one.list("d/"))
        raise RuntimeError
    assert one.lookup("d/b").size == 1


def exists(store, key):
    try:
        store.lookup(key)
    except KeyError:
        return False
    return True


def test_what_was_listed_while_somebody_wrote_is_not_believed(pair):
    from joinfs.stores.postgres_listed import MOST, Listed

    listed = Listed()
    version = listed.version()
    listed.put(version, {"a": (FILE, False)})
    assert listed.find("a").stat == FILE
    listed.forget("b")
    listed.put(version, {"c": (FILE, False)})
    assert listed.find("c") is None
    assert listed.find("a") is not None
    listed.put(listed.version(), {f"{number}": (FILE, False) for number in range(MOST)})
    assert listed.find("a") is None
    listed.forget(None)
    assert listed.find("1") is None
