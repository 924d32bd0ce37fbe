"""Servers that are gone, slow, cut off, or not to be used. SEMANTICS.md, Tables of a server."""

import io
import itertools
import os
import subprocess
import threading
import time

import pytest

from joinfs.errors import (
    AccessDenied,
    CorruptStore,
    IsADirectory,
    KeyExists,
    NotConnected,
    ReadOnly,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from joinfs.stores import Stat, open_store
from joinfs.stores.postgres import PostgresStore
from joinfs.stores.postgres_functions import CHUNK
from joinfs.stores.postgres_schema import SCHEMA_VERSION
from joinfs.stores.postgres_url import parse_url
from tests.stores.postgres_servers import DATABASE, USER, Relay, Server
from tests.stores.test_watching import Told, set_data

FILE = Stat(0o100644)


@pytest.fixture
def relay(postgres):
    relay = Relay(postgres.port)
    yield relay
    relay.close()


@pytest.fixture
def store(postgres, relay):
    store = PostgresStore(postgres.url(relay.port), schema=postgres.new_schema())
    store.timeout = 2.0
    with store:
        set_data(store, "a", b"old")
        set_data(store, "large", bytes(5 * CHUNK))
        yield store


@pytest.fixture
def mortal(postgres):
    """A server that may be killed."""
    server = Server()
    yield server
    server.stop()


def writes(store):
    return {
        "put": lambda: set_data(store, "a"),
        "put of what is large": lambda: set_data(store, "large", bytes(3 * CHUNK)),
        "stat": lambda: store.stat("a"),
        "list": lambda: list(store.list("")),
        "stream": lambda: store.to_bytes("large"),
        "transaction": lambda: in_transaction(store),
    }


def in_transaction(store):
    with store.transaction("two"):
        set_data(store, "a", b"new")
        set_data(store, "b", b"new")


@pytest.mark.parametrize("what", writes(None))
def test_who_gets_no_answer_is_told_so_in_time_and_goes_on_afterwards(store, relay, what):
    act = writes(store)[what]
    act()
    relay.hold()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        act()
    assert time.monotonic() - began < 3 * store.timeout
    relay.flow()
    store.stat("a")
    act()
    assert list(store.check()) == []


def test_a_connection_that_was_ended_while_nobody_used_it_is_not_noticed(store, relay):
    for act in writes(store).values():
        relay.cut()
        time.sleep(0.05)  # the kernel's, to hand on that it was ended
        act()
    assert store.to_bytes("b") == b"new"


def test_a_question_that_was_cut_off_is_asked_again(store, relay):
    for _ in range(5):
        relay.swallow()
        assert store.to_bytes("a") == b"old"
        relay.swallow()
        assert {name for name, _ in store.list("")} == {"a", "large"}


WRITES = {
    "make": (lambda store: store.make("new", FILE).nlink, 1),
    "put": (lambda store: store.put("d/new", FILE, io.BytesIO(b"123")).size, 3),
    "set": (lambda store: store.set("a", (io.BytesIO(b"123"), {"n": 1})), None),
    "put of what is large": (lambda store: store.put("large", FILE, io.BytesIO(b"x" * 3 * CHUNK)).size, 3 * CHUNK),
    "chmod": (lambda store: store.set_stat("a", mode=0o600).mode, 0o100600),
    "update_metadata": (lambda store: store.update_metadata("a", {"n": 1}), None),
    "set_xattr": (lambda store: store.set_xattr("a", "trusted.x", b"1"), None),
    "link": (lambda store: store.link("a", "l").nlink, 2),
    "rename": (lambda store: store.rename("a", "b"), None),
    "rename of a directory": (lambda store: store.rename("p/", "r/"), None),
    "exchange": (lambda store: store.exchange("p/", "q/"), None),
    "delete": (lambda store: store.delete("a"), None),
}


def everything(store):
    """What can be seen of a store, but for times and numbers."""
    found = {}
    for key in ("a", "b", "l", "new", "large", "d/new", "p/one", "q/one", "r/one"):
        if store.exists(key):
            stat = store.stat(key)
            found[key] = (stat.mode, stat.nlink, store.to_bytes(key), store.get_metadata(key), store.get_xattrs(key))
    return found


@pytest.mark.parametrize("cut", ["answer", "question"])
@pytest.mark.parametrize("what", WRITES)
def test_a_write_that_was_cut_off_is_done_once(postgres, store, relay, what, cut):
    act, answer = WRITES[what]
    with PostgresStore(postgres.url(), schema=postgres.new_schema()) as undisturbed:
        for one in (store, undisturbed):
            set_data(one, "a", b"old")
            set_data(one, "large", bytes(5 * CHUNK))
            set_data(one, "p/one", b"one")
            one.put("q/", Stat(0o040755))
        act(undisturbed)
        relay.swallow(cut)
        assert act(store) == answer
        assert everything(store) == everything(undisturbed)
        assert list(store.check()) == []


@pytest.mark.parametrize("cut", ["answer", "question"])
def test_a_write_that_was_refused_and_cut_off_is_refused(store, relay, cut):
    store.make("d/", Stat(0o040755))
    refused = [
        (lambda: store.make("a", FILE), KeyExists),
        (lambda: store.delete("absent"), KeyError),
        (lambda: store.rename("absent", "a"), KeyError),
        (lambda: set_data(store, "d"), IsADirectory),
        (lambda: store.link("a", "large"), KeyExists),
        (lambda: store.set_stat("absent", mode=0), KeyError),
    ]
    for act, error in refused:
        relay.swallow(cut)
        with pytest.raises(error):
            act()


def test_what_became_of_a_write_is_not_known_if_the_server_does_not_come_back(mortal):
    store, relay = PostgresStore(mortal.url(), schema="gone"), Relay(mortal.port)
    relayed = PostgresStore(mortal.url(relay.port), schema="gone")
    relayed.timeout = 1.0
    try:
        with store, relayed:
            set_data(relayed, "a", b"old")
            relay.swallow()
            relay.end()  # and whoever comes after that finds nobody
            with pytest.raises(StoreUnavailable, match="not known"):
                set_data(relayed, "a", b"new")
            assert store.to_bytes("a") == b"new"
    finally:
        relay.close()


def test_a_transaction_that_was_cut_off_when_it_was_committed_is_asked_for(store, relay):
    with store.transaction("committed"):
        set_data(store, "a", b"new")
        relay.swallow()
    assert store.to_bytes("a") == b"new"


def test_a_large_value_that_was_cut_off_when_it_was_committed_is_asked_for(store, relay, monkeypatch):
    commit = store._connections._commit

    def swallowed(*arguments):
        relay.swallow()
        commit(*arguments)

    monkeypatch.setattr(store._connections, "_commit", swallowed)
    set_data(store, "large", b"x" * (3 * CHUNK))
    assert store.to_bytes("large") == b"x" * (3 * CHUNK)


def test_a_transaction_that_was_cut_off_before_it_was_committed_is_undone(store, relay):
    with pytest.raises(StoreUnavailable, match="undone"), store.transaction("undone"):
        set_data(store, "a", b"new")
        relay.cut()
        with pytest.raises(StoreUnavailable):
            set_data(store, "b", b"new")
    assert (store.to_bytes("a"), store.exists("b")) == (b"old", False)


def test_a_commit_that_never_got_there_is_undone(store, relay, monkeypatch):
    commit = store._connections._commit

    def cut(*arguments):
        relay.cut()
        commit(*arguments)

    monkeypatch.setattr(store._connections, "_commit", cut)
    with pytest.raises(StoreUnavailable, match="was undone"), store.transaction("undone"):
        set_data(store, "a", b"new")
    assert store.to_bytes("a") == b"old"


def test_a_stream_that_was_cut_off_says_so(store, relay):
    stream = store.get_data("large")
    stream.read(1)
    relay.cut()
    with pytest.raises(StoreUnavailable):
        stream.read()
    stream.close()
    assert store.to_bytes("a") == b"old"


def test_a_server_that_is_killed_under_load_loses_nothing_that_was_answered(mortal):
    """Twice, with kill -9."""
    acknowledged, ended = {}, threading.Event()
    failures = []

    def write(store, number):
        for step in itertools.count():
            if ended.is_set():
                return
            key, content = f"d{number}/{step % 50}", b"%d-%d" % (number, step) * (20_000 if step % 10 == 0 else 3)
            try:
                store.set(key, (io.BytesIO(content), {"step": step}))
                acknowledged[key] = [content]
            except StoreUnavailable:
                acknowledged[key] = [*acknowledged.get(key, [None]), content]  # either may be there now
                time.sleep(0.02)
            except StoreError as error:
                failures.append(error)

    stores = [PostgresStore(mortal.url(), schema="killed") for _ in range(2)]
    for store in stores:
        store.timeout = 10.0
        store.connect()
    told = Told(stores[0])
    assert stores[0].watch("")
    writers = [threading.Thread(target=write, args=(stores[number % 2], number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for _ in range(2):
        time.sleep(0.7)
        mortal.kill()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            stores[0].stat("absent")
        assert time.monotonic() - began < 5
        mortal.start()
    time.sleep(0.5)
    ended.set()
    for writer in writers:
        writer.join(60)
    assert failures == []
    assert None in told.until(None)
    for key, contents in acknowledged.items():
        assert (stores[1].to_bytes(key) if stores[1].exists(key) else None) in contents, key
    assert list(stores[0].check()) == []
    for store in stores:
        store.disconnect()


def test_a_machine_that_vanishes_in_a_transaction_keeps_others_out_for_a_while_only(postgres, monkeypatch):
    from joinfs.stores import postgres_connections

    monkeypatch.setattr(postgres_connections, "ABANDONED", 1)
    schema, relay = postgres.new_schema(), Relay(postgres.port)
    gone, other = PostgresStore(postgres.url(relay.port), schema=schema), PostgresStore(postgres.url(), schema=schema)
    gone.timeout = 0.5
    try:
        with gone, other:
            with pytest.raises(StoreUnavailable), gone.transaction("never ends"):
                relay.hold()
                began = time.monotonic()
                set_data(other, "a")
                assert time.monotonic() - began < 5
            relay.flow()
    finally:
        relay.close()


# ---------------------------------------------------------------- opening


def test_it_is_opened_by_its_url(postgres):
    schema = postgres.new_schema()
    with open_store(f"postgres:{postgres.url()}?schema={schema}") as store:
        set_data(store, "d/a")
        assert store.name == f"postgres://{USER}@127.0.0.1:{postgres.port}/{DATABASE}?schema={schema}"
    with open_store(f"postgres:{postgres.url()}?schema={schema}&ro&prefix=d") as view:
        assert [name for name, _ in view.list("")] == ["a"]
        with pytest.raises(ReadOnly):
            set_data(view, "b")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("//jo:secret@host/db", "password"),
        ("//jo:@host/db", "password"),
        ("//host", "names no database"),
        ("//host/", "names no database"),
        ("host/db", "names no database"),
        ("//host:port/db", "Port"),
        ("//host/db\n", "names no database"),
        ("//host/d%0Ab", "no name"),
        ("//host/" + "d" * 64, "no name"),
    ],
)
def test_a_url_that_is_none_is_refused(url, words):
    with pytest.raises(UsageError, match=words) as told:
        PostgresStore(url)
    assert "secret" not in str(told.value)


def test_names_of_schemas_are_names(postgres):
    for wrong in ("a%b", "s" * 64, "a\nb", "x'y", "{s}"):
        with pytest.raises(UsageError, match="schema"):
            parse_url("//host/db", wrong)
    for odd in ('a "quoted" one', "Ünïcode", "select", "a;b"):
        with PostgresStore(postgres.url(), schema=odd) as store:
            set_data(store, "a")
            with PostgresStore(postgres.url(), schema=odd) as again:
                assert again.to_bytes("a") == b"x"


def test_parts_of_a_url():
    assert parse_url("//jo@[::1]:5/d%41", "s")[:5] == ("::1", "5", "jo", "dA", "s")
    assert parse_url("///db", "").parameters() == {"dbname": "db"}
    assert parse_url("//jo@[::1]:5/db", "s").name == "postgres://jo@[::1]:5/db?schema=s"


def test_where_nothing_listens_the_store_is_unavailable():
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        PostgresStore("//127.0.0.1:1/db").connect()


def test_a_database_that_is_not_there_is_said(postgres):
    with pytest.raises(StoreUnavailable, match="createdb"):
        PostgresStore(postgres.url() + "none").connect()


def test_tables_of_a_newer_joinfs_are_refused(postgres):
    schema = postgres.new_schema()
    with PostgresStore(postgres.url(), schema=schema):
        pass
    with postgres.connect() as connection:
        for version, words in ((SCHEMA_VERSION + 1, "update joinfs"), (0, "no joinfs has made")):
            connection.execute(f"UPDATE {schema}.store SET version = {version}")
            with pytest.raises(CorruptStore, match=words):
                PostgresStore(postgres.url(), schema=schema).connect()
        connection.execute(f"DELETE FROM {schema}.store")
        with pytest.raises(CorruptStore, match="do not say their version"):
            PostgresStore(postgres.url(), schema=schema).connect()


def test_a_schema_of_others_is_left_alone(postgres):
    schema = postgres.new_schema()
    with postgres.connect() as connection:
        connection.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.theirs (n int)")
    with pytest.raises(CorruptStore, match="another program"):
        PostgresStore(postgres.url(), schema=schema).connect()


def test_an_empty_schema_is_made_a_store_but_not_for_reading(postgres):
    schema = postgres.new_schema()
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no store in the schema"):
            PostgresStore(postgres.url(), schema=schema, read_only=True).connect()
        with postgres.connect() as connection:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    with PostgresStore(postgres.url(), schema=schema) as store:
        set_data(store, "a")


def test_two_who_make_the_tables_at_once(postgres):
    schema = postgres.new_schema()
    stores = [PostgresStore(postgres.url(), schema=schema) for _ in range(6)]
    threads = [threading.Thread(target=store.connect) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    set_data(stores[0], "a")
    assert [store.exists("a") for store in stores] == [True] * 6
    for store in stores:
        store.disconnect()


def test_who_may_only_read_the_tables_has_a_store_that_takes_no_writes(postgres):
    schema = postgres.new_schema()
    with PostgresStore(postgres.url(), schema=schema) as store:
        set_data(store, "a", bytes(3 * CHUNK))
    with postgres.connect() as connection:
        connection.execute(f"CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA {schema} TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
    url = postgres.url().replace(f"{USER}@", "reader@")
    with PostgresStore(url, schema=schema) as reader:
        assert not reader.capabilities.writable
        assert reader.to_bytes("a") == bytes(3 * CHUNK)
        with pytest.raises(ReadOnly):
            set_data(reader, "a")
    with pytest.raises(AccessDenied):
        PostgresStore(url, schema=postgres.new_schema()).connect()


def test_tables_that_are_dropped_meanwhile_are_said_to_be_gone(postgres):
    schema = postgres.new_schema()
    with PostgresStore(postgres.url(), schema=schema) as store, postgres.connect() as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
        with pytest.raises(CorruptStore):
            store.stat("a")
        with pytest.raises(CorruptStore):
            set_data(store, "a")


def test_passwords_come_from_where_libpq_has_them(postgres, monkeypatch, tmp_path):
    with postgres.connect() as connection:
        assert connection.execute("SHOW hba_file").fetchone()
    monkeypatch.setenv("PGUSER", USER)
    with PostgresStore(f"//127.0.0.1:{postgres.port}/{DATABASE}", schema=postgres.new_schema()) as store:
        assert "@" not in store.name
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(postgres.port))
    with PostgresStore(f"///{DATABASE}", schema=postgres.new_schema()) as store:
        assert store.stat("").is_directory


def test_what_is_damaged_is_found_and_not_believed(postgres):
    schema = postgres.new_schema()
    damages = {
        "UPDATE {s}.node SET size = 7 WHERE id > 1": "bytes",
        "UPDATE {s}.node SET nlink = 7 WHERE id > 1": "links",
        "UPDATE {s}.node SET metadata = '[' WHERE id > 1": "not JSON",
        "UPDATE {s}.node SET xattrs = '{{\"a\": \"!\"}}' WHERE id > 1": "base64",
        "UPDATE {s}.node SET mode = 16877 WHERE id > 1": "directory",
        "UPDATE {s}.node SET fields = '{{5}}' WHERE id > 1": "indexed",
        "DELETE FROM {s}.chunk WHERE n = 1": "missing",
        "DELETE FROM {s}.node WHERE id > 1": "names nothing",
        "DELETE FROM {s}.entry": "no name",
        "UPDATE {s}.entry SET parent = 7": "no directory",
        "UPDATE {s}.chunk SET data = 'x' WHERE n = 0": "wrong length",
        "UPDATE {s}.chunk SET content = 99": "no node's",
    }
    for damage, words in damages.items():
        with PostgresStore(postgres.url(), schema=schema) as store:
            store.set("a", (io.BytesIO(os.urandom(3 * CHUNK)), {"n": 1}))
            assert list(store.check()) == []
            with postgres.connect() as connection:
                connection.execute(damage.format(s=schema))
            assert any(words in sentence for sentence in store.check()), damage
            for ask in (lambda store=store: store.stat("a"), lambda store=store: store.to_bytes("a"), lambda store=store: store.get_xattrs("a")):
                try:
                    ask()
                except (CorruptStore, KeyError):
                    pass
            with postgres.connect() as connection:
                connection.execute(f"DROP SCHEMA {schema} CASCADE")


def test_a_store_is_not_used_after_a_fork(postgres):
    with PostgresStore(postgres.url(), schema=postgres.new_schema()) as store:
        set_data(store, "a")
        child = os.fork()
        if child == 0:
            try:
                store.stat("a")
            except NotConnected:
                store.disconnect()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        assert store.to_bytes("a") == b"x"


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(UsageError, match="joinfs\\[postgres\\]"):
        PostgresStore("//host/db").connect()


def test_the_library_is_not_imported_before_it_is_used():
    program = "import sys, joinfs.stores.postgres as p; p.PostgresStore('//host/db'); assert 'psycopg' not in sys.modules"
    subprocess.run([__import__("sys").executable, "-c", program], check=True, timeout=60)
