"""Every change, cut off after every write to the first store. SEMANTICS.md, Crashes."""

import contextlib
import io
import itertools
import os
import stat as stat_module

import pytest

from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.value import new_stat


class Crash(BaseException):
    """Nothing of joinfs may catch this and go on."""


class Fragile:
    """A store whose process ends before a certain write."""

    writes_left = None

    @contextlib.contextmanager
    def _changing(self, *keys):
        if self.writes_left == 0:
            raise Crash
        if self.writes_left is not None:
            self.writes_left -= 1
        with super()._changing(*keys):
            yield


class FragileMemory(Fragile, MemoryStore):
    pass


class FragileDirectory(Fragile, DirectoryStore):
    pass


LONG = "n" * 254
CONTENTS = [
    {"up": b"upper", "both": b"upper both", "d/up": b"1", "u/s/x": b"2", "u/y": b"3", "gone": None, "e/": None, "m/a": b"m"},
    {"both": b"lower both", "low": b"lower", "gone": b"0", "d/low": b"4", "l/s/z": b"5", LONG: b"6", "e/f": b"7", "m/a": b"M", "m/b": b"N", "h1": b"H"},
    {"both": b"bottom", "low": b"bottom", "l/s/q": b"8", "d/low": b"9", "b/": b""},
]  # fmt: skip


@pytest.fixture(params=["oci", "overlay", "metacopy"])
def how(request, tmp_path, monkeypatch):
    """How the first store hides and copies."""
    if request.param == "metacopy":
        monkeypatch.setattr("joinfs.joined.steps.LARGE", 0)
    if request.param == "overlay" and os.geteuid() != 0:
        pytest.skip("needs root, for overlayfs's marks")
    return How(request.param, tmp_path)


class How:
    def __init__(self, kind, place):
        self.kind, self.place, self.numbers = kind, place, itertools.count()

    def first(self):
        if self.kind != "overlay":
            return FragileMemory()
        place = self.place / f"{next(self.numbers)}"
        place.mkdir()
        return FragileDirectory(place)

    def join(self, layers):
        return JoinedStore(layers, whiteouts="overlay" if self.kind == "overlay" else "oci")


def make_join(how):
    stores = [how.first(), MemoryStore(), MemoryStore()]
    join = how.join(stores)
    join.connect()
    for store, contents in zip(stores, CONTENTS, strict=True):
        for key, data in contents.items():
            if key.endswith("/"):
                store.put(key, new_stat(stat_module.S_IFDIR | 0o700))
            elif data is not None:
                store.set(key, (io.BytesIO(data), {"n": "1"}))
    stores[1].link("h1", "d/h2")
    stores[1].link("h1", "h3")
    join.delete("gone")
    join.delete("e/f")
    join.delete("e/")
    return join


def seen(store, prefix=""):
    found = {}
    for name, stat in store.list(prefix):
        key = f"{prefix}{name}/" if stat.is_directory else prefix + name
        found[key] = (store.to_bytes(key), store.get_metadata(key), stat.mode)
        assert store.exists(key)
        if stat.is_directory:
            found |= seen(store, key)
    return found


def setting(key):
    return lambda join: join.set(key, (io.BytesIO(b"new"), {"k": "2"}))


CHANGES = {
    "replace what is in the first store": setting("both"),
    "replace what is below": setting("low"),
    "replace deep below": setting("l/s/z"),
    "make": setting("new"),
    "make again what was deleted": setting("gone"),
    "make again a directory that was deleted": lambda join: join.put("e/", new_stat(stat_module.S_IFDIR | 0o711)),
    "delete what is in the first store": lambda join: join.delete("up"),
    "delete what is in all": lambda join: join.delete("both"),
    "delete what is below": lambda join: join.delete("low"),
    "delete deep below": lambda join: join.delete("l/s/z"),
    "delete a directory that is below": lambda join: join.delete("b/"),
    "delete what has a long name": lambda join: join.delete(LONG),
    "change metadata below": lambda join: join.set_metadata("l/s/z", {"k": "3"}),
    "change the mode of a directory below": lambda join: join.set_stat("l/", mode=0o711),
    "change the mode of a merged directory": lambda join: join.set_stat("d/", mode=0o711),
    "rename in the first store": lambda join: join.rename("up", "up2"),
    "rename what is in all": lambda join: join.rename("both", "both2"),
    "rename what is below": lambda join: join.rename("low", "d/low2"),
    "rename over what is below": lambda join: join.rename("up", "low"),
    "rename over what was deleted": lambda join: join.rename("up", "gone"),
    "rename what has a long name": lambda join: join.rename(LONG, "short"),
    "rename to a long name": lambda join: join.rename("low", "m" * 254),
    "rename a directory of the first store": lambda join: join.rename("u/", "u2/"),
    "rename a directory below": lambda join: join.rename("l/", "l2/"),
    "rename a merged directory": lambda join: join.rename("d/", "d2/"),
    "rename a directory into another": lambda join: join.rename("m/", "d/m/"),
    "rename over an empty directory below": lambda join: join.rename("u/", "b/"),
    "rename a merged directory over one that is empty below": lambda join: join.rename("d/", "b/"),
    "rename over a directory that was deleted": lambda join: join.rename("m/", "e/"),
    "exchange files": lambda join: join.exchange("up", "low"),
    "exchange directories": lambda join: join.exchange("l/", "d/"),
    "exchange a file and a directory": lambda join: join.exchange("both", "m/"),
    "link what is below": lambda join: join.link("low", "low2"),
    "link over what was deleted": lambda join: join.link("up", "gone"),
    "replace what has several names below": setting("d/h2"),
    "write what has several names below": lambda join: join.set_data("h1", io.BytesIO(b"new")),
    "change the mode of what has several names below": lambda join: join.set_stat("h3", mode=0o100600),
    "delete what has several names below": lambda join: join.delete("h1"),
    "rename what has several names below": lambda join: join.rename("h1", "d/h4"),
    "rename over what has several names below": lambda join: join.rename("up", "h1"),
    "link what has several names below": lambda join: join.link("h1", "h5"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_cut_off_leaves_the_old_state_or_the_new(name, how):
    change = CHANGES[name]
    whole = make_join(how)
    old = seen(whole)
    change(whole)
    new = seen(whole)
    assert old != new
    assert seen(how.join(whole.layers)) == new
    for writes in range(100):
        join = make_join(how)
        join.layers[0].writes_left = writes
        try:
            change(join)
        except Crash:
            join.layers[0].writes_left = None
            again = how.join(join.layers)
            state = seen(again)
            assert state in (old, new), f"after {writes} writes"
            if state == old:
                change(again)
                assert seen(again) == seen(how.join(again.layers)) == new, f"done again, after {writes} writes"
        else:
            assert writes > 0
            return
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_comes_back_after_a_crash(name, how):
    """What is there after a crash can be deleted, all of it, and stays deleted."""
    for writes in range(100):
        join = make_join(how)
        join.layers[0].writes_left = writes
        with contextlib.suppress(Crash):
            CHANGES[name](join)
        crashed = join.layers[0].writes_left == 0
        join.layers[0].writes_left = None
        again = how.join(join.layers)
        for key in sorted(seen(again), key=lambda key: -key.removesuffix("/").count("/") * 1000 - len(key)):
            again.delete(key)
        assert seen(again) == seen(how.join(join.layers)) == {}
        if not crashed:
            return
