"""Stores whose authors write four methods. SEMANTICS.md, Odd keys; Plain keys and values."""

import io

import pytest

from joinfs.errors import InvalidKey, OutOfSpace
from joinfs.joined.store import JoinedStore
from joinfs.stores.memory import MemoryStore
from joinfs.testing import DictStore, StoreContract


class TestFlat(StoreContract):
    def make_store(self, place):
        self.medium = {}
        return DictStore(self.medium)

    def raw(self, place, key):
        return self.medium[key][0]

    def seed(self, place, key, content):
        self.medium[key] = (content, {})
        return True


class TestJoinOverFlat(StoreContract):
    def make_store(self, place):
        return JoinedStore([DictStore({}), MemoryStore()])


@pytest.fixture
def medium():
    return {}


@pytest.fixture
def store(medium):
    with DictStore(medium) as store:
        yield store


ODD = ["a", "a/b", "a/b/c", "/", "//", "", "..", "../x", "x//y", "%%", "%%a", "n\0l", "l" * 600, "l" * 600 + "/m", ".", "./a"]


@pytest.mark.parametrize("names", [ODD, ODD[::-1]], ids=["in order", "backwards"])
def test_every_name_of_the_medium_is_a_key_of_its_own(names):
    medium = {name: (name.encode(), {}) for name in names}
    with DictStore(medium) as store:
        found = {store.to_bytes(key) for key in store.keys()}
        assert found == {name.encode() for name in names if not name.endswith("/")}
        for key in list(store.keys()):
            assert store.stat(key).size == len(store.to_bytes(key))


@pytest.mark.parametrize("names", [ODD, ODD[::-1]], ids=["in order", "backwards"])
def test_odd_names_can_be_deleted_by_their_keys(names):
    medium = {name: (b"", {}) for name in names}
    with DictStore(medium) as store:
        while keys := list(store.keys()):
            store.delete(keys[0])
        assert all(name.endswith("/") for name in medium)


def test_a_value_that_a_directory_stood_over_comes_back(store, medium):
    medium.update({"a": (b"value", {}), "a/b": (b"", {})})
    assert dict(store.list("")).keys() == {"a", "%%a%="}
    store.delete("a/b")
    store.delete("a/")
    assert store.to_bytes("a") == b"value"
    assert set(medium) == {"a"}


def test_what_others_wrote_has_common_attributes(store, medium):
    medium["d/a"] = (b"abc", {"n": "1"})
    stat = store.stat("d/a")
    assert (stat.mode & 0o7777, stat.size, (stat.uid, stat.gid)) == (0o644, 3, store._default_owner())
    assert store.stat("d/").mode & 0o7777 == 0o755
    assert store.get_metadata("d/a") == {"n": "1"}
    assert list(medium) == ["d/a"]


def test_what_others_add_remove_and_change_is_seen(store, medium):
    assert list(store.keys()) == []
    medium["late"] = (b"1", {})
    assert store.to_bytes("late") == b"1"
    assert list(store.keys()) == ["late"]
    medium["late"] = (b"22", {})
    assert store.stat("late").size == 2
    del medium["late"]
    assert not store.exists("late")
    assert list(store.keys()) == []
    medium["later/on"] = (b"", {})
    store.freshness = 0.0
    store.disconnect()
    store.connect()
    assert list(store.keys()) == ["later/on"]


def test_the_last_file_of_a_directory_leaves_the_directory(store, medium):
    medium["d/e/f"] = (b"", {})
    store.delete("d/e/f")
    assert store.stat("d/e/").is_directory
    assert set(medium) == {"d/e/"}
    store.delete("d/e/")
    assert store.stat("d/").is_directory
    store.delete("d/")
    assert medium == {}


def test_a_directorys_mtime_follows_its_entries(store):
    store.set("d/a", (io.BytesIO(), {}))
    first = store.stat("d/").mtime
    store.set("d/b", (io.BytesIO(), {}))
    second = store.stat("d/").mtime
    store.delete("d/b")
    assert first < second < store.stat("d/").mtime
    assert store.set_stat("d/", mtime=5).mtime == store.stat("d/").mtime == 5


def test_reserved_metadata_is_seen_in_the_medium_only(store, medium):
    store.set("a", (io.BytesIO(b"x"), {"n": 1}))
    store.set_xattr("a", "security.x", b"\0\xff")
    assert set(medium["a"][1]) == {"n", "joinfs.stat", "joinfs.xattrs"}
    assert store.get_metadata("a") == store.get("a").metadata == {"n": 1}
    assert list(store.query_keys(n=1)) == ["a"]


def test_a_spelling_of_nothing_is_no_key(store):
    for key in ("%%a", "%%..", "d/%%a%="):
        assert not store.exists(key)
        with pytest.raises(InvalidKey, match="%%"):
            store.set(key, (io.BytesIO(), {}))


def test_the_root_and_directories_without_markers_can_be_changed(store, medium):
    medium["d/a"] = (b"", {})
    store.set_stat("", mode=0o700)
    store.set_metadata("d/", {"n": "1"})
    assert store.stat("").mode & 0o7777 == 0o700
    assert store.get_metadata("d/") == {"n": "1"}
    assert set(medium) == {"d/a", "./", "d/"}


def test_a_directory_that_cannot_be_moved_whole_stays(store, medium, monkeypatch):
    for name in "abc":
        store.set(f"d/{name}", (io.BytesIO(b"x"), {}))
    save = store._save

    def full(name, *rest):
        if name == "e/c":
            raise OutOfSpace("the dict is full")
        save(name, *rest)

    monkeypatch.setattr(store, "_save", full)
    with pytest.raises(OutOfSpace):
        store.rename("d/", "e/")
    assert sorted(store.keys()) == ["d/a", "d/b", "d/c"]
    assert not store.exists("e/")
