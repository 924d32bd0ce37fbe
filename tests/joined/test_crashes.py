"""Every change, cut off after every write to the first store. SEMANTICS.md, Crashes."""

import contextlib
import io
import stat as stat_module

import pytest

from joinfs.joined.store import JoinedStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.value import new_stat


class Crash(BaseException):
    """Nothing of joinfs may catch this and go on."""


class Fragile(MemoryStore):
    """A store whose process ends before a certain write."""

    def __init__(self):
        super().__init__()
        self.writes_left = None

    @contextlib.contextmanager
    def _changing(self, *keys):
        if self.writes_left == 0:
            raise Crash
        if self.writes_left is not None:
            self.writes_left -= 1
        with super()._changing(*keys):
            yield


LONG = "n" * 254
CONTENTS = [
    {"up": b"upper", "both": b"upper both", "d/up": b"1", "u/s/x": b"2", "u/y": b"3", "gone": None, "e/": None, "m/a": b"m"},
    {"both": b"lower both", "low": b"lower", "gone": b"0", "d/low": b"4", "l/s/z": b"5", LONG: b"6", "e/f": b"7", "m/a": b"M", "m/b": b"N"},
    {"both": b"bottom", "low": b"bottom", "l/s/q": b"8", "d/low": b"9", "b/": b""},
]  # fmt: skip


def make_join():
    stores = [Fragile(), MemoryStore(), MemoryStore()]
    join = JoinedStore(stores)
    join.connect()
    for store, contents in zip(stores, CONTENTS, strict=True):
        for key, data in contents.items():
            if key.endswith("/"):
                store.put(key, new_stat(stat_module.S_IFDIR | 0o700))
            elif data is not None:
                store.set(key, (io.BytesIO(data), {"n": "1"}))
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
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_is_cut_off_leaves_the_old_state_or_the_new(name):
    change = CHANGES[name]
    whole = make_join()
    old = seen(whole)
    change(whole)
    new = seen(whole)
    assert old != new
    assert seen(JoinedStore(whole.layers)) == new
    for writes in range(100):
        join = make_join()
        join.layers[0].writes_left = writes
        try:
            change(join)
        except Crash:
            join.layers[0].writes_left = None
            again = JoinedStore(join.layers)
            state = seen(again)
            assert state in (old, new), f"after {writes} writes"
            if state == old:
                change(again)
                assert seen(again) == seen(JoinedStore(again.layers)) == new, f"done again, after {writes} writes"
        else:
            assert writes > 0
            return
    raise AssertionError("it goes on for ever")


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_comes_back_after_a_crash(name):
    """What is there after a crash can be deleted, all of it, and stays deleted."""
    for writes in range(100):
        join = make_join()
        join.layers[0].writes_left = writes
        with contextlib.suppress(Crash):
            CHANGES[name](join)
        crashed = join.layers[0].writes_left == 0
        join.layers[0].writes_left = None
        again = JoinedStore(join.layers)
        for key in sorted(seen(again), key=lambda key: -key.removesuffix("/").count("/") * 1000 - len(key)):
            again.delete(key)
        assert seen(again) == seen(JoinedStore(join.layers)) == {}
        if not crashed:
            return
