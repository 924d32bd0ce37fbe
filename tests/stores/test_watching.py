"""Stores that tell what others change in their medium. SEMANTICS.md, Being told of changes."""

import contextlib
import io
import os
import queue
import shutil
import sqlite3
import subprocess
import sys
import threading

import pytest

from joinfs.errors import NotConnected
from joinfs.stores import inotify
from joinfs.stores.directory import TEMPORARY, DirectoryStore
from joinfs.stores.inotify import Event
from joinfs.stores.memory import MemoryStore
from joinfs.stores.sqlite import SQLiteStore
from joinfs.stores.views import PrefixStore, ReadOnlyStore


class Told:
    """What a store tells, in the order in which it comes."""

    def __init__(self, store):
        self.keys = queue.SimpleQueue()
        store.subscribe(self.keys.put)

    def until(self, *wanted):
        """Wait until all that is wanted has been told; answer everything that was."""
        told, missing = [], set(wanted)
        while missing:
            try:
                told.append(self.keys.get(timeout=20))
            except queue.Empty:
                pytest.fail(f"not told of {missing}, only of {told}")
            missing.discard(told[-1])
        return told

    def now(self):
        told = []
        with contextlib.suppress(queue.Empty):
            while True:
                told.append(self.keys.get_nowait())
        return told


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "d" / "s").mkdir(parents=True)
    (tmp_path / "root" / "d" / "a").write_text("a")
    return tmp_path / "root"


@pytest.fixture
def store(root):
    with DirectoryStore(root) as store:
        yield store


@pytest.fixture
def told(store):
    return Told(store)


def set_data(store, key, content=b"x"):
    store.set_data(key, io.BytesIO(content))


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("changes of")]


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda d: (d / "new").write_text("x"), {"d/new"}),
        (lambda d: (d / "new").mkdir(), {"d/new"}),
        (lambda d: (d / "new").symlink_to("x"), {"d/new"}),
        (lambda d: (d / "a").unlink(), {"d/a"}),
        (lambda d: (d / "s").rmdir(), {"d/s"}),
        (lambda d: (d / "a").rename(d / "b"), {"d/a", "d/b"}),
        (lambda d: (d / "a").rename(d.parent / "away"), {"d/a"}),
        (lambda d: (d / "a").write_text("longer"), {"d/a"}),
        (lambda d: (d / "a").chmod(0o600), {"d/a"}),
        (lambda d: os.utime(d / "a", (1, 1)), {"d/a"}),
        (lambda d: os.setxattr(d / "a", "user.n", b"1"), {"d/a"}),
        (lambda d: os.link(d / "a", d / "l"), {"d/l"}),
        (lambda d: d.chmod(0o700), {"d"}),
        (lambda d: (d / os.fsdecode(b"\xff")).write_text("x"), {"d/\udcff"}),
    ],
)
def test_what_is_done_in_a_watched_directory_is_told(store, root, told, change, keys):
    assert store.watch("d/")
    change(root / "d")
    told.until(*keys)


def test_what_is_done_elsewhere_is_not(store, root, told):
    assert store.watch("d/")
    (root / "d" / "s" / "x").write_text("x")
    (root / "d" / (TEMPORARY + "x")).write_text("x")
    (root / "d" / "last").write_text("x")
    assert set(told.until("d/last")) == {"d/last"}
    store.unwatch("d/")
    (root / "d" / "x").write_text("x")
    (root / "last").write_text("x")
    assert set(told.until("last")) <= {"d/last", "last"}


def test_a_file_that_is_being_written_has_changed_when_it_is_closed(store, root, told):
    assert store.watch("d/")
    with (root / "d" / "a").open("ab", buffering=0) as file:
        file.write(b"more")
        (root / "d" / "new").write_text("x")
        assert "d/a" not in told.until("d/new")
    told.until("d/a")
    with DirectoryStore(root, read_only=True) as reader:
        heard = Told(reader)
        assert reader.watch("d/")
        with (root / "d" / "a").open("ab", buffering=0) as file:
            file.write(b"more")
            heard.until("d/a")


def test_a_directory_that_the_store_moves_is_told_of_under_its_new_key(store, root, told):
    assert store.watch("d/s/")
    store.rename("d/", "e/")
    (root / "e" / "s" / "x").write_text("x")
    told.until("e/s/x")
    store.put("f/", store.stat("e/"))
    assert store.watch("f/")
    store.exchange("e/", "f/")
    told.until("e/", "f/")
    (root / "f" / "s" / "y").write_text("x")
    (root / "e" / "z").write_text("x")
    assert not {"f/", "e/"} & set(told.until("f/s/y", "e/z"))
    assert store.watch("f/s/")
    store.rename("e/z", "f/z")
    store.exchange("f/z", "f/s/")
    (root / "f" / "z" / "y").write_text("y")
    told.until("f/z/y")


def test_a_directory_that_others_move_is_not_watched_any_more(store, root, told):
    assert store.watch("d/s/")
    (root / "d").rename(root / "e")
    told.until("d/")
    (root / "e" / "s" / "x").write_text("x")
    assert store.watch("e/s/")
    (root / "e" / "s" / "y").write_text("x")
    assert not [key for key in told.until("e/s/y") if key.startswith("d/")]


def test_a_directory_is_watched_under_a_new_key_before_it_is_known_to_have_moved(store, root, told):
    assert store.watch("d/s/")
    with store._watching._lock:  # nothing is taken in meanwhile
        (root / "d").rename(root / "e")
        assert store.watch("e/s/")
        assert "d/" in told.now()
    (root / "e" / "s" / "x").write_text("x")
    told.until("e/s/x")


def test_another_directory_of_the_name_is_watched_anew(store, root, told):
    for remove in (shutil.rmtree, lambda path: path.rename(root / "away")):
        assert store.watch("d/s/")
        told.now()
        remove(root / "d" / "s")
        (root / "d" / "s").mkdir()
        told.until("d/s/")
        assert store.watch("d/s/")
        (root / "d" / "s" / "new").write_text("x")
        told.until("d/s/new")


def test_watches_of_a_transaction_that_is_undone_are_ended(store, root, told):
    assert store.watch("d/s/")
    with pytest.raises(RuntimeError), store.transaction("fails"):
        store.rename("d/", "e/")
        raise RuntimeError
    told.until("e/")
    assert store.watch("d/s/")
    (root / "d" / "s" / "x").write_text("x")
    told.until("d/s/x")


def test_what_overflows_is_everything(store, root, told):
    assert store.watch("d/")
    store._watching._handle([Event(-1, inotify.OVERFLOW, b"")])
    assert None in told.until(None)
    assert store.watch("d/")
    (root / "d" / "x").write_text("x")
    told.until("d/x")


PROGRAM = """
import logging, os, sys
from joinfs.stores.directory import DirectoryStore
logging.basicConfig(stream=sys.stdout, format="%(message)s")
taken = []
with DirectoryStore(sys.argv[1]) as store:
    import ctypes
    libc = ctypes.CDLL(None)
    while (fd := libc.inotify_init1(0)) >= 0:
        taken.append(fd)
    print([store.watch("d/"), store.watch("d/"), store.watch("")])
    os.close(taken.pop())
    print(store.watch("d/"))
"""


def test_too_many_watches_are_told_once(root):
    """In a user namespace of its own, where there may be three inotify descriptors."""
    limit = 'echo 3 > /proc/sys/user/max_inotify_instances && exec "$0" -c "$1" "$2"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, sys.executable, PROGRAM, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(f"needs user namespaces: {done.stderr}")
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(("[", "T", "F"))] == ["[False, False, False]", "True"], done
    assert len([line for line in lines if "max_user_watches" in line]) == 1


def test_symlinks_lead_nowhere_and_what_is_not_there_is_not_watched(store, root):
    (root / "link").symlink_to("d")
    for key in ("link/", "d/a/", "absent/", "d", "../", "d//", f"{TEMPORARY}x/"):
        assert not store.watch(key)
    assert threads() == [] or store._watching._inotify is not None


def test_there_is_a_thread_only_while_something_is_watched(root):
    with DirectoryStore(root) as store, SQLiteStore(root / "db") as database:
        assert threads() == []
        assert store.watch("")
        assert database.watch("")
        assert len(threads()) == 2
    assert threads() == []
    with pytest.raises(NotConnected):
        store.watch("")
    store.unwatch("")
    with store:
        told = Told(store)
        assert store.watch("")
        (root / "again").write_text("x")
        told.until("again")


def test_a_subscriber_may_disconnect(store, root):
    done = threading.Event()

    def end(key):
        store.disconnect()
        done.set()

    store.subscribe(end)
    assert store.watch("")
    (root / "x").write_text("x")
    assert done.wait(20)
    store.connect()


# -------------------------------------------------------------------- views


def test_views_hand_on_with_their_own_keys(store, root):
    view, reader = PrefixStore(store, "d"), ReadOnlyStore(store)
    told, read = Told(view), Told(reader)
    assert view.watch("s/")
    assert not view.watch("../")
    (root / "d" / "s" / "x").write_text("x")
    told.until("s/x")
    read.until("d/s/x")
    set_data(view, "y")
    set_data(store, "z")
    set_data(store, "d/z")
    assert [key for key in told.until("z") if key in {"y", "z"}] == ["y", "z"]
    store.rename("d/", "e/")
    told.until(None)
    view.unwatch("s/")
    view.unsubscribe(told.keys.put)
    reader.unsubscribe(read.keys.put)
    assert store._subscribers == ()


def test_a_view_is_told_of_its_root(store):
    view = PrefixStore(store, "d")
    told = Told(view)
    set_data(store, "other")
    set_data(store, "d2/x")
    store.set_stat("d/", mtime=5)
    assert told.now() == [""]


def test_a_view_in_a_transaction_of_the_other_store_tells_at_its_end():
    with MemoryStore() as store:
        set_data(store, "p/a")
        view = PrefixStore(store, "p")
        told = Told(view)
        with store.transaction("outer"):
            set_data(view, "a")
            assert told.now() == []
        assert told.now() == ["a"]


# -------------------------------------------------------------------- databases


@pytest.fixture
def database(tmp_path):
    with SQLiteStore(tmp_path / "db") as store:
        yield store


def test_another_store_of_the_database_is_noticed(database, tmp_path):
    told = Told(database)
    assert database.watch("")
    with SQLiteStore(tmp_path / "db") as other:
        for number in range(3):
            set_data(other, f"a{number}")
            told.until(None)
            assert database.exists(f"a{number}")


def test_another_process_is_noticed(database, tmp_path):
    set_data(database, "a")
    told = Told(database)
    assert database.watch("")
    program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('UPDATE node SET mtime = mtime + 1'); db.commit()"
    subprocess.run([sys.executable, "-c", program, tmp_path / "db"], check=True, timeout=60)
    told.until(None)


def test_what_the_store_writes_itself_in_many_threads_is_nobody_elses(database, tmp_path):
    told = Told(database)
    assert database.watch("")

    def write(number):
        for step in range(50):
            set_data(database, f"{number}/{step}", b"x" * 20_000)
            database.to_bytes(f"{number}/{step}")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    database._open._others._handle([])
    assert None not in told.now()
    with sqlite3.connect(tmp_path / "db") as other:
        other.execute("UPDATE node SET mtime = mtime + 1")
    other.close()
    assert told.until(None) == [None]


def test_a_commit_of_others_between_two_of_ours_is_noticed(database, tmp_path):
    told = Told(database)
    assert database.watch("")
    others = database._open._others
    with SQLiteStore(tmp_path / "db") as other:
        for _ in range(20):
            others._noticed = False
            set_data(database, "ours")
            told.now()
            set_data(other, "theirs")
            set_data(database, "ours")
            others._handle([])
            told.until(None)


def test_a_database_in_a_transaction_is_watched_later(database):
    with database.transaction("writes"):
        assert not database.watch("")
    assert database.watch("")


def test_a_store_that_only_reads_the_database_is_told(database, tmp_path):
    with SQLiteStore(tmp_path / "db", read_only=True) as reader:
        told = Told(reader)
        assert reader.watch("")
        set_data(database, "a")
        told.until(None)
        assert reader.exists("a")
