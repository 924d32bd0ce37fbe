"""Files that only their keys name, as those of buckets and mappings are. SEMANTICS.md, Inode numbers."""

import os

import pytest

from joinfs.filesystem.operations import ROOT, Caller, Operations
from joinfs.joined.store import JoinedStore
from joinfs.stores.memory import MemoryStore
from joinfs.testing import DictStore

WHO = Caller(os.geteuid(), os.getegid(), os.getpid())


@pytest.fixture(params=["alone", "first", "lower"])
def fs(request):
    store = DictStore({"low": (b"low", {})} if request.param == "lower" else {})
    layers = {"alone": [store], "first": [store, MemoryStore()], "lower": [MemoryStore(), store]}[request.param]
    with JoinedStore(layers) as join:
        fs = Operations(join)
        yield fs
        fs.close()


def write(fs, name, content):
    entry, handle = fs.create(ROOT, name, 0o644, os.O_WRONLY | os.O_CREAT, WHO)
    fs.write(handle, 0, content)
    fs.flush(handle)
    fs.release(handle)
    return entry.attributes.ino


def number(fs, name, parent=ROOT):
    return fs.lookup(parent, name).attributes.ino


def test_what_takes_the_place_of_a_file_that_was_renamed_has_another_number(fs):
    first = write(fs, "a", b"first")
    fs.rename(ROOT, "a", ROOT, "b")
    second = write(fs, "a", b"second")
    assert number(fs, "b") == first
    assert number(fs, "a") == second != first


def test_what_is_renamed_over_a_file_is_another(fs):
    """As editors do it."""
    numbers = {write(fs, "edited", b"0")}
    for count in range(1, 4):
        write(fs, "new", b"%d" % count)
        fs.rename(ROOT, "new", ROOT, "edited")
        numbers.add(number(fs, "edited"))
        write(fs, "new", b"next")
        assert number(fs, "new") != number(fs, "edited")
        fs.unlink(ROOT, "new")
    assert len(numbers) == 4


def test_directories_are_told_apart_as_well(fs):
    for name, moved in (("o", "p"), ("o", "q")):
        fs.mkdir(ROOT, name, 0o755, WHO)
        fs.rename(ROOT, name, ROOT, moved)
    fs.mkdir(ROOT, "o", 0o755, WHO)
    assert len({number(fs, name) for name in "opq"}) == 3
