"""What is staged outlives its server. SEMANTICS.md, Staged writes."""

import os
from pathlib import Path

import pytest

from joinfs.errors import OutOfSpace, UsageError
from joinfs.filesystem.operations import ROOT, Caller, Operations, Settings
from joinfs.filesystem.staging import INDEX, Staging, left_in
from joinfs.recovering import recover
from joinfs.stores.memory import MemoryStore

ME = Caller(os.getuid(), os.getgid(), os.getpid())


class Full(MemoryStore):
    """A store without room, until ``room`` is made."""

    room = False

    def _put(self, key, stat, data, *rest):
        if stat.size and not self.room:
            raise OutOfSpace("no room")
        return super()._put(key, stat, data, *rest)


@pytest.fixture
def store():
    with Full() as store:
        yield store


@pytest.fixture
def place(tmp_path):
    (tmp_path / "staged").mkdir()
    return str(tmp_path / "staged")


def begun(store, place, name="f", data=b"precious"):
    """A file system in which a file is being written."""
    fs = Operations(store, Settings(staging=Staging(place, "test:store", "/mnt")))
    _, handle = fs.create(ROOT, name, 0o644, os.O_RDWR, ME)
    fs.write(handle, 0, data)
    return fs, handle


def die(fs):
    """Do to a file system's staged data what the death of its process does."""
    os.close(fs._staging._index)


def test_what_was_being_written_is_left(store, place):
    fs, _ = begun(store, place)
    assert list(left_in(place)) == []  # it is somebody's
    die(fs)
    (left,) = left_in(place)
    assert (left.store, left.mountpoint, left.key, left.size) == ("test:store", "/mnt", "f", 8)
    assert left.path.read_bytes() == b"precious"


@pytest.mark.parametrize("end", ["flush", "fsync", "unlink", "release"])
def test_what_is_in_the_store_or_deleted_is_not_left(store, place, end):
    store.room = True
    fs, handle = begun(store, place)
    if end == "unlink":
        fs.unlink(ROOT, "f")
    else:
        getattr(fs, end)(handle)
    die(fs)
    assert list(left_in(place)) == []


def test_what_is_written_after_a_commit_is_left(store, place):
    store.room = True
    fs, handle = begun(store, place)
    fs.fsync(handle)
    fs.write(handle, 8, b" and new")
    die(fs)
    (left,) = left_in(place)
    assert (left.path.read_bytes(), store.to_bytes("f")) == (b"precious and new", b"precious")


def test_nothing_stays_behind_after_an_orderly_end(store, place):
    store.room = True
    fs, handle = begun(store, place)
    fs.release(handle)
    fs.close()
    assert os.listdir(place) == []


def test_what_cannot_be_committed_at_the_end_is_left(store, place):
    fs, handle = begun(store, place)
    with pytest.raises(OutOfSpace):
        fs.release(handle)
    with pytest.raises(OutOfSpace):
        fs.close()
    die(fs)
    assert [left.key for left in left_in(place)] == ["f"]


def test_who_gets_room_commits_and_leaves_nothing(store, place):
    fs, handle = begun(store, place)
    with pytest.raises(OutOfSpace):
        fs.flush(handle)
    store.room = True
    fs.release(handle)
    fs.close()
    assert (store.to_bytes("f"), os.listdir(place)) == (b"precious", [])


def test_a_store_that_dies_with_us_leaves_nothing_behind(store):
    fs, _ = begun(store, None)
    assert fs._staging._directory is None


def test_a_line_that_was_cut_off_is_passed_over(store, place):
    fs, _ = begun(store, place)
    die(fs)
    (directory,) = Path(place).iterdir()
    with (directory / INDEX).open("ab") as index:
        index.write(b'{"file": 0, "key"')
    assert [left.key for left in left_in(place)] == ["f"]


# -------------------------------------------------------------------- recover


def test_recovered_files_get_their_paths_and_replace_nothing(store, place, tmp_path):
    store.put("d/", store.stat(""))
    fs, _ = begun(store, place)
    directory = fs.lookup(ROOT, "d").node
    for name in ("f", "\n"):
        _, handle = fs.create(directory, name, 0o644, os.O_RDWR, ME)
        fs.write(handle, 0, b"inside")
    die(fs)
    into = tmp_path / "into"
    (into / "d").mkdir(parents=True)
    (into / "d" / "f").write_bytes(b"there already")
    assert len(recover([], place, None, discard=False)) == 3
    lines = recover(["store"], place, str(into), discard=False)
    assert all(line.isprintable() for line in lines)
    found = {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}
    assert found == {"f": b"precious", "d/f": b"there already", "d/f.1": b"inside", "d/\n": b"inside"}
    assert (recover([], place, None, discard=False), os.listdir(place)) == ([], [])


def test_only_what_is_asked_for_is_taken(store, place, tmp_path):
    fs, _ = begun(store, place)
    die(fs)
    assert recover(["other"], place, str(tmp_path), discard=False) == []
    assert recover(["other"], place, None, discard=True) == []
    assert [left.key for left in left_in(place)] == ["f"]
    assert len(recover(["test:"], place, None, discard=True)) == 1
    assert os.listdir(place) == []


def test_what_a_server_that_lives_has_is_left_alone(store, place):
    fs, handle = begun(store, place)
    assert recover([], place, None, discard=True) == []
    store.room = True
    fs.release(handle)
    assert store.to_bytes("f") == b"precious"


@pytest.mark.parametrize("wrong", ["place", "into"])
def test_a_place_that_is_not_there_is_told(place, tmp_path, wrong):
    none = str(tmp_path / "none")
    with pytest.raises(UsageError, match="none"):
        recover([], none if wrong == "place" else place, none if wrong == "into" else None, discard=False)
