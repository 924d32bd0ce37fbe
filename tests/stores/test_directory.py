"""What is a directory's own, and what hostile directories try. SEMANTICS.md, Directories of the host."""

import ctypes
import io
import os
import socket
import stat
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from joinfs.errors import InvalidKey, NotADirectory, StoreUnavailable, Unsupported
from joinfs.stores.directory import TEMPORARY, DirectoryStore
from joinfs.stores.value import new_stat

FILE = stat.S_IFREG | 0o644


@pytest.fixture
def outside(tmp_path):
    place = tmp_path / "outside"
    (place / "d").mkdir(parents=True)
    (place / "secret").write_text("secret")
    (place / "d" / "secret").write_text("secret")
    yield place
    assert sorted(str(p.relative_to(place)) for p in place.rglob("*")) == ["d", "d/secret", "secret"]
    assert (place / "secret").read_text() == (place / "d" / "secret").read_text() == "secret"
    assert os.listxattr(place / "secret") == []


@pytest.fixture
def store(tmp_path):
    (tmp_path / "root").mkdir()
    with DirectoryStore(tmp_path / "root") as store:
        yield store


@pytest.fixture
def root(store):
    return Path(store.path)


def every_use(store, key):
    """All that can be done with a key, each as a function."""
    data = lambda: io.BytesIO(b"x")  # noqa: E731
    return [
        lambda: store.get_data(key), lambda: store.to_bytes(key), lambda: store.read(key, 0, 10),
        lambda: store.get_metadata(key), lambda: store.get_xattrs(key), lambda: store.open_local(key, os.O_RDWR),
        lambda: list(store.list(key + "/")), lambda: store.set(key, (data(), {"k": "v"})), lambda: store.delete(key),
        lambda: store.set_metadata(key, {"k": "v"}), lambda: store.set_stat(key, mode=0o777), lambda: store.link(key, "new"),
        lambda: store.put(key, new_stat(FILE), data()), lambda: store.rename(key, "moved"), lambda: store.sync(key),
        lambda: store.set_xattr(key, "trusted.x", b""),
    ]  # fmt: skip


def test_a_symlink_on_the_way_leads_nowhere(store, root, outside):
    (root / "way").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    for key in ("way/secret", "relative/secret", "way/d/secret", "way/new"):
        for use in every_use(store, key):
            with pytest.raises((KeyError, NotADirectory)):
                use()
    assert sorted(os.listdir(root)) == ["relative", "way"]


def test_a_symlink_at_the_end_is_itself(store, root, outside):
    (root / "end").symlink_to(outside / "secret")
    assert store.stat("end").is_symlink
    assert store.to_bytes("end") == os.fsencode(outside / "secret")
    with pytest.raises(Unsupported):
        store.open_local("end", os.O_RDWR)
    with pytest.raises(KeyError):
        list(store.list("end/"))
    store.set_stat("end", mtime=5)
    store.rename("end", "moved")
    store.set("moved", (io.BytesIO(b"a file now"), {}))
    assert (root / "moved").read_bytes() == b"a file now"
    assert not (root / "moved").is_symlink()


@pytest.mark.parametrize("key", ["../outside/secret", "d/../../outside/secret", "/etc/passwd", ".", "..", "d/./x"])
def test_paths_that_lead_out_are_no_keys(store, outside, key):
    store.set("d/x", (io.BytesIO(b""), {}))
    for use in every_use(store, key):
        with pytest.raises((KeyError, InvalidKey)):
            use()


def test_a_race_to_put_symlinks_in_the_way_is_lost(store, root, outside):
    (root / "d").mkdir()
    (root / "d" / "secret").write_text("inside")
    stop = threading.Event()

    (root / "evil").symlink_to(outside / "d")
    swap = ctypes.CDLL(None).renameat2

    def attack():
        while not stop.is_set():
            assert swap(-100, os.fsencode(root / "d"), -100, os.fsencode(root / "evil"), 2) == 0

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for turn in range(400):
            for use in (
                lambda: store.to_bytes("d/secret"),
                lambda: b"inside" if "secret" in dict(store.list("d/")) else b"none",
                lambda: store.set("d/new", (io.BytesIO(b"n"), {})),
                lambda: store.delete("d/new"),
                lambda: store.set_metadata("d/secret", {"turn": str(turn)}),
            ):
                try:
                    answer = use()
                except (KeyError, NotADirectory, OSError):
                    continue
                assert answer in {b"inside", b"none", None}
    finally:
        stop.set()
        attacker.join()


def test_fifos_sockets_and_devices_are_not_opened(store, root):
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(root, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    for key in ("pipe", "socket"):
        assert store.to_bytes(key) == b""
        assert store.read(key, 0, 10) == b""
        with pytest.raises(Unsupported):
            store.open_local(key, os.O_RDWR)
        store.rename(key, f"{key}2")
        store.delete(f"{key}2")


def test_keys_longer_than_a_path_can_be(store, root):
    key = "/".join(["x" * 200] * 30 + ["end"])
    store.set(key, (io.BytesIO(b"deep"), {"k": "v"}))
    assert store.to_bytes(key) == b"deep"
    assert store.get_metadata(key) == {"k": "v"}
    store.rename(key, key + "2")
    store.delete(key + "2")
    subprocess.run(["rm", "-rf", str(root / ("x" * 200))], check=True, timeout=60)


def test_attributes_of_the_host_are_those_of_the_store(store, root):
    store.set("f", (io.BytesIO(b"abc"), {"text": "t", "number": 5}))
    os.chmod(root / "f", 0o640)
    os.utime(root / "f", ns=(1, 2))
    native = os.stat(root / "f")
    assert store.stat("f")[:8] == (
        native.st_mode, 3, native.st_uid, native.st_gid, 0, 1, 2, native.st_ctime_ns,
    )  # fmt: skip
    assert os.getxattr(root / "f", "user.text") == b"t"
    assert os.getxattr(root / "f", "user.number") == b"5"
    os.setxattr(root / "f", "user.theirs", b"added by others")
    os.setxattr(root / "f", "user.number", b"no number")
    assert store.get_metadata("f") == {"text": "t", "number": "no number", "theirs": "added by others"}


def test_metadata_that_has_no_room_changes_nothing(store, root):
    store.set("f", (io.BytesIO(b"abc"), {"old": "1", "gone": "2"}))
    with pytest.raises(Exception, match=r"space|large|long|room"):
        store.set_metadata("f", {"old": "new", "big": "x" * 70_000})
    assert store.get_metadata("f") == {"old": "1", "gone": "2"}


def test_nothing_is_left_behind_by_what_fails(store, root):
    class Breaks(io.RawIOBase):
        def read(self, size=-1):
            raise OSError(5, "broke")

    for stat_given in (new_stat(FILE), new_stat(stat.S_IFLNK | 0o777)):
        with pytest.raises(OSError, match="broke"):
            store.put("f", stat_given, Breaks())
    with pytest.raises(Unsupported):
        store.put("pipe", new_stat(stat.S_IFIFO | 0o644), None, {"k": "v"})
    assert os.listdir(root) == []


def test_names_of_unfinished_files_are_nobodys(store, root):
    (root / f"{TEMPORARY}0123").write_text("left by a crash")
    assert list(store.list("")) == []
    with pytest.raises(KeyError):
        store.stat(f"{TEMPORARY}0123")


def test_replacing_is_atomic_for_who_reads(store, root):
    wrong = []
    stop = threading.Event()

    def look():
        while not stop.is_set():
            data = (root / "f").read_bytes()
            if data not in {b"a" * 100_000, b"b" * 100_000}:
                wrong.append(len(data))

    store.set("f", (io.BytesIO(b"a" * 100_000), {}))
    reader = threading.Thread(target=look)
    reader.start()
    for letter in (b"b", b"a") * 50:
        store.set("f", (io.BytesIO(letter * 100_000), {}))
    stop.set()
    reader.join()
    assert wrong == []


def test_what_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(StoreUnavailable, match="cannot be opened as a directory"):
            DirectoryStore(tmp_path / name).connect()


def test_an_ordinary_user_can_use_one(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user; without it all the other tests are this one")
    program = """
import io, os, stat, sys
sys.path.insert(0, sys.argv[2])
from joinfs.stores import Stat
from joinfs.stores.directory import DirectoryStore
with DirectoryStore(sys.argv[1]) as store:
    store.put("f", Stat(stat.S_IFREG | 0o444, 0, 0, 0, 0, 1, 2), io.BytesIO(b"abc"), {"k": "v"}, {"trusted.x": b"1"})
    os.close(store.open_local("f", os.O_RDWR))
    print(store.stat("f").uid, oct(store.stat("f").mode), store.to_bytes("f"), store.get_metadata("f"), store.stat("f").mtime)
"""
    place = Path(tempfile.mkdtemp())
    try:
        os.chown(place, 65534, 65534)
        checkout = Path(__file__).resolve().parents[2]
        command = ["/usr/bin/python3", "-c", program, str(place), str(checkout)]
        done = subprocess.run(command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, check=False, timeout=30)
        assert done.stdout == "65534 0o100444 b'abc' {'k': 'v'} 2\n", done.stderr
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True, timeout=30)


def test_types_of_metadata_that_are_deeper_than_can_be_read_name_none(tmp_path):
    (tmp_path / "a").write_bytes(b"data")
    os.setxattr(tmp_path / "a", "user.joinfs.types", b"[" * 3000)
    os.setxattr(tmp_path / "a", "user.n", b"5")
    with DirectoryStore(tmp_path) as store:
        assert store.get_metadata("a") == {"n": "5"}
        assert list(store.query_keys(n="5")) == ["a"]


def test_what_a_process_that_died_has_left_is_found(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".wh..wh.joinfs.0123").write_bytes(b"")
    with DirectoryStore(tmp_path, read_only=True) as store:
        (sentence,) = store.check()
        assert "left by a process that died" in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount file systems into a directory")
def test_files_of_the_same_number_on_file_systems_that_are_mounted_in_it_are_several(tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    try:
        for place in places:
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "joinfs-test", place], check=True)
            (place / "f").write_bytes(place.name.encode())
            os.link(place / "f", place / "linked")
        assert len({(place / "f").stat().st_ino for place in places}) == 1
        with DirectoryStore(tmp_path) as store:
            assert store.stat("one/f").file_id == store.stat("one/linked").file_id == dict(store.list("one/"))["f"].file_id
            assert store.stat("one/f").file_id != store.stat("two/f").file_id
    finally:
        for place in places:
            subprocess.run(["umount", "-l", place], check=False)


def test_a_directory_that_is_not_watched_any_more_is_not_kept_open(store, tmp_path):
    """Nobody tells then that its key leads to another one."""
    root = tmp_path / "root"
    for text in ("first", "second"):
        (root / "d" / "e").mkdir(parents=True)
        (root / "d" / "e" / text).write_text(text)
        assert store.watch("d/e/")
        assert store.lookup("d/e/" + text).size == len(text)
        store.unwatch("d/e/")
        store.unwatch("d/")
        (root / "d").rename(root / ("old " + text))
