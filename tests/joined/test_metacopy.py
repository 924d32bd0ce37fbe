"""Attributes of large files change without their data being copied. SEMANTICS.md, Copies without data."""

import io
import os

import pytest

from joinfs.errors import CorruptStore, UsageError
from joinfs.joined.steps import LARGE
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.mapping import MappingStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore

DATA = os.urandom(LARGE) + b"end"


@pytest.fixture(params=["memory", "directory", "sqlite"])
def upper(request, tmp_path):
    (tmp_path / "upper").mkdir()
    makers = {"memory": MemoryStore, "directory": lambda: DirectoryStore(tmp_path / "upper"), "sqlite": lambda: SQLiteStore(tmp_path / "u.db")}
    return makers[request.param]()


@pytest.fixture(params=["memory", "directory"])
def lower(request, tmp_path):
    (tmp_path / "lower").mkdir()
    store = MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "lower")
    with store:
        for key in ("d/large", "large", "d/e/large"):
            store.set(key, (io.BytesIO(DATA), {"from": "below"}))
        store.set("d/small", (io.BytesIO(b"small"), {}))
    return store


@pytest.fixture
def join(upper, lower):
    with JoinedStore([upper, lower], metacopy=True) as join:
        yield join
        assert list(join.check()) == []


def has_data(join, key):
    return bool(join.layers[0].stat(key).size)


def check_whole(join, key, **expected):
    assert (join.to_bytes(key), join.read(key, LARGE, 10)) == (DATA, b"end")
    stat = join.stat(key)
    assert stat.size == len(DATA)
    assert join.lookup(key) == stat
    above, _, name = key.rpartition("/")
    assert dict(join.list(above + "/" if above else ""))[name] == stat
    assert {name: getattr(stat, name) for name in expected} == expected


@pytest.mark.parametrize("key", ["large", "d/large", "d/e/large"])
def test_what_changes_attributes_alone_copies_no_data(join, key):
    number = join.stat(key).file_id
    assert join.set_stat(key, mode=0o600, mtime=5).size == len(DATA)
    join.update_metadata(key, {"colour": "red"})
    join.set_xattr(key, "trusted.x", b"1") if join.layers[0].capabilities.xattrs and os.geteuid() == 0 else None
    assert not has_data(join, key)
    check_whole(join, key, mode=0o100600, mtime=5, nlink=1, file_id=number)
    assert join.get_metadata(key) == {"from": "below", "colour": "red"}
    assert list(join.query_keys(colour="red")) == [key]
    assert list(join.query_keys(**{"from": "below"})).count(key) == 1
    join.disconnect()
    join.connect()
    if join.layers[0].capabilities.persistent:
        check_whole(join, key, mode=0o100600, mtime=5, file_id=number)


def test_small_files_are_copied(join):
    join.set_stat("d/small", mode=0o600)
    assert has_data(join, "d/small")


def test_what_needs_the_data_copies_it(join):
    join.set_stat("d/large", mode=0o600)
    join.rename("d/large", "moved")
    assert has_data(join, "moved")
    check_whole(join, "moved", mode=0o100600)
    assert not join.exists("d/large")
    join.set_stat("large", mode=0o600)
    join.link("large", "linked")
    check_whole(join, "linked", mode=0o100600, nlink=2)
    join.set_stat("d/e/large", mode=0o600)
    join.rename("d/", "f/")
    assert not has_data(join, "f/e/large")
    check_whole(join, "f/e/large", mode=0o100600)
    join.set_data("f/e/large", io.BytesIO(b"other"))
    assert (join.to_bytes("f/e/large"), join.stat("f/e/large").mode) == (b"other", 0o100600)


def test_what_is_written_in_place_is_whole(join):
    if not join.layers[0].capabilities.local:
        pytest.skip("no local files")
    join.set_stat("large", mode=0o600)
    descriptor = join.open_local("large", os.O_RDWR)
    os.pwrite(descriptor, b"W", 0)
    os.close(descriptor)
    assert join.to_bytes("large") == b"W" + DATA[1:]


def test_it_is_deleted(join):
    join.set_stat("large", mode=0o600)
    join.delete("large")
    assert not join.exists("large")
    assert not join.layers[0].exists("large")


def test_a_transaction_that_fails_leaves_what_was(join):
    with pytest.raises(ZeroDivisionError), join.transaction("fails"):
        join.set_stat("large", mode=0o600)
        check_whole(join, "large", mode=0o100600)
        raise ZeroDivisionError
    check_whole(join, "large")
    assert join.stat("large").mode != 0o100600


def test_a_first_store_that_becomes_a_lower_one_goes_on(join):
    join.set_stat("d/large", mode=0o600)
    with JoinedStore([MemoryStore(), *join.layers]) as three:
        check_whole(three, "d/large", mode=0o100600)
        three.set_stat("d/large", mode=0o640)
        check_whole(three, "d/large", mode=0o100640)
        three.set_data("d/large", io.BytesIO(b"other"))
        assert three.to_bytes("d/large") == b"other"
    join.connect()


def test_where_the_data_has_gone_nothing_is_read(upper, lower):
    with JoinedStore([upper, lower], metacopy=True) as join:
        join.set_stat("large", mode=0o600)
        lower.delete("large")
        with pytest.raises(CorruptStore, match="without its data"):
            join.to_bytes("large")
        assert any("large" in sentence for sentence in join.check())


@pytest.mark.parametrize("place", ["", "x", "1", "1/", "9/large", "-1/large", "1/../x", "1//", "2/large", "1/d", "9" * 99 + "/large"])
def test_a_mark_that_makes_no_sense_leads_nowhere(upper, lower, place):
    with JoinedStore([upper, lower], metacopy=True) as join:
        join.set_stat("large", mode=0o600)
        upper.update_metadata("large", {"joinfs.metacopy": place})
        with pytest.raises(CorruptStore):
            join.stat("large")


def test_a_directory_is_whole_unless_that_is_wanted(tmp_path, lower):
    (tmp_path / "first").mkdir()
    with JoinedStore([DirectoryStore(tmp_path / "first"), lower]) as join:
        join.set_stat("large", mode=0o600)
    assert (tmp_path / "first" / "large").read_bytes() == DATA
    with pytest.raises(UsageError, match="metacopy"):
        JoinedStore([DirectoryStore(tmp_path / "first"), lower], metacopy=True, whiteouts="overlay")


def test_a_join_as_first_store_is_given_no_marks_that_it_would_not_keep(lower):
    with JoinedStore([JoinedStore([MemoryStore(), MemoryStore()]), lower]) as join:
        join.set_stat("large", mode=0o600)
        assert join.to_bytes("large") == DATA
        assert not join.capabilities.marks


def test_keys_of_a_mapping_can_be_without_data(lower):
    with JoinedStore([MappingStore({}), lower]) as join:
        join.set_stat("large", mode=0o600)
        check_whole(join, "large")
