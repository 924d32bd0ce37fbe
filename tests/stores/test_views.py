"""A store seen below a prefix, or read-only. SEMANTICS.md, Views."""

import io
import os

import pytest

import joinfs
from joinfs.errors import InvalidKey, ReadOnly, StoreUnavailable, UsageError
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.views import PrefixStore, ReadOnlyStore
from joinfs.testing import ReadOnlyContract, StoreContract


class TestPrefixOfMemory(StoreContract):
    def make_store(self, place):
        return PrefixStore(MemoryStore(), "some/where")


class TestPrefixOfDirectory(StoreContract):
    def make_store(self, place):
        (place / "medium").mkdir()
        return PrefixStore(DirectoryStore(place / "medium"), "some/where/")

    def raw(self, place, key):
        return (place / "medium" / "some" / "where" / key).read_bytes()


class TestPrefixOfSQLite(StoreContract):
    def make_store(self, place):
        return PrefixStore(SQLiteStore(place / "medium.db"), "p")


class TestReadOnlyView(ReadOnlyContract):
    def make_filled(self, place):
        return ReadOnlyStore(TestPrefixOfMemory().make_filled(place))


class TestReadOnlyDirectoryView(ReadOnlyContract):
    def make_filled(self, place):
        return ReadOnlyStore(TestPrefixOfDirectory().make_filled(place))


def test_nothing_outside_the_prefix_is_reached():
    inner = MemoryStore()
    with PrefixStore(inner, "in") as store:
        inner.set("secret", (io.BytesIO(b"x"), {}))
        inner.set("in/a", (io.BytesIO(b"a"), {}))
        assert list(store.keys()) == ["a"]
        for key in ("../secret", "./a", "/secret", "a/../../secret"):
            assert not store.exists(key)
            with pytest.raises(InvalidKey):
                store.set(key, (io.BytesIO(b"x"), {}))
        with pytest.raises(InvalidKey):
            store.delete("")
        with pytest.raises(InvalidKey):
            PrefixStore(inner, "../x")


def test_a_prefix_that_is_not_there_is_made_or_told(tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(StoreUnavailable, match="no directory nothing/"):
        PrefixStore(ReadOnlyStore(DirectoryStore(tmp_path / "d")), "nothing").connect()
    with PrefixStore(DirectoryStore(tmp_path / "d"), "new/one"):
        assert (tmp_path / "d" / "new" / "one").is_dir()


def test_a_read_only_view_gives_no_descriptor_to_write_to(tmp_path):
    (tmp_path / "f").write_text("text")
    with ReadOnlyStore(DirectoryStore(tmp_path)) as store:
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
            with pytest.raises(ReadOnly):
                store.open_local("f", flags)
        os.close(store.open_local("f", os.O_RDONLY))


def test_views_by_url(tmp_path):
    (tmp_path / "a b" / "q?").mkdir(parents=True)
    (tmp_path / "a b" / "q?" / "f").write_text("text")
    with joinfs.open_store(f"dir:{tmp_path}?prefix=a%20b/q%3F&ro") as store:
        assert store.to_bytes("f") == b"text"
        assert not store.capabilities.writable
    for query in ("prefix=", "prefix", "prefix=a/../b", "ro=1"):
        with pytest.raises(UsageError, match="prefix"):
            joinfs.open_store(f"dir:{tmp_path}?{query}")


def test_both_views_hear_of_a_write_each_under_its_key():
    inner = MemoryStore()
    heard = []
    with PrefixStore(inner, "in") as store:
        for one in (inner, store):
            one.event_manager.connect(joinfs.StoreSetEvent, lambda event: heard.append((event.source, event.key)))
        store.set("a", (io.BytesIO(b"a"), {}))
    assert heard == [(inner, "in/a"), (store, "a")]
