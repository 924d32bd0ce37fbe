"""What a join tells of its layers. SEMANTICS.md, Being told of changes."""

import contextlib
import io
import os

import pytest

from joinfs.errors import Unsupported
from joinfs.joined.store import JoinedStore
from joinfs.joined.whiteout import REDIRECT, REDIRECTS
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.value import new_stat
from joinfs.stores.views import PrefixStore, ReadOnlyStore
from joinfs.testing import DictStore
from tests.stores.test_watching import Told

DIRECTORY = new_stat(0o040755)


def set_data(store, key, content=b"x"):
    store.set_data(key, io.BytesIO(content))


@pytest.fixture
def roots(tmp_path):
    roots = [tmp_path / name for name in ("upper", "lower", "bottom")]
    for root in roots:
        root.mkdir()
    (roots[1] / "d" / "s").mkdir(parents=True)
    (roots[1] / "d" / "a").write_text("lower")
    (roots[1] / "d" / "s" / "x").write_text("lower")
    (roots[2] / "d").mkdir()
    (roots[2] / "d" / "b").write_text("bottom")
    return roots


@pytest.fixture
def join(roots):
    """What directories are made of is believed for ever, unless a change is told."""
    with JoinedStore([DirectoryStore(root) for root in roots], directory_ttl=1e6) as join:
        assert all(join.watch(key) for key in ("", "d/", "d/s/"))
        yield join


@pytest.fixture
def told(join):
    return Told(join)


def names(join, directory):
    return sorted(name for name, _ in join.list(directory))


# -------------------------------------------------------------------- what others do to a layer


def test_files_of_any_layer(join, roots, told):
    (roots[1] / "d" / "a").write_text("changed")
    told.until("d/a")
    assert join.to_bytes("d/a") == b"changed"
    (roots[2] / "d" / "new").write_text("x")
    told.until("d/new")
    assert "new" in names(join, "d/")
    (roots[2] / "top").write_text("x")
    assert set(told.until("top")) <= {"d/new", "top"}


def test_a_directory_that_appears_in_a_layer_brings_all_that_is_in_it(join, roots, told):
    (roots[0] / "make" / "s").mkdir(parents=True)
    (roots[0] / "make" / "s" / "new").write_text("upper")
    assert names(join, "d/s/") == ["x"]
    (roots[0] / "make").rename(roots[0] / "d")
    told.until("d/")
    assert names(join, "d/s/") == ["new", "x"]
    assert join.watch("d/")
    assert join.watch("d/s/")
    (roots[0] / "d" / "s" / "newer").write_text("x")
    told.until("d/s/newer")


def test_a_directory_that_goes_takes_what_is_in_it(join, roots, told):
    (roots[1] / "d").rename(roots[1] / "away")
    told.until("d/")
    assert names(join, "d/") == ["b"]
    assert join.watch("d/")
    assert not join.watch("d/s/")


def test_a_file_in_place_of_a_directory_hides_those_below(join, roots, told):
    (roots[0] / "d").write_text("a file")
    told.until("d/")
    assert join.stat("d").is_file
    (roots[0] / "d").unlink()
    told.until("d")
    assert names(join, "d/") == ["a", "b", "s"]


def test_whiteouts_tell_of_what_they_hide(join, roots, told):
    (roots[0] / "d").mkdir()
    told.until("d/")
    assert join.watch("d/")
    (roots[0] / "d" / ".wh.a").touch()
    told.until("d/a")
    assert not join.exists("d/a")
    (roots[0] / "d" / ".wh.a").unlink()
    told.until("d/a")
    assert join.watch("d/s/")
    (roots[0] / "d" / ".wh.s").touch()
    told.until("d/s/")
    assert not join.exists("d/s/")
    (roots[0] / "d" / ".wh..wh..opq").touch()
    told.until("d/")
    assert names(join, "d/") == []
    (roots[0] / ".wh..wh..opq").touch()
    told.until(None)


def test_marks_in_attributes_tell_of_what_is_below(join, roots, told):
    (roots[0] / "d").mkdir()
    told.until("d/")
    assert join.watch("d/")
    os.setxattr(roots[0] / "d", "user.overlay.opaque", b"y")
    told.until("d/")
    assert names(join, "d/") == []
    assert join.watch("d/")
    told.now()
    (roots[0] / "d").chmod(0o700)
    told.until("d")


def test_overflow_in_a_layer_is_everything(join, told):
    join.layers[1]._tell_changed(None)
    assert told.now() == [None]
    assert all(join.watch(key) for key in ("", "d/", "d/s/"))


def test_what_is_not_watched_any_more_is_not_told(join, roots, told):
    join.unwatch("d/s/")
    (roots[1] / "d" / "s" / "y").write_text("x")
    (roots[1] / "d" / "last").write_text("x")
    assert set(told.until("d/last")) == {"d/last"}
    assert [list(layer._watching._watches.things) for layer in join.layers] == [[""], ["", "d/"], ["", "d/"]]
    join.disconnect()
    assert join._watched._stacks.things == {}
    join.connect()


# -------------------------------------------------------------------- what is written


@pytest.fixture(params=["memory", "directory", "sqlite", "flat"])
def written(request, tmp_path):
    (tmp_path / "first").mkdir()
    upper = {
        "memory": MemoryStore,
        "directory": lambda: DirectoryStore(tmp_path / "first"),
        "sqlite": lambda: SQLiteStore(tmp_path / "first.db"),
        "flat": lambda: DictStore({}),
    }[request.param]()
    lower = MemoryStore()
    with lower, JoinedStore([upper, lower]) as join:
        for key in ("d/a", "d/b", "d/s/x"):
            set_data(lower, key)
        yield join


def test_a_write_of_the_join_is_told_once(written):
    told = Told(written)
    writes = [
        (lambda: set_data(written, "d/a"), ["d/a"]),
        (lambda: written.delete("d/b"), ["d/b"]),
        (lambda: set_data(written, "d/b"), ["d/b"]),
        (lambda: written.set_stat("d/", mtime=5), ["d"]),
        (lambda: written.put("new/", DIRECTORY), ["new"]),
        (lambda: written.rename("d/a", "new/a"), ["d/a", "new/a"]),
        (lambda: written.rename("d/", "e/"), ["d/", "e/"]),
        (lambda: written.delete("e/s/x"), ["e/s/x"]),
        (lambda: written.delete("e/s/"), ["e/s"]),
        (lambda: written.exchange("e/", "new/a"), ["e/", "new/a"]),
    ]
    for write, keys in writes:
        told.now()
        with contextlib.suppress(Unsupported):
            write()
            assert told.now() == keys
    told.now()
    with written.transaction("two"):
        set_data(written, "one/x")
        set_data(written, "two/x")
        set_data(written, "one/x")
        assert told.now() == []
    assert told.now() == ["one/x", "two/x"]
    assert not written._heard()


def test_a_write_of_a_layer_is_told_in_the_join_s_keys(written):
    upper, lower = written.layers
    told = Told(written)
    set_data(lower, "d/new")
    set_data(upper, "d/newer")
    set_data(upper, "d/.wh.a", b"")
    upper.put("d/.wh..wh..opq", new_stat(0o100600))
    set_data(upper, ".wh..wh.plnk", b"")
    assert told.now() == ["d/new", "d/newer", "d/a", "d/"]
    with lower.transaction("two"):
        lower.multiset_data(["d/x", "d/x"], [io.BytesIO(), io.BytesIO()])
        assert told.now() == []
    assert told.now() == ["d/x"]


def test_who_is_not_subscribed_is_not_told_and_layers_forget_the_join(written):
    told, other = Told(written), Told(written)
    written.unsubscribe(told.keys.put)
    set_data(written.layers[1], "d/new")
    assert (told.now(), other.now()) == ([], ["d/new"])
    written.unsubscribe(other.keys.put)
    assert [layer._subscribers for layer in written.layers] == [(), ()]


def test_opening_to_write_tells_of_what_it_copies_up(join, told):
    for directory in ("d/s/", "d/", ""):  # or what the layers tell comes in between
        join.unwatch(directory)
    for expected in (["d/a"], []):
        told.now()
        os.close(join.open_local("d/a", os.O_RDWR))
        assert told.now() == expected


def test_own_writes_do_not_end_what_is_watched(join, roots, told):
    """A directory that is copied up is watched there too, and one that is renamed goes on being."""
    set_data(join, "d/a")
    told.until("d/a")
    (roots[0] / "d" / "mark").touch()
    assert "d/" not in told.until("d/mark")
    (roots[1] / "d" / "mark2").touch()
    assert "d/" not in told.until("d/mark2")
    join.rename("d/", "e/")
    assert told.until("d/", "e/")
    (roots[0] / "e" / "new").touch()
    (roots[1] / "d" / "s" / "new").touch()
    (roots[2] / "d" / "new2").touch()
    (roots[1] / "d" / "a").chmod(0o600)
    assert not {"e/", None} & set(told.until("e/new", "e/s/new", "e/new2", "e/a"))
    assert "new" in names(join, "e/s/")
    join.put("f/", DIRECTORY)
    join.exchange("e/", "f/")
    told.until("e/", "f/")
    (roots[1] / "d" / "s" / "newer").touch()
    told.until("f/s/newer")


# -------------------------------------------------------------------- redirects, and joins of joins


def test_below_a_redirect_that_nobody_watches_everything_may_have_changed():
    upper, lower = MemoryStore(), MemoryStore()
    with JoinedStore([upper, lower]) as join:
        set_data(lower, "d/a")
        join.rename("d/", "e/")
        told = Told(join)
        set_data(lower, "d/a")
        assert told.now() == [None]
        assert all(join.watch(key) for key in ("", "e/"))
        set_data(lower, "d/a")
        assert told.now() == ["e/a"]
        lower.set_stat("d/", mtime=5)
        assert set(told.now()) == {"d", "e"}
        lower.rename("d/", "away/")
        assert "e/" in told.now()


def test_a_redirect_that_others_make_is_noticed():
    upper, lower = MemoryStore(), MemoryStore()
    with JoinedStore([upper, lower], directory_ttl=1e6) as join:
        set_data(lower, "d/a")
        upper.put("e/", DIRECTORY)
        told = Told(join)
        assert all(join.watch(key) for key in ("", "d/", "e/"))
        upper.set_metadata("", {REDIRECTS: True})
        upper.set_metadata("e/", {REDIRECT: "d/"})
        assert told.now() == ["", "e/"]
        assert names(join, "e/") == ["a"]


def test_joins_of_joins_and_of_views(roots):
    shared = DirectoryStore(roots[1])
    inner = JoinedStore([DirectoryStore(roots[0]), ReadOnlyStore(shared)], directory_ttl=1e6)
    with JoinedStore([MemoryStore(), inner, PrefixStore(DirectoryStore(roots[2]), "d")], directory_ttl=1e6) as outer:
        told = Told(outer)
        assert all(outer.watch(key) for key in ("", "d/", "d/s/"))
        (roots[1] / "d" / "new").touch()
        (roots[2] / "d" / "other").touch()
        told.until("d/new", "other")
        (roots[0] / "d").mkdir()
        told.until("d/")
        assert all(outer.watch(key) for key in ("", "d/", "d/s/"))
        (roots[0] / "d" / ".wh.s").touch()
        told.until("d/s/")
        assert not outer.exists("d/s/")
        told.now()
        set_data(inner, "d/y")
        assert told.now()[0] == "d/y"


def test_a_database_among_the_layers_tells_that_everything_may_have_changed(tmp_path):
    with JoinedStore([MemoryStore(), SQLiteStore(tmp_path / "db")]) as join, SQLiteStore(tmp_path / "db") as other:
        told = Told(join)
        assert join.watch("")
        set_data(other, "d/a")
        told.until(None)
        assert join.exists("d/a")


def test_where_one_layer_cannot_tell_the_join_cannot():
    with JoinedStore([MemoryStore(), DictStore({})]) as join:
        set_data(join.layers[0], "d/a")
        assert not join.watch("")
        assert not join.watch("d/")
        assert not join.watch("absent/")


def test_what_is_told_late_after_the_end_is_told_to_nobody(tmp_path):
    """The thread that tells of what was postponed may come when the join is disconnected."""
    from joinfs.stores.telling import OTHERS, Watcher

    (tmp_path / "upper" / "d").mkdir(parents=True)
    (tmp_path / "lower" / "d").mkdir(parents=True)
    with JoinedStore([DirectoryStore(tmp_path / "upper"), DirectoryStore(tmp_path / "lower")]) as join:
        told = []
        join.subscribe(told.append)
        join.watch("")
        join.watch("d/")
        join.layers[0].disconnect()
        watcher = Watcher(target=join._tell_late, args=((), [(0, "d", OTHERS)]))
        watcher.start()
        watcher.join()  # pytest fails if it raised
        assert told == []
