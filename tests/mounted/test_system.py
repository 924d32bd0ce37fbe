"""mount(8), fstab(5), systemd. SEMANTICS.md, In the system."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.mounted.conftest import TIMEOUT, User, make_directory, mounts_below

HELPER = Path("/sbin/mount.joinfs")


@pytest.fixture
def place(scratch, user):
    for name in ("low", "up", "mnt", "system"):
        make_directory(user, scratch / name)
    (scratch / "low" / "a").write_text("a\n")
    return scratch


@pytest.fixture
def installed(user):
    """The helper is where mount(8) looks for it."""
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("only root installs it")
    was_there = HELPER.exists()
    done = user.joinfs("install-helper")
    assert done.returncode == 0, done.stderr
    yield
    if not was_there:
        assert user.joinfs("install-helper", "--remove").returncode == 0


def mount(*arguments, code=0):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=TIMEOUT, env={})
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def unmount(mountpoint):
    done = User().joinfs("umount", mountpoint)
    assert done.returncode == 0, done.stderr


def test_mount_mounts_it(installed, place):
    mount("-t", "joinfs", place / "low", place / "mnt", "-o", f"upperdir={place}/up,defaults,nofail,_netdev,x-systemd.automount,comment=x,attr_timeout=3")
    (place / "mnt" / "b").write_text("b\n")
    assert sorted(os.listdir(place / "mnt")) == ["a", "b"]
    unmount(place / "mnt")
    assert os.listdir(place / "up") == ["b"]
    mount("-t", "joinfs", "none", place / "mnt", "-r", "-o", f"lowerdir={place}/up:{place}/low")
    with pytest.raises(OSError, match="Read-only"):
        (place / "mnt" / "c").write_text("c")
    assert "cannot be remounted" in mount("-o", "remount,rw", place / "mnt", code=1)
    unmount(place / "mnt")


def test_a_line_of_fstab_mounts_it(installed, place):
    make_directory(User(), place / "mnt" / "with space")
    (place / "join.toml").write_text(f'[[store]]\nurl = "sqlite:{place}/changes.db"\n[[store]]\nurl = "low"\n')
    (place / "fstab").write_text(f"{place}/join.toml {place}/mnt/with\\040space joinfs defaults,user,noauto,nofail,exec 0 0\n")
    mount("-T", place / "fstab", place / "mnt" / "with space")
    (place / "mnt" / "with space" / "b").write_text("b\n")
    unmount(place / "mnt" / "with space")
    assert (place / "changes.db").exists()


def test_what_is_wrong_is_one_sentence_and_the_code_that_mount_wants(installed, place):
    for source, options, words, code in (
        (place / "none", "ro", "no store at", 32),
        (place / "low", "bogus", "not an option", 1),
        ("none", "ro", "say what to mount", 1),
        (place / "low", f"upperdir={place}/low", "same place", 32),
    ):
        said = mount("-t", "joinfs", source, place / "mnt", "-o", options, code=code)
        assert words in said
    mount("-t", "joinfs", place / "low", place / "mnt", "-s", "-o", f"bogus,upperdir={place}/up")
    unmount(place / "mnt")


def test_nothing_of_others_is_replaced_and_all_is_taken_away(user, place):
    done = user.joinfs("install-helper", "--systemd", "--prefix", place / "system")
    assert done.returncode == 0, done.stderr
    helper, unit = place / "system/sbin/mount.joinfs", place / "system/etc/systemd/system/joinfs@.service"
    assert helper.stat().st_mode & 0o777 == 0o755
    assert "Type=notify" in unit.read_text()
    assert "mount -f --config /etc/joinfs/%i.toml" in unit.read_text()
    done = user.run([str(helper), str(place / "low"), str(place / "mnt"), "-o", f"upperdir={place}/up"], env={}, cwd="/")
    assert user.run(["cat", f"{place}/mnt/a"], cwd="/").stdout == "a\n"
    assert user.joinfs("umount", place / "mnt").returncode == 0
    assert user.joinfs("install-helper", "--remove", "--prefix", place / "system").returncode == 0
    assert not helper.exists()
    assert not unit.exists()
    helper.write_text("#!/bin/sh\n# another's\n")
    for arguments in ((), ("--remove",)):
        done = user.joinfs("install-helper", *arguments, "--prefix", place / "system")
        assert done.returncode == 1
        assert "not of joinfs" in done.stderr
    assert "another's" in helper.read_text()
    if user.uid is not None:
        assert "Permission denied" in user.joinfs("install-helper").stderr


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_the_service_manager_is_told(user, place, abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"\0joinfs-test-{os.getpid()}-{user.uid}" if abstract else str(place / "notify")
        manager.bind(name)
        manager.settimeout(TIMEOUT)
        if not abstract:
            os.chmod(name, 0o666)
        interpreter, environment = user.python()
        environment = {"PYTHONPATH": environment.get("PYTHONPATH", ""), "NOTIFY_SOCKET": name.replace("\0", "@")}
        command = [interpreter, "-m", "joinfs", "mount", "-f", f"sqlite:{place}/s.db", str(place / "low"), str(place / "mnt")]
        process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, **user.options())

        def told():
            try:
                return manager.recv(4096)
            except TimeoutError:
                process.kill()
                raise AssertionError(process.communicate()) from None

        try:
            assert told().startswith(b"READY=1")
            user.run(["/bin/sh", "-c", f"echo b > {place}/mnt/b"], cwd="/")
            process.send_signal(signal.SIGTERM)
            assert told().startswith(b"STOPPING=1")
            _, said = process.communicate(timeout=TIMEOUT)
            assert process.returncode == 0, said
        finally:
            process.kill()
            process.wait()


def test_the_log_goes_where_it_is_to_go(user, place):
    interpreter, environment = user.python()

    def mounted(*arguments, **more):
        command = [interpreter, "-m", "joinfs", "mount", *map(str, arguments), str(place / "low"), str(place / "mnt")]
        done = user.run(command, env={**environment, **more}, cwd="/", check=False)
        if done.returncode == 0:
            user.run(["/bin/sh", "-c", f"cat {place}/mnt/.joinfs/log > /dev/null"], cwd="/")
            assert user.joinfs("umount", place / "mnt").returncode == 0
        return done

    log = place / "up" / "log"
    assert mounted("--log-file", log, "--log-level", "debug", "--upper", "memory:").returncode == 0
    assert log.exists()
    before = log.stat().st_size
    assert mounted("--log-file", log, "--log-level", "error", "--upper", "memory:").returncode == 0
    assert log.stat().st_size == before
    assert "invalid choice" in mounted("--log-level", "loud").stderr
    if not os.path.exists("/dev/log"):
        assert "the log file syslog cannot be written" in mounted("--log-file", "syslog").stderr


def test_the_journal_gets_levels(user, place):
    if user.uid is None:
        pytest.skip("root has a place for staged data, and so nothing to be warned of")
    interpreter, environment = user.python()
    command = [interpreter, "-m", "joinfs", "mount", "-f", f"sqlite:{place}/s.db", str(place / "low"), str(place / "mnt")]
    environment = {**environment, "JOURNAL_STREAM": "8:1", "XDG_STATE_HOME": "/proc/none"}
    process = subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.PIPE, **user.options())
    try:
        while not mounts_below(place):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=TIMEOUT)
        assert said.startswith(b"<4>joinfs.mounting: what is being written when the server ends is lost"), said
    finally:
        process.kill()
        process.wait()
