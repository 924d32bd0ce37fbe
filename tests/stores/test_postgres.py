"""Tables of a PostgreSQL server, on a real one. SEMANTICS.md, Tables of a server; Scale."""

import io
import itertools
import os

import pytest

from joinfs.joined.store import JoinedStore
from joinfs.stores import Stat
from joinfs.stores.memory import MemoryStore
from joinfs.stores.postgres import PostgresStore
from joinfs.stores.postgres_chunks import INLINE
from joinfs.stores.postgres_functions import CHUNK
from joinfs.testing import ReadOnlyContract, StoreContract
from tests.stores.postgres_servers import Relay


class OnPostgres:
    @pytest.fixture(autouse=True)
    def served(self, postgres):
        self.server = postgres

    def new(self, **given):
        self.schema = self.server.new_schema()
        return PostgresStore(self.server.url(), schema=self.schema, **given)


class TestPostgres(OnPostgres, StoreContract):
    scheme = "postgres"

    def make_store(self, place):
        return self.new()

    def raw(self, place, key):
        above, name = key.encode().split(b"/")
        with self.server.connect() as connection:
            query = (
                f"SELECT n.data FROM {self.schema}.entry d JOIN {self.schema}.entry e ON e.parent = d.node"
                f" JOIN {self.schema}.node n ON n.id = e.node WHERE d.parent = 1 AND d.name = %s AND e.name = %s"
            )
            return connection.execute(query, (above, name)).fetchone()[0]

    def seed(self, place, key, content):
        with PostgresStore(self.server.url(), schema=self.schema) as other:
            other.set_data(key, io.BytesIO(content))
        return True


class TestReadOnly(OnPostgres, ReadOnlyContract):
    def make_filled(self, place):
        with self.new() as store:
            for key, content in self.CONTENTS.items():
                store.set_data(key, io.BytesIO(content))
        return PostgresStore(self.server.url(), schema=self.schema, read_only=True)


class TestJoinOver(OnPostgres, StoreContract):
    def make_store(self, place):
        return JoinedStore([self.new(), MemoryStore()])


FILE, DIRECTORY = Stat(0o100644), Stat(0o040755)


def data(content):
    return io.BytesIO(content)


def put(store, key, content=b"x"):
    store.set_data(key, data(content))


@pytest.fixture
def schema(postgres):
    return postgres.new_schema()


@pytest.fixture
def store(postgres, schema):
    with PostgresStore(postgres.url(), schema=schema) as store:
        yield store


@pytest.fixture
def other(postgres, schema, store):
    with PostgresStore(postgres.url(), schema=schema) as other:
        yield other


@pytest.fixture
def relay(postgres):
    relay = Relay(postgres.port)
    yield relay
    relay.close()


@pytest.fixture
def relayed(postgres, schema, relay):
    """A store beyond the relay."""
    store = PostgresStore(postgres.url(relay.port), schema=schema)
    store.timeout = 3.0
    with store:
        yield store


# ---------------------------------------------------------------- what it costs


def missing(store, key):
    with pytest.raises(KeyError):
        store.lookup(key)


DEEP = "/".join(["deep"] * 60) + "/"
COSTS = {
    "stat": (lambda store, n: store.stat("d/a"), 1),
    "stat of what is deep": (lambda store, n: store.stat(f"{DEEP}a"), 1),
    "lookup": (lambda store, n: store.lookup("d"), 1),
    "lookup of nothing": (lambda store, n: missing(store, "d/z"), 1),
    "exists": (lambda store, n: store.exists("d/z"), 1),
    "get": (lambda store, n: store.get("d/a").data.read(), 1),
    "read": (lambda store, n: store.read("d/a", 2, 3), 1),
    "get of what is inline and not small": (lambda store, n: store.to_bytes("d/inline"), 1),
    "read of a piece of what is large": (lambda store, n: store.read("d/large", CHUNK - 5, 10), 1),
    "get of what is large": (lambda store, n: store.to_bytes("d/large"), 2),
    "metadata": (lambda store, n: store.get_metadata("d/a"), 1),
    "xattrs": (lambda store, n: store.get_xattrs("d/a"), 1),
    "list of a directory": (lambda store, n: list(store.list("d/")), 1),
    "make": (lambda store, n: store.make(f"d/new{n}", FILE), 1),
    "make of a directory": (lambda store, n: store.make(f"d/new{n}/", DIRECTORY), 1),
    "put of what is new": (lambda store, n: store.put(f"d/new{n}", FILE, data(b"new"), {"n": n}, {"trusted.x": b"1"}), 1),
    "put with directories on the way": (lambda store, n: store.put(f"way{n}/a/b/c", FILE, data(b"new")), 1),
    "put over": (lambda store, n: store.put("d/a", FILE, data(b"0123456789")), 1),
    "set": (lambda store, n: store.set("d/a", (data(b"0123456789"), {"n": n})), 1),
    "set_data, which keeps the rest": (lambda store, n: store.set_data("d/a", data(b"0123456789")), 1),
    "put of what is large": (lambda store, n: store.put(f"d/large{n}", FILE, data(bytes(3 * CHUNK))), 6),
    "chmod": (lambda store, n: store.set_stat("d/a", mode=0o600), 1),
    "set_metadata": (lambda store, n: store.set_metadata("d/a", {"n": 5}), 1),
    "update_metadata": (lambda store, n: store.update_metadata("d/a", {"n": n}), 2),
    "set_xattr": (lambda store, n: store.set_xattr("d/a", "trusted.x", b"1"), 2),
    "link": (lambda store, n: store.link("d/b", f"d/link{n}"), 1),
    "rename": (lambda store, n: store.rename(f"d/{n}", f"e/{n}"), 1),
    "rename over": (lambda store, n: store.rename(f"d/{n}", "d/b"), 1),
    "rename of a directory": (lambda store, n: store.rename(f"full{n}/", f"e/full{n}/"), 1),
    "exchange of directories": (lambda store, n: store.exchange("d/", "f/"), 1),
    "delete": (lambda store, n: store.delete(f"d/{n}"), 1),
    "query": (lambda store, n: list(store.query(colour="red")), 1),
    "transaction of two": (lambda store, n: two(store), 4),
}


def two(store):
    with store.transaction("two"):
        put(store, "d/a")
        put(store, "d/b")


@pytest.mark.parametrize("operation", COSTS)
def test_what_an_operation_waits_for(store, relayed, relay, operation):
    for key in ("d/a", "d/b", "f/a", f"{DEEP}a"):
        store.set(key, (data(b"0123456789"), {"colour": "red"}))
    put(store, "d/inline", bytes(INLINE))
    put(store, "d/large", bytes(2 * CHUNK + 5))
    put(store, "e/x")
    for number in range(10):
        put(store, f"d/{number}")
        put(store, f"full{number}/x")
    act, expected = COSTS[operation]
    for number in range(8):  # psycopg prepares a statement when it has been used for some times
        if operation == "exchange of directories" and number == 0:
            continue
        act(relayed, number)
    before = relay.trips
    act(relayed, 8)
    assert relay.trips - before == expected


def test_a_piece_of_what_is_large_is_all_that_is_sent(store, relayed, relay):
    put(store, "large", os.urandom(20 * CHUNK))
    relayed.read("large", 0, 10)
    for size in (10, 1000, CHUNK):
        before = relay.sent
        assert len(relayed.read("large", 7 * CHUNK - 5, size)) == size
        assert relay.sent - before < size + 1000


def test_a_directory_of_several_pages_is_listed_by_pages(store, relayed, relay):
    with store.transaction("many"):
        for number in range(4001):
            store.make(f"{number}", FILE)
    before = relay.trips
    listed = [name for name, _ in relayed.list("")]
    assert sorted(map(int, listed)) == list(range(4001))
    assert relay.trips - before == 3


@pytest.mark.parametrize("size", [INLINE, INLINE + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 9 * CHUNK + 7])
def test_data_of_any_size_is_answered_whole_and_in_pieces(store, size):
    content = os.urandom(size)
    store.put("a", FILE, data(content))
    assert store.to_bytes("a") == content
    for offset, count in itertools.product((0, 1, CHUNK - 1, CHUNK, size - 1, size, size + 5), (1, 7, CHUNK, size + 5)):
        assert store.read("a", offset, count) == content[offset : offset + count]
    assert list(store.check()) == []
    put(store, "a", b"short")
    assert (store.to_bytes("a"), list(store.check())) == (b"short", [])
    store.delete("a")
    assert store._connections.ask(f"SELECT count(*) FROM {store._connections.names.s}.chunk") == (0,)
