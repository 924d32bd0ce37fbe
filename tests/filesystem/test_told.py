"""What the kernel is told of, with a kernel that only remembers it. SEMANTICS.md, Changes by others."""

import contextlib
import errno
import io
import os
import threading
import time

import pytest

from joinfs.errors import errno_of
from joinfs.filesystem.operations import ROOT, Caller, Operations, Settings
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.telling import Watcher

ME = Caller(os.geteuid(), os.getegid())
PATIENCE = 20


class RecordingKernel:
    """Remembers what it was told."""

    def __init__(self, keeps_sizes=False):
        self.keeps_sizes = keeps_sizes
        self._told = []
        self._more = threading.Condition()

    def _add(self, *what):
        with self._more:
            self._told.append(what)
            self._more.notify_all()

    def entry_changed(self, parent, name):
        self._add("entry changed", parent, name)

    def entry_gone(self, parent, name, node):
        self._add("entry gone", parent, name, node)

    def node_changed(self, node, data):
        self._add("node changed", node, data)

    def names_changed(self, names):
        self._add("names changed", sorted(names))

    def told(self):
        """All that was told since this was asked last."""
        with self._more:
            told, self._told = self._told, []
            return told

    def until(self, *wanted):
        """Wait until all that is wanted was told."""
        with self._more:
            is_there = self._more.wait_for(lambda: all(what in self._told for what in wanted), PATIENCE)
            assert is_there, f"told {self._told}, and not all of {wanted}"


def put(store, key, data=b"contents"):
    store.set(key, (io.BytesIO(data), {}))


@pytest.fixture(params=["memory", "directory", "sqlite", "join"])
def store(request, tmp_path):
    (tmp_path / "medium").mkdir()
    (tmp_path / "lower").mkdir()
    made = {
        "memory": MemoryStore,
        "directory": lambda: DirectoryStore(tmp_path / "medium"),
        "sqlite": lambda: SQLiteStore(tmp_path / "medium.db"),
        "join": lambda: JoinedStore([DirectoryStore(tmp_path / "medium"), DirectoryStore(tmp_path / "lower")]),
    }[request.param]()
    with made:
        put(made, "f")
        put(made, "d/g")
        put(made, "d/s/h")
        yield made


@pytest.fixture(params=[False, True], ids=["", "keeps_sizes"])
def kernel(request):
    return RecordingKernel(request.param)


@pytest.fixture
def fs(store, kernel):
    """Names are believed for long: who asks again is not why anything is seen."""
    operations = Operations(store, Settings(entry_ttl=1e6))
    operations.tell(kernel)
    yield operations
    operations.tell(None)
    operations.close()


def known(fs, *path):
    """Have the kernel know what is at a path, as by looking it up; answer the node's number."""
    number = ROOT
    for name in path:
        number = fs.lookup(number, name).node
    return number


def size(fs, *path):
    return fs.lookup(known(fs, *path[:-1]), path[-1]).attributes.size


# -------------------------------------------------------------------- what is told for which change


def test_nobody_is_told_of_what_nobody_can_know(fs, store, kernel):
    known(fs, "f")
    kernel.told()
    put(store, "d/g", b"changed")
    assert [what for what in kernel.told() if what[0] == "entry gone"] == []
    assert size(fs, "d", "g") == 7


def test_data_that_changed(fs, store, kernel):
    number = known(fs, "f")
    assert size(fs, "f") == 8
    store.set_data("f", io.BytesIO(b"longer contents"))
    told = kernel.told()
    assert ("node changed", number, True) in told or ("entry changed", ROOT, "f") in told
    assert size(fs, "f") == 15


def test_attributes_that_changed(fs, store, kernel):
    number = known(fs, "d", "g")
    store.set_stat("d/g", mode=0o600)
    assert ("node changed", number, True) in kernel.told()
    assert fs.getattr(known(fs, "d", "g")).mode & 0o7777 == 0o600


def test_attributes_of_a_directory_that_changed(fs, store, kernel):
    number = known(fs, "d")
    store.set_stat("d/", mode=0o700)
    told = kernel.told()
    assert any(what[0] == "node changed" and what[1] == number for what in told), told
    assert fs.getattr(known(fs, "d")).mode & 0o7777 == 0o700
    store.set_stat("", mode=0o711)
    assert any(what[0] == "node changed" and what[1] == ROOT for what in kernel.told())
    assert fs.getattr(ROOT).mode & 0o7777 == 0o711


def test_a_name_that_came(fs, store, kernel):
    for path in (("new",), ("d", "new")):
        parent = known(fs, *path[:-1])
        with pytest.raises(KeyError):
            fs.lookup(parent, "new")
        kernel.told()
        put(store, "/".join(path))
        told = kernel.told()
        assert ("entry changed", parent, "new") in told
        assert ("node changed", parent, True) in told, "the directory's listing is another"
        assert size(fs, *path) == 8
        assert "new" in [entry.name for entry in fs.readdir(parent, 0)]


def test_a_name_that_went(fs, store, kernel):
    parent, number = known(fs, "d"), known(fs, "d", "g")
    store.delete("d/g")
    told = kernel.told()
    assert ("entry gone", parent, "g", number) in told
    assert ("node changed", parent, True) in told
    with pytest.raises(KeyError):
        fs.lookup(parent, "g")


@pytest.mark.parametrize("kind", ["deleted", "replaced"])
def test_a_request_that_was_on_its_way_meanwhile_is_stale(fs, store, kernel, kind):
    """So the kernel, which sent it, looks the name up anew; with ENOENT the name would be denied that is there."""
    number, directory = known(fs, "f"), known(fs, "d", "s")
    fs.getattr(number)
    store.delete("f")
    store.delete("d/s/h")
    store.delete("d/s/")
    if kind == "replaced":
        put(store, "f", b"new")
        put(store, "d/s", b"no directory any more")
    requests = [
        lambda: fs.open(number, os.O_RDONLY),
        lambda: fs.link(number, ROOT, "other"),
        lambda: fs.setattr(number, mode=0o600),
        lambda: fs.setattr(number, size=0),
        lambda: fs.setxattr(number, "user.a", b"1"),
        lambda: fs.mkdir(directory, "new", 0o755, ME),
        lambda: fs.lookup(directory, "h"),
    ]
    for request in requests:
        with pytest.raises(KeyError) as error:
            request()
        assert errno_of(error.value) == errno.ESTALE


def test_a_directory_that_went(fs, store, kernel):
    known(fs, "d", "s", "h")
    number = known(fs, "d", "s")
    store.delete("d/s/h")
    store.delete("d/s/")
    assert ("entry gone", known(fs, "d"), "s", number) in kernel.told()
    with pytest.raises(KeyError):
        fs.lookup(known(fs, "d"), "s")


def test_a_file_that_was_renamed(fs, store, kernel):
    number = known(fs, "f")
    parent = known(fs, "d")
    with pytest.raises(KeyError):
        fs.lookup(parent, "new")
    kernel.told()
    store.rename("f", "d/new")
    told = kernel.told()
    assert ("entry gone", ROOT, "f", number) in told
    assert ("entry changed", parent, "new") in told
    assert size(fs, "d", "new") == 8
    with pytest.raises(KeyError):
        fs.lookup(ROOT, "f")


def test_a_file_that_was_replaced_by_a_directory(fs, store, kernel):
    number = known(fs, "f")
    store.delete("f")
    put(store, "f/below")
    told = kernel.told()
    assert ("entry gone", ROOT, "f", number) in told
    assert size(fs, "f", "below") == 8


def test_a_directory_that_was_renamed_takes_all_below_it_with_it(fs, store, kernel):
    before = known(fs, "d", "s", "h")
    kernel.told()
    store.rename("d/", "e/")
    told = kernel.told()
    assert any(what[0].startswith("entry") and what[1:3] == (ROOT, "d") for what in told), told
    with pytest.raises(KeyError):
        fs.lookup(ROOT, "d")
    assert size(fs, "e", "s", "h") == 8
    put(store, "e/s/h", b"changed again")
    assert size(fs, "e", "s", "h") == 13
    assert before


def test_a_transaction_is_told_at_its_end(fs, store, kernel):
    number = known(fs, "f")
    kernel.told()
    with store.transaction("two changes"):
        store.set_data("f", io.BytesIO(b"new"))
        put(store, "new")
        assert [what for what in kernel.told() if what[2] in {"new", "f"}] == []
    told = kernel.told()
    assert ("entry changed", ROOT, "new") in told
    assert ("node changed", number, True) in told or ("entry changed", ROOT, "f") in told


# -------------------------------------------------------------------- what is not


def everything_is_done(fs):
    parent = known(fs, "d")
    entry, handle = fs.create(parent, "made", 0o644, os.O_RDWR, ME)
    fs.write(handle, 0, b"data")
    fs.flush(handle)
    fs.release(handle)
    fs.setattr(entry.node, mode=0o600, mtime=5)
    fs.mkdir(ROOT, "dir", 0o755, ME)
    fs.symlink(ROOT, "symlink", b"f", ME)
    fs.rename(parent, "made", ROOT, "moved")
    fs.rename(ROOT, "d", ROOT, "renamed")
    fs.rename(ROOT, "f", ROOT, "moved", 2)
    fs.setxattr(known(fs, "moved"), "user.a", b"1", 0)
    fs.unlink(ROOT, "symlink")
    fs.rmdir(ROOT, "dir")


def served(fs, kernel):
    """Have everything done in a thread that answers the kernel; answer what was told until something of another is."""

    def serve():
        fs.serving()
        everything_is_done(fs)

    known(fs, "d", "s", "h")
    kernel.told()
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    # What is written to the medium comes back from there, later.
    put(fs._store, "another")
    kernel.until(("entry changed", ROOT, "another"))
    return kernel.told()


@pytest.mark.parametrize("store", ["memory", "sqlite"], indirect=True)
def test_what_comes_from_the_kernel_is_no_news_to_it(fs, kernel):
    told = served(fs, kernel)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:  # that nothing comes is told by no event
        told += kernel.told()
        time.sleep(0.02)
    assert {what[2] for what in told if what[0] != "node changed"} <= {"another"}


@pytest.mark.parametrize("store", ["directory", "join"], indirect=True)
def test_what_comes_back_from_a_directory_late_is_news_of_that_name_at_most(fs, kernel):
    assert "names changed" not in {what[0] for what in served(fs, kernel)}


def test_what_the_same_process_does_past_the_mount_is_news(fs, kernel):
    """In a thread that answers nothing of the kernel's."""
    known(fs, "d", "s", "h")
    everything_is_done(fs)
    assert kernel.told() != []


def test_nothing_is_told_after_the_end(fs, store, kernel):
    known(fs, "d", "g")
    fs.tell(None)
    put(store, "new")
    store.delete("d/g")
    store.rename("d/", "e/")
    assert kernel.told() == []
    fs.serving()


def test_telling_can_begin_anew(fs, store, kernel):
    fs.tell(None)
    other = RecordingKernel()
    fs.tell(other)
    known(fs, "f")
    put(store, "new")
    assert ("entry changed", ROOT, "new") in other.told()
    assert kernel.told() == []


class InterruptedKernel(RecordingKernel):
    """A verb comes between all that it is told."""

    def __init__(self, verb):
        super().__init__()
        self._verb = verb

    def node_changed(self, node, data):
        super().node_changed(node, data)
        verb, self._verb = self._verb, lambda: None
        verb()


@pytest.mark.parametrize("store", ["memory"], indirect=True)
@pytest.mark.parametrize("verb", ["rmdir", "rename"])
def test_a_directory_may_lose_its_name_while_it_is_told_that_all_below_it_changed(fs, store, verb):
    parent = known(fs, "d")
    fs.unlink(known(fs, "d", "s"), "h")
    verbs = {"rmdir": lambda: fs.rmdir(parent, "s"), "rename": lambda: fs.rename(parent, "s", ROOT, "t")}
    kernel = InterruptedKernel(verbs[verb])
    fs.tell(None)
    fs.tell(kernel)
    fs._changed("d/s/")
    assert kernel.told()[-2:] == [("entry changed", parent, "s"), ("names changed", [])]
    assert not is_there(fs, parent, "s")


# -------------------------------------------------------------------- what others do to the medium


@pytest.fixture
def media(tmp_path, kernel):
    """The directories behind a join, and the file system over it."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    upper.mkdir()
    (lower / "d" / "s").mkdir(parents=True)
    (lower / "f").write_bytes(b"lower f")
    (lower / "d" / "g").write_bytes(b"lower g")
    (lower / "d" / "s" / "h").write_bytes(b"lower h")
    with JoinedStore([DirectoryStore(upper), DirectoryStore(lower)]) as join:
        operations = Operations(join, Settings(entry_ttl=1e6))
        operations.tell(kernel)
        yield upper, lower, operations
        operations.tell(None)
        operations.close()


def test_what_others_do_in_a_directory_that_was_looked_into_is_told(media, kernel):
    _upper, lower, fs = media
    parent, number = known(fs, "d"), known(fs, "d", "g")
    assert fs.is_watched(parent)
    assert fs.lookup(parent, "g").told
    known(fs, "d", "s", "h")
    with (lower / "d" / "g").open("ab") as file:
        file.write(b" and more")
    kernel.until(("entry changed", parent, "g") if kernel.keeps_sizes else ("node changed", number, True))
    assert size(fs, "d", "g") == 16
    assert (known(fs, "d", "g") == number) is not kernel.keeps_sizes, "who keeps sizes of a node is told of another"
    number = known(fs, "d", "g")
    (lower / "d" / "new").write_bytes(b"new")
    kernel.until(("entry changed", parent, "new"))
    assert size(fs, "d", "new") == 3
    (lower / "d" / "s" / "h").unlink()
    until(lambda: not is_there(fs, known(fs, "d", "s"), "h"))


def test_after_everything_has_changed_all_is_watched_again_from_the_root_down(media, kernel):
    _upper, lower, fs = media
    deep = known(fs, "d", "s")
    known(fs, "d", "s", "h")
    fs._changed(None)
    assert not fs.is_watched(deep)
    assert fs.lookup(deep, "h").told  # the kernel knows the directories, and does not ask for them first
    number = known(fs, "d", "s", "h")
    kernel.told()
    (lower / "d" / "s" / "h").write_bytes(b"changed")
    kernel.until(("entry changed", deep, "h") if kernel.keeps_sizes else ("node changed", number, True))


def until(holds, patience=PATIENCE):
    """Wait for what is told by no event."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_there(fs, parent, name):
    try:
        fs.lookup(parent, name)
    except KeyError:
        return False
    return True


def test_what_others_put_into_the_first_store_is_told(media, kernel):
    upper, _lower, fs = media
    known(fs, "f")
    (upper / "f").write_bytes(b"hides the other")
    until(lambda: size(fs, "f") == 15)
    (upper / "new").write_bytes(b"new")
    until(lambda: is_there(fs, ROOT, "new"))


def test_a_whiteout_that_others_put_into_the_first_store_is_told(media, kernel):
    upper, _lower, fs = media
    parent = known(fs, "d")
    known(fs, "d", "g")
    (upper / "d").mkdir()
    (upper / "d" / ".wh.g").touch()
    until(lambda: not is_there(fs, known(fs, "d"), "g"))
    assert parent


def test_what_others_replace_again_at_once_is_told(media, kernel):
    """As an editor does that is told to save twice."""
    _upper, lower, fs = media
    for turn in range(5):
        (lower / "aside").write_bytes(b"x" * (20 + turn))
        known(fs, "f")
        os.replace(lower / "aside", lower / "f")
        until(lambda turn=turn: size(fs, "f") == 20 + turn, 5)


def test_a_directory_that_others_rename_is_told(media, kernel):
    _upper, lower, fs = media
    known(fs, "d", "s", "h")
    kernel.told()
    (lower / "d").rename(lower / "e")
    until(lambda: any(what[0] in {"entry gone", "entry changed"} and what[1:3] == (ROOT, "d") for what in kernel.told()))
    assert not is_there(fs, ROOT, "d")
    assert size(fs, "e", "s", "h") == 7


def test_a_directory_that_nobody_looked_into_is_not_watched(media, kernel):
    _upper, _lower, fs = media
    parent = known(fs, "d")
    assert not fs.is_told(parent)
    assert fs.is_told(known(fs, "f"))
    known(fs, "d", "g")
    assert fs.is_told(parent)


def test_without_a_kernel_nothing_is_watched(media):
    _upper, _lower, fs = media
    fs.tell(None)
    parent = known(fs, "d", "s")
    with pytest.raises(KeyError):
        fs.lookup(parent, "none")
    assert not fs.is_watched(parent)


# -------------------------------------------------------------------- what we have half done


class HalfDoneStore(MemoryStore):
    """Has something happen when a change is in the store, and who made it does not know yet."""

    meanwhile = None

    def _then(self, answer):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return answer

    def rename(self, old, new):
        return self._then(super().rename(old, new))

    def exchange(self, first, second):
        return self._then(super().exchange(first, second))

    def set_stat(self, key, **changes):
        return self._then(super().set_stat(key, **changes))

    def set_xattr(self, key, name, value):
        return self._then(super().set_xattr(key, name, value))


def looks_up(name):
    def look(fs):
        with contextlib.suppress(KeyError):
            fs.lookup(ROOT, name)

    return look


WHO_ASKS = {
    "told of the old name": lambda fs: fs._store._tell_changed("f"),
    "told of the new name": lambda fs: fs._store._tell_changed("d/moved"),
    "told of a name below": lambda fs: fs._store._tell_changed("d/g"),
    "looked up": looks_up("f"),
    "listed": lambda fs: fs.readdirplus(ROOT, 0, lambda _: 1, 100),
}
HALF_DONE = {
    "rename": lambda fs, d, f: fs.rename(ROOT, "f", d, "moved"),
    "rename above": lambda fs, d, f: fs.rename(ROOT, "d", ROOT, "e"),
    "exchange": lambda fs, d, f: fs.rename(ROOT, "f", ROOT, "d", 2),
    "times": lambda fs, d, f: fs.setattr(f, mtime=1),
}


@pytest.mark.parametrize("asks", WHO_ASKS.values(), ids=WHO_ASKS)
@pytest.mark.parametrize("change", HALF_DONE.values(), ids=HALF_DONE)
@pytest.mark.parametrize("ttl", [0.0, 1e6])
def test_what_is_half_done_is_not_taken_for_somebody_elses(kernel, asks, change, ttl):
    with HalfDoneStore() as store:
        put(store, "f")
        put(store, "d/g")
        fs = Operations(store, Settings(entry_ttl=ttl))
        fs.tell(kernel)
        fs.serving()
        directory, below, file = known(fs, "d"), known(fs, "d", "g"), known(fs, "f")
        watcher = Watcher(target=asks, args=(fs,), daemon=True)
        watcher.since = 0.0

        def meanwhile():
            watcher.start()
            watcher.join(0.2)  # it may have to wait for us

        store.meanwhile = meanwhile
        change(fs, directory, file)
        watcher.join(PATIENCE)
        assert (watcher.is_alive(), store.meanwhile) == (False, None)
        for number in (directory, below, file):
            assert fs.getattr(number).nlink > 0, "it has its name still"
            fs.setxattr(number, "user.a", b"1")
        fs.tell(None)
        fs.close()


@pytest.fixture(params=["memory", "sqlite", "join"])
def staging(request, tmp_path):
    made = {
        "memory": MemoryStore,
        "sqlite": lambda: SQLiteStore(tmp_path / "medium.db"),
        "join": lambda: JoinedStore([SQLiteStore(tmp_path / "medium.db"), MemoryStore()]),
    }[request.param]()
    with made:
        put(made, "g")
        yield made


@pytest.mark.parametrize("close", [Operations.flush, Operations.fsync])
def test_what_is_put_past_the_mount_over_what_was_written_and_is_open_still_is_read(staging, close):
    with contextlib.closing(Operations(staging, Settings(entry_ttl=1e6))) as fs:
        fs.tell(RecordingKernel())
        node = known(fs, "g")
        for turn in range(3):
            handle = fs.open(node, os.O_RDWR)
            fs.write(handle, 0, b"ours %d, long" % turn)
            close(fs, handle)
            assert fs._nodes[node].content.is_staged, "our own change is no news"
            put(staging, "g", b"theirs %d" % turn)
            other = fs.open(node, os.O_RDONLY)
            assert (fs.read(other, 0, 100), fs.getattr(node).size) == (b"theirs %d" % turn, 8)
            fs.write(handle, 0, b"T")
            assert fs.read(other, 0, 100) == b"Theirs %d" % turn
            put(staging, "g", b"not seen by who writes")
            assert fs.read(other, 0, 100) == b"Theirs %d" % turn
            fs.release(other)
            fs.release(handle)
            assert staging.to_bytes("g") == b"Theirs %d" % turn
        fs.tell(None)


def test_who_writes_past_the_mount_waits_for_no_verb(kernel):
    """It may hold what the verb waits for."""
    with HalfDoneStore() as store:
        put(store, "f")
        put(store, "g")
        fs = Operations(store, Settings(entry_ttl=1e6))
        fs.tell(kernel)
        known(fs, "f")
        known(fs, "g")

        def meanwhile():
            other = threading.Thread(target=store.delete, args=("g",), daemon=True)
            other.start()
            other.join(PATIENCE)
            assert not other.is_alive()

        store.meanwhile = meanwhile
        fs.serving()
        fs.rename(ROOT, "f", ROOT, "moved")
        until(lambda: any(what[:3] == ("entry gone", ROOT, "g") for what in kernel.told()))
        assert not is_there(fs, ROOT, "g")
        fs.tell(None)
        fs.close()
