"""Names, attributes and listings through the kernel.

SEMANTICS.md, Keys and paths; Owners and modes; Times; Inode numbers; Listing; Renaming; Space.
"""

import ctypes
import errno
import os
import random
import stat
import subprocess
from pathlib import Path

import pytest

LOWER_TIME = 1_500_000_000_123_456_789


@pytest.fixture
def lower(scratch, user):
    place = scratch / "lower"
    (place / "d" / "s").mkdir(parents=True)
    (place / "d" / "f").write_bytes(b"lower f")
    (place / "d" / "s" / "deep").write_bytes(b"deep")
    (place / "link").symlink_to("d/f")
    for path in [place, *place.rglob("*")]:
        if user.uid is not None:
            os.chown(path, user.uid, user.uid, follow_symlinks=False)
        os.utime(path, ns=(LOWER_TIME, LOWER_TIME), follow_symlinks=False)
    return place


@pytest.fixture
def mnt(mount, upper, lower):
    with mount(upper, lower) as mountpoint:
        yield mountpoint


def test_names_of_any_bytes(mnt):
    raw = os.fsencode(mnt)
    names = [b"\xff\xfe", "é☃".encode(), b"a\nb", b"\\x", b"*", b"x" * 255, b"\x01", b" "]
    for name in names:
        with open(raw + b"/d/" + name, "wb") as file:
            file.write(name)
    assert sorted(os.listdir(raw + b"/d")) == sorted([*names, b"f", b"s"])
    for name in names:
        with open(raw + b"/d/" + name, "rb") as file:
            assert file.read() == name


def test_a_name_that_is_too_long_is_told_as_such(mnt):
    for call in (os.stat, os.mkdir, os.unlink, os.listdir, lambda path: os.rename(mnt / "link", path)):
        with pytest.raises(OSError) as told:
            call(mnt / ("x" * 256))
        assert told.value.errno == errno.ENAMETOOLONG


def test_names_for_whiteouts_are_refused(mnt):
    with pytest.raises(OSError) as told:
        (mnt / ".wh.x").write_bytes(b"")
    assert told.value.errno == errno.EINVAL
    assert not (mnt / ".wh.f").exists()


def test_a_whiteout_of_overlayfs_is_not_made(mnt, user):
    """SEMANTICS.md, Marks of other systems."""
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root: makes devices")
    with pytest.raises(PermissionError) as told:
        os.mknod(mnt / "x", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    assert told.value.errno == errno.EPERM
    os.mknod(mnt / "x", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert (mnt / "x").is_char_device()


def test_what_is_made_belongs_to_its_maker_less_the_umask(mnt, user):
    user.run(["sh", "-c", f"umask 027; echo > {mnt}/file; mkdir {mnt}/dir; mkfifo {mnt}/pipe"])
    me = os.geteuid() if user.uid is None else user.uid
    for name, mode in (("file", 0o640), ("dir", 0o750), ("pipe", 0o640)):
        native = (mnt / name).stat()
        assert (native.st_uid, stat.S_IMODE(native.st_mode)) == (me, mode)


def test_a_set_group_id_directory_gives_its_group(mnt, user):
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root: gives a directory another group")
    (mnt / "shared").mkdir()
    os.chown(mnt / "shared", -1, 1234)
    (mnt / "shared").chmod(0o2777)
    subprocess.run(["sh", "-c", f"echo > {mnt}/shared/f; mkdir {mnt}/shared/d"], user=65534, group=65534, check=True, timeout=20)
    assert (mnt / "shared" / "f").stat().st_gid == 1234
    assert (mnt / "shared" / "f").stat().st_uid == 65534
    assert (mnt / "shared" / "d").stat().st_gid == 1234
    assert (mnt / "shared" / "d").stat().st_mode & stat.S_ISGID


def test_the_kernel_checks_permissions(mnt, user):
    if user.uid is not None or os.geteuid() != 0:
        pytest.skip("needs root: asks as another user")
    (mnt / "secret").write_text("secret")
    (mnt / "secret").chmod(0o600)
    asked = subprocess.run(["cat", mnt / "secret"], user=65534, group=65534, capture_output=True, check=False, timeout=20)
    assert b"Permission denied" in asked.stderr


def test_times_are_exact_and_can_be_left_or_now(mnt):
    path = mnt / "d" / "f"
    assert path.stat().st_mtime_ns == LOWER_TIME
    os.utime(path, ns=(1_600_000_000_000_000_001, 1_400_000_000_999_999_999))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_600_000_000_000_000_001, 1_400_000_000_999_999_999)
    set_times(path, OMIT, 1_300_000_000_000_000_007)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_600_000_000_000_000_001, 1_300_000_000_000_000_007)
    set_times(path, NOW, OMIT)
    assert path.stat().st_atime_ns > 1_700_000_000_000_000_000
    assert path.stat().st_mtime_ns == 1_300_000_000_000_000_007


NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2


def set_times(path, *times):
    def timespec(value):
        return (0, value) if value in {NOW, OMIT} else divmod(value, 10**9)

    values = (ctypes.c_long * 4)(*timespec(times[0]), *timespec(times[1]))
    assert ctypes.CDLL(None).utimensat(-100, os.fsencode(path), values, 0) == 0


def test_copying_up_changes_no_time_that_is_seen(mnt):
    with (mnt / "d" / "s" / "deep").open("r+b"):
        pass
    os.setxattr(mnt / "d" / "f", "user.k", b"v")
    for name in ("d", "d/s", "d/f", "d/s/deep"):
        assert (mnt / name).stat().st_mtime_ns == LOWER_TIME, name


def test_modes_owners_and_sizes_change(mnt, user):
    path = mnt / "d" / "f"
    path.chmod(0o4755)
    assert stat.S_IMODE(path.stat().st_mode) == 0o4755
    os.truncate(path, 3)
    assert path.read_bytes() == b"low"
    assert path.stat().st_blocks == 1
    if user.uid is None and os.geteuid() == 0:
        os.chown(path, 12, 34)
        os.lchown(mnt / "link", 56, 78)
        assert (path.stat().st_uid, path.stat().st_gid) == (12, 34)
        assert ((mnt / "link").lstat().st_uid, (mnt / "link").lstat().st_gid) == (56, 78)


def test_an_inode_number_stays_while_a_file_is_copied_up_renamed_and_written(mnt):
    before = (mnt / "d" / "f").stat().st_ino
    assert {entry.name: entry.inode() for entry in os.scandir(mnt / "d")}["f"] == before
    os.setxattr(mnt / "d" / "f", "user.k", b"v")
    (mnt / "d" / "f").write_bytes(b"new")
    assert (mnt / "d" / "f").stat().st_ino == before
    (mnt / "d" / "f").rename(mnt / "g")
    assert (mnt / "g").stat().st_ino == before
    assert (mnt / "g").stat().st_dev == mnt.stat().st_dev


def test_an_inode_number_stays_over_a_remount(mount, upper, lower):
    numbers = []
    for _ in range(2):
        with mount(upper, lower) as mnt:
            numbers.append([(mnt / name).lstat().st_ino for name in ("d", "d/f", "d/s/deep", "link")])
    assert numbers[0] == numbers[1]


class Numbered:
    """A tree that is changed at random, and what inode number each thing in it had first."""

    def __init__(self, mnt, seed):
        self.mnt, self.chance = mnt, random.Random(seed)
        self.numbers = self.seen()

    def seen(self):
        found = {}
        for above, directories, files in os.walk(self.mnt):
            listed = {entry.name: entry.inode() for entry in os.scandir(above)}
            for name in [*directories, *files]:
                path = os.path.join(above, name)
                found[os.path.relpath(path, self.mnt)] = os.lstat(path).st_ino
                assert listed[name] == os.lstat(path).st_ino, path
        return found

    def change(self):
        paths = sorted(path for path in self.numbers if not (self.mnt / path).is_symlink())
        path = self.chance.choice(paths)
        file = self.mnt / path
        what = self.chance.choice(["chmod", "xattr", "write", "rename", "rename", "rename", "create", "delete", "replace"])
        if what == "chmod":
            file.chmod(0o755)
        elif what == "xattr":
            os.setxattr(file, "user.k", b"v")
        elif what == "rename":
            directories = ["", *(p for p in paths if (self.mnt / p).is_dir() and not f"{p}/".startswith(f"{path}/"))]
            self.rename(path, os.path.join(self.chance.choice(directories), f"r{self.chance.randrange(10**6)}"))
        elif file.is_dir():
            self.create(os.path.join(path, f"c{self.chance.randrange(10**6)}"))
        elif what == "write":
            with file.open("ab") as opened:
                opened.write(b"more")
        elif what == "delete":
            file.unlink()
            del self.numbers[path]
        elif what == "replace":  # as an editor does
            self.create(path + ".new")
            self.rename(path + ".new", path)

    def create(self, path):
        (self.mnt / path).write_bytes(b"new")
        self.numbers[path] = (self.mnt / path).stat().st_ino

    def rename(self, path, new):
        (self.mnt / path).rename(self.mnt / new)
        below = f"{path}/"
        moved = {p: number for p, number in self.numbers.items() if p == path or p.startswith(below)}
        for p in moved:
            del self.numbers[p]
        self.numbers.update((new + p[len(path) :], number) for p, number in moved.items())

    def check(self):
        assert self.seen() == self.numbers
        assert len(set(self.numbers.values())) == len(self.numbers)


@pytest.mark.parametrize("seed", range(3))
def test_inode_numbers_stay_whatever_is_done_and_over_remounts(mount, upper, lower, user, seed):
    for number in range(12):
        path = lower / f"t{number % 3}" / f"u{number % 2}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"lower")
    if user.uid is not None:
        for path in lower.rglob("*"):
            os.chown(path, user.uid, user.uid, follow_symlinks=False)
    tree = None
    for _ in range(3):
        with mount(upper, lower) as mnt:
            tree = tree or Numbered(mnt, seed)
            tree.check()
            for _ in range(25):
                tree.change()
            tree.check()
            if os.geteuid() == 0:
                Path("/proc/sys/vm/drop_caches").write_text("2")
            tree.check()


def test_hard_links_are_one_file(mnt):
    os.link(mnt / "d" / "f", mnt / "second")
    os.link(mnt / "second", mnt / "third")
    assert (mnt / "third").stat().st_nlink == 3
    assert (mnt / "third").stat().st_ino == (mnt / "second").stat().st_ino
    (mnt / "third").write_bytes(b"shared")
    assert (mnt / "second").read_bytes() == (mnt / "d" / "f").read_bytes() == b"shared"
    (mnt / "second").unlink()
    assert (mnt / "third").read_bytes() == b"shared"
    with pytest.raises(FileExistsError):
        os.link(mnt / "third", mnt / "link")


def test_hard_links_of_a_lower_store_stay_one_file(mount, upper, lower, driver):
    names = ["d/f", "second", "third"]
    for name in names[1:]:
        os.link(lower / "d" / "f", lower / name)

    def seen(mnt):
        return {(mnt / name).read_bytes() for name in names}, {((mnt / name).stat().st_ino, (mnt / name).stat().st_nlink) for name in names}

    with mount(upper, lower) as mnt:
        data, numbers = seen(mnt)
        assert (data, [links for _, links in numbers]) == ({b"lower f"}, [3])
        with (mnt / "third").open("rb") as reader:
            with (mnt / "second").open("ab") as file:
                file.write(b" and more")
                file.flush()
                os.fchmod(file.fileno(), 0o640)
                about = os.fstat(file.fileno())
                assert {(about.st_ino, about.st_nlink)} == numbers
            if driver == "devfuse":  # with libfuse each name has attributes of its own, for a second
                assert reader.read() == b"lower f and more"
        (mnt / "d" / "f").chmod(0o600)
    with mount(upper, lower) as mnt:
        assert seen(mnt) == ({b"lower f and more"}, numbers)
        assert {(mnt / name).stat().st_mode & 0o777 for name in names} == {0o600}
        (mnt / "second").unlink()
        os.link(mnt / "third", mnt / "d" / "fourth")
        (mnt / "d" / "f").rename(mnt / "fifth")
        names = ["third", "fifth", "d/fourth"]
        with (mnt / "fifth").open("ab") as file:
            file.write(b" again")
    with mount(upper, lower) as mnt:
        assert seen(mnt) == ({b"lower f and more again"}, numbers)
        for name in names:
            (mnt / name).unlink()
    assert {(lower / name).read_bytes() for name in ("d/f", "second", "third")} == {b"lower f"}


def test_removing_one_of_several_names_copies_nothing(mount, upper, lower, scratch):
    os.link(lower / "d" / "f", lower / "second")
    os.link(lower / "d" / "f", lower / "third")
    (lower / "d" / "f").chmod(0o444)
    with mount(upper, lower) as mnt:
        assert (mnt / "second").read_bytes() == b"lower f"
        (mnt / "d" / "f").unlink()
        os.sync()  # a kernel that caches writes hands on the time of change of what is left
        assert os.getxattr(mnt / "second", "user.joinfs.store").decode().endswith("lower")
        (mnt / "third").chmod(0o600)
        assert ((mnt / "second").stat().st_nlink, (mnt / "second").stat().st_mode & 0o777) == (2, 0o600)


@pytest.mark.parametrize("upper", ["directory"], indirect=True)
def test_a_file_that_its_owner_may_not_read_is_what_it_was(mount, upper, lower, user, scratch):
    """The marks of joinfs on it are read nevertheless, whoever mounts."""
    (lower / "large").write_bytes(b"x" * 200_000)
    (lower / "one").write_bytes(b"lower")
    (lower / "other").hardlink_to(lower / "one")
    if user.uid is not None:
        for name in ("large", "one"):
            os.chown(lower / name, user.uid, user.uid)
    with mount(upper, lower, options=["-o", "metacopy"]) as mnt:
        user.run(["chmod", "000", mnt / "large"])
        user.run(["sh", "-c", f"echo -n changed >{mnt}/one && chmod 000 {mnt}/one && chmod 200 {mnt}/other"])
        assert (mnt / "large").stat().st_size == 200_000
        user.run(["mv", mnt / "large", mnt / "moved"])
        user.run(["chmod", "600", mnt / "moved", mnt / "other"])
        assert (mnt / "moved").read_bytes() == b"x" * 200_000
        assert [(mnt / name).read_bytes() for name in ("one", "other")] == [b"changed"] * 2
        user.run(["rm", mnt / "one"])
        assert (mnt / "other").stat().st_nlink == 1


@pytest.mark.parametrize("mode", [0o700, 0o600, 0o300, 0o200, 0o000])
def test_an_empty_directory_that_its_owner_may_not_look_into_is_removed_and_moved(mnt, user, mode):
    user.run(["sh", "-c", f"cd {mnt} && mkdir -m {mode:o} d/gone d/moved d/kept && rmdir d/gone && mv d/moved d/renamed"])
    if mode & 0o200:  # else its own .. cannot be changed, as anywhere
        user.run(["mv", mnt / "d" / "kept", mnt / "kept"])
    there = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*(mnt / "d").iterdir(), *mnt.iterdir()]}
    assert "gone" not in there
    assert (there["renamed"], there["kept"]) == (mode, mode)


def test_symlinks_and_special_files(mnt, user):
    assert os.readlink(mnt / "link") == "d/f"
    assert (mnt / "link").read_bytes() == b"lower f"
    os.symlink("x" * 1000, mnt / "long")
    assert os.readlink(mnt / "long") == "x" * 1000
    user.run(["mkfifo", str(mnt / "pipe")])
    assert stat.S_ISFIFO((mnt / "pipe").stat().st_mode)
    if user.uid is None and os.geteuid() == 0:
        os.mknod(mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert (mnt / "null").stat().st_rdev == os.makedev(1, 3)


def test_a_merged_directory_is_renamed_without_a_copy(mnt, scratch, lower):
    (mnt / "d" / "own").write_bytes(b"own")
    (mnt / "d").rename(mnt / "moved")
    assert sorted(os.listdir(mnt / "moved")) == ["f", "own", "s"]
    assert (mnt / "moved" / "s" / "deep").read_bytes() == b"deep"
    assert not (mnt / "d").exists()
    if (scratch / "upper").is_dir():
        assert not (scratch / "upper" / "moved" / "f").exists()
    (mnt / "d").mkdir()
    assert os.listdir(mnt / "d") == []


def test_renames_that_rename_2_refuses(mnt):
    (mnt / "e").mkdir()
    (mnt / "e" / "x").write_bytes(b"")
    for old, new, number in (
        ("d", "e", errno.ENOTEMPTY), ("d", "link", errno.ENOTDIR), ("link", "e", errno.EISDIR), ("d", "d/s/x", errno.EINVAL),
    ):  # fmt: skip
        with pytest.raises(OSError) as told:
            os.rename(mnt / old, mnt / new)
        assert told.value.errno == number, (old, new)


def test_removing_checks_kinds(mnt):
    for call, name, number in (
        (os.rmdir, "d", errno.ENOTEMPTY), (os.rmdir, "link", errno.ENOTDIR), (os.unlink, "d", errno.EISDIR),
        (os.mkdir, "d", errno.EEXIST), (os.unlink, "none", errno.ENOENT), (os.mkdir, "none/x", errno.ENOENT),
    ):  # fmt: skip
        with pytest.raises(OSError) as told:
            call(mnt / name)
        assert told.value.errno == number, name


def test_a_large_directory_lists_while_entries_come_and_go(mnt):
    (mnt / "many").mkdir()
    for number in range(1000):
        (mnt / "many" / f"stays{number}").touch()
    seen = []
    for turn, entry in enumerate(os.scandir(mnt / "many")):
        seen.append(entry.name)
        if turn % 10 == 0:
            (mnt / "many" / f"comes{turn}").touch()
    assert sorted(n for n in seen if n.startswith("stays")) == sorted(f"stays{n}" for n in range(1000))
    user_run = subprocess.run(["rm", "-rf", str(mnt / "many")], check=True, timeout=60)
    assert user_run.returncode == 0


def test_df_tells_the_room_of_the_first_store(mnt, scratch):
    ours, below = os.statvfs(mnt), os.statvfs(scratch)
    assert ours.f_blocks * ours.f_frsize == below.f_blocks * below.f_frsize
    assert ours.f_namemax == 255


def test_what_has_no_bounds_has_room(mount, lower):
    with mount("memory:", lower) as mnt:
        room = os.statvfs(mnt)
        assert room.f_bavail * room.f_frsize == 1 << 50
        assert room.f_favail > 1 << 30
    with mount("memory:", lower, options=["-o", "ro"]) as mnt:
        assert os.statvfs(mnt).f_bavail == 0
