"""The judges that Debian has, for a short time each: stress-ng's file-system classes, and fio, which verifies what it wrote.

SEMANTICS.md, Tools.
"""

import shutil

import pytest

from tests.conftest import lacking

pytestmark = pytest.mark.parametrize(
    ("user", "driver", "upper"),
    [
        ("root", "devfuse", "directory"),
        ("root", "fusepy", "sqlite"),
        ("ordinary", "devfuse", "sqlite"),
        ("ordinary", "fusepy", "directory"),
    ],
    indirect=True,
)
# What of stress-ng's class "filesystem" is about nothing in the directory that it is given.
ELSEWHERE = "bind-mount,binderfs,eventfd,fanotify,handle,ioprio,procfs"
PATIENCE = 300


@pytest.fixture(autouse=True)
def judges():
    for judge in ("stress-ng", "fio"):
        if shutil.which(judge) is None:
            lacking(f"{judge} (apt-get install {judge})")


@pytest.fixture
def lower(scratch):
    (scratch / "lower").mkdir()
    (scratch / "lower" / "d").mkdir(mode=0o777)
    return scratch / "lower"


def test_stress_ng_finds_nothing_wrong(mount, user, upper, lower):
    with mount(upper, lower) as mnt:
        place = mnt / "stress"
        user.run(["mkdir", place])
        command = ["stress-ng", "--class", "filesystem", "--exclude", ELSEWHERE, "--seq", "1", "--timeout", "1", "--verify", "--oomable"]
        ended = user.run([*command, "--temp-path", str(place)], check=False, timeout=PATIENCE, cwd=place)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert list(place.iterdir()) == []


JOBS = """
[global]
size=24m
verify=crc32c
verify_fatal=1
verify_state_save=0
randseed=7
[cached]
rw=randrw
bs=4k
[mapped]
rw=randwrite
ioengine=mmap
bsrange=1k-64k
[direct]
rw=write
ioengine=libaio
iodepth=8
direct=1
bs=128k
[synced]
rw=randwrite
bs=16k
size=2m
fdatasync=16
"""


def test_what_fio_wrote_is_there_before_and_after_an_unmount(mount, user, upper, lower, scratch):
    (scratch / "jobs").write_text(JOBS)
    command = ["fio", str(scratch / "jobs"), "--output-format=terse"]
    with mount(upper, lower) as mnt:
        user.run(["mkdir", mnt / "fio"])
        written = user.run([*command, f"--directory={mnt}/fio"], check=False, timeout=PATIENCE, cwd=mnt)
        assert written.returncode == 0, written.stdout + written.stderr
    with mount(upper, lower) as mnt:
        read = user.run([*command, f"--directory={mnt}/fio", "--verify_only=1"], check=False, timeout=PATIENCE, cwd=mnt)
        assert read.returncode == 0, read.stdout + read.stderr
