"""The command: good and bad input, daemons, unmounting. SEMANTICS.md, Bad input; One writer; Unmounting; Checking."""

import os
import signal
import sqlite3
import subprocess
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def place(scratch, user):
    for name in ("lower/inside", "mnt", "upper"):
        (scratch / name).mkdir(parents=True, exist_ok=True)
    (scratch / "lower" / "f").write_text("lower")
    (scratch / "file").write_text("no store")
    (scratch / "damaged.zip").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    (scratch / "damaged.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 200)
    with sqlite3.connect(scratch / "foreign.db") as database:
        database.execute("create table theirs (x)")
    database.close()
    if user.uid is not None:
        for path in [scratch, *scratch.rglob("*")]:
            os.chown(path, user.uid, user.uid)
    return scratch


BAD = {
    "no such store": (["{p}/none", "{p}/mnt"], 1, "no store at"),
    "no such database hints": (["{p}/none.db", "{p}/mnt"], 1, "sqlite:"),
    "no such directory": (["dir:{p}/none", "{p}/mnt"], 1, "cannot be opened as a directory"),
    "no store at all": (["{p}/file", "{p}/mnt"], 1, "neither a directory"),
    "unknown scheme": (["sqlit:{p}/x", "{p}/mnt"], 1, "did you mean 'sqlite:'"),
    "unknown query": (["dir:{p}/lower?x=1", "{p}/mnt"], 1, "?ro"),
    "no mountpoint": (["memory:", "{p}/none"], 1, "does not exist"),
    "mountpoint is a file": (["memory:", "{p}/file"], 1, "not a directory"),
    "mountpoint inside a layer": (["memory:", "{p}/lower", "{p}/lower/inside"], 1, "inside each other"),
    "layer inside the mountpoint": (["memory:", "{p}/lower/inside", "{p}/lower"], 1, "inside each other"),
    "damaged archive": (["memory:", "zip:{p}/damaged.zip", "{p}/mnt"], 1, "not a zip archive"),
    "damaged database": (["{p}/damaged.db", "{p}/mnt"], 1, "damaged.db"),
    "foreign database": (["{p}/foreign.db", "{p}/mnt"], 1, "foreign.db"),
    "log file": (["--log-file", "{p}/none/log", "memory:", "{p}/mnt"], 1, "cannot be written: No such file"),
    "one directory twice": (["{p}/lower", "{p}/lower", "{p}/mnt"], 1, "same place"),
    "first store inside another": (["{p}/lower/inside", "{p}/lower", "{p}/mnt"], 1, "same place"),
    "another inside the first store": (["{p}/lower", "memory:", "{p}/lower/inside", "{p}/mnt"], 1, "same place"),
    "one database twice": (["sqlite:{p}/new.db", "sqlite:{p}/../{p.name}/new.db", "{p}/mnt"], 1, "same place"),
    "unknown option": (["-o", "alow_other", "memory:", "{p}/mnt"], 2, "did you mean 'allow_other'"),
    "option without its value": (["-o", "attr_timeout", "memory:", "{p}/mnt"], 2, "needs a value"),
    "option of no sense": (["-o", "attr_timeout=-1", "memory:", "{p}/mnt"], 2, "seconds"),
    "no stores": (["{p}/mnt"], 2, "say which stores"),
    "unknown driver": (["--driver", "none", "memory:", "{p}/mnt"], 2, "invalid choice"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("foreground", [True, False], ids=["foreground", "daemon"])
def test_bad_input_is_one_sentence(user, place, case, foreground):
    arguments, code, words = BAD[case]
    flags = ["-f"] if foreground else []
    done = user.joinfs("mount", *flags, *[argument.format(p=place) for argument in arguments])
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("joinfs: ")


def test_unmounting_what_is_no_mount_is_one_sentence(user, place):
    for path in ("mnt", "none"):
        done = user.joinfs("umount", place / path)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "not a mount" in done.stderr


def test_what_is_not_of_joinfs_is_not_unmounted(user):
    for path, words in (("/", "not of joinfs"), ("/proc", "not of joinfs"), ("/usr", "not a mount")):
        done = user.joinfs("umount", path)
        assert (done.returncode, done.stdout, words in done.stderr) == (1, "", True), done.stderr
    assert Path("/proc/self").exists()


def test_a_daemon_is_ready_when_mount_returns_and_gone_when_umount_does(user, place):
    shared = ["-o", "allow_other"] if user.uid is not None else []
    for text in ("lower", "changed"):
        done = user.joinfs("mount", *shared, f"sqlite:{place}/new.db", place / "lower", place / "mnt")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (place / "mnt" / "f").read_text() == text
        (place / "mnt" / "f").write_text("changed")
        again = user.joinfs("mount", f"sqlite:{place}/new.db", place / "lower", place / "mnt")
        assert (again.returncode, "a mount already" in again.stderr) == (1, True)
        assert user.joinfs("umount", place / "mnt").returncode == 0
        assert os.listdir(place / "mnt") == []
        # Nobody has the database any more: it can be moved away, and opened elsewhere.
        with sqlite3.connect(place / "new.db") as database:
            assert database.execute("pragma journal_mode=delete").fetchone() == ("delete",)
        database.close()
    assert (place / "lower" / "f").read_text() == "lower"


def test_relative_paths_are_relative_to_where_the_command_is_given(user, place):
    shared = ["-o", "allow_other"] if user.uid is not None else []
    assert user.joinfs("mount", *shared, "sqlite:rel.db", "lower", "mnt", cwd=place).stderr == ""
    assert (place / "mnt" / "f").read_text() == "lower"
    assert user.joinfs("umount", "mnt", cwd=place).returncode == 0
    assert (place / "rel.db").exists()


def test_a_second_mount_of_one_first_store_is_refused(user, place, mount, upper):
    with mount(upper, place / "lower", at="one"):
        (place / "two").mkdir()
        if user.uid is not None:
            os.chown(place / "two", user.uid, user.uid)
        done = user.joinfs("mount", upper, place / "lower", place / "two")
        assert done.returncode == 1
        assert "another mount writes to" in done.stderr
        with mount("memory:", place / "lower", at="three"):
            pass


def test_a_mount_in_use_is_not_unmounted(user, place, mount):
    with mount("memory:", place / "lower") as mnt:
        with (mnt / "f").open():
            done = user.joinfs("umount", mnt)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert "in use" in done.stderr
        assert (mnt / "f").read_text() == "lower"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount_and_commit(user, place, number):
    interpreter, environment = user.python()
    database, mnt = place / "s.db", place / "mnt"
    shared = ["-o", "allow_other"] if user.uid is not None else []
    command = [interpreter, "-m", "joinfs", "mount", "-f", *shared, f"sqlite:{database}", str(place / "lower"), str(mnt)]
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **user.options())
    try:
        wait_for(mnt, server)
        with (mnt / "new").open("w") as file:
            file.write("kept")
            file.flush()
            server.send_signal(number)
            assert server.wait(30) == 0, server.stderr.read()
    except OSError:
        pass  # the file's last close may find nobody any more
    finally:
        server.kill()
        server.communicate()
        subprocess.run(["umount", "-l", str(mnt)], check=False, capture_output=True)
    assert user.joinfs("mount", *shared, f"sqlite:{database}", place / "lower", mnt).returncode == 0
    assert (mnt / "new").exists()
    assert user.joinfs("umount", mnt).returncode == 0


def wait_for(mnt, server):
    while f" {mnt} " not in Path("/proc/self/mounts").read_text():
        try:
            server.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(server.stderr.read())


def test_what_a_dead_server_leaves_is_cleaned_up(user, place):
    for cleaned_up_by in ("umount", "mount"):
        interpreter, environment = user.python()
        mnt = place / "mnt"
        command = [interpreter, "-m", "joinfs", "mount", "-f", "memory:", str(place / "lower"), str(mnt)]
        server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **user.options())
        wait_for(mnt, server)
        server.kill()
        server.communicate()
        assert "not connected" in user.run(["ls", mnt], check=False).stderr
        if cleaned_up_by == "umount":
            assert user.joinfs("umount", mnt).returncode == 0
        done = user.joinfs("mount", "memory:", mnt)
        assert (done.returncode, done.stderr) == (0, "")
        assert user.run(["ls", mnt]).stdout == ""
        assert user.joinfs("umount", mnt).returncode == 0


def test_a_read_only_mount_takes_no_changes(user, place, mount):
    for stores, options in ((["memory:", place / "lower"], ["--read-only"]), ([f"dir:{place}/lower?ro"], ["-o", "ro"])):
        with mount(*stores, options=options) as mnt:
            for change in (
                lambda: (mnt / "new").write_text(""),
                lambda: (mnt / "f").write_text(""),
                lambda: (mnt / "f").unlink(),
                lambda: (mnt / "new").mkdir(),
            ):
                with pytest.raises(OSError, match="Read-only file system"):
                    change()
            assert (mnt / "f").read_text() == "lower"


def test_an_archive_first_makes_the_mount_read_only(user, place, mount):
    with zipfile.ZipFile(place / "a.zip", "w") as archive:
        archive.writestr("z", "zipped")
    with mount(place / "a.zip", place / "lower") as mnt:
        assert sorted(os.listdir(mnt)) == ["f", "inside", "z"]
        with pytest.raises(OSError, match="Read-only file system"):
            (mnt / "z").unlink()


def test_stores_can_be_named(user, place, mount):
    with mount("mine=memory:", f"theirs=dir:{place}/lower") as mnt:
        assert os.getxattr(mnt / "f", "user.joinfs.store") == b"theirs"


def test_help_has_an_example(user):
    for command in ("mount", "umount"):
        assert f"  joinfs {command} " in user.joinfs(command, "--help").stdout
    assert user.joinfs("--version").stdout.startswith("joinfs 0.")


def test_check_tells_what_is_wrong_and_changes_nothing(user, place):
    with zipfile.ZipFile(place / "good.zip", "w") as archive:
        archive.writestr("a", b"x" * 1000)
    damaged = bytearray((place / "good.zip").read_bytes())
    damaged[200] ^= 1
    (place / "bad.zip").write_bytes(damaged)
    good = user.joinfs("check", place / "upper", place / "lower", place / "good.zip")
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "joinfs: nothing is wrong\n")
    bad = user.joinfs("check", place / "upper", place / "bad.zip")
    assert (bad.returncode, "'a' cannot be read" in bad.stdout, "one thing" in bad.stderr) == (1, True, True)
    none = user.joinfs("check", f"sqlite:{place}/none.db")
    assert (none.returncode, "does not exist" in none.stderr, (place / "none.db").exists()) == (1, True, False)
    assert os.listdir(place / "upper") == []
