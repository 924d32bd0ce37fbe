"""encore's own stores as ours, and ours inside encore's. SEMANTICS.md, Stores of encore."""

import io
import sqlite3
import threading

import pytest
from encore.events.event_manager import EventManager as EncoreEventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.joined_store import JoinedStore as EncoreJoinedStore
from encore.storage.mounted_store import MountedStore
from encore.storage.sqlite_store import SqliteStore

import joinfs
from joinfs.errors import InvalidKey, NotRepresentable, ReadOnly, StoreUnavailable, Unsupported, UsageError
from joinfs.stores.encore import EncoreStore
from joinfs.stores.views import PrefixStore
from joinfs.testing import StoreContract


def file_system_store(place):
    place.mkdir()
    init_shared_store(place)
    return FileSystemStore(str(place))


class TestDictMemoryStore(StoreContract):
    def make_store(self, place):
        self.medium = DictMemoryStore()
        return EncoreStore(self.medium)

    def raw(self, place, key):
        return self.medium.get(key).data.read()

    def seed(self, place, key, content):
        put(self.medium, key, content)
        return True


class TestFileSystemStore(StoreContract):
    def make_store(self, place):
        return EncoreStore(file_system_store(place / "medium"))

    def raw(self, place, key):
        return (place / "medium" / (key.replace("/", "%2F") + ".data")).read_bytes()


class TestSqliteStore(StoreContract):
    def make_store(self, place):
        return EncoreStore(SqliteStore(str(place / "medium.db")))

    def raw(self, place, key):
        with sqlite3.connect(place / "medium.db") as database:
            return bytes(database.execute("SELECT data FROM store WHERE key = ?", (key,)).fetchone()[0])


class TestMountedStore(StoreContract):
    def make_store(self, place):
        return PrefixStore(EncoreStore(MountedStore("m/", DictMemoryStore(), DictMemoryStore())), "m")


def put(store, key, data, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def test_a_layer_of_encores_is_never_changed():
    theirs = DictMemoryStore()
    put(theirs, "d/a", b"lower", k="v")
    before = dict(theirs._store)
    with joinfs.JoinedStore([joinfs.MemoryStore(), theirs]) as store:
        assert (store.to_bytes("d/a"), store.get_metadata("d/a")) == (b"lower", {"k": "v"})
        store.update_metadata("d/a", {"k": "w"})
        store.rename("d/", "e/")
        assert list(store.keys()) == ["e/a"]
        store.delete("e/a")
    assert theirs._store == before
    assert not theirs.is_connected()


def test_keys_that_would_lead_out_of_a_directory_do_not(tmp_path):
    theirs = file_system_store(tmp_path / "medium")
    (tmp_path / "secret.metadata").write_text("{}")
    (tmp_path / "secret.data").write_text("secret")
    with theirs.get("../secret").data as data:
        assert data.read() == b"secret"
    with EncoreStore(theirs) as store:
        for key in ("../secret", "%%%2E%2E/secret", "%%/x", "%%%2E/secret"):
            assert not store.exists(key)
            with pytest.raises(InvalidKey):
                put(store, key, b"overwritten")
    assert (tmp_path / "secret.data").read_text() == "secret"


def test_files_that_others_put_into_a_file_system_store_keep_their_names(tmp_path):
    theirs = file_system_store(tmp_path / "medium")
    names = ["plain", "with space", "100%", "a%2Fb", "%zz", "é"]
    for name in names:
        put(theirs, name, name.encode())
    with EncoreStore(theirs) as store:
        assert {store.to_bytes(key) for key in store.keys()} == {name.encode() for name in names}
        assert store.to_bytes("a/b") == b"a%2Fb"
        for key in list(store.keys()):
            store.delete(key)
    assert list(theirs.query_keys()) == [] or set(theirs.query_keys()) == {"a%2F.joinfs-directory"}


def test_metadata_that_is_not_unicode_survives_a_file_system_store(tmp_path):
    with EncoreStore(file_system_store(tmp_path / "medium")) as store:
        put(store, "a", b"1", plain="p", odd="\udcff", **{"\udcfe": 5})
        assert store.get_metadata("a") == {"plain": "p", "odd": "\udcff", "\udcfe": 5}
        with pytest.raises(NotRepresentable):
            put(store, "\udcff", b"")


def test_a_database_of_encores_is_used_from_many_threads(tmp_path):
    with EncoreStore(SqliteStore(str(tmp_path / "x.db"))) as store:
        threads = [threading.Thread(target=put, args=(store, f"k{n}", b"x")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(store.keys()) == [f"k{n}" for n in range(8)]
    connected = SqliteStore(str(tmp_path / "x.db"))
    connected.connect()
    with EncoreStore(connected) as store, pytest.raises(StoreUnavailable, match="before it is connected"):
        store.to_bytes("k1")
    connected.disconnect()


def test_what_a_mounted_store_refuses_is_told():
    backing = DictMemoryStore()
    put(backing, "m/below", b"backing")
    put(backing, "other", b"other")
    with EncoreStore(MountedStore("m/", DictMemoryStore(), backing)) as store:
        with pytest.raises(ReadOnly):
            put(store, "other", b"new")
        put(store, "m/below", b"mounted")
        with pytest.raises(Unsupported, match="backing"):
            store.delete("m/below")
        assert (store.to_bytes("m/below"), store.to_bytes("other")) == (b"mounted", b"other")


def test_what_is_deleted_from_a_joined_store_of_encores_does_not_come_back():
    first, second = DictMemoryStore(), DictMemoryStore()
    for theirs in (first, second):
        put(theirs, "a", b"1")
    with EncoreStore(EncoreJoinedStore([first, second])) as store:
        store.delete("a")
        assert not store.exists("a")


def test_what_is_nothing_of_the_kind_is_refused():
    for thing in (5, "text", object()):
        with pytest.raises(UsageError, match="neither a store"):
            joinfs.JoinedStore([joinfs.MemoryStore(), thing])


# -------------------------------------------------------------------- the other way


def test_our_stores_work_inside_encores_joined_store():
    first, second = joinfs.MemoryStore(), DictMemoryStore()
    put(second, "b", b"second", k="v")
    joined = EncoreJoinedStore([first, second])
    joined.connect()
    put(joined, "a", b"first", n=1)
    assert (first.to_bytes("a"), first.get_metadata("a")) == (b"first", {"n": 1})
    assert sorted(joined.query_keys()) == ["a", "b"]
    assert joined.get("a").data.read() == b"first"
    with joined.get("a") as data:
        assert data.read() == b"first"
    assert joined.get_metadata("b") == {"k": "v"}
    joined.set("c", first.get("a"))
    assert (joined.to_bytes("c"), joined.get_metadata("c")) == (b"first", {"n": 1})
    joined.delete("a")
    assert not first.exists("a")


def test_our_stores_work_inside_encores_mounted_store(tmp_path):
    ours, backing = joinfs.SQLiteStore(tmp_path / "x.db"), joinfs.MemoryStore()
    mounted = MountedStore("m/", ours, backing)
    mounted.connect()
    put(backing, "m/old", b"old", k="v")
    put(mounted, "m/new", b"new", n=1)
    mounted.set_metadata("m/old", {"k": "w"})
    assert (ours.to_bytes("new"), ours.to_bytes("old"), ours.get_metadata("old")) == (b"new", b"old", {"k": "w"})
    assert backing.get_metadata("m/old") == {"k": "v"}
    with mounted.transaction("two at once"):
        put(mounted, "m/three", b"3")
        put(mounted, "m/four", b"4")
    assert sorted(mounted.query_keys()) == ["m/four", "m/new", "m/old", "m/three"]
    mounted.push("m/new")
    assert backing.to_bytes("m/new") == b"new"
    assert not ours.exists("new")
    ours.disconnect()


def test_an_event_manager_of_encores_hears_our_stores():
    manager = EncoreEventManager()
    heard = []
    manager.connect(joinfs.StoreKeyEvent, heard.append)
    manager.connect(joinfs.StoreTransactionEvent, heard.append)
    with joinfs.MemoryStore(manager) as store, store.transaction("notes"):
        put(store, "a", b"1", n=1)
        store.delete("a")
    kinds = [type(event).__name__ for event in heard if "Progress" not in type(event).__name__]
    assert kinds == ["StoreTransactionStartEvent", "StoreTransactionEndEvent", "StoreSetEvent", "StoreDeleteEvent"]
    assert all(event.source is store for event in heard)
