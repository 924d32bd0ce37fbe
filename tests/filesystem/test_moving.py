"""What is asked of a node while a verb gives it another key. SEMANTICS.md, Renaming."""

import concurrent.futures
import io
import os

import pytest

from joinfs.filesystem.namespace import RENAME_EXCHANGE
from joinfs.filesystem.operations import ROOT, Operations, Settings
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.value import new_stat

PATIENCE = 20
# Long enough for who need not wait.
SOON = 0.05


class Overtaken:
    """A store that has something happen before it is asked for something, or when it has done something."""

    before = after = None

    def _tell(self, moment):
        meanwhile = getattr(self, moment)
        setattr(self, moment, None)
        if meanwhile is not None:
            meanwhile()


def asked(name):
    def method(self, *args, **kwargs):
        self._tell("before")
        return getattr(super(Overtaken, self), name)(*args, **kwargs)

    return method


def done(name):
    def method(self, *args, **kwargs):
        answer = getattr(super(Overtaken, self), name)(*args, **kwargs)
        self._tell("after")
        return answer

    return method


for verb in ("stat", "lookup", "list", "read", "get_metadata", "get_xattrs", "to_bytes", "open_local", "open_in_place", "sync"):
    setattr(Overtaken, verb, asked(verb))
for verb in ("rename", "exchange"):
    setattr(Overtaken, verb, done(verb))


class OvertakenMemory(Overtaken, MemoryStore):
    pass


class OvertakenDirectory(Overtaken, DirectoryStore):
    pass


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    (tmp_path / "medium").mkdir()
    with OvertakenMemory() if request.param == "memory" else OvertakenDirectory(tmp_path / "medium") as made:
        for directory, size in (("a/b/", 1), ("c/b/", 2), ("e/b/", 3)):
            made.set(directory + "file", (io.BytesIO(b"x" * size), {"size": str(size)}))
            made.set(directory + "d/" + "y" * size, (io.BytesIO(), {}))
            made.make(directory + "link", new_stat(0o120777, os.geteuid(), os.getegid()), b"x" * size)
        yield made


@pytest.fixture
def fs(store):
    operations = Operations(store, Settings(entry_ttl=0.0))
    yield operations
    operations.close()


def known(fs, path):
    number = ROOT
    for name in path.split("/"):
        number = fs.lookup(number, name).node
    return number


def read(fs, path):
    number = known(fs, path + "/b/file")

    def ask():
        handle = fs.open(number, os.O_RDONLY)
        try:
            return len(fs.read(handle, 0, 100))
        finally:
            fs.release(handle)

    return ask


def read_later(fs, path):
    handle = fs.open(known(fs, path + "/b/file"), os.O_RDONLY, lazily=True)
    return lambda: len(fs.read(handle, 0, 100))


def in_place(fs, path):
    handle = fs.open(known(fs, path + "/b/file"), os.O_RDONLY, lazily=True)

    def ask():
        descriptor = fs._files[handle].content.descriptor(only_in_place=True)
        return len(fs.read(handle, 0, 100)) if descriptor is None else os.fstat(descriptor).st_size

    return ask


def attributes(fs, path):
    number = known(fs, path + "/b/file")
    return lambda: fs.getattr(number).size


def metadata(fs, path):
    number = known(fs, path + "/b/file")
    return lambda: int(fs.getxattr(number, "user.size"))


def names(fs, path):
    number = known(fs, path + "/b/d")
    return lambda: len(list(fs.readdir(number, 0))[2].name)


def looked_up(fs, path):
    number = known(fs, path + "/b")
    return lambda: fs.lookup(number, "file").attributes.size


def target(fs, path):
    number = known(fs, path + "/b/link")
    return lambda: len(fs.readlink(number))


def synced(fs, path):
    handle = fs.open(known(fs, path + "/b/file"), os.O_RDONLY)
    sizes = {"a": 1, "c": 2, "e": 3}

    def ask():
        fs.fsync(handle)
        return sizes[path]

    return ask


def exchange_above(fs):
    fs.rename(ROOT, "a", ROOT, "c", RENAME_EXCHANGE)


def exchange_files(fs):
    for name in ("file", "d", "link"):
        fs.rename(known(fs, "a/b"), name, known(fs, "c/b"), name, RENAME_EXCHANGE)


def move_away_and_another_in(fs):
    fs.rename(ROOT, "a", ROOT, "moved")
    fs.rename(ROOT, "c", ROOT, "a")
    fs.rename(ROOT, "e", ROOT, "c")


QUESTIONS = [read, read_later, in_place, attributes, metadata, names, looked_up, target, synced]
CHANGES = [exchange_above, exchange_files, move_away_and_another_in]
pytestmark = [
    pytest.mark.parametrize("question", QUESTIONS),
    pytest.mark.parametrize("change", CHANGES),
    pytest.mark.parametrize("path", ["a", "c"]),
]


def is_asked_alone(question, change):
    """What is looked up in a directory is what is there by now."""
    return question is looked_up and change is exchange_files


def test_what_was_moved_before_the_store_is_asked_is_answered_as_itself(store, fs, question, change, path):
    ask = question(fs, path)
    with concurrent.futures.ThreadPoolExecutor() as others:
        store.before = lambda: others.submit(change, fs).result(PATIENCE)
        answer = ask()
    assert (answer, store.before) == ({"a": 1, "c": 2}[path], None) or is_asked_alone(question, change)


def test_what_is_being_moved_is_answered_as_itself(store, fs, question, change, path):
    """In the store it is at its new place, and the nodes do not know yet."""
    ask = question(fs, path)
    with concurrent.futures.ThreadPoolExecutor() as others:
        answers = []

        def meanwhile():
            answers.append(others.submit(ask))
            concurrent.futures.wait(answers, SOON)  # it may have to wait for us

        store.after = meanwhile
        change(fs)
        answer = answers[0].result(PATIENCE)
    assert answer == {"a": 1, "c": 2}[path] or is_asked_alone(question, change)
