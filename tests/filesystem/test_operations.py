"""The verbs, without a kernel, over stores of every kind.

SEMANTICS.md, Open files; Staged writes; Holes and ranges; Listing; Inode numbers; Renaming; A read-only first store.
"""

import io
import os
import stat
import subprocess
import sys
import threading

import pytest

from joinfs.errors import (
    BadHandle,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    KeyExists,
    NameTooLong,
    NoSuchAttribute,
    NoSuchOffset,
    NotADirectory,
    NotPermitted,
    OutOfSpace,
    PermissionDenied,
    ReadOnly,
    Unsupported,
)
from joinfs.filesystem.operations import NOW, ROOT, Caller, Operations, Settings
from joinfs.filesystem.staging import Staging
from joinfs.joined.store import JoinedStore
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore

ME = Caller(os.geteuid(), os.getegid())
NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture(params=["memory", "directory", "sqlite"])
def store(request, tmp_path):
    (tmp_path / "medium").mkdir()
    made = {
        "memory": MemoryStore,
        "directory": lambda: DirectoryStore(tmp_path / "medium"),
        "sqlite": lambda: SQLiteStore(tmp_path / "medium.db"),
    }[request.param]()
    with made:
        made.set("f", (io.BytesIO(b"contents"), {"k": "v"}))
        made.set("d/g", (io.BytesIO(b"g"), {}))
        yield made


@pytest.fixture
def fs(store):
    operations = Operations(store)
    yield operations
    operations.close()


def node(fs, path):
    return fs.walk(path.split("/"))


def read(fs, path):
    handle = fs.open(node(fs, path), os.O_RDONLY)
    try:
        return fs.read(handle, 0, 1 << 20)
    finally:
        fs.release(handle)


def names(fs, number=ROOT):
    return sorted(entry.name for entry in fs.readdir(number, 0) if entry.name not in {".", ".."})


# -------------------------------------------------------------------- names


def test_lookups_are_counted_and_forgotten(fs, store):
    few = Operations(store, Settings(idle_nodes=0))
    first = few.lookup(ROOT, "f")
    assert few.lookup(ROOT, "f").node == first.node
    few.forget(first.node, 1)
    assert few.getattr(first.node).size == 8
    few.forget(first.node, 1)
    with pytest.raises(KeyError):
        few.getattr(first.node)
    below = few.lookup(few.lookup(ROOT, "d").node, "g")
    few.forget(node(few, "d"), 1)
    assert few.getattr(below.node).size == 1, "a directory stays while something in it is known"
    few.forget(below.node, 1)
    assert len(few._nodes) == 1


def test_names_that_are_too_long_or_no_names(fs):
    for verb in (
        lambda name: fs.lookup(ROOT, name),
        lambda name: fs.mkdir(ROOT, name, 0o755, ME),
        lambda name: fs.unlink(ROOT, name),
        lambda name: fs.rename(ROOT, "f", ROOT, name),
        lambda name: fs.link(node(fs, "f"), ROOT, name),
        lambda name: fs.create(ROOT, name, 0o644, os.O_RDWR, ME),
    ):
        with pytest.raises(NameTooLong):
            verb("x" * 256)
    with pytest.raises(NotADirectory):
        fs.lookup(node(fs, "f"), "x")


def test_making_what_is_there_is_refused(fs):
    for make in (
        lambda: fs.mkdir(ROOT, "f", 0o755, ME),
        lambda: fs.create(ROOT, "d", 0o644, os.O_RDWR | os.O_EXCL, ME),
        lambda: fs.mknod(ROOT, "f", stat.S_IFIFO | 0o644, 0, ME),
        lambda: fs.symlink(ROOT, "f", b"t", ME),
        lambda: fs.link(node(fs, "f"), ROOT, "d"),
    ):
        with pytest.raises(KeyExists):
            make()


def test_a_new_node_has_its_callers_owner_and_in_a_setgid_directory_its_group(fs):
    if os.geteuid() != 0:
        pytest.skip("needs root: makes files of others")
    fs.mkdir(ROOT, "shared", 0o2777, Caller(1, 2))
    parent = node(fs, "shared")
    fs.setattr(parent, mode=0o2777, gid=77)
    entry, handle = fs.create(parent, "f", 0o640, os.O_RDWR, Caller(1000, 1001))
    fs.release(handle)
    assert (entry.attributes.uid, entry.attributes.gid, entry.attributes.mode) == (1000, 77, stat.S_IFREG | 0o640)
    made = fs.mkdir(parent, "d", 0o750, Caller(1000, 1001))
    assert made.attributes.mode == stat.S_IFDIR | 0o2750


def test_removing_checks_kinds(fs):
    with pytest.raises(IsADirectory):
        fs.unlink(ROOT, "d")
    with pytest.raises(NotADirectory):
        fs.rmdir(ROOT, "f")
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir(ROOT, "d")
    fs.unlink(node(fs, "d"), "g")
    fs.rmdir(ROOT, "d")
    assert names(fs) == ["f"]


def test_rename_in_all_its_ways(fs):
    with pytest.raises(KeyExists):
        fs.rename(ROOT, "f", ROOT, "d", NOREPLACE)
    fs.rename(ROOT, "f", ROOT, "new", NOREPLACE)
    assert read(fs, "new") == b"contents"
    fs.rename(ROOT, "new", ROOT, "d", EXCHANGE)
    assert read(fs, "d") == b"contents"
    assert read(fs, "new/g") == b"g"
    with pytest.raises(InvalidArgument):
        fs.rename(ROOT, "new", node(fs, "new"), "x")
    with pytest.raises(InvalidArgument):
        fs.rename(ROOT, "new", ROOT, "x", 8)
    with pytest.raises(IsADirectory):
        fs.rename(ROOT, "d", ROOT, "new")
    with pytest.raises(NotADirectory):
        fs.rename(ROOT, "new", ROOT, "d")
    with pytest.raises(KeyError):
        fs.rename(ROOT, "none", ROOT, "x")


def test_what_is_known_of_a_directory_moves_with_it(fs):
    inside = fs.lookup(node(fs, "d"), "g")
    handle = fs.open(inside.node, os.O_RDWR)
    fs.rename(ROOT, "d", ROOT, "e")
    fs.write(handle, 0, b"moved")
    fs.release(handle)
    assert fs.getattr(inside.node).ino == inside.attributes.ino
    assert node(fs, "e/g") == inside.node
    assert read(fs, "e/g") == b"moved"
    with pytest.raises(KeyError):
        node(fs, "d")


def test_hard_links_are_one_node(fs, store):
    entry = fs.link(node(fs, "f"), node(fs, "d"), "h")
    assert entry.attributes.nlink == 2
    assert node(fs, "d/h") == node(fs, "f")
    again = Operations(store)
    assert node(again, "d/h") == node(again, "f")
    fs.unlink(ROOT, "f")
    assert fs.getattr(entry.node).nlink == 1
    assert read(fs, "d/h") == b"contents"
    with pytest.raises(NotPermitted):
        fs.link(node(fs, "d"), ROOT, "x")


def test_inode_numbers_are_those_of_the_next_mount_and_of_listings(fs, store):
    again = Operations(store)
    for path in ("f", "d", "d/g"):
        assert fs.getattr(node(fs, path)).ino == again.getattr(node(again, path)).ino
    listed = {entry.name: entry.ino for entry in again.readdir(ROOT, 0)}
    assert listed["f"] == fs.getattr(node(fs, "f")).ino
    assert listed["."] == listed[".."] == 1


def test_offsets_of_a_listing_stay_while_entries_come_and_go(fs):
    for number in range(20):
        fs.mkdir(ROOT, f"n{number:02}", 0o755, ME)
    first = [next(iterator) for iterator in [fs.readdir(ROOT, 0)] for _ in range(8)]
    assert [entry.name for entry in first[:2]] == [".", ".."]
    for entry in first[2:6]:
        if entry.name.startswith("n"):
            fs.rmdir(ROOT, entry.name)
    fs.mkdir(ROOT, "comes", 0o755, ME)
    rest = list(fs.readdir(ROOT, first[-1].offset))
    seen = [entry.name for entry in [*first, *rest]]
    assert len(seen) == len(set(seen))
    assert {f"n{number:02}" for number in range(20)} <= set(seen)
    assert "comes" in {entry.name for entry in fs.readdir(ROOT, 0)}


def read_on(fs, offset, room=4):
    """What a directory lists from a place on, a few at a time."""
    found = []
    while page := fs.readdirplus(ROOT, offset, lambda name: 1, room):
        found += [entry.name for entry in page]
        offset = page[-1].offset
    return found


def test_who_reads_a_directory_sees_all_of_it_whoever_else_reads_it_meanwhile(fs):
    for number in range(20):
        fs.mkdir(ROOT, f"n{number:02}", 0o755, ME)
    first = fs.readdirplus(ROOT, 0, lambda name: 1, 9)
    assert len(read_on(fs, 0)) == 24
    assert len([entry.name for entry in fs.readdir(ROOT, 0)]) == 24
    seen = [*(entry.name for entry in first), *read_on(fs, first[-1].offset)]
    assert sorted(seen[2:]) == names(fs)


def test_places_hold_when_others_begin_to_read_after_a_change(fs):
    for number in range(20):
        fs.mkdir(ROOT, f"n{number:02}", 0o755, ME)
    first = fs.readdirplus(ROOT, 0, lambda name: 1, 9)
    gone = [entry.name for entry in first if entry.name.startswith("n")][:3]
    for name in gone:
        fs.rmdir(ROOT, name)
    fs.mkdir(ROOT, "comes", 0o755, ME)
    assert sorted(read_on(fs, 0)[2:]) == names(fs)
    seen = [*(entry.name for entry in first), *read_on(fs, first[-1].offset)]
    assert len(seen) == len(set(seen))
    assert sorted({*seen} - {".", ".."}) == sorted({*names(fs), *gone})


def test_places_are_not_kept_for_ever(fs):
    for turn in range(3):
        for number in range(1100):
            fs.mkdir(ROOT, f"{turn} {number}", 0o755, ME)
        assert len(read_on(fs, 0, 500)) == 1100 + 4
        for number in range(1100):
            fs.rmdir(ROOT, f"{turn} {number}")
        assert len(read_on(fs, 0, 500)) == 4
    assert len(fs._nodes.root.listing) < 2500


def test_what_cannot_be_staged_was_not_made(store):
    if store.capabilities.local:
        pytest.skip("files of this store are not staged")
    fs = Operations(store, Settings(staging=Staging("/nowhere")))
    before = len(fs._nodes)
    with pytest.raises(FileNotFoundError):
        fs.create(ROOT, "new", 0o644, os.O_RDWR, ME)
    with pytest.raises(FileNotFoundError):
        fs.tmpfile(ROOT, 0o644, os.O_RDWR, ME)
    with pytest.raises(KeyError):
        fs.lookup(ROOT, "new")
    assert not store.exists("new")
    assert len(fs._nodes) <= before + 1
    assert fs._nodes.opened() == []


def test_many_listings_that_were_begun_are_gone_on_with(fs):
    """Who walks down before he has read a directory to its end comes back to it after any number of others."""
    for number in range(300):
        fs.mkdir(ROOT, f"n{number:03}", 0o755, ME)
    one = next(iter(fs.readdirplus(ROOT, 0, lambda name: 1, 3)[2:]))
    walked = [one.name]
    entry = one
    while page := fs.readdirplus(ROOT, entry.offset, lambda name: 1, 1):
        entry = page[0]
        walked.append(entry.name)
        if entry.stat.is_directory:
            assert [dot.name for dot in fs.readdirplus(entry.node, 0, lambda name: 1, 9)][:2] == [".", ".."]
    assert sorted(walked) == names(fs)


# -------------------------------------------------------------------- attributes


def test_setattr_changes_what_is_given(fs):
    number = node(fs, "f")
    fs.setattr(number, mode=0o604)
    fs.setattr(number, atime=11, mtime=22)
    fs.setattr(number, mtime=33)
    attributes = fs.setattr(number, size=3)
    assert (attributes.mode & 0o7777, attributes.atime, attributes.size) == (0o604, 11, 3)
    assert attributes.mtime > 33, "a change of size is a change of data"
    assert fs.setattr(number, atime=NOW, mtime=44).atime > 1_700_000_000_000_000_000
    assert fs.getattr(number).mtime == 44
    assert read(fs, "f") == b"con"
    fs.setattr(number, size=5)
    assert read(fs, "f") == b"con\0\0"
    with pytest.raises(IsADirectory):
        fs.setattr(node(fs, "d"), size=0)


def test_times_that_are_set_while_data_is_staged_hold_until_the_next_write(fs):
    handle = fs.open(node(fs, "f"), os.O_RDWR)
    fs.write(handle, 0, b"new")
    fs.setattr(node(fs, "f"), mtime=55)
    fs.setattr(node(fs, "f"), mode=0o600)
    fs.setxattr(node(fs, "f"), "user.late", b"1")
    fs.release(handle)
    attributes = fs.getattr(node(fs, "f"))
    assert (attributes.mtime, attributes.mode & 0o777) == (55, 0o600)
    assert fs.getxattr(node(fs, "f"), "user.late") == b"1"
    assert read(fs, "f") == b"newtents"


def test_access_asks_the_permission_bits(fs):
    if os.geteuid() != 0:
        pytest.skip("needs root: makes files of others")
    fs.setattr(node(fs, "f"), mode=0o640, uid=10, gid=20)
    fs.access(node(fs, "f"), os.R_OK | os.W_OK, Caller(10, 1))
    fs.access(node(fs, "f"), os.R_OK, Caller(11, 20))
    for mask, caller in ((os.W_OK, Caller(11, 20)), (os.R_OK, Caller(11, 21)), (os.X_OK, Caller(0, 0))):
        with pytest.raises(PermissionDenied):
            fs.access(node(fs, "f"), mask, caller)


# -------------------------------------------------------------------- open files


def test_handles_are_for_what_they_were_opened_for(fs):
    reading, writing = fs.open(node(fs, "f"), os.O_RDONLY), fs.open(node(fs, "f"), os.O_WRONLY)
    with pytest.raises(BadHandle):
        fs.write(reading, 0, b"x")
    with pytest.raises(BadHandle):
        fs.read(writing, 0, 1)
    fs.release(reading)
    with pytest.raises(BadHandle):
        fs.read(reading, 0, 1)
    with pytest.raises(IsADirectory):
        fs.open(node(fs, "d"), os.O_RDONLY)
    fs.release(writing)


def test_all_handles_share_one_content(fs):
    before = fs.open(node(fs, "f"), os.O_RDONLY)
    assert fs.read(before, 0, 100) == b"contents"
    writer = fs.open(node(fs, "f"), os.O_RDWR)
    fs.write(writer, 3, b"XXX")
    assert fs.read(before, 0, 100) == b"conXXXts"
    assert fs.getattr(node(fs, "f")).size == 8
    fs.write(writer, 8, b"longer")
    assert fs.getattr(node(fs, "f")).size == 14
    fs.release(writer)
    assert fs.read(before, 0, 100) == b"conXXXtslonger"
    fs.release(before)


def test_appending_and_truncating_at_open(fs):
    handle = fs.open(node(fs, "f"), os.O_WRONLY | os.O_APPEND)
    fs.write(handle, 0, b"!")
    fs.release(handle)
    assert read(fs, "f") == b"contents!"
    fs.release(fs.open(node(fs, "f"), os.O_WRONLY | os.O_TRUNC))
    assert read(fs, "f") == b""


def test_an_unlinked_open_file_lives_on(fs, store):
    reader = fs.open(node(fs, "f"), os.O_RDONLY)
    number = node(fs, "f")
    fs.unlink(ROOT, "f")
    assert fs.read(reader, 0, 100) == b"contents"
    assert fs.getattr(number).nlink == 0
    assert fs.setattr(number, mode=0o600).mode & 0o777 == 0o600
    fs.release(reader)
    with pytest.raises(KeyError):
        fs.getattr(number)
    handle = fs.open(node(fs, "d/g"), os.O_RDWR)
    fs.unlink(node(fs, "d"), "g")
    fs.write(handle, 0, b"gone")
    fs.fsync(handle)
    fs.release(handle)
    assert not store.exists("d/g")


def test_flush_commits_and_python_sees_it(fs, store):
    handle = fs.open(node(fs, "f"), os.O_RDWR)
    fs.write(handle, 0, b"flushed")
    fs.flush(handle)
    assert store.to_bytes("f") == b"flusheds"
    assert store.get_metadata("f") == {"k": "v"}
    fs.release(handle)


class Full(MemoryStore):
    """A store that has no room until it is given some."""

    full = False

    def _put(self, *arguments):
        if self.full:
            raise OutOfSpace("no room")
        return super()._put(*arguments)


def test_a_commit_that_fails_is_told_and_tried_again():
    with Full() as store:
        fs = Operations(store)
        entry, handle = fs.create(ROOT, "f", 0o644, os.O_RDWR, ME)
        fs.write(handle, 0, b"precious")
        store.full = True
        for verb in (fs.flush, fs.fsync, fs.release):
            with pytest.raises(OutOfSpace):
                verb(handle)
        assert store.to_bytes("f") == b""
        assert fs.getattr(entry.node).size == 8, "the data is there still"
        with pytest.raises(OutOfSpace):
            fs.close()
        store.full = False
        assert read(fs, "f") == b"precious"
        assert store.to_bytes("f") == b"precious"


def test_staged_data_that_nobody_has_open_is_committed_at_the_end():
    with Full() as store:
        fs = Operations(store)
        _, handle = fs.create(ROOT, "f", 0o644, os.O_RDWR, ME)
        fs.write(handle, 0, b"precious")
        store.full = True
        with pytest.raises(OutOfSpace):
            fs.release(handle)
        store.full = False
        fs.close()
        assert store.to_bytes("f") == b"precious"


@pytest.fixture
def deep_path(tmp_path):
    """For directories so deep that pytest could not remove them."""
    yield tmp_path
    for path in tmp_path.iterdir():
        subprocess.run(["rm", "-rf", path], check=True, timeout=60)


def test_directories_that_are_deeper_than_python_recurses(deep_path):
    deep = sys.getrecursionlimit() + 200
    (deep_path / "upper").mkdir()
    (deep_path / "lower").mkdir()
    place = os.open(deep_path / "lower", os.O_RDONLY)
    for _ in range(deep):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    with JoinedStore([DirectoryStore(deep_path / "upper"), DirectoryStore(deep_path / "lower")]) as store:
        fs = Operations(store, Settings(entry_ttl=0, idle_nodes=0))
        numbers = [ROOT]
        for _ in range(deep):
            numbers.append(fs.lookup(numbers[-1], "d").node)
        assert [entry.name for entry in fs.readdir(numbers[-1], 0)] == [".", ".."]
        fs.create(numbers[-1], "new", 0o644, os.O_RDWR, ME)
        fs.unlink(numbers[-1], "new")
        fs.rename(numbers[-2], "d", numbers[-2], "e")
        for number in numbers[1:-1]:
            fs.forget(number)
        assert len(fs._nodes) == deep + 2  # that of the file, which is open, too
        fs.forget(numbers[-1])
        assert len(fs._nodes) == 2
        fs.close()


class Busy(MemoryStore):
    """Somebody does something else whenever it is asked."""

    meanwhile = staticmethod(lambda: None)

    def lookup(self, key):
        self.meanwhile()
        return super().lookup(key)


def test_what_is_there_is_found_however_much_is_written_beside_it():
    with Busy() as store:
        fs = Operations(store, Settings(entry_ttl=0))
        number = fs.mknod(ROOT, "f", stat.S_IFREG | 0o644, 0, ME).node
        fs.mkdir(ROOT, "d", 0o755, ME)
        store.meanwhile = lambda: fs._nodes.changed(fs._nodes[number])
        assert stat.S_ISDIR(fs.lookup(ROOT, "d").attributes.mode)
        with pytest.raises(KeyError):
            fs.lookup(ROOT, "nowhere")


def test_attributes_of_what_is_staged_go_into_the_store_with_it(fs, store):
    entry, handle = fs.create(ROOT, "new", 0o600, os.O_RDWR, ME)
    fs.write(handle, 0, b"data")
    fs.setattr(entry.node, atime=11, mtime=22)
    shown = fs.setattr(entry.node, mode=0o4711)
    assert (shown.mode, shown.atime, shown.mtime, shown.size) == (stat.S_IFREG | 0o4711, 11, 22, 4)
    assert fs.getattr(entry.node) == shown == fs.lookup(ROOT, "new").attributes
    if not store.capabilities.local:
        assert store.stat("new").mode == stat.S_IFREG | 0o600
    assert stat.S_IMODE(fs.setattr(entry.node, uid=ME.uid).mode) == 0o711
    with pytest.raises(PermissionDenied):
        fs.access(entry.node, os.R_OK, Caller(ME.uid + 1, ME.gid + 1))
    fs.flush(handle)
    kept = store.stat("new")
    assert (kept.mode, kept.atime, kept.mtime, kept.size) == (stat.S_IFREG | 0o711, 11, 22, 4)
    fs.write(handle, 4, b" and more")
    fs.release(handle)
    kept = store.stat("new")
    assert (kept.mode, kept.size) == (stat.S_IFREG | 0o711, 13)
    assert kept.mtime > 22
    assert fs.getattr(entry.node).mtime == kept.mtime


def test_attributes_that_could_not_be_committed_are_kept_with_the_data():
    with Full() as store:
        fs = Operations(store)
        entry, handle = fs.create(ROOT, "f", 0o600, os.O_RDWR, ME)
        fs.write(handle, 0, b"precious")
        fs.setattr(entry.node, mode=0o640)
        store.full = True
        with pytest.raises(OutOfSpace):
            fs.flush(handle)
        assert stat.S_IMODE(fs.getattr(entry.node).mode) == 0o640
        assert stat.S_IMODE(store.stat("f").mode) == 0o600
        store.full = False
        fs.release(handle)
        assert (stat.S_IMODE(store.stat("f").mode), store.to_bytes("f")) == (0o640, b"precious")


def test_many_threads_write_many_files(fs, store):
    failed = []

    def work(number):
        try:
            for turn in range(10):
                _, handle = fs.create(ROOT, f"t{number}-{turn}", 0o644, os.O_RDWR, ME)
                fs.write(handle, 0, b"%d" % number * 1000)
                fs.release(handle)
                fs.rename(ROOT, f"t{number}-{turn}", node(fs, "d"), f"t{number}-{turn}")
                assert read(fs, f"d/t{number}-{turn}") == b"%d" % number * 1000
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(list(store.list("d/"))) == 61


def test_holes_data_and_allocation(fs):
    _, handle = fs.create(ROOT, "sparse", 0o644, os.O_RDWR, ME)
    fs.write(handle, 1 << 20, b"data")
    data = fs.lseek(handle, 0, os.SEEK_DATA)
    assert 0 <= data <= 1 << 20
    assert fs.lseek(handle, data, os.SEEK_HOLE) == (1 << 20) + 4
    for offset in ((1 << 20) + 4, -1):
        with pytest.raises(NoSuchOffset):
            fs.lseek(handle, offset, os.SEEK_DATA)
    with pytest.raises(InvalidArgument):
        fs.lseek(handle, 0, os.SEEK_SET)
    fs.fallocate(handle, 0, 0, 2 << 20)
    assert fs.getattr(node(fs, "sparse")).size == 2 << 20
    fs.fallocate(handle, 1 | 2, 1 << 20, 4)
    assert fs.read(handle, 1 << 20, 4) == bytes(4)
    with pytest.raises(Unsupported):
        fs.fallocate(handle, 0x40, 0, 10)
    with pytest.raises(InvalidArgument):
        fs.fallocate(handle, 0, 0, 0)
    fs.release(handle)


def test_a_file_that_is_only_read_is_all_data(fs):
    handle = fs.open(node(fs, "f"), os.O_RDONLY)
    assert fs.lseek(handle, 2, os.SEEK_DATA) == 2
    assert fs.lseek(handle, 2, os.SEEK_HOLE) == 8
    fs.release(handle)


def test_ranges_are_copied_between_files(fs):
    source, target = fs.open(node(fs, "f"), os.O_RDONLY), fs.open(node(fs, "d/g"), os.O_RDWR)
    assert fs.copy_file_range(source, 2, target, 5, 100) == 6
    assert fs.read(target, 0, 100) == b"g\0\0\0\0ntents"
    assert fs.copy_file_range(source, 100, target, 0, 10) == 0
    fs.release(source)
    fs.release(target)


# -------------------------------------------------------------------- extended attributes


def test_metadata_keeps_its_type_when_the_new_text_has_it(fs, store):
    store.set_metadata("f", {"n": 5, "t": "5", "row": [1]})
    number = node(fs, "f")
    assert fs.getxattr(number, "user.n") == fs.getxattr(number, "user.t") == b"5"
    assert fs.getxattr(number, "user.row") == b"[1]"
    for name, text in (("n", b"6"), ("t", b"6"), ("row", b"no list")):
        fs.setxattr(number, f"user.{name}", text)
    assert store.get_metadata("f") == {"n": 6, "t": "6", "row": "no list"}


def test_attributes_that_are_not_there_or_cannot_be(fs):
    number = node(fs, "f")
    for name in ("user.none", "user.joinfs.none", "security.none"):
        with pytest.raises(NoSuchAttribute):
            fs.getxattr(number, name)
    for name in ("system.posix_acl_access", "other.x"):
        with pytest.raises(Unsupported):
            fs.setxattr(number, name, b"")
    assert fs.getxattr(number, "user.joinfs.key") == b"f"
    assert fs.listxattr(number) == ["user.k"]


# -------------------------------------------------------------------- the rest


def test_a_read_only_mount_refuses_every_change(store):
    fs = Operations(store, Settings(read_only=True))
    number = node(fs, "f")
    for change in (
        lambda: fs.mkdir(ROOT, "x", 0o755, ME),
        lambda: fs.create(ROOT, "x", 0o644, os.O_RDWR, ME),
        lambda: fs.mknod(ROOT, "x", stat.S_IFIFO, 0, ME),
        lambda: fs.symlink(ROOT, "x", b"t", ME),
        lambda: fs.link(number, ROOT, "x"),
        lambda: fs.unlink(ROOT, "f"),
        lambda: fs.rmdir(ROOT, "d"),
        lambda: fs.rename(ROOT, "f", ROOT, "x"),
        lambda: fs.open(number, os.O_RDWR),
        lambda: fs.open(number, os.O_RDONLY | os.O_TRUNC),
        lambda: fs.setattr(number, mode=0o600),
        lambda: fs.setxattr(number, "user.x", b""),
        lambda: fs.removexattr(number, "user.k"),
        lambda: fs.access(number, os.W_OK, ME),
    ):
        with pytest.raises(ReadOnly):
            change()
    assert read(fs, "f") == b"contents"


def test_what_the_store_said_is_believed_for_a_while_and_own_changes_at_once(store):
    asked = []

    class Counting(type(store)):
        def lookup(self, key):
            asked.append(key)
            return super().lookup(key)

    store.__class__ = Counting
    fs = Operations(store, Settings(entry_ttl=3600))
    for _ in range(3):
        node(fs, "d/g")
        with pytest.raises(KeyError):
            node(fs, "d/none")
    assert sorted(asked) == ["d", "d/g", "d/none"]
    fs.mkdir(node(fs, "d"), "none", 0o755, ME)
    node(fs, "d/none")
    fs.rmdir(node(fs, "d"), "none")
    with pytest.raises(KeyError):
        node(fs, "d/none")


def test_a_listing_spares_the_lookups_that_follow_it(store):
    asked = []

    class Counting(type(store)):
        def lookup(self, key):
            asked.append(key)
            return super().lookup(key)

    store.__class__ = Counting
    fs = Operations(store, Settings(entry_ttl=3600))
    names(fs)
    node(fs, "f")
    node(fs, "d")
    assert asked == []


def test_a_name_that_the_host_finds_too_long_is_told_as_that(fs, store):
    if not store.capabilities.local:
        pytest.skip("needs a store of host files")
    with pytest.raises(NameTooLong):
        fs.setxattr(node(fs, "f"), "user." + "n" * 300, b"")
