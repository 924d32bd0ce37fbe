"""The rules of the join, on stores of every kind that can be first."""

import io
import os
import stat as stat_module
import sys

import pytest

from joinfs.errors import DirectoryNotEmpty, InvalidKey, IsADirectory, NotADirectory, ReadOnly, UsageError
from joinfs.events import StoreDeleteEvent, StoreSetEvent, StoreUpdateEvent
from joinfs.filesystem.operations import Operations
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
from joinfs.testing import DictStore, FaultyStore


def tree(store, prefix=""):
    """Everything in a store, raw: directories as None, values as (data, metadata)."""
    found = {}
    for name, stat in store.list(prefix):
        if stat.is_directory:
            found[f"{prefix}{name}/"] = None
            found |= tree(store, f"{prefix}{name}/")
        else:
            found[prefix + name] = (store.to_bytes(prefix + name), store.get_metadata(prefix + name))
    return found


def fill(store, contents):
    for key, data in contents.items():
        store.set(key, (io.BytesIO(data), {"from": store.user_tag}))


LOWER = {"a": b"lower a", "d/x": b"lower x", "d/y": b"lower y", "d/s/z": b"lower z"}
BOTTOM = {"a": b"bottom a", "b": b"bottom b", "d/x": b"bottom x", "d/w": b"bottom w", "e/q": b"bottom q"}


@pytest.fixture(params=["memory", "directory", "sqlite"])
def upper(request, tmp_path):
    if request.param == "directory":
        (tmp_path / "upper").mkdir()
    return {
        "memory": MemoryStore,
        "directory": lambda: DirectoryStore(tmp_path / "upper"),
        "sqlite": lambda: SQLiteStore(tmp_path / "upper.db"),
    }[request.param]()


@pytest.fixture
def join(upper):
    lower, bottom = MemoryStore(), MemoryStore()
    lower.user_tag, bottom.user_tag = "lower", "bottom"
    joined = JoinedStore([upper, lower, bottom])
    with joined:
        fill(lower, LOWER)
        fill(bottom, BOTTOM)
        before = tree(lower), tree(bottom)
        yield joined
        assert (tree(lower), tree(bottom)) == before, "a lower store was changed"


@pytest.fixture
def again(join):
    """The same stores, joined anew: what is remembered must be in the stores."""
    return lambda: JoinedStore(join.layers)


def visible(joined):
    return {key: data for key, data in tree(joined).items() if data is not None} | {
        key: None for key, data in tree(joined).items() if data is None
    }


def values(joined):
    return {key: joined.to_bytes(key) for key in joined.query_keys()}


def test_the_keys_are_the_union_and_the_first_store_that_has_a_key_wins(join):
    """SEMANTICS.md, Reading."""
    join.layers[0].set("b", (io.BytesIO(b"upper b"), {}))
    assert values(join) == {
        "a": b"lower a", "b": b"upper b", "d/x": b"lower x", "d/y": b"lower y",
        "d/s/z": b"lower z", "d/w": b"bottom w", "e/q": b"bottom q",
    }  # fmt: skip
    assert join.get_metadata("a") == {"from": "lower"}


def test_a_write_goes_to_the_first_store_whoever_has_the_key(join, upper):
    """SEMANTICS.md, Writing."""
    join.set("d/x", (io.BytesIO(b"new"), {"n": 1}))
    assert upper.to_bytes("d/x") == b"new"
    assert join.to_bytes("d/x") == b"new"
    assert join.get_metadata("d/x") == {"n": 1}


def test_a_change_of_metadata_copies_the_key_up_with_its_data(join, upper):
    """SEMANTICS.md, Writing."""
    join.update_metadata("d/w", {"colour": "red"})
    assert upper.to_bytes("d/w") == b"bottom w"
    assert join.get_metadata("d/w") == {"from": "bottom", "colour": "red"}
    assert upper.get_metadata("d/w").keys() - {"joinfs.origin"} == {"from", "colour"}


def test_copy_up_keeps_attributes_of_the_file_and_of_its_directories(join, upper):
    """SEMANTICS.md, Writing."""
    bottom = join.layers[2]
    bottom.set_stat("e/", mode=0o2750, uid=12, gid=34, mtime=1_500_000_000_123_456_789)
    bottom.set_stat("e/q", mode=0o640, uid=56, gid=78, mtime=1_400_000_000_000_000_001)
    join.update_metadata("e/q", {"k": "v"})
    copy, directory = upper.stat("e/q"), upper.stat("e/")
    assert directory.mode & 0o7777 == 0o2750
    assert directory.mtime == 1_500_000_000_123_456_789
    assert copy.mode & 0o7777 == 0o640
    assert copy.mtime == 1_400_000_000_000_000_001
    if os.geteuid() == 0:
        assert (directory.uid, directory.gid, copy.uid, copy.gid) == (12, 34, 56, 78)


def test_deleting_hides_what_every_lower_store_has(join, upper, again):
    """SEMANTICS.md, Deleting."""
    join.delete("d/x")
    for joined in (join, again()):
        assert not joined.exists("d/x")
        assert "d/x" not in set(joined.query_keys())
        assert list(joined.glob("*x")) == []
        assert dict(joined.query(**{"from": "lower"})).keys() == {"a", "d/y", "d/s/z"}
        for method in (joined.get, joined.get_data, joined.get_metadata, joined.stat, joined.lookup, joined.to_bytes):
            with pytest.raises(KeyError):
                method("d/x")
        with pytest.raises(KeyError):
            list(joined.multiget(["a", "d/x"]))
    assert upper.exists("d/.wh.x")


def test_what_only_the_first_store_has_is_deleted_without_a_whiteout(join, upper):
    """SEMANTICS.md, Deleting."""
    join.set("d/new", (io.BytesIO(b""), {}))
    join.delete("d/new")
    assert [name for name, _ in upper.list("d/")] == []


def test_a_deleted_key_can_be_made_again(join, upper):
    join.delete("a")
    with pytest.raises(KeyError):
        join.delete("a")
    join.set("a", (io.BytesIO(b"again"), {}))
    assert join.to_bytes("a") == b"again"
    assert not upper.exists(".wh.a")
    join.delete("a")
    assert not join.exists("a")


def test_a_directory_made_where_one_was_deleted_is_opaque(join, upper, again):
    """SEMANTICS.md, Deleting."""
    for key in ("d/s/z", "d/x", "d/y", "d/w"):
        join.delete(key)
    join.delete("d/s/")
    join.delete("d/")
    assert not join.exists("d/")
    join.put("d/", join.stat("e/"))
    assert list(join.list("d/")) == []
    assert list(again().list("d/")) == []
    assert upper.exists("d/.wh..wh..opq")


def test_a_directory_with_entries_in_any_store_is_not_deleted(join):
    with pytest.raises(DirectoryNotEmpty):
        join.delete("d/")
    assert join.to_bytes("d/w") == b"bottom w"


def test_renaming_a_merged_directory_moves_all_of_it_and_copies_no_file(join, upper, again):
    """SEMANTICS.md, Renaming."""
    join.set("d/own", (io.BytesIO(b"own"), {}))
    join.delete("d/y")
    join.rename("d/", "e/moved/")
    expected = {
        "a": b"lower a", "b": b"bottom b", "e/q": b"bottom q", "e/moved/own": b"own",
        "e/moved/x": b"lower x", "e/moved/w": b"bottom w", "e/moved/s/z": b"lower z",
    }  # fmt: skip
    assert values(join) == expected
    assert values(again()) == expected
    assert set(upper.keys()) - {"e/moved/own"} == {".wh.d", "e/moved/.wh.y"}


def test_a_renamed_merged_directory_can_be_renamed_again_and_deleted(join, again):
    join.rename("d/", "one/")
    join.rename("one/s/", "one/t/")
    join.rename("one/", "two/")
    assert join.to_bytes("two/t/z") == b"lower z"
    join.set("two/t/z", (io.BytesIO(b"new"), {}))
    for key in ("two/t/z", "two/x", "two/y", "two/w"):
        join.delete(key)
    join.delete("two/t/")
    join.delete("two/")
    assert values(join) == values(again()) == {"a": b"lower a", "b": b"bottom b", "e/q": b"bottom q"}


def test_a_new_directory_moved_over_a_merged_empty_one_stays_free_of_it(join, again):
    for key in ("d/x", "d/y", "d/w", "d/s/z"):
        join.delete(key)
    join.delete("d/s/")
    join.set("n/f", (io.BytesIO(b"f"), {}))
    join.rename("n/", "d/")
    assert [name for name, _ in join.list("d/")] == ["f"]
    assert [name for name, _ in again().list("d/")] == ["f"]


def test_renaming_over_a_directory_with_entries_is_refused(join):
    join.set("n/f", (io.BytesIO(b"f"), {}))
    with pytest.raises(DirectoryNotEmpty):
        join.rename("n/", "d/")
    with pytest.raises(IsADirectory):
        join.rename("a", "d")
    with pytest.raises(NotADirectory):
        join.rename("n/", "a/")


def test_renaming_a_lower_file_copies_it_up_and_hides_the_old_name(join, upper, again):
    join.rename("d/w", "a")
    assert join.to_bytes("a") == again().to_bytes("a") == b"bottom w"
    assert join.get_metadata("a") == {"from": "bottom"}
    assert not join.exists("d/w")
    assert upper.to_bytes("a") == b"bottom w"


def test_two_keys_of_different_kinds_change_places(join, again):
    """SEMANTICS.md, Renaming."""
    join.exchange("d/", "b")
    for joined in (join, again()):
        assert joined.to_bytes("d") == b"bottom b"
        assert joined.to_bytes("b/s/z") == b"lower z"
        assert not joined.exists("d/")
        assert not joined.exists("b")


def test_a_file_in_a_higher_store_ends_a_lower_directory(join):
    """SEMANTICS.md, Reading."""
    join.layers[0].set("e", (io.BytesIO(b"file"), {}))
    assert join.to_bytes("e") == b"file"
    assert not join.exists("e/q")
    with pytest.raises(NotADirectory):
        join.set("e/new", (io.BytesIO(b""), {}))


def test_whiteouts_and_opaque_directories_of_lower_stores_are_honoured(join):
    """SEMANTICS.md, Marks of other systems."""
    lower = join.layers[1]
    fill(lower, {".wh.b": b"", "e/.wh..wh..opq": b"", "e/own": b"own"})
    try:
        assert not join.exists("b")
        assert [name for name, _ in join.list("e/")] == ["own"]
        assert sorted(name for name, _ in join.list("")) == ["a", "d", "e"]
    finally:
        for key in (".wh.b", "e/.wh..wh..opq", "e/own"):
            lower.delete(key)
        lower.delete("e/")


def test_names_for_whiteouts_are_refused(join):
    """SEMANTICS.md, Reserved names."""
    for key in (".wh.x", "d/.wh..wh..opq", ".wh.d/x"):
        with pytest.raises(InvalidKey, match="reserved"):
            join.set(key, (io.BytesIO(b""), {}))
        with pytest.raises(KeyError):
            join.get(key)
    with pytest.raises(InvalidKey, match="reserved"):
        join.rename("a", ".wh.x")


def test_a_name_too_long_for_a_whiteout_of_its_own_is_deleted_all_the_same(join, again):
    """SEMANTICS.md, Deleting."""
    name = "n" * 255
    lower = join.layers[1]
    lower.set(name, (io.BytesIO(b"long"), {}))
    try:
        join.delete(name)
        assert not join.exists(name)
        assert name not in dict(again().list(""))
        join.set(name, (io.BytesIO(b"new"), {}))
        assert again().to_bytes(name) == b"new"
        assert join.get_metadata("") == {}
    finally:
        lower.delete(name)


def test_marks_are_in_no_metadata(join):
    """SEMANTICS.md, Reserved names."""
    join.rename("d/", "m/")
    assert join.get_metadata("m/") == {}
    join.set_metadata("m/", {"k": "v"})
    assert join.get_metadata("m/") == {"k": "v"}
    assert join.to_bytes("m/x") == b"lower x"


def test_a_hostile_redirect_leads_nowhere(join, again):
    """SEMANTICS.md, Marks of other systems."""
    upper = join.layers[0]
    for redirect in ("../../etc/", "/", "", "d", "m/", 7, ["x"], "a\0/"):
        upper.put("m/", join.stat("d/"), None, {"joinfs.redirect": redirect})
        assert list(again().list("m/")) == []


def test_a_directory_that_a_lower_store_gets_meanwhile_is_seen(join):
    """SEMANTICS.md, Changes by others."""
    assert values(join)["d/x"] == b"lower x"
    bottom = join.layers[2]
    bottom.set("d/s/late", (io.BytesIO(b"late"), {}))
    try:
        assert join.to_bytes("d/s/late") == b"late"
    finally:
        bottom.delete("d/s/late")
        bottom.delete("d/s/")


def test_a_read_only_first_store_makes_the_join_read_only(tmp_path):
    """SEMANTICS.md, A read-only first store."""
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "k").write_bytes(b"v")
    with JoinedStore([DirectoryStore(tmp_path / "r", read_only=True), MemoryStore()]) as join:
        assert join.to_bytes("k") == b"v"
        for write in (
            lambda: join.set("new", (io.BytesIO(b""), {})),
            lambda: join.delete("k"),
            lambda: join.rename("k", "l"),
            lambda: join.set_metadata("k", {}),
            lambda: join.set_stat("k", mode=0o600),
            lambda: join.open_local("k", os.O_RDWR),
        ):
            with pytest.raises(ReadOnly, match="first store"):
                write()
        assert join.info()["readonly"]


def test_connect_and_disconnect_reach_every_store():
    layers = [MemoryStore(), MemoryStore()]
    join = JoinedStore(layers)
    assert not join.is_connected()
    with join:
        assert all(layer.is_connected() for layer in layers)
    assert not any(layer.is_connected() for layer in layers)


def test_a_store_that_cannot_be_connected_leaves_none_connected(tmp_path):
    first = MemoryStore()
    with pytest.raises(Exception, match="missing"):
        JoinedStore([first, DirectoryStore(tmp_path / "missing")]).connect()
    assert not first.is_connected()


def test_a_join_needs_stores_and_each_once():
    with pytest.raises(UsageError):
        JoinedStore([])
    store = MemoryStore()
    with pytest.raises(UsageError):
        JoinedStore([store, store])


def test_events_come_from_the_join_for_what_its_caller_did(join):
    heard = []
    join.event_manager.connect(StoreSetEvent, heard.append)
    join.event_manager.connect(StoreDeleteEvent, heard.append)
    join.set("a", (io.BytesIO(b"1"), {"n": 1}))
    join.set("new", (io.BytesIO(b"2"), {}))
    join.delete("d/x")
    assert [(type(event), event.key, event.source) for event in heard] == [
        (StoreUpdateEvent, "a", join),
        (StoreSetEvent, "new", join),
        (StoreDeleteEvent, "d/x", join),
    ]


def test_a_join_can_be_a_store_of_another_join(join):
    with JoinedStore([MemoryStore(), join]) as outer:
        outer.set("d/x", (io.BytesIO(b"outer"), {}))
        outer.delete("a")
        assert outer.to_bytes("d/x") == b"outer"
        assert not outer.exists("a")
        assert join.to_bytes("d/x") == b"lower x"
    join.connect()


def test_where_a_key_comes_from(join):
    assert join.origin("d/x") == {"store": "memory:", "key": "d/x", "layers": "memory:\nmemory:"}
    join.rename("d/", "m/")
    assert join.origin("m/w")["key"] == "d/w"


@pytest.mark.parametrize("first", [True, False], ids=["in the first store", "in a lower store"])
def test_a_directory_has_the_attributes_of_the_first_store_that_tells_of_any(first):
    """SEMANTICS.md, Reading."""
    medium, lower = {"d/s/x": (b"x", {}), "d/.wh.gone": (b"", {})}, MemoryStore()
    stores = [DictStore(medium), lower] if first else [MemoryStore(), DictStore(medium), lower]
    with JoinedStore(stores) as join:
        for key in ("d/", "d/s/"):
            lower.put(key, new_stat(stat_module.S_IFDIR | 0o710), None, {"from": "lower"})
        lower.set("d/gone", (io.BytesIO(), {}))
        assert [(n, stat_module.S_IMODE(s.mode)) for n, s in join.list("")] == [("d", 0o710)]
        assert [(n, stat_module.S_IMODE(s.mode)) for n, s in join.list("d/")] == [("s", 0o710)]
        assert stat_module.S_IMODE(join.lookup("d").mode) == 0o710
        assert join.get_metadata("d/s/") == {"from": "lower"}
        join.set_stat("d/s/", mode=0o700)
        for joined in (join, JoinedStore(stores)):
            assert stat_module.S_IMODE(joined.stat("d/s/").mode) == 0o700
            assert joined.get_metadata("d/s/") == {"from": "lower"}
            assert list(joined.keys()) == ["d/s/x"]
        join.rename("d/s/", "moved/")
        for joined in (join, JoinedStore(stores)):
            assert stat_module.S_IMODE(joined.stat("moved/").mode) == 0o700
            assert list(joined.list("d/")) == []
        join.delete("d/")
        for joined in (join, JoinedStore(stores)):
            assert [name for name, _ in joined.list("")] == ["moved"]


def test_writes_through_an_open_descriptor_go_to_the_copy(tmp_path):
    (tmp_path / "u").mkdir()
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "f").write_bytes(b"lower")
    with JoinedStore([DirectoryStore(tmp_path / "u"), DirectoryStore(tmp_path / "l")]) as join:
        descriptor = join.open_local("f", os.O_RDWR)
        try:
            os.pwrite(descriptor, b"UPP", 0)
        finally:
            os.close(descriptor)
        assert join.to_bytes("f") == b"UPPer"
    assert (tmp_path / "l" / "f").read_bytes() == b"lower"
    assert (tmp_path / "u" / "f").read_bytes() == b"UPPer"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a character device 0/0, overlayfs's whiteout")
def test_overlayfs_marks_of_a_directory_layer_are_read(tmp_path):
    """SEMANTICS.md, Marks of other systems."""
    for name in ("u", "m", "l/d", "l/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "l" / "gone").write_bytes(b"")
    (tmp_path / "l" / "d" / "old").write_bytes(b"")
    (tmp_path / "l" / "x" / "seen").write_bytes(b"")
    (tmp_path / "l" / "x" / "empty").write_bytes(b"")
    os.mknod(tmp_path / "m" / "gone", 0o020000, os.makedev(0, 0))
    (tmp_path / "m" / "d").mkdir()
    os.setxattr(tmp_path / "m" / "d", "trusted.overlay.opaque", b"y")
    (tmp_path / "m" / "x").mkdir()
    os.setxattr(tmp_path / "m" / "x", "user.overlay.opaque", b"x")
    (tmp_path / "m" / "x" / "empty").write_bytes(b"")
    os.setxattr(tmp_path / "m" / "x" / "empty", "user.overlay.whiteout", b"")
    layers = [DirectoryStore(tmp_path / name) for name in "uml"]
    with JoinedStore(layers) as join:
        assert sorted(name for name, _ in join.list("")) == ["d", "x"]
        assert list(join.list("d/")) == []
        assert [name for name, _ in join.list("x/")] == ["seen"]
        assert not join.exists("gone")
        join.set("d/new", (io.BytesIO(b""), {}))
        assert os.listxattr(tmp_path / "u" / "d") == ["user.joinfs.origin"]


def test_a_query_finds_what_is_copied_up_meanwhile():
    upper, lower = MemoryStore(), MemoryStore()
    with JoinedStore([upper, lower]) as store:
        for key in "abc":
            lower.set(key, (io.BytesIO(b"1"), {"t": 1, "u": key}))
        query = store.query(select=["u"], t=1)
        found = [next(query)]
        for key in "abc":
            store.set_stat(key, mode=0o600)
        found += query
        assert sorted(found) == [(key, {"u": key}) for key in "abc"]


def test_what_is_written_over_a_whiteout_of_overlayfs_is_there():
    upper, lower = MemoryStore(), MemoryStore()
    with JoinedStore([upper, lower]) as store:
        lower.set("d/f", (io.BytesIO(b"lower"), {}))
        upper.put("d/", new_stat(stat_module.S_IFDIR | 0o755), None, {"overlay.opaque": "x"})
        upper.set("d/f", (io.BytesIO(), {"overlay.whiteout": "y"}))
        assert not store.exists("d/f")
        for content in (b"", b"data", b""):
            store.set_data("d/f", io.BytesIO(content))
            assert store.to_bytes("d/f") == content


def test_events_of_a_join_have_the_metadata_that_is_there():
    heard = []
    with JoinedStore([MemoryStore(), MemoryStore()]) as store:
        store.event_manager.connect(StoreSetEvent, heard.append)
        store.set("a", (io.BytesIO(), {"joinfs.x": 1, "y": 2}))
        assert heard[-1].metadata == store.get_metadata("a") == {"y": 2}


def test_the_roots_attributes_are_those_of_below_when_the_first_store_gets_marks():
    lower = MemoryStore()
    with JoinedStore([DictStore({}), lower]) as store:
        lower.set_stat("", mode=0o700)
        lower.set_metadata("", {"k": "v"})
        lower.set("d/a", (io.BytesIO(), {}))
        store.rename("d/", "e/")
        assert (stat_module.S_IMODE(store.stat("").mode), store.get_metadata("")) == (0o700, {"k": "v"})


def test_files_of_two_stores_that_have_the_same_number_there_are_two(tmp_path):
    stores = [SQLiteStore(tmp_path / f"{number}.db") for number in range(3)]
    for number, store in enumerate(stores):
        with store:
            store.set(f"{number}/a", (io.BytesIO(b"%d" % number), {}))
            store.link(f"{number}/a", f"{number}/b")
    with JoinedStore(stores) as join:
        told = [join.stat(f"{number}/{name}") for number in range(3) for name in "ab"]
        assert len({stat.file_id for stat in told}) == 3
        assert [stat.steady for stat in told] == [False, False, True, True, True, True]
        assert told == [dict(join.list(f"{number}/"))[name] for number in range(3) for name in "ab"]
        operations = Operations(join)
        entries = [operations.lookup(operations.lookup(1, str(number)).node, name) for number in range(3) for name in "ab"]
        assert len({entry.attributes.ino for entry in entries}) == 3
        assert [read(operations, entry.node) for entry in entries] == [b"0", b"0", b"1", b"1", b"2", b"2"]


@pytest.mark.parametrize("lower", ["memory", "sqlite"])
def test_keys_that_are_deeper_than_python_recurses(tmp_path, lower):
    deep = "d/" * (sys.getrecursionlimit() + 200)
    below = MemoryStore() if lower == "memory" else SQLiteStore(tmp_path / "lower")
    with JoinedStore([MemoryStore(), below]) as join:
        fill(below, {f"{deep}f": b"lower"})
        assert join.to_bytes(f"{deep}f") == b"lower"
        fill(join, {f"{deep}f": b"joined"})
        join.rename("d/", "e/")
        assert join.to_bytes(f"e{deep[1:]}f") == b"joined"
        with pytest.raises(KeyError):
            join.lookup(f"{deep}f")
        join.delete(f"e{deep[1:]}f")
        assert list(join.list(f"e{deep[1:]}")) == []


def test_a_redirect_that_leads_nowhere_is_found():
    upper, lower = MemoryStore(), MemoryStore()
    with JoinedStore([upper, lower]) as join:
        fill(lower, {"d/f": b"1"})
        join.rename("d/", "e/")
        assert list(join.check()) == []
        upper.set_metadata("e/", {**upper.get_metadata("e/"), "joinfs.redirect": "none/"})
        (sentence,) = join.check()
        assert "goes on as 'none/'" in sentence


def read(operations, node):
    handle = operations.open(node, os.O_RDONLY)
    try:
        return operations.read(handle, 0, 10)
    finally:
        operations.release(handle)


def test_directories_that_go_leave_what_is_known_of_others(upper):
    """What it takes to delete, move and exchange directories does not depend on how deep one is."""
    asked = []
    with JoinedStore([FaultyStore(upper, asked.append), MemoryStore()]) as join:
        counts = []
        for depth in (5, 25):
            above = "d/" * depth
            join.put(above + "a/b/", new_stat(0o040755))
            join.put(above + "c/b/", new_stat(0o040755))
            join.stat(above + "a/b/")
            asked.clear()
            join.rename(above + "a/b/", above + "b/")
            join.exchange(above + "b/", above + "c/")
            join.delete(above + "a/")
            join.delete(above + "c/")
            assert [join.exists(above + name) for name in ("a/", "b/", "b/b/", "c/", "a/b/")] == [False, True, True, False, False]
            counts.append(len(asked))
    assert counts[0] == counts[1]
