"""What other users of the machine can do to a mount, and to what its server keeps. SEMANTICS.md, Owners and modes; Staged writes."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.mounted.conftest import NOBODY, TIMEOUT, User, mounts_below

STRANGER = User(NOBODY - 1)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")


@pytest.fixture
def upper(scratch, user):
    (scratch / "upper").mkdir()
    (scratch / "upper" / "private").write_text("private")
    (scratch / "upper" / "private").chmod(0o600)
    (scratch / "upper" / "shared").write_text("shared")
    for path in (scratch / "upper", *(scratch / "upper").iterdir()):
        os.chown(path, user.uid or 0, user.uid or 0)
    return f"dir:{scratch}/upper"


def refused(who, *command):
    ended = who.run(list(map(str, command)), check=False)
    assert ended.returncode != 0, ended.stdout
    return ended.stderr


@pytest.mark.parametrize("driver", ["devfuse", "fusepy"])
@pytest.mark.parametrize("user", ["ordinary"], indirect=True)  # root's is everybody's, as any mount of root's
def test_a_mount_is_its_users_alone_unless_it_is_shared(user, driver, scratch, upper):
    mnt = scratch / "mnt"
    mnt.mkdir()
    os.chown(mnt, user.uid or 0, user.uid or 0)
    assert user.joinfs("mount", "--driver", driver, upper, mnt).returncode == 0
    try:
        assert user.run(["cat", mnt / "shared"]).stdout == "shared"
        assert "Permission denied" in refused(STRANGER, "ls", mnt)
        assert "Permission denied" in refused(STRANGER, "cat", mnt / "shared")
        # Root is not to be led on by an ordinary user's server.
        assert "Permission denied" in refused(User(), "cat", mnt / "shared")
        assert STRANGER.joinfs("umount", mnt).returncode != 0
        assert str(mnt) in mounts_below(scratch)
    finally:
        assert user.joinfs("umount", mnt).returncode == 0


def test_in_a_shared_mount_permissions_hold(mount, user, scratch, upper):
    with mount(upper, options=["-o", "allow_other"]) as mnt:
        assert STRANGER.run(["cat", mnt / "shared"]).stdout == "shared"
        assert "Permission denied" in refused(STRANGER, "cat", mnt / "private")
        for change in (["touch", mnt / "new"], ["rm", "-f", mnt / "shared"], ["mv", mnt / "shared", mnt / "mine"], ["chmod", "777", mnt / "private"]):
            assert refused(STRANGER, *change)
        assert sorted(os.listdir(mnt)) == ["private", "shared"]
        if user.uid is not None:
            options = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {mnt} " in line).split()[3].split(",")
            assert {"nosuid", "nodev"} <= set(options)


def test_nobody_else_reads_what_is_being_written(mount, user, scratch):
    staging = scratch / "staging"
    staging.mkdir(mode=0o755)
    os.chown(staging, user.uid or 0, user.uid or 0)
    with mount(f"sqlite:{scratch}/upper.db", options=["-o", f"staging={staging}"]) as mnt:
        program = "import os,sys,time; f = open(sys.argv[1], 'w'); f.write('secret'); f.flush(); os.fsync(f.fileno()); f.write(' more'); f.flush(); input()"
        command = ["python3", "-c", program, str(mnt / "f")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, **user.options()) as writer:
            try:
                found = STRANGER.run(["find", staging, "-type", "f", "-readable"], check=False)
                assert found.stdout == ""
                readable = STRANGER.run(["cat", scratch / "upper.db"], check=False)
                assert readable.returncode != 0 or "secret" not in readable.stdout
            finally:
                writer.communicate(b"\n", timeout=TIMEOUT)
