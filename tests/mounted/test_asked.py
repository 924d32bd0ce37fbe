"""What is asked of a mount at work, by the commands that ask. SEMANTICS.md, Asking a mount; What is mounted."""

import json
import os
import shlex
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.mounted.conftest import NOBODY, TIMEOUT, User, make_directory


@pytest.fixture
def lower(scratch, user):
    place = scratch / "lower"
    (place / "d" / "e").mkdir(parents=True)
    for name in ("a", "b", "d/c", "d/e/f"):
        (place / name).write_text(f"{name}\n")
    if user.uid is not None:
        for path in [place, *place.rglob("*")]:
            os.chown(path, user.uid, user.uid)
    return place


@pytest.fixture
def asked(user):
    """Call with the arguments of a command that is to succeed; answers what it printed."""

    def asked(*arguments, code=0):
        done = user.joinfs(*arguments)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return asked


def as_user(user, script, place):
    return user.run(["/bin/sh", "-c", f"cd {shlex.quote(str(place))} && {script}"], cwd="/").stdout


def seen_at_last(driver, user, script, place, expected):
    """What is seen in a mount: at once, or with the driver fusepy, to which nobody tells anything, when it looks again."""
    end = time.monotonic() + (10 if driver == "fusepy" else 0)
    while True:
        done = user.run(["/bin/sh", "-c", f"cd {shlex.quote(str(place))} && {script}"], cwd="/", check=False)
        if done.stdout.split() == expected or time.monotonic() > end:
            assert done.stdout.split() == expected, done.stderr
            return
        time.sleep(0.05)


def test_what_is_changed_is_told_committed_and_discarded(user, driver, mount, upper, lower, asked):
    with mount(upper, lower) as mnt:
        as_user(user, "echo more >> a; rm b; mv d dd; echo new > n; chmod 600 dd/c", mnt)
        assert asked("diff", mnt).stdout.splitlines() == ["M  a", "D  b", "R  d/ -> dd/", "m  dd/c  (mode)", "A  n"]
        assert asked("diff", mnt / "dd").stdout.splitlines() == ["R  d/ -> dd/", "m  dd/c  (mode)"]
        assert "+more" in asked("diff", "-p", mnt / "a").stdout
        asked("discard", mnt / "b", mnt / "n")
        seen_at_last(driver, user, "ls; cat b", mnt, ["a", "b", "dd", "b"])
        asked("commit", mnt)
        assert (lower / "a").read_text() == "a\nmore\n"
        assert (lower / "dd" / "e" / "f").read_text() == "d/e/f\n"
        assert not (lower / "d").exists()
        assert asked("diff", mnt).stdout == ""
        seen_at_last(driver, user, "cat a dd/e/f; ls -R | wc -l; stat -c %a dd/c", mnt, ["a", "more", "d/e/f", "11", "600"])
        as_user(user, "echo again > dd/c; mkdir x; mv dd/e x/e", mnt)
        assert asked("diff", mnt).stdout.splitlines() == ["M  dd/c", "A  x/", "R  dd/e/ -> x/e/"]
        asked("discard", mnt, "--all")
        seen_at_last(driver, user, "ls; ls dd; cat dd/c", mnt, ["a", "b", "dd", "c", "e", "d/c"])


def test_what_is_staged_is_told_too(user, mount, lower, asked, scratch):
    with mount(f"sqlite:{scratch}/up.db", lower) as mnt, open(mnt / "staged", "w") as file:
        file.write("x" * 1000)
        file.flush()
        status = json.loads(asked("status", mnt, "--json").stdout)
        assert list(status["staged"].values()) in ([1000], [0])  # what the kernel caches is not known
        assert "staged" in str(status["staged"])
        assert status["open_files"] >= 1
        assert asked("diff", mnt).stdout == "A  staged\n"
        assert asked("cat", f"sqlite:{scratch}/up.db", "--", "staged").stdout == "x" * 1000
        file.write("y")
        file.flush()
        asked("flush", mnt)
        assert asked("cat", f"sqlite:{scratch}/up.db", "--", "staged").stdout == "x" * 1000 + "y"
    with mount(f"sqlite:{scratch}/up.db", lower) as mnt:
        assert json.loads(asked("status", mnt, "--json").stdout)["staged"] == {}


def test_files_that_are_open_for_writing_are_in_the_way_and_named(user, mount, upper, lower, asked):
    with mount(upper, lower) as mnt:
        with open(mnt / "a", "a") as file:
            file.write("more")
            file.flush()
            for command in (["commit", mnt], ["discard", mnt, "--all"]):
                assert "open for writing in the mount: 'a'" in asked(*command, code=1).stderr
        assert (lower / "a").read_text() == "a\n"
        asked("commit", mnt)
        assert (lower / "a").read_text() == "a\nmore"


def test_where_a_path_comes_from_and_what_there_is(user, mount, upper, lower, asked):
    with mount(upper, f"data={lower}") as mnt:
        as_user(user, "echo x > a", mnt)
        lines = asked("which", mnt / "a", mnt / "d").stdout.splitlines()
        assert lines == [
            f"0  {upper}  a  (file, 2 bytes)",
            "1  data  a  (file, 2 bytes)  hidden by 0: it has a file there",
            "1  data  d/  (directory)",
        ]
        assert [json.loads(line)["name"] for line in asked("layers", mnt, "--json").stdout.splitlines()] == [upper, "data"]
        told = asked("status").stdout
        assert f"{mnt}: " in told
        assert "1  data  (DirectoryStore)" in told
        os.setxattr(mnt / "a", "user.colour", b"red") if user.uid is None else as_user(user, "setfattr -n user.colour -v red a", mnt)
        assert asked("query", mnt, "--", "colour=red").stdout == "a\n"
        asked("check", mnt)


def test_a_layer_is_exported_while_it_is_mounted(user, mount, upper, lower, asked, scratch):
    with mount(upper, lower) as mnt:
        as_user(user, "echo x > a; rm b", mnt)
        asked("export", mnt, "-o", scratch / "layer.tar")
    assert user.run(["tar", "tf", scratch / "layer.tar"]).stdout.split() == ["a", ".wh.b"]


def test_others_are_not_answered(mount, user, lower, upper):
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    with mount(upper, lower) as mnt:
        stranger = User(NOBODY - 1 if user.uid else NOBODY)
        done = stranger.joinfs("diff", mnt)
        assert done.returncode == 1
        assert "of another user" in done.stderr
        assert User().joinfs("diff", mnt).returncode == 0  # root is


def test_a_server_that_has_died_is_told_of(user, mount, lower, asked, upper, scratch):
    mountpoint = scratch / "mnt2"
    make_directory(user, mountpoint)
    asked("mount", upper, lower, mountpoint)
    pid = json.loads(asked("status", mountpoint, "--json").stdout)["pid"]
    os.kill(pid, 9)
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.01)
    done = user.joinfs("diff", mountpoint)
    assert done.returncode == 1
    assert f"joinfs umount {mountpoint}" in done.stderr
    asked("umount", mountpoint)


def test_work_goes_on_while_changes_are_committed_and_discarded(user, mount, upper, lower, asked):
    """Nobody hangs, nothing is lost: what was written before is in the lower store or in the first one."""
    with mount(upper, lower) as mnt:
        script = "i=0; while [ $i -lt 150 ]; do mkdir -p w/t$((i % 7)); echo $i > w/t$((i % 7))/$i; mv w/t$((i % 7))/$i w/$i; ls w >/dev/null; i=$((i+1)); done"
        workers = [threading.Thread(target=as_user, args=(user, script.replace("w/", f"w{number}/").replace("ls w", f"ls w{number}"), mnt)) for number in range(2)]
        for worker in workers:
            worker.start()
        while any(worker.is_alive() for worker in workers):
            done = user.joinfs("commit", "-q", mnt)
            assert done.returncode in {0, 1}, done.stderr
            assert "Traceback" not in done.stderr
            if done.returncode:
                assert "open for writing" in done.stderr
        for worker in workers:
            worker.join(TIMEOUT)
        asked("commit", mnt)
        for number in range(2):
            assert sorted(int(path.name) for path in (lower / f"w{number}").iterdir() if path.is_file()) == list(range(150))
            assert all((lower / f"w{number}" / str(i)).read_text() == f"{i}\n" for i in range(150))
        assert asked("diff", mnt).stdout == ""


def test_an_upper_of_its_own_is_made_and_found_again(user, lower, asked, scratch):
    """``--upper auto``, and read-only stores alone."""
    make_directory(user, scratch / "mnt3")
    subprocess.run(["tar", "cf", scratch / "low.tar", "-C", lower, "."], check=True, timeout=TIMEOUT)
    if user.uid is not None:
        os.chown(scratch / "low.tar", user.uid, user.uid)
    make_directory(user, scratch / "state")
    interpreter, environment = user.python()
    for stores in (["--upper", "auto", lower], [scratch / "low.tar"]):
        for turn in range(2):
            command = [interpreter, "-m", "joinfs", "mount", *map(str, stores), str(scratch / "mnt3")]
            user.run(command, env={**environment, "XDG_STATE_HOME": str(scratch / "state")}, cwd="/")
            try:
                seen = as_user(user, f"echo {turn} >> a; cat a", scratch / "mnt3").split()
                assert seen[1:] == [str(number) for number in range(turn + 1)][: len(seen) - 1]
                assert len(seen) >= turn + 2
            finally:
                asked("umount", scratch / "mnt3")
    assert (lower / "a").read_text() == "a\n"


def test_options_of_overlayfs_are_known(user, lower, scratch, asked):
    for name in ("up:per", "mnt4", "lower2"):
        make_directory(user, scratch / name)
    (scratch / "lower2" / "z").write_text("z\n")
    options = f"lowerdir={lower}:{scratch}/lower2,upperdir={scratch / 'up:per'},workdir={scratch}/work,redirect_dir=on,index=on,xino=auto"
    asked("mount", "-o", options, scratch / "mnt4")
    try:
        as_user(user, "echo x > new; ls > /dev/null; cat z", scratch / "mnt4")
        assert (scratch / "up:per" / "new").read_text() == "x\n"
    finally:
        asked("umount", scratch / "mnt4")
    assert "joinfs always does" in asked("mount", "-o", "lowerdir=/tmp,redirect_dir=off", scratch / "mnt4", code=2).stderr
    assert "did you mean 'lowerdir'" in asked("mount", "-o", "lowerdirs=/tmp", scratch / "mnt4", code=2).stderr


def test_a_snapshot_stays_as_it_is(user, driver, mount, upper, lower, asked, scratch):
    """SEMANTICS.md, Other stores while it is mounted."""
    with mount(upper, lower) as mnt:
        as_user(user, "echo one >> a; rm b; mv d dd; echo n > n", mnt)
        with open(mnt / "a") as reading:
            before = reading.read()
            told = asked("snapshot", mnt).stderr
            new = told.partition("changes go into ")[2].partition(". To")[0]
            seen_at_last(driver, user, "cat a n dd/c; ls", mnt, ["a", "one", "n", "d/c", "a", "dd", "n"])
            as_user(user, "echo two >> a; rm n; mv dd ddd; echo x > ddd/c; mkdir fresh", mnt)
            reading.seek(0)
            assert reading.read() in {before, before + "two\n"}
        seen_at_last(driver, user, "cat a ddd/c ddd/e/f; ls", mnt, ["a", "one", "two", "x", "d/e/f", "a", "ddd", "fresh"])
        assert asked("diff", mnt).stdout.splitlines() == ["M  a", "R  dd/ -> ddd/", "M  ddd/c", "A  fresh/", "D  n"]
    # The frozen store is what it was, and with the new one before it all is as it was last.
    with mount(f"{upper}?ro", lower) as mnt:
        assert as_user(user, "cat a n dd/c; ls", mnt).split() == ["a", "one", "n", "d/c", "a", "dd", "n"]
    with mount(new, f"{upper}?ro", lower) as mnt:
        assert as_user(user, "cat a ddd/c ddd/e/f; ls", mnt).split() == ["a", "one", "two", "x", "d/e/f", "a", "ddd", "fresh"]


def test_files_that_are_written_to_are_in_the_way_of_a_snapshot(user, mount, upper, lower, asked):
    with mount(upper, lower) as mnt:
        with open(mnt / "a", "a") as file:
            file.write("x")
            file.flush()
            assert "open for writing in the mount: 'a'" in asked("snapshot", mnt, code=1).stderr
        asked("snapshot", mnt)
        assert "takes the writes" in asked("layers", mnt).stdout.splitlines()[0]


def test_stores_come_and_go(user, driver, mount, upper, lower, asked, scratch):
    """SEMANTICS.md, Other stores while it is mounted."""
    make_directory(user, scratch / "more" / "d")
    (scratch / "more" / "a").write_text("more's\n")
    (scratch / "more" / "only").write_text("only\n")
    (scratch / "more" / "d" / "z").write_text("z\n")
    if user.uid is not None:
        for path in [scratch / "more", *(scratch / "more").rglob("*")]:
            os.chown(path, user.uid, user.uid)
    with mount(upper, lower) as mnt:
        as_user(user, "echo mine > mine; ls d > /dev/null; cat a d/c > /dev/null; ! cat only", mnt)
        asked("layers", mnt, "--add", f"more={scratch}/more")
        seen_at_last(driver, user, "cat a only mine; ls d", mnt, ["a", "only", "mine", "c", "e", "z"])
        asked("layers", mnt, "--remove", "more")
        seen_at_last(driver, user, "cat a; ls; ls d", mnt, ["a", "a", "b", "d", "mine", "c", "e"])
        asked("layers", mnt, "--add", scratch / "more", "--at", "1")
        seen_at_last(driver, user, "cat a only", mnt, ["more's", "only"])
        as_user(user, "echo changed >> only && rm d/z", mnt)
        asked("layers", mnt, "--remove", "1")
        seen_at_last(driver, user, "cat a only; ls d", mnt, ["a", "only", "changed", "c", "e"])
        for arguments, code, words in (
            (["--remove", "0"], 1, "takes the writes"),
            (["--remove", "none"], 1, "no store is called"),
            (["--add", lower], 1, "joined already"),
            (["--add", mnt], 1, "inside each other"),
            (["--add", scratch / "none"], 1, "no store at"),
            (["--add", lower, "--at", "9"], 1, "can be added at 1 to"),
            (["--at", "1"], 2, "says where"),
        ):
            assert words in asked("layers", mnt, *arguments, code=code).stderr


def test_copies_that_say_where_their_data_is_keep_their_stores(user, mount, lower, asked, scratch):
    (lower / "large").write_bytes(b"x" * (200 << 10))
    if user.uid is not None:
        os.chown(lower / "large", user.uid, user.uid)
    make_directory(user, scratch / "more")
    with mount(f"sqlite:{scratch}/up.db", lower) as mnt:
        as_user(user, "chmod 600 large", mnt)
        assert "has copies that say" in asked("layers", mnt, "--add", scratch / "more", code=1).stderr
        asked("layers", mnt, "--add", scratch / "more", "--at", "1")
        assert as_user(user, "wc -c < large", mnt).split() == [str(200 << 10)]
        asked("snapshot", mnt)
        assert as_user(user, "wc -c < large; stat -c %a large", mnt).split() == [str(200 << 10), "600"]


def test_a_busy_mount_is_told_of(user, mount, upper, lower, asked, scratch):
    """What comes and goes meanwhile makes nothing fail."""
    with mount(upper, lower) as mnt:
        script = "i=0; while [ ! -e stop ]; do mkdir -p x/y/z; echo $i > x/y/z/f; mv x w$i; rm -rf w$i; i=$((i+1)); done"
        worker = threading.Thread(target=as_user, args=(user, script, mnt))
        worker.start()
        try:
            for number in range(3):
                asked("diff", mnt)
                asked("diff", "-p", mnt)
                asked("export", "-q", mnt, "-o", scratch / f"{number}.tar")
                asked("which", mnt / "a")
        finally:
            as_user(user, "touch stop", mnt)
            worker.join(TIMEOUT)


def test_a_mount_is_made_also_where_there_can_be_no_socket(user, lower, scratch):
    make_directory(user, scratch / "mnt5")
    deep = scratch / ("long" * 30)
    make_directory(user, deep)
    interpreter, environment = user.python()
    environment = {**environment, "XDG_RUNTIME_DIR": str(deep)}
    if user.uid is None:
        pytest.skip("root has another place")
    command = [interpreter, "-m", "joinfs"]
    user.run([*command, "mount", "memory:", str(lower), str(scratch / "mnt5")], env=environment, cwd="/")
    try:
        done = user.run([*command, "diff", str(scratch / "mnt5")], env=environment, cwd="/", check=False)
        assert "no server answers" in done.stderr
    finally:
        user.run([*command, "umount", str(scratch / "mnt5")], env=environment, cwd="/")


def test_what_is_interrupted_is_not_done(user, mount, lower, upper, scratch, asked):
    """The server stops, and undoes what it did, when who asked goes away."""
    with mount(upper, lower) as mnt:
        as_user(user, "mkdir big && cd big && for i in 1 2 3 4 5 6 7 8; do head -c 20000000 /dev/zero > $i; done", mnt)
        interpreter, environment = user.python()
        process = subprocess.Popen([interpreter, "-m", "joinfs", "commit", str(mnt)], env=environment, cwd="/", stderr=subprocess.PIPE, stdout=subprocess.PIPE, **user.options())
        while process.poll() is None and not list(lower.rglob("*.wh..wh.joinfs*")):  # its transaction has begun
            time.sleep(0.01)
        process.send_signal(2)
        _, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode in {0, 130}  # it may have been done before
        if process.returncode == 130:
            assert "interrupted" in said.decode()
            asked("status", mnt)
            assert asked("diff", mnt).stdout.count("A  big") == 9
            end = time.monotonic() + TIMEOUT
            while list(lower.rglob("*.wh..wh.joinfs*")):  # the server is undoing it
                assert time.monotonic() < end
                time.sleep(0.05)
            assert not (lower / "big").exists()
        asked("commit", mnt)
        assert len(list((lower / "big").iterdir())) == 8
