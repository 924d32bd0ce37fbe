"""What only the driver that speaks the kernel's protocol itself can do, by real system calls on real mounts.

SEMANTICS.md, Holes and ranges; Open files; Unlinked open files; Listing; Renaming; Inode numbers; A read-only first store; Drivers; Past us; Reading ahead.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import joinfs
from joinfs import mounting
from joinfs.filesystem.operations import Operations

pytestmark = pytest.mark.parametrize("driver", ["devfuse"], indirect=True)

MIB = 1 << 20
PATIENCE = 30
NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
LARGE = random.Random(1).randbytes(2 * MIB)
libc = ctypes.CDLL(None, use_errno=True)
# Who mounts and what keeps the data, where all of these make no difference of their own: passthrough, and staged with a write cache.
either = pytest.mark.parametrize(("user", "upper"), [("root", "directory"), ("ordinary", "sqlite")], indirect=True)


def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def renameat2(old, new, flags):
    checked(libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags))


def fallocate(descriptor, mode, offset, length):
    checked(libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def refused(number, call, *arguments):
    with pytest.raises(OSError) as told:
        call(*arguments)
    assert told.value.errno == number, os.strerror(told.value.errno)


def until(holds):
    """Wait for what is told by no event."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def server_of(mnt):
    """The process that serves a mount."""
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"joinfs" in words and os.fsencode(mnt) in words:
            return int(place.parent.name)
    raise AssertionError(f"nobody serves {mnt}")


def in_another_process(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def lower(scratch):
    place = scratch / "lower"
    (place / "d").mkdir(parents=True)
    (place / "f").write_bytes(b"lower f")
    (place / "g").write_bytes(b"lower g")
    (place / "d" / "x").write_bytes(b"lower x")
    (place / "large").write_bytes(LARGE)
    for path in [place, *place.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    yield place
    assert [(place / name).read_bytes() for name in ("f", "g", "d/x", "large")] == [b"lower f", b"lower g", b"lower x", LARGE]


@pytest.fixture
def mnt(mount, upper, lower):
    with mount(upper, lower) as mountpoint:
        yield mountpoint


@pytest.fixture
def mnt_of_directories(mount, lower, scratch, user):
    """For what has nothing to do with how the first store keeps data."""
    (scratch / "upper").mkdir()
    if user.uid is not None:
        os.chown(scratch / "upper", user.uid, user.uid)
    with mount(scratch / "upper", lower) as mountpoint:
        yield mountpoint


@pytest.fixture
def as_root(user):
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root")


# -------------------------------------------------------------------- names


@either
def test_renames_that_replace_nothing_or_swap(mnt):
    refused(errno.EEXIST, renameat2, mnt / "f", mnt / "g", NOREPLACE)
    assert (mnt / "f").read_bytes() == b"lower f"
    renameat2(mnt / "f", mnt / "new", NOREPLACE)
    assert sorted(os.listdir(mnt)) == ["d", "g", "large", "new"]
    before = [(mnt / name).stat().st_ino for name in ("d", "g")]
    renameat2(mnt / "g", mnt / "d", EXCHANGE)
    assert [(mnt / name).stat().st_ino for name in ("g", "d")] == before
    assert (mnt / "d").read_bytes() == b"lower g"
    assert (mnt / "g" / "x").read_bytes() == b"lower x"
    refused(errno.ENOENT, renameat2, mnt / "d", mnt / "none", EXCHANGE)
    refused(errno.EINVAL, renameat2, mnt / "d", mnt / "new", NOREPLACE | EXCHANGE)


@either
def test_a_file_without_a_name_can_be_given_one(mnt):
    descriptor = os.open(mnt / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        assert os.write(descriptor, b"unnamed") == 7
        assert os.fstat(descriptor).st_nlink == 0
        assert os.listdir(mnt / "d") == ["x"]
        checked(libc.linkat(-100, f"/proc/self/fd/{descriptor}".encode(), -100, os.fsencode(mnt / "d" / "named"), 0x400))
        assert sorted(os.listdir(mnt / "d")) == ["named", "x"]
        native = os.fstat(descriptor)
        assert (native.st_nlink, native.st_size, stat.S_IMODE(native.st_mode)) == (1, 7, 0o640 & ~umask())
        assert (mnt / "d" / "named").stat().st_ino == native.st_ino
        os.write(descriptor, b" before")
        assert (mnt / "d" / "named").stat().st_size == 14
    finally:
        os.close(descriptor)
    assert (mnt / "d" / "named").read_bytes() == b"unnamed before"


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@either
def test_hard_links_are_one_file(mnt):
    (mnt / "one").write_bytes(b"one")
    os.link(mnt / "one", mnt / "d" / "two")
    first, second = (mnt / "one").stat(), (mnt / "d" / "two").stat()
    assert (first.st_ino, first.st_nlink, second.st_nlink) == (second.st_ino, 2, 2)
    with (mnt / "d" / "two").open("ab") as file:
        file.write(b" and more")
    assert (mnt / "one").stat().st_size == 12
    assert (mnt / "one").read_bytes() == b"one and more"
    os.truncate(mnt / "one", 2)
    assert (mnt / "d" / "two").read_bytes() == b"on"
    (mnt / "one").unlink()
    assert (mnt / "d" / "two").stat().st_nlink == 1
    assert (mnt / "d" / "two").read_bytes() == b"on"


@either
def test_a_lower_file_can_be_linked(mnt):
    os.link(mnt / "f", mnt / "d" / "link")
    assert (mnt / "f").stat().st_ino == (mnt / "d" / "link").stat().st_ino
    (mnt / "f").write_bytes(b"changed")
    assert (mnt / "d" / "link").read_bytes() == b"changed"
    assert [(mnt / name).stat().st_nlink for name in ("f", "d/link")] == [2, 2]


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_names_that_are_too_long(mnt_of_directories):
    for length, call in ((256, os.stat), (256, os.mkdir), (300, os.stat), (256, lambda path: os.open(path, os.O_CREAT | os.O_WRONLY))):
        refused(errno.ENAMETOOLONG, call, mnt_of_directories / ("x" * length))
    refused(errno.ENAMETOOLONG, os.link, mnt_of_directories / "f", mnt_of_directories / ("x" * 256))
    refused(errno.ENAMETOOLONG, os.symlink, "f", mnt_of_directories / ("x" * 256))
    os.mkdir(mnt_of_directories / ("x" * 255))
    assert "x" * 255 in os.listdir(mnt_of_directories)


@either
def test_an_unlinked_file_has_no_links(mnt):
    with (mnt / "new").open("w+b", buffering=0) as file:
        file.write(b"data")
        (mnt / "new").unlink()
        native = os.fstat(file.fileno())
        assert (native.st_nlink, native.st_size) == (0, 4)
        (mnt / "new").write_bytes(b"another")
        os.pwrite(file.fileno(), b"DATA", 0)
        assert os.pread(file.fileno(), 100, 0) == b"DATA"
        assert (mnt / "new").read_bytes() == b"another"


def test_devices_pipes_and_sockets(mnt, as_root):
    os.mknod(mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mnt / "block", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    assert [(mnt / name).stat().st_rdev for name in ("null", "block")] == [os.makedev(1, 3), os.makedev(259, 70_000)]
    assert stat.S_ISCHR((mnt / "null").stat().st_mode)
    assert stat.S_ISBLK((mnt / "block").stat().st_mode)
    refused(errno.EACCES, os.open, mnt / "null", os.O_RDONLY)  # the mount is nodev
    os.mkfifo(mnt / "pipe")
    pipe = os.open(mnt / "pipe", os.O_RDWR)
    try:
        os.write(pipe, b"through")
        assert os.read(pipe, 100) == b"through"
    finally:
        os.close(pipe)
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as calling:
        listening.bind(str(mnt / "socket"))
        listening.listen()
        calling.connect(str(mnt / "socket"))
        assert stat.S_ISSOCK((mnt / "socket").stat().st_mode)
    kinds = {entry.name: stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) for entry in os.scandir(mnt)}
    assert [kinds[name] for name in ("null", "block", "pipe", "socket")] == [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]


@pytest.mark.parametrize("upper", ["directory", "sqlite"], indirect=True)
def test_the_first_file_that_is_made_may_be_in_a_directory_of_a_lower_store_alone(mnt):
    (mnt / "d" / "new").write_bytes(b"new")
    assert (mnt / "d" / "new").read_bytes() == b"new"


# -------------------------------------------------------------------- data


@pytest.mark.parametrize(("user", "upper"), [("root", "directory"), ("root", "sqlite")], indirect=True)  # elsewhere the kernel sees none
def test_holes_are_found(mnt):
    with (mnt / "holes").open("w+b", buffering=0) as file:
        os.ftruncate(file.fileno(), 4 * MIB)
        os.pwrite(file.fileno(), b"x" * 65_536, MIB)
        os.fsync(file.fileno())
        data = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        assert 0 < data <= MIB
        hole = os.lseek(file.fileno(), data, os.SEEK_HOLE)
        assert MIB + 65_536 <= hole < 4 * MIB
        refused(errno.ENXIO, os.lseek, file.fileno(), hole, os.SEEK_DATA)
        refused(errno.ENXIO, os.lseek, file.fileno(), 4 * MIB, os.SEEK_DATA)
    with (mnt / "f").open("rb", buffering=0) as file:
        assert os.lseek(file.fileno(), 3, os.SEEK_DATA) == 3
        assert os.lseek(file.fileno(), 3, os.SEEK_HOLE) == 7


@pytest.mark.parametrize(
    ("user", "upper", "options"),
    [
        ("root", "directory", ()),
        ("root", "directory", ("-o", "nopassthrough")),
        ("ordinary", "sqlite", ()),
    ],
    indirect=["user", "upper"],
)
def test_what_was_just_written_is_no_hole(mount, upper, lower, options):
    """Also when it is in the kernel's write cache alone: cp would leave it out."""
    with mount(upper, lower, options=options) as mnt, (mnt / "new").open("w+b", buffering=0) as file:
        os.write(file.fileno(), b"x" * 10_000)
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 10_000
        subprocess.run(["cp", mnt / "new", mnt / "copy"], check=True, timeout=PATIENCE)
        assert (mnt / "copy").read_bytes() == b"x" * 10_000


@either
def test_space_is_allocated_and_given_back(mnt):
    with (mnt / "f").open("r+b", buffering=0) as file:
        fallocate(file.fileno(), KEEP_SIZE, 0, MIB)
        assert os.fstat(file.fileno()).st_size == 7
        fallocate(file.fileno(), 0, 0, 20_000)
        assert os.fstat(file.fileno()).st_size == 20_000
        assert os.pread(file.fileno(), 10, 0) == b"lower f\0\0\0"
        os.pwrite(file.fileno(), b"x" * 20_000, 0)
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 4096, 8192)
        assert os.pread(file.fileno(), 30_000, 0) == b"x" * 4096 + bytes(8192) + b"x" * (20_000 - 12_288)
        refused(errno.EINVAL, fallocate, file.fileno(), 0, 0, 0)
    assert (mnt / "f").read_bytes() == b"x" * 4096 + bytes(8192) + b"x" * (20_000 - 12_288)


@either
def test_ranges_are_copied_within_the_mount(mnt):
    with (mnt / "large").open("rb") as source, (mnt / "copy").open("w+b") as target:
        copied = 0
        while copied < MIB:
            step = os.copy_file_range(source.fileno(), target.fileno(), MIB - copied, 1000 + copied, copied)
            assert step > 0
            copied += step
        assert os.fstat(target.fileno()).st_size == MIB
        assert os.copy_file_range(source.fileno(), target.fileno(), 10, len(LARGE), 0) == 0
        assert os.copy_file_range(target.fileno(), target.fileno(), 10, 0, MIB) == 10
    assert (mnt / "copy").read_bytes() == LARGE[1000 : 1000 + MIB] + LARGE[1000:1010]


@either
def test_syncing_everything_puts_it_where_it_belongs(mnt, scratch):
    with (mnt / "new").open("wb", buffering=0) as file:
        file.write(b"x" * 100_000)
        checked(libc.syncfs(file.fileno()))
        if (scratch / "upper").exists():
            assert (scratch / "upper" / "new").read_bytes() == b"x" * 100_000


@either
def test_the_time_of_birth_can_be_asked_for(mnt):
    (mnt / "new").write_bytes(b"")
    for name in ("f", "new", "d", "."):
        buffer = ctypes.create_string_buffer(256)
        checked(libc.statx(-100, os.fsencode(mnt / name), 0x2000, 0xFFF, buffer))  # AT_STATX_FORCE_SYNC; all that is basic, and birth
        mask = int.from_bytes(buffer[:4], sys.byteorder)
        assert mask & 0x7FF == 0x7FF
        born = int.from_bytes(buffer[80:88], sys.byteorder)
        assert not mask & 0x800 or born > 1_000_000_000
        done = subprocess.run(["stat", "-c", "%W %s", mnt / name], capture_output=True, text=True, check=True, timeout=PATIENCE)
        assert int(done.stdout.split()[1]) == (mnt / name).stat().st_size


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_locks_keep_other_processes_out(mnt_of_directories):
    program = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'r+b')\n"
        "try:\n"
        "    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "    print('had it')\n"
        "except BlockingIOError:\n"
        "    print('waits')\n"
    )
    path = mnt_of_directories / "f"
    for kind in ("flock", "lockf"):
        lock = getattr(fcntl, kind)
        with path.open("r+b") as file:
            lock(file, fcntl.LOCK_EX)
            assert in_another_process(program, path, kind) == "waits"
            lock(file, fcntl.LOCK_UN)
            assert in_another_process(program, path, kind) == "had it"
            lock(file, fcntl.LOCK_EX)
        assert in_another_process(program, path, kind) == "had it"


@pytest.mark.parametrize(
    ("user", "upper", "options"),
    [
        ("root", "directory", ()),
        ("root", "sqlite", ()),
        ("root", "directory", ("-o", "nopassthrough")),
        ("root", "sqlite", ("-o", "nopassthrough")),
        ("ordinary", "directory", ()),
        ("ordinary", "sqlite", ()),
    ],
    indirect=["user", "upper"],
)
def test_data_is_what_was_written_in_whatever_way(mount, upper, lower, options):
    with mount(upper, lower, options=options) as mnt:
        (mnt / "new").write_bytes(b"0123456789" * 1000)
        with (mnt / "new").open("ab", buffering=0) as file:
            file.write(b"appended")
        with (mnt / "new").open("r+b", buffering=0) as file:
            assert os.pread(file.fileno(), 100, 9_995) == b"56789appended"
            os.ftruncate(file.fileno(), 5_000)
            os.pwrite(file.fileno(), b"end", 6_000)
            assert os.fstat(file.fileno()).st_size == 6_003
        whole = b"0123456789" * 500 + bytes(1000) + b"end"
        assert (mnt / "new").read_bytes() == whole
        with (mnt / "new").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            assert mapped[:] == whole
            mapped[4_096:4_101] = b"HELLO"
            mapped.flush()
            assert os.pread(file.fileno(), 5, 4_096) == b"HELLO"
            with (mnt / "new").open("rb") as other:
                assert other.read() == whole[:4_096] + b"HELLO" + whole[4_101:]
        assert in_another_process("import sys; print(open(sys.argv[1], 'rb').read()[4096:4101])", mnt / "new") == "b'HELLO'"
        with (mnt / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:5] = b"UPPER"
        assert (mnt / "f").read_bytes() == b"UPPER f"
        with (mnt / "g").open("wb") as file:
            assert os.fstat(file.fileno()).st_size == 0
        assert (mnt / "g").stat().st_size == 0


@either
def test_two_processes_that_map_a_file_share_it(mnt):
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:\n"
        "    seen = bytes(mapped[:5])\n"
        "    mapped[10:15] = b'other'\n"
        "print(seen.decode())\n"
    )
    (mnt / "map").write_bytes(b"." * 20_000)
    with (mnt / "map").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:5] = b"first"
        assert in_another_process(program, mnt / "map") == "first"
        assert mapped[10:15] == b"other"
    assert (mnt / "map").read_bytes()[:20] == b"first.....other....."


def test_who_opened_a_small_lower_file_sees_what_is_written_after(mnt):
    with (mnt / "f").open("rb", buffering=0) as reader, (mnt / "f").open("rb", buffering=0) as untouched:
        assert reader.read() == b"lower f"
        with (mnt / "f").open("r+b", buffering=0) as writer:
            writer.write(b"UPPER and more")
            for file in (reader, untouched):
                assert os.pread(file.fileno(), 100, 0) == b"UPPER and more"
                assert os.fstat(file.fileno()).st_size == 14
            os.ftruncate(writer.fileno(), 3)
            assert os.pread(reader.fileno(), 100, 0) == b"UPP"
        assert os.pread(untouched.fileno(), 100, 0) == b"UPP"
        (mnt / "f").write_bytes(b"whole")
        assert os.pread(reader.fileno(), 100, 0) == b"whole"


@either
def test_a_large_lower_file_is_read_by_many_at_once_and_again_when_it_was_written(mnt):
    def read(seed, wrong):
        places = random.Random(seed)
        with (mnt / "large").open("rb", buffering=0) as file:
            for _ in range(50):
                at, size = places.randrange(len(LARGE)), places.randrange(1, 200_000)
                if os.pread(file.fileno(), size, at) != LARGE[at : at + size]:
                    wrong.append((at, size))

    wrong = []
    threads = [threading.Thread(target=read, args=(seed, wrong)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (mnt / "large").read_bytes() == LARGE
    with (mnt / "large").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"OVER", MIB)
        assert os.pread(file.fileno(), 6, MIB - 1) == LARGE[MIB - 1 : MIB] + b"OVER" + LARGE[MIB + 4 : MIB + 5]
    changed = LARGE[:MIB] + b"OVER" + LARGE[MIB + 4 :]
    assert (mnt / "large").read_bytes() == changed
    (mnt / "large").write_bytes(b"small by now")
    assert (mnt / "large").read_bytes() == b"small by now"
    assert (mnt / "large").stat().st_size == 12


@either
def test_a_large_lower_file_that_is_open_can_be_written_by_another(mnt):
    with (mnt / "large").open("rb", buffering=0) as reader:
        assert os.pread(reader.fileno(), 10, 0) == LARGE[:10]
        with (mnt / "large").open("r+b", buffering=0) as writer:
            os.pwrite(writer.fileno(), b"OVER", 0)
            assert os.pread(writer.fileno(), 10, 0) == b"OVER" + LARGE[4:10]
            with (mnt / "large").open("rb", buffering=0) as later:
                assert os.pread(later.fileno(), 10, 0) == b"OVER" + LARGE[4:10]
        assert os.pread(reader.fileno(), 10, 4) == LARGE[4:14]
    assert (mnt / "large").read_bytes() == b"OVER" + LARGE[4:]


@either
def test_a_large_lower_file_that_is_open_can_be_mapped_by_who_writes_it(mnt):
    with (mnt / "large").open("rb", buffering=0) as reader:
        assert os.pread(reader.fileno(), 10, 0) == LARGE[:10]
        with (mnt / "large").open("r+b") as writer, mmap.mmap(writer.fileno(), 0) as mapped:
            mapped[:4] = b"OVER"
    assert (mnt / "large").read_bytes() == b"OVER" + LARGE[4:]


@pytest.mark.parametrize(
    ("user", "upper", "size"),
    [("root", "directory", 10), ("root", "directory", 2 * MIB), ("root", "sqlite", 10), ("ordinary", "directory", 2 * MIB)],
    indirect=["user", "upper"],
)
def test_a_file_that_is_open_can_be_written_by_another(mount, upper, lower, size):
    """A file of the first store: not the one that was just made, but one that is there when it is mounted."""
    with mount(upper, lower) as mnt:
        (mnt / "there").write_bytes(b"." * size)
    with mount(upper, lower) as mnt, (mnt / "there").open("rb", buffering=0) as reader:
        assert reader.read(10) == b"." * 10
        with (mnt / "there").open("r+b", buffering=0) as writer:
            writer.write(b"OVER")
            os.pwrite(writer.fileno(), b"end", size)
            assert os.pread(reader.fileno(), 10, 0) == b"OVER......"
        assert os.pread(reader.fileno(), 10, size - 2) == b"..end"
        assert (mnt / "there").read_bytes() == b"OVER" + b"." * (size - 4) + b"end"


def test_what_holes_take_is_told_by_size(mount, upper, lower):
    with mount(upper, lower, options=("-o", "nopassthrough")) as mnt, (mnt / "holes").open("wb") as file:
        file.truncate(4 * MIB)
        native = os.fstat(file.fileno())
        assert (native.st_size, native.st_blocks) == (4 * MIB, 4 * MIB // 512)
        assert os.lseek(file.fileno(), MIB, os.SEEK_DATA) == MIB
        assert os.lseek(file.fileno(), MIB, os.SEEK_HOLE) == 4 * MIB


@pytest.mark.parametrize("linked", ["below", "in the mount"])
@pytest.mark.parametrize("options", [(), ("-o", "nopassthrough")], ids=["", "nopassthrough"])
def test_a_large_lower_file_with_two_names_can_be_written_while_somebody_reads_it(mount, upper, lower, linked, options):
    if linked == "below":
        os.link(lower / "large", lower / "other")
    with mount(upper, lower, options=options) as mnt:
        with (mnt / "large").open("rb", buffering=0) as reader:
            if linked == "in the mount":
                os.link(mnt / "large", mnt / "other")
            assert reader.read(5) == LARGE[:5]
            for name, more in (("large", b"one"), ("other", b"two"), ("large", b"three")):
                with (mnt / name).open("ab") as file:
                    file.write(more)
            for name in ("large", "other"):
                assert (mnt / name).read_bytes() == LARGE + b"onetwothree"
            (mnt / "large").write_bytes(b"new")
            assert (mnt / "other").read_bytes() == b"new"
        assert (mnt / "large").stat().st_ino == (mnt / "other").stat().st_ino


def test_a_set_user_id_file_that_root_has_open_can_be_written_by_others(mount, lower, scratch, as_root):
    (scratch / "upper").mkdir()
    with mount(scratch / "upper", lower) as mnt, (mnt / "f").open("r+b", buffering=0) as file:
        (mnt / "f").chmod(0o4777)
        file.write(b"UPPER")
        append = "import os, sys; file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND); os.write(file, b'x')"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", append, mnt / "f"], user=65534, group=65534, extra_groups=[], check=False, timeout=PATIENCE,
            env={}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert os.pread(file.fileno(), 100, 0) == b"UPPER fx"
        assert stat.S_IMODE((mnt / "f").stat().st_mode) == 0o777


@pytest.mark.parametrize("options", [(), ("-o", "nopassthrough")], ids=["", "nopassthrough"])
def test_a_write_by_an_ordinary_user_clears_the_set_user_id_bit(mount, upper, lower, as_root, options):
    append = "import os, sys; file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND); os.write(file, b'x'); os.close(file)"
    truncate = "import os, sys; os.truncate(sys.argv[1], 3)"
    emptied = "import sys; open(sys.argv[1], 'wb').close()"
    with mount(upper, lower, options=options) as mnt:
        for name, program in (("a", append), ("t", truncate), ("e", emptied), ("f", append), ("g", truncate)):
            if name not in {"f", "g"}:
                (mnt / name).write_bytes(b"contents")
            (mnt / name).chmod(0o6777)
            command = ["/usr/bin/python3", "-c", program, mnt / name]
            subprocess.run(command, user=65534, group=65534, extra_groups=[], check=True, timeout=PATIENCE, env={})
            assert stat.S_IMODE((mnt / name).stat().st_mode) == 0o777, name
        (mnt / "root").write_bytes(b"contents")
        (mnt / "root").chmod(0o6777)
        with (mnt / "root").open("ab") as file:
            file.write(b"x")
        assert stat.S_IMODE((mnt / "root").stat().st_mode) == 0o6777


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_a_read_only_mount_refuses(mount, lower):
    with mount("memory:", lower, options=("-o", "ro")) as mnt:
        (mount_root, f) = mnt, mnt / "f"
        for call, arguments in (
            (os.open, (f, os.O_WRONLY)), (os.open, (f, os.O_RDONLY | os.O_TRUNC)), (os.open, (mnt / "new", os.O_CREAT | os.O_WRONLY)),
            (os.open, (mount_root, os.O_TMPFILE | os.O_RDWR)), (os.mkdir, (mnt / "new",)), (os.rmdir, (mnt / "d",)), (os.unlink, (f,)),
            (os.rename, (f, mnt / "new")), (os.link, (f, mnt / "new")), (os.symlink, ("f", mnt / "new")), (os.mkfifo, (mnt / "new",)),
            (os.chmod, (f, 0o600)), (os.chown, (f, 1, 1)), (os.utime, (f,)), (os.truncate, (f, 0)), (os.setxattr, (f, "user.a", b"")),
        ):  # fmt: skip
            refused(errno.EROFS, call, *arguments)
        assert f.read_bytes() == b"lower f"
        with (mnt / "large").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == LARGE


# -------------------------------------------------------------------- directories


COUNT = 3000


@pytest.fixture
def many(lower):
    (lower / "many" / "below").mkdir(parents=True)
    for number in range(COUNT - 1):
        os.close(os.open(lower / "many" / f"{number:05} {'x' * (number % 40)}", os.O_CREAT | os.O_WRONLY, 0o644))
    yield lower / "many"
    assert len(os.listdir(lower / "many")) == COUNT


@either
def test_a_large_directory_is_listed_whole_while_it_is_emptied(many, mount, upper, lower):
    expected = sorted(os.listdir(many))
    with mount(upper, lower) as mnt:
        with os.scandir(mnt / "many") as entries:
            seen = []
            for number, entry in enumerate(entries):
                seen.append(entry.name)
                if number % 2 and entry.name != "below":
                    os.unlink(entry.path)
        assert sorted(seen) == expected
        assert sorted(os.listdir(mnt / "many")) == sorted({*seen[::2], "below"})
        subprocess.run(["rm", "-rf", mnt / "many"], check=True, timeout=PATIENCE)
        assert sorted(os.listdir(mnt)) == ["d", "f", "g", "large"]


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_places_in_a_listing_hold(many, mnt_of_directories):
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    place = mnt_of_directories / "many"
    directory = ctypes.c_void_p(libc.opendir(os.fsencode(place)))
    assert directory

    def following():
        entry = libc.readdir(directory)
        return None if entry is None else ctypes.string_at(entry + 19).decode()

    try:
        places, names = [libc.telldir(directory)], []
        while (name := following()) is not None:
            names.append(name)
            places.append(libc.telldir(directory))
        assert names[:2] == [".", ".."]
        assert len(names) == len(set(names)) == len(set(places)) - 1 == COUNT + 2
        for number in (0, 1, 2, 3, 17, 1000, COUNT, COUNT + 1):
            libc.seekdir(directory, ctypes.c_long(places[number]))
            assert following() == names[number]
        libc.seekdir(directory, ctypes.c_long(places[1000]))
        (place / names[1000]).unlink()
        (place / "new").write_bytes(b"")
        libc.seekdir(directory, ctypes.c_long(places[999]))
        rest = []
        while (name := following()) is not None:
            rest.append(name)
        assert [name for name in rest if name not in {"new", names[1000]}] == names[999:1000] + names[1001:]
    finally:
        libc.closedir(directory)


@either
def test_a_directory_that_is_removed_while_it_is_read(mnt):
    descriptor = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (mnt / "d" / "x").unlink()
        (mnt / "d").rmdir()
        assert os.listdir(descriptor) == []
        assert not (mnt / "d").exists()
        refused(errno.ENOENT, lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------- the server


@pytest.mark.parametrize("user", ["ordinary"], indirect=True)
def test_the_requests_are_counted_if_wanted(mount, lower, scratch):
    with mount("memory:", lower, options=["--stats", "-o", "nopassthrough"]) as mnt:
        assert (mnt / "f").read_bytes() == b"lower f"
        (mnt / "new").write_bytes(b"x" * 10_000)
        os.listdir(mnt)
    rows = {words[0]: words[1:] for line in (scratch / "mnt.log").read_text().splitlines() if (words := line.split())}
    assert rows["request"] == ["count", "seconds", "us", "each", "MB", "in", "MB", "out"]
    counts = {verb: int(row[0]) for verb, row in rows.items() if verb != "request"}
    assert counts["create"] == 1
    assert counts["lookup"] >= 2
    assert counts["readdirplus"] >= 1
    assert counts["write"] >= 1
    assert counts["all"] == sum(counts.values()) - counts["all"]


@pytest.mark.parametrize("user", ["root", "ordinary"], indirect=True)
def test_requests_can_be_recorded(mount, lower, scratch):
    """SEMANTICS.md, In the system."""
    trace = scratch / "trace"
    with mount("memory:", lower, options=["--trace", str(trace)]) as mnt:
        assert not (mnt / "not there").exists()
        (mnt / "new").write_bytes(b"secret" * 10_000)
        os.setxattr(mnt / "new", "user.a", b"secret")
        (mnt / "new").unlink()
    assert trace.stat().st_mode & 0o777 == 0o600
    begin, *lines = trace.read_text().splitlines()
    assert re.search(rf"joinfs [0-9.]+, devfuse, Linux {re.escape(os.uname().release)}, Python ", begin)
    assert any(re.fullmatch(r"[0-9:.]+ [0-9]+ lookup / 'not there' = (ENOENT|ok, [0-9]+ bytes) \([0-9]+ us\)", line) for line in lines)
    assert any(re.search(r" create / [0-9 ]+ new = ok, [0-9]+ bytes ", line) for line in lines)
    assert any(re.search(r" setxattr /new user.a <6 bytes> .*= ok ", line) for line in lines)
    assert any(" unlink / new = ok" in line for line in lines)
    assert "secret" not in trace.read_text()


@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_where_they_cannot_be_recorded_they_are_answered(mount, user, lower, scratch):
    (scratch / "small").mkdir()
    user.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", scratch / "small"])
    with mount("memory:", lower, options=["--trace", str(scratch / "small/trace")]) as mnt:
        for number in range(50):
            (mnt / f"new{number}").mkdir()
        assert len(os.listdir(mnt)) > 50
    assert (scratch / "mnt.log").read_text().count("the trace has gaps: No space left on device") == 1
    for place, why in (("/dev/full", "No space left on device"), (f"{scratch}/none/trace", "No such file or directory")):
        refused = user.joinfs("mount", "--trace", place, "memory:", lower, scratch / "mnt")
        assert (refused.returncode, refused.stderr) == (1, f"joinfs: the trace {place} cannot be written: {why}\n")


@pytest.mark.parametrize("user", ["root", "ordinary"], indirect=True)
def test_small_lower_files_are_not_asked_for(mount, upper, lower, scratch):
    with mount(upper, lower, options=["--stats"]) as mnt:
        for _ in range(3):
            assert (mnt / "f").read_bytes() == b"lower f"
    verbs = [words[0] for line in (scratch / "mnt.log").read_text().splitlines() if (words := line.split())]
    assert "open" in verbs
    assert "read" not in verbs
    with mount(upper, lower) as mnt:
        assert (mnt / "f").read_bytes() == b"lower f"
        with (mnt / "f").open("rb") as before, (mnt / "f").open("r+b") as file:
            file.write(b"UPPER")
            file.flush()
            assert before.read() == b"UPPER f"
        assert (mnt / "f").read_bytes() == b"UPPER f"


@either
def test_files_that_were_closed_leave_no_descriptors(mnt):
    where = Path(f"/proc/{server_of(mnt)}/fd")

    def use(times):
        for number in range(times):
            name, flags = [("f", os.O_RDONLY), ("large", os.O_RDONLY), ("g", os.O_RDWR), ("new", os.O_CREAT | os.O_RDWR)][number % 4]
            os.close(os.open(mnt / name, flags))
        os.listdir(mnt / "d")

    use(8)
    checked(libc.sync() or 0)
    held = len(os.listdir(where))
    use(2000)
    until(lambda: len(os.listdir(where)) <= held)
    with (mnt / "f").open("rb"), (mnt / "large").open("rb") as file:
        assert file.read(10) == LARGE[:10]
    until(lambda: len(os.listdir(where)) <= held)


def test_nodes_that_the_kernel_has_forgotten_are_let_go_of(driver, scratch, user, as_root, monkeypatch):
    operations = []

    class Recorded(Operations):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            operations.append(self)

    monkeypatch.setattr(mounting, "Operations", Recorded)
    for directory in range(50):
        (scratch / "store" / f"d{directory}").mkdir(parents=True)
        for number in range(100):
            os.close(os.open(scratch / "store" / f"d{directory}" / f"f{number}", os.O_CREAT | os.O_WRONLY))
    (scratch / "mnt").mkdir()
    with joinfs.mount(joinfs.DirectoryStore(scratch / "store"), scratch / "mnt", driver="devfuse") as mnt:
        nodes = operations[0]._nodes

        def used():
            return sorted(node.path() for node in nodes.all() if node.lookups or node.content is not None)

        with open(f"{mnt}/d7/f3", "rb"), open(f"{mnt}/d9/f0", "wb"):
            done = subprocess.run(["find", mnt, "-type", "f", "-size", "+1k"], capture_output=True, text=True, check=True, timeout=PATIENCE)
            assert done.stdout == ""
            assert len(nodes) > 5050

            def is_forgotten():
                subprocess.run(["sh", "-c", "echo 2 > /proc/sys/vm/drop_caches"], check=True, timeout=PATIENCE)
                return used() == ["", "d7", "d7/f3", "d9", "d9/f0"]

            until(is_forgotten)
            assert all(node.lookups >= 0 for node in nodes.all())
        until(lambda: nodes.opened() == [])
        shutil.rmtree(f"{mnt}/d1")

        def is_forgotten():
            subprocess.run(["sh", "-c", "echo 2 > /proc/sys/vm/drop_caches"], check=True, timeout=PATIENCE)
            return used() == [""]

        until(is_forgotten)
