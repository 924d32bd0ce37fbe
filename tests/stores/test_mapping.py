"""Mappings as stores. SEMANTICS.md, Mappings."""

import dbm.dumb
import io
import shelve
import sys
import types

import pytest

import joinfs
from joinfs.errors import NotRepresentable, Unsupported, UsageError
from joinfs.stores.mapping import MappingStore
from joinfs.stores.memory import MemoryStore
from joinfs.testing import ReadOnlyContract, StoreContract


class TestDict(StoreContract):
    scheme = "python"

    def make_store(self, place):
        self.medium = {}
        return MappingStore(self.medium)

    def raw(self, place, key):
        return self.medium[key]

    def seed(self, place, key, content):
        self.medium[key] = content
        return True


class TestShelve(StoreContract):
    @pytest.fixture(autouse=True)
    def shelf(self, tmp_path):
        with shelve.open(str(tmp_path / "shelf"), "n") as self.medium:
            yield

    def make_store(self, place):
        return MappingStore(self.medium)

    def raw(self, place, key):
        return self.medium[key]

    def seed(self, place, key, content):
        self.medium[key] = content
        return True


class TestDbm(StoreContract):
    @pytest.fixture(autouse=True)
    def database(self, tmp_path):
        with dbm.dumb.open(str(tmp_path / "dbm"), "n") as self.medium:
            yield

    def make_store(self, place):
        return MappingStore(self.medium)

    def raw(self, place, key):
        return self.medium[key]

    def seed(self, place, key, content):
        self.medium[key] = content
        return True


class TestProxy(ReadOnlyContract):
    def make_filled(self, place):
        return MappingStore(types.MappingProxyType(dict(self.CONTENTS)))


def test_the_data_is_what_is_in_the_mapping_and_the_rest_is_beside_it():
    medium = {"d/theirs": b"1"}
    with MappingStore(medium) as store:
        store.set("d/ours", (io.BytesIO(b"2"), {"n": 1}))
        assert sorted(store.keys()) == ["d/ours", "d/theirs"]
        assert medium["d/ours"] == b"2"
        assert set(medium) == {"d/theirs", "d/ours", ".joinfs/d/ours"}
        store.delete("d/ours")
        store.delete("d/theirs")
        assert set(medium) == {"d/", ".joinfs/d/"}
        assert not store.exists(".joinfs/d")
        assert not store.exists(".joinfs/")
        with pytest.raises(Unsupported, match=r"\.joinfs/"):
            store.set(".joinfs/x", (io.BytesIO(), {}))


def test_values_that_are_no_bytes_are_shown_and_cannot_be_read():
    with MappingStore({"n": 5, "view": memoryview(b"view"), 7: b"no name"}) as store:
        assert sorted(store.keys()) == ["n", "view"]
        assert store.to_bytes("view") == b"view"
        with pytest.raises(Unsupported, match="a int"):
            store.to_bytes("n")


def test_names_that_the_medium_cannot_spell_are_refused(tmp_path):
    with dbm.dumb.open(str(tmp_path / "dbm"), "n") as medium, MappingStore(medium) as store:
        with pytest.raises(NotRepresentable):
            store.set("\udcff", (io.BytesIO(), {}))
        assert list(store.keys()) == []


def test_what_a_mapping_refuses_leaves_what_was_there():
    class Full(dict):
        def __setitem__(self, name, value):
            if value == b"new":
                raise OSError(28, "No space left on device")
            super().__setitem__(name, value)

    medium = Full()
    with MappingStore(medium) as store:
        store.set("a", (io.BytesIO(b"old"), {"n": "1"}))
        before = dict(medium)
        with pytest.raises(OSError, match="No space"):
            store.set("a", (io.BytesIO(b"new"), {"n": "2"}))
        assert medium == before


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("a_module_of_theirs")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def test_a_mapping_by_url(module):
    module.data = types.SimpleNamespace(chunks={"a": b"1"})
    module.make = lambda: {"b": b"2"}
    module.store = MemoryStore()
    module.number = 5
    with joinfs.open_store("python:a_module_of_theirs:data.chunks") as store:
        assert store.to_bytes("a") == b"1"
        assert store.name == "python:a_module_of_theirs:data.chunks"
    with joinfs.open_store("python:a_module_of_theirs:make?ro") as store:
        assert store.to_bytes("b") == b"2"
        assert not store.capabilities.writable
    assert joinfs.open_store("python:a_module_of_theirs:store") is module.store
    for wrong in ("a_module_of_theirs", "no_such_module:x", "a_module_of_theirs:nothing", "a_module_of_theirs:number", ":x"):
        with pytest.raises(UsageError, match="python:"):
            joinfs.open_store(f"python:{wrong}")
