"""Transactions of a directory, killed at every call that changes something. SEMANTICS.md, Transactions."""

import contextlib
import io
import itertools
import os
import signal
import stat as stat_module
import tempfile
import threading

import pytest

from joinfs.errors import StoreLocked, StoreUnavailable, Unsupported
from joinfs.stores import beneath, directory_journal
from joinfs.stores.directory import DirectoryStore
from joinfs.stores.value import new_stat

PLACE = ".wh..wh.joinfs.transactions"
OLD = 1_500_000_000_000_000_000


def value(data, **metadata):
    return io.BytesIO(data), metadata


def fill(place):
    place.mkdir()
    with DirectoryStore(place) as store:
        store.set("replaced", value(b"old" * 1000, k="old"))
        store.set("deleted", value(b"deleted"))
        store.set("moved", value(b"moved"))
        store.set("target", value(b"target", k="t"))
        store.set("d/s/deep", value(b"deep"))
        store.set("d/file", value(b"file"))
        store.set("one", value(b"linked" * 50, k="l"))
        store.link("one", "d/other")
        store.set("swapped", value(b"swapped"))
        store.set("changed", value(b"changed", k="v", l="w"))
        for name in ("empty", "empty-too", "over"):
            store.put(f"{name}/", new_stat(stat_module.S_IFDIR | 0o750), None, {"k": name})
        store.put("link", new_stat(stat_module.S_IFLNK | 0o777), io.BytesIO(b"there"))
        store.put("pipe", new_stat(stat_module.S_IFIFO | 0o600))
    for directory, names, files in os.walk(place, topdown=False):
        for name in [*names, *files, "."]:
            os.utime(os.path.join(directory, name), ns=(OLD, OLD), follow_symlinks=False)


def change(store):
    with store.transaction("everything"):
        store.set("replaced", value(b"new", k="new"))
        store.set("new/dir/file", value(b"n", k="n"))
        store.delete("deleted")
        store.rename("moved", "target")
        store.rename("d/", "over/")
        store.set("over/s/deep", value(b"deeper"))
        store.set("one", value(b"both" * 5, k="b"))
        store.exchange("swapped", "over/")
        store.set_stat("changed", mode=0o600, mtime=5)
        store.set_metadata("changed", {"l": "x", "m": "y"})
        store.delete("empty/")
        store.set("empty", value(b"now a file"))
        store.put("empty-too/", new_stat(stat_module.S_IFDIR | 0o700), None, {"k": "changed"})
        store.link("changed", "new/link")
        store.put("link", new_stat(stat_module.S_IFLNK | 0o777), io.BytesIO(b"elsewhere"))
        store.delete("pipe")
        store.rename("new/", "newer/")
        store.delete("newer/dir/file")


def seen(place, times):
    """What is in a directory, asked of the host; names of one file have one number."""
    found, files = {}, {}
    for directory, names, leaves in os.walk(place):
        # A journal that never came to be is cleared away when it is certain that nobody is about to use it.
        if PLACE in names and all(name.startswith("new.") for name in os.listdir(os.path.join(directory, PLACE))):
            names.remove(PLACE)
        for name in [*names, *leaves, "."]:
            path = os.path.normpath(os.path.join(directory, name))
            native = os.lstat(path)
            data = None
            if stat_module.S_ISREG(native.st_mode):
                with open(path, "rb") as file:
                    data = file.read()
            elif stat_module.S_ISLNK(native.st_mode):
                data = os.readlink(path)
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
            same = None if stat_module.S_ISDIR(native.st_mode) else files.setdefault(native.st_ino, os.path.relpath(path, place))
            # The root's own changes with the journal: killed at its very beginning or end, it stays so.
            mtime = native.st_mtime_ns if times and path != str(place) else None
            found[os.path.relpath(path, place)] = (native.st_mode, data, xattrs, same, mtime)
    return found


CALLS = ["rename", "unlink", "link", "mkdir", "rmdir", "write", "pwrite", "setxattr", "removexattr", "chmod", "chown", "utime", "symlink", "mknod", "ftruncate"]


def killed_after(calls, action):
    """Run an action in a process of its own that kills itself before a certain change; False if it came to its end."""
    child = os.fork()
    if child == 0:
        left = calls

        def counting(function):
            def counted(*arguments, **options):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return function(*arguments, **options)

            return counted

        for name in CALLS:
            setattr(os, name, counting(getattr(os, name)))
        beneath.exchange = counting(beneath.exchange)
        with contextlib.suppress(BaseException):
            action()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def change_all(place):
    with DirectoryStore(place) as store:
        change(store)


@pytest.mark.timeout(600)
def test_killed_anywhere_it_is_old_or_new(tmp_path):
    fill(tmp_path / "a")
    old, old_times = seen(tmp_path / "a", times=False), seen(tmp_path / "a", times=True)
    change_all(tmp_path / "a")
    new = seen(tmp_path / "a", times=False)
    assert len(new.keys() ^ old.keys()) > 10
    calls, outcomes = 0, []
    while True:
        place = tmp_path / f"{calls}"
        fill(place)
        killed = killed_after(calls, lambda place=place: change_all(place))
        with DirectoryStore(place):
            pass
        state = seen(place, times=False)
        assert state in (old, new), f"killed before call {calls}"
        outcomes.append(state == new)
        if state == old:
            assert seen(place, times=True) == old_times
        if not killed:
            break
        calls += 1
    assert outcomes == sorted(outcomes), "once it is new it stays new"
    assert calls > 80, calls


@pytest.mark.timeout(600)
def test_recovery_that_is_killed_goes_on_at_the_next_connect(tmp_path):
    fill(tmp_path / "a")
    old = seen(tmp_path / "a", times=True)
    for number, calls in enumerate((20, 50, 75)):
        recovered = 0
        while True:
            place = tmp_path / f"{number}-{recovered}"
            fill(place)
            assert killed_after(calls, lambda place=place: change_all(place))
            assert seen(place, times=False) != old

            def recover(place=place):
                DirectoryStore(place).connect()

            again = killed_after(recovered, recover)
            with DirectoryStore(place):
                pass
            assert seen(place, times=True) == old
            if not again:
                break
            recovered += 5
        assert recovered > 5


def change_after_what_fails(store):
    with store.transaction("whole"):
        store.set("replaced", value(b"before"))
        with contextlib.suppress(RuntimeError), store.transaction("part"):
            change(store)
            raise RuntimeError
        store.set("replaced", value(b"after"))
        store.delete("d/file")


def test_killed_while_a_part_is_undone_it_is_old_or_new(tmp_path):
    fill(tmp_path / "a")
    old = seen(tmp_path / "a", times=False)
    with DirectoryStore(tmp_path / "a") as store:
        change_after_what_fails(store)
        assert (store.to_bytes("replaced"), store.exists("d/file"), store.to_bytes("moved")) == (b"after", False, b"moved")
    new = seen(tmp_path / "a", times=False)
    assert {path for path in old if old[path] != new.get(path)} == {"replaced", "d/file"}
    outcomes = []
    for calls in itertools.count(60, 3):
        place = tmp_path / f"{calls}"
        fill(place)

        def action(place=place):
            with DirectoryStore(place) as store:
                change_after_what_fails(store)

        killed = killed_after(calls, action)
        with DirectoryStore(place):
            pass
        state = seen(place, times=False)
        assert state in (old, new), f"killed before call {calls}"
        outcomes.append(state == new)
        if not killed:
            break
    assert outcomes == sorted(outcomes), "once it is new it stays new"
    assert outcomes.count(False) > 20


def test_an_error_rolls_back_and_leaves_no_trace(tmp_path):
    fill(tmp_path / "a")
    old = seen(tmp_path / "a", times=True)
    with DirectoryStore(tmp_path / "a") as store:
        with pytest.raises(RuntimeError), store.transaction("fails"):
            change(store)
            raise RuntimeError
        assert seen(tmp_path / "a", times=True) == old
        assert sorted(n for n, _ in store.list("")) == sorted(os.listdir(tmp_path / "a"))
        change(store)
    assert not [name for name in os.listdir(tmp_path / "a") if name.startswith(".wh.")]


def test_a_file_of_several_names_that_cannot_be_overwritten_is_what_it_was(tmp_path, monkeypatch):
    fill(tmp_path / "a")
    with DirectoryStore(tmp_path / "a") as store:

        def broken(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "ftruncate", broken)
        with pytest.raises(Exception, match="No space"):
            store.set("one", value(b"x"))
        monkeypatch.undo()
        assert store.to_bytes("one") == store.to_bytes("d/other") == b"linked" * 50
        store.set("one", value(b"x"))
        assert store.to_bytes("d/other") == b"x"


def test_readers_in_other_threads_see_nothing_before_the_end(tmp_path):
    fill(tmp_path / "a")
    with DirectoryStore(tmp_path / "a") as store:
        inside, seen_inside = threading.Event(), []

        def look():
            inside.wait(30)
            seen_inside.append((store.exists("deleted"), sorted(name for name, _ in store.list("")), store.to_bytes("replaced")))

        thread = threading.Thread(target=look)
        thread.start()
        with store.transaction("slow"):
            store.delete("deleted")
            inside.set()
            thread.join(0.2)
            assert thread.is_alive()
            store.set("replaced", value(b"new"))
        thread.join(30)
    assert [(exists, data) for exists, _, data in seen_inside] == [(False, b"new")]


def test_a_transaction_of_another_process_is_waited_for_and_not_undone(tmp_path, monkeypatch):
    fill(tmp_path / "a")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), DirectoryStore(tmp_path / "a") as store, store.transaction("theirs"):
            store.set("replaced", value(b"theirs"))
            os.write(ready[1], b"x")
            os.read(go[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    monkeypatch.setattr(directory_journal, "PATIENCE", 0.05)
    with DirectoryStore(tmp_path / "a") as store:
        assert store.to_bytes("replaced") == b"theirs"
        with pytest.raises(StoreLocked, match="another process"), store.transaction("ours"):
            store.set("replaced", value(b"ours"))
        os.write(go[1], b"x")
        os.waitpid(child, 0)
        assert store.to_bytes("replaced") == b"theirs"
        with store.transaction("ours"):
            store.set("replaced", value(b"ours"))
        assert store.to_bytes("replaced") == b"ours"
    for descriptor in (*ready, *go):
        os.close(descriptor)


def test_journals_of_others_are_not_believed(tmp_path):
    """Who may write into the directory could have us change owners and modes."""
    fill(tmp_path / "a")
    planted = tmp_path / "a" / PLACE
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)
    with pytest.raises(StoreUnavailable, match="another user"):
        DirectoryStore(tmp_path / "a").connect()
    planted.rmdir()
    planted.symlink_to(tmp_path)
    with pytest.raises(StoreUnavailable, match="something else"):
        DirectoryStore(tmp_path / "a").connect()
    with DirectoryStore(tmp_path / "a", read_only=True) as store:
        assert not store.exists(".wh..wh.joinfs.transactions")
        assert not store.exists(".wh..wh.joinfs.transactions/a/replaced")


def test_descriptors_to_write_through_are_not_part_of_a_transaction(tmp_path):
    fill(tmp_path / "a")
    with DirectoryStore(tmp_path / "a") as store, store.transaction("notes"):
        os.close(store.open_local("one", os.O_RDONLY))
        with pytest.raises(Unsupported, match="transaction"):
            store.open_local("one", os.O_RDWR)


def as_nobody(action):
    """Run an action in a process that is not root's; whether it came to its end."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def test_a_file_that_is_not_to_be_written_gets_its_data_back():
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)

        def action():
            with DirectoryStore(place) as store:
                store.put("a", new_stat(stat_module.S_IFREG | 0o444, os.geteuid(), os.getegid()), io.BytesIO(b"old"))
                store.link("a", "b")
                with contextlib.suppress(RuntimeError), store.transaction("fails"):
                    store.set("c", value(b"new"))
                    store.set("a", value(b"new"))
                    raise RuntimeError
                assert (store.to_bytes("a"), store.exists("c"), store.stat("b").mode & 0o777) == (b"old", False, 0o444)
            with DirectoryStore(place):
                pass

        assert as_nobody(action)
