"""Where the kernel's overlayfs documents an exception to POSIX, beside what joinfs does there. SEMANTICS.md, Beside POSIX and overlayfs."""

import errno
import mmap
import os
import shutil
import subprocess
import time

import pytest

from joinfs.joined.steps import LARGE
from tests.mounted.conftest import TIMEOUT

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount overlayfs"),
    pytest.mark.parametrize("user", ["root"], indirect=True),
    pytest.mark.parametrize("driver", ["devfuse"], indirect=True),
]
LARGE_DATA = b"x" * 16 * LARGE


@pytest.fixture
def layers(scratch):
    """A lower and an upper layer on file systems of their own, which can be layers of overlayfs."""
    for name in ("low", "up"):
        (scratch / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "joinfs-test", scratch / name], check=True)
    for name in ("up/upper", "up/joined", "up/work", "low/d/s"):
        (scratch / name).mkdir(parents=True)
    for name in ("f", "d/g", "d/s/h"):
        (scratch / "low" / name).write_bytes(b"lower " + name[-1:].encode())
    os.link(scratch / "low" / "f", scratch / "low" / "linked")
    (scratch / "low" / "large").write_bytes(LARGE_DATA)
    yield scratch
    for name in ("low", "up"):
        subprocess.run(["umount", "-l", scratch / name], check=False)


@pytest.fixture
def overlay(layers):
    at = layers / "overlay"
    at.mkdir()
    options = f"lowerdir={layers}/low,upperdir={layers}/up/upper,workdir={layers}/up/work,redirect_dir=off,index=off,metacopy=off,xino=off"
    done = subprocess.run(["mount", "-t", "overlay", "joinfs-test", "-o", options, at], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"overlayfs cannot be mounted here: {done.stderr}")
    yield at
    subprocess.run(["umount", "-l", at], check=False)


@pytest.fixture
def joined(mount, layers):
    with mount(layers / "up" / "joined", layers / "low", options=["-o", "metacopy"]) as mnt:
        yield mnt


def held(directory):
    """How many bytes of files a layer holds."""
    return sum(os.stat(os.path.join(above, name)).st_blocks * 512 for above, _, names in os.walk(directory) for name in names)


def test_a_merged_directory_is_renamed(overlay, joined, layers):
    with pytest.raises(OSError) as error:
        (overlay / "d").rename(overlay / "e")
    assert error.value.errno == errno.EXDEV
    (joined / "d").rename(joined / "e")
    assert (joined / "e" / "s" / "h").read_bytes() == b"lower h"
    assert held(layers / "up" / "joined") == 0, "nothing was copied"


def test_hard_links_stay_one_file(overlay, joined):
    seen = []
    for mnt in (overlay, joined):
        with (mnt / "linked").open("ab") as file:
            file.write(b" and more")
        seen.append((mnt / "f").read_bytes())
    assert seen == [b"lower f", b"lower f and more"]


def test_who_has_a_file_open_sees_what_is_written(overlay, joined):
    seen = []
    for mnt in (overlay, joined):
        with (mnt / "d" / "g").open("rb") as reader, mmap.mmap(reader.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == b"lower g"
            with (mnt / "d" / "g").open("rb+") as writer:
                writer.write(b"LOWER")
            seen.append((os.pread(reader.fileno(), 100, 0), mapped[:]))
    assert seen[0][1] == b"lower g", "what is mapped of a lower file stays what it was"
    assert seen[1] == (b"LOWER g", b"LOWER g")


def test_that_holds_for_large_files_too_if_the_kernel_does_not_read_past_joinfs(mount, layers):
    with mount(layers / "up" / "joined", layers / "low", options=["-o", "nopassthrough"]) as mnt, (mnt / "large").open("rb", buffering=0) as reader:
        assert reader.read(1) == b"x"
        with (mnt / "large").open("rb+") as writer:
            writer.write(b"new")
        assert os.pread(reader.fileno(), 4, 0) == b"newx"


def test_a_program_that_runs_is_not_written_to(joined, layers):
    """Overlayfs documents that it is, which holds no more for recent kernels."""
    shutil.copy("/bin/sleep", layers / "low" / "program")
    with subprocess.Popen([joined / "program", "60"]) as program:
        try:
            while os.readlink(f"/proc/{program.pid}/exe") != str(joined / "program"):
                time.sleep(0.001)
            with pytest.raises(OSError) as error:
                os.open(joined / "program", os.O_WRONLY)
            assert error.value.errno == errno.ETXTBSY
        finally:
            program.kill()


@pytest.mark.parametrize("name", ["f", "large"])
def test_reading_a_lower_file_is_seen_in_its_atime(overlay, joined, layers, name):
    long_ago = 1_000_000_000
    seen = []
    for mnt in (overlay, joined):
        os.utime(layers / "low" / name, (long_ago, long_ago))
        wait_for(lambda mnt=mnt: (mnt / name).stat().st_atime == long_ago)
        with (mnt / name).open("rb") as file:
            file.read()
            while_open = os.fstat(file.fileno()).st_atime
        seen.append((while_open > long_ago, (mnt / name).stat().st_atime > long_ago))
    assert seen == [(False, False), (True, True)]


def wait_for(holds):
    end = time.monotonic() + TIMEOUT
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_all_files_are_of_one_device(overlay, joined):
    for mnt, is_one in ((overlay, False), (joined, True)):
        (mnt / "new").write_bytes(b"")
        devices = {(mnt / name).stat().st_dev for name in ("f", "d", "new")} | {mnt.stat().st_dev}
        assert (len(devices) == 1) is is_one


def test_attributes_of_a_large_file_change_without_a_copy(overlay, joined, layers):
    for mnt, upper, copies in ((overlay, "upper", True), (joined, "joined", False)):
        (mnt / "large").chmod(0o600)
        assert (held(layers / "up" / upper) >= len(LARGE_DATA)) is copies
        assert (mnt / "large").read_bytes() == LARGE_DATA


def test_what_others_change_below_is_seen(joined, layers):
    """Of overlayfs it is documented as undefined."""
    assert not (joined / "late").exists()
    assert (joined / "d" / "g").read_bytes() == b"lower g"
    (layers / "low" / "late").write_bytes(b"late")
    (layers / "low" / "d" / "g").write_bytes(b"changed")
    end = time.monotonic() + TIMEOUT
    while not ((joined / "late").exists() and (joined / "d" / "g").read_bytes() == b"changed"):
        assert time.monotonic() < end
        time.sleep(0.01)
