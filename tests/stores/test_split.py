"""Two stores as one. SEMANTICS.md, Split stores."""

import contextlib
import io
import threading

import pytest

import joinfs
from joinfs.errors import CorruptStore, StoreUnavailable, Unsupported, UsageError
from joinfs.joined.store import JoinedStore
from joinfs.stores import Stat
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.split import LARGE, SplitStore
from joinfs.stores.split_sweep import OBJECT
from joinfs.stores.sqlite import SQLiteStore
from joinfs.testing import FaultyStore, ReadOnlyContract, StoreContract
from joinfs.testing.faulty import Fault

FILE = Stat(0o100644)


def data(content):
    return io.BytesIO(content)


def split(place, large=1):
    (place / "data").mkdir(exist_ok=True)
    return SplitStore(SQLiteStore(place / "names.db"), DirectoryStore(place / "data"), large)


class TestSplit(StoreContract):
    """All data that there is is in the second store."""

    scheme = "split"

    def make_store(self, place):
        return split(place)

    def seed(self, place, key, content):
        with split(place) as other:
            other.set_data(key, data(content))
        return True

    def raw(self, place, key):
        with SQLiteStore(place / "names.db", read_only=True) as names:
            name = names.get_metadata(key)[OBJECT]
        return (place / "data" / "objects" / name[:2] / name).read_bytes()


class TestSplitOfSome(StoreContract):
    """Some data is in the first store, some in the second."""

    def make_store(self, place):
        return SplitStore(MemoryStore(), MemoryStore(), 6)


class TestJoinOverSplit(StoreContract):
    def make_store(self, place):
        return JoinedStore([split(place, 6), MemoryStore()])


class TestReadOnlySplit(ReadOnlyContract):
    def make_filled(self, place):
        with TestSplit().make_filled(place):
            pass
        return joinfs.open_store(f"split:sqlite:{place}/names.db,{place}/data?ro", connect=False)


@pytest.fixture
def store(tmp_path):
    with split(tmp_path, 10) as store:
        yield store


def objects(store):
    return [key for key in store.data.keys() if key.startswith("objects/")]


def test_large_data_is_an_object_and_small_data_is_not(store):
    store.set("small", (data(b"123456789"), {"n": 1}))
    store.set("large", (data(b"1234567890"), {"n": 1}))
    (key,) = objects(store)
    assert store.data.to_bytes(key) == b"1234567890"
    assert (store.store.to_bytes("small"), store.store.to_bytes("large")) == (b"123456789", b"")
    assert [(store.stat(name).size, store.stat(name).rdev) for name in ("small", "large")] == [(9, 0), (10, 0)]
    assert {name: stat.size for name, stat in store.list("")} == {"small": 9, "large": 10}
    assert store.get_metadata("large") == store.get("large").metadata == {"n": 1}
    assert store.get_metadata("large", ["n", OBJECT]) == {"n": 1}
    assert dict(store.query(n=1)) == {"small": {"n": 1}, "large": {"n": 1}}
    assert dict(store.query([OBJECT], n=1)) == {"small": {}, "large": {}}
    assert list(store.query(**{OBJECT: key.rpartition("/")[2]})) == []
    assert list(store.check()) == []


def test_what_changes_no_data_moves_none(store):
    store.set("a", (data(b"x" * 100), {"n": 1}))
    before = objects(store)
    store.set_stat("a", mode=0o600)
    store.set_metadata("a", {"n": 2})
    store.update_metadata("a", {"m": 3})
    store.rename("a", "d/b")
    store.link("d/b", "c")
    store.exchange("c", "d/b")
    assert objects(store) == before
    for key in ("c", "d/b"):
        assert (store.to_bytes(key), store.get_metadata(key), store.stat(key).mode) == (b"x" * 100, {"n": 2, "m": 3}, 0o100600)


@pytest.mark.parametrize(
    "lose",
    [
        lambda store: store.delete("a"),
        lambda store: store.set_data("a", data(b"y" * 100)),
        lambda store: store.set_data("a", data(b"small")),
        lambda store: store.rename("b", "a"),
        lambda store: store.put("a", Stat(0o120777), data(b"target")),
    ],
    ids=["deleted", "replaced", "replaced by little", "moved over", "replaced by another kind"],
)
def test_what_is_not_needed_goes_and_nothing_else(store, lose):
    store.set_data("a", data(b"x" * 100))
    store.set_data("b", data(b"b" * 100))
    store.set_data("linked", data(b"l" * 100))
    store.link("linked", "other")
    store.delete("linked")
    (needless,) = set(store.data.keys()) & {f"objects/{name[:2]}/{name}" for name in [store.store.get_metadata("a")[OBJECT]]}
    lose(store)
    assert store._objects.sweep() == 0, "it was noted but now, and somebody may be reading it"
    assert needless in objects(store)
    store._objects.sweep(grace=0)
    assert needless not in objects(store)
    assert list(store.data.list("noted/")) == []
    contents = {key: store.to_bytes(key) for key in store.keys()}
    assert contents["other"] == b"l" * 100
    assert b"b" * 100 in contents.values()
    assert len(objects(store)) == sum(len(content) >= 10 for content in contents.values())
    assert list(store.check()) == []


def test_what_was_cut_off_goes(tmp_path):
    """The object is there, and the first store has failed."""
    fails = []
    with SplitStore(FaultyStore(MemoryStore(), lambda method: Fault(StoreUnavailable("gone")) if fails and method == "put" else None), MemoryStore(), 1) as store:
        store.set_data("a", data(b"old"))
        fails.append(True)
        with pytest.raises(StoreUnavailable):
            store.put("a", FILE, data(b"new"))
        assert (store.to_bytes("a"), len(objects(store))) == (b"old", 2)
        fails.clear()
        store._objects.sweep(grace=0)
        assert (store.to_bytes("a"), len(objects(store))) == (b"old", 1)


def test_what_is_left_of_earlier_times_goes_when_it_is_connected(tmp_path, monkeypatch):
    with split(tmp_path) as store:
        store.set_data("a", data(b"x" * 100))
        store.delete("a")
    monkeypatch.setattr("joinfs.stores.split_sweep.GRACE", 0.0)
    monkeypatch.setattr("joinfs.stores.split_sweep.Objects.sweep.__defaults__", (0.0, None))
    with split(tmp_path) as store:
        for thread in [thread for thread in threading.enumerate() if thread.name == "joinfs split"]:
            thread.join(20)
        assert objects(store) == []


def test_the_data_of_a_store_that_is_gone_is_an_error_and_the_rest_goes_on(tmp_path):
    gone = []
    second = FaultyStore(MemoryStore(), lambda method: Fault(StoreUnavailable("gone")) if gone else None)
    with SplitStore(MemoryStore(), second, 10) as store:
        store.set_data("large", data(b"x" * 100))
        store.set_data("small", data(b"small"))
        gone.append(True)
        assert (store.stat("large").size, store.to_bytes("small")) == (100, b"small")
        store.set_data("small", data(b"other"))
        store.set_stat("large", mode=0o600)
        store.rename("large", "renamed")
        for ask in (lambda: store.read("renamed", 0, 10), lambda: store.to_bytes("renamed"), lambda: store.set_data("new", data(b"x" * 100))):
            with pytest.raises(StoreUnavailable):
                ask()
        gone.clear()
        assert (store.to_bytes("renamed"), store.exists("new"), store.to_bytes("small")) == (b"x" * 100, False, b"other")


def test_an_object_that_is_not_there_is_damage(store):
    store.set_data("a", data(b"x" * 100))
    store.data.delete(*objects(store))
    for ask in (lambda: store.read("a", 0, 10), lambda: store.to_bytes("a")):
        with pytest.raises(CorruptStore, match="'a' is not in"):
            ask()
    assert any("'a'" in sentence for sentence in store.check())


def test_who_reads_what_is_replaced_and_swept_gets_the_new(store):
    store.set_data("a", data(b"x" * 100))
    for content in (b"y" * 200, b"small"):
        with contextlib.closing(store.get("a")) as value:
            store.set_data("a", data(content))
            store._objects.sweep(grace=0)
            assert (value.data.read(), value.size) == (content, len(content))


def test_a_value_that_looks_like_a_split_one_is_refused(store):
    for write in (
        lambda: store.put("a", FILE, data(b"x"), {OBJECT: "x"}),
        lambda: store.set_metadata("", {OBJECT: "x"}),
        lambda: store.set_metadata("new", {"split.size": 1}),
        lambda: store.update_metadata("", {"split.size": 1}),
    ):
        with pytest.raises(Unsupported, match="the split store's own"):
            write()
    store.store.set("a", (data(b""), {OBJECT: "../../x", "split.size": 5}))
    with pytest.raises(CorruptStore):
        store.read("a", 0, 5)


def test_two_of_one_pair_see_each_others_values(tmp_path):
    with split(tmp_path, 5) as one, split(tmp_path, 5) as other:
        one.set_data("a", data(b"x" * 100))
        assert other.to_bytes("a") == b"x" * 100
        other.set_data("a", data(b"y" * 50))
        one._objects.sweep(grace=0)
        other._objects.sweep(grace=0)
        assert (one.to_bytes("a"), one.stat("a").size, len(objects(one))) == (b"y" * 50, 50, 1)


def test_large_data_is_never_whole_in_memory(tmp_path, in_bounded_memory):
    (tmp_path / "data").mkdir()
    script = (
        "class Source:\n"
        "    left = 200 << 20\n"
        "    def read(self, size=-1):\n"
        "        size = min(size if size > 0 else self.left, self.left); self.left -= size; return bytes(size)\n"
        "with joinfs.open_store(f'split:sqlite:{sys.argv[1]}/n.db,{sys.argv[1]}/data') as store:\n"
        "    store.set_data('a', Source())\n"
        "    print(store.stat('a').size, sum(len(piece) for piece in store.get('a').iterdata()))\n"
    )
    assert in_bounded_memory(script, 48, tmp_path) == f"{200 << 20} {200 << 20}\n"


@pytest.mark.parametrize("url", ["split:sqlite:x.db", "split:,data", "split:x.db,", "split:"])
def test_a_url_without_two_stores_is_told(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="two stores with a ','"):
        joinfs.open_store(url)


def test_a_first_store_that_cannot_be_one_is_told(tmp_path):
    (tmp_path / "data").mkdir()
    store = SplitStore(DirectoryStore(tmp_path / "data"), MemoryStore())
    with pytest.raises(UsageError, match="cannot be the first store of a split"):
        store.connect()
    assert not store.store.is_connected()


def test_options_of_the_two_are_spelled_out(tmp_path):
    (tmp_path / "data" / "part").mkdir(parents=True)
    with joinfs.open_store(f"split:sqlite:{tmp_path}/n.db,dir:{tmp_path}/data%3Fprefix=part") as store:
        store.set_data("a", data(bytes(LARGE)))
    assert (tmp_path / "data" / "part" / "objects").is_dir()
