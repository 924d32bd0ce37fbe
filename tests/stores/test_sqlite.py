"""What is SQLite's own. SEMANTICS.md, SQLite; Transactions."""

import io
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from joinfs.errors import CorruptStore, ReadOnly, StoreUnavailable
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.db"


def raw(path, statement, *arguments):
    database = sqlite3.connect(path)
    try:
        answer = database.execute(statement, arguments).fetchall()
        database.commit()
    finally:
        database.close()
    return answer


def test_a_foreign_database_is_refused_and_left_alone(path):
    raw(path, "create table theirs (x)")
    before = path.read_bytes()
    with pytest.raises(CorruptStore, match=r"x\.db"):
        SQLiteStore(path).connect()
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused_and_left_alone(path):
    with SQLiteStore(path):
        pass
    raw(path, "pragma user_version = 999")
    before = path.read_bytes()
    with pytest.raises(CorruptStore, match="newer"):
        SQLiteStore(path).connect()
    assert path.read_bytes() == before


@pytest.fixture
def old(path):
    """A database of schema 1, which had no index of metadata."""
    with SQLiteStore(path) as store:
        for number in range(50):
            store.set(f"d/{number}", (io.BytesIO(b"%d" % number), {"number": number, "all": True}))
    for statement in ("DROP TABLE field", "DROP INDEX entry_node", "PRAGMA user_version = 1"):
        raw(path, statement)
    return path


def test_an_older_schema_is_brought_to_this_one(old):
    with SQLiteStore(old) as store:
        assert list(store.query_keys(number=7)) == ["d/7"]
        assert len(list(store.query(all=True))) == 50
        store.set_metadata("d/7", {"number": 8})
        assert sorted(store.query_keys(number=8)) == ["d/7", "d/8"]
        assert (store.stat("").nlink, store.stat("d/").nlink) == (3, 2)
    assert raw(old, "PRAGMA user_version") == [(3,)]


def test_links_of_directories_are_counted_in_a_database_of_schema_2(path):
    with SQLiteStore(path) as store:
        for key in ("d/a/f", "d/b/f", "d/c"):
            store.set(key, (io.BytesIO(b""), {}))
    raw(path, "UPDATE node SET nlink = 1")
    raw(path, "PRAGMA user_version = 2")
    with SQLiteStore(path) as store:
        assert (store.stat("").nlink, store.stat("d/").nlink, store.stat("d/a/").nlink) == (3, 4, 2)
        assert store.stat("d/c").nlink == 1
    assert raw(path, "PRAGMA user_version") == [(3,)]


@pytest.mark.parametrize("metadata", ["{broken", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}", '{"a":NaN}', "[]"])
def test_an_older_schema_that_cannot_be_read_is_left_alone(old, metadata):
    raw(old, "UPDATE node SET metadata = ? WHERE id = (SELECT max(id) FROM node)", metadata)
    before = raw(old, "SELECT * FROM sqlite_schema")
    with pytest.raises(CorruptStore, match="metadata"):
        SQLiteStore(old).connect()
    assert (raw(old, "SELECT * FROM sqlite_schema"), raw(old, "PRAGMA user_version")) == (before, [(1,)])


def test_an_older_schema_is_not_changed_by_who_only_reads(old):
    with pytest.raises(StoreUnavailable, match="open it for writing once"):
        SQLiteStore(old, read_only=True).connect()
    assert raw(old, "PRAGMA user_version") == [(1,)]


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000, b"S"])
def test_what_is_no_database_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CorruptStore, match=r"x\.db"):
        SQLiteStore(path).connect()
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_database(path):
    path.touch()
    with SQLiteStore(path) as store:
        store.set("a", (io.BytesIO(b"1"), {}))
        assert list(store.keys()) == ["a"]


def test_a_place_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StoreUnavailable):
        SQLiteStore(tmp_path / "none" / "x.db").connect()
    with pytest.raises((StoreUnavailable, CorruptStore)):
        SQLiteStore(tmp_path).connect()


def test_read_only_takes_no_writes(path):
    with SQLiteStore(path) as store:
        store.set("a", (io.BytesIO(b"1"), {}))
    with SQLiteStore(path, read_only=True) as store:
        assert store.to_bytes("a") == b"1"
        with pytest.raises(ReadOnly):
            store.delete("a")


def test_a_directory_with_many_files_is_renamed_by_changing_few_rows(path):
    with SQLiteStore(path) as store:
        with store.transaction("many"):
            for number in range(2000):
                store.set(f"d/s/{number}", (io.BytesIO(b""), {}))
    tables = [name for (name,) in raw(path, "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'")]

    def rows():
        return {name: set(raw(path, f"select * from {name}")) for name in tables}

    before = rows()
    with SQLiteStore(path) as store:
        store.rename("d/", "e/")
        assert store.exists("e/s/1999")
    changed = sum(len(rows()[name] ^ before[name]) for name in tables)
    assert changed < 10


WRITER = """
import io, sys
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
with SQLiteStore(sys.argv[1]) as store:
    for number in range(60):
        store.set(f"{sys.argv[2]}/{number}", (io.BytesIO(sys.argv[2].encode() * 5000), {"n": number}))
        store.set_data("shared", io.BytesIO(sys.argv[2].encode() * 400_000))
"""


def test_processes_write_side_by_side_and_lose_nothing(path):
    with SQLiteStore(path):
        pass
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in "abc"]
    try:
        assert [writer.wait(100) for writer in writers] == [0, 0, 0]
    finally:
        for writer in writers:
            writer.kill()
    with SQLiteStore(path) as store:
        assert len(list(store.keys())) == 181
        assert all(store.to_bytes(f"{name}/59") == name.encode() * 5000 for name in "abc")
        shared = store.to_bytes("shared")
        assert shared == shared[:1] * 400_000


KILLED = """
import io, sys
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
store = SQLiteStore(sys.argv[1])
store.connect()
store.set("kept", (io.BytesIO(b"kept"), {}))
with store.transaction("never ends"):
    store.set("half", (io.BytesIO(b"x" * 3_000_000), {}))
    store.delete("old")
    print("half", flush=True)
    sys.stdin.read()
"""


def test_a_process_that_is_killed_in_a_transaction_leaves_nothing_of_it(path):
    with SQLiteStore(path) as store:
        store.set("old", (io.BytesIO(b"old"), {}))
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert process.stdout.readline() == b"half\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with SQLiteStore(path) as store:
        assert sorted(store.keys()) == ["kept", "old"]
        assert store.to_bytes("old") == b"old"
    assert raw(path, "pragma integrity_check") == [("ok",)]


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18, (5 << 18) + 77])
def test_data_of_sizes_around_those_of_chunks(path, size):
    data = os.urandom(size)
    with SQLiteStore(path) as store:
        store.set("a", (io.BytesIO(data), {}), 100_000)
        assert store.stat("a").size == size
        assert store.to_bytes("a") == data
        for offset in (0, 1, (1 << 18) - 1, 1 << 18, size - 1, size):
            if offset >= 0:
                assert store.read("a", offset, 300_000) == data[offset : offset + 300_000]


def test_what_is_replaced_or_deleted_leaves_no_chunks(path):
    with SQLiteStore(path) as store:
        store.set("a", (io.BytesIO(b"x" * 3_000_000), {}))
        store.set("a", (io.BytesIO(b"small"), {}))
        store.set("b", (io.BytesIO(b"x" * 3_000_000), {}))
        store.rename("a", "b")
        store.set("c", (io.BytesIO(b"x" * 3_000_000), {}))
        store.delete("c")
    names = [name for (name,) in raw(path, "select name from sqlite_master where type = 'table' and name like '%chunk%'")]
    assert [raw(path, f"select count(*) from {name}") for name in names] == [[(0,)]]


@pytest.fixture
def store(tmp_path):
    with SQLiteStore(tmp_path / "x.db") as store:
        yield store


def test_queries_are_answered_from_an_index(store):
    for number in range(50):
        store.set(f"d{number % 5}/{number}", (io.BytesIO(), {"n": number, "even": number % 2 == 0}))
    store.link("d3/3", "link")
    assert sorted(store.query_keys(n=3)) == ["d3/3", "link"]
    asked = []
    with store._reading() as db:
        db.set_trace_callback(asked.append)
    assert len(list(store.query_keys(n=3, even=False))) == 2
    with store._reading() as db:
        db.set_trace_callback(None)
        (query,) = [text for text in asked if "FROM field f" in text]
        plan = " / ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))
        rows = db.execute("SELECT count(*) FROM field").fetchone()
    assert "SEARCH f USING PRIMARY KEY (name=? AND value=?" in plan
    assert "SCAN" not in plan
    assert rows == (100,)
    for number in range(50):
        store.delete(f"d{number % 5}/{number}")
    store.delete("link")
    with store._reading() as db:
        assert db.execute("SELECT count(*) FROM field").fetchone() == (0,)


def test_queries_of_more_than_a_page(store, monkeypatch):
    monkeypatch.setattr("joinfs.stores.sqlite.PAGE", 7)
    with store.transaction("many"):
        for number in range(40):
            store.set(f"d{number % 5}/{number}", (io.BytesIO(), {"odd": number % 2}))
    assert len(set(store.query_keys(odd=1))) == len(list(store.query_keys(odd=1))) == 20
    assert len(set(store.query_keys())) == len(list(store.query_keys())) == 40


def test_an_error_of_the_medium_has_the_number_that_the_host_gives_it(path):
    """Without root there is one such error that can be made: a file that would be too long."""
    program = f"""
import errno, io, resource
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
with SQLiteStore({str(path)!r}) as store:
    store.set("old", (io.BytesIO(b"old"), {{}}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    try:
        store.set("new", (io.BytesIO(bytes(1_000_000)), {{}}))
    except OSError as error:
        assert error.errno == errno.EFBIG, error
        assert "the medium of the database takes no writes" in str(error)
    else:
        raise AssertionError("it was written")
    assert list(store.keys()) == ["old"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.set("new", (io.BytesIO(bytes(1_000_000)), {{}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with SQLiteStore(path) as store:
        assert sorted(store.keys()) == ["new", "old"]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_nothing_is_written_to_a_database_that_is_gone(path, how):
    with SQLiteStore(path) as store:
        store.set("a", (io.BytesIO(b"1"), {}))
        there = path.rename(path.with_name("elsewhere"))
        if how == "replaced":
            path.write_bytes(b"")
        with pytest.raises(StoreUnavailable, match="deleted, moved or replaced"):
            store.set("b", (io.BytesIO(b"2"), {}))
        there.rename(path)
        store.set("b", (io.BytesIO(b"2"), {}))
        assert sorted(store.keys()) == ["a", "b"]


DAMAGES = {
    "UPDATE entry SET node = 999 WHERE name = x'66'": "names nothing",
    "UPDATE entry SET parent = 999 WHERE name = x'66'": "is no directory",
    "UPDATE entry SET directory = 1 WHERE name = x'66'": "says wrongly whether it is a directory",
    "DELETE FROM entry WHERE name = x'66'": "has no name",
    "UPDATE entry SET parent = (SELECT node FROM entry WHERE name = x'65') WHERE name = x'64'": "cannot be reached",
    "UPDATE node SET nlink = 7 WHERE id = 1": "says that it has 7 links, and has 4",
    "UPDATE node SET size = 7 WHERE id = 3": "says that it has 7 bytes, and has 1",
    "UPDATE chunk SET n = 5 WHERE n = 1": "some of the data of node",
    "INSERT INTO chunk (node, n, data) VALUES (999, 0, x'00')": "data of node 999, which is not there",
    "INSERT INTO field (node, name, value) VALUES (999, 'a', 'b')": "node 999 is indexed",
    "UPDATE node SET metadata = '[' WHERE id = 3": "node 3: ",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(path, damage):
    with SQLiteStore(path) as store:
        store.set("d/f", (io.BytesIO(b"1"), {"k": "v"}))
        store.set("e/g", (io.BytesIO(bytes(1_000_000)), {}))
        if "x'64'" in damage:
            store.rename("e/", "d/e/")
        assert list(store.check()) == []
    raw(path, damage)
    with SQLiteStore(path, read_only=True) as store:
        assert any(DAMAGES[damage] in sentence for sentence in store.check())


@pytest.mark.parametrize("back", [True, False], ids=["and back", "away"])
def test_a_directory_that_others_move_while_it_is_listed_is_no_damage(path, monkeypatch, back):
    """Each question is of its own moment; between the two of a listing the directory may be moved."""
    from joinfs.stores import sqlite_nodes

    with SQLiteStore(path) as store, SQLiteStore(path) as others:
        store.from_bytes("d/e/f", b"1")
        real, count = sqlite_nodes.find, iter(range(1000))

        def moved_after(db, key, *more):
            found = real(db, key, *more)
            if key == "d/e/" and more:
                turn = next(count)
                if turn == 0:
                    others.rename("d/e/", "d/moved/")
                if turn == 0 and back:
                    others.rename("d/", "x/")
                    others.rename("x/", "d/")
                    others.rename("d/moved/", "d/e/")
            return found

        monkeypatch.setattr(sqlite_nodes, "find", moved_after)
        if back:
            assert [name for name, _ in store.list("d/e/")] == ["f"]
        else:
            with pytest.raises(KeyError):
                list(store.list("d/e/"))


# -------------------------------------------------------------------- deep directories

LEVELS = 100
DEEP = "d/" * LEVELS


def statements(store, ask):
    """How many statements a question takes."""
    asked = []
    with store._reading() as db:
        db.set_trace_callback(asked.append)
    ask()
    with store._reading() as db:
        db.set_trace_callback(None)
    return len(asked)


def test_where_deep_directories_are_is_remembered(store):
    store.put(DEEP, new_stat(0o040755))
    assert statements(store, lambda: store.stat(DEEP)) >= LEVELS // 8
    assert statements(store, lambda: store.stat(DEEP)) == 2
    assert statements(store, lambda: [store.stat(DEEP[: 2 * count]) for count in range(1, LEVELS)]) <= 3 * LEVELS
    with pytest.raises(KeyError):
        store.stat(DEEP + "nothing")


def test_what_others_do_with_deep_directories_is_seen(store, path):
    store.from_bytes(DEEP + "f", b"old")
    with SQLiteStore(path) as other:
        for at in (other, store):  # by another connection, and by the same one
            assert store.to_bytes(DEEP + "f") == b"old"
            at.rename("d/d/", "d/e/")
            with pytest.raises(KeyError):
                store.stat(DEEP + "f")
            moved = "d/e/" + DEEP[4:] + "f"
            assert store.to_bytes(moved) == b"old"
            at.from_bytes(DEEP + "f", b"new")
            assert (store.to_bytes(DEEP + "f"), store.to_bytes(moved)) == (b"new", b"old")
            at.exchange("d/d/", "d/e/")
            assert (store.to_bytes(DEEP + "f"), store.to_bytes(moved)) == (b"old", b"new")
            at.delete(moved)
            for count in range(LEVELS, 1, -1):
                at.delete("d/e/" + "d/" * (count - 2))


def test_what_is_undone_of_deep_directories_is_not_remembered(store):
    def make(name, last):
        with pytest.raises(ZeroDivisionError), store.transaction("undone"):
            store.from_bytes(DEEP + name, b"never")
            assert store.to_bytes(DEEP + name) == b"never"
            if last:
                assert not store.exists(DEEP + "first")
            raise ZeroDivisionError

    make("first", last=False)
    assert not store.exists(DEEP)
    make("second", last=True)
    assert not store.exists(DEEP)
    store.put(DEEP, new_stat(0o040755))
    assert list(store.list(DEEP)) == []
