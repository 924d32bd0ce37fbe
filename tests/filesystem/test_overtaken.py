"""What others, or other names of a file, do to what is open, and in the midst of verbs.

SEMANTICS.md, Open files; Unlinked open files; Staged writes; What others change.
"""

import contextlib
import errno
import io
import os
import threading

import pytest

from joinfs.errors import JoinfsError, StaleNode, errno_of
from joinfs.filesystem.operations import ROOT, Operations, Settings
from joinfs.filesystem.staging import Staging
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from tests.filesystem.test_told import ME, RecordingKernel, is_there, known, put, until


class AskedStore(MemoryStore):
    """Has something happen once it has answered."""

    after = None

    def _then(self, verb, answer):
        if self.after is not None and self.after[0] == verb:
            (_, happens), self.after = self.after, None
            happens()
        return answer

    def get_xattrs(self, key):
        return self._then("get_xattrs", super().get_xattrs(key))

    def get_metadata(self, key, select=None):
        return self._then("get_metadata", super().get_metadata(key, select))

    def watch(self, directory):
        return self._then("watch", super().watch(directory))


@pytest.fixture
def serve():
    """Call with a store: answers a file system over it, which a kernel is told of."""
    served = []

    def serve(store, kernel=None, **options):
        fs = Operations(store, Settings(**{"entry_ttl": 1e6, **options}))
        served.append(fs)
        fs.tell(kernel or RecordingKernel())
        return fs

    yield serve
    for fs in served:
        fs.tell(None)
        fs.close()


def attributes(fs, name):
    return fs.lookup(ROOT, name).attributes


# -------------------------------------------------------------------- other names of what is written


@pytest.fixture(params=["memory", "sqlite", "directory", "join of linked"])
def linked(request, tmp_path):
    """A store in which two names are one file."""
    (tmp_path / "lower").mkdir()
    if request.param == "join of linked":
        (tmp_path / "lower" / "d").mkdir()
        (tmp_path / "lower" / "k").write_bytes(b"old")
        (tmp_path / "lower" / "d" / "other").hardlink_to(tmp_path / "lower" / "k")
        with JoinedStore([MemoryStore(), DirectoryStore(tmp_path / "lower")]) as made:
            yield made
        return
    stores = {"memory": MemoryStore, "sqlite": lambda: SQLiteStore(tmp_path / "s.db"), "directory": lambda: DirectoryStore(tmp_path / "lower")}
    with stores[request.param]() as made:
        put(made, "k", b"old")
        made.make("d/", made.stat("")._replace(mode=0o40755))
        made.link("k", "d/other")
        yield made


@pytest.mark.parametrize("loses", [lambda fs: fs.unlink(ROOT, "k"), lambda fs: fs.rename(ROOT, "new", ROOT, "k")], ids=["unlink", "rename over"])
@pytest.mark.parametrize("written", ["before", "after", "both"])
def test_what_is_written_gets_to_names_that_nobody_has_looked_up(linked, serve, loses, written):
    fs = serve(linked)
    put(linked, "new")
    handle = fs.open(known(fs, "k"), os.O_RDWR)
    if written != "after":
        fs.write(handle, 0, b"NEW")
    loses(fs)
    assert fs.getattr(fs.node_of(handle)).nlink == 1
    if written != "before":
        fs.write(handle, 2, b"WER")
    fs.flush(handle)
    fs.release(handle)
    expected = {"before": b"NEW", "after": b"olWER", "both": b"NEWER"}[written]
    assert linked.to_bytes("d/other") == expected
    assert attributes(fs, "d").ino != fs.lookup(known(fs, "d"), "other").attributes.ino


def test_a_name_that_is_looked_up_is_the_file_that_is_open_though_its_first_name_went(linked, serve):
    fs = serve(linked)
    node = known(fs, "k")
    handle = fs.open(node, os.O_RDWR)
    fs.unlink(ROOT, "k")
    assert known(fs, "d", "other") == node
    fs.write(handle, 0, b"NEW")
    reader = fs.open(node, os.O_RDONLY)
    assert fs.read(reader, 0, 10) == b"NEW"
    fs.release(reader)
    fs.release(handle)
    assert linked.to_bytes("d/other") == b"NEW"


def test_who_reads_goes_on_reading_when_one_of_two_names_goes(linked, serve):
    fs = serve(linked)
    handle = fs.open(known(fs, "k"), os.O_RDONLY, lazily=True)
    fs.unlink(ROOT, "k")
    assert fs.read(handle, 0, 10) == b"old"
    fs.release(handle)


def test_another_file_that_got_the_number_of_one_that_others_deleted_is_another(tmp_path, serve):
    with DirectoryStore(tmp_path) as store:
        (tmp_path / "a").write_bytes(b"first")
        (tmp_path / "b").hardlink_to(tmp_path / "a")
        fs = serve(store)
        node = known(fs, "a")
        handle = fs.open(node, os.O_RDONLY, lazily=True)
        for name in "ab":
            (tmp_path / name).unlink()
        until(lambda: not is_there(fs, ROOT, "a"))
        (tmp_path / "c").write_bytes(b"second")
        (tmp_path / "d").hardlink_to(tmp_path / "c")
        until(lambda: is_there(fs, ROOT, "c"))
        assert known(fs, "c") != node
        with pytest.raises(StaleNode):
            fs.read(handle, 0, 10)
        fs.release(handle)


# -------------------------------------------------------------------- others, while something is open


@pytest.mark.parametrize("size", [10, 500_000])
def test_who_reads_sees_what_others_write_meanwhile(serve, size):
    with MemoryStore() as store:
        put(store, "f", b"a" * size)
        fs = serve(store)
        handle = fs.open(known(fs, "f"), os.O_RDONLY)
        assert fs.read(handle, 0, 10) == b"a" * 10
        store.set_data("f", io.BytesIO(b"b" * size))
        assert fs.read(handle, 0, 10) == b"b" * 10
        fs.release(handle)


@pytest.mark.parametrize("kind", ["memory", "directory"])
@pytest.mark.parametrize("keeps_sizes", [False, True])
def test_what_others_write_while_a_file_is_open_for_writing_is_told_when_it_is_closed(tmp_path, serve, kind, keeps_sizes):
    with MemoryStore() if kind == "memory" else DirectoryStore(tmp_path) as store:
        put(store, "f", b"a" * 5000)
        kernel = RecordingKernel(keeps_sizes)
        fs = serve(store, kernel)
        node = known(fs, "f")
        handle = fs.open(node, os.O_RDWR)
        assert len(fs.read(handle, 0, 9000)) == 5000
        if kind == "memory":
            store.set_data("f", io.BytesIO(b"b" * 7000))
        else:
            (tmp_path / "new").write_bytes(b"b" * 7000)
            (tmp_path / "new").rename(tmp_path / "f")
            until(lambda: fs._nodes[node].content.is_doubted)
        kernel.told()
        fs.release(handle)
        until(lambda: any(what in {("node changed", node, True), ("entry changed", ROOT, "f")} for what in kernel.told()))
        assert attributes(fs, "f").size == 7000


def test_what_is_written_to_a_file_that_others_take_away_is_told_of_and_kept(tmp_path, serve):
    (tmp_path / "staging").mkdir()
    with MemoryStore() as store:
        put(store, "a", b"old")
        fs = serve(store, staging=Staging(tmp_path / "staging"))
        handle = fs.open(known(fs, "a"), os.O_RDWR)
        fs.write(handle, 0, b"NEW")
        store.rename("a", "b")
        for close in (fs.flush, fs.release):
            with pytest.raises(StaleNode, match="others have deleted or replaced"):
                close(handle)
        assert store.to_bytes("b") == b"old"
        assert b"NEW" in {path.read_bytes() for path in (tmp_path / "staging").rglob("*") if path.is_file()}


def test_what_can_be_committed_at_the_end_is_though_a_directory_has_gone():
    with MemoryStore() as store:
        put(store, "d/f", b"old")
        put(store, "z", b"old")
        fs = Operations(store)
        for path in (("d", "f"), ("z",)):
            fs.write(fs.open(known(fs, *path), os.O_RDWR), 0, b"NEW")
        store.rename("d/", "e/")
        put(store, "d", b"a file")
        with pytest.raises(JoinfsError):
            fs.close()
        assert store.to_bytes("z") == b"NEW"


def test_a_file_that_could_not_be_committed_leaves_nothing_when_it_is_unlinked(serve):
    class Full(MemoryStore):
        is_full = False

        def _put(self, *arguments):
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super()._put(*arguments)

    with Full() as store:
        fs = serve(store, idle_nodes=0)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            store.is_full = False
            entry, handle = fs.create(ROOT, "f", 0o100644, os.O_RDWR, ME)
            fs.write(handle, 0, b"data")
            store.is_full = True
            with pytest.raises(OSError, match="No space"):
                fs.release(handle)
            fs.unlink(ROOT, "f")
            fs.forget(entry.node)
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(fs._nodes) == 1


# -------------------------------------------------------------------- others, in the midst of a verb


@pytest.mark.parametrize("flags", [os.O_EXCL, 0])
def test_who_creates_what_is_there_by_now_is_told_to_look_again_unless_it_must_be_new(tmp_path, serve, flags):
    with DirectoryStore(tmp_path) as store:
        fs = serve(store)
        assert not is_there(fs, ROOT, "f")
        with open(tmp_path / "f", "w") as file, pytest.raises(JoinfsError) as told:
            file.write("theirs")
            fs.create(ROOT, "f", 0o100644, os.O_RDWR | os.O_CREAT | flags, ME)
        assert errno_of(told.value) == (errno.EEXIST if flags else errno.ESTALE)
        assert attributes(fs, "f").size == 6


def test_who_opens_what_is_gone_is_told_to_look_again(serve):
    with MemoryStore() as store:
        put(store, "f")
        fs = Operations(store, Settings(entry_ttl=1e6))  # nobody tells it
        node = known(fs, "f")
        store.delete("f")
        with pytest.raises(StaleNode):
            fs.open(node, os.O_RDWR)
        assert not is_there(fs, ROOT, "f")


def test_what_could_not_be_answered_is_not_counted(serve):
    class Gone(MemoryStore):
        is_gone = False

        def stat(self, key):
            if self.is_gone:
                raise KeyError(key)
            return super().stat(key)

    with Gone() as store:
        put(store, "f")
        fs = serve(store, entry_ttl=0, idle_nodes=0)
        store.is_gone = True
        for _ in range(3):
            assert not is_there(fs, ROOT, "f")
        assert len(fs._nodes) == 1


def test_a_page_of_a_listing_that_could_not_be_answered_is_not_counted(serve):
    class Failing(MemoryStore):
        def lookup(self, key):
            if key == "b":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().lookup(key)

    with Failing() as store:
        for name in "abc":
            put(store, name)
        fs = serve(store, idle_nodes=0)
        fs.forget(fs.readdirplus(ROOT, 0, lambda _: 1, 3)[-1].node)
        fs._nodes.root.listing.stats["b"] = None  # as after a change
        with pytest.raises(OSError, match="Input/output"):
            fs.readdirplus(ROOT, 3, lambda _: 1, 100)
        assert len(fs._nodes) == 1


def test_an_attribute_that_is_set_while_others_are_asked_for_is_seen(serve):
    with AskedStore() as store:
        put(store, "f")
        fs = serve(store)
        node = known(fs, "f")
        store.after = ("get_xattrs", lambda: fs.setxattr(node, "trusted.a", b"1"))
        assert fs.listxattr(node) == []
        assert fs.listxattr(node) == ["trusted.a"]


def test_metadata_that_others_add_while_some_is_set_stays(serve):
    with AskedStore() as store:
        put(store, "f")
        fs = serve(store)
        node = known(fs, "f")
        store.after = ("get_metadata", lambda: store.update_metadata("f", {"theirs": "1"}))
        fs.setxattr(node, "user.ours", b"1")
        assert store.get_metadata("f") == {"theirs": "1", "ours": "1"}


def test_a_watch_that_ends_while_it_begins_is_not_believed(serve):
    with AskedStore() as store:
        put(store, "d/f")
        fs = serve(store)
        directory = known(fs, "d")
        store.after = ("watch", lambda: store._tell_changed(None))
        fs.lookup(directory, "f")
        assert not fs.is_watched(directory)
        assert fs.lookup(directory, "f").told


def test_what_was_known_of_a_directory_before_it_was_watched_is_asked_for_again(tmp_path, serve):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1")
    with DirectoryStore(tmp_path) as store:
        fs = serve(store)
        directory = known(fs, "d")
        os.utime(tmp_path / "d", ns=(5, 5))
        fs.lookup(directory, "f")
        assert fs.is_watched(directory)
        assert fs.getattr(directory).mtime == 5


def test_what_is_deleted_while_it_is_listed_is_not_believed(serve, monkeypatch):
    with MemoryStore() as store:
        put(store, "a")
        put(store, "b")
        fs = serve(store)
        take_in = fs._nodes.take_in

        def overtaken(*arguments):
            other = threading.Thread(target=store.delete, args=("b",))
            other.start()
            other.join()
            return take_in(*arguments)

        monkeypatch.setattr(fs._nodes, "take_in", overtaken)
        assert not any(entry.told for entry in fs.readdirplus(ROOT, 0, lambda _: 1, 100))
        assert not is_there(fs, ROOT, "b")


def test_what_can_be_committed_is_when_all_is_synced_though_something_cannot(serve):
    with MemoryStore() as store:
        fs = serve(store)
        handles = []
        for name in ("a", "b"):
            put(store, name, b"old")
            handles.append(fs.open(known(fs, name), os.O_RDWR))
            fs.write(handles[-1], 0, b"NEW")
        store.delete("a")
        with pytest.raises(StaleNode):
            fs.syncfs()
        assert store.to_bytes("b") == b"NEW"
        for handle in handles:
            with contextlib.suppress(StaleNode):
                fs.release(handle)
